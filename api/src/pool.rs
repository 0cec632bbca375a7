//! The pool: the file or device that holds everything.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The pool's figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
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
    /// Bytes a writer can still get, growth included, the reserve not.
    pub free: u64,
    /// Bytes kept back so that deleting, trimming and checkpoints work when the pool is full.
    pub reserve: u64,
    /// Volumes.
    pub volumes: u64,
    /// Snapshots, automatic ones included.
    pub snapshots: u64,
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
    /// No error and no leak.
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
}
