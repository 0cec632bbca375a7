//! Control requests give way to volumes' clients.
//!
//! Hundreds of clients that ask without a pause take processors from those who read and write, by what the daemon does for
//! them and by what they do with its answers. So as long as volumes have clients at work, requests come at a rate, in the order
//! in which they were made; otherwise as they come. There is at most one of each connection, so that none waits long.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::courtesy::Courtesy;

/// Between two requests beside clients at work: far more than whoever operates a host asks for.
const EACH: Duration = Duration::from_millis(2);
/// How many may come at once after a while without any.
const BURST: u32 = 50;

/// One a daemon.
#[derive(Debug, Default)]
pub(super) struct Pace {
    courtesy: Arc<Courtesy>,
    /// When the next request may come, at the earliest.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(courtesy: Arc<Courtesy>) -> Pace {
        Pace { courtesy, next: Mutex::default() }
    }

    /// Waits until it is a request's turn.
    pub(super) async fn turn(&self) {
        if self.courtesy.clients_at_work() {
            sleep_until(self.book(Instant::now())).await;
        }
    }

    /// When the next request's turn is.
    fn book(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let saved_up = now.checked_sub(EACH * BURST).unwrap_or(now);
        let turn = next.map_or(saved_up, |next| next.max(saved_up));
        *next = Some(turn + EACH);
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn beside_clients_requests_come_at_a_rate_after_a_burst() {
        let pace = Pace::new(Arc::default());
        let now = Instant::now() + EACH * BURST;
        for _ in 0..=BURST {
            assert!(pace.book(now) <= now, "saved up");
        }
        for number in 1..=1000 {
            assert_eq!(pace.book(now), now + EACH * number);
        }
        let later = now + EACH * 1000;
        assert_eq!(pace.book(later), later + EACH, "nothing was saved up meanwhile");
        let much_later = later + EACH * 10 * BURST;
        assert_eq!(pace.book(much_later), much_later - EACH * BURST);
    }

    #[test]
    fn only_beside_clients_does_anybody_wait() {
        let courtesy = Arc::<Courtesy>::default();
        let pace = Pace::new(Arc::clone(&courtesy));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            assert!((0..1000).all(|_| pace.turn().now_or_never().is_some()));
            courtesy.client_begins(0);
            let at_once = (0..1000).take_while(|_| pace.turn().now_or_never().is_some()).count();
            assert!(at_once < 1000, "nobody gave way");
        });
    }
}
