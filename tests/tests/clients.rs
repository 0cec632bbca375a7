//! What NBD clients that others wrote make of cairn: libnbd's tools, QEMU's, nbd-client.

use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::BLOCK;
use cairn_tests::program::run;
use serde_json::Value;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;
const KIB: u64 = 1 << 10;

fn demo(size: &str) -> (TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", size).start();
    (dir, daemon)
}

#[track_caller]
fn nbdinfo(args: &[&str]) -> Value {
    run("nbdinfo", args).ok().json()
}

#[test]
fn nbdinfo_sees_everything_a_complete_server_offers() {
    let (_dir, daemon) = demo("10G");
    let info = nbdinfo(&["--json", &daemon.uri("demo")]);
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 10 * GIB);
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 33_554_432);
    assert_eq!(export["is_read_only"], false);
    for ability in
        ["flush", "fua", "trim", "zero", "fast_zero", "cache", "df", "multi_conn"].map(|a| format!("can_{a}"))
    {
        assert_eq!(export[&ability], true, "{ability}: {export}");
    }
    let contexts = export["contexts"].as_array().expect("contexts are a list");
    assert!(contexts.contains(&"base:allocation".into()), "{contexts:?}");
}

#[test]
fn nbdinfo_maps_what_was_written_zeroed_and_trimmed() {
    let (_dir, daemon) = demo("1G");
    let mut client = daemon.connect("demo");
    client.write(64 * KIB, &vec![1; 64 << 10]).expect("a write");
    client.write(256 * KIB, &vec![2; 256 << 10]).expect("a write");
    client.trim(320 * KIB, 64 << 10).expect("a trim");
    client.write_zeroes(448 * KIB, 32 << 10).expect("zeroes");
    client.write(GIB - 4 * KIB, &[3; BLOCK]).expect("a write");
    client.flush().expect("a flush");
    drop(client);

    let map = nbdinfo(&["--map", "--json", &daemon.uri("demo")]);
    let extents = map.as_array().expect("a map is a list");
    let mut end = 0;
    let mut data = Vec::new();
    for extent in extents {
        let field = |name: &str| extent[name].as_u64().expect("a map has numbers");
        assert_eq!(field("offset"), end, "the map has no gaps: {map}");
        end += field("length");
        match field("type") {
            0 => data.push((field("offset") / KIB, field("length") / KIB)),
            zero => assert_eq!(zero & 2, 2, "neither data nor zeroes: {extent}"),
        }
    }
    assert_eq!(end, GIB, "the map covers the disk");
    assert_eq!(data, [(64, 64), (256, 64), (384, 64), (480, 32), ((GIB / KIB) - 4, 4)]);
}

#[test]
fn lists_name_every_volume_and_snapshot() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "64M").create("other", "32M").start();
    daemon.cairn(&["snapshot", "create", "demo", "before"]).ok();
    let list = nbdinfo(&["--list", "--json", &daemon.uri("")]);
    let sizes: Vec<(String, u64)> = list["exports"]
        .as_array()
        .expect("exports are a list")
        .iter()
        .map(|e| (e["export-name"].as_str().unwrap_or("").to_owned(), e["export-size"].as_u64().unwrap_or(0)))
        .collect();
    for wanted in [("demo", 64 << 20), ("other", 32 << 20), ("demo@before", 64 << 20)] {
        let wanted = (wanted.0.to_owned(), wanted.1);
        assert!(sizes.contains(&wanted), "{wanted:?} is not in {sizes:?}");
    }
    let socket = daemon.nbd_socket();
    let listed = run("nbd-client", &["-l", "-unix", socket.to_str().expect("UTF-8")]);
    assert!(listed.stdout.lines().any(|line| line.trim() == "other"), "{listed}");
}

#[test]
fn a_snapshot_is_a_read_only_export() {
    let (_dir, daemon) = demo("64M");
    daemon.cairn(&["snapshot", "create", "demo", "s1"]).ok();
    let info = nbdinfo(&["--json", &daemon.uri("demo@s1")]);
    assert_eq!(info["exports"][0]["is_read_only"], true);
    let mut client = daemon.connect("demo@s1");
    for refused in [client.write(0, &[1; BLOCK]), client.trim(0, 4096), client.write_zeroes(0, 4096)] {
        let errno = refused.expect_err("a snapshot never changes").errno();
        assert_eq!(errno, Some(cairn_tests::nbd::wire::EPERM));
    }
}

#[test]
fn qemu_img_knows_the_size() {
    let (_dir, daemon) = demo("10G");
    let info = run("qemu-img", &["info", "--output=json", &daemon.uri("demo")]).ok().json();
    assert_eq!(info["virtual-size"], 10 * GIB);
    assert_eq!(info["format"], "raw");
}

/// QEMU since version 9 asks for extended headers, where a length has 64 bits: one request zeroes 4 GiB.
#[test]
fn qemu_io_works_past_4_gib_and_in_requests_of_4_gib() {
    let (_dir, daemon) = demo("10G");
    let uri = daemon.uri("demo");
    let qemu_io = |commands: &[&str]| {
        let mut args = vec!["-f", "raw"];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(&uri);
        let outcome = run("qemu-io", &args).ok();
        assert!(!outcome.stdout.contains("failed"), "{outcome}");
    };
    qemu_io(&["write -P 7 5G 1M", "write -P 8 1023M 2M", "flush", "read -P 7 5G 1M", "read -P 8 1023M 2M"]);
    let zeroes: &[&str] = if qemu_takes_long_zeroes() {
        &["write -z -n 1G 4G", "write -z -n -u 2G 4G"]
    } else {
        &["write -z 1G 1G", "write -z 2G 1G", "write -z 3G 1G", "write -z 4G 1G", "write -z -u 5G 1G"]
    };
    qemu_io(zeroes);
    qemu_io(&[
        "read -P 8 1023M 1M",
        "read -P 0 1G 1M",
        "read -P 0 5G 1M",
        "write -P 9 5G 512",
        "discard 5G 1G",
    ]);
    qemu_io(&["read -P 0 5G 1M"]);
}

/// `write -z` of 2 GiB and more in one request came with QEMU 8.
fn qemu_takes_long_zeroes() -> bool {
    let version = run("qemu-io", &["--version"]).ok().stdout;
    let major = version.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
    major.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|major| major >= 8)
}

/// A client that keeps simple replies, as the kernel's does, and one with everything see the same disk.
#[test]
fn what_one_client_wrote_every_other_reads() {
    use cairn_tests::nbd::{Client, Features};
    let (_dir, daemon) = demo("64M");
    let mut simple = Client::connect_with(&daemon.nbd_socket(), "demo", Features::SIMPLE).expect("simple");
    let mut full = daemon.connect("demo");
    simple.write(12_345, b"from the simple client").expect("a write");
    full.write(20_000_001, b"from the other").expect("a write");
    assert_eq!(full.read(12_345, 22).expect("a read"), b"from the simple client");
    assert_eq!(simple.read(20_000_001, 14).expect("a read"), b"from the other");
    assert_eq!(simple.read(12_340, 5).expect("a read"), [0; 5], "around it nothing changed");
    full.disconnect().expect("a clean end");
    simple.disconnect().expect("a clean end");
}
