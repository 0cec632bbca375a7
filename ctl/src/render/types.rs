//! Types for people.

use cairn_api::types::{BACKEND, VolumeType};
use comfy_table::Cell;

use super::{Look, Tone, fields, left, or_dash, right, table};

fn pool(volume_type: &VolumeType) -> Option<&str> {
    volume_type.specs.get(BACKEND).map(String::as_str)
}

/// The specs that are not a pool.
fn others(volume_type: &VolumeType) -> Vec<String> {
    let others = volume_type.specs.iter().filter(|(key, _)| *key != BACKEND);
    others.map(|(key, value)| format!("{key}={value}")).collect()
}

/// All types as a table; with their descriptions when one has one.
pub(crate) fn list(types: &[VolumeType], look: &Look) -> String {
    let described = types.iter().any(|one| !one.description.is_empty());
    let mut columns =
        vec![left("NAME"), left("DEFAULT"), left("POOL"), left("QOS"), right("VOLUMES"), left("SPECS")];
    if described {
        columns.push(left("DESCRIPTION"));
    }
    let rows = types.iter().map(|one| {
        let default = if one.default { Tone::Good.cell(Cell::new("yes")) } else { Cell::new("-") };
        let mut row = vec![
            Cell::new(&one.name),
            default,
            Cell::new(pool(one).unwrap_or("-")),
            Cell::new(one.qos.as_deref().unwrap_or("-")),
            Cell::new(one.volumes),
            Cell::new(or_dash(&others(one).join(" "))),
        ];
        if described {
            row.push(Cell::new(&one.description));
        }
        row
    });
    table(&columns, rows.collect(), look)
}

/// One type, a field a line.
pub(crate) fn show(one: &VolumeType, look: &Look) -> String {
    let mut lines = vec![
        ("name", one.name.clone()),
        ("default", if one.default { "yes" } else { "no" }.to_owned()),
        ("pool", pool(one).unwrap_or("the first").to_owned()),
        ("qos", one.qos.as_deref().unwrap_or("none").to_owned()),
        ("volumes", one.volumes.to_string()),
    ];
    lines.extend(others(one).into_iter().map(|spec| ("spec", spec)));
    if !one.description.is_empty() {
        lines.push(("description", one.description.clone()));
    }
    fields(&lines, look)
}

/// After creating one.
pub(crate) fn created(one: &VolumeType) -> String {
    let default = if one.default { ", now the default" } else { "" };
    format!("created type {}{default}\n", one.name)
}

/// After changing one.
pub(crate) fn edited(one: &VolumeType) -> String {
    match one.volumes {
        0 => format!("changed type {}\n", one.name),
        n => format!("changed type {}, at once for its {}\n", one.name, super::count(n, "volume")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{look, narrow};
    use super::*;

    fn fast() -> VolumeType {
        let specs = [(BACKEND, "nvme"), ("media", "ssd"), ("owner", "web")];
        VolumeType {
            name: "fast".into(),
            description: "for databases".into(),
            specs: specs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            qos: Some("gold".into()),
            default: false,
            volumes: 12,
        }
    }

    fn plain() -> VolumeType {
        VolumeType {
            name: "default".into(),
            description: String::new(),
            specs: [].into(),
            qos: None,
            default: true,
            volumes: 1,
        }
    }

    #[test]
    fn a_list_is_a_table() {
        assert_eq!(
            list(&[plain(), fast()], &narrow()),
            "\
NAME     DEFAULT  POOL  QOS   VOLUMES  SPECS                DESCRIPTION
default  yes      -     -           1  -
fast     -        nvme  gold       12  media=ssd owner=web  for databases
"
        );
        assert_eq!(
            list(&[plain()], &narrow()),
            "NAME     DEFAULT  POOL  QOS  VOLUMES  SPECS\ndefault  yes      -     -          1  -\n"
        );
    }

    #[test]
    fn one_is_its_fields() {
        assert_eq!(
            show(&fast(), &look()),
            "\
name         fast
default      no
pool         nvme
qos          gold
volumes      12
spec         media=ssd
spec         owner=web
description  for databases
"
        );
        assert_eq!(
            show(&plain(), &look()),
            "name     default\ndefault  yes\npool     the first\nqos      none\nvolumes  1\n"
        );
    }

    #[test]
    fn changes_say_what_they_did() {
        assert_eq!(created(&fast()), "created type fast\n");
        assert_eq!(created(&plain()), "created type default, now the default\n");
        assert_eq!(edited(&fast()), "changed type fast, at once for its 12 volumes\n");
        assert_eq!(edited(&VolumeType { volumes: 0, ..fast() }), "changed type fast\n");
    }
}
