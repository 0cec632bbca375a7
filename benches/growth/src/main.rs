//! What `benches/growth/growth` measures with: pools that are mapped without data, and load on many NBD connections.

mod load;
mod map;
mod nbd;

use std::path::PathBuf;
use std::process::ExitCode;

use cairn_api::Size;
use clap::{Parser, Subcommand};

/// Tools for benches/growth/growth: each prints one line of JSON.
#[derive(Parser)]
#[command(name = "cairn-growth", version)]
struct Cli {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Make a pool with one volume, all of it mapped to blocks that were never written
    Map {
        /// The pool's file, which must not exist
        #[arg(long, value_name = "FILE")]
        pool: PathBuf,
        /// The volume's name
        #[arg(long, default_value = "demo")]
        volume: String,
        /// The volume's size
        #[arg(long)]
        size: Size,
    },
    /// Load volumes over NBD and tell how fast each request was
    Load(load::Plan),
}

fn main() -> ExitCode {
    let done = match Cli::parse().tool {
        Tool::Map { pool, volume, size } => map::map(&pool, &volume, size.bytes()),
        Tool::Load(plan) => load::run(&plan),
    };
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cairn-growth: {error}");
            ExitCode::FAILURE
        }
    }
}
