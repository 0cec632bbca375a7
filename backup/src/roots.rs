//! What a collection must keep: everything that a manifest leads to, pending and held ones included.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use crate::core::{Core, Fetcher};
use crate::envelope::Kind;
use crate::error::{Error, ErrorKind, Result};
use crate::hold;
use crate::ids::{BackupId, BlobId, HoldId};
use crate::index::{Index, View};
use crate::keys::BlobKind;
use crate::manifest::{Backup, Geometry};
use crate::map::Walk;

/// Manifests read at once.
const PARALLEL: usize = 16;

/// Every manifest there is.
pub(crate) struct Roots {
    pub(crate) pending: Vec<(Backup, i64)>,
    pub(crate) backups: Vec<Backup>,
    /// What holds keep, each with its hold and when that was renewed.
    pub(crate) held: Vec<(HoldId, Backup, i64)>,
    /// Objects with manifests that cannot be read, by name, with when they were written.
    pub(crate) damaged: Vec<(String, i64, Error)>,
}

impl Roots {
    /// Reads pending manifests before those of backups: one that has just become a backup is seen as either. And holds
    /// after them: a backup that was deleted before it could be seen is one that no holder finds either.
    pub(crate) async fn load(core: &Arc<Core>) -> Result<Roots> {
        let (pending, mut damaged) = read(core, Kind::Pending).await?;
        let (backups, more) = read(core, Kind::Backup).await?;
        damaged.extend(more);
        let open = |id: HoldId, object: &[u8]| hold::open(&core.keys, id, object).map(|backup| (id, backup));
        let (held, more) = read_all(core, Kind::Hold, open).await?;
        damaged.extend(more);
        let backups = backups.into_iter().map(|(backup, _)| backup).collect();
        let held = held.into_iter().map(|((id, backup), renewed)| (id, backup, renewed)).collect();
        Ok(Roots { pending, backups, held, damaged })
    }

    /// Backups first: damage that they share with a pending manifest is theirs.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Backup> {
        let pending = self.pending.iter().map(|(backup, _)| backup);
        let held = self.held.iter().map(|(_, backup, _)| backup);
        self.backups.iter().chain(pending).chain(held)
    }
}

/// What could be read of a kind, each with when it was written, in order of ids; and what could not, by name.
type Read<T> = (Vec<(T, i64)>, Vec<(String, i64, Error)>);

/// Every backup's manifest of a kind.
pub(crate) async fn read(core: &Arc<Core>, kind: Kind) -> Result<Read<Backup>> {
    read_all(core, kind, |id: BackupId, object| Backup::open(&core.keys, kind, id, object)).await
}

/// What `open` makes of every object of a kind.
async fn read_all<I, T>(core: &Arc<Core>, kind: Kind, open: impl Fn(I, &[u8]) -> Result<T>) -> Result<Read<T>>
where
    I: FromStr + fmt::Display + Copy + Ord + Send,
{
    let listed = core
        .store
        .list_as(kind.folder(), |object| {
            let id: I = object.name.strip_prefix(kind.folder())?.parse().ok()?;
            Some((id, object.modified))
        })
        .await?;
    let mut reads = stream::iter(listed.into_iter().map(|(id, modified)| {
        let core = core.clone();
        async move { (id, modified, core.store.find(&kind.name(id)).await) }
    }))
    .buffered(PARALLEL);
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    while let Some((id, modified, object)) = reads.next().await {
        let Some(object) = object? else { continue };
        match open(id, &object) {
            Ok(opened) => found.push((opened, modified)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                damaged.push((kind.name(id), modified, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((found, damaged))
}

/// Which copies of blobs are needed.
pub(crate) struct Live {
    /// One bit for each of the index's slots: the copy of a needed blob that counts.
    bits: Vec<u64>,
    /// Needed blobs that no pack holds, and nodes that cannot be read.
    pub(crate) missing: Vec<(BlobKind, BlobId)>,
    pub(crate) unreadable: Vec<Error>,
}

impl Live {
    /// Follows all roots.
    pub(crate) async fn mark(core: &Arc<Core>, index: &Arc<Index>, roots: &Roots) -> Result<Live> {
        let mut live = Live {
            bits: vec![0; index.slots().len().div_ceil(64)],
            missing: Vec::new(),
            unreadable: Vec::new(),
        };
        let fetcher = Arc::new(Fetcher::new(core.clone(), Some(index.clone()), None));
        let mut walk = Walk::new(fetcher);
        for backup in roots.all() {
            let Some(root) = backup.root else { continue };
            let top = Geometry::new(backup.size, core.config.chunk_size)?.top();
            let Live { bits, missing, unreadable } = &mut live;
            let mut each = |kind, reference: crate::node::Reference| {
                let copies = index.copies(&reference.id);
                if copies.is_empty() {
                    missing.push((kind, reference.id));
                } else {
                    bits[copies.start / 64] |= 1 << (copies.start % 64);
                }
            };
            let mut failed = |error: Error| match error.kind() {
                ErrorKind::Corrupt => {
                    unreadable.push(error.hurting(backup.id));
                    Ok(())
                }
                _ => Err(error),
            };
            walk.root(root, top, &mut each, &mut failed).await?;
        }
        if !live.missing.is_empty() {
            // A backup that was finished meanwhile refers to packs that are newer than this look at them.
            let newer = View::load(core).await?.index;
            live.missing.retain(|(_, id)| newer.copies(id).is_empty());
        }
        Ok(live)
    }

    pub(crate) fn contains(&self, slot: usize) -> bool {
        self.bits[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// For each of the index's packs: bytes of the copies that count.
    pub(crate) fn bytes_per_pack(&self, index: &Index) -> Vec<u64> {
        let mut bytes = vec![0; index.packs().len()];
        for (i, slot) in index.slots().iter().enumerate() {
            if self.contains(i) {
                bytes[slot.pack as usize] += u64::from(slot.len);
            }
        }
        bytes
    }
}
