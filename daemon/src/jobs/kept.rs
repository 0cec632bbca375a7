//! A job as it is kept: short enough for so many of them to be attributes of one pool.

use cairn_api::job::Job;

use crate::settings::encode;

/// Bytes that one job takes at most, so that many fit.
const MOST_BYTES: usize = 1024;
/// Lines of what was found that are tried first.
const MOST_LINES: usize = 8;
/// Characters of why a job failed, where that takes too much.
const MOST_MESSAGE: usize = 120;

/// The job with what it has found cut short, until it is no longer than what is kept.
pub(crate) fn shortened(job: &Job) -> Job {
    let mut job = job.clone();
    let mut lines = MOST_LINES;
    while job.result.is_some() && encode(&job).len() > MOST_BYTES {
        cut(&mut job, lines);
        if lines == 0 && encode(&job).len() > MOST_BYTES {
            job.result = None;
        }
        lines = lines.saturating_sub(1);
    }
    if let Some(error) = job.error.as_mut().filter(|error| error.message.len() > MOST_MESSAGE) {
        error.message = error.message.chars().take(MOST_MESSAGE).chain("...".chars()).collect();
    }
    job
}

fn cut(job: &mut Job, lines: usize) {
    let Some(result) = &mut job.result else { return };
    if let Some(check) = &mut result.check {
        check.errors.truncate(lines);
        check.losses.truncate(lines);
    }
    if let Some(scrub) = &mut result.scrub {
        scrub.faults.truncate(lines);
    }
}
