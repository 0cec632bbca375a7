//! VMware's format. A disk may be spread over files that a text names: those are refused. What is taken is one file with
//! everything in it, `monolithicSparse` or `streamOptimized`.
//!
//! The specification is VMware's "Virtual Disk Format 5.0"; what QEMU makes of it is `block/vmdk.c`.

use std::fs::File;

use super::read_at;
use crate::error::{Error, Result};

const SECTOR: u64 = 512;
/// Where QEMU looks for the text that describes the disk, and how much of it, whatever the header says.
const TEXT_AT: u64 = SECTOR;
const TEXT_BYTES: u64 = 20 * SECTOR;
/// The parent of a disk that has none.
const NO_PARENT: &str = "ffffffff";
const TYPES: [&str; 2] = ["monolithicSparse", "streamOptimized"];
/// Bounds that QEMU has, too: sectors of a grain, entries of a table.
const MOST_GRAIN: u64 = 0x20_0000;
const MOST_ENTRIES: u64 = 512;
/// Tables of the largest disk with the smallest usual grains.
const MOST_TABLES: u64 = 16 << 20;
/// In a table: a grain of zeroes. 0 is one that was never written.
const ZERO_GRAIN: u64 = 1;
/// In the place of the first table's address: it is in a second header at the end of the file.
const AT_END: u64 = u64::MAX;

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Judges a file of `len` bytes that begins with `head`.
pub(crate) fn check(file: &File, head: &[u8], len: u64) -> Result<()> {
    if !head.starts_with(b"KDMV") {
        return Err(Error::refused(
            "this vmdk is a text that names other files, or of an old kind; they are not followed",
        )
        .with_hint("make it one image first: qemu-img convert -O qcow2"));
    }
    check_header(head)?;
    if le64(head, 56) == AT_END {
        // Three sectors from the end: a marker, the header again, and the end of the stream.
        let at = len.checked_sub(2 * SECTOR).ok_or_else(|| Error::damaged("the vmdk is cut off"))?;
        let footer = read_at(file, at, SECTOR as usize)?;
        if !footer.starts_with(b"KDMV") {
            return Err(Error::damaged("the vmdk is cut off: it does not end as it should"));
        }
        check_header(&footer)?;
        check_tables(file, &footer, len)?;
    } else {
        check_tables(file, head, len)?;
    }
    let here = len.saturating_sub(TEXT_AT).min(TEXT_BYTES);
    let text = read_at(file, TEXT_AT, usize::try_from(here).unwrap_or(0))?;
    check_text(&text)
}

/// Judges a header: `SparseExtentHeader`.
fn check_header(head: &[u8]) -> Result<()> {
    if head.len() < SECTOR as usize {
        return Err(Error::damaged("the vmdk is cut off"));
    }
    if le64(head, 12) == 0 {
        // QEMU would take its text for all there is, and open the files that it names.
        return Err(Error::refused(
            "this vmdk has no disk of its own; the files that it names are not followed",
        ));
    }
    let text_at = le64(head, 28);
    if text_at > 1 {
        return Err(Error::refused("this vmdk keeps its description in an unusual place"));
    }
    Ok(())
}

/// Checks that all data is in the file: QEMU reads what is not as zeroes.
fn check_tables(file: &File, header: &[u8], len: u64) -> Result<()> {
    let le32 = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let (capacity, grain, entries) = (le64(header, 12), le64(header, 20), le32(&header[44..48]));
    let compressed = header[77..79] != [0, 0];
    let makes_sense = (1..=MOST_GRAIN).contains(&grain) && (1..=MOST_ENTRIES).contains(&entries);
    let tables = if makes_sense { capacity.div_ceil(grain * entries) } else { u64::MAX };
    if tables > MOST_TABLES {
        return Err(Error::damaged("the vmdk is damaged: its header makes no sense"));
    }
    let cut_off = || Error::damaged("the vmdk is cut off: some of its data is not in it");
    let directory_at = le64(header, 56).checked_mul(SECTOR).ok_or_else(cut_off)?;
    let directory = read_at(file, directory_at, tables as usize * 4)?;
    for (nth, table_at) in directory.chunks_exact(4).map(le32).enumerate() {
        if table_at == 0 {
            continue;
        }
        let table = read_at(file, table_at * SECTOR, entries as usize * 4)?;
        for (entry, sector) in table.chunks_exact(4).map(le32).enumerate() {
            // The disk's last one may be shorter; a compressed one says itself how long it is.
            let at = (nth as u64 * entries + entry as u64) * grain;
            let sectors = if compressed { 1 } else { grain.min(capacity.saturating_sub(at)) };
            if sector > ZERO_GRAIN && (sector + sectors) * SECTOR > len {
                return Err(cut_off());
            }
        }
    }
    Ok(())
}

/// Judges the text that describes the disk. A disk without one stands on its own.
fn check_text(text: &[u8]) -> Result<()> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    // As QEMU looks for it: anywhere, up to the first NUL, in this spelling; a looser look refuses more.
    let text = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
    if text.contains("parentfilenamehint") {
        return Err(overlay());
    }
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "parentcid" if value != NO_PARENT => return Err(overlay()),
            "createtype" if !TYPES.iter().any(|known| known.eq_ignore_ascii_case(value)) => {
                return Err(Error::refused(format!(
                    "a vmdk of type {value:?} is spread over files, which are not followed"
                ))
                .with_hint("make it one image first: qemu-img convert -O qcow2"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn overlay() -> Error {
    Error::refused("the vmdk is an overlay: it names a parent, which is not followed")
        .with_hint("make it one image first: qemu-img convert -O qcow2 OVERLAY WHOLE")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::os::unix::fs::FileExt;

    fn header(capacity: u64, text_at: u64, table_at: u64) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..8].copy_from_slice(b"KDMV\x01\0\0\0");
        head[12..20].copy_from_slice(&capacity.to_le_bytes());
        head[20..28].copy_from_slice(&128u64.to_le_bytes());
        head[28..36].copy_from_slice(&text_at.to_le_bytes());
        head[44..48].copy_from_slice(&512u32.to_le_bytes());
        head[56..64].copy_from_slice(&table_at.to_le_bytes());
        head
    }

    fn judged(head: &[u8], text: &str, tail: &[u8]) -> Option<ErrorKind> {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(head, 0).expect("written");
        file.write_all_at(text.as_bytes(), 512).expect("written");
        file.set_len(64 << 10).expect("sized");
        file.write_all_at(tail, (64 << 10) - 1024).expect("written");
        check(&file, head, 64 << 10).err().map(|error| error.kind())
    }

    const PLAIN: &str = "# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
        RW 20480 SPARSE \"a.vmdk\"\n";

    #[test]
    fn one_file_with_everything_in_it_is_taken() {
        assert_eq!(judged(&header(100, 1, 21), PLAIN, &[]), None);
        assert_eq!(judged(&header(100, 0, 21), "", &[]), None);
        let stream = PLAIN.replace("monolithicSparse", "streamOptimized");
        assert_eq!(judged(&header(100, 1, AT_END), &stream, &header(100, 1, 21)), None);
    }

    #[test]
    fn other_files_are_never_followed() {
        let refused = Some(ErrorKind::Refused);
        assert_eq!(judged(b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n", "", &[]), refused);
        assert_eq!(judged(&header(0, 1, 21), PLAIN, &[]), refused, "nothing but a text");
        assert_eq!(judged(&header(100, 1, AT_END), PLAIN, &header(0, 1, 21)), refused, "the same at the end");
        assert_eq!(judged(&header(100, 40, 21), PLAIN, &[]), refused, "a text somewhere else");
        let parent =
            PLAIN.replace("parentCID=ffffffff", "parentCID=12345678\nparentFileNameHint=\"/etc/shadow\"");
        assert_eq!(judged(&header(100, 1, 21), &parent, &[]), refused);
        assert_eq!(judged(&header(100, 1, 21), &PLAIN.replace("ffffffff", "00000001"), &[]), refused);
        let flat = PLAIN.replace("monolithicSparse", "monolithicFlat");
        assert_eq!(judged(&header(100, 1, 21), &flat, &[]), refused);
    }

    #[test]
    fn grains_outside_of_the_file_are_found() {
        let judged = |grain: u32, capacity: u64| {
            let file = tempfile::tempfile().expect("a file");
            let head = header(capacity, 0, 21);
            file.write_all_at(&head, 0).expect("written");
            file.set_len(256 << 10).expect("sized");
            file.write_all_at(&22u32.to_le_bytes(), 21 * 512).expect("a directory");
            file.write_all_at(&grain.to_le_bytes(), 22 * 512).expect("a table");
            check(&file, &head, 256 << 10).err().map(|error| error.kind())
        };
        assert_eq!(judged(384, 1000), None);
        assert_eq!(judged(385, 1000), Some(ErrorKind::Damaged));
        assert_eq!(judged(500, 12), None, "the disk ends before the grain does");
        assert_eq!(judged(u32::MAX, 1000), Some(ErrorKind::Damaged));
        assert_eq!(judged(1, u64::MAX), Some(ErrorKind::Damaged), "more tables than can be");
    }

    #[test]
    fn a_stream_that_is_cut_off_is_told() {
        assert_eq!(judged(&header(100, 1, AT_END), PLAIN, &[]), Some(ErrorKind::Damaged));
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(check(&file, b"KDMV", 4).expect_err("cut off").kind(), ErrorKind::Damaged);
    }
}
