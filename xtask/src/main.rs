//! What cairn's developers run beside cargo's own commands: `cargo xtask --help`.

mod deb;
mod dist;
mod faults;
mod fuzz;
mod mutants;
mod sequences;
mod sim;
mod soak;
mod workers;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

/// A simulated process allocates most of what it has and is gone in half a millisecond: a tenth more of them fit into a second.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What cairn's developers run beside cargo's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the engine in the simulator: random work, a crash at many moments, and a comparison with an oracle each time
    Sim(sim::Arguments),
    /// Every short sequence of operations, a crash between any two I/Os, every part of what was not synced
    Sequences(sequences::Arguments),
    /// Every I/O and barrier fails once, and for ever: all is told, and nothing that was flushed is lost
    Faults(faults::Arguments),
    /// Plants one defect after the other in the engine and sees that the simulator finds it
    Mutants(mutants::Arguments),
    /// Runs the tests of docs/RELIABILITY.md for long, and records what they counted
    Soak(soak::Arguments),
    /// Gives the decoders of everything that comes from outside inputs that nobody thought of
    Fuzz(fuzz::Arguments),
    /// Writes shell completions and manual pages
    Dist(dist::Arguments),
    /// Makes a Debian package
    Deb(deb::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Sequences(arguments) => sequences::run(&arguments),
        Command::Faults(arguments) => faults::run(&arguments),
        Command::Mutants(arguments) => mutants::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::Deb(arguments) => deb::run(&arguments),
    }
}

/// How a command ends that found nothing wrong, or something, or could not look.
fn exit_code(sound: io::Result<bool>) -> ExitCode {
    match sound {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
