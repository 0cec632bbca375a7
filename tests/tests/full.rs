//! A pool that is full, and a file system that is full under it: writers get ENOSPC, nothing is lost, and deleting and
//! trimming make room again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::control::{assert_pool_and_data_clean, number, wait_until_reclaimed};
use cairn_tests::daemon::{Daemon, Launch, POOL_FILE};
use cairn_tests::data::{Rng, SECTOR, SECTORS_PER_BLOCK, stamp, stamp_of};
use cairn_tests::fixtures::SmallFs;
use cairn_tests::nbd::{Client, Error, wire};

const MIB: u64 = 1 << 20;
/// Bytes of one write: 64 KiB.
const PIECE: u64 = 64 << 10;
/// Within this time freed space must be writable again. A bound against hanging.
const ROOM_LIMIT: Duration = Duration::from_secs(60);

fn piece(number: u64, counter: u64) -> Vec<u8> {
    let mut bytes = vec![0; PIECE as usize];
    stamp(&mut bytes, number * PIECE / SECTOR as u64, counter);
    bytes
}

/// Writes piece after piece until the server answers ENOSPC; how many were written.
#[track_caller]
fn fill(client: &mut Client) -> u64 {
    let pieces = client.info().size / PIECE;
    for number in 0..pieces {
        match client.write(number * PIECE, &piece(number, 1)) {
            Ok(()) => {}
            Err(Error::Request(wire::ENOSPC)) => return number,
            Err(e) => panic!("piece {number}: {e}"),
        }
    }
    panic!("all {pieces} pieces fit: nothing was full");
}

#[track_caller]
fn assert_holds(client: &mut Client, pieces: std::ops::Range<u64>, counter: u64) {
    for number in pieces {
        let bytes =
            client.read(number * PIECE, PIECE as u32).unwrap_or_else(|e| panic!("piece {number}: {e}"));
        for (place, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = number * PIECE / SECTOR as u64 + place as u64;
            assert_eq!(stamp_of(sector, at), Some(counter), "piece {number} lost its content");
        }
    }
}

/// Writes until there is room, which may take until a flush has confirmed what was freed.
#[track_caller]
fn write_when_there_is_room(client: &mut Client, number: u64, counter: u64) {
    let started = Instant::now();
    loop {
        match client.write(number * PIECE, &piece(number, counter)) {
            Ok(()) => return,
            Err(Error::Request(wire::ENOSPC)) if started.elapsed() < ROOM_LIMIT => {
                client.flush().expect("a flush works when the pool is full");
                thread::sleep(Duration::from_millis(20));
            }
            Err(e) => panic!("no room came back: {e}"),
        }
    }
}

#[track_caller]
fn created(launch: &Launch, volumes: &[&str]) -> Daemon {
    let daemon = launch.start();
    for name in volumes {
        daemon.cairn(&["volume", "create", name, "--size", "256M"]).ok();
    }
    daemon
}

#[test]
fn a_full_pool_loses_nothing_and_can_be_emptied() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::config(dir.path(), &dir.path().join(POOL_FILE), "256M");
    let daemon = created(&launch, &["demo", "other"]);
    let mut client = daemon.connect("demo");
    let mut other = daemon.connect("other");
    for number in 0..64 {
        other.write(number * PIECE, &piece(number, 1)).expect("a write");
    }
    let written = fill(&mut client);
    println!("{} MiB fit into a pool of 256 MiB", (written + 64) * PIECE / MIB);
    assert!((written + 64) * PIECE > 128 * MIB, "less than half of the pool could be used");
    client.flush().expect("a flush works when the pool is full");
    assert_holds(&mut client, 0..written, 1);
    // Full for one volume is full for all, and still not an end: reads go on, trims and deletes make room.
    assert_holds(&mut other, 0..64, 1);
    drop(client);
    drop(other);

    // A daemon killed while its pool is full comes back with all of it.
    daemon.kill_9();
    let daemon = launch.start();
    let mut client = daemon.connect("demo");
    assert_holds(&mut client, 0..written, 1);
    assert_pool_and_data_clean(&daemon);

    client.trim(0, (written / 2 * PIECE) as u32).expect("a trim works when the pool is full");
    client.flush().expect("a flush");
    for number in 0..written / 4 {
        write_when_there_is_room(&mut client, number, 2);
    }
    assert_holds(&mut client, 0..written / 4, 2);
    assert_holds(&mut client, written / 2..written, 1);

    daemon.cairn(&["volume", "delete", "other", "--yes"]).ok();
    wait_until_reclaimed(&daemon);
    for number in written..written + 32 {
        write_when_there_is_room(&mut client, number, 3);
    }
    assert_holds(&mut client, written..written + 32, 3);
    drop(client);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

/// What holds the space is a snapshot: overwriting needs room, and deleting the snapshot gives it.
#[test]
fn deleting_a_snapshot_makes_room_in_a_full_pool() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::config(dir.path(), &dir.path().join(POOL_FILE), "256M");
    let daemon = created(&launch, &["demo"]);
    let mut client = daemon.connect("demo");
    let pieces = 64 * MIB / PIECE;
    for number in 0..pieces {
        client.write(number * PIECE, &piece(number, 1)).expect("a write");
    }
    let mut taken = 0;
    let mut newest = vec![1; pieces as usize];
    'full: for counter in 2..20 {
        daemon.cairn(&["snapshot", "create", "demo", &format!("s{counter}")]).ok();
        taken = counter;
        for number in 0..pieces {
            match client.write(number * PIECE, &piece(number, counter)) {
                Ok(()) => newest[number as usize] = counter,
                Err(Error::Request(wire::ENOSPC)) => break 'full,
                Err(e) => panic!("{e}"),
            }
        }
    }
    let check_all = |client: &mut Client, newest: &[u64]| {
        for (number, counter) in newest.iter().enumerate() {
            let number = number as u64;
            assert_holds(client, number..number + 1, *counter);
        }
    };
    check_all(&mut client, &newest);
    for counter in 2..=taken {
        daemon.cairn(&["snapshot", "delete", "demo", &format!("s{counter}")]).ok();
    }
    wait_until_reclaimed(&daemon);
    for number in 0..pieces {
        write_when_there_is_room(&mut client, number, 50);
    }
    assert_holds(&mut client, 0..pieces, 50);
    drop(client);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

#[test]
fn a_full_file_system_under_the_pool_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // The pool grows by 64 MiB at a time, so what the ballast takes must be more than that.
    let Some(small) = SmallFs::new(dir.path(), 384) else { return };
    let home = small.path().join("home");
    let launch = Launch::dev(&home).create("demo", "1G");
    let daemon = launch.start();
    let mut client = daemon.connect("demo");
    let early = 16;
    for number in 0..early {
        client.write(number * PIECE, &piece(number, 1)).expect("a write");
    }
    client.flush().expect("a flush");

    // Something else takes the rest of the file system.
    let ballast = small.path().join("ballast");
    take_all(&ballast);
    let mut pieces = early..client.info().size / PIECE;
    wait_until_seen(&daemon, "nothing is left below", |status| number(status, "available") < MIB);
    let refused = pieces.find(|number| match client.write(number * PIECE, &piece(*number, 1)) {
        Ok(()) => false,
        Err(Error::Request(wire::ENOSPC)) => true,
        Err(e) => panic!("piece {number}: {e}"),
    });
    let written = refused.expect("the file system was full");
    client.flush().expect("a flush works when the file system is full");
    assert_holds(&mut client, 0..written, 1);
    drop(client);

    daemon.kill_9();
    let daemon = launch.start();
    let mut client = daemon.connect("demo");
    assert_holds(&mut client, 0..written, 1);

    wait_until_seen(&daemon, "it is full", |status| status["fill"] == "critical");
    fs::remove_file(&ballast).expect("the ballast can be removed");
    for number in written..written + 64 {
        write_when_there_is_room(&mut client, number, 2);
    }
    assert_holds(&mut client, written..written + 64, 2);
    drop(client);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

/// Waits until the daemon sees the state of a pool whose limit is far beyond its file system.
#[track_caller]
fn wait_until_seen(daemon: &Daemon, what: &str, seen: impl Fn(&serde_json::Value) -> bool) {
    let started = Instant::now();
    loop {
        let status = daemon.cairn_json(&["pool", "status"]);
        let [limit, free] = ["limit", "free"].map(|field| number(&status, field));
        assert!(free < limit / 2, "the file system was never that large: {status}");
        if seen(&status) {
            return;
        }
        assert!(started.elapsed() < ROOM_LIMIT, "the daemon does not see that {what}: {status}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Fills the file system that a path is on, to the last block.
#[track_caller]
fn take_all(path: &std::path::Path) {
    let file = File::create(path).expect("a file can be made");
    let mut noise = vec![0; 1 << 20];
    Rng::new(7).fill(&mut noise);
    let mut at = 0;
    for len in [1 << 20, 64 << 10, SECTORS_PER_BLOCK * SECTOR] {
        while file.write_all_at(&noise[..len], at).is_ok() {
            at += len as u64;
        }
    }
    // What is only in the page cache could still fail to be written; on ext4 its space is reserved already.
    file.sync_all().expect("the ballast is on disk");
}
