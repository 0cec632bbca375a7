//! Who is connected to what: the one place where the NBD side and the control side meet.
//!
//! The NBD side calls [`Sessions::attach`] *before* it looks a volume up and keeps the [`Attachment`] as long as the
//! connection uses it. A delete or rollback calls [`Sessions::hold`] and keeps the [`Held`] until it is done. One
//! excludes the other, so no connection can slip in between the check that nobody is there and the deletion.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

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
    /// A volume's head and all its snapshots. Only for [`Sessions::hold`]; as an attachment it is the head.
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

    fn volume(&self) -> &str {
        match self {
            Target::Head { volume } | Target::Snapshot { volume, .. } | Target::Volume { volume } => volume,
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
            Target::Head { volume } => write!(f, "volume {volume:?}"),
            Target::Snapshot { volume, name } => write!(f, "snapshot {:?}", format!("{volume}@{name}")),
            Target::Volume { volume } => write!(f, "volume {volume:?} with its snapshots"),
        }
    }
}

/// Why a target cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InUse {
    /// So many NBD connections use it.
    Connected(usize),
    /// An operation has it for itself at this moment.
    Held,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InUse::Connected(1) => f.write_str("an NBD client is connected to it"),
            InUse::Connected(n) => write!(f, "{n} NBD connections use it"),
            InUse::Held => f.write_str("another operation on it is under way"),
        }
    }
}

impl std::error::Error for InUse {}

/// The registry. One a daemon, shared by `Arc`. Locked for a few map look-ups a connection, never over I/O.
#[derive(Default)]
pub struct Sessions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    attached: HashMap<Target, usize>,
    held: Vec<Target>,
}

impl Sessions {
    /// Nobody is connected yet.
    pub fn new() -> Arc<Sessions> {
        Arc::default()
    }

    /// Enters a connection to `target`. Call it before looking the version up, so that what was found cannot be
    /// deleted in between.
    ///
    /// # Errors
    /// [`InUse::Held`] while an operation has the target for itself.
    pub fn attach(self: &Arc<Sessions>, target: Target) -> Result<Attachment, InUse> {
        let target = match target {
            Target::Volume { volume } => Target::Head { volume },
            target => target,
        };
        let mut state = self.state.lock();
        if state.held.iter().any(|held| held.overlaps(&target)) {
            return Err(InUse::Held);
        }
        *state.attached.entry(target.clone()).or_insert(0) += 1;
        Ok(Attachment { sessions: Arc::clone(self), target })
    }

    /// Takes `target` for one operation: no connection uses it, and none can be made until the result is dropped.
    ///
    /// # Errors
    /// Who is in the way.
    pub fn hold(self: &Arc<Sessions>, target: Target) -> Result<Held, InUse> {
        let mut state = self.state.lock();
        if state.held.iter().any(|held| held.overlaps(&target)) {
            return Err(InUse::Held);
        }
        let connections: usize = state
            .attached
            .iter()
            .filter(|(attached, _)| attached.overlaps(&target))
            .map(|(_, count)| count)
            .sum();
        if connections > 0 {
            return Err(InUse::Connected(connections));
        }
        state.held.push(target.clone());
        Ok(Held { sessions: Arc::clone(self), target })
    }

    /// Connections to exactly `target`.
    pub fn count(&self, target: &Target) -> usize {
        self.state.lock().attached.get(target).copied().unwrap_or(0)
    }

    /// All connections.
    pub fn total(&self) -> usize {
        self.state.lock().attached.values().sum()
    }
}

/// A connection's place in the registry; dropping it leaves.
pub struct Attachment {
    sessions: Arc<Sessions>,
    target: Target,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = self.sessions.state.lock();
        if let Entry::Occupied(mut entry) = state.attached.entry(self.target.clone()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// An operation's exclusive hold; dropping it lets connections in again.
pub struct Held {
    sessions: Arc<Sessions>,
    target: Target,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.sessions.state.lock();
        if let Some(at) = state.held.iter().position(|held| *held == self.target) {
            state.held.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(volume: &str) -> Target {
        Target::of_export(volume)
    }

    #[test]
    fn connections_and_operations_exclude_each_other() {
        let sessions = Sessions::new();
        let first = sessions.attach(head("a")).expect("free");
        let second = sessions.attach(head("a")).expect("shared");
        assert_eq!(sessions.count(&head("a")), 2);
        assert_eq!(sessions.hold(head("a")).err(), Some(InUse::Connected(2)));
        drop(first);
        assert_eq!(sessions.hold(head("a")).err(), Some(InUse::Connected(1)));
        drop(second);
        let held = sessions.hold(head("a")).expect("nobody is left");
        assert_eq!(sessions.attach(head("a")).err(), Some(InUse::Held));
        assert_eq!(sessions.hold(head("a")).err(), Some(InUse::Held));
        assert!(sessions.attach(head("b")).is_ok(), "other volumes are not concerned");
        drop(held);
        assert!(sessions.attach(head("a")).is_ok());
        assert_eq!(sessions.total(), 0, "everyone has left");
    }

    #[test]
    fn a_volume_covers_its_snapshots() {
        let sessions = Sessions::new();
        let whole = Target::Volume { volume: "a".into() };
        let reader = sessions.attach(Target::of_export("a@s1")).expect("free");
        assert_eq!(sessions.hold(whole.clone()).err(), Some(InUse::Connected(1)));
        assert!(sessions.hold(head("a")).is_ok(), "the head alone is free");
        assert!(sessions.hold(Target::of_export("a@s2")).is_ok());
        drop(reader);
        let held = sessions.hold(whole).expect("nobody is left");
        assert_eq!(sessions.attach(Target::of_export("a@s1")).err(), Some(InUse::Held));
        assert_eq!(sessions.attach(head("a")).err(), Some(InUse::Held));
        assert!(sessions.attach(Target::of_export("ab@s1")).is_ok());
        drop(held);
        assert!(sessions.attach(Target::of_export("a@s1")).is_ok());
    }
}
