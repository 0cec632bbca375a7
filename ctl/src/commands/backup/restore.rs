//! Bringing a backup back.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_api::path;
use cairn_api::staging::{CreateStaging, Staged, Staging};
use cairn_backup::{Backup, Limiter, Repository, RestoreOptions, Sink};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;

use super::create::DESCRIPTION;
use super::disk::StagedSink;
use super::instant;
use crate::args::RestoreBackup;
use crate::client::{Answer, Client};
use crate::commands::destination::Destination;
use crate::commands::nbd_endpoint;
use crate::commands::repository::{Place, Work};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::backups;

/// Zeroes written to a stream at once.
const ZEROES: usize = 1 << 20;

/// How to restore, as fast as this machine can and the limit lets it.
fn options(work: &Work, limit: Option<u64>) -> RestoreOptions {
    RestoreOptions {
        threads: std::thread::available_parallelism().map_or(2, |threads| threads.get()),
        limiter: limit.map(Limiter::new),
        cancel: work.cancel.clone(),
        progress: Some(work.progress()),
    }
}

pub(super) async fn restore(asked: RestoreBackup, client: &Client, output: &Output) -> Result<(), Failure> {
    let RestoreBackup { id, repo, target, volume_type, project, instant, limit_rate, yes } = asked;
    let place = Place::try_from(repo)?;
    let limit = limit_rate.map(|rate| rate.bytes());
    if let Some(file) = &target.to_file {
        return to_file(place, &id, file, limit, output).await;
    }
    if let Some(volume) = target.to.as_ref().filter(|_| instant) {
        return instant::restore(place, id, volume.clone(), volume_type, client, output).await;
    }
    let over = target.over.is_some();
    let Some(volume) = target.to.or(target.over) else {
        return Err(Failure::Usage("say where to restore to".to_owned()));
    };
    let repository = place.open().await?;
    let backup = repository.show(repository.resolve(&id).await?).await?;
    if over {
        output.confirm(&backups::over_question(&backup, &volume), yes)?;
    }
    let request = CreateStaging {
        description: if over { String::new() } else { description(&backup) },
        volume,
        over,
        size: backup.size,
        volume_type,
        project,
        backup: Some(backup.id.to_string()),
    };
    to_volume(&repository, &backup, request, limit, client, output).await
}

/// What the volume was described as.
fn description(backup: &Backup) -> String {
    backup.attributes.get(DESCRIPTION).cloned().unwrap_or_default()
}

async fn to_volume(
    repository: &Repository,
    backup: &Backup,
    request: CreateStaging,
    limit: Option<u64>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let mut work = Work::new(output, "restoring")?;
    let staging = client.post::<Staging>(path::STAGINGS, &request).await?.value;
    let filled = fill(repository, backup, &staging, limit, &mut work, client).await;
    drop(work);
    match filled {
        Ok(done) => output.answer(&done, |staged, _| backups::restored_volume(backup, staged)),
        Err(failure) => {
            // The daemon gives it up by itself, too; what went wrong first counts.
            let _ = client.delete(&path::staging(&staging.id)).await;
            Err(failure)
        }
    }
}

/// Writes all of a backup, and lets everybody see it.
async fn fill(
    repository: &Repository,
    backup: &Backup,
    staging: &Staging,
    limit: Option<u64>,
    work: &mut Work,
    client: &Client,
) -> Result<Answer<Staged>, Failure> {
    let endpoint = nbd_endpoint(client).await?;
    let sink = StagedSink::open(endpoint, staging.export.clone()).await?;
    let options = options(work, limit);
    let restore = async {
        repository.restore(backup.id, &sink, &options).await?;
        let unfinished = |e| Failure::local("io", format!("the volume cannot be completed: {e}"));
        sink.finish().await.map_err(unfinished)
    };
    work.run(restore).await?;
    let done = client.start::<Staged>(&path::staging_sub(&staging.id, "complete")).await;
    // Not before: it is what tells the daemon that somebody is there.
    drop(sink);
    done
}

async fn to_file(
    place: Place,
    id: &str,
    file: &Path,
    limit: Option<u64>,
    output: &Output,
) -> Result<(), Failure> {
    let to_stdout = file == Path::new("-");
    let destination = if to_stdout { Destination::stdout()? } else { Destination::file(file)? };
    let sink = FileSink { file: Arc::new(destination.handle()?), stream: to_stdout };
    let mut work = Work::new(output, "restoring")?;
    let options = options(&work, limit);
    let restore = async {
        let repository = place.open().await?;
        let id = repository.resolve(id).await?;
        let backup = repository.restore(id, &sink, &options).await?;
        sink.finish(backup.size).await?;
        Ok::<_, Failure>(backup)
    };
    let backup = work.run(restore).await?;
    drop(work);
    destination.keep()?;
    if to_stdout {
        return Ok(());
    }
    let shown = json!({ "restored": backup.id.to_string(), "file": file, "size": backup.size });
    output.either(|| shown, backups::restored(&backup, &file.display().to_string()))
}

/// A file, where holes stay holes, or a stream, where they are zeroes.
struct FileSink {
    file: Arc<File>,
    stream: bool,
}

impl FileSink {
    async fn work(&self, work: impl FnOnce(&File) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || work(&file)).await.map_err(io::Error::other)?
    }

    /// All is there, durably if it is a file.
    async fn finish(&self, size: u64) -> Result<(), Failure> {
        if self.stream {
            return Ok(());
        }
        let done = self.work(move |file| file.set_len(size).and_then(|()| file.sync_all())).await;
        done.map_err(|e| Failure::local("io", format!("the restored file cannot be completed: {e}")))
    }
}

impl Sink for FileSink {
    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let stream = self.stream;
        self.work(
            move |mut file| if stream { file.write_all(&data) } else { file.write_all_at(&data, offset) },
        )
        .boxed()
    }

    fn hole(&self, _: u64, len: u64) -> BoxFuture<'_, io::Result<()>> {
        if !self.stream {
            // The file is new: what is not written reads as zeroes.
            return async { Ok(()) }.boxed();
        }
        self.work(move |mut file| {
            let zeroes = vec![0; ZEROES];
            let mut left = len;
            while left > 0 {
                let some = left.min(ZEROES as u64);
                file.write_all(&zeroes[..some as usize])?;
                left -= some;
            }
            Ok(())
        })
        .boxed()
    }
}
