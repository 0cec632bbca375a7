//! Memory that a file lends: what is stored in it outlives the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{Ordering, compiler_fence};

/// The first bytes of a file, mapped. Meant for a file in memory (tmpfs) that only this process uses: pages of another
/// file system may be written back, and waited for, at any time.
///
/// It is reached by copies only, so that no reference to memory that others could change ever exists. Should the file
/// be made shorter than what is mapped, the process gets `SIGBUS` where it touches what is gone.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and stays where it is; nothing in it depends on a thread.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Maps the first `len` bytes of a file that is open for reading and writing.
    ///
    /// # Errors
    /// `InvalidInput` when the file is shorter or `len` is 0; else what `mmap(2)` says.
    pub fn of(file: &File, len: usize) -> io::Result<SharedMemory> {
        if len == 0 || file.metadata()?.len() < len as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is shorter than the mapping"));
        }
        // SAFETY: a new mapping at an address of the kernel's choice, so it overlaps nothing that is in use; the kernel
        // checks the descriptor and keeps the mapping, whatever becomes of that, until `munmap`.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedMemory { base, len })
    }

    /// Bytes that are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: see [`SharedMemory::of`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies what is at `at` into all of `into`.
    ///
    /// # Panics
    /// When `into` is longer than what is there.
    pub fn load(&self, at: usize, into: &mut [u8]) {
        let fits = at.checked_add(into.len()).is_some_and(|end| end <= self.len);
        assert!(fits, "a load past the end of shared memory");
        // SAFETY: `at` lies in the mapping, by the check above.
        let from = unsafe { self.base.as_ptr().add(at) };
        // SAFETY: `from` and all bytes that `into` takes lie in the mapping, by the check above; `into` is memory of ours
        // that the mapping does not overlap.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copies `bytes` to `at`. Whoever finds anything of them there after the death of this process finds all that was
    /// stored by earlier calls, too: a process dies between two instructions, and the compiler keeps calls in order.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn store(&mut self, at: usize, bytes: &[u8]) {
        let fits = at.checked_add(bytes.len()).is_some_and(|end| end <= self.len);
        assert!(fits, "a store past the end of shared memory");
        // SAFETY: `at` lies in the mapping, by the check above.
        let to = unsafe { self.base.as_ptr().add(at) };
        compiler_fence(Ordering::Release);
        // SAFETY: `to` and all `bytes.len()` bytes from it lie in the mapping, by the check above; `bytes` is memory of
        // ours that the mapping does not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
        compiler_fence(Ordering::Release);
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and nothing uses it any more. It cannot fail for such a range.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_there_for_the_next_mapping() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(10_000).expect("grows");
        let mut first = SharedMemory::of(&file, 10_000).expect("maps");
        first.store(9_995, b"cairn");
        drop(first);
        let mut seen = vec![1; 10_000];
        SharedMemory::of(&file, 10_000).expect("maps").load(0, &mut seen);
        assert_eq!((&seen[9_995..], seen[..9_995].iter().all(|b| *b == 0)), (&b"cairn"[..], true));
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4095).expect("grows");
        for len in [0, 4096] {
            let refused = SharedMemory::of(&file, len).expect_err("too long");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn a_store_past_the_end_panics() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("grows");
        SharedMemory::of(&file, 4096).expect("maps").store(4090, b"too long");
    }
}
