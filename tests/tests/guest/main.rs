//! What the Linux kernel's own NBD client makes of cairn: file systems on `/dev/nbd0` in a guest that runs cairnd.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use cairn_tests::data::{Rng, seed};
use cairn_tests::guest::Guest;
use cairn_tests::program::full;

/// The life of a file system. Whoever runs it says before: the `type`, how to `check` a device, the mount option that
/// leaves the journal alone, how to `connect`, and has started the daemon with a volume `vol`.
const LIFE: &str = r#"
step "make a file system over four connections"
connect vol /dev/nbd0 -C 4
[ "$(device_bytes /dev/nbd0)" = 1073741824 ]
mkfs.$type -q /dev/nbd0
mount -t $type /dev/nbd0 /mnt
write_files /mnt/first 150
sums /mnt >/run/first.sums
sync

step "take a snapshot while it is mounted"
c snapshot create vol mounted
write_files /mnt/first 30
rm -r /mnt/first/f1*
write_files /mnt/second 100
sums /mnt >/run/second.sums

step "take a snapshot while it is frozen"
fsfreeze --freeze /mnt
c snapshot create vol frozen
fsfreeze --unfreeze /mnt

step "delete, trim, and write on"
rm -r /mnt/first
sync
before=$(used_bytes vol)
fstrim /mnt
[ "$(used_bytes vol)" -lt "$before" ]
write_files /mnt/third 50
sums /mnt >/run/third.sums
umount /mnt
check /dev/nbd0

step "attach the snapshot of the frozen one: all is there without a replay, and read-only"
connect vol@frozen /dev/nbd1 -C 2
[ "$(blockdev --getro /dev/nbd1)" = 1 ]
mount -t $type -o ro,$without_replay /dev/nbd1 /mnt
verify /mnt /run/second.sums
umount /mnt
detach /dev/nbd1

step "attach a clone of the mounted one: all is there after a replay, and can be written"
c snapshot clone vol mounted copy
connect copy /dev/nbd1
mount -t $type /dev/nbd1 /mnt
verify /mnt /run/first.sums
write_files /mnt/fourth 10
umount /mnt
check /dev/nbd1
detach /dev/nbd1

step "kill the daemon: the next one has all"
detach /dev/nbd0
kill_daemon
start_daemon
attach vol /dev/nbd0
mount -t $type -o ro /dev/nbd0 /mnt
verify /mnt /run/third.sums
umount /mnt
detach /dev/nbd0
c pool check --data
stop_daemon
"#;

#[test]
fn ext4_lives_on_a_disk_with_snapshots_and_clones() {
    let output = Guest::with_empty_disk().run(&format!(
        r#"
type=ext4
without_replay=noload
check() {{
    fsck.ext4 -fn "$1"
}}
connect() {{
    attach "$@"
}}
mount_pool
start_daemon --create vol:1G
{LIFE}"#
    ));
    assert_replayed(&output.kernel_log, "EXT4-fs (nbd1): recovery complete");
}

#[test]
fn xfs_lives_on_a_disk_over_tcp() {
    let output = Guest::with_empty_disk().run(&format!(
        r#"
type=xfs
without_replay=norecovery
check() {{
    xfs_repair -n "$1"
}}
connect() {{
    attach_tcp "$@"
}}
cat >/run/cairnd.toml <<'END'
[pool]
path = "/pool/pool.cairn"
create = true
limit = "100G"

[nbd]
unix = ["/pool/nbd.sock"]
tcp = ["127.0.0.1:10809"]

[control]
socket = "/pool/control.sock"
END
mount_pool
start_daemon --config /run/cairnd.toml
c volume create vol --size 1G
{LIFE}"#
    ));
    assert_replayed(&output.kernel_log, "XFS (nbd1): Starting recovery");
}

/// Verifies the numbered files of earlier boots, and writes more until the power is cut, unless `last`. Files of which
/// nobody waits to hear that they are durable, and trims, come in between.
const NUMBERED: &str = r#"
content() {
    yes "file $2 of boot $1" | head -c $(($2 * 7919 % 131072 + 1))
}

disturb() {
    while :; do
        head -c 3000000 /dev/urandom >/mnt/noise.new
        mv /mnt/noise.new /mnt/noise
        fstrim /mnt
    done
}

mount_pool
start_daemon --create vol:1G
c pool check --data
attach vol /dev/nbd0 -C 4
if [ $boot = 1 ]; then
    mkfs.ext4 -q /dev/nbd0
else
    step "replay the journal"
    mount -t ext4 /dev/nbd0 /mnt
    for kept in $files; do
        earlier=${kept%:*}
        for number in $(seq "${kept#*:}"); do
            content "$earlier" "$number" | cmp - "/mnt/boot$earlier/f$number" ||
                die "file $number of boot $earlier was synced, and is lost"
        done
    done
    umount /mnt
    fsck.ext4 -fn /dev/nbd0
fi
if [ $last = true ]; then
    detach /dev/nbd0
    stop_daemon
    exit
fi

step "write"
mount -t ext4 /dev/nbd0 /mnt
mkdir /mnt/boot$boot
disturb &
number=0
while :; do
    number=$((number + 1))
    content $boot $number | dd of=/mnt/boot$boot/f$number bs=64k conv=fsync
    echo "synced $number"
done
"#;

/// The power goes in the middle of a load, again and again: whatever fsync said is on the disk is there after the next
/// boot, and neither the pool nor the file system is damaged.
#[test]
fn a_power_failure_loses_nothing_that_was_synced() {
    let cuts = if full() { 10 } else { 2 };
    let mut rng = Rng::new(seed("power failure"));
    let guest = Guest::with_empty_disk();
    let mut files = String::new();
    for boot in 1..=cuts + 1 {
        let last = boot > cuts;
        let script = format!("boot={boot}\nlast={last}\nfiles='{files}'\n{NUMBERED}");
        let output = if last {
            guest.run(&script)
        } else {
            let running = guest.start(&script);
            running.wait_for_lines("synced ", 40);
            thread::sleep(Duration::from_millis(rng.below(2000)));
            running.power_off().calm()
        };
        if boot > 1 {
            assert_replayed(&output.kernel_log, "EXT4-fs (nbd0): recovery complete");
        }
        if !last {
            let synced = output.values("synced ").len();
            println!("boot {boot}: {synced} files were synced when the power went");
            write!(files, " {boot}:{synced}").expect("a string takes all");
        }
    }
}

/// Without a journal to replay a test of recovery proves nothing.
#[track_caller]
fn assert_replayed(kernel_log: &str, message: &str) {
    assert!(kernel_log.contains(message), "no \"{message}\" in the kernel's log:\n{kernel_log}");
}
