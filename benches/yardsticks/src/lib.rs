//! NBD servers to measure cairn against, on cairn's own reactor and protocol crates.
//!
//! `null-server` touches no data: what it reaches is the ceiling of NBD on a machine, for any server built on these two
//! crates. `raw-server` serves a plain file: what cairn loses against it is what the storage engine costs, and what it
//! gains is what the engine is worth. Neither is for anything but measuring.
//!
//! This is what the two share: a [`Disk`] is served with [`serve`].

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::available_parallelism;

use cairn_nbd::{
    ClientInfo, Errno, Export, ExportInfo, ExportName, Exports, Features, Limits, OpenError, ReadReply,
    Shutdown, StatusExtent, StatusQuery, ZeroFlags,
};
use cairn_uring::net::Stream;
use cairn_uring::{AlignedBuf, Config, Reactor, ReactorThread};

/// As many reactors as cairnd starts at most unless told otherwise.
const MOST_REACTORS: usize = 8;

/// A disk that is read, written and flushed, and nothing else. Clones are the same disk, one a connection.
pub trait Disk: Clone + Send + 'static {
    /// Bytes.
    fn size(&self) -> u64;

    /// As [`Export::read`].
    fn read(&self, offset: u64, len: u32) -> impl Future<Output = Result<ReadReply, Errno>>;

    /// As [`Export::write`]; FUA is followed by a flush.
    fn write(&self, offset: u64, len: u32, buf: AlignedBuf) -> impl Future<Output = Result<(), Errno>>;

    /// As [`Export::flush`].
    fn flush(&self) -> impl Future<Output = Result<(), Errno>>;
}

/// Serves `disk` as the default export on a Unix socket, over as many reactors as cairnd has, until the process is
/// ended.
///
/// # Errors
/// When the socket cannot be made, or there is no io_uring.
pub fn serve<D: Disk>(socket: &Path, disk: D) -> io::Result<Infallible> {
    let count = available_parallelism().map_or(1, usize::from).min(MOST_REACTORS);
    let config = |i| Config { name: format!("reactor-{i}"), ..Config::default() };
    let reactors =
        (0..count).map(|i| Reactor::start(config(i))).collect::<io::Result<Vec<ReactorThread>>>()?;
    let listener = UnixListener::bind(socket)?;
    println!("nbd+unix:///?socket={}", socket.display());
    let limits = Limits::default();
    loop {
        for reactor in &reactors {
            let (client, _) = listener.accept()?;
            let (disk, limits) = (disk.clone(), limits.clone());
            let session = move || session(client, Only(disk), limits);
            reactor.handle().spawn_with(session).map_err(|_| io::Error::other("a reactor has ended"))?;
        }
    }
}

async fn session<D: Disk>(client: UnixStream, export: Only<D>, limits: Limits) {
    let served = match Stream::from_unix(client) {
        Ok(stream) => cairn_nbd::serve(stream, &export, &limits, &Shutdown::new()).await,
        Err(error) => return eprintln!("{error}"),
    };
    if let Err(error) = served {
        eprintln!("{error}");
    }
}

/// A server's one export.
#[derive(Clone)]
struct Only<D>(D);

impl<D: Disk> Exports for Only<D> {
    type Export = Self;

    async fn open(&self, name: &str, _client: &ClientInfo) -> Result<Self, OpenError> {
        if name.is_empty() { Ok(self.clone()) } else { Err(OpenError::Unknown) }
    }

    async fn list(&self, _client: &ClientInfo) -> Vec<ExportName> {
        vec![ExportName { name: String::new(), description: String::new() }]
    }
}

impl<D: Disk> Export for Only<D> {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            name: String::new(),
            description: String::new(),
            size: self.size(),
            read_only: false,
            features: Features {
                trim: false,
                write_zeroes: false,
                fast_zero: false,
                cache: false,
                ..Features::ALL
            },
        }
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        self.0.read(offset, len).await
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf, fua: bool) -> Result<(), Errno> {
        self.0.write(offset, len, buf).await?;
        if fua { self.0.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush().await
    }

    // What is not advertised is not asked for.
    async fn trim(&self, _offset: u64, _len: u64, _fua: bool) -> Result<(), Errno> {
        Err(Errno::Inval)
    }

    async fn write_zeroes(&self, _offset: u64, _len: u64, _flags: ZeroFlags) -> Result<(), Errno> {
        Err(Errno::Inval)
    }

    async fn cache(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Err(Errno::Inval)
    }

    async fn block_status(&self, query: StatusQuery<'_>) -> Result<Vec<StatusExtent>, Errno> {
        Ok(vec![StatusExtent { len: query.len, flags: 0 }])
    }
}
