//! Backups in a real S3 store, over a network that fails, by programs that are killed.

mod kit;
mod rounds;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::control::number;
use cairn_tests::data::{Rng, seed};
use cairn_tests::program::run_command;
use cairn_tests::proxy::{Fault, Proxy};
use cairn_tests::s3::Server;

use crate::kit::{Host, MIB, Place, code, contents, id, write};
use crate::rounds::{Breaking, in_lanes};

/// Longer than it may take on any machine to find out that a store cannot be reached, shorter than patience is.
const BOUNDED: Duration = Duration::from_secs(60);

#[test]
fn a_bucket_is_a_repository_as_a_folder_is() {
    let host = Host::new(&["db"], 16);
    let mut rng = Rng::new(seed("bucket"));
    let mut volume = vec![0; 16 * MIB as usize];
    let place = Place::in_bucket(Server::shared(), host.dir.path(), "r").encrypted(host.dir.path(), "r");
    place.init();
    assert_eq!(code(place.run(&["repo", "init", "--encrypt"])), "exists");
    let status = place.run(&["repo", "status"]).ok().json();
    assert_eq!((&status["encrypted"], number(&status, "backups")), (&true.into(), 0), "{status}");

    write(&host.daemon, "db", &mut volume, &mut rng, 0, 6 * MIB);
    let full = place.back_up(&host.daemon, "db");
    assert_eq!(full["kind"], "full", "{full}");
    let before = volume.clone();
    write(&host.daemon, "db", &mut volume, &mut rng, 9 * MIB, MIB);
    let incremental = place.back_up(&host.daemon, "db");
    assert_eq!(incremental["kind"], "incremental", "{incremental}");
    assert!(number(&incremental, "added_bytes") < 2 * MIB, "{incremental}");
    place.verify();

    // To a file from the bucket alone, to a volume, and over one.
    for (backup, expected) in [(&full, &before), (&incremental, &volume)] {
        let file = host.file("disk");
        place.restore(&id(backup), &file);
        assert!(std::fs::read(&file).expect("the file") == *expected);
    }
    let restored = id(&full);
    let restore = |target: &[&str]| {
        let args = [&["backup", "restore", restored.as_str()], target].concat();
        run_command(place.command(Some(&host.daemon), &args)).ok();
    };
    restore(&["--to", "db2"]);
    assert!(contents(&host.daemon, "db2") == before);
    restore(&["--over", "db", "--yes"]);
    assert!(contents(&host.daemon, "db") == before);

    place.run(&["repo", "prune", "--keep-last", "1", "--yes"]).ok();
    assert_eq!(place.backups(), [id(&incremental)]);
    let stored = || number(&place.run(&["repo", "status"]).ok().json(), "stored_bytes");
    let all = stored();
    place.run(&["repo", "gc", "--now"]).ok();
    // What the two have in common stays, and that is most.
    assert!(stored() <= all, "{} of {all} are left", stored());
    place.verify();
    place.restore(&id(&incremental), &host.file("disk"));
    assert!(std::fs::read(host.file("disk")).expect("the file") == volume);

    // Nothing is left to be kept.
    run_command(place.command(None, &["backup", "delete", &id(&incremental), "--yes"])).ok();
    place.run(&["repo", "gc", "--now"]).ok();
    assert_eq!(stored(), 0);
}

#[test]
fn of_those_who_make_one_repository_at_once_one_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for round in 0..5 {
        let place = Place::in_bucket(Server::shared(), folder.path(), &format!("r{round}"));
        let outcomes: Vec<_> = thread::scope(|scope| {
            let inits: Vec<_> = (0..4).map(|_| scope.spawn(|| place.run(&["repo", "init"]))).collect();
            inits.into_iter().map(|init| init.join().expect("no panic")).collect()
        });
        let (made, refused): (Vec<_>, Vec<_>) =
            outcomes.into_iter().partition(|outcome| outcome.status.success());
        let [made] = &made[..] else { panic!("{} repositories in one place", made.len()) };
        let status = place.run(&["repo", "status"]).ok().json();
        assert_eq!(status["id"], made.json()["id"], "the one that was reported is there");
        for outcome in refused {
            assert_eq!(code(outcome), "exists");
        }
    }
}

#[test]
fn two_hosts_share_a_bucket() {
    let hosts = [Host::new(&["db"], 16), Host::new(&["db"], 16)];
    let seed = seed("two hosts");
    let place = Place::in_bucket(Server::shared(), hosts[0].dir.path(), "r");
    place.init();
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    let mut volumes = [vec![0; 16 * MIB as usize], vec![0; 16 * MIB as usize]];
    for round in 0..3 {
        // What both hold, and what each holds alone; a collection in between.
        let of_round = thread::scope(|scope| {
            let works: Vec<_> = hosts
                .iter()
                .zip(&mut volumes)
                .enumerate()
                .map(|(number, (host, volume))| {
                    let place = &place;
                    scope.spawn(move || {
                        let mut same = Rng::new(seed ^ round);
                        write(&host.daemon, "db", volume, &mut same, round * 4 * MIB, 3 * MIB);
                        let mut own = Rng::new(seed ^ (round << 8) ^ (number as u64 + 1));
                        write(&host.daemon, "db", volume, &mut own, 13 * MIB, MIB);
                        (id(&place.back_up(&host.daemon, "db")), volume.clone())
                    })
                })
                .collect();
            place.run(&["repo", "gc"]).ok();
            works.into_iter().map(|work| work.join().expect("no panic")).collect::<Vec<_>>()
        });
        made.extend(of_round);
    }
    let listed = place.backups();
    assert_eq!(listed.len(), 6);
    place.verify();
    for (backup, volume) in &made {
        assert!(listed.contains(backup));
        place.restore(backup, &hosts[1].file("disk"));
        assert!(std::fs::read(hosts[1].file("disk")).expect("the file") == *volume, "{backup}");
    }
    // Another volume with the same data adds next to nothing.
    let daemon = &hosts[0].daemon;
    let args = ["backup", "restore", made[5].0.as_str(), "--to", "copy"];
    run_command(place.command(Some(daemon), &args)).ok();
    let copy = place.back_up(daemon, "copy");
    assert!(number(&copy, "added_bytes") < MIB / 4, "{copy}");
}

#[test]
fn what_is_wrong_with_a_store_is_said_soon() {
    let server = Server::shared();
    let host = Host::new(&["db"], 4);
    let folder = host.dir.path();
    let place = Place::in_bucket(server, folder, "r").encrypted(folder, "r");
    place.init();
    place.back_up(&host.daemon, "db");

    let missing = Place { url: "s3://no-such-bucket/r".to_owned(), ..place.clone() };
    let elsewhere = Place::in_bucket(server, folder, "elsewhere");
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listening = silent.local_addr().expect("an address");
    // Somebody answers, but this is no S3.
    let odd = TcpListener::bind("127.0.0.1:0").expect("a port");
    let odd_address = odd.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in odd.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"220 mail.example.org ESMTP\r\n");
        }
    });
    std::fs::write(folder.join("other.key"), [7; 32]).expect("a key file");
    let status = &["repo", "status"][..];
    let init = &["repo", "init"][..];
    let other_key = place.clone().encrypted(folder, "other");
    let silence = place.clone().through(listening).with("CAIRN_STORE_TIMEOUT", "1");
    let silence = silence.with("CAIRN_STORE_ATTEMPTS", "2");
    let cases = [
        ("a wrong secret", place.clone().with("AWS_SECRET_ACCESS_KEY", "wrong"), status, "denied"),
        ("no keys", place.clone().keyless(), status, "denied"),
        ("an unknown key", place.clone().with("AWS_ACCESS_KEY_ID", "UNKNOWN"), status, "denied"),
        ("another key file", other_key, status, "wrong-key"),
        ("a missing bucket", missing.clone(), status, "not-a-repository"),
        ("no repository", elsewhere.clone(), status, "not-a-repository"),
        ("nobody there", place.clone().through(closed), status, "unavailable"),
        ("nobody answers", silence, status, "unavailable"),
        ("no S3", place.clone().through(odd_address), status, "unavailable"),
        ("a wrong secret", elsewhere.clone().with("AWS_SECRET_ACCESS_KEY", "wrong"), init, "denied"),
        ("a missing bucket", Place { key: None, ..missing }, init, "not-a-repository"),
        ("nobody there", elsewhere.through(closed), init, "unavailable"),
    ];
    thread::scope(|scope| {
        for (what, place, args, expected) in &cases {
            scope.spawn(move || {
                let began = Instant::now();
                let outcome = place.run(args);
                println!("{what}, {args:?}: {}", outcome.stderr.trim());
                assert_eq!(code(outcome), *expected, "{what}");
                assert!(began.elapsed() < BOUNDED, "{what} took {:?}", began.elapsed());
            });
        }
    });
    // A backup that cannot even begin leaves no snapshot.
    let place = place.through(closed).with("CAIRN_STORE_ATTEMPTS", "2");
    let outcome = run_command(place.command(Some(&host.daemon), &["backup", "create", "db"]));
    assert_eq!(code(outcome), "unavailable");
    assert_eq!(rounds::snapshots(&host.daemon, "db"), 1, "that of the backup that was made");
    drop(silent);
}

/// The network takes what it is sent, and nothing ever arrives or comes back. With a limit on whole requests only, a pack
/// on such a connection was waited for for minutes.
#[test]
fn an_upload_that_is_swallowed_is_made_again() {
    let host = Host::new(&["db"], 64);
    let mut rng = Rng::new(seed("swallowed"));
    let mut volume = vec![0; 64 * MIB as usize];
    write(&host.daemon, "db", &mut volume, &mut rng, 0, 40 * MIB);
    let server = Server::shared();
    let direct = Place::in_bucket(server, host.dir.path(), "r");
    direct.init();
    let proxy = Proxy::start(server.address);
    // By then packs are on their way.
    proxy.plan([(60, Fault::Stall), (90, Fault::Stall)], 1);
    let place = direct.clone().through(proxy.address()).with("CAIRN_STORE_TIMEOUT", "1");
    let began = Instant::now();
    let made = place.back_up(&host.daemon, "db");
    assert_eq!(proxy.struck(), 2, "after {} pieces", proxy.pieces());
    assert!(began.elapsed() < BOUNDED, "it took {:?}", began.elapsed());
    direct.verify();
    direct.restore(&id(&made), &host.file("disk"));
    assert!(std::fs::read(host.file("disk")).expect("the file") == volume);
}

#[test]
fn a_network_that_fails_anywhere_costs_time_and_nothing_else() {
    let server = Server::shared();
    let tally = in_lanes(seed("network"), |folder, name| {
        let place = Place::in_bucket(server, folder, name);
        (place, Breaking::network(server.address))
    });
    println!("{tally:?}");
    assert!(tally.struck >= tally.points, "the network hardly failed: {tally:?}");
    assert!(tally.failed > 0 && tally.failed < tally.points, "some runs get through: {tally:?}");
}

#[test]
fn kill_9_at_any_moment_loses_nothing_in_a_bucket() {
    let server = Server::shared();
    let tally = in_lanes(seed("kill -9, bucket"), |folder, name| {
        (Place::in_bucket(server, folder, name), Breaking::kill())
    });
    println!("{tally:?}");
    assert!(tally.struck * 4 >= tally.points, "nearly all were done before they were killed: {tally:?}");
}

#[test]
fn kill_9_at_any_moment_loses_nothing_in_a_folder() {
    let tally =
        in_lanes(seed("kill -9, folder"), |folder, name| (Place::in_folder(folder, name), Breaking::kill()));
    println!("{tally:?}");
    assert!(tally.struck * 4 >= tally.points, "nearly all were done before they were killed: {tally:?}");
}
