//! The pool's volumes and snapshots as NBD exports: `VOLUME`, writable, and `VOLUME@SNAPSHOT`, read-only.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_cow::{Error, ErrorKind, ExtentKind, Pool, Resolved, VersionId};
use cairn_nbd::{
    ClientInfo, ContextKey, Errno, Export, ExportInfo, ExportName, Exports, Features, OpenError, ReadExtent,
    ReadReply, StatusExtent, StatusQuery, ZeroFlags,
};
use cairn_uring::{AlignedBuf, yield_now};

use crate::control::{Attachment, InUse, Sessions, Target};
use crate::disk::{PoolBuf, PoolDisk};
use crate::habit::FlushHabit;
use crate::seldom::Seldom;
use crate::status::{self, PIECE};

/// Requests that failed: a client that keeps trying must not fill the log.
static FAILURES: Seldom<ErrorKind> = Seldom::new(Duration::from_secs(10));

/// Extents asked for at a time where only their being looked up counts.
const CACHED_EXTENTS: usize = 1024;
/// How much of one CACHE request is heeded. It is a hint, and beyond this much the map of what came first would have to
/// leave memory for that of what comes last.
const MAX_CACHED: u64 = 64 << 30;

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
            size_changes: self.pool.size_changes(),
            known_size: Cell::new(None),
            habit: FlushHabit::default(),
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
    /// See [`Pool::size_changes`].
    size_changes: Arc<AtomicU64>,
    /// The size, and what the number of changes was before it was asked for.
    known_size: Cell<Option<(u64, u64)>>,
    habit: FlushHabit,
    _attachment: Attachment,
}

impl VersionExport {
    fn id(&self) -> VersionId {
        self.resolved.id
    }

    /// What the client is told of an error; the log is told all of it.
    fn errno(&self, error: &Error) -> Errno {
        match error.kind() {
            ErrorKind::ReadOnly => Errno::Perm,
            ErrorKind::OutOfRange | ErrorKind::InvalidArgument => Errno::Inval,
            kind => {
                if let Some(held_back) = FAILURES.due(kind) {
                    let cause = std::error::Error::source(error).map_or(String::new(), |s| format!(": {s}"));
                    if kind == ErrorKind::NoSpace {
                        tracing::warn!(export = self.name, "{error}{cause}{held_back}");
                    } else {
                        tracing::error!(export = self.name, "{error}{cause}{held_back}");
                    }
                }
                if kind == ErrorKind::NoSpace { Errno::NoSpc } else { Errno::Io }
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
        }
    }

    fn contexts(&self, queries: &[&str]) -> Vec<String> {
        status::contexts(&self.pool, self.id(), queries)
    }

    fn context(&self, name: &str) -> Option<ContextKey> {
        status::context(&self.pool, self.id(), name)
    }

    fn size(&self) -> u64 {
        let changes = self.size_changes.load(Ordering::Acquire);
        if let Some((size, known)) = self.known_size.get()
            && known == changes
        {
            return size;
        }
        // A version that is gone has no bytes: every request is refused.
        let size = self.pool.size_of(self.id()).unwrap_or(0);
        self.known_size.set(Some((size, changes)));
        size
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        let reply = self.answer(self.pool.read(self.id(), offset, len as usize).await)?;
        let extents = reply.extents.into_iter().map(|(len, hole)| ReadExtent { len, hole }).collect();
        Ok(ReadReply { buf: reply.buf.map(|b| b.0), extents })
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf, fua: bool) -> Result<(), Errno> {
        let written = self.pool.write(self.lane, self.id(), offset, len as usize, PoolBuf(buf)).await;
        let lsn = self.answer(written)?;
        if !fua && self.habit.wrote() {
            let pool = Arc::clone(&self.pool);
            // When it fails the pool takes no more writes, which is what the flush will find.
            drop(cairn_uring::spawn(async move { pool.flush_to(lsn).await }));
        }
        self.settle(lsn, fua).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.habit.flushed();
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
        let (mut at, end) = (offset, offset + len.min(MAX_CACHED));
        while at < end {
            let piece = PIECE.min(end - at);
            let extents = self.answer(self.pool.extents(self.id(), at, piece, CACHED_EXTENTS).await)?;
            at = extents.last().map_or(at + piece, |e| e.offset + e.len);
            yield_now().await;
        }
        Ok(())
    }

    async fn block_status(&self, query: StatusQuery<'_>) -> Result<Vec<StatusExtent>, Errno> {
        let size = self.size();
        let query = StatusQuery { len: query.len.min(size.saturating_sub(query.offset)), ..query };
        match status::of(&self.pool, self.id(), query).await {
            // A snapshot that was deleted since the client selected it is no fault of the pool.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Errno::Inval),
            extents => self.answer(extents),
        }
    }
}
