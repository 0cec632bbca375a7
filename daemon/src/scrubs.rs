//! Scrubs of pools: all that is stored is read in the background, so that damage is found in time.
//!
//! A scrub is a job ([`crate::jobs`]). It gives way to clients as other bulk reads do ([`crate::courtesy`]), and keeps to a rate if it is given one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cairn_api::error::ApiError;
use cairn_api::event::{EventKind, Severity};
use cairn_api::job::JobKind;
use cairn_api::pool::{Scrub, ScrubState};
use cairn_api::report::count;
use cairn_cow::{Disk, Holder, MAX_ATTRIBUTE_VALUE, Pool, Scrub as Cursor};
use cairn_uring::sleep;
use parking_lot::Mutex;

use crate::courtesy::PIECE;
use crate::events::About;
use crate::jobs::{Found, How, job_id, of_scrub};
use crate::keeper::random_hex;
use crate::settings::encode;
use crate::volumes::Volumes;

/// Blocks of data that are read at once while nobody else is at work.
const MOST_BLOCKS: usize = 256;
/// Faults that are kept and logged, each with its sentence.
const MOST_FAULTS: usize = 100;
/// The key of what is kept of the last scrub.
const LAST: &str = "last-scrub";
/// The longest sleep of a scrub that keeps to a rate, so that it soon hears when it is to stop.
const LONGEST_SLEEP: Duration = Duration::from_millis(200);

/// Scrubs by their pools' ids: those under way, and the last one of each pool.
#[derive(Default)]
pub(crate) struct Scrubs(Mutex<HashMap<[u8; 16], Arc<Job>>>);

/// One scrub.
struct Job {
    stop: AtomicBool,
    now: Mutex<Scrub>,
}

impl Scrubs {
    /// The pool's scrub under way, or its last one.
    pub(crate) fn show<D: Disk>(&self, pool: &Pool<D>, name: &str) -> Scrub {
        let job = self.0.lock().get(&pool.id()).cloned();
        let mut now = match job {
            Some(job) => job.now.lock().clone(),
            None => kept(pool).unwrap_or_else(|| blank(name, ScrubState::None, 0, None)),
        };
        name.clone_into(&mut now.pool);
        now
    }

    /// Those that are under way.
    pub(crate) fn jobs(&self) -> Vec<Found> {
        let jobs = self.0.lock();
        let running = jobs.iter().filter(|(_, job)| job.is_running(None));
        let found = |(pool, job): (&[u8; 16], &Arc<Job>)| {
            Some(Found { job: of_scrub(&job.now.lock())?, how: How::Scrub(*pool) })
        };
        running.filter_map(found).collect()
    }

    /// Tells the pool's scrub to end, if need be only the one that is this job. Returns whether it was under way.
    fn stop(&self, pool: [u8; 16], id: Option<&str>) -> bool {
        let jobs = self.0.lock();
        let running = jobs.get(&pool).filter(|job| job.is_running(id));
        running.inspect(|job| job.stop.store(true, Ordering::Relaxed)).is_some()
    }

    /// Ends the pool's scrub, if need be only the one that is this job, and waits until it has ended.
    pub(crate) async fn cancel(&self, pool: [u8; 16], id: Option<&str>) {
        while self.stop(pool, id) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// A place for a new scrub; none when one is under way already.
    fn enter(&self, pool: [u8; 16], job: Arc<Job>) -> Option<()> {
        let mut jobs = self.0.lock();
        if jobs.get(&pool).is_some_and(|job| job.is_running(None)) {
            return None;
        }
        jobs.insert(pool, job);
        Some(())
    }
}

impl Job {
    /// Whether it, being this job, is under way.
    fn is_running(&self, id: Option<&str>) -> bool {
        let now = self.now.lock();
        now.state == ScrubState::Running && id.is_none_or(|id| now.job.as_deref() == Some(id))
    }
}

/// Begins a scrub, on a reactor, where it then goes on; none when one is under way already. `rate` is in bytes a second.
///
/// # Errors
/// Without random bytes for its id.
pub(crate) async fn begin<D: Disk>(
    volumes: &Arc<Volumes<D>>,
    pool: &Arc<Pool<D>>,
    name: &str,
    rate: Option<u64>,
) -> Result<Option<()>, ApiError> {
    let id = job_id(JobKind::Scrub, &random_hex()?);
    let now = Scrub { job: Some(id), ..blank(name, ScrubState::Running, pool.status().used, rate) };
    let kept = of_scrub(&now);
    let job = Arc::new(Job { stop: AtomicBool::new(false), now: Mutex::new(now) });
    if volumes.scrubs.enter(pool.id(), Arc::clone(&job)).is_none() {
        return Ok(None);
    }
    if let Some(kept) = kept {
        volumes.jobs.begin(volumes.pools.main(), &kept).await;
    }
    drop(cairn_uring::spawn(run(Arc::clone(volumes), Arc::clone(pool), job)));
    Ok(Some(()))
}

/// The pool's last scrub of an earlier daemon.
fn kept<D: Disk>(pool: &Pool<D>) -> Option<Scrub> {
    serde_json::from_str(pool.attributes(Holder::Pool).ok()?.get(LAST)?).ok()
}

fn blank(pool: &str, state: ScrubState, total: u64, rate: Option<u64>) -> Scrub {
    Scrub {
        pool: pool.to_owned(),
        job: None,
        state,
        started: (state == ScrubState::Running).then(jiff::Timestamp::now),
        ended: None,
        rate,
        read: 0,
        total,
        nodes: 0,
        data_blocks: 0,
        fault_count: 0,
        faults: Vec::new(),
        error: None,
    }
}

async fn run<D: Disk>(volumes: Arc<Volumes<D>>, pool: Arc<Pool<D>>, job: Arc<Job>) {
    let (name, id, rate) = {
        let now = job.now.lock();
        (now.pool.clone(), now.job.clone(), now.rate)
    };
    let (courtesy, events) = (&volumes.courtesy, &volumes.events);
    let about = About { job: id.as_deref(), ..About::named(&name) };
    tracing::info!(pool = name, "a scrub begins");
    events.tell(EventKind::ScrubBegun, about, format!("a scrub of pool {name} begins"));
    let (mut cursor, began, mut read) = (Cursor::default(), Instant::now(), 0);
    let outcome = loop {
        if volumes.jobs.is_closing() {
            return;
        }
        if job.stop.load(Ordering::Relaxed) {
            break (ScrubState::Stopped, None);
        }
        let busy = courtesy.divides(u32::MAX);
        let blocks = if busy { PIECE as usize / cairn_cow::BLOCK_BYTES } else { MOST_BLOCKS };
        let step = match courtesy.in_turn(pool.scrub_step(&mut cursor, blocks)).await {
            Ok(step) => step,
            Err(error) => break (ScrubState::Failed, Some(error.with_cause())),
        };
        read += step.bytes;
        {
            let mut now = job.now.lock();
            (now.read, now.nodes, now.data_blocks) = (read, cursor.nodes, cursor.data_blocks);
            // What is written meanwhile comes on top.
            now.total = now.total.max(read);
            for (_, sentence) in step.faults {
                now.fault_count += 1;
                if now.faults.len() < MOST_FAULTS {
                    tracing::error!(pool = name, "a scrub found damage: {sentence}");
                    let message = format!("pool {name}: {sentence}");
                    events.tell_of(Severity::Error, EventKind::ScrubFault, about, message);
                    now.faults.push(sentence);
                }
            }
        }
        if step.done {
            break (ScrubState::Finished, None);
        }
        keep_to(rate, read, began, &job).await;
    };
    let last = {
        let (state, error) = outcome;
        Scrub { state, error, ended: Some(jiff::Timestamp::now()), ..job.now.lock().clone() }
    };
    // Before it shows that it has ended, so that nobody is told what the next daemon would not know.
    if let Some(ended) = of_scrub(&last) {
        volumes.jobs.end(volumes.pools.main(), ended).await;
    }
    keep(&pool, last.clone()).await;
    job.now.lock().clone_from(&last);
    let (state, faults) = (last.state.as_str(), last.fault_count);
    match &last.error {
        Some(error) => tracing::error!(pool = name, "a scrub failed: {error}"),
        None => tracing::info!(pool = name, faults, read, "a scrub has {state}"),
    }
    let severity = if last.error.is_some() || faults > 0 { Severity::Error } else { Severity::Info };
    let found = last.error.clone().unwrap_or_else(|| count(faults, "fault"));
    let message = format!("a scrub of pool {name} has {state}: {found}");
    events.tell_of(severity, EventKind::ScrubEnded, about, message);
}

/// Keeps what a scrub found with the pool, so that the next daemon knows it, too.
async fn keep<D: Disk>(pool: &Pool<D>, mut last: Scrub) {
    while encode(&last).len() > MAX_ATTRIBUTE_VALUE && last.faults.pop().is_some() {}
    if let Err(error) = pool.set_attributes(Holder::Pool, &[(LAST, Some(&encode(&last)))]).await {
        tracing::warn!(pool = last.pool, %error, "what the scrub found is not kept");
    }
}

/// Waits until so many bytes are allowed to have been read.
async fn keep_to(rate: Option<u64>, read: u64, began: Instant, job: &Job) {
    let Some(rate) = rate.filter(|rate| *rate > 0) else { return };
    let due = began + Duration::from_secs_f64(read as f64 / rate as f64);
    while !job.stop.load(Ordering::Relaxed) {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(LONGEST_SLEEP)).await;
    }
}
