//! Which of a chunk's 4 KiB blocks: what changed, and what a patch holds.

use std::ops::Range;

/// Bytes of a block: the grain in which changes are kept.
pub(crate) const BLOCK: u32 = 4096;

/// A set of the blocks of one chunk, 256 at most.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Blocks([u64; 4]);

impl Blocks {
    pub(crate) const NONE: Blocks = Blocks([0; 4]);

    pub(crate) fn insert(&mut self, block: u32) {
        self.0[block as usize / 64] |= 1 << (block % 64);
    }

    pub(crate) fn contains(&self, block: u32) -> bool {
        self.0[block as usize / 64] >> (block % 64) & 1 == 1
    }

    /// Adds every block that the bytes of a range of the chunk touch.
    pub(crate) fn insert_bytes(&mut self, bytes: Range<u32>) {
        for block in bytes.start / BLOCK..bytes.end.div_ceil(BLOCK) {
            self.insert(block);
        }
    }

    pub(crate) fn union(self, other: Blocks) -> Blocks {
        Blocks(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Runs of blocks, as bytes of the chunk, in order.
    pub(crate) fn runs(&self) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for block in (0..256).filter(|block| self.contains(*block)) {
            let bytes = block * BLOCK..(block + 1) * BLOCK;
            match runs.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => runs.push(bytes),
            }
        }
        runs
    }

    pub(crate) fn words(&self) -> [u64; 4] {
        self.0
    }

    pub(crate) fn from_words(words: [u64; 4]) -> Blocks {
        Blocks(words)
    }

    /// Whether all lie within a chunk of so many blocks.
    pub(crate) fn fits(&self, blocks: u32) -> bool {
        (blocks..256).all(|block| !self.contains(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_touch_whole_blocks() {
        let mut blocks = Blocks::NONE;
        blocks.insert_bytes(4095..4097);
        blocks.insert_bytes(255 * 4096..256 * 4096);
        blocks.insert_bytes(63 * 4096..64 * 4096 + 1);
        assert_eq!(blocks.runs(), [0..8192, 63 * 4096..65 * 4096, 255 * 4096..256 * 4096]);
        assert_eq!(blocks.count(), 5);
        assert!(blocks.fits(256) && !blocks.fits(255));
        assert_eq!(blocks.union(Blocks::NONE), Blocks::from_words(blocks.words()));
    }
}
