//! What a pool does by itself: flush what nobody flushed, confirm, checkpoint, grow, give back, evict, zero new space.

use std::time::Duration;

use crate::defect::{Defect, planted};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::record::Record;
use crate::state::State;
use crate::sync::yield_now;
use crate::types::{BLOCK_SIZE, PoolStatus};
use crate::write::UNFLUSHED_SOFT_BYTES;

/// The longest that a record waits for somebody's flush before the background flushes it.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Time without any change after which the last batch is confirmed ...
const CONFIRM_AFTER: Duration = Duration::from_millis(200);
/// ... and after which a checkpoint makes the next start quick.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(30);
/// Steps of making freed blocks reusable in one call, ...
const RECLAIM_STEPS: usize = 64;
/// ... and of giving back deleted versions.
const REAP_STEPS: usize = 16;
/// The pool grows before less than this is free, so that writers need not wait for it.
const GROW_AHEAD_BYTES: u64 = 128 << 20;
/// How often a writer looks for room in a full pool while reads hold back what was freed.
const ROOM_TRIES: u32 = 200;
/// The most segments that are added ahead of need.
const MOST_GROWTH: usize = 16;

/// What a call found to do.
struct Duties {
    flush: bool,
    confirm: bool,
    checkpoint: bool,
    grow: bool,
    zero: bool,
    zero_ahead: bool,
}

impl State {
    fn duties(&mut self, limit: usize, elapsed: Duration) -> Duties {
        self.idle += elapsed;
        self.log_age = if self.has_unflushed() { self.log_age + elapsed } else { Duration::ZERO };
        let ring = self.geometry.journal_blocks;
        let used = self.ring.pos - self.ring.tail;
        let ahead = (GROW_AHEAD_BYTES / BLOCK_SIZE).min(u64::from(self.geometry.segment_blocks));
        let changed = self.dirty > 0 || used > 0;
        // Space is traded for contiguous writes, but never more than a quarter of the pool.
        let spread = self.space.free() < self.space.capacity() / 4 && self.space.is_in_pieces();
        Duties {
            flush: self.has_unflushed()
                && (self.log_age >= FLUSH_AFTER || self.unflushed_bytes > UNFLUSHED_SOFT_BYTES),
            confirm: self.log_records == 0
                && self.ring.durable_seq > self.ring.confirmed_seq
                && self.idle >= CONFIRM_AFTER,
            checkpoint: used > ring / 2
                || self.dirty > self.dirty_limit() / 2
                || (changed && self.idle >= CHECKPOINT_AFTER),
            // What is still to be made reusable may do.
            grow: self.space.segment_count() < limit
                && (self.data_blocks_free() < ahead || spread)
                && !self.can_reclaim(),
            zero: self.is_quiet(elapsed),
            zero_ahead: self.flushes_little(elapsed),
        }
    }
}

impl<D: Disk> Pool<D> {
    /// Background duties. Call it about every 100 ms, and whenever [`Pool::wait_for_work`] resolves, with the time
    /// since the last call; `true` means that more is waiting and it should be called again at once. An error has been
    /// dealt with as far as it can be (a failed barrier has fenced the pool) and is for the log.
    pub async fn maintain(&self, elapsed: Duration) -> Result<bool> {
        for _ in 0..RECLAIM_STEPS {
            if !self.reclaim_step()? {
                break;
            }
            yield_now().await;
        }
        let duties = {
            let mut state = self.state.lock();
            if state.fenced.is_some() {
                return Ok(false);
            }
            let most_segments = self.geometry.segments_in(state.limit);
            state.duties(most_segments, elapsed)
        };
        if duties.flush {
            self.flush().await?;
        }
        if duties.confirm {
            self.confirm().await?;
        }
        if duties.grow {
            self.grow_ahead().await?;
        }
        if duties.checkpoint {
            self.checkpoint().await?;
        }
        let reaping = self.reap_some(REAP_STEPS).await.inspect_err(|error| {
            if error.kind() == ErrorKind::Io {
                self.state.lock().reap_hindered += elapsed;
            }
        })?;
        if duties.zero_ahead {
            self.zero_ahead().await?;
        }
        if duties.zero && !reaping {
            self.zero_some().await?;
        }
        Ok(reaping || self.state.lock().can_reclaim())
    }

    /// Makes some of what was freed reusable; returns whether there is more of it.
    fn reclaim_step(&self) -> Result<bool> {
        let mut state = self.state.lock();
        if state.fenced.is_some() { Ok(false) } else { state.reclaim() }
    }

    /// Makes reusable what was freed until `blocks` can be allocated for data, or nothing is left; returns whether they
    /// can.
    async fn reclaim_for(&self, blocks: u64) -> Result<bool> {
        while self.state.lock().data_blocks_free() < blocks {
            if !self.reclaim_step()? {
                return Ok(self.state.lock().data_blocks_free() >= blocks);
            }
            yield_now().await;
        }
        Ok(true)
    }

    /// Resolves when there is something to do before the next regular call of [`Pool::maintain`].
    pub async fn wait_for_work(&self) {
        self.work.listen().await;
    }

    /// Adds segments ahead of need, as many as suit the pool's size.
    async fn grow_ahead(&self) -> Result<()> {
        let now = self.state.lock().space.segment_count();
        let target = now + (now / 8).clamp(1, MOST_GROWTH);
        loop {
            match self.grow(|state| state.space.segment_count() < target).await {
                // Writers that wait for room go first.
                Ok(true) => yield_now().await,
                Ok(false) => return Ok(()),
                // What was added counts; if more is needed and the error stays, the next growth tells of it.
                Err(_) if self.state.lock().space.segment_count() > now => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds a segment if it is wanted when its turn comes, unless the pool has reached its limit or there is no room
    /// below it. One at a time: while a file system takes space for a file, writes to the file wait.
    async fn grow(&self, wanted: impl FnOnce(&State) -> bool) -> Result<bool> {
        let _token = self.growing.acquire().await;
        let segments = {
            let state = self.state.lock();
            state.writable()?;
            let segments = state.space.segment_count() + 1;
            if segments > self.geometry.segments_in(state.limit) || !wanted(&state) {
                return Ok(false);
            }
            segments
        };
        if planted(Defect::GrowthLoggedFirst) {
            let mut state = self.state.lock();
            state.space.add_segments(1);
            state.append(&Record::Grow { segments: segments as u64 });
        }
        if let Err(e) = self.disk.grow(self.geometry.bytes_with(segments)).await {
            let error = Error::io("growing the pool", e);
            return if error.kind() == ErrorKind::NoSpace { Ok(false) } else { Err(error) };
        }
        if !planted(Defect::GrowthLoggedFirst) {
            self.when_open(|state| {
                state.space.add_segments(1);
                state.append(&Record::Grow { segments: segments as u64 });
            })
            .await;
        }
        Ok(true)
    }

    /// Sees to it that `blocks` can be allocated for data: grows, takes back what waits, finishes deletions. Fails
    /// with `NoSpace` when nothing is left that could help.
    pub(crate) async fn make_room(&self, blocks: u64) -> Result<()> {
        let _token = self.making_room.acquire().await;
        for _ in 0..ROOM_TRIES {
            if self.reclaim_for(blocks).await? {
                return Ok(());
            }
            if self.grow(|state| state.data_blocks_free() < blocks).await? {
                // One is enough for whoever waits; the background adds more.
                self.work.notify_all();
                continue;
            }
            if self.reclaim_for(blocks).await? {
                return Ok(());
            }
            // What cannot be given back because its map is damaged is for the background to report.
            let reaping = self.reap_some(REAP_STEPS).await.unwrap_or(true);
            self.flush().await?;
            let (unconfirmed, replaced) = {
                let state = self.state.lock();
                (
                    state.ring.durable_seq > state.ring.confirmed_seq,
                    state.dirty > 0 || !state.superseded.is_empty(),
                )
            };
            if unconfirmed {
                self.confirm().await?;
            }
            if replaced {
                self.checkpoint_from_now().await?.let_go().await;
            }
            if self.reclaim_for(blocks).await? {
                return Ok(());
            }
            let waiting = {
                let state = self.state.lock();
                reaping || state.space.limbo_blocks() > 0 || !state.superseded.is_empty()
            };
            if !waiting {
                break;
            }
            // Reads hold it back; they end as soon as they get their turn.
            yield_now().await;
        }
        Err(self.full())
    }

    fn full(&self) -> Error {
        let PoolStatus { size, limit, .. } = self.status();
        let why = if size + BLOCK_SIZE * u64::from(self.geometry.segment_blocks) > limit {
            "the pool is full: delete snapshots or volumes, or trim"
        } else {
            "the file system below the pool is full: make room there, or delete snapshots or volumes"
        };
        Error::new(ErrorKind::NoSpace, why)
    }
}
