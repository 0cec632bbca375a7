//! Jobs: what takes its time.

use cairn_api::error::ErrorBody;
use cairn_api::job::{Job, JobList, JobQuery};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Control, Length, Shared};
use crate::control::reply::{Path, Query};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list_jobs)).routes(routes!(show_job)).routes(routes!(cancel_job))
}

/// List jobs: those under way, and the last 200 that have ended.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(JobQuery), responses(
    (status = 200, description = "The jobs, the latest first", body = JobList),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn list_jobs(c: Control, Query(query): Query<JobQuery>) -> Answer<JobList> {
    c.ok(Length::Short, |e| e.jobs(query)).await
}

/// Show a job.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job")), responses(
    (status = 200, description = "The job", body = Job),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn show_job(c: Control, Path(id): Path<String>) -> Answer<Job> {
    c.ok(Length::Short, |e| e.job(id)).await
}

/// Cancel a job, and wait until it has ended; one that has ended already stays as it is. What an import has written goes
/// away. A restore is not cancelled: its volume is deleted.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "The job")), responses(
    (status = 200, description = "The job, and what has become of it", body = Job),
    (status = "default", description = "An error", body = ErrorBody)))]
async fn cancel_job(c: Control, Path(id): Path<String>) -> Answer<Job> {
    c.ok(Length::Short, |e| e.cancel_job(id)).await
}
