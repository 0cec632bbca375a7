//! The whole engine under a crash at any moment: several writers, control operations and the background duties run
//! over the simulated disk; the power fails or the process dies; what comes up again is compared with the oracle.

#[path = "../common/mod.rs"]
mod common;
mod controller;
mod verify;
mod world;
mod writer;

use std::sync::Arc;

use cairn_cow::ErrorKind;
use cairn_cow::sim::{Rng, Sim, SimDisk, for_each_seed};

use common::engine::{Pool, create, maintain_forever, options, world as sim_world};
use world::{Death, SharedWorld};

/// Seeds of a default run; see `cairn_cow::sim::for_each_seed` for the environment that changes it.
const ROUNDS: u64 = 60;

#[test]
fn what_was_flushed_survives_any_crash() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed ^ 0xc4a5);
        let limit = [8 << 20, 10 << 20, 16 << 20][rng.index(3)];
        let deaths = 1 + rng.below(4);
        life(seed, &mut rng, limit, deaths, 20_000);
    });
}

#[test]
fn many_short_lives_lose_nothing() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed ^ 0x5407);
        life(seed, &mut rng, 8 << 20, 12, 1_500);
    });
}

#[test]
fn a_pool_that_is_nearly_full_survives_any_crash() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed ^ 0xf011);
        // Room for little more than the superblocks, the ring and a handful of segments.
        let limit = (7 << 20) + (rng.below(8) << 18);
        life(seed, &mut rng, limit, 10, 3_000);
    });
}

#[test]
fn a_pool_whose_creation_was_cut_off_is_none_or_whole() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::file(64 << 20);
        let sim = sim_world(seed, &disk);
        let events = rng.below(60);
        let created = sim.run_for(events, create(disk.clone(), 8 << 20));
        let answered = created.is_some();
        drop((created, sim));
        let disk = disk.crash(&mut rng);
        let sim = sim_world(seed, &disk);
        match sim.run(Pool::open(disk.clone(), options())) {
            Ok(pool) => sim.run(async move { common::engine::assert_sound(&pool, "after creation").await }),
            Err(e) => {
                assert!(!answered, "the pool was created, yet: {e:?}");
                let clear = [ErrorKind::NotAPool, ErrorKind::Truncated, ErrorKind::Corrupt];
                assert!(clear.contains(&e.kind()), "{e:?}");
            }
        }
    });
}

#[test]
fn one_seed_is_one_story() {
    // The whole point of seeds. Nothing in the engine may depend on the clock, on addresses or on hashes' order.
    let story = |seed| {
        let mut rng = Rng::new(seed);
        life(seed, &mut rng, 8 << 20, 2, 3_000)
    };
    for_each_seed(3, |seed| assert_eq!(story(seed), story(seed)));
}

/// Creates a pool and lets it live, die and come back `deaths` times, each time after fewer than `events` events.
/// Returns a digest of all that happened.
fn life(seed: u64, rng: &mut Rng, limit: u64, deaths: u64, events: u64) -> u64 {
    let mut disk = SimDisk::file(2 * limit);
    let mut sim = sim_world(seed, &disk);
    let mut pool =
        sim.run(create(disk.clone(), limit)).unwrap_or_else(|e| panic!("creating the pool: {e:?}"));
    let world = SharedWorld::new();
    let mut digest = 0u64;
    for _ in 0..deaths {
        let handle = sim.handle();
        maintain_forever(&handle, &pool, rng.fork(), true);
        for lane in 0..3 {
            drop(sim.spawn(writer::write_forever(
                handle.clone(),
                Arc::clone(&pool),
                world.clone(),
                lane % 2,
                rng.fork(),
            )));
        }
        drop(sim.spawn(controller::control_forever(handle, Arc::clone(&pool), world.clone(), rng.fork())));
        assert!(sim.run_events(rng.below(events)), "everything stands still (seed {seed})");
        digest = digest.rotate_left(9) ^ sim.trace();
        sim.stop();
        drop(pool);
        let mut death;
        (disk, death) = die(rng, &disk);
        (sim, pool) = come_back(rng, &mut disk, &mut death);
        let (pool_inside, world_inside) = (Arc::clone(&pool), world.clone());
        sim.run(async move {
            verify::verify(&pool_inside, &world_inside, death).await;
            common::engine::settle(&pool_inside).await;
            common::engine::assert_sound(&pool_inside, "after recovery").await;
        });
    }
    digest
}

fn die(rng: &mut Rng, disk: &SimDisk) -> (SimDisk, Death) {
    if rng.chance(1, 2) { (disk.kill(rng), Death::Process) } else { (disk.crash(rng), Death::Power) }
}

/// Opens the pool, with up to three more deaths on the way.
fn come_back(rng: &mut Rng, disk: &mut SimDisk, death: &mut Death) -> (Sim, Arc<Pool>) {
    for _ in 0..3 {
        if rng.chance(1, 2) {
            break;
        }
        let sim = sim_world(rng.next_u64(), disk);
        let opened = sim.run_for(rng.below(200), Pool::open(disk.clone(), options()));
        if let Some(Err(e)) = opened {
            panic!("reopening: {e:?}");
        }
        drop((opened, sim));
        let again;
        (*disk, again) = die(rng, disk);
        if again == Death::Power {
            *death = again;
        }
    }
    let sim = sim_world(rng.next_u64(), disk);
    let pool = sim.run(Pool::open(disk.clone(), options())).unwrap_or_else(|e| panic!("reopening: {e:?}"));
    (sim, pool)
}
