//! Scrubs of pools: all that is stored is read in the background, so that damage is found in time.
//!
//! A scrub gives way to clients as other bulk reads do ([`crate::courtesy`]), and keeps to a rate if it is given one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cairn_api::event::{EventKind, Severity};
use cairn_api::pool::{Scrub, ScrubState};
use cairn_api::report::count;
use cairn_cow::{Disk, Holder, MAX_ATTRIBUTE_VALUE, Pool, Scrub as Cursor};
use cairn_uring::sleep;
use parking_lot::Mutex;

use crate::courtesy::{Courtesy, PIECE};
use crate::events::{About, Events};
use crate::settings::encode;

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

    /// Tells the pool's scrub to end. Returns whether one was under way.
    pub(crate) fn stop(&self, pool: [u8; 16]) -> bool {
        let jobs = self.0.lock();
        let running = jobs.get(&pool).filter(|job| job.now.lock().state == ScrubState::Running);
        running.inspect(|job| job.stop.store(true, Ordering::Relaxed)).is_some()
    }

    /// Waits until the pool's scrub has ended, which was told to.
    pub(crate) async fn ended(&self, pool: [u8; 16]) {
        while self.stop(pool) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Begins one and sees it through, on a reactor; `None` when one is under way already. `rate` is in bytes a second.
    pub(crate) fn begin<D: Disk>(
        &self,
        pool: &Arc<Pool<D>>,
        name: &str,
        rate: Option<u64>,
        (courtesy, events): (&Arc<Courtesy>, &Arc<Events>),
    ) -> Option<impl Future<Output = ()> + use<D>> {
        let mut jobs = self.0.lock();
        if jobs.get(&pool.id()).is_some_and(|job| job.now.lock().state == ScrubState::Running) {
            return None;
        }
        let now = blank(name, ScrubState::Running, pool.status().used, rate);
        let job = Arc::new(Job { stop: AtomicBool::new(false), now: Mutex::new(now) });
        jobs.insert(pool.id(), Arc::clone(&job));
        Some(run(Arc::clone(pool), job, Arc::clone(courtesy), Arc::clone(events)))
    }
}

/// The pool's last scrub of an earlier daemon.
fn kept<D: Disk>(pool: &Pool<D>) -> Option<Scrub> {
    serde_json::from_str(pool.attributes(Holder::Pool).ok()?.get(LAST)?).ok()
}

fn blank(pool: &str, state: ScrubState, total: u64, rate: Option<u64>) -> Scrub {
    Scrub {
        pool: pool.to_owned(),
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

async fn run<D: Disk>(pool: Arc<Pool<D>>, job: Arc<Job>, courtesy: Arc<Courtesy>, events: Arc<Events>) {
    let (name, rate) = {
        let now = job.now.lock();
        (now.pool.clone(), now.rate)
    };
    tracing::info!(pool = name, "a scrub begins");
    events.tell(EventKind::ScrubBegun, About::named(&name), format!("a scrub of pool {name} begins"));
    let (mut cursor, began, mut read) = (Cursor::default(), Instant::now(), 0);
    let outcome = loop {
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
                    events.tell_of(Severity::Error, EventKind::ScrubFault, About::named(&name), message);
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
        let mut now = job.now.lock();
        (now.state, now.error) = outcome;
        now.ended = Some(jiff::Timestamp::now());
        now.clone()
    };
    let (state, faults) = (last.state.as_str(), last.fault_count);
    match &last.error {
        Some(error) => tracing::error!(pool = name, "a scrub failed: {error}"),
        None => tracing::info!(pool = name, faults, read, "a scrub has {state}"),
    }
    let severity = if last.error.is_some() || faults > 0 { Severity::Error } else { Severity::Info };
    let found = last.error.clone().unwrap_or_else(|| count(faults, "fault"));
    let message = format!("a scrub of pool {name} has {state}: {found}");
    events.tell_of(severity, EventKind::ScrubEnded, About::named(&name), message);
    keep(&pool, last).await;
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
