//! Pools.

use cairn_api::path;
use cairn_api::pool::{CheckReport, CreatePool, GrowPool, PoolEntry, PoolList, PoolStatus};
use serde_json::json;

use crate::args;
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::pool;

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
        args::Pool::Check { name, data } => {
            let path =
                name.map_or_else(|| path::POOL_CHECK.to_owned(), |name| path::pool_sub(&name, "check"));
            let path = path::with_query(path, &[("data", data.then_some("true"))]);
            let spinner = output.spin(if data { "checking metadata and data" } else { "checking metadata" });
            let report = client.start::<CheckReport>(&path).await?;
            drop(spinner);
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
