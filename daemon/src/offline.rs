//! `cairnd check`, `repair` and `dump`: for a pool that no daemon uses, and above all for one that none can open.
//!
//! Looking writes nothing: the pool is opened over memory that takes what opening would write.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cairn_api::Size;
use cairn_api::report::{self, Line, Mood, count, of_check, of_losses};
use cairn_cow::{Error, ErrorKind, Options, Overlay, Pool, RepairReport};
use cairn_uring::Reactor;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::config::POOL_FILE;
use crate::control::convert;
use crate::disk::{Found, PoolDisk};
use crate::survivor;

/// What can be done to a pool that no daemon uses.
#[derive(Subcommand, Debug)]
pub enum Offline {
    /// Check a pool that no daemon uses, and change nothing; exits with 1 when it is not sound
    #[command(after_help = "\
Examples:
  cairnd check /srv/pool.cairn
  cairnd check ./dev --data                   the pool of --dev ./dev, its data too")]
    Check {
        /// The pool's file or device, or the folder of --dev
        path: PathBuf,
        /// Read all data too, not only what describes it
        #[arg(long)]
        data: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what a repair of a damaged pool would lose; with --yes, repair it
    #[command(after_help = "\
A repair reckons anew which blocks are in use, and takes for lost what of the map
or the journal cannot be read. Data that does not match its checksum stays an error
for whoever reads it until it is written again or trimmed. Without --yes nothing is
changed. Make a copy of the pool first.

Examples:
  cairnd repair /srv/pool.cairn               what would be lost
  cairnd repair /srv/pool.cairn --yes")]
    Repair {
        /// The pool's file or device, or the folder of --dev
        path: PathBuf,
        /// Do it
        #[arg(long, short)]
        yes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a pool's metadata as it stands on disk
    #[command(after_help = "\
Examples:
  cairnd dump /srv/pool.cairn
  cairnd dump /srv/pool.cairn --map demo@s1 --json")]
    Dump {
        /// The pool's file or device, or the folder of --dev
        path: PathBuf,
        /// The map of this volume or snapshot as well
        #[arg(long, value_name = "VOLUME[@SNAPSHOT]")]
        map: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs one; the error is a text for people.
///
/// # Errors
/// When the pool cannot be looked at or repaired.
pub fn run(command: &Offline) -> Result<ExitCode, String> {
    let mut reactor =
        Reactor::new(cairn_uring::Config::default()).map_err(|e| format!("cannot set up io_uring: {e}"))?;
    match command {
        Offline::Check { path, data, json } => {
            let (disk, path) = open(path)?;
            let (bar, data) = (bar("checking"), *data);
            let disk = overlay(disk);
            let report = reactor.block_on(async {
                let pool = Pool::open(disk, Options::default()).await?;
                let tell = |done, all| {
                    show(&bar, done, data.then_some(all));
                    ControlFlow::Continue(())
                };
                pool.check_and_tell(data, tell).await
            });
            bar.finish_and_clear();
            let report = convert::check_report(report.map_err(|e| cannot("check", &path, &e))?);
            print(*json, &report, || of_check(&report))?;
            Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Offline::Repair { path, yes, json } => {
            let (disk, path) = open(path)?;
            let bar = bar(if *yes { "repairing" } else { "looking" });
            let (options, progress) = (Options::default(), |done, all| show(&bar, done, Some(all)));
            let report = match yes {
                true => reactor.block_on(cairn_cow::repair(disk, options, progress)),
                false => reactor.block_on(cairn_cow::repair(overlay(disk), options, progress)),
            };
            bar.finish_and_clear();
            let report = report.map_err(|e| cannot("repair", &path, &e))?;
            print(*json, &report, || repaired(&report, &path, *yes))?;
            Ok(if *yes || report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Offline::Dump { path, map, json } => {
            let (disk, _) = open(path)?;
            let dump = reactor.block_on(cairn_cow::dump(&disk, map.as_deref()));
            let value = serde_json::to_value(&dump).map_err(|e| format!("cannot print it: {e}"))?;
            let text = if *json { format!("{value:#}\n") } else { readable(&value) };
            write(&text)?;
            let broken = dump.superblocks.iter().all(|copy| matches!(copy, cairn_cow::Part::Unreadable(_)));
            Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

/// The pool's disk, which is locked meanwhile, and its path.
fn open(path: &Path) -> Result<(PoolDisk, PathBuf), String> {
    let path = if path.is_dir() { path.join(POOL_FILE) } else { path.to_owned() };
    if !path.exists() {
        return Err(format!("there is no pool at {}", path.display()));
    }
    match PoolDisk::open(&path, false)? {
        (disk, Found::Something) => Ok((disk, path)),
        (_, Found::Blank { .. }) => Err(format!("{} is empty: there is no pool", path.display())),
    }
}

/// A view of the disk to which nothing is written, with what a daemon that was killed left in memory.
fn overlay(disk: PoolDisk) -> Overlay<PoolDisk> {
    let left = survivor::peek(&survivor::path_for(disk.id()));
    Overlay::new(disk, left)
}

fn cannot(what: &str, path: &Path, error: &Error) -> String {
    let hint = match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Truncated if what == "check" => {
            "; 'cairnd repair' says what a repair would lose"
        }
        _ => "",
    };
    format!("cannot {what} the pool {}: {}{hint}", path.display(), error.with_cause())
}

/// Draws on stderr, when that is a terminal.
fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {percent} % ({elapsed}, {eta} left)") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn show(bar: &ProgressBar, done: u64, all: Option<u64>) {
    if let Some(all) = all {
        bar.set_length(all.max(done));
    }
    bar.set_position(done);
}

fn print<T: Serialize>(json: bool, report: &T, lines: impl FnOnce() -> Vec<Line>) -> Result<(), String> {
    if json {
        let value = serde_json::to_string(report).map_err(|e| format!("cannot print it: {e}"))?;
        return write(&format!("{value}\n"));
    }
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    write(&report::text(lines(), |mood, head| match mood {
        Mood::Good if colour => format!("\x1b[32m{head}\x1b[0m"),
        Mood::Bad if colour => format!("\x1b[31m{head}\x1b[0m"),
        _ => head,
    }))
}

fn write(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `cairnd dump ... | head`
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| format!("cannot write the output: {e}")),
    }
}

/// What a repair did, or would do.
fn repaired(report: &RepairReport, path: &Path, done: bool) -> Vec<Line> {
    let walked = [
        count(report.versions as u64, "version"),
        count(report.nodes, "map node"),
        format!("{} verified", count(report.data_verified, "data block")),
    ];
    let mut lines = vec![Line::new(Mood::Plain, format!("looked at {}", walked.join(", ")))];
    let mut tell = |wrong: bool, head: &str, rest: String| {
        lines.extend(wrong.then(|| Line::bad(head, rest)));
    };
    tell(report.superblock_restored, "superblock:", "one of the two copies is damaged".to_owned());
    let missing = format!("the file is cut off, {} are missing at its end", Size(report.missing_bytes));
    tell(report.missing_bytes > 0, "cut off:", missing);
    if let Some((damaged, last)) = report.journal_cut {
        let lost = format!(
            "batch {damaged} is damaged: what was changed in it and after it, to batch {last}, is lost in all volumes"
        );
        tell(true, "journal:", lost);
    }
    let segments = format!("{} cannot be read", count(report.segments_rebuilt, "segment"));
    tell(report.segments_rebuilt > 0, "space map:", segments);
    tell(
        report.claimed > 0,
        "space map:",
        format!("{} in use counted as free", count(report.claimed, "block")),
    );
    let freed = format!("{} that nothing refers to", count(report.freed, "block"));
    tell(report.freed > 0, "leaked:", freed);
    let nodes = format!("{} cannot be read", count(report.nodes_lost, "node"));
    tell(report.nodes_lost > 0, "map:", nodes);
    let losses: Vec<_> = report.losses.iter().cloned().map(convert::loss).collect();
    lines.extend(of_losses(&losses, report.lost_bytes));
    lines.push(match (report.is_clean(), done) {
        (true, _) => Line::new(Mood::Good, "the pool is sound: there is nothing to repair"),
        (false, true) => Line::new(Mood::Good, "the pool is repaired"),
        (false, false) => {
            let how = format!("nothing was changed; to repair it: cairnd repair {} --yes", path.display());
            Line::new(Mood::Bad, how)
        }
    });
    lines
}

/// JSON as people read it: a line a value, indented by what it belongs to.
fn readable(value: &Value) -> String {
    fn put(out: &mut String, value: &Value, indent: usize) {
        let pad = "  ".repeat(indent);
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match one_line(value) {
                        Some(text) => out.push_str(&format!("{pad}{key}: {text}\n")),
                        None => {
                            out.push_str(&format!("{pad}{key}:\n"));
                            put(out, value, indent + 1);
                        }
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    match one_line(item) {
                        Some(text) => out.push_str(&format!("{pad}- {text}\n")),
                        None => {
                            let mut inner = String::new();
                            put(&mut inner, item, indent + 1);
                            // The first line carries the dash.
                            out.push_str(&format!("{pad}- {}", inner.trim_start()));
                        }
                    }
                }
            }
            other => out.push_str(&format!("{pad}{other}\n")),
        }
    }
    fn one_line(value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Null => Some("-".to_owned()),
            Value::Object(fields) if fields.is_empty() => Some("{}".to_owned()),
            Value::Array(items) if items.iter().all(|item| item.is_number()) => Some(value.to_string()),
            Value::Object(_) | Value::Array(_) => None,
            other => Some(other.to_string()),
        }
    }
    let mut out = String::new();
    put(&mut out, value, 0);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_values_are_indented() {
        let value =
            json!({ "a": [{ "b": 1, "c": [1, 2] }, { "b": 2, "c": [] }], "d": null, "e": { "f": "g" } });
        assert_eq!(readable(&value), "a:\n  - b: 1\n    c: [1,2]\n  - b: 2\n    c: []\nd: -\ne:\n  f: g\n");
    }

    #[test]
    fn a_repair_says_what_it_would_do() {
        let report = RepairReport { freed: 2, journal_cut: Some((7, 9)), ..RepairReport::default() };
        let lines = repaired(&report, Path::new("/p"), false);
        let text: Vec<String> = lines.iter().map(|line| format!("{} {}", line.head, line.rest)).collect();
        assert_eq!(
            text,
            [
                "looked at 0 versions, 0 map nodes, 0 data blocks verified ",
                "journal: batch 7 is damaged: what was changed in it and after it, to batch 9, is lost in all volumes",
                "leaked: 2 blocks that nothing refers to",
                "nothing was changed; to repair it: cairnd repair /p --yes ",
            ]
        );
    }
}
