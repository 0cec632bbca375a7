//! Who uses a volume.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::{Device, Name};

/// One consumer, as the daemon sees it. All connections of one are one attachment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Consumer {
    /// A process of this machine, by a Unix socket.
    Process {
        /// Its user.
        uid: u32,
        /// Its id when it connected.
        pid: i32,
        /// The program's name, as far as it could be found out.
        #[serde(default)]
        command: Option<String>,
    },
    /// A host, by TCP.
    Host {
        /// Its address, without the port: a client's connections each have their own.
        address: String,
    },
    /// This machine's kernel.
    Kernel {
        /// The block device.
        #[schema(example = "/dev/nbd0")]
        device: String,
    },
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Consumer::Process { uid, pid, command: Some(command) } => {
                write!(f, "{command} (pid {pid}, uid {uid})")
            }
            Consumer::Process { uid, pid, command: None } => write!(f, "pid {pid}, uid {uid}"),
            Consumer::Host { address } => f.write_str(address),
            Consumer::Kernel { device } => f.write_str(device),
        }
    }
}

/// One consumer's use of a volume or snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Attachment {
    /// The export: `VOLUME` or `VOLUME@SNAPSHOT`.
    pub export: String,
    /// Who.
    pub consumer: Consumer,
    /// Since when.
    pub since: Timestamp,
    /// NBD connections; 0 for a kernel device that waits to be connected again.
    pub connections: u64,
    /// Reads answered.
    pub reads: u64,
    /// Writes answered, trims and requests for zeroes included.
    pub writes: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

/// Who uses a volume and its snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AttachmentList {
    /// The volume's before its snapshots', the oldest first.
    pub attachments: Vec<Attachment>,
}

/// Asks to attach a volume or snapshot to this machine's kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The device; a free one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/dev/nbd0", value_type = Option<Device>)]
    pub device: Option<String>,
    /// Connections between kernel and daemon, 1 to 16; 1 unless given. With several, the kernel sends a request again
    /// that takes longer than 90 seconds: only for disks that are not limited to a crawl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16)]
    pub connections: Option<u32>,
    /// Refuse writes. Snapshots always do.
    #[serde(default)]
    pub read_only: bool,
    /// This snapshot of the volume instead of the volume itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub snapshot: Option<String>,
}

/// Asks to end the use of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Cut the connections at once. Without it, requests that have been sent are finished and answered first. What was
    /// answered to a flush is kept either way.
    #[serde(default)]
    pub force: bool,
    /// This snapshot of the volume instead of the volume itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Name>)]
    pub snapshot: Option<String>,
}
