//! A pool that lives, dies and comes back.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cairn_cow::sim::{Fault, Join, Op, Rng, Sim, SimDisk, block_on};
use cairn_cow::{BLOCK_BYTES, Disk as _, Error, ErrorKind, Pool as AnyPool};

use crate::engine::{self, JOURNAL, Pool, SUPERBLOCKS, create_with, options};
use crate::note::Form;
use crate::tally::Tally;
use crate::world::{Death, Scale, SharedWorld};
use crate::{ballast, controller, damage, note, verify, writer};

/// Writers at work at once.
const WRITERS: usize = 3;
/// Events of an opening before which another death may come.
const OPENING_EVENTS: u64 = 200;
/// Events in which a pool has noticed that a barrier failed: the task that waits for it has had its turn.
const EVENTS_TO_NOTICE: u64 = 1_000;
/// Deaths on the way back at most.
const DEATHS_ON_THE_WAY: u64 = 3;

/// Blocks of a journal that is about to begin anew.
const LAST_BATCHES: u64 = 4;
/// Deaths after the first one at most, where it is looked further, ...
const MORE_DEATHS: u64 = 3;
/// ... events between two moments after each, at most, ...
const MORE_EVENTS: u64 = 60;
/// ... and the moments.
const MORE_LOOKS: u64 = 2;
/// The time after which a pool that nobody uses writes a checkpoint, and more.
const LONG: Duration = Duration::from_secs(3600);
/// Pieces that a process stores in the memory that outlives it before it dies in the middle of a step, at most.
const STORES: u64 = 12;
/// Notes that fill the journal more than once.
const BURST: u64 = 150;
/// Patience without end.
const NEVER_FLUSHES: u64 = 1_000_000;

/// How much there is in a pool at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// Two volumes, two or three snapshots: looked at in no time.
    Small,
    /// Four volumes, ten snapshots.
    Large,
}

/// What a death left of a pool.
pub(crate) struct Left {
    pub(crate) disk: SimDisk,
    pub(crate) world: SharedWorld,
    pub(crate) death: Death,
}

impl Left {
    /// The same after the pool was opened and stopped in good order.
    pub(crate) fn closed(self) -> Left {
        let Left { disk, world, death } = self;
        let (left, known) = (disk.clone(), world.clone());
        block_on(async move {
            let (pool, found) = verify::come_up(left, &known, death, false).await;
            found.go_on(&known);
            pool.close().await.unwrap_or_else(|e| panic!("closing: {e:?}"));
        });
        let closed = disk.crash(&mut Rng::new(0));
        Left { disk: closed, world, death: Death::Power }
    }
}

/// A pool in its world, with all that was ever asked of it.
pub struct Life {
    seed: u64,
    rng: Rng,
    disk: SimDisk,
    sim: Sim,
    pool: Arc<Pool>,
    world: SharedWorld,
    /// Somebody takes notes: there must not be two of them.
    notes: bool,
    digest: u64,
}

impl Life {
    /// A new pool of at most `limit` bytes, with few volumes or many.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn new(seed: u64, mut rng: Rng, limit: u64, size: Size) -> Life {
        let disk = SimDisk::file(2 * limit);
        let sim = engine::world(seed, &disk);
        let scale = match size {
            Size::Small => Scale::SMALL,
            Size::Large => Scale::LARGE,
        };
        let pool = sim
            .run(create_with(disk.clone(), limit, scale.options()))
            .unwrap_or_else(|e| panic!("creating the pool: {e:?}"));
        let (rng, world) = (rng.fork(), SharedWorld::new(scale, limit));
        Life { seed, rng, disk, sim, pool, world, notes: false, digest: 0 }
    }

    /// Space seems to be new at all times, so that the pool zeroes it when nobody seems to use it.
    pub fn have_space_zeroed(&mut self) {
        self.disk.be_always_new();
    }

    /// Fills the pool until it has room for about `slack` blocks, so that what is freed is used again at once.
    ///
    /// # Panics
    /// When the pool fails.
    pub fn make_tight(&mut self, slack: u64) {
        let (pool, world) = (Arc::clone(&self.pool), self.world.clone());
        self.sim.run(async move { ballast::fill(&pool, &world, slack).await });
    }

    /// Leaves no room for the pool's file to grow, and fills it until it has room for about `slack` blocks.
    ///
    /// # Panics
    /// When the pool fails.
    pub fn make_tight_for_now(&mut self, slack: u64) {
        self.disk.set_room(self.disk.len());
        self.make_tight(slack);
    }

    /// Whether it was filled.
    pub fn is_tight(&self) -> bool {
        self.world.with(|w| w.ballast.is_some())
    }

    /// Fills the pool until it is about to grow, which an image that is copied in from then on makes it do again and again.
    ///
    /// # Panics
    /// When the pool fails.
    pub fn make_it_grow(&mut self) {
        let (pool, world, disk) = (Arc::clone(&self.pool), self.world.clone(), self.disk.clone());
        let before = disk.counts().grows;
        self.sim.run(async move {
            ballast::fill_until(&pool, &world, || disk.counts().grows > before).await;
        });
    }

    /// Makes the journal go on by so many batches of one block or several, or until it is about to begin anew.
    ///
    /// # Panics
    /// When the pool fails.
    pub fn turn_the_journal(&mut self, batches: u64) {
        let (pool, world, disk) = (Arc::clone(&self.pool), self.world.clone(), self.disk.clone());
        let mut rng = self.rng.fork();
        self.sim.run(async move {
            for _ in 0..batches {
                note::write(&pool, &world, Form::any(&mut rng)).await;
                if note::journal_left(&disk).is_some_and(|left| left <= LAST_BATCHES) {
                    break;
                }
            }
        });
    }

    /// Writers flush as often as their users would, hardly ever, or with 0 after every write.
    pub fn be_patient(&mut self, patience: u64) {
        self.world.with(|w| w.patience = patience);
    }

    /// Writers, a controller and the background duties set to work, and whoever copies an image in.
    pub fn work(&mut self) {
        drop(set_to_work(&self.sim, &self.pool, &self.world, &mut self.rng));
        let (handle, pool, world) = (self.sim.handle(), Arc::clone(&self.pool), self.world.clone());
        drop(self.sim.spawn(ballast::work_forever(handle, pool, world, self.rng.fork())));
        if self.rng.chance(1, 3) {
            self.take_notes();
        }
    }

    /// Some of those who work set to it.
    fn work_in_part(&mut self) {
        let writers = 1 + self.rng.index(WRITERS);
        drop(set_writers(&self.sim, &self.pool, &self.world, writers, &mut self.rng));
        if self.rng.chance(1, 3) {
            drop(set_controller(&self.sim, &self.pool, &self.world, &mut self.rng));
        }
        if self.rng.chance(1, 6) {
            self.take_notes();
        }
        if self.rng.chance(1, 3) {
            self.begin_a_checkpoint();
        }
        if self.rng.chance(1, 3) {
            drop(set_background(&self.sim, &self.pool, &self.world, &mut self.rng));
        }
    }

    fn take_notes(&mut self) {
        self.notes = true;
        let (pool, world, rng) = (Arc::clone(&self.pool), self.world.clone(), self.rng.fork());
        drop(self.sim.spawn(note::write_forever(self.sim.handle(), pool, world, rng)));
    }

    /// Goes on for so many events: a task polled or an I/O completed.
    ///
    /// # Panics
    /// When nothing is left to do, or with whatever is found wrong.
    pub fn go_on(&self, events: u64) {
        assert!(self.sim.run_events(events), "everything stands still (seed {})", self.seed);
    }

    /// Goes on until the pool file has grown, for so many events at most.
    ///
    /// # Panics
    /// As [`Life::go_on`].
    pub fn go_on_until_it_grows(&self, events: u64) {
        self.go_on_until_another(events, |disk| disk.counts().grows);
    }

    /// Goes on until a barrier is under way: much is written, and none of it durable.
    ///
    /// # Panics
    /// As [`Life::go_on`].
    pub fn go_on_until_it_syncs(&self, events: u64) {
        self.go_on_until(events, || self.disk.is_syncing());
    }

    /// Goes on until something was written to the journal, of which perhaps nobody knows yet.
    ///
    /// # Panics
    /// As [`Life::go_on`].
    pub fn go_on_until_a_batch(&self, events: u64) {
        self.go_on_until_another(events, SimDisk::last_written);
        self.go_on_until(events, || JOURNAL.contains(&self.disk.last_written().start));
    }

    /// Goes on until a superblock is written, and the other is not yet.
    ///
    /// # Panics
    /// As [`Life::go_on`].
    pub fn go_on_until_a_superblock(&self, events: u64) {
        self.go_on_until(events, || engine::SUPERBLOCKS.contains(&self.disk.last_written().start));
    }

    /// Goes on until something of the disk has changed, for so many events at most.
    fn go_on_until_another<T: PartialEq>(&self, events: u64, what: impl Fn(&SimDisk) -> T) {
        let before = what(&self.disk);
        self.go_on_until(events, || what(&self.disk) != before);
    }

    fn go_on_until(&self, events: u64, there: impl Fn() -> bool) {
        for _ in 0..events {
            if there() {
                return;
            }
            self.go_on(1);
        }
    }

    /// Somebody takes as many notes as fill the journal; goes on until it is nearly full of what no superblock has told to leave
    /// out, for so many events at most.
    ///
    /// # Panics
    /// As [`Life::go_on`].
    pub fn fill_the_journal(&mut self, events: u64) {
        if !self.notes {
            self.take_notes();
        }
        self.world.with(|w| w.burst = BURST);
        let (mut last, mut filled) = (self.disk.last_written(), 0);
        for _ in 0..events {
            self.go_on(1);
            let written = self.disk.last_written();
            if written == last {
                continue;
            }
            if SUPERBLOCKS.contains(&written.start) {
                filled = 0;
            } else if JOURNAL.contains(&written.start) {
                filled += written.end - written.start;
            }
            if filled > (JOURNAL.end - JOURNAL.start) / 4 * 3 {
                return;
            }
            last = written;
        }
    }

    /// A checkpoint is written, by itself or because somebody has the pool checked, which keeps what is freed meanwhile.
    pub fn begin_a_checkpoint(&mut self) {
        let (pool, world) = (Arc::clone(&self.pool), self.world.clone());
        let checked = self.rng.chance(1, 2);
        drop(self.sim.spawn(async move {
            if checked {
                verify::check_beside(&pool, &world).await;
            } else if let Err(e) = pool.maintain(LONG).await {
                assert!(
                    e.kind() == ErrorKind::NoSpace || world.with(|w| w.excuses(&e)),
                    "a checkpoint: {e:?}"
                );
            }
        }));
    }

    /// Dies, perhaps again on the way back, and comes back: everything that must be there is, and nothing else. With
    /// `thorough`, the pool is then tidied up and all of it checked, which hides what is only half repaired.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn die_and_come_back(self, thorough: bool) -> Life {
        let failed = barrier_failed(&self.sim, &self.disk, &self.pool);
        let digest = self.digest.rotate_left(9) ^ self.sim.trace();
        self.sim.stop();
        drop(self.pool);
        let mut rng = self.rng;
        let (mut disk, mut death) = die(&mut rng, &self.disk, 2, failed);
        deaths_on_the_way(&mut rng, &mut disk, &mut death);
        Life { digest, ..Life::after(self.seed, rng, (disk, death), self.world, thorough) }
    }

    /// The life that goes on from what a death left.
    fn after(
        seed: u64,
        mut rng: Rng,
        (disk, death): (SimDisk, Death),
        world: SharedWorld,
        thorough: bool,
    ) -> Life {
        world.with(|w| w.excuses = &[]);
        let sim = engine::world(rng.next_u64(), &disk);
        let (left, known) = (disk.clone(), world.clone());
        let pool = sim.run(async move {
            let (pool, found) = verify::come_up(left, &known, death, thorough).await;
            found.go_on(&known);
            pool
        });
        Life { seed, rng, disk, sim, pool, world, notes: false, digest: 0 }
    }

    /// What would be there if the pool died now, did a little, died again, and so on: what recovery left half done shows
    /// only then. The life itself goes on.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn look_further_beyond(&mut self) -> Tally {
        let failed = barrier_failed(&self.sim, &self.disk, &self.pool);
        let mut rng = self.rng.fork();
        let left = die(&mut rng, &self.disk, 4, failed);
        let mut other = Life::after(self.seed, rng, left, self.world.fork(), false);
        let mut tally = Tally::state(false);
        for _ in 0..1 + other.rng.below(MORE_DEATHS) {
            let patience = if other.rng.chance(1, 2) { NEVER_FLUSHES } else { 1 };
            other.be_patient(patience);
            other.work_in_part();
            for _ in 0..MORE_LOOKS {
                let events = 1 + other.rng.below(MORE_EVENTS);
                other.go_on(events);
                tally.add(other.look_beyond());
            }
            other = other.die_and_come_back(false);
            tally.add(Tally::state(false));
        }
        tally
    }

    /// Dies, and nobody has opened the pool since.
    pub(crate) fn leave(mut self) -> Left {
        let failed = barrier_failed(&self.sim, &self.disk, &self.pool);
        self.sim.stop();
        let (disk, death) = die(&mut self.rng, &self.disk, 2, failed);
        Left { disk, world: self.world, death }
    }

    /// One of the next barriers fails, once or like all after it; goes on until the pool has noticed, for so many events
    /// at most.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn let_a_barrier_fail(&mut self, events: u64) {
        let commits = self.rng.chance(1, 2);
        if !commits {
            // There are many fewer checkpoints.
            let superblock = |disk: &SimDisk| SUPERBLOCKS.map(|at| disk.peek(at, BLOCK_BYTES));
            self.go_on_until_another(events, superblock);
        }
        let fault = Fault::on(Op::Sync).after(self.rng.below(if commits { 4 } else { 2 }));
        self.disk.inject(if self.rng.chance(1, 2) { fault.once() } else { fault });
        self.world.with(|w| w.excuses = &[ErrorKind::Io, ErrorKind::Fenced]);
        for _ in 0..events {
            if barrier_failed(&self.sim, &self.disk, &self.pool) {
                return;
            }
            self.go_on(1);
        }
    }

    /// What would be there if the pool died now: the life itself goes on.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn look_beyond(&mut self) -> Tally {
        let failed = barrier_failed(&self.sim, &self.disk, &self.pool);
        let thorough = self.rng.chance(1, 32);
        look(&mut self.rng, &self.disk, &self.world, failed, thorough)
    }

    /// What would be there if the process died now, a barrier of the next one failed, and the one after that had relied upon what
    /// it found when it died, too, most likely with the power. The life itself goes on.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn look_past_a_failed_opening(&mut self) -> Tally {
        if barrier_failed(&self.sim, &self.disk, &self.pool) {
            return Tally::default();
        }
        let mut rng = self.rng.fork();
        let disk = self.disk.kill(&mut rng);
        disk.inject(Fault::on(Op::Sync).after(rng.below(2)).once());
        let sim = engine::world(rng.next_u64(), &disk);
        let opened = sim.run(AnyPool::open(disk.clone(), options()));
        let failed = disk.syncs_failed() > 0;
        if let Err(e) = opened {
            assert!(failed && e.kind() == ErrorKind::Io, "reopening: {e:?}");
        }
        drop(sim);
        let left = (disk.kill(&mut rng), if failed { Death::Failure } else { Death::Process });
        drop(Life::after(self.seed, rng, left, self.world.fork(), false).die_and_come_back(false));
        Tally { nested: 1, states: 2, ..Tally::default() }
    }

    /// What would be there if the process died soon, in the middle of a step: before one of the next pieces that it stores in the
    /// memory that outlives it. The life goes on for so many events at most; nothing is looked at if it stores too little.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn look_inside_a_step(&mut self, events: u64) -> Tally {
        if self.disk.syncs_failed() > 0 {
            // Nobody can write down what nobody has been told of.
            return Tally::default();
        }
        let died = Rc::new(Cell::new(None));
        let (at, then) = (Rc::clone(&died), self.world.clone());
        self.disk.if_it_died_after(self.rng.below(STORES), self.rng.fork(), move |disk| {
            at.set(Some((disk, then.fork())));
        });
        for _ in 0..events {
            if let Some((disk, world)) = died.take() {
                return look_at(&mut self.rng, (disk, Death::Process), world, false, false);
            }
            self.go_on(1);
        }
        Tally::default()
    }

    /// What would be read if the pool were stopped now, and its disk then changed behind its back.
    ///
    /// # Panics
    /// When anything wrong is served.
    pub fn look_at_damage(&mut self) {
        let failed = barrier_failed(&self.sim, &self.disk, &self.pool);
        let (disk, _) = die(&mut self.rng, &self.disk, 2, failed);
        damage::look(disk, &mut self.rng);
    }

    /// A digest of every choice made so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// Sets writers, a controller and the background duties to work, until the world ends or comes to an end.
pub(crate) fn set_to_work(sim: &Sim, pool: &Arc<Pool>, world: &SharedWorld, rng: &mut Rng) -> Vec<Join<()>> {
    let mut at_work = vec![set_background(sim, pool, world, rng)];
    at_work.extend(set_writers(sim, pool, world, WRITERS, rng));
    at_work.push(set_controller(sim, pool, world, rng));
    at_work
}

fn set_background(sim: &Sim, pool: &Arc<Pool>, world: &SharedWorld, rng: &mut Rng) -> Join<()> {
    let (over, excuses) = (world.clone(), world.clone());
    let over = move || over.with(|w| w.over);
    let excused = move |e: &Error| excuses.with(|w| w.excuses(e));
    sim.spawn(engine::maintain(sim.handle(), Arc::clone(pool), rng.fork(), over, excused))
}

fn set_writers(
    sim: &Sim,
    pool: &Arc<Pool>,
    world: &SharedWorld,
    writers: usize,
    rng: &mut Rng,
) -> Vec<Join<()>> {
    world.with(|w| w.alone = false);
    let write = |lane| {
        let (pool, world) = (Arc::clone(pool), world.clone());
        sim.spawn(writer::write_forever(sim.handle(), pool, world, lane % 2, rng.fork()))
    };
    (0..writers).map(write).collect()
}

fn set_controller(sim: &Sim, pool: &Arc<Pool>, world: &SharedWorld, rng: &mut Rng) -> Join<()> {
    let (pool, world) = (Arc::clone(pool), world.clone());
    sim.spawn(controller::control_forever(sim.handle(), pool, world, rng.fork()))
}

/// Whether a barrier has failed, and the pool has noticed: nobody can write down what nobody has been told of.
///
/// # Panics
/// When the pool takes writes nevertheless.
pub(crate) fn barrier_failed(sim: &Sim, disk: &SimDisk, pool: &Pool) -> bool {
    if disk.syncs_failed() == 0 {
        return false;
    }
    for _ in 0..EVENTS_TO_NOTICE {
        if engine::is_fenced(pool) {
            return true;
        }
        sim.run_events(1);
    }
    panic!("a barrier has failed, and the pool is not fenced");
}

/// One death in so many is that of the process alone; perhaps after one of its barriers has failed.
pub(crate) fn die(rng: &mut Rng, disk: &SimDisk, kills: u64, failed: bool) -> (SimDisk, Death) {
    let alone = if failed { Death::Failure } else { Death::Process };
    if rng.chance(1, kills) { (disk.kill(rng), alone) } else { (disk.crash(rng), Death::Power) }
}

/// What would be there if a pool died now, perhaps after a barrier of it has `failed`.
pub(crate) fn look(
    rng: &mut Rng,
    disk: &SimDisk,
    world: &SharedWorld,
    failed: bool,
    thorough: bool,
) -> Tally {
    let left = die(rng, disk, if failed { 2 } else { 4 }, failed);
    look_at(rng, left, world.fork(), failed, thorough)
}

/// What is there of a pool that has died.
fn look_at(
    rng: &mut Rng,
    (mut disk, mut death): (SimDisk, Death),
    world: SharedWorld,
    failed: bool,
    thorough: bool,
) -> Tally {
    // After a failed barrier most can go wrong on the way back.
    let nested = if rng.chance(if failed { 4 } else { 1 }, 8) {
        deaths_on_the_way(rng, &mut disk, &mut death)
    } else {
        0
    };
    if death == Death::Power && rng.chance(7, 8) {
        // It is empty: setting it up takes longer than all the rest.
        disk.forget_all();
    }
    drop(block_on(async move { verify::come_up(disk, &world, death, thorough).await }));
    Tally { nested, ..Tally::state(thorough) }
}

/// Opens the pool up to three times, each time to die before it is done; how many deaths that were.
fn deaths_on_the_way(rng: &mut Rng, disk: &mut SimDisk, death: &mut Death) -> u64 {
    for deaths in 0..DEATHS_ON_THE_WAY {
        if rng.chance(1, 2) {
            return deaths;
        }
        let sim = engine::world(rng.next_u64(), disk);
        if rng.chance(1, 4) {
            disk.inject(Fault::on(Op::Sync).after(rng.below(4)).once());
        }
        let opened = sim.run_for(rng.below(OPENING_EVENTS), AnyPool::open(disk.clone(), options()));
        let failed = disk.syncs_failed() > 0;
        if failed {
            // Nobody can write down what nobody has been told of.
            sim.run_events(EVENTS_TO_NOTICE);
        }
        if let Some(Err(e)) = opened {
            assert!(failed && e.kind() == ErrorKind::Io, "reopening: {e:?}");
        }
        drop(sim);
        let again;
        (*disk, again) = die(rng, disk, 2, failed);
        if again != Death::Process {
            *death = again;
        }
    }
    DEATHS_ON_THE_WAY
}
