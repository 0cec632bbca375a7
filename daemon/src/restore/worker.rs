//! The thread on which repositories are read.
//!
//! One of its own, so that neither the control side nor a restore can hold the other up, and none before there is
//! something to restore.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

/// Threads that wait for files of repositories: as many as are read at once, and a few for what else there is.
const BLOCKING_THREADS: usize = 48;

/// The running thread.
pub(super) struct Worker {
    access: Access,
    ending: Arc<Notify>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Gives the thread work. A clone gives it to the same.
#[derive(Clone)]
pub(super) struct Access {
    runtime: Handle,
    stopped: Arc<AtomicBool>,
}

impl Access {
    /// Begins `work`; after the end it is dropped instead.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(work));
    }

    /// Whether nothing is begun any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Does `work` on the thread.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        self.runtime.spawn(work).await.map_err(io::Error::other)
    }
}

impl Worker {
    pub(super) fn start() -> io::Result<Worker> {
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        let access = Access { runtime: runtime.handle().clone(), stopped: Arc::default() };
        let ending = Arc::new(Notify::new());
        let asked = Arc::clone(&ending);
        let thread = thread::Builder::new().name("restore".to_owned()).spawn(move || {
            runtime.block_on(asked.notified());
            // What it waits for may be a store that does not answer.
            runtime.shutdown_background();
        })?;
        Ok(Worker { access, ending, thread: Some(thread) })
    }

    pub(super) fn access(&self) -> Access {
        self.access.clone()
    }

    /// Drops all that is under way and ends the thread.
    pub(super) fn stop(mut self) {
        self.end();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that reads repositories panicked");
        }
    }

    fn end(&self) {
        self.access.stopped.store(true, Ordering::Release);
        self.ending.notify_one();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}
