//! Volumes.

use cairn_api::path;
use cairn_api::pool::PoolList;
use cairn_api::recycle::RecycleBin;
use cairn_api::types::Retype;
use cairn_api::volume::{
    CreateVolume, DeleteVolumeQuery, EditVolume, ResetStatus, ResizeVolume, Volume, VolumeList,
};

use super::{attachments, delete_each, uri};
use crate::args::{self, Spec, Switch};
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::volumes;

pub(super) async fn run(command: args::Volume, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Volume::Create(asked) => create(asked, client, output).await,
        args::Volume::List(filter) => {
            let path = listed(filter);
            let list = client.get::<VolumeList>(&path, Wait::Short).await?;
            let pools = several_pools(client, output).await?;
            let filtered = path != path::VOLUMES;
            output.answer(&list, |list, look| volumes::list(list, filtered, pools, look))
        }
        args::Volume::Show { name } => {
            let shown = client.get::<Volume>(&path::volume(&name), Wait::Short).await?;
            let pools = several_pools(client, output).await?;
            let uri = uri(client, output, &shown.value.name).await?;
            output.answer(&shown, |volume, look| volumes::show(volume, pools, uri.as_deref(), look))
        }
        args::Volume::Edit { name, changes } => {
            let request = EditVolume {
                name: changes.new_name,
                description: changes.description,
                shared: changes.shared.map(Switch::is_on),
                bootable: changes.bootable.map(Switch::is_on),
                write_protected: changes.write_protect.map(Switch::is_on),
                project: changes.project,
                tags: Spec::tag_changes(changes.tags),
            };
            let edited = client.patch::<Volume>(&path::volume(&name), &request).await?;
            output.answer(&edited, |volume, _| volumes::edited(volume, &name))
        }
        args::Volume::Retype { name, to } => {
            let request = Retype { volume_type: to };
            let retyped = client.post::<Volume>(&path::volume_sub(&name, "retype"), &request).await?;
            output.answer(&retyped, |volume, _| volumes::retyped(volume))
        }
        args::Volume::ResetStatus { name, status, reason } => {
            let request = ResetStatus { status, reason };
            let set = client.post::<Volume>(&path::volume_sub(&name, "reset-status"), &request).await?;
            output.answer(&set, |volume, _| volumes::status_set(volume))
        }
        args::Volume::Resize { name, size, yes } => resize(&name, size.bytes(), yes, client, output).await,
        args::Volume::Attach { name, device, connections, read_only, snapshot } => {
            let how = attachments::How { device, connections, read_only, snapshot };
            attachments::attach(name, how, client, output).await
        }
        args::Volume::Detach { name, force } => attachments::detach(name, force, client, output).await,
        args::Volume::ResetAttachments { name, yes } => attachments::reset(&name, yes, client, output).await,
        args::Volume::Attachments { name } => attachments::list(&name, client, output).await,
        args::Volume::Delete { names, with_snapshots, keep_snapshots, permanent, yes } => {
            let query = DeleteVolumeQuery { snapshots: with_snapshots, keep_snapshots, permanent };
            delete_volumes(&names, &query, yes, client, output).await
        }
    }
}

/// The path of a list.
fn listed(filter: args::VolumeFilter) -> String {
    let pairs = filter.list.query([
        ("status", filter.status.map(|status| status.as_str().to_owned())),
        ("type", filter.volume_type),
        ("pool", filter.pool),
        ("project", filter.project),
        ("bootable", filter.bootable.map(Switch::in_query)),
        ("shared", filter.shared.map(Switch::in_query)),
        ("write_protected", filter.write_protected.map(Switch::in_query)),
        ("sort", filter.sort),
    ]);
    path::with_query(path::VOLUMES.to_owned(), &super::borrowed(&pairs))
}

async fn create(asked: args::CreateVolume, client: &Client, output: &Output) -> Result<(), Failure> {
    let request = CreateVolume {
        name: asked.name,
        size: asked.size.map(|size| size.bytes()),
        description: asked.description,
        source: asked.from.map(|from| from.0),
        image: asked.from_image,
        volume_type: asked.volume_type,
        shared: asked.shared,
        bootable: asked.bootable.map(Switch::is_on),
        project: asked.project,
        tags: Spec::tags(asked.tags),
        client_token: asked.client_token,
    };
    let made = client.post::<Volume>(path::VOLUMES, &request).await?;
    let uri = uri(client, output, &made.value.name).await?;
    output.answer(&made, |volume, look| volumes::created(volume, uri.as_deref(), look))
}

/// Whether there is more than one pool, so that it is worth saying which one holds a volume; for people only.
async fn several_pools(client: &Client, output: &Output) -> Result<bool, Failure> {
    if output.json {
        return Ok(false);
    }
    Ok(client.get::<PoolList>(path::POOLS, Wait::Short).await?.value.pools.len() > 1)
}

/// Growing cannot be undone, so that it is asked for; what the daemon refuses or what changes nothing is not.
async fn resize(name: &str, size: u64, yes: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    if !yes {
        let present = client.get::<Volume>(&path::volume(name), Wait::Short).await?.value;
        if size > present.size {
            output.confirm(&volumes::resize_question(&present, size), yes)?;
        }
    }
    let grown = client.post::<Volume>(&path::volume_sub(name, "resize"), &ResizeVolume { size }).await?;
    output.answer(&grown, |volume, _| volumes::resized(volume))
}

async fn delete_volumes(
    names: &[String],
    query: &DeleteVolumeQuery,
    yes: bool,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    if !yes {
        let mut doomed = Vec::new();
        for name in names {
            doomed.push(client.get::<Volume>(&path::volume(name), Wait::Short).await?.value);
        }
        let bin = client.get::<RecycleBin>(path::RECYCLE_BIN, Wait::Short).await?.value;
        let recycle = bin.keep_seconds > 0;
        output.confirm(&volumes::delete_question(&doomed, query, recycle), yes)?;
    }
    let yes = |yes: bool| yes.then_some("true");
    let query = [
        ("snapshots", yes(query.snapshots)),
        ("keep_snapshots", yes(query.keep_snapshots)),
        ("permanent", yes(query.permanent)),
    ];
    let paths = names.iter().map(|name| path::with_query(path::volume(name), &query));
    delete_each("volume", names, paths, client, output).await
}
