//! [`RemoteJoin`]: another thread waits for a task's result.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::remote::Closed;

enum State<T> {
    Pending(Option<Waker>),
    /// `Err` when the task ended without a result.
    Done(Result<T, Closed>),
    Taken,
}

struct Cell<T> {
    state: Mutex<State<T>>,
    done: Condvar,
}

impl<T> Cell<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Only moves happen under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's side; dropping it unused tells the other side that no result will come.
pub(super) struct Completer<T> {
    cell: Option<Arc<Cell<T>>>,
}

/// Waits for a task started with [`spawn_with`](super::Handle::spawn_with), from any thread: as a future on any
/// executor, or [blocking](RemoteJoin::wait). Dropping it detaches the task.
///
/// Gives [`Closed`] when the task ended without a result: it panicked, or its reactor was dropped before it was done.
pub struct RemoteJoin<T> {
    cell: Arc<Cell<T>>,
}

pub(super) fn pair<T>() -> (Completer<T>, RemoteJoin<T>) {
    let cell = Arc::new(Cell { state: Mutex::new(State::Pending(None)), done: Condvar::new() });
    (Completer { cell: Some(Arc::clone(&cell)) }, RemoteJoin { cell })
}

impl<T> Completer<T> {
    pub(super) fn complete(mut self, value: T) {
        self.finish(Ok(value));
    }

    fn finish(&mut self, outcome: Result<T, Closed>) {
        let Some(cell) = self.cell.take() else { return };
        let previous = std::mem::replace(&mut *cell.state(), State::Done(outcome));
        cell.done.notify_all();
        if let State::Pending(Some(waker)) = previous {
            waker.wake();
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.finish(Err(Closed));
    }
}

impl<T> RemoteJoin<T> {
    /// Blocks this thread until the task has ended. Not for use on a reactor's thread, which it would stop.
    ///
    /// # Errors
    ///
    /// [`Closed`] when the task ended without a result.
    ///
    /// # Panics
    ///
    /// When the result was taken by polling before.
    pub fn wait(self) -> Result<T, Closed> {
        let mut state = self.cell.state();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Done(outcome) => return outcome,
                pending @ State::Pending(_) => *state = pending,
                State::Taken => panic!("the task's result was taken before"),
            }
            state = self.cell.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Future for RemoteJoin<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.cell.state();
        let stale = match std::mem::replace(&mut *state, State::Taken) {
            State::Done(outcome) => return Poll::Ready(outcome),
            State::Pending(known) => {
                *state = State::Pending(Some(cx.waker().clone()));
                known
            }
            State::Taken => panic!("the task's result was taken before"),
        };
        drop(state);
        drop(stale);
        Poll::Pending
    }
}

impl<T> fmt::Debug for RemoteJoin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = !matches!(&*self.cell.state(), State::Pending(_));
        f.debug_struct("RemoteJoin").field("done", &done).finish()
    }
}
