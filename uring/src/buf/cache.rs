//! Blocks of aligned memory and the per-thread free lists they are recycled through.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::collections::VecDeque;
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
/// From this capacity on blocks are parts of mappings, whose pages take memory only once they are touched: what a client
/// announces and never sends costs addresses.
const MIN_MAPPED: usize = 2 * ALIGN;
/// A huge page of most machines. A thread's blocks of up to half of it are cut one after the other from mappings of this size,
/// larger ones are mappings of their own: what lies in one piece is one piece for the disk, too. One that takes 254 at a time makes
/// two I/Os of a MiB in pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;
/// The class from which on the block that was given back first is taken again: 1 MiB. What a disk has just read is in the caches of
/// the processor that read it, from where it takes longer to overwrite than it takes from memory. Smaller blocks are taken while they
/// are in this processor's caches.
const OLDEST_FIRST: usize = COARSE_CLASSES - 1;

const _: () = assert!(1 << MIN_SHIFT == ALIGN, "the smallest class is one aligned page");
const _: () = assert!((1 << FINE_SHIFT) / STEPS >= ALIGN, "every class is a whole number of pages");
const _: () = assert!(HUGE_PAGE == 2 << FINE_SHIFT, "what huge pages are cut into are powers of two");

/// One allocation, shared by the pieces cut from it.
pub(super) struct Block {
    base: NonNull<u8>,
    /// A multiple of [`ALIGN`]; a class's size when it belongs to one.
    capacity: usize,
    /// Not handed out before, so still all zero.
    fresh: bool,
    /// What it is a part of; nothing below [`MIN_MAPPED`].
    mapping: Option<Arc<Mapping>>,
}

// SAFETY: a block is plain memory without any thread affinity; access to its bytes is governed by `AlignedBuf`,
// whose pieces are disjoint.
unsafe impl Send for Block {}
// SAFETY: as above; a shared reference to a block gives its address and two constants only.
unsafe impl Sync for Block {}

impl Block {
    /// A block with memory of its own.
    fn allocate(capacity: usize) -> Self {
        if capacity >= MIN_MAPPED {
            let mapping = Mapping::new(capacity);
            return Self { base: mapping.base, capacity, fresh: true, mapping: Some(Arc::new(mapping)) };
        }
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero: every capacity is at least one page.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { base, capacity, fresh: true, mapping: None }
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
        match &self.mapping {
            // SAFETY: allocated in `allocate` with this very layout; the last reference is gone, so nothing uses it.
            None => unsafe { dealloc(self.base.as_ptr(), Self::layout(self.capacity)) },
            Some(mapping) if mapping.len > self.capacity => {
                // Others of the mapping may be kept for long.
                // SAFETY: a part of a mapping that is this block's alone; the last reference is gone, so nothing uses it, nor
                // will anything: no other block is ever cut from there. An error leaves the memory taken for longer.
                unsafe { libc::madvise(self.base.as_ptr().cast(), self.capacity, libc::MADV_DONTNEED) };
            }
            Some(_) => {}
        }
    }
}

/// Memory that was asked for from the kernel, in huge pages where it has any and there is room for one.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Fresh zeroed memory; no page of it is resident yet.
    fn new(len: usize) -> Self {
        // Huge pages begin at multiples of their size.
        let surplus = if len >= HUGE_PAGE { HUGE_PAGE - ALIGN } else { 0 };
        // SAFETY: a new private anonymous mapping, at an address of the kernel's choice, so it overlaps nothing that is in
        // use. The kernel fills it with zeroes, aligns it to its page size, which is at least 4096 bytes, and keeps it
        // until `munmap`.
        let base = len.checked_add(surplus).map(|whole| unsafe {
            libc::mmap(
                ptr::null_mut(),
                whole,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        });
        let Some(base) =
            base.filter(|base| *base != libc::MAP_FAILED).and_then(|base| NonNull::new(base.cast::<u8>()))
        else {
            handle_alloc_error(Block::layout(len));
        };
        if surplus == 0 {
            return Self { base, len };
        }
        let before = base.addr().get().next_multiple_of(HUGE_PAGE) - base.addr().get();
        let aligned = base.map_addr(|addr| addr.saturating_add(before));
        let end = aligned.map_addr(|addr| addr.saturating_add(len));
        // SAFETY: mapped above, and used by nobody. It ends where the first huge page begins, at most `surplus` further on.
        unsafe { unmap(base, before) };
        // SAFETY: as above; from the end of what is kept to that of the mapping.
        unsafe { unmap(end, surplus - before) };
        // SAFETY: a mapping of our own, and advice that changes none of its bytes. An error means that this kernel has no huge
        // pages, which changes nothing either.
        unsafe { libc::madvise(aligned.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        Self { base: aligned, len }
    }
}

// SAFETY: plain memory without any thread affinity, whose bytes are reached through blocks only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` kept for it; the last block of it is gone, so nothing uses it.
        unsafe { unmap(self.base, self.len) };
    }
}

/// Gives whole pages back to the kernel.
///
/// # Safety
/// The range was mapped by this module, and nothing uses it any more.
unsafe fn unmap(base: NonNull<u8>, len: usize) {
    if len == 0 {
        return;
    }
    // SAFETY: as the caller guarantees.
    let outcome = unsafe { libc::munmap(base.as_ptr().cast(), len) };
    // It fails only where unmapping would split a mapping beyond their greatest number: then the range leaks.
    debug_assert_eq!(outcome, 0, "memory is unmapped once");
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
    /// In the order in which they came back.
    free: [VecDeque<Arc<Block>>; CLASSES],
    bytes: usize,
    /// What the next blocks are cut from, and how much of it is left, at its end.
    open: Option<(Arc<Mapping>, usize)>,
}

impl Cache {
    /// A block of a class, recycled or new.
    fn take(&mut self, class: usize) -> Arc<Block> {
        let free = &mut self.free[class];
        if let Some(block) = if class < OLDEST_FIRST { free.pop_back() } else { free.pop_front() } {
            self.bytes -= block.capacity;
            return block;
        }
        let capacity = size_of_class(class);
        if !(MIN_MAPPED..=HUGE_PAGE / 2).contains(&capacity) {
            return Arc::new(Block::allocate(capacity));
        }
        if let Some(block) = self.cut(capacity) {
            return block;
        }
        // What is left of the last one is good for smaller blocks.
        while let Some((_, left @ MIN_MAPPED..)) = self.open
            && let Some(block) = self.cut(1 << left.ilog2())
        {
            self.keep(block);
        }
        self.open = Some((Arc::new(Mapping::new(HUGE_PAGE)), HUGE_PAGE));
        self.cut(capacity).expect("a huge page has room for two at least")
    }

    /// The next block of the open mapping, if there is room.
    fn cut(&mut self, capacity: usize) -> Option<Arc<Block>> {
        let (mapping, left) = self.open.as_mut()?;
        let at = mapping.len - *left;
        *left = left.checked_sub(capacity)?;
        let base = mapping.base.map_addr(|addr| addr.saturating_add(at));
        Some(Arc::new(Block { base, capacity, fresh: true, mapping: Some(Arc::clone(mapping)) }))
    }

    /// Takes a block that nobody uses, unless there are enough.
    fn keep(&mut self, block: Arc<Block>) {
        if let Some(class) = class_of(block.capacity)
            && self.bytes + block.capacity <= MAX_CACHED_BYTES
        {
            self.bytes += block.capacity;
            self.free[class].push_back(block);
        }
    }
}

thread_local! {
    static CACHE: RefCell<Cache> =
        const { RefCell::new(Cache { free: [const { VecDeque::new() }; CLASSES], bytes: 0, open: None }) };
}

/// A block of at least `len` bytes: recycled where the thread has one, else fresh.
///
/// # Panics
///
/// When `len` exceeds the address space.
pub(super) fn take(len: usize) -> Arc<Block> {
    // An error means that the thread is being torn down: its cache is gone.
    let cached = class_of(len).and_then(|class| CACHE.try_with(|cache| cache.borrow_mut().take(class)).ok());
    cached.unwrap_or_else(|| Arc::new(Block::allocate(capacity_for(len))))
}

/// Takes one reference to a block back; the last one returns the block to this thread's free list.
///
/// When two threads drop the last two pieces at the same instant, neither may see itself as the last; the block is
/// then freed rather than recycled, which is harmless.
pub(super) fn give(mut block: Arc<Block>) {
    let Some(unique) = Arc::get_mut(&mut block) else { return };
    unique.fresh = false;
    // An error means that the thread is being torn down: the closure, and the block with it, is dropped.
    let _ = CACHE.try_with(move |cache| cache.borrow_mut().keep(block));
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

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

    /// Where a block is in its huge page.
    fn place(block: &Block) -> Range<usize> {
        let start = block.base().addr().get() % HUGE_PAGE;
        start..start + block.capacity
    }

    fn page(block: &Block) -> usize {
        block.base().addr().get() / HUGE_PAGE
    }

    #[test]
    fn blocks_of_all_sizes_are_cut_from_one_huge_page_after_the_other() {
        let blocks: Vec<_> = [8 << 10, 1 << 20, 1 << 20].map(take).into();
        assert_eq!(place(&blocks[0]), 0..8 << 10);
        assert_eq!(place(&blocks[1]), 8 << 10..(1 << 20) + (8 << 10));
        assert_eq!(place(&blocks[2]), 0..1 << 20, "it has no room in the first page");
        assert!(page(&blocks[0]) == page(&blocks[1]) && page(&blocks[1]) != page(&blocks[2]));
        // What is left of the first page.
        let mut end = HUGE_PAGE;
        for shift in 13..20 {
            let block = take(1 << shift);
            assert_eq!((page(&block), place(&block).end), (page(&blocks[0]), end));
            end -= block.capacity;
        }
        assert_eq!(end, place(&blocks[1]).end);
        // And then the second is cut further.
        let next = take(512 << 10);
        assert_eq!((page(&next), place(&next).start), (page(&blocks[2]), 1 << 20));
    }

    #[test]
    fn blocks_of_one_mapping_are_disjoint() {
        let mut blocks: Vec<_> = (0..4).map(|_| take(1 << 20)).collect();
        for (number, block) in blocks.iter().enumerate() {
            assert!(block.is_fresh());
            // SAFETY: the whole of a block that nobody else uses.
            unsafe { block.base().write_bytes(number as u8, block.capacity) };
        }
        // What the thread does not keep is gone, and what shares its page is not.
        drop(blocks.pop());
        for (number, block) in blocks.iter().enumerate() {
            // SAFETY: the whole of a block that nobody else uses, all of which was written above.
            let bytes = unsafe { std::slice::from_raw_parts(block.base().as_ptr(), block.capacity) };
            assert!(bytes.iter().all(|byte| *byte == number as u8));
        }
    }

    #[test]
    fn every_byte_of_a_block_can_be_written() {
        for len in [1, MIN_MAPPED, MIN_MAPPED + 1, 1 << 20, (1 << 20) + 1, 2 << 20, 5 << 20] {
            let block = take(len);
            // SAFETY: the whole of a block that nobody else uses.
            unsafe { block.base().write_bytes(1, block.capacity) };
            assert!(block.capacity < HUGE_PAGE || place(&block).start == 0, "{len} bytes");
        }
    }

    #[test]
    fn a_block_that_is_not_kept_gives_its_memory_back() {
        let blocks: Vec<_> = (0..2).map(|_| take(1 << 20)).collect();
        let (base, len) = (blocks[1].base(), blocks[1].capacity);
        for block in &blocks {
            // SAFETY: the whole of a block that nobody else uses.
            unsafe { block.base().write_bytes(1, block.capacity) };
        }
        assert_eq!(resident(base, len), len / ALIGN);
        assert_eq!(page(&blocks[0]), page(&blocks[1]));
        let mut blocks = blocks.into_iter();
        let _kept = blocks.next();
        drop(blocks);
        assert_eq!(resident(base, len), 0);
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
    fn small_blocks_come_back_while_they_are_warm_and_large_ones_once_they_are_cold() {
        for (len, oldest) in [(4096, false), (512 << 10, false), (1 << 20, true), (3 << 20, true)] {
            let blocks: Vec<_> = (0..3).map(|_| take(len)).collect();
            let mut bases: Vec<_> = blocks.iter().map(|block| block.base()).collect();
            blocks.into_iter().for_each(give);
            if !oldest {
                bases.reverse();
            }
            let again: Vec<_> = (0..3).map(|_| take(len)).collect();
            assert_eq!(again.iter().map(|block| block.base()).collect::<Vec<_>>(), bases, "{len} bytes");
        }
    }

    #[test]
    fn cached_bytes_are_bounded() {
        let blocks: Vec<_> = (0..3).map(|_| take(32 << 20)).collect();
        blocks.into_iter().for_each(give);
        CACHE.with(|cache| {
            let cache = cache.borrow();
            assert_eq!(cache.bytes, 64 << 20);
            assert_eq!(cache.free.iter().map(VecDeque::len).sum::<usize>(), 2);
        });
    }
}
