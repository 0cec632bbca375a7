//! A disk that fails, lies, fills up or rots: every error is told, nothing flushed is lost, no wrong byte is served.

use std::sync::Arc;
use std::time::Duration;

use cairn_cow::sim::{Fault, Op, Rng, Sim, SimDisk, for_each_seed};
use cairn_cow::{BLOCK_SIZE, Disk, ErrorKind, ExtentKind, Options, Result, VersionId};

use cairn_sim::engine::{self, BLOCK_SECTORS, Pool, options};
use cairn_sim::pattern::{SECTOR, fill};

/// A pool with one volume `v`, and what runs it.
struct Stage {
    sim: Sim,
    disk: SimDisk,
    pool: Arc<Pool>,
    volume: VersionId,
}

impl Stage {
    fn new(seed: u64, limit: u64, room: u64, size: u64) -> Stage {
        let disk = SimDisk::file(room);
        let sim = engine::world(seed, &disk);
        let pool = sim.run(engine::create(disk.clone(), limit)).expect("creating the pool");
        let created = sim.run({
            let pool = Arc::clone(&pool);
            async move { pool.create_volume("v", size, "").await }
        });
        engine::maintain_forever(&sim.handle(), &pool, Rng::new(seed), false);
        Stage { sim, disk, pool, volume: created.expect("creating the volume").id }
    }

    fn ask<T: 'static, F: Future<Output = T> + 'static>(&self, f: impl FnOnce(Arc<Pool>) -> F) -> T {
        self.sim.run(f(Arc::clone(&self.pool)))
    }

    fn write(&self, sector: u64, count: u64, id: u64) -> Result<()> {
        let v = self.volume;
        self.ask(|p| async move { engine::write(&p, 0, v, sector, count, id).await.map(|_| ()) })
    }

    fn read(&self, sector: u64, count: u64) -> Result<Vec<Option<u64>>> {
        let v = self.volume;
        self.ask(|p| async move { engine::read(&p, v, sector, count).await })
    }

    fn flush(&self) -> Result<()> {
        self.ask(|p| async move { p.flush().await })
    }

    fn settle(&self) {
        self.ask(|p| async move {
            engine::settle(&p).await;
            p.close().await.expect("a checkpoint on a healthy disk");
        });
    }

    /// The pool as it comes up on `disk`.
    fn reopen(self, disk: SimDisk) -> Stage {
        let Stage { sim, pool, .. } = self;
        sim.stop();
        drop(pool);
        let sim = engine::world(1, &disk);
        let pool =
            // Every read is to meet the disk.
            sim.run(Pool::open(disk.clone(), Options { read_cache_bytes: 0, ..options() })).unwrap_or_else(|e| panic!("reopening: {e:?}"));
        let volume = pool.volume("v").expect("the volume").id;
        engine::maintain_forever(&sim.handle(), &pool, Rng::new(1), false);
        Stage { sim, disk, pool, volume }
    }

    /// The pool after it was closed and opened again: nothing of it is in memory.
    fn cold(self) -> Stage {
        self.ask(|p| async move { p.close().await }).expect("closing");
        let disk = self.disk.kill(&mut Rng::new(0));
        self.reopen(disk)
    }

    /// Where on the disk the block stands that holds what write `id` put at `sector`.
    fn find(&self, sector: u64, id: u64) -> u64 {
        let mut pattern = [0; SECTOR as usize];
        fill(&mut pattern, id, sector);
        let mut pages = (0..self.disk.len()).step_by(BLOCK_SIZE as usize);
        let within = sector % BLOCK_SECTORS * SECTOR;
        pages.find(|at| self.disk.peek(at + within, pattern.len()) == pattern).expect("it is on the disk")
    }

    fn sound(&self) {
        self.ask(|p| async move { engine::assert_sound(&p, "in the end").await });
    }
}

fn roomy(seed: u64) -> Stage {
    Stage::new(seed, 16 << 20, 32 << 20, 4 << 20)
}

fn kind<T>(answer: Result<T>) -> Option<ErrorKind> {
    answer.err().map(|e| e.kind())
}

#[test]
fn a_failed_barrier_fences_the_pool_and_reopening_recovers_what_was_flushed() {
    for_each_seed(20, |seed| {
        let stage = roomy(seed);
        stage.write(0, 16, 1).unwrap();
        stage.flush().unwrap();
        stage.write(16, 16, 2).unwrap();
        stage.disk.inject(Fault::on(Op::Sync).once());
        let failed = kind(stage.flush());
        assert!(matches!(failed, Some(ErrorKind::Io | ErrorKind::Fenced)), "{failed:?}");
        // The disk works again, yet nobody may believe it.
        assert_eq!(kind(stage.flush()), Some(ErrorKind::Fenced));
        assert_eq!(kind(stage.write(0, 8, 3)), Some(ErrorKind::Fenced));
        let refused = stage.ask(|p| async move { p.create_snapshots(&[("v", "s")], "").await.map(|_| ()) });
        assert_eq!(kind(refused), Some(ErrorKind::Fenced));
        assert!(stage.pool.status().fenced.is_some());
        assert_eq!(stage.read(0, 16).unwrap(), vec![Some(1); 16], "reads go on");
        let disk = stage.disk.crash(&mut Rng::new(seed));
        let stage = stage.reopen(disk);
        assert_eq!(stage.read(0, 16).unwrap(), vec![Some(1); 16]);
        assert!(stage.read(16, 16).unwrap().iter().all(|id| matches!(id, Some(0 | 2))));
        stage.write(0, 8, 3).unwrap();
        stage.flush().unwrap();
        stage.sound();
    });
}

#[test]
fn a_flipped_bit_of_data_is_an_error_and_never_data() {
    for_each_seed(10, |seed| {
        let stage = roomy(seed);
        stage.write(0, 24, 1).unwrap();
        stage.ask(|p| async move { p.create_snapshots(&[("v", "s")], "").await }).unwrap();
        let stage = stage.cold();
        let mut rng = Rng::new(seed);
        stage.disk.flip_bit(stage.find(8, 1) + rng.below(BLOCK_SIZE), rng.below(8) as u8);
        assert_eq!(kind(stage.read(8, 8)), Some(ErrorKind::Corrupt));
        assert_eq!(kind(stage.read(0, 24)), Some(ErrorKind::Corrupt), "a larger read that touches it");
        assert_eq!(
            kind(stage.write(9, 1, 2)),
            Some(ErrorKind::Corrupt),
            "a part of the block cannot be merged"
        );
        assert_eq!(stage.read(0, 8).unwrap(), vec![Some(1); 8]);
        assert_eq!(stage.read(16, 8).unwrap(), vec![Some(1); 8]);
        assert!(stage.pool.status().checksum_errors >= 1);
        assert!(stage.pool.volume("v").unwrap().checksum_errors >= 1);
        let report = stage.ask(|p| async move { p.check(true).await }).unwrap();
        assert!(report.error_count >= 1, "the check finds it: {report:?}");
        stage.write(8, 8, 3).unwrap();
        assert_eq!(
            stage.read(0, 24).unwrap()[8..16],
            vec![Some(3); 8],
            "overwritten, the head is well again"
        );
        let snapshot = stage.pool.snapshot("v", "s").unwrap().id;
        let rotten = stage.ask(|p| async move { engine::read(&p, snapshot, 8, 8).await });
        assert_eq!(kind(rotten), Some(ErrorKind::Corrupt), "the snapshot still has the bad block");
    });
}

#[test]
fn lost_and_misdirected_writes_are_errors_and_never_data() {
    for_each_seed(20, |seed| {
        let mut rng = Rng::new(seed);
        let stage = roomy(seed);
        for block in 0..8 {
            stage.write(block * 8, 8, 1 + block).unwrap();
        }
        stage.settle();
        let fault = Fault::on(Op::Write).once();
        let fault =
            if rng.chance(1, 2) { fault.lose() } else { fault.misdirect(4096 * (1 + rng.below(3) as i64)) };
        stage.disk.inject(fault);
        stage.write(64, 8, 100).unwrap();
        stage.flush().unwrap();
        let stage = stage.cold();
        for block in 0..9 {
            let expected = if block == 8 { 100 } else { 1 + block };
            match stage.read(block * 8, 8) {
                Ok(ids) => assert_eq!(ids, vec![Some(expected); 8], "block {block}"),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}"),
            }
        }
        assert_eq!(kind(stage.read(64, 8)), Some(ErrorKind::Corrupt));
    });
}

#[test]
fn a_misdirected_read_is_an_error_and_never_data() {
    for_each_seed(10, |seed| {
        let stage = roomy(seed);
        stage.write(0, 8, 1).unwrap();
        stage.write(8, 8, 2).unwrap();
        let stage = stage.cold();
        // Warm the map, so that the read below is one of data.
        stage.read(0, 8).unwrap();
        stage.disk.inject(Fault::on(Op::Read).misdirect(4096));
        assert_eq!(kind(stage.read(0, 8)), Some(ErrorKind::Corrupt));
        stage.disk.clear_faults();
        stage.disk.inject(Fault::on(Op::Read).misdirect(4096).once());
        // Looking again is allowed to help; serving the neighbour is not.
        if let Ok(ids) = stage.read(0, 8) {
            assert_eq!(ids, vec![Some(1); 8]);
        }
    });
}

/// Writes 64 KiB pieces until there is no space; how many fitted.
fn fill_up(stage: &Stage, first_id: u64) -> u64 {
    let piece = 128;
    for i in 0.. {
        match stage.write(i * piece, piece, first_id + i) {
            Ok(()) => {}
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NoSpace, "{e:?}");
                return i;
            }
        }
    }
    unreachable!("no pool is endless")
}

fn assert_filled(stage: &Stage, pieces: u64, first_id: u64) {
    for i in 0..pieces {
        assert_eq!(stage.read(i * 128, 128).unwrap(), vec![Some(first_id + i); 128], "piece {i}");
    }
}

#[test]
fn a_full_pool_keeps_what_it_has_and_can_be_emptied() {
    for_each_seed(8, |seed| {
        let stage = Stage::new(seed, 8 << 20, 32 << 20, 1 << 30);
        let fitted = fill_up(&stage, 1);
        assert!(fitted > 10, "{fitted} pieces fitted");
        stage.flush().unwrap();
        assert_filled(&stage, fitted, 1);
        let disk = stage.disk.crash(&mut Rng::new(seed));
        let stage = stage.reopen(disk);
        assert_filled(&stage, fitted, 1);
        // Trim all but the first piece: its space can be written again, as often as one likes.
        let v = stage.volume;
        for round in 0..5 {
            let trimmed = stage.ask(|p| async move {
                engine::zero(&p, 0, v, 128, (1 << 30) / SECTOR - 128, ExtentKind::Hole).await
            });
            trimmed.unwrap_or_else(|e| panic!("trimming a full pool, round {round}: {e:?}"));
            stage.settle();
            for i in 1..fitted {
                stage
                    .write(i * 128, 128, 1 + i)
                    .unwrap_or_else(|e| panic!("piece {i} of {fitted}, round {round}: {e:?}"));
            }
        }
        assert_filled(&stage, fitted, 1);
        // A snapshot pins what there is; deleting the snapshot gives room again.
        let freed = stage.ask(|p| async move { engine::zero(&p, 0, v, 0, 4 * 128, ExtentKind::Hole).await });
        freed.expect("trimming a full pool");
        stage.settle();
        stage
            .ask(|p| async move { p.create_snapshots(&[("v", "s")], "").await })
            .expect("a snapshot of a full pool");
        let over = (4..fitted).find(|i| stage.write(i * 128, 128, 1000 + i).is_err());
        assert!(
            over.is_some_and(|i| i > 4),
            "what a snapshot keeps takes space, and there was some: {over:?}"
        );
        stage.ask(|p| async move { p.delete_snapshot("v", "s").await }).expect("deleting in a full pool");
        stage.settle();
        stage.write(0, 128, 2000).expect("the deleted snapshot's space");
        stage.ask(|p| async move { p.delete_volume("v", false).await }).expect("deleting a volume");
        stage.settle();
        stage.sound();
        let report = stage.ask(|p| async move { p.check(true).await }).unwrap();
        assert_eq!(report.data_blocks, 0);
    });
}

#[test]
fn a_full_file_system_is_told_and_loses_nothing() {
    for_each_seed(8, |seed| {
        let stage = Stage::new(seed, 64 << 20, 10 << 20, 1 << 30);
        let fitted = fill_up(&stage, 1);
        stage.flush().unwrap();
        assert!(stage.pool.status().fenced.is_none(), "no room is no defect of the disk");
        assert_filled(&stage, fitted, 1);
        stage.disk.set_room(32 << 20);
        stage.write(fitted * 128, 128, 1 + fitted).expect("there is room again");
        let disk = stage.disk.crash(&mut Rng::new(seed));
        let stage = stage.reopen(disk);
        assert_filled(&stage, fitted, 1);
        stage.sound();
    });
}

/// A node that could not be read once was given up, and all blocks below it stayed in use for ever.
#[test]
fn a_read_that_fails_while_a_version_is_given_back_leaks_nothing() {
    for_each_seed(8, |seed| {
        let stage = roomy(seed);
        for id in [1, 2] {
            for block in 0..8 {
                stage.write(block * 8, 8, id).unwrap();
            }
            if id == 1 {
                stage.ask(|p| async move { p.create_snapshots(&[("v", "s")], "").await }).unwrap();
            }
        }
        let stage = stage.cold();
        stage.ask(|p| async move { p.delete_snapshot("v", "s").await }).unwrap();
        stage.disk.inject(Fault::on(Op::Read).after(seed % 4).once());
        stage.ask(|p| async move {
            // It fails in one of these.
            for _ in 0..100 {
                let _ = p.maintain(Duration::from_millis(100)).await;
            }
        });
        assert!(stage.disk.faults_hit() > 0);
        stage.settle();
        stage.sound();
    });
}

/// A checkpoint reads the leaves that the journal has changed. Of one that came with a wrong bit all was given up that the
/// journal did not hold, though it was whole on disk.
#[test]
fn a_leaf_that_is_read_with_a_wrong_bit_once_is_not_lost() {
    for_each_seed(4, |seed| {
        let stage = roomy(seed);
        stage.write(0, 24, 1).unwrap();
        let stage = stage.cold();
        stage.write(0, 8, 2).unwrap();
        stage.flush().unwrap();
        let disk = stage.disk.crash(&mut Rng::new(seed));
        let stage = stage.reopen(disk);
        stage.disk.inject(Fault::on(Op::Read).flip().once());
        stage.ask(|p| async move { p.close().await }).unwrap();
        assert_eq!(stage.disk.faults_hit(), 1);
        assert_eq!(stage.read(0, 8).unwrap(), vec![Some(2); 8]);
        assert_eq!(stage.read(8, 16).unwrap(), vec![Some(1); 16]);
        stage.sound();
    });
}

#[test]
fn no_flipped_bit_of_a_closed_pool_makes_it_serve_a_wrong_byte() {
    for_each_seed(2, |seed| {
        let mut rng = Rng::new(seed);
        let stage = roomy(seed);
        for block in 0..60 {
            stage.write(block * 16, 8, 1 + block).unwrap();
        }
        stage.ask(|p| async move { p.create_snapshots(&[("v", "s")], "").await }).unwrap();
        stage.write(0, 8, 100).unwrap();
        stage.ask(|p| async move { p.close().await }).unwrap();
        let used: Vec<u64> = (0..stage.disk.len())
            .step_by(BLOCK_SIZE as usize)
            .filter(|at| stage.disk.peek(*at, BLOCK_SIZE as usize).iter().any(|b| *b != 0))
            .collect();
        for _ in 0..200 {
            let disk = stage.disk.kill(&mut rng);
            let at = used[rng.index(used.len())] + rng.below(BLOCK_SIZE);
            disk.flip_bit(at, rng.below(8) as u8);
            let sim = engine::world(seed, &disk);
            let pool = match sim.run(Pool::open(disk.clone(), options())) {
                Ok(pool) => pool,
                Err(e) => {
                    let clear = [ErrorKind::Corrupt, ErrorKind::NotAPool, ErrorKind::Unsupported];
                    assert!(clear.contains(&e.kind()), "a bit flipped at {at}: {e:?}");
                    continue;
                }
            };
            sim.run(async move {
                let Ok(v) = pool.volume("v") else { panic!("a bit flipped at {at}: the volume is gone") };
                let mut failed = false;
                for block in 0..60 {
                    let expected = if block == 0 { 100 } else { 1 + block };
                    match engine::read(&pool, v.id, block * 16, 8).await {
                        Ok(ids) => {
                            assert_eq!(ids, vec![Some(expected); 8], "a bit flipped at {at}, block {block}");
                        }
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::Corrupt, "a bit flipped at {at}: {e:?}");
                            failed = true;
                        }
                    }
                }
                let report = pool.check(true).await;
                let told = report.as_ref().map_or(true, |r| r.error_count > 0);
                assert!(
                    told || !failed,
                    "a bit flipped at {at}: reads fail, the check finds nothing: {report:?}"
                );
            });
        }
    });
}

#[test]
fn one_good_superblock_is_enough() {
    for damaged in [0, 256 * BLOCK_SIZE] {
        let stage = roomy(3);
        stage.write(0, 8, 1).unwrap();
        stage.ask(|p| async move { p.close().await }).unwrap();
        let disk = stage.disk.kill(&mut Rng::new(0));
        disk.poke(damaged, &[0xee; BLOCK_SIZE as usize]);
        let stage = stage.reopen(disk);
        assert_eq!(stage.read(0, 8).unwrap(), vec![Some(1); 8]);
        stage.settle();
        let disk = stage.disk.kill(&mut Rng::new(0));
        disk.poke(256 * BLOCK_SIZE - damaged, &[0xee; BLOCK_SIZE as usize]);
        let stage = stage.reopen(disk);
        assert_eq!(stage.read(0, 8).unwrap(), vec![Some(1); 8], "a checkpoint restores the damaged copy");
        stage.sound();
    }
}

#[test]
fn a_damaged_superblock_is_restored_before_anybody_is_served() {
    const PLACES: [u64; 2] = [0, 256 * BLOCK_SIZE];
    for (damaged, other) in [(PLACES[0], PLACES[1]), (PLACES[1], PLACES[0])] {
        let stage = roomy(3);
        stage.write(0, 8, 1).unwrap();
        stage.ask(|p| async move { p.close().await }).unwrap();
        let disk = stage.disk.kill(&mut Rng::new(0));
        disk.poke(damaged, &[0xee; BLOCK_SIZE as usize]);
        let opened = stage.reopen(disk);
        let disk = opened.disk.crash(&mut Rng::new(0));
        disk.poke(other, &[0xee; BLOCK_SIZE as usize]);
        assert_eq!(opened.reopen(disk).read(0, 8).unwrap(), vec![Some(1); 8]);
    }
}

#[test]
fn what_is_no_pool_or_only_part_of_one_is_refused() {
    let open = |disk: &SimDisk| {
        let sim = engine::world(0, disk);
        kind(sim.run(Pool::open(disk.clone(), options())))
    };
    assert_eq!(open(&SimDisk::file(1 << 20)), Some(ErrorKind::NotAPool), "an empty file");
    let foreign = SimDisk::device(8 << 20);
    foreign.poke(0, b"#!/bin/sh\n");
    assert_eq!(open(&foreign), Some(ErrorKind::NotAPool), "somebody's file");
    let stage = roomy(1);
    stage.write(0, 512, 1).unwrap();
    stage.ask(|p| async move { p.close().await }).unwrap();
    let disk = stage.disk.kill(&mut Rng::new(0));
    let sim = engine::world(0, &disk);
    let again = sim.run(engine::create(disk.clone(), 16 << 20));
    assert_eq!(kind(again), Some(ErrorKind::Exists), "a pool is not made over another");
    drop(sim);
    for len in [0, 4096, 1 << 20, disk.len() - 4096] {
        let disk = stage.disk.kill(&mut Rng::new(0));
        disk.truncate(len);
        let refused = open(&disk);
        let clear = if len == 0 { ErrorKind::NotAPool } else { ErrorKind::Truncated };
        assert_eq!(refused, Some(clear), "cut off at {len}");
    }
}
