//! Things a caller holds on to while an operation runs: a brake, a way to stop it, and how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};

/// Bytes a second that may go to or come from the store. Whole requests are held back, so the rate holds on average
/// and one request (a pack, 16 MiB) goes at the speed of the line. Clones share one limit.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<LimiterState>);

#[derive(Debug)]
struct LimiterState {
    bytes_per_second: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Limiter {
    /// A limit; zero is taken as one byte.
    pub fn new(bytes_per_second: u64) -> Limiter {
        let bytes_per_second = bytes_per_second.max(1);
        Limiter(Arc::new(LimiterState { bytes_per_second, free_at: Mutex::new(None) }))
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn admit(&self, bytes: usize) {
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / self.0.bytes_per_second as f64);
        let at = {
            let mut free_at = self.0.free_at.lock();
            let at = free_at.unwrap_or(now).max(now);
            *free_at = Some(at + cost);
            at
        };
        // What is sent now is paid for before anything else goes.
        tokio::time::sleep_until(at.into()).await;
    }
}

/// Asks an operation to stop. Clones ask the same operation.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<CancelState>);

#[derive(Default, Debug)]
struct CancelState {
    asked: AtomicBool,
    changed: Notify,
}

impl Cancel {
    /// One that nobody has used yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks for the end. What was uploaded stays, and the next backup does not send it again.
    pub fn cancel(&self) {
        self.0.asked.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Whether the end was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }

    /// Does `work` unless the end is asked for first.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let asked = self.0.changed.notified();
        tokio::pin!(asked);
        asked.as_mut().enable();
        self.check()?;
        tokio::select! {
            biased;
            () = asked => Err(cancelled()),
            done = work => done,
        }
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped as asked")
}

/// What an operation is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Reading what the repository holds.
    Preparing,
    /// Moving data.
    Copying,
    /// Making the result count.
    Finishing,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes of the volume that are to be gone through: its size, or what changed as far as that is known by now.
    pub bytes_total: u64,
    /// Bytes of the volume gone through, holes included.
    pub bytes_done: u64,
    /// Bytes read from the volume, or written to the target.
    pub bytes_copied: u64,
    /// Bytes sent to the store, or got from it.
    pub bytes_transferred: u64,
    /// Since the operation began.
    pub elapsed: Duration,
    /// Bytes of the volume gone through a second, over the last seconds.
    pub bytes_per_second: u64,
}

impl Progress {
    /// How long it will take at the present rate.
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.bytes_total.checked_sub(self.bytes_done)?;
        (self.bytes_per_second > 0).then(|| Duration::from_secs(left.div_ceil(self.bytes_per_second)))
    }
}

/// Who is told, on the operation's own task: it must not wait.
pub type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Keeps the figures and tells them a few times a second.
pub(crate) struct Meter {
    tell: Option<OnProgress>,
    began: Instant,
    told: Option<Instant>,
    /// Time and bytes done at the ends of past seconds, for the rate.
    marks: std::collections::VecDeque<(Instant, u64)>,
    pub(crate) now: Progress,
}

/// How often is told how far it is while nothing happens.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// Seconds that the rate is taken over.
const RATE_WINDOW: usize = 5;

impl Meter {
    pub(crate) fn new(tell: Option<OnProgress>) -> Meter {
        let began = Instant::now();
        let now = Progress {
            phase: Phase::Preparing,
            bytes_total: 0,
            bytes_done: 0,
            bytes_copied: 0,
            bytes_transferred: 0,
            elapsed: Duration::ZERO,
            bytes_per_second: 0,
        };
        Meter { tell, began, told: None, marks: [(began, 0)].into(), now }
    }

    pub(crate) fn phase(&mut self, phase: Phase) {
        self.now.phase = phase;
        self.report();
    }

    /// Does `work`, and goes on telling what is `transferred` while it takes its time.
    pub(crate) async fn during<T>(&mut self, transferred: &AtomicU64, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let waited = tokio::time::timeout(TELL_AGAIN, &mut work).await;
            self.now.bytes_transferred = transferred.load(Ordering::Relaxed);
            match waited {
                Ok(done) => return done,
                Err(_) => self.report(),
            }
        }
    }

    /// Tells if it is time to.
    pub(crate) fn tick(&mut self) {
        if self.told.is_none_or(|told| told.elapsed() >= Duration::from_millis(200)) {
            self.report();
        }
    }

    fn report(&mut self) {
        let now = Instant::now();
        self.told = Some(now);
        self.now.elapsed = now - self.began;
        if let Some(&(since, bytes)) = self.marks.front() {
            let time = (now - since).as_secs_f64().max(1e-3);
            self.now.bytes_per_second = (self.now.bytes_done.saturating_sub(bytes) as f64 / time) as u64;
        }
        if self.marks.back().is_some_and(|(at, _)| now - *at >= Duration::from_secs(1)) {
            self.marks.push_back((now, self.now.bytes_done));
            if self.marks.len() > RATE_WINDOW {
                self.marks.pop_front();
            }
        }
        if let Some(tell) = &self.tell {
            tell(&self.now);
        }
    }
}
