//! A write that is expected to be flushed alone is written together with its batch of the journal: what that saves, and
//! that nothing answered is lost by it, whichever of the two fails and whenever the process dies.

use std::sync::Arc;

use cairn_cow::sim::{Fault, Op, Rng, Sim, SimDisk, for_each_seed};
use cairn_cow::{BLOCK_SIZE, CreateOptions, ErrorKind, ExtentKind, Result, VersionId};

use cairn_sim::engine::{self, BLOCK_SECTORS, Pool, options};
use cairn_sim::pattern::ZERO;

const MIB: u64 = 1 << 20;
const BLOCKS: u64 = 1024;
/// The journal lies below, and so do blocks that are written once, at first.
const DATA: u64 = 4 * MIB;

struct Stage {
    sim: Sim,
    disk: SimDisk,
    pool: Arc<Pool>,
    volume: VersionId,
}

impl Stage {
    /// A pool whose volume holds write 1, and who writes to it flushes each write.
    fn new(seed: u64) -> Stage {
        let disk = SimDisk::file(64 * MIB);
        let sim = engine::world(seed, &disk);
        let made = disk.clone();
        let (pool, volume) = sim.run(async move {
            let layout = CreateOptions { limit: 32 * MIB, segment_blocks: None, journal_bytes: Some(MIB) };
            let pool = Pool::create(made, *b"a pool in a test", layout, options()).await.expect("a pool");
            let volume = pool.create_volume("v", BLOCKS * BLOCK_SIZE, "").await.expect("a volume").id;
            engine::write(&pool, 0, volume, 0, BLOCKS * BLOCK_SECTORS, 1).await.expect("written");
            pool.flush().await.expect("flushed");
            (pool, volume)
        });
        let stage = Stage { sim, disk, pool, volume };
        for block in 0..4 {
            stage.write(block, 2).expect("written");
            stage.flush();
        }
        stage
    }

    fn write(&self, block: u64, id: u64) -> Result<()> {
        let (pool, v) = (Arc::clone(&self.pool), self.volume);
        let write = async move { engine::write(&pool, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, id).await };
        self.sim.run(write).map(drop)
    }

    fn zero(&self, block: u64) {
        let (pool, v) = (Arc::clone(&self.pool), self.volume);
        let (sector, kind) = (block * BLOCK_SECTORS, ExtentKind::Zero);
        let zero = async move { engine::zero(&pool, 0, v, sector, BLOCK_SECTORS, kind).await };
        self.sim.run(zero).expect("zeroed");
    }

    fn flush(&self) {
        let pool = Arc::clone(&self.pool);
        self.sim.run(async move { pool.flush().await }).expect("flushed");
    }

    fn read(&self, block: u64) -> u64 {
        let (pool, v) = (Arc::clone(&self.pool), self.volume);
        let read = async move { engine::read(&pool, v, block * BLOCK_SECTORS, BLOCK_SECTORS).await };
        let found = self.sim.run(read).expect("read");
        assert!(found.iter().all(|id| *id == found[0]), "block {block} is a mixture: {found:?}");
        found[0].expect("somebody's write")
    }

    /// What the end of this process, by its death or the power's loss, leaves.
    fn end(self, left: impl FnOnce(&SimDisk) -> SimDisk) -> SimDisk {
        let Stage { sim, disk, pool, .. } = self;
        sim.stop();
        drop(pool);
        let disk = left(&disk);
        disk.clear_faults();
        disk
    }

    /// The next process, on what this one's death or the power's loss left.
    fn reopen(self, seed: u64, left: impl FnOnce(&SimDisk) -> SimDisk) -> Stage {
        Stage::open(seed, self.end(left))
    }

    fn open(seed: u64, disk: SimDisk) -> Stage {
        let sim = engine::world(seed, &disk);
        let pool =
            sim.run(Pool::open(disk.clone(), options())).unwrap_or_else(|e| panic!("reopening: {e:?}"));
        let volume = pool.volume("v").expect("the volume").id;
        Stage { sim, disk, pool, volume }
    }

    fn assert_sound(&self) {
        let pool = Arc::clone(&self.pool);
        self.sim.run(async move { engine::assert_sound(&pool, "in the end").await });
    }
}

#[test]
fn a_write_that_is_flushed_alone_needs_no_other_write_for_its_flush() {
    let stage = Stage::new(1);
    let before = stage.disk.counts();
    stage.write(10, 3).expect("written");
    let written = stage.disk.counts();
    assert_eq!((written.writes - before.writes, written.syncs - before.syncs), (2, 0), "data and batch");
    stage.flush();
    let flushed = stage.disk.counts();
    assert_eq!((flushed.writes - written.writes, flushed.syncs - written.syncs), (0, 1), "the barrier");
    assert_eq!(stage.read(10), 3);
    // Who does not flush is soon taken at his word.
    stage.write(11, 4).expect("written");
    stage.write(12, 5).expect("written");
    stage.flush();
    let before = stage.disk.counts();
    stage.write(13, 6).expect("written");
    assert_eq!(stage.disk.counts().writes - before.writes, 1, "data");
}

#[test]
fn what_was_answered_outlives_the_process_flushed_or_not() {
    for_each_seed(60, |seed| {
        let mut rng = Rng::new(seed ^ 0xa11);
        let stage = Stage::new(seed);
        let unflushed = rng.below(4);
        for block in 0..=unflushed {
            stage.write(100 + block, 10 + block).expect("written");
        }
        let stage = stage.reopen(seed, |disk| disk.kill(&mut rng));
        for block in 0..=unflushed {
            assert_eq!(stage.read(100 + block), 10 + block);
        }
        stage.assert_sound();
    });
}

/// Had the batch stayed, the next process would take it for the log's end, and not what was answered instead.
#[test]
fn a_write_that_fails_takes_its_batch_back() {
    for_each_seed(60, |seed| {
        let mut rng = Rng::new(seed ^ 0xfa11);
        let stage = Stage::new(seed);
        stage.disk.inject(Fault::on(Op::Write).within(DATA..u64::MAX).once());
        let failed = stage.write(10, 3).expect_err("it fails");
        assert_eq!(failed.kind(), ErrorKind::Io);
        let also_flushed = rng.chance(1, 2);
        // No data, so no batch comes with it that would take the other's place.
        stage.zero(20);
        if also_flushed {
            stage.flush();
        }
        stage.write(30, 5).expect("written");
        let power = also_flushed && rng.chance(1, 2);
        let stage = stage.reopen(seed, |disk| if power { disk.crash(&mut rng) } else { disk.kill(&mut rng) });
        assert!([2, 1, 3].contains(&stage.read(10)));
        assert_eq!(stage.read(20), ZERO);
        assert!(stage.read(30) == 5 || power && stage.read(30) == 1);
        stage.assert_sound();
    });
}

/// Was the batch there and its record in nobody's memory, the next process took it for durable and itself for whoever came
/// after a barrier that had failed: with the power went what it had relied upon, and what had been flushed there before.
#[test]
fn a_batch_that_nobody_published_does_not_outlive_a_failed_barrier() {
    let unpublished = std::cell::Cell::new(0);
    for_each_seed(300, |seed| {
        let mut rng = Rng::new(seed ^ 0xa1);
        let stage = Stage::new(seed);
        let (pool, v) = (Arc::clone(&stage.pool), stage.volume);
        let write = stage.sim.spawn(async move { engine::write(&pool, 0, v, 0, BLOCK_SECTORS, 3).await });
        let events = rng.below(8);
        stage.sim.run_events(events);
        unpublished.update(|many| many + u64::from(write.take().is_none()));
        let disk = stage.end(|disk| disk.kill(&mut rng));
        disk.inject(Fault::on(Op::Sync).once());
        let sim = engine::world(seed, &disk);
        let first = sim.run(Pool::open(disk.clone(), options()));
        sim.stop();
        drop(first);
        let disk = disk.kill(&mut rng);
        disk.clear_faults();
        let stage = Stage::open(seed, disk);
        let after_failure = stage.read(0);
        assert!([2, 3].contains(&after_failure));
        let stage = stage.reopen(seed, |disk| disk.crash(&mut rng));
        let found = stage.read(0);
        assert!([2, 3].contains(&found), "write {found}");
        stage.assert_sound();
    });
    assert!(unpublished.get() > 50, "most die before: {unpublished:?}");
}

/// The disk takes neither the data nor its batch's removal: the next process must not be kept from opening the pool by data
/// that cannot be read.
#[test]
fn a_batch_that_cannot_be_taken_back_does_not_count() {
    for_each_seed(60, |seed| {
        let mut rng = Rng::new(seed ^ 0xba7c);
        let stage = Stage::new(seed);
        stage.disk.inject(Fault::on(Op::Write).within(DATA..u64::MAX).once());
        // After the batch itself.
        stage.disk.inject(Fault::on(Op::Write).within(0..DATA).after(1).once());
        assert_eq!(stage.write(10, 3).expect_err("it fails").kind(), ErrorKind::Io);
        assert_eq!(stage.write(20, 4).expect_err("nothing is taken any more").kind(), ErrorKind::Fenced);
        assert_eq!(stage.read(10), 1);
        let disk = stage.end(|disk| disk.kill(&mut rng));
        let stage = Stage::open(seed, disk);
        assert_eq!(stage.read(10), 1);
        stage.write(20, 4).expect("written");
        stage.flush();
        let stage = stage.reopen(seed, |disk| disk.crash(&mut rng));
        assert_eq!((stage.read(10), stage.read(20)), (1, 4));
        stage.assert_sound();
    });
}

/// Whether the data or the batch did not get there is told by nobody but their checksums.
#[test]
fn a_power_loss_keeps_what_was_flushed_and_no_mixture() {
    for_each_seed(200, |seed| {
        let mut rng = Rng::new(seed ^ 0x90e);
        let stage = Stage::new(seed);
        stage.write(10, 3).expect("written");
        let flushed = rng.chance(1, 3);
        if flushed {
            stage.flush();
        }
        let stage = stage.reopen(seed, |disk| disk.crash(&mut rng));
        let found = stage.read(10);
        assert!(found == 3 || !flushed && found == 1, "write {found}");
        (0..4).for_each(|block| assert_eq!(stage.read(block), 2));
        stage.assert_sound();
    });
}
