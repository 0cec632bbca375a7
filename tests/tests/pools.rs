//! Several pools in one daemon, on real files.

use cairn_tests::daemon::{Launch, POOL_FILE};

/// Another way to a pool's file was taken for another daemon's pool, after two seconds of waiting for that to go away.
#[test]
fn a_pool_is_known_by_all_names_of_its_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).start();
    let path = |name: &str| dir.path().join(name).to_str().expect("is UTF-8").to_owned();
    daemon.cairn(&["pool", "create", "bulk", "--path", &path("bulk.cairn")]).ok();
    std::os::unix::fs::symlink(path(POOL_FILE), path("soft")).expect("links");
    std::fs::hard_link(path("bulk.cairn"), path("hard")).expect("links");
    for (link, owner) in [("soft", "main"), ("hard", "bulk")] {
        let refused = daemon.cairn(&["pool", "create", "again", "--path", &path(link)]).refused();
        assert!(refused.stderr.contains(&format!("is the pool '{owner}' already")), "{refused}");
    }
    daemon.cairn(&["pool", "check", "bulk"]).ok();
    daemon.cairn(&["pool", "remove", "bulk", "--yes"]).ok();
    daemon.cairn(&["pool", "create", "again", "--path", &path("hard")]).ok();
    daemon.stop();
}
