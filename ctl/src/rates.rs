//! What volumes did between two looks at the daemon's figures.

use std::cmp::Ordering;

use cairn_api::attachment::Consumer;
use cairn_api::stats::{IoKind, Stats, VolumeStats};
use serde::Serialize;

/// What all volumes did in one interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Sample {
    /// How long the interval was, in seconds.
    pub(crate) seconds: f64,
    /// What each did.
    pub(crate) volumes: Vec<Rates>,
}

/// What one volume did in an interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Rates {
    pub(crate) volume: String,
    pub(crate) pool: String,
    /// Requests answered a second, of whatever kind.
    pub(crate) iops: f64,
    /// Those of them that read, and those that wrote data.
    pub(crate) read_iops: f64,
    pub(crate) write_iops: f64,
    /// Bytes a second.
    pub(crate) bytes_read: f64,
    pub(crate) bytes_written: f64,
    /// Errors answered a second.
    pub(crate) errors: f64,
    /// How long they took on average, in microseconds; none when there were none.
    pub(crate) mean_us: Option<f64>,
    /// What 99 of 100 took at most, as far as the buckets tell.
    pub(crate) p99_us: Option<f64>,
    /// Requests that were being carried out as the interval ended.
    pub(crate) in_flight: u64,
    /// Requests that waited for a limit as it ended.
    pub(crate) waiting: u64,
    /// The share of requests that had to wait for a limit.
    pub(crate) limited: f64,
    pub(crate) connections: u64,
    pub(crate) consumers: Vec<Consumer>,
}

/// What the busiest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Order {
    /// Requests a second
    Iops,
    /// Bytes read a second
    Read,
    /// Bytes written a second
    Write,
    /// Mean latency
    Mean,
    /// What 99 of 100 requests took at most
    P99,
    /// Requests under way
    Queue,
    /// The share that waits for a limit
    Limited,
    /// By name
    Name,
}

impl Sample {
    /// What was done between `before` and `now`, or since `now`'s daemon began if that is another one.
    pub(crate) fn between(before: &Stats, now: &Stats) -> Sample {
        let restarted = now.uptime_us < before.uptime_us;
        let since = if restarted { 0 } else { before.uptime_us };
        // Nothing is divided by zero, however fast the daemon answers.
        let seconds = (now.uptime_us - since).max(1) as f64 / 1e6;
        let rates = |volume: &VolumeStats| {
            let same = |other: &&VolumeStats| (other.id, &other.pool) == (volume.id, &volume.pool);
            // What is new did all that it did in between.
            let earlier = if restarted { None } else { before.volumes.iter().find(same) };
            Rates::of(volume, earlier, &now.latency_bounds_us, seconds)
        };
        Sample { seconds, volumes: now.volumes.iter().map(rates).collect() }
    }

    /// The busiest first, by name where they are equal.
    pub(crate) fn sort(&mut self, order: Order) {
        let descending = |one: f64, other: f64| other.total_cmp(&one);
        self.volumes.sort_by(|one, other| {
            let first = match order {
                Order::Iops => descending(one.iops, other.iops),
                Order::Read => descending(one.bytes_read, other.bytes_read),
                Order::Write => descending(one.bytes_written, other.bytes_written),
                Order::Mean => descending(one.mean_us.unwrap_or(0.0), other.mean_us.unwrap_or(0.0)),
                Order::P99 => descending(one.p99_us.unwrap_or(0.0), other.p99_us.unwrap_or(0.0)),
                Order::Queue => other.queue().cmp(&one.queue()),
                Order::Limited => descending(one.limited, other.limited),
                Order::Name => Ordering::Equal,
            };
            first.then_with(|| one.volume.cmp(&other.volume))
        });
    }
}

impl Rates {
    fn of(now: &VolumeStats, before: Option<&VolumeStats>, bounds_us: &[u64], seconds: f64) -> Rates {
        // What was counted may have been forgotten in between: then it was done since.
        let since = |now: u64, before: Option<u64>| now.checked_sub(before.unwrap_or(0)).unwrap_or(now);
        let count = |figure: &dyn Fn(&VolumeStats) -> u64| since(figure(now), before.map(figure));
        let all = |figure: fn(&VolumeStats, IoKind) -> u64| {
            IoKind::ALL.into_iter().map(|kind| count(&|volume| figure(volume, kind))).sum::<u64>()
        };
        let operations = all(|volume, kind| volume.io.of(kind).operations);
        let latency_ns = all(|volume, kind| volume.io.of(kind).latency_ns);
        let errors = all(|volume, kind| volume.io.of(kind).errors);
        let buckets: Vec<u64> = (0..=bounds_us.len())
            .map(|at| {
                let bucket = |volume: &VolumeStats, kind| {
                    volume.io.of(kind).latency_buckets.get(at).copied().unwrap_or(0)
                };
                IoKind::ALL.into_iter().map(|kind| count(&|volume| bucket(volume, kind))).sum()
            })
            .collect();
        let waits = count(&|volume| volume.qos_waits);
        let per_second = |count: u64| count as f64 / seconds;
        let limited = match (operations, now.qos_waiting) {
            (0, 0) => 0.0,
            (0, _) => 1.0,
            (operations, _) => (waits as f64 / operations as f64).min(1.0),
        };
        Rates {
            volume: now.volume.clone(),
            pool: now.pool.clone(),
            iops: per_second(operations),
            read_iops: per_second(count(&|volume| volume.io.read.operations)),
            write_iops: per_second(count(&|volume| volume.io.write.operations)),
            bytes_read: per_second(count(&|volume| volume.io.read.bytes)),
            bytes_written: per_second(count(&|volume| volume.io.write.bytes)),
            errors: per_second(errors),
            mean_us: (operations > 0).then(|| latency_ns as f64 / 1e3 / operations as f64),
            p99_us: quantile(&buckets, bounds_us, 0.99),
            in_flight: now.in_flight,
            waiting: now.qos_waiting,
            limited,
            connections: now.connections,
            consumers: now.consumers.clone(),
        }
    }

    /// Requests under way, those that wait for a limit included.
    pub(crate) fn queue(&self) -> u64 {
        self.in_flight + self.waiting
    }
}

/// What so much of all took at most: within a bucket as if they were spread evenly, as Prometheus' `histogram_quantile` has
/// it; what is above the last bound is taken as that.
fn quantile(buckets: &[u64], bounds_us: &[u64], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    let rank = share * total as f64;
    let mut below = 0.0;
    for (at, &count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        if below + count as f64 >= rank {
            let Some(&upper) = bounds_us.get(at) else { break };
            let lower = if at == 0 { 0 } else { bounds_us[at - 1] };
            return Some(lower as f64 + (upper - lower) as f64 * (rank - below) / count as f64);
        }
        below += count as f64;
    }
    (total > 0).then(|| bounds_us.last().map_or(0.0, |&bound| bound as f64))
}

#[cfg(test)]
pub(crate) mod testing {
    use cairn_api::stats::{IoStats, KindStats, LATENCY_BOUNDS, LATENCY_BOUNDS_US};

    use super::*;

    pub(crate) fn volume(name: &str, id: u32) -> VolumeStats {
        let none = || KindStats { latency_buckets: vec![0; LATENCY_BOUNDS + 1], ..KindStats::default() };
        VolumeStats {
            volume: name.into(),
            pool: "main".into(),
            id,
            size: 1 << 30,
            used: 0,
            connections: 0,
            consumers: Vec::new(),
            checksum_errors: 0,
            in_flight: 0,
            qos_waits: 0,
            qos_waited_us: 0,
            qos_waiting: 0,
            io: IoStats::from_each(|_| none()),
        }
    }

    /// So many more requests of a kind, of 4 KiB, that took 24 µs each.
    pub(crate) fn did(stats: &mut KindStats, count: u64) {
        stats.operations += count;
        stats.bytes += count * 4096;
        stats.latency_ns += count * 24_000;
        stats.latency_buckets[1] += count;
    }

    pub(crate) fn stats(uptime_us: u64, volumes: Vec<VolumeStats>) -> Stats {
        Stats { uptime_us, latency_bounds_us: LATENCY_BOUNDS_US.to_vec(), volumes }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{did, stats, volume};
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let mut before = volume("a", 1);
        did(&mut before.io.read, 1000);
        let mut now = before.clone();
        did(&mut now.io.read, 300);
        did(&mut now.io.write, 100);
        now.qos_waits = 100;
        let rates = Sample::between(
            &stats(1_000_000, vec![before.clone()]),
            &stats(3_000_000, vec![now, volume("b", 2)]),
        );
        assert_eq!(rates.seconds, 2.0);
        let [a, b] = &rates.volumes[..] else { panic!("two volumes") };
        assert_eq!((a.iops, a.read_iops, a.write_iops), (200.0, 150.0, 50.0));
        assert_eq!((a.bytes_read, a.bytes_written), (150.0 * 4096.0, 50.0 * 4096.0));
        assert_eq!((a.mean_us, a.limited), (Some(24.0), 0.25));
        assert_eq!(a.p99_us, Some(16.0 + 16.0 * 0.99));
        assert_eq!((b.iops, b.mean_us, b.p99_us), (0.0, None, None));
    }

    #[test]
    fn a_daemon_that_was_started_anew_and_a_name_that_was_given_anew_begin_at_nothing() {
        let mut before = volume("a", 1);
        did(&mut before.io.write, 1000);
        let mut now = volume("a", 1);
        did(&mut now.io.write, 10);
        let anew =
            Sample::between(&stats(9_000_000, vec![before.clone()]), &stats(1_000_000, vec![now.clone()]));
        assert_eq!(anew.volumes[0].iops, 10.0);
        let other = VolumeStats { id: 2, ..now };
        let anew = Sample::between(&stats(1_000_000, vec![before]), &stats(2_000_000, vec![other]));
        assert_eq!(anew.volumes[0].iops, 10.0);
    }

    #[test]
    fn quantiles_are_within_their_buckets() {
        let bounds = [10, 20, 40];
        assert_eq!(quantile(&[0, 0, 0, 0], &bounds, 0.99), None);
        assert_eq!(quantile(&[100, 0, 0, 0], &bounds, 0.5), Some(5.0));
        assert_eq!(quantile(&[50, 0, 50, 0], &bounds, 0.75), Some(30.0));
        assert_eq!(quantile(&[0, 0, 0, 7], &bounds, 0.99), Some(40.0), "longer than all bounds");
    }

    #[test]
    fn the_busiest_come_first() {
        let mut busy = volume("b", 1);
        did(&mut busy.io.read, 10);
        let mut writer = volume("c", 2);
        did(&mut writer.io.write, 5);
        let mut sample = Sample::between(
            &stats(0, Vec::new()),
            &stats(1, vec![volume("d", 4), writer, busy, volume("a", 3)]),
        );
        let mut by = |order| {
            sample.sort(order);
            sample.volumes.iter().map(|rates| &*rates.volume).collect::<String>()
        };
        assert_eq!(by(Order::Iops), "bcad");
        assert_eq!(by(Order::Write), "cabd");
        assert_eq!(by(Order::Name), "abcd");
    }
}
