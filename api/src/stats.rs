//! What volumes' clients do, counted since the daemon started.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::attachment::Consumer;

/// What a client asks of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoKind {
    /// To read.
    Read,
    /// To write data.
    Write,
    /// To make durable what was written.
    Flush,
    /// To forget a range.
    Trim,
    /// To have zeroes in a range, without sending them.
    Zero,
}

impl IoKind {
    /// Every kind.
    pub const ALL: [IoKind; 5] = [IoKind::Read, IoKind::Write, IoKind::Flush, IoKind::Trim, IoKind::Zero];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            IoKind::Read => "read",
            IoKind::Write => "write",
            IoKind::Flush => "flush",
            IoKind::Trim => "trim",
            IoKind::Zero => "zero",
        }
    }
}

/// How many bounds there are between buckets of latencies.
pub const LATENCY_BOUNDS: usize = 21;

/// The bounds between buckets of latencies, in microseconds: each is twice the one before, from 16 µs to 16.8 s. What took
/// exactly as long as a bound is below it.
pub const LATENCY_BOUNDS_US: [u64; LATENCY_BOUNDS] = {
    let mut bounds = [16; LATENCY_BOUNDS];
    let mut at = 1;
    while at < LATENCY_BOUNDS {
        bounds[at] = bounds[at - 1] * 2;
        at += 1;
    }
    bounds
};

/// What all volumes' clients have done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Microseconds since the daemon began to count, by a clock that nobody sets. Two answers of one daemon are so far
    /// apart; smaller than before, and the daemon has been started anew.
    pub uptime_us: u64,
    /// The bounds between buckets of latencies, in microseconds.
    pub latency_bounds_us: Vec<u64>,
    /// One for each volume, by pool and name.
    pub volumes: Vec<VolumeStats>,
}

/// What one volume's clients have done, those of its snapshots included, whether they are still connected or not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VolumeStats {
    /// The volume.
    pub volume: String,
    /// Its pool.
    pub pool: String,
    /// Its id in the pool: another volume that has its name later has another one.
    pub id: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that hold data, shared ones included.
    pub used: u64,
    /// NBD connections to the volume itself.
    pub connections: u64,
    /// Who uses the volume itself.
    pub consumers: Vec<Consumer>,
    /// Reads that failed their checksum.
    pub checksum_errors: u64,
    /// Requests that are being carried out now. Those that wait for a limit are not among them.
    pub in_flight: u64,
    /// Requests that had to wait for a limit.
    pub qos_waits: u64,
    /// How long they waited in all, in microseconds, not counting those that still do.
    pub qos_waited_us: u64,
    /// Requests that wait for a limit now.
    pub qos_waiting: u64,
    /// What was done, by kind.
    pub io: IoStats,
}

/// What was done, by kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct IoStats {
    /// Reads.
    pub read: KindStats,
    /// Writes of data.
    pub write: KindStats,
    /// Flushes.
    pub flush: KindStats,
    /// Trims.
    pub trim: KindStats,
    /// Requests for zeroes.
    pub zero: KindStats,
}

impl IoStats {
    /// The figures of one kind.
    pub fn of(&self, kind: IoKind) -> &KindStats {
        match kind {
            IoKind::Read => &self.read,
            IoKind::Write => &self.write,
            IoKind::Flush => &self.flush,
            IoKind::Trim => &self.trim,
            IoKind::Zero => &self.zero,
        }
    }

    /// The figures of every kind, made one after the other.
    pub fn from_each(mut make: impl FnMut(IoKind) -> KindStats) -> IoStats {
        IoStats {
            read: make(IoKind::Read),
            write: make(IoKind::Write),
            flush: make(IoKind::Flush),
            trim: make(IoKind::Trim),
            zero: make(IoKind::Zero),
        }
    }
}

/// What was done of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct KindStats {
    /// Requests that were answered, with errors, too.
    pub operations: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// Bytes that the others were about: read, written, trimmed or zeroed.
    pub bytes: u64,
    /// How long all took together, in nanoseconds: each from when it began to be carried out, after any wait for a limit,
    /// until its answer was ready.
    pub latency_ns: u64,
    /// How many took how long: up to the first bound, from there to the next one, and so on; at last those that took longer
    /// than the last bound.
    pub latency_buckets: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_from_16_microseconds_to_17_seconds() {
        assert!(LATENCY_BOUNDS_US.windows(2).all(|two| two[1] == 2 * two[0]));
        assert_eq!((LATENCY_BOUNDS_US[0], LATENCY_BOUNDS_US[LATENCY_BOUNDS - 1]), (16, 16 << 20));
    }

    #[test]
    fn every_kind_has_figures_of_its_own() {
        let numbered = |kind: IoKind| KindStats { bytes: kind as u64, ..KindStats::default() };
        let stats = IoStats::from_each(numbered);
        for kind in IoKind::ALL {
            assert_eq!(stats.of(kind).bytes, kind as u64);
            let json = serde_json::to_value(&stats).expect("serialises");
            assert_eq!(json[kind.as_str()]["bytes"], kind as u64, "its word is its field");
        }
    }
}
