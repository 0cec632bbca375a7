//! `cargo xtask soak`: the tests of docs/RELIABILITY.md for as long as there is time, and the record of what they counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use crate::exit_code;
use crate::sim::{grouped, progress};

/// Every run so far, one in each line.
const RECORD: &str = "docs/reliability-runs.jsonl";
/// Where their sum is written, between these lines.
const DOCUMENT: &str = "docs/RELIABILITY.md";
const BEGIN: &str = "<!-- written by cargo xtask soak -->";
const END: &str = "<!-- end -->";
/// Looking for one planted defect takes so long at most.
const MUTANT_SECONDS: u64 = 60;
/// All sequences of three steps take about so long, on two processors.
const TRIPLES: Duration = Duration::from_secs(15 * 60);
/// ... and all planted defects about so long, with the building of the engine with them.
const MUTANTS: Duration = Duration::from_secs(5 * 60);
/// Cases of one run of the comparison with a model, and kills of one of the daemon: as many runs as there is time for.
const MODEL_CASES: u64 = 2_000;
const KILLS: u64 = 50;
/// Of what a failed test said the record has so many lines, the last.
const TOLD_LINES: usize = 60;

/// Which tests, and for how long.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask soak                              ten minutes, what is built for it not counted
  cargo xtask soak --seconds 86400              a day
  cargo xtask soak --only sim,kill
  cargo xtask soak --table                      runs nothing, writes the table anew from the record

Each run adds a line to docs/reliability-runs.jsonl: when, of which commit, from which seed on, for how long, what it
counted, and what was found. The table in docs/RELIABILITY.md is the sum of these lines. All triples of operations and all
planted defects are tried where their share of the time is long enough; otherwise it is all pairs, and no defects.")]
pub(crate) struct Arguments {
    /// For how long all of them together, about
    #[arg(long, value_name = "N", default_value = "600")]
    seconds: NonZeroU64,
    /// Only these
    #[arg(long, value_name = "TESTS", value_delimiter = ',')]
    only: Vec<Test>,
    /// Writes the table from the record, and no more
    #[arg(long, conflicts_with_all = ["seconds", "only"])]
    table: bool,
}

/// The tests that can go on for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Test {
    Sim,
    Sequences,
    Faults,
    Model,
    Kill,
    Mutants,
    Fuzz,
}

impl Test {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Its part of the time.
    fn share(self) -> u32 {
        match self {
            Test::Sim => 8,
            Test::Faults | Test::Model | Test::Kill | Test::Fuzz => 3,
            Test::Sequences | Test::Mutants => 2,
        }
    }

    /// As docs/RELIABILITY.md calls it.
    fn title(self) -> &'static str {
        match self {
            Test::Sim => "A, C, E. Simulated lives",
            Test::Sequences => "B. Every short sequence",
            Test::Faults => "D. The n-th fault",
            Test::Model => "F. Comparison with a model",
            Test::Kill => "G. `kill -9` under load",
            Test::Mutants => "I. Mutants",
            Test::Fuzz => "J. Fuzzing",
        }
    }

    /// What it counts: the name in its report, and in words.
    fn counts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Test::Sim => &[
                ("crash_states", "crash states"),
                ("nested_crashes", "deaths during recovery"),
                ("damaged_disks", "damaged disks"),
            ],
            Test::Sequences => &[("sequences", "sequences"), ("crash_states", "crash states")],
            Test::Faults => &[("fault_points", "fault points"), ("crash_states", "crash states")],
            Test::Model => &[("operations", "operations")],
            Test::Kill => &[("kills", "kills"), ("requests", "requests answered before them")],
            Test::Mutants => &[("mutants_caught", "planted defects found")],
            Test::Fuzz => &[("inputs", "inputs"), ("nbd_inputs", "of them NBD")],
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    exit_code(try_run(arguments))
}

/// Whether nothing was found.
fn try_run(arguments: &Arguments) -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    if arguments.table {
        write_table(&root)?;
        return Ok(true);
    }
    let tests: Vec<Test> = match &arguments.only[..] {
        [] => Test::value_variants().to_vec(),
        only => only.to_vec(),
    };
    let all: u32 = tests.iter().map(|test| test.share()).sum();
    let time = Duration::from_secs(arguments.seconds.get());
    let runner = Runner { commit: commit(&root)?, target: target(&root), root };
    let mut sound = true;
    for test in tests {
        let share = time * test.share() / all;
        if test == Test::Mutants && share < MUTANTS && arguments.only.is_empty() {
            println!("{:10} left out: they take {} s", test.name(), MUTANTS.as_secs());
            continue;
        }
        let bar = progress(share.as_secs(), "{msg:10} {elapsed} of about {len} s");
        bar.set_message(test.name());
        bar.enable_steady_tick(Duration::from_secs(1));
        let ran = runner.run(test, share);
        bar.finish_and_clear();
        let ran = ran?;
        println!("{:10} {}", test.name(), in_words(test, [&ran].into_iter()));
        if let Some(failure) = failure(&ran) {
            println!("{:10} FOUND: {failure:#}", "");
            sound = false;
        }
        let line = runner.recorded(test, ran);
        let mut record = fs::OpenOptions::new().create(true).append(true).open(runner.root.join(RECORD))?;
        writeln!(record, "{line}")?;
        write_table(&runner.root)?;
    }
    Ok(sound)
}

/// Where the tests run, and of which commit.
struct Runner {
    root: PathBuf,
    target: PathBuf,
    commit: String,
}

impl Runner {
    /// Runs one test for so long; what it tells of itself.
    fn run(&self, test: Test, share: Duration) -> io::Result<Map<String, Value>> {
        let seconds = share.as_secs().max(1);
        let for_seconds = ["--seconds".to_owned(), seconds.to_string()];
        match test {
            Test::Sim => self.own("sim", &for_seconds),
            Test::Faults => self.own("faults", &for_seconds),
            Test::Sequences => {
                let steps = if share < TRIPLES { "2" } else { "3" };
                self.own("sequences", &["--steps".to_owned(), steps.to_owned()])
            }
            Test::Mutants => self
                .own("mutants", &["--lives".to_owned(), "--seconds".to_owned(), MUTANT_SECONDS.to_string()]),
            Test::Fuzz => {
                let targets = fs::read_dir(self.root.join("fuzz/fuzz_targets"))?.count();
                let rounds = targets.div_ceil(crate::sim::jobs()) as u64;
                self.own("fuzz", &["--seconds".to_owned(), (seconds / rounds).max(1).to_string()])
            }
            Test::Model => {
                let mut model =
                    self.cargo(&["test", "--locked", "--package", "cairn-cow", "--test", "model"]);
                model.args(["--", "--nocapture"]).env("CAIRN_SIM_ROUNDS", MODEL_CASES.to_string());
                again_and_again(share, |_| counted(&mut model))
            }
            Test::Kill => {
                let programs =
                    ["build", "--quiet", "--release", "--locked", "--bin", "cairnd", "--bin", "cairn"];
                if std::env::var_os("CAIRN_BIN_DIR").is_none() && !said(&mut self.cargo(&programs))?.0 {
                    return Err(io::Error::other("cairnd and cairn cannot be built"));
                }
                let mut kill =
                    self.cargo(&["test", "--locked", "--package", "cairn-tests", "--test", "kill"]);
                kill.args(["kill_9_under_load", "--", "--nocapture"]);
                kill.env("CAIRN_TEST_KILLS", KILLS.to_string());
                again_and_again(share, |round| {
                    // Half of them on a file system in memory, where there is one.
                    match Path::new("/dev/shm").is_dir() && round % 2 == 1 {
                        true => kill.env("TMPDIR", "/dev/shm"),
                        false => kill.env_remove("TMPDIR"),
                    };
                    counted(&mut kill)
                })
            }
        }
    }

    /// Runs another command of this program.
    fn own(&self, command: &str, arguments: &[String]) -> io::Result<Map<String, Value>> {
        let mut own = Command::new(std::env::current_exe()?);
        own.arg(command).args(arguments).arg("--json").current_dir(&self.root);
        let (_, said) = said(&mut own)?;
        let report = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let Some(Value::Object(report)) = report else {
            return Err(io::Error::other(format!("cargo xtask {command} told nothing:\n{said}")));
        };
        Ok(report)
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// A line of the record: what matters of what a test told.
    fn recorded(&self, test: Test, mut told: Map<String, Value>) -> Value {
        let counts: Map<String, Value> = test
            .counts()
            .iter()
            .filter_map(|(name, _)| Some(((*name).to_owned(), told.remove(*name)?)))
            .collect();
        let seconds = told.get("seconds").and_then(Value::as_f64).unwrap_or(0.0).round() as u64;
        serde_json::json!({
            "test": test.name(),
            "date": jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            "commit": self.commit,
            "first_seed": told.remove("first_seed"),
            "seconds": seconds,
            "counts": counts,
            "failure": told.remove("failure"),
        })
    }
}

/// Runs what counts something until the time is up, once at least, or until it fails; the sum.
fn again_and_again(
    time: Duration,
    mut once: impl FnMut(u64) -> io::Result<Map<String, Value>>,
) -> io::Result<Map<String, Value>> {
    let began = Instant::now();
    let mut sums = Map::new();
    for round in 0.. {
        let counts = once(round)?;
        let failed = failure(&counts).is_some();
        for (name, count) in counts {
            let before = sums.get(&name).and_then(Value::as_u64).unwrap_or(0);
            let sum = count.as_u64().map_or(count, |count| (before + count).into());
            sums.insert(name, sum);
        }
        if failed || began.elapsed() >= time {
            break;
        }
    }
    sums.insert("seconds".to_owned(), began.elapsed().as_secs_f64().into());
    Ok(sums)
}

/// What a run found.
fn failure(run: &Map<String, Value>) -> Option<&Value> {
    run.get("failure").filter(|failure| !failure.is_null())
}

/// What a test of cargo's prints that it counted; where it failed, what it said.
fn counted(test: &mut Command) -> io::Result<Map<String, Value>> {
    let (success, said) = said(test)?;
    let counted = said.lines().find_map(|line| serde_json::from_str(line.strip_prefix("counted ")?).ok());
    match counted {
        Some(Value::Object(counts)) if success => Ok(counts),
        _ if success => Err(io::Error::other(format!("the test counted nothing:\n{said}"))),
        _ => {
            let lines: Vec<&str> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n");
            Ok(Map::from_iter([("failure".to_owned(), end.into())]))
        }
    }
}

/// Runs it to its end; whether it succeeded, and what it said, and complained of where it failed.
fn said(command: &mut Command) -> io::Result<(bool, String)> {
    let Output { status, mut stdout, stderr } = command.stdin(Stdio::null()).output()?;
    if !status.success() {
        // Its last line may be a report.
        stdout.splice(0..0, stderr);
    }
    Ok((status.success(), String::from_utf8_lossy(&stdout).into_owned()))
}

/// The commit that is checked out, with a plus where something was changed since.
fn commit(root: &Path) -> io::Result<String> {
    let git = |arguments: &[&str]| said(Command::new("git").args(arguments).current_dir(root));
    let (_, commit) = git(&["rev-parse", "--short=10", "HEAD"])?;
    // What this program writes itself is no change.
    let (_, changed) = git(&["status", "--porcelain", "--", ".", ":!docs"])?;
    Ok(format!("{}{}", commit.trim(), if changed.is_empty() { "" } else { "+" }))
}

/// Where cargo builds: this program is two folders below.
fn target(root: &Path) -> PathBuf {
    let own = std::env::current_exe().ok();
    own.and_then(|own| Some(own.parent()?.parent()?.to_owned())).unwrap_or_else(|| root.join("target"))
}

/// Writes the table of all runs into the document.
fn write_table(root: &Path) -> io::Result<()> {
    let path = root.join(DOCUMENT);
    let (document, record) = (fs::read_to_string(&path)?, fs::read_to_string(root.join(RECORD))?);
    fs::write(path, with_table(&document, &record)?)
}

/// The document with the table of what the record says.
fn with_table(document: &str, record: &str) -> io::Result<String> {
    let mut runs: BTreeMap<String, Vec<Map<String, Value>>> = BTreeMap::new();
    for line in record.lines() {
        let run: Map<String, Value> = serde_json::from_str(line)?;
        let test = run.get("test").and_then(Value::as_str).unwrap_or_default();
        runs.entry(test.to_owned()).or_default().push(run);
    }
    let outside =
        document.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) =
        outside.ok_or_else(|| io::Error::other(format!("{DOCUMENT} has no place for the table")))?;
    let mut table = "| test | counted | in | found | last |\n|---|---|---|---|---|\n".to_owned();
    for test in Test::value_variants() {
        let Some(runs) = runs.get(&test.name()) else { continue };
        table.push_str(&row(*test, runs));
    }
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// What all runs of a test counted together.
fn row(test: Test, runs: &[Map<String, Value>]) -> String {
    let number = |run: &Map<String, Value>, name: &str| run.get(name).and_then(Value::as_u64);
    let counts = runs.iter().filter_map(|run| run.get("counts")?.as_object());
    let seconds: u64 = runs.iter().filter_map(|run| number(run, "seconds")).sum();
    let failed = runs.iter().filter(|run| failure(run).is_some()).count();
    let found =
        if failed == 0 { "nothing".to_owned() } else { format!("in {failed} of {} runs", runs.len()) };
    let text = |name: &str| runs.last().and_then(|run| run.get(name)?.as_str()).unwrap_or_default();
    let seed = runs.last().and_then(|run| number(run, "first_seed"));
    let seed = seed.map_or(String::new(), |seed| format!(", seeds from {seed} on"));
    format!(
        "| {} | {} | {} min | {found} | {}, `{}`{seed} |\n",
        test.title(),
        in_words(test, counts),
        grouped(seconds.div_ceil(60)),
        text("date"),
        text("commit")
    )
}

/// The sums of what a test counts.
fn in_words<'a>(test: Test, counted: impl Iterator<Item = &'a Map<String, Value>> + Clone) -> String {
    let words = test.counts().iter().map(|(name, words)| {
        let sum = counted.clone().filter_map(|counts| counts.get(*name)?.as_u64()).sum();
        format!("{} {words}", grouped(sum))
    });
    words.collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_the_record_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |path: &str| fs::read_to_string(root.join(path)).expect("it is there");
        let document = read(DOCUMENT);
        let written = with_table(&document, &read(RECORD)).expect("a table");
        assert!(written == document, "cargo xtask soak --table writes it");
    }

    #[test]
    fn runs_of_one_test_are_added_up() {
        let record = r#"{"test":"kill","date":"2026-01-02","commit":"aaa","seconds":61,"counts":{"kills":950,"requests":1},"failure":null}
{"test":"sim","date":"2026-01-03","commit":"bbb","first_seed":7,"seconds":2,"counts":{"crash_states":5},"failure":{"seed":7}}
{"test":"kill","date":"2026-01-04","commit":"ccc+","seconds":60,"counts":{"kills":50,"requests":2},"failure":null}
"#;
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let written = with_table(&document, record).expect("a table");
        let rows: Vec<&str> = written.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert_eq!(
            rows,
            [
                "| A, C, E. Simulated lives | 5 crash states, 0 deaths during recovery, 0 damaged disks | 1 min \
                 | in 1 of 1 runs | 2026-01-03, `bbb`, seeds from 7 on |",
                "| G. `kill -9` under load | 1,000 kills, 3 requests answered before them | 3 min | nothing \
                 | 2026-01-04, `ccc+` |",
            ]
        );
        assert!(written.starts_with("before\n") && written.ends_with(&format!("{END}\nafter\n")));
        assert!(with_table("no place", record).is_err());
    }
}
