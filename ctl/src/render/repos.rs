//! Repositories for people, and as JSON.

use std::collections::HashMap;
use std::path::Path;

use cairn_api::Size;
use cairn_backup::{Backup, BackupId, GcReport, Location, RepoId, Status, Verdict, VerifyReport};
use comfy_table::Cell;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::backups::backups as of_backups;
use super::{Look, Tone, count, fields, left, or_dash, table};

/// After making one.
pub(crate) fn made(location: &Location, id: RepoId, encrypted: bool, key: Option<&Path>) -> String {
    let kind = if encrypted { "encrypted repository" } else { "repository" };
    let mut text = format!("made {kind} {id} at {location}\n");
    if let Some(key) = key {
        let key = key.display();
        text.push_str(&format!(
            "its key is in {key}: without it nobody can read the backups, so keep a copy\n"
        ));
    }
    text
}

fn when(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What a repository is and holds.
pub(crate) fn status_json(location: &Location, status: &Status) -> Value {
    json!({
        "url": location.to_string(),
        "id": status.id.to_string(),
        "format_version": status.format_version,
        "encrypted": status.encrypted,
        "read_only": status.read_only,
        "chunk_size": status.chunk_size,
        "created": when(status.created),
        "backups": status.backups,
        "damaged_backups": status.damaged_backups,
        "volumes": status.volumes,
        "data_bytes": status.data_bytes,
        "packs": status.packs,
        "stored_bytes": status.stored_bytes,
        "condemned_packs": status.condemned_packs,
        "condemned_bytes": status.condemned_bytes,
        "writers": status.writers,
        "holds": status.holds,
        "damaged_objects": status.damaged_objects,
    })
}

/// The same, a field a line.
pub(crate) fn status(location: &Location, status: &Status, look: &Look) -> String {
    let mut lines = vec![
        ("url", location.to_string()),
        ("id", status.id.to_string()),
        ("format", format!("version {}", status.format_version)),
        ("encrypted", if status.encrypted { "yes" } else { "no" }.to_owned()),
        ("created", look.when(when(status.created))),
        ("backups", format!("{} of {}", status.backups, count(status.volumes, "volume"))),
        ("data", format!("{} in all backups, each as if it were alone", Size(status.data_bytes))),
        ("stored", format!("{} in {}", Size(status.stored_bytes), count(status.packs, "pack"))),
    ];
    if status.condemned_packs > 0 {
        let (bytes, packs) = (Size(status.condemned_bytes), count(status.condemned_packs, "pack"));
        lines.push(("to be deleted", format!("{bytes} in {packs}, by a later gc")));
    }
    if status.writers > 0 {
        lines.push(("at work", count(status.writers, "backup")));
    }
    if status.holds > 0 {
        lines.push(("being restored", count(status.holds, "volume")));
    }
    if status.read_only {
        lines.push(("writable", "no: a newer cairn has written to it".to_owned()));
    }
    let damaged = status.damaged_backups + status.damaged_objects;
    if damaged > 0 {
        let text = format!("{}: run cairn repo verify", count(damaged, "object"));
        lines.push(("damaged", look.paint(Tone::Bad, &text)));
    }
    fields(&lines, look)
}

/// What verifying found.
pub(crate) fn verified_json(report: &VerifyReport) -> Value {
    let problem = |problem: &cairn_backup::Problem| json!({ "object": problem.object, "what": problem.what, "backups": problem.backups });
    json!({
        "clean": report.is_clean(),
        "backups": report.backups,
        "packs": report.packs,
        "blobs": report.blobs,
        "bytes_read": report.bytes_read,
        "condemned": report.condemned,
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}

/// The same for people.
pub(crate) fn verified(report: &VerifyReport, read_data: bool, look: &Look) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let hurt: Vec<_> = problem.backups.iter().map(BackupId::to_string).collect();
        let hurt = if hurt.is_empty() {
            "hurts no backup".to_owned()
        } else {
            format!("hurts backup {}", hurt.join(", "))
        };
        text.push_str(&format!(
            "{} {}: {}; {hurt}\n",
            look.paint(Tone::Bad, "damaged:"),
            problem.object,
            problem.what
        ));
    }
    let read = if read_data { format!(", {} read", Size(report.bytes_read)) } else { String::new() };
    let counts = format!(
        "{}, {}, {}{read}",
        of_backups(report.backups),
        count(report.packs, "pack"),
        count(report.blobs, "blob")
    );
    let problems = report.problems.len() as u64;
    text.push_str(&if report.is_clean() {
        format!("{}: {counts}\n", look.paint(Tone::Good, "all is well"))
    } else {
        format!("{}: {counts}\n", look.paint(Tone::Bad, &count(problems, "problem")))
    });
    if report.condemned > 0 {
        let packs = count(report.condemned, "pack");
        text.push_str(&format!(
            "{packs} set aside: the next full backup stores again what its volume still has\n"
        ));
    }
    text
}

/// What becomes of backups.
pub(crate) fn verdicts_json(verdicts: &[Verdict], dry_run: bool) -> Value {
    let verdict = |v: &Verdict| json!({ "id": v.backup, "kept_by": v.kept_by });
    let deleted = verdicts.iter().filter(|v| v.kept_by.is_empty()).count();
    json!({
        "dry_run": dry_run,
        "deleted": deleted,
        "backups": verdicts.iter().map(verdict).collect::<Vec<_>>(),
    })
}

/// The same as a table.
pub(crate) fn verdicts(verdicts: &[Verdict], backups: &HashMap<BackupId, &Backup>, look: &Look) -> String {
    if verdicts.is_empty() {
        return String::new();
    }
    let columns = [left("ID"), left("VOLUME"), left("CREATED"), left("NAME"), left("KEPT BY")];
    let rows = verdicts.iter().filter_map(|verdict| {
        let backup = backups.get(&verdict.backup)?;
        let fate = if verdict.kept_by.is_empty() {
            Tone::Warning.cell(Cell::new("- (goes)"))
        } else {
            Cell::new(verdict.kept_by.join(", "))
        };
        Some(vec![
            Cell::new(verdict.backup),
            Cell::new(&backup.volume.name),
            Cell::new(look.ago(when(backup.created))),
            Cell::new(or_dash(&backup.labels.name)),
            fate,
        ])
    });
    table(&columns, rows.collect(), look)
}

/// Before pruning.
pub(crate) fn prune_question(number: usize) -> String {
    format!("Delete {}?", of_backups(number as u64))
}

/// After it.
pub(crate) fn pruned(number: usize, dry_run: bool) -> String {
    let backups = of_backups(number as u64);
    match (number, dry_run) {
        (0, _) => "nothing to delete\n".to_owned(),
        (_, true) => format!("{backups} would be deleted\n"),
        (_, false) => format!("deleted {backups}; cairn repo gc gives their space back\n"),
    }
}

/// What a collection did.
pub(crate) fn collected_json(report: &GcReport) -> Value {
    json!({
        "packs": report.packs,
        "bytes": report.bytes,
        "needed_bytes": report.needed_bytes,
        "condemned": report.condemned,
        "rewritten": report.rewritten,
        "deleted": report.deleted,
        "freed_bytes": report.freed_bytes,
        "waiting": report.waiting,
        "kept_damaged": report.kept_damaged,
        "leftovers": report.leftovers,
        "indexes_merged": report.indexes_merged,
        "damage": report.damage,
    })
}

/// The same for people.
pub(crate) fn collected(report: &GcReport, dry_run: bool) -> String {
    let packs = |number| count(number, "pack");
    let would = if dry_run { "would be " } else { "" };
    let mut text = format!(
        "{} in {}, of which backups need {}\n",
        Size(report.bytes),
        packs(report.packs),
        Size(report.needed_bytes)
    );
    for (number, what) in [
        (
            report.condemned,
            "condemned: a collection an hour from now or later deletes them, one with --now at once",
        ),
        (report.rewritten, "rewritten"),
        (report.waiting, "waiting to be deleted by a later collection"),
        (report.kept_damaged, "kept: they hold the only copy of something that is damaged"),
    ] {
        if number > 0 {
            text.push_str(&format!("{} {would}{what}\n", packs(number)));
        }
    }
    text.push_str(&format!(
        "{} {would}deleted, {} {would}freed\n",
        packs(report.deleted),
        Size(report.freed_bytes)
    ));
    for damage in &report.damage {
        text.push_str(&format!("damaged: {damage}; run cairn repo verify\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::testing::look;

    #[test]
    fn problems_name_the_backups_they_hurt() {
        let clean = VerifyReport { backups: 2, packs: 1, blobs: 5, ..VerifyReport::default() };
        assert_eq!(verified(&clean, false, &look()), "all is well: 2 backups, 1 pack, 5 blobs\n");
        let id: BackupId = "0123456789abcdef".parse().expect("an id");
        let problem = cairn_backup::Problem {
            object: "packs/ab/cd".into(),
            what: "it does not match".into(),
            backups: vec![id],
        };
        let hurt = VerifyReport { problems: vec![problem], condemned: 1, ..clean };
        let text = verified(&hurt, true, &look());
        assert!(
            text.starts_with("damaged: packs/ab/cd: it does not match; hurts backup 0123456789abcdef\n"),
            "{text}"
        );
        assert!(text.contains("1 problem: 2 backups"), "{text}");
        assert_eq!(verified_json(&hurt)["problems"][0]["backups"][0], "0123456789abcdef");
    }

    #[test]
    fn what_would_be_done_is_not_said_as_done() {
        assert_eq!(pruned(0, false), "nothing to delete\n");
        assert_eq!(pruned(2, true), "2 backups would be deleted\n");
        assert!(pruned(1, false).starts_with("deleted 1 backup;"));
        let report = GcReport { packs: 3, condemned: 1, deleted: 2, ..GcReport::default() };
        let text = collected(&report, true);
        assert!(
            text.contains("1 pack would be condemned") && text.contains("2 packs would be deleted"),
            "{text}"
        );
        assert!(!collected(&report, false).contains("would"));
    }
}
