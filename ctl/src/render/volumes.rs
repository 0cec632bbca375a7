//! Volumes for people.

use cairn_api::Size;
use cairn_api::attachment::{Attachment, Consumer};
use cairn_api::image::EXPORT_PREFIX;
use cairn_api::volume::{DEFAULT_PROJECT, DeleteVolumeQuery, Volume, VolumeList, VolumeStatus};
use comfy_table::Cell;

use super::{Look, Tone, attachments, count, fields, left, more, right, table, tag_lines, tags};

fn tone(status: VolumeStatus) -> Tone {
    match status {
        VolumeStatus::Available => Tone::Good,
        VolumeStatus::Maintenance | VolumeStatus::SnapshotsOnly => Tone::Warning,
        VolumeStatus::Error => Tone::Bad,
        _ => Tone::Active,
    }
}

/// What a volume is doing, and how far that is.
fn status(volume: &Volume) -> String {
    match &volume.restore {
        Some(restore) if volume.status == VolumeStatus::Restoring => {
            format!("{} {} %", volume.status.as_str(), restore.percent())
        }
        _ => volume.status.as_str().to_owned(),
    }
}

fn origin(volume: &Volume) -> Option<String> {
    if let Some(image) = &volume.image {
        return Some(format!("{EXPORT_PREFIX}{image}"));
    }
    if let Some(backup) = &volume.backup {
        return Some(format!("backup:{}", backup.get(..8).unwrap_or(backup)));
    }
    volume.origin.as_ref().map(|origin| format!("{}@{}", origin.volume, origin.snapshot))
}

/// Who uses a volume, as short as can be: `fio (4211)`, and how many more.
fn used_by(volume: &Volume) -> String {
    match &*volume.attachments {
        [] => "-".to_owned(),
        [one] => attachments::brief(&one.consumer),
        [first, rest @ ..] => format!("{}, {} more", attachments::brief(&first.consumer), rest.len()),
    }
}

fn yes(is: bool) -> Cell {
    Cell::new(if is { "yes" } else { "-" })
}

/// Volumes as a table, all or `filtered`. What says the same of all of them is left out; the pools unless there are
/// `several`.
pub(crate) fn list(list: &VolumeList, filtered: bool, several: bool, look: &Look) -> String {
    let volumes = &*list.volumes;
    if volumes.is_empty() && filtered {
        return "No volume is like that.\n".to_owned();
    }
    if volumes.is_empty() {
        return "There are no volumes. Create one: cairn volume create NAME --size 10G\n".to_owned();
    }
    let owned = volumes.iter().any(|volume| volume.project != DEFAULT_PROJECT);
    let tagged = volumes.iter().any(|volume| !volume.tags.is_empty());
    let shared = volumes.iter().any(|volume| volume.shared);
    let used = volumes.iter().any(|volume| !volume.attachments.is_empty());
    let bootable = volumes.iter().any(|volume| volume.bootable);
    let protected = volumes.iter().any(|volume| volume.write_protected);
    let cloned = volumes.iter().any(|volume| origin(volume).is_some());
    let columns = [
        (true, left("NAME")),
        (true, right("SIZE")),
        (true, right("USED")),
        (true, left("STATUS")),
        (true, left("TYPE").spare(2)),
        (several, left("POOL").spare(3)),
        (owned, left("PROJECT").spare(1)),
        (shared, left("SHARED").spare(5)),
        (bootable, left("BOOTABLE").spare(5)),
        (protected, left("PROTECTED").spare(5)),
        (used, left("USED BY")),
        (used, left("SINCE").spare(9)),
        (true, right("SNAPSHOTS").spare(4)),
        (cloned, left("ORIGIN").spare(6)),
        (true, left("CREATED").spare(7)),
        (tagged, left("TAGS").spare(8)),
    ];
    let rows = volumes.iter().map(|volume| {
        let cells = [
            Cell::new(&volume.name),
            Cell::new(Size(volume.size)),
            Cell::new(Size(volume.mapped)),
            tone(volume.status).cell(Cell::new(status(volume))),
            Cell::new(&volume.volume_type),
            Cell::new(&volume.pool),
            Cell::new(&volume.project),
            yes(volume.shared),
            yes(volume.bootable),
            yes(volume.write_protected),
            Cell::new(used_by(volume)),
            Cell::new(volume.attachments.first().map_or("-".to_owned(), |first| look.ago(first.since))),
            Cell::new(volume.snapshots),
            Cell::new(origin(volume).unwrap_or_else(|| "-".to_owned())),
            Cell::new(look.ago(volume.created)),
            Cell::new(tags(&volume.tags)),
        ];
        cells.into_iter().zip(&columns).filter(|(_, (shown, _))| *shown).map(|(cell, _)| cell).collect()
    });
    let rows = rows.collect();
    let columns: Vec<_> = columns.into_iter().filter(|(shown, _)| *shown).map(|(_, column)| column).collect();
    table(&columns, rows, look) + &more(list.next.as_deref())
}

/// One volume, a field a line; with its pool when there are `several`.
pub(crate) fn show(volume: &Volume, several: bool, uri: Option<&str>, look: &Look) -> String {
    let mut lines = vec![
        ("name", volume.name.clone()),
        ("id", volume.id.to_string()),
        ("status", look.paint(tone(volume.status), &status(volume))),
    ];
    if let Some(reason) = &volume.reason {
        lines.push(("reason", reason.clone()));
    }
    lines.extend([
        ("size", format!("{} ({} bytes)", Size(volume.size), volume.size)),
        ("used", Size(volume.mapped).to_string()),
        ("type", volume.volume_type.clone()),
    ]);
    if several {
        lines.push(("pool", volume.pool.clone()));
    }
    lines.extend([
        ("snapshots", volume.snapshots.to_string()),
        ("shared", if volume.shared { "yes" } else { "no" }.to_owned()),
    ]);
    if volume.bootable {
        lines.push(("bootable", "yes".to_owned()));
    }
    if volume.write_protected {
        lines.push(("write-protected", "yes".to_owned()));
    }
    if volume.project != DEFAULT_PROJECT {
        lines.push(("project", volume.project.clone()));
    }
    lines.extend([("clients", volume.connections.to_string())]);
    for attachment in &volume.attachments {
        lines.push(("used by", attachments::line(attachment, look)));
    }
    lines.push(("created", look.when(volume.created)));
    if let Some(origin) = origin(volume) {
        lines.push(("origin", origin));
    }
    if let Some(restore) = &volume.restore {
        let done = format!("{} of {}", Size(restore.bytes_done), Size(restore.bytes_total));
        lines.push(("restored", format!("{done} from {}", restore.repo)));
        if let Some(problem) = &restore.problem {
            lines.push(("problem", look.paint(Tone::Bad, problem)));
        }
    }
    if !volume.description.is_empty() {
        lines.push(("description", volume.description.clone()));
    }
    lines.extend(tag_lines(&volume.tags));
    for problem in &volume.problems {
        lines.push(("problem", look.paint(Tone::Warning, problem)));
    }
    if volume.checksum_errors > 0 {
        lines.push(("checksum errors", look.paint(Tone::Bad, &volume.checksum_errors.to_string())));
    }
    if let Some(uri) = uri.filter(|_| volume.status != VolumeStatus::SnapshotsOnly) {
        lines.push(("connect", uri.to_owned()));
    }
    fields(&lines, look)
}

/// What follows when a volume is there.
fn how_to_connect(uri: Option<&str>, look: &Look) -> String {
    uri.map_or_else(String::new, |uri| fields(&[("connect", uri.to_owned())], look))
}

/// After creating one.
pub(crate) fn created(volume: &Volume, uri: Option<&str>, look: &Look) -> String {
    let source = match origin(volume) {
        Some(origin) => format!(" from {origin}"),
        None => String::new(),
    };
    let text = format!("created volume {} ({}){source}\n", volume.name, Size(volume.size));
    text + &how_to_connect(uri, look)
}

/// After taking one back from the recycle bin.
pub(crate) fn recovered(volume: &Volume, uri: Option<&str>, look: &Look) -> String {
    let text = format!("volume {} ({}) is back\n", volume.name, Size(volume.size));
    text + &how_to_connect(uri, look)
}

/// After making one that serves while it is being restored.
pub(crate) fn restoring(volume: &Volume, uri: Option<&str>, look: &Look) -> String {
    let size = Size(volume.size);
    let text = format!("volume {} ({size}) serves, and is restored in the background\n", volume.name);
    text + &how_to_connect(uri, look)
}

/// After editing the one that was called `before`.
pub(crate) fn edited(volume: &Volume, before: &str) -> String {
    if volume.name != before {
        return format!("volume {before} is now called {}\n", volume.name);
    }
    format!("changed volume {}\n", volume.name)
}

/// After setting a status.
pub(crate) fn status_set(volume: &Volume) -> String {
    format!("the status of volume {} is {} now\n", volume.name, volume.status.as_str())
}

/// After giving one another type.
pub(crate) fn retyped(volume: &Volume) -> String {
    format!("volume {} is now of type {}\n", volume.name, volume.volume_type)
}

/// What to ask before growing.
pub(crate) fn resize_question(volume: &Volume, size: u64) -> String {
    let Volume { name, size: present, .. } = volume;
    format!("Grow volume {name} from {} to {}? It cannot be made smaller again.", Size(*present), Size(size))
}

/// After growing one. The kernel's devices are told by the daemon, other clients cannot be.
pub(crate) fn resized(volume: &Volume) -> String {
    let kernel = |a: &&Attachment| matches!(a.consumer, Consumer::Kernel { .. });
    let clients: Vec<_> = volume.attachments.iter().filter(|a| !kernel(a)).collect();
    let clients = match &*clients {
        [] => String::new(),
        [one] => format!("; {} must ask for the size again to see it", one.consumer),
        many => format!("; {} clients must ask for the size again to see it", many.len()),
    };
    format!("volume {} is now {}{clients}\n", volume.name, Size(volume.size))
}

/// What to ask before deleting: for good, or where there is a recycle bin into that.
pub(crate) fn delete_question(volumes: &[Volume], query: &DeleteVolumeQuery, recycle: bool) -> String {
    let names: Vec<_> = volumes.iter().map(|v| format!("{} ({})", v.name, Size(v.size))).collect();
    let snapshots: u64 = volumes.iter().map(|v| v.snapshots).sum();
    let with = match snapshots {
        n if query.snapshots && n > 0 => format!(" with {}", count(n, "snapshot")),
        n if query.keep_snapshots => format!(" and keep {}", count(n, "snapshot")),
        _ => String::new(),
    };
    let what = if volumes.len() == 1 { "volume" } else { "volumes" };
    let names = names.join(", ");
    if recycle && !query.permanent && !query.keep_snapshots {
        return format!("Put {what} {names}{with} into the recycle bin?");
    }
    format!("Delete {what} {names}{with}? This cannot be undone.")
}

#[cfg(test)]
mod tests {
    use cairn_api::tags::Tags;
    use cairn_api::volume::{SnapshotRef, VolumeRestore};

    use super::super::attachments::testing::{fio, kernel};
    use super::super::testing::{at, look, narrow};
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
            image: None,
            backup: None,
            snapshots: 2,
            status: VolumeStatus::InUse,
            reason: None,
            bootable: false,
            write_protected: false,
            project: DEFAULT_PROJECT.into(),
            tags: Tags::new(),
            restore: None,
            connections: 4,
            attachments: vec![fio()],
            shared: false,
            volume_type: "default".into(),
            problems: Vec::new(),
            pool: "main".into(),
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
            attachments: Vec::new(),
            ..demo()
        }
    }

    fn listed(volumes: &[Volume], several: bool, look: &Look) -> String {
        list(&VolumeList { volumes: volumes.to_vec(), next: None }, false, several, look)
    }

    #[test]
    fn what_has_no_effect_is_shown() {
        let odd = Volume { problems: vec!["\"qos\" cannot be read".into()], ..demo() };
        assert!(
            show(&odd, false, None, &look()).contains("\nproblem  "),
            "{}",
            show(&odd, false, None, &look())
        );
        assert!(!show(&demo(), false, None, &look()).contains("problem"));
    }

    #[test]
    fn a_list_is_a_table() {
        assert_eq!(
            listed(&[Volume { origin: None, ..copy() }], false, &narrow()),
            "\
NAME     SIZE  USED  STATUS     TYPE     SNAPSHOTS  CREATED
a-copy  512 B   0 B  available  default          0  5 minutes ago
"
        );
        let bulk = Volume { pool: "bulk".into(), volume_type: "slow".into(), shared: true, ..demo() };
        assert_eq!(
            listed(&[copy(), Volume { attachments: vec![fio(), fio()], ..bulk }], true, &look()),
            "\
NAME        SIZE     USED  STATUS     TYPE     POOL  SHARED  USED BY             SINCE        SNAPSHOTS  ORIGIN   CREATED
a-copy     512 B      0 B  available  default  main  -       -                   -                    0  demo@s1  5 minutes ago
demo    10.0 GiB  1.5 GiB  in-use     slow     bulk  yes     fio (4211), 1 more  2 hours ago          2  -        5 minutes ago
"
        );
        assert!(listed(&[], false, &look()).starts_with("There are no volumes."));
        let nothing = VolumeList { volumes: Vec::new(), next: None };
        assert_eq!(list(&nothing, true, false, &look()), "No volume is like that.\n");
    }

    #[test]
    fn what_users_say_of_volumes_is_listed_where_they_do() {
        let tags = [("env", "prod"), ("team", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let volume = Volume { tags: tags.into(), project: "shop".into(), origin: None, ..copy() };
        let page = VolumeList { volumes: vec![volume.clone()], next: Some("a-copy".into()) };
        assert_eq!(
            list(&page, false, false, &look()),
            "\
NAME     SIZE  USED  STATUS     TYPE     PROJECT  SNAPSHOTS  CREATED        TAGS
a-copy  512 B   0 B  available  default  shop             0  5 minutes ago  env=prod team
There are more: --after a-copy
"
        );
        let marked = Volume { bootable: true, write_protected: true, tags: Tags::new(), ..copy() };
        assert_eq!(
            listed(&[marked, demo()], false, &look()),
            "\
NAME        SIZE     USED  STATUS     TYPE     BOOTABLE  PROTECTED  USED BY     SINCE        SNAPSHOTS  ORIGIN   CREATED
a-copy     512 B      0 B  available  default  yes       yes        -           -                    0  demo@s1  5 minutes ago
demo    10.0 GiB  1.5 GiB  in-use     default  -         -          fio (4211)  2 hours ago          2  -        5 minutes ago
"
        );
        let reason = Some("being moved".to_owned());
        let kept = Volume {
            status: VolumeStatus::Maintenance,
            reason,
            bootable: true,
            write_protected: true,
            ..volume
        };
        let text = show(&kept, false, None, &look());
        for line in [
            "status           maintenance\nreason           being moved\n",
            "bootable         yes\nwrite-protected  yes\nproject          shop\n",
            "tag              env=prod\ntag              team\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(status_set(&kept), "the status of volume a-copy is maintenance now\n");
    }

    #[test]
    fn a_list_of_volumes_in_use_fits_a_terminal() {
        assert_eq!(
            listed(
                &[Volume { name: "db".into(), ..demo() }, Volume { name: "demo".into(), ..demo() }],
                false,
                &narrow()
            ),
            "\
NAME      SIZE     USED  STATUS  TYPE     USED BY     SNAPSHOTS  CREATED
db    10.0 GiB  1.5 GiB  in-use  default  fio (4211)          2  5 minutes ago
demo  10.0 GiB  1.5 GiB  in-use  default  fio (4211)          2  5 minutes ago
left out: SINCE (--json has all)
"
        );
    }

    #[test]
    fn one_is_its_fields() {
        let volume = Volume { description: "the first".into(), checksum_errors: 3, ..demo() };
        assert_eq!(
            show(&volume, true, Some("nbd+unix:///demo?socket=/s"), &narrow()),
            "\
name             demo
id               1
status           in-use
size             10.0 GiB (10737418240 bytes)
used             1.5 GiB
type             default
pool             main
snapshots        2
shared           no
clients          4
used by          fio (pid 4211, uid 1000), 4 connections, since 2 hours ago
created          2026-01-01 23:55:00 UTC (5 minutes ago)
description      the first
checksum errors  3
connect          nbd+unix:///demo?socket=/s
"
        );
        let text = show(&Volume { shared: true, ..copy() }, false, None, &look());
        assert!(text.contains("shared     yes\nclients    0\ncreated "), "{text}");
        assert!(!text.contains("pool"), "there is only one: {text}");
    }

    #[test]
    fn a_restore_shows_how_far_it_is_and_what_is_wrong() {
        let restore = VolumeRestore {
            repo: "file:///b".into(),
            backup: "00112233aabbccdd".into(),
            job: "restore-001122334455".into(),
            bytes_done: (10 << 30) * 379 / 1000,
            bytes_total: 10 << 30,
            problem: Some("nobody is there".into()),
        };
        let volume = Volume {
            status: VolumeStatus::Restoring,
            backup: Some(restore.backup.clone()),
            restore: Some(restore),
            attachments: Vec::new(),
            ..demo()
        };
        assert!(listed(std::slice::from_ref(&volume), false, &look()).contains("restoring 37 %"));
        let text = show(&volume, false, None, &look());
        assert!(text.contains("status     restoring 37 %\n"), "{text}");
        assert!(text.contains("restored   3.8 GiB of 10.0 GiB from file:///b\n"), "{text}");
        assert!(text.contains("problem    nobody is there\n"), "{text}");
        assert_eq!(
            restoring(&volume, Some("URI"), &look()),
            "volume demo (10.0 GiB) serves, and is restored in the background\nconnect  URI\n"
        );
        let broken = Volume { status: VolumeStatus::Error, ..volume };
        assert!(show(&broken, false, None, &look()).contains("status     error\n"));
    }

    #[test]
    fn changes_say_what_they_did() {
        assert_eq!(created(&demo(), Some("URI"), &look()), "created volume demo (10.0 GiB)\nconnect  URI\n");
        assert_eq!(created(&copy(), None, &look()), "created volume a-copy (512 B) from demo@s1\n");
        assert_eq!(edited(&demo(), "old"), "volume old is now called demo\n");
        assert_eq!(edited(&demo(), "demo"), "changed volume demo\n");
        assert_eq!(retyped(&demo()), "volume demo is now of type default\n");
        assert_eq!(
            resize_question(&demo(), 20 << 30),
            "Grow volume demo from 10.0 GiB to 20.0 GiB? It cannot be made smaller again."
        );
        assert_eq!(resized(&copy()), "volume a-copy is now 512 B\n");
        assert_eq!(
            resized(&demo()),
            "volume demo is now 10.0 GiB; fio (pid 4211, uid 1000) must ask for the size again to see it\n"
        );
        let two = Volume { attachments: vec![fio(), kernel(), fio()], ..demo() };
        assert_eq!(
            resized(&two),
            "volume demo is now 10.0 GiB; 2 clients must ask for the size again to see it\n"
        );
        assert_eq!(
            resized(&Volume { attachments: vec![kernel()], ..demo() }),
            "volume demo is now 10.0 GiB\n",
            "a device is told"
        );
        let none = DeleteVolumeQuery::default();
        assert_eq!(
            delete_question(&[demo()], &DeleteVolumeQuery { snapshots: true, ..none.clone() }, false),
            "Delete volume demo (10.0 GiB) with 2 snapshots? This cannot be undone."
        );
        assert_eq!(
            delete_question(&[demo()], &DeleteVolumeQuery { keep_snapshots: true, ..none.clone() }, true),
            "Delete volume demo (10.0 GiB) and keep 2 snapshots? This cannot be undone."
        );
        assert_eq!(
            delete_question(&[demo()], &DeleteVolumeQuery { permanent: false, ..none.clone() }, true),
            "Put volume demo (10.0 GiB) into the recycle bin?"
        );
        assert_eq!(
            delete_question(&[demo(), copy()], &none, false),
            "Delete volumes demo (10.0 GiB), a-copy (512 B)? This cannot be undone."
        );
    }
}
