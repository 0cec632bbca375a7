//! The command line. Its words are fixed: scripts rely on them.
//!
//! | room | what it holds |
//! |---|---|
//! | [`volume`], [`snapshot`], [`image`], [`backup`], [`repo`], [`types`], [`qos`], [`pool`], [`job`], [`recycle`], [`events`], [`top`], [`console`] | the subcommands of one subject each |
//! | [`values`] | what an argument may be beyond a word or a number |

mod backup;
mod console;
mod events;
mod image;
mod job;
mod pool;
mod qos;
mod recycle;
mod repo;
mod snapshot;
mod top;
mod types;
mod values;
mod volume;

use std::path::PathBuf;

use cairn_manual::About;
use clap::{Parser, Subcommand};

pub(crate) use backup::{Backup, BackupChanges, CreateBackup, InRepo, RestoreBackup};
pub(crate) use console::Console;
pub(crate) use events::Events;
pub(crate) use image::{Image, ImageChanges, ImageFields, ImageFilter, ImportImage};
pub(crate) use job::{Job, JobFilter};
pub(crate) use pool::Pool;
pub(crate) use qos::{Qos, Rule, RuleChanges};
pub(crate) use recycle::RecycleBin;
pub(crate) use repo::{Keep, Repo, RepoPlace};
pub(crate) use snapshot::{Snapshot, SnapshotChanges, SnapshotFilter};
pub(crate) use top::Top;
pub(crate) use types::{Specs, Type, TypeChanges};
pub(crate) use values::{Device, Export, Exported, InUse, Setting, Spec, Switch};
pub(crate) use volume::{CreateVolume, Volume, VolumeFilter};

/// Where the daemon listens in production.
const DEFAULT_SOCKET: &str = "/run/cairn/control.sock";

const EXAMPLES: &str = "\
Examples:
  cairn --dev ./dev volume create demo --size 10G
  cairn --dev ./dev snapshot create demo before-upgrade
  cairn --dev ./dev snapshot tree demo
  cairn --json volume list | jq '.volumes[].name'

The daemon is found by --socket or --dev, else by CAIRN_SOCKET or CAIRN_DEV in the
environment, else at /run/cairn/control.sock. Sizes are binary: 10G is 10 GiB.";

/// Volumes, snapshots, images, types and pools of a running cairnd, and backups.
#[derive(Parser, Debug)]
#[command(name = "cairn", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The folder of a daemon started with --dev DIR
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "socket")]
    pub(crate) dev: Option<PathBuf>,

    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Print the daemon's JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the daemon is to be found, and how it would be started there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) socket: PathBuf,
    /// The folder, when it is a `--dev` one.
    pub(crate) dev: Option<PathBuf>,
}

impl Cli {
    pub(crate) fn place(&self) -> Place {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        place(self.dev.clone(), self.socket.clone(), set("CAIRN_DEV"), set("CAIRN_SOCKET"))
    }
}

fn place(
    dev: Option<PathBuf>,
    socket: Option<PathBuf>,
    env_dev: Option<PathBuf>,
    env_socket: Option<PathBuf>,
) -> Place {
    let in_folder = |folder: PathBuf| Place { socket: folder.join("control.sock"), dev: Some(folder) };
    let at = |socket| Place { socket, dev: None };
    match (dev, socket, env_dev, env_socket) {
        (Some(folder), ..) => in_folder(folder),
        (None, Some(path), ..) => at(path),
        (None, None, _, Some(path)) => at(path),
        (None, None, Some(folder), None) => in_folder(folder),
        (None, None, None, None) => at(PathBuf::from(DEFAULT_SOCKET)),
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Virtual disks
    #[command(subcommand, visible_alias = "vol")]
    Volume(Volume),
    /// What volumes held at a moment
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(Snapshot),
    /// Disks that never change, from which volumes are made
    #[command(subcommand)]
    Image(Image),
    /// Copies of volumes in a repository, and bringing them back
    #[command(subcommand)]
    Backup(Backup),
    /// Where backups are kept: a folder or an S3 bucket
    #[command(subcommand)]
    Repo(Repo),
    /// Kinds of volumes: which pool they are in, which limits they have
    #[command(subcommand)]
    Type(Type),
    /// Limits to volumes' I/O
    #[command(subcommand)]
    Qos(Qos),
    /// The files or devices that hold everything
    #[command(subcommand)]
    Pool(Pool),
    /// What takes its time: checks, scrubs, restores, imports
    #[command(subcommand)]
    Job(Job),
    /// Volumes that were deleted and can still be had back
    #[command(subcommand)]
    RecycleBin(RecycleBin),
    /// Show what happened lately, or what happens
    #[command(after_help = "\
Examples:
  cairn events --limit 20
  cairn events --follow
  cairn events --follow --severity warning
  cairn --json events --follow --kind volume | while read -r event; do ...; done

The daemon keeps the last 10,000 since it started. With --json, --follow prints one event a line.")]
    Events(Events),
    /// Show what volumes do, as they do it
    #[command(after_help = "\
Examples:
  cairn top
  cairn top --interval 5 --sort p99
  cairn top -n 1
  cairn --json top -n 10 | jq '.volumes[] | {volume, iops, p99_us}'

R and W MIB/S are what is read and written. MEAN and P99 are of all requests' latency,
without what they wait for a limit. QUEUE is how many are under way, those that wait
included; LIMITED is the share that had to wait. With --json, each sample is an object
on a line.")]
    Top(Top),
    /// Serve all of this to a browser on this machine, until Ctrl-C
    #[command(after_help = "\
Examples:
  cairn console
  cairn console --listen 127.0.0.1:0
  ssh -t -L 7676:localhost:7676 HOST cairn console          from another machine

It prints the URL to open. The token in it is what lets a browser in: whoever has it may do
what you may, until the command ends. The console works on the daemon as you, with your role.")]
    Console(Console),
    /// Show who the daemon takes you for, and what you may do
    Whoami,
    /// What this command line is
    #[command(flatten)]
    About(About),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("cairn").chain(args.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_form_parses() {
        for args in [
            "--dev d volume create demo --size 10G",
            "volume create demo --from a@b",
            "volume create demo --from a@b --size 20G --description x",
            "--json volume list",
            "volume list --json",
            "volume show demo --socket /s",
            "volume create demo --size 1G --type fast --shared",
            "volume edit demo --name web",
            "volume edit demo --description x --shared off",
            "volume create demo --size 1G --bootable on --project shop --tag env=prod --tag team=web --client-token 7",
            "volume edit demo --bootable off --write-protect on --project shop --tag env=prod --tag team=",
            "volume list --search web --status in-use --type fast --pool bulk --project shop --tag env=prod --tag team",
            "volume list --bootable on --shared off --write-protected on --sort -size,name --limit 5 --after demo",
            "volume reset-status demo --status maintenance --reason x",
            "volume reset-status demo --status available",
            "volume retype demo fast",
            "volume resize demo --size 20G",
            "volume resize demo --size 20G --yes",
            "volume attach demo",
            "volume attach demo@s /dev/nbd3 --connections 4 --read-only",
            "volume attach demo --snapshot s",
            "volume detach demo --force",
            "volume detach demo@s",
            "volume detach /dev/nbd0",
            "volume reset-attachments demo --yes",
            "volume attachments demo",
            "volume delete a b --yes --with-snapshots",
            "snapshot create demo s",
            "snapshot create a,b s",
            "snapshot list",
            "snapshot list demo",
            "snapshot create demo s --tag env=prod --description x --client-token 7",
            "snapshot list --search s --status in-use --project shop --tag env --automatic off --held on",
            "snapshot list demo --sort -created --limit 5 --after demo@s",
            "snapshot edit demo s --name t --description x --tag a=b --tag c=",
            "snapshot hold demo s audit --reason x",
            "snapshot release demo s audit",
            "snapshot tree demo",
            "snapshot show demo s",
            "snapshot clone demo s new",
            "snapshot rollback demo s --yes",
            "snapshot delete demo a b c",
            "snapshot diff demo a",
            "snapshot diff demo a b",
            "volume create demo --from-image debian",
            "volume create demo --from-image debian --size 20G",
            "image import disk.img web",
            "image import - web --format raw --max-size 100G --pool bulk --os-type linux --protected",
            "image export demo disk.qcow2",
            "image export demo@s - --format raw.tar.gz",
            "image export image:web disk.img --format raw",
            "image export volume:web disk.img",
            "image create web --from demo --description x --min-disk 20G --min-memory 1G",
            "image create web --from demo@s",
            "image list",
            "image show web",
            "image edit web --name new --protected off --os-type linux",
            "image delete a b --force",
            "repo init file:///b --encrypt --key-file k",
            "repo status",
            "repo status file:///b --key-file k",
            "repo verify file:///b --read-data --repair",
            "repo prune file:///b --keep-last 1 --keep-hourly 2 --keep-daily 3 --keep-weekly 4 --dry-run",
            "repo prune --keep-monthly 5 --keep-yearly 6 --yes",
            "repo gc file:///b --now --dry-run",
            "backup create demo --repo file:///b --full --name n --description d --tag k=v --limit-rate 10M",
            "backup list --repo file:///b --volume demo",
            "backup tree --repo file:///b",
            "backup show 3f --repo file:///b --key-file k",
            "backup edit 3f --name x --description y --tag a=b --tag c=",
            "backup delete 3f 4e --yes",
            "backup restore 3f --to-file - --limit-rate 1M",
            "backup restore 3f --repo file:///b --to new --type fast",
            "backup restore 3f --over demo --yes",
            "type create fast --description x --spec a=b --spec c=d --pool bulk --qos gold --default",
            "type list",
            "type show fast",
            "type edit fast --no-qos --spec a=",
            "type delete fast slow",
            "qos set demo total_iops_sec=2000 total_bytes_sec=100M",
            "qos show demo",
            "qos rule create gold total_iops_sec=2000 --description x",
            "qos rule list",
            "qos rule show gold",
            "qos rule edit gold total_iops_sec=0 read_iops_sec=5",
            "qos rule edit gold --description x",
            "qos rule delete gold silver",
            "pool list",
            "pool status",
            "pool status bulk",
            "pool check --data",
            "pool check bulk",
            "pool check bulk --data --detach",
            "job list",
            "job list --kind check --state running --pool bulk --volume demo --image web --limit 5",
            "job show check-0123456789ab --follow",
            "job show check-0123456789ab",
            "job cancel check-0123456789ab",
            "pool check ./pool.cairn --data",
            "pool scrub",
            "pool scrub bulk --limit-rate 100M --detach",
            "pool scrub bulk --status",
            "pool scrub --stop",
            "pool repair ./pool.cairn --yes",
            "pool dump ./pool.cairn --map demo@s",
            "pool create bulk --path /p --limit 100G",
            "pool grow --limit 200G",
            "pool grow bulk",
            "pool remove bulk --yes",
            "recycle-bin list",
            "recycle-bin set 7d",
            "recycle-bin set off",
            "recycle-bin recover demo --name web",
            "recycle-bin purge a b --yes",
            "volume delete a --permanent --yes",
            "events",
            "events --follow --kind volume.created --volume demo --severity warning --after 7 --limit 5",
            "top",
            "top --interval 0.5 -n 3 --sort p99",
            "--json top --count 1 -i 5 --sort name",
            "console",
            "console --listen 127.0.0.1:0",
            "console --listen [::1]:7676 --json",
            "console --listen localhost:8080",
            "completions bash",
            "man-pages .",
        ] {
            parse(args).unwrap_or_else(|e| panic!("{args}: {e}"));
        }
    }

    #[test]
    fn wrong_usage_is_told_with_exit_code_2() {
        for (args, part) in [
            ("volume create demo", "--size"),
            ("volume create demo --size 10X", "is not a size"),
            ("volume create demo --from ab", "expected VOLUME@SNAPSHOT"),
            ("volume create demo --from @b", "expected VOLUME@SNAPSHOT"),
            ("volume delete", "<NAME>"),
            ("volume lsit", "similar subcommand"),
            ("volume edit demo", "--name <NEW>"),
            ("volume edit demo --shared maybe", "possible values: on, off"),
            ("volume retype demo", "<TYPE>"),
            ("volume list --status idle", "there are available, creating"),
            ("volume list --tag a:b", "no key of a tag"),
            ("volume list --limit 0", "0 is not in 1.."),
            ("volume reset-status demo", "--status"),
            ("volume reset-status demo --status deleting", "expected available, error or maintenance"),
            ("snapshot edit demo s", "--name <NEW>"),
            ("snapshot hold demo s", "<HOLD>"),
            ("snapshot list --status idle", "expected available, in-use, backing-up or error"),
            ("volume attach demo nbd0", "a device such as /dev/nbd0"),
            ("volume attach demo --connections 17", "17 is not in 1..=16"),
            ("volume detach /dev/sda", "a device such as /dev/nbd0"),
            ("volume create demo --from a@b --from-image c", "cannot be used with"),
            ("image import disk.img", "<NAME>"),
            ("image import disk.img web --format qcow", "raw, qcow2, vmdk"),
            ("image create web", "--from"),
            ("image edit web", "--name <NEW>"),
            ("image export demo", "<FILE>"),
            ("image export @s disk.img", "expected"),
            ("image delete", "<NAME>"),
            ("repo init file:///b --key-file k", "--encrypt"),
            ("repo prune file:///b", "--keep-last"),
            ("backup delete", "<ID>"),
            ("backup edit 3f", "--name"),
            ("backup edit 3f --tag x", "expected KEY=VALUE"),
            ("backup restore 3f", "--to-file"),
            ("type create fast --spec a", "expected KEY=VALUE"),
            ("type edit fast", "--no-qos"),
            ("type edit fast --qos a --no-qos", "cannot be used with"),
            ("qos set demo", "<KEY=VALUE>"),
            ("qos set demo iops=5", "is not a key of a QoS rule"),
            ("qos set demo total_iops=5", "did you mean total_iops_sec?"),
            ("qos rule create gold", "<KEY=VALUE>"),
            ("qos rule edit gold", "KEY=VALUE"),
            ("pool create bulk", "--path"),
            ("pool grow --limit x", "is not a size"),
            ("pool remove", "<NAME>"),
            ("job list --kind backup", "expected check, scrub, restore or import"),
            ("job list --state idle", "expected running, done, failed, cancelled or interrupted"),
            ("job list --limit 0", "0 is not in 1.."),
            ("job show", "<ID>"),
            ("job cancel", "<ID>"),
            ("recycle-bin set 7", "expected a time such as 7d"),
            ("recycle-bin set 0d", "expected a time such as 7d"),
            ("recycle-bin purge", "<NAME|ID>"),
            ("events --severity bad", "expected info, warning or error"),
            ("top --interval 0", "expected seconds, from 0.1 to 3600"),
            ("top -n 0", "0 is not in 1.."),
            ("top --sort size", "invalid value 'size'"),
            ("console --listen 7676", "expected an address and a port"),
            ("console --listen 0.0.0.0:7676", "ssh -L 7676:localhost:7676 HOST"),
            ("console --listen [::]:7676", "loopback addresses only"),
            ("completions sh", "bash"),
            ("snapshot delete demo", "<NAME>"),
            ("--dev d --socket s volume list", "cannot be used with"),
        ] {
            let error = parse(args).expect_err(args);
            assert_eq!(error.exit_code(), 2, "{args}");
            assert!(error.to_string().contains(part), "{args}\nlacks {part:?}:\n{error}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let path = |p: &str| Some(PathBuf::from(p));
        let socket = |p: Place| p.socket.display().to_string();
        assert_eq!(socket(place(path("d"), None, path("e"), path("s"))), "d/control.sock");
        assert_eq!(socket(place(None, path("x"), path("e"), path("s"))), "x");
        assert_eq!(socket(place(None, None, path("e"), path("s"))), "s");
        assert_eq!(place(None, None, path("e"), None).dev, path("e"));
        assert_eq!(socket(place(None, None, None, None)), DEFAULT_SOCKET);
    }
}
