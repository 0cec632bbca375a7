//! Mapping without data, for benchmarks alone: a pool of terabytes of maps on a disk that has no room for the data.
//!
//! The blocks are allocated, published, journalled and checkpointed by the code that every write goes through; only the
//! I/O is left out. What was never written of a sparse file reads as zeroes, so the entries carry the checksum of a
//! block of zeroes, as data, and every later read and check of them goes the whole way and holds.

use crate::disk::{Buf, Disk};
use crate::error::Result;
use crate::node::FANOUT;
use crate::pool::Pool;
use crate::state::{Blocked, State};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE, Lsn, VersionId};
use crate::write::{Part, abandon, publish};

impl<D: Disk> Pool<D> {
    /// Maps `blocks` blocks of a head from block `lba` on, as a write of them would, but writes no data.
    ///
    /// For benchmarks only, and only for a pool on a sparse file in which nothing was deleted or overwritten: a block
    /// that held something before still does, and reading it fails its checksum.
    pub async fn map_synthetic(&self, lane: usize, head: VersionId, lba: u64, blocks: u64) -> Result<Lsn> {
        let lane = lane % self.lanes.len();
        let crc = crc32fast::hash(&[0; BLOCK_BYTES]);
        let mut lsn = self.state.lock().lsn;
        let (mut at, end) = (lba, lba + blocks);
        while at < end {
            let next = end.min((at / FANOUT as u64 + 1) * FANOUT as u64);
            let crcs = vec![Some(crc); (next - at) as usize];
            let data_blocks = crcs.len() as u32;
            let part =
                Part::<D::Buf> { head, lba: at, crcs, data: Vec::new(), data_blocks, expected: Vec::new() };
            match self.step(|state| map_part(state, lane, &part)).await? {
                Some(published) => (at, lsn) = (next, published),
                None => self.make_room(u64::from(data_blocks)).await?,
            }
        }
        Ok(lsn)
    }
}

/// Allocates and publishes in one step, since there is no I/O between; `None` when there is no room.
fn map_part<B: Buf>(state: &mut State, lane: usize, part: &Part<B>) -> Result<Option<Lsn>, Blocked> {
    if state.data_blocks_free() < u64::from(part.data_blocks) {
        return Ok(None);
    }
    let Some(runs) = state.space.allocate(lane, part.data_blocks) else { return Ok(None) };
    state.space.begin_flight(&runs);
    match publish(state, part, &runs) {
        Ok(lsn) => {
            // Nothing was written that a flush would have to wait for.
            state.unflushed_bytes -= u64::from(part.data_blocks) * BLOCK_SIZE;
            Ok(Some(lsn))
        }
        Err(blocked) => {
            abandon(state, &runs)?;
            Err(blocked)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::sim::{SimDisk, block_on};
    use crate::{BLOCK_SIZE, CreateOptions, Options, Pool};

    #[test]
    fn what_is_mapped_without_data_reads_checks_and_survives() {
        let disk = SimDisk::file(256 << 20);
        let create =
            CreateOptions { limit: 128 << 20, journal_bytes: Some(1 << 20), segment_blocks: Some(1024) };
        let made = disk.clone();
        let blocks = 10_000;
        let pool = block_on(async move {
            let pool = Pool::create(made, *b"a pool in a test", create, Options::default()).await?;
            let head = pool.create_volume("v", 1 << 30, "").await?.id;
            // From the middle of one leaf to the middle of another.
            pool.map_synthetic(0, head, 100, blocks).await?;
            pool.flush().await?;
            Ok::<_, crate::Error>(pool)
        })
        .expect("maps");
        assert_eq!(pool.volume("v").expect("is there").mapped, blocks * BLOCK_SIZE);
        // Without a clean end: the journal must tell all of it.
        drop(pool);
        let report = block_on(async move {
            let pool = Pool::open(disk, Options::default()).await?;
            let head = pool.resolve("v")?.id;
            let reply = pool.read(head, 100 * BLOCK_SIZE, 1 << 20).await?;
            assert!(reply.extents.is_empty(), "all of it is data");
            assert!(reply.buf.expect("data").iter().all(|b| *b == 0));
            let theirs = Arc::clone(&pool);
            theirs.check(true).await
        })
        .expect("checks");
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.data_verified, blocks);
    }
}
