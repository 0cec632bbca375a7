//! Deaths of the process alone, at the moments that chance seldom finds: nothing that was answered may be lost, flushed or
//! not, however often the next process dies while it takes over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cairn_cow::sim::{Rng, Sim, SimDisk, for_each_seed};
use cairn_cow::{BLOCK_SIZE, CreateOptions, ExtentKind, Options, VersionId};

use cairn_sim::engine::{self, BLOCK_SECTORS, Pool, options};

/// Blocks that are written, ...
const BLOCKS: u64 = 512;
/// ... and how far each is from the next: they lie in many leaves, so a checkpoint needs many blocks.
const STRIDE: u64 = 32;

fn sector_of(block: u64) -> u64 {
    block * STRIDE * BLOCK_SECTORS
}

/// The last write of each block that was answered.
type Answered = Rc<RefCell<Vec<u64>>>;

struct World {
    sim: Sim,
    disk: SimDisk,
    pool: Arc<Pool>,
    volume: VersionId,
    answered: Answered,
    /// The blocks that the writers of either lane wrote, in the order of their ids, which begin with 1.
    asked: Rc<RefCell<[Vec<u64>; 2]>>,
}

impl World {
    fn new(seed: u64) -> World {
        let disk = SimDisk::file(64 << 20);
        let sim = engine::world(seed, &disk);
        let made = disk.clone();
        let (pool, volume) = sim.run(async move {
            // Large segments, so that data and nodes go to the same few.
            let layout =
                CreateOptions { limit: 24 << 20, segment_blocks: Some(1024), journal_bytes: Some(1 << 20) };
            let pool = Pool::create(made, *b"a pool in a test", layout, options()).await.expect("a pool");
            let size = BLOCKS * STRIDE * BLOCK_SIZE;
            let volume = pool.create_volume("v", size, "").await.expect("a volume").id;
            (pool, volume)
        });
        let answered = Rc::new(RefCell::new(vec![0; BLOCKS as usize]));
        World { sim, disk, pool, volume, answered, asked: Rc::default() }
    }

    /// Writes the blocks from `first` on that every second writer has for its own, over and over.
    fn write_forever(&self, lane: u64, mut rng: Rng) {
        let (pool, v, answered) = (Arc::clone(&self.pool), self.volume, Rc::clone(&self.answered));
        let asked = Rc::clone(&self.asked);
        drop(self.sim.spawn(async move {
            for id in 1.. {
                let block = rng.below(BLOCKS / 2) * 2 + lane;
                asked.borrow_mut()[lane as usize].push(block);
                let written = engine::write(&pool, lane as usize, v, sector_of(block), BLOCK_SECTORS, id);
                written.await.expect("written");
                answered.borrow_mut()[block as usize] = id;
            }
        }));
    }

    /// The process dies, and so do some that come after it, while they open the pool. What comes up in the end has all.
    fn die_and_come_back(self, rng: &mut Rng) {
        let World { sim, disk, pool, volume, answered, .. } = self;
        sim.stop();
        drop((pool, sim));
        let mut disk = disk.kill(rng);
        for _ in 0..rng.below(4) {
            let sim = engine::world(rng.next_u64(), &disk);
            let opened = sim.run_for(rng.below(150), Pool::open(disk.clone(), options()));
            if let Some(Err(e)) = opened {
                panic!("reopening: {e:?}");
            }
            drop((opened, sim));
            disk = disk.kill(rng);
        }
        let sim = engine::world(rng.next_u64(), &disk);
        let pool =
            sim.run(Pool::open(disk.clone(), options())).unwrap_or_else(|e| panic!("reopening: {e:?}"));
        sim.run(async move {
            let there = contents(&pool, volume).await;
            for (block, (there, answered)) in there.into_iter().zip(answered.take()).enumerate() {
                assert!(there >= answered, "block {block}: write {answered} was answered, {there} is there");
            }
            engine::assert_sound(&pool, "in the end").await;
        });
    }
}

/// What every block that is written holds.
async fn contents(pool: &Pool, volume: VersionId) -> Vec<u64> {
    let mut all = Vec::new();
    for block in 0..BLOCKS {
        let found = engine::read(pool, volume, sector_of(block), BLOCK_SECTORS).await.expect("reads");
        let there = found[0].expect("somebody's write");
        assert!(found.iter().all(|id| *id == Some(there)), "block {block} is a mixture: {found:?}");
        all.push(there);
    }
    all
}

/// The process dies with one batch sealed by a checkpoint in the part of the ring that is kept for those, and with more
/// records behind it. Whoever takes over may not write a checkpoint between the two: it would be given the blocks that
/// the second one's data is in.
#[test]
fn a_ring_that_is_nearly_full_takes_what_was_answered() {
    for_each_seed(100, |seed| {
        let mut rng = Rng::new(seed ^ 0x0f11);
        let world = World::new(seed);
        world.write_forever(0, rng.fork());
        world.write_forever(1, rng.fork());
        let (pool, handle, mut pauses) = (Arc::clone(&world.pool), world.sim.handle(), rng.fork());
        drop(world.sim.spawn(async move {
            loop {
                pool.flush().await.expect("flushed");
                handle.sleep(1 + pauses.below(30)).await;
            }
        }));
        // Nobody sees to the background duties, so the ring fills until a checkpoint has to be written.
        let kept = world.pool.status().journal_size / 8 * 7;
        while world.pool.status().journal_used <= kept {
            assert!(world.sim.run_events(1));
        }
        world.sim.run_events(rng.below(20));
        world.die_and_come_back(&mut rng);
    });
}

/// A batch that only confirms the one before may be on its way when the process dies, with records behind it.
#[test]
fn records_behind_a_batch_without_any_are_taken() {
    for_each_seed(150, |seed| {
        let mut rng = Rng::new(seed ^ 0xc0f1);
        let world = World::new(seed);
        let (pool, v) = (Arc::clone(&world.pool), world.volume);
        world.sim.run(async move {
            engine::write(&pool, 0, v, 0, BLOCK_SECTORS, 1).await.expect("written");
            pool.flush().await.expect("flushed");
        });
        world.answered.borrow_mut()[0] = 1;
        let pool = Arc::clone(&world.pool);
        drop(world.sim.spawn(async move {
            pool.maintain(Duration::from_millis(900)).await.expect("background duties");
        }));
        world.sim.run_events(1 + rng.below(2));
        world.write_forever(1, rng.fork());
        while world.answered.borrow()[1..].iter().all(|id| *id == 0) {
            assert!(world.sim.run_events(1));
        }
        world.sim.run_events(rng.below(4));
        world.die_and_come_back(&mut rng);
    });
}

/// The process dies at any moment of a checkpoint, with records behind what that holds.
#[test]
fn records_beside_a_checkpoint_are_taken() {
    for_each_seed(150, |seed| {
        let mut rng = Rng::new(seed ^ 0xc4ec);
        let world = World::new(seed);
        let (pool, v) = (Arc::clone(&world.pool), world.volume);
        world.sim.run(async move {
            engine::write(&pool, 0, v, 0, BLOCK_SECTORS, 1).await.expect("written");
        });
        world.answered.borrow_mut()[0] = 1;
        let pool = Arc::clone(&world.pool);
        // It writes one in any case.
        drop(world.sim.spawn(async move { pool.set_limit(32 << 20).await.expect("a checkpoint") }));
        world.write_forever(1, rng.fork());
        let before = world.pool.status().checkpoints;
        let end = rng.below(120);
        let mut events = 0;
        while events < end && world.pool.status().checkpoints == before {
            assert!(world.sim.run_events(1));
            events += 1;
        }
        world.die_and_come_back(&mut rng);
    });
}

/// A batch may be longer than the memory that survives; then it is written before more is answered.
#[test]
fn more_than_the_memory_holds_is_not_answered() {
    const FILLS: u64 = 100_000;
    // Nothing else makes it write a batch: no checkpoint for want of memory for the map.
    let roomy = Options { map_cache_bytes: 64 << 20, ..options() };
    let disk = SimDisk::file(256 << 20);
    let sim = engine::world(0, &disk);
    let made = disk.clone();
    let pool = sim.run(async move {
        let layout = CreateOptions { limit: 192 << 20, segment_blocks: None, journal_bytes: Some(64 << 20) };
        let pool = Pool::create(made, *b"a pool in a test", layout, roomy).await.expect("a pool");
        let v = pool.create_volume("v", FILLS * BLOCK_SIZE, "").await.expect("a volume").id;
        for block in 0..FILLS {
            engine::zero(&pool, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, ExtentKind::Zero)
                .await
                .expect("zeroed");
        }
        pool
    });
    sim.stop();
    drop(pool);
    let disk = disk.kill(&mut Rng::new(0));
    let sim = engine::world(1, &disk);
    let pool = sim.run(Pool::open(disk.clone(), options())).expect("opens");
    sim.run(async move {
        let v = pool.volume("v").expect("the volume").id;
        let mut at = 0;
        while at < FILLS * BLOCK_SIZE {
            for extent in pool.extents(v, at, FILLS * BLOCK_SIZE - at, 64).await.expect("extents") {
                assert_eq!(extent.kind, ExtentKind::Zero, "lost from byte {} on", extent.offset);
                at = extent.offset + extent.len;
            }
        }
    });
}

/// The disk may lose its power alone: one that another machine serves, or a virtual machine's that goes back to an older state
/// of it. The memory then knows of records whose data is gone, and of others after them.
#[test]
fn records_whose_data_the_disk_has_lost_end_the_log() {
    let lost = Cell::new(0);
    for_each_seed(150, |seed| {
        let mut rng = Rng::new(seed ^ 0x1057);
        let world = World::new(seed);
        world.write_forever(0, rng.fork());
        world.write_forever(1, rng.fork());
        let (pool, handle, mut pauses) = (Arc::clone(&world.pool), world.sim.handle(), rng.fork());
        let (answered, flushed) =
            (Rc::clone(&world.answered), Rc::new(RefCell::new(vec![0; BLOCKS as usize])));
        let theirs = Rc::clone(&flushed);
        let (in_batch, flushing) = {
            let flag = Rc::new(Cell::new(false));
            (Rc::clone(&flag), flag)
        };
        drop(world.sim.spawn(async move {
            loop {
                let before = answered.borrow().clone();
                flushing.set(true);
                pool.flush().await.expect("flushed");
                flushing.set(false);
                theirs.replace(before);
                handle.sleep(1 + pauses.below(200)).await;
            }
        }));
        world.sim.run_events(200 + rng.below(2000));
        // With a batch on its way, and records behind it.
        while !in_batch.get() {
            assert!(world.sim.run_events(1));
        }
        let mut events = rng.below(150);
        while in_batch.get() && events > 0 {
            assert!(world.sim.run_events(1));
            events -= 1;
        }
        let World { sim, disk, pool, volume, answered, asked } = world;
        sim.stop();
        drop((pool, sim));
        let after = disk.crash(&mut rng);
        after.remember(&disk);
        let up = |seed, disk: &SimDisk| {
            let sim = engine::world(seed, disk);
            let pool =
                sim.run(Pool::open(disk.clone(), options())).unwrap_or_else(|e| panic!("reopening: {e:?}"));
            (sim, pool)
        };
        let (sim, pool) = up(seed, &after);
        let theirs = Arc::clone(&pool);
        let seen = sim.run(async move {
            let seen = contents(&theirs, volume).await;
            engine::assert_sound(&theirs, "without what the disk lost").await;
            theirs.flush().await.expect("flushed");
            seen
        });
        for (block, there) in seen.iter().enumerate() {
            assert!(*there >= flushed.borrow()[block], "block {block} was flushed, {there} is there");
        }
        for (lane, asked) in (0..).zip(&*asked.borrow()) {
            let of_lane =
                |contents: &[u64]| contents.iter().skip(lane).step_by(2).copied().collect::<Vec<u64>>();
            let last = of_lane(&seen).into_iter().max().unwrap_or(0);
            let mut expected = vec![0; BLOCKS as usize];
            for (id, block) in (1..=last).zip(asked) {
                expected[*block as usize] = id;
            }
            assert_eq!(
                of_lane(&seen),
                of_lane(&expected),
                "not what was there after write {last} of lane {lane}"
            );
        }
        lost.set(lost.get() + u64::from(seen.iter().zip(&*answered.borrow()).any(|(s, a)| s < a)));
        sim.stop();
        drop((pool, sim));
        let (sim, pool) = up(seed, &after.crash(&mut rng));
        sim.run(async move { assert_eq!(contents(&pool, volume).await, seen, "seen, and flushed") });
    });
    assert!(lost.get() > 0, "the disk lost nothing that was answered");
}
