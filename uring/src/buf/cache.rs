//! Blocks of aligned memory and the per-thread free lists they are recycled through.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::ALIGN;

/// log2 of the smallest size class: 4 KiB.
const MIN_SHIFT: u32 = 12;
/// log2 of the size from which on classes are a quarter of a power of two apart: 1 MiB. Below, doubling wastes little.
const FINE_SHIFT: u32 = 20;
/// log2 of the largest size class: 64 MiB. Larger blocks are allocated and freed each time.
const MAX_SHIFT: u32 = 26;
/// Classes of powers of two, up to and including `FINE_SHIFT`.
const COARSE_CLASSES: usize = (FINE_SHIFT - MIN_SHIFT + 1) as usize;
/// Classes in each doubling beyond.
const STEPS: usize = 4;
const CLASSES: usize = COARSE_CLASSES + STEPS * (MAX_SHIFT - FINE_SHIFT) as usize;
/// Bound on the bytes one thread keeps for reuse.
const MAX_CACHED_BYTES: usize = 64 << 20;
/// From this capacity on a block is a mapping of its own, whose pages take memory only once they are touched: what a
/// client announces and never sends costs addresses. Smaller blocks would cost more in system calls, and in mappings,
/// of which a process may have 65,530 (`vm.max_map_count`), than clearing them does.
const MIN_MAPPED: usize = 64 << 10;

const _: () = assert!(1 << MIN_SHIFT == ALIGN, "the smallest class is one aligned page");
const _: () = assert!((1 << FINE_SHIFT) / STEPS >= ALIGN, "every class is a whole number of pages");

/// One allocation, shared by the pieces cut from it.
pub(super) struct Block {
    base: NonNull<u8>,
    /// A multiple of [`ALIGN`]; a class's size when it belongs to one.
    capacity: usize,
    /// Not handed out before, so still all zero.
    fresh: bool,
}

// SAFETY: a block is plain memory without any thread affinity; access to its bytes is governed by `AlignedBuf`,
// whose pieces are disjoint.
unsafe impl Send for Block {}
// SAFETY: as above; a shared reference to a block gives its address and two constants only.
unsafe impl Sync for Block {}

impl Block {
    fn allocate(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        let base = if capacity >= MIN_MAPPED {
            map(capacity)
        } else {
            // SAFETY: the layout's size is not zero: every capacity is at least one page.
            NonNull::new(unsafe { alloc_zeroed(layout) })
        };
        let Some(base) = base else { handle_alloc_error(layout) };
        Self { base, capacity, fresh: true }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGN).expect("a buffer's size fits the address space")
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// See [`AlignedBuf::prefer_huge_pages`](super::AlignedBuf::prefer_huge_pages).
    pub(super) fn prefer_huge_pages(&self) {
        if self.capacity >= MIN_MAPPED {
            // SAFETY: a mapping of our own, and advice that changes none of its bytes. An error means that this kernel
            // has no huge pages, which changes nothing either.
            unsafe { libc::madvise(self.base.as_ptr().cast(), self.capacity, libc::MADV_HUGEPAGE) };
        }
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.capacity >= MIN_MAPPED {
            // SAFETY: exactly what `map` made for this block; the last reference is gone, so nothing uses it.
            let outcome = unsafe { libc::munmap(self.base.as_ptr().cast(), self.capacity) };
            // It fails only where unmapping would split a mapping beyond their greatest number: then the range leaks.
            debug_assert_eq!(outcome, 0, "a block is unmapped once");
        } else {
            // SAFETY: allocated in `allocate` with this very layout; the last reference is gone, so nothing uses it.
            unsafe { dealloc(self.base.as_ptr(), Self::layout(self.capacity)) };
        }
    }
}

/// Fresh zeroed memory from the kernel; no page of it is resident yet. `None` when there is no more.
fn map(capacity: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new private anonymous mapping, at an address of the kernel's choice, so it overlaps nothing that is in
    // use. The kernel fills it with zeroes, aligns it to its page size, which is at least 4096 bytes, and keeps it
    // until `munmap`.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            capacity,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED { None } else { NonNull::new(base.cast()) }
}

/// The size class of a block that holds `len` bytes, if it is not too large for one.
fn class_of(len: usize) -> Option<usize> {
    if len > 1 << MAX_SHIFT {
        return None;
    }
    if len <= 1 << FINE_SHIFT {
        let shift = len.next_power_of_two().trailing_zeros().max(MIN_SHIFT);
        return Some((shift - MIN_SHIFT) as usize);
    }
    // `len` lies in (2^shift, 2^(shift + 1)], which is cut into four.
    let shift = (len - 1).ilog2();
    let step = (len - (1 << shift)).div_ceil((1 << shift) / STEPS);
    Some(COARSE_CLASSES + STEPS * (shift - FINE_SHIFT) as usize + step - 1)
}

/// Bytes of a block of `class`.
fn size_of_class(class: usize) -> usize {
    match class.checked_sub(COARSE_CLASSES) {
        None => 1 << (class as u32 + MIN_SHIFT),
        Some(fine) => {
            let floor = 1 << (FINE_SHIFT as usize + fine / STEPS);
            floor + floor / STEPS * (fine % STEPS + 1)
        }
    }
}

/// Bytes of the block that a buffer of `len` bytes gets.
///
/// # Panics
///
/// When `len` exceeds the address space.
pub(super) fn capacity_for(len: usize) -> usize {
    match class_of(len) {
        _ if len == 0 => 0,
        Some(class) => size_of_class(class),
        None => len.checked_next_multiple_of(ALIGN).expect("a buffer's size fits the address space"),
    }
}

/// A thread's free blocks by size class.
struct Cache {
    free: [Vec<Arc<Block>>; CLASSES],
    bytes: usize,
}

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache { free: [const { Vec::new() }; CLASSES], bytes: 0 }) };
}

/// A block of at least `len` bytes: recycled where the thread has one, else fresh.
///
/// # Panics
///
/// When `len` exceeds the address space.
pub(super) fn take(len: usize) -> Arc<Block> {
    let capacity = capacity_for(len);
    let Some(class) = class_of(len) else { return Arc::new(Block::allocate(capacity)) };
    let recycled = CACHE.try_with(|cache| {
        let mut cache = cache.borrow_mut();
        let block = cache.free[class].pop()?;
        cache.bytes -= block.capacity;
        Some(block)
    });
    // An error means that the thread is being torn down: its cache is gone.
    recycled.ok().flatten().unwrap_or_else(|| Arc::new(Block::allocate(capacity)))
}

/// Takes one reference to a block back; the last one returns the block to this thread's free list.
///
/// When two threads drop the last two pieces at the same instant, neither may see itself as the last; the block is
/// then freed rather than recycled, which is harmless.
pub(super) fn give(mut block: Arc<Block>) {
    let Some(unique) = Arc::get_mut(&mut block) else { return };
    unique.fresh = false;
    let capacity = unique.capacity;
    let Some(class) = class_of(capacity) else { return };
    // An error means that the thread is being torn down: the closure, and the block with it, is dropped.
    let _ = CACHE.try_with(move |cache| {
        let mut cache = cache.borrow_mut();
        if cache.bytes + capacity <= MAX_CACHED_BYTES {
            cache.bytes += capacity;
            cache.free[class].push(block);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        assert_eq!(class_of(1), Some(0));
        assert_eq!(class_of(4096), Some(0));
        assert_eq!(class_of(4097), Some(1));
        assert_eq!(class_of(64 << 20), Some(CLASSES - 1));
        assert_eq!(class_of((64 << 20) + 1), None);
        assert_eq!(class_of(usize::MAX), None);
    }

    #[test]
    fn every_class_holds_what_falls_into_it_and_no_smaller_one_would() {
        for class in 0..CLASSES {
            let size = size_of_class(class);
            assert_eq!(size % ALIGN, 0);
            assert_eq!(class_of(size), Some(class));
            let next = class_of(size + 1);
            assert_eq!(next, (class + 1 < CLASSES).then_some(class + 1), "after {size} bytes");
        }
    }

    #[test]
    fn a_large_payload_at_an_odd_offset_does_not_double() {
        assert_eq!(capacity_for((32 << 20) + 4096), 40 << 20);
        assert_eq!(capacity_for((1 << 20) + 1), 1280 << 10);
        assert_eq!(capacity_for((64 << 20) + 1), (64 << 20) + 4096);
        assert_eq!(capacity_for(0), 0);
    }

    /// Pages of a range that take memory now.
    fn resident(base: NonNull<u8>, len: usize) -> usize {
        let mut pages = vec![0_u8; len / ALIGN];
        // SAFETY: asks about a range that the caller's block maps; writes one byte for each page of it.
        let outcome = unsafe { libc::mincore(base.as_ptr().cast(), len, pages.as_mut_ptr()) };
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn fresh_large_blocks_take_no_memory_until_touched() {
        let block = take(48 << 20);
        assert!(block.is_fresh());
        assert_eq!(resident(block.base(), block.capacity), 0);
        // SAFETY: the first byte of a block that nobody else uses.
        unsafe { block.base().write(1) };
        assert!(resident(block.base(), block.capacity) > 0);
    }

    #[test]
    fn last_reference_is_recycled() {
        let first = take(10_000);
        let second = Arc::clone(&first);
        let base = first.base();
        give(first);
        assert_ne!(take(10_000).base(), base, "a block still referenced was handed out");
        give(second);
        let again = take(9000);
        assert_eq!(again.base(), base);
        assert!(!again.is_fresh());
    }

    #[test]
    fn cached_bytes_are_bounded() {
        let blocks: Vec<_> = (0..3).map(|_| take(32 << 20)).collect();
        blocks.into_iter().for_each(give);
        CACHE.with(|cache| {
            let cache = cache.borrow();
            assert_eq!(cache.bytes, 64 << 20);
            assert_eq!(cache.free.iter().map(Vec::len).sum::<usize>(), 2);
        });
    }
}
