//! As of the other yardsticks: what goes in comes out.

#[allow(dead_code)]
#[path = "../../yardsticks/tests/common/mod.rs"]
mod common;

#[test]
fn keeps_data() {
    common::check_round_trip(env!("CARGO_BIN_EXE_tokio-uring-server"));
}
