//! Snapshots, clones, rollbacks and differences.

use cairn_api::path;
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, Diff, EditSnapshot, GroupMember, ResetSnapshotStatus, Rollback,
    RolledBack, Snapshot, SnapshotList, Tree,
};
use cairn_api::tags::Tags;
use cairn_api::volume::{CloneSnapshot, Volume};

use super::{delete_each, uri};
use crate::args::{self, Spec, Switch};
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{snapshots, tree, volumes};

pub(super) async fn run(command: args::Snapshot, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Snapshot::Create { volume, name, description, tags, client_token } if volume.contains(',') => {
            let member = |volume: &str| GroupMember { volume: volume.to_owned(), name: name.clone() };
            let members = volume.split(',').map(member).collect();
            let request = CreateGroup { members, description, tags: Spec::tags(tags), client_token };
            let made = client.post::<SnapshotList>(path::SNAPSHOTS, &request).await?;
            output.answer(&made, |list, _| list.snapshots.iter().map(snapshots::created).collect())
        }
        args::Snapshot::Create { volume, name, description, tags, client_token } => {
            let tags = Spec::tags(tags);
            let request = CreateSnapshot { name, description, tags, client_token, for_backup: false };
            let made = client.post::<Snapshot>(&path::volume_sub(&volume, "snapshots"), &request).await?;
            output.answer(&made, |snapshot, _| snapshots::created(snapshot))
        }
        args::Snapshot::List(filter) => {
            let path = listed(filter);
            let list = client.get::<SnapshotList>(&path, Wait::Short).await?;
            output.answer(&list, |list, look| snapshots::list(list, path != path::SNAPSHOTS, look))
        }
        args::Snapshot::Edit { volume, name, changes } => {
            let args::SnapshotChanges { new_name, description, tags } = changes;
            let request = EditSnapshot { name: new_name, description, tags: Spec::tag_changes(tags) };
            let edited = client.patch::<Snapshot>(&path::snapshot(&volume, &name), &request).await?;
            output.answer(&edited, |snapshot, _| snapshots::edited(snapshot, &name))
        }
        args::Snapshot::ResetStatus { volume, name, status, reason } => {
            let request = ResetSnapshotStatus { status, reason };
            let path = path::snapshot_sub(&volume, &name, "reset-status");
            let set = client.post::<Snapshot>(&path, &request).await?;
            output.answer(&set, |snapshot, _| snapshots::status_set(snapshot))
        }
        args::Snapshot::Hold { volume, name, hold, reason } => {
            let request = CreateHold { name: hold, reason };
            let held =
                client.post::<Snapshot>(&path::snapshot_sub(&volume, &name, "holds"), &request).await?;
            output.answer(&held, |snapshot, _| snapshots::held(snapshot))
        }
        args::Snapshot::Release { volume, name, hold } => {
            let path = path::hold(&volume, &name, &hold);
            let released = client.delete_and_tell::<Snapshot>(&path).await?;
            output.answer(&released, |snapshot, _| snapshots::released(snapshot))
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
            let (size, description) = (size.map(|s| s.bytes()), String::new());
            let request =
                CloneSnapshot { name: new_volume, size, description, tags: Tags::new(), client_token: None };
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
        args::Snapshot::Diff { volume, name, to, to_volume } => {
            diff(&volume, &name, [("to", to.as_deref()), ("to_volume", to_volume.as_deref())], client, output)
                .await
        }
    }
}

/// The path of a list.
fn listed(filter: args::SnapshotFilter) -> String {
    let pairs = filter.list.query([
        ("volume", filter.volume),
        ("status", filter.status.map(|status| status.as_str().to_owned())),
        ("project", filter.project),
        ("automatic", filter.automatic.map(Switch::in_query)),
        ("held", filter.held.map(Switch::in_query)),
        ("sort", filter.sort),
    ]);
    path::with_query(path::SNAPSHOTS.to_owned(), &super::borrowed(&pairs))
}

/// Joins the pages of a comparison.
async fn diff(
    volume: &str,
    name: &str,
    to: [(&str, Option<&str>); 2],
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let spinner = output.spin("comparing");
    let base = path::snapshot_sub(volume, name, "diff");
    let mut answer = client.get::<Diff>(&path::with_query(base.clone(), &to), Wait::Long).await?;
    if answer.value.next.is_some() {
        while let Some(next) = answer.value.next {
            let next_text = next.to_string();
            let query = [to[0], to[1], ("offset", Some(&*next_text))];
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
