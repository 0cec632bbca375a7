//! A reactor's state on its own thread, and the loop.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::Config;
use super::driver::{Completion, Driver, Wait};
use super::idle::Idle;
use super::remote::{Message, Shared};
use super::task::Runnable;
use super::timers::Timers;
use crate::local::{Event, Notify};
use crate::slab::{Key, Slab};

/// Task polls per turn: bounds how long completions and submissions wait for tasks that keep waking each other.
const POLLS_PER_TURN: usize = 256;
/// What such tasks may take of a turn together, when each of their polls is long.
const TIME_PER_TURN: Duration = Duration::from_micros(100);

thread_local! {
    /// The reactor this thread is running.
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// A reactor as its thread sees it. Every field is borrowed for the moment only, never while foreign code (a poll, a
/// drop, a waker) runs.
pub(crate) struct Core {
    shared: Arc<Shared>,
    driver: RefCell<Driver>,
    timers: RefCell<Timers>,
    ready: RefCell<VecDeque<Arc<dyn Runnable>>>,
    /// All unfinished tasks.
    tasks: RefCell<Slab<Arc<dyn Runnable>>>,
    idle: RefCell<Idle>,
    /// The same while a disk works for somebody.
    idle_for_disk: RefCell<Idle>,
    /// Operations in flight that end when a local disk has done its part.
    pub(super) disk_waits: Cell<usize>,
    /// Set when shutdown was requested.
    closing: Event,
    /// Notified when the last task ends during shutdown.
    tasks_ended: Notify,
    /// The loop's own scratch space, kept to spare allocations.
    completions: Cell<Vec<Completion>>,
    messages: Cell<Vec<Message>>,
}

impl Core {
    pub(super) fn new(config: &Config) -> io::Result<Rc<Self>> {
        let shared = Arc::new(Shared::new()?);
        let driver = Driver::new(config.entries, Arc::clone(&shared))?;
        Ok(Rc::new(Self {
            shared,
            driver: RefCell::new(driver),
            timers: RefCell::default(),
            ready: RefCell::default(),
            tasks: RefCell::new(Slab::new()),
            idle: RefCell::new(Idle::new(config.poll)),
            idle_for_disk: RefCell::new(Idle::new(config.poll_disk)),
            disk_waits: Cell::new(0),
            closing: Event::new(),
            tasks_ended: Notify::new(),
            completions: Cell::default(),
            messages: Cell::default(),
        }))
    }

    /// The reactor this thread is running, if any.
    pub(crate) fn try_current() -> Option<Rc<Self>> {
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    /// As [`try_current`](Core::try_current).
    ///
    /// # Panics
    ///
    /// When the thread is not running a reactor.
    pub(crate) fn current() -> Rc<Self> {
        Self::try_current().expect("called outside a reactor: use it inside `Reactor::block_on` or a task")
    }

    /// Queues `task` if this thread is running the reactor that `shared` belongs to; else gives it back.
    pub(super) fn make_ready_if_current(
        shared: &Arc<Shared>,
        task: Arc<dyn Runnable>,
    ) -> Result<(), Arc<dyn Runnable>> {
        let mut task = Some(task);
        // An error means that the thread is being torn down, and runs no reactor.
        let _ = CURRENT.try_with(|current| {
            if let Some(core) = current.borrow().as_ref().filter(|core| Arc::ptr_eq(&core.shared, shared)) {
                core.ready.borrow_mut().extend(task.take());
            }
        });
        task.map_or(Ok(()), Err)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn driver(&self) -> RefMut<'_, Driver> {
        self.driver.borrow_mut()
    }

    pub(crate) fn timers(&self) -> RefMut<'_, Timers> {
        self.timers.borrow_mut()
    }

    pub(super) fn tasks(&self) -> RefMut<'_, Slab<Arc<dyn Runnable>>> {
        self.tasks.borrow_mut()
    }

    pub(super) fn make_ready(&self, task: Arc<dyn Runnable>) {
        self.ready.borrow_mut().push_back(task);
    }

    pub(super) fn task_finished(&self, key: Key) {
        let task = self.tasks().remove(key);
        drop(task);
        self.check_ended();
    }

    fn check_ended(&self) {
        if self.closing.is_set() && self.tasks().is_empty() {
            self.tasks_ended.notify_one();
        }
    }

    /// Resolves when shutdown was requested.
    pub(super) async fn closing(&self) {
        self.closing.wait().await;
    }

    /// Resolves when shutdown was requested and all tasks have ended.
    pub(super) async fn ended(&self) {
        self.closing().await;
        while !self.tasks().is_empty() {
            self.tasks_ended.notified().await;
        }
    }

    /// Runs the loop until `future` is ready.
    pub(super) fn block_on<F: Future>(self: &Rc<Self>, future: F) -> F::Output {
        assert!(
            Self::try_current().is_none(),
            "`block_on` inside a reactor would stop it; spawn or await instead"
        );
        let _current = MadeCurrent::new(self);
        let waker = Waker::from(Arc::new(MainWaker(Arc::clone(&self.shared))));
        let mut future = pin!(future);
        self.shared.wake_main(true);
        loop {
            if self.shared.take_main_woken()
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            self.run_ready();
            self.turn();
        }
    }

    fn run_ready(&self) {
        let mut start = None;
        for _ in 0..POLLS_PER_TURN {
            let next = self.ready.borrow_mut().pop_front();
            let Some(task) = next else { break };
            let start = *start.get_or_insert_with(Instant::now);
            task.run(self);
            if start.elapsed() > TIME_PER_TURN {
                break;
            }
        }
    }

    /// Submits what the tasks queued, waits when there is nothing else to do, and hands out what came in.
    fn turn(&self) {
        let busy = !self.ready.borrow().is_empty() || self.shared.has_work();
        if busy {
            self.enter_if_needed();
        } else {
            self.wait();
        }
        self.reap();
        self.handle_messages();
        self.fire_timers();
    }

    fn wait(&self) {
        let deadline = self.timers().next_deadline();
        let start = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= start) {
            return self.enter_if_needed();
        }
        let idle = if self.disk_waits.get() > 0 { &self.idle_for_disk } else { &self.idle };
        if idle.borrow().polls() {
            self.enter_if_needed();
            let hit = idle
                .borrow()
                .poll(start, deadline, || self.driver().has_completions() || self.shared.has_work());
            if hit {
                return self.enter_if_needed();
            }
        }
        if !self.shared.begin_sleep() {
            return self.enter_if_needed();
        }
        let wait = match deadline {
            None => Wait::Forever,
            Some(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                left if left.is_zero() => Wait::No,
                left => Wait::AtMost(left),
            },
        };
        self.enter(wait);
        self.shared.end_sleep();
        idle.borrow_mut().slept(start.elapsed());
    }

    fn enter_if_needed(&self) {
        if self.driver().needs_enter() {
            self.enter(Wait::No);
        }
    }

    /// # Panics
    ///
    /// When the kernel refuses the ring altogether; there is no way on from there.
    fn enter(&self, wait: Wait) {
        let entered = self.driver().enter(wait);
        if let Err(error) = entered {
            panic!("io_uring_enter failed: {error}");
        }
    }

    fn reap(&self) {
        let mut completions = self.completions.take();
        self.driver().reap(&mut completions);
        completions.drain(..).for_each(Completion::run);
        self.completions.set(completions);
    }

    fn handle_messages(&self) {
        let mut messages = self.messages.take();
        self.shared.take_messages(&mut messages);
        for message in messages.drain(..) {
            match message {
                Message::Wake(task) => self.make_ready(task),
                // A panic in it was reported by the hook, and its caller hears of it through its `RemoteJoin`.
                Message::Run(run) => drop(catch_unwind(AssertUnwindSafe(run))),
                Message::Shutdown => {
                    self.closing.set();
                    self.check_ended();
                }
            }
        }
        self.messages.set(messages);
    }

    fn fire_timers(&self) {
        if self.timers().next_deadline().is_none() {
            return;
        }
        let now = Instant::now();
        loop {
            let due = self.timers().pop_due(now);
            let Some(waker) = due else { break };
            waker.wake();
        }
    }

    /// Ends everything: refuses messages, drops all tasks, cancels all operations and waits until the kernel is done
    /// with each.
    pub(super) fn close(self: &Rc<Self>) {
        // What is dropped here may look for its reactor.
        let _current = MadeCurrent::new(self);
        drop(self.shared.close());
        // Once is enough, unless something dropped on the way starts anew.
        while !self.tasks().is_empty() || self.driver().in_flight() > 0 {
            loop {
                let task = self.tasks().pop();
                let Some(task) = task else { break };
                task.cancel(self);
            }
            let ready = self.ready.take();
            drop(ready);
            self.driver().cancel_all();
            while self.driver().in_flight() > 0 {
                let entered = self.driver().enter(Wait::Forever);
                if entered.is_err() {
                    // The driver leaks what is still in flight.
                    return;
                }
                self.reap();
            }
        }
    }
}

/// Makes a reactor the thread's current one until dropped.
struct MadeCurrent {
    previous: Option<Rc<Core>>,
}

impl MadeCurrent {
    fn new(core: &Rc<Core>) -> Self {
        // An error means that the thread is being torn down, and the reactor with it: then it has no current one.
        let previous = CURRENT.try_with(|current| current.replace(Some(Rc::clone(core))));
        Self { previous: previous.ok().flatten() }
    }
}

impl Drop for MadeCurrent {
    fn drop(&mut self) {
        let current = CURRENT.try_with(|current| current.replace(self.previous.take()));
        drop(current);
    }
}

/// Wakes the future given to `block_on`.
struct MainWaker(Arc<Shared>);

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let local = Core::try_current().is_some_and(|core| Arc::ptr_eq(&core.shared, &self.0));
        self.0.wake_main(local);
    }
}
