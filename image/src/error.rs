//! What can be wrong with an image, and with moving it.

use std::fmt;
use std::io;

use cairn_api::Size;

/// What kind of failure it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// It would have other files opened, or asks for what is not done on purpose.
    Refused,
    /// It is damaged, cut off, or not what it says it is.
    Damaged,
    /// It is larger than allowed.
    TooLarge,
    /// It needs a program that is not installed, or a feature that nothing here can read.
    Unsupported,
    /// A file or stream could not be read or written.
    Io,
    /// The NBD server refused or failed something, or went away.
    Server,
    /// The caller wanted no more of it.
    Cancelled,
}

impl ErrorKind {
    /// The kind as a stable word.
    pub fn code(self) -> &'static str {
        match self {
            ErrorKind::Refused => "image-refused",
            ErrorKind::Damaged => "image-damaged",
            ErrorKind::TooLarge => "image-too-large",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Io => "io",
            ErrorKind::Server => "nbd",
            ErrorKind::Cancelled => "cancelled",
        }
    }
}

/// A failure: its kind, a sentence, what to do about it, and its cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<io::Error>,
}

/// What everything here returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Refused, message)
    }

    pub(crate) fn damaged(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Damaged, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// A failure of whoever serves or keeps the disk.
    pub fn server(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Server, message)
    }

    pub(crate) fn cancelled() -> Error {
        Error::new(ErrorKind::Cancelled, "cancelled")
    }

    /// A failed read or write of `what`.
    pub(crate) fn io(what: &str, source: io::Error) -> Error {
        Error { source: Some(source), ..Error::new(ErrorKind::Io, what) }
    }

    #[must_use]
    pub(crate) fn because(mut self, source: io::Error) -> Error {
        self.source = Some(source);
        self
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Checks what an image says of its size.
pub(crate) fn check_size(size: u64, most: u64) -> Result<()> {
    if size == 0 {
        return Err(Error::damaged("the image has no bytes"));
    }
    if size > most { Err(too_large(most)) } else { Ok(()) }
}

/// The disk has more bytes than allowed.
pub(crate) fn too_large(most: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("the image is a disk of more than {}", Size(most)))
        .with_hint("allow more with --max-size, if that is what it should be")
}
