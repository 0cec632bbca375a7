//! The units in `systemd/`: systemd takes them, and what they start does what they say.

use std::fs;
use std::process::Command;

use cairn_tests::control::number;
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::fixtures::text;
use cairn_tests::program::{Outcome, binary, run, run_command, workspace};

/// systemd's own measure of what a service could do if somebody got the better of it, from 0 to 10.
const MOST_EXPOSURE: f64 = 1.2;
const SETTINGS: &str = "/etc/cairn/backup.env";
const CAIRN: &str = "/usr/bin/cairn";

/// Runs what a service starts for the volume `db`, as systemd would.
fn start(name: &str, daemon: &Daemon, repository: &str) -> Vec<Outcome> {
    let unit = fs::read_to_string(workspace().join("systemd").join(name)).expect("a unit");
    let values = |key: &'static str| unit.lines().filter_map(move |line| line.strip_prefix(key));
    let mut variables = vec![("CAIRN_REPO", repository)];
    variables.extend(
        values("Environment=").map(|pair| pair.trim_matches('"').split_once('=').expect("NAME=VALUE")),
    );
    assert_eq!(values("EnvironmentFile=").collect::<Vec<_>>(), [SETTINGS]);
    let commands = values("ExecStart=").map(|line| {
        let mut command = Command::new(binary("cairn"));
        command.arg("--dev").arg(daemon.dir()).envs(variables.iter().copied());
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some(CAIRN));
        for word in words {
            let variable = word.strip_prefix('$').map(|name| {
                let value = variables.iter().find(|(known, _)| *known == name);
                value.unwrap_or_else(|| panic!("{name} is not set")).1.split(' ')
            });
            match variable {
                Some(words) => command.args(words),
                None => command.arg(word.replace("%I", "db")),
            };
        }
        run_command(command)
    });
    commands.collect()
}

#[test]
fn systemd_takes_them() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let settings = dir.path().join("backup.env");
    fs::write(&settings, "CAIRN_REPO=file:///srv/backups\n").expect("a file");
    let mut units = vec!["verify".to_owned(), "--recursive-errors=no".to_owned(), "--man=no".to_owned()];
    for entry in fs::read_dir(workspace().join("systemd")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            continue;
        }
        let unit = fs::read_to_string(&path).expect("a unit");
        let unit = unit.replace(SETTINGS, &text(&settings)).replace(CAIRN, &text(&binary("cairn")));
        let copy = dir.path().join(path.file_name().expect("a name"));
        fs::write(&copy, unit).expect("a copy");
        units.push(text(&copy));
    }
    assert!(units.len() > 10, "{units:?}");
    let outcome = run("systemd-analyze", &units).ok();
    assert!(!outcome.stderr.contains(&text(dir.path())), "{outcome}");
}

#[test]
fn the_daemon_may_do_little_else() {
    let unit = workspace().join("systemd/cairnd.service");
    let report =
        run("systemd-analyze", &["security", "--offline=true", "--no-pager", &text(&unit)]).ok().stdout;
    let exposure =
        report.lines().find_map(|line| line.split_once("Overall exposure level for cairnd.service: "));
    let exposure = exposure.and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(exposure.is_some_and(|exposure| exposure <= MOST_EXPOSURE), "{exposure:?}\n{report}");
}

/// What one unit says must be what another, or the example of a configuration, says.
#[test]
fn the_daemons_unit_its_sockets_and_its_configuration_agree() {
    let read = |name: &str| fs::read_to_string(workspace().join("systemd").join(name)).expect("it is there");
    let (service, socket) = (read("cairnd.service"), read("cairnd.socket"));
    for line in ["ExecStart=/usr/bin/cairnd --config /etc/cairn/cairnd.toml", "Type=notify", "RemoveIPC=no"] {
        assert!(service.lines().any(|is| is == line), "lacks {line}");
    }
    let sockets: Vec<&str> = socket.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    assert_eq!(sockets, ["/run/cairn/control.sock", "/run/cairn/nbd.sock"]);
    let configuration = read("cairnd.toml");
    for path in sockets {
        assert!(configuration.contains(&format!("\"{path}\"")), "the daemon would refuse {path}");
    }
    assert!(
        configuration.lines().any(|line| line.starts_with("path = \"/var/lib/cairn/")),
        "{configuration}"
    );
    let checked = run(
        &text(&binary("cairnd")),
        &["--check-config", "--config", &text(&workspace().join("systemd/cairnd.toml"))],
    );
    checked.ok();
}

#[test]
fn volumes_are_backed_up_verified_and_pruned() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(&dir.path().join("dev")).create("db", "8M").start();
    let repository = format!("file://{}", dir.path().join("repo").display());
    daemon.cairn(&["repo", "init", &repository]).ok();
    let written = vec![7; 1 << 20];
    daemon.connect("db").write(0, &written).expect("a write");
    for _ in 0..2 {
        start("cairn-backup@.service", &daemon, &repository).into_iter().for_each(|run| drop(run.ok()));
    }
    let backups = || number(&daemon.cairn_json(&["repo", "status", &repository]), "backups");
    assert_eq!(backups(), 2);
    // The rules keep one of a day.
    let pruned = start("cairn-prune.service", &daemon, &repository);
    assert_eq!(pruned.len(), 2, "backups go, then their space");
    pruned.into_iter().for_each(|run| drop(run.ok()));
    assert_eq!(backups(), 1);

    let verify = || start("cairn-verify.service", &daemon, &repository).pop().expect("a command");
    verify().ok();
    let packs = fs::read_dir(dir.path().join("repo/packs")).expect("packs");
    let folder = packs.map(|entry| entry.expect("an entry").path()).next().expect("a pack");
    fs::remove_dir_all(folder).expect("it is lost");
    let found = verify();
    assert_eq!(found.status.code(), Some(1), "{found}");
    assert!(found.stdout.contains("damaged"), "{found}");
}

/// What node_exporter finds is a whole page or the one before.
#[test]
fn figures_are_written_for_prometheus() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(&dir.path().join("dev")).create("db", "8M").start();
    let unit = fs::read_to_string(workspace().join("systemd/cairn-metrics.service")).expect("a unit");
    let default = unit.lines().find_map(|line| line.strip_prefix("Environment=CAIRN_METRICS="));
    let folder = default.and_then(|path| path.strip_suffix("/cairn.prom")).expect("a file in a folder");
    assert!(unit.lines().any(|line| line == format!("ReadWritePaths=-{folder}")), "{folder} may be written");
    let page = dir.path().join("cairn.prom");
    let write = || {
        for line in unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            let line = line.replace("${CAIRN_METRICS}", &text(&page));
            let line = line.replace("/run/cairn/control.sock", &text(&daemon.control_socket()));
            let mut words = line.split(' ');
            let outcome = run(words.next().expect("a program"), &words.collect::<Vec<_>>());
            if !outcome.status.success() {
                return false;
            }
        }
        true
    };
    assert!(write());
    let first = fs::read_to_string(&page).expect("the page");
    assert!(first.contains("cairn_volume_size_bytes{volume=\"db\"} 8388608\n"), "{first}");
    daemon.cairn(&["volume", "delete", "db", "--yes"]).ok();
    assert!(write());
    let second = fs::read_to_string(&page).expect("the page");
    assert!(
        !second.contains("volume=\"db\"") && second.contains("cairn_pool_up{pool=\"main\"} 1"),
        "{second}"
    );
    daemon.stop();
}
