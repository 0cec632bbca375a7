//! Tasks: a spawned future with its waker state and result in one allocation.
//!
//! A task is shared by the reactor's slab (until it is finished), the ready queue, wakers on any thread, and its
//! [`JoinHandle`]. Only the reactor's thread ever touches the future and the result; other threads touch the
//! `queued` flag and the reference count.
//!
//! **Invariant:** when the last reference goes, perhaps on another thread, future and result are already gone: the
//! slab's reference lives until the future was dropped on the reactor's thread, and the result is dropped by the
//! join handle, which cannot leave that thread, or by the task itself when there is none.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::core::Core;
use super::remote::Shared;
use crate::slab::Key;

/// A task, whatever its future's type.
pub(super) trait Runnable: Send + Sync {
    /// Polls the task once. On the reactor's thread only.
    fn run(self: Arc<Self>, core: &Core);
    /// Drops the future of an unfinished task. On the reactor's thread only.
    fn cancel(&self, core: &Core);
}

/// A task whose future gives a `T`, for its join handle. On the reactor's thread only.
trait Joinable<T> {
    fn poll_join(&self, cx: &mut Context<'_>) -> Poll<Outcome<T>>;
    fn is_finished(&self) -> bool;
    fn abort(&self, core: &Core);
    fn detach(&self);
}

/// How a task ended.
enum Outcome<T> {
    Value(T),
    Panic(Box<dyn Any + Send>),
    Aborted,
}

enum Join<T> {
    /// Not finished; the waker of whoever awaits the handle.
    Running(Option<Waker>),
    Finished(Outcome<T>),
    /// Nobody wants the result, or it was picked up.
    Gone {
        finished: bool,
    },
}

struct Task<F: Future> {
    shared: Arc<Shared>,
    /// Set while the task is in a ready queue or about to be put there.
    queued: AtomicBool,
    key: Cell<Option<Key>>,
    /// Someone asked for the end while the future was running.
    aborted: Cell<bool>,
    future: RefCell<Option<F>>,
    join: RefCell<Join<F::Output>>,
}

// SAFETY: other threads hold references only as wakers, through which they reach `shared` (itself `Sync`), the atomic
// flag, and the reference count. All other fields are touched in `Runnable` and `Joinable`, which are called on the
// reactor's thread only: by the reactor, and by `JoinHandle`, which is not `Send`. By the module's invariant nothing
// is left in them when a foreign thread drops the last reference.
unsafe impl<F: Future> Send for Task<F> {}
// SAFETY: as above.
unsafe impl<F: Future> Sync for Task<F> {}

/// Puts a new task into `core` and queues it for its first poll.
pub(super) fn spawn<F: Future + 'static>(core: &Rc<Core>, future: F) -> JoinHandle<F::Output> {
    let task = Arc::new(Task {
        shared: Arc::clone(core.shared()),
        queued: AtomicBool::new(true),
        key: Cell::new(None),
        aborted: Cell::new(false),
        future: RefCell::new(Some(future)),
        join: RefCell::new(Join::Running(None)),
    });
    let key = core.tasks().insert(Arc::clone(&task) as Arc<dyn Runnable>);
    task.key.set(Some(key));
    core.make_ready(Arc::clone(&task) as Arc<dyn Runnable>);
    JoinHandle { task, core: Rc::clone(core) }
}

impl<F: Future + 'static> Task<F> {
    /// Drops the future where it is, stores how it ended, and takes the task out of the slab.
    fn finish(&self, core: &Core, outcome: Outcome<F::Output>) {
        let dropped = catch_unwind(AssertUnwindSafe(|| *self.future.borrow_mut() = None));
        let outcome = match dropped {
            Ok(()) => outcome,
            Err(panic) => Outcome::Panic(panic),
        };
        let awaited = matches!(&*self.join.borrow(), Join::Running(_));
        let previous = if awaited {
            self.join.replace(Join::Finished(outcome))
        } else {
            // Detached. A panic was already reported by the panic hook; one more while dropping the result is too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(outcome)));
            self.join.replace(Join::Gone { finished: true })
        };
        if let Some(key) = self.key.take() {
            core.task_finished(key);
        }
        if let Join::Running(Some(waker)) = previous {
            waker.wake();
        }
    }
}

impl<F: Future + 'static> Runnable for Task<F> {
    fn run(self: Arc<Self>, core: &Core) {
        // From here on a wake-up queues the task again. Acquire: see what the waking thread did before.
        self.queued.swap(false, Ordering::AcqRel);
        let waker = Waker::from(Arc::clone(&self));
        let polled = {
            let Ok(mut slot) = self.future.try_borrow_mut() else { return };
            let Some(future) = slot.as_mut() else { return };
            // SAFETY: the future lives inside the task's allocation, is never moved out of its slot, and is dropped
            // in place by `finish`.
            let future = unsafe { Pin::new_unchecked(future) };
            catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(&waker))))
        };
        match polled {
            Ok(Poll::Ready(value)) => self.finish(core, Outcome::Value(value)),
            Err(panic) => self.finish(core, Outcome::Panic(panic)),
            Ok(Poll::Pending) if self.aborted.get() => self.finish(core, Outcome::Aborted),
            Ok(Poll::Pending) => {}
        }
    }

    fn cancel(&self, core: &Core) {
        self.abort(core);
    }
}

impl<F: Future + 'static> Joinable<F::Output> for Task<F> {
    fn poll_join(&self, cx: &mut Context<'_>) -> Poll<Outcome<F::Output>> {
        let mut join = self.join.borrow_mut();
        if let Join::Running(waker) = &mut *join {
            let stale = match waker {
                Some(known) if known.will_wake(cx.waker()) => None,
                _ => waker.replace(cx.waker().clone()),
            };
            drop(join);
            drop(stale);
            return Poll::Pending;
        }
        match std::mem::replace(&mut *join, Join::Gone { finished: true }) {
            Join::Finished(outcome) => Poll::Ready(outcome),
            Join::Running(_) | Join::Gone { .. } => {
                panic!("a join handle was polled after it gave its result")
            }
        }
    }

    fn is_finished(&self) -> bool {
        matches!(&*self.join.borrow(), Join::Finished(_) | Join::Gone { finished: true })
    }

    fn abort(&self, core: &Core) {
        let unfinished = match self.future.try_borrow() {
            // Running, or being dropped, further up this very stack: `run` sees the flag when the poll returns.
            Err(_) => return self.aborted.set(true),
            Ok(slot) => slot.is_some(),
        };
        if unfinished {
            self.finish(core, Outcome::Aborted);
        }
    }

    fn detach(&self) {
        let previous = {
            let mut join = self.join.borrow_mut();
            let finished = !matches!(&*join, Join::Running(_));
            std::mem::replace(&mut *join, Join::Gone { finished })
        };
        drop(previous);
    }
}

impl<F: Future + 'static> Wake for Task<F> {
    fn wake(self: Arc<Self>) {
        // Release: what we did before is seen by the poll that follows.
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let task: Arc<dyn Runnable> = self;
        if let Err(task) = Core::make_ready_if_current(&shared, task) {
            shared.wake_task(task);
        }
    }
}

/// Waits for a task of this reactor: a future of what the task's future gives.
///
/// Dropping it detaches the task, which goes on running. Awaiting it resumes the task's panic if it panicked.
///
/// # Panics
///
/// When awaited after the task was [aborted](JoinHandle::abort) or its reactor dropped.
pub struct JoinHandle<T> {
    task: Arc<dyn Joinable<T>>,
    /// Also keeps the handle on its thread.
    core: Rc<Core>,
}

impl<T> JoinHandle<T> {
    /// Whether the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends the task by dropping its future: at once, or when its current poll returns if it aborts itself. Operations
    /// it has in flight are cancelled; their buffers stay with the reactor until the kernel is done with them. Does
    /// nothing when the task has ended already.
    pub fn abort(&self) {
        self.task.abort(&self.core);
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.task.poll_join(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Outcome::Value(value)) => Poll::Ready(value),
            Poll::Ready(Outcome::Panic(panic)) => resume_unwind(panic),
            Poll::Ready(Outcome::Aborted) => panic!("awaited a task that was aborted"),
        }
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        self.task.detach();
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}
