//! Volumes that serve while they are being restored from a backup.
//!
//! ```text
//!   exports ──► [volume]  Restore: every request of such a volume        control/restores ──► making, ending
//!                  │  │                                                         │
//!        [claims] ─┘  └── [filled]  which chunks are there: a bitmap      [background]  fills the rest, in order
//!                  │                in a hidden volume                          │
//!              [fetches]  one fetch a chunk at a time, patience, what is wrong ─┘
//!                  │  └── [room]  how much of what is fetched may be in memory, for each volume and for all
//!                  │
//!              [source] ── the repository, opened when it is needed       [worker]  the thread all fetching is done on
//!                  └── [holding]  the backup may be deleted meanwhile
//! ```
//!
//! A volume is restored chunk by chunk, in the repository's chunks. It has an attribute, [`VOLUME_RESTORE`], that says from
//! where, and a **companion**: a hidden volume of the same pool that holds one bit for each chunk, set when the volume needs
//! the repository for it no more. A read of a chunk fetches it first; a write that covers only part of one, too; one that
//! covers all of it fetches nothing. The engine knows nothing of all this.
//!
//! # Why a crash is harmless
//!
//! All volumes of a pool share one log, and a crash leaves a prefix of it. Of a chunk the log has, in this order and each
//! only once the one before was answered:
//!
//! - *F*, its contents from the backup, then *M*, its bit, then any number of writes *U* by users; or
//! - *W*, a write of all of it by a user, then *M*, then the answer to that user, then any *U*.
//!
//! If *M* is in the prefix, so is *F* or *W*, and everything after it is a disk's own business. If it is not, then no write
//! to the chunk was answered, and it is fetched once more. That writes the same *F* again, or it replaces a *W* that nobody
//! was told had succeeded; where the backup has a hole nothing is written, and such a *W* stays. Both are what a disk may
//! hold after a write that it has not answered. A flush makes durable what its client was answered, and so all that
//! comes before it.
//!
//! Two things must hold for this. Nothing of a chunk may reach the log late: *F*, *W* and *M* belong to tasks that run to
//! their end even when the client whose request began them is gone. And bits must not be lost: a block of the bitmap is
//! written by one task at a time, with all bits that are set ([`filled`]).
//!
//! When all bits are set the attribute is taken away and then the companion deleted. A companion that no attribute names is
//! left by a crash between the two, or by one while a volume was made or deleted: [`sweep`] deletes it.
//!
//! # What is refused
//!
//! Snapshots, clones, images, rollbacks and other sizes of the volume, until it is restored: a snapshot would show a volume
//! with pieces missing. So there is nothing but the head to keep bits for.

mod background;
mod chunks;
mod claims;
mod fetches;
mod filled;
mod holding;
mod registry;
mod room;
mod source;
#[cfg(test)]
mod tests;
mod volume;
mod worker;

use cairn_api::job::JobKind;
use cairn_backup::HoldId;
use cairn_cow::{Attributes, Disk, Pool, Result};
use serde::{Deserialize, Serialize};

use crate::jobs::job_id;

pub(crate) use background::fill_all;
pub(crate) use holding::while_held;
pub(crate) use registry::Restores;
pub(crate) use source::{RepoSource, Wanted, failure};
pub(crate) use volume::Restore;

/// On a volume that is being restored: a [`RestoreSettings`] as JSON.
pub(crate) const VOLUME_RESTORE: &str = "restore";
/// On the hidden volume that is the bitmap of one that is being restored.
pub(crate) const COMPANION: &str = "restore-bitmap";

/// From where a volume is restored, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RestoreSettings {
    /// The repository's URL.
    pub(crate) repo: String,
    /// The backup's whole id.
    pub(crate) backup: String,
    #[serde(default)]
    pub(crate) key_file: Option<String>,
    /// What the engine calls the companion.
    pub(crate) companion: String,
    /// Bytes that a bit stands for: of the repository's chunks.
    pub(crate) chunk: u32,
    /// What keeps the backup's contents in the repository; none in volumes of versions that did not.
    #[serde(default)]
    pub(crate) hold: Option<HoldId>,
}

impl RestoreSettings {
    /// The job that it is.
    fn job(&self) -> String {
        job_id(JobKind::Restore, &self.companion)
    }
}

/// Whether a volume that keeps `attributes` is a bitmap.
pub(crate) fn is_companion(attributes: &Attributes) -> bool {
    attributes.get(COMPANION).is_some()
}

/// Whether a volume that keeps `attributes` is being restored.
pub(crate) fn is_restoring(attributes: &Attributes) -> bool {
    attributes.get(VOLUME_RESTORE).is_some()
}

/// What the engine calls the companion of a volume that keeps `attributes`, if it has one.
pub(crate) fn companion_of(attributes: &Attributes) -> Option<String> {
    let settings: RestoreSettings = serde_json::from_str(attributes.get(VOLUME_RESTORE)?).ok()?;
    Some(settings.companion)
}

/// Deletes the companions that no volume names any more in a pool that was just opened.
///
/// # Errors
/// Of the pool.
pub(crate) async fn sweep<D: Disk>(pool: &Pool<D>) -> Result<()> {
    let volumes = pool.volumes();
    let mut named = Vec::new();
    for kept in volumes.iter().filter_map(|volume| volume.attributes.get(VOLUME_RESTORE)) {
        match serde_json::from_str::<RestoreSettings>(kept) {
            Ok(settings) => named.push(settings.companion),
            // Another version wrote it, and any companion may be its.
            Err(_) => return Ok(()),
        }
    }
    for volume in volumes {
        if is_companion(&volume.attributes) && !named.contains(&volume.name) {
            pool.delete_volume(&volume.name, true).await?;
        }
    }
    Ok(())
}
