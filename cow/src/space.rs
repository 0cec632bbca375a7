//! Which blocks are free: one bit a block, segments that lanes fill one after the other, and limbo.
//!
//! **Invariant:** a bit is set from the moment a block is handed out until it may be handed out again. What a
//! checkpoint must store is less: without blocks in flight (allocated, no record yet) and without those in limbo
//! (freed by a record, not yet reusable); [`Space::freeze`] gives both lists.
//!
//! A freed block is reusable once the batch that freed it is confirmed on disk, so that no replay needs it, and
//! every read that began before has ended, so that nobody is served another's bytes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::cache::BlockCache;
use crate::defect::{Defect, planted};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Geometry, SEGMENT_HEADER_BLOCKS};
use crate::types::{BatchSeq, BlockAddr};

/// Blocks that one call takes back at most, in large segments: it holds the pool's lock for some tens of microseconds.
const RECLAIM_BLOCKS: u32 = 2048;

/// Consecutive blocks of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) start: BlockAddr,
    pub(crate) len: u32,
}

/// Adds a block to a list of runs, lengthening the last one where it continues it.
pub(crate) fn push_block(runs: &mut Vec<Run>, addr: BlockAddr) {
    push_run(runs, Run { start: addr, len: 1 });
}

/// Adds a run to a list, lengthening the last one where it continues it.
pub(crate) fn push_run(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last)
            if last.start + u64::from(last.len) == run.start && last.len <= u32::from(u16::MAX) - run.len =>
        {
            last.len += run.len;
        }
        _ => runs.push(run),
    }
}

/// A segment's bits; set means used.
pub(crate) type Bits = Box<[u64]>;

/// Holds back the reuse of every block that was freed after it was taken.
#[derive(Clone)]
#[must_use = "blocks may be reused as soon as the guard is dropped"]
pub(crate) struct ReadGuard {
    _generation: Arc<()>,
}

struct Segment {
    bits: Arc<Bits>,
    free: u32,
    /// What the newest durable checkpoint holds, and in which of the segment's two slots.
    stored: Arc<Bits>,
    slot: u8,
    crc: u32,
}

/// Freed blocks that wait.
struct Bag {
    /// Reusable once this batch is confirmed ...
    seq: BatchSeq,
    /// ... and nobody but the bag holds this.
    generation: Arc<()>,
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Default)]
struct Lane {
    segment: Option<usize>,
    next: u32,
}

/// The state of one segment's space map on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StoredSlot {
    pub(crate) slot: u8,
    pub(crate) crc: u32,
}

impl StoredSlot {
    /// The slot that is not in use, for the next checkpoint's map.
    pub(crate) fn other(self) -> StoredSlot {
        StoredSlot { slot: 1 - self.slot, crc: 0 }
    }
}

/// A segment's part of a checkpoint in the making.
pub(crate) struct FrozenSegment {
    pub(crate) bits: Arc<Bits>,
    pub(crate) stored: Arc<Bits>,
    pub(crate) place: StoredSlot,
}

/// The space map at one point of the log; `without` lists the blocks whose bits are set but must not be stored.
pub(crate) struct FrozenSpace {
    pub(crate) segments: Vec<FrozenSegment>,
    pub(crate) without: Vec<Run>,
}

/// See the module's description.
pub(crate) struct Space {
    geometry: Geometry,
    segments: Vec<Segment>,
    free: u64,
    lanes: Vec<Lane>,
    in_flight: BTreeMap<BlockAddr, u32>,
    limbo: VecDeque<Bag>,
    limbo_blocks: u64,
    freed_now: Vec<Run>,
    generation: Arc<()>,
    /// Told of blocks before they may be reused.
    cache: Option<Arc<BlockCache>>,
    /// What is freed may not have been in use: the map was damaged, and is to be made anew.
    lenient: bool,
}

impl Space {
    /// An empty map; `lanes` allocate without mixing their runs, one more is kept for metadata.
    pub(crate) fn new(geometry: Geometry, lanes: usize) -> Space {
        Space {
            geometry,
            segments: Vec::new(),
            free: 0,
            lanes: vec![Lane::default(); lanes + 1],
            in_flight: BTreeMap::new(),
            limbo: VecDeque::new(),
            limbo_blocks: 0,
            freed_now: Vec::new(),
            generation: Arc::new(()),
            cache: None,
            lenient: false,
        }
    }

    /// From now on, `cache` forgets blocks before they are handed out again.
    pub(crate) fn tell_of_reuse(&mut self, cache: Option<Arc<BlockCache>>) {
        self.cache = cache;
    }

    /// The lane for map nodes and the catalog.
    pub(crate) fn metadata_lane(&self) -> usize {
        self.lanes.len() - 1
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Blocks that segments can hand out in all.
    pub(crate) fn capacity(&self) -> u64 {
        self.segments.len() as u64 * (u64::from(self.geometry.segment_blocks) - SEGMENT_HEADER_BLOCKS)
    }

    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    pub(crate) fn limbo_blocks(&self) -> u64 {
        self.limbo_blocks
    }

    /// The bits of a segment that holds nothing but its own two blocks.
    pub(crate) fn fresh_bits(geometry: &Geometry) -> Bits {
        let mut bits = vec![0; geometry.segment_blocks as usize / 64].into_boxed_slice();
        bits[0] = (1 << SEGMENT_HEADER_BLOCKS) - 1;
        bits
    }

    /// Adds segments without contents at the end.
    pub(crate) fn add_segments(&mut self, count: usize) {
        for _ in 0..count {
            let bits = Arc::new(Space::fresh_bits(&self.geometry));
            let free = self.geometry.segment_blocks - SEGMENT_HEADER_BLOCKS as u32;
            self.free += u64::from(free);
            self.segments.push(Segment { stored: Arc::clone(&bits), bits, free, slot: 0, crc: 0 });
        }
    }

    /// Adds a segment as a checkpoint stored it.
    pub(crate) fn load_segment(&mut self, bits: Bits, place: StoredSlot) -> Result<()> {
        let used: u32 = bits.iter().map(|w| w.count_ones()).sum();
        let header = (1u64 << SEGMENT_HEADER_BLOCKS) - 1;
        if bits.len() != self.geometry.segment_blocks as usize / 64 || bits[0] & header != header {
            return Err(Error::new(ErrorKind::Corrupt, "a space map block has the wrong shape"));
        }
        let bits = Arc::new(bits);
        let free = self.geometry.segment_blocks - used;
        self.free += u64::from(free);
        self.segments.push(Segment {
            stored: Arc::clone(&bits),
            bits,
            free,
            slot: place.slot,
            crc: place.crc,
        });
        Ok(())
    }

    /// Hands out `want` blocks in as few runs as the lane's segments allow, or nothing when fewer are free.
    pub(crate) fn allocate(&mut self, lane: usize, want: u32) -> Option<Vec<Run>> {
        if u64::from(want) > self.free {
            return None;
        }
        let mut runs = Vec::new();
        let mut missing = want;
        while missing > 0 {
            let Some(segment) = self.lanes[lane].segment.filter(|s| self.segments[*s].free > 0) else {
                self.lanes[lane] = Lane { segment: Some(self.choose_segment(lane)?), next: 0 };
                continue;
            };
            let from = self.lanes[lane].next;
            let Some((index, len)) =
                first_free_run(&self.segments[segment].bits, from..self.geometry.segment_blocks, missing)
            else {
                self.lanes[lane] = Lane { segment: Some(self.choose_segment(lane)?), next: 0 };
                continue;
            };
            let start = self.geometry.segment_start(segment) + u64::from(index);
            self.set_bits(segment, index, len);
            self.lanes[lane].next = index + len;
            runs.push(Run { start, len });
            missing -= len;
        }
        Some(runs)
    }

    /// Hands out the first run of at most `most` free blocks that lies in `blocks`, if there is any.
    pub(crate) fn take_free(&mut self, blocks: &Range<BlockAddr>, most: u32) -> Option<Run> {
        let (first, size) = (self.geometry.segment_start(0), u64::from(self.geometry.segment_blocks));
        let past = |addr: BlockAddr| addr.0.saturating_sub(first.0);
        let end = past(blocks.end).min(self.segments.len() as u64 * size);
        let mut at = past(blocks.start);
        while at < end {
            let (segment, index) = ((at / size) as usize, (at % size) as u32);
            let start = segment as u64 * size;
            let until = (end - start).min(size) as u32;
            let bits = &self.segments[segment].bits;
            if let Some((free, len)) = first_free_run(bits, index..until, most) {
                self.set_bits(segment, free, len);
                return Some(Run { start: first + start + u64::from(free), len });
            }
            at = start + size;
        }
        None
    }

    /// Where lanes for data will take blocks, beyond the next `lead`, up to `reach` further: in their segments, and where
    /// these end in those that they would choose.
    pub(crate) fn ahead_of_lanes(&self, lead: u32, reach: u32) -> Vec<Range<BlockAddr>> {
        let mut ahead = Vec::new();
        for lane in 0..self.metadata_lane() {
            let Lane { segment: Some(segment), next } = self.lanes[lane] else { continue };
            let mut add = |segment: usize, from: u32, to: u32| {
                let start = self.geometry.segment_start(segment);
                ahead.push(start + u64::from(from)..start + u64::from(to.min(self.geometry.segment_blocks)));
            };
            let (from, to) = (next + lead, next + lead + reach);
            let end = self.geometry.segment_blocks;
            if from < end {
                add(segment, from, to);
            }
            if to > end
                && let Some(following) = self.choose_segment(lane).filter(|following| *following != segment)
            {
                add(following, from.saturating_sub(end), to - end);
            }
        }
        ahead
    }

    /// The segment with the most room that no other lane is filling; any with room when all are taken.
    fn choose_segment(&self, lane: usize) -> Option<usize> {
        let taken = |segment: usize| {
            self.lanes.iter().enumerate().any(|(i, l)| i != lane && l.segment == Some(segment))
        };
        let emptiest = |free_of: &dyn Fn(usize) -> bool| {
            (0..self.segments.len())
                .filter(|s| self.segments[*s].free > 0 && free_of(*s))
                .max_by_key(|s| (self.segments[*s].free, std::cmp::Reverse(*s)))
        };
        emptiest(&|s| !taken(s)).or_else(|| emptiest(&|_| true))
    }

    /// Whether a lane that needs its next segment would find only well-used ones, so that its writes would leave in
    /// many small pieces.
    pub(crate) fn is_in_pieces(&self) -> bool {
        let usable = self.geometry.segment_blocks - SEGMENT_HEADER_BLOCKS as u32;
        let taken = |segment: usize| self.lanes.iter().any(|lane| lane.segment == Some(segment));
        !self.segments.iter().enumerate().any(|(i, s)| s.free >= usable / 4 * 3 && !taken(i))
    }

    fn set_bits(&mut self, segment: usize, index: u32, len: u32) {
        let segment = &mut self.segments[segment];
        let bits = Arc::make_mut(&mut segment.bits);
        mark(bits, index, len, true);
        segment.free -= len;
        self.free -= u64::from(len);
    }

    /// The segment that a run lies in and the index of its first block there; an error when there is none. No run goes
    /// over a segment's end: the next begins with blocks of its own.
    fn place(&self, run: Run) -> Result<(usize, u32)> {
        let place = self.geometry.locate(run.start, self.segments.len());
        place.filter(|(_, index)| run.len <= self.geometry.segment_blocks - index).ok_or_else(|| {
            let Run { start, len } = run;
            let why = format!("of the {len} blocks from {start} on, some lie outside the pool's segments");
            Error::new(ErrorKind::Corrupt, why)
        })
    }

    /// The first block of a run, whose place is given, that is in use or is not.
    fn find(&self, (segment, index): (usize, u32), len: u32, used: bool) -> Option<BlockAddr> {
        let found = next_bit(&self.segments[segment].bits, index, index + len, used)?;
        Some(self.geometry.segment_start(segment) + u64::from(found))
    }

    /// Marks blocks used that replay finds allocated.
    pub(crate) fn claim(&mut self, run: Run) -> Result<()> {
        let place = self.place(run)?;
        if let Some(addr) = self.find(place, run.len, true) {
            let why = format!("the journal allocates block {addr} twice");
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        self.set_bits(place.0, place.1, run.len);
        Ok(())
    }

    /// Gives blocks back at once: nothing refers to them and nobody reads them.
    pub(crate) fn release(&mut self, run: Run) -> Result<()> {
        let place = self.place(run)?;
        if let Some(addr) = self.find(place, run.len, false) {
            if self.lenient {
                return Ok(());
            }
            return Err(Error::new(ErrorKind::Corrupt, format!("block {addr} is freed but was not in use")));
        }
        let (segment, index) = place;
        let segment = &mut self.segments[segment];
        let bits = Arc::make_mut(&mut segment.bits);
        mark(bits, index, run.len, false);
        segment.free += run.len;
        self.free += u64::from(run.len);
        Ok(())
    }

    /// A repair begins, which ends with [`Space::rebuild`].
    pub(crate) fn be_lenient(&mut self) {
        self.lenient = true;
    }

    /// Marks as used what `referenced` has, by segment. Returns how many blocks were free before.
    pub(crate) fn protect(&mut self, referenced: &[Vec<u64>]) -> u64 {
        let mut taken = 0;
        for (segment, referenced) in self.segments.iter_mut().zip(referenced) {
            let bits = Arc::make_mut(&mut segment.bits);
            for (word, referenced) in bits.iter_mut().zip(referenced) {
                let fresh = (referenced & !*word).count_ones();
                *word |= referenced;
                segment.free -= fresh;
                taken += u64::from(fresh);
            }
        }
        self.free -= taken;
        taken
    }

    /// From now on exactly what `referenced` has is in use: nobody reads or writes, and no block waits for anything.
    pub(crate) fn rebuild(&mut self, referenced: &[Vec<u64>]) {
        self.limbo.clear();
        self.freed_now.clear();
        self.limbo_blocks = 0;
        self.lenient = false;
        self.free = 0;
        let fresh = Space::fresh_bits(&self.geometry);
        for (segment, referenced) in self.segments.iter_mut().zip(referenced) {
            let bits: Bits = fresh.iter().zip(referenced).map(|(own, others)| own | others).collect();
            let used: u32 = bits.iter().map(|word| word.count_ones()).sum();
            segment.free = self.geometry.segment_blocks - used;
            self.free += u64::from(segment.free);
            if *segment.bits != bits {
                segment.bits = Arc::new(bits);
            }
        }
    }

    /// Notes that blocks are allocated for an I/O whose record is not written yet.
    pub(crate) fn begin_flight(&mut self, runs: &[Run]) {
        for run in runs {
            self.in_flight.insert(run.start, run.len);
        }
    }

    /// The record for these blocks is in the log, or they are about to be given back.
    pub(crate) fn end_flight(&mut self, runs: &[Run]) {
        for run in runs {
            let was = self.in_flight.remove(&run.start);
            debug_assert_eq!(was, Some(run.len));
        }
    }

    /// The record now being appended frees these blocks.
    pub(crate) fn free_later(&mut self, run: Run) {
        if planted(Defect::FreedAtOnce) && self.release(run).is_ok() {
            return;
        }
        self.limbo_blocks += u64::from(run.len);
        push_run(&mut self.freed_now, run);
    }

    /// The batch that holds every record so far is sealed.
    pub(crate) fn seal_limbo(&mut self, seq: BatchSeq) {
        if self.freed_now.is_empty() {
            return;
        }
        let generation = std::mem::replace(&mut self.generation, Arc::new(()));
        self.limbo.push_back(Bag { seq, generation, runs: std::mem::take(&mut self.freed_now) });
    }

    /// Blocks that a checkpoint replaced; its superblock is durable, so only readers can still hold them back.
    pub(crate) fn retire(&mut self, mut runs: Vec<Run>) {
        if planted(Defect::ReplacedFreedUnderReaders) {
            runs.retain(|run| self.release(*run).is_err());
        }
        if runs.is_empty() {
            return;
        }
        self.limbo_blocks += runs.iter().map(|r| u64::from(r.len)).sum::<u64>();
        let generation = std::mem::replace(&mut self.generation, Arc::new(()));
        self.limbo.push_back(Bag { seq: BatchSeq(0), generation, runs });
    }

    /// Makes reusable what waits for no batch past `confirmed` and for no reader: up to [`RECLAIM_BLOCKS`] or an eighth of a
    /// segment.
    /// Returns whether there is more.
    pub(crate) fn reclaim(&mut self, confirmed: BatchSeq) -> Result<bool> {
        let mut room = RECLAIM_BLOCKS.min(self.geometry.segment_blocks / 8);
        while let Some(bag) = self.limbo.front_mut() {
            let durable = bag.seq <= confirmed || planted(Defect::FreedBeforeDurable);
            let unread = Arc::get_mut(&mut bag.generation).is_some() || planted(Defect::FreedUnderReaders);
            if !durable || !unread {
                return Ok(false);
            }
            let Some(run) = bag.runs.last_mut() else {
                self.limbo.pop_front();
                continue;
            };
            if room == 0 {
                return Ok(true);
            }
            // From the end, so that the rest stays where it is.
            let len = run.len.min(room);
            run.len -= len;
            let part = Run { start: run.start + u64::from(run.len), len };
            if run.len == 0 {
                bag.runs.pop();
            }
            room -= len;
            self.limbo_blocks -= u64::from(len);
            if let Some(cache) = &self.cache
                && !planted(Defect::CacheNotToldOfReuse)
            {
                cache.forget_run(part.start, len as usize);
            }
            self.release(part)?;
        }
        Ok(false)
    }

    /// Whether [`Space::reclaim`] would find anything.
    pub(crate) fn can_reclaim(&self, confirmed: BatchSeq) -> bool {
        self.limbo.front().is_some_and(|bag| bag.seq <= confirmed && Arc::strong_count(&bag.generation) == 1)
    }

    /// See [`ReadGuard`].
    pub(crate) fn reader(&self) -> ReadGuard {
        ReadGuard { _generation: Arc::clone(&self.generation) }
    }

    /// The map as of now, cheaply: bits are shared and copied only when they change.
    pub(crate) fn freeze(&self) -> FrozenSpace {
        let segments = self
            .segments
            .iter()
            .map(|s| FrozenSegment {
                bits: Arc::clone(&s.bits),
                stored: Arc::clone(&s.stored),
                place: StoredSlot { slot: s.slot, crc: s.crc },
            })
            .collect();
        let mut without: Vec<Run> =
            self.in_flight.iter().map(|(start, len)| Run { start: *start, len: *len }).collect();
        if planted(Defect::FlightsStoredAsUsed) {
            without.clear();
        }
        if planted(Defect::LimboStoredAsUsed) {
            return FrozenSpace { segments, without };
        }
        without.extend(self.limbo.iter().flat_map(|bag| bag.runs.iter().copied()));
        without.extend(self.freed_now.iter().copied());
        FrozenSpace { segments, without }
    }

    /// A checkpoint is durable: this is what it holds of each segment.
    pub(crate) fn stored(&mut self, segments: Vec<(Arc<Bits>, StoredSlot)>) {
        for (segment, (bits, place)) in self.segments.iter_mut().zip(segments) {
            segment.stored = bits;
            segment.slot = place.slot;
            segment.crc = place.crc;
        }
    }
}

pub(crate) fn is_set(bits: &[u64], index: u32) -> bool {
    bits[index as usize / 64] >> (index % 64) & 1 == 1
}

/// Sets bits `index..index + len`, or clears them.
pub(crate) fn mark(bits: &mut [u64], index: u32, len: u32, used: bool) {
    let end = index + len;
    let mut at = index;
    while at < end {
        let until = end.min((at / 64 + 1) * 64);
        let mask = u64::MAX >> (64 - (until - at)) << (at % 64);
        let word = &mut bits[at as usize / 64];
        *word = if used { *word | mask } else { *word & !mask };
        at = until;
    }
}

/// The first run of clear bits in `within`, cut to `max`.
fn first_free_run(bits: &[u64], within: Range<u32>, max: u32) -> Option<(u32, u32)> {
    let start = next_bit(bits, within.start, within.end, false)?;
    let end = within.end.min(start.saturating_add(max));
    Some((start, next_bit(bits, start, end, true).unwrap_or(end) - start))
}

/// The first bit with this value in `from..to`.
fn next_bit(bits: &[u64], from: u32, to: u32, value: bool) -> Option<u32> {
    let mut at = from;
    while at < to {
        let word = if value { bits[at as usize / 64] } else { !bits[at as usize / 64] };
        let rest = word >> (at % 64);
        if rest != 0 {
            let found = at + rest.trailing_zeros();
            return (found < to).then_some(found);
        }
        at = (at / 64 + 1) * 64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(segments: usize) -> Space {
        let mut s = Space::new(Geometry { segment_blocks: 128, journal_blocks: 16 }, 2);
        s.add_segments(segments);
        s
    }

    #[test]
    fn lanes_keep_their_runs_contiguous() {
        let mut s = space(4);
        let a = s.allocate(0, 10).unwrap();
        let b = s.allocate(1, 10).unwrap();
        let c = s.allocate(0, 10).unwrap();
        assert_eq!(a.len(), 1);
        assert_eq!(c[0].start, a[0].start + 10);
        assert!(b[0].start >= a[0].start + 126, "another segment");
    }

    #[test]
    fn everything_can_be_handed_out_and_given_back_once() {
        let mut s = space(3);
        let total = s.free();
        assert_eq!(total, 3 * 126);
        let runs = s.allocate(0, total as u32).unwrap();
        assert_eq!(s.free(), 0);
        assert!(s.allocate(0, 1).is_none());
        for run in &runs {
            s.release(*run).unwrap();
        }
        assert_eq!(s.free(), total);
        assert!(s.release(runs[0]).is_err(), "freed twice");
        assert!(s.claim(Run { start: BlockAddr(1), len: 1 }).is_err(), "outside");
        let over_the_end = Run { start: runs[0].start, len: 127 };
        assert!(s.claim(over_the_end).is_err(), "the next segment's own blocks");
        assert_eq!(s.free(), total, "what fails changes nothing");
    }

    #[test]
    fn any_part_of_a_run_can_be_given_back_and_claimed() {
        for (from, len) in [(0, 1), (61, 1), (61, 2), (62, 64), (1, 125), (0, 126), (30, 3)] {
            let mut s = space(1);
            let whole = s.allocate(0, 126).unwrap()[0];
            let part = Run { start: whole.start + from, len };
            s.release(part).unwrap();
            assert_eq!(s.free(), u64::from(len));
            let taken =
                |s: &Space| -> Vec<bool> { (0..126).map(|i| is_set(&s.segments[0].bits, 2 + i)).collect() };
            let inside = |i: u64| (from..from + u64::from(len)).contains(&i);
            assert!(taken(&s).into_iter().zip(0..).all(|(used, i)| used != inside(i)), "{part:?}");
            assert!(s.release(whole).is_err(), "a part of it is free");
            s.claim(part).unwrap();
            assert!(taken(&s).into_iter().all(|used| used) && s.free() == 0, "{part:?}");
        }
    }

    /// Deleting a volume of 16 GiB kept the pool's lock for a tenth of a second.
    #[test]
    fn one_call_takes_back_a_bounded_number_of_blocks() {
        let mut s = Space::new(Geometry { segment_blocks: 4096, journal_blocks: 16 }, 1);
        s.add_segments(3);
        let cache = BlockCache::new(64 << 20);
        s.tell_of_reuse(cache.clone());
        let (cache, total) = (cache.unwrap(), s.free());
        let runs = s.allocate(0, 10_000).unwrap();
        let (first, last) = (runs[0].start, runs[2].start + u64::from(runs[2].len - 1));
        let memory = |len: usize| -> crate::cache::Memory { Box::new(vec![0; len]) };
        let mut out = [0; crate::types::BLOCK_BYTES];
        for addr in [first, last] {
            cache.add(addr, &out, memory);
            assert!(cache.get(addr, &mut out));
        }
        // Two bags, the first in long runs and the second in runs of one block.
        runs[..2].iter().for_each(|run| s.free_later(*run));
        s.seal_limbo(BatchSeq(1));
        let singles = (0..u64::from(runs[2].len)).map(|i| Run { start: runs[2].start + i, len: 1 });
        s.retire(singles.collect());
        let mut calls = 0;
        loop {
            let before = s.free();
            let more = s.reclaim(BatchSeq(1)).unwrap();
            calls += 1;
            assert!(s.free() - before <= 512);
            assert_eq!(s.limbo_blocks(), total - s.free());
            assert_eq!(s.freeze().without.iter().map(|r| u64::from(r.len)).sum::<u64>(), s.limbo_blocks());
            assert_eq!(more, s.can_reclaim(BatchSeq(1)));
            if !more {
                break;
            }
        }
        assert_eq!((s.free(), calls), (total, 10_000_u32.div_ceil(512)));
        assert!([first, last].into_iter().all(|addr| !cache.get(addr, &mut out)), "before it is reused");
    }

    #[test]
    fn limbo_waits_for_its_batch_and_for_older_readers() {
        let mut s = space(1);
        let run = s.allocate(0, 5).unwrap()[0];
        let before = s.free();
        let reader = s.reader();
        s.free_later(run);
        s.seal_limbo(BatchSeq(4));
        s.reclaim(BatchSeq(3)).unwrap();
        assert_eq!(s.free(), before, "not confirmed");
        s.reclaim(BatchSeq(4)).unwrap();
        assert_eq!(s.free(), before, "still read");
        let later = s.reader();
        drop(reader);
        s.reclaim(BatchSeq(4)).unwrap();
        assert_eq!(s.free(), before + 5, "a reader that began later does not matter");
        drop(later);
    }

    #[test]
    fn what_a_checkpoint_stores_leaves_out_flight_and_limbo() {
        let mut s = space(1);
        let flying = s.allocate(0, 3).unwrap();
        s.begin_flight(&flying);
        let freed = s.allocate(0, 2).unwrap()[0];
        s.free_later(freed);
        let frozen = s.freeze();
        assert_eq!(frozen.without, vec![flying[0], freed]);
        s.end_flight(&flying);
        assert_eq!(s.freeze().without, vec![freed]);
    }

    #[test]
    fn runs_are_found_across_words_and_cut_at_used_blocks() {
        let mut bits = vec![u64::MAX; 4];
        bits[0] = !(0b11 << 62);
        bits[1] = !0b1;
        assert_eq!(first_free_run(&bits, 0..256, 100), Some((62, 3)));
        assert_eq!(first_free_run(&bits, 63..256, 1), Some((63, 1)));
        assert_eq!(first_free_run(&bits, 65..256, 100), None);
    }
}
