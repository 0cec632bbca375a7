//! The pool for people.

use cairn_api::Size;
use cairn_api::pool::{CheckReport, PoolStatus};

use super::{Look, Tone, count, fields};

/// The share of `whole` that `part` is, in percent with one decimal.
fn percent(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// The pool's figures, one a line, the worrying ones first where there are any.
pub(crate) fn status(status: &PoolStatus, look: &Look) -> String {
    let mut lines = Vec::new();
    if let Some(why) = &status.fenced {
        lines.push(("state", look.paint(Tone::Bad, &format!("refuses writes: {why}"))));
    } else if status.checksum_errors > 0 {
        let errors = count(status.checksum_errors, "checksum error");
        lines.push(("state", look.paint(Tone::Bad, &format!("{errors} since the daemon started"))));
    } else {
        lines.push(("state", look.paint(Tone::Good, "healthy")));
    }
    lines.extend([
        ("path", status.path.clone()),
        ("id", status.id.clone()),
        ("format", status.format.to_string()),
        ("used", format!("{} ({} of the limit)", Size(status.used), percent(status.used, status.limit))),
        ("free", Size(status.free).to_string()),
        ("size", Size(status.size).to_string()),
        ("limit", Size(status.limit).to_string()),
        ("reserve", Size(status.reserve).to_string()),
        ("volumes", status.volumes.to_string()),
        ("snapshots", status.snapshots.to_string()),
    ]);
    if status.pending_deletes > 0 {
        lines.push(("deleting", format!("{} in the background", count(status.pending_deletes, "version"))));
    }
    let journal = percent(status.journal_used, status.journal_size);
    lines.extend([
        ("journal", format!("{} of {} ({journal})", Size(status.journal_used), Size(status.journal_size))),
        ("checkpoints", status.checkpoints.to_string()),
        ("barriers", status.barriers.to_string()),
    ]);
    fields(&lines, look)
}

/// What a check found.
pub(crate) fn check(report: &CheckReport, look: &Look) -> String {
    let data = match report.data_verified {
        0 if report.data_blocks == 0 => "no data blocks".to_owned(),
        0 => format!("{} not read (--data reads them)", count(report.data_blocks, "data block")),
        n => format!("{} verified", count(n, "data block")),
    };
    let mut text = format!(
        "checked {}, {}, {data}\n",
        count(report.versions, "version"),
        count(report.nodes, "map node")
    );
    for error in &report.errors {
        text.push_str(&format!("{} {error}\n", look.paint(Tone::Bad, "error:")));
    }
    let untold = report.error_count.saturating_sub(report.errors.len() as u64);
    if untold > 0 {
        text.push_str(&format!("... and {untold} more\n"));
    }
    if report.leaked > 0 {
        text.push_str(&format!("{} {}\n", look.paint(Tone::Bad, "leaked:"), count(report.leaked, "block")));
    }
    text.push_str(&if report.clean {
        look.paint(Tone::Good, "the pool is sound")
    } else {
        look.paint(Tone::Bad, "the pool is not sound")
    });
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::look;
    use super::*;

    fn healthy() -> PoolStatus {
        PoolStatus {
            path: "/dev/vdb".into(),
            id: "00ff".into(),
            format: 1,
            limit: 1 << 40,
            size: 4 << 30,
            used: 1 << 30,
            free: 900 << 30,
            reserve: 64 << 20,
            volumes: 3,
            snapshots: 12,
            pending_deletes: 0,
            fenced: None,
            journal_used: 1 << 20,
            journal_size: 64 << 20,
            checkpoints: 5,
            barriers: 77,
            checksum_errors: 0,
        }
    }

    #[test]
    fn figures_line_up() {
        assert_eq!(
            status(&healthy(), &look()),
            "\
state        healthy
path         /dev/vdb
id           00ff
format       1
used         1.0 GiB (0.0 % of the limit)
free         900.0 GiB
size         4.0 GiB
limit        1.0 TiB
reserve      64.0 MiB
volumes      3
snapshots    12
journal      1.0 MiB of 64.0 MiB (1.5 %)
checkpoints  5
barriers     77
"
        );
    }

    #[test]
    fn bad_news_comes_first() {
        let fenced = PoolStatus { fenced: Some("fdatasync failed".into()), pending_deletes: 1, ..healthy() };
        let text = status(&fenced, &look());
        assert!(text.starts_with("state        refuses writes: fdatasync failed\n"), "{text}");
        assert!(text.contains("deleting     1 version in the background\n"), "{text}");
        let errors = PoolStatus { checksum_errors: 2, ..healthy() };
        assert!(status(&errors, &look()).starts_with("state        2 checksum errors since"));
    }

    #[test]
    fn a_check_says_what_it_did_and_found() {
        let mut report =
            CheckReport { clean: true, versions: 1, nodes: 20, data_blocks: 300, ..CheckReport::default() };
        assert_eq!(
            check(&report, &look()),
            "checked 1 version, 20 map nodes, 300 data blocks not read (--data reads them)\nthe pool is sound\n"
        );
        report.data_verified = 300;
        report.clean = false;
        report.leaked = 1;
        report.error_count = 3;
        report.errors = vec!["node 7 does not match its checksum".into()];
        assert_eq!(
            check(&report, &look()),
            "\
checked 1 version, 20 map nodes, 300 data blocks verified
error: node 7 does not match its checksum
... and 2 more
leaked: 1 block
the pool is not sound
"
        );
    }

    #[test]
    fn shares_never_divide_by_zero() {
        assert_eq!(percent(0, 0), "0.0 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0 %");
    }
}
