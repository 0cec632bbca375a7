//! Volumes that are made of a backup and serve at once: making them, ending their restore, and what they refuse meanwhile.
//! How they serve: [`crate::restore`].
//!
//! ```text
//! create   open the backup ─► companion ─► volume with the attribute ─► background ─► attribute away ─► companion deleted
//! delete   volume ─► companion                                          a crash anywhere: the next start goes on
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::event::EventKind;
use cairn_api::job::JobState;
use cairn_api::pool::MAIN_POOL;
use cairn_api::volume::{CreateRestore, Volume, VolumeRestore};
use cairn_backup::{Error, ErrorKind, HoldId, Location, Reader, Repository};
use cairn_cow::{Attributes, Disk, Edit, ErrorKind as CowKind, NewVolume, Pool, VersionId};

use super::context::{Context, busy, invalid};
use super::convert::api;
use super::{convert, jobs, types, volumes};
use crate::events::About;
use crate::jobs::restore;
use crate::keeper::random_hex;
use crate::pools::refuse_oversized;
use crate::restore::{
    COMPANION, RepoSource, Restore, RestoreSettings, Restores, VOLUME_RESTORE, Wanted, companion_of,
    fill_all, is_restoring, while_held,
};
use crate::settings::{self, encode};
use crate::staging::VOLUME_FROM_BACKUP;

/// How long a repository may take to be opened for a new volume.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);
/// How long the end of a restore is left alone when the pool refuses it.
const END_PAUSE: Duration = Duration::from_secs(10);

fn internal(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("no thread to read repositories on: {why}"))
}

/// An error of a repository in the API's words. The daemon is another user than whoever asks it, with another environment.
fn repo_error(location: &Location, error: &Error) -> ApiError {
    let (code, of_access) = match error.kind() {
        ErrorKind::NotFound => (ErrorCode::NotFound, false),
        ErrorKind::NotARepository => (ErrorCode::NotFound, true),
        ErrorKind::Unsupported => (ErrorCode::Unsupported, false),
        ErrorKind::InvalidArgument | ErrorKind::KeyRequired | ErrorKind::WrongKey => {
            (ErrorCode::Conflict, false)
        }
        ErrorKind::Corrupt => (ErrorCode::Corrupt, false),
        ErrorKind::Denied => (ErrorCode::NotPermitted, true),
        ErrorKind::Unavailable => (ErrorCode::Conflict, true),
        _ => (ErrorCode::Io, true),
    };
    let api = ApiError::new(code, format!("{location}: {}", crate::restore::failure(error)));
    if of_access && location.to_string().starts_with("s3:") {
        return api.with_hint(
            "it is the daemon that reads the repository, by the variables of its own environment: AWS_ACCESS_KEY_ID, \
             AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
        );
    }
    if of_access {
        return api.with_hint("it is the daemon that reads the repository: its user must be able to");
    }
    match error.kind().advice() {
        "" => api,
        advice => api.with_hint(advice),
    }
}

/// Opens the backup that was asked for.
async fn open(wanted: &Wanted, backup: &str) -> Result<(Repository, Arc<Reader>), Error> {
    let repository = wanted.open().await?;
    let id = repository.resolve(backup).await?;
    let reader = repository.reader(id, None).await?;
    Ok((repository, reader))
}

/// Runs on the control side: others do not wait while the repository is opened.
pub(super) async fn create<D: Disk>(c: Context<D>, request: CreateRestore) -> Result<Volume, ApiError> {
    let location = Location::parse(&request.repo).map_err(|e| invalid(e.to_string()))?;
    let key_file = request.key_file.as_ref().map(PathBuf::from);
    if key_file.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(invalid("the path of the key file is not absolute")
            .with_hint("the daemon may run in another folder: write the whole path"));
    }
    let wanted = Wanted { location: location.clone(), key_file };
    let (asked, backup) = (wanted.clone(), request.backup.clone());
    let opening = async move { tokio::time::timeout(OPEN_PATIENCE, open(&asked, &backup)).await };
    let opened = c.volumes.restores.run(opening).await.map_err(internal)?;
    let opened = opened.unwrap_or_else(|_| {
        let why = format!("it has not answered for {} seconds", OPEN_PATIENCE.as_secs());
        Err(Error::new(ErrorKind::Unavailable, why))
    });
    let (repository, reader) = opened.map_err(|e| repo_error(&location, &e))?;
    let (volume, restore) = c
        .change(async move |c| {
            let restore = make(&c, request, wanted, (repository, reader)).await?;
            let name = api(restore.pool().export_name(restore.head()))?;
            Ok((api(volumes::show(&c.volumes, &name))?, restore))
        })
        .await?;
    begin(&c, restore)?;
    Ok(volume)
}

/// Makes the volume and its companion.
async fn make<D: Disk>(
    c: &Context<D>,
    request: CreateRestore,
    wanted: Wanted,
    (repository, reader): (Repository, Arc<Reader>),
) -> Result<Arc<Restore<D>>, ApiError> {
    let CreateRestore { name, repo, key_file, description, volume_type, .. } = request;
    volumes::check_free(c, &name)?;
    let types = c.volumes.settings();
    let volume_type = volume_type.unwrap_or_else(|| types.default_type.clone());
    let backend = types::settings_of(&types, &volume_type)?.backend().unwrap_or(MAIN_POOL);
    let pool = api(c.volumes.pools.get(backend))?;
    let kept = RestoreSettings {
        repo,
        backup: reader.backup().id.to_string(),
        key_file,
        companion: format!("restore-{}", random_hex()?),
        chunk: reader.chunk_size(),
        hold: Some(HoldId::random().map_err(|e| repo_error(&wanted.location, &e))?),
    };
    let size = reader.backup().size;
    refuse_oversized((backend, &pool), size)?;
    // Where cairn's own backups keep what their volume was described as.
    let described = reader.backup().attributes.get("description");
    let description =
        if description.is_empty() { described.cloned().unwrap_or_default() } else { description };
    let companion = NewVolume {
        name: &kept.companion,
        description: "what of a volume is restored",
        attributes: &[(COMPANION, settings::YES)],
    };
    let bytes = Restores::<D>::companion_bytes(size, kept.chunk);
    let companion = api(pool.create_volume_with(companion, bytes).await)?;
    let json = encode(&kept);
    let attributes = [
        (settings::VOLUME_TYPE, volume_type.as_str()),
        (VOLUME_FROM_BACKUP, &kept.backup),
        (VOLUME_RESTORE, &json),
    ];
    let new = NewVolume { name: &name, description: &description, attributes: &attributes };
    let made = match pool.create_volume_with(new, size).await {
        Ok(made) => made,
        Err(error) => {
            // The next start would delete it, too. What went wrong first counts.
            let _ = pool.delete_volume(&kept.companion, true).await;
            return Err(convert::error(&error));
        }
    };
    let source = Arc::new(RepoSource::opened(wanted, &repository, reader, kept.hold));
    c.volumes.restores.add(&pool, (&made, companion.id), kept, source).map_err(internal)
}

/// Has the restores seen to that nobody sees to yet.
pub(super) fn begin_all<D: Disk>(c: &Context<D>) {
    for restore in c.volumes.restores.all() {
        if let Err(error) = begin(c, restore) {
            tracing::error!(%error, "a restore does not go on");
        }
    }
}

fn begin<D: Disk>(c: &Context<D>, restore: Arc<Restore<D>>) -> Result<(), ApiError> {
    if !restore.begin() {
        return Ok(());
    }
    let on = c.clone();
    let background = async move {
        let work = async {
            if fill_all(&restore, &on.reactor).await {
                end(&on, Arc::clone(&restore)).await;
            }
        };
        while_held(&restore, work).await;
    };
    c.volumes.restores.spawn(background).map_err(internal)
}

/// Ends a restore that is complete.
async fn end<D: Disk>(c: &Context<D>, restore: Arc<Restore<D>>) {
    loop {
        let (pool, head) = (Arc::clone(restore.pool()), restore.head());
        let companion = restore.settings().companion.clone();
        match c.change(async move |c| api(end_now(&c, &pool, head, &companion).await)).await {
            Ok(Some(volume)) => {
                tracing::info!(volume, "the volume is restored");
                let message = format!("all of volume {volume} is restored");
                let job = restore.progress().job;
                let about = About { job: Some(&job), ..About::volume(&volume) };
                return c.volumes.events.tell(EventKind::VolumeRestored, about, message);
            }
            Ok(None) => return,
            Err(error) if c.reactor.is_open() => {
                tracing::warn!(%error, "a restore that is complete cannot be ended yet");
            }
            Err(_) => return,
        }
        tokio::time::sleep(END_PAUSE).await;
    }
}

/// Takes the attribute away, then the companion. The volume's name, unless it was deleted meanwhile.
async fn end_now<D: Disk>(
    c: &Context<D>,
    pool: &Pool<D>,
    head: VersionId,
    companion: &str,
) -> cairn_cow::Result<Option<String>> {
    let gone = |error: cairn_cow::Error| match error.kind() {
        CowKind::NotFound => Ok(None),
        _ => Err(error),
    };
    let name = match pool.export_name(head) {
        Ok(name) => name,
        Err(error) => return gone(error),
    };
    keep_end(c, pool, &name, JobState::Done).await;
    let edit = Edit { attributes: &[(VOLUME_RESTORE, None)], ..Edit::default() };
    if let Err(error) = pool.edit_volume(&name, edit).await {
        return gone(error);
    }
    c.volumes.restores.remove(pool, head);
    drop_companion(pool, companion).await;
    Ok(Some(name))
}

/// Keeps what becomes of the restore of a volume, before the volume says it or goes.
async fn keep_end<D: Disk>(c: &Context<D>, pool: &Pool<D>, name: &str, state: JobState) {
    let open = c.volumes.pools.open().into_iter().find(|(_, open)| open.id() == pool.id());
    let (Some((pool_name, _)), Ok(volume)) = (open, pool.volume(name)) else { return };
    if let Some(progress) = c.volumes.restores.progress(pool, &volume) {
        jobs::end(c, restore(&pool_name, &volume, progress), state, None).await;
    }
}

/// The volume is about to be deleted: so is its restore.
pub(super) async fn deleting<D: Disk>(c: &Context<D>, pool: &Pool<D>, name: &str) {
    keep_end(c, pool, name, JobState::Cancelled).await;
}

async fn drop_companion<D: Disk>(pool: &Pool<D>, companion: &str) {
    match pool.delete_volume(companion, true).await {
        Err(error) if error.kind() != CowKind::NotFound => {
            // The next start deletes it.
            tracing::warn!(%error, "the bitmap of a volume that is no longer restored is left");
        }
        _ => {}
    }
}

/// The volume with this head and these attributes is deleted: so is what belongs to it.
pub(super) async fn deleted<D: Disk>(c: &Context<D>, pool: &Pool<D>, head: VersionId, kept: &Attributes) {
    if !is_restoring(kept) {
        return;
    }
    c.volumes.restores.remove(pool, head);
    if let Some(companion) = companion_of(kept) {
        drop_companion(pool, &companion).await;
    }
}

/// Refuses what needs all of a volume to be there.
pub(super) fn refuse<D: Disk>(c: &Context<D>, volume: &str) -> Result<(), ApiError> {
    let (_, pool) = c.pool_of(volume)?;
    match c.volumes.restores.progress(&pool, &api(pool.volume(volume))?) {
        Some(restore) => Err(still(volume, &restore)),
        None => Ok(()),
    }
}

fn still(volume: &str, restore: &VolumeRestore) -> ApiError {
    let percent = restore.percent();
    let hint = match &restore.problem {
        Some(problem) => format!("{percent} % is there, and it does not go on everywhere: {problem}"),
        None => format!("{percent} % is there; \"cairn volume show {volume}\" tells when it is done"),
    };
    busy(format!("volume '{volume}' is still being restored")).with_hint(hint)
}
