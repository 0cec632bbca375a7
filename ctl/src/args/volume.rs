//! `cairn volume ...`

use cairn_api::Size;
use clap::{Args, Subcommand};

use super::values::{Device, Export, From, InUse, Switch};

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
    /// List all volumes
    #[command(visible_alias = "ls")]
    List,
    /// Show one volume and how to connect to it
    Show {
        /// The volume
        name: String,
    },
    /// Name, describe or share a volume differently
    #[command(after_help = "\
Examples:
  cairn volume edit demo --description 'web server, to be moved'
  cairn volume edit demo --name web
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
}
