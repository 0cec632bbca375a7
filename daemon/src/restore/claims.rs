//! Who is just putting contents into a chunk that is not filled: one task at a time.

use std::collections::HashSet;
use std::ops::Range;
use std::pin::pin;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The chunks that tasks hold. A chunk is held while it is written and marked in the pool, never while it is fetched.
#[derive(Default)]
pub(super) struct Claims {
    held: Mutex<HashSet<u64>>,
    released: Notify,
}

/// A run of chunks that nobody else fills.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    chunks: Range<u64>,
}

impl Claims {
    /// Takes a run of chunks. One after the other and upward, as everybody does, so that no two wait for each other.
    pub(super) async fn claim(&self, chunks: Range<u64>) -> Claim<'_> {
        let mut claim = Claim { claims: self, chunks: chunks.start..chunks.start };
        for chunk in chunks {
            self.take(chunk).await;
            claim.chunks.end = chunk + 1;
        }
        claim
    }

    async fn take(&self, chunk: u64) {
        loop {
            let mut released = pin!(self.released.notified());
            // From here on no release is missed.
            released.as_mut().enable();
            if self.held.lock().insert(chunk) {
                return;
            }
            released.await;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = self.claims.held.lock();
        for chunk in self.chunks.clone() {
            held.remove(&chunk);
        }
        drop(held);
        self.claims.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn a_chunk_is_held_by_one_and_given_back_when_it_is_dropped() {
        let claims = Claims::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = Box::pin(claims.claim(2..5));
        let Poll::Ready(first) = first.as_mut().poll(&mut cx) else { panic!("they are free") };
        let mut beside = Box::pin(claims.claim(5..6));
        assert!(beside.as_mut().poll(&mut cx).is_ready());
        let mut second = Box::pin(claims.claim(0..3));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        let mut third = Box::pin(claims.claim(1..2));
        assert!(third.as_mut().poll(&mut cx).is_pending(), "the second has it already");
        drop(first);
        let Poll::Ready(second) = second.as_mut().poll(&mut cx) else { panic!("they were given back") };
        assert!(third.as_mut().poll(&mut cx).is_pending());
        drop(second);
        assert!(third.as_mut().poll(&mut cx).is_ready());
        // Whoever gives up while it waits keeps nothing.
        let holder = claims.held.lock().insert(9);
        assert!(holder);
        let mut waiting = Box::pin(claims.claim(8..10));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        drop(waiting);
        assert!(!claims.held.lock().contains(&8));
    }
}
