//! What the tasks of one connection share, and how they wake each other.
//!
//! Everything runs on one thread: the state is borrowed for a few statements at a time and never across an
//! `await`. Wakers are called after the borrow has ended.

use std::cell::{Ref, RefCell, RefMut};
use std::future::poll_fn;
use std::io;
use std::net::Shutdown as How;
use std::rc::Rc;
use std::task::{Poll, Waker};

use cairn_uring::{AlignedBuf, spawn};

use super::outbox::{Batch, Outbox, Settled};
use super::worker::{self, Job};
use crate::budget::MemoryBudget;
use crate::export::Export;
use crate::handshake::SelectedContext;
use crate::proto::{HeaderStyle, TransmissionFlags};
use crate::session::Limits;
use crate::transport::Transport;

/// Counters of one session.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

/// One connection in transmission.
pub(super) struct Connection<E: Export, T: Transport> {
    io: Rc<T>,
    pub(super) export: E,
    pub(super) style: HeaderStyle,
    pub(super) flags: TransmissionFlags,
    pub(super) contexts: Vec<SelectedContext>,
    limits: Limits,
    state: RefCell<State<E, T>>,
}

struct State<E: Export, T: Transport> {
    /// One per worker task. A job is handed to a particular idle worker, so that none waits behind a busy one.
    slots: Vec<Slot<E, T>>,
    /// Idle workers, the most recently used last: it is used next.
    idle: Vec<usize>,
    in_flight: Settled,
    outbox: Outbox,
    counts: Counts,
    /// No more requests will come.
    closing: bool,
    /// The server is shutting down; no further requests are taken.
    draining: bool,
    drain_expired: bool,
    /// The socket is of no more use; replies are thrown away.
    cut_off: bool,
    /// The client left without a word: there is no sense in beginning what it asked for.
    left: bool,
    send_error: Option<io::ErrorKind>,
    /// Tasks of this connection that have not ended, the reader not among them.
    tasks: usize,
    /// The reader, while it receives: woken only by what ends that.
    reader: Option<Waker>,
    /// The reader, while it waits to admit a request.
    admitting: Option<Waker>,
    writer: Option<Waker>,
    warden: Option<Waker>,
    joiner: Option<Waker>,
}

/// What becomes of a request whose waiting for the export's limit is over before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The server shuts down, and its client is there for the answer.
    Begin,
    /// Nobody wants it any more.
    Drop,
}

struct Slot<E: Export, T: Transport> {
    job: Option<Job<E, T>>,
    /// The worker, while it is idle or waits for the export's limit.
    waker: Option<Waker>,
    idle: bool,
}

impl<E: Export, T: Transport> State<E, T> {
    /// Nothing is in flight and nothing will be.
    fn finished(&self) -> bool {
        self.closing && self.in_flight.requests == 0
    }

    /// What becomes of requests that wait for the export's limit; none while they go on waiting.
    fn end_of_waiting(&self) -> Option<Verdict> {
        if self.cut_off || self.left {
            Some(Verdict::Drop)
        } else if self.draining {
            Some(Verdict::Begin)
        } else {
            None
        }
    }

    /// Workers that may be waiting for the export's limit.
    fn waiting_workers(&mut self) -> impl Iterator<Item = Waker> {
        self.slots.iter_mut().filter(|slot| !slot.idle).filter_map(|slot| slot.waker.take())
    }
}

impl<E: Export, T: Transport> Connection<E, T> {
    pub(super) fn new(
        io: Rc<T>,
        export: E,
        style: HeaderStyle,
        flags: TransmissionFlags,
        contexts: Vec<SelectedContext>,
        limits: Limits,
    ) -> Self {
        let state = RefCell::new(State {
            slots: Vec::new(),
            idle: Vec::new(),
            in_flight: Settled::default(),
            outbox: Outbox::default(),
            counts: Counts::default(),
            closing: false,
            draining: false,
            drain_expired: false,
            cut_off: false,
            left: false,
            send_error: None,
            tasks: 0,
            reader: None,
            admitting: None,
            writer: None,
            warden: None,
            joiner: None,
        });
        Self { io, export, style, flags, contexts, limits, state }
    }

    pub(super) fn io(&self) -> &T {
        &self.io
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn budget(&self) -> &MemoryBudget {
        &self.limits.budget
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.state.borrow_mut().counts);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.state().draining
    }

    pub(super) fn drain_expired(&self) -> bool {
        self.state().drain_expired
    }

    pub(super) fn send_error(&self) -> Option<io::ErrorKind> {
        self.state().send_error
    }

    fn state(&self) -> Ref<'_, State<E, T>> {
        self.state.borrow()
    }

    // ---- reader ---------------------------------------------------------------------------------

    /// Waits until a request with `bytes` of memory may be in flight. `None` once the socket is cut off, or where it
    /// would have to wait while the server shuts down.
    ///
    /// With a throttled export, the memory counts from here on, before the request has waited for its limit: so what
    /// waits there is bounded.
    pub(super) async fn admit(self: &Rc<Self>, bytes: u64) -> Option<Permit<E, T>> {
        let mut place = self.budget().place();
        let throttled = self.export.is_throttled();
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.cut_off {
                return Poll::Ready(None);
            }
            let Settled { requests, bytes: held, .. } = state.in_flight;
            let taken = if requests > 0 && requests >= self.limits.max_requests {
                None
            } else if held == 0 {
                Some(self.budget().overdraw(bytes, throttled))
            } else if held.saturating_add(bytes) <= self.limits.max_bytes {
                place.take(bytes, throttled, cx.waker())
            } else {
                None
            };
            let Some(taken) = taken else {
                if state.draining {
                    return Poll::Ready(None);
                }
                remember(&mut state.admitting, cx.waker());
                return Poll::Pending;
            };
            let cost = Settled { requests: 1, bytes, taken };
            state.in_flight.add(cost);
            Poll::Ready(Some(Permit { conn: Rc::clone(self), cost: Some(cost) }))
        })
        .await
    }

    /// Ready when no further request is to be taken: the socket is cut off, or the server shuts down.
    pub(super) async fn interrupted(&self) {
        self.receiving_ends(|state| state.cut_off || state.draining).await;
    }

    /// Ready when nothing can be received any more.
    pub(super) async fn was_cut_off(&self) {
        self.receiving_ends(|state| state.cut_off).await;
    }

    async fn receiving_ends(&self, has_ended: impl Fn(&State<E, T>) -> bool) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if has_ended(&state) {
                return Poll::Ready(());
            }
            remember(&mut state.reader, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Gives `job` to an idle worker or to a new one. Admission bounds their number.
    pub(super) fn dispatch(self: &Rc<Self>, job: Job<E, T>) {
        let mut state = self.state.borrow_mut();
        if let Some(index) = state.idle.pop() {
            let slot = &mut state.slots[index];
            slot.idle = false;
            slot.job = Some(job);
            let waker = slot.waker.take();
            drop(state);
            wake(waker);
        } else {
            let index = state.slots.len();
            state.slots.push(Slot { job: Some(job), waker: None, idle: false });
            drop(state);
            self.task_started();
            spawn(worker::run(Rc::clone(self), index));
        }
    }

    // ---- workers --------------------------------------------------------------------------------

    /// The next job of worker `index`; `None` when there will be none.
    pub(super) async fn next_job(&self, index: usize) -> Option<Job<E, T>> {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let closing = state.closing;
            let slot = &mut state.slots[index];
            if let Some(job) = slot.job.take() {
                return Poll::Ready(Some(job));
            }
            if closing {
                return Poll::Ready(None);
            }
            remember(&mut slot.waker, cx.waker());
            if !slot.idle {
                slot.idle = true;
                state.idle.push(index);
            }
            Poll::Pending
        })
        .await
    }

    /// Ready when the request that worker `index` has is not to wait for the export's limit any longer.
    pub(super) async fn end_of_waiting(&self, index: usize) -> Verdict {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some(verdict) = state.end_of_waiting() {
                return Poll::Ready(verdict);
            }
            remember(&mut state.slots[index].waker, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Lets `write` append (part of) a reply, unless nobody will read it.
    pub(super) fn send(&self, write: impl FnOnce(&mut Outbox)) {
        let mut state = self.state.borrow_mut();
        if state.cut_off {
            return;
        }
        write(&mut state.outbox);
        let waker = state.writer.take();
        drop(state);
        wake(waker);
    }

    // ---- writer ---------------------------------------------------------------------------------

    /// The replies collected so far, once there are any; `None` when there will be none.
    pub(super) async fn next_batch(&self) -> Option<Batch> {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some(batch) = state.outbox.take() {
                return Poll::Ready(Some(batch));
            }
            if state.finished() {
                return Poll::Ready(None);
            }
            remember(&mut state.writer, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Takes note of a batch that has left, or could not.
    pub(super) fn batch_sent(&self, pieces: Vec<AlignedBuf>, settled: Settled, result: io::Result<()>) {
        self.state.borrow_mut().outbox.recycle(pieces);
        self.release(settled);
        if let Err(error) = result {
            self.state.borrow_mut().send_error.get_or_insert(error.kind());
            self.cut_off();
        }
    }

    // ---- ending ---------------------------------------------------------------------------------

    /// No more requests will come: workers, writer and warden end as soon as they have nothing left to do.
    pub(super) fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.wake_the_finished();
    }

    /// The client has left, and asked for nothing to be finished.
    pub(super) fn client_left(&self) {
        let mut state = self.state.borrow_mut();
        state.left = true;
        self.interrupt(state);
    }

    /// Takes no requests from now on; those that wait for the export's limit begin at once.
    pub(super) fn start_draining(&self) {
        let mut state = self.state.borrow_mut();
        state.draining = true;
        self.interrupt(state);
    }

    /// Wakes all that a change of `state` may concern.
    fn interrupt(&self, mut state: RefMut<'_, State<E, T>>) {
        let mut wakers: Vec<Waker> = state.waiting_workers().collect();
        wakers.extend(state.reader.take());
        wakers.extend(state.admitting.take());
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The client had its time.
    pub(super) fn drain_has_expired(&self) {
        self.state.borrow_mut().drain_expired = true;
        self.cut_off();
    }

    /// The session's future has gone away.
    pub(super) fn abandon(&self) {
        if self.state().tasks > 0 {
            self.cut_off();
            self.close();
        }
    }

    /// Gives up the socket: what is in flight ends unanswered.
    fn cut_off(&self) {
        let mut state = self.state.borrow_mut();
        state.cut_off = true;
        let unsent = state.outbox.take().map(Batch::into_parts);
        self.interrupt(state);
        self.io.shutdown(How::Both);
        if let Some((_, settled)) = unsent {
            self.release(settled);
        }
    }

    /// Ready when nothing is in flight and nothing will be. For the warden.
    pub(super) async fn finished(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.finished() {
                return Poll::Ready(());
            }
            remember(&mut state.warden, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Counts a task in; its [`TaskGuard`] counts it out.
    pub(super) fn task_started(&self) {
        self.state.borrow_mut().tasks += 1;
    }

    pub(super) fn task_guard(self: &Rc<Self>) -> TaskGuard<E, T> {
        TaskGuard(Rc::clone(self))
    }

    /// Ready when all tasks have ended.
    pub(super) async fn tasks_ended(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.tasks == 0 {
                return Poll::Ready(());
            }
            remember(&mut state.joiner, cx.waker());
            Poll::Pending
        })
        .await;
    }

    fn release(&self, settled: Settled) {
        let mut state = self.state.borrow_mut();
        state.in_flight.requests -= settled.requests;
        state.in_flight.bytes -= settled.bytes;
        state.in_flight.taken.subtract(settled.taken);
        let waker = state.admitting.take();
        drop(state);
        self.budget().give_back(settled.taken);
        wake(waker);
        self.wake_the_finished();
    }

    fn wake_the_finished(&self) {
        let mut state = self.state.borrow_mut();
        if !state.closing {
            return;
        }
        let mut wakers = Vec::new();
        let idle = std::mem::take(&mut state.idle);
        for index in idle {
            wakers.extend(state.slots[index].waker.take());
        }
        if state.finished() {
            wakers.extend(state.writer.take());
            wakers.extend(state.warden.take());
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<E: Export, T: Transport> Drop for Connection<E, T> {
    fn drop(&mut self) {
        // Nothing, unless the reactor went away under the tasks: others may go on with the budget.
        self.limits.budget.give_back(self.state.get_mut().in_flight.taken);
    }
}

/// A place in flight. It ends with its reply, or, should its task be dropped or panic, with the connection:
/// a client that waits for a reply which never comes would be worse off.
pub(super) struct Permit<E: Export, T: Transport> {
    conn: Rc<Connection<E, T>>,
    cost: Option<Settled>,
}

impl<E: Export, T: Transport> Permit<E, T> {
    /// There will be no reply: the request was given up before it began.
    pub(super) fn give_up(mut self) {
        if let Some(cost) = self.cost.take() {
            self.conn.release(cost);
        }
    }

    /// The reply is complete in the outbox: the place becomes free when that has been sent.
    pub(super) fn settle(mut self) {
        let Some(cost) = self.cost.take() else { return };
        let mut state = self.conn.state.borrow_mut();
        if state.cut_off {
            drop(state);
            self.conn.release(cost);
        } else {
            state.outbox.settle(cost);
        }
    }
}

impl<E: Export, T: Transport> Drop for Permit<E, T> {
    fn drop(&mut self) {
        if let Some(cost) = self.cost.take() {
            self.conn.cut_off();
            self.conn.release(cost);
        }
    }
}

/// Counts a task out when it ends, however it ends.
pub(super) struct TaskGuard<E: Export, T: Transport>(Rc<Connection<E, T>>);

impl<E: Export, T: Transport> Drop for TaskGuard<E, T> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.tasks -= 1;
        let waker = if state.tasks == 0 { state.joiner.take() } else { None };
        drop(state);
        wake(waker);
    }
}

fn remember(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
