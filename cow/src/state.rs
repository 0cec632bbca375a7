//! What the pool's one lock guards: versions and their maps, space, and the tail of the log that is in memory only.
//!
//! The lock is held for the publish step alone, never across I/O. A step that cannot go on says what it waits for
//! ([`Blocked`]); [`crate::Pool`] sees to that without the lock and tries again.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::checkpoint::CATALOG_PAYLOAD;
use crate::codec::Writer;
use crate::commit::{Ahead, batch_blocks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Geometry;
use crate::map::{Change, MAP_END, Missing, Superseded, lose};
use crate::node::{Cell, CellState, InnerNodes, LEAF_MEMORY, Slot};
use crate::record::Record;
use crate::shadow::Shadow;
use crate::space::{ReadGuard, Run, Space};
use crate::survey::{Gone, Why};
use crate::sweep::Parents;
use crate::types::{BLOCK_BYTES, BatchSeq, Epoch, Lsn, VersionId};
use crate::version::{Kind, Version, Versions};
use crate::zeroing::Zeroing;

/// Blocks that even a small pool keeps back for checkpoints: enough for one large change and two root paths.
const LEAST_RESERVE: u64 = 320;
/// Blocks that no pool needs to keep back more than.
const MOST_RESERVE: u64 = 65536;
/// Nodes that one publish step may make dirty past the limit it checks.
const STEP_SLACK: u64 = 64;

/// Leaves looked at for eviction when one comes into memory: it happens under the pool's lock.
const EVICTION_LOOKS: usize = 16;
/// Leaves in use that are spared in a row. Of those looked at at least two leave, so a list that is too long gets shorter
/// with each leaf that comes, even when all of them are in use all the time.
const SPARED_IN_A_ROW: usize = 7;
const _: () = assert!(EVICTION_LOOKS >= 2 * (SPARED_IN_A_ROW + 1));

/// Why a step under the lock could not be done now.
pub(crate) enum Blocked {
    /// A map node has to be read first; the guard keeps its block from being reused meanwhile.
    Missing(Missing, ReadGuard),
    /// The log in memory is as long as one batch may be.
    Commit,
    /// No record may be appended before a batch is written.
    Closed,
    /// Too many nodes are dirty.
    Checkpoint,
    /// Freed blocks wait to be made reusable.
    Reclaim,
    /// What the step was computed from has changed.
    Conflict,
    /// It can't be done at all.
    Failed(Error),
}

impl From<Error> for Blocked {
    fn from(error: Error) -> Blocked {
        Blocked::Failed(error)
    }
}

/// The journal ring as memory knows it. Positions count blocks since the pool was made, not modulo the ring.
pub(crate) struct Ring {
    /// Where replay would begin ...
    pub(crate) tail: u64,
    /// ... and with which batch.
    pub(crate) tail_seq: BatchSeq,
    /// Where the next batch goes.
    pub(crate) pos: u64,
    pub(crate) next_seq: BatchSeq,
    /// The newest batch whose barrier has ended.
    pub(crate) durable_seq: BatchSeq,
    /// The newest batch that the disk itself says is durable: only then may replay's needs be forgotten.
    pub(crate) confirmed_seq: BatchSeq,
}

/// See the module's description.
pub(crate) struct State {
    pub(crate) geometry: Geometry,
    /// Bytes that the pool may grow to.
    pub(crate) limit: u64,
    pub(crate) versions: Versions,
    pub(crate) space: Space,
    pub(crate) ring: Ring,
    /// Records that no batch holds yet, encoded, and how many.
    pub(crate) log: Writer,
    pub(crate) log_records: u32,
    /// What of the log is in memory only, for the next process should this one die.
    pub(crate) shadow: Option<Shadow>,
    /// Records that were found only there when the pool was opened.
    pub(crate) taken_over: u64,
    /// The number of the next record.
    pub(crate) lsn: Lsn,
    /// Every record before this one is durable.
    pub(crate) durable_lsn: Lsn,
    /// Bytes of data written since the last batch was sealed.
    pub(crate) unflushed_bytes: u64,
    /// Bytes of data whose records are in batches that were sealed.
    pub(crate) sealed_bytes: u64,
    pub(crate) commit_running: bool,
    pub(crate) ahead: Ahead,
    /// Flushes in a row that found one record in the log each.
    pub(crate) lone_flushes: u32,
    pub(crate) superseded: Vec<Superseded>,
    /// Nodes dirtied since the last freeze ...
    pub(crate) dirty: u64,
    /// ... and those that the checkpoint under way has still to find blocks for.
    pub(crate) dirty_frozen: u64,
    /// From a checkpoint's freeze until its superblocks are durable: nodes it wrote have addresses that may be lost.
    pub(crate) checkpoint_running: bool,
    /// Replay left leaves that only a patch is known of.
    pub(crate) has_patches: bool,
    /// Dirty nodes that memory allows.
    pub(crate) dirty_memory_limit: u64,
    pub(crate) catalog: Vec<Run>,
    pub(crate) fenced: Option<String>,
    /// Leaves in memory, the next to be looked at for eviction first.
    pub(crate) resident: VecDeque<Weak<Cell>>,
    /// Inner nodes in memory.
    pub(crate) inner: InnerNodes,
    pub(crate) parents: Parents,
    /// How long, by what maintain is told, a node could not be read that giving back a deleted version needs.
    pub(crate) reap_hindered: Duration,
    /// Bytes that map nodes may take in memory.
    pub(crate) map_cache: usize,
    /// Bytes of records that one batch may hold, unless the ring allows less.
    pub(crate) batch_bytes: usize,
    /// How long, by what maintain is told, no record was appended ...
    pub(crate) idle: Duration,
    /// ... and how long the oldest record that no batch holds has waited.
    pub(crate) log_age: Duration,
    /// Reads and writes of data so far.
    pub(crate) requests: u64,
    pub(crate) zeroing: Zeroing,
    pub(crate) checkpoints: u64,
    pub(crate) barriers: u64,
    pub(crate) checksum_errors: u64,
}

impl State {
    /// Refuses when a failed barrier has fenced the pool.
    pub(crate) fn writable(&self) -> Result<()> {
        match &self.fenced {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::Fenced,
                format!(
                    "the pool is fenced and takes no writes: {why}; restart cairnd to recover the last confirmed state"
                ),
            )),
        }
    }

    /// Blocks kept back from data.
    pub(crate) fn reserve(&self) -> u64 {
        (self.space.capacity() / 64).clamp(LEAST_RESERVE, MOST_RESERVE)
    }

    /// Blocks that a catalog of the versions and segments there are now takes, at most.
    fn catalog_blocks(&self) -> u64 {
        let bytes = self.versions.encoded_bytes() + self.space.segment_count() * 5;
        (bytes / CATALOG_PAYLOAD + 1) as u64
    }

    /// Blocks to keep for checkpoints: each must be able to write every dirty node anew, twice over because nodes get
    /// dirty again while one runs, and the catalog beside the old one.
    fn metadata_blocks(&self) -> u64 {
        2 * (self.dirty + self.catalog_blocks()) + self.dirty_frozen
    }

    /// Blocks that data may take now.
    pub(crate) fn data_blocks_free(&self) -> u64 {
        self.space.free().saturating_sub(self.reserve() + self.metadata_blocks())
    }

    /// Makes reusable some of what the disk has confirmed to be freed and nobody reads any more. Returns whether there
    /// is more: whoever depends on all of it goes on, a turn each; the others leave it to the background.
    pub(crate) fn reclaim(&mut self) -> Result<bool> {
        self.space.reclaim(self.ring.confirmed_seq)
    }

    /// Whether [`State::reclaim`] would find anything.
    pub(crate) fn can_reclaim(&self) -> bool {
        self.space.can_reclaim(self.ring.confirmed_seq)
    }

    /// Books what a change of a head's map did to space.
    pub(crate) fn settle(&mut self, head: VersionId, mapped: i64, freed: &[Run]) -> Result<()> {
        for run in freed {
            self.space.free_later(*run);
        }
        let version = self.version(head)?;
        version.mapped = version.mapped.saturating_add_signed(mapped);
        if version.mapped > MAP_END {
            let why = format!("version {head} would map {} blocks, more than any can", version.mapped);
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        Ok(())
    }

    /// How many nodes may be dirty: bounded by memory and by the room that a checkpoint would have.
    pub(crate) fn dirty_limit(&self) -> u64 {
        let room = self.space.free().saturating_sub(self.dirty_frozen + 2 * self.catalog_blocks()) / 2;
        room.saturating_sub(STEP_SLACK).clamp(STEP_SLACK, self.dirty_memory_limit)
    }

    /// Whether a checkpoint begun now would find blocks for all it writes. It would not while reads that take long
    /// hold back what earlier ones replaced in a full pool.
    pub(crate) fn has_room_for_checkpoint(&self) -> bool {
        self.space.free() > self.dirty + self.dirty_frozen + self.catalog_blocks() + STEP_SLACK
    }

    /// Refuses what makes the catalog longer once that endangers the reserve.
    pub(crate) fn admit_version(&self) -> Result<()> {
        if self.catalog_blocks() <= self.reserve() / 4 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            "this pool is too small for the records of more volumes and snapshots",
        ))
    }

    /// Refuses more of the pool's own attributes once they fill half of the room for the catalog: the rest is for volumes
    /// and snapshots.
    pub(crate) fn admit_own_attributes(&self, bytes: usize) -> Result<()> {
        if (bytes / CATALOG_PAYLOAD) as u64 <= self.reserve() / 8 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            "types, QoS rules and other settings have used up their room in this pool: delete some",
        ))
    }

    /// Whether the ring takes a log of so many bytes as a batch. Its last eighth is kept for the one that a checkpoint seals, and for the
    /// one after it should the process die before the checkpoint is written.
    pub(crate) fn fits_ring(&self, log_bytes: usize) -> bool {
        let used = self.ring.pos - self.ring.tail + batch_blocks(log_bytes);
        used <= self.geometry.journal_blocks / 8 * 7
    }

    /// Whether the whole ring has room for the log as a batch.
    pub(crate) fn ring_has_room(&self) -> bool {
        self.ring.pos - self.ring.tail + batch_blocks(self.log.len()) <= self.geometry.journal_blocks
    }

    /// Bytes of records that one batch may hold, so that it takes a sixteenth of the ring at most: one block is for its header
    /// and for growth, whose records nobody admits.
    pub(crate) fn batch_limit(&self) -> usize {
        let ring = (self.geometry.journal_blocks as usize / 16).saturating_sub(1) * BLOCK_BYTES;
        ring.min(self.batch_bytes)
    }

    /// Whether a step that appends up to `bytes` of records and changes the map may go on.
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), Blocked> {
        self.writable()?;
        if self.log_is_closed() {
            return Err(Blocked::Closed);
        }
        let fits = self.log.len() + bytes <= self.batch_limit()
            && self.shadow.as_ref().is_none_or(|shadow| shadow.has_room(bytes));
        if !fits && self.log.len() > 0 {
            return Err(Blocked::Commit);
        }
        if self.dirty >= self.dirty_limit() {
            return Err(Blocked::Checkpoint);
        }
        Ok(())
    }

    /// As [`State::admit`], for everything but deleting: what may make metadata grow. After a fork even a trim does,
    /// for the nodes it changes are the snapshot's, too. The other half of the reserve is left for deletions, so that
    /// a full pool can always be emptied.
    pub(crate) fn admit_growth(&self, bytes: usize) -> Result<(), Blocked> {
        self.admit(bytes)?;
        if self.space.free() >= self.reserve() / 2 + self.metadata_blocks() {
            return Ok(());
        }
        if self.can_reclaim() {
            return Err(Blocked::Reclaim);
        }
        if self.dirty > 0 || !self.superseded.is_empty() {
            // Nodes replaced since the last checkpoint come back with the next.
            return Err(Blocked::Checkpoint);
        }
        Err(Error::new(ErrorKind::NoSpace, "the pool is full, its reserve too: delete snapshots or volumes")
            .into())
    }

    /// Appends a record whose effects are in place.
    pub(crate) fn append(&mut self, record: &Record) -> Lsn {
        let from = self.log.len();
        record.encode(&mut self.log);
        if let Some(shadow) = &mut self.shadow {
            shadow.add(&self.log.bytes()[from..]);
        }
        self.idle = Duration::ZERO;
        self.log_records += 1;
        self.lsn = Lsn(self.lsn.0 + 1);
        self.lsn
    }

    /// Appends a record that another process had appended, and whose effects are in place.
    pub(crate) fn append_again(&mut self, record: &[u8]) {
        self.log.raw(record);
        if let Some(shadow) = &mut self.shadow {
            shadow.add(record);
        }
        self.log_records += 1;
        self.taken_over += 1;
    }

    /// A barrier has made durable all that opening found in the journal.
    pub(crate) fn all_found_is_durable(&mut self) {
        let last = BatchSeq(self.ring.next_seq.0 - 1);
        if let Some(shadow) = &mut self.shadow {
            shadow.made_durable(last);
        }
    }

    /// Decides on a change of the version tree: applies it and appends its record.
    pub(crate) fn decide(&mut self, record: &Record) -> Result<Lsn> {
        self.versions.apply(record)?;
        Ok(self.append(record))
    }

    /// Decides on changes that are made together: a process that dies leaves all of them, or none.
    pub(crate) fn decide_all(&mut self, records: &[Record]) -> Result<()> {
        if let Some(shadow) = &mut self.shadow {
            shadow.begin_group();
        }
        let decided = records.iter().try_for_each(|record| self.decide(record).map(drop));
        if let Some(shadow) = &mut self.shadow {
            shadow.end_group();
        }
        decided
    }

    /// Turns a missing node into what the caller waits for.
    pub(crate) fn missing(&self, missing: Missing) -> Blocked {
        Blocked::Missing(missing, self.space.reader())
    }

    /// Marks a part of any version's map as lost whose node cannot be read. What that node led to is nobody's now.
    pub(crate) fn lose(&mut self, gone: &Gone) -> Result<(), Blocked> {
        let Why::Node(level) = gone.why else { return Ok(()) };
        let epoch = self.versions.epoch;
        let version = self.versions.get_mut(gone.version).ok_or_else(|| no_version(gone.version))?;
        let mut change = Change {
            // What descends from a snapshot must not take the snapshot's new nodes for its own.
            epoch: if matches!(version.kind, Kind::Head { .. }) { epoch } else { version.epoch },
            // Other versions may share what is replaced: space is reckoned anew afterwards.
            floor: Epoch(u32::MAX),
            replaying: false,
            superseded: &mut self.superseded,
            dirtied: &mut self.dirty,
            inner: &self.inner,
            parents: &mut self.parents,
        };
        lose(&mut version.root, gone.lba, level, &mut change).map_err(|missing| self.missing(missing))
    }

    /// A head that may be written, for a change from block `lba` on, with all that the change needs.
    pub(crate) fn change(
        &mut self,
        head: VersionId,
        lba: u64,
        replaying: bool,
    ) -> Result<(&mut Slot, Change<'_>)> {
        let epoch = self.versions.epoch;
        let version = self.versions.get(head).ok_or_else(|| no_version(head))?;
        match version.kind {
            Kind::Head { .. } => {}
            Kind::Snapshot { .. } => {
                return Err(Error::new(ErrorKind::ReadOnly, "a snapshot cannot be written"));
            }
            Kind::Ghost => return Err(no_version(head)),
        }
        let floor = self.versions.floor(version, lba);
        let version = self.versions.get_mut(head).expect("found above");
        let change = Change {
            epoch,
            floor,
            replaying,
            superseded: &mut self.superseded,
            dirtied: &mut self.dirty,
            inner: &self.inner,
            parents: &mut self.parents,
        };
        Ok((&mut version.root, change))
    }

    /// A head or snapshot. Deleted versions are gone for everybody but the one who gives back their space.
    pub(crate) fn version(&mut self, id: VersionId) -> Result<&mut Version> {
        self.any_version(id).and_then(|v| if v.kind == Kind::Ghost { Err(no_version(id)) } else { Ok(v) })
    }

    /// A version, deleted ones included.
    pub(crate) fn any_version(&mut self, id: VersionId) -> Result<&mut Version> {
        self.versions.get_mut(id).ok_or_else(|| no_version(id))
    }

    /// How many leaves the list may have: what the budget leaves beside inner nodes, which stay, and dirty leaves, which
    /// cannot go before they are written. Never so few that a leaf leaves before whoever asked for it comes to use it.
    fn resident_limit(&self) -> usize {
        let budget = self.map_cache / LEAF_MEMORY;
        let held = self.inner.memory() / LEAF_MEMORY + (self.dirty + self.dirty_frozen) as usize;
        budget.saturating_sub(held).max(budget / 4)
    }

    /// Counts a leaf that is now in memory, and lets go of a few others while there are too many.
    pub(crate) fn now_resident(&mut self, cell: &Arc<Cell>) {
        // All of this happens under the pool's lock, so the flag needs no ordering of its own.
        if cell.listed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.resident.push_back(Arc::downgrade(cell));
        let limit = self.resident_limit();
        let mut spared = 0;
        let mut let_go = 0;
        for _ in 0..EVICTION_LOOKS {
            if self.resident.len() <= limit {
                break;
            }
            let Some(weak) = self.resident.pop_front() else { break };
            let Some(cell) = weak.upgrade() else { continue };
            let mut state = cell.lock();
            match &mut *state {
                // Those in use get a second chance.
                CellState::Clean { hot, .. } if *hot && spared < SPARED_IN_A_ROW => {
                    *hot = false;
                    spared += 1;
                    drop(state);
                    self.resident.push_back(weak);
                    continue;
                }
                CellState::Clean { ptr, .. } => {
                    spared = 0;
                    let_go += 1;
                    *state = CellState::Evicted(*ptr);
                }
                // A dirty leaf comes back to the list once it is written.
                CellState::Dirty(_) | CellState::Patched { .. } | CellState::Evicted(_) => {}
            }
            cell.listed.store(false, Ordering::Relaxed);
        }
        (0..let_go).for_each(|_| self.parents.sweep());
    }
}

fn no_version(id: VersionId) -> Error {
    Error::new(ErrorKind::NotFound, format!("version {id} does not exist any more"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Entry, FANOUT, Node, Ptr};
    use crate::sim::{SimDisk, block_on};
    use crate::types::BlockAddr;
    use crate::{CreateOptions, Options, Pool};

    fn leaf_in_use(addr: u64) -> Arc<Cell> {
        let ptr = Ptr { addr: BlockAddr(addr), crc: 0 };
        let node = Node::Leaf(Box::new([Entry::HOLE; FANOUT]));
        Cell::new(CellState::Clean { ptr, node, hot: true })
    }

    fn is_resident(cell: &Cell) -> bool {
        matches!(&*cell.lock(), CellState::Clean { .. })
    }

    /// Of the ring an eighth is kept for the batch that a checkpoint seals, and for one more after a death in it. They were a
    /// block too long together.
    #[test]
    fn two_of_the_longest_batches_fit_in_what_is_kept_of_the_ring() {
        for journal_bytes in [1 << 20, 64 << 20] {
            let create =
                CreateOptions { limit: 256 << 20, journal_bytes: Some(journal_bytes), segment_blocks: None };
            let disk = SimDisk::file(256 << 20);
            let pool = block_on(Pool::create(disk, [1; 16], create, Options::default())).expect("a pool");
            let state = pool.state.lock();
            let kept = state.geometry.journal_blocks / 8;
            assert!(2 * batch_blocks(state.batch_limit()) <= kept);
            assert!(4 * batch_blocks(state.batch_limit()) > kept, "and the ring is made use of");
        }
    }

    /// Those of all pools were counted together: what one process had in other pools, a thread of the simulator in other
    /// lives, decided how many leaves a pool kept.
    #[test]
    fn inner_nodes_take_the_room_of_their_own_pools_leaves() {
        let (busy, idle) = block_on(async {
            let make = async || {
                let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
                Pool::create(SimDisk::file(64 << 20), [1; 16], create, Options::default()).await
            };
            let (busy, idle) = (make().await?, make().await?);
            let head = busy.create_volume("v", 1 << 40, "").await?.id;
            for far in 0..8 {
                busy.zero(0, head, far << 36, 4096, crate::ExtentKind::Zero).await?;
            }
            Ok::<_, Error>((busy, idle))
        })
        .expect("two pools");
        let room = |pool: &Pool<SimDisk>| pool.state.lock().resident_limit();
        let inner = busy.state.lock().inner.clone();
        assert!(inner.memory() > 8 * LEAF_MEMORY, "{} bytes", inner.memory());
        assert_eq!(idle.state.lock().inner.memory(), 0);
        assert!(room(&busy) < room(&idle), "the map of the busy one takes room");
        drop(busy);
        assert_eq!(inner.memory(), 0, "it is gone");
    }

    /// When all leaves were in use, one more made the list go round whole under the pool's lock.
    #[test]
    fn few_leaves_are_looked_at_when_one_comes_and_the_list_gets_shorter() {
        let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
        let pool = block_on(Pool::create(SimDisk::file(64 << 20), [1; 16], create, Options::default()));
        let pool = pool.expect("a pool");
        let mut state = pool.state.lock();
        let mut leaves: Vec<Arc<Cell>> = (1..2001).map(leaf_in_use).collect();
        leaves.iter().for_each(|leaf| state.now_resident(leaf));
        assert_eq!(state.resident.len(), leaves.len(), "there is memory for all");
        const LIMIT: usize = 256;
        state.map_cache = LIMIT * LEAF_MEMORY;
        for addr in 2001..6000 {
            // All that are here are used between any two that come.
            leaves.retain(|leaf| is_resident(leaf));
            for leaf in &leaves {
                let CellState::Clean { hot, .. } = &mut *leaf.lock() else { unreachable!("retained") };
                *hot = true;
            }
            let new = leaf_in_use(addr);
            let before = state.resident.len();
            state.now_resident(&new);
            let in_use = |leaf: &&Arc<Cell>| matches!(&*leaf.lock(), CellState::Clean { hot: true, .. });
            let looked_at = leaves.len() - leaves.iter().filter(in_use).count();
            assert!(looked_at <= EVICTION_LOOKS, "{looked_at} leaves");
            assert!(is_resident(&new), "whoever asked for it needs it now");
            leaves.push(new);
            assert!(state.resident.len() < before.max(LIMIT + 1));
        }
        assert!(state.resident.len() <= LIMIT);
    }
}
