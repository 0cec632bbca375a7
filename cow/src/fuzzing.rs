//! The decoders of what a disk holds, each by itself, and checksums put right after a change: for the folder `fuzz`.
//! No part of the API.
//!
//! In front of each decoder stands a checksum that no chance gets past, so what comes in here is given the right one, as
//! by somebody who writes a disk on purpose. What a decoder accepts must also survive being written and read again.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::slot_crc;
use crate::codec::{Reader, Writer};
use crate::commit::{BATCH_HEADER_BYTES, batch_blocks};
use crate::format::{
    Geometry, HEADER_BYTES, INCOMPAT_ATTRIBUTES, JOURNAL_START, Kind, MAX_POOL_BLOCKS, MAX_SEGMENT_BLOCKS,
    PoolId, SUPERBLOCKS, Superblock, node_crc, peek, seal,
};
use crate::node::{FANOUT, Node, Ptr, ROOT_LEVEL};
use crate::recover::{decode_batch, decode_catalog, segment_bits};
use crate::shadow::{JournalEnd, examine_made_up};
use crate::sim::SimDisk;
use crate::space::{Run, Space, StoredSlot};
use crate::types::{BLOCK_BYTES, BatchSeq, BlockAddr, Lsn};
use crate::version::Versions;

const POOL: PoolId = *b"a pool in a fuzz";
const ADDR: BlockAddr = BlockAddr(600);
/// Bytes of an entry of a map node, and where in it the checksum of what it points to stands.
const ENTRY_BYTES: usize = BLOCK_BYTES / FANOUT;
const ENTRY_CRC: usize = 5;

/// One block that begins with a header and holds `contents` after it.
fn headed(kind: Kind, addr: BlockAddr, contents: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    let len = contents.len().min(BLOCK_BYTES - HEADER_BYTES);
    block[HEADER_BYTES..HEADER_BYTES + len].copy_from_slice(&contents[..len]);
    seal(&mut block, kind, &POOL, addr, 1);
    block
}

/// A superblock: all after its header.
pub fn superblock(bytes: &[u8]) {
    let addr = SUPERBLOCKS[0];
    let block = headed(Kind::Superblock, addr, bytes);
    let Ok(read) = Superblock::decode(addr, &block) else { return };
    let read = read.expect("its checksum is right");
    let mut again = vec![0; BLOCK_BYTES];
    read.encode(addr, &mut again);
    assert_eq!(Superblock::decode(addr, &again).expect("it was written by us"), Ok(read));
}

/// A node of the map: its level, then its block.
pub fn map_node(bytes: &[u8]) {
    let Some((level, bytes)) = bytes.split_first() else { return };
    let level = level % (ROOT_LEVEL + 1);
    let mut block = vec![0; BLOCK_BYTES];
    let len = bytes.len().min(BLOCK_BYTES);
    block[..len].copy_from_slice(&bytes[..len]);
    let decode = |block: &[u8]| {
        let ptr = Ptr { addr: ADDR, crc: node_crc(&POOL, ADDR, level, block) };
        Node::decode(&POOL, ptr, level, block)
    };
    let Ok(node) = decode(&block) else { return };
    let (mut once, mut twice) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    node.encode(&mut once).expect("its children are stored");
    decode(&once).expect("it was written by us").encode(&mut twice).expect("its children are stored");
    assert_eq!(once, twice);
}

/// A catalog: whether it has attributes, then its contents.
pub fn catalog(bytes: &[u8]) {
    let Some((flags, bytes)) = bytes.split_first() else { return };
    if let Ok(versions) = Versions::decode(&mut Reader::new(bytes, "catalog"), flags & 1 != 0) {
        stays_the_same(&versions);
    }
}

fn stays_the_same(versions: &Versions) {
    let mut once = Writer::default();
    // A root that was read has an address.
    versions.encode(&mut once).expect("all of it has an address");
    assert!(once.len() <= versions.encoded_bytes(), "a checkpoint reckons with less than it takes");
    let read =
        Versions::decode(&mut Reader::new(once.bytes(), "catalog"), true).expect("it was written by us");
    let mut twice = Writer::default();
    read.encode(&mut twice).expect("all of it has an address");
    assert_eq!(once.bytes(), twice.bytes());
}

/// A batch of the journal: how many records it claims to have (2 bytes) and the bytes of its records, which are then done
/// to a tree of versions.
pub fn journal(bytes: &[u8]) {
    let Some((count, records)) = bytes.split_first_chunk() else { return };
    let (count, seq) = (u32::from(u16::from_le_bytes(*count)), BatchSeq(1));
    let mut batch = vec![0; batch_blocks(records.len()) as usize * BLOCK_BYTES];
    batch[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&(records.len() as u32).to_le_bytes());
    batch[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&count.to_le_bytes());
    batch[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + records.len()].copy_from_slice(records);
    let Ok(batch) = decode_batch(&POOL, &batch, seq) else { return };
    let mut versions = Versions::new();
    for record in &batch.records {
        let mut w = Writer::default();
        record.encode(&mut w);
        let again = crate::record::Record::decode(&mut Reader::new(w.bytes(), "journal"));
        assert_eq!(again.as_ref().ok(), Some(record));
        if versions.apply(record).is_err() {
            return;
        }
    }
    stays_the_same(&versions);
}

/// A block of the space map: a segment's size (2 bytes), how many bytes its bits are, then those bits; and what is left says
/// what is taken and freed (7 bytes each).
pub fn space_map(bytes: &[u8]) {
    let Some(([a, b, bits], bytes)) = bytes.split_first_chunk() else { return };
    let words = u32::from(u16::from_le_bytes([*a, *b])) % (MAX_SEGMENT_BLOCKS / 64) + 1;
    let geometry = Geometry { segment_blocks: words * 64, journal_blocks: 256 };
    let (bits, steps) = bytes.split_at(usize::from(*bits).min(bytes.len()));
    let block = headed(Kind::SpaceMap, ADDR, &[&[0; 16], bits].concat());
    let mut space = Space::new(geometry, 1);
    if space.load_segment(segment_bits(&block, geometry), StoredSlot::default()).is_err() {
        return;
    }
    space.add_segments(1);
    for step in steps.chunks_exact(7) {
        let at = u64::from(u32::from_le_bytes([step[1], step[2], step[3], step[4]]));
        // Before the first segment, in it and behind the last; in 40 bits, as the journal has them.
        let start =
            BlockAddr(geometry.first_segment().wrapping_add_signed((at as i32).into()) % MAX_POOL_BLOCKS);
        let run = Run { start, len: u32::from(u16::from_le_bytes([step[5], step[6]])).max(1) };
        let before = space.free();
        match step[0] % 4 {
            0 => assert_eq!(space.claim(run).is_ok(), space.free() != before),
            1 => assert_eq!(space.release(run).is_ok(), space.free() != before),
            2 => {
                let taken = space.allocate(0, run.len).unwrap_or_default();
                let blocks: u64 = taken.iter().map(|run| u64::from(run.len)).sum();
                assert_eq!(before - space.free(), blocks);
            }
            _ => {
                space.free_later(run);
                space.seal_limbo(BatchSeq(1));
                while let Ok(true) = space.reclaim(BatchSeq(1)) {}
            }
        }
        assert!(space.free() <= space.capacity());
    }
}

/// What a process that died left in memory: what the header says after the pool, as long as it is, then records that no
/// journal holds, each with its length before it (2 bytes).
pub fn shadow(bytes: &[u8]) {
    const HEADER: usize = 56;
    let Some((header, frames)) = bytes.split_at_checked(HEADER) else { return };
    let end = JournalEnd {
        generation: 5,
        start: BatchSeq(3),
        seq: BatchSeq(7),
        lsn: Lsn(20),
        crc: Some(9),
        confirmed: BatchSeq(6),
    };
    let records = examine_made_up(POOL, header, frames, &end);
    assert!(records <= frames.len());
}

fn block_of(disk: &SimDisk, addr: BlockAddr) -> Vec<u8> {
    // No disk is longer than this, and offsets stay far from their end.
    if addr.0 >= MAX_POOL_BLOCKS { vec![0; BLOCK_BYTES] } else { disk.peek(addr.offset(), BLOCK_BYTES) }
}

/// Puts right the checksum that a block with a header has in it.
fn right_header(disk: &SimDisk, addr: BlockAddr, blocks: usize) {
    let mut bytes = disk.peek(addr.offset(), blocks * BLOCK_BYTES);
    bytes[12..16].fill(0);
    let crc = crc32fast::hash(&bytes);
    disk.poke(addr.offset() + 12, &crc.to_le_bytes());
}

/// The catalog as it is found: its blocks, and its contents.
fn catalog_of(disk: &SimDisk, superblock: &Superblock) -> (Vec<BlockAddr>, Vec<u8>) {
    let (mut blocks, mut body) = (Vec::new(), Vec::new());
    let mut next = superblock.catalog;
    while next.0 != 0 && next.0 < MAX_POOL_BLOCKS && !blocks.contains(&next) {
        let block = block_of(disk, next);
        blocks.push(next);
        let mut r = Reader::new(&block[HEADER_BYTES..], "catalog");
        let (Ok(following), Ok(len), Ok(_)) = (r.u64(), r.u32(), r.u32()) else { break };
        let Ok(contents) = r.raw(len as usize) else { break };
        body.extend_from_slice(contents);
        next = BlockAddr(following);
    }
    (blocks, body)
}

fn put_catalog(disk: &SimDisk, blocks: &[BlockAddr], mut body: &[u8]) {
    for addr in blocks {
        let block = block_of(disk, *addr);
        let Ok(len) = Reader::new(&block[HEADER_BYTES + 8..], "catalog").u32() else { return };
        let Some((contents, rest)) = body.split_at_checked(len as usize) else { return };
        disk.poke(addr.offset() + (HEADER_BYTES + 16) as u64, contents);
        body = rest;
    }
}

fn superblock_of(disk: &SimDisk) -> Option<Superblock> {
    let read = |addr| Superblock::decode(addr, &block_of(disk, addr)).ok()?.ok();
    SUPERBLOCKS.into_iter().filter_map(read).max_by_key(|superblock| superblock.generation)
}

/// Where batches of the journal may begin, and how many blocks each has.
fn batches(disk: &SimDisk, geometry: Geometry) -> Vec<(BlockAddr, usize)> {
    let ring = (JOURNAL_START..geometry.first_segment()).map(BlockAddr);
    let batch = |addr: BlockAddr| {
        let block = block_of(disk, addr);
        peek(&block).ok()?;
        let blocks = batch_blocks(Reader::new(&block[HEADER_BYTES..], "journal").u32().ok()? as usize);
        (addr.0 + blocks <= geometry.first_segment()).then_some((addr, blocks as usize))
    };
    let stored: BTreeSet<u64> = disk.stored_pages().into_iter().collect();
    ring.filter(|addr| stored.contains(&addr.0)).filter_map(batch).collect()
}

/// Sees that everything below a node has the right checksum, and returns the node's own.
struct Righting<'a> {
    disk: &'a SimDisk,
    pool: PoolId,
    done: BTreeMap<(BlockAddr, u8), u32>,
}

/// Nodes whose checksums are put right: a changed map may lead everywhere.
const MOST_NODES: usize = 512;

impl Righting<'_> {
    fn node(&mut self, addr: BlockAddr, level: u8) -> u32 {
        if let Some(crc) = self.done.get(&(addr, level)) {
            return *crc;
        }
        let mut block = block_of(self.disk, addr);
        self.done.insert((addr, level), 0);
        if self.done.len() < MOST_NODES {
            for (index, to) in leads_to(&block, level) {
                let crc = match level {
                    0 => crc32fast::hash(&block_of(self.disk, to)),
                    _ => self.node(to, level - 1),
                };
                let at = index * ENTRY_BYTES + ENTRY_CRC;
                block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            if addr.0 < MAX_POOL_BLOCKS {
                self.disk.poke(addr.offset(), &block);
            }
        }
        let crc = node_crc(&self.pool, addr, level, &block);
        self.done.insert((addr, level), crc);
        crc
    }
}

/// Where the entries of a node at this level lead that lead anywhere; nowhere in what is no node.
fn leads_to(block: &[u8], level: u8) -> Vec<(usize, BlockAddr)> {
    let ptr = Ptr { addr: ADDR, crc: node_crc(&POOL, ADDR, level, block) };
    let addrs: Vec<Option<BlockAddr>> = match Node::decode(&POOL, ptr, level, block) {
        Ok(Node::Leaf(entries)) => entries.iter().map(|e| e.is_data().then(|| e.block())).collect(),
        Ok(Node::Inner(slots)) => slots.iter().map(|slot| slot.home().map(|ptr| ptr.addr)).collect(),
        Err(_) => Vec::new(),
    };
    addrs.into_iter().enumerate().filter_map(|(index, addr)| Some((index, addr?))).collect()
}

/// The blocks of a pool that are not data: what a change can be most of.
pub fn metadata(disk: &SimDisk) -> Vec<u64> {
    let Some(superblock) = superblock_of(disk) else { return Vec::new() };
    let mut blocks: Vec<BlockAddr> = SUPERBLOCKS.to_vec();
    let (catalog, body) = catalog_of(disk, &superblock);
    blocks.extend(catalog);
    let mut nodes = Righting { disk, pool: superblock.pool, done: BTreeMap::new() };
    if let Ok((versions, slots)) = decode_catalog(&body, &superblock) {
        for (_, version) in versions.iter() {
            version.root.home().map(|ptr| nodes.node(ptr.addr, ROOT_LEVEL));
        }
        for (i, slot) in slots.into_iter().enumerate().filter(|(_, slot)| slot.crc != 0) {
            blocks.push(superblock.geometry.segment_start(i) + u64::from(slot.slot));
        }
    }
    blocks.extend(nodes.done.keys().map(|(addr, _)| *addr));
    let journal = batches(disk, superblock.geometry);
    blocks.extend(journal.into_iter().flat_map(|(addr, len)| (0..len as u64).map(move |i| addr + i)));
    blocks.into_iter().map(|addr| addr.0).collect()
}

/// Puts right the checksums of a pool that was changed, as far as it can be followed: data in leaves, nodes in those above
/// them, roots and the space map in the catalog, and what blocks say of themselves.
pub fn right_checksums(disk: &SimDisk) {
    SUPERBLOCKS.into_iter().for_each(|addr| right_header(disk, addr, 1));
    let Some(superblock) = superblock_of(disk) else { return };
    for (addr, blocks) in batches(disk, superblock.geometry) {
        right_header(disk, addr, blocks);
    }
    let (blocks, mut body) = catalog_of(disk, &superblock);
    let contents = body.clone();
    let mut r = Reader::new(&contents, "catalog");
    if let Ok(versions) = Versions::decode(&mut r, superblock.incompat & INCOMPAT_ATTRIBUTES != 0) {
        let mut nodes = Righting { disk, pool: superblock.pool, done: BTreeMap::new() };
        for (_, version) in versions.iter() {
            let (Some(ptr), Ok(root)) = (version.root.home(), version.root.encode()) else { continue };
            let crc = nodes.node(ptr.addr, ROOT_LEVEL).to_le_bytes();
            // Where the root stands in the catalog is known to the decoder alone; nothing else there looks like it.
            for at in 0..body.len().saturating_sub(root.len()) {
                if contents[at..at + root.len()] == root {
                    body[at + ENTRY_CRC..at + ENTRY_CRC + 4].copy_from_slice(&crc);
                }
            }
        }
        let mut at = contents.len() - r.rest().len() + 4;
        let (_, slots) = decode_catalog(&contents, &superblock).unwrap_or_else(|_| (versions, Vec::new()));
        for (i, slot) in slots.into_iter().enumerate().take(64) {
            let addr = superblock.geometry.segment_start(i) + u64::from(slot.slot);
            right_header(disk, addr, 1);
            body[at + 1..at + 5].copy_from_slice(&slot_crc(&block_of(disk, addr)).to_le_bytes());
            at += 5;
        }
    }
    put_catalog(disk, &blocks, &body);
    blocks.into_iter().for_each(|addr| right_header(disk, addr, 1));
}
