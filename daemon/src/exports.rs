//! The pool's volumes and snapshots as NBD exports: `VOLUME`, writable, and `VOLUME@SNAPSHOT`, read-only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_cow::{Error, ErrorKind, ExtentKind, Pool, Resolved, VersionId};
use cairn_nbd::{
    ClientInfo, Context, Errno, Export, ExportInfo, ExportName, Exports, Features, OpenError, ReadExtent,
    ReadReply, StatusExtent, StatusQuery, ZeroFlags, proto,
};
use cairn_uring::AlignedBuf;
use parking_lot::Mutex;

use crate::control::{Attachment, InUse, Sessions, Target};
use crate::disk::{PoolBuf, PoolDisk};

/// When the log was last told that there is no space.
static FULL_SAID: Seldom = Seldom::new(Duration::from_secs(10));

/// Something that is to happen at most once in a while.
struct Seldom {
    period: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    const fn new(period: Duration) -> Seldom {
        Seldom { period, last: Mutex::new(None) }
    }

    fn is_due(&self) -> bool {
        let mut last = self.last.lock();
        let due = last.is_none_or(|at| at.elapsed() >= self.period);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// Everything that can be connected to, as one reactor serves it.
pub struct PoolExports {
    pool: Arc<Pool<PoolDisk>>,
    sessions: Arc<Sessions>,
    lane: usize,
}

impl PoolExports {
    /// `lane` is the reactor's own, so that its writes stay together.
    pub fn new(pool: Arc<Pool<PoolDisk>>, sessions: Arc<Sessions>, lane: usize) -> PoolExports {
        PoolExports { pool, sessions, lane }
    }

    /// The export that the empty name means: the only volume, where there is just one.
    fn default_name(&self) -> Result<String, OpenError> {
        let mut volumes = self.pool.volumes();
        match (volumes.pop(), volumes.is_empty()) {
            (Some(only), true) => Ok(only.name),
            _ => Err(OpenError::Unknown),
        }
    }
}

impl Exports for PoolExports {
    type Export = VersionExport;

    async fn open(&self, name: &str, _client: &ClientInfo) -> Result<VersionExport, OpenError> {
        let name = if name.is_empty() { self.default_name()? } else { name.to_owned() };
        // First the place in the registry, then the look-up: nothing can be deleted in between.
        let attachment = self.sessions.attach(Target::of_export(&name)).map_err(|why| match why {
            InUse::Connected(_) | InUse::Held => OpenError::Failed(format!("{name}: {why}; try again")),
        })?;
        let resolved = self.pool.resolve(&name).map_err(|error| match error.kind() {
            ErrorKind::NotFound => OpenError::Unknown,
            _ => OpenError::Failed(error.to_string()),
        })?;
        Ok(VersionExport {
            pool: Arc::clone(&self.pool),
            lane: self.lane,
            name,
            resolved,
            _attachment: attachment,
        })
    }

    async fn list(&self, _client: &ClientInfo) -> Vec<ExportName> {
        let mut names = Vec::new();
        for volume in self.pool.volumes() {
            let snapshots = self.pool.snapshots(Some(&volume.name)).unwrap_or_default();
            let of_snapshot = |s: cairn_cow::SnapshotInfo| ExportName {
                name: format!("{}@{}", s.volume, s.name),
                description: s.description,
            };
            names.push(ExportName { name: volume.name, description: volume.description });
            names.extend(snapshots.into_iter().map(of_snapshot));
        }
        names
    }
}

/// One volume or snapshot, opened by one connection.
pub struct VersionExport {
    pool: Arc<Pool<PoolDisk>>,
    lane: usize,
    name: String,
    resolved: Resolved,
    _attachment: Attachment,
}

impl VersionExport {
    fn id(&self) -> VersionId {
        self.resolved.id
    }

    /// What the client is told of an error; the log is told all of it.
    fn errno(&self, error: &Error) -> Errno {
        let cause = std::error::Error::source(error).map_or(String::new(), |s| format!(": {s}"));
        match error.kind() {
            ErrorKind::NoSpace => {
                // A client that keeps trying must not fill the log as well.
                if FULL_SAID.is_due() {
                    tracing::warn!(export = self.name, "{error}{cause}");
                }
                Errno::NoSpc
            }
            ErrorKind::ReadOnly => Errno::Perm,
            ErrorKind::OutOfRange | ErrorKind::InvalidArgument => Errno::Inval,
            _ => {
                tracing::error!(export = self.name, "{error}{cause}");
                Errno::Io
            }
        }
    }

    fn answer<T>(&self, result: Result<T, Error>) -> Result<T, Errno> {
        result.map_err(|error| self.errno(&error))
    }

    /// Waits for durability when that was asked for.
    async fn settle(&self, lsn: cairn_cow::Lsn, fua: bool) -> Result<(), Errno> {
        if fua { self.answer(self.pool.flush_to(lsn).await) } else { Ok(()) }
    }
}

impl Export for VersionExport {
    fn info(&self) -> ExportInfo {
        let read_only = !self.resolved.writable;
        ExportInfo {
            name: self.name.clone(),
            description: self.resolved.description.clone(),
            size: self.size(),
            read_only,
            features: Features {
                trim: !read_only,
                write_zeroes: !read_only,
                fast_zero: !read_only,
                ..Features::ALL
            },
            contexts: Vec::new(),
        }
    }

    fn size(&self) -> u64 {
        // A version that is gone has no bytes: every request is refused.
        self.pool.size_of(self.id()).unwrap_or(0)
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        let reply = self.answer(self.pool.read(self.id(), offset, len as usize).await)?;
        let extents = reply.extents.into_iter().map(|(len, hole)| ReadExtent { len, hole }).collect();
        Ok(ReadReply { buf: reply.buf.map(|b| b.0), extents })
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf, fua: bool) -> Result<(), Errno> {
        let written = self.pool.write(self.lane, self.id(), offset, len as usize, PoolBuf(buf)).await;
        self.settle(self.answer(written)?, fua).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.answer(self.pool.flush().await)
    }

    async fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<(), Errno> {
        let trimmed = self.pool.trim(self.id(), offset, len).await;
        self.settle(self.answer(trimmed)?, fua).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<(), Errno> {
        // Zeroes cost no data I/O but for the ends of an unaligned range, so they are always fast.
        let kind = if flags.no_hole { ExtentKind::Zero } else { ExtentKind::Hole };
        let zeroed = self.pool.zero(self.lane, self.id(), offset, len, kind).await;
        self.settle(self.answer(zeroed)?, flags.fua).await
    }

    async fn cache(&self, offset: u64, len: u64) -> Result<(), Errno> {
        // Brings the map of the range into memory, so that reads of it need no look-ups on disk.
        let mut at = offset;
        while at < offset + len {
            let extents = self.answer(self.pool.extents(self.id(), at, offset + len - at, 256).await)?;
            at = extents.last().map_or(offset + len, |e| e.offset + e.len);
        }
        Ok(())
    }

    async fn block_status(&self, query: StatusQuery<'_>) -> Result<Vec<StatusExtent>, Errno> {
        let Context::Allocation = query.context else { return Err(Errno::Inval) };
        let size = self.size();
        let len = query.len.min(size.saturating_sub(query.offset));
        let extents =
            self.answer(self.pool.extents(self.id(), query.offset, len, query.max_extents).await)?;
        let flags = |kind| match kind {
            ExtentKind::Data => 0,
            ExtentKind::Zero => proto::allocation::ZERO,
            ExtentKind::Hole => proto::allocation::HOLE | proto::allocation::ZERO,
        };
        Ok(extents.into_iter().map(|e| StatusExtent { len: e.len, flags: flags(e.kind) }).collect())
    }
}
