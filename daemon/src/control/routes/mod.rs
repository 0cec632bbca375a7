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
//! | [`jobs`] | what takes its time: checks, scrubs, restores, imports |
//! | [`recycle`] | volumes that were deleted and can be had back |
//! | [`document`] | what holds throughout the OpenAPI document |
//! | [`pools`] | pools: figures, checks, more of them |
//!
//! A handler names the call of the [`Engine`] and how long its client waits for it; everything else is
//! [`reply`]'s and the gate's.

mod attachments;
mod document;
mod events;
mod images;
mod jobs;
mod metrics;
mod pools;
mod recycle;
mod snapshots;
mod stagings;
mod stats;
mod types;
mod volumes;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use cairn_api::access::{Caller, Role};
use cairn_api::error::{ApiError, ErrorBody, ErrorCode};
use cairn_api::info::Info;
use cairn_api::job::Job;
use cairn_api::path;
use nix::unistd::{Uid, User};
use tokio::sync::Semaphore;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Rights, Scope, forbidden};

use super::context::blocking;
use super::engine::{Engine, Pending};
use super::gate::{Gate, Length};
use super::guard::Guarded;
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

/// What a handler sees, for whoever asks.
struct Control {
    engine: Arc<dyn Engine>,
    rights: Rights,
    shared: Shared,
}

/// Who asks, beside a request.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) uid: u32,
    pub(super) rights: Rights,
}

impl Asking {
    /// Who asks, as the server has put it there.
    fn of(parts: &Parts) -> Result<&Asking, Failure> {
        let unknown = || ApiError::new(ErrorCode::Internal, "it is not known who asks");
        parts.extensions.get().ok_or_else(|| Failure(unknown()))
    }
}

impl FromRequestParts<Shared> for Control {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Control, Failure> {
        let Asking { uid, rights } = Asking::of(parts)?;
        let engine = Arc::clone(&shared.engine);
        let engine: Arc<dyn Engine> = match rights {
            Rights::Administrator => engine,
            Rights::Limited(limits) if limits.role() == Role::None => {
                return Err(Failure(forbidden(format!("the user with the id {uid} has no role here"))));
            }
            Rights::Limited(limits) => Arc::new(Guarded::new(engine, Arc::clone(limits))),
        };
        Ok(Control { engine, rights: rights.clone(), shared: shared.clone() })
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

    /// Calls the engine and answers 202 with the job that it has begun.
    async fn begun(&self, call: impl FnOnce(&dyn Engine) -> Pending<Job> + Send) -> Answer<Job> {
        Ok(Json(StatusCode::ACCEPTED, self.shared.gate.run(Length::Short, || call(&*self.engine)).await?))
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

/// The API over `engine`, for whoever holds it: that one is taken for an administrator.
pub fn router(engine: Arc<dyn Engine>) -> Router {
    let uid = Uid::effective().as_raw();
    guarded(engine).layer(Extension(Asking { uid, rights: Rights::Administrator }))
}

/// The API over `engine`. Each request must have an [`Asking`] beside it.
pub(super) fn guarded(engine: Arc<dyn Engine>) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = document::complete(document);
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
    document::complete(routes().into_openapi())
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
        .merge(jobs::routes())
        .merge(recycle::routes())
        .merge(events::routes())
        .merge(stats::routes())
        .merge(metrics::routes())
        .routes(routes!(show_info))
        .routes(routes!(show_caller))
}

/// Show what the daemon is and where it listens.
#[utoipa::path(get, path = "/v1/info", tag = "daemon", responses(
    (status = 200, description = "The daemon", body = Info),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_info(c: Control) -> Json<Info> {
    Json(StatusCode::OK, c.engine.info())
}

/// Show who asks, and what it may do.
#[utoipa::path(get, path = "/v1/whoami", tag = "daemon", responses(
    (status = 200, description = "Who asks", body = Caller),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_caller(caller: CallerOf) -> Json<Caller> {
    Json(StatusCode::OK, caller.0)
}

/// Who asks, by name. Anybody may know that, without a role, too.
struct CallerOf(Caller);

impl FromRequestParts<Shared> for CallerOf {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<CallerOf, Failure> {
        let Asking { uid, rights } = Asking::of(parts)?.clone();
        // May ask a directory on the network.
        let found = blocking(move || Ok(User::from_uid(Uid::from_raw(uid)).ok().flatten())).await?;
        let all = |projects: BTreeSet<String>| projects.into_iter().collect();
        let (member_of, sees) = match &rights {
            Rights::Administrator => (Vec::new(), None),
            Rights::Limited(limits) => {
                let sees = match limits.see.clone() {
                    Scope::All => None,
                    Scope::Only(projects) => Some(all(projects)),
                };
                (all(limits.change.clone()), sees)
            }
        };
        let user = found.map(|user| user.name);
        Ok(CallerOf(Caller { uid, user, role: rights.role(), member_of, sees }))
    }
}

async fn document_json(c: Control) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], c.shared.document)
}
