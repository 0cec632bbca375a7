//! Volumes, their type and their limits.

use axum::http::StatusCode;
use cairn_api::error::ErrorBody;
use cairn_api::snapshot::Tree;
use cairn_api::types::{Retype, SetVolumeQos, VolumeQos};
use cairn_api::volume::{
    CreateRestore, CreateVolume, DeleteVolumeQuery, EditVolume, ResetStatus, ResizeVolume, Volume,
    VolumeList, VolumeQuery,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Failure, Length, Shared};
use crate::control::reply::{Input, ListQuery, Path, Query};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_volumes, create_volume))
        .routes(routes!(show_volume, edit_volume, delete_volume))
        .routes(routes!(create_restore))
        .routes(routes!(resize_volume))
        .routes(routes!(retype_volume))
        .routes(routes!(reset_status))
        .routes(routes!(show_volume_qos, set_volume_qos))
        .routes(routes!(show_tree))
}

/// List volumes: all, or those to which all of the query applies, in pages where there is a limit.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", params(VolumeQuery), responses(
    (status = 200, description = "The volumes, by name unless another order is asked for", body = VolumeList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_volumes(c: Control, ListQuery(query): ListQuery<VolumeQuery>) -> Answer<VolumeList> {
    c.ok(Length::Short, |e| e.volumes(query)).await
}

/// Create a volume, blank or cloned from a snapshot.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", request_body = CreateVolume, responses(
    (status = 201, description = "The new volume", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_volume(c: Control, Input(request): Input<CreateVolume>) -> Answer<Volume> {
    c.created(|e| e.create_volume(request)).await
}

/// Make a volume of a backup. It serves at once: what is read is fetched first, and the rest in the background. The daemon
/// reads the repository itself, with its own rights and environment, until all is there, also after restarts.
#[utoipa::path(post, path = "/v1/restores", tag = "volumes", request_body = CreateRestore, responses(
    (status = 201, description = "The new volume, of the backup's size", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_restore(c: Control, Input(request): Input<CreateRestore>) -> Answer<Volume> {
    c.created(|e| e.create_restore(request)).await
}

/// Show a volume.
#[utoipa::path(get, path = "/v1/volumes/{name}", tag = "volumes",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_volume(c: Control, Path(name): Path<String>) -> Answer<Volume> {
    c.ok(Length::Short, |e| e.volume(name)).await
}

/// Say something else about a volume: what is left out stays.
#[utoipa::path(patch, path = "/v1/volumes/{name}", tag = "volumes", request_body = EditVolume,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume as it is now", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn edit_volume(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<EditVolume>,
) -> Answer<Volume> {
    c.ok(Length::Short, |e| e.edit_volume(name, request)).await
}

/// Delete a volume that no NBD client is connected to; where there is a recycle bin, it goes there.
#[utoipa::path(delete, path = "/v1/volumes/{name}", tag = "volumes",
    params(("name" = String, Path, description = "The volume"), DeleteVolumeQuery), responses(
    (status = 204, description = "It is deleted; its space is given back in the background"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn delete_volume(
    c: Control,
    Path(name): Path<String>,
    Query(query): Query<DeleteVolumeQuery>,
) -> Result<StatusCode, Failure> {
    c.gone(|e| e.delete_volume(name, query)).await
}

/// Grow a volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/resize", tag = "volumes", request_body = ResizeVolume,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume with its new size", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn resize_volume(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<ResizeVolume>,
) -> Answer<Volume> {
    c.ok(Length::Short, |e| e.resize_volume(name, request.size)).await
}

/// Give a volume another type of the same pool. It holds at once, for connected clients too.
#[utoipa::path(post, path = "/v1/volumes/{name}/retype", tag = "volumes", request_body = Retype,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume with its new type", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn retype_volume(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<Retype>,
) -> Answer<Volume> {
    c.ok(Length::Short, |e| e.retype_volume(name, request)).await
}

/// Set a volume's status: available again after an error, in maintenance so that nobody can connect, or in error.
#[utoipa::path(post, path = "/v1/volumes/{name}/reset-status", tag = "volumes", request_body = ResetStatus,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume as it is now", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn reset_status(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<ResetStatus>,
) -> Answer<Volume> {
    c.ok(Length::Short, |e| e.reset_status(name, request)).await
}

/// Show a volume's limits, where they come from and what they have done.
#[utoipa::path(get, path = "/v1/volumes/{name}/qos", tag = "qos",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The limits", body = VolumeQos),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_volume_qos(c: Control, Path(name): Path<String>) -> Answer<VolumeQos> {
    c.ok(Length::Short, |e| e.volume_qos(name)).await
}

/// Change a volume's own limits, which stand in place of its type's. They hold at once.
#[utoipa::path(patch, path = "/v1/volumes/{name}/qos", tag = "qos", request_body = SetVolumeQos,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The limits as they are now", body = VolumeQos),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn set_volume_qos(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<SetVolumeQos>,
) -> Answer<VolumeQos> {
    c.ok(Length::Short, |e| e.set_volume_qos(name, request)).await
}

/// Show how a volume's snapshots, its head and their clones descend from each other.
#[utoipa::path(get, path = "/v1/volumes/{name}/tree", tag = "volumes",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "Every version connected with the volume, parents before children", body = Tree),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_tree(c: Control, Path(name): Path<String>) -> Answer<Tree> {
    c.ok(Length::Short, |e| e.tree(name)).await
}
