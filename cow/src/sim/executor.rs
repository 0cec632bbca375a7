//! The scheduler: one thread, one seed, and an order of events that the seed permutes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use super::disk::Waiting;
use super::{Rng, SimDisk};

/// Events without any I/O after which a run counts as stuck: far more than any real work between two operations.
const LIVELOCK_EVENTS: u64 = 2_000_000;
/// Jumps of the clock in a row without any I/O after which a run counts as stuck: only timers still fire.
const LIVELOCK_JUMPS: u64 = 20_000;

type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    /// Taken out while it runs, so that it can spawn others.
    future: Option<LocalTask>,
    waker: Arc<TaskWaker>,
}

/// A world: tasks, disks and a clock that counts events. Dropping it is the death of everything that runs in it.
pub struct Sim {
    core: Rc<Core>,
}

/// What tasks inside a [`Sim`] use to start others and to wait.
#[derive(Clone)]
pub struct Handle {
    core: Rc<Core>,
}

struct Core {
    seed: u64,
    /// `None` runs everything in order.
    rng: RefCell<Option<Rng>>,
    /// Of 8 choices between a task and an I/O, how many fall on the I/O: slow disks and fast ones.
    io_share: u64,
    /// Of 8 choices of an I/O, how many fall on the newest: what was asked for long ago waits on behind all that comes later.
    newest_share: u64,
    /// Of 64 I/Os, how many take so long that most of what comes later is done before them.
    slow_share: u64,
    /// Choices of which one falls on such an I/O.
    slow_turn: u64,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: Arc<Mutex<Vec<u64>>>,
    disks: RefCell<Vec<SimDisk>>,
    sleepers: RefCell<Vec<(u64, Waker)>>,
    clock: Cell<u64>,
    events: Cell<u64>,
    since_io: Cell<u64>,
    jumps: Cell<u64>,
    trace: Cell<u64>,
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Task {
    fn begin(&mut self) -> Option<(LocalTask, Waker)> {
        let future = self.future.take()?;
        // A wake from here on, also during the poll, is a new one.
        self.waker.queued.store(false, Ordering::Release);
        Some((future, Waker::from(Arc::clone(&self.waker))))
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push(self.task);
        }
    }
}

enum Event {
    Task(u64),
    Io {
        disk: usize,
        index: usize,
        slow: bool,
    },
    /// Nothing to do before this time.
    Jump(u64),
    /// Nothing to do ever.
    Stuck,
}

impl Sim {
    /// A world whose events happen in an order that `seed` decides.
    pub fn new(seed: u64) -> Sim {
        let mut rng = Rng::new(seed);
        let io_share = 1 + rng.below(7);
        let newest_share = [0, 0, 7, 8][rng.index(4)];
        let slow_share = [0, 1, 4, 12][rng.index(4)];
        let slow_turn = [64, 64, 1024][rng.index(3)];
        Sim::with(seed, Some(rng), io_share, newest_share, (slow_share, slow_turn))
    }

    /// A world without surprises: tasks in the order of their wakes, then I/O in the order of issue.
    pub fn in_order() -> Sim {
        Sim::with(0, None, 0, 0, (0, 1))
    }

    fn with(
        seed: u64,
        rng: Option<Rng>,
        io_share: u64,
        newest_share: u64,
        (slow_share, slow_turn): (u64, u64),
    ) -> Sim {
        let core = Core {
            seed,
            rng: RefCell::new(rng),
            io_share,
            newest_share,
            slow_share,
            slow_turn,
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: Arc::default(),
            disks: RefCell::default(),
            sleepers: RefCell::default(),
            clock: Cell::new(0),
            events: Cell::new(0),
            since_io: Cell::new(0),
            jumps: Cell::new(0),
            trace: Cell::new(0),
        };
        Sim { core: Rc::new(core) }
    }

    /// The disk's operations complete when this world says so.
    pub fn attach(&self, disk: &SimDisk) {
        let rng = self.core.rng.borrow_mut().as_mut().map_or_else(|| Rng::new(0), Rng::fork);
        disk.schedule(rng, self.core.slow_share);
        self.core.disks.borrow_mut().push(disk.clone());
    }

    /// What tasks need; it is of no use any more when the world has ended.
    pub fn handle(&self) -> Handle {
        Handle { core: Rc::clone(&self.core) }
    }

    /// Starts a task.
    pub fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Join<T> {
        self.core.spawn(task)
    }

    /// Lets everything run until `main` has ended; other tasks stay where they are.
    ///
    /// # Panics
    /// When nothing can run any more, or nothing but timers does; or with the panic of a task.
    pub fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> T {
        let main = self.spawn(main);
        loop {
            if let Some(output) = main.take() {
                return output;
            }
            assert!(
                self.core.step(),
                "{}",
                self.core.stuck("deadlock: no task can run and no I/O is in flight")
            );
        }
    }

    /// Lets everything run until `main` has ended, but for at most `events` events: `None` is the moment to crash.
    ///
    /// # Panics
    /// Like [`Sim::run`].
    pub fn run_for<T: 'static>(&self, events: u64, main: impl Future<Output = T> + 'static) -> Option<T> {
        let main = self.spawn(main);
        let end = self.core.events.get().saturating_add(events);
        loop {
            let output = main.take();
            if output.is_some() || self.core.events.get() >= end {
                return output;
            }
            assert!(
                self.core.step(),
                "{}",
                self.core.stuck("deadlock: no task can run and no I/O is in flight")
            );
        }
    }

    /// Lets everything run for `events` events; false when nothing was left to do before that.
    pub fn run_events(&self, events: u64) -> bool {
        let end = self.core.events.get().saturating_add(events);
        while self.core.events.get() < end {
            if !self.core.step() {
                return false;
            }
        }
        true
    }

    /// How many events have happened: a task polled or an I/O completed.
    pub fn events(&self) -> u64 {
        self.core.events.get()
    }

    /// A digest of every choice made so far: two runs of one seed that differ in it are not deterministic.
    pub fn trace(&self) -> u64 {
        self.core.trace.get()
    }

    /// Drops every task at once, wherever it is, and powers the disks off: what a crash looks like from inside.
    pub fn stop(&self) {
        for disk in self.core.disks.borrow_mut().drain(..) {
            disk.power_off();
        }
        loop {
            // A task's destructors may start or wake others.
            let tasks = std::mem::take(&mut *self.core.tasks.borrow_mut());
            self.core.sleepers.borrow_mut().clear();
            self.core.ready.lock().clear();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Handle {
    /// Starts a task.
    pub fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Join<T> {
        self.core.spawn(task)
    }

    /// Resolves when `events` more events have happened, or at once when nothing else is left to do.
    pub async fn sleep(&self, events: u64) {
        let until = self.core.clock.get() + events;
        std::future::poll_fn(|cx| {
            if self.core.clock.get() >= until {
                return Poll::Ready(());
            }
            self.core.sleepers.borrow_mut().push((until, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Core {
    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Join<T> {
        let shared = Rc::new(JoinState { output: Cell::new(None), waker: Cell::new(None) });
        let theirs = Rc::clone(&shared);
        let wrapped: LocalTask = Box::pin(async move {
            theirs.output.set(Some(task.await));
            if let Some(waker) = theirs.waker.take() {
                waker.wake();
            }
        });
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        let waker = TaskWaker { task: id, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) };
        let waker = Arc::new(waker);
        waker.wake_by_ref();
        self.tasks.borrow_mut().insert(id, Task { future: Some(wrapped), waker });
        Join { shared }
    }

    /// Lets one event happen; false when there is none left.
    fn step(&self) -> bool {
        self.wake_sleepers();
        match self.choose() {
            Event::Task(task) => {
                self.count(task << 1);
                self.since_io.set(self.since_io.get() + 1);
                let busy = self.since_io.get() < LIVELOCK_EVENTS;
                assert!(busy, "{}", self.stuck("livelock: tasks run without any I/O"));
                self.poll(task);
            }
            Event::Io { disk, index, slow } => {
                self.count(((index as u64) << 16 | disk as u64) << 1 | 1);
                self.since_io.set(0);
                self.jumps.set(0);
                let disk = self.disks.borrow()[disk].clone();
                disk.complete(index, slow);
            }
            Event::Jump(time) => {
                self.clock.set(time);
                self.jumps.set(self.jumps.get() + 1);
                let alive = self.jumps.get() < LIVELOCK_JUMPS;
                assert!(alive, "{}", self.stuck("deadlock: only timers still fire"));
            }
            Event::Stuck => return false,
        }
        true
    }

    fn count(&self, choice: u64) {
        self.clock.set(self.clock.get() + 1);
        self.events.set(self.events.get() + 1);
        // FNV-1a over whole words: enough to tell two runs apart.
        self.trace.set((self.trace.get() ^ choice).wrapping_mul(0x0100_0000_01b3).rotate_left(17));
    }

    fn choose(&self) -> Event {
        let mut ready = self.ready.lock();
        let disks = self.disks.borrow();
        let waiting: Vec<Waiting> = disks.iter().map(SimDisk::waiting).collect();
        let quick: usize = waiting.iter().map(|w| w.quick).sum();
        let all_slow: usize = waiting.iter().map(|w| w.slow).sum();
        let next = || self.sleepers.borrow().iter().map(|&(until, _)| until).min();
        if ready.is_empty() && quick + all_slow == 0 {
            return next().map_or(Event::Stuck, Event::Jump);
        }
        let mut rng = self.rng.borrow_mut();
        let Some(rng) = rng.as_mut() else {
            return match ready.is_empty() {
                false => Event::Task(ready.remove(0)),
                true => in_order(&waiting, false, 0),
            };
        };
        let slow = all_slow > 0 && rng.chance(1, self.slow_turn);
        let in_flight = if slow { all_slow } else { quick };
        let io = in_flight > 0 && (ready.is_empty() || rng.chance(self.io_share, 8));
        if !io && !ready.is_empty() {
            let index = rng.index(ready.len());
            return Event::Task(ready.swap_remove(index));
        }
        if !io {
            // Time goes by.
            return next().map_or_else(|| in_order(&waiting, true, 0), Event::Jump);
        }
        let newest = rng.chance(self.newest_share, 8);
        in_order(&waiting, slow, if newest { in_flight - 1 } else { rng.index(in_flight) })
    }

    fn poll(&self, id: u64) {
        let Some((mut future, waker)) = self.tasks.borrow_mut().get_mut(&id).and_then(Task::begin) else {
            return;
        };
        let ended = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if ended {
            self.tasks.borrow_mut().remove(&id);
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
            task.future = Some(future);
        }
    }

    fn wake_sleepers(&self) {
        let now = self.clock.get();
        let due: Vec<(u64, Waker)> = {
            let mut sleepers = self.sleepers.borrow_mut();
            let (due, rest) = sleepers.drain(..).partition::<Vec<_>, _>(|&(until, _)| until <= now);
            *sleepers = rest;
            due
        };
        for (_, waker) in due {
            waker.wake();
        }
    }

    fn stuck(&self, what: &str) -> String {
        let tasks: Vec<u64> = self.tasks.borrow().keys().copied().collect();
        format!("{what} (seed {}, after {} events, tasks {tasks:?})", self.seed, self.events.get())
    }
}

/// The I/O of this number among the slow or the quick ones of all disks.
fn in_order(waiting: &[Waiting], slow: bool, mut index: usize) -> Event {
    for (disk, waiting) in waiting.iter().enumerate() {
        let count = if slow { waiting.slow } else { waiting.quick };
        if index < count {
            return Event::Io { disk, index, slow };
        }
        index -= count;
    }
    Event::Stuck
}

struct JoinState<T> {
    output: Cell<Option<T>>,
    waker: Cell<Option<Waker>>,
}

/// Resolves to a task's output. Dropping it leaves the task running.
pub struct Join<T> {
    shared: Rc<JoinState<T>>,
}

impl<T> Join<T> {
    /// The output, once, if the task has ended.
    pub fn take(&self) -> Option<T> {
        self.shared.output.take()
    }
}

impl<T> Future for Join<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.shared.output.take() {
            Some(output) => Poll::Ready(output),
            None => {
                self.shared.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// Runs one future over disks that are attached to no world, for plain tests.
///
/// # Panics
/// When the future waits for something that will not happen.
pub fn block_on<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    Sim::in_order().run(future)
}
