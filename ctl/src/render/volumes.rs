//! Volumes for people.

use cairn_api::Size;
use cairn_api::volume::{Volume, VolumeStatus};
use comfy_table::Cell;

use super::{Look, Tone, count, fields, left, right, table};

fn tone(status: VolumeStatus) -> Tone {
    match status {
        VolumeStatus::Available => Tone::Good,
        VolumeStatus::InUse => Tone::Active,
        VolumeStatus::Error => Tone::Bad,
    }
}

fn origin(volume: &Volume) -> Option<String> {
    volume.origin.as_ref().map(|origin| format!("{}@{}", origin.volume, origin.snapshot))
}

/// All volumes as a table.
pub(crate) fn list(volumes: &[Volume], look: &Look) -> String {
    if volumes.is_empty() {
        return "There are no volumes. Create one: cairn volume create NAME --size 10G\n".to_owned();
    }
    let columns = [
        left("NAME"),
        right("SIZE"),
        right("USED"),
        left("STATUS"),
        right("CLIENTS"),
        right("SNAPSHOTS"),
        left("ORIGIN"),
        left("CREATED"),
    ];
    let rows = volumes.iter().map(|volume| {
        vec![
            Cell::new(&volume.name),
            Cell::new(Size(volume.size)),
            Cell::new(Size(volume.mapped)),
            tone(volume.status).cell(Cell::new(volume.status.as_str())),
            Cell::new(volume.connections),
            Cell::new(volume.snapshots),
            Cell::new(origin(volume).unwrap_or_else(|| "-".to_owned())),
            Cell::new(look.ago(volume.created)),
        ]
    });
    table(&columns, rows.collect(), look)
}

/// One volume, a field a line.
pub(crate) fn show(volume: &Volume, uri: Option<&str>, look: &Look) -> String {
    let mut lines = vec![
        ("name", volume.name.clone()),
        ("id", volume.id.to_string()),
        ("status", look.paint(tone(volume.status), volume.status.as_str())),
        ("size", format!("{} ({} bytes)", Size(volume.size), volume.size)),
        ("used", Size(volume.mapped).to_string()),
        ("snapshots", volume.snapshots.to_string()),
        ("clients", volume.connections.to_string()),
        ("created", look.when(volume.created)),
    ];
    if let Some(origin) = origin(volume) {
        lines.push(("origin", origin));
    }
    if !volume.description.is_empty() {
        lines.push(("description", volume.description.clone()));
    }
    if volume.checksum_errors > 0 {
        lines.push(("checksum errors", look.paint(Tone::Bad, &volume.checksum_errors.to_string())));
    }
    if let Some(uri) = uri {
        lines.push(("connect", uri.to_owned()));
    }
    fields(&lines, look)
}

/// After creating one.
pub(crate) fn created(volume: &Volume, uri: Option<&str>, look: &Look) -> String {
    let source = match origin(volume) {
        Some(origin) => format!(" from {origin}"),
        None => String::new(),
    };
    let mut text = format!("created volume {} ({}){source}\n", volume.name, Size(volume.size));
    if let Some(uri) = uri {
        text.push_str(&fields(&[("connect", uri.to_owned())], look));
    }
    text
}

/// After growing one.
pub(crate) fn resized(volume: &Volume, _: &Look) -> String {
    let clients = match volume.connections {
        0 => String::new(),
        n => format!("; {} must ask for the size again to see it", count(n, "connected client")),
    };
    format!("volume {} is now {}{clients}\n", volume.name, Size(volume.size))
}

/// What to ask before deleting.
pub(crate) fn delete_question(volumes: &[Volume], with_snapshots: bool) -> String {
    let names: Vec<_> = volumes.iter().map(|v| format!("{} ({})", v.name, Size(v.size))).collect();
    let snapshots: u64 = volumes.iter().map(|v| v.snapshots).sum();
    let with = match snapshots {
        n if with_snapshots && n > 0 => format!(" with {}", count(n, "snapshot")),
        _ => String::new(),
    };
    let what = if volumes.len() == 1 { "volume" } else { "volumes" };
    format!("Delete {what} {}{with}? This cannot be undone.", names.join(", "))
}

#[cfg(test)]
mod tests {
    use cairn_api::volume::SnapshotRef;

    use super::super::testing::{at, look};
    use super::*;

    fn demo() -> Volume {
        Volume {
            name: "demo".into(),
            id: 1,
            size: 10 << 30,
            mapped: 1536 << 20,
            created: at("2026-01-01T23:55:00Z"),
            description: String::new(),
            origin: None,
            snapshots: 2,
            status: VolumeStatus::InUse,
            connections: 1,
            checksum_errors: 0,
        }
    }

    fn copy() -> Volume {
        Volume {
            name: "a-copy".into(),
            size: 512,
            mapped: 0,
            origin: Some(SnapshotRef { volume: "demo".into(), snapshot: "s1".into() }),
            snapshots: 0,
            status: VolumeStatus::Available,
            connections: 0,
            ..demo()
        }
    }

    #[test]
    fn a_list_is_a_table() {
        assert_eq!(
            list(&[copy(), demo()], &look()),
            "\
NAME        SIZE     USED  STATUS     CLIENTS  SNAPSHOTS  ORIGIN   CREATED
a-copy     512 B      0 B  available        0          0  demo@s1  5 minutes ago
demo    10.0 GiB  1.5 GiB  in-use           1          2  -        5 minutes ago
"
        );
        assert!(list(&[], &look()).starts_with("There are no volumes."));
    }

    #[test]
    fn one_is_its_fields() {
        let volume = Volume { description: "the first".into(), checksum_errors: 3, ..demo() };
        assert_eq!(
            show(&volume, Some("nbd+unix:///demo?socket=/s"), &look()),
            "\
name             demo
id               1
status           in-use
size             10.0 GiB (10737418240 bytes)
used             1.5 GiB
snapshots        2
clients          1
created          2026-01-01 23:55:00 UTC (5 minutes ago)
description      the first
checksum errors  3
connect          nbd+unix:///demo?socket=/s
"
        );
    }

    #[test]
    fn changes_say_what_they_did() {
        assert_eq!(created(&demo(), Some("URI"), &look()), "created volume demo (10.0 GiB)\nconnect  URI\n");
        assert_eq!(created(&copy(), None, &look()), "created volume a-copy (512 B) from demo@s1\n");
        assert_eq!(resized(&copy(), &look()), "volume a-copy is now 512 B\n");
        assert_eq!(
            resized(&demo(), &look()),
            "volume demo is now 10.0 GiB; 1 connected client must ask for the size again to see it\n"
        );
        assert_eq!(
            delete_question(&[demo()], true),
            "Delete volume demo (10.0 GiB) with 2 snapshots? This cannot be undone."
        );
        assert_eq!(
            delete_question(&[demo(), copy()], false),
            "Delete volumes demo (10.0 GiB), a-copy (512 B)? This cannot be undone."
        );
    }
}
