//! A repository: making, opening, and what is done to its backups.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::backup::{self, BackupRequest};
use crate::config::{self, DEFAULT_CHUNK_SIZE, FORMAT_VERSION};
use crate::core::Core;
use crate::envelope::Kind;
use crate::error::{Error, ErrorKind, Result};
use crate::gc::{self, GcOptions, GcReport};
use crate::ids::{BackupId, RepoId};
use crate::index::{self, View};
use crate::keys::KeyFile;
use crate::limit::Limiter;
use crate::location::{Location, S3Options};
use crate::manifest::{Backup, Labels};
use crate::objects::Objects;
use crate::prune::{KeepRules, Verdict};
use crate::reader::Reader;
use crate::restore::{self, RestoreOptions};
use crate::roots;
use crate::session;
use crate::source::{Sink, Source};
use crate::store::{Retry, Store};
use crate::verify::{self, VerifyOptions, VerifyReport};

/// An open repository. Clones are the same one.
#[derive(Clone)]
pub struct Repository {
    core: Arc<Core>,
}

/// How to open a repository.
#[derive(Default)]
pub struct OpenOptions {
    /// The key of an encrypted repository.
    pub key: Option<KeyFile>,
    /// How to reach an S3 store.
    pub s3: S3Options,
    /// What is done about failures that may pass.
    pub retry: Retry,
}

/// Backups, and manifests that cannot be read.
#[derive(Debug)]
pub struct Listing {
    /// Newest first.
    pub backups: Vec<Backup>,
    /// Backups whose manifest is damaged.
    pub damaged: Vec<(BackupId, Error)>,
}

/// One backup in the view of chains.
#[derive(Clone, Debug)]
pub struct TreeLine {
    /// The backup.
    pub backup: Backup,
    /// How many backups lead to it: 0 for a full one.
    pub depth: usize,
    /// Whether it is incremental to a backup that has been deleted; it restores all the same.
    pub parent_deleted: bool,
}

/// What a prune did, or would do.
#[derive(Clone, Debug)]
pub struct PruneReport {
    /// What became of each backup, per volume, newest first.
    pub verdicts: Vec<Verdict>,
    /// How many were deleted, or would be.
    pub deleted: usize,
}

/// What a repository is and holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its id.
    pub id: RepoId,
    /// The version of its format.
    pub format_version: u32,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether this cairn may only read it.
    pub read_only: bool,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// When it was made, in milliseconds since 1970.
    pub created: i64,
    /// Backups.
    pub backups: u64,
    /// Backups whose manifest cannot be read.
    pub damaged_backups: u64,
    /// Volumes that these are of.
    pub volumes: u64,
    /// Bytes of data in all backups, each as if it were alone.
    pub data_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes in packs, and of these in condemned ones.
    pub stored_bytes: u64,
    /// Packs that a collection is going to delete.
    pub condemned_packs: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// Writers at work now.
    pub writers: u64,
    /// Holds: volumes that are being restored from a backup while they serve.
    pub holds: u64,
    /// Packs and index objects that are damaged, as far as a look at their ends tells.
    pub damaged_objects: u64,
}

impl Repository {
    /// Makes a repository at a place. With a key in the options it is encrypted.
    pub async fn init(location: &Location, options: OpenOptions) -> Result<Repository> {
        Repository::init_on(location.objects(&options.s3, true)?, options, DEFAULT_CHUNK_SIZE).await
    }

    /// Opens the repository at a place.
    pub async fn open(location: &Location, options: OpenOptions) -> Result<Repository> {
        Repository::open_on(location.objects(&options.s3, false)?, options).await
    }

    /// Makes a repository in a store, whose volumes are cut into chunks of this size.
    pub async fn init_on(
        objects: Arc<dyn Objects>,
        options: OpenOptions,
        chunk_size: u32,
    ) -> Result<Repository> {
        let store = Store::new(objects, options.retry);
        let config = config::make(chunk_size, now(), options.key.as_ref())?;
        let exists = || Error::new(ErrorKind::Exists, "there is a repository already");
        match store.create(config::NAME, config.clone()).await {
            Ok(true) => {}
            Ok(false) => return Err(exists()),
            // Some stores cannot put if absent; then the look below has to do.
            Err(error) if error.kind() == ErrorKind::Store => {
                if store.find(config::NAME).await?.is_some() {
                    return Err(exists());
                }
                store.put(config::NAME, config.clone()).await?;
            }
            Err(error) => return Err(error),
        }
        // And some ignore the condition: whoever wrote last has made the repository, the others find out here.
        if store.get(config::NAME).await? != config {
            return Err(exists());
        }
        Repository::with_config(store, &config, options.key.as_ref())
    }

    /// Opens the repository in a store.
    pub async fn open_on(objects: Arc<dyn Objects>, options: OpenOptions) -> Result<Repository> {
        let store = Store::new(objects, options.retry);
        let config = store
            .find(config::NAME)
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotARepository, "there is no backup repository"))?;
        Repository::with_config(store, &config, options.key.as_ref())
    }

    fn with_config(store: Store, config: &[u8], key: Option<&KeyFile>) -> Result<Repository> {
        let (config, keys) = config::read(config, key)?;
        Ok(Repository { core: Arc::new(Core { store, keys, config }) })
    }

    /// Its parts, for what is done to it elsewhere.
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Its id.
    pub fn id(&self) -> RepoId {
        self.core.config.id
    }

    /// How many requests to the store failed and were made again since it was opened.
    pub fn retries(&self) -> u64 {
        self.core.store.retries()
    }

    /// What it is and holds.
    pub async fn status(&self) -> Result<Status> {
        let core = &self.core;
        let view = View::load(core).await?;
        let listing = self.list().await?;
        let sessions = session::list(core).await?;
        let condemned = || view.index.packs().iter().filter(|pack| pack.condemned);
        let volumes: std::collections::HashSet<_> = listing.backups.iter().map(|b| &b.volume.id).collect();
        Ok(Status {
            id: core.config.id,
            format_version: FORMAT_VERSION,
            encrypted: core.keys.encrypted(),
            read_only: core.config.read_only,
            chunk_size: core.config.chunk_size,
            created: core.config.created,
            backups: listing.backups.len() as u64,
            damaged_backups: listing.damaged.len() as u64,
            volumes: volumes.len() as u64,
            data_bytes: listing.backups.iter().map(|backup| backup.data_bytes).sum(),
            packs: view.listed.len() as u64,
            stored_bytes: view.listed.values().sum(),
            condemned_packs: condemned().count() as u64,
            condemned_bytes: condemned().map(|pack| pack.size).sum(),
            writers: sessions.iter().filter(|s| s.work == session::Work::Backup && s.alive(now())).count()
                as u64,
            holds: core.store.list(Kind::Hold.folder()).await?.len() as u64,
            damaged_objects: view.damage.len() as u64,
        })
    }

    /// Every backup, newest first.
    pub async fn list(&self) -> Result<Listing> {
        let (manifests, damaged) = roots::read(&self.core, Kind::Backup).await?;
        let mut labels = self.labels().await?;
        let mut backups: Vec<Backup> = manifests
            .into_iter()
            .map(|(mut backup, _)| {
                if let Some(labels) = labels.remove(&backup.id) {
                    backup.labels = labels;
                }
                backup
            })
            .collect();
        backups.sort_by_key(|backup| (std::cmp::Reverse(backup.created), backup.id));
        let id = |name: &str| name.strip_prefix(Kind::Backup.folder())?.parse().ok();
        let damaged = damaged.into_iter().filter_map(|(name, _, error)| Some((id(&name)?, error))).collect();
        Ok(Listing { backups, damaged })
    }

    /// Labels that were changed since their backups were made. Damaged ones leave what there was at first.
    async fn labels(&self) -> Result<HashMap<BackupId, Labels>> {
        let folder = Kind::Labels.folder();
        let ids: Vec<BackupId> =
            self.core.store.list_as(folder, |object| object.name.strip_prefix(folder)?.parse().ok()).await?;
        let found = parking_lot::Mutex::new(HashMap::new());
        index::for_each_parallel(ids, |id| {
            let found = &found;
            async move {
                if let Some(labels) = read_labels(&self.core, id).await? {
                    found.lock().insert(id, labels);
                }
                Ok(())
            }
        })
        .await?;
        Ok(found.into_inner())
    }

    /// One backup.
    pub async fn show(&self, id: BackupId) -> Result<Backup> {
        let mut backup = read_backup(&self.core, id).await?;
        if let Some(labels) = read_labels(&self.core, id).await? {
            backup.labels = labels;
        }
        Ok(backup)
    }

    /// The backup that a text means: the beginning of its id, long enough to be the only one.
    pub async fn resolve(&self, text: &str) -> Result<BackupId> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let folder = Kind::Backup.folder();
        let ids: Vec<BackupId> =
            self.core.store.list_as(folder, |object| object.name.strip_prefix(folder)?.parse().ok()).await?;
        let mut matching = ids.into_iter().filter(|id| !text.is_empty() && id.to_string().starts_with(text));
        match (matching.next(), matching.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err(Error::new(ErrorKind::NotFound, format!("there is no backup {text:?}"))),
            (Some(a), Some(b)) => {
                let context = format!("{text:?} may mean {a} or {b}: give more of it");
                Err(Error::new(ErrorKind::InvalidArgument, context))
            }
        }
    }

    /// Chains: each backup after the one it is incremental to, newest chains first, per volume.
    pub async fn tree(&self) -> Result<Vec<TreeLine>> {
        let listing = self.list().await?;
        Ok(tree(listing.backups))
    }

    /// Changes a backup's name, description and tags.
    pub async fn edit(&self, id: BackupId, labels: Labels) -> Result<()> {
        self.core.writable()?;
        labels.check()?;
        read_backup(&self.core, id).await?;
        let (name, object) = labels.seal(&self.core.keys, id)?;
        self.core.store.put(&name, object).await
    }

    /// Makes a backup. It counts when this answers; until then there is nothing to see of it.
    pub async fn backup(&self, source: Arc<dyn Source>, request: BackupRequest) -> Result<Backup> {
        backup::run(&self.core, source, request).await
    }

    /// Opens a backup for reading.
    pub async fn reader(&self, id: BackupId, limiter: Option<Limiter>) -> Result<Arc<Reader>> {
        let backup = self.show(id).await?;
        Reader::new(self.core.clone(), backup, limiter).map(Arc::new)
    }

    /// Restores a backup, every byte verified before it is written.
    pub async fn restore(&self, id: BackupId, sink: &dyn Sink, options: &RestoreOptions) -> Result<Backup> {
        let reader = self.reader(id, options.limiter.clone()).await?;
        restore::run(&reader, sink, options).await?;
        Ok(reader.backup.clone())
    }

    /// Deletes backups, in any order. What only they needed goes with the next collections.
    pub async fn delete(&self, ids: &[BackupId]) -> Result<()> {
        self.core.writable()?;
        for id in ids {
            if !is_there(&self.core, *id).await? {
                return Err(not_found(*id));
            }
        }
        self.remove(ids).await
    }

    /// Deletes those of the backups that are still there: somebody else may prune, too.
    pub async fn remove(&self, ids: &[BackupId]) -> Result<()> {
        self.core.writable()?;
        for id in ids {
            self.core.store.delete(&Kind::Backup.name(*id)).await?;
            self.core.store.delete(&Kind::Labels.name(*id)).await?;
        }
        Ok(())
    }

    /// Deletes every backup that the rules do not keep, of one volume (by its id) or of all.
    pub async fn prune(
        &self,
        rules: &KeepRules,
        volume: Option<&str>,
        zone: &TimeZone,
        dry_run: bool,
    ) -> Result<PruneReport> {
        let mut backups = self.list().await?.backups;
        backups.retain(|backup| volume.is_none_or(|volume| backup.volume.id == volume));
        let verdicts = rules.apply(&backups, zone)?;
        let gone: Vec<_> =
            verdicts.iter().filter(|v| v.kept_by.is_empty()).map(|verdict| verdict.backup).collect();
        if !dry_run {
            self.remove(&gone).await?;
        }
        Ok(PruneReport { verdicts, deleted: gone.len() })
    }

    /// Collects garbage.
    pub async fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        gc::run(&self.core, options).await
    }

    /// Checks that every backup can be restored.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport> {
        verify::run(&self.core, options).await
    }
}

/// The chains of backups that come newest first.
fn tree(backups: Vec<Backup>) -> Vec<TreeLine> {
    let ids: HashMap<BackupId, usize> =
        backups.iter().enumerate().map(|(i, backup)| (backup.id, i)).collect();
    let mut children: HashMap<BackupId, Vec<usize>> = HashMap::new();
    let mut volumes: Vec<&str> = Vec::new();
    let mut roots: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, backup) in backups.iter().enumerate() {
        let volume = backup.volume.id.as_str();
        if !volumes.contains(&volume) {
            volumes.push(volume);
        }
        match backup.parent.filter(|parent| ids.contains_key(parent)) {
            Some(parent) => children.entry(parent).or_default().push(i),
            None => roots.entry(volume).or_default().push(i),
        }
    }
    let mut lines = Vec::with_capacity(backups.len());
    // Chains may be thousands long: a stack of its own, not the thread's.
    for volume in volumes {
        let mut stack: Vec<(usize, usize)> =
            roots.remove(volume).unwrap_or_default().into_iter().rev().map(|i| (i, 0)).collect();
        while let Some((i, depth)) = stack.pop() {
            let backup = &backups[i];
            let parent_deleted = depth == 0 && backup.parent.is_some();
            lines.push(TreeLine { backup: backup.clone(), depth, parent_deleted });
            stack.extend(children.remove(&backup.id).unwrap_or_default().into_iter().map(|i| (i, depth + 1)));
        }
    }
    lines
}

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A backup's manifest, if there is one.
pub(crate) async fn find_backup(core: &Core, id: BackupId) -> Result<Option<Backup>> {
    match core.store.find(&Kind::Backup.name(id)).await? {
        Some(object) => Backup::open(&core.keys, Kind::Backup, id, &object).map(Some),
        None => Ok(None),
    }
}

/// Whether there is a backup, without reading it.
pub(crate) async fn is_there(core: &Core, id: BackupId) -> Result<bool> {
    Ok(core.store.head(&Kind::Backup.name(id)).await?.is_some())
}

pub(crate) async fn read_backup(core: &Core, id: BackupId) -> Result<Backup> {
    find_backup(core, id).await?.ok_or_else(|| not_found(id))
}

pub(crate) fn not_found(id: BackupId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no backup {id}"))
}

/// A backup's labels, if they were changed. What is damaged counts as never changed; verify tells of it.
async fn read_labels(core: &Core, id: BackupId) -> Result<Option<Labels>> {
    let Some(object) = core.store.find(&Kind::Labels.name(id)).await? else { return Ok(None) };
    match Labels::open(&core.keys, id, &object) {
        Ok(labels) => Ok(Some(labels)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::warn!(%error, "damaged labels are left out");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
