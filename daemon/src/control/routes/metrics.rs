//! All figures, for Prometheus.

use axum::http::header;
use axum::response::IntoResponse;
use cairn_api::error::ErrorBody;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Control, Failure, Length, Shared};
use crate::control::metrics;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show_metrics))
}

/// Show all figures of the daemon, its volumes and its pools in Prometheus' text exposition format, version 0.0.4.
#[utoipa::path(get, path = "/v1/metrics", tag = "daemon", responses(
    (status = 200, description = "The figures", body = String, content_type = "text/plain; version=0.0.4"),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_metrics(c: Control) -> Result<impl IntoResponse, Failure> {
    let stats = c.shared.gate.run(Length::Short, || c.engine.stats()).await?;
    let pools = c.shared.gate.run(Length::Short, || c.engine.pools()).await?.pools;
    let page = metrics::exposition(&c.engine.info(), &pools, &stats);
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}
