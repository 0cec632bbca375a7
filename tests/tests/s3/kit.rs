//! Repositories in buckets and folders, and the commands that work on them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::Rng;
use cairn_tests::fixtures::text;
use cairn_tests::program::{Outcome, binary, run_command};
use cairn_tests::s3::Server;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// Where a repository is and what it takes to reach it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) key: Option<String>,
}

impl Place {
    /// A part of the bucket that no other run of any test uses.
    pub(crate) fn in_bucket(server: &Server, folder: &Path, name: &str) -> Place {
        let run = folder.file_name().and_then(|name| name.to_str()).expect("a folder with a name");
        Place {
            url: format!("s3://{}/{}/{name}", server.bucket, run.trim_start_matches('.')),
            variables: server.variables(server.address),
            key: None,
        }
    }

    pub(crate) fn in_folder(folder: &Path, name: &str) -> Place {
        Place { url: format!("file://{}", folder.join(name).display()), variables: Vec::new(), key: None }
    }

    /// The same with a key, which is made with the repository.
    pub(crate) fn encrypted(self, folder: &Path, name: &str) -> Place {
        Place { key: Some(text(&folder.join(format!("{name}.key")))), ..self }
    }

    /// The same, reached in another way.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Place {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, for somebody with no keys for the store.
    pub(crate) fn keyless(mut self) -> Place {
        self.variables.retain(|(name, _)| !name.contains("ACCESS_KEY"));
        self
    }

    pub(crate) fn through(self, address: SocketAddr) -> Place {
        self.with("AWS_ENDPOINT_URL", &format!("http://{address}"))
    }

    /// `cairn --json ...` with the repository as the one that is meant.
    pub(crate) fn command(&self, daemon: Option<&Daemon>, args: &[&str]) -> Command {
        let mut command = Command::new(binary("cairn"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("AWS_") || name.to_ascii_lowercase().ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env("CAIRN_REPO", &self.url);
        match &self.key {
            Some(key) => command.env("CAIRN_KEY_FILE", key),
            None => command.env_remove("CAIRN_KEY_FILE"),
        };
        if let Some(daemon) = daemon {
            command.arg("--dev").arg(daemon.dir());
        }
        command.arg("--json").args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        run_command(self.command(None, args))
    }

    #[track_caller]
    pub(crate) fn init(&self) {
        let encrypt = if self.key.is_some() { &["repo", "init", "--encrypt"][..] } else { &["repo", "init"] };
        self.run(encrypt).ok();
    }

    #[track_caller]
    pub(crate) fn back_up(&self, daemon: &Daemon, volume: &str) -> Value {
        run_command(self.command(Some(daemon), &["backup", "create", volume])).ok().json()
    }

    /// The ids of all backups, newest first.
    #[track_caller]
    pub(crate) fn backups(&self) -> Vec<String> {
        let list = self.run(&["backup", "list"]).ok().json();
        list["backups"].as_array().expect("a list").iter().map(id).collect()
    }

    #[track_caller]
    pub(crate) fn restore(&self, id: &str, file: &Path) {
        self.run(&["backup", "restore", id, "--to-file", &text(file)]).ok();
    }

    #[track_caller]
    pub(crate) fn verify(&self) {
        self.run(&["repo", "verify", "--read-data"]).ok();
    }
}

pub(crate) fn id(backup: &Value) -> String {
    backup["id"].as_str().expect("an id").to_owned()
}

/// The code of a command's error, which has to be a clear one.
#[track_caller]
pub(crate) fn code(outcome: Outcome) -> String {
    let outcome = outcome.refused();
    let error = outcome.stderr.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let error = error.unwrap_or_else(|| panic!("no error in JSON: {outcome}"));
    let message = error["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "no message: {outcome}");
    error["error"]["code"].as_str().unwrap_or_else(|| panic!("no code: {outcome}")).to_owned()
}

/// A daemon with volumes.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) daemon: Daemon,
}

impl Host {
    pub(crate) fn new(volumes: &[&str], mib: u64) -> Host {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let launch = Launch::dev(&dir.path().join("dev"));
        let launch = volumes.iter().fold(launch, |launch, name| launch.create(name, &format!("{mib}M")));
        let daemon = launch.start();
        Host { dir, daemon }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Random bytes in a part of a volume; `contents` is what the volume then holds.
pub(crate) fn write(
    daemon: &Daemon,
    volume: &str,
    contents: &mut [u8],
    rng: &mut Rng,
    offset: u64,
    len: u64,
) {
    let part = &mut contents[offset as usize..(offset + len) as usize];
    rng.fill(part);
    let mut client = daemon.connect(volume);
    for (index, piece) in part.chunks(MIB as usize).enumerate() {
        client.write(offset + index as u64 * MIB, piece).expect("a write");
    }
    client.flush().expect("a flush");
    client.disconnect().expect("an end");
}

/// All of an export.
pub(crate) fn contents(daemon: &Daemon, export: &str) -> Vec<u8> {
    let mut client = daemon.connect(export);
    let mut all = Vec::new();
    client.read_all(|_, data| all.extend_from_slice(data)).expect("reads");
    client.disconnect().expect("an end");
    all
}
