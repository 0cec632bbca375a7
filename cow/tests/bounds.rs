//! What one task may take of what all share: memory for the map, the pool's lock, a turn of its reactor.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_cow::sim::{Fault, Op, SimDisk, block_on};
use cairn_cow::{BLOCK_SIZE, CreateOptions, Disk as _, ExtentKind, Options, VersionId};

use cairn_sim::engine::{self, Pool};

const MIB: u64 = 1 << 20;
/// Bytes of a disk that one leaf maps.
const LEAF: u64 = MIB;

/// Map nodes get as little memory as there can be.
const TIGHT: Options = Options { lanes: 1, map_cache_bytes: 0, read_cache_bytes: 0, batch_bytes: usize::MAX };

/// A pool with a volume of so many leaves, each of which maps one block of zeroes, and none of which is in memory.
fn leaves_on_disk(leaves: u64) -> (SimDisk, Arc<Pool>, VersionId) {
    let disk = SimDisk::file(256 * MIB);
    let made = disk.clone();
    let (pool, head) = block_on(async move {
        let create = CreateOptions { limit: 256 * MIB, segment_blocks: None, journal_bytes: None };
        let pool = Pool::create(made.clone(), *b"a pool in a test", create, TIGHT).await?;
        let head = pool.create_volume("v", leaves * LEAF, "").await?.id;
        for leaf in 0..leaves {
            if leaf % 256 == 0 {
                // Grows ahead: there is no data for which it would grow at once.
                engine::settle(&pool).await;
            }
            pool.zero(0, head, leaf * LEAF, 4096, ExtentKind::Zero).await?;
        }
        pool.close().await?;
        drop(pool);
        Ok::<_, cairn_cow::Error>((Pool::open(made, TIGHT).await?, head))
    })
    .expect("a pool");
    (disk, pool, head)
}

/// A read of 33 leaves began again from its first leaf whenever one of them was missing, so it needed all of them in
/// memory at once. In a small cache several such reads pushed out each other's, and none ever ended.
#[test]
fn long_reads_in_a_small_map_cache_read_each_leaf_once() {
    const READERS: u64 = 64;
    const LEAVES: u64 = 33;
    let (disk, pool, head) = leaves_on_disk(READERS * LEAVES);
    let sim = engine::world(1, &disk);
    let before = disk.counts().reads;
    let reads: Vec<_> = (0..READERS)
        .map(|reader| {
            let pool = Arc::clone(&pool);
            let len = (LEAVES - 1) * LEAF;
            sim.spawn(async move { pool.read(head, reader * LEAVES * LEAF + 4096, len as usize).await })
        })
        .collect();
    sim.run_events(100_000);
    let ended = reads.iter().filter_map(|read| read.take()).filter(|reply| reply.is_ok()).count();
    assert_eq!(ended as u64, READERS);
    // All of them may ask for the same inner nodes at once, of which there are four levels, and some again: they are
    // pushed out, too.
    let most = READERS * (LEAVES + 8);
    let taken = disk.counts().reads - before;
    assert!(taken <= most, "{taken} nodes read, {most} would do");
}

/// Polls a future to its end and calls `seen` after every poll.
async fn watched<T>(future: impl Future<Output = T>, mut seen: impl FnMut()) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        seen();
        polled
    })
    .await
}

/// A commit that confirmed the deletion of 16 GiB kept its reactor, and the pool's lock, for a tenth of a second.
#[test]
fn freed_space_comes_back_a_bit_in_every_turn() {
    const BLOCKS: u64 = 60_000;
    let worst = block_on(async move {
        let create = CreateOptions { limit: 512 * MIB, segment_blocks: None, journal_bytes: None };
        let disk = SimDisk::file(512 * MIB);
        let pool = Pool::create(disk, *b"a pool in a test", create, Options::default()).await?;
        let head = pool.create_volume("v", BLOCKS * BLOCK_SIZE, "").await?.id;
        pool.map_synthetic(0, head, 0, BLOCKS).await?;
        pool.close().await?;
        let full = pool.status().used;
        pool.trim(head, 0, BLOCKS * BLOCK_SIZE).await?;
        let (mut used, mut worst) = (full, 0);
        let mut seen = || {
            let now = pool.status().used;
            worst = worst.max(used.saturating_sub(now));
            used = now;
        };
        watched(pool.flush(), &mut seen).await?;
        while watched(pool.maintain(Duration::from_millis(300)), &mut seen).await? {}
        assert!(full - used >= BLOCKS * BLOCK_SIZE, "all of it comes back");
        Ok::<_, cairn_cow::Error>(worst / BLOCK_SIZE)
    })
    .expect("a pool");
    // A commit or checkpoint and the background may each take back 2048 in one turn.
    assert!(worst <= 3 * 2048, "{worst} blocks in one turn");
}

/// Four pieces of a checkpoint, 64 nodes each, were encoded and checksummed in one turn.
#[test]
fn a_checkpoint_writes_one_piece_in_a_turn() {
    const LEAVES: u64 = 1500;
    let (worst, written) = block_on(async move {
        let create = CreateOptions { limit: 512 * MIB, segment_blocks: None, journal_bytes: None };
        let disk = SimDisk::file(512 * MIB);
        let pool = Pool::create(disk.clone(), *b"a pool in a test", create, Options::default()).await?;
        let head = pool.create_volume("v", LEAVES * LEAF, "").await?.id;
        for leaf in 0..LEAVES {
            pool.map_synthetic(0, head, leaf * LEAF / BLOCK_SIZE, 1).await?;
        }
        pool.flush().await?;
        let before = disk.counts().bytes_written;
        let (mut now, mut worst) = (before, 0);
        let seen = || {
            worst = worst.max(disk.counts().bytes_written - now);
            now = disk.counts().bytes_written;
        };
        watched(pool.close(), seen).await?;
        Ok::<_, cairn_cow::Error>((worst, now - before))
    })
    .expect("a pool");
    assert!(written > LEAVES * BLOCK_SIZE, "all leaves are written");
    // 64 leaves, and in the turn that ends a level one block of what comes next.
    assert!(worst <= 66 * BLOCK_SIZE, "{worst} bytes in one turn");
}

/// A pool that grows by 64 blocks at a time, full but for its reserve, and its volume.
async fn nearly_full(disk: SimDisk) -> cairn_cow::Result<(Arc<Pool>, VersionId)> {
    let pool = engine::create(disk.clone(), 64 * MIB).await?;
    let head = pool.create_volume("v", 64 * MIB, "").await?.id;
    let mut lba = 0;
    while pool.status().size < 8 * MIB {
        pool.map_synthetic(0, head, lba, 32).await?;
        lba += 32;
    }
    Ok((pool, head))
}

/// A writer in a full pool waited until as many segments were added as suit the pool's size, though one would do.
#[test]
fn a_writer_waits_for_one_segment() {
    let disk = SimDisk::file(64 * MIB);
    let (most, all) = block_on(async move {
        let (pool, head) = nearly_full(disk.clone()).await?;
        let (mut most, before) = (0, disk.counts().grows);
        for lba in 8000..8500 {
            let now = disk.counts().grows;
            pool.map_synthetic(0, head, lba, 1).await?;
            most = most.max(disk.counts().grows - now);
        }
        Ok::<_, cairn_cow::Error>((most, disk.counts().grows - before))
    })
    .expect("a pool");
    assert!(all > 4, "the pool grew");
    assert_eq!(most, 1, "segments that one write waited for");
}

/// When one of several segments could not be added, those before it did not count.
#[test]
fn growth_that_stops_half_way_is_no_error() {
    let disk = SimDisk::file(64 * MIB);
    block_on(async move {
        let (pool, head) = nearly_full(disk.clone()).await?;
        let (before, size) = (disk.counts().grows, pool.status().size);
        disk.inject(Fault::on(Op::Grow).after(1).once());
        let mut lba = 8000;
        while disk.counts().grows < before + 2 {
            pool.maintain(Duration::ZERO).await?;
            pool.map_synthetic(0, head, lba, 1).await?;
            lba += 1;
        }
        assert!(pool.status().size > size);
        Ok::<_, cairn_cow::Error>(())
    })
    .expect("the background goes on");
}

/// A copy of a disk is read once: it must not take the read cache from those who read again.
#[test]
fn what_is_read_once_stays_out_of_the_read_cache() {
    const LEN: usize = 256 << 10;
    let disk = SimDisk::file(256 * MIB);
    let made = disk.clone();
    let reads = block_on(async move {
        let create = CreateOptions { limit: 256 * MIB, segment_blocks: None, journal_bytes: None };
        let pool = Pool::create(made.clone(), *b"a pool in a test", create, Options::default()).await?;
        let head = pool.create_volume("v", MIB, "").await?.id;
        let mut data = made.alloc(LEN);
        data.fill(7);
        pool.write(0, head, 0, LEN, data).await?;
        pool.close().await?;
        drop(pool);
        let pool = Pool::open(made.clone(), Options::default()).await?;
        let mut reads = Vec::new();
        // The first read also brings the map.
        pool.read_once(head, 0, LEN).await?;
        for once in [true, true, false, false, true] {
            let before = made.counts().bytes_read;
            let reply =
                if once { pool.read_once(head, 0, LEN).await } else { pool.read(head, 0, LEN).await }?;
            assert!(reply.buf.is_some_and(|data| data.iter().all(|byte| *byte == 7)));
            reads.push(made.counts().bytes_read - before);
        }
        Ok::<_, cairn_cow::Error>(reads)
    })
    .expect("a pool");
    let len = LEN as u64;
    assert_eq!(reads, [len, len, len, 0, 0]);
}
