//! The control API as a script sees it: HTTP over a Unix socket, and the fields that tests rely on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::Daemon;

/// How long space may take to come back after its snapshots were deleted. A bound against hanging.
const RECLAIM_LIMIT: Duration = Duration::from_secs(300);

/// One HTTP exchange: the status and the body.
#[track_caller]
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let body = body.map_or_else(String::new, Value::to_string);
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: cairn\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(socket, text.as_bytes());
    let answer = String::from_utf8(answer).expect("the API answers in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "a chunked answer: {head}");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP status: {head}"));
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("a JSON body") };
    (status, body)
}

/// Sends bytes to a Unix socket and reads until it closes.
#[track_caller]
pub fn exchange(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("the control socket accepts");
    stream.set_read_timeout(Some(crate::nbd::REPLY_TIMEOUT)).expect("a timeout can be set");
    stream.write_all(bytes).expect("the control socket takes a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the control socket answers and closes");
    answer
}

/// Creates a snapshot over the API, without the cost of starting a program; returns how long the answer took.
#[track_caller]
pub fn create_snapshot(daemon: &Daemon, volume: &str, name: &str) -> Duration {
    let body = serde_json::json!({ "name": name });
    let started = Instant::now();
    let path = format!("/v1/volumes/{volume}/snapshots");
    let (status, answer) = request(&daemon.control_socket(), "POST", &path, Some(&body));
    let took = started.elapsed();
    assert!((200..300).contains(&status), "snapshot {volume}@{name}: {status} {answer}");
    took
}

/// An unsigned field of an answer.
#[track_caller]
pub fn number(answer: &Value, field: &str) -> u64 {
    answer[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {answer}"))
}

/// Runs `cairn pool check` and panics unless it finds neither an error nor a leak.
#[track_caller]
pub fn assert_pool_clean(daemon: &Daemon) {
    check(daemon, &["pool", "check"]);
}

/// As [`assert_pool_clean`], with every data block read and verified.
#[track_caller]
pub fn assert_pool_and_data_clean(daemon: &Daemon) {
    let report = check(daemon, &["pool", "check", "--data"]);
    assert_eq!(
        number(&report, "data_verified"),
        number(&report, "data_blocks"),
        "not all data was read: {report}"
    );
}

#[track_caller]
fn check(daemon: &Daemon, args: &[&str]) -> Value {
    let report = daemon.cairn_json(args);
    let clean = report["clean"].as_bool() == Some(true)
        && number(&report, "leaked") == 0
        && number(&report, "error_count") == 0;
    assert!(clean, "the pool is not clean: {report}\n--- the daemon said\n{}", daemon.said());
    report
}

/// Waits until no deleted version holds space any more.
#[track_caller]
pub fn wait_until_reclaimed(daemon: &Daemon) {
    let started = Instant::now();
    loop {
        let status = daemon.cairn_json(&["pool", "status"]);
        if number(&status, "pending_deletes") == 0 {
            return;
        }
        assert!(started.elapsed() < RECLAIM_LIMIT, "space does not come back: {status}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The data blocks that all versions together refer to, as the checker counts them.
#[track_caller]
pub fn data_blocks(daemon: &Daemon) -> u64 {
    number(&check(daemon, &["pool", "check"]), "data_blocks")
}
