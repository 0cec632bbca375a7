//! The signal that ends sessions in good order.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A switch that can be thrown once, from any thread. Clones are the same switch, so one can serve all
/// connections of a daemon or each connection have its own.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    triggered: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_key: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Shutdown {
    /// A switch not thrown yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Throws the switch; further calls do nothing.
    pub fn trigger(&self) {
        self.shared.triggered.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut self.waiting().wakers);
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    /// Whether the switch has been thrown.
    pub fn is_triggered(&self) -> bool {
        self.shared.triggered.load(Ordering::Acquire)
    }

    /// Waits until the switch is thrown.
    pub async fn wait(&self) {
        let registration = Registration { shutdown: self, key: self.key() };
        poll_fn(|cx| {
            let mut waiting = self.waiting();
            // Checked under the lock: a trigger either sees the waker or is seen here.
            if self.is_triggered() {
                return Poll::Ready(());
            }
            match waiting.wakers.iter_mut().find(|(key, _)| *key == registration.key) {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => waiting.wakers.push((registration.key, cx.waker().clone())),
            }
            Poll::Pending
        })
        .await;
    }

    fn key(&self) -> u64 {
        let mut waiting = self.waiting();
        waiting.next_key += 1;
        waiting.next_key
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // The list is valid after every statement, so a panic elsewhere has not broken it.
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a waiter off the list when it stops waiting, so that a long-lived switch does not collect the wakers of
/// every connection there ever was.
struct Registration<'a> {
    shutdown: &'a Shutdown,
    key: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.shutdown.waiting().wakers.retain(|(key, _)| *key != self.key);
    }
}

/// Which of two futures was ready first.
pub(crate) enum Either<A, B> {
    First(A),
    Second(B),
}

/// Runs both futures until one is ready, preferring the first, and drops the other.
pub(crate) async fn race<A: Future, B: Future>(first: A, second: B) -> Either<A::Output, B::Output> {
    let mut first = pin!(first);
    let mut second = pin!(second);
    poll_fn(|cx| {
        if let Poll::Ready(output) = first.as_mut().poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        second.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn waiters_wake_once_and_leave_nothing_behind() {
        let shutdown = Shutdown::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        {
            let mut abandoned = pin!(shutdown.wait());
            assert!(abandoned.as_mut().poll(&mut cx).is_pending());
            assert!(abandoned.as_mut().poll(&mut cx).is_pending());
            assert_eq!(shutdown.waiting().wakers.len(), 1);
        }
        assert_eq!(shutdown.waiting().wakers.len(), 0);
        let mut waiter = pin!(shutdown.wait());
        assert!(waiter.as_mut().poll(&mut cx).is_pending());
        let other = shutdown.clone();
        std::thread::spawn(move || other.trigger()).join().unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(waiter.as_mut().poll(&mut cx).is_ready());
    }
}
