//! `cairn repo ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(crate) enum Repo {
    /// Make a repository for backups
    #[command(after_help = "\
Examples:
  cairn repo init file:///srv/backups
  cairn repo init s3://bucket/prefix --encrypt --key-file /etc/cairn/backup.key

With --encrypt a key file that is not there yet is made. Without it nobody can read the backups: keep a copy elsewhere.
S3 stores are reached by the usual variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.
A request is made again when its store was silent for CAIRN_STORE_TIMEOUT seconds (30), CAIRN_STORE_ATTEMPTS times (9) in all.")]
    Init {
        /// file:///folder or s3://bucket/prefix; CAIRN_REPO unless given
        url: Option<String>,
        /// Encrypt everything in it
        #[arg(long)]
        encrypt: bool,
        /// The file that holds the key; CAIRN_KEY_FILE unless given
        #[arg(long, value_name = "FILE", requires = "encrypt")]
        key_file: Option<PathBuf>,
    },
    /// Show what a repository is and holds
    Status {
        #[command(flatten)]
        place: RepoPlace,
    },
    /// Check that every backup can be restored; exits with 1 if not
    #[command(after_help = "\
Examples:
  cairn repo verify file:///srv/backups               what refers to what, and that everything is there
  cairn repo verify file:///srv/backups --read-data   every byte")]
    Verify {
        #[command(flatten)]
        place: RepoPlace,
        /// Read and check every byte
        #[arg(long)]
        read_data: bool,
        /// Set damaged objects aside, so that the next full backup stores again what its volume still has
        #[arg(long)]
        repair: bool,
    },
    /// Delete the backups that no rule keeps, of each volume
    #[command(after_help = "\
Examples:
  cairn repo prune file:///srv/backups --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run
  cairn repo prune file:///srv/backups --keep-last 3 --yes

Each rule keeps the newest backup of every hour, day, week ... that has one, until it has kept so many. Space is given
back by cairn repo gc.")]
    Prune {
        #[command(flatten)]
        place: RepoPlace,
        #[command(flatten)]
        keep: Keep,
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Give back the space of what no backup needs any more
    #[command(after_help = "\
Examples:
  cairn repo gc file:///srv/backups
  cairn repo gc file:///srv/backups --now             while nobody makes a backup: at once, not an hour later

What nobody needs is condemned first and deleted by a collection that begins an hour later or more; what an interrupted
backup has uploaded stays for a day, for its next attempt. Backups may be made meanwhile, also from other hosts.")]
    Gc {
        #[command(flatten)]
        place: RepoPlace,
        /// Do not wait between condemning and deleting
        #[arg(long)]
        now: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// A repository as the subject of a command.
#[derive(Args, Debug)]
pub(crate) struct RepoPlace {
    /// file:///folder or s3://bucket/prefix; CAIRN_REPO unless given
    pub(crate) url: Option<String>,
    /// The file that holds the key; CAIRN_KEY_FILE unless given
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// At least one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Keep {
    /// The newest ones
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<u32>,
    /// One of each of so many hours
    #[arg(long, value_name = "N")]
    pub(crate) keep_hourly: Option<u32>,
    /// One of each of so many days
    #[arg(long, value_name = "N")]
    pub(crate) keep_daily: Option<u32>,
    /// One of each of so many weeks
    #[arg(long, value_name = "N")]
    pub(crate) keep_weekly: Option<u32>,
    /// One of each of so many months
    #[arg(long, value_name = "N")]
    pub(crate) keep_monthly: Option<u32>,
    /// One of each of so many years
    #[arg(long, value_name = "N")]
    pub(crate) keep_yearly: Option<u32>,
}
