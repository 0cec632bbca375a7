//! Sleeping and deadlines, by the reactor's timers. Their resolution is the kernel's: a sleep never ends early, and
//! ends late by scheduling latency and by what tasks ready at the same time take.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::rt::{Core, TimerKey};

/// The time given to [`timeout`] is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time allowed is over")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// A timer; pending from its first poll on.
struct Sleep {
    /// `None` when it lies beyond what the clock can express: never.
    deadline: Option<Instant>,
    registered: Option<(Rc<Core>, TimerKey)>,
}

impl Sleep {
    fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, registered: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        if let Some((core, key)) = &self.registered {
            let updated = core.timers().update(*key, cx.waker());
            if let Ok(_stale_waker) = updated {
                return Poll::Pending;
            }
        }
        let core = Core::current();
        let key = core.timers().insert(deadline, cx.waker().clone());
        self.registered = Some((core, key));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((core, key)) = self.registered.take() {
            let waker = core.timers().remove(key);
            drop(waker);
        }
    }
}

/// Waits for `duration`; for ever when its end lies beyond what the clock can express.
pub async fn sleep(duration: Duration) {
    Sleep::new(Instant::now().checked_add(duration)).await;
}

/// Waits until `deadline`; not at all when it is past.
pub async fn sleep_until(deadline: Instant) {
    Sleep::new(Some(deadline)).await;
}

/// Waits for `future`, but no longer than `duration`.
///
/// # Errors
///
/// [`Elapsed`] when the time is over; `future` is dropped then, which cancels its operations. When both are ready at
/// once, `future` wins.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = Sleep::new(Instant::now().checked_add(duration));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
