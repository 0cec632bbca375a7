//! Writers and collections at the same time, one operation of the store after the other in an order that the test
//! chooses. The store lies about its clock, so that no session, age or delay protects anybody: what is left is the
//! argument of `docs/BACKUP-FORMAT.md` that the order of steps alone is enough.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_backup::{
    Answer, Backup, BackupId, Error, ErrorKind, GcOptions, HoldId, Object, Objects, Repository,
    VerifyOptions, VerifyReport, memory,
};
use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::common::stores;
use crate::common::stores::forward;
use crate::common::{CHUNK, Volume, assert_same, back_up, noise, quick, restored};

const TWO_HOURS: i64 = 2 * 3600 * 1000;

/// Shows the objects of a folder as older than they are.
struct Older {
    inner: Arc<dyn Objects>,
    folder: &'static str,
    by: i64,
}

/// With dead sessions: collections overlook writers.
fn no_sessions(inner: Arc<dyn Objects>) -> Arc<dyn Objects> {
    Arc::new(Older { inner, folder: "sessions/", by: TWO_HOURS })
}

impl Objects for Older {
    forward!(put, create, get, head, delete);

    fn list<'a>(&'a self, prefix: &'a str, each: &'a mut (dyn FnMut(Object) + Send)) -> Answer<'a, ()> {
        async move {
            let by = if prefix == self.folder { self.by } else { 0 };
            let mut each = |object: Object| each(Object { modified: object.modified - by, ..object });
            self.inner.list(prefix, &mut each).await
        }
        .boxed()
    }
}

/// An operation that waits for its turn, and says when it is done.
struct Turn {
    go: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

/// A store whose every operation waits for its turn.
struct Gate {
    inner: Arc<dyn Objects>,
    turns: mpsc::UnboundedSender<Turn>,
}

impl Gate {
    async fn through<T>(&self, work: Answer<'_, T>) -> Result<T, cairn_backup::StoreError> {
        let (go, wait) = oneshot::channel();
        let (finished, done) = oneshot::channel();
        if self.turns.send(Turn { go, done }).is_ok() {
            let _ = wait.await;
        }
        let answer = work.await;
        let _ = finished.send(());
        answer
    }
}

impl Objects for Gate {
    fn put<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, ()> {
        self.through(self.inner.put(name, contents)).boxed()
    }

    fn create<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, bool> {
        self.through(self.inner.create(name, contents)).boxed()
    }

    fn get<'a>(&'a self, name: &'a str, range: Option<Range<u64>>) -> Answer<'a, Bytes> {
        self.through(self.inner.get(name, range)).boxed()
    }

    fn head<'a>(&'a self, name: &'a str) -> Answer<'a, Object> {
        self.through(self.inner.head(name)).boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.through(self.inner.delete(name)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, each: &'a mut (dyn FnMut(Object) + Send)) -> Answer<'a, ()> {
        self.through(self.inner.list(prefix, each)).boxed()
    }
}

/// Somebody at work behind a gate.
struct Actor {
    turns: mpsc::UnboundedReceiver<Turn>,
    work: JoinHandle<()>,
    steps: u64,
}

impl Actor {
    fn new<F>(store: &Arc<dyn Objects>, work: impl FnOnce(Repository) -> F + Send + 'static) -> Actor
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, turns) = mpsc::unbounded_channel();
        let gate = Arc::new(Gate { inner: store.clone(), turns: sender });
        let work = tokio::spawn(async move {
            let repo = Repository::open_on(gate, quick()).await.unwrap();
            work(repo).await;
        });
        Actor { turns, work, steps: 0 }
    }

    /// Lets it do one operation; false if it has ended instead.
    async fn step(&mut self) -> bool {
        let Some(turn) = self.turns.recv().await else { return false };
        self.steps += 1;
        if turn.go.send(()).is_ok() {
            let _ = turn.done.await;
        }
        true
    }

    /// Lets it do so many; false if it has ended before.
    async fn steps(&mut self, count: u64) -> bool {
        for _ in 0..count {
            if !self.step().await {
                return false;
            }
        }
        true
    }

    async fn finish(mut self) -> u64 {
        while self.step().await {}
        (&mut self.work).await.unwrap();
        self.steps
    }
}

type Made = Arc<std::sync::Mutex<Option<Result<Backup, Error>>>>;

fn writer(store: &Arc<dyn Objects>, volume: &Volume, base: Option<BackupId>) -> (Actor, Made) {
    let made = Made::default();
    let (volume, result) = (volume.clone(), made.clone());
    let actor = Actor::new(store, move |repo| async move {
        let done = back_up(&repo, &volume, base).await;
        *result.lock().unwrap() = Some(done);
    });
    (actor, made)
}

fn collector(store: &Arc<dyn Objects>, first_delete: Option<BackupId>) -> Actor {
    Actor::new(store, move |repo| async move {
        if let Some(id) = first_delete {
            repo.delete(&[id]).await.unwrap();
        }
        let report = repo.gc(&GcOptions::at_once()).await.unwrap();
        assert!(report.damage.is_empty(), "{report:?}");
    })
}

/// Where writers find chunks that nothing refers to any more, and a base that somebody may delete.
struct Scene {
    store: Arc<dyn Objects>,
    base: BackupId,
    /// The base's contents.
    first: Volume,
    /// Shares chunks with the base, with garbage, and has its own.
    next: Volume,
    other: (BackupId, Volume),
}

async fn scene() -> Scene {
    let chunk = CHUNK as usize;
    let store: Arc<dyn Objects> = no_sessions(memory());
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let first = Volume::random(6 * chunk, 1);
    let base = back_up(&repo, &first, None).await.unwrap();
    let garbage = Volume::random(3 * chunk, 2);
    let gone = back_up(&repo, &garbage, None).await.unwrap();
    // One that keeps a part of the garbage's pack alive, so that it is rewritten.
    let other = Volume::new(noise(3 * chunk, 2)[..chunk].to_vec());
    let kept = back_up(&repo, &other, None).await.unwrap();
    repo.delete(&[gone.id]).await.unwrap();
    let mut next = first.changed(&[(0, 3 * chunk, 2), (4 * chunk, 4096, 3)]);
    next.changed = vec![0..3 * chunk as u64, 4 * chunk as u64..4 * chunk as u64 + 4096];
    Scene { store, base: base.id, first, next, other: (kept.id, other) }
}

impl Scene {
    async fn copy(&self) -> Scene {
        let store = no_sessions(stores::copy(&*self.store).await);
        let (first, next) = (self.first.clone(), self.next.clone());
        Scene { store, base: self.base, first, next, other: self.other.clone() }
    }

    /// Whatever was answered holds, and another collection changes nothing of that.
    async fn check(&self, made: &[&Made], place: &str) {
        for round in 0..2 {
            let repo = Repository::open_on(self.store.clone(), quick()).await.unwrap();
            let options = VerifyOptions { read_data: true, ..VerifyOptions::default() };
            let report = repo.verify(&options).await.unwrap();
            assert!(report.is_clean(), "{place}, round {round}: {report:?}");
            assert_same(&restored(&repo, self.other.0).await.unwrap(), &self.other.1.data);
            for made in made {
                let id = match made.lock().unwrap().as_ref().unwrap() {
                    Ok(backup) => backup.id,
                    // The base may be gone before a writer looks at it.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => panic!("{place}: {error}"),
                };
                assert_same(&restored(&repo, id).await.unwrap(), &self.next.data);
            }
            repo.gc(&GcOptions::at_once()).await.unwrap();
        }
    }
}

/// Every way to let one of two go some steps, then the other some steps, then the first to its end, then the other:
/// `check` looks at what came of it. How many there are.
async fn every_order<T>(
    scene: &Scene,
    start: impl Fn(&Scene) -> (Actor, Actor, T),
    check: impl AsyncFn(&Scene, T, String),
) -> u32 {
    let mut orders = 0;
    for writer_first in [true, false] {
        for first_steps in 0.. {
            let mut first_ended = false;
            for second_steps in 1.. {
                let scene = scene.copy().await;
                let (writer, collector, made) = start(&scene);
                let (mut first, mut second) =
                    if writer_first { (writer, collector) } else { (collector, writer) };
                first_ended = !first.steps(first_steps).await;
                let second_ended = !second.steps(second_steps).await;
                first.finish().await;
                second.finish().await;
                let place = format!("writer first {writer_first}, {first_steps}, {second_steps}");
                check(&scene, made, place).await;
                orders += 1;
                if second_ended || first_ended {
                    break;
                }
            }
            if first_ended {
                break;
            }
        }
    }
    orders
}

#[tokio::test]
async fn every_order_with_three_switches() {
    let scene = scene().await;
    for (what, incremental, delete_base) in
        [("full", false, false), ("incremental", true, false), ("base deleted", true, true)]
    {
        let start = |scene: &Scene| {
            let (writer, made) = writer(&scene.store, &scene.next, incremental.then_some(scene.base));
            (writer, collector(&scene.store, delete_base.then_some(scene.base)), made)
        };
        let check = async |scene: &Scene, made: Made, place: String| {
            scene.check(&[&made], &format!("{what}: {place}")).await;
        };
        let orders = every_order(&scene, start, check).await;
        assert!(orders > 500, "{what}: {orders} orders");
    }
}

/// A backup is deleted and collected while somebody begins to hold it: who was told that it is held can read it.
#[tokio::test]
async fn what_is_held_stays_whatever_the_order() {
    let scene = scene().await;
    let hold = HoldId::random().unwrap();
    let base = scene.base;
    let start = |scene: &Scene| {
        let held = Arc::new(std::sync::Mutex::new(None));
        let result = held.clone();
        let holder = Actor::new(&scene.store, move |repo| async move {
            let done = repo.hold(hold, base).await;
            *result.lock().unwrap() = Some(done);
        });
        (holder, collector(&scene.store, Some(base)), held)
    };
    let outcomes = std::sync::Mutex::new((0, 0));
    let check =
        async |scene: &Scene, held: Arc<std::sync::Mutex<Option<Result<(), Error>>>>, place: String| {
            let repo = Repository::open_on(scene.store.clone(), quick()).await.unwrap();
            repo.gc(&GcOptions::at_once()).await.unwrap();
            let held = held.lock().unwrap().take().unwrap();
            match held {
                Ok(()) => {
                    let reader = repo.held(hold).await.unwrap().expect("the hold is there");
                    assert_eq!(reader.backup().id, base, "{place}");
                    let size = scene.first.data.len();
                    let read = reader.read(0, size).await.unwrap_or_else(|e| panic!("{place}: {e}"));
                    assert_same(&read, &scene.first.data);
                    // It is renewed although its backup is gone, and ends when it is released.
                    repo.hold(hold, base).await.unwrap();
                    let before = repo.status().await.unwrap();
                    assert_eq!(before.holds, 1, "{place}");
                    repo.release(hold).await.unwrap();
                    repo.gc(&GcOptions::at_once()).await.unwrap();
                    let after = repo.status().await.unwrap();
                    assert_eq!(after.holds, 0, "{place}");
                    assert!(after.stored_bytes + size as u64 / 2 < before.stored_bytes, "{place}");
                    outcomes.lock().unwrap().0 += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{place}: {error}");
                    assert!(repo.held(hold).await.unwrap().is_none(), "{place}");
                    outcomes.lock().unwrap().1 += 1;
                }
            }
            scene.check(&[], &place).await;
        };
    every_order(&scene, start, check).await;
    let (held, refused) = outcomes.into_inner().unwrap();
    assert!(held > 20 && refused > 20, "{held} held, {refused} refused");
}

/// Verifying says nothing of a backup that is deleted and collected meanwhile.
#[tokio::test]
async fn what_is_deleted_while_it_is_verified_is_no_damage() {
    let scene = scene().await;
    let base = scene.base;
    let start = |scene: &Scene| {
        let found = Arc::new(std::sync::Mutex::new(None));
        let result = found.clone();
        let verifier = Actor::new(&scene.store, move |repo| async move {
            let report = repo.verify(&VerifyOptions::default()).await;
            *result.lock().unwrap() = Some(report);
        });
        (verifier, collector(&scene.store, Some(base)), found)
    };
    type Found = Arc<std::sync::Mutex<Option<Result<VerifyReport, Error>>>>;
    let check = async |_: &Scene, found: Found, place: String| {
        let report = found.lock().unwrap().take().unwrap().unwrap_or_else(|e| panic!("{place}: {e}"));
        assert!(report.is_clean(), "{place}: {report:?}");
    };
    let orders = every_order(&scene, start, check).await;
    assert!(orders > 500, "{orders} orders");
}

/// What is left of a commit goes, readable or not, and the repository is clean again.
#[tokio::test]
async fn leftovers_that_are_damaged_go_too() {
    let scene = scene().await;
    let names = ["pending/0123456789abcdef", "holds/0123456789abcdef0123456789abcdef"];
    for name in names {
        scene.store.put(name, Bytes::from_static(b"nothing that makes sense")).await.unwrap();
    }
    let verify = async |repo: &Repository| repo.verify(&VerifyOptions::default()).await.unwrap();
    let repo = Repository::open_on(scene.store.clone(), quick()).await.unwrap();
    repo.gc(&GcOptions::at_once()).await.unwrap();
    assert_eq!(verify(&repo).await.problems.len(), 2, "their writers may still be at work");
    for name in names {
        let folder = if name.starts_with("pending") { "pending/" } else { "holds/" };
        let older = Older { inner: scene.store.clone(), folder, by: 13 * TWO_HOURS };
        let repo = Repository::open_on(Arc::new(older), quick()).await.unwrap();
        repo.gc(&GcOptions::at_once()).await.unwrap();
    }
    assert!(verify(&repo).await.is_clean());
    scene.check(&[], "in the end").await;
}

/// A hold whose holder is gone for good ends by itself, one that is renewed does not.
#[tokio::test]
async fn abandoned_holds_end() {
    let scene = scene().await;
    let hold = HoldId::random().unwrap();
    let repo = Repository::open_on(scene.store.clone(), quick()).await.unwrap();
    repo.hold(hold, scene.base).await.unwrap();
    repo.delete(&[scene.base]).await.unwrap();
    for (age, left) in [(29, 1), (31, 0)] {
        let by = age * 24 * 3600 * 1000;
        let older = Arc::new(Older { inner: scene.store.clone(), folder: "holds/", by });
        let repo = Repository::open_on(older, quick()).await.unwrap();
        repo.gc(&GcOptions::at_once()).await.unwrap();
        assert_eq!(repo.status().await.unwrap().holds, left, "after {age} days");
    }
    let error = repo.hold(hold, scene.base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Two writers, a deletion of the base and two collections, in random orders.
#[tokio::test]
async fn random_orders_of_five() {
    let scene = scene().await;
    for seed in 1..=150u64 {
        let scene = scene.copy().await;
        let (incremental, one) = writer(&scene.store, &scene.next, Some(scene.base));
        let (full, two) = writer(&scene.store, &scene.next, None);
        let base = scene.base;
        let deleter =
            Actor::new(&scene.store, move |repo| async move { repo.delete(&[base]).await.unwrap() });
        let mut actors =
            vec![incremental, full, deleter, collector(&scene.store, None), collector(&scene.store, None)];
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        while !actors.is_empty() {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let who = (dice >> 33) as usize % actors.len();
            let steps = 1 + (dice >> 20) % [1, 3, 40][(dice >> 12) as usize % 3];
            if !actors[who].steps(steps).await {
                actors.swap_remove(who).finish().await;
            }
        }
        scene.check(&[&one, &two], &format!("seed {seed}")).await;
    }
}
