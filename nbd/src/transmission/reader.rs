//! Requests on their way in.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use cairn_uring::{AlignedBuf, timeout};

use super::check::{self, Action, Refusal, Rules};
use super::connection::{Connection, Permit};
use super::reply::ReplyTo;
use super::worker::{Job, Work, status_cost};
use crate::error::{Errno, SessionError};
use crate::export::{Export, Span};
use crate::proto::{Command, ContextId, Fields, HeaderStyle, MAX_PAYLOAD, Request};
use crate::session::SessionEnd;
use crate::shutdown::{Either, race};
use crate::transport::{RecvBuf, Transport};

/// From this size on, a payload is received straight into its buffer, in bytes.
const LARGE_PAYLOAD: u64 = 32 << 10;
/// How much is received at once right after a large payload. Another is likely, and what arrives together
/// with its header has to be copied.
const WINDOW_AFTER_LARGE: usize = 4 << 10;
/// The largest payload of a refused request that is read and thrown away to keep the connection, in bytes.
const MAX_DISCARD: u64 = 2 * MAX_PAYLOAD as u64;

/// At a shutdown, the part of the time for draining that a payload under way may take to arrive whole; the rest is for
/// carrying the request out and sending its reply.
const PAYLOAD_SHARE: u32 = 4;

/// Reads requests until the client leaves, breaks the protocol or the server shuts down.
pub(super) async fn run<E: Export, T: Transport>(
    conn: &Rc<Connection<E, T>>,
    recv: RecvBuf,
) -> Result<SessionEnd, SessionError> {
    let mut reader = Reader { conn, recv, window: usize::MAX };
    loop {
        if let Some(end) = reader.request().await? {
            return Ok(end);
        }
    }
}

struct Reader<'a, E: Export, T: Transport> {
    conn: &'a Rc<Connection<E, T>>,
    recv: RecvBuf,
    window: usize,
}

/// Reading was given up: see [`Connection::interrupted`].
struct Interrupted;

impl<E: Export, T: Transport> Reader<'_, E, T> {
    /// Takes one request in. `Some` if there will be no other.
    async fn request(&mut self) -> Result<Option<SessionEnd>, SessionError> {
        let style = self.conn.style;
        if self.conn.is_draining() {
            // Also what has been received already: its sender hears nothing of it, and asks again elsewhere.
            return Ok(Some(SessionEnd::Shutdown));
        }
        while self.recv.unread().len() < style.request_len() {
            match race(self.recv.fill(self.conn.io(), self.window), self.conn.interrupted()).await {
                Either::First(Ok(0)) if self.recv.unread().is_empty() => {
                    return Ok(Some(SessionEnd::Closed));
                }
                Either::First(Ok(0)) => return Err(SessionError::cut_short("reading a request")),
                Either::First(Ok(_)) => self.window = usize::MAX,
                Either::First(Err(error)) => return Err(SessionError::io("reading a request", error)),
                Either::Second(()) => return Ok(Some(self.end())),
            }
        }
        let request = Request::decode(self.recv.unread(), style)
            .map_err(|bad| SessionError::protocol(format!("a request begins with {:#010x}", bad.0)))?;
        self.recv.consume(style.request_len());
        if request.code == Command::Disc as u16 {
            return Ok(Some(SessionEnd::Disconnected));
        }
        self.conn.count(|c| c.requests += 1);
        match self.take(&request).await {
            Ok(()) => Ok(None),
            Err(Stop::Interrupted) => Ok(Some(self.end())),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Checks `request`, receives its payload and hands it to a worker, or refuses it.
    async fn take(&mut self, request: &Request) -> Result<(), Stop> {
        let conn = self.conn;
        let style = conn.style;
        let to = ReplyTo { style, cookie: request.cookie, offset: request.offset };
        let rules =
            Rules { style, flags: conn.flags, size: conn.export.size(), contexts: !conn.contexts.is_empty() };
        let payload = request.payload_len(style);
        let (permit, work) = match check::check(request, &rules) {
            Err(refusal) => return self.refuse(to, payload, refusal).await,
            Ok(Action::Nothing) => {
                let permit = self.admit(0).await?;
                conn.send(|out| to.success(out));
                permit.settle();
                return Ok(());
            }
            Ok(Action::Write { offset, len, fua }) => {
                let permit = self.admit(Span::of(offset, len).footprint()).await?;
                let buf = self.write_payload(offset, len).await?;
                (permit, Work::Write { len, buf, fua })
            }
            Ok(Action::BlockStatusOf { offset, payload, one }) => {
                let (len, only) = match self.status_payload(offset, payload, rules.size).await? {
                    Ok(selection) => selection,
                    Err(refusal) => return self.refuse(to, 0, refusal).await,
                };
                let cost = status_cost(len, one, conn.limits().max_extents, only.len(), style);
                (self.admit(cost).await?, Work::BlockStatus { len, one, only: Some(only) })
            }
            Ok(Action::BlockStatus { len, one, .. }) => {
                let cost = status_cost(len, one, conn.limits().max_extents, conn.contexts.len(), style);
                (self.admit(cost).await?, Work::BlockStatus { len, one, only: None })
            }
            Ok(Action::Read { offset, len, whole }) => {
                (self.admit(Span::of(offset, len).footprint()).await?, Work::Read { len, whole })
            }
            Ok(Action::Flush) => (self.admit(0).await?, Work::Flush),
            Ok(Action::Trim { len, fua, .. }) => (self.admit(0).await?, Work::Trim { len, fua }),
            Ok(Action::Cache { len, .. }) => (self.admit(0).await?, Work::Cache { len }),
            Ok(Action::WriteZeroes { len, flags, .. }) => {
                (self.admit(0).await?, Work::WriteZeroes { len, flags })
            }
        };
        conn.dispatch(Job { permit, to, work });
        Ok(())
    }

    /// Answers with an error, in step: the payload, if any, is read and thrown away first.
    async fn refuse(&mut self, to: ReplyTo, payload: u64, refusal: Refusal) -> Result<(), Stop> {
        // The specification wants a hard disconnect for what exceeds the advertised maximum with extended headers.
        let limit = if to.style == HeaderStyle::Extended { u64::from(MAX_PAYLOAD) } else { MAX_DISCARD };
        if payload > limit {
            let what = format!("a request announces a payload of {payload} bytes");
            return Err(Stop::Failed(SessionError::protocol(what)));
        }
        let io = self.conn.io();
        let skipped = uninterrupted(self.conn, self.recv.skip(io, payload)).await?;
        if !skipped.map_err(payload_failed)? {
            return Err(payload_cut_short());
        }
        let permit = self.admit(0).await?;
        self.conn.count(|c| c.errors += 1);
        self.conn.send(|out| to.failure(out, refusal.errno, refusal.message));
        permit.settle();
        Ok(())
    }

    async fn admit(&self, bytes: u64) -> Result<Permit<E, T>, Stop> {
        self.conn.admit(bytes).await.ok_or(Stop::Interrupted)
    }

    /// Receives what a WRITE carries into a buffer of its own.
    async fn write_payload(&mut self, offset: u64, len: u32) -> Result<AlignedBuf, Stop> {
        let span = Span::of(offset, len);
        let len = len as usize;
        let io = self.conn.io();
        if (len as u64) < LARGE_PAYLOAD && self.recv.unread().len() < len {
            // A small payload is worth a receive that may bring further requests along.
            let whole = uninterrupted(self.conn, self.recv.fill_to(io, len)).await?;
            if !whole.map_err(payload_failed)? {
                return Err(payload_cut_short());
            }
        }
        if len as u64 >= LARGE_PAYLOAD {
            self.window = WINDOW_AFTER_LARGE;
        }
        let taken = self.recv.take_into(io, span.buffer(), span.phase, len);
        uninterrupted(self.conn, taken).await?.map_err(payload_failed)?.ok_or_else(payload_cut_short)
    }

    /// Reads the payload of a BLOCK_STATUS: a length, then the contexts it is about, each once and all known.
    async fn status_payload(
        &mut self,
        offset: u64,
        payload: u64,
        size: u64,
    ) -> Result<Result<(u64, Vec<ContextId>), Refusal>, Stop> {
        let invalid = |message| Ok(Err(Refusal::new(Errno::Inval, message)));
        let io = self.conn.io();
        let most = 8 + 4 * self.conn.contexts.len() as u64;
        if payload < 8 + 4 || payload > most || !payload.is_multiple_of(4) {
            if payload > u64::from(MAX_PAYLOAD) {
                let what = format!("BLOCK_STATUS announces a payload of {payload} bytes");
                return Err(Stop::Failed(SessionError::protocol(what)));
            }
            let skipped = uninterrupted(self.conn, self.recv.skip(io, payload)).await?;
            if !skipped.map_err(payload_failed)? {
                return Err(payload_cut_short());
            }
            return invalid("the payload names no contexts, or more than were selected");
        }
        // Bounded above by the contexts one connection may select.
        let payload = payload as usize;
        let whole = uninterrupted(self.conn, self.recv.fill_to(io, payload)).await?;
        if !whole.map_err(payload_failed)? {
            return Err(payload_cut_short());
        }
        let mut fields = Fields::new(&self.recv.unread()[..payload]);
        let len = fields.u64().unwrap_or(0);
        let mut only = Vec::with_capacity(payload / 4);
        while let Some(id) = fields.u32() {
            only.push(ContextId(id));
        }
        self.recv.consume(payload);
        let known = |id: &ContextId| self.conn.contexts.iter().any(|c| c.id == *id);
        let twice = (1..only.len()).any(|i| only[..i].contains(&only[i]));
        if twice || !only.iter().all(known) {
            return invalid("the payload names a context twice, or one that was not selected");
        }
        if len == 0 {
            return invalid("BLOCK_STATUS of no bytes");
        }
        Ok(check::in_bounds(Command::BlockStatus, offset, len, size).map(|()| (len, only)))
    }

    /// How the session ended when reading was interrupted.
    fn end(&self) -> SessionEnd {
        if self.conn.is_draining() { SessionEnd::Shutdown } else { SessionEnd::Closed }
    }
}

/// Why no more requests are taken in.
enum Stop {
    Interrupted,
    Failed(SessionError),
}

impl From<Interrupted> for Stop {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

fn payload_failed(error: io::Error) -> Stop {
    Stop::Failed(SessionError::io("reading a payload", error))
}

fn payload_cut_short() -> Stop {
    Stop::Failed(SessionError::cut_short("reading a payload"))
}

/// Runs `receive`, which takes in what belongs to a request that was begun, until the connection is cut off or, once
/// the server shuts down, for so long as a client that means it needs.
async fn uninterrupted<E: Export, T: Transport, F: Future>(
    conn: &Connection<E, T>,
    receive: F,
) -> Result<F::Output, Interrupted> {
    let mut receive = pin!(receive);
    if let Either::First(output) = race(receive.as_mut(), conn.interrupted()).await {
        return Ok(output);
    }
    match timeout(conn.limits().drain / PAYLOAD_SHARE, race(receive, conn.was_cut_off())).await {
        Ok(Either::First(output)) => Ok(output),
        Ok(Either::Second(())) | Err(_) => Err(Interrupted),
    }
}
