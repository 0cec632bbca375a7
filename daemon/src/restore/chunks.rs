//! How a volume is cut into chunks.

use std::ops::Range;

/// A volume of `size` bytes in chunks of `chunk` bytes, the last of which may be shorter. Chunks are counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunks {
    pub(super) size: u64,
    pub(super) chunk: u64,
}

impl Chunks {
    pub(super) fn count(self) -> u64 {
        self.size.div_ceil(self.chunk)
    }

    /// The bytes of a run of chunks.
    pub(super) fn bytes(self, chunks: &Range<u64>) -> Range<u64> {
        chunks.start * self.chunk..(chunks.end * self.chunk).min(self.size)
    }

    /// The chunks that have any of these bytes.
    pub(super) fn touched(self, bytes: &Range<u64>) -> Range<u64> {
        let end = bytes.end.min(self.size).div_ceil(self.chunk);
        (bytes.start / self.chunk).min(end)..end
    }

    /// The chunks that have none but these bytes.
    pub(super) fn within(self, bytes: &Range<u64>) -> Range<u64> {
        let start = bytes.start.div_ceil(self.chunk);
        let end = if bytes.end >= self.size { self.count() } else { bytes.end / self.chunk };
        start..end.max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_touch_and_cover_chunks() {
        let chunks = Chunks { size: 1000, chunk: 256 };
        assert_eq!(chunks.count(), 4);
        for (bytes, touched, within) in [
            (0..1, 0..1, 0..0),
            (0..256, 0..1, 0..1),
            (255..257, 0..2, 1..1),
            (256..768, 1..3, 1..3),
            (1..999, 0..4, 1..3),
            (768..1000, 3..4, 3..4),
            (769..1000, 3..4, 4..4),
            (999..1000, 3..4, 4..4),
            (0..1000, 0..4, 0..4),
            (300..400, 1..2, 2..2),
        ] {
            assert_eq!((chunks.touched(&bytes), chunks.within(&bytes)), (touched, within), "{bytes:?}");
        }
        assert!(chunks.touched(&(5000..6000)).is_empty());
        assert_eq!(chunks.bytes(&(2..4)), 512..1000);
    }
}
