//! The program itself against a control server: what it prints, where, and with which exit code.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cairn_api::attachment::Consumer;
use cairn_api::pool::PoolStatus;
use cairn_api::snapshot::{CreateSnapshot, MAX_DIFF_EXTENTS};
use cairn_api::stats::IoKind;
use cairn_cow::{BLOCK_SIZE, ExtentKind};
use cairnd::control::{ControlThread, Engine};
use cairnd::pools::PoolSlot;
use serde_json::{Value, json};

#[path = "../../daemon/tests/api/world.rs"]
#[expect(dead_code, reason = "the daemon's own tests use all of it")]
mod world;
use world::World;

struct Daemon {
    world: World,
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

/// What a volume that is connected once says, and what to do about it.
fn connected(volume: &str) -> String {
    format!(
        "1 NBD client is connected (busy)\n\
         hint: disconnect the NBD clients first, or have the daemon do it: cairn volume detach {volume}\n"
    )
}

/// What the daemon says of a volume, a snapshot or a pool that is not there.
fn not_found(message: &str) -> String {
    format!(
        "error: {message} (not-found)\n\
         hint: \"cairn volume list\", \"cairn snapshot list\" and \"cairn pool list\" show what there is\n"
    )
}

fn fio() -> Consumer {
    Consumer::Process { uid: 1000, pid: 4211, command: Some("fio".into()) }
}

impl Daemon {
    fn start() -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        let world = World::in_folder(folder.path());
        let thread = world.serve();
        Daemon { world, thread: Some(thread), folder }
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

    /// `fio` connects to a volume so many times.
    fn connect(&self, volume: &str, connections: usize) {
        for _ in 0..connections {
            self.world.enter(volume, &fio(), 0, false).expect("is let in");
        }
    }

    fn zero_every_other_block(&self, volume: &str, blocks: usize) {
        let (pool, head) = (self.world.pool.clone(), self.world.pool.resolve(volume).expect("the volume").id);
        let zeroed = self.world.reactor.handle().spawn_with(move || async move {
            for n in 0..blocks as u64 {
                pool.zero(0, head, 2 * n * BLOCK_SIZE, BLOCK_SIZE, ExtentKind::Zero).await?;
            }
            Ok::<_, cairn_cow::Error>(())
        });
        zeroed.expect("the reactor runs").wait().expect("the task ends").expect("is zeroed");
    }

    /// Writes to a volume until its pool is nearly full, and stays so whatever maintenance gets back.
    fn fill(&self, pool: &str, volume: &str) {
        let has_room = || {
            let PoolStatus { used, free, .. } = self.world.ok(self.world.engine.pool(Some(pool.into())));
            used * 100 < (used + free) * 98
        };
        for block in (0..10_000).take_while(|_| has_room()) {
            self.world.write(volume, block, 1);
        }
    }

    /// Takes snapshots of a volume until its pool has no room for their records.
    fn fill_catalog(&self, volume: &str) {
        let engine = &self.world.engine;
        let request = |n| CreateSnapshot {
            name: format!("n{n}"),
            description: "d".repeat(1000),
            ..CreateSnapshot::default()
        };
        let take = |n| self.world.wait(engine.create_snapshot(volume.into(), request(n)));
        assert!((0..1000).any(|n| take(n).is_err()), "there is always room for more");
    }

    /// The pool cannot be opened, after all.
    fn break_pool(&self, pool: &str, why: &str) {
        let pools = &self.world.volumes.pools;
        let (slot, _) = pools.remove(pool).expect("the pool");
        pools.add(PoolSlot::new(pool, slot.path, Err(why.into())));
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
    daemon.world.write("demo", 0, 1);
    let list = daemon.run("volume list").ok();
    let lines: Vec<_> = list.lines().collect();
    assert!(
        lines[0].starts_with("NAME      SIZE     USED  STATUS     TYPE     SNAPSHOTS  CREATED"),
        "{list}"
    );
    assert!(lines[1].starts_with("demo  10.0 GiB  4.0 KiB  available  default          0  "), "{list}");
    let show = daemon.run("volume show demo").ok();
    for line in ["name         demo", "size         10.0 GiB (10737418240 bytes)", "description  first"] {
        assert!(show.lines().any(|l| l == line), "{show}\nlacks {line:?}");
    }
    assert!(show.ends_with(&format!("connect      {connect}\n")), "{show}");
    assert_eq!(daemon.run("volume resize demo --size 20G --yes").ok(), "volume demo is now 20.0 GiB\n");
    daemon.run("volume create b --size 513").ok();
    assert_eq!(daemon.run("volume delete demo b --yes").ok(), "deleted volume demo\ndeleted volume b\n");
    daemon.run("volume show demo").fails(&not_found("there is no volume 'demo'"));
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
        "rolled volume demo back to demo@s1\nwhat it held is kept as demo@before-rollback-to-s1; \
         to undo: cairn snapshot rollback demo before-rollback-to-s1\n"
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
    daemon.run("snapshot create data,no other").fails(&not_found("there is no volume 'no'"));
    assert_eq!(daemon.run("--json snapshot list").json()["snapshots"].as_array().map(Vec::len), Some(2));
}

/// More than one answer holds.
const RANGES: usize = MAX_DIFF_EXTENTS + 1;

#[test]
fn differences_are_joined_from_their_pages() {
    let daemon = Daemon::with_demo();
    assert_eq!(daemon.run("snapshot diff demo s1 s2").ok(), "demo@s1 and demo@s2 hold the same\n");
    daemon.zero_every_other_block("demo", RANGES);
    let text = daemon.run("snapshot diff demo s1").ok();
    assert_eq!(text.lines().count(), RANGES + 2);
    assert!(text.ends_with("256.0 MiB in 65537 ranges changed from demo@s1 to demo\n"));
    daemon.run("snapshot create demo s3").ok();
    let value = daemon.run("snapshot diff demo s2 s3 --json").json();
    let extent = |n: u64| json!({"offset": 2 * n * BLOCK_SIZE, "len": BLOCK_SIZE, "kind": "zero"});
    assert_eq!(value["extents"], (0..RANGES as u64).map(extent).collect::<Value>());
    assert_eq!((&value["to"], &value["next"]), (&json!("s3"), &Value::Null));
}

#[test]
fn the_pool_shows_itself_and_a_bad_check_fails() {
    let daemon = Daemon::with_demo();
    let status = daemon.run("pool status").ok();
    assert!(status.contains("snapshots    2\n"), "{status}");
    for block in 0..3 {
        daemon.world.write("demo", block, 0x5a + block as u8);
    }
    let checked = daemon.run("pool check").ok();
    assert!(
        checked.ends_with("3 data blocks not read (--data reads them)\nthe pool is sound\n"),
        "{checked}"
    );
    assert_eq!(daemon.run("pool check --data --json").json()["data_verified"], 3);
    daemon.world.damage(0x5b);
    let bad = daemon.run("pool check --data");
    assert_eq!((bad.code, &*bad.stderr), (1, ""));
    assert!(
        bad.stdout.ends_with(
            "does not match its checksum\n\
             unreadable: demo, bytes 4096 to 8192 (4.0 KiB)\n\
             in all: 4.0 KiB cannot be read; reading them is an error until they are written again or trimmed\n\
             the pool is not sound\n"
        ),
        "{}",
        bad.stdout
    );
    let bad = daemon.run("pool check --data --json");
    assert_eq!(bad.code, 1);
    assert_eq!(serde_json::from_str::<Value>(&bad.stdout).expect("JSON")["clean"], false);
}

#[test]
fn jobs_are_listed_shown_followed_and_cancelled() {
    let daemon = Daemon::with_demo();
    assert_eq!(daemon.run("job list").ok(), "There are no such jobs.\n");
    let begun = daemon.run("pool check --detach").ok();
    let id = begun.split(' ').next().expect("an id").to_owned();
    assert_eq!(begun, format!("{id} has begun; see how far it is: cairn job show {id}\n"));
    let followed = daemon.run(&format!("job show {id} --follow")).ok();
    assert!(followed.contains("state     done\n") && followed.ends_with("the pool is sound\n"), "{followed}");
    assert_eq!(daemon.run(&format!("job show {id}")).ok(), followed);
    let list = daemon.run("job list").ok();
    assert_eq!(list.lines().nth(1), Some(&*format!("{id}  check of pool main  done   just now")));
    let json = daemon.run("job list --kind check --json").json();
    assert_eq!((&json["jobs"][0]["id"], json["jobs"].as_array().map(Vec::len)), (&json!(id), Some(1)));
    assert_eq!(daemon.run("job list --state running").ok(), "There are no such jobs.\n");
    daemon.run(&format!("job cancel {id}")).fails("error: the job has ended already: done (ended)\n");
    daemon.run("job show check-0").fails(
        "error: there is no job 'check-0' any more (not-found)\n\
         hint: \"cairn job list\" shows what there is\n",
    );

    daemon.world.write("demo", 0, 0x5a);
    daemon.run("pool scrub --limit-rate 1 --detach").ok();
    let scrub = daemon.run("job list --kind scrub --json").json()["jobs"][0]["id"].clone();
    let scrub = scrub.as_str().expect("an id");
    assert_eq!(daemon.run(&format!("job cancel {scrub}")).ok(), "cancelled the scrub of pool main\n");
    let ended = daemon.run(&format!("job show {scrub} --follow"));
    assert!(ended.code == 1 && ended.stdout.contains("state     cancelled\n"), "{}", ended.stdout);

    // Done, and bad news all the same.
    daemon.world.damage(0x5a);
    let begun = daemon.run("pool check --data --detach --json").json();
    let id = begun["id"].as_str().expect("an id");
    let bad = daemon.run(&format!("job show {id} --follow"));
    assert!(bad.code == 1 && bad.stdout.ends_with("the pool is not sound\n"), "{}", bad.stdout);
    assert_eq!(daemon.run(&format!("job show {id}")).code, 0, "it is shown, and that is all");
    let offline = daemon.run("pool check ./pool.cairn --detach");
    assert_eq!((offline.code, &*offline.stdout), (2, ""));
}

#[test]
fn volumes_are_edited_and_retyped() {
    let daemon = Daemon::with_demo();
    assert_eq!(daemon.run("volume edit demo --description x --shared on").ok(), "changed volume demo\n");
    let show = daemon.run("--json volume show demo").json();
    assert_eq!((&show["description"], &show["shared"]), (&json!("x"), &json!(true)));
    assert!(daemon.run("volume list").ok().contains("SHARED"));
    assert_eq!(daemon.run("--json volume edit demo --shared off").json()["shared"], false);
    assert_eq!(daemon.run("volume edit demo --name web").ok(), "volume demo is now called web\n");
    assert_eq!(daemon.run("volume show web").ok().lines().next(), Some("name         web"));
    let nothing = daemon.run("volume edit web");
    assert_eq!((nothing.code, &*nothing.stdout), (2, ""));
    daemon.connect("web", 1);
    daemon
        .run("volume edit web --name demo")
        .fails(&format!("error: volume 'web' with its snapshots is in use: {}", connected("web")));

    daemon.run("type create fast").ok();
    assert_eq!(daemon.run("volume retype web fast").ok(), "volume web is now of type fast\n");
    assert_eq!(daemon.run("--json volume retype web default").json()["type"], "default");
    daemon
        .run("volume retype web no")
        .fails("error: there is no type 'no' (not-found)\nhint: \"cairn type list\" shows what there is\n");
    let made = daemon.run("--json volume create db --size 1G --type fast --shared").json();
    assert_eq!((&made["type"], &made["shared"]), (&json!("fast"), &json!(true)));
}

#[test]
fn volumes_are_tagged_found_protected_and_kept_away_from() {
    let daemon = Daemon::with_demo();
    daemon.run("volume create web --size 1G --tag env=prod --tag team=a --project shop --bootable on").ok();
    let list = |args: &str| {
        let value = daemon.run(&format!("--json volume list {args}")).json();
        let volumes = value["volumes"].as_array().expect("a list").iter();
        volumes.map(|volume| volume["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("--tag env=prod --tag team --project shop --bootable on"), ["web"]);
    assert_eq!(list("--tag env=test"), [""; 0]);
    assert_eq!(list("--sort -size"), ["demo", "web"]);
    assert_eq!(list("--sort -name --limit 1"), ["web"]);
    assert_eq!(list("--sort -name --limit 1 --after web"), ["demo"]);
    assert_eq!(daemon.run("volume list --search nothing").ok(), "No volume is like that.\n");
    assert!(daemon.run("volume list --limit 1").ok().ends_with("There are more: --after demo\n"));
    daemon
        .run("volume list --sort colour")
        .fails("error: \"colour\" is nothing to sort by: there are name, size, used, created, status, type, pool, project (invalid-argument)\n");
    assert_eq!(
        daemon.run("volume edit web --tag team= --tag env=test --write-protect on").ok(),
        "changed volume web\n"
    );
    let shown = daemon.run("volume show web").ok();
    assert!(
        shown.contains("write-protected  yes\n") && shown.contains("tag              env=test\n"),
        "{shown}"
    );
    daemon.run("volume delete web --yes").fails(
        "error: the volume 'web' is write-protected (read-only)\n\
         hint: first take that off: cairn volume edit web --write-protect off\n",
    );
    daemon.run("volume edit web --write-protect off").ok();
    assert_eq!(
        daemon.run("volume reset-status web --status maintenance --reason moving").ok(),
        "the status of volume web is maintenance now\n"
    );
    assert_eq!(list("--status maintenance"), ["web"]);
    daemon.run("volume attach web").fails(
        "error: the volume 'web' is in maintenance: moving (busy)\nhint: wait for it to end, then try again\n",
    );
    assert_eq!(daemon.run("--json volume reset-status web --status available").json()["status"], "available");
}

#[test]
fn what_happens_can_be_followed() {
    let daemon = Daemon::with_demo();
    let text = daemon.run("events").ok();
    let lines: Vec<_> = text.lines().map(|line| &line[21..]).collect();
    assert_eq!(
        lines,
        [
            "volume.created       volume demo (10.0 GiB) is there",
            "snapshot.created     snapshot demo@s1 was taken",
            "snapshot.created     snapshot demo@s2 was taken",
        ]
    );
    assert_eq!(
        daemon.run("events --severity error").ok(),
        "Nothing of that has happened since the daemon started.\n"
    );
    assert_eq!(daemon.run("--json events --kind snapshot --limit 1").json()["events"][0]["snapshot"], "s2");

    let mut command = daemon.command("--json events --follow --limit 1 --volume demo");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next =
        || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["snapshot"], "s2");
    daemon.run("volume create other --size 1G").ok();
    daemon.run("snapshot delete demo s1").ok();
    assert_eq!(next()["kind"], "snapshot.deleted");
    child.kill().expect("is ended");
    child.wait().expect("ends");
}

#[test]
fn what_volumes_do_is_looked_at_again_and_again() {
    let daemon = Daemon::with_demo();
    daemon.run("volume create other --size 1G").ok();
    let w = &daemon.world;
    let head = w.pool.resolve("other").expect("the volume").head;
    let counted = w.volumes.figures.enter((w.pool.id(), head), Arc::default());
    std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while end.try_recv().is_err() {
                counted.counters().begin(IoKind::Read).end(Some(1 << 20));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let plain = daemon.run("top -n 2 --interval 0.2").ok();
        let samples = daemon.run("--json top -n 2 --interval 0.2 --sort name").ok();
        let (code, shown) = daemon.on_terminal("top -n 2 --interval 0.2", "");
        ended.send(()).expect("it still counts");

        assert!(!plain.contains('\u{1b}'), "{plain}");
        let lines: Vec<_> = plain.lines().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("VOLUME")).count(), 2, "{plain}");
        assert!(
            lines[3].starts_with("other ") && lines[4].starts_with("demo "),
            "the busiest first: {plain}"
        );

        let samples: Vec<Value> =
            samples.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
        assert_eq!(samples.len(), 2);
        for sample in samples {
            let [demo, other] = &sample["volumes"].as_array().expect("a list")[..] else {
                panic!("{sample}")
            };
            assert_eq!(
                (&demo["volume"], &demo["iops"], &demo["p99_us"]),
                (&json!("demo"), &json!(0.0), &json!(null))
            );
            let number = |field: &str| other[field].as_f64().expect("a number");
            assert!((1.0..=1100.0).contains(&number("iops")), "{sample}");
            let seconds = sample["seconds"].as_f64().expect("a number");
            // The figures may have been looked at between a request's bytes and the request.
            let requests = number("bytes_read") / f64::from(1 << 20);
            assert!((requests - number("iops")).abs() <= 1.1 / seconds, "{sample}");
            assert!(number("mean_us") > 0.0 && number("p99_us") > 0.0 && seconds > 0.1, "{sample}");
        }

        assert_eq!(code, 0, "{shown}");
        assert!(
            shown.starts_with("\u{1b}[?25l") && shown.ends_with("\u{1b}[?25h"),
            "the cursor is back: {shown:?}"
        );
        assert_eq!(shown.matches("\u{1b}[H").count(), 2, "each is drawn over the one before: {shown:?}");
    });
}

/// Whoever interrupts it gets the cursor back.
#[test]
fn looking_on_ends_when_it_is_interrupted() {
    let daemon = Daemon::with_demo();
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None).expect("a terminal");
    let mut command = daemon.command("top --interval 0.2");
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(pty.slave);
    let mut child = command.spawn().expect("runs");
    drop(command);
    let (mut master, mut shown, mut some) = (File::from(pty.master), Vec::new(), [0; 4096]);
    let mut interrupted = false;
    while let Ok(n @ 1..) = master.read(&mut some) {
        shown.extend_from_slice(&some[..n]);
        if !interrupted && String::from_utf8_lossy(&shown).contains("demo") {
            let child = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("an id"));
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGINT).expect("is interrupted");
            interrupted = true;
        }
    }
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.ends_with("\u{1b}[?25h"), "{shown:?}");
}

#[test]
fn snapshots_are_edited_tagged_and_held() {
    let daemon = Daemon::with_demo();
    daemon.run("snapshot create demo s3 --tag keep=yes").ok();
    let named = |args: &str| {
        let value = daemon.run(&format!("--json snapshot list {args}")).json();
        let snapshots = value["snapshots"].as_array().expect("a list").iter();
        snapshots.map(|snapshot| snapshot["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(named("demo --tag keep"), ["s3"]);
    assert_eq!(named("--sort -name --limit 2"), ["s3", "s2"]);
    assert_eq!(daemon.run("snapshot list --held on").ok(), "No snapshot is like that.\n");
    assert_eq!(
        daemon.run("snapshot edit demo s3 --name final --tag keep= --description x").ok(),
        "snapshot demo@s3 is now called demo@final\n"
    );
    assert_eq!(
        daemon.run("snapshot hold demo final audit --reason May").ok(),
        "snapshot demo@final cannot be deleted: 1 hold\n"
    );
    daemon.run("snapshot delete demo final").fails(
        "error: the snapshot 'demo@final' is held by 'audit' (May) (held)\n\
         hint: release it first: cairn snapshot release demo final audit\n",
    );
    assert!(daemon.run("volume delete demo --with-snapshots --yes").stderr.contains("(held)"));
    assert_eq!(daemon.run("snapshot release demo final audit").ok(), "snapshot demo@final can be deleted\n");
    daemon.run("snapshot delete demo final").ok();
}

#[test]
fn attachments_come_and_go() {
    let daemon = Daemon::with_demo();
    assert_eq!(daemon.run("volume attachments demo").ok(), "Nobody uses volume demo or its snapshots.\n");
    assert_eq!(daemon.run("volume attach demo").ok(), "/dev/nbd0\n", "nothing else, for scripts");
    daemon.run("volume attach demo").fails(
        "error: volume 'demo' is in use: it is attached as /dev/nbd0 (busy)\n\
         hint: detach it first: cairn volume detach demo\n",
    );
    let value = daemon.run("--json volume attach demo@s1 /dev/nbd3 --connections 4 --read-only").json();
    assert_eq!((&value["export"], &value["connections"]), (&json!("demo@s1"), &json!(4)));
    assert_eq!(value["consumer"], json!({"kind": "kernel", "device": "/dev/nbd3"}));
    daemon.run("volume attach demo /dev/nbd3 --snapshot s2").fails(
        "error: /dev/nbd3 is attached to something else (busy)\n\
         hint: choose another device, or none to get the first that is free\n",
    );
    let two = daemon.run("volume attach demo@s1 --snapshot s2");
    assert_eq!((two.code, &*two.stdout), (2, ""));
    assert!(two.stderr.starts_with("error: demo@s1 and --snapshot s2 are two snapshots\n"), "{}", two.stderr);
    let (code, shown) = daemon.on_terminal("volume attach demo --snapshot s2 --connections 2", "");
    assert_eq!((code, &*shown), (0, "attached demo@s2 to /dev/nbd1 (2 connections)\n"));

    let list = daemon.run("volume attachments demo").ok();
    let consumers: Vec<_> = list.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(consumers, ["/dev/nbd0", "/dev/nbd3", "/dev/nbd1"], "{list}");
    let value = daemon.run("--json volume attachments demo").json();
    assert_eq!(value["attachments"].as_array().map(Vec::len), Some(3));
    assert!(daemon.run("volume list").ok().contains("/dev/nbd0"));
    let show = daemon.run("volume show demo").ok();
    assert!(show.contains("used by    /dev/nbd0, 1 connection, since "), "{show}");

    assert_eq!(daemon.run("volume detach /dev/nbd3").ok(), "detached demo@s1 from /dev/nbd3\n");
    assert_eq!(daemon.run("volume detach demo@s2 --force").ok(), "detached demo@s2\n");
    let left = daemon.run("--json volume detach /dev/nbd0").json();
    assert_eq!(left, json!({"attachments": []}));
    daemon.run("volume detach /dev/nbd0").fails(
        "error: nothing is attached to /dev/nbd0 (not-found)\n\
         hint: \"cairn volume list\" shows who uses what\n",
    );
    daemon.run("volume detach demo@no").fails(&not_found("volume 'demo' has no snapshot 'no'"));

    daemon.connect("demo", 3);
    assert_eq!(daemon.run("volume reset-attachments demo --yes").ok(), "nobody uses volume demo any more\n");
    daemon.connect("demo", 3);
    assert_eq!(daemon.run("--json volume reset-attachments demo --yes").json(), json!({"attachments": []}));
}

#[test]
fn who_names_a_device_cuts_nobody_else() {
    let daemon = Daemon::with_demo();
    daemon.run("volume edit demo --shared on").ok();
    daemon.connect("demo", 1);
    daemon.run("volume attach demo").ok();
    daemon.run("volume detach /dev/nbd0").fails(
        "error: demo is used by fio (pid 4211, uid 1000), too (busy)\n\
         hint: end all use of it: cairn volume detach demo\n",
    );
    let host = Consumer::Host { address: "192.0.2.7".into() };
    daemon.world.enter("demo@s1", &host, 0, true).expect("is let in");
    assert_eq!(daemon.run("volume detach demo").ok(), "detached demo\n");
    let left = daemon.run("--json volume attachments demo").json();
    assert_eq!(left["attachments"].as_array().map(Vec::len), Some(1), "its snapshot is still in use: {left}");
}

#[test]
fn a_detach_waits_for_io_in_flight_and_force_does_not() {
    let daemon = Daemon::with_demo();
    let busy = daemon.world.enter("demo", &fio(), usize::MAX, false).expect("is let in");
    let mut polite = daemon.command("volume detach demo");
    let mut waiting = polite.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    while !busy.was_asked() {
        assert_eq!(waiting.try_wait().expect("asked"), None, "it has yet to ask");
        std::thread::yield_now();
    }
    assert_eq!(daemon.run("--json volume show demo").json()["connections"], 1);
    assert_eq!(waiting.try_wait().expect("asked"), None, "it still waits");
    assert_eq!(daemon.run("volume detach demo --force").ok(), "detached demo\n");
    assert_eq!(Ran::of(waiting.wait_with_output().expect("ends")).ok(), "detached demo\n");
}

#[test]
fn types_from_creation_to_deletion() {
    let daemon = Daemon::with_demo();
    daemon.run("pool create bulk --path /b").ok();
    daemon.run("qos rule create gold total_iops_sec=2000").ok();
    assert_eq!(
        daemon.run("type create fast --qos gold --spec media=ssd --description quick").ok(),
        "created type fast\n"
    );
    let made = daemon.run("--json type create slow --pool bulk --default").json();
    assert_eq!((&made["specs"], &made["default"]), (&json!({"volume_backend_name": "bulk"}), &json!(true)));
    assert_eq!(
        daemon.run("type list").ok(),
        "\
NAME     DEFAULT  POOL  QOS   VOLUMES  SPECS      DESCRIPTION
default  -        -     -           1  -
fast     -        -     gold        0  media=ssd  quick
slow     yes      bulk  -           0  -
"
    );
    assert_eq!(daemon.run("--json type list").json()["types"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        daemon.run("type show fast").ok(),
        "\
name         fast
default      no
pool         the first
qos          gold
volumes      0
spec         media=ssd
description  quick
"
    );
    assert_eq!(daemon.run("--json type show fast").json()["qos"], "gold");
    daemon.run("volume create v --size 1G").ok();
    let list = daemon.run("volume list").ok();
    assert!(list.lines().nth(2).is_some_and(|l| l.contains("slow     bulk  ")), "two pools: {list}");
    assert!(daemon.run("volume show v").ok().contains("\npool       bulk\n"));

    assert_eq!(daemon.run("type edit fast --no-qos --spec media= --default").ok(), "changed type fast\n");
    let edited = daemon.run("--json type edit fast --qos gold --spec a=b=c").json();
    assert_eq!(
        (&edited["qos"], &edited["specs"], &edited["default"]),
        (&json!("gold"), &json!({"a": "b=c"}), &json!(true))
    );
    daemon.run("volume retype demo fast").ok();
    assert_eq!(
        daemon.run("type edit fast --description x").ok(),
        "changed type fast, at once for its 1 volume\n"
    );
    daemon.run("type edit fast --pool bulk").fails(
        "error: of type 'fast' there are volumes, 1 in all: its pool (volume_backend_name) cannot change (busy)\n\
         hint: make another type for the other pool\n",
    );
    daemon.run("type edit fast --qos no").fails(
        "error: there is no QoS rule 'no' (not-found)\nhint: \"cairn qos rule list\" shows what there is\n",
    );
    let twice = daemon.run("type create t --pool bulk --spec volume_backend_name=main");
    assert_eq!((twice.code, &*twice.stdout), (2, ""));
    assert!(
        twice.stderr.starts_with("error: the spec volume_backend_name is given twice\n"),
        "{}",
        twice.stderr
    );

    daemon.run("type delete fast").fails(
        "error: of type 'fast' there are volumes, 1 in all (busy)\n\
         hint: give each another type first: cairn volume retype NAME TYPE\n",
    );
    daemon.run("volume delete v --yes").ok();
    let half = daemon.run("type delete slow fast");
    assert_eq!((half.code, &*half.stdout), (1, "deleted type slow\n"));
    daemon.run("type create t").ok();
    assert_eq!(daemon.run("--json type delete t").json(), json!({"deleted": ["t"]}));
    daemon
        .run("type show t")
        .fails("error: there is no type 't' (not-found)\nhint: \"cairn type list\" shows what there is\n");
}

#[test]
fn limits_are_set_shown_and_cleared() {
    let daemon = Daemon::with_demo();
    assert_eq!(
        daemon.run("qos set demo total_iops_sec=2000 total_bytes_sec=100M").ok(),
        "volume demo is limited to total_bytes_sec=100M total_iops_sec=2000\n"
    );
    assert_eq!(
        daemon.run("qos show demo").ok(),
        "\
volume           demo
type             default
limits           its own
total_bytes_sec  100M
total_iops_sec   2000
waited           no request since the daemon started
"
    );
    let value = daemon.run("--json qos show demo").json();
    assert_eq!(value["rule"], json!({"total_bytes_sec": 100u64 << 20, "total_iops_sec": 2000}));
    // The one that would be left over is no limit by itself, and the volume's limits are known to the daemon only.
    assert_eq!(
        daemon.run("--json qos set demo total_iops_sec_max=4000 total_bytes_sec=0").json()["own"],
        json!({"total_iops_sec": 2000, "total_iops_sec_max": 4000})
    );
    daemon.run("qos set demo read_iops_sec=5").fails(
        "error: total_iops_sec and read_iops_sec cannot be set at the same time (conflict)\n\
         hint: clear one of them: total_iops_sec=0 or read_iops_sec=0\n",
    );
    assert_eq!(daemon.run("qos set demo total_iops_sec=0").ok(), "volume demo has no limits\n");
    for (args, part) in [
        ("qos set demo total_iop_sec=5", "did you mean total_iops_sec?"),
        ("qos set demo total_iops_sec=1 total_iops_sec=2", "total_iops_sec is given twice"),
        ("qos set demo total_iops_sec", "write key=value"),
    ] {
        let ran = daemon.run(args);
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{args}");
        assert!(ran.stderr.contains(part), "{args}: {}", ran.stderr);
    }
}

#[test]
fn rules_hold_for_the_types_that_point_to_them() {
    let daemon = Daemon::with_demo();
    assert!(daemon.run("qos rule list").ok().starts_with("There are no QoS rules."));
    assert_eq!(
        daemon.run("qos rule create gold total_iops_sec=2000 total_iops_sec_max=4000 --description d").ok(),
        "created rule gold: total_iops_sec=2000 total_iops_sec_max=4000\n"
    );
    let silver = daemon.run("--json qos rule create silver read_bytes_sec=1M").json();
    assert_eq!(silver["rule"], json!({"read_bytes_sec": 1 << 20}));
    daemon.run("qos rule create bad total_iops_sec_max=5").fails(
        "error: total_iops_sec_max is set, but not total_iops_sec (conflict)\n\
         hint: a burst exceeds a limit: set total_iops_sec too\n",
    );
    daemon.run("type edit default --qos gold").ok();
    assert_eq!(
        daemon.run("qos rule list").ok(),
        "\
NAME    LIMITS                                       TYPES    DESCRIPTION
gold    total_iops_sec=2000 total_iops_sec_max=4000  default  d
silver  read_bytes_sec=1M                            -
"
    );
    assert_eq!(daemon.run("--json qos rule list").json()["rules"][1], silver);
    assert_eq!(
        daemon.run("qos rule show gold").ok(),
        "\
name                gold
total_iops_sec      2000
total_iops_sec_max  4000
types               default
description         d
"
    );
    assert_eq!(
        daemon.run("qos rule edit gold total_iops_sec=0 write_iops_sec=7").ok(),
        "changed rule gold: write_iops_sec=7, at once for the volumes of 1 type\n"
    );
    let edited = daemon.run("--json qos rule edit gold --description e").json();
    assert_eq!((&edited["description"], &edited["rule"]), (&json!("e"), &json!({"write_iops_sec": 7})));
    let shown = daemon.run("qos show demo").ok();
    assert!(shown.contains("\nlimits          rule gold of type default\nwrite_iops_sec  7\n"), "{shown}");
    assert!(
        daemon.run("qos set demo write_iops_sec=9").ok().ends_with("is limited to write_iops_sec=9\n"),
        "its own limits stand in place of its type's"
    );
    assert_eq!(
        daemon.run("qos set demo write_iops_sec=0").ok(),
        "volume demo has no limits of its own; by rule gold of type default: write_iops_sec=7\n"
    );
    daemon.run("qos rule delete gold").fails(
        "error: the QoS rule 'gold' is in use by types: default (busy)\n\
         hint: take it from each first: cairn type edit TYPE --no-qos\n",
    );
    assert_eq!(daemon.run("qos rule delete silver").ok(), "deleted rule silver\n");
    daemon.run("qos rule show silver").fails(
        "error: there is no QoS rule 'silver' (not-found)\nhint: \"cairn qos rule list\" shows what there is\n",
    );
    daemon.run("type edit default --no-qos").ok();
    assert_eq!(daemon.run("--json qos rule delete gold").json(), json!({"deleted": ["gold"]}));
}

#[test]
fn images_from_creation_to_deletion() {
    let daemon = Daemon::start();
    daemon.run("volume create demo --size 10G").ok();
    daemon.world.write("demo", 0, 1);
    daemon.run("snapshot create demo s1").ok();
    assert!(daemon.run("image list").ok().starts_with("There are no images."));
    assert_eq!(daemon.run("image list --tag release").ok(), "No image is like that.\n");
    let created =
        daemon.run("image create golden --from demo@s1 --os-type linux --min-disk 20G --tag release=13").ok();
    assert_eq!(created, "created image golden (10.0 GiB) from demo@s1\n");
    let list = daemon.run("image list").ok();
    assert!(
        list.lines().nth(1).is_some_and(|l| l.starts_with("golden  10.0 GiB  4.0 KiB  available")),
        "{list}"
    );
    let show = daemon.run("image show golden").ok();
    for line in ["source      demo@s1", "os type     linux", "least disk  20.0 GiB", "protected   no"] {
        assert!(show.lines().any(|l| l == line), "{show}\nlacks {line:?}");
    }
    let made = daemon.run("volume create vm --from-image golden").ok();
    assert!(made.starts_with("created volume vm (20.0 GiB) from image:golden\n"), "{made}");
    assert_eq!(daemon.run("volume create vm2 --from-image golden --json").json()["image"], "golden");
    daemon.run("image delete golden").fails(
        "error: the image 'golden' is that of 2 volumes (busy)\n\
         hint: they live on if you delete it with --force\n",
    );
    let found =
        daemon.run("image list --tag release=13 --os-type linux --status available --sort -size --json");
    assert_eq!(found.json()["images"][0]["tags"]["release"], "13");
    assert_eq!(daemon.run("image list --tag release=12").ok(), "No image is like that.\n");
    let edited = daemon.run("image edit golden --tag release= --tag x=y --json").json();
    assert_eq!(edited["tags"], serde_json::json!({"x": "y"}));
    let edited = daemon.run("image edit golden --name silver --protected on").ok();
    assert_eq!(edited, "image golden is now called silver\n");
    daemon.run("image delete silver --force").fails(
        "error: the image 'silver' is protected (busy)\n\
         hint: first take that off: cairn image edit silver --protected off\n",
    );
    let edited = daemon.run("image edit silver --protected off").ok();
    assert_eq!(edited, "changed image silver; its 2 volumes stay as they are\n");
    assert_eq!(daemon.run("image delete silver --force").ok(), "deleted image silver\n");
}

/// What is wrong with a file is told before the daemon hears of it; what nobody serves leaves nothing.
#[test]
fn images_that_cannot_be_moved_are_told() {
    let daemon = Daemon::with_demo();
    let file = |name: &str| daemon.folder.path().join(name).display().to_string();
    daemon
        .run("image import /does/not/exist x")
        .fails("error: cannot open /does/not/exist: No such file or directory (os error 2) (io)\n");
    std::fs::write(file("overlay.qcow2"), [b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\x68", &[0; 500][..]].concat())
        .expect("written");
    let overlay = daemon.run(&format!("image import {} x", file("overlay.qcow2")));
    assert_eq!(overlay.code, 1);
    assert!(
        overlay.stderr.contains("backing file") && overlay.stderr.contains("(image-refused)"),
        "{}",
        overlay.stderr
    );
    std::fs::write(file("disk"), [1; 1000]).expect("written");
    // This daemon serves no NBD.
    let unserved = daemon.run(&format!("image import {} x", file("disk")));
    assert!(unserved.code == 1 && unserved.stderr.contains("(nbd)"), "{}", unserved.stderr);
    assert!(daemon.run("image list").ok().starts_with("There are no images."), "nothing is left");
    let unserved = daemon.run(&format!("image export demo@s1 {}", file("out.qcow2")));
    assert!(unserved.code == 1 && unserved.stderr.contains("(nbd)"), "{}", unserved.stderr);
    assert!(!Path::new(&file("out.qcow2")).exists());
    let unknown = daemon.run(&format!("image export demo@s1 {}", file("out")));
    assert!(unknown.code == 2 && unknown.stderr.contains("--format"), "{}", unknown.stderr);
    let vmdk = daemon.run(&format!("image export demo@s1 {}", file("out.vmdk")));
    assert_eq!(vmdk.code, 1, "{}", vmdk.stderr);
}

#[test]
fn pools_from_creation_to_removal() {
    let daemon = Daemon::with_demo();
    assert_eq!(
        daemon.run("pool create bulk --path /srv/bulk --limit 16M").ok(),
        "created pool bulk on /srv/bulk; it may grow to 16.0 MiB\n"
    );
    let mut command = daemon.command("--json pool create here --path file");
    let made = Ran::of(command.current_dir("/tmp").output().expect("runs")).json();
    assert_eq!(made["path"], "/tmp/file", "where the client stands");
    daemon.run("type create bulk --pool bulk").ok();
    daemon.run("volume create v --size 16M --type bulk").ok();
    daemon.fill("bulk", "v");
    daemon.break_pool("here", "the disk is gone");
    let list = daemon.run("pool list").ok();
    let rows: Vec<Vec<_>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "FILL", "USED", "FREE", "VOLUMES", "PATH"]);
    assert_eq!(
        (&rows[1][..5], &rows[1][9..]),
        (&["main", "healthy", "ok", "(0", "%)"][..], &["1", "/the/pool"][..])
    );
    assert_eq!(
        (&rows[2][..3], &rows[2][9..]),
        (&["bulk", "healthy", "critical"][..], &["1", "/srv/bulk"][..]),
        "{list}"
    );
    assert_eq!(rows[3], ["here", "not", "open", "-", "-", "-", "-", "/tmp/file"]);
    assert_eq!(rows[4..], [["here:", "the", "disk", "is", "gone"]]);
    assert_eq!(daemon.run("--json pool list").json()["pools"][1]["status"]["fill"], "critical");
    let (_, shown) = daemon.on_terminal("pool status bulk", "");
    assert!(shown.contains("31mcritical"), "in red: {shown}");
    assert!(daemon.run("pool status bulk").ok().contains("\nfill         critical\n"));
    assert!(daemon.run("pool status").ok().contains("\nname         main\n"));
    assert_eq!(daemon.run("--json pool status bulk").json()["name"], "bulk");
    daemon.run("pool status no").fails(&not_found("there is no pool 'no'"));
    assert!(daemon.run("pool check bulk --data").ok().ends_with("the pool is sound\n"));
    daemon.run("pool check here").fails(
        "error: the pool 'here' could not be opened: the disk is gone (io)\n\
         hint: see the daemon's log and the kernel's\n",
    );

    let oversized = |size: &str, pool: &str, limit: &str| {
        format!(
            "error: {size} is more than the pool '{pool}' can ever hold: its limit is {limit} (invalid-argument)\n\
             hint: choose a smaller size, or raise the limit: cairn pool grow {pool} --limit SIZE\n"
        )
    };
    daemon.run("volume create big --size 3T").fails(&oversized("3T", "main", "1T"));
    daemon.run("volume create big --size 200G --type bulk").fails(&oversized("200G", "bulk", "16M"));
    daemon.run("volume resize v --size 16777217 --yes").fails(&oversized("16777217", "bulk", "16M"));
    assert_eq!(daemon.run("pool grow bulk --limit 200G").ok(), "pool bulk may now grow to 200.0 GiB\n");
    assert_eq!(daemon.run("pool grow --limit 2T").ok(), "pool main may now grow to 2.0 TiB\n");
    assert_eq!(daemon.run("--json pool grow --limit 2T").json()["limit"], 2u64 << 40);
    daemon.run("pool grow bulk --limit 1G").fails(
        "error: the pool 'bulk' may take 200G and cannot be limited to 1G: pools only grow (shrink)\n",
    );
    daemon
        .run("pool remove main --yes")
        .fails("error: 'main' is the pool that the daemon was started on (busy)\n");
    daemon
        .run("pool remove bulk --yes")
        .fails("error: the pool 'bulk' holds 1 volume (busy)\nhint: delete them first\n");
    daemon.run("volume delete v --yes").ok();
    daemon.run("type delete bulk").ok();
    assert_eq!(
        daemon.run("pool remove bulk --yes").ok(),
        "removed pool bulk; what is in it stays as it is\n"
    );
    assert_eq!(daemon.run("--json pool remove here --yes").json(), json!({"removed": ["here"]}));
    assert_eq!(daemon.run("--json pool list").json()["pools"].as_array().map(Vec::len), Some(1));
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
    let error = |ran: &Ran| serde_json::from_str::<Value>(&ran.stderr).expect("JSON")["error"].clone();
    let mistyped = daemon.run("--json snapshot delete demo s3 no");
    assert_eq!((mistyped.code, &*mistyped.stdout), (1, ""), "nothing is deleted");
    assert_eq!(error(&mistyped)["code"], "not-found");
    // One that works and one that does not: both are told, and what was not tried.
    for name in ["s4", "s5"] {
        daemon.run(&format!("snapshot create demo {name}")).ok();
    }
    daemon.run("snapshot hold demo s4 audit").ok();
    let half = daemon.run("--json snapshot delete demo s3 s4 s5");
    assert_eq!((half.code, &*half.stdout), (1, "{\"deleted\":[\"demo@s3\"]}\n"));
    assert_eq!(error(&half)["code"], "held");
    assert_eq!(
        error(&half)["message"],
        "the snapshot 'demo@s4' is held by 'audit'; left as they are: demo@s5"
    );
}

#[test]
fn errors_are_one_line_and_a_hint() {
    let daemon = Daemon::with_demo();
    daemon.fill_catalog("demo");
    daemon.run("snapshot create demo s9").fails(
        "error: this pool is too small for the records of more volumes and snapshots (no-space)\n\
         hint: delete snapshots or volumes, or make room on the file system that holds the pool\n",
    );
    daemon
        .run("volume create demo --size 1G")
        .fails("error: there is already a volume 'demo' (exists)\nhint: choose another name\n");
    daemon.run("volume show a/b").fails(&not_found("there is no volume 'a/b'"));
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
    daemon.run("pool create bulk --path /b").ok();
    for args in [
        "volume delete demo",
        "volume resize demo --size 20G",
        "volume reset-attachments demo",
        "snapshot rollback demo s1",
        "pool remove bulk",
    ] {
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
    let (code, shown) = daemon.on_terminal("volume resize demo --size 20G", "n\n");
    assert_eq!(code, 1, "{shown}");
    assert!(
        shown.contains("Grow volume demo from 10.0 GiB to 20.0 GiB? It cannot be made smaller again. [y/N]"),
        "{shown}"
    );
    assert_eq!(daemon.run("--json volume show demo").json()["size"], 10u64 << 30);
    let (code, shown) = daemon.on_terminal("volume resize demo --size 20G", "y\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("volume demo is now 20.0 GiB"), "{shown}");
    // What changes nothing or is refused anyway needs no yes.
    assert_eq!(daemon.run("volume resize demo --size 20G").ok(), "volume demo is now 20.0 GiB\n");
    daemon.run("volume resize demo --size 1G").fails(
        "error: volume 'demo' has 21474836480 bytes and cannot shrink to 1073741824: volumes only grow (shrink)\n\
         hint: a volume can only grow: give a larger size\n",
    );
    let (code, shown) = daemon.on_terminal("pool remove bulk", "y\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("Stop using pool bulk (/b)? What is in it stays as it is. [y/N]"), "{shown}");
    daemon.run("pool remove bulk").fails(&not_found("there is no pool 'bulk'"));
    let (code, shown) = daemon.on_terminal("snapshot rollback demo s1", "y\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("rolled volume demo back to demo@s1"), "{shown}");
    let (code, shown) = daemon.on_terminal("volume delete demo --with-snapshots", "yes\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("deleted volume demo"), "{shown}");
    daemon.run("volume delete no").fails(&not_found("there is no volume 'no'"));
}

#[test]
fn a_volume_in_use_or_with_snapshots_stays() {
    let daemon = Daemon::with_demo();
    daemon.run("volume delete demo --yes").fails(
        "error: volume 'demo' has 2 snapshots (has-snapshots)\n\
         hint: delete them, too (--with-snapshots, ?snapshots=true), or have them live on (--keep-snapshots, ?keep_snapshots=true)\n",
    );
    daemon.connect("demo", 1);
    daemon
        .run("volume delete demo --yes --with-snapshots")
        .fails(&format!("error: volume 'demo' with its snapshots is in use: {}", connected("demo")));
    daemon
        .run("snapshot rollback demo s1 --yes")
        .fails(&format!("error: volume 'demo' is in use: {}", connected("demo")));
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
    for args in ["volume list", "--json volume list", "snapshot tree demo", "completions bash", "--help"] {
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
    for args in [
        "--help",
        "volume create --help",
        "volume edit --help",
        "volume resize --help",
        "volume attach --help",
        "volume detach --help",
        "snapshot create --help",
        "snapshot diff --help",
        "type create --help",
        "type edit --help",
        "qos set --help",
        "qos rule create --help",
        "qos rule edit --help",
        "pool create --help",
        "pool grow --help",
        "pool check --help",
        "job list --help",
        "job show --help",
        "top --help",
        "console --help",
    ] {
        let ran = Ran::of(cairn().args(args.split(' ')).output().expect("runs"));
        let help = ran.ok();
        assert!(help.contains("Examples:") && help.contains("cairn "), "{args}: {help}");
    }
}
