//! Reads, and what kind of data lies where.

use smallvec::SmallVec;

use crate::cache::{BlockCache, Memory};
use crate::defect::{Defect, planted};
use crate::disk::{Buf as _, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::map::{View, kind_of, visit_range};
use crate::node::{Entry, FANOUT, index_at};
use crate::pool::Pool;
use crate::space::ReadGuard;
use crate::state::{Blocked, State};
use crate::sync::{join_all, yield_now};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, Extent, ExtentKind, VersionId};
use crate::write::check_range;

/// I/Os of one read in flight: an aged disk's sequential read is many small ones, issued together.
const WIDTH: usize = 64;

/// Steps of a walk over the map after which other tasks of the reactor get their turn.
pub(crate) const STEPS_PER_TURN: u32 = 64;

/// What the blocks of a read map to: that of a single block takes no allocation.
type Entries = SmallVec<[Entry; 2]>;

/// What a read returns.
pub struct ReadReply<B> {
    /// The range rounded outward to whole blocks; the first byte asked for is at `offset % 4096`. `None` when all of
    /// it reads as zeroes.
    pub buf: Option<B>,
    /// Lengths in bytes that cover the range exactly, each with whether it is known to be zeroes; empty when all of
    /// it is data.
    pub extents: Vec<(u32, bool)>,
}

/// The entry of block `lba` in what a visit found.
pub(crate) fn entry_in(view: &View<'_>, lba: u64) -> Entry {
    match view {
        View::Uniform { entry, .. } => *entry,
        View::Leaf(entries) => entries[index_at(lba, 0)],
    }
}

/// The blocks that a read touches, as far as they are looked up.
///
/// What was found stays found while nodes are read from disk: looked up anew after each of them, a read of many leaves
/// would need all of them in memory at once, and several such reads would push out each other's for ever. The guard is
/// taken first and keeps what the first entries point to from being reused until the last one is there.
#[derive(Default)]
struct LookUp {
    entries: Entries,
    guard: Option<ReadGuard>,
}

impl LookUp {
    /// Goes on towards the end of the blocks that bytes `offset..offset + len` touch, in every call the same.
    fn go_on(&mut self, state: &mut State, id: VersionId, offset: u64, len: u64) -> Result<(), Blocked> {
        let LookUp { entries, guard } = self;
        let guard = guard.get_or_insert_with(|| state.space.reader());
        state.requests += 1;
        let version = state.version(id)?;
        check_range(version.size, offset, len)?;
        let mut at = offset / BLOCK_SIZE + entries.len() as u64;
        let end = (offset + len).div_ceil(BLOCK_SIZE);
        entries.reserve_exact((end - at) as usize);
        while at < end {
            let visited = visit_range(&mut version.root, at..end, |view| match view {
                View::Uniform { end: until, .. } => {
                    let until = until.min(end);
                    entries.resize(entries.len() + (until - at) as usize, entry_in(&view, at));
                    until
                }
                View::Leaf(leaf) => {
                    let from = index_at(at, 0);
                    let to = FANOUT.min(from + (end - at) as usize);
                    entries.extend_from_slice(&leaf[from..to]);
                    at + (to - from) as u64
                }
            });
            at = match visited {
                Ok(next) => next,
                Err(missing) => return Err(Blocked::Missing(missing, guard.clone())),
            };
        }
        Ok(())
    }
}

/// What becomes of blocks that were read from the disk, once they are verified.
#[derive(Clone, Copy)]
enum Afterwards {
    /// They go into the read cache.
    Keep,
    Forget,
}

/// Blocks of a read that one I/O brings: places in its range.
struct Gap {
    start: usize,
    end: usize,
}

/// Fills what of `buf` needs no disk, and says what is left: blocks that are not cached, in gaps of consecutive ones.
fn fill_known(cache: Option<&BlockCache>, entries: &[Entry], buf: &mut [u8]) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut reader = cache.map(BlockCache::reader);
    for (at, (entry, out)) in entries.iter().zip(buf.chunks_exact_mut(BLOCK_BYTES)).enumerate() {
        if !entry.is_data() {
            out.fill(0);
        } else if !reader.as_mut().is_some_and(|reader| reader.get(entry.block(), out)) {
            match gaps.last_mut() {
                Some(gap) if gap.end == at && entry.block() == entries[at - 1].block() + 1 => {
                    gap.end = at + 1;
                }
                _ => gaps.push(Gap { start: at, end: at + 1 }),
            }
        }
    }
    gaps
}

/// What reading blocks by their entries can bring besides an error of the disk.
enum Fault {
    Disk(Error),
    /// The block at this place in the range does not match its checksum.
    Checksum(usize),
}

impl<D: Disk> Pool<D> {
    /// Reads `len` bytes at `offset` of any version.
    pub async fn read(&self, id: VersionId, offset: u64, len: usize) -> Result<ReadReply<D::Buf>> {
        self.read_and(Afterwards::Keep, id, offset, len).await
    }

    /// As [`Pool::read`], for what is read once and never again: nothing of it is kept in the read cache.
    pub async fn read_once(&self, id: VersionId, offset: u64, len: usize) -> Result<ReadReply<D::Buf>> {
        self.read_and(Afterwards::Forget, id, offset, len).await
    }

    async fn read_and(
        &self,
        afterwards: Afterwards,
        id: VersionId,
        offset: u64,
        len: usize,
    ) -> Result<ReadReply<D::Buf>> {
        let first = offset / BLOCK_SIZE;
        let (entries, buf) = self.read_blocks(afterwards, id, offset, len as u64).await?;
        if entries.iter().all(|e| e.is_data()) {
            return Ok(ReadReply { buf, extents: Vec::new() });
        }
        let mut extents: Vec<(u32, bool)> = Vec::new();
        let end = offset + len as u64;
        for (block, entry) in (first..).zip(&entries) {
            let bytes = ((block + 1) * BLOCK_SIZE).min(end) - (block * BLOCK_SIZE).max(offset);
            match extents.last_mut() {
                Some((len, hole)) if *hole != entry.is_data() => *len += bytes as u32,
                _ => extents.push((bytes as u32, !entry.is_data())),
            }
        }
        Ok(ReadReply { buf, extents })
    }

    /// Reads one whole block; no buffer when it reads as zeroes.
    pub(crate) async fn read_block(&self, id: VersionId, lba: u64) -> Result<(Entry, Option<D::Buf>)> {
        // Its first byte stands for the block, whose end may lie behind the volume's.
        let (entries, buf) = self.read_blocks(Afterwards::Keep, id, lba * BLOCK_SIZE, 1).await?;
        Ok((entries[0], buf))
    }

    /// Reads the blocks that a range touches, whole. A block that does not match is looked up again, because it may
    /// have moved; if the map still says the same, nobody gets its bytes.
    async fn read_blocks(
        &self,
        afterwards: Afterwards,
        id: VersionId,
        offset: u64,
        len: u64,
    ) -> Result<(Entries, Option<D::Buf>)> {
        let mut bad: Option<Entry> = None;
        loop {
            let mut found = LookUp::default();
            self.step(|state| found.go_on(state, id, offset, len)).await?;
            let LookUp { entries, guard } = found;
            let guard = guard.expect("taken when it was looked up");
            if let Some(at) = entries.iter().position(|e| e.is_lost()) {
                return Err(self.unreadable(id, offset / BLOCK_SIZE + at as u64, "its map was damaged"));
            }
            if !entries.iter().any(|e| e.is_data()) {
                return Ok((entries, None));
            }
            let fault = match self.fetch(&guard, afterwards, &entries).await {
                Ok(buf) => return Ok((entries, Some(buf))),
                Err(fault) => fault,
            };
            drop(guard);
            let at = match fault {
                Fault::Disk(error) => return Err(error),
                Fault::Checksum(at) => at,
            };
            let entry = entries[at];
            if bad.replace(entry) == Some(entry) {
                let why = format!("block {} of the pool does not match its checksum", entry.block());
                return Err(self.unreadable(id, offset / BLOCK_SIZE + at as u64, &why));
            }
        }
    }

    /// Counts a block that cannot be had any more.
    fn unreadable(&self, id: VersionId, lba: u64, why: &str) -> Error {
        let mut state = self.state.lock();
        state.checksum_errors += 1;
        if let Ok(version) = state.version(id) {
            version.checksum_errors += 1;
        }
        Error::new(
            ErrorKind::Corrupt,
            format!("byte {} of version {id} cannot be read: {why}", lba * BLOCK_SIZE),
        )
    }

    /// Brings what these entries point to into one buffer: from memory where it is there, else from the disk,
    /// verified. The guard was taken before the entries were looked up.
    async fn fetch(
        &self,
        guard: &ReadGuard,
        afterwards: Afterwards,
        entries: &[Entry],
    ) -> Result<D::Buf, Fault> {
        let mut rest = self.disk.alloc(entries.len() * BLOCK_BYTES);
        if let [entry] = entries {
            if self.cache.as_ref().is_some_and(|cache| cache.get(entry.block(), &mut rest)) {
                return Ok(rest);
            }
            return self.fetch_gap(guard, afterwards, 0, entries, rest).await;
        }
        let gaps = fill_known(self.cache.as_deref(), entries, &mut rest);
        match gaps[..] {
            [] => return Ok(rest),
            [Gap { start: 0, end }] if end == entries.len() => {
                return self.fetch_gap(guard, afterwards, 0, entries, rest).await;
            }
            _ => {}
        }
        let mut fetches = Vec::with_capacity(gaps.len());
        // What is there already, before each gap.
        let mut known = Vec::with_capacity(gaps.len());
        let mut at = 0;
        for Gap { start, end } in gaps {
            let mut gap = rest.split_off((start - at) * BLOCK_BYTES);
            let tail = gap.split_off((end - start) * BLOCK_BYTES);
            known.push(std::mem::replace(&mut rest, tail));
            fetches.push(self.fetch_gap(guard, afterwards, start, &entries[start..end], gap));
            at = end;
        }
        let fetched = join_all(fetches, WIDTH).await;
        let mut pieces = known.into_iter().zip(fetched);
        let (mut whole, first) = pieces.next().expect("there is at least one gap");
        whole.join(first?);
        for (known, fetched) in pieces {
            whole.join(known);
            whole.join(fetched?);
        }
        whole.join(rest);
        Ok(whole)
    }

    /// Reads consecutive blocks of the pool into `buf` and verifies them; the first is block `first` of the range.
    async fn fetch_gap(
        &self,
        _guard: &ReadGuard,
        afterwards: Afterwards,
        first: usize,
        entries: &[Entry],
        buf: D::Buf,
    ) -> Result<D::Buf, Fault> {
        let start = entries[0].block();
        let (result, buf) = self.disk.read(start.offset(), buf).await;
        result.map_err(|e| Fault::Disk(Error::io(format!("reading block {start}"), e)))?;
        for (at, (block, entry)) in buf.chunks_exact(BLOCK_BYTES).zip(entries).enumerate() {
            if crc32fast::hash(block) != entry.crc() && !planted(Defect::DataServedUnverified) {
                return Err(Fault::Checksum(first + at));
            }
        }
        if let (Some(cache), Afterwards::Keep) = (&self.cache, afterwards) {
            cache.add(start, &buf, |len| -> Memory { Box::new(self.disk.alloc(len)) });
        }
        Ok(buf)
    }

    /// What lies where in `offset..offset + len` of a version: at most `max` extents from the start, neighbours of
    /// one kind in one. They may cover less than was asked when there are more.
    pub async fn extents(&self, id: VersionId, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        check_range(self.state.lock().version(id)?.size, offset, len)?;
        let mut extents: Vec<Extent> = Vec::new();
        let end = offset + len;
        let mut at = offset;
        let mut steps = 0;
        while at < end {
            steps += 1;
            if steps % STEPS_PER_TURN == 0 {
                yield_now().await;
            }
            let lba = at / BLOCK_SIZE;
            // One leaf or one uniform range a step, so that the lock is never held for long.
            let found: Vec<(u64, ExtentKind)> = self
                .step(|state| {
                    let version = state.version(id)?;
                    let until = end.div_ceil(BLOCK_SIZE);
                    let seen = visit_range(&mut version.root, lba..until, |view| match view {
                        View::Uniform { end, .. } => vec![(end, kind_of(entry_in(&view, lba)))],
                        View::Leaf(leaf) => {
                            let base = lba - index_at(lba, 0) as u64;
                            let from = &leaf[index_at(lba, 0)..];
                            let mut until = lba;
                            let groups = from.chunk_by(|a, b| kind_of(*a) == kind_of(*b));
                            let found = groups.map(|group| {
                                until += group.len() as u64;
                                (until, kind_of(group[0]))
                            });
                            let found: Vec<(u64, ExtentKind)> = found.collect();
                            debug_assert_eq!(found.last().map(|(end, _)| *end), Some(base + FANOUT as u64));
                            found
                        }
                    });
                    seen.map_err(|missing| state.missing(missing))
                })
                .await?;
            for (until, kind) in found {
                let until = (until * BLOCK_SIZE).min(end);
                if at >= until {
                    continue;
                }
                let full = extents.len() == max;
                match extents.last_mut() {
                    Some(last) if last.kind == kind => last.len += until - at,
                    _ if full => return Ok(extents),
                    _ => extents.push(Extent { offset: at, len: until - at, kind }),
                }
                at = until;
            }
        }
        Ok(extents)
    }
}
