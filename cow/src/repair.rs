//! Repairing a pool that is damaged: what can be read stays, what cannot becomes an error for whoever reads it, and which
//! blocks are in use is reckoned anew from what the versions refer to.
//!
//! Nothing is invented. A block of data whose checksum does not match stays as it is, an error until it is overwritten or
//! trimmed; a part of the map that cannot be read is marked as lost, which reads as an error, too, until then. No block is
//! handed out before it is known that neither the old state nor the new one refers to it, so a repair that is cut short
//! leaves the pool as it was, and can be made again.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::map::{MAP_END, View, visit};
use crate::node::FANOUT;
use crate::pool::{Options, Pool};
use crate::read::STEPS_PER_TURN;
use crate::survey::{Subject, Why, losses};
use crate::sync::yield_now;
use crate::types::{BatchSeq, Loss, VersionId};

/// What a repair did, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct RepairReport {
    /// Bytes that the file was too short, which read as zeroes now and are damaged where something was.
    pub missing_bytes: u64,
    /// One of the two superblocks was damaged.
    pub superblock_restored: bool,
    /// The journal was damaged, so its last changes are lost: the number of the damaged batch, and of the last one.
    pub journal_cut: Option<(u64, u64)>,
    /// Segments whose part of the space map could not be read.
    pub segments_rebuilt: u64,
    /// Map nodes that could not be read.
    pub nodes_lost: u64,
    /// Blocks that nothing refers to and that are free again.
    pub freed: u64,
    /// Blocks in use that the space map called free.
    pub claimed: u64,
    /// Versions walked.
    pub versions: usize,
    /// Map nodes read and verified.
    pub nodes: u64,
    /// Distinct data blocks referenced.
    pub data_blocks: u64,
    /// Data blocks read and verified.
    pub data_verified: u64,
    /// What users have lost, by volume and place; the first ten thousand ranges.
    pub losses: Vec<Loss>,
    /// Bytes that cannot be read of all volumes and snapshots together.
    pub lost_bytes: u64,
}

impl RepairReport {
    /// Whether anything is wrong with the pool that a repair changes or that it can only tell.
    pub fn is_clean(&self) -> bool {
        let RepairReport { missing_bytes, superblock_restored, journal_cut, segments_rebuilt, .. } = self;
        let RepairReport { nodes_lost, freed, claimed, lost_bytes, .. } = self;
        !superblock_restored
            && journal_cut.is_none()
            && [missing_bytes, segments_rebuilt, nodes_lost, freed, claimed, lost_bytes]
                .iter()
                .all(|n| **n == 0)
    }
}

/// A repair under way.
#[derive(Default)]
pub(crate) struct Mend {
    pub(crate) report: RepairReport,
    /// The highest number that a batch has in a journal that is damaged before its end.
    pub(crate) damaged_after: Option<BatchSeq>,
    /// What the state refers to that the superblock leads to, by segment.
    pub(crate) referenced: Vec<Vec<u64>>,
}

impl Mend {
    /// Gives a file that was cut off its length back.
    pub(crate) async fn lengthen<D: Disk>(&mut self, disk: &D, needed: u64) -> Result<()> {
        self.report.missing_bytes += needed.saturating_sub(disk.len());
        let grown = disk.grow(needed).await;
        grown.map_err(|e| Error::io("making the pool as long again as it should be", e))
    }

    /// The journal ends before batch `damaged`; `highest` is the last that there are traces of.
    pub(crate) fn cut_at(&mut self, damaged: BatchSeq, highest: BatchSeq) {
        self.report.journal_cut = Some((damaged.0, highest.0));
        self.damaged_after = Some(highest);
    }
}

/// Makes a damaged pool usable again, and says who lost what. Nobody else may use the disk. `progress` is told now and then
/// how many blocks were read, of how many that are in use. On a [`crate::Overlay`] it tells what it would do.
///
/// # Errors
/// When both superblocks or the catalog, which has the names of all volumes, cannot be read, or the disk fails.
pub async fn repair<D: Disk>(disk: D, options: Options, progress: impl Fn(u64, u64)) -> Result<RepairReport> {
    let mut mend = Mend::default();
    let pool = Pool::bring_up(disk, options, Some(&mut mend)).await?;
    let guard = pool.state.lock().space.reader();
    let written = pool.checkpoint_from_now().await?;
    let subject = Subject {
        versions: &written.versions,
        catalog: &written.catalog,
        segments: written.segments.len(),
        guard: &guard,
        verify_data: true,
    };
    let (_, in_use) = pool.free_and_used();
    let survey = pool
        .survey(subject, |blocks| {
            progress(blocks, in_use);
            Ok(())
        })
        .await?;
    let gone = pool.gone(&guard, &written.versions, &survey).await?;
    drop(guard);
    let report = &mut mend.report;
    report.freed = survey.leaked(&written.segments);
    (report.losses, report.lost_bytes) = losses(&written.versions, &gone);
    report.versions = written.versions.len();
    report.nodes = survey.nodes;
    report.data_blocks = survey.data_blocks;
    report.data_verified = survey.data_verified;
    pool.state.lock().space.rebuild(&survey.referenced);
    written.let_go().await;
    pool.checkpoint_from_now().await?.let_go().await;
    pool.close().await?;
    Ok(mend.report)
}

impl<D: Disk> Pool<D> {
    /// Takes what of the maps cannot be read for lost, before the journal is replayed on them.
    pub(crate) async fn lose_what_is_damaged(&self, mend: &mut Mend) -> Result<()> {
        let (guard, versions, catalog, segments) = {
            let state = self.state.lock();
            let segments = state.space.segment_count();
            (state.space.reader(), state.versions.clone(), state.catalog.clone(), segments)
        };
        let subject =
            Subject { versions: &versions, catalog: &catalog, segments, guard: &guard, verify_data: false };
        let survey = self.survey(subject, |_| Ok(())).await?;
        let gone = self.gone(&guard, &versions, &survey).await?;
        drop((guard, versions));
        let nodes: Vec<_> = gone.iter().filter(|gone| matches!(gone.why, Why::Node(_))).collect();
        for gone in &nodes {
            self.step(|state| state.lose(gone)).await?;
        }
        let losers: BTreeSet<VersionId> = nodes.iter().map(|gone| gone.version).collect();
        for id in losers {
            self.recount(id).await?;
        }
        mend.report.nodes_lost = survey.bad_nodes.len() as u64;
        mend.referenced = survey.referenced;
        Ok(())
    }

    /// Counts what a version maps.
    async fn recount(&self, id: VersionId) -> Result<()> {
        let (mut at, mut mapped, mut steps) = (0, 0, 0);
        while at < MAP_END {
            steps += 1;
            if steps % STEPS_PER_TURN == 0 {
                yield_now().await;
            }
            let (next, data) = self
                .step(|state| {
                    let version = state.any_version(id)?;
                    let seen = visit(&mut version.root, at, |view| match view {
                        View::Uniform { end, .. } => (end, 0),
                        View::Leaf(entries) => {
                            (at + FANOUT as u64, entries.iter().filter(|e| e.is_data()).count() as u64)
                        }
                    });
                    seen.map_err(|missing| state.missing(missing))
                })
                .await?;
            (at, mapped) = (next, mapped + data);
        }
        self.state.lock().any_version(id)?.mapped = mapped;
        Ok(())
    }
}
