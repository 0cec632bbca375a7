//! A raw disk in a tar archive, compressed by gzip: how clouds take and give disks.
//!
//! What is read may be a bomb: a few bytes that unpack to very many. The disk itself may be as large as it says; for
//! all else in the archive, what is unpacked is counted and bounded.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::rc::Rc;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use tar::{Archive, EntryType, GnuExtSparseHeader, Header};

use crate::error::{Error, Result};
use crate::raw::read_stream;
use crate::source::{Output, Source};
use crate::target::{Destination, Sink, Target};
use crate::{PIECE_BYTES, SECTOR_BYTES};

/// What the disk is called in archives that are written, as clouds want it.
const DISK_NAME: &str = "disk.raw";
/// What all but the disk may unpack to: headers, and the map of a sparse disk, which is read as a whole.
const MOST_AROUND_BYTES: u64 = 64 << 20;
/// Entries that are passed over.
const MOST_ENTRIES: usize = 1000;

fn damaged(error: io::Error) -> Error {
    Error::damaged("the archive is cut off or damaged").because(error)
}

/// Reads the one file that an archive holds.
pub(crate) struct ArchiveSource(pub(crate) Box<dyn Read + Send>);

impl Source for ArchiveSource {
    fn read(self: Box<Self>, out: &mut Output) -> Result<()> {
        let left = Rc::new(Cell::new(MOST_AROUND_BYTES));
        let unpacked = MultiGzDecoder::new(io::BufReader::with_capacity(PIECE_BYTES, self.0));
        let mut archive = Archive::new(Bounded { inner: unpacked, left: Rc::clone(&left) });
        let mut found = false;
        for (count, entry) in archive.entries().map_err(damaged)?.enumerate() {
            let mut entry = entry.map_err(damaged)?;
            if count >= MOST_ENTRIES {
                return Err(Error::refused("the archive holds too many entries"));
            }
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {}
                EntryType::Directory | EntryType::XGlobalHeader => continue,
                other => {
                    return Err(Error::refused(format!(
                        "the archive holds an entry of type {other:?}, not a file"
                    )));
                }
            }
            let extensions = entry.pax_extensions().map_err(damaged)?.into_iter().flatten();
            if extensions.flatten().any(|extension| extension.key_bytes().starts_with(b"GNU.sparse")) {
                return Err(Error::unsupported("the archive holds a sparse file in the POSIX way")
                    .with_hint("make it with tar --format=oldgnu --sparse"));
            }
            if found {
                return Err(Error::refused("the archive holds more than one file")
                    .with_hint("put only the disk into it"));
            }
            found = true;
            let size = entry.size();
            out.begin(Some(size))?;
            left.set(u64::MAX);
            read_stream(&mut entry, size, out)?;
            left.set(MOST_AROUND_BYTES);
        }
        if !found {
            return Err(Error::damaged("the archive holds no file"));
        }
        // The checksum stands at the end.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged).map(drop)
    }
}

/// A reader that ends with an error when more is read than is left.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let left = self.left.get().checked_sub(n as u64);
        self.left.set(
            left.ok_or_else(|| io::Error::other("it unpacks to more than a disk and what goes with it"))?,
        );
        Ok(n)
    }
}

/// Writes an archive that holds one sparse file, in the way of GNU tar that everybody reads.
pub(crate) struct ArchiveTarget {
    gzip: Option<GzEncoder<Sink>>,
    sink: Option<Sink>,
    ranges: std::vec::IntoIter<Range<u64>>,
    /// What is left of the range that is being written.
    current: Range<u64>,
    written: u64,
}

fn unwritable(error: io::Error) -> Error {
    Error::io("cannot write the image", error)
}

/// The headers of a file of `size` bytes that holds data in `ranges`.
fn headers(size: u64, ranges: &[Range<u64>]) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_path(DISK_NAME)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let stored: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    header.set_size(stored);
    if stored == size {
        header.set_entry_type(EntryType::Regular);
        header.set_cksum();
        return Ok(header.as_bytes().to_vec());
    }
    header.set_entry_type(EntryType::GNUSparse);
    let mut parts: Vec<(u64, u64)> =
        ranges.iter().map(|range| (range.start, range.end - range.start)).collect();
    if ranges.last().is_none_or(|last| last.end < size) {
        // So a hole at the end is told.
        parts.push((size, 0));
    }
    let gnu = header.as_gnu_mut().ok_or_else(|| io::Error::other("not a header of GNU tar"))?;
    let (first, rest) = parts.split_at(parts.len().min(gnu.sparse.len()));
    for (place, (offset, len)) in gnu.sparse.iter_mut().zip(first) {
        place.set_offset(*offset);
        place.set_length(*len);
    }
    gnu.set_is_extended(!rest.is_empty());
    gnu.set_real_size(size);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    let mut rest = rest;
    while !rest.is_empty() {
        let mut extension = GnuExtSparseHeader::new();
        let (these, others) = rest.split_at(rest.len().min(extension.sparse.len()));
        for (place, (offset, len)) in extension.sparse.iter_mut().zip(these) {
            place.set_offset(*offset);
            place.set_length(*len);
        }
        extension.set_is_extended(!others.is_empty());
        bytes.extend_from_slice(extension.as_bytes());
        rest = others;
    }
    Ok(bytes)
}

impl ArchiveTarget {
    pub(crate) fn new(destination: Destination, size: u64, ranges: Vec<Range<u64>>) -> Result<ArchiveTarget> {
        let mut gzip = GzEncoder::new(Sink::new(destination)?, Compression::fast());
        let headers = headers(size, &ranges).map_err(unwritable)?;
        gzip.write_all(&headers).map_err(unwritable)?;
        Ok(ArchiveTarget {
            gzip: Some(gzip),
            sink: None,
            ranges: ranges.into_iter(),
            current: 0..0,
            written: 0,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let gzip = self.gzip.as_mut().ok_or_else(|| Error::damaged("the archive is finished"))?;
        gzip.write_all(bytes).map_err(unwritable)
    }
}

impl Target for ArchiveTarget {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if self.current.is_empty() {
            self.current = self.ranges.next().unwrap_or(0..0);
        }
        let fits = offset == self.current.start && data.len() as u64 <= self.current.end - self.current.start;
        if !fits {
            return Err(Error::damaged(format!("data at {offset} is not where the archive has room for it")));
        }
        self.current.start += data.len() as u64;
        self.written += data.len() as u64;
        self.put(data)
    }

    fn finish(&mut self) -> Result<()> {
        let padding = self.written.next_multiple_of(SECTOR_BYTES) - self.written;
        // Two blocks of zeroes are the end.
        let zeroes = [0; 3 * SECTOR_BYTES as usize];
        self.put(&zeroes[..(padding + 2 * SECTOR_BYTES) as usize])?;
        if let Some(gzip) = self.gzip.take() {
            self.sink = Some(gzip.finish().map_err(unwritable)?);
        }
        self.sink.as_mut().map_or(Ok(()), Sink::finish)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "disks with one range of data")]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::source::{Piece, read_all};
    use std::io::{Seek, SeekFrom};

    const MIB: u64 = 1 << 20;

    fn read(bytes: Vec<u8>) -> Result<(u64, Vec<Piece>)> {
        read_all(Box::new(ArchiveSource(Box::new(io::Cursor::new(bytes)))), 1 << 40)
    }

    fn pack(tar: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(tar).expect("packed");
        gzip.finish().expect("packed")
    }

    /// What is written for a disk, as bytes.
    fn written(size: u64, ranges: &[Range<u64>]) -> Vec<u8> {
        let mut file = tempfile::tempfile().expect("a file");
        let to = Destination::File(file.try_clone().expect("a second descriptor"));
        let mut target = ArchiveTarget::new(to, size, ranges.to_vec()).expect("begun");
        for range in ranges {
            for offset in (range.start..range.end).step_by(PIECE_BYTES) {
                let len = PIECE_BYTES.min((range.end - offset) as usize);
                target.write(offset, &vec![offset as u8 | 1; len]).expect("written");
            }
        }
        target.finish().expect("finished");
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).expect("rewound");
        file.read_to_end(&mut bytes).expect("read");
        bytes
    }

    #[test]
    fn what_is_written_is_read_with_its_holes() {
        let many: Vec<_> = (0..100).map(|n| n * MIB..n * MIB + 65536).collect();
        for (size, ranges) in [
            (3 * MIB, vec![0..3 * MIB]),
            (3 * MIB + 512, vec![MIB..2 * MIB, 3 * MIB..3 * MIB + 512]),
            (20 << 30, vec![MIB..2 * MIB, (15 << 30)..(15 << 30) + MIB]),
            (100 * MIB, many),
            (1000, vec![0..1000]),
            (5 * MIB, vec![]),
        ] {
            let (read_size, pieces) = read(written(size, &ranges)).expect("read");
            assert_eq!(read_size, size);
            let sum: u64 =
                pieces.iter().map(|p| p.data.iter().filter(|byte| **byte != 0).count() as u64).sum();
            assert_eq!(sum, ranges.iter().map(|r| r.end - r.start).sum::<u64>(), "{size}");
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_or_changed_is_told() {
        let whole = written(3 * MIB, &[0..3 * MIB]);
        for len in [10, 30, whole.len() / 2, whole.len() - 1] {
            assert_eq!(read(whole[..len].to_vec()).expect_err("cut off").kind(), ErrorKind::Damaged, "{len}");
        }
        let mut changed = whole.clone();
        let checksum = changed.len() - 6;
        changed[checksum] ^= 1;
        assert_eq!(read(changed).expect_err("a wrong checksum").kind(), ErrorKind::Damaged);
        assert_eq!(read(pack(b"")).expect_err("empty").kind(), ErrorKind::Damaged);
    }

    /// One entry as a tar archive has it.
    fn entry(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("x").expect("a name");
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn what_is_not_one_plain_file_is_refused() {
        let link = entry(EntryType::Symlink, 0);
        assert_eq!(read(pack(&link)).expect_err("a link").kind(), ErrorKind::Refused);
        let mut two = entry(EntryType::Regular, 512);
        two.extend([1; 512]);
        two.extend(two.clone());
        assert_eq!(read(pack(&two)).expect_err("two files").kind(), ErrorKind::Refused);
        let huge = entry(EntryType::Regular, 1 << 50);
        assert_eq!(read(pack(&huge)).expect_err("too large").kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn a_bomb_around_the_disk_does_not_go_off() {
        for kind in [EntryType::GNULongName, EntryType::XHeader, EntryType::Directory] {
            let mut bomb = entry(kind, 1 << 30);
            bomb.resize(MOST_AROUND_BYTES as usize + (1 << 20), 0);
            assert!(read(pack(&bomb)).is_err(), "{kind:?}");
        }
        let mut bomb = entry(EntryType::Regular, 512);
        bomb.resize(MOST_AROUND_BYTES as usize + (1 << 20), 0);
        bomb[512] = 1;
        assert_eq!(read(pack(&bomb)).expect_err("a long tail").kind(), ErrorKind::Damaged);
    }
}
