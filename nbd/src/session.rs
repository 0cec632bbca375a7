//! One connection from greeting to close: [`serve`], its bounds ([`Limits`]) and its outcome.

use std::net::Shutdown as How;
use std::rc::Rc;
use std::time::Duration;

use cairn_uring::net::Stream;
use cairn_uring::{AlignedBuf, Slice, timeout};

use crate::budget::MemoryBudget;
use crate::error::{SessionError, SessionErrorKind};
use crate::export::{ClientInfo, Exports};
use crate::handshake::{self, Outcome};
use crate::shutdown::Shutdown;
use crate::transmission;
use crate::transport::Transport;

/// After a shutdown, how long a client gets to close its end before the server does. Closing at once, with
/// requests unread in the socket, could make the kernel throw away replies the client has yet to read.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that the requests of all connections may hold together, unless told otherwise.
const DEFAULT_BUDGET: u64 = 1 << 30;

/// The bounds of one session. The default suits a daemon; tests and small machines may want less.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Time for the whole negotiation.
    pub negotiation: Duration,
    /// Options a client may send; four more for every export it was given by its first LIST.
    pub max_options: usize,
    /// Requests in flight, counted from parsing to the last byte of the reply being sent.
    pub max_requests: usize,
    /// Bytes of memory for payload in flight, counted likewise. One request is admitted even if it exceeds this alone.
    pub max_bytes: u64,
    /// What the requests of all sessions may hold together. Clones of the limits share it, so a server makes its
    /// limits once.
    pub budget: MemoryBudget,
    /// Extents in one block status chunk; at most [`crate::proto::MAX_STATUS_EXTENTS`] are sent whatever this is.
    pub max_extents: usize,
    /// Bytes of the receive buffer each connection has, at least 4096.
    pub receive_buffer: usize,
    /// At a shutdown, how long the client gets to take the replies to what is in flight. A payload that has begun to
    /// arrive has a quarter of it to arrive whole.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            negotiation: Duration::from_secs(10),
            max_options: 32,
            max_requests: 256,
            max_bytes: 64 << 20,
            budget: MemoryBudget::new(DEFAULT_BUDGET),
            max_extents: 1 << 16,
            receive_buffer: 256 << 10,
            drain: Duration::from_secs(10),
        }
    }
}

/// How a session ended when nothing went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The client aborted the negotiation.
    Aborted,
    /// The client said DISC.
    Disconnected,
    /// The client closed the socket between two messages.
    Closed,
    /// The server was shut down.
    Shutdown,
}

/// What a session did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionSummary {
    /// How it ended.
    pub end: SessionEnd,
    /// The canonical name of the export, if the client got as far as choosing one.
    pub export: Option<String>,
    /// Requests received, those refused included, DISC not.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes of the export's contents sent, holes not counted.
    pub bytes_read: u64,
    /// Bytes of payload written.
    pub bytes_written: u64,
}

impl SessionSummary {
    pub(crate) fn before_transmission(end: SessionEnd) -> Self {
        Self { end, export: None, requests: 0, errors: 0, bytes_read: 0, bytes_written: 0 }
    }
}

/// Serves one connection on the current reactor until it ends; everything started for it has ended when this
/// returns. See [`serve_on`].
pub async fn serve<X: Exports>(
    stream: Stream,
    exports: &X,
    limits: &Limits,
    shutdown: &Shutdown,
) -> Result<SessionSummary, SessionError> {
    let client = ClientInfo { peer: stream.peer() };
    serve_on(stream, &client, exports, limits, shutdown).await
}

/// Serves one connection over any [`Transport`].
///
/// Returns once every request in flight has ended, however the session ended: a client that vanishes costs it
/// no more than the time its last requests take. When `shutdown` is triggered, no further requests are taken, those
/// in flight are finished and answered, and the connection is closed. A request never answered is one that never
/// happened, so a client that reconnects sends it again; an ESHUTDOWN would reach the programs behind it as an error.
///
/// Dropping the future closes the connection; requests in flight still run to their end on the reactor.
pub async fn serve_on<X: Exports, T: Transport>(
    io: T,
    client: &ClientInfo,
    exports: &X,
    limits: &Limits,
    shutdown: &Shutdown,
) -> Result<SessionSummary, SessionError> {
    let io = Rc::new(io);
    let negotiation = handshake::negotiate(&*io, exports, client, limits, shutdown);
    let outcome = timeout(limits.negotiation, negotiation).await.unwrap_or_else(|_| {
        Err(SessionError::new(
            SessionErrorKind::NegotiationTimeout,
            "the client did not finish negotiating in time",
        ))
    });
    let result = match outcome {
        Ok(Outcome::Transmission(agreement)) => {
            transmission::run(Rc::clone(&io), agreement, limits, shutdown).await
        }
        Ok(Outcome::Ended(end)) => Ok(SessionSummary::before_transmission(end)),
        Err(error) => Err(error),
    };
    conclude(&*io, result).await
}

/// Closes the connection in the way that fits how its session ended.
pub(crate) async fn conclude<T: Transport>(
    io: &T,
    result: Result<SessionSummary, SessionError>,
) -> Result<SessionSummary, SessionError> {
    if let Ok(SessionSummary { end: SessionEnd::Shutdown, .. }) = result {
        io.shutdown(How::Write);
        // Too slow a client is no error here: everything it was owed has been sent.
        let _ = timeout(LINGER, discard(io)).await;
    }
    io.shutdown(How::Both);
    result
}

/// Reads until the other end closes.
pub(crate) async fn discard<T: Transport>(io: &T) {
    let mut buf = AlignedBuf::new(4096);
    loop {
        let (result, slice) = io.read(Slice::new(buf, 0..4096)).await;
        buf = slice.into_inner();
        if !matches!(result, Ok(received) if received > 0) {
            return;
        }
    }
}
