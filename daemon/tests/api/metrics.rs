//! Figures for Prometheus: what the page says, and that its document and its dashboard speak of the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cairn_api::stats::IoKind;
use cairnd::pools::PoolSlot;
use serde_json::{Value, json};

use crate::socket::Server;

/// What the page says of a family.
#[derive(PartialEq, Eq, Debug, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

/// Reads a page as Prometheus does: the families by their names, and the samples by theirs with their labels.
fn parse(page: &str) -> (BTreeMap<String, Family>, BTreeMap<String, f64>) {
    let (mut families, mut samples) = (BTreeMap::<String, Family>::new(), BTreeMap::new());
    let mut family = String::new();
    assert!(page.ends_with('\n'), "the last line has no end");
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and words");
            family = name.to_owned();
            let new = Family { help: help.to_owned(), ..Family::default() };
            assert!(families.insert(family.clone(), new).is_none(), "{name} is there twice");
            continue;
        }
        let now = families.get_mut(&family).expect("samples belong to a family");
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            now.kind = rest.strip_prefix(&format!("{family} ")).expect("follows its words").to_owned();
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{name} is not of {family}"));
        match now.kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        let labels = labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
        let labels = labels.map(|pair| pair.split_once('=').expect("a label").0.to_owned());
        now.labels.extend(labels.filter(|label| label != "le"));
        let value = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} is there twice");
    }
    (families, samples)
}

/// A page of a volume that was used.
fn page() -> String {
    let server = Server::with_demo();
    let w = &server.world;
    let head = w.pool.resolve("demo").expect("the volume").head;
    let counted = w.volumes.figures.enter((w.pool.id(), head), Arc::default());
    counted.counters().begin(IoKind::Write).end(Some(8192));
    counted.counters().begin(IoKind::Write).end(Some(4096));
    counted.counters().begin(IoKind::Read).end(None);
    let _waits = counted.counters().begin(IoKind::Flush);
    let _client = w.client("demo", 4711, 0).expect("is let in");
    w.volumes.pools.add(PoolSlot::new("gone", "/gone", Err("no such file".into())));
    let (status, page) = server.call("GET", "/v1/metrics", "");
    assert_eq!(status, 200, "{page}");
    page
}

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn what_was_done_is_on_the_page() {
    let (families, samples) = parse(&page());
    for (sample, value) in [
        ("cairn_build_info{version=\"0.0.0\"}", 1.0),
        ("cairn_start_time_seconds", 0.0),
        ("cairn_volume_operations_total{volume=\"demo\",kind=\"write\"}", 2.0),
        ("cairn_volume_bytes_total{volume=\"demo\",kind=\"write\"}", 12288.0),
        ("cairn_volume_operations_total{volume=\"demo\",kind=\"read\"}", 1.0),
        ("cairn_volume_errors_total{volume=\"demo\",kind=\"read\"}", 1.0),
        ("cairn_volume_latency_seconds_count{volume=\"demo\",kind=\"write\"}", 2.0),
        ("cairn_volume_latency_seconds_bucket{volume=\"demo\",kind=\"write\",le=\"+Inf\"}", 2.0),
        ("cairn_volume_latency_seconds_bucket{volume=\"demo\",kind=\"trim\",le=\"16.777216\"}", 0.0),
        ("cairn_volume_requests_in_flight{volume=\"demo\"}", 1.0),
        ("cairn_volume_connections{volume=\"demo\"}", 1.0),
        ("cairn_volume_size_bytes{volume=\"demo\"}", (1u64 << 30) as f64),
        ("cairn_volume_info{volume=\"demo\",pool=\"main\"}", 1.0),
        ("cairn_pool_up{pool=\"main\"}", 1.0),
        ("cairn_pool_up{pool=\"gone\"}", 0.0),
        ("cairn_pool_fenced{pool=\"main\"}", 0.0),
        ("cairn_pool_snapshots{pool=\"main\"}", 2.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}");
    }
    assert!(!samples.contains_key("cairn_pool_used_bytes{pool=\"gone\"}"), "nothing is known of it");
    assert!(samples["cairn_volume_latency_seconds_sum{volume=\"demo\",kind=\"write\"}"] > 0.0);
    for (name, family) in families {
        assert!(name.starts_with("cairn_"), "{name} may be another exporter's, too");
        let of_counter = name.ends_with("_total");
        assert_eq!(family.kind == "counter", of_counter, "{name}, as Prometheus' conventions have it");
    }
}

#[test]
fn the_document_says_what_the_page_says() {
    let mut documented = BTreeMap::new();
    for line in file("docs/METRICS.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, unit, help] = cells[..] else { panic!("{line}") };
        let name = name.trim_matches('`').to_owned();
        for (part, of) in [("_bytes", "bytes"), ("_seconds", "seconds")] {
            assert_eq!(name.contains(part), unit == of, "{name} is in {unit}");
        }
        let labels = labels.split(", ").filter(|label| *label != "-");
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        documented.insert(name, Family { kind: kind.into(), labels, help: help.into() });
    }
    let (families, _) = parse(&page());
    assert_eq!(documented, families);
}

/// The names of metrics in what Prometheus is asked.
fn named(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("cairn_"))
}

/// All that a dashboard asks Prometheus.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(query) if key == "expr" || key == "query" => found.push(query.clone()),
                    value => queries(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

/// The metrics that queries ask for, all of which there are.
fn used(queries: &[String]) -> BTreeSet<&str> {
    let (families, _) = parse(&page());
    let exists = |name: &str| {
        let histogram = |suffix| {
            let family = name.strip_suffix(suffix).and_then(|name| families.get(name));
            family.is_some_and(|family| family.kind == "histogram")
        };
        families.get(name).is_some_and(|family| family.kind != "histogram")
            || ["_bucket", "_sum", "_count"].into_iter().any(histogram)
    };
    let mut used = BTreeSet::new();
    for query in queries {
        let pair = |open, close| query.matches(open).count() == query.matches(close).count();
        assert!(pair('(', ')') && pair('{', '}') && pair('[', ']'), "{query}");
        for name in named(query) {
            assert!(exists(name), "there is no {name}: {query}");
            used.insert(name);
        }
    }
    used
}

#[test]
fn the_alerts_ask_for_what_there_is() {
    let rules = file("docs/prometheus/cairn.yml");
    let lines = |key| rules.lines().filter_map(move |line| line.trim_start().strip_prefix(key));
    let queries: Vec<_> = lines("expr: ").map(str::to_owned).collect();
    let used = used(&queries);
    assert_eq!(queries.len(), lines("- alert: ").count());
    assert_eq!(queries.len(), lines("summary: ").count());
    for needed in
        ["cairn_pool_up", "cairn_pool_fenced", "cairn_pool_checksum_errors_total", "cairn_pool_free_bytes"]
    {
        assert!(used.contains(needed), "{needed} alerts nobody");
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(&file("docs/grafana/cairn.json")).expect("JSON");
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    let used = used(&asked);
    for needed in [
        "cairn_volume_operations_total",
        "cairn_volume_bytes_total",
        "cairn_volume_latency_seconds_bucket",
        "cairn_volume_qos_waits_total",
        "cairn_pool_used_bytes",
        "cairn_pool_journal_used_bytes",
        "cairn_pool_fenced",
        "cairn_volume_checksum_errors",
    ] {
        assert!(used.contains(needed), "{needed} is not shown");
    }
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{} has another's id", panel["title"]);
        let place = |field: &str| panel["gridPos"][field].as_u64().expect("a number");
        assert!(place("x") + place("w") <= 24, "{} is too wide", panel["title"]);
        for cell in (place("x")..place("x") + place("w"))
            .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
        {
            assert!(cells.insert(cell), "{} lies on another", panel["title"]);
        }
        let asks = panel["targets"].as_array().is_some_and(|targets| !targets.is_empty());
        assert!(asks || panel["type"] == json!("row"), "{} shows nothing", panel["title"]);
    }
}
