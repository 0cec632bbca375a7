//! Volumes: what they are to users, from creation to deletion.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::list::ListQuery;
use cairn_api::pool::MAIN_POOL;
use cairn_api::tags;
use cairn_api::types::Retype;
use cairn_api::volume::{
    CreateVolume, DeleteVolumeQuery, EditVolume, ResetStatus, SetStatus, SnapshotRef, Volume, VolumeList,
    VolumeQuery, VolumeRestore, VolumeStatus,
};
use cairn_cow::{Disk, Edit, Holder, NewVolume, Pool, Result as CowResult, VolumeInfo};

use super::context::{Context, busy, check_name, check_tag_changes, conflict, invalid, status_to_keep};
use super::convert::api;
use super::list::{self, Listed};
use super::sessions::Target;
use super::tokens::Token;
use super::{attachments, convert, images, recycle, restores, snapshots, stagings, types};
use crate::activity::Activity;
use crate::images::{CONTENTS, VOLUME_FROM_IMAGE, has_passing, is_passing};
use crate::pools::refuse_oversized;
use crate::remains::{self, is_remains};
use crate::restore::is_restoring;
use crate::serve::unnamed_device;
use crate::settings::{self, KeptStatus, Settings, is_set, kept_status, tag_attributes, tag_changes};
use crate::staging::{StagingSettings, VOLUME_FROM_BACKUP, VOLUME_STAGED, is_hidden, staging_settings};
use crate::volumes::Volumes;

/// One pool, as its volumes are shown.
struct View<'a, D: Disk> {
    volumes: &'a Volumes<D>,
    settings: Settings,
    pool_name: &'a str,
    pool: &'a Arc<Pool<D>>,
    fenced: Option<String>,
    /// What clients are filling.
    stagings: Vec<(VolumeInfo, StagingSettings)>,
    /// The volumes whose contents are about to be replaced.
    replaced: HashSet<String>,
    /// The volumes of which a backup reads a snapshot.
    backed_up: HashSet<String>,
}

impl<'a, D: Disk> View<'a, D> {
    /// `staged` has at least the volumes that clients are filling.
    fn of(
        volumes: &'a Volumes<D>,
        pool_name: &'a str,
        pool: &'a Arc<Pool<D>>,
        staged: &[VolumeInfo],
    ) -> View<'a, D> {
        let staging = |volume: &VolumeInfo| Some((volume.clone(), staging_settings(&volume.attributes)?));
        let stagings: Vec<_> = staged.iter().filter_map(staging).collect();
        let replaced = stagings.iter().filter(|(_, staging)| staging.over);
        let replaced = replaced.map(|(_, staging)| staging.volume.clone()).collect();
        let (settings, fenced) = (volumes.settings(), pool.status().fenced);
        let backed_up = volumes.sessions.snapshots_in_use().into_iter().filter(|(volume, name)| {
            let kept = pool.attributes(Holder::Snapshot(volume, name));
            kept.is_ok_and(|kept| is_set(&kept, settings::SNAPSHOT_FOR_BACKUP))
        });
        let backed_up = backed_up.map(|(volume, _)| volume).collect();
        View { volumes, settings, pool_name, pool, fenced, stagings, replaced, backed_up }
    }

    /// What a volume is doing, and why where that is not plain.
    fn status(&self, volume: &VolumeInfo, restore: Option<&VolumeRestore>) -> (VolumeStatus, Option<String>) {
        if let Some(why) = &self.fenced {
            return (VolumeStatus::Error, Some(convert::fenced(why)));
        }
        let said = kept_status(&volume.attributes);
        if let Some(KeptStatus { status: SetStatus::Maintenance, reason }) = said {
            return (VolumeStatus::Maintenance, reason);
        }
        if volume.checksum_errors > 0 {
            let why = format!("{} of its reads failed their checksum", volume.checksum_errors);
            return (VolumeStatus::Error, Some(why));
        }
        if let Some(said) = said.filter(|said| said.status == SetStatus::Error) {
            return (VolumeStatus::Error, Some(said.why()));
        }
        (self.activity(volume, restore), None)
    }

    fn activity(&self, volume: &VolumeInfo, restore: Option<&VolumeRestore>) -> VolumeStatus {
        match self.volumes.activities.of((self.pool.id(), volume.id)) {
            Some(Activity::Deleting) => return VolumeStatus::Deleting,
            Some(Activity::Extending) => return VolumeStatus::Extending,
            None => {}
        }
        let target = Target::Head { volume: volume.name.clone() };
        let used = self.volumes.sessions.attachments(&target);
        if restore.is_some() {
            VolumeStatus::Restoring
        } else if self.replaced.contains(&volume.name) {
            VolumeStatus::RestoringBackup
        } else if !used.is_empty() && self.volumes.sessions.is_closed(&target) {
            VolumeStatus::Detaching
        } else if used.iter().any(|attachment| attachment.consumer == unnamed_device()) {
            VolumeStatus::Attaching
        } else if !used.is_empty() {
            VolumeStatus::InUse
        } else if is_remains(&volume.attributes) {
            VolumeStatus::SnapshotsOnly
        } else if has_passing(&volume.attributes) || self.backed_up.contains(&volume.name) {
            VolumeStatus::BackingUp
        } else {
            VolumeStatus::Available
        }
    }

    fn show(&self, info: VolumeInfo) -> Volume {
        let restore = self.volumes.restores.progress(self.pool, &info);
        let (status, reason) = self.status(&info, restore.as_ref());
        let attachments = self.volumes.sessions.attachments(&Target::Head { volume: info.name.clone() });
        let kept = &info.attributes;
        let image = kept.get(VOLUME_FROM_IMAGE).map(str::to_owned);
        Volume {
            id: info.id.0,
            size: info.size,
            mapped: info.mapped,
            created: convert::time(info.created_ms),
            // What the engine calls an image means nothing to users.
            origin: info
                .origin
                .filter(|_| image.is_none())
                .map(|o| SnapshotRef { volume: o.volume, snapshot: o.snapshot }),
            image,
            backup: kept.get(VOLUME_FROM_BACKUP).map(str::to_owned),
            snapshots: info.snapshots as u64,
            status,
            reason,
            connections: attachments.iter().map(|a| a.connections).sum(),
            attachments,
            shared: is_set(kept, settings::VOLUME_SHARED),
            bootable: is_set(kept, settings::VOLUME_BOOTABLE),
            write_protected: is_set(kept, settings::VOLUME_PROTECTED),
            project: settings::project(kept).to_owned(),
            tags: settings::tags(kept),
            volume_type: settings::volume_type(kept).to_owned(),
            restore,
            problems: self.settings.problems(kept),
            pool: self.pool_name.to_owned(),
            checksum_errors: info.checksum_errors,
            name: info.name,
            description: info.description,
        }
    }

    /// The volumes that clients are filling, which have no name of their own yet.
    fn creating(&self) -> impl Iterator<Item = Volume> {
        let new = self.stagings.iter().filter(|(_, staging)| !staging.over);
        new.map(|(info, staging)| {
            let (name, snapshots) = (staging.volume.clone(), 0);
            let status = VolumeStatus::Creating;
            let backup = staging.backup.clone();
            // Who fills it is at an export of another name.
            let shown = Volume { attachments: Vec::new(), connections: 0, ..self.show(info.clone()) };
            Volume { name, snapshots, status, backup, reason: None, ..shown }
        })
    }
}

/// One volume. One that a client is still filling is only in lists: until it is complete, its name is nobody's.
pub(super) fn show<D: Disk>(volumes: &Volumes<D>, name: &str) -> CowResult<Volume> {
    let (pool_name, pool) = volumes.pools.of_volume(name)?;
    let info = pool.volume(name)?;
    Ok(View::of(volumes, &pool_name, &pool, &pool.volumes_with(VOLUME_STAGED)).show(info))
}

fn all<D: Disk>(volumes: &Volumes<D>) -> Vec<Volume> {
    let mut shown = Vec::new();
    for (name, pool) in volumes.pools.open() {
        let infos = pool.volumes();
        let view = View::of(volumes, &name, &pool, &infos);
        shown.extend(view.creating());
        shown.extend(
            infos.into_iter().filter(|info| !is_hidden(&info.attributes)).map(|info| view.show(info)),
        );
    }
    shown
}

impl Listed for Volume {
    const SORTED_BY: &'static [&'static str] =
        &["name", "size", "used", "created", "status", "type", "pool", "project"];

    fn key(&self) -> String {
        self.name.clone()
    }

    fn order(&self, other: &Volume, by: &str) -> Ordering {
        match by {
            "size" => self.size.cmp(&other.size),
            "used" => self.mapped.cmp(&other.mapped),
            "created" => (self.created, self.id).cmp(&(other.created, other.id)),
            "status" => self.status.as_str().cmp(other.status.as_str()),
            "type" => self.volume_type.cmp(&other.volume_type),
            "pool" => self.pool.cmp(&other.pool),
            "project" => self.project.cmp(&other.project),
            _ => self.usual_order(other),
        }
    }

    fn usual_order(&self, other: &Volume) -> Ordering {
        self.name.cmp(&other.name)
    }
}

/// The volumes that are asked for.
pub(super) fn list<D: Disk>(volumes: &Volumes<D>, query: &VolumeQuery) -> Result<VolumeList, ApiError> {
    let names = [&query.volume_type, &query.pool, &query.project];
    let asked = query.asked();
    list::check(asked, &names)?;
    let mut found = all(volumes);
    found.retain(|volume| {
        list::found(asked, &[&volume.name, &volume.description], &volume.tags)
            && list::is(query.status, volume.status)
            && list::is(query.volume_type.as_deref(), &volume.volume_type)
            && list::is(query.pool.as_deref(), &volume.pool)
            && list::is(query.project.as_deref(), &volume.project)
            && list::is(query.bootable, volume.bootable)
            && list::is(query.shared, volume.shared)
            && list::is(query.write_protected, volume.write_protected)
    });
    let (volumes, next) = list::select(found, asked)?;
    Ok(VolumeList { volumes, next })
}

/// Refuses a name that a volume has, or is about to have.
pub(super) fn check_free<D: Disk>(c: &Context<D>, name: &str) -> Result<(), ApiError> {
    refuse_taken(c, name)?;
    stagings::refuse_promised(c, name)
}

/// Refuses a name that a volume has.
pub(super) fn refuse_taken<D: Disk>(c: &Context<D>, name: &str) -> Result<(), ApiError> {
    if c.volumes.pools.of_volume(name).is_err() {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Exists, format!("there is already a volume '{name}'"))
        .with_hint("choose another name"))
}

/// Refuses to change what is write-protected.
pub(super) fn refuse_protected<D: Disk>(pool: &Pool<D>, volume: &str) -> Result<(), ApiError> {
    if !is_set(&api(pool.attributes(Holder::Volume(volume)))?, settings::VOLUME_PROTECTED) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::ReadOnly, format!("the volume '{volume}' is write-protected"))
        .with_hint(format!("first take that off: cairn volume edit {volume} --write-protect off")))
}

/// The pool of a volume that may be changed: nothing is being restored to it or over it, it is more than its snapshots, and it is not
/// write-protected.
pub(super) fn changeable<D: Disk>(c: &Context<D>, volume: &str) -> Result<(String, Arc<Pool<D>>), ApiError> {
    restores::refuse(c, volume)?;
    stagings::refuse_replaced(c, volume)?;
    let (name, pool) = c.pool_of(volume)?;
    refuse_remains(&pool, volume)?;
    refuse_protected(&pool, volume)?;
    Ok((name, pool))
}

pub(super) async fn create<D: Disk>(c: Context<D>, request: CreateVolume) -> Result<Volume, ApiError> {
    let CreateVolume { name, size, description, source, image, volume_type: asked, shared, .. } = &request;
    if image.is_some() && source.is_some() {
        return Err(conflict("a volume begins as a snapshot or as an image, not as both"));
    }
    tags::check(&request.tags).map_err(invalid)?;
    request.project.as_deref().map_or(Ok(()), check_name)?;
    let token = Token::of(request.client_token.as_deref(), &request)?;
    if let Some(made) = token.as_ref().map(|token| token.volume(&c.volumes)).transpose()?.flatten() {
        return api(show(&c.volumes, &made));
    }
    check_free(&c, name)?;
    let settings = c.volumes.settings();
    let of_source = match source {
        Some(source) => {
            restores::refuse(&c, &source.volume)?;
            let (pool_name, pool) = c.pool_of(&source.volume)?;
            Some((pool_name, api(pool.attributes(Holder::Volume(&source.volume)))?))
        }
        None => None,
    };
    let image = image.as_deref().map(|image| images::find(&c.volumes, image)).transpose()?;
    let source_kept = of_source.as_ref().map(|(_, kept)| kept);
    let inherited = source_kept.map(settings::volume_type);
    let volume_type = asked.as_deref().or(inherited).unwrap_or(&settings.default_type);
    let backend = types::settings_of(&settings, volume_type)?.backend().unwrap_or(MAIN_POOL);
    let stays_in = of_source.as_ref().map(|(pool, _)| pool).or(image.as_ref().map(|image| &image.pool_name));
    if let Some(pool) = stays_in.filter(|pool| *pool != backend) {
        let why =
            format!("a clone stays in its source's pool '{pool}', type '{volume_type}' is of '{backend}'");
        return Err(conflict(why).with_hint("choose a type of the same pool"));
    }
    let pool = api(c.volumes.pools.get(backend))?;
    let mut attributes = vec![(settings::VOLUME_TYPE, volume_type)];
    if *shared {
        attributes.push((settings::VOLUME_SHARED, settings::YES));
    }
    if let Some(image) = &image {
        attributes.push((VOLUME_FROM_IMAGE, &image.settings.name));
    }
    let from_bootable = source_kept.is_some_and(|kept| is_set(kept, settings::VOLUME_BOOTABLE));
    if request.bootable.unwrap_or(image.is_some() || from_bootable) {
        attributes.push((settings::VOLUME_BOOTABLE, settings::YES));
    }
    if let Some(project) = request.project.as_deref().or(source_kept.map(settings::project)) {
        attributes.push((settings::VOLUME_PROJECT, project));
    }
    attributes.extend(token.as_ref().map(|token| (settings::TOKEN, token.kept.as_str())));
    let tags = tag_attributes(&request.tags);
    attributes.extend(tags.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let new = NewVolume { name, description, attributes: &attributes };
    let size = match &image {
        Some(image) => Some(images::volume_size(image, *size)?),
        None => *size,
    };
    size.map_or(Ok(()), |size| refuse_oversized((backend, &pool), size))?;
    api(match (&image, source, size) {
        (Some(image), _, size) => pool.clone_volume_with(&image.volume.name, CONTENTS, new, size).await,
        (None, None, None) => {
            return Err(invalid("a blank volume needs a size").with_hint("give \"size\" in bytes"));
        }
        (None, None, Some(size)) => pool.create_volume_with(new, size).await,
        (None, Some(source), size) => {
            pool.clone_volume_with(&source.volume, &source.snapshot, new, size).await
        }
    })?;
    api(show(&c.volumes, name))
}

pub(super) async fn edit<D: Disk>(
    c: Context<D>,
    name: String,
    request: EditVolume,
) -> Result<Volume, ApiError> {
    let (_, pool) = c.pool_of(&name)?;
    let kept = api(pool.attributes(Holder::Volume(&name)))?;
    check_tag_changes(&settings::tags(&kept), &request.tags)?;
    request.project.as_deref().map_or(Ok(()), check_name)?;
    let renamed = request.name.as_deref().filter(|new| *new != name);
    renamed.map_or(Ok(()), |new| check_free(&c, new))?;
    if renamed.is_some() || request.write_protected == Some(true) {
        stagings::refuse_replaced(&c, &name)?;
    }
    if request.shared == Some(false) {
        refuse_shared_use(&c, &name)?;
    }
    let changes = |asked: Option<bool>, key| asked.is_some_and(|asked| asked != is_set(&kept, key));
    // Clients that come back would ask for the old name, and get what may be called so by then. And who writes must not go
    // on after it is said that nobody can.
    let alone = renamed.is_some()
        || changes(request.bootable, settings::VOLUME_BOOTABLE)
        || request.write_protected == Some(true) && changes(Some(true), settings::VOLUME_PROTECTED);
    let volume = name.clone();
    let target = if renamed.is_some() { Target::Volume { volume } } else { Target::Head { volume } };
    let _held = if alone { Some(attachments::hold(&c.volumes.sessions, target).await?) } else { None };
    let tags = tag_changes(&request.tags);
    let mut attributes: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    let switches = [
        (settings::VOLUME_SHARED, request.shared),
        (settings::VOLUME_BOOTABLE, request.bootable),
        (settings::VOLUME_PROTECTED, request.write_protected),
    ];
    let yes = |(key, on): (&'static str, Option<bool>)| Some((key, on?.then_some(settings::YES)));
    attributes.extend(switches.into_iter().filter_map(yes));
    attributes.extend(request.project.as_deref().map(|project| (settings::VOLUME_PROJECT, Some(project))));
    let edit = Edit {
        name: request.name.as_deref(),
        description: request.description.as_deref(),
        attributes: &attributes,
    };
    let info = api(pool.edit_volume(&name, edit).await)?;
    api(show(&c.volumes, &info.name))
}

/// Refuses to have a single consumer where several are at work.
fn refuse_shared_use<D: Disk>(c: &Context<D>, volume: &str) -> Result<(), ApiError> {
    let used = c.volumes.sessions.attachments(&Target::Head { volume: volume.to_owned() }).len();
    if used < 2 {
        return Ok(());
    }
    Err(busy(format!("the volume '{volume}' has {used} consumers"))
        .with_hint(format!("detach all but one first; see them: cairn volume attachments {volume}")))
}

pub(super) async fn retype<D: Disk>(
    c: Context<D>,
    name: String,
    request: Retype,
) -> Result<Volume, ApiError> {
    let (pool_name, pool) = c.pool_of(&name)?;
    let settings = c.volumes.settings();
    let backend = types::settings_of(&settings, &request.volume_type)?.backend().unwrap_or(MAIN_POOL);
    if backend != pool_name {
        let why = format!(
            "volume '{name}' is in the pool '{pool_name}', type '{}' is of '{backend}'",
            request.volume_type
        );
        return Err(ApiError::new(ErrorCode::Unsupported, why)
            .with_hint("make a volume of that type and copy the data: nbdcopy"));
    }
    let changes = [(settings::VOLUME_TYPE, Some(request.volume_type.as_str()))];
    api(pool.set_attributes(Holder::Volume(&name), &changes).await)?;
    c.volumes.apply_limits();
    api(show(&c.volumes, &name))
}

/// Says what is to be thought of a volume.
pub(super) async fn reset_status<D: Disk>(
    c: Context<D>,
    name: String,
    request: ResetStatus,
) -> Result<Volume, ApiError> {
    let (_, pool) = c.pool_of(&name)?;
    let ResetStatus { status, reason } = request;
    let kept = status_to_keep("volume", status, reason)?;
    let _held = if status == SetStatus::Maintenance {
        let whole = Target::Volume { volume: name.clone() };
        Some(attachments::hold(&c.volumes.sessions, whole).await?)
    } else {
        None
    };
    api(pool.set_attributes(Holder::Volume(&name), &[(settings::STATUS, kept.as_deref())]).await)?;
    if status == SetStatus::Available {
        api(pool.forget_checksum_errors(&name))?;
    }
    api(show(&c.volumes, &name))
}

/// Runs on the control side: whoever uses the volume is told through the kernel.
pub(super) async fn resize<D: Disk>(c: Context<D>, name: String, size: u64) -> Result<Volume, ApiError> {
    let looked = Arc::clone(&c.volumes);
    let shown = name.clone();
    let grown = c.run(async move |c| {
        let (pool_name, pool) = changeable(&c, &name)?;
        let VolumeInfo { id, size: now, .. } = api(pool.volume(&name))?;
        if size > now {
            refuse_oversized((&pool_name, &pool), size)?;
        }
        let extending = c.volumes.activities.begin((pool.id(), id), Activity::Extending);
        api(pool.resize_volume(&name, size).await)?;
        Ok((extending, pool, id))
    });
    let (extending, pool, id) = grown.await?;
    attachments::tell_size(&c, &pool, id, None).await;
    drop(extending);
    api(show(&looked, &shown))
}

/// What has become of a volume that was to be deleted.
pub(super) enum Deleted {
    Gone,
    Recycled,
    /// Its snapshots live on.
    Left,
}

/// Deletes a volume, or puts it into the recycle bin.
pub(super) async fn delete<D: Disk>(
    c: Context<D>,
    name: String,
    query: DeleteVolumeQuery,
) -> Result<Deleted, ApiError> {
    if query.keep_snapshots {
        return leave_snapshots(&c, &name, &query).await.map(|()| Deleted::Left);
    }
    let (_, pool) = c.pool_of(&name)?;
    refuse_protected(&pool, &name)?;
    stagings::refuse_replaced(&c, &name)?;
    let with_snapshots = query.snapshots;
    let its_snapshots = api(pool.snapshots(Some(&name)))?;
    if with_snapshots {
        its_snapshots.iter().try_for_each(snapshots::refuse_held)?;
    }
    let VolumeInfo { id, attributes, .. } = api(pool.volume(&name))?;
    // What is being restored is deleted at once: nobody would go on with it in the bin.
    let recycle = !query.permanent && recycle::keep(&c.volumes).is_some() && !is_restoring(&attributes);
    let volume = name.clone();
    let target = if with_snapshots || recycle { Target::Volume { volume } } else { Target::Head { volume } };
    let _held = attachments::hold(&c.volumes.sessions, target).await?;
    let _doing = c.volumes.activities.begin((pool.id(), id), Activity::Deleting);
    if recycle && (with_snapshots || its_snapshots.is_empty()) {
        recycle::put(&pool, &name).await?;
        c.volumes.forget_use(&pool, id);
        return Ok(Deleted::Recycled);
    }
    restores::deleting(&c, &pool, &name).await;
    api(pool.delete_volume(&name, with_snapshots).await)?;
    c.volumes.forget_use(&pool, id);
    restores::deleted(&c, &pool, id, &attributes).await;
    Ok(Deleted::Gone)
}

/// Deletes a volume whose snapshots live on.
async fn leave_snapshots<D: Disk>(
    c: &Context<D>,
    name: &str,
    query: &DeleteVolumeQuery,
) -> Result<(), ApiError> {
    if query.snapshots {
        return Err(conflict("a volume's snapshots are deleted with it or live on, not both"));
    }
    let (_, pool) = changeable(c, name)?;
    let VolumeInfo { id, attributes, .. } = api(pool.volume(name))?;
    if api(pool.snapshots(Some(name)))?.iter().all(|snapshot| is_passing(&attributes, &snapshot.name)) {
        return Err(conflict(format!("the volume '{name}' has no snapshot that could live on"))
            .with_hint("delete it without keeping snapshots, or take one first"));
    }
    let head = Target::Head { volume: name.to_owned() };
    let _held = attachments::hold(&c.volumes.sessions, head).await?;
    let _doing = c.volumes.activities.begin((pool.id(), id), Activity::Deleting);
    api(remains::leave_snapshots(&pool, name, &remains::undo_name()?).await)?;
    c.volumes.forget_use(&pool, id);
    Ok(())
}

/// Refuses what needs more of a volume than its snapshots.
pub(super) fn refuse_remains<D: Disk>(pool: &Pool<D>, volume: &str) -> Result<(), ApiError> {
    if !is_remains(&api(pool.attributes(Holder::Volume(volume)))?) {
        return Ok(());
    }
    let hint = format!(
        "\"cairn snapshot rollback {volume} SNAPSHOT\" makes it a volume again, \"cairn volume create NEW --from {volume}@SNAPSHOT\" another"
    );
    Err(busy(remains::why(volume)).with_hint(hint))
}
