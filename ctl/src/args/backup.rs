//! `cairn backup ...`

use std::path::PathBuf;

use cairn_api::Size;
use clap::{Args, Subcommand};

use super::values::Spec;

#[derive(Subcommand, Debug)]
pub(crate) enum Backup {
    /// Back up a volume as it is now
    #[command(after_help = "\
Examples:
  cairn backup create db --repo file:///srv/backups
  cairn backup create db --repo s3://bucket/prefix --name nightly --tag keep=yes --limit-rate 50M

The first backup reads all of the volume, later ones what has changed: the snapshot that was taken for a backup stays
until the next one is made. Interrupted, it leaves nothing that counts; run it again, and what was uploaded is not
sent again.")]
    Create(CreateBackup),
    /// List backups, the newest first
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        repo: InRepo,
        /// Only those of the volumes that had this name
        #[arg(long, value_name = "VOL")]
        volume: Option<String>,
    },
    /// Draw which backup is incremental to which
    Tree {
        #[command(flatten)]
        repo: InRepo,
    },
    /// Show one backup
    Show {
        /// The backup: its id, or enough of its beginning
        id: String,
        #[command(flatten)]
        repo: InRepo,
    },
    /// Name, describe or tag a backup differently
    #[command(
        after_help = "Example:\n  cairn backup edit 3f9c --name before-upgrade --tag keep=yes --tag old="
    )]
    Edit {
        /// The backup: its id, or enough of its beginning
        id: String,
        #[command(flatten)]
        repo: InRepo,
        #[command(flatten)]
        changes: BackupChanges,
    },
    /// Delete backups, in any order: each restores on its own
    #[command(
        visible_alias = "rm",
        after_help = "\
Example:
  cairn backup delete 3f9c 77ab --yes

Space is given back by cairn repo gc."
    )]
    Delete {
        /// The backups: their ids, or enough of their beginnings
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        repo: InRepo,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Restore a backup to a volume, a file or a stream; every byte is verified first
    #[command(after_help = "\
Examples:
  cairn backup restore 3f9c --to db2
  cairn backup restore 3f9c --to db3 --instant
  cairn backup restore 3f9c --over db --yes
  cairn backup restore 3f9c --to-file disk.img
  cairn backup restore 3f9c --to-file - | ssh host 'cat > disk.img'

A volume or file appears when it is complete, and so does what a volume holds change; interrupted, all is as it was. What
a volume held before stays as a snapshot: to go back to it, cairn snapshot rollback. A file is sparse; one that is there
already is replaced. --to-file needs no daemon.

With --instant the new volume serves at once: what is read is fetched first, the rest in the background, by the daemon
itself. Until all is there it needs the repository, the key file and, for S3, the AWS variables in its own environment.")]
    Restore(RestoreBackup),
}

#[derive(Args, Debug)]
pub(crate) struct RestoreBackup {
    /// The backup: its id, or enough of its beginning
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) repo: InRepo,
    #[command(flatten)]
    pub(crate) target: RestoreTarget,
    /// The new volume's type
    #[arg(long = "type", value_name = "TYPE", requires = "to")]
    pub(crate) volume_type: Option<String>,
    /// The new volume's project
    #[arg(long, value_name = "PROJECT", requires = "to", conflicts_with = "instant")]
    pub(crate) project: Option<String>,
    /// Have the new volume serve at once, while it is being filled
    #[arg(long, requires = "to", conflicts_with = "limit_rate")]
    pub(crate) instant: bool,
    /// Bytes a second that are fetched at most
    #[arg(long, value_name = "SIZE")]
    pub(crate) limit_rate: Option<Size>,
    /// Do not ask
    #[arg(long, short, requires = "over")]
    pub(crate) yes: bool,
}

/// Where a backup is restored to.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct RestoreTarget {
    /// A new volume of this name
    #[arg(long, value_name = "NEWVOL")]
    pub(crate) to: Option<String>,
    /// A volume that nobody uses, in place of what it holds
    #[arg(long, value_name = "VOL")]
    pub(crate) over: Option<String>,
    /// A file; - for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) to_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct CreateBackup {
    /// The volume
    #[arg(value_name = "VOL")]
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) repo: InRepo,
    /// Read all of the volume, whatever has changed
    #[arg(long)]
    pub(crate) full: bool,
    /// A name
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// Free text
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) description: String,
    /// A tag
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Spec>,
    /// Bytes a second that are sent at most
    #[arg(long, value_name = "SIZE")]
    pub(crate) limit_rate: Option<Size>,
}

/// Which repository the backups are in.
#[derive(Args, Debug)]
pub(crate) struct InRepo {
    /// file:///folder or s3://bucket/prefix; CAIRN_REPO unless given
    #[arg(long, value_name = "URL")]
    pub(crate) repo: Option<String>,
    /// The file that holds the key; CAIRN_KEY_FILE unless given
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// At least one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct BackupChanges {
    /// A name; an empty one for none
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A tag; without a value it is taken away
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Spec>,
}
