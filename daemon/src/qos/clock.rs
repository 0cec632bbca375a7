//! The time a throttle goes by: a seam, so that tests can make time themselves.

use std::future::Future;
use std::time::{Duration, Instant};

/// A clock with timers.
pub trait Clock {
    /// Nanoseconds since a moment of the clock's choice; never less than before, on any thread.
    fn now(&self) -> u64;

    /// Waits until [`now`](Self::now) is at least `time`.
    fn sleep_until(&self, time: u64) -> impl Future<Output = ()>;
}

/// The system's monotonic clock, and the timers of the reactor that waits.
#[derive(Clone, Copy, Debug)]
pub struct ReactorClock {
    origin: Instant,
}

impl Default for ReactorClock {
    fn default() -> ReactorClock {
        ReactorClock { origin: Instant::now() }
    }
}

impl Clock for ReactorClock {
    fn now(&self) -> u64 {
        // 64 bits of nanoseconds are 584 years.
        self.origin.elapsed().as_nanos() as u64
    }

    async fn sleep_until(&self, time: u64) {
        let left = time.saturating_sub(self.now());
        cairn_uring::sleep(Duration::from_nanos(left)).await;
    }
}
