//! Simulated time for the tests: a clock that jumps from timer to timer, and the tasks that live by it.
//!
//! Nothing here waits. Timers fire late by a random time, from a seed, as a busy machine's do.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use super::clock::Clock;

/// How late timers are at most, in nanoseconds.
const LATENESS: u64 = 1_000_000;

/// A seeded source of numbers (xorshift).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Less than `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

struct World {
    now: u64,
    /// By when they fire.
    timers: BTreeMap<(u64, u64), Waker>,
    last_timer: u64,
    random: Random,
}

/// Simulated time. Clones are the same.
#[derive(Clone)]
pub(super) struct SimClock(Arc<Mutex<World>>);

impl Clock for SimClock {
    fn now(&self) -> u64 {
        self.0.lock().now
    }

    fn sleep_until(&self, time: u64) -> impl Future<Output = ()> {
        let late = self.0.lock().random.below(LATENESS + 1);
        Sleep { clock: self.clone(), time, fires: time.saturating_add(late), key: None }
    }
}

impl SimClock {
    /// Waits until `time`, and not a nanosecond longer: disks have no lateness but what the test gives them.
    pub(super) fn exactly(&self, time: u64) -> impl Future<Output = ()> {
        Sleep { clock: self.clone(), time, fires: time, key: None }
    }
}

struct Sleep {
    clock: SimClock,
    time: u64,
    fires: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut world = clock.0.lock();
        if world.now >= self.time {
            return Poll::Ready(());
        }
        world.last_timer += 1;
        let id = world.last_timer;
        let fires = self.fires;
        let key = *self.key.get_or_insert((fires, id));
        world.timers.insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.0.lock().timers.remove(&key);
        }
    }
}

type Ready = Arc<Mutex<VecDeque<usize>>>;

struct TaskWaker {
    task: usize,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock();
        if !ready.contains(&self.task) {
            ready.push_back(self.task);
        }
    }
}

/// Runs tasks by a [`SimClock`].
pub(super) struct Sim {
    pub(super) clock: SimClock,
    tasks: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    ready: Ready,
}

impl Sim {
    pub(super) fn new(seed: u64) -> Sim {
        let random = Random::new(seed);
        let world = World { now: 1_000, timers: BTreeMap::new(), last_timer: 0, random };
        Sim { clock: SimClock(Arc::new(Mutex::new(world))), tasks: Vec::new(), ready: Ready::default() }
    }

    /// Starts a task; it runs from the next [`run`](Self::run) on.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + 'static) -> usize {
        self.tasks.push(Some(Box::pin(task)));
        self.ready.lock().push_back(self.tasks.len() - 1);
        self.tasks.len() - 1
    }

    /// Drops a task where it stands.
    pub(super) fn cancel(&mut self, task: usize) {
        self.tasks[task] = None;
    }

    /// Drops all tasks where they stand.
    pub(super) fn cancel_all(&mut self) {
        self.tasks.iter_mut().for_each(|task| *task = None);
    }

    /// Tasks that have not ended.
    pub(super) fn running(&self) -> usize {
        self.tasks.iter().flatten().count()
    }

    /// Lets `nanos` pass.
    pub(super) fn run(&mut self, nanos: u64) {
        let end = self.clock.now() + nanos;
        loop {
            self.run_ready();
            let mut world = self.clock.0.lock();
            match world.timers.first_key_value() {
                Some((&(fires, _), _)) if fires <= end => {
                    world.now = world.now.max(fires);
                    let waker = world.timers.pop_first().map(|(_, waker)| waker);
                    drop(world);
                    waker.into_iter().for_each(Waker::wake);
                }
                _ => {
                    world.now = end;
                    return;
                }
            }
        }
    }

    fn run_ready(&mut self) {
        loop {
            let Some(task) = self.ready.lock().pop_front() else { return };
            let waker = Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&self.ready) }));
            if let Some(future) = &mut self.tasks[task]
                && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                self.tasks[task] = None;
            }
        }
    }
}
