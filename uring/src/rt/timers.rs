//! Timers: who is to be woken when, in order.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Instant;

/// Names a pending timer; earlier deadlines order first, then earlier registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    deadline: Instant,
    sequence: u64,
}

/// The pending timers of a reactor.
#[derive(Default)]
pub(crate) struct Timers {
    pending: BTreeMap<TimerKey, Waker>,
    sequence: u64,
}

impl Timers {
    pub(crate) fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerKey {
        self.sequence += 1;
        let key = TimerKey { deadline, sequence: self.sequence };
        self.pending.insert(key, waker);
        key
    }

    /// Replaces the waker of a timer. Gives back the old one, to be dropped once the timers are no longer borrowed, or
    /// the new one when the timer has fired.
    pub(crate) fn update(&mut self, key: TimerKey, waker: &Waker) -> Result<Option<Waker>, ()> {
        match self.pending.get_mut(&key) {
            Some(known) if known.will_wake(waker) => Ok(None),
            Some(known) => Ok(Some(std::mem::replace(known, waker.clone()))),
            None => Err(()),
        }
    }

    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<Waker> {
        self.pending.remove(&key)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(key, _)| key.deadline)
    }

    /// Takes the first timer out that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        let entry = self.pending.first_entry()?;
        (entry.key().deadline <= now).then(|| entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn due_in_order_of_deadline_then_registration() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let counts: Vec<Arc<Count>> = (0..4).map(|_| Arc::default()).collect();
        let mut timers = Timers::default();
        for (index, deadline) in [(0, 20), (1, 10), (2, 20), (3, 30)] {
            timers.insert(at(deadline), Waker::from(Arc::clone(&counts[index])));
        }
        assert_eq!(timers.next_deadline(), Some(at(10)));
        assert!(timers.pop_due(at(9)).is_none());
        for expected in [1, 0, 2] {
            let waker = timers.pop_due(at(20)).expect("due");
            waker.wake();
            assert_eq!(counts[expected].0.load(Ordering::Relaxed), 1);
        }
        assert!(timers.pop_due(at(20)).is_none());
        assert_eq!(timers.next_deadline(), Some(at(30)));
    }

    #[test]
    fn removed_timers_never_fire() {
        let deadline = Instant::now();
        let mut timers = Timers::default();
        let key = timers.insert(deadline, Waker::noop().clone());
        assert!(timers.update(key, Waker::noop()).is_ok());
        assert!(timers.remove(key).is_some());
        assert!(timers.update(key, Waker::noop()).is_err());
        assert!(timers.pop_due(deadline).is_none());
    }
}
