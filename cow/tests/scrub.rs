//! Scrubbing finds what is damaged, reads each block once, and goes on beside everything else.

use std::sync::Arc;

use cairn_cow::sim::{Rng, SimDisk, block_on};
use cairn_cow::{BLOCK_SIZE, ExtentKind, LossKind, Options, Pool as AnyPool, Scrub, ScrubStep};
use cairn_sim::engine::{self, BLOCK_SECTORS, Pool};

const LIMIT: u64 = 32 << 20;
const BLOCKS: u64 = 600;

/// A closed pool: a volume, two snapshots and a clone that share most, a second volume of zeroes, and one that was deleted.
fn closed() -> SimDisk {
    let disk = SimDisk::file(2 * LIMIT);
    let made = disk.clone();
    block_on(async move {
        let pool = engine::create(made, LIMIT).await?;
        let v = pool.create_volume("v", 8 << 20, "").await?.id;
        let write =
            async |v, block, id| engine::write(&pool, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, id).await;
        for block in 0..BLOCKS {
            write(v, block, 1 + block).await?;
        }
        for (round, name) in [(1, "a"), (2, "b")] {
            pool.create_snapshots(&[("v", name)], "").await?;
            write(v, 3 * round, 1000 + round).await?;
        }
        let clone = pool.clone_volume("v", "a", "c", None).await?.id;
        write(clone, 5, 2000).await?;
        let zeroes = pool.create_volume("z", 1 << 30, "").await?.id;
        engine::zero(&pool, 0, zeroes, 0, 1 << 20, ExtentKind::Zero).await?;
        pool.close().await
    })
    .expect("a pool");
    disk.kill(&mut Rng::new(0))
}

async fn scrub_all(pool: &Pool, blocks: usize) -> (Scrub, Vec<ScrubStep>) {
    let (mut cursor, mut steps) = (Scrub::default(), Vec::new());
    loop {
        let step = pool.scrub_step(&mut cursor, blocks).await.expect("scrubbing");
        let done = step.done;
        steps.push(step);
        if done {
            return (cursor, steps);
        }
    }
}

async fn open(disk: SimDisk) -> Result<Arc<Pool>, cairn_cow::Error> {
    AnyPool::open(disk, Options::default()).await
}

#[test]
fn everything_is_read_once_and_nothing_is_wrong() {
    let disk = closed();
    block_on(async move {
        let pool = open(disk).await.expect("opening");
        let report = pool.check(true).await.expect("checking");
        for blocks in [256, 16, 7] {
            let (cursor, steps) = scrub_all(&pool, blocks).await;
            assert_eq!((cursor.nodes, cursor.data_blocks), (report.nodes, report.data_blocks));
            let bytes: u64 = steps.iter().map(|step| step.bytes).sum();
            assert_eq!(bytes, (report.nodes + report.data_blocks) * BLOCK_SIZE);
            assert!(steps.iter().all(|step| step.bytes <= (blocks as u64 + 5) * BLOCK_SIZE), "small steps");
            assert!(steps.iter().all(|step| step.faults.is_empty()), "{steps:?}");
        }
        assert_eq!(pool.status().checksum_errors, 0);
    });
}

#[test]
fn whatever_block_is_damaged_the_scrub_finds_what_the_check_finds() {
    let disk = closed();
    let (mut data, mut maps) = (0, 0);
    for page in most_pages(&disk) {
        let damaged = disk.kill(&mut Rng::new(0));
        damaged.flip_bit(page * BLOCK_SIZE + 999, 5);
        let found = block_on(async move {
            let Ok(pool) = open(damaged).await else { return None };
            let (_, steps) = scrub_all(&pool, 256).await;
            let faults: Vec<_> = steps.into_iter().flat_map(|step| step.faults).collect();
            assert_eq!(pool.status().checksum_errors, faults.len() as u64);
            let report = pool.check(true).await.expect("checking");
            assert_eq!(faults.len() as u64, report.error_count, "page {page}: {faults:?}, {report:?}");
            if let [(loss, sentence)] = &faults[..] {
                assert!(report.losses.contains(loss), "{loss:?}, {report:?}");
                assert!(sentence.contains(&format!("block {page}")), "page {page}: {sentence}");
            }
            Some(faults.into_iter().map(|(loss, _)| loss.kind).collect::<Vec<_>>())
        });
        match found.as_deref() {
            Some([LossKind::Data]) => data += 1,
            Some([LossKind::Map]) => maps += 1,
            Some([]) | None => {}
            more => panic!("page {page}: {more:?}"),
        }
    }
    assert!(data > 60, "{data} blocks of data");
    assert!(maps >= 12, "{maps} nodes");
}

/// Versions come and go, blocks are freed and used again, and no step takes one thing for another.
#[test]
fn a_scrub_goes_on_beside_writers_and_deletions() {
    cairn_cow::sim::for_each_seed(4, |seed| {
        let disk = closed();
        block_on(async move {
            let pool = open(disk).await.expect("opening");
            let mut rng = Rng::new(seed);
            let (mut cursor, mut rounds, mut steps) = (Scrub::default(), 0, 0);
            while rounds < 20 {
                let v = pool.volume("v").expect("is there").id;
                for _ in 0..rng.below(6) {
                    let (block, id) = (rng.below(BLOCKS), 5000 + rng.below(1000));
                    engine::write(&pool, 0, v, block * BLOCK_SECTORS, BLOCK_SECTORS, id)
                        .await
                        .expect("writing");
                }
                match rng.below(12) {
                    0 => drop(pool.create_snapshots(&[("v", "x")], "").await),
                    1 => drop(pool.delete_snapshot("v", "x").await),
                    2 => drop(pool.delete_snapshot("v", "b").await),
                    3 => drop(pool.delete_volume("c", false).await),
                    4 => {
                        let undo = pool.rollback("v", "a").await.expect("rolling back");
                        pool.delete_snapshot("v", &undo.name).await.expect("deleting");
                    }
                    5 => pool.flush().await.expect("flushing"),
                    6..9 => engine::settle(&pool).await,
                    _ => {}
                }
                let step = pool.scrub_step(&mut cursor, 1 + rng.index(256)).await.expect("scrubbing");
                assert!(step.faults.is_empty(), "{step:?}");
                steps += 1;
                if step.done {
                    (cursor, rounds) = (Scrub::default(), rounds + 1);
                }
            }
            assert!(steps > 60, "{steps} steps");
            engine::settle(&pool).await;
            engine::assert_sound(&pool, "after scrubbing").await;
        });
    });
}

/// All pages of metadata, and each eighth of data, which is all alike.
fn most_pages(disk: &SimDisk) -> Vec<u64> {
    let is_data = |page: &u64| {
        let id = disk.peek(page * BLOCK_SIZE, 8);
        (1..10_000).contains(&u64::from_le_bytes(id.try_into().expect("eight bytes")))
    };
    disk.stored_pages().into_iter().filter(|page| !is_data(page) || page % 8 == 0).collect()
}
