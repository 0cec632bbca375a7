//! A pool that lives, dies and comes back.

use std::sync::Arc;

use cairn_cow::sim::{Rng, Sim, SimDisk, block_on};
use cairn_cow::{Holder, Pool as AnyPool};

use crate::engine::{self, Pool, create, maintain_forever, options};
use crate::tally::Tally;
use crate::world::{Death, Scale, SharedWorld};
use crate::{ballast, controller, damage, verify, writer};

/// Writers at work at once.
const WRITERS: usize = 3;
/// Events of an opening before which another death may come.
const OPENING_EVENTS: u64 = 200;
/// Deaths on the way back at most.
const DEATHS_ON_THE_WAY: u64 = 3;

/// How much there is in a pool at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// Two volumes, two or three snapshots: looked at in no time.
    Small,
    /// Four volumes, ten snapshots.
    Large,
}

/// A pool in its world, with all that was ever asked of it.
pub struct Life {
    seed: u64,
    rng: Rng,
    disk: SimDisk,
    sim: Sim,
    pool: Arc<Pool>,
    world: SharedWorld,
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
        let pool =
            sim.run(create(disk.clone(), limit)).unwrap_or_else(|e| panic!("creating the pool: {e:?}"));
        let rng = rng.fork();
        let scale = match size {
            Size::Small => Scale::SMALL,
            Size::Large => Scale::LARGE,
        };
        Life { seed, rng, disk, sim, pool, world: SharedWorld::new(scale), digest: 0 }
    }

    /// Fills the pool until it has room for about `slack` blocks, so that what is freed is used again at once.
    ///
    /// # Panics
    /// When the pool fails.
    pub fn make_tight(&mut self, slack: u64) {
        let (pool, world) = (Arc::clone(&self.pool), self.world.clone());
        self.sim.run(async move { ballast::fill(&pool, &world, slack).await });
    }

    /// Makes the journal go on by so many batches, so that its end comes at another time in each life.
    ///
    /// # Panics
    /// When the pool fails.
    pub fn turn_the_journal(&mut self, batches: u64) {
        let pool = Arc::clone(&self.pool);
        self.sim.run(async move {
            for batch in 0..batches {
                let change = [("batch", Some(batch.to_string()))];
                let change = change.each_ref().map(|(key, value)| (*key, value.as_deref()));
                let changed = pool.set_attributes(Holder::Pool, &change).await;
                changed.unwrap_or_else(|e| panic!("changing an attribute: {e:?}"));
                pool.flush().await.unwrap_or_else(|e| panic!("flushing: {e:?}"));
            }
        });
    }

    /// Writers flush as often as their users would, or hardly ever.
    pub fn be_patient(&mut self, patience: u64) {
        self.world.with(|w| w.patience = patience);
    }

    /// Writers, a controller and the background duties set to work.
    pub fn work(&mut self) {
        let handle = self.sim.handle();
        maintain_forever(&handle, &self.pool, self.rng.fork(), true);
        for lane in 0..WRITERS {
            drop(self.sim.spawn(writer::write_forever(
                handle.clone(),
                Arc::clone(&self.pool),
                self.world.clone(),
                lane % 2,
                self.rng.fork(),
            )));
        }
        let (pool, world, rng) = (Arc::clone(&self.pool), self.world.clone(), self.rng.fork());
        drop(self.sim.spawn(controller::control_forever(handle, pool, world, rng)));
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
        let before = self.disk.counts().grows;
        for _ in 0..events {
            if self.disk.counts().grows > before {
                return;
            }
            self.go_on(1);
        }
    }

    /// Dies, perhaps again on the way back, and comes back: everything that must be there is, and nothing else. With
    /// `thorough`, the pool is then tidied up and all of it checked, which hides what is only half repaired.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn die_and_come_back(self, thorough: bool) -> Life {
        let digest = self.digest.rotate_left(9) ^ self.sim.trace();
        self.sim.stop();
        drop(self.pool);
        let mut rng = self.rng;
        let (mut disk, mut death) = die(&mut rng, &self.disk, 2);
        deaths_on_the_way(&mut rng, &mut disk, &mut death);
        let sim = engine::world(rng.next_u64(), &disk);
        let (left, world) = (disk.clone(), self.world.clone());
        let pool = sim.run(async move { verify::come_up(left, &world, death, thorough).await });
        Life { seed: self.seed, rng, disk, sim, pool, world: self.world, digest }
    }

    /// What would be there if the pool died now: the life itself goes on.
    ///
    /// # Panics
    /// With whatever is found wrong.
    pub fn look_beyond(&mut self) -> Tally {
        let rng = &mut self.rng;
        let (mut disk, mut death) = die(rng, &self.disk, 4);
        let nested = if rng.chance(1, 8) { deaths_on_the_way(rng, &mut disk, &mut death) } else { 0 };
        if death == Death::Power && rng.chance(7, 8) {
            // It is empty: setting it up takes longer than all the rest.
            disk.forget_all();
        }
        let thorough = rng.chance(1, 32);
        let world = self.world.fork();
        drop(block_on(async move { verify::come_up(disk, &world, death, thorough).await }));
        Tally { nested, ..Tally::state(thorough) }
    }

    /// What would be read if the pool were stopped now, and its disk then changed behind its back.
    ///
    /// # Panics
    /// When anything wrong is served.
    pub fn look_at_damage(&mut self) {
        let (disk, _) = die(&mut self.rng, &self.disk, 2);
        damage::look(disk, &mut self.rng);
    }

    /// A digest of every choice made so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// One death in so many is that of the process alone.
fn die(rng: &mut Rng, disk: &SimDisk, kills: u64) -> (SimDisk, Death) {
    if rng.chance(1, kills) { (disk.kill(rng), Death::Process) } else { (disk.crash(rng), Death::Power) }
}

/// Opens the pool up to three times, each time to die before it is done; how many deaths that were.
fn deaths_on_the_way(rng: &mut Rng, disk: &mut SimDisk, death: &mut Death) -> u64 {
    for deaths in 0..DEATHS_ON_THE_WAY {
        if rng.chance(1, 2) {
            return deaths;
        }
        let sim = engine::world(rng.next_u64(), disk);
        let opened = sim.run_for(rng.below(OPENING_EVENTS), AnyPool::open(disk.clone(), options()));
        if let Some(Err(e)) = opened {
            panic!("reopening: {e:?}");
        }
        drop((opened, sim));
        let again;
        (*disk, again) = die(rng, disk, 2);
        if again == Death::Power {
            *death = again;
        }
    }
    DEATHS_ON_THE_WAY
}
