//! An NBD client that sends whatever the input says to the server's own session, over a stream in memory.
//!
//! The disks are small and honest, so what can go wrong is the session's: it must end, give back all memory that it
//! counted, and never send a reply that a client could not take apart.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown as How;
use std::rc::Rc;
use std::time::Duration;

use cairn_nbd::proto::{
    BASE_ALLOCATION, Command, CommandFlags, Cookie, EXTENDED_REPLY_MAGIC, Fields, HeaderStyle, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, allocation, chunk, option,
    option_reply,
};
use cairn_nbd::{
    ClientInfo, Context, ContextKey, Demand, Errno, Export, ExportInfo, ExportName, Exports, Features,
    Limits, MemoryBudget, OpenError, ReadExtent, ReadReply, Shutdown, Span, StatusExtent, StatusQuery,
    Transport, ZeroFlags, serve_attached, serve_on,
};
use cairn_uring::net::Peer;
use cairn_uring::{AlignedBuf, Config, Reactor, Slice, yield_now};

/// Bytes of the disks that hold something.
const SIZE: u64 = 64 << 10;
/// Bytes of the one that is too large for 32 bits.
const LARGE: u64 = (5 << 30) + 1;
/// The most that is read of a disk at once: more is an error of the disk, so that no input is slow.
const MOST_READ: u32 = 128 << 10;
/// A metadata context of the disks' own.
const OWN_CONTEXT: &str = "x-fuzz:odd";

/// The names of the disks.
const NAMES: [&str; 8] = ["", "ro", "bare", "large", "slow", "wrong", "full", "last"];

/// A stream in memory.
struct Wire {
    input: RefCell<io::Cursor<Vec<u8>>>,
    /// The most that one receive brings.
    piece: usize,
    /// Whether others go first before each receive.
    yields: bool,
    /// Bytes that the client takes before it is gone.
    takes: Cell<usize>,
    output: Rc<RefCell<Vec<u8>>>,
}

impl Transport for Wire {
    async fn read(&self, mut buf: Slice<AlignedBuf>) -> (io::Result<usize>, Slice<AlignedBuf>) {
        if self.yields {
            yield_now().await;
        }
        let len = buf.as_slice().len().min(self.piece);
        let result = io::Read::read(&mut *self.input.borrow_mut(), &mut buf.as_mut_slice()[..len]);
        (result, buf)
    }

    async fn read_exact(&self, mut buf: Slice<AlignedBuf>) -> (io::Result<()>, Slice<AlignedBuf>) {
        if self.yields {
            yield_now().await;
        }
        let result = io::Read::read_exact(&mut *self.input.borrow_mut(), buf.as_mut_slice());
        (result, buf)
    }

    async fn write_all(&self, pieces: Vec<AlignedBuf>) -> (io::Result<()>, Vec<AlignedBuf>) {
        if self.yields {
            yield_now().await;
        }
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let Some(left) = self.takes.get().checked_sub(bytes) else {
            return (Err(io::ErrorKind::BrokenPipe.into()), pieces);
        };
        self.takes.set(left);
        pieces.iter().for_each(|piece| self.output.borrow_mut().extend_from_slice(piece));
        (Ok(()), pieces)
    }

    fn shutdown(&self, _: How) {
        let mut input = self.input.borrow_mut();
        let end = input.get_ref().len() as u64;
        input.set_position(end);
    }
}

/// One disk.
struct Disk {
    name: &'static str,
    bytes: RefCell<Vec<u8>>,
    size: u64,
}

impl Disk {
    fn open(name: &'static str) -> Disk {
        let size = if name == "large" { LARGE } else { SIZE };
        Disk { name, bytes: RefCell::new(vec![7; SIZE as usize]), size }
    }

    /// Checks what the session promises of every range, and fails where the disk is one that does.
    fn judge(&self, offset: u64, len: u64) -> Result<(), Errno> {
        assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= self.size));
        if self.name == "full" { Err(Errno::NoSpc) } else { Ok(()) }
    }

    /// What of a range the disk has bytes for.
    fn stored(offset: u64, len: u64) -> std::ops::Range<usize> {
        offset.min(SIZE) as usize..(offset + len).min(SIZE) as usize
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.judge(offset, len)?;
        assert_ne!(self.name, "ro");
        self.bytes.borrow_mut()[Disk::stored(offset, len)].fill(0);
        Ok(())
    }
}

impl Export for Disk {
    fn info(&self) -> ExportInfo {
        let bare = Features {
            flush: false,
            fua: false,
            trim: false,
            write_zeroes: false,
            fast_zero: false,
            cache: false,
            multi_conn: false,
            rotational: true,
        };
        ExportInfo {
            name: if self.name.is_empty() { "default" } else { self.name }.to_owned(),
            description: self.name.to_owned(),
            size: self.size,
            read_only: self.name == "ro",
            features: if self.name == "bare" { bare } else { Features::ALL },
        }
    }

    fn contexts(&self, queries: &[&str]) -> Vec<String> {
        if queries.is_empty() || queries.contains(&OWN_CONTEXT) {
            vec![OWN_CONTEXT.to_owned()]
        } else {
            Vec::new()
        }
    }

    fn context(&self, name: &str) -> Option<ContextKey> {
        (name == OWN_CONTEXT).then_some(ContextKey(1))
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn is_throttled(&self) -> bool {
        self.name == "slow"
    }

    async fn admit(&self, _: Demand) {
        for _ in 0..3 {
            yield_now().await;
        }
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        self.judge(offset, u64::from(len))?;
        if len > MOST_READ {
            return Err(Errno::Io);
        }
        let stored = Disk::stored(offset, u64::from(len));
        if stored.is_empty() {
            return Ok(ReadReply { buf: None, extents: Vec::new() });
        }
        let span = Span::of(offset, len);
        let mut buf = span.buffer();
        let data = stored.len() as u32;
        buf[span.phase..span.phase + stored.len()].copy_from_slice(&self.bytes.borrow()[stored]);
        let hole = ReadExtent { len: len - data, hole: true };
        let mut extents = vec![ReadExtent { len: data, hole: false }];
        extents.extend(Some(hole).filter(|hole| hole.len > 0));
        if self.name == "wrong" {
            extents.push(ReadExtent { len: 1, hole: offset.is_multiple_of(2) });
        }
        Ok(ReadReply { buf: Some(buf), extents })
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf, _: bool) -> Result<(), Errno> {
        self.judge(offset, u64::from(len))?;
        let span = Span::of(offset, len);
        assert!(buf.len() == span.total && self.name != "ro");
        let stored = Disk::stored(offset, u64::from(len));
        let from = &buf[span.phase..span.phase + stored.len()];
        self.bytes.borrow_mut()[stored].copy_from_slice(from);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64, _: bool) -> Result<(), Errno> {
        self.zero(offset, len)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<(), Errno> {
        if flags.fast && self.name == "slow" { Err(Errno::NotSup) } else { self.zero(offset, len) }
    }

    async fn cache(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.judge(offset, len)
    }

    async fn block_status(&self, query: StatusQuery<'_>) -> Result<Vec<StatusExtent>, Errno> {
        self.judge(query.offset, query.len)?;
        let wrong = if self.name == "wrong" { u64::MAX } else { 0 };
        let flags = |extent: u64| match query.context {
            Context::Allocation if extent.is_multiple_of(2) => wrong,
            Context::Allocation => allocation::HOLE | allocation::ZERO,
            Context::Named { .. } => extent,
        };
        let len = (query.len / 3).max(1) + wrong / 2;
        Ok((0..4).map(|extent| StatusExtent { len, flags: flags(extent) }).take(query.max_extents).collect())
    }
}

/// All disks there are.
struct Disks {
    shutdown: Shutdown,
}

impl Exports for Disks {
    type Export = Disk;

    async fn open(&self, name: &str, _: &ClientInfo) -> Result<Disk, OpenError> {
        match NAMES.into_iter().find(|known| *known == name) {
            Some(name) => {
                if name == "last" {
                    self.shutdown.trigger();
                }
                Ok(Disk::open(name))
            }
            None if name == "locked" => Err(OpenError::Policy("locked".to_owned())),
            None if name == "broken" => Err(OpenError::Failed("broken".to_owned())),
            None => Err(OpenError::Unknown),
        }
    }

    async fn list(&self, _: &ClientInfo) -> Vec<ExportName> {
        let name = |name: &str| ExportName { name: name.to_owned(), description: name.to_owned() };
        NAMES.into_iter().map(name).collect()
    }
}

/// How the stream behaves, by one byte of the input.
#[derive(Clone, Copy)]
struct Manners(u8);

impl Manners {
    fn wire(self, input: Vec<u8>, output: &Rc<RefCell<Vec<u8>>>) -> Wire {
        Wire {
            input: RefCell::new(io::Cursor::new(input)),
            piece: [usize::MAX, 3, 29, 4096][usize::from(self.0 & 3)],
            yields: self.0 & 4 != 0,
            takes: Cell::new(if self.is_impatient() { 300 } else { usize::MAX }),
            output: Rc::clone(output),
        }
    }

    /// Whether the client leaves in the middle of an answer.
    fn is_impatient(self) -> bool {
        self.0 & 8 != 0
    }
}

thread_local! {
    static REACTOR: RefCell<Reactor> = RefCell::new(
        Reactor::new(Config { entries: 8, poll: Duration::ZERO, ..Config::default() })
            .expect("this kernel has io_uring"),
    );
}

fn limits() -> Limits {
    Limits {
        max_requests: 8,
        max_bytes: 1 << 20,
        budget: MemoryBudget::new(4 << 20),
        max_extents: 3,
        receive_buffer: 4096,
        drain: Duration::from_millis(100),
        ..Limits::default()
    }
}

/// Has the server talk to a client that sends `input`; what it answered.
fn talk(manners: Manners, input: Vec<u8>, attached: Option<&'static str>) -> Vec<u8> {
    let (output, limits) = (Rc::default(), limits());
    let wire = manners.wire(input, &output);
    let shutdown = Shutdown::new();
    REACTOR.with_borrow_mut(|reactor| {
        reactor.block_on(async {
            // However it ends is right, as long as it does.
            let _ = match attached {
                Some(name) => serve_attached(wire, Disk::open(name), &limits, &shutdown).await,
                None => {
                    let disks = Disks { shutdown: shutdown.clone() };
                    let client = ClientInfo { peer: Peer::Unix { pid: 0, uid: 0 } };
                    serve_on(wire, &client, &disks, &limits, &shutdown).await
                }
            };
        });
    });
    assert_eq!((limits.budget.used(), limits.budget.used_throttled()), (0, 0), "memory that nobody uses");
    output.take()
}

/// A client from its first byte on: one byte for its manners, then what it sends.
pub fn negotiation(input: &[u8]) {
    let Some((manners, sent)) = input.split_first() else { return };
    let manners = Manners(*manners);
    let answer = talk(manners, sent.to_vec(), None);
    let mut fields = Fields::new(&answer);
    if fields.bytes(18).is_none() {
        return;
    }
    let mut style = HeaderStyle::Simple;
    while !fields.rest().is_empty() {
        if fields.rest().len() < 8 || fields.rest()[..8] != OPTION_REPLY_MAGIC.to_be_bytes() {
            // The answer to EXPORT_NAME: size, flags and perhaps zeroes.
            assert!(fields.bytes(10).is_some());
            if fields.rest().starts_with(&[0; 124]) {
                fields.bytes(124);
            }
            return replies(style, fields);
        }
        fields.bytes(8);
        let (Some(code), Some(kind), Some(len)) = (fields.u32(), fields.u32(), fields.u32()) else {
            panic!("half an answer to an option");
        };
        assert!(fields.bytes(len as usize).is_some(), "the rest of an answer to an option is missing");
        match (code, kind) {
            (option::STRUCTURED_REPLY, option_reply::ACK) => style = HeaderStyle::Structured,
            (option::EXTENDED_HEADERS, option_reply::ACK) => style = HeaderStyle::Extended,
            (option::GO, option_reply::ACK) => return replies(style, fields),
            _ => {}
        }
    }
}

/// Takes replies apart as a client does.
fn replies(style: HeaderStyle, mut fields: Fields<'_>) {
    if !style.chunked() {
        // What belongs to a simple reply only the request tells.
        let magic = SIMPLE_REPLY_MAGIC.to_be_bytes();
        assert!(fields.rest().is_empty() || fields.rest().starts_with(&magic));
        return;
    }
    while !fields.rest().is_empty() {
        let expected =
            if style == HeaderStyle::Extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        assert_eq!(fields.u32(), Some(expected));
        let (flags, kind, cookie) = (fields.u16(), fields.u16(), fields.u64());
        assert!(flags.is_some_and(|flags| flags <= chunk::FLAG_DONE) && cookie.is_some());
        let len = if style == HeaderStyle::Extended {
            fields.u64();
            fields.u64()
        } else {
            fields.u32().map(u64::from)
        };
        let len = len.and_then(|len| usize::try_from(len).ok()).expect("a whole head");
        let payload = fields.bytes(len).expect("the rest of a chunk is missing");
        let mut payload = Fields::new(payload);
        let sound = match kind.expect("a whole head") {
            chunk::NONE => len == 0,
            chunk::OFFSET_DATA => len > 8,
            chunk::OFFSET_HOLE => len == 12,
            chunk::BLOCK_STATUS => len >= 12 && (len - 4) % 8 == 0,
            chunk::BLOCK_STATUS_EXT => len >= 24 && (len - 8) % 16 == 0,
            chunk::ERROR | chunk::ERROR_OFFSET => {
                payload.u32();
                let text = payload.u16().map(usize::from).and_then(|len| payload.bytes(len));
                text.is_some_and(|text| std::str::from_utf8(text).is_ok())
                    && payload.rest().len() == if kind == Some(chunk::ERROR) { 0 } else { 8 }
            }
            _ => false,
        };
        assert!(sound, "a chunk of kind {kind:?} with {len} bytes");
    }
}

/// How a client that has negotiated speaks, by one byte of the input.
fn style_of(byte: u8) -> HeaderStyle {
    match byte & 3 {
        0 => HeaderStyle::Simple,
        1 => HeaderStyle::Structured,
        _ => HeaderStyle::Extended,
    }
}

/// What a client sends that wants one disk, in one style and with all metadata contexts.
fn prelude(style: HeaderStyle, name: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    let mut option = |code: u32, payload: &[u8]| {
        bytes.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
    };
    match style {
        HeaderStyle::Simple => {}
        HeaderStyle::Structured => option(option::STRUCTURED_REPLY, &[]),
        HeaderStyle::Extended => option(option::EXTENDED_HEADERS, &[]),
    }
    let text = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    if style.chunked() {
        let queries = [&2u32.to_be_bytes()[..], &text(BASE_ALLOCATION), &text(OWN_CONTEXT)].concat();
        option(option::SET_META_CONTEXT, &[text(name), queries].concat());
    }
    option(option::GO, &[text(name), vec![0, 0]].concat());
    bytes
}

/// Has a client that has negotiated, or need not, send `sent`.
fn transmit(manners: u8, choice: u8, sent: Vec<u8>) {
    let style = style_of(choice);
    let name = NAMES[usize::from(choice >> 2) % NAMES.len()];
    let is_attached = choice & 0x80 != 0 && style == HeaderStyle::Simple;
    let input = if is_attached { sent } else { [prelude(style, name), sent].concat() };
    let answer = talk(Manners(manners), input, is_attached.then_some(name));
    if is_attached {
        replies(style, Fields::new(&answer));
    }
}

/// A client that has negotiated: its manners, its style and disk, then what it sends.
pub fn transmission(input: &[u8]) {
    if let Some(([manners, choice], sent)) = input.split_first_chunk() {
        transmit(*manners, *choice, sent.to_vec());
    }
}

/// Bytes of one request below.
const REQUEST: usize = 12;
/// The longest payload that is sent; of a longer one no more than this comes.
const MOST_SENT: u64 = 8 << 10;

/// A client that has negotiated and stays in step: its manners, its style and disk, then requests of 12 bytes each, whose
/// payloads are made up.
pub fn requests(input: &[u8]) {
    let Some(([manners, choice], rest)) = input.split_first_chunk() else { return };
    let style = style_of(*choice);
    let mut sent = Vec::new();
    for bytes in rest.chunks_exact(REQUEST).take(64) {
        let number = |at: usize| {
            u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
        };
        // Both small numbers with every bit of theirs, and those at the ends of what fits.
        let scaled = |number: u64, scale: u8| match scale & 3 {
            0 => number % (2 * SIZE),
            1 => number,
            2 => number << 12,
            _ => u64::MAX - number,
        };
        let request = Request {
            flags: CommandFlags(u16::from(bytes[0])),
            code: u16::from(bytes[1] & 15),
            cookie: Cookie(u64::from(bytes[2])),
            offset: scaled(number(4), bytes[3]),
            length: scaled(number(8), bytes[3] >> 2),
        };
        sent.extend_from_slice(request.encode(style).as_bytes());
        let payload = match style {
            HeaderStyle::Extended => request.payload_len(style),
            // As it is on the wire.
            _ => request.payload_len(style) & u64::from(u32::MAX),
        };
        if request.code == Command::BlockStatus as u16 && payload >= 8 {
            // The bytes asked about, then the ids of contexts.
            let ids = (0u32..).flat_map(|id| (id % 3 + u32::from(bytes[2] & 3)).to_be_bytes());
            let asked = number(4).to_be_bytes().into_iter();
            sent.extend(asked.chain(ids).take(payload.min(MOST_SENT) as usize));
        } else {
            sent.resize(sent.len() + payload.min(MOST_SENT) as usize, bytes[2]);
        }
    }
    transmit(*manners, *choice, sent);
}
