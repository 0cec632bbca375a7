//! The configuration's document and its example say what the daemon does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::daemon::Launch;
use cairn_tests::fixtures::text;
use cairn_tests::program::{Outcome, binary, run, workspace};
use nix::sys::signal::{Signal, kill};

const EXAMPLE: &str = "systemd/cairnd.toml";

/// The keys of docs/CONFIGURATION.md, `section.key`, each with when a change of it holds.
fn documented() -> BTreeMap<String, String> {
    let document = fs::read_to_string(workspace().join("docs/CONFIGURATION.md")).expect("the document");
    let mut section = None;
    let mut keys = BTreeMap::new();
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let key = cells.get(1).and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        if let (Some(section), Some(key)) = (section, key) {
            assert_eq!(cells.len(), 7, "five columns: {line}");
            assert!(cells[2..4].iter().all(|cell| !cell.is_empty()), "a meaning and a default: {line}");
            keys.insert(format!("{section}.{key}"), cells[5].to_owned());
        }
    }
    keys
}

fn check(file: &Path) -> Outcome {
    run(&text(&binary("cairnd")), &["--check-config", "--config", &text(file)])
}

/// What the daemon names in its answer to a configuration with something that there is not.
fn expected(folder: &Path, configuration: &str) -> Vec<String> {
    let file = folder.join("cairnd.toml");
    fs::write(&file, configuration).expect("a file");
    let refused = check(&file).refused();
    let (_, names) =
        refused.stderr.split_once("unknown field `nothing`, expected ").expect("it names what there is");
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_document_has_the_keys_that_there_are() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut known = BTreeSet::new();
    for section in expected(dir.path(), "[nothing]") {
        let keys = expected(dir.path(), &format!("[{section}]\nnothing = 1"));
        known.extend(keys.into_iter().map(|key| format!("{section}.{key}")));
    }
    assert_eq!(known, documented().into_keys().collect());
}

#[test]
fn the_example_is_right_with_what_is_commented_out_as_well() {
    let example = fs::read_to_string(workspace().join(EXAMPLE)).expect("the example");
    check(&workspace().join(EXAMPLE)).ok();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let whole = example.lines().map(|line| match line.strip_prefix("# ") {
        Some(key) if key.contains(" = ") => key,
        _ => line,
    });
    let whole = whole.collect::<Vec<_>>().join("\n");
    for key in documented().keys() {
        let (_, key) = key.split_once('.').expect("section and key");
        assert!(
            whole.lines().any(|line| line.starts_with(&format!("{key} = "))),
            "{key} is not in it:\n{whole}"
        );
    }
    let file = dir.path().join("cairnd.toml");
    fs::write(&file, whole).expect("a file");
    check(&file).ok();
}

/// Changes every key and has the file read again: the log must say of each what the document says.
#[test]
fn the_document_says_when_changes_hold() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::config(dir.path(), &dir.path().join("pool"), "1G").start();
    let changed = "[pool]\npath = \"other\"\ncreate = false\nlimit = \"2G\"\n\
                   [nbd]\nunix = [\"other.sock\"]\ntcp = [\"127.0.0.1:0\"]\nmax_connections = 7\n\
                   [control]\nsocket = \"third.sock\"\n\
                   [runtime]\nreactors = 3\npoll_us = 3\npoll_disk_us = 3\nmap_cache = \"3M\"\nread_cache = \"3M\"\n\
                   [log]\nfilter = \"debug\"\n\
                   [access]\ngrant = []\n\
                   [audit]\nlog = \"audit.log\"\n";
    fs::write(dir.path().join("cairnd.toml"), changed).expect("a file");
    kill(daemon.pid(), Signal::SIGHUP).expect("a signal can be sent");
    let deadline = Instant::now() + Duration::from_secs(10);
    for (key, holds) in documented() {
        let sentence = match holds.as_str() {
            "reload" => "has changed and holds now",
            "restart" => "has changed and needs a restart",
            "new pool" => "has changed and holds for a pool that is made",
            other => panic!("{key} holds at \"{other}\", which the document does not explain"),
        };
        let sentence = format!(" {key} {sentence}");
        while !daemon.said().contains(&sentence) {
            assert!(Instant::now() < deadline, "lacks \"{sentence}\": {}", daemon.said());
            thread::sleep(Duration::from_millis(5));
        }
    }
    daemon.stop();
}
