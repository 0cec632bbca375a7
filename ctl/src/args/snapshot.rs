//! `cairn snapshot ...`

use cairn_api::Size;
use clap::Subcommand;

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
