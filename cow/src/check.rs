//! The consistency check: every version walked, every node verified, every block accounted for.
//!
//! It runs beside everything else. A checkpoint gives a state that no longer changes; the walk compares what that
//! state's versions refer to with what its space map says is used. Blocks freed since stay unused until it is done.

use std::ops::ControlFlow;

use crate::checkpoint::Written;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::space::ReadGuard;
use crate::survey::{Subject, Survey, losses};
use crate::types::CheckReport;

impl<D: Disk> Pool<D> {
    /// Checks the whole pool; with `verify_data` it also reads every data block and compares its checksum.
    pub async fn check(&self, verify_data: bool) -> Result<CheckReport> {
        self.check_and_tell(verify_data, |_, _| ControlFlow::Continue(())).await
    }

    /// As [`Pool::check`]; `progress` is told between steps how many blocks were read, of how many that are in use, and may
    /// end it there.
    ///
    /// # Errors
    /// `Cancelled` when `progress` ended it, `Busy` in a pool that fills up meanwhile.
    pub async fn check_and_tell(
        &self,
        verify_data: bool,
        progress: impl Fn(u64, u64) -> ControlFlow<()>,
    ) -> Result<CheckReport> {
        // The guard keeps what the checkpoint holds in place, so others may follow it while this walk goes on.
        let guard = self.state.lock().space.reader();
        let written = self.checkpoint_from_now().await?;
        let report = self.check_written(&guard, &written, verify_data, progress).await;
        drop(guard);
        written.let_go().await;
        report
    }

    /// Checks what a checkpoint holds.
    async fn check_written(
        &self,
        guard: &ReadGuard,
        written: &Written,
        verify_data: bool,
        progress: impl Fn(u64, u64) -> ControlFlow<()>,
    ) -> Result<CheckReport> {
        let (free_before, in_use) = self.free_and_used();
        let subject = Subject {
            versions: &written.versions,
            catalog: &written.catalog,
            segments: written.segments.len(),
            guard,
            verify_data,
        };
        let mut survey = self
            .survey(subject, |blocks| {
                if progress(blocks, in_use).is_break() {
                    return Err(Error::new(ErrorKind::Cancelled, "the check was cancelled"));
                }
                self.room_to_go_on(free_before)
            })
            .await?;
        for (segment, used) in written.segments.iter().enumerate() {
            self.compare_space(&mut survey, segment, used);
        }
        let gone = self.gone(guard, &written.versions, &survey).await?;
        let (losses, lost_bytes) = losses(&written.versions, &gone);
        Ok(CheckReport {
            versions: written.versions.len(),
            nodes: survey.nodes,
            data_blocks: survey.data_blocks,
            data_verified: survey.data_verified,
            leaked: survey.leaked(&written.segments),
            errors: survey.errors,
            error_count: survey.error_count,
            losses,
            lost_bytes,
        })
    }

    /// Blocks that are free, and blocks that are not.
    pub(crate) fn free_and_used(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.space.free(), state.space.capacity() - state.space.free())
    }

    /// The check holds back the reuse of blocks. In a pool that is full and busy that must not go on until even
    /// metadata finds no room.
    fn room_to_go_on(&self, free_before: u64) -> Result<()> {
        let state = self.state.lock();
        let reserve = state.reserve();
        if state.space.free() + reserve / 8 >= free_before.min(reserve) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Busy,
            "the pool is too full to be checked while it is written to: make room, or check it when it is idle",
        ))
    }

    /// Tells of blocks of a segment that something refers to and that its map calls free.
    fn compare_space(&self, survey: &mut Survey, segment: usize, used: &[u64]) {
        for (word, used) in used.iter().enumerate() {
            let mut lost = survey.referenced[segment][word] & !used;
            while lost != 0 {
                let index = word as u64 * 64 + u64::from(lost.trailing_zeros());
                let addr = self.geometry.segment_start(segment) + index;
                survey.error(format!("block {addr} is in use but the space map says that it is free"));
                lost &= lost - 1;
            }
        }
    }
}
