//! The few asynchronous tools the engine needs, for any executor: a broadcast event, a token, joins and a yield.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{self, FuturesOrdered, StreamExt};
use parking_lot::Mutex;

/// Wakes everybody who listened before the call to [`Event::notify_all`].
#[derive(Default)]
pub(crate) struct Event {
    inner: Mutex<EventInner>,
}

#[derive(Default)]
struct EventInner {
    generation: u64,
    wakers: Vec<Waker>,
}

impl Event {
    /// Resolves at the next notification after this call. Listen first, then look at the state, then await.
    pub(crate) fn listen(&self) -> Listener<'_> {
        Listener { event: self, seen: self.inner.lock().generation }
    }

    pub(crate) fn notify_all(&self) {
        let wakers = {
            let mut inner = self.inner.lock();
            inner.generation += 1;
            std::mem::take(&mut inner.wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

/// See [`Event::listen`].
#[must_use = "a listener does nothing until awaited"]
pub(crate) struct Listener<'a> {
    event: &'a Event,
    seen: u64,
}

impl Future for Listener<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.event.inner.lock();
        if inner.generation != self.seen {
            return Poll::Ready(());
        }
        if !inner.wakers.iter().any(|w| w.will_wake(cx.waker())) {
            inner.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A lock that may be held across awaits; for work that at most one task does at a time.
#[derive(Default)]
pub(crate) struct Token {
    held: Mutex<bool>,
    freed: Event,
}

impl Token {
    pub(crate) async fn acquire(&self) -> TokenGuard<'_> {
        loop {
            let listener = self.freed.listen();
            if let Some(guard) = self.try_acquire() {
                return guard;
            }
            listener.await;
        }
    }

    pub(crate) fn try_acquire(&self) -> Option<TokenGuard<'_>> {
        let mut held = self.held.lock();
        if *held {
            return None;
        }
        *held = true;
        Some(TokenGuard { token: self })
    }
}

/// Gives the token back when dropped.
#[must_use = "dropping the guard gives the token back"]
pub(crate) struct TokenGuard<'a> {
    token: &'a Token,
}

impl Drop for TokenGuard<'_> {
    fn drop(&mut self) {
        *self.token.held.lock() = false;
        self.token.freed.notify_all();
    }
}

/// A value that one task leaves for another.
pub(crate) struct Handoff<T> {
    inner: Arc<Mutex<HandoffInner<T>>>,
}

struct HandoffInner<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Clone for Handoff<T> {
    fn clone(&self) -> Self {
        Handoff { inner: Arc::clone(&self.inner) }
    }
}

impl<T> Handoff<T> {
    pub(crate) fn new() -> Handoff<T> {
        Handoff { inner: Arc::new(Mutex::new(HandoffInner { value: None, waker: None })) }
    }

    pub(crate) fn give(&self, value: T) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.value = Some(value);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Handoff<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut inner = self.inner.lock();
        match inner.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Lets every other ready task of this executor run once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs futures side by side, at most `width` at once, and returns their outputs in order. Each is polled only when
/// it was woken.
pub(crate) async fn join_all<F: Future>(futures: Vec<F>, width: usize) -> Vec<F::Output> {
    stream::iter(futures).buffered(width.max(1)).collect().await
}

/// As [`join_all`], but begins only one of them in each turn of the executor: for futures that compute before they first
/// wait, so that what they compute is not all done at once.
pub(crate) async fn join_in_turns<F: Future>(
    futures: impl Iterator<Item = F>,
    width: usize,
) -> Vec<F::Output> {
    let mut running = FuturesOrdered::new();
    let mut outputs = Vec::new();
    for future in futures {
        yield_now().await;
        if running.len() >= width {
            outputs.extend(running.next().await);
        }
        running.push_back(future);
        // Begins it, and lets the others go on.
        outputs.extend(
            poll_fn(|cx| match running.poll_next_unpin(cx) {
                Poll::Ready(first) => Poll::Ready(first),
                Poll::Pending => Poll::Ready(None),
            })
            .await,
        );
    }
    outputs.extend(running.collect::<Vec<_>>().await);
    outputs
}
