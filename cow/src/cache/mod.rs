//! Data blocks in memory, by their place in the pool.
//!
//! A block is never overwritten while anything maps it, so what is cached for its address is right until the block is
//! reused; [`BlockCache::forget_run`] is called before that. Whoever looks up or adds holds a read guard, which is what
//! reuse waits for. All versions that share a block share its copy here.
//!
//! The cache is cut into shards, each with a lock that is held while blocks are copied in or out. Neighbouring blocks
//! belong to one shard, so that a long read takes few locks. The rooms: `index` finds a block's slot, `shard` holds the
//! slots' memory and decides which blocks stay.

mod index;
mod shard;

use std::ops::DerefMut;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr};
use shard::Shard;

/// Memory that slots are cut from.
pub(crate) type Memory = Box<dyn DerefMut<Target = [u8]> + Send>;

/// Blocks in a row that one shard keeps: 256 KiB.
const STRETCH_SHIFT: u32 = 6;
const STRETCH: usize = 1 << STRETCH_SHIFT;
/// A shard has at least this many blocks, so that each gets about its share of what is in use.
const LEAST_SHARD_BLOCKS: usize = 8192;
/// More shards than reactors, so that these seldom meet; few, since each takes memory by whole chunks.
const MOST_SHARDS: usize = 16;

/// Verified contents of data blocks, bounded; scans do not push out what is used again (S3-FIFO).
pub(crate) struct BlockCache {
    shards: Box<[Mutex<Shard>]>,
}

impl BlockCache {
    /// Room for this many bytes of blocks; `None` for less than one block.
    pub(crate) fn new(bytes: u64) -> Option<Arc<BlockCache>> {
        let blocks = usize::try_from(bytes / BLOCK_SIZE).unwrap_or(usize::MAX);
        if blocks == 0 {
            return None;
        }
        let most = (blocks / LEAST_SHARD_BLOCKS).clamp(1, MOST_SHARDS);
        let count = 1 << most.ilog2();
        let shards = (0..count).map(|_| Mutex::new(Shard::new(blocks / count))).collect();
        Some(Arc::new(BlockCache { shards }))
    }

    /// A shard's place for the stretch that a block is part of.
    fn shard_of(&self, addr: BlockAddr) -> usize {
        (index::mix(addr.0 >> STRETCH_SHIFT) >> 48) as usize & (self.shards.len() - 1)
    }

    /// Looks up blocks one after the other.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { cache: self, held: None }
    }

    /// Copies one block out if it is here.
    pub(crate) fn get(&self, addr: BlockAddr, out: &mut [u8]) -> bool {
        self.shards[self.shard_of(addr)].lock().get(addr, out)
    }

    /// Keeps consecutive blocks that were just read and verified, or those of them that are worth it. `memory` is asked
    /// for more, so many bytes, while the cache has less than it may have.
    pub(crate) fn add(&self, first: BlockAddr, blocks: &[u8], memory: impl Fn(usize) -> Memory) {
        let count = blocks.len() / BLOCK_BYTES;
        let is_scan = count >= STRETCH;
        let mut blocks = blocks.chunks_exact(BLOCK_BYTES);
        for (start, len) in stretches(first, count) {
            let mut shard = self.shards[self.shard_of(start)].lock();
            for (i, block) in (0..).zip(blocks.by_ref().take(len)) {
                shard.add(start + i, block, is_scan, &memory);
            }
        }
    }

    /// These consecutive blocks may be reused from now on.
    pub(crate) fn forget_run(&self, first: BlockAddr, count: usize) {
        for (start, len) in stretches(first, count) {
            let mut shard = self.shards[self.shard_of(start)].lock();
            (0..len as u64).for_each(|i| shard.forget(start + i));
        }
    }
}

/// Cuts consecutive blocks into pieces that each belong to one shard: their first blocks and numbers.
fn stretches(first: BlockAddr, count: usize) -> impl Iterator<Item = (BlockAddr, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let start = first + done as u64;
        let len = (STRETCH - start.0 as usize % STRETCH).min(count - done);
        done += len;
        (len > 0).then_some((start, len))
    })
}

/// Holds the lock of the shard it looked into last. Must not be kept across an await.
pub(crate) struct Reader<'a> {
    cache: &'a BlockCache,
    held: Option<(usize, MutexGuard<'a, Shard>)>,
}

impl Reader<'_> {
    /// Copies a block out if it is here.
    pub(crate) fn get(&mut self, addr: BlockAddr, out: &mut [u8]) -> bool {
        let place = self.cache.shard_of(addr);
        if let Some((held, shard)) = &mut self.held
            && *held == place
        {
            return shard.get(addr, out);
        }
        // First let go of the one, then take the other: whoever holds one never waits for another.
        self.held = None;
        let (_, shard) = self.held.insert((place, self.cache.shards[place].lock()));
        shard.get(addr, out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn memory(len: usize) -> Memory {
        Box::new(vec![0xee; len])
    }

    fn block(n: u64) -> Vec<u8> {
        n.to_le_bytes().repeat(BLOCK_BYTES / 8)
    }

    #[test]
    fn finds_runs_that_span_shards() {
        let cache = BlockCache::new(256 << 20).unwrap();
        assert!(cache.shards.len() > 1);
        let run: Vec<u8> = (1000..1300).flat_map(block).collect();
        cache.add(BlockAddr(1000), &run, memory);
        let mut reader = cache.reader();
        let mut out = vec![0; BLOCK_BYTES];
        for n in 1000..1300 {
            assert!(reader.get(BlockAddr(n), &mut out), "{n}");
            assert_eq!(out, block(n));
        }
        assert!(!reader.get(BlockAddr(999), &mut out));
        assert!(!reader.get(BlockAddr(1300), &mut out));
        drop(reader);
        cache.forget_run(BlockAddr(1050), 200);
        for n in 1000..1300 {
            assert_eq!(cache.get(BlockAddr(n), &mut out), !(1050..1250).contains(&n), "{n}");
        }
    }

    #[test]
    fn takes_no_more_memory_than_it_may() {
        assert!(BlockCache::new(4095).is_none());
        for limit in [1 << 12, 5 << 12, (100 << 20) + 4096] {
            let cache = BlockCache::new(limit).unwrap();
            let taken = AtomicU64::new(0);
            let counted = |len: usize| {
                taken.fetch_add(len as u64, Ordering::Relaxed);
                memory(len)
            };
            assert_eq!(taken.load(Ordering::Relaxed), 0, "only what is used is taken");
            for n in 1..=3 * (limit / BLOCK_SIZE) {
                cache.add(BlockAddr(n), &block(n), counted);
            }
            let taken = taken.load(Ordering::Relaxed);
            assert!(taken <= limit, "{taken} of {limit}");
            assert!(taken >= limit - limit / 8, "{taken} of {limit}");
        }
    }

    // What readers are given is always the block they asked for, whole, whatever others add and forget meanwhile.
    #[test]
    fn concurrent_use_never_mixes_blocks() {
        let cache = BlockCache::new(64 * BLOCK_SIZE).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let cache = &cache;
                scope.spawn(move || {
                    let mut out = vec![0; BLOCK_BYTES];
                    let mut hits = 0;
                    for i in 0..20_000_u64 {
                        let n = 1 + index::mix(i * 4 + thread) % 100;
                        match i % 4 {
                            0 => cache.forget_run(BlockAddr(n), 1),
                            1 => cache.add(BlockAddr(n), &block(n), memory),
                            _ if cache.get(BlockAddr(n), &mut out) => {
                                hits += 1;
                                assert_eq!(out, block(n));
                            }
                            _ => {}
                        }
                    }
                    assert!(hits > 0);
                });
            }
        });
    }
}
