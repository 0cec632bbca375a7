//! What a backend implements: [`Exports`], a server's disks by name, and [`Export`], one disk.
//!
//! The session validates before it calls: ranges lie inside the export, lengths are not zero, a
//! read-only export sees no write, and flags are those the export advertises. What a method returns is
//! checked too, so a faulty backend costs its client an EIO and never a broken stream.

use std::future::{Future, ready};

use cairn_uring::buf::AlignedBuf;
use cairn_uring::net::Peer;

use crate::error::Errno;
use crate::proto::PREFERRED_BLOCK;

/// Who asks, as far as the transport knows.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The other end of the socket.
    pub peer: Peer,
}

/// One line of the list of exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportName {
    /// The name to open it by.
    pub name: String,
    /// A line for people; may be empty.
    pub description: String,
}

/// Why an export cannot be opened. The texts reach the client.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// No export has this name.
    Unknown,
    /// It exists, but this client may not have it.
    Policy(String),
    /// It exists, but cannot be opened now.
    Failed(String),
    /// The server is shutting down.
    Shutdown,
}

/// What an export can do beyond reading and writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// FLUSH has a meaning.
    pub flush: bool,
    /// FUA is honoured, on every command that writes.
    pub fua: bool,
    /// TRIM does something. Never advertised on a read-only export.
    pub trim: bool,
    /// WRITE_ZEROES is implemented. Never advertised on a read-only export.
    pub write_zeroes: bool,
    /// A request for fast zeroes fails quickly where it cannot be met. Needs `write_zeroes`.
    pub fast_zero: bool,
    /// CACHE does something.
    pub cache: bool,
    /// A flush or FUA on one connection covers writes answered on every other.
    pub multi_conn: bool,
    /// Seeks are slow.
    pub rotational: bool,
}

impl Features {
    /// Everything a modern disk has.
    pub const ALL: Self = Self {
        flush: true,
        fua: true,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
        cache: true,
        multi_conn: true,
        rotational: false,
    };
}

/// What a client is told of an export before it uses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// The canonical name.
    pub name: String,
    /// A line for people; may be empty.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What else it can do.
    pub features: Features,
}

/// A stretch of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadExtent {
    /// Bytes.
    pub len: u32,
    /// Whether it reads as zeroes because nothing is there; its bytes in the buffer are then ignored.
    pub hole: bool,
}

/// What was read.
#[derive(Debug)]
pub struct ReadReply {
    /// The bytes, phase-aligned (see [`Span`]); `None` if all of it is a hole.
    pub buf: Option<AlignedBuf>,
    /// The stretches, in order, adding up to the request; empty means all data (or all hole, without a `buf`).
    pub extents: Vec<ReadExtent>,
}

/// How zeroes are to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZeroFlags {
    /// Keep the space allocated.
    pub no_hole: bool,
    /// Return only once it is durable.
    pub fua: bool,
    /// Fail with [`Errno::NotSup`], at once and with nothing changed, unless this is faster than writing.
    pub fast: bool,
}

/// What an export knows a metadata context by, whatever its name comes to mean later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContextKey(pub u64);

/// A metadata context a status is asked in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context<'a> {
    /// `base:allocation`; flags are those of [`crate::proto::allocation`].
    Allocation,
    /// One of the export's own. Its flags must fit 32 bits, since a client without extended headers may select it.
    Named {
        /// As the client selected it.
        name: &'a str,
        /// What [`Export::context`] gave for the name when it was selected.
        key: ContextKey,
    },
}

/// A question for the state of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusQuery<'a> {
    /// In which context.
    pub context: Context<'a>,
    /// First byte.
    pub offset: u64,
    /// Bytes; a hint, the answer may cover less (but at least one extent) or more.
    pub len: u64,
    /// Most extents the answer may have; the session cuts off the rest. At least 1.
    pub max_extents: usize,
}

/// A stretch in one state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    /// Bytes.
    pub len: u64,
    /// The context's flags.
    pub flags: u64,
}

/// How a byte range lies in a buffer whose start is block-aligned: the buffer covers the range rounded
/// outward to blocks of [`PREFERRED_BLOCK`] bytes, so an aligned part of the range is aligned in memory too
/// and can go to a device opened for direct I/O without a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Where the range begins in the buffer: `offset % 4096`.
    pub phase: usize,
    /// Bytes of the buffer, a multiple of 4096.
    pub total: usize,
}

impl Span {
    /// The span of `len` bytes at `offset`.
    pub const fn of(offset: u64, len: u32) -> Self {
        let block = PREFERRED_BLOCK as usize;
        let phase = (offset % PREFERRED_BLOCK as u64) as usize;
        Self { phase, total: (phase + len as usize).next_multiple_of(block) }
    }

    /// Bytes of memory that [`buffer`](Self::buffer) can come to take, for bounding the sum of them.
    pub fn footprint(self) -> u64 {
        AlignedBuf::footprint(self.total) as u64
    }

    /// A buffer of this span. Its bytes are those of whoever had the memory before: whatever is not then
    /// overwritten must not reach a client or a disk.
    pub fn buffer(self) -> AlignedBuf {
        AlignedBuf::new(self.total)
    }
}

/// What a request is about to do, as far as it matters to a limit. In bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    /// READ.
    Read(u32),
    /// WRITE.
    Write(u32),
    /// TRIM.
    Trim(u64),
    /// WRITE_ZEROES.
    WriteZeroes(u64),
}

/// All the exports of a server. One value per reactor thread; its futures need not be `Send`.
pub trait Exports {
    /// One open export.
    type Export: Export;

    /// Opens `name`, the empty string being the default export. Called for every option that names an export,
    /// so it must be cheap and without effect; a client's connection keeps the last one opened.
    fn open(&self, name: &str, client: &ClientInfo) -> impl Future<Output = Result<Self::Export, OpenError>>;

    /// The exports this client may know of.
    fn list(&self, client: &ClientInfo) -> impl Future<Output = Vec<ExportName>>;
}

/// One open export. Methods run concurrently, as many as the connection has requests in flight; dropping
/// the value closes it.
pub trait Export: 'static {
    /// What it is. Called at negotiation only.
    fn info(&self) -> ExportInfo;

    /// The client is about to use it, which a client that only asks what there is never comes to: the last chance to
    /// refuse. Called once, with the metadata contexts that the client selected.
    ///
    /// # Errors
    /// Why it may not, or not now.
    fn begin(&self, contexts: &[Context<'_>]) -> impl Future<Output = Result<(), OpenError>> {
        let _ = contexts;
        ready(Ok(()))
    }

    /// The metadata contexts besides `base:allocation` that match one of these queries, each once; with no query, all.
    /// What a query other than an exact name matches is the namespace's own affair; a trailing colon usually means
    /// everything that begins so. Where that is much, names that end so may stand for what a further query lists.
    fn contexts(&self, queries: &[&str]) -> Vec<String> {
        let _ = queries;
        Vec::new()
    }

    /// The key of the metadata context of exactly this name, `namespace:leaf`, if there is one besides
    /// `base:allocation`. It comes back with every question in that context, also to another value that the same
    /// name of an export opened: a connection opens an export anew between selecting contexts and using them.
    fn context(&self, name: &str) -> Option<ContextKey> {
        let _ = name;
        None
    }

    /// The size now, in bytes. Called for every request: a disk may grow under an open connection.
    fn size(&self) -> u64;

    /// Whether requests may have to wait in [`admit`](Self::admit). Asked for every request, since a limit may come and
    /// go.
    fn is_throttled(&self) -> bool {
        false
    }

    /// Waits until a request may begin. Called before each request that moves data or changes the disk while the export
    /// [is throttled](Self::is_throttled).
    ///
    /// The future is dropped when its client is gone, and the request is then never carried out; and when the server shuts
    /// down, when the request is begun even so: its client is owed an answer, and the server cannot wait.
    fn admit(&self, demand: Demand) -> impl Future<Output = ()> {
        let _ = demand;
        ready(())
    }

    /// Reads `len` bytes, at most [`crate::proto::MAX_PAYLOAD`].
    fn read(&self, offset: u64, len: u32) -> impl Future<Output = Result<ReadReply, Errno>>;

    /// Writes `len` bytes, which begin at `offset % 4096` in `buf` (see [`Span`]). The bytes of `buf` before
    /// and after them are undefined and must not be stored.
    fn write(
        &self,
        offset: u64,
        len: u32,
        buf: AlignedBuf,
        fua: bool,
    ) -> impl Future<Output = Result<(), Errno>>;

    /// Makes every write that has returned, on any connection, durable.
    fn flush(&self) -> impl Future<Output = Result<(), Errno>>;

    /// Forgets `len` bytes.
    fn trim(&self, offset: u64, len: u64, fua: bool) -> impl Future<Output = Result<(), Errno>>;

    /// Zeroes `len` bytes.
    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: ZeroFlags,
    ) -> impl Future<Output = Result<(), Errno>>;

    /// Prepares for reads of `len` bytes.
    fn cache(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), Errno>>;

    /// The state of a range. Contiguous bytes in one state should come as one extent.
    fn block_status(&self, query: StatusQuery<'_>) -> impl Future<Output = Result<Vec<StatusExtent>, Errno>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_rounds_outward() {
        assert_eq!(Span::of(0, 4096), Span { phase: 0, total: 4096 });
        assert_eq!(Span::of(4095, 2), Span { phase: 4095, total: 8192 });
        assert_eq!(Span::of(512, 1), Span { phase: 512, total: 4096 });
        assert_eq!(Span::of(u64::MAX - 4095, 4096), Span { phase: 0, total: 4096 });
        assert_eq!(Span::of(1, 32 << 20), Span { phase: 1, total: (32 << 20) + 4096 });
    }
}
