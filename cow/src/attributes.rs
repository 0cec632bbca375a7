//! Attributes: short texts by key that a pool keeps for whoever uses it, on a volume, on a snapshot, or on itself.
//!
//! The engine gives them no meaning. They are in the same log as everything else, so what was set is as durable, and
//! as much part of the one order, as a volume or a snapshot is; and they go when what they are kept on goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::{Reader, Writer};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::record::Record;
use crate::types::VersionId;
use crate::volumes::RECORD_BYTES;

/// Characters of the longest key: ASCII letters, digits, `.`, `_`, `-` and `/`. A name fits with a prefix.
pub const MAX_ATTRIBUTE_KEY: usize = 192;
/// Bytes of the longest value.
pub const MAX_ATTRIBUTE_VALUE: usize = 4096;
/// Bytes of all keys and values of one volume or snapshot.
const MAX_VERSION_BYTES: usize = 16 << 10;
/// Bytes of all keys and values of the pool itself.
const MAX_POOL_BYTES: usize = 1 << 20;
/// Bytes of keys and values that one call may set: its records must fit a batch.
const MAX_CHANGE_BYTES: usize = RECORD_BYTES / 2;
/// Bytes that an attribute takes besides its texts: their lengths.
const FIXED_BYTES: usize = 4;

/// The holder of the pool's own attributes; no version has this id.
pub(crate) const POOL: VersionId = VersionId(0);

/// What attributes are kept on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder<'a> {
    /// The pool itself.
    Pool,
    /// The volume of this name.
    Volume(&'a str),
    /// The volume's snapshot.
    Snapshot(&'a str, &'a str),
}

/// Keys and values, in the order of the keys. A clone is the same map until one of the two changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    map: Arc<BTreeMap<String, String>>,
    bytes: usize,
}

impl Attributes {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.map.get(key).map(String::as_str)
    }

    /// All keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes that they take in the catalog.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.bytes
    }

    /// Gives `key` a value, or takes it away.
    pub(crate) fn set(&mut self, key: &str, value: Option<&str>) {
        let map = Arc::make_mut(&mut self.map);
        let old = match value {
            Some(value) => {
                self.bytes += cost(key, value);
                map.insert(key.to_owned(), value.to_owned())
            }
            None => map.remove(key),
        };
        self.bytes -= old.map_or(0, |old| cost(key, &old));
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u32(self.map.len() as u32);
        for (key, value) in self.iter() {
            w.text(key);
            w.text(value);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Attributes> {
        let mut attributes = Attributes::default();
        for _ in 0..r.u32()? {
            let (key, value) = (r.text()?, r.text()?);
            attributes.set(&key, Some(&value));
        }
        Ok(attributes)
    }
}

fn cost(key: &str, value: &str) -> usize {
    FIXED_BYTES + key.len() + value.len()
}

/// Checks what one call is about to set, whoever it is for.
pub(crate) fn check_changes(changes: &[(&str, Option<&str>)]) -> Result<()> {
    let bad = |why: String| Err(Error::new(ErrorKind::InvalidArgument, why));
    let too_much = |why: String| Err(Error::new(ErrorKind::Conflict, why));
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    for (key, value) in changes {
        if key.is_empty() || key.len() > MAX_ATTRIBUTE_KEY || !key.chars().all(legal) {
            return bad(format!(
                "'{}' is no key of an attribute: use 1 to {MAX_ATTRIBUTE_KEY} letters, digits, '.', '_', '-' and '/'",
                key.escape_default()
            ));
        }
        let len = value.map_or(0, str::len);
        if len > MAX_ATTRIBUTE_VALUE {
            return too_much(format!(
                "the attribute '{key}' has {len} bytes, at most {MAX_ATTRIBUTE_VALUE} are kept"
            ));
        }
    }
    let bytes: usize = changes.iter().map(|(key, value)| cost(key, value.unwrap_or(""))).sum();
    if bytes > MAX_CHANGE_BYTES {
        return too_much(format!(
            "{bytes} bytes of attributes are more than the {MAX_CHANGE_BYTES} of one change"
        ));
    }
    Ok(())
}

/// Checks what `holder` would have after `changes` to what it has now, and tells whether that is more.
pub(crate) fn check_room(
    holder: VersionId,
    now: &Attributes,
    changes: &[(&str, Option<&str>)],
) -> Result<bool> {
    let mut then = now.clone();
    changes.iter().for_each(|(key, value)| then.set(key, *value));
    let most = if holder == POOL { MAX_POOL_BYTES } else { MAX_VERSION_BYTES };
    if then.bytes <= most || then.bytes <= now.bytes {
        return Ok(then.bytes > now.bytes);
    }
    let why = format!("the attributes would take {} bytes, at most {most} are kept", then.bytes);
    Err(Error::new(ErrorKind::Conflict, why))
}

/// The records of `changes`.
pub(crate) fn records(holder: VersionId, changes: &[(&str, Option<&str>)]) -> Vec<Record> {
    let record = |(key, value): &(&str, Option<&str>)| Record::Attribute {
        holder,
        key: (*key).to_owned(),
        value: value.map(str::to_owned),
    };
    changes.iter().map(record).collect()
}

impl<D: Disk> Pool<D> {
    /// The attributes kept on `holder`.
    pub fn attributes(&self, holder: Holder<'_>) -> Result<Attributes> {
        let state = self.state.lock();
        let id = state.holder(holder)?;
        Ok(state.versions.attributes(id).cloned().unwrap_or_default())
    }

    /// The attributes kept on a version.
    pub fn attributes_of(&self, id: VersionId) -> Result<Attributes> {
        Ok(self.state.lock().version(id)?.attributes.clone())
    }

    /// Sets attributes of `holder`, all at once, and returns when they are durable: each key gets its value or, with
    /// `None`, is taken away.
    pub async fn set_attributes(&self, holder: Holder<'_>, changes: &[(&str, Option<&str>)]) -> Result<()> {
        check_changes(changes)?;
        self.decide_all(|state| {
            let id = state.holder(holder)?;
            let now = state.versions.attributes(id).cloned().unwrap_or_default();
            if check_room(id, &now, changes)? {
                state.admit_version()?;
                if id == POOL {
                    state.admit_own_attributes(now.encoded_bytes())?;
                }
            }
            Ok((records(id, changes), ()))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_know_what_they_take() {
        let mut attributes = Attributes::default();
        attributes.set("type", Some("fast"));
        attributes.set("type", Some("slower"));
        attributes.set("tag/a", Some(""));
        attributes.set("gone", Some("x"));
        attributes.set("gone", None);
        attributes.set("never", None);
        let mut w = Writer::default();
        attributes.encode(&mut w);
        assert_eq!(w.len(), 4 + attributes.encoded_bytes());
        let bytes = w.into_bytes();
        let mut r = Reader::new(&bytes, "test");
        assert_eq!(Attributes::decode(&mut r).unwrap(), attributes);
        assert_eq!(attributes.iter().collect::<Vec<_>>(), [("tag/a", ""), ("type", "slower")]);
    }

    #[test]
    fn a_clone_is_not_changed_with_its_original() {
        let mut first = Attributes::default();
        first.set("a", Some("1"));
        let second = first.clone();
        first.set("a", Some("2"));
        assert_eq!((first.get("a"), second.get("a")), (Some("2"), Some("1")));
    }

    #[test]
    fn keys_values_and_sums_are_bounded() {
        let long = "v".repeat(MAX_ATTRIBUTE_VALUE);
        assert!(check_changes(&[("a.b_c-d/9", Some(&long))]).is_ok());
        assert!(check_changes(&[("a", Some(&format!("{long}v")))]).is_err());
        for bad in ["", "a@", "a b", "ä", "a\n", &"k".repeat(MAX_ATTRIBUTE_KEY + 1)] {
            assert!(check_changes(&[(bad, None)]).is_err(), "{bad:?}");
        }
        let keys: Vec<String> = (0..5).map(|n| n.to_string()).collect();
        let many: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(long.as_str()))).collect();
        let id = VersionId(1);
        assert!(check_room(id, &Attributes::default(), &many[..3]).is_ok());
        assert!(check_room(id, &Attributes::default(), &many).is_err());
        assert!(check_room(POOL, &Attributes::default(), &many).is_ok());
        let mut full = Attributes::default();
        many.iter().for_each(|(key, value)| full.set(key, *value));
        assert!(check_room(id, &full, &[("0", None)]).is_ok(), "less is always right");
    }
}
