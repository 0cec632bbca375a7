//! Writes, trims and zeroes: everything that changes a head's contents.
//!
//! ```text
//! write ─► merge partial blocks ─► find zero blocks, checksum the others ─► queue on the lane
//!   the first in the queue lets every other ready task of its reactor run, then takes all:
//!     allocate ─► one I/O per contiguous run ─► publish all in log order ─► answer all
//! ```
//!
//! A part is what falls into one leaf, 1 MiB. Publishing is the only step under the lock: map, space and log change
//! together, or, when something has to be awaited first, not at all.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::defect::{Defect, planted};
use crate::disk::{Buf, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::map::{fill_step, prepare, set_entries, visit};
use crate::node::{Entry, FANOUT};
use crate::pool::Pool;
use crate::read::entry_in;
use crate::record::Record;
use crate::space::{Run, push_block};
use crate::state::{Blocked, State};
use crate::sync::{Event, Handoff, join_all, yield_now};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, Epoch, ExtentKind, Lsn, VersionId};

/// Unflushed data beyond which the background flushes ...
pub(crate) const UNFLUSHED_SOFT_BYTES: u64 = 64 << 20;
/// ... and beyond which writers wait for it.
const UNFLUSHED_HARD_BYTES: u64 = 128 << 20;
/// The longest single write I/O, in blocks.
const IO_BLOCKS: u32 = 512;
/// Parts of one request, and I/Os of one batch, in flight.
const WIDTH: usize = 32;
/// Leaves or uniform ranges that one step of a fill may cover.
const FILL_STEPS: usize = 48;
/// Runs that one step of a fill may free.
const FILL_FREES: usize = 2048;

/// What a partial block was merged with: publishing fails if it is not there any more.
pub(crate) struct Expected {
    lba: u64,
    entry: Entry,
}

/// What of a write falls into one leaf.
pub(crate) struct Part<B> {
    pub(crate) head: VersionId,
    pub(crate) lba: u64,
    /// For each block its checksum, or `None` for zeroes.
    pub(crate) crcs: Vec<Option<u32>>,
    /// The blocks that are not zeroes.
    pub(crate) data: Vec<B>,
    pub(crate) data_blocks: u32,
    pub(crate) expected: Vec<Expected>,
}

/// Bytes `from..to` of a volume, all in one leaf, for a buffer that begins with block `lba`.
struct PartRange {
    lba: u64,
    from: u64,
    to: u64,
    /// Blocks that are written only in part, ascending.
    partial: Vec<u64>,
}

/// How a queued part came back.
enum Outcome<B> {
    Published(Lsn),
    /// On disk, but publishing has to wait.
    Blocked(Part<B>, Vec<Run>, Blocked),
    /// There was no room; nothing was written.
    NoRoom(Part<B>),
    Failed(Error),
}

type Queued<B> = (Part<B>, Handoff<Outcome<B>>);

/// Parts of one reactor that wait to leave together.
pub(crate) struct LaneQueue<B> {
    waiting: Vec<Queued<B>>,
}

impl<B> Default for LaneQueue<B> {
    fn default() -> Self {
        LaneQueue { waiting: Vec::new() }
    }
}

/// Blocks whose contents are being merged with part of a block: one at a time for each.
#[derive(Default)]
pub(crate) struct Merging {
    held: Mutex<HashSet<(VersionId, u64)>>,
    released: Event,
}

pub(crate) struct MergeGuard<'a> {
    merging: &'a Merging,
    key: (VersionId, u64),
}

impl Merging {
    async fn acquire(&self, key: (VersionId, u64)) -> MergeGuard<'_> {
        loop {
            let listener = self.released.listen();
            if self.held.lock().insert(key) || planted(Defect::PartsNotMerged) {
                return MergeGuard { merging: self, key };
            }
            listener.await;
        }
    }
}

impl Drop for MergeGuard<'_> {
    fn drop(&mut self) {
        self.merging.held.lock().remove(&self.key);
        self.merging.released.notify_all();
    }
}

/// Fails unless `offset..offset + len` lies in the volume.
pub(crate) fn check_range(size: u64, offset: u64, len: u64) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::OutOfRange,
        format!("{len} bytes at {offset} lie outside a volume of {size} bytes"),
    ))
}

impl<D: Disk> Pool<D> {
    /// Writes `len` bytes at `offset` of a head. `buf` covers the range rounded outward to whole blocks, the payload
    /// beginning at `offset % 4096`; what lies around it is not looked at. Returns once every later read sees the
    /// data; it is durable after [`Pool::flush_to`] the number returned. `lane` is the caller's reactor.
    pub async fn write(
        &self,
        lane: usize,
        head: VersionId,
        offset: u64,
        len: usize,
        buf: D::Buf,
    ) -> Result<Lsn> {
        self.writable_size(head, offset, len as u64)?;
        if len == 0 {
            return Ok(self.state.lock().lsn);
        }
        let first = offset / BLOCK_SIZE;
        let blocks = (offset + len as u64).div_ceil(BLOCK_SIZE) - first;
        if buf.len() as u64 != blocks * BLOCK_SIZE {
            return Err(Error::new(ErrorKind::InvalidArgument, "the buffer does not cover whole blocks"));
        }
        let mut parts = Vec::new();
        let mut rest = buf;
        let mut at = first;
        while at < first + blocks {
            let end = (at / FANOUT as u64 + 1) * FANOUT as u64;
            let take = end.min(first + blocks) - at;
            let tail = rest.split_off((take * BLOCK_SIZE) as usize);
            let from = offset.max(at * BLOCK_SIZE);
            let to = (offset + len as u64).min((at + take) * BLOCK_SIZE);
            // A volume's last block may be part of one: it is merged, too, since the volume may grow meanwhile.
            let whole = |b: u64| from <= b * BLOCK_SIZE && (b + 1) * BLOCK_SIZE <= to;
            let mut partial: Vec<u64> = [at, at + take - 1].into_iter().filter(|b| !whole(*b)).collect();
            partial.dedup();
            let buf = std::mem::replace(&mut rest, tail);
            parts.push(self.write_part(lane, head, PartRange { lba: at, from, to, partial }, buf));
            at += take;
        }
        if parts.len() == 1 {
            return parts.pop().expect("one").await;
        }
        let written = join_all(parts, WIDTH).await.into_iter().collect::<Result<Vec<Lsn>>>()?;
        Ok(written.into_iter().max().expect("at least one part"))
    }

    /// Writes what of a request lies in one leaf.
    async fn write_part(
        &self,
        lane: usize,
        head: VersionId,
        range: PartRange,
        mut buf: D::Buf,
    ) -> Result<Lsn> {
        let PartRange { lba, from, to, partial } = range;
        let mut guards = Vec::with_capacity(partial.len());
        for block in &partial {
            guards.push(self.merging.acquire((head, *block)).await);
        }
        clear_outside(&mut buf, lba, from, to);
        let payload = (!partial.is_empty()).then(|| self.copy_of(&buf));
        let mut buf = Some(buf);
        loop {
            let mut contents = match buf.take() {
                Some(first_try) => first_try,
                None => self.copy_of(payload.as_ref().expect("only merged blocks are tried again")),
            };
            let mut expected = Vec::new();
            for block in &partial {
                let entry = self.merge(head, *block, lba, from, to, &mut contents).await?;
                expected.push(Expected { lba: *block, entry });
            }
            match self.write_blocks(lane, head, lba, contents, expected).await? {
                Some(lsn) => return Ok(lsn),
                // Somebody wrote the whole block between our read and our write: merge with that.
                None => debug_assert!(!partial.is_empty()),
            }
        }
    }

    fn copy_of(&self, buf: &D::Buf) -> D::Buf {
        let mut copy = self.disk.alloc(buf.len());
        copy.copy_from_slice(buf);
        copy
    }

    /// Fills in what a partial block held before around the bytes `from..to`, and tells what it was.
    async fn merge(
        &self,
        head: VersionId,
        block: u64,
        lba: u64,
        from: u64,
        to: u64,
        buf: &mut D::Buf,
    ) -> Result<Entry> {
        let (entry, old) = self.read_block(head, block).await?;
        if let Some(old) = old {
            let start = block * BLOCK_SIZE;
            let place = ((block - lba) * BLOCK_SIZE) as usize;
            let keep_from = (from.max(start) - start) as usize;
            let keep_to = (to.min(start + BLOCK_SIZE) - start) as usize;
            let out = &mut buf[place..place + BLOCK_BYTES];
            out[..keep_from].copy_from_slice(&old[..keep_from]);
            if !planted(Defect::TailOfABlockLost) {
                out[keep_to..].copy_from_slice(&old[keep_to..]);
            }
        }
        Ok(entry)
    }

    /// Writes whole blocks of one leaf; `None` when an expectation was not met.
    async fn write_blocks(
        &self,
        lane: usize,
        head: VersionId,
        lba: u64,
        buf: D::Buf,
        expected: Vec<Expected>,
    ) -> Result<Option<Lsn>> {
        let mut part = checksum(head, lba, buf, expected);
        if part.data_blocks == 0 {
            return self.publish_when_possible(&part, &[], None).await;
        }
        // The leaf is read, and much unflushed data flushed, while nothing depends on this part yet.
        self.step(|state| {
            if state.unflushed_bytes > UNFLUSHED_HARD_BYTES {
                return Err(Blocked::Commit);
            }
            let version = state.version(head)?;
            prepare(&mut version.root, lba).map_err(|missing| state.missing(missing))
        })
        .await?;
        loop {
            match self.enqueue(lane, part).await {
                Outcome::Published(lsn) => return Ok(Some(lsn)),
                Outcome::Blocked(part, runs, blocked) => {
                    return self.publish_when_possible(&part, &runs, Some(blocked)).await;
                }
                Outcome::NoRoom(back) => {
                    self.make_room(u64::from(back.data_blocks)).await?;
                    part = back;
                }
                Outcome::Failed(error) => return Err(error),
            }
        }
    }

    /// Publishes a part whose data is on disk; gives its blocks back when that turns out to be impossible.
    async fn publish_when_possible(
        &self,
        part: &Part<D::Buf>,
        runs: &[Run],
        mut blocked: Option<Blocked>,
    ) -> Result<Option<Lsn>> {
        loop {
            let attempt = match blocked.take() {
                None => publish(&mut self.state.lock(), part, runs),
                Some(blocked) => Err(blocked),
            };
            let outcome = match attempt {
                Ok(lsn) => return Ok(Some(lsn)),
                Err(Blocked::Conflict) => Ok(None),
                Err(other) => match self.unblock(other).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            abandon(&mut self.state.lock(), runs)?;
            return outcome;
        }
    }

    /// Queues a part on its lane and, when it is the first there, leads all that gather behind it.
    async fn enqueue(&self, lane: usize, part: Part<D::Buf>) -> Outcome<D::Buf> {
        let queue = &self.lanes[lane % self.lanes.len()];
        let done = Handoff::new();
        let leads = {
            let mut queue = queue.lock();
            queue.waiting.push((part, done.clone()));
            queue.waiting.len() == 1
        };
        if leads {
            yield_now().await;
            let batch = std::mem::take(&mut queue.lock().waiting);
            self.write_batched(lane % self.lanes.len(), batch).await;
        }
        done.await
    }

    /// Writes and publishes a batch of parts, and tells each how it went.
    async fn write_batched(&self, lane: usize, batch: Vec<Queued<D::Buf>>) {
        let mut placed = Vec::with_capacity(batch.len());
        let ahead = {
            let mut state = self.state.lock();
            state.requests += 1;
            for (part, done) in batch {
                let fits = state.data_blocks_free() >= u64::from(part.data_blocks);
                match fits.then(|| state.space.allocate(lane, part.data_blocks)).flatten() {
                    Some(runs) => {
                        state.space.begin_flight(&runs);
                        placed.push((part, runs, done));
                    }
                    None => done.give(Outcome::NoRoom(part)),
                }
            }
            match &placed[..] {
                [(part, runs, _)] if state.may_write_ahead() => {
                    foresee(&mut state, part, runs).and_then(|record| state.foresee_batch(&record))
                }
                _ => None,
            }
        };
        let mut writes: Vec<_> =
            gather(&mut placed).into_iter().map(|io| self.disk.write(io.offset, io.bufs)).collect();
        if let Some(sealed) = ahead {
            let (part, runs, done) = placed.pop().expect("one");
            let data = async { join_all(writes, WIDTH).await.into_iter().try_for_each(|(result, _)| result) };
            let outcome = match self.write_ahead(data, sealed, |state| publish(state, &part, &runs)).await {
                Ok(lsn) => Outcome::Published(lsn),
                Err(Blocked::Failed(error)) => {
                    let abandoned = abandon(&mut self.state.lock(), &runs);
                    Outcome::Failed(abandoned.err().unwrap_or(error))
                }
                Err(blocked) => Outcome::Blocked(part, runs, blocked),
            };
            return done.give(outcome);
        }
        let failed = if writes.len() == 1 {
            writes.pop().expect("one").await.0.err()
        } else {
            join_all(writes, WIDTH).await.into_iter().find_map(|(result, _)| result.err())
        };
        let mut state = self.state.lock();
        if let Some(error) = failed {
            let error = Error::io("writing data", error);
            for (_, runs, done) in placed {
                let outcome = abandon(&mut state, &runs).err().unwrap_or_else(|| error.duplicate());
                done.give(Outcome::Failed(outcome));
            }
            return;
        }
        for (part, runs, done) in placed {
            match publish(&mut state, &part, &runs) {
                Ok(lsn) => done.give(Outcome::Published(lsn)),
                Err(blocked) => done.give(Outcome::Blocked(part, runs, blocked)),
            }
        }
        if state.unflushed_bytes > UNFLUSHED_SOFT_BYTES {
            self.work.notify_all();
        }
    }

    /// Makes `offset..offset + len` of a head read as zeroes without storing any; whole blocks become holes or zeroes
    /// by `kind`.
    pub async fn zero(
        &self,
        lane: usize,
        head: VersionId,
        offset: u64,
        len: u64,
        kind: ExtentKind,
    ) -> Result<Lsn> {
        self.writable_size(head, offset, len)?;
        let mut lsn = self.state.lock().lsn;
        if len == 0 {
            return Ok(lsn);
        }
        let end = offset + len;
        let (first, last) = (offset.div_ceil(BLOCK_SIZE), end / BLOCK_SIZE);
        if first >= last {
            // At most the ends of two blocks.
            return self.write_zeroes(lane, head, offset, end).await;
        }
        if offset < first * BLOCK_SIZE {
            lsn = self.write_zeroes(lane, head, offset, first * BLOCK_SIZE).await?;
        }
        if last * BLOCK_SIZE < end {
            lsn = lsn.max(self.write_zeroes(lane, head, last * BLOCK_SIZE, end).await?);
        }
        let zero = kind != ExtentKind::Hole;
        let mut at = first;
        while at < last {
            (at, lsn) = self.step(|state| fill_some(state, head, at, last, zero)).await?;
        }
        Ok(lsn)
    }

    /// Forgets `offset..offset + len` of a head: whole blocks become holes; those that are only partly in the range
    /// stay as they are, as a disk may leave them, but for the last of a volume whose size is not whole blocks.
    pub async fn trim(&self, head: VersionId, offset: u64, len: u64) -> Result<Lsn> {
        let size = self.writable_size(head, offset, len)?;
        let mut lsn = self.state.lock().lsn;
        let end = offset + len;
        let outward = planted(Defect::TrimRoundsOutward);
        let mut at = if outward { offset / BLOCK_SIZE } else { offset.div_ceil(BLOCK_SIZE) };
        loop {
            let step = self.step(|state| {
                // Once the volume has grown, the block at its old end is only partly in the range.
                let to_the_end = end == size && state.version(head)?.size == size;
                let last = if to_the_end { end.div_ceil(BLOCK_SIZE) } else { end / BLOCK_SIZE };
                if at >= last { Ok(None) } else { fill_some(state, head, at, last, false).map(Some) }
            });
            match step.await? {
                Some(done) => (at, lsn) = done,
                None => return Ok(lsn),
            }
        }
    }

    fn writable_size(&self, head: VersionId, offset: u64, len: u64) -> Result<u64> {
        let mut state = self.state.lock();
        state.writable()?;
        let size = state.version(head)?.size;
        check_range(size, offset, len)?;
        Ok(size)
    }

    /// Writes less than a block of zeroes.
    async fn write_zeroes(&self, lane: usize, head: VersionId, from: u64, to: u64) -> Result<Lsn> {
        let blocks = to.div_ceil(BLOCK_SIZE) - from / BLOCK_SIZE;
        let mut buf = self.disk.alloc((blocks * BLOCK_SIZE) as usize);
        buf.fill(0);
        self.write(lane, head, from, (to - from) as usize, buf).await
    }
}

/// Zeroes what a part's buffer holds before and after its payload.
fn clear_outside(buf: &mut [u8], lba: u64, from: u64, to: u64) {
    let start = lba * BLOCK_SIZE;
    let (head, tail) = ((from - start) as usize, (to - start) as usize);
    buf[..head].fill(0);
    buf[tail..].fill(0);
}

/// Finds the blocks of zeroes, checksums the others, and drops the former from what will be written.
fn checksum<B: Buf>(head: VersionId, lba: u64, buf: B, expected: Vec<Expected>) -> Part<B> {
    let crcs: Vec<Option<u32>> = buf
        .chunks_exact(BLOCK_BYTES)
        .map(|block| (!is_zero(block)).then(|| crc32fast::hash(block)))
        .collect();
    let data_blocks = crcs.iter().flatten().count() as u32;
    let mut data = Vec::new();
    if data_blocks as usize == crcs.len() {
        data.push(buf);
    } else {
        let mut rest = buf;
        for group in crcs.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let tail = rest.split_off(group.len() * BLOCK_BYTES);
            let piece = std::mem::replace(&mut rest, tail);
            if group[0].is_some() {
                data.push(piece);
            }
        }
    }
    Part { head, lba, crcs, data, data_blocks, expected }
}

fn is_zero(block: &[u8]) -> bool {
    // Most data shows that it is none in its first bytes.
    block[..16] == [0; 16] && block.chunks_exact(16).all(|c| c == [0; 16])
}

struct Io<B> {
    offset: u64,
    blocks: u32,
    bufs: Vec<B>,
}

/// Turns the parts' data into as few I/Os as their places allow.
fn gather<B: Buf, T>(placed: &mut [(Part<B>, Vec<Run>, T)]) -> Vec<Io<B>> {
    let mut ios: Vec<Io<B>> = Vec::new();
    for (part, runs, _) in placed {
        let mut data = std::mem::take(&mut part.data).into_iter();
        let mut piece: Option<B> = None;
        for run in runs.iter() {
            let (mut at, end) = (run.start, run.start + u64::from(run.len));
            while at < end {
                let Some(mut buf) = piece.take().or_else(|| data.next()) else { break };
                let take = (end.0 - at.0).min(buf.len() as u64 / BLOCK_SIZE);
                let rest = buf.split_off((take * BLOCK_SIZE) as usize);
                if !rest.is_empty() {
                    piece = Some(rest);
                }
                match ios.last_mut() {
                    Some(io)
                        if io.offset + u64::from(io.blocks) * BLOCK_SIZE == at.offset()
                            && io.blocks < IO_BLOCKS =>
                    {
                        io.bufs.push(buf);
                        io.blocks += take as u32;
                    }
                    _ => ios.push(Io { offset: at.offset(), blocks: take as u32, bufs: vec![buf] }),
                }
                at = at + take;
            }
        }
    }
    ios
}

/// Gives back blocks that were allocated for a part that was not published.
pub(crate) fn abandon(state: &mut State, runs: &[Run]) -> Result<()> {
    state.space.end_flight(runs);
    if planted(Defect::AbandonedBlocksLeak) {
        return Ok(());
    }
    runs.iter().try_for_each(|run| state.space.release(*run))
}

/// The only record that publishing a part of whole blocks would append now; nothing where something would have to be awaited.
fn foresee<B>(state: &mut State, part: &Part<B>, runs: &[Run]) -> Option<Record> {
    let crcs: Vec<u32> = part.crcs.iter().copied().collect::<Option<_>>()?;
    if !part.expected.is_empty() || state.admit_growth(room_for(part)).is_err() {
        return None;
    }
    let epoch = state.versions.epoch;
    let (root, change) = state.change(part.head, part.lba, false).ok()?;
    let floor = change.floor;
    let mut replaced = Replaced::default();
    for lba in part.lba..part.lba + crcs.len() as u64 {
        replaced.note(visit(root, lba, |view| entry_in(&view, lba)).ok()?, floor);
    }
    let mut stored: Vec<Run> = Vec::new();
    blocks_of(runs).take(crcs.len()).for_each(|addr| push_block(&mut stored, addr));
    Some(replaced.by_data(part.head, part.lba, epoch, stored, crcs))
}

/// Bytes of records that publishing a part appends at most: per block its checksum, a run of its own, and a run that it
/// frees, besides a record's fixed fields.
fn room_for<B>(part: &Part<B>) -> usize {
    part.crcs.len() * 56 + 64
}

fn blocks_of(runs: &[Run]) -> impl Iterator<Item = BlockAddr> {
    runs.iter().flat_map(|run| (0..u64::from(run.len)).map(|i| run.start + i))
}

/// Makes a part visible: map, space and log change together.
pub(crate) fn publish<B>(state: &mut State, part: &Part<B>, runs: &[Run]) -> Result<Lsn, Blocked> {
    state.admit_growth(room_for(part))?;
    let version = state.version(part.head)?;
    check_range(
        version.size.next_multiple_of(BLOCK_SIZE),
        part.lba * BLOCK_SIZE,
        part.crcs.len() as u64 * BLOCK_SIZE,
    )?;
    if let Err(missing) = prepare(&mut version.root, part.lba) {
        return Err(state.missing(missing));
    }
    for expected in &part.expected {
        match visit(&mut version.root, expected.lba, |view| entry_in(&view, expected.lba)) {
            Ok(entry) if entry == expected.entry => {}
            Ok(_) if planted(Defect::PartsNotMerged) || planted(Defect::ChangedBlockMergedOver) => {}
            Ok(_) => return Err(Blocked::Conflict),
            Err(missing) => return Err(state.missing(missing)),
        }
    }
    let mut places = blocks_of(runs);
    let epoch = state.versions.epoch;
    let mut lba = part.lba;
    let mut lsn = state.lsn;
    for group in part.crcs.chunk_by(|a, b| a.is_some() == b.is_some()) {
        let mut replaced = Replaced::default();
        let (root, mut change) = state.change(part.head, lba, false)?;
        let floor = change.floor;
        let old = |entry: Entry| replaced.note(entry, floor);
        let count = group.len() as u64;
        let record = if group[0].is_some() {
            let crcs: Vec<u32> = group.iter().copied().flatten().collect();
            let mut stored: Vec<Run> = Vec::new();
            let entries: Vec<Entry> = crcs
                .iter()
                .zip(&mut places)
                .map(|(crc, addr)| {
                    push_block(&mut stored, addr);
                    Entry::data(addr, *crc, epoch)
                })
                .collect();
            if let Err(missing) = set_entries(root, lba, &entries, &mut change, old) {
                return Err(state.missing(missing));
            }
            state.settle(part.head, count as i64 - replaced.data, &replaced.freed)?;
            state.unflushed_bytes += count * BLOCK_SIZE;
            replaced.by_data(part.head, lba, epoch, stored, crcs)
        } else {
            if let Err(missing) = fill_step(root, lba, lba + count, true, &mut change, old) {
                return Err(state.missing(missing));
            }
            let Replaced { freed, data } = replaced;
            state.settle(part.head, -data, &freed)?;
            Record::Fill { head: part.head, lba, blocks: count, zero: true, mapped: -data, freed }
        };
        lsn = state.append(&record);
        lba += count;
    }
    state.space.end_flight(runs);
    Ok(lsn)
}

/// What a change of a head's map replaced.
#[derive(Default)]
struct Replaced {
    /// Blocks that were the head's alone.
    freed: Vec<Run>,
    /// Blocks of data, shared ones included.
    data: i64,
}

impl Replaced {
    /// The record of blocks of data that stand in `runs` instead.
    fn by_data(self, head: VersionId, lba: u64, epoch: Epoch, runs: Vec<Run>, crcs: Vec<u32>) -> Record {
        let mapped = crcs.len() as i64 - self.data;
        Record::Write { head, lba, epoch, runs, crcs, mapped, freed: self.freed }
    }

    /// Notes an entry that is gone; what was born after `floor` was the head's alone.
    fn note(&mut self, entry: Entry, floor: Epoch) {
        if entry.is_data() {
            self.data += 1;
            if entry.birth() > floor || planted(Defect::SharedBlocksFreed) {
                push_block(&mut self.freed, entry.block());
            }
        }
    }
}

/// Fills from block `at` towards `end` as far as one record should go; returns where it stopped.
fn fill_some(
    state: &mut State,
    head: VersionId,
    at: u64,
    end: u64,
    zero: bool,
) -> Result<(u64, Lsn), Blocked> {
    state.admit_growth(FILL_FREES * 7 + FANOUT * 7 + 64)?;
    let size = state.version(head)?.size;
    check_range(size.next_multiple_of(BLOCK_SIZE), at * BLOCK_SIZE, (end - at) * BLOCK_SIZE)?;
    let mut replaced = Replaced::default();
    let mut next = at;
    for _ in 0..FILL_STEPS {
        let (root, mut change) = state.change(head, next, false)?;
        let floor = change.floor;
        match fill_step(root, next, end, zero, &mut change, |entry| replaced.note(entry, floor)) {
            Ok(until) => next = until,
            Err(missing) if next == at => return Err(state.missing(missing)),
            // What was done so far gets its record; the node is read for the next.
            Err(_) => break,
        }
        if next == end || replaced.freed.len() >= FILL_FREES {
            break;
        }
    }
    let Replaced { mut freed, data } = replaced;
    if planted(Defect::TrimLeaks) {
        freed.clear();
    }
    state.settle(head, -data, &freed)?;
    if planted(Defect::TrimNotLogged) {
        return Ok((next, state.lsn));
    }
    let lsn = state.append(&Record::Fill { head, lba: at, blocks: next - at, zero, mapped: -data, freed });
    Ok((next, lsn))
}
