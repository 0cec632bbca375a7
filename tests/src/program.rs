//! Running other people's programs, and our own, with a time limit and with everything they said in the message
//! when they fail.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a client may run before it is killed and the test fails. A bound against hanging, not a speed.
const LIMIT: Duration = Duration::from_secs(600);

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.status, self.stdout, self.stderr
        )
    }
}

impl Outcome {
    /// Panics with all that the program said unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Panics unless the program failed, with an exit status of its own and a message. A program killed by a signal
    /// or a Rust panic (status 101) is no clear error.
    #[track_caller]
    pub fn refused(self) -> Outcome {
        let code = self.status.code();
        assert!(code.is_some_and(|c| c != 0 && c != 101), "expected a clear error: {self}");
        assert!(!self.stderr.trim().is_empty(), "an error without a message: {self}");
        assert!(!self.stderr.contains("panicked at"), "a panic is not an error message: {self}");
        self
    }

    /// The standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self}"))
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Outcome {
    let mut command = Command::new(program);
    command.args(args);
    run_command(command)
}

/// Runs a prepared command to its end, within the limit.
#[track_caller]
pub fn run_command(mut command: Command) -> Outcome {
    let text = describe(&command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run `{text}`: {e}; ./test installs what the tests need"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, LIMIT).unwrap_or_else(|| panic!("`{text}` did not end within {LIMIT:?}"));
    let text_of = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Outcome { command: text, status, stdout: text_of(stdout), stderr: text_of(stderr) }
}

/// Waits for a child up to `limit`; `None` when it had to be killed.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if started.elapsed() < limit => thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What arrived before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace exists")
}

/// The folder that cargo builds into.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// The path of `cairnd` or `cairn`: from `CAIRN_BIN_DIR`, else the release build of this workspace.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    let dir = match std::env::var_os("CAIRN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir().join("release"),
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is not there: these tests drive the release binaries; run ./test, or `cargo build --release --bins`, \
         or set CAIRN_BIN_DIR to the folder that holds them",
        path.display()
    );
    path
}

/// A number from the environment, for tests whose length is set there.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}

/// True when `CAIRN_TEST_FULL=1` asks for the sizes and counts of a release rather than those of a quick run.
pub fn full() -> bool {
    std::env::var("CAIRN_TEST_FULL").is_ok_and(|value| value == "1")
}
