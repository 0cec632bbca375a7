//! What a qcow2 file says of itself, judged before anything else looks at it.

use crate::error::{Error, Result, check_size};

/// All of the header that is looked at.
pub(crate) const HEADER_BYTES: usize = 112;
/// QEMU's bound on the table of tables, which is read as a whole.
const MOST_L1_BYTES: u64 = 32 << 20;

/// Bits of `incompatible_features`: what a reader must understand.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// What reads an image that was found harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    /// imago, in this process.
    Imago,
    /// QEMU: for zstd and for subclusters.
    Qemu,
}

/// A header that was found harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Judged {
    /// Bytes of the disk.
    pub(crate) size: u64,
    pub(crate) reader: Reader,
}

/// Judges the first [`HEADER_BYTES`] of a file of `len` bytes, if it has so many.
pub(crate) fn judge(head: &[u8], len: u64, most: u64) -> Result<Judged> {
    let cut_off = || Error::damaged("the qcow2 header is cut off");
    let bytes = |at: usize, len: usize| head.get(at..at + len).ok_or_else(cut_off);
    let be32 = |at| bytes(at, 4).map(|b| b.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)));
    let be64 = |at| bytes(at, 8).map(|b| b.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte)));
    if bytes(0, 4)? != b"QFI\xfb" {
        return Err(Error::damaged("this is no qcow2 image"));
    }
    let version = be32(4)?;
    if !(2..=3).contains(&version) {
        return Err(Error::unsupported(format!("version {version} of qcow2 is not known")));
    }
    if be64(8)? != 0 || be32(16)? != 0 {
        return Err(Error::refused(
            "the image is an overlay: it names a backing file, which is not followed",
        )
        .with_hint("make it one image first: qemu-img convert -O qcow2 OVERLAY WHOLE"));
    }
    let cluster_bits = be32(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Error::damaged(format!(
            "a cluster of 2^{cluster_bits} bytes is outside of the specification"
        )));
    }
    if be32(32)? != 0 {
        return Err(
            Error::unsupported("the image is encrypted").with_hint("decrypt it first: qemu-img convert")
        );
    }
    let size = be64(24)?;
    check_size(size, most)?;
    let (l1_entries, l1_offset) = (u64::from(be32(36)?), be64(40)?);
    // Clusters that one table of an eighth as many entries as it has bytes maps.
    let mapped_by_table = 1u64 << (2 * cluster_bits - 3);
    let l1_end = l1_offset.checked_add(l1_entries * 8);
    if l1_entries < size.div_ceil(mapped_by_table)
        || l1_entries * 8 > MOST_L1_BYTES
        || !l1_offset.is_multiple_of(1 << cluster_bits)
        || l1_end.is_none_or(|end| end > len)
    {
        return Err(Error::damaged("the qcow2 image is cut off or damaged: its first table is not in it"));
    }
    let incompatible = if version == 3 { be64(72)? } else { 0 };
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(Error::refused("the image keeps its data in another file, which is not followed")
            .with_hint("make it one image first: qemu-img convert -O qcow2"));
    }
    if incompatible & CORRUPT != 0 {
        return Err(Error::damaged("the image is marked as corrupt")
            .with_hint("repair it first: qemu-img check -r all"));
    }
    // Counts of references may be wrong in a dirty image; they do not matter for reading.
    let known = DIRTY | COMPRESSION_TYPE | EXTENDED_L2;
    if incompatible & !known != 0 {
        let unknown = incompatible & !known;
        return Err(Error::unsupported(format!(
            "the image needs features that are not known ({unknown:#x})"
        )));
    }
    let reader =
        if incompatible & (COMPRESSION_TYPE | EXTENDED_L2) != 0 { Reader::Qemu } else { Reader::Imago };
    Ok(Judged { size, reader })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn header() -> Vec<u8> {
        let mut head = vec![0; HEADER_BYTES];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[23] = 16;
        head[24..32].copy_from_slice(&(10u64 << 30).to_be_bytes());
        head[36..40].copy_from_slice(&20u32.to_be_bytes());
        head[40..48].copy_from_slice(&(3u64 << 16).to_be_bytes());
        head
    }

    fn kind(at: usize, bytes: &[u8]) -> Option<ErrorKind> {
        let mut head = header();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        judge(&head, 1 << 20, 1 << 40).err().map(|error| error.kind())
    }

    #[test]
    fn a_plain_image_is_taken() {
        let judged = judge(&header(), 1 << 20, 1 << 40).expect("harmless");
        assert_eq!(judged, Judged { size: 10 << 30, reader: Reader::Imago });
        assert_eq!(kind(79, &[1]), None, "dirty");
        let mut zstd = header();
        zstd[79] = 8;
        assert_eq!(judge(&zstd, 1 << 20, 1 << 40).expect("harmless").reader, Reader::Qemu);
    }

    #[test]
    fn other_files_are_never_followed() {
        assert_eq!(kind(15, &[200]), Some(ErrorKind::Refused), "a backing file");
        assert_eq!(kind(19, &[9]), Some(ErrorKind::Refused), "half of one");
        assert_eq!(kind(79, &[4]), Some(ErrorKind::Refused), "external data");
    }

    #[test]
    fn what_cannot_be_is_damaged() {
        assert_eq!(kind(0, b"QFI\xfa"), Some(ErrorKind::Damaged));
        assert_eq!(kind(4, &[0, 0, 0, 4]), Some(ErrorKind::Unsupported));
        assert_eq!(kind(23, &[8]), Some(ErrorKind::Damaged), "tiny clusters");
        assert_eq!(kind(20, &[0xff; 4]), Some(ErrorKind::Damaged), "huge clusters");
        assert_eq!(kind(24, &[0; 8]), Some(ErrorKind::Damaged), "no bytes");
        assert_eq!(kind(24, &[0xff; 8]), Some(ErrorKind::TooLarge));
        assert_eq!(kind(36, &[0, 0, 0, 19]), Some(ErrorKind::Damaged), "too short a table");
        assert_eq!(kind(36, &[0xff; 4]), Some(ErrorKind::Damaged), "too long a table");
        assert_eq!(kind(40, &[0xff; 8]), Some(ErrorKind::Damaged), "a table far away");
        assert_eq!(kind(47, &[1]), Some(ErrorKind::Damaged), "a table askew");
        assert_eq!(kind(35, &[1]), Some(ErrorKind::Unsupported), "encrypted");
        assert_eq!(kind(79, &[2]), Some(ErrorKind::Damaged), "marked as corrupt");
        assert_eq!(kind(72, &[1]), Some(ErrorKind::Unsupported), "a feature of the future");
        for len in 0..HEADER_BYTES {
            let judged = judge(&header()[..len], len as u64, 1 << 40);
            assert_eq!(judged.expect_err("cut off").kind(), ErrorKind::Damaged, "{len}");
        }
    }
}
