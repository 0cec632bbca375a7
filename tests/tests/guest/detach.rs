//! Detaching: what was synced is kept, whoever ends a device and however.

use cairn_tests::guest::Guest;

use crate::assert_replayed;

#[test]
fn a_detachment_from_outside_is_noticed() {
    let output = Guest::with_empty_disk().run(
        r#"
mount_pool
start_daemon --create vol:256M
for connections in 1 4; do
    step "detach with $connections connections"
    c volume attach vol /dev/nbd2 --connections $connections
    head -c 10000000 /dev/urandom >/run/bytes
    dd if=/run/bytes of=/dev/nbd2 bs=1M conv=fsync
    nbd-client -d /dev/nbd2
    until_true 10 is_available vol
    until_true 10 is_free /dev/nbd2
    [ "$(c volume attach vol)" = /dev/nbd0 ]
    head -c 10000000 /dev/nbd0 | cmp - /run/bytes
    c volume detach vol
done

step "what is written and not yet synced is synced by a detachment"
c volume attach vol
dd if=/dev/urandom of=/run/bytes bs=1M count=20
dd if=/run/bytes of=/dev/nbd0 bs=1M
c volume detach vol
kill_daemon
start_daemon
c volume attach vol
head -c 20971520 /dev/nbd0 | cmp - /run/bytes
c volume detach vol
is_free /dev/nbd0
refused volume detach vol
refused volume detach /dev/nbd0
stop_daemon
"#,
    );
    assert_eq!(
        output.values("refused: "),
        [
            "error: volume 'vol' is not attached to anybody (not-found)",
            "error: nothing is attached to /dev/nbd0 (not-found)",
            "hint: \"cairn volume list\" shows who uses what",
        ]
    );
}

#[test]
fn a_forced_detachment_under_load_loses_nothing_that_was_synced() {
    // The file system above sees errors, as it should.
    let output = Guest::with_empty_disk()
        .start(
            r#"
disturb() {
    while head -c 3000000 /dev/urandom >/mnt/noise.new; do
        mv /mnt/noise.new /mnt/noise
    done
}

mount_pool
start_daemon --create vol:1G
c volume attach vol --connections 4
mkfs.ext4 -q /dev/nbd0
for round in 1 2; do
    step "load"
    mount -t ext4 /dev/nbd0 /mnt
    write_numbered /mnt/round$round round$round &
    writer=$!
    disturb &
    noise=$!
    until_true 150 more_are_synced round$round 20
    step "detach by force"
    c volume detach vol --force
    step "detached"
    if wait "$writer"; then
        die "the writer did not notice"
    fi
    wait "$noise" || true
    echo "synced $(synced round$round)"
    is_available vol
    refused volume attach vol
    if [ $round = 2 ]; then
        kill_daemon
        start_daemon
        is_available vol
        refused volume attach vol
    fi
    umount /mnt
    until_true 10 is_free /dev/nbd0

    step "look what is there"
    [ "$(c volume attach vol --connections 4)" = /dev/nbd0 ]
    mount -t ext4 /dev/nbd0 /mnt
    verify_numbered /mnt/round$round round$round "$(synced round$round)"
    umount /mnt
    fsck.ext4 -fn /dev/nbd0
done

step "reset what is stuck"
c qos set vol total_iops_sec=1
dd if=/dev/nbd0 of=/dev/null bs=4k count=1000 &
reader=$!
dd if=/dev/zero of=/dev/nbd0 bs=4k count=1000 seek=1000 oflag=direct &
writer=$!
sleep 2
c volume reset-attachments vol --yes
step "it was reset"
is_available vol
wait "$reader" || true
wait "$writer" || true
until_true 10 is_free /dev/nbd0
c qos set vol total_iops_sec=0
[ "$(c volume attach vol)" = /dev/nbd0 ]
c volume detach vol
c pool check --data
stop_daemon
"#,
        )
        .finish()
        .ok_without_disk();
    let still_mounted = [
        "error: /dev/nbd0, which this volume was detached from, is still in use on this machine (busy)",
        "hint: unmount what is on it, or end the programs that have it open, and try again",
    ];
    assert_eq!(output.values("refused: "), still_mounted.repeat(3));
    assert_replayed(&output.kernel_log, "EXT4-fs (nbd0): recovery complete");
    println!("files that were synced when the device went: {:?}", output.values("synced "));
}
