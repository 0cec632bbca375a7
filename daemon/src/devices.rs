//! Volumes as block devices of this machine's kernel: what [`crate::kernel`] needs of the daemon, and the daemon of it.

use std::num::NonZeroU8;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use cairn_api::attachment::Consumer;
use cairn_api::error::{ApiError, ErrorCode};
use cairn_cow::{Pool, VersionId};
use cairn_nbd::attached_flags;

use crate::control::Target;
use crate::disk::PoolDisk;
use crate::exports::export_info;
use crate::kernel::{
    AttachRequest, DeviceIndex, KernelDevices, KernelError, KernelErrorKind, Link, Netlink, Serve, Settings,
    VolumeKey,
};
use crate::serve::{NbdServer, unnamed_device};
use crate::volumes::Volumes;

/// What the control side can do with kernel devices. Every call blocks.
pub trait Devices: Send + Sync + 'static {
    /// Attaches a version to the device `device`, or to a free one, and says which.
    ///
    /// # Errors
    /// Why the kernel refuses.
    fn attach(&self, request: &Attach) -> Result<String, ApiError>;

    /// Tells the kernel a version's new size, if it is attached.
    ///
    /// # Errors
    /// Why the kernel refuses.
    fn resize(&self, key: VolumeKey, size: u64) -> Result<(), ApiError>;

    /// Detaches a version's device. Without `force` nothing may use the device.
    ///
    /// # Errors
    /// Why the kernel refuses.
    fn detach(&self, key: VolumeKey, force: bool) -> Result<(), ApiError>;

    /// Serves a version's device no more, and leaves the device as it is.
    fn forget(&self, key: VolumeKey);
}

/// What is to be attached, and how.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The version.
    pub key: VolumeKey,
    /// Its export name.
    pub export: String,
    /// Bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The device, as the user wrote it.
    pub device: Option<String>,
    /// Connections, if the user said how many.
    pub connections: Option<u32>,
}

/// Connections of a device unless told otherwise. With several, the kernel takes a request that lasts very long for lost
/// and sends it on another one, and slowness is nothing that a daemon can rule out.
const DEFAULT_CONNECTIONS: NonZeroU8 = NonZeroU8::MIN;

/// The kernel's devices, served by this daemon.
pub struct ServedDevices {
    devices: KernelDevices,
}

fn failed(error: &KernelError) -> ApiError {
    let code = match error.kind() {
        KernelErrorKind::NotPermitted => ErrorCode::NotPermitted,
        KernelErrorKind::NotLoaded => ErrorCode::Unsupported,
        KernelErrorKind::Busy
        | KernelErrorKind::NoFreeDevice
        | KernelErrorKind::AlreadyAttached
        | KernelErrorKind::InUse
        | KernelErrorKind::StillOpen => ErrorCode::Busy,
        KernelErrorKind::UnknownDevice | KernelErrorKind::NotOurs | KernelErrorKind::NoVolume => {
            ErrorCode::NotFound
        }
        KernelErrorKind::Invalid => ErrorCode::InvalidArgument,
        _ => ErrorCode::Io,
    };
    ApiError::new(code, said(error)).with_hint(error.hint())
}

/// An error with its cause.
fn said(error: &KernelError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl ServedDevices {
    /// Devices of the volumes that `server` serves.
    ///
    /// # Errors
    /// When the thread that watches over their connections cannot be started.
    pub(crate) fn start(
        volumes: Arc<Volumes<PoolDisk>>,
        server: Arc<NbdServer>,
    ) -> Result<ServedDevices, String> {
        let serve = Box::new(Server { volumes, server });
        let devices = KernelDevices::start(Box::new(Netlink), serve, Settings::default());
        let devices = devices.map_err(|e| format!("cannot start the thread for kernel devices: {e}"))?;
        Ok(ServedDevices { devices })
    }

    /// Serves the devices again that an earlier daemon left. Blocks.
    pub(crate) fn reattach(&self, volumes: &Volumes<PoolDisk>) {
        let found = match self.devices.reattach() {
            Ok(found) => found,
            Err(error) => {
                // Without the driver there is nothing to find.
                tracing::debug!(%error, "no kernel devices are looked for");
                return;
            }
        };
        for device in found {
            let index = device.index;
            let Some(export) = export_of(volumes, &device.volume) else {
                tracing::error!(%index, "what a kernel device is attached to is gone; detach it: nbd-client -d");
                continue;
            };
            match device.outcome {
                Ok(()) => tracing::info!(%index, export, "serving a kernel device again"),
                Err(error) if error.kind() == KernelErrorKind::NotOurs => {
                    tracing::info!(%index, export, "a kernel device that was detached is still in use");
                    continue;
                }
                Err(error) => {
                    tracing::error!(%index, export, error = said(&error), "cannot serve a kernel device yet");
                }
            }
            // Served or not, there may be a file system on it that expects nobody else to write below it.
            let (target, consumer) = (Target::of_export(&export), named(index));
            if let Err(why) = volumes.sessions.pin(target.clone(), &consumer, || Some(true)) {
                tracing::warn!(%index, export, "{why}");
            }
            volumes.sessions.name_device(&target, &consumer);
            // Someone else may have detached it before it was reserved.
            if self.index_of(device.volume).is_none() {
                volumes.sessions.unpin(&target, &consumer);
            }
        }
    }

    /// Leaves the devices to the next daemon.
    pub(crate) fn stop(&self) {
        self.devices.stop();
    }

    fn index_of(&self, key: VolumeKey) -> Option<DeviceIndex> {
        self.devices.list().into_iter().find(|attached| attached.volume == key).map(|attached| attached.index)
    }
}

fn named(index: DeviceIndex) -> Consumer {
    Consumer::Kernel { device: index.to_string() }
}

impl Devices for ServedDevices {
    fn attach(&self, request: &Attach) -> Result<String, ApiError> {
        let device = match request.device.as_deref().map(str::parse::<DeviceIndex>) {
            Some(Ok(index)) => Some(index),
            Some(Err(why)) => return Err(ApiError::new(ErrorCode::InvalidArgument, why.to_string())),
            None => None,
        };
        let connections = match request.connections {
            None => DEFAULT_CONNECTIONS,
            Some(asked) => u8::try_from(asked)
                .ok()
                .and_then(NonZeroU8::new)
                .filter(|connections| connections.get() <= KernelDevices::MAX_CONNECTIONS)
                .ok_or_else(|| {
                    let most = KernelDevices::MAX_CONNECTIONS;
                    let why = format!("{asked} connections: a device has from 1 to {most}");
                    ApiError::new(ErrorCode::InvalidArgument, why)
                })?,
        };
        let info = export_info(request.export.clone(), String::new(), request.size, request.read_only);
        let asked = AttachRequest {
            volume: request.key,
            size: request.size,
            flags: attached_flags(&info),
            connections,
            device,
        };
        self.devices.attach(&asked).map(|index| index.to_string()).map_err(|e| failed(&e))
    }

    fn resize(&self, key: VolumeKey, size: u64) -> Result<(), ApiError> {
        match self.index_of(key) {
            Some(index) => self.devices.resize(index, size).map_err(|e| failed(&e)),
            None => Ok(()),
        }
    }

    fn detach(&self, key: VolumeKey, force: bool) -> Result<(), ApiError> {
        match self.index_of(key) {
            Some(index) => self.devices.detach(index, force).map_err(|e| failed(&e)),
            None => Ok(()),
        }
    }

    fn forget(&self, key: VolumeKey) {
        if let Some(index) = self.index_of(key) {
            self.devices.forget(index);
        }
    }
}

/// The daemon, as devices see it.
struct Server {
    volumes: Arc<Volumes<PoolDisk>>,
    server: Arc<NbdServer>,
}

fn find(volumes: &Volumes<PoolDisk>, key: &VolumeKey) -> Option<(Arc<Pool<PoolDisk>>, VersionId)> {
    let pools = volumes.pools.open().into_iter().map(|(_, pool)| pool);
    Some((pools.into_iter().find(|pool| pool.id() == key.pool)?, VersionId(key.version)))
}

fn export_of(volumes: &Volumes<PoolDisk>, key: &VolumeKey) -> Option<String> {
    find(volumes, key).and_then(|(pool, id)| pool.export_name(id).ok())
}

impl Serve for Server {
    fn has_pool(&self, pool: &[u8; 16]) -> bool {
        self.volumes.pools.open().iter().any(|(_, open)| open.id() == *pool)
    }

    fn size_of(&self, volume: &VolumeKey) -> Option<u64> {
        let (pool, id) = find(&self.volumes, volume)?;
        pool.size_of(id).ok()
    }

    fn serve(&self, volume: &VolumeKey, socket: UnixStream, link: Link) -> Result<(), String> {
        let export = export_of(&self.volumes, volume);
        let export = export.ok_or_else(|| format!("there is no volume or snapshot {volume}"))?;
        self.server.serve_kernel(export, socket, link)
    }

    fn detached(&self, volume: &VolumeKey) {
        if let Some(export) = export_of(&self.volumes, volume) {
            self.volumes.sessions.unpin(&Target::of_export(&export), &unnamed_device());
        }
    }
}
