//! Pools for people.

use cairn_api::Size;
use cairn_api::pool::{CheckReport, Fill, PoolEntry, PoolStatus, Scrub, ScrubState};
use cairn_api::report::{self, Mood};
use comfy_table::Cell;

use super::{Look, Tone, count, fields, left, right, table};

/// The share of `whole` that `part` is, in tenths of a percent.
fn tenths(part: u64, whole: u64) -> u128 {
    u128::from(part) * 1000 / u128::from(whole.max(1))
}

/// The share of `whole` that `part` is, in percent with one decimal.
fn percent(part: u64, whole: u64) -> String {
    let tenths = tenths(part, whole);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn tone(fill: Fill) -> Tone {
    match fill {
        Fill::Ok => Tone::Good,
        Fill::High => Tone::Warning,
        Fill::Critical => Tone::Bad,
    }
}

/// What a pool can hold, in bytes: less than its limit where the file system below it has less left.
fn capacity(status: &PoolStatus) -> u64 {
    status.used.saturating_add(status.free)
}

/// In a word, how a pool fares.
fn state(entry: &PoolEntry) -> (&'static str, Tone) {
    match &entry.status {
        None => ("not open", Tone::Bad),
        Some(status) if status.fenced.is_some() => ("fenced", Tone::Bad),
        Some(status) if status.checksum_errors > 0 => ("damaged", Tone::Bad),
        Some(_) => ("healthy", Tone::Good),
    }
}

/// All pools as a table, and below it why some could not be opened.
pub(crate) fn list(pools: &[PoolEntry], look: &Look) -> String {
    let columns = [
        left("NAME"),
        left("STATE"),
        left("FILL"),
        right("USED"),
        right("FREE"),
        right("VOLUMES"),
        left("PATH"),
    ];
    let rows = pools.iter().map(|entry| {
        let (word, mood) = state(entry);
        let figure = |figure: fn(&PoolStatus) -> String| {
            Cell::new(entry.status.as_ref().map_or_else(|| "-".to_owned(), figure))
        };
        let fill = entry.status.as_ref().map_or(Cell::new("-"), |status| {
            tone(status.fill).cell(Cell::new(format!(
                "{} ({} %)",
                status.fill.as_str(),
                tenths(status.used, capacity(status)) / 10
            )))
        });
        vec![
            Cell::new(&entry.name),
            mood.cell(Cell::new(word)),
            fill,
            figure(|status| Size(status.used).to_string()),
            figure(|status| Size(status.free).to_string()),
            figure(|status| status.volumes.to_string()),
            Cell::new(&entry.path),
        ]
    });
    let mut text = table(&columns, rows.collect(), look);
    for PoolEntry { name, error, .. } in pools {
        if let Some(error) = error {
            text.push_str(&format!("{} {error}\n", look.paint(Tone::Bad, &format!("{name}:"))));
        }
    }
    text
}

/// After adding one.
pub(crate) fn created(entry: &PoolEntry) -> String {
    let PoolEntry { name, path, status, .. } = entry;
    let Some(status) = status else { return format!("added pool {name} on {path}\n") };
    let limit = Size(status.limit);
    match status.volumes {
        0 => format!("created pool {name} on {path}; it may grow to {limit}\n"),
        n => format!("added pool {name} on {path} with {}; it may grow to {limit}\n", count(n, "volume")),
    }
}

/// After letting one grow.
pub(crate) fn grown(status: &PoolStatus) -> String {
    format!("pool {} may now grow to {}\n", status.name, Size(status.limit))
}

/// What to ask before removing one.
pub(crate) fn remove_question(entry: &PoolEntry) -> String {
    format!("Stop using pool {} ({})? What is in it stays as it is.", entry.name, entry.path)
}

/// A pool's figures, one a line, the worrying ones first where there are any.
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
        ("name", status.name.clone()),
        ("path", status.path.clone()),
        ("id", status.id.clone()),
        ("format", status.format.to_string()),
        ("fill", look.paint(tone(status.fill), status.fill.as_str())),
        (
            "used",
            format!("{} ({} of what it can hold)", Size(status.used), percent(status.used, capacity(status))),
        ),
        ("free", Size(status.free).to_string()),
        ("size", Size(status.size).to_string()),
        ("limit", Size(status.limit).to_string()),
    ]);
    if let Some(available) = status.available {
        lines.push(("file system", format!("{} left", Size(available))));
    }
    lines.extend([
        ("reserve", Size(status.reserve).to_string()),
        ("volumes", status.volumes.to_string()),
        ("snapshots", status.snapshots.to_string()),
    ]);
    if status.images > 0 {
        lines.push(("images", status.images.to_string()));
    }
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

/// How a scrub stands, and what it found.
pub(crate) fn scrub(scrub: &Scrub, look: &Look) -> String {
    let Scrub { pool, state, rate, read, total, nodes, data_blocks, .. } = scrub;
    let (word, tone) = match state {
        ScrubState::None => {
            return format!("pool {pool} was not scrubbed since the daemon started\n");
        }
        ScrubState::Running => ("running", Tone::Active),
        ScrubState::Finished if scrub.fault_count == 0 => ("finished, all is well", Tone::Good),
        ScrubState::Finished => ("finished", Tone::Bad),
        ScrubState::Stopped => ("stopped", Tone::Warning),
        ScrubState::Failed => ("failed", Tone::Bad),
    };
    let mut lines = vec![("pool", pool.clone()), ("scrub", look.paint(tone, word))];
    lines.extend(scrub.started.map(|at| ("started", look.when(at))));
    lines.extend(scrub.ended.map(|at| ("ended", look.when(at))));
    lines.push((
        "read",
        match state {
            ScrubState::Running => {
                format!("{} of about {} ({})", Size(*read), Size(*total), percent(*read, *total))
            }
            _ => Size(*read).to_string(),
        },
    ));
    lines.push(("verified", format!("{}, {}", count(*nodes, "map node"), count(*data_blocks, "data block"))));
    lines.extend(rate.map(|rate| ("limit", format!("{} a second", Size(rate)))));
    lines.extend(scrub.error.clone().map(|error| ("error", look.paint(Tone::Bad, &error))));
    let faults = count(scrub.fault_count, "fault");
    let faults = if scrub.fault_count > 0 { look.paint(Tone::Bad, &faults) } else { faults };
    lines.push(("found", faults));
    let mut text = fields(&lines, look);
    for fault in &scrub.faults {
        text.push_str(&format!("{} {fault}\n", look.paint(Tone::Bad, "damaged:")));
    }
    if scrub.fault_count > 0 {
        text.push_str("cairn pool check --data says which volumes and snapshots have what is damaged\n");
    }
    text
}

/// What a check found.
pub(crate) fn check(report: &CheckReport, look: &Look) -> String {
    report::text(report::of_check(report), |mood, head| match mood {
        Mood::Plain => head,
        Mood::Good => look.paint(Tone::Good, &head),
        Mood::Bad => look.paint(Tone::Bad, &head),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{look, narrow};
    use super::*;

    fn healthy() -> PoolStatus {
        PoolStatus {
            name: "main".into(),
            path: "/dev/vdb".into(),
            id: "00ff".into(),
            format: 1,
            limit: 1 << 40,
            size: 4 << 30,
            used: 1 << 30,
            free: 900 << 30,
            available: None,
            reserve: 64 << 20,
            fill: Fill::Ok,
            volumes: 3,
            snapshots: 12,
            images: 0,
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
name         main
path         /dev/vdb
id           00ff
format       1
fill         ok
used         1.0 GiB (0.1 % of what it can hold)
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
    fn pools_are_a_table() {
        let main = PoolEntry {
            name: "main".into(),
            path: "/var/lib/cairn/pool.cairn".into(),
            status: Some(healthy()),
            error: None,
        };
        let bulk = PoolStatus { used: 950 << 30, free: 50 << 30, fill: Fill::Critical, ..healthy() };
        let bulk = PoolEntry { name: "bulk".into(), path: "/b".into(), status: Some(bulk), ..main.clone() };
        let gone = PoolEntry {
            name: "gone".into(),
            path: "/g".into(),
            status: None,
            error: Some("No such file or directory".into()),
        };
        assert_eq!(
            list(&[main.clone(), bulk.clone(), gone.clone()], &look()),
            "\
NAME  STATE     FILL                  USED       FREE  VOLUMES  PATH
main  healthy   ok (0 %)           1.0 GiB  900.0 GiB        3  /var/lib/cairn/pool.cairn
bulk  healthy   critical (95 %)  950.0 GiB   50.0 GiB        3  /b
gone  not open  -                        -          -        -  /g
gone: No such file or directory
"
        );
        assert_eq!(
            list(std::slice::from_ref(&main), &narrow()),
            "\
NAME  STATE    FILL         USED       FREE  VOLUMES  PATH
main  healthy  ok (0 %)  1.0 GiB  900.0 GiB        3  /var/lib/cairn/pool.cairn
"
        );
        let coloured = Look { colour: true, ..look() };
        let high = PoolStatus { fill: Fill::High, ..healthy() };
        let high = PoolEntry { status: Some(high), ..bulk.clone() };
        assert!(list(&[high], &coloured).contains("38;5;3m"), "a warning is yellow");
        let fill = |fill| status(&PoolStatus { fill, ..healthy() }, &coloured);
        assert!(fill(Fill::Ok).contains("\u{1b}[32mok"), "{}", fill(Fill::Ok));
        assert!(fill(Fill::High).contains("33mhigh"), "{}", fill(Fill::High));
        assert!(fill(Fill::Critical).contains("31mcritical"), "{}", fill(Fill::Critical));

        let fenced = PoolStatus { fenced: Some("x".into()), ..healthy() };
        assert_eq!(state(&PoolEntry { status: Some(fenced), ..main.clone() }).0, "fenced");
        let damaged = PoolStatus { checksum_errors: 1, ..healthy() };
        assert_eq!(state(&PoolEntry { status: Some(damaged), ..main.clone() }).0, "damaged");
        assert_eq!(created(&bulk), "added pool bulk on /b with 3 volumes; it may grow to 1.0 TiB\n");
        let new = PoolStatus { volumes: 0, ..healthy() };
        assert_eq!(
            created(&PoolEntry { status: Some(new), ..bulk.clone() }),
            "created pool bulk on /b; it may grow to 1.0 TiB\n"
        );
        assert_eq!(created(&gone), "added pool gone on /g\n");
        assert_eq!(grown(&healthy()), "pool main may now grow to 1.0 TiB\n");
        assert_eq!(remove_question(&bulk), "Stop using pool bulk (/b)? What is in it stays as it is.");
    }

    #[test]
    fn bad_news_comes_first() {
        let small = PoolStatus { available: Some(3 << 30), ..healthy() };
        assert!(status(&small, &look()).contains("\nlimit        1.0 TiB\nfile system  3.0 GiB left\n"));
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
