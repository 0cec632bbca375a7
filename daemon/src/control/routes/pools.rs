//! Pools: the files and devices that hold the volumes.
//!
//! `/v1/pool` is the pool that the daemon was started on, for clients that know of one only.

use axum::http::StatusCode;
use cairn_api::error::ErrorBody;
use cairn_api::job::Job;
use cairn_api::pool::{CheckQuery, CreatePool, GrowPool, PoolEntry, PoolList, PoolStatus, Scrub, StartScrub};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Failure, Length, Shared};
use crate::control::reply::{Input, OptionalInput, Path, Query};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(first_status))
        .routes(routes!(first_check))
        .routes(routes!(first_scrub, start_first_scrub, stop_first_scrub))
        .routes(routes!(list_pools, create_pool))
        .routes(routes!(show_pool, remove_pool))
        .routes(routes!(grow_pool))
        .routes(routes!(check_pool))
        .routes(routes!(show_scrub, start_scrub, stop_scrub))
}

/// Show the figures of the first pool.
#[utoipa::path(get, path = "/v1/pool", tag = "pools", responses(
    (status = 200, description = "The pool's figures", body = PoolStatus),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn first_status(c: Control) -> Answer<PoolStatus> {
    c.ok(Length::Short, |e| e.pool(None)).await
}

/// Begin to check the whole first pool while it is in use: a job, whose result says whether all is well.
#[utoipa::path(post, path = "/v1/pool/check", tag = "pools", params(CheckQuery), responses(
    (status = 202, description = "It has begun", body = Job),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn first_check(c: Control, Query(query): Query<CheckQuery>) -> Answer<Job> {
    c.begun(|e| e.start_check(None, query.data)).await
}

/// List all pools.
#[utoipa::path(get, path = "/v1/pools", tag = "pools", responses(
    (status = 200, description = "The first pool, then the others by name", body = PoolList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_pools(c: Control) -> Answer<PoolList> {
    c.ok(Length::Short, |e| e.pools()).await
}

/// Add a pool: a new one, or what a file or device holds already.
#[utoipa::path(post, path = "/v1/pools", tag = "pools", request_body = CreatePool, responses(
    (status = 201, description = "The pool", body = PoolEntry),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn create_pool(c: Control, Input(request): Input<CreatePool>) -> Answer<PoolEntry> {
    c.created(|e| e.create_pool(request)).await
}

/// Show a pool's figures.
#[utoipa::path(get, path = "/v1/pools/{name}", tag = "pools",
    params(("name" = String, Path, description = "The pool")), responses(
    (status = 200, description = "The pool's figures", body = PoolStatus),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_pool(c: Control, Path(name): Path<String>) -> Answer<PoolStatus> {
    c.ok(Length::Short, |e| e.pool(Some(name))).await
}

/// Forget a pool without volumes. Its file stays as it is.
#[utoipa::path(delete, path = "/v1/pools/{name}", tag = "pools",
    params(("name" = String, Path, description = "The pool")), responses(
    (status = 204, description = "The daemon no longer uses it"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn remove_pool(c: Control, Path(name): Path<String>) -> Result<StatusCode, Failure> {
    c.gone(|e| e.remove_pool(name)).await
}

/// Let a pool grow further.
#[utoipa::path(post, path = "/v1/pools/{name}/grow", tag = "pools",
    request_body(content = Option<GrowPool>),
    params(("name" = String, Path, description = "The pool")), responses(
    (status = 200, description = "The pool's figures with its new limit", body = PoolStatus),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn grow_pool(
    c: Control,
    Path(name): Path<String>,
    OptionalInput(request): OptionalInput<GrowPool>,
) -> Answer<PoolStatus> {
    c.ok(Length::Short, |e| e.grow_pool(name, request)).await
}

/// Begin to check a whole pool while it is in use: a job, whose result says whether all is well. One check of a pool at a
/// time.
#[utoipa::path(post, path = "/v1/pools/{name}/check", tag = "pools",
    params(("name" = String, Path, description = "The pool"), CheckQuery), responses(
    (status = 202, description = "It has begun", body = Job),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn check_pool(c: Control, Path(name): Path<String>, Query(query): Query<CheckQuery>) -> Answer<Job> {
    c.begun(|e| e.start_check(Some(name), query.data)).await
}

/// Show the scrub of the first pool: the one under way, or the last one since the daemon started.
#[utoipa::path(get, path = "/v1/pool/scrub", tag = "pools", responses(
    (status = 200, description = "How far it is, and what it found", body = Scrub),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn first_scrub(c: Control) -> Answer<Scrub> {
    c.ok(Length::Short, |e| e.scrub(None)).await
}

/// Read all that the first pool holds, in the background, and compare it with its checksums.
#[utoipa::path(post, path = "/v1/pool/scrub", tag = "pools", request_body(content = Option<StartScrub>), responses(
    (status = 200, description = "It has begun", body = Scrub),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn start_first_scrub(c: Control, OptionalInput(request): OptionalInput<StartScrub>) -> Answer<Scrub> {
    c.ok(Length::Short, |e| e.start_scrub(None, request)).await
}

/// End the scrub of the first pool, if one is under way.
#[utoipa::path(delete, path = "/v1/pool/scrub", tag = "pools", responses(
    (status = 200, description = "How far it got", body = Scrub),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn stop_first_scrub(c: Control) -> Answer<Scrub> {
    c.ok(Length::Short, |e| e.stop_scrub(None)).await
}

/// Show the scrub of a pool: the one under way, or the last one since the daemon started.
#[utoipa::path(get, path = "/v1/pools/{name}/scrub", tag = "pools", params(("name" = String, Path, description = "The pool")), responses(
    (status = 200, description = "How far it is, and what it found", body = Scrub),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_scrub(c: Control, Path(name): Path<String>) -> Answer<Scrub> {
    c.ok(Length::Short, |e| e.scrub(Some(name))).await
}

/// Read all that a pool holds, in the background, and compare it with its checksums.
#[utoipa::path(post, path = "/v1/pools/{name}/scrub", tag = "pools", request_body(content = Option<StartScrub>), params(("name" = String, Path, description = "The pool")), responses(
    (status = 200, description = "It has begun", body = Scrub),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn start_scrub(
    c: Control,
    Path(name): Path<String>,
    OptionalInput(request): OptionalInput<StartScrub>,
) -> Answer<Scrub> {
    c.ok(Length::Short, |e| e.start_scrub(Some(name), request)).await
}

/// End the scrub of a pool, if one is under way.
#[utoipa::path(delete, path = "/v1/pools/{name}/scrub", tag = "pools", params(("name" = String, Path, description = "The pool")), responses(
    (status = 200, description = "How far it got", body = Scrub),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn stop_scrub(c: Control, Path(name): Path<String>) -> Answer<Scrub> {
    c.ok(Length::Short, |e| e.stop_scrub(Some(name))).await
}
