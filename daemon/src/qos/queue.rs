//! Who waits, and whose turn it is.
//!
//! Each connection has a line for reads and one for writes, since a read need not wait for what only limits writes. A
//! line is first come, first served. Among connections it is start-time fair queueing: each has a *finish*, the virtual
//! time at which what it was granted so far ends, and the one that would begin first goes first. A grant moves the
//! finish on by what it cost, so connections that all wait get equal shares of the limit, whether they have one request
//! in flight or hundreds and however large their requests are. Who was away does not save turns up: nobody begins
//! before the virtual time, which is when the last grant began.
//!
//! Among a connection's own two lines the older request goes first.

use std::collections::VecDeque;
use std::task::Waker;

use super::limits::{Direction, Operation};

/// A request's place: which connection, which line, and its number, given in order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    member: Member,
    direction: Direction,
    number: u64,
}

/// A connection's place in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Member(usize);

/// One waiting request.
#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    pub(super) operation: Operation,
    /// When it came.
    pub(super) since: u64,
    /// None before its first look, and while it is looking.
    pub(super) waker: Option<Waker>,
}

#[derive(Default, Debug)]
struct Line {
    waiters: VecDeque<Waiter>,
    /// The number of the last request granted; those before it in this line were too.
    granted: u64,
}

#[derive(Default, Debug)]
struct Lines {
    lines: [Line; 2],
    finish: u128,
}

impl Lines {
    fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.waiters.is_empty())
    }
}

/// The queue of a volume.
#[derive(Default, Debug)]
pub(super) struct Queue {
    members: Vec<Option<Lines>>,
    /// Members that have requests waiting. Looked through for each grant: they are few.
    active: Vec<usize>,
    virtual_time: u128,
    last_number: u64,
    waiting: usize,
}

impl Queue {
    /// Requests waiting.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes a connection in.
    pub(super) fn join(&mut self) -> Member {
        let free = self.members.iter().position(Option::is_none).unwrap_or_else(|| {
            self.members.push(None);
            self.members.len() - 1
        });
        self.members[free] = Some(Lines::default());
        Member(free)
    }

    /// Lets a connection go that has nothing waiting.
    pub(super) fn leave(&mut self, member: Member) {
        self.members[member.0] = None;
    }

    fn lines(&self, member: usize) -> &Lines {
        self.members[member].as_ref().expect("a member that has not left")
    }

    fn lines_mut(&mut self, member: usize) -> &mut Lines {
        self.members[member].as_mut().expect("a member that has not left")
    }

    fn line_mut(&mut self, ticket: Ticket) -> &mut Line {
        &mut self.lines_mut(ticket.member.0).lines[ticket.direction as usize]
    }

    /// Puts a request at the end of its line.
    pub(super) fn enter(&mut self, member: Member, operation: Operation, now: u64) -> Ticket {
        self.last_number += 1;
        let ticket = Ticket { member, direction: operation.direction, number: self.last_number };
        if self.lines(member.0).is_empty() {
            self.active.push(member.0);
        }
        let waiter = Waiter { number: ticket.number, operation, since: now, waker: None };
        self.line_mut(ticket).waiters.push_back(waiter);
        self.waiting += 1;
        ticket
    }

    /// Whether a request has been granted.
    pub(super) fn was_granted(&self, ticket: Ticket) -> bool {
        self.lines(ticket.member.0).lines[ticket.direction as usize].granted >= ticket.number
    }

    /// A waiting request; none if it was granted.
    pub(super) fn waiter_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        let waiters = &mut self.line_mut(ticket).waiters;
        let index = waiters.binary_search_by_key(&ticket.number, |waiter| waiter.number).ok()?;
        waiters.get_mut(index)
    }

    /// Takes a request out that no longer waits for its turn.
    pub(super) fn give_up(&mut self, ticket: Ticket) {
        let waiters = &mut self.line_mut(ticket).waiters;
        if let Ok(index) = waiters.binary_search_by_key(&ticket.number, |waiter| waiter.number) {
            waiters.remove(index);
            self.one_less(ticket.member.0);
        }
    }

    fn one_less(&mut self, member: usize) {
        self.waiting -= 1;
        if self.lines(member).is_empty() {
            self.active.retain(|active| *active != member);
        }
    }

    /// The first request of each line.
    pub(super) fn heads(&self) -> impl Iterator<Item = (Ticket, &Waiter)> {
        self.active.iter().flat_map(|&member| {
            let lines = &self.lines(member).lines;
            [Direction::Read, Direction::Write].into_iter().filter_map(move |direction| {
                let waiter = lines[direction as usize].waiters.front()?;
                Some((Ticket { member: Member(member), direction, number: waiter.number }, waiter))
            })
        })
    }

    /// Whose turn it is among those that `may_go`.
    pub(super) fn next(&self, may_go: impl Fn(Operation) -> bool) -> Option<Ticket> {
        let ready = self.heads().filter(|(_, waiter)| may_go(waiter.operation));
        let turn = |ticket: &Ticket| (self.start(ticket.member), ticket.number);
        ready.map(|(ticket, _)| ticket).min_by_key(turn)
    }

    /// The virtual time at which `member`'s next request begins.
    fn start(&self, member: Member) -> u128 {
        self.lines(member.0).finish.max(self.virtual_time)
    }

    /// Grants the first request of a line, which costs `time`.
    pub(super) fn grant(&mut self, head: Ticket, time: u128) -> Option<Waiter> {
        self.count(head.member, time);
        let line = self.line_mut(head);
        line.granted = head.number;
        let waiter = line.waiters.pop_front();
        if waiter.is_some() {
            self.one_less(head.member.0);
        }
        waiter
    }

    /// Counts something granted to `member` that costs `time`.
    pub(super) fn count(&mut self, member: Member, time: u128) {
        let start = self.start(member);
        self.virtual_time = start;
        self.lines_mut(member.0).finish = start.saturating_add(time);
    }

    /// Forgets who got how much, as its measure has changed.
    pub(super) fn start_over(&mut self) {
        self.virtual_time = 0;
        for lines in self.members.iter_mut().flatten() {
            lines.finish = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Operation = Operation { direction: Direction::Read, bytes: 1 };
    const WRITE: Operation = Operation { direction: Direction::Write, bytes: 1 };

    /// Grants `count` requests and tells to whom; each costs what its bytes are.
    fn grant(queue: &mut Queue, count: usize) -> Vec<usize> {
        let mut to = Vec::new();
        for _ in 0..count {
            let ticket = queue.next(|_| true).expect("somebody waits");
            let time = queue.waiter_mut(ticket).expect("it waits").operation.bytes;
            queue.grant(ticket, u128::from(time)).expect("it is the first");
            assert!(queue.was_granted(ticket));
            to.push(ticket.member.0);
        }
        to
    }

    fn enter(queue: &mut Queue, member: Member, operation: Operation, count: usize) -> Vec<Ticket> {
        (0..count).map(|_| queue.enter(member, operation, 0)).collect()
    }

    #[test]
    fn turns_are_fair_by_cost() {
        let mut queue = Queue::default();
        let (a, b) = (queue.join(), queue.join());
        enter(&mut queue, a, Operation { bytes: 3, ..READ }, 9);
        enter(&mut queue, b, READ, 9);
        assert_eq!(grant(&mut queue, 8), [0, 1, 1, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn who_comes_late_has_saved_nothing_up() {
        let mut queue = Queue::default();
        let (a, b) = (queue.join(), queue.join());
        enter(&mut queue, a, READ, 1000);
        grant(&mut queue, 500);
        enter(&mut queue, b, READ, 1000);
        let to = grant(&mut queue, 100);
        assert_eq!(to.iter().filter(|member| **member == b.0).count(), 50);
    }

    #[test]
    fn those_that_may_not_go_are_passed_over_and_go_first_afterwards() {
        let mut queue = Queue::default();
        let (a, b) = (queue.join(), queue.join());
        enter(&mut queue, a, READ, 5);
        enter(&mut queue, b, WRITE, 100);
        for _ in 0..50 {
            let ticket = queue.next(|o| o.direction == Direction::Write).expect("writes wait");
            queue.grant(ticket, 1);
        }
        assert!(queue.next(|o| o.bytes == 7).is_none());
        // Not fifty times, to make up for it: level after one, and then it is the older request's turn.
        assert_eq!(grant(&mut queue, 5), [0, 0, 1, 0, 1]);
    }

    #[test]
    fn a_connections_older_request_goes_first() {
        let mut queue = Queue::default();
        let a = queue.join();
        let tickets = [READ, WRITE, WRITE, READ].map(|operation| queue.enter(a, operation, 0));
        for ticket in tickets {
            assert_eq!(queue.next(|_| true), Some(ticket));
            queue.grant(ticket, 1);
        }
        assert!(queue.is_empty() && queue.active.is_empty());
    }

    #[test]
    fn giving_up_leaves_no_trace() {
        let mut queue = Queue::default();
        let (a, b) = (queue.join(), queue.join());
        let tickets = enter(&mut queue, a, READ, 4);
        queue.give_up(tickets[1]);
        queue.give_up(tickets[1]);
        assert_eq!(queue.len(), 3);
        assert!(!queue.was_granted(tickets[1]));
        let granted: Vec<Ticket> = std::iter::from_fn(|| {
            let next = queue.next(|_| true)?;
            queue.grant(next, 1);
            Some(next)
        })
        .collect();
        assert_eq!(granted, [tickets[0], tickets[2], tickets[3]]);
        let last = enter(&mut queue, b, WRITE, 1)[0];
        queue.give_up(last);
        assert!(queue.is_empty() && queue.active.is_empty());
        queue.leave(a);
        assert_eq!(queue.join(), a, "its place is used again");
        assert!(queue.next(|_| true).is_none());
    }

    #[test]
    fn starting_over_lets_nobody_pay_for_the_past() {
        let mut queue = Queue::default();
        let (a, b) = (queue.join(), queue.join());
        queue.count(a, u128::MAX);
        queue.count(a, u128::MAX);
        queue.start_over();
        enter(&mut queue, a, READ, 4);
        enter(&mut queue, b, READ, 4);
        assert_eq!(grant(&mut queue, 4), [0, 1, 0, 1]);
    }
}
