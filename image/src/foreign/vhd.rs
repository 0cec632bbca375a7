//! The older format of Hyper-V. A fixed disk is a raw one with a footer; a dynamic one has a table of blocks.
//!
//! The specification is Microsoft's "Virtual Hard Disk Image Format Specification".

use std::fs::File;

use super::read_at;
use crate::error::{Error, Result};

/// Bytes of a footer.
const FOOTER: u64 = 512;
const MAGIC: &[u8] = b"conectix";
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
/// In the table: the block was never written.
const UNUSED: u32 = u32::MAX;
/// Entries of the longest table: 2 TiB in blocks of 2 MiB have half as many.
const MOST_BLOCKS: u32 = 2 << 20;
/// Table entries that are read at a time.
const STEP: usize = 16 << 10;

/// Which kind of disk it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Vhd {
    /// The disk's bytes and then the footer.
    Fixed,
    /// Blocks as they were written.
    Dynamic,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// Whether `tail`, a file's last 512 bytes, are the footer of a fixed disk: its checksum must fit, since a disk's own last
/// bytes may be anything.
pub(crate) fn is_fixed(tail: &[u8]) -> bool {
    is_footer(tail) && be32(tail, 60) == FIXED
}

fn is_footer(bytes: &[u8]) -> bool {
    if bytes.len() as u64 != FOOTER || !bytes.starts_with(MAGIC) {
        return false;
    }
    // All bytes but the checksum's own.
    let sum = bytes.iter().enumerate().filter(|(at, _)| !(64..68).contains(at));
    let sum = sum.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    be32(bytes, 64) == !sum
}

/// The size of a fixed disk with this footer.
pub(crate) fn fixed_size(tail: &[u8]) -> u64 {
    be64(tail, 48)
}

/// Judges a file of `len` bytes that ends with `tail`.
pub(crate) fn judge(file: &File, tail: &[u8], len: u64) -> Result<Vhd> {
    if !is_footer(tail) {
        return Err(Error::damaged("the vhd is cut off or damaged: its footer is not at its end"));
    }
    match be32(tail, 60) {
        FIXED if fixed_size(tail).checked_add(FOOTER) == Some(len) => Ok(Vhd::Fixed),
        FIXED => Err(Error::damaged("the vhd is cut off or damaged: it is not as long as its disk")),
        DYNAMIC => check_blocks(file, be64(tail, 16), len).map(|()| Vhd::Dynamic),
        DIFFERENCING => {
            Err(Error::refused("the vhd is an overlay: it names a parent, which is not followed")
                .with_hint("merge it with its parent first"))
        }
        other => Err(Error::unsupported(format!("a vhd of kind {other} is not known"))),
    }
}

/// Checks that all blocks are in the file: QEMU reads what is not as zeroes.
fn check_blocks(file: &File, header_at: u64, len: u64) -> Result<()> {
    let header = read_at(file, header_at, 1024)?;
    if !header.starts_with(b"cxsparse") {
        return Err(Error::damaged("the vhd is damaged: its header is not where the footer says"));
    }
    let (table_at, blocks, block) = (be64(&header, 16), be32(&header, 28), be32(&header, 32));
    if blocks > MOST_BLOCKS || !block.is_power_of_two() || block < FOOTER as u32 {
        return Err(Error::damaged("the vhd is damaged: its header makes no sense"));
    }
    // Before its data a block has a bit for each of its sectors, in whole sectors.
    let block_bytes = u64::from(block) + (u64::from(block) / FOOTER).div_ceil(8).next_multiple_of(FOOTER);
    let mut at = table_at;
    let mut left = blocks as usize;
    while left > 0 {
        let count = left.min(STEP);
        for entry in read_at(file, at, count * 4)?.chunks_exact(4).map(|entry| be32(entry, 0)) {
            let end = u64::from(entry) * FOOTER + block_bytes;
            if entry != UNUSED && end > len.saturating_sub(FOOTER) {
                return Err(Error::damaged("the vhd is cut off: some of its blocks are not in it"));
            }
        }
        at = at.saturating_add(count as u64 * 4);
        left -= count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::os::unix::fs::FileExt;

    fn footer(kind: u32, size: u64, header_at: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[16..24].copy_from_slice(&header_at.to_be_bytes());
        bytes[48..56].copy_from_slice(&size.to_be_bytes());
        bytes[60..64].copy_from_slice(&kind.to_be_bytes());
        let sum = bytes.iter().fold(0u32, |sum, byte| sum + u32::from(*byte));
        bytes[64..68].copy_from_slice(&(!sum).to_be_bytes());
        bytes
    }

    #[test]
    fn a_footer_is_believed_only_with_its_checksum() {
        let mut tail = footer(FIXED, 1 << 20, 0);
        assert!(is_fixed(&tail));
        tail[100] = 1;
        assert!(!is_fixed(&tail));
        assert!(!is_fixed(&footer(DYNAMIC, 1 << 20, 0)) && !is_fixed(b"conectix"));
    }

    #[test]
    fn kinds_are_told_apart() {
        let file = tempfile::tempfile().expect("a file");
        let judged = |tail: &[u8], len| judge(&file, tail, len).map_err(|error| error.kind());
        assert_eq!(judged(&footer(FIXED, 1 << 20, 0), (1 << 20) + 512), Ok(Vhd::Fixed));
        assert_eq!(judged(&footer(FIXED, 1 << 20, 0), 1 << 20), Err(ErrorKind::Damaged));
        assert_eq!(judged(&footer(FIXED, u64::MAX, 0), 511), Err(ErrorKind::Damaged));
        assert_eq!(judged(&footer(DIFFERENCING, 1 << 20, 0), 1 << 20), Err(ErrorKind::Refused));
        assert_eq!(judged(&footer(9, 1 << 20, 0), 1 << 20), Err(ErrorKind::Unsupported));
        assert_eq!(judged(&[0; 512], 1 << 20), Err(ErrorKind::Damaged));
    }

    #[test]
    fn blocks_outside_of_the_file_are_found() {
        let judged = |entries: &[u32], len: u64| {
            let file = tempfile::tempfile().expect("a file");
            let mut header = vec![0; 1024];
            header[..8].copy_from_slice(b"cxsparse");
            header[16..24].copy_from_slice(&1536u64.to_be_bytes());
            header[28..32].copy_from_slice(&(entries.len() as u32).to_be_bytes());
            header[32..36].copy_from_slice(&(2u32 << 20).to_be_bytes());
            file.write_all_at(&header, 512).expect("written");
            for (n, entry) in entries.iter().enumerate() {
                file.write_all_at(&entry.to_be_bytes(), 1536 + n as u64 * 4).expect("written");
            }
            file.set_len(len).expect("sized");
            judge(&file, &footer(DYNAMIC, 4 << 20, 512), len).map_err(|error| error.kind())
        };
        // A block of 2 MiB with its sector of bits, after 2 KiB.
        let end = 2048 + 512 + (2 << 20) + 512;
        assert_eq!(judged(&[UNUSED, 4], end), Ok(Vhd::Dynamic));
        assert_eq!(judged(&[UNUSED, 4], end - 1), Err(ErrorKind::Damaged));
        assert_eq!(judged(&[UNUSED, UNUSED - 1], end), Err(ErrorKind::Damaged));
    }
}
