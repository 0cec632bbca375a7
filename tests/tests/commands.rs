//! The command line and the API as scripts use them: what is allowed works, what is not says why.

use std::process::Command;

use cairn_tests::control::{number, request};
use cairn_tests::daemon::{Daemon, Launch, POOL_FILE};
use cairn_tests::data::BLOCK;
use cairn_tests::program::{binary, run, run_command};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn demo() -> (TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "64M").start();
    (dir, daemon)
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list[field].as_array().unwrap_or_else(|| panic!("no list `{field}` in {list}"));
    items.iter().filter_map(|item| item["name"].as_str()).map(str::to_owned).collect()
}

#[test]
fn names_of_128_characters_are_taken_and_of_129_refused() {
    let (_dir, daemon) = demo();
    let longest = "n".repeat(128);
    daemon.cairn(&["volume", "create", &longest, "--size", "1M"]).ok();
    daemon.cairn(&["snapshot", "create", &longest, &longest]).ok();
    assert_eq!(daemon.connect(&format!("{longest}@{longest}")).info().size, MIB);
    let too_long = "n".repeat(129);
    for name in [too_long.as_str(), "", ".", "-x", "a b", "a/b", "a@b", "ä", "a\nb"] {
        daemon.cairn(&["volume", "create", "--size", "1M", "--", name]).refused();
        daemon.cairn(&["snapshot", "create", "--", "demo", name]).refused();
    }
    let mut expected = vec!["demo".to_owned(), longest];
    expected.sort();
    assert_eq!(names(&daemon.cairn_json(&["volume", "list"]), "volumes"), expected);
    daemon.stop();
}

#[test]
fn names_in_use_are_refused_and_change_nothing() {
    let (_dir, daemon) = demo();
    daemon.connect("demo").write(0, &[1; BLOCK]).expect("a write");
    daemon.cairn(&["snapshot", "create", "demo", "s"]).ok();
    daemon.connect("demo").write(0, &[2; BLOCK]).expect("a write");
    daemon.cairn(&["snapshot", "create", "demo", "s"]).refused();
    assert_eq!(daemon.connect("demo@s").read(0, 4096).expect("a read"), [1; BLOCK]);
    daemon.cairn(&["volume", "create", "demo", "--size", "1G"]).refused();
    daemon.cairn(&["snapshot", "clone", "demo", "s", "demo"]).refused();
    assert_eq!(daemon.connect("demo").info().size, 64 * MIB);

    // The name is free again once its snapshot is gone.
    daemon.cairn(&["snapshot", "delete", "demo", "s"]).ok();
    daemon.cairn(&["snapshot", "create", "demo", "s"]).ok();
    assert_eq!(daemon.connect("demo@s").read(0, 4096).expect("a read"), [2; BLOCK]);
    daemon.stop();
}

#[test]
fn volumes_grow_at_once_and_never_shrink() {
    let (_dir, daemon) = demo();
    // Looked at by nbdinfo while it is in use.
    daemon.cairn(&["volume", "edit", "demo", "--shared", "on"]).ok();
    let mut before = daemon.connect("demo");
    before.write(64 * MIB - 4096, &[1; BLOCK]).expect("a write");
    daemon.cairn(&["volume", "resize", "demo", "--size", "32M"]).refused();
    daemon.cairn(&["volume", "resize", "demo", "--size", "0"]).refused();
    assert_eq!(daemon.connect("demo").info().size, 64 * MIB, "a refused shrink changes nothing");

    daemon.cairn(&["volume", "resize", "demo", "--size", "1G", "--yes"]).ok();
    let mut after = daemon.connect("demo");
    assert_eq!(after.info().size, 1024 * MIB);
    let size = run("nbdinfo", &["--size", &daemon.uri("demo")]).ok().stdout;
    assert_eq!(size.trim(), (1024 * MIB).to_string(), "INFO says the same");
    after.write(1000 * MIB, &[2; BLOCK]).expect("the new end can be written");
    assert_eq!(after.read(64 * MIB - 4096, 8192).expect("a read"), [[1; BLOCK], [0; BLOCK]].concat());
    assert_eq!(before.read(64 * MIB - 4096, 4096).expect("older connections go on"), [1; BLOCK]);
    drop((before, after));
    daemon.stop();
}

#[test]
fn create_at_start_is_idempotent_and_refuses_another_size() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "64M").create("two", "1G");
    let daemon = launch.start();
    daemon.connect("demo").write(0, &[1; BLOCK]).expect("a write");
    daemon.stop();
    let daemon = launch.start();
    assert_eq!(daemon.connect("demo").read(0, 4096).expect("a read"), [1; BLOCK], "it was not created anew");
    daemon.stop();
    let other = Launch::dev(dir.path()).create("demo", "65M");
    other.try_start().expect_err("another size").assert_clear();
}

/// Deleting needs a yes, a volume in use stays, and one with snapshots goes only with them.
#[test]
fn deleting_asks_and_refuses_what_is_in_use() {
    let (_dir, daemon) = demo();
    daemon.cairn(&["snapshot", "create", "demo", "s"]).ok();
    daemon.cairn(&["volume", "delete", "demo"]).refused();
    daemon.cairn(&["volume", "delete", "demo", "--yes"]).refused();
    let client = daemon.connect("demo");
    assert_eq!(daemon.cairn_json(&["volume", "show", "demo"])["status"], "in-use");
    daemon.cairn(&["volume", "delete", "demo", "--yes", "--with-snapshots"]).refused();
    client.disconnect().expect("a clean end");
    // The daemon may still be closing the connection that this client has closed.
    let deleted = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        daemon.cairn(&["volume", "delete", "demo", "--yes", "--with-snapshots"]).status.success()
    });
    assert!(deleted, "the volume is no longer in use");
    assert_eq!(names(&daemon.cairn_json(&["volume", "list"]), "volumes"), [""; 0]);
    daemon.cairn(&["volume", "show", "demo"]).refused();
    daemon.stop();
}

#[test]
fn the_api_answers_in_one_error_shape() {
    let (_dir, daemon) = demo();
    let socket = daemon.control_socket();
    let code = |method: &str, path: &str, body: Option<Value>| {
        let (status, answer) = request(&socket, method, path, body.as_ref());
        let error = &answer["error"];
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
        (status, error["code"].as_str().expect("a code").to_owned())
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(code("GET", "/v1/volumes/nothing", None), is(404, "not-found"));
    assert_eq!(code("POST", "/v1/volumes", Some(json!({"name": "demo", "size": MIB}))), is(409, "exists"));
    assert_eq!(code("POST", "/v1/volumes/demo/resize", Some(json!({"size": MIB}))), is(409, "shrink"));
    assert_eq!(code("POST", "/v1/volumes", Some(json!({"name": "x", "sise": 1}))), is(400, "bad-request"));
    assert_eq!(code("GET", "/v1/nothing", None), is(404, "no-such-route"));
    assert_eq!(code("DELETE", "/v1/pool", None), is(405, "method-not-allowed"));
    daemon.stop();
}

#[test]
fn pool_status_adds_up_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "64M");
    let daemon = launch.start();
    daemon.connect("demo").write(0, &vec![1; MIB as usize]).expect("a write");
    daemon.cairn(&["snapshot", "create", "demo", "s"]).ok();
    let status = daemon.cairn_json(&["pool", "status"]);
    assert_eq!((number(&status, "volumes"), number(&status, "snapshots")), (1, 1));
    assert!(number(&status, "used") >= MIB, "{status}");
    assert!(number(&status, "free") <= number(&status, "limit"), "{status}");
    let path = status["path"].as_str().expect("a path");
    assert!(path.ends_with(POOL_FILE), "{path}");
    let id = status["id"].clone();
    daemon.stop();
    let daemon = launch.start();
    let again = daemon.cairn_json(&["pool", "status"]);
    assert_eq!((number(&again, "volumes"), number(&again, "snapshots")), (1, 1));
    assert_eq!(again["id"], id, "the same pool");
    daemon.stop();
}

/// A daemon with a configuration file, on TCP.
#[test]
fn a_configured_daemon_serves_over_tcp() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch =
        Launch::config_with(dir.path(), &dir.path().join(POOL_FILE), "1G", "tcp = [\"127.0.0.1:0\"]");
    let daemon = launch.start();
    daemon.cairn(&["volume", "create", "demo", "--size", "64M"]).ok();
    let info = daemon.get("/v1/info");
    let tcp = info["nbd"].as_array().expect("a list of endpoints").iter().find_map(|e| e["tcp"].as_str());
    let address = tcp.unwrap_or_else(|| panic!("no TCP endpoint in {info}"));
    assert!(
        !address.ends_with(":0"),
        "the address that was bound, not the one that was asked for: {address}"
    );
    let size = run("nbdinfo", &["--size", &format!("nbd://{address}/demo")]).ok().stdout;
    assert_eq!(size.trim(), (64 * MIB).to_string());
    daemon.stop();
}

#[test]
fn a_daemon_that_is_not_there_is_a_clear_error() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(binary("cairn"));
    command.arg("--dev").arg(dir.path()).args(["volume", "list"]);
    let outcome = run_command(command).refused();
    assert!(outcome.stderr.contains("control.sock"), "it names the socket: {outcome}");
}

/// Waits until what the daemon printed, as far as the harness has read it, holds this text.
fn wait_until_said(daemon: &Daemon, text: &str) -> String {
    let started = std::time::Instant::now();
    loop {
        let said = daemon.said();
        if said.contains(text) || started.elapsed().as_secs() >= 5 {
            return said;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// What the daemon prints when it is ready is meant to be pasted: its lines that run `cairn` do run.
#[test]
fn what_the_daemon_prints_next_can_be_pasted() {
    let (_dir, daemon) = demo();
    let said = wait_until_said(&daemon, "snapshot create");
    let pasted: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| line.contains("cairn") && line.contains("snapshot create"))
        .collect();
    assert!(!pasted.is_empty(), "no snapshot command in: {said}");
    let folder = binary("cairn").parent().expect("a binary is in a folder").to_owned();
    for line in pasted {
        let mut shell = Command::new("sh");
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        shell.args(["-c", line]).env("PATH", path);
        run_command(shell).ok();
    }
    assert!(said.contains("nbdcopy") && said.contains("nbd-client"), "what to type next: {said}");
    daemon.stop();
}
