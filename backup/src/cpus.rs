//! Processors for what computes: hashing, compressing and decoding, away from the tasks that wait for the store and the
//! disk.
//!
//! Whoever wakes up while something computes may have to wait for as long as that goes on, a millisecond for each stretch
//! of a volume, whatever their priorities: the kernel compares those only within a session. So what computes pauses
//! every now and then, unless other work waits for its processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::error::Result;
use crate::task::task_failed;

/// Computing for less than that is in nobody's way.
const BURST: Duration = Duration::from_micros(100);
/// How many times as long as it computed the pause is.
const PAUSE: u32 = 2;

/// Threads that compute at once.
pub(crate) struct Cpus {
    threads: Arc<Semaphore>,
    /// Work that waits for a thread.
    waiting: AtomicUsize,
}

impl Cpus {
    pub(crate) fn new(threads: usize) -> Arc<Cpus> {
        Arc::new(Cpus { threads: Arc::new(Semaphore::new(threads.max(1))), waiting: AtomicUsize::new(0) })
    }

    /// Does `work` once a thread is free. Begun, it goes on though nobody waits for it any more.
    pub(crate) async fn compute<T: Send + 'static>(
        self: &Arc<Cpus>,
        work: impl FnOnce(&mut Pace) -> T + Send + 'static,
    ) -> Result<T> {
        let waiting = Waiting::new(self);
        // It is never closed.
        let thread = self.threads.clone().acquire_owned().await;
        drop(waiting);
        let cpus = Arc::clone(self);
        let work = move || {
            let _thread = thread;
            work(&mut Pace { cpus, since: Instant::now() })
        };
        tokio::task::spawn_blocking(work).await.map_err(task_failed)
    }
}

/// One that waits, also if it stops waiting.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(cpus: &Cpus) -> Waiting<'_> {
        cpus.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&cpus.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes the pauses of one piece of work.
pub(crate) struct Pace {
    cpus: Arc<Cpus>,
    since: Instant,
}

impl Pace {
    /// A part of the work is done: pauses if it is time to.
    pub(crate) fn pause(&mut self) {
        let computed = self.since.elapsed();
        if computed >= BURST {
            std::thread::sleep(self.pause_after(computed));
            self.since = Instant::now();
        }
    }

    fn pause_after(&self, computed: Duration) -> Duration {
        match self.cpus.waiting.load(Ordering::Relaxed) {
            0 => computed * PAUSE,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn who_computes_pauses_unless_others_wait() {
        let cpus = Cpus::new(1);
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let mut first = pin!(cpus.compute(move |pace| {
            wait.recv().expect("the test goes on");
            pace.pause_after(BURST)
        }));
        let mut second = pin!(cpus.compute(|pace| pace.pause_after(BURST)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        go_on.send(()).expect("it waits");
        let (first, second) = futures_util::future::join(first, second).await;
        assert_eq!(first.expect("nothing fails"), Duration::ZERO, "the second waits behind it");
        assert_eq!(second.expect("nothing fails"), BURST * PAUSE);
    }

    #[tokio::test]
    async fn who_stops_waiting_does_not_count() {
        let cpus = Cpus::new(1);
        let held = cpus.threads.clone().acquire_owned().await.expect("it is never closed");
        {
            let mut stops = pin!(cpus.compute(|_| ()));
            assert!(stops.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(cpus.waiting.load(Ordering::Relaxed), 1);
        }
        assert_eq!(cpus.waiting.load(Ordering::Relaxed), 0);
        drop(held);
    }
}
