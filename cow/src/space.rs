//! Which blocks are free: one bit a block, segments that lanes fill one after the other, and limbo.
//!
//! **Invariant:** a bit is set from the moment a block is handed out until it may be handed out again. What a
//! checkpoint must store is less: without blocks in flight (allocated, no record yet) and without those in limbo
//! (freed by a record, not yet reusable); [`Space::freeze`] gives both lists.
//!
//! A freed block is reusable once the batch that freed it is confirmed on disk, so that no replay needs it, and
//! every read that began before has ended, so that nobody is served another's bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::cache::BlockCache;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Geometry, SEGMENT_HEADER_BLOCKS};
use crate::types::{BatchSeq, BlockAddr};

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
            let Some((index, len)) = first_free_run(&self.segments[segment].bits, from, missing) else {
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
        for i in index..index + len {
            bits[i as usize / 64] |= 1 << (i % 64);
        }
        segment.free -= len;
        self.free -= u64::from(len);
    }

    /// Calls `f` with the segment and index of every block of `run`; an error when one lies outside.
    fn each_block(&self, run: Run, mut f: impl FnMut(usize, u32) -> Result<()>) -> Result<()> {
        for i in 0..u64::from(run.len) {
            let addr = run.start + i;
            let Some((segment, index)) = self.geometry.locate(addr, self.segments.len()) else {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("block {addr} lies outside the pool's segments"),
                ));
            };
            f(segment, index)?;
        }
        Ok(())
    }

    /// Marks blocks used that replay finds allocated.
    pub(crate) fn claim(&mut self, run: Run) -> Result<()> {
        self.each_block(run, |segment, index| {
            if is_set(&self.segments[segment].bits, index) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the journal allocates block {} twice",
                        self.geometry.segment_start(segment) + u64::from(index)
                    ),
                ));
            }
            Ok(())
        })?;
        let (segment, index) = self.geometry.locate(run.start, self.segments.len()).expect("checked above");
        self.set_bits(segment, index, run.len);
        Ok(())
    }

    /// Gives blocks back at once: nothing refers to them and nobody reads them.
    pub(crate) fn release(&mut self, run: Run) -> Result<()> {
        let mut places = Vec::with_capacity(run.len as usize);
        self.each_block(run, |segment, index| {
            if !is_set(&self.segments[segment].bits, index) {
                let addr = self.geometry.segment_start(segment) + u64::from(index);
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("block {addr} is freed but was not in use"),
                ));
            }
            places.push((segment, index));
            Ok(())
        })?;
        for (segment, index) in places {
            let segment = &mut self.segments[segment];
            Arc::make_mut(&mut segment.bits)[index as usize / 64] &= !(1 << (index % 64));
            segment.free += 1;
            self.free += 1;
        }
        Ok(())
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
    pub(crate) fn retire(&mut self, runs: Vec<Run>) {
        if runs.is_empty() {
            return;
        }
        self.limbo_blocks += runs.iter().map(|r| u64::from(r.len)).sum::<u64>();
        let generation = std::mem::replace(&mut self.generation, Arc::new(()));
        self.limbo.push_back(Bag { seq: BatchSeq(0), generation, runs });
    }

    /// Makes reusable what waits for no batch past `confirmed` and for no reader.
    pub(crate) fn reclaim(&mut self, confirmed: BatchSeq) -> Result<()> {
        while let Some(bag) = self.limbo.front_mut() {
            if bag.seq > confirmed || Arc::get_mut(&mut bag.generation).is_none() {
                break;
            }
            let bag = self.limbo.pop_front().expect("it is there");
            for run in bag.runs {
                self.limbo_blocks -= u64::from(run.len);
                if let Some(cache) = &self.cache {
                    (0..u64::from(run.len)).for_each(|i| cache.forget(run.start + i));
                }
                self.release(run)?;
            }
        }
        Ok(())
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

/// The first run of clear bits at or after `from`, cut to `max`.
fn first_free_run(bits: &[u64], from: u32, max: u32) -> Option<(u32, u32)> {
    let total = bits.len() as u32 * 64;
    let start = next_bit(bits, from, total, false)?;
    let end =
        next_bit(bits, start, total.min(start.saturating_add(max)), true).unwrap_or(total.min(start + max));
    Some((start, end - start))
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
        assert_eq!(first_free_run(&bits, 0, 100), Some((62, 3)));
        assert_eq!(first_free_run(&bits, 63, 1), Some((63, 1)));
        assert_eq!(first_free_run(&bits, 65, 100), None);
    }
}
