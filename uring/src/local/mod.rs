//! Synchronisation among the tasks of one reactor: no atomics, no locks, and no `Send`.
//!
//! * [`Event`]: a flag that is set once. * [`Notify`]: a wake-up that is not lost. * [`Semaphore`]: counted permits,
//!   first come first served. * [`channel`]: a bounded queue of values.
//!
//! All are reference-counted handles: clone them into the tasks that share them. All waits may be dropped at any
//! point without losing a wake-up or a permit for the others.

mod channel;
mod semaphore;
mod wait_list;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;

pub use channel::{Receiver, Sender, channel};
pub use semaphore::{Permit, Semaphore};
use wait_list::{WaitList, Waiting};

/// A flag that, once set, stays set and lets everybody pass.
#[derive(Clone, Default)]
pub struct Event {
    inner: Rc<EventInner>,
}

#[derive(Default)]
struct EventInner {
    set: Cell<bool>,
    waiters: RefCell<WaitList>,
}

impl Event {
    /// An event that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it and wakes everybody who waits.
    pub fn set(&self) {
        self.inner.set.set(true);
        WaitList::wake_all(&self.inner.waiters);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.inner.set.get()
    }

    /// Waits until it is set.
    pub async fn wait(&self) {
        if self.is_set() {
            return;
        }
        let mut waiting = Waiting::new(&self.inner.waiters);
        poll_fn(|cx| waiting.poll_woken(cx)).await;
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish()
    }
}

/// Wakes waiting tasks, in the order in which they began to wait.
#[derive(Clone, Default)]
pub struct Notify {
    inner: Rc<NotifyInner>,
}

#[derive(Default)]
struct NotifyInner {
    /// `notify_one` was called while nobody waited.
    stored: Cell<bool>,
    waiters: RefCell<WaitList>,
}

impl Notify {
    /// A notifier without a stored notification.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the task that has waited longest. When nobody waits, the next [`notified`](Notify::notified) returns at
    /// once; several such calls count as one.
    pub fn notify_one(&self) {
        if !WaitList::wake_one(&self.inner.waiters) {
            self.inner.stored.set(true);
        }
    }

    /// Wakes all tasks that wait now; stores nothing.
    pub fn notify_all(&self) {
        WaitList::wake_all(&self.inner.waiters);
    }

    /// Waits for a notification.
    pub async fn notified(&self) {
        if self.inner.stored.replace(false) {
            return;
        }
        // Hands a notification on that came but was not seen before the wait was dropped.
        let mut waiting = Waiting::new(&self.inner.waiters).on_unseen(|| self.notify_one());
        poll_fn(|cx| waiting.poll_woken(cx)).await;
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").field("stored", &self.inner.stored.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
