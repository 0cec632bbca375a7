//! kill -9 under load, again and again, with counters as oracle.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cairn_tests::control::{assert_pool_and_data_clean, assert_pool_clean};
use cairn_tests::daemon::{Daemon, Launch, POOL_FILE, memory_of};
use cairn_tests::data::{Rng, seed};
use cairn_tests::load::{Load, Shape, lock};
use cairn_tests::oracle::{Model, Stamps, each_block, same};
use cairn_tests::program::{full, number_from_env};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// Snapshots kept at any time; the oldest is deleted under load, so that kills also hit the reaper.
const KEPT: usize = 3;

struct Kept {
    name: String,
    image: Vec<Stamps>,
}

/// After each kill: what was answered is there, flushed or not, no block is older than that or a mixture, snapshots are
/// what they were, the pool is clean, and the daemon was ready within a second.
#[test]
fn kill_9_under_load_loses_nothing_that_was_answered() {
    let kills = number_from_env("CAIRN_TEST_KILLS", if full() { 200 } else { 12 });
    let seed = seed("kill -9");
    let mut rng = Rng::new(seed);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "64M");
    let model = Arc::new(Mutex::new(Model::new(SIZE, false)));
    let mut kept: Vec<Kept> = Vec::new();
    let mut ready_after = Vec::new();
    let mut answered = 0;
    for round in 0..kills {
        let daemon = launch.start();
        if round > 0 {
            ready_after.push(daemon.ready_after());
            assert_recovered(&daemon, &model, round);
            let snapshot = &kept[rng.below(kept.len() as u64) as usize];
            assert_unchanged(&daemon, snapshot, round);
            assert_pool_clean(&daemon);
        }
        // Nothing is in flight: what the model holds now is what the snapshot must hold for ever.
        let name = format!("s{round}");
        daemon.cairn(&["snapshot", "create", "demo", &name]).ok();
        kept.push(Kept { name, image: lock(&model).image() });

        let shape = Shape { connections: 1 + rng.below(4) as usize, depth: 16, zeroes: true, largest: 256 };
        let load = Load::start(&daemon.nbd_socket(), "demo", &model, shape, rng.draw());
        thread::sleep(Duration::from_millis(20 + rng.below(300)));
        if kept.len() > KEPT {
            let oldest = kept.remove(0);
            daemon.cairn(&["snapshot", "delete", "demo", &oldest.name]).ok();
            thread::sleep(Duration::from_millis(rng.below(30)));
        }
        daemon.kill_9();
        answered += load.killed();
        all_answered_is_durable(&model);
    }
    assert!(answered > 0, "the load did nothing: this proves nothing");

    let daemon = launch.start();
    ready_after.push(daemon.ready_after());
    assert_recovered(&daemon, &model, kills);
    for snapshot in &kept {
        assert_unchanged(&daemon, snapshot, kills);
    }
    assert_pool_and_data_clean(&daemon);
    daemon.stop();

    ready_after.sort();
    let median = ready_after[ready_after.len() / 2];
    println!(
        "{kills} kills, {answered} requests answered, ready after {median:?} (median), {:?} (longest)",
        ready_after.last()
    );
    assert!(median < Duration::from_secs(1), "recovery is slow: {ready_after:?}");
    // For `cargo xtask soak`.
    println!("counted {{\"kills\": {kills}, \"requests\": {answered}}}");
}

/// Neither a clean stop nor the death of the daemon alone loses what was answered.
fn all_answered_is_durable(model: &cairn_tests::load::SharedModel) {
    let mut model = lock(model);
    let now = model.tick();
    model.flushed(now);
    model.crashed();
}

#[track_caller]
fn assert_recovered(daemon: &Daemon, model: &cairn_tests::load::SharedModel, round: u64) {
    let mut client = daemon.connect("demo");
    client
        .read_all(|offset, bytes| {
            let held = each_block(offset, bytes, |index, block| lock(model).recovered(index, block));
            held.unwrap_or_else(|e| panic!("after kill {round}: {e}"));
        })
        .unwrap_or_else(|e| panic!("after kill {round} the disk can't be read: {e}"));
}

#[track_caller]
fn assert_unchanged(daemon: &Daemon, snapshot: &Kept, round: u64) {
    let name = &snapshot.name;
    let mut client = daemon.connect(&format!("demo@{name}"));
    client
        .read_all(|offset, bytes| {
            let held = each_block(offset, bytes, |index, block| same(index, block, &snapshot.image[index]));
            held.unwrap_or_else(|e| panic!("after kill {round} snapshot {name} changed: {e}"));
        })
        .unwrap_or_else(|e| panic!("after kill {round} snapshot {name} can't be read: {e}"));
}

/// SIGTERM in the middle of a load: the daemon finishes what is in flight, ends by itself, and leaves a pool that is clean
/// and holds every answered write, flushed or not.
#[test]
fn sigterm_under_load_keeps_every_answered_write() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "64M");
    let model = Arc::new(Mutex::new(Model::new(SIZE, false)));
    let seed = seed("SIGTERM");
    for round in 0..3 {
        let daemon = launch.start();
        let shape = Shape { connections: 3, depth: 16, zeroes: true, largest: 256 };
        let load = Load::start(&daemon.nbd_socket(), "demo", &model, shape, seed ^ round);
        thread::sleep(Duration::from_millis(300));
        daemon.stop();
        assert!(load.stopped() > 0, "the load did nothing: this proves nothing");
        all_answered_is_durable(&model);
        let memory = memory_of(&dir.path().join(POOL_FILE)).expect("the pool");
        assert!(!memory.exists(), "{} is of no use after a clean stop", memory.display());
        let daemon = launch.start();
        assert_recovered(&daemon, &model, round);
        assert_pool_and_data_clean(&daemon);
        daemon.stop();
    }
}
