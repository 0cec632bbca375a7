//! What users are told when the kernel, or the machine, does not let them attach.

use cairn_tests::guest::Guest;

#[test]
fn refusals_say_what_to_do() {
    let output = Guest::with_empty_disk().run(
        r#"
mount_pool
start_daemon --create vol:64M --create other:64M

step "what is not there"
refused volume attach nothing
refused volume attach vol@nothing
refused volume attach vol /dev/nbd40000

step "a device that another program has"
attach other /dev/nbd2
refused volume attach vol /dev/nbd2
refused volume attach other
detach /dev/nbd2

step "no driver"
rmmod nbd
refused volume attach vol
insmod /modules/*-nbd.ko
[ "$(c volume attach vol)" = /dev/nbd0 ]
c volume detach vol

step "no right to, not even to serve what is attached"
[ "$(c volume attach other)" = /dev/nbd0 ]
stop_daemon
chown -R 1000:1000 /pool
echo 'user:x:1000:1000::/:/bin/sh' >/etc/passwd
cairnd() {
    exec start-stop-daemon -S -c user:1000 -x /usr/bin/cairnd -- "$@"
}
start_daemon
refused volume attach vol
is_available vol
until_true 10 has_device other /dev/nbd0 0
refused volume delete other --yes
kept_out other
refused volume detach other
refused volume detach other --force
c volume resize other --size 96M --yes
# Opening the device would wait for somebody to serve it.
[ "$(cat /sys/block/nbd0/size)" = $((64 << 11)) ]
c volume reset-attachments other --yes
is_available other
stop_daemon

step "the next daemon may, and tells the size"
unset -f cairnd
start_daemon
until_true 10 has_device other /dev/nbd0 1
[ "$(device_bytes /dev/nbd0)" = 100663296 ]
c volume detach other
is_free /dev/nbd0
c pool check --data
stop_daemon
"#,
    );
    let what_there_is =
        "hint: \"cairn volume list\", \"cairn snapshot list\" and \"cairn pool list\" show what there is";
    let another = "hint: choose another device, or none to get the first that is free";
    let right = "hint: cairnd needs CAP_SYS_ADMIN for this: run it as root, or with \
                 AmbientCapabilities=CAP_SYS_ADMIN in its unit";
    // A process is named with its number, which is not always the same.
    let (named, refusals): (Vec<&str>, Vec<&str>) =
        output.values("refused: ").into_iter().partition(|line| line.contains("nbd-client"));
    let [named] = named[..] else { panic!("not one refusal names nbd-client: {named:?}") };
    assert!(
        named.starts_with("error: volume 'other' is in use: it is attached to nbd-client (pid "),
        "{named}"
    );
    assert!(named.ends_with(", uid 0) and not shared (busy)"), "{named}");
    let expected = [
        "error: there is no volume 'nothing' (not-found)",
        what_there_is,
        "error: volume 'vol' has no snapshot 'nothing' (not-found)",
        what_there_is,
        "error: the kernel has no /dev/nbd40000: the number is too large, or the device is being removed (not-found)",
        another,
        "error: /dev/nbd2 is attached to something else (busy)",
        another,
        "hint: disconnect the NBD clients first, or have the daemon do it: cairn volume detach other",
        "error: the kernel's nbd driver is not there (unsupported)",
        "hint: load it: modprobe nbd",
        "error: the kernel does not let cairnd attach a device (not-permitted)",
        right,
        "error: volume 'other' is in use: it is attached as /dev/nbd0 (busy)",
        "hint: detach it first: cairn volume detach other",
        "error: cairnd may not open /dev/nbd0 (not-permitted)",
        right,
        "error: the kernel does not let cairnd detach /dev/nbd0 (not-permitted)",
        right,
    ];
    assert_eq!(refusals, expected);
}
