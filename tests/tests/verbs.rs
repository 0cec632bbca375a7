//! kill -9 in the middle of every verb of the control API: afterwards it is done or it is not, all of it, and done if the
//! daemon had answered.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cairn_tests::control::{assert_pool_clean, request};
use cairn_tests::daemon::{Daemon, Launch, memory_of};
use cairn_tests::data::{Rng, seed};
use cairn_tests::fixtures::copy_sparse;
use cairn_tests::program::{full, number_from_env};
use serde_json::{Value, json};

/// What differs from one run to the next, or says how things are, not what was asked for.
const PASSING: [&str; 12] = [
    "created",
    "since",
    "deleted",
    "expires",
    "mapped",
    "time",
    "stats",
    "attachments",
    "status",
    "fill",
    "last_scrub",
    "checksum_errors",
];

/// What is there before each verb.
fn setup() -> Vec<(&'static str, &'static str, Value)> {
    let volume = |name: &str| json!({"name": name, "size": 1 << 20, "project": "p", "tags": {"a": "1"}});
    vec![
        ("PATCH", "/v1/recycle-bin", json!({"keep_seconds": 3600})),
        ("POST", "/v1/qos", json!({"name": "slow", "rule": {"total_iops_sec": 100}})),
        ("POST", "/v1/types", json!({"name": "fast", "description": "x"})),
        ("POST", "/v1/types", json!({"name": "unused"})),
        ("POST", "/v1/volumes", volume("a")),
        ("POST", "/v1/volumes", volume("b")),
        ("POST", "/v1/volumes", volume("c")),
        ("POST", "/v1/volumes", volume("gone")),
        ("POST", "/v1/volumes/a/snapshots", json!({"name": "s"})),
        ("POST", "/v1/volumes/a/snapshots", json!({"name": "held"})),
        ("POST", "/v1/volumes/a/snapshots/held/holds", json!({"name": "law", "reason": "x"})),
        ("POST", "/v1/volumes/gone/snapshots", json!({"name": "s"})),
        ("POST", "/v1/volumes/b/snapshots", json!({"name": "s"})),
        ("DELETE", "/v1/volumes/gone?snapshots=true", Value::Null),
        ("POST", "/v1/images", json!({"name": "golden", "volume": "a", "snapshot": "s"})),
    ]
}

/// Every verb that changes something at once. What begins something longer has tests of its own.
fn verbs() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        (
            "POST",
            "/v1/volumes",
            json!({"name": "new", "size": 4096, "type": "fast", "tags": {"k": "v"}, "client_token": "t"}),
        ),
        ("POST", "/v1/volumes", json!({"name": "copy", "source": {"volume": "a", "snapshot": "s"}})),
        ("POST", "/v1/volumes", json!({"name": "imaged", "image": "golden"})),
        ("POST", "/v1/volumes/a/snapshots/s/clone", json!({"name": "clone"})),
        (
            "PATCH",
            "/v1/volumes/a",
            json!({"name": "renamed", "description": "d", "project": "q", "tags": {"a": null, "b": "2"}, "shared": true}),
        ),
        ("PATCH", "/v1/volumes/a", json!({"write_protected": true, "bootable": true})),
        ("POST", "/v1/volumes/a/resize", json!({"size": 2 << 20})),
        ("POST", "/v1/volumes/a/retype", json!({"type": "fast"})),
        ("POST", "/v1/volumes/a/reset-status", json!({"status": "maintenance", "reason": "r"})),
        ("PATCH", "/v1/volumes/a/qos", json!({"set": {"read_bytes_sec": 1 << 20}})),
        ("DELETE", "/v1/volumes/c", Value::Null),
        ("DELETE", "/v1/volumes/b?snapshots=true", Value::Null),
        ("DELETE", "/v1/volumes/b?keep_snapshots=true", Value::Null),
        ("POST", "/v1/volumes/a/snapshots", json!({"name": "t", "description": "d", "tags": {"k": "v"}})),
        (
            "POST",
            "/v1/snapshots",
            json!({"members": [{"volume": "a", "name": "g"}, {"volume": "b", "name": "g"}]}),
        ),
        ("PATCH", "/v1/volumes/a/snapshots/s", json!({"name": "u", "description": "d", "tags": {"k": "v"}})),
        ("POST", "/v1/volumes/a/snapshots/s/reset-status", json!({"status": "error", "reason": "r"})),
        ("POST", "/v1/volumes/a/snapshots/s/holds", json!({"name": "h"})),
        ("DELETE", "/v1/volumes/a/snapshots/held/holds/law", Value::Null),
        ("DELETE", "/v1/volumes/a/snapshots/s", Value::Null),
        ("POST", "/v1/volumes/a/snapshots/s/rollback", json!({})),
        ("POST", "/v1/recycle-bin/{gone}/recover", json!({"name": "back"})),
        ("DELETE", "/v1/recycle-bin/{gone}", Value::Null),
        ("PATCH", "/v1/recycle-bin", json!({"keep_seconds": 7200})),
        ("POST", "/v1/images", json!({"name": "more", "volume": "b"})),
        ("PATCH", "/v1/images/golden", json!({"name": "silver", "description": "d", "protected": true})),
        ("DELETE", "/v1/images/golden", Value::Null),
        ("POST", "/v1/types", json!({"name": "big", "specs": {"k": "v"}, "qos": "slow"})),
        ("PATCH", "/v1/types/fast", json!({"description": "y", "qos": "slow"})),
        ("DELETE", "/v1/types/unused", Value::Null),
        ("POST", "/v1/qos", json!({"name": "fast", "rule": {"read_iops_sec": 7}})),
        ("PATCH", "/v1/qos/slow", json!({"set": {"total_iops_sec": 50}})),
        ("DELETE", "/v1/qos/slow", Value::Null),
        ("POST", "/v1/pools", json!({"name": "bulk", "path": "{bulk}", "limit": 1 << 30})),
        ("POST", "/v1/pools/main/grow", json!({"limit": 2u64 << 30})),
    ]
}

/// A daemon with what [`setup`] made, as often as it is wanted.
struct Stage {
    dir: tempfile::TempDir,
    launch: Launch,
    saved: PathBuf,
    gone: String,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let launch = Launch::config(dir.path(), &dir.path().join("pool"), "1G");
        let daemon = launch.start();
        for (method, path, body) in setup() {
            let (status, answer) = request(&daemon.control_socket(), method, path, some(&body).as_ref());
            assert!(status < 300, "{method} {path}: {status} {answer}");
        }
        let bin = daemon.get("/v1/recycle-bin");
        let gone = bin["volumes"][0]["id"].as_str().expect("an id").to_owned();
        daemon.stop();
        let saved = dir.path().join("saved");
        copy_sparse(&dir.path().join("pool"), &saved);
        Stage { dir, launch, saved, gone }
    }

    fn bulk(&self) -> PathBuf {
        self.dir.path().join("bulk")
    }

    /// As after [`setup`].
    fn start(&self) -> Daemon {
        for file in [self.dir.path().join("pool"), self.bulk()] {
            if let Some(memory) = memory_of(&file) {
                let _ = fs::remove_file(memory);
            }
            let _ = fs::remove_file(file);
        }
        copy_sparse(&self.saved, &self.dir.path().join("pool"));
        self.launch.start()
    }

    /// A request as it is sent.
    fn filled(&self, path: &str, body: &Value) -> (String, Option<Value>) {
        let bulk = self.bulk().display().to_string();
        let text = body.to_string().replace("{bulk}", &bulk);
        let body = serde_json::from_str(&text).expect("JSON");
        (path.replace("{gone}", &self.gone), some(&body))
    }
}

fn some(body: &Value) -> Option<Value> {
    (!body.is_null()).then(|| body.clone())
}

/// All that users see and have asked for.
fn state(daemon: &Daemon) -> BTreeMap<String, Value> {
    let mut state = BTreeMap::new();
    let lists = ["volumes", "snapshots", "images", "types", "qos", "recycle-bin", "pools"];
    for list in lists {
        state.insert(list.to_owned(), stripped(daemon.get(&format!("/v1/{list}"))));
    }
    let volumes = state["volumes"]["volumes"].as_array().expect("a list").clone();
    for volume in volumes {
        let name = volume["name"].as_str().expect("a name");
        state.insert(format!("qos of {name}"), stripped(daemon.get(&format!("/v1/volumes/{name}/qos"))));
    }
    state
}

/// Without what passes, and without names that are drawn by lot.
fn stripped(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            if let (Some(name), Some(path)) = (fields.get("name"), fields.get("path")) {
                // Of a pool's figures what was asked for.
                return json!({"name": name, "path": path, "limit": fields["status"]["limit"], "error": fields["error"]});
            }
            // A status passes, but for one.
            let stays = |key: &str, value: &Value| !PASSING.contains(&key) || *value == "snapshots-only";
            let kept = fields.into_iter().filter(|(key, value)| stays(key, value));
            let mut kept: serde_json::Map<_, _> = kept.map(|(key, value)| (key, stripped(value))).collect();
            if kept.get("id").is_some_and(Value::is_string) {
                kept.remove("id");
            }
            Value::Object(kept)
        }
        Value::Array(values) => Value::Array(values.into_iter().map(stripped).collect()),
        Value::String(text) if text.starts_with("before-") => Value::String("before-...".to_owned()),
        other => other,
    }
}

/// Sends a request, kills the daemon after `delay`, and tells whether it had answered that it is done.
fn cut(daemon: Daemon, method: &str, path: &str, body: Option<&Value>, delay: Duration) -> bool {
    let body = body.map_or_else(String::new, Value::to_string);
    let text =
        format!("{method} {path} HTTP/1.1\r\nHost: cairn\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = UnixStream::connect(daemon.control_socket()).expect("connects");
    stream.write_all(text.as_bytes()).expect("is taken");
    let until = Instant::now() + delay;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    daemon.kill_9();
    let mut answer = Vec::new();
    // What was answered before it died is there; what comes then is its end.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    !answer.is_empty()
}

#[test]
fn every_verb_is_done_or_not_done_and_done_once_it_is_answered() {
    let cuts = number_from_env("CAIRN_TEST_CUTS", if full() { 40 } else { 2 });
    let mut rng = Rng::new(seed("verbs"));
    let stage = Stage::new();
    let (mut done, mut undone, mut answered) = (0, 0, 0);
    for (method, path, body) in verbs() {
        let (path, body) = stage.filled(path, &body);
        let daemon = stage.start();
        let before = state(&daemon);
        let begun = Instant::now();
        let (status, answer) = request(&daemon.control_socket(), method, &path, body.as_ref());
        let took = begun.elapsed();
        assert!(status < 300, "{method} {path}: {status} {answer}");
        let after = state(&daemon);
        assert_ne!(before, after, "{method} {path} changes something");
        daemon.kill_9();
        let daemon = stage.launch.start();
        assert_eq!(state(&daemon), after, "{method} {path} was answered, and is not as it was");
        daemon.kill_9();
        for _ in 0..cuts {
            let daemon = stage.start();
            let delay = Duration::from_nanos(rng.below(took.as_nanos() as u64 * 3 / 2));
            let said = cut(daemon, method, &path, body.as_ref(), delay);
            let daemon = stage.launch.start();
            let found = state(&daemon);
            assert!(
                found == after || (found == before && !said),
                "{method} {path}, killed after {delay:?}, answered {said}:\n{}",
                differences(&found, &before, &after)
            );
            assert_pool_clean(&daemon);
            daemon.kill_9();
            done += u64::from(found == after);
            undone += u64::from(found == before);
            answered += u64::from(said);
        }
    }
    println!("{done} done, {answered} of them answered; {undone} not done");
    assert!(done > answered && undone > 0, "no kill was in the middle: this proves nothing");
}

/// The lists in which what is found is neither one nor the other.
fn differences(
    found: &BTreeMap<String, Value>,
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
) -> String {
    let mut text = String::new();
    for (list, found) in found {
        let (before, after) = (before.get(list), after.get(list));
        if Some(found) != before || Some(found) != after {
            text += &format!("{list}: {found}\n  before: {before:?}\n  after: {after:?}\n");
        }
    }
    text
}
