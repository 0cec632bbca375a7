//! The journal's batches: group commit with one barrier for data and journal together.
//!
//! ```text
//! flush ──► records so far durable? ──► done
//!             │ no, a commit is running: wait for it, look again
//!             └ no: seal the log as one batch, write it, fdatasync, tell everybody
//! ```
//!
//! A batch's header says up to which batch all was confirmed when it was sealed. The data that a batch's records
//! point to was written before the records were appended, so the same barrier makes both durable; a crash may leave
//! the batch without some of the data, and replay verifies the data of the batches that nobody confirmed.
//!
//! Where writes were flushed one by one, the next is written *ahead*: its record is known before its data is written, so the
//! batch goes to the disk together with the data, and the flush finds nothing to do but the barrier.
//!
//! ```text
//! write ──► allocate, foresee the record, close the log ──► data ┐
//!                                                          batch ┴──► publish, seal, open the log, answer
//! ```
//!
//! Until it is published the batch is no part of the log: if the write fails, its first block is zeroed for good before the log takes
//! other records, for the next process would take it for the log's end and leave what was answered behind it.
//!
//! **Invariant:** at most one batch is sealed and not yet durable.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join;

use crate::codec::Writer;
use crate::defect::{Defect, planted};
use crate::disk::{Buf as _, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{HEADER_BYTES, JOURNAL_START, Kind, seal};
use crate::pool::Pool;
use crate::record::Record;
use crate::state::{Blocked, State};
use crate::sync::yield_now;
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BatchSeq, BlockAddr, Lsn};

/// Bytes of a batch before its first record.
pub(crate) const BATCH_HEADER_BYTES: usize = HEADER_BYTES + 24;

/// Flushes in a row that found one write each in the log, after which the next write is expected to be flushed alone, too.
const LONE_FLUSHES: u32 = 2;

/// A batch taken out of the log, ready to be written.
pub(crate) struct Sealed {
    bytes: Vec<u8>,
    records: u32,
    first_lsn: Lsn,
    pos: u64,
    mark: Mark,
}

/// What a barrier makes durable with a batch.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    seq: BatchSeq,
    end_lsn: Lsn,
    confirmed: BatchSeq,
    empty: bool,
}

/// A batch that is written together with the data of its only record.
#[derive(Clone, Copy, Default)]
pub(crate) enum Ahead {
    #[default]
    None,
    /// It is being written. Until its record is in the log, no other record may be appended.
    Writing,
    /// It is sealed and written. Its barrier comes with the next flush.
    Written(Mark),
}

/// Blocks that a batch with this many bytes of records takes.
pub(crate) fn batch_blocks(record_bytes: usize) -> u64 {
    ((BATCH_HEADER_BYTES + record_bytes).div_ceil(BLOCK_BYTES)) as u64
}

/// The newest batch that a durable batch `seq`, whose header names `confirmed`, proves to be durable. One without
/// records has nothing that replay would have to doubt, so it counts itself when nothing stands between the two.
pub(crate) fn confirmed_by(seq: BatchSeq, confirmed: BatchSeq, empty: bool) -> BatchSeq {
    if empty && confirmed.0 + 1 == seq.0 { seq } else { confirmed }
}

fn seal_log(state: &mut State) -> Sealed {
    let seq = state.ring.next_seq;
    let bytes = std::mem::take(&mut state.log).into_bytes();
    let records = std::mem::take(&mut state.log_records);
    let pos = state.ring.pos;
    state.ring.next_seq = BatchSeq(seq.0 + 1);
    state.ring.pos += batch_blocks(bytes.len());
    state.space.seal_limbo(seq);
    if let Some(shadow) = &mut state.shadow {
        shadow.next_batch(state.ring.next_seq, state.lsn);
    }
    state.sealed_bytes += std::mem::take(&mut state.unflushed_bytes);
    state.log_age = Duration::ZERO;
    let first_lsn = Lsn(state.lsn.0 - u64::from(records));
    let confirmed = if planted(Defect::BatchConfirmsItself) { seq } else { state.ring.durable_seq };
    let mark = Mark { seq, end_lsn: state.lsn, confirmed, empty: records == 0 };
    Sealed { bytes, records, first_lsn, pos, mark }
}

/// Publishes what was written ahead and seals its batch, which is written already; or it is given back, to be written again,
/// if it is not what was foreseen. Otherwise the log stays closed.
fn publish_ahead(
    state: &mut State,
    foreseen: &[u8],
    mark: Mark,
    publish: &impl Fn(&mut State) -> Result<Lsn, Blocked>,
) -> Result<(Lsn, Option<Sealed>), Blocked> {
    state.ahead = Ahead::None;
    let lsn = publish(state).inspect_err(|_| state.ahead = Ahead::Writing)?;
    let as_foreseen = state.log.bytes() == foreseen;
    debug_assert!(as_foreseen, "the log was closed");
    let sealed = seal_log(state);
    if as_foreseen {
        state.ahead = Ahead::Written(mark);
    }
    Ok((lsn, (!as_foreseen).then_some(sealed)))
}

impl State {
    fn fence(&mut self, error: &Error) {
        if !planted(Defect::FenceForgotten) {
            self.fenced.get_or_insert_with(|| error.with_cause());
        }
    }

    /// Whether no record may be appended now.
    pub(crate) fn log_is_closed(&self) -> bool {
        matches!(self.ahead, Ahead::Writing) && !planted(Defect::LogLeftOpen)
    }

    /// Whether there is anything that a flush would make durable.
    pub(crate) fn has_unflushed(&self) -> bool {
        self.log_records > 0 || matches!(self.ahead, Ahead::Written(_))
    }

    /// Whether the next write should be written together with its batch: those before it were flushed one by one, and nothing
    /// is under way that the batch would meet.
    pub(crate) fn may_write_ahead(&self) -> bool {
        self.lone_flushes >= LONE_FLUSHES
            && self.log_records == 0
            && matches!(self.ahead, Ahead::None)
            && !self.commit_running
            && !self.checkpoint_running
            && self.fenced.is_none()
    }

    /// The batch that the log will be sealed as once this is its only record. The log is closed until then, and whoever asked
    /// leads the commit; nothing when the ring has no room.
    pub(crate) fn foresee_batch(&mut self, record: &Record) -> Option<Sealed> {
        let mut bytes = Writer::default();
        record.encode(&mut bytes);
        if !self.fits_ring(bytes.len()) {
            return None;
        }
        self.commit_running = true;
        self.ahead = Ahead::Writing;
        let mark = Mark {
            seq: self.ring.next_seq,
            end_lsn: Lsn(self.lsn.0 + 1),
            confirmed: self.ring.durable_seq,
            empty: false,
        };
        let (pos, first_lsn) = (self.ring.pos, self.lsn);
        if let Some(shadow) = &mut self.shadow
            && !planted(Defect::AheadUnannounced)
        {
            shadow.foresee(mark.seq, mark.end_lsn, bytes.bytes());
        }
        Some(Sealed { bytes: bytes.into_bytes(), records: 1, first_lsn, pos, mark })
    }
}

impl<D: Disk> Pool<D> {
    /// Makes every write and change that was answered before this call durable.
    pub async fn flush(&self) -> Result<()> {
        let lsn = self.state.lock().lsn;
        self.flush_to(lsn).await
    }

    /// Makes every record up to `lsn` durable: what [`Pool::write`] and [`Pool::zero`] returned.
    pub async fn flush_to(&self, lsn: Lsn) -> Result<()> {
        loop {
            let listener = self.committed.listen();
            if planted(Defect::FlushOneRecordShort) || planted(Defect::FlushNotWaitedFor) {
                // Whoever tries again until there is room would keep the thread to itself.
                yield_now().await;
            }
            let lead = {
                let mut state = self.state.lock();
                let short = u64::from(planted(Defect::FlushOneRecordShort));
                if state.durable_lsn.0 + short >= lsn.0 {
                    return Ok(());
                }
                state.writable()?;
                let lead =
                    !std::mem::replace(&mut state.commit_running, true) || planted(Defect::BatchesOverlap);
                if lead {
                    let written = matches!(state.ahead, Ahead::Written(_));
                    let lone = u32::from(written) + state.log_records == 1;
                    state.lone_flushes = if lone { state.lone_flushes.saturating_add(1) } else { 0 };
                }
                lead
            };
            if lead {
                match self.take_ahead() {
                    Some(mark) => self.harden(mark).await?,
                    None => self.commit().await?,
                }
            } else if planted(Defect::FlushNotWaitedFor) {
                return Ok(());
            } else {
                listener.await;
            }
        }
    }

    /// Writes a batch even if it is empty, so that the disk itself says that the ones before it are durable.
    pub(crate) async fn confirm(&self) -> Result<()> {
        if self.lead_commit().await? { self.commit().await } else { Ok(()) }
    }

    /// Becomes the one who commits; `false` when somebody else has just committed instead, or what was written ahead is durable
    /// now.
    async fn lead_commit(&self) -> Result<bool> {
        let listener = self.committed.listen();
        let leads = {
            let mut state = self.state.lock();
            state.writable()?;
            !std::mem::replace(&mut state.commit_running, true)
        };
        if !leads {
            listener.await;
            return Ok(false);
        }
        match self.take_ahead() {
            None => Ok(true),
            Some(mark) => {
                // Nobody has flushed it.
                self.state.lock().lone_flushes = 0;
                self.harden(mark).await.map(|()| false)
            }
        }
    }

    /// The batch that still needs its barrier, for whoever leads the commit.
    fn take_ahead(&self) -> Option<Mark> {
        let ahead = &mut self.state.lock().ahead;
        let Ahead::Written(mark) = *ahead else { return None };
        *ahead = Ahead::None;
        (!planted(Defect::AheadForgotten)).then_some(mark)
    }

    /// Runs a step that appends records without being admitted, once the log takes them.
    pub(crate) async fn when_open<R>(&self, step: impl FnOnce(&mut State) -> R) -> R {
        loop {
            let listener = self.committed.listen();
            {
                let mut state = self.state.lock();
                if !state.log_is_closed() {
                    return step(&mut state);
                }
            }
            listener.await;
        }
    }

    /// Writes the only part of a batch together with the journal's batch that will hold its record, then publishes it. The
    /// log is closed.
    pub(crate) async fn write_ahead(
        &self,
        data: impl Future<Output = std::io::Result<()>>,
        sealed: Sealed,
        publish: impl Fn(&mut State) -> Result<Lsn, Blocked>,
    ) -> Result<Lsn, Blocked> {
        let (bytes, pos, mark) = (sealed.bytes.clone(), sealed.pos, sealed.mark);
        let (data, batch) = join(data, self.put_batch(sealed)).await;
        if let Err(error) = batch {
            self.fence(&error);
            self.reopen_log();
            return Err(error.into());
        }
        if let Err(error) = data {
            self.retract(pos, mark.seq, &bytes).await;
            return Err(Error::io("writing data", error).into());
        }
        loop {
            let published = publish_ahead(&mut self.state.lock(), &bytes, mark, &publish);
            let blocked = match published {
                Ok((lsn, None)) => {
                    self.end_commit();
                    return Ok(lsn);
                }
                Ok((lsn, Some(sealed))) => {
                    // It is answered, whether or not it is durable; an error has fenced the pool.
                    _ = self.write_batch(sealed).await;
                    return Ok(lsn);
                }
                Err(blocked) => blocked,
            };
            let blocked = match blocked {
                Blocked::Missing(missing, guard) => match self.load(&guard, missing).await {
                    Ok(()) => continue,
                    Err(error) => error.into(),
                },
                blocked => blocked,
            };
            self.retract(pos, mark.seq, &bytes).await;
            return Err(blocked);
        }
    }

    /// Takes back a batch whose record will not be in the log: the next process must not take it for the log's end, behind
    /// which what this one answers from now on would be lost. It is gone for good before a read or a flush says that the
    /// write never happened; where it cannot be taken back, the shadow goes on saying that it does not count.
    async fn retract(&self, pos: u64, seq: BatchSeq, record: &[u8]) {
        let before = self.state.lock().shadow.as_mut().map(|shadow| shadow.disown(seq, record));
        let addr = BlockAddr(JOURNAL_START + pos % self.geometry.journal_blocks);
        let mut nothing = self.disk.alloc(BLOCK_BYTES);
        nothing.fill(0);
        let zeroed = self.disk.write(addr.offset(), vec![nothing]).await.0;
        let gone = match zeroed.map_err(|error| Error::io("taking back a batch of the journal", error)) {
            Ok(()) => self.barrier().await,
            Err(error) => Err(error),
        };
        match gone {
            Ok(()) => {
                let mut state = self.state.lock();
                let fenced = state.fenced.is_some();
                if let Some((shadow, before)) = state.shadow.as_mut().zip(before).filter(|_| !fenced) {
                    shadow.disowned(before);
                }
            }
            Err(error) => self.fence(&error),
        }
        self.reopen_log();
    }

    fn reopen_log(&self) {
        self.state.lock().ahead = Ahead::None;
        self.end_commit();
    }

    /// Seals and writes one batch. The caller has set `commit_running`.
    async fn commit(&self) -> Result<()> {
        loop {
            let sealed = {
                let mut state = self.state.lock();
                state.fits_ring(state.log.len()).then(|| seal_log(&mut state))
            };
            if let Some(sealed) = sealed {
                return self.write_batch(sealed).await;
            }
            self.end_commit();
            self.checkpoint().await?;
            if !self.lead_commit().await? {
                return Ok(());
            }
        }
    }

    /// Seals the log as one batch, calls `freeze` at that point of the log, then writes the batch: whatever `freeze`
    /// took is exactly what the records up to the end of the batch made.
    pub(crate) async fn commit_and<R>(&self, freeze: impl FnOnce(&mut State) -> R) -> Result<R> {
        while !self.lead_commit().await? {}
        let (frozen, sealed) = {
            let mut state = self.state.lock();
            let confirmed = state.ring.durable_seq == state.ring.confirmed_seq;
            let room = state.ring_has_room();
            // With nothing to say there is no batch: not when nothing is to be confirmed, and not in a ring that is full,
            // as two lives that ended in a checkpoint leave it. The superblock will confirm all.
            let silent = state.log_records == 0 && (confirmed || !room);
            if !silent && !room {
                drop(state);
                return Err(self.ring_is_full());
            }
            if planted(Defect::FrozenBeforeItsBatch) {
                let frozen = freeze(&mut state);
                (frozen, (!silent).then(|| seal_log(&mut state)))
            } else {
                let sealed = (!silent).then(|| seal_log(&mut state));
                (freeze(&mut state), sealed)
            }
        };
        match sealed {
            Some(sealed) => self.write_batch(sealed).await?,
            None => self.end_commit(),
        }
        Ok(frozen)
    }

    /// Writes the log as one batch, even an empty one, where [`Pool::commit`] would make a checkpoint first: that takes
    /// blocks, which must not happen while opening does not know yet of all that are in use.
    pub(crate) async fn commit_in_place(&self) -> Result<()> {
        while !self.lead_commit().await? {}
        let sealed = {
            let mut state = self.state.lock();
            state.ring_has_room().then(|| seal_log(&mut state))
        };
        match sealed {
            Some(sealed) => self.write_batch(sealed).await,
            None => Err(self.ring_is_full()),
        }
    }

    /// Ends a commit for which there is no room.
    fn ring_is_full(&self) -> Error {
        let error = Error::new(ErrorKind::NoSpace, "the journal is full and no checkpoint could free it");
        self.fence(&error);
        self.end_commit();
        error
    }

    fn end_commit(&self) {
        self.state.lock().commit_running = false;
        self.committed.notify_all();
    }

    async fn write_batch(&self, sealed: Sealed) -> Result<()> {
        let mark = sealed.mark;
        if let Err(error) = self.put_batch(sealed).await {
            self.fence(&error);
            self.end_commit();
            return Err(error);
        }
        self.harden(mark).await
    }

    /// Makes a batch durable that is written, and ends the commit.
    async fn harden(&self, Mark { seq, end_lsn, confirmed, empty }: Mark) -> Result<()> {
        let hardened = if planted(Defect::BatchBarrierOmitted) { Ok(()) } else { self.barrier().await };
        if let Err(error) = hardened {
            // What was asked to be durable may not be, and asking again would not tell: the kernel drops the pages
            // that it failed to write.
            self.fence(&error);
            self.end_commit();
            return Err(error);
        }
        let reclaimed = {
            let mut state = self.state.lock();
            state.ring.durable_seq = seq;
            if let Some(shadow) = &mut state.shadow {
                // Before anybody is told, and also when another barrier has failed meanwhile: this one has not.
                shadow.made_durable(seq);
            }
            let confirmed = confirmed_by(seq, confirmed, empty);
            state.ring.confirmed_seq = state.ring.confirmed_seq.max(confirmed);
            state.durable_lsn = state.durable_lsn.max(end_lsn);
            state.reclaim()
        };
        self.end_commit();
        if reclaimed? {
            self.work.notify_all();
        }
        Ok(())
    }

    /// Writes the batch into the ring, in two parts where it goes over the ring's end.
    async fn put_batch(&self, sealed: Sealed) -> Result<()> {
        let blocks = batch_blocks(sealed.bytes.len());
        let ring = self.geometry.journal_blocks;
        let at = sealed.pos % ring;
        let addr = BlockAddr(JOURNAL_START + at);
        let mut buf = self.disk.alloc((blocks * BLOCK_SIZE) as usize);
        buf.fill(0);
        buf[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&(sealed.bytes.len() as u32).to_le_bytes());
        buf[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&sealed.records.to_le_bytes());
        buf[HEADER_BYTES + 8..HEADER_BYTES + 16].copy_from_slice(&sealed.mark.confirmed.0.to_le_bytes());
        buf[HEADER_BYTES + 16..HEADER_BYTES + 24].copy_from_slice(&sealed.first_lsn.0.to_le_bytes());
        buf[BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + sealed.bytes.len()].copy_from_slice(&sealed.bytes);
        seal(&mut buf, Kind::Journal, &self.id, addr, sealed.mark.seq.0);
        let before_end = (ring - at).min(blocks);
        let rest = buf.split_off((before_end * BLOCK_SIZE) as usize);
        let fail = |e| Error::io("writing the journal", e);
        self.disk.write(addr.offset(), vec![buf]).await.0.map_err(fail)?;
        if !rest.is_empty() && !planted(Defect::BatchCutAtTheRingsEnd) {
            self.disk.write(BlockAddr(JOURNAL_START).offset(), vec![rest]).await.0.map_err(fail)?;
        }
        Ok(())
    }

    /// One barrier; never tried again when it fails. Only one is in flight at a time: of two that cover the same
    /// failed write the kernel tells only one, and the other would look like success.
    pub(crate) async fn barrier(&self) -> Result<()> {
        let _token = self.syncing.acquire().await;
        {
            let mut state = self.state.lock();
            state.writable()?;
            state.barriers += 1;
        }
        let mut synced = self.disk.sync().await;
        if synced.is_err() && planted(Defect::FailedBarrierTriedAgain) {
            synced = self.disk.sync().await;
        }
        let synced = synced.map_err(|e| Error::io("making writes durable", e));
        // Before the next barrier may begin, and before anybody is told.
        synced.inspect_err(|error| {
            let mut state = self.state.lock();
            if let Some(shadow) = &mut state.shadow
                && !planted(Defect::FailedBarrierNotNoted)
            {
                shadow.barrier_failed();
            }
            state.fence(error);
            drop(state);
            self.work.notify_all();
        })
    }

    /// Refuses all further writes: what the disk holds is not known any more.
    pub(crate) fn fence(&self, error: &Error) {
        self.state.lock().fence(error);
        self.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use crate::sim::{SimDisk, block_on};
    use crate::{CreateOptions, Error, Options, Pool};

    /// Processes that die in a checkpoint each may leave a ring without a free block, and a last batch that nobody has
    /// confirmed. The batch that would do that has no place, and the pool could not be opened any more.
    #[test]
    fn a_checkpoint_of_a_full_ring_needs_no_batch() {
        let full = block_on(async {
            let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(SimDisk::file(64 << 20), [1; 16], create, Options::default()).await?;
            pool.create_volume("v", 1 << 20, "").await?;
            {
                let mut state = pool.state.lock();
                assert!(state.ring.durable_seq > state.ring.confirmed_seq);
                state.ring.pos = state.ring.tail + state.geometry.journal_blocks;
            }
            pool.checkpoint().await?;
            let state = pool.state.lock();
            Ok::<_, Error>((
                state.ring.pos - state.ring.tail,
                state.ring.confirmed_seq == state.ring.durable_seq,
            ))
        });
        assert_eq!(full.expect("a checkpoint"), (0, true));
    }
}
