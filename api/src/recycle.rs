//! The recycle bin: volumes that were deleted and can still be had back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::{self, Name};
use crate::tags::Tags;

/// The longest time that deleted volumes can be kept: ten years.
pub const MAX_KEEP_SECONDS: u64 = 3650 * 86_400;

/// A volume that was deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Recycled {
    /// What it is called in the bin, where several may have had one name.
    pub id: String,
    /// What it was called.
    #[schema(example = "demo")]
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that hold data, those shared with volumes and snapshots included. They are still in use.
    pub mapped: u64,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// The pool that holds it.
    pub pool: String,
    /// Whose it was.
    pub project: String,
    /// What users said about it.
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
    /// When it was deleted.
    pub deleted: Timestamp,
    /// When it will be gone for good, unless the bin is told to keep volumes for another time.
    pub expires: Timestamp,
}

/// What was deleted, and for how long it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RecycleBin {
    /// For how many seconds deleted volumes are kept; 0 when they are gone at once.
    pub keep_seconds: u64,
    /// What was deleted last comes first.
    pub volumes: Vec<Recycled>,
}

/// Asks to keep deleted volumes for another time: those that are in the bin, too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRecycleBin {
    /// Seconds, at most ten years; 0 for not at all, which wants the bin to be empty.
    #[schema(maximum = 315360000)]
    pub keep_seconds: u64,
}

/// How to take a volume back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// What it is to be called; what it was called unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub name: Option<String>,
}
