//! File systems on attached devices outlive the daemon, whether it is asked to end or killed: nobody above sees an
//! error, and the next daemon serves the devices again.

use cairn_tests::guest::Guest;

/// With one connection the kernel sends what was in flight again half a minute later, so writers pause that long.
#[test]
fn a_mounted_disk_outlives_restarts_under_load() {
    let output = Guest::with_empty_disk().run(
        r#"
go_on() {
    local synced
    synced=$(cat /run/synced)
    until_true 90 more_are_synced $((synced + 5))
}

disturb() {
    while [ ! -e /run/enough ]; do
        head -c 3000000 /dev/urandom >/mnt/noise.new
        mv /mnt/noise.new /mnt/noise
    done
}

mount_pool
start_daemon --create vol:512M
c volume attach vol
mkfs.ext4 -q /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
write_files /mnt/before 100
sums /mnt/before >/run/before.sums
write_numbered /mnt/numbered &
writer=$!
disturb &
noise=$!
go_on

step "end the daemon"
stop_daemon
start_daemon
until_true 10 has_device vol /dev/nbd0 1
step "wait for the writer"
go_on

step "kill the daemon"
kill_daemon
start_daemon
until_true 10 has_device vol /dev/nbd0 1
step "wait for the writer"
go_on

step "what is mounted is not detached"
refused volume detach vol
refused volume detach /dev/nbd0
go_on
touch /run/enough
wait "$writer"
wait "$noise"

step "all is there"
forget_caches
verify /mnt/before /run/before.sums
verify_numbered /mnt/numbered "$(cat /run/synced)"
umount /mnt
fsck.ext4 -fn /dev/nbd0
c volume detach vol
is_free /dev/nbd0
is_available vol
c pool check --data
stop_daemon
echo "synced $(cat /run/synced)"
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
