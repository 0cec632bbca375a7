//! Snapshots: one point in the order of writes, unchanging, many, and gone without a trace when deleted.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cairn_tests::control::{
    assert_pool_and_data_clean, assert_pool_clean, create_snapshot, data_blocks, number, wait_until_reclaimed,
};
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{BLOCK, Rng, seed};
use cairn_tests::load::{Load, Shape, SharedModel, lock};
use cairn_tests::nbd::Client;
use cairn_tests::oracle::{Model, Tick, each_block};
use cairn_tests::program::{full, number_from_env};

const MIB: u64 = 1 << 20;

struct Taken {
    name: String,
    asked: Tick,
    answered: Tick,
}

#[track_caller]
fn assert_is_a_cut(daemon: &Daemon, model: &SharedModel, taken: &Taken) {
    let model = lock(model);
    let mut cut = model.cut(taken.asked, taken.answered);
    let mut client = daemon.connect(&format!("demo@{}", taken.name));
    client
        .read_all(|offset, bytes| {
            let held = each_block(offset, bytes, |index, block| cut.block(index, block));
            held.unwrap_or_else(|e| panic!("snapshot {}: {e}", taken.name));
        })
        .expect("a snapshot can be read");
    cut.finish().unwrap_or_else(|e| panic!("snapshot {}: {e}", taken.name));
}

/// A snapshot every 100 ms while four connections write with many requests in flight. Each is one point in the order of
/// acknowledged writes, stays so when the daemon was killed, and when others are deleted around it.
#[test]
fn snapshots_under_load_are_points_in_the_order_of_writes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "16M");
    let daemon = launch.start();
    let seed = seed("snapshots under load");
    let model = Arc::new(Mutex::new(Model::new(16 * MIB, true)));
    let shape = Shape { connections: 4, depth: 16, zeroes: false, largest: 64 };
    let load = Load::start(&daemon.nbd_socket(), "demo", &model, shape, seed);
    let mut taken = Vec::new();
    let mut times = Vec::new();
    for number in 0..if full() { 300 } else { 40 } {
        thread::sleep(Duration::from_millis(100));
        let name = format!("s{number}");
        let asked = lock(&model).tick();
        times.push(create_snapshot(&daemon, "demo", &name));
        let answered = lock(&model).tick();
        taken.push(Taken { name, asked, answered });
    }
    let answered = load.finish();
    times.sort();
    let median = times[times.len() / 2];
    println!("{answered} requests answered, {} snapshots, median {median:?} each, durable", taken.len());
    let distinct = taken.iter().filter(|t| t.answered > t.asked + 1).count();
    assert!(distinct > 0, "nothing was in flight while snapshots were taken: this proves nothing");

    for snapshot in &taken {
        assert_is_a_cut(&daemon, &model, snapshot);
    }
    daemon.kill_9();
    let daemon = launch.start();
    Rng::new(seed).shuffle(&mut taken);
    let kept = taken.split_off(taken.len() / 2);
    for snapshot in &taken {
        daemon.cairn(&["snapshot", "delete", "demo", &snapshot.name]).ok();
    }
    for snapshot in &kept {
        assert_is_a_cut(&daemon, &model, snapshot);
    }
    wait_until_reclaimed(&daemon);
    assert_pool_and_data_clean(&daemon);
    for snapshot in &kept {
        assert_is_a_cut(&daemon, &model, snapshot);
    }
    daemon.stop();
}

/// A thousand snapshots exist at once, the volume works as before, and when all are deleted in random order the pool
/// holds exactly the blocks that the volume maps.
#[test]
fn a_thousand_snapshots_deleted_in_random_order_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "256M");
    let daemon = launch.start();
    let seed = seed("a thousand snapshots");
    let mut rng = Rng::new(seed);
    let mut client = daemon.connect("demo");
    let blocks = 256 * MIB / BLOCK as u64;
    let mut expected = vec![0u8; blocks as usize];
    let write = |client: &mut cairn_tests::nbd::Client, rng: &mut Rng, expected: &mut Vec<u8>| {
        for _ in 0..4 {
            let block = rng.below(blocks);
            let value = 1 + rng.below(255) as u8;
            client.write(block * BLOCK as u64, &[value; BLOCK]).expect("a write");
            expected[block as usize] = value;
        }
    };
    let count = number_from_env("CAIRN_TEST_SNAPSHOTS", 1000);
    let mut names = Vec::new();
    for number in 0..count {
        write(&mut client, &mut rng, &mut expected);
        let name = format!("s{number}");
        create_snapshot(&daemon, "demo", &name);
        names.push(name);
    }
    let list = daemon.cairn_json(&["snapshot", "list", "demo"]);
    assert_eq!(list["snapshots"].as_array().map(Vec::len), Some(count as usize));
    write(&mut client, &mut rng, &mut expected);
    client.flush().expect("a flush");
    assert_pool_clean(&daemon);

    // The volume still opens, reads and restarts with all of them there.
    drop(client);
    daemon.stop();
    let daemon = launch.start();
    println!("restart with {count} snapshots took {:?}", daemon.ready_after());

    rng.shuffle(&mut names);
    let (first, second) = names.split_at(names.len() / 2);
    delete(&daemon, first);
    let mut client = daemon.connect("demo");
    write(&mut client, &mut rng, &mut expected);
    client.flush().expect("a flush");
    delete(&daemon, second);
    wait_until_reclaimed(&daemon);

    let held: u64 = expected.iter().filter(|value| **value != 0).count() as u64;
    assert_eq!(data_blocks(&daemon), held, "the pool holds what the volume maps and nothing else");
    let shown = daemon.cairn_json(&["volume", "show", "demo"]);
    assert_eq!(number(&shown, "mapped"), held * BLOCK as u64);
    client
        .read_all(|offset, bytes| {
            let first = (offset / BLOCK as u64) as usize;
            for (place, block) in bytes.chunks(BLOCK).enumerate() {
                let value = expected[first + place];
                assert!(block.iter().all(|byte| *byte == value), "block {} lost its content", first + place);
            }
        })
        .expect("the disk can be read");
    daemon.stop();
}

#[track_caller]
fn delete(daemon: &Daemon, names: &[String]) {
    for some in names.chunks(50) {
        let mut args = vec!["snapshot", "delete", "demo"];
        args.extend(some.iter().map(String::as_str));
        daemon.cairn(&args).ok();
    }
}

/// Writes one byte value over the first MiB.
#[track_caller]
fn fill(daemon: &Daemon, volume: &str, value: u8) {
    let mut client = daemon.connect(volume);
    client.write(0, &vec![value; MIB as usize]).expect("a write");
    client.flush().expect("a flush");
    client.disconnect().expect("a clean end");
}

#[track_caller]
fn assert_filled(daemon: &Daemon, export: &str, value: u8) {
    let bytes = daemon.connect(export).read(0, MIB as u32).expect("a read");
    assert!(bytes.iter().all(|byte| *byte == value), "{export} does not hold {value}");
}

#[test]
fn rollback_goes_back_keeps_newer_snapshots_and_can_be_undone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "64M").start();
    for (value, name) in [(1, "one"), (2, "two")] {
        fill(&daemon, "demo", value);
        daemon.cairn(&["snapshot", "create", "demo", name]).ok();
    }
    fill(&daemon, "demo", 3);
    daemon.cairn(&["snapshot", "rollback", "demo", "one"]).refused();
    assert_filled(&daemon, "demo", 3);

    let rolled = daemon.cairn_json(&["snapshot", "rollback", "demo", "one", "--yes"]);
    assert_filled(&daemon, "demo", 1);
    assert_filled(&daemon, "demo@two", 2);
    let undo = rolled["undo"]["name"].as_str().expect("a rollback names what undoes it").to_owned();
    assert_filled(&daemon, &format!("demo@{undo}"), 3);
    daemon.cairn(&["snapshot", "rollback", "demo", "two", "--yes"]).ok();
    assert_filled(&daemon, "demo", 2);
    daemon.cairn(&["snapshot", "rollback", "demo", &undo, "--yes"]).ok();
    assert_filled(&daemon, "demo", 3);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

#[test]
fn clones_and_their_source_live_independently() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "64M");
    let daemon = launch.start();
    fill(&daemon, "demo", 1);
    daemon.cairn(&["snapshot", "create", "demo", "base"]).ok();
    daemon.cairn(&["snapshot", "clone", "demo", "base", "copy"]).ok();
    daemon.cairn(&["volume", "create", "larger", "--from", "demo@base", "--size", "128M"]).ok();
    fill(&daemon, "copy", 2);
    fill(&daemon, "demo", 3);
    assert_filled(&daemon, "larger", 1);
    assert_eq!(daemon.connect("larger").info().size, 128 * MIB);
    let beyond = daemon.connect("larger").read(64 * MIB, BLOCK as u32).expect("a read");
    assert_eq!(beyond, [0; BLOCK], "what a clone has beyond its source is empty");

    // The source goes first; its clones stay whole, also over a restart.
    daemon.cairn(&["volume", "delete", "demo", "--yes"]).refused();
    daemon.cairn(&["volume", "delete", "demo", "--yes", "--with-snapshots"]).ok();
    assert_filled(&daemon, "copy", 2);
    assert_filled(&daemon, "larger", 1);
    daemon.stop();
    let daemon = Launch::dev(dir.path()).start();
    assert_filled(&daemon, "copy", 2);
    assert_filled(&daemon, "larger", 1);
    wait_until_reclaimed(&daemon);
    assert_pool_and_data_clean(&daemon);
    daemon.cairn(&["volume", "delete", "copy", "larger", "--yes"]).ok();
    wait_until_reclaimed(&daemon);
    assert_eq!(data_blocks(&daemon), 0, "an empty pool holds no data");
    daemon.stop();
}

#[test]
fn a_diff_names_what_changed_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "1G").start();
    let mut client = daemon.connect("demo");
    client.write(0, &vec![1; MIB as usize]).expect("a write");
    daemon.cairn(&["snapshot", "create", "demo", "one"]).ok();
    client.write(8 * MIB, &[2; 2 * BLOCK]).expect("a write");
    client.trim(0, BLOCK as u32).expect("a trim");
    daemon.cairn(&["snapshot", "create", "demo", "two"]).ok();
    client.write(512 * MIB, &[3; BLOCK]).expect("a write");
    let extents = |args: &[&str]| -> Vec<(u64, u64, String)> {
        let diff = daemon.cairn_json(args);
        let extents = diff["extents"].as_array().expect("a diff has extents");
        let kind = |e: &serde_json::Value| e["kind"].as_str().unwrap_or("").to_owned();
        extents.iter().map(|e| (number(e, "offset"), number(e, "len"), kind(e))).collect()
    };
    let extent = |offset: u64, len: usize, kind: &str| (offset, len as u64, kind.to_owned());
    let between = [extent(0, BLOCK, "hole"), extent(8 * MIB, 2 * BLOCK, "data")];
    assert_eq!(extents(&["snapshot", "diff", "demo", "one", "two"]), between);
    assert_eq!(extents(&["snapshot", "diff", "demo", "two"]), [extent(512 * MIB, BLOCK, "data")]);
    drop(client);
    daemon.stop();
}

/// What only the deleted volume had is given back; its snapshots are what they were, and are used as before.
#[test]
fn a_volume_is_deleted_and_its_snapshots_live_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "64M").start();
    let keep = ["volume", "delete", "demo", "--keep-snapshots", "--yes"];
    let refused = daemon.cairn(&keep).refused();
    assert!(refused.stderr.contains("no snapshot that could live on"), "{}", refused.stderr);
    for (value, name) in [(1, "one"), (2, "two")] {
        fill(&daemon, "demo", value);
        daemon.cairn(&["snapshot", "create", "demo", name]).ok();
    }
    let mut client = daemon.connect("demo");
    client.write(8 * MIB, &vec![3; 4 * MIB as usize]).expect("a write");
    let refused = daemon.cairn(&keep).refused();
    assert!(refused.stderr.contains("in use"), "while it is used: {}", refused.stderr);
    client.disconnect().expect("a clean end");
    wait_until_reclaimed(&daemon);
    let before = data_blocks(&daemon);
    daemon.cairn(&keep).ok();

    wait_until_reclaimed(&daemon);
    assert_eq!(before - data_blocks(&daemon), 4 * MIB / BLOCK as u64, "what only the volume had");
    let status = |daemon: &Daemon| daemon.get("/v1/volumes/demo")["status"].clone();
    assert_eq!(status(&daemon), "snapshots-only");
    let names = |daemon: &Daemon| {
        let listed = daemon.get("/v1/snapshots?volume=demo")["snapshots"].clone();
        let names =
            listed.as_array().expect("a list").iter().map(|s| s["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&daemon), ["one", "two"]);
    assert!(Client::connect(&daemon.nbd_socket(), "demo").is_err(), "there is no volume to write to");
    let refused: [&[&str]; 5] = [
        &["snapshot", "create", "demo", "three"],
        &["volume", "resize", "demo", "--size", "128M", "--yes"],
        &["image", "create", "golden", "--from", "demo"],
        &["volume", "create", "demo", "--size", "1M"],
        &keep,
    ];
    for args in refused {
        daemon.cairn(args).refused();
    }
    let listed = daemon.cairn(&["volume", "list"]).ok().stdout;
    assert!(listed.contains("snapshots-only"), "{listed}");

    // After a restart, too.
    daemon.kill_9();
    let daemon = Launch::dev(dir.path()).start();
    assert_eq!(status(&daemon), "snapshots-only");
    for (value, name) in [(1, "one"), (2, "two")] {
        assert_filled(&daemon, &format!("demo@{name}"), value);
    }
    daemon.cairn(&["volume", "create", "copy", "--from", "demo@one"]).ok();
    assert_filled(&daemon, "copy", 1);
    daemon.cairn(&["image", "create", "golden", "--from", "demo@two"]).ok();

    // One way back, and on to its end.
    let rolled = daemon.cairn_json(&["snapshot", "rollback", "demo", "one", "--yes"]);
    assert_eq!(status(&daemon), "available");
    assert_filled(&daemon, "demo", 1);
    daemon.cairn(&keep).ok();
    let undo = rolled["undo"]["name"].as_str().expect("a name").to_owned();
    daemon.cairn(&["snapshot", "delete", "demo", "one", &undo]).ok();
    assert_eq!(status(&daemon), "snapshots-only");
    daemon.cairn(&["snapshot", "delete", "demo", "two"]).ok();
    daemon.cairn(&["volume", "show", "demo"]).refused();
    assert_filled(&daemon, "copy", 1);
    daemon.cairn(&["volume", "create", "demo", "--size", "1M"]).ok();
    wait_until_reclaimed(&daemon);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}
