//! The Debian package: installed, upgraded, removed and purged in a root of its own, without systemd running there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cairn_tests::program::{Outcome, binary, run_command};

/// Mounts a copy of this machine's root, of which only memory is written, over the folder `$1`, and changes into it. What
/// the machine runs is not to be seen there: not its processes, not its /run, not its shared memory.
const ENTER: &str = r#"
set -e
mount -t tmpfs memory "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay root -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cp "$2"/*.deb "$1/root/mnt/"
cd "$1/root"
# Images of Debian for containers have it leave manuals out.
rm -rf etc/dpkg/dpkg.cfg.d
mount --rbind /dev dev
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mount -t tmpfs tmp tmp
read -r pid rest < /proc/self/stat
echo "$pid"
exec chroot . sh -c 'mount -t proc proc /proc && echo ready && exec sleep infinity'
"#;

/// Starts the daemon as its unit does, and waits for its first words.
const START: &str = r#"
install --directory --owner=cairn --group=cairn /run/cairn
start=$(sed -n 's/^ExecStart=//p' /lib/systemd/system/cairnd.service)
setpriv --reuid=cairn --regid=cairn --init-groups --bounding-set=-all --no-new-privs $start > /tmp/said 2>&1 &
echo $! > /tmp/pid
for _ in $(seq 200); do
    if grep -q 'cairnd ready' /tmp/said; then exit 0; fi
    sleep 0.1
done
cat /tmp/said >&2
exit 1
"#;

/// Stops it, and waits for its end.
const STOP: &str = r#"
pid=$(cat /tmp/pid)
kill "$pid"
for _ in $(seq 200); do
    # Nobody here waits for it.
    if grep -q '^State:.Z' "/proc/$pid/status"; then exit 0; fi
    sleep 0.1
done
exit 1
"#;

/// A root of its own, gone with all that runs in it when this is dropped.
struct Machine {
    shell: Child,
    pid: String,
}

impl Machine {
    fn new(folder: &Path, packages: &Path) -> Machine {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"]);
        let mut shell = command
            .args([folder, packages])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut lines =
            BufReader::new(shell.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let pid = lines.next().expect("it is entered: this test needs root and overlay file systems");
        assert_eq!(lines.next().as_deref(), Some("ready"));
        Machine { shell, pid }
    }

    /// Runs a shell script there.
    fn run(&self, script: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--mount", "--pid", "--root", "--wdns=/"]);
        command.args(["env", "--ignore-environment", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "sh", "-ec", script]);
        run_command(command)
    }

    #[track_caller]
    fn ok(&self, script: &str) -> String {
        self.run(script).ok().stdout
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Builds a package of the programs that are there; its path in the [`Machine`].
fn build(version: &str, output: &Path) -> String {
    let programs = binary("cairnd");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["deb", "--version", version, "--output"]).arg(output);
    command.arg("--programs").arg(programs.parent().expect("a folder"));
    let package = PathBuf::from(run_command(command).ok().stdout.trim());
    assert_eq!(package.parent(), Some(output));
    format!("/mnt/{}", package.file_name().expect("a name").to_string_lossy())
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (packages, root) = (dir.path().join("packages"), dir.path().join("root"));
    let old = build("1.0", &packages);
    assert_eq!(fs::read_dir(&packages).expect("a folder").count(), 1, "nothing else is left");
    fs::create_dir(&root).expect("a folder");
    let machine = Machine::new(&root, &packages);

    machine.ok(&format!("dpkg --install {old}"));
    assert_eq!(machine.ok("dpkg --verify cairn"), "");
    for file in [
        "/usr/bin/cairn",
        "/usr/bin/cairnd",
        "/etc/cairn/cairnd.toml",
        "/lib/systemd/system/cairnd.service",
        "/lib/systemd/system/cairnd.socket",
        "/lib/systemd/system/cairn-backup@.timer",
        "/usr/share/man/man1/cairn-volume-create.1.gz",
        "/usr/share/man/man8/cairnd.8.gz",
        "/usr/share/bash-completion/completions/cairn",
        "/usr/share/zsh/vendor-completions/_cairnd",
        "/usr/share/fish/vendor_completions.d/cairn.fish",
        "/usr/share/doc/cairn/copyright",
        "/usr/share/doc/cairn/changelog.gz",
    ] {
        machine.ok(&format!("test -f '{file}'; dpkg --search '{file}'"));
    }
    machine.ok("bash -n /usr/share/bash-completion/completions/cairn");
    assert_eq!(machine.ok("stat --format='%U %G %a' /var/lib/cairn"), "cairn cairn 750\n");
    assert_eq!(machine.ok("stat --format='%U %G %a' /usr/bin/cairnd"), "root root 755\n");
    let depends = machine.ok("dpkg-query --show --showformat='${Depends}' cairn");
    assert!(depends.contains("libc6 (>= "), "{depends}");
    let is_enabled = |unit: &str| machine.run(&format!("systemctl is-enabled {unit}")).stdout;
    assert_eq!(is_enabled("cairnd.service cairnd.socket"), "enabled\nenabled\n");
    machine.ok("cairnd --check-config --config /etc/cairn/cairnd.toml");

    machine.ok(START);
    machine.ok("cairn volume create kept --size 64M");
    machine.ok(STOP);
    machine.ok("systemctl disable cairnd.socket; echo '# mine' >> /etc/cairn/cairnd.toml");

    // The next package's file is another one, too: the administrator's is kept.
    machine.ok(&format!(
        "dpkg-deb --raw-extract {old} /tmp/new; echo '# theirs' >> /tmp/new/etc/cairn/cairnd.toml"
    ));
    machine.ok("sed -i 's/^Version: 1.0$/Version: 1.1/' /tmp/new/DEBIAN/control");
    machine.ok("dpkg-deb --build --root-owner-group -Znone /tmp/new /tmp/new.deb");
    machine.ok("dpkg --force-confold --install /tmp/new.deb");
    assert_eq!(machine.ok("dpkg-query --show --showformat='${Version}' cairn"), "1.1");
    assert_eq!(machine.ok("tail -n 1 /etc/cairn/cairnd.toml"), "# mine\n");
    assert_eq!(machine.ok("tail -n 1 /etc/cairn/cairnd.toml.dpkg-dist"), "# theirs\n");
    assert_eq!(is_enabled("cairnd.service cairnd.socket"), "enabled\ndisabled\n", "as it was left");
    machine.ok(START);
    machine.ok("cairn volume show kept");
    machine.ok(STOP);

    machine.ok("dpkg --remove cairn");
    machine
        .ok("test ! -e /usr/bin/cairnd; test -e /etc/cairn/cairnd.toml; test -e /var/lib/cairn/pool.cairn");
    let purged = machine.run("dpkg --purge cairn").ok();
    assert!(purged.stderr.contains("/var/lib/cairn is kept"), "{purged}");
    machine.ok("test ! -e /etc/cairn; test -e /var/lib/cairn/pool.cairn");

    machine.ok(&format!("rm /var/lib/cairn/*; dpkg --install {old}; dpkg --purge cairn"));
    machine.ok("test ! -e /var/lib/cairn; test ! -e /etc/cairn");
    let files =
        "find /etc/systemd /var/lib/systemd /usr/share/man /usr/share/doc/cairn -name '*cairn*' 2>&1 || true";
    assert_eq!(machine.ok(files).lines().filter(|line| line.starts_with('/')).count(), 0, "nothing is left");
}
