//! Operations that meet in one block, in every order the scheduler can think of.

use std::sync::Arc;

use cairn_cow::sim::{SimDisk, for_each_seed};

use cairn_sim::engine;

/// A volume's last block may be partial. A write that covers it up to the volume's end needs nothing of what lies
/// behind that end, until the volume grows and somebody writes there.
#[test]
fn a_write_up_to_the_end_does_not_undo_one_behind_it() {
    for_each_seed(300, |seed| {
        let disk = SimDisk::file(16 << 20);
        let sim = engine::world(seed, &disk);
        let pool = sim.run(engine::create(disk.clone(), 8 << 20)).expect("creating the pool");
        let theirs = Arc::clone(&pool);
        let v =
            sim.run(async move { theirs.create_volume("v", 4096 + 512, "").await }).expect("the volume").id;
        let theirs = Arc::clone(&pool);
        let to_the_end = sim.spawn(async move { engine::write(&theirs, 0, v, 8, 1, 1).await });
        let theirs = Arc::clone(&pool);
        let behind = sim.spawn(async move {
            theirs.resize_volume("v", 8192).await?;
            engine::write(&theirs, 1, v, 9, 1, 2).await
        });
        let ids = sim.run(async move {
            to_the_end.await.expect("writing to the end");
            behind.await.expect("growing and writing behind the old end");
            engine::read(&pool, v, 8, 8).await.expect("reading")
        });
        assert_eq!(ids[..3], [Some(1), Some(2), Some(0)]);
    });
}

/// Writes to different sectors of one block are merged into it one after the other.
#[test]
fn partial_writes_to_one_block_all_arrive() {
    for_each_seed(100, |seed| {
        let disk = SimDisk::file(16 << 20);
        let sim = engine::world(seed, &disk);
        let pool = sim.run(engine::create(disk.clone(), 8 << 20)).expect("creating the pool");
        let theirs = Arc::clone(&pool);
        let v = sim.run(async move { theirs.create_volume("v", 1 << 20, "").await }).expect("the volume").id;
        let writers: Vec<_> = (0..8)
            .map(|sector| {
                let pool = Arc::clone(&pool);
                sim.spawn(
                    async move { engine::write(&pool, sector as usize % 2, v, sector, 1, 1 + sector).await },
                )
            })
            .collect();
        let ids = sim.run(async move {
            for writer in writers {
                writer.await.expect("writing");
            }
            engine::read(&pool, v, 0, 8).await.expect("reading")
        });
        assert!(ids.iter().copied().eq((1..=8).map(Some)), "{ids:?}");
    });
}
