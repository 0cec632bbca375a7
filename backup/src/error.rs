//! The crate's one error type: a stable kind, what is wrong with which object, the backups it hurts, and the cause.

use std::error::Error as StdError;
use std::fmt;

use crate::ids::BackupId;

/// What went wrong, as a program tells it apart. The codes are stable; scripts may match on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// No such backup.
    NotFound,
    /// There is a repository already.
    Exists,
    /// The place holds no repository.
    NotARepository,
    /// The repository was made by a newer version of cairn.
    Unsupported,
    /// The repository is encrypted and no key was given.
    KeyRequired,
    /// The key does not open the repository.
    WrongKey,
    /// An argument breaks the rules.
    InvalidArgument,
    /// What was read does not match its checksum or makes no sense, or is not there although something needs it.
    Corrupt,
    /// The store is full.
    NoSpace,
    /// The store refuses access.
    Denied,
    /// The store cannot be reached or kept failing.
    Unavailable,
    /// The store failed in another way.
    Store,
    /// The volume being backed up could not be read.
    Source,
    /// What is being restored to could not be written.
    Target,
    /// The caller asked to stop.
    Cancelled,
    /// Others kept changing what this operation relies on.
    Conflict,
}

impl ErrorKind {
    /// The stable code, in kebab case.
    pub fn code(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not-found",
            ErrorKind::Exists => "exists",
            ErrorKind::NotARepository => "not-a-repository",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::KeyRequired => "key-required",
            ErrorKind::WrongKey => "wrong-key",
            ErrorKind::InvalidArgument => "invalid-argument",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::NoSpace => "no-space",
            ErrorKind::Denied => "denied",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Store => "store",
            ErrorKind::Source => "source",
            ErrorKind::Target => "target",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Conflict => "conflict",
        }
    }

    /// What to do about it, in one sentence; empty where the message says it all.
    pub fn advice(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "List the backups to see what there is.",
            ErrorKind::Exists => "Use the repository that is there, or name another place.",
            ErrorKind::NotARepository => "Check the URL, or make a repository there with init.",
            ErrorKind::Unsupported => "Use the newer version of cairn that made it.",
            ErrorKind::KeyRequired => "Give the key file that the repository was made with.",
            ErrorKind::WrongKey => {
                "Give the key file that the repository was made with; without it nobody can read it."
            }
            ErrorKind::InvalidArgument | ErrorKind::Cancelled => "",
            ErrorKind::Corrupt => {
                "Run verify to see every backup that is hurt; with repair, the next full backup stores again what the volume still has. Delete the backups that stay hurt."
            }
            ErrorKind::NoSpace => "Free space at the store, or delete or prune backups and run gc.",
            ErrorKind::Denied => {
                "Check what the store lets this user do: the credentials, or the permissions of its files."
            }
            ErrorKind::Unavailable => {
                "Try again when the store can be reached: what was uploaded is not sent again."
            }
            ErrorKind::Store => "Look at the cause the store gives.",
            ErrorKind::Source => "Check the volume and its pool, then try again.",
            ErrorKind::Target => "Check the space and the permissions of what is being restored to.",
            ErrorKind::Conflict => "Try again: others deleted or collected what this needed while it ran.",
        }
    }
}

/// An error of the repository.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    backups: Vec<BackupId>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error; `context` says what is wrong, with which object.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into(), backups: Vec::new(), source: None }
    }

    /// The error with its cause.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// The error with a backup that it hurts.
    pub fn hurting(mut self, backup: BackupId) -> Error {
        if !self.backups.contains(&backup) {
            self.backups.push(backup);
        }
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The backups known to be hurt. Others may be: verify tells.
    pub fn backups(&self) -> &[BackupId] {
        &self.backups
    }

    pub(crate) fn corrupt(object: &str, what: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, format!("{object}: {what}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        for (i, backup) in self.backups.iter().enumerate() {
            write!(f, "{}{backup}", if i == 0 { "; hurts backup " } else { ", " })?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
