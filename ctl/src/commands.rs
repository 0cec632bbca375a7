//! One function a command: ask the daemon, say what it said.

use cairn_api::info::Info;
use cairn_api::path;
use cairn_api::pool::{CheckReport, PoolStatus};
use cairn_api::snapshot::{
    CreateGroup, CreateSnapshot, Diff, GroupMember, Rollback, RolledBack, Snapshot, SnapshotList, Tree,
};
use cairn_api::volume::{self, CloneSnapshot, ResizeVolume, Volume, VolumeList};
use serde_json::json;

use crate::args;
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{pool, snapshots, tree, volumes};

/// Runs one command.
pub(crate) async fn run(command: args::Command, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Command::Volume(command) => volume(command, client, output).await,
        args::Command::Snapshot(command) => snapshot(command, client, output).await,
        args::Command::Pool(command) => pool(command, client, output).await,
    }
}

async fn volume(command: args::Volume, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Volume::Create(args::CreateVolume { name, size, from, description }) => {
            let source = from.map(|from| from.0);
            let request = volume::CreateVolume { name, size: size.map(|s| s.bytes()), description, source };
            let made = client.post::<Volume>(path::VOLUMES, &request).await?;
            let uri = uri(client, output, &made.value.name).await?;
            output.answer(&made, |volume, look| volumes::created(volume, uri.as_deref(), look))
        }
        args::Volume::List => {
            let list = client.get::<VolumeList>(path::VOLUMES, Wait::Short).await?;
            output.answer(&list, |list, look| volumes::list(&list.volumes, look))
        }
        args::Volume::Show { name } => {
            let shown = client.get::<Volume>(&path::volume(&name), Wait::Short).await?;
            let uri = uri(client, output, &shown.value.name).await?;
            output.answer(&shown, |volume, look| volumes::show(volume, uri.as_deref(), look))
        }
        args::Volume::Resize { name, size } => {
            let request = ResizeVolume { size: size.bytes() };
            let grown = client.post::<Volume>(&path::volume_sub(&name, "resize"), &request).await?;
            output.answer(&grown, volumes::resized)
        }
        args::Volume::Delete { names, with_snapshots, yes } => {
            delete_volumes(&names, with_snapshots, yes, client, output).await
        }
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

async fn delete_volumes(
    names: &[String],
    with_snapshots: bool,
    yes: bool,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    if !yes {
        let mut doomed = Vec::new();
        for name in names {
            doomed.push(client.get::<Volume>(&path::volume(name), Wait::Short).await?.value);
        }
        output.confirm(&volumes::delete_question(&doomed, with_snapshots), yes)?;
    }
    let snapshots = with_snapshots.then_some("true");
    let paths = names.iter().map(|name| path::with_query(path::volume(name), &[("snapshots", snapshots)]));
    delete_each("volume", names, paths, client, output).await
}

/// Deletes one after the other and says which; the first that fails ends it.
async fn delete_each(
    what: &str,
    names: &[String],
    paths: impl Iterator<Item = String>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let mut deleted = Vec::new();
    let mut outcome = Ok(());
    for (name, path) in names.iter().zip(paths) {
        outcome = client.delete(&path).await;
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

async fn snapshot(command: args::Snapshot, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Snapshot::Create { volume, name, description } if volume.contains(',') => {
            let member = |volume: &str| GroupMember { volume: volume.to_owned(), name: name.clone() };
            let request = CreateGroup { members: volume.split(',').map(member).collect(), description };
            let made = client.post::<SnapshotList>(path::SNAPSHOTS, &request).await?;
            output.answer(&made, |list, _| list.snapshots.iter().map(snapshots::created).collect())
        }
        args::Snapshot::Create { volume, name, description } => {
            let request = CreateSnapshot { name, description };
            let made = client.post::<Snapshot>(&path::volume_sub(&volume, "snapshots"), &request).await?;
            output.answer(&made, |snapshot, _| snapshots::created(snapshot))
        }
        args::Snapshot::List { volume } => {
            let path = match &volume {
                Some(volume) => path::volume_sub(volume, "snapshots"),
                None => path::SNAPSHOTS.to_owned(),
            };
            let list = client.get::<SnapshotList>(&path, Wait::Short).await?;
            output.answer(&list, |list, look| snapshots::list(&list.snapshots, look))
        }
        args::Snapshot::Tree { volume } => {
            let tree = client.get::<Tree>(&path::volume_sub(&volume, "tree"), Wait::Short).await?;
            output.answer(&tree, tree::draw)
        }
        args::Snapshot::Show { volume, name } => {
            let shown = client.get::<Snapshot>(&path::snapshot(&volume, &name), Wait::Short).await?;
            let uri = uri(client, output, &format!("{volume}@{name}")).await?;
            output.answer(&shown, |snapshot, look| snapshots::show(snapshot, uri.as_deref(), look))
        }
        args::Snapshot::Clone { volume, name, new_volume, size } => {
            let request =
                CloneSnapshot { name: new_volume, size: size.map(|s| s.bytes()), description: String::new() };
            let made = client.post::<Volume>(&path::snapshot_sub(&volume, &name, "clone"), &request).await?;
            let uri = uri(client, output, &made.value.name).await?;
            output.answer(&made, |volume, look| volumes::created(volume, uri.as_deref(), look))
        }
        args::Snapshot::Rollback { volume, name, yes, force } => {
            output.confirm(&snapshots::rollback_question(&volume, &name), yes)?;
            let path = path::snapshot_sub(&volume, &name, "rollback");
            let done = client.post::<RolledBack>(&path, &Rollback { force }).await?;
            output.answer(&done, |done, _| snapshots::rolled_back(done, &name))
        }
        args::Snapshot::Delete { volume, names } => {
            let paths = names.iter().map(|name| path::snapshot(&volume, name));
            let shown: Vec<_> = names.iter().map(|name| format!("{volume}@{name}")).collect();
            delete_each("snapshot", &shown, paths, client, output).await
        }
        args::Snapshot::Diff { volume, name, to } => {
            diff(&volume, &name, to.as_deref(), client, output).await
        }
    }
}

/// Joins the pages of a comparison.
async fn diff(
    volume: &str,
    name: &str,
    to: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let spinner = output.spin("comparing");
    let base = path::snapshot_sub(volume, name, "diff");
    let mut answer = client.get::<Diff>(&path::with_query(base.clone(), &[("to", to)]), Wait::Long).await?;
    if answer.value.next.is_some() {
        while let Some(next) = answer.value.next {
            let query = [("to", to), ("offset", Some(&*next.to_string()))];
            let page = client.get::<Diff>(&path::with_query(base.clone(), &query), Wait::Long).await?.value;
            answer.value.extents.extend(page.extents);
            answer.value.changed = page.changed;
            // A daemon that does not get on would keep this loop for ever.
            answer.value.next = page.next.filter(|further| *further > next);
        }
        let joined = serde_json::to_vec(&answer.value);
        answer.raw = joined.map_err(|e| Failure::local("internal", e.to_string()))?.into();
    }
    drop(spinner);
    output.answer(&answer, snapshots::diff)
}

async fn pool(command: args::Pool, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Pool::Status => {
            let status = client.get::<PoolStatus>(path::POOL, Wait::Short).await?;
            output.answer(&status, pool::status)
        }
        args::Pool::Check { data } => {
            let path = path::with_query(path::POOL_CHECK.to_owned(), &[("data", data.then_some("true"))]);
            let spinner = output.spin(if data { "checking metadata and data" } else { "checking metadata" });
            let report = client.start::<CheckReport>(&path).await?;
            drop(spinner);
            output.answer(&report, pool::check)?;
            if report.value.clean { Ok(()) } else { Err(Failure::Unsound) }
        }
    }
}
