//! The reactor: one thread, one ring, its tasks and timers. See the crate's documentation for the loop.
//!
//! * `core`: the reactor's state on its own thread, and the loop.
//! * `driver`: the ring, and what is in flight on it. `op`: the future of one operation.
//! * `task`: spawned futures. `timers`: pending deadlines. `idle`: how long to poll before sleeping.
//! * `remote`, `remote_join`: what other threads may do: wake, send work, wait for it, shut down.
//! * `flusher`: what the kernel is told of threads that serve its own block devices.

mod core;
mod driver;
mod flusher;
mod idle;
mod op;
mod remote;
mod remote_join;
mod task;
mod timers;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

pub(crate) use self::core::Core;
pub use flusher::serve_block_device;
pub(crate) use op::{Op, OpData};
pub use remote::{Closed, Handle};
pub use remote_join::RemoteJoin;
pub use task::JoinHandle;
pub(crate) use timers::TimerKey;

/// How a reactor is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Submission queue slots; the kernel rounds up to a power of two and caps it. More operations than that may be
    /// in flight: this many are submitted by one system call. The completion queue has four times as many.
    pub entries: u32,
    /// Upper bound of the adaptive polling before each sleep; zero never polls. Nor does a process that has one CPU,
    /// and of a process's reactors always fewer poll at a time than it has CPUs.
    pub poll: Duration,
    /// The same while a disk of this machine works for a task: it answers soon, and by itself.
    pub poll_disk: Duration,
    /// Name of the thread [`Reactor::start`] makes.
    pub name: String,
    /// Whether the process aborts when that thread panics. Tasks catch their own panics, so it is the loop that failed
    /// then; a process that needs its reactors would only go on without answering.
    pub abort_on_panic: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            entries: 1024,
            poll: Duration::from_micros(50),
            poll_disk: Duration::from_micros(200),
            name: "reactor".to_owned(),
            abort_on_panic: false,
        }
    }
}

/// A single-threaded executor over one io_uring.
///
/// Dropping it drops all its tasks, cancels all operations in flight and waits until the kernel is done with each.
///
/// It stays on its thread, as does whatever its tasks hold:
///
/// ```compile_fail
/// # use cairn_uring::{Config, Reactor};
/// let reactor = Reactor::new(Config::default()).unwrap();
/// std::thread::spawn(move || drop(reactor));
/// ```
pub struct Reactor {
    core: Rc<Core>,
}

impl Reactor {
    /// Makes a reactor that will run on this thread.
    ///
    /// # Errors
    ///
    /// When the kernel has no io_uring, forbids it (`kernel.io_uring_disabled`, seccomp), lacks what is needed (Linux
    /// 5.11), or has no descriptors or memory left.
    pub fn new(config: Config) -> io::Result<Self> {
        Ok(Self { core: Core::new(&config)? })
    }

    /// The reactor's handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(self.core.shared()))
    }

    /// Runs the reactor on this thread until `future` is ready. Tasks that have not ended by then stay, and go on in
    /// the next `block_on`.
    ///
    /// # Panics
    ///
    /// When called inside a reactor, when `future` panics, or when the kernel refuses the ring altogether.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.core.block_on(future)
    }

    /// Starts a thread that runs a reactor until it is [shut down](Handle::shutdown) and its tasks have ended.
    ///
    /// # Errors
    ///
    /// As [`new`](Reactor::new), or when the thread cannot be made.
    pub fn start(config: Config) -> io::Result<ReactorThread> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(config.name.clone()).spawn(move || {
            let abort_on_panic = config.abort_on_panic;
            let mut reactor = match Self::new(config) {
                Ok(reactor) => reactor,
                // The receiver is there until it hears from us.
                Err(error) => return drop(sender.send(Err(error))),
            };
            drop(sender.send(Ok(reactor.handle())));
            let core = Rc::clone(&reactor.core);
            // Made last, so dropped first: no task of a broken reactor runs again, not even to be dropped. The panic's
            // message has been printed by then.
            let _abort = abort_on_panic.then_some(AbortOnPanic);
            reactor.block_on(core.ended());
        })?;
        match receiver.recv() {
            Ok(Ok(handle)) => Ok(ReactorThread { handle, thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(io::Error::other("the reactor's thread panicked at its start")),
        }
    }
}

/// Ends the process when it is dropped by a panic.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("tasks", &self.core.tasks().len()).finish_non_exhaustive()
    }
}

/// A thread that runs a reactor. Dropping it requests the shutdown without waiting for it.
#[derive(Debug)]
pub struct ReactorThread {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl ReactorThread {
    /// The reactor's handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether the thread has ended, so that [`join`](ReactorThread::join) would not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Ordered shutdown: takes no new work from outside, waits for all tasks to end, drains the ring, ends the thread.
    /// Tasks that would run for ever have to end themselves on [`shutdown_requested`].
    ///
    /// # Errors
    ///
    /// When the reactor panicked.
    pub fn join(mut self) -> io::Result<()> {
        self.handle.shutdown();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            io::Error::other(format!("the reactor's thread panicked: {text}"))
        })
    }
}

impl Drop for ReactorThread {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// Starts a task on the current reactor; it is first polled in this or the next turn of the loop.
///
/// # Panics
///
/// When the thread is not running a reactor.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    task::spawn(&Core::current(), future)
}

/// The handle of the reactor this thread is running, if it is.
pub fn try_current() -> Option<Handle> {
    Core::try_current().map(|core| Handle::new(Arc::clone(core.shared())))
}

/// Goes to the back of the ready queue: all tasks that are ready now run first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Resolves when the current reactor was told to [shut down](Handle::shutdown), at once if it was before.
///
/// # Panics
///
/// When the thread is not running a reactor.
pub async fn shutdown_requested() {
    Core::current().closing().await;
}
