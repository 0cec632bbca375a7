//! Who uses a volume.

use cairn_api::attachment::{Attach, Attachment, AttachmentList, Detach};
use cairn_api::error::ErrorBody;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Length, Shared};
use crate::control::reply::{OptionalInput, Path};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_attachments))
        .routes(routes!(attach))
        .routes(routes!(detach))
        .routes(routes!(reset_attachments))
}

/// List who uses a volume and its snapshots.
#[utoipa::path(get, path = "/v1/volumes/{name}/attachments", tag = "attachments",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume's consumers, then its snapshots'", body = AttachmentList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_attachments(c: Control, Path(name): Path<String>) -> Answer<AttachmentList> {
    c.ok(Length::Short, |e| e.attachments(name)).await
}

/// Attach a volume or one of its snapshots to this machine's kernel.
#[utoipa::path(post, path = "/v1/volumes/{name}/attach", tag = "attachments",
    request_body(content = Option<Attach>),
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 201, description = "The attachment; its consumer names the device", body = Attachment),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn attach(
    c: Control,
    Path(name): Path<String>,
    OptionalInput(request): OptionalInput<Attach>,
) -> Answer<Attachment> {
    c.created(|e| e.attach(name, request)).await
}

/// End the use of a volume or one of its snapshots. It answers when nobody uses it any more: without `force` once
/// what was asked of the disk is answered, however long that takes.
#[utoipa::path(post, path = "/v1/volumes/{name}/detach", tag = "attachments",
    request_body(content = Option<Detach>),
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "Who still uses the volume or its other snapshots", body = AttachmentList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn detach(
    c: Control,
    Path(name): Path<String>,
    OptionalInput(request): OptionalInput<Detach>,
) -> Answer<AttachmentList> {
    c.ok(Length::Drain, |e| e.detach(name, request)).await
}

/// Forget every use of a volume and its snapshots, whatever state it is in. Connections are cut.
#[utoipa::path(post, path = "/v1/volumes/{name}/reset-attachments", tag = "attachments",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "Who uses it now: nobody, or who came back already", body = AttachmentList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn reset_attachments(c: Control, Path(name): Path<String>) -> Answer<AttachmentList> {
    c.ok(Length::Short, |e| e.reset_attachments(name)).await
}
