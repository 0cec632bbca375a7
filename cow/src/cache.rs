//! Data blocks in memory, by their place in the pool.
//!
//! A block is never overwritten while anything maps it, so what is cached for its address is right until the block is
//! reused; [`BlockCache::forget`] is called before that. Whoever looks up or adds holds a read guard, which is what
//! reuse waits for. All versions that share a block share its copy here.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::types::{BLOCK_SIZE, BlockAddr};

/// Verified contents of data blocks, bounded; scans do not push out what is used again (quick_cache's S3-FIFO).
pub(crate) struct BlockCache {
    blocks: Cache<BlockAddr, Arc<[u8]>>,
}

impl BlockCache {
    /// Room for this many bytes of blocks; `None` for less than one block.
    pub(crate) fn new(bytes: u64) -> Option<Arc<BlockCache>> {
        let count = usize::try_from(bytes / BLOCK_SIZE).unwrap_or(usize::MAX);
        (count > 0).then(|| Arc::new(BlockCache { blocks: Cache::new(count) }))
    }

    pub(crate) fn get(&self, addr: BlockAddr) -> Option<Arc<[u8]>> {
        self.blocks.get(&addr)
    }

    /// Keeps a block that was just read and verified.
    pub(crate) fn add(&self, addr: BlockAddr, block: &[u8]) {
        self.blocks.insert(addr, Arc::from(block));
    }

    /// The block may be reused from now on.
    pub(crate) fn forget(&self, addr: BlockAddr) {
        self.blocks.remove(&addr);
    }
}
