//! The ring and the operations in flight on it.
//!
//! ```text
//!   Op::new ──push──▶ SQ (or backlog when full) ──enter──▶ kernel ──CQ──▶ reap ──▶ complete ──▶ wake the task
//!   Op dropped early ──▶ its data moves into the slab as an orphan, a cancel is pushed; freed at the CQE
//! ```
//!
//! **Invariant:** an entry of the slab is removed only after its completion was reaped, so what the kernel may still
//! touch is owned either by a live [`Op`](super::op::Op) (whose drop orphans it) or by the slab.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::remote::Shared;
use crate::slab::{Key, Slab};

/// `user_data` of the read that waits for a wake-up from another thread.
const WAKE: u64 = u64::MAX;
/// `user_data` of cancellations, whose own results nobody needs.
const CANCEL: u64 = u64::MAX - 1;
const _: () = assert!(CANCEL > Key::MAX_U64, "an operation's key never looks like a special one");

/// Completion queue slots per submission queue slot. Completions beyond that wait in the kernel (none is dropped),
/// which costs it an allocation each.
const CQ_FACTOR: u32 = 4;

/// What an abandoned operation leaves behind: everything the kernel may still use.
pub(super) trait Orphan {
    /// The kernel is done; free everything, including what the result stands for (say, an accepted connection).
    fn finish(self: Box<Self>, result: i32);
}

enum State {
    /// In flight; the waker of the task that waits for it.
    Waiting(Option<Waker>),
    /// Completed with this result, not yet picked up.
    Done(i32),
    /// In flight, nobody waits for it.
    Orphaned(Box<dyn Orphan>),
}

/// What is left to do for a completion once all are booked and the driver is no longer borrowed: it may run foreign
/// code, which may come back here, or panic.
pub(super) enum Completion {
    Wake(Waker),
    Finish(Box<dyn Orphan>, i32),
}

impl Completion {
    pub(super) fn run(self) {
        match self {
            Self::Wake(waker) => waker.wake(),
            Self::Finish(orphan, result) => orphan.finish(result),
        }
    }
}

/// How long [`Driver::enter`] may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    AtMost(Duration),
    Forever,
}

pub(super) struct Driver {
    ring: IoUring,
    ops: Slab<State>,
    /// Entries that found the submission queue full, in order. Bounded by the operations in flight.
    backlog: VecDeque<squeue::Entry>,
    /// Entries handed to the ring or the backlog that own memory and whose completion was not reaped.
    in_flight: usize,
    /// Owns the eventfd.
    shared: Arc<Shared>,
    /// Where the kernel writes the eventfd's counter. A raw allocation, since it is written behind our back.
    counter: *mut u64,
    wake_armed: bool,
    draining: bool,
    /// Scratch space of [`reap`](Driver::reap), kept to spare allocations.
    entries: Vec<cqueue::Entry>,
}

impl Driver {
    pub(super) fn new(entries: u32, shared: Arc<Shared>) -> io::Result<Self> {
        Self::with_ring(build_ring(entries)?, shared)
    }

    fn with_ring(ring: IoUring, shared: Arc<Shared>) -> io::Result<Self> {
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring needs Linux 5.11 or newer"));
        }
        let mut driver = Self {
            ring,
            ops: Slab::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            shared,
            counter: Box::into_raw(Box::new(0)),
            wake_armed: false,
            draining: false,
            entries: Vec::new(),
        };
        driver.arm_wake();
        Ok(driver)
    }

    /// Starts an operation described by `entry`, whose `user_data` is set here.
    ///
    /// # Safety
    ///
    /// All memory and descriptors `entry` refers to stay valid until the operation's completion was reaped: the
    /// caller keeps them alive until [`poll`](Driver::poll) is ready, or gives them to [`orphan`](Driver::orphan).
    pub(super) unsafe fn start(&mut self, entry: squeue::Entry) -> Key {
        let key = self.ops.insert(State::Waiting(None));
        // SAFETY: passed on to our caller.
        unsafe { self.push(entry.user_data(key.to_u64())) };
        self.in_flight += 1;
        key
    }

    /// The result of operation `key`, once. Until then `waker` is kept to be woken when it arrives; the waker it
    /// replaces is returned, to be dropped once the driver is no longer borrowed.
    pub(super) fn poll(&mut self, key: Key, waker: &Waker) -> Result<i32, Option<Waker>> {
        match self.ops.get_mut(key) {
            Some(State::Done(result)) => {
                let result = *result;
                self.ops.remove(key);
                Ok(result)
            }
            Some(State::Waiting(Some(known))) if known.will_wake(waker) => Err(None),
            Some(State::Waiting(known)) => Err(known.replace(waker.clone())),
            Some(State::Orphaned(_)) | None => {
                unreachable!("an operation is polled only while its future owns it")
            }
        }
    }

    /// Gives up on operation `key`: `None` when it is still in flight (then [`orphan`](Driver::orphan) must be called
    /// with all it uses), else its result.
    pub(super) fn abandon(&mut self, key: Key) -> Option<i32> {
        match self.ops.get_mut(key) {
            Some(State::Done(result)) => {
                let result = *result;
                self.ops.remove(key);
                Some(result)
            }
            _ => None,
        }
    }

    /// Leaves `orphan` in the slab until operation `key` completes, and asks the kernel to cancel it. Returns the
    /// waker the caller must drop once the driver is no longer borrowed.
    pub(super) fn orphan(&mut self, key: Key, orphan: Box<dyn Orphan>) -> Option<Waker> {
        let state = self.ops.get_mut(key).expect("an operation in flight stays in the slab");
        let previous = std::mem::replace(state, State::Orphaned(orphan));
        let cancel = opcode::AsyncCancel::new(key.to_u64()).build().user_data(CANCEL);
        // SAFETY: a cancellation refers to no memory.
        unsafe { self.push(cancel) };
        match previous {
            State::Waiting(waker) => waker,
            State::Done(_) | State::Orphaned(_) => None,
        }
    }

    /// # Safety
    ///
    /// As for [`start`](Driver::start).
    unsafe fn push(&mut self, entry: squeue::Entry) {
        // Once one entry waits, all later ones do, so that the order (an operation before its cancellation) holds.
        // SAFETY: passed on to our caller.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Moves what fits from the backlog to the submission queue.
    fn refill(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever pushed the entry promised validity until its completion is reaped.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// Keeps one read of the eventfd in flight, so that another thread's write ends a sleep in the kernel. A write
    /// that comes while none is in flight stays in the counter and completes the next read at once.
    fn arm_wake(&mut self) {
        if self.wake_armed || self.draining {
            return;
        }
        let fd = Fd(self.shared.eventfd().as_raw_fd());
        let read = opcode::Read::new(fd, self.counter.cast(), 8).build().user_data(WAKE);
        // SAFETY: the counter and the eventfd live as long as the driver, which is only dropped once nothing is in
        // flight, or else leaks the counter (see `Drop`); the kernel holds its own reference to the eventfd then.
        unsafe { self.push(read) };
        self.wake_armed = true;
        self.in_flight += 1;
    }

    /// Operations whose completion was not reaped yet, the wake-up read included.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether entering the kernel would get anything done: entries to submit, completions to collect.
    pub(super) fn needs_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.is_empty()
    }

    /// Whether completions are there, or would be after an [`enter`](Driver::enter) that doesn't wait. No system call.
    pub(super) fn has_completions(&mut self) -> bool {
        let queue = self.ring.submission();
        let pending = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        pending || !self.ring.completion().is_empty()
    }

    /// Submits what is queued and, unless a completion is already there, waits. One system call unless the backlog
    /// takes more.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.refill();
        while !self.backlog.is_empty() {
            // More than a queue full: no waiting before all of it is submitted. A kernel that wants completions
            // reaped first is obeyed: the caller reaps after every enter, and comes back since the backlog remains.
            if !self.submit(Wait::No)? {
                return Ok(());
            }
            self.refill();
        }
        self.submit(wait).map(drop)
    }

    /// One `io_uring_enter`. False when the kernel took nothing because completions must be reaped first.
    fn submit(&mut self, wait: Wait) -> io::Result<bool> {
        let wait = if self.ring.completion().is_empty() { wait } else { Wait::No };
        let submitter = self.ring.submitter();
        let outcome = match wait {
            Wait::No => submitter.submit(),
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::AtMost(timeout) => {
                let timeout = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        match outcome {
            Ok(_) => Ok(true),
            Err(error) => match error.raw_os_error() {
                // A signal or the timeout ended the wait: the loop looks at everything anyway.
                Some(libc::EINTR | libc::ETIME) => Ok(true),
                // Too many completions unreaped, or no memory for requests right now.
                Some(libc::EBUSY | libc::EAGAIN) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Books all completions that are there, and adds to `into` what is to be done for them.
    pub(super) fn reap(&mut self, into: &mut Vec<Completion>) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.extend(self.ring.completion());
        into.extend(entries.drain(..).filter_map(|entry| self.complete(&entry)));
        self.entries = entries;
    }

    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        match entry.user_data() {
            CANCEL => return None,
            WAKE => {
                self.in_flight -= 1;
                self.wake_armed = false;
                self.arm_wake();
                return None;
            }
            _ => {}
        }
        let key = Key::from_u64(entry.user_data());
        let Some(state) = self.ops.get_mut(key) else {
            debug_assert!(false, "completion of an unknown operation {key:?}");
            return None;
        };
        self.in_flight -= 1;
        match std::mem::replace(state, State::Done(entry.result())) {
            State::Waiting(waker) => waker.map(Completion::Wake),
            State::Orphaned(orphan) => {
                self.ops.remove(key);
                Some(Completion::Finish(orphan, entry.result()))
            }
            State::Done(_) => unreachable!("an operation completes once"),
        }
    }

    /// Asks the kernel to cancel all that is in flight, and lets the wake-up read end with it.
    pub(super) fn cancel_all(&mut self) {
        self.draining = true;
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(CANCEL);
        // SAFETY: a cancellation refers to no memory.
        unsafe { self.push(cancel) };
        if self.wake_armed {
            // Kernels before 5.19 cannot match "any"; they can match this one.
            let cancel = opcode::AsyncCancel::new(WAKE).build().user_data(CANCEL);
            // SAFETY: as above.
            unsafe { self.push(cancel) };
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // The reactor drains the ring before it lets go of it, unless the kernel refused to go on. Then nobody
            // knows what is still written to.
            std::mem::forget(std::mem::replace(&mut self.ops, Slab::new()));
            return;
        }
        // SAFETY: from `Box::into_raw` in `new`; nothing is in flight, so the kernel no longer writes to it.
        drop(unsafe { Box::from_raw(self.counter) });
    }
}

/// How completions come about.
#[derive(Clone, Copy, Debug)]
enum Setup {
    /// This thread works them off inside its own `enter`, with no interrupts between; one submitter only. Since 6.1.
    Deferred,
    /// This thread works them off whenever it enters the kernel, without being interrupted for it. Since 5.19.
    Cooperative,
    /// The kernel interrupts this thread for each.
    Plain,
}

impl Setup {
    fn build(self, entries: u32) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(CQ_FACTOR));
        match self {
            // The "taskrun" flag says in user space when there is something to work off.
            Self::Deferred => {
                builder.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            Self::Cooperative => {
                builder.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
            }
            Self::Plain => {}
        }
        builder.build(entries)
    }
}

/// A ring with the best setup this kernel has.
fn build_ring(entries: u32) -> io::Result<IoUring> {
    let unsupported = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let deferred = Setup::Deferred.build(entries);
    if !deferred.as_ref().is_err_and(unsupported) {
        return deferred;
    }
    let cooperative = Setup::Cooperative.build(entries);
    if !cooperative.as_ref().is_err_and(unsupported) {
        return cooperative;
    }
    Setup::Plain.build(entries)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Enters and books until `done`.
    fn turn_until(driver: &mut Driver, mut done: impl FnMut(&mut Driver) -> bool) {
        let mut completions = Vec::new();
        for _ in 0..1000 {
            if done(driver) {
                return;
            }
            driver.enter(Wait::AtMost(Duration::from_secs(1))).unwrap();
            driver.reap(&mut completions);
            completions.drain(..).for_each(Completion::run);
        }
        panic!("not done");
    }

    fn drain(driver: &mut Driver) {
        driver.cancel_all();
        turn_until(driver, |driver| driver.in_flight() == 0);
    }

    #[test]
    fn every_setup_completes_and_wakes() {
        for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
            let shared = Arc::new(Shared::new().unwrap());
            let mut driver = Driver::with_ring(setup.build(2).unwrap(), Arc::clone(&shared)).unwrap();
            let mut keys: Vec<_> = (0..100)
                .map(|_| {
                    // SAFETY: refers to no memory.
                    unsafe { driver.start(opcode::Nop::new().build()) }
                })
                .collect();
            turn_until(&mut driver, |driver| {
                keys.retain(|key| driver.poll(*key, Waker::noop()).is_err());
                keys.is_empty()
            });
            assert_eq!(driver.in_flight(), 1, "{setup:?}: only the wake-up read is left");

            // Written before the sleep, during which no other completion ends it.
            shared.eventfd().write_all(&1_u64.to_ne_bytes()).unwrap();
            driver.enter(Wait::Forever).unwrap();
            let entry = driver.ring.completion().next().expect("a completion ended the wait");
            assert_eq!(entry.user_data(), WAKE, "{setup:?}");
            assert!(driver.complete(&entry).is_none());
            assert!(driver.wake_armed, "{setup:?}: armed for the next");
            drain(&mut driver);
        }
    }

    #[test]
    fn an_orphan_is_finished_once_the_kernel_is() {
        struct Tell(Arc<std::sync::Mutex<Vec<i32>>>);
        impl Orphan for Tell {
            fn finish(self: Box<Self>, result: i32) {
                self.0.lock().unwrap().push(result);
            }
        }
        let shared = Arc::new(Shared::new().unwrap());
        let mut driver = Driver::new(8, Arc::clone(&shared)).unwrap();
        let results = Arc::default();
        // Never ends by itself.
        let timeout = Timespec::from(Duration::from_secs(3600));
        // SAFETY: the time lives until the end of this test, the operation only until `drain`.
        let key = unsafe { driver.start(opcode::Timeout::new(&raw const timeout).build()) };
        turn_until(&mut driver, |driver| !driver.needs_enter());
        assert!(driver.abandon(key).is_none());
        assert!(driver.orphan(key, Box::new(Tell(Arc::clone(&results)))).is_none());
        assert!(results.lock().unwrap().is_empty());
        turn_until(&mut driver, |driver| driver.in_flight() == 1);
        assert_eq!(*results.lock().unwrap(), [-libc::ECANCELED]);
        drain(&mut driver);
    }
}
