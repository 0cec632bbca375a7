//! A small blocking NBD client that keeps many requests in flight.
//!
//! libnbd and QEMU are tested as they are; this one exists because an oracle needs what they do not tell: which
//! write was answered before which flush was sent. It speaks fixed newstyle with `GO`, and simple or structured
//! replies, over a Unix socket. Request and reply are separate calls, so that the caller sets the depth.
//!
//! Every socket has a timeout: a daemon that stops answering fails a test, it does not hang it.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a reply may take before the test gives up. Generous: a busy two-core machine must not fail a test.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// The numbers of the protocol, as `doc/proto.md` of the NBD project names them.
#[allow(missing_docs)]
pub mod wire {
    pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
    pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
    pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
    pub const REQUEST_MAGIC: u32 = 0x2560_9513;
    pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
    pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

    pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
    pub const CLIENT_FIXED_NEWSTYLE: u32 = 1;
    pub const CLIENT_NO_ZEROES: u32 = 2;

    pub const OPT_EXPORT_NAME: u32 = 1;
    pub const OPT_ABORT: u32 = 2;
    pub const OPT_LIST: u32 = 3;
    pub const OPT_STARTTLS: u32 = 5;
    pub const OPT_INFO: u32 = 6;
    pub const OPT_GO: u32 = 7;
    pub const OPT_STRUCTURED_REPLY: u32 = 8;
    pub const OPT_LIST_META_CONTEXT: u32 = 9;
    pub const OPT_SET_META_CONTEXT: u32 = 10;

    pub const REP_ACK: u32 = 1;
    pub const REP_INFO: u32 = 3;
    pub const REP_META_CONTEXT: u32 = 4;
    pub const REP_FLAG_ERROR: u32 = 1 << 31;
    pub const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR | 1;
    pub const REP_ERR_POLICY: u32 = REP_FLAG_ERROR | 2;
    pub const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR | 6;

    pub const INFO_EXPORT: u16 = 0;

    pub const CMD_READ: u16 = 0;
    pub const CMD_WRITE: u16 = 1;
    pub const CMD_DISC: u16 = 2;
    pub const CMD_FLUSH: u16 = 3;
    pub const CMD_TRIM: u16 = 4;
    pub const CMD_CACHE: u16 = 5;
    pub const CMD_WRITE_ZEROES: u16 = 6;
    pub const CMD_BLOCK_STATUS: u16 = 7;

    pub const CMD_FLAG_FUA: u16 = 1;

    pub const CHUNK_FLAG_DONE: u16 = 1;
    pub const CHUNK_NONE: u16 = 0;
    pub const CHUNK_OFFSET_DATA: u16 = 1;
    pub const CHUNK_OFFSET_HOLE: u16 = 2;
    pub const CHUNK_BLOCK_STATUS: u16 = 5;
    pub const CHUNK_ERROR: u16 = 0x8001;
    pub const CHUNK_ERROR_OFFSET: u16 = 0x8002;

    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const ESHUTDOWN: u32 = 108;
}

/// Why a call failed: the connection, or the server's answer on a connection that goes on.
#[derive(Debug)]
pub enum Error {
    /// The socket failed or closed, or what came over it is not NBD.
    Connection(io::Error),
    /// The server refused an option: its reply type and its message.
    Refused(u32, String),
    /// The server answered a request with this error number.
    Request(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connection(e) => write!(f, "the connection failed: {e}"),
            Error::Refused(kind, text) => write!(f, "the server refused the option ({kind:#x}): {text}"),
            Error::Request(errno) => write!(f, "the server answered with error {errno}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Error::Connection(e)
    }
}

impl Error {
    /// The error number of the server's answer, where it was one.
    pub fn errno(&self) -> Option<u32> {
        match self {
            Error::Request(errno) => Some(*errno),
            _ => None,
        }
    }
}

/// What `GO` said about the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
}

/// One extent of a block status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u32,
    /// In `base:allocation`: 1 hole, 2 reads as zero. In `cairn:changed:...`: 1 may differ.
    pub flags: u32,
}

/// A request to send. Lengths in bytes.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Request<'a> {
    Read { offset: u64, len: u32 },
    Write { offset: u64, data: &'a [u8], fua: bool },
    WriteZeroes { offset: u64, len: u32, fua: bool },
    Trim { offset: u64, len: u32, fua: bool },
    Flush,
    BlockStatus { offset: u64, len: u32 },
}

/// A finished request.
#[derive(Debug)]
pub struct Reply {
    /// What [`Client::send`] returned for it.
    pub cookie: u64,
    /// `Err` with the server's error number.
    pub result: Result<(), u32>,
    /// What a read brought.
    pub data: Vec<u8>,
    /// What a block status brought.
    pub extents: Vec<Extent>,
}

#[derive(Debug)]
struct Pending {
    offset: u64,
    result: Result<(), u32>,
    data: Vec<u8>,
    extents: Vec<Extent>,
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Client {
    tx: UnixStream,
    rx: BufReader<UnixStream>,
    info: ExportInfo,
    structured: bool,
    next_cookie: u64,
    pending: HashMap<u64, Pending>,
    scratch: Vec<u8>,
}

/// Which optional parts a client negotiates.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Structured replies.
    pub structured: bool,
    /// The metadata context that block status is about; needs structured replies.
    pub context: Option<&'a str>,
}

impl Features<'static> {
    /// Simple replies only, as the Linux kernel's client has them.
    pub const SIMPLE: Self = Features { structured: false, context: None };
    /// Structured replies and block status in `base:allocation`.
    pub const FULL: Self = Features::with_context("base:allocation");
}

impl<'a> Features<'a> {
    /// Structured replies and block status in this context.
    pub const fn with_context(context: &'a str) -> Self {
        Features { structured: true, context: Some(context) }
    }
}

impl Client {
    /// Connects and negotiates structured replies and `base:allocation`.
    pub fn connect(socket: &Path, export: &str) -> Result<Client, Error> {
        Self::connect_with(socket, export, Features::FULL)
    }

    /// Connects with the features given.
    pub fn connect_with(socket: &Path, export: &str, features: Features<'_>) -> Result<Client, Error> {
        let mut stream = raw(socket)?;
        greet(&mut stream)?;
        if features.structured {
            option(&mut stream, wire::OPT_STRUCTURED_REPLY, &[])?;
            collect_option(&mut stream, wire::OPT_STRUCTURED_REPLY)?;
        }
        if let Some(context) = features.context {
            let mut data = Vec::new();
            push_string(&mut data, export);
            data.extend_from_slice(&1u32.to_be_bytes());
            push_string(&mut data, context);
            option(&mut stream, wire::OPT_SET_META_CONTEXT, &data)?;
            let answers = collect_option(&mut stream, wire::OPT_SET_META_CONTEXT)?;
            if !answers.iter().any(|(kind, _)| *kind == wire::REP_META_CONTEXT) {
                return Err(protocol(&format!("the server has no context {context}")));
            }
        }
        let mut data = Vec::new();
        push_string(&mut data, export);
        data.extend_from_slice(&0u16.to_be_bytes());
        option(&mut stream, wire::OPT_GO, &data)?;
        let info = collect_option(&mut stream, wire::OPT_GO)?
            .iter()
            .find_map(|(kind, data)| export_info(*kind, data))
            .ok_or_else(|| protocol("GO brought no export information"))?;
        Ok(Client {
            rx: BufReader::with_capacity(256 << 10, stream.try_clone()?),
            tx: stream,
            info,
            structured: features.structured,
            next_cookie: 1,
            pending: HashMap::new(),
            scratch: Vec::new(),
        })
    }

    /// What the server said about the export.
    pub fn info(&self) -> ExportInfo {
        self.info
    }

    /// Requests sent and not yet answered.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Sends one request without waiting for its reply; the cookie comes back with the reply.
    pub fn send(&mut self, request: Request<'_>) -> Result<u64, Error> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let fua_flag = |fua: bool| if fua { wire::CMD_FLAG_FUA } else { 0 };
        let (flags, command, offset, len, payload): (u16, u16, u64, u32, &[u8]) = match request {
            Request::Read { offset, len } => (0, wire::CMD_READ, offset, len, &[]),
            Request::Write { offset, data, fua } => {
                let len = u32::try_from(data.len()).map_err(|_| protocol("a write of 4 GiB or more"))?;
                (fua_flag(fua), wire::CMD_WRITE, offset, len, data)
            }
            Request::WriteZeroes { offset, len, fua } => {
                (fua_flag(fua), wire::CMD_WRITE_ZEROES, offset, len, &[])
            }
            Request::Trim { offset, len, fua } => (fua_flag(fua), wire::CMD_TRIM, offset, len, &[]),
            Request::Flush => (0, wire::CMD_FLUSH, 0, 0, &[]),
            Request::BlockStatus { offset, len } => (0, wire::CMD_BLOCK_STATUS, offset, len, &[]),
        };
        let expected = if command == wire::CMD_READ { vec![0; len as usize] } else { Vec::new() };
        self.pending.insert(cookie, Pending { offset, result: Ok(()), data: expected, extents: Vec::new() });
        self.scratch.clear();
        self.scratch.extend_from_slice(&request_header(flags, command, cookie, offset, len));
        self.scratch.extend_from_slice(payload);
        self.tx.write_all(&self.scratch)?;
        Ok(cookie)
    }

    /// Waits for the next request to finish, in whatever order the server answers.
    pub fn recv(&mut self) -> Result<Reply, Error> {
        loop {
            let finished = match self.read_u32()? {
                wire::SIMPLE_REPLY_MAGIC => self.simple_reply()?,
                wire::STRUCTURED_REPLY_MAGIC => self.chunk()?,
                other => return Err(protocol(&format!("a reply with magic {other:#x}"))),
            };
            if let Some(cookie) = finished {
                let done = self.take(cookie)?;
                return Ok(Reply { cookie, result: done.result, data: done.data, extents: done.extents });
            }
        }
    }

    /// Sends one request and waits for it. Only when nothing else is in flight.
    pub fn call(&mut self, request: Request<'_>) -> Result<Reply, Error> {
        assert!(self.pending.is_empty(), "call() with requests in flight");
        self.send(request)?;
        let reply = self.recv()?;
        match reply.result {
            Ok(()) => Ok(reply),
            Err(errno) => Err(Error::Request(errno)),
        }
    }

    /// Reads `len` bytes.
    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, Error> {
        Ok(self.call(Request::Read { offset, len })?.data)
    }

    /// What the context selected says of the whole export, in requests of at most 1 GiB: start, end and flags of each
    /// stretch.
    pub fn map(&mut self) -> Result<Vec<(u64, u64, u32)>, Error> {
        const PIECE: u64 = 1 << 30;
        let mut map: Vec<(u64, u64, u32)> = Vec::new();
        let mut at = 0;
        while at < self.info.size {
            let len = PIECE.min(self.info.size - at);
            let extents = self.call(Request::BlockStatus { offset: at, len: len as u32 })?.extents;
            if extents.is_empty() {
                return Err(protocol("a block status without extents"));
            }
            for extent in extents {
                let end = at + u64::from(extent.len);
                match map.last_mut() {
                    Some((_, until, flags)) if *flags == extent.flags => *until = end,
                    _ => map.push((at, end, extent.flags)),
                }
                at = end;
            }
        }
        Ok(map)
    }

    /// Reads the whole export in requests of 4 MiB, handing each piece to `visit`.
    pub fn read_all(&mut self, mut visit: impl FnMut(u64, &[u8])) -> Result<(), Error> {
        const PIECE: u64 = 4 << 20;
        let mut at = 0;
        while at < self.info.size {
            let len = PIECE.min(self.info.size - at);
            visit(at, &self.read(at, len as u32)?);
            at += len;
        }
        Ok(())
    }

    /// Writes and waits.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.call(Request::Write { offset, data, fua: false }).map(drop)
    }

    /// Zeroes a range and waits.
    pub fn write_zeroes(&mut self, offset: u64, len: u32) -> Result<(), Error> {
        self.call(Request::WriteZeroes { offset, len, fua: false }).map(drop)
    }

    /// Trims a range and waits.
    pub fn trim(&mut self, offset: u64, len: u32) -> Result<(), Error> {
        self.call(Request::Trim { offset, len, fua: false }).map(drop)
    }

    /// Flushes and waits.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.call(Request::Flush).map(drop)
    }

    /// Tells the server that this client is leaving, and waits until it has closed the connection.
    pub fn disconnect(mut self) -> Result<(), Error> {
        self.tx.write_all(&request_header(0, wire::CMD_DISC, 0, 0, 0))?;
        let mut rest = Vec::new();
        self.rx.read_to_end(&mut rest)?;
        if rest.is_empty() { Ok(()) } else { Err(protocol("bytes after DISC")) }
    }

    fn take(&mut self, cookie: u64) -> Result<Pending, Error> {
        self.pending.remove(&cookie).ok_or_else(|| protocol("a reply to a request never sent"))
    }

    fn known(&mut self, cookie: u64) -> Result<&mut Pending, Error> {
        self.pending.get_mut(&cookie).ok_or_else(|| protocol("a reply to a request never sent"))
    }

    fn simple_reply(&mut self) -> Result<Option<u64>, Error> {
        let errno = self.read_u32()?;
        let cookie = self.read_u64()?;
        let mut pending = self.take(cookie)?;
        if self.structured && !pending.data.is_empty() {
            return Err(protocol("a simple reply to a read though structured replies were agreed"));
        }
        if errno != 0 {
            pending.result = Err(errno);
        } else {
            self.rx.read_exact(&mut pending.data)?;
        }
        self.pending.insert(cookie, pending);
        Ok(Some(cookie))
    }

    fn chunk(&mut self) -> Result<Option<u64>, Error> {
        let mut head = [0; 16];
        self.rx.read_exact(&mut head)?;
        let flags = u16::from_be_bytes([head[0], head[1]]);
        let kind = u16::from_be_bytes([head[2], head[3]]);
        let cookie = be64(&head[4..12]);
        let len = be32(&head[12..16]) as usize;
        if len > 64 << 20 {
            return Err(protocol("a chunk of more than 64 MiB"));
        }
        let mut body = vec![0; len];
        self.rx.read_exact(&mut body)?;
        let pending = self.known(cookie)?;
        match kind {
            wire::CHUNK_NONE if len == 0 => {}
            wire::CHUNK_OFFSET_DATA if len > 8 => {
                let target = slot(pending, be64(&body[..8]), len - 8)?;
                target.copy_from_slice(&body[8..]);
            }
            wire::CHUNK_OFFSET_HOLE if len == 12 => {
                let target = slot(pending, be64(&body[..8]), be32(&body[8..12]) as usize)?;
                target.fill(0);
            }
            wire::CHUNK_BLOCK_STATUS if len >= 12 && (len - 4).is_multiple_of(8) => {
                pending.extents = body[4..]
                    .chunks_exact(8)
                    .map(|e| Extent { len: be32(&e[..4]), flags: be32(&e[4..]) })
                    .collect();
            }
            wire::CHUNK_ERROR | wire::CHUNK_ERROR_OFFSET if len >= 6 => {
                pending.result = Err(be32(&body[..4]));
            }
            other => return Err(protocol(&format!("a chunk of type {other} with {len} bytes"))),
        }
        Ok((flags & wire::CHUNK_FLAG_DONE != 0).then_some(cookie))
    }

    fn read_u32(&mut self) -> Result<u32, Error> {
        let mut b = [0; 4];
        self.rx.read_exact(&mut b)?;
        Ok(u32::from_be_bytes(b))
    }

    fn read_u64(&mut self) -> Result<u64, Error> {
        let mut b = [0; 8];
        self.rx.read_exact(&mut b)?;
        Ok(u64::from_be_bytes(b))
    }
}

/// The part of a read's buffer that a chunk at the absolute `offset` fills.
fn slot(pending: &mut Pending, offset: u64, len: usize) -> Result<&mut [u8], Error> {
    let start = offset.checked_sub(pending.offset).and_then(|at| usize::try_from(at).ok());
    start
        .and_then(|start| pending.data.get_mut(start..start.checked_add(len)?))
        .ok_or_else(|| protocol("a chunk outside of its request"))
}

/// A connected socket on which nothing was said yet, with timeouts set.
pub fn raw(socket: &Path) -> Result<UnixStream, Error> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    Ok(stream)
}

/// Reads the server's greeting and answers it with fixed newstyle, without zeroes.
pub fn greet(stream: &mut UnixStream) -> Result<(), Error> {
    let mut hello = [0; 18];
    stream.read_exact(&mut hello)?;
    if be64(&hello[..8]) != wire::MAGIC || be64(&hello[8..16]) != wire::OPTION_MAGIC {
        return Err(protocol("the greeting is not newstyle NBD"));
    }
    if u16::from_be_bytes([hello[16], hello[17]]) & wire::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(protocol("the server does not speak fixed newstyle"));
    }
    stream.write_all(&(wire::CLIENT_FIXED_NEWSTYLE | wire::CLIENT_NO_ZEROES).to_be_bytes())?;
    Ok(())
}

/// Sends one option.
pub fn option(stream: &mut UnixStream, option: u32, data: &[u8]) -> Result<(), Error> {
    stream.write_all(&option_bytes(option, data))?;
    Ok(())
}

/// One option as it stands on the wire.
pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Reads the replies to an option up to its `ACK`; an error reply becomes [`Error::Refused`].
pub fn collect_option(stream: &mut UnixStream, option: u32) -> Result<Vec<(u32, Vec<u8>)>, Error> {
    let mut answers = Vec::new();
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head)?;
        if be64(&head[..8]) != wire::OPTION_REPLY_MAGIC || be32(&head[8..12]) != option {
            return Err(protocol("not a reply to the option sent"));
        }
        let kind = be32(&head[12..16]);
        let len = be32(&head[16..20]) as usize;
        if len > 1 << 20 {
            return Err(protocol("an option reply of more than 1 MiB"));
        }
        let mut data = vec![0; len];
        stream.read_exact(&mut data)?;
        if kind & wire::REP_FLAG_ERROR != 0 {
            return Err(Error::Refused(kind, String::from_utf8_lossy(&data).into_owned()));
        }
        if kind == wire::REP_ACK {
            return Ok(answers);
        }
        answers.push((kind, data));
    }
}

/// One request header as it stands on the wire.
pub fn request_header(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut head = [0; 28];
    head[..4].copy_from_slice(&wire::REQUEST_MAGIC.to_be_bytes());
    head[4..6].copy_from_slice(&flags.to_be_bytes());
    head[6..8].copy_from_slice(&command.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..24].copy_from_slice(&offset.to_be_bytes());
    head[24..].copy_from_slice(&len.to_be_bytes());
    head
}

/// Appends a string as options carry it: 32-bit length, then the bytes.
pub fn push_string(data: &mut Vec<u8>, text: &str) {
    data.extend_from_slice(&(text.len() as u32).to_be_bytes());
    data.extend_from_slice(text.as_bytes());
}

fn export_info(kind: u32, data: &[u8]) -> Option<ExportInfo> {
    let is_export =
        kind == wire::REP_INFO && data.len() == 12 && data[..2] == wire::INFO_EXPORT.to_be_bytes();
    is_export
        .then(|| ExportInfo { size: be64(&data[2..10]), flags: u16::from_be_bytes([data[10], data[11]]) })
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn protocol(what: &str) -> Error {
    Error::Connection(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}
