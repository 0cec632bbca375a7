//! A client of exact bytes. It knows the wire format from the specification, not from the crate under test.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::server::PATIENCE;

pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_STARTTLS: u32 = 5;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED_REPLY: u32 = 8;
pub const OPT_LIST_META_CONTEXT: u32 = 9;
pub const OPT_SET_META_CONTEXT: u32 = 10;
pub const OPT_EXTENDED_HEADERS: u32 = 11;

pub const REP_ACK: u32 = 1;
pub const REP_SERVER: u32 = 2;
pub const REP_INFO: u32 = 3;
pub const REP_META_CONTEXT: u32 = 4;
pub const ERR_UNSUP: u32 = 0x8000_0001;
pub const ERR_POLICY: u32 = 0x8000_0002;
pub const ERR_INVALID: u32 = 0x8000_0003;
pub const ERR_UNKNOWN: u32 = 0x8000_0006;
pub const ERR_SHUTDOWN: u32 = 0x8000_0007;
pub const ERR_TOO_BIG: u32 = 0x8000_0009;
pub const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;
pub const PAYLOAD_LEN: u16 = 32;

pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const EOVERFLOW: u32 = 75;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Simple,
    Structured,
    Extended,
}

/// A context's id and its extents: length and flags.
pub type ContextStatus = (u32, Vec<(u64, u64)>);

/// One chunk of a reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub done: bool,
    pub kind: u16,
    pub cookie: u64,
    pub payload: Vec<u8>,
}

pub const NONE: u16 = 0;
pub const OFFSET_DATA: u16 = 1;
pub const OFFSET_HOLE: u16 = 2;
pub const STATUS: u16 = 5;
pub const STATUS_EXT: u16 = 6;
pub const ERROR: u16 = 0x8001;

impl Chunk {
    /// The error number, 0 for none.
    pub fn errno(&self) -> u32 {
        if self.kind == ERROR { be32(&self.payload) } else { 0 }
    }
}

pub fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

pub fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
}

pub struct Raw {
    pub socket: UnixStream,
    pub style: Style,
    /// Offsets of extended requests by cookie, to check that replies repeat them.
    offsets: Vec<(u64, u64)>,
}

impl Raw {
    pub fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, style: Style::Simple, offsets: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    pub fn recv(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.socket.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    pub fn expect(&mut self, bytes: &[u8]) {
        assert_eq!(self.recv(bytes.len()), bytes);
    }

    /// The server has closed the connection and sent nothing more.
    pub fn expect_end(&mut self) {
        let mut byte = [0];
        match self.socket.read(&mut byte) {
            Ok(0) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("expected the end, got {other:?} {byte:?}"),
        }
    }

    // ---- negotiation ----------------------------------------------------------------------------

    /// Reads the greeting and answers with `flags`.
    pub fn greet(&mut self, flags: u32) {
        self.expect(b"NBDMAGICIHAVEOPT\x00\x03");
        self.send(&flags.to_be_bytes());
    }

    pub fn option(&mut self, code: u32, payload: &[u8]) {
        self.option_header(code, payload.len() as u32);
        self.send(payload);
    }

    pub fn option_header(&mut self, code: u32, len: u32) {
        self.send(b"IHAVEOPT");
        self.send(&code.to_be_bytes());
        self.send(&len.to_be_bytes());
    }

    /// One reply to `code`: its type and payload.
    pub fn reply(&mut self, code: u32) -> (u32, Vec<u8>) {
        self.expect(&0x0003_e889_0455_65a9_u64.to_be_bytes());
        self.expect(&code.to_be_bytes());
        let kind = be32(&self.recv(4));
        let len = be32(&self.recv(4));
        assert!(len < 1 << 20, "a reply of {len} bytes");
        (kind, self.recv(len as usize))
    }

    /// All replies to an option, the last of which is its type.
    pub fn ask(&mut self, code: u32, payload: &[u8]) -> (Vec<(u32, Vec<u8>)>, u32) {
        self.option(code, payload);
        self.replies(code)
    }

    pub fn replies(&mut self, code: u32) -> (Vec<(u32, Vec<u8>)>, u32) {
        let mut replies = Vec::new();
        loop {
            let (kind, payload) = self.reply(code);
            if kind == REP_ACK || kind >> 31 == 1 {
                assert!(kind != REP_ACK || payload.is_empty(), "ACK has no data");
                assert!(payload.len() <= 4096, "an error message of {} bytes", payload.len());
                return (replies, kind);
            }
            replies.push((kind, payload));
        }
    }

    /// Negotiates `style`, then `contexts` (if any), and enters transmission.
    pub fn enter(&mut self, export: &str, style: Style, contexts: &[&str]) -> Vec<u32> {
        self.greet(3);
        let option = match style {
            Style::Simple => None,
            Style::Structured => Some(OPT_STRUCTURED_REPLY),
            Style::Extended => Some(OPT_EXTENDED_HEADERS),
        };
        if let Some(option) = option {
            assert_eq!(self.ask(option, b""), (vec![], REP_ACK));
        }
        let mut ids = Vec::new();
        if !contexts.is_empty() {
            let (replies, last) = self.ask(OPT_SET_META_CONTEXT, &context_payload(export, contexts));
            assert_eq!(last, REP_ACK);
            ids = replies.iter().map(|(_, payload)| be32(payload)).collect();
        }
        let (_, last) = self.ask(OPT_GO, &go_payload(export, &[]));
        assert_eq!(last, REP_ACK, "GO {export}");
        self.style = style;
        ids
    }

    // ---- transmission ---------------------------------------------------------------------------

    pub fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, len: u64) {
        let bytes = request_bytes(self.style, flags, command, cookie, offset, len);
        self.offsets.push((cookie, offset));
        self.send(&bytes);
    }

    pub fn write(&mut self, flags: u16, cookie: u64, offset: u64, payload: &[u8]) {
        let flags = if self.style == Style::Extended { flags | PAYLOAD_LEN } else { flags };
        self.request(flags, WRITE, cookie, offset, payload.len() as u64);
        self.send(payload);
    }

    /// One simple reply without contents: cookie and error.
    pub fn simple(&mut self) -> (u64, u32) {
        assert_eq!(self.style, Style::Simple);
        self.expect(&0x6744_6698_u32.to_be_bytes());
        let error = be32(&self.recv(4));
        (be64(&self.recv(8)), error)
    }

    /// One chunk in the negotiated style.
    pub fn chunk(&mut self) -> Chunk {
        let extended = self.style == Style::Extended;
        let magic: u32 = if extended { 0x6e8a_278c } else { 0x668e_33ef };
        self.expect(&magic.to_be_bytes());
        let head = self.recv(12);
        let cookie = be64(&head[4..]);
        let flags = u16::from_be_bytes([head[0], head[1]]);
        assert_eq!(flags & !1, 0, "only DONE is a reply flag");
        let len = if extended {
            let offset = be64(&self.recv(8));
            assert!(self.offsets.contains(&(cookie, offset)), "the request's offset comes back");
            be64(&self.recv(8))
        } else {
            u64::from(be32(&self.recv(4)))
        };
        assert!(len <= (32 << 20) + 12, "a chunk of {len} bytes");
        let payload = self.recv(len as usize);
        let kind = u16::from_be_bytes([head[2], head[3]]);
        if kind == ERROR {
            assert_eq!(usize::from(u16::from_be_bytes([payload[4], payload[5]])), payload.len() - 6);
        }
        Chunk { done: flags & 1 == 1, kind, cookie, payload }
    }

    /// All chunks of the next reply, which must not be interleaved with another.
    pub fn chunks(&mut self) -> Vec<Chunk> {
        let mut chunks = vec![self.chunk()];
        while !chunks.last().is_some_and(|c| c.done) {
            let chunk = self.chunk();
            assert_eq!(chunk.cookie, chunks[0].cookie);
            chunks.push(chunk);
        }
        chunks
    }

    /// The outcome of a request without contents, in any style: cookie and error.
    pub fn outcome(&mut self) -> (u64, u32) {
        if self.style == Style::Simple {
            return self.simple();
        }
        let chunks = self.chunks();
        assert_eq!(chunks.len(), 1);
        assert!(matches!(chunks[0].kind, NONE | ERROR), "{:?}", chunks[0]);
        (chunks[0].cookie, chunks[0].errno())
    }

    /// A READ, put together again from whatever it comes in; or its error.
    pub fn read(&mut self, flags: u16, cookie: u64, offset: u64, len: u64) -> Result<Vec<u8>, u32> {
        self.request(flags, READ, cookie, offset, len);
        self.contents(cookie, offset, len)
    }

    pub fn contents(&mut self, cookie: u64, offset: u64, len: u64) -> Result<Vec<u8>, u32> {
        if self.style == Style::Simple {
            let (got, error) = self.simple();
            assert_eq!(got, cookie);
            return if error == 0 { Ok(self.recv(len as usize)) } else { Err(error) };
        }
        let mut bytes = vec![0xff; len as usize];
        let mut covered = 0;
        for chunk in self.chunks() {
            assert_eq!(chunk.cookie, cookie);
            match chunk.kind {
                OFFSET_DATA => {
                    let at = (be64(&chunk.payload) - offset) as usize;
                    bytes[at..at + chunk.payload.len() - 8].copy_from_slice(&chunk.payload[8..]);
                    covered += chunk.payload.len() - 8;
                }
                OFFSET_HOLE => {
                    let at = (be64(&chunk.payload) - offset) as usize;
                    let hole = be32(&chunk.payload[8..]) as usize;
                    assert_eq!(chunk.payload.len(), 12);
                    bytes[at..at + hole].fill(0);
                    covered += hole;
                }
                ERROR => return Err(chunk.errno()),
                NONE => {}
                kind => panic!("chunk type {kind} in reply to READ"),
            }
        }
        assert_eq!(covered, len as usize, "chunks cover the request");
        Ok(bytes)
    }

    /// The next reply, to a BLOCK_STATUS: per context its id and extents of (length, flags).
    pub fn status(&mut self) -> Result<Vec<ContextStatus>, u32> {
        let mut contexts = Vec::new();
        for chunk in self.chunks() {
            let p = &chunk.payload;
            match (chunk.kind, self.style) {
                (STATUS, Style::Structured) => {
                    let extents = p[4..].chunks(8).map(|e| (be32(e).into(), be32(&e[4..]).into()));
                    contexts.push((be32(p), extents.collect()));
                }
                (STATUS_EXT, Style::Extended) => {
                    let extents: Vec<_> = p[8..].chunks(16).map(|e| (be64(e), be64(&e[8..]))).collect();
                    assert_eq!(be32(&p[4..]) as usize, extents.len());
                    contexts.push((be32(p), extents));
                }
                (ERROR, _) => return Err(chunk.errno()),
                other => panic!("{other:?} in reply to BLOCK_STATUS"),
            }
        }
        Ok(contexts)
    }
}

pub fn request_bytes(style: Style, flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    let magic: u32 = if style == Style::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    if style == Style::Extended {
        bytes.extend_from_slice(&len.to_be_bytes());
    } else {
        bytes.extend_from_slice(&u32::try_from(len).expect("32 bits").to_be_bytes());
    }
    bytes
}

pub fn go_payload(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut payload = (name.len() as u32).to_be_bytes().to_vec();
    payload.extend_from_slice(name.as_bytes());
    payload.extend_from_slice(&(infos.len() as u16).to_be_bytes());
    payload.extend(infos.iter().flat_map(|i| i.to_be_bytes()));
    payload
}

pub fn context_payload(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut payload = (name.len() as u32).to_be_bytes().to_vec();
    payload.extend_from_slice(name.as_bytes());
    payload.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        payload.extend_from_slice(&(query.len() as u32).to_be_bytes());
        payload.extend_from_slice(query.as_bytes());
    }
    payload
}
