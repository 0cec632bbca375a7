//! Blocks of aligned memory and the per-thread free lists they are recycled through.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;

use super::ALIGN;

/// log2 of the smallest size class: 4 KiB.
const MIN_SHIFT: u32 = 12;
/// log2 of the largest size class: 64 MiB. Larger blocks are allocated and freed each time.
const MAX_SHIFT: u32 = 26;
const CLASSES: usize = (MAX_SHIFT - MIN_SHIFT + 1) as usize;
/// Bound on the bytes one thread keeps for reuse.
const MAX_CACHED_BYTES: usize = 64 << 20;

const _: () = assert!(1 << MIN_SHIFT == ALIGN, "the smallest class is one aligned page");

/// One allocation, shared by the pieces cut from it.
pub(super) struct Block {
    base: NonNull<u8>,
    /// A multiple of [`ALIGN`]; a power of two when it belongs to a size class.
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
        // SAFETY: the layout's size is not zero: every capacity is at least one page.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Self { base, capacity, fresh: true }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGN).expect("a buffer's size fits the address space")
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `allocate` with this very layout; the last reference is gone, so nothing uses it.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.capacity)) };
    }
}

/// The size class of a block that holds `len` bytes, if it is not too large for one.
fn class_of(len: usize) -> Option<usize> {
    let shift = len.checked_next_power_of_two()?.trailing_zeros().max(MIN_SHIFT);
    (shift <= MAX_SHIFT).then(|| (shift - MIN_SHIFT) as usize)
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
    let Some(class) = class_of(len) else {
        let capacity = len.checked_next_multiple_of(ALIGN).expect("a buffer's size fits the address space");
        return Arc::new(Block::allocate(capacity));
    };
    let recycled = CACHE.try_with(|cache| {
        let mut cache = cache.borrow_mut();
        let block = cache.free[class].pop()?;
        cache.bytes -= block.capacity;
        Some(block)
    });
    // An error means that the thread is being torn down: its cache is gone.
    recycled.ok().flatten().unwrap_or_else(|| Arc::new(Block::allocate(1 << (class as u32 + MIN_SHIFT))))
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
