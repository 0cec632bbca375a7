//! QoS rules: how much I/O a volume may do in a second.
//!
//! The keys are those of QEMU and OpenStack Cinder, so rules written for either can be taken over. `docs/QOS.md` says
//! what they mean and how they are applied. Here they are kept, checked ([`QosRule::validate`]) and read from a command
//! line ([`QosRule::merge`]).

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{ApiError, ErrorCode};
use crate::size::Size;

/// The largest rate, burst rate and I/O size: 10^15, as in QEMU. Nothing that is computed from valid rules overflows.
pub const MAX_RATE: u64 = 1_000_000_000_000_000;
/// The longest burst, in seconds: a day.
pub const MAX_BURST_LENGTH: u64 = 24 * 60 * 60;

/// Limits to a volume's I/O. 0, or leaving a key out, means no limit.
///
/// Each of the six limits has a rate, a `_max` (the rate in a burst; without, there are no bursts) and a `_max_length`
/// (the seconds a burst may last, 1 unless given). Limits to the total exclude those to reads or writes of the same
/// unit, as in QEMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QosRule {
    /// Bytes read and written a second.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(example = 104857600u64, maximum = 1000000000000000u64)]
    pub total_bytes_sec: u64,
    /// Bytes read and written a second, in a burst.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub total_bytes_sec_max: u64,
    /// Seconds such a burst may last.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 86400)]
    pub total_bytes_sec_max_length: u64,
    /// Bytes read a second.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub read_bytes_sec: u64,
    /// Bytes read a second, in a burst.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub read_bytes_sec_max: u64,
    /// Seconds such a burst may last.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 86400)]
    pub read_bytes_sec_max_length: u64,
    /// Bytes written a second.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub write_bytes_sec: u64,
    /// Bytes written a second, in a burst.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub write_bytes_sec_max: u64,
    /// Seconds such a burst may last.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 86400)]
    pub write_bytes_sec_max_length: u64,
    /// Operations a second.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(example = 2000, maximum = 1000000000000000u64)]
    pub total_iops_sec: u64,
    /// Operations a second, in a burst.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub total_iops_sec_max: u64,
    /// Seconds such a burst may last.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 86400)]
    pub total_iops_sec_max_length: u64,
    /// Reads a second.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub read_iops_sec: u64,
    /// Reads a second, in a burst.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub read_iops_sec_max: u64,
    /// Seconds such a burst may last.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 86400)]
    pub read_iops_sec_max_length: u64,
    /// Writes a second; a trim or a request for zeroes counts as a write.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub write_iops_sec: u64,
    /// Writes a second, in a burst.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub write_iops_sec_max: u64,
    /// Seconds such a burst may last.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 86400)]
    pub write_iops_sec_max_length: u64,
    /// A request of more bytes than this counts as that many times more operations, in proportion; without, every
    /// request counts as one.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(maximum = 1000000000000000u64)]
    pub size_iops_sec: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What a limit is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QosLimit {
    /// `total_bytes_sec`
    TotalBytes,
    /// `read_bytes_sec`
    ReadBytes,
    /// `write_bytes_sec`
    WriteBytes,
    /// `total_iops_sec`
    TotalIops,
    /// `read_iops_sec`
    ReadIops,
    /// `write_iops_sec`
    WriteIops,
}

impl QosLimit {
    /// All of them, those on bytes first.
    pub const ALL: [QosLimit; 6] = [
        QosLimit::TotalBytes,
        QosLimit::ReadBytes,
        QosLimit::WriteBytes,
        QosLimit::TotalIops,
        QosLimit::ReadIops,
        QosLimit::WriteIops,
    ];

    /// Those on operations.
    pub const IOPS: [QosLimit; 3] = [QosLimit::TotalIops, QosLimit::ReadIops, QosLimit::WriteIops];

    /// Its keys: rate, burst rate, burst length.
    fn keys(self) -> &'static [Key; 3] {
        &LIMIT_KEYS[self as usize]
    }
}

/// One limit of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QosRate {
    /// Bytes or operations a second; never 0.
    pub rate: u64,
    /// The same in a burst, and the seconds it may last, neither of them 0; none without bursts.
    pub burst: Option<(u64, u64)>,
}

/// How a key's value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Bytes,
    Operations,
    Seconds,
}

/// One key of a rule.
struct Key {
    name: &'static str,
    unit: Unit,
    get: fn(&QosRule) -> u64,
    set: fn(&mut QosRule, u64),
}

macro_rules! key {
    ($name:ident: $unit:ident) => {
        Key {
            name: stringify!($name),
            unit: Unit::$unit,
            get: |rule| rule.$name,
            set: |rule, value| rule.$name = value,
        }
    };
}

macro_rules! limit_keys {
    ($($rate:ident, $max:ident, $length:ident: $unit:ident;)*) => {
        [$([key!($rate: $unit), key!($max: $unit), key!($length: Seconds)]),*]
    };
}

/// In the order of [`QosLimit::ALL`].
static LIMIT_KEYS: [[Key; 3]; 6] = limit_keys! {
    total_bytes_sec, total_bytes_sec_max, total_bytes_sec_max_length: Bytes;
    read_bytes_sec, read_bytes_sec_max, read_bytes_sec_max_length: Bytes;
    write_bytes_sec, write_bytes_sec_max, write_bytes_sec_max_length: Bytes;
    total_iops_sec, total_iops_sec_max, total_iops_sec_max_length: Operations;
    read_iops_sec, read_iops_sec_max, read_iops_sec_max_length: Operations;
    write_iops_sec, write_iops_sec_max, write_iops_sec_max_length: Operations;
};

static SIZE_KEY: Key = key!(size_iops_sec: Bytes);

/// Every key, in the order of the documentation.
fn keys() -> impl Iterator<Item = &'static Key> {
    LIMIT_KEYS.iter().flatten().chain([&SIZE_KEY])
}

impl Key {
    fn named(name: &str) -> Option<&'static Key> {
        keys().find(|key| key.name == name)
    }

    /// The value of `text`, by the key's unit.
    fn parse(&self, text: &str) -> Result<u64, QosError> {
        let wrong = |why: String| Err(QosError::new(format!("{}={text}: {why}", self.name)));
        match self.unit {
            Unit::Bytes => match text.parse::<Size>() {
                Ok(size) => Ok(size.bytes()),
                Err(error) => wrong(error.to_string()),
            },
            Unit::Operations | Unit::Seconds => match text.parse::<u64>() {
                Ok(value) => Ok(value),
                Err(_) if self.unit == Unit::Seconds => wrong("write whole seconds".to_owned()),
                Err(_) => wrong("write a whole number of operations".to_owned()),
            },
        }
    }

    /// The value as [`parse`](Self::parse) takes it.
    fn print(&self, value: u64) -> String {
        match self.unit {
            Unit::Bytes => Size(value).exact(),
            Unit::Operations | Unit::Seconds => value.to_string(),
        }
    }
}

impl QosRule {
    /// The names of all keys.
    pub fn key_names() -> impl Iterator<Item = &'static str> {
        keys().map(|key| key.name)
    }

    /// One of the limits, if it is set.
    pub fn limit(&self, limit: QosLimit) -> Option<QosRate> {
        let [rate, max, length] = limit.keys();
        let (rate, max) = ((rate.get)(self), (max.get)(self));
        let burst = (max > 0).then(|| (max, (length.get)(self).max(1)));
        (rate > 0).then_some(QosRate { rate, burst })
    }

    /// Whether it limits nothing.
    pub fn is_unlimited(&self) -> bool {
        QosLimit::ALL.iter().all(|limit| self.limit(*limit).is_none())
    }

    /// The keys that are set, with their values as [`merge`](Self::merge) takes them.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        keys().filter_map(|key| match (key.get)(self) {
            0 => None,
            value => Some((key.name, key.print(value))),
        })
    }

    /// The rule with `settings` applied, each of the form `key=value`, and checked. Keys of bytes take sizes such as
    /// `100M`. 0 clears a key; what only had a meaning with a key that was cleared is cleared with it.
    ///
    /// # Errors
    ///
    /// For a setting that is none, a key that does not exist or is given twice, a value that is not one, and what
    /// [`validate`](Self::validate) refuses.
    pub fn merge<'a>(&self, settings: impl IntoIterator<Item = &'a str>) -> Result<QosRule, QosError> {
        let mut merged = *self;
        let mut given: Vec<&str> = Vec::new();
        for setting in settings {
            let Some((name, value)) = setting.split_once('=') else {
                return Err(QosError::new(format!("{setting:?} is not a setting"))
                    .with_hint("write key=value, for example total_iops_sec=2000"));
            };
            let Some(key) = Key::named(name) else { return Err(QosError::unknown_key(name)) };
            if given.contains(&key.name) {
                return Err(QosError::new(format!("{name} is given twice")));
            }
            given.push(key.name);
            (key.set)(&mut merged, key.parse(value)?);
        }
        merged.clear_dependents(&given);
        merged.validate()?;
        Ok(merged)
    }

    /// Clears what has lost its meaning, unless it was given just now: then it is an error to be told of.
    fn clear_dependents(&mut self, given: &[&str]) {
        let clear_unless_given = |rule: &mut QosRule, key: &Key| {
            if !given.contains(&key.name) {
                (key.set)(rule, 0);
            }
        };
        for [rate, max, length] in &LIMIT_KEYS {
            if (rate.get)(self) == 0 {
                clear_unless_given(self, max);
            }
            if (max.get)(self) == 0 {
                clear_unless_given(self, length);
            }
        }
        if QosLimit::IOPS.iter().all(|limit| self.limit(*limit).is_none()) {
            clear_unless_given(self, &SIZE_KEY);
        }
    }

    /// Checks that the rule makes sense.
    ///
    /// # Errors
    ///
    /// Says what is wrong and what to do about it.
    pub fn validate(&self) -> Result<(), QosError> {
        for key in keys() {
            let value = (key.get)(self);
            let most = if key.unit == Unit::Seconds { MAX_BURST_LENGTH } else { MAX_RATE };
            if value > most {
                return Err(QosError::new(format!("{}={value} is more than {most}", key.name)));
            }
        }
        for [rate, max, length] in &LIMIT_KEYS {
            let [rate_value, max_value, length_value] = [rate, max, length].map(|key| (key.get)(self));
            if max_value > 0 && rate_value == 0 {
                return Err(QosError::conflict(format!("{} is set, but not {}", max.name, rate.name))
                    .with_hint(format!("a burst exceeds a limit: set {} too", rate.name)));
            }
            if length_value > 0 && max_value == 0 {
                return Err(QosError::conflict(format!("{} is set, but not {}", length.name, max.name))
                    .with_hint(format!("set {} to the rate that a burst may have", max.name)));
            }
            if max_value > 0 && max_value < rate_value {
                return Err(QosError::conflict(format!(
                    "{}={} is less than {}={}",
                    max.name,
                    max.print(max_value),
                    rate.name,
                    rate.print(rate_value)
                ))
                .with_hint("a burst is faster than the limit, not slower"));
            }
        }
        let (bytes, iops) = QosLimit::ALL.split_at(3);
        for unit in [bytes, iops] {
            if let [total, parts @ ..] = unit
                && self.limit(*total).is_some()
                && let Some(part) = parts.iter().find(|part| self.limit(**part).is_some())
            {
                let [total, part] = [*total, *part].map(|limit| limit.keys()[0].name);
                return Err(QosError::conflict(format!("{total} and {part} cannot be set at the same time"))
                    .with_hint(format!("clear one of them: {total}=0 or {part}=0")));
            }
        }
        if self.size_iops_sec > 0 && QosLimit::IOPS.iter().all(|limit| self.limit(*limit).is_none()) {
            return Err(QosError::conflict("size_iops_sec is set, but no limit to operations")
                .with_hint("it says what counts as one operation: set total_iops_sec, for example"));
        }
        Ok(())
    }
}

impl fmt::Display for QosRule {
    /// The settings, separated by spaces; `unlimited` without any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<String> = self.settings().map(|(key, value)| format!("{key}={value}")).collect();
        if settings.is_empty() { f.pad("unlimited") } else { f.pad(&settings.join(" ")) }
    }
}

/// Why a rule is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QosError {
    /// Whether a setting is wrong by itself, or does not go with others.
    pub code: ErrorCode,
    /// What is wrong: one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl QosError {
    fn new(message: impl Into<String>) -> QosError {
        QosError { code: ErrorCode::InvalidArgument, message: message.into(), hint: None }
    }

    fn conflict(message: impl Into<String>) -> QosError {
        QosError { code: ErrorCode::Conflict, ..QosError::new(message) }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> QosError {
        self.hint = Some(hint.into());
        self
    }

    fn unknown_key(name: &str) -> QosError {
        // Beyond a third of its length a name is not misspelt but something else.
        let similar_length = |key: &&str| key.len().abs_diff(name.len()) * 3 <= key.len();
        let near = QosRule::key_names()
            .filter(similar_length)
            .min_by_key(|key| distance(name, key))
            .filter(|key| distance(name, key) * 3 <= key.len());
        let list: Vec<&str> = QosRule::key_names().collect();
        let meant = near.map_or(String::new(), |key| format!("did you mean {key}? "));
        QosError::new(format!("{name:?} is not a key of a QoS rule"))
            .with_hint(format!("{meant}the keys are {}", list.join(", ")))
    }
}

/// Letters to change, add or take away to make one text the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl fmt::Display for QosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for QosError {}

impl From<QosError> for ApiError {
    fn from(error: QosError) -> ApiError {
        ApiError { code: error.code, message: error.message, hint: error.hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(rule: &QosRule, settings: &str) -> Result<QosRule, QosError> {
        rule.merge(settings.split_whitespace())
    }

    fn refused(settings: &str) -> String {
        let error = merged(&QosRule::default(), settings).expect_err(settings);
        format!("{error}; {}", error.hint.as_deref().unwrap_or_default())
    }

    #[test]
    fn every_key_sets_its_own_field() {
        let mut json = serde_json::Map::new();
        for (index, key) in keys().enumerate() {
            json.insert(key.name.to_owned(), (index as u64 + 1).into());
        }
        assert_eq!(json.len(), 19);
        let rule: QosRule = serde_json::from_value(json.into()).expect("every key is a field");
        for (index, key) in keys().enumerate() {
            assert_eq!((key.get)(&rule), index as u64 + 1, "{}", key.name);
            let mut other = QosRule::default();
            (key.set)(&mut other, 7);
            assert_eq!((key.get)(&other), 7, "{}", key.name);
            assert_eq!(other.settings().count(), 1, "{}", key.name);
        }
        let burst = Some((5, 6));
        assert_eq!(rule.limit(QosLimit::ReadBytes), Some(QosRate { rate: 4, burst }));
    }

    #[test]
    fn json_leaves_out_what_is_not_set_and_refuses_what_is_not_a_key() {
        let rule = QosRule { total_iops_sec: 5, ..QosRule::default() };
        let json = serde_json::to_string(&rule).expect("serialises");
        assert_eq!(json, r#"{"total_iops_sec":5}"#);
        assert_eq!(serde_json::from_str::<QosRule>(&json).expect("parses"), rule);
        assert_eq!(serde_json::from_str::<QosRule>("{}").expect("parses"), QosRule::default());
        assert!(serde_json::from_str::<QosRule>(r#"{"total_iops":5}"#).is_err());
        assert!(serde_json::from_str::<QosRule>(r#"{"total_iops_sec":-5}"#).is_err());
    }

    #[test]
    fn settings_merge_and_print_as_they_are_written() {
        let none = QosRule::default();
        assert!(none.is_unlimited());
        assert_eq!(none.to_string(), "unlimited");
        let text = "total_bytes_sec=100M total_bytes_sec_max=1G read_iops_sec=2000 size_iops_sec=16K";
        let rule = merged(&none, text).expect("valid");
        assert!(!rule.is_unlimited());
        assert_eq!(rule.to_string(), text);
        assert_eq!(rule.total_bytes_sec, 100 << 20);
        let burst = Some((1 << 30, 1));
        assert_eq!(rule.limit(QosLimit::TotalBytes), Some(QosRate { rate: 100 << 20, burst }));
        let longer = merged(&rule, "total_bytes_sec_max_length=30").expect("valid");
        let burst = Some((1 << 30, 30));
        assert_eq!(longer.limit(QosLimit::TotalBytes), Some(QosRate { rate: 100 << 20, burst }));
        assert_eq!(merged(&rule, "").expect("valid"), rule);
    }

    #[test]
    fn clearing_a_limit_clears_what_hangs_on_it() {
        let text = "total_iops_sec=100 total_iops_sec_max=200 total_iops_sec_max_length=9 size_iops_sec=4K";
        let rule = merged(&QosRule::default(), text).expect("valid");
        assert_eq!(merged(&rule, "total_iops_sec=0"), Ok(QosRule::default()));
        let without_burst = merged(&rule, "total_iops_sec_max=0").expect("valid");
        assert_eq!(without_burst.to_string(), "total_iops_sec=100 size_iops_sec=4K");
        let other = merged(&rule, "total_iops_sec=0 write_iops_sec=5").expect("valid");
        assert_eq!(other.to_string(), "write_iops_sec=5 size_iops_sec=4K");
        // Not silently: it was asked for.
        assert!(merged(&rule, "total_iops_sec=0 total_iops_sec_max=7").is_err());
    }

    #[test]
    fn refuses_with_what_to_do() {
        for (settings, expected) in [
            ("total_iops", "write key=value"),
            ("total_iop_sec=1", "did you mean total_iops_sec?"),
            ("colour=red", "; the keys are total_bytes_sec, total_bytes_sec_max,"),
            ("total_iops_sec=1 total_iops_sec=2", "given twice"),
            ("total_iops_sec=2K", "a whole number of operations"),
            ("total_iops_sec=-1", "a whole number of operations"),
            ("total_bytes_sec=fast", "is not a size"),
            ("total_iops_sec=1 total_iops_sec_max=2 total_iops_sec_max_length=1m", "whole seconds"),
            ("total_iops_sec_max=5", "set total_iops_sec too"),
            ("read_iops_sec=5 read_iops_sec_max_length=5", "but not read_iops_sec_max"),
            (
                "read_bytes_sec=2M read_bytes_sec_max=1M",
                "read_bytes_sec_max=1M is less than read_bytes_sec=2M",
            ),
            ("total_iops_sec=5 read_iops_sec=5", "total_iops_sec and read_iops_sec cannot be set"),
            ("write_bytes_sec=5 total_bytes_sec=5", "total_bytes_sec and write_bytes_sec cannot be set"),
            ("size_iops_sec=4096 total_bytes_sec=5", "no limit to operations"),
            ("total_iops_sec=1000000000000001", "is more than 1000000000000000"),
            ("total_bytes_sec=16000P", "is more than 1000000000000000"),
            ("write_iops_sec=1 write_iops_sec_max=1 write_iops_sec_max_length=86401", "is more than 86400"),
        ] {
            let error = refused(settings);
            assert!(error.contains(expected), "{settings:?} gave {error:?}");
        }
        assert!(merged(&QosRule::default(), "total_iops_sec=5 read_bytes_sec=5 write_bytes_sec=5").is_ok());
        let error = ApiError::from(merged(&QosRule::default(), "x=1").expect_err("no such key"));
        assert_eq!(error.code, ErrorCode::InvalidArgument);
    }

    #[test]
    fn distance_counts_letters() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
