//! The log's shadow: what of it is in memory only, kept in memory that outlives the process.
//!
//! A write is answered when its record is in the log, before any flush. Should the process die then, a client that
//! connects again (the kernel's, QEMU) believes that the write happened, and its next flush would
//! confirm what is gone. So each record is also copied to where the next process finds it, and the next [`Pool::open`]
//! goes on from there. It costs a copy of some 70 bytes; a power loss takes it away, as it takes a disk's volatile cache.
//!
//! ```text
//! 0      two copies of the header, at 0 and 2048; the one with the higher count is valid
//! 4096   slot 0: the records of the batches with even numbers
//! ...    slot 1: of those with odd numbers
//! ```
//!
//! One batch at most is sealed and not yet durable ([`crate::commit`]), so two slots hold all that a death could lose: the
//! batch under way and the log behind it. `docs/FORMAT.md` has the bytes.
//!
//! **After a failed barrier** the disk may still give back what the barrier covered, and lose it with the power. Nothing on
//! disk tells such a batch from a durable one, so the header does: it names the newest durable batch, and says when a
//! barrier has failed. The next [`Pool::open`] then ends the log there, and takes nothing of the records here. While a
//! pool is opened the memory stays as it is ([`Shadow::examine`] to [`Shadow::begin`]), but for that.
//!
//! **What makes it safe to believe**, since another process may have opened the pool meanwhile without this memory:
//! the pool's id; the generation of its superblock and where the journal begins; the number of the batch, which follows the last one in the journal;
//! the number of its first record; and the CRC of the batch before it, where the journal still has that. What its writes
//! point to is verified as after a power loss. A record that was copied only in part fails its CRC, and ends its slot.

use std::ops::Range;

use crate::codec::{Reader, Writer};
use crate::defect::{Defect, planted};
use crate::disk::Survivor;
use crate::format::{Geometry, PoolId};
use crate::record::Record;
use crate::types::{BLOCK_BYTES, BatchSeq, Lsn};

const MAGIC: [u8; 8] = *b"CAIRNSHD";
const VERSION: u32 = 2;
/// The version whose header says nothing of barriers; what follows the header is the same.
const WITHOUT_BARRIERS: u32 = 1;
/// Where the second copy of the header stands.
const SECOND_COPY: usize = 2048;
const OLD_HEADER_BYTES: usize = 8 + 4 + 16 + 8 + 8 + 8 + 8 + 4;
const HEADER_BYTES: usize = OLD_HEADER_BYTES + 4 + 8 + 8 + 4;
/// No header was ever written so often; one that says so leaves none to count on with.
const MOST_COUNT: u64 = 1 << 62;
/// Stands for the newest durable batch where that is not known.
const EVERY_BATCH: BatchSeq = BatchSeq(u64::MAX);
const SLOTS_START: usize = BLOCK_BYTES;
const SLOT_HEADER_BYTES: usize = 8 + 8 + 4 + 4;
/// What stands before each record: its length and a CRC.
const FRAME_BYTES: usize = 8;
/// The least room of a slot: more than the longest step under the lock appends.
const LEAST_SLOT_BYTES: usize = 1 << 20;
/// The most: beyond it writers wait for the commit under way.
const MOST_SLOT_BYTES: usize = 2 << 20;

/// The CRC of a batch's records begins with this, so that equal records in different batches differ.
fn seed(pool: &PoolId, seq: BatchSeq) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(pool);
    hasher.update(&seq.0.to_le_bytes());
    hasher.finalize()
}

fn extend(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// What ties a batch to the one before it.
pub(crate) fn batch_crc(pool: &PoolId, seq: BatchSeq, records: &[u8]) -> u32 {
    extend(seed(pool, seq), records)
}

fn slot_bytes(geometry: Geometry) -> usize {
    // The frames make a batch of short records longer by less than half.
    let batch = geometry.journal_blocks as usize / 16 * BLOCK_BYTES;
    (batch / 2 * 3).clamp(LEAST_SLOT_BYTES, MOST_SLOT_BYTES)
}

/// Bytes of memory that a pool's shadow takes.
pub(crate) fn shadow_bytes(geometry: Geometry) -> usize {
    SLOTS_START + 2 * slot_bytes(geometry)
}

/// What an earlier process left of the pool.
pub(crate) enum Left {
    /// What follows the journal's end, in the order of the log: at most two batches.
    Records(Vec<Leftover>),
    /// A barrier failed for it. The log ends with batch `durable`, whatever the journal holds.
    Failed { durable: BatchSeq },
}

/// Records of one batch that no journal holds.
pub(crate) struct Leftover {
    pub(crate) seq: BatchSeq,
    pub(crate) first_lsn: Lsn,
    /// [`batch_crc`] of the batch before.
    before: u32,
    /// ... and of this one.
    crc: u32,
    /// Each with its bytes as the log has them.
    pub(crate) records: Vec<(Record, Vec<u8>)>,
}

/// What the journal's end looks like to whoever asks whether a shadow goes on from there.
pub(crate) struct JournalEnd {
    /// The superblock's.
    pub(crate) generation: u64,
    /// The batch that it begins with, there or not.
    pub(crate) start: BatchSeq,
    /// The last batch, or the one before the first.
    pub(crate) seq: BatchSeq,
    /// The number of the next record.
    pub(crate) lsn: Lsn,
    /// [`batch_crc`] of batch `seq`, where the journal still has it.
    pub(crate) crc: Option<u32>,
    /// The newest batch that the journal itself says is durable: one before its last.
    pub(crate) confirmed: BatchSeq,
}

fn slot_start(geometry: Geometry, seq: BatchSeq) -> usize {
    SLOTS_START + (seq.0 % 2) as usize * slot_bytes(geometry)
}

/// The records in the slot of batch `seq`, if it is that batch's. No more of it is loaded than it uses.
fn slot(memory: &dyn Survivor, pool: &PoolId, geometry: Geometry, seq: BatchSeq) -> Option<Leftover> {
    let start = slot_start(geometry, seq);
    let mut header = [0; SLOT_HEADER_BYTES];
    memory.load(start, &mut header);
    let mut r = Reader::new(&header, "shadow");
    let named = BatchSeq(r.u64().ok()?);
    let first_lsn = Lsn(r.u64().ok()?);
    let before = r.u32().ok()?;
    let whole = crc32fast::hash(&header[..SLOT_HEADER_BYTES - 4]) == r.u32().ok()?;
    if !whole || named != seq {
        return None;
    }
    let mut left = Leftover { seq, first_lsn, before, crc: seed(pool, seq), records: Vec::new() };
    let mut rest = start + SLOT_HEADER_BYTES..start + slot_bytes(geometry);
    // Whatever does not fit ends the slot: the process died while it copied.
    while let Some((record, raw, crc)) = frame(memory, rest.clone(), left.crc) {
        rest.start += FRAME_BYTES + raw.len();
        left.crc = crc;
        left.records.push((record, raw));
    }
    Some(left)
}

/// The record at the beginning of what is left of a slot.
fn frame(memory: &dyn Survivor, rest: Range<usize>, so_far: u32) -> Option<(Record, Vec<u8>, u32)> {
    let room = rest.len().checked_sub(FRAME_BYTES)?;
    let mut header = [0; FRAME_BYTES];
    memory.load(rest.start, &mut header);
    let mut r = Reader::new(&header, "shadow");
    let len = r.u32().ok()? as usize;
    let crc = r.u32().ok()?;
    if len == 0 || len > room {
        return None;
    }
    let mut raw = vec![0; len];
    memory.load(rest.start + FRAME_BYTES, &mut raw);
    if extend(so_far, &raw) != crc {
        return None;
    }
    let mut inside = Reader::new(&raw, "shadow");
    let record = Record::decode(&mut inside).ok()?;
    inside.is_empty().then_some((record, raw, crc))
}

#[derive(Clone, Default)]
struct Header {
    pool: PoolId,
    /// How often it was written.
    count: u64,
    oldest: u64,
    newest: u64,
    /// The batch that the journal of the newest begins with.
    start: BatchSeq,
    /// A barrier has failed, and nothing since.
    failed: bool,
    /// The newest batch whose barrier has succeeded.
    durable: BatchSeq,
    /// The last batch that was sealed, and its [`batch_crc`], as far as that is known.
    last: BatchSeq,
    last_crc: u32,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.raw(&MAGIC);
        w.u32(VERSION);
        w.raw(&self.pool);
        w.u64(self.count);
        w.u64(self.oldest);
        w.u64(self.newest);
        w.u64(self.start.0);
        w.u32(u32::from(self.failed));
        w.u64(self.durable.0);
        w.u64(self.last.0);
        w.u32(self.last_crc);
        let crc = crc32fast::hash(w.bytes());
        w.u32(crc);
        w.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Header> {
        let mut r = Reader::new(bytes, "shadow");
        let ours = r.raw(8).ok()? == MAGIC;
        let version = r.u32().ok()?;
        let len = match version {
            VERSION => HEADER_BYTES,
            WITHOUT_BARRIERS => OLD_HEADER_BYTES,
            _ => return None,
        };
        let mut pool = PoolId::default();
        pool.copy_from_slice(r.raw(16).ok()?);
        let (count, oldest, newest) = (r.u64().ok()?, r.u64().ok()?, r.u64().ok()?);
        let start = BatchSeq(r.u64().ok()?);
        // Whoever wrote the old version did not tell, so all that is there is taken for durable.
        let mut header =
            Header { pool, count, oldest, newest, start, durable: EVERY_BATCH, ..Header::default() };
        if version == VERSION {
            header.failed = r.u32().ok()? != 0;
            header.durable = BatchSeq(r.u64().ok()?);
            header.last = BatchSeq(r.u64().ok()?);
            header.last_crc = r.u32().ok()?;
        }
        let whole = crc32fast::hash(&bytes[..len - 4]) == r.u32().ok()?;
        (ours && whole && count < MOST_COUNT).then_some(header)
    }

    /// Whether the superblock is one of those that there could be. Another process, too, may have written one of the
    /// newest generation, where this one died before; with records of its own before it, its journal begins later.
    fn knows(&self, end: &JournalEnd) -> bool {
        if end.generation == self.newest { end.start == self.start } else { end.generation == self.oldest }
    }
}

/// The memory and what is in it.
pub(crate) struct Shadow {
    memory: Box<dyn Survivor>,
    geometry: Geometry,
    /// What the header says, or is to say from [`Shadow::begin`] on.
    header: Header,
    /// Records are copied. Before that, what the last process left is still needed.
    live: bool,
    /// Where the next frame goes, and where the slot ends.
    at: usize,
    end: usize,
    /// [`batch_crc`] of the batch that the slot is for, as far as it is known.
    crc: u32,
    /// A record did not fit: nothing more goes in before the next batch.
    overflowed: bool,
    /// Inside [`Shadow::begin_group`]: the header of the group's first frame, once there is one, and where it goes.
    group: Option<Option<(usize, [u8; FRAME_BYTES])>>,
}

impl Shadow {
    /// Memory with what the last process left in it, which stays until [`Shadow::begin`].
    pub(crate) fn new(memory: Box<dyn Survivor>, pool: PoolId, geometry: Geometry) -> Shadow {
        let header = Header { pool, ..Header::default() };
        Shadow {
            memory,
            geometry,
            header,
            live: false,
            at: 0,
            end: 0,
            crc: 0,
            overflowed: false,
            group: None,
        }
    }

    /// What an earlier process left of this pool, whose journal ends like this. Nothing when the memory is new, of another
    /// pool, or of another history than the journal's.
    pub(crate) fn examine(&mut self, end: &JournalEnd) -> Left {
        let headers = [0, SECOND_COPY].map(|at| {
            let mut bytes = [0; HEADER_BYTES];
            self.memory.load(at, &mut bytes);
            Header::decode(&bytes)
        });
        let found = headers.into_iter().flatten().max_by_key(|h| h.count);
        self.header = Header {
            pool: self.header.pool,
            // What is written next counts, whatever it replaces.
            count: found.as_ref().map_or(0, |h| h.count),
            oldest: end.generation,
            newest: end.generation,
            start: end.start,
            failed: false,
            durable: end.seq,
            last: end.seq,
            last_crc: end.crc.unwrap_or_default(),
        };
        self.crc = seed(&self.header.pool, BatchSeq(end.seq.0 + 1));
        let Some(found) = found.filter(|h| h.pool == self.header.pool && h.knows(end)) else {
            return Left::Records(Vec::new());
        };
        if found.failed {
            return self.after_failure(&found, end);
        }
        let mut records: Vec<Leftover> = Vec::new();
        let mut seq = end.seq;
        let (mut crc, mut lsn) = (end.crc, end.lsn);
        let most = if planted(Defect::ShadowTakenInPart) { 1 } else { 2 };
        while records.len() < most {
            seq = BatchSeq(seq.0 + 1);
            let next = slot(&*self.memory, &self.header.pool, self.geometry, seq)
                .filter(|left| left.first_lsn == lsn && crc.is_none_or(|crc| crc == left.before));
            let Some(next) = next else { break };
            lsn = Lsn(lsn.0 + next.records.len() as u64);
            crc = Some(next.crc);
            records.push(next);
        }
        if !records.is_empty() {
            // It goes on from the journal's end, so it knows whether the last batch there is durable.
            self.header.durable = found.durable.max(end.confirmed).min(end.seq);
        }
        while records.pop_if(|last| last.records.is_empty()).is_some() {}
        Left::Records(records)
    }

    /// What the journal holds may be relied upon up to a batch that the header names, unless somebody who had no such
    /// memory has gone on from there.
    fn after_failure(&mut self, found: &Header, end: &JournalEnd) -> Left {
        let the_last = end.seq == found.last && end.crc.is_none_or(|crc| crc == found.last_crc);
        if end.seq != found.durable && !the_last {
            return Left::Records(Vec::new());
        }
        let Header { durable, last, last_crc, .. } = *found;
        // It stays true until what is cut off can never be seen again, also when another barrier fails before that.
        self.header = Header { failed: true, durable, last, last_crc, ..self.header };
        Left::Failed { durable }
    }

    /// Forgets what the memory held and begins to copy records: those of a batch with this number first, of which the
    /// first has that one. All before it is durable. The superblock on disk is of this generation, and its journal begins
    /// with that batch.
    pub(crate) fn begin(&mut self, (generation, start): (u64, BatchSeq), (seq, first_lsn): (BatchSeq, Lsn)) {
        self.live = true;
        self.memory.zero(shadow_bytes(self.geometry));
        self.header.failed = false;
        self.header.durable = BatchSeq(seq.0 - 1);
        // Whoever reads this knows the CRC of the batch before only if it is known now.
        self.crc = self.header.last_crc;
        self.next_batch(seq, first_lsn);
        // Last: without it nothing here is believed.
        self.generations(generation, generation, start);
    }

    /// The superblock on disk is of one of these generations, which differ by one at most; the journal of the newest
    /// begins with batch `start`.
    pub(crate) fn generations(&mut self, oldest: u64, newest: u64, start: BatchSeq) {
        self.header = Header { oldest, newest, start, ..self.header };
        self.tell();
    }

    /// The barrier of batch `seq` has succeeded.
    pub(crate) fn made_durable(&mut self, seq: BatchSeq) {
        self.header.durable = seq;
        self.tell();
    }

    /// A barrier has failed: of what it covered nothing may be relied upon, by the next process either.
    pub(crate) fn barrier_failed(&mut self) {
        self.header.failed = true;
        self.tell();
    }

    /// Writes the header, unless that would forget what the last process left.
    fn tell(&mut self) {
        if !self.live && !self.header.failed {
            return;
        }
        self.header.count += 1;
        // The other copy stays whole, whenever the process dies.
        let at = if self.header.count.is_multiple_of(2) { 0 } else { SECOND_COPY };
        self.memory.store(at, &self.header.encode());
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        if self.live {
            self.memory.store(at, bytes);
        }
    }

    /// Begins the slot of batch `seq`, whose earlier batch is durable, and which goes on from a batch with this CRC.
    /// Returns where the slot is.
    fn begin_slot(&mut self, seq: BatchSeq, first_lsn: Lsn, before: u32) -> usize {
        let mut w = Writer::default();
        w.u64(seq.0);
        w.u64(first_lsn.0);
        w.u32(before);
        let crc = crc32fast::hash(w.bytes());
        w.u32(crc);
        let start = slot_start(self.geometry, seq);
        self.store(start, w.bytes());
        start
    }

    /// The batch that is next goes to the journal before its only record comes here. Whoever finds it there must see
    /// that this memory goes on from it, and so knows that it is not durable.
    pub(crate) fn foresee(&mut self, seq: BatchSeq, next_lsn: Lsn, record: &[u8]) {
        let crc = batch_crc(&self.header.pool, seq, record);
        self.begin_slot(BatchSeq(seq.0 + 1), next_lsn, crc);
    }

    /// Batch `seq`, with this record and not durable, is taken out of the journal again. Until that is done, whoever
    /// finds it there must take it for what a failed barrier covered. Returns what [`Shadow::disowned`] needs.
    pub(crate) fn disown(&mut self, seq: BatchSeq, record: &[u8]) -> (BatchSeq, u32) {
        let before = (self.header.last, self.header.last_crc);
        (self.header.last, self.header.last_crc) = (seq, batch_crc(&self.header.pool, seq, record));
        self.barrier_failed();
        before
    }

    /// The batch is gone.
    pub(crate) fn disowned(&mut self, before: (BatchSeq, u32)) {
        (self.header.last, self.header.last_crc) = before;
        self.header.failed = false;
        self.tell();
    }

    /// From here on records belong to batch `seq`. The slot's earlier batch is durable.
    pub(crate) fn next_batch(&mut self, seq: BatchSeq, first_lsn: Lsn) {
        self.header.last = BatchSeq(seq.0 - 1);
        self.header.last_crc = self.crc;
        let start = self.begin_slot(seq, first_lsn, self.crc);
        self.at = start + SLOT_HEADER_BYTES;
        self.end = start + slot_bytes(self.geometry);
        self.crc = seed(&self.header.pool, seq);
        self.overflowed = false;
        if self.header.failed {
            // A batch that was sealed beside the barrier that failed.
            self.tell();
        }
    }

    /// The records up to [`Shadow::end_group`] are one change: whenever the process dies, the next one finds all of them, or
    /// none.
    pub(crate) fn begin_group(&mut self) {
        self.group = Some(None);
    }

    /// All of the group is copied: its first frame, without which nobody sees the rest, comes last.
    pub(crate) fn end_group(&mut self) {
        if let Some((at, frame)) = self.group.take().flatten()
            && !self.overflowed
        {
            self.store(at, &frame);
        }
    }

    /// Copies a record.
    pub(crate) fn add(&mut self, record: &[u8]) {
        self.crc = extend(self.crc, record);
        let next = self.at + FRAME_BYTES + record.len();
        self.overflowed |= next > self.end;
        if self.overflowed {
            return;
        }
        let mut frame = [0; FRAME_BYTES];
        frame[..4].copy_from_slice(&(record.len() as u32).to_le_bytes());
        frame[4..].copy_from_slice(&self.crc.to_le_bytes());
        self.store(self.at + FRAME_BYTES, record);
        match &mut self.group {
            Some(first @ None) if !planted(Defect::GroupLeftInPart) => *first = Some((self.at, frame)),
            _ => self.store(self.at, &frame),
        }
        self.at = next;
    }

    /// Whether records of up to `bytes`, of which each is some bytes shorter than its share, still fit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        !self.overflowed && self.at + FRAME_BYTES + bytes <= self.end
    }

    /// Everything is on disk: the next process needs nothing of this.
    pub(crate) fn discard(self) {
        self.memory.discard();
    }
}

/// Examines memory in which a header holds `header`, and the slot of the batch after the journal's end `frames` (each a length
/// of 2 bytes and a record), with right checksums. Returns how many records were taken.
#[cfg(feature = "fuzzing")]
pub(crate) fn examine_made_up(pool: PoolId, header: &[u8], frames: &[u8], end: &JournalEnd) -> usize {
    struct Memory(Vec<u8>);
    impl Survivor for Memory {
        fn load(&self, at: usize, into: &mut [u8]) {
            into.copy_from_slice(&self.0[at..at + into.len()]);
        }
        fn store(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
        fn discard(self: Box<Self>) {}
    }
    let geometry = Geometry { segment_blocks: 64, journal_blocks: 256 };
    let mut memory = Memory(vec![0; shadow_bytes(geometry)]);
    let (mut copy, seq) = ([0; HEADER_BYTES], BatchSeq(end.seq.0 + 1));
    let after_pool = MAGIC.len() + 4 + pool.len();
    let len = header.len().min(HEADER_BYTES - after_pool);
    copy[after_pool..after_pool + len].copy_from_slice(&header[..len]);
    copy[..8].copy_from_slice(&MAGIC);
    copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
    copy[12..28].copy_from_slice(&pool);
    let crc = crc32fast::hash(&copy[..HEADER_BYTES - 4]);
    copy[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    memory.store(0, &copy);
    let mut w = Writer::default();
    w.u64(seq.0);
    w.u64(end.lsn.0);
    w.u32(end.crc.unwrap_or_default());
    let crc = crc32fast::hash(w.bytes());
    w.u32(crc);
    let (mut rest, mut crc) = (frames, seed(&pool, seq));
    while let Some((len, more)) = rest.split_first_chunk() {
        let (raw, more) = more.split_at(usize::from(u16::from_le_bytes(*len)).min(more.len()));
        crc = extend(crc, raw);
        w.u32(raw.len() as u32);
        w.u32(crc);
        w.raw(raw);
        rest = more;
    }
    let slot = w.bytes();
    memory.store(slot_start(geometry, seq), &slot[..slot.len().min(slot_bytes(geometry))]);
    let mut shadow = Shadow::new(Box::new(memory), pool, geometry);
    let records = match shadow.examine(end) {
        Left::Records(left) => left.iter().map(|left| left.records.len()).sum(),
        Left::Failed { .. } => 0,
    };
    shadow.begin((end.generation, end.start), (seq, end.lsn));
    records
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::types::VersionId;

    const POOL: PoolId = *b"a pool in a test";
    const GEOMETRY: Geometry = Geometry { segment_blocks: 64, journal_blocks: 256 };

    #[derive(Clone)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Survivor for Memory {
        fn load(&self, at: usize, into: &mut [u8]) {
            into.copy_from_slice(&self.0.lock()[at..at + into.len()]);
        }

        fn store(&mut self, at: usize, bytes: &[u8]) {
            self.0.lock()[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn discard(self: Box<Self>) {
            self.0.lock().clear();
        }
    }

    fn record(i: u64) -> Record {
        Record::Resize { head: VersionId(1), size: i }
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut w = Writer::default();
        record.encode(&mut w);
        w.into_bytes()
    }

    /// A header that had been written as often as can be counted was believed, and the next one would have counted as older.
    /// Found by fuzzing.
    #[test]
    fn a_header_that_leaves_nothing_to_count_on_with_is_none() {
        let header = Header { pool: POOL, count: MOST_COUNT - 1, ..Header::default() };
        assert!(Header::decode(&header.encode()).is_some());
        for count in [MOST_COUNT, u64::MAX] {
            assert!(Header::decode(&Header { count, ..header.clone() }.encode()).is_none());
        }
    }

    /// Memory in which records 0 to 2 belong to batch 7 and 3 to 4 to batch 8, after a superblock of generation 5.
    fn two_batches() -> (Memory, Shadow, JournalEnd) {
        let memory = Memory(Arc::new(Mutex::new(vec![0xee; shadow_bytes(GEOMETRY)])));
        let mut shadow = Shadow::new(Box::new(memory.clone()), POOL, GEOMETRY);
        let end = JournalEnd {
            generation: 5,
            start: BatchSeq(3),
            seq: BatchSeq(6),
            lsn: Lsn(100),
            crc: Some(77),
            confirmed: BatchSeq(5),
        };
        assert!(matches!(shadow.examine(&end), Left::Records(records) if records.is_empty()));
        shadow.begin((5, BatchSeq(3)), (BatchSeq(7), Lsn(100)));
        (0..3).for_each(|i| shadow.add(&encoded(&record(i))));
        shadow.next_batch(BatchSeq(8), Lsn(103));
        (3..5).for_each(|i| shadow.add(&encoded(&record(i))));
        (memory, shadow, end)
    }

    /// The sizes in the records that the next process finds, batch by batch.
    fn found(memory: &Memory, pool: PoolId, end: &JournalEnd) -> Vec<Vec<u64>> {
        let mut shadow = Shadow::new(Box::new(memory.clone()), pool, GEOMETRY);
        let Left::Records(records) = shadow.examine(end) else { panic!("a barrier failed") };
        let sizes = |left: Leftover| {
            let sizes = left.records.into_iter().map(|(record, raw)| {
                assert_eq!(encoded(&record), raw);
                let Record::Resize { size, .. } = record else { panic!("another record") };
                size
            });
            sizes.collect()
        };
        records.into_iter().map(sizes).collect()
    }

    #[test]
    fn the_next_process_goes_on_where_the_journal_ends() {
        let (memory, _, end) = two_batches();
        assert_eq!(found(&memory, POOL, &end), [vec![0, 1, 2], vec![3, 4]]);
        // The first batch reached the journal.
        let records: Vec<u8> = (0..3).flat_map(|i| encoded(&record(i))).collect();
        let crc = Some(batch_crc(&POOL, BatchSeq(7), &records));
        let later = JournalEnd { seq: BatchSeq(7), lsn: Lsn(103), crc, ..end };
        assert_eq!(found(&memory, POOL, &later), [vec![3, 4]]);
        // Both did.
        let after = JournalEnd { seq: BatchSeq(8), lsn: Lsn(105), crc: None, ..later };
        assert!(found(&memory, POOL, &after).is_empty());
    }

    #[test]
    fn what_does_not_follow_the_journal_is_left() {
        let (memory, _, end) = two_batches();
        assert!(found(&memory, *b"some other pools", &end).is_empty());
        let start = end.start;
        let of = |generation, seq, lsn, crc| {
            let (seq, lsn) = (BatchSeq(seq), Lsn(lsn));
            JournalEnd { generation, start, seq, lsn, crc, ..end }
        };
        for other in [of(4, 6, 100, None), of(6, 6, 100, None), of(5, 5, 100, None), of(5, 9, 105, None)] {
            assert!(found(&memory, POOL, &other).is_empty());
        }
        // The slots hold a batch with an even and one with an odd number, whatever numbers they are asked for.
        for seq in [4, 5, 7, 8] {
            assert!(found(&memory, POOL, &of(5, seq, 100, None)).is_empty(), "batch {seq} is another");
        }
        assert!(found(&memory, POOL, &of(5, 6, 99, Some(77))).is_empty(), "another number of records");
        assert!(found(&memory, POOL, &of(5, 6, 100, Some(78))).is_empty(), "other records");
        assert_eq!(found(&memory, POOL, &of(5, 6, 100, None)).len(), 2, "a journal that was checkpointed");
    }

    #[test]
    fn a_checkpoint_under_way_may_or_may_not_be_on_disk() {
        let (memory, mut shadow, end) = two_batches();
        shadow.generations(5, 6, BatchSeq(7));
        for (generation, start, batches) in [(4, 3, 0), (5, 3, 2), (6, 7, 2), (7, 7, 0)] {
            let end = JournalEnd { generation, start: BatchSeq(start), ..end };
            assert_eq!(found(&memory, POOL, &end).len(), batches, "generation {generation}");
        }
        shadow.generations(6, 6, BatchSeq(7));
        assert!(found(&memory, POOL, &end).is_empty());
    }

    /// Another process went on without this memory: it wrote a batch with as many records, then a checkpoint of the
    /// generation that this one was about to write.
    #[test]
    fn a_checkpoint_of_somebody_else_with_the_same_number_is_told() {
        let (memory, mut shadow, end) = two_batches();
        shadow.generations(5, 6, BatchSeq(7));
        let theirs = JournalEnd {
            generation: 6,
            start: BatchSeq(8),
            seq: BatchSeq(7),
            lsn: Lsn(103),
            crc: None,
            ..end
        };
        assert!(found(&memory, POOL, &theirs).is_empty());
        // Ours, after batch 7.
        shadow.generations(5, 6, BatchSeq(8));
        assert_eq!(found(&memory, POOL, &theirs), [vec![3, 4]]);
        assert_eq!(found(&memory, POOL, &end).len(), 2);
    }

    /// Wherever the process died while it copied: what was copied before is found, and nothing that is not whole.
    #[test]
    fn bytes_that_are_not_there_end_a_slot() {
        let (memory, mut shadow, end) = two_batches();
        let whole = memory.0.lock().clone();
        let frame = FRAME_BYTES + encoded(&record(0)).len();
        let slot = slot_start(GEOMETRY, BatchSeq(7));
        for at in 0..SLOT_HEADER_BYTES + 3 * frame {
            memory.0.lock().clone_from(&whole);
            memory.0.lock()[slot + at] ^= 0x10;
            let expected =
                at.checked_sub(SLOT_HEADER_BYTES).map(|within| (0..(within / frame) as u64).collect());
            // The second batch does not follow what is left of the first.
            let expected: Vec<Vec<u64>> =
                expected.into_iter().filter(|records: &Vec<u64>| !records.is_empty()).collect();
            assert_eq!(found(&memory, POOL, &end), expected, "byte {at}");
        }
        // Either copy of the header does.
        for at in [10, SECOND_COPY + 10] {
            memory.0.lock().clone_from(&whole);
            shadow.generations(4, 5, BatchSeq(3));
            shadow.generations(5, 5, BatchSeq(3));
            memory.0.lock()[at] ^= 1;
            assert_eq!(found(&memory, POOL, &end).len(), 2);
        }
    }

    #[test]
    fn a_slot_is_full_before_it_overflows() {
        let (memory, mut shadow, end) = two_batches();
        shadow.begin((1, BatchSeq(1)), (BatchSeq(2), Lsn(0)));
        let bytes = encoded(&record(0));
        let mut added = 0;
        while shadow.has_room(bytes.len()) {
            shadow.add(&bytes);
            added += 1;
        }
        shadow.add(&bytes);
        let end =
            JournalEnd { generation: 1, start: BatchSeq(1), seq: BatchSeq(1), lsn: Lsn(0), crc: None, ..end };
        assert_eq!(found(&memory, POOL, &end)[0].len(), added);
        assert!(added >= LEAST_SLOT_BYTES / (bytes.len() + FRAME_BYTES) - 1);
        // The next batch has room of its own.
        shadow.next_batch(BatchSeq(3), Lsn(added as u64 + 1));
        assert!(shadow.has_room(bytes.len()));
    }

    /// Which batch the log is to end with, if a barrier failed.
    fn failed(memory: &Memory, end: &JournalEnd) -> Option<u64> {
        match Shadow::new(Box::new(memory.clone()), POOL, GEOMETRY).examine(end) {
            Left::Failed { durable } => Some(durable.0),
            Left::Records(records) => {
                assert!(records.is_empty(), "records of a process whose barrier failed");
                None
            }
        }
    }

    /// The journal's end as of a batch, with the CRC of its records.
    fn at(end: &JournalEnd, seq: u64, crc: Option<u32>) -> JournalEnd {
        JournalEnd { seq: BatchSeq(seq), crc, ..*end }
    }

    #[test]
    fn after_a_failed_barrier_the_log_ends_with_the_last_durable_batch() {
        let (memory, mut shadow, end) = two_batches();
        let records: Vec<u8> = (0..3).flat_map(|i| encoded(&record(i))).collect();
        let seven = batch_crc(&POOL, BatchSeq(7), &records);
        // The barrier of batch 7, which may be in the journal or not.
        shadow.barrier_failed();
        assert_eq!(failed(&memory, &end), Some(6));
        assert_eq!(failed(&memory, &at(&end, 7, Some(seven))), Some(6));
        assert_eq!(failed(&memory, &at(&end, 7, None)), Some(6), "it was cut off by a checkpoint before");
        for (seq, crc) in [(5, None), (7, Some(seven ^ 1)), (8, None), (8, Some(seven))] {
            assert_eq!(failed(&memory, &at(&end, seq, crc)), None, "somebody else's batch {seq}");
        }
        let other = JournalEnd { generation: 6, ..end };
        assert_eq!(failed(&memory, &other), None, "somebody else's checkpoint");
        let mut theirs = Shadow::new(Box::new(memory.clone()), *b"some other pools", GEOMETRY);
        assert!(matches!(theirs.examine(&end), Left::Records(records) if records.is_empty()), "another pool");
        // Another barrier beside it was that of batch 7, and one more batch had been sealed by then.
        shadow.made_durable(BatchSeq(7));
        shadow.next_batch(BatchSeq(9), Lsn(105));
        let records: Vec<u8> = (3..5).flat_map(|i| encoded(&record(i))).collect();
        let eight = batch_crc(&POOL, BatchSeq(8), &records);
        assert_eq!(failed(&memory, &at(&end, 7, Some(seven))), Some(7));
        assert_eq!(failed(&memory, &at(&end, 8, Some(eight))), Some(7));
        // The next process has cut it off.
        shadow.begin((6, BatchSeq(9)), (BatchSeq(9), Lsn(103)));
        let end = JournalEnd { generation: 6, start: BatchSeq(9), ..at(&end, 8, None) };
        assert!(found(&memory, POOL, &end).is_empty());
    }

    /// Opening relies on the journal's last batch; when its own barrier fails, that batch counts if it was durable before.
    #[test]
    fn a_barrier_may_fail_before_anything_is_copied() {
        let records: Vec<u8> = (0..3).flat_map(|i| encoded(&record(i))).collect();
        let seven = Some(batch_crc(&POOL, BatchSeq(7), &records));
        let open = |memory: &Memory, end: &JournalEnd| {
            let mut next = Shadow::new(Box::new(memory.clone()), POOL, GEOMETRY);
            let Left::Records(records) = next.examine(end) else { panic!("no barrier has failed yet") };
            (next, records.len())
        };
        for (durable, expected) in [(6, 6), (7, 7)] {
            let (memory, mut shadow, end) = two_batches();
            shadow.made_durable(BatchSeq(durable));
            let end = JournalEnd { lsn: Lsn(103), confirmed: BatchSeq(6), ..at(&end, 7, seven) };
            let (mut next, records) = open(&memory, &end);
            assert_eq!(records, 1);
            let before = memory.0.lock().clone();
            next.generations(5, 6, BatchSeq(8));
            next.generations(5, 5, BatchSeq(3));
            assert!(*memory.0.lock() == before, "what the last process left is still needed");
            next.barrier_failed();
            assert_eq!(failed(&memory, &end), Some(expected), "batch {durable} was durable");
            // And so it stays when the same happens to the one after that.
            let mut again = Shadow::new(Box::new(memory.clone()), POOL, GEOMETRY);
            assert!(matches!(again.examine(&end), Left::Failed { .. }));
            again.barrier_failed();
            assert_eq!(failed(&memory, &end), Some(expected));
        }
        // Opening's first barrier succeeds, and that of the batch that it takes over does not.
        let (memory, _, end) = two_batches();
        let (mut next, records) = open(&memory, &end);
        assert_eq!(records, 2);
        next.made_durable(BatchSeq(6));
        (0..3).for_each(|i| next.add(&encoded(&record(i))));
        next.next_batch(BatchSeq(8), Lsn(103));
        next.barrier_failed();
        assert_eq!(failed(&memory, &at(&end, 7, seven)), Some(6));
        assert_eq!(failed(&memory, &at(&end, 7, Some(1))), None);
        // What the memory knows of batch 6 says nothing of batch 8, from which it does not go on, though as many records
        // came before.
        let (memory, _, end) = two_batches();
        let end = JournalEnd { confirmed: BatchSeq(7), ..at(&end, 8, None) };
        let (mut next, _) = open(&memory, &end);
        next.barrier_failed();
        assert_eq!(failed(&memory, &end), Some(8));
        // Of memory that is new nothing is known, and the last batch may have been flushed.
        let memory = Memory(Arc::new(Mutex::new(vec![0; shadow_bytes(GEOMETRY)])));
        let (mut next, _) = open(&memory, &end);
        next.barrier_failed();
        assert_eq!(failed(&memory, &end), Some(8));
    }

    /// A daemon of the version before was killed for an update.
    #[test]
    fn the_old_version_of_the_header_is_understood() {
        let (memory, _, end) = two_batches();
        let mut w = Writer::default();
        w.raw(&MAGIC);
        w.u32(WITHOUT_BARRIERS);
        w.raw(&POOL);
        [100, 5, 5, 3].into_iter().for_each(|field| w.u64(field));
        let crc = crc32fast::hash(w.bytes());
        w.u32(crc);
        assert_eq!(w.len(), OLD_HEADER_BYTES);
        memory.0.lock()[..SLOTS_START].fill(0);
        memory.0.lock()[..OLD_HEADER_BYTES].copy_from_slice(w.bytes());
        assert_eq!(found(&memory, POOL, &end), [vec![0, 1, 2], vec![3, 4]]);
        // Whether the last batch was durable it did not say.
        let mut next = Shadow::new(Box::new(memory.clone()), POOL, GEOMETRY);
        assert!(matches!(next.examine(&end), Left::Records(_)));
        next.barrier_failed();
        assert_eq!(failed(&memory, &end), Some(6));
        memory.0.lock()[8] = 3;
        memory.0.lock()[SECOND_COPY..SECOND_COPY + HEADER_BYTES].fill(0);
        assert!(found(&memory, POOL, &end).is_empty(), "a version of the future");
    }
}
