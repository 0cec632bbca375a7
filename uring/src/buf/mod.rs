//! Buffers: aligned memory for `O_DIRECT`, and the traits by which any owned buffer is lent to the kernel.
//!
//! * [`aligned`](AlignedBuf): page-aligned, exclusively owned, splittable ranges of recycled memory.
//! * [`IoBuf`] and [`IoBufMut`]: what an owned buffer promises so that an operation in flight may own it.
//! * [`Slice`]: a sub-range of another buffer, itself a buffer.
//! * [`SharedMemory`]: a file in memory, for what shall outlive the process.

mod aligned;
mod cache;
mod shared;

use std::ops::Range;

pub use aligned::{ALIGN, AlignedBuf};
pub use shared::SharedMemory;

/// An owned buffer the kernel may read from while an operation is in flight.
///
/// # Safety
///
/// The implementer guarantees, from the moment a value is handed to an operation until that value is dropped:
///
/// * `as_ptr()..as_ptr() + len()` is one readable, initialised range, and both calls keep giving the same
///   answer **however often the value is moved** (so the bytes live behind a pointer, not inside the value);
/// * nothing else writes that range while the value is merely owned;
/// * leaking the value (`mem::forget`) leaves the range allocated for ever.
///
/// It is only implementable for `'static` types, so that a buffer can outlive the future that lent it.
#[expect(clippy::len_without_is_empty, reason = "implementers such as Vec already have `is_empty`")]
pub unsafe trait IoBuf: 'static {
    /// Start of the range; may dangle when [`len`](IoBuf::len) is zero.
    fn as_ptr(&self) -> *const u8;
    /// Length of the range in bytes.
    fn len(&self) -> usize;
}

/// An owned buffer the kernel may write into while an operation is in flight.
///
/// # Safety
///
/// As [`IoBuf`], and the same range is writable through [`as_mut_ptr`](IoBufMut::as_mut_ptr), which returns the
/// same address as [`as_ptr`](IoBuf::as_ptr), and nothing else reads or writes it while the value is merely owned.
pub unsafe trait IoBufMut: IoBuf {
    /// Start of the range; may dangle when [`len`](IoBuf::len) is zero.
    fn as_mut_ptr(&mut self) -> *mut u8;
}

// SAFETY: a vector's elements live on the heap, do not move with it, and `len` bytes of them are initialised.
// An operation owns the vector, so nobody can push to it (and so reallocate) meanwhile.
unsafe impl IoBuf for Vec<u8> {
    fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }
}

// SAFETY: as above; the vector owns its elements exclusively.
unsafe impl IoBufMut for Vec<u8> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }
}

// SAFETY: the boxed bytes do not move with the box. Operations keep the box inside a `MaybeUninit` while the
// kernel uses it, so no move of the box asserts unique access to the bytes.
unsafe impl IoBuf for Box<[u8]> {
    fn as_ptr(&self) -> *const u8 {
        (**self).as_ptr()
    }

    fn len(&self) -> usize {
        (**self).len()
    }
}

// SAFETY: as above; the box owns its bytes exclusively.
unsafe impl IoBufMut for Box<[u8]> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        (**self).as_mut_ptr()
    }
}

/// A sub-range of an owned buffer, itself an owned buffer.
#[derive(Debug)]
pub struct Slice<B> {
    buf: B,
    range: Range<usize>,
}

impl<B: IoBuf> Slice<B> {
    /// Restricts `buf` to the bytes in `range`.
    ///
    /// # Panics
    ///
    /// When `range` is decreasing or reaches past the end of `buf`.
    pub fn new(buf: B, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= buf.len(), "slice {range:?} of {} bytes", buf.len());
        Self { buf, range }
    }

    /// The bytes of the sub-range.
    pub fn as_slice(&self) -> &[u8] {
        let (ptr, len) = (self.as_ptr(), self.range.len());
        if len == 0 {
            return &[];
        }
        // SAFETY: `IoBuf` promises an initialised range of which this is a part (checked in `new`), and the
        // shared borrow of `self` keeps the buffer alive and unwritten.
        unsafe { std::slice::from_raw_parts(ptr, len) }
    }

    /// The whole buffer this is a part of.
    pub fn get_ref(&self) -> &B {
        &self.buf
    }

    /// The whole buffer, back.
    pub fn into_inner(self) -> B {
        self.buf
    }
}

impl<B: IoBufMut> Slice<B> {
    /// The bytes of the sub-range, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let (ptr, len) = (self.as_mut_ptr(), self.range.len());
        if len == 0 {
            return &mut [];
        }
        // SAFETY: `IoBufMut` promises an initialised, writable range of which this is a part (checked in `new`), and
        // the exclusive borrow of `self` keeps the buffer alive and everybody else away.
        unsafe { std::slice::from_raw_parts_mut(ptr, len) }
    }
}

// SAFETY: a sub-range (checked in `new`) of a range that itself keeps the promise, whose length cannot change
// because the slice owns the buffer.
unsafe impl<B: IoBuf> IoBuf for Slice<B> {
    fn as_ptr(&self) -> *const u8 {
        self.buf.as_ptr().wrapping_add(self.range.start)
    }

    fn len(&self) -> usize {
        self.range.len()
    }
}

// SAFETY: as above.
unsafe impl<B: IoBufMut> IoBufMut for Slice<B> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.buf.as_mut_ptr().wrapping_add(self.range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_covers_its_range_only() {
        let slice = Slice::new(b"0123456789".to_vec(), 2..5);
        assert_eq!(slice.as_slice(), b"234");
        assert_eq!(IoBuf::len(&slice), 3);
        let nested = Slice::new(slice, 1..2);
        assert_eq!(nested.as_slice(), b"3");
        assert_eq!(nested.into_inner().into_inner(), b"0123456789");
    }

    #[test]
    #[should_panic(expected = "slice 3..11")]
    fn slice_past_the_end_is_refused() {
        let _ = Slice::new(vec![0; 10], 3..11);
    }

    #[test]
    fn addresses_survive_moves() {
        let buf = AlignedBuf::zeroed(8192);
        let before = IoBuf::as_ptr(&buf);
        let boxed = Box::new(buf);
        assert_eq!(IoBuf::as_ptr(&*boxed), before);
    }
}
