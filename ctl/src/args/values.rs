//! What an argument may be beyond a word or a number.

use std::str::FromStr;

use cairn_api::qos::{QosError, QosRule};
use cairn_api::tags::{self, TagChanges, Tags};
use cairn_api::volume::SnapshotRef;
use clap::{Args, ValueEnum};

/// `VOLUME@SNAPSHOT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct From(pub(crate) SnapshotRef);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text.split_once('@') {
            Some((volume, snapshot)) if !volume.is_empty() && !snapshot.is_empty() => {
                Ok(From(SnapshotRef { volume: volume.to_owned(), snapshot: snapshot.to_owned() }))
            }
            _ => Err("expected VOLUME@SNAPSHOT, for example demo@before-upgrade".to_owned()),
        }
    }
}

/// `VOLUME` or `VOLUME@SNAPSHOT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Export {
    pub(crate) volume: String,
    pub(crate) snapshot: Option<String>,
}

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Export, String> {
        if !text.contains('@') && !text.is_empty() {
            return Ok(Export { volume: text.to_owned(), snapshot: None });
        }
        let From(SnapshotRef { volume, snapshot }) =
            text.parse().map_err(|_| "expected VOLUME or VOLUME@SNAPSHOT, for example demo".to_owned())?;
        Ok(Export { volume, snapshot: Some(snapshot) })
    }
}

impl std::fmt::Display for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
            None => f.write_str(&self.volume),
        }
    }
}

/// `/dev/nbdN`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Device(pub(crate) String);

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        match text.strip_prefix("/dev/nbd") {
            Some(number) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Device(text.to_owned()))
            }
            _ => Err("expected a device such as /dev/nbd0".to_owned()),
        }
    }
}

/// What is in use: an export by its name, or whatever a device is attached to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum InUse {
    Export(Export),
    Device(Device),
}

impl FromStr for InUse {
    type Err = String;

    fn from_str(text: &str) -> Result<InUse, String> {
        if text.starts_with('/') { text.parse().map(InUse::Device) } else { text.parse().map(InUse::Export) }
    }
}

/// What is exported: by a name that may be a volume's or an image's, or one that says whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Exported {
    /// `image:NAME`
    Image(String),
    /// `VOLUME@SNAPSHOT`, or `volume:NAME`
    Export(Export),
    /// `NAME`
    Either(String),
}

impl FromStr for Exported {
    type Err = String;

    fn from_str(text: &str) -> Result<Exported, String> {
        let expected = || "expected VOLUME, VOLUME@SNAPSHOT or IMAGE, for example demo".to_owned();
        match text.split_once(':') {
            Some(("image", name)) if !name.is_empty() => Ok(Exported::Image(name.to_owned())),
            Some(("volume", name)) => name.parse().map(Exported::Export).map_err(|_| expected()),
            Some(_) => Err(expected()),
            None => match text.parse().map_err(|_| expected())? {
                Export { volume, snapshot: None } => Ok(Exported::Either(volume)),
                export => Ok(Exported::Export(export)),
            },
        }
    }
}

impl std::fmt::Display for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exported::Image(name) | Exported::Either(name) => f.write_str(name),
            Exported::Export(export) => export.fmt(f),
        }
    }
}

/// `on` or `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

impl Switch {
    pub(crate) fn is_on(self) -> bool {
        self == Switch::On
    }

    /// As a query has it.
    pub(crate) fn in_query(self) -> String {
        self.is_on().to_string()
    }
}

/// `KEY=VALUE` of a type; without a value the key is taken away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spec {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Spec {
    /// Tags that something is to have.
    pub(crate) fn tags(specs: Vec<Spec>) -> Tags {
        specs.into_iter().map(|Spec { key, value }| (key, value)).collect()
    }

    /// Changes of tags: without a value one is taken away.
    pub(crate) fn tag_changes(specs: Vec<Spec>) -> TagChanges {
        let change = |Spec { key, value }| (key, Some(value).filter(|value| !value.is_empty()));
        specs.into_iter().map(change).collect()
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Spec, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Spec { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err("expected KEY=VALUE, for example media=ssd".to_owned()),
        }
    }
}

/// For how long to keep something: `7d`, `12h`, `30m` or `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Keep {
    pub(crate) seconds: u64,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        if text == "off" {
            return Ok(Keep { seconds: 0 });
        }
        let units = [('d', 86_400), ('h', 3600), ('m', 60)];
        let read = units.into_iter().find_map(|(unit, seconds)| {
            let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
            count.checked_mul(seconds)
        });
        let seconds = read.filter(|seconds| *seconds > 0);
        seconds
            .map(|seconds| Keep { seconds })
            .ok_or_else(|| "expected a time such as 7d, 12h or 30m, or off".to_owned())
    }
}

/// The one of `all` that `text` is the word for.
pub(crate) fn one_of<T: Copy>(text: &str, all: &[T], word: fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| word(*one) == text);
    found.ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|one| word(*one)).collect();
        match words.split_last() {
            Some((last, others)) if !others.is_empty() => format!("expected {} or {last}", others.join(", ")),
            _ => format!("expected {}", words.concat()),
        }
    })
}

/// `KEY=VALUE` or `KEY`, as a list is filtered by a tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TagFilter(pub(crate) String);

impl FromStr for TagFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<TagFilter, String> {
        tags::check_key(text.split('=').next().unwrap_or_default())?;
        Ok(TagFilter(text.to_owned()))
    }
}

/// What every list can be asked for, but for its order.
#[derive(Args, Debug)]
pub(crate) struct ListFilter {
    /// A part of the name or description
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// With this tag; may be given several times
    #[arg(long = "tag", value_name = "KEY[=VALUE]")]
    pub(crate) tags: Vec<TagFilter>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Those after this one: the one that a list said to go on after
    #[arg(long, value_name = "NAME")]
    pub(crate) after: Option<String>,
}

impl ListFilter {
    /// As pairs of a query, with what else is asked for.
    pub(crate) fn query<const N: usize>(
        self,
        others: [(&'static str, Option<String>); N],
    ) -> Vec<(&'static str, Option<String>)> {
        let mut pairs: Vec<_> = self.tags.into_iter().map(|tag| ("tag", Some(tag.0))).collect();
        pairs.push(("search", self.search));
        pairs.extend(others);
        pairs.extend([("limit", self.limit.map(|limit| limit.to_string())), ("after", self.after)]);
        pairs
    }
}

/// `KEY=VALUE` of a QoS rule, where the value of a key of bytes may be a size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: u64,
}

impl FromStr for Setting {
    type Err = String;

    /// Whether the value goes with the other limits is the daemon's to say: it knows them. Here it is read in a rule in
    /// which it makes sense.
    fn from_str(text: &str) -> Result<Setting, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let mut rule = vec![text.to_owned()];
        if value.bytes().any(|b| b != b'0') {
            let (limit, is_length) = match key.strip_suffix("_max_length") {
                Some(limit) => (limit, true),
                None => (key.strip_suffix("_max").unwrap_or(key), false),
            };
            if limit != key {
                rule.push(format!("{limit}=1"));
            }
            if is_length {
                rule.push(format!("{limit}_max=1"));
            }
            if key == "size_iops_sec" {
                rule.push("total_iops_sec=1".to_owned());
            }
        }
        let read = QosRule::default().merge(rule.iter().map(String::as_str));
        let read = read.map_err(|QosError { message, hint, .. }| match hint {
            Some(hint) => format!("{message}; {hint}"),
            None => message,
        })?;
        // A key that is not set is not in a rule's JSON.
        let json = serde_json::to_value(read).map_err(|e| e.to_string())?;
        Ok(Setting { key: key.to_owned(), value: json.get(key).and_then(|v| v.as_u64()).unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_rule_can_be_set_and_cleared_alone() {
        for key in QosRule::key_names() {
            let unit = if key.contains("bytes") && !key.ends_with("length") { "7K" } else { "7" };
            let value = if unit == "7K" { 7 << 10 } else { 7 };
            assert_eq!(format!("{key}={unit}").parse(), Ok(Setting { key: key.into(), value }));
            assert_eq!(format!("{key}=0").parse(), Ok(Setting { key: key.into(), value: 0 }));
        }
        assert_eq!("size_iops_sec=16K".parse(), Ok(Setting { key: "size_iops_sec".into(), value: 16 << 10 }));
    }

    #[test]
    fn settings_are_refused_with_the_reason() {
        for (text, part) in [
            ("total_iops_sec", "write key=value"),
            ("total_iops_sec=", "a whole number"),
            ("total_iops_sec=2K", "a whole number"),
            ("total_iop_sec=1", "did you mean total_iops_sec?"),
            ("foo_max_length=1", "\"foo_max_length\" is not a key"),
            ("total_bytes_sec=1.5G", "only whole numbers"),
            ("read_iops_sec_max_length=90000", "is more than 86400"),
        ] {
            let error = text.parse::<Setting>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn images_and_volumes_are_told_apart_where_it_is_said() {
        let export = |volume: &str, snapshot: Option<&str>| {
            Ok(Exported::Export(Export { volume: volume.into(), snapshot: snapshot.map(str::to_owned) }))
        };
        assert_eq!("web".parse(), Ok(Exported::Either("web".into())));
        assert_eq!("image:web".parse(), Ok(Exported::Image("web".into())));
        assert_eq!("volume:web".parse(), export("web", None));
        assert_eq!("web@s".parse(), export("web", Some("s")));
        for text in ["", "image:", "volume:", "disk:web", "@s", "web@"] {
            text.parse::<Exported>().expect_err(text);
        }
    }

    #[test]
    fn exports_and_devices_are_told_apart() {
        let export = |volume: &str, snapshot: Option<&str>| {
            Ok(InUse::Export(Export { volume: volume.into(), snapshot: snapshot.map(str::to_owned) }))
        };
        assert_eq!("demo".parse(), export("demo", None));
        assert_eq!("demo@s1".parse(), export("demo", Some("s1")));
        assert_eq!("/dev/nbd12".parse(), Ok(InUse::Device(Device("/dev/nbd12".into()))));
        for text in ["", "@s1", "demo@", "/dev/nbd", "/dev/nbd0p1", "/dev/sda", "/dev/nbd-1"] {
            text.parse::<InUse>().expect_err(text);
        }
    }
}
