//! One tree for heads, snapshots and ghosts: what forks, clones, rollbacks and deletions do to it.
//!
//! [`Versions::apply`] is the same for a record that was just decided and for one that is replayed, so what is
//! replayed is what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::attributes::{Attributes, POOL};
use crate::codec::{Reader, Writer};
use crate::defect::{Defect, planted};
use crate::error::{Error, ErrorKind, Result};
use crate::map::MAP_END;
use crate::node::Slot;
use crate::record::{Fork, Record};
use crate::types::{Epoch, MAX_VOLUME_BYTES, VersionId};

/// What a version is to users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A volume's writable head.
    Head { name: String, description: String, origin: Option<(String, String)> },
    /// A snapshot of the volume whose head is `volume`.
    Snapshot { volume: VersionId, name: String, description: String, automatic: bool },
    /// Deleted; kept while several descend from it, and until its space is given back.
    Ghost,
}

/// One version.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) parent: Option<VersionId>,
    /// All that a snapshot or ghost holds was born in or before this epoch; without meaning for a head.
    pub(crate) epoch: Epoch,
    pub(crate) root: Slot,
    /// Bytes.
    pub(crate) size: u64,
    /// Blocks that hold data.
    pub(crate) mapped: u64,
    pub(crate) created_ms: u64,
    pub(crate) kind: Kind,
    /// How many versions have this one as their parent.
    pub(crate) children: u32,
    /// Reads that failed their checksum since the pool was opened.
    pub(crate) checksum_errors: u64,
    pub(crate) attributes: Attributes,
    /// Bytes of its entry in the catalog, or more.
    encoded: usize,
}

/// The one deleted version whose space is being given back, and how far that got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reaping {
    pub(crate) version: VersionId,
    /// Blocks of its map before this one are done.
    pub(crate) cursor: u64,
}

/// All versions of a pool.
#[derive(Clone)]
pub(crate) struct Versions {
    pub(crate) epoch: Epoch,
    next: u32,
    all: BTreeMap<VersionId, Version>,
    heads: BTreeMap<String, VersionId>,
    snapshots: BTreeMap<(VersionId, String), VersionId>,
    pub(crate) ghosts: usize,
    encoded: usize,
    /// The pool's own.
    attributes: Attributes,
    pub(crate) reaping: Option<Reaping>,
    /// Counts the times that a version got another size or was deleted, for those who remember sizes.
    pub(crate) size_changes: Arc<AtomicU64>,
}

/// Bytes of the version tree in a catalog besides its versions, and of a version besides its texts.
const CATALOG_FIXED_BYTES: usize = 64;
const VERSION_FIXED_BYTES: usize = 84;

const KIND_HEAD: u8 = 1;
const KIND_SNAPSHOT: u8 = 2;
const KIND_GHOST: u8 = 3;

impl Versions {
    pub(crate) fn new() -> Versions {
        Versions {
            epoch: Epoch(1),
            next: 1,
            all: BTreeMap::new(),
            heads: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            ghosts: 0,
            encoded: 0,
            attributes: Attributes::default(),
            reaping: None,
            size_changes: Arc::default(),
        }
    }

    /// The next id that no version had; [`Versions::apply`] takes it.
    pub(crate) fn next_id(&self, ahead: u32) -> VersionId {
        VersionId(self.next + ahead)
    }

    pub(crate) fn get(&self, id: VersionId) -> Option<&Version> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: VersionId) -> Option<&mut Version> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (VersionId, &Version)> {
        self.all.iter().map(|(id, v)| (*id, v))
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn volume_count(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn snapshot_count(&self) -> usize {
        self.snapshots.len()
    }

    /// Ids of all volumes, by name.
    pub(crate) fn heads(&self) -> impl Iterator<Item = VersionId> {
        self.heads.values().copied()
    }

    pub(crate) fn head(&self, name: &str) -> Option<VersionId> {
        self.heads.get(name).copied()
    }

    pub(crate) fn snapshot(&self, head: VersionId, name: &str) -> Option<VersionId> {
        self.snapshots.get(&(head, name.to_owned())).copied()
    }

    /// Ids of a volume's snapshots, oldest first.
    pub(crate) fn snapshots_of(&self, head: VersionId) -> Vec<VersionId> {
        let from = (head, String::new());
        let mut ids: Vec<VersionId> =
            self.snapshots.range(from..).take_while(|((of, _), _)| *of == head).map(|(_, id)| *id).collect();
        ids.sort();
        ids
    }

    /// Deleted versions whose space can be given back: at most one version descends from them.
    pub(crate) fn reapable(&self) -> impl Iterator<Item = (VersionId, &Version)> {
        let none = self.ghosts == 0;
        self.iter().take_while(move |_| !none).filter(|(_, v)| v.kind == Kind::Ghost && v.children <= 1)
    }

    /// The only child of a version that has one.
    pub(crate) fn only_child(&self, id: VersionId) -> Option<VersionId> {
        let mut children = self.all.iter().filter(|(_, v)| v.parent == Some(id)).map(|(id, _)| *id);
        let first = children.next()?;
        children.next().is_none().then_some(first)
    }

    fn epoch_of(&self, id: Option<VersionId>) -> Epoch {
        id.and_then(|id| self.all.get(&id)).map_or(Epoch(0), |v| v.epoch)
    }

    /// What in a version was born after this epoch is its own: nobody before it has it. While the version's parent
    /// is being given back, what lies behind the cursor is reckoned as if the parent were gone already.
    pub(crate) fn floor(&self, version: &Version, lba: u64) -> Epoch {
        let Some(parent) = version.parent else { return Epoch(0) };
        match self.reaping {
            Some(reaping) if reaping.version == parent && lba < reaping.cursor => {
                self.epoch_of(self.all.get(&parent).and_then(|p| p.parent))
            }
            _ if planted(Defect::FloorOneTooHigh) => Epoch(self.epoch_of(Some(parent)).0 + 1),
            _ => self.epoch_of(Some(parent)),
        }
    }

    fn bad(what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, format!("the journal or the catalog contradicts itself: {what}"))
    }

    fn known(&mut self, id: VersionId) -> Result<&mut Version> {
        self.all.get_mut(&id).ok_or_else(|| Versions::bad(format_args!("version {id} does not exist")))
    }

    /// A version that others may descend from. Nothing ever descends from a head, so no version comes to descend from
    /// itself.
    fn known_snapshot(&mut self, id: VersionId) -> Result<&mut Version> {
        let version = self.known(id)?;
        match version.kind {
            Kind::Snapshot { .. } => Ok(version),
            Kind::Head { .. } | Kind::Ghost => {
                Err(Versions::bad(format_args!("version {id} is no snapshot")))
            }
        }
    }

    fn insert(&mut self, id: VersionId, version: Version) -> Result<()> {
        if id.0 < self.next || id.0 == u32::MAX {
            return Err(Versions::bad(format_args!("version {id} is not new")));
        }
        check_size(version.size)?;
        self.next = id.0 + 1;
        self.index(id, &version)?;
        if let Some(parent) = version.parent {
            self.known(parent)?.children += 1;
        }
        self.all.insert(id, version);
        Ok(())
    }

    /// Bytes that [`Versions::encode`] gives at most.
    pub(crate) fn encoded_bytes(&self) -> usize {
        CATALOG_FIXED_BYTES + self.encoded + self.attributes.encoded_bytes()
    }

    fn index(&mut self, id: VersionId, version: &Version) -> Result<()> {
        self.encoded += version.encoded;
        let taken = match &version.kind {
            Kind::Head { name, .. } => self.heads.insert(name.clone(), id).is_some(),
            Kind::Snapshot { volume, name, .. } => {
                self.snapshots.insert((*volume, name.clone()), id).is_some()
            }
            Kind::Ghost => {
                self.ghosts += 1;
                false
            }
        };
        if taken { Err(Versions::bad(format_args!("the name of version {id} is taken"))) } else { Ok(()) }
    }

    fn set_parent(&mut self, id: VersionId, parent: Option<VersionId>) -> Result<()> {
        let old = std::mem::replace(&mut self.known(id)?.parent, parent);
        if let Some(old) = old {
            self.known(old)?.children -= 1;
        }
        if let Some(parent) = parent {
            self.known(parent)?.children += 1;
        }
        Ok(())
    }

    fn next_epoch(&mut self) -> Result<()> {
        let next = self.epoch.0.checked_add(1).ok_or_else(|| Versions::bad("epochs are used up"))?;
        self.epoch = Epoch(next);
        Ok(())
    }

    /// Puts a snapshot of a head's present state between it and its parent.
    fn fork(&mut self, fork: &Fork, description: &str, automatic: bool, created_ms: u64) -> Result<()> {
        let epoch = self.epoch;
        let head = self.known(fork.head)?;
        if !matches!(head.kind, Kind::Head { .. }) {
            return Err(Versions::bad(format_args!("version {} is no head", fork.head)));
        }
        let kind = Kind::Snapshot {
            volume: fork.head,
            name: fork.name.clone(),
            description: description.to_owned(),
            automatic,
        };
        let (parent, root, size, mapped) = (head.parent, head.root.clone(), head.size, head.mapped);
        let snapshot = Version { epoch, mapped, ..Version::new(kind, parent, root, size, created_ms) };
        self.insert(fork.snapshot, snapshot)?;
        self.set_parent(fork.head, Some(fork.snapshot))
    }

    /// Changes what makes a version's entry in the catalog longer or shorter.
    fn resized(&mut self, id: VersionId, change: impl FnOnce(&mut Version)) -> Result<()> {
        let version = self.known(id)?;
        let before = version.encoded;
        change(version);
        version.encoded = version.kind.encoded_bytes() + version.attributes.encoded_bytes();
        let after = version.encoded;
        self.encoded = self.encoded - before + after;
        Ok(())
    }

    /// The attributes of a version, or of the pool.
    pub(crate) fn attributes(&self, holder: VersionId) -> Option<&Attributes> {
        if holder == POOL { Some(&self.attributes) } else { self.all.get(&holder).map(|v| &v.attributes) }
    }

    fn edit(&mut self, id: VersionId, name: &str, description: &str) -> Result<()> {
        let kind = match self.known(id)?.kind.clone() {
            Kind::Head { name: old, origin, .. } => {
                self.heads.remove(&old);
                if self.heads.insert(name.to_owned(), id).is_some() {
                    return Err(Versions::bad(format_args!("the name of version {id} is taken")));
                }
                Kind::Head { name: name.to_owned(), description: description.to_owned(), origin }
            }
            Kind::Snapshot { volume, name: old, automatic, .. } => {
                self.snapshots.remove(&(volume, old));
                if self.snapshots.insert((volume, name.to_owned()), id).is_some() {
                    return Err(Versions::bad(format_args!("the name of version {id} is taken")));
                }
                let (name, description) = (name.to_owned(), description.to_owned());
                Kind::Snapshot { volume, name, description, automatic }
            }
            Kind::Ghost => return Err(Versions::bad(format_args!("version {id} is edited but deleted"))),
        };
        self.resized(id, |version| version.kind = kind)
    }

    /// Does what a record says to the tree; records of writes and of space change nothing here.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::CreateVolume { head, name, description, size, created_ms } => {
                let kind = Kind::Head { name: name.clone(), description: description.clone(), origin: None };
                self.insert(*head, Version::new(kind, None, Slot::HOLE, *size, *created_ms))
            }
            Record::Fork { forks, description, automatic, created_ms } => {
                for fork in forks {
                    self.fork(fork, description, *automatic, *created_ms)?;
                }
                if planted(Defect::EpochNotRaised) {
                    return Ok(());
                }
                self.next_epoch()
            }
            Record::Clone { head, from, name, size, created_ms, origin } => {
                let source = self.known_snapshot(*from)?;
                let kind = Kind::Head {
                    name: name.clone(),
                    description: String::new(),
                    origin: Some(origin.clone()),
                };
                let mapped = source.mapped;
                let mut clone = Version::new(kind, Some(*from), source.root.clone(), *size, *created_ms);
                clone.mapped = mapped;
                self.insert(*head, clone)?;
                if planted(Defect::CloneNotCounted) {
                    self.known(*from)?.children -= 1;
                }
                Ok(())
            }
            Record::Rollback { head, to, kept, created_ms } => {
                if *head != kept.head {
                    return Err(Versions::bad(format_args!(
                        "version {head} goes back, {} is kept",
                        kept.head
                    )));
                }
                self.fork(kept, "what the volume held before", true, *created_ms)?;
                let target = self.known_snapshot(*to)?;
                let (root, mapped) = (target.root.clone(), target.mapped);
                self.set_parent(*head, Some(*to))?;
                let head = self.known(*head)?;
                head.root = root;
                head.mapped = mapped;
                if planted(Defect::RollbackKeepsEpoch) {
                    return Ok(());
                }
                self.next_epoch()
            }
            Record::Delete { versions } => {
                let epoch = self.epoch;
                for id in versions {
                    self.resized(*id, |version| version.attributes = Attributes::default())?;
                    let version = self.known(*id)?;
                    let kind = std::mem::replace(&mut version.kind, Kind::Ghost);
                    match kind {
                        Kind::Head { name, .. } => {
                            version.epoch = epoch;
                            self.heads.remove(&name);
                        }
                        Kind::Snapshot { volume, name, .. } => {
                            self.snapshots.remove(&(volume, name));
                        }
                        Kind::Ghost => {
                            return Err(Versions::bad(format_args!("version {id} is deleted twice")));
                        }
                    }
                    self.ghosts += 1;
                }
                self.size_changes.fetch_add(1, Ordering::Release);
                self.next_epoch()
            }
            Record::Resize { head, size } => {
                check_size(*size)?;
                self.known(*head)?.size = *size;
                self.size_changes.fetch_add(1, Ordering::Release);
                Ok(())
            }
            Record::Reap { version, cursor, .. } => {
                if self.known(*version)?.kind != Kind::Ghost || *cursor > MAP_END {
                    let what =
                        format_args!("the space of version {version} is given back up to block {cursor}");
                    return Err(Versions::bad(what));
                }
                self.reaping = Some(Reaping { version: *version, cursor: *cursor });
                Ok(())
            }
            Record::Reaped { version } => {
                let parent = self.known(*version)?.parent;
                if let Some(child) = self.only_child(*version) {
                    self.set_parent(child, parent)?;
                }
                let gone = self.known(*version)?;
                if gone.children != 0 || gone.kind != Kind::Ghost {
                    return Err(Versions::bad(format_args!("version {version} cannot be gone")));
                }
                if let Some(parent) = parent {
                    self.known(parent)?.children -= 1;
                }
                let gone = self.all.remove(version);
                self.encoded -= gone.map_or(0, |v| v.encoded);
                self.ghosts -= 1;
                self.reaping = None;
                Ok(())
            }
            Record::Attribute { holder: POOL, key, value } => {
                self.attributes.set(key, value.as_deref());
                Ok(())
            }
            Record::Attribute { holder, key, value } => {
                self.resized(*holder, |version| version.attributes.set(key, value.as_deref()))
            }
            Record::Edit { version, name, description } => self.edit(*version, name, description),
            Record::Write { .. } | Record::Fill { .. } | Record::Grow { .. } => Ok(()),
        }
    }

    /// Appends the whole tree to a catalog. Every root must have an address.
    pub(crate) fn encode(&self, w: &mut Writer) -> Result<()> {
        w.u32(self.epoch.0);
        w.u32(self.next);
        w.u32(self.reaping.map_or(0, |r| r.version.0));
        w.u64(self.reaping.map_or(0, |r| r.cursor));
        w.u32(self.all.len() as u32);
        for (id, v) in &self.all {
            w.u32(id.0);
            w.u32(v.parent.map_or(0, |p| p.0));
            w.u32(v.epoch.0);
            w.u64(v.size);
            w.u64(v.mapped);
            w.u64(v.created_ms);
            w.raw(&v.root.encode()?);
            match &v.kind {
                Kind::Head { name, description, origin } => {
                    w.u8(KIND_HEAD);
                    w.text(name);
                    w.text(description);
                    w.u8(u8::from(origin.is_some()));
                    if let Some((volume, snapshot)) = origin {
                        w.text(volume);
                        w.text(snapshot);
                    }
                }
                Kind::Snapshot { volume, name, description, automatic } => {
                    w.u8(KIND_SNAPSHOT);
                    w.u32(volume.0);
                    w.text(name);
                    w.text(description);
                    w.u8(u8::from(*automatic));
                }
                Kind::Ghost => w.u8(KIND_GHOST),
            }
            v.attributes.encode(w);
        }
        self.attributes.encode(w);
        Ok(())
    }

    /// Fails when some version is its own ancestor.
    fn refuse_loops(&self) -> Result<()> {
        let mut sound: BTreeSet<VersionId> = BTreeSet::new();
        for id in self.all.keys() {
            let mut path = Vec::new();
            let mut at = Some(*id);
            while let Some(id) = at.filter(|id| !sound.contains(id)) {
                if path.len() > self.all.len() {
                    return Err(Versions::bad(format_args!("version {id} descends from itself")));
                }
                path.push(id);
                at = self.all.get(&id).and_then(|v| v.parent);
            }
            sound.extend(path);
        }
        Ok(())
    }

    /// Reads the tree from a catalog, which has attributes or comes from before there were any.
    pub(crate) fn decode(r: &mut Reader<'_>, has_attributes: bool) -> Result<Versions> {
        let attributes = |r: &mut Reader<'_>| {
            if has_attributes { Attributes::decode(r) } else { Ok(Attributes::default()) }
        };
        let mut versions = Versions::new();
        versions.epoch = Epoch(r.u32()?);
        let next = r.u32()?;
        let reaping = (r.u32()?, r.u64()?);
        let count = r.u32()?;
        for _ in 0..count {
            let id = VersionId(r.u32()?);
            let parent = Some(VersionId(r.u32()?)).filter(|p| p.0 != 0);
            let epoch = Epoch(r.u32()?);
            let (size, mapped, created_ms) = (r.u64()?, r.u64()?, r.u64()?);
            check_size(size)?;
            if mapped > MAP_END {
                return Err(r.bad("a version maps more than any can"));
            }
            let root = Slot::decode(r.raw(16)?)?;
            let kind = match r.u8()? {
                KIND_HEAD => {
                    let (name, description) = (r.text()?, r.text()?);
                    let origin = if r.u8()? != 0 { Some((r.text()?, r.text()?)) } else { None };
                    Kind::Head { name, description, origin }
                }
                KIND_SNAPSHOT => Kind::Snapshot {
                    volume: VersionId(r.u32()?),
                    name: r.text()?,
                    description: r.text()?,
                    automatic: r.u8()? != 0,
                },
                KIND_GHOST => Kind::Ghost,
                _ => return Err(r.bad("a version of unknown kind")),
            };
            let attributes = attributes(r)?;
            let encoded = kind.encoded_bytes() + attributes.encoded_bytes();
            let new = Version::new(kind, parent, root, size, created_ms);
            let version = Version { epoch, mapped, attributes, encoded, ..new };
            versions.index(id, &version)?;
            if id.0 == 0 || versions.all.insert(id, version).is_some() {
                return Err(r.bad("a version is listed twice"));
            }
        }
        versions.attributes = attributes(r)?;
        let parents: Vec<VersionId> = versions.all.values().filter_map(|v| v.parent).collect();
        for parent in parents {
            versions.known(parent)?.children += 1;
        }
        if versions.all.keys().next_back().is_some_and(|last| last.0 >= next) {
            return Err(r.bad("a version has an id that was never given"));
        }
        versions.next = next;
        let known_ghost = |id| versions.get(VersionId(id)).is_some_and(|v| v.kind == Kind::Ghost);
        if reaping.0 != 0 && !known_ghost(reaping.0) || reaping.1 > MAP_END {
            return Err(r.bad("the deletion under way is of no deleted version"));
        }
        versions.refuse_loops()?;
        versions.reaping =
            (reaping.0 != 0).then_some(Reaping { version: VersionId(reaping.0), cursor: reaping.1 });
        Ok(versions)
    }
}

/// Whatever a journal says: a checkpoint must not store what no later start would take.
fn check_size(size: u64) -> Result<()> {
    if size <= MAX_VOLUME_BYTES {
        return Ok(());
    }
    Err(Versions::bad(format_args!("a version of {size} bytes is larger than any can be")))
}

impl Kind {
    /// Bytes of a version of this kind in a catalog, or more, but for its attributes.
    fn encoded_bytes(&self) -> usize {
        let texts = match self {
            Kind::Head { name, description, origin } => {
                let origin = origin.as_ref().map_or(0, |(volume, snapshot)| volume.len() + snapshot.len());
                name.len() + description.len() + origin
            }
            Kind::Snapshot { name, description, .. } => name.len() + description.len(),
            Kind::Ghost => 0,
        };
        VERSION_FIXED_BYTES + texts
    }
}

impl Version {
    fn new(kind: Kind, parent: Option<VersionId>, root: Slot, size: u64, created_ms: u64) -> Version {
        Version {
            encoded: kind.encoded_bytes(),
            parent,
            epoch: Epoch(0),
            root,
            size,
            mapped: 0,
            created_ms,
            kind,
            children: 0,
            checksum_errors: 0,
            attributes: Attributes::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A volume 1 whose only snapshot is 2.
    fn with_a_snapshot() -> Versions {
        let mut versions = Versions::new();
        let (head, snapshot) = (VersionId(1), VersionId(2));
        let create = Record::CreateVolume {
            head,
            name: "v".into(),
            description: String::new(),
            size: 4096,
            created_ms: 7,
        };
        let forks = vec![Fork { head, snapshot, name: "s".into() }];
        let fork = Record::Fork { forks, description: String::new(), automatic: false, created_ms: 7 };
        versions.apply(&create).unwrap();
        versions.apply(&fork).unwrap();
        versions
    }

    /// A journal's records were done whatever sizes and ancestors they gave; the next checkpoint stored what no later start
    /// would take. Found by fuzzing.
    #[test]
    fn no_record_makes_a_version_that_a_catalog_may_not_hold() {
        let (head, snapshot, new) = (VersionId(1), VersionId(2), VersionId(3));
        let kept = |head| Fork { head, snapshot: new, name: "kept".into() };
        let size = MAX_VOLUME_BYTES + 1;
        let clone = |from, size| Record::Clone {
            head: new,
            from,
            name: "c".into(),
            size,
            created_ms: 7,
            origin: ("v".into(), "s".into()),
        };
        let volume = Record::CreateVolume {
            head: new,
            name: "c".into(),
            description: String::new(),
            size,
            created_ms: 7,
        };
        let back = |head, to, of| Record::Rollback { head, to, kept: kept(of), created_ms: 7 };
        for wrong in [
            Record::Resize { head, size },
            volume,
            clone(snapshot, size),
            clone(head, 4096),
            back(head, head, head),
            back(snapshot, snapshot, head),
            Record::Reap { version: snapshot, cursor: 256, freed: Vec::new(), nodes: Vec::new() },
        ] {
            let error = with_a_snapshot().apply(&wrong).expect_err("it cannot be");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{wrong:?}");
        }
        with_a_snapshot().apply(&clone(snapshot, 4096)).unwrap();
        with_a_snapshot().apply(&back(head, snapshot, head)).unwrap();
    }

    /// Catalogs written before there were attributes end each version, and the versions, without any.
    #[test]
    fn a_catalog_without_attributes_is_read() {
        let mut versions = Versions::new();
        let create = Record::CreateVolume {
            head: VersionId(1),
            name: "v".into(),
            description: "d".into(),
            size: 4096,
            created_ms: 7,
        };
        versions.apply(&create).unwrap();
        let mut w = Writer::default();
        versions.encode(&mut w).unwrap();
        let new = w.into_bytes();
        // One version without attributes, and none of the pool's: twice the number 0 at the end.
        let old = &new[..new.len() - 8];
        assert!(Versions::decode(&mut Reader::new(old, "test"), true).is_err());
        let mut r = Reader::new(old, "test");
        let read = Versions::decode(&mut r, false).unwrap();
        assert!(r.is_empty());
        assert_eq!(read.head("v"), Some(VersionId(1)));
        assert!(
            read.attributes(VersionId(1)).unwrap().is_empty() && read.attributes(POOL).unwrap().is_empty()
        );
        let mut again = Writer::default();
        read.encode(&mut again).unwrap();
        assert_eq!(again.into_bytes(), new);
    }
}
