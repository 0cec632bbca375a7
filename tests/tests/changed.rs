//! Changed blocks over NBD: what an export holds otherwise than a snapshot, as the clients see it that make incremental
//! backups.

use cairn_tests::control::create_snapshot;
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{BLOCK, Rng, seed};
use cairn_tests::nbd::{Client, Features, wire};
use cairn_tests::program::run;
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// The flag of what may differ.
const CHANGED: u32 = 1;

fn demo(size: &str) -> (TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", size).start();
    (dir, daemon)
}

#[track_caller]
fn connect(daemon: &Daemon, export: &str, context: &str) -> Client {
    let client = Client::connect_with(&daemon.nbd_socket(), export, Features::with_context(context));
    client.unwrap_or_else(|e| panic!("{export} in {context}: {e}"))
}

/// The ranges that a context marks, first byte and length.
#[track_caller]
fn changed(daemon: &Daemon, export: &str, context: &str) -> Vec<(u64, u64)> {
    let map = connect(daemon, export, context).map().expect("a map");
    assert!(map.iter().all(|(_, _, flags)| *flags <= CHANGED), "{map:?}");
    map.into_iter()
        .filter(|(.., flags)| *flags == CHANGED)
        .map(|(start, end, _)| (start, end - start))
        .collect()
}

#[track_caller]
fn contents(daemon: &Daemon, export: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    daemon.connect(export).read_all(|_, piece| bytes.extend_from_slice(piece)).expect("a read");
    bytes
}

fn change_at_random(client: &mut Client, rng: &mut Rng, blocks: u64) {
    for _ in 0..60 {
        let first = rng.below(blocks);
        let count = (1 + rng.below(9)).min(blocks - first);
        let (offset, len) = (first * BLOCK as u64, (count as usize) * BLOCK);
        match rng.below(4) {
            0 => client.trim(offset, len as u32).expect("a trim"),
            1 => client.write_zeroes(offset, len as u32).expect("zeroes"),
            _ => {
                let mut data = vec![0; len - rng.below(BLOCK as u64) as usize];
                rng.fill(&mut data);
                client.write(offset, &data).expect("a write");
            }
        }
    }
}

/// What a backup tool does: it has a copy of one snapshot, asks what changed, and brings the copy up to date with
/// nothing but the ranges it was told.
#[test]
fn a_copy_of_a_snapshot_with_the_changed_ranges_is_the_other_snapshot() {
    let (_dir, daemon) = demo("32M");
    let mut rng = Rng::new(seed("changed blocks"));
    let mut client = daemon.connect("demo");
    let mut exports = Vec::new();
    for name in ["one", "two", "three"] {
        change_at_random(&mut client, &mut rng, 32 * MIB / BLOCK as u64);
        create_snapshot(&daemon, "demo", name);
        exports.push(name);
    }
    // Beyond the snapshots, a head that grew, and an automatic snapshot of it after a rollback, which is an ancestor of
    // nothing.
    drop(client);
    daemon.cairn(&["volume", "resize", "demo", "--size", "48M", "--yes"]).ok();
    let mut client = daemon.connect("demo");
    change_at_random(&mut client, &mut rng, 48 * MIB / BLOCK as u64);
    drop(client);
    let rolled = daemon.cairn_json(&["snapshot", "rollback", "demo", "two", "--yes"]);
    let undo = rolled["undo"]["name"].as_str().expect("a rollback names what undoes it");
    exports.push(undo);
    change_at_random(&mut daemon.connect("demo"), &mut rng, 32 * MIB / BLOCK as u64);

    for base in &exports {
        let held = contents(&daemon, &format!("demo@{base}"));
        let snapshots = exports.iter().map(|snapshot| format!("demo@{snapshot}"));
        for export in snapshots.chain(["demo".to_owned()]) {
            let wanted = contents(&daemon, &export);
            let mut copy = held.clone();
            copy.resize(wanted.len(), 0);
            let mut source = daemon.connect(&export);
            let mut copied = 0;
            for (offset, len) in changed(&daemon, &export, &format!("cairn:changed:{base}")) {
                let bytes = source.read(offset, len as u32).expect("a read");
                copy[offset as usize..(offset + len) as usize].copy_from_slice(&bytes);
                copied += len;
            }
            assert!(copy == wanted, "{export} is not {base} with what changed");
            assert_eq!(
                copied == 0,
                export == format!("demo@{base}"),
                "{copied} bytes from {base} to {export}"
            );
            assert!(copied < 12 * MIB, "{copied} bytes changed from {base} to {export}");
        }
    }
    daemon.stop();
}

#[test]
fn libnbd_and_qemu_show_what_changed() {
    let (_dir, daemon) = demo("1G");
    let mut client = daemon.connect("demo");
    client.write(0, &vec![1; MIB as usize]).expect("a write");
    create_snapshot(&daemon, "demo", "monday");
    client.write(8 * MIB, &[2; 2 * BLOCK]).expect("a write");
    client.trim(0, BLOCK as u32).expect("a trim");
    create_snapshot(&daemon, "demo", "tuesday");
    client.write(512 * MIB, &[3; BLOCK]).expect("a write");
    let block = BLOCK as u64;
    let until_tuesday = [(0, block), (8 * MIB, 2 * block)];
    drop(client);

    let listed = run("nbdinfo", &["--json", &daemon.uri("demo")]).ok().json();
    let listed = listed["exports"][0]["contexts"].as_array().expect("contexts are a list").clone();
    for namespace in ["cairn:changed", "qemu:dirty-bitmap"] {
        for snapshot in ["monday", "tuesday"] {
            let context = format!("{namespace}:{snapshot}");
            assert!(listed.contains(&context.as_str().into()), "{context} is not in {listed:?}");
        }
        let map = |snapshot: &str, export: &str| -> Vec<(u64, u64)> {
            let option = format!("--map={namespace}:{snapshot}");
            let map = run("nbdinfo", &["--json", &option, &daemon.uri(export)]).ok().json();
            let number = |e: &Value, field: &str| e[field].as_u64().expect("a map has numbers");
            let extents = map.as_array().expect("a map is a list");
            let end = extents.last().map(|e| number(e, "offset") + number(e, "length"));
            assert_eq!(end, Some(1024 * MIB), "the map covers the disk");
            let changed = extents.iter().filter(|e| number(e, "type") == u64::from(CHANGED));
            changed.map(|e| (number(e, "offset"), number(e, "length"))).collect()
        };
        assert_eq!(map("monday", "demo@tuesday"), until_tuesday);
        assert_eq!(map("tuesday", "demo@monday"), until_tuesday);
        assert_eq!(map("tuesday", "demo"), [(512 * MIB, block)]);
        assert_eq!(map("monday", "demo"), [until_tuesday[0], until_tuesday[1], (512 * MIB, block)]);
        assert_eq!(map("monday", "demo@monday"), []);

        // QEMU takes bit 0 for a hole, so that what it shows as no data is what changed.
        let socket = daemon.nbd_socket();
        let image = format!(
            "driver=nbd,server.type=unix,server.path={},export=demo@tuesday,x-dirty-bitmap={namespace}:monday",
            socket.display()
        );
        let map = run("qemu-img", &["map", "--output=json", "--image-opts", &image]).ok().json();
        let extents = map.as_array().expect("a map is a list").iter();
        let changed: Vec<_> = extents
            .filter(|e| e["data"] == false)
            .map(|e| (e["start"].as_u64().unwrap_or(0), e["length"].as_u64().unwrap_or(0)))
            .collect();
        assert_eq!(changed, until_tuesday, "{map}");
    }
    let described = run("nbdinfo", &["--map=qemu:dirty-bitmap:tuesday", &daemon.uri("demo")]).ok().stdout;
    assert!(described.contains("dirty"), "{described}");
    run("nbdinfo", &["--map=cairn:changed:sunday", &daemon.uri("demo")]).refused();
    daemon.stop();
}

#[test]
fn a_clone_is_compared_with_the_volume_that_it_comes_from() {
    let (_dir, daemon) = demo("64M");
    daemon.connect("demo").write(0, &vec![1; MIB as usize]).expect("a write");
    create_snapshot(&daemon, "demo", "base");
    daemon.cairn(&["volume", "create", "copy", "--from", "demo@base", "--size", "128M"]).ok();
    daemon.connect("copy").write(100 * MIB, &[2; BLOCK]).expect("a write");
    create_snapshot(&daemon, "copy", "mine");
    let context = "cairn:changed:demo@base";
    assert_eq!(changed(&daemon, "copy", context), [(100 * MIB, BLOCK as u64)]);
    assert_eq!(changed(&daemon, "demo@base", "cairn:changed:copy@mine"), []);
    daemon.cairn(&["volume", "create", "stranger", "--size", "64M"]).ok();
    for unrelated in ["stranger", "copy@none"] {
        let refused = Client::connect_with(&daemon.nbd_socket(), unrelated, Features::with_context(context));
        assert!(refused.is_err(), "{unrelated} in {context}");
    }
    daemon.stop();
}

/// A client that compares with a snapshot does not keep it from being deleted. It must never be told the difference to
/// something else.
#[test]
fn the_context_of_a_deleted_snapshot_fails() {
    let (_dir, daemon) = demo("64M");
    create_snapshot(&daemon, "demo", "base");
    let mut client = connect(&daemon, "demo", "cairn:changed:base");
    client.write(MIB, &[1; BLOCK]).expect("a write");
    assert_eq!(client.map().expect("a map").len(), 3);
    daemon.cairn(&["snapshot", "delete", "demo", "base"]).ok();
    let errno = client.map().expect_err("the snapshot is gone").errno();
    assert_eq!(errno, Some(wire::EINVAL));
    create_snapshot(&daemon, "demo", "base");
    let errno = client.map().expect_err("this is another snapshot").errno();
    assert_eq!(errno, Some(wire::EINVAL));
    assert_eq!(client.read(MIB, 1).expect("reads go on"), [1]);
    assert_eq!(changed(&daemon, "demo", "cairn:changed:base"), []);
    daemon.stop();
}
