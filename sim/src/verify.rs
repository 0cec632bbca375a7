//! After a death: is everything there that must be, and nothing that cannot be?

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use cairn_cow::sim::{Rng, SimDisk};
use cairn_cow::{Error, ErrorKind, ExtentKind, Pool as AnyPool, VersionId};

use crate::ballast;
use crate::controller::label;
use crate::engine::{self, BLOCK_SECTORS, Pool};
use crate::note;
use crate::oracle::{Contents, Time, assert_allowed};
use crate::pattern::{SECTOR, ZERO};
use crate::world::{Death, Known, Pending, SharedVolume, SharedWorld, Snapshot};

/// What a pool that came up after a death holds.
pub(crate) struct Found {
    death: Death,
    heads: Vec<(SharedVolume, Contents)>,
}

impl Found {
    /// Makes it the world's new beginning.
    pub(crate) fn go_on(self, world: &SharedWorld) {
        let now = world.with(|w| w.tick());
        for (volume, seen) in self.heads {
            let mut volume = volume.borrow_mut();
            volume.doomed = false;
            match self.death {
                Death::Power | Death::Failure => volume.restart_history(&seen),
                Death::Process => volume.history.survived(&seen, now),
            }
        }
    }
}

/// Opens what a death left and compares it with the world. With `thorough`, the pool is then tidied up and every block of it
/// accounted for.
pub(crate) async fn come_up(
    disk: SimDisk,
    world: &SharedWorld,
    death: Death,
    thorough: bool,
) -> (Arc<Pool>, Found) {
    let options = world.with(|w| w.scale.options());
    let pool = AnyPool::open(disk, options).await.unwrap_or_else(|e| panic!("reopening: {e:?}"));
    let found = verify(&pool, world, death).await;
    if thorough {
        engine::settle(&pool).await;
        engine::assert_sound(&pool, "after recovery").await;
    }
    (pool, found)
}

/// Compares the reopened pool with the world.
pub(crate) async fn verify(pool: &Pool, world: &SharedWorld, death: Death) -> Found {
    reconcile(pool, world, false);
    let (volumes, flushed) =
        world.with(|w| (w.volumes.values().cloned().collect::<Vec<SharedVolume>>(), w.flushed));
    let ballast = world.with(|w| w.ballast);
    note::assert_there(pool, world);
    let (limit, (answered, asked)) = (pool.status().limit, world.with(|w| w.limit));
    assert!(limit == answered || limit == asked, "the pool's limit is {limit}, not {answered} or {asked}");
    world.with(|w| w.limit = (limit, limit));
    same_names(pool, &volumes, ballast.map(|_| ballast::NAME));
    if let Some(there) = ballast {
        ballast::assert_same(pool, there, Rng::new(flushed)).await;
    }
    let mut heads = Vec::new();
    for volume in &volumes {
        let (name, id, size, labelled) = {
            let volume = volume.borrow();
            (volume.name.clone(), volume.id, volume.size, volume.label)
        };
        let info = pool.volume(&name).unwrap_or_else(|e| panic!("volume {name} is gone: {e:?}"));
        let there = (info.id, info.size, label(&info.description, &info.attributes));
        assert_eq!(there, (id, size, labelled), "volume {name}");
        heads.push(contents(pool, id, size, &name).await);
    }
    // What comes up is a prefix of the log: whatever was answered before the latest thing in it was asked for is there.
    let latest = volumes.iter().zip(&heads).map(|(v, seen)| v.borrow().history.latest_start(seen)).max();
    let flushed = match death {
        Death::Power | Death::Failure => flushed,
        // All that was answered is, flushed or not.
        Death::Process => world.with(|w| w.tick()),
    };
    let point = flushed.max(latest.unwrap_or(0));
    for (volume, seen) in volumes.iter().zip(&heads) {
        let volume = volume.borrow();
        let what = format!("volume {} after {death:?}, flushed to {flushed}, point {point}", volume.name);
        assert_allowed(&what, seen, &volume.history, |sector| volume.history.after_crash(sector, point));
    }
    verify_snapshots(pool, &volumes, flushed).await;
    Found { death, heads: volumes.into_iter().zip(heads).collect() }
}

async fn verify_snapshots(pool: &Pool, volumes: &[SharedVolume], flushed: Time) {
    let mut unread: Vec<(SharedVolume, String, Time, Time, Contents)> = Vec::new();
    for volume in volumes {
        let (of, snapshots) = {
            let volume = volume.borrow();
            (volume.name.clone(), volume.snapshots.clone())
        };
        for (name, snapshot) in snapshots {
            let info = pool.snapshot(&of, &name).unwrap_or_else(|e| panic!("{of}@{name} is gone: {e:?}"));
            let there = (info.id, info.size, label(&info.description, &info.attributes));
            assert_eq!(there, (snapshot.id, snapshot.size, snapshot.label), "snapshot {of}@{name}");
            let what = format!("snapshot {of}@{name}");
            let seen = contents(pool, snapshot.id, snapshot.size, &what).await;
            match snapshot.known {
                Known::Exactly(expected) => {
                    let story = || {
                        let mut all = expected.keys().chain(seen.keys());
                        let differing = all.find(|s| expected.get(s) != seen.get(s));
                        differing
                            .map(|s| (s, expected.get(s), seen.get(s), volume.borrow().history.story(*s)))
                    };
                    assert!(
                        *expected == seen,
                        "{what} has changed (sector, was, is, its head's story): {:?}",
                        story()
                    );
                }
                Known::Answered { asked, answered } => {
                    unread.push((Rc::clone(volume), name.clone(), asked, answered, seen.clone()));
                }
                Known::Unanswered { asked } => {
                    let history = &volume.borrow().history;
                    assert_allowed(&what, &seen, history, |s| {
                        history.in_unanswered_snapshot(s, asked, flushed)
                    });
                }
            }
            if let Some(snapshot) = volume.borrow_mut().snapshots.get_mut(&name) {
                snapshot.known = Known::Exactly(Rc::new(seen));
            }
        }
    }
    // Those of one group were asked for at the same time.
    let points: BTreeSet<Time> = unread.iter().map(|u| u.2).collect();
    for point in points {
        let group: Vec<_> = unread.iter().filter(|u| u.2 == point).collect();
        let volumes: Vec<SharedVolume> = group.iter().map(|u| Rc::clone(&u.0)).collect();
        let seen: Vec<Contents> = group.iter().map(|u| u.4.clone()).collect();
        assert_point_in_order(&volumes, &seen, &group[0].1, point, group[0].3);
    }
}

/// What these snapshots of one point hold is a point in the order of the log: whatever was answered before anything
/// in it was asked for is in it as well.
pub(crate) fn assert_point_in_order(
    volumes: &[SharedVolume],
    seen: &[Contents],
    name: &str,
    asked: Time,
    answered: Time,
) {
    let latest =
        volumes.iter().zip(seen).map(|(volume, seen)| volume.borrow().history.latest_start(seen)).max();
    let point = asked.max(latest.unwrap_or(0));
    for (volume, seen) in volumes.iter().zip(seen) {
        let volume = volume.borrow();
        let what = format!(
            "snapshot {}@{name} asked at {asked}, answered at {answered}, point {point}",
            volume.name
        );
        assert_allowed(&what, seen, &volume.history, |sector| {
            volume.history.in_snapshot(sector, asked, point, answered)
        });
    }
}

fn same_names(pool: &Pool, volumes: &[SharedVolume], ballast: Option<&str>) {
    let there: BTreeSet<String> = pool.volumes().into_iter().map(|v| v.name).collect();
    let mut expected: BTreeSet<String> = volumes.iter().map(|v| v.borrow().name.clone()).collect();
    expected.extend(ballast.map(str::to_owned));
    assert_eq!(there, expected, "the volumes after a crash");
    for volume in volumes {
        let volume = volume.borrow();
        let there = pool.snapshots(Some(&volume.name)).unwrap_or_else(|e| panic!("snapshots: {e:?}"));
        let there: BTreeSet<String> = there.into_iter().map(|s| s.name).collect();
        let expected: BTreeSet<String> = volume.snapshots.keys().cloned().collect();
        assert_eq!(there, expected, "the snapshots of {} after a crash", volume.name);
    }
}

/// A check beside running I/O finds nothing wrong.
///
/// # Panics
/// When it does.
pub(crate) async fn check_beside(pool: &Pool, world: &SharedWorld) {
    match pool.check(false).await {
        // Where the disk fails it may tell of what cannot be read.
        Ok(report) => {
            assert!(report.error_count == 0 || world.with(|w| w.is_troubled()), "{report:#?}");
        }
        // It holds back what is freed, and gives up before that takes the last room.
        Err(e) if e.kind() == ErrorKind::Busy && world.with(|w| w.ballast.is_some()) => {}
        Err(e) => assert!(world.with(|w| w.excuses(&e)), "check: {e:?}"),
    }
}

/// Compares a pool at work, and that nobody works on for now, with the world: all that was answered is there.
pub(crate) async fn compare(pool: &Pool, world: &SharedWorld) {
    let (volumes, now) =
        world.with(|w| (w.volumes.values().cloned().collect::<Vec<SharedVolume>>(), w.tick()));
    for volume in volumes {
        let volume = volume.borrow().clone();
        if volume.doomed && pool.volume(&volume.name).is_err() {
            continue;
        }
        let what = format!("volume {} at {now}", volume.name);
        let seen = contents(pool, volume.id, volume.size, &what).await;
        assert_allowed(&what, &seen, &volume.history, |sector| {
            volume.history.live(sector, now, now).into_iter()
        });
        for (name, snapshot) in volume.snapshots {
            let what = format!("snapshot {}@{name}", volume.name);
            if pool.snapshot(&volume.name, &name).is_err() {
                match world.with(|w| w.pending.clone()) {
                    Pending::DeleteSnapshot { name: gone, .. } if gone == name => continue,
                    Pending::Edit(edit) if edit.renames(&volume.name, &name) => {}
                    _ => panic!("{what} is gone"),
                }
            }
            let seen = contents(pool, snapshot.id, snapshot.size, &what).await;
            match snapshot.known {
                Known::Exactly(expected) => assert!(seen == *expected, "{what} has changed"),
                Known::Answered { asked, answered } => assert_allowed(&what, &seen, &volume.history, |s| {
                    volume.history.in_snapshot(s, asked, asked, answered)
                }),
                Known::Unanswered { .. } => {}
            }
        }
    }
}

async fn contents(pool: &Pool, id: VersionId, size: u64, what: &str) -> Contents {
    engine::contents(pool, id, size).await.unwrap_or_else(|e| panic!("reading {what}: {e:?}"))
}

/// Reads all of a pool whose disk has lied: what can be read was there at some time, and a snapshot is what it was.
pub(crate) async fn never_wrong(pool: &Pool, world: &SharedWorld) {
    let volumes = world.with(|w| w.volumes.values().cloned().collect::<Vec<SharedVolume>>());
    for volume in volumes {
        let volume = volume.borrow().clone();
        readable(pool, (volume.id, volume.size), &volume.history.touched(), |sector, id| {
            let ever = volume.history.ever(sector);
            assert!(
                ever.contains(&id),
                "sector {sector} of {} holds write {id}, never {ever:?}",
                volume.name
            );
        })
        .await;
        for (name, snapshot) in &volume.snapshots {
            let Known::Exactly(expected) = &snapshot.known else { continue };
            let tracked = expected.keys().copied().collect();
            readable(pool, (snapshot.id, snapshot.size), &tracked, |sector, id| {
                let was = expected.get(&sector).copied().unwrap_or(ZERO);
                assert_eq!(id, was, "sector {sector} of {}@{name} has changed", volume.name);
            })
            .await;
        }
    }
}

/// Tells of each sector that can be read and is not in a hole, or is one of those that are `tracked`. There may be no
/// such version, or a smaller or damaged one.
async fn readable(
    pool: &Pool,
    (id, size): (VersionId, u64),
    tracked: &BTreeSet<u64>,
    mut each: impl FnMut(u64, u64),
) {
    let clear = [ErrorKind::Corrupt, ErrorKind::NotFound, ErrorKind::OutOfRange];
    let clear = |e: &Error| clear.contains(&e.kind());
    let (extents, error) = engine::extents(pool, id, size).await;
    assert!(error.as_ref().is_none_or(clear), "{error:?}");
    for extent in extents {
        let (first, end) = (extent.offset / SECTOR, (extent.offset + extent.len) / SECTOR);
        if extent.kind != ExtentKind::Data {
            tracked.range(first..end).for_each(|sector| each(*sector, ZERO));
            continue;
        }
        for at in (first..end).step_by(BLOCK_SECTORS as usize) {
            match engine::read(pool, id, at, BLOCK_SECTORS.min(end - at)).await {
                Ok(ids) => {
                    for (sector, id) in (at..).zip(ids) {
                        each(sector, id.unwrap_or_else(|| panic!("sector {sector} holds garbage")));
                    }
                }
                Err(e) => assert!(clear(&e), "{e:?}"),
            }
        }
    }
}

/// The one operation that is not known to have happened did so or did not; the pool tells which. A pool that is at work has
/// flushed it.
pub(crate) fn reconcile(pool: &Pool, world: &SharedWorld, at_work: bool) {
    let pending = world.with(|w| std::mem::replace(&mut w.pending, Pending::Nothing));
    let volume = |name: &str| world.with(|w| w.volumes.get(name).cloned()).expect("the world knows it");
    let now = world.with(|w| w.tick());
    let known = |asked| match at_work {
        true => Known::Answered { asked, answered: now },
        false => Known::Unanswered { asked },
    };
    match pending {
        Pending::Nothing => {}
        Pending::Create { name, size, label } => {
            if let Ok(info) = pool.volume(&name) {
                world.with(|w| w.add(&name, info.id, size, label, &Contents::new()));
            }
        }
        Pending::Clone { name, size, label, contents } => {
            if let Ok(info) = pool.volume(&name) {
                world.with(|w| w.add(&name, info.id, size, label, &contents));
            }
        }
        Pending::Edit(edit) => {
            let found = match &edit.snapshot {
                Some(_) => {
                    pool.snapshot(&edit.volume, &edit.name).map(|s| label(&s.description, &s.attributes))
                }
                None => pool.volume(&edit.name).map(|v| label(&v.description, &v.attributes)),
            };
            if found.is_ok_and(|found| found == edit.label) {
                world.with(|w| w.edited(edit));
            }
        }
        Pending::DeleteVolume { name } => match pool.volume(&name) {
            Ok(_) => volume(&name).borrow_mut().doomed = false,
            Err(_) => _ = world.with(|w| w.volumes.remove(&name)),
        },
        Pending::Resize { name, size } => {
            if pool.volume(&name).is_ok_and(|info| info.size == size) {
                let volume = volume(&name);
                let hot = world.with(|w| w.scale.hot);
                let mut volume = volume.borrow_mut();
                volume.size = size;
                volume.heat_tail(hot);
            }
        }
        Pending::DeleteSnapshot { volume: of, name } => {
            if pool.snapshot(&of, &name).is_err() {
                volume(&of).borrow_mut().snapshots.remove(&name);
            }
        }
        Pending::Snapshot { asked, of } => {
            let there: Vec<_> = of.iter().filter_map(|(v, s)| pool.snapshot(v, s).ok()).collect();
            assert!(
                there.is_empty() || there.len() == of.len(),
                "a group of forks is all or none: {there:?}"
            );
            for info in there {
                let known = known(asked);
                let snapshot = Snapshot { id: info.id, size: info.size, label: asked, known };
                volume(&info.volume).borrow_mut().snapshots.insert(info.name, snapshot);
            }
        }
        Pending::Rollback { volume: of, asked } => {
            let volume = volume(&of);
            let mut volume = volume.borrow_mut();
            let there = pool.snapshots(Some(&of)).unwrap_or_else(|e| panic!("snapshots: {e:?}"));
            let new: Vec<_> = there.into_iter().filter(|s| !volume.snapshots.contains_key(&s.name)).collect();
            assert!(new.len() <= 1, "one rollback keeps one snapshot: {new:?}");
            match new.into_iter().next() {
                // Without its undo point the rollback did not happen.
                None => volume.history.retract(asked),
                Some(info) => {
                    assert!(info.automatic, "{info:?}");
                    if at_work {
                        volume.history.happened(asked, now);
                    }
                    let known = known(asked);
                    let snapshot = Snapshot { id: info.id, size: info.size, label: 0, known };
                    volume.snapshots.insert(info.name, snapshot);
                }
            }
        }
    }
}
