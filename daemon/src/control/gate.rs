//! Bounds on what the control side does at once and on how long a client waits.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::error::{ApiError, ErrorCode};
use tokio::sync::{Semaphore, TryAcquireError};

use super::engine::Pending;

/// Operations in the engine at once; more wait in the order they came.
const MAX_RUNNING: usize = 64;
/// Operations running or waiting; more are refused. Larger than the server's limit on connections would be useless.
const MAX_QUEUED: usize = 1024;
/// Operations that wait for somebody else's I/O to end, at once; more are refused. Apart from the others, so that disks
/// which are slow to let go never keep the quick operations waiting.
const MAX_DRAINING: usize = 64;
/// How long a client waits for an operation that should be quick. Generous: a barrier on a busy disk takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an operation may take, as its client sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    /// Answers within [`PATIENCE`], or its client is told to look again later.
    Short,
    /// Takes as long as it takes, one at a time: it may read much of a pool.
    Long,
    /// Takes as long as somebody else's I/O takes to end, without work of its own: many at a time.
    Drain,
}

/// Runs engine calls apart from their clients and within bounds.
pub(super) struct Gate {
    running: Arc<Semaphore>,
    queued: Arc<Semaphore>,
    long: Arc<Semaphore>,
    draining: Arc<Semaphore>,
    patience: Duration,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate::with_patience(PATIENCE)
    }

    fn with_patience(patience: Duration) -> Gate {
        Gate {
            running: Arc::new(Semaphore::new(MAX_RUNNING)),
            queued: Arc::new(Semaphore::new(MAX_QUEUED)),
            long: Arc::new(Semaphore::new(1)),
            draining: Arc::new(Semaphore::new(MAX_DRAINING)),
            patience,
        }
    }

    /// Runs `pending` to its end, whether or not the returned future is kept: permits are given back when the
    /// engine is done, not when the client goes away.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        length: Length,
        pending: impl FnOnce() -> Pending<T>,
    ) -> Result<T, ApiError> {
        let place = match length {
            Length::Short => Arc::clone(&self.queued).try_acquire_owned(),
            Length::Long => Arc::clone(&self.long).try_acquire_owned(),
            Length::Drain => Arc::clone(&self.draining).try_acquire_owned(),
        };
        let place = place.map_err(|e| refused(length, &e))?;
        let running = match length {
            Length::Short => Some(Arc::clone(&self.running)),
            Length::Long | Length::Drain => None,
        };
        let pending = pending();
        let task = tokio::spawn(async move {
            let _place = place;
            let _turn = match running {
                // The semaphore is never closed.
                Some(running) => running.acquire_owned().await.ok(),
                None => None,
            };
            pending.await
        });
        let joined = match length {
            Length::Long | Length::Drain => task.await,
            Length::Short => match tokio::time::timeout(self.patience, task).await {
                Ok(joined) => joined,
                Err(_) => return Err(took_too_long(self.patience)),
            },
        };
        joined.unwrap_or_else(|e| {
            tracing::error!(error = %e, "a control operation panicked");
            Err(ApiError::new(ErrorCode::Internal, "the operation failed unexpectedly")
                .with_hint("see the daemon's log, and report it"))
        })
    }
}

fn refused(length: Length, error: &TryAcquireError) -> ApiError {
    match (length, error) {
        (_, TryAcquireError::Closed) => ApiError::new(ErrorCode::Unavailable, "the daemon is shutting down"),
        (Length::Long, TryAcquireError::NoPermits) => {
            ApiError::new(ErrorCode::Busy, "a comparison is already under way")
                .with_hint("wait for it to end, then try again")
        }
        (Length::Drain, TryAcquireError::NoPermits) => {
            ApiError::new(ErrorCode::Busy, "too many operations wait for I/O to end")
                .with_hint("try again when some have ended")
        }
        (Length::Short, TryAcquireError::NoPermits) => {
            ApiError::new(ErrorCode::Unavailable, "the daemon has too many requests waiting")
                .with_hint("try again in a moment")
        }
    }
}

fn took_too_long(patience: Duration) -> ApiError {
    ApiError::new(ErrorCode::Timeout, format!("no answer within {} seconds", patience.as_secs()))
        .with_hint("the operation is still under way and may complete; look before trying it again")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn an_operation_outlives_its_client() {
        runtime().block_on(async {
            let gate = Gate::with_patience(Duration::from_millis(1));
            let (go, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let done = Arc::new(AtomicBool::new(false));
            let (inner_go, inner_ended, inner_done) = (go.clone(), ended.clone(), done.clone());
            let error = gate
                .run(Length::Short, move || {
                    Box::pin(async move {
                        inner_go.notified().await;
                        inner_done.store(true, Ordering::SeqCst);
                        inner_ended.notify_one();
                        Ok(())
                    })
                })
                .await
                .expect_err("the client loses patience");
            assert_eq!(error.code, ErrorCode::Timeout);
            assert!(!done.load(Ordering::SeqCst));
            go.notify_one();
            ended.notified().await;
            assert!(done.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn one_long_operation_at_a_time() {
        runtime().block_on(async {
            let gate = Arc::new(Gate::new());
            let (go, started) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let first = {
                let (gate, go, started) = (gate.clone(), go.clone(), started.clone());
                tokio::spawn(async move {
                    gate.run(Length::Long, move || {
                        Box::pin(async move {
                            started.notify_one();
                            go.notified().await;
                            Ok(1)
                        })
                    })
                    .await
                })
            };
            started.notified().await;
            let second = gate.run(Length::Long, || Box::pin(async { Ok(2) })).await;
            assert_eq!(second.expect_err("one at a time").code, ErrorCode::Busy);
            let short = gate.run(Length::Short, || Box::pin(async { Ok(3) })).await;
            assert_eq!(short, Ok(3), "short operations do not wait for a long one");
            go.notify_one();
            assert_eq!(first.await.expect("joins"), Ok(1));
            assert_eq!(gate.run(Length::Long, || Box::pin(async { Ok(4) })).await, Ok(4));
        });
    }

    #[test]
    fn operations_that_drain_are_waited_for_side_by_side() {
        runtime().block_on(async {
            let gate = Arc::new(Gate::with_patience(Duration::ZERO));
            let ends = Arc::new(Semaphore::new(0));
            let drain = || {
                let (gate, ends) = (gate.clone(), ends.clone());
                tokio::spawn(async move {
                    gate.run(Length::Drain, move || {
                        Box::pin(async move {
                            ends.acquire().await.expect("open").forget();
                            Ok(())
                        })
                    })
                    .await
                })
            };
            let waiting: Vec<_> = (0..MAX_DRAINING).map(|_| drain()).collect();
            while gate.draining.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(drain().await.expect("joins").expect_err("full").code, ErrorCode::Busy);
            let long = gate.run(Length::Long, || Box::pin(async { Ok(1) })).await;
            assert_eq!(long, Ok(1), "others do not wait for them");
            ends.add_permits(MAX_DRAINING);
            for one in waiting {
                assert_eq!(one.await.expect("joins"), Ok(()), "patience is for short operations");
            }
        });
    }

    #[test]
    fn a_panic_is_an_answer() {
        runtime().block_on(async {
            let gate = Gate::new();
            let answer: Result<(), _> =
                gate.run(Length::Short, || Box::pin(async { panic!("expected by the test") })).await;
            assert_eq!(answer.expect_err("an error").code, ErrorCode::Internal);
        });
    }
}
