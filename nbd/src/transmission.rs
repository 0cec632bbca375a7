//! The transmission phase: requests in, replies out, as many at once as [`Limits`] allow.
//!
//! Four kinds of task share one [`Connection`]:
//!
//! ```text
//!            ┌────────┐ job  ┌─────────┐ pieces ┌────────┐
//!  socket ──▶│ reader │─────▶│ workers │───────▶│ outbox │──▶ writer ──▶ socket
//!            └────────┘      └─────────┘        └────────┘
//!            parses many     one request each,  replies of one turn
//!            requests per    tasks reused       leave in one send
//!            receive
//! ```
//!
//! * `reader` receives, parses, `check`s and admits requests. It stops reading while the connection has as much
//!   in flight as it may, so a client that never takes its replies holds a bounded amount of memory.
//! * `worker` tasks wait for the export's limit, if it has one, run its methods and are kept for the next request: a warm connection allocates
//!   nothing per request.
//! * `outbox` collects replies; payloads are passed by ownership, never copied. The writer task here sends what
//!   has collected while its last send was under way.
//! * The warden waits for a shutdown and enforces its time limit.
//!
//! A request that waits for its limit is dropped, unanswered, when its client leaves without DISC and when the connection
//! breaks: waiting can take hours. At a shutdown it waits no longer, and is carried out and answered.
//!
//! **Invariant:** a request is counted in flight from its admission until the last byte of its reply has been
//! sent or thrown away, so at zero nothing of the connection is left but its sockets.

mod check;
mod connection;
mod outbox;
mod reader;
mod reply;
mod worker;

use std::future::pending;
use std::rc::Rc;

use cairn_uring::{sleep, spawn};

use crate::error::{SessionError, SessionErrorKind};
use crate::export::Export;
use crate::handshake::Agreement;
use crate::session::{Limits, SessionEnd, SessionSummary, discard};
use crate::shutdown::{Either, Shutdown, race};
use crate::transport::Transport;
use connection::Connection;

/// Serves requests until the session ends and nothing is in flight.
pub(crate) async fn run<E: Export, T: Transport>(
    io: Rc<T>,
    agreement: Agreement<E>,
    limits: &Limits,
    shutdown: &Shutdown,
) -> Result<SessionSummary, SessionError> {
    let Agreement { export, name, style, flags, contexts, mut recv } = agreement;
    recv.reserve(limits.receive_buffer.max(4096));
    let conn = Rc::new(Connection::new(io, export, style, flags, contexts, limits.clone()));
    // If this future is dropped, the tasks must not wait for ever for requests nobody reads.
    let _abandoned = AbandonOnDrop(&conn);
    conn.task_started();
    spawn(send_replies(Rc::clone(&conn)));
    conn.task_started();
    spawn(watch_for_shutdown(Rc::clone(&conn), shutdown.clone()));

    let result = reader::run(&conn, recv).await;
    if !matches!(result, Ok(SessionEnd::Disconnected | SessionEnd::Shutdown)) {
        conn.client_left();
    }
    conn.close();
    if matches!(result, Ok(SessionEnd::Shutdown)) {
        // A client that cannot get rid of its requests may not get round to taking its replies.
        let never = async {
            discard(conn.io()).await;
            pending::<()>().await;
        };
        race(conn.tasks_ended(), never).await;
    } else {
        conn.tasks_ended().await;
    }

    if conn.drain_expired() {
        return Err(SessionError::new(
            SessionErrorKind::DrainTimeout,
            "the client did not take its replies before the shutdown's time limit",
        ));
    }
    // To the reader a failed send looks like the end of the stream; the failure is the better explanation.
    let disconnected = matches!(result, Ok(SessionEnd::Disconnected));
    if let Some(kind) = conn.send_error()
        && !disconnected
    {
        return Err(SessionError::io("sending replies", kind.into()));
    }
    let end = result?;
    let counts = conn.counts();
    Ok(SessionSummary {
        end,
        export: Some(name),
        requests: counts.requests,
        errors: counts.errors,
        bytes_read: counts.bytes_read,
        bytes_written: counts.bytes_written,
    })
}

/// The writer task: sends whatever replies have collected, until the connection is closed and owes none.
async fn send_replies<E: Export, T: Transport>(conn: Rc<Connection<E, T>>) {
    let _ended = conn.task_guard();
    while let Some(batch) = conn.next_batch().await {
        let (pieces, settled) = batch.into_parts();
        let (result, pieces) = conn.io().write_all(pieces).await;
        conn.batch_sent(pieces, settled, result);
    }
}

/// The warden: ends the taking of requests once a shutdown is triggered, and the connection when its time is up.
async fn watch_for_shutdown<E: Export, T: Transport>(conn: Rc<Connection<E, T>>, shutdown: Shutdown) {
    let _ended = conn.task_guard();
    if let Either::Second(()) = race(shutdown.wait(), conn.finished()).await {
        return;
    }
    conn.start_draining();
    if let Either::First(()) = race(sleep(conn.limits().drain), conn.finished()).await {
        conn.drain_has_expired();
    }
}

/// Closes the connection if the session's future goes away before its tasks have; after them it has no effect.
struct AbandonOnDrop<'a, E: Export, T: Transport>(&'a Connection<E, T>);

impl<E: Export, T: Transport> Drop for AbandonOnDrop<'_, E, T> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
