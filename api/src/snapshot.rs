//! Snapshots: what a volume held at one moment, for good.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::volume::Volume;

/// The most extents one answer to a diff holds; the rest is asked for with `offset`.
pub const MAX_DIFF_EXTENTS: usize = 65_536;

/// One snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// The volume it belongs to.
    #[schema(example = "demo")]
    pub volume: String,
    /// Unique in its volume; `VOLUME@NAME` is its read-only NBD export.
    #[schema(example = "before-upgrade")]
    pub name: String,
    /// Never reused.
    pub id: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that hold data, those shared with other volumes and snapshots included.
    pub mapped: u64,
    /// When it was taken.
    pub created: Timestamp,
    /// Free text.
    pub description: String,
    /// Made by cairn itself, to undo a rollback.
    pub automatic: bool,
    /// How many volumes and snapshots directly descend from it.
    pub children: u64,
    /// NBD connections to it.
    pub connections: u64,
}

/// Some snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// By volume and, in a volume, oldest first.
    pub snapshots: Vec<Snapshot>,
}

/// Which snapshots to list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SnapshotQuery {
    /// Only those of this volume.
    #[serde(default)]
    pub volume: Option<String>,
}

/// Asks for a snapshot of the volume in the path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// 1 to 128 characters: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    #[schema(example = "before-upgrade", min_length = 1, max_length = 128)]
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// One snapshot of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupMember {
    /// The volume.
    pub volume: String,
    /// The snapshot's name in it.
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
}

/// Asks for snapshots of several volumes at one moment: all of them are made, or none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    /// At least one; each volume at most once.
    #[schema(min_items = 1)]
    pub members: Vec<GroupMember>,
    /// Free text, for each.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// How to roll back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Also when NBD clients are connected. What they have cached or mounted no longer matches the disk then.
    #[serde(default)]
    pub force: bool,
}

/// What a rollback did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolledBack {
    /// The volume, as it is now.
    pub volume: Volume,
    /// The automatic snapshot that keeps what the volume held before; rolling back to it undoes the rollback.
    pub undo: Snapshot,
}

/// What stands at a place of the version tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum TreeKind {
    /// A volume's writable head.
    Head {
        /// The volume's name.
        volume: String,
    },
    /// A snapshot.
    Snapshot {
        /// The volume it belongs to.
        volume: String,
        /// Its own name.
        name: String,
    },
    /// An image that was made of a snapshot below it, or from which volumes above it were made.
    Image {
        /// The image's name.
        image: String,
    },
    /// A deleted version that others still descend from, or whose space is being given back.
    Ghost,
}

/// One place of the version tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TreeNode {
    /// The version.
    pub id: u32,
    /// The version it descends from.
    #[serde(default)]
    pub parent: Option<u32>,
    /// What it is.
    #[serde(flatten)]
    pub kind: TreeKind,
    /// Bytes.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
}

/// Every version connected with a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tree {
    /// The volume asked about.
    pub volume: String,
    /// Parents before their children.
    pub nodes: Vec<TreeNode>,
}

/// What to compare a snapshot with.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DiffQuery {
    /// Another snapshot of the volume; its head without.
    #[serde(default)]
    pub to: Option<String>,
    /// Only extents that start at or after this byte: the `next` of the answer before.
    #[serde(default)]
    pub offset: u64,
}

/// What a range holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExtentKind {
    /// Never written, or trimmed: reads as zeroes, takes no space.
    Hole,
    /// Written with zeroes: reads as zeroes, takes no space.
    Zero,
    /// Holds data.
    Data,
}

/// A range that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DiffExtent {
    /// Bytes from the start of the volume.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What the version compared to holds there.
    pub kind: ExtentKind,
}

/// How two versions of a volume differ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The volume.
    pub volume: String,
    /// The snapshot compared.
    pub from: String,
    /// The snapshot compared to; the head without.
    #[serde(default)]
    pub to: Option<String>,
    /// Bytes in all ranges that differ, those of other pages included.
    pub changed: u64,
    /// In ascending order, not overlapping; at most 65,536.
    pub extents: Vec<DiffExtent>,
    /// Where the next page starts; none when this is the last one.
    #[serde(default)]
    pub next: Option<u64>,
}
