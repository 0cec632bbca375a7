//! Users of one machine: each sees and changes what the configuration grants it, and the audit log has what they did.
//!
//! To be somebody else takes root; without, there is nothing to see here but that.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::program::{Outcome, binary, run_command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Uid;
use serde_json::Value;

/// Ids that nobody has.
const ALICE: u32 = 64_001;
const BOB: u32 = 64_002;
const READERS: u32 = 64_070;

const GRANTS: &str = r#"
[[access.grant]]
user = 64001
role = "member"
projects = ["web"]

[[access.grant]]
group = 64070
role = "reader"
"#;

/// A machine with users.
struct Place {
    dir: tempfile::TempDir,
    launch: Launch,
}

impl Place {
    /// None where nobody else can be asked to do something.
    fn new() -> Option<Place> {
        if !Uid::effective().is_root() {
            eprintln!("not root: cannot be somebody else, so this is not tested");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let open =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        open(dir.path(), 0o755);
        // Where it was built may be out of their reach.
        let program = dir.path().join("cairn");
        fs::copy(binary("cairn"), &program).expect("a copy");
        open(&program, 0o755);
        let more = format!("[audit]\nlog = \"audit.log\"\n{GRANTS}");
        let launch = Launch::config_with(dir.path(), &dir.path().join("pool"), "1G", &more);
        Some(Place { dir, launch })
    }

    fn start(&self) -> Daemon {
        let daemon = self.launch.start();
        for socket in [daemon.control_socket(), daemon.nbd_socket()] {
            fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).expect("a mode");
        }
        daemon
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    fn run_as(&self, uid: u32, gid: u32, program: &str, args: &[&str]) -> Outcome {
        let mut command = Command::new(program);
        command.args(args).uid(uid).gid(gid).current_dir("/");
        run_command(command)
    }

    /// `cairn` as somebody.
    fn cairn(&self, uid: u32, gid: u32, args: &[&str]) -> Outcome {
        let program = self.dir.path().join("cairn");
        let dev = self.dir.path().to_str().expect("UTF-8");
        self.run_as(uid, gid, program.to_str().expect("UTF-8"), &[&["--dev", dev], args].concat())
    }

    fn lines(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.log()).expect("a log");
        log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    fn reload(&self, daemon: &Daemon, said: &str) {
        let before = daemon.said().len();
        kill(daemon.pid(), Signal::SIGHUP).expect("a signal can be sent");
        daemon.says(before, &[said]);
    }
}

fn names(list: &Value) -> BTreeSet<&str> {
    list["volumes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|volume| volume["name"].as_str().expect("a name"))
        .collect()
}

#[test]
fn each_user_has_what_it_was_granted() {
    let Some(place) = Place::new() else { return };
    let daemon = place.start();
    daemon.cairn(&["volume", "create", "db", "--size", "1M", "--project", "db"]).ok();
    daemon.cairn(&["snapshot", "create", "db", "s"]).ok();
    let alice = |args: &[&str]| place.cairn(ALICE, ALICE, args);

    assert!(alice(&["whoami"]).ok().stdout.contains("use and change the volumes of web"));
    alice(&["volume", "create", "web", "--size", "1M"]).ok();
    let seen = alice(&["--json", "volume", "list"]).ok().json();
    assert_eq!(names(&seen), BTreeSet::from(["web"]));
    assert_eq!(seen["volumes"][0]["project"], "web");
    assert!(
        alice(&["volume", "delete", "db", "--yes"])
            .refused()
            .stderr
            .contains("there is no volume 'db' (not-found)")
    );
    assert!(alice(&["pool", "grow", "main", "--limit", "2G"]).refused().stderr.contains("(forbidden)"));
    let all = daemon.cairn_json(&["volume", "list"]);
    assert_eq!(names(&all), BTreeSet::from(["db", "web"]));

    // Over NBD, too.
    let uri = |name: &str| daemon.uri(name);
    let nbdinfo = |uid, gid, args: &[&str]| place.run_as(uid, gid, "nbdinfo", args);
    let list = nbdinfo(ALICE, ALICE, &["--list", "--json", &uri("")]).ok().json();
    let exports = list["exports"].as_array().expect("a list");
    assert_eq!(exports.iter().map(|export| &export["export-name"]).collect::<Vec<_>>(), ["web"]);
    nbdinfo(ALICE, ALICE, &["--size", &uri("web")]).ok();
    nbdinfo(ALICE, ALICE, &["--size", &uri("db")]).refused();
    nbdinfo(ALICE, ALICE, &["--size", &uri("db@s")]).refused();

    // A reader looks, and a stranger does not.
    let reader = |args: &[&str]| place.cairn(BOB, READERS, args);
    assert_eq!(names(&reader(&["--json", "volume", "list"]).ok().json()).len(), 2);
    reader(&["pool", "status"]).ok();
    assert!(
        reader(&["snapshot", "create", "db", "t"]).refused().stderr.contains("but not change it (forbidden)")
    );
    nbdinfo(BOB, READERS, &["--size", &uri("db")]).refused();
    assert!(place.cairn(BOB, BOB, &["whoami"]).ok().stdout.contains("role  none"));
    let stranger = place.cairn(BOB, BOB, &["volume", "list"]).refused();
    assert!(
        stranger.stderr.contains("the user with the id 64002 has no role here (forbidden)"),
        "{stranger}"
    );
    assert!(stranger.stderr.contains("cairn whoami"), "{stranger}");

    // What is taken away holds at once, and what is granted.
    let file = place.dir.path().join("cairnd.toml");
    let text = fs::read_to_string(&file).expect("the configuration");
    let others = text
        .replace("user = 64001", "user = 64002")
        .replace("group = 64070", "group = \"no-such-group-here\"");
    fs::write(&file, others).expect("written");
    place.reload(&daemon, "access.grant has changed and holds now");
    place.reload(&daemon, "there is no group 'no-such-group-here' on this machine");
    alice(&["volume", "list"]).refused();
    reader(&["volume", "show", "web"]).ok();
    reader(&["volume", "show", "db"]).refused();
    daemon.stop();
}

#[test]
fn what_was_changed_is_in_the_audit_log() {
    let Some(place) = Place::new() else { return };
    let daemon = place.start();
    place
        .cairn(ALICE, ALICE, &["volume", "create", "web", "--size", "1M", "--description", "of \"Alice\""])
        .ok();
    place.cairn(ALICE, ALICE, &["volume", "create", "web", "--size", "1M"]).refused();
    place.cairn(BOB, BOB, &["volume", "list"]).refused();
    place.run_as(ALICE, ALICE, "nbdcopy", &["--", "/dev/null", &daemon.uri("web")]);
    place.run_as(ALICE, ALICE, "nbdinfo", &["--size", &daemon.uri("nothing")]).refused();
    place.run_as(BOB, READERS, "nbdinfo", &["--size", &daemon.uri("web")]).refused();
    daemon.kill_9();

    let lines = place.lines();
    let of = |event: &str, path: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["event"] == event && line["path"] == path).collect()
    };
    assert_eq!(lines[0]["event"], "started");
    let (asked, answered) = (of("asked", "/v1/volumes"), of("answered", "/v1/volumes"));
    assert_eq!((asked.len(), asked[0]["uid"].as_u64()), (2, Some(u64::from(ALICE))));
    assert_eq!(
        (&asked[0]["method"], &asked[0]["body"]["description"]),
        (&"POST".into(), &"of \"Alice\"".into())
    );
    let ends: Vec<_> = answered.iter().map(|line| (line["status"].as_u64(), line["code"].as_str())).collect();
    assert_eq!(ends, [(Some(201), None), (Some(409), Some("exists")), (Some(403), Some("forbidden"))]);
    assert_eq!(answered[0]["request"], asked[0]["request"]);
    assert_eq!(
        answered[2]["uid"].as_u64(),
        Some(u64::from(BOB)),
        "who may not look is there, who may is not"
    );
    let opened: Vec<_> = lines.iter().filter(|line| line["event"] == "opened").collect();
    assert!(opened.iter().any(|line| line["export"] == "web" && line.get("refused").is_none()), "{opened:?}");
    assert!(
        opened.iter().any(|line| line["export"] == "web" && line["refused"] == "forbidden"),
        "{opened:?}"
    );

    // Only ever appended, and by the next daemon, too.
    let before = fs::read(place.log()).expect("a log");
    let daemon = place.start();
    daemon.cairn(&["volume", "delete", "web", "--yes"]).ok();
    assert!(fs::read(place.log()).expect("a log").starts_with(&before));
    assert_eq!(place.lines().iter().filter(|line| line["event"] == "started").count(), 2);
    let mode = fs::metadata(place.log()).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    daemon.stop();
}

#[test]
fn nothing_is_changed_that_cannot_be_written_down() {
    let Some(place) = Place::new() else { return };
    let daemon = place.start();
    let moved = place.dir.path().join("audit.log.1");
    fs::rename(place.log(), &moved).expect("moves");
    symlink("/dev/full", place.log()).expect("a link");
    place.reload(&daemon, "has not changed");
    let create = ["volume", "create", "v", "--size", "1M"];
    let refused = daemon.cairn(&create).refused();
    assert!(refused.stderr.contains("the audit log first, and that cannot be written"), "{refused}");
    assert!(refused.stderr.contains("(unavailable)"), "{refused}");
    assert_eq!(names(&daemon.cairn_json(&["volume", "list"])), BTreeSet::new(), "looking goes on");

    fs::remove_file(place.log()).expect("removes");
    place.reload(&daemon, "has not changed");
    daemon.cairn(&create).ok();
    assert_eq!(place.lines().len(), 2, "asked and answered, in a file of its own");
    daemon.stop();

    fs::remove_file(place.log()).expect("removes");
    symlink("/dev/full", place.log()).expect("a link");
    let refusal = place.launch.try_start().expect_err("it could not change anything");
    refusal.assert_clear();
    assert!(refusal.said.contains("cannot write the audit log"), "{refusal}");
}
