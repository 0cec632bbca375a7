//! The pool: the file or device that holds everything.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::schema::{AbsolutePath, Name};

/// The name of the pool that the daemon was started on.
pub const MAIN_POOL: &str = "main";

/// How full a pool is, by its watermarks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// There is room.
    Ok,
    /// 80 % of what it can hold is in use.
    High,
    /// 95 % of what it can hold is in use: writes will soon fail.
    Critical,
}

impl Fill {
    /// The watermark as JSON and tables show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fill::Ok => "ok",
            Fill::High => "high",
            Fill::Critical => "critical",
        }
    }
}

/// All pools of a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolList {
    /// The first one first, the others by name.
    pub pools: Vec<PoolEntry>,
}

/// One pool in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolEntry {
    /// Unique in the daemon; what a type's `volume_backend_name` says.
    pub name: String,
    /// The file or device.
    pub path: String,
    /// Its figures; none when it could not be opened.
    #[serde(default)]
    pub status: Option<PoolStatus>,
    /// Why it could not be opened. Its volumes are missing until that is mended and the daemon started again.
    #[serde(default)]
    pub error: Option<String>,
}

/// Asks for another pool.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    /// A name by the rules for volumes.
    #[schema(example = "bulk", value_type = Name)]
    pub name: String,
    /// The file, which is made, or block device, as the daemon sees it: an absolute path. One that holds a pool of
    /// cairn already is taken as it is, with its volumes.
    #[schema(example = "/srv/bulk/pool.cairn", value_type = AbsolutePath)]
    pub path: String,
    /// Bytes that a new pool may grow to: 1 TiB unless given, never more than a device has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4503599627370496u64)]
    pub limit: Option<u64>,
}

/// Asks to let a pool grow further.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowPool {
    /// Bytes that the pool may grow to, not less than before; a device's present size unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4503599627370496u64)]
    pub limit: Option<u64>,
}

/// The pool's figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Unique in the daemon.
    pub name: String,
    /// The file or device.
    pub path: String,
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
    /// Bytes a writer can still get: growth included as far as the file system below has room, the reserve not.
    pub free: u64,
    /// Bytes left on the file system that the pool's file is on; none for a device, or when they cannot be told.
    #[serde(default)]
    pub available: Option<u64>,
    /// Bytes kept back so that deleting, trimming and checkpoints work when the pool is full.
    pub reserve: u64,
    /// What `used` is of what the pool can hold, which is that and `free`.
    pub fill: Fill,
    /// Volumes.
    pub volumes: u64,
    /// Snapshots, automatic ones included.
    pub snapshots: u64,
    /// Images, those that are being imported included.
    #[serde(default)]
    pub images: u64,
    /// Deleted versions whose space is still to be given back.
    pub pending_deletes: u64,
    /// Why the pool refuses writes, when a failed barrier fenced it.
    #[serde(default)]
    pub fenced: Option<String>,
    /// Bytes of the journal in use.
    pub journal_used: u64,
    /// Bytes of the journal.
    pub journal_size: u64,
    /// Checkpoints written since the daemon started.
    pub checkpoints: u64,
    /// Barriers (fdatasync) issued since the daemon started.
    pub barriers: u64,
    /// Reads that failed their checksum since the daemon started.
    pub checksum_errors: u64,
}

/// How thoroughly to check.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckQuery {
    /// Read every data block and verify its checksum; without, only the metadata is read.
    #[serde(default)]
    pub data: bool,
}

/// What a check of the whole pool found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    /// No error, no leak, and all can be read.
    pub clean: bool,
    /// Versions walked.
    pub versions: u64,
    /// Map nodes read and verified.
    pub nodes: u64,
    /// Distinct data blocks referenced.
    pub data_blocks: u64,
    /// Data blocks read and verified; 0 unless asked for.
    pub data_verified: u64,
    /// Blocks marked used that nothing references.
    pub leaked: u64,
    /// How many errors there were in all.
    pub error_count: u64,
    /// The first errors, one sentence each, at most 100.
    pub errors: Vec<String>,
    /// What users cannot read any more, by volume and place; damaged data only when it was verified. The first ten
    /// thousand ranges.
    #[serde(default)]
    pub losses: Vec<Loss>,
    /// Bytes of all volumes and snapshots together that cannot be read.
    #[serde(default)]
    pub lost_bytes: u64,
}

/// What of a range is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Its data.
    Data,
    /// The part of the map that says where it is.
    Map,
}

/// A range of a volume or snapshot that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Loss {
    /// The volume.
    pub volume: String,
    /// The snapshot of it; none for the volume itself.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What is damaged.
    pub kind: LossKind,
}

/// Asks to read all that a pool holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartScrub {
    /// Bytes a second at most; as fast as it goes beside the volumes' clients unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000000000000000u64)]
    pub rate: Option<u64>,
}

/// What became of a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubState {
    /// There was none since the daemon started.
    None,
    /// It is under way.
    Running,
    /// It has read everything.
    Finished,
    /// It was told to stop.
    Stopped,
    /// The disk failed otherwise than by damage to a block.
    Failed,
}

impl ScrubState {
    /// The state as JSON and tables show it.
    pub fn as_str(self) -> &'static str {
        match self {
            ScrubState::None => "none",
            ScrubState::Running => "running",
            ScrubState::Finished => "finished",
            ScrubState::Stopped => "stopped",
            ScrubState::Failed => "failed",
        }
    }
}

/// A pool's scrub under way, or the last one since the daemon started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Scrub {
    /// The pool.
    pub pool: String,
    /// The job that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// How it stands.
    pub state: ScrubState,
    /// When it began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started: Option<jiff::Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<jiff::Timestamp>,
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// Bytes read.
    pub read: u64,
    /// Bytes in use when it began; what is shared is read once, what waits to be reused not at all.
    pub total: u64,
    /// Map nodes read and verified.
    pub nodes: u64,
    /// Data blocks read and verified.
    pub data_blocks: u64,
    /// Nodes and blocks that cannot be read or do not match their checksums.
    pub fault_count: u64,
    /// The first of them, one sentence each, at most 100.
    pub faults: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}
