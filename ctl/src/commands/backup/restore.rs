//! Bringing a backup back.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_backup::{RestoreOptions, Sink};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;

use crate::commands::destination::Destination;
use crate::commands::repository::{Place, Work};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::backups;

/// Zeroes written to a stream at once.
const ZEROES: usize = 1 << 20;

/// How to restore, as fast as this machine can.
fn options(work: &Work) -> RestoreOptions {
    RestoreOptions {
        threads: std::thread::available_parallelism().map_or(2, |threads| threads.get()),
        limiter: None,
        cancel: work.cancel.clone(),
        progress: Some(work.progress()),
    }
}

pub(super) async fn to_file(place: Place, id: &str, file: &Path, output: &Output) -> Result<(), Failure> {
    let to_stdout = file == Path::new("-");
    let destination = if to_stdout { Destination::stdout()? } else { Destination::file(file)? };
    let sink = FileSink { file: Arc::new(destination.handle()?), stream: to_stdout };
    let mut work = Work::new(output, "restoring")?;
    let options = options(&work);
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
