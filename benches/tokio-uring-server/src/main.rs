//! An NBD server over a plain file with `O_DIRECT`, on tokio-uring: the same work as `raw-server`, another runtime.
//!
//! `tokio-uring-server SOCKET FILE`. Its buffers and message formats are cairn's, so that the runtime is what differs.
//! It does what tokio-uring makes possible: a task a request, one runtime a core, requests taken from one large receive,
//! all replies that are ready in one vectored write. It offers what benchmarks need: GO, simple replies, reads, writes,
//! flushes, whole blocks of 4 KiB.

mod buffer;
mod handshake;
mod transmission;

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use cairn_nbd::proto::PREFERRED_BLOCK;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_uring::fs::File;

/// `O_DIRECT` of x86-64 and most other architectures; aarch64 has its own.
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200000 } else { 0o40000 };
/// Slots of a ring's submission queue, as cairn's reactor has.
const ENTRIES: u32 = 1024;
/// As many runtimes as cairnd has reactors at most unless told otherwise.
const MOST_RUNTIMES: usize = 8;

/// The disk as one runtime has it.
struct Disk {
    file: File,
    size: u64,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, file] = &args[..] else {
        eprintln!("usage: tokio-uring-server SOCKET FILE");
        return ExitCode::from(2);
    };
    let Err(error) = serve(Path::new(socket), Path::new(file));
    eprintln!("tokio-uring-server: {error}");
    ExitCode::FAILURE
}

fn serve(socket: &Path, path: &Path) -> io::Result<std::convert::Infallible> {
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(O_DIRECT).open(path)?;
    let size = file.metadata()?.len();
    if size == 0 || size % u64::from(PREFERRED_BLOCK) != 0 {
        return Err(io::Error::other(format!("{size} bytes are not a whole number of blocks of 4 KiB")));
    }
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_RUNTIMES);
    let mut runtimes = Vec::new();
    for _ in 0..count {
        let (sender, clients) = unbounded_channel();
        let file = file.try_clone()?;
        std::thread::spawn(move || run(file, size, clients));
        runtimes.push(sender);
    }
    let listener = UnixListener::bind(socket)?;
    println!("nbd+unix:///?socket={}", socket.display());
    loop {
        for runtime in &runtimes {
            let (client, _) = listener.accept()?;
            runtime.send(client).map_err(|_| io::Error::other("a runtime has ended"))?;
        }
    }
}

/// One runtime, on its thread, for the clients it is given.
fn run(file: std::fs::File, size: u64, mut clients: UnboundedReceiver<UnixStream>) {
    // Completions are then run when the thread enters the kernel anyway, rather than by interrupting it.
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun();
    tokio_uring::builder().entries(ENTRIES).uring_builder(&ring).start(async move {
        let disk = Rc::new(Disk { file: File::from_std(file), size });
        while let Some(client) = clients.recv().await {
            let disk = Rc::clone(&disk);
            tokio_uring::spawn(async move {
                let client = Rc::new(tokio_uring::net::UnixStream::from_std(client));
                let served = match handshake::negotiate(&client, &disk).await {
                    Ok(true) => transmission::run(client, disk).await,
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = served {
                    eprintln!("{error}");
                }
            });
        }
    });
}
