//! Events: what happened in the daemon, as it happened.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::schema::{Name, words};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// What happened. Words are stable; scripts may match on them, or on what comes before the dot.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
            /// Something that a newer daemon tells and this client does not know. Daemons never send it.
            #[serde(rename = "unknown", other)]
            Unknown,
        }

        impl EventKind {
            /// Every kind that a daemon sends.
            pub const ALL: &[EventKind] = &[$(EventKind::$name),*];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(EventKind::$name => $word,)*
                    EventKind::Unknown => "unknown",
                }
            }
        }
    };
}

kinds! {
    /// A volume is there: blank, a clone, made of an image, or filled by a client.
    VolumeCreated = "volume.created";
    /// Something else is said of a volume, or it has another name.
    VolumeEdited = "volume.edited";
    /// A volume has another type.
    VolumeRetyped = "volume.retyped";
    /// A volume's own limits are others.
    VolumeLimited = "volume.limited";
    /// A volume has grown.
    VolumeResized = "volume.resized";
    /// Somebody has begun to use a volume or a snapshot.
    VolumeAttached = "volume.attached";
    /// Somebody does not use a volume or a snapshot any more.
    VolumeDetached = "volume.detached";
    /// An administrator has set a volume's status.
    VolumeStatusSet = "volume.status-set";
    /// Reads of a volume or snapshot failed their checksum: nothing wrong was served.
    VolumeDamaged = "volume.damaged";
    /// A volume serves, and is filled from a backup.
    VolumeRestoring = "volume.restoring";
    /// All of a volume is there that was restored.
    VolumeRestored = "volume.restored";
    /// What a volume held was replaced by what a snapshot holds, or a backup.
    VolumeRolledBack = "volume.rolled-back";
    /// A volume is in the recycle bin.
    VolumeRecycled = "volume.recycled";
    /// A volume is there again that was in the recycle bin.
    VolumeRecovered = "volume.recovered";
    /// A volume is gone.
    VolumeDeleted = "volume.deleted";
    /// A snapshot is there.
    SnapshotCreated = "snapshot.created";
    /// Something else is said of a snapshot, or it has another name.
    SnapshotEdited = "snapshot.edited";
    /// An administrator has set a snapshot's status.
    SnapshotStatusSet = "snapshot.status-set";
    /// It is forbidden to delete a snapshot.
    SnapshotHeld = "snapshot.held";
    /// A hold was taken away.
    SnapshotReleased = "snapshot.released";
    /// A snapshot is gone.
    SnapshotDeleted = "snapshot.deleted";
    /// An image is there.
    ImageCreated = "image.created";
    /// Something else is said of an image.
    ImageEdited = "image.edited";
    /// An image is gone.
    ImageDeleted = "image.deleted";
    /// A type is there.
    TypeCreated = "type.created";
    /// A type is another.
    TypeEdited = "type.edited";
    /// A type is gone.
    TypeDeleted = "type.deleted";
    /// A QoS rule is there.
    QosCreated = "qos.created";
    /// A QoS rule is another.
    QosEdited = "qos.edited";
    /// A QoS rule is gone.
    QosDeleted = "qos.deleted";
    /// A pool is there.
    PoolAdded = "pool.added";
    /// A pool may grow further.
    PoolGrown = "pool.grown";
    /// A pool is not used any more.
    PoolRemoved = "pool.removed";
    /// A pool fills up, or has room again.
    PoolFill = "pool.fill";
    /// A barrier failed: a pool refuses writes until it is opened again.
    PoolFenced = "pool.fenced";
    /// A pool was checked.
    PoolChecked = "pool.checked";
    /// A scrub has begun.
    ScrubBegun = "scrub.begun";
    /// A scrub has found damage.
    ScrubFault = "scrub.fault";
    /// A scrub has ended.
    ScrubEnded = "scrub.ended";
    /// A job has begun that nothing else tells of.
    JobBegun = "job.begun";
    /// A job has ended, in a way that nothing else tells of.
    JobEnded = "job.ended";
    /// The daemon serves.
    DaemonStarted = "daemon.started";
    /// The daemon is about to stop.
    DaemonStopping = "daemon.stopping";
}

impl PartialSchema for EventKind {
    fn schema() -> RefOr<Schema> {
        words("What happened.", EventKind::ALL.iter().map(|kind| kind.as_str()))
    }
}

impl ToSchema for EventKind {}

/// A kind of events, or what several begin with.
#[derive(Debug)]
pub enum KindFilter {}

impl KindFilter {
    /// Every word for kinds, and what comes before their dots, once.
    pub fn words() -> Vec<&'static str> {
        let kinds = EventKind::ALL.iter().map(|kind| kind.as_str());
        let mut words: Vec<_> =
            kinds.flat_map(|kind| [kind, kind.split('.').next().unwrap_or(kind)]).collect();
        words.sort_unstable();
        words.dedup();
        words
    }
}

impl PartialSchema for KindFilter {
    fn schema() -> RefOr<Schema> {
        words("A kind of events, or what several begin with.", KindFilter::words())
    }
}

impl ToSchema for KindFilter {}

/// How much somebody should care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// It will be worse if nobody does anything.
    Warning,
    /// Something is wrong.
    Error,
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Larger than those of all events before, also of those before the daemon started anew.
    pub id: u64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
    /// How much somebody should care.
    pub severity: Severity,
    /// The volume that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The project whose volume it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The volume's snapshot that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The image, type, QoS rule or pool that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The job that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What happened, for people: one sentence.
    pub message: String,
}

/// What happened lately.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// The oldest first.
    pub events: Vec<Event>,
    /// What to ask for `after` to have those that come next, now or later.
    pub last: u64,
    /// Whether events between `after` and the first of these are forgotten: the daemon keeps the last 10,000 since it started.
    pub gap: bool,
}

/// Which events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only those after the one with this id.
    #[serde(default)]
    #[param(maximum = 9223372036854775807u64)]
    pub after: Option<u64>,
    /// Only of this kind, or of those that begin with it: `volume`, `volume.created`.
    #[serde(default)]
    #[param(value_type = Option<KindFilter>, inline)]
    pub kind: Option<String>,
    /// Only those about this volume and its snapshots.
    #[serde(default)]
    #[param(value_type = Option<Name>, inline)]
    pub volume: Option<String>,
    /// Only those about which somebody should care so much, or more.
    #[serde(default)]
    #[param(inline)]
    pub severity: Option<Severity>,
    /// At most so many, the latest.
    #[serde(default)]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u64>,
}

impl EventQuery {
    /// Whether an event is asked for, whenever it was.
    pub fn asks_for(&self, event: &Event) -> bool {
        let kind = event.kind.as_str();
        let of_kind =
            |asked: &str| kind == asked || kind.strip_prefix(asked).is_some_and(|rest| rest.starts_with('.'));
        self.kind.as_deref().is_none_or(of_kind)
            && self.volume.as_deref().is_none_or(|volume| event.volume.as_deref() == Some(volume))
            && self.severity.is_none_or(|severity| event.severity >= severity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_json_and_unknown_ones_do_not_fail() {
        for &kind in EventKind::ALL {
            let json = serde_json::to_string(&kind).expect("serialises");
            assert_eq!(json, format!("\"{}\"", kind.as_str()));
            assert_eq!(serde_json::from_str::<EventKind>(&json).expect("parses"), kind);
        }
        assert_eq!(
            serde_json::from_str::<EventKind>("\"volume.moved\"").expect("parses"),
            EventKind::Unknown
        );
    }

    #[test]
    fn a_query_asks_for_kinds_volumes_and_severities() {
        let event = Event {
            id: 1,
            time: Timestamp::UNIX_EPOCH,
            kind: EventKind::VolumeDamaged,
            severity: Severity::Warning,
            volume: Some("a".into()),
            project: None,
            snapshot: None,
            name: None,
            job: None,
            message: String::new(),
        };
        let kind = |kind: &str| EventQuery { kind: Some(kind.into()), ..EventQuery::default() };
        assert!(kind("volume").asks_for(&event) && kind("volume.damaged").asks_for(&event));
        assert!(
            !kind("vol").asks_for(&event)
                && !kind("volume.dam").asks_for(&event)
                && !kind("").asks_for(&event)
        );
        let volume = |volume: &str| EventQuery { volume: Some(volume.into()), ..EventQuery::default() };
        assert!(volume("a").asks_for(&event) && !volume("b").asks_for(&event));
        let severity = |severity| EventQuery { severity: Some(severity), ..EventQuery::default() };
        assert!(severity(Severity::Warning).asks_for(&event) && !severity(Severity::Error).asks_for(&event));
    }
}
