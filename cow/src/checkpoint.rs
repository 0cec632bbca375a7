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

use smallvec::SmallVec;

use crate::codec::Writer;
use crate::defect::{Defect, planted};
use crate::disk::{Buf as _, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{HEADER_BYTES, INCOMPAT_ATTRIBUTES, Kind, SUPERBLOCKS, Superblock, node_crc, seal};
use crate::map::Superseded;
use crate::node::{Cell, CellState, Child, Entry, FANOUT, Node, Ptr, ROOT_LEVEL, Slot};
use crate::pool::Pool;
use crate::space::{Bits, FrozenSpace, Run, Space, StoredSlot, mark, push_block};
use crate::state::State;
use crate::sync::{join_all, join_in_turns, yield_now};
use crate::types::{BLOCK_BYTES, BatchSeq, BlockAddr, Lsn};
use crate::version::Versions;

/// Leaves written by one I/O: encoding them keeps the reactor for a hundred microseconds.
const LEAVES_PER_WRITE: usize = 64;
/// Inner nodes written by one I/O: each asks all of its children for their places.
const INNER_PER_WRITE: usize = 8;
/// Slots of an inner node that are looked at under its lock: a request that comes to the node meanwhile waits with the
/// pool's lock in its hand.
const SLOTS_AT_ONCE: usize = 64;
/// Inner nodes that a walk looks at in one turn, again for a hundred microseconds at most, ...
const INNER_PER_TURN: usize = 2;
/// ... and likewise cells that are let go, ...
pub(crate) const CELLS_PER_TURN: usize = 256;
/// ... runs of blocks that are put down in the space map, ...
const RUNS_PER_TURN: usize = 128;
/// ... and segments that are looked at for changes.
const SEGMENTS_PER_TURN: usize = 256;
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
#[must_use = "its maps may be all that still holds many nodes: let go of them in turns"]
pub(crate) struct Written {
    pub(crate) versions: Versions,
    pub(crate) segments: Vec<Arc<Bits>>,
    pub(crate) catalog: Vec<Run>,
}

impl Written {
    pub(crate) async fn let_go(self) {
        let_go(self.versions).await;
    }
}

async fn let_go(versions: Versions) {
    let roots = versions.iter().map(|(_, version)| version.root.clone()).collect();
    drop(versions);
    let_go_of(roots).await;
}

/// Lets go of maps, which may be all that still holds many nodes: their memory comes back a few at a time.
pub(crate) async fn let_go_of(roots: Vec<Slot>) {
    let mut cells: Vec<Arc<Cell>> = roots.iter().filter_map(cell_of).collect();
    drop(roots);
    let mut in_turn = 0;
    while let Some(cell) = cells.pop() {
        // Whoever else has it keeps it, and all below.
        cells.extend(Arc::into_inner(cell).map(Cell::into_children).unwrap_or_default());
        pause_after(CELLS_PER_TURN, &mut in_turn).await;
    }
}

/// Counts a step, and lets requests go first after so many of them.
async fn pause_after(steps: usize, in_turn: &mut usize) {
    *in_turn += 1;
    if *in_turn == steps {
        *in_turn = 0;
        yield_now().await;
    }
}

impl<D: Disk> Pool<D> {
    /// Writes a checkpoint, or waits for the one under way and returns.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let before = self.state.lock().checkpoints;
        let token = self.checkpointing.acquire().await;
        if self.state.lock().checkpoints > before {
            return Ok(());
        }
        let written = self.write_checkpoint().await?;
        drop(token);
        written.let_go().await;
        Ok(())
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
        let guard = Some(guard).filter(|_| !planted(Defect::CheckpointUnguarded));
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

    async fn store(&self, mut frozen: Frozen) -> Result<Written> {
        let mut fresh: Vec<Run> = Vec::new();
        self.store_nodes(&frozen, &mut fresh).await?;
        let retired = replaced(&mut frozen).await;
        let (catalog_at, catalog, segments) = self.store_catalog(&frozen, &retired, &mut fresh).await?;
        let retired = if planted(Defect::ReplacedNodesFreedEarly) {
            let mut state = self.state.lock();
            retired.into_iter().try_for_each(|run| state.space.release(run))?;
            Vec::new()
        } else {
            retired
        };
        if !planted(Defect::CheckpointBarrierOmitted) {
            self.barrier().await?;
        }
        self.store_superblocks(&frozen, catalog_at).await?;
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
            state.ring.tail_seq = frozen.journal_seq;
            let covered = BatchSeq(frozen.journal_seq.0 - 1);
            state.ring.confirmed_seq = state.ring.confirmed_seq.max(covered);
            state.checkpoints += 1;
            let generation = state.checkpoints + self.first_generation - 1;
            if let Some(shadow) = &mut state.shadow {
                shadow.generations(generation, generation, frozen.journal_seq);
            }
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
        drop(state);
        fresh.extend(&runs);
        let places = runs.iter().flat_map(|run| (0..u64::from(run.len)).map(|i| run.start + i)).collect();
        Ok((places, segments))
    }

    async fn store_nodes(&self, frozen: &Frozen, fresh: &mut Vec<Run>) -> Result<()> {
        let dirty = self.state.lock().dirty_frozen;
        let levels = dirty_nodes(&frozen.versions, dirty).await;
        debug_assert!(
            levels.iter().map(Vec::len).sum::<usize>() as u64 <= dirty,
            "room was kept for {dirty} only"
        );
        for (level, cells) in levels.into_iter().enumerate() {
            let (places, _) = self.allocate_metadata(|_| cells.len(), fresh)?;
            let at_once = if level == 0 { LEAVES_PER_WRITE } else { INNER_PER_WRITE };
            let mut cells = cells.into_iter();
            let writes = places.chunks(at_once).map(|places| {
                let cells: Vec<Arc<Cell>> = cells.by_ref().take(places.len()).collect();
                self.store_chunk(level as u8, cells, places)
            });
            join_in_turns(writes, WIDTH).await.into_iter().collect::<Result<()>>()?;
        }
        self.state.lock().dirty_frozen = 0;
        Ok(())
    }

    /// Reads leaves that replay only patched, so that they can be written whole. Of one that is damaged only what the
    /// journal says is left; everything else in it is marked as lost, so that it stays an error and never reads as
    /// something else.
    async fn read_patched(&self) -> Result<()> {
        let (guard, versions, dirty) = {
            let state = self.state.lock();
            if !state.has_patches {
                return Ok(());
            }
            (state.space.reader(), state.versions.clone(), state.dirty)
        };
        // Only replay patches: whatever is changed meanwhile, all there are can be found in this copy.
        let [leaves, ..] = dirty_nodes(&versions, dirty).await;
        let patched = |cell: &Arc<Cell>| match &*cell.lock() {
            CellState::Patched { base, .. } => Some(*base),
            _ => None,
        };
        let leaves = leaves.into_iter().filter_map(|cell| patched(&cell).map(|base| (cell, base)));
        let guard = &guard;
        let reads = leaves.map(|(cell, base)| async move {
            match self.read_node(guard, Arc::clone(&cell), base, 0).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    cell.install(base, Node::Leaf(Box::new([Entry::LOST; FANOUT])));
                    Ok(())
                }
                other => other,
            }
        });
        join_in_turns(reads, READ_WIDTH).await.into_iter().collect::<Result<()>>()?;
        self.state.lock().has_patches = false;
        let_go(versions).await;
        Ok(())
    }

    async fn store_chunk(&self, level: u8, cells: Vec<Arc<Cell>>, places: &[BlockAddr]) -> Result<()> {
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
        retired: &[Run],
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
        let segments = self.store_space(frozen, retired, fresh, total, generation).await?;
        for (_, place) in &segments {
            body.u8(place.slot);
            body.u32(place.crc);
        }
        let body = body.into_bytes();
        let places = &places;
        let writes = body.chunks(CATALOG_PAYLOAD).enumerate().map(|(i, chunk)| async move {
            let mut buf = self.disk.alloc(BLOCK_BYTES);
            buf.fill(0);
            let next = places.get(i + 1).map_or(0, |a| a.0);
            buf[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&next.to_le_bytes());
            buf[HEADER_BYTES + 8..HEADER_BYTES + 12].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
            buf[HEADER_BYTES + 16..HEADER_BYTES + 16 + chunk.len()].copy_from_slice(chunk);
            seal(&mut buf, Kind::Catalog, &self.id, places[i], generation);
            let (result, _) = self.disk.write(places[i].offset(), vec![buf]).await;
            result.map_err(|e| Error::io("writing the catalog", e))
        });
        join_in_turns(writes, WIDTH).await.into_iter().collect::<Result<()>>()?;
        Ok((places[0], catalog, segments))
    }

    /// Writes the space map of every segment that changed into the slot that the last checkpoint does not use.
    async fn store_space(
        &self,
        frozen: &Frozen,
        retired: &[Run],
        fresh: &[Run],
        total: usize,
        generation: u64,
    ) -> Result<Vec<(Arc<Bits>, StoredSlot)>> {
        let mut maps: Vec<Arc<Bits>> = frozen.space.segments.iter().map(|s| Arc::clone(&s.bits)).collect();
        // Segments added since the freeze hold nothing of it but the checkpoint's own blocks.
        let fresh_bits = Arc::new(Space::fresh_bits(&self.geometry));
        maps.resize(total, Arc::clone(&fresh_bits));
        let cleared = frozen.space.without.iter().chain(retired).map(|run| (*run, false));
        let mut in_turn = 0;
        for (run, used) in cleared.chain(fresh.iter().map(|run| (*run, true))) {
            pause_after(RUNS_PER_TURN, &mut in_turn).await;
            let Some((segment, index)) = self.geometry.locate(run.start, total) else { continue };
            let len = run.len.min(self.geometry.segment_blocks - index);
            let bits: &mut Bits = Arc::make_mut(&mut maps[segment]);
            mark(bits, index, len, used);
        }
        let stored = |i: usize| frozen.space.segments.get(i).filter(|segment| segment.place.crc != 0);
        let mut places = Vec::with_capacity(total);
        let mut changed = Vec::new();
        for (i, map) in maps.iter().enumerate() {
            pause_after(SEGMENTS_PER_TURN, &mut in_turn).await;
            match stored(i) {
                Some(segment) if Arc::ptr_eq(map, &segment.stored) || *map == segment.stored => {
                    places.push(segment.place);
                }
                before => {
                    changed.push(i);
                    let in_place = planted(Defect::SpaceMapInPlace);
                    let next = |place: StoredSlot| if in_place { place } else { place.other() };
                    places.push(before.map_or(StoredSlot::default(), |segment| next(segment.place)));
                }
            }
        }
        let (maps_now, places_now) = (&maps, &places);
        let writes = changed.iter().map(|&i| async move {
            let addr = self.geometry.segment_start(i) + u64::from(places_now[i].slot);
            let mut buf = self.disk.alloc(BLOCK_BYTES);
            buf.fill(0);
            for (word, out) in maps_now[i].iter().zip(buf[HEADER_BYTES + 16..].chunks_exact_mut(8)) {
                out.copy_from_slice(&word.to_le_bytes());
            }
            seal(&mut buf, Kind::SpaceMap, &self.id, addr, generation);
            let crc = slot_crc(&buf);
            let (result, _) = self.disk.write(addr.offset(), vec![buf]).await;
            result.map(|()| crc).map_err(|e| Error::io("writing the space map", e))
        });
        let crcs = join_in_turns(writes, READ_WIDTH).await.into_iter().collect::<Result<Vec<u32>>>()?;
        for (i, crc) in changed.into_iter().zip(crcs) {
            places[i].crc = crc;
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
        if let Some(shadow) = &mut self.state.lock().shadow {
            shadow.generations(superblock.generation - 1, superblock.generation, superblock.journal_seq);
        }
        for addr in SUPERBLOCKS {
            if addr != SUPERBLOCKS[0] && planted(Defect::SecondSuperblockForgotten) {
                break;
            }
            self.put_superblock(&superblock, addr).await?;
            if addr == SUPERBLOCKS[0] && planted(Defect::SuperblocksTogether) {
                continue;
            }
            self.barrier().await?;
        }
        Ok(())
    }

    /// Writes one copy of the superblock.
    pub(crate) async fn put_superblock(&self, superblock: &Superblock, addr: BlockAddr) -> Result<()> {
        let mut buf = self.disk.alloc(BLOCK_BYTES);
        superblock.encode(addr, &mut buf);
        let (result, _) = self.disk.write(addr.offset(), vec![buf]).await;
        result.map_err(|e| Error::io("writing a superblock", e))
    }
}

/// What the catalog keeps of a space map slot: never 0, which means that there is none.
pub(crate) fn slot_crc(block: &[u8]) -> u32 {
    crc32fast::hash(block).max(1)
}

fn superseded_addr(superseded: &Superseded) -> Option<BlockAddr> {
    match superseded {
        Superseded::Addr(addr) => Some(*addr),
        Superseded::Cell(_) if planted(Defect::ReplacedUnderWayLeaks) => None,
        // Without an address it was never part of a checkpoint.
        Superseded::Cell(cell) => cell.home().map(|ptr| ptr.addr),
    }
}

/// The blocks that a checkpoint replaces, once all of its nodes have their places.
async fn replaced(frozen: &mut Frozen) -> Vec<Run> {
    let mut runs = std::mem::take(&mut frozen.old_catalog);
    let mut in_turn = 0;
    for superseded in std::mem::take(&mut frozen.superseded) {
        superseded_addr(&superseded).into_iter().for_each(|addr| push_block(&mut runs, addr));
        drop(superseded);
        pause_after(CELLS_PER_TURN, &mut in_turn).await;
    }
    runs
}

/// Dirty nodes by level, leaves first.
type Levels = [Vec<Arc<Cell>>; ROOT_LEVEL as usize + 1];

/// Lists the dirty nodes, about `expected` of them, of a copy of the versions: each once however many trees share it.
/// Nobody changes what the copy leads to, so the walk may take its time.
async fn dirty_nodes(versions: &Versions, expected: u64) -> Levels {
    let mut levels = Levels::default();
    // To let it grow would take a turn of its own: all that is in it moves then.
    let mut seen: HashSet<usize> = HashSet::with_capacity(expected as usize);
    let mut first_seen = |cell: &Arc<Cell>| seen.insert(Arc::as_ptr(cell) as usize);
    let mut in_turn = 0;
    for (_, version) in versions.iter() {
        let mut todo: Vec<(Arc<Cell>, usize)> = Vec::new();
        let root = Some(&version.root).filter(|root| root.is_dirty()).and_then(cell_of);
        todo.extend(root.filter(&mut first_seen).map(|cell| (cell, usize::from(ROOT_LEVEL))));
        while let Some((cell, level)) = todo.pop() {
            for children in (0..FANOUT).step_by(SLOTS_AT_ONCE).map(|from| dirty_children(&cell, from)) {
                let fresh = children.into_iter().filter(&mut first_seen);
                match level {
                    1 => levels[0].extend(fresh),
                    _ => todo.extend(fresh.map(|child| (child, level - 1))),
                }
            }
            levels[level].push(cell);
            pause_after(INNER_PER_TURN, &mut in_turn).await;
        }
    }
    levels
}

/// The dirty ones of some of an inner node's children.
fn dirty_children(cell: &Cell, from: usize) -> SmallVec<[Arc<Cell>; SLOTS_AT_ONCE]> {
    let CellState::Dirty(Node::Inner(slots)) = &*cell.lock() else { return SmallVec::new() };
    slots[from..from + SLOTS_AT_ONCE].iter().filter(|slot| slot.is_dirty()).filter_map(cell_of).collect()
}

fn cell_of(slot: &Slot) -> Option<Arc<Cell>> {
    if let Child::Cell(cell) = &slot.child { Some(Arc::clone(cell)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;
    use crate::node::{LEVEL_BITS, entry_span};
    use crate::sim::{SimDisk, block_on};
    use crate::{BLOCK_SIZE, CreateOptions, Options};

    /// Runs a future and counts how many turns it takes.
    async fn turns<T>(future: impl Future<Output = T>) -> (T, usize) {
        let mut future = pin!(future);
        let mut turns = 0;
        let done = poll_fn(|cx| {
            turns += 1;
            future.as_mut().poll(cx)
        })
        .await;
        (done, turns)
    }

    /// Listing 30,000 dirty nodes was one turn of 7 ms, all of it with the root's lock in its hand.
    #[test]
    fn walks_over_many_nodes_take_many_turns_and_miss_none() {
        const INNER: u64 = 40;
        const LEAVES_EACH: u64 = 20;
        let leaves =
            (0..INNER).flat_map(|inner| (0..LEAVES_EACH).map(move |leaf| (inner << LEVEL_BITS) + leaf * 7));
        let leaves: Vec<u64> = leaves.collect();
        block_on(async move {
            let create = CreateOptions { limit: 1 << 30, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(SimDisk::file(1 << 30), *b"a pool in a test", create, Options::default())
                .await?;
            let head = pool.create_volume("v", (INNER * BLOCK_SIZE) << (2 * LEVEL_BITS), "").await?.id;
            for leaf in &leaves {
                pool.map_synthetic(0, head, leaf * entry_span(1), 1).await?;
            }
            let copy = || {
                let state = pool.state.lock();
                (state.versions.clone(), state.dirty)
            };
            pool.close().await?;
            assert_eq!(copy().1, 0);
            let (versions, _) = copy();
            for leaf in &leaves {
                pool.map_synthetic(0, head, leaf * entry_span(1), 1).await?;
            }
            // Nobody but the copy has the nodes of before any more.
            let ((), taken) = turns(let_go(versions)).await;
            assert!(taken > leaves.len() / CELLS_PER_TURN, "{taken} turns to let go");

            // From here on the two versions share their nodes, but for those on the way to one leaf.
            pool.create_snapshots(&[("v", "s")], "").await?;
            pool.map_synthetic(0, head, leaves[0] * entry_span(1) + 1, 1).await?;
            let (versions, dirty) = copy();
            let (levels, taken) = turns(dirty_nodes(&versions, dirty)).await;
            let counts = levels.each_ref().map(Vec::len);
            assert_eq!(counts, [leaves.len() + 1, INNER as usize + 1, 2, 2, 2]);
            assert_eq!(counts.iter().sum::<usize>() as u64, dirty);
            assert!(taken > INNER as usize / INNER_PER_TURN, "{taken} turns to list");
            Ok::<_, Error>(())
        })
        .expect("a pool");
    }
}
