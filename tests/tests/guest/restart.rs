//! File systems on attached devices outlive the daemon, whether it is asked to end or killed: nobody above sees an
//! error, and the next daemon serves the devices again.

use cairn_tests::guest::Guest;

/// With one connection the kernel sends what was in flight again half a minute later, so writers pause that long.
#[test]
fn mounted_disks_outlive_restarts_under_load() {
    let output = Guest::with_empty_disk().run(
        r#"
# The volumes are named like the file systems on them.
types='ext4 xfs'
writers=

disturb() {
    while [ ! -e /run/enough ]; do
        head -c 3000000 /dev/urandom >"$1/noise.new"
        mv "$1/noise.new" "$1/noise"
    done
}

are_served() {
    until_true 10 has_device ext4 /dev/nbd0 1
    until_true 10 has_device xfs /dev/nbd1 1
}

# The kernel waits for answers from both.
are_waited_for() {
    for device in nbd0 nbd1; do
        # Reads, and writes.
        set -- $(cat /sys/block/$device/inflight)
        [ $(($1 + $2)) -gt 0 ] || return 1
    done
}

# What is written from now on is synced, too.
go_on() {
    for type in $types; do
        until_true 90 more_are_synced "$type" $(($(synced "$type") + 5))
    done
}

mount_pool
start_daemon --create ext4:512M --create xfs:512M
for type in $types; do
    device=$(c volume attach "$type")
    folder=/run/on-$type
    mkfs.$type -q "$device"
    mkdir "$folder"
    mount -t "$type" "$device" "$folder"
    write_files "$folder/before" 50
    sums "$folder/before" >"/run/before-$type.sums"
    write_numbered "$folder/numbered" "$type" &
    writers="$writers $!"
    disturb "$folder" &
    writers="$writers $!"
done
go_on

step "end the daemon"
stop_daemon
start_daemon
are_served
step "wait for the writers"
go_on

step "kill the daemon with requests that it has not answered"
kill -STOP "$daemon"
until_true 60 are_waited_for
kill_daemon
start_daemon
are_served
step "wait for the writers"
go_on

step "what is mounted is not detached"
refused volume detach ext4
refused volume detach /dev/nbd0
go_on
touch /run/enough
# None saw an error.
for writer in $writers; do
    wait "$writer"
done

step "all is there"
for type in $types; do
    folder=/run/on-$type
    forget_caches
    verify "$folder/before" "/run/before-$type.sums"
    verify_numbered "$folder/numbered" "$type" "$(synced "$type")"
    umount "$folder"
    echo "synced $(synced "$type")"
done
fsck.ext4 -fn /dev/nbd0
xfs_repair -n /dev/nbd1
c volume detach ext4
c volume detach /dev/nbd1
for type in $types; do
    is_available "$type"
done
is_free /dev/nbd0
is_free /dev/nbd1
c pool check --data
stop_daemon
"#,
    );
    let in_use = [
        "error: /dev/nbd0 is in use on this machine (busy)",
        "hint: unmount it first, or detach it by force and lose what was not written yet",
    ];
    assert_eq!(output.values("refused: "), in_use.repeat(2));
    println!("{:?}, files {:?}", output.took, output.values("synced "));
}

/// With several connections the kernel waits so long before it sends requests again that the restarts come while
/// there are none.
#[test]
fn a_disk_with_several_connections_outlives_restarts() {
    let output = Guest::with_empty_disk().run(
        r#"
round() {
    until_true 10 has_device vol /dev/nbd0 4
    until_true 10 has_device vol@frozen /dev/nbd1 2
    step "write and read"
    verify /mnt/files /run/files.sums
    verify /run/snapshot/files /run/frozen.sums
    write_files "/mnt/files/$1" 20
    sums /mnt/files >/run/files.sums
    forget_caches
}

# The snapshot is listed with its volume.
has_device() {
    c volume attachments vol >/run/users
    grep -qE "^$2 +$1 .* $3 +[0-9]+ +[0-9]+ +[0-9.]+ +[0-9.]+\$" /run/users
}

mount_pool
start_daemon --create vol:512M
c volume attach vol --connections 4
# What is not initialized now would be later, while the daemon is away.
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
write_files /mnt/files 50
sums /mnt/files >/run/files.sums
cp /run/files.sums /run/frozen.sums
fsfreeze --freeze /mnt
c snapshot create vol frozen
fsfreeze --unfreeze /mnt
c volume attach vol@frozen --connections 2
mkdir /run/snapshot
mount -t ext4 -o ro,noload /dev/nbd1 /run/snapshot
round first

step "end the daemon"
stop_daemon
start_daemon
round second

step "kill the daemon"
kill_daemon
start_daemon
round third

step "kill the daemon, and detach before there is another one"
umount /run/snapshot
kill_daemon
nbd-client -d /dev/nbd1
start_daemon
until_true 10 has_device vol /dev/nbd0 4
verify /mnt/files /run/files.sums
[ "$(c volume attach vol@frozen)" = /dev/nbd1 ]
c volume detach vol@frozen

step "all is there"
umount /mnt
fsck.ext4 -fn /dev/nbd0
c volume detach /dev/nbd0
is_free /dev/nbd0
is_available vol
c pool check --data
stop_daemon
"#,
    );
    println!("{:?}", output.took);
}
