//! What differs between two versions, by a walk that skips what they share: all of it ([`Pool::diff`]), or range by range
//! for whoever pulls an incremental backup ([`Pool::changes`]).

use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::map::{Comparison, LeafView, compare, kind_of};
use crate::node::{FANOUT, Slot};
use crate::pool::Pool;
use crate::read::STEPS_PER_TURN;
use crate::state::{Blocked, State};
use crate::sync::yield_now;
use crate::types::{BLOCK_SIZE, ChangeExtent, DiffExtent, ExtentKind, VersionId};
use crate::version::{Kind, Versions};
use crate::write::check_range;

impl<D: Disk> Pool<D> {
    /// What a volume's `other` snapshot, or its head, holds otherwise than its `snapshot`: ranges of whole blocks
    /// cut to the larger size, in order.
    pub async fn diff(&self, volume: &str, snapshot: &str, other: Option<&str>) -> Result<Vec<DiffExtent>> {
        let from = self.resolve(&format!("{volume}@{snapshot}"))?.id;
        let to = match other {
            Some(other) => self.resolve(&format!("{volume}@{other}"))?.id,
            None => self.resolve(volume)?.id,
        };
        self.diff_versions(from, to).await
    }

    /// As [`Pool::diff`], for any two versions; it costs what differs when they are related.
    pub async fn diff_versions(&self, from: VersionId, to: VersionId) -> Result<Vec<DiffExtent>> {
        let size = self.size_of(from)?.max(self.size_of(to)?);
        let blocks = size.div_ceil(BLOCK_SIZE);
        let mut found: Vec<DiffExtent> = Vec::new();
        let mut at = 0;
        let mut steps = 0;
        while at < blocks {
            steps += 1;
            if steps % STEPS_PER_TURN == 0 {
                yield_now().await;
            }
            for (until, differs) in self.compare_at(from, to, at).await? {
                let (offset, end) = (at * BLOCK_SIZE, (until * BLOCK_SIZE).min(size));
                at = until;
                let Some(kind) = differs.filter(|_| offset < end) else { continue };
                match found.last_mut() {
                    Some(last) if last.kind == kind && last.offset + last.len == offset => {
                        last.len = end - last.offset;
                    }
                    _ => found.push(DiffExtent { offset, len: end - offset, kind }),
                }
            }
        }
        Ok(found)
    }

    /// Where in `offset..offset + len` of `to` a block may hold something else than in `from`: at most `max` extents
    /// from the start, neighbours that are alike in one. They may cover less than was asked when there are more.
    ///
    /// Either version may be the older one, or neither: the answer is exact for any two, block by block. What lies past
    /// the end of `from` counts as changed where `to` holds anything there. For related versions it costs what differs
    /// in the range, for others what both hold there. A head may change meanwhile; each block is told as it was at some
    /// moment of the call. Fails with [`ErrorKind::NotFound`] once either is deleted.
    pub async fn changes(
        &self,
        from: VersionId,
        to: VersionId,
        offset: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<ChangeExtent>> {
        self.size_of(from)?;
        check_range(self.size_of(to)?, offset, len)?;
        let mut found: Vec<ChangeExtent> = Vec::new();
        let (mut at, end) = (offset, offset + len);
        let mut steps = 0;
        while at < end {
            steps += 1;
            if steps % STEPS_PER_TURN == 0 {
                yield_now().await;
            }
            for (until, differs) in self.compare_at(from, to, at / BLOCK_SIZE).await? {
                let until = (until * BLOCK_SIZE).min(end);
                if at >= until {
                    break;
                }
                let changed = differs.is_some();
                let full = found.len() == max;
                match found.last_mut() {
                    Some(last) if last.changed == changed => last.len += until - at,
                    _ if full => return Ok(found),
                    _ => found.push(ChangeExtent { offset: at, len: until - at, changed }),
                }
                at = until;
            }
        }
        Ok(found)
    }

    /// Compares two versions from block `at` on, as far as one step goes: where each run ends, and what `to` holds in
    /// it if that may be something else than in `from`.
    async fn compare_at(
        &self,
        from: VersionId,
        to: VersionId,
        at: u64,
    ) -> Result<Vec<(u64, Option<ExtentKind>)>> {
        let step = self
            .step(|state| {
                let mut a = root_of(state, from)?;
                let mut b = root_of(state, to)?;
                compare(&mut a, &mut b, at, None).map_err(|missing| state.missing(missing))
            })
            .await?;
        Ok(runs(at, &step))
    }

    /// The snapshots of the volume that a head or a snapshot belongs to, by name, oldest first: what it is mostly
    /// compared with.
    pub fn bases(&self, id: VersionId) -> Result<Vec<String>> {
        let mut state = self.state.lock();
        let head = head_of(&mut state, id)?;
        let name = |id| match state.versions.get(id).map(|v| &v.kind) {
            Some(Kind::Snapshot { name, .. }) => Some(name.clone()),
            _ => None,
        };
        Ok(state.versions.snapshots_of(head).into_iter().filter_map(name).collect())
    }

    /// The snapshot that `name` stands for when a version is compared with it: `SNAPSHOT`, of the version's own volume,
    /// or `VOLUME@SNAPSHOT`, of one that shares an ancestor with it.
    pub fn base(&self, id: VersionId, name: &str) -> Result<VersionId> {
        let mut state = self.state.lock();
        let head = head_of(&mut state, id)?;
        let versions = &state.versions;
        let found = match name.split_once('@') {
            None => versions.snapshot(head, name),
            Some((volume, snapshot)) => {
                let of = versions.head(volume).and_then(|head| versions.snapshot(head, snapshot));
                of.filter(|base| oldest_ancestor(versions, *base) == oldest_ancestor(versions, id))
            }
        };
        let none = || format!("there is no snapshot '{name}' to compare version {id} with");
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, none()))
    }
}

/// The head of the volume that a head or a snapshot belongs to.
fn head_of(state: &mut State, id: VersionId) -> Result<VersionId> {
    Ok(match state.version(id)?.kind {
        Kind::Snapshot { volume, .. } => volume,
        Kind::Head { .. } | Kind::Ghost => id,
    })
}

fn oldest_ancestor(versions: &Versions, mut id: VersionId) -> VersionId {
    while let Some(parent) = versions.get(id).and_then(|version| version.parent) {
        id = parent;
    }
    id
}

fn root_of(state: &mut State, id: VersionId) -> Result<Slot, Blocked> {
    let version = state.version(id).map_err(|_| {
        Blocked::Failed(Error::new(ErrorKind::NotFound, "a version was deleted while it was compared"))
    })?;
    version.root.cell();
    Ok(version.root.clone())
}

/// What a step of the comparison from block `at` on found; see [`Pool::compare_at`].
fn runs(at: u64, step: &Comparison) -> Vec<(u64, Option<ExtentKind>)> {
    let (a, b) = match step.leaves.as_deref() {
        None => return vec![(step.until, None)],
        Some((LeafView::Uniform(_), LeafView::Uniform(to))) => return vec![(step.until, Some(kind_of(*to)))],
        Some((a, b)) => (a, b),
    };
    let mut runs: Vec<(u64, Option<ExtentKind>)> = Vec::new();
    for lba in at..step.until {
        let index = lba as usize % FANOUT;
        let (was, is) = (a.entry(index), b.entry(index));
        // Of what was lost in both nobody can say that it was the same.
        let differs = (was != is || is.is_lost()).then(|| kind_of(is));
        match runs.last_mut() {
            Some((until, same)) if *same == differs => *until = lba + 1,
            _ => runs.push((lba + 1, differs)),
        }
    }
    runs
}
