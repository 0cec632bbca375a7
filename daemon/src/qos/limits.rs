//! The buckets of a rule, and which of them an operation has to do with.

use std::num::NonZeroU64;

use cairn_api::qos::{QosLimit, QosRate, QosRule};

use super::bucket::{Bucket, Cost};

/// Which way data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the client.
    Read,
    /// From the client; whatever changes the disk.
    Write,
}

/// One operation, as far as limits go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Operation {
    pub(super) direction: Direction,
    /// Limits to bytes are nothing to an operation that has none.
    pub(super) bytes: u64,
}

/// One limit: both buckets must be open. The second is there where bursts are allowed, and keeps to their rate.
#[derive(Clone, Debug)]
struct Limit {
    sustained: Bucket,
    peak: Option<Bucket>,
}

impl Limit {
    fn new(rate: &QosRate, now: u64) -> Option<Limit> {
        let sustained_rate = NonZeroU64::new(rate.rate)?;
        Some(match rate.burst {
            Some((max, length)) => Limit {
                sustained: Bucket::with_burst(sustained_rate, max, length, now),
                peak: NonZeroU64::new(max).map(|max| Bucket::steady(max, now)),
            },
            None => Limit { sustained: Bucket::steady(sustained_rate, now), peak: None },
        })
    }

    fn succeed(&mut self, old: &Limit) {
        self.sustained.succeed(&old.sustained);
        if let (Some(new), Some(old)) = (&mut self.peak, &old.peak) {
            new.succeed(old);
        }
    }

    fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        std::iter::once(&self.sustained).chain(&self.peak)
    }

    fn buckets_mut(&mut self) -> impl Iterator<Item = &mut Bucket> {
        std::iter::once(&mut self.sustained).chain(&mut self.peak)
    }
}

/// All limits of a volume.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// In the order of [`QosLimit::ALL`]: of bytes and then of operations; in total, of reads and of writes.
    limits: [Option<Limit>; 6],
    /// Bytes that count as one operation.
    operation_size: Option<NonZeroU64>,
}

impl Limits {
    /// Those of `rule`, everything full.
    pub(super) fn new(rule: &QosRule, now: u64) -> Limits {
        Limits {
            limits: QosLimit::ALL.map(|limit| Limit::new(&rule.limit(limit)?, now)),
            operation_size: NonZeroU64::new(rule.size_iops_sec),
        }
    }

    /// Takes over from the limits before the rule was changed. Both are refilled up to now.
    pub(super) fn succeed(&mut self, old: &Limits) {
        for (new, old) in self.limits.iter_mut().zip(&old.limits) {
            if let (Some(new), Some(old)) = (new, old) {
                new.succeed(old);
            }
        }
    }

    /// Brings all levels up to date.
    pub(super) fn refill(&mut self, now: u64) {
        for limit in self.limits.iter_mut().flatten() {
            limit.buckets_mut().for_each(|bucket| bucket.refill(now));
        }
    }

    /// Whether `operation` has to do with any of them.
    pub(super) fn concern(&self, operation: Operation) -> bool {
        self.of(operation).next().is_some()
    }

    /// Whether `operation` may go now.
    pub(super) fn admit(&self, operation: Operation) -> bool {
        self.of(operation).all(Bucket::is_open)
    }

    /// Nanoseconds until `operation` may go, if nothing is charged until then.
    pub(super) fn admit_in(&self, operation: Operation) -> u64 {
        self.of(operation).map(Bucket::opens_in).max().unwrap_or(0)
    }

    /// Charges `operation` to all buckets it has to do with. Gives the time that the slowest of them takes to make up
    /// for it: what the operation costs those that share the limits.
    pub(super) fn charge(&mut self, operation: Operation) -> u128 {
        let mut time = 0;
        self.each(operation, |bucket, cost| {
            bucket.charge(cost);
            time = time.max(bucket.time_of(cost));
        });
        time
    }

    /// Takes a charge back.
    pub(super) fn refund(&mut self, operation: Operation) {
        self.each(operation, Bucket::refund);
    }

    /// The places in `limits` of what `operation` has to do with.
    fn places(operation: Operation) -> impl Iterator<Item = usize> {
        let own = 1 + operation.direction as usize;
        let bytes = [0, own].into_iter().filter(move |_| operation.bytes > 0);
        bytes.chain([3, 3 + own])
    }

    fn of(&self, operation: Operation) -> impl Iterator<Item = &Bucket> {
        Limits::places(operation).filter_map(|place| self.limits[place].as_ref()).flat_map(Limit::buckets)
    }

    fn each(&mut self, operation: Operation, mut apply: impl FnMut(&mut Bucket, Cost)) {
        for place in Limits::places(operation) {
            let Some(limit) = &mut self.limits[place] else { continue };
            let cost = match place {
                0..3 => Cost::bytes(operation.bytes),
                _ => Cost::operations(operation.bytes, self.operation_size),
            };
            limit.buckets_mut().for_each(|bucket| apply(bucket, cost));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rule: &str) -> Limits {
        let rule = QosRule::default().merge(rule.split_whitespace()).expect("a valid rule");
        Limits::new(&rule, 0)
    }

    fn read(bytes: u64) -> Operation {
        Operation { direction: Direction::Read, bytes }
    }

    fn write(bytes: u64) -> Operation {
        Operation { direction: Direction::Write, bytes }
    }

    #[test]
    fn each_limit_holds_what_it_names() {
        for (rule, concerned) in [
            ("total_bytes_sec=1", [true, true, false]),
            ("read_bytes_sec=1", [true, false, false]),
            ("write_bytes_sec=1", [false, true, false]),
            ("total_iops_sec=1", [true, true, true]),
            ("read_iops_sec=1", [true, false, false]),
            ("write_iops_sec=1", [false, true, true]),
        ] {
            for (operation, concerned) in [read(1), write(1), write(0)].into_iter().zip(concerned) {
                assert_eq!(limits(rule).concern(operation), concerned, "{rule} {operation:?}");
                let mut limits = limits(rule);
                // The first is free, the second finds a debt.
                limits.charge(operation);
                assert_eq!(limits.admit(operation), !concerned, "{rule} {operation:?}");
                assert_eq!(limits.admit_in(operation) > 0, concerned, "{rule} {operation:?}");
            }
        }
    }

    #[test]
    fn an_operation_costs_the_time_of_its_slowest_bucket() {
        let second = 1_000_000_000;
        let mut limits = limits("total_bytes_sec=1000 total_iops_sec=10 size_iops_sec=500");
        assert_eq!(limits.charge(read(10)), second / 10);
        assert_eq!(limits.charge(read(1000)), second);
        assert_eq!(limits.charge(write(0)), second / 10);
    }
}
