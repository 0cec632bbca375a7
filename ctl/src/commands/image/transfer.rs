//! Work on a thread of its own, with a progress bar, until it ends or somebody ends it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cairn_image::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::output::Output;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);
/// How long work that was cancelled may take to end, before it is left to the end of the process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches over work that takes its time. From when it is made, signals do not end the process at once.
pub(super) struct Transfer {
    watch: Arc<Watch>,
    bar: ProgressBar,
    interrupt: Signal,
    terminate: Signal,
}

impl Transfer {
    pub(super) fn new(output: &Output) -> Result<Transfer, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| Failure::local("internal", format!("cannot wait for signals: {e}")))
        };
        let bar = ProgressBar::new_spinner();
        if output.json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Ok(Transfer {
            watch: Arc::default(),
            bar,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Says how much there is to do: so many bytes, or nobody knows.
    pub(super) fn expect(&self, total: Option<u64>) {
        let template = match total {
            Some(total) => {
                self.bar.set_length(total);
                "{bar:24} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
            }
            None => "{spinner} {bytes}  {bytes_per_sec}  {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
    }

    /// Does `work` on another thread. When a signal comes it is told so, and given some time to end.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Watch) -> Result<T, cairn_image::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let (done, mut ended) = oneshot::channel();
        let watch = Arc::clone(&self.watch);
        let started = thread::Builder::new().name("transfer".to_owned()).spawn(move || {
            // Nobody waits any more when it took too long to be cancelled.
            let _ = done.send(work(&watch));
        });
        started.map_err(|e| Failure::local("internal", format!("cannot start a thread: {e}")))?;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut ended => {
                    self.bar.set_position(self.watch.position());
                    let broken = |_| Failure::local("internal", "the transfer failed unexpectedly");
                    return Ok(done.map_err(broken)??);
                }
                _ = ticks.tick() => self.bar.set_position(self.watch.position()),
                _ = self.interrupt.recv() => break,
                _ = self.terminate.recv() => break,
            }
        }
        self.watch.cancel();
        // What it says then does not matter.
        let _ = tokio::time::timeout(PATIENCE, ended).await;
        Err(Failure::local("cancelled", "cancelled: nothing is left of it"))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
