//! Packs: objects of about 16 MiB that hold blobs of one kind, one after the other, and their own index at the end.
//!
//! Header (32 bytes): magic `cairnpak` (8), version 1 (1), kind of blobs (1), zero (6), repository id (16).
//! Then the blobs. Footer: for each blob its id (32) and stored size (4), sealed for the pack's name. Trailer (16):
//! bytes of the sealed footer (4), number of blobs (4), magic `cairnend` (8).

use bytes::Bytes;

use crate::codec::Fields;
use crate::error::{Error, Result};
use crate::ids::{BlobId, PackId};
use crate::keys::{BlobKind, Keys, NONCE, TAG};

/// Where the packs are.
pub(crate) const FOLDER: &str = "packs/";
/// A pack is finished when it has this many bytes.
pub(crate) const TARGET: usize = 16 << 20;
/// Bytes before the first blob.
pub(crate) const HEADER: usize = 32;
/// Bytes at the end, which say how long the footer is.
pub(crate) const TRAILER: usize = 16;
/// Blobs in a pack at most, which bounds its footer.
pub(crate) const MAX_BLOBS: usize = 1 << 16;

const MAGIC: &[u8; 8] = b"cairnpak";
const END: &[u8; 8] = b"cairnend";
const ENTRY: usize = 36;

/// A pack's object.
pub(crate) fn name(id: PackId) -> String {
    let digits = id.to_string();
    format!("{FOLDER}{}/{digits}", &digits[..2])
}

/// The pack whose object has this name.
pub(crate) fn id_of(name: &str) -> Option<PackId> {
    let (folder, digits) = name.strip_prefix(FOLDER)?.split_once('/')?;
    digits.starts_with(folder).then(|| digits.parse().ok())?
}

/// One blob of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) id: BlobId,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// What an index says of a pack, and what the pack says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PackRecord {
    pub(crate) id: PackId,
    pub(crate) kind: BlobKind,
    /// Of the whole object.
    pub(crate) size: u64,
    pub(crate) entries: Vec<Entry>,
}

/// A pack that is being filled.
pub(crate) struct PackBuilder {
    id: PackId,
    kind: BlobKind,
    buffer: Vec<u8>,
    entries: Vec<Entry>,
}

impl PackBuilder {
    pub(crate) fn new(keys: &Keys, kind: BlobKind) -> Result<PackBuilder> {
        // Room for all of it at once: growing would copy it again and again. What stays untouched costs nothing.
        let mut buffer = Vec::with_capacity(TARGET + crate::blob::MAX_CONTENTS);
        buffer.extend_from_slice(&header(keys, kind));
        Ok(PackBuilder { id: PackId::random()?, kind, buffer, entries: Vec::new() })
    }

    pub(crate) fn id(&self) -> PackId {
        self.id
    }

    /// Whether nothing more should go in.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= TARGET || self.entries.len() >= MAX_BLOBS
    }

    /// Appends a blob as [`crate::blob::encode`] made it; where it is.
    pub(crate) fn add(&mut self, id: BlobId, stored: &[u8]) -> Entry {
        // Below twice the target, so both fit.
        let entry = Entry { id, offset: self.buffer.len() as u32, len: stored.len() as u32 };
        self.buffer.extend_from_slice(stored);
        self.entries.push(entry);
        entry
    }

    /// The object and what an index is to say of it.
    pub(crate) fn finish(mut self, keys: &Keys) -> Result<(PackRecord, Bytes)> {
        let footer = encode_entries(&self.entries);
        let sealed = keys.seal(&place(self.id, self.kind), &footer)?;
        self.buffer.extend_from_slice(&sealed);
        self.buffer.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(END);
        let record = PackRecord {
            id: self.id,
            kind: self.kind,
            size: self.buffer.len() as u64,
            entries: self.entries,
        };
        Ok((record, self.buffer.into()))
    }
}

/// Bytes at the end of a pack that hold footer and trailer, from the trailer; at most the whole object.
pub(crate) fn tail_size(id: PackId, size: u64, trailer: &[u8]) -> Result<usize> {
    let damaged = || Error::corrupt(&name(id), "the pack's end is damaged");
    let mut fields = Fields::new(trailer.get(trailer.len().saturating_sub(TRAILER)..).ok_or_else(damaged)?);
    let (footer, count) =
        (fields.u32().ok_or_else(damaged)? as usize, fields.u32().ok_or_else(damaged)? as usize);
    let plausible = footer <= count.saturating_mul(ENTRY) + NONCE + TAG
        && count <= MAX_BLOBS
        && (HEADER + footer + TRAILER) as u64 <= size
        && fields.array().as_ref() == Some(END);
    if plausible { Ok(footer + TRAILER) } else { Err(damaged()) }
}

/// Reads footer and trailer of a pack of `size` bytes, and its header where the caller has it.
pub(crate) fn parse_tail(
    keys: &Keys,
    id: PackId,
    kind: BlobKind,
    size: u64,
    tail: &[u8],
) -> Result<PackRecord> {
    let damaged = |what: &str| Error::corrupt(&name(id), what);
    if tail_size(id, size, tail)? != tail.len() {
        return Err(damaged("the pack's end is damaged"));
    }
    let (sealed, trailer) = tail.split_at(tail.len() - TRAILER);
    let footer = keys
        .open(&place(id, kind), sealed)
        .ok_or_else(|| damaged("the pack's list of blobs does not match its checksum"))?;
    let count = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]) as usize;
    let entries = decode_entries(&mut Fields::new(&footer), count)
        .filter(|_| footer.len() == count * ENTRY)
        .ok_or_else(|| damaged("the pack's list of blobs is damaged"))?;
    let end = entries.last().map_or(HEADER as u64, |last| u64::from(last.offset) + u64::from(last.len));
    if end + tail.len() as u64 != size {
        return Err(damaged("the pack's size is not what its list of blobs says"));
    }
    Ok(PackRecord { id, kind, size, entries })
}

/// The kind of blobs in a pack, from its header.
pub(crate) fn parse_header(keys: &Keys, id: PackId, object: &[u8]) -> Result<BlobKind> {
    object
        .get(..HEADER)
        .and_then(|found| BlobKind::from_byte(found[9]).filter(|kind| found == header(keys, *kind)))
        .ok_or_else(|| Error::corrupt(&name(id), "the pack's header is damaged"))
}

/// Ids and sizes; offsets follow, for blobs lie one after the other.
pub(crate) fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
    for entry in entries {
        bytes.extend_from_slice(&entry.id.0);
        bytes.extend_from_slice(&entry.len.to_le_bytes());
    }
    bytes
}

/// What [`encode_entries`] wrote.
pub(crate) fn decode_entries(fields: &mut Fields<'_>, count: usize) -> Option<Vec<Entry>> {
    if count > MAX_BLOBS || count * ENTRY > fields.left() {
        return None;
    }
    let mut offset = HEADER as u32;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, len) = (BlobId(fields.array()?), fields.u32()?);
        entries.push(Entry { id, offset, len });
        offset = offset.checked_add(len)?;
    }
    Some(entries)
}

fn header(keys: &Keys, kind: BlobKind) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8] = 1;
    header[9] = kind as u8;
    header[16..].copy_from_slice(&keys.repo().0);
    header
}

fn place(id: PackId, kind: BlobKind) -> Vec<u8> {
    [name(id).as_bytes(), &[kind as u8]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RepoId;
    use crate::keys::MasterKey;

    #[test]
    fn footers_come_back_and_every_flipped_bit_is_found() {
        let master = MasterKey::generate().unwrap();
        for encrypted in [false, true] {
            let keys = Keys::new(RepoId([1; 16]), &master, encrypted);
            let mut builder = PackBuilder::new(&keys, BlobKind::Chunk).unwrap();
            for i in 0..3u8 {
                builder.add(BlobId([i; 32]), &vec![i; usize::from(i) * 10]);
            }
            let (record, object) = builder.finish(&keys).unwrap();
            assert_eq!(record.size, object.len() as u64);
            assert_eq!(record.entries[2], Entry { id: BlobId([2; 32]), offset: 42, len: 20 });
            let size = object.len() as u64;
            let read = |object: &[u8]| {
                let kind = parse_header(&keys, record.id, object)?;
                let tail = object.len() - tail_size(record.id, object.len() as u64, object)?;
                parse_tail(&keys, record.id, kind, size, &object[tail..])
            };
            assert_eq!(read(&object).unwrap(), record);
            for bit in (0..HEADER * 8).chain(62 * 8..object.len() * 8) {
                let mut flipped = object.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(read(&flipped).is_err(), "bit {bit}");
            }
            for len in 0..object.len() {
                assert!(read(&object[..len]).is_err(), "{len} bytes");
            }
        }
    }

    #[test]
    fn names_lead_to_packs_and_back() {
        let id = PackId([0xab; 16]);
        assert_eq!(name(id), format!("packs/ab/{id}"));
        assert_eq!(id_of(&name(id)), Some(id));
        assert_eq!(id_of(&format!("packs/aa/{id}")), None);
        assert_eq!(id_of("packs/ab/abc"), None);
    }
}
