//! Images as the pools keep them, and snapshots that are taken only to be read.
//!
//! An image is a volume of the engine that users do not see as one, with a name that nobody else gives, and one snapshot,
//! [`CONTENTS`], which is what the image holds. So a volume is made from it as any clone is, at no cost and independent of
//! it. What makes it an image is the attribute [`VOLUME_IMAGE`], there from the start; until that says that it is ready,
//! its head is being written. [`sweep`] removes what a crash has left unready.
//!
//! The head stays after that and is never written again: it costs a line in the catalog.

use std::sync::Arc;

use cairn_api::image::{EXPORT_PREFIX, ImageFormat, ImageSource};
use cairn_cow::{Attributes, Disk, Error, ErrorKind, Holder, Pool, Result, VolumeInfo};
use serde::{Deserialize, Serialize};

use crate::staging::{STAGED_PREFIX, is_staged};
use crate::volumes::Volumes;

/// On the volume that is an image: an [`ImageSettings`] as JSON.
pub(crate) const VOLUME_IMAGE: &str = "image";
/// On a volume that was made from an image: what that was called then.
pub(crate) const VOLUME_FROM_IMAGE: &str = "from-image";
/// On a volume, before the name of a snapshot of it that only a client's connection keeps.
const PASSING_PREFIX: &str = "passing/";
/// The snapshot that is the image.
pub(crate) const CONTENTS: &str = "contents";
/// What the name of the export begins with that an import is written to.
pub(crate) const IMPORT_PREFIX: &str = "import:";

/// An image as it is kept; its description is its volume's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ImageSettings {
    pub(crate) name: String,
    /// Whether it is complete.
    #[serde(default)]
    pub(crate) ready: bool,
    pub(crate) format: ImageFormat,
    #[serde(default)]
    pub(crate) os_type: Option<String>,
    #[serde(default)]
    pub(crate) min_disk: u64,
    #[serde(default)]
    pub(crate) min_memory: u64,
    #[serde(default)]
    pub(crate) protected: bool,
    pub(crate) source: ImageSource,
}

/// An image and where it is.
pub(crate) struct FoundImage<D: Disk> {
    pub(crate) pool_name: String,
    pub(crate) pool: Arc<Pool<D>>,
    /// The volume that is the image.
    pub(crate) volume: VolumeInfo,
    pub(crate) settings: ImageSettings,
}

/// Whether a volume that keeps `attributes` is an image.
pub(crate) fn is_image(attributes: &Attributes) -> bool {
    attributes.get(VOLUME_IMAGE).is_some()
}

/// What is kept of an image; nothing for other volumes. What another version has written and this one cannot read still
/// has a name, so that it can be seen and deleted.
pub(crate) fn image(volume: &VolumeInfo) -> Option<ImageSettings> {
    let kept = volume.attributes.get(VOLUME_IMAGE)?;
    Some(serde_json::from_str(kept).unwrap_or_else(|_| ImageSettings {
        name: volume.name.clone(),
        ready: false,
        format: ImageFormat::Raw,
        os_type: None,
        min_disk: 0,
        min_memory: 0,
        protected: false,
        source: ImageSource::File { name: String::new() },
    }))
}

/// Whether a volume that keeps `attributes` has a snapshot that only a client's connection keeps.
pub(crate) fn has_passing(attributes: &Attributes) -> bool {
    passing_snapshots(attributes).next().is_some()
}

/// The names of the snapshots of a volume that keeps `attributes` that go away by themselves.
pub(crate) fn passing_snapshots(attributes: &Attributes) -> impl Iterator<Item = &str> {
    attributes.iter().filter_map(|(key, _)| key.strip_prefix(PASSING_PREFIX))
}

/// Whether the snapshot of a volume that keeps `attributes` goes away by itself.
pub(crate) fn is_passing(attributes: &Attributes, snapshot: &str) -> bool {
    attributes.get(&passing_key(snapshot)).is_some()
}

/// The attribute's key for a passing snapshot.
pub(crate) fn passing_key(snapshot: &str) -> String {
    format!("{PASSING_PREFIX}{snapshot}")
}

impl<D: Disk> Volumes<D> {
    /// Every image, ready or not, by name.
    pub(crate) fn images(&self) -> Vec<FoundImage<D>> {
        let mut found: Vec<_> =
            self.pools.open().iter().flat_map(|(name, pool)| in_pool(name, pool)).collect();
        found.sort_by(|a, b| a.settings.name.cmp(&b.settings.name));
        found
    }

    /// One image.
    ///
    /// # Errors
    /// `NotFound` without such an image.
    pub(crate) fn image(&self, name: &str) -> Result<FoundImage<D>> {
        let found = self.images().into_iter().find(|image| image.settings.name == name);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no image '{name}'")))
    }

    /// The pool that serves the NBD export `name`, and what the engine calls it.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub(crate) fn export(&self, name: &str) -> Result<(Arc<Pool<D>>, String)> {
        if let Some(image) = name.strip_prefix(EXPORT_PREFIX) {
            let FoundImage { pool, volume, settings, .. } = self.image(image)?;
            if !settings.ready {
                let why = format!("the image '{image}' is still being imported");
                return Err(Error::new(ErrorKind::Busy, why));
            }
            return Ok((pool, format!("{}@{CONTENTS}", volume.name)));
        }
        if let Some(volume) = name.strip_prefix(IMPORT_PREFIX) {
            let unready = |image: &FoundImage<D>| image.volume.name == volume && !image.settings.ready;
            let found = self.images().into_iter().find(unready);
            let gone = || Error::new(ErrorKind::NotFound, format!("there is no import '{volume}' any more"));
            return found.map(|image| (image.pool, image.volume.name)).ok_or_else(gone);
        }
        if let Some(id) = name.strip_prefix(STAGED_PREFIX) {
            return self.staging(id).map(|staging| (staging.pool, staging.volume.name));
        }
        let volume = name.split_once('@').map_or(name, |(volume, _)| volume);
        let (_, pool) = self.pools.of_volume(volume)?;
        Ok((pool, name.to_owned()))
    }
}

/// The images of one pool.
pub(crate) fn in_pool<D: Disk>(pool_name: &str, pool: &Arc<Pool<D>>) -> Vec<FoundImage<D>> {
    let found = |volume: VolumeInfo| {
        let settings = image(&volume)?;
        Some(FoundImage { pool_name: pool_name.to_owned(), pool: Arc::clone(pool), volume, settings })
    };
    pool.volumes_with(VOLUME_IMAGE).into_iter().filter_map(found).collect()
}

/// Deletes what nobody finishes any more in a pool that was just opened: images that are not ready, staged volumes, and
/// snapshots that were taken for a client which is gone.
///
/// # Errors
/// Of the pool. What is left then is seen and can be deleted by hand.
pub(crate) async fn sweep<D: Disk>(pool: &Pool<D>) -> Result<()> {
    for volume in pool.volumes() {
        if image(&volume).is_some_and(|image| !image.ready) || is_staged(&volume.attributes) {
            pool.delete_volume(&volume.name, true).await?;
            continue;
        }
        for snapshot in passing_snapshots(&volume.attributes) {
            forget_passing(pool, &volume.name, snapshot).await?;
        }
    }
    Ok(())
}

/// Deletes a passing snapshot, if it is still there, and its mark.
///
/// # Errors
/// Of the pool.
pub(crate) async fn forget_passing<D: Disk>(pool: &Pool<D>, volume: &str, snapshot: &str) -> Result<()> {
    match pool.delete_snapshot(volume, snapshot).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => unmark_passing(pool, volume, snapshot).await,
    }
}

/// Takes away the mark of a passing snapshot that is gone, if it had one.
///
/// # Errors
/// Of the pool.
pub(crate) async fn unmark_passing<D: Disk>(pool: &Pool<D>, volume: &str, snapshot: &str) -> Result<()> {
    let marked = pool.attributes(Holder::Volume(volume));
    if !marked.is_ok_and(|attributes| attributes.get(&passing_key(snapshot)).is_some()) {
        return Ok(());
    }
    match pool.set_attributes(Holder::Volume(volume), &[(&passing_key(snapshot), None)]).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
