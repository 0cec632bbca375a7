//! `cairnd`: virtual disks over NBD, with snapshots and clones, from one file or block device.

use std::process::ExitCode;

use cairnd::config::{Cli, Command};
use cairnd::log::{Log, say_last_words};
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Some(Command::Offline(offline)) => {
            Log::start("warn");
            return cairnd::offline::run(offline).unwrap_or_else(|error| fail(&error));
        }
        Some(Command::About(about)) => {
            let told = about.run(Cli::command(), "8");
            return told.map_or_else(|error| fail(&error.to_string()), |()| ExitCode::SUCCESS);
        }
        None => {}
    }
    let only_check = cli.check_config;
    let config = match cli.into_config() {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    if only_check {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    let log = Log::start(&config.log.filter);
    match cairnd::run::run(config, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &str) -> ExitCode {
    say_last_words(error);
    ExitCode::FAILURE
}
