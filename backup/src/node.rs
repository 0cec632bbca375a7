//! Nodes of a backup's map: the tree that leads from a volume's offset to its chunks.
//!
//! A leaf has an entry for each of 256 chunks, an inner node one for each of 256 nodes below. What they point to is
//! named by its hash, so a node that did not change is the same node and an incremental backup only adds what did.
//! Beside the name stands a hint: the pack that held it when the node was written. A reader that follows hints needs
//! no index; where a hint fails, because a collection moved the blob, the index knows.
//!
//! A node is: version 1 (1), level (1; 0 is a leaf), packs that hints name (2), their ids (16 each), then 256
//! entries: kind (1) and
//!
//! | kind | fields |
//! |---|---|
//! | 0 | a hole: nothing |
//! | 1 | leaf: a chunk: reference |
//! | 2 | leaf: a chunk and a patch for some of its blocks: reference, reference, the blocks (32: a bit each) |
//! | 3 | inner: a node: reference, chunks below (8) |
//!
//! A reference is an id (32), place of the pack in the list (2; 65,535: no hint), offset (4), stored size (4).

use std::collections::HashMap;

use crate::blocks::Blocks;
use crate::codec::Fields;
use crate::ids::{BlobId, PackId};
use crate::index::Place;

/// Entries of a node.
pub(crate) const FANOUT: usize = 256;
const NO_HINT: u16 = u16::MAX;
const REFERENCE: usize = 42;

/// What names a blob, and where it was when this was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference {
    pub(crate) id: BlobId,
    pub(crate) hint: Option<Place>,
}

impl PartialEq for Reference {
    /// Hints tell nothing of what is meant.
    fn eq(&self, other: &Reference) -> bool {
        self.id == other.id
    }
}

/// One chunk of a volume.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Chunk {
    /// Zeroes.
    Hole,
    /// All of it in one blob.
    Whole(Reference),
    /// As in `base`, but for `blocks`, which follow each other in `patch`.
    Patched { base: Reference, patch: Reference, blocks: Blocks },
}

/// A node below an inner one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Child {
    pub(crate) node: Reference,
    /// Chunks below that are no holes.
    pub(crate) chunks: u64,
}

/// A node of either sort.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

/// 256 chunks.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Leaf(pub(crate) Vec<Chunk>);

/// 256 nodes, all of the level below.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Inner {
    pub(crate) level: u8,
    pub(crate) children: Vec<Option<Child>>,
}

impl Leaf {
    pub(crate) fn empty() -> Leaf {
        Leaf(vec![Chunk::Hole; FANOUT])
    }

    pub(crate) fn chunks(&self) -> u64 {
        self.0.iter().filter(|chunk| **chunk != Chunk::Hole).count() as u64
    }
}

impl Inner {
    pub(crate) fn empty(level: u8) -> Inner {
        Inner { level, children: vec![None; FANOUT] }
    }

    pub(crate) fn chunks(&self) -> u64 {
        // Whoever wrote the node may have put down anything.
        self.children.iter().flatten().fold(0, |sum, child| sum.saturating_add(child.chunks))
    }
}

impl Chunk {
    /// What it refers to.
    pub(crate) fn references(&self) -> impl Iterator<Item = Reference> {
        match *self {
            Chunk::Hole => [None, None],
            Chunk::Whole(chunk) => [Some(chunk), None],
            Chunk::Patched { base, patch, .. } => [Some(base), Some(patch)],
        }
        .into_iter()
        .flatten()
    }
}

struct Encoder {
    packs: HashMap<PackId, u16>,
    list: Vec<u8>,
    entries: Vec<u8>,
}

impl Encoder {
    fn reference(&mut self, reference: &Reference) {
        self.entries.extend_from_slice(&reference.id.0);
        let (pack, offset, len) = match reference.hint {
            None => (NO_HINT, 0, 0),
            Some(place) => {
                // At most two references an entry, so the number of packs fits.
                let next = self.packs.len() as u16;
                let pack = *self.packs.entry(place.pack).or_insert_with(|| {
                    self.list.extend_from_slice(&place.pack.0);
                    next
                });
                (pack, place.offset, place.len)
            }
        };
        self.entries.extend_from_slice(&pack.to_le_bytes());
        self.entries.extend_from_slice(&offset.to_le_bytes());
        self.entries.extend_from_slice(&len.to_le_bytes());
    }

    fn finish(self, level: u8) -> Vec<u8> {
        let mut node = vec![1, level];
        node.extend_from_slice(&(self.packs.len() as u16).to_le_bytes());
        node.extend_from_slice(&self.list);
        node.extend_from_slice(&self.entries);
        node
    }
}

impl Node {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder { packs: HashMap::new(), list: Vec::new(), entries: Vec::new() };
        match self {
            Node::Leaf(leaf) => {
                for chunk in &leaf.0 {
                    match chunk {
                        Chunk::Hole => encoder.entries.push(0),
                        Chunk::Whole(chunk) => {
                            encoder.entries.push(1);
                            encoder.reference(chunk);
                        }
                        Chunk::Patched { base, patch, blocks } => {
                            encoder.entries.push(2);
                            encoder.reference(base);
                            encoder.reference(patch);
                            for word in blocks.words() {
                                encoder.entries.extend_from_slice(&word.to_le_bytes());
                            }
                        }
                    }
                }
                encoder.finish(0)
            }
            Node::Inner(inner) => {
                for child in &inner.children {
                    match child {
                        None => encoder.entries.push(0),
                        Some(child) => {
                            encoder.entries.push(3);
                            encoder.reference(&child.node);
                            encoder.entries.extend_from_slice(&child.chunks.to_le_bytes());
                        }
                    }
                }
                encoder.finish(inner.level)
            }
        }
    }

    /// What [`Node::encode`] made, of the level it must have, in a repository whose chunks have `blocks` blocks.
    pub(crate) fn decode(bytes: &[u8], level: u8, blocks: u32) -> Option<Node> {
        let mut fields = Fields::new(bytes);
        if fields.u8()? != 1 || fields.u8()? != level {
            return None;
        }
        let count = usize::from(fields.u16()?);
        if count * 16 > fields.left() {
            return None;
        }
        let packs = (0..count).map(|_| fields.array().map(PackId)).collect::<Option<Vec<_>>>()?;
        let node = if level == 0 {
            let mut chunks = Vec::with_capacity(FANOUT);
            for _ in 0..FANOUT {
                chunks.push(match fields.u8()? {
                    0 => Chunk::Hole,
                    1 => Chunk::Whole(decode_reference(&mut fields, &packs)?),
                    2 => {
                        let base = decode_reference(&mut fields, &packs)?;
                        let patch = decode_reference(&mut fields, &packs)?;
                        let set =
                            Blocks::from_words([fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?]);
                        Chunk::Patched { base, patch, blocks: Some(set).filter(|set| set.fits(blocks))? }
                    }
                    _ => return None,
                });
            }
            Node::Leaf(Leaf(chunks))
        } else {
            let mut children = Vec::with_capacity(FANOUT);
            for _ in 0..FANOUT {
                children.push(match fields.u8()? {
                    0 => None,
                    3 => Some(Child { node: decode_reference(&mut fields, &packs)?, chunks: fields.u64()? }),
                    _ => return None,
                });
            }
            Node::Inner(Inner { level, children })
        };
        (fields.left() == 0).then_some(node)
    }
}

fn decode_reference(fields: &mut Fields<'_>, packs: &[PackId]) -> Option<Reference> {
    let id = BlobId(fields.array()?);
    let (pack, offset, len) = (fields.u16()?, fields.u32()?, fields.u32()?);
    let hint = match pack {
        NO_HINT => None,
        pack => Some(Place { pack: *packs.get(usize::from(pack))?, offset, len }).filter(Place::is_possible),
    };
    Some(Reference { id, hint })
}

const _: () = assert!(4 + FANOUT * (2 * 16 + 1 + 2 * REFERENCE + 32) < crate::blob::MAX_CONTENTS);

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(id: u8, pack: Option<u8>) -> Reference {
        let hint = pack.map(|pack| Place { pack: PackId([pack; 16]), offset: 32 + u32::from(id), len: 9 });
        Reference { id: BlobId([id; 32]), hint }
    }

    #[test]
    fn impossible_hints_are_none() {
        let place = |offset, len| Place { pack: PackId([1; 16]), offset, len };
        for (hint, kept) in [
            (place(32, crate::blob::MAX_STORED as u32), true),
            (place(32, crate::blob::MAX_STORED as u32 + 1), false),
            (place(u32::MAX - 8, 9), false),
        ] {
            let mut leaf = Leaf::empty();
            leaf.0[3] = Chunk::Whole(Reference { id: BlobId([7; 32]), hint: Some(hint) });
            let bytes = Node::Leaf(leaf).encode();
            let Some(Node::Leaf(read)) = Node::decode(&bytes, 0, 64) else { panic!("no leaf") };
            let Chunk::Whole(reference) = read.0[3] else { panic!("no chunk") };
            assert_eq!(reference.hint, kept.then_some(hint));
        }
    }

    #[test]
    fn nodes_come_back_with_their_hints() {
        let mut leaf = Leaf::empty();
        leaf.0[0] = Chunk::Whole(reference(1, Some(1)));
        leaf.0[7] = Chunk::Whole(reference(2, None));
        let mut blocks = Blocks::NONE;
        blocks.insert(63);
        leaf.0[255] = Chunk::Patched { base: reference(3, Some(1)), patch: reference(4, Some(2)), blocks };
        assert_eq!(leaf.chunks(), 3);
        let bytes = Node::Leaf(leaf.clone()).encode();
        let Some(Node::Leaf(read)) = Node::decode(&bytes, 0, 64) else { panic!("no leaf") };
        assert_eq!(read, leaf);
        let hints =
            |leaf: &Leaf| leaf.0.iter().flat_map(Chunk::references).map(|r| r.hint).collect::<Vec<_>>();
        assert_eq!(hints(&read), hints(&leaf));
        assert!(Node::decode(&bytes, 1, 64).is_none() && Node::decode(&bytes, 0, 63).is_none());
        for len in 0..bytes.len() {
            assert!(Node::decode(&bytes[..len], 0, 64).is_none(), "{len} bytes");
        }

        let mut inner = Inner::empty(2);
        inner.children[3] = Some(Child { node: reference(5, Some(9)), chunks: 77 });
        let Some(Node::Inner(read)) = Node::decode(&Node::Inner(inner.clone()).encode(), 2, 64) else {
            panic!("no inner")
        };
        assert_eq!((read.chunks(), read), (77, inner));
    }
}
