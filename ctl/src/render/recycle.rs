//! The recycle bin for people.

use cairn_api::Size;
use cairn_api::recycle::{RecycleBin, Recycled};
use cairn_api::report::count;
use comfy_table::Cell;

use super::{Look, left, right, table};

/// A time that was chosen in days, hours or minutes.
fn time(seconds: u64) -> String {
    match seconds {
        s if s.is_multiple_of(86_400) => count(s / 86_400, "day"),
        s if s.is_multiple_of(3600) => count(s / 3600, "hour"),
        s => count(s / 60, "minute"),
    }
}

/// What was deleted and can still be had back.
pub(crate) fn list(bin: &RecycleBin, look: &Look) -> String {
    if bin.keep_seconds == 0 {
        return "There is no recycle bin. To keep deleted volumes: cairn recycle-bin set 7d\n".to_owned();
    }
    if bin.volumes.is_empty() {
        return format!(
            "The recycle bin is empty; deleted volumes are kept for {}.\n",
            time(bin.keep_seconds)
        );
    }
    let columns = [
        left("NAME"),
        left("ID").spare(2),
        right("SIZE"),
        right("USED"),
        right("SNAPSHOTS").spare(1),
        left("DELETED"),
        left("EXPIRES"),
    ];
    let rows = bin.volumes.iter().map(|volume| {
        vec![
            Cell::new(&volume.name),
            Cell::new(&volume.id),
            Cell::new(Size(volume.size)),
            Cell::new(Size(volume.mapped)),
            Cell::new(volume.snapshots),
            Cell::new(look.ago(volume.deleted)),
            Cell::new(look.date(volume.expires, "%Y-%m-%d %H:%M")),
        ]
    });
    table(&columns, rows.collect(), look)
}

/// After setting how long volumes are kept.
pub(crate) fn set(bin: &RecycleBin) -> String {
    match bin.keep_seconds {
        0 => "deleted volumes are gone at once\n".to_owned(),
        seconds => format!("deleted volumes are kept for {}\n", time(seconds)),
    }
}

/// What to ask before deleting for good.
pub(crate) fn purge_question(volumes: &[Recycled]) -> String {
    let names: Vec<_> = volumes.iter().map(|v| format!("{} ({})", v.name, Size(v.size))).collect();
    format!("Delete {} for good? This cannot be undone.", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, look};
    use super::*;

    #[test]
    fn a_bin_is_a_table() {
        let demo = Recycled {
            id: "recycled-7".into(),
            name: "demo".into(),
            size: 10 << 30,
            mapped: 1536 << 20,
            snapshots: 2,
            pool: "main".into(),
            project: "default".into(),
            tags: [].into(),
            deleted: at("2026-01-01T23:55:00Z"),
            expires: at("2026-01-08T23:55:00Z"),
        };
        let bin = |keep_seconds, volumes: &[Recycled]| RecycleBin { keep_seconds, volumes: volumes.to_vec() };
        assert_eq!(
            list(&bin(7 * 86_400, std::slice::from_ref(&demo)), &look()),
            "\
NAME  ID             SIZE     USED  SNAPSHOTS  DELETED        EXPIRES
demo  recycled-7  10.0 GiB  1.5 GiB          2  5 minutes ago  2026-01-08 23:55
"
            .replace("ID             SIZE", "ID              SIZE")
        );
        assert_eq!(
            list(&bin(3600, &[]), &look()),
            "The recycle bin is empty; deleted volumes are kept for 1 hour.\n"
        );
        assert!(list(&bin(0, &[]), &look()).starts_with("There is no recycle bin."));
        assert_eq!(set(&bin(90 * 60, &[])), "deleted volumes are kept for 90 minutes\n");
        assert_eq!(set(&bin(0, &[])), "deleted volumes are gone at once\n");
        assert_eq!(purge_question(&[demo]), "Delete demo (10.0 GiB) for good? This cannot be undone.");
    }
}
