//! The engine behind the API: pools, reached through a reactor.

use std::sync::Arc;

use cairn_api::attachment::{Attach, Attachment, AttachmentList, Detach};
use cairn_api::error::ApiError;
use cairn_api::image::{CreateImage, CreateImport, EditImage, Image, ImageList, Import, PassingSnapshot};
use cairn_api::info::Info;
use cairn_api::pool::{
    CheckReport, CreatePool, GrowPool, PoolEntry, PoolList, PoolStatus, Scrub, StartScrub,
};
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, Diff, DiffQuery, EditSnapshot, MAX_DIFF_EXTENTS, Rollback,
    RolledBack, Snapshot, SnapshotList, SnapshotQuery, Tree,
};
use cairn_api::staging::{CreateStaging, Staged, Staging};
use cairn_api::types::{
    CreateQosPolicy, CreateType, EditQosPolicy, EditType, QosPolicy, QosPolicyList, Retype, SetVolumeQos,
    TypeList, VolumeQos, VolumeType,
};
use cairn_api::volume::{
    CreateRestore, CreateVolume, EditVolume, ResetStatus, Volume, VolumeList, VolumeQuery,
};
use cairn_cow::{DiffExtent, Disk, Result as CowResult};
use cairn_uring::Handle;

use super::context::Context;
use super::engine::{Engine, Pending};
use super::{attachments, convert, images, leases, pools, restores, snapshots, stagings, types, volumes};
use crate::devices::Devices;
use crate::images::in_pool;
use crate::keeper::PoolFiles;
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

    fn volumes(&self, query: VolumeQuery) -> Pending<VolumeList> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { volumes::list(&volumes, &query) })
    }

    fn volume(&self, name: String) -> Pending<Volume> {
        self.context.look(move |volumes| volumes::show(volumes, &name))
    }

    fn create_volume(&self, request: CreateVolume) -> Pending<Volume> {
        self.context.change(move |c| volumes::create(c, request))
    }

    fn create_restore(&self, request: CreateRestore) -> Pending<Volume> {
        Box::pin(restores::create(self.context.clone(), request))
    }

    fn edit_volume(&self, name: String, request: EditVolume) -> Pending<Volume> {
        self.context.change(move |c| volumes::edit(c, name, request))
    }

    fn retype_volume(&self, name: String, request: Retype) -> Pending<Volume> {
        self.context.change(move |c| volumes::retype(c, name, request))
    }

    fn reset_status(&self, name: String, request: ResetStatus) -> Pending<Volume> {
        self.context.change(move |c| volumes::reset_status(c, name, request))
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
        Box::pin(volumes::resize(self.context.clone(), name, size))
    }

    fn delete_volume(&self, name: String, with_snapshots: bool) -> Pending<()> {
        self.context.change(move |c| volumes::delete(c, name, with_snapshots))
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

    fn snapshots(&self, query: SnapshotQuery) -> Pending<SnapshotList> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { snapshots::list(&volumes, &query) })
    }

    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot> {
        self.context.look(move |volumes| snapshots::show(volumes, &volume, &name))
    }

    fn create_snapshot(&self, volume: String, request: CreateSnapshot) -> Pending<Snapshot> {
        self.context.run(move |c| snapshots::create(c, volume, request))
    }

    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList> {
        self.context.run(move |c| snapshots::create_group(c, request))
    }

    fn edit_snapshot(&self, volume: String, name: String, request: EditSnapshot) -> Pending<Snapshot> {
        self.context.change(move |c| snapshots::edit(c, volume, name, request))
    }

    fn hold_snapshot(&self, volume: String, name: String, request: CreateHold) -> Pending<Snapshot> {
        self.context.change(move |c| snapshots::hold(c, volume, name, request))
    }

    fn release_snapshot(&self, volume: String, name: String, hold: String) -> Pending<Snapshot> {
        self.context.change(move |c| snapshots::release(c, volume, name, hold))
    }

    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()> {
        self.context.change(move |c| snapshots::delete(c, volume, name))
    }

    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack> {
        self.context.run(move |c| snapshots::rollback(c, volume, snapshot, request))
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
