//! The command line. Its words are fixed: scripts rely on them.

use std::path::PathBuf;
use std::str::FromStr;

use cairn_api::Size;
use cairn_api::volume::SnapshotRef;
use clap::{Args, Parser, Subcommand};

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

/// Volumes, snapshots and clones of a running cairnd.
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
    /// The file or device that holds everything
    #[command(subcommand)]
    Pool(Pool),
}

#[derive(Subcommand, Debug)]
pub(crate) enum Volume {
    /// Create a volume: blank, or from a snapshot
    #[command(after_help = "\
Examples:
  cairn volume create demo --size 10G
  cairn volume create copy --from demo@before-upgrade
  cairn volume create larger --from demo@before-upgrade --size 20G")]
    Create(CreateVolume),
    /// List all volumes
    #[command(visible_alias = "ls")]
    List,
    /// Show one volume and how to connect to it
    Show {
        /// The volume
        name: String,
    },
    /// Grow a volume; what is on it stays, and connected clients see the new size when they ask again
    #[command(after_help = "Example:\n  cairn volume resize demo --size 20G")]
    Resize {
        /// The volume
        name: String,
        /// The new size, not less than the present one
        #[arg(long)]
        size: Size,
    },
    /// Delete volumes that nobody is connected to
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  cairn volume delete demo
  cairn volume delete copy larger --yes
  cairn volume delete demo --with-snapshots --yes

Volumes cloned from the deleted one's snapshots live on."
    )]
    Delete {
        /// The volumes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Delete their snapshots too; without, a volume that has snapshots is refused
        #[arg(long)]
        with_snapshots: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CreateVolume {
    /// The new volume's name: letters, digits, '.', '_' and '-', at most 128
    pub(crate) name: String,
    /// Its size, for example 512M, 10G, 2T; for a clone that of the snapshot unless given
    #[arg(long, required_unless_present = "from")]
    pub(crate) size: Option<Size>,
    /// Start with what a snapshot holds
    #[arg(long, value_name = "VOL@SNAP")]
    pub(crate) from: Option<From>,
    /// Free text
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) description: String,
}

/// `VOLUME@SNAPSHOT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct From(pub(crate) SnapshotRef);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text.split_once('@') {
            Some((volume, snapshot)) if !volume.is_empty() && !snapshot.is_empty() => {
                Ok(From(SnapshotRef { volume: volume.to_owned(), snapshot: snapshot.to_owned() }))
            }
            _ => Err("expected VOLUME@SNAPSHOT, for example demo@before-upgrade".to_owned()),
        }
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Snapshot {
    /// Take a snapshot, of several volumes at one moment where they are separated by commas
    #[command(after_help = "\
Examples:
  cairn snapshot create demo before-upgrade
  cairn snapshot create data,log nightly      both at the same moment, or neither")]
    Create {
        /// The volume, or several separated by commas
        #[arg(value_name = "VOL[,VOL...]")]
        volume: String,
        /// The new snapshot's name: letters, digits, '.', '_' and '-', at most 128
        name: String,
        /// Free text
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        description: String,
    },
    /// List snapshots, of one volume or of all
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this volume
        #[arg(value_name = "VOL")]
        volume: Option<String>,
    },
    /// Draw how a volume, its snapshots and their clones descend from each other, the newest first
    Tree {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
    },
    /// Show one snapshot
    Show {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot
        name: String,
    },
    /// Make a new volume of a snapshot; both live independently from then on
    #[command(after_help = "Example:\n  cairn snapshot clone demo before-upgrade copy")]
    Clone {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot
        name: String,
        /// The new volume's name
        #[arg(value_name = "NEWVOL")]
        new_volume: String,
        /// The new volume's size; the snapshot's unless given
        #[arg(long)]
        size: Option<Size>,
    },
    /// Make a volume hold again what it held then; what it holds now is kept as a snapshot, newer ones stay
    #[command(after_help = "Example:\n  cairn snapshot rollback demo before-upgrade")]
    Rollback {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Also while clients are connected: what they have mounted or cached then no longer matches the disk
        #[arg(long)]
        force: bool,
    },
    /// Delete snapshots, in any order
    #[command(visible_alias = "rm", after_help = "Example:\n  cairn snapshot delete demo monday tuesday")]
    Delete {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshots
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show which ranges changed from a snapshot to another one, or to now
    #[command(after_help = "\
Examples:
  cairn snapshot diff demo monday             what changed since
  cairn snapshot diff demo monday tuesday     what changed in between")]
    Diff {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot to compare
        name: String,
        /// The snapshot to compare it with; the volume as it is now unless given
        #[arg(value_name = "NAME2")]
        to: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Pool {
    /// Show how full the pool is and how it fares
    Status,
    /// Check that everything in the pool is sound, while it is in use; exits with 1 when it is not
    Check {
        /// Read all data too, not only what describes it
        #[arg(long)]
        data: bool,
    },
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
            "volume resize demo --size 20G",
            "volume delete a b --yes --with-snapshots",
            "snapshot create demo s",
            "snapshot create a,b s",
            "snapshot list",
            "snapshot list demo",
            "snapshot tree demo",
            "snapshot show demo s",
            "snapshot clone demo s new",
            "snapshot rollback demo s --yes",
            "snapshot delete demo a b c",
            "snapshot diff demo a",
            "snapshot diff demo a b",
            "pool status",
            "pool check --data",
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
