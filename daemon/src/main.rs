//! `cairnd`: virtual disks over NBD, with snapshots and clones, from one file or block device.

use std::process::ExitCode;

use cairnd::config::Cli;
use cairnd::log::{Log, say_last_words};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(offline) = &cli.offline {
        Log::start("warn");
        return cairnd::offline::run(offline).unwrap_or_else(|error| fail(&error));
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
