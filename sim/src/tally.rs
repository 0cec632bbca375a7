//! Counts of what was looked at.

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Crash states: an image that a death left, opened and compared with the oracle.
    pub states: u64,
    /// Deaths in the midst of an opening, which are in `states` only as far as the pool came up at last.
    pub nested: u64,
    /// Disks that were changed behind a pool's back.
    pub damaged: u64,
    /// Crash states of which every block was accounted for as well.
    pub checked: u64,
}

impl Tally {
    /// One crash state; with `checked`, every block was accounted for as well.
    pub fn state(checked: bool) -> Tally {
        Tally { states: 1, checked: u64::from(checked), ..Tally::default() }
    }

    /// Adds another one's counts.
    pub fn add(&mut self, other: Tally) {
        self.states += other.states;
        self.nested += other.nested;
        self.damaged += other.damaged;
        self.checked += other.checked;
    }
}
