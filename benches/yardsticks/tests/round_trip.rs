//! A yardstick that cheats measures nothing: data goes in and comes out, and the one that has none has at least a size.

mod common;

use common::{Server, check_round_trip, client};

#[test]
fn raw_server_keeps_data() {
    check_round_trip(env!("CARGO_BIN_EXE_raw-server"));
}

#[test]
fn null_server_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(env!("CARGO_BIN_EXE_null-server"), folder.path(), "64");
    let uri = server.uri();
    assert_eq!(client("nbdinfo", &["--size", &uri]).trim(), (64 << 20).to_string());
    let said =
        client("qemu-io", &["-f", "raw", &uri, "-c", "write 4k 64k", "-c", "flush", "-c", "read 1M 1M"]);
    assert!(said.contains("wrote 65536/65536") && said.contains("read 1048576/1048576"), "{said}");
}
