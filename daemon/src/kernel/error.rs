//! What can go wrong with the kernel's devices, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;

use super::identity::DeviceIndex;

/// Why an operation on a device failed, in a form a program can branch on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum KernelErrorKind {
    /// The daemon may not configure block devices.
    NotPermitted,
    /// The kernel has no nbd driver.
    NotLoaded,
    /// The device is attached to something already.
    Busy,
    /// The driver can make no more devices.
    NoFreeDevice,
    /// The driver has no such device, or it is being removed.
    UnknownDevice,
    /// The device is not attached, or not to a volume of this daemon's pools.
    NotOurs,
    /// The volume is attached to a device already.
    AlreadyAttached,
    /// Something on this machine uses the device: a mount, a swap area, a volume group.
    InUse,
    /// The volume was attached to a device that something still has open, although it was detached.
    StillOpen,
    /// The volume the device shows cannot be served.
    NoVolume,
    /// What was asked for makes no sense.
    Invalid,
    /// The kernel or the system failed otherwise.
    Failed,
}

impl KernelErrorKind {
    /// What whoever asked can do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::NotPermitted => {
                "cairnd needs CAP_SYS_ADMIN for this: run it as root, or with AmbientCapabilities=CAP_SYS_ADMIN in its unit"
            }
            Self::NotLoaded => "load it: modprobe nbd",
            Self::Busy => "choose another device, or none to get the first that is free",
            Self::NoFreeDevice => "detach a device that is not needed any more",
            Self::UnknownDevice => "choose another device, or none to get the first that is free",
            Self::NotOurs => "see what it is attached to: cat /sys/block/nbdN/backend",
            Self::AlreadyAttached => "detach it there first, or attach a snapshot or a clone",
            Self::InUse => "unmount it first, or detach it by force and lose what was not written yet",
            Self::StillOpen => "unmount what is on it, or end the programs that have it open, and try again",
            Self::NoVolume => "detach the device by force if the volume is gone for good",
            Self::Invalid => "correct it and try again",
            Self::Failed => "the kernel log may say more: dmesg",
        }
    }
}

/// A failed operation on a device.
#[derive(Debug)]
pub struct KernelError {
    kind: KernelErrorKind,
    context: String,
    source: Option<io::Error>,
}

impl KernelError {
    pub(super) fn new(kind: KernelErrorKind, context: impl Into<String>) -> KernelError {
        KernelError { kind, context: context.into(), source: None }
    }

    pub(super) fn io(context: impl Into<String>, source: io::Error) -> KernelError {
        KernelError { kind: KernelErrorKind::Failed, context: context.into(), source: Some(source) }
    }

    pub(super) fn busy(device: DeviceIndex) -> KernelError {
        KernelError::new(KernelErrorKind::Busy, format!("{device} is attached to something else"))
    }

    pub(super) fn not_ours(device: DeviceIndex) -> KernelError {
        let context = format!("{device} is not attached to a volume of this daemon");
        KernelError::new(KernelErrorKind::NotOurs, context)
    }

    /// The kind, for branching.
    pub const fn kind(&self) -> KernelErrorKind {
        self.kind
    }

    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        self.kind.hint()
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl Error for KernelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
