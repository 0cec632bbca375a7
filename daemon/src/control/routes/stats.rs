//! What volumes' clients have done.

use cairn_api::error::ErrorBody;
use cairn_api::stats::Stats;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Length, Shared};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(show_stats))
}

/// Show what every volume's clients have done since the daemon started: how much of what, and how long it took. Who wants
/// rates asks twice.
#[utoipa::path(get, path = "/v1/stats", tag = "daemon", responses(
    (status = 200, description = "Figures that only grow, by volume", body = Stats),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_stats(c: Control) -> Answer<Stats> {
    c.ok(Length::Short, |e| e.stats()).await
}
