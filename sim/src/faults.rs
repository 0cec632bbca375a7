//! The n-th fault: every I/O and every barrier of a piece of a pool's life fails once, and once more for ever from then on.
//!
//! A [`Chapter`] begins with what a death left: the pool is opened, and writers, the controller and the background duties
//! work on it for some hundred events. That is done once with a healthy disk, to count the operations, and then once for
//! each of them and each [`Kind`] of fault that it can meet, always the same until the fault. After it life goes on for a
//! while. Whatever failed is told, nobody waits for ever, what can be read is right, and what was flushed is there, in
//! the same process and in the next.

use std::ops::Range;
use std::sync::Arc;

use cairn_cow::sim::{Counts, Fault, Join, Op, Rng, Sim, SimDisk, block_on};
use cairn_cow::{ErrorKind, Pool as AnyPool};

use crate::engine::{self, Pool, options};
use crate::life::{self, Left};
use crate::sweep::{Birth, birth};
use crate::tally::Tally;
use crate::verify;
use crate::world::{Death, SharedWorld};

/// Events of the pool's life before the chapter at most, for each of up to three lives.
const YOUTH: u64 = 3_000;
/// Events of a chapter after the opening, at least and at most.
const EVENTS: Range<u64> = 100..800;
/// Events after the fault, at least and at most.
const AFTERWARDS: Range<u64> = 20..500;
/// Events in which the pool is opened, or whoever works on it ends: far more than that ever takes.
const PATIENCE: u64 = 1_000_000;
/// Room of the file system: more than any pool here takes.
const ROOM: u64 = 64 << 20;
const ENOSPC: i32 = 28;
/// A misdirected operation goes so far astray.
const ASTRAY: i64 = 4096;

/// What goes wrong with an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    ReadFailsOnce,
    /// And whatever else reads the same blocks.
    ReadFailsThere,
    ReadFailsForEver,
    ReadFlipsABit,
    ReadGoesAstray,
    /// Part of it is written, here and in all that fail.
    WriteFailsOnce,
    /// And whatever else writes there.
    WriteFailsThere,
    WriteFailsForEver,
    WriteFindsNoSpace,
    WriteFindsNoSpaceForEver,
    /// It is answered as if all were well.
    WriteIsLost,
    WriteGoesAstray,
    SyncFailsOnce,
    SyncFailsForEver,
    SyncFindsNoSpace,
    GrowFailsOnce,
    GrowFailsForEver,
    GrowFindsNoSpace,
    GrowFindsNoSpaceForEver,
}

impl Kind {
    /// All there are.
    pub const ALL: [Kind; 19] = [
        Kind::ReadFailsOnce,
        Kind::ReadFailsThere,
        Kind::ReadFailsForEver,
        Kind::ReadFlipsABit,
        Kind::ReadGoesAstray,
        Kind::WriteFailsOnce,
        Kind::WriteFailsThere,
        Kind::WriteFailsForEver,
        Kind::WriteFindsNoSpace,
        Kind::WriteFindsNoSpaceForEver,
        Kind::WriteIsLost,
        Kind::WriteGoesAstray,
        Kind::SyncFailsOnce,
        Kind::SyncFailsForEver,
        Kind::SyncFindsNoSpace,
        Kind::GrowFailsOnce,
        Kind::GrowFailsForEver,
        Kind::GrowFindsNoSpace,
        Kind::GrowFindsNoSpaceForEver,
    ];

    fn op(self) -> Op {
        match self {
            Kind::ReadFailsOnce
            | Kind::ReadFailsThere
            | Kind::ReadFailsForEver
            | Kind::ReadFlipsABit
            | Kind::ReadGoesAstray => Op::Read,
            Kind::WriteFailsOnce
            | Kind::WriteFailsThere
            | Kind::WriteFailsForEver
            | Kind::WriteFindsNoSpace
            | Kind::WriteFindsNoSpaceForEver
            | Kind::WriteIsLost
            | Kind::WriteGoesAstray => Op::Write,
            Kind::SyncFailsOnce | Kind::SyncFailsForEver | Kind::SyncFindsNoSpace => Op::Sync,
            Kind::GrowFailsOnce
            | Kind::GrowFailsForEver
            | Kind::GrowFindsNoSpace
            | Kind::GrowFindsNoSpaceForEver => Op::Grow,
        }
    }

    fn fault(self) -> Fault {
        let fault = Fault::on(self.op());
        match self {
            Kind::ReadFailsOnce | Kind::WriteFailsOnce | Kind::SyncFailsOnce | Kind::GrowFailsOnce => {
                fault.once()
            }
            Kind::ReadFailsThere | Kind::WriteFailsThere => fault.stays(),
            Kind::ReadFailsForEver
            | Kind::WriteFailsForEver
            | Kind::SyncFailsForEver
            | Kind::GrowFailsForEver => fault,
            Kind::ReadFlipsABit => fault.once().flip(),
            Kind::ReadGoesAstray | Kind::WriteGoesAstray => fault.once().misdirect(ASTRAY),
            Kind::WriteFindsNoSpace | Kind::SyncFindsNoSpace | Kind::GrowFindsNoSpace => {
                fault.once().error(ENOSPC)
            }
            Kind::WriteFindsNoSpaceForEver | Kind::GrowFindsNoSpaceForEver => fault.error(ENOSPC),
            Kind::WriteIsLost => fault.once().lose(),
        }
    }

    /// What the pool may answer because of it. What fails to be read never fences the pool.
    fn excuses(self) -> &'static [ErrorKind] {
        match self {
            Kind::ReadFailsOnce | Kind::ReadFailsThere | Kind::ReadFailsForEver => &[ErrorKind::Io],
            Kind::ReadFlipsABit => &[ErrorKind::Corrupt],
            // The place may lie behind the end.
            Kind::ReadGoesAstray => &[ErrorKind::Corrupt, ErrorKind::Io],
            Kind::WriteFindsNoSpace | Kind::WriteFindsNoSpaceForEver | Kind::SyncFindsNoSpace => {
                &[ErrorKind::NoSpace, ErrorKind::Fenced]
            }
            Kind::GrowFailsOnce | Kind::GrowFailsForEver => &[ErrorKind::Io],
            Kind::GrowFindsNoSpace | Kind::GrowFindsNoSpaceForEver => &[ErrorKind::NoSpace],
            Kind::WriteIsLost | Kind::WriteGoesAstray => {
                &[ErrorKind::Corrupt, ErrorKind::Io, ErrorKind::Fenced]
            }
            _ => &[ErrorKind::Io, ErrorKind::Fenced],
        }
    }

    /// Whether nobody is told: then what was written may be gone, as long as nothing else takes its place.
    fn lies(self) -> bool {
        matches!(self, Kind::WriteIsLost | Kind::WriteGoesAstray)
    }

    /// Whether it may be the opening that meets it. A batch that is read with a wrong bit is like one that was never
    /// written whole.
    fn also_in_the_opening(self) -> bool {
        !self.lies() && !matches!(self, Kind::ReadFlipsABit | Kind::ReadGoesAstray)
    }
}

/// How often each kind of operation was done.
#[derive(Clone, Copy, Default)]
struct Operations {
    reads: u64,
    writes: u64,
    syncs: u64,
    grows: u64,
}

impl Operations {
    fn since(now: Counts, before: Counts) -> Operations {
        Operations {
            reads: now.reads - before.reads,
            writes: now.writes - before.writes,
            syncs: now.syncs - before.syncs,
            grows: now.grows - before.grows,
        }
    }

    fn of(self, op: Op) -> u64 {
        match op {
            Op::Read => self.reads,
            Op::Write => self.writes,
            Op::Sync => self.syncs,
            Op::Grow => self.grows,
        }
    }
}

/// A piece of a pool's life, and how many operations of the disk it takes.
pub struct Chapter {
    seed: u64,
    /// What was there at its beginning.
    left: Left,
    events: u64,
    /// What the opening takes, ...
    opening: Operations,
    /// ... and the work after it.
    work: Operations,
}

/// An operation, and what goes wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// What goes wrong.
    pub kind: Kind,
    /// With which operation of its kind.
    pub n: u64,
}

impl Chapter {
    /// The chapter of a seed.
    ///
    /// # Panics
    /// With whatever is found wrong in the life before it, or in it while the disk is healthy.
    pub fn new(seed: u64) -> Chapter {
        let mut rng = Rng::new(seed ^ 0xfa17);
        let Birth { mut life, .. } = birth(seed, &mut rng);
        if !life.is_tight() && rng.chance(1, 2) {
            life.make_tight_for_now(24 + rng.below(100));
        }
        for _ in 0..rng.below(3) {
            life.be_patient(if rng.chance(1, 3) { 20 } else { 1 });
            life.work();
            life.go_on(rng.below(YOUTH));
            life = life.die_and_come_back(false);
        }
        life.work();
        life.go_on(rng.below(YOUTH));
        let mut left = life.leave();
        if rng.chance(1, 4) {
            left = left.closed();
        }
        // Whoever had to do without room grows now.
        left.disk.set_room(ROOM);
        let events = rng.below(EVENTS.end - EVENTS.start) + EVENTS.start;
        let none = Operations::default();
        let mut chapter = Chapter { seed, left, events, opening: none, work: none };
        let Ok(run) = Run::open(&chapter, None) else { panic!("a healthy disk") };
        let before = run.disk.counts();
        run.live(chapter.events);
        chapter.opening = run.opening;
        chapter.work = Operations::since(run.disk.counts(), before);
        chapter
    }

    fn counted(&self, kind: Kind) -> u64 {
        let opening = if kind.also_in_the_opening() { self.opening } else { Operations::default() };
        opening.of(kind.op()) + self.work.of(kind.op())
    }

    /// How many points there are.
    pub fn points(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.counted(*kind)).sum()
    }

    /// The numbers of all points, in an order in which any few of them are of all kinds and from all over the chapter.
    pub fn scattered(&self) -> impl Iterator<Item = u64> {
        let points = self.points();
        // The golden section, and then the next number that shares no factor with theirs.
        let near = points * 618 / 1000;
        let step = (near.max(1)..).find(|step| gcd(*step, points) == 1).unwrap_or(1);
        (0..points).map(move |i| i * step % points)
    }

    /// The point with this number, below [`Chapter::points`].
    ///
    /// # Panics
    /// When there is none.
    pub fn point(&self, number: u64) -> Point {
        let mut n = number;
        for kind in Kind::ALL {
            let count = self.counted(kind);
            if n < count {
                return Point { kind, n };
            }
            n -= count;
        }
        panic!("there are only {} points", self.points())
    }

    /// Lives the chapter with the fault of a point in it, and on after it.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn run(&self, point: Point) -> Tally {
        let mut rng = Rng::new(self.seed ^ point.n ^ (point.kind as u64) << 32);
        let run = match Run::open(self, Some(point)) {
            Ok(run) => run,
            Err(disk) => return self.open_again(&disk, point.kind, &mut rng),
        };
        run.go_wrong(self.events, &mut rng)
    }

    /// Opening has failed, and told so: the disk works again, and so does opening.
    fn open_again(&self, disk: &SimDisk, kind: Kind, rng: &mut Rng) -> Tally {
        let (disk, death) = match rng.chance(1, 2) {
            true => (disk.crash(rng), Death::Power),
            false if kind.op() == Op::Sync => (disk.kill(rng), Death::Failure),
            false => (disk.kill(rng), self.left.death),
        };
        let world = self.left.world.fork();
        drop(block_on(async move { verify::come_up(disk, &world, death, true).await }));
        Tally::state(true)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A chapter that is lived.
struct Run {
    disk: SimDisk,
    sim: Sim,
    pool: Arc<Pool>,
    world: SharedWorld,
    /// What goes wrong with the disk.
    kind: Option<Kind>,
    opening: Operations,
    at_work: Vec<Join<()>>,
}

impl Run {
    /// Opens the pool and sets everybody to work; the disk when opening fails because of it.
    fn open(chapter: &Chapter, point: Option<Point>) -> Result<Run, SimDisk> {
        let Left { disk, world, death } = &chapter.left;
        // The same once more.
        let (disk, world, death) = (disk.kill(&mut Rng::new(0)), world.fork(), *death);
        let sim = engine::world(chapter.seed, &disk);
        let kind = point.map(|point| point.kind);
        let inject = |early| {
            for Point { kind, n } in point.into_iter().filter(|p| p.kind.also_in_the_opening() == early) {
                disk.inject(kind.fault().after(n));
            }
        };
        inject(true);
        let opened = sim.run_for(PATIENCE, AnyPool::open(disk.clone(), options()));
        let pool = match opened.expect("opening ends") {
            Ok(pool) => pool,
            Err(e) => {
                let told = kind.is_some_and(|kind| kind.excuses().contains(&e.kind()));
                assert!(disk.faults_hit() > 0 && told, "opening: {e:?}");
                sim.stop();
                return Err(disk);
            }
        };
        let opening = Operations::since(disk.counts(), Counts::default());
        disk.without_faults(|| {
            let (pool, world) = (Arc::clone(&pool), world.clone());
            sim.run(async move { verify::verify(&pool, &world, death).await.go_on(&world) });
        });
        inject(false);
        world.with(|w| w.excuses = kind.map_or(&[], Kind::excuses));
        let at_work = life::set_to_work(&sim, &pool, &world, &mut Rng::new(chapter.seed));
        Ok(Run { disk, sim, pool, world, kind, opening, at_work })
    }

    fn live(&self, events: u64) {
        assert!(self.sim.run_events(events), "everything stands still");
    }

    /// Lives until the fault and on after it, and sees that all is well.
    fn go_wrong(mut self, events: u64, rng: &mut Rng) -> Tally {
        for _ in 0..events {
            if self.disk.faults_hit() > 0 {
                break;
            }
            self.live(1);
        }
        assert!(self.disk.faults_hit() > 0, "the fault is met where it was before");
        let mut tally = Tally::default();
        let afterwards = AFTERWARDS.start + rng.below(AFTERWARDS.end - AFTERWARDS.start);
        let look = rng.below(afterwards);
        self.live(look);
        tally.add(self.look(rng, false));
        self.live(afterwards - look);
        self.come_to_an_end();
        self.disk.clear_faults();
        if !self.lies() {
            self.all_is_well();
        }
        tally.add(self.look(rng, true));
        tally
    }

    fn lies(&self) -> bool {
        self.kind.is_some_and(Kind::lies)
    }

    /// Whoever works on the pool ends what is under way, and begins nothing more: no request waits for ever.
    fn come_to_an_end(&mut self) {
        self.world.with(|w| w.over = true);
        for _ in 0..PATIENCE {
            self.at_work.retain(|join| join.take().is_none());
            if self.at_work.is_empty() {
                return;
            }
            self.live(1);
        }
        panic!("{} tasks never end", self.at_work.len());
    }

    /// The disk works again. The process goes on as if nothing had been, or shows all there is and takes nothing more.
    fn all_is_well(&self) {
        let (pool, world) = (Arc::clone(&self.pool), self.world.clone());
        let may_fence = self.kind.is_some_and(|kind| kind.excuses().contains(&ErrorKind::Fenced));
        let fenced = engine::is_fenced(&pool);
        assert!(may_fence || !fenced, "the pool is fenced: {:?}", pool.status().fenced);
        self.sim.run(async move {
            if !fenced {
                pool.flush().await.unwrap_or_else(|e| panic!("flushing: {e:?}"));
                let flushed = world.with(|w| w.tick());
                world.with(|w| w.flushed = flushed);
                verify::reconcile(&pool, &world, true);
                engine::settle(&pool).await;
                engine::assert_sound(&pool, "after a fault").await;
            }
            verify::compare(&pool, &world).await;
        });
    }

    /// What the next process would find.
    fn look(&self, rng: &mut Rng, thorough: bool) -> Tally {
        let failed = life::barrier_failed(&self.sim, &self.disk, &self.pool);
        if !self.lies() {
            return life::look(rng, &self.disk, &self.world, failed, thorough);
        }
        let (disk, _) = life::die(rng, &self.disk, 4, failed);
        let world = self.world.fork();
        block_on(async move {
            match AnyPool::open(disk, options()).await {
                Ok(pool) => {
                    verify::never_wrong(&pool, &world).await;
                    // It may tell of much, or fail.
                    let _ = pool.check(thorough).await;
                }
                Err(e) => {
                    let clear = [ErrorKind::Corrupt, ErrorKind::NotAPool, ErrorKind::Truncated];
                    assert!(clear.contains(&e.kind()), "opening what a disk that lies has left: {e:?}");
                }
            }
        });
        Tally::state(thorough)
    }
}
