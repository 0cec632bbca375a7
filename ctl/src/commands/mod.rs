//! One function a command: ask the daemon, say what it said.
//!
//! | room | what it does |
//! |---|---|
//! | [`volume`], [`attachments`] | volumes, and who uses them |
//! | [`snapshot`] | snapshots, clones, rollbacks, differences |
//! | [`image`] | images, and moving them in and out |
//! | [`repo`], [`backup`] | repositories and the backups in them; what both need is in [`repository`] |
//! | [`types`], [`qos`] | types of volumes, limits to their I/O |
//! | [`pool`] | pools |
//! | [`job`] | jobs, and waiting for them |
//! | [`events`], [`top`] | what happens, and what volumes do |
//! | [`console`] | all of that in a browser |
//! | [`destination`] | files and streams that are written |

mod attachments;
mod backup;
mod console;
mod destination;
mod events;
mod image;
mod job;
mod pool;
mod qos;
mod recycle;
mod repo;
mod repository;
mod snapshot;
mod top;
mod types;
mod volume;

use std::io;

use cairn_api::access::Caller;
use cairn_api::info::{Info, NbdEndpoint};
use cairn_api::path;
use clap::CommandFactory;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args;
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::access;

/// Runs one command.
pub(crate) async fn run(command: args::Command, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Command::Volume(command) => volume::run(command, client, output).await,
        args::Command::Snapshot(command) => snapshot::run(command, client, output).await,
        args::Command::Image(command) => image::run(command, client, output).await,
        args::Command::Backup(command) => backup::run(command, client, output).await,
        args::Command::Repo(command) => repo::run(command, output).await,
        args::Command::Type(command) => types::run(command, client, output).await,
        args::Command::Qos(command) => qos::run(command, client, output).await,
        args::Command::Pool(command) => pool::run(command, client, output).await,
        args::Command::Job(command) => job::run(command, client, output).await,
        args::Command::RecycleBin(command) => recycle::run(command, client, output).await,
        args::Command::Events(asked) => events::run(asked, client, output).await,
        args::Command::Top(asked) => top::run(asked, client, output).await,
        args::Command::Console(asked) => console::run(asked, client, output).await,
        args::Command::Whoami => {
            let caller = client.get::<Caller>(path::WHOAMI, Wait::Short).await?;
            output.answer(&caller, |caller, _| access::caller(caller))
        }
        args::Command::About(command) => command.run(args::Cli::command(), "1").map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::local("internal", format!("cannot be written: {e}")),
        }),
    }
}

/// What ends when Ctrl-C or SIGTERM comes: from now on neither ends this process.
fn interruption() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |e| Failure::local("internal", format!("cannot wait for signals: {e}"));
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Carries something out until it ends, or until Ctrl-C or SIGTERM ends it, which is no failure.
async fn until_interrupted(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let interrupted = interruption()?;
    tokio::select! {
        ended = work => ended,
        () = interrupted => Ok(()),
    }
}

/// How to connect to an export, for people only: the first of the daemon's endpoints.
async fn uri(client: &Client, output: &Output, export: &str) -> Result<Option<String>, Failure> {
    if output.json {
        return Ok(None);
    }
    let info = client.get::<Info>(path::INFO, Wait::Short).await?.value;
    Ok(info.nbd.first().map(|endpoint| endpoint.uri(export)))
}

/// The pairs of a query, as a path takes them.
fn borrowed<'a>(pairs: &'a [(&'a str, Option<String>)]) -> Vec<(&'a str, Option<&'a str>)> {
    pairs.iter().map(|(key, value)| (*key, value.as_deref())).collect()
}

/// Where the daemon serves NBD.
async fn nbd_endpoint(client: &Client) -> Result<NbdEndpoint, Failure> {
    let info = client.get::<Info>(path::INFO, Wait::Short).await?.value;
    let none = || Failure::local("unreachable", "the daemon serves no NBD clients, so no data can be moved");
    info.nbd.into_iter().next().ok_or_else(none)
}

/// Deletes one after the other, as [`delete_found`] does; nothing if one of several is not there, which is mostly a typo.
async fn delete_each(
    what: &str,
    names: &[String],
    paths: impl Iterator<Item = String>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let paths: Vec<_> = paths.collect();
    if paths.len() > 1 {
        for path in &paths {
            let shown = path.split_once('?').map_or(&**path, |(path, _)| path);
            client.get::<serde_json::Value>(shown, Wait::Short).await?;
        }
    }
    delete_found(what, names, paths, client, output).await
}

/// Deletes one after the other and says which. The first that cannot be deleted ends it, and those that are left are named.
async fn delete_found(
    what: &str,
    names: &[String],
    paths: impl IntoIterator<Item = String>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let mut deleted = Vec::new();
    let mut outcome = Ok(());
    for (at, (name, path)) in names.iter().zip(paths).enumerate() {
        outcome = client.delete(&path).await.map_err(|failure| match &names[at + 1..] {
            [] => failure,
            left => failure.and(&format!("left as they are: {}", left.join(", "))),
        });
        if outcome.is_err() {
            break;
        }
        deleted.push(name);
        if !output.json {
            output.print(&format!("deleted {what} {name}\n"))?;
        }
    }
    if output.json && (outcome.is_ok() || !deleted.is_empty()) {
        output.print(&format!("{}\n", json!({ "deleted": deleted })))?;
    }
    outcome
}
