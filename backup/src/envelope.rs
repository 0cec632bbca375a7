//! Small objects: a header that says what one is, then its contents, sealed.
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `cairnbak` |
//! | 8 | 1 | kind |
//! | 9 | 1 | version, 1 |
//! | 10 | 1 | whether the contents are compressed |
//! | 11 | 1 | zero |
//! | 12 | 4 | size of the contents when not compressed |
//! | 16 | | the contents, sealed for this name and header |

use bytes::Bytes;

use crate::codec::Fields;
use crate::error::{Error, ErrorKind, Result};
use crate::keys::Keys;

const MAGIC: &[u8; 8] = b"cairnbak";
const HEADER: usize = 16;
/// The largest contents: what a reader is ready to keep in memory.
const MAX_CONTENTS: u32 = 256 << 20;

/// What a small object is; the folder it lies in follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Backup = 1,
    Pending = 2,
    Labels = 3,
    Index = 4,
    Condemned = 5,
    Session = 6,
    Hold = 7,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] =
        [Kind::Backup, Kind::Pending, Kind::Labels, Kind::Index, Kind::Condemned, Kind::Session, Kind::Hold];

    /// The folder that objects of this kind are in, with `/` at its end.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Kind::Backup => "backups/",
            Kind::Pending => "pending/",
            Kind::Labels => "labels/",
            Kind::Index => "index/",
            Kind::Condemned => "condemned/",
            Kind::Session => "sessions/",
            Kind::Hold => "holds/",
        }
    }

    /// The object's name.
    pub(crate) fn name(self, id: impl std::fmt::Display) -> String {
        format!("{}{id}", self.folder())
    }
}

/// The object that holds `contents` under `name`.
pub(crate) fn seal(keys: &Keys, kind: Kind, name: &str, contents: &[u8]) -> Result<Bytes> {
    let size = u32::try_from(contents.len()).ok().filter(|size| *size <= MAX_CONTENTS).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("{name} would have {} bytes: too many", contents.len()),
        )
    })?;
    let packed = lz4_flex::block::compress(contents);
    let compressed = packed.len() < contents.len();
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8] = kind as u8;
    header[9] = 1;
    header[10] = u8::from(compressed);
    header[12..].copy_from_slice(&size.to_le_bytes());
    let sealed = keys.seal(&place(name, &header), if compressed { &packed } else { contents })?;
    Ok([&header[..], &sealed].concat().into())
}

/// The contents of an object read from `name`.
pub(crate) fn open(keys: &Keys, kind: Kind, name: &str, object: &[u8]) -> Result<Vec<u8>> {
    let (header, sealed) =
        object.split_at_checked(HEADER).ok_or_else(|| Error::corrupt(name, "the object is cut short"))?;
    let mut fields = Fields::new(header);
    let (magic, found, version) = (fields.array(), fields.u8(), fields.u8());
    if magic.as_ref() != Some(MAGIC) || found != Some(kind as u8) {
        return Err(Error::corrupt(name, "the object is of another kind"));
    }
    let contents = keys.open(&place(name, header), sealed);
    // A version that the checksum vouches for, or that nobody can check, is told apart from damage where it can be.
    match (version, &contents) {
        (Some(1), _) => {}
        (Some(version), Some(_)) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{name} has version {version}, newer than this cairn"),
            ));
        }
        _ => return Err(Error::corrupt(name, "the object does not match its checksum")),
    }
    let contents = contents.ok_or_else(|| Error::corrupt(name, "the object does not match its checksum"))?;
    let (compressed, size) =
        (header[10] == 1, u32::from_le_bytes([header[12], header[13], header[14], header[15]]));
    if !compressed {
        return Ok(contents);
    }
    if size > MAX_CONTENTS {
        return Err(Error::corrupt(name, "the object is too large"));
    }
    lz4_flex::block::decompress(&contents, size as usize)
        .map_err(|e| Error::corrupt(name, "the object cannot be decompressed").because(e))
}

fn place(name: &str, header: &[u8]) -> Vec<u8> {
    [header, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RepoId;
    use crate::keys::MasterKey;

    #[test]
    fn objects_hold_their_kind_name_and_every_bit() {
        let master = MasterKey::generate().unwrap();
        let contents = b"contents contents contents contents contents".repeat(3);
        for encrypted in [false, true] {
            let keys = Keys::new(RepoId([1; 16]), &master, encrypted);
            let object = seal(&keys, Kind::Labels, "labels/1", &contents).unwrap();
            assert_eq!(open(&keys, Kind::Labels, "labels/1", &object).unwrap(), contents);
            assert!(open(&keys, Kind::Labels, "labels/2", &object).is_err());
            assert!(open(&keys, Kind::Index, "labels/1", &object).is_err());
            for bit in 0..object.len() * 8 {
                let mut flipped = object.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let error = open(&keys, Kind::Labels, "labels/1", &flipped).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}");
                assert!(error.to_string().contains("labels/1"));
            }
        }
    }
}
