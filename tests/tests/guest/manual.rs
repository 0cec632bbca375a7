//! The manual's commands for kernel devices, as they are written there.

use std::fs;

use cairn_tests::guest::Guest;
use cairn_tests::program::workspace;

/// What stands in a manual's chapter between two marks.
#[track_caller]
fn excerpt<'a>(manual: &'a str, chapter: &str, begin: &str, end: &str) -> &'a str {
    let of_chapter = manual.split_once(&format!("\n## {chapter}\n")).map(|(_, rest)| rest);
    let of_chapter = of_chapter.unwrap_or_else(|| panic!("there is no chapter {chapter:?}"));
    let of_chapter = of_chapter.split("\n## ").next().unwrap_or_default();
    let found = of_chapter.split_once(begin).and_then(|(_, rest)| rest.split_once(end));
    found.map(|(found, _)| found).unwrap_or_else(|| panic!("nothing after {begin:?} in {chapter:?}"))
}

#[test]
fn the_manual_can_be_followed() {
    let manual = fs::read_to_string(workspace().join("docs/USING.md")).expect("there is a manual");
    let settings = excerpt(&manual, "Start it", "```toml\n", "```");
    let commands = excerpt(&manual, "As a block device of this machine", "```sh\n", "```");
    let by_nbd_client = excerpt(&manual, "Connect", "| a kernel | `", "` |").replace("NAME", "db");
    let output = Guest::with_empty_disk().run(&format!(
        r#"
# Where the settings have it.
dir=/var/lib/cairn
mkdir -p "$dir" /run/cairn
mount_pool
cat >/run/cairnd.toml <<'END'
{settings}
END
start_daemon --config /run/cairnd.toml
cairn volume create db --size 10G

step "the manual's commands"
{commands}
step "done"
echo "attached as $dev"
[ "$(cairn volume attachments db)" = "Nobody uses volume db or its snapshots." ]
{by_nbd_client}
until_true 30 is_attached /dev/nbd0
[ "$(device_bytes /dev/nbd0)" = $((20 << 30)) ]
fsck.ext4 -fn /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
[ "$(filesystem_bytes /mnt)" -gt $((18 << 30)) ]
umount /mnt
nbd-client -d /dev/nbd0
stop_daemon
"#
    ));
    assert_eq!(output.values("attached as "), ["/dev/nbd0"]);
}
