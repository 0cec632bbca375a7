//! Making a backup of a volume.
//!
//! A snapshot is taken for it and read over NBD. Once the backup counts, the snapshot stays as the base of the next one,
//! which reads what differs from it. Its name says which repository it is for, so that bases of several repositories live
//! beside each other and what a killed run has left is found again; nothing else is remembered anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::path;
use cairn_api::pool::PoolStatus;
use cairn_api::snapshot::{CreateSnapshot, Snapshot, SnapshotList};
use cairn_api::tags::Tags;
use cairn_api::volume::Volume;
use cairn_backup::{Backup, BackupId, BackupKind, BackupRequest, Labels, Limiter, Repository, VolumeRef};

use super::disk::SnapshotSource;
use crate::args::CreateBackup;
use crate::client::{Client, Wait};
use crate::commands::repository::{Place, Work, let_others_go_first};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::backups;

/// The snapshot that a backup was read from: its name and its id, since another may get the name.
const SNAPSHOT: &str = "snapshot";
const SNAPSHOT_ID: &str = "snapshot-id";
/// The volume's type and description, for whoever makes it again.
const TYPE: &str = "type";
pub(super) const DESCRIPTION: &str = "description";
/// How often and after what time it is tried again to delete a snapshot that is still in use: connections end when the
/// daemon sees it.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is nothing to be incremental to.
const GONE: &str = "the snapshot of the backup before is gone";

/// What the backup can be incremental to.
enum Base {
    Incremental { backup: BackupId, snapshot: String },
    Full { why: &'static str },
}

pub(super) async fn create(asked: CreateBackup, client: &Client, output: &Output) -> Result<(), Failure> {
    let CreateBackup { volume, repo, full, name, description, tags, limit_rate } = asked;
    let place = Place::try_from(repo)?;
    let_others_go_first();
    let mut work = Work::new(output, "backing up")?;
    let prepare = async {
        let volume = client.get::<Volume>(&path::volume(&volume), Wait::Short).await?.value;
        let pool = client.get::<PoolStatus>(&path::pool(&volume.pool), Wait::Short).await?.value;
        let volume_id = format!("{}/{}", pool.id, volume.id);
        let repository = place.open().await?;
        let base = if full {
            Base::Full { why: "as asked" }
        } else {
            base(&repository, &volume, &volume_id, client).await?
        };
        Ok::<_, Failure>((volume, volume_id, repository, base))
    };
    let (volume, volume_id, repository, mut base) = work.begin(prepare).await?;
    let tags = tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
    let labels = Labels { name, description, tags };
    let taken = take_snapshot(&repository, &volume.name, client).await?;
    let (cancel, progress) = (work.cancel.clone(), work.progress());
    let made = async {
        let source = Arc::new(open(&taken, &mut base, client).await?);
        let request = BackupRequest {
            labels,
            host: host(),
            created: taken.created.as_millisecond(),
            attributes: attributes(&volume, &taken),
            base: base.backup(),
            threads: std::thread::available_parallelism().map_or(2, |threads| threads.get()),
            limiter: limit_rate.map(|rate| Limiter::new(rate.bytes())),
            cancel,
            progress: Some(progress),
            ..BackupRequest::new(VolumeRef { name: volume.name.clone(), id: volume_id })
        };
        Ok::<_, Failure>(repository.backup(source, request).await?)
    };
    let made = work.run(made).await;
    drop(work);
    let backup = match made {
        Ok(backup) => backup,
        Err(failure) => {
            // If it cannot be deleted, the next run does it; what went wrong first counts.
            let _ = delete(&taken, client).await;
            return Err(failure);
        }
    };
    // The backup counts already; what stays behind is found by the next run.
    let _ = delete_older(&repository, &taken, base.snapshot(), client).await;
    let why = match (&base, backup.kind) {
        (Base::Full { why }, _) => Some(*why),
        (Base::Incremental { .. }, BackupKind::Full) => {
            Some("the backup it should follow was deleted meanwhile")
        }
        (Base::Incremental { .. }, BackupKind::Incremental) => None,
    };
    output.either(|| created_json(&backup, why), backups::made(&backup, why))
}

/// Opens the snapshot that was taken. Makes the backup a full one if the one that it should be compared with has gone
/// since: another run has taken a newer base.
async fn open(taken: &Snapshot, base: &mut Base, client: &Client) -> Result<SnapshotSource, Failure> {
    let endpoint = crate::commands::nbd_endpoint(client).await?;
    let opened = SnapshotSource::open(&endpoint, &taken.volume, &taken.name, base.snapshot()).await;
    let (Err(_), Some(since)) = (&opened, base.snapshot()) else { return opened };
    if snapshots(&taken.volume, client).await?.iter().any(|snapshot| snapshot.name == since) {
        return opened;
    }
    *base = Base::Full { why: GONE };
    SnapshotSource::open(&endpoint, &taken.volume, &taken.name, None).await
}

fn created_json(backup: &Backup, why_full: Option<&str>) -> serde_json::Value {
    let mut value = backups::json(backup);
    value["full_because"] = why_full.into();
    value
}

impl Base {
    fn snapshot(&self) -> Option<String> {
        match self {
            Base::Incremental { snapshot, .. } => Some(snapshot.clone()),
            Base::Full { .. } => None,
        }
    }

    fn backup(&self) -> Option<BackupId> {
        match self {
            Base::Incremental { backup, .. } => Some(*backup),
            Base::Full { .. } => None,
        }
    }
}

/// The newest backup of the volume whose snapshot is still there.
async fn base(
    repository: &Repository,
    volume: &Volume,
    volume_id: &str,
    client: &Client,
) -> Result<Base, Failure> {
    let backups = repository.list().await?.backups;
    let mut of_volume = backups.iter().filter(|backup| backup.volume.id == volume_id).peekable();
    if of_volume.peek().is_none() {
        return Ok(Base::Full { why: "it is the volume's first in this repository" });
    }
    let snapshots = snapshots(&volume.name, client).await?;
    let found = of_volume.find_map(|backup| {
        let (name, id) = (backup.attributes.get(SNAPSHOT)?, backup.attributes.get(SNAPSHOT_ID)?);
        snapshots.iter().find(|s| s.name == *name && s.id.to_string() == *id)?;
        Some(Base::Incremental { backup: backup.id, snapshot: name.clone() })
    });
    Ok(found.unwrap_or(Base::Full { why: GONE }))
}

async fn snapshots(volume: &str, client: &Client) -> Result<Vec<Snapshot>, Failure> {
    let path = path::volume_sub(volume, "snapshots");
    Ok(client.get::<SnapshotList>(&path, Wait::Short).await?.value.snapshots)
}

/// What the names of a repository's snapshots begin with.
fn prefix(repository: &Repository) -> String {
    format!("backup-{:.8}-", repository.id().to_string())
}

async fn take_snapshot(repository: &Repository, volume: &str, client: &Client) -> Result<Snapshot, Failure> {
    loop {
        let name = format!("{}{}", prefix(repository), jiff::Timestamp::now().as_microsecond());
        let request = CreateSnapshot {
            name,
            description: "base of the next backup".to_owned(),
            tags: Tags::new(),
            for_backup: true,
            client_token: None,
        };
        match client.post::<Snapshot>(&path::volume_sub(volume, "snapshots"), &request).await {
            // Another run began within the same microsecond.
            Err(Failure::Told { code, .. }) if code == "exists" => {}
            made => return Ok(made?.value),
        }
    }
}

fn attributes(volume: &Volume, snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([
        (SNAPSHOT.to_owned(), snapshot.name.clone()),
        (SNAPSHOT_ID.to_owned(), snapshot.id.to_string()),
        (TYPE.to_owned(), volume.volume_type.clone()),
    ]);
    if !volume.description.is_empty() {
        attributes.insert(DESCRIPTION.to_owned(), volume.description.clone());
    }
    attributes
}

/// Deletes a snapshot as soon as this process's connections to it have ended.
async fn delete(snapshot: &Snapshot, client: &Client) -> Result<(), Failure> {
    let path = path::snapshot(&snapshot.volume, &snapshot.name);
    let mut outcome = client.delete(&path).await;
    for _ in 0..TRIES {
        match &outcome {
            Err(Failure::Told { code, .. }) if code == "busy" => {}
            _ => break,
        }
        tokio::time::sleep(PAUSE).await;
        outcome = client.delete(&path).await;
    }
    outcome
}

/// Deletes the snapshots that were taken for this repository before; those of others who are at work are in use. So is
/// `since` for a moment, which this run has compared with.
async fn delete_older(
    repository: &Repository,
    newest: &Snapshot,
    since: Option<String>,
    client: &Client,
) -> Result<(), Failure> {
    let prefix = prefix(repository);
    let all = snapshots(&newest.volume, client).await?.into_iter();
    let older = all.filter(|s| s.name.starts_with(&prefix) && s.id < newest.id);
    for snapshot in older {
        if since.as_ref() == Some(&snapshot.name) {
            delete(&snapshot, client).await?;
        } else if snapshot.connections == 0 {
            client.delete(&path::snapshot(&snapshot.volume, &snapshot.name)).await?;
        }
    }
    Ok(())
}

/// This host's name.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
