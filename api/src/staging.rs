//! Stagings: volumes that a client fills before anybody sees them, as the restore of a backup does.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::{BackupId, Line, Name};
use crate::snapshot::Snapshot;
use crate::volume::Volume;

/// Asks for a hidden volume to be written over NBD. When it is complete it becomes a volume, or takes the place of what
/// a volume holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateStaging {
    /// The volume that there will be: a new one, or one that is there with `over`.
    #[schema(example = "demo", value_type = Name)]
    pub volume: String,
    /// Replace what that volume holds.
    #[serde(default)]
    pub over: bool,
    /// Bytes.
    #[schema(minimum = 1, maximum = 70368744177664u64)]
    pub size: u64,
    /// Free text about a new volume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// A new volume's type, which must exist; the default type unless given.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub volume_type: Option<String>,
    /// The project of a new volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub project: Option<String>,
    /// The backup that is restored, kept with the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BackupId>)]
    pub backup: Option<String>,
}

/// A staging under way. Connect to its export within ten seconds and stay connected, write, and complete it: one that
/// nobody has been connected to for ten seconds is given up, and what was written goes away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Staging {
    /// Names it until it is complete.
    pub id: String,
    /// The job that it is.
    #[serde(default)]
    pub job: String,
    /// The NBD export to write to; it reads as zeroes at first.
    pub export: String,
    /// Bytes.
    pub size: u64,
}

/// A staging that is complete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Staged {
    /// The volume, as it is now.
    pub volume: Volume,
    /// What it held before, if it was there: an automatic snapshot; rolling back to it undoes the replacement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Snapshot>,
}
