//! What is left of volumes that were deleted while their snapshots live on.
//!
//! The engine's volume stays, for its snapshots are its own, with the attribute [`VOLUME_REMAINS`]: nobody uses it any more, and it
//! takes no space of its own. It goes with its last snapshot, or is a volume again when it is rolled back to one of them.
//!
//! ```text
//! delete   the attribute, and the mark of an undo point       by one record each: whatever a crash leaves,
//!          rolled back to its newest snapshot                 the next start goes on from there
//!          the undo point is deleted, with all that only the volume had
//! ```

use cairn_api::error::ApiError;
use cairn_cow::{Attributes, Disk, ErrorKind, Holder, Pool, Result};

use crate::images::{forget_passing, is_passing, passing_key, passing_snapshots};
use crate::keeper::random_hex;
use crate::settings::YES;

/// On a volume of which only its snapshots are left.
pub(crate) const VOLUME_REMAINS: &str = "snapshots-only";
/// What the names of the undo points begin with.
const UNDO_PREFIX: &str = "deleted-";

/// Whether of a volume that keeps `attributes` only its snapshots are left.
pub(crate) fn is_remains(attributes: &Attributes) -> bool {
    attributes.get(VOLUME_REMAINS).is_some()
}

/// Why nobody uses such a volume.
pub(crate) fn why(volume: &str) -> String {
    format!("the volume '{volume}' was deleted, and only its snapshots are left")
}

/// Deletes all of a volume that nobody uses but its snapshots, of which it has one at least.
///
/// # Errors
/// Of the pool, a full one's above all: then the volume is as it was.
pub(crate) async fn leave_snapshots<D: Disk>(pool: &Pool<D>, volume: &str, undo: &str) -> Result<()> {
    let (holder, mark) = (Holder::Volume(volume), passing_key(undo));
    pool.set_attributes(holder, &[(VOLUME_REMAINS, Some(YES)), (&mark, Some(YES))]).await?;
    if let Err(error) = empty(pool, volume, undo).await {
        // A pool that does not even take that refuses all writes, and the next start goes on. What went wrong first counts.
        let _ = pool.set_attributes(holder, &[(VOLUME_REMAINS, None), (&mark, None)]).await;
        return Err(error);
    }
    forget_passing(pool, volume, undo).await
}

/// A name for the undo point of [`leave_snapshots`].
///
/// # Errors
/// When there is no randomness.
pub(crate) fn undo_name() -> std::result::Result<String, ApiError> {
    random_hex().map(|hex| format!("{UNDO_PREFIX}{hex}"))
}

/// Has the volume hold what its newest snapshot holds, and what it held be the undo point. A passing snapshot is no choice
/// where there is another: what only that has would stay when it goes.
async fn empty<D: Disk>(pool: &Pool<D>, volume: &str, undo: &str) -> Result<()> {
    let (snapshots, kept) = (pool.snapshots(Some(volume))?, pool.attributes(Holder::Volume(volume))?);
    match snapshots.into_iter().max_by_key(|one| (!is_passing(&kept, &one.name), one.id)) {
        Some(newest) => pool.replace(volume, (volume, &newest.name), undo).await.map(drop),
        None => Ok(()),
    }
}

/// Deletes what is left of a volume if its last snapshot is gone. Whether it did.
///
/// # Errors
/// Of the pool.
pub(crate) async fn delete_if_bare<D: Disk>(pool: &Pool<D>, volume: &str) -> Result<bool> {
    let kept = pool.attributes(Holder::Volume(volume));
    if !kept.is_ok_and(|kept| is_remains(&kept)) || !pool.snapshots(Some(volume))?.is_empty() {
        return Ok(false);
    }
    match pool.delete_volume(volume, false).await {
        Ok(()) => Ok(true),
        // Somebody else did.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Goes on with what a crash has cut short, in a pool that was just opened; before the marked snapshots are deleted
/// ([`crate::images::sweep`]).
///
/// # Errors
/// Of the pool. What is left then is seen to by the next start.
pub(crate) async fn go_on<D: Disk>(pool: &Pool<D>) -> Result<()> {
    for volume in pool.volumes_with(VOLUME_REMAINS) {
        for undo in passing_snapshots(&volume.attributes).filter(|name| name.starts_with(UNDO_PREFIX)) {
            if pool.snapshot(&volume.name, undo).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
                empty(pool, &volume.name, undo).await?;
            }
        }
    }
    Ok(())
}

/// Deletes what is left of volumes without snapshots.
///
/// # Errors
/// Of the pool.
pub(crate) async fn sweep<D: Disk>(pool: &Pool<D>) -> Result<()> {
    for volume in pool.volumes_with(VOLUME_REMAINS) {
        delete_if_bare(pool, &volume.name).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use cairn_cow::sim::{SimDisk, block_on};
    use cairn_cow::{BLOCK_SIZE, CreateOptions, Options};

    use super::*;

    /// One of at most so many bytes.
    async fn pool_of(limit: u64) -> Result<Arc<Pool<SimDisk>>> {
        let create = CreateOptions { limit, journal_bytes: Some(1 << 20), segment_blocks: Some(64) };
        Pool::create(SimDisk::file(64 << 20), [1; 16], create, Options::default()).await
    }

    #[test]
    fn a_full_pool_is_emptied_of_what_only_the_volume_had() {
        block_on(async {
            let pool = pool_of(16 << 20).await?;
            let head = pool.create_volume("v", 1 << 30, "").await?.id;
            let write = async |head, at| {
                pool.write(0, head, at, BLOCK_SIZE as usize, pool.buffer(BLOCK_SIZE as usize)).await
            };
            write(head, 0).await?;
            pool.create_snapshots(&[("v", "s")], "").await?;
            let mut at = 0;
            let full = loop {
                match write(head, at).await {
                    Ok(_) => at += BLOCK_SIZE,
                    Err(error) => break error,
                }
            };
            assert_eq!(full.kind(), ErrorKind::NoSpace);
            leave_snapshots(&pool, "v", "deleted-x").await?;
            while pool.maintain(Duration::from_millis(100)).await? {}
            let left = pool.volume("v")?;
            assert!(is_remains(&left.attributes) && passing_snapshots(&left.attributes).next().is_none());
            let names: Vec<_> =
                pool.snapshots(Some("v"))?.into_iter().map(|snapshot| snapshot.name).collect();
            assert_eq!(names, ["s"]);
            assert_eq!(left.mapped, BLOCK_SIZE);
            let other = pool.create_volume("other", 1 << 30, "").await?.id;
            for at in (0..at / 2).step_by(BLOCK_SIZE as usize) {
                write(other, at).await?;
            }
            pool.delete_snapshot("v", "s").await?;
            assert!(delete_if_bare(&pool, "v").await?);
            Ok::<_, cairn_cow::Error>(())
        })
        .expect("a pool");
    }

    #[test]
    fn it_goes_on_from_a_snapshot_that_stays() {
        block_on(async {
            let pool = pool_of(64 << 20).await?;
            let head = pool.create_volume("v", 1 << 30, "").await?.id;
            let write = async |at| {
                pool.write(0, head, at, BLOCK_SIZE as usize, pool.buffer(BLOCK_SIZE as usize)).await
            };
            write(0).await?;
            pool.create_snapshots(&[("v", "stays")], "").await?;
            write(BLOCK_SIZE).await?;
            pool.create_snapshots(&[("v", "passes")], "").await?;
            pool.set_attributes(Holder::Volume("v"), &[(&passing_key("passes"), Some(YES))]).await?;
            leave_snapshots(&pool, "v", "deleted-x").await?;
            assert_eq!(pool.volume("v")?.mapped, BLOCK_SIZE, "what the backup's snapshot has beyond");
            Ok::<_, cairn_cow::Error>(())
        })
        .expect("a pool");
    }
}
