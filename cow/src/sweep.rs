//! Giving back the places of leaves that were let go.
//!
//! A leaf that leaves memory keeps its cell, a hundred bytes, in the node above: nobody knows the way there from the leaf.
//! With all leaves that were ever read that would be 100 MiB in a volume of 1 TiB. So the nodes above leaves stand in a
//! ring, and each leaf that is let go makes a hand go on over a few of their slots.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::node::{Cell, FANOUT};

/// Slots that the hand goes over for each leaf that is let go. It comes round before the leaves without memory that have
/// a cell are more than one of so many slots of all nodes in the ring.
pub(crate) const SLOTS_PER_LEAF: usize = 16;
/// Nodes that are gone which one step of the hand may find.
const MOST_GONE: usize = 16;

const _: () = assert!(FANOUT.is_multiple_of(SLOTS_PER_LEAF));

/// The nodes right above leaves that are in memory, and how far the hand got. All of it happens under the pool's lock.
#[derive(Default)]
pub(crate) struct Parents {
    /// The one that the hand is on first.
    ring: VecDeque<Weak<Cell>>,
    next_slot: usize,
}

impl Parents {
    /// Adds a node that is new in memory.
    pub(crate) fn add(&mut self, parent: &Arc<Cell>) {
        if self.ring.len() == self.ring.capacity() {
            // Those that are gone leave now; as much room again makes it a long time until the next look at all.
            self.ring.retain(|parent| parent.strong_count() > 0);
            self.ring.reserve(self.ring.len().max(FANOUT));
        }
        self.ring.push_back(Arc::downgrade(parent));
    }

    /// Goes on over the slots of one node.
    pub(crate) fn sweep(&mut self) {
        for _ in 0..MOST_GONE {
            let Some(first) = self.ring.front() else { return };
            let parent = first.upgrade();
            if let Some(parent) = &parent {
                parent.forget_evicted(self.next_slot..self.next_slot + SLOTS_PER_LEAF);
                self.next_slot += SLOTS_PER_LEAF;
                if self.next_slot < FANOUT {
                    return;
                }
            }
            self.next_slot = 0;
            let first = self.ring.pop_front();
            if parent.is_some() {
                self.ring.extend(first);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{CellState, Child, LEVEL_BITS, Node, Slot};
    use crate::sim::{SimDisk, block_on};
    use crate::{BLOCK_SIZE, CreateOptions, Error, Options, Pool};

    /// Leaves without memory that have a cell nevertheless.
    fn places_kept(slot: &Slot, level: u8) -> usize {
        let Child::Cell(cell) = &slot.child else { return 0 };
        match &*cell.lock() {
            CellState::Evicted(_) => usize::from(level == 0),
            CellState::Dirty(Node::Inner(slots)) | CellState::Clean { node: Node::Inner(slots), .. } => {
                slots.iter().map(|slot| places_kept(slot, level - 1)).sum()
            }
            _ => 0,
        }
    }

    /// Only misses nearby gave places back, so a scan, which comes to a leaf's neighbours before the leaf is let go, left
    /// one for each leaf.
    #[test]
    fn scans_and_writes_leave_few_places_without_memory() {
        const LEAVES: u64 = 3000;
        const TIGHT: Options =
            Options { lanes: 1, map_cache_bytes: 2 << 20, read_cache_bytes: 0, batch_bytes: usize::MAX };
        let disk = SimDisk::file(512 << 20);
        block_on(async move {
            let create = CreateOptions { limit: 512 << 20, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(disk.clone(), *b"a pool in a test", create, TIGHT).await?;
            let head = pool.create_volume("v", LEAVES << LEVEL_BITS << 12, "").await?.id;
            let kept = |pool: &Pool<SimDisk>| {
                let mut state = pool.state.lock();
                let root = &state.any_version(head).expect("it is there").root;
                places_kept(root, crate::node::ROOT_LEVEL)
            };
            // While the hand goes round all nodes once, so many leaves can be let go behind it.
            let most = LEAVES.next_multiple_of(256) as usize / SLOTS_PER_LEAF;
            for round in 0..2 {
                for leaf in 0..LEAVES {
                    pool.map_synthetic(0, head, (leaf << LEVEL_BITS) + round, 1).await?;
                }
                pool.close().await?;
                assert!(kept(&pool) <= most, "{} places after writing, round {round}", kept(&pool));
            }
            drop(pool);
            let pool = Pool::open(disk, TIGHT).await?;
            for pass in 0..3 {
                for leaf in 0..LEAVES {
                    pool.read(head, (leaf << LEVEL_BITS) * BLOCK_SIZE, 4096).await?;
                }
                assert!(kept(&pool) <= most, "{} places after pass {pass}", kept(&pool));
            }
            Ok::<_, Error>(())
        })
        .expect("a pool");
    }
}
