//! [`Semaphore`]: counted permits, first come first served.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;

use super::wait_list::{WaitList, Waiting};

/// Counted permits. Those who wait are served in order, so a large request is not starved by small ones.
#[derive(Clone)]
pub struct Semaphore {
    inner: Rc<Inner>,
}

struct Inner {
    available: Cell<usize>,
    waiters: RefCell<WaitList>,
}

impl Inner {
    /// Adds permits and serves those who wait, in order, as far as they reach.
    fn add(&self, permits: usize) {
        self.available.set(self.available.get() + permits);
        self.serve();
    }

    fn serve(&self) {
        loop {
            let wanted = self.waiters.borrow().first_amount();
            let Some(wanted) = wanted.filter(|wanted| *wanted <= self.available.get()) else { break };
            // Taken on the waiter's behalf, so that nobody overtakes it before it runs.
            self.available.set(self.available.get() - wanted);
            WaitList::wake_one(&self.waiters);
        }
    }
}

impl Semaphore {
    /// A semaphore with `permits` permits.
    pub fn new(permits: usize) -> Self {
        Self { inner: Rc::new(Inner { available: Cell::new(permits), waiters: RefCell::default() }) }
    }

    /// Permits nobody holds.
    pub fn available(&self) -> usize {
        self.inner.available.get()
    }

    /// Waits for `permits` permits. More than there are in all waits for ever.
    pub async fn acquire(&self, permits: usize) -> Permit {
        if let Some(permit) = self.try_acquire(permits) {
            return permit;
        }
        // The wait may be dropped after it was served: then the permits go back. And one that is dropped while
        // others queue behind it may have been all that kept them waiting, so they are looked at last.
        let inner = &*self.inner;
        let _serve = ServeOnDrop(inner);
        let mut waiting = Waiting::new(&inner.waiters)
            .amount(permits)
            .on_unseen(|| inner.available.set(inner.available.get() + permits));
        poll_fn(|cx| waiting.poll_woken(cx)).await;
        Permit { inner: Rc::clone(&self.inner), permits }
    }

    /// `permits` permits, if they are available and nobody is waiting for some.
    pub fn try_acquire(&self, permits: usize) -> Option<Permit> {
        let left = self.available().checked_sub(permits)?;
        if !self.inner.waiters.borrow().is_empty() {
            return None;
        }
        self.inner.available.set(left);
        Some(Permit { inner: Rc::clone(&self.inner), permits })
    }

    /// Adds permits for good.
    pub fn add_permits(&self, permits: usize) {
        self.inner.add(permits);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("available", &self.available()).finish_non_exhaustive()
    }
}

/// Serves the queue when a wait ends in whatever way.
struct ServeOnDrop<'a>(&'a Inner);

impl Drop for ServeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.serve();
    }
}

/// Permits of a [`Semaphore`], given back when dropped.
#[must_use = "the permits are given back when this is dropped"]
pub struct Permit {
    inner: Rc<Inner>,
    permits: usize,
}

impl Permit {
    /// How many permits it stands for.
    pub fn permits(&self) -> usize {
        self.permits
    }

    /// Keeps the permits from ever being given back.
    pub fn forget(mut self) {
        self.permits = 0;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.inner.add(self.permits);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("permits", &self.permits).finish_non_exhaustive()
    }
}
