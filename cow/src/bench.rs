//! The engine's parts, each by itself, for `cargo bench`. No part of the API: it changes with what it measures.

use std::sync::Arc;

use crate::codec::{Reader, Writer};
use crate::commit::{BATCH_HEADER_BYTES, batch_blocks};
use crate::format::{HEADER_BYTES, Kind, node_crc, seal};
use crate::map::visit;
use crate::node::{Child, Entry, FANOUT, Node, Ptr, Slot, Slots};
use crate::pool::Pool;
use crate::read::entry_in;
use crate::record::{Fork, Record};
use crate::sim::{SimBuf, SimDisk, block_on};
use crate::space::Run;
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, Epoch, VersionId};
use crate::version::Versions;
use crate::write::{Part, abandon, publish};
use crate::{CreateOptions, Options, Result};

const POOL: [u8; 16] = *b"a pool in memory";
/// Anything but a CRC of zeroes.
const SOME_CRC: u32 = 0x1234_5678;

/// A pool in memory with one volume, all of it mapped, all of its map in memory.
pub struct Mapped {
    pool: Arc<Pool<SimDisk>>,
    head: VersionId,
    blocks: u64,
}

impl Mapped {
    /// Maps this many blocks of a new volume.
    pub fn new(blocks: u64) -> Result<Mapped> {
        let limit = blocks * BLOCK_SIZE * 2 + (256 << 20);
        let create = CreateOptions { limit, journal_bytes: None, segment_blocks: None };
        let options = Options { map_cache_bytes: 1 << 30, ..Options::default() };
        block_on(async move {
            let pool = Pool::create(SimDisk::file(limit), POOL, create, options).await?;
            let head = pool.create_volume("v", blocks * BLOCK_SIZE, "").await?.id;
            pool.map_synthetic(0, head, 0, blocks).await?;
            pool.close().await?;
            Ok(Mapped { pool, head, blocks })
        })
    }

    /// Blocks of the volume.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Where one block stands, under the lock as a read finds it.
    pub fn look_up(&self, lba: u64) -> Option<u64> {
        let mut state = self.pool.state.lock();
        let version = state.version(self.head).ok()?;
        let entry = visit(&mut version.root, lba, |view| entry_in(&view, lba)).ok()?;
        Some(entry.block().0)
    }

    /// Makes a write of blocks of one leaf visible: allocation, map, space and log. What it has to wait for now and
    /// then, commits and checkpoints, goes to a disk in memory.
    pub fn publish(&self, lba: u64, blocks: usize) -> Result<()> {
        let crcs = vec![Some(SOME_CRC); blocks];
        let data_blocks = blocks as u32;
        let part = Part::<SimBuf> {
            head: self.head,
            lba,
            crcs,
            data: Vec::new(),
            data_blocks,
            expected: Vec::new(),
        };
        loop {
            let blocked = {
                let mut state = self.pool.state.lock();
                match state.space.allocate(0, data_blocks) {
                    Some(runs) => {
                        state.space.begin_flight(&runs);
                        match publish(&mut state, &part, &runs) {
                            Ok(_) => return Ok(()),
                            Err(blocked) => {
                                abandon(&mut state, &runs)?;
                                Some(blocked)
                            }
                        }
                    }
                    None => None,
                }
            };
            let pool = Arc::clone(&self.pool);
            block_on(async move {
                match blocked {
                    Some(blocked) => pool.unblock(blocked).await,
                    None => pool.make_room(u64::from(data_blocks)).await,
                }
            })?;
        }
    }

    /// Takes a snapshot of that name.
    pub fn snapshot(&self, name: String) -> Result<()> {
        let pool = Arc::clone(&self.pool);
        block_on(async move { pool.create_snapshots(&[("v", &name)], "").await.map(|_| ()) })
    }

    /// How many ranges differ between a snapshot and the volume.
    pub fn diff(&self, snapshot: String) -> Result<usize> {
        let pool = Arc::clone(&self.pool);
        block_on(async move { pool.diff("v", &snapshot, None).await.map(|ranges| ranges.len()) })
    }

    /// The version tree, to try changes on.
    pub fn tree(&self) -> Tree {
        Tree { versions: self.pool.state.lock().versions.clone(), head: self.head }
    }
}

/// A version tree.
#[derive(Clone)]
pub struct Tree {
    versions: Versions,
    head: VersionId,
}

impl Tree {
    /// Puts a snapshot below the head: all that taking one does besides its record.
    pub fn fork(&mut self, name: &str) -> Result<()> {
        let fork = Fork { head: self.head, snapshot: self.versions.next_id(0), name: name.to_owned() };
        let record =
            Record::Fork { forks: vec![fork], description: String::new(), automatic: false, created_ms: 0 };
        self.versions.apply(&record)
    }
}

/// A journal batch in the making.
pub struct Batch {
    record: Record,
    log: Writer,
    records: usize,
    buf: Vec<u8>,
}

impl Batch {
    /// A batch that will hold this many records of overwrites of one block each.
    pub fn new(records: usize) -> Batch {
        let run = Run { start: BlockAddr(123_456), len: 1 };
        let record = Record::Write {
            head: VersionId(1),
            lba: 77_777,
            epoch: Epoch(3),
            runs: vec![run],
            crcs: vec![SOME_CRC],
            mapped: 0,
            freed: vec![run],
        };
        let mut log = Writer::default();
        record.encode(&mut log);
        let bytes = batch_blocks(log.len() * records) as usize * BLOCK_BYTES;
        Batch { record, log: Writer::default(), records, buf: vec![0; bytes] }
    }

    /// Appends the records.
    pub fn append(&mut self) {
        self.log = Writer::default();
        (0..self.records).for_each(|_| self.record.encode(&mut self.log));
    }

    /// Lays out the batch and checksums it; returns its length in bytes.
    pub fn seal(&mut self) -> usize {
        let records = std::mem::take(&mut self.log).into_bytes();
        self.buf.fill(0);
        self.buf[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&(records.len() as u32).to_le_bytes());
        self.buf[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + records.len()].copy_from_slice(&records);
        seal(&mut self.buf, Kind::Journal, &POOL, BlockAddr(600), 5);
        self.buf.len()
    }

    /// Reads the records back, as replay does.
    pub fn decode(&self) -> Result<usize> {
        let len =
            u32::from_le_bytes(self.buf[HEADER_BYTES..HEADER_BYTES + 4].try_into().expect("four bytes"));
        let mut reader =
            Reader::new(&self.buf[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + len as usize], "journal");
        let mut records = 0;
        while !reader.is_empty() {
            Record::decode(&mut reader)?;
            records += 1;
        }
        Ok(records)
    }
}

/// One map node and the block it is stored in.
pub struct Stored {
    node: Node,
    ptr: Ptr,
    level: u8,
    block: Vec<u8>,
}

impl Stored {
    /// A leaf that maps all of its blocks.
    pub fn leaf() -> Stored {
        let entries = std::array::from_fn(|i| Entry::data(BlockAddr(1000 + i as u64), SOME_CRC, Epoch(7)));
        Stored::new(Node::Leaf(Box::new(entries)), 0)
    }

    /// A node all of whose children are on disk.
    pub fn inner() -> Stored {
        let slot = |i: usize| {
            let ptr = Ptr { addr: BlockAddr(1000 + i as u64), crc: SOME_CRC };
            Slot { birth: Epoch(7), child: Child::Stored(ptr.into()) }
        };
        Stored::new(Node::Inner(Slots::new(std::array::from_fn(slot))), 1)
    }

    fn new(node: Node, level: u8) -> Stored {
        let addr = BlockAddr(5000);
        let mut block = vec![0; BLOCK_BYTES];
        node.encode(&mut block).expect("its children are stored");
        let crc = node_crc(&POOL, addr, level, &block);
        Stored { node, ptr: Ptr { addr, crc }, level, block }
    }

    /// Writes the node's block and checksums it, as a checkpoint does.
    pub fn encode(&mut self) -> u32 {
        self.node.encode(&mut self.block).expect("its children are stored");
        node_crc(&POOL, self.ptr.addr, self.level, &self.block)
    }

    /// Verifies the block and reads the node from it; returns its entries.
    pub fn decode(&self) -> Result<usize> {
        Node::decode(&POOL, self.ptr, self.level, &self.block).map(|_| FANOUT)
    }
}
