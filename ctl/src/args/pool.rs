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
    #[command(after_help = "\
A check is a job of the daemon. Interrupting this command cancels it; with --detach it goes on
by itself, and \"cairn job show\" tells what it has found.

Examples:
  cairn pool check
  cairn pool check bulk --data
  cairn pool check --data --detach
  cairn pool check /srv/pool.cairn            one that no daemon uses: its path, with a '/'")]
    Check {
        /// The pool; the one that the daemon was started on unless given
        #[arg(value_name = "NAME|PATH")]
        name: Option<String>,
        /// Read all data too, not only what describes it
        #[arg(long)]
        data: bool,
        /// Do not wait for its end
        #[arg(long)]
        detach: bool,
    },
    /// Read all that a pool holds in the background, and compare it with its checksums; exits with 1 when that found damage
    #[command(after_help = "\
A scrub gives way to the volumes' clients, and goes on when this command is interrupted.

Examples:
  cairn pool scrub                            begin, and watch it to its end
  cairn pool scrub bulk --limit-rate 100M --detach
  cairn pool scrub --status
  cairn pool scrub --stop")]
    Scrub {
        /// The pool; the one that the daemon was started on unless given
        name: Option<String>,
        /// Read so many bytes a second at most
        #[arg(long, value_name = "SIZE", conflicts_with_all = ["status", "stop"])]
        limit_rate: Option<Size>,
        /// Do not wait for its end
        #[arg(long, conflicts_with_all = ["status", "stop"])]
        detach: bool,
        /// Show how far it is, or what the last one found
        #[arg(long, conflicts_with = "stop")]
        status: bool,
        /// End it
        #[arg(long)]
        stop: bool,
    },
    /// Say what a repair of a damaged pool would lose; with --yes, repair it. No daemon may use it
    #[command(after_help = "\
Data that does not match its checksum stays an error for whoever reads it, until it is
written again or trimmed. Without --yes nothing is changed. Make a copy of the pool first.

Examples:
  cairn pool repair /srv/pool.cairn           what would be lost
  cairn pool repair /srv/pool.cairn --yes")]
    Repair {
        /// The pool's file or device, or the folder of --dev
        path: PathBuf,
        /// Do it
        #[arg(long, short)]
        yes: bool,
    },
    /// Print a pool's metadata as it stands on disk. No daemon may use it
    #[command(after_help = "\
Examples:
  cairn pool dump /srv/pool.cairn
  cairn --json pool dump /srv/pool.cairn --map demo@s1")]
    Dump {
        /// The pool's file or device, or the folder of --dev
        path: PathBuf,
        /// The map of this volume or snapshot as well
        #[arg(long, value_name = "VOLUME[@SNAPSHOT]")]
        map: Option<String>,
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
