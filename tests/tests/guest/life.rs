//! File systems on devices that `nbd-client` attaches: the whole way from mkfs to a recovery after kill -9.

use cairn_tests::guest::Guest;

use crate::assert_replayed;

/// The life of a file system. Whoever runs it says before: the `type`, how to `check` a device, the mount option that
/// leaves the journal alone, how to `connect`, and has started the daemon with a volume `vol`.
const LIFE: &str = r#"
step "make a file system over four connections"
connect vol /dev/nbd0 $several 4
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
connect vol@frozen /dev/nbd1 $several 2
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
