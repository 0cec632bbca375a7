//! The daemon as a service manager runs it: what it tells, and the sockets it is handed.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::BLOCK;
use cairn_tests::fixtures::text;
use cairn_tests::nbd;
use cairn_tests::program::{binary, run, run_command};
use nix::sys::signal::{Signal, kill};

/// The other end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(address: &SocketAddr) -> Manager {
        let socket = UnixDatagram::bind_addr(address).expect("binds");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        Manager { socket, heard: Vec::new() }
    }

    fn at(path: &Path) -> Manager {
        Manager::new(&SocketAddr::from_pathname(path).expect("a path"))
    }

    /// Waits for a line, and gives the message that has it.
    #[track_caller]
    fn hears(&mut self, what: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut buf = [0; 4096];
        while Instant::now() < deadline {
            let Ok(len) = self.socket.recv(&mut buf) else { break };
            let message = String::from_utf8_lossy(&buf[..len]).into_owned();
            self.heard.push(message.clone());
            if message.lines().any(&what) {
                return message;
            }
        }
        panic!("it was not said; what was: {:?}", self.heard);
    }
}

fn stop_and_hear(daemon: Daemon, manager: &mut Manager) {
    daemon.stop();
    manager.hears(|line| line == "STOPPING=1");
}

#[test]
fn a_manager_hears_how_it_goes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("notify");
    let mut manager = Manager::at(&path);
    let launch = Launch::dev(&dir.path().join("dev")).create("demo", "64M");
    let daemon = launch.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").start();
    let ready = manager.hears(|line| line == "READY=1");
    assert!(ready.contains("STATUS=1 volume, 0 NBD connections; pool main 0 % full"), "{ready}");
    let started = Instant::now();
    for _ in 0..5 {
        manager.hears(|line| line == "WATCHDOG=1");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "within twice the time it wants one in each");

    let client = daemon.connect("demo");
    manager.hears(|line| line == "STATUS=1 volume, 1 NBD connection; pool main 0 % full");
    client.disconnect().expect("a clean end");
    stop_and_hear(daemon, &mut manager);
    assert!(manager.heard.iter().all(|message| !message.contains("RELOADING")));
}

#[test]
fn a_manager_with_an_abstract_name_hears_it_too_and_that_a_start_fails() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let name = format!("cairn-tests-{}", std::process::id());
    let mut manager = Manager::new(&SocketAddr::from_abstract_name(&name).expect("a name"));
    let launch = Launch::dev(dir.path()).env("NOTIFY_SOCKET", format!("@{name}"));
    let daemon = launch.start();
    manager.hears(|line| line == "READY=1");
    launch.try_start().expect_err("the pool is in use").assert_clear();
    manager.hears(|line| line.starts_with("STATUS=") && line.contains("pool.cairn"));
    stop_and_hear(daemon, &mut manager);
}

/// Has the daemon read its configuration, `text`, again, and gives what the log says to that, which has all of `parts`.
#[track_caller]
fn reload(daemon: &Daemon, manager: &mut Manager, file: &Path, text: &str, parts: &[&str]) -> String {
    let before = daemon.said().len();
    fs::write(file, text).expect("a configuration can be written");
    kill(daemon.pid(), Signal::SIGHUP).expect("a signal can be sent");
    let reloading = manager.hears(|line| line == "RELOADING=1");
    let since = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(since.is_some_and(|usec| usec.parse::<u64>().is_ok()), "{reloading}");
    manager.hears(|line| line == "READY=1");
    daemon.says(before, parts)
}

#[test]
fn a_changed_configuration_is_read_again_and_what_can_be_holds() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("notify");
    let mut manager = Manager::at(&path);
    let file = dir.path().join("cairnd.toml");
    let launch = Launch::config(dir.path(), &dir.path().join("pool"), "1G").env("NOTIFY_SOCKET", &path);
    let daemon = launch.start();
    manager.hears(|line| line == "READY=1");
    daemon.cairn(&["volume", "create", "demo", "--size", "1M", "--shared"]).ok();
    let first = fs::read_to_string(&file).expect("the configuration");

    let mut reload = |text: &str, parts: &[&str]| reload(&daemon, &mut manager, &file, text, parts);
    reload(&first, &["has not changed"]);
    reload(&first.replace("[nbd]", "[nbd]\nmax_conections = 1"), &["line 7", "max_conections"]);

    let (one, two) = (daemon.connect("demo"), daemon.connect("demo"));
    let changed = first.replace("1G", "2G").replace("[nbd]", "[nbd]\nmax_connections = 1")
        + "[runtime]\npoll_us = 7\n[log]\nfilter = \"info,cairnd=debug\"\n";
    let parts = [
        "nbd.max_connections has changed and holds now",
        "log.filter has changed and holds now",
        "runtime.poll_us has changed and needs a restart",
        "pool.limit has changed and holds for a pool that is made",
    ];
    let said = reload(&changed, &parts);
    assert_eq!(said.matches("has changed").count(), parts.len(), "{said}");
    nbd::Client::connect(&daemon.nbd_socket(), "demo").expect_err("there are two already");
    assert!(!daemon.said().contains("an NBD session ended"), "{}", daemon.said());
    for client in [one, two] {
        client.disconnect().expect("those that there were are served");
    }
    daemon.says(0, &["an NBD session ended"]);

    reload("[pool\n", &["line 1"]);
    // What needs a restart is still to be done, and what held before the file was wrong does.
    let said = reload(&changed, &["runtime.poll_us has changed and needs a restart"]);
    assert!(!said.contains("max_connections"), "{said}");
    stop_and_hear(daemon, &mut manager);
}

/// systemd says by `JOURNAL_STREAM` which file the journal is. Here it is one in which the lines can be read.
#[test]
fn in_the_journal_lines_have_priorities_and_no_times() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let journal = dir.path().join("journal");
    let file = fs::File::create(&journal).expect("a file").metadata().expect("metadata");
    let stream = format!("{}:{}", file.dev(), file.ino());
    let config = dir.path().join("cairnd.toml");
    Launch::config_with(dir.path(), &dir.path().join("no/pool"), "1G", "tcp = [\"0.0.0.0:0\"]");
    let run = |stream: &str| {
        let script = "exec \"$0\" --config \"$1\" 2> \"$2\"";
        let mut command = Command::new("sh");
        command
            .env("JOURNAL_STREAM", stream)
            .args(["-c", script])
            .arg(binary("cairnd"))
            .arg(&config)
            .arg(&journal);
        assert!(!run_command(command).status.success(), "there is no such folder");
        fs::read_to_string(&journal).expect("text")
    };
    let said = run(&stream);
    assert!(said.starts_with("<4>cairnd::run: NBD on 0.0.0.0:0 can be reached"), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.starts_with("<3>cairnd: ")), "{said}");
    let said = run("1:1");
    assert!(said.contains(" WARN cairnd::run: NBD on") && !said.contains('<'), "{said}");
}

/// There is no file that could have changed.
#[test]
fn in_dev_mode_a_closed_terminal_stops_the_daemon() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).start();
    kill(daemon.pid(), Signal::SIGHUP).expect("a signal can be sent");
    let said = daemon.ended();
    assert!(said.contains("the pool is closed"), "{said}");
}

/// Connects until somebody listens, which starts the daemon.
fn knock(path: &Path) -> thread::JoinHandle<UnixStream> {
    let path = path.to_owned();
    thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return stream,
                Err(error) if Instant::now() >= deadline => panic!("{}: {error}", path.display()),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    })
}

/// `systemd-socket-activate` as the starter: it listens, and becomes the daemon when somebody connects.
fn activated(launch: Launch, sockets: &[&str], names: Option<&str>) -> Launch {
    let mut words = vec!["systemd-socket-activate"];
    for socket in sockets {
        words.extend(["-l", socket]);
    }
    let names = names.map(|names| format!("--fdname={names}"));
    words.extend(names.as_deref());
    launch.started_by(&words)
}

#[test]
fn sockets_that_are_handed_over_are_served_and_stay() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address").port();
    let tcp = format!("127.0.0.1:{port}");
    let (nbd, control) = (dir.path().join("nbd.sock"), dir.path().join("control.sock"));
    let launch =
        Launch::config_with(dir.path(), &dir.path().join("pool"), "1G", &format!("tcp = [\"{tcp}\"]"));
    let sockets = [text(&nbd), text(&control), tcp.clone()];
    let sockets: Vec<&str> = sockets.iter().map(String::as_str).collect();
    for names in [Some("nbd:control:nbd"), None] {
        let first = knock(&nbd);
        let daemon = activated(launch.clone(), &sockets, names).start();
        drop(first.join().expect("connects"));
        let demo = daemon.cairn(&["volume", "create", "demo", "--size", "1M"]);
        assert_eq!(demo.status.success(), names.is_some(), "the second daemon finds it: {demo}");
        daemon.connect("demo").write(0, &[1; BLOCK]).expect("a write");
        let size = run("nbdinfo", &["--size", &format!("nbd://{tcp}/demo")]).ok().stdout;
        assert_eq!(size.trim(), (1 << 20).to_string());
        daemon.stop();
        assert!(nbd.exists() && control.exists(), "they are their manager's");
        for path in [&nbd, &control] {
            fs::remove_file(path).expect("the manager removes it");
        }
    }
}

#[test]
fn sockets_that_the_configuration_does_not_have_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path());
    let (nbd, stray) = (dir.path().join("nbd.sock"), dir.path().join("stray.sock"));
    for (socket, name, part) in [
        (&stray, "nbd", "[nbd] \"unix\""),
        (&stray, "control", "[control] \"socket\""),
        (&nbd, "control", "FileDescriptorName="),
    ] {
        let first = knock(socket);
        let refusal =
            activated(launch.clone(), &[&text(socket)], Some(name)).try_start().expect_err("refused");
        drop(first.join().expect("connects"));
        refusal.assert_clear();
        assert!(refusal.said.contains(part) && refusal.said.contains(&text(socket)), "{refusal}");
        fs::remove_file(socket).expect("the manager removes it");
        assert!(!dir.path().join("control.sock").exists(), "what was bound is gone");
    }
    let nothing = launch.started_by(&["sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"", "sh"]);
    let refusal = nothing.try_start().expect_err("there are no such sockets");
    refusal.assert_clear();
    assert!(refusal.said.contains("LISTEN_FDS"), "{refusal}");
}
