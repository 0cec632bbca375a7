//! Stagings: volumes that clients fill before anybody sees them.

use axum::http::StatusCode;
use cairn_api::error::ErrorBody;
use cairn_api::staging::{CreateStaging, Staged, Staging};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Failure, Length, Shared};
use crate::control::reply::{Input, Path};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create_staging))
        .routes(routes!(cancel_staging))
        .routes(routes!(complete_staging))
}

/// Begin to fill a volume: its contents are then written to an NBD export.
#[utoipa::path(post, path = "/v1/stagings", tag = "stagings", request_body = CreateStaging, responses(
    (status = 201, description = "The staging, to connect to within ten seconds", body = Staging),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_staging(c: Control, Input(request): Input<CreateStaging>) -> Answer<Staging> {
    c.created(|e| e.create_staging(request)).await
}

/// Give up a staging: what was written goes away.
#[utoipa::path(delete, path = "/v1/stagings/{id}", tag = "stagings",
    params(("id" = String, Path, description = "The staging")), responses(
    (status = 204, description = "It is gone"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn cancel_staging(c: Control, Path(id): Path<String>) -> Result<StatusCode, Failure> {
    c.gone(|e| e.cancel_staging(id)).await
}

/// End a staging: connections to its export are closed, and it becomes a volume, or replaces what a volume holds. The
/// latter keeps that as an automatic snapshot.
#[utoipa::path(post, path = "/v1/stagings/{id}/complete", tag = "stagings",
    params(("id" = String, Path, description = "The staging")), responses(
    (status = 200, description = "The volume, and what it held before", body = Staged),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn complete_staging(c: Control, Path(id): Path<String>) -> Answer<Staged> {
    c.ok(Length::Drain, |e| e.complete_staging(id)).await
}
