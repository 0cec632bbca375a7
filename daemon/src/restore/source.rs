//! A backup in a repository as what a volume is restored from.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_backup::{
    BackupId, Error, ErrorKind, HoldId, KeyFile, Location, OpenOptions, Reader, RepoId, Repository, Result,
    Retry, S3Options,
};

use super::fetches::{Answer, Source, Trouble};

/// The store is asked twice, and what has to be tried for longer is tried by whoever waits for it.
const RETRY: Retry = Retry {
    attempts: 2,
    first_wait: Duration::from_millis(200),
    longest_wait: Duration::from_secs(1),
    attempt_time: Duration::from_secs(20),
};

/// A backup, by where it is.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) location: Location,
    pub(crate) key_file: Option<PathBuf>,
}

impl Wanted {
    /// Opens the repository; its keys for S3 are those of the daemon's own environment.
    pub(crate) async fn open(&self) -> Result<Repository> {
        let key = self.key_file.as_deref().map(KeyFile::read).transpose()?;
        Repository::open(&self.location, OpenOptions { key, s3: S3Options::default(), retry: RETRY }).await
    }
}

#[derive(Clone)]
struct Opened {
    reader: Arc<Reader>,
    repository: Repository,
}

/// See [`Source`]. Opened when it is first needed, and again when the repository was away.
pub(crate) struct RepoSource {
    wanted: Wanted,
    backup: BackupId,
    hold: Option<HoldId>,
    opened: tokio::sync::Mutex<Option<Opened>>,
}

/// An error with its causes, for people.
pub(crate) fn failure(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        // Some libraries repeat their causes in their own words.
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    text
}

fn away(error: &Error) -> Trouble {
    Trouble::Away(failure(error))
}

impl RepoSource {
    /// The backup is not looked for yet.
    pub(crate) fn new(wanted: Wanted, backup: BackupId, hold: Option<HoldId>) -> RepoSource {
        RepoSource { wanted, backup, hold, opened: tokio::sync::Mutex::new(None) }
    }

    /// A backup that was looked for.
    pub(crate) fn opened(
        wanted: Wanted,
        repository: &Repository,
        reader: Arc<Reader>,
        hold: Option<HoldId>,
    ) -> RepoSource {
        let backup = reader.backup().id;
        let opened = Opened { reader, repository: repository.clone() };
        RepoSource { wanted, backup, hold, opened: tokio::sync::Mutex::new(Some(opened)) }
    }

    async fn open(&self) -> Result<Opened, Trouble> {
        let mut opened = self.opened.lock().await;
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let repository = self.wanted.open().await.map_err(|e| away(&e))?;
        let reader = match (repository.reader(self.backup, None).await, self.hold) {
            (Err(error), Some(hold)) if error.kind() == ErrorKind::NotFound => {
                // Deleted, and held.
                repository.held(hold).await.and_then(|held| held.ok_or(error))
            }
            (reader, _) => reader,
        };
        let reader = reader.map_err(|e| away(&e))?;
        Ok(opened.insert(Opened { reader, repository }).clone())
    }

    /// What an error means. A store that lost everything, a folder where nothing is mounted, looks like damage of each
    /// thing in it: so it is looked whether the repository is still there.
    async fn trouble(&self, error: Error, id: RepoId) -> Trouble {
        if error.kind() != ErrorKind::Corrupt {
            return away(&error);
        }
        let now = self.wanted.open().await;
        let trouble = match now {
            Ok(repository) if repository.id() == id => return Trouble::Damaged(failure(&error)),
            Ok(_) => Trouble::Away(format!("{} is another repository now", self.wanted.location)),
            Err(error) => away(&error),
        };
        *self.opened.lock().await = None;
        trouble
    }
}

impl Source for RepoSource {
    fn read(&self, offset: u64, len: usize) -> Answer<'_, Bytes> {
        Box::pin(async move {
            let Opened { reader, repository } = self.open().await?;
            match reader.read(offset, len).await {
                Ok(bytes) => Ok(bytes),
                Err(error) => Err(self.trouble(error, repository.id()).await),
            }
        })
    }

    fn data(&self, range: Range<u64>) -> Answer<'_, Vec<Range<u64>>> {
        Box::pin(async move {
            let Opened { reader, repository } = self.open().await?;
            match reader.data_extents(range).await {
                Ok(extents) => Ok(extents),
                Err(error) => Err(self.trouble(error, repository.id()).await),
            }
        })
    }

    fn hold(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let Some(hold) = self.hold else { return Ok(()) };
            let repository = self.open().await?.repository;
            repository.hold(hold, self.backup).await.map_err(|e| away(&e))
        })
    }

    fn release(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let Some(hold) = self.hold else { return Ok(()) };
            let repository = self.open().await?.repository;
            repository.release(hold).await.map_err(|e| away(&e))
        })
    }
}
