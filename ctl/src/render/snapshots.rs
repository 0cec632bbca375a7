//! Snapshots for people.

use cairn_api::Size;
use cairn_api::snapshot::{Diff, ExtentKind, RolledBack, Snapshot, SnapshotList, SnapshotStatus};
use comfy_table::Cell;

use super::{Look, Tone, count, fields, left, more, right, table, tag_lines, tags};

fn tone(status: SnapshotStatus) -> Tone {
    match status {
        SnapshotStatus::Available => Tone::Good,
        SnapshotStatus::InUse | SnapshotStatus::BackingUp => Tone::Active,
        SnapshotStatus::Error => Tone::Bad,
    }
}

fn made_by(snapshot: &Snapshot) -> &'static str {
    if snapshot.automatic { "automatic" } else { "manual" }
}

/// Some snapshots as a table, all or `filtered`; with their descriptions, tags and holds when one has some.
pub(crate) fn list(list: &SnapshotList, filtered: bool, look: &Look) -> String {
    let snapshots = &*list.snapshots;
    if snapshots.is_empty() && filtered {
        return "No snapshot is like that.\n".to_owned();
    }
    if snapshots.is_empty() {
        return "There are no snapshots. Take one: cairn snapshot create VOL NAME\n".to_owned();
    }
    let described = snapshots.iter().any(|snapshot| !snapshot.description.is_empty());
    let tagged = snapshots.iter().any(|snapshot| !snapshot.tags.is_empty());
    let held = snapshots.iter().any(|snapshot| !snapshot.holds.is_empty());
    let mut columns = vec![
        left("VOLUME"),
        left("NAME"),
        right("SIZE"),
        right("USED"),
        left("STATUS"),
        left("MADE").spare(1),
        right("CHILDREN").spare(3),
        right("CLIENTS").spare(4),
        left("CREATED").spare(2),
    ];
    if held {
        columns.push(left("HELD BY"));
    }
    if tagged {
        columns.push(left("TAGS").spare(5));
    }
    if described {
        columns.push(left("DESCRIPTION").spare(6));
    }
    let rows = snapshots.iter().map(|snapshot| {
        let mut row = vec![
            Cell::new(&snapshot.volume),
            Cell::new(&snapshot.name),
            Cell::new(Size(snapshot.size)),
            Cell::new(Size(snapshot.mapped)),
            tone(snapshot.status).cell(Cell::new(snapshot.status.as_str())),
            Cell::new(made_by(snapshot)),
            Cell::new(snapshot.children),
            Cell::new(snapshot.connections),
            Cell::new(look.ago(snapshot.created)),
        ];
        if held {
            let names: Vec<_> = snapshot.holds.iter().map(|hold| hold.name.as_str()).collect();
            row.push(Cell::new(names.join(" ")));
        }
        if tagged {
            row.push(Cell::new(tags(&snapshot.tags)));
        }
        if described {
            row.push(Cell::new(&snapshot.description));
        }
        row
    });
    table(&columns, rows.collect(), look) + &more(list.next.as_deref())
}

/// One snapshot, a field a line.
pub(crate) fn show(snapshot: &Snapshot, uri: Option<&str>, look: &Look) -> String {
    let mut lines = vec![
        ("volume", snapshot.volume.clone()),
        ("name", snapshot.name.clone()),
        ("id", snapshot.id.to_string()),
        ("status", look.paint(tone(snapshot.status), snapshot.status.as_str())),
    ];
    if let Some(reason) = &snapshot.reason {
        lines.push(("reason", reason.clone()));
    }
    lines.extend([
        ("size", format!("{} ({} bytes)", Size(snapshot.size), snapshot.size)),
        ("used", Size(snapshot.mapped).to_string()),
        ("made", made_by(snapshot).to_owned()),
        ("children", snapshot.children.to_string()),
        ("clients", snapshot.connections.to_string()),
        ("created", look.when(snapshot.created)),
    ]);
    if !snapshot.description.is_empty() {
        lines.push(("description", snapshot.description.clone()));
    }
    lines.extend(tag_lines(&snapshot.tags));
    for hold in &snapshot.holds {
        let reason = if hold.reason.is_empty() { String::new() } else { format!(" ({})", hold.reason) };
        lines.push(("held by", format!("{}{reason}, since {}", hold.name, look.ago(hold.since))));
    }
    if let Some(uri) = uri {
        lines.push(("connect", uri.to_owned()));
    }
    fields(&lines, look)
}

/// After taking one.
pub(crate) fn created(snapshot: &Snapshot) -> String {
    format!("created snapshot {}@{} ({})\n", snapshot.volume, snapshot.name, Size(snapshot.size))
}

/// After setting its status.
pub(crate) fn status_set(snapshot: &Snapshot) -> String {
    let Snapshot { volume, name, status, .. } = snapshot;
    format!("the status of snapshot {volume}@{name} is {} now\n", status.as_str())
}

/// After editing the one that was called `before`.
pub(crate) fn edited(snapshot: &Snapshot, before: &str) -> String {
    let Snapshot { volume, name, .. } = snapshot;
    if name != before {
        return format!("snapshot {volume}@{before} is now called {volume}@{name}\n");
    }
    format!("changed snapshot {volume}@{name}\n")
}

/// After holding one.
pub(crate) fn held(snapshot: &Snapshot) -> String {
    let Snapshot { volume, name, holds, .. } = snapshot;
    format!("snapshot {volume}@{name} cannot be deleted: {}\n", count(holds.len() as u64, "hold"))
}

/// After taking a hold away.
pub(crate) fn released(snapshot: &Snapshot) -> String {
    let Snapshot { volume, name, holds, .. } = snapshot;
    match holds.len() as u64 {
        0 => format!("snapshot {volume}@{name} can be deleted\n"),
        left => format!("snapshot {volume}@{name} still cannot be deleted: {}\n", count(left, "hold")),
    }
}

/// What to ask before rolling back.
pub(crate) fn rollback_question(volume: &str, name: &str) -> String {
    format!("Roll volume {volume} back to {volume}@{name}? What it holds now is kept as a snapshot.")
}

/// After rolling back.
pub(crate) fn rolled_back(done: &RolledBack, name: &str) -> String {
    let volume = &done.volume.name;
    let undo = &done.undo.name;
    format!(
        "rolled volume {volume} back to {volume}@{name}\n\
         what it held is kept as {volume}@{undo}; to undo: cairn snapshot rollback {volume} {undo}\n"
    )
}

/// The ranges that differ, and how much that is.
pub(crate) fn diff(diff: &Diff, look: &Look) -> String {
    let from = format!("{}@{}", diff.volume, diff.from);
    let of = diff.to_volume.as_ref().unwrap_or(&diff.volume);
    let to = match &diff.to {
        Some(to) => format!("{of}@{to}"),
        None => of.clone(),
    };
    if diff.extents.is_empty() {
        return format!("{from} and {to} hold the same\n");
    }
    let rows = diff.extents.iter().map(|extent| {
        let kind = match extent.kind {
            ExtentKind::Hole => "hole",
            ExtentKind::Zero => "zero",
            ExtentKind::Data => "data",
        };
        vec![Cell::new(extent.offset), Cell::new(extent.len), Cell::new(Size(extent.len)), Cell::new(kind)]
    });
    let columns = [right("OFFSET"), right("LENGTH"), right(""), left("NOW")];
    let ranges = count(diff.extents.len() as u64, "range");
    format!(
        "{}{} in {ranges} changed from {from} to {to}\n",
        table(&columns, rows.collect(), look),
        Size(diff.changed)
    )
}

#[cfg(test)]
mod tests {
    use cairn_api::snapshot::{DiffExtent, Hold};
    use cairn_api::tags::Tags;

    use super::super::testing::{at, look};
    use super::*;

    fn snapshot(name: &str) -> Snapshot {
        Snapshot {
            volume: "demo".into(),
            name: name.into(),
            id: 2,
            size: 10 << 30,
            mapped: 4096,
            created: at("2026-01-01T22:00:00Z"),
            description: String::new(),
            automatic: false,
            children: 1,
            connections: 0,
            status: SnapshotStatus::Available,
            reason: None,
            project: "default".into(),
            tags: Tags::new(),
            holds: Vec::new(),
        }
    }

    fn listed(snapshots: &[Snapshot]) -> String {
        list(&SnapshotList { snapshots: snapshots.to_vec(), next: None }, false, &look())
    }

    #[test]
    fn tags_and_holds_are_shown_where_there_are_some() {
        let hold = |name: &str, reason: &str| Hold {
            name: name.into(),
            reason: reason.into(),
            since: at("2026-01-01T23:00:00Z"),
        };
        let held = Snapshot {
            tags: Tags::from([("release".into(), "1.0".into())]),
            holds: vec![hold("audit", "until May"), hold("legal", "")],
            ..snapshot("s1")
        };
        assert_eq!(
            listed(&[held.clone(), snapshot("s2")]),
            "\
VOLUME  NAME      SIZE     USED  STATUS     MADE    CHILDREN  CLIENTS  CREATED      HELD BY      TAGS
demo    s1    10.0 GiB  4.0 KiB  available  manual         1        0  2 hours ago  audit legal  release=1.0
demo    s2    10.0 GiB  4.0 KiB  available  manual         1        0  2 hours ago
"
        );
        let text = show(&held, None, &look());
        assert!(
            text.contains(
                "tag       release=1.0\nheld by   audit (until May), since 1 hour ago\nheld by   legal, since"
            ),
            "{text}"
        );
        assert_eq!(super::held(&held), "snapshot demo@s1 cannot be deleted: 2 holds\n");
        let one = Snapshot { holds: vec![hold("legal", "")], ..held };
        assert_eq!(released(&one), "snapshot demo@s1 still cannot be deleted: 1 hold\n");
        assert_eq!(released(&snapshot("s1")), "snapshot demo@s1 can be deleted\n");
        assert_eq!(edited(&one, "s1"), "changed snapshot demo@s1\n");
        assert_eq!(edited(&one, "s0"), "snapshot demo@s0 is now called demo@s1\n");
    }

    #[test]
    fn a_list_is_a_table() {
        let automatic = Snapshot { automatic: true, ..snapshot("undo") };
        assert_eq!(
            listed(&[snapshot("s1"), automatic]),
            "\
VOLUME  NAME      SIZE     USED  STATUS     MADE       CHILDREN  CLIENTS  CREATED
demo    s1    10.0 GiB  4.0 KiB  available  manual            1        0  2 hours ago
demo    undo  10.0 GiB  4.0 KiB  available  automatic         1        0  2 hours ago
"
        );
        let described = Snapshot { description: "kept for audit".into(), ..snapshot("s1") };
        let text = listed(&[described, snapshot("s2")]);
        assert!(text.lines().next().is_some_and(|line| line.ends_with("CREATED      DESCRIPTION")), "{text}");
        assert!(text.contains("2 hours ago  kept for audit\n"), "{text}");
        assert!(listed(&[]).starts_with("There are no snapshots."));
        let nothing = SnapshotList { snapshots: Vec::new(), next: None };
        assert_eq!(list(&nothing, true, &look()), "No snapshot is like that.\n");
    }

    #[test]
    fn one_is_its_fields() {
        assert_eq!(
            show(&snapshot("s1"), Some("URI"), &look()),
            "\
volume    demo
name      s1
id        2
status    available
size      10.0 GiB (10737418240 bytes)
used      4.0 KiB
made      manual
children  1
clients   0
created   2026-01-01 22:00:00 UTC (2 hours ago)
connect   URI
"
        );
    }

    #[test]
    fn a_difference_is_its_ranges_and_their_sum() {
        let extents = vec![
            DiffExtent { offset: 0, len: 4096, kind: ExtentKind::Hole },
            DiffExtent { offset: 8 << 20, len: 1 << 20, kind: ExtentKind::Data },
        ];
        let mut difference = Diff {
            volume: "demo".into(),
            from: "s1".into(),
            to_volume: None,
            to: None,
            changed: (1 << 20) + 4096,
            extents,
            next: None,
        };
        assert_eq!(
            diff(&difference, &look()),
            "
 OFFSET   LENGTH           NOW
      0     4096  4.0 KiB  hole
8388608  1048576  1.0 MiB  data
1.0 MiB in 2 ranges changed from demo@s1 to demo
"
            .trim_start_matches('\n')
        );
        difference.extents.clear();
        difference.to = Some("s2".into());
        assert_eq!(diff(&difference, &look()), "demo@s1 and demo@s2 hold the same\n");
    }
}
