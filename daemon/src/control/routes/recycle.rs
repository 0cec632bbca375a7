//! The recycle bin.

use axum::http::StatusCode;
use cairn_api::error::ErrorBody;
use cairn_api::recycle::{Recover, RecycleBin, SetRecycleBin};
use cairn_api::volume::Volume;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Failure, Length, Shared};
use crate::control::reply::{Input, OptionalInput, Path};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(show_recycle_bin, set_recycle_bin))
        .routes(routes!(recover_volume))
        .routes(routes!(purge_volume))
}

/// Show what was deleted and can still be had back.
#[utoipa::path(get, path = "/v1/recycle-bin", tag = "recycle-bin", responses(
    (status = 200, description = "What is in the bin, and for how long", body = RecycleBin),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_recycle_bin(c: Control) -> Answer<RecycleBin> {
    c.ok(Length::Short, |e| e.recycle_bin()).await
}

/// Say for how long deleted volumes are kept.
#[utoipa::path(patch, path = "/v1/recycle-bin", tag = "recycle-bin", request_body = SetRecycleBin, responses(
    (status = 200, description = "The bin as it is now", body = RecycleBin),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn set_recycle_bin(c: Control, Input(request): Input<SetRecycleBin>) -> Answer<RecycleBin> {
    c.ok(Length::Short, |e| e.set_recycle_bin(request)).await
}

/// Make a deleted volume a volume again, with all its snapshots.
#[utoipa::path(post, path = "/v1/recycle-bin/{id}/recover", tag = "recycle-bin",
    request_body(content = Option<Recover>),
    params(("id" = String, Path, description = "What the volume is called in the bin")), responses(
    (status = 200, description = "The volume", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn recover_volume(
    c: Control,
    Path(id): Path<String>,
    OptionalInput(request): OptionalInput<Recover>,
) -> Answer<Volume> {
    c.ok(Length::Short, |e| e.recover(id, request)).await
}

/// Delete what is in the bin for good.
#[utoipa::path(delete, path = "/v1/recycle-bin/{id}", tag = "recycle-bin",
    params(("id" = String, Path, description = "What the volume is called in the bin")), responses(
    (status = 204, description = "It is gone; its space is given back in the background"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn purge_volume(c: Control, Path(id): Path<String>) -> Result<StatusCode, Failure> {
    c.gone(|e| e.purge(id)).await
}
