//! Control operations, one after the other, beside the writers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use cairn_cow::sim::{Handle, Rng};
use cairn_cow::{Attributes, Edit as Change, Error, ErrorKind, ExtentKind, NewSnapshots, NewVolume};

use crate::engine::{self, Pool};
use crate::oracle::{Contents, Time};
use crate::pattern::{SECTOR, ZERO};
use crate::verify::{assert_point_in_order, check_beside, reconcile};
use crate::world::{Edit, Known, Label, Pending, Scale, SharedVolume, SharedWorld, Snapshot};

pub(crate) struct Controller {
    pool: Arc<Pool>,
    world: SharedWorld,
    rng: Rng,
    /// Whether the pool was fenced before it was asked for anything.
    fenced: Cell<bool>,
}

/// Works until the world ends, or comes to an end.
pub(crate) async fn control_forever(handle: Handle, pool: Arc<Pool>, world: SharedWorld, rng: Rng) {
    let mut controller = Controller::new(pool, world, rng);
    // Some are in a hurry.
    let pause = [400, 400, 40][controller.rng.index(3)];
    while !controller.world.with(|w| w.over) {
        controller.step().await;
        handle.sleep(controller.rng.below(pause)).await;
    }
}

/// Limits within one of these have about the same number of segments.
const LIMIT_STEP: u64 = 256 << 10;

/// The attribute that a label is kept as.
const KEY: &str = "label";

/// How a label is written down.
struct Text {
    described: String,
    kept: String,
}

impl Text {
    fn of(label: Label) -> Text {
        Text { described: format!("{KEY} {label}"), kept: label.to_string() }
    }

    fn attributes(&self) -> [(&str, &str); 1] {
        [(KEY, &self.kept)]
    }
}

/// What something is labelled with, 0 for nothing.
///
/// # Panics
/// When it is described with another label than it keeps: they are written at once.
pub(crate) fn label(description: &str, attributes: &Attributes) -> Label {
    let described = description.strip_prefix(KEY).map(str::trim_start);
    assert_eq!(described, attributes.get(KEY), "a label is written as a whole");
    described.map_or(0, |label| label.parse().unwrap_or_else(|e| panic!("a label is no number: {e}")))
}

impl Controller {
    pub(crate) fn new(pool: Arc<Pool>, world: SharedWorld, rng: Rng) -> Controller {
        Controller { pool, world, rng, fenced: Cell::new(false) }
    }

    async fn step(&mut self) {
        if !self.find_out().await {
            return self.only_look().await;
        }
        let volumes = self.world.with(|w| w.volumes.len());
        let snapshots: usize =
            self.world.with(|w| w.volumes.values().map(|v| v.borrow().snapshots.len()).sum());
        if volumes == 0 {
            return self.create().await;
        }
        let Scale { most_volumes, most_snapshots, .. } = self.world.with(|w| w.scale);
        if snapshots > most_snapshots {
            return self.delete_snapshot().await;
        }
        match self.rng.below(100) {
            0..10 if volumes < most_volumes => self.create().await,
            10..20 if volumes < most_volumes => self.clone_volume().await,
            20..26 => self.delete_volume().await,
            26..32 => self.resize().await,
            32..36 => self.edit().await,
            36..38 => self.limit().await,
            38..55 => self.snapshot().await,
            55..68 => self.delete_snapshot().await,
            68..78 => self.rollback().await,
            78..90 => self.reread_snapshot().await,
            90..97 => self.diff().await,
            _ => check_beside(&self.pool, &self.world).await,
        }
    }

    async fn only_look(&mut self) {
        if self.world.with(|w| w.volumes.is_empty()) {
            return;
        }
        if self.rng.chance(1, 2) { self.reread_snapshot().await } else { self.diff().await }
    }

    fn any_volume(&mut self) -> SharedVolume {
        let volumes: Vec<SharedVolume> = self.world.with(|w| w.volumes.values().cloned().collect());
        Rc::clone(&volumes[self.rng.index(volumes.len())])
    }

    fn any_snapshot(&mut self) -> Option<(SharedVolume, String, Snapshot)> {
        let volume = self.any_volume();
        let snapshots = volume.borrow().snapshots.clone();
        let most = self.world.with(|w| w.scale.most_snapshots);
        let (name, snapshot) = snapshots.into_iter().nth(self.rng.index(most))?;
        Some((volume, name, snapshot))
    }

    fn begin(&self, pending: Pending) {
        self.fenced.set(self.world.with(|w| w.is_troubled()) && engine::is_fenced(&self.pool));
        self.world.with(|w| w.pending = pending);
    }

    /// The operation is answered. A full pool may refuse what takes space. Where the disk fails, an error leaves open
    /// whether it has happened.
    fn answered<T>(&self, what: &str, answer: Result<T, Error>) -> Option<T> {
        let error = match answer {
            Ok(value) => {
                assert!(!self.fenced.get(), "{what} in a fenced pool");
                self.world.with(|w| w.pending = Pending::Nothing);
                return Some(value);
            }
            Err(error) => error,
        };
        if self.fenced.get() {
            assert_eq!(error.kind(), ErrorKind::Fenced, "{what}: {error:?}");
        }
        if self.world.with(|w| w.excuses(&error)) {
            return None;
        }
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{what}: {error:?}");
        if !self.world.with(|w| w.is_troubled()) {
            self.world.with(|w| w.pending = Pending::Nothing);
        }
        None
    }

    /// Finds out what became of an operation that was answered with an error: what the pool shows, and flushes, has
    /// happened. Until then nothing else is begun; whether that is over.
    async fn find_out(&mut self) -> bool {
        if matches!(self.world.with(|w| w.pending.clone()), Pending::Nothing) {
            return true;
        }
        let flushed = self.pool.flush().await;
        if let Err(e) = &flushed {
            assert!(self.excused(e), "a flush: {e:?}");
            return false;
        }
        reconcile(&self.pool, &self.world, true);
        true
    }

    /// Only a disk that fails may hinder anything, and only what may have been deleted or renamed be gone.
    fn excused(&self, error: &Error) -> bool {
        self.world.with(|w| {
            let may_be_gone = matches!(
                w.pending,
                Pending::DeleteVolume { .. } | Pending::DeleteSnapshot { .. } | Pending::Edit { .. }
            );
            w.excuses(error) || may_be_gone && error.kind() == ErrorKind::NotFound
        })
    }

    async fn create(&mut self) {
        let name = self.free_name();
        // The largest take the longest to look at.
        let size = match self.rng.below(8) {
            0 | 1 => 96 << 10,
            2 | 3 => (1 << 20) + 512,
            4 | 5 => 6 << 20,
            6 => 3 << 30,
            _ => 5 << 40,
        };
        self.create_volume(&name, size).await;
    }

    pub(crate) async fn create_volume(&self, name: &str, size: u64) {
        let label = self.world.with(|w| w.tick());
        self.begin(Pending::Create { name: name.to_owned(), size, label });
        let text = Text::of(label);
        let new = NewVolume { name, description: &text.described, attributes: &text.attributes() };
        let answer = self.pool.create_volume_with(new, size).await;
        if let Some(info) = self.answered("creating a volume", answer) {
            assert_eq!((info.name.as_str(), info.size), (name, size));
            self.world.with(|w| w.add(name, info.id, size, label, &Contents::new()));
        }
    }

    fn free_name(&self) -> String {
        self.world.with(|w| {
            loop {
                let name = w.name();
                if !w.volumes.contains_key(&name) {
                    return name;
                }
            }
        })
    }

    async fn clone_volume(&mut self) {
        let Some((volume, snapshot_name, snapshot)) = self.any_snapshot() else { return };
        let source = volume.borrow().name.clone();
        let name = self.free_name();
        let size = snapshot.size + [0, 512, 1 << 20][self.rng.index(3)];
        self.clone_snapshot(&source, (&snapshot_name, &snapshot), &name, size).await;
    }

    pub(crate) async fn clone_snapshot(
        &self,
        source: &str,
        (snapshot_name, snapshot): (&str, &Snapshot),
        name: &str,
        size: u64,
    ) {
        let Known::Exactly(contents) = snapshot.known.clone() else { return };
        let label = self.world.with(|w| w.tick());
        self.begin(Pending::Clone { name: name.to_owned(), size, label, contents: contents.clone() });
        let text = Text::of(label);
        let new = NewVolume { name, description: &text.described, attributes: &text.attributes() };
        let answer = self.pool.clone_volume_with(source, snapshot_name, new, Some(size)).await;
        if let Some(info) = self.answered("cloning", answer) {
            self.world.with(|w| w.add(name, info.id, size, label, &contents));
        }
    }

    async fn delete_volume(&mut self) {
        let volume = self.any_volume();
        let (name, has_snapshots) = {
            let volume = volume.borrow();
            (volume.name.clone(), !volume.snapshots.is_empty())
        };
        if has_snapshots && self.rng.chance(1, 2) {
            let refused = self.pool.delete_volume(&name, false).await;
            self.assert_refused(refused, ErrorKind::HasSnapshots);
            return;
        }
        self.delete(&volume).await;
    }

    fn assert_refused<T>(&self, answer: Result<T, Error>, kind: ErrorKind) {
        let refused = answer.err().is_some_and(|e| e.kind() == kind || self.excused(&e));
        assert!(refused, "this is {}", kind.code());
    }

    /// Deleting takes no space.
    fn assert_troubled(&self) {
        assert!(self.world.with(|w| w.is_troubled()), "a full pool cannot be emptied");
    }

    pub(crate) async fn delete(&self, volume: &SharedVolume) {
        let name = volume.borrow().name.clone();
        volume.borrow_mut().doomed = true;
        self.begin(Pending::DeleteVolume { name: name.clone() });
        let answer = self.pool.delete_volume(&name, true).await;
        if self.answered("deleting a volume", answer).is_none() {
            return self.assert_troubled();
        }
        self.world.with(|w| w.volumes.remove(&name));
    }

    async fn resize(&mut self) {
        let volume = self.any_volume();
        let size = volume.borrow().size + SECTOR * self.rng.below(500);
        self.resize_to(&volume, size).await;
    }

    pub(crate) async fn resize_to(&self, volume: &SharedVolume, size: u64) {
        let name = volume.borrow().name.clone();
        self.begin(Pending::Resize { name: name.clone(), size });
        let answer = self.pool.resize_volume(&name, size).await;
        if self.answered("resizing", answer).is_some() {
            let hot = self.world.with(|w| w.scale.hot);
            let mut volume = volume.borrow_mut();
            volume.size = size;
            volume.heat_tail(hot);
        }
    }

    /// Another label for a volume or a snapshot, and perhaps another name.
    async fn edit(&mut self) {
        let volume = self.any_volume();
        let (of, snapshots) = {
            let volume = volume.borrow();
            (volume.name.clone(), volume.snapshots.keys().cloned().collect::<Vec<String>>())
        };
        let snapshot = snapshots.get(self.rng.index(2 * snapshots.len().max(1))).cloned();
        let mut name = snapshot.clone().unwrap_or_else(|| of.clone());
        if self.rng.chance(1, 3) {
            let another = self.free_name();
            if !snapshots.contains(&another) {
                name = another;
            }
        }
        let label = self.world.with(|w| w.tick());
        let edit = Edit { volume: of, snapshot, name, label };
        self.begin(Pending::Edit(edit.clone()));
        let text = Text::of(label);
        let attributes = text.attributes().map(|(key, value)| (key, Some(value)));
        let change =
            Change { name: Some(&edit.name), description: Some(&text.described), attributes: &attributes };
        let answer = match &edit.snapshot {
            Some(snapshot) => self.pool.edit_snapshot(&edit.volume, snapshot, change).await.map(drop),
            None => self.pool.edit_volume(&edit.volume, change).await.map(drop),
        };
        if self.answered("editing", answer).is_some() {
            self.world.with(|w| w.edited(edit));
        }
    }

    /// Another limit, which makes hardly a difference to the room that there is.
    async fn limit(&mut self) {
        let (is, wanted) = self.world.with(|w| w.limit);
        // One that may or may not be there comes first.
        let limit = if is == wanted { is - is % LIMIT_STEP + self.rng.below(LIMIT_STEP) } else { wanted };
        let limit = limit.max(self.pool.status().size);
        self.world.with(|w| w.limit.1 = limit);
        self.begin(Pending::Nothing);
        let answer = self.pool.set_limit(limit).await;
        if self.answered("limiting the pool", answer).is_some() {
            self.world.with(|w| w.limit.0 = limit);
        }
    }

    /// Snapshots of one volume, or of all at one point of the log.
    async fn snapshot(&mut self) {
        let mut volumes = vec![self.any_volume()];
        if self.rng.chance(1, 3) {
            volumes = self.world.with(|w| w.volumes.values().cloned().collect());
        }
        let name = self.world.with(|w| w.name());
        self.snapshot_of(&volumes, name).await;
    }

    pub(crate) async fn snapshot_of(&self, volumes: &[SharedVolume], name: String) {
        let taken = volumes.iter().any(|v| v.borrow().snapshots.contains_key(&name));
        let of: Vec<(String, String)> =
            volumes.iter().map(|v| (v.borrow().name.clone(), name.clone())).collect();
        let asked = self.world.with(|w| w.tick());
        if !taken {
            self.begin(Pending::Snapshot { asked, of: of.clone() });
        }
        let borrowed: Vec<(&str, &str)> = of.iter().map(|(v, s)| (v.as_str(), s.as_str())).collect();
        let text = Text::of(asked);
        let (description, attributes) = (&*text.described, &text.attributes()[..]);
        let answer =
            self.pool.create_snapshots_with(NewSnapshots { of: &borrowed, description, attributes }).await;
        if taken {
            return self.assert_refused(answer, ErrorKind::Exists);
        }
        let answered = self.world.with(|w| w.tick());
        let Some(infos) = self.answered("taking snapshots", answer) else { return };
        assert_eq!(infos.len(), volumes.len());
        for (volume, info) in volumes.iter().zip(&infos) {
            let mut volume = volume.borrow_mut();
            assert_eq!((&info.volume, &info.name, info.automatic), (&volume.name, &name, false));
            assert_eq!(info.size, volume.size);
            let known = Known::Answered { asked, answered };
            let snapshot = Snapshot { id: info.id, size: info.size, label: asked, known };
            volume.snapshots.insert(name.clone(), snapshot);
        }
        self.learn(volumes, &name, asked, answered).await;
    }

    /// Reads what new snapshots of one point in the log hold, sees that it is such a point, and remembers it.
    async fn learn(&self, volumes: &[SharedVolume], name: &str, asked: Time, answered: Time) {
        let mut seen = Vec::new();
        for volume in volumes {
            let snapshot = volume.borrow().snapshots[name].clone();
            let Some(contents) = self.contents(&snapshot).await else { return };
            seen.push(contents);
        }
        assert_point_in_order(volumes, &seen, name, asked, answered);
        for (volume, seen) in volumes.iter().zip(seen) {
            if let Some(snapshot) = volume.borrow_mut().snapshots.get_mut(name) {
                snapshot.known = Known::Exactly(Rc::new(seen));
            }
        }
    }

    /// What it holds; nothing where the disk failed.
    async fn contents(&self, snapshot: &Snapshot) -> Option<Contents> {
        let read = engine::contents(&self.pool, snapshot.id, snapshot.size).await;
        self.unless_excused("reading a snapshot", read)
    }

    fn unless_excused<T>(&self, what: &str, answer: Result<T, Error>) -> Option<T> {
        answer.map_err(|e| assert!(self.excused(&e), "{what}: {e:?}")).ok()
    }

    async fn delete_snapshot(&mut self) {
        let Some((volume, name, _)) = self.any_snapshot() else { return };
        self.delete_snapshot_of(&volume, &name).await;
    }

    pub(crate) async fn delete_snapshot_of(&self, volume: &SharedVolume, name: &str) {
        let of = volume.borrow().name.clone();
        self.begin(Pending::DeleteSnapshot { volume: of.clone(), name: name.to_owned() });
        let answer = self.pool.delete_snapshot(&of, name).await;
        if self.answered("deleting a snapshot", answer).is_none() {
            return self.assert_troubled();
        }
        volume.borrow_mut().snapshots.remove(name);
    }

    async fn rollback(&mut self) {
        let Some((source, name, snapshot)) = self.any_snapshot() else { return };
        // Any volume that is large enough may go on from it.
        let other = self.any_volume();
        let fits = other.borrow().size >= snapshot.size;
        let volume = if fits && self.rng.index(3) == 0 { other } else { Rc::clone(&source) };
        self.roll_back(volume, &source, (&name, &snapshot)).await;
    }

    pub(crate) async fn roll_back(
        &self,
        volume: SharedVolume,
        source: &SharedVolume,
        (name, snapshot): (&str, &Snapshot),
    ) {
        let Known::Exactly(target) = snapshot.known.clone() else { return };
        let (of, source) = (volume.borrow().name.clone(), source.borrow().name.clone());
        let asked = self.world.with(|w| w.tick());
        let everywhere = {
            let history = &mut volume.borrow_mut().history;
            let mut everywhere = history.touched();
            everywhere.extend(target.keys());
            for &sector in &everywhere {
                history.begin(sector, target.get(&sector).copied().unwrap_or(ZERO), asked);
            }
            everywhere
        };
        self.begin(Pending::Rollback { volume: of.clone(), asked });
        let answer = self.pool.replace(&of, (&source, name), "undo").await;
        let answered = self.world.with(|w| w.tick());
        let Some(kept) = self.answered("rolling back", answer) else {
            if matches!(self.world.with(|w| w.pending.clone()), Pending::Nothing) {
                volume.borrow_mut().history.retract(asked);
            }
            return;
        };
        assert!(kept.automatic && kept.volume == of);
        {
            let mut volume = volume.borrow_mut();
            for &sector in &everywhere {
                let id = target.get(&sector).copied().unwrap_or(ZERO);
                volume.history.end(sector, id, asked, answered, true);
            }
            let known = Known::Answered { asked, answered };
            let snapshot = Snapshot { id: kept.id, size: kept.size, label: 0, known };
            volume.snapshots.insert(kept.name.clone(), snapshot);
        }
        self.learn(&[volume], &kept.name, asked, answered).await;
    }

    async fn reread_snapshot(&mut self) {
        let Some((volume, name, snapshot)) = self.any_snapshot() else { return };
        let Known::Exactly(expected) = &snapshot.known else { return };
        let Some(seen) = self.contents(&snapshot).await else { return };
        let volume = volume.borrow();
        assert!(
            seen == **expected,
            "snapshot {}@{name} has changed: {}",
            volume.name,
            first_difference(expected, &seen)
        );
    }

    /// The difference of two snapshots covers every sector in which they differ.
    async fn diff(&mut self) {
        let volume = self.any_volume();
        let (of, snapshots) = {
            let volume = volume.borrow();
            (volume.name.clone(), volume.snapshots.clone())
        };
        let known: Vec<(&String, &Contents)> = snapshots
            .iter()
            .filter_map(|(name, s)| if let Known::Exactly(c) = &s.known { Some((name, &**c)) } else { None })
            .collect();
        if known.is_empty() {
            return;
        }
        let (a, old) = known[self.rng.index(known.len())];
        let (b, new) = known[self.rng.index(known.len())];
        let told = self.pool.diff(&of, a, Some(b)).await;
        let Some(extents) = self.unless_excused("diff", told) else { return };
        let mut covered = BTreeMap::new();
        for extent in &extents {
            covered.insert(extent.offset, extent);
        }
        for sector in old.keys().chain(new.keys()) {
            let (was, is) = (old.get(sector), new.get(sector));
            let at = sector * SECTOR;
            let extent = covered.range(..=at).next_back().map(|(_, e)| e).filter(|e| at < e.offset + e.len);
            match extent {
                None => assert_eq!(
                    was, is,
                    "sector {sector} differs between {of}@{a} and {of}@{b}, diff does not say so"
                ),
                Some(e) => assert!(
                    e.kind == ExtentKind::Data || is.is_none(),
                    "diff calls data at sector {sector} {:?}",
                    e.kind
                ),
            }
        }
        if a == b {
            assert!(extents.is_empty(), "a snapshot differs from itself: {extents:?}");
        }
    }
}

fn first_difference(expected: &Contents, seen: &Contents) -> String {
    let mut sectors = expected.keys().chain(seen.keys()).copied().collect::<Vec<_>>();
    sectors.sort_unstable();
    let first = sectors.into_iter().find(|s| expected.get(s) != seen.get(s));
    first
        .map_or_else(String::new, |s| format!("sector {s} was {:?}, is {:?}", expected.get(&s), seen.get(&s)))
}
