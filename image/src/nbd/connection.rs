//! Negotiation; requests, and whatever replies come.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use cairn_api::info::NbdEndpoint;

use super::wire::{self, *};
use crate::error::{Error, Result};

/// The longest text or list that an option's answer may hold.
const MOST_OPTION_BYTES: u32 = 64 << 10;
/// The most that one chunk about extents may hold: the protocol's bound on how many there are.
const MOST_STATUS_BYTES: u32 = 4 + (1 << 20) * 8;
/// The longest text of an error.
const MOST_ERROR_BYTES: u32 = 16 << 10;
/// What the protocol lets a client assume that a server takes.
const DEFAULT_MAXIMUM: u32 = 32 << 20;

/// A socket of either kind.
#[derive(Debug)]
pub enum Socket {
    /// On this machine.
    Unix(UnixStream),
    /// On a network.
    Tcp(TcpStream),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Socket> {
        match self {
            Socket::Unix(stream) => stream.try_clone().map(Socket::Unix),
            Socket::Tcp(stream) => stream.try_clone().map(Socket::Tcp),
        }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket::Unix(stream)
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.read(buf),
            Socket::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.write(buf),
            Socket::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names a request until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Cookie(u64);

/// A request whose answer is awaited or has come.
enum Asked {
    /// A write or a flush.
    Done,
    /// A read of this place.
    Read { offset: u64, data: Vec<u8> },
    /// What a context says, from this place on: lengths and flags.
    Status { context: u32, extents: Vec<(u32, u32)> },
}

/// A connection to one export.
pub struct Connection {
    reader: BufReader<Socket>,
    writer: Socket,
    size: u64,
    maximum: u32,
    structured: bool,
    /// The context that tells where data is, if the server has it.
    allocation: Option<u32>,
    /// The context that tells what differs from the snapshot asked about.
    changed: Option<u32>,
    asked: HashMap<Cookie, Asked>,
    answered: HashMap<Cookie, Asked>,
    last: u64,
}

fn lost(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::server("the NBD server closed the connection"),
        _ => Error::server("the connection to the NBD server is lost").because(error),
    }
}

fn broken(what: &str) -> Error {
    Error::server(format!("the NBD server does not speak as it should: {what}"))
}

impl Connection {
    /// Connects to an export.
    ///
    /// # Errors
    /// When nobody listens there or the export cannot be had.
    pub fn open(endpoint: &NbdEndpoint, export: &str) -> Result<Connection> {
        Connection::connect(endpoint, export, None)
    }

    /// Connects to an export of cairn, to be told what differs from the snapshot `since` of the same volume.
    ///
    /// # Errors
    /// When nobody listens there, or the export cannot be had or not be compared with the snapshot.
    pub fn open_comparing(endpoint: &NbdEndpoint, export: &str, since: &str) -> Result<Connection> {
        let connection = Connection::connect(endpoint, export, Some(since))?;
        if connection.changed.is_none() {
            let why = format!("the NBD server cannot compare '{export}' with the snapshot '{since}'");
            return Err(Error::server(why));
        }
        Ok(connection)
    }

    fn connect(endpoint: &NbdEndpoint, export: &str, since: Option<&str>) -> Result<Connection> {
        let connected = match endpoint {
            NbdEndpoint::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            NbdEndpoint::Tcp(address) => TcpStream::connect(address).map(|stream| {
                // Only slower without.
                let _ = stream.set_nodelay(true);
                Socket::Tcp(stream)
            }),
        };
        let unreachable = |e| Error::server(format!("cannot connect to {}", endpoint.uri(export))).because(e);
        Connection::begin(connected.map_err(unreachable)?, export, since)
    }

    /// Begins with an export on a socket that is connected.
    ///
    /// # Errors
    /// When the export cannot be had.
    pub fn over(socket: Socket, export: &str) -> Result<Connection> {
        Connection::begin(socket, export, None)
    }

    fn begin(socket: Socket, export: &str, since: Option<&str>) -> Result<Connection> {
        let reader = socket.try_clone().map_err(lost)?;
        let mut connection = Connection {
            reader: BufReader::with_capacity(64 << 10, reader),
            writer: socket,
            size: 0,
            maximum: DEFAULT_MAXIMUM,
            structured: false,
            allocation: None,
            changed: None,
            asked: HashMap::new(),
            answered: HashMap::new(),
            last: 0,
        };
        connection.greet()?;
        connection.structured = connection.option(OPT_STRUCTURED_REPLY, &[], |_, _, _| Ok(()))?.is_ok();
        if connection.structured {
            connection.ask_for_contexts(export, since)?;
        }
        connection.go(export)?;
        Ok(connection)
    }

    fn greet(&mut self) -> Result<()> {
        let (magic, style) =
            (wire::u64(&mut self.reader).map_err(lost)?, wire::u64(&mut self.reader).map_err(lost)?);
        let flags = wire::u16(&mut self.reader).map_err(lost)?;
        if magic != MAGIC || style != OPTION_MAGIC || flags & FIXED_NEWSTYLE == 0 {
            return Err(broken("its greeting"));
        }
        let flags = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
        self.writer.write_all(&flags.to_be_bytes()).map_err(lost)
    }

    /// Sends an option and hands its answers' data to `each` until it is acknowledged; the inner error is the server's.
    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        mut each: impl FnMut(&mut Connection, u32, &[u8]) -> Result<()>,
    ) -> Result<std::result::Result<(), String>> {
        self.writer.write_all(&wire::option(option, data)).map_err(lost)?;
        loop {
            let magic = wire::u64(&mut self.reader).map_err(lost)?;
            let about = wire::u32(&mut self.reader).map_err(lost)?;
            let kind = wire::u32(&mut self.reader).map_err(lost)?;
            let len = wire::u32(&mut self.reader).map_err(lost)?;
            if magic != OPTION_REPLY_MAGIC || about != option || len > MOST_OPTION_BYTES {
                return Err(broken("an answer to an option"));
            }
            let data = wire::bytes(&mut self.reader, len as usize).map_err(lost)?;
            match kind {
                REP_ACK => return Ok(Ok(())),
                error if error & REP_ERROR != 0 => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    let told =
                        if text.is_empty() { format!("error {:#x}", error & !REP_ERROR) } else { text };
                    return Ok(Err(told));
                }
                kind => each(self, kind, &data)?,
            }
        }
    }

    fn ask_for_contexts(&mut self, export: &str, since: Option<&str>) -> Result<()> {
        let changed = since.map(|since| format!("{CHANGED_SINCE}{since}"));
        let mut data = wire::text(export);
        data.extend((1 + u32::from(changed.is_some())).to_be_bytes());
        data.extend(wire::text(BASE_ALLOCATION));
        data.extend(changed.iter().flat_map(|name| wire::text(name)));
        let asked = self.option(OPT_SET_META_CONTEXT, &data, |connection, kind, mut data| {
            if kind == REP_META_CONTEXT {
                let id = wire::u32(&mut data).map_err(|_| broken("a context"))?;
                if data == BASE_ALLOCATION.as_bytes() {
                    connection.allocation = Some(id);
                } else if changed.as_ref().is_some_and(|name| data == name.as_bytes()) {
                    connection.changed = Some(id);
                }
            }
            Ok(())
        })?;
        // A server need not have them. An export that there is not is told again by GO.
        if asked.is_err() {
            (self.allocation, self.changed) = (None, None);
        }
        Ok(())
    }

    fn go(&mut self, export: &str) -> Result<()> {
        let mut data = wire::text(export);
        data.extend(1u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        let gone = self.option(OPT_GO, &data, |connection, kind, mut data| {
            if kind != REP_INFO {
                return Ok(());
            }
            let short = |_| broken("what it says of the export");
            match wire::u16(&mut data).map_err(short)? {
                INFO_EXPORT => connection.size = wire::u64(&mut data).map_err(short)?,
                INFO_BLOCK_SIZE => {
                    let (_, _) = (wire::u32(&mut data).map_err(short)?, wire::u32(&mut data).map_err(short)?);
                    connection.maximum = wire::u32(&mut data).map_err(short)?;
                }
                _ => {}
            }
            Ok(())
        })?;
        gone.map_err(|why| Error::server(format!("the NBD server refuses the export '{export}': {why}")))
    }

    /// Bytes of the export when the connection was made.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The most bytes of one read or write.
    pub(super) fn maximum(&self) -> usize {
        self.maximum as usize
    }

    /// Whether it can be asked where data is.
    pub(super) fn knows_allocation(&self) -> bool {
        self.allocation.is_some()
    }

    fn send(&mut self, command: u16, offset: u64, len: u32, payload: &[u8], asked: Asked) -> Result<Cookie> {
        self.last += 1;
        let cookie = Cookie(self.last);
        let header = wire::request(command, cookie.0, offset, len);
        self.writer.write_all(&header).and_then(|()| self.writer.write_all(payload)).map_err(lost)?;
        self.asked.insert(cookie, asked);
        Ok(cookie)
    }

    /// Sends a write; its failure is told by [`settle`](Self::settle).
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let len = u32::try_from(data.len()).map_err(|_| broken("a write that is too long"))?;
        self.send(CMD_WRITE, offset, len, data, Asked::Done).map(drop)
    }

    /// Sends a request to make a range read as zeroes; its failure is told by [`settle`](Self::settle).
    pub(super) fn zero(&mut self, offset: u64, len: u32) -> Result<()> {
        self.send(CMD_WRITE_ZEROES, offset, len, &[], Asked::Done).map(drop)
    }

    /// Sends a read into `data`, whose length is that of the read.
    pub(super) fn read(&mut self, offset: u64, data: Vec<u8>) -> Result<Cookie> {
        let len = u32::try_from(data.len()).map_err(|_| broken("a read that is too long"))?;
        self.send(CMD_READ, offset, len, &[], Asked::Read { offset, data })
    }

    /// What a read has read.
    pub(super) fn take_read(&mut self, cookie: Cookie) -> Result<(u64, Vec<u8>)> {
        match self.take(cookie)? {
            Asked::Read { offset, data } => Ok((offset, data)),
            _ => Err(broken("an answer to something else")),
        }
    }

    /// Where data is in a range: lengths from its start on, and whether they read as zeroes.
    pub(super) fn status(&mut self, offset: u64, len: u32) -> Result<Vec<(u32, bool)>> {
        self.status_of(self.allocation, STATE_ZERO, offset, len)
    }

    /// What may differ in a range: lengths from its start on, and whether they do.
    pub(super) fn changes(&mut self, offset: u64, len: u32) -> Result<Vec<(u32, bool)>> {
        self.status_of(self.changed, STATE_CHANGED, offset, len)
    }

    fn status_of(
        &mut self,
        context: Option<u32>,
        flag: u32,
        offset: u64,
        len: u32,
    ) -> Result<Vec<(u32, bool)>> {
        let context = context.ok_or_else(|| broken("a context that it does not have"))?;
        let asked = Asked::Status { context, extents: Vec::new() };
        let cookie = self.send(CMD_BLOCK_STATUS, offset, len, &[], asked)?;
        match self.take(cookie)? {
            Asked::Status { extents, .. } => {
                Ok(extents.into_iter().map(|(len, flags)| (len, flags & flag != 0)).collect())
            }
            _ => Err(broken("an answer to something else")),
        }
    }

    fn take(&mut self, cookie: Cookie) -> Result<Asked> {
        loop {
            if let Some(asked) = self.answered.remove(&cookie) {
                return Ok(asked);
            }
            self.receive()?;
        }
    }

    /// Waits until at most so many writes are under way.
    ///
    /// # Errors
    /// Of the server, for any of them.
    pub(super) fn settle(&mut self, most: usize) -> Result<()> {
        while self.asked.len() > most {
            self.receive()?;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// Of the server.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.settle(0)?;
        self.send(CMD_FLUSH, 0, 0, &[], Asked::Done)?;
        self.settle(0)
    }

    /// Reads one message of the server.
    fn receive(&mut self) -> Result<()> {
        match wire::u32(&mut self.reader).map_err(lost)? {
            SIMPLE_REPLY_MAGIC => self.receive_simple(),
            STRUCTURED_REPLY_MAGIC if self.structured => self.receive_chunk(),
            _ => Err(broken("a reply")),
        }
    }

    fn asked_for(&mut self) -> Result<(Cookie, Asked)> {
        let cookie = Cookie(wire::u64(&mut self.reader).map_err(lost)?);
        let asked = self.asked.remove(&cookie).ok_or_else(|| broken("a reply to nothing"))?;
        Ok((cookie, asked))
    }

    fn receive_simple(&mut self) -> Result<()> {
        let error = wire::u32(&mut self.reader).map_err(lost)?;
        let (cookie, mut asked) = self.asked_for()?;
        check(error)?;
        match &mut asked {
            Asked::Read { data, .. } if !self.structured => self.reader.read_exact(data).map_err(lost)?,
            Asked::Done => {}
            _ => return Err(broken("a reply without what was asked for")),
        }
        self.answer(cookie, asked);
        Ok(())
    }

    /// Keeps an answer for whoever waits for it; nobody waits for a write's.
    fn answer(&mut self, cookie: Cookie, asked: Asked) {
        if !matches!(asked, Asked::Done) {
            self.answered.insert(cookie, asked);
        }
    }

    fn receive_chunk(&mut self) -> Result<()> {
        let flags = wire::u16(&mut self.reader).map_err(lost)?;
        let kind = wire::u16(&mut self.reader).map_err(lost)?;
        let (cookie, mut asked) = self.asked_for()?;
        let len = wire::u32(&mut self.reader).map_err(lost)?;
        match (kind, &mut asked) {
            (CHUNK_NONE, _) if len == 0 => {}
            (CHUNK_DATA, Asked::Read { offset, data }) if len > 8 => {
                let at = wire::u64(&mut self.reader).map_err(lost)?;
                let place = place(*offset, data, at, len as usize - 8)?;
                self.reader.read_exact(place).map_err(lost)?;
            }
            (CHUNK_HOLE, Asked::Read { offset, data }) if len == 12 => {
                let at = wire::u64(&mut self.reader).map_err(lost)?;
                let hole = wire::u32(&mut self.reader).map_err(lost)?;
                place(*offset, data, at, hole as usize)?.fill(0);
            }
            (CHUNK_STATUS, Asked::Status { context: wanted, extents })
                if (4..=MOST_STATUS_BYTES).contains(&len) =>
            {
                let chunk = wire::bytes(&mut self.reader, len as usize).map_err(lost)?;
                let (context, rest) = chunk.split_at(4);
                if wire::u32(&mut &*context).ok() == Some(*wanted) {
                    let number =
                        |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
                    let extent = |entry: &[u8]| (number(&entry[..4]), number(&entry[4..]));
                    extents.extend(rest.chunks_exact(8).map(extent));
                }
            }
            (kind, _) if kind & CHUNK_IS_ERROR != 0 && (6..=MOST_ERROR_BYTES).contains(&len) => {
                let chunk = wire::bytes(&mut self.reader, len as usize).map_err(lost)?;
                let number = wire::u32(&mut &*chunk).map_err(lost)?;
                // Errors end an import or export; what else belongs to the request does not matter.
                return check(number.max(1));
            }
            _ => return Err(broken("a part of a reply")),
        }
        if flags & CHUNK_DONE != 0 {
            self.answer(cookie, asked);
        } else {
            self.asked.insert(cookie, asked);
        }
        Ok(())
    }

    /// Ends the connection in good order.
    pub fn disconnect(mut self) {
        self.last += 1;
        // The server sees the end either way.
        let _ = self.writer.write_all(&wire::request(CMD_DISC, self.last, 0, 0));
    }
}

fn check(error: u32) -> Result<()> {
    match error {
        0 => Ok(()),
        number => {
            let error = Error::server(format!("the NBD server failed a request: {}", wire::errno(number)));
            Err(match i32::try_from(number) {
                Ok(nix::libc::ENOSPC) => {
                    error.with_hint("free space in the disk's pool, or add some, and try again")
                }
                _ => error,
            })
        }
    }
}

/// The part of a read's buffer that a chunk is about.
fn place(offset: u64, data: &mut [u8], at: u64, len: usize) -> Result<&mut [u8]> {
    let start = at.checked_sub(offset).and_then(|start| usize::try_from(start).ok());
    let range = start.and_then(|start| Some(start..start.checked_add(len)?));
    range.and_then(|range| data.get_mut(range)).ok_or_else(|| broken("data outside of what was asked for"))
}
