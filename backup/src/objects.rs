//! What the repository asks of a store, and nothing more: put, put if absent, get a range, list and delete.
//!
//! Any store that answers these with what was written last (as S3 and file systems do) is good enough. No conditional
//! overwrite, no rename, no lock, no clock but the modification times it lists, which only decide how long things
//! are kept that nothing refers to.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryStreamExt as _};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};

use crate::config;
use crate::direct;
use crate::envelope::Kind;
use crate::http::PIECE;
use crate::pack;

/// An object as a listing shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Object {
    /// Its name, relative to the repository.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When the store says it was last written, in milliseconds since 1970.
    pub modified: i64,
}

/// What kind of failure a store had, as far as it decides what is done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There is no such object.
    NotFound,
    /// There is no such store.
    NoStore,
    /// It may work when tried again: timeouts, lost connections, servers that are overloaded or broken.
    Transient,
    /// The store is full.
    NoSpace,
    /// Credentials are missing, wrong or not enough.
    Denied,
    /// Anything else; trying again is of no use.
    Permanent,
}

/// A failure of the store, with its cause.
#[derive(Debug)]
pub struct StoreError {
    /// What to do about it.
    pub failure: Failure,
    /// What happened.
    pub cause: Box<dyn StdError + Send + Sync>,
}

impl StoreError {
    /// A failure with its cause.
    pub fn new(failure: Failure, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> StoreError {
        StoreError { failure, cause: cause.into() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

/// What a call of [`Objects`] gives.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// An object on its way. If it is dropped it may never be there.
#[derive(Default, Debug)]
pub struct Staged(Option<direct::Staged>);

/// The store under a repository. Names are relative, with `/` between parts.
pub trait Objects: Send + Sync + 'static {
    /// Writes an object, whether or not there is one. It is there whole and durable, or not at all.
    fn put<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, ()>;

    /// Writes an object that need not be there before it is [settled](Objects::settle).
    fn stage<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, Staged> {
        async move {
            self.put(name, contents).await?;
            Ok(Staged::default())
        }
        .boxed()
    }

    /// Has objects that were staged be there, whole and durable. Many at once cost little more than one.
    fn settle(&self, staged: Vec<Staged>) -> Answer<'_, ()> {
        drop(staged);
        async { Ok(()) }.boxed()
    }

    /// Writes an object if there is none of that name; false if there is one.
    fn create<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, bool>;

    /// An object's contents, all or a range. What lies past the end is left out.
    fn get<'a>(&'a self, name: &'a str, range: Option<Range<u64>>) -> Answer<'a, Bytes>;

    /// What a listing would say of one object.
    fn head<'a>(&'a self, name: &'a str) -> Answer<'a, Object>;

    /// Deletes an object; it is no error if there is none.
    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;

    /// Shows every object below `prefix`, a name that ends with `/`, in any order.
    fn list<'a>(&'a self, prefix: &'a str, each: &'a mut (dyn FnMut(Object) + Send)) -> Answer<'a, ()>;

    /// Removes what writes that were cut off left behind, where it is so old; how many bytes that was.
    fn remove_litter(&self, age: Duration) -> Answer<'_, u64> {
        let _ = age;
        async { Ok(0) }.boxed()
    }
}

/// Any store of the `object_store` crate, below a prefix.
pub(crate) struct Backend {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// The folder of a store of files, which keeps cut-off writes out of its listings.
    folder: Option<PathBuf>,
}

impl Backend {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: &str, folder: Option<PathBuf>) -> Backend {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Backend { store, prefix, folder }
    }

    fn path(&self, name: &str) -> Result<ObjectPath, StoreError> {
        ObjectPath::parse(format!("{}{name}", self.prefix))
            .map_err(|e| StoreError::new(Failure::Permanent, e))
    }

    /// The folder, for an object that is to be written past the page cache.
    fn direct(&self, contents: &Bytes) -> Option<PathBuf> {
        self.folder.clone().filter(|_| contents.len() >= direct::LEAST)
    }

    /// Refuses to write to a repository whose folder is gone: where it lay on a file system that is not mounted any
    /// more, writing would make another one, and what was written before would not be in it.
    async fn is_there(&self, name: &str) -> Result<(), StoreError> {
        let Some(config) = self.folder.as_ref().map(|folder| folder.join(config::NAME)) else {
            return Ok(());
        };
        if name == config::NAME || on_files(move || config.try_exists()).await? {
            return Ok(());
        }
        Err(StoreError::new(
            Failure::Permanent,
            "the repository is not there any more: its folder has no config",
        ))
    }

    fn object(&self, meta: ObjectMeta) -> Object {
        let path: &str = meta.location.as_ref();
        let name = path.strip_prefix(&self.prefix).unwrap_or(path).to_owned();
        Object { name, size: meta.size, modified: meta.last_modified.timestamp_millis() }
    }
}

impl Objects for Backend {
    fn put<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, ()> {
        async move {
            let path = self.path(name)?;
            self.is_there(name).await?;
            let Some(folder) = self.direct(&contents) else {
                self.store.put(&path, in_pieces(contents)).await.map_err(classify)?;
                return Ok(());
            };
            let name = name.to_owned();
            on_files(move || direct::put(&folder, &name, &contents)).await
        }
        .boxed()
    }

    fn stage<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, Staged> {
        async move {
            let Some(folder) = self.direct(&contents) else {
                self.put(name, contents).await?;
                return Ok(Staged::default());
            };
            self.is_there(name).await?;
            let name = name.to_owned();
            on_files(move || direct::stage(&folder, &name, &contents))
                .await
                .map(|staged| Staged(Some(staged)))
        }
        .boxed()
    }

    fn settle(&self, staged: Vec<Staged>) -> Answer<'_, ()> {
        let files: Vec<_> = staged.into_iter().filter_map(|staged| staged.0).collect();
        on_files(move || direct::settle(files)).boxed()
    }

    fn create<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, bool> {
        async move {
            self.is_there(name).await?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.store.put_opts(&self.path(name)?, in_pieces(contents), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(false)
                }
                Err(e) => Err(classify(e)),
            }
        }
        .boxed()
    }

    fn get<'a>(&'a self, name: &'a str, range: Option<Range<u64>>) -> Answer<'a, Bytes> {
        async move {
            if range.as_ref().is_some_and(|range| range.is_empty()) {
                return Ok(Bytes::new());
            }
            let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
            let answer = self.store.get_opts(&self.path(name)?, options).await.map_err(classify)?;
            let size = answer.range.end - answer.range.start;
            if size > MOST {
                let what = format!("it has {size} bytes, more than anything in a repository");
                return Err(StoreError::new(Failure::Permanent, what));
            }
            answer.bytes().await.map_err(classify)
        }
        .boxed()
    }

    fn head<'a>(&'a self, name: &'a str) -> Answer<'a, Object> {
        async move {
            let meta = self.store.head(&self.path(name)?).await.map_err(classify)?;
            Ok(self.object(meta))
        }
        .boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        async move {
            match self.store.delete(&self.path(name)?).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(classify(e)),
            }
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, each: &'a mut (dyn FnMut(Object) + Send)) -> Answer<'a, ()> {
        async move {
            let path = self.path(prefix.trim_end_matches('/'))?;
            let mut objects = self.store.list(Some(&path));
            while let Some(meta) = objects.try_next().await.map_err(classify)? {
                each(self.object(meta));
            }
            Ok(())
        }
        .boxed()
    }

    fn remove_litter(&self, age: Duration) -> Answer<'_, u64> {
        async move {
            let Some(folder) = self.folder.clone() else { return Ok(0) };
            on_files(move || remove_staged_files(&folder, age)).await
        }
        .boxed()
    }
}

/// Does what waits for a disk where that is in nobody's way.
async fn on_files<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| StoreError::new(Failure::Permanent, e))?
        .map_err(|e| StoreError::new(io_failure(e.kind()), e))
}

/// Bytes that one answer may have: what is read is kept in memory, and somebody else may have written it. The largest
/// small objects have 256 MiB of contents.
const MOST: u64 = 257 << 20;

/// `object_store` writes a file as `name#1` and gives it its name when it is whole. A process that dies in between
/// leaves it behind.
///
/// Only in the repository's own folders: it may share its place with what is somebody else's.
fn remove_staged_files(folder: &Path, least: Duration) -> std::io::Result<u64> {
    let mut removed = 0;
    let own = Kind::ALL.map(Kind::folder).into_iter().chain([pack::FOLDER]);
    let mut folders: Vec<_> = own.map(|own| folder.join(own)).collect();
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let name = entry.file_name();
            let staged = name.to_str().and_then(|name| name.rsplit_once('#')).is_some_and(|(_, number)| {
                !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
            });
            // Another process may be writing it, and may finish while this looks.
            let Ok(meta) = entry.metadata() else { continue };
            let old = meta.modified()?.elapsed().is_ok_and(|age| age >= least);
            if kind.is_file() && staged && old && std::fs::remove_file(entry.path()).is_ok() {
                removed += meta.len();
            }
        }
    }
    Ok(removed)
}

/// So that whoever sends it can see that it moves.
fn in_pieces(contents: Bytes) -> PutPayload {
    (0..contents.len()).step_by(PIECE).map(|at| contents.slice(at..contents.len().min(at + PIECE))).collect()
}

fn classify(error: object_store::Error) -> StoreError {
    use object_store::Error as E;
    let failure = match &error {
        E::NotFound { .. } if error.to_string().contains("<Code>NoSuchBucket</Code>") => Failure::NoStore,
        E::NotFound { .. } => Failure::NotFound,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Failure::Denied,
        E::Generic { .. } => generic_failure(&error),
        _ => Failure::Permanent,
    };
    StoreError::new(failure, error)
}

/// What lies behind an error that `object_store` has no name for: an HTTP status, a lost connection, an I/O error.
fn generic_failure(error: &(dyn StdError + 'static)) -> Failure {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return match error.kind() {
                HttpErrorKind::Unknown => io_behind(error),
                _ => Failure::Transient,
            };
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return io_failure(error.kind());
        }
        cause = error.source();
    }
    // The client's own type for a response that is no success cannot be named from here; its words hold the status.
    let words = error.to_string();
    let status = words
        .split("status code: ")
        .nth(1)
        .and_then(|rest| rest.get(..3))
        .and_then(|s| s.parse::<u16>().ok());
    match status {
        Some(408 | 429) => Failure::Transient,
        // What S3 says of a request that came too slowly or not whole.
        Some(400) if ["RequestTimeout", "IncompleteBody"].iter().any(|code| words.contains(code)) => {
            Failure::Transient
        }
        Some(507) => Failure::NoSpace,
        Some(status) if status >= 500 && status != 501 => Failure::Transient,
        Some(_) => Failure::Permanent,
        None if words.contains("returned error response") => Failure::Transient,
        None => Failure::Permanent,
    }
}

fn io_behind(error: &HttpError) -> Failure {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return io_failure(error.kind());
        }
        cause = error.source();
    }
    Failure::Transient
}

fn io_failure(kind: std::io::ErrorKind) -> Failure {
    use std::io::ErrorKind as K;
    match kind {
        K::NotFound => Failure::NotFound,
        K::PermissionDenied | K::ReadOnlyFilesystem => Failure::Denied,
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => Failure::NoSpace,
        K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::NotConnected
        | K::AddrNotAvailable
        | K::BrokenPipe
        | K::TimedOut
        | K::Interrupted
        | K::WouldBlock
        | K::UnexpectedEof
        | K::ResourceBusy
        | K::StaleNetworkFileHandle => Failure::Transient,
        _ => Failure::Permanent,
    }
}
