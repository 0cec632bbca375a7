//! `cargo xtask sequences`: every short sequence of operations with every crash in it.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use cairn_sim::sequences::{Beginning, Step, count, sequence};
use cairn_sim::sweep::Tally;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::sim::{caught, grouped, jobs, quiet_lives};

/// How long the sequences are.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask sequences                    all of one, two and three steps
  cargo xtask sequences --steps 2          all of one and two
  cargo xtask sequences --only Write,Flush,Snapshot

A pool with two volumes and a snapshot, with much room or with hardly any, is opened and asked for one step after the other. Between any two I/Os it is looked
what a power loss would leave, for every subset of the writes that are not synced then (of more than 12: 64 samples).")]
pub(crate) struct Arguments {
    /// Steps of the longest sequences
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=4))]
    steps: u32,
    /// Only this sequence
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    only: Vec<String>,
    /// That in a pool with hardly any room; without --only, all are run in both
    #[arg(long, requires = "only")]
    tight: bool,
}

/// A sequence in which something went wrong, and what.
pub(crate) struct Failure {
    pub(crate) steps: Vec<Step>,
    pub(crate) tight: bool,
    pub(crate) message: String,
}

/// Runs all sequences of so many steps at most; stops at the first in which something goes wrong.
pub(crate) fn all(steps: u32, each: impl Fn(Tally) + Sync) -> Option<Failure> {
    let lengths = (1..=steps).flat_map(|length| (0..count(length)).map(move |number| (length, number)));
    let todo =
        Mutex::new(lengths.flat_map(|(length, number)| [false, true].map(|tight| (length, number, tight))));
    let (over, failure) = (AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..jobs() {
            scope.spawn(|| {
                let made = caught(|| [false, true].map(Beginning::new));
                let beginnings = match made {
                    Ok(beginnings) => beginnings,
                    Err(message) => {
                        *failure.lock().unwrap_or_else(|e| e.into_inner()) =
                            Some(Failure { steps: Vec::new(), tight: true, message });
                        return;
                    }
                };
                while !over.load(Ordering::Relaxed) {
                    let next = todo.lock().unwrap_or_else(|e| e.into_inner()).next();
                    let Some((length, number, tight)) = next else { return };
                    let steps = sequence(length, number);
                    match caught(|| beginnings[usize::from(tight)].run(&steps)) {
                        Ok(tally) => each(tally),
                        Err(message) => {
                            over.store(true, Ordering::Relaxed);
                            *failure.lock().unwrap_or_else(|e| e.into_inner()) =
                                Some(Failure { steps, tight, message });
                        }
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner())
}

/// As `--only` takes them.
pub(crate) fn named(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step:?}")).collect::<Vec<_>>().join(",")
}

fn chosen(names: &[String]) -> Result<Vec<Step>, String> {
    let find = |name: &String| {
        let all = || Step::ALL.iter().copied();
        all().find(|step| format!("{step:?}") == *name).ok_or_else(|| {
            format!("there is no step {name}\nhint: there are {}", named(&Step::ALL).replace(',', ", "))
        })
    };
    names.iter().map(find).collect()
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    quiet_lives();
    let only = match chosen(&arguments.only) {
        Ok(only) => only,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::FAILURE;
        }
    };
    let began = Instant::now();
    let (sequences, total) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    let failure = if only.is_empty() {
        let bar = progress((1..=arguments.steps).map(count).sum::<u64>() * 2);
        let failure = all(arguments.steps, |tally| {
            sequences.fetch_add(1, Ordering::Relaxed);
            let mut total = total.lock().unwrap_or_else(|e| e.into_inner());
            total.add(tally);
            bar.set_message(format!("{} states", grouped(total.states)));
            bar.inc(1);
        });
        bar.finish_and_clear();
        failure
    } else {
        match caught(|| Beginning::new(arguments.tight).run(&only)) {
            Ok(tally) => {
                sequences.fetch_add(1, Ordering::Relaxed);
                total.lock().unwrap_or_else(|e| e.into_inner()).add(tally);
                None
            }
            Err(message) => Some(Failure { steps: only, tight: arguments.tight, message }),
        }
    };
    let tally = total.into_inner().unwrap_or_else(|e| e.into_inner());
    println!("sequences         {}", grouped(sequences.into_inner()));
    println!("crash states      {}", grouped(tally.states));
    println!("checked in full   {}", grouped(tally.checked));
    println!("states a second   {:.0}", tally.states as f64 / began.elapsed().as_secs_f64());
    println!("failures          {}", u64::from(failure.is_some()));
    match failure {
        None => ExitCode::SUCCESS,
        Some(Failure { steps, tight, message }) => {
            let (steps, tight) = (named(&steps), if tight { " --tight" } else { "" });
            eprintln!("\n{steps} failed: {message}\n\nreplay it with:");
            eprintln!("    cargo xtask sequences{tight} --only {steps}");
            ExitCode::FAILURE
        }
    }
}

fn progress(sequences: u64) -> ProgressBar {
    let bar = ProgressBar::new(sequences);
    // It is our own text.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} sequences, {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar
}
