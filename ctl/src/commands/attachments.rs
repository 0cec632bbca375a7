//! Who uses a volume: attach, detach, list, reset.

use cairn_api::attachment::{Attach, Attachment, AttachmentList, Consumer, Detach};
use cairn_api::path;
use cairn_api::volume::{Volume, VolumeList};

use crate::args::{Device, Export, InUse};
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::attachments;

/// How to attach.
pub(super) struct How {
    pub(super) device: Option<Device>,
    pub(super) connections: Option<u32>,
    pub(super) read_only: bool,
    pub(super) snapshot: Option<String>,
}

pub(super) async fn attach(
    export: Export,
    how: How,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let How { device, connections, read_only, snapshot } = how;
    let snapshot = match (export.snapshot, snapshot) {
        (Some(named), Some(asked)) if named != asked => {
            let message = format!("{}@{named} and --snapshot {asked} are two snapshots", export.volume);
            return Err(Failure::Usage(message));
        }
        (named, asked) => named.or(asked),
    };
    let request = Attach { device: device.map(|device| device.0), connections, read_only, snapshot };
    let path = path::volume_sub(&export.volume, "attach");
    let made = client.post::<Attachment>(&path, &request).await?;
    output.answer(&made, |attachment, _| match output.terminal {
        true => attachments::attached(attachment),
        // For scripts: device=$(cairn volume attach demo)
        false => attachments::device(attachment),
    })
}

pub(super) async fn detach(
    what: InUse,
    force: bool,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let (export, device) = match what {
        InUse::Export(export) => (export, None),
        InUse::Device(device) => (attached_to(&device, client).await?, Some(device)),
    };
    let request = Detach { force, snapshot: export.snapshot.clone() };
    let path = path::volume_sub(&export.volume, "detach");
    let spinner = output.spin(if force { "detaching" } else { "waiting for I/O in flight" });
    let left = client.post_long::<AttachmentList>(&path, &request).await?;
    drop(spinner);
    output.answer(&left, |_, _| attachments::detached(&export.to_string(), device.as_ref().map(|d| &*d.0)))
}

/// The export that a device is attached to. The volumes themselves come in one answer; snapshots are looked for when
/// none of them is it.
async fn attached_to(device: &Device, client: &Client) -> Result<Export, Failure> {
    let is_it = |a: &Attachment| matches!(&a.consumer, Consumer::Kernel { device: d } if *d == device.0);
    let volumes = client.get::<VolumeList>(path::VOLUMES, Wait::Short).await?.value.volumes;
    if let Some(volume) = volumes.iter().find(|volume| volume.attachments.iter().any(is_it)) {
        return alone(volume.attachments.clone(), device, &volume.name);
    }
    for Volume { name, snapshots, .. } in volumes {
        if snapshots == 0 {
            continue;
        }
        let all = client.get::<AttachmentList>(&path::volume_sub(&name, "attachments"), Wait::Short).await;
        let all = match all {
            Ok(all) => all.value.attachments,
            // Deleted since it was listed.
            Err(Failure::Told { code, .. }) if code == "not-found" => continue,
            Err(failure) => return Err(failure),
        };
        if let Some(found) = all.iter().find(|attachment| is_it(attachment)) {
            let export = found.export.clone();
            return alone(all.into_iter().filter(|a| a.export == export).collect(), device, &export);
        }
    }
    Err(Failure::local("not-found", format!("nothing is attached to {}", device.0))
        .with_hint("\"cairn volume list\" shows who uses what"))
}

/// A detach ends every use of an export. Who names a device means that one only, so that others must not be cut with it.
fn alone(users: Vec<Attachment>, device: &Device, export: &str) -> Result<Export, Failure> {
    if let [_, _, ..] = &*users {
        let others = attachments::others(&users, &device.0);
        return Err(Failure::local("busy", format!("{export} is used by {others}, too"))
            .with_hint(format!("end all use of it: cairn volume detach {export}")));
    }
    export.parse().map_err(|why: String| Failure::local("not-understood", format!("{export:?}: {why}")))
}

pub(super) async fn list(name: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = path::volume_sub(name, "attachments");
    let list = client.get::<AttachmentList>(&path, Wait::Short).await?;
    output.answer(&list, |list, look| attachments::list(name, &list.attachments, look))
}

pub(super) async fn reset(name: &str, yes: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    let all = path::volume_sub(name, "attachments");
    if !yes {
        let users = client.get::<AttachmentList>(&all, Wait::Short).await?.value.attachments;
        output.confirm(&attachments::reset_question(name, &users), yes)?;
    }
    let left = client.start::<AttachmentList>(&path::volume_sub(name, "reset-attachments")).await?;
    output.answer(&left, |left, _| attachments::reset(name, &left.attachments))
}
