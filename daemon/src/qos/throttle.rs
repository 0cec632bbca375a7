//! [`Throttle`]: one volume's limits, shared by all connections to it on all reactors.
//!
//! ```text
//!   Connection::admit ──▶ no rule: on at once, one atomic load
//!           │
//!           ▼ lock        no bucket of the rule is for it, or all that are are open and nobody waits: on at once
//!   into the queue ──▶ settle: grant, in turn, all that may go; wake them
//!           │
//!           ▼             one of the waiting is the *keeper*: it sets a timer of its own reactor for when the next
//!   pending ◀──────────── grant is due. Granted or dropped, it hands that duty on.
//! ```
//!
//! **Invariant:** when the lock is released, nothing that waits may go, and while anything waits there is a keeper who
//! has been woken since whatever changed in a way that could make the next grant earlier.
//!
//! The lock is held for a look at the queue and some arithmetic. Wakers are called after it is released; they may
//! belong to tasks of other reactors.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cairn_api::qos::QosRule;
use parking_lot::Mutex;

use super::clock::{Clock, ReactorClock};
use super::limits::{Direction, Limits, Operation};
use super::queue::{Member, Queue, Ticket};

/// No timer is set for less than this, in nanoseconds: at high rates one serves many requests. Buckets hold eighty
/// times as much.
const TICK: u64 = 250_000;

/// One volume's limits.
pub struct Throttle<C: Clock = ReactorClock> {
    /// Whether there are any.
    limited: AtomicBool,
    clock: C,
    state: Mutex<State>,
}

struct State {
    rule: QosRule,
    limits: Limits,
    queue: Queue,
    keeper: Option<Keeper>,
    waits: u64,
    waited: u128,
}

/// Who sees to the next grant.
#[derive(Clone, Copy)]
struct Keeper {
    ticket: Ticket,
    /// What it set its timer for: when the next grant was due as it looked, and the time itself.
    timer: Option<(u64, u64)>,
}

/// What a throttle did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThrottleStats {
    /// Requests that had to wait, those that still do included.
    pub waits: u64,
    /// How long they waited in all, not counting those that still do.
    pub waited: Duration,
    /// Requests that wait now.
    pub waiting: u64,
}

impl Throttle {
    /// Limits a volume to `rule`. Buckets are full: a burst, where allowed, is there at once.
    pub fn new(rule: &QosRule) -> Arc<Throttle> {
        Throttle::with_clock(rule, ReactorClock::default())
    }
}

impl<C: Clock> Throttle<C> {
    /// As [`new`](Throttle::new), by another clock.
    pub fn with_clock(rule: &QosRule, clock: C) -> Arc<Throttle<C>> {
        let state = State {
            rule: *rule,
            limits: Limits::new(rule, clock.now()),
            queue: Queue::default(),
            keeper: None,
            waits: 0,
            waited: 0,
        };
        let limited = AtomicBool::new(!rule.is_unlimited());
        Arc::new(Throttle { limited, clock, state: Mutex::new(state) })
    }

    /// Whether anything is limited now.
    pub fn is_limited(&self) -> bool {
        // What it guards is under the lock; whoever comes just as it changes may still be treated as before.
        self.limited.load(Ordering::Relaxed)
    }

    /// The rule in force.
    pub fn rule(&self) -> QosRule {
        self.state.lock().rule
    }

    /// Puts `rule` in force, for those that wait already too.
    ///
    /// A limit that stays, with another rate perhaps, keeps how full its buckets are, so setting a rule again gives
    /// nobody a burst; the bucket of a new limit is full. A rule without limits lets all go at once.
    pub fn set_rule(&self, rule: &QosRule) {
        self.with_state(|state, now, wakers| {
            state.limits.refill(now);
            let mut limits = Limits::new(rule, now);
            limits.succeed(&state.limits);
            (state.rule, state.limits) = (*rule, limits);
            // Costs are measured by the rule's rates.
            state.queue.start_over();
            self.limited.store(!rule.is_unlimited(), Ordering::Relaxed);
            state.settle(now, wakers);
        });
    }

    /// What it did so far.
    pub fn stats(&self) -> ThrottleStats {
        let state = self.state.lock();
        ThrottleStats {
            waits: state.waits,
            waited: Duration::from_nanos(u64::try_from(state.waited).unwrap_or(u64::MAX)),
            waiting: state.queue.len() as u64,
        }
    }

    /// A place for one connection to the volume.
    pub fn connection(self: &Arc<Self>) -> Connection<C> {
        let member = self.state.lock().queue.join();
        Connection { throttle: Arc::clone(self), member }
    }

    /// Runs `work` under the lock, with the time, and wakes whom it wants woken after that.
    fn with_state<R>(&self, work: impl FnOnce(&mut State, u64, &mut Vec<Waker>) -> R) -> R {
        let mut wakers = Vec::new();
        let mut state = self.state.lock();
        let result = work(&mut state, self.clock.now(), &mut wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

impl State {
    /// Grants all that may go, and sees to it that there is a keeper for the rest.
    fn settle(&mut self, now: u64, wakers: &mut Vec<Waker>) {
        self.limits.refill(now);
        while let Some(ticket) = self.queue.next(|operation| self.limits.admit(operation)) {
            self.grant(ticket, now, wakers);
        }
        let waits =
            self.queue.heads().map(|(ticket, waiter)| (self.limits.admit_in(waiter.operation), ticket));
        let Some((wait, ticket)) = waits.min_by_key(|(wait, _)| *wait) else {
            self.keeper = None;
            return;
        };
        let due = now.saturating_add(wait);
        let woken = match self.keeper {
            None => {
                self.keeper = Some(Keeper { ticket, timer: None });
                ticket
            }
            Some(Keeper { ticket, timer: Some((set_for, _)) }) if due < set_for => ticket,
            Some(_) => return,
        };
        wakers.extend(self.queue.waiter_mut(woken).and_then(|waiter| waiter.waker.take()));
    }

    fn grant(&mut self, ticket: Ticket, now: u64, wakers: &mut Vec<Waker>) {
        let Some(operation) = self.queue.waiter_mut(ticket).map(|waiter| waiter.operation) else { return };
        let time = self.limits.charge(operation);
        if let Some(waiter) = self.queue.grant(ticket, time) {
            self.waited += u128::from(now.saturating_sub(waiter.since));
            wakers.extend(waiter.waker);
        }
        self.dismiss(ticket);
    }

    /// Ends `ticket`'s time as the keeper, if it is that.
    fn dismiss(&mut self, ticket: Ticket) {
        self.keeper.take_if(|keeper| keeper.ticket == ticket);
    }

    /// The keeper's timer, set anew unless the one it has will do.
    fn timer(&mut self, now: u64) -> u64 {
        let wait = self.queue.heads().map(|(_, waiter)| self.limits.admit_in(waiter.operation)).min();
        let due = now.saturating_add(wait.unwrap_or(0));
        let Some(keeper) = &mut self.keeper else { return due };
        match keeper.timer {
            Some((set_for, at)) if set_for <= due && now < at => at,
            _ => {
                let at = due.max(now.saturating_add(TICK));
                keeper.timer = Some((due, at));
                at
            }
        }
    }
}

/// One connection's share of a [`Throttle`]. It leaves when dropped.
pub struct Connection<C: Clock = ReactorClock> {
    throttle: Arc<Throttle<C>>,
    member: Member,
}

impl<C: Clock> Connection<C> {
    /// The volume's throttle.
    pub fn throttle(&self) -> &Arc<Throttle<C>> {
        &self.throttle
    }

    /// Waits until an operation may begin, and charges it. Dropping the future takes that back.
    pub async fn admit(&self, direction: Direction, bytes: u64) {
        if !self.throttle.is_limited() {
            return;
        }
        let Some(mut place) = self.enter(Operation { direction, bytes }) else { return };
        loop {
            let looked = poll_fn(|cx| match place.look(cx) {
                Look::Waiting => Poll::Pending,
                looked => Poll::Ready(looked),
            });
            let Look::Keeper(at) = looked.await else { return };
            let mut timer = pin!(self.throttle.clock.sleep_until(at));
            // Whatever wakes the keeper, also the timer, it has a look; a timer that is no longer right is given up.
            let granted = poll_fn(|cx| match place.look(cx) {
                Look::Granted => Poll::Ready(true),
                Look::Keeper(now_at) if now_at == at => timer.as_mut().poll(cx).map(|()| false),
                Look::Keeper(_) | Look::Waiting => Poll::Ready(false),
            });
            if granted.await {
                return;
            }
        }
    }

    /// Queues an operation, unless it may go now.
    fn enter(&self, operation: Operation) -> Option<Place<'_, C>> {
        self.throttle.with_state(|state, now, _| {
            if !state.limits.concern(operation) {
                return None;
            }
            if state.queue.is_empty() {
                state.limits.refill(now);
                if state.limits.admit(operation) {
                    let time = state.limits.charge(operation);
                    state.queue.count(self.member, time);
                    return None;
                }
            }
            let ticket = state.queue.enter(self.member, operation, now);
            Some(Place { throttle: &self.throttle, ticket, operation, seen: false, granted: false })
        })
    }
}

impl<C: Clock> Drop for Connection<C> {
    fn drop(&mut self) {
        self.throttle.state.lock().queue.leave(self.member);
    }
}

/// A place in the queue. Given up when dropped before the grant was noticed.
struct Place<'a, C: Clock> {
    throttle: &'a Throttle<C>,
    ticket: Ticket,
    operation: Operation,
    /// Whether it has looked before.
    seen: bool,
    /// Whether it knows of its grant.
    granted: bool,
}

/// What a waiting request sees.
enum Look {
    Granted,
    Waiting,
    /// It waits, and is to look again at this time at the latest.
    Keeper(u64),
}

impl<C: Clock> Place<'_, C> {
    fn look(&mut self, cx: &Context<'_>) -> Look {
        let (ticket, first) = (self.ticket, !std::mem::replace(&mut self.seen, true));
        let looked = self.throttle.with_state(|state, now, wakers| {
            if let Some(waiter) = state.queue.waiter_mut(ticket) {
                // Whatever is decided now, it learns of it without being woken.
                waiter.waker = None;
                // Nobody else needs to be woken for this, either.
                state.keeper.get_or_insert(Keeper { ticket, timer: None });
                state.settle(now, wakers);
            }
            let Some(waiter) = state.queue.waiter_mut(ticket) else { return Look::Granted };
            waiter.waker = Some(cx.waker().clone());
            state.waits += u64::from(first);
            match state.keeper {
                Some(keeper) if keeper.ticket == ticket => Look::Keeper(state.timer(now)),
                _ => Look::Waiting,
            }
        });
        self.granted = matches!(looked, Look::Granted);
        looked
    }
}

impl<C: Clock> Drop for Place<'_, C> {
    fn drop(&mut self) {
        if self.granted {
            return;
        }
        self.throttle.with_state(|state, now, wakers| {
            if state.queue.was_granted(self.ticket) {
                state.limits.refund(self.operation);
            } else {
                state.queue.give_up(self.ticket);
                state.dismiss(self.ticket);
            }
            state.settle(now, wakers);
        });
    }
}
