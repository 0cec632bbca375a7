//! Volumes and snapshots as users handle them: each verb checks, appends one record, and returns when it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::attributes::{self, Attributes, Holder, POOL};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{Pool, now_ms};
use crate::record::{Fork, Record};
use crate::state::{Blocked, State};
use crate::types::{
    BLOCK_SIZE, Lsn, MAX_NAME_CHARS, MAX_VOLUME_BYTES, Origin, SnapshotInfo, TreeKind, TreeNode, VersionId,
    VolumeInfo,
};
use crate::version::{Kind, Version};

/// Characters of the longest description.
const MAX_DESCRIPTION_CHARS: usize = 1024;
/// Volumes that one group snapshot may cover: its record must fit a batch.
const MAX_GROUP: usize = 64;
/// More than any verb's record takes.
pub(crate) const RECORD_BYTES: usize = 48 << 10;
/// Snapshots of one volume: the record that deletes it with them must fit a batch.
const MAX_SNAPSHOTS: usize = 10_000;

/// What an export name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// The version to read from and, if writable, to write to.
    pub id: VersionId,
    /// Bytes.
    pub size: u64,
    /// A head; snapshots are read-only.
    pub writable: bool,
    /// The volume's or snapshot's free text.
    pub description: String,
    /// The head of the volume it belongs to: the id itself, or a snapshot's volume's.
    pub head: VersionId,
}

/// A volume to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewVolume<'a> {
    /// Unique in the pool.
    pub name: &'a str,
    /// Free text, one line.
    pub description: &'a str,
    /// Keys and values to keep on it.
    pub attributes: &'a [(&'a str, &'a str)],
}

/// Snapshots to be made, all at one point of the order of writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewSnapshots<'a> {
    /// Volumes, and what the snapshot of each is to be called.
    pub of: &'a [(&'a str, &'a str)],
    /// Free text for each, one line.
    pub description: &'a str,
    /// Keys and values to keep on each.
    pub attributes: &'a [(&'a str, &'a str)],
}

/// What of a volume or snapshot is to be called or described differently; `None` leaves it as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edit<'a> {
    /// A name that is not in use.
    pub name: Option<&'a str>,
    /// Free text, one line.
    pub description: Option<&'a str>,
    /// Attributes to set, or with `None` to take away, together with the rest.
    pub attributes: &'a [(&'a str, Option<&'a str>)],
}

/// Checks a volume's or snapshot's name: 1 to 128 ASCII letters, digits, dots, underscores and hyphens, a letter or
/// digit first. So a name needs no quoting in a shell, a URI or a file name, and `VOLUME@SNAPSHOT` has one meaning.
pub fn check_name(name: &str) -> Result<()> {
    let bad = |why: String| Err(Error::new(ErrorKind::InvalidArgument, why));
    let count = name.chars().count();
    if count == 0 {
        return bad("a name must not be empty".into());
    }
    if count > MAX_NAME_CHARS {
        return bad(format!("a name can have at most {MAX_NAME_CHARS} characters, this one has {count}"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return bad(format!("the name '{name}' must begin with a letter or digit"));
    }
    if let Some(wrong) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c)) {
        return bad(format!(
            "the name '{}' holds {wrong:?}: use letters, digits, '.', '_' and '-'",
            name.escape_default()
        ));
    }
    Ok(())
}

fn check_size(size: u64) -> Result<()> {
    if (1..=MAX_VOLUME_BYTES).contains(&size) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "a volume of {size} bytes: the size must be from 1 byte to {MAX_VOLUME_BYTES} bytes (64 TiB)"
        ),
    ))
}

fn check_description(description: &str) -> Result<()> {
    let bad = |why: String| Err(Error::new(ErrorKind::InvalidArgument, why));
    if description.chars().count() > MAX_DESCRIPTION_CHARS {
        return bad(format!("a description can have at most {MAX_DESCRIPTION_CHARS} characters"));
    }
    // It is shown on terminals and in NBD lists.
    if let Some(wrong) = description.chars().find(|c| c.is_control()) {
        return bad(format!("a description is one line of text and cannot hold {wrong:?}"));
    }
    Ok(())
}

fn snapshot_exists(volume: &str, name: &str) -> Error {
    Error::new(ErrorKind::Exists, format!("volume '{volume}' already has a snapshot '{name}'"))
}

/// Checks attributes that something is to have from the start, and gives them as changes to none.
fn check_attributes<'a>(attributes: &[(&'a str, &'a str)]) -> Result<Vec<(&'a str, Option<&'a str>)>> {
    let changes: Vec<_> = attributes.iter().map(|(key, value)| (*key, Some(*value))).collect();
    attributes::check_changes(&changes)?;
    attributes::check_room(VersionId(u32::MAX), &Attributes::default(), &changes)?;
    Ok(changes)
}

impl<'a> NewVolume<'a> {
    /// Checks the texts, and gives the attributes as changes to none.
    fn check(&self) -> Result<Vec<(&'a str, Option<&'a str>)>> {
        check_name(self.name)?;
        check_description(self.description)?;
        check_attributes(self.attributes)
    }
}

impl<'a> NewSnapshots<'a> {
    /// Checks the texts, and gives the attributes as changes to none.
    fn check(&self) -> Result<Vec<(&'a str, Option<&'a str>)>> {
        check_description(self.description)?;
        let count = self.of.len();
        if !(1..=MAX_GROUP).contains(&count) {
            let why = format!("a snapshot covers 1 to {MAX_GROUP} volumes, not {count}");
            return Err(Error::new(ErrorKind::InvalidArgument, why));
        }
        self.of.iter().try_for_each(|(_, name)| check_name(name))?;
        attributes::check_changes(
            &self
                .attributes
                .repeat(count)
                .iter()
                .map(|(key, value)| (*key, Some(*value)))
                .collect::<Vec<_>>(),
        )?;
        check_attributes(self.attributes)
    }
}

impl Edit<'_> {
    fn check(&self) -> Result<()> {
        self.name.map_or(Ok(()), check_name)?;
        self.description.map_or(Ok(()), check_description)?;
        attributes::check_changes(self.attributes)
    }

    /// Whether a version that is described like this and keeps this now takes more room in the catalog after the edit. A
    /// name alone is no reason to refuse one.
    fn grows(&self, version: VersionId, description: &str, now: &Attributes) -> Result<bool> {
        let more = attributes::check_room(version, now, self.attributes)?;
        Ok(more || self.description.is_some_and(|new| new.len() > description.len()))
    }

    /// The records of this edit to a version that is called and described like this now.
    fn records(&self, version: VersionId, name: String, description: String) -> Vec<Record> {
        let mut records = attributes::records(version, self.attributes);
        if self.name.is_some() || self.description.is_some() {
            records.push(Record::Edit {
                version,
                name: self.name.map_or(name, str::to_owned),
                description: self.description.map_or(description, str::to_owned),
            });
        }
        records
    }
}

impl State {
    fn head_named(&self, name: &str) -> Result<VersionId> {
        self.versions
            .head(name)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no volume '{name}'")))
    }

    fn snapshot_named(&self, volume: &str, name: &str) -> Result<VersionId> {
        let head = self.head_named(volume)?;
        self.versions.snapshot(head, name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("volume '{volume}' has no snapshot '{name}'"))
        })
    }

    /// The version that a holder of attributes means.
    pub(crate) fn holder(&self, holder: Holder<'_>) -> Result<VersionId> {
        match holder {
            Holder::Pool => Ok(POOL),
            Holder::Volume(name) => self.head_named(name),
            Holder::Snapshot(volume, name) => self.snapshot_named(volume, name),
        }
    }

    fn volume_is_new(&self, name: &str) -> Result<()> {
        match self.versions.head(name) {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Exists, format!("there is already a volume '{name}'"))),
        }
    }

    fn admit_snapshot(&self, head: VersionId) -> Result<()> {
        self.admit_version()?;
        if self.versions.snapshots_of(head).len() < MAX_SNAPSHOTS {
            return Ok(());
        }
        let name = self.volume_name(head);
        let why =
            format!("volume '{name}' has {MAX_SNAPSHOTS} snapshots, the most a volume can have: delete some");
        Err(Error::new(ErrorKind::Conflict, why))
    }

    fn volume_info(&self, id: VersionId) -> Result<VolumeInfo> {
        let gone = || Error::new(ErrorKind::NotFound, format!("version {id} does not exist any more"));
        let version = self.versions.get(id).ok_or_else(gone)?;
        let Kind::Head { name, description, origin } = &version.kind else { return Err(gone()) };
        let origin = origin.clone().map(|(volume, snapshot)| Origin { volume, snapshot });
        Ok(VolumeInfo {
            id,
            name: name.clone(),
            description: description.clone(),
            size: version.size,
            mapped: version.mapped * BLOCK_SIZE,
            created_ms: version.created_ms,
            origin,
            snapshots: self.versions.snapshots_of(id).len(),
            checksum_errors: version.checksum_errors,
            attributes: version.attributes.clone(),
        })
    }

    fn volume_name(&self, head: VersionId) -> String {
        match self.versions.get(head).map(|v| &v.kind) {
            Some(Kind::Head { name, .. }) => name.clone(),
            _ => String::new(),
        }
    }

    fn snapshot_info(&self, id: VersionId) -> Result<SnapshotInfo> {
        let gone = || Error::new(ErrorKind::NotFound, format!("version {id} does not exist any more"));
        let version = self.versions.get(id).ok_or_else(gone)?;
        let Kind::Snapshot { volume, name, description, automatic } = &version.kind else {
            return Err(gone());
        };
        Ok(SnapshotInfo {
            id,
            volume: self.volume_name(*volume),
            name: name.clone(),
            description: description.clone(),
            size: version.size,
            mapped: version.mapped * BLOCK_SIZE,
            created_ms: version.created_ms,
            automatic: *automatic,
            children: version.children as usize,
            attributes: version.attributes.clone(),
        })
    }

    /// A name for an undo point that the volume does not use yet.
    fn undo_name(&self, head: VersionId, base: &str) -> String {
        let numbered = (2..).map(|n| format!("{base}-{n}"));
        let mut names = std::iter::once(base.to_owned()).chain(numbered);
        names.find(|name| self.versions.snapshot(head, name).is_none()).expect("numbers do not end")
    }
}

impl<D: Disk> Pool<D> {
    /// Makes a decision under the lock and waits until it is durable.
    async fn decide<R>(&self, mut f: impl FnMut(&mut State) -> Result<(Record, R)>) -> Result<R> {
        self.decide_all(|state| f(state).map(|(record, answer)| (vec![record], answer))).await
    }

    /// Makes a decision that takes several records, which are there together or not at all.
    pub(crate) async fn decide_all<R>(
        &self,
        mut f: impl FnMut(&mut State) -> Result<(Vec<Record>, R)>,
    ) -> Result<R> {
        self.decide_if(|state| state.admit_growth(RECORD_BYTES), &mut f).await
    }

    /// Decides on a deletion, which works in the fullest pool.
    async fn decide_deletion(&self, mut f: impl FnMut(&mut State) -> Result<(Record, ())>) -> Result<()> {
        let mut decide = |state: &mut State| f(state).map(|(record, ())| (vec![record], ()));
        self.decide_if(|state| state.admit(RECORD_BYTES), &mut decide).await?;
        self.work.notify_all();
        Ok(())
    }

    async fn decide_if<R>(
        &self,
        admit: impl Fn(&State) -> Result<(), Blocked>,
        f: &mut impl FnMut(&mut State) -> Result<(Vec<Record>, R)>,
    ) -> Result<R> {
        let (answer, lsn): (R, Lsn) = self
            .step(|state| {
                admit(state)?;
                let (records, answer) = f(state)?;
                state.decide_all(&records)?;
                Ok::<_, Blocked>((answer, state.lsn))
            })
            .await?;
        self.flush_to(lsn).await?;
        Ok(answer)
    }

    /// Makes a new volume that reads as zeroes.
    pub async fn create_volume(&self, name: &str, size: u64, description: &str) -> Result<VolumeInfo> {
        self.create_volume_with(NewVolume { name, description, attributes: &[] }, size).await
    }

    /// Makes a new volume that reads as zeroes, with all that is to be kept on it from the start.
    pub async fn create_volume_with(&self, new: NewVolume<'_>, size: u64) -> Result<VolumeInfo> {
        let NewVolume { name, description, .. } = new;
        let attributes = new.check()?;
        check_size(size)?;
        let head = self
            .decide_all(|state| {
                state.volume_is_new(name)?;
                state.admit_version()?;
                let head = state.versions.next_id(0);
                let record = Record::CreateVolume {
                    head,
                    name: name.to_owned(),
                    description: description.to_owned(),
                    size,
                    created_ms: now_ms(),
                };
                let mut records = vec![record];
                records.extend(attributes::records(head, &attributes));
                Ok((records, head))
            })
            .await?;
        self.state.lock().volume_info(head)
    }

    /// Makes a new volume with a snapshot's contents, of the same size or larger. Nothing is copied.
    pub async fn clone_volume(
        &self,
        volume: &str,
        snapshot: &str,
        new_name: &str,
        size: Option<u64>,
    ) -> Result<VolumeInfo> {
        let new = NewVolume { name: new_name, ..NewVolume::default() };
        self.clone_volume_with(volume, snapshot, new, size).await
    }

    /// Makes a new volume with a snapshot's contents, with all that is to be kept on it from the start. Nothing that is
    /// kept on the source comes with it.
    pub async fn clone_volume_with(
        &self,
        volume: &str,
        snapshot: &str,
        new: NewVolume<'_>,
        size: Option<u64>,
    ) -> Result<VolumeInfo> {
        let NewVolume { name, description, .. } = new;
        let attributes = new.check()?;
        size.map_or(Ok(()), check_size)?;
        let head = self
            .decide_all(|state| {
                let from = state.snapshot_named(volume, snapshot)?;
                state.volume_is_new(name)?;
                state.admit_version()?;
                let least = state.version(from)?.size;
                let size = size.unwrap_or(least);
                if size < least {
                    return Err(Error::new(
                        ErrorKind::Shrink,
                        format!(
                            "a clone of '{volume}@{snapshot}' needs at least its {least} bytes, not {size}"
                        ),
                    ));
                }
                let head = state.versions.next_id(0);
                let record = Record::Clone {
                    head,
                    from,
                    name: name.to_owned(),
                    size,
                    created_ms: now_ms(),
                    origin: (volume.to_owned(), snapshot.to_owned()),
                };
                let mut records = vec![record];
                if !description.is_empty() {
                    records.push(Record::Edit {
                        version: head,
                        name: name.to_owned(),
                        description: description.to_owned(),
                    });
                }
                records.extend(attributes::records(head, &attributes));
                Ok((records, head))
            })
            .await?;
        self.state.lock().volume_info(head)
    }

    /// Gives a volume another name, description or attributes, all at once. Its exports are known by the new name from then on; who is connected
    /// stays connected.
    pub async fn edit_volume(&self, name: &str, edit: Edit<'_>) -> Result<VolumeInfo> {
        edit.check()?;
        let head = self
            .decide_all(|state| {
                let head = state.head_named(name)?;
                if let Some(new) = edit.name.filter(|new| *new != name) {
                    state.volume_is_new(new)?;
                }
                let now = state.volume_info(head)?;
                if edit.grows(head, &now.description, &now.attributes)? {
                    state.admit_version()?;
                }
                Ok((edit.records(head, now.name, now.description), head))
            })
            .await?;
        self.state.lock().volume_info(head)
    }

    /// Gives a snapshot another name, description or attributes, all at once.
    pub async fn edit_snapshot(&self, volume: &str, name: &str, edit: Edit<'_>) -> Result<SnapshotInfo> {
        edit.check()?;
        let id = self
            .decide_all(|state| {
                let id = state.snapshot_named(volume, name)?;
                if let Some(new) = edit.name.filter(|new| *new != name)
                    && state.snapshot_named(volume, new).is_ok()
                {
                    return Err(snapshot_exists(volume, new));
                }
                let now = state.snapshot_info(id)?;
                if edit.grows(id, &now.description, &now.attributes)? {
                    state.admit_version()?;
                }
                Ok((edit.records(id, now.name, now.description), id))
            })
            .await?;
        self.state.lock().snapshot_info(id)
    }

    /// Deletes a volume and, when asked to, its snapshots with it; clones of them live on. Space is given back in
    /// the background.
    pub async fn delete_volume(&self, name: &str, with_snapshots: bool) -> Result<()> {
        self.decide_deletion(|state| {
            let head = state.head_named(name)?;
            let mut versions = state.versions.snapshots_of(head);
            if !versions.is_empty() && !with_snapshots {
                return Err(Error::new(
                    ErrorKind::HasSnapshots,
                    match versions.len() {
                        1 => format!("volume '{name}' has a snapshot"),
                        count => format!("volume '{name}' has {count} snapshots"),
                    },
                ));
            }
            versions.push(head);
            Ok((Record::Delete { versions }, ()))
        })
        .await
    }

    /// Makes a volume larger.
    pub async fn resize_volume(&self, name: &str, size: u64) -> Result<VolumeInfo> {
        check_size(size)?;
        let head = self
            .decide(|state| {
                let head = state.head_named(name)?;
                let now = state.version(head)?.size;
                if size < now {
                    return Err(Error::new(
                        ErrorKind::Shrink,
                        format!(
                            "volume '{name}' has {now} bytes and cannot shrink to {size}: volumes only grow"
                        ),
                    ));
                }
                Ok((Record::Resize { head, size }, head))
            })
            .await?;
        self.state.lock().volume_info(head)
    }

    /// Takes snapshots of one or more volumes, `(volume, name)` each, all at one point of the order of writes.
    pub async fn create_snapshots(
        &self,
        of: &[(&str, &str)],
        description: &str,
    ) -> Result<Vec<SnapshotInfo>> {
        self.create_snapshots_with(NewSnapshots { of, description, attributes: &[] }).await
    }

    /// Takes snapshots of one or more volumes, all at one point of the order of writes, with all that is to be kept on them
    /// from the start.
    pub async fn create_snapshots_with(&self, new: NewSnapshots<'_>) -> Result<Vec<SnapshotInfo>> {
        let attributes = new.check()?;
        let NewSnapshots { of, description, .. } = new;
        let ids = self
            .decide_all(|state| {
                let mut forks: Vec<Fork> = Vec::new();
                for (volume, name) in of {
                    let head = state.head_named(volume)?;
                    state.admit_snapshot(head)?;
                    if forks.iter().any(|f| f.head == head) {
                        return Err(Error::new(
                            ErrorKind::Conflict,
                            format!("volume '{volume}' is named twice"),
                        ));
                    }
                    if state.versions.snapshot(head, name).is_some() {
                        return Err(snapshot_exists(volume, name));
                    }
                    forks.push(Fork {
                        head,
                        snapshot: state.versions.next_id(forks.len() as u32),
                        name: (*name).to_owned(),
                    });
                }
                let ids: Vec<VersionId> = forks.iter().map(|f| f.snapshot).collect();
                let description = description.to_owned();
                let fork = Record::Fork { forks, description, automatic: false, created_ms: now_ms() };
                let mut records = vec![fork];
                records.extend(ids.iter().flat_map(|id| attributes::records(*id, &attributes)));
                Ok((records, ids))
            })
            .await?;
        let state = self.state.lock();
        ids.into_iter().map(|id| state.snapshot_info(id)).collect()
    }

    /// Deletes a snapshot; what descends from it is untouched. Space is given back in the background.
    pub async fn delete_snapshot(&self, volume: &str, name: &str) -> Result<()> {
        self.decide_deletion(|state| {
            let id = state.snapshot_named(volume, name)?;
            Ok((Record::Delete { versions: vec![id] }, ()))
        })
        .await
    }

    /// Makes a volume go on from one of its snapshots. What it held is kept as an automatic snapshot, which is
    /// returned; newer snapshots stay. The volume keeps its size.
    pub async fn rollback(&self, volume: &str, snapshot: &str) -> Result<SnapshotInfo> {
        let undo = format!("before-rollback-to-{snapshot}");
        self.replace(volume, (volume, snapshot), &undo).await
    }

    /// As [`rollback`](Self::rollback), but to the snapshot of any volume that is not larger; past that one's end there
    /// are zeroes. The automatic snapshot is called `undo`, with a number behind it if there is one of that name.
    pub async fn replace(
        &self,
        volume: &str,
        (source, snapshot): (&str, &str),
        undo: &str,
    ) -> Result<SnapshotInfo> {
        // Room for a number.
        let undo: String = undo.chars().take(MAX_NAME_CHARS - 6).collect();
        check_name(&undo)?;
        let kept = self
            .decide(|state| {
                let head = state.head_named(volume)?;
                let to = state.snapshot_named(source, snapshot)?;
                let size_of = |id| state.versions.get(id).map_or(0, |version| version.size);
                let (size, larger) = (size_of(head), size_of(to));
                if larger > size {
                    let why = format!(
                        "the snapshot '{source}@{snapshot}' has {larger} bytes, the volume '{volume}' {size}"
                    );
                    return Err(Error::new(ErrorKind::Shrink, why));
                }
                state.admit_snapshot(head)?;
                let id = state.versions.next_id(0);
                let kept = Fork { head, snapshot: id, name: state.undo_name(head, &undo) };
                Ok((Record::Rollback { head, to, kept, created_ms: now_ms() }, id))
            })
            .await?;
        self.state.lock().snapshot_info(kept)
    }

    /// Every volume, by name.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let state = self.state.lock();
        state.versions.heads().filter_map(|id| state.volume_info(id).ok()).collect()
    }

    /// The volumes that keep something under `key`, by name.
    pub fn volumes_with(&self, key: &str) -> Vec<VolumeInfo> {
        let state = self.state.lock();
        let keeps = |id: &VersionId| {
            state.versions.get(*id).is_some_and(|version| version.attributes.get(key).is_some())
        };
        state.versions.heads().filter(keeps).filter_map(|id| state.volume_info(id).ok()).collect()
    }

    /// Counts a volume's reads that failed their checksum anew.
    pub fn forget_checksum_errors(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock();
        let head = state.head_named(name)?;
        state.version(head)?.checksum_errors = 0;
        Ok(())
    }

    /// Whether there is a volume of this name.
    pub fn has_volume(&self, name: &str) -> bool {
        self.state.lock().versions.head(name).is_some()
    }

    /// One volume.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo> {
        let state = self.state.lock();
        state.volume_info(state.head_named(name)?)
    }

    /// The snapshots of one volume or of all, oldest first.
    pub fn snapshots(&self, volume: Option<&str>) -> Result<Vec<SnapshotInfo>> {
        let state = self.state.lock();
        let heads: Vec<VersionId> = match volume {
            Some(name) => vec![state.head_named(name)?],
            None => state.versions.heads().collect(),
        };
        heads
            .into_iter()
            .flat_map(|head| state.versions.snapshots_of(head))
            .map(|id| state.snapshot_info(id))
            .collect()
    }

    /// One snapshot.
    pub fn snapshot(&self, volume: &str, name: &str) -> Result<SnapshotInfo> {
        let state = self.state.lock();
        state.snapshot_info(state.snapshot_named(volume, name)?)
    }

    /// Every version that shares an ancestor with the volume or with one of its snapshots, parents before their children.
    pub fn tree(&self, volume: &str) -> Result<Vec<TreeNode>> {
        let state = self.state.lock();
        let head = state.head_named(volume)?;
        let root_of = |mut id: VersionId| {
            while let Some(parent) = state.versions.get(id).and_then(|v| v.parent) {
                id = parent;
            }
            id
        };
        // What a volume was before it was replaced by another one's snapshot stands in a tree of its own.
        let of_volume = std::iter::once(head).chain(state.versions.snapshots_of(head));
        let roots: BTreeSet<VersionId> = of_volume.map(root_of).collect();
        let mut children: BTreeMap<VersionId, Vec<VersionId>> = BTreeMap::new();
        for (id, version) in state.versions.iter() {
            if let Some(parent) = version.parent {
                children.entry(parent).or_default().push(id);
            }
        }
        let mut nodes: Vec<TreeNode> = Vec::new();
        let mut todo: Vec<VersionId> = roots.into_iter().rev().collect();
        while let Some(id) = todo.pop() {
            let Some(version) = state.versions.get(id) else { continue };
            nodes.push(tree_node(&state, id, version));
            todo.extend(children.remove(&id).unwrap_or_default());
        }
        Ok(nodes)
    }

    /// What `VOLUME` or `VOLUME@SNAPSHOT` stands for.
    pub fn resolve(&self, name: &str) -> Result<Resolved> {
        let state = self.state.lock();
        let volume = name.split_once('@').map_or(name, |(volume, _)| volume);
        let head = state.head_named(volume)?;
        let (id, writable) = match name.split_once('@') {
            Some((volume, snapshot)) => (state.snapshot_named(volume, snapshot)?, false),
            None => (head, true),
        };
        let version = state.versions.get(id).expect("its name is known");
        let description = match &version.kind {
            Kind::Head { description, .. } | Kind::Snapshot { description, .. } => description.clone(),
            Kind::Ghost => String::new(),
        };
        Ok(Resolved { id, size: version.size, writable, description, head })
    }

    /// The export name of a head or snapshot: `VOLUME` or `VOLUME@SNAPSHOT`.
    pub fn export_name(&self, id: VersionId) -> Result<String> {
        let mut state = self.state.lock();
        Ok(match state.version(id)?.kind.clone() {
            Kind::Snapshot { volume, name, .. } => format!("{}@{name}", state.volume_name(volume)),
            _ => state.volume_name(id),
        })
    }

    /// A version's present size in bytes.
    pub fn size_of(&self, id: VersionId) -> Result<u64> {
        Ok(self.state.lock().version(id)?.size)
    }

    /// A number that grows whenever any version is resized or deleted. While it stays, so does what
    /// [`size_of`](Pool::size_of) said: whoever asks for every request looks here first, which takes no lock.
    pub fn size_changes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.state.lock().versions.size_changes)
    }
}

fn tree_node(state: &State, id: VersionId, version: &Version) -> TreeNode {
    let kind = match &version.kind {
        Kind::Head { name, .. } => TreeKind::Head { volume: name.clone() },
        Kind::Snapshot { volume, name, .. } => {
            TreeKind::Snapshot { volume: state.volume_name(*volume), name: name.clone() }
        }
        Kind::Ghost => TreeKind::Ghost,
    };
    TreeNode { id, parent: version.parent, kind, size: version.size, created_ms: version.created_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_at_their_limits() {
        assert!(check_name(&"a".repeat(128)).is_ok());
        let long = check_name(&"a".repeat(129)).unwrap_err();
        assert!(long.to_string().contains("129"), "{long}");
        for bad in ["", "-a", ".a", "a b", "a@b", "a/b", "ä", "a\n"] {
            assert_eq!(check_name(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
        assert!(check_name("vm-01.root_disk").is_ok());
        assert!(check_description("größer, 10 €").is_ok());
        assert!(check_description("two\nlines").is_err() && check_description("\x1b[31m").is_err());
    }
}
