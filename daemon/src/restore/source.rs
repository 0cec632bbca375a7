//! A backup in a repository as what a volume is restored from.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_backup::{
    BackupId, Error, ErrorKind, KeyFile, Location, OpenOptions, Reader, RepoId, Repository, Result, Retry,
    S3Options,
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

struct Opened {
    reader: Arc<Reader>,
    repository: RepoId,
}

/// See [`Source`]. Opened when it is first needed, and again when the repository was away.
pub(crate) struct RepoSource {
    wanted: Wanted,
    backup: BackupId,
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
    pub(crate) fn new(wanted: Wanted, backup: BackupId) -> RepoSource {
        RepoSource { wanted, backup, opened: tokio::sync::Mutex::new(None) }
    }

    /// A backup that was looked for.
    pub(crate) fn opened(wanted: Wanted, repository: &Repository, reader: Arc<Reader>) -> RepoSource {
        let backup = reader.backup().id;
        let opened = Opened { reader, repository: repository.id() };
        RepoSource { wanted, backup, opened: tokio::sync::Mutex::new(Some(opened)) }
    }

    async fn reader(&self) -> Result<(Arc<Reader>, RepoId), Trouble> {
        let mut opened = self.opened.lock().await;
        if let Some(Opened { reader, repository }) = &*opened {
            return Ok((Arc::clone(reader), *repository));
        }
        let repository = self.wanted.open().await.map_err(|e| away(&e))?;
        let reader = repository.reader(self.backup, None).await.map_err(|e| away(&e))?;
        *opened = Some(Opened { reader: Arc::clone(&reader), repository: repository.id() });
        Ok((reader, repository.id()))
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
            let (reader, id) = self.reader().await?;
            match reader.read(offset, len).await {
                Ok(bytes) => Ok(bytes),
                Err(error) => Err(self.trouble(error, id).await),
            }
        })
    }

    fn data(&self, range: Range<u64>) -> Answer<'_, Vec<Range<u64>>> {
        Box::pin(async move {
            let (reader, id) = self.reader().await?;
            match reader.data_extents(range).await {
                Ok(extents) => Ok(extents),
                Err(error) => Err(self.trouble(error, id).await),
            }
        })
    }
}
