//! Backups.
//!
//! | room | what it does |
//! |---|---|
//! | [`create`] | makes a backup of a volume |
//! | [`restore`] | brings a backup back |
//! | [`instant`] | has the daemon bring one back while it serves |
//! | [`disk`] | a daemon's exports as what is read and written |

mod create;
mod disk;
mod instant;
mod restore;

use cairn_backup::{BackupId, Labels, Repository};
use serde_json::json;

use super::repository::Place;
use crate::args::{self, BackupChanges};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::backups;

pub(super) async fn run(command: args::Backup, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        args::Backup::Create(asked) => create::create(asked, client, output).await,
        args::Backup::List { repo, volume } => {
            let mut listing = Place::try_from(repo)?.open().await?.list().await?;
            listing.backups.retain(|backup| volume.as_ref().is_none_or(|name| backup.volume.name == *name));
            output.either(|| backups::list_json(&listing), backups::list(&listing, &output.look))
        }
        args::Backup::Tree { repo } => {
            let lines = Place::try_from(repo)?.open().await?.tree().await?;
            output.either(|| backups::tree_json(&lines), backups::tree(&lines, &output.look))
        }
        args::Backup::Show { id, repo } => {
            let repository = Place::try_from(repo)?.open().await?;
            let backup = repository.show(repository.resolve(&id).await?).await?;
            output.either(|| backups::json(&backup), backups::show(&backup, &output.look))
        }
        args::Backup::Edit { id, repo, changes } => {
            let repository = Place::try_from(repo)?.open().await?;
            let id = repository.resolve(&id).await?;
            let labels = changed(repository.show(id).await?.labels, changes);
            repository.edit(id, labels).await?;
            let backup = repository.show(id).await?;
            output.either(|| backups::json(&backup), format!("changed backup {id}\n"))
        }
        args::Backup::Delete { ids, repo, yes } => {
            let repository = Place::try_from(repo)?.open().await?;
            let ids = resolve(&repository, &ids).await?;
            output.confirm(&backups::delete_question(&ids), yes)?;
            repository.delete(&ids).await?;
            let deleted: Vec<_> = ids.iter().map(BackupId::to_string).collect();
            output.either(|| json!({ "deleted": deleted }), backups::deleted(&ids))
        }
        args::Backup::Restore(asked) => restore::restore(asked, client, output).await,
    }
}

async fn resolve(repository: &Repository, texts: &[String]) -> Result<Vec<BackupId>, Failure> {
    let mut ids = Vec::new();
    for text in texts {
        let id = repository.resolve(text).await?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn changed(mut labels: Labels, changes: BackupChanges) -> Labels {
    let BackupChanges { name, description, tags } = changes;
    labels.name = name.unwrap_or(labels.name);
    labels.description = description.unwrap_or(labels.description);
    for tag in tags {
        if tag.value.is_empty() {
            labels.tags.remove(&tag.key);
        } else {
            labels.tags.insert(tag.key, tag.value);
        }
    }
    labels
}
