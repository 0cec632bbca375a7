//! What the daemon keeps in the engine's attributes: types, QoS rules, other pools, and each volume's share of them.
//!
//! | on | key | value |
//! |---|---|---|
//! | first pool | `type/NAME` | a [`TypeSettings`] as JSON |
//! | first pool | `qos/NAME` | a [`PolicySettings`] as JSON |
//! | first pool | `default-type` | the type that volumes get when none is asked for |
//! | first pool | `recycle-bin` | for how many seconds deleted volumes are kept |
//! | first pool | `pool/NAME` | the path of another pool |
//! | first pool | `job/ID` | a check or scrub that has begun, or any job that has ended: a [`cairn_api::job::Job`] as JSON |
//! | any pool | `last-scrub` | what its last scrub found: a [`cairn_api::pool::Scrub`] as JSON |
//! | volume | `type` | its type; without it has [`DEFAULT_TYPE`] |
//! | volume | `qos` | limits of its own, a [`QosRule`] as JSON |
//! | volume | `shared` | `yes`: several consumers may use it at once |
//! | volume | `bootable`, `write-protected` | `yes` |
//! | volume | `project` | whose it is; without it has [`DEFAULT_PROJECT`] |
//! | volume, snapshot | `status` | what an administrator has said of it, a [`KeptStatus`] as JSON |
//! | snapshot | `for-backup` | `yes`: it was taken to be read for a backup |
//! | volume, snapshot | `client-token` | the request that made it: see [`crate::control`]'s `tokens` |
//! | volume, snapshot, image | `tag/KEY` | the value of a tag |
//! | snapshot | `hold/NAME` | why it must not be deleted, a [`KeptHold`] as JSON |
//! | volume | `image`, `from-image`, `passing/SNAPSHOT` | see [`crate::images`] |
//! | volume | `staged`, `from-backup`, `recycled` | see [`crate::staging`] |
//! | volume | `restore`, `restore-bitmap` | see [`crate::restore`] |
//!
//! They are read anew for every operation: there is no second copy that could differ.

use std::collections::BTreeMap;

use cairn_api::qos::QosRule;
use cairn_api::snapshot::Hold;
use cairn_api::tags::{TagChanges, Tags};
use cairn_api::types::{BACKEND, DEFAULT_TYPE, QosSource};
use cairn_api::volume::{DEFAULT_PROJECT, SetStatus};
use cairn_cow::Attributes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::staging::is_hidden;

const TYPE_PREFIX: &str = "type/";
const POLICY_PREFIX: &str = "qos/";
const POOL_PREFIX: &str = "pool/";
pub(crate) const DEFAULT_TYPE_KEY: &str = "default-type";
pub(crate) const VOLUME_TYPE: &str = "type";
pub(crate) const VOLUME_QOS: &str = "qos";
pub(crate) const VOLUME_SHARED: &str = "shared";
pub(crate) const VOLUME_BOOTABLE: &str = "bootable";
pub(crate) const VOLUME_PROTECTED: &str = "write-protected";
pub(crate) const VOLUME_PROJECT: &str = "project";
pub(crate) const STATUS: &str = "status";
pub(crate) const SNAPSHOT_FOR_BACKUP: &str = "for-backup";
pub(crate) const TOKEN: &str = "client-token";
pub(crate) const RECYCLE_BIN: &str = "recycle-bin";
pub(crate) const JOB_PREFIX: &str = "job/";
const TAG_PREFIX: &str = "tag/";
const HOLD_PREFIX: &str = "hold/";
/// The value of what is kept only where it is so.
pub(crate) const YES: &str = "yes";

/// A type as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TypeSettings {
    pub(crate) description: String,
    pub(crate) specs: BTreeMap<String, String>,
    pub(crate) qos: Option<String>,
}

/// A QoS rule as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PolicySettings {
    pub(crate) description: String,
    pub(crate) rule: QosRule,
}

/// What an administrator has said of a volume or a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KeptStatus {
    pub(crate) status: SetStatus,
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

impl KeptStatus {
    /// Why it is so.
    pub(crate) fn why(self) -> String {
        self.reason.unwrap_or_else(|| "an administrator says so".to_owned())
    }
}

/// A snapshot's hold; its name is in its key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KeptHold {
    #[serde(default)]
    pub(crate) reason: String,
    pub(crate) since: Timestamp,
}

/// What belongs to no single volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    pub(crate) types: BTreeMap<String, TypeSettings>,
    pub(crate) policies: BTreeMap<String, PolicySettings>,
    pub(crate) default_type: String,
    /// Paths of the other pools.
    pub(crate) pools: BTreeMap<String, String>,
    /// What is kept and cannot be read, one sentence each.
    pub(crate) unreadable: Vec<String>,
}

pub(crate) fn type_key(name: &str) -> String {
    format!("{TYPE_PREFIX}{name}")
}

pub(crate) fn policy_key(name: &str) -> String {
    format!("{POLICY_PREFIX}{name}")
}

pub(crate) fn pool_key(name: &str) -> String {
    format!("{POOL_PREFIX}{name}")
}

/// A value as it is kept. Keys and texts of these types are always JSON.
pub(crate) fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A kept value, or an empty one and why it cannot be read.
fn read_or_empty<T: DeserializeOwned + Default>(key: &str, json: &str, unreadable: &mut Vec<String>) -> T {
    serde_json::from_str(json).unwrap_or_else(|error| {
        unreadable.push(format!("\"{key}\" cannot be read and counts as empty: {error}"));
        T::default()
    })
}

impl Settings {
    /// Reads what the first pool keeps. What another version has written and this one cannot read counts as empty, so
    /// that it can at least be seen and written anew.
    pub(crate) fn read(attributes: &Attributes) -> Settings {
        let mut settings = Settings {
            types: BTreeMap::from([(DEFAULT_TYPE.to_owned(), TypeSettings::default())]),
            policies: BTreeMap::new(),
            default_type: DEFAULT_TYPE.to_owned(),
            pools: BTreeMap::new(),
            unreadable: Vec::new(),
        };
        for (key, value) in attributes.iter() {
            if let Some(name) = key.strip_prefix(TYPE_PREFIX) {
                let read = read_or_empty(key, value, &mut settings.unreadable);
                settings.types.insert(name.to_owned(), read);
            } else if let Some(name) = key.strip_prefix(POLICY_PREFIX) {
                let read = read_or_empty(key, value, &mut settings.unreadable);
                settings.policies.insert(name.to_owned(), read);
            } else if let Some(name) = key.strip_prefix(POOL_PREFIX) {
                settings.pools.insert(name.to_owned(), value.to_owned());
            } else if key == DEFAULT_TYPE_KEY {
                value.clone_into(&mut settings.default_type);
            }
        }
        settings
    }

    /// The limits in force for a volume that keeps `attributes`, and where they come from.
    pub(crate) fn limits(&self, attributes: &Attributes) -> (QosSource, QosRule) {
        if is_hidden(attributes) {
            // What is imported or restored is no disk that somebody uses.
            return (QosSource::None, QosRule::default());
        }
        let own = own_limits(attributes);
        if !own.is_unlimited() {
            return (QosSource::Volume, own);
        }
        let policy = self.type_policy(volume_type(attributes)).and_then(|name| self.policies.get(name));
        match policy.map(|policy| policy.rule) {
            Some(rule) if !rule.is_unlimited() => (QosSource::Type, rule),
            _ => (QosSource::None, QosRule::default()),
        }
    }

    /// What a volume keeps that means nothing here, and so has no effect; one sentence each.
    pub(crate) fn problems(&self, attributes: &Attributes) -> Vec<String> {
        let mut problems = Vec::new();
        let name = volume_type(attributes);
        if !self.types.contains_key(name) {
            problems.push(format!(
                "\"{VOLUME_TYPE}\" names the type {name:?}, which there is not: no rule holds"
            ));
        }
        if let Some(json) = attributes.get(VOLUME_QOS) {
            let _: QosRule = read_or_empty(VOLUME_QOS, json, &mut problems);
        }
        problems
    }

    /// The QoS rule that a type points to.
    pub(crate) fn type_policy(&self, volume_type: &str) -> Option<&str> {
        self.types.get(volume_type).and_then(|settings| settings.qos.as_deref())
    }
}

impl TypeSettings {
    /// The pool that its volumes are made in, if it says so.
    pub(crate) fn backend(&self) -> Option<&str> {
        self.specs.get(BACKEND).map(String::as_str)
    }
}

/// A volume's type.
pub(crate) fn volume_type(attributes: &Attributes) -> &str {
    attributes.get(VOLUME_TYPE).unwrap_or(DEFAULT_TYPE)
}

/// A volume's own limits.
pub(crate) fn own_limits(attributes: &Attributes) -> QosRule {
    attributes.get(VOLUME_QOS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// Whether a volume keeps `key` as something that is so.
pub(crate) fn is_set(attributes: &Attributes, key: &str) -> bool {
    attributes.get(key) == Some(YES)
}

/// Whose a volume is.
pub(crate) fn project(attributes: &Attributes) -> &str {
    attributes.get(VOLUME_PROJECT).unwrap_or(DEFAULT_PROJECT)
}

/// What an administrator has said of a volume or a snapshot, if it stands. What cannot be read counts as an error that somebody has
/// seen.
pub(crate) fn kept_status(attributes: &Attributes) -> Option<KeptStatus> {
    let kept = attributes.get(STATUS)?;
    let unreadable = || KeptStatus { status: SetStatus::Error, reason: None };
    Some(serde_json::from_str(kept).unwrap_or_else(|_| unreadable()))
}

/// The tags of a volume, a snapshot or an image.
pub(crate) fn tags(attributes: &Attributes) -> Tags {
    let tag = |(key, value): (&str, &str)| Some((key.strip_prefix(TAG_PREFIX)?.to_owned(), value.to_owned()));
    attributes.iter().filter_map(tag).collect()
}

/// The attributes of tags that something has from the start.
pub(crate) fn tag_attributes(tags: &Tags) -> Vec<(String, String)> {
    tags.iter().map(|(key, value)| (format!("{TAG_PREFIX}{key}"), value.clone())).collect()
}

/// The changes to attributes that changes of tags are.
pub(crate) fn tag_changes(changes: &TagChanges) -> Vec<(String, Option<String>)> {
    changes.iter().map(|(key, value)| (format!("{TAG_PREFIX}{key}"), value.clone())).collect()
}

/// The key of a snapshot's hold.
pub(crate) fn hold_key(name: &str) -> String {
    format!("{HOLD_PREFIX}{name}")
}

/// The holds of a snapshot, by name. What cannot be read holds, too.
pub(crate) fn holds(attributes: &Attributes) -> Vec<Hold> {
    let unreadable = || KeptHold { reason: String::new(), since: Timestamp::UNIX_EPOCH };
    let hold = |(key, value): (&str, &str)| {
        let name = key.strip_prefix(HOLD_PREFIX)?.to_owned();
        let KeptHold { reason, since } = serde_json::from_str(value).unwrap_or_else(|_| unreadable());
        Some(Hold { name, reason, since })
    };
    attributes.iter().filter_map(hold).collect()
}
