//! From a source to a target.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::source::Reading;
use crate::target::Target;

/// How far a copy is, and whether it is still wanted. Shared between the one that copies and the one who looks.
#[derive(Default, Debug)]
pub struct Watch {
    cancelled: AtomicBool,
    position: AtomicU64,
}

impl Watch {
    /// Ends the copy as soon as may be.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// How many bytes of the disk are behind the copy, zeroes that were passed over included.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::cancelled()) } else { Ok(()) }
    }
}

/// Copies all that is left of `reading` to `target` and finishes that. Returns where the last piece ended.
///
/// # Errors
/// Of either side, or that it was cancelled.
pub fn copy(reading: &mut Reading, target: &mut dyn Target, watch: &Watch) -> Result<u64> {
    let mut end = 0;
    while let Some(piece) = reading.next(watch)? {
        target.write(piece.offset, &piece.data)?;
        end = piece.offset + piece.data.len() as u64;
        watch.position.store(end, Ordering::Relaxed);
        reading.recycle(piece.data);
    }
    target.finish()?;
    Ok(end)
}

/// The ranges of `data` that hold more than zeroes, in steps of `step` bytes. Neighbours are one.
pub(crate) fn nonzero(data: &[u8], step: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < data.len() && is_zero(&data[at..data.len().min(at + step)]) {
            at += step;
        }
        let start = at;
        while at < data.len() && !is_zero(&data[at..data.len().min(at + step)]) {
            at += step;
        }
        (start < data.len()).then(|| start..at.min(data.len()))
    })
}

/// Whether there are only zeroes: whole words at a time, which compilers make wide.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    let (chunks, rest) = data.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
        && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "disks with one range of data")]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_left_out() {
        let mut data = vec![0; 1000];
        let found = |data: &[u8]| nonzero(data, 100).collect::<Vec<_>>();
        assert_eq!(found(&data), []);
        data[999] = 1;
        data[150] = 1;
        data[250] = 1;
        assert_eq!(found(&data), [100..300, 900..1000]);
        data[0] = 1;
        assert_eq!(found(&data[..950]), [0..300]);
        assert_eq!(found(&[1; 50]), [0..50]);
        assert_eq!(found(&[]), []);
    }
}
