//! An NBD server that answers at once and touches no data: the ceiling of NBD on a machine.
//!
//! `null-server SOCKET MEBIBYTES`. What is written is dropped. What is read is whatever the recycled memory holds, zeroes
//! or what another client of this server wrote: nothing is cleared, copied or looked up.

use std::path::Path;
use std::process::ExitCode;

use cairn_nbd::{Errno, ReadReply, Span};
use cairn_uring::AlignedBuf;
use cairn_yardsticks::{Disk, serve};

/// A disk of this many bytes that holds nothing.
#[derive(Clone)]
struct Null(u64);

impl Disk for Null {
    fn size(&self) -> u64 {
        self.0
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        // Not a hole: its reply would have no payload, and be no yardstick.
        Ok(ReadReply { buf: Some(Span::of(offset, len).buffer()), extents: Vec::new() })
    }

    async fn write(&self, _offset: u64, _len: u32, _buf: AlignedBuf) -> Result<(), Errno> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, size] = &args[..] else {
        eprintln!("usage: null-server SOCKET MEBIBYTES");
        return ExitCode::from(2);
    };
    let bytes = size.parse::<u64>().ok().and_then(|mebibytes| mebibytes.checked_mul(1 << 20));
    let Some(bytes) = bytes.filter(|bytes| i64::try_from(*bytes).is_ok()) else {
        eprintln!("null-server: {size} is not a number of MiB that a disk may have");
        return ExitCode::from(2);
    };
    let Err(error) = serve(Path::new(socket), Null(bytes));
    eprintln!("null-server: {error}");
    ExitCode::FAILURE
}
