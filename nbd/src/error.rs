//! The errors of this crate: those a client sees ([`Errno`]) and the one a session ends with
//! ([`SessionError`]).

use std::error::Error;
use std::fmt;
use std::io;

/// The error values the specification allows in a reply.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted: a write to a read-only export.
    Perm = 1,
    /// Input/output error.
    Io = 5,
    /// Out of memory; to be avoided.
    NoMem = 12,
    /// Invalid argument.
    Inval = 22,
    /// No space left, also for writes past the end.
    NoSpc = 28,
    /// The value is too large; only where the specification has it.
    Overflow = 75,
    /// Not supported; only for zeroes asked to be fast.
    NotSup = 95,
    /// The server is shutting down.
    Shutdown = 108,
}

impl Errno {
    /// The value on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The nearest value for an operating system's error number, as the specification maps them:
    /// EDQUOT and EFBIG are NOSPC, EROFS and EACCES are PERM; what has no place becomes IO.
    pub fn from_os(errno: i32) -> Self {
        // Linux numbers; only these four names have no variant of their own.
        const EACCES: i32 = 13;
        const EFBIG: i32 = 27;
        const EROFS: i32 = 30;
        const EDQUOT: i32 = 122;
        match errno {
            1 | EACCES | EROFS => Self::Perm,
            12 => Self::NoMem,
            22 => Self::Inval,
            28 | EFBIG | EDQUOT => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "out of memory",
            Self::Inval => "invalid argument",
            Self::NoSpc => "no space left on device",
            Self::Overflow => "value too large",
            Self::NotSup => "operation not supported",
            Self::Shutdown => "the server is shutting down",
        })
    }
}

impl Error for Errno {}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        error.raw_os_error().map_or(Self::Io, Self::from_os)
    }
}

/// Why a session failed, in a form a program can branch on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum SessionErrorKind {
    /// The socket failed, or ended in the middle of a message.
    Io,
    /// The client broke the protocol beyond repair.
    Protocol,
    /// The client did not finish negotiating in time.
    NegotiationTimeout,
    /// The client sent too many options.
    TooManyOptions,
    /// The client asked, in a way that leaves no room for an error reply, for an export it cannot have.
    Refused,
    /// The client did not take its replies before the server's patience at shutdown ran out.
    DrainTimeout,
}

/// A session ended by an error. What was in flight has been finished all the same.
#[derive(Debug)]
pub struct SessionError {
    kind: SessionErrorKind,
    context: String,
    source: Option<io::Error>,
}

impl SessionError {
    pub(crate) fn new(kind: SessionErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    pub(crate) fn io(context: &str, source: io::Error) -> Self {
        Self { kind: SessionErrorKind::Io, context: context.to_owned(), source: Some(source) }
    }

    pub(crate) fn protocol(context: impl Into<String>) -> Self {
        Self::new(SessionErrorKind::Protocol, context)
    }

    /// A connection that ended inside a message.
    pub(crate) fn cut_short(context: &str) -> Self {
        Self::io(context, io::ErrorKind::UnexpectedEof.into())
    }

    /// The kind, for branching.
    pub const fn kind(&self) -> SessionErrorKind {
        self.kind
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operating_system_errors_become_wire_errors() {
        for (os, wire) in [(122, Errno::NoSpc), (27, Errno::NoSpc), (28, Errno::NoSpc), (30, Errno::Perm)] {
            assert_eq!(Errno::from(io::Error::from_raw_os_error(os)), wire);
        }
        assert_eq!(Errno::from(io::Error::from_raw_os_error(71)).code(), 5);
        assert_eq!(Errno::from(io::Error::other("no number")), Errno::Io);
    }

    #[test]
    fn display_does_not_repeat_the_source() {
        let error = SessionError::cut_short("reading a request");
        assert_eq!(error.to_string(), "reading a request");
        assert!(error.source().is_some_and(|s| !error.to_string().contains(&s.to_string())));
    }
}
