//! NBD clients: accepting them on reactor 0 and spreading them over all reactors.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use cairn_cow::Pool;
use cairn_nbd::{Limits, SessionErrorKind, Shutdown, serve};
use cairn_uring::net::{Listener, Stream};
use cairn_uring::{Handle, sleep};
use parking_lot::{Condvar, Mutex};

use crate::control::Sessions;
use crate::disk::PoolDisk;
use crate::exports::PoolExports;
use crate::seldom::Seldom;

/// Pause after a failed accept: out of descriptors, most likely, which passes as connections close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a connection that cannot be had is reported: whoever tries on and on must not fill the log.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);
static ACCEPT_FAILURES: Seldom<io::ErrorKind> = Seldom::new(COMPLAINT_PERIOD);
static REFUSALS: Seldom<()> = Seldom::new(COMPLAINT_PERIOD);

/// The NBD side of the daemon.
pub struct NbdServer {
    pool: Arc<Pool<PoolDisk>>,
    sessions: Arc<Sessions>,
    reactors: Vec<Handle>,
    next: AtomicUsize,
    limits: Limits,
    most: usize,
    shutdown: Shutdown,
    open: Mutex<usize>,
    closed: Condvar,
}

impl NbdServer {
    /// Serves `pool` on `reactors`, at most `most` connections at once.
    pub fn new(
        pool: Arc<Pool<PoolDisk>>,
        sessions: Arc<Sessions>,
        reactors: Vec<Handle>,
        most: usize,
    ) -> Arc<NbdServer> {
        Arc::new(NbdServer {
            pool,
            sessions,
            reactors,
            next: AtomicUsize::new(0),
            limits: Limits::default(),
            most,
            shutdown: Shutdown::new(),
            open: Mutex::new(0),
            closed: Condvar::new(),
        })
    }

    /// Accepts clients until the server is stopped. Runs on a reactor.
    pub async fn accept(self: Arc<NbdServer>, listener: Listener) {
        while let Some(accepted) = unless(&self.shutdown, listener.accept()).await {
            match accepted {
                Ok(stream) => self.place(stream),
                Err(error) => {
                    if let Some(held_back) = ACCEPT_FAILURES.due(error.kind()) {
                        tracing::warn!(%error, "accepting an NBD connection failed{held_back}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a connection to the next reactor.
    fn place(self: &Arc<NbdServer>, stream: Stream) {
        {
            let mut open = self.open.lock();
            if *open >= self.most {
                if let Some(held_back) = REFUSALS.due(()) {
                    tracing::warn!(
                        limit = self.most,
                        "an NBD connection was refused: there are too many{held_back}"
                    );
                }
                return;
            }
            *open += 1;
        }
        let lane = self.next.fetch_add(1, Ordering::Relaxed) % self.reactors.len();
        let server = Arc::clone(self);
        let placed = self.reactors[lane].spawn_with(move || async move {
            let _place = Place(Arc::clone(&server));
            server.session(stream, lane).await;
        });
        if placed.is_err() {
            drop(Place(Arc::clone(self)));
        }
    }

    async fn session(&self, stream: Stream, lane: usize) {
        let peer = stream.peer();
        let exports = PoolExports::new(Arc::clone(&self.pool), Arc::clone(&self.sessions), lane);
        match serve(stream, &exports, &self.limits, &self.shutdown).await {
            Ok(summary) => tracing::debug!(?peer, ?summary, "an NBD session ended"),
            Err(error) => match error.kind() {
                // Clients that vanish are everyday life.
                SessionErrorKind::Io => tracing::debug!(?peer, %error, "an NBD session ended"),
                _ => tracing::info!(?peer, %error, "an NBD session ended"),
            },
        }
    }

    /// Stops accepting, lets what is in flight finish, and waits for the sessions to end, at most this long.
    /// Returns how many are left.
    pub fn stop(&self, patience: Duration) -> usize {
        self.shutdown.trigger();
        let deadline = Instant::now() + patience;
        let mut open = self.open.lock();
        while *open > 0 && !self.closed.wait_until(&mut open, deadline).timed_out() {}
        *open
    }

    /// The switch that ends everything that serves.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }
}

/// A connection's place among the most there may be.
struct Place(Arc<NbdServer>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.open.lock() -= 1;
        self.0.closed.notify_all();
    }
}

/// Awaits `future`, unless the switch is thrown first.
pub async fn unless<F: Future>(shutdown: &Shutdown, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut stop = pin!(shutdown.wait());
    poll_fn(|cx| {
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
