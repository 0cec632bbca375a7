//! Jobs from outside: kept through kills and restarts, and cancelled by whoever has begun them.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::control::{assert_pool_clean, number, request};
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{Rng, seed};
use cairn_tests::program::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon with so many MiB of data that no two blocks of are the same: a check of all of it takes its time.
fn filled(dir: &TempDir, mib: u64) -> Daemon {
    let daemon = Launch::dev(dir.path()).create("demo", &format!("{mib}M")).start();
    let mut rng = Rng::new(seed("jobs"));
    let mut data = vec![0; MIB as usize];
    let mut client = daemon.connect("demo");
    for piece in 0..mib {
        rng.fill(&mut data);
        client.write(piece * MIB, &data).expect("a write");
    }
    client.flush().expect("a flush");
    client.disconnect().expect("an end");
    daemon
}

fn jobs(daemon: &Daemon) -> Vec<Value> {
    daemon.cairn_json(&["job", "list"])["jobs"].as_array().expect("a list").clone()
}

fn running_check(daemon: &Daemon) -> Option<Value> {
    let list = daemon.get("/v1/jobs?kind=check&state=running");
    list["jobs"].as_array().expect("a list").first().cloned()
}

#[track_caller]
fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "it does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What was done is there as it was shown, and what was under way is said to have been interrupted: after a kill, after
/// another one, and after a stop in good order.
#[test]
fn jobs_are_known_after_the_daemon_was_killed_or_stopped() {
    let dir = TempDir::new().expect("a folder");
    let daemon = filled(&dir, 512);
    let report = daemon.cairn_json(&["pool", "check"]);
    assert_eq!(report["clean"], true);
    let done = jobs(&daemon);
    assert_eq!((done.len(), &done[0]["state"], &done[0]["result"]["check"]), (1, &json!("done"), &report));

    let import = json!({ "name": "web", "size": MIB, "format": "raw", "file": "disk.img" });
    let (status, import) = request(&daemon.control_socket(), "POST", "/v1/imports", Some(&import));
    assert_eq!(status, 201, "{import}");
    let scrub = daemon.cairn_json(&["pool", "scrub", "--limit-rate", "1K", "--detach"]);
    let check = daemon.cairn_json(&["pool", "check", "--data", "--detach"]);
    let mut expected = vec![check["id"].clone(), scrub["job"].clone(), import["job"].clone()];
    assert_eq!(running_check(&daemon).expect("it takes its time")["id"], expected[0]);
    daemon.kill_9();

    let daemon = Launch::dev(dir.path()).start();
    let found = jobs(&daemon);
    let ids: Vec<_> = found.iter().map(|job| job["id"].clone()).collect();
    expected.push(done[0]["id"].clone());
    assert_eq!(ids, expected);
    assert_eq!(found[3], done[0], "what was shown stays");
    for job in &found[..3] {
        assert_eq!((&job["state"], &job["ended"]), (&json!("interrupted"), &Value::Null), "{job}");
    }
    let told = daemon.cairn_json(&["events", "--kind", "job.ended"]);
    let told: Vec<_> =
        told["events"].as_array().expect("a list").iter().map(|event| event["job"].clone()).collect();
    assert!(told.len() == 3 && expected[..3].iter().all(|id| told.contains(id)), "{told:?}");
    let shown = daemon.cairn(&["job", "show", found[0]["id"].as_str().expect("an id")]).ok().stdout;
    assert!(shown.contains("state     interrupted\n"), "{shown}");
    daemon.kill_9();

    let daemon = Launch::dev(dir.path()).start();
    assert_eq!(jobs(&daemon), found);
    assert!(daemon.cairn_json(&["events", "--kind", "job"])["events"].as_array().is_some_and(Vec::is_empty));
    daemon.cairn(&["pool", "scrub", "--limit-rate", "1K", "--detach"]).ok();
    daemon.cairn(&["pool", "check", "--data", "--detach"]).ok();
    running_check(&daemon).expect("it takes its time");
    daemon.stop();

    let daemon = Launch::dev(dir.path()).start();
    let states: Vec<_> = jobs(&daemon).iter().take(2).map(|job| job["state"].clone()).collect();
    assert_eq!(states, ["interrupted", "interrupted"]);
    assert_pool_clean(&daemon);
    daemon.stop();
}

#[test]
fn a_check_shows_how_far_it_is_and_ends_with_whoever_began_it() {
    let dir = TempDir::new().expect("a folder");
    let daemon = filled(&dir, 512);
    let mut command = Command::new(binary("cairn"));
    command.arg("--dev").arg(dir.path()).args(["pool", "check", "--data"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cairn runs");
    let running = wait_for(|| running_check(&daemon).filter(|job| number(&job["progress"], "done") > 0));
    assert!(number(&running["progress"], "total") > 512 * MIB, "{running}");
    let second = daemon.cairn(&["pool", "check"]);
    assert!(second.status.code() == Some(1) && second.stderr.contains("is under way"), "{}", second.stderr);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("a signal can be sent");
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(1), &b""[..]), "{said}");
    assert_eq!(said, "error: the check of pool main was cancelled (cancelled)\n");
    let id = running["id"].as_str().expect("an id");
    assert_eq!(daemon.get(&format!("/v1/jobs/{id}"))["state"], "cancelled");

    // From afar, too: whoever watches is told.
    let check = daemon.cairn_json(&["pool", "check", "--data", "--detach"]);
    let id = check["id"].as_str().expect("an id");
    let cancelled = daemon.cairn(&["job", "cancel", id]).ok().stdout;
    assert_eq!(cancelled, "cancelled the check of pool main\n");
    let watched = daemon.cairn(&["job", "show", id, "--follow"]);
    assert!(watched.status.code() == Some(1) && watched.stdout.contains("cancelled"), "{}", watched.stdout);
    assert_eq!(daemon.cairn(&["job", "cancel", id]).ok().stdout, cancelled, "it is safe to try again");
    // One that is left alone comes to its end, and says what it has found.
    let check = daemon.cairn_json(&["pool", "check", "--data", "--detach"]);
    let id = check["id"].as_str().expect("an id");
    let watched = daemon.cairn(&["job", "show", id, "--follow"]).ok();
    assert!(watched.stdout.ends_with("the pool is sound\n"), "{}", watched.stdout);
    let late = daemon.cairn(&["job", "cancel", id]).refused();
    assert_eq!(late.stderr, "error: the job has ended already: done (ended)\n");
    daemon.stop();
}
