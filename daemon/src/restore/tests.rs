//! A volume that is restored, against a plain array: whatever is read, written, trimmed and zeroed meanwhile, and wherever
//! the process dies or the power fails.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_cow::sim::{Rng, SimDisk, for_each_seed};
use cairn_cow::{BLOCK_SIZE, CreateOptions, ErrorKind, ExtentKind, NewVolume, Options, VersionId};
use cairn_nbd::{Context, StatusExtent, StatusQuery, proto};
use cairn_uring::{Config, Handle, Reactor, sleep, spawn, yield_now};
use parking_lot::Mutex;

use super::chunks::Chunks;
use super::fetches::{Answer, Source, Trouble};
use super::filled::{Filled, companion_bytes};
use super::room::{OWN, SHARED};
use super::*;
use crate::keeper::on;
use crate::status;

const CHUNK: u64 = 64 << 10;
/// Not whole chunks, nor whole blocks.
const SIZE: u64 = 40 * CHUNK + 5 * BLOCK_SIZE + 512;

/// A backup in memory.
struct Backup {
    contents: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    away: bool,
    /// Nothing is answered.
    hangs: bool,
    /// Whatever is asked panics.
    panics: bool,
    damaged: HashSet<u64>,
    reads: u64,
    holds: u64,
    releases: u64,
    /// Microseconds that a read takes; random without.
    pause: Option<u64>,
    rng: Option<Rng>,
}

impl Backup {
    /// Random contents with holes.
    fn new(rng: &mut Rng) -> Arc<Backup> {
        let mut contents = vec![0; SIZE as usize];
        for chunk in contents.chunks_mut(CHUNK as usize) {
            match rng.below(4) {
                0 => {}
                1 => rng.fill(&mut chunk[..BLOCK_SIZE as usize]),
                _ => rng.fill(chunk),
            }
        }
        Arc::new(Backup { contents, state: Mutex::new(State { rng: Some(rng.fork()), ..State::default() }) })
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
    }

    fn trouble(&self, range: &Range<u64>) -> Option<Trouble> {
        let state = self.state.lock();
        if state.away {
            return Some(Trouble::Away("nobody is there".to_owned()));
        }
        let damaged = (range.start / CHUNK..range.end.div_ceil(CHUNK)).find(|c| state.damaged.contains(c));
        damaged.map(|chunk| Trouble::Damaged(format!("chunk {chunk} is bad")))
    }
}

impl Source for Backup {
    fn read(&self, offset: u64, len: usize) -> Answer<'_, Bytes> {
        Box::pin(async move {
            let pause = {
                let mut state = self.state.lock();
                state.reads += 1;
                let random = state.rng.as_mut().map_or(0, |rng| rng.below(1500));
                state.pause.unwrap_or(random)
            };
            tokio::time::sleep(Duration::from_micros(pause)).await;
            while self.state.lock().hangs {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(!self.state.lock().panics, "a fault below");
            let range = offset..offset + len as u64;
            match self.trouble(&range) {
                Some(trouble) => Err(trouble),
                None => Ok(Bytes::copy_from_slice(&self.contents[range.start as usize..range.end as usize])),
            }
        })
    }

    fn data(&self, range: Range<u64>) -> Answer<'_, Vec<Range<u64>>> {
        Box::pin(async move {
            assert!(!self.state.lock().panics, "a fault below");
            if let Some(Trouble::Away(why)) = self.trouble(&range) {
                return Err(Trouble::Away(why));
            }
            let chunks = (range.start / CHUNK..range.end.div_ceil(CHUNK)).map(|chunk| chunk * CHUNK);
            let bytes = chunks.map(|at| at..(at + CHUNK).min(SIZE));
            let holds = |bytes: &Range<u64>| {
                self.contents[bytes.start as usize..bytes.end as usize].iter().any(|byte| *byte != 0)
            };
            Ok(bytes.filter(holds).collect())
        })
    }

    fn hold(&self) -> Answer<'_, ()> {
        self.set(|state| state.holds += 1);
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        })
    }

    fn release(&self) -> Answer<'_, ()> {
        self.set(|state| state.releases += 1);
        Box::pin(async { Ok(()) })
    }
}

/// A volume being restored, and all that belongs to it.
struct World {
    disk: SimDisk,
    restores: Arc<Restores<SimDisk>>,
    restore: Arc<Restore<SimDisk>>,
}

const OPTIONS: Options =
    Options { lanes: 1, map_cache_bytes: 1 << 20, read_cache_bytes: 1 << 20, batch_bytes: usize::MAX };

fn settings() -> RestoreSettings {
    RestoreSettings {
        repo: "file:///backups".into(),
        backup: "0011223344556677".into(),
        key_file: None,
        companion: "bits".into(),
        chunk: CHUNK as u32,
        hold: None,
    }
}

fn new_restores() -> Arc<Restores<SimDisk>> {
    Arc::new(Restores::new(Arc::default()))
}

impl World {
    async fn new(backup: &Arc<Backup>) -> World {
        World::of(&new_restores(), [7; 16], backup).await
    }

    /// One of several of a daemon.
    async fn of(restores: &Arc<Restores<SimDisk>>, pool: [u8; 16], backup: &Arc<Backup>) -> World {
        let disk = SimDisk::file(1 << 30);
        let create = CreateOptions { limit: 1 << 30, journal_bytes: None, segment_blocks: None };
        let pool = Pool::create(disk.clone(), pool, create, OPTIONS).await.expect("a pool");
        let bytes = Restores::<SimDisk>::companion_bytes(SIZE, CHUNK as u32);
        let companion = NewVolume { name: "bits", description: "", attributes: &[(COMPANION, "yes")] };
        let companion = pool.create_volume_with(companion, bytes).await.expect("a companion");
        let kept = crate::settings::encode(&settings());
        let volume = NewVolume { name: "v", description: "", attributes: &[(VOLUME_RESTORE, &kept)] };
        let volume = pool.create_volume_with(volume, SIZE).await.expect("a volume");
        let source = Arc::clone(backup) as Arc<dyn Source>;
        let restore =
            restores.add(&pool, (&volume, companion.id), settings(), source).expect("a thread can be made");
        World { disk, restores: Arc::clone(restores), restore }
    }

    /// What a daemon finds on `disk`.
    async fn found(disk: SimDisk, backup: &Arc<Backup>, restores: &Arc<Restores<SimDisk>>) -> World {
        let pool = Pool::open(disk.clone(), OPTIONS).await.expect("opens");
        let (volume, companion) =
            (pool.volume("v").expect("is there"), pool.volume("bits").expect("is there"));
        let chunks = Chunks { size: SIZE, chunk: CHUNK };
        let filled = Filled::load(Arc::clone(&pool), companion.id, chunks.count()).await.expect("is read");
        let source = Arc::clone(backup) as Arc<dyn Source>;
        let restore = restores.make(volume.id, settings(), chunks, (pool, filled), source);
        let restore = restore.expect("a thread can be made");
        World { disk, restores: Arc::clone(restores), restore: Arc::new(restore) }
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let restore = &self.restore;
        restore.fill(0, range.clone()).await?;
        let len = (range.end - range.start) as usize;
        let read = restore.pool.read(restore.head, range.start, len).await?;
        let skip = (range.start % BLOCK_SIZE) as usize;
        Ok(read.buf.map_or_else(|| vec![0; len], |buf| buf[skip..skip + len].to_vec()))
    }

    async fn write(&self, at: u64, bytes: &[u8]) -> Result<cairn_cow::Lsn> {
        let skip = (at % BLOCK_SIZE) as usize;
        let mut buf = self.restore.pool.buffer((skip + bytes.len()).next_multiple_of(BLOCK_SIZE as usize));
        buf[skip..skip + bytes.len()].copy_from_slice(bytes);
        self.restore.write(0, at, bytes.len(), buf).await
    }

    /// Has the background fill it, and ends it.
    async fn complete(&self, reactor: Handle) {
        let (restore, (done, ended)) = (Arc::clone(&self.restore), tokio::sync::oneshot::channel());
        let fill = async move {
            let complete = fill_all(&restore, &reactor).await;
            let _ = done.send(complete);
        };
        self.restores.spawn(fill).expect("a thread");
        assert_eq!(ended.await, Ok(true));
        assert_eq!(self.restore.progress().bytes_done, SIZE);
    }
}

/// On a reactor of its own, with the handle of that.
fn on_reactor<F, Fut>(test: F)
where
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let reactor = Reactor::start(Config::default()).expect("a reactor");
    let handle = reactor.handle().clone();
    on(reactor.handle(), move || test(handle)).expect("the test ends");
}

/// A change that was asked for: what its range holds afterwards.
#[derive(Clone)]
struct Change {
    at: usize,
    bytes: Vec<u8>,
    answered: bool,
}

/// What the volume holds, as its users know.
struct Model {
    /// With all that was answered.
    now: Vec<u8>,
    /// As it was when the last flush that was answered began.
    durable: Vec<u8>,
    /// What was asked for since, in order; of ranges of one task's own each.
    changes: Vec<Change>,
}

impl Model {
    /// Panics unless `found` is what a volume may hold after the death of its daemon, or with `power_lost` of the machine.
    fn check(&self, found: &[u8], power_lost: bool) {
        let expected = if power_lost { &self.durable } else { &self.now };
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            if found == expected {
                continue;
            }
            let mut maybe = self.changes.iter().filter(|change| power_lost || !change.answered);
            let explained = maybe.any(|c| at >= c.at && c.bytes.get(at - c.at) == Some(found));
            assert!(explained, "byte {at} (chunk {}) is {found}, not {expected}", at as u64 / CHUNK);
        }
    }
}

/// Uses stripes of the volume that are its own, chunks aside.
async fn user(
    w: Rc<World>,
    model: Rc<RefCell<Model>>,
    stripes: Vec<Range<u64>>,
    mut rng: Rng,
    operations: usize,
) {
    for _ in 0..operations {
        let stripe = &stripes[rng.index(stripes.len())];
        let start = stripe.start + rng.below(stripe.end - stripe.start);
        let end = start + 1 + rng.below(stripe.end - start);
        let (start, end) = if rng.chance(1, 3) { (stripe.start, stripe.end) } else { (start, end) };
        let (from, len) = (start as usize, (end - start) as usize);
        if rng.chance(1, 12) {
            let answered: Vec<bool> = model.borrow().changes.iter().map(|change| change.answered).collect();
            w.restore.pool.flush().await.expect("is flushed");
            let model = &mut *model.borrow_mut();
            for (change, answered) in model.changes.iter_mut().zip(answered) {
                // Another user's flush may have had it.
                if answered && !change.bytes.is_empty() {
                    let bytes = std::mem::take(&mut change.bytes);
                    model.durable[change.at..change.at + bytes.len()].copy_from_slice(&bytes);
                }
            }
            continue;
        }
        let kind = rng.below(5);
        if kind == 0 {
            let read = w.read(start..end).await.expect("is read");
            assert!(read == model.borrow().now[from..from + len], "{start}..{end} is not what was written");
            continue;
        }
        let mut bytes = model.borrow().now[from..from + len].to_vec();
        match kind {
            1 => bytes.fill(0),
            2 => {
                let last = if end == SIZE { end.div_ceil(BLOCK_SIZE) } else { end / BLOCK_SIZE } * BLOCK_SIZE;
                let first = start.next_multiple_of(BLOCK_SIZE);
                if first < last {
                    bytes[(first - start) as usize..(last.min(end) - start) as usize].fill(0);
                }
            }
            _ => rng.fill(&mut bytes),
        }
        let index = model.borrow().changes.len();
        model.borrow_mut().changes.push(Change { at: from, bytes: bytes.clone(), answered: false });
        match kind {
            1 => {
                let kind = if rng.chance(1, 2) { ExtentKind::Zero } else { ExtentKind::Hole };
                w.restore.zero(0, start, end - start, kind).await.expect("is zeroed");
            }
            2 => drop(w.restore.trim(0, start, end - start).await.expect("is trimmed")),
            _ => drop(w.write(start, &bytes).await.expect("is written")),
        }
        model.borrow_mut().now[from..from + len].copy_from_slice(&bytes);
        model.borrow_mut().changes[index].answered = true;
        yield_now().await;
    }
}

const USERS: usize = 4;

/// Cuts the volume at random places, near to each other and far, and deals the stripes out.
fn deal(rng: &mut Rng) -> Vec<Vec<Range<u64>>> {
    let mut hands = vec![Vec::new(); USERS];
    let mut at = 0;
    while at < SIZE {
        let len = match rng.below(3) {
            0 => 512 * (1 + rng.below(8)),
            1 => 1 + rng.below(2 * CHUNK),
            _ => 512 * (1 + rng.below(6 * CHUNK / 512)),
        };
        let end = (at + len).min(SIZE);
        hands[rng.index(USERS)].push(at..end);
        at = end;
    }
    hands.iter_mut().filter(|hand| hand.is_empty()).for_each(|hand| hand.push(0..0));
    hands
}

async fn whole(w: &World) -> Vec<u8> {
    let mut found = Vec::new();
    while (found.len() as u64) < SIZE {
        let at = found.len() as u64;
        found.extend(w.read(at..(at + (1 << 20)).min(SIZE)).await.expect("is read"));
    }
    found
}

/// Looks at what a daemon would find after this one's end, at some moment, before and after the rest was filled.
async fn look_after_a_crash(w: &World, backup: &Arc<Backup>, model: &Model, handle: &Handle, mut rng: Rng) {
    let power_lost = rng.chance(1, 2);
    let disk = if power_lost { w.disk.crash(&mut rng) } else { w.disk.kill(&mut rng) };
    let found = World::found(disk, backup, &w.restores).await;
    if rng.chance(1, 2) {
        found.complete(handle.clone()).await;
        assert!(found.restore.filled.is_complete());
    }
    model.check(&whole(&found).await, power_lost);
}

#[test]
fn a_volume_is_its_backup_and_what_was_written_wherever_it_ends() {
    for_each_seed(24, |seed| {
        on_reactor(move |handle| async move {
            let mut rng = Rng::new(seed);
            let backup = Backup::new(&mut rng);
            let w = Rc::new(World::new(&backup).await);
            let model =
                Model { now: backup.contents.clone(), durable: backup.contents.clone(), changes: Vec::new() };
            let model = Rc::new(RefCell::new(model));
            let hands = deal(&mut rng).into_iter().filter(|hand| !hand[0].is_empty());
            let users: Vec<_> = hands
                .map(|hand| spawn(user(Rc::clone(&w), Rc::clone(&model), hand, rng.fork(), 60)))
                .collect();
            let background = {
                let (w, handle, late) = (Rc::clone(&w), handle.clone(), rng.below(30));
                spawn(async move {
                    sleep(Duration::from_millis(late)).await;
                    w.complete(handle).await;
                })
            };
            for _ in 0..3 {
                sleep(Duration::from_micros(rng.below(20_000))).await;
                // The model of this moment: users go on while the crash is looked at.
                let then = {
                    let m = model.borrow();
                    Model { now: m.now.clone(), durable: m.durable.clone(), changes: m.changes.clone() }
                };
                let rng = rng.fork();
                look_after_a_crash(&w, &backup, &then, &handle, rng).await;
            }
            for user in users {
                user.await;
            }
            background.await;
            assert!(whole(&w).await == model.borrow().now, "it differs in the end");
        });
    });
}

#[test]
fn a_chunk_is_fetched_once_and_one_that_is_overwritten_never() {
    on_reactor(|_| async {
        let backup = Backup::new(&mut Rng::new(1));
        backup.set(|state| state.pause = Some(50_000));
        let w = Rc::new(World::new(&backup).await);
        let read = |range: Range<u64>| {
            let w = Rc::clone(&w);
            spawn(async move { w.read(range).await.expect("is read") })
        };
        let readers = [read(10..20), read(0..CHUNK), read(CHUNK - 1..CHUNK)];
        for reader in readers {
            reader.await;
        }
        assert_eq!(backup.state.lock().reads, 1);
        w.write(CHUNK, &vec![3; 2 * CHUNK as usize]).await.expect("is written");
        w.restore.trim(0, 3 * CHUNK, CHUNK).await.expect("is trimmed");
        w.restore.zero(0, 4 * CHUNK, CHUNK, ExtentKind::Hole).await.expect("is zeroed");
        assert_eq!(w.read(CHUNK..CHUNK + 5).await.expect("is read"), [3; 5]);
        assert_eq!(w.read(4 * CHUNK - 3..4 * CHUNK + 2).await.expect("is read"), [0; 5]);
        assert_eq!(backup.state.lock().reads, 1);
        assert_eq!(w.restore.progress().bytes_done, 5 * CHUNK);
        // Its end counts as whole, too.
        w.write(40 * CHUNK, &vec![4; (SIZE - 40 * CHUNK) as usize]).await.expect("is written");
        assert_eq!(w.read(SIZE - 1..SIZE).await.expect("is read"), [4]);
        w.write(6 * CHUNK + 1, &[5]).await.expect("is written");
        assert_eq!(backup.state.lock().reads, 2, "the rest of that chunk was needed");
        let at = (6 * CHUNK) as usize;
        assert_eq!(
            w.read(6 * CHUNK..6 * CHUNK + 3).await.expect("is read"),
            [backup.contents[at], 5, backup.contents[at + 2]]
        );
    });
}

#[test]
fn while_the_repository_is_away_readers_wait_and_writers_need_not() {
    on_reactor(|handle| async move {
        let backup = Backup::new(&mut Rng::new(2));
        let w = Rc::new(World::new(&backup).await);
        backup.set(|state| state.away = true);
        let reader = {
            let w = Rc::clone(&w);
            spawn(async move { w.read(0..2 * CHUNK).await })
        };
        while w.restore.progress().problem.is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(!reader.is_finished());
        w.write(0, &vec![1; CHUNK as usize]).await.expect("is written");
        assert_eq!(w.read(0..1).await.expect("is there"), [1]);
        backup.set(|state| state.away = false);
        let read = reader.await.expect("is read");
        assert!(read[..CHUNK as usize].iter().all(|byte| *byte == 1), "it was overwritten while it waited");
        assert!(read[CHUNK as usize..] == backup.contents[CHUNK as usize..2 * CHUNK as usize]);
        assert_eq!(w.restore.progress().problem, None);
        w.complete(handle).await;
    });
}

#[test]
fn a_repository_that_does_not_answer_stops_no_other_volume() {
    on_reactor(|_| async {
        let backups = [20, 21].map(|seed| Backup::new(&mut Rng::new(seed)));
        let restores = new_restores();
        let a = Rc::new(World::of(&restores, [1; 16], &backups[0]).await);
        let b = World::of(&restores, [2; 16], &backups[1]).await;
        backups[0].set(|state| state.hangs = true);
        let reader = {
            let a = Rc::clone(&a);
            spawn(async move { a.restore.fill(0, 0..SIZE).await })
        };
        // It is asked for as much as there is room for, of more than that.
        let room = (OWN + SHARED) as u64;
        while backups[0].state.lock().reads < room {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(whole(&b).await == backups[1].contents);
        assert!(!reader.is_finished(), "others waited for as long as its readers have patience");
        assert_eq!(backups[0].state.lock().reads, room);
        backups[0].set(|state| state.hangs = false);
        reader.await.expect("is read");
        assert!(whole(&a).await == backups[0].contents);
    });
}

/// Reads and fills all of a volume.
fn use_all(w: &Rc<World>, handle: Handle) -> [cairn_uring::JoinHandle<()>; 2] {
    let (reading, filling) = (Rc::clone(w), Rc::clone(w));
    let reader = spawn(async move { reading.restore.fill(0, 0..1).await.expect("is read") });
    [reader, spawn(async move { filling.complete(handle).await })]
}

/// A panic below the fetches once had the background and the readers ask again at once, thousands of times a second.
#[test]
fn a_panic_below_is_a_failure_that_may_pass() {
    on_reactor(|handle| async move {
        let backup = Backup::new(&mut Rng::new(22));
        let w = Rc::new(World::new(&backup).await);
        backup.set(|state| state.hangs = true);
        let users = use_all(&w, handle);
        // The background has looked where there is data.
        while backup.state.lock().reads < 8 {
            sleep(Duration::from_millis(1)).await;
        }
        backup.set(|state| (state.panics, state.hangs) = (true, false));
        let problem = loop {
            sleep(Duration::from_millis(1)).await;
            assert!(backup.state.lock().reads < 200, "it asks again at once");
            if let Some(problem) = w.restore.progress().problem {
                break problem;
            }
        };
        assert!(problem.contains("a fault below"), "{problem}");
        sleep(Duration::from_millis(500)).await;
        // Of the few chunks that are asked for at once, each again and again.
        assert!(backup.state.lock().reads < 200, "it asks again at once");
        let restore = Arc::clone(&w.restore);
        let looked = w.restores.run(async move { restore.fetches.data(0..SIZE).await });
        let looked = looked.await.expect("the thread goes on");
        assert!(matches!(looked, Err(Trouble::Away(_))), "{looked:?}");
        backup.set(|state| state.panics = false);
        for user in users {
            user.await;
        }
        assert!(whole(&w).await == backup.contents);
        assert_eq!(w.restore.progress().problem, None);
    });
}

#[test]
fn a_fetch_that_ends_without_an_answer_is_begun_again_after_a_pause() {
    on_reactor(|handle| async move {
        let backup = Backup::new(&mut Rng::new(23));
        let w = Rc::new(World::new(&backup).await);
        backup.set(|state| state.hangs = true);
        let users = use_all(&w, handle);
        for _ in 0..400 {
            // Whoever waits finds that nobody fetches for it any more.
            w.restore.fetches.needless(&(0..w.restore.chunks.count()));
            sleep(Duration::from_millis(1)).await;
        }
        assert!(backup.state.lock().reads < 200, "it asks again at once");
        backup.set(|state| state.hangs = false);
        for user in users {
            user.await;
        }
        assert!(whole(&w).await == backup.contents);
    });
}

#[test]
fn a_backup_is_held_until_its_restore_is_over() {
    on_reactor(|_| async move {
        let backup = Backup::new(&mut Rng::new(9));
        let w = World::new(&backup).await;
        for (over, expected) in [(false, (1, 0)), (true, (2, 1))] {
            let (restore, (done, ended)) = (Arc::clone(&w.restore), tokio::sync::oneshot::channel());
            let work = async move {
                let work = async {
                    if over {
                        restore.end();
                    }
                };
                while_held(&restore, work).await;
                let _ = done.send(());
            };
            w.restores.spawn(work).expect("a thread");
            ended.await.expect("it ends");
            // A daemon that stops leaves it to the next one.
            let state = backup.state.lock();
            assert_eq!((state.holds, state.releases), expected);
        }
    });
}

#[test]
fn what_is_damaged_is_refused_until_it_is_overwritten() {
    on_reactor(|handle| async move {
        let mut rng = Rng::new(3);
        let backup = Backup::new(&mut rng);
        let w = World::new(&backup).await;
        let holds = |chunk: &u64| backup.contents[(chunk * CHUNK) as usize] != 0;
        let bad = (0..40).find(holds).expect("it is not all holes");
        let at = bad * CHUNK;
        backup.set(|state| state.damaged = HashSet::from([bad]));
        let error = w.read(at + 7..at + 9).await.expect_err("it is damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let error = w.write(at + 7, &[1]).await.expect_err("the rest of it is damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let problem = w.restore.progress().problem.expect("is told");
        assert!(
            problem.contains(&format!("byte {at}")) && problem.contains(&format!("chunk {bad} ")),
            "{problem}"
        );
        let next = at + CHUNK..at + 2 * CHUNK;
        let expected = &backup.contents[next.start as usize..next.end as usize];
        assert!(w.read(next).await.expect("is sound") == expected);
        // The background leaves it out and restores all else.
        let (restore, reactor) = (Arc::clone(&w.restore), handle.clone());
        let background = async move {
            fill_all(&restore, &reactor).await;
        };
        w.restores.spawn(background).expect("a thread");
        while w.restore.filled.count() < w.restore.chunks.count() - 1 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(w.restore.progress().problem.is_some());
        assert!(!w.restore.filled.has(&(bad..bad + 1)));
        w.write(at, &vec![6; CHUNK as usize]).await.expect("nothing of it is needed");
        assert_eq!(w.restore.progress().problem, None);
        assert!(w.restore.filled.is_complete());
    });
}

#[test]
fn what_is_not_restored_yet_counts_as_data() {
    on_reactor(|_| async {
        let backup = Backup::new(&mut Rng::new(4));
        let w = World::new(&backup).await;
        let hole = proto::allocation::HOLE | proto::allocation::ZERO;
        let pool = &w.restore.pool;
        let ask = async |offset, len, max_extents| {
            let query = StatusQuery { context: Context::Allocation, offset, len, max_extents };
            let told = status::of(pool, w.restore.head, query, Some(&*w.restore)).await.expect("is told");
            told.into_iter().map(|StatusExtent { len, flags }| (len, flags)).collect::<Vec<_>>()
        };
        assert_eq!(ask(0, SIZE, 9).await, [(SIZE, 0)]);
        w.restore.trim(0, CHUNK, 2 * CHUNK).await.expect("is trimmed");
        assert_eq!(ask(0, SIZE, 9).await, [(CHUNK, 0), (2 * CHUNK, hole), (SIZE - 3 * CHUNK, 0)]);
        assert_eq!(ask(10, SIZE - 10, 1).await, [(CHUNK - 10, 0)]);
        assert_eq!(ask(CHUNK + 5, CHUNK, 9).await, [(CHUNK, hole)]);
        // Data that is there and data that is not look the same.
        w.write(3 * CHUNK, &vec![1; CHUNK as usize]).await.expect("is written");
        assert_eq!(ask(0, SIZE, 9).await, [(CHUNK, 0), (2 * CHUNK, hole), (SIZE - 3 * CHUNK, 0)]);
    });
}

#[test]
fn bits_are_kept_over_blocks_of_the_bitmap() {
    on_reactor(|_| async {
        let chunks = 100_000;
        let disk = SimDisk::file(1 << 30);
        let create = CreateOptions { limit: 1 << 30, journal_bytes: None, segment_blocks: None };
        let pool = Pool::create(disk, [7; 16], create, OPTIONS).await.expect("a pool");
        let bits = pool.create_volume("bits", companion_bytes(chunks), "").await.expect("a volume");
        let load = async |id: VersionId| Filled::load(Arc::clone(&pool), id, chunks).await;
        let filled = Rc::new(load(bits.id).await.expect("is empty"));
        assert_eq!((filled.count(), filled.find(false, 0..chunks)), (0, Some(0)));
        let ranges = [5..6, 63..65, 32_000..33_000, 65_535..65_537, 99_999..100_000];
        let marks = ranges.clone().map(|range| {
            let filled = Rc::clone(&filled);
            spawn(async move { filled.mark(0, range).await })
        });
        for mark in marks {
            assert!(mark.await.expect("is marked").is_some());
        }
        let again = load(bits.id).await.expect("is read");
        for filled in [&*filled, &again] {
            assert_eq!(filled.count(), 1 + 2 + 1000 + 2 + 1);
            assert!(ranges.iter().all(|range| filled.has(range)));
            assert!(!filled.has(&(5..7)) && !filled.has(&(62..64)) && !filled.has(&(31_999..32_001)));
            assert_eq!(filled.find(true, 6..chunks), Some(63));
            assert_eq!(filled.find(false, 32_000..chunks), Some(33_000));
            assert_eq!(filled.find(true, 66_000..99_999), None);
            assert!(filled.has(&(99_999..200_000)), "there is nothing behind the last");
        }
        again.mark(0, 0..chunks).await.expect("is marked");
        assert!(again.is_complete() && load(bits.id).await.expect("is read").is_complete());
        let other = Filled::load(Arc::clone(&pool), bits.id, 1).await;
        assert_eq!(other.err().map(|e| e.kind()), Some(ErrorKind::Corrupt));
    });
}

#[test]
fn a_bitmap_that_no_volume_names_goes_with_the_next_start() {
    on_reactor(|_| async {
        let backup = Backup::new(&mut Rng::new(5));
        let w = World::new(&backup).await;
        let pool = &w.restore.pool;
        sweep(pool).await.expect("is swept");
        assert!(pool.has_volume("bits"));
        let strange = [(VOLUME_RESTORE, Some("a later version's"))];
        pool.set_attributes(cairn_cow::Holder::Volume("v"), &strange).await.expect("is set");
        sweep(pool).await.expect("is swept");
        assert!(pool.has_volume("bits"), "it may be that one's");
        pool.set_attributes(cairn_cow::Holder::Volume("v"), &[(VOLUME_RESTORE, None)]).await.expect("is set");
        sweep(pool).await.expect("is swept");
        assert!(!pool.has_volume("bits") && pool.has_volume("v"));
    });
}
