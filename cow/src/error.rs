//! The engine's one error type: a stable kind, what was being done, and the cause.

use std::fmt;
use std::io;

/// What went wrong, as a program tells it apart. The codes are stable; scripts may match on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// No such volume, snapshot or version.
    NotFound,
    /// The name is taken.
    Exists,
    /// A name or size breaks the rules.
    InvalidArgument,
    /// The range lies outside the volume.
    OutOfRange,
    /// The pool, or the file system under it, is full.
    NoSpace,
    /// The version cannot be written.
    ReadOnly,
    /// A barrier failed; the pool refuses writes until it is reopened.
    Fenced,
    /// What was read does not match its checksum or makes no sense.
    Corrupt,
    /// The disk reported an error.
    Io,
    /// The operation conflicts with one under way or with what depends on it.
    Busy,
    /// What is asked for contradicts itself, or does not go with what there is.
    Conflict,
    /// Whoever asked for it does not want it any more.
    Cancelled,
    /// A volume cannot get smaller.
    Shrink,
    /// The volume has snapshots and deleting them was not asked for.
    HasSnapshots,
    /// The file or device does not hold a pool.
    NotAPool,
    /// The pool was made by a version of cairn that this one does not understand.
    Unsupported,
    /// The file or device is shorter than the pool it holds.
    Truncated,
}

impl ErrorKind {
    /// The stable code, in kebab case.
    pub fn code(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not-found",
            ErrorKind::Exists => "exists",
            ErrorKind::InvalidArgument => "invalid-argument",
            ErrorKind::OutOfRange => "out-of-range",
            ErrorKind::NoSpace => "no-space",
            ErrorKind::ReadOnly => "read-only",
            ErrorKind::Fenced => "fenced",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Io => "io",
            ErrorKind::Busy => "busy",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Shrink => "shrink",
            ErrorKind::HasSnapshots => "has-snapshots",
            ErrorKind::NotAPool => "not-a-pool",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Truncated => "truncated",
        }
    }
}

/// An error of the engine.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<io::Error>,
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that the engine found itself; `context` says what is wrong and, where it helps, what to do.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into(), source: None }
    }

    /// The disk failed while `context`; a full file system keeps its own kind.
    pub fn io(context: impl Into<String>, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ErrorKind::NoSpace
            }
            _ => ErrorKind::Io,
        };
        Error { kind, context: context.into(), source: Some(source) }
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence without its cause.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// The sentence and its cause.
    pub fn with_cause(&self) -> String {
        self.source.as_ref().map_or_else(|| self.to_string(), |source| format!("{self}: {source}"))
    }

    /// The same error for another of the requests that one I/O served.
    pub(crate) fn duplicate(&self) -> Error {
        let source = self.source.as_ref().map(|e| match e.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(e.kind(), e.to_string()),
        });
        Error { kind: self.kind, context: self.context.clone(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
