//! What changed between two versions, asked for range by range: whatever the history, it is what the full comparison
//! finds and what reading both versions tells, and it costs no more than what differs in the range.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_cow::sim::{Rng, SimDisk, for_each_seed};
use cairn_cow::{BLOCK_SIZE, ChangeExtent, ErrorKind, ExtentKind, VersionId};

use cairn_sim::engine::{self, BLOCK_SECTORS, Pool};
use cairn_sim::pattern::SECTOR;

const LIMIT: u64 = 64 << 20;
/// The first volume's size: some leaves, and a last block that is not whole.
const SIZE: u64 = (3 << 20) + 1536;

/// A volume or a snapshot, as an export names it.
type Name = String;

/// A pool in which random things happen.
struct World {
    pool: Arc<Pool>,
    rng: Rng,
    names: u64,
    writes: u64,
}

impl World {
    fn heads(&self) -> Vec<Name> {
        self.pool.volumes().into_iter().map(|v| v.name).collect()
    }

    fn snapshots(&self) -> Vec<(Name, Name)> {
        let all = self.pool.snapshots(None).expect("a list of snapshots");
        all.into_iter().map(|s| (s.volume, s.name)).collect()
    }

    fn versions(&self) -> Vec<(Name, VersionId, u64)> {
        let snapshots = self.snapshots().into_iter().map(|(volume, name)| format!("{volume}@{name}"));
        let names = self.heads().into_iter().chain(snapshots);
        let resolved = |name: Name| {
            let version = self.pool.resolve(&name).expect("is there");
            (name, version.id, version.size)
        };
        names.map(resolved).collect()
    }

    fn new_name(&mut self) -> Name {
        self.names += 1;
        format!("n{}", self.names)
    }

    async fn change_contents(&mut self, head: &str) {
        let version = self.pool.resolve(head).expect("is there");
        let sectors = version.size / SECTOR;
        // Mostly where leaves meet and at the end.
        let seam = [0, (1 << 20) / SECTOR, (2 << 20) / SECTOR, sectors][self.rng.index(4)];
        let first = (seam + self.rng.below(80)).saturating_sub(40).min(sectors - 1);
        let most = if self.rng.below(8) == 0 { 5000 } else { 40 };
        let count = (1 + self.rng.below(most)).min(sectors - first);
        self.writes += 1;
        let id = version.id;
        match self.rng.below(4) {
            0 => engine::zero(&self.pool, 0, id, first, count, ExtentKind::Hole).await.map(drop),
            1 => engine::zero(&self.pool, 0, id, first, count, ExtentKind::Zero).await.map(drop),
            _ => engine::write(&self.pool, 1, id, first, count, self.writes).await.map(drop),
        }
        .expect("changing a volume");
    }

    async fn act(&mut self) {
        let heads = self.heads();
        let head = heads[self.rng.index(heads.len())].clone();
        let snapshots = self.snapshots();
        let name = self.new_name();
        match self.rng.below(20) {
            0..3 => {
                let taken = self.pool.create_snapshots(&[(&head, &name)], "").await;
                taken.expect("taking a snapshot");
            }
            3 => {
                let size = self.pool.resolve(&head).expect("is there").size;
                self.pool.resize_volume(&head, size + self.rng.below(2000) * SECTOR).await.expect("growing");
            }
            4 => engine::settle(&self.pool).await,
            action @ 5..9 if !snapshots.is_empty() => {
                let (volume, snapshot) = &snapshots[self.rng.index(snapshots.len())];
                match action {
                    5 if heads.len() < 3 => {
                        let cloned = self.pool.clone_volume(volume, snapshot, &name, None).await;
                        cloned.map(drop)
                    }
                    6 => self.pool.delete_snapshot(volume, snapshot).await,
                    _ => self.pool.rollback(volume, snapshot).await.map(drop),
                }
                .expect("cloning, deleting or rolling back");
            }
            _ => self.change_contents(&head).await,
        }
    }

    /// What `changes` says of `to`, compared with everything else that can tell.
    async fn compare(&mut self, from: (&str, VersionId, u64), to: (&str, VersionId, u64)) {
        let what = format!("{} since {}", to.0, from.0);
        let full = self.pool.diff_versions(from.1, to.1).await.expect("a diff");
        let expected = joined(full.iter().map(|e| e.offset..e.offset + e.len), to.2);

        let mut stepped = Vec::new();
        let mut at = 0;
        while at < to.2 {
            let next = self.pool.changes(from.1, to.1, at, to.2 - at, 1).await.expect("changes");
            assert_eq!(next.len(), 1, "{what}: one extent at {at}");
            assert_eq!(next[0].offset, at, "{what}");
            at += next[0].len;
            stepped.extend(next);
        }
        assert_eq!(stepped, expected, "{what}: one extent at a time");

        for _ in 0..8 {
            let offset = self.rng.below(to.2);
            let most = [20_000, to.2][self.rng.index(2)].min(to.2 - offset);
            let len = 1 + self.rng.below(most);
            let max = 1 + self.rng.index(4);
            let found = self.pool.changes(from.1, to.1, offset, len, max).await.expect("changes");
            let mut inside = clipped(&expected, offset, len);
            inside.truncate(max);
            assert_eq!(found, inside, "{what}: {len} bytes at {offset}, at most {max}");
        }

        let blocks = async |(_, id, size): (&str, VersionId, u64)| {
            let contents = engine::contents(&self.pool, id, size).await.expect("contents");
            let mut blocks: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
            for (sector, id) in contents {
                blocks.entry(sector / BLOCK_SECTORS).or_default().push((sector, id));
            }
            blocks
        };
        let (old, new) = (blocks(from).await, blocks(to).await);
        let touched: BTreeSet<u64> = old.keys().chain(new.keys()).copied().collect();
        for block in touched.into_iter().filter(|block| block * BLOCK_SIZE < to.2) {
            if old.get(&block) != new.get(&block) {
                let changed = clipped(&expected, block * BLOCK_SIZE, 1)[0].changed;
                assert!(changed, "{what}: block {block} is not the same");
            }
        }
    }
}

/// Extents over `size` bytes of which the ranges are the changed ones.
fn joined(ranges: impl Iterator<Item = std::ops::Range<u64>>, size: u64) -> Vec<ChangeExtent> {
    let mut extents: Vec<ChangeExtent> = Vec::new();
    let mut at = 0;
    let mut add = |end: u64, changed: bool| {
        let end = end.min(size);
        match extents.last_mut() {
            _ if at >= end => {}
            Some(last) if last.changed == changed => last.len = end - last.offset,
            _ => extents.push(ChangeExtent { offset: at, len: end - at, changed }),
        }
        at = at.max(end);
    };
    for range in ranges {
        add(range.start, false);
        add(range.end, true);
    }
    add(size, false);
    extents
}

/// The part of the extents in a range.
fn clipped(extents: &[ChangeExtent], offset: u64, len: u64) -> Vec<ChangeExtent> {
    let cut = extents.iter().filter_map(|e| {
        let start = e.offset.max(offset);
        let end = (e.offset + e.len).min(offset + len);
        (start < end).then(|| ChangeExtent { offset: start, len: end - start, changed: e.changed })
    });
    cut.collect()
}

#[test]
fn changes_are_exact_between_any_two_versions_of_any_history() {
    for_each_seed(40, |seed| {
        let disk = SimDisk::file(2 * LIMIT);
        let sim = engine::world(seed, &disk);
        let pool = sim.run(engine::create(disk.clone(), LIMIT)).expect("creating the pool");
        let mut rng = Rng::new(seed);
        engine::maintain_forever(&sim.handle(), &pool, rng.fork(), true);
        sim.run(async move {
            pool.create_volume("v", SIZE, "").await.expect("a volume");
            pool.create_volume("stranger", 2 << 20, "").await.expect("a volume");
            let mut world = World { pool, rng, names: 0, writes: 0 };
            for _ in 0..3 {
                for _ in 0..25 {
                    world.act().await;
                }
                let versions = world.versions();
                for _ in 0..12 {
                    let [from, to] = [0; 2].map(|_| &versions[world.rng.index(versions.len())]);
                    world.compare((&from.0, from.1, from.2), (&to.0, to.1, to.2)).await;
                }
            }
        });
    });
}

#[test]
fn ranges_are_checked_and_deleted_versions_refused() {
    let disk = SimDisk::file(2 * LIMIT);
    let sim = engine::world(1, &disk);
    let pool = sim.run(engine::create(disk.clone(), LIMIT)).expect("creating the pool");
    sim.run(async move {
        let head = pool.create_volume("v", SIZE, "").await.expect("a volume").id;
        let base = pool.create_snapshots(&[("v", "s")], "").await.expect("a snapshot")[0].id;
        let whole = ChangeExtent { offset: 0, len: SIZE, changed: false };
        assert_eq!(pool.changes(base, head, 0, SIZE, 1).await.expect("changes"), [whole]);
        assert_eq!(pool.changes(base, head, SIZE, 0, 1).await.expect("changes"), []);
        for (offset, len) in [(0, SIZE + 1), (SIZE, 1), (u64::MAX, 2)] {
            let refused = pool.changes(base, head, offset, len, 1).await;
            assert_eq!(refused.expect_err("outside").kind(), ErrorKind::OutOfRange, "{len} at {offset}");
        }

        // What the volume got since it was larger than the snapshot is changed, and nothing else is.
        pool.resize_volume("v", 2 * SIZE).await.expect("growing");
        engine::write(&pool, 0, head, (5 << 20) / SECTOR, 8, 1).await.expect("writing");
        let expected = joined(std::iter::once(5 << 20..(5 << 20) + BLOCK_SIZE), 2 * SIZE);
        assert_eq!(pool.changes(base, head, 0, 2 * SIZE, 9).await.expect("changes"), expected);
        // Seen from the snapshot, there is nothing past its end.
        assert_eq!(pool.changes(head, base, 0, SIZE, 9).await.expect("changes"), [whole]);

        pool.delete_snapshot("v", "s").await.expect("deleting");
        for (from, to) in [(base, head), (head, base)] {
            let refused = pool.changes(from, to, 0, BLOCK_SIZE, 1).await;
            assert_eq!(refused.expect_err("deleted").kind(), ErrorKind::NotFound);
        }
    });
}

#[test]
fn a_range_costs_what_differs_in_it() {
    let disk = SimDisk::file(2 * LIMIT);
    let sim = engine::world(2, &disk);
    let pool = sim.run(engine::create(disk.clone(), LIMIT)).expect("creating the pool");
    sim.run(async move {
        const MIB_SECTORS: u64 = (1 << 20) / SECTOR;
        // A leaf maps a MiB; every second one differs.
        let head = pool.create_volume("v", 16 << 20, "").await.expect("a volume").id;
        for mib in 0..16 {
            engine::write(&pool, 0, head, mib * MIB_SECTORS, MIB_SECTORS, 1 + mib).await.expect("writing");
        }
        let base = pool.create_snapshots(&[("v", "s")], "").await.expect("a snapshot")[0].id;
        for mib in (0..16).step_by(2) {
            engine::write(&pool, 0, head, mib * MIB_SECTORS, 8, 100).await.expect("writing");
        }
        pool.close().await.expect("closing");
        let pool = Pool::open(disk.clone(), engine::options()).await.expect("reopening");
        // The inner nodes of both, which stay in memory.
        pool.changes(base, head, 1 << 20, BLOCK_SIZE, 1).await.expect("changes");

        let cost = async |offset, len, max| {
            let before = disk.counts().bytes_read;
            let found = pool.changes(base, head, offset, len, max).await.expect("changes");
            (found.len(), (disk.counts().bytes_read - before) / BLOCK_SIZE)
        };
        assert_eq!(cost(1 << 20, 1 << 20, 99).await, (1, 0), "a shared leaf is not read");
        assert_eq!(cost(4 << 20, 2 << 20, 99).await, (2, 2), "of one that differs there are two");
        assert_eq!(cost(8 << 20, 8 << 20, 2).await, (2, 4), "no more than tells where the last extent ends");
        assert_eq!(cost(0, 16 << 20, 99).await.0, 16);
    });
}
