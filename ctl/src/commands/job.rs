//! Jobs, and waiting for them.

use std::time::Duration;

use cairn_api::job::{Job, JobKind, JobList, JobState};
use cairn_api::path;
use cairn_api::pool::ScrubState;

use crate::args;
use crate::client::{Answer, Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::jobs;

/// How often to ask at first, so that what is quick is not waited for, and at most.
const PERIODS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

pub(super) async fn run(command: args::Job, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Job::List(filter) => {
            let args::JobFilter { kind, state, pool, volume, image, limit } = filter;
            let pairs = [
                ("kind", kind.map(|kind| kind.as_str().to_owned())),
                ("state", state.map(|state| state.as_str().to_owned())),
                ("pool", pool),
                ("volume", volume),
                ("image", image),
                ("limit", limit.map(|limit| limit.to_string())),
            ];
            let path = path::with_query(path::JOBS.to_owned(), &super::borrowed(&pairs));
            let list = client.get::<JobList>(&path, Wait::Short).await?;
            output.answer(&list, jobs::list)
        }
        args::Job::Show { id, follow } => {
            let mut job = client.get::<Job>(&path::job(&id), Wait::Short).await?;
            if follow {
                job = watch(job, client, output).await?;
            }
            output.answer(&job, jobs::show)?;
            if follow && !is_good(&job.value) { Err(Failure::Unsound) } else { Ok(()) }
        }
        args::Job::Cancel { id } => {
            let job = client.start::<Job>(&path::job_sub(&id, "cancel")).await?;
            if job.value.state != JobState::Cancelled {
                let why = format!("the job has ended already: {}", job.value.state.as_str());
                return Err(Failure::local("ended", why));
            }
            output.answer(&job, |job, _| jobs::cancelled(job))
        }
    }
}

/// Whether a job did what it was to do, and found nothing wrong.
fn is_good(job: &Job) -> bool {
    let found = job.result.as_ref();
    let sound = found.and_then(|found| found.check.as_ref()).is_none_or(|check| check.clean);
    let whole = found
        .and_then(|found| found.scrub.as_ref())
        .is_none_or(|scrub| scrub.fault_count == 0 && scrub.state == ScrubState::Finished);
    job.state == JobState::Done && sound && whole
}

/// Shows how a job gets on until it has ended.
async fn watch(mut job: Answer<Job>, client: &Client, output: &Output) -> Result<Answer<Job>, Failure> {
    let what = match job.value.kind {
        JobKind::Check => "checking",
        JobKind::Scrub => "scrubbing",
        JobKind::Restore => "restoring",
        JobKind::Import => "importing",
    };
    let bar = output.bar(what, job.value.progress.total);
    let mut period = PERIODS.0;
    while !job.value.is_over() {
        bar.show(job.value.progress.done, job.value.progress.total);
        tokio::time::sleep(period).await;
        period = (period * 2).min(PERIODS.1);
        job = client.get::<Job>(&path::job(&job.value.id), Wait::Short).await?;
    }
    Ok(job)
}

/// As [`watch`], for a job that this command has begun: interrupted, it cancels the job. What the job has found is there
/// unless it was not done to its end, which is a failure.
pub(super) async fn see_through(
    job: Answer<Job>,
    client: &Client,
    output: &Output,
) -> Result<Answer<Job>, Failure> {
    let interrupted = super::interruption()?;
    let path = path::job_sub(&job.value.id, "cancel");
    let (what, watched) = (job.value.what(), watch(job, client, output));
    let ended = tokio::select! {
        ended = watched => ended?,
        () = interrupted => client.start::<Job>(&path).await?,
    };
    let not_done = |code: &str, how: &str| Err(Failure::local(code, format!("the {what} {how}")));
    match (ended.value.state, &ended.value.error) {
        (JobState::Done, _) => Ok(ended),
        (JobState::Failed, Some(error)) => Err(error.clone().into()),
        (JobState::Cancelled, _) => not_done("cancelled", "was cancelled"),
        (JobState::Interrupted, _) => not_done("interrupted", "was cut short by the end of the daemon"),
        (JobState::Failed | JobState::Running, _) => not_done("failed", "has failed"),
    }
}
