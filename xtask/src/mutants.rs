//! `cargo xtask mutants`: the engine with one deliberate defect after the other; the simulator must find each.

#[cfg(not(feature = "mutants"))]
use std::process::ExitCode;

use clap::Args;

/// Which defects, and how long each may take.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask mutants                                 all of them
  cargo xtask mutants --list                          what there are
  cargo xtask mutants --seconds 300 FreedUnderReaders")]
pub(crate) struct Arguments {
    /// Only these [default: all but those that a minute finds by luck only]
    names: Vec<String>,
    /// For how long the simulator looks for each, at most
    #[arg(long, value_name = "N", default_value = "120")]
    seconds: u64,
    /// The first seed; those after it follow [default: one that no other run has used]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only what `cargo xtask sim` runs, without the single operations that come first
    #[arg(long)]
    lives: bool,
    /// Lists the defects and ends
    #[arg(long)]
    list: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// In this very process
    #[arg(long, hide = true)]
    alone: bool,
}

/// Starts this program once more, with the defects in it.
#[cfg(not(feature = "mutants"))]
pub(crate) fn run(_: &Arguments) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.args([
        "run",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "xtask",
        "--features",
        "mutants",
        "--",
    ]);
    match command.args(std::env::args_os().skip(1)).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: cargo cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "mutants")]
pub(crate) use planted::run;

#[cfg(feature = "mutants")]
mod planted {
    use std::process::{Child, Command, ExitCode, Stdio};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use cairn_cow::defect::{Defect, plant};
    use cairn_sim::tally::Tally;
    use rustix::process::{Resource, Rlimit, setrlimit};

    use super::Arguments;
    use crate::sequences;
    use crate::sim::{Failure, fresh, grouped, jobs, lives, quiet_lives};

    /// How much longer than it may look a process takes that has not got lost.
    const GRACE: Duration = Duration::from_secs(20);
    /// Memory that it may use: a defect may want all there is.
    const MEMORY: u64 = 4 << 30;
    /// Steps of the sequences that come before the lives: they take a second or two, and show more plainly what is wrong.
    const SEQUENCES: u32 = 1;
    /// How a process that looks for a defect ends when it has found it.
    const FOUND: u8 = 10;

    fn name(defect: Defect) -> String {
        format!("{defect:?}")
    }

    pub(crate) fn run(arguments: &Arguments) -> ExitCode {
        if arguments.list {
            for defect in Defect::ALL {
                let rare = if Defect::RARE.contains(defect) { " (only when it is named)" } else { "" };
                println!("{:26} {}{rare}", name(*defect), defect.what());
            }
            return ExitCode::SUCCESS;
        }
        if let Some(unknown) = arguments.names.iter().find(|n| !Defect::ALL.iter().any(|d| name(*d) == **n)) {
            eprintln!("error: there is no defect {unknown}\nhint: cargo xtask mutants --list");
            return ExitCode::FAILURE;
        }
        let named = |defect: &&Defect| match arguments.names.is_empty() {
            true => !Defect::RARE.contains(*defect),
            false => arguments.names.contains(&name(**defect)),
        };
        let wanted: Vec<Defect> = Defect::ALL.iter().filter(named).copied().collect();
        let (first, time) = (arguments.seed.unwrap_or_else(fresh), Duration::from_secs(arguments.seconds));
        if arguments.alone {
            return alone(arguments, &wanted, first, time);
        }
        let begun = Instant::now();
        if !arguments.json {
            println!("seeds {first} and on, {} s at most for each\n", arguments.seconds);
        }
        let (mut caught, mut escaped) = (0, Vec::new());
        for defect in wanted {
            let began = Instant::now();
            // A defect may end in a loop without end, or in an abort.
            let told = match look_apart(arguments, defect, first, time) {
                Ok(told) => told,
                Err(error) => {
                    eprintln!("error: this program cannot be started again: {error}");
                    return ExitCode::FAILURE;
                }
            };
            let took = began.elapsed().as_secs_f64();
            match told {
                Some(_) if arguments.json => caught += 1,
                Some(told) => {
                    caught += 1;
                    let short: String = told.lines().next().unwrap_or_default().chars().take(100).collect();
                    println!("{:26} caught in {took:5.1} s: {short}", name(defect));
                }
                None => {
                    escaped.push(name(defect));
                    if !arguments.json {
                        println!("{:26} ESCAPED: {}", name(defect), defect.what());
                    }
                }
            }
        }
        if arguments.json {
            let report = serde_json::json!({
                "first_seed": first,
                "mutants_caught": caught,
                "seconds": begun.elapsed().as_secs_f64(),
                "failure": (!escaped.is_empty()).then_some(&escaped),
            });
            println!("{report}");
        } else {
            println!("\n{caught} caught, {} escaped", escaped.len());
        }
        if escaped.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Looks for a defect in a process of its own; what was found.
    fn look_apart(
        arguments: &Arguments,
        defect: Defect,
        first: u64,
        time: Duration,
    ) -> std::io::Result<Option<String>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "mutants",
                "--alone",
                "--seed",
                &first.to_string(),
                "--seconds",
                &time.as_secs().to_string(),
            ])
            .args(arguments.lives.then_some("--lives"))
            .arg(name(defect))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let began = Instant::now();
        while child.try_wait()?.is_none() {
            if began.elapsed() > time + GRACE {
                child.kill()?;
                child.wait()?;
                return Ok(Some("it never ends".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        told(child)
    }

    fn told(child: Child) -> std::io::Result<Option<String>> {
        let output = child.wait_with_output()?;
        match output.status.code() {
            Some(0) => Ok(None),
            Some(code) if code == i32::from(FOUND) => {
                Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
            }
            _ => Ok(Some(format!("it dies: {}", output.status))),
        }
    }

    /// Looks for defects in this very process and says what was found of the first.
    fn alone(arguments: &Arguments, wanted: &[Defect], first: u64, time: Duration) -> ExitCode {
        let limit = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
        if let Err(error) = setrlimit(Resource::As, limit) {
            eprintln!("error: memory cannot be limited: {error}");
            return ExitCode::FAILURE;
        }
        quiet_lives();
        for defect in wanted {
            plant(Some(*defect));
            if !arguments.lives
                && let Some(failure) = sequences::all(SEQUENCES, |_| {})
            {
                println!("in the sequence {}: {}", sequences::named(&failure.steps), failure.message);
                return ExitCode::from(FOUND);
            }
            let states = AtomicU64::new(0);
            let count = |tally: Tally| _ = states.fetch_add(tally.states, Ordering::Relaxed);
            if let Some(Failure { seed, message }) = lives(first, jobs(), time, count) {
                println!("in seed {seed}, after {} states: {message}", grouped(states.into_inner()));
                return ExitCode::from(FOUND);
            }
        }
        ExitCode::SUCCESS
    }
}
