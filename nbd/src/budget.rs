//! [`MemoryBudget`]: the bytes that all the requests of all the connections of a server may hold together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// A number of bytes shared by many connections, on any threads. Clones are the same budget.
///
/// A request takes what its buffers take at most ([`cairn_uring::AlignedBuf::footprint`]) from its admission until the
/// last byte of its reply has left. Where there is not enough, the connection stops reading until others have given
/// back. A connection that holds nothing is admitted all the same, and the budget overdrawn: whoever takes memory and
/// never lets go of it slows others down to one request at a time, and cannot stop them.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: u64,
    used: AtomicU64,
    /// Waiters in the queue, so that giving back needs no lock where nobody waits.
    queued: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    last_key: u64,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    key: u64,
    bytes: u64,
    waker: Waker,
}

impl MemoryBudget {
    /// A budget of `bytes` that nobody has taken anything of.
    pub fn new(bytes: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                total: bytes,
                used: AtomicU64::new(0),
                queued: AtomicUsize::new(0),
                queue: Mutex::default(),
            }),
        }
    }

    /// Bytes taken now; more than there are when it is overdrawn.
    pub fn used(&self) -> u64 {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` whether they are there or not.
    pub(crate) fn overdraw(&self, bytes: u64) {
        if bytes > 0 {
            self.shared.used.fetch_add(bytes, Ordering::SeqCst);
        }
    }

    /// Gives `bytes` back.
    pub(crate) fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.shared.used.fetch_sub(bytes, Ordering::SeqCst);
        // A waiter queues first and then looks at `used` once more, this does both the other way round, all
        // sequentially consistent: one of the two sees the other.
        if self.shared.queued.load(Ordering::SeqCst) > 0 {
            self.wake_who_fits();
        }
    }

    /// A place from which to take, and to wait where that is not possible.
    pub(crate) fn place(&self) -> Place<'_> {
        Place { budget: self, key: None }
    }

    fn try_take(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.shared.total);
        bytes == 0 || self.shared.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    /// Wakes those at the front of the queue that there is enough for. They try again and queue anew if others were
    /// faster.
    fn wake_who_fits(&self) {
        let mut left = self.shared.total.saturating_sub(self.shared.used.load(Ordering::SeqCst));
        let mut wakers = Vec::new();
        let mut queue = self.queue();
        while let Some(first) = queue.waiters.front()
            && first.bytes <= left
        {
            left -= first.bytes;
            wakers.extend(queue.waiters.pop_front().map(|waiter| waiter.waker));
        }
        self.shared.queued.store(queue.waiters.len(), Ordering::SeqCst);
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is valid after every statement, so a panic elsewhere has not broken it.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place in the queue, given up when dropped.
pub(crate) struct Place<'a> {
    budget: &'a MemoryBudget,
    key: Option<u64>,
}

impl Place<'_> {
    /// Takes `bytes` if they are there, else sees to it that `waker` is woken when they may be.
    pub(crate) fn take(&mut self, bytes: u64, waker: &Waker) -> bool {
        if self.budget.try_take(bytes) {
            return true;
        }
        let mut queue = self.budget.queue();
        let key = *self.key.get_or_insert_with(|| {
            queue.last_key += 1;
            queue.last_key
        });
        match queue.waiters.iter_mut().find(|waiter| waiter.key == key) {
            Some(waiter) => waiter.waker.clone_from(waker),
            None => queue.waiters.push_back(Waiter { key, bytes, waker: waker.clone() }),
        }
        self.budget.shared.queued.store(queue.waiters.len(), Ordering::SeqCst);
        drop(queue);
        self.budget.try_take(bytes)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        self.budget.queue().waiters.retain(|waiter| waiter.key != key);
        // What this place was woken for and did not take, or kept others from, is for the next.
        self.budget.wake_who_fits();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    fn woken(count: &Count) -> usize {
        count.0.load(Ordering::Relaxed)
    }

    #[test]
    fn who_waits_is_woken_in_turn_when_there_is_enough() {
        let budget = MemoryBudget::new(100);
        let (mut first, mut second) = (budget.place(), budget.place());
        let ((first_woken, first_waker), (second_woken, second_waker)) = (waker(), waker());
        assert!(budget.place().take(90, &first_waker));
        assert!(!first.take(50, &first_waker));
        assert!(!second.take(50, &second_waker));
        assert!(!second.take(50, &second_waker));
        budget.give_back(30);
        assert_eq!((woken(&first_woken), woken(&second_woken)), (0, 0), "40 of 50 are there");
        budget.give_back(10);
        assert_eq!((woken(&first_woken), woken(&second_woken)), (1, 0));
        assert!(first.take(50, &first_waker));
        drop(first);
        budget.give_back(50);
        assert_eq!(woken(&second_woken), 1);
        assert!(second.take(50, &second_waker));
        assert_eq!(budget.used(), 100);
    }

    #[test]
    fn a_place_given_up_makes_way() {
        let budget = MemoryBudget::new(100);
        budget.overdraw(60);
        let ((_, large_waker), (small_woken, small_waker)) = (waker(), waker());
        let (mut large, mut small) = (budget.place(), budget.place());
        assert!(!large.take(90, &large_waker));
        budget.overdraw(40);
        assert!(!small.take(10, &small_waker));
        budget.give_back(40);
        assert_eq!(woken(&small_woken), 0, "the large one is first");
        drop(large);
        assert_eq!(woken(&small_woken), 1);
        drop(small);
        assert!(budget.queue().waiters.is_empty());
        assert_eq!(budget.shared.queued.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn overdrawn_it_gives_nothing_until_it_is_balanced() {
        let budget = MemoryBudget::new(100);
        budget.overdraw(250);
        let (_, waker) = waker();
        let mut place = budget.place();
        assert!(!place.take(1, &waker));
        assert!(place.take(0, &waker), "what needs nothing needs no budget");
        budget.give_back(100);
        assert!(!place.take(1, &waker));
        budget.give_back(150);
        assert!(place.take(100, &waker));
    }
}
