//! What volumes' clients do, as the daemon counts it.

use cairn_tests::daemon::{Daemon, Launch};
use serde_json::Value;

const BLOCK: usize = 4096;

fn demo() -> (tempfile::TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "64M").start();
    (dir, daemon)
}

/// What `/v1/stats` says of the only volume.
fn stats(daemon: &Daemon) -> Value {
    let stats = daemon.get("/v1/stats");
    let volumes = stats["volumes"].as_array().expect("a list");
    assert_eq!(volumes.len(), 1, "{stats}");
    volumes[0].clone()
}

/// How much of a kind was done: requests, and the bytes that they were about.
#[track_caller]
fn assert_done(stats: &Value, kind: &str, operations: u64, bytes: u64) {
    let done = &stats["io"][kind];
    assert_eq!((&done["operations"], &done["bytes"]), (&operations.into(), &bytes.into()), "{kind}: {stats}");
    assert_eq!(done["errors"], 0, "{kind}: {stats}");
    let buckets = done["latency_buckets"].as_array().expect("buckets").iter();
    assert_eq!(buckets.map(|count| count.as_u64().expect("a number")).sum::<u64>(), operations);
    assert_eq!(done["latency_ns"].as_u64().is_some_and(|ns| ns > 0), operations > 0, "{kind}: {stats}");
}

#[test]
fn what_clients_do_is_counted_by_volume_over_all_connections() {
    let (_dir, daemon) = demo();
    daemon.cairn(&["snapshot", "create", "demo", "s"]).ok();
    let mut client = daemon.connect("demo");
    client.write(0, &vec![1; 16 * BLOCK]).expect("a write");
    client.write_zeroes(0, BLOCK as u32).expect("zeroes");
    client.trim(BLOCK as u64, 2 * BLOCK as u32).expect("a trim");
    client.flush().expect("a flush");
    client.read(0, 8192).expect("a read");
    let shown = stats(&daemon);
    assert_eq!(
        (&shown["volume"], &shown["pool"], &shown["connections"]),
        (&"demo".into(), &"main".into(), &1.into())
    );
    assert_eq!(shown["in_flight"], 0, "{shown}");
    drop(client);
    daemon.connect("demo@s").read(0, 4096).expect("a snapshot's is the volume's");
    daemon.connect("demo").read(8192, 4096).expect("a read");
    // Requests for zeroes and trims are no data, and not writes either.
    let shown = stats(&daemon);
    for (kind, operations, bytes) in [
        ("read", 3, 4 * BLOCK),
        ("write", 1, 16 * BLOCK),
        ("flush", 1, 0),
        ("trim", 1, 2 * BLOCK),
        ("zero", 1, BLOCK),
    ] {
        assert_done(&shown, kind, operations, bytes as u64);
    }
    daemon.cairn(&["volume", "edit", "demo", "--name", "new"]).ok();
    let shown = stats(&daemon);
    assert_eq!(shown["volume"], "new");
    assert_done(&shown, "read", 3, 4 * BLOCK as u64);
    daemon.cairn(&["volume", "delete", "new", "--with-snapshots", "--yes"]).ok();
    daemon.cairn(&["volume", "create", "new", "--size", "64M"]).ok();
    assert_done(&stats(&daemon), "read", 0, 0);
    daemon.stop();
}

/// A limit must not make a disk look slow: what waits for it is told apart.
#[test]
fn waiting_for_a_limit_is_no_latency() {
    let (_dir, daemon) = demo();
    daemon.cairn(&["qos", "set", "demo", "read_iops_sec=50"]).ok();
    let mut client = daemon.connect("demo");
    for _ in 0..20 {
        client.read(0, BLOCK as u32).expect("a read");
    }
    let shown = stats(&daemon);
    let number = |value: &Value| value.as_u64().expect("a number");
    assert!(number(&shown["qos_waits"]) >= 5, "{shown}");
    assert!(number(&shown["qos_waited_us"]) >= 100_000, "{shown}");
    let latency_us = number(&shown["io"]["read"]["latency_ns"]) / 1000;
    assert!(latency_us < number(&shown["qos_waited_us"]), "{shown}");
    assert_done(&shown, "read", 20, 20 * BLOCK as u64);
    drop(client);
    daemon.stop();
}
