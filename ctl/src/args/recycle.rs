//! `cairn recycle-bin ...`

use clap::Subcommand;

use super::values::Keep;

#[derive(Subcommand, Debug)]
pub(crate) enum RecycleBin {
    /// List what was deleted and can still be had back
    #[command(visible_alias = "ls")]
    List,
    /// Say for how long deleted volumes are kept
    #[command(after_help = "\
Examples:
  cairn recycle-bin set 7d
  cairn recycle-bin set 12h
  cairn recycle-bin set off

It holds for what is in the bin, too. What is kept takes space as before.")]
    Set {
        /// Days, hours or minutes, such as 7d; or off
        #[arg(value_name = "TIME")]
        keep: Keep,
    },
    /// Make a deleted volume a volume again, with all its snapshots
    #[command(after_help = "\
Examples:
  cairn recycle-bin recover demo
  cairn recycle-bin recover demo --name demo-as-it-was

Of several that had the name, the one that was deleted last; or name one by its id.")]
    Recover {
        /// What the volume was called, or its id in the bin
        #[arg(value_name = "NAME|ID")]
        volume: String,
        /// What it is to be called
        #[arg(long, value_name = "NEW")]
        name: Option<String>,
    },
    /// Delete volumes in the bin for good
    #[command(after_help = "Example:\n  cairn recycle-bin purge demo --yes")]
    Purge {
        /// What the volumes were called, or their ids in the bin
        #[arg(required = true, value_name = "NAME|ID")]
        volumes: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}
