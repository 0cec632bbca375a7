//! The recycle bin: what is deleted is kept for a while, hidden, under a name that nobody else gives.
//!
//! ```text
//! delete   volume ─► hidden, with the attribute ─► recover: its name again     by one record each: a crash leaves one or
//!                                               └► expired or purged: gone     the other
//! ```

use std::sync::Arc;
use std::time::Duration;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::recycle::{MAX_KEEP_SECONDS, Recover, RecycleBin, Recycled, SetRecycleBin};
use cairn_api::volume::Volume;
use cairn_cow::{Attributes, Disk, Edit, Holder, Pool, VolumeInfo};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::context::{Context, busy, check_name, invalid};
use super::convert::api;
use super::{snapshots, volumes};
use crate::keeper::random_hex;
use crate::settings::{self, RECYCLE_BIN, encode};
use crate::staging::VOLUME_RECYCLED;
use crate::volumes::Volumes;

/// On a deleted volume: what it was, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    name: String,
    deleted: Timestamp,
}

/// For how long deleted volumes are kept; none when they are not.
pub(super) fn keep<D: Disk>(volumes: &Volumes<D>) -> Option<Duration> {
    let kept = volumes.pools.main().attributes(Holder::Pool).ok()?;
    let seconds = kept.get(RECYCLE_BIN)?.parse().ok()?;
    (1..=MAX_KEEP_SECONDS).contains(&seconds).then(|| Duration::from_secs(seconds))
}

fn kept(attributes: &Attributes) -> Option<Kept> {
    serde_json::from_str(attributes.get(VOLUME_RECYCLED)?).ok()
}

/// A deleted volume, where it is, and what it was.
struct Found<D: Disk> {
    pool_name: String,
    pool: Arc<Pool<D>>,
    volume: VolumeInfo,
    kept: Kept,
}

fn all<D: Disk>(volumes: &Volumes<D>) -> Vec<Found<D>> {
    let mut found = Vec::new();
    for (pool_name, pool) in volumes.pools.open() {
        for volume in pool.volumes_with(VOLUME_RECYCLED) {
            if let Some(kept) = kept(&volume.attributes) {
                found.push(Found { pool_name: pool_name.clone(), pool: Arc::clone(&pool), volume, kept });
            }
        }
    }
    found.sort_by(|a, b| (b.kept.deleted, &b.volume.name).cmp(&(a.kept.deleted, &a.volume.name)));
    found
}

fn find<D: Disk>(volumes: &Volumes<D>, id: &str) -> Result<Found<D>, ApiError> {
    let found = all(volumes).into_iter().find(|found| found.volume.name == id);
    found.ok_or_else(|| missing(id))
}

/// What is answered about what is not there.
pub(super) fn missing(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no '{id}' in the recycle bin"))
        .with_hint("\"cairn recycle-bin list\" shows what there is")
}

fn expires(kept: &Kept, keep: Duration) -> Timestamp {
    // Ten years at most from a time that there was.
    kept.deleted.checked_add(keep).unwrap_or(Timestamp::MAX)
}

pub(super) fn show<D: Disk>(volumes: &Volumes<D>) -> RecycleBin {
    let keep = keep(volumes).unwrap_or_default();
    let shown = |Found { pool_name, volume, kept, .. }: Found<D>| Recycled {
        expires: expires(&kept, keep),
        deleted: kept.deleted,
        name: kept.name,
        size: volume.size,
        mapped: volume.mapped,
        snapshots: volume.snapshots as u64,
        pool: pool_name,
        project: settings::project(&volume.attributes).to_owned(),
        tags: settings::tags(&volume.attributes),
        id: volume.name,
    };
    RecycleBin { keep_seconds: keep.as_secs(), volumes: all(volumes).into_iter().map(shown).collect() }
}

pub(super) async fn set<D: Disk>(c: Context<D>, request: SetRecycleBin) -> Result<RecycleBin, ApiError> {
    let seconds = request.keep_seconds;
    if seconds > MAX_KEEP_SECONDS {
        return Err(invalid(format!(
            "{seconds} seconds are more than the ten years that volumes can be kept"
        )));
    }
    let volumes = all(&c.volumes).len();
    if seconds == 0 && volumes > 0 {
        return Err(busy(format!("volumes are in the recycle bin, {volumes} in all"))
            .with_hint("recover or purge them first: cairn recycle-bin list"));
    }
    let value = (seconds > 0).then(|| seconds.to_string());
    let main = c.volumes.pools.main();
    api(main.set_attributes(Holder::Pool, &[(RECYCLE_BIN, value.as_deref())]).await)?;
    Ok(show(&c.volumes))
}

/// Puts a volume that nobody uses into the bin.
pub(super) async fn put<D: Disk>(pool: &Pool<D>, name: &str) -> Result<(), ApiError> {
    let id = format!("recycled-{}", random_hex()?);
    let kept = encode(&Kept { name: name.to_owned(), deleted: Timestamp::now() });
    let edit = Edit { name: Some(&id), description: None, attributes: &[(VOLUME_RECYCLED, Some(&kept))] };
    api(pool.edit_volume(name, edit).await).map(drop)
}

/// Makes what was deleted a volume again.
pub(super) async fn recover<D: Disk>(
    c: Context<D>,
    id: String,
    request: Recover,
) -> Result<Volume, ApiError> {
    let Found { pool, kept, .. } = find(&c.volumes, &id)?;
    let name = request.name.unwrap_or(kept.name);
    check_name(&name)?;
    volumes::check_free(&c, &name)?;
    let edit = Edit { name: Some(&name), description: None, attributes: &[(VOLUME_RECYCLED, None)] };
    api(pool.edit_volume(&id, edit).await)?;
    api(volumes::show(&c.volumes, &name))
}

/// What is gone for good.
pub(super) struct Gone {
    pub(super) name: String,
    pub(super) project: String,
}

/// Deletes what is in the bin for good.
pub(super) async fn purge<D: Disk>(c: Context<D>, id: String) -> Result<Gone, ApiError> {
    remove(&c, find(&c.volumes, &id)?).await
}

async fn remove<D: Disk>(c: &Context<D>, found: Found<D>) -> Result<Gone, ApiError> {
    let Found { pool, volume, kept, .. } = found;
    for snapshot in api(pool.snapshots(Some(&volume.name)))? {
        snapshots::refuse_held(&snapshot)?;
    }
    api(pool.delete_volume(&volume.name, true).await)?;
    c.volumes.forget_use(&pool, volume.id);
    Ok(Gone { name: kept.name, project: settings::project(&volume.attributes).to_owned() })
}

/// Deletes what has been in the bin for long enough. What cannot be deleted is left for the next time.
pub(super) async fn expire<D: Disk>(c: Context<D>) -> Result<Vec<Gone>, ApiError> {
    let Some(keep) = keep(&c.volumes) else { return Ok(Vec::new()) };
    let (now, mut gone) = (Timestamp::now(), Vec::new());
    for found in all(&c.volumes) {
        if expires(&found.kept, keep) <= now {
            let id = found.volume.name.clone();
            match remove(&c, found).await {
                Ok(removed) => gone.push(removed),
                Err(error) => {
                    tracing::warn!(id, %error, "a volume in the recycle bin that has expired is still there");
                }
            }
        }
    }
    Ok(gone)
}
