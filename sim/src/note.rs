//! A number on the pool itself, written into attributes of any length: records that take several blocks of the journal.

use std::sync::Arc;

use cairn_cow::sim::{Handle, Rng, SimDisk};
use cairn_cow::{BLOCK_SIZE, ErrorKind, Holder};

use crate::engine::{JOURNAL, Pool};
use crate::world::SharedWorld;

/// Attributes that it may take.
const KEYS: [&str; 3] = ["note.0", "note.1", "note.2"];
/// Digits of one at most.
const DIGITS: u64 = 4000;

/// How many attributes a note takes, and how long each is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    keys: usize,
    digits: usize,
}

impl Form {
    /// A batch of one block.
    pub(crate) const SHORT: Form = Form { keys: 1, digits: 20 };
    /// One of two.
    pub(crate) const LONG: Form = Form { keys: 2, digits: 3000 };

    /// One of as many blocks as a note can take.
    const LONGEST: Form = Form { keys: KEYS.len(), digits: DIGITS as usize };

    pub(crate) fn any(rng: &mut Rng) -> Form {
        let digits = if rng.chance(1, 4) { 20 } else { 20 + rng.below(DIGITS - 20) };
        Form { keys: 1 + rng.index(KEYS.len()), digits: digits as usize }
    }
}

/// Writes one note after the other until the world ends, long ones without a pause as long as there is a [`World::burst`].
///
/// [`World::burst`]: crate::world::World::burst
pub(crate) async fn write_forever(handle: Handle, pool: Arc<Pool>, world: SharedWorld, mut rng: Rng) {
    while !world.with(|w| w.over) {
        let in_burst = world.with(|w| {
            let left = w.burst;
            w.burst = left.saturating_sub(1);
            left > 0
        });
        let form = if in_burst { Form::LONGEST } else { Form::any(&mut rng) };
        if !write(&pool, &world, form).await {
            return;
        }
        if !in_burst {
            handle.sleep(rng.below(200)).await;
        }
    }
}

/// Writes the next number, where there is room for it. False when the disk has failed: whether that one is there nobody knows,
/// and there must not be two of them.
///
/// # Panics
/// When the pool fails.
pub(crate) async fn write(pool: &Pool, world: &SharedWorld, Form { keys, digits }: Form) -> bool {
    let number = world.with(|w| {
        w.note.1 += 1;
        w.note.1
    });
    // The last digit says how many there are.
    let text = format!("{number:0digits$}{keys}");
    let mut at = 0;
    let changes = KEYS.map(|key| {
        at += 1;
        (key, (at <= keys).then_some(text.as_str()))
    });
    match pool.set_attributes(Holder::Pool, &changes).await {
        Ok(()) => world.with(|w| w.note.0 = number),
        Err(e) if e.kind() == ErrorKind::NoSpace => {}
        Err(e) => {
            assert!(world.with(|w| w.excuses(&e)), "writing a note: {e:?}");
            return false;
        }
    }
    true
}

/// How many blocks the journal has left before it begins anew, where the last thing written was a batch.
pub(crate) fn journal_left(disk: &SimDisk) -> Option<u64> {
    let end = disk.last_written().end;
    (JOURNAL.start..=JOURNAL.end).contains(&end).then(|| (JOURNAL.end - end) / BLOCK_SIZE)
}

/// After a death, the pool's note is whole, and of the last number that was answered or of the one that was not.
///
/// # Panics
/// When it is not.
pub(crate) fn assert_there(pool: &Pool, world: &SharedWorld) {
    let attributes = pool.attributes(Holder::Pool).unwrap_or_else(|e| panic!("reading attributes: {e:?}"));
    let numbers: Vec<u64> = attributes
        .iter()
        .filter(|(key, _)| KEYS.contains(key))
        .map(|(_, text)| text.parse().unwrap_or_else(|e| panic!("the pool's note is no number: {e}")))
        .collect();
    let (number, keys) = numbers.first().map_or((0, 0), |first| (first / 10, first % 10));
    let whole = numbers.len() as u64 == keys && numbers.iter().all(|other| *other == numbers[0]);
    assert!(whole, "a note is written as a whole: {attributes:?}");
    let (answered, asked) = world.with(|w| w.note);
    assert!(number == answered || number == asked, "the pool's note is {number}, not {answered} or {asked}");
    world.with(|w| w.note = (number, number));
}
