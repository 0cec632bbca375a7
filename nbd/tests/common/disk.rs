//! A sparse disk in memory, and the exports the tests use.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cairn_nbd::{
    ClientInfo, Context, ContextKey, Demand, Errno, Export, ExportInfo, ExportName, Exports, Features,
    OpenError, ReadExtent, ReadReply, Shutdown, Span, StatusExtent, StatusQuery, ZeroFlags,
    proto::allocation,
};
use cairn_uring::AlignedBuf;

/// Bytes of the disk: more than 32 bits hold.
pub const SIZE: u64 = 8 << 30;
/// A read here waits for [`Knobs::gate`].
pub const GATED: u64 = 7 << 30;
/// A second context: flag 1 marks odd mebibytes.
pub const ODD: &str = "x-test:odd";
const ODD_KEY: ContextKey = ContextKey(0x0dd);
/// What the names of contexts begin with of which there are too many to list without being asked; a number follows, which
/// is the flags that all of the disk has in it.
pub const MANY: &str = "x-many:";
/// How many there are.
pub const MANY_CONTEXTS: u64 = 5000;
const BLOCK: u64 = 4096;

/// What a test can see and change while the server runs.
#[derive(Default)]
pub struct Knobs {
    /// Ends all sessions.
    pub sessions: Shutdown,
    /// Triggered to let gated reads go on.
    pub gate: Shutdown,
    /// Reads waiting at the gate.
    pub gated: AtomicUsize,
    /// Triggered to let requests of the throttled export begin.
    pub limit: Shutdown,
    /// Requests waiting for that.
    pub waiting: AtomicUsize,
    /// Reads begun.
    pub reads: AtomicUsize,
    /// Flushes done.
    pub flushes: AtomicUsize,
    /// Writes, trims and zeroes that came with FUA.
    pub fua: AtomicUsize,
    /// Exports open now.
    pub open: AtomicUsize,
    /// Answer every request with this error number of the operating system.
    pub fail: AtomicU32,
    /// Further names to list (and to open as the disk).
    pub names: Mutex<Vec<String>>,
    /// WRITE_ZEROES calls, with the flags they came with.
    pub zeroes: Mutex<Vec<(u64, u64, ZeroFlags)>>,
    /// TRIM and CACHE ranges.
    pub hints: Mutex<Vec<(u64, u64)>>,
    /// How many contexts each client had selected that began to use an export.
    pub begun: Mutex<Vec<usize>>,
}

impl Knobs {
    fn check(&self) -> Result<(), Errno> {
        match self.fail.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(Errno::from_os(errno as i32)),
        }
    }
}

/// The disk all exports show.
#[derive(Default)]
pub struct Disk {
    blocks: RefCell<BTreeMap<u64, Box<[u8]>>>,
}

impl Disk {
    fn write(&self, offset: u64, bytes: &[u8]) {
        let mut blocks = self.blocks.borrow_mut();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK) as usize;
            let len = (bytes.len() - done).min(BLOCK as usize - within);
            let block = blocks.entry(at / BLOCK).or_insert_with(|| vec![0; BLOCK as usize].into());
            block[within..within + len].copy_from_slice(&bytes[done..done + len]);
            done += len;
        }
    }

    fn zero(&self, offset: u64, len: u64) {
        let end = offset + len;
        let (first, last) = (offset.div_ceil(BLOCK), end / BLOCK);
        if first < last {
            let mut blocks = self.blocks.borrow_mut();
            let mut tail = blocks.split_off(&first);
            blocks.append(&mut tail.split_off(&last));
        }
        let head_end = (first * BLOCK).min(end);
        self.write(offset, &vec![0; (head_end - offset) as usize]);
        let tail_start = (last * BLOCK).max(head_end);
        self.write(tail_start, &vec![0; (end - tail_start) as usize]);
    }

    /// The stretches of a range, alternately with and without data.
    fn extents(&self, offset: u64, len: u64) -> Vec<(u64, bool)> {
        let blocks = self.blocks.borrow();
        let end = offset + len;
        let mut extents: Vec<(u64, bool)> = Vec::new();
        let mut at = offset;
        let mut push = |len: u64, hole: bool| match extents.last_mut() {
            Some((last, kind)) if *kind == hole => *last += len,
            _ if len > 0 => extents.push((len, hole)),
            _ => {}
        };
        for (&index, _) in blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let (start, stop) = ((index * BLOCK).max(at), ((index + 1) * BLOCK).min(end));
            push(start - at, true);
            push(stop - start, false);
            at = stop;
        }
        push(end - at, true);
        extents
    }
}

/// One export of the test server.
pub struct Ram {
    disk: Rc<Disk>,
    knobs: Arc<Knobs>,
    name: String,
    kind: Kind,
    size: Rc<Cell<u64>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Normal,
    ReadOnly,
    /// Nothing beyond reading and writing.
    Bare,
    /// Nothing begins before [`Knobs::limit`].
    Throttled,
    /// A backend whose answers do not fit the questions.
    Faulty,
}

impl Drop for Ram {
    fn drop(&mut self) {
        self.knobs.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One more for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Export for Ram {
    async fn begin(&self, contexts: &[Context<'_>]) -> Result<(), OpenError> {
        self.knobs.begun.lock().unwrap().push(contexts.len());
        Ok(())
    }

    fn info(&self) -> ExportInfo {
        let none = Features {
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
            name: self.name.clone(),
            description: format!("test disk {}", self.name),
            size: self.size(),
            read_only: self.kind == Kind::ReadOnly,
            features: if self.kind == Kind::Bare { none } else { Features::ALL },
        }
    }

    fn contexts(&self, queries: &[&str]) -> Vec<String> {
        let mut names = Vec::new();
        if queries.is_empty() || queries.contains(&ODD) {
            names.push(ODD.to_owned());
        }
        if queries.is_empty() {
            names.push(MANY.to_owned());
        }
        if queries.contains(&MANY) {
            names.extend((0..MANY_CONTEXTS).map(|number| format!("{MANY}{number}")));
        }
        names
    }

    fn context(&self, name: &str) -> Option<ContextKey> {
        if name == ODD {
            return Some(ODD_KEY);
        }
        let number = name.strip_prefix(MANY)?.parse().ok()?;
        (number < MANY_CONTEXTS).then_some(ContextKey(number))
    }

    fn size(&self) -> u64 {
        self.size.get()
    }

    fn is_throttled(&self) -> bool {
        self.kind == Kind::Throttled
    }

    async fn admit(&self, _demand: Demand) {
        let _waiting = Counted::new(&self.knobs.waiting);
        self.knobs.limit.wait().await;
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadReply, Errno> {
        self.knobs.reads.fetch_add(1, Ordering::SeqCst);
        if offset == GATED {
            self.knobs.gated.fetch_add(1, Ordering::SeqCst);
            self.knobs.gate.wait().await;
            self.knobs.gated.fetch_sub(1, Ordering::SeqCst);
        }
        self.knobs.check()?;
        if self.kind == Kind::Faulty {
            let extents = vec![ReadExtent { len: len + 1, hole: false }];
            return Ok(ReadReply { buf: Some(Span::of(offset, len).buffer()), extents });
        }
        let extents = self.disk.extents(offset, u64::from(len));
        if extents.iter().all(|(_, hole)| *hole) {
            return Ok(ReadReply { buf: None, extents: Vec::new() });
        }
        let span = Span::of(offset, len);
        let mut buf = span.buffer();
        // What a hole leaves in the buffer must not matter.
        buf.fill(0xee);
        let blocks = self.disk.blocks.borrow();
        for (&index, block) in blocks.range(offset / BLOCK..(offset + u64::from(len)).div_ceil(BLOCK)) {
            let at = (index * BLOCK - (offset - span.phase as u64)) as usize;
            buf[at..at + BLOCK as usize].copy_from_slice(block);
        }
        let extents = extents.into_iter().map(|(len, hole)| ReadExtent { len: len as u32, hole }).collect();
        Ok(ReadReply { buf: Some(buf), extents })
    }

    async fn write(&self, offset: u64, len: u32, buf: AlignedBuf, fua: bool) -> Result<(), Errno> {
        self.knobs.check()?;
        let span = Span::of(offset, len);
        assert_eq!(buf.len(), span.total, "a buffer covers whole blocks");
        self.disk.write(offset, &buf[span.phase..span.phase + len as usize]);
        self.knobs.fua.fetch_add(usize::from(fua), Ordering::SeqCst);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.knobs.check()?;
        self.knobs.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<(), Errno> {
        self.knobs.check()?;
        self.knobs.fua.fetch_add(usize::from(fua), Ordering::SeqCst);
        self.knobs.hints.lock().unwrap().push((offset, len));
        self.disk.zero(offset, len);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<(), Errno> {
        self.knobs.check()?;
        self.knobs.fua.fetch_add(usize::from(flags.fua), Ordering::SeqCst);
        self.knobs.zeroes.lock().unwrap().push((offset, len, flags));
        self.disk.zero(offset, len);
        Ok(())
    }

    async fn cache(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.knobs.check()?;
        self.knobs.hints.lock().unwrap().push((offset, len));
        Ok(())
    }

    async fn block_status(&self, query: StatusQuery<'_>) -> Result<Vec<StatusExtent>, Errno> {
        self.knobs.check()?;
        if self.kind == Kind::Faulty {
            return Ok(Vec::new());
        }
        match query.context {
            Context::Allocation => {
                let extents = self.disk.extents(query.offset, query.len).into_iter();
                let flags = |hole| if hole { allocation::HOLE | allocation::ZERO } else { 0 };
                Ok(extents
                    .take(query.max_extents)
                    .map(|(len, hole)| StatusExtent { len, flags: flags(hole) })
                    .collect())
            }
            Context::Named { name, key } if name.starts_with(MANY) => {
                assert_eq!(self.context(name), Some(key));
                Ok(vec![StatusExtent { len: query.len, flags: key.0 }])
            }
            Context::Named { name, key } => {
                assert_eq!((name, key), (ODD, ODD_KEY), "only contexts of this export are asked about");
                let mut at = query.offset;
                let mut extents = Vec::new();
                while at < query.offset + query.len && extents.len() < query.max_extents {
                    let next = (at / (1 << 20) + 1) << 20;
                    // The last extent reaches past the request on purpose.
                    extents.push(StatusExtent { len: next - at, flags: (at >> 20) & 1 });
                    at = next;
                }
                Ok(extents)
            }
        }
    }
}

/// The exports of the test server: all show one disk.
pub struct RamExports {
    disk: Rc<Disk>,
    knobs: Arc<Knobs>,
    size: Rc<Cell<u64>>,
}

impl RamExports {
    pub fn new(knobs: Arc<Knobs>) -> Self {
        Self { disk: Rc::default(), knobs, size: Rc::new(Cell::new(SIZE)) }
    }
}

impl Exports for RamExports {
    type Export = Ram;

    async fn open(&self, name: &str, _client: &ClientInfo) -> Result<Ram, OpenError> {
        let kind = match name {
            "" | "demo" => Kind::Normal,
            "ro" => Kind::ReadOnly,
            "bare" => Kind::Bare,
            "throttled" => Kind::Throttled,
            "faulty" => Kind::Faulty,
            "locked" => return Err(OpenError::Policy("locked for this test".to_owned())),
            "ill" => return Err(OpenError::Failed("the pool is fenced".to_owned())),
            "closing" => return Err(OpenError::Shutdown),
            // Opening this one shuts the server down.
            "last" => {
                self.knobs.sessions.trigger();
                Kind::Normal
            }
            // A resize that every open connection sees.
            "grow" => {
                self.size.set(self.size.get() + (1 << 20));
                Kind::Normal
            }
            name if self.knobs.names.lock().unwrap().iter().any(|n| n == name) => Kind::Normal,
            _ => return Err(OpenError::Unknown),
        };
        self.knobs.open.fetch_add(1, Ordering::SeqCst);
        Ok(Ram {
            disk: Rc::clone(&self.disk),
            knobs: Arc::clone(&self.knobs),
            name: if name.is_empty() { "demo" } else { name }.to_owned(),
            kind,
            size: Rc::clone(&self.size),
        })
    }

    async fn list(&self, _client: &ClientInfo) -> Vec<ExportName> {
        let fixed = [("demo", "test disk demo"), ("ro", "")].map(|(n, d)| (n.to_owned(), d.to_owned()));
        let further = self.knobs.names.lock().unwrap().clone().into_iter().map(|n| (n, String::new()));
        fixed.into_iter().chain(further).map(|(name, description)| ExportName { name, description }).collect()
    }
}
