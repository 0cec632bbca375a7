//! Many deaths at each of many moments of a life.

use cairn_cow::sim::Rng;

use crate::life::{Life, Size};
use crate::tally::Tally;

/// Lives of a pool at most: it goes on from what a death left.
const LIVES: u64 = 12;
/// Moments of a life at which it is looked what a death would leave.
const MOMENTS: u64 = 8;
/// Deaths looked at in each moment, where that takes little: each leaves another part of what was not flushed.
const DEATHS: u64 = 8;
/// Events between two moments at most.
const EVENTS: u64 = 120;
/// Blocks of the journal: after so many batches it begins anew.
const JOURNAL_BATCHES: u64 = 256;
/// Events before the first moment of a life that is a long one, at most: the journal goes round, and the pool is full.
const YOUTH: u64 = 15_000;

/// The life of a seed, and all the deaths that it could have died.
///
/// # Panics
/// With whatever is found wrong.
pub fn sweep(seed: u64) -> Tally {
    let mut rng = Rng::new(seed ^ 0x5eeb);
    let (mut life, size) = birth(seed, &mut rng);
    let deaths = if size == Size::Large { 2 } else { DEATHS };
    let lives = 1 + rng.below(LIVES);
    let mut tally = Tally::default();
    for _ in 0..lives {
        life.be_patient(if rng.chance(1, 3) { 20 } else { 1 });
        life.work();
        if rng.chance(1, 4) {
            life.go_on(rng.below(YOUTH));
        }
        let failing = if rng.chance(1, 5) { rng.below(MOMENTS) } else { MOMENTS };
        for moment in 0..MOMENTS {
            if moment == failing {
                life.let_a_barrier_fail(4 * EVENTS);
            }
            if rng.chance(1, 8) {
                life.go_on_until_it_grows(4 * EVENTS);
            }
            life.go_on(1 + rng.below(EVENTS));
            if rng.chance(1, 6) {
                life.look_at_damage();
                tally.damaged += 1;
            }
            for _ in 0..deaths {
                tally.add(life.look_beyond());
            }
        }
        let thorough = rng.chance(1, 4);
        life = life.die_and_come_back(thorough);
        tally.add(Tally::state(thorough));
    }
    tally
}

/// A pool with much room or little, somewhere in its journal.
pub(crate) fn birth(seed: u64, rng: &mut Rng) -> (Life, Size) {
    // Some have room for little more than the superblocks, the ring and a handful of segments.
    let limit = match rng.below(3) {
        0 => (7 << 20) + (rng.below(8) << 18),
        1 => 8 << 20,
        _ => 12 << 20,
    };
    let size = if rng.chance(1, 8) { Size::Large } else { Size::Small };
    let mut life = Life::new(seed, rng.fork(), limit, size);
    life.turn_the_journal(rng.below(JOURNAL_BATCHES));
    if rng.chance(1, 2) {
        life.make_tight(24 + rng.below(100));
    }
    (life, size)
}
