//! The engine behind the API: pools, reached through a reactor.

use std::sync::Arc;

use cairn_api::Size;
use cairn_api::attachment::{Attach, Attachment, AttachmentList, Detach};
use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::event::EventKind;
use cairn_api::image::{
    CreateImage, CreateImport, EditImage, Image, ImageList, ImageQuery, Import, PassingSnapshot,
};
use cairn_api::info::Info;
use cairn_api::job::{Job, JobList, JobQuery};
use cairn_api::pool::{CreatePool, GrowPool, PoolEntry, PoolList, PoolStatus, Scrub, StartScrub};
use cairn_api::recycle::{Recover, RecycleBin, SetRecycleBin};
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, Diff, DiffQuery, EditSnapshot, MAX_DIFF_EXTENTS,
    ResetSnapshotStatus, Rollback, RolledBack, Snapshot, SnapshotList, SnapshotQuery, Tree,
};
use cairn_api::staging::{CreateStaging, Staged, Staging};
use cairn_api::stats::Stats;
use cairn_api::types::{
    CreateQosPolicy, CreateType, EditQosPolicy, EditType, QosPolicy, QosPolicyList, Retype, SetVolumeQos,
    TypeList, VolumeQos, VolumeType,
};
use cairn_api::volume::{
    CreateRestore, CreateVolume, DeleteVolumeQuery, EditVolume, ResetStatus, Volume, VolumeList, VolumeQuery,
};
use cairn_cow::{DiffExtent, Disk, MAX_VOLUME_BYTES};
use cairn_uring::Handle;

use super::context::Context;
use super::engine::{Engine, Pending};
use super::volumes::Deleted;
use super::{
    attachments, convert, images, jobs, leases, pools, recycle, restores, snapshots, stagings, stats, types,
    volumes,
};
use crate::devices::Devices;
use crate::events::{About, Events};
use crate::images::in_pool;
use crate::keeper::PoolFiles;
use crate::remains::VOLUME_REMAINS;
use crate::staging::VOLUME_RECYCLED;
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

/// The extents from `offset` on as far as one answer takes them, and where the next one starts.
fn page(extents: &[DiffExtent], offset: u64, most: usize) -> (&[DiffExtent], Option<u64>) {
    let start = extents.partition_point(|extent| extent.offset < offset);
    let rest = &extents[start..];
    match rest.get(most) {
        Some(next) => (&rest[..most], Some(next.offset)),
        None => (rest, None),
    }
}

impl<D: Disk> PoolEngine<D> {
    /// Has everybody told of an operation once it is done.
    fn told<T: Send + 'static>(
        &self,
        done: Pending<T>,
        tell: impl FnOnce(&Events, &T) + Send + 'static,
    ) -> Pending<T> {
        let events = Arc::clone(&self.context.volumes.events);
        Box::pin(async move {
            let done = done.await?;
            tell(&events, &done);
            Ok(done)
        })
    }
}

/// How a new volume is told of.
fn tell_of_new(events: &Events, volume: &Volume) {
    let Volume { name, size, .. } = volume;
    events.tell(
        EventKind::VolumeCreated,
        About::volume(name),
        format!("volume {name} ({}) is there", Size(*size)),
    );
}

/// How it is told that what was deleted cannot be had back any more.
fn tell_of_purge(events: &Events, gone: &recycle::Gone) {
    let message = format!("volume {}, which was in the recycle bin, was deleted", gone.name);
    events.tell(EventKind::VolumeDeleted, About::volume(&gone.name).of(Some(&gone.project)), message);
}

fn tell_of_snapshot(events: &Events, snapshot: &Snapshot) {
    let Snapshot { volume, name, .. } = snapshot;
    let message = format!("snapshot {volume}@{name} was taken");
    events.tell(EventKind::SnapshotCreated, About::snapshot(volume, name), message);
}

/// How a change of something with a name of its own is told of.
fn tell_of(kind: EventKind, what: &'static str, name: String) -> impl FnOnce(&Events) {
    move |events| events.tell(kind, About::named(&name), format!("{what} {name}: {}", verb(kind)))
}

/// What happened, by the kind's word.
fn verb(kind: EventKind) -> &'static str {
    kind.as_str().split_once('.').map_or("", |(_, verb)| verb)
}

impl<D: Disk> Engine for PoolEngine<D> {
    fn events(&self) -> Arc<Events> {
        Arc::clone(&self.context.volumes.events)
    }

    fn info(&self) -> Info {
        self.info.clone()
    }

    fn stats(&self) -> Pending<Stats> {
        self.context.look(|volumes| Ok(stats::all(volumes)))
    }

    fn volumes(&self, query: VolumeQuery) -> Pending<VolumeList> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { volumes::list(&volumes, &query) })
    }

    fn volume(&self, name: String) -> Pending<Volume> {
        self.context.look(move |volumes| volumes::show(volumes, &name))
    }

    fn create_volume(&self, request: CreateVolume) -> Pending<Volume> {
        let done = self.context.change(move |c| volumes::create(c, request));
        self.told(done, tell_of_new)
    }

    fn create_restore(&self, request: CreateRestore) -> Pending<Volume> {
        let done = Box::pin(restores::create(self.context.clone(), request));
        self.told(done, |events, volume| {
            let name = &volume.name;
            let message = format!("volume {name} serves, and is filled from a backup");
            events.tell(EventKind::VolumeRestoring, About::volume(name), message);
        })
    }

    fn edit_volume(&self, name: String, request: EditVolume) -> Pending<Volume> {
        let before = name.clone();
        let done = self.context.change(move |c| volumes::edit(c, name, request));
        self.told(done, move |events, volume| {
            let name = &volume.name;
            let message = match *name == before {
                true => format!("volume {name} was edited"),
                false => format!("volume {before} is now called {name}"),
            };
            events.tell(EventKind::VolumeEdited, About::volume(name), message);
        })
    }

    fn retype_volume(&self, name: String, request: Retype) -> Pending<Volume> {
        let done = self.context.change(move |c| volumes::retype(c, name, request));
        self.told(done, |events, volume| {
            let message = format!("volume {} is now of type {}", volume.name, volume.volume_type);
            events.tell(EventKind::VolumeRetyped, About::volume(&volume.name), message);
        })
    }

    fn reset_status(&self, name: String, request: ResetStatus) -> Pending<Volume> {
        let done = self.context.change(move |c| volumes::reset_status(c, name, request));
        self.told(done, |events, volume| {
            let Volume { name, status, .. } = volume;
            let reason = volume.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            let message = format!("the status of volume {name} was set to {}{reason}", status.as_str());
            events.tell(EventKind::VolumeStatusSet, About::volume(name), message);
        })
    }

    fn volume_qos(&self, name: String) -> Pending<VolumeQos> {
        self.context.look(move |volumes| types::volume_limits(volumes, &name))
    }

    fn set_volume_qos(&self, name: String, request: SetVolumeQos) -> Pending<VolumeQos> {
        let done = self.context.change(move |c| types::set_volume_limits(c, name, request));
        self.told(done, |events, limits| {
            let message = format!("the limits of volume {} were set", limits.volume);
            events.tell(EventKind::VolumeLimited, About::volume(&limits.volume), message);
        })
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
        let done = Box::pin(volumes::resize(self.context.clone(), name, size));
        self.told(done, |events, volume| {
            let message = format!("volume {} is now {}", volume.name, Size(volume.size));
            events.tell(EventKind::VolumeResized, About::volume(&volume.name), message);
        })
    }

    fn delete_volume(&self, name: String, query: DeleteVolumeQuery) -> Pending<()> {
        let (volume, with_snapshots) = (name.clone(), query.snapshots);
        let project = self.context.volumes.project(&name);
        let done = self.context.change(move |c| volumes::delete(c, name, query));
        let done = self.told(done, move |events, deleted: &Deleted| {
            let with = if with_snapshots { " with its snapshots" } else { "" };
            let (kind, message) = match deleted {
                Deleted::Recycled => {
                    (EventKind::VolumeRecycled, format!("volume {volume} is in the recycle bin{with}"))
                }
                Deleted::Gone => (EventKind::VolumeDeleted, format!("volume {volume} was deleted{with}")),
                Deleted::Left => {
                    (EventKind::VolumeDeleted, format!("volume {volume} was deleted, its snapshots live on"))
                }
            };
            events.tell(kind, About::volume(&volume).of(project.as_deref()), message);
        });
        Box::pin(async move { done.await.map(drop) })
    }

    fn recycle_bin(&self) -> Pending<RecycleBin> {
        self.context.look(|volumes| Ok(recycle::show(volumes)))
    }

    fn set_recycle_bin(&self, request: SetRecycleBin) -> Pending<RecycleBin> {
        self.context.change(move |c| recycle::set(c, request))
    }

    fn recover(&self, id: String, request: Recover) -> Pending<Volume> {
        let done = self.context.change(move |c| recycle::recover(c, id, request));
        self.told(done, |events, volume| {
            let message = format!("volume {} is back from the recycle bin", volume.name);
            events.tell(EventKind::VolumeRecovered, About::volume(&volume.name), message);
        })
    }

    fn purge(&self, id: String) -> Pending<()> {
        let done = self.context.change(move |c| recycle::purge(c, id));
        let done = self.told(done, tell_of_purge);
        Box::pin(async move { done.await.map(drop) })
    }

    fn expire(&self) -> Pending<()> {
        let done = self.context.change(recycle::expire);
        let done = self.told(done, |events, gone| gone.iter().for_each(|gone| tell_of_purge(events, gone)));
        Box::pin(async move { done.await.map(drop) })
    }

    fn tree(&self, volume: String) -> Pending<Tree> {
        self.context.look(move |volumes| {
            let (_, pool) = volumes.pools.of_volume(&volume)?;
            let images = in_pool("", &pool).into_iter().map(|image| (image.volume.name, image.settings.name));
            let images = images.collect();
            let with = |key| pool.volumes_with(key).into_iter().map(|volume| volume.name).collect();
            let (recycled, left) = (with(VOLUME_RECYCLED), with(VOLUME_REMAINS));
            let nodes = pool.tree(&volume)?.into_iter();
            let nodes =
                nodes.filter_map(|node| convert::tree_node(node, &images, &recycled, &left)).collect();
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
        let done = self.context.change(move |c| snapshots::create(c, volume, request));
        self.told(done, tell_of_snapshot)
    }

    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList> {
        let done = self.context.change(move |c| snapshots::create_group(c, request));
        self.told(done, |events, made| {
            made.snapshots.iter().for_each(|snapshot| tell_of_snapshot(events, snapshot));
        })
    }

    fn edit_snapshot(&self, volume: String, name: String, request: EditSnapshot) -> Pending<Snapshot> {
        let before = name.clone();
        let done = self.context.change(move |c| snapshots::edit(c, volume, name, request));
        self.told(done, move |events, snapshot| {
            let Snapshot { volume, name, .. } = snapshot;
            let message = match *name == before {
                true => format!("snapshot {volume}@{name} was edited"),
                false => format!("snapshot {volume}@{before} is now called {volume}@{name}"),
            };
            events.tell(EventKind::SnapshotEdited, About::snapshot(volume, name), message);
        })
    }

    fn reset_snapshot_status(
        &self,
        volume: String,
        name: String,
        request: ResetSnapshotStatus,
    ) -> Pending<Snapshot> {
        let set = request.status;
        let done = self.context.change(move |c| snapshots::reset_status(c, volume, name, request));
        self.told(done, move |events, snapshot| {
            let Snapshot { volume, name, .. } = snapshot;
            let reason = snapshot.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            let message =
                format!("the status of snapshot {volume}@{name} was set to {}{reason}", set.as_str());
            events.tell(EventKind::SnapshotStatusSet, About::snapshot(volume, name), message);
        })
    }

    fn hold_snapshot(&self, volume: String, name: String, request: CreateHold) -> Pending<Snapshot> {
        let hold = request.name.clone();
        let done = self.context.change(move |c| snapshots::hold(c, volume, name, request));
        self.told(done, move |events, snapshot| {
            let Snapshot { volume, name, .. } = snapshot;
            let message = format!("snapshot {volume}@{name} is held by '{hold}'");
            events.tell(EventKind::SnapshotHeld, About::snapshot(volume, name), message);
        })
    }

    fn release_snapshot(&self, volume: String, name: String, hold: String) -> Pending<Snapshot> {
        let released = hold.clone();
        let done = self.context.change(move |c| snapshots::release(c, volume, name, hold));
        self.told(done, move |events, snapshot| {
            let Snapshot { volume, name, .. } = snapshot;
            let message = format!("snapshot {volume}@{name} is not held by '{released}' any more");
            events.tell(EventKind::SnapshotReleased, About::snapshot(volume, name), message);
        })
    }

    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()> {
        let (of, snapshot) = (volume.clone(), name.clone());
        let project = self.context.volumes.project(&of);
        let done = self.context.change(move |c| snapshots::delete(c, volume, name));
        let done = self.told(done, move |events, last: &bool| {
            let with = if *last { ", the last that was left of its volume" } else { "" };
            let message = format!("snapshot {of}@{snapshot} was deleted{with}");
            let about = About::snapshot(&of, &snapshot).of(project.as_deref());
            events.tell(EventKind::SnapshotDeleted, about, message);
        });
        Box::pin(async move { done.await.map(drop) })
    }

    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack> {
        let to = snapshot.clone();
        let done = self.context.run(move |c| snapshots::rollback(c, volume, snapshot, request));
        self.told(done, move |events, done| {
            let RolledBack { volume, undo } = done;
            let message = format!(
                "volume {0} was rolled back to {0}@{to}; what it held is {0}@{1}",
                volume.name, undo.name
            );
            events.tell(EventKind::VolumeRolledBack, About::snapshot(&volume.name, &to), message);
        })
    }

    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff> {
        self.context.run(async move |c| {
            if query.offset > MAX_VOLUME_BYTES {
                let why = format!("no volume has {} bytes", query.offset);
                return Err(ApiError::new(ErrorCode::OutOfRange, why));
            }
            let extents = snapshots::diff(&c, &volume, &snapshot, &query).await?;
            let (shown, next) = page(&extents, query.offset, MAX_DIFF_EXTENTS);
            Ok(Diff {
                changed: extents.iter().map(|extent| extent.len).sum(),
                extents: shown.iter().copied().map(convert::diff_extent).collect(),
                next,
                volume,
                from: snapshot,
                to: query.to,
                to_volume: query.to_volume,
            })
        })
    }

    fn images(&self, query: ImageQuery) -> Pending<ImageList> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { images::list(&volumes, &query) })
    }

    fn image(&self, name: String) -> Pending<Image> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { images::show(&volumes, &name) })
    }

    fn create_image(&self, request: CreateImage) -> Pending<Image> {
        let tell = tell_of(EventKind::ImageCreated, "image", request.name.clone());
        let done = self.context.change(move |c| images::create(c, request));
        self.told(done, |events, _| tell(events))
    }

    fn edit_image(&self, name: String, request: EditImage) -> Pending<Image> {
        let tell = tell_of(EventKind::ImageEdited, "image", name.clone());
        let done = self.context.change(move |c| images::edit(c, name, request));
        self.told(done, |events, _| tell(events))
    }

    fn delete_image(&self, name: String, force: bool) -> Pending<()> {
        let tell = tell_of(EventKind::ImageDeleted, "image", name.clone());
        let done = Box::pin(images::delete(self.context.clone(), name, force));
        self.told(done, |events, _| tell(events))
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
        let tell = tell_of(EventKind::ImageCreated, "image", name.clone());
        let done = Box::pin(images::complete(self.context.clone(), name));
        self.told(done, |events, _| tell(events))
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
        let done = Box::pin(stagings::complete(self.context.clone(), id));
        self.told(done, |events, staged| match &staged.undo {
            None => tell_of_new(events, &staged.volume),
            Some(undo) => {
                let volume = &staged.volume.name;
                let message =
                    format!("what volume {volume} held was replaced; it is kept as {volume}@{}", undo.name);
                events.tell(EventKind::VolumeRolledBack, About::volume(volume), message);
            }
        })
    }

    fn types(&self) -> Pending<TypeList> {
        self.context.look(|volumes| Ok(types::types(volumes)))
    }

    fn volume_type(&self, name: String) -> Pending<VolumeType> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { types::show(&volumes, &name) })
    }

    fn create_type(&self, request: CreateType) -> Pending<VolumeType> {
        let tell = tell_of(EventKind::TypeCreated, "type", request.name.clone());
        let done = self.context.change(move |c| types::create(c, request));
        self.told(done, |events, _| tell(events))
    }

    fn edit_type(&self, name: String, request: EditType) -> Pending<VolumeType> {
        let tell = tell_of(EventKind::TypeEdited, "type", name.clone());
        let done = self.context.change(move |c| types::edit(c, name, request));
        self.told(done, |events, _| tell(events))
    }

    fn delete_type(&self, name: String) -> Pending<()> {
        let tell = tell_of(EventKind::TypeDeleted, "type", name.clone());
        let done = self.context.change(move |c| types::delete(c, name));
        self.told(done, |events, _| tell(events))
    }

    fn qos_policies(&self) -> Pending<QosPolicyList> {
        self.context.look(|volumes| Ok(types::policies(volumes)))
    }

    fn qos_policy(&self, name: String) -> Pending<QosPolicy> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { types::policy(&volumes, &name) })
    }

    fn create_qos_policy(&self, request: CreateQosPolicy) -> Pending<QosPolicy> {
        let tell = tell_of(EventKind::QosCreated, "QoS rule", request.name.clone());
        let done = self.context.change(move |c| types::create_policy(c, request));
        self.told(done, |events, _| tell(events))
    }

    fn edit_qos_policy(&self, name: String, request: EditQosPolicy) -> Pending<QosPolicy> {
        let tell = tell_of(EventKind::QosEdited, "QoS rule", name.clone());
        let done = self.context.change(move |c| types::edit_policy(c, name, request));
        self.told(done, |events, _| tell(events))
    }

    fn delete_qos_policy(&self, name: String) -> Pending<()> {
        let tell = tell_of(EventKind::QosDeleted, "QoS rule", name.clone());
        let done = self.context.change(move |c| types::delete_policy(c, name));
        self.told(done, |events, _| tell(events))
    }

    fn pools(&self) -> Pending<PoolList> {
        self.context.look(|volumes| Ok(pools::list(volumes)))
    }

    fn pool(&self, name: Option<String>) -> Pending<PoolStatus> {
        self.context.look(move |volumes| pools::status(volumes, name))
    }

    fn create_pool(&self, request: CreatePool) -> Pending<PoolEntry> {
        let tell = tell_of(EventKind::PoolAdded, "pool", request.name.clone());
        let done = Box::pin(pools::create(self.context.clone(), request));
        self.told(done, |events, _| tell(events))
    }

    fn grow_pool(&self, name: String, request: GrowPool) -> Pending<PoolStatus> {
        let tell = tell_of(EventKind::PoolGrown, "pool", name.clone());
        let done = Box::pin(pools::grow(self.context.clone(), name, request));
        self.told(done, |events, _| tell(events))
    }

    fn remove_pool(&self, name: String) -> Pending<()> {
        let tell = tell_of(EventKind::PoolRemoved, "pool", name.clone());
        let done = Box::pin(pools::remove(self.context.clone(), name));
        self.told(done, |events, _| tell(events))
    }

    fn start_check(&self, name: Option<String>, data: bool) -> Pending<Job> {
        self.context.run(async move |c| pools::start_check(&c, name, data).await)
    }

    fn scrub(&self, name: Option<String>) -> Pending<Scrub> {
        self.context.look(move |volumes| pools::scrub(volumes, name))
    }

    fn start_scrub(&self, name: Option<String>, request: StartScrub) -> Pending<Scrub> {
        self.context.run(async move |c| pools::start_scrub(&c, name, request).await)
    }

    fn stop_scrub(&self, name: Option<String>) -> Pending<Scrub> {
        self.context.run(async move |c| pools::stop_scrub(&c, name).await)
    }

    fn jobs(&self, query: JobQuery) -> Pending<JobList> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { jobs::list(&volumes, &query) })
    }

    fn job(&self, id: String) -> Pending<Job> {
        let volumes = Arc::clone(&self.context.volumes);
        Box::pin(async move { jobs::show(&volumes, &id) })
    }

    fn cancel_job(&self, id: String) -> Pending<Job> {
        Box::pin(jobs::cancel(self.context.clone(), id))
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
