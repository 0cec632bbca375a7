//! Every short sequence of operations with every crash in it, as far as a default run has time for it; `cargo xtask
//! sequences` runs them all.

use cairn_sim::sequences::{Beginning, Step, count, sequence};

#[test]
fn every_single_step_survives_every_crash() {
    for tight in [false, true] {
        let beginning = Beginning::new(tight);
        for step in Step::ALL {
            let tally = beginning.run(&[step]);
            assert!(tally.states > 0, "{step:?}: nothing was looked at");
        }
    }
}

/// Another part of them in each place of the alphabet of steps.
#[test]
fn pairs_of_steps_survive_every_crash() {
    for tight in [false, true] {
        let beginning = Beginning::new(tight);
        for number in (0..count(2)).step_by(3) {
            let steps = sequence(2, number);
            assert!(beginning.run(&steps).states > 0, "{steps:?}: nothing was looked at");
        }
    }
}

#[test]
fn numbers_name_sequences() {
    assert_eq!(count(3), 24 * 24 * 24);
    assert_eq!(sequence(2, 0), [Step::Write, Step::Write]);
    assert_eq!(sequence(2, 25), [Step::WriteNext, Step::WriteNext]);
    assert_eq!(sequence(3, count(3) - 1), [Step::Die; 3]);
}
