//! A server over a plain file, and whether what goes in comes out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may take to open its socket. A bound against hanging, not a speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, ended when this is dropped.
pub(crate) struct Server {
    process: Child,
    /// The socket.
    pub(crate) socket: PathBuf,
}

impl Server {
    /// Starts `program` with a socket in `folder` and one more argument.
    pub(crate) fn start(program: &str, folder: &Path, argument: &str) -> Server {
        let socket = folder.join("nbd.sock");
        let process = Command::new(program).arg(&socket).arg(argument).spawn().expect("the server starts");
        let mut server = Server { process, socket };
        let started = Instant::now();
        while !server.socket.exists() {
            let status = server.process.try_wait().expect("its state can be asked for");
            assert!(status.is_none() && started.elapsed() < PATIENCE, "{program} does not serve: {status:?}");
            sleep(Duration::from_millis(5));
        }
        server
    }

    /// Its address.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }
}

/// Runs a client; what it printed.
pub(crate) fn client(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; ./test installs what the tests need"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Bytes in which no block is like another.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    (0..len / 4).flat_map(|_| next().to_le_bytes()).collect()
}

/// Copies data into a disk over several connections with many requests in flight, and out again; small blocks are read
/// and written, too.
// The folder is not `/tmp`, which may be a tmpfs, of which old kernels refuse `O_DIRECT`.
pub(crate) fn check_round_trip(program: &str) {
    const LEN: usize = 48 << 20;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let [disk, source, copy] = ["disk", "source", "copy"].map(|name| folder.path().join(name));
    fs::write(&source, noise(LEN)).expect("is written");
    fs::File::create(&disk).and_then(|file| file.set_len(LEN as u64)).expect("is made");
    let server = Server::start(program, folder.path(), disk.to_str().expect("is text"));
    let uri = server.uri();
    assert_eq!(client("nbdinfo", &["--size", &uri]).trim(), LEN.to_string());

    let [source_name, copy_name] = [&source, &copy].map(|path| path.to_str().expect("is text"));
    client("nbdcopy", &["--connections=3", "--requests=64", "--flush", source_name, &uri]);
    client(
        "qemu-io",
        &["-f", "raw", &uri, "-c", "write -P 0x5a 8k 12k", "-c", "flush", "-c", "read -P 0x5a 8k 12k"],
    );
    client("nbdcopy", &["--connections=3", "--requests=64", &uri, copy_name]);

    let mut expected = fs::read(&source).expect("is there");
    expected[8 << 10..20 << 10].fill(0x5a);
    // Not `assert_eq`, which would print both.
    assert!(fs::read(&copy).expect("is there") == expected, "what was read differs from what was written");
    assert!(fs::read(&disk).expect("is there") == expected, "the file differs from what was written");
}
