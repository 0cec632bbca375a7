//! Snapshots, clones, rollbacks and differences.

use axum::http::StatusCode;
use cairn_api::error::ErrorBody;
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, Diff, DiffQuery, EditSnapshot, ResetSnapshotStatus, Rollback,
    RolledBack, Snapshot, SnapshotList, SnapshotQuery,
};
use cairn_api::volume::{CloneSnapshot, CreateVolume, SnapshotRef, Volume};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Failure, Length, Shared};
use crate::control::reply::{Input, ListQuery, OptionalInput, Path, Query};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_volume_snapshots, create_snapshot))
        .routes(routes!(show_snapshot, edit_snapshot, delete_snapshot))
        .routes(routes!(reset_snapshot_status))
        .routes(routes!(hold_snapshot))
        .routes(routes!(release_snapshot))
        .routes(routes!(clone_snapshot))
        .routes(routes!(rollback))
        .routes(routes!(show_diff))
        .routes(routes!(list_snapshots, create_group))
}

/// List a volume's snapshots.
#[utoipa::path(get, path = "/v1/volumes/{name}/snapshots", tag = "snapshots",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The snapshots, oldest first", body = SnapshotList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_volume_snapshots(c: Control, Path(name): Path<String>) -> Answer<SnapshotList> {
    let query = SnapshotQuery { volume: Some(name), ..SnapshotQuery::default() };
    c.ok(Length::Short, |e| e.snapshots(query)).await
}

/// Take a snapshot of a volume. Clients need not pause.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots", tag = "snapshots", request_body = CreateSnapshot,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 201, description = "The new snapshot", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_snapshot(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<CreateSnapshot>,
) -> Answer<Snapshot> {
    c.created(|e| e.create_snapshot(name, request)).await
}

/// Show a snapshot.
#[utoipa::path(get, path = "/v1/volumes/{name}/snapshots/{snapshot_name}", tag = "snapshots",
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot")), responses(
    (status = 200, description = "The snapshot", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_snapshot(c: Control, Path((name, snapshot)): Path<(String, String)>) -> Answer<Snapshot> {
    c.ok(Length::Short, |e| e.snapshot(name, snapshot)).await
}

/// Say something else about a snapshot: what is left out stays. Its contents never change.
#[utoipa::path(patch, path = "/v1/volumes/{name}/snapshots/{snapshot_name}", tag = "snapshots",
    request_body = EditSnapshot,
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot")), responses(
    (status = 200, description = "The snapshot as it is now", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn edit_snapshot(
    c: Control,
    Path((name, snapshot)): Path<(String, String)>,
    Input(request): Input<EditSnapshot>,
) -> Answer<Snapshot> {
    c.ok(Length::Short, |e| e.edit_snapshot(name, snapshot, request)).await
}

/// Set a snapshot's status: in error, or available again.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots/{snapshot_name}/reset-status", tag = "snapshots",
    request_body = ResetSnapshotStatus,
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot")), responses(
    (status = 200, description = "The snapshot as it is now", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn reset_snapshot_status(
    c: Control,
    Path((name, snapshot)): Path<(String, String)>,
    Input(request): Input<ResetSnapshotStatus>,
) -> Answer<Snapshot> {
    c.ok(Length::Short, |e| e.reset_snapshot_status(name, snapshot, request)).await
}

/// Forbid to delete a snapshot until it is released.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots/{snapshot_name}/holds", tag = "snapshots",
    request_body = CreateHold,
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot")), responses(
    (status = 201, description = "The snapshot with its holds", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn hold_snapshot(
    c: Control,
    Path((name, snapshot)): Path<(String, String)>,
    Input(request): Input<CreateHold>,
) -> Answer<Snapshot> {
    c.created(|e| e.hold_snapshot(name, snapshot, request)).await
}

/// Release a snapshot: it can be deleted when nothing else holds it.
#[utoipa::path(delete, path = "/v1/volumes/{name}/snapshots/{snapshot_name}/holds/{hold_name}", tag = "snapshots",
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot"),
        ("hold_name" = String, Path, description = "The hold")), responses(
    (status = 200, description = "The snapshot with the holds that are left", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn release_snapshot(
    c: Control,
    Path((name, snapshot, hold)): Path<(String, String, String)>,
) -> Answer<Snapshot> {
    c.ok(Length::Short, |e| e.release_snapshot(name, snapshot, hold)).await
}

/// Delete a snapshot that no NBD client is connected to. Volumes cloned from it live on.
#[utoipa::path(delete, path = "/v1/volumes/{name}/snapshots/{snapshot_name}", tag = "snapshots",
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot")), responses(
    (status = 204, description = "It is deleted; its space is given back in the background"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn delete_snapshot(
    c: Control,
    Path((name, snapshot)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    c.gone(|e| e.delete_snapshot(name, snapshot)).await
}

/// Clone a snapshot as a new, independent volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots/{snapshot_name}/clone", tag = "snapshots",
    request_body = CloneSnapshot,
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot")), responses(
    (status = 201, description = "The new volume", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn clone_snapshot(
    c: Control,
    Path((volume, snapshot)): Path<(String, String)>,
    Input(request): Input<CloneSnapshot>,
) -> Answer<Volume> {
    let request = CreateVolume {
        name: request.name,
        size: request.size,
        description: request.description,
        source: Some(SnapshotRef { volume, snapshot }),
        tags: request.tags,
        client_token: request.client_token,
        ..CreateVolume::default()
    };
    c.created(|e| e.create_volume(request)).await
}

/// Roll a volume back to one of its snapshots. What it held is kept as an automatic snapshot; newer snapshots stay.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots/{snapshot_name}/rollback", tag = "snapshots",
    request_body(content = Option<Rollback>),
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot")), responses(
    (status = 200, description = "The volume, and the snapshot that undoes the rollback", body = RolledBack),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn rollback(
    c: Control,
    Path((name, snapshot)): Path<(String, String)>,
    OptionalInput(request): OptionalInput<Rollback>,
) -> Answer<RolledBack> {
    c.ok(Length::Short, |e| e.rollback(name, snapshot, request)).await
}

/// Show which ranges differ between a snapshot and another one of its volume, or the volume's head.
#[utoipa::path(get, path = "/v1/volumes/{name}/snapshots/{snapshot_name}/diff", tag = "snapshots",
    params(("name" = String, Path, description = "The volume"),
        ("snapshot_name" = String, Path, description = "The snapshot"), DiffQuery), responses(
    (status = 200, description = "One page of the ranges that differ", body = Diff),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_diff(
    c: Control,
    Path((name, snapshot)): Path<(String, String)>,
    Query(query): Query<DiffQuery>,
) -> Answer<Diff> {
    c.ok(Length::Long, |e| e.diff(name, snapshot, query)).await
}

/// List snapshots: of all volumes, or those to which all of the query applies, in pages where there is a limit.
#[utoipa::path(get, path = "/v1/snapshots", tag = "snapshots", params(SnapshotQuery), responses(
    (status = 200, description = "The snapshots, by volume and oldest first unless another order is asked for",
        body = SnapshotList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_snapshots(c: Control, ListQuery(query): ListQuery<SnapshotQuery>) -> Answer<SnapshotList> {
    c.ok(Length::Short, |e| e.snapshots(query)).await
}

/// Take snapshots of several volumes at one moment: all are made, or none.
#[utoipa::path(post, path = "/v1/snapshots", tag = "snapshots", request_body = CreateGroup, responses(
    (status = 201, description = "The new snapshots, in the request's order", body = SnapshotList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_group(c: Control, Input(request): Input<CreateGroup>) -> Answer<SnapshotList> {
    c.created(|e| e.create_group(request)).await
}
