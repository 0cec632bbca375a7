//! NBD clients: accepting them on reactor 0 and spreading them over all reactors.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::task::Poll;
use std::time::{Duration, Instant};

use cairn_api::access::Role;
use cairn_api::attachment::Consumer;
use cairn_nbd::{
    ClientInfo, Export as _, Exports as _, Limits, OpenError, SessionErrorKind, Shutdown, serve,
    serve_attached,
};
use cairn_uring::net::{Closer, Listener, Peer, Stream};
use cairn_uring::{Handle, serve_block_device, sleep};
use parking_lot::{Condvar, Mutex};

use crate::access::Rights;
use crate::control::{Line, Porter};
use crate::disk::PoolDisk;
use crate::exports::{Connection, PoolExports};
use crate::kernel::{Link, LinkEnd};
use crate::seldom::Seldom;
use crate::volumes::Volumes;

/// Pause after a failed accept: out of descriptors, most likely, which passes as connections close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a connection that cannot be had is reported: whoever tries on and on must not fill the log.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);
static ACCEPT_FAILURES: Seldom<io::ErrorKind> = Seldom::new(COMPLAINT_PERIOD);
static REFUSALS: Seldom<()> = Seldom::new(COMPLAINT_PERIOD);

/// The NBD side of the daemon.
pub struct NbdServer {
    volumes: Arc<Volumes<PoolDisk>>,
    reactors: Vec<Handle>,
    next: AtomicUsize,
    limits: Limits,
    most: AtomicUsize,
    shutdown: Shutdown,
    open: Mutex<Open>,
    closed: Condvar,
    porter: Porter,
    /// Done once a kernel device is served for the first time.
    for_the_kernel: Once,
}

/// The sessions there are, each with the switch that ends it.
#[derive(Default)]
struct Open {
    switches: HashMap<u64, Shutdown>,
    last: u64,
}

impl NbdServer {
    /// Serves `volumes` on `reactors`, at most `most` connections at once.
    pub fn new(
        volumes: Arc<Volumes<PoolDisk>>,
        reactors: Vec<Handle>,
        most: usize,
        porter: Porter,
    ) -> Arc<NbdServer> {
        Arc::new(NbdServer {
            volumes,
            reactors,
            next: AtomicUsize::new(0),
            limits: Limits::default(),
            most: AtomicUsize::new(most),
            shutdown: Shutdown::new(),
            open: Mutex::default(),
            closed: Condvar::new(),
            porter,
            for_the_kernel: Once::new(),
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
        let Some((place, shutdown)) = self.enter() else { return };
        let lane = self.next_lane();
        // A reactor that has stopped drops the task, and the place with it.
        drop(self.reactors[lane].spawn_with(move || async move {
            place.server.session(stream, lane, shutdown).await;
        }));
    }

    /// A place for a connection and the switch that ends it; none when there are too many.
    fn enter(self: &Arc<NbdServer>) -> Option<(Place, Shutdown)> {
        let shutdown = Shutdown::new();
        let mut open = self.open.lock();
        let limit = self.most.load(Ordering::Relaxed);
        if open.switches.len() >= limit {
            if let Some(held_back) = REFUSALS.due(()) {
                tracing::warn!(limit, "an NBD connection was refused: there are too many{held_back}");
            }
            return None;
        }
        if self.shutdown.is_triggered() {
            shutdown.trigger();
        }
        open.last += 1;
        let key = open.last;
        open.switches.insert(key, shutdown.clone());
        Some((Place { server: Arc::clone(self), key }, shutdown))
    }

    /// The reactor for the next connection.
    fn next_lane(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.reactors.len()
    }

    async fn session(&self, stream: Stream, lane: usize, shutdown: Shutdown) {
        let peer = stream.peer();
        let line = Arc::new(SocketLine { shutdown: shutdown.clone(), closer: stream.closer() });
        // Who connects by TCP is not known.
        let rights = match stream.credentials() {
            Ok(who) => self.porter.access.rights(&who),
            Err(_) if matches!(peer, Peer::Tcp(_)) => Rights::Administrator,
            Err(error) => {
                return tracing::warn!(%error, "an NBD connection is closed: it is not known who it is");
            }
        };
        if rights.role() == Role::None {
            // It could only be in the way of others.
            return tracing::debug!(?peer, "an NBD connection is closed: its user has no role");
        }
        let audit = self.porter.audit.clone();
        let connection = Connection { consumer: consumer(peer), line, rights, audit, write_through: false };
        let exports = PoolExports::new(Arc::clone(&self.volumes), connection, lane);
        match serve(stream, &exports, &self.limits, &shutdown).await {
            Ok(summary) => tracing::debug!(?peer, ?summary, "an NBD session ended"),
            Err(error) => match error.kind() {
                // Clients that vanish are everyday life.
                SessionErrorKind::Io => tracing::debug!(?peer, %error, "an NBD session ended"),
                _ => tracing::info!(?peer, %error, "an NBD session ended"),
            },
        }
    }

    /// Serves `export` to the kernel on `socket`, with nothing said before the first request. `link` is told how that
    /// ended.
    ///
    /// # Errors
    /// Why it cannot be served, for people.
    pub fn serve_kernel(
        self: &Arc<NbdServer>,
        export: String,
        socket: UnixStream,
        link: Link,
    ) -> Result<(), String> {
        let Some((place, shutdown)) = self.enter() else {
            return Err("there are too many NBD connections".to_owned());
        };
        self.for_the_kernel.call_once(|| self.mark_reactors());
        let lane = self.next_lane();
        let placed = self.reactors[lane].spawn_with(move || async move {
            let server = Arc::clone(&place.server);
            match server.kernel_session(&export, socket, lane, shutdown).await {
                Ok(end) => link.ended(end),
                Err(why) => {
                    tracing::warn!(export, "cannot serve the kernel: {why}");
                    drop(link);
                }
            }
            drop(place);
        });
        placed.map(drop).map_err(|_| "the daemon is stopping".to_owned())
    }

    /// Has no reactor wait for memory that is made by writing to a disk: it may be a disk that waits for the reactor. All of
    /// them, since a flush is done by whichever comes first; and for good, since it costs little and a device that was
    /// attached once may be again.
    fn mark_reactors(&self) {
        for reactor in &self.reactors {
            // One that has stopped serves nothing.
            drop(reactor.spawn_with(|| async {
                if let Err(error) = serve_block_device() {
                    tracing::debug!(%error, "a reactor cannot be marked as serving the kernel's disks");
                }
            }));
        }
    }

    async fn kernel_session(
        &self,
        export: &str,
        socket: UnixStream,
        lane: usize,
        shutdown: Shutdown,
    ) -> Result<LinkEnd, String> {
        let stream = Stream::from_unix(socket).map_err(|e| e.to_string())?;
        let client = ClientInfo { peer: stream.peer() };
        let line = Arc::new(SocketLine { shutdown: shutdown.clone(), closer: stream.closer() });
        // The device stays when the daemon is killed, and the file system on it hears nothing of that.
        // Who asked for the device is in the audit log already, as of every change.
        let (rights, audit) = (Rights::Administrator, None);
        let connection = Connection { consumer: unnamed_device(), line, rights, audit, write_through: true };
        let exports = PoolExports::new(Arc::clone(&self.volumes), connection, lane);
        let said = |why| match why {
            OpenError::Policy(why) | OpenError::Failed(why) => why,
            why => format!("{why:?}"),
        };
        let opened = exports.open(export, &client).await.map_err(said)?;
        opened.begin(&[]).await.map_err(said)?;
        Ok(LinkEnd::from(&serve_attached(stream, opened, &self.limits, &shutdown).await))
    }

    /// Stops accepting, lets what is in flight finish, and waits for the sessions to end, at most this long.
    /// Returns how many are left.
    pub fn stop(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut open = self.open.lock();
        // Under the lock, so that a session that is being placed either is in the list or sees the switch.
        self.shutdown.trigger();
        open.switches.values().for_each(Shutdown::trigger);
        while !open.switches.is_empty() && !self.closed.wait_until(&mut open, deadline).timed_out() {}
        open.switches.len()
    }

    /// Serves at most so many connections from now on. Those that there are stay.
    pub(crate) fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.open.lock().switches.len()
    }

    /// The switch that ends everything that serves.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }
}

/// A connection's place among the most there may be.
struct Place {
    server: Arc<NbdServer>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.open.lock().switches.remove(&self.key);
        self.server.closed.notify_all();
    }
}

/// How a session over a socket is ended.
struct SocketLine {
    shutdown: Shutdown,
    closer: Closer,
}

impl Line for SocketLine {
    fn end(&self, force: bool) {
        if force {
            // What is under way in the engine still ends by itself: it only cannot be answered any more. First of all, so
            // that what waits for a limit is not begun for a client that does not hear of it.
            self.closer.close();
        }
        self.shutdown.trigger();
    }
}

/// The kernel as a consumer, before it is known as which device.
pub(crate) fn unnamed_device() -> Consumer {
    Consumer::Kernel { device: String::new() }
}

/// Who is at the other end of a socket.
fn consumer(peer: Peer) -> Consumer {
    match peer {
        Peer::Unix { pid, uid } => {
            // A name is for people; the process may be gone, or in a namespace of its own.
            let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
            let command = command.map(|name| name.trim_end().to_owned()).filter(|name| !name.is_empty());
            Consumer::Process { uid, pid, command }
        }
        Peer::Tcp(address) => Consumer::Host { address: address.ip().to_string() },
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
