//! Mixed loads whose every byte is checked afterwards: fio's, and the oracle's.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cairn_tests::control::{assert_pool_and_data_clean, assert_pool_clean};
use cairn_tests::daemon::Launch;
use cairn_tests::data::seed;
use cairn_tests::load::{Load, Shape, lock};
use cairn_tests::oracle::{Model, each_block};
use cairn_tests::program::{full, run_command, workspace};

const MIB: u64 = 1 << 20;

/// `fio-jobs/verify.fio`: crc32c over random writes of 512 B to 1 MiB on four connections, with trims and zeroes on two
/// more.
#[test]
fn fio_verifies_what_it_wrote() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", if full() { "2G" } else { "256M" }).start();
    let mut fio = std::process::Command::new("fio");
    fio.arg(workspace().join("fio-jobs/verify.fio")).arg("--output-format=json").current_dir(dir.path());
    fio.env("URI", daemon.uri("demo"));
    let report = run_command(fio).ok();
    // libnbd's engine prints a line for each connection before the report.
    let json = report.stdout.find('{').map_or("", |start| &report.stdout[start..]);
    let json: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {report}"));
    let jobs = json["jobs"].as_array().expect("fio reports its jobs");
    for job in jobs {
        assert_eq!(job["error"], 0, "{job}");
    }
    let total = |kind: &str| jobs.iter().filter_map(|job| job[kind]["total_ios"].as_u64()).sum::<u64>();
    assert!(
        total("write") > 0 && total("read") > 0 && total("trim") > 0,
        "fio did not do its work: {report}"
    );
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

/// The oracle's load without any crash: writes of every size, zeroes and trims on four connections with many requests in
/// flight. Everything is there afterwards, and after a restart.
#[test]
fn a_mixed_load_leaves_what_it_wrote() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path()).create("demo", "64M");
    let daemon = launch.start();
    let model = Arc::new(Mutex::new(Model::new(64 * MIB, false)));
    let shape = Shape { connections: 4, depth: 16, zeroes: true, largest: 256 };
    let load = Load::start(&daemon.nbd_socket(), "demo", &model, shape, seed("mixed load"));
    thread::sleep(Duration::from_secs(if full() { 60 } else { 5 }));
    let answered = load.finish();
    println!("{answered} requests answered");
    assert!(answered > 0);
    let verify = |daemon: &cairn_tests::daemon::Daemon| {
        daemon
            .connect("demo")
            .read_all(|offset, bytes| {
                let held = each_block(offset, bytes, |index, block| lock(&model).current(index, block));
                held.unwrap_or_else(|e| panic!("{e}"));
            })
            .expect("the disk can be read");
    };
    verify(&daemon);
    assert_pool_clean(&daemon);
    daemon.stop();
    let daemon = launch.start();
    verify(&daemon);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}
