//! What a disk holds: each decoder by itself, and whole pools that somebody has changed.
//!
//! Checksums are put right after every change, so that they keep nothing from the code behind them. Such a pool may hold
//! anything; using it must give data or errors, in bounded time and memory.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

pub use cairn_cow::fuzzing::{catalog, journal, map_node, shadow, space_map, superblock};
use cairn_cow::fuzzing::{metadata, right_checksums};
use cairn_cow::sim::{SimBuf, SimDisk, block_on};
use cairn_cow::{
    BLOCK_SIZE, CreateOptions, Disk as _, Error, Holder, Options, Pool, Result, VersionId, dump, repair,
};

/// What the disks of these pools can grow to.
const ROOM: u64 = 32 << 20;
const BLOCK: usize = BLOCK_SIZE as usize;

fn options() -> Options {
    Options { lanes: 1, map_cache_bytes: 1 << 20, read_cache_bytes: 0, ..Options::default() }
}

/// A pool as its process left it.
struct Sample {
    len: u64,
    pages: Vec<(u64, Vec<u8>)>,
    /// The blocks that are worth changing.
    metadata: Vec<u64>,
}

impl Sample {
    fn of(disk: &SimDisk) -> Sample {
        let page = |page: &u64| (*page, disk.peek(page * BLOCK_SIZE, BLOCK));
        Sample {
            len: disk.len(),
            pages: disk.stored_pages().iter().map(page).collect(),
            metadata: metadata(disk),
        }
    }

    fn disk(&self) -> SimDisk {
        let disk = SimDisk::file(ROOM);
        let (grown, len) = (disk.clone(), self.len);
        block_on(async move { grown.grow(len).await.and(grown.sync().await) }).expect("there is room");
        for (page, bytes) in &self.pages {
            disk.poke(page * BLOCK_SIZE, bytes);
        }
        disk.forget_all();
        disk
    }
}

fn filled(pool: &Pool<SimDisk>, byte: u8) -> SimBuf {
    let mut buf = pool.buffer(BLOCK);
    buf.fill(byte);
    buf
}

/// Two volumes with data, holes and zeroes, snapshots, a clone, a deletion under way and attributes.
async fn fill(pool: &Pool<SimDisk>) -> Result<()> {
    let a = pool.create_volume("a", 4 << 20, "the first").await?.id;
    let b = pool.create_volume("b", 8 << 20, "").await?.id;
    for block in 0..20u64 {
        pool.write(0, a, block * 17 * BLOCK_SIZE, BLOCK, filled(pool, block as u8)).await?;
        pool.write(0, b, block * BLOCK_SIZE, BLOCK, filled(pool, !(block as u8))).await?;
    }
    pool.create_snapshots(&[("a", "s1"), ("b", "s1")], "both").await?;
    pool.write(0, a, 0, BLOCK, filled(pool, 99)).await?;
    pool.trim(b, 0, 5 * BLOCK_SIZE).await?;
    pool.create_snapshots(&[("a", "s2")], "").await?;
    pool.clone_volume("a", "s1", "c", None).await?;
    pool.set_attributes(Holder::Volume("a"), &[("type", Some("fast"))]).await?;
    pool.set_attributes(Holder::Pool, &[("default-type", Some("fast"))]).await?;
    pool.flush().await
}

/// The pools that are changed: one that was closed, and one whose journal has everything.
static SAMPLES: LazyLock<[Sample; 2]> = LazyLock::new(|| {
    [true, false].map(|closed| {
        let disk = SimDisk::file(ROOM);
        disk.forget_all();
        let used = disk.clone();
        let pool = block_on(async move {
            let create =
                CreateOptions { limit: ROOM, journal_bytes: Some(1 << 20), segment_blocks: Some(256) };
            let pool = Pool::create(used, *b"a pool in a fuzz", create, options()).await?;
            fill(&pool).await?;
            if closed {
                pool.close().await?;
            } else {
                // What comes after a checkpoint is in the journal, also growth and what becomes of deleted versions.
                pool.check(false).await?;
                let b = pool.resolve("b")?.id;
                pool.delete_snapshot("a", "s1").await?;
                pool.resize_volume("a", 16 << 20).await?;
                for block in 0..200u64 {
                    pool.write(0, b, block * BLOCK_SIZE, BLOCK, filled(&pool, block as u8)).await?;
                }
                pool.rollback("a", "s2").await?;
                while pool.maintain(Duration::ZERO).await? {}
                pool.flush().await?;
                pool.trim(b, 0, 1 << 20).await?;
                pool.flush().await?;
            }
            Ok::<_, Error>(pool)
        });
        let sample = Sample::of(&disk);
        drop(pool.expect("a pool"));
        sample
    })
});

/// Bytes of an input that say where a change is: the block, the place in it, and how many bytes follow.
const CHANGE: usize = 4;

/// A pool with changes in it: which one, whether its checksums match and whether it is repaired, then the changes. What can
/// be opened is used: all is read, checked, written and deleted.
pub fn changed(input: &[u8]) {
    let Some((which, mut changes)) = input.split_first() else { return };
    let sample = &SAMPLES[usize::from(*which & 1)];
    let disk = sample.disk();
    while let Some((change, rest)) = changes.split_first_chunk::<CHANGE>() {
        let [block, low, high, len] = *change;
        let at = usize::from(u16::from_le_bytes([low, high])) % BLOCK;
        let bytes = &rest[..usize::from(len % 32).min(rest.len()).min(BLOCK - at)];
        let block = sample.metadata[usize::from(block) % sample.metadata.len()];
        disk.poke(block * BLOCK_SIZE + at as u64, bytes);
        changes = &rest[bytes.len()..];
    }
    if *which & 2 == 0 {
        right_checksums(&disk);
    }
    if *which & 4 != 0 {
        let broken = disk.clone();
        let _ = block_on(async move {
            dump(&broken, None).await;
            repair(broken, options(), |_, _| ()).await
        });
    }
    // Errors are what most of them should give.
    let _ = block_on(async move { live(Pool::open(disk, options()).await?).await });
}

/// Bytes of a volume that are read: all of those in the samples, and some of whatever they are made.
const READ: u64 = 2 << 20;

/// Uses all that a pool offers, and goes on after errors.
async fn live(pool: Arc<Pool<SimDisk>>) -> Result<()> {
    let volumes = pool.volumes();
    let snapshots = pool.snapshots(None)?;
    for volume in &volumes {
        let _ = (pool.tree(&volume.name), pool.attributes(Holder::Volume(&volume.name)));
    }
    let exports = volumes.iter().map(|volume| volume.name.clone());
    let exports =
        exports.chain(snapshots.iter().map(|snapshot| format!("{}@{}", snapshot.volume, snapshot.name)));
    let ids: Vec<VersionId> =
        exports.filter_map(|name| Some(pool.resolve(&name).ok()?.id)).take(16).collect();
    for id in &ids {
        let size = pool.size_of(*id)?;
        for at in (0..size.min(READ)).step_by(1 << 18) {
            let _ = pool.read(*id, at, (size - at).min(1 << 18) as usize).await;
        }
        let _ = pool.read(*id, size.saturating_sub(BLOCK_SIZE), size.min(BLOCK_SIZE) as usize).await;
        let _ = pool.extents(*id, 0, size, 1000).await;
    }
    let _ = pool.check(true).await;
    for pair in ids.windows(2) {
        let _ = pool.diff_versions(pair[0], pair[1]).await;
    }
    for id in &ids {
        let _ = pool.write(0, *id, 3 * BLOCK_SIZE, BLOCK, filled(&pool, 1)).await;
        let _ = pool.trim(*id, 0, 9 * BLOCK_SIZE).await;
    }
    for volume in volumes.iter().take(4) {
        let _ = pool.create_snapshots(&[(&volume.name, "new")], "").await;
        let _ = pool.resize_volume(&volume.name, volume.size.saturating_add(BLOCK_SIZE)).await;
    }
    let _ = pool.flush().await;
    for volume in volumes.iter().take(4) {
        let _ = pool.delete_volume(&volume.name, true).await;
    }
    for _ in 0..1000 {
        if !matches!(pool.maintain(Duration::from_secs(1)).await, Ok(true)) {
            break;
        }
    }
    let _ = pool.check(false).await;
    pool.close().await
}
