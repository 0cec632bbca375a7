//! Jobs: which there are, and cancelling them. How they are kept: [`crate::jobs`].

use std::collections::HashSet;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::job::{Job, JobList, JobQuery, JobState};
use cairn_api::list::most;
use cairn_cow::Disk;

use super::context::{Context, busy, check_name};
use super::list::check_limit;
use super::{images, stagings};
use crate::jobs::{How, ended, tell_ended};
use crate::volumes::Volumes;

pub(super) fn list<D: Disk>(volumes: &Volumes<D>, query: &JobQuery) -> Result<JobList, ApiError> {
    check_limit(query.limit)?;
    [&query.pool, &query.volume, &query.image].into_iter().flatten().try_for_each(|name| check_name(name))?;
    // In this order: what ends in between is then in both.
    let under_way: Vec<Job> = volumes.under_way().into_iter().map(|found| found.job).collect();
    let known: HashSet<String> = under_way.iter().map(|job| job.id.clone()).collect();
    let ended = volumes.jobs.ended().into_iter().filter(|job| !known.contains(&job.id));
    let mut jobs: Vec<Job> = under_way.into_iter().chain(ended).filter(|job| query.asks_for(job)).collect();
    jobs.sort_by(|a, b| (b.begun, &b.id).cmp(&(a.begun, &a.id)));
    jobs.truncate(most(query.limit));
    Ok(JobList { jobs })
}

fn under_way<D: Disk>(volumes: &Volumes<D>, id: &str) -> Option<(Job, How)> {
    let found = volumes.under_way().into_iter().find(|found| found.job.id == id)?;
    Some((found.job, found.how))
}

pub(super) fn show<D: Disk>(volumes: &Volumes<D>, id: &str) -> Result<Job, ApiError> {
    // In this order, as in a list.
    let under_way = under_way(volumes, id).map(|(job, _)| job);
    under_way.or_else(|| volumes.jobs.get(id)).ok_or_else(|| missing(id))
}

/// What is answered about what is not there.
pub(super) fn missing(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no job '{id}' any more"))
        .with_hint("\"cairn job list\" shows what there is")
}

/// Ends a job that is not wanted any more, and waits until it has ended. One that has ended stays as it is.
///
/// Runs on the control side, as what gives an import up does.
pub(super) async fn cancel<D: Disk>(c: Context<D>, id: String) -> Result<Job, ApiError> {
    let Some((job, how)) = under_way(&c.volumes, &id) else { return show(&c.volumes, &id) };
    let cancelled = match how {
        How::Check(pool) => cancel_on_reactor(&c, pool, id.clone(), true).await,
        How::Scrub(pool) => cancel_on_reactor(&c, pool, id.clone(), false).await,
        How::Image(name) => images::cancel(c.clone(), name).await,
        How::Staging(staging) => stagings::cancel(c.clone(), staging).await,
        How::Restore => {
            let volume = job.volume.unwrap_or_default();
            Err(busy(format!("the volume '{volume}' serves while it is restored: it is not cancelled"))
                .with_hint(format!("it ends with the volume: cairn volume delete {volume}")))
        }
    };
    // It may have ended by itself meanwhile, and then could not be cancelled.
    match show(&c.volumes, &id) {
        Ok(job) if job.is_over() => Ok(job),
        shown => cancelled.and(shown),
    }
}

async fn cancel_on_reactor<D: Disk>(
    c: &Context<D>,
    pool: [u8; 16],
    id: String,
    is_check: bool,
) -> Result<(), ApiError> {
    c.run(async move |c| {
        match is_check {
            true => c.volumes.checks.cancel(pool, Some(&id)).await,
            false => c.volumes.scrubs.cancel(pool, Some(&id)).await,
        }
        Ok(())
    })
    .await
}

/// Keeps what becomes of a job, before what it is made of shows it.
pub(super) async fn end<D: Disk>(c: &Context<D>, job: Job, state: JobState, error: Option<ApiError>) -> Job {
    let job = ended(job, state, error);
    c.volumes.jobs.end(c.volumes.pools.main(), job.clone()).await;
    job
}

/// Has everybody told of a job that was not done to its end.
pub(super) fn tell<D: Disk>(c: &Context<D>, job: &Job) {
    tell_ended(&c.volumes.events, job);
}

/// Why a job failed that only a client could go on with.
pub(super) fn deserted() -> ApiError {
    ApiError::new(ErrorCode::RequestTimeout, "whoever filled it was gone for ten seconds")
}
