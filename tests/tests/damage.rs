//! Pools that are not what they should be: damaged, cut short, foreign, or already in use. Each is refused clearly or
//! served correctly; wrong bytes are never served, and what is refused is left as it was.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_tests::control::assert_pool_and_data_clean;
use cairn_tests::daemon::{Daemon, Launch, POOL_FILE};
use cairn_tests::data::{BLOCK, Rng, SECTOR, SECTORS_PER_BLOCK, seed, stamp, stamp_of};
use cairn_tests::fixtures::{checksum, copy_sparse, data_ranges, ext4_image, flip_byte};
use cairn_tests::nbd::{Error, wire};
use cairn_tests::program::{full, number_from_env};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const DISK: u64 = 8 * MIB;

/// A pool with a volume, a snapshot of it, and stamps that say what each block must hold.
struct Sample {
    _dir: TempDir,
    pool: PathBuf,
    work: PathBuf,
}

/// The counter of a block in the snapshot and in the head: the head changed every third block after the snapshot.
fn counter_of(export: &str, block: u64) -> u64 {
    if export == "demo" && block.is_multiple_of(3) { 2 } else { 1 }
}

impl Sample {
    /// Made by a daemon that was stopped, or killed so that there is a journal to replay.
    #[track_caller]
    fn new(killed: bool) -> Sample {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let made = dir.path().join("made");
        let daemon = Launch::dev(&made).create("demo", "8M").start();
        let mut client = daemon.connect("demo");
        let mut block = [0; BLOCK];
        for number in 0..DISK / BLOCK as u64 {
            stamp(&mut block, number * SECTORS_PER_BLOCK as u64, 1);
            client.write(number * BLOCK as u64, &block).expect("a write");
        }
        daemon.cairn(&["snapshot", "create", "demo", "s1"]).ok();
        for number in (0..DISK / BLOCK as u64).step_by(3) {
            stamp(&mut block, number * SECTORS_PER_BLOCK as u64, 2);
            client.write(number * BLOCK as u64, &block).expect("a write");
        }
        client.flush().expect("a flush");
        drop(client);
        if killed {
            // The last batch of the journal cannot be told from one that a power failure cut short until the next one
            // says that it was durable, which an idle daemon writes within half a second (docs/FORMAT.md).
            std::thread::sleep(std::time::Duration::from_secs(1));
            daemon.kill_9();
        } else {
            daemon.stop();
        }
        Sample { pool: made.join(POOL_FILE), work: dir.path().join("work"), _dir: dir }
    }

    /// A fresh copy of the pool in a folder of its own; the pool's path in it.
    #[track_caller]
    fn copy(&self) -> PathBuf {
        if self.work.exists() {
            fs::remove_dir_all(&self.work).expect("a folder can be removed");
        }
        fs::create_dir(&self.work).expect("a folder can be made");
        let copy = self.work.join(POOL_FILE);
        copy_sparse(&self.pool, &copy);
        copy
    }

    fn launch(&self) -> Launch {
        Launch::dev(&self.work)
    }

    /// Where the pool's non-zero blocks are: (metadata, data). What carries stamps is data, all else is metadata.
    #[track_caller]
    fn blocks(&self) -> (Vec<u64>, Vec<u64>) {
        let file = File::open(&self.pool).expect("the pool can be read");
        let end = file.metadata().expect("the pool has a size").len();
        let (mut metadata, mut data) = (Vec::new(), Vec::new());
        for range in data_ranges(&self.pool).expect("the pool can be read") {
            let mut at = range.start / BLOCK as u64 * BLOCK as u64;
            while at < range.end && at + BLOCK as u64 <= end {
                let mut block = [0; BLOCK];
                file.read_exact_at(&mut block, at).expect("the pool can be read");
                let claimed = u64::from_le_bytes(block[8..16].try_into().expect("eight bytes"));
                match stamp_of(&block[..SECTOR], claimed) {
                    Some(0) if block.iter().all(|byte| *byte == 0) => {}
                    Some(counter) if counter != 0 => data.push(at),
                    _ => metadata.push(at),
                }
                at += BLOCK as u64;
            }
        }
        assert!(!metadata.is_empty() && !data.is_empty(), "the pool has both kinds of blocks");
        (metadata, data)
    }
}

/// Reads an export block by block: each has what was written, or an error. Returns how many errors there were.
#[track_caller]
fn errors_but_no_wrong_bytes(daemon: &Daemon, export: &str, what: &str) -> u64 {
    let mut client = daemon.connect(export);
    let mut errors = 0;
    for number in 0..DISK / BLOCK as u64 {
        match client.read(number * BLOCK as u64, BLOCK as u32) {
            Ok(bytes) => {
                let sector = number * SECTORS_PER_BLOCK as u64;
                for (place, bytes) in bytes.chunks(SECTOR).enumerate() {
                    let found = stamp_of(bytes, sector + place as u64);
                    let expected = Some(counter_of(export, number));
                    assert_eq!(found, expected, "{what}: wrong bytes in block {number} of {export}");
                }
            }
            Err(Error::Request(wire::EIO)) => errors += 1,
            Err(e) => {
                panic!("{what}: block {number} of {export}: {e}\n--- the daemon said\n{}", daemon.said())
            }
        }
    }
    errors
}

#[track_caller]
fn flip_metadata(sample: &Sample, rng: &mut Rng, flips: u64) {
    let (metadata, _) = sample.blocks();
    let (mut refused, mut harmless, mut with_errors) = (0, 0, 0);
    for _ in 0..flips {
        let block = metadata[rng.below(metadata.len() as u64) as usize];
        let offset = block + rng.below(BLOCK as u64);
        let mask = 1 << rng.below(8);
        let pool = sample.copy();
        flip_byte(&pool, offset, mask).expect("a byte can be flipped");
        let what = format!("byte {offset} of the pool xor {mask:#x}");
        match sample.launch().try_start() {
            Err(refusal) => {
                refusal.assert_clear();
                refused += 1;
            }
            Ok(mut daemon) => {
                let errors: u64 =
                    ["demo", "demo@s1"].iter().map(|e| errors_but_no_wrong_bytes(&daemon, e, &what)).sum();
                daemon.assert_alive();
                *(if errors == 0 { &mut harmless } else { &mut with_errors }) += 1;
            }
        }
    }
    println!("{flips} flips: {refused} refused, {harmless} harmless, {with_errors} answered with errors");
}

/// One flipped bit anywhere in the metadata of a pool that was closed, and of one that was not.
#[test]
fn a_flipped_metadata_bit_is_refused_or_harmless_but_never_wrong_bytes() {
    let mut rng = Rng::new(seed("flipped metadata"));
    let flips = number_from_env("CAIRN_TEST_FLIPS", if full() { 2000 } else { 80 });
    for killed in [false, true] {
        flip_metadata(&Sample::new(killed), &mut rng, flips / 2);
    }
}

/// The two superblocks are most of what stands between a pool and its loss: every byte of the first block, in steps.
#[test]
fn a_damaged_superblock_is_refused_or_harmless() {
    let sample = Sample::new(false);
    for offset in (0..BLOCK as u64).step_by(if full() { 1 } else { 37 }) {
        let pool = sample.copy();
        flip_byte(&pool, offset, 0x40).expect("a byte can be flipped");
        match sample.launch().try_start() {
            Err(refusal) => refusal.assert_clear(),
            Ok(daemon) => {
                let what = format!("byte {offset} of the first superblock");
                for export in ["demo", "demo@s1"] {
                    assert_eq!(errors_but_no_wrong_bytes(&daemon, export, &what), 0, "{what}");
                }
                daemon.stop();
            }
        }
    }
}

#[test]
fn a_flipped_data_bit_is_an_error_for_its_block_only_and_is_counted() {
    let sample = Sample::new(false);
    let (_, data) = sample.blocks();
    let mut rng = Rng::new(seed("flipped data"));
    let pool = sample.copy();
    let victim = data[rng.below(data.len() as u64) as usize];
    flip_byte(&pool, victim + rng.below(BLOCK as u64), 1).expect("a byte can be flipped");
    let daemon = sample.launch().start();
    let in_head = errors_but_no_wrong_bytes(&daemon, "demo", "a flipped data bit");
    let in_snapshot = errors_but_no_wrong_bytes(&daemon, "demo@s1", "a flipped data bit");
    assert!(in_head <= 1 && in_snapshot <= 1, "{in_head} and {in_snapshot} errors from one block");
    assert!(in_head + in_snapshot > 0, "a flipped bit of a data block went unnoticed");
    let status = daemon.cairn_json(&["pool", "status"]);
    assert!(cairn_tests::control::number(&status, "checksum_errors") > 0, "not counted: {status}");
    let report = daemon.cairn(&["--json", "pool", "check", "--data"]);
    assert_eq!(report.json()["clean"], false, "{report}");
    assert!(!report.status.success(), "a check that found damage is no success: {report}");
    let told = daemon.cairn_json(&["events", "--severity", "error", "--kind", "pool.checked"]);
    assert_eq!(told["events"][0]["message"], "pool main was checked: it is not sound");
    if in_head > 0 {
        // Faults are looked for once a second.
        let damaged = || daemon.cairn_json(&["events", "--kind", "volume.damaged", "--volume", "demo"]);
        let began = Instant::now();
        while !damaged()["events"][0].is_object() {
            assert!(began.elapsed() < Duration::from_secs(10), "nobody is told");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(damaged()["events"][0]["severity"], "error");
        let shown = daemon.cairn_json(&["volume", "show", "demo"]);
        assert_eq!(shown["status"], "error", "{shown}");
    }
}

#[test]
fn a_truncated_pool_is_refused_and_left_alone() {
    let sample = Sample::new(false);
    let whole = fs::metadata(&sample.pool).expect("the pool has a size").len();
    for len in [1, 4095, 4096, 8192, MIB, whole / 2, whole - 4096, whole - 1] {
        let pool = sample.copy();
        OpenOptions::new().write(true).open(&pool).and_then(|f| f.set_len(len)).expect("it can be cut");
        let before = checksum(&pool).expect("it can be read");
        let refusal = sample.launch().try_start().err();
        refusal.unwrap_or_else(|| panic!("a pool cut from {whole} to {len} bytes was opened")).assert_clear();
        assert_eq!(fs::metadata(&pool).expect("it is there").len(), len, "its size changed");
        assert_eq!(checksum(&pool).expect("it can be read"), before, "what is refused must be left alone");
    }
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let image = ext4_image(dir.path(), 32, 1);
    let noise = dir.path().join("noise");
    let mut bytes = vec![0; 4 << 20];
    Rng::new(2).fill(&mut bytes);
    fs::write(&noise, &bytes).expect("a file can be written");
    let text = dir.path().join("text");
    fs::write(&text, "this is not a pool\n".repeat(1000)).expect("a file can be written");
    for foreign in [image, noise, text] {
        let home = dir.path().join("home");
        fs::create_dir_all(&home).expect("a folder can be made");
        let pool = home.join(POOL_FILE);
        fs::copy(&foreign, &pool).expect("a file can be copied");
        let before = checksum(&pool).expect("it can be read");
        let refusal = Launch::dev(&home).create("demo", "1G").try_start().err();
        refusal.unwrap_or_else(|| panic!("{} was taken for a pool", foreign.display())).assert_clear();
        assert_eq!(checksum(&pool).expect("it can be read"), before, "what is refused must be left alone");
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_does_not_notice() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "64M");
    let mut daemon = launch.start();
    let mut client = daemon.connect("demo");
    client.write(0, &[1; BLOCK]).expect("a write");
    launch.try_start().expect_err("two daemons on one pool").assert_clear();

    // Also from elsewhere, with sockets of its own.
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder can be made");
    let second = Launch::config(&elsewhere, &dir.path().join(POOL_FILE), "1G");
    second.try_start().expect_err("two daemons on one pool").assert_clear();

    assert_eq!(client.read(0, 4096).expect("a read"), [1; BLOCK]);
    daemon.connect("demo").write(4096, &[2; BLOCK]).expect("a new connection writes");
    daemon.assert_alive();
    assert_pool_and_data_clean(&daemon);
    drop(client);
    daemon.stop();
}

/// A stale socket of a killed daemon is no obstacle; a folder that is not there is made.
#[test]
fn a_daemon_starts_where_another_was_killed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let home: &Path = &dir.path().join("new");
    let launch = Launch::dev(home).create("demo", "64M");
    launch.start().kill_9();
    let mut daemon = launch.start();
    daemon.assert_alive();
    daemon.connect("demo").write(0, &[1; BLOCK]).expect("a write");
    daemon.stop();
}
