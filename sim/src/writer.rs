//! Writers: they write, zero, trim, read back and flush, several at once and in the same places.

use std::rc::Rc;
use std::sync::Arc;

use cairn_cow::sim::{Handle, Rng};
use cairn_cow::{Error, ErrorKind, ExtentKind};

use crate::engine::{self, BLOCK_SECTORS, Pool};
use crate::pattern::{SECTOR, ZERO};
use crate::world::{SharedVolume, SharedWorld};

pub(crate) enum What {
    Data,
    Zero(ExtentKind),
}

pub(crate) struct Writer {
    pool: Arc<Pool>,
    world: SharedWorld,
    lane: usize,
    rng: Rng,
}

/// Works until the world ends, or comes to an end.
pub(crate) async fn write_forever(
    handle: Handle,
    pool: Arc<Pool>,
    world: SharedWorld,
    lane: usize,
    rng: Rng,
) {
    let mut writer = Writer::new(pool, world, lane, rng);
    while !writer.world.with(|w| w.over) {
        let volumes: Vec<SharedVolume> = writer.world.with(|w| w.volumes.values().cloned().collect());
        if volumes.is_empty() || writer.world.with(|w| w.alone) {
            handle.sleep(50).await;
            continue;
        }
        let volume = Rc::clone(&volumes[writer.rng.index(volumes.len())]);
        let went_well = match writer.rng.below(100) {
            0..50 => {
                let fua = writer.world.with(|w| w.patience == 0);
                writer.change(&volume, What::Data, fua).await
            }
            50..57 => {
                let fua = writer.would_flush();
                writer.change(&volume, What::Data, fua).await
            }
            57..63 => writer.change(&volume, What::Zero(ExtentKind::Hole), false).await,
            63..68 => writer.change(&volume, What::Zero(ExtentKind::Zero), false).await,
            68..70 => writer.write_alone(&volume).await,
            88.. if writer.would_flush() => writer.flush().await,
            _ => writer.look(&volume).await,
        };
        if !went_well || writer.rng.chance(1, 20) {
            handle.sleep(writer.rng.below(300)).await;
        }
    }
}

impl Writer {
    pub(crate) fn new(pool: Arc<Pool>, world: SharedWorld, lane: usize, rng: Rng) -> Writer {
        Writer { pool, world, lane, rng }
    }

    fn would_flush(&mut self) -> bool {
        let patience = self.world.with(|w| w.patience);
        self.rng.chance(1, patience.max(1))
    }

    /// Some hot sectors of a volume; odd pieces, whole blocks and runs of blocks.
    fn place(&mut self, volume: &SharedVolume) -> (u64, u64) {
        let volume = volume.borrow();
        let hot = &volume.hot[self.rng.index(volume.hot.len())];
        let total = hot.end - hot.start;
        let (first, count) = match self.rng.below(10) {
            0..4 => (self.rng.below(total), 1 + self.rng.below(12)),
            4..8 => (self.rng.below(total) & !7, 8 * (1 + self.rng.below(3))),
            _ => (self.rng.below(total), 1 + self.rng.below(total)),
        };
        (hot.start + first, count.min(total - first))
    }

    /// Writes whole blocks, and flushes each, while no other writer does anything: as a database's log does.
    async fn write_alone(&mut self, volume: &SharedVolume) -> bool {
        self.world.with(|w| w.alone = true);
        let mut well = true;
        for _ in 0..4 + self.rng.below(12) {
            let (first, count) = self.place(volume);
            let place = (first & !(BLOCK_SECTORS - 1), count.next_multiple_of(BLOCK_SECTORS));
            let size = volume.borrow().size / SECTOR;
            well = place.0 + place.1 > size || self.change_at(volume, place, What::Data, true).await;
            if !well || self.world.with(|w| w.over) {
                break;
            }
        }
        self.world.with(|w| w.alone = false);
        well
    }

    async fn change(&mut self, volume: &SharedVolume, what: What, fua: bool) -> bool {
        let place = self.place(volume);
        self.change_at(volume, place, what, fua).await
    }

    /// Changes so many sectors from one on.
    pub(crate) async fn change_at(
        &self,
        volume: &SharedVolume,
        (sector, count): (u64, u64),
        what: What,
        fua: bool,
    ) -> bool {
        let (start, id) = self.world.with(|w| (w.tick(), w.write_id()));
        let (version, id, may_change, changed) = {
            let mut volume = volume.borrow_mut();
            let (id, may_change, changed) = match what {
                What::Data => (id, sector..sector + count, sector..sector + count),
                // While the volume grows, a trim up to its end may or may not be one of the whole last block.
                What::Zero(kind) => {
                    let zeroed = |size| engine::zeroed(kind, sector, count, size);
                    (ZERO, zeroed(volume.size), zeroed(u64::MAX))
                }
            };
            may_change.clone().for_each(|s| volume.history.begin(s, id, start));
            (volume.id, id, may_change, changed)
        };
        let fenced = self.is_fenced();
        let written = match what {
            What::Data => engine::write(&self.pool, self.lane, version, sector, count, id).await,
            What::Zero(kind) => engine::zero(&self.pool, self.lane, version, sector, count, kind).await,
        };
        let done = match written {
            Ok(lsn) if fua => self.pool.flush_to(lsn).await,
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        let kind = done.as_ref().err().map(Error::kind);
        assert!(!fenced || kind == Some(ErrorKind::Fenced), "a write to a fenced pool: {done:?}");
        match done {
            Ok(()) => {
                let end = self.world.with(|w| w.tick());
                let mut volume = volume.borrow_mut();
                changed.for_each(|s| volume.history.end(s, id, start, end, fua));
                true
            }
            // A write that did not fit, or met a disk that fails, may have happened in part.
            Err(e) => {
                assert!(e.kind() == ErrorKind::NoSpace || self.excuses(volume, &e), "I/O on a volume: {e:?}");
                let end = self.world.with(|w| w.tick());
                let history = &mut volume.borrow_mut().history;
                may_change.for_each(|s| history.fail(s, start, end));
                false
            }
        }
    }

    async fn look(&mut self, volume: &SharedVolume) -> bool {
        let (sector, count) = self.place(volume);
        let start = self.world.with(|w| w.tick());
        let version = volume.borrow().id;
        let ids = match engine::read(&self.pool, version, sector, count).await {
            Ok(ids) => ids,
            Err(e) => {
                assert!(self.excuses(volume, &e), "reading a volume: {e:?}");
                return false;
            }
        };
        let end = self.world.with(|w| w.tick());
        let volume = volume.borrow();
        for (sector, id) in (sector..).zip(ids) {
            let allowed = volume.history.live(sector, start, end);
            assert!(
                id.is_some_and(|id| allowed.contains(&id)),
                "a read of {} at {start}..{end}: sector {sector} holds {id:?}, allowed are {allowed:?}; its story:\n{}",
                volume.name,
                volume.history.story(sector)
            );
        }
        true
    }

    pub(crate) async fn flush(&self) -> bool {
        let (start, fenced) = (self.world.with(|w| w.tick()), self.is_fenced());
        match self.pool.flush().await {
            // A fenced pool may say so of what was durable before.
            Ok(()) => self.world.with(|w| w.flushed = w.flushed.max(start)),
            Err(e) => {
                assert!(self.world.with(|w| w.excuses(&e)), "a flush: {e:?}");
                assert!(!fenced || e.kind() == ErrorKind::Fenced, "a flush of a fenced pool: {e:?}");
                return false;
            }
        }
        true
    }

    fn is_fenced(&self) -> bool {
        self.world.with(|w| w.is_troubled()) && engine::is_fenced(&self.pool)
    }

    /// Only a volume that is being deleted may be gone, and only a disk that fails may hinder anything.
    fn excuses(&self, volume: &SharedVolume, error: &Error) -> bool {
        volume.borrow().doomed && error.kind() == ErrorKind::NotFound || self.world.with(|w| w.excuses(error))
    }
}
