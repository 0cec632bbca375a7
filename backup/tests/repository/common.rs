//! Volumes, targets and stores that tests make backups with.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use cairn_backup::{
    Backup, BackupId, BackupRequest, Extents, OpenOptions, Repository, RestoreOptions, Result, Retry, Sink,
    Source, VolumeRef,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

pub(crate) mod stores;

/// The smallest chunks there may be: many of them in little data.
pub(crate) const CHUNK: u32 = 64 << 10;

/// A volume in memory: its contents and what differs from the base.
#[derive(Clone)]
pub(crate) struct Volume {
    pub(crate) data: Arc<Vec<u8>>,
    pub(crate) changed: Vec<Range<u64>>,
    /// Bytes that were read of it.
    pub(crate) read: Arc<Mutex<u64>>,
}

impl Volume {
    pub(crate) fn new(data: Vec<u8>) -> Volume {
        Volume { data: Arc::new(data), changed: Vec::new(), read: Arc::default() }
    }

    /// A volume of `size` bytes with contents that do not compress, except where `holes` says so.
    pub(crate) fn random(size: usize, seed: u64) -> Volume {
        Volume::new(noise(size, seed))
    }

    /// This volume after writes; each is an offset, a length and the seed of what is written (0: zeroes).
    pub(crate) fn changed(&self, writes: &[(usize, usize, u64)]) -> Volume {
        let mut data = self.data.to_vec();
        let mut changed = Vec::new();
        for &(offset, len, seed) in writes {
            let bytes = if seed == 0 { vec![0; len] } else { noise(len, seed) };
            data[offset..offset + len].copy_from_slice(&bytes);
            changed.push(offset as u64..(offset + len) as u64);
        }
        Volume { data: Arc::new(data), changed, read: Arc::default() }
    }

    /// This volume with another size, and nothing else changed.
    pub(crate) fn resized(&self, size: usize) -> Volume {
        let mut data = self.data.to_vec();
        data.resize(size, 0);
        Volume { data: Arc::new(data), changed: Vec::new(), read: Arc::default() }
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        *self.read.lock().unwrap()
    }
}

impl Source for Volume {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn extents(&self, which: Extents, range: Range<u64>) -> BoxFuture<'_, io::Result<Vec<Range<u64>>>> {
        let extents = match which {
            Extents::Data => vec![range],
            Extents::Changed => self.changed.clone(),
        };
        async { Ok(extents) }.boxed()
    }

    fn read(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, io::Result<Bytes>> {
        let parts: Vec<&[u8]> =
            ranges.iter().map(|range| &self.data[range.start as usize..range.end as usize]).collect();
        let data = parts.concat();
        *self.read.lock().unwrap() += data.len() as u64;
        async { Ok(Bytes::from(data)) }.boxed()
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A target in memory that insists on order, and starts full of what must not stay.
#[derive(Default)]
pub(crate) struct Target(Mutex<Vec<u8>>);

impl Target {
    pub(crate) fn into_data(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn append(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut target = self.0.lock().unwrap();
        assert_eq!(target.len() as u64, offset, "a gap, an overlap or no order");
        target.extend_from_slice(data);
        Ok(())
    }
}

impl Sink for Target {
    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let done = self.append(offset, &data);
        async move { done }.boxed()
    }

    fn hole(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<()>> {
        let done = self.append(offset, &vec![0; len as usize]);
        async move { done }.boxed()
    }
}

/// Retries without waits.
pub(crate) fn quick() -> OpenOptions {
    OpenOptions { retry: retry(3), ..OpenOptions::default() }
}

pub(crate) fn retry(attempts: u32) -> Retry {
    Retry {
        attempts,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(2),
        attempt_time: Duration::from_secs(20),
    }
}

/// When the last backup was made.
static LAST: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

pub(crate) fn request(base: Option<BackupId>) -> BackupRequest {
    let volume = VolumeRef { name: "vol".to_owned(), id: "1".to_owned() };
    let new = BackupRequest::new(volume);
    // Each is newer than the one before, however fast they are made.
    let next = |last: i64| Some(new.created.max(last + 1));
    let order = std::sync::atomic::Ordering::Relaxed;
    let last = LAST.fetch_update(order, order, next).unwrap_or_default();
    BackupRequest { base, created: new.created.max(last + 1), ..new }
}

pub(crate) async fn back_up(repo: &Repository, volume: &Volume, base: Option<BackupId>) -> Result<Backup> {
    repo.backup(Arc::new(volume.clone()), request(base)).await
}

pub(crate) async fn restored(repo: &Repository, id: BackupId) -> Result<Vec<u8>> {
    let target = Target::default();
    repo.restore(id, &target, &RestoreOptions::default()).await?;
    Ok(target.into_data())
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(found: &[u8], wanted: &[u8]) {
    assert_eq!(found.len(), wanted.len(), "sizes differ");
    if let Some(at) = found.iter().zip(wanted).position(|(a, b)| a != b) {
        panic!("bytes differ from {at} on");
    }
}
