//! Instant restore: a volume that serves while it is filled from a backup, through kills, damage, and a repository that goes
//! away and comes back.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::control::{assert_pool_clean, number, request, wait_until_reclaimed};
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{Rng, seed};
use cairn_tests::fixtures::{flip_byte, text};
use cairn_tests::nbd::wire;
use cairn_tests::program::{full, number_from_env};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// What a backup's bytes come and go in.
const CHUNK: u64 = 256 << 10;
/// Bounds against hanging.
const LIMIT: Duration = Duration::from_secs(180);

/// A daemon, a repository beside it, and in that a backup of a volume `db` that is no more.
struct Setup {
    dir: TempDir,
    daemon: Daemon,
    url: String,
    backup: String,
    contents: Vec<u8>,
}

impl Setup {
    /// `mib` MiB and a bit, with data in the first `filled` of them and at the end.
    fn new(name: &str, mib: u64, filled: u64) -> Setup {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let size = mib * MIB + 4608;
        let daemon = Launch::dev(&dir.path().join("dev")).create("db", &size.to_string()).start();
        let url = format!("file://{}", dir.path().join("repo").display());
        daemon.cairn(&["repo", "init", &url]).ok();
        let mut rng = Rng::new(seed(name));
        let mut contents = vec![0; size as usize];
        rng.fill(&mut contents[..(filled * MIB) as usize]);
        let end = contents.len() - 70_000;
        rng.fill(&mut contents[end..]);
        let mut client = daemon.connect("db");
        for (piece, data) in contents.chunks(MIB as usize).enumerate() {
            if data.iter().any(|byte| *byte != 0) {
                client.write(piece as u64 * MIB, data).expect("a write");
            }
        }
        client.disconnect().expect("an end");
        let made = daemon.cairn_json(&["backup", "create", "db", "--repo", &url]);
        let backup = made["id"].as_str().expect("an id").to_owned();
        daemon.cairn(&["volume", "delete", "db", "--with-snapshots", "--yes"]).ok();
        Setup { dir, daemon, url, backup, contents }
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn restore(&self, name: &str) -> Value {
        let command = ["backup", "restore", &self.backup, "--repo", &self.url, "--to", name, "--instant"];
        self.daemon.cairn_json(&command)
    }

    fn killed_and_started(self) -> Setup {
        self.daemon.kill_9();
        let daemon = Launch::dev(&self.dir.path().join("dev")).start();
        Setup { daemon, ..self }
    }

    /// What has become of the job that a restore is, by what the restore was answered with.
    fn job(&self, restored: &Value) -> Value {
        let id = restored["restore"]["job"].as_str().expect("a restore is a job");
        self.daemon.get(&format!("/v1/jobs/{id}"))
    }

    fn show(&self, name: &str) -> Value {
        self.daemon.get(&format!("/v1/volumes/{name}"))
    }

    /// Waits until a volume is so far.
    #[track_caller]
    fn wait(&self, name: &str, until: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let volume = self.show(name);
            if until(&volume) {
                return volume;
            }
            assert!(began.elapsed() < LIMIT, "it does not come: {volume}\n{}", self.daemon.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn wait_until_restored(&self, name: &str) {
        self.wait(name, |volume| volume["restore"].is_null());
    }

    #[track_caller]
    fn assert_holds(&self, export: &str, expected: &[u8]) {
        let mut client = self.daemon.connect(export);
        client
            .read_all(|offset, data| {
                let at = offset as usize;
                if data != &expected[at..at + data.len()] {
                    let wrong = data.iter().zip(&expected[at..]).position(|(a, b)| a != b);
                    panic!("{export} differs at byte {}", at + wrong.unwrap_or(0));
                }
            })
            .unwrap_or_else(|e| panic!("{export} cannot be read: {e}\n{}", self.daemon.said()));
        client.disconnect().expect("an end");
    }

    /// How many versions the pool has, hidden ones included.
    fn versions(&self) -> u64 {
        wait_until_reclaimed(&self.daemon);
        number(&self.daemon.cairn_json(&["pool", "check"]), "versions")
    }

    /// Panics unless there are so many versions in the end: what belongs to a restore goes a moment after it.
    #[track_caller]
    fn assert_nothing_is_left_but(&self, versions: u64) {
        let began = Instant::now();
        while self.versions() != versions {
            assert!(began.elapsed() < LIMIT, "{} versions are left, not {versions}", self.versions());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_volume_serves_its_backup_at_once_and_keeps_what_is_written_meanwhile() {
    let setup = Setup::new("serves at once", 256, 192);
    let before = setup.versions();
    let made = setup.restore("new");
    assert_eq!(
        (&made["status"], &made["backup"]),
        (&"restoring".into(), &setup.backup.as_str().into()),
        "{made}"
    );
    assert_eq!(made["restore"]["repo"], setup.url.as_str());
    let mut expected = setup.contents.clone();
    let size = expected.len() as u64;
    let mut client = setup.daemon.connect("new");
    assert_eq!(client.info().size, size);
    let mut rng = Rng::new(seed("requests"));
    for at in [size - 512, 150 * MIB + 512, 100 * MIB, 230 * MIB] {
        let read = client.read(at, 512).expect("a read");
        assert!(read == expected[at as usize..at as usize + 512], "it differs at {at}");
    }
    for _ in 0..300 {
        let at = rng.below(size / 512) * 512;
        let len = (512 * (1 + rng.below(2 * CHUNK / 512))).min(size - at);
        let range = at as usize..(at + len) as usize;
        match rng.below(4) {
            0 => {
                let read = client.read(at, len as u32).expect("a read");
                assert!(read == expected[range], "{len} bytes at {at} differ");
            }
            1 => {
                client.write_zeroes(at, len as u32).expect("zeroes");
                expected[range].fill(0);
            }
            2 => {
                // Blocks that are trimmed in part may stay.
                let (from, to) = (at.next_multiple_of(4096), (at + len) / 4096 * 4096);
                client.trim(at, len as u32).expect("a trim");
                if from < to {
                    expected[from as usize..to as usize].fill(0);
                }
                if at + len == size {
                    expected[(size / 4096 * 4096).max(at) as usize..].fill(0);
                }
            }
            _ => {
                rng.fill(&mut expected[range.clone()]);
                client.write(at, &expected[range]).expect("a write");
            }
        }
    }
    client.flush().expect("a flush");
    client.disconnect().expect("an end");
    setup.assert_holds("new", &expected);
    setup.wait_until_restored("new");
    let done = setup.show("new");
    assert_eq!(
        (&done["status"], &done["backup"]),
        (&"available".into(), &setup.backup.as_str().into()),
        "{done}"
    );
    setup.assert_nothing_is_left_but(before + 1);
    fs::remove_dir_all(setup.repository()).expect("the repository");
    setup.assert_holds("new", &expected);
    setup.daemon.cairn(&["snapshot", "create", "new", "s"]).ok();
    let setup = setup.killed_and_started();
    setup.assert_holds("new@s", &expected);
    assert_pool_clean(&setup.daemon);
}

/// Writes go on while the daemon is killed; every write that was answered is there, all else is the backup's.
#[test]
fn kill_9_at_any_point_of_a_restore_loses_nothing() {
    let kills = number_from_env("CAIRN_TEST_KILLS", if full() { 100 } else { 20 });
    let mut setup = Setup::new("kills", 96, 90);
    let mut rng = Rng::new(seed("kill -9"));
    let mut interrupted = 0;
    let before = setup.versions();
    let began = Instant::now();
    setup.restore("new");
    setup.wait_until_restored("new");
    let undisturbed = began.elapsed().as_micros() as u64;
    setup.daemon.cairn(&["volume", "delete", "new", "--yes"]).ok();
    for round in 0..kills {
        let restored = setup.restore("new");
        let mut expected = setup.contents.clone();
        let size = expected.len() as u64;
        for _ in 0..1 + rng.below(3) {
            let mut client = setup.daemon.connect("new");
            let until = Instant::now() + Duration::from_micros(rng.below(undisturbed));
            while Instant::now() < until {
                let at = rng.below(size / 512) * 512;
                let len = (512 * (1 + rng.below(3 * CHUNK / 512))).min(size - at) as usize;
                let range = at as usize..at as usize + len;
                rng.fill(&mut expected[range.clone()]);
                client.write(at, &expected[range]).expect("a write");
            }
            interrupted += u64::from(!setup.show("new")["restore"].is_null());
            setup = setup.killed_and_started();
            let state = setup.job(&restored)["state"].clone();
            assert!(state == "running" || state == "done", "a restore goes on as the same job: {state}");
        }
        if rng.chance(50) {
            setup.wait_until_restored("new");
        }
        setup.assert_holds("new", &expected);
        setup.wait_until_restored("new");
        let job = setup.job(&restored);
        assert_eq!((&job["state"], &job["volume"]), (&json!("done"), &json!("new")));
        assert_eq!(job["progress"]["done"], job["progress"]["total"]);
        assert!(!setup.daemon.said().contains("cannot be taken up"), "round {round}");
        setup.daemon.cairn(&["volume", "delete", "new", "--yes"]).ok();
    }
    assert!(interrupted > 0, "no restore was interrupted: this proves nothing");
    setup.assert_nothing_is_left_but(before);
    assert_pool_clean(&setup.daemon);
    println!("{interrupted} of the kills interrupted a restore");
}

/// The command itself is cut off: then there is a whole volume, or none.
#[test]
fn kill_9_while_a_restore_begins_leaves_a_volume_or_nothing() {
    let mut setup = Setup::new("beginnings", 8, 4);
    let mut rng = Rng::new(seed("beginnings"));
    let before = setup.versions();
    for _ in 0..10 {
        let (socket, pause) = (setup.daemon.control_socket(), Duration::from_micros(rng.below(15_000)));
        let body = json!({ "name": "new", "repo": setup.url, "backup": setup.backup });
        let asking = thread::spawn(move || {
            std::panic::catch_unwind(|| request(&socket, "POST", "/v1/restores", Some(&body)))
        });
        thread::sleep(pause);
        setup = setup.killed_and_started();
        // Cut off, most likely.
        let _ = asking.join();
        let volumes = setup.daemon.get("/v1/volumes");
        if volumes["volumes"].as_array().is_some_and(|volumes| !volumes.is_empty()) {
            setup.assert_holds("new", &setup.contents);
            setup.wait_until_restored("new");
            setup.daemon.cairn(&["volume", "delete", "new", "--yes"]).ok();
        }
        setup.assert_nothing_is_left_but(before);
    }
}

/// The pack that holds most.
fn largest_pack(setup: &Setup) -> PathBuf {
    let entries =
        |folder: PathBuf| fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    let packs = entries(setup.repository().join("packs")).flat_map(entries);
    packs.max_by_key(|file| file.metadata().expect("a file").len()).expect("a pack")
}

/// Where a volume that misses chunks differs from what it should be; reading it.
fn unreadable(setup: &Setup, name: &str) -> Vec<u64> {
    let mut client = setup.daemon.connect(name);
    let mut bad = Vec::new();
    for at in (0..setup.contents.len() as u64).step_by(CHUNK as usize) {
        let len = CHUNK.min(setup.contents.len() as u64 - at);
        match client.read(at, len as u32) {
            Ok(data) => {
                assert!(data == setup.contents[at as usize..(at + len) as usize], "wrong data at {at}");
            }
            Err(error) => {
                assert_eq!(error.errno(), Some(wire::EIO), "{error}");
                bad.push(at);
            }
        }
    }
    client.disconnect().expect("an end");
    bad
}

#[test]
fn what_is_damaged_gives_errors_is_named_and_holds_the_volume_back() {
    let setup = Setup::new("damage", 32, 24);
    let pack = largest_pack(&setup);
    flip_byte(&pack, 2 * MIB, 0x10).expect("a flipped byte");
    setup.restore("new");
    let stuck = setup.wait("new", |v| number(&v["restore"], "bytes_done") >= number(v, "size") - CHUNK);
    let problem = stuck["restore"]["problem"].as_str().expect("a problem").to_owned();
    let bad = unreadable(&setup, "new");
    assert_eq!(bad.len(), 1, "one byte is in one chunk: {bad:?}");
    assert!(problem.contains(&format!("byte {}", bad[0])) && problem.contains(&setup.backup), "{problem}");
    assert!(problem.contains("packs/"), "the object is named: {problem}");
    let shown = setup.daemon.cairn(&["volume", "show", "new"]).ok().stdout;
    assert!(shown.contains("restoring 99 %") && shown.contains(&problem), "{shown}");
    assert!(setup.daemon.said().contains(&setup.backup), "the log names it, too");

    // What needs all of it is refused, in words.
    setup.daemon.cairn(&["volume", "create", "other", "--size", "1M"]).ok();
    let refused: [&[&str]; 6] = [
        &["snapshot", "create", "new", "s"],
        &["snapshot", "clone", "new", "s", "copy"],
        &["snapshot", "rollback", "new", "s", "--yes"],
        &["image", "create", "image", "--from", "new"],
        &["volume", "resize", "new", "--size", "64M", "--yes"],
        &["backup", "create", "new", "--repo", &setup.url],
    ];
    for command in refused {
        let refused = setup.daemon.cairn(command).refused();
        assert!(refused.stderr.contains("still being restored (busy)"), "{command:?}: {refused}");
        assert!(refused.stderr.contains("99 % is there"), "{command:?}: {refused}");
    }
    let over = ["backup", "restore", &setup.backup, "--repo", &setup.url, "--over", "new", "--yes"];
    assert!(setup.daemon.cairn(&over).refused().stderr.contains("(busy)"));
    let group = json!({ "members": [{"volume": "other", "name": "g"}, {"volume": "new", "name": "g"}] });
    let (status, answer) = request(&setup.daemon.control_socket(), "POST", "/v1/snapshots", Some(&group));
    assert_eq!((status, &answer["error"]["code"]), (409, &"busy".into()), "{answer}");
    // What does not, works.
    setup.daemon.cairn(&["volume", "edit", "new", "--name", "renamed", "--description", "half"]).ok();
    setup.daemon.cairn(&["qos", "set", "renamed", "total_iops_sec=100000"]).ok();

    // Through a restart, under its new name.
    let setup = setup.killed_and_started();
    assert_eq!(unreadable(&setup, "renamed"), bad);

    // The byte is mended, and before anybody can see that, the repository goes away.
    let (repo, away) = (setup.repository(), setup.dir.path().join("away"));
    flip_byte(&pack, 2 * MIB, 0x10).expect("a flipped byte");
    fs::rename(&repo, &away).expect("it can be moved");
    thread::sleep(Duration::from_secs(11));
    let mut client = setup.daemon.connect("renamed");
    let cookie = client.send(cairn_tests::nbd::Request::Read { offset: bad[0], len: 512 }).expect("is sent");
    let without = setup.wait("renamed", |volume| {
        volume["restore"]["problem"].as_str().is_some_and(|problem| !problem.contains("damaged"))
    });
    assert!(
        without["restore"]["problem"].as_str().is_some_and(|p| p.contains("cannot be read")),
        "{without}"
    );
    fs::rename(&away, &repo).expect("it can be moved");
    let reply = client.recv().expect("a reply");
    assert_eq!((reply.cookie, reply.result.is_ok()), (cookie, true), "it waited");
    setup.wait_until_restored("renamed");
    client.disconnect().expect("an end");
    setup.assert_holds("renamed", &setup.contents);
    setup.daemon.cairn(&["snapshot", "create", "renamed", "s"]).ok();
}

#[test]
fn a_volume_is_deleted_while_it_is_restored() {
    let setup = Setup::new("deleted", 32, 24);
    let before = setup.versions();
    setup.restore("at-once");
    setup.daemon.cairn(&["volume", "delete", "at-once", "--yes"]).ok();
    let pack = largest_pack(&setup);
    flip_byte(&pack, 2 * MIB, 0x10).expect("a flipped byte");
    let restored = setup.restore("stuck");
    setup.wait("stuck", |volume| !volume["restore"]["problem"].is_null());
    let job = setup.job(&restored);
    assert!(job["state"] == "running" && !job["problem"].is_null(), "{job}");
    let kept = setup.daemon.cairn(&["job", "cancel", job["id"].as_str().expect("an id")]).refused();
    assert!(kept.stderr.ends_with("hint: it ends with the volume: cairn volume delete stuck\n"), "{kept}");
    let client = setup.daemon.connect("stuck");
    assert!(setup.daemon.cairn(&["volume", "delete", "stuck", "--yes"]).refused().stderr.contains("(busy)"));
    client.disconnect().expect("an end");
    setup.daemon.cairn(&["volume", "delete", "stuck", "--yes"]).ok();
    assert_eq!(setup.job(&restored)["state"], "cancelled");
    setup.assert_nothing_is_left_but(before);
    // A name that is free again, and a daemon that stops in good order in the middle.
    setup.restore("stuck");
    let said = setup.daemon.stop();
    assert!(!said.contains("panicked"), "{said}");
    let daemon = Launch::dev(&setup.dir.path().join("dev")).start();
    let setup = Setup { daemon, ..setup };
    assert_eq!(setup.show("stuck")["status"], "restoring");
    setup.daemon.cairn(&["volume", "delete", "stuck", "--yes"]).ok();
    setup.assert_nothing_is_left_but(before);
}

#[test]
fn a_backup_may_be_deleted_while_it_is_restored() {
    let setup = Setup::new("held", 32, 24);
    let holds = |setup: &Setup| number(&setup.daemon.cairn_json(&["repo", "status", &setup.url]), "holds");
    let wait_for_holds = |setup: &Setup, wanted: u64| {
        let began = Instant::now();
        while holds(setup) != wanted {
            assert!(began.elapsed() < LIMIT, "{} holds\n{}", holds(setup), setup.daemon.said());
            thread::sleep(Duration::from_millis(20));
        }
    };
    // So that it cannot be done before the backup is deleted.
    let pack = largest_pack(&setup);
    flip_byte(&pack, 2 * MIB, 0x10).expect("a flipped byte");
    setup.restore("db2");
    setup.wait("db2", |volume| !volume["restore"]["problem"].is_null());
    wait_for_holds(&setup, 1);
    setup.daemon.cairn(&["backup", "delete", &setup.backup, "--repo", &setup.url, "--yes"]).ok();
    setup.daemon.cairn(&["repo", "gc", &setup.url, "--now"]).ok();
    flip_byte(&pack, 2 * MIB, 0x10).expect("it is mended");
    let setup = setup.killed_and_started();
    setup.wait_until_restored("db2");
    setup.assert_holds("db2", &setup.contents);
    wait_for_holds(&setup, 0);
    setup.daemon.cairn(&["repo", "gc", &setup.url, "--now"]).ok();
    let status = setup.daemon.cairn_json(&["repo", "status", &setup.url]);
    assert_eq!((number(&status, "backups"), number(&status, "packs")), (0, 0), "{status}");
}

#[test]
fn what_cannot_be_restored_is_refused_before_anything_is_made() {
    let setup = Setup::new("refused", 8, 4);
    let before = setup.versions();
    let (key, other) = (text(&setup.dir.path().join("key")), text(&setup.dir.path().join("other")));
    fs::write(&other, [7; 32]).expect("a key file");
    let sealed = format!("file://{}", setup.dir.path().join("sealed").display());
    setup.daemon.cairn(&["repo", "init", &sealed, "--encrypt", "--key-file", &key]).ok();
    setup.daemon.cairn(&["volume", "create", "db", "--size", "8M"]).ok();
    let mut client = setup.daemon.connect("db");
    client.write(0, &setup.contents[..4 * MIB as usize]).expect("a write");
    client.disconnect().expect("an end");
    let made = setup.daemon.cairn_json(&["backup", "create", "db", "--repo", &sealed, "--key-file", &key]);
    let backup = made["id"].as_str().expect("an id");
    setup.daemon.cairn(&["volume", "delete", "db", "--with-snapshots", "--yes"]).ok();

    let nothing = format!("file://{}", setup.dir.path().join("nothing").display());
    let restore = |id: &str, url: &str, more: &[&str]| {
        let command = ["backup", "restore", id, "--repo", url, "--to", "new", "--instant"];
        setup.daemon.cairn(&[&command[..], more].concat())
    };
    for (id, url, more, code) in [
        ("0000000000000000", setup.url.as_str(), &[][..], "(not-found)"),
        (backup, &nothing, &[], "(not-found)"),
        (backup, &sealed, &[], "(conflict)"),
        (backup, &sealed, &["--key-file", &other], "(conflict)"),
        (backup, &sealed, &["--key-file", &nothing], "(conflict)"),
        (backup, &sealed, &["--key-file", &key, "--type", "none"], "(not-found)"),
    ] {
        let refused = restore(id, url, more).refused();
        assert!(refused.stderr.contains(code), "{refused}");
    }
    setup.assert_nothing_is_left_but(before);
    // The beginning of an id is enough.
    restore(&backup[..6], &sealed, &["--key-file", &key]).ok();
    setup.assert_holds("new", &{
        let mut expected = vec![0; 8 * MIB as usize];
        expected[..4 * MIB as usize].copy_from_slice(&setup.contents[..4 * MIB as usize]);
        expected
    });
    assert!(restore(backup, &sealed, &["--key-file", &key]).refused().stderr.contains("(exists)"));
    let setup = setup.killed_and_started();
    setup.wait_until_restored("new");
}
