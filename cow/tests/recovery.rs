//! Recovery's finer points, each a story that chance alone would seldom tell.

use std::sync::Arc;

use cairn_cow::sim::{Rng, Sim, SimDisk, for_each_seed};
use cairn_cow::{BLOCK_SIZE, CreateOptions, VersionId};

use cairn_sim::engine::{self, Pool, options};

struct Up {
    sim: Sim,
    pool: Arc<Pool>,
    volume: VersionId,
}

/// Brings the pool up, without background duties: nothing happens but what the story says.
fn open(disk: &SimDisk) -> Up {
    let sim = engine::world(0, disk);
    let pool = sim.run(Pool::open(disk.clone(), options())).unwrap_or_else(|e| panic!("reopening: {e:?}"));
    let volume = pool.volume("v").expect("the volume").id;
    Up { sim, pool, volume }
}

impl Up {
    fn write(&self, block: u64, blocks: u64, id: u64) {
        let (pool, v) = (Arc::clone(&self.pool), self.volume);
        let written =
            self.sim.run(async move { engine::write(&pool, 0, v, block * 8, blocks * 8, id).await });
        written.expect("writing");
    }

    fn flush(&self) {
        let pool = Arc::clone(&self.pool);
        self.sim.run(async move { pool.flush().await }).expect("flush");
    }

    fn read(&self, block: u64) -> Option<u64> {
        let (pool, v) = (Arc::clone(&self.pool), self.volume);
        let ids = self.sim.run(async move { engine::read(&pool, v, block * 8, 8).await }).expect("reading");
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        ids[0]
    }
}

/// A pool with a volume `v` whose journal ends in a batch that was flushed, but that no later batch confirms, and
/// that both wrote a block and freed it again.
fn with_an_unconfirmed_batch() -> SimDisk {
    let disk = SimDisk::file(32 << 20);
    let sim = engine::world(0, &disk);
    // Large segments, so that all lanes fill the same few.
    let layout = CreateOptions { limit: 24 << 20, segment_blocks: Some(1024), journal_bytes: Some(1 << 20) };
    let created = sim.run(Pool::create(disk.clone(), *b"a pool in a test", layout, options()));
    let pool = created.expect("creating the pool");
    let theirs = Arc::clone(&pool);
    let volume = sim.run(async move { theirs.create_volume("v", 1 << 30, "").await }).expect("the volume").id;
    let up = Up { sim, pool, volume };
    up.write(0, 1, 1);
    up.write(0, 1, 2);
    up.flush();
    disk.crash(&mut Rng::new(1))
}

/// Replay verifies the data of batches that nobody confirmed. If what such a batch freed were reused before it is
/// confirmed, the next recovery would miss the data that the batch wrote there, and cut off what had been flushed.
#[test]
fn what_an_unconfirmed_batch_freed_is_not_reused_before_it_is_confirmed() {
    let disk = with_an_unconfirmed_batch();
    let up = open(&disk);
    assert_eq!(up.read(0), Some(2));
    // Nearly all free blocks, and no flush.
    let pieces = up.pool.status().free / BLOCK_SIZE / 256;
    for i in 1..=pieces {
        up.write(i * 256, 256, 10 + i);
    }
    drop(up);
    for seed in 0..20 {
        let up = open(&disk.crash(&mut Rng::new(seed)));
        assert_eq!(up.read(0), Some(2), "flushed before the first crash (seed {seed})");
    }
}

/// An earlier recovery found the log's end torn, cut it off, and died while it wrote the checkpoint that makes the
/// cut last. What it wrote by then must not make the cut records look confirmed.
#[test]
fn a_cut_stays_cut_when_recovery_is_cut_short() {
    let disk = with_an_unconfirmed_batch();
    let up = open(&disk);
    for i in 0..40 {
        up.write(100 + i, 1, 10 + i);
    }
    // The batch reaches the disk and the barrier does not end.
    let pool = Arc::clone(&up.pool);
    for events in 1..12 {
        if up
            .sim
            .run_for(events, {
                let pool = Arc::clone(&pool);
                async move { pool.flush().await }
            })
            .is_some()
        {
            break;
        }
        for seed in 0..60 {
            let mut rng = Rng::new(seed);
            let torn = disk.crash(&mut rng);
            let sim = engine::world(seed, &torn);
            let opened = sim.run_for(rng.below(400), Pool::open(torn.clone(), options()));
            drop((opened, sim));
            let up = open(&torn.crash(&mut rng));
            assert_eq!(up.read(0), Some(2), "flushed (seed {seed})");
            for i in 0..40 {
                let id = up.read(100 + i);
                assert!(id == Some(0) || id == Some(10 + i), "block {}: {id:?} (seed {seed})", 100 + i);
            }
        }
    }
}

/// A process that dies leaves its last changes in memory. Another one that cannot reach that memory goes on without them;
/// when the memory is there again for a third, nothing of it may come back over what the second one wrote.
#[test]
fn memory_that_somebody_went_on_without_is_not_believed() {
    for_each_seed(60, |seed| {
        let mut rng = Rng::new(seed);
        let first = SimDisk::file(64 << 20);
        let sim = engine::world(seed, &first);
        let made = first.clone();
        let flushes = rng.below(4);
        let (pool, v) = sim.run(async move {
            let pool = engine::create(made, 16 << 20).await.expect("a pool");
            let v = pool.create_volume("v", 1 << 20, "").await.expect("a volume").id;
            for i in 0..flushes {
                engine::write(&pool, 0, v, 8 * i, 8, 1).await.expect("written");
                pool.flush().await.expect("flushed");
            }
            // These are answered, and only in memory.
            engine::write(&pool, 0, v, 0, 64, 2).await.expect("written");
            engine::write(&pool, 0, v, 512, 64, 2).await.expect("written");
            (pool, v)
        });
        sim.stop();
        drop(pool);
        let second = first.kill(&mut rng);
        second.remember(&SimDisk::file(0));
        let sim = engine::world(seed, &second);
        let (writes, closes) = (rng.below(4), rng.chance(1, 2));
        let opened = second.clone();
        let (pool, seen) = sim.run(async move {
            let pool = Pool::open(opened, options()).await.expect("opens");
            for i in 0..writes {
                engine::write(&pool, 0, v, 0, 64 + 8 * i, 3).await.expect("written");
                pool.flush().await.expect("flushed");
            }
            if closes {
                pool.close().await.expect("closes");
            }
            let seen = engine::read(&pool, v, 0, 1024).await.expect("reads");
            (pool, seen)
        });
        sim.stop();
        drop(pool);
        let third = second.kill(&mut rng);
        third.remember(&first);
        let sim = engine::world(seed, &third);
        sim.run(async move {
            let pool = Pool::open(third, options()).await.expect("opens");
            let now = engine::read(&pool, v, 0, 1024).await.expect("reads");
            if writes > 0 || closes {
                assert_eq!(now, seen, "something came back");
                assert_eq!(pool.taken_over(), 0);
            } else {
                // Nobody changed anything, so they may come back, all of them.
                assert_eq!(now[512..576], [Some(2); 64]);
            }
            engine::assert_sound(&pool, "in the end").await;
        });
    });
}
