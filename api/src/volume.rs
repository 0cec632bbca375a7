//! Volumes: writable virtual disks.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::attachment::Attachment;
use crate::list::list_query;
use crate::schema::{self, AbsolutePath, BackupId, ClientToken, Line, Name, Reason, Repo, word_enums};
use crate::tags::{TagChanges, Tags};

/// The project of a volume that was given none.
pub const DEFAULT_PROJECT: &str = "default";

/// A snapshot, named from anywhere in the pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRef {
    /// The volume's name.
    #[schema(value_type = Name)]
    pub volume: String,
    /// The snapshot's name in that volume.
    #[schema(value_type = Name)]
    pub snapshot: String,
}

word_enums! {
    /// What a volume is doing.
    VolumeStatus {
        /// Nobody uses it.
        Available = "available";
        /// A client fills it with what it begins with; nobody else can use it before that is done.
        Creating = "creating";
        /// It is being attached to this machine's kernel.
        Attaching = "attaching";
        /// Somebody uses it.
        InUse = "in-use";
        /// Its use is being ended.
        Detaching = "detaching";
        /// It grows, and whoever uses it is told.
        Extending = "extending";
        /// It serves, and what nobody has read yet is still being fetched from a backup.
        Restoring = "restoring";
        /// A client fills what is to take the place of its contents.
        RestoringBackup = "restoring-backup";
        /// Nobody uses it, and a snapshot of it is being read to back it up or to copy it.
        BackingUp = "backing-up";
        /// It is being deleted.
        Deleting = "deleting";
        /// It was deleted, and its snapshots live on.
        SnapshotsOnly = "snapshots-only";
        /// An administrator keeps everybody away from it.
        Maintenance = "maintenance";
        /// Reads failed their checksum, its pool refuses writes, or an administrator says so.
        Error = "error";
    }
}

impl FromStr for VolumeStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<VolumeStatus, String> {
        let found = VolumeStatus::ALL.iter().copied().find(|status| status.as_str() == text);
        found.ok_or_else(|| {
            let all: Vec<_> = VolumeStatus::ALL.iter().map(|status| status.as_str()).collect();
            format!("\"{text}\" is no status of a volume: there are {}", all.join(", "))
        })
    }
}

/// How far a volume is that serves while it is being restored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VolumeRestore {
    /// The repository.
    pub repo: String,
    /// The backup's id.
    pub backup: String,
    /// The job that it is.
    #[serde(default)]
    pub job: String,
    /// Bytes of the volume that need the repository no more: fetched, found to be holes, or overwritten.
    pub bytes_done: u64,
    /// Bytes of the volume.
    pub bytes_total: u64,
    /// Why it does not go on, or not everywhere; one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl VolumeRestore {
    /// How much is there, in whole percent; 100 only when all is.
    pub fn percent(&self) -> u64 {
        let percent = u128::from(self.bytes_done) * 100 / u128::from(self.bytes_total.max(1));
        percent.min(100) as u64
    }
}

/// One volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Unique in the pool, and the NBD export's name.
    #[schema(example = "demo")]
    pub name: String,
    /// Never reused; stays the same through snapshots and rollbacks.
    pub id: u32,
    /// Bytes.
    #[schema(example = 10737418240u64)]
    pub size: u64,
    /// Bytes that hold data, those shared with other volumes and snapshots included.
    pub mapped: u64,
    /// When it was created.
    pub created: Timestamp,
    /// Free text.
    pub description: String,
    /// The snapshot it was cloned from, by the names of that time.
    #[serde(default)]
    pub origin: Option<SnapshotRef>,
    /// The image it was made from, by the name of that time.
    #[serde(default)]
    pub image: Option<String>,
    /// The backup that it was restored from.
    #[serde(default)]
    pub backup: Option<String>,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// What it is doing.
    pub status: VolumeStatus,
    /// Why it is in that status, where that is not plain; one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// NBD connections to its head.
    pub connections: u64,
    /// Who is connected to its head, the first first. At most one unless it is shared.
    pub attachments: Vec<Attachment>,
    /// Whether several consumers may use it at once.
    pub shared: bool,
    /// Whether a machine can boot from it, as far as users have said.
    #[serde(default)]
    pub bootable: bool,
    /// Whether everybody is refused to change or delete it.
    #[serde(default)]
    pub write_protected: bool,
    /// Whose it is.
    #[serde(default)]
    pub project: String,
    /// What users say about it.
    #[serde(default)]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
    /// Its type.
    #[serde(rename = "type")]
    pub volume_type: String,
    /// How far its restore is, while it is being restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<VolumeRestore>,
    /// What is kept for it and has no effect, since it cannot be read or names what there is not; one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The pool that holds it.
    pub pool: String,
    /// Reads that failed their checksum since the daemon started.
    pub checksum_errors: u64,
}

/// Some volumes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VolumeList {
    /// In the order that was asked for.
    pub volumes: Vec<Volume>,
    /// What to ask for `after` to have those that come next; not there when these are the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

list_query! {
    /// Which volumes to list: those to which all of this applies.
    VolumeQuery,
    sort: VolumeSort = "What they are sorted by: `name`, `size`, `used`, `created`, `status`, `type`, `pool` or `project`, several separated by commas; with `-` in front from the other end."
        for example "-size,name",
    after: Name = "Only those after this one: the `next` of the answer before, to the same query." {
        /// Its status.
        status: Option<VolumeStatus>,
        /// Its type.
        #[serde(rename = "type")]
        #[param(rename = "type", value_type = Option<Name>, inline)]
        volume_type: Option<String>,
        /// Its pool.
        #[param(value_type = Option<Name>, inline)]
        pool: Option<String>,
        /// Its project.
        #[param(value_type = Option<Name>, inline)]
        project: Option<String>,
        /// Whether a machine can boot from it.
        bootable: Option<bool>,
        /// Whether several consumers may use it at once.
        shared: Option<bool>,
        /// Whether it is write-protected.
        write_protected: Option<bool>,
    }
}

/// Asks for a new volume: blank with a `size`, a clone with a `source`, or one that begins as an `image`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// 1 to 128 characters: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    #[schema(example = "demo", value_type = Name)]
    pub name: String,
    /// Bytes. Required for a blank volume; for a clone the snapshot's size unless given, and never less; from an image
    /// what the image asks for unless given, and never less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 10737418240u64, minimum = 1, maximum = 70368744177664u64)]
    pub size: Option<u64>,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// The snapshot to clone; a blank volume without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SnapshotRef>,
    /// The image to begin with. Nothing is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub image: Option<String>,
    /// Its type, which must exist; the default type unless given. A clone's must be of its source's pool, and is its
    /// source's unless given.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(example = "default", value_type = Option<Name>)]
    pub volume_type: Option<String>,
    /// Let several consumers use it at once.
    #[serde(default)]
    pub shared: bool,
    /// Whether a machine can boot from it. Unless given, that is so of what begins as an image, or as a snapshot of a
    /// bootable volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootable: Option<bool>,
    /// Whose it is: a name, by the same rule as its own; for a clone that of its source unless given, and else `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub project: Option<String>,
    /// What to say about it: at most 50, keys of up to 128 letters, digits, `.`, `_`, `-` and `/`, values of up to 256
    /// characters.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
    /// 1 to 64 visible ASCII characters, different for each request: sent again with the same token, the request makes
    /// nothing new and gets what it has made, as it is by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientToken>)]
    pub client_token: Option<String>,
}

/// Asks for a new volume that holds a backup and serves at once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRestore {
    /// 1 to 128 characters: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    #[schema(example = "demo", value_type = Name)]
    pub name: String,
    /// The repository, `file:///folder` or `s3://bucket/prefix`, as the daemon reaches it.
    #[schema(example = "file:///srv/backups", value_type = Repo)]
    pub repo: String,
    /// The backup's id, or enough of its beginning.
    #[schema(example = "3f9c0a1b2c3d4e5f", value_type = BackupId)]
    pub backup: String,
    /// The file with the key of an encrypted repository: an absolute path that the daemon can read until all is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AbsolutePath>)]
    pub key_file: Option<String>,
    /// Free text; the backed up volume's unless given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// Its type, which must exist and says in which pool it is made; the default type unless given.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(example = "default", value_type = Option<Name>)]
    pub volume_type: Option<String>,
}

/// What of a volume is to change; what is left out stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditVolume {
    /// A new name. Nobody may be connected: clients that come back ask for the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Line>)]
    pub description: Option<String>,
    /// Whether several consumers may use it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// Whether a machine can boot from it. Nobody may be connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootable: Option<bool>,
    /// Whether everybody is refused to change or delete it. To begin with that, nobody may be connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_protected: Option<bool>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub project: Option<String>,
    /// Tags to set, or with `null` to take away.
    #[serde(default, skip_serializing_if = "TagChanges::is_empty")]
    #[schema(value_type = schema::TagChanges)]
    pub tags: TagChanges,
}

/// What an administrator says of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SetStatus {
    /// All is well: what was said before, and the checksum errors counted so far, are forgotten.
    Available,
    /// Something is wrong with it. It can be used as before.
    Error,
    /// Nobody may connect to it. Nobody may be connected.
    Maintenance,
}

impl SetStatus {
    /// The status as JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            SetStatus::Available => "available",
            SetStatus::Error => "error",
            SetStatus::Maintenance => "maintenance",
        }
    }
}

/// Asks to set a volume's status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetStatus {
    /// The status.
    pub status: SetStatus,
    /// Why; one line, shown with the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Reason>)]
    pub reason: Option<String>,
}

/// Asks to clone the snapshot in the path as a new volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneSnapshot {
    /// The new volume's name.
    #[schema(example = "demo-clone", value_type = Name)]
    pub name: String,
    /// Bytes; the snapshot's size unless given, and never less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 70368744177664u64)]
    pub size: Option<u64>,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Line)]
    pub description: String,
    /// What to say about it.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    #[schema(value_type = schema::Tags)]
    pub tags: Tags,
    /// 1 to 64 visible ASCII characters, different for each request: sent again with the same token, the request makes
    /// nothing new and gets what it has made, as it is by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClientToken>)]
    pub client_token: Option<String>,
}

/// Asks to grow a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// The new size in bytes; not less than the present one.
    #[schema(example = 21474836480u64, minimum = 1, maximum = 70368744177664u64)]
    pub size: u64,
}

/// How to delete a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteVolumeQuery {
    /// Delete its snapshots with it; without, a volume that has snapshots is refused.
    #[serde(default)]
    pub snapshots: bool,
    /// Delete it for good, and have its snapshots live on. They are still `VOLUME@SNAPSHOT`: the volume is listed as
    /// `snapshots-only` until the last of them is deleted, or it is rolled back to one.
    #[serde(default)]
    pub keep_snapshots: bool,
    /// For good, also where there is a recycle bin.
    #[serde(default)]
    pub permanent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_complete_is_a_hundred_percent() {
        let so_far = |bytes_done, bytes_total| {
            let (repo, backup) = (String::new(), String::new());
            VolumeRestore { repo, backup, job: String::new(), bytes_done, bytes_total, problem: None }
                .percent()
        };
        assert_eq!(so_far(0, 1 << 46), 0);
        assert_eq!(so_far((1 << 46) - 1, 1 << 46), 99);
        assert_eq!(so_far(1 << 46, 1 << 46), 100);
        assert_eq!(so_far(0, 0), 0);
    }
}
