//! Images: imported from every format, made of volumes, exported, and what must not happen meanwhile. QEMU makes the
//! files that are imported, and judges those that are exported.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::control::{number, request};
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{BLOCK, Rng, seed};
use cairn_tests::fixtures::{assert_same_bytes, ext4_image, flip_byte, text};
use cairn_tests::program::{Outcome, binary, run, run_command, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Bounds against hanging.
const LIMIT: Duration = Duration::from_secs(120);

fn start() -> (TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).start();
    (dir, daemon)
}

/// A file system in a raw image of 32 MiB.
fn disk(folder: &Path) -> PathBuf {
    ext4_image(folder, 32, 7)
}

fn qemu_img(args: &[&str]) -> Outcome {
    run("qemu-img", args)
}

#[track_caller]
fn convert(raw: &Path, to: &Path, options: &[&str]) {
    let (raw, to) = (text(raw), text(to));
    qemu_img(&[&["convert", "-f", "raw"], options, &[&raw, &to]].concat()).ok();
}

/// Panics unless an export reads as a raw file does. What is beyond the shorter one must be zeroes.
#[track_caller]
fn assert_export_is(daemon: &Daemon, export: &str, raw: &Path) {
    qemu_img(&["compare", "-f", "raw", "-F", "raw", &text(raw), &daemon.uri(export)]).ok();
}

fn images(daemon: &Daemon) -> Vec<String> {
    let list = daemon.cairn_json(&["image", "list"]);
    let images = list["images"].as_array().expect("a list of images").clone();
    images.iter().map(|image| image["name"].as_str().expect("a name").to_owned()).collect()
}

fn volumes(daemon: &Daemon) -> Vec<String> {
    let list = daemon.cairn_json(&["volume", "list"]);
    let volumes = list["volumes"].as_array().expect("a list of volumes").clone();
    volumes.iter().map(|volume| volume["name"].as_str().expect("a name").to_owned()).collect()
}

fn used(daemon: &Daemon) -> u64 {
    number(&daemon.cairn_json(&["pool", "status"]), "used")
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_format_is_imported_as_what_it_holds() {
    let (dir, daemon) = start();
    let raw = disk(dir.path());
    let file = |name: &str| dir.path().join(name);
    for (name, format, options) in [
        ("plain.qcow2", "qcow2", &["-O", "qcow2"][..]),
        ("packed.qcow2", "qcow2", &["-O", "qcow2", "-c"]),
        ("zstd.qcow2", "qcow2", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
        ("old.qcow2", "qcow2", &["-O", "qcow2", "-o", "compat=0.10"]),
        ("small.qcow2", "qcow2", &["-O", "qcow2", "-o", "cluster_size=4k"]),
        ("subclusters.qcow2", "qcow2", &["-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"]),
        ("sparse.vmdk", "vmdk", &["-O", "vmdk"]),
        ("stream.vmdk", "vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ("dynamic.vhd", "vhd", &["-O", "vpc"]),
        ("exact.vhd", "vhd", &["-O", "vpc", "-o", "force_size=on"]),
        ("fixed.vhd", "vhd", &["-O", "vpc", "-o", "subformat=fixed,force_size=on"]),
        ("dynamic.vhdx", "vhdx", &["-O", "vhdx"]),
        ("fixed.vhdx", "vhdx", &["-O", "vhdx", "-o", "subformat=fixed"]),
    ] {
        convert(&raw, &file(name), options);
        let made = daemon.cairn_json(&["image", "import", &text(&file(name)), name]);
        assert_eq!((&made["format"], &made["status"]), (&json!(format), &json!("available")), "{name}");
        assert_eq!(made["source"], json!({"kind": "file", "name": name}));
        assert_export_is(&daemon, &format!("image:{name}"), &raw);
    }
    fs::rename(&raw, file("disk.raw")).expect("renamed");
    let folder = text(dir.path());
    for (name, options) in [("plain.tar.gz", "--format=gnu"), ("sparse.tar.gz", "--format=oldgnu")] {
        let archive = text(&file(name));
        let sparse = if name.starts_with("sparse") { &["--sparse"][..] } else { &[] };
        run("tar", &[&["-C", &folder, options, "-czf", &archive], sparse, &["disk.raw"]].concat()).ok();
        let made = daemon.cairn_json(&["image", "import", &archive, name]);
        assert_eq!((number(&made, "size"), &made["format"]), (32 * MIB, &json!("raw.tar.gz")));
        assert_export_is(&daemon, &format!("image:{name}"), &file("disk.raw"));
    }
    daemon.cairn(&["image", "import", &text(&file("disk.raw")), "raw"]).ok();
    assert_export_is(&daemon, "image:raw", &file("disk.raw"));
    assert!(daemon.cairn(&["pool", "check", "--data"]).status.success());
    assert_eq!(volumes(&daemon), [""; 0], "images are not volumes");
    daemon.stop();
}

#[test]
fn exports_are_what_qemu_and_tar_take_them_for() {
    let (dir, daemon) = start();
    let raw = disk(dir.path());
    let file = |name: &str| dir.path().join(name);
    daemon.cairn(&["image", "import", &text(&raw), "base"]).ok();
    daemon.cairn(&["volume", "create", "web", "--from-image", "base"]).ok();
    daemon.connect("web").write(MIB, &[9; BLOCK]).expect("a write");
    daemon.cairn(&["snapshot", "create", "web", "s"]).ok();
    daemon.connect("web").write(2 * MIB, &[8; BLOCK]).expect("a write");
    for (what, export) in [("base", "image:base"), ("web", "web"), ("web@s", "web@s")] {
        let (qcow2, archive, plain) = (file("out.qcow2"), file("out.tar.gz"), file("out.raw"));
        for (out, format) in [(&qcow2, "qcow2"), (&archive, "raw.tar.gz"), (&plain, "raw")] {
            let done = daemon.cairn_json(&["image", "export", what, &text(out)]);
            assert_eq!(done["format"], format, "told by the name");
        }
        let uri = daemon.uri(export);
        qemu_img(&["check", "-f", "qcow2", &text(&qcow2)]).ok();
        qemu_img(&["compare", "-f", "qcow2", "-F", "raw", &text(&qcow2), &uri]).ok();
        let info = qemu_img(&["info", "--output=json", &text(&qcow2)]).ok().json();
        assert_eq!(number(&info, "virtual-size"), 32 * MIB);
        qemu_img(&["compare", "-f", "raw", "-F", "raw", &text(&plain), &uri]).ok();
        run("tar", &["-C", &text(dir.path()), "-xzf", &text(&archive)]).ok();
        assert_same_bytes(&plain, &file("disk.raw"));
        let blocks =
            |path: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).expect("there"));
        assert!(blocks(&plain) * 512 < 28 * MIB, "holes stay holes: {} blocks", blocks(&plain));

        // The same through pipes.
        for (format, whole) in [("qcow2", &qcow2), ("raw.tar.gz", &archive), ("raw", &plain)] {
            let piped = file("piped");
            let mut command = cairn(&daemon, &["image", "export", what, "-", "--format", format]);
            command.stdout(File::create(&piped).expect("a file"));
            assert!(command.stderr(Stdio::null()).status().expect("runs").success());
            assert_same_bytes(&piped, whole);
        }
    }
    let left: Vec<_> = fs::read_dir(dir.path())
        .expect("a folder")
        .filter_map(|entry| {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            name.ends_with(".part").then_some(name)
        })
        .collect();
    assert_eq!(left, [""; 0]);
    wait_until("the snapshots that were taken to be read are gone", || {
        number(&daemon.cairn_json(&["volume", "show", "web"]), "snapshots") == 1
    });
    daemon.stop();
}

fn cairn(daemon: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(binary("cairn"));
    command.arg("--dev").arg(daemon.dir()).args(args);
    command
}

#[test]
fn odd_sizes_are_rounded_up_to_sectors() {
    let (dir, daemon) = start();
    let odd = dir.path().join("odd");
    for (len, size) in [(1, 512), (512, 512), (1000, 1024), (MIB + 5, MIB + 512)] {
        let mut bytes = vec![0; len as usize];
        Rng::new(len).fill(&mut bytes);
        fs::write(&odd, &bytes).expect("written");
        let name = format!("file-{len}");
        let made = daemon.cairn_json(&["image", "import", &text(&odd), &name]);
        assert_eq!(number(&made, "size"), size);
        bytes.resize(size as usize, 0);
        let read = daemon.connect(&format!("image:{name}")).read(0, size as u32).expect("a read");
        assert!(read == bytes, "{len} bytes and then zeroes");

        // The same from a stream, whose size nobody knows.
        let piped = format!("stream-{len}");
        let mut command = cairn(&daemon, &["image", "import", "-", &piped]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("runs");
        child.stdin.take().expect("a pipe").write_all(&bytes[..len as usize]).expect("is read");
        assert!(wait(&mut child, LIMIT).is_some_and(|status| status.success()));
        assert_eq!(number(&daemon.cairn_json(&["image", "show", &piped]), "size"), size);
        let read = daemon.connect(&format!("image:{piped}")).read(0, size as u32).expect("a read");
        assert!(read == bytes, "{len} bytes and then zeroes");
    }
    fs::write(&odd, "").expect("written");
    daemon.cairn(&["image", "import", &text(&odd), "empty"]).refused();
    daemon.cairn(&["image", "import", "/dev/null", "empty"]).refused();
    // A volume of any size is exported as it is, and as whole sectors where the format has nothing else.
    daemon.cairn(&["volume", "create", "v", "--size", "1000"]).ok();
    daemon.connect("v").write(0, &[7; 1000]).expect("a write");
    let (raw, qcow2) = (dir.path().join("v.raw"), dir.path().join("v.qcow2"));
    daemon.cairn(&["image", "export", "v", &text(&raw)]).ok();
    assert_eq!(fs::read(&raw).expect("there"), [7; 1000]);
    daemon.cairn(&["image", "export", "v", &text(&qcow2)]).ok();
    qemu_img(&["check", &text(&qcow2)]).ok();
    let size = qemu_img(&["info", "--output=json", &text(&qcow2)]).ok().json();
    assert_eq!(number(&size, "virtual-size"), 1024);
    daemon.stop();
}

/// 10 GiB with a few blocks of data: neither side works through the holes.
#[test]
fn a_sparse_image_takes_what_it_holds() {
    let (dir, daemon) = start();
    let sparse = dir.path().join("sparse.raw");
    let file = File::create(&sparse).expect("a file");
    file.set_len(10 << 30).expect("sized");
    for at in [0, 5 << 30, (10 << 30) - BLOCK as u64] {
        file.write_all_at(&[1; BLOCK], at).expect("written");
    }
    let made = daemon.cairn_json(&["image", "import", &text(&sparse), "sparse"]);
    assert_eq!(number(&made, "size"), 10 << 30);
    assert!(number(&made, "mapped") <= MIB, "{made}");
    let qcow2 = dir.path().join("sparse.qcow2");
    daemon.cairn(&["image", "export", "sparse", &text(&qcow2)]).ok();
    assert!(fs::metadata(&qcow2).expect("there").len() < 2 * MIB);
    qemu_img(&["check", &text(&qcow2)]).ok();
    qemu_img(&["compare", "-f", "qcow2", "-F", "raw", &text(&qcow2), &text(&sparse)]).ok();
    let archive = dir.path().join("sparse.tar.gz");
    daemon.cairn(&["image", "export", "sparse", &text(&archive)]).ok();
    assert!(fs::metadata(&archive).expect("there").len() < MIB);
    let back = daemon.cairn_json(&["image", "import", &text(&archive), "back"]);
    assert_eq!((number(&back, "size"), number(&back, "mapped")), (10 << 30, number(&made, "mapped")));
    daemon.stop();
}

/// Images that would have the importer read its user's other files.
#[test]
fn files_that_an_image_names_are_never_followed() {
    let (dir, daemon) = start();
    let file = |name: &str| text(&dir.path().join(name));
    let secret = file("secret");
    fs::write(&secret, vec![b's'; MIB as usize]).expect("written");
    let create = |options: &[&str]| qemu_img(&[&["create", "-q"], options].concat()).ok();
    create(&["-f", "qcow2", "-b", &secret, "-F", "raw", &file("backing.qcow2")]);
    create(&[
        "-f",
        "qcow2",
        "-o",
        &format!("data_file={secret},data_file_raw=on"),
        &file("data.qcow2"),
        "1M",
    ]);
    fs::write(&secret, vec![b's'; MIB as usize]).expect("written again");
    create(&["-f", "vmdk", "-o", "subformat=monolithicFlat", &file("flat.vmdk"), "1M"]);
    create(&["-f", "vmdk", &file("parent.vmdk"), "1M"]);
    create(&["-f", "vmdk", "-b", &file("parent.vmdk"), "-F", "vmdk", &file("child.vmdk")]);
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 2048 FLAT \"{secret}\" 0\n"
    );
    fs::write(file("text.vmdk"), &descriptor).expect("written");
    // The same text inside of what looks like a disk of its own.
    let mut hidden = vec![0; 64 << 10];
    hidden[..8].copy_from_slice(b"KDMV\x01\0\0\0");
    hidden[28] = 1;
    hidden[36] = 20;
    hidden[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    fs::write(file("hidden.vmdk"), hidden).expect("written");
    for name in ["backing.qcow2", "data.qcow2", "flat.vmdk", "child.vmdk", "text.vmdk", "hidden.vmdk"] {
        let refused = daemon.cairn(&["image", "import", &file(name), "attack"]).refused();
        assert!(refused.stderr.contains("(image-refused)"), "{name}: {refused}");
        assert!(!refused.stderr.contains("ssss"), "{refused}");
    }
    assert_eq!(images(&daemon), [""; 0]);
    // As what it is to whoever says so: bytes.
    let made = daemon.cairn_json(&["image", "import", &file("text.vmdk"), "bytes", "--format", "raw"]);
    assert_eq!(number(&made, "size"), 512);
    daemon.stop();
}

#[test]
fn damaged_images_are_told_and_leave_nothing() {
    let (dir, daemon) = start();
    let raw = disk(dir.path());
    let file = |name: &str| dir.path().join(name);
    convert(&raw, &file("a.qcow2"), &["-O", "qcow2"]);
    convert(&raw, &file("c.qcow2"), &["-O", "qcow2", "-c"]);
    convert(&raw, &file("s.vmdk"), &["-O", "vmdk", "-o", "subformat=streamOptimized"]);
    convert(&raw, &file("d.vmdk"), &["-O", "vmdk"]);
    convert(&raw, &file("d.vhd"), &["-O", "vpc"]);
    convert(&raw, &file("f.vhd"), &["-O", "vpc", "-o", "subformat=fixed"]);
    convert(&raw, &file("d.vhdx"), &["-O", "vhdx"]);
    run("tar", &["-C", &text(dir.path()), "-czf", &text(&file("t.tar.gz")), "image.ext4"]).ok();
    for name in ["a.qcow2", "c.qcow2", "s.vmdk", "d.vmdk", "d.vhd", "d.vhdx", "t.tar.gz"] {
        let whole = fs::read(file(name)).expect("there");
        let cut = file("cut");
        for percent in [1, 30, 60, 90] {
            fs::write(&cut, &whole[..whole.len() * percent / 100]).expect("written");
            daemon.cairn(&["image", "import", &text(&cut), "cut"]).refused();
        }
    }
    let fixed = fs::read(file("f.vhd")).expect("there");
    fs::write(file("cut"), &fixed[MIB as usize..]).expect("written");
    daemon.cairn(&["image", "import", &text(&file("cut")), "cut"]).refused();
    assert_eq!(images(&daemon), [""; 0]);
    // Bytes changed in what describes the disk: an error or a disk, never a panic.
    let mut rng = Rng::new(seed("damaged_images_are_told_and_leave_nothing"));
    for round in 0..60 {
        let (name, within) = [("a.qcow2", 512 << 10), ("d.vmdk", 64 << 10), ("d.vhd", 4 << 10)][round % 3];
        fs::copy(file(name), file("flipped")).expect("copied");
        for _ in 0..1 + rng.below(4) {
            let at = if rng.chance(50) { rng.below(128) } else { rng.below(within) };
            flip_byte(&file("flipped"), at, 1 << rng.below(8)).expect("flipped");
        }
        let outcome = daemon.cairn(&["image", "import", &text(&file("flipped")), "flipped"]);
        match outcome.status.success() {
            true => drop(daemon.cairn(&["image", "delete", "flipped"]).ok()),
            false => drop(outcome.refused()),
        }
    }
    assert_eq!(images(&daemon), [""; 0]);
    daemon.stop();
}

/// An import from a pipe that has begun and waits for more.
fn stalled_import(daemon: &Daemon, name: &str) -> Child {
    let mut command = cairn(daemon, &["image", "import", "-", name]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut bytes = vec![0; 48 << 20];
    Rng::new(1).fill(&mut bytes);
    child.stdin.as_mut().expect("a pipe").write_all(&bytes).expect("is read");
    wait_until("the import has written", || {
        let (status, image) = request(&daemon.control_socket(), "GET", &format!("/v1/images/{name}"), None);
        status == 200 && number(&image, "mapped") >= 32 << 20
    });
    child
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("a signal can be sent");
}

#[test]
fn an_import_that_is_interrupted_leaves_nothing() {
    let (_dir, daemon) = start();
    let before = used(&daemon);
    for kind in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = stalled_import(&daemon, "half");
        daemon.cairn(&["image", "delete", "half"]).refused();
        daemon.cairn(&["image", "edit", "half", "--description", "x"]).refused();
        daemon.cairn(&["volume", "create", "v", "--from-image", "half"]).refused();
        let listed = daemon.cairn(&["image", "list"]).ok();
        assert!(listed.stdout.contains("importing"), "{listed}");
        signal(&child, kind);
        assert_eq!(wait(&mut child, LIMIT).and_then(|status| status.code()), Some(1));
        assert_eq!(images(&daemon), [""; 0], "gone with the command");
    }
    // From outside.
    let mut child = stalled_import(&daemon, "half");
    daemon.cairn(&["image", "delete", "half", "--force"]).ok();
    drop(child.stdin.take());
    assert!(wait(&mut child, LIMIT).is_some_and(|status| !status.success()));
    assert_eq!(images(&daemon), [""; 0]);
    wait_until("the space is given back", || used(&daemon) < before + 16 * MIB);
    daemon.stop();
}

#[test]
fn an_importer_that_is_killed_is_noticed() {
    let (_dir, daemon) = start();
    let mut child = stalled_import(&daemon, "half");
    signal(&child, Signal::SIGKILL);
    wait(&mut child, LIMIT);
    wait_until("the half image is gone", || images(&daemon).is_empty());
    // That is said once it is gone.
    wait_until("the log says so", || daemon.said().contains("whoever imported"));
    daemon.stop();
}

/// Rounds at different points of the import and of what follows it.
#[test]
fn a_daemon_that_is_killed_keeps_whole_images_only() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path());
    let mut daemon = launch.start();
    let mut child = stalled_import(&daemon, "half");
    daemon.kill_9();
    drop(child.stdin.take());
    assert!(wait(&mut child, LIMIT).is_some_and(|status| !status.success()));
    daemon = launch.start();
    assert_eq!(images(&daemon), [""; 0], "the half image went with the restart");

    let raw = disk(dir.path());
    daemon.cairn(&["volume", "create", "web", "--size", "64M"]).ok();
    for round in 0..8 {
        let file = text(&raw);
        let name = format!("image-{round}");
        let mut import = cairn(&daemon, &["image", "import", &file, &name]);
        let mut import = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        let made = format!("made-{round}");
        let mut create = cairn(&daemon, &["image", "create", &made, "--from", "web"]);
        let mut create = create.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        thread::sleep(Duration::from_millis(round * 25));
        daemon.kill_9();
        let imported = wait(&mut import, LIMIT).is_some_and(|status| status.success());
        let created = wait(&mut create, LIMIT).is_some_and(|status| status.success());
        daemon = launch.start();
        let names = images(&daemon);
        for (name, kept) in [(&name, imported), (&made, created)] {
            assert!(!kept || names.contains(name), "{name} was answered and is gone: {names:?}");
        }
        if names.contains(&name) {
            assert_export_is(&daemon, &format!("image:{name}"), &raw);
        }
        let list = daemon.cairn_json(&["image", "list"]);
        for image in list["images"].as_array().expect("a list") {
            assert_eq!(image["status"], "available", "{image}");
        }
        assert_eq!(
            number(&daemon.cairn_json(&["volume", "show", "web"]), "snapshots"),
            0,
            "nothing is left of it"
        );
    }
    assert!(daemon.cairn(&["pool", "check", "--data"]).status.success());
    daemon.stop();
}

#[test]
fn volumes_from_an_image_are_instant_and_independent() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::dev(dir.path());
    let daemon = launch.start();
    let raw = disk(dir.path());
    daemon.cairn(&["image", "import", &text(&raw), "base", "--os-type", "linux", "--min-memory", "1G"]).ok();
    let before = used(&daemon);
    for n in 0..10 {
        let made = daemon.cairn_json(&["volume", "create", &format!("vm-{n}"), "--from-image", "base"]);
        assert_eq!((&made["image"], &made["origin"]), (&json!("base"), &Value::Null));
        assert_eq!(number(&made, "size"), 32 * MIB);
    }
    assert!(used(&daemon) - before < MIB, "blocks are shared");
    let larger = daemon.cairn_json(&["volume", "create", "large", "--from-image", "base", "--size", "1G"]);
    assert_eq!(number(&larger, "size"), 1 << 30);
    daemon.cairn(&["volume", "create", "small", "--from-image", "base", "--size", "16M"]).refused();
    daemon.connect("vm-0").write(0, &[5; BLOCK]).expect("a write");
    assert_export_is(&daemon, "vm-1", &raw);
    assert_export_is(&daemon, "image:base", &raw);
    assert!(daemon.connect("image:base").write(0, &[5; BLOCK]).is_err(), "an image does not change");
    let tree = daemon.cairn(&["snapshot", "tree", "vm-0"]).ok();
    assert!(tree.stdout.contains("image:base") && !tree.stdout.contains("img-"), "{tree}");
    let listed =
        run("nbdinfo", &["--list", &format!("nbd+unix:///?socket={}", daemon.nbd_socket().display())]).ok();
    assert!(listed.stdout.contains("image:base") && !listed.stdout.contains("img-"), "{listed}");

    // In use.
    assert_eq!(number(&daemon.cairn_json(&["image", "show", "base"]), "volumes"), 11);
    let refused = daemon.cairn(&["image", "delete", "base"]).refused();
    assert!(refused.stderr.contains("11 volumes") && refused.stderr.contains("--force"), "{refused}");
    daemon.cairn(&["image", "edit", "base", "--protected", "on", "--min-disk", "64M"]).ok();
    let refused = daemon.cairn(&["image", "delete", "base", "--force"]).refused();
    assert!(refused.stderr.contains("protected"), "{refused}");
    let made = daemon.cairn_json(&["volume", "create", "wide", "--from-image", "base"]);
    assert_eq!(number(&made, "size"), 64 * MIB, "what the image asks for");
    daemon.stop();

    let daemon = launch.start();
    let shown = daemon.cairn_json(&["image", "show", "base"]);
    assert_eq!((&shown["protected"], &shown["os_type"]), (&json!(true), &json!("linux")));
    assert_eq!((number(&shown, "min_memory"), number(&shown, "volumes")), (1 << 30, 12));
    daemon.cairn(&["image", "edit", "base", "--protected", "off", "--name", "old"]).ok();
    let reader = daemon.connect("image:old");
    daemon.cairn(&["image", "delete", "old", "--force"]).refused();
    drop(reader);
    wait_until("the reader is gone", || {
        daemon.cairn(&["image", "delete", "old", "--force"]).status.success()
    });
    assert_eq!(images(&daemon), [""; 0]);
    assert_export_is(&daemon, "vm-1", &raw);
    for n in 0..10 {
        daemon.cairn(&["volume", "delete", &format!("vm-{n}"), "--yes"]).ok();
    }
    daemon.cairn(&["volume", "delete", "large", "wide", "--yes"]).ok();
    wait_until("the space is given back", || used(&daemon) < 8 * MIB);
    assert!(daemon.cairn(&["pool", "check", "--data"]).status.success());
    daemon.stop();
}

#[test]
fn names_of_images_and_volumes_are_apart() {
    let (dir, daemon) = start();
    let raw = dir.path().join("disk.raw");
    fs::write(&raw, [3; BLOCK]).expect("written");
    daemon.cairn(&["volume", "create", "web", "--size", "1M"]).ok();
    daemon.connect("web").write(0, &[4; BLOCK]).expect("a write");
    daemon.cairn(&["image", "import", &text(&raw), "web"]).ok();
    daemon.cairn(&["image", "import", &text(&raw), "web"]).refused();
    daemon.cairn(&["image", "create", "web", "--from", "web"]).refused();
    daemon.cairn(&["image", "create", "other", "--from", "web"]).ok();
    daemon.cairn(&["image", "edit", "other", "--name", "web"]).refused();
    for name in ["", "a b", "a@b", "image:x", &"n".repeat(129)] {
        daemon.cairn(&["image", "import", &text(&raw), name]).refused();
    }
    let longest = "n".repeat(128);
    daemon.cairn(&["image", "import", &text(&raw), &longest]).ok();

    let out = dir.path().join("out.raw");
    fs::write(&out, "precious").expect("written");
    let refused = daemon.cairn(&["image", "export", "web", &text(&out)]).refused();
    assert!(refused.stderr.contains("volume:web"), "{refused}");
    daemon.cairn(&["image", "export", "nothing", &text(&out)]).refused();
    daemon.cairn(&["image", "export", "web@nothing", &text(&out)]).refused();
    daemon.cairn(&["image", "export", "web", "/dev/null", "--format", "raw"]).refused();
    assert_eq!(fs::read(&out).expect("there"), b"precious", "kept until there is something better");
    daemon.cairn(&["image", "export", "image:web", &text(&out)]).ok();
    assert_eq!(fs::read(&out).expect("there"), [3; BLOCK]);
    daemon.cairn(&["image", "export", "volume:web", &text(&out)]).ok();
    assert_eq!(fs::read(&out).expect("there")[..BLOCK], [4; BLOCK]);
    let unnamed = daemon.cairn(&["image", "export", "volume:web", &text(&dir.path().join("out"))]);
    assert_eq!(unnamed.status.code(), Some(2), "{unnamed}");
    // An image is made of a volume as it is, and has nothing to do with it from then on.
    daemon.cairn(&["volume", "delete", "web", "--yes"]).ok();
    assert_eq!(daemon.connect("image:other").read(0, 4096).expect("a read"), [4; BLOCK]);
    daemon.cairn(&["image", "delete", "web", "other", &longest]).ok();
    daemon.stop();
}

/// A disk that its user has made look like another format is still a disk to who says so.
#[test]
fn what_a_file_is_said_to_be_is_what_it_is_taken_for() {
    let (dir, daemon) = start();
    let disk = dir.path().join("disk");
    let file = OpenOptions::new().write(true).create_new(true).open(&disk).expect("a file");
    file.set_len(MIB).expect("sized");
    file.write_all_at(b"QFI\xfb\0\0\0\x03", 0).expect("written");
    daemon.cairn(&["image", "import", &text(&disk), "a"]).refused();
    let made = daemon.cairn_json(&["image", "import", &text(&disk), "a", "--format", "raw"]);
    assert_eq!(number(&made, "size"), MIB);
    daemon.cairn(&["image", "import", &text(&disk), "b", "--format", "vmdk"]).refused();
    let large = daemon
        .cairn(&["image", "import", &text(&disk), "b", "--format", "raw", "--max-size", "64K"])
        .refused();
    assert!(large.stderr.contains("--max-size"), "{large}");
    // Archives with more than a disk in them.
    fs::write(dir.path().join("other"), "x").expect("written");
    let archive = text(&dir.path().join("two.tar.gz"));
    run("tar", &["-C", &text(dir.path()), "-czf", &archive, "disk", "other"]).ok();
    daemon.cairn(&["image", "import", &archive, "two"]).refused();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("head -c 1G /dev/zero | gzip -1 > {}", text(&dir.path().join("bomb.gz")))]);
    run_command(shell).ok();
    daemon.cairn(&["image", "import", &text(&dir.path().join("bomb.gz")), "bomb"]).refused();
    assert_eq!(images(&daemon), ["a"]);
    daemon.stop();
}
