//! [`MemoryBudget`]: the bytes that all the requests of all the connections of a server may hold together.
//!
//! It is two pools: one for everything, and one of half the size that requests of throttled exports
//! ([`Export::is_throttled`](crate::Export::is_throttled)) have to get room in as well. They are held for as long as a
//! limit says, so without a pool of their own a few slow disks could take all memory and make every other disk slow.

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
///
/// Requests of throttled exports together take at most half of it. What they overdraw is their own: the rest of the
/// server does not see it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    pools: Arc<Pools>,
}

#[derive(Debug)]
struct Pools {
    all: Pool,
    throttled: Pool,
}

/// What a request took, from which pool.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Taken {
    all: u64,
    throttled: u64,
}

impl Taken {
    /// Counts `other` in.
    pub(crate) fn add(&mut self, other: Taken) {
        self.all += other.all;
        self.throttled += other.throttled;
    }

    /// Counts `other` out, which was counted in.
    pub(crate) fn subtract(&mut self, other: Taken) {
        self.all -= other.all;
        self.throttled -= other.throttled;
    }
}

#[derive(Debug)]
struct Pool {
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
        Self { pools: Arc::new(Pools { all: Pool::new(bytes), throttled: Pool::new(bytes / 2) }) }
    }

    /// Bytes taken now, not counting what throttled exports have overdrawn; more than there are when others have.
    pub fn used(&self) -> u64 {
        self.pools.all.used.load(Ordering::Relaxed)
    }

    /// Bytes that requests of throttled exports have taken now; more than half of the budget when it is overdrawn.
    pub fn used_throttled(&self) -> u64 {
        self.pools.throttled.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` whether they are there or not.
    pub(crate) fn overdraw(&self, bytes: u64, throttled: bool) -> Taken {
        let Pools { all, throttled: own } = &*self.pools;
        if throttled && !own.try_take(bytes) {
            own.overdraw(bytes);
            return Taken { all: 0, throttled: bytes };
        }
        all.overdraw(bytes);
        Taken { all: bytes, throttled: if throttled { bytes } else { 0 } }
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, taken: Taken) {
        self.pools.all.give_back(taken.all);
        self.pools.throttled.give_back(taken.throttled);
    }

    /// A place from which to take, and to wait where that is not possible.
    pub(crate) fn place(&self) -> Place<'_> {
        Place { all: self.pools.all.place(), throttled: self.pools.throttled.place() }
    }
}

/// One connection's place in the queues, given up when dropped.
pub(crate) struct Place<'a> {
    all: PlaceInPool<'a>,
    throttled: PlaceInPool<'a>,
}

impl Place<'_> {
    /// Takes `bytes` if they are there, else sees to it that `waker` is woken when they may be.
    pub(crate) fn take(&mut self, bytes: u64, throttled: bool, waker: &Waker) -> Option<Taken> {
        let own = if throttled { bytes } else { 0 };
        if !self.throttled.take(own, waker) {
            // It may have been woken for the other pool, where others can now have what it leaves.
            self.all = self.all.pool.place();
            return None;
        }
        if !self.all.take(bytes, waker) {
            // Kept from nobody while this one waits for the other pool.
            self.throttled.pool.give_back(own);
            return None;
        }
        Some(Taken { all: bytes, throttled: own })
    }
}

impl Pool {
    fn new(bytes: u64) -> Self {
        Self { total: bytes, used: AtomicU64::new(0), queued: AtomicUsize::new(0), queue: Mutex::default() }
    }

    fn overdraw(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_add(bytes, Ordering::SeqCst);
        }
    }

    fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        // A waiter queues first and then looks at `used` once more, this does both the other way round, all
        // sequentially consistent: one of the two sees the other.
        if self.queued.load(Ordering::SeqCst) > 0 {
            self.wake_who_fits();
        }
    }

    fn place(&self) -> PlaceInPool<'_> {
        PlaceInPool { pool: self, key: None }
    }

    fn try_take(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.total);
        bytes == 0 || self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    /// Wakes those at the front of the queue that there is enough for. They try again and queue anew if others were
    /// faster.
    fn wake_who_fits(&self) {
        let mut left = self.total.saturating_sub(self.used.load(Ordering::SeqCst));
        let mut wakers = Vec::new();
        let mut queue = self.queue();
        while let Some(first) = queue.waiters.front()
            && first.bytes <= left
        {
            left -= first.bytes;
            wakers.extend(queue.waiters.pop_front().map(|waiter| waiter.waker));
        }
        self.queued.store(queue.waiters.len(), Ordering::SeqCst);
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is valid after every statement, so a panic elsewhere has not broken it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in one pool's queue.
struct PlaceInPool<'a> {
    pool: &'a Pool,
    key: Option<u64>,
}

impl PlaceInPool<'_> {
    fn take(&mut self, bytes: u64, waker: &Waker) -> bool {
        if self.pool.try_take(bytes) {
            return true;
        }
        let mut queue = self.pool.queue();
        let key = *self.key.get_or_insert_with(|| {
            queue.last_key += 1;
            queue.last_key
        });
        match queue.waiters.iter_mut().find(|waiter| waiter.key == key) {
            Some(waiter) => waiter.waker.clone_from(waker),
            None => queue.waiters.push_back(Waiter { key, bytes, waker: waker.clone() }),
        }
        self.pool.queued.store(queue.waiters.len(), Ordering::SeqCst);
        drop(queue);
        self.pool.try_take(bytes)
    }
}

impl Drop for PlaceInPool<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        self.pool.queue().waiters.retain(|waiter| waiter.key != key);
        // What this place was woken for and did not take, or kept others from, is for the next.
        self.pool.wake_who_fits();
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

    fn takes(place: &mut Place<'_>, bytes: u64, waker: &Waker) -> bool {
        place.take(bytes, false, waker).is_some()
    }

    fn give_back(budget: &MemoryBudget, bytes: u64) {
        budget.give_back(Taken { all: bytes, throttled: 0 });
    }

    #[test]
    fn who_waits_is_woken_in_turn_when_there_is_enough() {
        let budget = MemoryBudget::new(100);
        let (mut first, mut second) = (budget.place(), budget.place());
        let ((first_woken, first_waker), (second_woken, second_waker)) = (waker(), waker());
        assert!(takes(&mut budget.place(), 90, &first_waker));
        assert!(!takes(&mut first, 50, &first_waker));
        assert!(!takes(&mut second, 50, &second_waker));
        assert!(!takes(&mut second, 50, &second_waker));
        give_back(&budget, 30);
        assert_eq!((woken(&first_woken), woken(&second_woken)), (0, 0), "40 of 50 are there");
        give_back(&budget, 10);
        assert_eq!((woken(&first_woken), woken(&second_woken)), (1, 0));
        assert!(takes(&mut first, 50, &first_waker));
        drop(first);
        give_back(&budget, 50);
        assert_eq!(woken(&second_woken), 1);
        assert!(takes(&mut second, 50, &second_waker));
        assert_eq!(budget.used(), 100);
    }

    #[test]
    fn a_place_given_up_makes_way() {
        let budget = MemoryBudget::new(100);
        budget.overdraw(60, false);
        let ((_, large_waker), (small_woken, small_waker)) = (waker(), waker());
        let (mut large, mut small) = (budget.place(), budget.place());
        assert!(!takes(&mut large, 90, &large_waker));
        budget.overdraw(40, false);
        assert!(!takes(&mut small, 10, &small_waker));
        give_back(&budget, 40);
        assert_eq!(woken(&small_woken), 0, "the large one is first");
        drop(large);
        assert_eq!(woken(&small_woken), 1);
        drop(small);
        assert!(budget.pools.all.queue().waiters.is_empty());
        assert_eq!(budget.pools.all.queued.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn overdrawn_it_gives_nothing_until_it_is_balanced() {
        let budget = MemoryBudget::new(100);
        budget.overdraw(250, false);
        let (_, waker) = waker();
        let mut place = budget.place();
        assert!(!takes(&mut place, 1, &waker));
        assert!(takes(&mut place, 0, &waker), "what needs nothing needs no budget");
        give_back(&budget, 100);
        assert!(!takes(&mut place, 1, &waker));
        give_back(&budget, 150);
        assert!(takes(&mut place, 100, &waker));
    }

    #[test]
    fn throttled_requests_take_half_and_overdraw_on_their_own_account() {
        let budget = MemoryBudget::new(100);
        let (_, waker) = waker();
        let first = budget.place().take(40, true, &waker).expect("less than half");
        assert!(budget.place().take(20, true, &waker).is_none(), "more than half");
        let second = budget.overdraw(10, true);
        assert_eq!((budget.used(), budget.used_throttled()), (50, 50), "for which there was room");
        let third = budget.overdraw(1000, true);
        assert_eq!((budget.used(), budget.used_throttled()), (50, 1050));
        let other = budget.place().take(50, false, &waker).expect("the other half");
        let mut sum = Taken::default();
        for taken in [first, second, third, other] {
            sum.add(taken);
        }
        sum.subtract(first);
        budget.give_back(first);
        budget.give_back(sum);
        assert_eq!((budget.used(), budget.used_throttled()), (0, 0));
    }

    #[test]
    fn who_waits_for_one_pool_keeps_nobody_from_the_other() {
        let budget = MemoryBudget::new(100);
        budget.overdraw(90, false);
        let ((throttled_woken, throttled_waker), (other_woken, other_waker)) = (waker(), waker());
        let (mut throttled, mut other) = (budget.place(), budget.place());
        // First in the queue of all, having left what it took of the throttled.
        assert!(throttled.take(20, true, &throttled_waker).is_none());
        assert_eq!(budget.used_throttled(), 0);
        assert!(!takes(&mut other, 40, &other_waker));
        budget.overdraw(40, true);
        give_back(&budget, 80);
        assert_eq!((woken(&throttled_woken), woken(&other_woken)), (1, 0), "50 are there for 20 and 40");
        assert!(throttled.take(20, true, &throttled_waker).is_none(), "there is no room for throttled ones");
        assert_eq!(woken(&other_woken), 1, "so the next has its turn");
        assert!(takes(&mut other, 40, &other_waker));
        budget.give_back(Taken { all: 40, throttled: 40 });
        assert_eq!(woken(&throttled_woken), 2);
        assert!(throttled.take(20, true, &throttled_waker).is_some());
    }
}
