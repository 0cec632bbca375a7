//! The API's routes, and the OpenAPI document that is generated from the same lines.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use cairn_api::error::ErrorBody;
use cairn_api::info::Info;
use cairn_api::path;
use cairn_api::pool::{CheckQuery, CheckReport, PoolStatus};
use cairn_api::snapshot::{
    CreateGroup, CreateSnapshot, Diff, DiffQuery, Rollback, RolledBack, Snapshot, SnapshotList,
    SnapshotQuery, Tree,
};
use cairn_api::volume::{
    CloneSnapshot, CreateVolume, DeleteVolumeQuery, ResizeVolume, SnapshotRef, Volume, VolumeList,
};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::engine::Engine;
use super::gate::{Gate, Length};
use super::reply::{self, Failure, Input, Json, OptionalInput, Path, Query};

/// What every handler sees.
#[derive(Clone)]
struct Control {
    engine: Arc<dyn Engine>,
    gate: Arc<Gate>,
    /// As JSON, once for all: it is the same for every client.
    document: Bytes,
}

type Answer<T> = Result<Json<T>, Failure>;

#[derive(OpenApi)]
#[openapi(info(
    title = "cairn control API",
    description = "Volumes, snapshots and the pool of a cairnd, over its control socket.\n\n\
        Sizes and offsets are bytes. Times are RFC 3339 in UTC. Every answer with a status of 400 or higher has \
        the same body: a stable code, a message, and where there is one a hint at what to do.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
))]
struct Document;

/// The API over `engine`.
pub fn router(engine: Arc<dyn Engine>) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let control = Control { engine, gate: Arc::new(Gate::new()), document };
    router
        .route(path::OPENAPI, get(document_json))
        .fallback(reply::no_such_route)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .with_state(control)
}

/// The API's description, as `/v1/openapi.json` serves it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list_volumes, create_volume))
        .routes(routes!(show_volume, delete_volume))
        .routes(routes!(resize_volume))
        .routes(routes!(show_tree))
        .routes(routes!(list_volume_snapshots, create_snapshot))
        .routes(routes!(show_snapshot, delete_snapshot))
        .routes(routes!(clone_snapshot))
        .routes(routes!(rollback))
        .routes(routes!(show_diff))
        .routes(routes!(list_snapshots, create_group))
        .routes(routes!(pool_status))
        .routes(routes!(pool_check))
        .routes(routes!(show_info))
}

/// List all volumes.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", responses(
    (status = 200, description = "The volumes, by name", body = VolumeList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_volumes(State(c): State<Control>) -> Answer<VolumeList> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.volumes()).await?))
}

/// Create a volume, blank or cloned from a snapshot.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", request_body = CreateVolume, responses(
    (status = 201, description = "The new volume", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_volume(State(c): State<Control>, Input(request): Input<CreateVolume>) -> Answer<Volume> {
    Ok(Json(StatusCode::CREATED, c.gate.run(Length::Short, || c.engine.create_volume(request)).await?))
}

/// Show a volume.
#[utoipa::path(get, path = "/v1/volumes/{name}", tag = "volumes",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_volume(State(c): State<Control>, Path(name): Path<String>) -> Answer<Volume> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.volume(name)).await?))
}

/// Delete a volume that no NBD client is connected to.
#[utoipa::path(delete, path = "/v1/volumes/{name}", tag = "volumes",
    params(("name" = String, Path, description = "The volume"), DeleteVolumeQuery), responses(
    (status = 204, description = "It is deleted; its space is given back in the background"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn delete_volume(
    State(c): State<Control>,
    Path(name): Path<String>,
    Query(query): Query<DeleteVolumeQuery>,
) -> Result<StatusCode, Failure> {
    c.gate.run(Length::Short, || c.engine.delete_volume(name, query.snapshots)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Grow a volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/resize", tag = "volumes", request_body = ResizeVolume,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The volume with its new size", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn resize_volume(
    State(c): State<Control>,
    Path(name): Path<String>,
    Input(request): Input<ResizeVolume>,
) -> Answer<Volume> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.resize_volume(name, request.size)).await?))
}

/// Show how a volume's snapshots, its head and their clones descend from each other.
#[utoipa::path(get, path = "/v1/volumes/{name}/tree", tag = "volumes",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "Every version connected with the volume, parents before children", body = Tree),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_tree(State(c): State<Control>, Path(name): Path<String>) -> Answer<Tree> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.tree(name)).await?))
}

/// List a volume's snapshots.
#[utoipa::path(get, path = "/v1/volumes/{name}/snapshots", tag = "snapshots",
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 200, description = "The snapshots, oldest first", body = SnapshotList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_volume_snapshots(State(c): State<Control>, Path(name): Path<String>) -> Answer<SnapshotList> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.snapshots(Some(name))).await?))
}

/// Take a snapshot of a volume. Clients need not pause.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots", tag = "snapshots", request_body = CreateSnapshot,
    params(("name" = String, Path, description = "The volume")), responses(
    (status = 201, description = "The new snapshot", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_snapshot(
    State(c): State<Control>,
    Path(name): Path<String>,
    Input(request): Input<CreateSnapshot>,
) -> Answer<Snapshot> {
    Ok(Json(
        StatusCode::CREATED,
        c.gate.run(Length::Short, || c.engine.create_snapshot(name, request)).await?,
    ))
}

/// Show a snapshot.
#[utoipa::path(get, path = "/v1/volumes/{name}/snapshots/{snapshot}", tag = "snapshots",
    params(("name" = String, Path, description = "The volume"),
        ("snapshot" = String, Path, description = "The snapshot")), responses(
    (status = 200, description = "The snapshot", body = Snapshot),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_snapshot(
    State(c): State<Control>,
    Path((name, snapshot)): Path<(String, String)>,
) -> Answer<Snapshot> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.snapshot(name, snapshot)).await?))
}

/// Delete a snapshot that no NBD client is connected to. Volumes cloned from it live on.
#[utoipa::path(delete, path = "/v1/volumes/{name}/snapshots/{snapshot}", tag = "snapshots",
    params(("name" = String, Path, description = "The volume"),
        ("snapshot" = String, Path, description = "The snapshot")), responses(
    (status = 204, description = "It is deleted; its space is given back in the background"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn delete_snapshot(
    State(c): State<Control>,
    Path((name, snapshot)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    c.gate.run(Length::Short, || c.engine.delete_snapshot(name, snapshot)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Clone a snapshot as a new, independent volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots/{snapshot}/clone", tag = "snapshots",
    request_body = CloneSnapshot,
    params(("name" = String, Path, description = "The volume"),
        ("snapshot" = String, Path, description = "The snapshot")), responses(
    (status = 201, description = "The new volume", body = Volume),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn clone_snapshot(
    State(c): State<Control>,
    Path((volume, snapshot)): Path<(String, String)>,
    Input(request): Input<CloneSnapshot>,
) -> Answer<Volume> {
    let request = CreateVolume {
        name: request.name,
        size: request.size,
        description: request.description,
        source: Some(SnapshotRef { volume, snapshot }),
    };
    Ok(Json(StatusCode::CREATED, c.gate.run(Length::Short, || c.engine.create_volume(request)).await?))
}

/// Roll a volume back to one of its snapshots. What it held is kept as an automatic snapshot; newer snapshots stay.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots/{snapshot}/rollback", tag = "snapshots",
    request_body(content = Option<Rollback>),
    params(("name" = String, Path, description = "The volume"),
        ("snapshot" = String, Path, description = "The snapshot")), responses(
    (status = 200, description = "The volume, and the snapshot that undoes the rollback", body = RolledBack),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn rollback(
    State(c): State<Control>,
    Path((name, snapshot)): Path<(String, String)>,
    OptionalInput(request): OptionalInput<Rollback>,
) -> Answer<RolledBack> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.rollback(name, snapshot, request)).await?))
}

/// Show which ranges differ between a snapshot and another one of its volume, or the volume's head.
#[utoipa::path(get, path = "/v1/volumes/{name}/snapshots/{snapshot}/diff", tag = "snapshots",
    params(("name" = String, Path, description = "The volume"),
        ("snapshot" = String, Path, description = "The snapshot"), DiffQuery), responses(
    (status = 200, description = "One page of the ranges that differ", body = Diff),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_diff(
    State(c): State<Control>,
    Path((name, snapshot)): Path<(String, String)>,
    Query(query): Query<DiffQuery>,
) -> Answer<Diff> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Long, || c.engine.diff(name, snapshot, query)).await?))
}

/// List the snapshots of all volumes.
#[utoipa::path(get, path = "/v1/snapshots", tag = "snapshots", params(SnapshotQuery), responses(
    (status = 200, description = "The snapshots, by volume, oldest first", body = SnapshotList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_snapshots(
    State(c): State<Control>,
    Query(query): Query<SnapshotQuery>,
) -> Answer<SnapshotList> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.snapshots(query.volume)).await?))
}

/// Take snapshots of several volumes at one moment: all are made, or none.
#[utoipa::path(post, path = "/v1/snapshots", tag = "snapshots", request_body = CreateGroup, responses(
    (status = 201, description = "The new snapshots, in the request's order", body = SnapshotList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_group(State(c): State<Control>, Input(request): Input<CreateGroup>) -> Answer<SnapshotList> {
    Ok(Json(StatusCode::CREATED, c.gate.run(Length::Short, || c.engine.create_group(request)).await?))
}

/// Show the pool's figures.
#[utoipa::path(get, path = "/v1/pool", tag = "pool", responses(
    (status = 200, description = "The pool's figures", body = PoolStatus),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn pool_status(State(c): State<Control>) -> Answer<PoolStatus> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Short, || c.engine.pool()).await?))
}

/// Check the whole pool while it is in use. One check at a time; it answers when it is done.
#[utoipa::path(post, path = "/v1/pool/check", tag = "pool", params(CheckQuery), responses(
    (status = 200, description = "What was found; `clean` says whether all is well", body = CheckReport),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn pool_check(State(c): State<Control>, Query(query): Query<CheckQuery>) -> Answer<CheckReport> {
    Ok(Json(StatusCode::OK, c.gate.run(Length::Long, || c.engine.check(query.data)).await?))
}

/// Show what the daemon is and where it listens.
#[utoipa::path(get, path = "/v1/info", tag = "daemon", responses(
    (status = 200, description = "The daemon", body = Info),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_info(State(c): State<Control>) -> Json<Info> {
    Json(StatusCode::OK, c.engine.info())
}

async fn document_json(State(c): State<Control>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], c.document)
}
