//! Backups, restores, prunes and collections that are broken at random moments, round after round.
//!
//! A lane is a volume, its repository and what breaks the work on it. Whatever breaks it: what was there before is
//! still there, every byte in the repository is as it should be, and the same work done again succeeds.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cairn_tests::daemon::Daemon;
use cairn_tests::data::Rng;
use cairn_tests::fixtures::text;
use cairn_tests::program::{Outcome, full, number_from_env, run_command, wait};
use cairn_tests::proxy::{Fault, Proxy};

use crate::kit::{Host, MIB, Place, code, contents, id, write};

/// The works that are broken, each at so many points.
const WORKS: usize = 4;
const LANES: usize = 8;
/// Bytes of a lane's volume, and how many of them are written at first.
const SIZE_MIB: u64 = 8;
const FIRST: u64 = 5 * MIB;
/// Backups that a prune keeps.
const KEPT: usize = 2;
/// A bound against hanging, for work that takes a second.
const LIMIT: Duration = Duration::from_secs(120);

/// What breaks the work.
pub(crate) enum Breaking {
    /// A network that fails; how many pieces each work takes when it does not.
    Network { proxy: Proxy, pieces: [u64; WORKS] },
    /// kill -9; how long each work takes when it is left alone.
    Kill { takes: [Duration; WORKS] },
}

impl Breaking {
    pub(crate) fn network(server: SocketAddr) -> Breaking {
        Breaking::Network { proxy: Proxy::start(server), pieces: [40; WORKS] }
    }

    pub(crate) fn kill() -> Breaking {
        Breaking::Kill { takes: [Duration::from_millis(100); WORKS] }
    }
}

/// What came of all points.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) points: u64,
    /// Faults that came, or works that were killed before they had ended.
    pub(crate) struck: u64,
    /// Works that did not succeed.
    pub(crate) failed: u64,
}

/// A work that may be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Backup,
    Restore,
    Prune,
    Collect,
}

pub(crate) struct Lane<'a> {
    daemon: &'a Daemon,
    folder: &'a Path,
    volume: String,
    /// Reached without anything that breaks.
    place: Place,
    breaking: Breaking,
    rng: Rng,
    contents: Vec<u8>,
    /// The backups that were reported as made, oldest first, and what they are of.
    made: Vec<(String, Vec<u8>)>,
    tally: Tally,
}

/// Goes through all rounds, in lanes beside each other: most of the time is spent waiting.
pub(crate) fn in_lanes(seed: u64, lane: impl Fn(&Path, &str) -> (Place, Breaking)) -> Tally {
    let points = number_from_env("CAIRN_TEST_POINTS", if full() { 100 } else { 20 });
    let names: Vec<String> = (0..LANES).map(|number| format!("v{number}")).collect();
    let host = Host::new(&names.iter().map(String::as_str).collect::<Vec<_>>(), SIZE_MIB);
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let lanes: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(number, name)| {
                let (mut place, breaking) = lane(host.dir.path(), name);
                if number % 2 == 1 {
                    place = place.encrypted(host.dir.path(), name);
                }
                let mut lane = Lane {
                    daemon: &host.daemon,
                    folder: host.dir.path(),
                    volume: name.clone(),
                    place,
                    breaking,
                    rng: Rng::new(seed.wrapping_add(number as u64)),
                    contents: vec![0; (SIZE_MIB * MIB) as usize],
                    made: Vec::new(),
                    tally: Tally::default(),
                };
                let rounds = (points + LANES as u64 - 1 - number as u64) / LANES as u64;
                scope.spawn(move || {
                    lane.begin();
                    (0..rounds).for_each(|round| lane.round(round));
                    lane.tally
                })
            })
            .collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    tallies.into_iter().fold(Tally::default(), |all, lane| Tally {
        points: all.points + lane.points,
        struck: all.struck + lane.struck,
        failed: all.failed + lane.failed,
    })
}

impl Lane<'_> {
    fn begin(&mut self) {
        self.place.init();
        write(self.daemon, &self.volume, &mut self.contents, &mut self.rng, 0, FIRST);
        let made = self.place.back_up(self.daemon, &self.volume);
        self.made.push((id(&made), self.contents.clone()));
    }

    fn round(&mut self, round: u64) {
        self.back_up();
        if round.is_multiple_of(2) {
            self.restore_to_file();
        } else {
            self.restore_to_volume(round);
        }
        self.prune();
        self.collect();
    }

    fn back_up(&mut self) {
        for _ in 0..1 + self.rng.below(4) {
            let len = (4 + self.rng.below(508)) << 10;
            let offset = self.rng.below((SIZE_MIB * MIB - len) >> 12) << 12;
            write(self.daemon, &self.volume, &mut self.contents, &mut self.rng, offset, len);
        }
        let volume = self.volume.clone();
        let mut args = vec!["backup", "create", &volume];
        if self.rng.chance(30) {
            args.push("--full");
        }
        let done = self.broken(Work::Backup, &args);
        let mut new = self.sound();
        if let Some(done) = done {
            assert!(new.contains(&id(&done.json())), "{volume}: a backup that was reported is gone: {done}");
        } else {
            // What the daemon does not yet know to be gone is taken for somebody else at work, and left.
            until_nobody_reads(self.daemon, &volume);
            self.again(Work::Backup, &args);
            new = self.sound();
        }
        // One may have counted before it could be reported.
        new.retain(|id| self.made.iter().all(|(made, _)| made != id));
        assert!(!new.is_empty() && new.len() <= 2, "{volume}: {new:?} are new");
        for id in new.into_iter().rev() {
            self.made.push((id, self.contents.clone()));
        }
        assert_eq!(snapshots(self.daemon, &volume), 1, "{volume}: only the base of the next one stays");
    }

    fn restore_to_file(&mut self) {
        let (id, expected) = self.any();
        let file = self.folder.join(format!("{}.img", self.volume));
        let args = ["backup", "restore", &id, "--to-file", &text(&file)];
        if self.broken(Work::Restore, &args).is_some() || file.exists() {
            assert!(fs::read(&file).expect("the file") == expected, "{}: {id} is not restored", self.volume);
        }
        self.sound();
        self.again(Work::Restore, &args);
        assert!(fs::read(&file).expect("the file") == expected, "{}: {id} is not restored", self.volume);
        fs::remove_file(&file).expect("the file goes");
    }

    fn restore_to_volume(&mut self, round: u64) {
        let (id, expected) = self.any();
        let new = format!("{}-{round}", self.volume);
        let args = ["backup", "restore", &id, "--to", &new];
        let done = self.broken(Work::Restore, &args).is_some();
        self.sound();
        let there = self.daemon.cairn(&["volume", "show", &new]).status.success();
        assert!(there || !done, "{new}: a volume that was reported is gone");
        // Under another name: the daemon may be about to complete the first.
        let second = format!("{new}-again");
        self.again(Work::Restore, &["backup", "restore", &id, "--to", &second]);
        for name in [there.then_some(&new), Some(&second)].into_iter().flatten() {
            assert!(contents(self.daemon, name) == expected, "{name}: {id} is not restored");
            self.daemon.cairn(&["volume", "delete", name, "--yes"]).ok();
        }
    }

    fn prune(&mut self) {
        let keep = KEPT.to_string();
        let args = ["repo", "prune", "--keep-last", &keep, "--yes"];
        let kept = self.made.split_off(self.made.len().saturating_sub(KEPT));
        let gone = std::mem::replace(&mut self.made, kept);
        let done = self.broken(Work::Prune, &args).is_some();
        let mut left = self.sound();
        if !done {
            self.again(Work::Prune, &args);
            left = self.sound();
        }
        assert!(gone.iter().all(|(id, _)| !left.contains(id)), "{}: {left:?} are left", self.volume);
    }

    fn collect(&mut self) {
        let args = ["repo", "gc", "--now"];
        self.broken(Work::Collect, &args);
        self.sound();
        self.again(Work::Collect, &args);
        self.sound();
    }

    /// A backup and what it is of.
    fn any(&mut self) -> (String, Vec<u8>) {
        let number = self.rng.below(self.made.len() as u64) as usize;
        self.made[number].clone()
    }

    /// The repository is as it should be, with every backup that was ever reported as made and not given up since.
    /// The ids of all there are, newest first.
    #[track_caller]
    fn sound(&self) -> Vec<String> {
        self.place.verify();
        let there = self.place.backups();
        for (id, _) in &self.made {
            assert!(there.contains(id), "{}: backup {id} is lost, {there:?} are left", self.volume);
        }
        there
    }

    /// The same work with nothing in its way, which says how much there is to break.
    #[track_caller]
    fn again(&mut self, work: Work, args: &[&str]) {
        match &mut self.breaking {
            Breaking::Network { proxy, pieces } => {
                proxy.plan([], 0);
                let place = self.place.clone().through(proxy.address());
                run_command(place.command(Some(self.daemon), args)).ok();
                pieces[work as usize] = proxy.pieces().max(8);
            }
            Breaking::Kill { takes } => {
                let began = Instant::now();
                run_command(self.place.command(Some(self.daemon), args)).ok();
                takes[work as usize] = began.elapsed();
            }
        }
    }

    /// Does the work and breaks it. Its outcome, if it says that it succeeded.
    #[track_caller]
    fn broken(&mut self, work: Work, args: &[&str]) -> Option<Outcome> {
        self.tally.points += 1;
        let outcome = match &mut self.breaking {
            Breaking::Network { proxy, pieces } => {
                let faults = 1 + self.rng.below(3);
                let pieces = &mut pieces[work as usize];
                let plan: Vec<_> =
                    (0..faults).map(|_| (self.rng.below(*pieces), Fault::random(&mut self.rng))).collect();
                proxy.plan(plan.clone(), self.rng.draw());
                let place = self.place.clone().through(proxy.address());
                let place = place.with("CAIRN_STORE_TIMEOUT", "1").with("CAIRN_STORE_ATTEMPTS", "3");
                let outcome = run_command(place.command(Some(self.daemon), args));
                self.tally.struck += proxy.struck();
                if !outcome.status.success() {
                    self.tally.failed += 1;
                    let said = outcome.stderr.clone();
                    assert_eq!(code(outcome), "unavailable", "{work:?}, {plan:?}: {said}");
                    return None;
                }
                *pieces = proxy.pieces().max(8);
                outcome
            }
            Breaking::Kill { takes } => {
                // Lanes are in each other's way: what takes long once may not the next time.
                let limit = takes[work as usize].as_micros() as u64 * 3 / 4;
                let after = Duration::from_micros(self.rng.below(limit.max(1)));
                let mut command = self.place.command(Some(self.daemon), args);
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                let child = command.spawn().expect("cairn can be run");
                thread::sleep(after);
                let Some(outcome) = killed(child, args) else {
                    self.tally.struck += 1;
                    self.tally.failed += 1;
                    return None;
                };
                outcome.ok()
            }
        };
        Some(outcome)
    }
}

/// Kills a program. What it did, if it had ended before.
fn killed(mut child: Child, args: &[&str]) -> Option<Outcome> {
    child.kill().expect("a signal can be sent");
    let status = wait(&mut child, LIMIT).expect("it ends");
    status.code()?;
    let read = child.wait_with_output().expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(Outcome { command: args.join(" "), status, stdout: text(read.stdout), stderr: text(read.stderr) })
}

/// Waits until the connections of whoever was killed have ended.
#[track_caller]
fn until_nobody_reads(daemon: &Daemon, volume: &str) {
    let began = Instant::now();
    loop {
        let list = daemon.get(&format!("/v1/snapshots?volume={volume}"));
        let all = list["snapshots"].as_array().expect("a list");
        if all.iter().all(|snapshot| snapshot["connections"] == 0) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{volume}: somebody still reads: {list}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// How many snapshots a volume has.
pub(crate) fn snapshots(daemon: &Daemon, volume: &str) -> usize {
    let list = daemon.cairn_json(&["snapshot", "list", volume]);
    list["snapshots"].as_array().expect("a list").len()
}
