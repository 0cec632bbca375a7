//! How long an idle reactor polls before it sleeps.
//!
//! Waking a halted CPU costs tens of microseconds; polling costs the CPU. So polling lasts about as long as waits
//! have lately been, and only where a CPU is to spare: the length grows while waits end within the bound and drops to
//! nothing after one that doesn't, as QEMU's `poll-max-ns` does (`util/aio-posix.c`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// First length polling grows to from nothing.
const FIRST: Duration = Duration::from_micros(4);
/// Checks between two looks at the clock.
const CHECKS_PER_CLOCK: u32 = 16;

/// Reactors of this process that are polling now: at least one CPU is left to everyone else.
static POLLING: AtomicUsize = AtomicUsize::new(0);

/// A reactor's polling policy.
#[derive(Debug)]
pub(super) struct Idle {
    max: Duration,
    current: Duration,
    /// How many of this process's reactors may poll at a time.
    max_polling: usize,
}

impl Idle {
    /// Polls for at most `max` at a time; never where the process has one CPU only.
    pub(super) fn new(max: Duration) -> Self {
        let cpus = available_parallelism().map_or(1, usize::from);
        Self { max, current: Duration::ZERO, max_polling: cpus - 1 }
    }

    /// Whether polling is worth its while at present.
    pub(super) fn polls(&self) -> bool {
        !self.current.is_zero()
    }

    /// Polls until `ready` gives true (and returns true), or `deadline` or the current length is over.
    pub(super) fn poll(
        &self,
        start: Instant,
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        let Some(_permit) = Permit::take(self.max_polling) else { return ready() };
        let end = start + self.current;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        loop {
            for _ in 0..CHECKS_PER_CLOCK {
                if ready() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }

    /// Learns from a wait that polling did not shorten, `waited` long in all.
    pub(super) fn slept(&mut self, waited: Duration) {
        if self.max_polling == 0 || waited > self.max {
            self.current = Duration::ZERO;
        } else if waited > self.current {
            self.current = (self.current * 2).max(FIRST).min(self.max);
        }
    }
}

/// Counts a polling reactor.
struct Permit;

impl Permit {
    fn take(max: usize) -> Option<Self> {
        let taken = POLLING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |polling| {
            (polling < max).then_some(polling + 1)
        });
        taken.ok().map(|_| Self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        POLLING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(50);

    #[test]
    fn grows_with_short_waits_and_drops_with_a_long_one() {
        let mut idle = Idle { max: MAX, current: Duration::ZERO, max_polling: 1 };
        assert!(!idle.polls());
        let mut lengths = Vec::new();
        for _ in 0..6 {
            idle.slept(Duration::from_micros(50));
            lengths.push(idle.current.as_micros());
        }
        assert_eq!(lengths, [4, 8, 16, 32, 50, 50]);
        idle.slept(MAX + Duration::from_nanos(1));
        assert!(!idle.polls());
    }

    #[test]
    fn one_cpu_never_polls() {
        let mut idle = Idle { max: MAX, current: Duration::ZERO, max_polling: 0 };
        idle.slept(Duration::from_micros(5));
        assert!(!idle.polls());
    }

    #[test]
    fn zero_bound_never_polls() {
        let mut idle = Idle { max: Duration::ZERO, current: Duration::ZERO, max_polling: 1 };
        idle.slept(Duration::ZERO);
        idle.slept(Duration::from_nanos(1));
        assert!(!idle.polls());
    }

    #[test]
    fn polling_sees_readiness_and_gives_up() {
        let idle = Idle { max: MAX, current: MAX, max_polling: usize::MAX };
        let mut checks = 0;
        let ready = idle.poll(Instant::now(), None, || {
            checks += 1;
            checks == 3
        });
        assert!(ready);
        assert_eq!(checks, 3);
        assert!(!idle.poll(Instant::now(), None, || false));
    }
}
