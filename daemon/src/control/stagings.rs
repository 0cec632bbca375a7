//! Filling volumes that nobody sees until they are complete. How the pools keep them: [`crate::staging`].
//!
//! ```text
//! create    hidden volume ─► written over NBD ─► complete     a new volume: it gets its name
//!                                                             over a volume: snapshot ─► takes its place ─► deleted
//! ```
//!
//! When the client is gone before that, or the daemon, it is deleted.

use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::job::{Job, JobKind, JobState};
use cairn_api::pool::MAIN_POOL;
use cairn_api::staging::{CreateStaging, Staged, Staging};
use cairn_api::text;
use cairn_cow::{Disk, Edit, ErrorKind, Holder, NewVolume, Pool, Result as CowResult, VersionId, check_name};

use super::attachments;
use super::context::{Context, busy, check_name as check_project, conflict, invalid};
use super::convert::api;
use super::sessions::Target;
use super::{jobs, leases, restores, snapshots, types, volumes};
use crate::jobs::{import_of_volume, job_id, tell_begun};
use crate::keeper::random_hex;
use crate::pools::refuse_oversized;
use crate::settings::{self, encode};
use crate::staging::{
    FoundStaging, STAGED_CONTENTS, STAGED_PREFIX, StagingSettings, VOLUME_FROM_BACKUP, VOLUME_STAGED, filled,
    is_replaced, replaced,
};

/// Runs on the control side.
pub(super) async fn create<D: Disk>(c: Context<D>, request: CreateStaging) -> Result<Staging, ApiError> {
    let (staging, pool, id) = c.change(async move |c| begin(&c, request).await).await?;
    let name = staging.id.clone();
    if let Ok(found) = find(&c, &name) {
        tell_begun(&c.volumes.events, &job_of(&found));
    }
    tokio::spawn(async move {
        let looked = Arc::clone(&c.volumes);
        let over = || looked.staging(&name).is_err();
        if leases::deserted(&c, &pool, id, over).await {
            abandon(&c, name.clone()).await;
        }
    });
    Ok(staging)
}

async fn begin<D: Disk>(
    c: &Context<D>,
    request: CreateStaging,
) -> Result<(Staging, Arc<Pool<D>>, VersionId), ApiError> {
    let CreateStaging { volume, over, size, description, volume_type, project, backup } = request;
    project.as_deref().map_or(Ok(()), check_project)?;
    backup
        .as_deref()
        .map_or(Ok(()), |id| text::check_line("a backup's id", id, text::MAX_BACKUP_CHARS))
        .map_err(invalid)?;
    let settings = c.volumes.settings();
    let (backend, pool, volume_type, project) = if over {
        if volume_type.is_some() || project.is_some() || !description.is_empty() {
            return Err(conflict("a volume that is there keeps its type, project and description"));
        }
        let (backend, pool) = volumes::changeable(c, &volume)?;
        // Not only at the end, when everything was copied for nothing.
        drop(attachments::hold(&c.volumes.sessions, Target::Head { volume: volume.clone() }).await?);
        let kept = api(pool.attributes(Holder::Volume(&volume)))?;
        (backend, pool, settings::volume_type(&kept).to_owned(), Some(settings::project(&kept).to_owned()))
    } else {
        api(check_name(&volume))?;
        volumes::check_free(c, &volume)?;
        let volume_type = volume_type.unwrap_or_else(|| settings.default_type.clone());
        let backend = types::settings_of(&settings, &volume_type)?.backend().unwrap_or(MAIN_POOL);
        (backend.to_owned(), api(c.volumes.pools.get(backend))?, volume_type, project)
    };
    refuse_oversized((&backend, &pool), size)?;
    let id = format!("staged-{}", random_hex()?);
    let kept = encode(&StagingSettings { volume, over, backup });
    let mut attributes = vec![(VOLUME_STAGED, kept.as_str()), (settings::VOLUME_TYPE, volume_type.as_str())];
    attributes.extend(project.as_deref().map(|project| (settings::VOLUME_PROJECT, project)));
    let new = NewVolume { name: &id, description: &description, attributes: &attributes };
    let made = api(pool.create_volume_with(new, size).await)?;
    let export = format!("{STAGED_PREFIX}{id}");
    let job = job_id(JobKind::Import, &id);
    Ok((Staging { id, job, export, size: made.size }, pool, made.id))
}

const END_IT: &str = "wait until it is done, or cancel it: cairn job list";

/// Refuses a name that is to be that of a volume which somebody fills.
pub(super) fn refuse_promised<D: Disk>(c: &Context<D>, name: &str) -> Result<(), ApiError> {
    let mut pools = c.volumes.pools.open().into_iter();
    if !pools.any(|(_, pool)| filled(&pool).any(|staging| !staging.over && staging.volume == name)) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Exists, format!("a volume '{name}' is being restored")).with_hint(END_IT))
}

/// Refuses to change what a backup's contents are about to take the place of.
pub(super) fn refuse_replaced<D: Disk>(c: &Context<D>, volume: &str) -> Result<(), ApiError> {
    let (_, pool) = c.pool_of(volume)?;
    if !is_replaced(&pool, volume) {
        return Ok(());
    }
    Err(busy(replaced(volume)).with_hint(END_IT))
}

fn find<D: Disk>(c: &Context<D>, id: &str) -> Result<FoundStaging<D>, ApiError> {
    api(c.volumes.staging(id))
}

fn job_of<D: Disk>(found: &FoundStaging<D>) -> Job {
    import_of_volume(&found.pool_name, &found.volume, &found.settings)
}

/// Ends what is written, and lets everybody see it. Runs on the control side: other changes do not wait for the writer's
/// connection to end.
pub(super) async fn complete<D: Disk>(c: Context<D>, id: String) -> Result<Staged, ApiError> {
    end_writer(&c, find(&c, &id)?, false).await?;
    let (done, over) = c.change(async move |c| finish(&c, &id).await).await?;
    if let Some(Replaced { pool, head, .. }) = &over {
        attachments::tell_size(&c, pool, *head, None).await;
    }
    Ok(done)
}

async fn end_writer<D: Disk>(c: &Context<D>, found: FoundStaging<D>, force: bool) -> Result<(), ApiError> {
    let target = Target::Head { volume: found.volume.name };
    c.run(async move |c| attachments::end(&c.volumes.sessions, &target, force).await).await
}

/// The volume whose contents were replaced.
struct Replaced<D: Disk> {
    pool: Arc<Pool<D>>,
    head: VersionId,
}

async fn finish<D: Disk>(c: &Context<D>, id: &str) -> Result<(Staged, Option<Replaced<D>>), ApiError> {
    let found = find(c, id)?;
    let StagingSettings { volume: name, over, backup } = found.settings.clone();
    let staged = Target::Volume { volume: id.to_owned() };
    let _held = attachments::hold(&c.volumes.sessions, staged).await.map_err(|_| still_written(id))?;
    let from = (VOLUME_FROM_BACKUP, backup.as_deref());
    if !over {
        volumes::refuse_taken(c, &name)?;
        jobs::end(c, job_of(&found), JobState::Done, None).await;
        let attributes = [(VOLUME_STAGED, None), from];
        let edit = Edit { name: Some(&name), description: None, attributes: &attributes };
        api(found.pool.edit_volume(id, edit).await)?;
        return Ok((Staged { volume: api(volumes::show(&c.volumes, &name))?, undo: None }, None));
    }
    restores::refuse(c, &name)?;
    let (_, pool) = c.pool_of(&name)?;
    if pool.id() != found.pool.id() {
        return Err(conflict(format!("the volume '{name}' is in another pool now")));
    }
    volumes::refuse_remains(&pool, &name)?;
    volumes::refuse_protected(&pool, &name)?;
    let _still = attachments::hold(&c.volumes.sessions, Target::Head { volume: name.clone() }).await?;
    let (volume, size) = (api(pool.volume(&name))?, found.volume.size);
    if volume.size < size {
        api(pool.resize_volume(&name, size).await)?;
    }
    match pool.create_snapshots(&[(id, STAGED_CONTENTS)], "").await {
        // Tried before, and what came next failed.
        Err(error) if error.kind() == ErrorKind::Exists => {}
        taken => drop(api(taken)?),
    }
    jobs::end(c, job_of(&found), JobState::Done, None).await;
    let undo = api(pool.replace(&name, (id, STAGED_CONTENTS), "before-restore").await)?;
    // It is done. What may fail from here on is seen to by the next start.
    if let Err(error) = pool.set_attributes(Holder::Volume(&name), &[from]).await {
        tracing::warn!(%error, volume = name, "what it was restored from is not kept");
    }
    if let Err(error) = remove(c, &found).await {
        tracing::warn!(%error, "a staged volume that was used is left until the next start");
    }
    let undo = snapshots::shown(&c.volumes, &pool, undo);
    let done = Staged { volume: api(volumes::show(&c.volumes, &name))?, undo: Some(undo) };
    Ok((done, Some(Replaced { pool, head: volume.id })))
}

fn still_written(id: &str) -> ApiError {
    busy(format!("the staging '{id}' is being written")).with_hint("disconnect the NBD clients first")
}

async fn give_up<D: Disk>(
    c: &Context<D>,
    found: &FoundStaging<D>,
    state: JobState,
    error: Option<ApiError>,
) -> Result<(), ApiError> {
    let job = jobs::end(c, job_of(found), state, error).await;
    api(remove(c, found).await)?;
    jobs::tell(c, &job);
    Ok(())
}

async fn remove<D: Disk>(c: &Context<D>, found: &FoundStaging<D>) -> CowResult<()> {
    found.pool.delete_volume(&found.volume.name, true).await?;
    c.volumes.forget_use(&found.pool, found.volume.id);
    Ok(())
}

/// Gives a staging up: whoever writes is cut off. Runs on the control side, as [`complete`] does.
pub(super) async fn cancel<D: Disk>(c: Context<D>, id: String) -> Result<(), ApiError> {
    end_writer(&c, find(&c, &id)?, true).await?;
    c.change(async move |c| {
        let target = Target::Volume { volume: id.clone() };
        let _held = attachments::hold(&c.volumes.sessions, target).await.map_err(|_| still_written(&id))?;
        give_up(&c, &find(&c, &id)?, JobState::Cancelled, None).await
    })
    .await
}

/// Deletes what a client began to fill that is gone, unless it has come back.
async fn abandon<D: Disk>(c: &Context<D>, id: String) {
    let abandoned = c.change(async move |c| {
        let Ok(found) = find(&c, &id) else { return Ok(false) };
        let target = Target::Volume { volume: id.clone() };
        let Ok(_held) = attachments::hold(&c.volumes.sessions, target).await else { return Ok(false) };
        give_up(&c, &found, JobState::Failed, Some(jobs::deserted())).await.map(|()| true)
    });
    match abandoned.await {
        Ok(true) => tracing::warn!("whoever filled a volume is gone: what was written is deleted"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "whoever filled a volume is gone, and what was written is left"),
    }
}
