//! Bulk transfers beside a client: they are made in pieces then, and what they carry must be the same.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{Rng, seed};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB + 4608;

/// Does `work` while a client of another volume writes without a pause, from before it to after it.
fn beside_a_client(daemon: &Daemon, work: impl FnOnce()) {
    let (ended, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = daemon.connect("other");
            while !ended.load(Ordering::Relaxed) {
                let number = written.fetch_add(1, Ordering::Relaxed);
                client.write(number % 256 * 4096, &[number as u8; 4096]).expect("a write");
            }
            client.disconnect().expect("an end");
        });
        while written.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        ended.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Data and holes, neither of them aligned to anything.
fn contents(rng: &mut Rng) -> Vec<u8> {
    let mut contents = vec![0; SIZE as usize];
    let mut at = 0;
    while at < contents.len() {
        let (data, hole) = (1 + rng.below(600_000) as usize, rng.below(300_000) as usize);
        let end = contents.len().min(at + data);
        rng.fill(&mut contents[at..end]);
        at = end + hole;
    }
    contents
}

#[test]
fn what_is_copied_beside_a_client_is_what_was_there() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(&dir.path().join("dev")).create("other", "1M").start();
    let mut rng = Rng::new(seed("copies"));
    let expected = contents(&mut rng);
    let (raw, back) = (dir.path().join("disk.raw"), dir.path().join("back.raw"));
    fs::write(&raw, &expected).expect("a file");
    let file = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let url = format!("file://{}", dir.path().join("repo").display());
    daemon.cairn(&["repo", "init", &url]).ok();

    beside_a_client(&daemon, || {
        daemon.cairn(&["image", "import", &file(&raw), "image"]).ok();
        daemon.cairn(&["volume", "create", "db", "--from-image", "image"]).ok();
        daemon.cairn(&["snapshot", "create", "db", "s"]).ok();
        for export in ["db@s", "image:image"] {
            let mut client = daemon.connect(export);
            for _ in 0..100 {
                let at = rng.below(SIZE / 512) * 512;
                let len = (512 * (1 + rng.below(2 * MIB / 512))).min(SIZE - at);
                let read = client.read(at, len as u32).expect("a read");
                assert!(read == expected[at as usize..(at + len) as usize], "{export}: {len} bytes at {at}");
            }
            client.disconnect().expect("an end");
        }
        let made = daemon.cairn_json(&["backup", "create", "db", "--repo", &url]);
        let id = made["id"].as_str().expect("an id").to_owned();
        for how in [&["--to", "restored"][..], &["--to", "instant", "--instant"]] {
            daemon.cairn(&[&["backup", "restore", &id, "--repo", &url], how].concat()).ok();
            let mut client = daemon.connect(how[1]);
            client
                .read_all(|offset, data| {
                    let at = offset as usize;
                    assert!(data == &expected[at..at + data.len()], "{how:?}: it differs after {at}");
                })
                .expect("it can be read");
            client.disconnect().expect("an end");
        }
    });

    daemon.cairn(&["image", "export", "db@s", &file(&back), "--format", "raw"]).ok();
    assert!(fs::read(&back).expect("a file") == expected);
}
