//! What happened, and what happens.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cairn_api::error::{ApiError, ErrorBody, ErrorCode};
use cairn_api::event::{EventList, EventQuery, KindFilter};
use futures_util::{Stream, StreamExt as _, stream};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Control, Failure, Shared};
use crate::access::Scope;
use crate::control::context::check_name;
use crate::control::list;
use crate::control::reply::{Json, Query};
use crate::events::Events;

/// Clients that listen at once. Each keeps a connection, of which there are not so many.
pub(super) const MOST_LISTENERS: usize = 64;
/// How often somebody who listens hears that the daemon is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client sends who comes back.
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list_events))
}

/// Show what happened lately; or with `Accept: text/event-stream` what happens, as it happens, as server-sent events:
/// `id` is the event's, `event` its kind, `data` the event as JSON. The stream begins with what comes next, or after the id
/// in `after` or the header `Last-Event-ID`; an event `gap` says that some in between are forgotten.
#[utoipa::path(get, path = "/v1/events", tag = "daemon", params(EventQuery), responses(
    (status = 200, description = "The events, the oldest first", content(
        (EventList = "application/json"), (String = "text/event-stream"))),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_events(
    c: Control,
    headers: HeaderMap,
    Query(mut query): Query<EventQuery>,
) -> Result<Response, Failure> {
    check(&query)?;
    let (events, scope) = (c.engine.events(), c.rights.scope());
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if !accepts.is_some_and(|accept| accept.contains("text/event-stream")) {
        return Ok(Json(StatusCode::OK, events.list(&query, &scope)).into_response());
    }
    let Ok(place) = c.shared.listeners.clone().try_acquire_owned() else {
        let why = format!("{MOST_LISTENERS} clients listen to events already");
        let full = ApiError::new(ErrorCode::Unavailable, why);
        return Err(full.with_hint("ask for lists instead, each after the last one's \"last\"").into());
    };
    if let Some(last) = headers.get(LAST_EVENT_ID) {
        let id = last.to_str().ok().and_then(|id| id.parse().ok());
        query.after = Some(id.ok_or_else(|| bad("the header Last-Event-ID is no event's id"))?);
    }
    query.after.get_or_insert_with(|| events.last());
    let stream = listen(events, query, scope).map(move |event| {
        let _place = &place;
        Ok::<_, Infallible>(event)
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn check(query: &EventQuery) -> Result<(), ApiError> {
    list::check_limit(query.limit)?;
    query.volume.as_deref().map_or(Ok(()), check_name)?;
    if query.after.is_some_and(|after| i64::try_from(after).is_err()) {
        return Err(bad("no event has so large an id"));
    }
    match &query.kind {
        Some(kind) if !KindFilter::words().contains(&kind.as_str()) => {
            Err(bad(&format!("{kind:?} is no kind of events"))
                .with_hint("see /v1/openapi.json for the kinds"))
        }
        _ => Ok(()),
    }
}

fn bad(message: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, message)
}

/// What happens after what `query` has already, until the daemon stops.
fn listen(events: std::sync::Arc<Events>, query: EventQuery, scope: Scope) -> impl Stream<Item = sse::Event> {
    let batches = stream::unfold((events, query, scope), async |(events, mut query, scope)| {
        let after = query.after.unwrap_or(0);
        if !events.wait(after).await {
            return None;
        }
        let EventList { events: new, last, gap } = events.list(&query, &scope);
        query.after = Some(last);
        let lost = gap.then(|| sse::Event::default().event("gap").data("{}"));
        let told = new.into_iter().filter_map(|event| {
            let data = serde_json::to_string(&event).ok()?;
            Some(sse::Event::default().id(event.id.to_string()).event(event.kind.as_str()).data(data))
        });
        let batch: Vec<_> = lost.into_iter().chain(told).collect();
        Some((stream::iter(batch), (events, query, scope)))
    });
    batches.flatten()
}
