//! Checkpoints that are cut off, and those that find little room: each test was a defect once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cairn_cow::sim::{Rng, SimDisk, for_each_seed};
use cairn_cow::{CreateOptions, ErrorKind, ExtentKind};

use cairn_sim::engine::{self, Pool};

const MIB: u64 = 1 << 20;
/// Sectors of 512 bytes in a block.
const BLOCK: u64 = 8;

fn layout(limit: u64) -> CreateOptions {
    CreateOptions { limit, segment_blocks: Some(1024), journal_bytes: Some(MIB) }
}

/// A checkpoint under way had given a deleted snapshot's nodes addresses, and giving back its space began with them.
/// After a crash before the superblock those addresses were free, then held new data, and then were freed once more.
#[test]
fn deleting_does_not_begin_on_nodes_of_an_unfinished_checkpoint() {
    for_each_seed(400, |seed| {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::file(64 * MIB);
        let sim = engine::world(seed, &disk);
        let made = Pool::create(disk.clone(), *b"a pool in a test", layout(24 * MIB), engine::options());
        let pool = sim.run(made).expect("creating the pool");
        let theirs = Arc::clone(&pool);
        let v = sim.run(async move {
            let v = theirs.create_volume("v", 1 << 30, "").await.expect("the volume").id;
            for i in 0..6 {
                engine::write(&theirs, 0, v, i * 6144, BLOCK, 10 + i).await.expect("writing");
            }
            theirs.create_snapshots(&[("v", "s")], "").await.expect("the snapshot");
            for i in 0..6 {
                engine::write(&theirs, 0, v, i * 6144, BLOCK, 20 + i).await.expect("writing");
            }
            theirs.delete_snapshot("v", "s").await.expect("deleting");
            v
        });
        let theirs = Arc::clone(&pool);
        drop(sim.spawn(async move { theirs.close().await }));
        let (theirs, handle, pause) = (Arc::clone(&pool), sim.handle(), rng.below(60));
        drop(sim.spawn(async move {
            handle.sleep(pause).await;
            // The crash may come in the middle of either.
            let _ = theirs.maintain(Duration::from_millis(100)).await;
            let _ = theirs.flush().await;
        }));
        sim.run_events(rng.below(120));
        sim.stop();
        drop(pool);
        let disk = if rng.chance(1, 2) { disk.kill(&mut rng) } else { disk.crash(&mut rng) };
        let sim = engine::world(seed, &disk);
        let pool = sim.run(Pool::open(disk.clone(), engine::options())).expect("opening");
        sim.run(async move {
            for i in 0..40 {
                engine::write(&pool, 0, v, MIB + i * 512, 512, 100 + i).await.expect("writing");
            }
            pool.close().await.expect("a checkpoint");
            for i in 0..4 {
                engine::write(&pool, 0, v, 2 * MIB - 4096 + i * 512, 512, 300 + i).await.expect("writing");
            }
            engine::settle(&pool).await;
            pool.close().await.expect("a checkpoint");
            for i in 0..40 {
                let ids = engine::read(&pool, v, MIB + i * 512, 512).await.expect("reading");
                assert!(ids.iter().all(|id| *id == Some(100 + i)));
            }
            engine::assert_sound(&pool, "after it all").await;
        });
    });
}

/// Every life ended in its checkpoint, each of which had sealed a batch, until the ring overwrote its own tail.
#[test]
fn lives_that_end_in_a_checkpoint_do_not_fill_the_journal() {
    let mut disk = SimDisk::file(256 * MIB);
    let sim = engine::world(0, &disk);
    let made = Pool::create(disk.clone(), *b"a pool in a test", layout(200 * MIB), engine::options());
    let pool = sim.run(made).expect("creating the pool");
    sim.run(async move {
        pool.create_volume("v", 1 << 30, "").await.expect("the volume");
        pool.close().await.expect("closing");
    });
    for life in 0..6 {
        let sim = engine::world(life, &disk);
        let pool = sim.run(Pool::open(disk.clone(), engine::options())).expect("opening");
        let ring = pool.status().journal_size;
        let theirs = Arc::clone(&pool);
        sim.run(async move {
            let v = theirs.volume("v").expect("it is there").id;
            let mut n = 0;
            while theirs.status().journal_used < ring / 32 * 25 {
                for _ in 0..600 {
                    n += 1;
                    engine::write(&theirs, 0, v, n % 200 * BLOCK, BLOCK, n).await.expect("writing");
                }
                theirs.flush().await.expect("a flush");
            }
            for _ in 0..1000 {
                n += 1;
                engine::write(&theirs, 0, v, n % 200 * BLOCK, BLOCK, n).await.expect("writing");
            }
        });
        // It dies when the checkpoint's batch is written and its superblock is not.
        let before = pool.status().barriers;
        let theirs = Arc::clone(&pool);
        drop(sim.spawn(async move { theirs.close().await }));
        while pool.status().journal_used <= ring / 32 * 27 && pool.status().barriers <= before + 1 {
            sim.run_events(1);
        }
        sim.run_events(3);
        assert!(pool.status().journal_used <= ring, "life {life}");
        sim.stop();
        drop(pool);
        disk = disk.kill(&mut Rng::new(life));
    }
}

/// A check holds back the reuse of blocks; in a full pool with busy writers, checkpoints then used up the reserve.
#[test]
fn a_check_of_a_full_and_busy_pool_does_no_harm() {
    let disk = SimDisk::file(256 * MIB);
    let sim = engine::world(1, &disk);
    let made = Pool::create(disk.clone(), *b"a pool in a test", layout(110 * MIB), engine::options());
    let pool = sim.run(made).expect("creating the pool");
    let theirs = Arc::clone(&pool);
    let v = sim.run(async move {
        let v = theirs.create_volume("v", 1 << 40, "").await.expect("the volume").id;
        for n in 1.. {
            if let Err(error) = engine::write(&theirs, 0, v, n * 2048, 256 * BLOCK, n).await {
                assert_eq!(error.kind(), ErrorKind::NoSpace);
                break;
            }
        }
        v
    });
    let theirs = Arc::clone(&pool);
    let check = sim.spawn(async move { theirs.check(true).await });
    for lane in 0..4 {
        let theirs = Arc::clone(&pool);
        drop(sim.spawn(async move {
            for i in 0..500 {
                let at = 100_000_000 + (i * 4 + lane) * BLOCK;
                if let Err(error) = engine::write(&theirs, lane as usize, v, at, BLOCK, 5).await {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                }
            }
        }));
    }
    let (theirs, handle) = (Arc::clone(&pool), sim.handle());
    drop(sim.spawn(async move {
        for i in 0..3000 {
            let at = 2048 * (1 + i % 90) + (i / 90 % 256) * BLOCK;
            if let Err(error) = engine::zero(&theirs, 0, v, at, BLOCK, ExtentKind::Hole).await {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            }
            if i % 60 == 0 {
                handle.sleep(300).await;
            }
        }
    }));
    match sim.run(check) {
        Ok(report) => assert!(report.is_clean(), "{report:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
    }
    assert_eq!(pool.status().fenced, None);
}

/// Trims after snapshots change nodes that the snapshots hold, too: in a full pool they ate the reserve until nothing
/// could be deleted any more.
#[test]
fn a_full_pool_can_be_emptied_whatever_filled_its_reserve() {
    let disk = SimDisk::file(256 * MIB);
    let sim = engine::world(1, &disk);
    let made = Pool::create(disk.clone(), *b"a pool in a test", layout(24 * MIB), engine::options());
    let pool = sim.run(made).expect("creating the pool");
    let theirs = Arc::clone(&pool);
    sim.run(async move {
        let pool = theirs;
        let v = pool.create_volume("v", 1 << 40, "").await.expect("the volume").id;
        for n in 1.. {
            if let Err(error) = engine::write(&pool, 0, v, n * 2048, 32 * BLOCK, n).await {
                assert_eq!(error.kind(), ErrorKind::NoSpace);
                break;
            }
        }
        // Until neither a snapshot nor a trim is taken any more.
        let mut refused = 0;
        for i in 0.. {
            let snapshot = pool.create_snapshots(&[("v", &format!("s{i}"))], "").await.map(|_| ());
            let trim =
                engine::zero(&pool, 0, v, 2048 * (1 + i % 60), BLOCK, ExtentKind::Hole).await.map(|_| ());
            for error in [snapshot, trim].into_iter().filter_map(Result::err) {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                refused += 1;
            }
            engine::settle(&pool).await;
            if refused >= 6 {
                break;
            }
            assert!(i < 3000, "the reserve does not end");
        }
        assert!(pool.check(true).await.expect("a check of an idle pool").is_clean());
        let snapshots = pool.snapshots(Some("v")).expect("the list");
        for snapshot in &snapshots[..snapshots.len() / 2] {
            pool.delete_snapshot("v", &snapshot.name).await.expect("deleting a snapshot");
        }
        pool.delete_volume("v", true).await.expect("deleting the volume with the others");
        engine::settle(&pool).await;
        pool.close().await.expect("closing");
        let report = pool.check(true).await.expect("a check");
        assert!(report.is_clean() && report.data_blocks == 0, "{report:?}");
    });
    assert_eq!(pool.status().fenced, None);
}

/// A check looks between its steps whether it is still wanted, and lets go of all that it held when it is not.
#[test]
fn a_check_that_is_cancelled_leaves_the_pool_as_it_was() {
    let disk = SimDisk::file(256 * MIB);
    let sim = engine::world(1, &disk);
    let made = Pool::create(disk.clone(), *b"a pool in a test", layout(64 * MIB), engine::options());
    let pool = sim.run(made).expect("creating the pool");
    let theirs = Arc::clone(&pool);
    sim.run(async move {
        let pool = theirs;
        let v = pool.create_volume("v", 1 << 40, "").await.expect("the volume").id;
        for n in 0..100 {
            engine::write(&pool, 0, v, n << 16, BLOCK, n + 1).await.expect("a write");
        }
        let steps = std::cell::Cell::new(0);
        let all = pool.check_and_tell(true, |done, in_use| {
            assert!(done <= in_use, "{done} of {in_use}");
            steps.set(steps.get() + 1);
            ControlFlow::Continue(())
        });
        assert!(all.await.expect("a check").is_clean());
        assert!(steps.get() > 3, "{} steps", steps.get());
        let mut left = steps.get();
        while left > 0 {
            left -= 1;
            let told = std::cell::Cell::new(0);
            let cancelled = pool.check_and_tell(true, |_, _| {
                told.set(told.get() + 1);
                if told.get() > left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!(cancelled.await.expect_err("is cancelled").kind(), ErrorKind::Cancelled);
            assert_eq!(told.get(), left + 1, "nothing is done after that");
        }
        // What was freed meanwhile may be reused: nobody holds it back.
        for n in 0..40 {
            pool.delete_volume("v", true).await.expect("deleting");
            engine::settle(&pool).await;
            let v = pool.create_volume("v", 1 << 40, "").await.expect("the volume").id;
            engine::write(&pool, 0, v, 0, 512 * BLOCK, n + 1).await.expect("a write finds room");
        }
        assert!(pool.check(true).await.expect("a check").is_clean());
    });
}
