//! The jobs that are under way, read from what they are.

use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::image::ImageSource;
use cairn_api::job::{Job, JobKind, JobProgress, JobResult, JobState};
use cairn_api::pool::{Scrub, ScrubState};
use cairn_api::volume::VolumeRestore;
use cairn_cow::{Disk, Pool, VolumeInfo};
use jiff::Timestamp;

use super::job_id;
use crate::control::convert::time;
use crate::images::{FoundImage, in_pool};
use crate::restore::VOLUME_RESTORE;
use crate::staging::{StagingSettings, VOLUME_STAGED, staging_settings};
use crate::volumes::Volumes;

/// A job under way.
pub(crate) struct Found {
    pub(crate) job: Job,
    pub(crate) how: How,
}

/// What is done about it.
pub(crate) enum How {
    /// The check or scrub of the pool with this id.
    Check([u8; 16]),
    Scrub([u8; 16]),
    /// The restore of a volume.
    Restore,
    /// The import of the image of this name.
    Image(String),
    /// The staged volume that the engine calls so.
    Staging(String),
}

fn running(kind: JobKind, id: String, pool: &str, begun: Timestamp, progress: JobProgress) -> Job {
    Job {
        id,
        kind,
        state: JobState::Running,
        pool: pool.to_owned(),
        volume: None,
        image: None,
        begun,
        ended: None,
        progress,
        problem: None,
        error: None,
        result: None,
    }
}

/// What is filled by a client has all of its size only if none of that is zeroes.
fn import(pool: &str, volume: &VolumeInfo) -> Job {
    let id = job_id(JobKind::Import, &volume.name);
    let progress = JobProgress::bytes(volume.mapped, None);
    running(JobKind::Import, id, pool, time(volume.created_ms), progress)
}

/// An image that is being imported.
pub(crate) fn import_of_image<D: Disk>(found: &FoundImage<D>) -> Job {
    Job { image: Some(found.settings.name.clone()), ..import(&found.pool_name, &found.volume) }
}

/// A volume that is being filled before anybody sees it.
pub(crate) fn import_of_volume(pool: &str, volume: &VolumeInfo, settings: &StagingSettings) -> Job {
    Job { volume: Some(settings.volume.clone()), ..import(pool, volume) }
}

/// A volume that serves while it is being restored, and how far it is.
pub(crate) fn restore(pool: &str, volume: &VolumeInfo, restore: VolumeRestore) -> Job {
    let VolumeRestore { job, bytes_done, bytes_total, problem, .. } = restore;
    let progress = JobProgress::bytes(bytes_done, Some(bytes_total));
    Job {
        volume: Some(volume.name.clone()),
        problem,
        ..running(JobKind::Restore, job, pool, time(volume.created_ms), progress)
    }
}

/// A check that begins.
pub(crate) fn of_check(id: String, pool: &str, begun: Timestamp, progress: JobProgress) -> Job {
    running(JobKind::Check, id, pool, begun, progress)
}

/// A scrub, under way or ended.
pub(crate) fn of_scrub(scrub: &Scrub) -> Option<Job> {
    let state = match scrub.state {
        ScrubState::None => return None,
        ScrubState::Running => JobState::Running,
        ScrubState::Finished => JobState::Done,
        ScrubState::Stopped => JobState::Cancelled,
        ScrubState::Failed => JobState::Failed,
    };
    let progress = JobProgress::bytes(scrub.read, Some(scrub.total));
    let result = JobResult { scrub: Some(scrub.clone()), check: None };
    Some(Job {
        state,
        ended: scrub.ended,
        error: scrub.error.as_ref().map(|why| ApiError::new(ErrorCode::Io, why)),
        result: Some(result).filter(|_| state != JobState::Running),
        ..running(JobKind::Scrub, scrub.job.clone()?, &scrub.pool, scrub.started?, progress)
    })
}

/// What clients fill in a pool.
pub(crate) fn unfinished<D: Disk>(name: &str, pool: &Arc<Pool<D>>) -> Vec<Found> {
    let mut found = Vec::new();
    for image in in_pool(name, pool) {
        if !image.settings.ready && matches!(image.settings.source, ImageSource::File { .. }) {
            let job = import_of_image(&image);
            found.push(Found { job, how: How::Image(image.settings.name) });
        }
    }
    for volume in pool.volumes_with(VOLUME_STAGED) {
        if let Some(settings) = staging_settings(&volume.attributes) {
            let job = import_of_volume(name, &volume, &settings);
            found.push(Found { job, how: How::Staging(volume.name) });
        }
    }
    found
}

impl<D: Disk> Volumes<D> {
    /// Every job that is under way.
    pub(crate) fn under_way(&self) -> Vec<Found> {
        let mut found = self.checks.jobs();
        found.extend(self.scrubs.jobs());
        for (name, pool) in self.pools.open() {
            found.extend(unfinished(&name, &pool));
            for volume in pool.volumes_with(VOLUME_RESTORE) {
                if let Some(progress) = self.restores.progress(&pool, &volume) {
                    found.push(Found { job: restore(&name, &volume, progress), how: How::Restore });
                }
            }
        }
        found
    }
}
