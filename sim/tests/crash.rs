//! The whole engine under a crash at any moment: several writers, control operations and the background duties run
//! over the simulated disk; the power fails or the process dies; what comes up again is compared with the oracle.

use cairn_cow::sim::{Rng, SimDisk, for_each_seed};
use cairn_cow::{ErrorKind, Pool};

use cairn_sim::engine::{self, create, options};
use cairn_sim::life::{Life, Size};
use cairn_sim::sweep::sweep;

/// Lives of a default run that are looked at from many moments.
const SWEEPS: u64 = 12;

/// Seeds of a default run; see `cairn_cow::sim::for_each_seed` for the environment that changes it.
const ROUNDS: u64 = 60;

#[test]
fn what_was_flushed_survives_any_crash() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed ^ 0xc4a5);
        let limit = [8 << 20, 10 << 20, 16 << 20][rng.index(3)];
        let deaths = 1 + rng.below(4);
        live(seed, &mut rng, limit, deaths, 20_000);
    });
}

#[test]
fn many_short_lives_lose_nothing() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed ^ 0x5407);
        live(seed, &mut rng, 8 << 20, 12, 1_500);
    });
}

#[test]
fn a_pool_that_is_nearly_full_survives_any_crash() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed ^ 0xf011);
        // Room for little more than the superblocks, the ring and a handful of segments.
        let limit = (7 << 20) + (rng.below(8) << 18);
        live(seed, &mut rng, limit, 10, 3_000);
    });
}

#[test]
fn a_pool_whose_creation_was_cut_off_is_none_or_whole() {
    for_each_seed(ROUNDS, |seed| {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::file(64 << 20);
        let sim = engine::world(seed, &disk);
        let events = rng.below(60);
        let created = sim.run_for(events, create(disk.clone(), 8 << 20));
        let answered = created.is_some();
        drop((created, sim));
        let disk = disk.crash(&mut rng);
        let sim = engine::world(seed, &disk);
        match sim.run(Pool::open(disk.clone(), options())) {
            Ok(pool) => sim.run(async move { engine::assert_sound(&pool, "after creation").await }),
            Err(e) => {
                assert!(!answered, "the pool was created, yet: {e:?}");
                let clear = [ErrorKind::NotAPool, ErrorKind::Truncated, ErrorKind::Corrupt];
                assert!(clear.contains(&e.kind()), "{e:?}");
            }
        }
    });
}

#[test]
fn whatever_a_death_leaves_is_sound_at_many_moments_of_a_life() {
    for_each_seed(SWEEPS, |seed| assert!(sweep(seed).states > 15));
}

#[test]
fn one_seed_is_one_story() {
    // The whole point of seeds. Nothing in the engine may depend on the clock, on addresses or on hashes' order.
    let story = |seed| {
        let mut rng = Rng::new(seed);
        live(seed, &mut rng, 8 << 20, 2, 3_000)
    };
    for_each_seed(3, |seed| assert_eq!(story(seed), story(seed)));
}

/// Creates a pool and lets it live, die and come back `deaths` times, each time after fewer than `events` events.
/// Returns a digest of all that happened.
fn live(seed: u64, rng: &mut Rng, limit: u64, deaths: u64, events: u64) -> u64 {
    let mut life = Life::new(seed, rng.fork(), limit, Size::Large);
    for _ in 0..deaths {
        life.work();
        life.go_on(rng.below(events));
        life = life.die_and_come_back(true);
    }
    life.digest()
}
