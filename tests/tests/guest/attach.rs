//! `cairn volume attach`: a volume is one device's at a time, and grows under a mounted file system.

use cairn_tests::guest::Guest;

/// Refused while `vol` is attached as /dev/nbd3.
const EXCLUSIVE: &str = r#"
exclusive() {
    refused volume attach vol
    refused volume attach vol /dev/nbd4
    refused volume edit vol --name renamed
    refused volume delete vol --yes
    kept_out vol
}
"#;

#[test]
fn an_attached_volume_is_one_devices_and_grows_while_it_is_mounted() {
    let output = Guest::with_empty_disk().run(&format!(
        r#"{EXCLUSIVE}
mount_pool
start_daemon --create vol:1G --create other:512M

step "attach to a free device, over one connection"
[ "$(c volume attach other)" = /dev/nbd0 ]
has_device other /dev/nbd0 1
[ "$(device_bytes /dev/nbd0)" = 536870912 ]

step "attach to another one by its name, over four connections"
[ "$(c volume attach vol /dev/nbd3 --connections 4)" = /dev/nbd3 ]
has_device vol /dev/nbd3 4
[ "$(of_volume vol status)" = in-use ]
[ "$(device_bytes /dev/nbd3)" = 1073741824 ]
[ "$(blockdev --getro /dev/nbd3)" = 0 ]

step "nobody else may have it"
exclusive

step "nor right after the daemon was killed"
kill_daemon
start_daemon
exclusive
until_true 10 has_device vol /dev/nbd3 4
until_true 10 has_device other /dev/nbd0 1

step "grow XFS while it is mounted"
mkfs.xfs -q /dev/nbd0
mount -t xfs /dev/nbd0 /mnt
write_files /mnt/files 30
c volume resize other --size 1G --yes
[ "$(device_bytes /dev/nbd0)" = 1073741824 ]
[ "$(filesystem_bytes /mnt)" -lt 536870912 ]
xfs_growfs /mnt
[ "$(filesystem_bytes /mnt)" -gt 900000000 ]
write_files /mnt/more 30
sums /mnt >/run/xfs.sums
forget_caches
verify /mnt /run/xfs.sums
umount /mnt
xfs_repair -n /dev/nbd0
c volume detach other
is_free /dev/nbd0
is_available other

step "take a snapshot of a mounted file system, and attach it"
mkfs.ext4 -q /dev/nbd3
mount -t ext4 /dev/nbd3 /mnt
write_files /mnt/first 100
sums /mnt >/run/first.sums
fsfreeze --freeze /mnt
c snapshot create vol frozen
fsfreeze --unfreeze /mnt
rm -r /mnt/first/f1*
write_files /mnt/second 20
[ "$(c volume attach vol@frozen)" = /dev/nbd0 ]
[ "$(blockdev --getro /dev/nbd0)" = 1 ]
if dd if=/dev/zero of=/dev/nbd0 bs=4k count=1 conv=notrunc,fsync; then
    die "a snapshot was written"
fi
mkdir /run/snapshot
mount -t ext4 -o ro,noload /dev/nbd0 /run/snapshot
verify /run/snapshot /run/first.sums

step "grow the volume under a load"
write_numbered /mnt/numbered numbered &
writer=$!
until_true 150 more_are_synced numbered 3
c volume resize vol --size 2G --yes
[ "$(device_bytes /dev/nbd3)" = 2147483648 ]
resize2fs /dev/nbd3
until_true 150 more_are_synced numbered $(($(synced numbered) + 3))
touch /run/enough
wait "$writer"
[ "$(filesystem_bytes /mnt)" -gt 2000000000 ]
refused volume resize vol --size 1G --yes
[ "$(device_bytes /dev/nbd0)" = 1073741824 ]

step "all is there"
umount /run/snapshot
c volume detach /dev/nbd0
rm -r /mnt/first
sums /mnt >/run/last.sums
umount /mnt
fsck.ext4 -fn /dev/nbd3
c volume detach vol
is_free /dev/nbd3
device=$(c volume attach vol --read-only)
[ "$(blockdev --getro "$device")" = 1 ]
mount -t ext4 -o ro "$device" /mnt
verify /mnt /run/last.sums
verify_numbered /mnt/numbered numbered "$(synced numbered)"
umount /mnt
c volume detach "$device"
is_available vol
c pool check --data
stop_daemon
"#
    ));
    let in_use = "error: volume 'vol' is in use: it is attached as /dev/nbd3 (busy)";
    let all_in_use = "error: volume 'vol' with its snapshots is in use: it is attached as /dev/nbd3 (busy)";
    let detach = "hint: detach it first: cairn volume detach vol";
    let exclusive = [in_use, detach, in_use, detach, all_in_use, detach, in_use, detach];
    // Before the daemon was killed and after.
    let mut expected = exclusive.repeat(2);
    expected.extend([
        "error: volume 'vol' has 2147483648 bytes and cannot shrink to 1073741824: volumes only grow (shrink)",
        "hint: a volume can only grow: give a larger size",
    ]);
    assert_eq!(output.values("refused: "), expected);
}
