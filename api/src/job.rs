//! Jobs: what the daemon does that takes its time, from its beginning to what came of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;
use crate::pool::{CheckReport, Scrub};
use crate::schema::{Name, word_enums};

/// Jobs that are kept after they have ended.
pub const MOST_ENDED: usize = 200;

word_enums! {
    /// What a job does.
    JobKind {
        /// A pool is checked.
        Check = "check";
        /// All that a pool holds is read.
        Scrub = "scrub";
        /// A volume serves and is filled from a backup.
        Restore = "restore";
        /// A client fills an image or a volume.
        Import = "import";
    }

    /// What has become of a job.
    JobState {
        /// It is under way.
        Running = "running";
        /// It has done all that it was to do.
        Done = "done";
        /// It could not go on.
        Failed = "failed";
        /// It is not wanted any more.
        Cancelled = "cancelled";
        /// The daemon ended before it did.
        Interrupted = "interrupted";
    }
}

/// What a job's progress is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobUnit {
    /// Bytes.
    #[default]
    Bytes,
}

/// How far a job is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// What is done.
    pub done: u64,
    /// What there is to do; none where that is not known.
    #[serde(default)]
    pub total: Option<u64>,
    /// What both are counted in.
    pub unit: JobUnit,
}

impl JobProgress {
    /// So many bytes.
    pub fn bytes(done: u64, total: Option<u64>) -> JobProgress {
        JobProgress { done, total: total.map(|total| total.max(done)), unit: JobUnit::Bytes }
    }

    /// How much is done, in whole percent.
    pub fn percent(&self) -> Option<u64> {
        let percent = u128::from(self.done) * 100 / u128::from(self.total?.max(1));
        Some(percent.min(100) as u64)
    }
}

/// What came of a job; of each kind, what it has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JobResult {
    /// What a check found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckReport>,
    /// What a scrub found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
}

/// A job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Unique, and never used again.
    #[schema(example = "check-0123456789ab")]
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// What has become of it.
    pub state: JobState,
    /// The pool that it is about, or that holds what it is about.
    pub pool: String,
    /// The volume that it is about: one that there will be, or was, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The image that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended; none for one that was interrupted, which nobody saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Timestamp>,
    /// How far it is, or was.
    pub progress: JobProgress,
    /// Why it does not go on at the moment, or not everywhere; one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
    /// What it has found. Lists in it are cut short where that is too much to be kept: in lists of jobs, and when the daemon
    /// was restarted or many jobs have ended since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
}

impl Job {
    /// Whether it has ended, one way or another.
    pub fn is_over(&self) -> bool {
        self.state != JobState::Running
    }

    /// What it does, and to what.
    pub fn what(&self) -> String {
        let about = match (&self.image, &self.volume) {
            (Some(image), _) => format!("image {image}"),
            (None, Some(volume)) => format!("volume {volume}"),
            (None, None) => format!("pool {}", self.pool),
        };
        format!("{} of {about}", self.kind.as_str())
    }
}

/// Jobs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// What began last comes first. Of those that have ended, the last 200 are kept, fewer in a small pool.
    pub jobs: Vec<Job>,
}

/// Which jobs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// Only of this kind.
    #[serde(default)]
    #[param(inline)]
    pub kind: Option<JobKind>,
    /// Only those of which this has become.
    #[serde(default)]
    #[param(inline)]
    pub state: Option<JobState>,
    /// Only those of this pool and what it holds.
    #[serde(default)]
    #[param(value_type = Option<Name>, inline)]
    pub pool: Option<String>,
    /// Only those about this volume.
    #[serde(default)]
    #[param(value_type = Option<Name>, inline)]
    pub volume: Option<String>,
    /// Only those about this image.
    #[serde(default)]
    #[param(value_type = Option<Name>, inline)]
    pub image: Option<String>,
    /// At most so many, the latest.
    #[serde(default)]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u64>,
}

impl JobQuery {
    /// Whether a job is asked for.
    pub fn asks_for(&self, job: &Job) -> bool {
        let named = |asked: &Option<String>, name: Option<&str>| asked.is_none() || asked.as_deref() == name;
        self.kind.is_none_or(|kind| job.kind == kind)
            && self.state.is_none_or(|state| job.state == state)
            && named(&self.pool, Some(&job.pool))
            && named(&self.volume, job.volume.as_deref())
            && named(&self.image, job.image.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            id: "import-1".into(),
            kind: JobKind::Import,
            state: JobState::Running,
            pool: "main".into(),
            volume: Some("demo".into()),
            image: None,
            begun: Timestamp::UNIX_EPOCH,
            ended: None,
            progress: JobProgress::bytes(1, None),
            problem: None,
            error: None,
            result: None,
        }
    }

    #[test]
    fn words_are_the_same_everywhere() {
        let json = |value| serde_json::to_string(&value).expect("serialises");
        for kind in JobKind::ALL {
            assert_eq!(json(serde_json::json!(kind)), format!("\"{}\"", kind.as_str()));
        }
        for state in JobState::ALL {
            assert_eq!(json(serde_json::json!(state)), format!("\"{}\"", state.as_str()));
        }
    }

    #[test]
    fn a_query_asks_for_what_all_of_it_says() {
        let all = JobQuery::default();
        assert!(all.asks_for(&job()));
        for (query, asked) in [
            (JobQuery { kind: Some(JobKind::Import), ..all.clone() }, true),
            (JobQuery { kind: Some(JobKind::Scrub), ..all.clone() }, false),
            (JobQuery { state: Some(JobState::Running), pool: Some("main".into()), ..all.clone() }, true),
            (JobQuery { state: Some(JobState::Done), pool: Some("main".into()), ..all.clone() }, false),
            (JobQuery { pool: Some("bulk".into()), ..all.clone() }, false),
            (JobQuery { volume: Some("demo".into()), ..all.clone() }, true),
            (JobQuery { volume: Some("dem".into()), ..all.clone() }, false),
            (JobQuery { image: Some("demo".into()), ..all }, false),
        ] {
            assert_eq!(query.asks_for(&job()), asked, "{query:?}");
        }
    }

    #[test]
    fn progress_is_never_more_than_all() {
        assert_eq!(JobProgress::bytes(5, None).percent(), None);
        assert_eq!(JobProgress::bytes(5, Some(10)).percent(), Some(50));
        assert_eq!(JobProgress::bytes(12, Some(10)), JobProgress::bytes(12, Some(12)));
        assert_eq!(JobProgress::bytes(0, Some(0)).percent(), Some(0));
        assert_eq!(JobProgress::bytes(u64::MAX, Some(u64::MAX)).percent(), Some(100));
    }

    #[test]
    fn jobs_say_what_they_are_about() {
        assert_eq!(job().what(), "import of volume demo");
        let image = Job { image: Some("web".into()), volume: None, ..job() };
        assert_eq!(image.what(), "import of image web");
        assert_eq!(Job { kind: JobKind::Check, volume: None, ..job() }.what(), "check of pool main");
    }
}
