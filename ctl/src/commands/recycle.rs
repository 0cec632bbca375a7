//! The recycle bin.

use cairn_api::path;
use cairn_api::recycle::{Recover, RecycleBin, Recycled, SetRecycleBin};
use cairn_api::volume::Volume;

use super::{delete_found, uri};
use crate::args;
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{recycle, volumes};

pub(super) async fn run(command: args::RecycleBin, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::RecycleBin::List => {
            let bin = client.get::<RecycleBin>(path::RECYCLE_BIN, Wait::Short).await?;
            output.answer(&bin, recycle::list)
        }
        args::RecycleBin::Set { keep } => {
            let request = SetRecycleBin { keep_seconds: keep.seconds };
            let bin = client.patch::<RecycleBin>(path::RECYCLE_BIN, &request).await?;
            output.answer(&bin, |bin, _| recycle::set(bin))
        }
        args::RecycleBin::Recover { volume, name } => {
            let found = find(&volume, client).await?;
            let path = path::recycled_sub(&found.id, "recover");
            let recovered = client.post::<Volume>(&path, &Recover { name }).await?;
            let uri = uri(client, output, &recovered.value.name).await?;
            output.answer(&recovered, |volume, look| volumes::recovered(volume, uri.as_deref(), look))
        }
        args::RecycleBin::Purge { volumes, yes } => {
            let mut doomed = Vec::new();
            for volume in &volumes {
                doomed.push(find(volume, client).await?);
            }
            output.confirm(&recycle::purge_question(&doomed), yes)?;
            let paths = doomed.iter().map(|volume| path::recycled(&volume.id));
            delete_found("volume", &volumes, paths, client, output).await
        }
    }
}

/// What is meant by a name or an id.
async fn find(volume: &str, client: &Client) -> Result<Recycled, Failure> {
    let bin = client.get::<RecycleBin>(path::RECYCLE_BIN, Wait::Short).await?.value;
    // The last that was deleted comes first.
    let found = bin.volumes.into_iter().find(|recycled| recycled.id == volume || recycled.name == volume);
    found.ok_or_else(|| {
        Failure::local("not-found", format!("there is no '{volume}' in the recycle bin"))
            .with_hint("\"cairn recycle-bin list\" shows what there is")
    })
}
