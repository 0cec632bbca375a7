//! What a volume may hold, given what was asked of it and when it answered.
//!
//! Time is a counter that ticks at every question and answer. A write *precedes* another when it was answered before
//! the other was asked for; writes that overlap in time may have happened in either order. From that alone follows
//! what a sector may hold: the value of any write that *may* have happened, unless one that *must* have happened
//! succeeded it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::pattern::ZERO;

/// A point of time; [`NEVER`] is after every other.
pub type Time = u64;
/// The end of what was not answered.
pub const NEVER: Time = Time::MAX;

/// One write to one sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it wrote.
    pub id: u64,
    /// When it was asked for.
    pub start: Time,
    /// When it was answered.
    pub end: Time,
    /// Whether it is durable whatever was flushed.
    pub durable: bool,
    /// Whether it was answered with an error: it may have happened by then, all or in part, or not.
    pub failed: bool,
}

impl Event {
    const fn base(id: u64) -> Event {
        Event { id, start: 0, end: 0, durable: true, failed: false }
    }
}

/// What was written to a volume, sector by sector. Every list begins with what was there at first.
///
/// Copies are cheap: they share what they have in common.
#[derive(Clone, Debug, Default)]
pub struct History {
    sectors: Rc<BTreeMap<u64, Vec<Event>>>,
    /// What it was before it became known for sure what is there: only a disk that lies brings that back.
    past: Option<Rc<History>>,
}

/// What a version holds: the id in each sector that is not zero.
pub type Contents = BTreeMap<u64, u64>;

impl History {
    /// A volume that holds this at first.
    pub fn starting_with(contents: &Contents) -> History {
        let sectors = contents.iter().map(|(&sector, &id)| (sector, vec![Event::base(id)]));
        History { sectors: Rc::new(sectors.collect()), past: None }
    }

    /// The volume is known to hold this now, and goes on from there.
    #[must_use]
    pub fn restarted(&self, contents: &Contents) -> History {
        History { past: Some(Rc::new(self.clone())), ..History::starting_with(contents) }
    }

    /// Every sector that may hold anything but zeroes.
    pub fn touched(&self) -> BTreeSet<u64> {
        self.sectors.keys().copied().collect()
    }

    /// Makes sure that each of these sectors has a list, so that what befalls the whole volume befalls them.
    pub fn touch(&mut self, sectors: std::ops::Range<u64>) {
        let lists = Rc::make_mut(&mut self.sectors);
        for sector in sectors {
            lists.entry(sector).or_insert_with(|| vec![Event::base(ZERO)]);
        }
    }

    /// A write was asked for; it is not answered.
    pub fn begin(&mut self, sector: u64, id: u64, start: Time) {
        let event = Event { id, start, end: NEVER, durable: false, failed: false };
        let lists = Rc::make_mut(&mut self.sectors);
        lists.entry(sector).or_insert_with(|| vec![Event::base(ZERO)]).push(event);
    }

    /// The write of `id` that was asked for at `start` is answered; `durable` when it was with FUA.
    pub fn end(&mut self, sector: u64, id: u64, start: Time, end: Time, durable: bool) {
        let events = Rc::make_mut(&mut self.sectors).get_mut(&sector).into_iter().flatten();
        for event in events.filter(|e| e.id == id && e.start == start) {
            event.end = end;
            event.durable |= durable;
        }
    }

    /// The write that was asked for at `start` is answered with an error.
    pub fn fail(&mut self, sector: u64, start: Time, end: Time) {
        let events = Rc::make_mut(&mut self.sectors).get_mut(&sector).into_iter().flatten();
        for event in events.filter(|e| e.start == start) {
            event.end = end;
            event.failed = true;
        }
    }

    /// What was asked for at this time has happened by `end`, and is durable.
    pub fn happened(&mut self, start: Time, end: Time) {
        for event in Rc::make_mut(&mut self.sectors).values_mut().flatten().filter(|e| e.start == start) {
            event.end = end;
            event.durable = true;
        }
    }

    /// What was asked for at this time did not happen.
    pub fn retract(&mut self, start: Time) {
        for events in Rc::make_mut(&mut self.sectors).values_mut() {
            events.retain(|e| e.start != start);
        }
    }

    /// The process died: what was not answered by now will not happen later; what is there now was seen.
    pub fn survived(&mut self, seen: &Contents, now: Time) {
        for (sector, events) in Rc::make_mut(&mut self.sectors) {
            for event in events.iter_mut().filter(|e| e.end == NEVER) {
                event.end = now - 1;
            }
            let id = seen.get(sector).copied().unwrap_or(ZERO);
            events.push(Event { id, start: now, end: now, durable: false, failed: false });
        }
    }

    /// What the sector may hold, when `must` tells what has certainly happened and `may` what possibly has.
    fn allowed(
        &self,
        sector: u64,
        must: impl Fn(&Event) -> bool,
        may: impl Fn(&Event) -> bool,
    ) -> impl Iterator<Item = u64> {
        const BASE: &[Event] = &[Event::base(ZERO)];
        let events = self.sectors.get(&sector).map_or(BASE, Vec::as_slice);
        // Whatever was answered before this was asked for has been succeeded.
        let newest = events.iter().filter(|e| !e.failed && must(e)).map(|e| e.start).max().unwrap_or(0);
        events.iter().filter(move |e| may(e) && e.end >= newest).map(|e| e.id)
    }

    /// What a read that was asked for and answered at these times may have seen.
    pub fn live(&self, sector: u64, start: Time, end: Time) -> Vec<u64> {
        self.allowed(sector, |e| e.end < start, |e| e.start < end).collect()
    }

    /// What may be there after a crash, when all answered before `flushed` was flushed.
    pub fn after_crash(&self, sector: u64, flushed: Time) -> impl Iterator<Item = u64> {
        self.allowed(sector, move |e| e.durable || e.end < flushed, |_| true)
    }

    /// What a snapshot may hold that is there after a crash though it was asked for at `asked` and never answered.
    /// A rollback's undo point does not hold what that rollback, asked for at the same time, put there.
    pub fn in_unanswered_snapshot(
        &self,
        sector: u64,
        asked: Time,
        flushed: Time,
    ) -> impl Iterator<Item = u64> {
        let must = move |e: &Event| (e.durable || e.end < flushed) && e.end < asked;
        self.allowed(sector, must, move |e| e.start != asked)
    }

    /// What a snapshot may hold that was asked for at `asked` and answered at `answered`, when all that was answered
    /// before `point` (which is `asked` or later) comes before it in the log.
    pub fn in_snapshot(
        &self,
        sector: u64,
        asked: Time,
        point: Time,
        answered: Time,
    ) -> impl Iterator<Item = u64> {
        self.allowed(
            sector,
            move |e| e.end < point && e.start != asked,
            move |e| e.start < answered && e.start != asked,
        )
    }

    /// Its sectors, with what was seen there and what befell them.
    fn with<'a>(&'a self, seen: &'a Contents) -> impl Iterator<Item = (u64, u64, &'a [Event])> {
        let mut rest = seen.iter().peekable();
        self.sectors.iter().map(move |(&sector, events)| {
            while rest.next_if(|(at, _)| **at < sector).is_some() {}
            let id = rest.next_if(|(at, _)| **at == sector).map_or(ZERO, |(_, id)| *id);
            (sector, id, events.as_slice())
        })
    }

    /// The latest time at which a write was asked for whose value is among what was seen. All that was answered
    /// before it comes earlier in the log.
    pub fn latest_start(&self, seen: &Contents) -> Time {
        let starts = self.with(seen).filter_map(|(_, id, events)| {
            // A value that was there twice may come from the first time.
            events.iter().filter(|e| e.id == id).map(|e| e.start).min()
        });
        starts.max().unwrap_or(0)
    }

    /// Whatever the sector ever held or was to hold.
    pub fn ever(&self, sector: u64) -> Vec<u64> {
        let histories = std::iter::successors(Some(self), |history| history.past.as_deref());
        histories.flat_map(|history| history.allowed(sector, |_| false, |_| true)).collect()
    }

    /// Everything about one sector, for a failure's message.
    pub fn story(&self, sector: u64) -> String {
        let events = self.sectors.get(&sector).map_or(&[][..], Vec::as_slice);
        let lines = events.iter().map(|e| match e.end {
            NEVER => format!("  write {} asked at {}, not answered", e.id, e.start),
            end => format!(
                "  write {} asked at {}, answered at {end}{}{}",
                e.id,
                e.start,
                if e.durable { ", durable" } else { "" },
                if e.failed { ", failed" } else { "" }
            ),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Compares what a version holds with what each of its sectors may hold.
///
/// # Panics
/// When a sector holds anything else, with its story.
pub fn assert_allowed<I: Iterator<Item = u64>>(
    what: &str,
    seen: &Contents,
    history: &History,
    allowed: impl Fn(u64) -> I,
) {
    let others = seen.iter().filter(|(sector, _)| !history.sectors.contains_key(sector));
    let known = history.with(seen).map(|(sector, id, _)| (sector, id));
    for (sector, id) in known.chain(others.map(|(sector, id)| (*sector, *id))) {
        assert!(
            allowed(sector).any(|allowed| allowed == id),
            "{what}: sector {sector} (block {}) holds write {id}, allowed are {:?}; its story:\n{}",
            sector / 8,
            allowed(sector).collect::<Vec<u64>>(),
            history.story(sector)
        );
    }
}
