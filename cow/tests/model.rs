//! The engine against the plainest model there is: a volume is a map from sector to the write that is in it, a
//! snapshot is a copy of that map. No crashes but clean ones; whatever differs is shrunk to a short list of steps.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_cow::sim::{Rng, Sim, SimDisk};
use cairn_cow::{ErrorKind, ExtentKind, Result, SnapshotInfo, VersionId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use cairn_sim::engine::{self, Pool};
use cairn_sim::oracle::Contents;
use cairn_sim::pattern::SECTOR;

const LIMIT: u64 = 64 << 20;
/// Cases of a default run; `CAIRN_SIM_ROUNDS` changes it.
const CASES: u32 = 60;

#[derive(Clone, Debug)]
struct Place {
    /// Which of the places where seams are: the start, the first leaf's end, the tail.
    region: u8,
    first: u8,
    count: u8,
}

#[derive(Clone, Copy, Debug)]
enum Down {
    Close,
    Kill,
    Power,
}

/// Numbers choose among what there is at that time, modulo how much that is.
#[derive(Clone, Debug)]
enum Step {
    Create { size: u8 },
    Clone { volume: u8, snapshot: u8, more: u8 },
    DeleteVolume { volume: u8, with_snapshots: bool },
    Resize { volume: u8, sectors: i16 },
    Snapshot { volume: u8 },
    SnapshotAll,
    DeleteSnapshot { volume: u8, snapshot: u8 },
    Rollback { volume: u8, snapshot: u8 },
    Replace { volume: u8, source: u8, snapshot: u8 },
    Write { volume: u8, place: Place, fua: bool },
    Zero { volume: u8, place: Place, hole: bool },
    ZeroAll { volume: u8, hole: bool },
    Read { volume: u8, snapshot: Option<u8>, place: Place },
    WriteSnapshot { volume: u8, snapshot: u8 },
    WriteOutside { volume: u8 },
    Diff { volume: u8, from: u8, to: Option<u8> },
    Flush,
    Rest,
    Check,
    Reopen(Down),
}

fn place() -> impl Strategy<Value = Place> {
    (0..3u8, any::<u8>(), any::<u8>()).prop_map(|(region, first, count)| Place { region, first, count })
}

fn step() -> impl Strategy<Value = Step> {
    let v = any::<u8>;
    prop_oneof![
        3 => v().prop_map(|size| Step::Create { size }),
        3 => (v(), v(), v()).prop_map(|(volume, snapshot, more)| Step::Clone { volume, snapshot, more }),
        2 => (v(), any::<bool>()).prop_map(|(volume, with_snapshots)| Step::DeleteVolume { volume, with_snapshots }),
        2 => (v(), -50i16..500).prop_map(|(volume, sectors)| Step::Resize { volume, sectors }),
        6 => v().prop_map(|volume| Step::Snapshot { volume }),
        2 => Just(Step::SnapshotAll),
        5 => (v(), v()).prop_map(|(volume, snapshot)| Step::DeleteSnapshot { volume, snapshot }),
        4 => (v(), v()).prop_map(|(volume, snapshot)| Step::Rollback { volume, snapshot }),
        2 => (v(), v(), v()).prop_map(|(volume, source, snapshot)| Step::Replace { volume, source, snapshot }),
        30 => (v(), place(), any::<bool>()).prop_map(|(volume, place, fua)| Step::Write { volume, place, fua }),
        8 => (v(), place(), any::<bool>()).prop_map(|(volume, place, hole)| Step::Zero { volume, place, hole }),
        1 => (v(), any::<bool>()).prop_map(|(volume, hole)| Step::ZeroAll { volume, hole }),
        8 => (v(), any::<Option<u8>>(), place())
            .prop_map(|(volume, snapshot, place)| Step::Read { volume, snapshot, place }),
        1 => (v(), v()).prop_map(|(volume, snapshot)| Step::WriteSnapshot { volume, snapshot }),
        1 => v().prop_map(|volume| Step::WriteOutside { volume }),
        3 => (v(), v(), any::<Option<u8>>()).prop_map(|(volume, from, to)| Step::Diff { volume, from, to }),
        2 => Just(Step::Flush),
        2 => Just(Step::Rest),
        1 => Just(Step::Check),
        2 => prop_oneof![Just(Down::Close), Just(Down::Kill), Just(Down::Power)].prop_map(Step::Reopen),
    ]
}

#[derive(Clone, Debug, Default)]
struct Version {
    size: u64,
    contents: Contents,
}

#[derive(Clone, Debug, Default)]
struct Volume {
    head: Version,
    snapshots: BTreeMap<String, Version>,
}

#[derive(Default)]
struct Model {
    volumes: BTreeMap<String, Volume>,
    names: u64,
    writes: u64,
}

impl Model {
    fn volume(&self, number: u8) -> Option<(String, Volume)> {
        let at = usize::from(number) % self.volumes.len().max(1);
        self.volumes.iter().nth(at).map(|(name, volume)| (name.clone(), volume.clone()))
    }

    fn snapshot(&self, volume: u8, number: u8) -> Option<(String, String, Version)> {
        let (of, volume) = self.volume(volume)?;
        let at = usize::from(number) % volume.snapshots.len().max(1);
        volume.snapshots.into_iter().nth(at).map(|(name, version)| (of, name, version))
    }

    fn head(&mut self, name: &str) -> &mut Version {
        &mut self.volumes.get_mut(name).expect("chosen from what there is").head
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }
}

impl Place {
    fn sectors(&self, size: u64) -> (u64, u64) {
        let total = size / SECTOR;
        let base = match self.region {
            0 => 0,
            1 => (1 << 20) / SECTOR - 128,
            _ => total.saturating_sub(280),
        };
        let first = (base + u64::from(self.first)).min(total - 1);
        (first, (1 + u64::from(self.count)).min(total - first))
    }
}

struct Run {
    sim: Sim,
    disk: SimDisk,
    pool: Arc<Pool>,
    model: Model,
    rng: Rng,
}

impl Run {
    fn new(seed: u64) -> Run {
        let disk = SimDisk::file(2 * LIMIT);
        let sim = engine::world(seed, &disk);
        let pool = sim.run(engine::create(disk.clone(), LIMIT)).expect("creating the pool");
        let mut rng = Rng::new(seed);
        engine::maintain_forever(&sim.handle(), &pool, rng.fork(), true);
        Run { sim, disk, pool, model: Model::default(), rng }
    }

    /// Runs one operation of the pool.
    fn ask<T: 'static, F: Future<Output = T> + 'static>(&self, f: impl FnOnce(Arc<Pool>) -> F) -> T {
        self.sim.run(f(Arc::clone(&self.pool)))
    }

    fn id_of(&self, volume: &str, snapshot: Option<&str>) -> VersionId {
        let name = snapshot.map_or_else(|| volume.to_owned(), |s| format!("{volume}@{s}"));
        self.pool.resolve(&name).unwrap_or_else(|e| panic!("{name}: {e:?}")).id
    }

    fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::Create { size } => self.create(size),
            Step::Clone { volume, snapshot, more } => self.clone_volume(volume, snapshot, more),
            Step::DeleteVolume { volume, with_snapshots } => self.delete_volume(volume, with_snapshots),
            Step::Resize { volume, sectors } => self.resize(volume, sectors),
            Step::Snapshot { volume } => {
                let of: Vec<String> = self.model.volume(volume).map(|(name, _)| name).into_iter().collect();
                self.snapshot(of);
            }
            Step::SnapshotAll => self.snapshot(self.model.volumes.keys().cloned().collect()),
            Step::DeleteSnapshot { volume, snapshot } => self.delete_snapshot(volume, snapshot),
            Step::Rollback { volume, snapshot } => self.rollback(volume, snapshot),
            Step::Replace { volume, source, snapshot } => self.replace(volume, source, snapshot),
            Step::Write { volume, place, fua } => self.write(volume, &place, fua),
            Step::Zero { volume, place, hole } => {
                if let Some((name, v)) = self.model.volume(volume) {
                    let (first, count) = place.sectors(v.head.size);
                    self.zero(&name, first, count, hole);
                }
            }
            Step::ZeroAll { volume, hole } => {
                if let Some((name, v)) = self.model.volume(volume) {
                    self.zero(&name, 0, v.head.size / SECTOR, hole);
                }
            }
            Step::Read { volume, snapshot, place } => self.read(volume, snapshot, &place),
            Step::WriteSnapshot { volume, snapshot } => {
                let Some((of, name, _)) = self.model.snapshot(volume, snapshot) else { return };
                let id = self.id_of(&of, Some(&name));
                let refused =
                    self.ask(|p| async move { engine::write(&p, 0, id, 0, 1, 1).await.map(|_| ()) });
                expect_refusal(refused, ErrorKind::ReadOnly);
            }
            Step::WriteOutside { volume } => {
                let Some((name, v)) = self.model.volume(volume) else { return };
                let (id, end) = (self.id_of(&name, None), v.head.size / SECTOR);
                let refused =
                    self.ask(|p| async move { engine::write(&p, 0, id, end - 1, 2, 1).await.map(|_| ()) });
                expect_refusal(refused, ErrorKind::OutOfRange);
                let refused = self.ask(|p| async move { engine::read(&p, id, end, 1).await.map(|_| ()) });
                expect_refusal(refused, ErrorKind::OutOfRange);
            }
            Step::Diff { volume, from, to } => self.diff(volume, from, to),
            Step::Flush => self.ask(|p| async move { p.flush().await }).expect("flush"),
            Step::Rest => self.ask(|p| async move { engine::settle(&p).await }),
            Step::Check => self.ask(|p| async move { engine::assert_sound(&p, "between steps").await }),
            Step::Reopen(down) => self.reopen(down),
        }
    }

    fn create(&mut self, size: u8) {
        let size = [512, 64 << 10, (1 << 20) + 1536, 3 << 20, 35 << 40, 2 << 30][usize::from(size) % 6];
        let name = self.model.name();
        let info = self.ask({
            let name = name.clone();
            |p| async move { p.create_volume(&name, size, "made by a test").await }
        });
        let info = info.expect("creating a volume");
        assert_eq!((info.size, info.description.as_str(), info.mapped), (size, "made by a test", 0));
        let again = self.ask({
            let name = name.clone();
            |p| async move { p.create_volume(&name, size, "").await.map(|_| ()) }
        });
        expect_refusal(again, ErrorKind::Exists);
        let head = Version { size, contents: Contents::new() };
        self.model.volumes.insert(name, Volume { head, snapshots: BTreeMap::new() });
    }

    fn clone_volume(&mut self, volume: u8, snapshot: u8, more: u8) {
        let Some((of, from, mut version)) = self.model.snapshot(volume, snapshot) else { return };
        version.size += [0, 512, 1 << 20][usize::from(more) % 3];
        let (name, size) = (self.model.name(), version.size);
        let info = self.ask({
            let (name, of, from) = (name.clone(), of.clone(), from.clone());
            move |p| async move { p.clone_volume(&of, &from, &name, Some(size)).await }
        });
        let info = info.expect("cloning");
        let origin = info.origin.expect("a clone has an origin");
        assert_eq!((info.size, origin.volume, origin.snapshot), (size, of, from));
        self.model.volumes.insert(name, Volume { head: version, snapshots: BTreeMap::new() });
    }

    fn delete_volume(&mut self, volume: u8, with_snapshots: bool) {
        let Some((name, v)) = self.model.volume(volume) else { return };
        let deleted = self.ask({
            let name = name.clone();
            move |p| async move { p.delete_volume(&name, with_snapshots).await }
        });
        if !with_snapshots && !v.snapshots.is_empty() {
            expect_refusal(deleted, ErrorKind::HasSnapshots);
        } else {
            deleted.expect("deleting a volume");
            assert_eq!(self.pool.volume(&name).err().map(|e| e.kind()), Some(ErrorKind::NotFound));
            self.model.volumes.remove(&name);
        }
    }

    fn resize(&mut self, volume: u8, sectors: i16) {
        let Some((name, v)) = self.model.volume(volume) else { return };
        let size = v.head.size.saturating_add_signed(i64::from(sectors) * SECTOR as i64).max(SECTOR);
        let resized = self.ask({
            let name = name.clone();
            move |p| async move { p.resize_volume(&name, size).await }
        });
        if size < v.head.size {
            expect_refusal(resized.map(|_| ()), ErrorKind::Shrink);
        } else {
            assert_eq!(resized.expect("resizing").size, size);
            self.model.head(&name).size = size;
        }
    }

    fn snapshot(&mut self, of: Vec<String>) {
        if of.is_empty() {
            return;
        }
        let name = self.model.name();
        let infos = self.ask({
            let (of, name) = (of.clone(), name.clone());
            move |p| async move {
                let pairs: Vec<(&str, &str)> = of.iter().map(|v| (v.as_str(), name.as_str())).collect();
                let taken = p.create_snapshots(&pairs, "d").await?;
                let again = p.create_snapshots(&pairs, "d").await;
                assert_eq!(again.err().map(|e| e.kind()), Some(ErrorKind::Exists));
                Ok::<_, cairn_cow::Error>(taken)
            }
        });
        let infos = infos.expect("taking snapshots");
        assert_eq!(infos.len(), of.len());
        for volume in of {
            let volume = self.model.volumes.get_mut(&volume).expect("chosen from what there is");
            volume.snapshots.insert(name.clone(), volume.head.clone());
        }
    }

    fn delete_snapshot(&mut self, volume: u8, snapshot: u8) {
        let Some((of, name, _)) = self.model.snapshot(volume, snapshot) else { return };
        let deleted = self.ask({
            let (of, name) = (of.clone(), name.clone());
            move |p| async move { p.delete_snapshot(&of, &name).await }
        });
        deleted.expect("deleting a snapshot");
        self.model.volumes.get_mut(&of).expect("it has a snapshot").snapshots.remove(&name);
    }

    fn rollback(&mut self, volume: u8, snapshot: u8) {
        let Some((of, name, version)) = self.model.snapshot(volume, snapshot) else { return };
        let kept = self.ask({
            let of = of.clone();
            move |p| async move { p.rollback(&of, &name).await }
        });
        self.replaced(&of, kept.expect("rolling back"), version);
    }

    fn replace(&mut self, volume: u8, source: u8, snapshot: u8) {
        let Some((of, held)) = self.model.volume(volume) else { return };
        let Some((source, name, version)) = self.model.snapshot(source, snapshot) else { return };
        let fits = version.size <= held.head.size;
        let kept = self.ask({
            let of = of.clone();
            move |p| async move { p.replace(&of, (&source, &name), "undo").await }
        });
        match kept {
            Ok(kept) => {
                assert!(fits && kept.name.starts_with("undo"), "{kept:?}");
                self.replaced(&of, kept, version);
            }
            Err(error) => assert!(!fits && error.kind() == ErrorKind::Shrink, "{error:?}"),
        }
    }

    /// The volume goes on from a version, and what it held is kept.
    fn replaced(&mut self, of: &str, kept: SnapshotInfo, version: Version) {
        assert!(kept.automatic);
        let volume = self.model.volumes.get_mut(of).expect("chosen from what there is");
        let was = volume.head.clone();
        volume.snapshots.insert(kept.name, was);
        // A volume never gets smaller, so it keeps its size; past the snapshot's end there is nothing.
        volume.head.contents = version.contents;
    }

    fn write(&mut self, volume: u8, place: &Place, fua: bool) {
        let Some((name, v)) = self.model.volume(volume) else { return };
        let (first, count) = place.sectors(v.head.size);
        self.model.writes += 1;
        let (write, id, lane) = (self.model.writes, self.id_of(&name, None), self.rng.index(2));
        let written = self.ask(|p| async move {
            let lsn = engine::write(&p, lane, id, first, count, write).await?;
            if fua { p.flush_to(lsn).await } else { Ok(()) }
        });
        written.expect("writing");
        let head = self.model.head(&name);
        head.contents.extend((first..first + count).map(|s| (s, write)));
    }

    fn zero(&mut self, name: &str, first: u64, count: u64, hole: bool) {
        let id = self.id_of(name, None);
        let kind = if hole { ExtentKind::Hole } else { ExtentKind::Zero };
        let zeroed = self.ask(|p| async move { engine::zero(&p, 0, id, first, count, kind).await });
        zeroed.expect("zeroing");
        let head = self.model.head(name);
        let zeroed = engine::zeroed(kind, first, count, head.size);
        head.contents.retain(|s, _| !zeroed.contains(s));
        let (offset, len) = (first * SECTOR, count * SECTOR);
        let extents = self.ask(|p| async move { p.extents(id, offset, len, 100).await }).expect("extents");
        let whole = |e: &cairn_cow::Extent| e.offset >= offset.next_multiple_of(4096) && e.len >= 4096;
        assert!(
            !extents.iter().any(|e| whole(e) && e.kind == ExtentKind::Data && e.len > 4096),
            "{extents:?}"
        );
    }

    fn read(&mut self, volume: u8, snapshot: Option<u8>, place: &Place) {
        let Some((name, v)) = self.model.volume(volume) else { return };
        let chosen = snapshot.and_then(|s| self.model.snapshot(volume, s));
        let (id, version) = match chosen {
            Some((of, snapshot, version)) => (self.id_of(&of, Some(&snapshot)), version),
            None => (self.id_of(&name, None), v.head),
        };
        let (first, count) = place.sectors(version.size);
        let seen = self.ask(|p| async move { engine::read(&p, id, first, count).await }).expect("reading");
        for (sector, seen) in (first..).zip(seen) {
            assert_eq!(
                seen,
                Some(version.contents.get(&sector).copied().unwrap_or(0)),
                "sector {sector} of {name}"
            );
        }
    }

    fn diff(&mut self, volume: u8, from: u8, to: Option<u8>) {
        let Some((of, from, old)) = self.model.snapshot(volume, from) else { return };
        let new = match to {
            Some(to) => self.model.snapshot(volume, to).map(|(_, name, version)| (Some(name), version)),
            None => self.model.volume(volume).map(|(_, v)| (None, v.head)),
        };
        let Some((to, new)) = new else { return };
        let extents = self.ask(|p| async move { p.diff(&of, &from, to.as_deref()).await }).expect("diff");
        let starts: BTreeMap<u64, &cairn_cow::DiffExtent> = extents.iter().map(|e| (e.offset, e)).collect();
        let kind_at = |block: u64| {
            let before = starts.range(..=block * 4096).next_back().map(|(_, e)| *e);
            before.filter(|e| block * 4096 < e.offset + e.len).map(|e| e.kind)
        };
        let by_block = |contents: &Contents| {
            let mut blocks: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
            for (&sector, &id) in contents {
                blocks.entry(sector / 8).or_default().push((sector, id));
            }
            blocks
        };
        let (old, new) = (by_block(&old.contents), by_block(&new.contents));
        for block in old.keys().chain(new.keys()) {
            let (was, is) = (old.get(block), new.get(block));
            match kind_at(*block) {
                None => assert_eq!(was, is, "block {block} differs, the diff does not say so: {extents:?}"),
                Some(kind) => {
                    assert_eq!(kind == ExtentKind::Data, is.is_some(), "block {block}: {extents:?}");
                }
            }
        }
    }

    fn reopen(&mut self, down: Down) {
        match down {
            Down::Close => self.ask(|p| async move { p.close().await }).expect("closing"),
            Down::Power => self.ask(|p| async move { p.flush().await }).expect("flush"),
            // What was answered is there, flushed or not.
            Down::Kill => {}
        }
        self.sim.stop();
        self.disk = match down {
            Down::Power => self.disk.crash(&mut self.rng),
            Down::Close | Down::Kill => self.disk.kill(&mut self.rng),
        };
        self.sim = engine::world(self.rng.next_u64(), &self.disk);
        let replayed = self.disk.counts();
        self.pool = self.sim.run(Pool::open(self.disk.clone(), engine::options())).expect("reopening");
        if matches!(down, Down::Close) {
            let writes = self.disk.counts().writes - replayed.writes;
            assert_eq!(
                writes, 1,
                "opening a clean pool writes the second superblock again, and nothing else"
            );
        }
        engine::maintain_forever(&self.sim.handle(), &self.pool, self.rng.fork(), true);
        self.compare();
    }

    /// Everything there is equals the model.
    fn compare(&self) {
        let volumes = self.pool.volumes();
        assert!(volumes.iter().map(|v| &v.name).eq(self.model.volumes.keys()), "{volumes:?}");
        for (info, (name, volume)) in volumes.iter().zip(&self.model.volumes) {
            self.compare_version(name, info.id, info.size, info.mapped, &volume.head);
            let snapshots = self.pool.snapshots(Some(name)).expect("listing snapshots");
            assert_eq!((snapshots.len(), info.snapshots), (volume.snapshots.len(), snapshots.len()));
            for info in snapshots {
                let version = &volume.snapshots[&info.name];
                let what = format!("{name}@{}", info.name);
                self.compare_version(&what, info.id, info.size, info.mapped, version);
            }
        }
    }

    fn compare_version(&self, what: &str, id: VersionId, size: u64, mapped: u64, version: &Version) {
        assert_eq!(size, version.size, "{what}");
        let seen = self.ask(|p| async move { engine::contents(&p, id, size).await });
        let seen = seen.unwrap_or_else(|e| panic!("reading {what}: {e:?}"));
        let sectors = seen.keys().chain(version.contents.keys());
        let differing = sectors.copied().find(|s| seen.get(s) != version.contents.get(s));
        let difference = differing.map(|s| (s, version.contents.get(&s), seen.get(&s)));
        assert_eq!(difference, None, "{what}: sector, expected, seen");
        let blocks: std::collections::BTreeSet<u64> = seen.keys().map(|s| s / 8).collect();
        assert_eq!(mapped, blocks.len() as u64 * 4096, "{what}: bytes that hold data");
    }

    fn finish(&mut self) {
        self.compare();
        self.step(&Step::Check);
        // Everything can be deleted, and then nothing is left of it.
        for name in self.model.volumes.keys().cloned().collect::<Vec<_>>() {
            self.ask(|p| async move { p.delete_volume(&name, true).await }).expect("deleting at the end");
        }
        self.model.volumes.clear();
        self.step(&Step::Rest);
        self.ask(|p| async move { p.close().await }).expect("closing");
        self.step(&Step::Check);
        let status = self.pool.status();
        assert_eq!((status.volumes, status.snapshots, status.pending_deletes), (0, 0, 0));
        let report = self.ask(|p| async move { p.check(true).await }).expect("check");
        assert_eq!((report.nodes, report.data_blocks), (0, 0), "an empty pool holds nothing: {report:?}");
    }
}

fn expect_refusal(answer: Result<()>, kind: ErrorKind) {
    assert_eq!(answer.err().map(|e| e.kind()), Some(kind));
}

fn cases() -> u32 {
    std::env::var("CAIRN_SIM_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES)
}

/// Prints what it counted, for `cargo xtask soak`.
#[test]
fn any_steps_do_what_the_model_does() {
    let config =
        Config { cases: cases(), max_shrink_iters: 2000, failure_persistence: None, ..Config::default() };
    let done = Cell::new(0);
    let lives = (any::<u64>(), prop::collection::vec(step(), 1..150));
    let result = TestRunner::new(config).run(&lives, |(seed, steps)| {
        let mut run = Run::new(seed);
        for step in &steps {
            run.step(step);
        }
        run.finish();
        done.set(done.get() + steps.len());
        Ok(())
    });
    result.unwrap_or_else(|failed| panic!("{failed}"));
    println!("counted {{\"operations\": {}}}", done.get());
}
