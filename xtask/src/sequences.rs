//! `cargo xtask sequences`: every short sequence of operations with every crash in it.

use std::process::ExitCode;
use std::time::Instant;

use cairn_sim::sequences::{Beginning, Step, count, sequence};
use cairn_sim::tally::Tally;
use clap::Args;
use indicatif::ProgressBar;
use parking_lot::Mutex;

use crate::sim::{caught, grouped, jobs, progress, quiet_lives};
use crate::workers::until_one_fails;

/// How long the sequences are.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask sequences                    all of one, two and three steps
  cargo xtask sequences --steps 2          all of one and two
  cargo xtask sequences --only Write,Flush,Snapshot

A pool with two volumes and a snapshot, with much room or with hardly any, is opened and asked for one step
after the other. Between any two I/Os it is looked what a power loss would leave, for every subset of the
writes that are not synced then (of more than 12: 64 samples).")]
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
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A sequence in which something went wrong, and what.
pub(crate) struct Failure {
    pub(crate) steps: Vec<Step>,
    pub(crate) tight: bool,
    pub(crate) message: String,
}

/// Runs all sequences of so many steps at most; stops at the first in which something goes wrong.
pub(crate) fn all(steps: u32, each: impl Fn(Tally) + Sync) -> Option<Failure> {
    let sequences =
        (1..=steps).flat_map(|length| (0..count(length)).map(move |number| sequence(length, number)));
    until_one_fails(
        jobs(),
        sequences.flat_map(|steps| [false, true].map(|tight| (steps.clone(), tight))),
        || [false, true].map(|tight| caught(|| Beginning::new(tight))),
        |beginnings, (steps, tight)| {
            let ran = match &beginnings[usize::from(tight)] {
                Ok(beginning) => caught(|| beginning.run(&steps)),
                Err(message) => Err(message.clone()),
            };
            ran.map(&each).map_err(|message| Failure { steps, tight, message })
        },
    )
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
    let total = Mutex::new((Tally::default(), 0u64));
    let count_it = |tally| {
        let mut total = total.lock();
        total.0.add(tally);
        total.1 += 1;
        total.0.states
    };
    let failure = if only.is_empty() {
        let all_there_are = (1..=arguments.steps).map(count).sum::<u64>() * 2;
        let bar = match arguments.json {
            true => ProgressBar::hidden(),
            false => progress(all_there_are, "{bar:30} {pos} of {len} sequences, {eta} left  {msg}"),
        };
        let failure = all(arguments.steps, |tally| {
            bar.set_message(format!("{} states", grouped(count_it(tally))));
            bar.inc(1);
        });
        bar.finish_and_clear();
        failure
    } else {
        let ran = caught(|| Beginning::new(arguments.tight).run(&only)).map(count_it);
        ran.err().map(|message| Failure { steps: only, tight: arguments.tight, message })
    };
    let (tally, sequences) = total.into_inner();
    let took = began.elapsed().as_secs_f64();
    if arguments.json {
        let report = serde_json::json!({
            "sequences": sequences,
            "crash_states": tally.states,
            "checked_in_full": tally.checked,
            "seconds": took,
            "failure": failure.as_ref().map(
                |f| serde_json::json!({"steps": named(&f.steps), "tight": f.tight, "message": f.message})
            ),
        });
        println!("{report}");
    } else {
        println!("sequences         {}", grouped(sequences));
        println!("crash states      {}", grouped(tally.states));
        println!("checked in full   {}", grouped(tally.checked));
        println!("states a second   {:.0}", tally.states as f64 / took);
        println!("failures          {}", u64::from(failure.is_some()));
    }
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
