//! Pools that are mapped without data, on a file that takes space for metadata only.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cairn_cow::{BLOCK_SIZE, CreateOptions, Disk, Options, Pool};
use cairn_uring::{Config, Reactor};
use cairnd::disk::{PoolBuf, PoolDisk};
use serde_json::{Value, json};

/// Room beside the data: for the journal, maps and space maps, and for what a benchmark writes.
const BESIDE: u64 = 64 << 30;
/// Leaves mapped between two looks at what the pool has to do besides.
const TURN_BLOCKS: u64 = 1 << 20;

/// The daemon's disk, but for that growing it takes no space.
struct SparseDisk {
    disk: PoolDisk,
    file: std::fs::File,
    len: AtomicU64,
}

impl Disk for SparseDisk {
    type Buf = PoolBuf;

    fn alloc(&self, len: usize) -> PoolBuf {
        self.disk.alloc(len)
    }

    async fn read(&self, offset: u64, buf: PoolBuf) -> (io::Result<()>, PoolBuf) {
        self.disk.read(offset, buf).await
    }

    async fn write(&self, offset: u64, bufs: Vec<PoolBuf>) -> (io::Result<()>, Vec<PoolBuf>) {
        self.disk.write(offset, bufs).await
    }

    async fn sync(&self) -> io::Result<()> {
        self.disk.sync().await
    }

    async fn grow(&self, len: u64) -> io::Result<()> {
        if len > self.len() {
            self.file.set_len(len)?;
            self.len.store(len, Ordering::Release);
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }
}

/// Makes a pool with one volume that is mapped whole. The report says how long that took.
pub(crate) fn map(path: &Path, volume: &str, size: u64) -> Result<Value, String> {
    if path.exists() {
        return Err(format!("{} exists: blocks of an old pool would not read as zeroes", path.display()));
    }
    let (disk, _) = PoolDisk::open(path, true)?;
    let file = OpenOptions::new().write(true).open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let disk = SparseDisk { disk, file, len: AtomicU64::new(0) };
    let create =
        CreateOptions { limit: size + size / 64 + BESIDE, journal_bytes: None, segment_blocks: None };
    let mut reactor = Reactor::new(Config::default()).map_err(|e| format!("cannot set up io_uring: {e}"))?;
    let begun = Instant::now();
    let mapping = async {
        let pool = Pool::create(disk, *b"cairn-growth map", create, Options::default()).await?;
        let head = pool.create_volume(volume, size, "mapped without data, for measuring").await?.id;
        let blocks = size.div_ceil(BLOCK_SIZE);
        let mut at = 0;
        while at < blocks {
            let count = TURN_BLOCKS.min(blocks - at);
            pool.map_synthetic(0, head, at, count).await?;
            at += count;
        }
        pool.close().await?;
        Ok(pool.status())
    };
    let status = reactor.block_on(mapping).map_err(|e: cairn_cow::Error| e.to_string())?;
    Ok(json!({
        "seconds": begun.elapsed().as_secs_f64(),
        "mapped": size,
        "used": status.used,
        "checkpoints": status.checkpoints,
    }))
}
