//! `cairn`: the command line of a running `cairnd`.
//!
//! | room | what it holds |
//! |---|---|
//! | [`args`] | the command line as clap sees it, with its help |
//! | [`client`] | HTTP over the control socket |
//! | [`commands`] | one function a command: ask the daemon, say what it said |
//! | [`console`] | the web console: a page, and the way from it to the daemon |
//! | [`rates`] | what volumes did between two looks at the daemon's figures |
//! | [`render`] | tables, trees, sizes and times for people |
//! | [`output`] | where it goes: terminal or pipe, people or JSON |
//! | [`failure`] | what went wrong, what to do about it, and the exit code |
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

mod args;
mod client;
mod commands;
mod console;
mod failure;
mod output;
mod rates;
mod render;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let output = Output::detect(cli.json);
    match run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output.json),
    }
}

fn run(cli: args::Cli, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::local("internal", format!("cannot start: {e}")))?;
    let client = client::Client::new(cli.place());
    let done = runtime.block_on(commands::run(cli.command, &client, output));
    // What still waits for a file or a network is not wanted any more.
    runtime.shutdown_background();
    done
}
