//! Snapshots: what a volume held at one moment, for good.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::list::list_query;
use crate::schema::{self, ClientToken, Line, Name, Reason};
use crate::tags::{TagChanges, Tags};
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
    /// Made by cairn itself: to undo a rollback, or to be read for a backup or an export.
    pub automatic: bool,
    /// How many volumes and snapshots directly descend from it.
    pub children: u64,
    /// NBD connections to it.
    pub connections: u64,
    /// What it is doing.
    pub status: SnapshotStatus,
    /// Why, where the status does not say all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whose it is: its volume's project.
    #[serde(default)]
    pub project: String,
    /// What users say about it.
    #[serde(default)]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
    /// Why it must not be deleted, if there is a reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
}

/// What a snapshot is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotStatus {
    /// Nobody uses it.
    Available,
    /// At least one NBD client is connected.
    InUse,
    /// A backup or an export is made of it: a client reads it.
    BackingUp,
    /// Its pool refuses writes, or an administrator says so.
    Error,
}

impl SnapshotStatus {
    /// The status as JSON and tables show it.
    pub fn as_str(self) -> &'static str {
        match self {
            SnapshotStatus::Available => "available",
            SnapshotStatus::InUse => "in-use",
            SnapshotStatus::BackingUp => "backing-up",
            SnapshotStatus::Error => "error",
        }
    }
}

/// What an administrator says of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SetSnapshotStatus {
    /// All is well.
    Available,
    /// Something is wrong with it. It can be used as before.
    Error,
}

impl SetSnapshotStatus {
    /// The status as JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            SetSnapshotStatus::Available => "available",
            SetSnapshotStatus::Error => "error",
        }
    }
}

/// Asks to set a snapshot's status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetSnapshotStatus {
    /// The status.
    pub status: SetSnapshotStatus,
    /// Why; one line, shown with the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Reason>)]
    pub reason: Option<String>,
}

/// What forbids to delete a snapshot until it is released.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// Unique on the snapshot.
    #[schema(example = "legal")]
    pub name: String,
    /// Why, in the words of whoever holds it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// Asks that a snapshot be not deleted until it is released.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateHold {
    /// 1 to 128 characters: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    #[schema(example = "legal", value_type = Name)]
    pub name: String,
    /// Why; one line of up to 256 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Reason)]
    pub reason: String,
}

/// What of a snapshot is to change; what is left out stays. Its contents never change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditSnapshot {
    /// A new name. Nobody may be connected: clients that come back ask for the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Line>)]
    pub description: Option<String>,
    /// Tags to set, or with `null` to take away.
    #[serde(default, skip_serializing_if = "TagChanges::is_empty")]
    #[schema(value_type = schema::TagChanges)]
    pub tags: TagChanges,
}

/// Some snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// In the order that was asked for; without any by volume and, in a volume, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What to ask for `after` to have those that come next; not there when these are the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

list_query! {
    /// Which snapshots to list: those to which all of this applies.
    SnapshotQuery,
    sort: SnapshotSort = "What they are sorted by: `volume`, `name`, `size`, `used` or `created`, several separated by commas; with `-` in front from the other end."
        for example "-created",
    after: SnapshotName = "Only those after this one, `VOLUME@SNAPSHOT`: the `next` of the answer before, to the same query." {
        /// The volume.
        #[param(value_type = Option<Name>, inline)]
        volume: Option<String>,
        /// Its status.
        #[param(inline)]
        status: Option<SnapshotStatus>,
        /// Its project.
        #[param(value_type = Option<Name>, inline)]
        project: Option<String>,
        /// Whether cairn has made it by itself.
        automatic: Option<bool>,
        /// Whether something forbids to delete it.
        held: Option<bool>,
    }
}

/// Asks for a snapshot of the volume in the path.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// 1 to 128 characters: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    #[schema(example = "before-upgrade", value_type = Name)]
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// What to say about it; as of a volume.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
    /// Whether it is taken to be read for a backup: then it counts as automatic, and the volume as backing up while somebody
    /// reads it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_backup: bool,
    /// 1 to 64 visible ASCII characters, different for each request: sent again with the same token, the request makes
    /// nothing new and gets what it has made, as it is by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientToken>)]
    pub client_token: Option<String>,
}

/// One snapshot of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupMember {
    /// The volume.
    #[schema(value_type = Name)]
    pub volume: String,
    /// The snapshot's name in it.
    #[schema(value_type = Name)]
    pub name: String,
}

/// Asks for snapshots of several volumes at one moment: all of them are made, or none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    /// At least one; each volume at most once.
    #[schema(min_items = 1, max_items = 64)]
    pub members: Vec<GroupMember>,
    /// Free text, for each.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// What to say about each; as of a volume.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
    /// 1 to 64 visible ASCII characters, different for each request: sent again with the same token, the request makes
    /// nothing new and gets what it has made, as it is by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientToken>)]
    pub client_token: Option<String>,
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

impl TreeKind {
    /// The volume that it is of, if it is of one.
    pub fn volume(&self) -> Option<&str> {
        match self {
            TreeKind::Head { volume } | TreeKind::Snapshot { volume, .. } => Some(volume),
            TreeKind::Image { .. } | TreeKind::Ghost => None,
        }
    }
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
    /// Another snapshot of the volume, or of `to_volume`; the head without.
    #[serde(default)]
    #[param(value_type = Option<Name>, inline)]
    pub to: Option<String>,
    /// Another volume of the same pool, of which `to` is; a clone, say.
    #[serde(default)]
    #[param(value_type = Option<Name>, inline)]
    pub to_volume: Option<String>,
    /// Only extents that start at or after this byte: the `next` of the answer before.
    #[serde(default)]
    #[param(maximum = 70368744177664u64)]
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
    /// The volume of what is compared to, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_volume: Option<String>,
    /// Bytes in all ranges that differ, those of other pages included.
    pub changed: u64,
    /// In ascending order, not overlapping; at most 65,536.
    pub extents: Vec<DiffExtent>,
    /// Where the next page starts; none when this is the last one.
    #[serde(default)]
    pub next: Option<u64>,
}
