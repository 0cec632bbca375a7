//! The engine's vocabulary: a newtype for every id and address, and what it tells about pools, volumes and snapshots.

use std::fmt;
use std::ops::{Add, Sub};

use serde::Serialize;

use crate::attributes::Attributes;

/// The pool's unit of space, of mapping and of checksumming: 4 KiB.
pub const BLOCK_SIZE: u64 = 4096;
/// [`BLOCK_SIZE`] as a length of memory.
pub const BLOCK_BYTES: usize = BLOCK_SIZE as usize;
/// The largest volume: 64 TiB, the largest disk that clouds offer.
pub const MAX_VOLUME_BYTES: u64 = 64 << 40;
/// The most characters a volume's or snapshot's name may have.
pub const MAX_NAME_CHARS: usize = 128;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A block's place in the pool, in blocks from its start. 40 bits are stored; 0 is the first superblock and so
    /// never the address of data or of a node.
    BlockAddr(u64)
}
number! {
    /// A block's place in a volume, in blocks from its start.
    Lba(u64)
}
number! {
    /// The pool-wide counter that every fork bumps; an entry's birth is the epoch in which it was written.
    /// A snapshot's contents were all born in or before its epoch. The first epoch is 1.
    Epoch(u32)
}
number! {
    /// Names one version (head, snapshot or ghost) for the life of the pool; never reused. A volume is named by its
    /// head, whose id stays the same through snapshots and rollbacks.
    VersionId(u32)
}
number! {
    /// A position in the one ordered log: the number of records appended since the pool was created.
    Lsn(u64)
}
number! {
    /// The number of a journal batch; consecutive for the life of the pool.
    BatchSeq(u64)
}

impl BlockAddr {
    /// Byte offset of the block in the pool.
    pub fn offset(self) -> u64 {
        self.0 * BLOCK_SIZE
    }
}

impl Add<u64> for BlockAddr {
    type Output = BlockAddr;
    fn add(self, blocks: u64) -> BlockAddr {
        BlockAddr(self.0 + blocks)
    }
}

impl Add<u64> for Lba {
    type Output = Lba;
    fn add(self, blocks: u64) -> Lba {
        Lba(self.0 + blocks)
    }
}

impl Sub<Lba> for Lba {
    type Output = u64;
    fn sub(self, other: Lba) -> u64 {
        self.0 - other.0
    }
}

/// What a range of a version holds, as block status reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtentKind {
    /// Never written, or trimmed: reads as zeroes, takes no space.
    Hole,
    /// Written with zeroes: reads as zeroes, takes no space.
    Zero,
    /// Holds data in the pool.
    Data,
}

/// Consecutive bytes of a version that are of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Extent {
    /// Bytes from the start of the version.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What the range holds.
    pub kind: ExtentKind,
}

/// Where a volume's first contents came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Origin {
    /// The source volume's name at the time of cloning.
    pub volume: String,
    /// The source snapshot's name at the time of cloning.
    pub snapshot: String,
}

/// One volume as lists show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VolumeInfo {
    /// The id of the volume's head.
    pub id: VersionId,
    /// Unique in the pool.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that hold data, shared ones included.
    pub mapped: u64,
    /// Milliseconds since 1970, UTC.
    pub created_ms: u64,
    /// The snapshot it was cloned from.
    pub origin: Option<Origin>,
    /// How many snapshots it has.
    pub snapshots: usize,
    /// Reads that failed their checksum since the pool was opened.
    pub checksum_errors: u64,
    /// What is kept on it.
    #[serde(skip)]
    pub attributes: Attributes,
}

/// One snapshot as lists show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SnapshotInfo {
    /// The snapshot's version.
    pub id: VersionId,
    /// The volume it belongs to.
    pub volume: String,
    /// Unique in its volume.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that hold data, shared ones included.
    pub mapped: u64,
    /// Milliseconds since 1970, UTC.
    pub created_ms: u64,
    /// Made by cairn itself (a rollback's undo point), not by name.
    pub automatic: bool,
    /// How many volumes and snapshots directly descend from it.
    pub children: usize,
    /// What is kept on it.
    #[serde(skip)]
    pub attributes: Attributes,
}

/// What stands at a place of the version tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum TreeKind {
    /// A volume's writable head.
    Head {
        /// The volume's name.
        volume: String,
    },
    /// A snapshot.
    Snapshot {
        /// The name of the volume it belongs to.
        volume: String,
        /// Its own name.
        name: String,
    },
    /// A deleted version that others still descend from, or whose space is being given back.
    Ghost,
}

/// One place of the version tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TreeNode {
    /// The version.
    pub id: VersionId,
    /// The version it descends from.
    pub parent: Option<VersionId>,
    /// What it is.
    #[serde(flatten)]
    pub kind: TreeKind,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970, UTC.
    pub created_ms: u64,
}

/// Which way a range differs between two versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct DiffExtent {
    /// Bytes from the start of the volume.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What the newer version holds there.
    pub kind: ExtentKind,
}

/// Consecutive bytes of a version that are all changed from another, or all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ChangeExtent {
    /// Bytes from the start of the version.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Whether they may differ.
    pub changed: bool,
}

/// The pool's figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PoolStatus {
    /// The pool's 128-bit id in hexadecimal.
    pub id: String,
    /// The on-disk format's version.
    pub format: u32,
    /// Bytes that the pool may grow to.
    pub limit: u64,
    /// Bytes of the file or device that the pool has claimed so far.
    pub size: u64,
    /// Bytes held by data and metadata, those waiting to be reused included.
    pub used: u64,
    /// Bytes a writer can still get, growth included, the reserve not.
    pub free: u64,
    /// Bytes kept back so that deleting, trimming and checkpoints work when the pool is full.
    pub reserve: u64,
    /// Volumes.
    pub volumes: usize,
    /// Snapshots, automatic ones included.
    pub snapshots: usize,
    /// Deleted versions whose space is being given back. One from which several others descend is not counted: it
    /// stays, invisible, until one is left.
    pub pending_deletes: usize,
    /// Set when a failed barrier fenced the pool: writes are refused until it is reopened.
    pub fenced: Option<String>,
    /// Bytes of the journal ring in use.
    pub journal_used: u64,
    /// Bytes of the journal ring.
    pub journal_size: u64,
    /// Checkpoints written since the pool was opened.
    pub checkpoints: u64,
    /// Barriers (fdatasync) issued since the pool was opened.
    pub barriers: u64,
    /// Reads that failed their checksum since the pool was opened.
    pub checksum_errors: u64,
}

/// Why a range of a volume or snapshot cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Its data does not match its checksum, or cannot be read.
    Data,
    /// The part of the map that says where it is cannot be read.
    Map,
}

/// A range of a volume or snapshot that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Loss {
    /// The volume's name.
    pub volume: String,
    /// The snapshot's, when it is not the volume itself.
    pub snapshot: Option<String>,
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// What is damaged.
    pub kind: LossKind,
}

/// What a check of the whole pool found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Versions walked.
    pub versions: usize,
    /// Map nodes read and verified.
    pub nodes: u64,
    /// Distinct data blocks referenced.
    pub data_blocks: u64,
    /// Data blocks read and verified; 0 unless asked for.
    pub data_verified: u64,
    /// Blocks marked used that nothing references.
    pub leaked: u64,
    /// Everything wrong, one sentence each, at most 100; empty when the pool is sound.
    pub errors: Vec<String>,
    /// How many errors there were in all.
    pub error_count: u64,
    /// What users lose with the blocks that cannot be read, by volume and place; data only when it was verified. The first
    /// ten thousand.
    pub losses: Vec<Loss>,
    /// Bytes that cannot be read of all volumes and snapshots together.
    pub lost_bytes: u64,
}

impl CheckReport {
    /// No error, no leak, and nothing that users cannot read.
    pub fn is_clean(&self) -> bool {
        self.error_count == 0 && self.leaked == 0 && self.lost_bytes == 0
    }
}
