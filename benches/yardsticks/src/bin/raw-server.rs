//! An NBD server over a plain file with `O_DIRECT`: cairn's reactor and protocol without its storage engine.
//!
//! `raw-server SOCKET FILE`. The file's size is the disk's. Requests that are not whole blocks of 4 KiB are refused where
//! they write: a yardstick needs no read-modify-write.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use cairn_nbd::{Errno, ReadReply, Span, proto};
use cairn_uring::AlignedBuf;
use cairn_uring::fs::{File, OpenOptions};
use cairn_yardsticks::{Disk, serve};

/// A file as it is.
#[derive(Clone)]
struct Raw {
    file: File,
    size: u64,
}

impl Raw {
    fn open(path: &Path) -> io::Result<Raw> {
        let file = File::open(
            path,
            OpenOptions { read: true, write: true, direct: true, ..OpenOptions::default() },
        )?;
        let size = file.len()?;
        if size == 0 || size % u64::from(proto::PREFERRED_BLOCK) != 0 {
            return Err(io::Error::other(format!("{size} bytes are not a whole number of blocks of 4 KiB")));
        }
        Ok(Raw { file, size })
    }
}

impl Disk for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        let span = Span::of(offset, len);
        let (result, buf) = self.file.read_exact_at(span.buffer(), offset - span.phase as u64).await;
        result.map_err(|_| Errno::Io)?;
        Ok(ReadReply { buf: Some(buf), extents: Vec::new() })
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf) -> Result<(), Errno> {
        let span = Span::of(offset, len);
        if span.phase != 0 || span.total != len as usize || buf.len() != span.total {
            return Err(Errno::Inval);
        }
        self.file.write_all_at(buf, offset).await.0.map_err(|_| Errno::Io)
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.file.sync_data().await.map_err(|_| Errno::Io)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, file] = &args[..] else {
        eprintln!("usage: raw-server SOCKET FILE");
        return ExitCode::from(2);
    };
    let Err(error) = Raw::open(Path::new(file)).and_then(|disk| serve(Path::new(socket), disk));
    eprintln!("raw-server: {file}: {error}");
    ExitCode::FAILURE
}
