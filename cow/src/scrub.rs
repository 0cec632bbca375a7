//! Scrubbing: reading all that is stored now and then, so that damage is found while there are copies of it elsewhere.
//!
//! Unlike the check it needs no moment at which everything stands still: it goes over the versions leaf by leaf, and holds
//! back the reuse of blocks only while it reads some. What a version shares with the one before it is read there.

use crate::disk::Disk;
use crate::error::{ErrorKind, Result};
use crate::map::{MAP_END, Way, WayLeaf, span_end, way};
use crate::node::{Entry, FANOUT, Node, entry_span, index_at};
use crate::pool::Pool;
use crate::read::STEPS_PER_TURN;
use crate::state::{Blocked, State};
use crate::survey::{name_of, names_of};
use crate::sync::{join_all, yield_now};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, Epoch, Loss, LossKind, VersionId};

/// Reads in flight.
const WIDTH: usize = 8;

/// Where a scrub has got to, and what it has read so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrub {
    version: VersionId,
    lba: u64,
    /// Map nodes read.
    pub nodes: u64,
    /// Blocks of data read.
    pub data_blocks: u64,
}

/// What a step of a scrub did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubStep {
    /// Everything has been read.
    pub done: bool,
    /// Bytes that this step read.
    pub bytes: u64,
    /// What cannot be read, each with a sentence that says why. Others may have it, too: the check says who.
    pub faults: Vec<(Loss, String)>,
}

/// What is to be read next.
enum Found {
    /// What stands on the way to this block.
    Way {
        at: u64,
        floor: Epoch,
        way: Way,
    },
    /// Nothing here; the rest begins at this block.
    Skip(u64),
    /// The version has nothing more.
    VersionDone,
    Done,
}

impl State {
    /// Finds what a scrub reads next: of a version that was deleted it goes on with the one after it.
    fn scrub_next(&mut self, cursor: &mut Scrub) -> Result<Found, Blocked> {
        let Some((id, version)) = self.versions.iter().find(|(id, _)| *id >= cursor.version) else {
            return Ok(Found::Done);
        };
        if id != cursor.version {
            (cursor.version, cursor.lba) = (id, 0);
        }
        let at = match self.versions.reaping.filter(|reaping| reaping.version == id) {
            Some(reaping) => cursor.lba.max(reaping.cursor),
            None => cursor.lba,
        };
        if at >= MAP_END.min(version.size.div_ceil(BLOCK_SIZE)) {
            return Ok(Found::VersionDone);
        }
        let floor = self.versions.floor(version, at);
        let found = way(&mut self.any_version(id)?.root, at, floor);
        match found {
            Ok(way) if way.leaf.is_none() && way.nodes.is_empty() => Ok(Found::Skip(way.end)),
            Ok(way) => Ok(Found::Way { at, floor, way }),
            Err(missing) => Err(self.missing(missing)),
        }
    }
}

impl<D: Disk> Pool<D> {
    /// Reads what a scrub comes to next: up to `blocks` blocks that one leaf leads to, of the data that no other version was
    /// read for, and the nodes that begin there.
    ///
    /// # Errors
    /// When the disk cannot be read for another reason than damage of a block, which is no error here.
    pub async fn scrub_step(&self, cursor: &mut Scrub, blocks: usize) -> Result<ScrubStep> {
        let mut step = ScrubStep::default();
        let mut steps = 0;
        loop {
            steps += 1;
            if steps % STEPS_PER_TURN == 0 {
                yield_now().await;
            }
            // Taken before what it protects is looked up.
            let (guard, next) = {
                let mut state = self.state.lock();
                (state.space.reader(), state.scrub_next(cursor))
            };
            match next {
                Ok(Found::Done) => {
                    step.done = true;
                    return Ok(step);
                }
                Ok(Found::VersionDone) => (cursor.version, cursor.lba) = (VersionId(cursor.version.0 + 1), 0),
                Ok(Found::Skip(end)) => cursor.lba = end,
                Ok(Found::Way { at, floor, way: Way { nodes, leaf, end } }) => {
                    let entries = match leaf {
                        None => None,
                        Some(WayLeaf::Known(entries)) => Some(entries),
                        Some(WayLeaf::Stored(ptr)) => {
                            let node = self.fetch_node(&guard, ptr, 0).await;
                            // One that is read in parts counts once.
                            let first = at.is_multiple_of(FANOUT as u64) || node.is_err();
                            let node = if first {
                                self.scrub_node(cursor, &mut step, at, 0, node)
                            } else {
                                node.ok()
                            };
                            match node {
                                Some(Node::Leaf(entries)) => Some(entries),
                                _ => None,
                            }
                        }
                    };
                    // Those above are in memory, and may be damaged on disk for all that.
                    for (ptr, level) in nodes {
                        self.scrub_node(
                            cursor,
                            &mut step,
                            at,
                            level,
                            self.fetch_node(&guard, ptr, level).await,
                        );
                    }
                    cursor.lba = end;
                    if let Some(entries) = entries {
                        let from = index_at(at, 0);
                        let to = FANOUT.min(from + blocks.max(1));
                        cursor.lba = at + (to - from) as u64;
                        self.scrub_data(cursor, &mut step, at, floor, &entries[from..to]).await;
                    }
                    drop(guard);
                    return Ok(step);
                }
                Err(Blocked::Missing(missing, held)) => {
                    let (level, lba) = (missing.level, cursor.lba);
                    let loaded = self.load(&held, missing).await;
                    drop(held);
                    match loaded {
                        Ok(()) => {}
                        Err(error) if error.kind() == ErrorKind::Corrupt || error.kind() == ErrorKind::Io => {
                            // Whoever loads a node counts it when it is damaged.
                            let counted = u64::from(error.kind() == ErrorKind::Corrupt);
                            let mut state = self.state.lock();
                            state.checksum_errors = state.checksum_errors.saturating_sub(counted);
                            drop(state);
                            self.scrub_node(cursor, &mut step, lba, level, Err(error));
                            cursor.lba = span_end(level, lba);
                            return Ok(step);
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(blocked) => self.unblock(blocked).await?,
            }
        }
    }

    /// Counts a node that was read, and notes one that could not be.
    fn scrub_node(
        &self,
        cursor: &mut Scrub,
        step: &mut ScrubStep,
        lba: u64,
        level: u8,
        node: Result<Node>,
    ) -> Option<Node> {
        cursor.nodes += 1;
        step.bytes += BLOCK_SIZE;
        match node {
            Ok(node) => Some(node),
            Err(error) => {
                let end = span_end(level, lba);
                let first = end - entry_span(level + 1);
                self.note_fault(cursor.version, step, first..end, LossKind::Map, &error.with_cause());
                None
            }
        }
    }

    async fn scrub_data(
        &self,
        cursor: &mut Scrub,
        step: &mut ScrubStep,
        base: u64,
        floor: Epoch,
        entries: &[Entry],
    ) {
        let own = |e: &Entry| e.is_data() && e.birth() > floor;
        let mut runs: Vec<(u64, &[Entry])> = Vec::new();
        let mut lba = base;
        for run in entries.chunk_by(|a, b| own(a) && own(b) && a.block() + 1 == b.block()) {
            if own(&run[0]) {
                runs.push((lba, run));
            }
            lba += run.len() as u64;
        }
        let reads = runs.iter().map(|(lba, run)| async move {
            let buf = self.disk.alloc(run.len() * BLOCK_BYTES);
            let (result, buf) = self.disk.read(run[0].block().offset(), buf).await;
            let mut bad: Vec<(u64, String)> = Vec::new();
            let right = |block: &[u8], entry: &Entry| crc32fast::hash(block) == entry.crc();
            for (i, (entry, block)) in run.iter().zip(buf.chunks_exact(BLOCK_BYTES)).enumerate() {
                if result.is_ok() && right(block, entry) {
                    continue;
                }
                // One block of the run may be all that cannot be read.
                let (result, block) =
                    self.disk.read(entry.block().offset(), self.disk.alloc(BLOCK_BYTES)).await;
                let why = match result {
                    Ok(()) if right(&block, entry) => continue,
                    Ok(()) => format!("block {} of the pool does not match its checksum", entry.block()),
                    Err(e) => format!("block {} of the pool cannot be read: {e}", entry.block()),
                };
                bad.push((lba + i as u64, why));
            }
            bad
        });
        for bad in join_all(reads.collect(), WIDTH).await {
            for (lba, why) in bad {
                self.note_fault(cursor.version, step, lba..lba + 1, LossKind::Data, &why);
            }
        }
        let blocks: u64 = runs.iter().map(|(_, run)| run.len() as u64).sum();
        cursor.data_blocks += blocks;
        step.bytes += blocks * BLOCK_SIZE;
    }

    /// Counts what cannot be read, for the version and the pool, and says whose it is.
    fn note_fault(
        &self,
        id: VersionId,
        step: &mut ScrubStep,
        blocks: std::ops::Range<u64>,
        kind: LossKind,
        why: &str,
    ) {
        let mut state = self.state.lock();
        state.checksum_errors += 1;
        let Ok(version) = state.any_version(id) else { return };
        version.checksum_errors += 1;
        let (offset, end) = (blocks.start * BLOCK_SIZE, (blocks.end * BLOCK_SIZE).min(version.size));
        let sentence = format!("{}, bytes {offset} to {end}: {why}", name_of(&state.versions, id));
        let (volume, snapshot) = names_of(&state.versions, id).unwrap_or_default();
        step.faults.push((Loss { volume, snapshot, offset, len: end - offset, kind }, sentence));
    }
}
