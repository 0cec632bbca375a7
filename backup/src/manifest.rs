//! Manifests: what a backup is, and the root of its map. And the labels that may change afterwards.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::envelope::{self, Kind as ObjectKind};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BackupId, BlobId, PackId};
use crate::index::Place;
use crate::keys::Keys;
use crate::node::{Child, FANOUT, Reference};

/// Whether a backup read all of its volume or what differed from another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupKind {
    /// All of it was read.
    Full,
    /// What differed from its parent was read; it restores on its own all the same.
    Incremental,
}

/// The volume that a backup is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeRef {
    /// Its name when the backup was made.
    pub name: String,
    /// What tells it from any other volume, whatever its name: chains and pruning go by it.
    pub id: String,
}

/// What may be changed on a backup afterwards.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Labels {
    /// A name, for people; it need not be unique.
    #[serde(default)]
    pub name: String,
    /// A description.
    #[serde(default)]
    pub description: String,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// A backup.
#[derive(Clone, PartialEq, Debug)]
pub struct Backup {
    /// Its id.
    pub id: BackupId,
    /// The volume it is of.
    pub volume: VolumeRef,
    /// Whether it read all or only what differed.
    pub kind: BackupKind,
    /// The backup it is incremental to, which may have been deleted since.
    pub parent: Option<BackupId>,
    /// Name, description, tags.
    pub labels: Labels,
    /// When its volume was as it shows, in milliseconds since 1970.
    pub created: i64,
    /// The host that made it.
    pub host: String,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes of the volume's block, for its guest.
    pub block_size: u32,
    /// Facts about the volume that its maker wants back (type, limits, the snapshot it was taken from).
    pub attributes: BTreeMap<String, String>,
    /// Bytes of the volume that are in chunks and not holes.
    pub data_bytes: u64,
    /// Bytes that making it read from the volume.
    pub read_bytes: u64,
    /// Bytes that making it added to the repository.
    pub added_bytes: u64,
    pub(crate) root: Option<Child>,
}

/// A manifest as it is stored, without its id.
#[derive(Serialize, Deserialize)]
pub(crate) struct Text {
    version: u32,
    volume: VolumeRef,
    kind: BackupKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<BackupId>,
    #[serde(flatten)]
    labels: Labels,
    created: i64,
    host: String,
    size: u64,
    block_size: u32,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    data_bytes: u64,
    read_bytes: u64,
    added_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<RootText>,
}

#[derive(Serialize, Deserialize)]
struct RootText {
    node: BlobId,
    chunks: u64,
    /// Pack, offset and stored size, as in a node's reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<(PackId, u32, u32)>,
}

impl Backup {
    pub(crate) fn text(&self) -> Text {
        let root = self.root.map(|root| RootText {
            node: root.node.id,
            chunks: root.chunks,
            hint: root.node.hint.map(|place| (place.pack, place.offset, place.len)),
        });
        Text {
            version: 1,
            volume: self.volume.clone(),
            kind: self.kind,
            parent: self.parent,
            labels: self.labels.clone(),
            created: self.created,
            host: self.host.clone(),
            size: self.size,
            block_size: self.block_size,
            attributes: self.attributes.clone(),
            data_bytes: self.data_bytes,
            read_bytes: self.read_bytes,
            added_bytes: self.added_bytes,
            root,
        }
    }

    /// The object that holds it under one of its two names.
    pub(crate) fn seal(&self, keys: &Keys, kind: ObjectKind) -> Result<(String, Bytes)> {
        let name = kind.name(self.id);
        let object = envelope::seal(keys, kind, &name, &to_json(&self.text())?)?;
        Ok((name, object))
    }

    pub(crate) fn open(keys: &Keys, kind: ObjectKind, id: BackupId, object: &[u8]) -> Result<Backup> {
        let name = kind.name(id);
        let contents = envelope::open(keys, kind, &name, object).map_err(|e| e.hurting(id))?;
        let text: Text = serde_json::from_slice(&contents)
            .map_err(|e| Error::corrupt(&name, "the manifest makes no sense").because(e).hurting(id))?;
        text.into_backup(&name, id)
    }
}

impl Text {
    /// The backup that the object `name` tells of.
    pub(crate) fn into_backup(self, name: &str, id: BackupId) -> Result<Backup> {
        if self.version != 1 {
            let context = format!("{name} has version {}, newer than this cairn", self.version);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        if self.size > MAX_SIZE {
            return Err(Error::corrupt(name, "the volume is too large").hurting(id));
        }
        let root = self.root.map(|root| Child {
            node: Reference {
                id: root.node,
                hint: root
                    .hint
                    .map(|(pack, offset, len)| Place { pack, offset, len })
                    .filter(Place::is_possible),
            },
            chunks: root.chunks,
        });
        Ok(Backup {
            id,
            volume: VolumeRef { name: legible(self.volume.name), id: legible(self.volume.id) },
            kind: self.kind,
            parent: self.parent,
            labels: self.labels.legible(),
            created: self.created,
            host: legible(self.host),
            size: self.size,
            block_size: self.block_size,
            attributes: legible_pairs(self.attributes),
            data_bytes: self.data_bytes,
            read_bytes: self.read_bytes,
            added_bytes: self.added_bytes,
            root,
        })
    }
}

impl Labels {
    pub(crate) fn seal(&self, keys: &Keys, id: BackupId) -> Result<(String, Bytes)> {
        let name = ObjectKind::Labels.name(id);
        let object = envelope::seal(keys, ObjectKind::Labels, &name, &to_json(self)?)?;
        Ok((name, object))
    }

    pub(crate) fn open(keys: &Keys, id: BackupId, object: &[u8]) -> Result<Labels> {
        let name = ObjectKind::Labels.name(id);
        let contents = envelope::open(keys, ObjectKind::Labels, &name, object)?;
        serde_json::from_slice(&contents)
            .map(Labels::legible)
            .map_err(|e| Error::corrupt(&name, "the labels make no sense").because(e))
    }

    fn legible(self) -> Labels {
        Labels {
            name: legible(self.name),
            description: legible(self.description),
            tags: legible_pairs(self.tags),
        }
    }

    /// Short enough for every list they are shown in.
    pub(crate) fn check(&self) -> Result<()> {
        let long = |text: &str, most: usize| {
            text.len() > most || text.contains(|c: char| c.is_control() && c != '\n')
        };
        if long(&self.name, 255) || long(&self.description, 4096) {
            let context = "a name has at most 255 bytes, a description 4096, neither with control characters";
            return Err(Error::new(ErrorKind::InvalidArgument, context));
        }
        if self.tags.len() > 64 || self.tags.iter().any(|(k, v)| k.is_empty() || long(k, 127) || long(v, 255))
        {
            let context = "at most 64 tags, each a key of 1 to 127 bytes and a value of up to 255";
            return Err(Error::new(ErrorKind::InvalidArgument, context));
        }
        Ok(())
    }
}

/// What somebody else may have written, without what a terminal would take for commands.
fn legible(text: String) -> String {
    let is_command = |c: char| c.is_control() && c != '\n';
    if text.contains(is_command) { text.replace(is_command, "\u{fffd}") } else { text }
}

fn legible_pairs(pairs: BTreeMap<String, String>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (legible(key), legible(value))).collect()
}

/// The largest volume: 8 EiB, where offsets still fit everything that counts them.
const MAX_SIZE: u64 = i64::MAX as u64;

pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, "the manifest cannot be written").because(e))
}

/// The shape of a volume's map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) size: u64,
    pub(crate) chunk: u32,
}

impl Geometry {
    /// Checks a size given by a caller.
    pub(crate) fn new(size: u64, chunk: u32) -> Result<Geometry> {
        if size > MAX_SIZE {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a volume of {size} bytes is too large"),
            ));
        }
        Ok(Geometry { size, chunk })
    }

    /// Chunks of the volume; the last may lie partly past its end and is zero there.
    pub(crate) fn chunks(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk))
    }

    /// The level of the root: as few as cover all chunks.
    pub(crate) fn top(&self) -> u8 {
        let mut level = 0;
        while self.first_after(level, 0) < self.chunks() {
            level += 1;
        }
        level
    }

    /// The first chunk behind those of a node.
    pub(crate) fn first_after(&self, level: u8, index: u64) -> u64 {
        (index + 1).saturating_mul(span(level))
    }
}

/// Chunks below a node of a level.
pub(crate) fn span(level: u8) -> u64 {
    (FANOUT as u64).saturating_pow(u32::from(level) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RepoId;
    use crate::keys::MasterKey;

    #[test]
    fn manifests_come_back_whole() {
        let keys = Keys::new(RepoId([1; 16]), &MasterKey::generate().unwrap(), true);
        let hint = Some(Place { pack: PackId([4; 16]), offset: 32, len: 7 });
        let backup = Backup {
            id: BackupId([9; 8]),
            volume: VolumeRef { name: "db".into(), id: "pool/7".into() },
            kind: BackupKind::Incremental,
            parent: Some(BackupId([8; 8])),
            labels: Labels {
                name: "nightly".into(),
                description: "before the upgrade".into(),
                tags: [("a".to_owned(), "b".to_owned())].into(),
            },
            created: 1_700_000_000_000,
            host: "h".into(),
            size: 12345,
            block_size: 512,
            attributes: [("type".to_owned(), "fast".to_owned())].into(),
            data_bytes: 3,
            read_bytes: 2,
            added_bytes: 1,
            root: Some(Child { node: Reference { id: BlobId([3; 32]), hint }, chunks: 1 }),
        };
        let (name, object) = backup.seal(&keys, ObjectKind::Backup).unwrap();
        assert_eq!(name, "backups/0909090909090909");
        let read = Backup::open(&keys, ObjectKind::Backup, backup.id, &object).unwrap();
        assert_eq!(read, backup);
        assert_eq!(read.root.unwrap().node.hint, hint);
        // A manifest under another's name, or one that was never completed, is not taken for it.
        let error = Backup::open(&keys, ObjectKind::Backup, BackupId([1; 8]), &object).unwrap_err();
        assert_eq!((error.kind(), error.backups()), (ErrorKind::Corrupt, &[BackupId([1; 8])][..]));
        assert!(Backup::open(&keys, ObjectKind::Pending, backup.id, &object).is_err());
    }

    #[test]
    fn foreign_text_commands_no_terminal() {
        let keys = Keys::new(RepoId([1; 16]), &MasterKey::generate().unwrap(), false);
        let labels = Labels {
            name: "\u{1b}[2Jgone".into(),
            description: "two\nlines\r".into(),
            tags: [("k\u{9b}".to_owned(), "v\u{7}".to_owned())].into(),
        };
        let (_, object) = labels.seal(&keys, BackupId([9; 8])).unwrap();
        let read = Labels::open(&keys, BackupId([9; 8]), &object).unwrap();
        assert_eq!(
            (read.name.as_str(), read.description.as_str()),
            ("\u{fffd}[2Jgone", "two\nlines\u{fffd}")
        );
        assert_eq!(read.tags.first_key_value(), Some((&"k\u{fffd}".to_owned(), &"v\u{fffd}".to_owned())));
        assert_eq!(legible("naïve, 名前".to_owned()), "naïve, 名前");
    }

    #[test]
    fn maps_are_as_high_as_they_must_be() {
        let top = |chunks: u64| Geometry { size: chunks << 16, chunk: 1 << 16 }.top();
        assert_eq!([0, 1, 256, 257, 65536, 65537].map(top), [0, 0, 0, 1, 1, 2]);
        assert_eq!(Geometry { size: MAX_SIZE, chunk: 1 << 16 }.top(), 5);
        assert!(Geometry::new(MAX_SIZE + 1, 1 << 16).is_err());
    }
}
