//! The engine behind the API: pools, reached through a reactor.

use std::collections::HashSet;
use std::sync::Arc;

use cairn_api::attachment::{Attach, Attachment, AttachmentList, Detach};
use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::image::{CreateImage, CreateImport, EditImage, Image, ImageList, Import, PassingSnapshot};
use cairn_api::info::Info;
use cairn_api::pool::{
    CheckReport, CreatePool, GrowPool, MAIN_POOL, PoolEntry, PoolList, PoolStatus, Scrub, StartScrub,
};
use cairn_api::snapshot::{
    CreateGroup, CreateSnapshot, Diff, DiffQuery, MAX_DIFF_EXTENTS, Rollback, RolledBack, Snapshot,
    SnapshotList, Tree,
};
use cairn_api::staging::{CreateStaging, Staged, Staging};
use cairn_api::types::{
    CreateQosPolicy, CreateType, EditQosPolicy, EditType, QosPolicy, QosPolicyList, Retype, SetVolumeQos,
    TypeList, VolumeQos, VolumeType,
};
use cairn_api::volume::{CreateRestore, CreateVolume, EditVolume, Volume, VolumeList};
use cairn_cow::{
    DiffExtent, Disk, Edit, Holder, NewVolume, Pool, Result as CowResult, SnapshotInfo, VolumeInfo,
};
use cairn_uring::Handle;

use super::context::{Context, invalid};
use super::engine::{Engine, Pending};
use super::sessions::{Sessions, Target};
use super::{attachments, convert, images, leases, pools, restores, stagings, types};
use crate::devices::Devices;
use crate::images::{CONTENTS, VOLUME_FROM_IMAGE, in_pool, unmark_passing};
use crate::keeper::PoolFiles;
use crate::settings;
use crate::staging::is_hidden;
use crate::volumes::Volumes;

/// The API's operations on pools.
///
/// What changes something, and what does I/O, runs on the reactor as one task that keeps every hold it needs until it
/// has ended. What only looks reads state in memory from the control thread; what blocks has a thread of its own.
pub struct PoolEngine<D: Disk> {
    context: Context<D>,
    info: Info,
}

impl<D: Disk> PoolEngine<D> {
    /// Works on `volumes` through `reactor`, one of the reactors that the pools' disks belong to. `info` is what
    /// `/v1/info` answers.
    pub fn new(
        volumes: Arc<Volumes<D>>,
        reactor: Handle,
        files: Arc<dyn PoolFiles<D>>,
        devices: Option<Arc<dyn Devices>>,
        info: Info,
    ) -> PoolEngine<D> {
        let context = Context::new(volumes, files, devices, reactor);
        restores::begin_all(&context);
        PoolEngine { context, info }
    }
}

fn api<T>(result: CowResult<T>) -> Result<T, ApiError> {
    result.map_err(|e| convert::error(&e))
}

pub(super) fn show<D: Disk>(volumes: &Volumes<D>, name: &str) -> CowResult<Volume> {
    let (pool_name, pool) = volumes.pools.of_volume(name)?;
    let fenced = pool.status().fenced.is_some();
    let info = pool.volume(name)?;
    let restore = volumes.restores.progress(&pool, &info);
    Ok(convert::volume(info, &pool_name, fenced, restore, &volumes.sessions, &volumes.settings()))
}

/// Refuses a name that a volume has.
pub(super) fn is_free<D: Disk>(c: &Context<D>, name: &str) -> Result<(), ApiError> {
    if c.volumes.pools.of_volume(name).is_err() {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Exists, format!("there is already a volume '{name}'"))
        .with_hint("choose another name"))
}

async fn create<D: Disk>(c: Context<D>, request: CreateVolume) -> Result<Volume, ApiError> {
    let CreateVolume { name, size, description, source, image, volume_type: asked, shared } = request;
    if image.is_some() && source.is_some() {
        return Err(invalid("a volume begins as a snapshot or as an image, not as both"));
    }
    is_free(&c, &name)?;
    let settings = c.volumes.settings();
    let of_source = match &source {
        Some(source) => {
            restores::refuse(&c, &source.volume)?;
            let (pool_name, pool) = c.pool_of(&source.volume)?;
            let attributes = api(pool.attributes(Holder::Volume(&source.volume)))?;
            Some((pool_name, settings::volume_type(&attributes).to_owned()))
        }
        None => None,
    };
    let image = image.map(|image| images::find(&c.volumes, &image)).transpose()?;
    let inherited = of_source.as_ref().map(|(_, volume_type)| volume_type.clone());
    let volume_type = asked.or(inherited).unwrap_or_else(|| settings.default_type.clone());
    let backend = types::settings_of(&settings, &volume_type)?.backend().unwrap_or(MAIN_POOL);
    let stays_in = of_source.map(|(pool, _)| pool).or(image.as_ref().map(|image| image.pool_name.clone()));
    if let Some(pool) = stays_in.filter(|pool| pool != backend) {
        let why =
            format!("a clone stays in its source's pool '{pool}', type '{volume_type}' is of '{backend}'");
        return Err(invalid(why).with_hint("choose a type of the same pool"));
    }
    let pool = api(c.volumes.pools.get(backend))?;
    let mut attributes = vec![(settings::VOLUME_TYPE, volume_type.as_str())];
    if shared {
        attributes.push((settings::VOLUME_SHARED, settings::YES));
    }
    if let Some(image) = &image {
        attributes.push((VOLUME_FROM_IMAGE, &image.settings.name));
    }
    let new = NewVolume { name: &name, description: &description, attributes: &attributes };
    api(match (&image, &source, size) {
        (Some(image), _, size) => {
            let size = images::volume_size(image, size)?;
            pool.clone_volume_with(&image.volume.name, CONTENTS, new, Some(size)).await
        }
        (None, None, None) => {
            return Err(invalid("a blank volume needs a size").with_hint("give \"size\" in bytes"));
        }
        (None, None, Some(size)) => pool.create_volume_with(new, size).await,
        (None, Some(source), size) => {
            pool.clone_volume_with(&source.volume, &source.snapshot, new, size).await
        }
    })?;
    api(show(&c.volumes, &name))
}

async fn edit<D: Disk>(c: Context<D>, name: String, request: EditVolume) -> Result<Volume, ApiError> {
    let (_, pool) = c.pool_of(&name)?;
    let renamed = request.name.as_deref().filter(|new| *new != name);
    let sessions = &c.volumes.sessions;
    let _held = match renamed {
        Some(new) if c.volumes.pools.of_volume(new).is_ok() => {
            return Err(ApiError::new(ErrorCode::Exists, format!("there is already a volume '{new}'"))
                .with_hint("choose another name"));
        }
        // Clients that come back would ask for the old name, and get what may be called so by then.
        Some(_) => Some(attachments::hold(sessions, Target::Volume { volume: name.clone() }).await?),
        None => None,
    };
    let shared = request.shared.map(|shared| (settings::VOLUME_SHARED, shared.then_some(settings::YES)));
    let edit = Edit {
        name: request.name.as_deref(),
        description: request.description.as_deref(),
        attributes: shared.as_slice(),
    };
    let info = api(pool.edit_volume(&name, edit).await)?;
    api(show(&c.volumes, &info.name))
}

async fn retype<D: Disk>(c: Context<D>, name: String, request: Retype) -> Result<Volume, ApiError> {
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

/// The snapshots of all volumes of a pool that users see.
fn visible_snapshots<D: Disk>(pool: &Arc<Pool<D>>) -> CowResult<Vec<SnapshotInfo>> {
    let hidden = pool.volumes().into_iter().filter(|volume| is_hidden(&volume.attributes));
    let hidden: HashSet<_> = hidden.map(|volume| volume.name).collect();
    let mut snapshots = pool.snapshots(None)?;
    snapshots.retain(|snapshot| !hidden.contains(&snapshot.volume));
    Ok(snapshots)
}

fn snapshot_list(mut infos: Vec<SnapshotInfo>, sessions: &Sessions) -> SnapshotList {
    infos.sort_by(|a, b| (&a.volume, a.created_ms, a.id).cmp(&(&b.volume, b.created_ms, b.id)));
    SnapshotList { snapshots: infos.into_iter().map(|info| convert::snapshot(info, sessions)).collect() }
}

/// The extents from `offset` on as far as one answer takes them, and where the next one starts.
fn page(extents: &[DiffExtent], offset: u64, most: usize) -> (&[DiffExtent], Option<u64>) {
    let start = extents.partition_point(|extent| extent.offset < offset);
    let rest = &extents[start..];
    match rest.get(most) {
        Some(next) => (&rest[..most], Some(next.offset)),
        None => (rest, None),
    }
}

impl<D: Disk> Engine for PoolEngine<D> {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn volumes(&self) -> Pending<VolumeList> {
        self.context.look(|volumes| {
            let (mut shown, settings) = (Vec::new(), volumes.settings());
            for (name, pool) in volumes.pools.open() {
                let fenced = pool.status().fenced.is_some();
                let infos = pool.volumes().into_iter().filter(|volume| !is_hidden(&volume.attributes));
                let show = |info| {
                    let restore = volumes.restores.progress(&pool, &info);
                    convert::volume(info, &name, fenced, restore, &volumes.sessions, &settings)
                };
                shown.extend(infos.map(show));
            }
            shown.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(VolumeList { volumes: shown })
        })
    }

    fn volume(&self, name: String) -> Pending<Volume> {
        self.context.look(move |volumes| show(volumes, &name))
    }

    fn create_volume(&self, request: CreateVolume) -> Pending<Volume> {
        self.context.change(move |c| create(c, request))
    }

    fn create_restore(&self, request: CreateRestore) -> Pending<Volume> {
        Box::pin(restores::create(self.context.clone(), request))
    }

    fn edit_volume(&self, name: String, request: EditVolume) -> Pending<Volume> {
        self.context.change(move |c| edit(c, name, request))
    }

    fn retype_volume(&self, name: String, request: Retype) -> Pending<Volume> {
        self.context.change(move |c| retype(c, name, request))
    }

    fn volume_qos(&self, name: String) -> Pending<VolumeQos> {
        self.context.look(move |volumes| types::volume_limits(volumes, &name))
    }

    fn set_volume_qos(&self, name: String, request: SetVolumeQos) -> Pending<VolumeQos> {
        self.context.change(move |c| types::set_volume_limits(c, name, request))
    }

    fn attachments(&self, volume: String) -> Pending<AttachmentList> {
        self.context.look(move |volumes| attachments::list(volumes, &volume))
    }

    fn attach(&self, volume: String, request: Attach) -> Pending<Attachment> {
        Box::pin(attachments::attach(self.context.clone(), volume, request))
    }

    fn detach(&self, volume: String, request: Detach) -> Pending<AttachmentList> {
        Box::pin(attachments::detach(self.context.clone(), volume, request))
    }

    fn reset_attachments(&self, volume: String) -> Pending<AttachmentList> {
        Box::pin(attachments::reset(self.context.clone(), volume))
    }

    fn resize_volume(&self, name: String, size: u64) -> Pending<Volume> {
        let context = self.context.clone();
        Box::pin(async move {
            let grown = context.run(async move |c| {
                restores::refuse(&c, &name)?;
                let (_, pool) = c.pool_of(&name)?;
                let info = api(pool.resize_volume(&name, size).await)?;
                Ok((api(show(&c.volumes, &name))?, pool, info.id))
            });
            let (volume, pool, id) = grown.await?;
            attachments::tell_size(&context, &pool, id, None).await;
            Ok(volume)
        })
    }

    fn delete_volume(&self, name: String, with_snapshots: bool) -> Pending<()> {
        self.context.run(async move |c| {
            let (_, pool) = c.pool_of(&name)?;
            let volume = name.clone();
            let target = if with_snapshots { Target::Volume { volume } } else { Target::Head { volume } };
            let _held = attachments::hold(&c.volumes.sessions, target).await?;
            let VolumeInfo { id, attributes, .. } = api(pool.volume(&name))?;
            api(pool.delete_volume(&name, with_snapshots).await)?;
            c.volumes.forget_limits(&pool, id);
            restores::deleted(&c, &pool, id, &attributes).await;
            Ok(())
        })
    }

    fn tree(&self, volume: String) -> Pending<Tree> {
        self.context.look(move |volumes| {
            let (_, pool) = volumes.pools.of_volume(&volume)?;
            let images = in_pool("", &pool).into_iter().map(|image| (image.volume.name, image.settings.name));
            let images = images.collect();
            let nodes = pool.tree(&volume)?.into_iter();
            let nodes = nodes.filter_map(|node| convert::tree_node(node, &images)).collect();
            Ok(Tree { volume, nodes })
        })
    }

    fn snapshots(&self, volume: Option<String>) -> Pending<SnapshotList> {
        self.context.look(move |volumes| {
            let infos = match &volume {
                Some(volume) => volumes.pools.of_volume(volume)?.1.snapshots(Some(volume))?,
                None => {
                    let pools = volumes.pools.open();
                    let of_each = pools.iter().map(|(_, pool)| visible_snapshots(pool));
                    of_each.collect::<CowResult<Vec<_>>>()?.concat()
                }
            };
            Ok(snapshot_list(infos, &volumes.sessions))
        })
    }

    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot> {
        self.context.look(move |volumes| {
            let (_, pool) = volumes.pools.of_volume(&volume)?;
            Ok(convert::snapshot(pool.snapshot(&volume, &name)?, &volumes.sessions))
        })
    }

    fn create_snapshot(&self, volume: String, request: CreateSnapshot) -> Pending<Snapshot> {
        self.context.run(async move |c| {
            restores::refuse(&c, &volume)?;
            let (_, pool) = c.pool_of(&volume)?;
            let of = [(volume.as_str(), request.name.as_str())];
            let created = api(pool.create_snapshots(&of, &request.description).await)?;
            match created.into_iter().next() {
                Some(info) => Ok(convert::snapshot(info, &c.volumes.sessions)),
                None => Err(ApiError::new(ErrorCode::Internal, "the engine made no snapshot")),
            }
        })
    }

    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList> {
        self.context.run(async move |c| {
            let of: Vec<_> = request.members.iter().map(|m| (m.volume.as_str(), m.name.as_str())).collect();
            of.iter().try_for_each(|(volume, _)| restores::refuse(&c, volume))?;
            let mut pools = of.iter().map(|(volume, _)| c.pool_of(volume)).collect::<Result<Vec<_>, _>>()?;
            pools.dedup_by(|a, b| a.0 == b.0);
            let pool = match pools.as_slice() {
                [] => Arc::clone(c.volumes.pools.main()),
                [(_, pool)] => Arc::clone(pool),
                [(one, _), (other, _), ..] => {
                    let why = format!("these volumes are in several pools, '{one}' and '{other}' among them");
                    return Err(
                        invalid(why).with_hint("a pool has one order of writes: snapshot each on its own")
                    );
                }
            };
            let created = api(pool.create_snapshots(&of, &request.description).await)?;
            let sessions = &c.volumes.sessions;
            let snapshots = created.into_iter().map(|info| convert::snapshot(info, sessions)).collect();
            Ok(SnapshotList { snapshots })
        })
    }

    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()> {
        self.context.run(async move |c| {
            let (_, pool) = c.pool_of(&volume)?;
            let target = Target::Snapshot { volume: volume.clone(), name: name.clone() };
            let _held = attachments::hold(&c.volumes.sessions, target).await?;
            api(pool.delete_snapshot(&volume, &name).await)?;
            api(unmark_passing(&pool, &volume, &name).await)
        })
    }

    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack> {
        self.context.run(async move |c| {
            restores::refuse(&c, &volume)?;
            let (_, pool) = c.pool_of(&volume)?;
            let (sessions, target) = (&c.volumes.sessions, Target::Head { volume: volume.clone() });
            let _held = if request.force { None } else { Some(attachments::hold(sessions, target).await?) };
            let undo = api(pool.rollback(&volume, &snapshot).await)?;
            let volume = api(show(&c.volumes, &volume))?;
            Ok(RolledBack { volume, undo: convert::snapshot(undo, sessions) })
        })
    }

    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff> {
        self.context.run(async move |c| {
            let (_, pool) = c.pool_of(&volume)?;
            let extents = api(pool.diff(&volume, &snapshot, query.to.as_deref()).await)?;
            let (shown, next) = page(&extents, query.offset, MAX_DIFF_EXTENTS);
            Ok(Diff {
                changed: extents.iter().map(|extent| extent.len).sum(),
                extents: shown.iter().copied().map(convert::diff_extent).collect(),
                next,
                volume,
                from: snapshot,
                to: query.to,
            })
        })
    }

    fn images(&self) -> Pending<ImageList> {
        self.context.look(|volumes| Ok(images::list(volumes)))
    }

    fn image(&self, name: String) -> Pending<Image> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { images::show(&volumes, &name) })
    }

    fn create_image(&self, request: CreateImage) -> Pending<Image> {
        self.context.change(move |c| images::create(c, request))
    }

    fn edit_image(&self, name: String, request: EditImage) -> Pending<Image> {
        self.context.change(move |c| images::edit(c, name, request))
    }

    fn delete_image(&self, name: String, force: bool) -> Pending<()> {
        Box::pin(images::delete(self.context.clone(), name, force))
    }

    fn create_import(&self, request: CreateImport) -> Pending<Import> {
        Box::pin(images::import(self.context.clone(), request))
    }

    fn cancel_import(&self, name: String) -> Pending<()> {
        Box::pin(images::cancel(self.context.clone(), name))
    }

    fn grow_import(&self, name: String, size: u64) -> Pending<Image> {
        self.context.run(move |c| images::grow(c, name, size))
    }

    fn complete_import(&self, name: String) -> Pending<Image> {
        Box::pin(images::complete(self.context.clone(), name))
    }

    fn passing_snapshot(&self, volume: String) -> Pending<PassingSnapshot> {
        Box::pin(leases::passing_snapshot(self.context.clone(), volume))
    }

    fn create_staging(&self, request: CreateStaging) -> Pending<Staging> {
        Box::pin(stagings::create(self.context.clone(), request))
    }

    fn cancel_staging(&self, id: String) -> Pending<()> {
        Box::pin(stagings::cancel(self.context.clone(), id))
    }

    fn complete_staging(&self, id: String) -> Pending<Staged> {
        Box::pin(stagings::complete(self.context.clone(), id))
    }

    fn types(&self) -> Pending<TypeList> {
        self.context.look(|volumes| Ok(types::types(volumes)))
    }

    fn volume_type(&self, name: String) -> Pending<VolumeType> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { types::show(&volumes, &name) })
    }

    fn create_type(&self, request: CreateType) -> Pending<VolumeType> {
        self.context.change(move |c| types::create(c, request))
    }

    fn edit_type(&self, name: String, request: EditType) -> Pending<VolumeType> {
        self.context.change(move |c| types::edit(c, name, request))
    }

    fn delete_type(&self, name: String) -> Pending<()> {
        self.context.change(move |c| types::delete(c, name))
    }

    fn qos_policies(&self) -> Pending<QosPolicyList> {
        self.context.look(|volumes| Ok(types::policies(volumes)))
    }

    fn qos_policy(&self, name: String) -> Pending<QosPolicy> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { types::policy(&volumes, &name) })
    }

    fn create_qos_policy(&self, request: CreateQosPolicy) -> Pending<QosPolicy> {
        self.context.change(move |c| types::create_policy(c, request))
    }

    fn edit_qos_policy(&self, name: String, request: EditQosPolicy) -> Pending<QosPolicy> {
        self.context.change(move |c| types::edit_policy(c, name, request))
    }

    fn delete_qos_policy(&self, name: String) -> Pending<()> {
        self.context.change(move |c| types::delete_policy(c, name))
    }

    fn pools(&self) -> Pending<PoolList> {
        self.context.look(|volumes| Ok(pools::list(volumes)))
    }

    fn pool(&self, name: Option<String>) -> Pending<PoolStatus> {
        self.context.look(move |volumes| pools::status(volumes, name))
    }

    fn create_pool(&self, request: CreatePool) -> Pending<PoolEntry> {
        Box::pin(pools::create(self.context.clone(), request))
    }

    fn grow_pool(&self, name: String, request: GrowPool) -> Pending<PoolStatus> {
        Box::pin(pools::grow(self.context.clone(), name, request))
    }

    fn remove_pool(&self, name: String) -> Pending<()> {
        Box::pin(pools::remove(self.context.clone(), name))
    }

    fn check(&self, name: Option<String>, data: bool) -> Pending<CheckReport> {
        self.context.run(async move |c| {
            let (_, pool) = api(pools::named(&c.volumes, name))?;
            Ok(convert::check_report(api(pool.check(data).await)?))
        })
    }

    fn scrub(&self, name: Option<String>) -> Pending<Scrub> {
        self.context.look(move |volumes| pools::scrub(volumes, name))
    }

    fn start_scrub(&self, name: Option<String>, request: StartScrub) -> Pending<Scrub> {
        self.context.run(async move |c| pools::start_scrub(&c, name, request))
    }

    fn stop_scrub(&self, name: Option<String>) -> Pending<Scrub> {
        self.context.run(async move |c| pools::stop_scrub(&c, name).await)
    }
}

#[cfg(test)]
mod tests {
    use cairn_cow::ExtentKind;

    use super::*;

    #[test]
    fn pages_join_without_gap_or_overlap() {
        let extents: Vec<_> =
            (0..10).map(|n| DiffExtent { offset: n * 8192, len: 4096, kind: ExtentKind::Data }).collect();
        let mut joined = Vec::new();
        let mut offset = Some(0);
        let mut pages = 0;
        while let Some(from) = offset {
            let (shown, next) = page(&extents, from, 3);
            joined.extend_from_slice(shown);
            offset = next;
            pages += 1;
        }
        assert_eq!((pages, joined), (4, extents.clone()));
        assert_eq!(page(&extents, 9 * 8192 + 1, 3), (&[][..], None));
        assert_eq!(page(&extents, 0, 10).1, None, "exactly full is the last page");
    }
}
