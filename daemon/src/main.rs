//! `cairnd`: virtual disks over NBD, with snapshots and clones, from one file or block device.

use std::io::IsTerminal;
use std::process::ExitCode;

use cairnd::config::Cli;
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(offline) = &cli.offline {
        log("warn");
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
    log(&config.log.filter);
    match cairnd::run::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn log(filter: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn fail(error: &str) -> ExitCode {
    eprintln!("cairnd: {error}");
    ExitCode::FAILURE
}
