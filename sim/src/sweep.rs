//! Many deaths at each of many moments of a life.

use cairn_cow::sim::Rng;

use crate::life::{Life, Size};

/// Moments of a life at which it is looked what a death would leave.
const MOMENTS: u64 = 48;
/// Deaths looked at in each moment, where that takes little: each leaves another part of what was not flushed.
const DEATHS: u64 = 8;
/// Events between two moments at most.
const EVENTS: u64 = 120;

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Crash states: an image that a death left, opened and compared with the oracle.
    pub states: u64,
    /// Deaths in the midst of an opening, which are in `states` only as far as the pool came up at last.
    pub nested: u64,
    /// Crash states of which every block was accounted for as well.
    pub checked: u64,
}

impl Tally {
    /// Adds another one's counts.
    pub fn add(&mut self, other: Tally) {
        self.states += other.states;
        self.nested += other.nested;
        self.checked += other.checked;
    }
}

/// The life of a seed, and all the deaths that it could have died.
///
/// # Panics
/// With whatever is found wrong.
pub fn sweep(seed: u64) -> Tally {
    let mut rng = Rng::new(seed ^ 0x5eeb);
    // Some have room for little more than the superblocks, the ring and a handful of segments.
    let limit = match rng.below(3) {
        0 => (7 << 20) + (rng.below(8) << 18),
        1 => 8 << 20,
        _ => 12 << 20,
    };
    let lives = 1 + rng.below(3);
    let mut tally = Tally::default();
    let (size, deaths) = if rng.chance(1, 8) { (Size::Large, 2) } else { (Size::Small, DEATHS) };
    let mut life = Life::new(seed, rng.fork(), limit, size);
    for _ in 0..lives {
        life.work();
        for _ in 0..MOMENTS {
            life.go_on(1 + rng.below(EVENTS));
            for _ in 0..deaths {
                let look = life.look_beyond();
                tally.add(Tally { states: 1, nested: look.nested, checked: u64::from(look.checked) });
            }
        }
        life = life.die_and_come_back();
        tally.add(Tally { states: 1, nested: 0, checked: 1 });
    }
    tally
}
