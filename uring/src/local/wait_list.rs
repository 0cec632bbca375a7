//! Tasks that wait for something, in order of arrival.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

struct Waiter {
    ticket: u64,
    waker: Waker,
    /// What the waiter asks for, in its list's unit (permits of a semaphore; else unused).
    amount: usize,
}

/// A queue of wakers. Tickets grow along it, so a waiter is found by binary search and one that is gone was woken.
#[derive(Default)]
pub(super) struct WaitList {
    waiters: VecDeque<Waiter>,
    last_ticket: u64,
    /// Tickets up to here were all woken together.
    woken_together: u64,
}

impl WaitList {
    /// Wakes the first waiter; false when there is none.
    pub(super) fn wake_one(list: &RefCell<Self>) -> bool {
        let first = list.borrow_mut().waiters.pop_front();
        first.map(|waiter| waiter.waker.wake()).is_some()
    }

    /// Wakes all who wait at the time of the call.
    pub(super) fn wake_all(list: &RefCell<Self>) {
        let mut woken = {
            let mut list = list.borrow_mut();
            list.woken_together = list.last_ticket;
            std::mem::take(&mut list.waiters)
        };
        for waiter in woken.drain(..) {
            waiter.waker.wake();
        }
        // Keep the allocation, unless someone began to wait meanwhile.
        let mut list = list.borrow_mut();
        if list.waiters.capacity() == 0 {
            list.waiters = woken;
        }
    }

    /// What the first waiter asks for.
    pub(super) fn first_amount(&self) -> Option<usize> {
        self.waiters.front().map(|waiter| waiter.amount)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    fn find(&self, ticket: u64) -> Result<usize, usize> {
        self.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket)
    }
}

/// One task's place in a [`WaitList`], given up when dropped.
pub(super) struct Waiting<'a, F: FnMut() = fn()> {
    list: &'a RefCell<WaitList>,
    ticket: Option<u64>,
    amount: usize,
    /// Called when the place is given up after it was woken by itself but before its task saw it.
    on_unseen: Option<F>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(list: &'a RefCell<WaitList>) -> Self {
        Self { list, ticket: None, amount: 0, on_unseen: None }
    }
}

impl<'a, F: FnMut()> Waiting<'a, F> {
    pub(super) fn on_unseen<G: FnMut()>(self, on_unseen: G) -> Waiting<'a, G> {
        Waiting { list: self.list, ticket: None, amount: self.amount, on_unseen: Some(on_unseen) }
    }

    pub(super) fn amount(mut self, amount: usize) -> Self {
        self.amount = amount;
        self
    }

    /// Ready once woken. The first call takes the place.
    pub(super) fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut list = self.list.borrow_mut();
        let stale = match self.ticket {
            None => {
                list.last_ticket += 1;
                let ticket = list.last_ticket;
                self.ticket = Some(ticket);
                list.waiters.push_back(Waiter { ticket, waker: cx.waker().clone(), amount: self.amount });
                None
            }
            Some(ticket) => match list.find(ticket) {
                Err(_) => {
                    self.ticket = None;
                    return Poll::Ready(());
                }
                Ok(index) if list.waiters[index].waker.will_wake(cx.waker()) => None,
                Ok(index) => Some(std::mem::replace(&mut list.waiters[index].waker, cx.waker().clone())),
            },
        };
        drop(list);
        drop(stale);
        Poll::Pending
    }
}

impl<F: FnMut()> Drop for Waiting<'_, F> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let (waiter, alone) = {
            let mut list = self.list.borrow_mut();
            let found = list.find(ticket).ok();
            (found.and_then(|index| list.waiters.remove(index)), ticket > list.woken_together)
        };
        if let Some(on_unseen) = self.on_unseen.as_mut().filter(|_| waiter.is_none() && alone) {
            on_unseen();
        }
    }
}
