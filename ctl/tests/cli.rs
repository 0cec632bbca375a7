//! The program itself against a control server: what it prints, where, and with which exit code.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use cairn_api::error::ErrorCode;
use cairn_api::pool::CheckReport;
use cairn_api::snapshot::{DiffExtent, ExtentKind};
use cairnd::control::ControlThread;
use serde_json::{Value, json};

#[path = "../../daemon/tests/support/memory.rs"]
mod memory;
use memory::MemoryEngine;

struct Daemon {
    engine: Arc<MemoryEngine>,
    thread: Option<ControlThread>,
    folder: tempfile::TempDir,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let code = output.status.code().expect("ended by itself");
        Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!((self.code, &*self.stderr), (0, ""), "{}", self.stdout);
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }

    /// Failed with this on stderr and nothing on stdout.
    #[track_caller]
    fn fails(self, stderr: &str) {
        assert_eq!((self.code, &*self.stdout, &*self.stderr), (1, "", stderr));
    }
}

fn cairn() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.env_remove("CAIRN_DEV").env_remove("CAIRN_SOCKET").env_remove("NO_COLOR");
    command.env("TZ", "UTC").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

impl Daemon {
    fn start() -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        let (engine, thread) = memory::serve(&folder.path().join("control.sock"));
        Daemon { engine, thread: Some(thread), folder }
    }

    fn with_demo() -> Daemon {
        let daemon = Daemon::start();
        daemon.run("volume create demo --size 10G").ok();
        daemon.run("snapshot create demo s1").ok();
        daemon.run("snapshot create demo s2").ok();
        daemon
    }

    fn command(&self, args: &str) -> Command {
        let mut command = cairn();
        command.arg("--dev").arg(self.folder.path()).args(args.split_whitespace());
        command
    }

    fn run(&self, args: &str) -> Ran {
        Ran::of(self.command(args).output().expect("runs"))
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.folder.path().join("nbd.sock").display())
    }

    /// Runs on a terminal, where `typed` is typed; returns the exit code and all that the terminal showed.
    fn on_terminal(&self, args: &str, typed: &str) -> (i32, String) {
        let pty = nix::pty::openpty(
            &nix::pty::Winsize { ws_row: 24, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 },
            None,
        )
        .expect("a terminal");
        let side = || -> OwnedFd { pty.slave.try_clone().expect("a descriptor") };
        let mut command = self.command(args);
        command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side());
        let mut child = command.spawn().expect("runs");
        drop(command);
        drop(pty.slave);
        let mut master = File::from(pty.master);
        master.write_all(typed.as_bytes()).expect("typed");
        let mut shown = Vec::new();
        let mut some = [0; 4096];
        // With the last descriptor of its other side closed, a terminal answers EIO.
        while let Ok(n @ 1..) = master.read(&mut some) {
            shown.extend_from_slice(&some[..n]);
        }
        let code = child.wait().expect("ends").code().expect("ended by itself");
        (code, String::from_utf8(shown).expect("text").replace("\r\n", "\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}

#[test]
fn volumes_from_creation_to_deletion() {
    let daemon = Daemon::start();
    assert!(daemon.run("volume list").ok().starts_with("There are no volumes."));
    let connect = daemon.uri("demo");
    assert_eq!(
        daemon.run("volume create demo --size 10G --description first").ok(),
        format!("created volume demo (10.0 GiB)\nconnect  {connect}\n")
    );
    let list = daemon.run("volume list").ok();
    let lines: Vec<_> = list.lines().collect();
    assert!(
        lines[0].starts_with("NAME      SIZE     USED  STATUS     CLIENTS  SNAPSHOTS  ORIGIN  CREATED"),
        "{list}"
    );
    assert!(
        lines[1].starts_with("demo  10.0 GiB  2.5 GiB  available        0          0  -       "),
        "{list}"
    );
    let show = daemon.run("volume show demo").ok();
    for line in ["name         demo", "size         10.0 GiB (10737418240 bytes)", "description  first"] {
        assert!(show.lines().any(|l| l == line), "{show}\nlacks {line:?}");
    }
    assert!(show.ends_with(&format!("connect      {connect}\n")), "{show}");
    assert_eq!(daemon.run("volume resize demo --size 20G").ok(), "volume demo is now 20.0 GiB\n");
    daemon.run("volume create b --size 513").ok();
    assert_eq!(daemon.run("volume delete demo b --yes").ok(), "deleted volume demo\ndeleted volume b\n");
    daemon.run("volume show demo").fails("error: there is no volume \"demo\" (not-found)\n");
}

#[test]
fn snapshots_from_creation_to_deletion() {
    let daemon = Daemon::start();
    daemon.run("volume create demo --size 10G").ok();
    assert_eq!(daemon.run("snapshot create demo s1").ok(), "created snapshot demo@s1 (10.0 GiB)\n");
    daemon.run("snapshot create demo s2 --description weekly").ok();
    let list = daemon.run("snapshot list demo").ok();
    assert!(list.lines().nth(2).is_some_and(|l| l.starts_with("demo    s2    10.0 GiB")), "{list}");
    assert!(list.lines().nth(2).is_some_and(|l| l.ends_with("weekly")), "{list}");
    assert_eq!(list, daemon.run("snapshot list").ok(), "there is only one volume");
    let show = daemon.run("snapshot show demo s1").ok();
    assert!(show.contains(&format!("connect   {}\n", daemon.uri("demo@s1"))), "{show}");

    assert_eq!(
        daemon.run("snapshot clone demo s1 copy").ok(),
        format!("created volume copy (10.0 GiB) from demo@s1\nconnect  {}\n", daemon.uri("copy"))
    );
    let larger = daemon.run("volume create larger --from demo@s2 --size 20G").ok();
    assert!(larger.starts_with("created volume larger (20.0 GiB) from demo@s2\n"), "{larger}");
    let tree = daemon.run("snapshot tree demo").ok();
    let shape: Vec<_> = tree.lines().map(|l| l.split("  ").next().unwrap_or("")).collect();
    assert_eq!(shape, ["● demo", "│ ● larger", "├─╯", "○ s2", "│ ● copy", "├─╯", "○ s1"], "{tree}");
    let ascii = Ran::of(daemon.command("snapshot tree demo").env("LC_ALL", "C").output().expect("runs")).ok();
    assert!(ascii.is_ascii(), "{ascii}");

    assert_eq!(
        daemon.run("snapshot rollback demo s1 --yes").ok(),
        "rolled volume demo back to demo@s1\nwhat it held is kept as demo@before-rollback-6; \
         to undo: cairn snapshot rollback demo before-rollback-6\n"
    );
    assert_eq!(
        daemon.run("snapshot delete demo s1 s2").ok(),
        "deleted snapshot demo@s1\ndeleted snapshot demo@s2\n"
    );
}

#[test]
fn several_volumes_at_one_moment() {
    let daemon = Daemon::start();
    daemon.run("volume create data --size 2G").ok();
    daemon.run("volume create log --size 1G").ok();
    assert_eq!(
        daemon.run("snapshot create data,log nightly").ok(),
        "created snapshot data@nightly (2.0 GiB)\ncreated snapshot log@nightly (1.0 GiB)\n"
    );
    let missing = daemon.run("snapshot create data,no other");
    missing.fails("error: there is no volume \"no\" (not-found)\n");
    assert_eq!(daemon.run("--json snapshot list").json()["snapshots"].as_array().map(Vec::len), Some(2));
}

#[test]
fn differences_are_joined_from_their_pages() {
    let daemon = Daemon::with_demo();
    assert_eq!(daemon.run("snapshot diff demo s1 s2").ok(), "demo@s1 and demo@s2 hold the same\n");
    let extent = |n: u64| DiffExtent { offset: n * 8192, len: 4096, kind: ExtentKind::Data };
    daemon.engine.set_diff((0..5).map(extent).collect());
    let text = daemon.run("snapshot diff demo s1").ok();
    assert_eq!(text.lines().count(), 7, "{text}");
    assert!(text.ends_with("20.0 KiB in 5 ranges changed from demo@s1 to demo\n"), "{text}");
    let value = daemon.run("snapshot diff demo s1 s2 --json").json();
    assert_eq!(value["extents"].as_array().map(Vec::len), Some(5));
    assert_eq!((&value["to"], &value["next"]), (&json!("s2"), &Value::Null));
}

#[test]
fn the_pool_shows_itself_and_a_bad_check_fails() {
    let daemon = Daemon::with_demo();
    let status = daemon.run("pool status").ok();
    assert!(status.contains("snapshots    2\n"), "{status}");
    let checked = daemon.run("pool check").ok();
    assert!(
        checked.ends_with("3 data blocks not read (--data reads them)\nthe pool is sound\n"),
        "{checked}"
    );
    assert_eq!(daemon.run("pool check --data --json").json()["data_verified"], 3);
    daemon.engine.set_report(CheckReport { leaked: 1, ..CheckReport::default() });
    let bad = daemon.run("pool check");
    assert_eq!((bad.code, &*bad.stderr), (1, ""));
    assert!(bad.stdout.ends_with("leaked: 1 block\nthe pool is not sound\n"), "{}", bad.stdout);
    let bad = daemon.run("pool check --json");
    assert_eq!(bad.code, 1);
    assert_eq!(serde_json::from_str::<Value>(&bad.stdout).expect("JSON")["clean"], false);
}

#[test]
fn json_is_the_apis() {
    let daemon = Daemon::with_demo();
    let volume = daemon.run("volume show demo --json").json();
    assert_eq!((&volume["name"], &volume["size"]), (&json!("demo"), &json!(10u64 << 30)));
    assert_eq!(daemon.run("--json volume list").json(), json!({ "volumes": [volume] }));
    assert_eq!(daemon.run("--json snapshot create demo s3").json()["name"], "s3");
    assert_eq!(daemon.run("--json snapshot tree demo").json()["nodes"].as_array().map(Vec::len), Some(4));
    assert_eq!(daemon.run("--json snapshot rollback demo s1 --yes").json()["undo"]["automatic"], true);
    assert_eq!(daemon.run("--json pool status").json()["format"], 1);
    assert_eq!(
        daemon.run("--json snapshot delete demo s1 s2").json(),
        json!({"deleted": ["demo@s1", "demo@s2"]})
    );
    // One that works and one that does not: both are told.
    let half = daemon.run("--json snapshot delete demo s3 no");
    assert_eq!((half.code, &*half.stdout), (1, "{\"deleted\":[\"demo@s3\"]}\n"));
    let error: Value = serde_json::from_str(&half.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "not-found");
}

#[test]
fn errors_are_one_line_and_a_hint() {
    let daemon = Daemon::with_demo();
    daemon.engine.fail_next(ErrorCode::NoSpace, "the pool is full", Some("delete something"));
    daemon
        .run("snapshot create demo s9")
        .fails("error: the pool is full (no-space)\nhint: delete something\n");
    daemon.run("volume create demo --size 1G").fails("error: there is already a volume \"demo\" (exists)\n");
    let slash = daemon.run("volume show a/b");
    slash.fails("error: there is no volume \"a/b\" (not-found)\n");
    let usage = daemon.run("volume create x --size 1.5G");
    assert_eq!((usage.code, &*usage.stdout), (2, ""));
    assert!(usage.stderr.contains("write 1536M instead of 1.5G"), "{}", usage.stderr);
}

#[test]
fn a_daemon_that_is_not_there_is_said_and_how_to_start_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| Ran::of(cairn().args(args).output().expect("runs"));
    let dev = folder.path().display().to_string();
    run(&["--dev", &dev, "volume", "list"]).fails(&format!(
        "error: no cairnd is listening on {dev}/control.sock (unreachable)\nhint: start it: cairnd --dev {dev}\n"
    ));
    let socket = folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
    let stale = run(&["--socket", &socket.display().to_string(), "--json", "pool", "status"]);
    assert_eq!((stale.code, &*stale.stdout), (1, ""));
    let error: Value = serde_json::from_str(&stale.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "unreachable");
    assert!(error["error"]["hint"].as_str().is_some_and(|h| h.contains("systemctl start cairnd")), "{error}");
}

/// Answers one connection with fixed bytes.
fn imposter(path: &Path, answer: &'static [u8]) -> std::thread::JoinHandle<()> {
    let listener = std::os::unix::net::UnixListener::bind(path).expect("binds");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).expect("a request");
        stream.write_all(answer).expect("sends");
    })
}

#[test]
fn whatever_else_listens_there_is_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    for (number, (answer, code)) in [
        (&b"NBDMAGICIHAVEOPT\0\x03"[..], "cut-off"),
        (b"", "cut-off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not-understood"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno!", "not-understood"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "broken-answer"),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = folder.path().join(number.to_string());
        let server = imposter(&socket, answer);
        let ran =
            Ran::of(cairn().arg("--socket").arg(&socket).args(["volume", "list"]).output().expect("runs"));
        server.join().expect("served");
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{number}");
        assert!(ran.stderr.contains(&format!("({code})")), "{number}: {}", ran.stderr);
    }
}

#[test]
fn the_environment_says_where_the_daemon_is() {
    let daemon = Daemon::with_demo();
    let list = |key: &str, value: &Path| {
        Ran::of(cairn().env(key, value).args(["volume", "list"]).output().expect("runs")).ok()
    };
    assert!(list("CAIRN_DEV", daemon.folder.path()).contains("demo"));
    assert!(list("CAIRN_SOCKET", &daemon.folder.path().join("control.sock")).contains("demo"));
}

#[test]
fn what_cannot_be_undone_is_asked_for() {
    let daemon = Daemon::with_demo();
    for args in ["volume delete demo", "snapshot rollback demo s1"] {
        daemon.run(args).fails(
            "error: this needs a confirmation, and there is no terminal to ask on (not-confirmed)\n\
             hint: add --yes\n",
        );
    }
    let (code, shown) = daemon.on_terminal("volume delete demo --with-snapshots", "n\n");
    assert_eq!(code, 1, "{shown}");
    assert!(
        shown.contains("Delete volume demo (10.0 GiB) with 2 snapshots? This cannot be undone. [y/N]"),
        "{shown}"
    );
    assert!(shown.contains("nothing was done"), "{shown}");
    assert!(daemon.run("volume list").ok().contains("demo"));
    let (code, shown) = daemon.on_terminal("snapshot rollback demo s1", "y\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("rolled volume demo back to demo@s1"), "{shown}");
    let (code, shown) = daemon.on_terminal("volume delete demo --with-snapshots", "yes\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("deleted volume demo"), "{shown}");
    daemon.run("volume delete no").fails("error: there is no volume \"no\" (not-found)\n");
}

#[test]
fn a_volume_in_use_or_with_snapshots_stays() {
    let daemon = Daemon::with_demo();
    daemon
        .run("volume delete demo --yes")
        .fails("error: volume \"demo\" has snapshots (has-snapshots)\nhint: delete them first\n");
    daemon.engine.connect("demo", 1);
    daemon
        .run("volume delete demo --yes --with-snapshots")
        .fails("error: volume \"demo\" is in use (busy)\n");
    daemon.run("snapshot rollback demo s1 --yes").fails("error: volume \"demo\" is in use (busy)\n");
    daemon.run("snapshot rollback demo s1 --yes --force").ok();
    assert!(daemon.run("volume list").ok().contains("in-use"));
}

#[test]
fn colours_and_widths_are_for_terminals_only() {
    let daemon = Daemon::with_demo();
    daemon.run(&format!("volume create {} --size 1G", "long-name-".repeat(9))).ok();
    let (code, shown) = daemon.on_terminal("volume list", "");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("\u{1b}["), "colours on a terminal: {shown}");
    let mut plain = String::new();
    let mut escape = false;
    for c in shown.chars() {
        match (escape, c) {
            (false, '\u{1b}') => escape = true,
            (true, 'm') => escape = false,
            (true, _) => {}
            (false, c) => plain.push(c),
        }
    }
    assert!(plain.lines().all(|line| line.chars().count() <= 60), "{plain}");
    let piped = daemon.run("volume list").ok();
    assert!(!piped.contains('\u{1b}'), "{piped}");
    assert_eq!(piped.lines().count(), 3, "one line a volume in a pipe: {piped}");
    let (_, shown) = daemon.on_terminal("pool check", "");
    assert!(shown.contains("the pool is sound"), "{shown}");
}

#[test]
fn a_closed_pipe_is_no_reason_to_complain() {
    let daemon = Daemon::with_demo();
    for args in ["volume list", "--json volume list", "snapshot tree demo", "--help"] {
        let mut command = daemon.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("reads");
        assert_eq!((child.wait().expect("ends").code(), &*stderr), (Some(0), ""), "{args}");
    }
}

#[test]
fn help_has_examples() {
    for args in ["--help", "volume create --help", "snapshot create --help", "snapshot diff --help"] {
        let ran = Ran::of(cairn().args(args.split(' ')).output().expect("runs"));
        let help = ran.ok();
        assert!(help.contains("Examples:") && help.contains("cairn "), "{args}: {help}");
    }
}
