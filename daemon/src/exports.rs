//! What pools hold as NBD exports: `VOLUME`, writable, `VOLUME@SNAPSHOT` and `image:IMAGE`, read-only, and what an import
//! is written to.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_api::attachment::Consumer;
use cairn_api::image::EXPORT_PREFIX;
use cairn_api::stats::IoKind;
use cairn_cow::{Attributes, Error, ErrorKind, ExtentKind, Lsn, Pool, Resolved, VersionId};
use cairn_nbd::{
    ClientInfo, Context, ContextKey, Demand, Errno, Export, ExportInfo, ExportName, Exports, Features,
    OpenError, ReadExtent, ReadReply, Span, StatusExtent, StatusQuery, ZeroFlags,
};
use cairn_uring::{AlignedBuf, yield_now};

use crate::access::Rights;
use crate::audit::{Audit, Line as AuditLine};
use crate::control::{Attachment, InUse, Line, Target};
use crate::courtesy::{self, Courtesy};
use crate::disk::{PoolBuf, PoolDisk};
use crate::figures::{Counted, Request};
use crate::habit::FlushHabit;
use crate::images::{image, is_image};
use crate::qos::{self, Direction};
use crate::remains::is_remains;
use crate::restore::Restore;
use crate::seldom::Seldom;
use crate::settings;
use crate::staging::is_hidden;
use crate::status::{self, PIECE};
use crate::volumes::{Volumes, is_shared_now, resolve_for_use};

/// Requests that failed: a client that keeps trying must not fill the log.
static FAILURES: Seldom<ErrorKind> = Seldom::new(Duration::from_secs(10));

/// Extents asked for at a time where only their being looked up counts.
const CACHED_EXTENTS: usize = 1024;
/// How much of one CACHE request is heeded. It is a hint, and beyond this much the map of what came first would have to
/// leave memory for that of what comes last.
const MAX_CACHED: u64 = 64 << 30;

/// How often and how long a newcomer waits for the consumer before it to be gone: half a second in all. A program that has
/// disconnected does not know when the daemon has noticed, and one that looks at a disk before it uses it, as fio does, may
/// use it in another process.
const LEAVING_ATTEMPTS: u32 = 50;
const LEAVING_PAUSE: Duration = Duration::from_millis(10);

/// One connection: who is at its other end, and how it is ended.
#[derive(Clone)]
pub struct Connection {
    /// Who.
    pub consumer: Consumer,
    /// Ends it.
    pub line: Arc<dyn Line>,
    /// What it may.
    pub(crate) rights: Rights,
    /// Where it is written down.
    pub(crate) audit: Option<Arc<Audit>>,
    /// Whether writes are answered only when they are durable, as behind a cache that writes through, where what was
    /// answered would not survive the daemon. So they have to be for a client that will not hear of it when the daemon is
    /// killed: it goes on with the next one as if nothing had happened, and never again writes what was answered and lost.
    pub write_through: bool,
}

/// Everything that one connection can choose from.
pub struct PoolExports {
    volumes: Arc<Volumes<PoolDisk>>,
    connection: Connection,
    lane: usize,
}

impl PoolExports {
    /// `lane` is the reactor's own, so that its writes stay together.
    pub fn new(volumes: Arc<Volumes<PoolDisk>>, connection: Connection, lane: usize) -> PoolExports {
        PoolExports { volumes, connection, lane }
    }

    /// The export that the empty name means: the only volume, where there is just one.
    fn default_name(&self) -> Result<String, OpenError> {
        let pools = self.volumes.pools.open();
        let volumes = pools.iter().flat_map(|(_, pool)| pool.volumes());
        let mut volumes = volumes
            .filter(|volume| !is_hidden(&volume.attributes) && !is_remains(&volume.attributes))
            .filter(|volume| self.lists(&volume.attributes));
        match (volumes.next(), volumes.next()) {
            (Some(only), None) => Ok(only.name),
            _ => Err(OpenError::Unknown),
        }
    }
}

impl PoolExports {
    /// Whether a client is told of what keeps `attributes`.
    fn lists(&self, attributes: &Attributes) -> bool {
        self.connection.rights.may_use(settings::project(attributes))
    }

    /// Whether a client may have what keeps `attributes`.
    fn admits(&self, attributes: &Attributes, writable: bool) -> Result<(), OpenError> {
        let Rights::Limited(limits) = &self.connection.rights else { return Ok(()) };
        if is_image(attributes) {
            // All projects see images.
            let member = !limits.change.is_empty() && !writable;
            return if member {
                Ok(())
            } else {
                Err(OpenError::Policy("images are written by administrators".to_owned()))
            };
        }
        let project = settings::project(attributes);
        match (limits.change.contains(project), limits.see.has(project)) {
            (true, _) => Ok(()),
            (false, true) => {
                Err(OpenError::Policy(format!("a reader of the project '{project}' may not use its volumes")))
            }
            (false, false) => Err(OpenError::Unknown),
        }
    }
}

impl Connection {
    /// Has it written down who uses what, or may not.
    fn note(&self, export: &str, refused: Option<&str>) {
        if let Some(audit) = &self.audit {
            audit.note(AuditLine::Opened { export, client: &self.consumer.to_string(), refused });
        }
    }
}

/// What a client is told of an export.
pub(crate) fn export_info(name: String, description: String, size: u64, read_only: bool) -> ExportInfo {
    let features =
        Features { trim: !read_only, write_zeroes: !read_only, fast_zero: !read_only, ..Features::ALL };
    ExportInfo { name, description, size, read_only, features }
}

fn unavailable(error: &Error) -> OpenError {
    match error.kind() {
        ErrorKind::NotFound => OpenError::Unknown,
        // It is there, and nobody may have it now.
        ErrorKind::Busy => OpenError::Policy(error.to_string()),
        _ => OpenError::Failed(error.to_string()),
    }
}

impl Exports for PoolExports {
    type Export = VersionExport;

    async fn open(&self, name: &str, _client: &ClientInfo) -> Result<VersionExport, OpenError> {
        let name = if name.is_empty() { self.default_name()? } else { name.to_owned() };
        let (pool, version) = self.volumes.export(&name).map_err(|e| unavailable(&e))?;
        let (resolved, kept) = resolve_for_use(&pool, &version).map_err(|e| unavailable(&e))?;
        self.admits(&kept, resolved.writable).inspect_err(|_| {
            self.connection.note(&name, Some("forbidden"));
        })?;
        let restore = self.volumes.restores.of(&pool, &resolved).map_err(|e| unavailable(&e))?;
        let mut connection = self.connection.clone();
        connection.write_through &= !pool.survives_its_process();
        Ok(VersionExport {
            lane: self.lane,
            size_changes: pool.size_changes(),
            pool,
            name,
            version,
            // What is no volume that users see is being filled.
            bulk: resolved.id != resolved.head || is_hidden(&kept),
            resolved,
            restore,
            known_size: Cell::new(None),
            habit: FlushHabit::default(),
            volumes: Arc::clone(&self.volumes),
            connection,
            begun: OnceCell::new(),
        })
    }

    async fn list(&self, _client: &ClientInfo) -> Vec<ExportName> {
        let of_snapshot = |s: cairn_cow::SnapshotInfo| ExportName {
            name: format!("{}@{}", s.volume, s.name),
            description: s.description,
        };
        let mut names = Vec::new();
        for (_, pool) in self.volumes.pools.open() {
            for volume in pool.volumes() {
                if let Some(image) = image(&volume) {
                    let ready = || ExportName {
                        name: format!("{EXPORT_PREFIX}{}", image.name),
                        description: volume.description,
                    };
                    names.extend(
                        image.ready.then(ready).filter(|_| self.admits(&volume.attributes, false).is_ok()),
                    );
                    continue;
                }
                if is_hidden(&volume.attributes) || !self.lists(&volume.attributes) {
                    continue;
                }
                let snapshots = pool.snapshots(Some(&volume.name)).unwrap_or_default();
                if !is_remains(&volume.attributes) {
                    names.push(ExportName { name: volume.name, description: volume.description });
                }
                names.extend(snapshots.into_iter().map(of_snapshot));
            }
        }
        names
    }
}

/// One volume or snapshot, opened by one connection.
pub struct VersionExport {
    pool: Arc<Pool<PoolDisk>>,
    lane: usize,
    /// What the client calls it.
    name: String,
    /// What the pool calls it: `VOLUME` or `VOLUME@SNAPSHOT`.
    version: String,
    resolved: Resolved,
    /// Whether it is there to be copied, or to be filled: then its transfers give way to volumes' clients.
    bulk: bool,
    /// What every request goes through of a volume that was being restored when it was opened.
    restore: Option<Arc<Restore<PoolDisk>>>,
    /// See [`Pool::size_changes`].
    size_changes: Arc<AtomicU64>,
    /// The size, and what the number of changes was before it was asked for.
    known_size: Cell<Option<(u64, u64)>>,
    habit: FlushHabit,
    volumes: Arc<Volumes<PoolDisk>>,
    connection: Connection,
    /// Once the client has begun. Until then it is in nobody's way, and what it looked at may be deleted.
    begun: OnceCell<Begun>,
}

/// What a connection holds that uses its export.
struct Begun {
    /// Before the attachment, so that what was done is not missed when that is gone.
    counted: Counted,
    /// Its place among those who use the volume.
    _attachment: Attachment,
    throttle: qos::Connection,
    /// Whether the client asks what changed since a snapshot.
    compares: bool,
}

impl VersionExport {
    fn id(&self) -> VersionId {
        self.resolved.id
    }

    fn courtesy(&self) -> &Courtesy {
        &self.volumes.courtesy
    }

    /// A request begins. It is that of a client at work, unless this is there for bulk transfers.
    fn begins(&self) {
        if !self.bulk {
            self.courtesy().client_begins(self.lane);
        }
    }

    /// A transfer of so many bytes begins: whether it is to be made in pieces.
    fn gives_way(&self, len: u32) -> bool {
        self.begins();
        self.bulk && self.courtesy().divides(len)
    }

    /// Whether who reads so much at once copies, and so reads it once: the read cache is not for that. Filling it made the
    /// first full backup of a disk take four times as long as the next on a host whose memory was not in use yet, and the
    /// first incremental one twice.
    fn is_copied(&self, len: u32) -> bool {
        self.bulk && (len >= courtesy::COPY || self.begun.get().is_some_and(|begun| begun.compares))
    }

    /// Reads a piece at a time, past the read cache: that is for those who make way here.
    async fn read_in_pieces(&self, offset: u64, len: u32) -> Result<cairn_cow::ReadReply<PoolBuf>, Error> {
        let span = Span::of(offset, len);
        let (mut buf, mut at) = (PoolBuf(span.buffer()), span.phase);
        let mut extents = Vec::new();
        for piece in courtesy::pieces(offset, len) {
            let (phase, len) = (Span::of(piece.start, 1).phase, (piece.end - piece.start) as usize);
            let read = self.courtesy().in_turn(self.pool.read_once(self.id(), piece.start, len)).await?;
            if let Some(data) = &read.buf {
                buf[at..at + len].copy_from_slice(&data[phase..phase + len]);
            }
            if read.extents.is_empty() {
                extents.push((len as u32, read.buf.is_none()));
            }
            extents.extend(read.extents);
            at += len;
        }
        Ok(cairn_cow::ReadReply { buf: Some(buf), extents })
    }

    /// Writes a piece at a time.
    async fn write_in_pieces(&self, offset: u64, len: u32, buf: &PoolBuf) -> Result<Lsn, Error> {
        let (mut at, mut last) = (Span::of(offset, len).phase, None);
        for piece in courtesy::pieces(offset, len) {
            let len = (piece.end - piece.start) as usize;
            let span = Span::of(piece.start, len as u32);
            let mut part = PoolBuf(span.buffer());
            part[span.phase..span.phase + len].copy_from_slice(&buf[at..at + len]);
            let written = self.courtesy().in_turn(self.write_to_pool(piece.start, len, part)).await?;
            last = last.max(Some(written));
            at += len;
        }
        last.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "nothing to write"))
    }

    async fn write_to_pool(&self, offset: u64, len: usize, buf: PoolBuf) -> Result<Lsn, Error> {
        match &self.restore {
            None => self.pool.write(self.lane, self.id(), offset, len, buf).await,
            Some(restore) => restore.write(self.lane, offset, len, buf).await,
        }
    }

    /// A request is to be carried out; see [`ended`].
    fn request(&self, kind: IoKind) -> Option<Request<'_>> {
        self.begun.get().map(|begun| begun.counted.counters().begin(kind))
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
    async fn settle(&self, lsn: Lsn, fua: bool) -> Result<(), Errno> {
        if fua || self.connection.write_through { self.answer(self.pool.flush_to(lsn).await) } else { Ok(()) }
    }

    async fn do_read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        if let Some(restore) = &self.restore {
            self.answer(restore.fill(self.lane, offset..offset + u64::from(len)).await)?;
        }
        let read = if self.gives_way(len) {
            self.read_in_pieces(offset, len).await
        } else if self.is_copied(len) {
            self.pool.read_once(self.id(), offset, len as usize).await
        } else {
            self.pool.read(self.id(), offset, len as usize).await
        };
        let reply = self.answer(read)?;
        let extents = reply.extents.into_iter().map(|(len, hole)| ReadExtent { len, hole }).collect();
        Ok(ReadReply { buf: reply.buf.map(|b| b.0), extents })
    }

    async fn do_write(&self, offset: u64, len: u32, buf: AlignedBuf, fua: bool) -> Result<(), Errno> {
        let buf = PoolBuf(buf);
        let written = if self.gives_way(len) {
            self.write_in_pieces(offset, len, &buf).await
        } else {
            self.write_to_pool(offset, len as usize, buf).await
        };
        let lsn = self.answer(written)?;
        if !fua && !self.connection.write_through && self.habit.wrote() {
            let pool = Arc::clone(&self.pool);
            // When it fails the pool takes no more writes, which is what the flush will find.
            drop(cairn_uring::spawn(async move { pool.flush_to(lsn).await }));
        }
        self.settle(lsn, fua).await
    }

    async fn do_flush(&self) -> Result<(), Errno> {
        self.begins();
        self.habit.flushed();
        self.answer(self.pool.flush().await)
    }

    async fn do_trim(&self, offset: u64, len: u64, fua: bool) -> Result<(), Errno> {
        let trimmed = match &self.restore {
            None => self.pool.trim(self.id(), offset, len).await,
            Some(restore) => restore.trim(self.lane, offset, len).await,
        };
        let lsn = self.answer(trimmed)?;
        self.settle(lsn, fua).await
    }

    async fn do_zero(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<(), Errno> {
        // Zeroes cost no data I/O but for the ends of an unaligned range, so they are fast.
        let kind = if flags.no_hole { ExtentKind::Zero } else { ExtentKind::Hole };
        let zeroed = match &self.restore {
            None => self.pool.zero(self.lane, self.id(), offset, len, kind).await,
            Some(restore) => restore.zero(self.lane, offset, len, kind).await,
        };
        let lsn = self.answer(zeroed)?;
        self.settle(lsn, flags.fua).await
    }
}

/// Counts a request that was about so many bytes, now that its answer is ready.
fn ended<T>(request: Option<Request<'_>>, bytes: u64, answer: Result<T, Errno>) -> Result<T, Errno> {
    if let Some(request) = request {
        request.end(answer.is_ok().then_some(bytes));
    }
    answer
}

impl Export for VersionExport {
    fn info(&self) -> ExportInfo {
        let (name, description) = (self.name.clone(), self.resolved.description.clone());
        export_info(name, description, self.size(), !self.resolved.writable)
    }

    async fn begin(&self, contexts: &[Context<'_>]) -> Result<(), OpenError> {
        let Connection { consumer, line, .. } = &self.connection;
        let target = Target::of_export(&self.version);
        let attach = || {
            let shared = || is_shared_now(&self.pool, &self.version, &self.resolved);
            self.volumes.sessions.attach(target.clone(), consumer, shared, Arc::clone(line))
        };
        let mut attached = attach();
        for _ in 0..LEAVING_ATTEMPTS {
            if !matches!(attached, Err(InUse::Taken(_))) {
                break;
            }
            cairn_uring::sleep(LEAVING_PAUSE).await;
            attached = attach();
        }
        let attachment = attached.map_err(|why| {
            tracing::info!(export = self.name, %consumer, "refused: {why}");
            self.connection.note(&self.name, Some(&why.to_string()));
            match why {
                InUse::Gone => OpenError::Unknown,
                why => OpenError::Policy(format!("{}: {why}", self.name)),
            }
        })?;
        self.connection.note(&self.name, None);
        // Now that it cannot be deleted: its limits are forgotten when it is.
        let throttle = self.volumes.throttle(&self.pool, target.volume(), self.resolved.head).connection();
        let compares = contexts.iter().any(|context| matches!(context, Context::Named { .. }));
        let key = (self.pool.id(), self.resolved.head);
        let counted = self.volumes.figures.enter(key, Arc::clone(attachment.counters()));
        // Called once a session.
        let _ = self.begun.set(Begun { counted, _attachment: attachment, throttle, compares });
        Ok(())
    }

    fn is_throttled(&self) -> bool {
        // Snapshots are not limited: what reads them is not the disk's user.
        self.resolved.writable && self.begun.get().is_some_and(|begun| begun.throttle.throttle().is_limited())
    }

    async fn admit(&self, demand: Demand) {
        let (direction, bytes) = match demand {
            Demand::Read(len) => (Direction::Read, u64::from(len)),
            Demand::Write(len) => (Direction::Write, u64::from(len)),
            // They move no data.
            Demand::Trim(_) | Demand::WriteZeroes(_) => (Direction::Write, 0),
        };
        if let Some(begun) = self.begun.get() {
            begun.throttle.admit(direction, bytes).await;
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
        let request = self.request(IoKind::Read);
        ended(request, u64::from(len), self.do_read(offset, len).await)
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf, fua: bool) -> Result<(), Errno> {
        let request = self.request(IoKind::Write);
        ended(request, u64::from(len), self.do_write(offset, len, buf, fua).await)
    }

    async fn flush(&self) -> Result<(), Errno> {
        let request = self.request(IoKind::Flush);
        ended(request, 0, self.do_flush().await)
    }

    async fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<(), Errno> {
        let request = self.request(IoKind::Trim);
        ended(request, len, self.do_trim(offset, len, fua).await)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<(), Errno> {
        let request = self.request(IoKind::Zero);
        ended(request, len, self.do_zero(offset, len, flags).await)
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
        match status::of(&self.pool, self.id(), query, self.restore.as_deref()).await {
            // A snapshot that was deleted since the client selected it is no fault of the pool.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Errno::Inval),
            extents => self.answer(extents),
        }
    }
}
