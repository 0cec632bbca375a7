//! What a check of a pool found, as people read it: `cairn` colours it, `cairnd` prints it as it is.

use crate::Size;
use crate::pool::{CheckReport, Loss};

/// Whether a line is good news.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    /// Neither.
    Plain,
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
}

/// A line of a report: a head in its mood, and what follows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// How the head is to look.
    pub mood: Mood,
    /// The first word or all there is.
    pub head: String,
    /// The rest, if any.
    pub rest: String,
}

impl Line {
    /// A line that is all head.
    pub fn new(mood: Mood, head: impl Into<String>) -> Line {
        Line { mood, head: head.into(), rest: String::new() }
    }

    /// Bad news under a head such as `lost:`.
    pub fn bad(head: &str, rest: impl Into<String>) -> Line {
        Line { mood: Mood::Bad, head: head.to_owned(), rest: rest.into() }
    }
}

/// Lines as text; `paint` makes heads look as their moods say.
pub fn text(lines: Vec<Line>, paint: impl Fn(Mood, String) -> String) -> String {
    let lines = lines.into_iter().map(|Line { mood, head, rest }| {
        format!("{} {rest}", paint(mood, head)).trim_end().to_owned() + "\n"
    });
    lines.collect()
}

/// `1 block`, `2 blocks`.
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// What a check found.
pub fn of_check(report: &CheckReport) -> Vec<Line> {
    let data = match report.data_verified {
        0 if report.data_blocks == 0 => "no data blocks".to_owned(),
        0 => format!("{} not read (--data reads them)", count(report.data_blocks, "data block")),
        n => format!("{} verified", count(n, "data block")),
    };
    let (versions, nodes) = (count(report.versions, "version"), count(report.nodes, "map node"));
    let mut lines = vec![Line::new(Mood::Plain, format!("checked {versions}, {nodes}, {data}"))];
    lines.extend(report.errors.iter().map(|error| Line::bad("error:", error)));
    let untold = report.error_count.saturating_sub(report.errors.len() as u64);
    if untold > 0 {
        lines.push(Line::new(Mood::Plain, format!("... and {untold} more")));
    }
    if report.leaked > 0 {
        lines.push(Line::bad("leaked:", count(report.leaked, "block")));
    }
    lines.extend(of_losses(&report.losses, report.lost_bytes));
    lines.push(match report.clean {
        true => Line::new(Mood::Good, "the pool is sound"),
        false => Line::new(Mood::Bad, "the pool is not sound"),
    });
    lines
}

/// Which bytes of which volumes and snapshots cannot be read.
pub fn of_losses(losses: &[Loss], bytes: u64) -> Vec<Line> {
    /// More than these fill a terminal; `--json` has them all.
    const MOST: usize = 100;
    let named = |loss: &Loss| match &loss.snapshot {
        Some(snapshot) => format!("{}@{snapshot}", loss.volume),
        None => loss.volume.clone(),
    };
    let mut lines: Vec<Line> = Vec::new();
    for loss in losses.iter().take(MOST) {
        let (first, end) = (loss.offset, loss.offset + loss.len);
        let rest = format!("{}, bytes {first} to {end} ({})", named(loss), Size(loss.len));
        lines.push(Line::bad("unreadable:", rest));
    }
    let untold = losses.len().saturating_sub(MOST);
    if untold > 0 {
        lines.push(Line::new(Mood::Plain, format!("... and {untold} more (--json has them)")));
    }
    if bytes > 0 {
        let rest = format!(
            "{} cannot be read; reading them is an error until they are written again or trimmed",
            Size(bytes)
        );
        lines.push(Line::bad("in all:", rest));
    }
    lines
}
