//! Limits to I/O, for people.

use std::time::Duration;

use cairn_api::types::{QosPolicy, QosSource, VolumeQos};
use comfy_table::Cell;

use super::{Look, count, fields, left, or_dash, table};

/// Where the limits in force come from.
fn source(qos: &VolumeQos) -> String {
    let rule = qos.type_rule.as_deref();
    match (qos.source, rule) {
        (QosSource::Volume, Some(rule)) => {
            format!("its own, in place of rule {rule} of type {}", qos.volume_type)
        }
        (QosSource::Volume, None) => "its own".to_owned(),
        (QosSource::Type, Some(rule)) => format!("rule {rule} of type {}", qos.volume_type),
        (QosSource::Type, None) => format!("type {}", qos.volume_type),
        (QosSource::None, _) => "none".to_owned(),
    }
}

/// A time that requests waited: what is long in seconds, what is short in milliseconds.
fn waited(us: u64) -> String {
    let time = Duration::from_micros(us);
    match time.as_secs() {
        0 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// A volume's limits, where they come from and what they have done, a field a line.
pub(crate) fn show(qos: &VolumeQos, look: &Look) -> String {
    let mut lines =
        vec![("volume", qos.volume.clone()), ("type", qos.volume_type.clone()), ("limits", source(qos))];
    lines.extend(qos.rule.settings());
    lines.push(match qos.waits {
        0 => ("waited", "no request since the daemon started".to_owned()),
        n => ("waited", format!("{}, {} in all", count(n, "request"), waited(qos.waited_us))),
    });
    if qos.waiting > 0 {
        lines.push(("waiting", format!("{} now", count(qos.waiting, "request"))));
    }
    fields(&lines, look)
}

/// After changing a volume's own limits: what holds now.
pub(crate) fn set(qos: &VolumeQos) -> String {
    match qos.source {
        QosSource::None => format!("volume {} has no limits\n", qos.volume),
        QosSource::Volume => format!("volume {} is limited to {}\n", qos.volume, qos.rule),
        QosSource::Type => {
            format!("volume {} has no limits of its own; by {}: {}\n", qos.volume, source(qos), qos.rule)
        }
    }
}

/// All rules as a table; with their descriptions when one has one.
pub(crate) fn rules(rules: &[QosPolicy], look: &Look) -> String {
    if rules.is_empty() {
        return "There are no QoS rules. Create one: cairn qos rule create NAME total_iops_sec=2000\n"
            .to_owned();
    }
    let described = rules.iter().any(|rule| !rule.description.is_empty());
    let mut columns = vec![left("NAME"), left("LIMITS"), left("TYPES")];
    if described {
        columns.push(left("DESCRIPTION"));
    }
    let rows = rules.iter().map(|rule| {
        let mut row = vec![
            Cell::new(&rule.name),
            Cell::new(rule.rule.to_string()),
            Cell::new(or_dash(&rule.types.join(", "))),
        ];
        if described {
            row.push(Cell::new(&rule.description));
        }
        row
    });
    table(&columns, rows.collect(), look)
}

/// One rule, a field a line.
pub(crate) fn rule(rule: &QosPolicy, look: &Look) -> String {
    let mut lines = vec![("name", rule.name.clone())];
    if rule.rule.settings().next().is_none() {
        lines.push(("limits", "none".to_owned()));
    }
    lines.extend(rule.rule.settings());
    lines.push(("types", if rule.types.is_empty() { "none".to_owned() } else { rule.types.join(", ") }));
    if !rule.description.is_empty() {
        lines.push(("description", rule.description.clone()));
    }
    fields(&lines, look)
}

/// After creating a rule.
pub(crate) fn rule_created(rule: &QosPolicy) -> String {
    format!("created rule {}: {}\n", rule.name, rule.rule)
}

/// After changing a rule.
pub(crate) fn rule_edited(rule: &QosPolicy) -> String {
    let types = match rule.types.len() {
        0 => String::new(),
        n => format!(", at once for the volumes of {}", count(n as u64, "type")),
    };
    format!("changed rule {}: {}{types}\n", rule.name, rule.rule)
}

#[cfg(test)]
mod tests {
    use cairn_api::qos::QosRule;

    use super::super::testing::{look, narrow};
    use super::*;

    fn limits(text: &str) -> QosRule {
        QosRule::default().merge(text.split_whitespace()).expect("a rule")
    }

    fn demo() -> VolumeQos {
        let own = limits("total_iops_sec=2000 total_bytes_sec=100M");
        VolumeQos {
            volume: "demo".into(),
            source: QosSource::Volume,
            rule: own,
            own,
            volume_type: "fast".into(),
            type_rule: Some("gold".into()),
            waits: 0,
            waited_us: 0,
            waiting: 0,
        }
    }

    fn gold() -> QosPolicy {
        let rule = limits(
            "total_bytes_sec=400M read_iops_sec=5000 read_iops_sec_max=20000 read_iops_sec_max_length=30 \
             write_iops_sec=5000 size_iops_sec=16K",
        );
        let types = vec!["fast".into(), "faster".into()];
        QosPolicy { name: "gold".into(), description: "for databases".into(), rule, types }
    }

    fn silver() -> QosPolicy {
        let rule = limits("total_iops_sec=1000");
        QosPolicy { name: "silver".into(), description: String::new(), rule, types: Vec::new() }
    }

    #[test]
    fn limits_say_where_they_come_from() {
        assert_eq!(
            show(&demo(), &narrow()),
            "\
volume           demo
type             fast
limits           its own, in place of rule gold of type fast
total_bytes_sec  100M
total_iops_sec   2000
waited           no request since the daemon started
"
        );
        let by_type = VolumeQos { source: QosSource::Type, waits: 1, waited_us: 1500, waiting: 2, ..demo() };
        let text = show(&by_type, &look());
        assert!(text.contains("\nlimits           rule gold of type fast\n"), "{text}");
        assert!(
            text.ends_with("\nwaited           1 request, 1.5 ms in all\nwaiting          2 requests now\n"),
            "{text}"
        );
        let none = QosRule::default();
        let none = VolumeQos { source: QosSource::None, rule: none, own: none, type_rule: None, ..demo() };
        assert_eq!(
            show(&VolumeQos { waits: 7, waited_us: 63_260_000, ..none.clone() }, &look()),
            "volume  demo\ntype    fast\nlimits  none\nwaited  7 requests, 63.3 s in all\n"
        );
        assert_eq!(set(&none), "volume demo has no limits\n");
        assert_eq!(set(&demo()), "volume demo is limited to total_bytes_sec=100M total_iops_sec=2000\n");
        assert_eq!(
            set(&by_type),
            "volume demo has no limits of its own; by rule gold of type fast: \
             total_bytes_sec=100M total_iops_sec=2000\n"
        );
    }

    #[test]
    fn rules_are_a_table() {
        assert_eq!(
            rules(&[gold(), silver()], &narrow()),
            "\
NAME    LIMITS                                   TYPES         DESCRIPTION
gold    total_bytes_sec=400M read_iops_sec=5000  fast, faster  for databases
        read_iops_sec_max=20000
        read_iops_sec_max_length=30
        write_iops_sec=5000 size_iops_sec=16K
silver  total_iops_sec=1000                      -
"
        );
        assert_eq!(
            rules(&[silver()], &narrow()),
            "NAME    LIMITS               TYPES\nsilver  total_iops_sec=1000  -\n"
        );
        assert!(rules(&[], &look()).starts_with("There are no QoS rules."));
    }

    #[test]
    fn one_rule_is_its_fields() {
        assert_eq!(
            rule(&gold(), &narrow()),
            "\
name                      gold
total_bytes_sec           400M
read_iops_sec             5000
read_iops_sec_max         20000
read_iops_sec_max_length  30
write_iops_sec            5000
size_iops_sec             16K
types                     fast, faster
description               for databases
"
        );
        let empty = QosPolicy { rule: QosRule::default(), ..silver() };
        assert_eq!(rule(&empty, &look()), "name    silver\nlimits  none\ntypes   none\n");
    }

    #[test]
    fn changes_say_what_they_did() {
        assert_eq!(rule_created(&silver()), "created rule silver: total_iops_sec=1000\n");
        assert_eq!(rule_edited(&silver()), "changed rule silver: total_iops_sec=1000\n");
        assert!(rule_edited(&gold()).ends_with("size_iops_sec=16K, at once for the volumes of 2 types\n"));
    }
}
