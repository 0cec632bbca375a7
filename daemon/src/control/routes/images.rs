//! Images, and importing them.

use axum::http::StatusCode;
use cairn_api::error::ErrorBody;
use cairn_api::image::{
    CreateImage, CreateImport, DeleteImageQuery, EditImage, GrowImport, Image, ImageList, ImageQuery, Import,
    PassingSnapshot,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Failure, Length, Shared};
use crate::control::reply::{Input, ListQuery, Path, Query};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_images, create_image))
        .routes(routes!(show_image, edit_image, delete_image))
        .routes(routes!(create_import))
        .routes(routes!(cancel_import))
        .routes(routes!(grow_import))
        .routes(routes!(complete_import))
        .routes(routes!(take_passing_snapshot))
}

/// List images, those that are being imported included: all, or those to which all of the query applies, in pages where there
/// is a limit.
#[utoipa::path(get, path = "/v1/images", tag = "images", params(ImageQuery), responses(
    (status = 200, description = "The images, by name unless another order is asked for", body = ImageList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_images(c: Control, ListQuery(query): ListQuery<ImageQuery>) -> Answer<ImageList> {
    c.ok(Length::Short, |e| e.images(query)).await
}

/// Make an image of a volume or a snapshot. Nothing is copied.
#[utoipa::path(post, path = "/v1/images", tag = "images", request_body = CreateImage, responses(
    (status = 201, description = "The new image", body = Image),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_image(c: Control, Input(request): Input<CreateImage>) -> Answer<Image> {
    c.created(|e| e.create_image(request)).await
}

/// Show an image.
#[utoipa::path(get, path = "/v1/images/{name}", tag = "images",
    params(("name" = String, Path, description = "The image")), responses(
    (status = 200, description = "The image", body = Image),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_image(c: Control, Path(name): Path<String>) -> Answer<Image> {
    c.ok(Length::Short, |e| e.image(name)).await
}

/// Name or describe an image differently, or change what it asks for. Its contents stay.
#[utoipa::path(patch, path = "/v1/images/{name}", tag = "images", request_body = EditImage,
    params(("name" = String, Path, description = "The image")), responses(
    (status = 200, description = "The image as it is now", body = Image),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn edit_image(c: Control, Path(name): Path<String>, Input(request): Input<EditImage>) -> Answer<Image> {
    c.ok(Length::Short, |e| e.edit_image(name, request)).await
}

/// Delete an image that is not protected. Volumes that were made from it live on.
#[utoipa::path(delete, path = "/v1/images/{name}", tag = "images",
    params(("name" = String, Path, description = "The image"), DeleteImageQuery), responses(
    (status = 204, description = "It is deleted; its space is given back in the background"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn delete_image(
    c: Control,
    Path(name): Path<String>,
    Query(query): Query<DeleteImageQuery>,
) -> Result<StatusCode, Failure> {
    c.gone(|e| e.delete_image(name, query.force)).await
}

/// Begin to import an image: its contents are then written to an NBD export.
#[utoipa::path(post, path = "/v1/imports", tag = "images", request_body = CreateImport, responses(
    (status = 201, description = "The import, to connect to within ten seconds", body = Import),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_import(c: Control, Input(request): Input<CreateImport>) -> Answer<Import> {
    c.created(|e| e.create_import(request)).await
}

/// Give up an import: what was written goes away.
#[utoipa::path(delete, path = "/v1/imports/{name}", tag = "images",
    params(("name" = String, Path, description = "The image")), responses(
    (status = 204, description = "There is no such image any more"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn cancel_import(c: Control, Path(name): Path<String>) -> Result<StatusCode, Failure> {
    c.gone(|e| e.cancel_import(name)).await
}

/// Make an image larger while it is being imported.
#[utoipa::path(post, path = "/v1/imports/{name}/grow", tag = "images", request_body = GrowImport,
    params(("name" = String, Path, description = "The image")), responses(
    (status = 200, description = "The image so far", body = Image),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn grow_import(
    c: Control,
    Path(name): Path<String>,
    Input(request): Input<GrowImport>,
) -> Answer<Image> {
    c.ok(Length::Short, |e| e.grow_import(name, request.size)).await
}

/// End an import: connections to its export are closed, and the image never changes from then on.
#[utoipa::path(post, path = "/v1/imports/{name}/complete", tag = "images",
    params(("name" = String, Path, description = "The image")), responses(
    (status = 200, description = "The image", body = Image),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn complete_import(c: Control, Path(name): Path<String>) -> Answer<Image> {
    c.ok(Length::Drain, |e| e.complete_import(name)).await
}

/// Take a snapshot that goes away when nobody has been connected to it for ten seconds.
#[utoipa::path(post, path = "/v1/volumes/{name}/passing-snapshot", tag = "images",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 201, description = "The snapshot, to connect to within ten seconds", body = PassingSnapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn take_passing_snapshot(c: Control, Path(name): Path<String>) -> Answer<PassingSnapshot> {
    c.created(|e| e.passing_snapshot(name)).await
}
