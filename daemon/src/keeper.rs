//! Opening pools, seeing to their background duties, and closing them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_api::error::{ApiError, ErrorCode};
use cairn_cow::{CreateOptions, ErrorKind, Options, Pool};
use cairn_nbd::Shutdown;
use cairn_uring::{Handle, time};
use parking_lot::Mutex;

use crate::config::DEFAULT_LIMIT;
use crate::disk::{FileId, Found, PoolDisk, device_size, discard_unfinished};
use crate::events::Events;
use crate::pools::PoolSlot;
use crate::room;
use crate::seldom::Seldom;
use crate::serve::unless;

/// How often a pool is asked to see to its background duties.
const MAINTENANCE_PERIOD: Duration = Duration::from_millis(100);
/// How often failing background work is reported.
static BACKGROUND_FAILURES: Seldom<ErrorKind> = Seldom::new(Duration::from_secs(10));

/// Opens pools for the daemon's reactors and keeps them going.
pub struct PoolKeeper {
    reactor: Handle,
    options: Options,
    events: Arc<Events>,
    kept: Mutex<Vec<Kept>>,
}

/// A pool that is open or being opened.
struct Kept {
    name: String,
    file: FileId,
    /// Ends its background duties.
    stop: Shutdown,
}

/// Runs a future on a reactor and waits for it here.
///
/// # Errors
/// When the reactor has stopped.
pub(crate) fn on<T, F, Fut>(reactor: &Handle, f: F) -> Result<T, String>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let gone = |_| "a reactor has stopped".to_owned();
    reactor.spawn_with(f).map_err(gone)?.wait().map_err(gone)
}

impl PoolKeeper {
    /// Pools are opened with `options`; `reactor` sees to them, and `events` are told what becomes of them.
    pub(crate) fn new(reactor: Handle, options: Options, events: Arc<Events>) -> PoolKeeper {
        PoolKeeper { reactor, options, events, kept: Mutex::default() }
    }

    /// Opens what `disk` holds as the pool `name`, or makes a pool of at most `limit` bytes of one that is blank. Blocks.
    ///
    /// # Errors
    /// A text for people.
    pub(crate) fn open(
        &self,
        name: &str,
        path: &Path,
        disk: PoolDisk,
        found: Found,
        limit: u64,
    ) -> Result<Arc<Pool<PoolDisk>>, String> {
        let kept = Kept { name: name.to_owned(), file: disk.id(), stop: Shutdown::new() };
        self.kept.lock().push(kept);
        let opened = self.open_or_make(path, disk, found, limit);
        if opened.is_err() {
            self.forget(name);
        }
        opened
    }

    /// Ends the background duties of a pool, and its claim to its file.
    fn forget(&self, name: &str) {
        self.kept.lock().retain(|kept| {
            if kept.name == name {
                kept.stop.trigger();
            }
            kept.name != name
        });
    }

    /// The pool that has the file or device which `path` leads to, by whatever name.
    fn owner(&self, path: &Path) -> Option<String> {
        let file = FileId::of(path).ok()?;
        self.kept.lock().iter().find(|kept| kept.file == file).map(|kept| kept.name.clone())
    }

    fn open_or_make(
        &self,
        path: &Path,
        disk: PoolDisk,
        found: Found,
        limit: u64,
    ) -> Result<Arc<Pool<PoolDisk>>, String> {
        let (shown, options) = (path.display(), self.options.clone());
        let Found::Blank { created } = found else {
            let opened = on(&self.reactor, move || async move { Pool::open(disk, options).await })?;
            if let Some(records) = opened.as_ref().ok().map(|pool| pool.taken_over()).filter(|n| *n > 0) {
                tracing::info!(
                    "the pool {shown}: the last daemon died with {records} changes in memory, all are here"
                );
            }
            return opened.map_err(|e| {
                let hint = match e.kind() {
                    ErrorKind::NotAPool => "; give another path, or move the file away to make a pool there",
                    ErrorKind::Corrupt => "; make a copy before anything else",
                    _ => "",
                };
                format!("cannot open the pool {shown}: {}{hint}", e.with_cause())
            });
        };
        disk.clear().map_err(|e| format!("cannot make a pool at {shown}: {e}"))?;
        let limit = disk.device_size().map_or(limit, |size| size.min(limit));
        let id = random_id().map_err(|e| format!("cannot get random bytes for the pool's id: {e}"))?;
        let create = CreateOptions { limit, journal_bytes: None, segment_blocks: None };
        let made = on(&self.reactor, move || async move { Pool::create(disk, id, create, options).await })?;
        made.map_err(|e| {
            discard_unfinished(path, created);
            format!("cannot make a pool at {shown}: {}", e.with_cause())
        })
    }

    /// Has a pool's background duties seen to until it is closed, and its fill watched. Blocks.
    ///
    /// # Errors
    /// When the reactor has stopped.
    pub(crate) fn maintain(&self, slot: &PoolSlot<PoolDisk>) -> Result<(), String> {
        let Ok(pool) = &slot.pool else { return Ok(()) };
        let events = Arc::clone(&self.events);
        room::watch(pool, &slot.name, Path::new(&slot.path), slot.room.clone(), events);
        let stop = self.kept.lock().iter().find(|kept| kept.name == slot.name).map(|kept| kept.stop.clone());
        let Some(stop) = stop else { return Ok(()) };
        let (pool, name) = (Arc::clone(pool), slot.name.clone());
        let spawned = self.reactor.spawn_with(move || maintain(pool, name, stop));
        spawned.map(drop).map_err(|_| "a reactor has stopped".to_owned())
    }

    /// Ends the background duties of all pools.
    pub(crate) fn stop(&self) {
        self.kept.lock().iter().for_each(|kept| kept.stop.trigger());
    }

    /// Closes a pool cleanly. Nobody may use it. Blocks.
    ///
    /// # Errors
    /// A text for people.
    pub(crate) fn close(&self, slot: &PoolSlot<PoolDisk>) -> Result<(), String> {
        let Ok(pool) = &slot.pool else { return Ok(()) };
        self.forget(&slot.name);
        let pool = Arc::clone(pool);
        let closed = on(&self.reactor, move || async move { pool.close().await })?;
        closed.map_err(|e| format!("the pool {} was not closed cleanly: {}", slot.path, e.with_cause()))
    }
}

/// What the control side needs of pools besides the engine: files and devices.
pub trait PoolFiles<D: cairn_cow::Disk>: Send + Sync + 'static {
    /// Opens the pool at `path`, or makes one there with `create`, of at most `limit` bytes, and has it seen to. Blocks.
    ///
    /// # Errors
    /// `Exists` when a pool that is open already has what the path leads to, else `Conflict`.
    fn add(&self, name: &str, path: &str, create: bool, limit: Option<u64>) -> Result<PoolSlot<D>, ApiError>;

    /// Closes a pool that nobody uses. Blocks.
    ///
    /// # Errors
    /// A text for people.
    fn remove(&self, slot: &PoolSlot<D>) -> Result<(), String>;

    /// The size of the device that a pool is on now; none for a file.
    ///
    /// # Errors
    /// When it cannot be told.
    fn device_size(&self, path: &str) -> io::Result<Option<u64>>;
}

impl PoolFiles<PoolDisk> for PoolKeeper {
    fn add(
        &self,
        name: &str,
        path: &str,
        create: bool,
        limit: Option<u64>,
    ) -> Result<PoolSlot<PoolDisk>, ApiError> {
        let file = Path::new(path);
        let failed = |why: String| ApiError::new(ErrorCode::Conflict, why);
        let not_twice = || match self.owner(file) {
            Some(owner) => {
                Err(ApiError::new(ErrorCode::Exists, format!("{path} is the pool '{owner}' already")))
            }
            None => Ok(()),
        };
        if !create && !file.exists() {
            return Err(failed(format!("there is nothing at {path}")));
        }
        not_twice()?;
        let opened = PoolDisk::open(file, create);
        if opened.is_err() {
            // It may have been opened by another name at the same moment.
            not_twice()?;
        }
        let (disk, found) = opened.map_err(failed)?;
        if !create && found != Found::Something {
            return Err(failed(format!("there is no pool at {path} any more")));
        }
        let pool = self.open(name, file, disk, found, limit.unwrap_or(DEFAULT_LIMIT)).map_err(failed)?;
        let slot = PoolSlot::new(name, path, Ok(pool));
        self.maintain(&slot).map_err(failed)?;
        Ok(slot)
    }

    fn remove(&self, slot: &PoolSlot<PoolDisk>) -> Result<(), String> {
        self.close(slot)
    }

    fn device_size(&self, path: &str) -> io::Result<Option<u64>> {
        device_size(Path::new(path))
    }
}

/// A number that nobody has drawn before, in hexadecimal.
///
/// # Errors
/// When the kernel gives no random bytes.
pub(crate) fn random_hex() -> Result<String, ApiError> {
    let id = random_id().map_err(|e| ApiError::new(ErrorCode::Internal, format!("no random bytes: {e}")))?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut id)?;
    Ok(id)
}

/// Sees to a pool's background duties until told to stop.
async fn maintain(pool: Arc<Pool<PoolDisk>>, name: String, stop: Shutdown) {
    let mut last = Instant::now();
    loop {
        let now = Instant::now();
        match pool.maintain(now - std::mem::replace(&mut last, now)).await {
            Ok(true) if !stop.is_triggered() => continue,
            Ok(_) => {}
            Err(error) => {
                if let Some(held_back) = BACKGROUND_FAILURES.due(error.kind()) {
                    tracing::error!(
                        pool = name,
                        "background work on the pool failed: {}{held_back}",
                        error.with_cause()
                    );
                }
            }
        }
        let pause = time::timeout(MAINTENANCE_PERIOD, pool.wait_for_work());
        if unless(&stop, pause).await.is_none() {
            return;
        }
    }
}
