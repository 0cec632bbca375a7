//! Real clients: libnbd's tools, QEMU's, and the `nbd` crate, which speaks the oldest dialect this server knows.

mod common;

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use common::disk::{ODD, SIZE};
use common::raw::{Style, WRITE_ZEROES};
use common::server::Server;

/// Runs a command that must succeed and gives what it printed.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// The value of a JSON-like or plain `key: value` line.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {key} in {text}"))
        .trim()
}

#[test]
fn nbdinfo_sees_everything() {
    let server = Server::start();
    let text = run("nbdinfo", &[&server.uri("demo")]);
    assert!(text.contains("newstyle-fixed without TLS, using structured packets"), "{text}");
    assert!(value(&text, "export-size").starts_with(&SIZE.to_string()), "{text}");
    for key in [
        "can_flush",
        "can_fua",
        "can_trim",
        "can_zero",
        "can_fast_zero",
        "can_cache",
        "can_df",
        "can_multi_conn",
    ] {
        assert_eq!(value(&text, key), "true", "{key} in {text}");
    }
    for key in ["is_rotational", "is_read_only"] {
        assert_eq!(value(&text, key), "false", "{key} in {text}");
    }
    for (key, size) in
        [("block_size_minimum", "1"), ("block_size_preferred", "4096"), ("block_size_maximum", "33554432")]
    {
        assert_eq!(value(&text, key).split(' ').next(), Some(size), "{key} in {text}");
    }
    assert!(text.contains("base:allocation") && text.contains(ODD), "{text}");
    assert_eq!(value(&run("nbdinfo", &[&server.uri("ro")]), "is_read_only"), "true");
}

#[test]
fn nbdinfo_lists_exports() {
    let server = Server::start();
    *server.knobs.names.lock().unwrap() = (0..50).map(|i| format!("further-{i}")).collect();
    let text = run("nbdinfo", &["--list", &server.uri("")]);
    for name in ["\"demo\"", "\"ro\"", "\"further-0\"", "\"further-49\""] {
        assert!(text.contains(&format!("export={name}")), "{name} in {text}");
    }
    let text = run("qemu-nbd", &["--list", "-k", &server.socket().display().to_string()]);
    assert!(text.contains("exports available: 52") && text.contains("'further-49'"), "{text}");
}

#[test]
fn nbdinfo_maps_extents() {
    let server = Server::start();
    let mut client = server.connect();
    client.enter("demo", Style::Simple, &[]);
    client.write(0, 1, 1 << 20, &[1; 1 << 20]);
    assert_eq!(client.simple(), (1, 0));
    let map = run("nbdinfo", &["--map", &server.uri("demo")]);
    let lines: Vec<Vec<&str>> = map.lines().map(|l| l.split_whitespace().collect()).collect();
    let rest = (SIZE - (2 << 20)).to_string();
    assert_eq!(
        lines,
        [
            vec!["0", "1048576", "3", "hole,zero"],
            vec!["1048576", "1048576", "0", "data"],
            vec!["2097152", &rest, "3", "hole,zero"],
        ]
    );
}

#[test]
fn nbdcopy_there_and_back() {
    let server = Server::start();
    let (image, back) = (server.dir().join("image"), server.dir().join("back"));
    let mut file = std::fs::File::create(&image).expect("an image");
    for i in 0..40_u64 {
        file.seek(SeekFrom::Start(i * 3_333_333)).expect("a hole");
        let bytes: Vec<u8> = (0..700_001_u64).map(|b| (b.wrapping_mul(i + 7) >> 3) as u8).collect();
        file.write_all(&bytes).expect("data");
    }
    let len = file.metadata().expect("an image").len();
    let (image, back) = (image.display().to_string(), back.display().to_string());
    run("nbdcopy", &["--connections=4", "--flush", &image, &server.uri("demo")]);
    run("nbdcopy", &["--connections=4", &server.uri("demo"), &back]);
    let mut copied = std::fs::File::open(&back).expect("the copy");
    assert_eq!(copied.metadata().expect("the copy").len(), SIZE);
    let (mut expected, mut got) = (std::fs::read(&image).expect("the image"), vec![0; len as usize]);
    copied.read_exact(&mut got).expect("the copy");
    assert!(got == expected, "the copy differs");
    expected.clear();
    let allocated = std::os::unix::fs::MetadataExt::blocks(&copied.metadata().expect("the copy")) * 512;
    assert!(allocated < 256 << 20, "holes came back as holes, not {allocated} bytes");
}

#[test]
fn qemu_io_with_extended_headers() {
    let server = Server::start();
    let uri = server.uri("demo");
    let io = |commands: &[&str]| {
        let mut args = vec!["-f", "raw", uri.as_str()];
        for command in commands {
            args.extend_from_slice(&["-c", command]);
        }
        run("qemu-io", &args)
    };
    let text = io(&[
        "write -P 0x5a 5G 1M",
        "read -P 0x5a 5G 1M",
        "write -P 0x33 -f 5368709633 1234",
        "read -P 0x33 5368709633 1234",
        "read -P 0x5a 5368710867 4096",
        "write -z -n 0 4G",
        "write -z -n -u 1G 5G",
        "read -P 0 5G 1M",
        "discard 5G 1G",
        "flush",
    ]);
    assert!(!text.contains("failed") && !text.contains("verification"), "{text}");
    // With compact headers it would have had to cut these at 32 bits.
    let longest = server.knobs.zeroes.lock().unwrap().iter().map(|(_, len, _)| *len).max();
    assert_eq!(longest, Some(5 << 30));
}

#[test]
fn qemu_img_converts_from_and_to_qcow2() {
    let server = Server::start();
    let path = |name: &str| server.dir().join(name).display().to_string();
    let (raw, qcow2, back) = (path("raw"), path("image.qcow2"), path("back"));
    let bytes: Vec<u8> = (0..5_000_000_u64).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let mut file = std::fs::File::create(&raw).expect("an image");
    file.write_all(&bytes).expect("data");
    file.seek(SeekFrom::Start(SIZE - 5_000_000)).expect("a hole");
    file.write_all(&bytes).expect("data");
    drop(file);
    let uri = server.uri("demo");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw, &qcow2]);
    run("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", &qcow2, &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &uri]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &back]);
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &back, &raw]);
    let text = run("qemu-img", &["info", "-f", "raw", &uri]);
    assert!(text.contains("8 GiB (8589934592 bytes)"), "{text}");
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    assert!(map.lines().count() >= 3 && map.contains("\"zero\": true"), "{map}");
}

#[test]
fn the_nbd_crate_as_an_old_client() {
    let server = Server::start();
    let mut socket = UnixStream::connect(server.socket()).expect("the server listens");
    let export = nbd::client::handshake(&mut socket, b"demo").expect("a handshake");
    assert_eq!(
        (export.size, export.readonly, export.send_flush, export.send_trim),
        (SIZE, false, true, true)
    );
    let mut client = nbd::client::NbdClient::new(&mut socket, &export);
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    client.seek(SeekFrom::Start((6 << 30) + 77)).expect("a seek");
    client.write_all(&bytes).expect("a write");
    client.flush().expect("a flush");
    client.seek(SeekFrom::Start((6 << 30) + 77)).expect("a seek");
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).expect("a read");
    assert!(back == bytes);
}

#[test]
fn other_clients_see_what_one_wrote() {
    let server = Server::start();
    let mut client = server.connect();
    client.enter("demo", Style::Extended, &[]);
    client.write(0, 1, 4096, &[0x77; 8192]);
    assert_eq!(client.outcome(), (1, 0));
    let uri = server.uri("demo");
    let text = run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0x77 4k 8k", &uri]);
    assert!(text.contains("read 8192/8192"), "{text}");
    client.request(0, WRITE_ZEROES, 2, 4096, 8192);
    assert_eq!(client.outcome(), (2, 0));
    let dump = run("nbddump", &["--length=16384", &uri]);
    assert!(!dump.contains("77"), "{dump}");
}
