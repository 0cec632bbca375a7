//! Repositories: made, looked at, verified, pruned, collected.

use std::collections::HashMap;

use cairn_backup::{GcOptions, KeepRules, Repository, VerifyOptions};
use serde_json::json;

use super::repository::{Place, Work, let_others_go_first, make_key_file, without_key};
use crate::args::{self, Keep};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::repos;

pub(super) async fn run(command: args::Repo, output: &Output) -> Result<(), Failure> {
    match command {
        args::Repo::Init { url, encrypt, key_file } => {
            init(Place::new(url, key_file)?, encrypt, output).await
        }
        args::Repo::Status { place } => {
            let place = Place::try_from(place)?;
            let mut work = Work::new(output, "looking")?;
            let status = work.run(async { Ok::<_, Failure>(place.open().await?.status().await?) }).await?;
            drop(work);
            let shown = repos::status(&place.location, &status, &output.look);
            output.either(|| repos::status_json(&place.location, &status), shown)
        }
        args::Repo::Verify { place, read_data, repair } => {
            verify(place.try_into()?, read_data, repair, output).await
        }
        args::Repo::Prune { place, keep, dry_run, yes } => {
            prune(place.try_into()?, &rules(&keep), dry_run, yes, output).await
        }
        args::Repo::Gc { place, now, dry_run } => {
            let place = Place::try_from(place)?;
            let_others_go_first();
            let mut work = Work::new(output, "collecting")?;
            let options = if now { GcOptions::at_once() } else { GcOptions::default() };
            let options = GcOptions { dry_run, cancel: work.cancel.clone(), ..options };
            let collect = async { Ok::<_, Failure>(place.open().await?.gc(&options).await?) };
            let report = work.run(collect).await?;
            drop(work);
            output.either(|| repos::collected_json(&report), repos::collected(&report, dry_run))
        }
    }
}

async fn init(place: Place, encrypt: bool, output: &Output) -> Result<(), Failure> {
    let mut options = without_key()?;
    let mut made = None;
    if encrypt {
        let path = place.key_file.as_deref().ok_or_else(|| {
            Failure::Usage("--encrypt needs a key: give --key-file FILE, or set CAIRN_KEY_FILE".to_owned())
        })?;
        made = make_key_file(path)?.then_some(path);
        options = place.options()?;
    }
    let repository = match Repository::init(&place.location, options).await {
        Ok(repository) => repository,
        Err(error) => {
            if let Some(path) = made {
                // The key of nothing; it is in nobody's way either.
                let _ = std::fs::remove_file(path);
            }
            return Err(error.into());
        }
    };
    let id = repository.id();
    let shown = json!({ "url": place.location.to_string(), "id": id.to_string(), "encrypted": encrypt,
        "key_file_made": made });
    output.either(|| shown, repos::made(&place.location, id, encrypt, made))
}

async fn verify(place: Place, read_data: bool, repair: bool, output: &Output) -> Result<(), Failure> {
    let_others_go_first();
    let mut work = Work::new(output, "verifying")?;
    let options = VerifyOptions {
        read_data,
        repair,
        threads: std::thread::available_parallelism().map_or(2, |threads| threads.get()),
        limiter: None,
        cancel: work.cancel.clone(),
        progress: Some(work.progress()),
    };
    let verify = async { Ok::<_, Failure>(place.open().await?.verify(&options).await?) };
    let report = work.run(verify).await?;
    drop(work);
    output.either(|| repos::verified_json(&report), repos::verified(&report, read_data, &output.look))?;
    if report.is_clean() { Ok(()) } else { Err(Failure::Unsound) }
}

fn rules(keep: &Keep) -> KeepRules {
    KeepRules {
        last: keep.keep_last.unwrap_or(0),
        hourly: keep.keep_hourly.unwrap_or(0),
        daily: keep.keep_daily.unwrap_or(0),
        weekly: keep.keep_weekly.unwrap_or(0),
        monthly: keep.keep_monthly.unwrap_or(0),
        yearly: keep.keep_yearly.unwrap_or(0),
    }
}

/// Deletes what was shown and agreed to, and not what the rules would say of backups made since.
async fn prune(
    place: Place,
    rules: &KeepRules,
    dry_run: bool,
    yes: bool,
    output: &Output,
) -> Result<(), Failure> {
    let repository = place.open().await?;
    let listing = repository.list().await?;
    let backups: HashMap<_, _> = listing.backups.iter().map(|backup| (backup.id, backup)).collect();
    let verdicts = rules.apply(&listing.backups, &output.look.zone)?;
    let gone: Vec<_> = verdicts.iter().filter(|v| v.kept_by.is_empty()).map(|v| v.backup).collect();
    if !output.json {
        output.print(&repos::verdicts(&verdicts, &backups, &output.look))?;
    }
    if !dry_run && !gone.is_empty() {
        output.confirm(&repos::prune_question(gone.len()), yes)?;
        repository.remove(&gone).await?;
    }
    let people = repos::pruned(gone.len(), dry_run);
    output.either(|| repos::verdicts_json(&verdicts, dry_run), people)
}
