//! One token bucket: integers only, and time comes from outside.
//!
//! A token is a byte or an operation. Levels are counted in *grains*, 10^9 to the token, so that a bucket of `rate`
//! tokens a second gains exactly `rate` grains a nanosecond: no fraction is ever rounded away, whatever the rate and
//! however often the bucket is looked at.
//!
//! An operation may go when the level is not negative, and is then charged whole: the level falls below zero by less
//! than that operation, and what comes next waits until the debt is paid. So an operation larger than the bucket works,
//! and in the long run exactly `rate` tokens a second pass.

use std::num::NonZeroU64;

/// Grains in a token, and nanoseconds in a second.
const GRAINS: u64 = 1_000_000_000;

/// How much a bucket holds unless bursts are wanted, in nanoseconds of its rate: 20 ms.
///
/// What comes in while nobody takes it is lost once the bucket is full, so this is how late a timer may be, or how long a
/// client may take from one request to the next, before it gets less than the rate. It is also what a client may get
/// ahead of the rate: 0.2 % of ten seconds.
const SLACK: u64 = 20_000_000;

/// No bucket is larger, so that a level times 2^24 fits 128 bits. The largest valid rule needs less than 2^97.
const MAX_CAPACITY: u128 = 1 << 100;

/// Parts that the share of a bucket that is full is counted in when its rule changes, as a power of two.
const SHARE_BITS: u32 = 24;

/// What an operation takes from a bucket, in grains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Cost(u128);

impl Cost {
    /// So many bytes.
    pub(super) fn bytes(bytes: u64) -> Cost {
        Cost(u128::from(bytes) * u128::from(GRAINS))
    }

    /// One operation, or in proportion more if it has more than `size` bytes.
    pub(super) fn operations(bytes: u64, size: Option<NonZeroU64>) -> Cost {
        let one = u128::from(GRAINS);
        // Rounded up: a billionth of an operation.
        let by_size = |size: NonZeroU64| Cost::bytes(bytes).0.div_ceil(u128::from(size.get()));
        Cost(size.map_or(one, by_size).max(one))
    }
}

/// A token bucket.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// Tokens a second; grains a nanosecond.
    rate: NonZeroU64,
    /// Grains it holds at most.
    capacity: i128,
    /// Grains in it; what is owed when negative.
    level: i128,
    /// When the level was last brought up to date.
    filled: u64,
}

impl Bucket {
    /// A full bucket that lets `rate` tokens a second pass, and no more than [`SLACK`] of them at once.
    pub(super) fn steady(rate: NonZeroU64, now: u64) -> Bucket {
        Bucket::full(rate, u128::from(rate.get()) * u128::from(SLACK), now)
    }

    /// A full bucket that lets `rate` tokens a second pass, and `max` for the first `length` seconds after it was idle
    /// for long enough: while it is drained at `max` and refilled at `rate` it empties at the difference.
    pub(super) fn with_burst(rate: NonZeroU64, max: u64, length: u64, now: u64) -> Bucket {
        let saved = u128::from(max.saturating_sub(rate.get())) * u128::from(length);
        let steady = Bucket::steady(rate, now);
        Bucket::full(rate, saved.saturating_mul(u128::from(GRAINS)).max(steady.capacity as u128), now)
    }

    fn full(rate: NonZeroU64, capacity: u128, now: u64) -> Bucket {
        let capacity = capacity.min(MAX_CAPACITY) as i128;
        Bucket { rate, capacity, level: capacity, filled: now }
    }

    /// Brings the level up to date.
    pub(super) fn refill(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.filled);
        self.filled = self.filled.max(now);
        self.gain(u128::from(elapsed) * u128::from(self.rate.get()));
    }

    fn gain(&mut self, grains: u128) {
        let room = self.capacity.abs_diff(self.level);
        self.level = if grains < room { self.level + grains as i128 } else { self.capacity };
    }

    /// Whether an operation may go now.
    pub(super) fn is_open(&self) -> bool {
        self.level >= 0
    }

    /// Nanoseconds until it is open, if nothing is charged until then.
    pub(super) fn opens_in(&self) -> u64 {
        if self.is_open() {
            return 0;
        }
        self.level.unsigned_abs().div_ceil(u128::from(self.rate.get())).try_into().unwrap_or(u64::MAX)
    }

    /// Takes `cost` out.
    pub(super) fn charge(&mut self, Cost(grains): Cost) {
        // 128 bits hold the debt of 10^10 operations of 2^64 bytes; one at most is granted to a bucket in debt.
        self.level = self.level.saturating_sub_unsigned(grains);
    }

    /// Puts `cost` back.
    pub(super) fn refund(&mut self, Cost(grains): Cost) {
        self.gain(grains);
    }

    /// Nanoseconds of the rate that `cost` is worth.
    pub(super) fn time_of(&self, Cost(grains): Cost) -> u128 {
        grains / u128::from(self.rate.get())
    }

    /// Takes over from the bucket that did this one's work before the rule was changed.
    ///
    /// As large a share of it is full as was of the old one: who had saved for a burst still has, who had not gets none.
    /// A debt stays, but not for longer than it would have lasted.
    pub(super) fn succeed(&mut self, old: &Bucket) {
        self.filled = old.filled;
        self.level = if self.capacity == old.capacity && self.rate == old.rate {
            old.level
        } else if old.level >= 0 {
            let share = (old.level << SHARE_BITS) / old.capacity.max(1);
            (self.capacity * share) >> SHARE_BITS
        } else {
            let debt = old.level.unsigned_abs();
            let (rate, old_rate) = (u128::from(self.rate.get()), u128::from(old.rate.get()));
            let as_long = (debt / old_rate).saturating_mul(rate) + (debt % old_rate) * rate / old_rate;
            0_i128.saturating_sub_unsigned(debt.min(as_long))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = GRAINS;

    fn rate(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).expect("not zero")
    }

    /// Tokens that can be taken one by one right now.
    fn drain(bucket: &mut Bucket) -> u64 {
        let mut taken = 0;
        while bucket.is_open() {
            bucket.charge(Cost::bytes(1));
            taken += 1;
        }
        taken
    }

    #[test]
    fn gains_exactly_its_rate_however_often_it_is_looked_at() {
        for per_second in [1, 3, 7, 999_999_937] {
            let mut bucket = Bucket::full(rate(per_second), 1 << 99, 0);
            bucket.level = 0;
            let mut now = 0;
            while now < SECOND {
                now = (now + 77_777).min(SECOND);
                bucket.refill(now);
            }
            assert_eq!(bucket.level, i128::from(per_second) * i128::from(GRAINS));
        }
    }

    #[test]
    fn opens_at_the_nanosecond_it_says() {
        for (per_second, bytes) in [(1, 1), (3, 1), (7, 4096), (1 << 31, 64 << 20), (10, 32 << 20)] {
            let mut bucket = Bucket::steady(rate(per_second), 5);
            bucket.charge(Cost::bytes(bytes));
            bucket.charge(Cost::bytes(bytes));
            let at = 5 + bucket.opens_in();
            bucket.refill(at - 1);
            assert!(!bucket.is_open());
            assert_eq!(bucket.opens_in(), 1);
            bucket.refill(at);
            assert!(bucket.is_open());
            assert_eq!(bucket.opens_in(), 0);
        }
    }

    #[test]
    fn time_that_runs_backwards_changes_nothing() {
        let mut bucket = Bucket::steady(rate(1000), 5 * SECOND);
        drain(&mut bucket);
        let before = bucket.level;
        bucket.refill(4 * SECOND);
        assert_eq!(bucket.level, before);
        bucket.refill(5 * SECOND);
        assert_eq!(bucket.level, before, "no time is counted twice");
    }

    #[test]
    fn holds_twenty_milliseconds_or_the_burst() {
        assert_eq!(drain(&mut Bucket::steady(rate(1000), 0)), 21);
        assert_eq!(drain(&mut Bucket::steady(rate(1), 0)), 1);
        // 100 a second more than come in, for 3 s.
        assert_eq!(drain(&mut Bucket::with_burst(rate(50), 150, 3, 0)), 301);
        assert_eq!(drain(&mut Bucket::with_burst(rate(1000), 1000, 60, 0)), 21);
    }

    #[test]
    fn operations_count_by_size_but_never_less_than_one() {
        let ops = |bytes, size| Cost::operations(bytes, NonZeroU64::new(size));
        let one = Cost(u128::from(GRAINS));
        assert_eq!(ops(u64::MAX, 0), one);
        assert_eq!(ops(0, 4096), one);
        assert_eq!(ops(4096, 4096), one);
        assert_eq!(ops(4096 * 3 / 2, 4096), Cost(1_500_000_000));
        assert_eq!(ops(32 << 20, 4096), Cost(8192 * u128::from(GRAINS)));
        assert_eq!(ops(4097, 4096).0, 1_000_244_141, "rounded up");
    }

    #[test]
    fn a_refund_is_as_if_nothing_had_been() {
        let mut bucket = Bucket::steady(rate(1000), 0);
        let before = bucket.level;
        bucket.charge(Cost::bytes(1 << 40));
        bucket.refund(Cost::bytes(1 << 40));
        assert_eq!(bucket.level, before);
        bucket.refund(Cost::bytes(1));
        assert_eq!(bucket.level, bucket.capacity);
    }

    #[test]
    fn the_same_rule_again_changes_nothing() {
        let mut old = Bucket::with_burst(rate(1000), 5000, 10, 0);
        for _ in 0..3 {
            old.charge(Cost::bytes(15_000));
            let mut new = Bucket::with_burst(rate(1000), 5000, 10, 9 * SECOND);
            new.succeed(&old);
            assert_eq!((new.level, new.filled), (old.level, old.filled));
        }
        assert!(old.level < 0, "with debts too");
    }

    #[test]
    fn a_new_rule_takes_over_shares_and_bounds_debts() {
        let full = Bucket::steady(rate(1000), 0);
        let mut burst = Bucket::with_burst(rate(1000), 5000, 10, 0);
        burst.succeed(&full);
        assert_eq!(burst.level, burst.capacity, "who was idle may burst");
        burst.charge(Cost::bytes(20_000));
        let mut larger = Bucket::with_burst(rate(2000), 10_000, 10, 0);
        larger.succeed(&burst);
        assert_eq!(larger.level, larger.capacity / 2);

        let mut empty = Bucket::steady(rate(1000), 0);
        empty.charge(Cost::bytes(20));
        assert_eq!(empty.level, 0);
        burst.succeed(&empty);
        assert_eq!(burst.level, 0, "who was not may not");

        // 10 s of debt.
        empty.charge(Cost::bytes(10_000));
        for (new_rate, opens_in) in [(10, 10 * SECOND), (1000, 10 * SECOND), (100_000, SECOND / 10)] {
            let mut new = Bucket::steady(rate(new_rate), 0);
            new.succeed(&empty);
            assert_eq!(new.opens_in(), opens_in, "{new_rate}");
        }
    }

    #[test]
    fn extremes_neither_panic_nor_wrap() {
        for per_second in [1, 1 << 50, u64::MAX] {
            let mut bucket = Bucket::with_burst(rate(per_second), u64::MAX, u64::MAX, 0);
            for _ in 0..100 {
                bucket.charge(Cost::bytes(u64::MAX));
            }
            assert!(bucket.level < bucket.capacity);
            let other = Bucket::with_burst(rate(u64::MAX), u64::MAX, u64::MAX, 0);
            let mut successor = other.clone();
            successor.succeed(&bucket);
            bucket.succeed(&other);
            bucket.refill(u64::MAX);
            assert!(bucket.level <= bucket.capacity);
            assert!(bucket.time_of(Cost::bytes(u64::MAX)) > 0);
        }
        let mut slow = Bucket::steady(rate(1), 0);
        slow.charge(Cost::bytes(u64::MAX));
        assert_eq!(slow.opens_in(), u64::MAX, "584 years do not suffice");
        slow.refill(u64::MAX);
        assert!(!slow.is_open());
    }
}
