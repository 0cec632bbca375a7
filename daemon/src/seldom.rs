//! Log lines that a client or a broken disk could repeat without end, said once in a while.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets one line of each kind through in a period, and counts those it holds back.
///
/// Each kind has a period of its own: a disk that is full and says so all the time must not hide that it also failed.
pub(crate) struct Seldom<K> {
    period: Duration,
    said: Mutex<Vec<Said<K>>>,
}

struct Said<K> {
    kind: K,
    last: Instant,
    held_back: u64,
}

/// How many lines were held back since the last one; as text, what to put behind the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HeldBack(u64);

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more like it since it was last said)"),
        }
    }
}

impl<K: Copy + PartialEq> Seldom<K> {
    /// At most one line of a kind in `period`.
    pub(crate) const fn new(period: Duration) -> Seldom<K> {
        Seldom { period, said: Mutex::new(Vec::new()) }
    }

    /// Whether a line of this kind is to be said now.
    pub(crate) fn due(&self, kind: K) -> Option<HeldBack> {
        self.due_at(kind, Instant::now())
    }

    fn due_at(&self, kind: K, now: Instant) -> Option<HeldBack> {
        let mut said = self.said.lock();
        // Kinds are few.
        let Some(before) = said.iter_mut().find(|s| s.kind == kind) else {
            said.push(Said { kind, last: now, held_back: 0 });
            return Some(HeldBack(0));
        };
        if now.saturating_duration_since(before.last) < self.period {
            before.held_back += 1;
            return None;
        }
        before.last = now;
        Some(HeldBack(std::mem::take(&mut before.held_back)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_a_period_with_what_was_held_back() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(seldom.due_at("full", at(0)), Some(HeldBack(0)));
        assert_eq!(seldom.due_at("full", at(1)), None);
        assert_eq!(seldom.due_at("io", at(1)), Some(HeldBack(0)), "another kind is not held back");
        assert_eq!(seldom.due_at("full", at(9)), None);
        assert_eq!(seldom.due_at("full", at(10)), Some(HeldBack(2)));
        assert_eq!(seldom.due_at("full", at(20)), Some(HeldBack(0)));
        assert_eq!(HeldBack(0).to_string(), "");
        assert_eq!(HeldBack(2).to_string(), " (2 more like it since it was last said)");
    }
}
