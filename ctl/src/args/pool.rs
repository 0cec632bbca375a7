//! `cairn pool ...`

use std::path::PathBuf;

use cairn_api::Size;
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Pool {
    /// List all pools and how full they are
    #[command(visible_alias = "ls")]
    List,
    /// Show how full a pool is and how it fares
    #[command(after_help = "Examples:\n  cairn pool status\n  cairn pool status bulk")]
    Status {
        /// The pool; the one that the daemon was started on unless given
        name: Option<String>,
    },
    /// Check that everything in a pool is sound, while it is in use; exits with 1 when it is not
    #[command(after_help = "Examples:\n  cairn pool check\n  cairn pool check bulk --data")]
    Check {
        /// The pool; the one that the daemon was started on unless given
        name: Option<String>,
        /// Read all data too, not only what describes it
        #[arg(long)]
        data: bool,
    },
    /// Add a pool: a new one, or what a file or device holds already
    #[command(after_help = "\
Examples:
  cairn pool create bulk --path /srv/bulk/pool.cairn --limit 4T
  cairn pool create nvme --path /dev/nvme1n1
  cairn type create archive --pool bulk       volumes of this type are made there")]
    Create {
        /// The new pool's name: letters, digits, '.', '_' and '-', at most 128
        name: String,
        /// A file, which is made if it is missing, or a block device
        #[arg(long)]
        path: PathBuf,
        /// What a new pool may grow to; 1T unless given, and never more than a device has
        #[arg(long, value_name = "SIZE")]
        limit: Option<Size>,
    },
    /// Let a pool grow further
    #[command(after_help = "\
Examples:
  cairn pool grow --limit 2T
  cairn pool grow nvme                        on a device that has become larger")]
    Grow {
        /// The pool; the one that the daemon was started on unless given
        name: Option<String>,
        /// What it may grow to; a device's present size unless given
        #[arg(long, value_name = "SIZE")]
        limit: Option<Size>,
    },
    /// Stop using a pool that has no volumes; its file stays as it is
    #[command(visible_alias = "rm", after_help = "Example:\n  cairn pool remove bulk --yes")]
    Remove {
        /// The pool
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}
