//! The control socket from outside: every route, and every way in which a request can be wrong.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_api::attachment::Consumer;
use cairn_api::error::{ErrorBody, ErrorCode};
use cairn_cow::BLOCK_SIZE;
use cairnd::control::ControlThread;
use cairnd::pools::PoolSlot;
use serde_json::{Value, json};

use crate::world::{Client, World};

pub(crate) struct Server {
    pub(crate) world: World,
    thread: Option<ControlThread>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("control.sock");
        let world = World::in_folder(folder.path());
        let thread = world.serve();
        Server { world, thread: Some(thread), socket, _folder: folder }
    }

    /// With a volume `demo` of 1 GiB that has the snapshots `s1` and `s2`.
    pub(crate) fn with_demo() -> Server {
        let server = Server::start();
        server.ok("POST", "/v1/volumes", json!({"name": "demo", "size": 1u64 << 30}), 201);
        for name in ["s1", "s2"] {
            server.ok("POST", "/v1/volumes/demo/snapshots", json!({"name": name}), 201);
        }
        server
    }

    /// Connects somebody, who goes as soon as asked to.
    fn connect(&self, export: &str) -> Arc<Client> {
        self.world.client(export, 4711, 0).expect("is let in")
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: cairn\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        exchange(&self.socket, &[head.as_bytes(), body.as_bytes()].concat())
    }

    pub(crate) fn ok(&self, method: &str, path: &str, body: Value, expected: u16) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = self.call(method, path, &body);
        assert_eq!(status, expected, "{method} {path}: {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") }
    }

    /// Checks a pool, and waits for what that finds.
    fn check(&self, path: &str) -> Value {
        let begun = self.ok("POST", path, Value::Null, 202);
        let id = begun["id"].as_str().expect("an id");
        let job = serde_json::to_value(self.world.ended(id)).expect("JSON");
        let shown = self.ok("GET", &format!("/v1/jobs/{id}"), Value::Null, 200);
        assert_eq!((&shown["state"], &shown["result"]), (&json!("done"), &job["result"]));
        shown["result"]["check"].clone()
    }

    fn error(&self, method: &str, path: &str, body: &str) -> (u16, ErrorBody) {
        let (status, text) = self.call(method, path, body);
        let parsed = serde_json::from_str(&text);
        (status, parsed.unwrap_or_else(|e| panic!("{method} {path}: {e} in {text:?}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}

/// Sends raw bytes, returns the answer's status and body.
fn exchange(socket: &Path, request: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("connects");
    stream.write_all(request).expect("sends");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("receives");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let expected = match request.starts_with(b"GET /v1/metrics ") {
        true => "content-type: text/plain; version=0.0.4",
        false => "content-type: application/json",
    };
    assert!(body.is_empty() || head.to_ascii_lowercase().contains(expected), "{head}");
    (status, body.to_owned())
}

#[test]
fn volumes_live_and_die() {
    let server = Server::start();
    assert_eq!(server.ok("GET", "/v1/volumes", Value::Null, 200), json!({"volumes": []}));
    let made = server.ok(
        "POST",
        "/v1/volumes",
        json!({"name": "demo", "size": 1u64 << 30, "description": "first"}),
        201,
    );
    let (id, created) = (made["id"].as_u64().expect("a number"), made["created"].clone());
    assert_eq!(
        made,
        json!({
            "name": "demo", "id": id, "size": 1u64 << 30, "mapped": 0, "created": created,
            "description": "first", "origin": null, "image": null, "backup": null, "snapshots": 0, "status": "available", "connections": 0,
            "attachments": [], "shared": false, "bootable": false, "write_protected": false, "project": "default",
            "tags": {}, "type": "default", "pool": "main", "checksum_errors": 0,
        })
    );
    assert_eq!(server.ok("GET", "/v1/volumes/demo", Value::Null, 200), made);
    assert_eq!(server.ok("GET", "/v1/volumes", Value::Null, 200), json!({"volumes": [made]}));
    let grown = server.ok("POST", "/v1/volumes/demo/resize", json!({"size": 2u64 << 30}), 200);
    assert_eq!(grown["size"], 2u64 << 30);
    let clients = [server.connect("demo"), server.connect("demo")];
    let used = server.ok("GET", "/v1/volumes/demo", Value::Null, 200);
    assert_eq!((&used["status"], &used["connections"]), (&json!("in-use"), &json!(2)));
    let (status, body) = server.error("DELETE", "/v1/volumes/demo", "");
    assert_eq!((status, body.error.code), (409, ErrorCode::Busy));
    clients.iter().for_each(|client| World::leave(client));
    server.ok("DELETE", "/v1/volumes/demo", Value::Null, 204);
    let (status, body) = server.error("GET", "/v1/volumes/demo", "");
    assert_eq!((status, body.error.code), (404, ErrorCode::NotFound));
}

#[test]
fn snapshots_clone_roll_back_and_go() {
    let server = Server::with_demo();
    let snap = server.ok("GET", "/v1/volumes/demo/snapshots/s1", Value::Null, 200);
    assert_eq!(
        (&snap["volume"], &snap["name"], &snap["children"]),
        (&json!("demo"), &json!("s1"), &json!(1))
    );
    let list = server.ok("GET", "/v1/volumes/demo/snapshots", Value::Null, 200);
    let names: Vec<_> = list["snapshots"].as_array().expect("a list").iter().map(|s| &s["name"]).collect();
    assert_eq!(names, ["s1", "s2"]);

    let clone = server.ok("POST", "/v1/volumes/demo/snapshots/s1/clone", json!({"name": "c1"}), 201);
    assert_eq!(clone["origin"], json!({"volume": "demo", "snapshot": "s1"}));
    assert_eq!(clone["size"], 1u64 << 30, "a clone has its snapshot's size unless told otherwise");
    let source = json!({"volume": "demo", "snapshot": "s2"});
    let other =
        server.ok("POST", "/v1/volumes", json!({"name": "c2", "source": source, "size": 3u64 << 30}), 201);
    assert_eq!((&other["origin"], &other["size"]), (&source, &json!(3u64 << 30)));

    let tree = server.ok("GET", "/v1/volumes/demo/tree", Value::Null, 200);
    assert_eq!(tree["volume"], "demo");
    let nodes = tree["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 5);
    assert_eq!(nodes[0]["kind"], "snapshot");
    assert_eq!(nodes[0]["name"], "s1");
    assert!(
        nodes.iter().any(|n| n["kind"] == "head" && n["volume"] == "c1" && n["parent"] == nodes[0]["id"])
    );

    // Without a body, with an empty one, and refused while somebody is connected.
    let rolled = server.ok("POST", "/v1/volumes/demo/snapshots/s1/rollback", Value::Null, 200);
    assert_eq!((&rolled["volume"]["name"], &rolled["undo"]["automatic"]), (&json!("demo"), &json!(true)));
    let client = server.connect("demo");
    assert_eq!(server.error("POST", "/v1/volumes/demo/snapshots/s2/rollback", "{}").0, 409);
    server.ok("POST", "/v1/volumes/demo/snapshots/s2/rollback", json!({"force": true}), 200);
    World::leave(&client);

    let (status, body) = server.error("DELETE", "/v1/volumes/demo", "");
    assert_eq!((status, body.error.code), (409, ErrorCode::HasSnapshots));
    server.ok("DELETE", "/v1/volumes/demo/snapshots/s1", Value::Null, 204);
    server.ok("DELETE", "/v1/volumes/demo?snapshots=true", Value::Null, 204);
    let left = server.ok("GET", "/v1/volumes", Value::Null, 200);
    assert_eq!(left["volumes"].as_array().map(Vec::len), Some(2), "clones live on");
}

#[test]
fn groups_are_all_or_none() {
    let server = Server::with_demo();
    server.ok("POST", "/v1/volumes", json!({"name": "b", "size": 4096}), 201);
    let members = json!([{"volume": "demo", "name": "g"}, {"volume": "b", "name": "g"}]);
    let made = server.ok("POST", "/v1/snapshots", json!({"members": members, "description": "both"}), 201);
    let volumes: Vec<_> =
        made["snapshots"].as_array().expect("a list").iter().map(|s| &s["volume"]).collect();
    assert_eq!(volumes, ["demo", "b"], "in the request's order");
    let missing = json!({"members": [{"volume": "b", "name": "h"}, {"volume": "no", "name": "h"}]});
    assert_eq!(server.error("POST", "/v1/snapshots", &missing.to_string()).0, 404);
    let all = server.ok("GET", "/v1/snapshots", Value::Null, 200);
    assert_eq!(all["snapshots"].as_array().map(Vec::len), Some(4));
    let of_b = server.ok("GET", "/v1/snapshots?volume=b", Value::Null, 200);
    assert_eq!(of_b["snapshots"].as_array().map(Vec::len), Some(1));
}

#[test]
fn differences_come_from_where_they_are_asked_for() {
    let server = Server::with_demo();
    for block in [0, 2, 4] {
        server.world.write("demo", block, 1);
    }
    server.ok("POST", "/v1/volumes/demo/snapshots", json!({"name": "s3"}), 201);
    let extent = |block| json!({"offset": block * BLOCK_SIZE, "len": BLOCK_SIZE, "kind": "data"});
    let all = server.ok("GET", "/v1/volumes/demo/snapshots/s1/diff?to=s3", Value::Null, 200);
    assert_eq!(
        all,
        json!({
            "volume": "demo", "from": "s1", "to": "s3", "changed": 3 * BLOCK_SIZE, "next": null,
            "extents": [extent(0), extent(2), extent(4)],
        })
    );
    let rest = server.ok("GET", "/v1/volumes/demo/snapshots/s1/diff?offset=16384", Value::Null, 200);
    assert_eq!((&rest["to"], &rest["next"]), (&Value::Null, &Value::Null));
    assert_eq!(rest["extents"], json!([extent(4)]));
}

#[test]
fn the_pool_and_the_daemon_show_themselves() {
    let server = Server::with_demo();
    let pool = server.ok("GET", "/v1/pool", Value::Null, 200);
    assert_eq!((&pool["volumes"], &pool["snapshots"], &pool["fenced"]), (&json!(1), &json!(2), &Value::Null));
    let quick = server.check("/v1/pool/check");
    assert_eq!((&quick["clean"], &quick["data_verified"]), (&json!(true), &json!(0)));
    let full = server.check("/v1/pool/check?data=true");
    assert_eq!(full["data_verified"], full["data_blocks"]);
    server.world.write("demo", 7, 0x5a);
    server.world.damage(0x5a);
    let dirty = server.check("/v1/pool/check?data=true");
    assert_eq!((&dirty["clean"], &dirty["lost_bytes"]), (&json!(false), &json!(BLOCK_SIZE)));
    assert_eq!(
        dirty["losses"],
        json!([{"volume": "demo", "snapshot": null, "offset": 7 * BLOCK_SIZE, "len": BLOCK_SIZE, "kind": "data"}])
    );
    assert_eq!(server.ok("GET", "/v1/pool/scrub", Value::Null, 200)["state"], "none");
    let scrub = server.ok("POST", "/v1/pools/main/scrub", json!({ "rate": 1 }), 200);
    assert_eq!(
        (&scrub["state"], &scrub["rate"], &scrub["pool"]),
        (&json!("running"), &json!(1), &json!("main"))
    );
    let (status, body) = server.call("POST", "/v1/pool/scrub", "");
    assert!(status == 409 && body.contains("busy"), "{status} {body}");
    assert_eq!(server.ok("DELETE", "/v1/pool/scrub", Value::Null, 200)["state"], "stopped");
    let info = server.ok("GET", "/v1/info", Value::Null, 200);
    assert_eq!(info["pid"], 1);
    let nbd = server.socket.with_file_name("nbd.sock");
    assert_eq!((&info["control"], &info["nbd"]), (&json!(server.socket), &json!([{"unix": nbd}])));
}

#[test]
fn volumes_are_edited() {
    let server = Server::with_demo();
    let edited = server.ok("PATCH", "/v1/volumes/demo", json!({"description": "d", "shared": true}), 200);
    assert_eq!((&edited["description"], &edited["shared"]), (&json!("d"), &json!(true)));
    let renamed = server.ok("PATCH", "/v1/volumes/demo", json!({"name": "web"}), 200);
    assert_eq!(
        (&renamed["name"], &renamed["description"], &renamed["snapshots"]),
        (&json!("web"), &json!("d"), &json!(2)),
        "what is left out stays"
    );
    server.ok("GET", "/v1/volumes/web/snapshots/s1", Value::Null, 200);
    assert_eq!(server.error("GET", "/v1/volumes/demo", "").0, 404);
    let _client = server.connect("web");
    let (status, body) = server.error("PATCH", "/v1/volumes/web", "{\"name\":\"demo\"}");
    assert_eq!((status, body.error.code), (409, ErrorCode::Busy));
}

#[test]
fn lists_are_asked_for_by_a_query() {
    let server = Server::with_demo();
    let tags = json!({"env": "a&b", "team": ""});
    server.ok("POST", "/v1/volumes", json!({"name": "other", "size": 4096, "tags": tags}), 201);
    let names = |query: &str| {
        let list = server.ok("GET", &format!("/v1/volumes{query}"), Value::Null, 200);
        let all = list["volumes"].as_array().expect("a list").iter();
        let names: Vec<_> = all.map(|volume| volume["name"].as_str().expect("a name").to_owned()).collect();
        (names.join(" "), list["next"].clone())
    };
    assert_eq!(names(""), ("demo other".into(), Value::Null));
    assert_eq!(names("?sort=-name&limit=1"), ("other".into(), json!("other")));
    assert_eq!(names("?sort=-name&limit=1&after=other"), ("demo".into(), Value::Null));
    assert_eq!(names("?tag=team&tag=env%3Da%26b&bootable=false&status=available").0, "other");
    assert_eq!(names("?tag=team&tag=env").0, "other");
    assert_eq!(names("?tag=team&tag=env%3Da").0, "");
    assert_eq!(names("?type=default&pool=main&project=default&search=OTH&shared=false").0, "other");
    let of = |query: &str| {
        server.ok("GET", &format!("/v1/snapshots{query}"), Value::Null, 200)["snapshots"].clone()
    };
    assert_eq!(of("?volume=demo&sort=-created&limit=1")[0]["name"], "s2");
    assert_eq!(of("?automatic=true"), json!([]));
    let fields = json!({"tags": {"release": "13"}});
    server.ok("POST", "/v1/images", json!({"name": "i", "volume": "demo", "fields": fields}), 201);
    let images = |query: &str| {
        server.ok("GET", &format!("/v1/images{query}"), Value::Null, 200)["images"].as_array().map(Vec::len)
    };
    assert_eq!(images("?tag=release&tag=release%3D13&status=available&sort=-size&limit=1"), Some(1));
    assert_eq!(images("?tag=release%3D12"), Some(0));
    for (query, part) in [
        ("?sort=colour", "nothing to sort by"),
        ("?limit=0", "at least 1"),
        ("?limit=many", "query"),
        ("?status=idle", "query"),
        ("?name=demo", "unknown field `name`"),
        ("?limit=1&limit=2", "duplicate field"),
        ("?after=nobody", "no 'nobody' in this list"),
        ("?tag=a%20b", "no key of a tag"),
        ("?search=a%00", "one line of text"),
        ("?pool=a%20b", "contains ' '"),
    ] {
        let (status, body) = server.error("GET", &format!("/v1/volumes{query}"), "");
        assert!(
            status == if query.starts_with("?after") { 409 } else { 400 }
                && body.error.message.contains(part),
            "{query}: {body:?}"
        );
    }
}

#[test]
fn what_happens_is_told_to_who_asks_and_who_listens() {
    let server = Server::with_demo();
    let kinds = |list: &Value| {
        let events = list["events"].as_array().expect("a list").iter();
        events.map(|event| event["kind"].as_str().expect("a word").to_owned()).collect::<Vec<_>>()
    };
    let list = server.ok("GET", "/v1/events", Value::Null, 200);
    assert_eq!(kinds(&list), ["volume.created", "snapshot.created", "snapshot.created"]);
    assert_eq!(list["events"][2]["volume"], "demo");
    assert_eq!(
        (&list["events"][2]["snapshot"], &list["events"][2]["severity"]),
        (&json!("s2"), &json!("info"))
    );
    assert_eq!(
        kinds(&server.ok("GET", "/v1/events?kind=volume&limit=5", Value::Null, 200)),
        ["volume.created"]
    );
    let after = format!("/v1/events?after={}", list["last"]);
    assert_eq!(kinds(&server.ok("GET", &after, Value::Null, 200)), [""; 0]);

    let mut stream = UnixStream::connect(&server.socket).expect("connects");
    let first = list["events"][0]["id"].as_u64().expect("a number");
    let request = format!(
        "GET /v1/events?kind=volume HTTP/1.1\r\nHost: c\r\nAccept: text/event-stream\r\nLast-Event-ID: {first}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sends");
    let mut text = String::new();
    let mut until = |part: &str| {
        let mut some = [0; 4096];
        while !text.contains(part) {
            let read = stream.read(&mut some).expect("receives");
            assert!(read > 0, "the stream has ended: {text}");
            text.push_str(std::str::from_utf8(&some[..read]).expect("text"));
        }
        text.clone()
    };
    until("content-type: text/event-stream");
    let client = server.connect("demo");
    until("event: volume.attached\n");
    World::leave(&client);
    until("event: volume.detached\n");
    server.ok("DELETE", "/v1/volumes/demo?snapshots=true", Value::Null, 204);
    let text = until("event: volume.deleted\n");
    assert!(!text.contains("snapshot.created") && !text.contains("volume.created"), "{text}");
    assert!(text.contains("does not use demo any more") && text.contains("\"volume\":\"demo\""), "{text}");
    let (status, body) = server.error("GET", "/v1/events?limit=0", "");
    assert!(status == 400 && body.error.message.contains("at least 1"), "{body:?}");
}

#[test]
fn who_listens_does_not_keep_the_daemon() {
    let mut server = Server::start();
    let mut stream = UnixStream::connect(&server.socket).expect("connects");
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: c\r\nAccept: text/event-stream\r\n\r\n")
        .expect("sends");
    let mut first = [0; 15];
    stream.read_exact(&mut first).expect("answers");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let began = std::time::Instant::now();
    server.thread.take().expect("runs").stop();
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "it was not waited for");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the stream ends");
}

#[test]
fn attachments_come_and_go() {
    let server = Server::with_demo();
    let none = json!({"attachments": []});
    assert_eq!(server.ok("GET", "/v1/volumes/demo/attachments", Value::Null, 200), none);
    let kernel = server.ok("POST", "/v1/volumes/demo/attach", Value::Null, 201);
    assert_eq!(kernel["consumer"], json!({"kind": "kernel", "device": "/dev/nbd0"}));
    assert_eq!((&kernel["export"], &kernel["connections"]), (&json!("demo"), &json!(1)));
    assert_eq!(server.error("POST", "/v1/volumes/demo/attach", "").0, 409, "it is not shared");
    let asked = json!({"device": "/dev/nbd5", "connections": 4, "snapshot": "s1"});
    let snapshot = server.ok("POST", "/v1/volumes/demo/attach", asked, 201);
    assert_eq!((&snapshot["export"], &snapshot["connections"]), (&json!("demo@s1"), &json!(4)));
    assert_eq!(snapshot["consumer"]["device"], "/dev/nbd5");
    let host = Consumer::Host { address: "192.0.2.7".into() };
    let _host = server.world.enter("demo@s2", &host, 0, false).expect("is let in");
    let all = server.ok("GET", "/v1/volumes/demo/attachments", Value::Null, 200);
    let exports = |list: &Value| -> Vec<String> {
        let list = list["attachments"].as_array().expect("a list");
        list.iter().map(|a| a["export"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(exports(&all), ["demo", "demo@s1", "demo@s2"]);
    assert_eq!(all["attachments"][2]["consumer"], json!({"kind": "host", "address": "192.0.2.7"}));
    let volume = server.ok("GET", "/v1/volumes/demo", Value::Null, 200);
    assert_eq!((&volume["status"], &volume["attachments"]), (&json!("in-use"), &json!([kernel])));

    let left = server.ok("POST", "/v1/volumes/demo/detach", json!({"snapshot": "s1"}), 200);
    assert_eq!(exports(&left), ["demo", "demo@s2"]);
    let left = server.ok("POST", "/v1/volumes/demo/detach", Value::Null, 200);
    assert_eq!(exports(&left), ["demo@s2"]);
    assert_eq!(server.ok("POST", "/v1/volumes/demo/reset-attachments", Value::Null, 200), none);
}

/// A detach waits for I/O in flight, and keeps nobody else waiting meanwhile: least of all the one with `force`.
#[test]
fn a_detach_that_waits_is_in_nobodys_way() {
    let server = Server::with_demo();
    let busy = server.world.client("demo", 1, usize::MAX).expect("is let in");
    std::thread::scope(|scope| {
        let polite = scope.spawn(|| server.ok("POST", "/v1/volumes/demo/detach", Value::Null, 200));
        while !busy.was_asked() {
            std::thread::yield_now();
        }
        server.check("/v1/pool/check");
        let used = server.ok("GET", "/v1/volumes/demo", Value::Null, 200);
        assert_eq!(used["connections"], 1, "nothing is cut while it is waited for");
        assert!(!polite.is_finished(), "it waits for what is in flight");
        let cut = server.ok("POST", "/v1/volumes/demo/detach", json!({"force": true}), 200);
        assert_eq!(cut, json!({"attachments": []}));
        assert_eq!(polite.join().expect("answered"), json!({"attachments": []}));
    });
}

#[test]
fn types_and_rules_hold_for_their_volumes() {
    let server = Server::with_demo();
    let types = server.ok("GET", "/v1/types", Value::Null, 200);
    assert_eq!((&types["types"][0]["name"], &types["types"][0]["volumes"]), (&json!("default"), &json!(1)));
    let rule = json!({"total_iops_sec": 2000, "total_bytes_sec": 1u64 << 20});
    let made = server.ok("POST", "/v1/qos", json!({"name": "gold", "rule": rule}), 201);
    assert_eq!(made, json!({"name": "gold", "description": "", "rule": rule, "types": []}));
    let fast =
        json!({"name": "fast", "description": "d", "specs": {"a": "b"}, "qos": "gold", "default": true});
    let made = server.ok("POST", "/v1/types", fast, 201);
    assert_eq!(
        made,
        json!({"name": "fast", "description": "d", "specs": {"a": "b"}, "qos": "gold", "default": true, "volumes": 0})
    );
    assert_eq!(
        server.ok("GET", "/v1/types/default", Value::Null, 200)["default"],
        false,
        "there is one default"
    );
    let volume = server.ok("POST", "/v1/volumes", json!({"name": "v", "size": 4096}), 201);
    assert_eq!(volume["type"], "fast");

    let retyped = server.ok("POST", "/v1/volumes/demo/retype", json!({"type": "fast"}), 200);
    assert_eq!(retyped["type"], "fast");
    let qos = server.ok("GET", "/v1/volumes/demo/qos", Value::Null, 200);
    assert_eq!((&qos["source"], &qos["rule"], &qos["own"]), (&json!("type"), &rule, &json!({})));
    let set = json!({"set": {"total_iops_sec": 0, "read_iops_sec": 5}});
    let edited = server.ok("PATCH", "/v1/qos/gold", set, 200);
    assert_eq!(
        (&edited["rule"], &edited["types"]),
        (&json!({"read_iops_sec": 5, "total_bytes_sec": 1u64 << 20}), &json!(["fast"]))
    );
    assert_eq!(server.ok("GET", "/v1/qos/gold", Value::Null, 200), edited);
    let qos = server.ok("PATCH", "/v1/volumes/demo/qos", json!({"set": {"write_iops_sec": 7}}), 200);
    assert_eq!((&qos["source"], &qos["rule"]), (&json!("volume"), &json!({"write_iops_sec": 7})));
    assert_eq!((&qos["type"], &qos["type_rule"], &qos["waits"]), (&json!("fast"), &json!("gold"), &json!(0)));

    assert_eq!(server.error("DELETE", "/v1/qos/gold", "").0, 409, "a type points to it");
    assert_eq!(server.error("DELETE", "/v1/types/fast", "").0, 409, "volumes have it");
    let edited = server.ok("PATCH", "/v1/types/fast", json!({"qos": "", "specs": {"a": "", "c": "d"}}), 200);
    assert_eq!((&edited["qos"], &edited["specs"]), (&Value::Null, &json!({"c": "d"})));
    server.ok("DELETE", "/v1/qos/gold", Value::Null, 204);
    assert_eq!(server.ok("GET", "/v1/qos", Value::Null, 200), json!({"rules": []}));
    server.ok("PATCH", "/v1/types/default", json!({"default": true}), 200);
    for name in ["demo", "v"] {
        server.ok("POST", &format!("/v1/volumes/{name}/retype"), json!({"type": "default"}), 200);
    }
    server.ok("DELETE", "/v1/types/fast", Value::Null, 204);
    assert_eq!(server.error("GET", "/v1/types/fast", "").0, 404);
}

#[test]
fn pools_are_added_chosen_and_removed() {
    let server = Server::with_demo();
    let made =
        server.ok("POST", "/v1/pools", json!({"name": "bulk", "path": "/b", "limit": 1u64 << 30}), 201);
    assert_eq!(
        (&made["name"], &made["status"]["limit"], &made["error"]),
        (&json!("bulk"), &json!(1u64 << 30), &Value::Null)
    );
    let specs = json!({"volume_backend_name": "bulk"});
    server.ok("POST", "/v1/types", json!({"name": "slow", "specs": specs}), 201);
    let volume = server.ok("POST", "/v1/volumes", json!({"name": "v", "size": 4096, "type": "slow"}), 201);
    assert_eq!((&volume["type"], &volume["pool"]), (&json!("slow"), &json!("bulk")));
    let wrong = server.error("POST", "/v1/volumes/v/retype", "{\"type\":\"default\"}");
    assert_eq!(wrong.1.error.code, ErrorCode::Unsupported, "a type of another pool");

    let list = server.ok("GET", "/v1/pools", Value::Null, 200);
    let figures: Vec<_> = list["pools"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| (&p["name"], &p["status"]["volumes"], &p["status"]["fill"]))
        .collect();
    assert_eq!(
        figures,
        [(&json!("main"), &json!(1), &json!("ok")), (&json!("bulk"), &json!(1), &json!("ok"))]
    );
    let grown = server.ok("POST", "/v1/pools/bulk/grow", json!({"limit": 2u64 << 30}), 200);
    assert_eq!((&grown["limit"], &grown["fill"]), (&json!(2u64 << 30), &json!("ok")));
    assert_eq!(server.ok("GET", "/v1/pools/bulk", Value::Null, 200), grown);
    assert_eq!(
        server.ok("GET", "/v1/pool", Value::Null, 200),
        server.ok("GET", "/v1/pools/main", Value::Null, 200)
    );
    let checked = server.check("/v1/pools/bulk/check?data=true");
    assert_eq!((&checked["clean"], &checked["data_verified"]), (&json!(true), &json!(0)));

    assert_eq!(server.error("DELETE", "/v1/pools/bulk", "").0, 409, "it has a volume");
    server.ok("DELETE", "/v1/volumes/v", Value::Null, 204);
    server.ok("DELETE", "/v1/types/slow", Value::Null, 204);
    let (slot, _) = server.world.volumes.pools.remove("bulk").expect("the pool");
    let broken = PoolSlot::new("bulk", slot.path.clone(), Err("the disk is gone".into()));
    server.world.volumes.pools.add(broken);
    let list = server.ok("GET", "/v1/pools", Value::Null, 200);
    assert_eq!(
        list["pools"][1],
        json!({"name": "bulk", "path": "/b", "status": null, "error": "the disk is gone"})
    );
    assert_eq!(server.error("POST", "/v1/pools/bulk/check", "").1.error.code, ErrorCode::Io);
    server.ok("DELETE", "/v1/pools/bulk", Value::Null, 204);
    assert_eq!(server.error("GET", "/v1/pools/bulk", "").0, 404);
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let server = Server::with_demo();
    let document = server.ok("GET", "/v1/openapi.json", Value::Null, 200);
    assert!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")), "{}", document["openapi"]);
    let mut described = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            described.push(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].is_string(), "{method} {path} says what it does");
            // Not sent where it would change what the next one needs: only that the route answers as the API does.
            let real = path.replace("{name}", "absent").replace("{snapshot_name}", "absent");
            let (status, body) = server.call(&method.to_uppercase(), &real, "");
            if status >= 400 {
                let body: ErrorBody = serde_json::from_str(&body).expect("the error shape");
                assert_ne!(body.error.code, ErrorCode::NoSuchRoute, "{method} {path}");
                assert_ne!(body.error.code, ErrorCode::MethodNotAllowed, "{method} {path}");
            }
        }
    }
    described.sort();
    assert_eq!(
        described,
        [
            "DELETE /v1/images/{name}",
            "DELETE /v1/imports/{name}",
            "DELETE /v1/pool/scrub",
            "DELETE /v1/pools/{name}",
            "DELETE /v1/pools/{name}/scrub",
            "DELETE /v1/qos/{name}",
            "DELETE /v1/recycle-bin/{id}",
            "DELETE /v1/stagings/{id}",
            "DELETE /v1/types/{name}",
            "DELETE /v1/volumes/{name}",
            "DELETE /v1/volumes/{name}/snapshots/{snapshot_name}",
            "DELETE /v1/volumes/{name}/snapshots/{snapshot_name}/holds/{hold_name}",
            "GET /v1/events",
            "GET /v1/images",
            "GET /v1/images/{name}",
            "GET /v1/info",
            "GET /v1/jobs",
            "GET /v1/jobs/{id}",
            "GET /v1/metrics",
            "GET /v1/pool",
            "GET /v1/pool/scrub",
            "GET /v1/pools",
            "GET /v1/pools/{name}",
            "GET /v1/pools/{name}/scrub",
            "GET /v1/qos",
            "GET /v1/qos/{name}",
            "GET /v1/recycle-bin",
            "GET /v1/snapshots",
            "GET /v1/stats",
            "GET /v1/types",
            "GET /v1/types/{name}",
            "GET /v1/volumes",
            "GET /v1/volumes/{name}",
            "GET /v1/volumes/{name}/attachments",
            "GET /v1/volumes/{name}/qos",
            "GET /v1/volumes/{name}/snapshots",
            "GET /v1/volumes/{name}/snapshots/{snapshot_name}",
            "GET /v1/volumes/{name}/snapshots/{snapshot_name}/diff",
            "GET /v1/volumes/{name}/tree",
            "GET /v1/whoami",
            "PATCH /v1/images/{name}",
            "PATCH /v1/qos/{name}",
            "PATCH /v1/recycle-bin",
            "PATCH /v1/types/{name}",
            "PATCH /v1/volumes/{name}",
            "PATCH /v1/volumes/{name}/qos",
            "PATCH /v1/volumes/{name}/snapshots/{snapshot_name}",
            "POST /v1/images",
            "POST /v1/imports",
            "POST /v1/imports/{name}/complete",
            "POST /v1/imports/{name}/grow",
            "POST /v1/jobs/{id}/cancel",
            "POST /v1/pool/check",
            "POST /v1/pool/scrub",
            "POST /v1/pools",
            "POST /v1/pools/{name}/check",
            "POST /v1/pools/{name}/grow",
            "POST /v1/pools/{name}/scrub",
            "POST /v1/qos",
            "POST /v1/recycle-bin/{id}/recover",
            "POST /v1/restores",
            "POST /v1/snapshots",
            "POST /v1/stagings",
            "POST /v1/stagings/{id}/complete",
            "POST /v1/types",
            "POST /v1/volumes",
            "POST /v1/volumes/{name}/attach",
            "POST /v1/volumes/{name}/detach",
            "POST /v1/volumes/{name}/passing-snapshot",
            "POST /v1/volumes/{name}/reset-attachments",
            "POST /v1/volumes/{name}/reset-status",
            "POST /v1/volumes/{name}/resize",
            "POST /v1/volumes/{name}/retype",
            "POST /v1/volumes/{name}/snapshots",
            "POST /v1/volumes/{name}/snapshots/{snapshot_name}/clone",
            "POST /v1/volumes/{name}/snapshots/{snapshot_name}/holds",
            "POST /v1/volumes/{name}/snapshots/{snapshot_name}/reset-status",
            "POST /v1/volumes/{name}/snapshots/{snapshot_name}/rollback",
        ]
    );
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    for name in [
        "Volume",
        "CreateRestore",
        "VolumeRestore",
        "EditVolume",
        "Retype",
        "Snapshot",
        "Tree",
        "TreeNode",
        "Diff",
        "Attachment",
        "Consumer",
        "Attach",
        "Detach",
        "Image",
        "CreateImage",
        "CreateImport",
        "Import",
        "EditImage",
        "VolumeType",
        "CreateType",
        "EditType",
        "QosPolicy",
        "QosRule",
        "VolumeQos",
        "SetVolumeQos",
        "PoolList",
        "PoolStatus",
        "Fill",
        "CreatePool",
        "GrowPool",
        "Job",
        "JobList",
        "JobResult",
        "CheckReport",
        "Scrub",
        "StartScrub",
        "Stats",
        "VolumeStats",
        "Info",
        "ErrorBody",
    ] {
        assert!(schemas.contains_key(name), "{name} is described");
    }
}

#[test]
fn every_wrong_request_gets_the_one_error_shape() {
    let server = Server::with_demo();
    for (method, path, body, status, code, part) in [
        ("GET", "/", "", 404, ErrorCode::NoSuchRoute, "nothing at /"),
        ("GET", "/v2/volumes", "", 404, ErrorCode::NoSuchRoute, "/v2/volumes"),
        ("GET", "/v1/volumes/", "", 404, ErrorCode::NoSuchRoute, "/v1/volumes/"),
        ("PUT", "/v1/volumes", "", 405, ErrorCode::MethodNotAllowed, "does not take PUT"),
        ("POST", "/v1/openapi.json", "", 405, ErrorCode::MethodNotAllowed, "does not take POST"),
        ("POST", "/v1/volumes", "", 400, ErrorCode::BadRequest, "needs a JSON body"),
        ("POST", "/v1/volumes", "{", 400, ErrorCode::BadRequest, "EOF while parsing"),
        ("POST", "/v1/volumes", "[]", 400, ErrorCode::BadRequest, "line 1"),
        (
            "POST",
            "/v1/volumes",
            "{\"name\":\"a\",\"sise\":1}",
            400,
            ErrorCode::BadRequest,
            "unknown field `sise`",
        ),
        ("POST", "/v1/volumes", "{\"name\":\"a\",\"size\":-1}", 400, ErrorCode::BadRequest, "expected u64"),
        (
            "POST",
            "/v1/volumes",
            "{\"name\":\"a\",\"size\":\"1G\"}",
            400,
            ErrorCode::BadRequest,
            "expected u64",
        ),
        ("POST", "/v1/volumes", "{\"name\":\"a\"} x", 400, ErrorCode::BadRequest, "trailing"),
        ("POST", "/v1/volumes", "{\"name\":\"a b\",\"size\":1}", 400, ErrorCode::InvalidArgument, "' '"),
        ("POST", "/v1/volumes", "{\"name\":\"a\"}", 400, ErrorCode::InvalidArgument, "needs a size"),
        ("POST", "/v1/volumes", "{\"name\":\"demo\",\"size\":1}", 409, ErrorCode::Exists, "demo"),
        ("POST", "/v1/volumes/demo/resize", "{\"size\":1}", 409, ErrorCode::Shrink, "cannot shrink"),
        ("POST", "/v1/volumes/demo/snapshots", "{\"name\":\"s1\"}", 409, ErrorCode::Exists, "s1"),
        (
            "POST",
            "/v1/volumes/demo/snapshots/s1/rollback",
            "{\"forse\":1}",
            400,
            ErrorCode::BadRequest,
            "forse",
        ),
        ("POST", "/v1/pool/check?data=maybe", "", 400, ErrorCode::BadRequest, "query"),
        ("POST", "/v1/pool/check?dada=true", "", 400, ErrorCode::BadRequest, "dada"),
        ("DELETE", "/v1/volumes/demo?snapshot=true", "", 400, ErrorCode::BadRequest, "snapshot"),
        ("PATCH", "/v1/volumes/demo", "", 400, ErrorCode::BadRequest, "needs a JSON body"),
        ("PATCH", "/v1/volumes/demo", "{\"size\":1}", 400, ErrorCode::BadRequest, "unknown field `size`"),
        ("PATCH", "/v1/volumes/demo", "{\"name\":\"a b\"}", 400, ErrorCode::InvalidArgument, "' '"),
        ("POST", "/v1/volumes/demo/retype", "{\"type\":\"no\"}", 404, ErrorCode::NotFound, "no type 'no'"),
        ("PATCH", "/v1/volumes/demo/qos", "{\"set\":{\"x\":1}}", 400, ErrorCode::InvalidArgument, "\"x\""),
        (
            "PATCH",
            "/v1/volumes/demo/qos",
            "{\"set\":{\"x\":\"1M\"}}",
            400,
            ErrorCode::BadRequest,
            "expected u64",
        ),
        ("PATCH", "/v1/volumes/no/qos", "{\"set\":{}}", 404, ErrorCode::NotFound, "no"),
        ("POST", "/v1/volumes/demo/attach", "{\"snapshot\":\"no\"}", 404, ErrorCode::NotFound, "no"),
        ("POST", "/v1/volumes/demo/detach", "{\"forse\":1}", 400, ErrorCode::BadRequest, "forse"),
        ("POST", "/v1/volumes/no/detach", "", 404, ErrorCode::NotFound, "no"),
        ("GET", "/v1/volumes/no/attachments", "", 404, ErrorCode::NotFound, "no"),
        ("POST", "/v1/types", "{\"name\":\"default\"}", 409, ErrorCode::Exists, "default"),
        (
            "POST",
            "/v1/types",
            "{\"name\":\"t\",\"qos\":\"no\"}",
            404,
            ErrorCode::NotFound,
            "no QoS rule 'no'",
        ),
        ("POST", "/v1/types", "{\"name\":\"t\",\"specs\":{\"a\":1}}", 400, ErrorCode::BadRequest, "string"),
        ("DELETE", "/v1/types/default", "", 409, ErrorCode::Busy, "there are volumes, 1 in all"),
        ("POST", "/v1/qos", "{\"name\":\"q\"}", 400, ErrorCode::BadRequest, "missing field `rule`"),
        (
            "POST",
            "/v1/qos",
            "{\"name\":\"q\",\"rule\":{\"iops\":1}}",
            400,
            ErrorCode::BadRequest,
            "field `iops`",
        ),
        ("DELETE", "/v1/qos/no", "", 404, ErrorCode::NotFound, "no"),
        (
            "POST",
            "/v1/restores",
            "{\"name\":\"x\",\"repo\":\"file:///b\"}",
            400,
            ErrorCode::BadRequest,
            "missing field `backup`",
        ),
        ("POST", "/v1/pools", "{\"name\":\"p\",\"path\":\"p\"}", 400, ErrorCode::InvalidArgument, "absolute"),
        ("POST", "/v1/pools", "{\"name\":\"p\"}", 400, ErrorCode::BadRequest, "missing field `path`"),
        ("POST", "/v1/pools/main/grow", "", 409, ErrorCode::Conflict, "limit"),
        ("POST", "/v1/pools/main/grow", "{\"limit\":1}", 409, ErrorCode::Shrink, "pools only grow"),
        ("GET", "/v1/jobs?kind=backup", "", 400, ErrorCode::BadRequest, "unknown variant `backup`"),
        ("GET", "/v1/jobs?limit=0", "", 400, ErrorCode::InvalidArgument, "at least 1"),
        ("GET", "/v1/jobs?since=1", "", 400, ErrorCode::BadRequest, "since"),
        ("GET", "/v1/jobs/no", "", 404, ErrorCode::NotFound, "no job 'no'"),
        ("POST", "/v1/jobs/no/cancel", "", 404, ErrorCode::NotFound, "no job 'no'"),
        ("DELETE", "/v1/jobs/no", "", 405, ErrorCode::MethodNotAllowed, "does not take DELETE"),
        ("POST", "/v1/pools/no/check?data=true", "", 404, ErrorCode::NotFound, "no"),
        ("POST", "/v1/pools/main/check?date=true", "", 400, ErrorCode::BadRequest, "date"),
        ("DELETE", "/v1/pools/main", "", 409, ErrorCode::Busy, "started on"),
        ("GET", "/v1/volumes/%FF", "", 400, ErrorCode::BadRequest, "path"),
        ("GET", "/v1/volumes/a%2Fb", "", 404, ErrorCode::NotFound, "a/b"),
        ("GET", "/v1/volumes/no/tree", "", 404, ErrorCode::NotFound, "no"),
        ("GET", "/v1/volumes/demo/snapshots/no/diff", "", 404, ErrorCode::NotFound, "no"),
        ("GET", "/v1/volumes/demo/snapshots/s1/diff?offset=-1", "", 400, ErrorCode::BadRequest, "query"),
    ] {
        let (got, answer) = server.error(method, path, body);
        let what = format!("{method} {path} {body}: {answer:?}");
        assert_eq!((got, answer.error.code), (status, code), "{what}");
        assert!(answer.error.message.contains(part), "{what}");
    }
}

#[test]
fn large_and_broken_requests_are_refused_and_harm_nobody() {
    let server = Server::with_demo();
    // Announced by its length: refused before any of it is sent.
    let head = format!(
        "POST /v1/volumes HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        2 << 20
    );
    let (status, body) = exchange(&server.socket, head.as_bytes());
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("\"too-large\""), "{body}");
    // Not announced: refused at the first byte too many.
    let chunk = "x".repeat((1 << 20) + 1);
    let head =
        "POST /v1/volumes HTTP/1.1\r\nHost: c\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (status, body) = exchange(&server.socket, format!("{head}{:x}\r\n{chunk}", chunk.len()).as_bytes());
    assert_eq!(status, 413, "{body}");

    for garbage in [&b"\x00\x01\x02\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", b"GET /v1/info HTTP/1.1\r\nHost"]
    {
        let mut stream = UnixStream::connect(&server.socket).expect("connects");
        stream.write_all(garbage).expect("sends");
        drop(stream);
    }
    server.ok("GET", "/v1/volumes/demo", Value::Null, 200);
}

#[test]
fn many_clients_at_once_are_all_answered() {
    let server = Server::with_demo();
    std::thread::scope(|scope| {
        for client in 0..32 {
            let server = &server;
            scope.spawn(move || {
                for n in 0..8 {
                    let name = format!("v{client}-{n}");
                    server.ok("POST", "/v1/volumes", json!({"name": name, "size": 4096}), 201);
                }
            });
        }
    });
    let all = server.ok("GET", "/v1/volumes", Value::Null, 200);
    assert_eq!(all["volumes"].as_array().map(Vec::len), Some(32 * 8 + 1));
}

#[test]
fn stopping_removes_the_socket_and_cuts_idle_clients() {
    let mut server = Server::start();
    let mut idle = UnixStream::connect(&server.socket).expect("connects");
    idle.write_all(b"GET /v1/info HTTP/1.1\r\nHost: c\r\n\r\n").expect("sends");
    let mut first = [0; 15];
    idle.read_exact(&mut first).expect("answers");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    server.thread.take().expect("runs").stop();
    assert!(!server.socket.exists());
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).expect("the connection is closed, not kept");
}
