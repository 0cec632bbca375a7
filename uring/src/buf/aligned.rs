//! [`AlignedBuf`]: page-aligned memory that can be cut into owned pieces and put together again.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::Arc;

use super::cache::{self, Block};
use super::{IoBuf, IoBufMut};

/// Alignment, in bytes, of every allocation: what `O_DIRECT` asks for on 4 KiB-sector devices.
pub const ALIGN: usize = 4096;

/// An owned, exclusively owned byte range backed by [`ALIGN`]-aligned, recycled memory.
///
/// It can be [split](AlignedBuf::split_off) into disjoint owned pieces, each of which may go to another task,
/// thread or operation, and pieces that lie next to each other can be [joined](AlignedBuf::join) again. The memory
/// goes back to the free list of the thread that drops the last piece.
///
/// Once a thread's free lists are warm, [`new`](AlignedBuf::new) and dropping cost no allocation.
///
/// **Invariant:** the ranges of all live pieces of one block are disjoint; this is what makes `&mut [u8]` sound.
pub struct AlignedBuf {
    /// `None` exactly for a buffer created with length zero.
    block: Option<Arc<Block>>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` bytes starting at an [`ALIGN`]-aligned address, with **unspecified but initialised
    /// contents**: zeroes when the memory is fresh, whatever it last held when it is recycled. Overwrite it before
    /// showing it to anyone, or use [`zeroed`](AlignedBuf::zeroed).
    pub fn new(len: usize) -> Self {
        let block = (len > 0).then(|| cache::take(len));
        Self { block, start: 0, len }
    }

    /// A buffer of `len` zero bytes starting at an [`ALIGN`]-aligned address.
    pub fn zeroed(len: usize) -> Self {
        let Some(block) = (len > 0).then(|| cache::take(len)) else { return Self::new(0) };
        let fresh = block.is_fresh();
        let mut buf = Self { block: Some(block), start: 0, len };
        if !fresh {
            buf.fill(0);
        }
        buf
    }

    /// Bytes of memory that a buffer of `len` bytes can come to take: its size class, that is, up to a quarter more
    /// than `len` beyond 1 MiB and up to twice as much below.
    ///
    /// # Panics
    ///
    /// When `len` exceeds the address space.
    pub fn footprint(len: usize) -> usize {
        cache::capacity_for(len)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts the buffer in two: `self` keeps `[0, at)`, the returned piece owns `[at, len)`.
    ///
    /// Any `at` will do; both pieces of an aligned buffer are aligned when it is a multiple of [`ALIGN`].
    ///
    /// # Panics
    ///
    /// When `at > self.len()`.
    #[must_use = "the bytes from `at` on are in the returned piece"]
    pub fn split_off(&mut self, at: usize) -> AlignedBuf {
        assert!(at <= self.len, "split at {at} of {} bytes", self.len);
        let tail = Self { block: self.block.clone(), start: self.start + at, len: self.len - at };
        self.len = at;
        tail
    }

    /// Puts `next`, which must be the adjacent following piece of the same allocation, behind `self` again.
    ///
    /// # Panics
    ///
    /// When `next` is not that piece; see [`try_join`](AlignedBuf::try_join).
    pub fn join(&mut self, next: AlignedBuf) {
        if let Err(next) = self.try_join(next) {
            panic!("joined {self:?} with {next:?}, which does not follow it in memory");
        }
    }

    /// As [`join`](AlignedBuf::join), giving `next` back when it is not the adjacent piece.
    pub fn try_join(&mut self, next: AlignedBuf) -> Result<(), AlignedBuf> {
        let same = match (&self.block, &next.block) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (None, None) => true,
            _ => false,
        };
        if !same || self.start + self.len != next.start {
            return Err(next);
        }
        self.len += next.len;
        Ok(())
    }

    /// Shortens the buffer to `len` bytes; does nothing when it is not longer. The cut-off bytes cannot be had
    /// back, but their memory is freed only with the rest.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn ptr(&self) -> *mut u8 {
        match &self.block {
            Some(block) => block.base().as_ptr().wrapping_add(self.start),
            None => std::ptr::without_provenance_mut(ALIGN),
        }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            cache::give(block);
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start + len` stays within the block (`take` gives at least the length asked for, splitting and
        // joining keep the sum), whose memory was all zero when allocated, so it is initialised. The pieces of a
        // block are disjoint, so no other piece writes here, and `&self` excludes writes through this one. A
        // buffer without a block has length zero and an aligned, non-null pointer.
        unsafe { slice::from_raw_parts(self.ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; disjoint pieces and `&mut self` make the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Default for AlignedBuf {
    /// The empty buffer; allocates nothing.
    fn default() -> Self {
        Self::new(0)
    }
}

impl fmt::Debug for AlignedBuf {
    /// Shows where the buffer lies, not the (possibly large, possibly private) bytes in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

// SAFETY: the bytes live in the block, which does not move and which the value keeps alive; they are initialised
// and owned exclusively by this piece.
unsafe impl IoBuf for AlignedBuf {
    fn as_ptr(&self) -> *const u8 {
        self.ptr()
    }

    fn len(&self) -> usize {
        self.len
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for AlignedBuf {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(buf: &AlignedBuf) -> usize {
        IoBuf::as_ptr(buf).addr()
    }

    #[test]
    fn every_size_is_aligned_and_zeroed() {
        for len in [1, 511, 4096, 4097, 65536, 1 << 20, (1 << 20) + 1] {
            let mut buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.len(), len);
            assert_eq!(address(&buf) % ALIGN, 0);
            assert!(buf.iter().all(|byte| *byte == 0));
            buf.fill(0xa5);
            drop(buf);
            assert!(AlignedBuf::zeroed(len).iter().all(|byte| *byte == 0), "recycled {len} bytes not zeroed");
        }
    }

    #[test]
    fn pieces_are_disjoint_and_join_again() {
        let mut head = AlignedBuf::zeroed(3 * ALIGN);
        let mut middle = head.split_off(ALIGN);
        let mut tail = middle.split_off(ALIGN);
        head.fill(1);
        middle.fill(2);
        tail.fill(3);
        assert_eq!(address(&tail) % ALIGN, 0);
        let tail = head.try_join(tail).expect_err("not adjacent");
        middle.join(tail);
        head.join(middle);
        assert_eq!(head.len(), 3 * ALIGN);
        for (index, chunk) in head.chunks(ALIGN).enumerate() {
            assert!(chunk.iter().all(|byte| usize::from(*byte) == index + 1));
        }
    }

    #[test]
    fn uneven_and_empty_pieces() {
        let mut head = AlignedBuf::zeroed(100);
        let empty = head.split_off(100);
        assert!(empty.is_empty());
        head.join(empty);
        let tail = head.split_off(0);
        assert!(head.is_empty());
        head.join(tail);
        assert_eq!(head.len(), 100);
        let mut none = AlignedBuf::new(0);
        none.join(AlignedBuf::default());
        assert!(none.is_empty());
        assert!(none.try_join(head).is_err());
    }

    #[test]
    fn pieces_of_different_buffers_do_not_join() {
        let mut first = AlignedBuf::new(ALIGN);
        let second = AlignedBuf::new(ALIGN);
        assert!(first.try_join(second).is_err());
    }

    #[test]
    fn truncated_bytes_are_gone() {
        let mut head = AlignedBuf::new(2 * ALIGN);
        let tail = head.split_off(ALIGN);
        head.truncate(10);
        head.truncate(1000);
        assert_eq!(head.len(), 10);
        assert!(head.try_join(tail).is_err());
    }

    #[test]
    #[should_panic(expected = "split at 11 of 10")]
    fn split_past_the_end_is_refused() {
        let _ = AlignedBuf::new(10).split_off(11);
    }

    #[test]
    #[should_panic(expected = "does not follow")]
    fn join_of_a_stranger_is_refused() {
        AlignedBuf::new(10).join(AlignedBuf::new(10));
    }

    #[test]
    fn pieces_written_by_many_threads() {
        let mut rest = AlignedBuf::zeroed(64 * ALIGN);
        let mut threads = Vec::new();
        for index in 0..64_u8 {
            let next = rest.split_off(ALIGN);
            let mut piece = std::mem::replace(&mut rest, next);
            threads.push(std::thread::spawn(move || {
                piece.fill(index);
                piece
            }));
        }
        let mut whole: Option<AlignedBuf> = None;
        for thread in threads {
            let piece = thread.join().unwrap();
            match &mut whole {
                Some(whole) => whole.join(piece),
                None => whole = Some(piece),
            }
        }
        let whole = whole.unwrap();
        assert_eq!(whole.len(), 64 * ALIGN);
        for (index, chunk) in whole.chunks(ALIGN).enumerate() {
            assert!(chunk.iter().all(|byte| usize::from(*byte) == index));
        }
    }
}
