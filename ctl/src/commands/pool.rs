//! Pools.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_api::job::Job;
use cairn_api::path;
use cairn_api::pool::{
    CheckReport, CreatePool, GrowPool, PoolEntry, PoolList, PoolStatus, Scrub, ScrubState, StartScrub,
};
use serde_json::{Value, json};

use super::job;
use crate::args;
use crate::client::{Answer, Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{jobs, pool};

pub(super) async fn run(command: args::Pool, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Pool::List => {
            let list = client.get::<PoolList>(path::POOLS, Wait::Short).await?;
            output.answer(&list, |list, look| pool::list(&list.pools, look))
        }
        args::Pool::Status { name } => {
            let path = name.map_or_else(|| path::POOL.to_owned(), |name| path::pool(&name));
            let status = client.get::<PoolStatus>(&path, Wait::Short).await?;
            output.answer(&status, pool::status)
        }
        args::Pool::Scrub { name, limit_rate, detach, status, stop } => {
            let path =
                name.map_or_else(|| path::POOL_SCRUB.to_owned(), |name| path::pool_sub(&name, "scrub"));
            let told = match (status, stop) {
                (true, _) => client.get::<Scrub>(&path, Wait::Short).await?,
                (_, true) => client.delete_and_tell::<Scrub>(&path).await?,
                _ => {
                    let request = StartScrub { rate: limit_rate.map(|rate| rate.bytes()) };
                    let begun = client.post::<Scrub>(&path, &request).await?;
                    if detach { begun } else { watch(&path, begun, client, output).await? }
                }
            };
            output.answer(&told, pool::scrub)?;
            if told.value.fault_count > 0 || told.value.state == ScrubState::Failed {
                return Err(Failure::Unsound);
            }
            Ok(())
        }
        args::Pool::Check { name: Some(path), data, detach } if path.contains('/') => {
            if detach {
                let why = "--detach cannot be used with a path: no daemon goes on with that check";
                return Err(Failure::Usage(why.to_owned()));
            }
            offline("check", Path::new(&path), data.then_some("--data").map(OsString::from), output)
        }
        args::Pool::Repair { path, yes } => {
            offline("repair", &path, yes.then_some("--yes").map(OsString::from), output)
        }
        args::Pool::Dump { path, map } => {
            let map = map.map(|map| OsString::from(format!("--map={map}")));
            offline("dump", &path, map, output)
        }
        args::Pool::Check { name, data, detach } => {
            let path =
                name.map_or_else(|| path::POOL_CHECK.to_owned(), |name| path::pool_sub(&name, "check"));
            let path = path::with_query(path, &[("data", data.then_some("true"))]);
            let begun = client.start::<Job>(&path).await?;
            if detach {
                return output.answer(&begun, |job, _| jobs::begun(job));
            }
            let job = job::see_through(begun, client, output).await?;
            let report = report(&job)?;
            output.answer(&report, pool::check)?;
            if report.value.clean { Ok(()) } else { Err(Failure::Unsound) }
        }
        args::Pool::Create { name, path, limit } => {
            // The daemon does not stand where its client stands.
            let path = std::path::absolute(&path)
                .map_err(|e| Failure::local("io", format!("cannot tell where {} is: {e}", path.display())))?;
            let Some(path) = path.to_str().map(str::to_owned) else {
                return Err(Failure::Usage(format!("the path {} is not UTF-8", path.display())));
            };
            let request = CreatePool { name, path, limit: limit.map(|limit| limit.bytes()) };
            let made = client.post::<PoolEntry>(path::POOLS, &request).await?;
            output.answer(&made, |made, _| pool::created(made))
        }
        args::Pool::Grow { name, limit } => {
            let name = match name {
                Some(name) => name,
                None => client.get::<PoolStatus>(path::POOL, Wait::Short).await?.value.name,
            };
            let request = GrowPool { limit: limit.map(|limit| limit.bytes()) };
            let grown = client.post::<PoolStatus>(&path::pool_sub(&name, "grow"), &request).await?;
            output.answer(&grown, |grown, _| pool::grown(grown))
        }
        args::Pool::Remove { name, yes } => remove(&name, yes, client, output).await,
    }
}

/// What a check has found, as the daemon says it.
fn report(job: &Answer<Job>) -> Result<Answer<CheckReport>, Failure> {
    let raw = serde_json::from_slice::<Value>(&job.raw).unwrap_or_default()["result"]["check"].to_string();
    match job.value.result.as_ref().and_then(|result| result.check.clone()) {
        Some(value) => Ok(Answer { raw: raw.into(), value }),
        None => Err(Failure::local("not-understood", "the daemon does not say what the check has found")),
    }
}

/// Shows how a scrub gets on until it has ended.
async fn watch(
    path: &str,
    mut told: Answer<Scrub>,
    client: &Client,
    output: &Output,
) -> Result<Answer<Scrub>, Failure> {
    /// How often to ask.
    const PERIOD: Duration = Duration::from_millis(200);
    let bar = output.bar("scrubbing", told.value.total);
    while told.value.state == ScrubState::Running {
        bar.show(told.value.read, told.value.total);
        tokio::time::sleep(PERIOD).await;
        told = client.get::<Scrub>(path, Wait::Short).await?;
    }
    Ok(told)
}

/// Goes on as `cairnd`, which has the engine: what belongs to a pool that no daemon uses is its to do.
fn offline(what: &str, path: &Path, option: Option<OsString>, output: &Output) -> Result<(), Failure> {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("cairnd"));
    let cairnd = beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("cairnd"));
    let mut command = std::process::Command::new(&cairnd);
    command.arg(what).arg(path).args(option);
    if output.json {
        command.arg("--json");
    }
    let error = command.exec();
    Err(Failure::local("io", format!("cannot run {}: {error}", cairnd.display()))
        .with_hint("install cairnd beside cairn, or put it into the PATH"))
}

async fn remove(name: &str, yes: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    if !yes {
        let pools = client.get::<PoolList>(path::POOLS, Wait::Short).await?.value.pools;
        // One that is not there is the daemon's to refuse.
        if let Some(entry) = pools.iter().find(|entry| entry.name == name) {
            output.confirm(&pool::remove_question(entry), yes)?;
        }
    }
    client.delete(&path::pool(name)).await?;
    output.print(&match output.json {
        true => format!("{}\n", json!({ "removed": [name] })),
        false => format!("removed pool {name}; what is in it stays as it is\n"),
    })
}
