//! Staged volumes as the pools keep them: volumes of the engine that users do not see while a client fills them.
//!
//! What makes one is the attribute [`VOLUME_STAGED`], there from the start. When it is complete, either the volume gets
//! its name and loses the attribute by one record, or a snapshot of it takes the place of another volume's contents by
//! one record and it is deleted. So whatever a crash leaves is as it was, or as it is to be, and a staged volume that
//! nobody needs any more, which [`crate::images::sweep`] deletes.

use std::sync::Arc;

use cairn_cow::{Attributes, Disk, Error, ErrorKind, Pool, Result, VolumeInfo};
use serde::{Deserialize, Serialize};

use crate::images::is_image;
use crate::restore::is_companion;
use crate::volumes::Volumes;

/// On a staged volume: a [`StagingSettings`] as JSON.
pub(crate) const VOLUME_STAGED: &str = "staged";
/// On a volume in the recycle bin: what it was, as JSON.
pub(crate) const VOLUME_RECYCLED: &str = "recycled";
/// On a volume whose contents were restored from a backup: which.
pub(crate) const VOLUME_FROM_BACKUP: &str = "from-backup";
/// What the names of their exports begin with.
pub(crate) const STAGED_PREFIX: &str = "staged:";
/// The snapshot that takes another volume's place.
pub(crate) const STAGED_CONTENTS: &str = "contents";

/// What a staged volume is to become.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StagingSettings {
    pub(crate) volume: String,
    pub(crate) over: bool,
    #[serde(default)]
    pub(crate) backup: Option<String>,
}

/// A staged volume and where it is.
pub(crate) struct FoundStaging<D: Disk> {
    pub(crate) pool_name: String,
    pub(crate) pool: Arc<Pool<D>>,
    pub(crate) volume: VolumeInfo,
    pub(crate) settings: StagingSettings,
}

/// What a volume that keeps `attributes` is to become, if it is being filled.
pub(crate) fn staging_settings(attributes: &Attributes) -> Option<StagingSettings> {
    serde_json::from_str(attributes.get(VOLUME_STAGED)?).ok()
}

/// Whether a volume that keeps `attributes` is being filled.
pub(crate) fn is_staged(attributes: &Attributes) -> bool {
    attributes.get(VOLUME_STAGED).is_some()
}

/// Whether a volume that keeps `attributes` is in the recycle bin.
fn is_recycled(attributes: &Attributes) -> bool {
    attributes.get(VOLUME_RECYCLED).is_some()
}

/// Whether a volume of the engine is none that users see as one.
pub(crate) fn is_hidden(attributes: &Attributes) -> bool {
    is_image(attributes) || is_staged(attributes) || is_companion(attributes) || is_recycled(attributes)
}

/// What clients are filling in a pool.
pub(crate) fn filled<D: Disk>(pool: &Pool<D>) -> impl Iterator<Item = StagingSettings> {
    let stagings = pool.volumes_with(VOLUME_STAGED).into_iter();
    stagings.filter_map(|volume| staging_settings(&volume.attributes))
}

/// Whether something that is being filled is to take the place of a volume's contents. It is in the volume's pool.
pub(crate) fn is_replaced<D: Disk>(pool: &Pool<D>, volume: &str) -> bool {
    filled(pool).any(|staging| staging.over && staging.volume == volume)
}

/// Why nobody begins to use or to change such a volume.
pub(crate) fn replaced(volume: &str) -> String {
    format!("a backup is being restored over the volume '{volume}'")
}

impl<D: Disk> Volumes<D> {
    /// One staged volume, by what the engine calls it.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub(crate) fn staging(&self, id: &str) -> Result<FoundStaging<D>> {
        let find = |pool_name: String, pool: Arc<Pool<D>>| {
            let volume = pool.volume(id).ok()?;
            let settings = staging_settings(&volume.attributes)?;
            Some(FoundStaging { pool_name, pool, volume, settings })
        };
        let found = self.pools.open().into_iter().find_map(|(name, pool)| find(name, pool));
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no staging '{id}' any more")))
    }
}
