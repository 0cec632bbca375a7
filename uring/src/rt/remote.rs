//! What other threads see of a reactor: its inbox, its sleeping flag, its eventfd.
//!
//! A message goes into the inbox first; then its sender looks at the sleeping flag. The reactor sets the flag first,
//! then looks at the inbox, then sleeps. Sequentially consistent fences between the two steps on both sides make at
//! least one side see the other (Dekker), so no wake-up is lost, and an awake reactor costs its wakers no system call.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::remote_join::{self, RemoteJoin};
use super::task::Runnable;

/// The reactor no longer takes work: it was told to shut down, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reactor has shut down")
    }
}

impl std::error::Error for Closed {}

/// A message for a reactor.
pub(super) enum Message {
    /// Queue this task.
    Wake(Arc<dyn Runnable>),
    /// Call this on the reactor's thread.
    Run(Box<dyn FnOnce() + Send>),
    /// Begin the ordered shutdown. Behind everything accepted before it.
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// Runs on until its tasks have ended, takes no new ones.
    Closing,
    /// Gone.
    Closed,
}

struct Inbox {
    messages: Vec<Message>,
    phase: Phase,
}

/// The part of a reactor that all threads share.
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    /// The inbox holds messages. Written under its lock, read without.
    pending: AtomicBool,
    /// The future given to `block_on` is to be polled.
    main_woken: AtomicBool,
    /// The reactor sleeps in the kernel or is about to.
    sleeping: AtomicBool,
    eventfd: File,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        // Not `EFD_NONBLOCK`: the ring's read must wait, not fail, while the counter is zero.
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            inbox: Mutex::new(Inbox { messages: Vec::new(), phase: Phase::Open }),
            pending: AtomicBool::new(false),
            main_woken: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            eventfd: File::from(fd),
        })
    }

    pub(super) fn eventfd(&self) -> &File {
        &self.eventfd
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // No code that may panic runs under the lock.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts a message unless the reactor is in a later phase than `until`; then it is given back.
    fn post(&self, message: Message, until: Phase) -> Result<(), Message> {
        {
            let mut inbox = self.inbox();
            if inbox.phase > until {
                return Err(message);
            }
            inbox.messages.push(message);
            self.pending.store(true, Ordering::Relaxed);
        }
        self.unpark();
        Ok(())
    }

    /// Ends the reactor's sleep, now or as soon as it begins.
    fn unpark(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // One waker per sleep gets here, so the counter stays far from its limit, where writing would block.
            while let Err(error) = (&self.eventfd).write(&1_u64.to_ne_bytes()) {
                assert!(error.kind() == io::ErrorKind::Interrupted, "cannot write to an eventfd: {error}");
            }
        }
    }

    /// Queues a task from another thread.
    pub(super) fn wake_task(&self, task: Arc<dyn Runnable>) {
        // A reactor that is gone has dropped the task's future: nothing to wake, and only this reference to drop.
        drop(self.post(Message::Wake(task), Phase::Closing));
    }

    /// Has the main future polled; `local` when called on the reactor's own, and so awake, thread.
    pub(super) fn wake_main(&self, local: bool) {
        self.main_woken.store(true, Ordering::Release);
        if !local {
            self.unpark();
        }
    }

    pub(super) fn take_main_woken(&self) -> bool {
        self.main_woken.load(Ordering::Relaxed) && self.main_woken.swap(false, Ordering::Acquire)
    }

    /// Whether there is anything to do for the reactor's thread that came from outside.
    pub(super) fn has_work(&self) -> bool {
        self.pending.load(Ordering::Relaxed) || self.main_woken.load(Ordering::Relaxed)
    }

    /// Announces a sleep. False when there is work, and no sleep must follow.
    pub(super) fn begin_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_work() {
            self.sleeping.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(super) fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Swaps the messages that are there with `into`, which must be empty.
    pub(super) fn take_messages(&self, into: &mut Vec<Message>) {
        debug_assert!(into.is_empty());
        if !self.pending.load(Ordering::Relaxed) {
            return;
        }
        let mut inbox = self.inbox();
        std::mem::swap(&mut inbox.messages, into);
        self.pending.store(false, Ordering::Relaxed);
    }

    /// Refuses everything from now on. Returns what was not handled, to be dropped by the caller.
    pub(super) fn close(&self) -> Vec<Message> {
        let mut inbox = self.inbox();
        inbox.phase = Phase::Closed;
        self.pending.store(false, Ordering::Relaxed);
        std::mem::take(&mut inbox.messages)
    }

    fn shutdown(&self) {
        {
            let mut inbox = self.inbox();
            if inbox.phase != Phase::Open {
                return;
            }
            inbox.phase = Phase::Closing;
            inbox.messages.push(Message::Shutdown);
            self.pending.store(true, Ordering::Relaxed);
        }
        self.unpark();
    }
}

/// A reactor, for other threads: sends it work and tells it to shut down. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Calls `f` on the reactor's thread and spawns the future it returns there; neither that future nor anything it
    /// makes needs to be `Send`. May be called from any thread, the reactor's own included.
    ///
    /// # Errors
    ///
    /// [`Closed`] once the reactor was told to [shut down](Handle::shutdown) or is gone.
    pub fn spawn_with<F, Fut>(&self, f: F) -> Result<RemoteJoin<Fut::Output>, Closed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let (completer, join) = remote_join::pair();
        let run = Box::new(move || {
            let future = f();
            drop(super::spawn(async move { completer.complete(future.await) }));
        });
        match self.shared.post(Message::Run(run), Phase::Open) {
            Ok(()) => Ok(join),
            Err(_refused) => Err(Closed),
        }
    }

    /// Begins the ordered shutdown: no more [`spawn_with`](Handle::spawn_with), and
    /// [`shutdown_requested`](super::shutdown_requested) resolves in the reactor's tasks. A reactor thread ends once
    /// all its tasks have, those they spawn meanwhile included. Does nothing the second time.
    pub fn shutdown(&self) {
        self.shared.shutdown();
    }

    /// Whether the reactor still takes work.
    pub fn is_open(&self) -> bool {
        self.shared.inbox().phase == Phase::Open
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("phase", &self.shared.inbox().phase).finish()
    }
}
