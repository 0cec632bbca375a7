//! The pool: what opens, closes and owns everything else.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::cache::BlockCache;
use crate::codec::Writer;
use crate::commit::Ahead;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    DEFAULT_SEGMENT_BLOCKS, Geometry, HeaderFault, JOURNAL_START, MAX_POOL_BLOCKS, MAX_SEGMENT_BLOCKS,
    PoolId, SUPERBLOCKS, peek,
};
use crate::map::Missing;
use crate::node::{Cell, InnerNodes, LEAF_MEMORY, Node, Ptr};
use crate::shadow::{Shadow, shadow_bytes};
use crate::space::{ReadGuard, Space};
use crate::state::{Blocked, Ring, State};
use crate::sweep::Parents;
use crate::sync::{Event, Token, yield_now};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BatchSeq, BlockAddr, Lsn, PoolStatus};
use crate::version::Versions;
use crate::write::{LaneQueue, Merging};
use crate::zeroing::Zeroing;

/// The journal ring of a pool that does not ask for another.
const DEFAULT_JOURNAL_BYTES: u64 = 64 << 20;
/// The least ring in which batches, with an eighth kept back, always fit.
const LEAST_JOURNAL_BYTES: u64 = 1 << 20;
/// The least that a pool must be able to hold besides its journal, and has from the start: room for the reserve.
const LEAST_BLOCKS: u64 = 1024;
/// Segments are made smaller than usual where fewer than this many would fit.
const FEW_SEGMENTS: u64 = 64;
/// The smallest segment that a pool gets unless it asks for less.
const SMALL_SEGMENT_BLOCKS: u64 = 1024;

/// Leaves that stay in memory at least: a quarter of them stays beside inner nodes and changed leaves, one for each of several that
/// work at once.
const LEAST_LEAVES: usize = 24;
/// Changed leaves that wait for a checkpoint, unless the journal has no room for them: with fewer, one would follow the other.
const LEAST_DIRTY_LEAVES: usize = 128;

/// How a pool is made; none of it can be changed later but the limit.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes that the pool may grow to, its journal included; a device's size.
    pub limit: u64,
    /// Bytes of the journal ring, a multiple of 4096; a sixteenth of the limit but at most 64 MiB when `None`.
    pub journal_bytes: Option<u64>,
    /// Blocks of a segment, by which the pool grows: a multiple of 64 from 64 to 32,256. When
    /// `None`, 16,384 (64 MiB), less for a pool of less than 4 GiB.
    pub segment_blocks: Option<u32>,
}

/// How a pool is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many reactors write: each fills segments of its own.
    pub lanes: usize,
    /// Bytes of map leaves kept in memory; a few dozen leaves are in any case.
    pub map_cache_bytes: u64,
    /// Bytes of data blocks kept in memory; 0 for none.
    pub read_cache_bytes: u64,
    /// Bytes of records that one batch holds at most, as long as that is less than the journal allows.
    pub batch_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { lanes: 1, map_cache_bytes: 256 << 20, read_cache_bytes: 64 << 20, batch_bytes: usize::MAX }
    }
}

/// A storage pool over one disk. Shared by reactors in an `Arc`; its futures run to completion on any executor.
///
/// A future of the pool must not be dropped before it is done: others may be waiting for the I/O it leads.
pub struct Pool<D: Disk> {
    pub(crate) disk: D,
    pub(crate) id: PoolId,
    pub(crate) geometry: Geometry,
    pub(crate) created_ms: u64,
    /// The generation of the first checkpoint written since the pool was opened.
    pub(crate) first_generation: u64,
    pub(crate) state: Mutex<State>,
    pub(crate) cache: Option<Arc<BlockCache>>,
    pub(crate) lanes: Vec<Mutex<LaneQueue<D::Buf>>>,
    pub(crate) merging: Merging,
    /// A batch became durable, or the pool was fenced.
    pub(crate) committed: Event,
    pub(crate) checkpointing: Token,
    /// Held by the one barrier in flight.
    pub(crate) syncing: Token,
    pub(crate) growing: Token,
    /// Held by the one who looks for room in a full pool.
    pub(crate) making_room: Token,
    pub(crate) reaping: Token,
    /// Something for [`Pool::maintain`] came up.
    pub(crate) work: Event,
}

/// What is in memory of a pool right after its disk was read.
pub(crate) struct Loaded {
    pub(crate) id: PoolId,
    pub(crate) geometry: Geometry,
    pub(crate) limit: u64,
    pub(crate) created_ms: u64,
    pub(crate) generation: u64,
    pub(crate) versions: Versions,
    pub(crate) space: Space,
    pub(crate) ring: Ring,
    pub(crate) lsn: Lsn,
    pub(crate) catalog: Vec<crate::space::Run>,
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl<D: Disk> Pool<D> {
    pub(crate) fn assemble(disk: D, mut loaded: Loaded, options: &Options) -> Pool<D> {
        let cache = BlockCache::new(options.read_cache_bytes);
        loaded.space.tell_of_reuse(cache.clone());
        let map_cache = usize::try_from(options.map_cache_bytes).unwrap_or(usize::MAX);
        let map_cache = map_cache.max(LEAST_LEAVES * LEAF_MEMORY);
        let lanes = options.lanes.max(1);
        Pool {
            disk,
            cache,
            id: loaded.id,
            geometry: loaded.geometry,
            created_ms: loaded.created_ms,
            first_generation: loaded.generation + 1,
            state: Mutex::new(State {
                geometry: loaded.geometry,
                limit: loaded.limit,
                versions: loaded.versions,
                space: loaded.space,
                ring: loaded.ring,
                log: Writer::default(),
                log_records: 0,
                shadow: None,
                taken_over: 0,
                lsn: loaded.lsn,
                durable_lsn: loaded.lsn,
                unflushed_bytes: 0,
                sealed_bytes: 0,
                commit_running: false,
                ahead: Ahead::default(),
                lone_flushes: 0,
                superseded: Vec::new(),
                dirty: 0,
                dirty_frozen: 0,
                checkpoint_running: false,
                has_patches: false,
                dirty_memory_limit: (map_cache / LEAF_MEMORY / 2).max(LEAST_DIRTY_LEAVES) as u64,
                catalog: loaded.catalog,
                fenced: None,
                resident: VecDeque::new(),
                inner: InnerNodes::default(),
                parents: Parents::default(),
                reap_hindered: Duration::ZERO,
                map_cache,
                batch_bytes: options.batch_bytes,
                checkpoints: 0,
                barriers: 0,
                checksum_errors: 0,
                idle: Duration::ZERO,
                log_age: Duration::ZERO,
                requests: 0,
                zeroing: Zeroing::default(),
            }),
            lanes: (0..lanes).map(|_| Mutex::new(LaneQueue::default())).collect(),
            merging: Merging::default(),
            committed: Event::default(),
            checkpointing: Token::default(),
            syncing: Token::default(),
            growing: Token::default(),
            making_room: Token::default(),
            reaping: Token::default(),
            work: Event::default(),
        }
    }

    /// Makes a pool on a disk that holds nothing: an empty file, or a device whose superblock places are not cairn's.
    /// `id` is the pool's identity, which should be random.
    pub async fn create(
        disk: D,
        id: [u8; 16],
        create: CreateOptions,
        options: Options,
    ) -> Result<Arc<Pool<D>>> {
        let geometry = geometry_for(&create)?;
        for addr in SUPERBLOCKS {
            if disk.len() >= (addr.0 + 1) * BLOCK_SIZE {
                let (result, block) = disk.read(addr.offset(), disk.alloc(BLOCK_BYTES)).await;
                result.map_err(|e| Error::io("reading the disk before making a pool on it", e))?;
                if !matches!(peek(&block), Err(HeaderFault::Foreign)) {
                    return Err(Error::new(ErrorKind::Exists, "the disk already holds a cairn pool"));
                }
            }
        }
        let segments = least_segments(geometry.segment_blocks);
        let grow = |e| Error::io("making room for the pool", e);
        disk.grow(geometry.bytes_with(segments)).await.map_err(grow)?;
        let mut space = Space::new(geometry, options.lanes.max(1));
        space.add_segments(segments);
        let loaded = Loaded {
            id,
            geometry,
            limit: create.limit,
            created_ms: now_ms(),
            generation: 0,
            versions: Versions::new(),
            space,
            ring: Ring {
                tail: 0,
                tail_seq: BatchSeq(1),
                pos: 0,
                next_seq: BatchSeq(1),
                durable_seq: BatchSeq(0),
                confirmed_seq: BatchSeq(0),
            },
            lsn: Lsn(0),
            catalog: Vec::new(),
        };
        let pool = Pool::assemble(disk, loaded, &options);
        pool.clear_journal().await?;
        pool.checkpoint().await?;
        let memory = pool.disk.survivor(shadow_bytes(geometry));
        pool.state.lock().shadow = memory.map(|memory| Shadow::new(memory, id, geometry));
        pool.begin_shadow();
        Ok(Arc::new(pool))
    }

    /// From here on all that is answered survives the death of this process, if there is memory for it.
    pub(crate) fn begin_shadow(&self) {
        let mut state = self.state.lock();
        debug_assert_eq!(state.log_records, 0, "records that nobody copied");
        let on_disk = (state.checkpoints + self.first_generation - 1, state.ring.tail_seq);
        let next = (state.ring.next_seq, state.lsn);
        if let Some(shadow) = &mut state.shadow {
            shadow.begin(on_disk, next);
        }
    }

    /// Whether all that was answered would survive the death of this process now, flushed or not.
    pub fn survives_its_process(&self) -> bool {
        self.state.lock().shadow.is_some()
    }

    /// Changes that the last process to use the pool had answered but not flushed when it died, and that opening found in
    /// the memory it left.
    pub fn taken_over(&self) -> u64 {
        self.state.lock().taken_over
    }

    /// Writes the whole ring once: nothing of an earlier use of the disk can be taken for a batch, and a file
    /// system has no extents left to convert when batches are written later.
    async fn clear_journal(&self) -> Result<()> {
        const CHUNK_BLOCKS: u64 = 256;
        let mut at = 0;
        while at < self.geometry.journal_blocks {
            let blocks = CHUNK_BLOCKS.min(self.geometry.journal_blocks - at);
            let start = BlockAddr(JOURNAL_START + at);
            self.write_zeroes_to(start, blocks).await.map_err(|e| Error::io("clearing the journal", e))?;
            at += blocks;
        }
        Ok(())
    }

    /// One write of zeroes to blocks of the pool itself.
    pub(crate) async fn write_zeroes_to(&self, start: BlockAddr, blocks: u64) -> io::Result<()> {
        let mut buf = self.disk.alloc((blocks * BLOCK_SIZE) as usize);
        buf.fill(0);
        self.disk.write(start.offset(), vec![buf]).await.0
    }

    /// Lets the pool grow to `limit` bytes, or no further than that; returns when it is durable. Space that the pool has
    /// taken is not given back.
    pub async fn set_limit(&self, limit: u64) -> Result<()> {
        {
            let mut state = self.state.lock();
            state.writable()?;
            let size = self.geometry.bytes_with(state.space.segment_count());
            if limit < size {
                let why = format!("the pool takes {size} bytes already and cannot be limited to {limit}");
                return Err(Error::new(ErrorKind::Shrink, why));
            }
            check_limit(limit)?;
            state.limit = limit;
        }
        self.work.notify_all();
        self.checkpoint_from_now().await?.let_go().await;
        Ok(())
    }

    /// Ends in a state from which opening needs no replay. Requests must have ended before.
    pub async fn close(&self) -> Result<()> {
        self.flush().await?;
        self.checkpoint().await?;
        // What the background may have appended meanwhile it will do again.
        let shadow = self.state.lock().shadow.take();
        if let Some(shadow) = shadow {
            shadow.discard();
        }
        Ok(())
    }

    /// Memory of `len` bytes for [`Pool::write`], with arbitrary contents.
    pub fn buffer(&self, len: usize) -> D::Buf {
        self.disk.alloc(len)
    }

    /// What the pool was given when it was made, and keeps.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The pool's figures now.
    pub fn status(&self) -> PoolStatus {
        let state = self.state.lock();
        let free = state.data_blocks_free() * BLOCK_SIZE;
        let segments = state.space.segment_count();
        let size = self.geometry.bytes_with(segments);
        let can_grow = self.geometry.segments_in(state.limit).saturating_sub(segments) as u64
            * u64::from(self.geometry.segment_blocks - 2)
            * BLOCK_SIZE;
        PoolStatus {
            id: self.id.iter().map(|b| format!("{b:02x}")).collect(),
            format: crate::format::FORMAT_VERSION,
            limit: state.limit,
            size,
            used: (state.space.capacity() - state.space.free()) * BLOCK_SIZE,
            free: free + can_grow,
            reserve: state.reserve() * BLOCK_SIZE,
            volumes: state.versions.volume_count(),
            snapshots: state.versions.snapshot_count(),
            pending_deletes: state.versions.reapable().count(),
            fenced: state.fenced.clone(),
            journal_used: (state.ring.pos - state.ring.tail) * BLOCK_SIZE,
            journal_size: self.geometry.journal_blocks * BLOCK_SIZE,
            checkpoints: state.checkpoints,
            barriers: state.barriers,
            checksum_errors: state.checksum_errors,
        }
    }

    /// Reads one map node. What does not match is read once more, before what it holds counts as lost: the disk may
    /// have brought something else than it holds. The guard was taken before the pointer was looked up.
    pub(crate) async fn fetch_node(&self, _guard: &ReadGuard, ptr: Ptr, level: u8) -> Result<Node> {
        let mut tried = false;
        loop {
            let (result, block) = self.disk.read(ptr.addr.offset(), self.disk.alloc(BLOCK_BYTES)).await;
            result.map_err(|e| Error::io(format!("reading the map node in block {}", ptr.addr), e))?;
            match Node::decode(&self.id, ptr, level, &block) {
                Err(_) if !std::mem::replace(&mut tried, true) => {}
                decoded => return decoded,
            }
        }
    }

    /// Reads one map node into its cell.
    pub(crate) async fn read_node(
        &self,
        guard: &ReadGuard,
        cell: Arc<Cell>,
        ptr: Ptr,
        level: u8,
    ) -> Result<()> {
        let node = self.fetch_node(guard, ptr, level).await.inspect_err(|error| {
            self.state.lock().checksum_errors += u64::from(error.kind() == ErrorKind::Corrupt);
        })?;
        let mut state = self.state.lock();
        let installed = cell.install(ptr, node.counted(&state.inner));
        match level {
            0 if installed => state.now_resident(&cell),
            1 if installed => state.parents.add(&cell),
            _ => {}
        }
        Ok(())
    }

    pub(crate) async fn load(&self, guard: &ReadGuard, missing: Missing) -> Result<()> {
        self.read_node(guard, missing.cell, missing.ptr, missing.level).await
    }

    /// Sees to what a step waits for, so that it can be tried again. `Conflict` is the caller's own.
    pub(crate) async fn unblock(&self, blocked: Blocked) -> Result<()> {
        match blocked {
            Blocked::Missing(missing, guard) => self.load(&guard, missing).await,
            Blocked::Commit => self.flush().await,
            Blocked::Closed => {
                self.when_open(|_| ()).await;
                Ok(())
            }
            Blocked::Checkpoint => self.checkpoint().await,
            Blocked::Reclaim => {
                self.state.lock().reclaim()?;
                yield_now().await;
                Ok(())
            }
            Blocked::Conflict => Ok(()),
            Blocked::Failed(error) => Err(error),
        }
    }

    /// Runs a step under the lock until it is done, seeing to what it waits for.
    pub(crate) async fn step<R>(&self, mut f: impl FnMut(&mut State) -> Result<R, Blocked>) -> Result<R> {
        loop {
            let blocked = match f(&mut self.state.lock()) {
                Ok(done) => return Ok(done),
                Err(blocked) => blocked,
            };
            self.unblock(blocked).await?;
        }
    }
}

fn least_segments(segment_blocks: u32) -> usize {
    LEAST_BLOCKS.div_ceil(u64::from(segment_blocks)) as usize
}

fn check_limit(limit: u64) -> Result<()> {
    if limit / BLOCK_SIZE <= MAX_POOL_BLOCKS {
        return Ok(());
    }
    let why = format!("a limit of {limit} bytes: a pool can have at most 4 PiB");
    Err(Error::new(ErrorKind::InvalidArgument, why))
}

fn geometry_for(create: &CreateOptions) -> Result<Geometry> {
    let bad = |why: String| Err(Error::new(ErrorKind::InvalidArgument, why));
    let small = (create.limit / BLOCK_SIZE / FEW_SEGMENTS).next_multiple_of(64);
    let suitable = small.clamp(SMALL_SEGMENT_BLOCKS, u64::from(DEFAULT_SEGMENT_BLOCKS)) as u32;
    let segment_blocks = create.segment_blocks.unwrap_or(suitable);
    if !(64..=MAX_SEGMENT_BLOCKS).contains(&segment_blocks) || !segment_blocks.is_multiple_of(64) {
        return bad(format!(
            "a segment of {segment_blocks} blocks: use a multiple of 64 from 64 to {MAX_SEGMENT_BLOCKS}"
        ));
    }
    let fitting =
        (create.limit / 16).clamp(LEAST_JOURNAL_BYTES, DEFAULT_JOURNAL_BYTES) / BLOCK_SIZE * BLOCK_SIZE;
    let journal = create.journal_bytes.unwrap_or(fitting);
    if journal < LEAST_JOURNAL_BYTES || !journal.is_multiple_of(BLOCK_SIZE) || journal > 1 << 30 {
        return bad(format!("a journal of {journal} bytes: use a multiple of 4096 from 1 MiB to 1 GiB"));
    }
    let geometry = Geometry { segment_blocks, journal_blocks: journal / BLOCK_SIZE };
    check_limit(create.limit)?;
    let least = geometry.bytes_with(least_segments(segment_blocks));
    if create.limit < least {
        return bad(format!(
            "a limit of {} bytes is too small: with this journal a pool needs at least {least}",
            create.limit
        ));
    }
    Ok(geometry)
}
