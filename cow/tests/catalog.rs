//! Names, descriptions, attributes and the limit: what was answered is there after any crash, and a change that was cut
//! off is there whole or not at all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use cairn_cow::sim::{Rng, Sim, SimDisk, for_each_seed};
use cairn_cow::{Edit, ErrorKind, Holder, NewVolume};

use cairn_sim::engine::{self, Pool, options};

/// A volume or snapshot as it is shown: description and attributes.
type Shown = (String, BTreeMap<String, String>);

/// All that these tests look at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Model {
    pool: BTreeMap<String, String>,
    /// By `VOLUME` or `VOLUME@SNAPSHOT`.
    versions: BTreeMap<String, Shown>,
    limit: u64,
}

fn texts(attributes: &cairn_cow::Attributes) -> BTreeMap<String, String> {
    attributes.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn seen(pool: &Pool) -> Model {
    let mut versions = BTreeMap::new();
    for volume in pool.volumes() {
        for s in pool.snapshots(Some(&volume.name)).expect("its volume is there") {
            versions.insert(format!("{}@{}", volume.name, s.name), (s.description, texts(&s.attributes)));
        }
        versions.insert(volume.name, (volume.description, texts(&volume.attributes)));
    }
    let own = pool.attributes(Holder::Pool).expect("the pool is there");
    Model { pool: texts(&own), versions, limit: pool.status().limit }
}

/// One change, decided by the seed; it may be one that is refused.
#[derive(Clone, Debug)]
enum Change {
    Create {
        name: String,
        attributes: Vec<(String, String)>,
    },
    Snapshot {
        volume: String,
        name: String,
    },
    Clone {
        from: String,
        name: String,
        description: String,
        attributes: Vec<(String, String)>,
    },
    Edit {
        what: String,
        name: Option<String>,
        description: Option<String>,
        changes: Vec<(String, Option<String>)>,
    },
    Set {
        what: Option<String>,
        changes: Vec<(String, Option<String>)>,
    },
    Delete {
        what: String,
    },
    Limit(u64),
}

fn change(rng: &mut Rng, now: &Model) -> Change {
    let name = |rng: &mut Rng| format!("n{}", rng.below(6));
    let text = |rng: &mut Rng| "x".repeat(rng.index(700));
    let some = |rng: &mut Rng| -> String {
        let at = rng.index(now.versions.len().max(1));
        now.versions.keys().nth(at).cloned().unwrap_or("n0".into())
    };
    let attributes = |rng: &mut Rng| -> Vec<(String, String)> {
        (0..rng.below(3)).map(|n| (format!("k{n}"), text(rng))).collect()
    };
    let changes = |rng: &mut Rng| -> Vec<(String, Option<String>)> {
        (0..rng.below(4)).map(|n| (format!("k{n}"), rng.chance(3, 4).then(|| text(rng)))).collect()
    };
    match rng.below(12) {
        0 | 1 => Change::Create { name: name(rng), attributes: attributes(rng) },
        2 => Change::Snapshot { volume: some(rng), name: name(rng) },
        3 => Change::Clone {
            from: some(rng),
            name: name(rng),
            description: text(rng),
            attributes: attributes(rng),
        },
        4 | 5 => Change::Edit {
            what: some(rng),
            name: rng.chance(1, 2).then(|| name(rng)),
            description: rng.chance(1, 2).then(|| text(rng)),
            changes: changes(rng),
        },
        6..=9 => Change::Set { what: rng.chance(2, 3).then(|| some(rng)), changes: changes(rng) },
        10 => Change::Delete { what: some(rng) },
        _ => Change::Limit((8 << 20) + rng.below(64) * 4096),
    }
}

fn apply(attributes: &mut BTreeMap<String, String>, changes: &[(String, Option<String>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(attributes.insert(key.clone(), value.clone())),
            None => drop(attributes.remove(key)),
        }
    }
}

/// What the change makes of the model; `None` where it is refused.
fn expected(before: &Model, change: &Change) -> Option<Model> {
    let mut then = before.clone();
    let owned = |attributes: &[(String, String)]| attributes.iter().cloned().collect();
    match change {
        Change::Create { name, attributes } => {
            let new = (String::new(), owned(attributes));
            then.versions.insert(name.clone(), new).is_none().then_some(then)
        }
        Change::Snapshot { volume, name } => {
            let known = then.versions.contains_key(volume) && !volume.contains('@');
            let new = format!("{volume}@{name}");
            (known && then.versions.insert(new, Shown::default()).is_none()).then_some(then)
        }
        Change::Clone { from, name, description, attributes } => {
            let known = then.versions.contains_key(from) && from.contains('@');
            let new = (description.clone(), owned(attributes));
            (known && then.versions.insert(name.clone(), new).is_none()).then_some(then)
        }
        Change::Edit { what, name, description, changes } => {
            let mut shown = then.versions.remove(what)?;
            apply(&mut shown.1, changes);
            if let Some(description) = description {
                shown.0.clone_from(description);
            }
            let Some(name) = name else {
                then.versions.insert(what.clone(), shown);
                return Some(then);
            };
            let renamed = |key: &str| match (what.split_once('@'), key.split_once('@')) {
                (None, Some((volume, snapshot))) if volume == what => format!("{name}@{snapshot}"),
                _ => key.to_owned(),
            };
            then.versions = then.versions.into_iter().map(|(key, v)| (renamed(&key), v)).collect();
            let new = what.split_once('@').map_or(name.clone(), |(volume, _)| format!("{volume}@{name}"));
            // Taken by another, or by what was renamed along with it.
            let taken = before.versions.contains_key(&new) && new != *what;
            then.versions.insert(new, shown);
            (!taken).then_some(then)
        }
        Change::Set { what, changes } => {
            let attributes = match what {
                None => &mut then.pool,
                Some(what) => &mut then.versions.get_mut(what)?.1,
            };
            apply(attributes, changes);
            Some(then)
        }
        Change::Delete { what } => {
            then.versions.remove(what)?;
            let inside = format!("{what}@");
            then.versions.retain(|key, _| !key.starts_with(&inside));
            Some(then)
        }
        Change::Limit(limit) => {
            then.limit = *limit;
            Some(then)
        }
    }
}

async fn make(pool: Arc<Pool>, change: Change) -> cairn_cow::Result<()> {
    let pairs = |attributes: &[(String, String)]| -> Vec<(String, String)> { attributes.to_vec() };
    match change {
        Change::Create { name, attributes } => {
            let held = pairs(&attributes);
            let attributes: Vec<_> = held.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let new = NewVolume { name: &name, description: "", attributes: &attributes };
            pool.create_volume_with(new, 1 << 20).await.map(drop)
        }
        Change::Snapshot { volume, name } => pool.create_snapshots(&[(&volume, &name)], "").await.map(drop),
        Change::Clone { from, name, description, attributes } => {
            let held = pairs(&attributes);
            let attributes: Vec<_> = held.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let new = NewVolume { name: &name, description: &description, attributes: &attributes };
            let (volume, snapshot) = from.split_once('@').unwrap_or((&from, "none"));
            pool.clone_volume_with(volume, snapshot, new, None).await.map(drop)
        }
        Change::Edit { what, name, description, changes } => {
            let changes: Vec<_> = changes.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            let edit =
                Edit { name: name.as_deref(), description: description.as_deref(), attributes: &changes };
            match what.split_once('@') {
                Some((volume, snapshot)) => pool.edit_snapshot(volume, snapshot, edit).await.map(drop),
                None => pool.edit_volume(&what, edit).await.map(drop),
            }
        }
        Change::Set { what, changes } => {
            let changes: Vec<_> = changes.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            let holder = match what.as_deref().map(|what| what.split_once('@').ok_or(what)) {
                None => Holder::Pool,
                Some(Ok((volume, snapshot))) => Holder::Snapshot(volume, snapshot),
                Some(Err(volume)) => Holder::Volume(volume),
            };
            pool.set_attributes(holder, &changes).await
        }
        Change::Delete { what } => match what.split_once('@') {
            Some((volume, snapshot)) => pool.delete_snapshot(volume, snapshot).await,
            None => pool.delete_volume(&what, true).await,
        },
        Change::Limit(limit) => pool.set_limit(limit).await,
    }
}

fn reopened(disk: &SimDisk, seed: u64) -> (Sim, Arc<Pool>) {
    let sim = engine::world(seed, disk);
    let pool = sim.run(Pool::open(disk.clone(), options())).unwrap_or_else(|e| panic!("{seed}: {e:?}"));
    (sim, pool)
}

#[test]
fn what_was_answered_is_there_after_any_crash() {
    for_each_seed(150, |seed| {
        let mut rng = Rng::new(seed);
        let mut disk = SimDisk::file(64 << 20);
        let mut sim = engine::world(seed, &disk);
        let mut pool = sim.run(engine::create(disk.clone(), 8 << 20)).expect("a pool");
        let mut model = seen(&pool);
        for step in 0..60 {
            let change = change(&mut rng, &model);
            let then = expected(&model, &change);
            if rng.chance(1, 8) {
                // Cut off somewhere in the middle, perhaps between two records of one change.
                let died = Rc::new(RefCell::new(None));
                let theirs = Rc::clone(&died);
                disk.if_it_died_after(rng.below(8), rng.fork(), move |dead| {
                    *theirs.borrow_mut() = Some(dead);
                });
                let answer = sim.run_for(rng.below(40), make(Arc::clone(&pool), change.clone()));
                let dead = died.take().filter(|_| answer.is_none());
                disk = match (dead, rng.chance(1, 2)) {
                    (Some(dead), true) => dead,
                    (_, true) => disk.crash(&mut rng),
                    (_, false) => disk.kill(&mut rng),
                };
                sim.stop();
                (sim, pool) = reopened(&disk, seed ^ step);
                let now = seen(&pool);
                let done = then.as_ref() == Some(&now);
                assert!(done || answer.is_none_or(|a| a.is_err()), "answered and lost: {change:?}");
                assert!(done || now == model, "half done: {change:?}\n{model:?}\n{now:?}");
                model = now;
                continue;
            }
            let answer = sim.run(make(Arc::clone(&pool), change.clone()));
            assert_eq!(answer.is_ok(), then.is_some(), "{change:?} of {model:?}: {answer:?}");
            model = then.unwrap_or(model);
            assert_eq!(seen(&pool), model, "{change:?}");
        }
        let checked = Arc::clone(&pool);
        let report = sim.run(async move { checked.check(false).await }).expect("a check");
        assert!(report.is_clean(), "{report:?}");
    });
}

/// A checkpoint that began before the change does not hold it.
#[test]
fn a_limit_is_durable_though_a_checkpoint_was_under_way() {
    for_each_seed(60, |seed| {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::file(64 << 20);
        let sim = engine::world(seed, &disk);
        let pool = sim.run(engine::create(disk.clone(), 8 << 20)).expect("a pool");
        let other = Arc::clone(&pool);
        drop(sim.spawn(async move { other.set_limit(12 << 20).await.expect("a limit") }));
        while pool.status().limit == 8 << 20 {
            assert!(sim.run_events(1));
        }
        sim.run_events(rng.below(12));
        sim.run(async move { pool.set_limit(16 << 20).await }).expect("a limit");
        let left = disk.crash(&mut rng);
        sim.stop();
        assert_eq!(reopened(&left, seed).1.status().limit, 16 << 20);
    });
}

#[test]
fn the_catalog_does_not_grow_past_the_reserve() {
    let disk = SimDisk::file(64 << 20);
    let sim = engine::world(1, &disk);
    let pool = sim.run(engine::create(disk.clone(), 8 << 20)).expect("a pool");
    let value = "v".repeat(4000);
    for n in 0..300 {
        let (pool, key, value) = (Arc::clone(&pool), format!("key/{n}"), value.clone());
        let set = sim.run(async move { pool.set_attributes(Holder::Pool, &[(&key, Some(&value))]).await });
        if let Err(error) = set {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
            assert!(n > 10, "room for {n} only");
            return;
        }
    }
    panic!("a pool of 8 MiB took more than a MiB of attributes");
}

#[test]
fn a_pool_is_not_limited_below_what_it_takes() {
    let disk = SimDisk::file(64 << 20);
    let sim = engine::world(1, &disk);
    let pool = sim.run(engine::create(disk.clone(), 16 << 20)).expect("a pool");
    let size = pool.status().size;
    for (limit, kind) in [(size - 1, ErrorKind::Shrink), (u64::MAX, ErrorKind::InvalidArgument)] {
        let pool = Arc::clone(&pool);
        let refused = sim.run(async move { pool.set_limit(limit).await }).expect_err("refused");
        assert_eq!(refused.kind(), kind);
    }
    assert_eq!(pool.status().limit, 16 << 20);
    let full = Arc::clone(&pool);
    sim.run(async move { full.set_limit(size).await }).expect("just what it takes");
    assert_eq!(pool.status().limit, size);
}
