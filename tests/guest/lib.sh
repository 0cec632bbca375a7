# What the guests' scripts are written in. Read before each script by a busybox shell that ends at the first command
# that fails (sh -eu). The disk of the pool is /dev/vda; file systems under test are mounted on /mnt.

dir=/pool
daemon=

# Arguments of nbd-client before the number of connections. A kernel that is short of processors, as a guest's can be, may
# receive on the first of them only, for ever. Requests on the others are sent again when the timeout has passed, so what
# waits for I/O on several connections has to wait for longer than that.
several="-timeout 90 -C"

# Says what comes next, with the seconds since the guest began to boot.
step() {
    echo "[$(cut -d' ' -f1 /proc/uptime)] $*"
}

die() {
    echo "failed: $*"
    exit 1
}

# until_true SECONDS COMMAND...: tries a command ten times a second until it succeeds.
until_true() {
    local tries=$(($1 * 10))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die "in vain: $*"
        sleep 0.1
    done
}

# Mounts the disk that the pool lies on.
mount_pool() {
    # Without the kernel thread that goes on to write zeroes while the power goes off, and has errors reported.
    mount -t ext4 -o noinit_itable /dev/vda "$dir"
}

# start_daemon [ARGUMENTS]: cairnd on the pool, --dev unless told otherwise; returns when it serves.
start_daemon() {
    case "${1:-}" in
    --config) ;;
    *) set -- --dev "$dir" "$@" ;;
    esac
    # A daemon before this one may have said that it is ready, too.
    : >/run/cairnd.ready
    cairnd "$@" >/run/cairnd.ready 2>>/run/cairnd.log &
    daemon=$!
    until_true 60 daemon_is_ready
}

daemon_is_ready() {
    kill -0 "$daemon" || die "cairnd ended"
    grep -q '^cairnd ready' /run/cairnd.ready
}

# Asks cairnd to stop, and waits until it has.
stop_daemon() {
    kill -TERM "$daemon"
    wait "$daemon"
}

# kill -9.
kill_daemon() {
    kill -KILL "$daemon"
    wait "$daemon" || true
}

# cairn's command line.
c() {
    cairn --dev "$dir" "$@"
}

# attach EXPORT DEVICE [ARGUMENTS of nbd-client]: over the Unix socket.
attach() {
    local export=$1 device=$2
    shift 2
    nbd-client -unix "$dir/nbd.sock" "$device" -N "$export" "$@"
    until_true 30 is_attached "$device"
}

# attach_tcp EXPORT DEVICE [ARGUMENTS of nbd-client]: over the loopback network.
attach_tcp() {
    local export=$1 device=$2
    shift 2
    nbd-client 127.0.0.1 10809 "$device" -N "$export" "$@"
    until_true 30 is_attached "$device"
}

# detach DEVICE
detach() {
    nbd-client -d "$1"
    until_true 30 is_detached "$1"
}

is_attached() {
    nbd-client -c "$1" >/dev/null
}

is_detached() {
    ! is_attached "$1"
}

# device_bytes DEVICE: the size that the kernel sees.
device_bytes() {
    blockdev --getsize64 "$1"
}

# filesystem_bytes FOLDER: the size of the file system that is mounted there, without what it keeps for itself.
filesystem_bytes() {
    echo $(($(stat -f -c %b "$1") * $(stat -f -c %S "$1")))
}

# write_files FOLDER COUNT: new files of up to 128 KiB with random bytes.
write_files() {
    local number=0
    mkdir -p "$1"
    while [ "$number" -lt "$2" ]; do
        number=$((number + 1))
        head -c $((number * 7919 % 131072 + 1)) /dev/urandom >"$1/f$number"
    done
}

# sums FOLDER: the checksums of all files in it, for `sha256sum -c`.
sums() {
    (cd "$1" && find . -type f | sort | xargs sha256sum)
}

# verify FOLDER SUMS: all files are there with their bytes, and no others.
verify() {
    sums "$1" >/run/found.sums
    diff "$2" /run/found.sums >/run/differing || {
        head -n 20 /run/differing
        die "the files in $1 are not those of $2"
    }
}

# used_bytes VOLUME: how much of it holds data.
used_bytes() {
    c --json volume show "$1" | tr ',{}' '\n' | sed -n 's/^ *"mapped": *//p'
}

# of_volume VOLUME FIELD: a field of what `volume show` says in JSON, each value in a line.
of_volume() {
    c --json volume show "$1" | tr ',{}[]' '\n' | sed -n "s/^ *\"$2\": *\"*\([^\"]*\)\"*\$/\1/p"
}

# has_device VOLUME DEVICE CONNECTIONS: the volume is shown as attached to the kernel's device.
has_device() {
    [ "$(of_volume "$1" device)" = "$2" ] && [ "$(of_volume "$1" connections | head -n 1)" = "$3" ]
}

is_available() {
    [ "$(of_volume "$1" status)" = available ]
}

# is_free DEVICE: the kernel has it attached to nothing.
is_free() {
    [ ! -e "/sys/block/${1#/dev/}/pid" ]
}

# refused COMMAND...: cairn refuses it. What it says is told to the test in lines that begin with "refused: ".
refused() {
    if c "$@" 2>/run/refusal; then
        die "this was not refused: cairn $*"
    fi
    # Among it are the commands that the shell traces.
    sed -n -E 's/^(error|hint): /refused: &/p' /run/refusal
}

# kept_out EXPORT: nbd-client cannot have it.
kept_out() {
    if nbd-client -unix "$dir/nbd.sock" /dev/nbd5 -N "$1"; then
        die "nbd-client has $1"
    fi
    # It leaves its line unfinished.
    echo
}

# content SERIES NUMBER: up to 128 KiB that no other file has.
content() {
    yes "file $2 of $1" | head -c $(($2 * 7919 % 131072 + 1))
}

# write_numbered FOLDER SERIES: numbered files, one after the other, until /run/enough is there or a write fails. The
# number in /run/SERIES.synced is that of the last one that is known to be on the disk.
write_numbered() {
    local number=0
    mkdir -p "$1"
    while [ ! -e /run/enough ]; do
        number=$((number + 1))
        content "$2" "$number" | dd of="$1/f$number" bs=64k conv=fsync || return 1
        echo "$number" >"/run/$2.synced.new"
        mv "/run/$2.synced.new" "/run/$2.synced"
    done
}

# synced SERIES: the number of the last file that is known to be on the disk.
synced() {
    cat "/run/$1.synced" || echo 0
}

# more_are_synced SERIES COUNT
more_are_synced() {
    [ "$(synced "$1")" -ge "$2" ]
}

# verify_numbered FOLDER SERIES COUNT: the files up to that number are there with their bytes.
verify_numbered() {
    local number=0
    while [ "$number" -lt "$3" ]; do
        number=$((number + 1))
        content "$2" "$number" | cmp - "$1/f$number" || die "file $number of $2 was synced, and is lost"
    done
}

# forget_caches: what is read from now on comes from the disk.
forget_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}
