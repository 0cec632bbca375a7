//! Many deaths at each of many moments of a life.

use cairn_cow::sim::Rng;

use crate::life::{Life, Size};
use crate::tally::Tally;

/// Lives of a pool at most: it goes on from what a death left.
const LIVES: u64 = 12;
/// Moments of a life at which it is looked what a death would leave.
const MOMENTS: u64 = 8;
/// Deaths looked at in each moment, where that takes little: each leaves another part of what was not flushed.
const DEATHS: u64 = 6;
/// Events between two moments at most, ...
const EVENTS: u64 = 120;
/// ... and from something that was waited for to the next moment.
const SOON: u64 = 30;
/// Events in which the journal goes round, about.
const FLOOD: u64 = 3_000;
/// Batches that are written before anything else, at most: more than the journal takes.
const JOURNAL_BATCHES: u64 = 300;
/// Events before the first moment of a life that is a long one, at most: the journal goes round, and the pool is full.
const YOUTH: u64 = 15_000;

/// Of four pools one has plenty of room, ...
const PLENTY: u64 = 0;
/// ... one grows all the time, and two have hardly any room.
const GROWS: u64 = 1;
/// How patient writers are: see [`Life::be_patient`].
const PATIENCE: [u64; 5] = [0, 0, 1, 20, 20];

/// The life of a seed, and all the deaths that it could have died.
///
/// # Panics
/// With whatever is found wrong.
pub fn sweep(seed: u64) -> Tally {
    let mut rng = Rng::new(seed ^ 0x5eeb);
    let Birth { mut life, size, grows } = birth(seed, &mut rng);
    let deaths = if size == Size::Large { 2 } else { DEATHS };
    let lives = 1 + rng.below(LIVES);
    let mut tally = Tally::default();
    for _ in 0..lives {
        life.be_patient(PATIENCE[rng.index(PATIENCE.len())]);
        life.work();
        if rng.chance(1, 4) {
            life.go_on(rng.below(YOUTH));
        }
        let failing = if rng.chance(1, 5) { rng.below(MOMENTS) } else { MOMENTS };
        for moment in 0..MOMENTS {
            if moment == failing {
                life.let_a_barrier_fail(4 * EVENTS);
            }
            if go_on(&mut life, &mut rng, grows) == Moment::Batch {
                tally.add(life.look_past_a_failed_opening());
            }
            if rng.chance(1, 8) {
                life.look_at_damage();
                tally.damaged += 1;
            }
            for _ in 0..deaths {
                tally.add(life.look_beyond());
            }
            tally.add(life.look_further_beyond());
            if rng.chance(1, 2) {
                tally.add(life.look_inside_a_step(SOON));
            }
        }
        let thorough = rng.chance(1, 4);
        life = life.die_and_come_back(thorough);
        tally.add(Tally::state(thorough));
    }
    tally
}

/// A pool in its youth.
pub(crate) struct Birth {
    pub(crate) life: Life,
    pub(crate) size: Size,
    /// An image is copied in, which makes it grow again and again.
    pub(crate) grows: bool,
}

/// A pool with much room or little, somewhere in its journal.
pub(crate) fn birth(seed: u64, rng: &mut Rng) -> Birth {
    let room = rng.below(4);
    // Some have room for little more than the superblocks, the ring and a handful of segments.
    let limit = match rng.below(3) {
        _ if room == GROWS => 20 << 20,
        0 => (7 << 20) + (rng.below(8) << 18),
        1 => 8 << 20,
        _ => 12 << 20,
    };
    let size = if rng.chance(1, 8) { Size::Large } else { Size::Small };
    let mut life = Life::new(seed, rng.fork(), limit, size);
    if rng.chance(1, 3) {
        life.have_space_zeroed();
    }
    match room {
        PLENTY => {}
        GROWS => life.make_it_grow(),
        _ => life.make_tight(8 + rng.below(100)),
    }
    if rng.chance(1, 2) {
        life.turn_the_journal(rng.below(JOURNAL_BATCHES));
    }
    Birth { life, size, grows: room == GROWS }
}

/// Where a life has come to.
#[derive(PartialEq, Eq)]
enum Moment {
    Any,
    /// Something was just written to the journal.
    Batch,
}

/// To the next moment: any, or one of those at which most is at stake.
fn go_on(life: &mut Life, rng: &mut Rng, grows: bool) -> Moment {
    if rng.chance(1, 24) {
        life.fill_the_journal(FLOOD);
    }
    let mut moment = Moment::Any;
    let events = match rng.below(8) {
        0 if grows => {
            life.go_on_until_it_grows(4 * EVENTS);
            life.go_on_until_it_syncs(SOON);
            SOON / 4
        }
        1 | 2 => {
            life.go_on_until_it_syncs(EVENTS);
            2
        }
        3 if rng.chance(1, 2) => {
            life.go_on_until_a_batch(EVENTS);
            moment = Moment::Batch;
            2
        }
        3 => {
            life.begin_a_checkpoint();
            SOON
        }
        4 => {
            life.begin_a_checkpoint();
            life.go_on_until_a_superblock(4 * EVENTS);
            4
        }
        _ => EVENTS,
    };
    life.go_on(1 + rng.below(events));
    moment
}
