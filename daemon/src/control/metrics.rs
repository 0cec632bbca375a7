//! The daemon's figures as Prometheus reads them: the text exposition format 0.0.4.
//!
//! Everything here is collected when somebody asks, from the same answers that the API gives as JSON, so that nothing is
//! registered beforehand and nothing is kept between two scrapes: what is written is a page, family by family.
//!
//! Every name begins with `cairn_`, that of the start time, too: node_exporter refuses a file with a name of its own, and
//! `process_start_time_seconds` is one.
//!
//! `docs/METRICS.md` has every family with its labels, its unit and the same words as here.

use std::fmt::{Display, Write as _};

use cairn_api::info::Info;
use cairn_api::pool::{PoolEntry, PoolStatus};
use cairn_api::stats::{IoKind, KindStats, Stats, VolumeStats};

/// What the format is called in HTTP.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page for Prometheus.
pub(super) fn exposition(info: &Info, pools: &[PoolEntry], stats: &Stats) -> String {
    let mut page = Page::default();
    daemon(&mut page, info);
    requests(&mut page, stats);
    volumes(&mut page, &stats.volumes);
    pool_figures(&mut page, pools);
    page.0
}

/// What has been written so far.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Begins a family: every sample that follows is one of it.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing to a String cannot fail, here and below.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text: &mut self.0, name }
    }
}

struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    /// A sample of the family's, under its name with something behind it.
    fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{}\"", escaped(value));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// One of a family of histograms.
    fn histogram(&mut self, labels: &[(&str, &str)], bounds_us: &[u64], stats: &KindStats) {
        let mut below = 0;
        let bounds = bounds_us.iter().map(|&bound| seconds(bound, 1e6).to_string());
        for (bound, count) in bounds.zip(&stats.latency_buckets) {
            below += count;
            self.part("_bucket", &[labels, &[("le", bound.as_str())]].concat(), below);
        }
        self.part("_bucket", &[labels, &[("le", "+Inf")]].concat(), stats.operations);
        self.part("_sum", labels, seconds(stats.latency_ns, 1e9));
        self.part("_count", labels, stats.operations);
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(count: u64, a_second: f64) -> f64 {
    count as f64 / a_second
}

fn daemon(page: &mut Page, info: &Info) {
    let help = "Always 1; its label says which version of the daemon runs.";
    page.family("cairn_build_info", "gauge", help).sample(&[("version", &info.version)], 1);
    let started = info.started.as_millisecond() as f64 / 1e3;
    let help = "When the daemon started, in seconds since 1970.";
    page.family("cairn_start_time_seconds", "gauge", help).sample(&[], started);
}

/// What clients do, by volume and kind.
fn requests(page: &mut Page, stats: &Stats) {
    let each = || {
        let volumes = stats.volumes.iter();
        volumes.flat_map(|v| IoKind::ALL.map(|kind| (v.volume.as_str(), kind, v.io.of(kind))))
    };
    let labels = |volume, kind: IoKind| [("volume", volume), ("kind", kind.as_str())];
    let help = "Requests that were answered, with errors, too.";
    let mut family = page.family("cairn_volume_operations_total", "counter", help);
    each().for_each(|(volume, kind, done)| family.sample(&labels(volume, kind), done.operations));
    let help = "Requests that were answered with an error.";
    let mut family = page.family("cairn_volume_errors_total", "counter", help);
    each().for_each(|(volume, kind, done)| family.sample(&labels(volume, kind), done.errors));
    let help = "Bytes that were read, written, trimmed or zeroed; a flush has none.";
    let mut family = page.family("cairn_volume_bytes_total", "counter", help);
    each()
        .filter(|(_, kind, _)| *kind != IoKind::Flush)
        .for_each(|(volume, kind, done)| family.sample(&labels(volume, kind), done.bytes));
    let help =
        "How long requests took, from when they began to be carried out until their answers were ready.";
    let mut family = page.family("cairn_volume_latency_seconds", "histogram", help);
    each().for_each(|(volume, kind, done)| {
        family.histogram(&labels(volume, kind), &stats.latency_bounds_us, done);
    });
}

/// A family of one figure a volume: its name, its type, its meaning, and where it is found.
type OfVolume = (&'static str, &'static str, &'static str, fn(&VolumeStats) -> f64);

const OF_VOLUMES: &[OfVolume] = &[
    (
        "cairn_volume_requests_in_flight",
        "gauge",
        "Requests that are being carried out; those that wait for a limit are not among them.",
        |v| v.in_flight as f64,
    ),
    ("cairn_volume_qos_waits_total", "counter", "Requests that had to wait for a limit.", |v| {
        v.qos_waits as f64
    }),
    (
        "cairn_volume_qos_wait_seconds_total",
        "counter",
        "How long requests waited for a limit, without those that still do.",
        |v| seconds(v.qos_waited_us, 1e6),
    ),
    ("cairn_volume_qos_waiting", "gauge", "Requests that wait for a limit.", |v| v.qos_waiting as f64),
    ("cairn_volume_size_bytes", "gauge", "The volume's size.", |v| v.size as f64),
    (
        "cairn_volume_used_bytes",
        "gauge",
        "What of it holds data, that which snapshots and clones share with it included.",
        |v| v.used as f64,
    ),
    ("cairn_volume_connections", "gauge", "NBD connections to the volume itself.", |v| v.connections as f64),
    (
        "cairn_volume_checksum_errors",
        "gauge",
        "Reads that failed their checksum since the daemon started or the volume's status was reset.",
        |v| v.checksum_errors as f64,
    ),
];

fn volumes(page: &mut Page, volumes: &[VolumeStats]) {
    let help = "Always 1; its labels say which pool a volume is in.";
    let mut family = page.family("cairn_volume_info", "gauge", help);
    for volume in volumes {
        family.sample(&[("volume", &volume.volume), ("pool", &volume.pool)], 1);
    }
    for (name, kind, help, figure) in OF_VOLUMES {
        let mut family = page.family(name, kind, help);
        volumes.iter().for_each(|volume| family.sample(&[("volume", &volume.volume)], figure(volume)));
    }
}

/// As [`OfVolume`], of a pool.
type OfPool = (&'static str, &'static str, &'static str, fn(&PoolStatus) -> u64);

const OF_POOLS: &[OfPool] = &[
    ("cairn_pool_limit_bytes", "gauge", "What the pool may grow to.", |p| p.limit),
    ("cairn_pool_size_bytes", "gauge", "What of its file or device the pool has claimed.", |p| p.size),
    (
        "cairn_pool_used_bytes",
        "gauge",
        "What data and metadata hold, that which waits to be reused included.",
        |p| p.used,
    ),
    (
        "cairn_pool_free_bytes",
        "gauge",
        "What writers can still get: growth as far as there is room below, without the reserve.",
        |p| p.free,
    ),
    (
        "cairn_pool_reserve_bytes",
        "gauge",
        "What is kept back so that a full pool can still delete and trim.",
        |p| p.reserve,
    ),
    ("cairn_pool_journal_used_bytes", "gauge", "What of the journal is in use.", |p| p.journal_used),
    ("cairn_pool_journal_size_bytes", "gauge", "The journal's size.", |p| p.journal_size),
    ("cairn_pool_checkpoints_total", "counter", "Checkpoints written.", |p| p.checkpoints),
    ("cairn_pool_barriers_total", "counter", "Barriers (fdatasync) issued.", |p| p.barriers),
    (
        "cairn_pool_checksum_errors_total",
        "counter",
        "Reads that failed their checksum, of whatever volume.",
        |p| p.checksum_errors,
    ),
    ("cairn_pool_fenced", "gauge", "1 when a barrier failed and the pool refuses writes, else 0.", |p| {
        u64::from(p.fenced.is_some())
    }),
    (
        "cairn_pool_pending_deletes",
        "gauge",
        "Deleted volumes and snapshots whose space is still to be given back.",
        |p| p.pending_deletes,
    ),
    ("cairn_pool_volumes", "gauge", "Volumes.", |p| p.volumes),
    ("cairn_pool_snapshots", "gauge", "Snapshots, automatic ones included.", |p| p.snapshots),
    ("cairn_pool_images", "gauge", "Images, those that are being imported included.", |p| p.images),
];

fn pool_figures(page: &mut Page, pools: &[PoolEntry]) {
    let help = "1 when the pool is open, 0 when it could not be opened and has no other figures.";
    let mut family = page.family("cairn_pool_up", "gauge", help);
    for pool in pools {
        family.sample(&[("pool", &pool.name)], u8::from(pool.status.is_some()));
    }
    for (name, kind, help, figure) in OF_POOLS {
        let mut family = page.family(name, kind, help);
        for pool in pools.iter().filter_map(|pool| pool.status.as_ref()) {
            family.sample(&[("pool", &pool.name)], figure(pool));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.family("a", "gauge", "What.").sample(&[("x", "a\\b\"c\nd"), ("y", "ü")], 1.5);
        assert_eq!(page.0, "# HELP a What.\n# TYPE a gauge\na{x=\"a\\\\b\\\"c\\nd\",y=\"ü\"} 1.5\n");
    }

    #[test]
    fn buckets_of_histograms_add_up() {
        let mut page = Page::default();
        let stats = KindStats {
            operations: 6,
            latency_ns: 2_500_000_000,
            latency_buckets: vec![1, 0, 2, 3],
            ..KindStats::default()
        };
        page.family("t", "histogram", "How long.").histogram(&[("kind", "read")], &[16, 32, 1 << 24], &stats);
        assert_eq!(
            page.0,
            "\
# HELP t How long.
# TYPE t histogram
t_bucket{kind=\"read\",le=\"0.000016\"} 1
t_bucket{kind=\"read\",le=\"0.000032\"} 1
t_bucket{kind=\"read\",le=\"16.777216\"} 3
t_bucket{kind=\"read\",le=\"+Inf\"} 6
t_sum{kind=\"read\"} 2.5
t_count{kind=\"read\"} 6
"
        );
    }
}
