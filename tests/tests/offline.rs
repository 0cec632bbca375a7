//! What can be done to a pool that no daemon uses: looking, which changes nothing, and repairing, which says what is lost.

use std::path::Path;

use cairn_tests::daemon::{Daemon, Launch, POOL_FILE};
use cairn_tests::data::{BLOCK, SECTORS_PER_BLOCK, stamp};
use cairn_tests::fixtures::{checksum, flip_byte};
use cairn_tests::program::{Outcome, binary, run};
use serde_json::Value;
use tempfile::TempDir;

const DISK: u64 = 8 << 20;

/// A daemon with a full volume `demo` and a snapshot of it, stamps in both.
#[track_caller]
fn filled(dir: &Path) -> Daemon {
    let daemon = Launch::dev(dir).create("demo", "8M").start();
    let mut client = daemon.connect("demo");
    let mut block = [0; BLOCK];
    for number in 0..DISK / BLOCK as u64 {
        stamp(&mut block, number * SECTORS_PER_BLOCK as u64, 1);
        client.write(number * BLOCK as u64, &block).expect("a write");
    }
    client.flush().expect("a flush");
    daemon.cairn(&["snapshot", "create", "demo", "s1"]).ok();
    daemon
}

#[track_caller]
fn cairnd(args: &[&str]) -> Outcome {
    run(&binary("cairnd").display().to_string(), args)
}

/// Where in the pool's file the first of what `dump` calls so is, of the volume's map.
#[track_caller]
fn place_of(what: &str, pool: &str) -> u64 {
    let dump = cairnd(&["dump", pool, "--map", "demo", "--json"]).json();
    let map = dump["map"]["read"].as_array().expect("a map");
    let found = map.iter().find(|part| part["what"] == what && part["offset"] == 0);
    found.and_then(|part| part["block"].as_u64()).expect("an address") * BLOCK as u64
}

#[test]
fn a_pool_that_was_left_by_a_killed_daemon_is_looked_at_without_a_change() {
    let dir = TempDir::new().expect("a folder");
    let work = dir.path().join("work");
    let daemon = filled(&work);
    let pool = work.join(POOL_FILE);
    let path = pool.to_str().expect("UTF-8");
    let busy = cairnd(&["check", path]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(busy.stderr.contains("in use by another cairnd"), "{}", busy.stderr);
    daemon.kill_9();
    let before = checksum(&pool).expect("readable");
    let checked = cairnd(&["check", work.to_str().expect("UTF-8"), "--data", "--json"]);
    let report = checked.json();
    assert_eq!((checked.status.code(), &report["clean"]), (Some(0), &Value::Bool(true)), "{report}");
    assert_eq!(report["data_verified"], DISK / BLOCK as u64);
    let repair = cairnd(&["repair", path]);
    assert_eq!(repair.status.code(), Some(0));
    assert!(repair.stdout.contains("the pool is sound: there is nothing to repair"), "{}", repair.stdout);
    let dump = cairnd(&["dump", path]).stdout;
    for part in ["superblocks:", "CreateVolume", "journal:", "segments:"] {
        assert!(dump.contains(part), "{dump}");
    }
    assert_eq!(checksum(&pool).expect("readable"), before, "looking changes nothing");
    // What was in memory only of the daemon that was killed is there for the next one all the same.
    let daemon = Launch::dev(&work).start();
    assert_eq!(daemon.cairn_json(&["pool", "check", "--data"])["clean"], true);
    daemon.stop();
}

#[test]
fn damage_is_told_by_bytes_and_repaired_only_when_asked_to() {
    let dir = TempDir::new().expect("a folder");
    let work = dir.path().join("work");
    filled(&work).stop();
    let pool = work.join(POOL_FILE);
    let path = pool.to_str().expect("UTF-8");
    flip_byte(&pool, place_of("data", path) + 100, 0x10).expect("damaged");
    let whole = cairnd(&["check", path, "--data", "--json"]).json();
    let both = |report: &Value, len: u64, kind: &str| {
        let losses = report["losses"].as_array().expect("losses");
        assert_eq!(losses.len(), 2, "the volume and its snapshot: {report}");
        for loss in losses {
            assert_eq!(
                (&loss["offset"], &loss["len"], &loss["kind"]),
                (&0.into(), &len.into(), &kind.into()),
                "{report}"
            );
        }
    };
    both(&whole, BLOCK as u64, "data");
    flip_byte(&pool, place_of("level 0", path) + 100, 0x10).expect("damaged");
    let before = checksum(&pool).expect("readable");
    let foretold = cairnd(&["repair", path]);
    assert_eq!(foretold.status.code(), Some(1));
    let told = foretold.stdout;
    for part in
        ["map: 1 node cannot be read", "unreadable: demo, bytes 0 to 1048576", "unreadable: demo@s1", "--yes"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(checksum(&pool).expect("readable"), before, "not without --yes");
    // The same by the other program.
    let cairn = binary("cairn").display().to_string();
    both(&run(&cairn, &["--json", "pool", "repair", path, "--yes"]).ok().json(), 1 << 20, "map");
    let daemon = Launch::dev(&work).start();
    let mut client = daemon.connect("demo");
    assert!(client.read(0, BLOCK as u32).is_err(), "lost is an error, not zeroes");
    client.read(1 << 20, BLOCK as u32).expect("the rest is there");
    client.write(0, &[7; BLOCK]).expect("it can be written again");
    assert_eq!(client.read(0, BLOCK as u32).expect("and read then"), [7; BLOCK]);
    let report = daemon.cairn(&["--json", "pool", "check", "--data"]);
    let report = report.json();
    assert_eq!((&report["error_count"], &report["leaked"]), (&0.into(), &0.into()), "{report}");
    daemon.stop();
}

#[test]
fn a_scrub_finds_damage_and_tells_it() {
    let dir = TempDir::new().expect("a folder");
    let work = dir.path().join("work");
    filled(&work).stop();
    let pool = work.join(POOL_FILE);
    let damaged = place_of("data", pool.to_str().expect("UTF-8"));
    let daemon = Launch::dev(&work).start();
    assert!(daemon.cairn(&["pool", "scrub", "--status"]).ok().stdout.contains("was not scrubbed"));
    let clean = daemon.cairn(&["pool", "scrub"]).ok().stdout;
    assert!(clean.contains("finished, all is well") && clean.contains("0 faults"), "{clean}");
    flip_byte(&pool, damaged + 5, 0x10).expect("damaged");
    let found = daemon.cairn(&["pool", "scrub"]);
    assert_eq!(found.status.code(), Some(1));
    for part in ["1 fault", "damaged: snapshot 'demo@s1', bytes 0 to 4096", "does not match its checksum"] {
        assert!(found.stdout.contains(part), "{part}: {}", found.stdout);
    }
    let told = daemon.cairn_json(&["events", "--kind", "scrub", "--severity", "error"]);
    let kinds: Vec<_> =
        told["events"].as_array().expect("a list").iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["scrub.fault", "scrub.ended"]);
    // The next daemon still knows.
    daemon.stop();
    let daemon = Launch::dev(&work).start();
    let last = daemon.cairn(&["--json", "pool", "scrub", "--status"]).json();
    assert_eq!((&last["state"], &last["fault_count"]), (&"finished".into(), &1.into()));
    // One that would take an hour can be watched from afar, is alone, and ends when it is told to.
    daemon.cairn(&["pool", "scrub", "main", "--limit-rate", "1K", "--detach"]).ok();
    let second = daemon.cairn(&["pool", "scrub", "--detach"]);
    assert!(second.status.code() == Some(1) && second.stderr.contains("is under way"), "{}", second.stderr);
    let status = daemon.cairn(&["--json", "pool", "scrub", "--status"]).json();
    assert_eq!((&status["state"], &status["rate"]), (&"running".into(), &1024.into()));
    let stopped = daemon.cairn(&["pool", "scrub", "--stop"]);
    assert!(stopped.stdout.contains("stopped"), "{}", stopped.stdout);
    let none = daemon.cairn(&["pool", "scrub", "nowhere"]);
    assert!(none.status.code() == Some(1) && none.stderr.contains("no pool 'nowhere'"), "{}", none.stderr);
    daemon.stop();
}
