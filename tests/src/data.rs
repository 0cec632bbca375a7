//! Seeded randomness, and sectors that say who wrote them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a sector, the smallest thing the oracle writes.
pub const SECTOR: usize = 512;
/// Bytes of a block, the smallest thing the engine replaces.
pub const BLOCK: usize = 4096;
/// Sectors of a block.
pub const SECTORS_PER_BLOCK: usize = BLOCK / SECTOR;

/// SplitMix64: small, seeded, good enough to choose offsets.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for piece in buf.chunks_mut(8) {
            piece.copy_from_slice(&self.draw().to_le_bytes()[..piece.len()]);
        }
    }

    /// Puts a slice into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// The seed of a randomised test: `CAIRN_TEST_SEED`, else fresh. Printed, so that a failure can be repeated.
pub fn seed(test: &str) -> u64 {
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64);
    let seed = crate::program::number_from_env("CAIRN_TEST_SEED", fresh);
    println!("{test}: CAIRN_TEST_SEED={seed} repeats this run");
    seed
}

/// Fills the sectors of `buf`, the first of which is `first_sector` of the disk, with the stamp of a write.
pub fn stamp(buf: &mut [u8], first_sector: u64, counter: u64) {
    for (index, sector) in buf.chunks_exact_mut(SECTOR).enumerate() {
        let number = first_sector + index as u64;
        for (word, bytes) in sector.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&stamp_word(number, counter, word as u64).to_le_bytes());
        }
    }
}

/// Which write left this sector: its counter, 0 for zeroes, `None` for bytes that no write of this sector left.
pub fn stamp_of(sector: &[u8], number: u64) -> Option<u64> {
    let words: Vec<u64> = sector
        .chunks_exact(8)
        .map(|bytes| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        .collect();
    if words.iter().all(|word| *word == 0) {
        return Some(0);
    }
    let counter = words[0];
    let intact =
        words.iter().enumerate().all(|(index, word)| *word == stamp_word(number, counter, index as u64));
    (counter != 0 && intact).then_some(counter)
}

/// The counter, the sector, then words that depend on both: a mixture of two writes cannot pass for either.
fn stamp_word(sector: u64, counter: u64, word: u64) -> u64 {
    match word {
        0 => counter,
        1 => sector,
        _ => mix(counter.rotate_left(32) ^ sector.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ word),
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_a_mixture_is_not() {
        let mut old = vec![0; BLOCK];
        stamp(&mut old, 80, 7);
        let mut new = vec![0; BLOCK];
        stamp(&mut new, 80, 8);
        assert_eq!(stamp_of(&old[SECTOR..2 * SECTOR], 81), Some(7));
        assert_eq!(stamp_of(&old[SECTOR..2 * SECTOR], 82), None, "another sector's bytes");
        let mut torn = old[..SECTOR].to_vec();
        torn[256..].copy_from_slice(&new[256..SECTOR]);
        assert_eq!(stamp_of(&torn, 80), None, "half of one write and half of another");
        assert_eq!(stamp_of(&[0; SECTOR], 80), Some(0));
    }
}
