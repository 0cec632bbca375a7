//! Who uses what: the one place where the NBD side and the control side meet.
//!
//! ```text
//! GO                      ─► attach          enters the connection under its consumer
//! delete, rename, ...     ─► hold            nobody uses it, and nobody can begin to
//! detach                  ─► close, end      lets nobody in, and asks, or forces, connections to end
//! ```
//!
//! A consumer is a process, a host or the kernel: all connections of one are one attachment. A volume's head has at
//! most one unless it is shared; snapshots are read-only and always shared.
//!
//! A client that only asks (INFO, LIST_META_CONTEXT) is not known here and in nobody's way: what it found may be gone
//! when it begins. So whoever is entered is asked *then*, where nobody can take the target, whether what it found is still
//! there and whether it may be shared: no connection slips in between the check that nobody is there and a deletion,
//! nor between a volume's ceasing to be shared and the answer that it has.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cairn_api::attachment::{self, Consumer};
use cairn_api::stats::IoKind;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::figures::IoCounters;

/// What a client connects to, or an operation wants for itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// A volume's head.
    Head {
        /// The volume's name.
        volume: String,
    },
    /// One snapshot.
    Snapshot {
        /// The volume's name.
        volume: String,
        /// The snapshot's name.
        name: String,
    },
    /// A volume's head and all its snapshots. Nobody connects to that.
    Volume {
        /// The volume's name.
        volume: String,
    },
}

impl Target {
    /// The target of the NBD export `VOLUME` or `VOLUME@SNAPSHOT`.
    pub fn of_export(export: &str) -> Target {
        match export.split_once('@') {
            Some((volume, name)) => Target::Snapshot { volume: volume.to_owned(), name: name.to_owned() },
            None => Target::Head { volume: export.to_owned() },
        }
    }

    /// The target of a volume's head or of one of its snapshots.
    pub fn of(volume: String, snapshot: Option<String>) -> Target {
        match snapshot {
            Some(name) => Target::Snapshot { volume, name },
            None => Target::Head { volume },
        }
    }

    /// The volume's name.
    pub(crate) fn volume(&self) -> &str {
        match self {
            Target::Head { volume } | Target::Snapshot { volume, .. } | Target::Volume { volume } => volume,
        }
    }

    /// The NBD export's name.
    pub(crate) fn export(&self) -> String {
        match self {
            Target::Head { volume } | Target::Volume { volume } => volume.clone(),
            Target::Snapshot { volume, name } => format!("{volume}@{name}"),
        }
    }

    /// Whether a connection to `self` stands in the way of holding `other`.
    fn overlaps(&self, other: &Target) -> bool {
        match (self, other) {
            (Target::Volume { volume }, other) | (other, Target::Volume { volume }) => {
                volume == other.volume()
            }
            (one, other) => one == other,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Head { volume } => write!(f, "volume '{volume}'"),
            Target::Snapshot { volume, name } => write!(f, "snapshot '{volume}@{name}'"),
            Target::Volume { volume } => write!(f, "volume '{volume}' with its snapshots"),
        }
    }
}

/// Why a target cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InUse {
    /// So many NBD connections use it.
    Connected(usize),
    /// This kernel device is attached to it, if not connected now.
    Attached(String),
    /// It is not shared and somebody else has it.
    Taken(Consumer),
    /// An operation has it for itself.
    Held,
    /// It is not there any more.
    Gone,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InUse::Connected(1) => f.write_str("1 NBD client is connected"),
            InUse::Connected(count) => write!(f, "{count} NBD clients are connected"),
            InUse::Attached(device) => write!(f, "it is attached as {device}"),
            InUse::Taken(consumer) => write!(f, "it is attached to {consumer} and not shared"),
            InUse::Held => f.write_str("another operation on it is under way"),
            InUse::Gone => f.write_str("it is not there any more"),
        }
    }
}

impl std::error::Error for InUse {}

/// How a connection is ended from outside; given with it when it is entered.
pub trait Line: Send + Sync {
    /// Ends the connection: after what has been sent to it, or at once.
    fn end(&self, force: bool);
}

/// The registry. One a daemon, shared by `Arc`. Locked for a few look-ups a connection, never over I/O.
#[derive(Default)]
pub struct Sessions {
    state: Mutex<State>,
}

/// Is told of who begins to use what, and of who does so no more; under the registry's lock, so it must be quick.
type Teller = Box<dyn Fn(&Target, &Consumer, bool) + Send>;

#[derive(Default)]
struct State {
    attached: HashMap<Target, Vec<Group>>,
    /// What operations have for themselves.
    held: Vec<Target>,
    /// What nobody is let in to, once for each who asked for that.
    closed: Vec<Target>,
    teller: Option<Teller>,
    last_id: u64,
}

/// One consumer of one target.
struct Group {
    consumer: Consumer,
    since: Timestamp,
    connections: Vec<Connected>,
    /// What connections did that have ended.
    past: IoCounters,
    /// It stays without connections: a kernel device that will be connected again.
    pinned: bool,
}

struct Connected {
    id: u64,
    counters: Arc<IoCounters>,
    line: Arc<dyn Line>,
}

impl Group {
    fn new(consumer: Consumer) -> Group {
        let since = Timestamp::now();
        Group { consumer, since, connections: Vec::new(), past: IoCounters::default(), pinned: false }
    }

    fn show(&self, target: &Target) -> attachment::Attachment {
        let sum = IoCounters::default();
        sum.absorb(&self.past);
        self.connections.iter().for_each(|c| sum.absorb(&c.counters));
        let done = |kind| {
            let stats = sum.show(kind);
            stats.operations.saturating_sub(stats.errors)
        };
        attachment::Attachment {
            export: target.export(),
            consumer: self.consumer.clone(),
            since: self.since,
            connections: self.connections.len() as u64,
            reads: done(IoKind::Read),
            writes: done(IoKind::Write) + done(IoKind::Trim) + done(IoKind::Zero),
            flushes: done(IoKind::Flush),
            bytes_read: sum.show(IoKind::Read).bytes,
            bytes_written: sum.show(IoKind::Write).bytes,
        }
    }
}

/// Whether two connections are of one consumer. A process in a namespace of its own has no id here, and could be any.
fn same(one: &Consumer, other: &Consumer) -> bool {
    match (one, other) {
        (Consumer::Process { uid, pid, .. }, Consumer::Process { uid: other_uid, pid: other_pid, .. }) => {
            uid == other_uid && pid == other_pid && *pid != 0
        }
        // A version has one kernel device at most, whose name is not known before it is attached.
        (Consumer::Kernel { .. }, Consumer::Kernel { .. }) => true,
        (one, other) => one == other,
    }
}

/// Whether it is known who a consumer is. A kernel device has no name before it is attached.
fn is_named(consumer: &Consumer) -> bool {
    !matches!(consumer, Consumer::Kernel { device } if device.is_empty())
}

impl State {
    fn check_held(&self, target: &Target) -> Result<(), InUse> {
        if self.held.iter().any(|held| held.overlaps(target)) { Err(InUse::Held) } else { Ok(()) }
    }

    /// Whether somebody new may have `target`.
    fn check_open(&self, target: &Target) -> Result<(), InUse> {
        self.check_held(target)?;
        if self.closed.iter().any(|closed| closed.overlaps(target)) { Err(InUse::Held) } else { Ok(()) }
    }

    fn groups(&self, target: &Target) -> impl Iterator<Item = (&Target, &Group)> {
        let matching = self.attached.iter().filter(move |(attached, _)| attached.overlaps(target));
        matching.flat_map(|(target, groups)| groups.iter().map(move |group| (target, group)))
    }

    fn connections(&self, target: &Target) -> usize {
        self.groups(target).map(|(_, group)| group.connections.len()).sum()
    }

    /// A number for one more, and the group of `consumer`, new if need be, unless somebody is in its way.
    fn enter(
        &mut self,
        target: Target,
        consumer: &Consumer,
        shared: impl FnOnce() -> Option<bool>,
    ) -> Result<(u64, &mut Group), InUse> {
        self.check_open(&target)?;
        let shared = shared().ok_or(InUse::Gone)?;
        self.last_id += 1;
        let alone = !shared && matches!(target, Target::Head { .. });
        let place = target.clone();
        let groups = self.attached.entry(target).or_default();
        let known = groups.iter().position(|group| same(&group.consumer, consumer));
        // Whoever has it already may connect again, also when it is not shared any more.
        if let Some(other) = groups.first().filter(|_| alone && known.is_none()) {
            return Err(InUse::Taken(other.consumer.clone()));
        }
        let at = known.unwrap_or_else(|| {
            groups.push(Group::new(consumer.clone()));
            if let Some(teller) = self.teller.as_ref().filter(|_| is_named(consumer)) {
                teller(&place, consumer, true);
            }
            groups.len() - 1
        });
        Ok((self.last_id, &mut groups[at]))
    }

    fn tidy(&mut self, target: &Target) {
        if let Some(groups) = self.attached.get_mut(target) {
            groups.retain(|group| {
                let stays = group.pinned || !group.connections.is_empty();
                if let Some(teller) = self.teller.as_ref().filter(|_| !stays && is_named(&group.consumer)) {
                    teller(target, &group.consumer, false);
                }
                stays
            });
            if groups.is_empty() {
                self.attached.remove(target);
            }
        }
    }
}

impl Sessions {
    /// Nobody is connected yet.
    pub fn new() -> Arc<Sessions> {
        Arc::default()
    }

    /// Has `teller` told of who begins to use what, and of who does so no more. It is called while nobody can be entered or
    /// leave.
    pub(crate) fn tell_of(&self, teller: impl Fn(&Target, &Consumer, bool) + Send + 'static) {
        self.state.lock().teller = Some(Box::new(teller));
    }

    /// Enters a connection of `consumer` to `target`. `shared` says whether others may have it too, or nothing if what
    /// was looked up is gone: it is asked while nobody can be entered or take the target, so it must be quick.
    ///
    /// # Errors
    /// [`InUse::Taken`] when another consumer has it and it is not shared, [`InUse::Held`] while an operation has it,
    /// [`InUse::Gone`].
    pub fn attach(
        self: &Arc<Sessions>,
        target: Target,
        consumer: &Consumer,
        shared: impl FnOnce() -> Option<bool>,
        line: Arc<dyn Line>,
    ) -> Result<Attachment, InUse> {
        let counters = Arc::new(IoCounters::default());
        let mut state = self.state.lock();
        let entered = state.enter(target.clone(), consumer, shared);
        let entered = entered.map(|(id, group)| {
            group.connections.push(Connected { id, counters: Arc::clone(&counters), line });
            id
        });
        state.tidy(&target);
        Ok(Attachment { id: entered?, sessions: Arc::clone(self), target, counters })
    }

    /// Reserves `target` for a kernel device, which keeps it, connected or not, until [`unpin`](Self::unpin).
    ///
    /// # Errors
    /// As for [`attach`](Self::attach), and [`InUse::Attached`] when it has a device already.
    pub fn pin(
        &self,
        target: Target,
        consumer: &Consumer,
        shared: impl FnOnce() -> Option<bool>,
    ) -> Result<(), InUse> {
        let mut state = self.state.lock();
        let entered = state.enter(target.clone(), consumer, shared);
        let outcome = entered.and_then(|(_, group)| match std::mem::replace(&mut group.pinned, true) {
            true => Err(InUse::Attached(group.consumer.to_string())),
            false => Ok(()),
        });
        state.tidy(&target);
        outcome
    }

    /// Says what the device is called that [`pin`](Self::pin) reserved its target for.
    pub fn name_device(&self, target: &Target, device: &Consumer) {
        let mut state = self.state.lock();
        let State { attached, teller, .. } = &mut *state;
        for group in attached.get_mut(target).into_iter().flatten() {
            if same(&group.consumer, device) {
                let unnamed = !is_named(&group.consumer);
                group.consumer = device.clone();
                if let Some(teller) = teller.as_ref().filter(|_| unnamed) {
                    teller(target, device, true);
                }
            }
        }
    }

    /// The device does not keep its target any more.
    pub fn unpin(&self, target: &Target, consumer: &Consumer) {
        let mut state = self.state.lock();
        for group in state.attached.get_mut(target).into_iter().flatten() {
            group.pinned &= !same(&group.consumer, consumer);
        }
        state.tidy(target);
    }

    /// Takes `target` for one operation: nobody uses it, and nobody can begin to until the result is dropped.
    ///
    /// # Errors
    /// Who is in the way.
    pub fn hold(self: &Arc<Sessions>, target: Target) -> Result<Held, InUse> {
        let mut state = self.state.lock();
        state.check_open(&target)?;
        // First what lasts: connections may be about to end.
        let pinned = state.groups(&target).find(|(_, group)| group.pinned);
        if let Some((_, device)) = pinned {
            return Err(InUse::Attached(device.consumer.to_string()));
        }
        let connections = state.connections(&target);
        if connections > 0 {
            return Err(InUse::Connected(connections));
        }
        state.held.push(target.clone());
        Ok(Held { sessions: Arc::clone(self), target })
    }

    /// Lets nobody in to `target` until the result is dropped; who is there stays. Several may ask for that at a time: who
    /// cuts connections need not wait for who waits for them to end.
    ///
    /// # Errors
    /// [`InUse::Held`] while an operation has the target for itself.
    pub fn close(self: &Arc<Sessions>, target: Target) -> Result<Closed, InUse> {
        let mut state = self.state.lock();
        state.check_held(&target)?;
        state.closed.push(target.clone());
        Ok(Closed { sessions: Arc::clone(self), target })
    }

    /// Whether nobody is let in to `target` because its use is being ended.
    pub fn is_closed(&self, target: &Target) -> bool {
        self.state.lock().closed.iter().any(|closed| closed.overlaps(target))
    }

    /// Connections to `target` and what it covers.
    pub fn connections(&self, target: &Target) -> usize {
        self.state.lock().connections(target)
    }

    /// Asks the connections to `target` to end, or ends them at once. They are gone when
    /// [`connections`](Self::connections) says so.
    pub fn end(&self, target: &Target, force: bool) {
        let lines: Vec<Arc<dyn Line>> = {
            let state = self.state.lock();
            let connections = state.groups(target).flat_map(|(_, group)| &group.connections);
            connections.map(|connected| Arc::clone(&connected.line)).collect()
        };
        lines.iter().for_each(|line| line.end(force));
    }

    /// Who is attached to exactly `target`, the first first.
    pub fn attachments(&self, target: &Target) -> Vec<attachment::Attachment> {
        let state = self.state.lock();
        let mut shown: Vec<_> =
            state.attached.get(target).into_iter().flatten().map(|group| group.show(target)).collect();
        shown.sort_by_key(|attachment| attachment.since);
        shown
    }

    /// The snapshots that somebody uses: volume and name of each.
    pub(crate) fn snapshots_in_use(&self) -> Vec<(String, String)> {
        let state = self.state.lock();
        let snapshots = state.attached.keys().filter_map(|target| match target {
            Target::Snapshot { volume, name } => Some((volume.clone(), name.clone())),
            Target::Head { .. } | Target::Volume { .. } => None,
        });
        snapshots.collect()
    }

    /// Connections to exactly `target`.
    pub fn count(&self, target: &Target) -> usize {
        let state = self.state.lock();
        let groups = state.attached.get(target).into_iter().flatten();
        groups.map(|group| group.connections.len()).sum()
    }

    /// All connections.
    pub fn total(&self) -> usize {
        self.state.lock().attached.values().flatten().map(|group| group.connections.len()).sum()
    }
}

/// A connection's place in the registry; dropping it leaves.
pub struct Attachment {
    id: u64,
    sessions: Arc<Sessions>,
    target: Target,
    counters: Arc<IoCounters>,
}

impl Attachment {
    /// Where the connection counts what it does.
    pub fn counters(&self) -> &Arc<IoCounters> {
        &self.counters
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = self.sessions.state.lock();
        for group in state.attached.get_mut(&self.target).into_iter().flatten() {
            if let Some(at) = group.connections.iter().position(|connected| connected.id == self.id) {
                group.past.absorb(&self.counters);
                group.connections.swap_remove(at);
            }
        }
        state.tidy(&self.target);
    }
}

/// Keeps newcomers out; dropping it lets them in again.
pub struct Closed {
    sessions: Arc<Sessions>,
    target: Target,
}

impl Drop for Closed {
    fn drop(&mut self) {
        forget(&mut self.sessions.state.lock().closed, &self.target);
    }
}

/// An operation's exclusive hold; dropping it lets connections in again.
pub struct Held {
    sessions: Arc<Sessions>,
    target: Target,
}

impl Drop for Held {
    fn drop(&mut self) {
        forget(&mut self.sessions.state.lock().held, &self.target);
    }
}

/// Takes `target` out, once.
fn forget(targets: &mut Vec<Target>, target: &Target) {
    if let Some(at) = targets.iter().position(|one| one == target) {
        targets.swap_remove(at);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it was asked to end, and how often forced.
    #[derive(Default)]
    struct Ends([AtomicUsize; 2]);

    impl Line for Ends {
        fn end(&self, force: bool) {
            self.0[usize::from(force)].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn head(volume: &str) -> Target {
        Target::of_export(volume)
    }

    fn process(pid: i32) -> Consumer {
        Consumer::Process { uid: 0, pid, command: None }
    }

    fn connect(
        sessions: &Arc<Sessions>,
        target: Target,
        consumer: &Consumer,
        shared: bool,
    ) -> Result<Attachment, InUse> {
        sessions.attach(target, consumer, || Some(shared), Arc::new(Ends::default()))
    }

    #[test]
    fn connections_and_operations_exclude_each_other() {
        let sessions = Sessions::new();
        let first = connect(&sessions, head("a"), &process(1), false).expect("free");
        let second = connect(&sessions, head("a"), &process(1), false).expect("the same process");
        assert_eq!(sessions.count(&head("a")), 2);
        assert_eq!(sessions.hold(head("a")).err(), Some(InUse::Connected(2)));
        drop(first);
        assert_eq!(sessions.hold(head("a")).err(), Some(InUse::Connected(1)));
        drop(second);
        let held = sessions.hold(head("a")).expect("nobody is left");
        assert_eq!(connect(&sessions, head("a"), &process(1), false).err(), Some(InUse::Held));
        assert_eq!(sessions.hold(head("a")).err(), Some(InUse::Held));
        assert!(connect(&sessions, head("b"), &process(1), false).is_ok(), "other volumes are not concerned");
        drop(held);
        let first = connect(&sessions, head("a"), &process(1), false).expect("free");
        let closed = sessions.close(head("a")).expect("free");
        assert_eq!(connect(&sessions, head("a"), &process(1), false).err(), Some(InUse::Held));
        assert_eq!(sessions.connections(&head("a")), 1, "who is there stays");
        drop(first);
        drop(closed);
        assert!(sessions.hold(head("a")).is_ok());
        assert_eq!(sessions.total(), 0, "everyone has left");
    }

    // A volume that was deleted, or ceased to be shared, between a client's look at it and its entry took it in even so.
    #[test]
    fn who_is_entered_is_asked_for_when_nobody_can_change_it() {
        let sessions = Sessions::new();
        let line = || Arc::new(Ends::default());
        let gone = sessions.attach(head("a"), &process(1), || None, line()).err();
        assert_eq!(gone, Some(InUse::Gone));
        assert_eq!(sessions.pin(head("a"), &process(1), || None).err(), Some(InUse::Gone));
        assert!(sessions.attachments(&head("a")).is_empty(), "who was refused left nothing");
        let _first = connect(&sessions, head("a"), &process(1), true).expect("free");
        let asked = || {
            // Whoever would change the answer's worth waits.
            assert!(sessions.state.try_lock().is_none());
            Some(false)
        };
        let late = sessions.attach(head("a"), &process(2), asked, line()).err();
        assert_eq!(late, Some(InUse::Taken(process(1))));
        let _held = sessions.hold(head("b")).expect("free");
        let unasked = || unreachable!("it is not looked for while it is held");
        assert_eq!(sessions.attach(head("b"), &process(1), unasked, line()).err(), Some(InUse::Held));
    }

    #[test]
    fn a_volume_covers_its_snapshots() {
        let sessions = Sessions::new();
        let whole = Target::Volume { volume: "a".into() };
        let reader = connect(&sessions, Target::of_export("a@s1"), &process(1), false).expect("free");
        assert_eq!(sessions.hold(whole.clone()).err(), Some(InUse::Connected(1)));
        assert!(sessions.hold(head("a")).is_ok(), "the head alone is free");
        assert!(sessions.hold(Target::of_export("a@s2")).is_ok());
        drop(reader);
        let held = sessions.hold(whole).expect("nobody is left");
        let free = |export| connect(&sessions, Target::of_export(export), &process(1), false).map(drop);
        assert_eq!(free("a@s1"), Err(InUse::Held));
        assert_eq!(free("a"), Err(InUse::Held));
        assert_eq!(free("ab@s1"), Ok(()));
        drop(held);
        assert_eq!(free("a@s1"), Ok(()));
    }

    #[test]
    fn a_head_has_one_consumer_unless_it_is_shared() {
        let sessions = Sessions::new();
        let first = connect(&sessions, head("a"), &process(1), false).expect("free");
        let taken = connect(&sessions, head("a"), &process(2), false).err();
        assert_eq!(taken, Some(InUse::Taken(process(1))));
        assert_eq!(sessions.attachments(&head("a")).len(), 1, "who was refused left nothing");
        let second = connect(&sessions, head("a"), &process(2), true).expect("shared now");
        assert!(connect(&sessions, head("a"), &process(1), false).is_ok(), "it has it already");
        let late = connect(&sessions, head("a"), &process(3), false).err();
        assert_eq!(late, Some(InUse::Taken(process(1))), "not shared any more");
        drop(first);
        assert!(connect(&sessions, head("a"), &process(2), false).is_ok());
        drop(second);
        let snapshot = Target::of_export("a@s");
        let _one = connect(&sessions, snapshot.clone(), &process(1), false).expect("free");
        assert!(connect(&sessions, snapshot, &process(2), false).is_ok(), "a snapshot is only read");
        let _hidden = connect(&sessions, head("b"), &process(0), false).expect("free");
        assert!(connect(&sessions, head("b"), &process(0), false).is_err(), "it may be another process");
    }

    #[test]
    fn what_was_done_is_counted_over_all_connections_of_a_consumer() {
        let sessions = Sessions::new();
        let first = connect(&sessions, head("a"), &process(1), false).expect("free");
        let second = connect(&sessions, head("a"), &process(1), false).expect("the same");
        let did = |who: &Attachment, kind, bytes| who.counters().begin(kind).end(bytes);
        did(&first, IoKind::Read, Some(4096));
        did(&first, IoKind::Read, None);
        did(&second, IoKind::Write, Some(8192));
        did(&second, IoKind::Trim, Some(1 << 20));
        did(&second, IoKind::Flush, Some(0));
        drop(second);
        let shown = &sessions.attachments(&head("a"))[0];
        assert_eq!((shown.export.as_str(), &shown.consumer, shown.connections), ("a", &process(1), 1));
        assert_eq!((shown.reads, shown.writes, shown.flushes), (1, 2, 1), "what failed is not answered");
        assert_eq!((shown.bytes_read, shown.bytes_written), (4096, 8192));
    }

    #[test]
    fn ending_reaches_every_connection_of_the_target_and_no_other() {
        let sessions = Sessions::new();
        let lines: Vec<Arc<Ends>> = (0..3).map(|_| Arc::default()).collect();
        let _held: Vec<_> = ["a", "a@s", "b"]
            .iter()
            .zip(&lines)
            .map(|(export, line)| {
                let line: Arc<dyn Line> = line.clone();
                sessions.attach(Target::of_export(export), &process(1), || Some(false), line).expect("free")
            })
            .collect();
        sessions.end(&head("a"), false);
        sessions.end(&Target::Volume { volume: "a".into() }, true);
        let ends: Vec<[usize; 2]> =
            lines.iter().map(|line| line.0.each_ref().map(|n| n.load(Ordering::Relaxed))).collect();
        assert_eq!(ends, [[1, 1], [0, 1], [0, 0]]);
    }

    #[test]
    fn a_kernel_device_keeps_its_volume_without_connections() {
        let sessions = Sessions::new();
        let device = Consumer::Kernel { device: "/dev/nbd3".into() };
        let unnamed = Consumer::Kernel { device: String::new() };
        sessions.pin(head("a"), &unnamed, || Some(false)).expect("free");
        assert!(sessions.pin(head("a"), &unnamed, || Some(true)).is_err(), "one device a volume");
        sessions.name_device(&head("a"), &device);
        assert_eq!(sessions.hold(head("a")).err(), Some(InUse::Attached("/dev/nbd3".into())));
        assert_eq!(
            connect(&sessions, head("a"), &process(1), false).err(),
            Some(InUse::Taken(device.clone()))
        );
        let own = connect(&sessions, head("a"), &unnamed, false).expect("its own connection");
        drop(own);
        assert_eq!(sessions.attachments(&head("a"))[0].connections, 0);
        sessions.unpin(&head("a"), &device);
        assert!(sessions.attachments(&head("a")).is_empty());
        assert!(sessions.hold(head("a")).is_ok());
    }

    #[test]
    fn a_device_in_the_way_is_named() {
        let sessions = Sessions::new();
        let device = Consumer::Kernel { device: "/dev/nbd3".into() };
        sessions.pin(Target::of_export("a@s"), &device, || Some(true)).expect("free");
        let own = connect(&sessions, Target::of_export("a@s"), &device, true).expect("its own");
        let whole = Target::Volume { volume: "a".into() };
        assert_eq!(sessions.hold(whole).err(), Some(InUse::Attached("/dev/nbd3".into())));
        drop(own);
    }
}
