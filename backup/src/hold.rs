//! Holds: what a backup leads to stays in the repository, even when the backup is deleted.
//!
//! For whoever reads a backup over days and cannot begin again: a volume that serves while it is restored. A hold is an
//! object with a copy of the manifest, and collections keep what that leads to. As with backups the order of steps is
//! all that matters: a holder puts its hold, then looks whether the backup is still there; a collection lists
//! backups, then holds. So a collection that sees neither came after a deletion that the holder sees.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::envelope::{self, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BackupId, HoldId};
use crate::keys::Keys;
use crate::manifest::{Backup, Text, to_json};
use crate::reader::Reader;
use crate::repository::{Repository, is_there, not_found, read_backup};

/// How often a hold is to be renewed.
pub const HOLD_RENEWAL: Duration = Duration::from_secs(24 * 3600);
/// A hold not renewed for this long, in milliseconds, has no holder any more: a month.
pub(crate) const ABANDONED_AFTER: i64 = 30 * 24 * 3600 * 1000;

#[derive(Serialize, Deserialize)]
struct Held {
    backup: BackupId,
    manifest: Text,
}

fn seal(keys: &Keys, hold: HoldId, backup: &Backup) -> Result<bytes::Bytes> {
    let held = Held { backup: backup.id, manifest: backup.text() };
    envelope::seal(keys, Kind::Hold, &Kind::Hold.name(hold), &to_json(&held)?)
}

/// The backup that a hold's object keeps.
pub(crate) fn open(keys: &Keys, hold: HoldId, object: &[u8]) -> Result<Backup> {
    let name = Kind::Hold.name(hold);
    let contents = envelope::open(keys, Kind::Hold, &name, object)?;
    let held: Held = serde_json::from_slice(&contents)
        .map_err(|e| Error::corrupt(&name, "the hold makes no sense").because(e))?;
    held.manifest.into_backup(&name, held.backup)
}

async fn find(core: &Core, hold: HoldId) -> Result<Option<Backup>> {
    match core.store.find(&Kind::Hold.name(hold)).await? {
        Some(object) => open(&core.keys, hold, &object).map(Some),
        None => Ok(None),
    }
}

impl Repository {
    /// Keeps what a backup leads to, until [`release`](Self::release): from now on it can be read even if it is
    /// deleted. Again at least every [`HOLD_RENEWAL`]; a month without, and the hold is taken for abandoned.
    pub async fn hold(&self, hold: HoldId, backup: BackupId) -> Result<()> {
        let core = self.core();
        core.writable()?;
        let name = Kind::Hold.name(hold);
        let (manifest, renewed) = match find(core, hold).await {
            Ok(Some(held)) if held.id == backup => (held, true),
            // One that is damaged is put anew.
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            _ => (read_backup(core, backup).await?, false),
        };
        core.store.put(&name, seal(&core.keys, hold, &manifest)?).await?;
        if !renewed && !is_there(core, backup).await? {
            core.store.delete(&name).await?;
            return Err(not_found(backup));
        }
        Ok(())
    }

    /// Ends a hold.
    pub async fn release(&self, hold: HoldId) -> Result<()> {
        self.core().store.delete(&Kind::Hold.name(hold)).await
    }

    /// Opens the backup that a hold keeps, if there is such a hold.
    pub async fn held(&self, hold: HoldId) -> Result<Option<Arc<Reader>>> {
        let core = self.core();
        let Some(backup) = find(core, hold).await? else { return Ok(None) };
        Reader::new(Arc::clone(core), backup, None).map(|reader| Some(Arc::new(reader)))
    }
}
