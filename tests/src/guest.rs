//! A Linux guest in QEMU that runs cairnd and attaches its disks with the kernel's own NBD client.
//!
//! ```text
//!  tests/tests/guest ───── script ──► Guest::run ──► QEMU: Debian's kernel, a file system in memory made here
//!                                         ▲           ├─ /init, /lib.sh   tests/guest
//!                                         │           ├─ /test.sh         the script
//!                                         │           ├─ cairnd, cairn, nbd-client, mkfs ... with their libraries
//!                       serial port 2 ◄───┘           └─ /dev/vda         the disk of the pool, a file of the test
//! ```
//!
//! A script is shell in the words of `tests/guest/lib.sh`; it ends at the first command that fails, and that fails the
//! test. Everything else in the guest is new at each boot; only the disk stays, so a test boots again to see what
//! survived. [`Running::power_off`] cuts the power: what the guest's page cache and cairnd held in memory is gone, what
//! QEMU was given stays.
//!
//! A new test is a script and what it should leave:
//!
//! ```no_run
//! # use cairn_tests::guest::Guest;
//! let output = Guest::with_empty_disk().run("
//!     mount_pool
//!     start_daemon --create vol:1G
//!     attach vol /dev/nbd0 -C 4
//!     echo sees $(device_bytes /dev/nbd0)
//!     detach /dev/nbd0
//!     stop_daemon
//! ");
//! assert_eq!(output.values("sees "), ["1073741824"]);
//! ```
//!
//! Without KVM a guest boots in two to four seconds and computes five to twenty times slower than the host. Scripts poll,
//! and limits are there to end what hangs.

mod archive;
mod kernel;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::archive::Archive;
use self::kernel::Kernel;
use crate::fixtures::text;
use crate::program::{self, binary, run};

/// How long a guest may take. A bound against hanging, not a speed.
const LIMIT: Duration = Duration::from_secs(600);
/// The size of the pool's disk, a sparse file.
const DISK: &str = "8G";
const MEMORY: &str = "1G";
const CPUS: &str = "2";
/// Lines of each log that a failure shows.
const TAIL: usize = 150;

const INIT: &str = include_str!("../guest/init.sh");
const LIBRARY: &str = include_str!("../guest/lib.sh");

/// Loaded at boot, with what they depend on. The checksum is a module that XFS asks for by another name.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "xfs", "nbd"];

/// What scripts may run besides cairn's programs and busybox.
const PROGRAMS: [&str; 7] =
    ["fsck.ext4", "mkfs.ext4", "mkfs.xfs", "nbd-client", "resize2fs", "xfs_growfs", "xfs_repair"];

/// What the kernel says when a disk or a file system is in trouble.
const DISK_TROUBLE: [&str; 5] =
    ["EXT4-fs error", "I/O error", "Remounting filesystem read-only", "has been shut down", "orruption"];

/// What it says when it is so itself.
const KERNEL_TROUBLE: [&str; 6] =
    ["BUG:", "Call Trace", "Kernel panic", "Oops", "WARNING:", "blocked for more than"];

/// A guest that can be booted, and its disk, which lives as long as this.
#[derive(Debug)]
pub struct Guest {
    folder: TempDir,
    kernel: Kernel,
}

impl Guest {
    /// A guest with an empty ext4 file system on its disk.
    #[track_caller]
    pub fn with_empty_disk() -> Guest {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let guest = Guest { folder, kernel: Kernel::find() };
        run("mke2fs", &["-q", "-t", "ext4", &text(&guest.disk()), DISK]).ok();
        guest
    }

    /// Boots, runs a script to its end, and panics unless it succeeded and the kernel saw no trouble.
    #[track_caller]
    pub fn run(&self, script: &str) -> Output {
        self.start(script).finish().ok()
    }

    /// Boots and begins to run a script.
    #[track_caller]
    pub fn start(&self, script: &str) -> Running {
        let initramfs = self.folder.path().join("initramfs");
        fs::write(&initramfs, self.first_files(script)).expect("a file can be written");
        let kernel_log = self.folder.path().join("kernel.log");
        let started = Instant::now();
        let accelerator = std::env::var("CAIRN_GUEST_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-accel", &accelerator, "-cpu", "max", "-smp", CPUS, "-m", MEMORY])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(&initramfs)
            // A panic ends QEMU, since it may not reboot.
            .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off"])
            .args(["-chardev", &format!("file,id=kernel,path={}", kernel_log.display())])
            .args(["-serial", "chardev:kernel", "-serial", "stdio"])
            // The guest sees a disk with a volatile cache, and its flushes reach the host's.
            .args(["-drive", &format!("file={},if=virtio,format=raw,cache=writeback", self.disk().display())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run QEMU: {e}; ./test installs what the tests need"));
        let said = Arc::new(Said::default());
        let readers = vec![
            listen(child.stdout.take().expect("stdout is piped"), Arc::clone(&said)),
            listen(child.stderr.take().expect("stderr is piped"), Arc::clone(&said)),
        ];
        Running { child, said, readers, kernel_log, started }
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn first_files(&self, script: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        archive.file("/init", INIT.as_bytes());
        archive.file("/lib.sh", LIBRARY.as_bytes());
        archive.file("/test.sh", script.as_bytes());
        // How mkfs makes file systems on this machine.
        if let Ok(settings) = fs::read("/etc/mke2fs.conf") {
            archive.file("/etc/mke2fs.conf", &settings);
        }
        // A glob sorts the modules by number.
        for (number, (name, contents)) in self.kernel.load_order(&MODULES).iter().enumerate() {
            archive.file(&format!("/modules/{number:02}-{name}.ko"), contents);
        }
        add_program(&mut archive, &find_program("busybox"), "/bin/busybox");
        for name in PROGRAMS {
            add_program(&mut archive, &find_program(name), &format!("/usr/bin/{name}"));
        }
        for name in ["cairnd", "cairn"] {
            add_program(&mut archive, &binary(name), &format!("/usr/bin/{name}"));
        }
        archive.finish()
    }
}

/// Adds a program and the shared libraries that it is linked with, those where the loader found them.
#[track_caller]
fn add_program(archive: &mut Archive, program: &Path, target: &str) {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    archive.file(target, &read(program));
    // It fails for a program that is linked statically.
    let libraries = run("ldd", &[program]).stdout;
    for line in libraries.lines() {
        // `name => path (address)`, or for the loader itself `path (address)`.
        let place = line.split_once("=>").map_or(line, |(_, place)| place).trim();
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            archive.file(path, &read(Path::new(path)));
        }
    }
}

/// A program in the path, or in the folders that only root has in its path.
#[track_caller]
fn find_program(name: &str) -> PathBuf {
    let mut folders = std::env::var_os("PATH").unwrap_or_default();
    folders.push(OsString::from(":/usr/sbin:/sbin"));
    std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("there is no {name}; ./test installs what the tests need"))
}

/// A guest that runs. Dropping it cuts its power.
#[derive(Debug)]
pub struct Running {
    child: Child,
    said: Arc<Said>,
    readers: Vec<thread::JoinHandle<()>>,
    kernel_log: PathBuf,
    started: Instant,
}

impl Running {
    /// Waits until the script has printed `count` lines that begin with `prefix`. Panics when the guest ends before.
    #[track_caller]
    pub fn wait_for_lines(&self, prefix: &str, count: usize) {
        let enough = |text: &str| text.lines().filter(|line| line.starts_with(prefix)).count() >= count;
        let mut state = self.said.lock();
        loop {
            if enough(&state.text) {
                return;
            }
            let left = LIMIT.saturating_sub(self.started.elapsed());
            let over = left.is_zero() || state.streams_ended > 0;
            assert!(!over, "no {count} lines of \"{prefix}\": {}", self.output(&state.text));
            state = self.said.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Cuts the power at once: whatever the guest had only in memory is gone.
    #[track_caller]
    pub fn power_off(mut self) -> Output {
        self.child.kill().expect("a signal can be sent");
        self.child.wait().expect("the child can be waited for");
        self.ended()
    }

    /// Waits until the guest has powered itself off.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let in_time = program::wait(&mut self.child, LIMIT).is_some();
        let output = self.ended();
        assert!(in_time, "the guest did not end within {LIMIT:?}: {output}");
        output
    }

    fn ended(&mut self) -> Output {
        for reader in std::mem::take(&mut self.readers) {
            let _ = reader.join();
        }
        self.output(&self.said.lock().text)
    }

    fn output(&self, said: &str) -> Output {
        let status = said.lines().filter_map(|line| line.strip_prefix("guest: ended with ")).next_back();
        let kernel_log = fs::read(&self.kernel_log).unwrap_or_default();
        Output {
            status: status.and_then(|status| status.trim().parse().ok()),
            said: said.to_owned(),
            kernel_log: String::from_utf8_lossy(&kernel_log).replace('\r', ""),
            took: self.started.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a guest left.
#[derive(Debug)]
pub struct Output {
    /// The script's exit status; `None` when the guest did not live to its end.
    pub status: Option<i32>,
    /// What the script and the programs it ran said.
    pub said: String,
    /// The kernel's log.
    pub kernel_log: String,
    /// From the start of QEMU to its end.
    pub took: Duration,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => writeln!(f, "the script ended with {status} after {:?}", self.took)?,
            None => writeln!(f, "the guest did not say how its script ended, after {:?}", self.took)?,
        }
        for (title, text) in [("the kernel's log", &self.kernel_log), ("the script's output", &self.said)] {
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            writeln!(f, "--- the end of {title}\n{}", tail.join("\n"))?;
        }
        Ok(())
    }
}

impl Output {
    /// Panics with the end of both logs unless the script succeeded and the kernel saw no trouble.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert_eq!(self.status, Some(0), "{self}");
        self.calm()
    }

    /// The same where a disk was taken away: then the kernel may report errors of it and of what was on it.
    #[track_caller]
    pub fn ok_without_disk(self) -> Output {
        assert_eq!(self.status, Some(0), "{self}");
        self.without(&KERNEL_TROUBLE)
    }

    /// Panics if the kernel reported an error of a disk or a file system, or one of its own.
    #[track_caller]
    pub fn calm(self) -> Output {
        self.without(&DISK_TROUBLE).without(&KERNEL_TROUBLE)
    }

    #[track_caller]
    fn without(self, signs: &[&str]) -> Output {
        let trouble = self.kernel_log.lines().find(|line| signs.iter().any(|sign| line.contains(sign)));
        assert!(trouble.is_none(), "the kernel reported {trouble:?}: {self}");
        self
    }

    /// What follows `prefix` in the lines that begin with it. A last line that the cut of the power left incomplete does
    /// not count.
    pub fn values(&self, prefix: &str) -> Vec<&str> {
        self.said
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .filter_map(|line| line.strip_prefix(prefix))
            .collect()
    }
}

/// What a guest has said so far.
#[derive(Debug, Default)]
struct Said {
    state: Mutex<SaidState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SaidState {
    text: String,
    streams_ended: usize,
}

impl Said {
    /// A panic elsewhere is reported where it happened, not here.
    fn lock(&self) -> MutexGuard<'_, SaidState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(stream: impl std::io::Read + Send + 'static, said: Arc<Said>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            // A terminal ends lines with both.
            let text = String::from_utf8_lossy(&line).replace('\r', "");
            said.lock().text.push_str(&text);
            said.changed.notify_all();
            line.clear();
        }
        said.lock().streams_ended += 1;
        said.changed.notify_all();
    })
}
