//! Repairing damaged pools: what is lost is told exactly, what is not stays, and the pool goes on.
//! The simulator does the same with random damage to random pools: `sim/src/damage.rs`.

use std::sync::Arc;

use cairn_cow::sim::{Fault, Op, Rng, SimDisk, block_on};
use cairn_cow::{
    BLOCK_SIZE, Disk as _, ErrorKind, Loss, LossKind, Options, Overlay, Pool as AnyPool, RepairReport,
    Result, repair,
};
use cairn_sim::engine::{self, BLOCK_SECTORS, Pool};

const LIMIT: u64 = 32 << 20;
const SIZE: u64 = 8 << 20;
/// Blocks that are read of each version: what was written, and as much as its last leaf covers.
const LOOKED_AT: u64 = 768;
/// Where the second superblock stands: docs/FORMAT.md.
const SECOND_SUPERBLOCK: u64 = 256 * BLOCK_SIZE;
const JOURNAL: u64 = 512 * BLOCK_SIZE;

/// A pool with a volume `v` of 600 blocks in three leaves, a snapshot `v@s` of it, and a few blocks written after that, of
/// the first leaf and the last.
async fn fill(disk: SimDisk) -> Result<Arc<Pool>> {
    let pool = engine::create(disk, LIMIT).await?;
    let v = pool.create_volume("v", SIZE, "").await?.id;
    for block in 0..600 {
        engine::write(&pool, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, 1 + block).await?;
    }
    pool.create_snapshots(&[("v", "s")], "").await?;
    for block in [3, 599] {
        engine::write(&pool, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, 1000 + block).await?;
    }
    Ok(pool)
}

/// The pool closed in good order.
fn closed() -> SimDisk {
    let disk = SimDisk::file(2 * LIMIT);
    let pool = disk.clone();
    block_on(async move {
        let pool = fill(pool).await?;
        // Twice, so that nothing of the pool's making is still to be confirmed.
        pool.flush().await?;
        pool.close().await
    })
    .expect("a pool");
    copy(&disk)
}

fn copy(disk: &SimDisk) -> SimDisk {
    disk.kill(&mut Rng::new(0))
}

fn mend(disk: &SimDisk) -> Result<RepairReport> {
    let disk = disk.clone();
    block_on(async move { repair(disk, Options::default(), |_, _| ()).await })
}

/// What a repair would do, which must be what it does; the disk stays as it was until then.
fn mend_and_compare(disk: &SimDisk) -> RepairReport {
    let before = everything(disk);
    let over = disk.clone();
    let foretold =
        block_on(async move { repair(Overlay::new(over, None), Options::default(), |_, _| ()).await })
            .expect("repairing a view of it");
    assert!(everything(disk) == before, "looking changes nothing");
    let report = mend(disk).expect("repairing");
    assert_eq!(report, foretold);
    let again = mend(disk).expect("repairing once more");
    assert_eq!(again.losses, report.losses);
    assert_eq!(
        (again.freed, again.claimed, again.nodes_lost, again.segments_rebuilt),
        (0, 0, 0, 0),
        "{again:?}"
    );
    report
}

fn everything(disk: &SimDisk) -> Vec<(u64, Vec<u8>)> {
    disk.stored_pages().into_iter().map(|page| (page, disk.peek(page * BLOCK_SIZE, 4096))).collect()
}

/// The blocks of `v`, or of its snapshot, that cannot be read; all others are what was written.
fn unreadable(disk: &SimDisk, name: &'static str) -> Vec<u64> {
    let disk = copy(disk);
    block_on(async move {
        let pool = AnyPool::open(disk, Options::default()).await.expect("opening");
        let id = pool.resolve(name).expect("is there").id;
        let mut lost = Vec::new();
        for block in 0..LOOKED_AT {
            let expected = match block {
                3 | 599 if name == "v" => 1000 + block,
                0..600 => 1 + block,
                _ => 0,
            };
            match engine::read(&pool, id, block * BLOCK_SECTORS, BLOCK_SECTORS).await {
                Ok(ids) => assert_eq!(ids, vec![Some(expected); 8], "block {block} of {name}"),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
                    lost.push(block);
                }
            }
        }
        lost
    })
}

fn loss(name: &str, blocks: std::ops::Range<u64>, kind: LossKind) -> Loss {
    let (volume, snapshot) = name.split_once('@').map_or((name, None), |(v, s)| (v, Some(s.to_owned())));
    let (offset, len) = (blocks.start * BLOCK_SIZE, (blocks.end - blocks.start) * BLOCK_SIZE);
    Loss { volume: volume.to_owned(), snapshot, offset, len, kind }
}

/// Damages each page that holds anything in turn, and sorts what a repair says of it.
#[test]
fn whatever_block_is_damaged_the_repair_says_exactly_what_is_lost() {
    let disk = closed();
    let (mut harmless, mut data, mut maps, mut spaces, mut fatal) = (0, 0, 0, 0, 0);
    for page in most_pages(&disk) {
        let damaged = copy(&disk);
        damaged.flip_bit(page * BLOCK_SIZE + 100, 3);
        let report = match mend(&copy(&damaged)) {
            Ok(_) => mend_and_compare(&damaged),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Corrupt, "page {page}: {e:?}");
                assert!(e.to_string().contains("catalog"), "page {page}: {e}");
                fatal += 1;
                continue;
            }
        };
        for name in ["v", "v@s"] {
            let of_it = report
                .losses
                .iter()
                .filter(|l| l.volume == "v" && l.snapshot.as_deref() == name.split_once('@').map(|(_, s)| s));
            let told = of_it.flat_map(|l| l.offset / BLOCK_SIZE..(l.offset + l.len).div_ceil(BLOCK_SIZE));
            let told: Vec<u64> = told.filter(|block| *block < LOOKED_AT).collect();
            assert_eq!(unreadable(&damaged, name), told, "page {page}, {name}: {report:?}");
        }
        match &report {
            r if r.is_clean() || r.superblock_restored => harmless += 1,
            r if r.segments_rebuilt > 0 => spaces += 1,
            r if r.nodes_lost > 0 => maps += 1,
            r => {
                assert!(r.losses.iter().all(|l| l.kind == LossKind::Data && l.len == BLOCK_SIZE), "{r:?}");
                data += 1;
            }
        }
    }
    assert!(data > 60, "{data} blocks of data");
    // Two roots with four levels below each: the leaf in the middle is one for both, the others are not.
    assert!(maps >= 8, "{maps} nodes");
    assert!(spaces >= 1 && fatal >= 1 && harmless >= 2, "{spaces} maps of space, {fatal}, {harmless}");
}

#[test]
fn a_shared_leaf_is_lost_to_all_who_share_it_and_what_is_written_over_it_is_there() {
    let disk = closed();
    // The leaf in the middle is the one whose loss costs both of them 256 blocks.
    let both = [loss("v", 256..512, LossKind::Map), loss("v@s", 256..512, LossKind::Map)];
    let found = most_pages(&disk).into_iter().find_map(|page| {
        let damaged = copy(&disk);
        damaged.poke(page * BLOCK_SIZE, &[0xee; 4096]);
        let report = mend(&damaged).ok()?;
        let mut losses = report.losses.clone();
        losses.sort_by(|a, b| a.snapshot.cmp(&b.snapshot));
        (losses == both).then_some((damaged, report))
    });
    let (disk, report) = found.expect("a leaf that both share");
    assert_eq!((report.nodes_lost, report.lost_bytes), (1, 2 * 256 * BLOCK_SIZE));
    block_on(async move {
        let pool = AnyPool::open(disk, Options::default()).await.expect("opening");
        let v = pool.volume("v").expect("is there");
        assert_eq!(v.mapped, (600 - 256) * BLOCK_SIZE);
        engine::write(&pool, 0, v.id, 300 * BLOCK_SECTORS, BLOCK_SECTORS, 7).await.expect("writing over it");
        engine::zero(&pool, 0, v.id, 256 * BLOCK_SECTORS, 8 * BLOCK_SECTORS, cairn_cow::ExtentKind::Hole)
            .await
            .expect("trimming some of it");
        let read = async |block| engine::read(&pool, v.id, block * BLOCK_SECTORS, BLOCK_SECTORS).await;
        assert_eq!(read(300).await.expect("is written"), vec![Some(7); 8]);
        assert_eq!(read(260).await.expect("is trimmed"), vec![Some(0); 8]);
        assert_eq!(read(301).await.expect_err("is lost").kind(), ErrorKind::Corrupt);
        // A part of a block cannot be written: the rest of it is not known.
        let part = engine::write(&pool, 0, v.id, 302 * BLOCK_SECTORS, 1, 9).await;
        assert_eq!(part.expect_err("is lost").kind(), ErrorKind::Corrupt);
        let report = pool.check(true).await.expect("checking");
        assert_eq!((report.error_count, report.leaked), (0, 0), "{report:?}");
        let expected = [
            loss("v", 264..300, LossKind::Map),
            loss("v", 301..512, LossKind::Map),
            loss("v@s", 256..512, LossKind::Map),
        ];
        assert_eq!(report.losses, expected);
        // Neither is anything else of theirs when they go.
        pool.delete_snapshot("v", "s").await.expect("deleting");
        engine::settle(&pool).await;
        let report = pool.check(true).await.expect("checking");
        assert_eq!((report.error_count, report.leaked, report.losses.len()), (0, 0, 2), "{report:?}");
        pool.delete_volume("v", false).await.expect("deleting");
        engine::settle(&pool).await;
        let report = pool.check(true).await.expect("checking");
        assert!(report.is_clean() && report.data_blocks == 0, "{report:?}");
    });
}

/// A snapshot that has lost its map cannot say what volumes after it share with the one before it: when that was deleted,
/// all of it was given back that the volume still had.
#[test]
fn what_a_volume_has_through_a_lost_map_stays_its_own() {
    let disk = SimDisk::file(2 * LIMIT);
    let pool = disk.clone();
    block_on(async move {
        let pool = engine::create(pool, LIMIT).await?;
        let v = pool.create_volume("v", SIZE, "").await?.id;
        for (block, snapshot) in [(0, "first"), (1, "second"), (2, "third")] {
            engine::write(&pool, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, 1 + block).await?;
            pool.create_snapshots(&[("v", snapshot)], "").await?;
            // Each gets a leaf of its own.
            pool.check(false).await?;
        }
        pool.close().await
    })
    .expect("a pool");
    // Whichever of the map's blocks is lost, and whoever loses it.
    for page in most_pages(&disk) {
        let damaged = copy(&disk);
        damaged.flip_bit(page * BLOCK_SIZE + 100, 3);
        let Ok(report) = mend(&damaged) else { continue };
        let lost = |name: &str| report.losses.iter().any(|loss| loss.snapshot.as_deref() == Some(name));
        let whole = |name: Option<&str>| !report.losses.iter().any(|loss| loss.snapshot.as_deref() == name);
        let (second, head) = (lost("second"), whole(None));
        let pool = damaged.clone();
        block_on(async move {
            let pool = AnyPool::open(pool, Options::default()).await.expect("opening");
            pool.delete_snapshot("v", "first").await.expect("deleting");
            while pool.maintain(std::time::Duration::ZERO).await.expect("giving back") {}
            let checked = pool.check(false).await.expect("checking");
            assert_eq!(checked.errors, [""; 0], "page {page}, second lost {second}");
            assert!(checked.leaked == 0 || report.nodes_lost > 0, "page {page}: {checked:?}");
            // What is free now is used by somebody else.
            let other = pool.create_volume("other", SIZE, "").await.expect("a volume").id;
            for block in 0..200 {
                let written =
                    engine::write(&pool, 0, other, block * BLOCK_SECTORS, BLOCK_SECTORS, 5000 + block).await;
                written.expect("there is room");
            }
            pool.flush().await.expect("flushing");
            if head {
                let v = pool.resolve("v").expect("is there").id;
                for block in 0..3 {
                    let read = engine::read(&pool, v, block * BLOCK_SECTORS, BLOCK_SECTORS).await;
                    assert_eq!(read.expect("it is whole"), vec![Some(1 + block); 8], "page {page}");
                }
            }
            pool.close().await
        })
        .expect("closing");
    }
}

/// A pool whose last changes are in the journal only, with the place of each of its batches' first blocks.
fn with_journal() -> (SimDisk, Vec<u64>) {
    let disk = SimDisk::file(2 * LIMIT);
    let made = disk.clone();
    block_on(async move {
        let pool = fill(made).await?;
        pool.close().await?;
        Ok::<_, cairn_cow::Error>(())
    })
    .expect("a pool");
    let before: Vec<(u64, Vec<u8>)> = everything(&disk);
    let opened = disk.clone();
    block_on(async move {
        let pool = AnyPool::open(opened, Options::default()).await?;
        let v = pool.volume("v")?.id;
        for round in 0..6 {
            engine::write(&pool, 0, v, (700 + round) * BLOCK_SECTORS, BLOCK_SECTORS, 2000 + round).await?;
            pool.flush().await?;
        }
        Ok::<_, cairn_cow::Error>(())
    })
    .expect("writing");
    let batches = everything(&disk).into_iter().filter(|page| !before.contains(page));
    let in_ring = |page: &u64| (JOURNAL..JOURNAL + (1 << 20)).contains(&(page * BLOCK_SIZE));
    let batches = batches.map(|(page, _)| page).filter(in_ring).collect();
    (disk, batches)
}

#[test]
fn a_damaged_journal_loses_what_comes_after_and_never_sees_it_again() {
    let (disk, batches) = with_journal();
    assert!(batches.len() >= 6, "{batches:?}");
    let disk = disk.crash(&mut Rng::new(1));
    disk.flip_bit(batches[2] * BLOCK_SIZE + 200, 0);
    let opened = disk.clone();
    let refused = block_on(async move { AnyPool::open(opened, Options::default()).await.map(drop) });
    assert_eq!(refused.expect_err("a batch is damaged").kind(), ErrorKind::Corrupt);
    let report = mend_and_compare(&disk);
    let (damaged, last) = report.journal_cut.expect("the journal was cut");
    assert!(last > damaged + 1, "{report:?}");
    assert_eq!(report.lost_bytes, 0, "what was written later is as if it had never been");
    // Whatever is written now takes the old batches' places, and is found again after a crash at any time.
    for rounds in 0..8 {
        let disk = copy(&disk);
        let work = disk.clone();
        block_on(async move {
            let pool = AnyPool::open(work, Options::default()).await.expect("opening");
            let v = pool.volume("v").expect("is there").id;
            for round in 0..rounds {
                let done =
                    engine::write(&pool, 0, v, (800 + round) * BLOCK_SECTORS, BLOCK_SECTORS, 1 + round).await;
                done.expect("writing");
                pool.flush().await.expect("flushing");
            }
        });
        let disk = disk.crash(&mut Rng::new(rounds));
        block_on(async move {
            let pool = AnyPool::open(disk, Options::default()).await.expect("opening after a crash");
            let v = pool.volume("v").expect("is there").id;
            for round in 0..8 {
                let ids = engine::read(&pool, v, (800 + round) * BLOCK_SECTORS, BLOCK_SECTORS).await;
                let expected = if round < rounds { 1 + round } else { 0 };
                assert_eq!(ids.expect("reading"), vec![Some(expected); 8], "round {round} of {rounds}");
            }
            let seen = engine::read(&pool, v, 705 * BLOCK_SECTORS, BLOCK_SECTORS).await.expect("reading");
            assert_eq!(seen, vec![Some(0); 8], "after the damaged batch");
            engine::assert_sound(&pool, "after a repair and a crash").await;
        });
    }
}

#[test]
fn a_pool_that_was_cut_off_keeps_what_is_left() {
    let disk = closed();
    let whole = disk.len();
    disk.truncate(whole - (1 << 20));
    let refused = mend_and_compare(&disk);
    assert_eq!(refused.missing_bytes, 1 << 20);
    assert_eq!(disk.len(), whole);
    unreadable(&disk, "v");
    unreadable(&disk, "v@s");
}

#[test]
fn blocks_that_cannot_be_read_are_as_lost_as_damaged_ones() {
    let disk = closed();
    let nodes = most_pages(&disk).into_iter().filter(|page| {
        let damaged = copy(&disk);
        damaged.poke(page * BLOCK_SIZE, &[0xee; 4096]);
        mend(&damaged).is_ok_and(|report| report.nodes_lost > 0)
    });
    for page in nodes.collect::<Vec<u64>>() {
        let damaged = copy(&disk);
        damaged.poke(page * BLOCK_SIZE, &[0xee; 4096]);
        let expected = mend(&damaged).expect("repairing");
        let failing = copy(&disk);
        failing.inject(Fault::on(Op::Read).within(page * BLOCK_SIZE..(page + 1) * BLOCK_SIZE));
        let report = mend(&failing).expect("repairing a disk with a bad block");
        assert_eq!(report.losses, expected.losses, "page {page}");
    }
}

#[test]
fn without_a_superblock_nothing_is_touched() {
    let disk = closed();
    for at in [0, SECOND_SUPERBLOCK] {
        disk.poke(at + 8, &[0xee; 64]);
    }
    let before = everything(&disk);
    let refused = mend(&disk).expect_err("there is nothing to begin with");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(everything(&disk) == before);
}

/// All pages of metadata, and each eighth of data, which is all alike.
fn most_pages(disk: &SimDisk) -> Vec<u64> {
    let is_data = |page: &u64| {
        let id = disk.peek(page * BLOCK_SIZE, 8);
        (1..10_000).contains(&u64::from_le_bytes(id.try_into().expect("eight bytes")))
    };
    disk.stored_pages().into_iter().filter(|page| !is_data(page) || page % 8 == 0).collect()
}
