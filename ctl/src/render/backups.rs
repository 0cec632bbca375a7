//! Backups for people, and as JSON: nobody but this program answers for them.

use std::collections::HashMap;

use cairn_api::Size;
use cairn_api::staging::Staged;
use cairn_backup::{Backup, BackupId, BackupKind, Listing, TreeLine};
use comfy_table::Cell;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Look, Tone, count, fields, left, or_dash, right, table};

fn created(backup: &Backup) -> Timestamp {
    // A time that makes no sense is shown as one that nobody takes for real.
    Timestamp::from_millisecond(backup.created).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn kind(backup: &Backup) -> &'static str {
    match backup.kind {
        BackupKind::Full => "full",
        BackupKind::Incremental => "incremental",
    }
}

/// One backup.
pub(crate) fn json(backup: &Backup) -> Value {
    json!({
        "id": backup.id,
        "volume": { "name": backup.volume.name, "id": backup.volume.id },
        "kind": kind(backup),
        "parent": backup.parent,
        "name": backup.labels.name,
        "description": backup.labels.description,
        "tags": backup.labels.tags,
        "created": created(backup),
        "host": backup.host,
        "size": backup.size,
        "block_size": backup.block_size,
        "data_bytes": backup.data_bytes,
        "read_bytes": backup.read_bytes,
        "added_bytes": backup.added_bytes,
        "attributes": backup.attributes,
    })
}

/// All backups.
pub(crate) fn list_json(listing: &Listing) -> Value {
    let damaged = listing.damaged.iter().map(|(id, error)| json!({ "id": id, "what": error.to_string() }));
    json!({
        "backups": listing.backups.iter().map(json).collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(),
    })
}

/// Chains.
pub(crate) fn tree_json(lines: &[TreeLine]) -> Value {
    let line = |line: &TreeLine| {
        let mut value = json(&line.backup);
        value["depth"] = line.depth.into();
        value["parent_deleted"] = line.parent_deleted.into();
        value
    };
    json!({ "backups": lines.iter().map(line).collect::<Vec<_>>() })
}

/// All backups as a table.
pub(crate) fn list(listing: &Listing, look: &Look) -> String {
    let damaged: String = listing
        .damaged
        .iter()
        .map(|(id, error)| format!("{} backup {id}: {error}\n", look.paint(Tone::Bad, "damaged:")))
        .collect();
    if listing.backups.is_empty() {
        return format!("There are no backups. Make one: cairn backup create VOL\n{damaged}");
    }
    let columns = [
        left("ID"),
        left("VOLUME"),
        left("KIND"),
        right("SIZE"),
        right("ADDED"),
        left("CREATED"),
        left("NAME"),
    ];
    let row = |backup: &Backup| {
        vec![
            Cell::new(backup.id),
            Cell::new(&backup.volume.name),
            Cell::new(kind(backup)),
            Cell::new(Size(backup.size)),
            Cell::new(Size(backup.added_bytes)),
            Cell::new(look.ago(created(backup))),
            Cell::new(or_dash(&backup.labels.name)),
        ]
    };
    table(&columns, listing.backups.iter().map(row).collect(), look) + &damaged
}

/// One backup, a field a line.
pub(crate) fn show(backup: &Backup, look: &Look) -> String {
    let bytes = |bytes: u64| format!("{} ({bytes} bytes)", Size(bytes));
    let mut lines = vec![
        ("id", backup.id.to_string()),
        ("volume", backup.volume.name.clone()),
        ("volume id", backup.volume.id.clone()),
        ("kind", kind(backup).to_owned()),
        ("created", look.when(created(backup))),
        ("host", or_dash(&backup.host).to_owned()),
        ("size", bytes(backup.size)),
        ("data", bytes(backup.data_bytes)),
        ("read", bytes(backup.read_bytes)),
        ("added", bytes(backup.added_bytes)),
    ];
    if let Some(parent) = backup.parent {
        lines.insert(4, ("follows", parent.to_string()));
    }
    for (name, text) in [("name", &backup.labels.name), ("description", &backup.labels.description)] {
        if !text.is_empty() {
            lines.push((name, text.clone()));
        }
    }
    lines.extend(backup.labels.tags.iter().map(|(key, value)| ("tag", format!("{key}={value}"))));
    lines.extend(backup.attributes.iter().map(|(key, value)| ("attribute", format!("{key}={value}"))));
    fields(&lines, look)
}

/// Chains: of each volume the full backups, and below each what is incremental to it. A chain goes straight down; where
/// several follow one backup, all but the last stand to the right.
///
/// ```text
/// db
/// ● 0123456789abcdef  full          10.0 GiB  3 days ago  nightly
/// ├─○ 2222222222222222  incremental  1.0 MiB  1 day ago
/// ○ 1111111111111111  incremental   12.0 MiB  2 days ago
/// ```
pub(crate) fn tree(lines: &[TreeLine], look: &Look) -> String {
    if lines.is_empty() {
        return "There are no backups. Make one: cairn backup create VOL\n".to_owned();
    }
    let mut children: HashMap<BackupId, usize> = HashMap::new();
    for line in lines.iter().filter(|line| line.depth > 0) {
        *children.entry(line.backup.parent.unwrap_or(line.backup.id)).or_default() += 1;
    }
    let (mut columns, mut volume) = (HashMap::new(), None);
    let mut graph = Vec::new();
    for TreeLine { backup, depth, .. } in lines {
        let parent = backup.parent.filter(|_| *depth > 0);
        let mut column: usize = parent.and_then(|parent| columns.get(&parent).copied()).unwrap_or(0);
        let mut first = false;
        if let Some(left) = parent.and_then(|parent| children.get_mut(&parent)) {
            *left -= 1;
            // Others follow below at the parent's own column.
            first = *left > 0;
            column += usize::from(first);
        }
        columns.insert(backup.id, column);
        graph.push(branch(column, first, backup.kind, look));
    }
    let width = graph.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (line, graph) in lines.iter().zip(graph) {
        let backup = &line.backup;
        if volume != Some(&backup.volume.id) {
            volume = Some(&backup.volume.id);
            text.push_str(&format!("{}\n", look.paint(Tone::Strong, &backup.volume.name)));
        }
        let gap = " ".repeat(width - graph.chars().count());
        let size = Size(backup.added_bytes);
        let ago = look.ago(created(backup));
        let gone = if line.parent_deleted { "  (what it follows is deleted)" } else { "" };
        let row = format!(
            "{graph}{gap} {}  {:<11}  {size:>9}  {ago}  {}{gone}",
            backup.id,
            kind(backup),
            backup.labels.name
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn branch(column: usize, first: bool, kind: BackupKind, look: &Look) -> String {
    let (beside, join, full, incremental) =
        if look.unicode { ("│ ", "├─", "●", "○") } else { ("| ", "|-", "*", "o") };
    let dot = if kind == BackupKind::Full { full } else { incremental };
    if first {
        format!("{}{join}{dot}", beside.repeat(column - 1))
    } else {
        format!("{}{dot}", beside.repeat(column))
    }
}

/// After making one.
pub(crate) fn made(backup: &Backup, why_full: Option<&str>) -> String {
    let why = why_full.map(|why| format!(" ({why})")).unwrap_or_default();
    let (read, added) = (Size(backup.read_bytes), Size(backup.added_bytes));
    let (kind, id, volume) = (kind(backup), backup.id, &backup.volume.name);
    format!("made {kind} backup {id} of {volume}{why}: {read} read, {added} added\n")
}

/// Before deleting some.
pub(crate) fn delete_question(ids: &[BackupId]) -> String {
    let ids: Vec<_> = ids.iter().map(BackupId::to_string).collect();
    format!("Delete {} {}?", if ids.len() == 1 { "backup" } else { "backups" }, ids.join(", "))
}

/// After it.
pub(crate) fn deleted(ids: &[BackupId]) -> String {
    ids.iter().map(|id| format!("deleted backup {id}\n")).collect()
}

/// After restoring one.
pub(crate) fn restored(backup: &Backup, to: &str) -> String {
    let of = &backup.volume.name;
    format!("restored backup {} of {of} ({}) to {to}\n", backup.id, Size(backup.size))
}

/// Before replacing what a volume holds.
pub(crate) fn over_question(backup: &Backup, volume: &str) -> String {
    let Backup { id, volume: of, .. } = backup;
    format!(
        "Replace what volume {volume} holds by backup {id} of {}? What it holds now stays as a snapshot.",
        of.name
    )
}

/// After restoring to a volume.
pub(crate) fn restored_volume(backup: &Backup, staged: &Staged) -> String {
    let Staged { volume, undo } = staged;
    let mut text = restored(backup, &format!("volume {}", volume.name));
    if let Some(undo) = undo {
        text += &format!("what it held before: {}@{}\n", undo.volume, undo.name);
    }
    text
}

/// `1 backup`, `2 backups`.
pub(super) fn backups(number: u64) -> String {
    count(number, "backup")
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use bytes::Bytes;
    use cairn_backup::{BackupRequest, Extents, OpenOptions, Repository, Source, VolumeRef, memory};
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::render::testing::{at, look, narrow};

    /// A volume of zeroes.
    struct Empty;

    impl Source for Empty {
        fn size(&self) -> u64 {
            10 << 30
        }

        fn extents(&self, _: Extents, _: Range<u64>) -> BoxFuture<'_, std::io::Result<Vec<Range<u64>>>> {
            async { Ok(Vec::new()) }.boxed()
        }

        fn read(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, std::io::Result<Bytes>> {
            let len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            async move { Ok(Bytes::from(vec![0; len as usize])) }.boxed()
        }
    }

    /// Backups on following days, each incremental to the one with the index given.
    fn repository_with(bases: &[Option<usize>]) -> (Listing, Vec<TreeLine>, Vec<BackupId>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let options = OpenOptions::default();
            let repository = Repository::init_on(memory(), options, 1 << 18).await.expect("a repository");
            let mut ids = Vec::new();
            for (day, base) in bases.iter().enumerate() {
                let volume = VolumeRef { name: "database".into(), id: "pool/1".into() };
                let mut request = BackupRequest::new(volume);
                request.created = at("2025-12-20T00:00:00Z").as_millisecond() + day as i64 * 86_400_000;
                request.base = base.map(|base| ids[base]);
                request.labels.name = if day == 0 { "first".into() } else { String::new() };
                ids.push(repository.backup(Arc::new(Empty), request).await.expect("a backup").id);
            }
            let listing = repository.list().await.expect("a list");
            (listing, repository.tree().await.expect("a tree"), ids)
        })
    }

    #[test]
    fn lists_fit_80_columns() {
        let (listing, _, ids) = repository_with(&[None, Some(0)]);
        let text = list(&listing, &narrow());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert!(lines[0].starts_with("ID                VOLUME    KIND"), "{text}");
        assert!(lines[1].starts_with(&ids[1].to_string()) && lines[1].contains("incremental"), "{text}");
        assert!(lines[2].ends_with("first"), "{text}");
        assert!(list(&Listing { backups: vec![], damaged: vec![] }, &look()).contains("backup create"));
    }

    #[test]
    fn chains_go_straight_down_and_branches_to_the_right() {
        let (_, lines, ids) = repository_with(&[None, Some(0), Some(1), Some(0), None]);
        let text = tree(&lines, &look());
        let graph: Vec<_> =
            text.lines().map(|line| line.split_once("  ").map_or(line, |(graph, _)| graph)).collect();
        let expected = [
            "database".to_owned(),
            format!("●   {}", ids[4]),
            format!("●   {}", ids[0]),
            format!("├─○ {}", ids[1]),
            format!("│ ○ {}", ids[2]),
            format!("○   {}", ids[3]),
        ];
        for id in &ids {
            assert!(text.contains(&id.to_string()), "{text}");
        }
        assert_eq!(graph.len(), expected.len(), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("├─○")).count(), 1, "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("│ ○")).count(), 1, "{text}");
        assert!(tree(&lines, &Look { unicode: false, ..look() }).is_ascii());
    }

    #[test]
    fn json_has_what_scripts_need() {
        let (listing, lines, ids) = repository_with(&[None, Some(0)]);
        let value = list_json(&listing);
        assert_eq!(value["backups"][0]["id"], ids[1].to_string());
        assert_eq!(value["backups"][0]["parent"], ids[0].to_string());
        assert_eq!(value["backups"][1]["kind"], "full");
        assert_eq!(value["backups"][1]["created"], "2025-12-20T00:00:00Z");
        assert_eq!(tree_json(&lines)["backups"][1]["depth"], 1);
        assert!(show(&listing.backups[0], &look()).contains(&format!("follows    {}", ids[0])));
    }
}
