//! Giving back the space of deleted versions, a step at a time, in the background.
//!
//! A ghost with at most one child is walked from block 0 on. What was born after its parent and is not what the
//! child maps at that place is freed; where both share a node, all below it is skipped, so the walk costs what
//! changed. What a damaged child has lost is taken for its descendants', if it has some: it leaks, until a repair gives it
//! back, rather than being given to somebody else. Each step is a record that holds the new cursor, so a crash loses at most a step. The child may go on
//! changing meanwhile: see [`crate::version::Versions::floor`].
//!
//! **Invariant:** one ghost at a time, and only one whose nodes all have addresses. So what a step frees is known by
//! address when its record is written.

use std::time::Duration;

use crate::checkpoint::let_go_of;
use crate::defect::{Defect, planted};
use crate::disk::Disk;
use crate::error::{ErrorKind, Result};
use crate::map::{Comparison, Inherited, MAP_END, Superseded, compare, span_end};
use crate::node::{FANOUT, Slot};
use crate::pool::Pool;
use crate::record::Record;
use crate::space::{Run, push_block};
use crate::state::{Blocked, State};
use crate::sync::yield_now;
use crate::types::{BlockAddr, Epoch, VersionId};

/// Leaves or skipped ranges that one step may cover: it holds the lock, and its reactor, for some tens of microseconds.
const STEP_RANGES: usize = 64;
/// Runs that one step may free.
const STEP_FREES: usize = 1024;

/// For how long the disk may fail to read a node before what lies below is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do next about deleted versions.
enum Next {
    Nothing,
    /// Some wait for their nodes to be written.
    Checkpoint,
    Reap(VersionId),
}

impl State {
    fn next_ghost(&self) -> Next {
        if let Some(reaping) = self.versions.reaping {
            return Next::Reap(reaping.version);
        }
        let mut next = Next::Nothing;
        for (id, version) in self.versions.reapable() {
            // Addresses that a checkpoint under way has given may never be known to anybody after a crash.
            let under_way = self.checkpoint_running && !planted(Defect::ReapedDuringCheckpoint);
            let durable = !version.root.is_dirty() && !under_way;
            if durable || self.shares_root_with_child(id, &version.root) {
                return Next::Reap(id);
            }
            next = Next::Checkpoint;
        }
        next
    }

    fn shares_root_with_child(&self, id: VersionId, root: &Slot) -> bool {
        let child = self.versions.only_child(id).and_then(|child| self.versions.get(child));
        child.is_some_and(|child| child.root.is_same(root))
    }

    /// Whether deleted versions could give back space now.
    pub(crate) fn can_reap(&self) -> bool {
        !matches!(self.next_ghost(), Next::Nothing)
    }
}

impl<D: Disk> Pool<D> {
    /// Does up to `steps` steps; returns whether more are left to do.
    pub(crate) async fn reap_some(&self, steps: usize) -> Result<bool> {
        let _token = self.reaping.acquire().await;
        for _ in 0..steps {
            // What to do is decided under the same lock as it is done.
            let done = {
                let mut state = self.state.lock();
                match state.next_ghost() {
                    Next::Nothing => return Ok(false),
                    Next::Checkpoint => Err(Blocked::Checkpoint),
                    Next::Reap(id) => reap_step(&mut state, id),
                }
            };
            match done {
                Ok(root) => {
                    self.state.lock().reap_hindered = Duration::ZERO;
                    // Requests go first.
                    yield_now().await;
                    let_go_of(root.into_iter().collect()).await;
                }
                Err(Blocked::Missing(missing, guard)) => {
                    let level = missing.level;
                    let loaded = self.load(&guard, missing).await;
                    drop(guard);
                    if let Err(error) = loaded {
                        if error.kind() == ErrorKind::Io && self.state.lock().reap_hindered < PATIENCE {
                            return Err(error);
                        }
                        // What lies below cannot be known any more; it stays in use rather than holding up all else.
                        let root = self.when_open(|state| skip(state, level)).await?;
                        let_go_of(root.into_iter().collect()).await;
                        return Err(error);
                    }
                }
                Err(other) => self.unblock(other).await?,
            }
        }
        Ok(self.state.lock().can_reap())
    }
}

/// Goes on behind the node at this level that the walk cannot read.
fn skip(state: &mut State, level: u8) -> Result<Option<Slot>> {
    let Next::Reap(version) = state.next_ghost() else { return Ok(None) };
    let cursor = state.versions.reaping.map_or(0, |r| r.cursor);
    let cursor = span_end(level, cursor);
    advance(state, version, cursor, Vec::new(), Vec::new())
}

/// Puts down how far giving back a version got, what that freed, and, at the end of its map, that it is gone. Returns the
/// map then: much may be in memory of it, so it is not let go under the lock.
fn advance(
    state: &mut State,
    version: VersionId,
    cursor: u64,
    freed: Vec<Run>,
    nodes: Vec<BlockAddr>,
) -> Result<Option<Slot>> {
    for run in &freed {
        state.space.free_later(*run);
    }
    state.superseded.extend(nodes.iter().map(|addr| Superseded::Addr(*addr)));
    let record = Record::Reap { version, cursor, freed, nodes };
    if cursor < MAP_END {
        state.decide(&record)?;
        return Ok(None);
    }
    let root = std::mem::replace(&mut state.any_version(version)?.root, Slot::HOLE);
    state.decide_all(&[record, Record::Reaped { version }])?;
    Ok(Some(root))
}

fn reap_step(state: &mut State, id: VersionId) -> Result<Option<Slot>, Blocked> {
    state.admit(STEP_FREES * 7 + FANOUT * 7 + STEP_RANGES * 8 * 5)?;
    let start = state.versions.reaping.map_or(0, |r| r.cursor);
    if start >= MAP_END {
        // An older cairn may have died just before it said that the version is gone.
        return Ok(advance(state, id, start, Vec::new(), Vec::new())?);
    }
    let child = state.versions.only_child(id);
    let has_heirs = child.and_then(|child| state.versions.get(child)).is_some_and(|child| child.children > 0);
    let inherited = Inherited { floor: floor_of_ghost(state, id)?, has_heirs };
    // Clones of the root slots: made of cells first, so that what is read for the walk stays with the versions.
    let mut ghost_root = rooted(state, id)?;
    let mut child_root = match child {
        Some(child) => rooted(state, child)?,
        None => Slot::HOLE,
    };
    let mut cursor = start;
    let mut freed: Vec<Run> = Vec::new();
    let mut nodes: Vec<BlockAddr> = Vec::new();
    for _ in 0..STEP_RANGES {
        let step = match compare(&mut ghost_root, &mut child_root, cursor, Some(inherited)) {
            Ok(step) => step,
            Err(missing) if cursor == start => return Err(state.missing(missing)),
            Err(_) => break,
        };
        collect(&step, inherited, &mut freed);
        nodes.extend(step.finished);
        cursor = step.until;
        if cursor >= MAP_END || freed.len() >= STEP_FREES {
            break;
        }
    }
    Ok(advance(state, id, cursor, freed, nodes)?)
}

fn floor_of_ghost(state: &mut State, id: VersionId) -> Result<Epoch> {
    let parent = state.any_version(id)?.parent;
    parent.map_or(Ok(Epoch(0)), |parent| Ok(state.any_version(parent)?.epoch))
}

fn rooted(state: &mut State, id: VersionId) -> Result<Slot> {
    let version = state.any_version(id)?;
    version.root.cell();
    Ok(version.root.clone())
}

/// Lists what the ghost alone holds in a step's range.
fn collect(step: &Comparison, Inherited { floor, has_heirs }: Inherited, freed: &mut Vec<Run>) {
    let Some(leaves) = &step.leaves else { return };
    let (ghost, child) = &**leaves;
    for index in 0..FANOUT {
        let (entry, kept) = (ghost.entry(index), child.entry(index));
        let shared = kept.is_data() && kept.block() == entry.block() || has_heirs && kept.is_lost();
        let own = entry.birth() > floor || planted(Defect::ReapFreesPredecessors);
        let shared = shared && !planted(Defect::ReapFreesSuccessors);
        if entry.is_data() && own && !shared {
            push_block(freed, entry.block());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::CELLS_PER_TURN;
    use crate::sim::{SimDisk, block_on};
    use crate::{CreateOptions, Error, Options};

    /// A process that died between the two records of the last step left a version that was given back and not gone. The next one
    /// called that a contradiction, and never again gave back anything. Found by `cargo xtask sequences`.
    #[test]
    fn a_version_that_is_given_back_and_not_gone_goes() {
        let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
        block_on(async {
            let pool = Pool::create(SimDisk::file(64 << 20), [1; 16], create, Options::default()).await?;
            let head = pool.create_volume("v", 1 << 20, "").await?.id;
            pool.delete_volume("v", false).await?;
            let given_back =
                Record::Reap { version: head, cursor: MAP_END, freed: Vec::new(), nodes: Vec::new() };
            pool.state.lock().decide(&given_back)?;
            while pool.maintain(Duration::from_millis(100)).await? {}
            assert_eq!(pool.status().pending_deletes, 0);
            Ok::<_, Error>(())
        })
        .expect("a pool");
    }

    /// With the last step of a deletion all that was in memory of the version's map went under the pool's lock.
    #[test]
    fn the_map_of_what_was_deleted_leaves_memory_in_turns() {
        const LEAVES: u64 = 2000;
        block_on(async move {
            let create = CreateOptions { limit: 1 << 30, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(SimDisk::file(1 << 30), [1; 16], create, Options::default()).await?;
            let head = pool.create_volume("v", LEAVES << 20, "").await?.id;
            for leaf in 0..LEAVES {
                pool.map_synthetic(0, head, leaf * FANOUT as u64, 1).await?;
            }
            pool.close().await?;
            let leaves = || pool.state.lock().resident.iter().filter(|leaf| leaf.strong_count() > 0).count();
            assert_eq!(leaves() as u64, LEAVES);
            pool.delete_volume("v", true).await?;
            let (mut now, mut most) = (leaves(), 0);
            loop {
                let mut maintaining = pin!(pool.maintain(Duration::ZERO));
                let more = poll_fn(|cx| {
                    let polled = maintaining.as_mut().poll(cx);
                    most = most.max(now - leaves());
                    now = leaves();
                    polled
                });
                if !more.await? {
                    break;
                }
            }
            assert_eq!(now, 0);
            assert!(most <= CELLS_PER_TURN, "{most} leaves in one turn");
            Ok::<_, Error>(())
        })
        .expect("a pool");
    }
}
