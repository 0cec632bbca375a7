//! Events: what happened, kept for a while in memory, for whoever asks and whoever listens.
//!
//! Who listens has no queue: it reads from what is kept, from where it was, and is told when it came too late. So nobody who
//! is slow costs anything, and telling never waits.

use std::collections::VecDeque;
use std::fmt;
use std::sync::OnceLock;

use cairn_api::event::{Event, EventKind, EventList, EventQuery, Severity};
use cairn_api::list;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::access::Scope;

/// Events that are kept.
const MOST: usize = 10_000;
/// Ids that a daemon has for each millisecond that passes. So the next daemon's are larger, unless the clock is set back, and
/// all are integers that JSON's numbers hold exactly until the year 2255.
const IDS_PER_MS: i64 = 1000;

/// One a daemon, shared by `Arc`.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<Kept>,
    /// The id of the last one; none once there will be no more.
    last: watch::Sender<Option<u64>>,
    projects: Projects,
}

/// Knows the project of a volume that is there.
#[derive(Default)]
struct Projects(OnceLock<LookUp>);

type LookUp = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl fmt::Debug for Projects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Projects")
    }
}

#[derive(Debug)]
struct Kept {
    events: VecDeque<Event>,
    /// The id of the last one that is forgotten, or before the first.
    forgotten: u64,
    next: u64,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) volume: Option<&'a str>,
    pub(crate) snapshot: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    /// The volume's project, where the volume may be gone.
    pub(crate) project: Option<&'a str>,
    pub(crate) job: Option<&'a str>,
}

impl<'a> About<'a> {
    pub(crate) fn volume(volume: &'a str) -> About<'a> {
        About { volume: Some(volume), ..About::default() }
    }

    pub(crate) fn snapshot(volume: &'a str, snapshot: &'a str) -> About<'a> {
        About { volume: Some(volume), snapshot: Some(snapshot), ..About::default() }
    }

    /// The same of a volume of this project.
    pub(crate) fn of(self, project: Option<&'a str>) -> About<'a> {
        About { project, ..self }
    }

    pub(crate) fn named(name: &'a str) -> About<'a> {
        About { name: Some(name), ..About::default() }
    }

    /// An export: `VOLUME` or `VOLUME@SNAPSHOT`.
    pub(crate) fn export(export: &'a str) -> About<'a> {
        match export.split_once('@') {
            Some((volume, snapshot)) => About::snapshot(volume, snapshot),
            None => About::volume(export),
        }
    }
}

impl Default for Events {
    fn default() -> Events {
        let first = u64::try_from(Timestamp::now().as_millisecond() * IDS_PER_MS).unwrap_or(1).max(1);
        let kept = Kept { events: VecDeque::new(), forgotten: first - 1, next: first };
        Events {
            kept: Mutex::new(kept),
            last: watch::Sender::new(Some(first - 1)),
            projects: Projects::default(),
        }
    }
}

impl Events {
    /// Has the projects of volumes looked up so.
    pub(crate) fn look_up_projects(&self, project: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        // Once a daemon.
        let _ = self.projects.0.set(Box::new(project));
    }

    /// Something as it should be has happened.
    pub(crate) fn tell(&self, kind: EventKind, about: About<'_>, message: impl Into<String>) {
        self.tell_of(Severity::Info, kind, about, message);
    }

    /// Something has happened.
    pub(crate) fn tell_of(
        &self,
        severity: Severity,
        kind: EventKind,
        about: About<'_>,
        message: impl Into<String>,
    ) {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let About { volume, snapshot, name, project, job } = about;
        let project = text(project).or_else(|| self.projects.0.get()?(volume?));
        let mut kept = self.kept.lock();
        let id = kept.next;
        kept.next += 1;
        kept.events.push_back(Event {
            id,
            time: Timestamp::now(),
            kind,
            severity,
            volume: text(volume),
            project,
            snapshot: text(snapshot),
            name: text(name),
            job: text(job),
            message: message.into(),
        });
        if kept.events.len() > MOST
            && let Some(oldest) = kept.events.pop_front()
        {
            kept.forgotten = oldest.id;
        }
        // Under the lock, so that the last one is told last.
        self.last.send_if_modified(|last| last.as_mut().map(|last| *last = id).is_some());
    }

    /// What is kept and asked for, and seen by whoever asks.
    pub fn list(&self, query: &EventQuery, scope: &Scope) -> EventList {
        let kept = self.kept.lock();
        let after = query.after.unwrap_or(0);
        let from = kept.events.partition_point(|event| event.id <= after);
        let most = list::most(query.limit);
        let asked_for = kept
            .events
            .range(from..)
            .rev()
            .filter(|event| scope.shows(event.project.as_deref()) && query.asks_for(event));
        let mut events: Vec<Event> = asked_for.take(most).cloned().collect();
        events.reverse();
        EventList {
            events,
            last: kept.next - 1,
            gap: query.after.is_some_and(|after| after < kept.forgotten),
        }
    }

    /// The id of the last one.
    pub(crate) fn last(&self) -> u64 {
        self.kept.lock().next - 1
    }

    /// Waits until something has happened after `after`. Returns whether more can come.
    pub(crate) async fn wait(&self, after: u64) -> bool {
        let mut last = self.last.subscribe();
        let changed = last.wait_for(|last| last.is_none_or(|last| last > after)).await;
        changed.is_ok_and(|last| last.is_some())
    }

    /// Nothing will happen any more: whoever listens may go.
    pub(crate) fn close(&self) {
        self.last.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &EventList) -> Vec<u64> {
        list.events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn events_are_kept_in_order_and_found_by_what_comes_after() {
        let events = Events::default();
        let start = events.list(&EventQuery::default(), &Scope::All).last;
        events.tell(EventKind::VolumeCreated, About::volume("a"), "made");
        events.tell(EventKind::SnapshotCreated, About::export("a@s"), "taken");
        events.tell_of(Severity::Error, EventKind::PoolFenced, About::named("main"), "fenced");
        let all = events.list(&EventQuery { after: Some(start), ..EventQuery::default() }, &Scope::All);
        assert_eq!((ids(&all), all.last, all.gap), (vec![start + 1, start + 2, start + 3], start + 3, false));
        assert_eq!(all.events[1].snapshot.as_deref(), Some("s"));
        let bad = EventQuery { severity: Some(Severity::Warning), ..EventQuery::default() };
        assert_eq!(ids(&events.list(&bad, &Scope::All)), [start + 3]);
        let latest = EventQuery { limit: Some(2), ..EventQuery::default() };
        assert_eq!(ids(&events.list(&latest, &Scope::All)), [start + 2, start + 3]);
        let none = events.list(&EventQuery { after: Some(all.last), ..EventQuery::default() }, &Scope::All);
        assert_eq!((ids(&none), none.last), (vec![], all.last));
        assert!(
            Events::default().list(&EventQuery::default(), &Scope::All).last >= start,
            "the next daemon's are later"
        );
    }

    #[test]
    fn what_is_forgotten_is_said() {
        let events = Events::default();
        let start = events.list(&EventQuery::default(), &Scope::All).last;
        for _ in 0..MOST + 2 {
            events.tell(EventKind::VolumeEdited, About::volume("a"), "again");
        }
        let after =
            |after| events.list(&EventQuery { after: Some(after), ..EventQuery::default() }, &Scope::All);
        assert_eq!((after(start).events.len(), after(start).gap), (MOST, true));
        assert!(after(start + 1).gap && !after(start + 2).gap);
    }

    #[test]
    fn who_waits_is_told_also_of_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let events = std::sync::Arc::new(Events::default());
        let last = events.list(&EventQuery::default(), &Scope::All).last;
        runtime.block_on(async {
            let waiting = tokio::spawn({
                let events = events.clone();
                async move { events.wait(last).await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            events.tell(EventKind::DaemonStarted, About::default(), "here");
            assert!(waiting.await.expect("joins"));
            assert!(events.wait(last).await, "it has happened already");
            events.close();
            assert!(!events.wait(last + 1).await);
        });
    }
}
