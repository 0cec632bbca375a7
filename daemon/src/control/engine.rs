//! What the routes need from whatever stands behind them.

use std::pin::Pin;

use cairn_api::error::ApiError;
use cairn_api::info::Info;
use cairn_api::pool::{CheckReport, PoolStatus};
use cairn_api::snapshot::{
    CreateGroup, CreateSnapshot, Diff, DiffQuery, Rollback, RolledBack, Snapshot, SnapshotList, Tree,
};
use cairn_api::volume::{CreateVolume, Volume, VolumeList};

/// An answer under way. Boxed, since the control side does hundreds of calls a second at most and the trait stays
/// usable as `dyn`.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'static>>;

/// The operations of the API. Every one that changes something resolves once the change is durable.
///
/// Names arrive as the client wrote them: the engine checks them.
pub trait Engine: Send + Sync + 'static {
    /// What the daemon is and where it listens.
    fn info(&self) -> Info;

    /// All volumes, by name.
    fn volumes(&self) -> Pending<VolumeList>;
    /// One volume.
    fn volume(&self, name: String) -> Pending<Volume>;
    /// A new volume, blank or cloned from a snapshot.
    fn create_volume(&self, request: CreateVolume) -> Pending<Volume>;
    /// Grows a volume to `size` bytes.
    fn resize_volume(&self, name: String, size: u64) -> Pending<Volume>;
    /// Deletes a volume nobody is connected to, if asked for with its snapshots.
    fn delete_volume(&self, name: String, with_snapshots: bool) -> Pending<()>;
    /// The version tree around a volume.
    fn tree(&self, volume: String) -> Pending<Tree>;

    /// All snapshots, or one volume's.
    fn snapshots(&self, volume: Option<String>) -> Pending<SnapshotList>;
    /// One snapshot.
    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot>;
    /// A snapshot of one volume.
    fn create_snapshot(&self, volume: String, request: CreateSnapshot) -> Pending<Snapshot>;
    /// Snapshots of several volumes at one moment, in the request's order.
    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList>;
    /// Deletes a snapshot nobody is connected to.
    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()>;
    /// Makes a volume's contents those of its snapshot, keeping what was.
    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack>;
    /// What differs between a snapshot and another one, or the head.
    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff>;

    /// The pool's figures.
    fn pool(&self) -> Pending<PoolStatus>;
    /// Checks the whole pool, with `data` every data block too.
    fn check(&self, data: bool) -> Pending<CheckReport>;
}
