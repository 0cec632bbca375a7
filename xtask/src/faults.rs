//! `cargo xtask faults`: every operation of a pool's disk fails, one after the other, for as many lives as there is time for.

use std::num::{NonZeroU64, NonZeroUsize};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cairn_sim::faults::{Chapter, Kind};
use cairn_sim::tally::Tally;
use clap::Args;
use indicatif::ProgressBar;
use parking_lot::Mutex;

use crate::sim::{caught, fresh, grouped, jobs, progress, quiet_lives};
use crate::workers::until_one_fails;

/// How much is run, and from where on.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask faults                         a minute of fresh seeds
  cargo xtask faults --seconds 3600          an hour of them
  cargo xtask faults --seed 4711             every fault point of one seed
  cargo xtask faults --seed 4711 --point 12  one of them

A fault point is one operation of the disk (a read, a write, a barrier, a growth), in the opening of a pool or while
several writers and a controller work on it, and one thing that goes wrong with it: it fails once, wherever it went, or for
ever from then on; it finds no space; a read brings a wrong bit; a read or write goes astray; a write gets lost. Life goes
on after it, and is then compared with an oracle, in the same process and after its death or a power loss.")]
pub(crate) struct Arguments {
    /// For how long [default: 60, or all points of one seed where --seed is given]
    #[arg(long, value_name = "N")]
    seconds: Option<NonZeroU64>,
    /// The first seed; those after it follow [default: one that no other run has used]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only this point of the seed
    #[arg(long, value_name = "N", requires = "seed", conflicts_with = "seconds")]
    point: Option<u64>,
    /// Threads, each with a life of its own [default: one a processor]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A fault after which something is wrong; none where the life before it ended badly.
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) point: Option<u64>,
    pub(crate) message: String,
}

/// Runs the points of one seed after the other, of one at least, until the time is up or something is found wrong.
/// Without a time it is all points of the first.
pub(crate) fn chapters(
    first: u64,
    threads: usize,
    time: Option<Duration>,
    only: Option<u64>,
    each: impl Fn(Kind, Tally) + Sync,
) -> Option<Failure> {
    let began = Instant::now();
    let in_time = |number: u64| number == 0 || time.is_some_and(|time| began.elapsed() < time);
    until_one_fails(
        threads,
        (0..).take_while(|number| in_time(*number)).map(|number| first.wrapping_add(number)),
        || (),
        |(), seed| {
            let chapter =
                caught(|| Chapter::new(seed)).map_err(|message| Failure { seed, point: None, message })?;
            let wanted = chapter.scattered().filter(|number| only.is_none_or(|only| only == *number));
            for number in wanted.take_while(|_| time.is_none_or(|time| began.elapsed() < time)) {
                let point = chapter.point(number);
                let tally = caught(|| chapter.run(point)).map_err(|message| {
                    let message = format!("{:?}, operation {}: {message}", point.kind, point.n);
                    Failure { seed, point: Some(number), message }
                })?;
                each(point.kind, tally);
            }
            Ok(())
        },
    )
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let jobs = arguments.jobs.map_or_else(jobs, NonZeroUsize::get);
    let first = arguments.seed.unwrap_or_else(fresh);
    let time = match (arguments.seed, arguments.seconds) {
        (Some(_), None) => None,
        (_, seconds) => Some(Duration::from_secs(seconds.map_or(60, NonZeroU64::get))),
    };
    let jobs = if time.is_some() { jobs } else { 1 };
    quiet_lives();
    let began = Instant::now();
    let bar = match time {
        Some(time) if !arguments.json => progress(time.as_secs(), "{bar:30} {elapsed} of {len} s  {msg}"),
        _ => ProgressBar::hidden(),
    };
    let total = Mutex::new(([0u64; Kind::ALL.len()], Tally::default()));
    let failure = chapters(first, jobs, time, arguments.point, |kind, tally| {
        let mut total = total.lock();
        total.0[kind as usize] += 1;
        total.1.add(tally);
        bar.set_message(format!("{} fault points", grouped(total.0.iter().sum())));
        bar.set_position(began.elapsed().as_secs());
    });
    bar.finish_and_clear();
    let (kinds, tally) = total.into_inner();
    let points: u64 = kinds.iter().sum();
    let took = began.elapsed().as_secs_f64();
    let rate = points as f64 / took;
    if arguments.json {
        let by_kind: serde_json::Map<String, serde_json::Value> =
            Kind::ALL.iter().zip(kinds).map(|(kind, count)| (format!("{kind:?}"), count.into())).collect();
        let report = serde_json::json!({
            "first_seed": first,
            "fault_points": points,
            "by_kind": by_kind,
            "crash_states": tally.states,
            "seconds": took,
            "points_per_second": rate,
            "jobs": jobs,
            "failure": failure.as_ref().map(
                |f| serde_json::json!({"seed": f.seed, "point": f.point, "message": f.message})
            ),
        });
        println!("{report}");
    } else {
        println!("seeds             {first} and on");
        println!("fault points      {}", grouped(points));
        for (kind, count) in Kind::ALL.iter().zip(kinds) {
            println!("  {:27} {}", format!("{kind:?}"), grouped(count));
        }
        println!("crash states      {}", grouped(tally.states));
        println!("points a second   {rate:.0}, with {jobs} threads: {:.0} each", rate / jobs as f64);
        println!("failures          {}", u64::from(failure.is_some()));
    }
    match failure {
        None => ExitCode::SUCCESS,
        Some(Failure { seed, point, message }) => {
            let point = point.map_or(String::new(), |point| format!(" --point {point}"));
            eprintln!(
                "\nseed {seed} failed: {message}\n\nreplay it with:\n    cargo xtask faults --seed {seed}{point}"
            );
            ExitCode::FAILURE
        }
    }
}
