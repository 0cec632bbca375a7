#!/bin/busybox sh
# The guest's first process: mounts what programs expect, loads the modules, runs the test's script, and powers off.
#
# The kernel's messages go to the first serial port, all that the script says to the second. The last line there is
# "guest: ended with STATUS"; where it is missing, the guest crashed or its power was cut.

/bin/busybox mkdir -p /dev /mnt /pool /proc /run /sys /tmp /var/tmp
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/ NO_COLOR=1

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
exec </dev/null >/dev/ttyS1 2>&1

for module in /modules/*; do
    insmod "$module" || echo "guest: $module cannot be loaded"
done
ip link set lo up
# From here on the kernel's log has what file systems and block devices say, not only what went wrong.
dmesg -n 7

# Each command and what it says on standard error are kept aside, and shown when the script fails.
sh -eux -c '. /lib.sh; . /test.sh' 2>/run/commands.log
status=$?
if [ "$status" != 0 ]; then
    echo "guest: the script failed; what runs:"
    ps | grep -v ' \['
    for log in /run/*.log; do
        echo "guest: the end of $log:"
        tail -n 40 "$log"
    done
fi
echo "guest: ended with $status"
# Closing the port waits until the last byte has left it.
exec >/dev/null 2>&1
poweroff -f
