//! Control requests give way to volumes' clients.
//!
//! Hundreds of clients that ask without a pause take processors from those who read and write, by what the daemon does for
//! them and by what they do with its answers. So as long as volumes have clients at work, requests come at a rate, in the order
//! in which they were made; otherwise as they come. There is at most one of each connection, so that none waits long.
//!
//! One after another is no harm. Where many wait at once, each request takes several turns, and the first of a connection more:
//! it is mostly that of a new process, and to start and end one takes a processor for longer than its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::courtesy::Courtesy;

/// Between two requests beside clients at work: far more than whoever operates a host asks for.
const EACH: Duration = Duration::from_millis(2);
/// How many may come at once after a while without any.
const BURST: u32 = 50;
/// Where many wait: for each so many of them a request takes one turn more, up to so many turns.
struct Crowd {
    each: u32,
    most: u32,
}

/// For the first request of a connection.
const NEWCOMERS: Crowd = Crowd { each: 20, most: 10 };
/// For the others.
const OTHERS: Crowd = Crowd { each: 60, most: 5 };

/// How long one waits without a look at whether there still are clients at work.
const LOOK: Duration = Duration::from_millis(100);

/// One a daemon.
#[derive(Debug, Default)]
pub(super) struct Pace {
    courtesy: Arc<Courtesy>,
    /// When the next request may come, at the earliest. Whoever is next holds it; the others queue for it.
    next: Mutex<Option<Instant>>,
    waiting: AtomicU32,
}

/// Somebody waits, as long as this lives.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace {
    pub(super) fn new(courtesy: Arc<Courtesy>) -> Pace {
        Pace { courtesy, ..Pace::default() }
    }

    /// Waits until it is a request's turn. `first`: of its connection. Whoever goes away meanwhile has taken no turn.
    pub(super) async fn turn(&self, first: bool) {
        if !self.courtesy.clients_at_work() {
            return;
        }
        let others = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let mut next = self.next.lock().await;
        let turn = turn_at(*next, Instant::now());
        loop {
            let now = Instant::now();
            if turn <= now || !self.courtesy.clients_at_work() {
                break;
            }
            sleep_until(turn.min(now + LOOK)).await;
        }
        *next = Some(turn + EACH * turns(first, others));
    }
}

/// When the turn is that could have been at `next`, where some may be saved up.
fn turn_at(next: Option<Instant>, now: Instant) -> Instant {
    let saved_up = now.checked_sub(EACH * BURST).unwrap_or(now);
    next.map_or(saved_up, |next| next.max(saved_up))
}

/// How many turns a request takes when so many others wait.
fn turns(first: bool, others: u32) -> u32 {
    let Crowd { each, most } = if first { NEWCOMERS } else { OTHERS };
    (1 + others / each).min(most)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn beside_clients_requests_come_at_a_rate_after_a_burst() {
        let mut next = None;
        let mut book = |now| {
            let turn = turn_at(next, now);
            next = Some(turn + EACH);
            turn
        };
        let now = Instant::now() + EACH * BURST;
        for _ in 0..=BURST {
            assert!(book(now) <= now, "saved up");
        }
        for number in 1..=1000 {
            assert_eq!(book(now), now + EACH * number);
        }
        let later = now + EACH * 1000;
        assert_eq!(book(later), later + EACH, "nothing was saved up meanwhile");
        let much_later = later + EACH * 10 * BURST;
        assert_eq!(book(much_later), much_later - EACH * BURST);
    }

    #[test]
    fn requests_count_for_more_where_many_wait_and_new_connections_most() {
        assert_eq!([0, 59, 60, 200, 512].map(|others| turns(false, others)), [1, 1, 2, 4, 5]);
        assert_eq!([0, 19, 20, 100, 200, 512].map(|others| turns(true, others)), [1, 1, 2, 6, 10, 10]);
    }

    #[test]
    fn only_beside_clients_does_anybody_wait() {
        let courtesy = Arc::<Courtesy>::default();
        let pace = Pace::new(Arc::clone(&courtesy));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let goes = || pace.turn(true).now_or_never().is_some();
            assert!((0..1000).all(|_| goes()));
            courtesy.client_begins(0);
            let at_once = (0..1000).take_while(|_| goes()).count();
            assert!(at_once < 1000, "nobody gave way");
            // Who has not waited for it has not taken it.
            courtesy.client_begins(0);
            tokio::time::timeout(Duration::from_secs(10), pace.turn(true)).await.expect("it has waited");
            assert_eq!(pace.waiting.load(Ordering::Relaxed), 0);
        });
    }
}
