//! Every short sequence of operations, with a crash between any two I/Os and every part of what was not synced by then
//! on disk or not.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use cairn_cow::ExtentKind;
use cairn_cow::sim::{Rng, Sim, SimDisk, block_on};

use crate::ballast;
use crate::controller::Controller;
use crate::engine::{self, BLOCK_SECTORS, Pool, create};
use crate::note::{self, Form};
use crate::pattern::SECTOR;
use crate::tally::Tally;
use crate::verify;
use crate::world::{Death, Scale, SharedVolume, SharedWorld, Snapshot};
use crate::writer::{What, Writer};

/// Bytes of the pool.
const LIMIT: u64 = 8 << 20;
/// Bytes of the volume that most is done to; its last block is one in part.
const SIZE: u64 = (1 << 20) + 512;
/// Blocks that a tight pool has room for.
const SLACK: u64 = 24;
/// Up to so many changes that are not synced, all their subsets are tried; of more, samples.
const ALL_SUBSETS: usize = 12;
const SAMPLES: usize = 64;
/// Before it stores so many pieces in the memory that outlives it, and in the middle of an event, a process dies.
const STORES: u64 = 8;
/// Of one state in so many every block is accounted for as well.
const CHECKED: u64 = 16;

/// One thing that is asked of a pool with volumes `a`, which has a snapshot `s`, and `b`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Step {
    Write,
    WriteNext,
    WritePart,
    WriteRun,
    WriteEnd,
    WriteOther,
    WriteThrough,
    Zero,
    Trim,
    TrimAll,
    Flush,
    Snapshot,
    Group,
    DropSnapshot,
    Clone,
    WriteClone,
    RollBack,
    Resize,
    Create,
    Delete,
    Background,
    Check,
    Note,
    Die,
}

impl Step {
    /// All there are.
    pub const ALL: [Step; 24] = [
        Step::Write,
        Step::WriteNext,
        Step::WritePart,
        Step::WriteRun,
        Step::WriteEnd,
        Step::WriteOther,
        Step::WriteThrough,
        Step::Zero,
        Step::Trim,
        Step::TrimAll,
        Step::Flush,
        Step::Snapshot,
        Step::Group,
        Step::DropSnapshot,
        Step::Clone,
        Step::WriteClone,
        Step::RollBack,
        Step::Resize,
        Step::Create,
        Step::Delete,
        Step::Background,
        Step::Check,
        Step::Note,
        Step::Die,
    ];
}

/// How many sequences of so many steps there are.
pub fn count(steps: u32) -> u64 {
    (Step::ALL.len() as u64).pow(steps)
}

/// The sequence of so many steps with this number, below [`count`].
pub fn sequence(steps: u32, number: u64) -> Vec<Step> {
    let kinds = Step::ALL.len() as u64;
    (0..steps).map(|place| Step::ALL[(number / kinds.pow(place) % kinds) as usize]).collect()
}

/// A pool that was stopped in good order, and what is known of it: where every sequence begins.
pub struct Beginning {
    disk: SimDisk,
    world: SharedWorld,
}

impl Beginning {
    /// Makes the pool; with `tight` it has room for some blocks only, so that what is freed is used again at once.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(tight: bool) -> Beginning {
        let disk = SimDisk::file(2 * LIMIT);
        let world = SharedWorld::new(Scale::SMALL, LIMIT);
        let (made, known, disk_of_the_pool) = (disk.clone(), world.clone(), disk.clone());
        block_on(async move {
            let pool = create(made, LIMIT).await.unwrap_or_else(|e| panic!("creating the pool: {e:?}"));
            let asker = Asker::new(&pool, &known);
            asker.controller.create_volume("a", SIZE).await;
            asker.controller.create_volume("b", 96 << 10).await;
            for step in [Step::WriteRun, Step::WriteEnd, Step::WriteOther, Step::Flush] {
                asker.ask(step).await;
            }
            asker
                .controller
                .snapshot_of(&asker.volume("a").into_iter().collect::<Vec<_>>(), "s".into())
                .await;
            asker.ask(Step::WriteNext).await;
            asker.ask(Step::Flush).await;
            if tight {
                ballast::fill(&pool, &known, SLACK).await;
            }
            // Closing takes another block, and leaves one before the journal begins anew.
            while note::journal_left(&disk_of_the_pool) != Some(2) {
                note::write(&pool, &known, Form::SHORT).await;
            }
            pool.close().await.unwrap_or_else(|e| panic!("closing: {e:?}"));
        });
        assert_eq!(disk.unsynced_changes(), 0, "a pool that was closed is on disk");
        Beginning { disk, world }
    }

    /// Carries out a sequence, and looks between any two I/Os at all that a crash may leave there.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn run(&self, steps: &[Step]) -> Tally {
        let mut disk = self.disk.crash_keeping(|_| true);
        let world = self.world.fork();
        let mut tally = Tally::default();
        for steps in steps.split(|step| *step == Step::Die) {
            for stores in 0..STORES {
                die_inside(&disk, &world, steps, stores, &mut tally);
            }
            live(&disk, &world, steps, &mut tally);
            // All that was written is there, so most is at stake in the next life; what was only in memory is gone.
            disk = disk.crash_keeping(|_| true);
        }
        tally
    }
}

/// A pool that comes up and is asked for steps.
struct Lived {
    sim: Sim,
    /// Whether it has come up.
    up: Rc<Cell<bool>>,
    /// Whether all was done.
    done: Rc<Cell<bool>>,
}

impl Lived {
    fn begin(disk: &SimDisk, world: &SharedWorld, steps: &[Step]) -> Lived {
        let sim = Sim::in_order();
        sim.attach(disk);
        let lived = Lived { sim, up: Rc::default(), done: Rc::default() };
        let (inside, asked) = (disk.clone(), world.clone());
        let (came_up, ended) = (Rc::clone(&lived.up), Rc::clone(&lived.done));
        let steps: Vec<Step> = steps.to_vec();
        drop(lived.sim.spawn(async move {
            let (pool, found) = verify::come_up(inside, &asked, Death::Power, false).await;
            found.go_on(&asked);
            came_up.set(true);
            let asker = Asker::new(&pool, &asked);
            for step in steps {
                asker.ask(step).await;
            }
            ended.set(true);
        }));
        lived
    }

    /// Goes on by an event; what the process may leave when it dies now.
    fn go_on(&self) -> Death {
        assert!(self.sim.run_events(1), "everything stands still");
        // What the power took before is not there because the process dies on the way back.
        if self.up.get() { Death::Process } else { Death::Power }
    }
}

/// Comes up, carries out steps, and looks between any two I/Os at all that a crash may leave there.
fn live(disk: &SimDisk, world: &SharedWorld, steps: &[Step], tally: &mut Tally) {
    let lived = Lived::begin(disk, world, steps);
    let mut seen = None;
    while !lived.done.get() {
        let death = lived.go_on();
        let counts = disk.counts();
        let point = (counts.writes, counts.syncs, counts.grows, disk.unsynced_changes());
        let point = Some((point, world.with(|w| w.now())));
        if point != seen {
            seen = point;
            all_crashes(disk, world, death, tally);
        }
    }
}

/// The same once more; the process dies in the middle of each event, before it stores one piece more than `stores` in the
/// memory that outlives it.
fn die_inside(disk: &SimDisk, world: &SharedWorld, steps: &[Step], stores: u64, tally: &mut Tally) {
    let (disk, world) = (disk.crash_keeping(|_| true), world.fork());
    let lived = Lived::begin(&disk, &world, steps);
    let died = Rc::new(RefCell::new(None));
    while !lived.done.get() {
        let (at, then) = (Rc::clone(&died), world.clone());
        disk.if_it_died_after(stores, Rng::new(stores), move |disk| {
            at.replace(Some((disk, then.fork())));
        });
        let death = lived.go_on();
        if let Some((dead, then)) = died.take() {
            look(dead, &then, death, tally);
        }
    }
}

/// Looks at what a power loss may leave now, and the death of the process, after which there is what `death` leaves.
fn all_crashes(disk: &SimDisk, world: &SharedWorld, death: Death, tally: &mut Tally) {
    let changes = disk.unsynced_changes();
    if changes <= ALL_SUBSETS {
        for subset in 0..1u64 << changes {
            look(disk.crash_keeping(|change| subset >> change & 1 == 1), world, Death::Power, tally);
        }
    } else {
        let mut rng = Rng::new(tally.states);
        for _ in 0..SAMPLES {
            let chance = 1 + rng.below(7);
            look(disk.crash_keeping(|_| rng.chance(chance, 8)), world, Death::Power, tally);
        }
    }
    look(disk.kill(&mut Rng::new(tally.states)), world, death, tally);
}

fn look(disk: SimDisk, world: &SharedWorld, death: Death, tally: &mut Tally) {
    if death == Death::Power {
        disk.forget_all();
    }
    let checked = tally.states.is_multiple_of(CHECKED);
    tally.add(Tally::state(checked));
    let world = world.fork();
    drop(block_on(async move { verify::come_up(disk, &world, death, checked).await }));
}

/// Who does the steps of a sequence.
struct Asker {
    pool: Arc<Pool>,
    world: SharedWorld,
    controller: Controller,
    writer: Writer,
}

impl Asker {
    fn new(pool: &Arc<Pool>, world: &SharedWorld) -> Asker {
        // Nothing is left to chance.
        let rng = Rng::new(0);
        Asker {
            pool: Arc::clone(pool),
            world: world.clone(),
            controller: Controller::new(Arc::clone(pool), world.clone(), rng.clone()),
            writer: Writer::new(Arc::clone(pool), world.clone(), 0, rng),
        }
    }

    fn volume(&self, name: &str) -> Option<SharedVolume> {
        self.world.with(|w| w.volumes.get(name).cloned())
    }

    fn snapshot(&self) -> Option<(SharedVolume, Snapshot)> {
        let volume = self.volume("a")?;
        let snapshot = volume.borrow().snapshots.get("s").cloned()?;
        Some((volume, snapshot))
    }

    async fn write(&self, name: &str, place: (u64, u64), fua: bool) {
        self.change(name, place, What::Data, fua).await;
    }

    async fn change(&self, name: &str, place: (u64, u64), what: What, fua: bool) {
        if let Some(volume) = self.volume(name) {
            self.writer.change_at(&volume, place, what, fua).await;
        }
    }

    /// Does a step; one for which something is missing is none.
    async fn ask(&self, step: Step) {
        const BLOCK: u64 = BLOCK_SECTORS;
        match step {
            Step::Write => self.write("a", (0, BLOCK), false).await,
            Step::WriteNext => self.write("a", (BLOCK, BLOCK), false).await,
            Step::WritePart => self.write("a", (3, 2), false).await,
            Step::WriteRun => self.write("a", (0, 3 * BLOCK), false).await,
            // Over the seam of two leaves, to the end.
            Step::WriteEnd => self.write("a", (SIZE / SECTOR - 1 - BLOCK, BLOCK + 1), false).await,
            Step::WriteOther => self.write("b", (0, 2 * BLOCK), false).await,
            Step::WriteThrough => self.write("a", (0, BLOCK), true).await,
            Step::Zero => self.change("a", (4, 2 * BLOCK), What::Zero(ExtentKind::Zero), false).await,
            Step::Trim => self.change("a", (0, BLOCK), What::Zero(ExtentKind::Hole), false).await,
            Step::TrimAll => {
                self.change("a", (0, SIZE / SECTOR), What::Zero(ExtentKind::Hole), false).await;
            }
            Step::Flush => _ = self.writer.flush().await,
            Step::Snapshot => {
                let volumes: Vec<SharedVolume> = self.volume("a").into_iter().collect();
                self.controller.snapshot_of(&volumes, "t".to_owned()).await;
            }
            Step::Group => {
                let volumes: Vec<SharedVolume> =
                    self.volume("a").into_iter().chain(self.volume("b")).collect();
                self.controller.snapshot_of(&volumes, "g".to_owned()).await;
            }
            Step::DropSnapshot => {
                if let Some((volume, _)) = self.snapshot() {
                    self.controller.delete_snapshot_of(&volume, "s").await;
                }
            }
            Step::Clone => {
                if let Some((_, snapshot)) = self.snapshot()
                    && self.volume("c").is_none()
                {
                    self.controller.clone_snapshot("a", ("s", &snapshot), "c", snapshot.size).await;
                }
            }
            Step::WriteClone => self.write("c", (0, 2 * BLOCK), false).await,
            Step::RollBack => {
                if let Some((volume, snapshot)) = self.snapshot() {
                    self.controller.roll_back(Rc::clone(&volume), &volume, ("s", &snapshot)).await;
                }
            }
            Step::Resize => {
                if let Some(volume) = self.volume("a") {
                    let size = volume.borrow().size + (1 << 20);
                    self.controller.resize_to(&volume, size).await;
                }
            }
            Step::Create => {
                if self.volume("d").is_none() {
                    self.controller.create_volume("d", 3 << 30).await;
                }
            }
            Step::Delete => {
                if let Some(volume) = self.volume("b") {
                    self.controller.delete(&volume).await;
                }
            }
            Step::Background => engine::settle(&self.pool).await,
            // It begins with a checkpoint.
            Step::Check => engine::assert_well(&self.pool).await,
            // A batch of two blocks.
            Step::Note => drop(note::write(&self.pool, &self.world, Form::LONG).await),
            Step::Die => unreachable!("nobody lives on to do it"),
        }
    }
}
