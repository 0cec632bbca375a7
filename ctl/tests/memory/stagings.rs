//! Stagings.

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::staging::{CreateStaging, Staged, Staging};
use cairn_api::volume::CreateVolume;

use super::state::State;
use super::{check_name, error};

impl State {
    pub(super) fn create_staging(&mut self, r: CreateStaging) -> Result<Staging, ApiError> {
        check_name(&r.volume)?;
        if self.volume(&r.volume).is_ok() != r.over {
            let code = if r.over { ErrorCode::NotFound } else { ErrorCode::Exists };
            return Err(error(code, format!("the volume {:?}", r.volume)));
        }
        let (id, size) = (format!("staged-{}", self.stagings.len()), r.size);
        self.stagings.insert(id.clone(), r);
        Ok(Staging { export: format!("staged:{id}"), id, size })
    }

    pub(super) fn cancel_staging(&mut self, id: &str) -> Result<(), ApiError> {
        self.take_staging(id).map(drop)
    }

    fn take_staging(&mut self, id: &str) -> Result<CreateStaging, ApiError> {
        let taken = self.stagings.remove(id);
        taken.ok_or_else(|| error(ErrorCode::NotFound, format!("there is no staging {id:?}")))
    }

    pub(super) fn complete_staging(&mut self, id: &str) -> Result<Staged, ApiError> {
        let CreateStaging { volume: name, over, size, description, volume_type, .. } =
            self.take_staging(id)?;
        if over {
            let undo = self.create_snapshot(&name, "before-restore", "")?;
            return Ok(Staged { volume: self.volume(&name)?, undo: Some(undo) });
        }
        let size = Some(size);
        let r = CreateVolume { name, size, description, volume_type, ..CreateVolume::default() };
        Ok(Staged { volume: self.create_volume(r)?, undo: None })
    }
}
