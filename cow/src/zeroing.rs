//! Writes zeroes where nothing was ever written: everywhere while nobody uses the pool, and close ahead of writes of which few
//! are flushed at a time.
//!
//! A file system keeps note of what of a file was only reserved. The first write there makes it change that note, and
//! the barrier after it write its own journal, too: writes that are flushed took 1.45 times as long in new space. So
//! whatever is free and new is written to once before it is needed, in pieces so small that whoever comes meanwhile hardly
//! waits. The pieces are taken like those for data, and given back.

use std::ops::Range;
use std::time::Duration;

use crate::defect::{Defect, planted};
use crate::disk::Disk;
use crate::error::Result;
use crate::pool::Pool;
use crate::space::Run;
use crate::state::State;
use crate::types::{BLOCK_SIZE, BatchSeq, BlockAddr};

/// Time without reads, writes and changes after which nobody seems to use the pool.
const ZERO_AFTER: Duration = Duration::from_millis(300);
/// Blocks that one write covers: others wait behind it.
const PIECE_BLOCKS: u32 = 64;
/// Pieces in one call, so that no more than about 160 MiB a second are written.
const PIECES: usize = 64;
/// The part of a segment that must be free: with less, writers may soon want every block.
const NEARLY_FULL: u64 = 8;
/// How often it is looked at what is flushed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Data of a flush below which it costs more to flush new space than to write it twice.
const LITTLE_BYTES: u64 = 128 << 10;
/// Blocks that writers may take before the first piece is written: those it covers would be left out by them.
const LEAD_BLOCKS: u32 = 256;
/// Blocks ahead of each lane that are written: several times what is flushed between two looks.
const AHEAD_BLOCKS: u32 = 4096;

/// How far it has come.
#[derive(Default)]
pub(crate) struct Zeroing {
    /// The requests that there had been at the last look ...
    requests: u64,
    /// ... and how long there have been no others.
    quiet: Duration,
    /// Blocks that were never written. What lies before them is done.
    hole: Range<BlockAddr>,
    /// Time since the last look at what is flushed, and the batches and bytes of data that there had been then.
    since: Duration,
    batches: BatchSeq,
    bytes: u64,
    /// What lies ahead of the lanes and was seen to at the last look.
    ahead: Vec<Range<BlockAddr>>,
}

impl State {
    /// Whether nobody has used the pool for a while.
    pub(crate) fn is_quiet(&mut self, elapsed: Duration) -> bool {
        let Zeroing { requests, quiet, .. } = &mut self.zeroing;
        let same = std::mem::replace(requests, self.requests) == self.requests;
        *quiet = if same { *quiet + elapsed } else { Duration::ZERO };
        *quiet >= ZERO_AFTER && self.idle >= ZERO_AFTER
    }

    /// Whether what was flushed since the last look came in small portions.
    pub(crate) fn flushes_little(&mut self, elapsed: Duration) -> bool {
        let (batches, bytes) = (self.ring.next_seq, self.sealed_bytes);
        let zeroing = &mut self.zeroing;
        zeroing.since += elapsed;
        if zeroing.since < LOOK_EVERY {
            return false;
        }
        zeroing.since = Duration::ZERO;
        let flushes = batches.0 - std::mem::replace(&mut zeroing.batches, batches).0;
        let flushed = bytes - std::mem::replace(&mut zeroing.bytes, bytes);
        flushed > 0 && flushed <= flushes * LITTLE_BYTES
    }

    /// What writers will take soon, without what they may take at once or was seen to at the last look.
    fn look_ahead(&mut self) -> Vec<Range<BlockAddr>> {
        let segment = self.geometry.segment_blocks;
        let windows = self.space.ahead_of_lanes(LEAD_BLOCKS.min(segment / 8), AHEAD_BLOCKS.min(segment / 2));
        let seen = std::mem::replace(&mut self.zeroing.ahead, windows.clone());
        let unseen = |window: Range<BlockAddr>| {
            let before = seen.iter().find(|seen| seen.contains(&window.start));
            before.map_or(window.start, |seen| seen.end)..window.end
        };
        windows.into_iter().map(unseen).filter(|window| !window.is_empty()).collect()
    }

    /// Whether writers may want every block that is free.
    fn is_nearly_full(&self) -> bool {
        self.data_blocks_free() < u64::from(self.geometry.segment_blocks) / NEARLY_FULL
    }

    /// The blocks that the segments end with.
    fn end(&self) -> BlockAddr {
        self.geometry.segment_start(self.space.segment_count())
    }

    /// Takes the next free blocks of a hole, if it has any left.
    fn take_piece(&mut self, hole: &mut Range<BlockAddr>) -> Option<Run> {
        let piece = self.space.take_free(hole, PIECE_BLOCKS);
        hole.start = piece.map_or(hole.end, |run| run.start + u64::from(run.len));
        if let Some(run) = piece {
            if planted(Defect::ZeroedUnclaimed) {
                self.space.release(run).expect("it was taken");
            } else {
                self.space.begin_flight(&[run]);
            }
        }
        piece
    }
}

impl<D: Disk> Pool<D> {
    /// Goes on until somebody uses the pool, for a while at most.
    pub(crate) async fn zero_some(&self) -> Result<()> {
        for _ in 0..PIECES {
            let (piece, rest) = {
                let mut state = self.state.lock();
                if state.requests != state.zeroing.requests
                    || state.fenced.is_some()
                    || state.is_nearly_full()
                {
                    return Ok(());
                }
                let mut hole = state.zeroing.hole.clone();
                let piece = state.take_piece(&mut hole);
                let rest = hole.end..state.end();
                state.zeroing.hole = hole;
                (piece, rest)
            };
            if let Some(piece) = piece {
                self.zero_piece(piece).await?;
                continue;
            }
            if rest.is_empty() {
                return Ok(());
            }
            let hole = self.hole_in(&rest);
            self.state.lock().zeroing.hole = hole.unwrap_or(rest.end..rest.end);
        }
        Ok(())
    }

    /// Sees to what writers will take next.
    pub(crate) async fn zero_ahead(&self) -> Result<()> {
        let windows = self.state.lock().look_ahead();
        for mut window in windows {
            while let Some(mut hole) = self.hole_in(&window) {
                window.start = hole.end;
                loop {
                    let piece = {
                        let mut state = self.state.lock();
                        if state.fenced.is_some() || state.is_nearly_full() {
                            return Ok(());
                        }
                        state.take_piece(&mut hole)
                    };
                    let Some(piece) = piece else { break };
                    self.zero_piece(piece).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes zeroes to blocks that were taken for that, and gives them back.
    async fn zero_piece(&self, piece: Run) -> Result<()> {
        // An error is for whoever writes data there.
        let _ = self.write_zeroes_to(piece.start, u64::from(piece.len)).await;
        if !planted(Defect::ZeroedUnclaimed) {
            let mut state = self.state.lock();
            state.space.end_flight(&[piece]);
            state.space.release(piece)?;
        }
        Ok(())
    }

    /// The first blocks in a range that were never written.
    fn hole_in(&self, range: &Range<BlockAddr>) -> Option<Range<BlockAddr>> {
        let block = |byte: u64| BlockAddr(byte / BLOCK_SIZE);
        let bytes = self.disk.unwritten(range.start.offset()..range.end.offset());
        let hole = bytes.map(|bytes| block(bytes.start)..block(bytes.end.next_multiple_of(BLOCK_SIZE)));
        hole.filter(|hole| !hole.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sim::{SimDisk, block_on};
    use crate::types::VersionId;
    use crate::{CreateOptions, Error, Options};

    const CALL: Duration = Duration::from_millis(100);

    /// A pool of some megabytes on a disk that says of all space that it is new, with a volume.
    async fn make() -> Result<(SimDisk, Arc<Pool<SimDisk>>, VersionId)> {
        let disk = SimDisk::file(64 << 20);
        disk.be_always_new();
        let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: Some(2048) };
        let pool = Pool::create(disk.clone(), [1; 16], create, Options::default()).await?;
        let volume = pool.create_volume("v", 1 << 30, "").await?.id;
        Ok((disk, pool, volume))
    }

    fn written(disk: &SimDisk) -> u64 {
        disk.counts().bytes_written / BLOCK_SIZE
    }

    fn free(pool: &Pool<SimDisk>) -> u64 {
        pool.state.lock().space.free()
    }

    /// Calls for background duties until nothing more is written.
    async fn rest(disk: &SimDisk, pool: &Pool<SimDisk>) -> Result<()> {
        let (mut before, mut calls_in_vain) = (written(disk), 0);
        while calls_in_vain < 10 {
            pool.maintain(CALL).await?;
            let now = written(disk);
            calls_in_vain = if now == before { calls_in_vain + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }

    async fn write(pool: &Pool<SimDisk>, volume: VersionId, at: u64, fill: u8) -> Result<()> {
        let mut buf = pool.disk.alloc(1 << 20);
        buf.fill(fill);
        pool.write(0, volume, at, buf.len(), buf).await?;
        pool.flush().await
    }

    /// Has the pool do whatever else it has to.
    async fn settle(pool: &Pool<SimDisk>) -> Result<()> {
        pool.maintain(Duration::ZERO).await?;
        pool.flush().await?;
        pool.confirm().await
    }

    #[test]
    fn all_that_is_free_is_zeroed_once_and_nothing_else() {
        let done = block_on(async {
            let (disk, pool, volume) = make().await?;
            write(&pool, volume, 0, 1).await?;
            settle(&pool).await?;
            let before = written(&disk);
            rest(&disk, &pool).await?;
            assert_eq!(written(&disk) - before, free(&pool));
            assert!(pool.read(volume, 0, 1 << 20).await?.buf.is_some_and(|buf| buf.iter().all(|b| *b == 1)));
            // Once for all, also when it is used meanwhile.
            write(&pool, volume, 1 << 20, 2).await?;
            settle(&pool).await?;
            let before = written(&disk);
            rest(&disk, &pool).await?;
            assert_eq!(written(&disk), before);
            // What the pool grows by is next.
            while pool.state.lock().space.segment_count() < 3 {
                write(&pool, volume, pool.volume("v")?.mapped, 3).await?;
                pool.maintain(Duration::ZERO).await?;
            }
            settle(&pool).await?;
            let before = written(&disk);
            rest(&disk, &pool).await?;
            assert!(written(&disk) > before);
            Ok::<_, Error>(())
        });
        done.expect("nothing fails");
    }

    #[test]
    fn whoever_uses_the_pool_has_it_alone() {
        let done = block_on(async {
            let (disk, pool, volume) = make().await?;
            write(&pool, volume, 0, 1).await?;
            for _ in 0..20 {
                pool.maintain(CALL).await?;
                pool.read(volume, 0, 4096).await?;
            }
            let before = written(&disk);
            for _ in 0..20 {
                pool.maintain(CALL).await?;
                pool.read(volume, 4096, 4096).await?;
            }
            assert_eq!(written(&disk), before);
            Ok::<_, Error>(())
        });
        done.expect("nothing fails");
    }

    #[test]
    fn small_flushes_find_written_space_ahead_of_them() {
        let done = block_on(async {
            let (disk, pool, volume) = make().await?;
            let flush = async |blocks: Range<u64>, bytes: usize| {
                for block in blocks {
                    let mut buf = pool.disk.alloc(bytes);
                    buf.fill(1);
                    pool.write(0, volume, block * BLOCK_SIZE, bytes, buf).await?;
                    pool.flush().await?;
                }
                settle(&pool).await?;
                let before = written(&disk);
                pool.maintain(CALL).await?;
                Ok::<_, Error>(written(&disk) - before)
            };
            assert_eq!(flush(0..8, 4096).await?, 1024, "half a segment");
            assert_eq!(flush(8..18, 4096).await?, 10, "as much as was taken since");
            assert_eq!(flush(18..19, 1 << 20).await?, 0, "a flush that takes longer to write twice");
            assert_eq!(flush(0..0, 4096).await?, 0, "nothing is flushed");
            assert_eq!(flush(0..4, 4096).await?, 260, "what was taken at once and since");
            // Into the next segment.
            let mut taken = 0;
            while taken < 2048 {
                taken += flush(20..100, 4096).await?;
            }
            assert_eq!(flush(0..8, 4096).await?, 8);
            let seen: Vec<u8> = pool.read(volume, 0, 4096).await?.buf.expect("data").to_vec();
            assert!(seen.iter().all(|byte| *byte == 1));
            Ok::<_, Error>(())
        });
        done.expect("nothing fails");
    }

    #[test]
    fn a_pool_that_is_nearly_full_keeps_its_blocks_at_hand() {
        let done = block_on(async {
            let (disk, pool, volume) = make().await?;
            let mut at = 0;
            while write(&pool, volume, at, 1).await.is_ok() {
                at += 1 << 20;
            }
            rest(&disk, &pool).await?;
            let (free, before) = (free(&pool), written(&disk));
            assert!(free > 0);
            rest(&disk, &pool).await?;
            assert_eq!(written(&disk), before);
            Ok::<_, Error>(())
        });
        done.expect("nothing fails");
    }
}
