//! One shard of the cache: slots for blocks, and which of them stay (S3-FIFO).
//!
//! A new block waits in a short queue. Reaching its end, it moves to the long queue if it was used again, else it leaves
//! and only a trace of it stays: if it comes back soon, it goes to the long queue at once. There, blocks in use are sent
//! round again. So what is read once passes through without pushing out what is read often.
//!
//! Slots are cut from chunks, which are taken as they are needed and kept: freshly mapped memory costs more than all
//! the rest of a cached read, so slots are used again rather than freed.

use super::Memory;
use super::index::{Index, MAX_SLOTS, mix};
use crate::types::{BLOCK_BYTES, BlockAddr};

/// Slots of a chunk: 2 MiB, so that one can be a huge page.
const CHUNK_SLOTS: usize = 512;
/// The short queue's part of all slots.
const SHORT_PART: usize = 10;
/// Blocks that eviction looks at: it happens under the shard's lock.
const MOST_LOOKS: usize = 64;
/// No slot.
const NONE: u32 = u32::MAX;

/// What is known of a slot besides its bytes. Slots in use and free ones are linked to their neighbours.
struct Slot {
    addr: BlockAddr,
    previous: u32,
    next: u32,
    long: bool,
}

/// A list of slots, oldest first.
#[derive(Clone, Copy)]
struct Queue {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Queue {
    const EMPTY: Queue = Queue { oldest: NONE, newest: NONE, len: 0 };

    fn push(&mut self, slots: &mut [Slot], slot: u32) {
        let links = &mut slots[slot as usize];
        (links.previous, links.next) = (self.newest, NONE);
        match self.newest {
            NONE => self.oldest = slot,
            newest => slots[newest as usize].next = slot,
        }
        self.newest = slot;
        self.len += 1;
    }

    fn unlink(&mut self, slots: &mut [Slot], slot: u32) {
        let Slot { previous, next, .. } = slots[slot as usize];
        match previous {
            NONE => self.oldest = next,
            previous => slots[previous as usize].next = next,
        }
        match next {
            NONE => self.newest = previous,
            next => slots[next as usize].previous = previous,
        }
        self.len -= 1;
    }
}

/// Traces of blocks that left lately: a newer one takes the place of an older one.
struct Traces {
    marks: Box<[u32]>,
}

impl Traces {
    fn new(slots: usize) -> Traces {
        Traces { marks: vec![0; (2 * slots).next_power_of_two()].into_boxed_slice() }
    }

    fn place(&self, addr: BlockAddr) -> (usize, u32) {
        let hash = mix(addr.0);
        // Never zero, which stands for none.
        (hash as usize & (self.marks.len() - 1), (hash >> 32) as u32 | 1)
    }

    fn leave(&mut self, addr: BlockAddr) {
        let (at, mark) = self.place(addr);
        self.marks[at] = mark;
    }

    fn take(&mut self, addr: BlockAddr) -> bool {
        let (at, mark) = self.place(addr);
        let found = self.marks[at] == mark;
        if found {
            self.marks[at] = 0;
        }
        found
    }
}

/// See the module's description.
pub(super) struct Shard {
    /// Slots that may be taken in all.
    capacity: usize,
    index: Index,
    slots: Vec<Slot>,
    chunks: Vec<Memory>,
    /// Slots that hold nothing.
    free: Queue,
    short: Queue,
    long: Queue,
    traces: Traces,
}

impl Shard {
    pub(super) fn new(capacity: usize) -> Shard {
        let capacity = capacity.min(MAX_SLOTS);
        Shard {
            capacity,
            index: Index::new(capacity),
            slots: Vec::new(),
            chunks: Vec::new(),
            free: Queue::EMPTY,
            short: Queue::EMPTY,
            long: Queue::EMPTY,
            traces: Traces::new(capacity),
        }
    }

    fn bytes(&mut self, slot: u32) -> &mut [u8] {
        let (chunk, at) = (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS);
        &mut self.chunks[chunk][at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES]
    }

    /// Copies a block out if it is here.
    pub(super) fn get(&mut self, addr: BlockAddr, out: &mut [u8]) -> bool {
        let Some(slot) = self.index.touch(addr) else { return false };
        out.copy_from_slice(self.bytes(slot));
        true
    }

    /// Keeps a block. Of a scan through a full shard only what was here not long ago is worth a copy.
    pub(super) fn add(
        &mut self,
        addr: BlockAddr,
        block: &[u8],
        is_scan: bool,
        memory: &impl Fn(usize) -> Memory,
    ) {
        if self.index.contains(addr) {
            return;
        }
        let long = self.traces.take(addr);
        let slot = match self.vacant(memory) {
            Some(slot) => slot,
            None if is_scan && !long => return self.traces.leave(addr),
            None => self.evict(),
        };
        self.bytes(slot).copy_from_slice(block);
        let known = &mut self.slots[slot as usize];
        (known.addr, known.long) = (addr, long);
        let queue = if long { &mut self.long } else { &mut self.short };
        queue.push(&mut self.slots, slot);
        self.index.insert(addr, slot);
    }

    pub(super) fn forget(&mut self, addr: BlockAddr) {
        let Some(slot) = self.index.remove(addr) else { return };
        self.unlink(slot);
        self.free.push(&mut self.slots, slot);
    }

    fn unlink(&mut self, slot: u32) {
        let queue = if self.slots[slot as usize].long { &mut self.long } else { &mut self.short };
        queue.unlink(&mut self.slots, slot);
    }

    /// A slot that holds nothing, of memory that is there or may still be taken.
    fn vacant(&mut self, memory: &impl Fn(usize) -> Memory) -> Option<u32> {
        if self.free.oldest != NONE {
            let slot = self.free.oldest;
            self.free.unlink(&mut self.slots, slot);
            return Some(slot);
        }
        let used = self.slots.len();
        if used == self.capacity {
            return None;
        }
        if used.is_multiple_of(CHUNK_SLOTS) {
            self.chunks.push(memory(CHUNK_SLOTS.min(self.capacity - used) * BLOCK_BYTES));
        }
        self.slots.push(Slot { addr: BlockAddr(0), previous: NONE, next: NONE, long: false });
        Some(used as u32)
    }

    /// Makes the block that is worth least leave its slot: the first that was not used lately, or, where many in a row
    /// are in use, the one of them that was used least. There is one: every slot is in one of the queues.
    fn evict(&mut self) -> u32 {
        let mut least: Option<(u64, u32)> = None;
        for _ in 0..MOST_LOOKS {
            let from_short = self.short.len > self.capacity / SHORT_PART || self.long.len == 0;
            let slot = if from_short { self.short.oldest } else { self.long.oldest };
            let addr = self.slots[slot as usize].addr;
            self.unlink(slot);
            let uses = self.index.age(addr);
            if uses == 0 {
                if from_short {
                    self.traces.leave(addr);
                }
                self.index.remove(addr);
                return slot;
            }
            self.slots[slot as usize].long = true;
            self.long.push(&mut self.slots, slot);
            if least.is_none_or(|(fewest, _)| uses < fewest) {
                least = Some((uses, slot));
            }
        }
        let (_, slot) = least.expect("all that were looked at are in use");
        let addr = self.slots[slot as usize].addr;
        self.unlink(slot);
        // If it comes back, it is among those in use again.
        self.traces.leave(addr);
        self.index.remove(addr);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n: u64) -> Vec<u8> {
        n.to_le_bytes().repeat(BLOCK_BYTES / 8)
    }

    fn memory(len: usize) -> Memory {
        Box::new(vec![0; len])
    }

    fn add(shard: &mut Shard, n: u64, is_scan: bool) {
        shard.add(BlockAddr(n), &block(n), is_scan, &memory);
    }

    fn has(shard: &mut Shard, n: u64) -> bool {
        let mut out = vec![0; BLOCK_BYTES];
        let found = shard.get(BlockAddr(n), &mut out);
        assert!(!found || out == block(n), "block {n} is another");
        found
    }

    fn count(shard: &mut Shard, range: std::ops::Range<u64>) -> usize {
        range.filter(|n| has(shard, *n)).count()
    }

    #[test]
    fn everything_fits_until_it_is_full_and_slots_stay_consistent() {
        let mut shard = Shard::new(1000);
        (1..1001).for_each(|n| add(&mut shard, n, true));
        assert_eq!(count(&mut shard, 1..1001), 1000);
        for n in 1001..6000 {
            add(&mut shard, n, false);
            assert!(has(&mut shard, n), "what was just added is there");
            assert_eq!(shard.free.len + shard.short.len + shard.long.len, 1000);
        }
        assert_eq!(count(&mut shard, 1..6000), 1000);
        assert_eq!(shard.chunks.iter().map(|c| c.len()).sum::<usize>(), 1000 * BLOCK_BYTES);
    }

    #[test]
    fn what_is_used_again_survives_being_read_past() {
        for is_scan in [false, true] {
            let mut shard = Shard::new(1000);
            (1..501).for_each(|n| add(&mut shard, n, false));
            assert_eq!(count(&mut shard, 1..501), 500);
            (10_000..20_000).for_each(|n| add(&mut shard, n, is_scan));
            // One of so many in a row may leave, once: they are in the long queue after that.
            let kept = count(&mut shard, 1..501);
            assert!(kept >= 500 - 500_usize.div_ceil(MOST_LOOKS), "{kept}, scan: {is_scan}");
        }
    }

    #[test]
    fn a_scan_of_a_full_shard_is_kept_when_it_comes_again() {
        let mut shard = Shard::new(1000);
        (1..1001).for_each(|n| add(&mut shard, n, false));
        (5000..5100).for_each(|n| add(&mut shard, n, true));
        assert_eq!(count(&mut shard, 5000..5100), 0);
        (5000..5100).for_each(|n| add(&mut shard, n, true));
        // Traces may be taken for others', and lost to them.
        assert!(count(&mut shard, 5000..5100) > 80);
    }

    /// The long queue went round up to three times: 4 ms for a shard of 1 GiB.
    #[test]
    fn few_blocks_are_looked_at_when_all_are_in_use() {
        let mut shard = Shard::new(1000);
        (1..1001).for_each(|n| add(&mut shard, n, false));
        (0..3).for_each(|_| assert_eq!(count(&mut shard, 1..1001), 1000));
        // One of the first was used less than its neighbours since.
        shard.index.age(BlockAddr(7));
        add(&mut shard, 2000, false);
        assert!(!has(&mut shard, 7) && has(&mut shard, 2000));
        let kept: Vec<u64> = (1..1001).filter(|n| *n != 7).collect();
        let looked_at = kept.iter().filter(|n| shard.index.age(BlockAddr(**n)) < 3).count();
        assert!(looked_at < MOST_LOOKS, "{looked_at} blocks");
        assert_eq!(count(&mut shard, 1..1001), 999, "no other left");
        assert_eq!(shard.free.len + shard.short.len + shard.long.len, 1000);
    }

    #[test]
    fn forgotten_blocks_are_gone_and_their_slots_used_first() {
        let mut shard = Shard::new(100);
        (1..101).for_each(|n| add(&mut shard, n, false));
        assert_eq!(count(&mut shard, 1..101), 100);
        for n in 1..101 {
            shard.forget(BlockAddr(n));
            shard.forget(BlockAddr(n));
            assert!(!has(&mut shard, n));
            // The same block with other contents, as after its reuse.
            let reused = if n % 2 == 0 { n } else { n + 1000 };
            add(&mut shard, reused, true);
            assert!(has(&mut shard, reused));
        }
        assert_eq!(count(&mut shard, 1..1101), 100);
    }
}
