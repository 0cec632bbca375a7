//! What is there only as long as a client stays connected to it: imports, and snapshots that are taken to be read.
//!
//! A client that does not come back cannot say so. Its NBD connection says it: when there has been none for [`GRACE`],
//! what it was for goes away.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::error::ApiError;
use cairn_api::image::PassingSnapshot;
use cairn_cow::{Disk, Holder, Pool, VersionId};

use super::attachments;
use super::context::Context;
use super::convert::api;
use super::sessions::Target;
use super::{convert, restores, volumes};
use crate::images::{forget_passing, passing_key};
use crate::keeper::random_hex;
use crate::remains::delete_if_bare;

/// How long nobody may be connected. A client that connects right away has time to fail and try again.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until nobody has been connected to a version for [`GRACE`]; false when `over` says that it does not matter any
/// more, or the version is gone.
pub(super) async fn deserted<D: Disk>(
    c: &Context<D>,
    pool: &Pool<D>,
    version: VersionId,
    over: impl Fn() -> bool,
) -> bool {
    let mut alone = Duration::ZERO;
    while alone < GRACE {
        tokio::time::sleep(PAUSE).await;
        // Its volume may have been renamed.
        let Ok(export) = pool.export_name(version) else { return false };
        if over() {
            return false;
        }
        let used = c.volumes.sessions.connections(&Target::of_export(&export)) > 0;
        alone = if used { Duration::ZERO } else { alone + PAUSE };
    }
    true
}

/// Takes a snapshot that goes away with the client that reads it. Runs on the control side.
pub(super) async fn passing_snapshot<D: Disk>(
    c: Context<D>,
    volume: String,
) -> Result<PassingSnapshot, ApiError> {
    let (taken, pool, id) = c.change(async move |c| take(&c, volume).await).await?;
    tokio::spawn(async move {
        if deserted(&c, &pool, id, || false).await {
            drop_passing(&c, pool, id).await;
        }
    });
    Ok(taken)
}

async fn take<D: Disk>(
    c: &Context<D>,
    volume: String,
) -> Result<(PassingSnapshot, Arc<Pool<D>>, VersionId), ApiError> {
    restores::refuse(c, &volume)?;
    let (_, pool) = c.pool_of(&volume)?;
    volumes::refuse_remains(&pool, &volume)?;
    let snapshot = format!("passing-{}", random_hex()?);
    let taken = take_marked(&pool, &volume, &snapshot).await.map_err(|e| convert::error(&e))?;
    Ok((PassingSnapshot { volume, snapshot, size: taken.size }, pool, taken.id))
}

/// Takes a snapshot that the next start of the daemon deletes if this one does not.
pub(super) async fn take_marked<D: Disk>(
    pool: &Pool<D>,
    volume: &str,
    snapshot: &str,
) -> cairn_cow::Result<cairn_cow::SnapshotInfo> {
    // First the mark, so that there is no moment in which the snapshot is there without it.
    pool.set_attributes(Holder::Volume(volume), &[(&passing_key(snapshot), Some("yes"))]).await?;
    let taken = pool.create_snapshots(&[(volume, snapshot)], "taken to be read, goes away by itself").await;
    match taken.map(|snapshots| snapshots.into_iter().next()) {
        Ok(Some(taken)) => Ok(taken),
        Ok(None) => pool.snapshot(volume, snapshot),
        Err(error) => {
            forget_passing(pool, volume, snapshot).await?;
            Err(error)
        }
    }
}

async fn drop_passing<D: Disk>(c: &Context<D>, pool: Arc<Pool<D>>, id: VersionId) {
    let dropped = c.change(async move |c| {
        let Ok(export) = pool.export_name(id) else { return Ok(()) };
        let Some((volume, snapshot)) = export.split_once('@') else { return Ok(()) };
        let _held = attachments::hold(&c.volumes.sessions, Target::of_export(&export)).await?;
        api(forget_passing(&pool, volume, snapshot).await)?;
        api(delete_if_bare(&pool, volume).await).map(drop)
    });
    if let Err(error) = dropped.await {
        tracing::warn!(%error, "a snapshot that nobody reads any more is left");
    }
}
