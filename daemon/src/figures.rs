//! What volumes' clients do, counted, and how long it takes.
//!
//! ```text
//!   request ──▶ IoCounters::begin ──▶ ... ──▶ Request::end      one connection's, written by its reactor only
//!                                                │
//!   who asks ──▶ Figures::of ◀── the sum of ─────┴── connections that are there and what those did that are gone
//! ```
//!
//! Counting costs two looks at the clock and a few plain additions to memory that nobody else writes: no lock, no
//! allocation, no locked instruction. What is summed may miss a request that ends meanwhile.
//!
//! **Invariant:** a volume's figures never go down while the daemon runs: a connection's are added to the past in the same
//! moment as it is struck from those that are there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_api::stats::{IoKind, IoStats, KindStats, LATENCY_BOUNDS, LATENCY_BOUNDS_US};
use parking_lot::Mutex;

use crate::volumes::Key;

/// One more than there are bounds: the last is for what took longer than all of them.
const BUCKETS: usize = LATENCY_BOUNDS + 1;
/// The first bound in nanoseconds.
const FIRST_BOUND: u64 = LATENCY_BOUNDS_US[0] * 1000;

/// What one connection has done. Only its reactor counts; anybody reads. Two cache lines apart from whatever else there is,
/// since processors fetch them in pairs.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct IoCounters {
    in_flight: AtomicU64,
    kinds: [KindCounters; IoKind::ALL.len()],
}

#[derive(Default, Debug)]
struct KindCounters {
    errors: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    /// Which also says how many there were.
    buckets: [AtomicU64; BUCKETS],
}

/// Adds without a locked instruction: there is one writer.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// Where to count what took so long: the bounds double, so that the logarithm says.
fn bucket(nanoseconds: u64) -> usize {
    let above = nanoseconds.saturating_sub(1) / FIRST_BOUND;
    ((u64::BITS - above.leading_zeros()) as usize).min(BUCKETS - 1)
}

impl IoCounters {
    /// A request is to be carried out.
    pub fn begin(&self, kind: IoKind) -> Request<'_> {
        add(&self.in_flight, 1);
        Request { counters: self, kind, began: Instant::now() }
    }

    fn of(&self, kind: IoKind) -> &KindCounters {
        &self.kinds[kind as usize]
    }

    /// Adds what another connection has done.
    pub(crate) fn absorb(&self, other: &IoCounters) {
        for (mine, theirs) in self.kinds.iter().zip(&other.kinds) {
            for (mine, theirs) in mine.all().zip(theirs.all()) {
                add(mine, theirs.load(Ordering::Relaxed));
            }
        }
    }

    /// What was done of one kind.
    pub(crate) fn show(&self, kind: IoKind) -> KindStats {
        let counted = self.of(kind);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let latency_buckets: Vec<u64> = counted.buckets.iter().map(get).collect();
        KindStats {
            operations: latency_buckets.iter().sum(),
            errors: get(&counted.errors),
            bytes: get(&counted.bytes),
            latency_ns: get(&counted.nanoseconds),
            latency_buckets,
        }
    }
}

impl KindCounters {
    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        [&self.errors, &self.bytes, &self.nanoseconds].into_iter().chain(&self.buckets)
    }
}

/// A request that is being carried out. Dropped, it was given up, and is not counted.
#[must_use = "a request that does not end is not counted"]
pub struct Request<'a> {
    counters: &'a IoCounters,
    kind: IoKind,
    began: Instant,
}

impl Request<'_> {
    /// Its answer is ready: about so many bytes, or none when it is an error.
    pub fn end(self, bytes: Option<u64>) {
        let latency = self.began.elapsed();
        self.end_after(latency, bytes);
    }

    fn end_after(self, latency: Duration, bytes: Option<u64>) {
        let counters = self.counters.of(self.kind);
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        match bytes {
            Some(bytes) => add(&counters.bytes, bytes),
            None => add(&counters.errors, 1),
        }
        add(&counters.nanoseconds, nanoseconds);
        add(&counters.buckets[bucket(nanoseconds)], 1);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        add(&self.counters.in_flight, 1_u64.wrapping_neg());
    }
}

/// What all volumes' clients have done since the daemon started. One a daemon. Locked when a connection comes or goes, and
/// when somebody asks.
pub struct Figures {
    since: Instant,
    volumes: Mutex<HashMap<Key, Sum>>,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures { since: Instant::now(), volumes: Mutex::default() }
    }
}

/// What one volume's clients have done.
#[derive(Default)]
struct Sum {
    /// Those that are gone.
    past: IoCounters,
    present: Vec<Arc<IoCounters>>,
}

impl Figures {
    /// How long they have been kept.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// A connection to a volume, or to one of its snapshots, begins; it ends when the result is dropped.
    pub fn enter(self: &Arc<Figures>, volume: Key, counters: Arc<IoCounters>) -> Counted {
        self.volumes.lock().entry(volume).or_default().present.push(Arc::clone(&counters));
        Counted { all: Arc::clone(self), volume, counters }
    }

    /// What a volume's clients have done, and how many of their requests are being carried out.
    pub(crate) fn of(&self, volume: Key) -> (IoStats, u64) {
        let sum = IoCounters::default();
        let mut in_flight = 0;
        if let Some(known) = self.volumes.lock().get(&volume) {
            sum.absorb(&known.past);
            for counters in &known.present {
                sum.absorb(counters);
                in_flight += counters.in_flight.load(Ordering::Relaxed);
            }
        }
        (IoStats::from_each(|kind| sum.show(kind)), in_flight)
    }

    /// The volume is deleted.
    pub(crate) fn forget(&self, volume: Key) {
        self.volumes.lock().remove(&volume);
    }
}

/// See [`Figures::enter`].
pub struct Counted {
    all: Arc<Figures>,
    volume: Key,
    counters: Arc<IoCounters>,
}

impl Counted {
    /// Where the connection counts what it does.
    pub fn counters(&self) -> &IoCounters {
        &self.counters
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut volumes = self.all.volumes.lock();
        // Nothing is left of a volume that was deleted.
        let Some(sum) = volumes.get_mut(&self.volume) else { return };
        if let Some(at) = sum.present.iter().position(|counters| Arc::ptr_eq(counters, &self.counters)) {
            sum.past.absorb(&self.counters);
            sum.present.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_cow::VersionId;

    use super::*;

    const VOLUME: Key = ([7; 16], VersionId(1));

    #[test]
    fn what_took_as_long_as_a_bound_is_below_it() {
        assert_eq!((bucket(0), bucket(1)), (0, 0));
        for (at, bound) in LATENCY_BOUNDS_US.into_iter().enumerate() {
            assert_eq!((bucket(bound * 1000), bucket(bound * 1000 + 1)), (at, at + 1), "{bound} µs");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn requests_are_counted_by_their_kind_and_what_became_of_them() {
        let counters = IoCounters::default();
        counters.begin(IoKind::Read).end_after(Duration::from_micros(10), Some(4096));
        counters.begin(IoKind::Read).end_after(Duration::from_micros(100), Some(512));
        counters.begin(IoKind::Read).end_after(Duration::from_secs(60), None);
        counters.begin(IoKind::Flush).end(Some(0));
        drop(counters.begin(IoKind::Write));
        let read = counters.show(IoKind::Read);
        assert_eq!((read.operations, read.errors, read.bytes), (3, 1, 4608));
        assert_eq!(read.latency_ns, 60_000_110_000);
        let (mut buckets, took) = (vec![0; BUCKETS], [0, 3, BUCKETS - 1]);
        took.into_iter().for_each(|at| buckets[at] += 1);
        assert_eq!(read.latency_buckets, buckets);
        assert_eq!(counters.show(IoKind::Flush).operations, 1);
        assert_eq!(counters.show(IoKind::Write).operations, 0, "it was given up");
        assert_eq!(counters.in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn figures_outlive_connections_but_not_their_volume() {
        let figures = Arc::<Figures>::default();
        let did = |counted: &Counted| counted.counters().begin(IoKind::Write).end(Some(4096));
        let (one, other) = (figures.enter(VOLUME, Arc::default()), figures.enter(VOLUME, Arc::default()));
        did(&one);
        did(&other);
        let waits = other.counters().begin(IoKind::Flush);
        let shown = || {
            let (io, in_flight) = figures.of(VOLUME);
            (io.write.operations, io.write.bytes, in_flight)
        };
        assert_eq!(shown(), (2, 8192, 1));
        drop(one);
        assert_eq!(shown(), (2, 8192, 1), "what was done remains");
        drop(waits);
        did(&other);
        drop(other);
        assert_eq!(shown(), (3, 12288, 0));
        let late = figures.enter(VOLUME, Arc::default());
        did(&late);
        figures.forget(VOLUME);
        drop(late);
        assert_eq!(shown(), (0, 0, 0), "it is another volume by now");
        assert_eq!(figures.of(([7; 16], VersionId(2))).0.write.operations, 0);
    }
}
