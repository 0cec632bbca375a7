//! How much room pools have: what the file system below a pool's file has left, and watermarks.
//!
//! A pool in a file takes space as it needs it, up to its limit. How much it really gets is for the file system to say, and
//! others write there, too. Each pool has a thread that asks, since a file system that is out of reach can keep whoever
//! asks waiting: no reactor, nor the control thread. It also looks whether the pool was fenced or has found damage.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use cairn_api::Size;
use cairn_api::event::{EventKind, Severity};
use cairn_api::pool::Fill;
use cairn_api::report::count;
use cairn_cow::{Disk, Pool, PoolStatus};
use nix::fcntl::OFlag;
use nix::sys::statvfs::fstatvfs;

use crate::events::{About, Events};

/// How often a pool is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Percentages of what a pool can hold at which it counts as filling up, and as nearly full.
const WATERMARKS: [(u64, Fill); 2] = [(95, Fill::Critical), (80, Fill::High)];
/// What [`Room`] holds when nothing is known.
const UNKNOWN: u64 = u64::MAX;

/// Bytes that the file system below a pool has left, as last seen. A clone is the same.
#[derive(Clone, Debug)]
pub struct Room(Arc<AtomicU64>);

impl Default for Room {
    fn default() -> Room {
        Room(Arc::new(AtomicU64::new(UNKNOWN)))
    }
}

impl Room {
    /// Bytes; none for a device, or when they cannot be told.
    pub fn available(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|available| *available != UNKNOWN)
    }

    fn set(&self, available: Option<u64>) {
        self.0.store(available.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }
}

/// Bytes that a writer can still get: what the pool has claimed, and what it can claim on a file system that has so much
/// `available`.
pub(crate) fn free(status: &PoolStatus, available: Option<u64>) -> u64 {
    let growth = status.limit.saturating_sub(status.size);
    status.free.saturating_sub(growth.saturating_sub(available.unwrap_or(UNKNOWN)))
}

/// Which watermark a pool has reached that holds `used` bytes and can take `free` more.
pub(crate) fn fill(used: u64, free: u64) -> Fill {
    let (used, all) = (u128::from(used), u128::from(used) + u128::from(free));
    let reached = WATERMARKS.iter().find(|(percent, _)| used * 100 >= all * u128::from(*percent));
    reached.map_or(Fill::Ok, |(_, fill)| *fill)
}

/// What tells how much the file system has left that a pool's file is on.
struct Below(File);

impl Below {
    /// None for a device.
    fn open(path: &Path) -> io::Result<Option<Below>> {
        // Only to ask about: nothing is locked, read or kept from being opened.
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path)?;
        Ok(file.metadata()?.is_file().then_some(Below(file)))
    }

    fn available(&self) -> io::Result<u64> {
        let stat = fstatvfs(&self.0)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

/// Watches a pool at `path` until it is gone: keeps `room` up to date, and says when the pool gets full. Blocks for the
/// first look.
pub(crate) fn watch<D: Disk>(pool: &Arc<Pool<D>>, name: &str, path: &Path, room: Room, events: Arc<Events>) {
    let below = Below::open(path).unwrap_or_else(|error| {
        tracing::warn!(pool = name, %error, "cannot tell how much room the file system below the pool has");
        None
    });
    let mut watch = Watch {
        below,
        room,
        name: name.to_owned(),
        events,
        fill: Fill::Ok,
        fenced: false,
        damage: HashMap::new(),
        errors: 0,
    };
    watch.look(pool);
    let pool: Weak<Pool<D>> = Arc::downgrade(pool);
    let started = thread::Builder::new().name("room".to_owned()).spawn(move || {
        loop {
            thread::sleep(PERIOD);
            let Some(pool) = pool.upgrade() else { return };
            watch.look(&pool);
        }
    });
    if let Err(error) = started {
        tracing::warn!(pool = name, %error, "nobody watches how full the pool is");
    }
}

struct Watch {
    below: Option<Below>,
    room: Room,
    name: String,
    events: Arc<Events>,
    fill: Fill,
    fenced: bool,
    /// The reads that have failed their checksum, in all, and of each volume that has some.
    errors: u64,
    damage: HashMap<String, u64>,
}

impl Watch {
    fn look<D: Disk>(&mut self, pool: &Pool<D>) {
        let available = self.below.as_ref().and_then(|below| below.available().ok());
        self.room.set(available);
        let status = pool.status();
        let free = free(&status, available);
        let before = std::mem::replace(&mut self.fill, fill(status.used, free));
        self.look_for_faults(pool, &status);
        let (pool, left) = (&self.name, Size(free));
        let remedy = if free < status.free {
            "delete, trim, or make room on its file system"
        } else {
            "delete, trim, or let it grow"
        };
        let (severity, message) = match self.fill {
            now if now == before => return,
            Fill::Critical => {
                (Severity::Error, format!("the pool is nearly full, {left} are left: {remedy}"))
            }
            Fill::High => (Severity::Warning, format!("the pool is filling up, {left} are left: {remedy}")),
            Fill::Ok => (Severity::Info, format!("the pool has room again: {left}")),
        };
        match severity {
            Severity::Error => tracing::error!(pool, "{message}"),
            Severity::Warning => tracing::warn!(pool, "{message}"),
            Severity::Info => tracing::info!(pool, "{message}"),
        }
        self.events.tell_of(severity, EventKind::PoolFill, About::named(pool), format!("{pool}: {message}"));
    }

    /// Tells of a barrier that has failed, and of reads that have failed their checksum.
    fn look_for_faults<D: Disk>(&mut self, pool: &Pool<D>, status: &PoolStatus) {
        let name = self.name.as_str();
        if let Some(why) = status.fenced.as_ref().filter(|_| !self.fenced) {
            let message = format!("{name}: the pool refuses writes: {why}");
            self.events.tell_of(Severity::Error, EventKind::PoolFenced, About::named(name), message);
        }
        self.fenced = status.fenced.is_some();
        if std::mem::replace(&mut self.errors, status.checksum_errors) == status.checksum_errors {
            return;
        }
        let damaged = pool.volumes().into_iter().filter(|volume| volume.checksum_errors > 0);
        let damaged: HashMap<String, u64> =
            damaged.map(|volume| (volume.name, volume.checksum_errors)).collect();
        for (volume, errors) in &damaged {
            let new = errors.saturating_sub(self.damage.get(volume).copied().unwrap_or(0));
            if new > 0 {
                let message = format!("{volume}: {} failed the checksum", count(new, "read"));
                let about = About::volume(volume);
                self.events.tell_of(Severity::Error, EventKind::VolumeDamaged, about, message);
            }
        }
        self.damage = damaged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(limit: u64, size: u64, used: u64, free: u64) -> PoolStatus {
        PoolStatus {
            id: String::new(),
            format: 1,
            limit,
            size,
            used,
            free,
            reserve: 0,
            volumes: 0,
            snapshots: 0,
            pending_deletes: 0,
            fenced: None,
            journal_used: 0,
            journal_size: 0,
            checkpoints: 0,
            barriers: 0,
            checksum_errors: 0,
        }
    }

    #[test]
    fn watermarks_are_of_what_can_be_held() {
        assert_eq!([fill(0, 0), fill(u64::MAX, 0)], [Fill::Critical; 2]);
        assert_eq!([fill(0, 1), fill(79, 21), fill(0, u64::MAX)], [Fill::Ok; 3]);
        assert_eq!([fill(80, 20), fill(94, 6)], [Fill::High; 2]);
        assert_eq!(fill(95, 5), Fill::Critical);
    }

    // A pool of 100 GiB on a file system with 1 GiB left was shown as one with nearly 100 GiB left.
    #[test]
    fn a_pool_has_no_more_room_than_its_file_system() {
        let young = pool(100, 60, 55, 42);
        assert_eq!([None, Some(40), Some(1000)].map(|below| free(&young, below)), [42; 3]);
        assert_eq!(
            [10, 1, 0].map(|below| free(&young, Some(below))),
            [12, 3, 2],
            "what it has claimed is its own"
        );
        let filled = |below| fill(young.used, free(&young, below));
        assert_eq!([None, Some(10), Some(0)].map(filled), [Fill::Ok, Fill::High, Fill::Critical]);
        // Nothing is left of nothing.
        assert_eq!(free(&pool(100, 60, 60, 0), Some(0)), 0);
        let grown = pool(100, 100, 90, 5);
        assert_eq!(free(&grown, Some(0)), 5);
    }

    #[test]
    fn only_a_file_has_something_below() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pool");
        std::fs::write(&file, b"x").expect("is written");
        let below = Below::open(&file).expect("is there").expect("is a file");
        let stat = fstatvfs(&below.0).expect("tells");
        assert!(below.available().expect("tells") <= stat.blocks() * stat.fragment_size());
        assert!(Below::open(Path::new("/dev/null")).expect("is there").is_none());
        assert!(Below::open(&folder.path().join("no")).is_err());
        assert_eq!(Room::default().available(), None);
    }
}
