//! Jobs: what takes its time and is not waited for. What is under way says so itself; what has ended is kept here.
//!
//! | kind | under way | how it ends |
//! |---|---|---|
//! | check | [`Checks`](crate::checks::Checks) | done, failed, cancelled; interrupted by the end of the daemon |
//! | scrub | [`Scrubs`](crate::scrubs::Scrubs) | the same |
//! | restore | a volume with the attribute `restore` | done, or cancelled with its volume; a restart goes on with it |
//! | import | a staged volume, or an image that is not ready | done, failed, cancelled; interrupted |
//!
//! The end of a job is kept with the first pool before it shows anywhere, and before the volume goes that an import or a
//! restore is. What is under way comes before what is kept of the same id, so a crash in between leaves it under way, or
//! ended. Of checks and scrubs, which leave nothing else behind, it is kept that they have begun, too.

mod kept;
mod under_way;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_api::error::ApiError;
use cairn_api::event::{EventKind, Severity};
use cairn_api::job::{Job, JobKind, JobState, MOST_ENDED};
use cairn_cow::{Disk, Holder, Pool};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::events::{About, Events};
use crate::settings::{JOB_PREFIX, encode};

use kept::shortened;
pub(crate) use under_way::{
    Found, How, import_of_image, import_of_volume, of_check, of_scrub, restore, unfinished,
};

/// Ended jobs of which all that they have found stays in memory.
const MOST_WHOLE: usize = 8;
/// Of a pool's reserve, an eighth bounds its attributes; half of that is for jobs.
const ROOM_SHARE: u64 = 16;

/// The jobs that have ended. One a daemon.
#[derive(Default)]
pub(crate) struct Jobs {
    ended: Mutex<HashMap<String, Ended>>,
    closing: AtomicBool,
}

/// A job that has ended.
struct Ended {
    /// As it is kept.
    kept: Job,
    /// What that takes.
    bytes: usize,
    /// With all that it has found, if that is more.
    whole: Option<Job>,
}

impl Ended {
    fn new(job: Job) -> Ended {
        let kept = shortened(&job);
        let bytes = key(&job.id).len() + encode(&kept).len();
        let whole = Some(job).filter(|job| *job != kept);
        Ended { kept, bytes, whole }
    }

    /// When it ended, or began when nobody knows.
    fn time(&self) -> Timestamp {
        self.kept.ended.unwrap_or(self.kept.begun)
    }
}

/// The id of a job, by the random digits that end the name of what it is.
pub(crate) fn job_id(kind: JobKind, name: &str) -> String {
    let digits = name.rsplit('-').next().unwrap_or(name);
    format!("{}-{}", kind.as_str(), digits.get(..12).unwrap_or(digits))
}

fn key(id: &str) -> String {
    format!("{JOB_PREFIX}{id}")
}

/// What has become of a job.
pub(crate) fn ended(job: Job, state: JobState, error: Option<ApiError>) -> Job {
    Job { state, error, ended: Some(Timestamp::now()), problem: None, ..job }
}

/// Has everybody told of a job that has begun.
pub(crate) fn tell_begun(events: &Events, job: &Job) {
    tell(events, Severity::Info, EventKind::JobBegun, job, format!("{} begins", job.what()));
}

/// Has everybody told of a job that was not done to its end.
pub(crate) fn tell_ended(events: &Events, job: &Job) {
    let severity = match job.state {
        JobState::Failed => Severity::Error,
        JobState::Interrupted => Severity::Warning,
        _ => Severity::Info,
    };
    let why = job.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    let message = format!("{} has ended: {}{why}", job.what(), job.state.as_str());
    tell(events, severity, EventKind::JobEnded, job, message);
}

fn tell(events: &Events, severity: Severity, kind: EventKind, job: &Job, message: String) {
    let name = match (&job.image, &job.volume) {
        (None, None) => Some(job.pool.as_str()),
        (image, _) => image.as_deref(),
    };
    let about = About { volume: job.volume.as_deref(), name, job: Some(&job.id), ..About::default() };
    events.tell_of(severity, kind, about, message);
}

impl Jobs {
    /// Takes up what the last daemon has kept with the first pool. What it had under way and left nothing else of was
    /// interrupted.
    pub(crate) async fn load<D: Disk>(&self, main: &Pool<D>, events: &Events) {
        let kept = main.attributes(Holder::Pool).unwrap_or_default();
        for (key, value) in kept.iter().filter(|(key, _)| key.starts_with(JOB_PREFIX)) {
            match serde_json::from_str::<Job>(value) {
                Ok(job) if job.is_over() => drop(self.ended.lock().insert(job.id.clone(), Ended::new(job))),
                Ok(job) => self.interrupted(main, events, job).await,
                Err(error) => tracing::warn!(key, %error, "what is kept of a job cannot be read"),
            }
        }
    }

    /// A job that the last daemon had under way did not come to its end.
    pub(crate) async fn interrupted<D: Disk>(&self, main: &Pool<D>, events: &Events, job: Job) {
        let job = Job { state: JobState::Interrupted, problem: None, ..job };
        tell_ended(events, &job);
        self.end(main, job).await;
    }

    /// Keeps that a job has begun.
    pub(crate) async fn begin<D: Disk>(&self, main: &Pool<D>, job: &Job) {
        keep(main, &[(&key(&job.id), Some(&encode(job)))]).await;
    }

    /// Keeps what has become of a job, and forgets the oldest where there are too many.
    pub(crate) async fn end<D: Disk>(&self, main: &Pool<D>, job: Job) {
        let id = job.id.clone();
        let job = Ended::new(job);
        let room = usize::try_from(main.status().reserve / ROOM_SHARE).unwrap_or(usize::MAX);
        let forgotten = self.forgotten_with(&job, room);
        let (own, kept) = (key(&id), encode(&job.kept));
        let keys: Vec<String> = forgotten.iter().map(|id| key(id)).collect();
        let mut changes: Vec<(&str, Option<&str>)> = keys.iter().map(|key| (key.as_str(), None)).collect();
        changes.push((&own, Some(&kept)));
        keep(main, &changes).await;
        let mut ended = self.ended.lock();
        forgotten.iter().for_each(|id| drop(ended.remove(id)));
        ended.insert(id, job);
        let mut whole: Vec<&mut Ended> = ended.values_mut().filter(|job| job.whole.is_some()).collect();
        whole.sort_by_key(|job| std::cmp::Reverse(job.time()));
        whole.into_iter().skip(MOST_WHOLE).for_each(|job| job.whole = None);
    }

    /// What is too much once `new` is kept in so many bytes.
    fn forgotten_with(&self, new: &Ended, room: usize) -> Vec<String> {
        let ended = self.ended.lock();
        let mut others: Vec<&Ended> = ended.values().filter(|job| job.kept.id != new.kept.id).collect();
        others.sort_by_key(|job| std::cmp::Reverse((job.time(), &job.kept.id)));
        let mut bytes = new.bytes;
        let fits = others.iter().take(MOST_ENDED - 1).take_while(|job| {
            bytes += job.bytes;
            bytes <= room
        });
        let fits = fits.count();
        others.into_iter().skip(fits).map(|job| job.kept.id.clone()).collect()
    }

    /// Those that have ended, as they are kept.
    pub(crate) fn ended(&self) -> Vec<Job> {
        self.ended.lock().values().map(|job| job.kept.clone()).collect()
    }

    /// One that has ended.
    pub(crate) fn get(&self, id: &str) -> Option<Job> {
        self.ended.lock().get(id).map(|job| job.whole.as_ref().unwrap_or(&job.kept).clone())
    }

    /// The daemon is about to end: what is under way is left to be found interrupted.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// A pool that takes no changes keeps nobody from doing something: memory has it, as long as the daemon runs.
async fn keep<D: Disk>(main: &Pool<D>, changes: &[(&str, Option<&str>)]) {
    if let Err(error) = main.set_attributes(Holder::Pool, changes).await {
        tracing::warn!(%error, "what has become of a job is not kept");
    }
}

#[cfg(test)]
mod tests;
