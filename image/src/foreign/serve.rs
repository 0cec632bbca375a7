//! `qemu-nbd` as a reader.
//!
//! It gets three descriptors from a shell that also limits its memory: the socket it accepts one client on, to which this
//! process is connected before it even starts, and the image. Nothing has to be waited for, nothing is left behind: when
//! this process ends, however it does, the connection ends, and qemu-nbd with it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::error::{Error, Result};
use crate::nbd::{Connection, DiskSource};
use crate::source::{Output, Source};

const PROGRAM: &str = "qemu-nbd";
/// What the shell does: descriptor 0 is the socket, 1 the image. The socket is taken over as systemd hands sockets to
/// services, sd_listen_fds(3). 4 GiB of addresses are plenty for stacks and caches, and a bound for bombs.
const SCRIPT: &str = "exec 3<&0 4<&1 0</dev/null 1>/dev/null
ulimit -v 4194304
ulimit -c 0
export LISTEN_FDS=1 LISTEN_PID=$$
exec \"$0\" --read-only --shared=1 \"$1\"";
/// How much is kept of what it says when it fails.
const MOST_SAID: u64 = 4096;

/// An image that QEMU reads, in a format it does not have to guess.
pub(crate) struct ForeignSource {
    file: File,
    driver: &'static str,
}

impl ForeignSource {
    /// `driver` is QEMU's word for the format.
    pub(crate) fn new(file: File, driver: &'static str) -> ForeignSource {
        ForeignSource { file, driver }
    }
}

/// The image as QEMU's block layer is told to open it: this format, this file, nothing else.
fn description(driver: &str) -> String {
    let mut image = json!({ "driver": driver, "file": { "driver": "file", "filename": "/proc/self/fd/4" } });
    if matches!(driver, "qcow2" | "vmdk") {
        image["backing"] = serde_json::Value::Null;
    }
    format!("json:{image}")
}

/// The process, killed when it is dropped.
struct Server(Child);

impl Server {
    fn start(socket: UnixListener, image: File, driver: &str) -> Result<Server> {
        let started = Command::new("/bin/sh")
            .args(["-c", SCRIPT, PROGRAM, &description(driver)])
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::from(image))
            .stderr(Stdio::piped())
            .spawn();
        started.map(Server).map_err(|e| Error::io("cannot start a shell", e))
    }

    /// What it said before it ended.
    fn last_words(&mut self) -> String {
        // It may still run when it does not speak NBD as it should.
        let _ = self.0.kill();
        let mut said = Vec::new();
        if let Some(stderr) = self.0.stderr.take() {
            // What came before an error is what there is.
            let _ = stderr.take(MOST_SAID).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        line.trim().trim_start_matches("qemu-nbd: ").replace("json:", "").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program of this name can be started.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn socket_pair() -> io::Result<(UnixListener, UnixStream)> {
    // In a folder that nobody else can enter, and only until both ends are there.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path)?;
    Ok((listener, stream))
}

impl Source for ForeignSource {
    fn read(self: Box<Self>, out: &mut Output) -> Result<()> {
        let ForeignSource { file, driver } = *self;
        if !is_installed(PROGRAM) {
            return Err(Error::unsupported(format!(
                "{PROGRAM} reads images of this format, and is not installed"
            ))
            .with_hint("install it (Debian: qemu-utils), or convert the image to qcow2 or raw elsewhere"));
        }
        let (listener, stream) = socket_pair().map_err(|e| Error::io("cannot make a socket", e))?;
        let mut server = Server::start(listener, file, driver)?;
        let read = match Connection::over(stream.into(), "") {
            Ok(connection) => {
                out.begin(Some(connection.size()))?;
                DiskSource::new(connection).read_into(out)
            }
            Err(error) => Err(error),
        };
        read.map_err(|error| match error.kind() {
            crate::ErrorKind::Server => {
                Error::damaged(format!("QEMU cannot read the image: {}", server.last_words()))
            }
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_is_told_to_open_one_file_and_no_backing() {
        let told = |driver| -> serde_json::Value {
            serde_json::from_str(description(driver).strip_prefix("json:").expect("json")).expect("json")
        };
        assert_eq!(
            told("vpc"),
            json!({"driver": "vpc", "file": {"driver": "file", "filename": "/proc/self/fd/4"}})
        );
        assert!(told("vmdk").as_object().expect("an object").get("backing").is_some_and(|b| b.is_null()));
    }
}
