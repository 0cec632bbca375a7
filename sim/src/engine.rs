//! The engine over the simulated disk, spoken to in sectors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cairn_cow::sim::{Handle, Rng, Sim, SimBuf, SimDisk};
use cairn_cow::{
    BLOCK_BYTES, BLOCK_SIZE, CreateOptions, Disk, Error, ErrorKind, Extent, ExtentKind, Lsn, Options, Result,
    VersionId,
};

use crate::pattern::{SECTOR, ZERO, decode, fill};

/// The engine under test.
pub type Pool = cairn_cow::Pool<SimDisk>;

/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = BLOCK_SIZE / SECTOR;

/// A pool so small that its ring wraps, it grows and it takes checkpoints all the time.
pub fn tiny(limit: u64) -> CreateOptions {
    CreateOptions { limit, segment_blocks: Some(64), journal_bytes: Some(1 << 20) }
}

/// Time that usually passes between two calls for background duties ...
pub(crate) const BETWEEN_CALLS: Duration = Duration::from_millis(100);
/// ... and time after which nobody seems to use a pool.
const A_WHILE: Duration = Duration::from_millis(400);

/// Where superblocks begin: docs/FORMAT.md ...
pub const SUPERBLOCKS: [u64; 2] = [0, 256 * BLOCK_SIZE];
/// ... and where the bytes of its ring are.
pub const JOURNAL: Range<u64> = 512 * BLOCK_SIZE..768 * BLOCK_SIZE;

/// Makes a pool of [`tiny`] pieces on an empty disk.
pub async fn create(disk: SimDisk, limit: u64) -> Result<Arc<Pool>> {
    create_with(disk, limit, options()).await
}

/// The same, used in another way.
pub(crate) async fn create_with(disk: SimDisk, limit: u64, options: Options) -> Result<Arc<Pool>> {
    Pool::create(disk, *b"a pool in a test", tiny(limit), options).await
}

/// Memory for I/O, aligned as every disk wants it.
fn buffer(len: usize) -> SimBuf {
    SimDisk::file(0).alloc(len)
}

/// Few lanes and a cache so small that map nodes are evicted.
pub fn options() -> Options {
    Options { lanes: 2, map_cache_bytes: 256 << 10, read_cache_bytes: 64 << 10, ..Options::default() }
}

/// Does the pool's background duties until the world ends. On a healthy disk nothing but a lack of room may hinder
/// them.
pub fn maintain_forever(handle: &Handle, pool: &Arc<Pool>, rng: Rng, healthy: bool) {
    drop(handle.spawn(maintain(handle.clone(), Arc::clone(pool), rng, || false, move |_| !healthy)));
}

/// Does the pool's background duties until it is `over`. Nothing may hinder them but a lack of room and what is
/// `excused`.
pub(crate) async fn maintain(
    handle: Handle,
    pool: Arc<Pool>,
    mut rng: Rng,
    over: impl Fn() -> bool,
    excused: impl Fn(&Error) -> bool,
) {
    while !over() {
        handle.sleep(1 + rng.below(300)).await;
        // Now and then it seems that nobody has used the pool for a while.
        let calls = if rng.chance(1, 4) { &[Duration::ZERO, A_WHILE][..] } else { &[BETWEEN_CALLS] };
        for elapsed in calls {
            if let Err(e) = pool.maintain(*elapsed).await {
                assert!(e.kind() == ErrorKind::NoSpace || excused(&e), "background duties: {e:?}");
            }
        }
    }
}

/// Whether the pool refuses changes.
pub fn is_fenced(pool: &Pool) -> bool {
    pool.status().fenced.is_some()
}

/// Writes sectors with what write `id` puts there.
pub async fn write(pool: &Pool, lane: usize, v: VersionId, sector: u64, count: u64, id: u64) -> Result<Lsn> {
    let (offset, len) = (sector * SECTOR, (count * SECTOR) as usize);
    let phase = (offset % BLOCK_SIZE) as usize;
    let mut buf = buffer((phase + len).next_multiple_of(BLOCK_BYTES));
    fill(&mut buf[phase..phase + len], id, sector);
    pool.write(lane, v, offset, len, buf).await
}

/// Makes sectors zeroes or a hole.
pub async fn zero(
    pool: &Pool,
    lane: usize,
    v: VersionId,
    sector: u64,
    count: u64,
    kind: ExtentKind,
) -> Result<Lsn> {
    if kind == ExtentKind::Hole {
        return pool.trim(v, sector * SECTOR, count * SECTOR).await;
    }
    pool.zero(lane, v, sector * SECTOR, count * SECTOR, kind).await
}

/// The sectors that become zeroes: a trim leaves blocks alone that are only partly in its range, but for the last of
/// a volume of `size` bytes.
pub fn zeroed(kind: ExtentKind, sector: u64, count: u64, size: u64) -> Range<u64> {
    let end = sector + count;
    if kind == ExtentKind::Zero {
        return sector..end;
    }
    let first = sector.next_multiple_of(BLOCK_SECTORS).min(end);
    let last = if end == size / SECTOR { end } else { end - end % BLOCK_SECTORS };
    first..last.max(first)
}

/// Reads bytes, wherever they begin.
pub async fn read_bytes(pool: &Pool, v: VersionId, offset: u64, len: usize) -> Result<Vec<u8>> {
    let reply = pool.read(v, offset, len).await?;
    let phase = (offset % BLOCK_SIZE) as usize;
    Ok(reply.buf.map_or_else(|| vec![0; len], |buf| buf[phase..phase + len].to_vec()))
}

/// Reads sectors: the id of the write each holds, `None` for one that no write made.
pub async fn read(pool: &Pool, v: VersionId, sector: u64, count: u64) -> Result<Vec<Option<u64>>> {
    let (offset, len) = (sector * SECTOR, (count * SECTOR) as usize);
    let reply = pool.read(v, offset, len).await?;
    let Some(buf) = reply.buf else { return Ok(vec![Some(ZERO); count as usize]) };
    let bytes = &buf[(offset % BLOCK_SIZE) as usize..][..len];
    Ok((sector..).zip(bytes.chunks_exact(SECTOR as usize)).map(|(s, b)| decode(b, s)).collect())
}

/// What lies where in a version, in order, as far as that can be told, and why not further.
///
/// # Panics
/// When block status contradicts itself.
pub async fn extents(pool: &Pool, v: VersionId, size: u64) -> (Vec<Extent>, Option<Error>) {
    let mut all: Vec<Extent> = Vec::new();
    let mut offset = 0;
    while offset < size {
        let extents = match pool.extents(v, offset, size - offset, 64).await {
            Ok(extents) => extents,
            Err(e) => return (all, Some(e)),
        };
        assert!(!extents.is_empty(), "block status made no progress at {offset} of {size}");
        for extent in extents {
            assert_eq!(extent.offset, offset, "extents follow one another");
            assert!(extent.len > 0, "an empty extent at {offset}");
            offset += extent.len;
            all.push(extent);
        }
    }
    assert_eq!(offset, size, "extents end where the version ends");
    (all, None)
}

/// Everything a version holds, found by its extents: the id in each sector that is not zero.
///
/// # Panics
/// When a sector holds what no write put there, or block status contradicts itself.
pub async fn contents(pool: &Pool, v: VersionId, size: u64) -> Result<BTreeMap<u64, u64>> {
    let (extents, error) = extents(pool, v, size).await;
    if let Some(error) = error {
        return Err(error);
    }
    let mut found = Vec::new();
    for extent in extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
        let (first, end) = (extent.offset / SECTOR, (extent.offset + extent.len) / SECTOR);
        for at in (first..end).step_by(64 * BLOCK_SECTORS as usize) {
            let ids = read(pool, v, at, (end - at).min(64 * BLOCK_SECTORS)).await?;
            for (sector, id) in (at..).zip(ids) {
                let id = id.unwrap_or_else(|| panic!("version {v}: sector {sector} holds garbage"));
                if id != ZERO {
                    found.push((sector, id));
                }
            }
        }
    }
    // In order, so that the map is built at once.
    Ok(found.into_iter().collect())
}

/// Gives back the space of deleted versions, but for those that several others still descend from.
pub async fn settle(pool: &Pool) {
    while pool.maintain(BETWEEN_CALLS).await.unwrap_or_else(|e| panic!("background duties: {e:?}")) {}
}

/// Checks the pool beside running I/O: there may be blocks that wait to be given back, and nothing is wrong.
///
/// # Panics
/// When anything is.
pub async fn assert_well(pool: &Pool) {
    let report = pool.check(false).await.unwrap_or_else(|e| panic!("check: {e:?}"));
    assert_eq!(report.error_count, 0, "{report:#?}");
}

/// Checks the whole pool, data included.
///
/// # Panics
/// When anything is wrong or leaked.
pub async fn assert_sound(pool: &Pool, when: &str) {
    let report = pool.check(true).await.unwrap_or_else(|e| panic!("the check failed {when}: {e:?}"));
    assert!(report.is_clean(), "the pool is not sound {when}: {report:#?}");
}

/// A world with one disk in it.
pub fn world(seed: u64, disk: &SimDisk) -> Sim {
    let sim = Sim::new(seed);
    sim.attach(disk);
    sim
}
