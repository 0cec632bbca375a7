//! Opening a pool: the newest superblock, its catalog and space map, then the journal from where they end.
//!
//! What replay restores is always a prefix of the log. All batches that a later batch calls confirmed are taken as
//! they are; of the others (the last one, as a rule) the data that each record points to is verified, and the log
//! ends before the first record whose data did not reach the disk. Where a barrier failed and the machine runs on, the disk
//! gives back what it may yet lose: the log then ends with the batch that the memory names which outlived the process
//! ([`crate::shadow`]). Leaves are not read: what the journal says of
//! them waits beside their address until somebody needs them ([`crate::node::CellState::Patched`]).

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::slot_crc;
use crate::codec::Reader;
use crate::commit::{BATCH_HEADER_BYTES, batch_blocks, confirmed_by};
use crate::defect::{Defect, planted};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    Geometry, HEADER_BYTES, HeaderFault, INCOMPAT_ATTRIBUTES, JOURNAL_START, Kind, MAX_POOL_BLOCKS, PoolId,
    SUPERBLOCKS, Superblock, crc_is_right, peek, unseal,
};
use crate::map::{Superseded, fill_step, set_entries, visit};
use crate::node::{Entry, entry_span};
use crate::pool::{Loaded, Options, Pool};
use crate::record::Record;
use crate::repair::Mend;
use crate::shadow::{JournalEnd, Left, Leftover, Shadow, batch_crc, shadow_bytes};
use crate::space::{Bits, Run, Space, StoredSlot};
use crate::state::{Blocked, Ring, State};
use crate::sync::{join_all, yield_now};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, BatchSeq, BlockAddr, Lsn, VersionId};
use crate::version::Versions;

/// Reads in flight while a pool is opened.
const WIDTH: usize = 64;

/// A batch as found in the ring.
pub(crate) struct Batch {
    pub(crate) seq: BatchSeq,
    pub(crate) confirmed: BatchSeq,
    pub(crate) records: Vec<Record>,
    /// What ties the next batch to this one.
    crc: u32,
}

/// All batches after the checkpoint.
pub(crate) struct Log {
    pub(crate) batches: Vec<Batch>,
    end_pos: u64,
    /// Behind them is the beginning of the next one, and not all of it.
    torn: bool,
}

impl Log {
    fn last_seq(&self, superblock: &Superblock) -> BatchSeq {
        self.batches.last().map_or(BatchSeq(superblock.journal_seq.0 - 1), |b| b.seq)
    }

    /// The newest batch that needs no verification.
    fn confirmed(&self, superblock: &Superblock) -> BatchSeq {
        self.proven(superblock, |b| confirmed_by(b.seq, b.confirmed, b.records.is_empty()))
    }

    /// The newest batch that the superblock or, by what `says` makes of it, the last batch proves to be durable.
    fn proven(&self, superblock: &Superblock, says: impl Fn(&Batch) -> BatchSeq) -> BatchSeq {
        let base = BatchSeq(superblock.journal_seq.0 - 1);
        self.batches.last().map_or(base, |batch| says(batch).max(base))
    }

    /// How many segments the pool has in the end, if it grew, and no more than it can have.
    fn segments(&self, geometry: Geometry) -> usize {
        let most = geometry.segments_in(MAX_POOL_BLOCKS * BLOCK_SIZE);
        let grown = self.batches.iter().flat_map(|batch| &batch.records).filter_map(|record| match record {
            Record::Grow { segments } => usize::try_from(*segments).ok(),
            _ => None,
        });
        grown.max().unwrap_or(0).min(most)
    }

    fn end(&self, superblock: &Superblock) -> JournalEnd {
        let records: u64 = self.batches.iter().map(|batch| batch.records.len() as u64).sum();
        JournalEnd {
            generation: superblock.generation,
            start: superblock.journal_seq,
            seq: self.last_seq(superblock),
            lsn: Lsn(superblock.journal_lsn.0 + records),
            crc: self.batches.last().map(|batch| batch.crc),
            // The last one says nothing of itself: it may be gone with the power.
            confirmed: if planted(Defect::LastBatchVouchesForItself) {
                self.confirmed(superblock)
            } else {
                self.proven(superblock, |batch| batch.confirmed)
            },
        }
    }
}

/// What the two places of the superblock hold.
pub(crate) struct Superblocks {
    /// The one to start from.
    pub(crate) newest: Superblock,
    copies: [Option<Superblock>; 2],
}

impl Superblocks {
    fn first_is_newest(&self) -> bool {
        self.copies[0].as_ref() == Some(&self.newest)
    }

    fn second_is_older(&self) -> bool {
        self.copies[1].as_ref().is_some_and(|second| *second != self.newest)
    }
}

pub(crate) async fn read_block<D: Disk>(disk: &D, addr: BlockAddr, what: &str) -> Result<D::Buf> {
    if addr.offset() + BLOCK_SIZE > disk.len() {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!(
                "the pool is truncated: its {what} should stand at byte {}, but it is only {} bytes long",
                addr.offset(),
                disk.len()
            ),
        ));
    }
    let (result, block) = disk.read(addr.offset(), disk.alloc(BLOCK_BYTES)).await;
    result.map_err(|e| Error::io(format!("reading the {what}"), e))?;
    Ok(block)
}

/// Finds the superblock to start from: the newest, whether its barrier succeeded or not. What it leads to was durable
/// before it was written.
pub(crate) async fn read_superblocks<D: Disk>(disk: &D) -> Result<Superblocks> {
    let mut copies = [None, None];
    let mut foreign = 0;
    for (addr, copy) in SUPERBLOCKS.into_iter().zip(&mut copies) {
        if addr.offset() + BLOCK_SIZE > disk.len() {
            foreign += 1;
            continue;
        }
        match Superblock::decode(addr, &read_block(disk, addr, "superblock").await?)? {
            Ok(superblock) => *copy = Some(superblock),
            Err(HeaderFault::Foreign) => foreign += 1,
            Err(HeaderFault::Damaged) => {}
        }
    }
    if let [Some(first), Some(second)] = &copies
        && first.pool != second.pool
    {
        return Err(Error::new(ErrorKind::Corrupt, "the two superblocks are of different pools"));
    }
    match copies.iter().flatten().max_by_key(|s| s.generation).cloned() {
        Some(newest) => Ok(Superblocks { newest, copies }),
        None if foreign == SUPERBLOCKS.len() => Err(Error::new(
            ErrorKind::NotAPool,
            "this is not a cairn pool: it has no superblock; nothing was changed",
        )),
        None => Err(Error::new(ErrorKind::Corrupt, "both superblocks are damaged; nothing was changed")),
    }
}

/// Reads the catalog's chain and returns its contents and its blocks.
pub(crate) async fn read_catalog<D: Disk>(disk: &D, superblock: &Superblock) -> Result<(Vec<u8>, Vec<Run>)> {
    let mut body = Vec::new();
    let mut blocks = Vec::new();
    let mut next = superblock.catalog;
    let mut seen = HashSet::new();
    while next.0 != 0 {
        let block = read_block(disk, next, "catalog").await?;
        let here = next;
        let bad = |why: &str| Error::new(ErrorKind::Corrupt, format!("the catalog block {here} {why}"));
        match unseal(&block, Kind::Catalog, &superblock.pool, next) {
            Ok(generation) if generation == superblock.generation => {}
            Ok(_) => return Err(bad("belongs to another checkpoint")),
            Err(_) if planted(Defect::CatalogChecksumIgnored) => {}
            Err(_) => return Err(bad("does not match its checksum")),
        }
        let mut r = Reader::new(&block[HEADER_BYTES..], "catalog");
        blocks.push(Run { start: next, len: 1 });
        if !seen.insert(next) {
            return Err(bad("is part of a loop"));
        }
        next = BlockAddr(r.u64()?);
        if next.0 >= MAX_POOL_BLOCKS {
            return Err(bad("leads outside the pool"));
        }
        let len = r.u32()? as usize;
        r.u32()?;
        body.extend_from_slice(r.raw(len)?);
    }
    Ok((body, blocks))
}

/// The bits of a segment in its space map's block.
pub(crate) fn segment_bits(block: &[u8], geometry: Geometry) -> Bits {
    let words = geometry.segment_blocks as usize / 64;
    let bytes = &block[HEADER_BYTES + 16..HEADER_BYTES + 16 + words * 8];
    let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
    bytes.chunks_exact(8).map(word).collect()
}

/// Takes the catalog apart: the versions, and where each segment's space map stands.
pub(crate) fn decode_catalog(body: &[u8], superblock: &Superblock) -> Result<(Versions, Vec<StoredSlot>)> {
    let mut r = Reader::new(body, "catalog");
    let versions = Versions::decode(&mut r, has_attributes(superblock))?;
    let count = r.u32()?;
    let slot = |_| Ok(StoredSlot { slot: r.u8()?.min(1), crc: r.u32()? });
    Ok((versions, (0..count).map(slot).collect::<Result<Vec<StoredSlot>>>()?))
}

fn has_attributes(superblock: &Superblock) -> bool {
    superblock.incompat & INCOMPAT_ATTRIBUTES != 0
}

/// Reads the space map: the bits of each segment, or why not.
pub(crate) async fn read_space<D: Disk>(
    disk: &D,
    pool: &PoolId,
    geometry: Geometry,
    slots: &[StoredSlot],
) -> Vec<Result<Bits>> {
    let reads = slots.iter().enumerate().map(|(i, place)| async move {
        let addr = geometry.segment_start(i) + u64::from(place.slot);
        let block = read_block(disk, addr, "space map").await?;
        let right = slot_crc(&block) == place.crc && unseal(&block, Kind::SpaceMap, pool, addr).is_ok();
        if !right && !planted(Defect::SpaceMapChecksumIgnored) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the space map of segment {i} does not match its checksum"),
            ));
        }
        Ok(segment_bits(&block, geometry))
    });
    join_all(reads.collect(), WIDTH).await
}

/// The space map in memory. What cannot be read of it counts as free when it is to be mended, until it is known what is
/// in use.
fn load_space(
    maps: Vec<Result<Bits>>,
    geometry: Geometry,
    slots: &[StoredSlot],
    lanes: usize,
    mend: Option<&mut Mend>,
) -> Result<Space> {
    let mut space = Space::new(geometry, lanes);
    let mut rebuilt = 0;
    for (map, place) in maps.into_iter().zip(slots) {
        match map {
            Err(_) if mend.is_some() => {
                rebuilt += 1;
                // Without a checksum it counts as never stored.
                space.load_segment(Space::fresh_bits(&geometry), StoredSlot { crc: 0, ..*place })?;
            }
            map => space.load_segment(map?, *place)?,
        }
    }
    if let Some(mend) = mend {
        mend.report.segments_rebuilt = rebuilt;
        space.be_lenient();
    }
    Ok(space)
}

/// Reads a part of the ring that may go over its end, and puts it behind what is in `out`. What of it cannot be read is zeroes
/// when it is to be `mended`.
async fn read_ring<D: Disk>(
    disk: &D,
    geometry: Geometry,
    Range { start: mut pos, end }: Range<u64>,
    mended: bool,
    out: &mut Vec<u8>,
) -> Result<()> {
    out.reserve_exact(((end - pos) * BLOCK_SIZE) as usize);
    while pos < end {
        let at = pos % geometry.journal_blocks;
        let part = (geometry.journal_blocks - at).min(end - pos).min(256);
        let offset = (JOURNAL_START + at) * BLOCK_SIZE;
        let (result, buf) = disk.read(offset, disk.alloc((part * BLOCK_SIZE) as usize)).await;
        match result {
            Ok(()) => out.extend_from_slice(&buf),
            Err(_) if mended => {
                for block in 0..part {
                    let at = offset + block * BLOCK_SIZE;
                    let (result, buf) = disk.read(at, disk.alloc(BLOCK_BYTES)).await;
                    match result {
                        Ok(()) => out.extend_from_slice(&buf),
                        Err(_) => out.resize(out.len() + BLOCK_BYTES, 0),
                    }
                }
            }
            Err(e) => return Err(Error::io("reading the journal", e)),
        }
        pos += part;
    }
    Ok(())
}

/// The highest number that any batch in the ring has, intact or not.
async fn highest_batch<D: Disk>(disk: &D, superblock: &Superblock) -> Result<BatchSeq> {
    let geometry = superblock.geometry;
    let mut highest = superblock.journal_seq;
    for pos in 0..geometry.journal_blocks {
        let mut block = Vec::new();
        read_ring(disk, geometry, pos..pos + 1, true, &mut block).await?;
        if let Some((seq, _)) = batch_at(&block, &superblock.pool, geometry, pos) {
            highest = highest.max(seq);
        }
    }
    Ok(highest)
}

/// Length in blocks of the batch that begins here, if its header is one of this pool at this place.
fn batch_at(window: &[u8], pool: &PoolId, geometry: Geometry, pos: u64) -> Option<(BatchSeq, usize)> {
    let header = peek(window).ok()?;
    let addr = BlockAddr(JOURNAL_START + pos % geometry.journal_blocks);
    if header.kind != Kind::Journal as u32 || header.pool != *pool || header.addr != addr {
        return None;
    }
    let len = u32::from_le_bytes(window[HEADER_BYTES..HEADER_BYTES + 4].try_into().ok()?) as usize;
    let bytes = batch_blocks(len) as usize * BLOCK_BYTES;
    (bytes as u64 <= geometry.journal_blocks * BLOCK_SIZE).then_some((BatchSeq(header.generation), bytes))
}

pub(crate) async fn read_log<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    mend: Option<&mut Mend>,
) -> Result<Log> {
    let mended = mend.is_some();
    let geometry = superblock.geometry;
    if geometry.first_segment() * BLOCK_SIZE > disk.len() {
        return Err(Error::new(ErrorKind::Truncated, "the pool is truncated inside its journal"));
    }
    // A batch is never longer than this, so after a damaged one the next lies within.
    let window_blocks = (geometry.journal_blocks / 8).max(8);
    let mut window: Vec<u8> = Vec::new();
    let mut window_pos = superblock.journal_pos;
    let mut pos = superblock.journal_pos;
    let mut expected = superblock.journal_seq;
    let mut batches = Vec::new();
    loop {
        let have = window_pos + (window.len() / BLOCK_BYTES) as u64;
        if have < pos + window_blocks {
            window.drain(..((pos - window_pos) * BLOCK_SIZE) as usize);
            window_pos = pos;
            read_ring(disk, geometry, have..pos + 2 * window_blocks, mended, &mut window).await?;
        }
        let here = &window[((pos - window_pos) * BLOCK_SIZE) as usize..];
        let found = batch_at(here, &superblock.pool, geometry, pos).filter(|(seq, bytes)| {
            (*seq == expected || planted(Defect::BatchNumberIgnored))
                && *bytes <= here.len()
                && (crc_is_right(&here[..*bytes]) || planted(Defect::BatchChecksumIgnored))
        });
        let Some((seq, bytes)) = found else {
            // Has the log ended here, or is one batch of it damaged? Only one is ever written at a time, so another
            // that follows tells that this one was durable.
            for later in 1..window_blocks {
                let rest = &here[(later * BLOCK_SIZE) as usize..];
                if let Some((seq, bytes)) = batch_at(rest, &superblock.pool, geometry, pos + later)
                    && seq > expected
                    && bytes <= rest.len()
                    && crc_is_right(&rest[..bytes])
                {
                    if let Some(mend) = mend {
                        mend.cut_at(expected, highest_batch(disk, superblock).await?);
                        break;
                    }
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!(
                            "journal batch {expected} is damaged although batch {seq} follows it; nothing was changed"
                        ),
                    ));
                }
            }
            let torn =
                batch_at(here, &superblock.pool, geometry, pos).is_some_and(|(seq, _)| seq == expected);
            return Ok(Log { batches, end_pos: pos, torn });
        };
        batches.push(decode_batch(&superblock.pool, &here[..bytes], seq)?);
        pos += (bytes / BLOCK_BYTES) as u64;
        expected = BatchSeq(seq.0 + 1);
    }
}

pub(crate) fn decode_batch(pool: &PoolId, bytes: &[u8], seq: BatchSeq) -> Result<Batch> {
    let mut r = Reader::new(&bytes[HEADER_BYTES..], "journal");
    let len = r.u32()? as usize;
    let count = r.u32()?;
    let confirmed = BatchSeq(r.u64()?);
    let _first_lsn = r.u64()?;
    debug_assert_eq!(HEADER_BYTES + 24, BATCH_HEADER_BYTES);
    let raw = r.raw(len)?;
    let mut r = Reader::new(raw, "journal");
    let records = (0..count).map(|_| Record::decode(&mut r)).collect::<Result<Vec<Record>>>()?;
    if !r.is_empty() {
        return Err(r.bad("a batch holds more than its records"));
    }
    Ok(Batch { seq, confirmed, records, crc: batch_crc(pool, seq, raw) })
}

/// Whether what a record relies on reached the disk: its data, by its checksums, or the space it added.
async fn data_is_there<D: Disk>(disk: &D, record: &Record, geometry: Geometry) -> Result<bool> {
    if let Record::Grow { segments } = record {
        let there = geometry.segments_in(disk.len()) as u64 >= *segments;
        return Ok(there || planted(Defect::GrowthNotVerified));
    }
    let Record::Write { runs, crcs, .. } = record else { return Ok(true) };
    if planted(Defect::DataNotVerified) {
        return Ok(true);
    }
    let mut crcs = crcs.iter();
    for run in runs {
        let (result, buf) = disk.read(run.start.offset(), disk.alloc(run.len as usize * BLOCK_BYTES)).await;
        match result {
            Ok(()) => {}
            // The file may not have got as long as the record needs.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(Error::io("verifying the journal's last writes", e)),
        }
        if !buf.chunks_exact(BLOCK_BYTES).zip(&mut crcs).all(|(block, crc)| crc32fast::hash(block) == *crc) {
            return Ok(false);
        }
        if planted(Defect::OnlyFirstRunVerified) {
            break;
        }
    }
    Ok(true)
}

/// Cuts the log before the first record whose data is not there. Returns whether anything was cut.
async fn cut_unwritten<D: Disk>(
    disk: &D,
    log: &mut Log,
    confirmed: BatchSeq,
    geometry: Geometry,
) -> Result<bool> {
    for i in 0..log.batches.len() {
        let batch = &log.batches[i];
        if batch.seq <= confirmed {
            continue;
        }
        let checks = batch.records.iter().map(|record| data_is_there(disk, record, geometry)).collect();
        let there = join_all(checks, WIDTH).await.into_iter().collect::<Result<Vec<bool>>>()?;
        if let Some(first) = there.iter().position(|there| !there) {
            log.batches[i].records.truncate(first);
            log.batches.truncate(i + 1);
            return Ok(true);
        }
    }
    Ok(false)
}

impl<D: Disk> Pool<D> {
    /// Opens the pool that `disk` holds, after a clean stop or a crash alike.
    pub async fn open(disk: D, options: Options) -> Result<Arc<Pool<D>>> {
        Pool::bring_up(disk, options, None).await
    }

    /// As [`Pool::open`]; a repair takes what cannot be read for lost, and says what that was.
    pub(crate) async fn bring_up(
        disk: D,
        options: Options,
        mut mend: Option<&mut Mend>,
    ) -> Result<Arc<Pool<D>>> {
        let superblocks = read_superblocks(&disk).await?;
        let superblock = &superblocks.newest;
        let geometry = superblock.geometry;
        let (body, catalog) = read_catalog(&disk, superblock).await?;
        let (versions, slots) = decode_catalog(&body, superblock)?;
        if let Some(mend) = mend.as_deref_mut() {
            mend.report.superblock_restored = superblocks.copies.iter().any(Option::is_none);
            mend.lengthen(&disk, geometry.bytes_with(slots.len())).await?;
        }
        check_length(&disk, geometry, slots.len())?;
        let maps = read_space(&disk, &superblock.pool, geometry, &slots).await;
        let space = load_space(maps, geometry, &slots, options.lanes.max(1), mend.as_deref_mut())?;
        let mut log = read_log(&disk, superblock, mend.as_deref_mut()).await?;
        let end = log.end(superblock);
        let damaged_after = mend.as_deref().and_then(|mend| mend.damaged_after);
        let memory = disk.survivor(shadow_bytes(geometry));
        let memory = if damaged_after.is_some() {
            // It continues a log that ends elsewhere.
            memory.into_iter().for_each(|memory| memory.discard());
            None
        } else {
            memory
        };
        let mut shadow = memory.map(|memory| Shadow::new(memory, superblock.pool, geometry));
        let left = shadow.as_mut().map_or(Left::Records(Vec::new()), |shadow| shadow.examine(&end));
        let left = match left {
            Left::Failed { .. } if planted(Defect::FailedBarrierIgnored) => Left::Records(Vec::new()),
            left => left,
        };
        let (last, barrier_failed) = (end.seq, matches!(left, Left::Failed { .. }));
        if let Left::Failed { durable } = left {
            // The rest can be read, and may be gone with the power: a barrier that succeeds now says nothing of it.
            log.batches.retain(|batch| batch.seq <= durable);
        }
        let confirmed = log.confirmed(superblock);
        // What of a torn batch is missing may be the same in the next one, which a crash may tear, too: nothing may take its
        // number, but for the very batch that it was to be.
        let taken_over = matches!(&left, Left::Records(left) if !left.is_empty());
        let torn = log.torn && !taken_over && !planted(Defect::TornBatchLeft);
        let cut = cut_unwritten(&disk, &mut log, confirmed, geometry).await? || barrier_failed || torn;
        let loaded = Loaded {
            id: superblock.pool,
            geometry,
            limit: superblock.limit,
            created_ms: superblock.created_ms,
            generation: superblock.generation,
            versions,
            space,
            ring: Ring {
                tail: superblock.journal_pos,
                tail_seq: superblock.journal_seq,
                pos: log.end_pos,
                next_seq: BatchSeq(damaged_after.unwrap_or(last).0 + 1 + u64::from(torn)),
                // After a cut the last batch must not look confirmed to whoever recovers from a crash in the
                // checkpoint below.
                durable_seq: if cut { confirmed } else { last },
                confirmed_seq: confirmed,
            },
            lsn: superblock.journal_lsn,
            catalog,
        };
        if let Some(mend) = mend.as_deref_mut() {
            mend.lengthen(&disk, geometry.bytes_with(log.segments(geometry))).await?;
        }
        let most_segments = geometry.segments_in(disk.len());
        let pool = Pool::assemble(disk, loaded, &options);
        if let Some(mend) = mend.as_deref_mut() {
            pool.lose_what_is_damaged(mend).await?;
        }
        pool.read_ways(log.batches.iter().flat_map(|batch| &batch.records)).await;
        for batch in &log.batches {
            for record in &batch.records {
                pool.step(|state| replay(state, record, most_segments)).await?;
            }
            // As while running: what a batch freed is reusable once the disk says that the batch is confirmed. Until
            // then another recovery would verify data that may stand in those very blocks.
            pool.state.lock().space.seal_limbo(batch.seq);
            // All of it: the next batch may have been given these blocks.
            let confirmed = if planted(Defect::ReplayFreesTooEarly) { batch.seq } else { confirmed };
            while pool.state.lock().space.reclaim(confirmed)? {
                yield_now().await;
            }
        }
        {
            let mut state = pool.state.lock();
            state.durable_lsn = state.lsn;
            check_length(&pool.disk, geometry, state.space.segment_count())?;
        }
        pool.state.lock().shadow = shadow;
        pool.confirm_superblocks(&superblocks, barrier_failed).await?;
        pool.state.lock().has_patches = true;
        // After a cut nothing that came later can be taken.
        if let Left::Records(leftovers) = left
            && !cut
            && !planted(Defect::ShadowNotTaken)
        {
            pool.take_over(leftovers).await?;
        }
        if let Some(mend) = mend.as_deref_mut() {
            // From here on blocks are handed out.
            let mut state = pool.state.lock();
            let fresh = state.space.protect(&mend.referenced);
            mend.report.claimed = if mend.report.segments_rebuilt == 0 { fresh } else { 0 };
        }
        let crowded = {
            let state = pool.state.lock();
            state.ring.pos - state.ring.tail > geometry.journal_blocks / 2
        };
        if cut && !planted(Defect::CutNotMadeGood)
            || !superblocks.first_is_newest()
            || crowded
            || !has_attributes(&superblocks.newest)
            || mend.is_some()
        {
            // The records that were cut must never be seen again, both superblocks must be good, lives that end in a
            // checkpoint each must not fill the ring, and only a superblock that says so allows records of attributes.
            pool.checkpoint().await?;
        }
        pool.begin_shadow();
        Ok(Arc::new(pool))
    }
}

impl<D: Disk> Pool<D> {
    /// Makes durable what was read: from now on it is relied upon. A barrier that failed for an earlier process may have
    /// covered a superblock, and no later barrier makes up for that, so superblocks are written again.
    ///
    /// **Invariant:** when both copies are the same, the first is durable. For the first is only ever written while the
    /// second holds a whole older state, and the second after the barrier of the first.
    async fn confirm_superblocks(&self, superblocks: &Superblocks, barrier_failed: bool) -> Result<()> {
        let (first, second) = (SUPERBLOCKS[0], SUPERBLOCKS[1]);
        let confirms = !planted(Defect::SuperblocksNotConfirmed);
        if superblocks.first_is_newest() && superblocks.second_is_older() && confirms {
            self.put_superblock(&superblocks.newest, first).await?;
        }
        if !planted(Defect::OpeningBarrierOmitted) {
            self.barrier().await?;
        }
        if !barrier_failed {
            self.state.lock().all_found_is_durable();
        }
        if superblocks.first_is_newest() && confirms {
            self.put_superblock(&superblocks.newest, second).await?;
            self.barrier().await?;
        }
        Ok(())
    }

    /// Brings into the journal what a process that died had only in its shadow. Cut short, it is done again: the shadow
    /// stays as it is until all is durable.
    async fn take_over(&self, leftovers: Vec<Leftover>) -> Result<()> {
        let most_segments = self.geometry.segments_in(self.disk.len());
        for left in leftovers {
            let checks = left.records.iter();
            let checks = checks.map(|(record, _)| data_is_there(&self.disk, record, self.geometry)).collect();
            let there = join_all(checks, WIDTH).await.into_iter().collect::<Result<Vec<bool>>>()?;
            let whole = there.iter().position(|there| !there).unwrap_or(there.len());
            self.read_ways(left.records[..whole].iter().map(|(record, _)| record)).await;
            for (record, raw) in &left.records[..whole] {
                let step = self.step(|state| {
                    replay(state, record, most_segments)?;
                    state.append_again(raw);
                    Ok(())
                });
                step.await.map_err(misfit)?;
            }
            // As the very batch that it was to be, so that the rest still follows it. A checkpoint before all are there
            // would be given blocks that hold the data of the rest.
            self.commit_in_place().await?;
            debug_assert_eq!(self.state.lock().ring.next_seq, BatchSeq(left.seq.0 + 1));
            if whole < left.records.len() {
                break;
            }
        }
        Ok(())
    }

    /// Reads the inner nodes that replay will need, many at once; one by one it would wait for each. What cannot be
    /// read now replay reads itself, if it needs it: its version may be one that an earlier record makes.
    async fn read_ways<'a>(&self, records: impl Iterator<Item = &'a Record>) {
        let ways: BTreeSet<(VersionId, u64)> = records
            .filter_map(|record| match record {
                Record::Write { head, lba, .. } | Record::Fill { head, lba, .. } => {
                    Some((*head, lba - lba % entry_span(2)))
                }
                _ => None,
            })
            .collect();
        let reads = ways.into_iter().map(|(head, lba)| async move {
            loop {
                let (guard, missing) = {
                    let mut state = self.state.lock();
                    let guard = state.space.reader();
                    let Ok(version) = state.version(head) else { return };
                    match visit(&mut version.root, lba, |_| ()) {
                        Err(missing) if missing.level > 0 => (guard, missing),
                        _ => return,
                    }
                };
                if self.load(&guard, missing).await.is_err() {
                    return;
                }
            }
        });
        join_all(reads.collect(), WIDTH).await;
        // What is damaged counts when somebody needs it.
        self.state.lock().checksum_errors = 0;
    }
}

fn misfit(error: Error) -> Error {
    if error.kind() != ErrorKind::Corrupt {
        return error;
    }
    let why = format!(
        "what a process that died left in memory does not fit the pool ({}); nothing was changed",
        error.context()
    );
    Error::new(ErrorKind::Corrupt, why)
}

fn check_length<D: Disk>(disk: &D, geometry: Geometry, segments: usize) -> Result<()> {
    let needed = geometry.bytes_with(segments);
    if disk.len() < needed {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!(
                "the pool is truncated: it should be {needed} bytes long, but is {}; nothing was changed",
                disk.len()
            ),
        ));
    }
    Ok(())
}

/// Does again what a record says, in a pool whose disk has room for so many segments.
fn replay(state: &mut State, record: &Record, most_segments: usize) -> Result<(), Blocked> {
    match record {
        Record::Write { head, lba, epoch, runs, crcs, mapped, freed } => {
            if *epoch != state.versions.epoch {
                return Err(
                    Error::new(ErrorKind::Corrupt, "the journal's epochs do not follow each other").into()
                );
            }
            let blocks = runs.iter().flat_map(|run| (0..u64::from(run.len)).map(|i| run.start + i));
            let entries: Vec<Entry> =
                blocks.zip(crcs).map(|(addr, crc)| Entry::data(addr, *crc, *epoch)).collect();
            let (root, mut change) = state.change(*head, *lba, true)?;
            if let Err(missing) = set_entries(root, *lba, &entries, &mut change, |_| {}) {
                return Err(state.missing(missing));
            }
            for run in runs {
                state.space.claim(*run)?;
            }
            state.settle(*head, *mapped, freed)?;
        }
        Record::Fill { head, lba, blocks, zero, mapped, freed } => {
            let end =
                lba.checked_add(*blocks).filter(|end| *end <= crate::map::MAP_END).ok_or_else(|| {
                    Blocked::Failed(Error::new(
                        ErrorKind::Corrupt,
                        "the journal fills a range that cannot be",
                    ))
                })?;
            let mut at = *lba;
            while at < end {
                let (root, mut change) = state.change(*head, at, true)?;
                // Starting again after a missing node repeats harmlessly what was done.
                at = match fill_step(root, at, end, *zero, &mut change, |_| {}) {
                    Ok(next) => next,
                    Err(missing) => return Err(state.missing(missing)),
                };
            }
            state.settle(*head, *mapped, freed)?;
        }
        Record::Reap { freed, nodes, .. } => {
            state.versions.apply(record)?;
            for run in freed {
                state.space.free_later(*run);
            }
            if !planted(Defect::ReplayLeaksNodes) {
                state.superseded.extend(nodes.iter().map(|addr| Superseded::Addr(*addr)));
            }
        }
        Record::Grow { segments } => {
            let target = usize::try_from(*segments).unwrap_or(usize::MAX);
            let now = state.space.segment_count();
            // Looked at before there is memory for them: a disk is only ever longer than its pool.
            if target > most_segments {
                let why = format!(
                    "the pool is truncated: the journal has it grow to {segments} segments, but it is only long enough for {most_segments}"
                );
                return Err(Error::new(ErrorKind::Truncated, why).into());
            }
            state.space.add_segments(target.saturating_sub(now));
        }
        Record::Fork { forks, description, automatic, created_ms }
            if planted(Defect::GroupReplayedInPart) && forks.len() > 1 =>
        {
            let forks = forks[..forks.len() - 1].to_vec();
            let (description, automatic, created_ms) = (description.clone(), *automatic, *created_ms);
            state.versions.apply(&Record::Fork { forks, description, automatic, created_ms })?;
        }
        other => state.versions.apply(other)?,
    }
    state.lsn = Lsn(state.lsn.0 + 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CreateOptions;
    use crate::sim::{Fault, Op, Rng, Sim, SimDisk, block_on};

    /// Recovery reads the ways to what the journal changes before it replays any of it; a damaged node there was counted
    /// although nothing needed it, or twice where replay did.
    #[test]
    fn damage_on_a_way_that_replay_does_not_go_is_not_counted() {
        let disk = SimDisk::file(64 << 20);
        let made = disk.clone();
        let (pool, root) = block_on(async move {
            let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(made, *b"a pool in a test", create, Options::default()).await?;
            let head = pool.create_volume("v", 16 << 20, "").await?.id;
            pool.map_synthetic(0, head, 0, 8).await?;
            pool.create_snapshots(&[("v", "s")], "").await?;
            pool.map_synthetic(0, head, 0, 4).await?;
            pool.close().await?;
            let root = pool.state.lock().any_version(head)?.root.home().expect("a checkpoint wrote it");
            // From here on the journal leads the head back to the snapshot's nodes.
            pool.rollback("v", "s").await?;
            pool.map_synthetic(0, head, 2, 1).await?;
            pool.flush().await?;
            Ok::<_, Error>((pool, root))
        })
        .expect("a pool");
        let disk = disk.kill(&mut Rng::new(0));
        drop(pool);
        disk.flip_bit(root.addr.offset() + 5, 1);
        let pool = block_on(Pool::open(disk, Options::default())).expect("opening");
        assert_eq!(pool.status().checksum_errors, 0);
    }

    /// A batch that only confirms the one before was on its way when the process died, and the barrier of the next one failed.
    /// The one after that took the batch for durable, and used again what the one before had freed; had the batch gone with the
    /// power, so had data that was flushed. Found by `cargo xtask sim`.
    #[test]
    fn a_batch_without_records_does_not_outlive_a_failed_barrier() {
        let disk = SimDisk::file(64 << 20);
        let sim = Sim::in_order();
        sim.attach(&disk);
        let made = disk.clone();
        let (pool, durable) = sim.run(async move {
            let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(made, [1; 16], create, Options::default()).await.expect("a pool");
            pool.create_volume("v", 1 << 20, "").await.expect("a volume, and a flush");
            let durable = pool.state.lock().ring.durable_seq;
            (pool, durable)
        });
        let confirming = Arc::clone(&pool);
        drop(sim.spawn(async move { confirming.confirm().await }));
        while !disk.is_syncing() {
            assert!(sim.run_events(1), "nobody confirms anything");
        }
        let disk = disk.kill(&mut Rng::new(0));
        disk.inject(Fault::on(Op::Sync).once());
        assert!(block_on(Pool::open(disk.clone(), Options::default())).is_err(), "its barrier fails");
        let disk = disk.kill(&mut Rng::new(0));
        let (end, left) = block_on(async move {
            let superblock = read_superblocks(&disk).await?.newest;
            let end = read_log(&disk, &superblock, None).await?.end(&superblock);
            let memory = disk.survivor(shadow_bytes(superblock.geometry)).expect("it is there");
            let mut shadow = Shadow::new(memory, superblock.pool, superblock.geometry);
            Ok::<_, Error>((end.seq, shadow.examine(&end)))
        })
        .expect("a pool");
        assert_eq!(end, BatchSeq(durable.0 + 1), "the batch can be read");
        let Left::Failed { durable: relied_upon } = left else { panic!("the failure was not noted") };
        assert_eq!(relied_upon, durable);
    }

    /// Of a batch the power had left the beginning only. What was missing came with the next batch, which the power took but for
    /// just that: then the first one was whole, and what nobody had seen after the first loss was there after the second. Found
    /// by `cargo xtask sim`.
    #[test]
    fn a_torn_batch_does_not_become_whole_later() {
        const SECTOR: usize = 512;
        let disk = SimDisk::file(64 << 20);
        let made = disk.clone();
        let at = block_on(async move {
            let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(made, [1; 16], create, Options::default()).await?;
            pool.create_volume("v", 1 << 20, "").await?;
            let at = BlockAddr(JOURNAL_START + pool.state.lock().ring.pos).offset();
            pool.resize_volume("v", 2 << 20).await?;
            Ok::<_, Error>(at)
        })
        .expect("a pool");
        let disk = disk.crash(&mut Rng::new(0));
        let batch = disk.peek(at, BLOCK_BYTES);
        assert!(
            batch[SECTOR..].iter().all(|byte| *byte == 0),
            "the missing part is what any short batch has"
        );
        disk.poke(at, &[&batch[..SECTOR], &[0xa5; BLOCK_BYTES - SECTOR]].concat());
        let size = |pool: &Pool<SimDisk>| pool.volume("v").expect("it is there").size;
        let torn = disk.clone();
        let seen =
            block_on(async move { Pool::open(torn, Options::default()).await.map(|pool| size(&pool)) });
        assert_eq!(seen.expect("opening"), 1 << 20);
        // Of the next batch all reaches the disk but its first sector.
        let disk = disk.crash(&mut Rng::new(0));
        disk.poke(at, &batch);
        let again = block_on(Pool::open(disk, Options::default())).expect("opening");
        assert_eq!(size(&again), 1 << 20, "as it was seen");
    }

    /// Memory for every segment that the journal named was taken before anybody looked how long the disk is. Found while
    /// fuzzing.
    #[test]
    fn a_pool_does_not_grow_past_its_disk_by_its_journal() {
        let disk = SimDisk::file(64 << 20);
        let made = disk.clone();
        let pool = block_on(async move {
            let create = CreateOptions { limit: 64 << 20, journal_bytes: None, segment_blocks: None };
            let pool = Pool::create(made, *b"a pool in a test", create, Options::default()).await?;
            pool.state.lock().append(&Record::Grow { segments: 1 << 40 });
            pool.flush().await?;
            // The batch after it says that it is durable.
            pool.create_volume("v", 1 << 20, "").await?;
            pool.flush().await?;
            Ok::<_, Error>(pool)
        })
        .expect("a pool");
        let disk = disk.kill(&mut Rng::new(0));
        drop(pool);
        let error = block_on(Pool::open(disk, Options::default())).err().expect("it cannot be");
        assert_eq!(error.kind(), ErrorKind::Truncated);
    }
}
