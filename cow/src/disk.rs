//! What the engine needs of a disk: positional I/O on owned, aligned buffers, a barrier, and room to grow.
//!
//! The engine is generic over [`Disk`] so that the same code runs over io_uring in the daemon and over a simulated
//! disk that loses, reorders, tears and corrupts in tests. A disk's futures need not be `Send`: they belong to the
//! reactor of the thread that polls them. An operation owns its buffers until it has completed.

use std::future::Future;
use std::io;
use std::ops::{DerefMut, Range};

/// An owned range of memory whose address suits direct I/O (4096-aligned at multiples of 4096 from its start).
pub trait Buf: Send + 'static + DerefMut<Target = [u8]> {
    /// Keeps the first `at` bytes and returns the rest, so that both can be in flight at once.
    ///
    /// # Panics
    /// When `at` is past the end.
    fn split_off(&mut self, at: usize) -> Self;

    /// Puts back the piece that [`Buf::split_off`] took from the end of this one.
    fn join(&mut self, next: Self);
}

/// Memory that outlives the process; see [`Disk::survivor`].
pub trait Survivor: Send {
    /// Copies what is at `at` into all of `into`.
    ///
    /// # Panics
    /// When there is not so much.
    fn load(&self, at: usize, into: &mut [u8]);

    /// Copies `bytes` to `at`. What was stored before a call is there before what the call stores.
    ///
    /// # Panics
    /// When they do not fit.
    fn store(&mut self, at: usize, bytes: &[u8]);

    /// Makes the first `len` bytes zeroes.
    ///
    /// # Panics
    /// When there are not so many.
    fn zero(&mut self, len: usize) {
        const ZEROES: &[u8] = &[0; 64 << 10];
        for at in (0..len).step_by(ZEROES.len()) {
            self.store(at, &ZEROES[..ZEROES.len().min(len - at)]);
        }
    }

    /// Lets go of it for good: the next process finds none.
    fn discard(self: Box<Self>);
}

/// A file or device that holds a pool.
pub trait Disk: Send + Sync + 'static {
    /// The memory its I/O works on.
    type Buf: Buf;

    /// A buffer of `len` bytes with arbitrary contents; a large one at best in huge pages.
    fn alloc(&self, len: usize) -> Self::Buf;

    /// Fills the whole buffer from `offset`; a range past the end is an error of kind `UnexpectedEof`.
    fn read(&self, offset: u64, buf: Self::Buf) -> impl Future<Output = (io::Result<()>, Self::Buf)>;

    /// Writes the buffers one after the other from `offset`, in one I/O where the disk can. Not durable, and not
    /// ordered with other writes, until a [`Disk::sync`] that began after it ended has succeeded.
    fn write(
        &self,
        offset: u64,
        bufs: Vec<Self::Buf>,
    ) -> impl Future<Output = (io::Result<()>, Vec<Self::Buf>)>;

    /// Makes every write that ended before this call durable.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;

    /// Makes the disk at least `len` bytes long, with the space really allocated; what is new reads as zeroes or,
    /// on a device, as whatever it held. Fails with `StorageFull` when there is no room.
    fn grow(&self, len: u64) -> impl Future<Output = io::Result<()>>;

    /// The first bytes of a range to which writing takes longer than it will the next time, because nothing was ever written
    /// there: file systems keep note of what of a file was only reserved. The engine writes zeroes there while nobody
    /// uses the pool. A guess will do.
    fn unwritten(&self, range: Range<u64>) -> Option<Range<u64>> {
        let _ = range;
        None
    }

    /// Memory of `len` bytes that the next process to use this disk will find as this one leaves it, should this one
    /// die: with what the last one left in it, or zeroes. A power loss takes it away. `None` where there is none.
    fn survivor(&self, len: usize) -> Option<Box<dyn Survivor>> {
        let _ = len;
        None
    }

    /// The present length in bytes.
    fn len(&self) -> u64;

    /// Whether nothing is there yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
