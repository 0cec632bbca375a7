//! The volumes that are being restored.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use cairn_api::job::JobKind;
use cairn_api::volume::VolumeRestore;
use cairn_backup::{BackupId, Location};
use cairn_cow::{Disk, Error, ErrorKind, Pool, Resolved, Result, VersionId, VolumeInfo};
use parking_lot::Mutex;

use super::chunks::Chunks;
use super::fetches::{Fetches, Source};
use super::filled::{Filled, companion_bytes};
use super::room::{Room, SharedRoom};
use super::source::{RepoSource, Wanted, failure};
use super::volume::Restore;
use super::worker::{Access, Worker};
use super::{RestoreSettings, VOLUME_RESTORE};
use crate::courtesy::Courtesy;
use crate::jobs::job_id;

/// A volume: its pool's id and that of its head.
type Key = ([u8; 16], VersionId);

/// A restore, or why it does not go on.
type Known<D> = std::result::Result<Arc<Restore<D>>, String>;

/// One a daemon.
pub(crate) struct Restores<D: Disk> {
    all: Mutex<HashMap<Key, Known<D>>>,
    /// Since there was something to restore.
    worker: Mutex<Option<Worker>>,
    /// What the readers of all of them have in memory.
    pub(super) room: SharedRoom,
    /// What their background gives way to.
    pub(super) courtesy: Arc<Courtesy>,
}

/// The job of a restore of which it cannot be read what it is called.
fn unreadable_job(head: VersionId) -> String {
    job_id(JobKind::Restore, &format!("head{}", head.0))
}

impl<D: Disk> Restores<D> {
    pub(crate) fn new(courtesy: Arc<Courtesy>) -> Restores<D> {
        Restores { all: Mutex::default(), worker: Mutex::default(), room: SharedRoom::default(), courtesy }
    }

    pub(super) fn access(&self) -> io::Result<Access> {
        let mut worker = self.worker.lock();
        match &mut *worker {
            Some(worker) => Ok(worker.access()),
            none => Ok(none.insert(Worker::start()?).access()),
        }
    }

    /// Does `work` where repositories are read.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        self.access()?.run(work).await
    }

    /// Begins `work` where repositories are read. It is dropped when the daemon stops.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        self.access()?.spawn(work);
        Ok(())
    }

    /// Ends all work on restores, so that pools can be closed.
    pub(crate) fn stop(&self) {
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            worker.stop();
        }
    }

    /// Those that go on.
    pub(crate) fn all(&self) -> Vec<Arc<Restore<D>>> {
        self.all.lock().values().filter_map(|restore| restore.as_ref().ok().cloned()).collect()
    }

    /// Bytes of the companion of a volume of `size` bytes that is restored in chunks of `chunk`.
    pub(crate) fn companion_bytes(size: u64, chunk: u32) -> u64 {
        companion_bytes(Chunks { size, chunk: chunk.into() }.count())
    }

    /// A volume that was just made with its companion.
    ///
    /// # Errors
    /// When there is no thread to fetch on.
    pub(crate) fn add(
        &self,
        pool: &Arc<Pool<D>>,
        (volume, companion): (&VolumeInfo, VersionId),
        settings: RestoreSettings,
        source: Arc<dyn Source>,
    ) -> io::Result<Arc<Restore<D>>> {
        let chunks = Chunks { size: volume.size, chunk: settings.chunk.into() };
        let filled = Filled::new(Arc::clone(pool), companion, chunks.count());
        let restore = self.make(volume.id, settings, chunks, (Arc::clone(pool), filled), source)?;
        let restore = Arc::new(restore);
        self.all.lock().insert((pool.id(), volume.id), Ok(Arc::clone(&restore)));
        Ok(restore)
    }

    /// Takes up what is to be restored in a pool that was just opened, before anybody may use its volumes.
    pub(crate) async fn load(&self, pool: &Arc<Pool<D>>) {
        for volume in pool.volumes() {
            let Some(kept) = volume.attributes.get(VOLUME_RESTORE) else { continue };
            let loaded = self.load_one(pool, &volume, kept).await;
            if let Err(why) = &loaded {
                tracing::error!(volume = volume.name, "a restore cannot be taken up: {why}");
            }
            self.all.lock().insert((pool.id(), volume.id), loaded.map(Arc::new));
        }
    }

    async fn load_one(
        &self,
        pool: &Arc<Pool<D>>,
        volume: &VolumeInfo,
        kept: &str,
    ) -> std::result::Result<Restore<D>, String> {
        let settings: RestoreSettings =
            serde_json::from_str(kept).map_err(|e| format!("what is kept of it cannot be read: {e}"))?;
        if !settings.chunk.is_power_of_two() || u64::from(settings.chunk) < cairn_cow::BLOCK_SIZE {
            return Err(format!("{} is no size of chunks", settings.chunk));
        }
        let location = Location::parse(&settings.repo).map_err(|e| failure(&e))?;
        let backup: BackupId = settings.backup.parse().map_err(|e| failure(&e))?;
        let wanted = Wanted { location, key_file: settings.key_file.clone().map(Into::into) };
        let chunks = Chunks { size: volume.size, chunk: settings.chunk.into() };
        let companion = pool.volume(&settings.companion).map_err(|e| e.to_string())?;
        let filled = Filled::load(Arc::clone(pool), companion.id, chunks.count()).await;
        let filled = filled.map_err(|e| e.with_cause())?;
        let source = Arc::new(RepoSource::new(wanted, backup, settings.hold));
        let made = self.make(volume.id, settings, chunks, (Arc::clone(pool), filled), source);
        made.map_err(|e| e.to_string())
    }

    /// A restore that goes by what all of them share.
    ///
    /// # Errors
    /// When there is no thread to fetch on.
    pub(super) fn make(
        &self,
        head: VersionId,
        settings: RestoreSettings,
        chunks: Chunks,
        filled: (Arc<Pool<D>>, Filled<D>),
        source: Arc<dyn Source>,
    ) -> io::Result<Restore<D>> {
        let fetches = Fetches::new(source, self.access()?, Room::new(&self.room), chunks);
        Ok(Restore::new(head, settings, chunks, filled, fetches, Arc::clone(&self.courtesy)))
    }

    /// The restore of the head that an export was found to be.
    ///
    /// # Errors
    /// `Busy` when it is to be restored and cannot be served.
    pub(crate) fn of(&self, pool: &Pool<D>, found: &Resolved) -> Result<Option<Arc<Restore<D>>>> {
        if !found.writable {
            return Ok(None);
        }
        // Known first: when a restore ends, its attribute goes before it is forgotten here.
        match self.all.lock().get(&(pool.id(), found.head)) {
            Some(Ok(restore)) => return Ok(Some(Arc::clone(restore))),
            Some(Err(why)) => {
                let why = format!("the volume is not restored, and its restore cannot be taken up: {why}");
                return Err(Error::new(ErrorKind::Busy, why));
            }
            None => {}
        }
        if super::is_restoring(&pool.attributes_of(found.head)?) {
            return Err(Error::new(ErrorKind::Busy, "the volume is just being made"));
        }
        Ok(None)
    }

    /// How far a volume is, if it is being restored.
    pub(crate) fn progress(&self, pool: &Pool<D>, volume: &VolumeInfo) -> Option<VolumeRestore> {
        let kept = volume.attributes.get(VOLUME_RESTORE)?;
        let why = match self.all.lock().get(&(pool.id(), volume.id)) {
            Some(Ok(restore)) => return Some(restore.progress()),
            Some(Err(why)) => Some(format!("it cannot be taken up: {why}")),
            None => None,
        };
        let settings = serde_json::from_str::<RestoreSettings>(kept).ok();
        let job = settings.as_ref().map_or_else(|| unreadable_job(volume.id), RestoreSettings::job);
        let (repo, backup) = settings.map(|s| (s.repo, s.backup)).unwrap_or_default();
        Some(VolumeRestore { repo, backup, job, bytes_done: 0, bytes_total: volume.size, problem: why })
    }

    /// Forgets a restore whose volume is complete or deleted.
    pub(crate) fn remove(&self, pool: &Pool<D>, head: VersionId) {
        if let Some(Ok(restore)) = self.all.lock().remove(&(pool.id(), head)) {
            restore.end();
        }
    }
}
