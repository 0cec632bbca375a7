//! Every file of the corpora, and some changes of each, through the very functions that the fuzz targets call.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::abort;

use cairn_fuzz_targets::{TARGETS, Target};

/// Changed copies of each file that are tried, for a target that takes microseconds and for others.
const CHANGES: u64 = 512;

/// The files of a target's corpus, in an order that stays.
fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

/// The numbers that follow a seed: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }
}

/// An input with up to four changes of the kinds that find most: bits, bytes at the ends of their range, cuts, repeats.
fn changed(input: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = numbers.below(bytes.len());
        match numbers.below(6) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = [0, 0xff, 0x7f, 0x80][numbers.below(4)],
            2 => bytes[at] = numbers.below(256) as u8,
            3 => bytes.truncate(at),
            4 => {
                let end = (at + 1 + numbers.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + 1 + numbers.below(16)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

fn run(name: &str, changes: u64) {
    // A task's panic is caught by whoever runs it, and must fail the test all the same.
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        print(panic);
        abort();
    }));
    let target: Target = TARGETS.iter().find(|(known, _)| *known == name).expect("a target").1;
    let files = corpus(name);
    assert!(!files.is_empty(), "a corpus of nothing");
    for (number, file) in files.iter().enumerate() {
        let input = fs::read(file).expect("a readable file");
        // The last line before an abort says what it was.
        eprintln!("{}", file.display());
        target(&input);
        let mut numbers = Numbers(number as u64);
        for _ in 0..changes {
            target(&changed(&input, &mut numbers));
        }
    }
}

macro_rules! corpora {
    ($($name:ident: $changes:expr,)+) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), $changes);
            }
        )+

        #[test]
        fn every_target_has_a_test_a_program_and_a_corpus() {
            let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(known, [$(stringify!($name)),+]);
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let list = |folder: &str| {
                let entries = fs::read_dir(fuzz.join(folder)).expect("a readable folder");
                let name = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
                let mut names: Vec<String> = entries.filter_map(|entry| name(entry.ok()?.path())).collect();
                names.sort();
                names
            };
            assert_eq!(list("fuzz_targets"), known);
            assert_eq!(list("corpus"), known);
        }
    };
}

corpora! {
    backup_objects: CHANGES,
    control_requests: 16,
    image_files: 64,
    nbd_negotiation: CHANGES,
    nbd_requests: CHANGES,
    nbd_transmission: CHANGES,
    pool_catalog: CHANGES,
    pool_changed: 32,
    pool_journal: CHANGES,
    pool_map_node: CHANGES,
    pool_shadow: 64,
    pool_space_map: CHANGES,
    pool_superblock: CHANGES,
}
