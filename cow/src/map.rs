//! The persistent radix tree: lookups, copy-on-write changes, and walks that compare two trees.
//!
//! All functions take a version's root slot and run under the pool's lock; none does I/O. One that meets a node that
//! is not in memory returns [`Missing`]: the caller lets go of the lock, loads it, and starts again. A change first
//! makes sure that all it needs is there, so that it happens whole or not at all.
//!
//! **Invariant:** above a dirty node, in every tree that contains it, all nodes are dirty.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::node::{
    Cell, CellState, Child, Entry, FANOUT, InnerNodes, Node, Patches, Ptr, ROOT_LEVEL, Slot, entry_span,
    index_at,
};
use crate::sweep::Parents;
use crate::types::{BlockAddr, Epoch, ExtentKind};

/// One past the last block that a root covers.
pub(crate) const MAP_END: u64 = entry_span_of_root();

const fn entry_span_of_root() -> u64 {
    1 << (crate::node::LEVEL_BITS * (ROOT_LEVEL as u32 + 1))
}

/// A node that has to be read from disk first.
pub(crate) struct Missing {
    pub(crate) cell: Arc<Cell>,
    pub(crate) ptr: Ptr,
    pub(crate) level: u8,
}

/// What a visit finds at a block.
pub(crate) enum View<'a> {
    /// Everything up to block `end` is as `entry` is.
    Uniform { entry: Entry, end: u64 },
    /// The leaf that maps the block.
    Leaf(&'a [Entry; FANOUT]),
}

/// The end of the range that the node behind a slot covers, for any block in it.
pub(crate) fn span_end(level: u8, at: u64) -> u64 {
    let span = entry_span(level + 1);
    (at & !(span - 1)) + span
}

/// Goes to the leaf that maps block `at`.
pub(crate) fn visit<R>(root: &mut Slot, at: u64, f: impl FnOnce(View<'_>) -> R) -> Result<R, Missing> {
    visit_below(root, ROOT_LEVEL, at..at + 1, f)
}

/// Goes to the leaf that maps the first of these blocks; where it is in a uniform range, the view covers as many more of
/// them as one node tells.
pub(crate) fn visit_range<R>(
    root: &mut Slot,
    blocks: Range<u64>,
    f: impl FnOnce(View<'_>) -> R,
) -> Result<R, Missing> {
    visit_below(root, ROOT_LEVEL, blocks, f)
}

fn visit_below<R>(
    slot: &mut Slot,
    level: u8,
    blocks: Range<u64>,
    f: impl FnOnce(View<'_>) -> R,
) -> Result<R, Missing> {
    let at = blocks.start;
    if let Some(entry) = slot.uniform() {
        return Ok(f(View::Uniform { entry, end: span_end(level, at) }));
    }
    let cell = slot.cell().expect("not uniform");
    let mut state = cell.lock();
    match &mut *state {
        CellState::Evicted(ptr) | CellState::Patched { base: ptr, .. } => {
            Err(Missing { ptr: *ptr, level, cell: Arc::clone(cell) })
        }
        CellState::Dirty(node) => visit_node(node, level, blocks, f),
        CellState::Clean { node, hot, .. } => {
            *hot = true;
            visit_node(node, level, blocks, f)
        }
    }
}

fn visit_node<R>(
    node: &mut Node,
    level: u8,
    blocks: Range<u64>,
    f: impl FnOnce(View<'_>) -> R,
) -> Result<R, Missing> {
    let slots = match node {
        Node::Leaf(entries) => return Ok(f(View::Leaf(entries))),
        Node::Inner(slots) => slots,
    };
    let index = index_at(blocks.start, level);
    let Some(entry) = slots[index].uniform() else {
        return visit_below(&mut slots[index], level - 1, blocks, f);
    };
    let mut end = span_end(level - 1, blocks.start);
    let mut alike = slots[index + 1..].iter().take_while(|slot| slot.uniform() == Some(entry));
    while end < blocks.end && alike.next().is_some() {
        end += entry_span(level);
    }
    Ok(f(View::Uniform { entry, end }))
}

/// Makes sure that the way to block `at`, and its leaf unless `replaying`, is in memory.
fn probe(root: &mut Slot, at: u64, replaying: bool) -> Result<(), Missing> {
    match visit(root, at, |_| ()) {
        Err(missing) if replaying && missing.level == 0 => Ok(()),
        other => other,
    }
}

/// A node that a head replaced, to be given back with the next checkpoint.
pub(crate) enum Superseded {
    /// It stands here.
    Addr(BlockAddr),
    /// It had no address when it was replaced; if a checkpoint under way writes it, it has one in the end.
    Cell(Arc<Cell>),
}

/// What a change to a head's map needs to know and leaves behind.
pub(crate) struct Change<'a> {
    /// The pool's epoch: the birth of all that is written now.
    pub(crate) epoch: Epoch,
    /// What was born after this is the head's alone, and freed when replaced.
    pub(crate) floor: Epoch,
    /// Leaves that are not in memory get patches instead of being read; their entries' frees are in the journal.
    pub(crate) replaying: bool,
    pub(crate) superseded: &'a mut Vec<Superseded>,
    /// Counts nodes that became dirty.
    pub(crate) dirtied: &'a mut u64,
    pub(crate) inner: &'a InnerNodes,
    pub(crate) parents: &'a mut Parents,
}

impl Change<'_> {
    /// Notes that this head no longer uses a node; `shared` tells whether another tree still holds its cell.
    fn supersede(&mut self, birth: Epoch, cell: &Arc<Cell>, home: Option<Ptr>, shared: bool) {
        if birth <= self.floor {
            return;
        }
        match home {
            Some(ptr) => self.superseded.push(Superseded::Addr(ptr.addr)),
            None if shared => self.superseded.push(Superseded::Cell(Arc::clone(cell))),
            None => {}
        }
    }

    /// Makes the node behind `slot` dirty and this tree's own. What it needs was probed.
    fn own<'s>(&mut self, slot: &'s mut Slot, level: u8) -> &'s Arc<Cell> {
        let birth = std::mem::replace(&mut slot.birth, self.epoch);
        if let Some(entry) = slot.uniform() {
            *self.dirtied += 1;
            let cell = Cell::new(CellState::Dirty(Node::uniform(level, entry).counted(self.inner)));
            self.note_parent(&cell, level);
            slot.child = Child::Cell(cell);
        }
        let cell = slot.cell().expect("not uniform");
        let shared = Arc::strong_count(cell) > 1;
        let mut state = cell.lock();
        let (fresh, home) = match &mut *state {
            CellState::Dirty(_) | CellState::Patched { .. } if !shared => {
                drop(state);
                return cell;
            }
            CellState::Dirty(node) => (CellState::Dirty(node.clone()), None),
            CellState::Patched { base, patches } => {
                (CellState::Patched { base: *base, patches: patches.clone() }, None)
            }
            CellState::Clean { ptr, node, .. } => {
                let ptr = *ptr;
                let node = node.clone();
                (CellState::Dirty(node), Some(ptr))
            }
            CellState::Evicted(ptr) => {
                debug_assert!(self.replaying && level == 0, "probed before");
                (CellState::Patched { base: *ptr, patches: Patches::new() }, Some(*ptr))
            }
        };
        *self.dirtied += 1;
        if shared {
            drop(state);
            self.supersede(birth, cell, home, true);
            *cell = Cell::new(fresh);
            self.note_parent(cell, level);
        } else {
            *state = fresh;
            drop(state);
            self.supersede(birth, cell, home, false);
        }
        cell
    }

    fn note_parent(&mut self, cell: &Arc<Cell>, level: u8) {
        if level == 1 {
            self.parents.add(cell);
        }
    }

    /// Replaces the whole range behind `slot` by holes or zeroes.
    fn drop_node(&mut self, slot: &mut Slot, zero: bool) {
        if let Some(cell) = slot.cell() {
            let shared = Arc::strong_count(cell) > 1;
            let home = cell.home();
            let cell = Arc::clone(cell);
            self.supersede(slot.birth, &cell, home, shared);
        }
        slot.birth = self.epoch;
        slot.child = if zero { Child::Zero } else { Child::Hole };
    }
}

/// A leaf being changed: all of its entries, or only what replay learns of them.
enum LeafMut<'a> {
    Entries(&'a mut [Entry; FANOUT]),
    Patches(&'a mut Patches),
}

impl LeafMut<'_> {
    /// Sets one entry and returns the old one where it is known.
    fn set(&mut self, index: usize, entry: Entry) -> Option<Entry> {
        match self {
            LeafMut::Entries(entries) => Some(std::mem::replace(&mut entries[index], entry)),
            LeafMut::Patches(patches) => {
                let key = index as u8;
                match patches.binary_search_by_key(&key, |(i, _)| *i) {
                    Ok(at) => patches[at].1 = entry,
                    Err(at) => patches.insert(at, (key, entry)),
                }
                None
            }
        }
    }
}

fn leaf_mut<R>(
    slot: &mut Slot,
    level: u8,
    at: u64,
    change: &mut Change<'_>,
    f: impl FnOnce(LeafMut<'_>) -> R,
) -> R {
    let cell = change.own(slot, level);
    let mut state = cell.lock();
    match &mut *state {
        CellState::Dirty(Node::Inner(slots)) => {
            leaf_mut(&mut slots[index_at(at, level)], level - 1, at, change, f)
        }
        CellState::Dirty(Node::Leaf(entries)) => f(LeafMut::Entries(entries)),
        CellState::Patched { patches, .. } => f(LeafMut::Patches(patches)),
        CellState::Clean { .. } | CellState::Evicted(_) => unreachable!("own() leaves a dirty node"),
    }
}

/// Checks that [`set_entries`] would find all it needs.
pub(crate) fn prepare(root: &mut Slot, at: u64) -> Result<(), Missing> {
    probe(root, at, false)
}

/// Maps consecutive blocks of one leaf from block `at` on; tells `old` of each entry replaced that is known.
pub(crate) fn set_entries(
    root: &mut Slot,
    at: u64,
    entries: &[Entry],
    change: &mut Change<'_>,
    mut old: impl FnMut(Entry),
) -> Result<(), Missing> {
    debug_assert!(index_at(at, 0) + entries.len() <= FANOUT);
    probe(root, at, change.replaying)?;
    leaf_mut(root, ROOT_LEVEL, at, change, |mut leaf| {
        for (i, entry) in entries.iter().enumerate() {
            if let Some(was) = leaf.set(index_at(at, 0) + i, *entry) {
                old(was);
            }
        }
    });
    Ok(())
}

/// Makes holes or zeroes from block `at` towards `end`, as far as one leaf or one uniform range goes, and returns
/// where it stopped; tells `old` of each entry replaced that is known.
pub(crate) fn fill_step(
    root: &mut Slot,
    at: u64,
    end: u64,
    zero: bool,
    change: &mut Change<'_>,
    mut old: impl FnMut(Entry),
) -> Result<u64, Missing> {
    probe(root, at, change.replaying)?;
    Ok(fill_below(root, ROOT_LEVEL, at, end, zero, change, &mut old))
}

fn fill_below(
    slot: &mut Slot,
    level: u8,
    at: u64,
    end: u64,
    zero: bool,
    change: &mut Change<'_>,
    old: &mut impl FnMut(Entry),
) -> u64 {
    let stop = span_end(level, at);
    let whole = at == stop - entry_span(level + 1) && end >= stop;
    let until = stop.min(end);
    match slot.child {
        Child::Hole if !zero => return until,
        Child::Zero if zero => return until,
        Child::Hole | Child::Zero | Child::Lost if whole => {
            change.drop_node(slot, zero);
            return until;
        }
        _ => {}
    }
    if level == 0 && whole {
        if let Child::Cell(cell) = &slot.child
            && let CellState::Dirty(Node::Leaf(entries)) | CellState::Clean { node: Node::Leaf(entries), .. } =
                &*cell.lock()
        {
            entries.iter().for_each(|entry| old(*entry));
        }
        change.drop_node(slot, zero);
        return until;
    }
    let filling = if zero { Entry::ZERO } else { Entry::HOLE };
    let cell = change.own(slot, level);
    let mut state = cell.lock();
    let (next, emptied) = match &mut *state {
        CellState::Dirty(Node::Inner(slots)) => {
            let next = fill_below(&mut slots[index_at(at, level)], level - 1, at, end, zero, change, old);
            let emptied = next == stop
                && slots
                    .iter()
                    .all(|s| matches!((&s.child, zero), (Child::Hole, false) | (Child::Zero, true)));
            (next, emptied)
        }
        CellState::Dirty(Node::Leaf(entries)) => {
            for at in at..until {
                old(std::mem::replace(&mut entries[index_at(at, 0)], filling));
            }
            (until, entries.iter().all(|e| *e == filling))
        }
        CellState::Patched { patches, .. } => {
            let mut leaf = LeafMut::Patches(patches);
            for at in at..until {
                leaf.set(index_at(at, 0), filling);
            }
            (until, false)
        }
        CellState::Clean { .. } | CellState::Evicted(_) => unreachable!("own() leaves a dirty node"),
    };
    drop(state);
    if emptied {
        change.drop_node(slot, zero);
    }
    next
}

/// Nodes on disk, each with its level.
pub(crate) type Nodes = SmallVec<[(Ptr, u8); 2]>;

/// The leaf on a way: where it stands, or what it holds when that is in memory only.
pub(crate) enum WayLeaf {
    Stored(Ptr),
    Known(Box<[Entry; FANOUT]>),
}

/// What stands on the way to a block.
pub(crate) struct Way {
    /// Inner nodes on disk that begin with the block.
    pub(crate) nodes: Nodes,
    /// The leaf; none where all is uniform or older than asked for, ...
    pub(crate) leaf: Option<WayLeaf>,
    /// ... up to this block.
    pub(crate) end: u64,
}

/// Looks what of the way to block `at` was born after `floor`. Leaves are not read.
pub(crate) fn way(root: &mut Slot, at: u64, floor: Epoch) -> Result<Way, Missing> {
    let mut found = Way { nodes: Nodes::new(), leaf: None, end: 0 };
    way_below(root, ROOT_LEVEL, at, floor, &mut found)?;
    Ok(found)
}

fn way_below(slot: &mut Slot, level: u8, at: u64, floor: Epoch, found: &mut Way) -> Result<(), Missing> {
    found.end = span_end(level, at);
    if slot.uniform().is_some() || slot.birth <= floor {
        return Ok(());
    }
    let home = slot.home();
    if let Some(ptr) = home.filter(|_| level == 0) {
        found.leaf = Some(WayLeaf::Stored(ptr));
        return Ok(());
    }
    let begins = at.is_multiple_of(entry_span(level + 1));
    found.nodes.extend(home.filter(|_| begins).map(|ptr| (ptr, level)));
    let cell = slot.cell().expect("not uniform");
    match &mut *cell.lock() {
        CellState::Evicted(ptr) | CellState::Patched { base: ptr, .. } => {
            Err(Missing { ptr: *ptr, level, cell: Arc::clone(cell) })
        }
        CellState::Dirty(node) | CellState::Clean { node, .. } => match node {
            Node::Leaf(entries) => {
                found.leaf = Some(WayLeaf::Known(entries.clone()));
                Ok(())
            }
            Node::Inner(slots) => way_below(&mut slots[index_at(at, level)], level - 1, at, floor, found),
        },
    }
}

/// Marks all of the node at `level` that covers block `at` as lost. Starting again after a missing node repeats harmlessly
/// what was done.
pub(crate) fn lose(root: &mut Slot, at: u64, level: u8, change: &mut Change<'_>) -> Result<(), Missing> {
    lose_below(root, ROOT_LEVEL, at, level, change)
}

fn lose_below(slot: &mut Slot, level: u8, at: u64, lost: u8, change: &mut Change<'_>) -> Result<(), Missing> {
    if level == lost {
        slot.birth = change.epoch;
        slot.child = Child::Lost;
        return Ok(());
    }
    let Some(cell) = slot.cell() else { return Ok(()) };
    if let CellState::Evicted(ptr) = &*cell.lock() {
        return Err(Missing { ptr: *ptr, level, cell: Arc::clone(cell) });
    }
    let cell = change.own(slot, level);
    match &mut *cell.lock() {
        CellState::Dirty(Node::Inner(slots)) => {
            lose_below(&mut slots[index_at(at, level)], level - 1, at, lost, change)
        }
        _ => unreachable!("own() leaves a dirty node, and leaves lead nowhere"),
    }
}

/// The kind of an entry as users see it.
pub(crate) fn kind_of(entry: Entry) -> ExtentKind {
    if entry.is_data() || entry.is_lost() {
        ExtentKind::Data
    } else if entry.is_hole() {
        ExtentKind::Hole
    } else {
        ExtentKind::Zero
    }
}

/// One step of comparing tree `a` with tree `b`.
pub(crate) struct Comparison {
    /// The step covers everything up to here.
    pub(crate) until: u64,
    /// The entries of both where they may differ, from the step's start rounded down to a leaf; `None` where both share all.
    pub(crate) leaves: Option<Box<(LeafView, LeafView)>>,
    /// Nodes of `a`, not shared with `b` and born after the floor, whose range ends in this step.
    pub(crate) finished: Vec<BlockAddr>,
}

/// What one side of a comparison holds in a range.
pub(crate) enum LeafView {
    /// All of it holes or zeroes.
    Uniform(Entry),
    /// A leaf's entries.
    Entries(Box<[Entry; FANOUT]>),
}

impl LeafView {
    pub(crate) fn entry(&self, index: usize) -> Entry {
        match self {
            LeafView::Uniform(entry) => *entry,
            LeafView::Entries(entries) => entries[index],
        }
    }
}

/// What of a deleted version `a` is of no interest when its space is given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited {
    /// What was not born after this is its predecessors'.
    pub(crate) floor: Epoch,
    /// Others descend from `b`. What `b` has lost they may have, so it stays in use: it is not known any more.
    pub(crate) has_heirs: bool,
}

/// Compares from block `at`: skips what both trees share and, of a deleted version, what is inherited.
pub(crate) fn compare(
    a: &mut Slot,
    b: &mut Slot,
    at: u64,
    inherited: Option<Inherited>,
) -> Result<Comparison, Missing> {
    compare_below(a, b, ROOT_LEVEL, at, inherited)
}

fn compare_below(
    a: &mut Slot,
    b: &mut Slot,
    level: u8,
    at: u64,
    inherited: Option<Inherited>,
) -> Result<Comparison, Missing> {
    let until = span_end(level, at);
    let pruned = inherited.is_some_and(|Inherited { floor, has_heirs }| {
        let lost = has_heirs && b.uniform().is_some_and(Entry::is_lost);
        a.uniform().is_some() || a.birth <= floor || lost
    });
    if pruned || a.is_same(b) {
        return Ok(Comparison { until, leaves: None, finished: Vec::new() });
    }
    if let (Some(a), Some(b)) = (a.uniform(), b.uniform()) {
        let leaves = Some(Box::new((LeafView::Uniform(a), LeafView::Uniform(b))));
        return Ok(Comparison { until, leaves, finished: Vec::new() });
    }
    let home = a.home();
    let mut result = with_child(a, level, at, |a| {
        with_child(b, level, at, |b| match (a, b) {
            (Below::Slot(a), Below::Slot(b)) => compare_below(a, b, level - 1, at, inherited),
            (Below::Leaf(a), Below::Leaf(b)) => {
                Ok(Comparison { until, leaves: Some(Box::new((a, b))), finished: Vec::new() })
            }
            _ => unreachable!("both sides are at the same level"),
        })?
    })??;
    if result.until == until
        && let Some(home) = home
    {
        result.finished.push(home.addr);
    }
    Ok(result)
}

enum Below<'a> {
    Slot(&'a mut Slot),
    Leaf(LeafView),
}

/// Gives `f` what stands below a slot on the way to block `at`; a uniform range stands for itself.
fn with_child<R>(slot: &mut Slot, level: u8, at: u64, f: impl FnOnce(Below<'_>) -> R) -> Result<R, Missing> {
    if let Some(entry) = slot.uniform() {
        if level == 0 {
            return Ok(f(Below::Leaf(LeafView::Uniform(entry))));
        }
        return Ok(f(Below::Slot(&mut slot.clone())));
    }
    let cell = slot.cell().expect("not uniform");
    let mut state = cell.lock();
    match &mut *state {
        CellState::Evicted(ptr) | CellState::Patched { base: ptr, .. } => {
            Err(Missing { ptr: *ptr, level, cell: Arc::clone(cell) })
        }
        CellState::Dirty(node) | CellState::Clean { node, .. } => Ok(f(match node {
            Node::Leaf(entries) => Below::Leaf(LeafView::Entries(entries.clone())),
            Node::Inner(slots) => Below::Slot(&mut slots[index_at(at, level)]),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::BlockAddr;

    struct Head {
        root: Slot,
        epoch: u32,
        floor: u32,
        superseded: Vec<Superseded>,
        dirtied: u64,
        inner: InnerNodes,
        parents: Parents,
    }

    impl Head {
        fn new() -> Head {
            Head {
                root: Slot::HOLE,
                epoch: 1,
                floor: 0,
                superseded: Vec::new(),
                dirtied: 0,
                inner: InnerNodes::default(),
                parents: Parents::default(),
            }
        }

        fn change<R>(&mut self, f: impl FnOnce(&mut Slot, &mut Change<'_>) -> R) -> R {
            let mut change = Change {
                epoch: Epoch(self.epoch),
                floor: Epoch(self.floor),
                replaying: false,
                superseded: &mut self.superseded,
                dirtied: &mut self.dirtied,
                inner: &self.inner,
                parents: &mut self.parents,
            };
            f(&mut self.root, &mut change)
        }

        fn write(&mut self, at: u64, block: u64) -> Vec<Entry> {
            let mut old = Vec::new();
            let entry = Entry::data(BlockAddr(block), 0, Epoch(self.epoch));
            let done = self.change(|root, change| set_entries(root, at, &[entry], change, |e| old.push(e)));
            assert!(done.is_ok());
            old
        }

        fn read(&mut self, at: u64) -> Entry {
            look(&mut self.root, at)
        }
    }

    fn look(root: &mut Slot, at: u64) -> Entry {
        let seen = visit(root, at, |view| match view {
            View::Uniform { entry, .. } => entry,
            View::Leaf(entries) => entries[index_at(at, 0)],
        });
        seen.ok().expect("in memory")
    }

    #[test]
    fn a_fork_keeps_what_the_head_overwrites() {
        let mut head = Head::new();
        head.write(5, 100);
        head.write(1 << 30, 101);
        let mut snapshot = head.root.clone();
        head.floor = 1;
        head.epoch = 2;
        let old = head.write(5, 200);
        assert_eq!(old[0].block(), BlockAddr(100));
        assert_eq!(look(&mut snapshot, 5).block(), BlockAddr(100));
        assert_eq!(head.read(5).block(), BlockAddr(200));
        assert_eq!(head.read(1 << 30).block(), BlockAddr(101));
        assert!(head.superseded.is_empty(), "what the snapshot shares is not the head's to free");
    }

    #[test]
    fn filling_goes_over_holes_in_few_steps_and_drops_emptied_nodes() {
        let mut head = Head::new();
        head.write(1000, 7);
        let mut at = 0;
        let mut steps = 0;
        let mut freed = Vec::new();
        while at < MAP_END {
            at = head.change(|root, change| {
                fill_step(root, at, MAP_END, false, change, |e| {
                    if e.is_data() {
                        freed.push(e.block());
                    }
                })
                .ok()
                .expect("in memory")
            });
            steps += 1;
        }
        assert_eq!(freed, vec![BlockAddr(7)]);
        assert!(matches!(head.root.child, Child::Hole), "nothing is left, so no node is");
        assert!(steps <= 5 * FANOUT, "{steps} steps");
    }

    #[test]
    fn comparing_finds_exactly_what_differs() {
        let mut head = Head::new();
        for at in [0, 300, 70_000, 1 << 33] {
            head.write(at, at + 10);
        }
        let mut before = head.root.clone();
        head.epoch = 2;
        head.floor = 1;
        head.write(300, 5);
        head.write(1 << 33, 6);
        let mut at = 0;
        let mut differing = Vec::new();
        while at < MAP_END {
            let step = compare(&mut before, &mut head.root, at, None).ok().expect("in memory");
            if let Some(leaves) = step.leaves {
                let base = at & !(FANOUT as u64 - 1);
                differing.extend(
                    (0..FANOUT).filter(|i| leaves.0.entry(*i) != leaves.1.entry(*i)).map(|i| base + i as u64),
                );
            }
            at = step.until;
        }
        assert_eq!(differing, vec![300, 1 << 33]);
    }

    #[test]
    fn replay_patches_a_leaf_that_is_not_in_memory() {
        let stored = Ptr { addr: BlockAddr(900), crc: 1 };
        let mut head = Head::new();
        head.root = Slot { birth: Epoch(1), child: Child::Stored(stored.into()) };
        for level in 1..=ROOT_LEVEL {
            let mut node = Node::uniform(level, Entry::HOLE);
            let Node::Inner(slots) = &mut node else { panic!("inner") };
            slots[0] = head.root;
            head.root = Slot { birth: Epoch(1), child: Child::Cell(Cell::new(CellState::Dirty(node))) };
        }
        let mut change = Change {
            epoch: Epoch(2),
            floor: Epoch(0),
            replaying: true,
            superseded: &mut head.superseded,
            dirtied: &mut head.dirtied,
            inner: &head.inner,
            parents: &mut head.parents,
        };
        let entry = Entry::data(BlockAddr(60), 0, Epoch(2));
        assert!(set_entries(&mut head.root, 1, &[entry], &mut change, |_| panic!("unknown")).is_ok());
        assert!(visit(&mut head.root, 1, |_| ()).is_err_and(|m| m.ptr == stored && m.level == 0));
        assert!(matches!(head.superseded[..], [Superseded::Addr(BlockAddr(900))]));
    }
}
