//! Backups in a local repository: full and incremental, restored byte for byte, encrypted, pruned and collected, damaged,
//! and interrupted.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn_tests::control::{number, request};
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{Rng, seed};
use cairn_tests::fixtures::{flip_byte, text};
use cairn_tests::nbd::{Client, Error, wire};
use cairn_tests::program::{Outcome, binary, run, run_command, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Bounds against hanging.
const LIMIT: Duration = Duration::from_secs(120);

/// A daemon with a volume `db`, and a repository beside it.
struct Setup {
    dir: TempDir,
    daemon: Daemon,
    url: String,
}

impl Setup {
    fn new(mib: u64) -> Setup {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let daemon = Launch::dev(&dir.path().join("dev")).create("db", &format!("{mib}M")).start();
        let url = format!("file://{}", dir.path().join("repo").display());
        Setup { dir, daemon, url }
    }

    fn with_repository(mib: u64) -> Setup {
        let setup = Setup::new(mib);
        setup.daemon.cairn(&["repo", "init", &setup.url]).ok();
        setup
    }

    /// Random bytes in a part of the volume.
    fn fill(&self, rng: &mut Rng, offset: u64, len: u64) {
        let mut client = self.daemon.connect("db");
        let mut data = vec![0; MIB as usize];
        let mut at = offset;
        while at < offset + len {
            let some = MIB.min(offset + len - at) as usize;
            rng.fill(&mut data[..some]);
            client.write(at, &data[..some]).expect("a write");
            at += some as u64;
        }
        client.flush().expect("a flush");
        client.disconnect().expect("an end");
    }

    /// The same, after kill -9 and a new start.
    fn killed_and_started(self) -> Setup {
        self.daemon.kill_9();
        let daemon = Launch::dev(&self.dir.path().join("dev")).start();
        Setup { daemon, ..self }
    }

    fn backup(&self, options: &[&str]) -> Value {
        let command = ["backup", "create", "db", "--repo", &self.url];
        self.daemon.cairn_json(&[&command[..], options].concat())
    }

    fn backups(&self) -> Vec<Value> {
        let list = self.daemon.cairn_json(&["backup", "list", "--repo", &self.url]);
        list["backups"].as_array().expect("a list").clone()
    }

    fn snapshots(&self) -> usize {
        let list = self.daemon.cairn_json(&["snapshot", "list", "db"]);
        list["snapshots"].as_array().expect("a list").len()
    }

    /// All of an export.
    fn contents(&self, export: &str) -> Vec<u8> {
        let mut client = self.daemon.connect(export);
        let mut all = Vec::new();
        client.read_all(|_, data| all.extend_from_slice(data)).expect("reads");
        all
    }

    fn restore(&self, id: &str) -> PathBuf {
        let file = self.dir.path().join(format!("{id}.img"));
        self.daemon.cairn(&["backup", "restore", id, "--repo", &self.url, "--to-file", &text(&file)]).ok();
        file
    }

    /// A backup that goes on for long, under way.
    fn slow_backup(&self) -> Child {
        let mut command = Command::new(binary("cairn"));
        command.arg("--dev").arg(self.daemon.dir()).args(["backup", "create", "db", "--limit-rate", "1M"]);
        command.args(["--repo", &self.url]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("cairn");
        let began = Instant::now();
        while !self.snapshot_is_read() {
            assert!(began.elapsed() < LIMIT, "the backup does not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    fn snapshot_is_read(&self) -> bool {
        let list = self.daemon.cairn_json(&["snapshot", "list", "db"]);
        let snapshots = list["snapshots"].as_array().expect("a list").clone();
        snapshots.iter().any(|snapshot| number(snapshot, "connections") > 0)
    }

    fn verify(&self) -> Outcome {
        self.daemon.cairn(&["repo", "verify", &self.url, "--read-data"])
    }
}

fn id(backup: &Value) -> String {
    backup["id"].as_str().expect("an id").to_owned()
}

#[test]
fn incrementals_read_what_changed_and_every_backup_restores_on_its_own() {
    let setup = Setup::with_repository(64);
    let mut rng = Rng::new(seed("incrementals"));
    setup.fill(&mut rng, 0, 20 * MIB);
    let full = setup.backup(&["--name", "first", "--tag", "a=b"]);
    assert_eq!(full["kind"], "full", "{full}");
    assert_eq!(number(&full, "read_bytes"), 20 * MIB);
    let before = setup.contents("db");

    setup.fill(&mut rng, 10 * MIB, MIB / 4);
    setup.fill(&mut rng, 40 * MIB, MIB);
    let incremental = setup.backup(&[]);
    assert_eq!(incremental["kind"], "incremental", "{incremental}");
    assert_eq!(incremental["parent"], full["id"]);
    assert!(number(&incremental, "read_bytes") <= 2 * MIB, "{incremental}");
    assert_eq!(setup.snapshots(), 1, "only the base of the next one stays");
    let after = setup.contents("db");
    assert_ne!(before, after);

    let file = setup.restore(&id(&incremental));
    assert!(fs::read(&file).expect("the file") == after);
    setup.daemon.cairn(&["backup", "delete", &id(&incremental), "--repo", &setup.url, "--yes"]).ok();
    let file = setup.restore(&id(&full));
    assert!(fs::read(&file).expect("the file") == before);

    // Its snapshot went with the later backup, which is deleted.
    let next = setup.backup(&[]);
    assert_eq!((&next["kind"], next["full_because"].is_string()), (&"full".into(), true), "{next}");
    assert_eq!(number(&next, "added_bytes") / MIB, 0, "all but a manifest was there: {next}");
    let asked = setup.backup(&["--full"]);
    assert_eq!(asked["kind"], "full", "{asked}");
    setup.verify().ok();
}

#[test]
fn an_encrypted_repository_wants_its_key() {
    let setup = Setup::new(16);
    let mut rng = Rng::new(seed("encrypted"));
    setup.fill(&mut rng, 0, 4 * MIB);
    let (key, other) = (text(&setup.dir.path().join("key")), text(&setup.dir.path().join("other")));
    fs::write(&other, [7; 32]).expect("a key file");
    setup.daemon.cairn(&["repo", "init", &setup.url, "--encrypt", "--key-file", &key]).ok();
    let made = setup.backup(&["--key-file", &key]);
    let restore = |key: &[&str]| {
        let file = text(&setup.dir.path().join("disk"));
        let (made, url) = (id(&made), setup.url.as_str());
        let command = ["backup", "restore", &made, "--repo", url, "--to-file", &file];
        setup.daemon.cairn(&[&command[..], key].concat())
    };
    assert!(restore(&["--key-file", &other]).refused().stderr.contains("(wrong-key)"));
    assert!(restore(&[]).refused().stderr.contains("(key-required)"));
    assert!(!setup.dir.path().join("disk").exists(), "nothing half is left");
    restore(&["--key-file", &key]).ok();
    assert!(fs::read(setup.dir.path().join("disk")).expect("the file") == setup.contents("db"));
}

#[test]
fn pruned_backups_give_their_space_back() {
    let setup = Setup::with_repository(32);
    let mut rng = Rng::new(seed("pruned"));
    for _ in 0..3 {
        setup.fill(&mut rng, 0, 8 * MIB);
        setup.backup(&[]);
    }
    let stored = || number(&setup.daemon.cairn_json(&["repo", "status", &setup.url]), "stored_bytes");
    let before = stored();
    let prune = ["repo", "prune", &setup.url, "--keep-last", "1"];
    setup.daemon.cairn(&[&prune[..], &["--dry-run"]].concat()).ok();
    assert_eq!(setup.backups().len(), 3);
    assert!(setup.daemon.cairn(&prune).refused().stderr.contains("(not-confirmed)"));
    setup.daemon.cairn(&[&prune[..], &["--yes"]].concat()).ok();
    let left = setup.backups();
    assert_eq!(left.len(), 1);
    setup.daemon.cairn(&["repo", "gc", &setup.url, "--now"]).ok();
    assert!(stored() <= before - 15 * MIB, "{} of {before} are left", stored());
    setup.verify().ok();
    let file = setup.restore(&id(&left[0]));
    assert!(fs::read(&file).expect("the file") == setup.contents("db"));
}

#[test]
fn a_flipped_byte_is_named_with_the_backup_it_hurts() {
    let setup = Setup::with_repository(16);
    let mut rng = Rng::new(seed("flipped"));
    setup.fill(&mut rng, 0, 4 * MIB);
    let made = id(&setup.backup(&[]));
    setup.verify().ok();
    let pack = largest(&setup.dir.path().join("repo/packs"));
    flip_byte(&pack, 2 * MIB, 0x10).expect("a flipped byte");
    let verified = setup.daemon.cairn(&["--json", "repo", "verify", &setup.url, "--read-data"]);
    assert_eq!(verified.status.code(), Some(1), "{verified}");
    let problems = &verified.json()["problems"];
    assert!(problems.to_string().contains(&made), "{problems}");
    let file = text(&setup.dir.path().join("disk"));
    let command = ["backup", "restore", &made, "--repo", &setup.url, "--to-file", &file];
    assert!(setup.daemon.cairn(&command).refused().stderr.contains("(corrupt)"));
    assert!(!Path::new(&file).exists(), "nothing half is left");
}

fn largest(folder: &Path) -> PathBuf {
    let entries =
        |folder: &Path| fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let files = entries(folder).flat_map(|folder| entries(&folder).collect::<Vec<_>>());
    files.max_by_key(|file| fs::metadata(file).expect("a file").len()).expect("a pack")
}

#[test]
fn a_killed_backup_is_made_by_running_it_again() {
    let setup = Setup::with_repository(128);
    let mut rng = Rng::new(seed("killed"));
    setup.fill(&mut rng, 0, 64 * MIB);
    let mut child = setup.slow_backup();
    child.kill().expect("a kill");
    child.wait().expect("an end");
    assert_eq!(setup.backups().len(), 0, "nothing half counts");
    let made = setup.backup(&[]);
    assert_eq!(setup.snapshots(), 1, "what the killed one has left is gone");
    assert!(fs::read(setup.restore(&id(&made))).expect("the file") == setup.contents("db"));
    setup.verify().ok();
}

#[test]
fn an_interrupted_backup_leaves_no_snapshot() {
    let setup = Setup::with_repository(128);
    let mut rng = Rng::new(seed("interrupted"));
    setup.fill(&mut rng, 0, 64 * MIB);
    let mut child = setup.slow_backup();
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, Signal::SIGINT).expect("a signal");
    let status = wait(&mut child, LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(1));
    assert_eq!(setup.snapshots(), 0);
    assert_eq!(setup.backups().len(), 0);
}

#[test]
fn a_backup_to_a_store_that_hangs_ends_when_it_is_asked_to() {
    let setup = Setup::new(8);
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut command = Command::new(binary("cairn"));
    command.arg("--dev").arg(setup.daemon.dir()).args(["backup", "create", "db", "--repo", "s3://bucket/r"]);
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    command.envs([("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_REGION", "r")]);
    command.envs([("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let asked = silent.accept().expect("it asks the store");
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a process id")), Signal::SIGTERM).expect("a signal");
    let began = Instant::now();
    let status = wait(&mut child, LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(1));
    // It would wait for the store for half a minute, several times.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(setup.snapshots(), 0);
    drop(asked);
}

#[test]
fn backups_of_a_volume_at_the_same_time_are_all_made() {
    let setup = Setup::with_repository(32);
    let mut rng = Rng::new(seed("at once"));
    for round in 1..=4 {
        setup.fill(&mut rng, 4 * MIB * round, 6 * MIB);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| setup.backup(&[]));
            }
        });
    }
    let made = setup.backups();
    assert_eq!(made.len(), 12);
    setup.verify().ok();
    let newest = id(&setup.backup(&[]));
    assert!(fs::read(setup.restore(&newest)).expect("the file") == setup.contents("db"));
    assert_eq!(setup.snapshots(), 1, "those of all runs but the last are gone");
}

#[test]
fn a_stream_is_the_disk() {
    let setup = Setup::with_repository(8);
    let mut rng = Rng::new(seed("stream"));
    setup.fill(&mut rng, MIB, MIB);
    let made = id(&setup.backup(&[]));
    let mut command = Command::new("sh");
    command.arg("-c").arg("\"$1\" backup restore \"$2\" --repo \"$3\" --to-file - | sha256sum");
    command.args(["sh", &text(&binary("cairn")), &made, &setup.url]);
    let streamed = run_command(command).ok().stdout;
    let file = setup.dir.path().join("disk");
    fs::write(&file, setup.contents("db")).expect("a file");
    let expected = run("sha256sum", &[text(&file)]).ok().stdout;
    assert_eq!(streamed.split_whitespace().next(), expected.split_whitespace().next());
}

#[test]
fn a_restored_volume_is_the_disk_that_was_backed_up() {
    let setup = Setup::with_repository(64);
    let mut rng = Rng::new(seed("restored"));
    setup.fill(&mut rng, 3 * MIB, 9 * MIB);
    setup.fill(&mut rng, 63 * MIB, MIB);
    let made = id(&setup.backup(&[]));
    let before = setup.contents("db");
    let restored =
        setup.daemon.cairn_json(&["backup", "restore", &made, "--repo", &setup.url, "--to", "db2"]);
    assert_eq!((&restored["volume"]["name"], &restored["volume"]["backup"]), (&"db2".into(), &made.into()));
    assert!(restored["undo"].is_null(), "{restored}");
    assert!(setup.contents("db2") == before);
    let mapped = number(&restored["volume"], "mapped");
    assert!(mapped <= 11 * MIB, "holes stay holes: {mapped}");
    // It is a volume as any other.
    setup.daemon.cairn(&["snapshot", "create", "db2", "s"]).ok();
    let again = setup.daemon.cairn_json(&["backup", "create", "db2", "--repo", &setup.url]);
    assert!(number(&again, "added_bytes") < MIB, "the same data is stored once: {again}");
}

#[test]
fn restoring_over_a_volume_keeps_what_was_there() {
    let setup = Setup::with_repository(32);
    let mut rng = Rng::new(seed("over"));
    setup.fill(&mut rng, 0, 8 * MIB);
    let made = id(&setup.backup(&[]));
    let before = setup.contents("db");
    setup.fill(&mut rng, 4 * MIB, 8 * MIB);
    setup.daemon.cairn(&["volume", "resize", "db", "--size", "40M", "--yes"]).ok();
    let after = setup.contents("db");
    let over = ["backup", "restore", made.as_str(), "--repo", &setup.url.clone(), "--over", "db"];
    assert!(setup.daemon.cairn(&over).refused().stderr.contains("(not-confirmed)"));
    let over = [&over[..], &["--yes"]].concat();

    let client = setup.daemon.connect("db");
    assert!(setup.daemon.cairn(&over).refused().stderr.contains("(busy)"));
    client.disconnect().expect("an end");
    assert!(setup.contents("db") == after);

    let restored = setup.daemon.cairn_json(&over);
    assert_eq!(number(&restored["volume"], "size"), 40 * MIB, "a volume never gets smaller: {restored}");
    let contents = setup.contents("db");
    assert!(contents[..32 * MIB as usize] == before);
    assert!(contents[32 * MIB as usize..].iter().all(|byte| *byte == 0));
    let undo = restored["undo"]["name"].as_str().expect("a name").to_owned();
    assert!(setup.contents(&format!("db@{undo}")) == after);
    let tree = setup.daemon.cairn(&["snapshot", "tree", "db"]).ok().stdout;
    assert!(tree.contains(&undo), "{tree}");
    // What is next is incremental all the same.
    let next = setup.backup(&[]);
    assert_eq!(next["kind"], "incremental", "{next}");
    assert!(fs::read(setup.restore(&id(&next))).expect("the file") == contents);

    // A volume that is too small grows.
    setup.daemon.cairn(&["volume", "create", "small", "--size", "4M"]).ok();
    let small =
        ["backup", "restore", made.as_str(), "--repo", &setup.url.clone(), "--over", "small", "--yes"];
    setup.daemon.cairn(&small).ok();
    assert!(setup.contents("small") == before);

    let setup = setup.killed_and_started();
    assert!(setup.contents("db") == contents, "it is durable");
    setup.daemon.cairn(&["snapshot", "rollback", "db", &undo, "--yes"]).ok();
    assert!(setup.contents("db") == after, "and can be undone");
    setup.daemon.cairn(&["pool", "check", "--data"]).ok();
}

#[test]
fn a_restore_that_does_not_end_leaves_nothing() {
    let setup = Setup::with_repository(128);
    let mut rng = Rng::new(seed("unended"));
    setup.fill(&mut rng, 0, 64 * MIB);
    let made = id(&setup.backup(&[]));
    setup.fill(&mut rng, 0, MIB);
    let after = setup.contents("db");
    let slow = |setup: &Setup, target: &[&str]| {
        let used = || number(&setup.daemon.get("/v1/pool"), "used");
        let before = used();
        let mut command = Command::new(binary("cairn"));
        command.arg("--dev").arg(setup.daemon.dir()).args(["backup", "restore", &made, "--repo", &setup.url]);
        command.args(["--limit-rate", "8M"]).args(target);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let began = Instant::now();
        while used() < before + 2 * MIB {
            assert!(began.elapsed() < LIMIT, "the restore does not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
        (child.expect("cairn"), before)
    };
    let given_back = |setup: &Setup, before: u64| {
        let began = Instant::now();
        while number(&setup.daemon.get("/v1/pool"), "used") > before + MIB {
            assert!(began.elapsed() < LIMIT, "what was written stays");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    // Stopped as asked.
    let (mut child, before) = slow(&setup, &["--over", "db", "--yes"]);
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, Signal::SIGINT).expect("a signal");
    assert_eq!(wait(&mut child, LIMIT).expect("it ends").code(), Some(1));
    given_back(&setup, before);
    // Killed: the daemon finds out.
    let (mut child, before) = slow(&setup, &["--to", "db2"]);
    assert!(setup.daemon.cairn(&["volume", "show", "db2"]).refused().stderr.contains("(not-found)"));
    child.kill().expect("a kill");
    child.wait().expect("an end");
    given_back(&setup, before);
    // The daemon killed: the next start finds out.
    let (mut child, before) = slow(&setup, &["--to", "db2"]);
    let setup = setup.killed_and_started();
    assert_ne!(wait(&mut child, LIMIT).expect("it ends").code(), Some(0));
    given_back(&setup, before);
    assert!(setup.contents("db") == after);
    setup.daemon.cairn(&["backup", "restore", &made, "--repo", &setup.url, "--to", "db2"]).ok();
    assert!(fs::read(setup.restore(&made)).expect("the file") == setup.contents("db2"));
}

#[test]
fn stagings_are_what_the_api_says() {
    let setup = Setup::with_repository(8);
    let socket = setup.daemon.control_socket();
    let post = |path: &str, body: Option<&Value>| request(&socket, "POST", path, body);
    let asked = |volume: &str, over: bool| json!({ "volume": volume, "over": over, "size": 4 * MIB });
    assert_eq!(post("/v1/stagings", Some(&asked("db", false))).0, 409);
    assert_eq!(post("/v1/stagings", Some(&asked("db2", true))).0, 404);
    assert_eq!(post("/v1/stagings", Some(&asked("-", false))).0, 400);

    let (status, made) = post("/v1/stagings", Some(&asked("db2", false)));
    assert_eq!(status, 201, "{made}");
    let (staging, export) = (made["id"].as_str().expect("an id"), made["export"].as_str().expect("a name"));
    let mut client = setup.daemon.connect(export);
    client.write(MIB, &[7; 4096]).expect("a write");
    let list = setup.daemon.cairn_json(&["volume", "list"]).to_string();
    assert!(!list.contains(staging), "{list}");
    assert_eq!(number(&setup.daemon.get("/v1/pool"), "volumes"), 1);
    // The name is taken from the beginning.
    let taken = setup.daemon.cairn(&["volume", "create", "db2", "--size", "1M"]).refused();
    assert!(taken.stderr.contains("a volume 'db2' is being restored (exists)"), "{taken}");
    let complete = format!("/v1/stagings/{staging}/complete");
    let (status, done) = post(&complete, None);
    assert_eq!((status, &done["volume"]["name"]), (200, &"db2".into()), "{done}");
    assert_eq!(setup.contents("db2")[MIB as usize..][..4097], [&[7; 4096][..], &[0]].concat());
    assert_eq!(post(&complete, None).0, 404, "it is a staging no more");

    let (_, made) = post("/v1/stagings", Some(&asked("db", true)));
    let path = format!("/v1/stagings/{}", made["id"].as_str().expect("an id"));
    // Who began to use it would have to stop at the end.
    match Client::connect(&setup.daemon.nbd_socket(), "db") {
        Err(Error::Refused(wire::REP_ERR_POLICY, why)) => {
            assert_eq!(why, "a backup is being restored over the volume 'db'");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(request(&socket, "DELETE", &path, None).0, 204);
    assert_eq!(request(&socket, "DELETE", &path, None).0, 404);
    setup.daemon.connect("db");
}
