//! The power goes in the middle of a load.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use cairn_tests::data::{Rng, seed};
use cairn_tests::guest::Guest;
use cairn_tests::program::full;

use crate::assert_replayed;

/// Verifies the numbered files of earlier boots, and writes more until the power is cut, unless `last`. Files of which
/// nobody waits to hear that they are durable, and trims, come in between.
const NUMBERED: &str = r#"
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
is_available vol
# By turns nbd-client attaches it, and the daemon does.
if [ $((boot % 2)) = 1 ]; then
    attach vol /dev/nbd0 $several 4
else
    [ "$(c volume attach vol --connections 4)" = /dev/nbd0 ]
fi
if [ $boot = 1 ]; then
    mkfs.ext4 -q /dev/nbd0
else
    step "replay the journal"
    mount -t ext4 /dev/nbd0 /mnt
    for kept in $files; do
        earlier=${kept%:*}
        for number in $(seq "${kept#*:}"); do
            content "boot $earlier" "$number" | cmp - "/mnt/boot$earlier/f$number" ||
                die "file $number of boot $earlier was synced, and is lost"
        done
    done
    umount /mnt
    fsck.ext4 -fn /dev/nbd0
fi
if [ $last = true ]; then
    c volume detach vol
    c pool check --data
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
    content "boot $boot" $number | dd of=/mnt/boot$boot/f$number bs=64k conv=fsync
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
