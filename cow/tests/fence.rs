//! Barriers that fail while the machine runs on: the disk gives back what they covered, and loses it with the power. Whoever
//! opens the pool next may not build on it: nothing that it shows may be gone later, nor anything come back.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use cairn_cow::sim::{Fault, Op, Rng, Sim, SimDisk, for_each_seed};
use cairn_cow::{BLOCK_SIZE, ErrorKind, Result, VersionId};

use cairn_sim::engine::{self, BLOCK_SECTORS, Pool, options};

/// Blocks of the volume, a few leaves.
const BLOCKS: u64 = 600;
/// Seeds for each barrier that a test lets fail.
const SEEDS: u64 = 20;
/// Of these, as many as one read takes.
const AT_ONCE: u64 = 150;
const LIMIT: u64 = 16 << 20;

/// A pool with a volume `v`, and what runs it; no background duties but where a test asks for them.
struct Up {
    sim: Sim,
    disk: SimDisk,
    pool: Arc<Pool>,
    volume: VersionId,
}

impl Up {
    fn new(seed: u64) -> Up {
        let disk = SimDisk::file(4 * LIMIT);
        let sim = engine::world(seed, &disk);
        let made = disk.clone();
        let (pool, volume) = sim.run(async move {
            let pool = engine::create(made, LIMIT).await.expect("a pool");
            let volume = pool.create_volume("v", BLOCKS * BLOCK_SIZE, "").await.expect("a volume").id;
            pool.flush().await.expect("flushed");
            (pool, volume)
        });
        Up { sim, disk, pool, volume }
    }

    fn try_open(seed: u64, disk: &SimDisk) -> Result<Up> {
        let sim = engine::world(seed, disk);
        let pool = sim.run(Pool::open(disk.clone(), options()))?;
        let volume = pool.volume("v")?.id;
        Ok(Up { sim, disk: disk.clone(), pool, volume })
    }

    fn open(seed: u64, disk: &SimDisk) -> Up {
        Up::try_open(seed, disk).unwrap_or_else(|e| panic!("reopening (seed {seed}): {e:?}"))
    }

    fn ask<T: 'static, F: Future<Output = T> + 'static>(&self, f: impl FnOnce(Arc<Pool>) -> F) -> T {
        self.sim.run(f(Arc::clone(&self.pool)))
    }

    fn write(&self, block: u64, id: u64) {
        let v = self.volume;
        let written = self
            .ask(|p| async move { engine::write(&p, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, id).await });
        written.expect("written");
    }

    fn flush(&self) -> Result<()> {
        self.ask(|p| async move { p.flush().await })
    }

    /// What every block holds.
    fn contents(&self) -> Vec<u64> {
        let v = self.volume;
        self.ask(|p| async move { contents(&p, v).await })
    }

    /// The process ends, the machine runs on.
    fn kill(self, rng: &mut Rng) -> SimDisk {
        self.sim.stop();
        self.disk.kill(rng)
    }

    fn crash(self, rng: &mut Rng) -> SimDisk {
        self.sim.stop();
        self.disk.crash(rng)
    }

    fn sound(&self) {
        self.ask(|p| async move { engine::assert_sound(&p, "in the end").await });
    }
}

async fn contents(pool: &Pool, v: VersionId) -> Vec<u64> {
    let mut all = Vec::new();
    for first in (0..BLOCKS).step_by(AT_ONCE as usize) {
        let ids = engine::read(pool, v, first * BLOCK_SECTORS, AT_ONCE * BLOCK_SECTORS).await.expect("reads");
        for ids in ids.chunks(BLOCK_SECTORS as usize) {
            let id = ids[0].expect("somebody's write");
            assert!(ids.iter().all(|i| *i == Some(id)), "a block is a mixture: {ids:?}");
            all.push(id);
        }
    }
    all
}

fn told<T>(answer: &Result<T>) -> bool {
    answer.as_ref().err().is_some_and(|e| matches!(e.kind(), ErrorKind::Io | ErrorKind::Fenced))
}

/// The batch whose barrier failed could be read until the power went. The next process took it for durable, and what its
/// clients flushed stood behind it in the journal: with the batch gone, the pool was refused as damaged.
#[test]
fn what_a_failed_barrier_left_is_not_relied_upon() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let up = Up::new(seed);
        up.write(0, 1);
        up.flush().expect("flushed");
        up.write(0, 2);
        up.write(1, 2);
        up.disk.inject(Fault::on(Op::Sync).once());
        assert!(told(&up.flush()), "the barrier failed");
        // Answered, but not flushed, and behind what nobody can tell of.
        let up = Up::open(seed, &up.kill(&mut rng));
        let seen = up.contents();
        assert_eq!(seen[..2], [1, 0], "the last confirmed state");
        assert_eq!(up.pool.taken_over(), 0);
        up.write(2, 3);
        up.flush().expect("flushed");
        let flushed = up.contents();
        let up = Up::open(seed, &up.crash(&mut rng));
        assert_eq!(up.contents(), flushed, "seed {seed}");
        up.sound();
    }
}

/// As many barriers of a checkpoint go well as there are before each of its steps, then one fails.
#[test]
fn a_checkpoint_whose_barrier_failed_is_written_again() {
    let mut failed = 0;
    for barriers in 0..6 {
        for seed in 0..SEEDS {
            let mut rng = Rng::new(seed);
            let up = Up::new(seed);
            for block in 0..20 {
                up.write(block * 20, 1);
            }
            up.flush().expect("flushed");
            for block in 0..20 {
                up.write(block * 20, 2);
            }
            up.disk.inject(Fault::on(Op::Sync).after(barriers).once());
            let closed = up.ask(|p| async move { p.close().await });
            failed += u64::from(told(&closed));
            // The next process has its own checkpoint to write, and the power fails at any moment of that.
            let mut disk = up.kill(&mut rng);
            let sim = engine::world(seed, &disk);
            let opened = sim.run_for(rng.below(120), Pool::open(disk.clone(), options()));
            if let Some(Err(e)) = opened {
                panic!("reopening after {barriers} barriers (seed {seed}): {e:?}");
            }
            drop((opened, sim));
            disk = if rng.chance(1, 2) { disk.kill(&mut rng) } else { disk.crash(&mut rng) };
            let up = Up::open(seed, &disk);
            let seen = up.contents();
            assert!(seen.iter().enumerate().all(|(block, id)| match id {
                1 | 2 => block % 20 == 0 && block < 400,
                id => *id == 0 && (block % 20 > 0 || block >= 400),
            }));
            // What is written now goes where the checkpoint before had its nodes.
            for block in 0..200 {
                up.write(block * 3, 3);
            }
            up.flush().expect("flushed");
            let flushed = up.contents();
            let pool = Arc::clone(&up.pool);
            // Another checkpoint, cut off anywhere.
            let _ = up.sim.run_for(rng.below(200), async move { pool.close().await });
            let up = Up::open(seed, &up.crash(&mut rng));
            assert_eq!(up.contents(), flushed, "after {barriers} barriers, seed {seed}");
            up.sound();
        }
    }
    assert!(failed >= 4 * SEEDS, "{failed} barriers failed");
}

/// The second copy of the superblock was read as it should be, and an older one came back with the power loss that tore
/// the first. That one led to blocks which had been reused.
#[test]
fn a_superblock_whose_barrier_failed_is_not_what_is_left() {
    let copies = [0, 256 * BLOCK_SIZE];
    let superblocks = |disk: &SimDisk| copies.map(|at| disk.peek(at, BLOCK_SIZE as usize));
    for memory in [true, false] {
        let mut rng = Rng::new(1);
        let up = Up::new(1);
        up.write(0, 1);
        up.ask(|p| async move { p.close().await }).expect("a checkpoint");
        let older = superblocks(&up.disk);
        up.write(1, 2);
        // Those of the batch, of the one that confirms it, of what the superblock leads to, and of the first copy go well.
        up.disk.inject(Fault::on(Op::Sync).after(4).once());
        assert!(told(&up.ask(|p| async move { p.close().await })));
        let disk = up.kill(&mut rng);
        let newer = superblocks(&disk);
        assert!(newer.iter().zip(&older).all(|(newer, older)| newer != older), "both were written");
        if !memory {
            disk.remember(&SimDisk::file(0));
        }
        let up = Up::open(1, &disk);
        for block in 0..BLOCKS {
            up.write(block, 3);
        }
        up.flush().expect("flushed");
        let before = superblocks(&disk);
        let pool = Arc::clone(&up.pool);
        drop(up.sim.spawn(async move { pool.close().await }));
        while superblocks(&disk)[0] == before[0] {
            assert!(up.sim.run_events(1), "a checkpoint writes the first copy");
        }
        let now = superblocks(&disk);
        let mut torn = 0;
        for seed in 0..4000 {
            let after = disk.crash(&mut Rng::new(seed));
            let first = superblocks(&after)[0].clone();
            if first == before[0] || first == now[0] {
                continue;
            }
            torn += 1;
            let up = Up::open(seed, &after);
            assert!(up.contents().iter().all(|id| *id == 3), "seed {seed}");
        }
        assert!(torn > 10, "{torn} first copies were torn");
    }
}

/// Whoever opens the pool after a process that was killed relies on what that one left, and so does the next when a barrier
/// fails at it.
#[test]
fn a_barrier_that_fails_while_the_pool_is_opened_is_not_forgotten() {
    let mut failed = 0;
    for barriers in 0..6 {
        for seed in 0..SEEDS {
            let mut rng = Rng::new(seed);
            let up = Up::new(seed);
            up.write(0, 1);
            up.flush().expect("flushed");
            up.write(0, 2);
            up.write(1, 2);
            let flush = Arc::clone(&up.pool);
            // In the middle of a batch, or behind one that is durable though nothing on disk says so.
            let flushed = up.sim.run_for(rng.below(40), async move { flush.flush().await });
            let least = if flushed.is_some() { 2 } else { 1 };
            up.write(2, 3);
            let disk = up.kill(&mut rng);
            disk.inject(Fault::on(Op::Sync).after(barriers).once());
            let opened = Up::try_open(seed, &disk);
            let failing = opened.is_err();
            failed += u64::from(failing);
            drop(opened);
            let disk = disk.kill(&mut rng);
            let up = Up::open(seed, &disk);
            let seen = up.contents();
            assert!(seen[0] >= least, "flushed, {barriers} barriers, seed {seed}");
            if !failing {
                assert_eq!(seen[..3], [2, 2, 3], "answered, {barriers} barriers, seed {seed}");
            }
            up.write(3, 4);
            up.flush().expect("flushed");
            let flushed = up.contents();
            let up = Up::open(seed, &up.crash(&mut rng));
            assert_eq!(up.contents(), flushed, "{barriers} barriers, seed {seed}");
            up.sound();
        }
    }
    assert!(failed >= 2 * SEEDS, "{failed} barriers failed");
}

/// What was answered behind the point to which the log went back is gone. The memory still had it, under the numbers that new
/// records get, and it was there again for the process after the next.
#[test]
fn what_was_answered_and_given_up_does_not_come_back() {
    for_each_seed(100, |seed| {
        let mut rng = Rng::new(seed);
        let up = Up::new(seed);
        up.write(0, 1);
        up.flush().expect("flushed");
        up.disk.inject(Fault::on(Op::Sync));
        // A checkpoint that has no batch to write, or one, with more behind it.
        if rng.chance(1, 2) {
            up.write(0, 2);
        }
        let pool = Arc::clone(&up.pool);
        drop(up.sim.spawn(async move { pool.close().await }));
        up.sim.run_events(rng.below(10));
        let (pool, v) = (Arc::clone(&up.pool), up.volume);
        drop(up.sim.spawn(async move { engine::write(&pool, 0, v, BLOCK_SECTORS, BLOCK_SECTORS, 2).await }));
        while up.pool.status().fenced.is_none() {
            assert!(up.sim.run_events(1));
        }
        let up = Up::open(seed, &up.kill(&mut rng));
        let seen = up.contents();
        assert_eq!(seen[..2], [1, 0], "the last confirmed state");
        let again = Up::open(seed, &up.kill(&mut rng));
        assert_eq!(again.contents(), seen);
        assert_eq!(again.pool.taken_over(), 0);
    });
}

/// What a process noted about its failed barrier says nothing about batches that somebody without that memory flushed.
#[test]
fn a_failed_barrier_is_forgotten_once_somebody_has_gone_on() {
    for_each_seed(80, |seed| {
        let mut rng = Rng::new(seed);
        let up = Up::new(seed);
        up.write(0, 1);
        up.flush().expect("flushed");
        let sealed = rng.chance(1, 2);
        if sealed {
            up.write(0, 2);
            up.disk.inject(Fault::on(Op::Sync).once());
            assert!(told(&up.flush()));
        } else {
            // The barrier is one of a checkpoint that has no batch to write.
            up.disk.inject(Fault::on(Op::Sync).after(rng.below(2)).once());
            assert!(told(&up.ask(|p| async move { p.close().await })));
        }
        let first = up.disk.clone();
        let second = up.kill(&mut rng);
        second.remember(&SimDisk::file(0));
        // The power fails in between: what is there now is durable, with or without the batch in question.
        let second = second.crash(&mut rng);
        let up = Up::open(seed, &second);
        for i in 0..1 + rng.below(3) {
            up.write(i, 5 + i);
            up.flush().expect("flushed");
        }
        let flushed = up.contents();
        let third = up.kill(&mut rng);
        third.remember(&first);
        let up = Up::open(seed, &third);
        assert_eq!(up.contents(), flushed);
        up.sound();
    });
}

/// The last write of each block that was asked for, that was answered, and that was flushed.
#[derive(Default)]
struct Story {
    asked: Vec<u64>,
    answered: Vec<u64>,
    flushed: Vec<u64>,
}

type SharedStory = Rc<RefCell<Story>>;

/// Writers, flushes and the background duties, until the world ends.
fn live(up: &Up, rng: &mut Rng, story: &SharedStory, first_id: u64) {
    for lane in 0..2 {
        let (pool, v, story, mut rng) = (Arc::clone(&up.pool), up.volume, Rc::clone(story), rng.fork());
        drop(up.sim.spawn(async move {
            for id in first_id.. {
                let block = rng.below(BLOCKS / 2) * 2 + lane;
                story.borrow_mut().asked[block as usize] = id;
                let at = block * BLOCK_SECTORS;
                if let Err(e) = engine::write(&pool, lane as usize, v, at, BLOCK_SECTORS, id).await {
                    assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Fenced), "{e:?}");
                    return;
                }
                story.borrow_mut().answered[block as usize] = id;
            }
        }));
    }
    let (pool, handle, story, mut pauses) =
        (Arc::clone(&up.pool), up.sim.handle(), Rc::clone(story), rng.fork());
    drop(up.sim.spawn(async move {
        loop {
            let answered = story.borrow().answered.clone();
            match pool.flush().await {
                Ok(()) => story.borrow_mut().flushed = answered,
                Err(e) => {
                    assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Fenced), "{e:?}");
                    return;
                }
            }
            handle.sleep(1 + pauses.below(60)).await;
        }
    }));
    engine::maintain_forever(&up.sim.handle(), &up.pool, rng.fork(), false);
}

/// Lives that end when a barrier has failed, or in the middle of anything; the next process finds the machine running, or
/// after a power loss, and may meet a barrier that fails, too. Whatever somebody has seen after opening the pool, and then
/// flushed, is there for good.
#[test]
fn lives_whose_barriers_fail_lose_nothing_that_was_seen_and_flushed() {
    for_each_seed(60, |seed| {
        let mut rng = Rng::new(seed ^ 0xfe7ce);
        let mut up = Up::new(seed);
        let empty = || vec![0; BLOCKS as usize];
        let story = Story { asked: empty(), answered: empty(), flushed: empty() };
        let story = Rc::new(RefCell::new(story));
        for round in 0..4 {
            live(&up, &mut rng, &story, (round + 1) * 1_000_000);
            up.sim.run_events(rng.below(2_500));
            let fails = rng.chance(2, 3);
            if fails {
                // Once, or as long as this process lives.
                let fault = Fault::on(Op::Sync).after(rng.below(4));
                up.disk.inject(if rng.chance(1, 2) { fault.once() } else { fault });
                // Nobody may have to write when no client does.
                while up.pool.status().fenced.is_none() && up.sim.run_events(1) {}
                up.sim.run_events(rng.below(60));
            }
            let lossless = up.pool.status().fenced.is_none();
            let mut powered = true;
            let mut disk = if rng.chance(3, 4) {
                up.kill(&mut rng)
            } else {
                powered = false;
                up.crash(&mut rng)
            };
            let mut failed_again = false;
            for _ in 0..rng.below(4) {
                let well = if rng.chance(1, 2) { rng.below(5) } else { u64::MAX };
                disk.inject(Fault::on(Op::Sync).after(well).once());
                let sim = engine::world(rng.next_u64(), &disk);
                let opened = sim.run_for(rng.below(250), Pool::open(disk.clone(), options()));
                if disk.counts().syncs > well {
                    // What nobody has been told of cannot be written down.
                    sim.run_events(20);
                }
                match &opened {
                    Some(Err(e)) => {
                        assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Fenced), "{e:?}");
                        failed_again = true;
                    }
                    // It may have failed without this one having come to say so.
                    None => failed_again = true,
                    Some(Ok(_)) => {}
                }
                drop((opened, sim));
                disk = if rng.chance(3, 4) {
                    disk.kill(&mut rng)
                } else {
                    powered = false;
                    disk.crash(&mut rng)
                };
            }
            up = Up::open(rng.next_u64(), &disk);
            let seen = up.contents();
            {
                let mut story = story.borrow_mut();
                for (block, id) in seen.iter().enumerate() {
                    let what = format!("block {block}, round {round}");
                    assert!(
                        *id >= story.flushed[block],
                        "{what}: {} was flushed, {id} is there",
                        story.flushed[block]
                    );
                    assert!(*id <= story.asked[block], "{what}: {id} comes from nowhere");
                    if lossless && powered && !failed_again {
                        let answered = story.answered[block];
                        assert!(*id >= answered, "{what}: {answered} was answered, {id} is there");
                    }
                }
                let (asked, answered) = (seen.clone(), seen.clone());
                // Not yet: it was seen, but a flush is what makes it last.
                *story = Story { asked, answered, flushed: std::mem::take(&mut story.flushed) };
            }
            if rng.chance(2, 3) {
                up.write(rng.below(BLOCKS), (round + 2) * 1_000_000 - 1);
                up.flush().expect("flushed");
                let seen = up.contents();
                story.replace(Story { asked: seen.clone(), answered: seen.clone(), flushed: seen });
            }
        }
        up.sound();
    });
}
