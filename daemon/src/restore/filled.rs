//! Which chunks of a volume need the repository no more: one bit each, in memory and in the companion.
//!
//! Bit `i` of the companion, counted from the lowest bit of its first byte, stands for chunk `i`. In memory a bit is set once
//! its block is written, so that whoever sees it knows that the mark is in the log.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_cow::{BLOCK_SIZE, Disk, Error, ErrorKind, Lsn, Pool, Result, VersionId};
use parking_lot::Mutex;

const WORD_BITS: u64 = u64::BITS as u64;
const BLOCK_BITS: u64 = BLOCK_SIZE * 8;
const BLOCK_WORDS: usize = (BLOCK_SIZE / 8) as usize;
/// How much of the companion is read at a time.
const READ_BLOCKS: usize = 256;

/// The bits of one volume.
pub(super) struct Filled<D: Disk> {
    pool: Arc<Pool<D>>,
    /// The companion's head.
    companion: VersionId,
    chunks: u64,
    words: Box<[AtomicU64]>,
    blocks: Box<[Block]>,
    count: AtomicU64,
}

/// How a block of the companion is written: by one task at a time, for all who have something to mark in it.
#[derive(Default)]
struct Block {
    /// What is to be marked by whoever writes next.
    wanted: Mutex<Vec<Range<u64>>>,
    /// Held while it is written; when that was last.
    turn: tokio::sync::Mutex<Option<Lsn>>,
}

/// Bytes of a companion for so many chunks.
pub(super) fn companion_bytes(chunks: u64) -> u64 {
    chunks.div_ceil(BLOCK_BITS).max(1) * BLOCK_SIZE
}

/// The bits of `word` that lie in `range`.
fn mask(word: u64, range: &Range<u64>) -> u64 {
    let (start, end) = (word * WORD_BITS, (word + 1) * WORD_BITS);
    let (from, to) = (range.start.max(start), range.end.min(end));
    if from >= to {
        return 0;
    }
    (u64::MAX << (from - start)) & (u64::MAX >> (end - to))
}

fn words_of(range: &Range<u64>) -> Range<u64> {
    range.start / WORD_BITS..range.end.div_ceil(WORD_BITS)
}

impl<D: Disk> Filled<D> {
    /// None of `chunks` is marked in the `companion`, which is new.
    pub(super) fn new(pool: Arc<Pool<D>>, companion: VersionId, chunks: u64) -> Filled<D> {
        let blocks = chunks.div_ceil(BLOCK_BITS).max(1) as usize;
        Filled {
            pool,
            companion,
            chunks,
            words: (0..blocks * BLOCK_WORDS).map(|_| AtomicU64::new(0)).collect(),
            blocks: (0..blocks).map(|_| Block::default()).collect(),
            count: AtomicU64::new(0),
        }
    }

    /// What the `companion` says.
    ///
    /// # Errors
    /// Of the pool, and when the companion is not that of so many chunks.
    pub(super) async fn load(pool: Arc<Pool<D>>, companion: VersionId, chunks: u64) -> Result<Filled<D>> {
        let filled = Filled::new(pool, companion, chunks);
        let size = filled.pool.size_of(companion)?;
        if size != companion_bytes(chunks) {
            let why = format!("the bitmap has {size} bytes, which is not right for {chunks} chunks");
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        for (piece, words) in filled.words.chunks(READ_BLOCKS * BLOCK_WORDS).enumerate() {
            let offset = (piece * READ_BLOCKS) as u64 * BLOCK_SIZE;
            let Some(buf) = filled.pool.read(companion, offset, words.len() * 8).await?.buf else { continue };
            for (word, bytes) in words.iter().zip(buf.chunks_exact(8)) {
                let mut bits = [0; 8];
                bits.copy_from_slice(bytes);
                word.store(u64::from_le_bytes(bits), Ordering::Relaxed);
            }
        }
        let all = 0..chunks;
        let bits = |word: u64| filled.words[word as usize].load(Ordering::Relaxed) & mask(word, &all);
        let count = words_of(&all).map(|word| u64::from(bits(word).count_ones())).sum();
        filled.count.store(count, Ordering::Relaxed);
        Ok(filled)
    }

    /// How many are marked.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether all are.
    pub(super) fn is_complete(&self) -> bool {
        self.count() == self.chunks
    }

    /// Whether all of a run are marked; what lies behind the last chunk counts as marked.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        let range = range.start..range.end.min(self.chunks);
        words_of(&range).all(|word| {
            let mask = mask(word, &range);
            self.words[word as usize].load(Ordering::Acquire) & mask == mask
        })
    }

    /// The first chunk of `range` that is marked, or is not.
    pub(super) fn find(&self, marked: bool, range: Range<u64>) -> Option<u64> {
        let range = range.start..range.end.min(self.chunks);
        words_of(&range).find_map(|word| {
            let bits = self.words[word as usize].load(Ordering::Acquire);
            let found = if marked { bits } else { !bits } & mask(word, &range);
            (found != 0).then(|| word * WORD_BITS + u64::from(found.trailing_zeros()))
        })
    }

    /// Marks a run, for good once this returns without an error: later writes to these chunks come behind it in the log.
    /// Must be awaited to its end.
    pub(super) async fn mark(&self, lane: usize, range: Range<u64>) -> Result<Option<Lsn>> {
        let mut last = None;
        let mut at = range.start;
        while at < range.end {
            let block = at / BLOCK_BITS;
            let end = ((block + 1) * BLOCK_BITS).min(range.end);
            last = last.max(self.mark_in(lane, block, at..end).await?);
            at = end;
        }
        Ok(last)
    }

    /// Marks a run in one block. Whoever has waited for its turn writes for all who wait behind it.
    async fn mark_in(&self, lane: usize, index: u64, range: Range<u64>) -> Result<Option<Lsn>> {
        let block = &self.blocks[index as usize];
        block.wanted.lock().push(range.clone());
        let mut last = block.turn.lock().await;
        if self.has(&range) {
            return Ok(*last);
        }
        let mut wanted = std::mem::take(&mut *block.wanted.lock());
        // It is missing when somebody else has tried for it and failed.
        wanted.push(range);
        let first = index as usize * BLOCK_WORDS;
        let mut buf = self.pool.buffer(BLOCK_SIZE as usize);
        for (at, bytes) in buf.chunks_exact_mut(8).enumerate() {
            let word = first + at;
            let new = wanted.iter().fold(0, |bits, range| bits | mask(word as u64, range));
            bytes.copy_from_slice(&(self.words[word].load(Ordering::Relaxed) | new).to_le_bytes());
        }
        let at = index * BLOCK_SIZE;
        let lsn = self.pool.write(lane, self.companion, at, BLOCK_SIZE as usize, buf).await?;
        for range in wanted {
            self.set(&range);
        }
        *last = Some(lsn);
        Ok(*last)
    }

    fn set(&self, range: &Range<u64>) {
        let mut new = 0;
        for word in words_of(range) {
            let mask = mask(word, range);
            let before = self.words[word as usize].fetch_or(mask, Ordering::AcqRel);
            new += u64::from((mask & !before).count_ones());
        }
        self.count.fetch_add(new, Ordering::AcqRel);
    }
}
