//! What differs between two versions, by a walk that skips what they share.

use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::map::{LeafView, compare, kind_of};
use crate::node::{FANOUT, Slot};
use crate::pool::Pool;
use crate::read::STEPS_PER_TURN;
use crate::state::{Blocked, State};
use crate::sync::yield_now;
use crate::types::{BLOCK_SIZE, DiffExtent, VersionId};

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
            let step = self
                .step(|state| {
                    let mut a = root_of(state, from)?;
                    let mut b = root_of(state, to)?;
                    compare(&mut a, &mut b, at, None).map_err(|missing| state.missing(missing))
                })
                .await?;
            if let Some(leaves) = &step.leaves {
                add_differences(&mut found, at, step.until.min(blocks), size, &leaves.0, &leaves.1);
            }
            at = step.until;
        }
        Ok(found)
    }
}

fn root_of(state: &mut State, id: VersionId) -> Result<Slot, Blocked> {
    let version = state.version(id).map_err(|_| {
        Blocked::Failed(Error::new(ErrorKind::NotFound, "a version was deleted while it was compared"))
    })?;
    version.root.cell();
    Ok(version.root.clone())
}

fn add_differences(found: &mut Vec<DiffExtent>, at: u64, until: u64, size: u64, a: &LeafView, b: &LeafView) {
    let mut add = |from: u64, to: u64, kind| {
        let (offset, end) = (from * BLOCK_SIZE, (to * BLOCK_SIZE).min(size));
        match found.last_mut() {
            Some(last) if last.kind == kind && last.offset + last.len == offset => {
                last.len = end - last.offset;
            }
            _ => found.push(DiffExtent { offset, len: end - offset, kind }),
        }
    };
    if let (LeafView::Uniform(_), LeafView::Uniform(to)) = (a, b) {
        add(at, until, kind_of(*to));
        return;
    }
    for lba in at..until {
        let index = lba as usize % FANOUT;
        if a.entry(index) != b.entry(index) {
            add(lba, lba + 1, kind_of(b.entry(index)));
        }
    }
}
