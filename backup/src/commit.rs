//! Making a backup count, while collections may be deleting packs.
//!
//! A writer says what it refers to (a pending manifest), and only then looks whether any of it is condemned. A
//! collection condemns, and only then looks who refers to what. Whatever the order of their steps, one of them sees
//! the other: the collection keeps the blobs, or the writer stores them again. No clock and no lock takes part.
//! `docs/BACKUP-FORMAT.md` has the whole argument.

use std::collections::HashSet;
use std::sync::Arc;

use crate::core::{Core, Fetcher};
use crate::envelope::Kind;
use crate::error::{ErrorKind, Result};
use crate::ids::{BackupId, PackId};
use crate::index::{self, View};
use crate::manifest::{Backup, Geometry};
use crate::map::Walk;
use crate::repository;

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Committed,
    /// Something it refers to was condemned or deleted meanwhile: go through the volume again.
    Conflict,
}

/// Makes `backup` count. `used` are the packs that its new nodes and chunks lie in, `base` the backup that it has
/// all else from.
pub(crate) async fn commit(
    core: &Arc<Core>,
    backup: &Backup,
    used: &HashSet<PackId>,
    base: Option<BackupId>,
) -> Result<Outcome> {
    let (pending, object) = backup.seal(&core.keys, Kind::Pending)?;
    core.store.put(&pending, object).await?;
    // After a failure it stays, and keeps blobs from being collected for a day: the manifest's write may have failed
    // for this host only and still arrive.
    let outcome = commit_pending(core, backup, used, base, &pending).await?;
    if let Err(error) = core.store.delete(&pending).await {
        tracing::debug!(%error, "a pending manifest stays until it is collected");
    }
    Ok(outcome)
}

async fn commit_pending(
    core: &Arc<Core>,
    backup: &Backup,
    used: &HashSet<PackId>,
    base: Option<BackupId>,
    pending: &str,
) -> Result<Outcome> {
    if !is_intact(core, backup, used, base).await? {
        return Ok(Outcome::Conflict);
    }
    let (name, object) = backup.seal(&core.keys, Kind::Backup)?;
    // Its name is random, so nothing of that name is there: stores that cannot put if absent will do.
    core.store.put(&name, object).await?;
    // As long as the pending manifest was there, no collection overlooked this backup. If one took it for left
    // behind, because this host slept for a day, the look has to be repeated with the manifest in place. So it has if
    // the base is gone: a collection that listed pending manifests before this one was put, and backups after the
    // base was deleted and before this one was there, has seen neither.
    let overlooked = core.store.head(pending).await?.is_none() || !has_base(core, base).await?;
    if overlooked && !is_intact(core, backup, used, base).await? {
        core.store.delete(&name).await?;
        return Ok(Outcome::Conflict);
    }
    Ok(Outcome::Committed)
}

/// Whether the base, if there is one, has not been deleted.
async fn has_base(core: &Core, base: Option<BackupId>) -> Result<bool> {
    match base {
        Some(base) => repository::is_there(core, base).await,
        None => Ok(true),
    }
}

/// Whether all that a manifest refers to, which is in the store by now, is in packs that are there and not condemned.
async fn is_intact(
    core: &Arc<Core>,
    backup: &Backup,
    used: &HashSet<PackId>,
    base: Option<BackupId>,
) -> Result<bool> {
    // Marks before packs: whoever deletes a pack deletes its mark last, so what is in neither list is seen as gone.
    let condemned: HashSet<PackId> =
        index::list_marks(core).await?.into_iter().map(|mark| mark.pack).collect();
    let there = index::list_pack_ids(core).await?;
    let usable = used.iter().all(|pack| there.contains(pack) && !condemned.contains(pack));
    if usable && has_base(core, base).await? {
        return Ok(true);
    }
    let Some(root) = backup.root else { return Ok(true) };
    let index = View::load(core).await?.index;
    let fetcher = Arc::new(Fetcher::new(core.clone(), Some(index.clone()), None));
    let top = Geometry::new(backup.size, core.config.chunk_size)?.top();
    let (mut missing, mut unreadable) = (false, false);
    Walk::new(fetcher)
        .root(root, top, &mut |_, reference| missing |= index.usable(&reference.id).is_none(), &mut |error| {
            match error.kind() {
                ErrorKind::Corrupt => {
                    unreadable = true;
                    Ok(())
                }
                _ => Err(error),
            }
        })
        .await?;
    Ok(!missing && !unreadable)
}
