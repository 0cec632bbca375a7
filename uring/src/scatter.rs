//! Address lists for vectored operations, recycled per thread so that a vectored write allocates nothing once warm.

use std::cell::RefCell;

use crate::buf::IoBuf;

/// Ranges one system call takes (`IOV_MAX` of limits.h).
pub(crate) const MAX_RANGES: usize = 1024;
/// Bytes one operation is given at most: below the kernel's own limit (`MAX_RW_COUNT`, 2 GiB - 4 KiB), and a multiple of
/// every alignment.
pub(crate) const MAX_BYTES: usize = 1 << 30;
/// Lists a thread keeps.
const MAX_KEPT: usize = 64;

struct Inner {
    ranges: Vec<libc::iovec>,
    header: libc::msghdr,
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the kernel knows the address of what is in the boxes")]
    static KEPT: RefCell<Vec<Box<Inner>>> = const { RefCell::new(Vec::new()) };
}

/// A list of ranges at a fixed address, however often this value is moved.
pub(crate) struct Scatter {
    inner: Option<Box<Inner>>,
}

impl Scatter {
    /// Lists the bytes of `bufs` from byte `skip` on, as far as one operation goes.
    pub(crate) fn new<B: IoBuf>(bufs: &[B], skip: usize) -> Self {
        Self::up_to(MAX_BYTES, bufs, skip)
    }

    /// Lists up to `room` of the bytes of `bufs` from byte `skip` on.
    pub(crate) fn up_to<B: IoBuf>(mut room: usize, bufs: &[B], mut skip: usize) -> Self {
        let kept = KEPT.try_with(|kept| kept.borrow_mut().pop()).ok().flatten();
        let mut inner = kept.unwrap_or_else(|| {
            // SAFETY: all zeroes is a valid `msghdr`: null pointers and zero lengths.
            let header = unsafe { std::mem::zeroed() };
            Box::new(Inner { ranges: Vec::new(), header })
        });
        inner.ranges.clear();
        for buf in bufs {
            let len = buf.len();
            if skip >= len {
                skip -= len;
                continue;
            }
            if inner.ranges.len() == MAX_RANGES || room == 0 {
                break;
            }
            let taken = (len - skip).min(room);
            let start = buf.as_ptr().wrapping_add(skip).cast_mut();
            inner.ranges.push(libc::iovec { iov_base: start.cast(), iov_len: taken });
            room -= taken;
            skip = 0;
        }
        let ranges = inner.ranges.as_mut_ptr();
        inner.header.msg_iov = ranges;
        inner.header.msg_iovlen = inner.ranges.len();
        Self { inner: Some(inner) }
    }

    fn inner(&self) -> &Inner {
        self.inner.as_ref().expect("present until dropped")
    }

    /// The ranges, for `writev`: their address and number.
    pub(crate) fn ranges(&self) -> (*const libc::iovec, u32) {
        let ranges = &self.inner().ranges;
        (ranges.as_ptr(), u32::try_from(ranges.len()).expect("at most MAX_RANGES"))
    }

    /// A message of the ranges, for `sendmsg`.
    pub(crate) fn message(&self) -> *const libc::msghdr {
        &raw const self.inner().header
    }
}

impl Drop for Scatter {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        // An error means that the thread is being torn down.
        let _ = KEPT.try_with(move |kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < MAX_KEPT {
                kept.push(inner);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(scatter: &Scatter) -> Vec<usize> {
        scatter.inner().ranges.iter().map(|range| range.iov_len).collect()
    }

    #[test]
    fn skips_and_leaves_out_empty_ranges() {
        let bufs = [vec![1_u8; 10], vec![], vec![2; 20], vec![3; 5]];
        assert_eq!(lengths(&Scatter::new(&bufs, 0)), [10, 20, 5]);
        assert_eq!(lengths(&Scatter::new(&bufs, 10)), [20, 5]);
        let scatter = Scatter::new(&bufs, 12);
        assert_eq!(lengths(&scatter), [18, 5]);
        assert_eq!(scatter.inner().ranges[0].iov_base.addr(), bufs[2].as_ptr().addr() + 2);
        assert_eq!(lengths(&Scatter::new(&bufs, 35)), [0; 0]);
        assert_eq!(lengths(&Scatter::up_to(19, &bufs, 8)), [2, 17]);
    }

    #[test]
    fn takes_so_many_ranges_at_a_time() {
        let bufs: Vec<_> = (0..MAX_RANGES + 1).map(|_| vec![0_u8; 2]).collect();
        assert_eq!(Scatter::new(&bufs, 0).ranges().1 as usize, MAX_RANGES);
        assert_eq!(Scatter::new(&bufs, MAX_RANGES * 2 - 1).ranges().1, 2);
    }
}
