//! Whether a client that flushes after every so many writes is about to do so.
//!
//! A database writes and flushes in turn. Once that is seen, the commit begins when the write is answered rather than
//! when the flush has come: the time that the reply and the flush take on their way is won. A wrong guess costs one
//! commit that nobody asked for, and the next one needs a new habit first.

use std::cell::Cell;

/// Equal rounds of writes and a flush that make a habit.
const ROUNDS: u32 = 4;
/// Writes of a round at most: behind more of them the time on the way is nothing.
const MOST_WRITES: u32 = 8;

/// What one connection did lately.
#[derive(Default)]
pub(crate) struct FlushHabit {
    /// Writes answered since the last flush.
    writes: Cell<u32>,
    /// How many there were before the last flush.
    usual: Cell<u32>,
    /// In how many rounds on end there were as many.
    rounds: Cell<u32>,
}

impl FlushHabit {
    /// A write is about to be answered; tells whether a flush is to be expected now.
    pub(crate) fn wrote(&self) -> bool {
        let writes = self.writes.get().saturating_add(1);
        self.writes.set(writes);
        self.rounds.get() >= ROUNDS && writes == self.usual.get()
    }

    /// A flush has come.
    pub(crate) fn flushed(&self) {
        let writes = self.writes.take();
        if writes == 0 {
            // Of what others wrote.
            return;
        }
        if writes == self.usual.replace(writes) && writes <= MOST_WRITES {
            self.rounds.set(self.rounds.get().saturating_add(1));
        } else {
            self.rounds.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(habit: &FlushHabit, writes: usize) -> Vec<bool> {
        let expected = (0..writes).map(|_| habit.wrote()).collect();
        habit.flushed();
        expected
    }

    #[test]
    fn a_steady_client_is_expected_to_flush() {
        let habit = FlushHabit::default();
        for _ in 0..=ROUNDS {
            assert_eq!(round(&habit, 2), [false, false]);
        }
        assert_eq!(round(&habit, 2), [false, true]);
        habit.flushed();
        assert_eq!(round(&habit, 2), [false, true], "a flush without writes says nothing");
    }

    #[test]
    fn a_wrong_guess_is_not_repeated() {
        let habit = FlushHabit::default();
        for _ in 0..=ROUNDS {
            round(&habit, 1);
        }
        assert_eq!(round(&habit, 100).iter().filter(|expected| **expected).count(), 1);
        for _ in 0..=ROUNDS {
            assert_eq!(round(&habit, 1), [false]);
        }
        assert_eq!(round(&habit, 1), [true]);
    }

    #[test]
    fn many_writes_are_no_habit() {
        let habit = FlushHabit::default();
        for _ in 0..100 {
            assert!(!round(&habit, MOST_WRITES as usize + 1).contains(&true));
        }
    }
}
