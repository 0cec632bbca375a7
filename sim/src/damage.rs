//! What is read of a pool whose disk has changed behind its back: what was there before, or an error; after a repair,
//! an error exactly where the repair says.

use std::collections::BTreeSet;
use std::rc::Rc;

use cairn_cow::sim::{Rng, SimDisk, block_on};
use cairn_cow::{
    BLOCK_BYTES, BLOCK_SIZE, ErrorKind, ExtentKind, Loss, Overlay, Pool as AnyPool, VersionId, repair,
};

use crate::ballast;
use crate::engine::{self, BLOCK_SECTORS, Pool, options};
use crate::oracle::Contents;
use crate::pattern::{SECTOR, ZERO};

/// What superblocks, catalog, space map and journal begin with: docs/FORMAT.md.
const HEADER_MAGIC: &[u8] = b"cairnblk";

/// I/Os and turns of a repair before which it may be cut short.
const REPAIR_EVENTS: u64 = 400;

/// Bytes that a version has lost which are tried one block after the other: an inner node may cost it a terabyte.
const MOST_COMPARED: u64 = 16 << 20;

/// Blocks that are written to a damaged pool.
const BLOCKS_AFTERWARDS: u64 = 48;

/// A version, and what it held.
struct Held {
    id: VersionId,
    size: u64,
    contents: Contents,
}

/// Stops the pool on `disk` in good order, damages the disk, and sees what is served of it.
///
/// # Panics
/// When that is anything but what was there before.
pub(crate) fn look(disk: SimDisk, rng: &mut Rng) {
    let before = disk.clone();
    let (listed, held) = block_on(async move {
        let pool = AnyPool::open(before, options()).await.unwrap_or_else(|e| panic!("reopening: {e:?}"));
        let held = (list(&pool), all(&pool).await);
        pool.close().await.unwrap_or_else(|e| panic!("closing: {e:?}"));
        held
    });
    let (held, what) = (Rc::new(held), damage(&disk, rng));
    let (to_repair, cut_short) = (disk.kill(rng), rng.chance(1, 4).then(|| rng.below(REPAIR_EVENTS)));
    repair_and_look(to_repair, rng, cut_short, Rc::clone(&held), what.clone());
    block_on(async move {
        match AnyPool::open(disk, options()).await {
            Ok(pool) => {
                assert_eq!(list(&pool), listed, "with {what}, other volumes and snapshots are there");
                let lost = compare_all(&pool, &held, &what).await;
                if let Ok(report) = pool.check(false).await {
                    let taken = report.errors.iter().find(|e| e.contains("says that it is free"));
                    assert!(taken.is_none(), "with {what}: {taken:?}");
                }
                // Whoever goes on with it loses no more than that.
                go_on(&pool).await;
                let lost_later = compare_all(&pool, &held, &what).await;
                assert_eq!(lost_later, lost, "with {what}, work on another volume made more unreadable");
            }
            Err(e) => {
                let clear = [ErrorKind::Corrupt, ErrorKind::NotAPool, ErrorKind::Truncated];
                assert!(clear.contains(&e.kind()), "opening a disk with {what}: {e:?}");
            }
        }
    });
}

/// Repairs the pool, perhaps after a first try that the power cut short, and compares what is left with what the repair says.
fn repair_and_look(disk: SimDisk, rng: &mut Rng, cut_short: Option<u64>, held: Rc<Vec<Held>>, what: String) {
    let foretold = block_on(repair(Overlay::new(disk.clone(), None), options(), |_, _| ()));
    let disk = match cut_short {
        None => disk,
        Some(events) => {
            let sim = engine::world(rng.next_u64(), &disk);
            drop(sim.run_for(events, repair(disk.clone(), options(), |_, _| ())));
            disk.crash(rng)
        }
    };
    let done = block_on(repair(disk.clone(), options(), |_, _| ()));
    let (report, foretold) = match (done, foretold) {
        (Ok(report), Ok(foretold)) => (report, foretold),
        (Err(done), Err(foretold)) => {
            assert_eq!(done.kind(), foretold.kind(), "with {what}");
            return;
        }
        (done, foretold) => panic!("with {what}, it was foretold {foretold:?}, and came {done:?}"),
    };
    assert_eq!(report.losses, foretold.losses, "with {what}, cut short {cut_short:?}");
    block_on(async move {
        let pool = AnyPool::open(disk.clone(), options()).await;
        let pool = pool.unwrap_or_else(|e| panic!("with {what}, it is repaired and does not open: {e:?}"));
        let checked = pool.check(true).await.unwrap_or_else(|e| panic!("with {what}, checking: {e:?}"));
        assert_eq!((checked.leaked, &checked.losses), (0, &report.losses), "with {what}: {checked:?}");
        for version in held.iter() {
            let of_it = || report.losses.iter().filter(|loss| id_of(&pool, loss) == version.id);
            if of_it().map(|loss| loss.len).sum::<u64>() > MOST_COMPARED {
                continue;
            }
            let blocks = |loss: &Loss| (loss.offset..loss.offset + loss.len).step_by(BLOCK_SIZE as usize);
            let lost: Vec<u64> = of_it().flat_map(blocks).map(|offset| offset / BLOCK_SIZE).collect();
            let unreadable = compare(&pool, version, &what).await;
            assert_eq!(unreadable, lost, "with {what}, of version {}", version.id);
        }
        go_on(&pool).await;
        let after = pool.check(false).await.unwrap_or_else(|e| panic!("with {what}, checking: {e:?}"));
        assert_eq!(after.error_count, 0, "with {what}: {after:?}");
        if after.leaked > 0 {
            // What a version shares with one before it, a part of whose map is lost, is neither's once the later one has gone or
            // has something else there.
            // The repair that was cut short may have lost it already.
            assert!(foretold.nodes_lost > 0, "with {what}: {after:?}");
            pool.close().await.unwrap_or_else(|e| panic!("with {what}, closing: {e:?}"));
            let again = repair(disk, options(), |_, _| ()).await;
            let again = again.unwrap_or_else(|e| panic!("with {what}, repairing again: {e:?}"));
            assert_eq!(again.freed, after.leaked, "with {what}, another repair gives it back");
        }
    });
}

fn id_of(pool: &Pool, loss: &Loss) -> VersionId {
    let name = match &loss.snapshot {
        Some(snapshot) => format!("{}@{snapshot}", loss.volume),
        None => loss.volume.clone(),
    };
    pool.resolve(&name).unwrap_or_else(|e| panic!("{name} has lost something and is not there: {e:?}")).id
}

/// Volumes and snapshots: names, ids, sizes and how much is mapped.
fn list(pool: &Pool) -> Vec<(String, VersionId, u64, u64)> {
    let volumes = pool.volumes().into_iter().map(|v| (v.name, v.id, v.size, v.mapped));
    let snapshots = pool.snapshots(None).unwrap_or_else(|e| panic!("snapshots: {e:?}"));
    volumes.chain(snapshots.into_iter().map(|s| (s.name, s.id, s.size, s.mapped))).collect()
}

async fn all(pool: &Pool) -> Vec<Held> {
    let mut held = Vec::new();
    let volumes = pool.volumes();
    let snapshots = pool.snapshots(None).unwrap_or_else(|e| panic!("snapshots: {e:?}"));
    // There is much of it, and nothing happens to it.
    let volumes = volumes.iter().filter(|v| v.name != ballast::NAME);
    let versions = volumes.map(|v| (v.id, v.size)).chain(snapshots.iter().map(|s| (s.id, s.size)));
    for (id, size) in versions {
        let contents = engine::contents(pool, id, size).await;
        let contents = contents.unwrap_or_else(|e| panic!("reading version {id}: {e:?}"));
        held.push(Held { id, size, contents });
    }
    held
}

/// Changes one or two pages that hold something; says how.
fn damage(disk: &SimDisk, rng: &mut Rng) -> String {
    let pages = disk.stored_pages();
    let header = |page: u64| disk.peek(page * BLOCK_SIZE, HEADER_MAGIC.len() + 4);
    let (metadata, others): (Vec<u64>, Vec<u64>) =
        pages.into_iter().partition(|page| header(*page).starts_with(HEADER_MAGIC));
    // Most of the one is the journal, of which nothing is needed, and of the other in a full pool what is not compared.
    let kinds: Vec<Vec<u8>> =
        metadata.iter().map(|page| header(*page)).collect::<BTreeSet<_>>().into_iter().collect();
    let others: Vec<u64> = others.into_iter().filter(|page| !ballast::is_of_it(&header(*page))).collect();
    let mut what = Vec::new();
    for _ in 0..1 + rng.below(2) {
        let kind = &kinds[rng.index(kinds.len())];
        let alike: Vec<u64> = metadata.iter().copied().filter(|page| header(*page) == *kind).collect();
        let among = if others.is_empty() || rng.chance(1, 2) { &alike } else { &others };
        let (page, other) = (among[rng.index(among.len())], among[rng.index(among.len())]);
        let at = page * BLOCK_SIZE;
        match rng.below(5) {
            0..3 => {
                let (byte, bit) = (rng.below(BLOCK_SIZE), rng.below(8) as u8);
                disk.flip_bit(at + byte, bit);
                what.push(format!("bit {bit} of byte {byte} of block {page} flipped"));
            }
            3 => {
                disk.poke(at, &[0; BLOCK_BYTES]);
                what.push(format!("block {page} lost"));
            }
            _ => {
                let bytes = disk.peek(other * BLOCK_SIZE, BLOCK_BYTES);
                disk.poke(at, &bytes);
                what.push(format!("block {other} in the place of block {page}"));
            }
        }
    }
    what.join(", ")
}

/// Writes to a volume of its own. A pool that is damaged or full may refuse.
async fn go_on(pool: &Pool) {
    let Ok(volume) = pool.create_volume("another", BLOCKS_AFTERWARDS * BLOCK_SIZE, "").await else { return };
    for block in 0..BLOCKS_AFTERWARDS {
        let written =
            engine::write(pool, 0, volume.id, block * BLOCK_SECTORS, BLOCK_SECTORS, 1 + block).await;
        if written.is_err() {
            return;
        }
    }
    if pool.flush().await.is_ok() {
        while pool.maintain(engine::BETWEEN_CALLS).await.unwrap_or(false) {}
    }
}

/// Compares several versions; how much of them cannot be read.
async fn compare_all(pool: &Pool, held: &[Held], what: &str) -> usize {
    let mut lost = 0;
    for version in held {
        lost += compare(pool, version, what).await.len();
    }
    lost
}

/// Reads a version block by block: what cannot be read is an error, what can is what was there. Returns which
/// blocks cannot be read; for a stretch of the map behind which there may be more, its first.
async fn compare(pool: &Pool, held: &Held, what: &str) -> Vec<u64> {
    let Held { id, size, contents } = held;
    let (extents, error) = engine::extents(pool, *id, *size).await;
    let mut lost = Vec::new();
    let readable: u64 = extents.iter().map(|extent| extent.len).sum();
    for extent in extents {
        let (first, end) = (extent.offset / SECTOR, (extent.offset + extent.len) / SECTOR);
        if extent.kind != ExtentKind::Data {
            let gone = contents.range(first..end).next();
            assert!(gone.is_none(), "with {what}, version {id} has a hole where {gone:?} was");
            continue;
        }
        for at in (first..end).step_by(BLOCK_SECTORS as usize) {
            let ids = match engine::read(pool, *id, at, BLOCK_SECTORS.min(end - at)).await {
                Ok(ids) => ids,
                Err(e) => {
                    assert_told(&e, what);
                    lost.push(at / BLOCK_SECTORS);
                    continue;
                }
            };
            for (sector, seen) in (at..).zip(ids) {
                let was = contents.get(&sector).copied().unwrap_or(ZERO);
                assert_eq!(seen, Some(was), "with {what}, sector {sector} of version {id} reads as another");
            }
        }
    }
    if let Some(error) = error {
        assert_told(&error, what);
        lost.push(readable / BLOCK_SIZE);
    }
    lost
}

fn assert_told(error: &cairn_cow::Error, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "with {what}: {error:?}");
}
