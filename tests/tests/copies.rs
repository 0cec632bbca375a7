//! Whole images in and out: what went in comes back, byte for byte.

use cairn_tests::control::assert_pool_and_data_clean;
use cairn_tests::daemon::Launch;
use cairn_tests::data::seed;
use cairn_tests::fixtures::{assert_same_bytes, ext4_image, text};
use cairn_tests::program::{full, number_from_env, run};

fn image_mib() -> u64 {
    number_from_env("CAIRN_TEST_IMAGE_MIB", if full() { 2048 } else { 256 })
}

#[test]
fn nbdcopy_of_a_file_system_in_and_out_is_identical() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mib = image_mib();
    let image = ext4_image(dir.path(), mib, seed("nbdcopy"));
    let pool = dir.path().join("pool");
    let launch = Launch::dev(&pool).create("demo", &format!("{mib}M"));
    let daemon = launch.start();
    run("nbdcopy", &["--flush", &text(&image), &daemon.uri("demo")]).ok();
    let out = dir.path().join("out.ext4");
    run("nbdcopy", &[&daemon.uri("demo"), &text(&out)]).ok();
    assert_same_bytes(&image, &out);

    // It also outlives the daemon, and a snapshot of it is as good as the disk.
    daemon.stop();
    let daemon = launch.start();
    daemon.cairn(&["snapshot", "create", "demo", "copied"]).ok();
    run("nbdcopy", &[&daemon.uri("demo@copied"), &text(&out)]).ok();
    assert_same_bytes(&image, &out);
    run("e2fsck", &["-f", "-n", &text(&out)]).ok();
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

#[test]
fn qemu_img_converts_from_and_to_qcow2() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mib = image_mib();
    let raw = ext4_image(dir.path(), mib, seed("qemu-img"));
    let qcow2 = dir.path().join("in.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &text(&raw), &text(&qcow2)]).ok();

    let pool = dir.path().join("pool");
    let daemon = Launch::dev(&pool).create("demo", &format!("{mib}M")).start();
    let uri = daemon.uri("demo");
    run("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", &text(&qcow2), &uri]).ok();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &text(&raw), &uri]).ok();

    let back = dir.path().join("out.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &text(&back)]).ok();
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &text(&back), &text(&raw)]).ok();
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}
