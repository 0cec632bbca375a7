//! Which slot holds a block: a table of one word an entry, probed linearly.
//!
//! An entry is a block's address (40 bits), its slot (22 bits) and how often it was used lately (2 bits), so a hit
//! touches one cache line besides the data. Eight neighbours begin in one line.

use crate::types::BlockAddr;

/// Slots are numbered below this.
pub(super) const MAX_SLOTS: usize = 1 << SLOT_BITS;
/// Uses are not counted beyond this.
const MAX_USES: u64 = 3;

const SLOT_BITS: u32 = 22;
const USE_BITS: u32 = 2;
const ADDR_SHIFT: u32 = SLOT_BITS + USE_BITS;
/// log2 of the neighbours that begin in one cache line.
const LINE_SHIFT: u32 = 3;

/// Spreads what differs in few bits over all 64.
pub(super) fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (n ^ n >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// See the module's description. Block 0, the superblock, is never in it: a word of zeroes is a vacant place.
pub(super) struct Index {
    words: Box<[u64]>,
}

impl Index {
    /// For up to this many entries, with as much space again so that probes stay short.
    pub(super) fn new(entries: usize) -> Index {
        assert!(entries <= MAX_SLOTS, "slots have 22 bits");
        Index { words: vec![0; (2 * entries).next_power_of_two().max(16)].into_boxed_slice() }
    }

    fn mask(&self) -> usize {
        self.words.len() - 1
    }

    fn home(&self, addr: u64) -> usize {
        let line = (mix(addr >> LINE_SHIFT) >> 16) as usize;
        (line << LINE_SHIFT | addr as usize & ((1 << LINE_SHIFT) - 1)) & self.mask()
    }

    fn find(&self, addr: BlockAddr) -> Option<usize> {
        let mut at = self.home(addr.0);
        loop {
            match self.words[at] {
                0 => return None,
                word if word >> ADDR_SHIFT == addr.0 => return Some(at),
                _ => at = (at + 1) & self.mask(),
            }
        }
    }

    pub(super) fn contains(&self, addr: BlockAddr) -> bool {
        self.find(addr).is_some()
    }

    /// The block's slot; counts the use.
    pub(super) fn touch(&mut self, addr: BlockAddr) -> Option<u32> {
        let at = self.find(addr)?;
        let word = self.words[at];
        if word & MAX_USES < MAX_USES {
            self.words[at] += 1;
        }
        Some(slot_of(word))
    }

    /// How often the block was used since this was last called, at most three times, and counts half of that from now on.
    pub(super) fn age(&mut self, addr: BlockAddr) -> u64 {
        let Some(at) = self.find(addr) else { return 0 };
        let uses = self.words[at] & MAX_USES;
        self.words[at] = self.words[at] & !MAX_USES | uses >> 1;
        uses
    }

    /// Adds a block that is not there.
    pub(super) fn insert(&mut self, addr: BlockAddr, slot: u32) {
        debug_assert!(addr.0 != 0 && !self.contains(addr));
        let mut at = self.home(addr.0);
        while self.words[at] != 0 {
            at = (at + 1) & self.mask();
        }
        self.words[at] = addr.0 << ADDR_SHIFT | u64::from(slot) << USE_BITS;
    }

    /// Takes a block out and returns its slot.
    pub(super) fn remove(&mut self, addr: BlockAddr) -> Option<u32> {
        let mut hole = self.find(addr)?;
        let slot = slot_of(self.words[hole]);
        // Closes the gap: whatever was pushed past it by others moves up, so that probes may stop at a vacant place.
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask();
            let word = self.words[at];
            if word == 0 {
                break;
            }
            let probed = at.wrapping_sub(self.home(word >> ADDR_SHIFT)) & self.mask();
            if probed >= at.wrapping_sub(hole) & self.mask() {
                self.words[hole] = word;
                hole = at;
            }
        }
        self.words[hole] = 0;
        Some(slot)
    }
}

fn slot_of(word: u64) -> u32 {
    (word >> USE_BITS) as u32 & (MAX_SLOTS as u32 - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn does_what_a_map_does() {
        let mut index = Index::new(200);
        let mut model = BTreeMap::new();
        for step in 0..50_000_u64 {
            let addr = BlockAddr(1 + mix(step) % 300 + (mix(step) >> 8) % 2 * ((1 << 40) - 301));
            if model.contains_key(&addr) {
                assert_eq!(index.touch(addr), model.get(&addr).copied());
                if step % 3 == 0 {
                    assert_eq!(index.remove(addr), model.remove(&addr));
                }
            } else {
                assert_eq!(index.touch(addr), None);
                assert_eq!(index.remove(addr), None);
                if model.len() < 200 {
                    let slot = mix(step) as u32 % MAX_SLOTS as u32;
                    index.insert(addr, slot);
                    model.insert(addr, slot);
                }
            }
        }
        assert!(model.len() > 100);
        assert!(model.iter().all(|(addr, slot)| index.touch(*addr) == Some(*slot)));
    }

    #[test]
    fn uses_are_counted_up_to_three_and_halved() {
        let mut index = Index::new(4);
        let addr = BlockAddr(9);
        index.insert(addr, 5);
        assert_eq!(index.age(addr), 0);
        (0..9).for_each(|_| assert_eq!(index.touch(addr), Some(5)));
        assert_eq!([index.age(addr), index.age(addr), index.age(addr)], [3, 1, 0]);
        assert_eq!(index.touch(addr), Some(5), "the slot is untouched");
    }
}
