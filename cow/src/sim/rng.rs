//! The generator behind every choice, and the loop over seeds that a test runs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast and good enough to choose with; not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The same seed gives the same numbers on every machine.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// Any 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`. The bias of the multiplication is far below what a test could see.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing to choose from");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An index into something of `len` elements.
    ///
    /// # Panics
    /// When `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True `numerator` times out of `denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// Fills `bytes` with noise.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// An independent generator, so that one part's choices do not shift another's.
    pub fn fork(&mut self) -> Rng {
        Rng::new(self.next_u64())
    }
}

/// Runs `test` once for each of `rounds` seeds and, when one panics, prints the command that replays it.
///
/// The environment decides which seeds: `CAIRN_SEED=n` only that one; `CAIRN_SIM_ROUNDS=n` another number of rounds;
/// `CAIRN_SIM_FIRST=n` where they start, `CAIRN_SIM_FIRST=fresh` at a place that differs in every run.
///
/// # Panics
/// When `test` does, with its panic.
pub fn for_each_seed(rounds: u64, test: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|v| (v.clone(), v.parse::<u64>().ok()));
    let (first, rounds) = match number("CAIRN_SEED") {
        Some((text, seed)) => (seed.unwrap_or_else(|| panic!("CAIRN_SEED={text} is not a number")), 1),
        None => {
            let rounds = number("CAIRN_SIM_ROUNDS").and_then(|(_, n)| n).unwrap_or(rounds);
            let first = match number("CAIRN_SIM_FIRST") {
                Some((_, Some(first))) => first,
                Some((text, None)) if text == "fresh" => fresh(),
                Some((text, None)) => panic!("CAIRN_SIM_FIRST={text} is neither a number nor \"fresh\""),
                None => 0,
            };
            (first, rounds)
        }
    };
    for seed in (0..rounds).map(|i| first.wrapping_add(i)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} failed; replay it with:\n    {}", replay_command(seed));
            resume_unwind(panic);
        }
    }
}

/// A start that no other run has used; low 20 bits free for the rounds.
fn fresh() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Rng::new(since_1970.as_nanos() as u64).next_u64() & !0xf_ffff
}

fn replay_command(seed: u64) -> String {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default().to_owned();
    // Cargo tells the tests that it runs.
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "cairn-cow".to_owned());
    let binary = std::env::current_exe()
        .ok()
        .and_then(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .and_then(|stem| stem.rsplit_once('-').map(|(name, _hash)| name.to_owned()))
        .filter(|name| *name != package.replace('-', "_"))
        .map_or_else(|| "--lib".to_owned(), |name| format!("--test {name}"));
    format!("CAIRN_SEED={seed} cargo test -p {package} {binary} {test} -- --exact --nocapture")
}
