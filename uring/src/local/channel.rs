//! A bounded queue of values between tasks of one reactor.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::semaphore::Semaphore;
use crate::queue::TrySendError;

struct State<T> {
    values: VecDeque<T>,
    receiver: Option<Waker>,
    senders: usize,
    receiver_gone: bool,
}

struct Inner<T> {
    state: RefCell<State<T>>,
    /// Free places. Closing adds enough for everybody who waits to come and see.
    places: Semaphore,
}

/// Added to the free places on closing: far more than can be waiting, far from overflowing.
const EVERYBODY: usize = usize::MAX / 4;

/// A queue of at most `capacity` values. Closed by dropping the receiver or all senders.
///
/// # Panics
///
/// When `capacity` is zero.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0 && capacity < EVERYBODY, "a channel needs a sensible capacity");
    let state = State { values: VecDeque::new(), receiver: None, senders: 1, receiver_gone: false };
    let inner = Rc::new(Inner { state: RefCell::new(state), places: Semaphore::new(capacity) });
    (Sender { inner: Rc::clone(&inner) }, Receiver { inner })
}

/// The end values go into. Cloneable.
pub struct Sender<T> {
    inner: Rc<Inner<T>>,
}

impl<T> Sender<T> {
    /// Waits for a place and puts `value` there.
    ///
    /// # Errors
    ///
    /// Gives `value` back when the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), T> {
        let place = self.inner.places.acquire(1).await;
        if self.is_closed() {
            return Err(value);
        }
        place.forget();
        self.push(value);
        Ok(())
    }

    /// Puts `value` into the queue if there is a place now.
    ///
    /// # Errors
    ///
    /// Gives `value` back when the queue is full or the receiver is gone.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if self.is_closed() {
            return Err(TrySendError::Closed(value));
        }
        let Some(place) = self.inner.places.try_acquire(1) else { return Err(TrySendError::Full(value)) };
        place.forget();
        self.push(value);
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.inner.state.borrow().receiver_gone
    }

    fn push(&self, value: T) {
        let receiver = {
            let mut state = self.inner.state.borrow_mut();
            state.values.push_back(value);
            state.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.inner.state.borrow_mut().senders += 1;
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut state = self.inner.state.borrow_mut();
            state.senders -= 1;
            if state.senders == 0 { state.receiver.take() } else { None }
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

/// The end values come out of.
pub struct Receiver<T> {
    inner: Rc<Inner<T>>,
}

impl<T> Receiver<T> {
    /// Waits for the next value; `None` when the queue is empty and all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| {
            if let Some(value) = self.try_recv() {
                return Poll::Ready(Some(value));
            }
            let mut state = self.inner.state.borrow_mut();
            if state.senders == 0 {
                return Poll::Ready(None);
            }
            let stale = state.receiver.replace(cx.waker().clone());
            drop(state);
            drop(stale);
            Poll::Pending
        })
        .await
    }

    /// The next value if there is one now.
    pub fn try_recv(&mut self) -> Option<T> {
        let value = self.inner.state.borrow_mut().values.pop_front()?;
        self.inner.places.add_permits(1);
        Some(value)
    }

    /// Values in the queue.
    pub fn len(&self) -> usize {
        self.inner.state.borrow().values.len()
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let values = {
            let mut state = self.inner.state.borrow_mut();
            state.receiver_gone = true;
            std::mem::take(&mut state.values)
        };
        self.inner.places.add_permits(EVERYBODY);
        drop(values);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish_non_exhaustive()
    }
}
