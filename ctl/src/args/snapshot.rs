//! `cairn snapshot ...`

use cairn_api::Size;
use cairn_api::snapshot::{SetSnapshotStatus, SnapshotStatus};
use clap::{Args, Subcommand};

use super::values::{ListFilter, Spec, Switch, one_of};

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
        /// What to say about it; may be given several times
        #[arg(long = "tag", value_name = "KEY=VALUE")]
        tags: Vec<Spec>,
        /// Any text of up to 64 visible characters: given again, the same command makes nothing new
        #[arg(long, value_name = "TOKEN")]
        client_token: Option<String>,
    },
    /// List snapshots, of one volume or of all
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  cairn snapshot list demo
  cairn snapshot list --tag release --sort -created --limit 10
  cairn snapshot list --held on"
    )]
    List(SnapshotFilter),
    /// Say something else about a snapshot; what it holds never changes
    #[command(after_help = "\
Examples:
  cairn snapshot edit demo monday --name before-upgrade --description 'the last good one'
  cairn snapshot edit demo monday --tag keep=yes --tag draft=")]
    Edit {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot
        name: String,
        #[command(flatten)]
        changes: SnapshotChanges,
    },
    /// Set a snapshot's status: in error, or available again
    #[command(after_help = "\
Examples:
  cairn snapshot reset-status demo monday --status error --reason 'taken in the middle of a migration'
  cairn snapshot reset-status demo monday --status available")]
    ResetStatus {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot
        name: String,
        /// The status
        #[arg(long, value_name = "available|error", value_parser = set_status)]
        status: SetSnapshotStatus,
        /// Why, for who looks at it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Forbid to delete a snapshot, with its volume, too, until it is released
    #[command(
        after_help = "Example:\n  cairn snapshot hold demo monday audit --reason 'kept for the auditors until May'"
    )]
    Hold {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot
        name: String,
        /// What the hold is called, to release it by
        #[arg(value_name = "HOLD")]
        hold: String,
        /// Why, for who is refused
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// Take a hold away
    #[command(after_help = "Example:\n  cairn snapshot release demo monday audit")]
    Release {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot
        name: String,
        /// The hold
        #[arg(value_name = "HOLD")]
        hold: String,
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
  cairn snapshot diff demo monday tuesday     what changed in between
  cairn snapshot diff demo monday --volume copy   what a clone of it, say, holds otherwise")]
    Diff {
        /// The volume
        #[arg(value_name = "VOL")]
        volume: String,
        /// The snapshot to compare
        name: String,
        /// The snapshot to compare it with; the volume as it is now unless given
        #[arg(value_name = "NAME2")]
        to: Option<String>,
        /// Another volume of the same pool, to compare it with its snapshot NAME2, or with what that holds now
        #[arg(long = "volume", value_name = "VOL2")]
        to_volume: Option<String>,
    },
}

/// At least one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct SnapshotChanges {
    /// A new name; nobody may be connected
    #[arg(long = "name", value_name = "NEW")]
    pub(crate) new_name: Option<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A tag to set, or with nothing after the = to take away; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Spec>,
}

/// Which snapshots.
#[derive(Args, Debug)]
pub(crate) struct SnapshotFilter {
    /// Only those of this volume
    #[arg(value_name = "VOL")]
    pub(crate) volume: Option<String>,
    #[command(flatten)]
    pub(crate) list: ListFilter,
    /// In this status: available, in-use or error
    #[arg(long, value_parser = snapshot_status)]
    pub(crate) status: Option<SnapshotStatus>,
    /// Of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
    /// Those that cairn has made by itself, or the others
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) automatic: Option<Switch>,
    /// Those that are held, or the others
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) held: Option<Switch>,
    /// Order by volume, name, size, used or created, several with commas; with - from the other end
    #[arg(long, value_name = "KEY,...", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
}

fn set_status(text: &str) -> Result<SetSnapshotStatus, String> {
    one_of(text, &[SetSnapshotStatus::Available, SetSnapshotStatus::Error], SetSnapshotStatus::as_str)
}

fn snapshot_status(text: &str) -> Result<SnapshotStatus, String> {
    let all =
        [SnapshotStatus::Available, SnapshotStatus::InUse, SnapshotStatus::BackingUp, SnapshotStatus::Error];
    one_of(text, &all, SnapshotStatus::as_str)
}
