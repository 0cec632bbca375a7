//! What all work on a backup repository has in common: opening it, showing progress, stopping when asked to.
//!
//! It is done in this process and not by the daemon: with its user's keys and variables, on hosts without a daemon, too.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_backup::{Cancel, KeyFile, Location, OnProgress, OpenOptions, Phase, Repository, Retry, S3Options};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{InRepo, RepoPlace};
use crate::failure::Failure;
use crate::output::Output;

/// Names the repository where the command line does not.
const REPO_VARIABLE: &str = "CAIRN_REPO";
/// Names the key file where the command line does not.
const KEY_VARIABLE: &str = "CAIRN_KEY_FILE";
/// After how many seconds in which nothing moves a request to a store is made again.
const SILENCE_VARIABLE: &str = "CAIRN_STORE_TIMEOUT";
/// How many times a request is made before the store counts as unavailable.
const ATTEMPTS_VARIABLE: &str = "CAIRN_STORE_ATTEMPTS";

/// How long work that was cancelled may take to end in good order.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a repository is, and where its key.
pub(super) struct Place {
    pub(super) location: Location,
    /// The location as it was given.
    pub(super) url: String,
    pub(super) key_file: Option<PathBuf>,
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl Place {
    /// By the command line, else by the environment.
    pub(super) fn new(url: Option<String>, key_file: Option<PathBuf>) -> Result<Place, Failure> {
        let from_variable = || variable(REPO_VARIABLE).map(|url| url.to_string_lossy().into_owned());
        let url = url
            .or_else(from_variable)
            .ok_or_else(|| Failure::Usage(format!("no repository: give its URL, or set {REPO_VARIABLE}")))?;
        let key_file = key_file.or_else(|| variable(KEY_VARIABLE).map(PathBuf::from));
        Ok(Place { location: Location::parse(&url)?, url, key_file })
    }

    /// How to open it, with its key if there is one.
    pub(super) fn options(&self) -> Result<OpenOptions, Failure> {
        let key = self.key_file.as_deref().map(KeyFile::read).transpose()?;
        Ok(OpenOptions { key, ..without_key()? })
    }

    pub(super) async fn open(&self) -> Result<Repository, Failure> {
        Ok(Repository::open(&self.location, self.options()?).await?)
    }
}

/// How to reach a store, by the environment.
pub(super) fn without_key() -> Result<OpenOptions, Failure> {
    let number = |name| {
        let Some(text) = variable(name) else { return Ok(None) };
        match text.to_str().and_then(|text| text.parse::<u32>().ok()) {
            None | Some(0) => Err(Failure::Usage(format!("{name} is {text:?}: give a number from 1 on"))),
            number => Ok(number),
        }
    };
    let silence = number(SILENCE_VARIABLE)?.map(|seconds| Duration::from_secs(seconds.into()));
    let mut retry = Retry::default();
    retry.attempts = number(ATTEMPTS_VARIABLE)?.unwrap_or(retry.attempts);
    Ok(OpenOptions { s3: S3Options { silence, ..S3Options::default() }, retry, ..OpenOptions::default() })
}

impl TryFrom<RepoPlace> for Place {
    type Error = Failure;

    fn try_from(place: RepoPlace) -> Result<Place, Failure> {
        Place::new(place.url, place.key_file)
    }
}

impl TryFrom<InRepo> for Place {
    type Error = Failure;

    fn try_from(place: InRepo) -> Result<Place, Failure> {
        Place::new(place.repo, place.key_file)
    }
}

/// Makes a key file that only its owner reads, unless there is one. Answers whether it was made.
pub(super) fn make_key_file(path: &Path) -> Result<bool, Failure> {
    let failed = |e| Failure::local("io", format!("the key file {} cannot be made: {e}", path.display()));
    let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
        Err(e) => return Err(failed(e)),
    };
    let key = KeyFile::generate()?.to_hex();
    let written = file.write_all(key.as_bytes()).and_then(|()| file.write_all(b"\n"));
    written.and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(true)
}

/// Work on a repository that takes its time. From when it is made, signals do not end the process at once.
pub(super) struct Work {
    bar: ProgressBar,
    /// Asks the work to end.
    pub(super) cancel: Cancel,
    interrupt: Signal,
    terminate: Signal,
}

/// Has this thread, and those that it starts, leave processors to others: for what nobody waits for. A nice value that
/// somebody chose stays.
pub(super) fn let_others_go_first() {
    const LAST: i32 = 19;
    if rustix::process::nice(0) == Ok(0) {
        // It may always be raised.
        let _ = rustix::process::nice(LAST);
    }
}

impl Work {
    pub(super) fn new(output: &Output, message: &'static str) -> Result<Work, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| Failure::local("internal", format!("cannot wait for signals: {e}")))
        };
        let bar = ProgressBar::new_spinner().with_message(message);
        if output.json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Work {
            bar,
            cancel: Cancel::new(),
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Moves the bar.
    pub(super) fn progress(&self) -> OnProgress {
        let bar = self.bar.clone();
        let copying = ProgressStyle::with_template(
            "{msg} {bar:20} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
        );
        Arc::new(move |progress| {
            if progress.phase == Phase::Copying && progress.bytes_total > 0 {
                if bar.length() != Some(progress.bytes_total) {
                    bar.set_length(progress.bytes_total);
                    if let Ok(style) = &copying {
                        bar.set_style(style.clone().progress_chars("=> "));
                    }
                }
                bar.set_position(progress.bytes_done);
            }
        })
    }

    /// Does `work`, which may be left at any point: a signal ends it at once.
    pub(super) async fn begin<T, E: Into<Failure>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done.map_err(Into::into),
            () = self.asked_to_stop() => Err(cancelled()),
        }
    }

    async fn asked_to_stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Does `work`. When a signal comes, it is told so and given some time to end; another signal ends it at once.
    pub(super) async fn run<T, E: Into<Failure>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done.map_err(Into::into),
            () = self.asked_to_stop() => {}
        }
        self.cancel.cancel();
        tokio::select! {
            ended = tokio::time::timeout(PATIENCE, work) => match ended {
                // It was done before it could be stopped.
                Ok(Ok(done)) => Ok(done),
                _ => Err(cancelled()),
            },
            () = self.asked_to_stop() => Err(cancelled()),
        }
    }
}

fn cancelled() -> Failure {
    Failure::local("cancelled", "stopped as asked")
}

impl Drop for Work {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn key_files_are_made_once_and_for_their_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        assert_eq!(make_key_file(&path), Ok(true));
        let made = fs::read(&path).expect("the key");
        assert_eq!(made.len(), 65);
        assert!(KeyFile::read(&path).is_ok());
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(make_key_file(&path), Ok(false));
        assert_eq!(fs::read(&path).expect("the key"), made);
    }
}
