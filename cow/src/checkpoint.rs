//! Checkpoints: the state at one point of the log, written beside what is there, then made the one to start from.
//!
//! ```text
//! seal a batch and freeze the roots ─► write dirty nodes, leaves first ─► catalog ─► space map, other slots
//!     ─► barrier ─► first superblock ─► barrier ─► second superblock ─► barrier ─► old nodes go to limbo
//! ```
//!
//! Writes go on meanwhile: a frozen root is an `Arc`, so a head that changes copies what it shares with it. The
//! second superblock is written only after the first is durable, so one of them is always whole, and nothing that
//! the older one leads to is reused before both lead to the new state.

use std::collections::HashSet;
use std::sync::Arc;

use crate::codec::Writer;
use crate::disk::{Buf as _, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{HEADER_BYTES, INCOMPAT_ATTRIBUTES, Kind, SUPERBLOCKS, Superblock, node_crc, seal};
use crate::map::Superseded;
use crate::node::{Cell, CellState, Child, Entry, FANOUT, Node, Ptr, ROOT_LEVEL, Slot};
use crate::pool::Pool;
use crate::space::{Bits, FrozenSpace, Run, Space, StoredSlot};
use crate::state::State;
use crate::sync::{join_all, yield_now};
use crate::types::{BLOCK_BYTES, BatchSeq, BlockAddr, Lsn};
use crate::version::Versions;

/// Nodes written by one I/O: encoding them keeps the reactor for a hundred microseconds.
const NODES_PER_WRITE: usize = 64;
/// I/Os that a checkpoint keeps in flight: few, so that requests from outside wait for little.
const WIDTH: usize = 4;
/// Reads of patched leaves in flight.
const READ_WIDTH: usize = 32;
/// Bytes of a catalog block after its header and link.
pub(crate) const CATALOG_PAYLOAD: usize = BLOCK_BYTES - HEADER_BYTES - 16;

/// The state at one point of the log.
struct Frozen {
    limit: u64,
    versions: Versions,
    space: FrozenSpace,
    superseded: Vec<Superseded>,
    old_catalog: Vec<Run>,
    journal_pos: u64,
    journal_seq: BatchSeq,
    journal_lsn: Lsn,
}

fn freeze(state: &mut State) -> Frozen {
    state.dirty_frozen = std::mem::take(&mut state.dirty);
    state.checkpoint_running = true;
    Frozen {
        limit: state.limit,
        versions: state.versions.clone(),
        space: state.space.freeze(),
        superseded: std::mem::take(&mut state.superseded),
        old_catalog: state.catalog.clone(),
        journal_pos: state.ring.pos,
        journal_seq: state.ring.next_seq,
        journal_lsn: state.lsn,
    }
}

/// What a checkpoint left on disk, for a check that wants to compare with it.
pub(crate) struct Written {
    pub(crate) versions: Versions,
    pub(crate) segments: Vec<Arc<Bits>>,
    pub(crate) catalog: Vec<Run>,
}

impl<D: Disk> Pool<D> {
    /// Writes a checkpoint, or waits for the one under way and returns.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let before = self.state.lock().checkpoints;
        let _token = self.checkpointing.acquire().await;
        if self.state.lock().checkpoints > before {
            return Ok(());
        }
        self.write_checkpoint().await.map(|_| ())
    }

    /// Writes a checkpoint that holds everything up to this call.
    pub(crate) async fn checkpoint_from_now(&self) -> Result<Written> {
        let _token = self.checkpointing.acquire().await;
        self.write_checkpoint().await
    }

    /// Writes a checkpoint; the caller holds the token.
    async fn write_checkpoint(&self) -> Result<Written> {
        // What may fail without harm comes before anything changes.
        self.read_patched().await?;
        while !self.find_room()? {
            yield_now().await;
        }
        // A block freed after the freeze must not become one of this checkpoint's own: replay from it would free the
        // block again.
        let (frozen, guard) = self.commit_and(|state| (freeze(state), state.space.reader())).await?;
        let written = self.store(frozen).await;
        drop(guard);
        if let Err(error) = &written {
            // Nodes may already carry addresses that no durable superblock knows.
            self.fence(error);
        }
        written
    }

    /// Whether a checkpoint has room, if need be by making reusable what was freed; fails when nothing is left of that.
    fn find_room(&self) -> Result<bool> {
        let mut state = self.state.lock();
        state.writable()?;
        if state.has_room_for_checkpoint() || state.reclaim()? {
            return Ok(state.has_room_for_checkpoint());
        }
        if state.has_room_for_checkpoint() {
            return Ok(true);
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            "the pool is full and has no room for a checkpoint while reads hold back what was freed: try again",
        ))
    }

    async fn store(&self, frozen: Frozen) -> Result<Written> {
        let mut fresh: Vec<Run> = Vec::new();
        self.store_nodes(&frozen, &mut fresh).await?;
        let (catalog_at, catalog, segments) = self.store_catalog(&frozen, &mut fresh).await?;
        self.barrier().await?;
        self.store_superblocks(&frozen, catalog_at).await?;
        let mut retired: Vec<Run> = frozen.old_catalog;
        let homes = frozen.superseded.iter().filter_map(superseded_addr);
        retired.extend(homes.map(|start| Run { start, len: 1 }));
        let written = Written {
            versions: frozen.versions,
            segments: segments.iter().map(|(bits, _)| Arc::clone(bits)).collect(),
            catalog: catalog.clone(),
        };
        let more_to_reclaim = {
            let mut state = self.state.lock();
            state.catalog = catalog;
            state.space.stored(segments);
            state.space.retire(retired);
            state.ring.tail = frozen.journal_pos;
            let covered = BatchSeq(frozen.journal_seq.0 - 1);
            state.ring.confirmed_seq = state.ring.confirmed_seq.max(covered);
            state.checkpoints += 1;
            state.checkpoint_running = false;
            state.reclaim()?
        };
        if more_to_reclaim {
            self.work.notify_all();
        }
        Ok(written)
    }

    /// Blocks for metadata, and how many segments there are now; the reserve is there for it.
    fn allocate_metadata(
        &self,
        blocks: impl FnOnce(usize) -> usize,
        fresh: &mut Vec<Run>,
    ) -> Result<(Vec<BlockAddr>, usize)> {
        let mut state = self.state.lock();
        let segments = state.space.segment_count();
        let lane = state.space.metadata_lane();
        let runs = state.space.allocate(lane, blocks(segments) as u32).ok_or_else(|| {
            Error::new(
                ErrorKind::NoSpace,
                "the reserve for metadata is used up; this is a defect of cairn, please report it",
            )
        })?;
        fresh.extend(&runs);
        let places = runs.iter().flat_map(|run| (0..u64::from(run.len)).map(|i| run.start + i)).collect();
        Ok((places, segments))
    }

    async fn store_nodes(&self, frozen: &Frozen, fresh: &mut Vec<Run>) -> Result<()> {
        for (level, cells) in dirty_nodes(&frozen.versions).iter().enumerate() {
            let (places, _) = self.allocate_metadata(|_| cells.len(), fresh)?;
            let chunks = cells.chunks(NODES_PER_WRITE).zip(places.chunks(NODES_PER_WRITE));
            let writes = chunks.map(|(cells, places)| self.store_chunk(level as u8, cells, places)).collect();
            join_all(writes, WIDTH).await.into_iter().collect::<Result<()>>()?;
        }
        self.state.lock().dirty_frozen = 0;
        Ok(())
    }

    /// Reads leaves that replay only patched, so that they can be written whole. Of one that is damaged only what the
    /// journal says is left; everything else in it is marked as lost, so that it stays an error and never reads as
    /// something else.
    async fn read_patched(&self) -> Result<()> {
        let levels = {
            let state = self.state.lock();
            if !state.has_patches {
                return Ok(());
            }
            dirty_nodes(&state.versions)
        };
        let patched = |cell: &Arc<Cell>| match &*cell.lock() {
            CellState::Patched { base, .. } => Some(*base),
            _ => None,
        };
        let leaves = levels[0].iter().filter_map(|cell| patched(cell).map(|base| (Arc::clone(cell), base)));
        let reads = leaves.map(|(cell, base)| async move {
            match self.read_node(Arc::clone(&cell), base, 0).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    cell.install(base, Node::Leaf(Box::new([Entry::LOST; FANOUT])));
                    Ok(())
                }
                other => other,
            }
        });
        join_all(reads.collect(), READ_WIDTH).await.into_iter().collect::<Result<()>>()?;
        self.state.lock().has_patches = false;
        Ok(())
    }

    async fn store_chunk(&self, level: u8, cells: &[Arc<Cell>], places: &[BlockAddr]) -> Result<()> {
        // Requests go first.
        yield_now().await;
        let mut buf = self.disk.alloc(cells.len() * BLOCK_BYTES);
        let mut ptrs = Vec::with_capacity(cells.len());
        for ((cell, addr), out) in cells.iter().zip(places).zip(buf.chunks_exact_mut(BLOCK_BYTES)) {
            let state = cell.lock();
            let CellState::Dirty(node) = &*state else {
                return Err(Error::new(ErrorKind::Corrupt, "a frozen node changed while it was written"));
            };
            node.encode(out)?;
            ptrs.push(Ptr { addr: *addr, crc: node_crc(&self.id, *addr, level, out) });
        }
        // Consecutive places leave in one I/O.
        let mut at = 0;
        let mut writes = Vec::new();
        while at < places.len() {
            let run = places[at..].windows(2).take_while(|w| w[1].0 == w[0].0 + 1).count() + 1;
            let rest = buf.split_off(run * BLOCK_BYTES);
            writes.push(self.disk.write(places[at].offset(), vec![std::mem::replace(&mut buf, rest)]));
            at += run;
        }
        for (result, _) in join_all(writes, WIDTH).await {
            result.map_err(|e| Error::io("writing map nodes", e))?;
        }
        let mut state = self.state.lock();
        for (cell, ptr) in cells.iter().zip(ptrs) {
            let mut cell_state = cell.lock();
            let taken = std::mem::replace(&mut *cell_state, CellState::Evicted(ptr));
            if let CellState::Dirty(node) = taken {
                let leaf = matches!(node, Node::Leaf(_));
                *cell_state = CellState::Clean { ptr, node, hot: true };
                drop(cell_state);
                if leaf {
                    state.now_resident(cell);
                }
            }
        }
        Ok(())
    }

    /// Writes the catalog and the space map; both know of each other's blocks, so the places come first.
    async fn store_catalog(
        &self,
        frozen: &Frozen,
        fresh: &mut Vec<Run>,
    ) -> Result<(BlockAddr, Vec<Run>, Vec<(Arc<Bits>, StoredSlot)>)> {
        let mut body = Writer::default();
        frozen.versions.encode(&mut body)?;
        // The number of segments, then five bytes for each.
        let blocks = |segments: usize| (body.len() + 4 + segments * 5).div_ceil(CATALOG_PAYLOAD);
        let mut catalog = Vec::new();
        let (places, total) = self.allocate_metadata(blocks, &mut catalog)?;
        fresh.extend(&catalog);
        body.u32(total as u32);
        let generation = self.state.lock().checkpoints + self.first_generation;
        let segments = self.store_space(frozen, fresh, total, generation).await?;
        for (_, place) in &segments {
            body.u8(place.slot);
            body.u32(place.crc);
        }
        let body = body.into_bytes();
        let mut writes = Vec::new();
        for (i, chunk) in body.chunks(CATALOG_PAYLOAD).enumerate() {
            let mut buf = self.disk.alloc(BLOCK_BYTES);
            buf.fill(0);
            let next = places.get(i + 1).map_or(0, |a| a.0);
            buf[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&next.to_le_bytes());
            buf[HEADER_BYTES + 8..HEADER_BYTES + 12].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
            buf[HEADER_BYTES + 16..HEADER_BYTES + 16 + chunk.len()].copy_from_slice(chunk);
            seal(&mut buf, Kind::Catalog, &self.id, places[i], generation);
            writes.push(self.disk.write(places[i].offset(), vec![buf]));
        }
        for (result, _) in join_all(writes, WIDTH).await {
            result.map_err(|e| Error::io("writing the catalog", e))?;
        }
        Ok((places[0], catalog, segments))
    }

    /// Writes the space map of every segment that changed into the slot that the last checkpoint does not use.
    async fn store_space(
        &self,
        frozen: &Frozen,
        fresh: &[Run],
        total: usize,
        generation: u64,
    ) -> Result<Vec<(Arc<Bits>, StoredSlot)>> {
        let mut maps: Vec<Arc<Bits>> = frozen.space.segments.iter().map(|s| Arc::clone(&s.bits)).collect();
        // Segments added since the freeze hold nothing of it but the checkpoint's own blocks.
        let fresh_bits = Arc::new(Space::fresh_bits(&self.geometry));
        maps.resize(total, Arc::clone(&fresh_bits));
        let gone = frozen.superseded.iter().filter_map(superseded_addr).map(|start| Run { start, len: 1 });
        let cleared =
            frozen.space.without.iter().copied().chain(gone).chain(frozen.old_catalog.iter().copied());
        let changes = cleared.map(|run| (run, false)).chain(fresh.iter().map(|run| (*run, true)));
        for (run, used) in changes {
            for i in 0..u64::from(run.len) {
                let Some((segment, index)) = self.geometry.locate(run.start + i, total) else { continue };
                let word = &mut Arc::make_mut(&mut maps[segment])[index as usize / 64];
                let bit = 1 << (index % 64);
                if used { *word |= bit } else { *word &= !bit }
            }
        }
        let mut places = Vec::with_capacity(total);
        let mut writes = Vec::new();
        for (i, map) in maps.iter().enumerate() {
            let before = frozen.space.segments.get(i).filter(|segment| segment.place.crc != 0);
            if let Some(segment) = before.filter(|s| Arc::ptr_eq(map, &s.stored) || *map == s.stored) {
                places.push(segment.place);
                continue;
            }
            let slot = before.map_or(0, |segment| 1 - segment.place.slot);
            let addr = self.geometry.segment_start(i) + u64::from(slot);
            let mut buf = self.disk.alloc(BLOCK_BYTES);
            buf.fill(0);
            for (word, out) in map.iter().zip(buf[HEADER_BYTES + 16..].chunks_exact_mut(8)) {
                out.copy_from_slice(&word.to_le_bytes());
            }
            seal(&mut buf, Kind::SpaceMap, &self.id, addr, generation);
            places.push(StoredSlot { slot, crc: slot_crc(&buf) });
            writes.push(self.disk.write(addr.offset(), vec![buf]));
        }
        for (result, _) in join_all(writes, READ_WIDTH).await {
            result.map_err(|e| Error::io("writing the space map", e))?;
        }
        Ok(maps.into_iter().zip(places).collect())
    }

    async fn store_superblocks(&self, frozen: &Frozen, catalog: BlockAddr) -> Result<()> {
        let superblock = Superblock {
            pool: self.id,
            generation: self.state.lock().checkpoints + self.first_generation,
            geometry: self.geometry,
            incompat: INCOMPAT_ATTRIBUTES,
            limit: frozen.limit,
            created_ms: self.created_ms,
            catalog,
            journal_pos: frozen.journal_pos,
            journal_seq: frozen.journal_seq,
            journal_lsn: frozen.journal_lsn,
        };
        for addr in SUPERBLOCKS {
            let mut buf = self.disk.alloc(BLOCK_BYTES);
            superblock.encode(addr, &mut buf);
            let (result, _) = self.disk.write(addr.offset(), vec![buf]).await;
            result.map_err(|e| Error::io("writing a superblock", e))?;
            self.barrier().await?;
        }
        Ok(())
    }
}

/// What the catalog keeps of a space map slot: never 0, which means that there is none.
pub(crate) fn slot_crc(block: &[u8]) -> u32 {
    crc32fast::hash(block).max(1)
}

fn superseded_addr(superseded: &Superseded) -> Option<BlockAddr> {
    match superseded {
        Superseded::Addr(addr) => Some(*addr),
        // Without an address it was never part of a checkpoint.
        Superseded::Cell(cell) => cell.home().map(|ptr| ptr.addr),
    }
}

/// Dirty nodes by level, leaves first.
type Levels = [Vec<Arc<Cell>>; ROOT_LEVEL as usize + 1];

/// Lists all versions' dirty nodes, each once however many trees share it.
fn dirty_nodes(versions: &Versions) -> Levels {
    let mut levels = Levels::default();
    let mut seen = HashSet::new();
    for (_, version) in versions.iter() {
        collect_dirty(&version.root, ROOT_LEVEL, &mut levels, &mut seen);
    }
    levels
}

fn collect_dirty(slot: &Slot, level: u8, levels: &mut [Vec<Arc<Cell>>], seen: &mut HashSet<usize>) {
    let Child::Cell(cell) = &slot.child else { return };
    let state = cell.lock();
    if !matches!(*state, CellState::Dirty(_) | CellState::Patched { .. })
        || !seen.insert(Arc::as_ptr(cell) as usize)
    {
        return;
    }
    if let CellState::Dirty(Node::Inner(slots)) = &*state {
        for slot in slots.iter() {
            collect_dirty(slot, level - 1, levels, seen);
        }
    }
    levels[usize::from(level)].push(Arc::clone(cell));
}
