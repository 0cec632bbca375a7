//! The n-th fault, as far as a default run has time for it; `cargo xtask faults` runs all points of as many seeds as there
//! is time for.

use cairn_cow::sim::for_each_seed;

use cairn_sim::faults::{Chapter, Kind};

/// Points of each seed, spread over all there are.
const POINTS: usize = 40;

#[test]
fn whichever_operation_fails_nothing_flushed_is_lost() {
    for_each_seed(6, |seed| {
        let chapter = Chapter::new(seed);
        for number in chapter.scattered().take(POINTS) {
            let point = chapter.point(number);
            // Shown when the test fails.
            eprintln!("{point:?}, in full: cargo xtask faults --seed {seed} --point {number}");
            assert!(chapter.run(point).states > 0, "something was looked at");
        }
    });
}

#[test]
fn points_are_numbered_and_scattered() {
    let (chapter, again) = (Chapter::new(1), Chapter::new(1));
    let points = chapter.points();
    assert_eq!(points, again.points(), "one seed is one story");
    let mut numbers: Vec<u64> = chapter.scattered().collect();
    let few: Vec<Kind> = numbers.iter().take(POINTS).map(|number| chapter.point(*number).kind).collect();
    for kind in [Kind::ReadFailsOnce, Kind::WriteFailsOnce, Kind::WriteIsLost] {
        assert!(few.contains(&kind), "{kind:?} is not among {few:?}");
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..points), "each once");
    assert_eq!(chapter.point(0), again.point(0));
    assert_eq!(chapter.point(1).n, 1);
}
