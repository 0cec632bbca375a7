//! Checks of pools: that everything in one is sound, looked at while it is in use. One a pool at a time.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_api::error::ApiError;
use cairn_api::event::{EventKind, Severity};
use cairn_api::job::{Job, JobKind, JobProgress, JobResult, JobState};
use cairn_api::pool::CheckReport;
use cairn_cow::{BLOCK_SIZE, Disk, ErrorKind, Pool};
use cairn_uring::sleep;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::control::convert;
use crate::events::About;
use crate::jobs::{self, Found, How, job_id};
use crate::keeper::random_hex;
use crate::volumes::Volumes;

/// The checks that are under way, by their pools' ids.
#[derive(Default)]
pub(crate) struct Checks(Mutex<HashMap<[u8; 16], Arc<Check>>>);

/// One check.
struct Check {
    id: String,
    pool: String,
    begun: Timestamp,
    /// Whether all data is read, so that it is known how much there is to read.
    data: bool,
    cancelled: AtomicBool,
    read: AtomicU64,
    in_use: AtomicU64,
}

impl Check {
    fn job(&self) -> Job {
        let blocks = |count: &AtomicU64| count.load(Ordering::Relaxed) * BLOCK_SIZE;
        let total = blocks(&self.in_use);
        let total = Some(total).filter(|total| self.data && *total > 0);
        let progress = JobProgress::bytes(blocks(&self.read), total);
        jobs::of_check(self.id.clone(), &self.pool, self.begun, progress)
    }
}

impl Checks {
    /// Those that are under way.
    pub(crate) fn jobs(&self) -> Vec<Found> {
        let checks = self.0.lock();
        checks.iter().map(|(pool, check)| Found { job: check.job(), how: How::Check(*pool) }).collect()
    }

    /// The one of a pool.
    fn of(&self, pool: [u8; 16]) -> Option<Arc<Check>> {
        self.0.lock().get(&pool).cloned()
    }

    /// Ends the check of a pool, if need be only the one that is this job, and waits until it has ended. On a reactor.
    pub(crate) async fn cancel(&self, pool: [u8; 16], id: Option<&str>) {
        while let Some(check) = self.of(pool).filter(|check| id.is_none_or(|id| check.id == id)) {
            check.cancelled.store(true, Ordering::Relaxed);
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// A place for a new check; the job that is under way when there is one.
    fn enter(&self, pool: [u8; 16], check: Arc<Check>) -> Result<(), String> {
        match self.0.lock().entry(pool) {
            std::collections::hash_map::Entry::Occupied(other) => Err(other.get().id.clone()),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(check);
                Ok(())
            }
        }
    }
}

/// Begins to check a pool, on a reactor, where it then goes on; the job that does so already when there is one.
///
/// # Errors
/// Without random bytes for its id.
pub(crate) async fn begin<D: Disk>(
    volumes: &Arc<Volumes<D>>,
    pool: Arc<Pool<D>>,
    name: String,
    data: bool,
) -> Result<Result<Job, String>, ApiError> {
    let check = Arc::new(Check {
        id: job_id(JobKind::Check, &random_hex()?),
        pool: name,
        begun: Timestamp::now(),
        data,
        cancelled: AtomicBool::new(false),
        read: AtomicU64::new(0),
        in_use: AtomicU64::new(0),
    });
    if let Err(other) = volumes.checks.enter(pool.id(), Arc::clone(&check)) {
        return Ok(Err(other));
    }
    let job = check.job();
    volumes.jobs.begin(volumes.pools.main(), &job).await;
    jobs::tell_begun(&volumes.events, &job);
    drop(cairn_uring::spawn(run(Arc::clone(volumes), pool, check)));
    Ok(Ok(job))
}

async fn run<D: Disk>(volumes: Arc<Volumes<D>>, pool: Arc<Pool<D>>, check: Arc<Check>) {
    let progress = |read, in_use| {
        check.read.store(read, Ordering::Relaxed);
        check.in_use.store(in_use, Ordering::Relaxed);
        match check.cancelled.load(Ordering::Relaxed) || volumes.jobs.is_closing() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let outcome = pool.check_and_tell(check.data, progress).await;
    let (state, error, report) = match outcome {
        Ok(report) => (JobState::Done, None, Some(convert::check_report(report))),
        Err(_) if volumes.jobs.is_closing() => return,
        Err(error) if error.kind() == ErrorKind::Cancelled => (JobState::Cancelled, None, None),
        Err(error) => (JobState::Failed, Some(convert::error(&error)), None),
    };
    if let Some(report) = &report {
        // Of metadata alone it only now shows how much there was.
        check.read.store(report.nodes + report.data_verified, Ordering::Relaxed);
        check.in_use.store(report.nodes + report.data_verified, Ordering::Relaxed);
    }
    let clean = report.as_ref().map(|report| report.clean);
    let result = report.map(|report: CheckReport| JobResult { check: Some(report), scrub: None });
    let job = jobs::ended(Job { result, ..check.job() }, state, error);
    volumes.jobs.end(volumes.pools.main(), job.clone()).await;
    volumes.checks.0.lock().remove(&pool.id());
    let Some(clean) = clean else { return jobs::tell_ended(&volumes.events, &job) };
    let (severity, found) = match clean {
        true => (Severity::Info, "it is sound"),
        false => (Severity::Error, "it is not sound"),
    };
    let about = About { job: Some(&job.id), ..About::named(&job.pool) };
    let message = format!("pool {} was checked: {found}", job.pool);
    volumes.events.tell_of(severity, EventKind::PoolChecked, about, message);
}

#[cfg(test)]
mod tests {
    use cairn_cow::sim::SimDisk;
    use cairn_cow::{CreateOptions, Options};
    use cairn_uring::{Config, Reactor};

    use super::*;

    #[test]
    fn a_check_is_cancelled_between_two_steps_and_there_is_one_at_a_time() {
        let mut reactor = Reactor::new(Config::default()).expect("a reactor");
        let create = CreateOptions { limit: 1 << 30, journal_bytes: None, segment_blocks: None };
        let options =
            Options { lanes: 1, map_cache_bytes: 1 << 20, read_cache_bytes: 1 << 20, ..Options::default() };
        reactor.block_on(async {
            let pool = Pool::create(SimDisk::file(1 << 30), [7; 16], create, options).await.expect("a pool");
            let version = pool.create_volume("v", 1 << 30, "").await.expect("a volume").id;
            let mut block = SimDisk::file(1 << 20).alloc(BLOCK_SIZE as usize);
            block.fill(1);
            pool.write(0, version, 0, BLOCK_SIZE as usize, block).await.expect("a write");
            let volumes = Volumes::new(Arc::clone(&pool), "/p".into());
            let start = async |data| {
                begin(&volumes, Arc::clone(&pool), "main".into(), data).await.expect("random bytes")
            };
            let first = start(true).await.expect("nobody else does");
            assert_eq!(start(false).await, Err(first.id.clone()));
            // It is on the same thread, and has not begun to read yet.
            volumes.checks.cancel(pool.id(), Some("check-of-another-id")).await;
            assert_eq!(volumes.checks.jobs().len(), 1, "that is another one");
            volumes.checks.cancel(pool.id(), Some(&first.id)).await;
            assert!(volumes.checks.jobs().is_empty());
            let ended = volumes.jobs.get(&first.id).expect("is kept");
            assert_eq!((ended.state, ended.result), (JobState::Cancelled, None));
            let second = start(true).await.expect("the first has ended");
            while !volumes.checks.jobs().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(volumes.jobs.get(&second.id).map(|job| job.state), Some(JobState::Done));
            // Nothing is said of one that the end of the daemon cuts short: the next one finds it.
            let third = start(true).await.expect("the second has ended");
            volumes.jobs.close();
            sleep(Duration::from_millis(50)).await;
            assert_eq!(volumes.jobs.get(&third.id), None);
            let next = Volumes::new(Arc::clone(&pool), "/p".into());
            next.take_up("main", &pool).await;
            let states = [&first, &second, &third].map(|job| next.jobs.get(&job.id).map(|job| job.state));
            assert_eq!(states, [JobState::Cancelled, JobState::Done, JobState::Interrupted].map(Some));
        });
    }
}
