//! `cargo xtask fuzz`: the fuzz targets, each for a while.

use std::fs;
use std::io::{self, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

use clap::Args;
use parking_lot::Mutex;

use crate::exit_code;
use crate::sim::jobs;
use crate::workers::until_one_fails;

/// What a target may use: any input that needs more is a find.
const MEMORY_MIB: u64 = 2048;
/// ... and for how long one input may keep it busy.
const INPUT_SECONDS: u64 = 20;
/// The longest input that is made up: room for some dozens of requests, records or changes.
const INPUT_BYTES: u64 = 4096;
/// The target whose code does not wait for the threads that it starts.
const READS_ON_A_THREAD: &str = "image_files";

/// Which targets, and for how long.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask fuzz                                      all targets, a minute each
  cargo xtask fuzz nbd_requests --seconds 86400         one of them for a day
  cargo xtask fuzz nbd_requests --input FILE            one input, once more

What is new goes to target/fuzz-corpus, so the next run begins where this one ended. The corpora in fuzz/corpus are for
every checkout, and small: what earns a place there, cargo fuzz cmin finds.")]
pub(crate) struct Arguments {
    /// Only these [default: all]
    targets: Vec<String>,
    /// For how long each
    #[arg(long, value_name = "N", default_value = "60")]
    seconds: NonZeroU64,
    /// Targets that run at a time [default: one a processor]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Looks for misuse of memory, too ("address", twice as slow), or not ("none")
    #[arg(long, value_name = "KIND", default_value = "address", value_parser = ["address", "none"])]
    sanitizer: String,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Runs a target once, with this input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// What a target did.
struct Outcome {
    target: String,
    executions: u64,
    a_second: u64,
    /// Inputs that reached something new.
    found: u64,
    /// Edges of the program's flow that were reached.
    coverage: u64,
    /// The input that it failed with, and the end of what it said.
    failure: Option<(Option<PathBuf>, String)>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    exit_code(try_run(arguments))
}

/// Whether no target failed.
fn try_run(arguments: &Arguments) -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let known = targets(&root)?;
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        return Err(io::Error::other(format!(
            "there is no target {unknown}\nhint: there are {}",
            known.join(", ")
        )));
    }
    let wanted = if arguments.targets.is_empty() { &known } else { &arguments.targets };
    let kind = &arguments.sanitizer;
    succeed(Command::new(root.join("tests/install-cargo-tool")).arg("cargo-fuzz"))?;
    if let Some(input) = &arguments.input {
        let [target] = &wanted[..] else {
            return Err(io::Error::other("--input is for one target"));
        };
        // cargo-fuzz works in a folder of its own choice.
        let input = input.canonicalize()?;
        return Ok(cargo_fuzz(&root, "run", target, kind).arg(input).status()?.success());
    }
    for target in wanted {
        succeed(&mut cargo_fuzz(&root, "build", target, kind))?;
    }
    let began = Instant::now();
    if !arguments.json {
        println!("{:18} {:>13} {:>10} {:>7} {:>9}", "target", "executions", "a second", "new", "coverage");
    }
    let jobs = arguments.jobs.map_or_else(jobs, NonZeroUsize::get);
    let outcomes = Mutex::new(Vec::new());
    let broken = until_one_fails(
        jobs,
        wanted.iter(),
        || (),
        |(), target| {
            let outcome = fuzz(&root, target, arguments)?;
            if !arguments.json {
                show(&outcome)?;
            }
            outcomes.lock().push(outcome);
            Ok::<(), io::Error>(())
        },
    );
    broken.map_or(Ok(()), Err)?;
    let outcomes = outcomes.into_inner();
    if arguments.json {
        println!("{}", report(&outcomes, began.elapsed()));
        return Ok(outcomes.iter().all(|outcome| outcome.failure.is_none()));
    }
    for Outcome { target, failure, .. } in &outcomes {
        let Some((input, said)) = failure else { continue };
        println!("\n{target} failed:\n{said}");
        if let Some(input) = input {
            println!("the input: {}", input.display());
            println!("once more: cargo xtask fuzz {target} --input {}", input.display());
        }
    }
    Ok(outcomes.iter().all(|outcome| outcome.failure.is_none()))
}

fn report(outcomes: &[Outcome], took: Duration) -> serde_json::Value {
    let inputs = |of: &str| {
        let these = outcomes.iter().filter(|outcome| outcome.target.starts_with(of));
        these.map(|outcome| outcome.executions).sum::<u64>()
    };
    let by_target: serde_json::Map<String, serde_json::Value> =
        outcomes.iter().map(|outcome| (outcome.target.clone(), outcome.executions.into())).collect();
    let failed = |outcome: &Outcome| {
        let (input, said) = outcome.failure.as_ref()?;
        Some(serde_json::json!({"target": outcome.target, "input": input, "message": said}))
    };
    let failures: Vec<serde_json::Value> = outcomes.iter().filter_map(failed).collect();
    serde_json::json!({
        "inputs": inputs(""),
        "nbd_inputs": inputs("nbd_"),
        "by_target": by_target,
        "seconds": took.as_secs_f64(),
        "failure": (!failures.is_empty()).then_some(failures),
    })
}

/// The targets that there are.
fn targets(root: &Path) -> io::Result<Vec<String>> {
    let files = fs::read_dir(root.join("fuzz/fuzz_targets"))?;
    let name = |file: io::Result<fs::DirEntry>| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned());
    let mut targets: Vec<String> = files.filter_map(name).collect();
    targets.sort();
    Ok(targets)
}

/// cargo-fuzz, to do something with a target: with what is built for that, and no more.
fn cargo_fuzz(root: &Path, what: &str, target: &str, sanitizer: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What is set for this very program is not meant for others.
    command.env_remove("CARGO_MANIFEST_DIR").current_dir(root);
    // The flags that instrument programs are not stable.
    command.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", what, "--sanitizer", sanitizer]);
    let room = target.split_once('_').map_or(target, |(room, _)| room);
    command.args(["--no-default-features", "--features", room, target]);
    command
}

fn succeed(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{} ended with {status}", command.get_program().display())))
}

fn fuzz(root: &Path, target: &str, arguments: &Arguments) -> io::Result<Outcome> {
    // The first folder is the one that libFuzzer adds to.
    let folders = [root.join("target/fuzz-corpus").join(target), root.join("fuzz/corpus").join(target)];
    folders.iter().try_for_each(fs::create_dir_all)?;
    let mut command = cargo_fuzz(root, "run", target, &arguments.sanitizer);
    command.args(folders).arg("--");
    command.args([
        format!("-max_total_time={}", arguments.seconds),
        format!("-rss_limit_mb={MEMORY_MIB}"),
        format!("-timeout={INPUT_SECONDS}"),
        format!("-max_len={INPUT_BYTES}"),
        "-print_final_stats=1".to_owned(),
    ]);
    if target == READS_ON_A_THREAD {
        // What a thread still holds that is about to end looks like a leak.
        command.arg("-detect_leaks=0");
    }
    let Output { status, stderr, .. } = command.output()?;
    let said = String::from_utf8_lossy(&stderr);
    let figure = |name: &str| {
        let at = said.rfind(name)? + name.len();
        said[at..].split_whitespace().next()?.parse().ok()
    };
    let failure = (!status.success()).then(|| {
        let written = said.lines().find_map(|line| line.split_once("Test unit written to "));
        (written.map(|(_, path)| root.join(path.trim())), story(&said))
    });
    Ok(Outcome {
        target: target.to_owned(),
        executions: figure("stat::number_of_executed_units:").unwrap_or(0),
        a_second: figure("stat::average_exec_per_sec:").unwrap_or(0),
        found: figure("stat::new_units_added:").unwrap_or(0),
        coverage: figure(" cov: ").unwrap_or(0),
        failure,
    })
}

/// What tells most of all that a target said before it ended: its panic, or why libFuzzer ended it.
fn story(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let telling =
        |line: &&str| line.contains("panicked at") || line.contains("ERROR:") || line.starts_with("error");
    let from = lines.iter().position(telling).unwrap_or(lines.len().saturating_sub(20));
    lines[from..].iter().take(20).copied().collect::<Vec<&str>>().join("\n")
}

fn show(outcome: &Outcome) -> io::Result<()> {
    let Outcome { target, executions, a_second, found, coverage, failure } = outcome;
    let failed = if failure.is_some() { "  FAILED" } else { "" };
    writeln!(io::stdout(), "{target:18} {executions:>13} {a_second:>10} {found:>7} {coverage:>9}{failed}")
}
