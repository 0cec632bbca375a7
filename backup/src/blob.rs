//! Blobs: chunks and nodes as they lie in a pack. Compressed where that saves something, encrypted where the
//! repository is, and named by the hash of their contents, which every reader checks.
//!
//! Stored is: in an encrypted repository the nonce (24); codec (1: 0 as is, 1 LZ4); size of the contents (4); the
//! contents; in an encrypted repository the tag (16), which also covers the repository's and the blob's id.

use crate::error::Result;
use crate::ids::BlobId;
use crate::keys::{BlobKind, Keys, NONCE, TAG};

const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;
const PREAMBLE: usize = 5;

/// The largest contents of a blob: a chunk of the largest size. Nodes are smaller.
pub(crate) const MAX_CONTENTS: usize = 1 << 20;
/// The most that is stored for a blob.
pub(crate) const MAX_STORED: usize = NONCE + PREAMBLE + MAX_CONTENTS + TAG;

/// What is stored for `contents`, whose id is `id`.
pub(crate) fn encode(keys: &Keys, id: &BlobId, contents: &[u8]) -> Result<Vec<u8>> {
    let head = if keys.encrypted() { NONCE } else { 0 } + PREAMBLE;
    let mut stored = vec![0; head + lz4_flex::block::get_maximum_output_size(contents.len())];
    let packed = lz4_flex::block::compress_into(contents, &mut stored[head..]).ok();
    // Less than a thirty-second saved is not worth decompressing for.
    match packed.filter(|packed| *packed < contents.len() - contents.len() / 32) {
        Some(packed) => {
            stored.truncate(head + packed);
            stored[head - PREAMBLE] = CODEC_LZ4;
        }
        None => {
            stored.truncate(head);
            stored.extend_from_slice(contents);
            stored[head - PREAMBLE] = CODEC_RAW;
        }
    }
    stored[head - 4..head].copy_from_slice(&(contents.len() as u32).to_le_bytes());
    keys.encrypt_blob(id, &mut stored)?;
    // It waits for its pack to fill: what compression saved must not stay allocated meanwhile.
    stored.shrink_to_fit();
    Ok(stored)
}

/// The contents of a stored blob; nothing if they are not those that `id` names.
pub(crate) fn decode(keys: &Keys, kind: BlobKind, id: &BlobId, stored: &[u8]) -> Option<Vec<u8>> {
    let opened;
    let plain = if keys.encrypted() {
        opened = keys.decrypt_blob(id, stored)?;
        &opened
    } else {
        stored
    };
    let (preamble, body) = plain.split_at_checked(PREAMBLE)?;
    let size = u32::from_le_bytes(preamble[1..].try_into().ok()?) as usize;
    if size > MAX_CONTENTS {
        return None;
    }
    let contents = match preamble[0] {
        CODEC_RAW if body.len() == size => body.to_vec(),
        CODEC_LZ4 => {
            lz4_flex::block::decompress(body, size).ok().filter(|contents| contents.len() == size)?
        }
        _ => return None,
    };
    (keys.blob_id(kind, &contents) == *id).then_some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RepoId;
    use crate::keys::MasterKey;

    #[test]
    fn every_flipped_bit_and_every_other_name_is_found() {
        let master = MasterKey::generate().unwrap();
        let random: Vec<u8> = (0..8).flat_map(|_| crate::ids::random::<32>().unwrap()).collect();
        for encrypted in [false, true] {
            let keys = Keys::new(RepoId([1; 16]), &master, encrypted);
            for contents in [&b""[..], b"x", &[7; 5000], &random] {
                let id = keys.blob_id(BlobKind::Chunk, contents);
                let stored = encode(&keys, &id, contents).unwrap();
                assert_eq!(decode(&keys, BlobKind::Chunk, &id, &stored).unwrap(), contents);
                assert!(decode(&keys, BlobKind::Node, &id, &stored).is_none());
                assert!(decode(&keys, BlobKind::Chunk, &BlobId([0; 32]), &stored).is_none());
                for bit in 0..stored.len() * 8 {
                    let mut flipped = stored.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    let read = decode(&keys, BlobKind::Chunk, &id, &flipped);
                    // LZ4 may say the same in other bytes; what counts is that other contents never come out.
                    assert!(read.is_none_or(|read| read == contents), "bit {bit}");
                }
            }
        }
    }
}
