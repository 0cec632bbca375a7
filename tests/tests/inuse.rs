//! What may change while a disk is in use: who uses it, its limits, its size.

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::control::{assert_pool_and_data_clean, request};
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::seed;
use cairn_tests::load::{Load, Shape, SharedModel, lock};
use cairn_tests::nbd::{Client, Error, collect_option, greet, option, push_string, raw, wire};
use cairn_tests::oracle::{Model, each_block};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
const SIZE: u64 = 64 * MIB;

fn demo() -> (tempfile::TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "64M").start();
    (dir, daemon)
}

fn shape() -> Shape {
    Shape { connections: 3, depth: 16, zeroes: true, largest: 256 }
}

fn set_limits(daemon: &Daemon, settings: &[&str]) {
    daemon.cairn(&[&["qos", "set", "demo"], settings].concat()).ok();
}

#[track_caller]
fn assert_recovered(daemon: &Daemon, model: &SharedModel) {
    let held = |offset, bytes: &[u8]| {
        let held = each_block(offset, bytes, |index, block| lock(model).recovered(index, block));
        held.unwrap_or_else(|e| panic!("{e}"));
    };
    daemon.connect("demo").read_all(held).expect("the disk can be read");
}

/// Cut off or asked to go, in the middle of a load: what was answered to a flush is there, and after a polite end all that
/// was answered at all.
#[test]
fn detaching_under_load_loses_nothing_that_was_promised() {
    let (_dir, daemon) = demo();
    let model = Arc::new(Mutex::new(Model::new(SIZE, false)));
    let seed = seed("detach");
    for round in 0..8 {
        let forced = round % 2 == 0;
        let load = Load::start(&daemon.nbd_socket(), "demo", &model, shape(), seed ^ round);
        thread::sleep(Duration::from_millis(100));
        let shown = daemon.cairn_json(&["volume", "show", "demo"]);
        assert_eq!(shown["attachments"][0]["connections"], 3, "{shown}");
        if forced {
            daemon.cairn(&["volume", "detach", "demo", "--force"]).ok();
            assert!(load.killed() > 0, "the load did nothing: this proves nothing");
        } else {
            daemon.cairn(&["volume", "detach", "demo"]).ok();
            assert!(load.stopped() > 0, "the load did nothing: this proves nothing");
            let mut model = lock(&model);
            let now = model.tick();
            model.flushed(now);
        }
        let shown = daemon.cairn_json(&["volume", "show", "demo"]);
        assert_eq!(shown["status"], "available", "{shown}");
        lock(&model).crashed();
        assert_recovered(&daemon, &model);
    }
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

#[test]
fn a_volume_has_one_consumer_unless_it_is_shared() {
    let (_dir, daemon) = demo();
    daemon.cairn(&["snapshot", "create", "demo", "s"]).ok();
    let holding = |export: &str| {
        // Holds the disk until its standard input ends.
        let mut qemu = Command::new("qemu-io");
        qemu.args(["-f", "raw", &daemon.uri(export)]).stdin(Stdio::piped()).stdout(Stdio::null());
        qemu.spawn().expect("qemu-io starts")
    };
    let until = |what: &str, reached: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !reached() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    let consumers = || daemon.cairn_json(&["volume", "attachments", "demo"])["attachments"].clone();
    let mut other = holding("demo");
    until("qemu-io is not seen", &|| consumers()[0]["consumer"]["command"] == "qemu-io");
    assert!(Client::connect(&daemon.nbd_socket(), "demo").is_err(), "it is taken");
    daemon.connect("demo@s").read(0, 4096).expect("a snapshot is for everybody");
    daemon.cairn(&["volume", "edit", "demo", "--name", "new"]).refused();
    daemon.cairn(&["volume", "edit", "demo", "--shared", "on"]).ok();
    let mut second = daemon.connect("demo");
    second.write(0, &[1; BLOCK]).expect("shared");
    assert_eq!(consumers().as_array().map(Vec::len), Some(2));
    drop(second);
    daemon.cairn(&["volume", "edit", "demo", "--shared", "off"]).ok();
    drop(other.stdin.take());
    other.wait().expect("qemu-io ends");
    // Nobody has to wait for the daemon to notice that it has.
    let mut next = daemon.connect("demo");
    assert_eq!(next.read(0, 4096).expect("a read"), [1; BLOCK]);
    drop(next);
    daemon.stop();
}

/// A client that asked for an export (INFO), and may yet use it or not, kept detachments and deletions waiting for the
/// ten seconds that negotiating may take. Now it is still negotiating when they are done.
#[test]
fn who_only_asks_is_in_nobodys_way() {
    let (_dir, daemon) = demo();
    let mut asking = raw(&daemon.nbd_socket()).expect("the socket accepts");
    greet(&mut asking).expect("a greeting");
    let mut data = Vec::new();
    push_string(&mut data, "demo");
    data.extend_from_slice(&0u16.to_be_bytes());
    let mut ask = |kind| {
        option(&mut asking, kind, &data).expect("sent");
        collect_option(&mut asking, kind)
    };
    let _user = daemon.connect("demo");
    ask(wire::OPT_INFO).expect("the export is there");
    daemon.cairn(&["volume", "detach", "demo"]).ok();
    ask(wire::OPT_INFO).expect("it is there, and so is this client");
    daemon.cairn(&["volume", "delete", "demo", "--yes"]).ok();
    let gone = ask(wire::OPT_GO).expect_err("it is gone");
    assert!(matches!(gone, Error::Refused(wire::REP_ERR_UNKNOWN, _)), "{gone}");
    daemon.cairn(&["volume", "create", "demo", "--size", "1M"]).ok();
    ask(wire::OPT_INFO).expect("it is there");
    daemon.cairn(&["volume", "delete", "demo", "--yes"]).ok();
    daemon.cairn(&["volume", "create", "demo", "--size", "2M"]).ok();
    let another = ask(wire::OPT_GO).expect_err("it is another volume");
    assert!(matches!(another, Error::Refused(wire::REP_ERR_UNKNOWN, _)), "{another}");
    ask(wire::OPT_GO).expect("asked anew, it is there");
    daemon.stop();
}

/// How long so many writes take, one after the other.
fn writes(client: &mut Client, count: u64) -> Duration {
    let began = Instant::now();
    for n in 0..count {
        client.write(n * BLOCK as u64, &[7; BLOCK]).expect("a write");
    }
    began.elapsed()
}

/// Only lower bounds are timed: a limit may never be exceeded, however slow the machine.
#[test]
fn a_rule_holds_at_once_for_every_volume_that_uses_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path());
    let daemon = launch.start();
    daemon.cairn(&["qos", "rule", "create", "r", "total_iops_sec=1000000"]).ok();
    daemon.cairn(&["type", "create", "t", "--qos", "r", "--default"]).ok();
    let names = ["a", "b", "c"];
    for name in names {
        daemon.cairn(&["volume", "create", name, "--size", "64M"]).ok();
    }
    let mut clients = names.map(|name| daemon.connect(name));
    for client in &mut clients {
        writes(client, 10);
    }
    daemon.cairn(&["qos", "rule", "edit", "r", "total_iops_sec=50"]).ok();
    for client in &mut clients {
        let took = writes(client, 12);
        assert!(took >= Duration::from_millis(180), "12 writes at 50 a second took {took:?}");
    }
    daemon.cairn(&["qos", "rule", "edit", "r", "total_iops_sec=0"]).ok();
    // At 50 a second these would take a minute.
    for client in &mut clients {
        writes(client, 3000);
    }
    daemon.cairn(&["qos", "rule", "edit", "r", "total_bytes_sec=200K"]).ok();
    drop(clients);
    daemon.kill_9();
    let daemon = launch.start();
    let took = writes(&mut daemon.connect("b"), 12);
    assert!(
        took >= Duration::from_millis(180),
        "40 KiB more than the first at 200 KiB a second took {took:?}"
    );
    daemon.stop();
}

/// A flush does not wait behind throttled writes, and a client that goes away takes its waiting requests with it.
#[test]
fn what_waits_for_a_limit_holds_up_nothing_else() {
    use cairn_tests::nbd::Request;
    let (_dir, daemon) = demo();
    let mut client = daemon.connect("demo");
    client.write(0, &[1; BLOCK]).expect("a write");
    set_limits(&daemon, &["write_iops_sec=1"]);
    for n in 0..50 {
        client
            .send(Request::Write { offset: n * BLOCK as u64, data: &[2; BLOCK], fua: false })
            .expect("sent");
    }
    let flush = client.send(Request::Flush).expect("sent");
    let read = client.send(Request::Read { offset: 4096 * 100, len: 4096 }).expect("sent");
    let mut waiting = vec![flush, read];
    let mut others = 0;
    while !waiting.is_empty() {
        let reply = client.recv().expect("a reply");
        waiting.retain(|cookie| *cookie != reply.cookie);
        others += u32::from(!waiting.contains(&reply.cookie));
    }
    assert!(others < 12, "flush and read came after {others} of 50 writes at one a second");
    let shown = daemon.cairn_json(&["qos", "show", "demo"]);
    assert!(shown["waiting"].as_u64().is_some_and(|waiting| waiting > 30), "{shown}");
    drop(client);
    // Deleting waits for the connection to be gone, but only half a second.
    daemon.cairn(&["volume", "delete", "demo", "--yes"]).ok();
    daemon.stop();
}

/// A polite end drops nothing that was taken in, also what a limit would have kept waiting for minutes.
#[test]
fn detaching_answers_what_waits_for_a_limit() {
    use cairn_tests::nbd::Request;
    let (_dir, daemon) = demo();
    let mut client = daemon.connect("demo");
    client.write(0, &[1; BLOCK]).expect("a write");
    set_limits(&daemon, &["write_iops_sec=1"]);
    let mut waiting: Vec<u64> = (0..50)
        .map(|n| Request::Write { offset: n * BLOCK as u64, data: &[2; BLOCK], fua: false })
        .map(|write| client.send(write).expect("sent"))
        .collect();
    let read = client.send(Request::Read { offset: 4096 * 100, len: 4096 }).expect("sent");
    // Behind the writes, so they have been taken in when it is answered.
    loop {
        let reply = client.recv().expect("a reply");
        waiting.retain(|cookie| *cookie != reply.cookie);
        if reply.cookie == read {
            break;
        }
    }
    assert!(waiting.len() > 30, "only {} of 50 writes wait at one a second", waiting.len());
    let detached = thread::spawn({
        let socket = daemon.control_socket();
        move || request(&socket, "POST", "/v1/volumes/demo/detach", None)
    });
    while !waiting.is_empty() {
        let reply = client.recv().expect("a reply");
        assert!(reply.result.is_ok(), "{reply:?}");
        waiting.retain(|cookie| *cookie != reply.cookie);
    }
    assert!(client.recv().is_err(), "it is detached");
    drop(client);
    let (status, answer) = detached.join().expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let bytes = daemon.connect("demo").read(0, 50 * BLOCK as u32).expect("a read");
    assert!(bytes.iter().all(|byte| *byte == 2), "a write that was answered is missing");
    daemon.stop();
}

#[test]
fn a_volume_grows_under_load() {
    let (_dir, daemon) = demo();
    let model = Arc::new(Mutex::new(Model::new(SIZE, false)));
    let load = Load::start(&daemon.nbd_socket(), "demo", &model, shape(), seed("grow"));
    for size in ["65M", "1G", "1T"] {
        thread::sleep(Duration::from_millis(150));
        daemon.cairn(&["volume", "resize", "demo", "--size", size, "--yes"]).ok();
    }
    assert!(load.finish() > 0, "the load did nothing: this proves nothing");
    let mut client = daemon.connect("demo");
    assert_eq!(client.info().size, 1 << 40);
    client.write((1 << 40) - BLOCK as u64, &[9; BLOCK]).expect("the new end can be written");
    for block in 0..SIZE / MIB {
        let bytes = client.read(block * MIB, MIB as u32).expect("a read");
        let held = each_block(block * MIB, &bytes, |index, block| lock(&model).current(index, block));
        held.unwrap_or_else(|e| panic!("{e}"));
    }
    drop(client);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}
