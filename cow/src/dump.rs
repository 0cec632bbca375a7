//! A pool's metadata as it stands on disk, for people who look for what is wrong. Nothing is replayed and nothing changed;
//! what cannot be read is told where it would stand.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::format::{FORMAT_VERSION, HeaderFault, PoolId, SUPERBLOCKS, Superblock};
use crate::map::MAP_END;
use crate::node::{Child, Entry, FANOUT, Node, ROOT_LEVEL, Slot, entry_span};
use crate::recover::{decode_catalog, read_block, read_catalog, read_log, read_space, read_superblocks};
use crate::space::{Run, StoredSlot};
use crate::types::BLOCK_SIZE;
use crate::version::{Kind, Versions};

/// Something that was read, or why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part<T> {
    /// It is whole.
    Read(T),
    /// Why it is not.
    Unreadable(String),
}

impl<T> From<Result<T>> for Part<T> {
    fn from(result: Result<T>) -> Part<T> {
        match result {
            Ok(value) => Part::Read(value),
            Err(error) => Part::Unreadable(error.with_cause()),
        }
    }
}

/// A copy of the superblock: docs/FORMAT.md says what its fields are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SuperblockDump {
    pub block: u64,
    pub pool: String,
    pub format: u32,
    pub generation: u64,
    pub incompatible_features: u64,
    pub segment_blocks: u32,
    pub journal_blocks: u64,
    pub limit: u64,
    pub created_ms: u64,
    pub catalog_block: u64,
    pub journal_position: u64,
    pub journal_batch: u64,
    pub journal_record: u64,
}

/// A version as the catalog has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VersionDump {
    pub id: u32,
    pub what: String,
    pub parent: Option<u32>,
    pub epoch: u32,
    pub size: u64,
    pub mapped_blocks: u64,
    pub created_ms: u64,
    /// The map's topmost node.
    pub root: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// The catalog.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CatalogDump {
    pub blocks: Vec<u64>,
    pub epoch: u32,
    /// The version whose space is being given back, and the block of its map up to which that is done.
    pub reaping: Option<(u32, u64)>,
    pub versions: Vec<VersionDump>,
}

/// A segment's part of the space map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SegmentDump {
    pub first_block: u64,
    pub slot: u8,
    /// Blocks in use, the two of the map included.
    pub used: Part<u32>,
}

/// A batch of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BatchDump {
    pub batch: u64,
    /// Its writer knew this one to be durable.
    pub confirmed: u64,
    pub records: Vec<String>,
}

/// A node of a map, or a run of what a leaf has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MapDump {
    pub offset: u64,
    pub len: u64,
    /// `level N`, `data`, `zero` or `lost`; holes are left out.
    pub what: String,
    /// Where it stands in the pool, in blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// See the module's description.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Dump {
    /// Both copies.
    pub superblocks: Vec<Part<SuperblockDump>>,
    /// What the newest superblock leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<Part<CatalogDump>>,
    /// In order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentDump>,
    /// What happened since the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<Part<Vec<BatchDump>>>,
    /// The map of the version that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<Part<Vec<MapDump>>>,
}

/// Reads all metadata of the pool on `disk`, and the map of `VOLUME` or `VOLUME@SNAPSHOT` as the checkpoint has it.
pub async fn dump<D: Disk>(disk: &D, map_of: Option<&str>) -> Dump {
    let mut superblocks = Vec::new();
    for addr in SUPERBLOCKS {
        let read = match read_block(disk, addr, "superblock").await {
            Ok(block) => Superblock::decode(addr, &block),
            Err(error) => Err(error),
        };
        superblocks.push(match read {
            Ok(Ok(superblock)) => Part::Read(superblock_dump(addr.0, &superblock)),
            Ok(Err(HeaderFault::Foreign)) => Part::Unreadable("there is no superblock of cairn's".to_owned()),
            Ok(Err(HeaderFault::Damaged)) => Part::Unreadable("it does not match its checksum".to_owned()),
            Err(error) => Part::Unreadable(error.with_cause()),
        });
    }
    let mut found = Dump { superblocks, catalog: None, segments: Vec::new(), journal: None, map: None };
    let Ok(copies) = read_superblocks(disk).await else { return found };
    let superblock = &copies.newest;
    let log = read_log(disk, superblock, None).await;
    found.journal = Some(log.map(|log| log.batches.iter().map(batch_dump).collect()).into());
    let catalog = match read_catalog(disk, superblock).await {
        Ok((body, blocks)) => {
            decode_catalog(&body, superblock).map(|(versions, slots)| (versions, slots, blocks))
        }
        Err(error) => Err(error),
    };
    let (versions, slots, blocks) = match catalog {
        Ok(catalog) => catalog,
        Err(error) => {
            found.catalog = Some(Part::Unreadable(error.with_cause()));
            return found;
        }
    };
    found.segments = segments(disk, superblock, &slots).await;
    if let Some(name) = map_of {
        found.map = Some(match root_of(&versions, name) {
            Some((root, size)) => Part::Read(map_dump(disk, &superblock.pool, root, size).await),
            None => Part::Unreadable(format!("the checkpoint has no volume or snapshot '{name}'")),
        });
    }
    found.catalog = Some(Part::Read(catalog_dump(&versions, &blocks)));
    found
}

fn superblock_dump(block: u64, superblock: &Superblock) -> SuperblockDump {
    SuperblockDump {
        block,
        pool: superblock.pool.iter().map(|byte| format!("{byte:02x}")).collect(),
        format: FORMAT_VERSION,
        generation: superblock.generation,
        incompatible_features: superblock.incompat,
        segment_blocks: superblock.geometry.segment_blocks,
        journal_blocks: superblock.geometry.journal_blocks,
        limit: superblock.limit,
        created_ms: superblock.created_ms,
        catalog_block: superblock.catalog.0,
        journal_position: superblock.journal_pos,
        journal_batch: superblock.journal_seq.0,
        journal_record: superblock.journal_lsn.0,
    }
}

fn batch_dump(batch: &crate::recover::Batch) -> BatchDump {
    let records = batch.records.iter().map(|record| format!("{record:?}")).collect();
    BatchDump { batch: batch.seq.0, confirmed: batch.confirmed.0, records }
}

fn catalog_dump(versions: &Versions, blocks: &[Run]) -> CatalogDump {
    let all = versions.iter().map(|(id, version)| VersionDump {
        id: id.0,
        what: match &version.kind {
            Kind::Head { name, origin: None, .. } => format!("volume {name}"),
            Kind::Head { name, origin: Some((volume, snapshot)), .. } => {
                format!("volume {name}, a clone of {volume}@{snapshot}")
            }
            Kind::Snapshot { volume, name, automatic, .. } => {
                let kind = if *automatic { "automatic snapshot" } else { "snapshot" };
                format!("{kind} {name} of version {volume}")
            }
            Kind::Ghost => "deleted".to_owned(),
        },
        parent: version.parent.map(|parent| parent.0),
        epoch: version.epoch.0,
        size: version.size,
        mapped_blocks: version.mapped,
        created_ms: version.created_ms,
        root: format!("{:?}", version.root),
        attributes: version.attributes.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    });
    CatalogDump {
        blocks: blocks.iter().flat_map(|run| run.start.0..run.start.0 + u64::from(run.len)).collect(),
        epoch: versions.epoch.0,
        reaping: versions.reaping.map(|reaping| (reaping.version.0, reaping.cursor)),
        versions: all.collect(),
    }
}

async fn segments<D: Disk>(disk: &D, superblock: &Superblock, slots: &[StoredSlot]) -> Vec<SegmentDump> {
    let geometry = superblock.geometry;
    let maps = read_space(disk, &superblock.pool, geometry, slots).await;
    let segments = slots.iter().zip(maps).enumerate().map(|(i, (place, map))| SegmentDump {
        first_block: geometry.segment_start(i).0,
        slot: place.slot,
        used: map.map(|bits| bits.iter().map(|word| word.count_ones()).sum()).into(),
    });
    segments.collect()
}

fn root_of<'a>(versions: &'a Versions, name: &str) -> Option<(&'a Slot, u64)> {
    let (volume, snapshot) = name.split_once('@').map_or((name, None), |(v, s)| (v, Some(s)));
    let head = versions.head(volume)?;
    let id = match snapshot {
        None => head,
        Some(snapshot) => versions.snapshot(head, snapshot)?,
    };
    versions.get(id).map(|version| (&version.root, version.size))
}

/// Everything a map has that is no hole, depth first.
async fn map_dump<D: Disk>(disk: &D, pool: &PoolId, root: &Slot, size: u64) -> Vec<MapDump> {
    let mut found: Vec<MapDump> = Vec::new();
    let mut todo: Vec<(Slot, u8, u64)> = vec![(root.clone(), ROOT_LEVEL, 0)];
    let blocks = size.div_ceil(BLOCK_SIZE).min(MAP_END);
    while let Some((slot, level, base)) = todo.pop() {
        let span = entry_span(level + 1).min(blocks.saturating_sub(base));
        let here = |what: String| MapDump {
            offset: base * BLOCK_SIZE,
            len: span * BLOCK_SIZE,
            what,
            block: None,
            birth: None,
            damage: None,
        };
        let Some(ptr) = slot.home() else {
            match slot.child {
                Child::Zero => found.push(here("zero".to_owned())),
                Child::Lost => found.push(here("lost".to_owned())),
                _ => {}
            }
            continue;
        };
        let read = read_block(disk, ptr.addr, "map node").await;
        let node = read.and_then(|block| Node::decode(pool, ptr, level, &block));
        let (block, birth) = (Some(ptr.addr.0), Some(slot.birth.0));
        let damage = node.as_ref().err().map(Error::with_cause);
        found.push(MapDump { block, birth, damage, ..here(format!("level {level}")) });
        match node {
            Ok(Node::Inner(slots)) => {
                let children = slots.iter().cloned().enumerate().rev();
                todo.extend(children.map(|(i, slot)| (slot, level - 1, base + i as u64 * entry_span(level))));
            }
            Ok(Node::Leaf(entries)) => leaf_dump(&mut found, base, &entries),
            Err(_) => {}
        }
    }
    found
}

/// A leaf's entries, those that continue each other in one.
fn leaf_dump(found: &mut Vec<MapDump>, base: u64, entries: &[Entry; FANOUT]) {
    for (lba, entry) in (base..).zip(entries) {
        let (what, block, birth) = match *entry {
            e if e.is_hole() => continue,
            e if e.is_data() => ("data", Some(e.block().0), Some(e.birth().0)),
            e if e.is_lost() => ("lost", None, None),
            _ => ("zero", None, None),
        };
        let offset = lba * BLOCK_SIZE;
        match found.last_mut() {
            Some(last)
                if last.what == what
                    && last.birth == birth
                    && last.offset + last.len == offset
                    && last.block.map(|first| first + last.len / BLOCK_SIZE) == block =>
            {
                last.len += BLOCK_SIZE;
            }
            _ => found.push(MapDump {
                offset,
                len: BLOCK_SIZE,
                what: what.to_owned(),
                block,
                birth,
                damage: None,
            }),
        }
    }
}
