//! The client's side of NBD, as little of it as a load needs: blocking, simple replies, many requests under way.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use cairn_nbd::proto;

/// Bytes of a request before its payload, and of a simple reply before its.
const REQUEST_BYTES: usize = 28;
const REPLY_BYTES: usize = 16;
/// Memory for replies that come in together.
const RECEIVE_BYTES: usize = 256 << 10;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Reads.
    Read = 0,
    /// Writes.
    Write = 1,
}

/// One connection to an export.
pub(crate) struct Connection {
    stream: UnixStream,
    /// Bytes of the export.
    pub(crate) size: u64,
    out: Vec<u8>,
    received: Vec<u8>,
    /// The part of `received` that is not taken yet.
    from: usize,
    to: usize,
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn take<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Connection {
    /// Connects and negotiates.
    pub(crate) fn open(socket: &Path, export: &str) -> io::Result<Connection> {
        let mut stream = UnixStream::connect(socket)?;
        let magic = u64::from_be_bytes(take(&mut stream)?);
        let newstyle = u64::from_be_bytes(take(&mut stream)?);
        if magic != proto::NBD_MAGIC || newstyle != proto::OPTION_MAGIC {
            return Err(bad("no newstyle NBD server"));
        }
        let _flags: [u8; 2] = take(&mut stream)?;
        let mut go = Vec::new();
        let flags = proto::client_flag::FIXED_NEWSTYLE | proto::client_flag::NO_ZEROES;
        go.extend_from_slice(&flags.to_be_bytes());
        go.extend_from_slice(&proto::OPTION_MAGIC.to_be_bytes());
        go.extend_from_slice(&proto::option::GO.to_be_bytes());
        go.extend_from_slice(&(export.len() as u32 + 6).to_be_bytes());
        go.extend_from_slice(&(export.len() as u32).to_be_bytes());
        go.extend_from_slice(export.as_bytes());
        go.extend_from_slice(&0_u16.to_be_bytes());
        stream.write_all(&go)?;
        let mut size = None;
        loop {
            if u64::from_be_bytes(take(&mut stream)?) != proto::OPTION_REPLY_MAGIC {
                return Err(bad("no reply to an option"));
            }
            let _option: [u8; 4] = take(&mut stream)?;
            let reply = u32::from_be_bytes(take(&mut stream)?);
            let mut body = vec![0; u32::from_be_bytes(take(&mut stream)?) as usize];
            stream.read_exact(&mut body)?;
            if reply >> 31 == 1 {
                return Err(bad(format!("export {export:?}: {}", String::from_utf8_lossy(&body))));
            }
            if reply == proto::option_reply::ACK {
                break;
            }
            if let (Some(kind), Some(bytes)) = (body.first_chunk(), body.get(2..10))
                && u16::from_be_bytes(*kind) == proto::info::EXPORT
            {
                size = Some(u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
            }
        }
        let size = size.ok_or_else(|| bad("the server did not tell the export's size"))?;
        Ok(Connection { stream, size, out: Vec::new(), received: vec![0; RECEIVE_BYTES], from: 0, to: 0 })
    }

    /// Adds a request to those that leave with the next [`Connection::send`]. Its replies carry `cookie`.
    pub(crate) fn queue(&mut self, command: Command, cookie: u64, offset: u64, len: u32, payload: &[u8]) {
        self.out.extend_from_slice(&proto::REQUEST_MAGIC.to_be_bytes());
        self.out.extend_from_slice(&0_u16.to_be_bytes());
        self.out.extend_from_slice(&(command as u16).to_be_bytes());
        self.out.extend_from_slice(&cookie.to_be_bytes());
        self.out.extend_from_slice(&offset.to_be_bytes());
        self.out.extend_from_slice(&len.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    /// Sends what is queued.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Waits for the next reply, whose payload has `len` bytes, and returns its cookie.
    pub(crate) fn receive(&mut self, len: impl FnOnce(u64) -> usize) -> io::Result<u64> {
        let mut head = [0; REPLY_BYTES];
        self.fill(&mut head)?;
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        if word(0) != proto::SIMPLE_REPLY_MAGIC {
            return Err(bad("no simple reply"));
        }
        if word(4) != 0 {
            return Err(io::Error::other(format!("the server answered with error {}", word(4))));
        }
        let cookie = u64::from_be_bytes(head[8..].try_into().expect("eight bytes"));
        self.skip(len(cookie))?;
        Ok(cookie)
    }

    /// Whether bytes of a further reply are here already.
    pub(crate) fn has_more(&self) -> bool {
        self.to - self.from >= REPLY_BYTES
    }

    fn more(&mut self) -> io::Result<()> {
        self.from = 0;
        self.to = self.stream.read(&mut self.received)?;
        if self.to == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn fill(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            if self.from == self.to {
                self.more()?;
            }
            let count = out.len().min(self.to - self.from);
            out[..count].copy_from_slice(&self.received[self.from..self.from + count]);
            self.from += count;
            out = &mut out[count..];
        }
        Ok(())
    }

    fn skip(&mut self, mut len: usize) -> io::Result<()> {
        while len > 0 {
            if self.from == self.to {
                self.more()?;
            }
            let count = len.min(self.to - self.from);
            self.from += count;
            len -= count;
        }
        Ok(())
    }
}

const _: () = assert!(REQUEST_BYTES == 4 + 2 + 2 + 8 + 8 + 4);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that knows nothing but what a client may expect of any.
    fn serve(listener: &UnixListener) -> io::Result<[u8; REQUEST_BYTES]> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(&proto::NBD_MAGIC.to_be_bytes())?;
        stream.write_all(&proto::OPTION_MAGIC.to_be_bytes())?;
        stream.write_all(&[0, 3])?;
        let _asked: [u8; 4 + 8 + 4 + 4 + 4 + 4 + 2] = take(&mut stream)?;
        for (kind, body) in [
            (proto::option_reply::INFO, &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1][..]),
            (proto::option_reply::ACK, &[]),
        ] {
            stream.write_all(&proto::OPTION_REPLY_MAGIC.to_be_bytes())?;
            stream.write_all(&proto::option::GO.to_be_bytes())?;
            stream.write_all(&kind.to_be_bytes())?;
            stream.write_all(&(body.len() as u32).to_be_bytes())?;
            stream.write_all(body)?;
        }
        let request = take(&mut stream)?;
        stream.write_all(&proto::SIMPLE_REPLY_MAGIC.to_be_bytes())?;
        stream.write_all(&0_u32.to_be_bytes())?;
        stream.write_all(&request[8..16])?;
        // The payload comes in two pieces, the second with the next reply, which is an error.
        stream.write_all(&[1; 3])?;
        stream.write_all(&[1; 5])?;
        stream.write_all(&proto::SIMPLE_REPLY_MAGIC.to_be_bytes())?;
        stream.write_all(&5_u32.to_be_bytes())?;
        stream.write_all(&[0; 8])?;
        Ok(request)
    }

    #[test]
    fn requests_and_replies_are_what_the_protocol_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("nbd.sock");
        let listener = UnixListener::bind(&socket).expect("binds");
        let server = std::thread::spawn(move || serve(&listener).expect("serves"));
        let mut connection = Connection::open(&socket, "demo").expect("connects");
        assert_eq!(connection.size, 9 << 16);
        connection.queue(Command::Read, 77, 4096, 8, &[]);
        connection.send().expect("sends");
        assert_eq!(connection.receive(|_| 8).expect("a reply"), 77);
        assert!(connection.receive(|_| 0).is_err(), "an error");
        let request = server.join().expect("ends");
        assert_eq!(request[..4], proto::REQUEST_MAGIC.to_be_bytes());
        assert_eq!(request[16..24], 4096_u64.to_be_bytes());
        assert_eq!(request[24..], 8_u32.to_be_bytes());
    }
}
