//! What a repository's objects are decoded with, for the folder `fuzz`. No part of the API.
//!
//! Seals are made right, as by somebody who has the key: in a repository without encryption, everybody who can write to it.

use crate::blob;
use crate::codec::Fields;
use crate::config;
use crate::envelope::{self, Kind};
use crate::hold;
use crate::ids::{BackupId, BlobId, HoldId, PackId, RepoId, to_hex};
use crate::index;
use crate::keys::{BlobKind, KeyFile, Keys, MasterKey};
use crate::manifest::{Backup, Geometry, Labels};
use crate::node::Node;
use crate::pack;

/// Blocks of a chunk.
const BLOCKS: u32 = 64;

/// Those of the repository with the id 01010101010101010101010101010101 and a master key of as many 07 as it has bytes.
fn keys() -> Keys {
    let master = MasterKey::from_hex(&"07".repeat(32)).expect("32 bytes");
    Keys::new(RepoId([1; 16]), &master, false)
}

/// An object: which one it is to be, then its contents.
pub fn objects(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    let keys = keys();
    match which % 10 {
        0 => manifest(&keys, Kind::Backup, bytes),
        1 => manifest(&keys, Kind::Pending, bytes),
        2 => labels(&keys, bytes),
        3 => held(&keys, bytes),
        4 => drop(index::decode(bytes)),
        5 => node(bytes),
        6 => drop(blob::decode(&keys, BlobKind::Chunk, &BlobId([0; 32]), bytes)),
        7 => footer(&keys, bytes),
        8 => compressed(&keys, bytes),
        _ => configuration(bytes),
    }
}

fn sealed(keys: &Keys, kind: Kind, name: &str, contents: &[u8]) -> Option<bytes::Bytes> {
    envelope::seal(keys, kind, name, contents).ok()
}

fn manifest(keys: &Keys, kind: Kind, contents: &[u8]) {
    let id = BackupId([2; 8]);
    let Some(object) = sealed(keys, kind, &kind.name(id), contents) else { return };
    let Ok(backup) = Backup::open(keys, kind, id, &object) else { return };
    used(keys, kind, &backup);
}

/// What was accepted can be worked with, and is the same when it was written and read once more.
fn used(keys: &Keys, kind: Kind, backup: &Backup) {
    let top = Geometry::new(backup.size, BLOCKS * 4096).map(|geometry| geometry.top());
    assert!(top.is_err() || top.is_ok_and(|level| level < 16));
    let (_, object) = backup.seal(keys, kind).expect("it was read");
    let again = Backup::open(keys, kind, backup.id, &object).expect("it was written by us");
    assert_eq!(again, *backup);
}

fn labels(keys: &Keys, contents: &[u8]) {
    let id = BackupId([2; 8]);
    let Some(object) = sealed(keys, Kind::Labels, &Kind::Labels.name(id), contents) else { return };
    if let Ok(labels) = Labels::open(keys, id, &object) {
        let _ = labels.check();
        let (_, object) = labels.seal(keys, id).expect("they were read");
        assert_eq!(Labels::open(keys, id, &object).expect("they were written by us"), labels);
    }
}

fn held(keys: &Keys, contents: &[u8]) {
    let id = HoldId([3; 16]);
    let Some(object) = sealed(keys, Kind::Hold, &Kind::Hold.name(id), contents) else { return };
    if let Ok(backup) = hold::open(keys, id, &object) {
        used(keys, Kind::Backup, &backup);
    }
}

fn node(bytes: &[u8]) {
    let Some((level, bytes)) = bytes.split_first() else { return };
    let Some(node) = Node::decode(bytes, *level, BLOCKS) else { return };
    let once = node.encode();
    let again = Node::decode(&once, *level, BLOCKS).expect("it was written by us");
    assert_eq!(again.encode(), once);
    let _chunks = match &node {
        Node::Leaf(leaf) => leaf.chunks(),
        Node::Inner(inner) => inner.chunks(),
    };
}

/// A pack's end: what the trailer says (8 bytes), then its list of blobs.
fn footer(keys: &Keys, bytes: &[u8]) {
    let id = PackId([4; 16]);
    let Some((trailer, list)) = bytes.split_at_checked(8) else { return };
    let mut fields = Fields::new(trailer);
    let (Some(size), Some(count)) = (fields.u32(), fields.u32()) else { return };
    let place = [pack::name(id).as_bytes(), &[BlobKind::Chunk as u8]].concat();
    let Ok(mut tail) = keys.seal(&place, list) else { return };
    tail.extend_from_slice(&(tail.len() as u32).to_le_bytes());
    tail.extend_from_slice(&count.to_le_bytes());
    tail.extend_from_slice(b"cairnend");
    if let Ok(record) = pack::parse_tail(keys, id, BlobKind::Chunk, u64::from(size), &tail) {
        assert_eq!(record.entries.len(), count as usize);
    }
    let _ = pack::tail_size(id, u64::from(size), bytes);
    let _ = pack::parse_header(keys, id, bytes);
}

/// A compressed object: the size that it claims (4 bytes), then what is to be decompressed.
fn compressed(keys: &Keys, bytes: &[u8]) {
    let Some((size, contents)) = bytes.split_first_chunk() else { return };
    // No more than this at once: what there is room for is bounded by a constant.
    let size = u32::from_le_bytes(*size) % (1 << 20);
    let name = "index/1";
    let header = [b"cairnbak", &[Kind::Index as u8, 1, 1, 0][..], &size.to_le_bytes()].concat();
    let Ok(sealed) = keys.seal(&[&header, name.as_bytes()].concat(), contents) else { return };
    if let Ok(contents) = envelope::open(keys, Kind::Index, name, &[header, sealed].concat()) {
        drop(index::decode(&contents));
    }
}

/// A config object with this text, and both of its hashes right.
fn configuration(bytes: &[u8]) {
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    let keys = keys();
    let mac = keys.config_mac(json.as_bytes());
    let line = to_hex(&[blake3::hash(json.as_bytes()).as_bytes().as_slice(), mac.as_bytes()].concat());
    let object = format!("{json}\n{line}\n");
    let Ok(user) = KeyFile::parse(&[5; 32]) else { return };
    for user in [None, Some(&user)] {
        let _ = config::read(object.as_bytes(), user);
        let _ = config::read(bytes, user);
    }
}
