//! `cairn job ...`

use cairn_api::job::{JobKind, JobState};
use clap::{Args, Subcommand};

use super::values::one_of;

#[derive(Subcommand, Debug)]
pub(crate) enum Job {
    /// List jobs, those under way and the last 200 that have ended: all, or those to which all of this applies
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  cairn job list
  cairn job list --state running
  cairn job list --kind check --pool bulk --limit 5
  cairn --json job list --volume demo | jq '.jobs[0].state'"
    )]
    List(JobFilter),
    /// Show a job: how far it is, or what has become of it
    #[command(after_help = "\
Examples:
  cairn job show check-0123456789ab
  cairn job show check-0123456789ab --follow
  cairn --json job show check-0123456789ab | jq .progress

With --follow the exit code is 1 unless the job is done and has found nothing wrong.
Interrupting this command does not touch the job.")]
    Show {
        /// The job
        id: String,
        /// Wait for its end
        #[arg(long, short)]
        follow: bool,
    },
    /// End a job that is not wanted any more; what an import has written goes away
    #[command(after_help = "\
Example:
  cairn job cancel check-0123456789ab

A restore is not cancelled, since its volume is in use: delete the volume.")]
    Cancel {
        /// The job
        id: String,
    },
}

/// Which jobs.
#[derive(Args, Debug)]
pub(crate) struct JobFilter {
    /// Only of this kind: check, scrub, restore or import
    #[arg(long, value_parser = kind)]
    pub(crate) kind: Option<JobKind>,
    /// Only those of which this has become: running, done, failed, cancelled or interrupted
    #[arg(long, value_parser = state)]
    pub(crate) state: Option<JobState>,
    /// Only those of this pool and what it holds
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Only those about this volume
    #[arg(long, value_name = "VOL")]
    pub(crate) volume: Option<String>,
    /// Only those about this image
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// At most so many, the latest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

fn kind(text: &str) -> Result<JobKind, String> {
    one_of(text, JobKind::ALL, JobKind::as_str)
}

fn state(text: &str) -> Result<JobState, String> {
    one_of(text, JobState::ALL, JobState::as_str)
}
