//! Writing in one pass. What holds data is known beforehand, so that everything that describes it can stand before it, and
//! the image can go into a pipe.
//!
//! ```text
//! cluster 0  header
//!            refcount table │ refcount blocks │ L1 table │ L2 tables │ data, in the disk's order
//! ```
//!
//! Clusters of 64 KiB, counts of 16 bits, version 3, as `qemu-img create` makes them. Every cluster is used once.

use std::io::{self, Write};
use std::ops::Range;

use crate::error::{Error, Result};
use crate::target::{Destination, Sink, Target};
use crate::{CLUSTER_BYTES, round_up};

const CLUSTER_BITS: u32 = CLUSTER_BYTES.trailing_zeros();
/// Entries of a table of one cluster.
const TABLE_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Counts in one cluster.
const COUNTS: u64 = CLUSTER_BYTES / 2;
/// Of an entry whose cluster is used once.
const COPIED: u64 = 1 << 63;
/// Bytes of the header of version 3, its compression type and padding included.
const HEADER_LENGTH: u32 = 112;

/// How many clusters each part takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    refcount_table: u64,
    refcount_blocks: u64,
    l1: u64,
    l1_entries: u64,
    l2: u64,
    data: u64,
}

impl Layout {
    fn new(size: u64, ranges: &[Range<u64>]) -> Layout {
        let l1_entries = size.div_ceil(CLUSTER_BYTES * TABLE_ENTRIES);
        let mut layout = Layout {
            refcount_table: 1,
            refcount_blocks: 1,
            l1: (l1_entries * 8).div_ceil(CLUSTER_BYTES),
            l1_entries,
            l2: tables(ranges).count() as u64,
            data: ranges.iter().map(|range| clusters(range).end - clusters(range).start).sum(),
        };
        // The counts count the clusters that they are in.
        loop {
            let blocks = layout.total().div_ceil(COUNTS);
            let table = (blocks * 8).div_ceil(CLUSTER_BYTES);
            if (blocks, table) == (layout.refcount_blocks, layout.refcount_table) {
                return layout;
            }
            (layout.refcount_blocks, layout.refcount_table) = (blocks, table);
        }
    }

    fn refcount_blocks_at(&self) -> u64 {
        1 + self.refcount_table
    }

    fn l1_at(&self) -> u64 {
        self.refcount_blocks_at() + self.refcount_blocks
    }

    fn l2_at(&self) -> u64 {
        self.l1_at() + self.l1
    }

    fn data_at(&self) -> u64 {
        self.l2_at() + self.l2
    }

    fn total(&self) -> u64 {
        self.data_at() + self.data
    }
}

/// The clusters of a range of the disk.
fn clusters(range: &Range<u64>) -> Range<u64> {
    range.start / CLUSTER_BYTES..range.end.div_ceil(CLUSTER_BYTES)
}

/// The L2 tables that ranges need, each once, by their index.
fn tables(ranges: &[Range<u64>]) -> impl Iterator<Item = u64> + '_ {
    let mut last = None;
    let of_each = ranges.iter().flat_map(|range| {
        let Range { start, end } = clusters(range);
        start / TABLE_ENTRIES..end.div_ceil(TABLE_ENTRIES)
    });
    of_each.filter(move |table| last.replace(*table) != Some(*table))
}

/// Writes entries of 64 bits, and zeroes up to the end of their last cluster.
struct Entries<'a> {
    out: &'a mut Sink,
    written: u64,
}

impl Entries<'_> {
    fn put(&mut self, entry: u64) -> io::Result<()> {
        self.written += 8;
        self.out.write_all(&entry.to_be_bytes())
    }

    fn end(self) -> io::Result<()> {
        pad(self.out, self.written)
    }
}

/// Zeroes after so many bytes up to the end of the cluster.
fn pad(out: &mut Sink, written: u64) -> io::Result<()> {
    let zeroes = written.next_multiple_of(CLUSTER_BYTES) - written;
    io::copy(&mut io::Read::take(io::repeat(0), zeroes), out).map(drop)
}

fn header(layout: &Layout, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let table_clusters = u32::try_from(layout.refcount_table).unwrap_or(u32::MAX);
    bytes.extend(b"QFI\xfb");
    bytes.extend(3u32.to_be_bytes());
    // No backing file.
    bytes.extend([0; 12]);
    bytes.extend(CLUSTER_BITS.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    // No encryption.
    bytes.extend(0u32.to_be_bytes());
    bytes.extend(u32::try_from(layout.l1_entries).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend((layout.l1_at() * CLUSTER_BYTES).to_be_bytes());
    bytes.extend(CLUSTER_BYTES.to_be_bytes());
    bytes.extend(table_clusters.to_be_bytes());
    // No snapshots, and no features.
    bytes.extend([0; 12 + 24]);
    // Counts of 2^4 bits.
    bytes.extend(4u32.to_be_bytes());
    bytes.extend(HEADER_LENGTH.to_be_bytes());
    // Compression by zlib, padding, and no extensions.
    bytes.extend([0; 8 + 8]);
    bytes
}

/// Writes all that stands before the data.
fn describe(out: &mut Sink, layout: &Layout, size: u64, ranges: &[Range<u64>]) -> io::Result<()> {
    let header = header(layout, size);
    out.write_all(&header)?;
    pad(out, header.len() as u64)?;

    let mut table = Entries { out, written: 0 };
    for block in 0..layout.refcount_blocks {
        table.put((layout.refcount_blocks_at() + block) * CLUSTER_BYTES)?;
    }
    table.end()?;
    for _ in 0..layout.total() {
        out.write_all(&1u16.to_be_bytes())?;
    }
    pad(out, layout.total() * 2)?;

    let mut l1 = Entries { out, written: 0 };
    let mut next = 0;
    for (nth, table) in tables(ranges).enumerate() {
        (next..table).try_for_each(|_| l1.put(0))?;
        l1.put(COPIED | ((layout.l2_at() + nth as u64) * CLUSTER_BYTES))?;
        next = table + 1;
    }
    (next..layout.l1_entries).try_for_each(|_| l1.put(0))?;
    l1.end()?;

    let mut l2 = Entries { out, written: 0 };
    let mut next = 0;
    for (data, cluster) in (layout.data_at()..).zip(ranges.iter().flat_map(clusters)) {
        let table = cluster - cluster % TABLE_ENTRIES;
        if table >= next {
            // The rest of the table before; tables without data are not there.
            (next..u64::next_multiple_of(next, TABLE_ENTRIES)).try_for_each(|_| l2.put(0))?;
            next = table;
        }
        (next..cluster).try_for_each(|_| l2.put(0))?;
        l2.put(COPIED | (data * CLUSTER_BYTES))?;
        next = cluster + 1;
    }
    l2.end()
}

/// Writes a qcow2 image.
pub(crate) struct Qcow2Target {
    out: Sink,
    ranges: std::vec::IntoIter<Range<u64>>,
    /// What is left of the range that is being written.
    current: Range<u64>,
    written: u64,
}

fn unwritable(error: io::Error) -> Error {
    Error::io("cannot write the image", error)
}

impl Qcow2Target {
    /// `ranges` are ascending, and no two of them are in one cluster.
    pub(crate) fn new(destination: Destination, size: u64, ranges: Vec<Range<u64>>) -> Result<Qcow2Target> {
        let mut out = Sink::new(destination)?;
        let size = round_up(size);
        describe(&mut out, &Layout::new(size, &ranges), size, &ranges).map_err(unwritable)?;
        Ok(Qcow2Target { out, ranges: ranges.into_iter(), current: 0..0, written: 0 })
    }
}

impl Target for Qcow2Target {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if self.current.is_empty() {
            self.current = self.ranges.next().unwrap_or(0..0);
        }
        let fits = offset == self.current.start && data.len() as u64 <= self.current.end - self.current.start;
        if !fits {
            return Err(Error::damaged(format!("data at {offset} is not where the image has room for it")));
        }
        self.current.start += data.len() as u64;
        self.written += data.len() as u64;
        self.out.write_all(data).map_err(unwritable)?;
        if self.current.is_empty() {
            // Only the disk's end is not a multiple.
            pad(&mut self.out, self.written).map_err(unwritable)?;
            self.written = 0;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.out.finish()
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "disks with one range of data")]
mod tests {
    use super::*;
    use crate::qcow2::{Qcow2Source, judge};
    use crate::source::read_all;
    use std::os::unix::fs::FileExt;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// Writes a disk whose every cluster tells its number, and reads it again.
    fn round_trip(size: u64, ranges: &[Range<u64>]) {
        let file = tempfile::tempfile().expect("a file");
        let to = Destination::File(file.try_clone().expect("a second descriptor"));
        let mut target = Qcow2Target::new(to, size, ranges.to_vec()).expect("begun");
        let content = |offset: u64| ((offset / CLUSTER_BYTES) as u8).wrapping_mul(7) | 1;
        for range in ranges {
            for offset in (range.start..range.end).step_by(CLUSTER_BYTES as usize) {
                let len = CLUSTER_BYTES.min(range.end - offset) as usize;
                target.write(offset, &vec![content(offset); len]).expect("written");
            }
        }
        target.finish().expect("finished");
        let len = file.metadata().expect("there").len();
        assert_eq!(len, Layout::new(size, ranges).total() * CLUSTER_BYTES, "as long as its layout says");
        let mut head = vec![0; 112];
        file.read_exact_at(&mut head, 0).expect("a header");
        let judged = judge(&head, len, 64 << 40).expect("harmless");
        let (read, pieces) =
            read_all(Box::new(Qcow2Source::new(file, len, judged.size)), 64 << 40).expect("read");
        assert_eq!(read, round_up(size));
        let mut found = 0;
        for piece in pieces {
            for (n, byte) in piece.data.iter().enumerate() {
                let at = piece.offset + n as u64;
                let inside = ranges.iter().any(|range| range.contains(&at));
                assert_eq!(*byte, if inside { content(at) } else { 0 }, "at {at}");
                found += u64::from(inside);
            }
        }
        assert_eq!(found, ranges.iter().map(|range| range.end - range.start).sum::<u64>());
    }

    #[test]
    fn what_is_written_is_read() {
        round_trip(MIB, &[]);
        round_trip(MIB, &[0..MIB]);
        round_trip(1000, &[0..1000]);
        round_trip(10 * GIB, &[0..65536, 512 * MIB - 65536..512 * MIB + 65536, 9 * GIB..9 * GIB + MIB]);
        round_trip(
            10 * GIB,
            &[512 * MIB..513 * MIB, 514 * MIB..515 * MIB, 2 * GIB + 65536..2 * GIB + 131072],
        );
        round_trip(3 * GIB + 512, &[GIB..GIB + 65536, 3 * GIB..3 * GIB + 512]);
    }

    #[test]
    fn the_counts_count_themselves() {
        for size in [1, 512, GIB, 1 << 40, 64 << 40] {
            let layout = Layout::new(size, std::slice::from_ref(&(0..size)));
            assert!(layout.refcount_blocks * COUNTS >= layout.total(), "{layout:?}");
            assert!((layout.refcount_blocks - 1) * COUNTS < layout.total(), "{layout:?}");
            assert!(layout.refcount_table * TABLE_ENTRIES >= layout.refcount_blocks, "{layout:?}");
        }
    }

    #[test]
    fn data_that_was_not_announced_is_refused() {
        let to = || Destination::Stream(Box::new(io::sink()));
        let mut target = Qcow2Target::new(to(), MIB, vec![65536..131072]).expect("begun");
        assert!(target.write(0, &[1; 512]).is_err());
        let mut target = Qcow2Target::new(to(), MIB, vec![65536..131072]).expect("begun");
        assert!(target.write(65536, &[1; 65537]).is_err());
    }
}
