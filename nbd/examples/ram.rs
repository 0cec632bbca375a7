//! Serves a disk in memory: `cargo run --example ram -- ./ram.sock 64` has 64 MiB at
//! `nbd+unix:///?socket=./ram.sock`.

use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixListener;
use std::rc::Rc;

use cairn_nbd::{
    ClientInfo, Errno, Export, ExportInfo, ExportName, Exports, Features, Limits, OpenError, ReadReply,
    Shutdown, Span, StatusExtent, StatusQuery, ZeroFlags, serve,
};
use cairn_uring::net::Listener;
use cairn_uring::{AlignedBuf, Config, Reactor, spawn};

/// The disk's bytes. One thread serves all connections, so nothing needs a lock.
#[derive(Clone)]
struct Ram(Rc<RefCell<Vec<u8>>>);

impl Ram {
    fn fill_with_zeroes(&self, offset: u64, len: u64) {
        // The session has checked that the range lies inside the disk, whose size is a `usize`.
        self.0.borrow_mut()[offset as usize..(offset + len) as usize].fill(0);
    }
}

impl Export for Ram {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            name: "ram".to_owned(),
            description: "a disk in memory".to_owned(),
            size: self.size(),
            read_only: false,
            features: Features { cache: false, ..Features::ALL },
        }
    }

    fn size(&self) -> u64 {
        self.0.borrow().len() as u64
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        let span = Span::of(offset, len);
        let (start, len) = (offset as usize, len as usize);
        let mut buf = span.buffer();
        buf[span.phase..span.phase + len].copy_from_slice(&self.0.borrow()[start..start + len]);
        Ok(ReadReply { buf: Some(buf), extents: Vec::new() })
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf, _fua: bool) -> Result<(), Errno> {
        let span = Span::of(offset, len);
        let (start, len) = (offset as usize, len as usize);
        self.0.borrow_mut()[start..start + len].copy_from_slice(&buf[span.phase..span.phase + len]);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64, _fua: bool) -> Result<(), Errno> {
        self.fill_with_zeroes(offset, len);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, _flags: ZeroFlags) -> Result<(), Errno> {
        self.fill_with_zeroes(offset, len);
        Ok(())
    }

    async fn cache(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Ok(())
    }

    async fn block_status(&self, query: StatusQuery<'_>) -> Result<Vec<StatusExtent>, Errno> {
        Ok(vec![StatusExtent { len: query.len, flags: 0 }])
    }
}

/// The one export, under its name and as the default.
impl Exports for Ram {
    type Export = Self;

    async fn open(&self, name: &str, _client: &ClientInfo) -> Result<Self, OpenError> {
        if matches!(name, "" | "ram") { Ok(self.clone()) } else { Err(OpenError::Unknown) }
    }

    async fn list(&self, _client: &ClientInfo) -> Vec<ExportName> {
        vec![ExportName { name: "ram".to_owned(), description: "a disk in memory".to_owned() }]
    }
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(size)) = (args.next(), args.next().and_then(|s| s.parse::<usize>().ok())) else {
        eprintln!("usage: ram SOCKET MEBIBYTES");
        std::process::exit(2);
    };
    let listener = Listener::unix(UnixListener::bind(&path)?)?;
    println!("nbd+unix:///?socket={path}");
    let mut reactor = Reactor::new(Config::default())?;
    reactor.block_on(async move {
        let ram = Ram(Rc::new(RefCell::new(vec![0; size << 20])));
        // One for all connections, since they share a budget of memory.
        let limits = Limits::default();
        loop {
            let (stream, ram, limits) = (listener.accept().await?, ram.clone(), limits.clone());
            spawn(async move {
                match serve(stream, &ram, &limits, &Shutdown::new()).await {
                    Ok(summary) => println!("{summary:?}"),
                    Err(error) => println!("{error}"),
                }
            });
        }
    })
}
