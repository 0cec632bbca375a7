//! `cargo xtask sim`: the simulator, on as many seeds as there is time for.

use std::cell::Cell;
use std::num::{NonZeroU64, NonZeroUsize};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cairn_sim::sweep::sweep;
use cairn_sim::tally::Tally;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::workers::until_one_fails;

/// How much is run, and from where on.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask sim                         a minute of fresh seeds
  cargo xtask sim --seconds 86400         a day of them
  cargo xtask sim --seed 4711             the story of one seed, once more

A crash state is what a death leaves of the disk, opened again and compared with an oracle: every sector of every volume
and snapshot. Of one in 32 every block is accounted for as well. A damaged disk is one on which bits flipped or pages got
lost or mixed up after a clean stop: nothing wrong may be served of it.")]
pub(crate) struct Arguments {
    /// For how long; lives that have begun are lived to their end [default: 60, or one life where --seed is given]
    #[arg(long, value_name = "N")]
    seconds: Option<NonZeroU64>,
    /// The first seed; those after it follow [default: one that no other run has used]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Threads, each with a life of its own [default: one a processor]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A seed whose story ended badly.
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) message: String,
}

thread_local! {
    /// The panic under way in a life is told when the life is over.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does what panics when it finds something wrong.
///
/// # Errors
/// With what was found wrong.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    QUIET.set(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })
}

/// Lives the lives of one seed after the other, of one at least, until the time is up or something is found wrong.
pub(crate) fn lives(
    first: u64,
    threads: usize,
    time: Duration,
    each: impl Fn(Tally) + Sync,
) -> Option<Failure> {
    let began = Instant::now();
    let seeds = (0..).take_while(|number| *number == 0 || began.elapsed() < time);
    until_one_fails(
        threads,
        seeds.map(|number| first.wrapping_add(number)),
        || (),
        |(), seed| match caught(|| sweep(seed)) {
            Ok(tally) => {
                each(tally);
                Ok(())
            }
            Err(message) => Err(Failure { seed, message }),
        },
    )
}

/// Threads that suit this machine.
pub(crate) fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// From now on panics in lives are told by who looks at them, not twice.
pub(crate) fn quiet_lives() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            usual(info);
        }
    }));
}

/// A seed of which nobody has heard, with room for those that follow.
pub(crate) fn fresh() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()) << 40) >> 16 << 16
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let jobs = arguments.jobs.map_or_else(jobs, NonZeroUsize::get);
    let (first, seconds) = match (arguments.seed, arguments.seconds) {
        (Some(seed), None) => (seed, None),
        (seed, seconds) => (seed.unwrap_or_else(fresh), Some(seconds.map_or(60, NonZeroU64::get))),
    };
    let jobs = if seconds.is_some() { jobs } else { 1 };
    quiet_lives();
    let began = Instant::now();
    let time = seconds.map_or(Duration::ZERO, Duration::from_secs);
    let bar = if arguments.json || time.is_zero() {
        ProgressBar::hidden()
    } else {
        progress(time.as_secs(), "{bar:30} {elapsed} of {len} s  {msg}")
    };
    let total = Mutex::new((Tally::default(), 0u64));
    let failure = lives(first, jobs, time, |tally| {
        let mut total = total.lock();
        total.0.add(tally);
        total.1 += 1;
        bar.set_message(format!("{} states", grouped(total.0.states)));
        bar.set_position(began.elapsed().min(time).as_secs());
    });
    bar.finish_and_clear();
    let (tally, lives) = total.into_inner();
    let took = began.elapsed().as_secs_f64();
    let rate = tally.states as f64 / took;
    if arguments.json {
        let report = serde_json::json!({
            "first_seed": first,
            "lives": lives,
            "crash_states": tally.states,
            "nested_crashes": tally.nested,
            "damaged_disks": tally.damaged,
            "checked_in_full": tally.checked,
            "seconds": took,
            "states_per_second": rate,
            "jobs": jobs,
            "failure": failure.as_ref().map(|f| serde_json::json!({"seed": f.seed, "message": f.message})),
        });
        println!("{report}");
    } else {
        println!("seeds             {first} and on, {} lives", grouped(lives));
        println!("crash states      {}", grouped(tally.states));
        println!("nested crashes    {}", grouped(tally.nested));
        println!("damaged disks     {}", grouped(tally.damaged));
        println!("checked in full   {}", grouped(tally.checked));
        println!("states a second   {rate:.0}, with {jobs} threads: {:.0} each", rate / jobs as f64);
        println!("failures          {}", u64::from(failure.is_some()));
    }
    match failure {
        None => ExitCode::SUCCESS,
        Some(Failure { seed, message }) => {
            eprintln!(
                "\nseed {seed} failed: {message}\n\nreplay it with:\n    cargo xtask sim --seed {seed}"
            );
            ExitCode::FAILURE
        }
    }
}

/// A bar that is drawn as `template` says.
pub(crate) fn progress(len: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    // It is our own text.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// A number with a comma at every third digit.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
