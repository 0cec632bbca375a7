//! The extent map's nodes: 256 entries of 16 bytes, one 4 KiB block, on disk; cells around them in memory.
//!
//! A [`Cell`] is one node's place in memory and its identity: versions that share a node share its cell. Every access
//! happens under the pool's lock, so that a cell with one owner may be changed in place and one with several is
//! copied first; the mutex inside exists because the checkpoint encodes nodes without the pool's lock.

use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::defect::{Defect, planted};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{PoolId, node_crc};
use crate::types::{BLOCK_BYTES, BlockAddr, Epoch};

/// Entries of a node.
pub(crate) const FANOUT: usize = 256;
/// Bits of a block's index that one level decides.
pub(crate) const LEVEL_BITS: u32 = 8;
/// The root's level; leaves have level 0. Five levels of 256 cover 2^40 blocks.
pub(crate) const ROOT_LEVEL: u8 = 4;

const ENTRY_BYTES: usize = 16;
const _: () = assert!(FANOUT * ENTRY_BYTES == BLOCK_BYTES);
const _: () = assert!((ROOT_LEVEL as u32 + 1) * LEVEL_BITS == 40);

/// How many blocks of a volume an entry of a node at `level` covers.
pub(crate) fn entry_span(level: u8) -> u64 {
    1 << (LEVEL_BITS * u32::from(level))
}

/// The index in a node at `level` that leads to block `lba`.
pub(crate) fn index_at(lba: u64, level: u8) -> usize {
    (lba >> (LEVEL_BITS * u32::from(level))) as usize % FANOUT
}

const KIND_HOLE: u8 = 0;
const KIND_ZERO: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_NODE: u8 = 3;
const KIND_LOST: u8 = 4;

/// What one block of a volume maps to, in the 16 bytes that stand on disk: block in bits 0-39, CRC-32 in 40-71,
/// birth in 72-103, kind in 104-111, the rest zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(u128);

impl Entry {
    pub(crate) const HOLE: Entry = Entry(0);
    pub(crate) const ZERO: Entry = Entry((KIND_ZERO as u128) << 104);
    /// Something was here, but the leaf that knew where was damaged.
    pub(crate) const LOST: Entry = Entry((KIND_LOST as u128) << 104);

    pub(crate) fn data(block: BlockAddr, crc: u32, birth: Epoch) -> Entry {
        Entry::pack(KIND_DATA, block, crc, birth)
    }

    fn pack(kind: u8, block: BlockAddr, crc: u32, birth: Epoch) -> Entry {
        debug_assert!(block.0 < 1 << 40);
        Entry(
            u128::from(block.0) | u128::from(crc) << 40 | u128::from(birth.0) << 72 | u128::from(kind) << 104,
        )
    }

    fn kind(self) -> u8 {
        (self.0 >> 104) as u8
    }

    pub(crate) fn is_data(self) -> bool {
        self.kind() == KIND_DATA
    }

    pub(crate) fn is_lost(self) -> bool {
        self.kind() == KIND_LOST
    }

    pub(crate) fn is_hole(self) -> bool {
        self.kind() == KIND_HOLE
    }

    pub(crate) fn block(self) -> BlockAddr {
        BlockAddr((self.0 & ((1 << 40) - 1)) as u64)
    }

    pub(crate) fn crc(self) -> u32 {
        (self.0 >> 40) as u32
    }

    pub(crate) fn birth(self) -> Epoch {
        Epoch((self.0 >> 72) as u32)
    }

    /// Whether inner nodes have such entries.
    fn is_inner(self) -> bool {
        matches!(self.kind(), KIND_HOLE | KIND_ZERO | KIND_NODE | KIND_LOST)
    }

    fn decode(bytes: &[u8]) -> Entry {
        Entry(u128::from_le_bytes(bytes.try_into().expect("sixteen bytes")))
    }

    pub(crate) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        self.0.to_le_bytes()
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind() {
            KIND_HOLE => f.write_str("hole"),
            KIND_ZERO => f.write_str("zero"),
            KIND_LOST => f.write_str("lost"),
            _ => write!(f, "data({}, birth {})", self.block(), self.birth()),
        }
    }
}

/// Where a node stands on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ptr {
    pub(crate) addr: BlockAddr,
    pub(crate) crc: u32,
}

/// A [`Ptr`] in 12 bytes: all inner nodes that are used stay in memory, and most of what they hold is this.
#[derive(Clone, Copy)]
pub(crate) struct PackedPtr {
    addr: [u32; 2],
    crc: u32,
}

impl From<Ptr> for PackedPtr {
    fn from(ptr: Ptr) -> PackedPtr {
        PackedPtr { addr: [ptr.addr.0 as u32, (ptr.addr.0 >> 32) as u32], crc: ptr.crc }
    }
}

impl From<PackedPtr> for Ptr {
    fn from(packed: PackedPtr) -> Ptr {
        let [low, high] = packed.addr.map(u64::from);
        Ptr { addr: BlockAddr(low | high << 32), crc: packed.crc }
    }
}

/// What an inner node's entry (or a version's root) leads to.
#[derive(Clone)]
pub(crate) enum Child {
    /// The whole range is holes ...
    Hole,
    /// ... or zeroes, ...
    Zero,
    /// ... or was lost with a node that was damaged: reading it is an error.
    Lost,
    /// A node that was not looked at since its parent was read.
    Stored(PackedPtr),
    /// A node with a place in memory.
    Cell(Arc<Cell>),
}

/// An inner node's entry, and a version's root.
#[derive(Clone)]
pub(crate) struct Slot {
    /// The epoch of the newest change below; meaningless for uniform ranges.
    pub(crate) birth: Epoch,
    pub(crate) child: Child,
}

const _: () = assert!(size_of::<Slot>() == 24);

impl Slot {
    pub(crate) const HOLE: Slot = Slot { birth: Epoch(0), child: Child::Hole };

    /// Reads a root or an inner entry of 16 bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Slot> {
        let entry = Entry::decode(bytes);
        if entry.is_inner() { Ok(Slot::of(entry)) } else { Err(unknown_kind()) }
    }

    /// What an entry of a kind that inner nodes have stands for.
    fn of(entry: Entry) -> Slot {
        let birth = entry.birth();
        match entry.kind() {
            KIND_NODE => {
                let ptr = Ptr { addr: entry.block(), crc: entry.crc() };
                Slot { birth, child: Child::Stored(ptr.into()) }
            }
            KIND_ZERO => Slot { birth, child: Child::Zero },
            KIND_LOST => Slot { birth, child: Child::Lost },
            _ => Slot { birth, child: Child::Hole },
        }
    }

    /// The 16 bytes of this entry; fails when its node has no address yet.
    pub(crate) fn encode(&self) -> Result<[u8; ENTRY_BYTES]> {
        let node = |ptr: Ptr| Entry::pack(KIND_NODE, ptr.addr, ptr.crc, self.birth);
        let entry = match &self.child {
            Child::Hole => Entry::HOLE,
            Child::Zero => Entry::ZERO,
            Child::Lost => Entry::LOST,
            Child::Stored(ptr) => node((*ptr).into()),
            Child::Cell(cell) => match cell.home() {
                Some(ptr) => node(ptr),
                None => return Err(Error::new(ErrorKind::Busy, "a map node has no address yet")),
            },
        };
        Ok(entry.to_bytes())
    }

    /// Where the node stands on disk, when it is there and unchanged.
    pub(crate) fn home(&self) -> Option<Ptr> {
        match &self.child {
            Child::Hole | Child::Zero | Child::Lost => None,
            Child::Stored(ptr) => Some((*ptr).into()),
            Child::Cell(cell) => cell.home(),
        }
    }

    /// Whether both lead to the very same node, or to the same uniform range.
    pub(crate) fn is_same(&self, other: &Slot) -> bool {
        match (&self.child, &other.child) {
            (Child::Hole, Child::Hole) | (Child::Zero, Child::Zero) => true,
            (Child::Cell(a), Child::Cell(b)) if Arc::ptr_eq(a, b) => true,
            _ => match (self.home(), other.home()) {
                (Some(a), Some(b)) => a.addr == b.addr,
                _ => false,
            },
        }
    }

    /// Whether the node was changed since it was last written.
    pub(crate) fn is_dirty(&self) -> bool {
        matches!(&self.child, Child::Cell(cell) if cell.home().is_none())
    }

    /// The entry that every block of a uniform range has.
    pub(crate) fn uniform(&self) -> Option<Entry> {
        match self.child {
            Child::Hole => Some(Entry::HOLE),
            Child::Zero => Some(Entry::ZERO),
            Child::Lost => Some(Entry::LOST),
            Child::Stored(_) | Child::Cell(_) => None,
        }
    }

    /// The cell behind a node, made for one that was only stored; `None` for a uniform range.
    pub(crate) fn cell(&mut self) -> Option<&mut Arc<Cell>> {
        if let Child::Stored(ptr) = self.child {
            self.child = Child::Cell(Cell::new(CellState::Evicted(ptr.into())));
        }
        match &mut self.child {
            Child::Cell(cell) => Some(cell),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.home(), self.uniform()) {
            (Some(ptr), _) => write!(f, "node({}, birth {})", ptr.addr, self.birth),
            (None, Some(entry)) => entry.fmt(f),
            (None, None) => f.write_str("a node that is in memory only"),
        }
    }
}

/// A leaf's entries, or an inner node's.
#[derive(Clone)]
pub(crate) enum Node {
    Leaf(Box<[Entry; FANOUT]>),
    Inner(Box<Slots>),
}

/// What a leaf takes in memory, in bytes: its entries, its cell, its place in the list of leaves, and what the allocator
/// keeps of each.
pub(crate) const LEAF_MEMORY: usize = size_of::<[Entry; FANOUT]>() + size_of::<Cell>() + 64;

/// How many inner nodes a pool has in memory. They stay once they were read, so it is the leaves that have to make room.
#[derive(Clone, Default)]
pub(crate) struct InnerNodes(Arc<AtomicUsize>);

impl InnerNodes {
    /// Bytes of memory that they take.
    pub(crate) fn memory(&self) -> usize {
        self.0.load(Ordering::Relaxed) * (size_of::<Slots>() + size_of::<Cell>() + 64)
    }
}

/// One inner node that is counted for as long as it is in memory, and its copies.
struct Counted(InnerNodes);

impl Counted {
    fn by(pool: &InnerNodes) -> Counted {
        pool.0.fetch_add(1, Ordering::Relaxed);
        Counted(pool.clone())
    }
}

impl Clone for Counted {
    fn clone(&self) -> Counted {
        Counted::by(&self.0)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The entries of an inner node, which is counted once it is part of a pool's maps in memory.
#[derive(Clone)]
pub(crate) struct Slots {
    slots: [Slot; FANOUT],
    counted: Option<Counted>,
}

impl Slots {
    pub(crate) fn new(slots: [Slot; FANOUT]) -> Box<Slots> {
        Box::new(Slots { slots, counted: None })
    }
}

impl Deref for Slots {
    type Target = [Slot; FANOUT];
    fn deref(&self) -> &[Slot; FANOUT] {
        &self.slots
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut [Slot; FANOUT] {
        &mut self.slots
    }
}

impl Node {
    /// A node whose whole range is of one kind, as `entry` is.
    pub(crate) fn uniform(level: u8, entry: Entry) -> Node {
        if level == 0 {
            return Node::Leaf(Box::new([entry; FANOUT]));
        }
        let child = || match entry.kind() {
            KIND_ZERO => Child::Zero,
            KIND_LOST => Child::Lost,
            _ => Child::Hole,
        };
        Node::Inner(Slots::new(std::array::from_fn(|_| Slot { birth: Epoch(0), child: child() })))
    }

    /// The node, counted if it is an inner one, as it becomes part of a pool's maps in memory.
    pub(crate) fn counted(mut self, pool: &InnerNodes) -> Node {
        if let Node::Inner(slots) = &mut self {
            slots.counted = Some(Counted::by(pool));
        }
        self
    }

    /// Reads a node after checking it against the entry that points to it.
    pub(crate) fn decode(pool: &PoolId, ptr: Ptr, level: u8, bytes: &[u8]) -> Result<Node> {
        if node_crc(pool, ptr.addr, level, bytes) != ptr.crc && !planted(Defect::NodeChecksumIgnored) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the map node in block {} does not match its checksum", ptr.addr),
            ));
        }
        let entries = bytes.chunks_exact(ENTRY_BYTES).map(Entry::decode);
        if level > 0 {
            // All of them before the first becomes a slot, which then needs no way out.
            if !entries.clone().all(Entry::is_inner) {
                return Err(unknown_kind());
            }
            let slots: Vec<Slot> = entries.map(Slot::of).collect();
            return Ok(Node::Inner(Slots::new(slots.try_into().map_err(|_| short_node())?)));
        }
        let entries: Vec<Entry> = entries.collect();
        if entries.iter().any(|e| e.kind() > KIND_LOST || e.kind() == KIND_NODE) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the leaf in block {} holds an unknown entry", ptr.addr),
            ));
        }
        Ok(Node::Leaf(entries.into_boxed_slice().try_into().map_err(|_| short_node())?))
    }

    /// Writes the node's 4 KiB; fails while a child has no address.
    pub(crate) fn encode(&self, out: &mut [u8]) -> Result<()> {
        match self {
            Node::Leaf(entries) => {
                for (entry, out) in entries.iter().zip(out.chunks_exact_mut(ENTRY_BYTES)) {
                    out.copy_from_slice(&entry.to_bytes());
                }
            }
            Node::Inner(slots) => {
                for (slot, out) in slots.iter().zip(out.chunks_exact_mut(ENTRY_BYTES)) {
                    out.copy_from_slice(&slot.encode()?);
                }
            }
        }
        Ok(())
    }
}

fn unknown_kind() -> Error {
    Error::new(ErrorKind::Corrupt, "an inner map entry has an unknown kind")
}

fn short_node() -> Error {
    Error::new(ErrorKind::Corrupt, "a map node is not one block long")
}

/// Entries that the journal gave for a leaf that was not read yet, by index, ascending.
pub(crate) type Patches = Vec<(u8, Entry)>;

/// What is in memory of a node.
pub(crate) enum CellState {
    /// Changed since it was last written, or never written.
    Dirty(Node),
    /// As on disk.
    Clean { ptr: Ptr, node: Node, hot: bool },
    /// On disk only.
    Evicted(Ptr),
    /// A leaf on disk with entries that the journal changed since. Counts as dirty.
    Patched { base: Ptr, patches: Patches },
}

/// One node in memory. See the module's description for who may touch it when.
pub(crate) struct Cell {
    state: Mutex<CellState>,
    /// Whether the list of leaves in memory has it, so that it is there once however often it is written.
    pub(crate) listed: AtomicBool,
}

impl Cell {
    pub(crate) fn new(state: CellState) -> Arc<Cell> {
        Arc::new(Cell { state: Mutex::new(state), listed: AtomicBool::new(false) })
    }

    pub(crate) fn lock(&self) -> parking_lot::MutexGuard<'_, CellState> {
        self.state.lock()
    }

    /// Takes back the places in memory of leaves that were let go, in some of this node's slots; not while a checkpoint
    /// encodes it.
    pub(crate) fn forget_evicted(&self, slots: Range<usize>) {
        let Some(mut state) = self.state.try_lock() else { return };
        let (CellState::Dirty(Node::Inner(all)) | CellState::Clean { node: Node::Inner(all), .. }) =
            &mut *state
        else {
            return;
        };
        for slot in &mut all[slots] {
            // Nobody else has it: no other tree, no read under way, no list.
            if let Child::Cell(cell) = &mut slot.child
                && let Some(ptr) = Arc::get_mut(cell).and_then(Cell::evicted)
            {
                slot.child = Child::Stored(ptr.into());
            }
        }
    }

    /// Where the node stands, when nothing more is known of it.
    fn evicted(&mut self) -> Option<Ptr> {
        match self.state.get_mut() {
            CellState::Evicted(ptr) => Some(*ptr),
            _ => None,
        }
    }

    /// The node's place on disk, unless it changed since.
    pub(crate) fn home(&self) -> Option<Ptr> {
        match &*self.lock() {
            CellState::Clean { ptr, .. } | CellState::Evicted(ptr) => Some(*ptr),
            CellState::Dirty(_) | CellState::Patched { .. } => None,
        }
    }

    /// The cells that this one leads to, which is no more itself.
    pub(crate) fn into_children(self) -> Vec<Arc<Cell>> {
        let (CellState::Dirty(Node::Inner(mut slots))
        | CellState::Clean { node: Node::Inner(mut slots), .. }) = self.state.into_inner()
        else {
            return Vec::new();
        };
        let children = slots.iter_mut().map(|slot| std::mem::replace(&mut slot.child, Child::Hole));
        children.filter_map(|child| if let Child::Cell(cell) = child { Some(cell) } else { None }).collect()
    }

    /// Takes in what was read from disk, unless somebody else was faster. Returns whether it is here now as it is there.
    pub(crate) fn install(&self, read_from: Ptr, mut node: Node) -> bool {
        let mut state = self.lock();
        match &mut *state {
            CellState::Evicted(ptr) if *ptr == read_from => {
                *state = CellState::Clean { ptr: read_from, node, hot: true };
                true
            }
            CellState::Patched { base, patches } if *base == read_from => {
                if let Node::Leaf(entries) = &mut node {
                    for (index, entry) in patches.iter() {
                        entries[usize::from(*index)] = *entry;
                    }
                }
                *state = CellState::Dirty(node);
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_all_their_fields_at_their_limits() {
        let entry = Entry::data(BlockAddr((1 << 40) - 1), u32::MAX, Epoch(u32::MAX));
        assert!(entry.is_data());
        assert_eq!(entry.block(), BlockAddr((1 << 40) - 1));
        assert_eq!(entry.crc(), u32::MAX);
        assert_eq!(entry.birth(), Epoch(u32::MAX));
        assert_eq!(Entry::decode(&entry.to_bytes()), entry);
    }

    #[test]
    fn a_node_reads_back_only_from_its_own_place_and_level() {
        let mut entries = Box::new([Entry::HOLE; FANOUT]);
        entries[3] = Entry::data(BlockAddr(1234), 99, Epoch(4));
        entries[255] = Entry::ZERO;
        let mut bytes = vec![0; BLOCK_BYTES];
        Node::Leaf(entries.clone()).encode(&mut bytes).unwrap();
        let pool = [1; 16];
        let ptr = Ptr { addr: BlockAddr(700), crc: node_crc(&pool, BlockAddr(700), 0, &bytes) };
        let Node::Leaf(back) = Node::decode(&pool, ptr, 0, &bytes).unwrap() else { panic!("not a leaf") };
        assert_eq!(back, entries);
        assert!(Node::decode(&pool, Ptr { addr: BlockAddr(701), ..ptr }, 0, &bytes).is_err());
        assert!(Node::decode(&pool, ptr, 1, &bytes).is_err());
        assert!(Node::decode(&[2; 16], ptr, 0, &bytes).is_err());
    }
}
