//! Adding pools to the first one, growing them, and forgetting them.

use std::path::Path;
use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::job::Job;
use cairn_api::pool::{CreatePool, GrowPool, MAIN_POOL, PoolEntry, PoolList, PoolStatus, Scrub, StartScrub};
use cairn_api::size::Size;
use cairn_api::text;
use cairn_cow::{Disk, Holder, Pool};

use super::context::{Context, blocking, busy, check_name, conflict, invalid, volumes_counted};
use super::{convert, restores};
use crate::checks;
use crate::pools::PoolSlot;
use crate::scrubs;
use crate::settings::pool_key;
use crate::volumes::Volumes;

fn entry<D: Disk>(slot: &PoolSlot<D>) -> PoolEntry {
    PoolEntry {
        name: slot.name.clone(),
        path: slot.path.clone(),
        status: slot.pool.as_ref().ok().map(|pool| convert::pool_status(pool, slot)),
        error: slot.pool.as_ref().err().cloned(),
    }
}

pub(super) fn list<D: Disk>(volumes: &Volumes<D>) -> PoolList {
    PoolList { pools: volumes.pools.slots().iter().map(entry).collect() }
}

/// A pool and its name; the first one without a name.
pub(super) fn named<D: Disk>(
    volumes: &Volumes<D>,
    name: Option<String>,
) -> cairn_cow::Result<(String, Arc<Pool<D>>)> {
    let name = name.unwrap_or_else(|| MAIN_POOL.to_owned());
    let pool = volumes.pools.get(&name)?;
    Ok((name, pool))
}

pub(super) fn status<D: Disk>(volumes: &Volumes<D>, name: Option<String>) -> cairn_cow::Result<PoolStatus> {
    let (name, pool) = named(volumes, name)?;
    Ok(convert::pool_status(&pool, &volumes.pools.slot(&name)?))
}

pub(super) fn scrub<D: Disk>(volumes: &Volumes<D>, name: Option<String>) -> cairn_cow::Result<Scrub> {
    let (name, pool) = named(volumes, name)?;
    Ok(volumes.scrubs.show(&*pool, &name))
}

/// On the reactor, where the scrub then goes on.
pub(super) async fn start_scrub<D: Disk>(
    c: &Context<D>,
    name: Option<String>,
    request: StartScrub,
) -> Result<Scrub, ApiError> {
    if let Some(rate) = request.rate
        && !(1..=MAX_RATE).contains(&rate)
    {
        let why = format!("a rate of {rate} bytes a second: use 1 to {MAX_RATE}");
        return Err(invalid(why).with_hint("leave it out for no limit"));
    }
    let (name, pool) = named(&c.volumes, name).map_err(|e| convert::error(&e))?;
    if scrubs::begin(&c.volumes, &pool, &name, request.rate).await?.is_none() {
        return Err(busy(format!("a scrub of the pool '{name}' is under way"))
            .with_hint("see how far it is: cairn pool scrub --status; or end it: --stop"));
    }
    Ok(c.volumes.scrubs.show(&*pool, &name))
}

/// On the reactor, where the check then goes on.
pub(super) async fn start_check<D: Disk>(
    c: &Context<D>,
    name: Option<String>,
    data: bool,
) -> Result<Job, ApiError> {
    let (name, pool) = named(&c.volumes, name).map_err(|e| convert::error(&e))?;
    checks::begin(&c.volumes, pool, name.clone(), data).await?.map_err(|other| {
        busy(format!("a check of the pool '{name}' is under way")).with_hint(format!(
            "see how far it is: cairn job show {other}; or end it: cairn job cancel {other}"
        ))
    })
}

pub(super) async fn stop_scrub<D: Disk>(c: &Context<D>, name: Option<String>) -> Result<Scrub, ApiError> {
    let (name, pool) = named(&c.volumes, name).map_err(|e| convert::error(&e))?;
    c.volumes.scrubs.cancel(pool.id(), None).await;
    Ok(c.volumes.scrubs.show(&*pool, &name))
}

/// The most bytes that a pool can be let grow to: 4 PiB.
const MAX_LIMIT: u64 = 1 << 52;
/// The most bytes a second that a scrub can be told to read.
const MAX_RATE: u64 = cairn_api::qos::MAX_RATE;

fn check_limit(limit: Option<u64>) -> Result<(), ApiError> {
    match limit {
        Some(limit) if !(1..=MAX_LIMIT).contains(&limit) => Err(invalid(format!(
            "a limit of {limit} bytes: a pool can have from 1 byte to {MAX_LIMIT} (4 PiB)"
        ))),
        _ => Ok(()),
    }
}

/// Runs on the control side, since opening a pool blocks.
pub(super) async fn create<D: Disk>(c: Context<D>, request: CreatePool) -> Result<PoolEntry, ApiError> {
    let CreatePool { name, path, limit } = request;
    check_name(&name)?;
    text::check_line("a path", &path, text::MAX_PATH_CHARS).map_err(invalid)?;
    check_limit(limit)?;
    if !Path::new(&path).is_absolute() {
        return Err(invalid(format!("the path {path:?} is not absolute"))
            .with_hint("the daemon may run in another folder: write the whole path"));
    }
    let _reserved = c.volumes.pools.reserve(&name, &path)?;
    let files = Arc::clone(&c.files);
    let added = blocking(move || files.add(&name, &path, true, limit)).await?;
    match include(&c, &added).await {
        Ok(()) => Ok(entry(&added)),
        Err(error) => {
            let files = Arc::clone(&c.files);
            // The reason why it was not added counts, not how well it was closed again.
            let _ = blocking(move || files.remove(&added).map_err(invalid)).await;
            Err(error)
        }
    }
}

/// Makes a pool that was opened one of the daemon's, for good.
async fn include<D: Disk>(c: &Context<D>, added: &PoolSlot<D>) -> Result<(), ApiError> {
    // From the look at the volumes' names on, and not before: opening takes as long as the disk takes.
    let _alone = c.alone().await;
    let path = added.path.clone();
    if let Some(why) = added.pool.as_ref().ok().and_then(|pool| c.volumes.pools.obstacle(pool)) {
        let why = format!("the pool at {path} cannot be added: {why}");
        return Err(ApiError::new(ErrorCode::Exists, why)
            .with_hint("of two volumes of one name rename one first: cairn volume edit NAME --name NEW"));
    }
    remember(c, added.name.clone(), Some(path)).await?;
    take_up(c, added).await;
    c.volumes.pools.add(added.clone());
    restores::begin_all(c);
    c.volumes.apply_limits();
    Ok(())
}

/// Deletes what clients of the daemon that had the pool before have not finished, and takes up its restores.
async fn take_up<D: Disk>(c: &Context<D>, added: &PoolSlot<D>) {
    let Ok(pool) = added.pool.clone() else { return };
    let name = added.name.clone();
    let errors = match c.run(async move |c| Ok(c.volumes.take_up(&name, &pool).await)).await {
        Ok(errors) => errors.iter().map(convert::error).collect(),
        Err(error) => vec![error],
    };
    for error in errors {
        tracing::warn!(pool = added.name, %error, "what the last daemon has left cannot be deleted");
    }
}

/// Has the next start open the pool, or not any more.
async fn remember<D: Disk>(c: &Context<D>, name: String, path: Option<String>) -> Result<(), ApiError> {
    let main = Arc::clone(c.volumes.pools.main());
    c.run(async move |_| {
        let kept = main.set_attributes(Holder::Pool, &[(&pool_key(&name), path.as_deref())]).await;
        kept.map_err(|e| convert::error(&e))
    })
    .await
}

/// Runs on the control side.
pub(super) async fn grow<D: Disk>(
    c: Context<D>,
    name: String,
    request: GrowPool,
) -> Result<PoolStatus, ApiError> {
    check_limit(request.limit)?;
    let found = c.volumes.pools.slot(&name).map_err(|e| convert::error(&e))?;
    let pool = c.volumes.pools.get(&name).map_err(|e| convert::error(&e))?;
    let (files, path) = (Arc::clone(&c.files), found.path.clone());
    let size = blocking(move || {
        files.device_size(&path).map_err(|e| conflict(format!("cannot tell the size of {path}: {e}")))
    })
    .await?;
    let limit = match (request.limit, size) {
        (None, None) => {
            return Err(conflict("a pool in a file grows to a limit that you give")
                .with_hint("give \"limit\" in bytes"));
        }
        (Some(limit), Some(size)) if limit > size => {
            return Err(conflict(format!("the device {} has {}", found.path, Size(size).exact()))
                .with_hint("leave the limit out to use all of it"));
        }
        (Some(limit), _) => limit,
        (None, Some(size)) => size,
    };
    let now = pool.status().limit;
    if limit < now {
        return Err(ApiError::new(
            ErrorCode::Shrink,
            format!(
                "the pool '{name}' may take {} and cannot be limited to {}: pools only grow",
                Size(now).exact(),
                Size(limit).exact()
            ),
        ));
    }
    c.run(async move |c| {
        pool.set_limit(limit).await.map_err(|e| convert::error(&e))?;
        status(&c.volumes, Some(name)).map_err(|e| convert::error(&e))
    })
    .await
}

/// Runs on the control side.
pub(super) async fn remove<D: Disk>(c: Context<D>, name: String) -> Result<(), ApiError> {
    let alone = c.alone().await;
    let found = c.volumes.pools.slot(&name).map_err(|e| convert::error(&e))?;
    if name == MAIN_POOL {
        return Err(busy(format!("'{name}' is the pool that the daemon was started on")));
    }
    if let Some(PoolStatus { volumes, images, .. }) = entry(&found).status
        && volumes + images > 0
    {
        let what = match images {
            0 => volumes_counted(volumes),
            1 => format!("{} and 1 image", volumes_counted(volumes)),
            images => format!("{} and {images} images", volumes_counted(volumes)),
        };
        return Err(busy(format!("the pool '{name}' holds {what}")).with_hint("delete them first"));
    }
    let settings = c.volumes.settings();
    if let Some((user, _)) = settings.types.iter().find(|(_, t)| t.backend() == Some(&name)) {
        return Err(busy(format!("the type '{user}' makes its volumes in the pool '{name}'"))
            .with_hint("delete or change the type first"));
    }
    remember(&c, name.clone(), None).await?;
    let Some((gone, _reserved)) = c.volumes.pools.remove(&name) else { return Ok(()) };
    // Closing takes as long as the disk takes.
    drop(alone);
    if let Some(pool) = gone.pool.as_ref().ok().map(|pool| pool.id()) {
        let ended = c.run(async move |c| {
            c.volumes.scrubs.cancel(pool, None).await;
            c.volumes.checks.cancel(pool, None).await;
            Ok(())
        });
        ended.await?;
    }
    let files = Arc::clone(&c.files);
    blocking(move || files.remove(&gone).map_err(|why| ApiError::new(ErrorCode::Io, why))).await
}
