//! The consistency check: every version walked, every node verified, every block accounted for.
//!
//! It runs beside everything else. A checkpoint gives a state that no longer changes; the walk compares what that
//! state's versions refer to with what its space map says is used. Blocks freed since stay unused until it is done.

use std::collections::HashSet;
use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::SEGMENT_HEADER_BLOCKS;
use crate::map::MAP_END;
use crate::node::{Entry, Node, Ptr, ROOT_LEVEL, Slot, entry_span};
use crate::pool::Pool;
use crate::space::is_set;
use crate::sync::join_all;
use crate::types::{BLOCK_BYTES, BlockAddr, CheckReport, VersionId};

/// Nodes or data blocks read at once.
const WIDTH: usize = 64;
/// Errors that are spelled out.
const MOST_ERRORS: usize = 100;

/// A node to visit: where it stands, its level, and the first block of the range it covers.
struct Visit {
    ptr: Ptr,
    level: u8,
    base: u64,
}

/// How one version is walked.
struct Walk {
    id: VersionId,
    /// What a deleted version held before this block was given back already.
    done: u64,
    /// Free blocks when the check began.
    free_before: u64,
    verify_data: bool,
}

struct Checker {
    report: CheckReport,
    /// Bits by segment: what something refers to.
    referenced: Vec<Vec<u64>>,
    seen: HashSet<BlockAddr>,
}

impl Checker {
    fn error(&mut self, what: String) {
        self.report.error_count += 1;
        if self.report.errors.len() < MOST_ERRORS {
            self.report.errors.push(what);
        }
    }
}

impl<D: Disk> Pool<D> {
    /// Checks the whole pool; with `verify_data` it also reads every data block and compares its checksum.
    pub async fn check(&self, verify_data: bool) -> Result<CheckReport> {
        // The guard keeps what the checkpoint holds in place, so others may follow it while this walk goes on.
        let guard = self.state.lock().space.reader();
        let written = self.checkpoint_from_now().await?;
        let free_before = self.state.lock().space.free();
        let mut checker = Checker {
            report: CheckReport { versions: written.versions.len(), ..CheckReport::default() },
            referenced: written.segments.iter().map(|bits| vec![0; bits.len()]).collect(),
            seen: HashSet::new(),
        };
        for run in &written.catalog {
            for i in 0..u64::from(run.len) {
                self.refer(&mut checker, run.start + i, "the catalog");
            }
        }
        for (id, version) in written.versions.iter() {
            let done = written.versions.reaping.filter(|r| r.version == id);
            let walk = Walk { id, done: done.map_or(0, |r| r.cursor), free_before, verify_data };
            self.check_version(&mut checker, &version.root, walk).await?;
        }
        let referenced = std::mem::take(&mut checker.referenced);
        for (segment, (used, referenced)) in written.segments.iter().zip(&referenced).enumerate() {
            self.compare_space(&mut checker, segment, used, referenced);
        }
        drop(guard);
        written.let_go().await;
        Ok(checker.report)
    }

    /// Notes that something refers to a block. Returns whether it is the first.
    fn refer(&self, checker: &mut Checker, addr: BlockAddr, who: &str) -> bool {
        let Some((segment, index)) = self.geometry.locate(addr, checker.referenced.len()) else {
            checker.error(format!("{who} refers to block {addr}, which lies outside the segments"));
            return false;
        };
        let first = !is_set(&checker.referenced[segment], index);
        checker.referenced[segment][index as usize / 64] |= 1 << (index % 64);
        first
    }

    async fn check_version(&self, checker: &mut Checker, root: &Slot, walk: Walk) -> Result<()> {
        let Walk { id, done, free_before, verify_data } = walk;
        let mut todo: Vec<Visit> = Vec::new();
        todo.extend(root.home().map(|ptr| Visit { ptr, level: ROOT_LEVEL, base: 0 }));
        while !todo.is_empty() {
            self.room_to_go_on(free_before)?;
            let batch: Vec<Visit> = todo.split_off(todo.len().saturating_sub(WIDTH));
            let live = |v: &Visit| v.base + entry_span(v.level + 1) > done && done < MAP_END;
            let batch: Vec<Visit> =
                batch.into_iter().filter(|v| live(v) && checker.seen.insert(v.ptr.addr)).collect();
            let reads = batch.iter().map(|v| self.fetch_node(v.ptr, v.level)).collect();
            for (visit, node) in batch.iter().zip(join_all(reads, WIDTH).await) {
                self.refer(checker, visit.ptr.addr, &format!("version {id}"));
                checker.report.nodes += 1;
                match node {
                    Ok(Node::Inner(slots)) => {
                        let span = entry_span(visit.level);
                        let children = slots.iter().enumerate().filter_map(|(i, slot)| {
                            let base = visit.base + i as u64 * span;
                            slot.home().map(|ptr| Visit { ptr, level: visit.level - 1, base })
                        });
                        todo.extend(children);
                    }
                    Ok(Node::Leaf(entries)) => {
                        let who = format!("version {id}");
                        let data = entries.iter().copied().filter(|e| e.is_data());
                        let fresh: Vec<Entry> =
                            data.filter(|e| self.refer(checker, e.block(), &who)).collect();
                        checker.report.data_blocks += fresh.len() as u64;
                        if verify_data {
                            self.verify(checker, id, visit.base, &fresh).await;
                        }
                    }
                    Err(error) => checker.error(format!("version {id}: {error}")),
                }
            }
        }
        Ok(())
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

    async fn fetch_node(&self, ptr: Ptr, level: u8) -> Result<Node> {
        let (result, block) = self.disk.read(ptr.addr.offset(), self.disk.alloc(BLOCK_BYTES)).await;
        result
            .map_err(|e| Error::io(format!("the map node in block {} cannot be read: {e}", ptr.addr), e))?;
        Node::decode(&self.id, ptr, level, &block)
    }

    async fn verify(&self, checker: &mut Checker, id: VersionId, base: u64, entries: &[Entry]) {
        let reads = entries.iter().map(|entry| async move {
            let (result, block) = self.disk.read(entry.block().offset(), self.disk.alloc(BLOCK_BYTES)).await;
            match result {
                Ok(()) if crc32fast::hash(&block) == entry.crc() => None,
                Ok(()) => Some(format!("block {} does not match its checksum", entry.block())),
                Err(e) => Some(format!("block {} cannot be read: {e}", entry.block())),
            }
        });
        for fault in join_all(reads.collect(), WIDTH).await.into_iter().flatten() {
            checker.error(format!("version {id}, near byte {}: {fault}", base * BLOCK_BYTES as u64));
        }
        checker.report.data_verified += entries.len() as u64;
    }

    fn compare_space(
        &self,
        checker: &mut Checker,
        segment: usize,
        used: &Arc<crate::space::Bits>,
        referenced: &[u64],
    ) {
        let header = (1u64 << SEGMENT_HEADER_BLOCKS) - 1;
        for (word, (used, referenced)) in used.iter().zip(referenced).enumerate() {
            let used = if word == 0 { used & !header } else { *used };
            checker.report.leaked += u64::from((used & !referenced).count_ones());
            let mut lost = referenced & !used;
            while lost != 0 {
                let index = word as u64 * 64 + u64::from(lost.trailing_zeros());
                let addr = self.geometry.segment_start(segment) + index;
                checker.error(format!("block {addr} is in use but the space map says that it is free"));
                lost &= lost - 1;
            }
        }
    }
}
