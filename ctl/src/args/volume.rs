//! `cairn volume ...`

use cairn_api::Size;
use cairn_api::volume::{SetStatus, VolumeStatus};
use clap::{Args, Subcommand};

use super::values::{Device, Export, From, InUse, ListFilter, Spec, Switch, one_of};

#[derive(Subcommand, Debug)]
pub(crate) enum Volume {
    /// Create a volume: blank, from a snapshot, or from an image
    #[command(after_help = "\
Examples:
  cairn volume create demo --size 10G
  cairn volume create db --size 100G --type fast
  cairn volume create copy --from demo@before-upgrade
  cairn volume create larger --from demo@before-upgrade --size 20G
  cairn volume create vm-1 --from-image debian-13")]
    Create(CreateVolume),
    /// List volumes: all, or those to which all of this applies
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  cairn volume list
  cairn volume list --status in-use --sort -used
  cairn volume list --tag env=prod --tag team --project shop
  cairn volume list --search web --limit 20"
    )]
    List(VolumeFilter),
    /// Show one volume and how to connect to it
    Show {
        /// The volume
        name: String,
    },
    /// Say something else about a volume: its name, description, tags, and how it may be used
    #[command(after_help = "\
Examples:
  cairn volume edit demo --description 'web server, to be moved'
  cairn volume edit demo --name web
  cairn volume edit demo --tag env=prod --tag team=
  cairn volume edit golden --write-protect on
  cairn volume edit cluster-disk --shared on

Clients that come back ask for the name they know: a volume in use keeps its name.")]
    Edit {
        /// The volume
        name: String,
        #[command(flatten)]
        changes: VolumeChanges,
    },
    /// Give a volume another type, whose limits hold at once
    #[command(after_help = "Example:\n  cairn volume retype demo fast")]
    Retype {
        /// The volume
        name: String,
        /// The type, of the same pool
        #[arg(value_name = "TYPE")]
        to: String,
    },
    /// Set a volume's status: available again after an error, in maintenance so that nobody can connect, or in error
    #[command(after_help = "\
Examples:
  cairn volume reset-status demo --status maintenance --reason 'moving to another host'
  cairn volume reset-status demo --status available

Back to available, checksum errors that were counted are forgotten, too.")]
    ResetStatus {
        /// The volume
        name: String,
        /// The status
        #[arg(long, value_name = "available|error|maintenance", value_parser = set_status)]
        status: SetStatus,
        /// Why, for who looks at it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Grow a volume; what is on it stays, and connected clients see the new size when they ask again
    #[command(after_help = "\
Examples:
  cairn volume resize demo --size 20G
  cairn volume resize demo --size 20G --yes

A volume that has grown cannot be made smaller again.")]
    Resize {
        /// The volume
        name: String,
        /// The new size, not less than the present one
        #[arg(long)]
        size: Size,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Attach a volume or snapshot to this machine's kernel and say which device it is
    #[command(after_help = "\
Examples:
  cairn volume attach demo
  cairn volume attach demo /dev/nbd3 --connections 4
  cairn volume attach demo@before-upgrade
  dev=$(cairn volume attach demo) && mount \"$dev\" /mnt")]
    Attach {
        /// The volume, or a snapshot, which is attached read-only
        #[arg(value_name = "VOL[@SNAP]")]
        name: Export,
        /// The device; a free one unless given
        #[arg(value_name = "/dev/nbdN")]
        device: Option<Device>,
        /// Connections between kernel and daemon, 1 to 16; chosen by the daemon unless given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
        connections: Option<u32>,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
        /// This snapshot of the volume: the same as VOL@SNAP
        #[arg(long, value_name = "SNAP")]
        snapshot: Option<String>,
    },
    /// End the use of a volume or snapshot, by whomever; waits for I/O in flight
    #[command(after_help = "\
Examples:
  cairn volume detach demo
  cairn volume detach demo@before-upgrade
  cairn volume detach /dev/nbd0
  cairn volume detach demo --force

What was answered to a flush is kept, with --force too.")]
    Detach {
        /// The volume, the snapshot, or the device that one of them is attached to
        #[arg(value_name = "VOL[@SNAP]|/dev/nbdN")]
        name: InUse,
        /// Cut the connections at once, without waiting for I/O in flight
        #[arg(long)]
        force: bool,
    },
    /// Forget every use of a volume and its snapshots, whatever state it is in
    #[command(after_help = "\
Example:
  cairn volume reset-attachments demo --yes

Connections are cut. For a consumer that is gone but still listed; see \"cairn volume attachments\".")]
    ResetAttachments {
        /// The volume
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// List who uses a volume and its snapshots, since when, and what they did
    #[command(after_help = "Example:\n  cairn volume attachments demo")]
    Attachments {
        /// The volume
        name: String,
    },
    /// Delete volumes that nobody is connected to
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  cairn volume delete demo
  cairn volume delete copy larger --yes
  cairn volume delete demo --with-snapshots --yes
  cairn volume delete demo --keep-snapshots --yes   # snapshots stay demo@..., until the last is deleted

Volumes cloned from the deleted one's snapshots live on. Where there is a recycle bin (cairn recycle-bin),
deleted volumes can be had back from it for a while."
    )]
    Delete {
        /// The volumes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Delete their snapshots too; without, a volume that has snapshots is refused
        #[arg(long)]
        with_snapshots: bool,
        /// Have their snapshots live on, and delete all else of them for good
        #[arg(long, conflicts_with_all = ["with_snapshots", "permanent"])]
        keep_snapshots: bool,
        /// For good, also where there is a recycle bin
        #[arg(long)]
        permanent: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CreateVolume {
    /// The new volume's name: letters, digits, '.', '_' and '-', at most 128
    pub(crate) name: String,
    /// Its size, for example 512M, 10G, 2T; that of the snapshot or image unless given
    #[arg(long, required_unless_present_any = ["from", "from_image"])]
    pub(crate) size: Option<Size>,
    /// Start with what a snapshot holds
    #[arg(long, value_name = "VOL@SNAP")]
    pub(crate) from: Option<From>,
    /// Start with what an image holds
    #[arg(long, value_name = "IMAGE", conflicts_with = "from")]
    pub(crate) from_image: Option<String>,
    /// Its type; the default type unless given, for a clone that of its source
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) volume_type: Option<String>,
    /// Let several clients use it at once
    #[arg(long)]
    pub(crate) shared: bool,
    /// Whether a machine can boot from it; unless given, when it begins as an image or a bootable volume's snapshot
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) bootable: Option<Switch>,
    /// Whose it is
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// What to say about it; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Spec>,
    /// Any text of up to 64 visible characters: given again, the same command makes nothing new
    #[arg(long, value_name = "TOKEN")]
    pub(crate) client_token: Option<String>,
    /// Free text
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) description: String,
}

/// At least one of them.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct VolumeChanges {
    /// A new name; nobody may be connected
    #[arg(long = "name", value_name = "NEW")]
    pub(crate) new_name: Option<String>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Whether several clients may use it at once
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) shared: Option<Switch>,
    /// Whether a machine can boot from it; nobody may be connected
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) bootable: Option<Switch>,
    /// Whether to refuse writes, resizing, rolling back and deleting; nobody may be connected
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) write_protect: Option<Switch>,
    /// Whose it is
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// A tag to set, or with nothing after the = to take away; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Spec>,
}

/// Which volumes.
#[derive(Args, Debug)]
pub(crate) struct VolumeFilter {
    #[command(flatten)]
    pub(crate) list: ListFilter,
    /// In this status
    #[arg(long)]
    pub(crate) status: Option<VolumeStatus>,
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) volume_type: Option<String>,
    /// In this pool
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
    /// Those that a machine can boot from, or the others
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) bootable: Option<Switch>,
    /// Those that several clients may use at once, or the others
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) shared: Option<Switch>,
    /// Those that are write-protected, or the others
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub(crate) write_protected: Option<Switch>,
    /// Order by name, size, used, created, status, type, pool or project, several with commas; with - from the other end
    #[arg(long, value_name = "KEY,...", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
}

/// The statuses that can be set.
fn set_status(text: &str) -> Result<SetStatus, String> {
    let all = [SetStatus::Available, SetStatus::Error, SetStatus::Maintenance];
    one_of(text, &all, SetStatus::as_str)
}
