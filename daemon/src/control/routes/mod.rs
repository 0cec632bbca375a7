//! The API's routes, and the OpenAPI document that is generated from the same lines.
//!
//! | room | what it serves |
//! |---|---|
//! | [`volumes`] | volumes, their type and their limits |
//! | [`attachments`] | who uses a volume: attach, detach, reset |
//! | [`snapshots`] | snapshots, clones, rollbacks, differences |
//! | [`images`] | images, and importing them |
//! | [`stagings`] | volumes that are filled before anybody sees them |
//! | [`types`] | volume types, and the QoS rules that they point to |
//! | [`events`] | what happened, and what happens |
//! | [`stats`], [`metrics`] | what volumes' clients have done; all figures, for Prometheus |
//! | [`recycle`] | volumes that were deleted and can be had back |
//! | [`pools`] | pools: figures, checks, more of them |
//!
//! A handler names the call of the [`Engine`] and how long its client waits for it; everything else is
//! [`reply`]'s and the gate's.

mod attachments;
mod events;
mod images;
mod metrics;
mod pools;
mod recycle;
mod snapshots;
mod stagings;
mod stats;
mod types;
mod volumes;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use cairn_api::error::ErrorBody;
use cairn_api::info::Info;
use cairn_api::path;
use tokio::sync::Semaphore;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::engine::{Engine, Pending};
use super::gate::{Gate, Length};
use super::reply::{self, Failure, Json};

/// What all connections share.
#[derive(Clone)]
struct Shared {
    engine: Arc<dyn Engine>,
    gate: Arc<Gate>,
    /// As JSON, once for all: it is the same for every client.
    document: Bytes,
    /// For those who listen to events.
    listeners: Arc<Semaphore>,
}

/// What a handler sees.
struct Control {
    engine: Arc<dyn Engine>,
    shared: Shared,
}

impl FromRequestParts<Shared> for Control {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, shared: &Shared) -> Result<Control, Infallible> {
        Ok(Control { engine: Arc::clone(&shared.engine), shared: shared.clone() })
    }
}

type Answer<T> = Result<Json<T>, Failure>;

impl Control {
    /// Calls the engine and answers 200 with what it says.
    async fn ok<T: Send + 'static>(
        &self,
        length: Length,
        call: impl FnOnce(&dyn Engine) -> Pending<T> + Send,
    ) -> Answer<T> {
        Ok(Json(StatusCode::OK, self.shared.gate.run(length, || call(&*self.engine)).await?))
    }

    /// Calls the engine and answers 201 with what it has made.
    async fn created<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Engine) -> Pending<T> + Send,
    ) -> Answer<T> {
        Ok(Json(StatusCode::CREATED, self.shared.gate.run(Length::Short, || call(&*self.engine)).await?))
    }

    /// Calls the engine and answers 204: there is nothing left to show.
    async fn gone(
        &self,
        call: impl FnOnce(&dyn Engine) -> Pending<()> + Send,
    ) -> Result<StatusCode, Failure> {
        self.shared.gate.run(Length::Short, || call(&*self.engine)).await?;
        Ok(StatusCode::NO_CONTENT)
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "cairn control API",
    description = "Volumes, snapshots, images, types and pools of a cairnd, over its control socket.\n\n\
        Sizes and offsets are bytes. Times are RFC 3339 in UTC. Every answer with a status of 400 or higher has \
        the same body: a stable code, a message, and where there is one a hint at what to do.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
))]
struct Document;

/// The API over `engine`.
pub fn router(engine: Arc<dyn Engine>) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let listeners = Arc::new(Semaphore::new(events::MOST_LISTENERS));
    let shared = Shared { engine, gate: Arc::new(Gate::new()), document, listeners };
    router
        .route(path::OPENAPI, get(document_json))
        .fallback(reply::no_such_route)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .with_state(shared)
}

/// The API's description, as `/v1/openapi.json` serves it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(volumes::routes())
        .merge(attachments::routes())
        .merge(snapshots::routes())
        .merge(images::routes())
        .merge(stagings::routes())
        .merge(types::routes())
        .merge(pools::routes())
        .merge(recycle::routes())
        .merge(events::routes())
        .merge(stats::routes())
        .merge(metrics::routes())
        .routes(routes!(show_info))
}

/// Show what the daemon is and where it listens.
#[utoipa::path(get, path = "/v1/info", tag = "daemon", responses(
    (status = 200, description = "The daemon", body = Info),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_info(c: Control) -> Json<Info> {
    Json(StatusCode::OK, c.engine.info())
}

async fn document_json(c: Control) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], c.shared.document)
}
