//! Walking all that a state refers to on disk: every node verified, every block accounted for, and, when something cannot
//! be read, which volumes and snapshots lose which bytes with it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::disk::Disk;
use crate::error::Result;
use crate::format::SEGMENT_HEADER_BLOCKS;
use crate::map::MAP_END;
use crate::node::{Entry, Node, Ptr, ROOT_LEVEL, Slot, entry_span};
use crate::pool::Pool;
use crate::space::{Bits, ReadGuard, Run, is_set};
use crate::sync::join_all;
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, Loss, LossKind, VersionId};
use crate::version::{Kind, Versions};

/// Nodes or data blocks read at once.
const WIDTH: usize = 64;
/// Errors that are spelled out.
const MOST_ERRORS: usize = 100;
/// Losses that are listed, after neighbours were joined.
const MOST_LOSSES: usize = 10_000;

/// A node to visit: where it stands, its level, and the first block of the range it covers.
struct Visit {
    ptr: Ptr,
    level: u8,
    base: u64,
}

/// What a survey found.
pub(crate) struct Survey {
    pub(crate) nodes: u64,
    pub(crate) data_blocks: u64,
    pub(crate) data_verified: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) error_count: u64,
    /// Bits by segment: what something refers to.
    pub(crate) referenced: Vec<Vec<u64>>,
    seen: HashSet<BlockAddr>,
    pub(crate) bad_nodes: HashSet<BlockAddr>,
    bad_data: HashSet<BlockAddr>,
    /// Nodes that lead to bad data, or say of a range that it is lost.
    bearers: HashSet<BlockAddr>,
    /// A whole version is lost.
    lost_root: bool,
}

/// Why a range cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Its data is damaged.
    Data,
    /// The node at this level is.
    Node(u8),
    /// The map says that it was lost.
    Lost,
}

/// A range of a version that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone {
    pub(crate) version: VersionId,
    /// The first block.
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
    pub(crate) why: Why,
}

/// What a survey looks at.
pub(crate) struct Subject<'a> {
    pub(crate) versions: &'a Versions,
    pub(crate) catalog: &'a [Run],
    pub(crate) segments: usize,
    /// Keeps all of it in place.
    pub(crate) guard: &'a ReadGuard,
    /// Read every data block, too.
    pub(crate) verify_data: bool,
}

impl Survey {
    fn new(subject: &Subject<'_>, words: usize) -> Survey {
        Survey {
            nodes: 0,
            data_blocks: 0,
            data_verified: 0,
            errors: Vec::new(),
            error_count: 0,
            referenced: vec![vec![0; words]; subject.segments],
            seen: HashSet::new(),
            bad_nodes: HashSet::new(),
            bad_data: HashSet::new(),
            bearers: HashSet::new(),
            lost_root: false,
        }
    }

    pub(crate) fn error(&mut self, what: String) {
        self.error_count += 1;
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(what);
        }
    }

    /// Blocks that a space map calls used and that nothing refers to, but for each segment's own.
    pub(crate) fn leaked(&self, segments: &[Arc<Bits>]) -> u64 {
        let used = segments.iter().zip(&self.referenced).flat_map(|(used, refs)| used.iter().zip(refs));
        let unreferenced: u64 = used.map(|(used, refs)| u64::from((used & !refs).count_ones())).sum();
        unreferenced - segments.len() as u64 * SEGMENT_HEADER_BLOCKS
    }

    /// Why what an entry leads to cannot be read.
    fn why(&self, entry: &Entry) -> Option<Why> {
        match entry.is_lost() {
            true => Some(Why::Lost),
            false => (entry.is_data() && self.bad_data.contains(&entry.block())).then_some(Why::Data),
        }
    }

    /// Whether anything that somebody stored cannot be read.
    fn found_damage(&self) -> bool {
        self.lost_root
            || [&self.bad_nodes, &self.bad_data, &self.bearers].iter().any(|blocks| !blocks.is_empty())
    }
}

/// A version as people know it.
pub(crate) fn name_of(versions: &Versions, id: VersionId) -> String {
    match names_of(versions, id) {
        Some((volume, None)) => format!("volume '{volume}'"),
        Some((volume, Some(snapshot))) => format!("snapshot '{volume}@{snapshot}'"),
        None => format!("version {id}, which is deleted"),
    }
}

/// The names of a volume or of a snapshot and its volume; none for what is deleted.
pub(crate) fn names_of(versions: &Versions, id: VersionId) -> Option<(String, Option<String>)> {
    match &versions.get(id)?.kind {
        Kind::Head { name, .. } => Some((name.clone(), None)),
        Kind::Snapshot { volume, name, .. } => match &versions.get(*volume)?.kind {
            Kind::Head { name: volume, .. } => Some((volume.clone(), Some(name.clone()))),
            _ => None,
        },
        Kind::Ghost => None,
    }
}

/// Ranges that cannot be read, as their users know them, neighbours in one, and how many bytes they are in all.
pub(crate) fn losses(versions: &Versions, gone: &[Gone]) -> (Vec<Loss>, u64) {
    let mut listed: Vec<Loss> = Vec::new();
    let mut bytes = 0;
    for range in gone {
        let (Some((volume, snapshot)), Some(version)) =
            (names_of(versions, range.version), versions.get(range.version))
        else {
            continue;
        };
        let kind = if range.why == Why::Data { LossKind::Data } else { LossKind::Map };
        let offset = range.lba * BLOCK_SIZE;
        let end = ((range.lba + range.blocks) * BLOCK_SIZE).min(version.size);
        if offset >= end {
            continue;
        }
        bytes += end - offset;
        let full = listed.len() == MOST_LOSSES;
        match listed.last_mut() {
            Some(last)
                if last.volume == volume
                    && last.snapshot == snapshot
                    && last.kind == kind
                    && last.offset + last.len == offset =>
            {
                last.len = end - last.offset;
            }
            _ if full => {}
            _ => listed.push(Loss { volume, snapshot, offset, len: end - offset, kind }),
        }
    }
    (listed, bytes)
}

impl<D: Disk> Pool<D> {
    /// Walks every version of a state that is on disk and stays there meanwhile. `go_on` may end it at any time; it is
    /// told how many blocks were read.
    pub(crate) async fn survey(
        &self,
        subject: Subject<'_>,
        go_on: impl Fn(u64) -> Result<()>,
    ) -> Result<Survey> {
        let mut survey = Survey::new(&subject, self.geometry.segment_blocks as usize / 64);
        for run in subject.catalog {
            for i in 0..u64::from(run.len) {
                self.refer(&mut survey, run.start + i, "the catalog");
            }
        }
        for (id, version) in subject.versions.iter() {
            self.survey_version(&mut survey, id, &version.root, &subject, &go_on).await?;
        }
        Ok(survey)
    }

    /// Notes that something refers to a block. Returns whether it is the first.
    fn refer(&self, survey: &mut Survey, addr: BlockAddr, who: &str) -> bool {
        let Some((segment, index)) = self.geometry.locate(addr, survey.referenced.len()) else {
            survey.error(format!("{who} refers to block {addr}, which lies outside the segments"));
            return false;
        };
        let first = !is_set(&survey.referenced[segment], index);
        survey.referenced[segment][index as usize / 64] |= 1 << (index % 64);
        first
    }

    async fn survey_version(
        &self,
        survey: &mut Survey,
        id: VersionId,
        root: &Slot,
        subject: &Subject<'_>,
        go_on: &impl Fn(u64) -> Result<()>,
    ) -> Result<()> {
        let who = name_of(subject.versions, id);
        let done = done_of(subject.versions, id);
        survey.lost_root |= is_lost(root);
        let mut todo: Vec<Visit> = Vec::new();
        todo.extend(root.home().map(|ptr| Visit { ptr, level: ROOT_LEVEL, base: 0 }));
        while !todo.is_empty() {
            go_on(survey.nodes + survey.data_verified)?;
            let batch: Vec<Visit> = todo.split_off(todo.len().saturating_sub(WIDTH));
            let batch: Vec<Visit> =
                batch.into_iter().filter(|v| is_live(v, done) && survey.seen.insert(v.ptr.addr)).collect();
            let reads = batch.iter().map(|v| self.fetch_node(subject.guard, v.ptr, v.level)).collect();
            for (visit, node) in batch.iter().zip(join_all(reads, WIDTH).await) {
                self.refer(survey, visit.ptr.addr, &who);
                survey.nodes += 1;
                match node {
                    Ok(Node::Inner(slots)) => {
                        if slots.iter().any(is_lost) {
                            survey.bearers.insert(visit.ptr.addr);
                        }
                        todo.extend(children(&slots[..], visit.level, visit.base));
                    }
                    Ok(Node::Leaf(entries)) => {
                        let data = (visit.base..).zip(entries.iter().copied()).filter(|(_, e)| e.is_data());
                        let fresh: Vec<(u64, Entry)> =
                            data.filter(|(_, e)| self.refer(survey, e.block(), &who)).collect();
                        survey.data_blocks += fresh.len() as u64;
                        if subject.verify_data {
                            self.verify(survey, &who, &fresh).await;
                        }
                        // What is not fresh another leaf has brought up before.
                        if entries.iter().any(|e| survey.why(e).is_some()) {
                            survey.bearers.insert(visit.ptr.addr);
                        }
                    }
                    Err(error) => {
                        survey.bad_nodes.insert(visit.ptr.addr);
                        let (first, end) = (visit.base, visit.base + entry_span(visit.level + 1));
                        survey.error(format!(
                            "{who}, bytes {} to {}: {}",
                            first * BLOCK_SIZE,
                            end * BLOCK_SIZE,
                            error.with_cause()
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads data blocks and compares them with their checksums.
    async fn verify(&self, survey: &mut Survey, who: &str, entries: &[(u64, Entry)]) {
        let reads = entries.iter().map(|(_, entry)| async move {
            let (result, block) = self.disk.read(entry.block().offset(), self.disk.alloc(BLOCK_BYTES)).await;
            match result {
                Ok(()) if crc32fast::hash(&block) == entry.crc() => None,
                Ok(()) => Some(format!("block {} does not match its checksum", entry.block())),
                Err(e) => Some(format!("block {} cannot be read: {e}", entry.block())),
            }
        });
        let faults = join_all(reads.collect(), WIDTH).await;
        survey.data_verified += entries.len() as u64;
        for ((lba, entry), fault) in entries.iter().zip(faults) {
            let Some(fault) = fault else { continue };
            survey.bad_data.insert(entry.block());
            survey.error(format!("{who}, byte {}: {fault}", lba * BLOCK_SIZE));
        }
    }

    /// Who loses what with the blocks that a survey could not read: what one block holds may be part of many versions.
    /// Sorted by version and place.
    pub(crate) async fn gone(
        &self,
        guard: &ReadGuard,
        versions: &Versions,
        survey: &Survey,
    ) -> Result<Vec<Gone>> {
        let mut gone = Vec::new();
        if !survey.found_damage() {
            return Ok(gone);
        }
        // Inner nodes below which nothing is bad.
        let mut intact: HashSet<BlockAddr> = HashSet::new();
        for (id, version) in versions.iter() {
            let gone_here = |lba, blocks, why| (lba, Gone { version: id, lba, blocks, why });
            if is_lost(&version.root) {
                gone.push(gone_here(0, MAP_END, Why::Lost).1);
            }
            let Some(ptr) = version.root.home() else { continue };
            let done = done_of(versions, id);
            let mut found: BTreeMap<u64, Gone> = BTreeMap::new();
            // Nodes on the way down, each with what of it is still to be visited and whether anything below was bad.
            let mut way: Vec<(BlockAddr, Vec<Visit>, bool)> =
                vec![(BlockAddr(0), vec![Visit { ptr, level: ROOT_LEVEL, base: 0 }], false)];
            while let Some((addr, rest, any)) = way.last_mut() {
                let Some(visit) = rest.pop() else {
                    let (addr, any) = (*addr, *any);
                    way.pop();
                    match way.last_mut() {
                        Some((_, _, above)) if any => *above = true,
                        _ if any => {}
                        // What was given back of a deleted version was not looked at.
                        _ if done > 0 => {}
                        _ => drop(intact.insert(addr)),
                    }
                    continue;
                };
                let Visit { ptr, level, base } = visit;
                if !is_live(&visit, done) || intact.contains(&ptr.addr) {
                    continue;
                }
                if survey.bad_nodes.contains(&ptr.addr) {
                    *any = true;
                    found.extend([gone_here(base, entry_span(level + 1), Why::Node(level))]);
                    continue;
                }
                let bears = survey.bearers.contains(&ptr.addr);
                if level == 0 && !bears {
                    continue;
                }
                *any |= bears;
                match self.fetch_node(guard, ptr, level).await? {
                    Node::Inner(slots) => {
                        let span = entry_span(level);
                        let lost =
                            (base..).step_by(span as usize).zip(slots.iter()).filter(|(_, s)| is_lost(s));
                        found.extend(lost.map(|(lba, _)| gone_here(lba, span, Why::Lost)));
                        way.push((ptr.addr, children(&slots[..], level, base).collect(), false));
                    }
                    Node::Leaf(entries) => {
                        let bad = (base..).zip(entries.iter());
                        found.extend(bad.filter_map(|(lba, e)| Some(gone_here(lba, 1, survey.why(e)?))));
                    }
                }
            }
            gone.extend(found.into_values());
        }
        Ok(gone)
    }
}

fn is_lost(slot: &Slot) -> bool {
    slot.uniform() == Some(Entry::LOST)
}

/// What a deleted version held before this block was given back already.
fn done_of(versions: &Versions, id: VersionId) -> u64 {
    versions.reaping.filter(|r| r.version == id).map_or(0, |r| r.cursor)
}

fn is_live(visit: &Visit, done: u64) -> bool {
    visit.base + entry_span(visit.level + 1) > done && done < MAP_END
}

/// The nodes that an inner one leads to.
fn children(slots: &[Slot], level: u8, base: u64) -> impl Iterator<Item = Visit> {
    let span = entry_span(level);
    slots.iter().enumerate().filter_map(move |(i, slot)| {
        slot.home().map(|ptr| Visit { ptr, level: level - 1, base: base + i as u64 * span })
    })
}
