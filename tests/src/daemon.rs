//! The daemon under test: started as a user starts it, stopped politely or not at all.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::control;
use crate::nbd;
use crate::program::{self, Outcome, binary};

/// A start that takes longer than this has hung.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A graceful stop that takes longer than this has hung.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The pool's name in the folder of `--dev`.
pub const POOL_FILE: &str = "pool.cairn";

/// How to start a daemon over a folder.
#[derive(Debug, Clone)]
pub struct Launch {
    dir: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    starter: Vec<OsString>,
}

/// A daemon that ended instead of serving.
#[derive(Debug)]
pub struct Refusal {
    /// How it ended.
    pub status: ExitStatus,
    /// All it said, on both streams.
    pub said: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cairnd ended with {}:\n{}", self.status, self.said)
    }
}

impl Refusal {
    /// Panics unless this is an error a user can act on: an exit status, a message, no panic.
    #[track_caller]
    pub fn assert_clear(&self) {
        assert!(self.status.code().is_some_and(|code| code != 0 && code != 101), "no clear error: {self}");
        assert!(!self.said.trim().is_empty(), "an error without a message: {self}");
        assert!(!self.said.contains("panicked at"), "a panic is not an error message: {self}");
    }
}

impl Launch {
    /// `cairnd --dev DIR`.
    pub fn dev(dir: &Path) -> Launch {
        Launch::with(dir, ["--dev".into(), dir.into()])
    }

    /// `cairnd --config FILE` with the sockets in `dir` as `--dev` has them, and a pool that may grow to `limit`.
    #[track_caller]
    pub fn config(dir: &Path, pool: &Path, limit: &str) -> Launch {
        Self::config_with(dir, pool, limit, "")
    }

    /// As [`Launch::config`], with one more line in its `[nbd]`.
    #[track_caller]
    pub fn config_with(dir: &Path, pool: &Path, limit: &str, nbd: &str) -> Launch {
        let file = dir.join("cairnd.toml");
        let text = format!(
            "[pool]\npath = \"{}\"\nlimit = \"{limit}\"\ncreate = true\n\n[nbd]\nunix = [\"{}\"]\n{nbd}\n\n\
             [control]\nsocket = \"{}\"\n",
            pool.display(),
            dir.join("nbd.sock").display(),
            dir.join("control.sock").display(),
        );
        std::fs::write(&file, text).expect("a configuration can be written");
        Launch::with(dir, ["--config".into(), file.into()])
    }

    fn with(dir: &Path, args: [OsString; 2]) -> Launch {
        Launch { dir: dir.to_owned(), args: args.into(), env: Vec::new(), starter: Vec::new() }
    }

    /// Sets a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Launch {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Has it started by another program, whose arguments end with the daemon's command line.
    #[must_use]
    pub fn started_by(mut self, starter: &[&str]) -> Launch {
        self.starter = starter.iter().map(Into::into).collect();
        self
    }

    /// Adds `--create NAME:SIZE`.
    #[must_use]
    pub fn create(self, name: &str, size: &str) -> Launch {
        self.arg("--create").arg(format!("{name}:{size}"))
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Launch {
        self.args.push(arg.into());
        self
    }

    /// Starts the daemon and waits until it serves.
    #[track_caller]
    pub fn start(&self) -> Daemon {
        self.try_start().unwrap_or_else(|refusal| panic!("the daemon did not start: {refusal}"))
    }

    /// Starts the daemon; the refusal when it ends instead of serving.
    #[track_caller]
    pub fn try_start(&self) -> Result<Daemon, Refusal> {
        let started = Instant::now();
        let mut words = self.starter.clone();
        words.push(binary("cairnd").into());
        words.extend_from_slice(&self.args);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cairnd can be run");
        let said = Arc::new(Mutex::new(String::new()));
        let (ready_tx, ready) = mpsc::channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers =
            vec![listen(stdout, Arc::clone(&said), Some(ready_tx)), listen(stderr, Arc::clone(&said), None)];
        match ready.recv_timeout(START_LIMIT) {
            Ok(()) => {
                let daemon =
                    Daemon { child, dir: self.dir.clone(), said, readers, ready_after: started.elapsed() };
                for socket in [daemon.nbd_socket(), daemon.control_socket()] {
                    assert!(socket.exists(), "ready without {}: {}", socket.display(), daemon.said());
                }
                Ok(daemon)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = program::wait(&mut child, STOP_LIMIT).expect("stdout closed, yet it runs");
                join(readers);
                let said = said.lock().expect("no reader panics").clone();
                Err(Refusal { status, said })
            }
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("not ready within {START_LIMIT:?}: {}", said.lock().expect("no reader panics"));
            }
        }
    }
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    dir: PathBuf,
    said: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
    ready_after: Duration,
}

impl Daemon {
    /// The folder of `--dev`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The NBD socket.
    pub fn nbd_socket(&self) -> PathBuf {
        self.dir.join("nbd.sock")
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.nbd_socket().display())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is positive"))
    }

    /// From the start of the process to its ready line.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Everything the daemon has said so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no reader panics").clone()
    }

    /// Waits until it has said all of `parts` in what follows the first `skip` bytes, and gives that.
    #[track_caller]
    pub fn says(&self, skip: usize, parts: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let said = self.said()[skip..].to_owned();
            let missing = parts.iter().find(|part| !said.contains(**part));
            let Some(missing) = missing else { return said };
            assert!(Instant::now() < deadline, "lacks {missing:?}: {said}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("it runs");
        let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("statm has numbers");
        pages * 4096
    }

    /// Runs `cairn --dev DIR ...`.
    #[track_caller]
    pub fn cairn(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(binary("cairn"));
        command.arg("--dev").arg(&self.dir).args(args);
        program::run_command(command)
    }

    /// Runs `cairn --dev DIR --json ...` and parses what it prints.
    #[track_caller]
    pub fn cairn_json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = vec!["--json"];
        all.extend_from_slice(args);
        self.cairn(&all).ok().json()
    }

    /// What a GET of the API answers.
    #[track_caller]
    pub fn get(&self, path: &str) -> serde_json::Value {
        let (status, answer) = control::request(&self.control_socket(), "GET", path, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// A connection with structured replies and block status.
    #[track_caller]
    pub fn connect(&self, export: &str) -> nbd::Client {
        nbd::Client::connect(&self.nbd_socket(), export)
            .unwrap_or_else(|e| panic!("cannot open {export}: {e}\n--- the daemon said\n{}", self.said()))
    }

    /// Panics unless the daemon runs and answers on both sockets.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("the child can be waited for");
        assert!(ended.is_none(), "the daemon ended with {ended:?}: {}", self.said());
        self.cairn(&["volume", "list"]).ok();
    }

    /// kill -9, at once.
    pub fn kill_9(mut self) {
        self.child.kill().expect("a signal can be sent");
        self.child.wait().expect("the child can be waited for");
        join(std::mem::take(&mut self.readers));
    }

    /// SIGTERM, then waits. Panics unless the daemon ends by itself with success; returns what it said.
    #[track_caller]
    pub fn stop(self) -> String {
        kill(self.pid(), Signal::SIGTERM).expect("a signal can be sent");
        self.ended()
    }

    /// Waits for it to end by itself. Panics unless it does, with success; returns what it said.
    #[track_caller]
    pub fn ended(mut self) -> String {
        let status = program::wait(&mut self.child, STOP_LIMIT);
        join(std::mem::take(&mut self.readers));
        let said = self.said();
        assert!(status.is_some_and(|s| s.success()), "it ended with {status:?}: {said}");
        assert!(!said.contains("panicked at"), "a thread panicked: {said}");
        said
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            // No daemon is to come back to these pools.
            let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
            for memory in files.filter_map(|file| memory_of(&file.path())) {
                let _ = fs::remove_file(memory);
            }
        }
        if thread::panicking() {
            eprintln!("--- the daemon in {} said\n{}", self.dir.display(), self.said());
        }
    }
}

/// Where a daemon keeps for the next one what it answered and no journal holds, for the pool in this file.
pub fn memory_of(pool: &Path) -> Option<PathBuf> {
    let pool = pool.metadata().ok()?;
    Some(PathBuf::from(format!("/dev/shm/cairn-{}-{:x}-{:x}", pool.uid(), pool.dev(), pool.ino())))
}

/// Collects what a stream says; reports the ready line, and by its end that there will be none.
fn listen(
    stream: impl Read + Send + 'static,
    said: Arc<Mutex<String>>,
    ready: Option<mpsc::Sender<()>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let is_ready = line.starts_with("cairnd ready");
            {
                let mut said = said.lock().expect("no reader panics");
                said.push_str(&line);
                said.push('\n');
            }
            if let (true, Some(ready)) = (is_ready, &ready) {
                // Nobody listens any more once the start was reported.
                let _ = ready.send(());
            }
        }
    })
}

fn join(readers: Vec<thread::JoinHandle<()>>) {
    for reader in readers {
        let _ = reader.join();
    }
}
