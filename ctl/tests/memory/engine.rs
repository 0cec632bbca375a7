//! The API's calls.

use cairn_api::attachment::*;
use cairn_api::image::*;
use cairn_api::info::Info;
use cairn_api::pool::*;
use cairn_api::snapshot::*;
use cairn_api::staging::*;
use cairn_api::types::*;
use cairn_api::volume::*;
use cairnd::control::{Engine, Pending};

use super::{MemoryEngine, locked};

impl Engine for MemoryEngine {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn volumes(&self) -> Pending<VolumeList> {
        self.answer(|s| {
            let volumes = s.heads.keys().map(|name| s.volume(name)).collect::<Result<_, _>>()?;
            Ok(VolumeList { volumes })
        })
    }

    fn volume(&self, name: String) -> Pending<Volume> {
        self.answer(|s| s.volume(&name))
    }

    fn create_volume(&self, request: CreateVolume) -> Pending<Volume> {
        self.answer(|s| s.create_volume(request))
    }

    fn create_restore(&self, request: CreateRestore) -> Pending<Volume> {
        let CreateRestore { name, repo, backup, description, volume_type, .. } = request;
        // Every backup is of a disk of this size, and half there.
        let bytes_total = 1 << 30;
        let blank = CreateVolume {
            name,
            size: Some(bytes_total),
            description,
            volume_type,
            ..CreateVolume::default()
        };
        self.answer(move |s| {
            let restore =
                VolumeRestore { repo, backup, bytes_done: bytes_total / 2, bytes_total, problem: None };
            Ok(Volume { status: VolumeStatus::Restoring, restore: Some(restore), ..s.create_volume(blank)? })
        })
    }

    fn edit_volume(&self, name: String, request: EditVolume) -> Pending<Volume> {
        self.answer(|s| s.edit_volume(&name, request))
    }

    fn retype_volume(&self, name: String, request: Retype) -> Pending<Volume> {
        self.answer(|s| s.retype(&name, request.volume_type))
    }

    fn volume_qos(&self, name: String) -> Pending<VolumeQos> {
        self.answer(|s| s.volume_qos(&name))
    }

    fn set_volume_qos(&self, name: String, request: SetVolumeQos) -> Pending<VolumeQos> {
        self.answer(|s| s.set_volume_qos(&name, request))
    }

    fn attachments(&self, volume: String) -> Pending<AttachmentList> {
        self.answer(|s| s.all_users(&volume))
    }

    fn attach(&self, volume: String, request: Attach) -> Pending<Attachment> {
        self.answer(|s| s.attach(&volume, request))
    }

    fn detach(&self, volume: String, request: Detach) -> Pending<AttachmentList> {
        if request.force {
            return self.answer(|s| s.detach(&volume, request.snapshot.as_deref()));
        }
        let (state, mut in_flight) = (self.state.clone(), self.in_flight.subscribe());
        Box::pin(async move {
            // The engine outlives its calls, so that it is always told.
            let _ = in_flight.wait_for(|in_flight| !in_flight).await;
            locked(&state).detach(&volume, request.snapshot.as_deref())
        })
    }

    fn reset_attachments(&self, volume: String) -> Pending<AttachmentList> {
        self.answer(|s| s.reset_attachments(&volume))
    }

    fn resize_volume(&self, name: String, size: u64) -> Pending<Volume> {
        self.answer(|s| s.resize_volume(&name, size))
    }

    fn delete_volume(&self, name: String, with_snapshots: bool) -> Pending<()> {
        self.answer(|s| s.delete_volume(&name, with_snapshots))
    }

    fn tree(&self, volume: String) -> Pending<Tree> {
        self.answer(|s| s.tree(volume))
    }

    fn snapshots(&self, volume: Option<String>) -> Pending<SnapshotList> {
        self.answer(|s| s.snapshots(volume.as_deref()))
    }

    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot> {
        self.answer(|s| s.snapshot(&volume, &name))
    }

    fn create_snapshot(&self, volume: String, r: CreateSnapshot) -> Pending<Snapshot> {
        self.answer(|s| s.create_snapshot(&volume, &r.name, &r.description))
    }

    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList> {
        self.answer(|s| s.create_group(request))
    }

    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()> {
        self.answer(|s| s.delete_snapshot(&volume, &name))
    }

    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack> {
        self.answer(|s| s.rollback(&volume, &snapshot, request))
    }

    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff> {
        self.answer(|s| s.diff_page(volume, snapshot, query))
    }

    fn images(&self) -> Pending<ImageList> {
        self.answer(|s| Ok(ImageList { images: s.images.clone() }))
    }

    fn image(&self, name: String) -> Pending<Image> {
        self.answer(|s| s.image(&name))
    }

    fn create_image(&self, request: CreateImage) -> Pending<Image> {
        self.answer(|s| s.create_image(request))
    }

    fn edit_image(&self, name: String, request: EditImage) -> Pending<Image> {
        self.answer(|s| s.edit_image(&name, request))
    }

    fn delete_image(&self, name: String, force: bool) -> Pending<()> {
        self.answer(|s| s.delete_image(&name, force))
    }

    fn create_import(&self, request: CreateImport) -> Pending<Import> {
        self.answer(|s| s.create_import(request))
    }

    fn cancel_import(&self, name: String) -> Pending<()> {
        self.answer(|s| s.delete_image(&name, true))
    }

    fn grow_import(&self, name: String, size: u64) -> Pending<Image> {
        self.answer(|s| s.grow_import(&name, size))
    }

    fn complete_import(&self, name: String) -> Pending<Image> {
        self.answer(|s| s.complete_import(&name))
    }

    fn passing_snapshot(&self, volume: String) -> Pending<PassingSnapshot> {
        self.answer(|s| {
            let taken = s.create_snapshot(&volume, "passing", "")?;
            Ok(PassingSnapshot { volume, snapshot: taken.name, size: taken.size })
        })
    }

    fn create_staging(&self, request: CreateStaging) -> Pending<Staging> {
        self.answer(|s| s.create_staging(request))
    }

    fn cancel_staging(&self, id: String) -> Pending<()> {
        self.answer(|s| s.cancel_staging(&id))
    }

    fn complete_staging(&self, id: String) -> Pending<Staged> {
        self.answer(|s| s.complete_staging(&id))
    }

    fn types(&self) -> Pending<TypeList> {
        self.answer(|s| {
            let types = s.types.keys().map(|name| s.volume_type(name)).collect::<Result<_, _>>()?;
            Ok(TypeList { types })
        })
    }

    fn volume_type(&self, name: String) -> Pending<VolumeType> {
        self.answer(|s| s.volume_type(&name))
    }

    fn create_type(&self, request: CreateType) -> Pending<VolumeType> {
        self.answer(|s| s.create_type(request))
    }

    fn edit_type(&self, name: String, request: EditType) -> Pending<VolumeType> {
        self.answer(|s| s.edit_type(&name, request))
    }

    fn delete_type(&self, name: String) -> Pending<()> {
        self.answer(|s| s.delete_type(&name))
    }

    fn qos_policies(&self) -> Pending<QosPolicyList> {
        self.answer(|s| {
            let rules = s.policies.keys().map(|name| s.policy(name)).collect::<Result<_, _>>()?;
            Ok(QosPolicyList { rules })
        })
    }

    fn qos_policy(&self, name: String) -> Pending<QosPolicy> {
        self.answer(|s| s.policy(&name))
    }

    fn create_qos_policy(&self, request: CreateQosPolicy) -> Pending<QosPolicy> {
        self.answer(|s| s.create_policy(request))
    }

    fn edit_qos_policy(&self, name: String, request: EditQosPolicy) -> Pending<QosPolicy> {
        self.answer(|s| s.edit_policy(&name, request))
    }

    fn delete_qos_policy(&self, name: String) -> Pending<()> {
        self.answer(|s| s.delete_policy(&name))
    }

    fn pools(&self) -> Pending<PoolList> {
        self.answer(|s| Ok(s.pool_list()))
    }

    fn pool(&self, name: Option<String>) -> Pending<PoolStatus> {
        self.answer(|s| s.pool_status(name.as_deref()))
    }

    fn create_pool(&self, request: CreatePool) -> Pending<PoolEntry> {
        self.answer(|s| s.create_pool(request))
    }

    fn grow_pool(&self, name: String, request: GrowPool) -> Pending<PoolStatus> {
        self.answer(|s| s.grow_pool(&name, request))
    }

    fn remove_pool(&self, name: String) -> Pending<()> {
        self.answer(|s| s.remove_pool(&name))
    }

    fn check(&self, name: Option<String>, data: bool) -> Pending<CheckReport> {
        self.answer(|s| s.check(name.as_deref(), data))
    }

    fn scrub(&self, name: Option<String>) -> Pending<Scrub> {
        self.answer(|s| s.scrub(name.as_deref()))
    }

    fn start_scrub(&self, name: Option<String>, request: StartScrub) -> Pending<Scrub> {
        self.answer(|s| s.start_scrub(name.as_deref(), &request))
    }

    fn stop_scrub(&self, name: Option<String>) -> Pending<Scrub> {
        self.answer(|s| s.stop_scrub(name.as_deref()))
    }
}
