//! `cairn backup ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values::Spec;

#[derive(Subcommand, Debug)]
pub(crate) enum Backup {
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
    /// Restore a backup to a file or a stream; every byte is verified first
    #[command(after_help = "\
Examples:
  cairn backup restore 3f9c --to-file disk.img
  cairn backup restore 3f9c --to-file - | ssh host 'cat > disk.img'

Needs no daemon. The file is sparse, and appears when it is complete; one that is there already is replaced then.")]
    Restore {
        /// The backup: its id, or enough of its beginning
        id: String,
        #[command(flatten)]
        repo: InRepo,
        /// Where to; - for standard output
        #[arg(long, value_name = "FILE")]
        to_file: PathBuf,
    },
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
