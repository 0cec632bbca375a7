//! What the routes need from whatever stands behind them.

use std::pin::Pin;
use std::sync::Arc;

use cairn_api::attachment::{Attach, Attachment, AttachmentList, Detach};
use cairn_api::error::ApiError;
use cairn_api::image::{
    CreateImage, CreateImport, EditImage, Image, ImageList, ImageQuery, Import, PassingSnapshot,
};
use cairn_api::info::Info;
use cairn_api::job::{Job, JobList, JobQuery};
use cairn_api::pool::{CreatePool, GrowPool, PoolEntry, PoolList, PoolStatus, Scrub, StartScrub};
use cairn_api::recycle::{Recover, RecycleBin, SetRecycleBin};
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, Diff, DiffQuery, EditSnapshot, ResetSnapshotStatus, Rollback,
    RolledBack, Snapshot, SnapshotList, SnapshotQuery, Tree,
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

use crate::events::Events;

/// An answer under way. Boxed, since the control side does hundreds of calls a second at most and the trait stays
/// usable as `dyn`.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'static>>;

/// The operations of the API. Every one that changes something resolves once the change is durable.
///
/// Names arrive as the client wrote them: the engine checks them.
pub trait Engine: Send + Sync + 'static {
    /// What happened, and what happens.
    fn events(&self) -> Arc<Events>;

    /// What the daemon is and where it listens.
    fn info(&self) -> Info;

    /// What volumes' clients have done.
    fn stats(&self) -> Pending<Stats>;

    /// The volumes that are asked for.
    fn volumes(&self, query: VolumeQuery) -> Pending<VolumeList>;
    /// One volume.
    fn volume(&self, name: String) -> Pending<Volume>;
    /// A new volume, blank or cloned from a snapshot.
    fn create_volume(&self, request: CreateVolume) -> Pending<Volume>;
    /// A new volume that holds a backup and serves at once.
    fn create_restore(&self, request: CreateRestore) -> Pending<Volume>;
    /// Says something else about a volume.
    fn edit_volume(&self, name: String, request: EditVolume) -> Pending<Volume>;
    /// Gives a volume another type, which holds at once.
    fn retype_volume(&self, name: String, request: Retype) -> Pending<Volume>;
    /// Says what is to be thought of a volume.
    fn reset_status(&self, name: String, request: ResetStatus) -> Pending<Volume>;
    /// A volume's limits.
    fn volume_qos(&self, name: String) -> Pending<VolumeQos>;
    /// Changes a volume's own limits, which hold at once.
    fn set_volume_qos(&self, name: String, request: SetVolumeQos) -> Pending<VolumeQos>;
    /// Who uses a volume and its snapshots.
    fn attachments(&self, volume: String) -> Pending<AttachmentList>;
    /// Attaches a volume or snapshot to this machine's kernel.
    fn attach(&self, volume: String, request: Attach) -> Pending<Attachment>;
    /// Ends the use of a volume or snapshot; resolves when nobody uses it any more.
    fn detach(&self, volume: String, request: Detach) -> Pending<AttachmentList>;
    /// Forgets every use of a volume and its snapshots, whatever state it is in.
    fn reset_attachments(&self, volume: String) -> Pending<AttachmentList>;
    /// Grows a volume to `size` bytes.
    fn resize_volume(&self, name: String, size: u64) -> Pending<Volume>;
    /// Deletes a volume nobody is connected to, if asked for with its snapshots, or puts it into the recycle bin.
    fn delete_volume(&self, name: String, query: DeleteVolumeQuery) -> Pending<()>;
    /// What was deleted and can still be had back.
    fn recycle_bin(&self) -> Pending<RecycleBin>;
    /// Says for how long deleted volumes are kept.
    fn set_recycle_bin(&self, request: SetRecycleBin) -> Pending<RecycleBin>;
    /// Makes what was deleted a volume again.
    fn recover(&self, id: String, request: Recover) -> Pending<Volume>;
    /// Deletes what is in the bin for good.
    fn purge(&self, id: String) -> Pending<()>;
    /// Deletes what has been in the bin for long enough. To be called now and then.
    fn expire(&self) -> Pending<()>;
    /// The version tree around a volume.
    fn tree(&self, volume: String) -> Pending<Tree>;

    /// The snapshots that are asked for.
    fn snapshots(&self, query: SnapshotQuery) -> Pending<SnapshotList>;
    /// One snapshot.
    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot>;
    /// A snapshot of one volume.
    fn create_snapshot(&self, volume: String, request: CreateSnapshot) -> Pending<Snapshot>;
    /// Snapshots of several volumes at one moment, in the request's order.
    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList>;
    /// Says something else about a snapshot.
    fn edit_snapshot(&self, volume: String, name: String, request: EditSnapshot) -> Pending<Snapshot>;
    /// Says what is to be thought of a snapshot.
    fn reset_snapshot_status(
        &self,
        volume: String,
        name: String,
        request: ResetSnapshotStatus,
    ) -> Pending<Snapshot>;
    /// Forbids to delete a snapshot.
    fn hold_snapshot(&self, volume: String, name: String, request: CreateHold) -> Pending<Snapshot>;
    /// Takes a hold away.
    fn release_snapshot(&self, volume: String, name: String, hold: String) -> Pending<Snapshot>;
    /// Deletes a snapshot that nobody is connected to and nothing holds.
    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()>;
    /// Makes a volume's contents those of its snapshot, keeping what was.
    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack>;
    /// What differs between a snapshot and another one, or the head.
    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff>;

    /// The images that are asked for.
    fn images(&self, query: ImageQuery) -> Pending<ImageList>;
    /// One image.
    fn image(&self, name: String) -> Pending<Image>;
    /// An image of a volume or snapshot.
    fn create_image(&self, request: CreateImage) -> Pending<Image>;
    /// Names or describes an image differently.
    fn edit_image(&self, name: String, request: EditImage) -> Pending<Image>;
    /// Deletes an image, with `force` also one in use.
    fn delete_image(&self, name: String, force: bool) -> Pending<()>;
    /// An image to be written over NBD.
    fn create_import(&self, request: CreateImport) -> Pending<Import>;
    /// Gives up writing an image.
    fn cancel_import(&self, name: String) -> Pending<()>;
    /// Makes an image larger that is being written.
    fn grow_import(&self, name: String, size: u64) -> Pending<Image>;
    /// Makes what was written an image.
    fn complete_import(&self, name: String) -> Pending<Image>;
    /// A snapshot that goes away with the client that reads it.
    fn passing_snapshot(&self, volume: String) -> Pending<PassingSnapshot>;

    /// A hidden volume to be written over NBD.
    fn create_staging(&self, request: CreateStaging) -> Pending<Staging>;
    /// Gives up writing a hidden volume.
    fn cancel_staging(&self, id: String) -> Pending<()>;
    /// Makes what was written a volume, or what a volume holds.
    fn complete_staging(&self, id: String) -> Pending<Staged>;

    /// All types.
    fn types(&self) -> Pending<TypeList>;
    /// One type.
    fn volume_type(&self, name: String) -> Pending<VolumeType>;
    /// A new type.
    fn create_type(&self, request: CreateType) -> Pending<VolumeType>;
    /// Changes a type, for its volumes at once.
    fn edit_type(&self, name: String, request: EditType) -> Pending<VolumeType>;
    /// Deletes a type that no volume has.
    fn delete_type(&self, name: String) -> Pending<()>;

    /// All QoS rules.
    fn qos_policies(&self) -> Pending<QosPolicyList>;
    /// One QoS rule.
    fn qos_policy(&self, name: String) -> Pending<QosPolicy>;
    /// A new QoS rule.
    fn create_qos_policy(&self, request: CreateQosPolicy) -> Pending<QosPolicy>;
    /// Changes a QoS rule, for all volumes it holds for at once.
    fn edit_qos_policy(&self, name: String, request: EditQosPolicy) -> Pending<QosPolicy>;
    /// Deletes a QoS rule that no type points to.
    fn delete_qos_policy(&self, name: String) -> Pending<()>;

    /// All pools.
    fn pools(&self) -> Pending<PoolList>;
    /// A pool's figures; of the first one without a name.
    fn pool(&self, name: Option<String>) -> Pending<PoolStatus>;
    /// Another pool, new or with what it holds.
    fn create_pool(&self, request: CreatePool) -> Pending<PoolEntry>;
    /// Lets a pool grow further.
    fn grow_pool(&self, name: String, request: GrowPool) -> Pending<PoolStatus>;
    /// Forgets a pool without volumes; its file stays.
    fn remove_pool(&self, name: String) -> Pending<()>;
    /// Begins to check a whole pool, with `data` every data block too; the first one without a name.
    fn start_check(&self, name: Option<String>, data: bool) -> Pending<Job>;
    /// A pool's scrub under way, or the last one; of the first pool without a name.
    fn scrub(&self, name: Option<String>) -> Pending<Scrub>;
    /// Begins to read all that a pool holds.
    fn start_scrub(&self, name: Option<String>, request: StartScrub) -> Pending<Scrub>;
    /// Ends a scrub, if one is under way.
    fn stop_scrub(&self, name: Option<String>) -> Pending<Scrub>;

    /// The jobs that are asked for.
    fn jobs(&self, query: JobQuery) -> Pending<JobList>;
    /// One job.
    fn job(&self, id: String) -> Pending<Job>;
    /// Ends a job; resolves when it has ended.
    fn cancel_job(&self, id: String) -> Pending<Job>;
}
