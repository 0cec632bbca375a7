//! What is backed up, and what is restored to.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Which parts of a volume are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extents {
    /// All that may hold anything but zeroes.
    Data,
    /// All that may differ from the base of an incremental backup, trims included, and past the base's end all that
    /// may hold anything but zeroes.
    Changed,
}

/// A volume at one point in time: a snapshot. Nothing in it may change while it is backed up.
pub trait Source: Send + Sync + 'static {
    /// Bytes of the volume.
    fn size(&self) -> u64;

    /// Parts of `range`, of any number, order and alignment; saying too much costs time, saying too little loses data.
    /// A range is 4 GiB at most, so an answer has at most a million extents of 4 KiB.
    fn extents(&self, which: Extents, range: Range<u64>) -> BoxFuture<'_, io::Result<Vec<Range<u64>>>>;

    /// Exactly the bytes of some ranges, one after another: a MiB at most, all within the volume, in ascending order.
    /// Several reads are under way at once.
    fn read(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, io::Result<Bytes>>;
}

/// What a backup is restored to. Calls come one at a time, in ascending order, and together cover the whole volume.
pub trait Sink: Send + Sync {
    /// Takes data.
    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>>;

    /// Takes note of zeroes. What is known to be empty has nothing to do; what may hold other data must clear it.
    fn hole(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<()>>;
}
