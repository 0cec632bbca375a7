//! Attaching volumes to the kernel's devices, and keeping them attached.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use cairn_nbd::proto::TransmissionFlags;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;

use super::error::{KernelError, KernelErrorKind};
use super::identity::{BackendId, DeviceIndex, VolumeKey};
use super::keeper::{AttachmentId, Event, Link, LinkEnd, keep};
use super::netlink::{Connect, Driver, Reconfigure};
use super::sysfs::{Device, Sysfs};
use crate::seldom::Seldom;

/// The unit of addressing the devices have. The kernel shows a volume in the same blocks as virtual machines and
/// nbd-client do by default, so a partition table made by one is read by all; file systems use larger blocks of their
/// own accord.
const BLOCK_SIZE: u32 = 512;
/// Most connections of one device. Each is a queue of the kernel's, and more than it has processors are of no use.
const MAX_CONNECTIONS: u8 = 16;
/// Bytes the kernel may have on their way to the daemon on one connection, as the daemon's own end has them.
const SEND_BUFFER: usize = 512 << 10;

/// A device that is only being opened, as udev does whenever one changes, counts as attached for that moment.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long a detached device gets to become free. Someone who still has it open can keep it for longer.
const FREE_TRIES: u32 = 50;
const FREE_PAUSE: Duration = Duration::from_millis(20);
/// A replaced connection that lasted this long was worth it: the next one that is lost is replaced as promptly.
const SETTLED: Duration = Duration::from_secs(30);
/// Most times the pause between attempts to replace a connection doubles.
const MAX_DOUBLINGS: u32 = 6;

/// Connections that cannot be replaced, reported once in a while.
static FAILED_REPLACEMENTS: Seldom<DeviceIndex> = Seldom::new(Duration::from_secs(10));

/// What the devices show, and who serves it.
pub trait Serve: Send + Sync + 'static {
    /// Whether the pool of this id is the daemon's. Devices that show other pools are left alone.
    fn has_pool(&self, pool: &[u8; 16]) -> bool;

    /// The volume's size in bytes now, or `None` if there is no such volume or snapshot.
    fn size_of(&self, volume: &VolumeKey) -> Option<u64>;

    /// Begins a session on `socket` in the transmission phase, on some reactor, and returns at once. When the session
    /// has ended, with every request in it, `link` is told how.
    ///
    /// # Errors
    /// Why it cannot be served, for people.
    fn serve(&self, volume: &VolumeKey, socket: UnixStream, link: Link) -> Result<(), String>;

    /// The volume's device was detached by someone else, and is not one of the [list](KernelDevices::list) any more.
    fn detached(&self, volume: &VolumeKey);
}

/// How devices are attached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a device waits for a daemon that went away, before programs that use it see errors.
    pub dead_connection_timeout: Duration,
    /// When the kernel takes a request on one of several connections for lost. Far above what one may take, throttled
    /// ones included: see the [module](super). With one connection the kernel waits without limit.
    pub request_timeout: Duration,
    /// The first pause before a lost connection is replaced; it doubles a few times.
    pub retry_pause: Duration,
    /// Where the kernel shows its devices.
    pub sysfs: Sysfs,
    /// Where the devices' nodes are.
    pub dev: PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            dead_connection_timeout: Duration::from_secs(3600),
            request_timeout: Duration::from_secs(90),
            retry_pause: Duration::from_millis(100),
            sysfs: Sysfs::default(),
            dev: PathBuf::from("/dev"),
        }
    }
}

/// What is to be attached, and how.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// What the device shows.
    pub volume: VolumeKey,
    /// Its size in bytes.
    pub size: u64,
    /// What can be done with it: [`cairn_nbd::attached_flags`] of the export.
    pub flags: TransmissionFlags,
    /// How many connections. One if the flags do not allow several.
    pub connections: NonZeroU8,
    /// Which device; without one the first that is free.
    pub device: Option<DeviceIndex>,
}

/// A device this daemon serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Which one.
    pub index: DeviceIndex,
    /// What it shows.
    pub volume: VolumeKey,
    /// How many connections it is to have.
    pub connections: NonZeroU8,
    /// How many it has at this moment.
    pub live: usize,
}

/// A device of this daemon's pools that was found at the start.
#[derive(Debug)]
pub struct Reattached {
    /// Which one.
    pub index: DeviceIndex,
    /// What it shows.
    pub volume: VolumeKey,
    /// Whether it is served again. If not, its users wait, up to the dead connection timeout, and it is tried on and
    /// on, but for what lasts: [`KernelErrorKind::NotOurs`] for a device that was detached and is still in use, and a
    /// volume that is gone.
    pub outcome: Result<(), KernelError>,
}

/// The devices this daemon serves.
///
/// Every call blocks, so none may be made on a reactor: the kernel may be waiting for just that reactor. Calls are
/// taken one at a time, as the kernel does itself.
pub struct KernelDevices {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    driver: Box<dyn Driver>,
    serve: Box<dyn Serve>,
    settings: Settings,
    events: Sender<Event>,
    /// Held throughout each operation, so that what sysfs says holds until it is acted upon.
    operations: Mutex<()>,
    /// Held for look-ups only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    stopped: bool,
    attachments: BTreeMap<AttachmentId, Attachment>,
}

struct Attachment {
    /// `None` until the kernel has said it. No operation but the one that attaches sees it so.
    index: Option<DeviceIndex>,
    backend: BackendId,
    live: usize,
    /// Whether it is being detached, so that its end is no news.
    leaving: bool,
    /// Attempts to replace connections in a row, and when the last one was.
    attempts: u32,
    last_attempt: Option<Instant>,
}

impl KernelDevices {
    /// Most connections that one device can have.
    pub const MAX_CONNECTIONS: u8 = MAX_CONNECTIONS;

    /// Makes devices of what `serve` serves, through `driver`. Starts the thread that replaces lost connections.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        driver: Box<dyn Driver>,
        serve: Box<dyn Serve>,
        settings: Settings,
    ) -> io::Result<KernelDevices> {
        let (events, heard) = channel();
        let shared = Arc::new(Shared {
            driver,
            serve,
            settings,
            events,
            operations: Mutex::new(()),
            state: Mutex::default(),
        });
        let keeper = Arc::clone(&shared);
        thread::Builder::new().name("kernel-devices".to_owned()).spawn(move || keep(&keeper, &heard))?;
        Ok(KernelDevices { shared })
    }

    /// Attaches a volume and says as which device.
    ///
    /// # Errors
    /// [`KernelErrorKind::AlreadyAttached`] for a volume that some device shows already, unless neither takes writes;
    /// else why the kernel refuses, or the volume cannot be served.
    pub fn attach(&self, request: &AttachRequest) -> Result<DeviceIndex, KernelError> {
        let _one_at_a_time = self.shared.operations.lock();
        self.shared.attach(request)
    }

    /// Tells the kernel a larger size. File systems on the device can then be grown, mounted or not.
    ///
    /// # Errors
    /// [`KernelErrorKind::Invalid`] for a smaller size; else why the kernel refuses.
    pub fn resize(&self, index: DeviceIndex, size: u64) -> Result<(), KernelError> {
        let _one_at_a_time = self.shared.operations.lock();
        let (device, backend) = self.shared.our_device(index)?;
        self.shared.resize(&device, &backend, size)
    }

    /// Detaches a device. Without `force` it is first made sure that nothing on this machine has it mounted or
    /// otherwise for its own, and what the kernel has yet to write is written. With it, what uses the device sees
    /// errors at once, and what was not written yet is lost.
    ///
    /// # Errors
    /// [`KernelErrorKind::InUse`] without `force`; else why the kernel refuses. Then the device stays attached.
    pub fn detach(&self, index: DeviceIndex, force: bool) -> Result<(), KernelError> {
        // Without the lock: the kernel may have to write a lot, and connections lost meanwhile are to be replaced. Kept
        // until the device is detached, so that nobody mounts it meanwhile.
        let claim = if force { None } else { Some(self.shared.claim(index)?) };
        let _one_at_a_time = self.shared.operations.lock();
        self.shared.detach(index, claim)
    }

    /// Finds the devices that an earlier daemon left, and serves those whose volumes are still there. To be called once
    /// at the start, as soon as volumes can be served: programs are waiting.
    ///
    /// # Errors
    /// When the kernel does not show its devices. What fails for one of them is in its outcome.
    pub fn reattach(&self) -> Result<Vec<Reattached>, KernelError> {
        let _one_at_a_time = self.shared.operations.lock();
        let (mut found, mut grown) = (Vec::new(), Vec::new());
        for device in self.shared.devices()? {
            let Some(backend) = self.shared.own(&device) else { continue };
            if self.shared.state.lock().find(device.index).is_some() {
                continue;
            }
            let size = self.shared.reattach(&device, &backend);
            let (index, volume) = (device.index, backend.volume);
            if let Ok(size) = size
                && size > device.size
            {
                grown.push((device, backend, size));
            }
            found.push(Reattached { index, volume, outcome: size.map(drop) });
        }
        // They were resized, and the daemon ended before it could say so. Telling the kernel waits for what is in
        // flight, so first all devices have their connections. A failure leaves a device that works.
        for (device, backend, size) in grown {
            if let Err(error) = self.shared.resize(&device, &backend, size) {
                tracing::warn!(index = %device.index, %error, "cannot tell the kernel the volume's new size");
            }
        }
        Ok(found)
    }

    /// Replaces no more of a device's connections, and does not list it any more. The device stays attached, for the
    /// next daemon or whoever detaches it.
    pub fn forget(&self, index: DeviceIndex) {
        let _one_at_a_time = self.shared.operations.lock();
        let mut state = self.shared.state.lock();
        if let Some(attachment) = state.find(index) {
            state.attachments.remove(&attachment);
        }
    }

    /// The devices this daemon serves now.
    pub fn list(&self) -> Vec<Attached> {
        let state = self.shared.state.lock();
        let attached = state.attachments.values().filter_map(|attachment| {
            Some(Attached {
                index: attachment.index?,
                volume: attachment.backend.volume,
                connections: attachment.backend.connections,
                live: attachment.live,
            })
        });
        attached.collect()
    }

    /// Replaces no more connections. To be called before the sessions are ended for good; the devices stay attached
    /// and wait for the next daemon.
    pub fn stop(&self) {
        self.shared.state.lock().stopped = true;
        // It may have stopped before.
        let _ = self.shared.events.send(Event::Stop);
    }
}

impl Drop for KernelDevices {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn find(&self, index: DeviceIndex) -> Option<AttachmentId> {
        self.attachments.iter().find(|(_, a)| a.index == Some(index)).map(|(id, _)| *id)
    }

    fn add(&mut self, index: Option<DeviceIndex>, backend: BackendId) -> AttachmentId {
        let id = AttachmentId(self.next);
        self.next += 1;
        let attachment =
            Attachment { index, backend, live: 0, leaving: false, attempts: 0, last_attempt: None };
        self.attachments.insert(id, attachment);
        id
    }
}

impl Attachment {
    fn missing(&self) -> usize {
        usize::from(self.backend.connections.get()).saturating_sub(self.live)
    }

    fn pause(&self, first: Duration) -> Duration {
        first * 2_u32.pow(self.attempts.min(MAX_DOUBLINGS))
    }
}

impl Shared {
    fn attach(&self, request: &AttachRequest) -> Result<DeviceIndex, KernelError> {
        let read_only = request.flags.contains(TransmissionFlags::READ_ONLY);
        let devices = self.devices()?;
        let shown = devices.iter().find(|device| {
            let same = device.backend_id().is_some_and(|backend| backend.volume == request.volume);
            same && !(read_only && device.read_only)
        });
        if let Some(device) = shown {
            return Err(self.shown_already(device.index));
        }
        let several = request.flags.contains(TransmissionFlags::CAN_MULTI_CONN);
        let most = NonZeroU8::new(if several { MAX_CONNECTIONS } else { 1 }).unwrap_or(NonZeroU8::MIN);
        let connections = request.connections.min(most);
        let backend = BackendId { volume: request.volume, connections };
        let attachment = self.state.lock().add(None, backend);
        let attached = self.connect(attachment, backend, request);
        let mut state = self.state.lock();
        match attached {
            Ok(index) => {
                if let Some(entry) = state.attachments.get_mut(&attachment) {
                    entry.index = Some(index);
                }
                tracing::info!(%index, volume = %request.volume, connections, "attached to the kernel");
            }
            // The sessions end by themselves: the kernel's ends of their sockets are gone.
            Err(_) => drop(state.attachments.remove(&attachment)),
        }
        attached
    }

    /// A device carries its mark for as long as somebody has it open, even when it was detached.
    fn shown_already(&self, index: DeviceIndex) -> KernelError {
        if self.state.lock().find(index).is_some() {
            let context = format!("{index} shows this volume already");
            return KernelError::new(KernelErrorKind::AlreadyAttached, context);
        }
        let context =
            format!("{index}, which this volume was detached from, is still in use on this machine");
        KernelError::new(KernelErrorKind::StillOpen, context)
    }

    fn connect(
        &self,
        attachment: AttachmentId,
        backend: BackendId,
        request: &AttachRequest,
    ) -> Result<DeviceIndex, KernelError> {
        let several = backend.connections.get() > 1;
        let sockets = self.open_links(attachment, &backend, backend.connections.get().into())?;
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let connect = Connect {
            index: request.device,
            backend,
            size: request.size,
            block_size: BLOCK_SIZE,
            flags: request.flags.0,
            request_timeout: several.then_some(self.settings.request_timeout),
            dead_connection_timeout: self.settings.dead_connection_timeout,
            sockets: &sockets,
        };
        let mut tries = BUSY_TRIES;
        loop {
            let attached = self.driver.connect(&connect);
            let busy = attached.as_ref().is_err_and(|error| error.kind() == KernelErrorKind::Busy);
            tries -= 1;
            if !busy || tries == 0 || self.is_attached(request.device) {
                return attached;
            }
            thread::sleep(BUSY_PAUSE);
        }
    }

    fn is_attached(&self, index: Option<DeviceIndex>) -> bool {
        let device = index.and_then(|index| self.settings.sysfs.device(index).ok().flatten());
        device.is_some_and(|device| device.attached)
    }

    /// Begins sessions and gives the kernel's ends of their sockets.
    fn open_links(
        &self,
        attachment: AttachmentId,
        backend: &BackendId,
        count: usize,
    ) -> Result<Vec<UnixStream>, KernelError> {
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let (ours, kernels) =
                UnixStream::pair().map_err(|e| KernelError::io("cannot make a pair of sockets", e))?;
            enlarge_send_buffer(&kernels);
            // Before the session begins: it may end at once, and is counted off then.
            if let Some(entry) = self.state.lock().attachments.get_mut(&attachment) {
                entry.live += 1;
            }
            let link = Link::new(attachment, self.events.clone());
            self.serve.serve(&backend.volume, ours, link).map_err(|why| {
                KernelError::new(KernelErrorKind::NoVolume, format!("the volume cannot be served: {why}"))
            })?;
            sockets.push(kernels);
        }
        Ok(sockets)
    }

    fn resize(&self, device: &Device, backend: &BackendId, size: u64) -> Result<(), KernelError> {
        if size < device.size {
            let context = format!("{} has {} bytes and cannot shrink to {size}", device.index, device.size);
            return Err(KernelError::new(KernelErrorKind::Invalid, context));
        }
        self.driver.reconfigure(device.index, backend, &Reconfigure::Size(size))
    }

    fn detach(&self, index: DeviceIndex, claim: Option<File>) -> Result<(), KernelError> {
        self.our_device(index)?;
        self.set_leaving(index, true);
        if let Err(error) = self.driver.disconnect(index) {
            self.set_leaving(index, false);
            return Err(error);
        }
        {
            let mut state = self.state.lock();
            if let Some(attachment) = state.find(index) {
                state.attachments.remove(&attachment);
            }
        }
        let forced = claim.is_none();
        drop(claim);
        for _ in 0..FREE_TRIES {
            if !self.is_attached(Some(index)) {
                break;
            }
            thread::sleep(FREE_PAUSE);
        }
        tracing::info!(%index, forced, "detached from the kernel");
        Ok(())
    }

    fn set_leaving(&self, index: DeviceIndex, leaving: bool) {
        let mut state = self.state.lock();
        if let Some(attachment) = state.attachments.values_mut().find(|a| a.index == Some(index)) {
            attachment.leaving = leaving;
        }
    }

    /// Takes a device for this process alone, as mounting does, and has the kernel write all it has yet to write.
    fn claim(&self, index: DeviceIndex) -> Result<File, KernelError> {
        let (device, _) = self.our_device(index)?;
        let node = self.settings.dev.join(index.name());
        let mut options = OpenOptions::new();
        options.read(true).write(!device.read_only).custom_flags(OFlag::O_EXCL.bits());
        let claimed = options.open(&node).map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::EBUSY as i32 => {
                KernelError::new(KernelErrorKind::InUse, format!("{index} is in use on this machine"))
            }
            Some(code) if code == Errno::EACCES as i32 || code == Errno::EPERM as i32 => {
                let context = format!("cairnd may not open {}", node.display());
                KernelError::new(KernelErrorKind::NotPermitted, context)
            }
            _ => KernelError::io(format!("cannot open {}", node.display()), error),
        })?;
        claimed
            .sync_all()
            .map_err(|e| KernelError::io(format!("cannot write back what {index} has yet to write"), e))?;
        Ok(claimed)
    }

    /// Serves a device again that an earlier daemon left. Gives the size that it should have.
    fn reattach(&self, device: &Device, backend: &BackendId) -> Result<u64, KernelError> {
        let index = device.index;
        let Some(size) = self.serve.size_of(&backend.volume) else {
            let context = format!("{index} shows a volume that is not there any more");
            return Err(KernelError::new(KernelErrorKind::NoVolume, context));
        };
        let attachment = self.state.lock().add(Some(index), *backend);
        if let Err(error) = self.give_sockets(attachment, index, backend) {
            // Else the ends of the sessions that were begun have it tried again.
            if error.kind() == KernelErrorKind::NotOurs {
                self.state.lock().attachments.remove(&attachment);
            }
            return Err(error);
        }
        tracing::info!(%index, volume = %backend.volume, "attached to the kernel again");
        Ok(size)
    }

    /// Replaces the connections that are missing, and says how many those were.
    fn give_sockets(
        &self,
        attachment: AttachmentId,
        index: DeviceIndex,
        backend: &BackendId,
    ) -> Result<usize, KernelError> {
        let missing = {
            let mut state = self.state.lock();
            let Some(entry) = state.attachments.get_mut(&attachment) else { return Ok(0) };
            if entry.last_attempt.is_some_and(|at| at.elapsed() > SETTLED) {
                entry.attempts = 0;
            }
            entry.attempts = entry.attempts.saturating_add(1);
            entry.last_attempt = Some(Instant::now());
            entry.missing()
        };
        if missing == 0 {
            return Ok(0);
        }
        let sockets = self.open_links(attachment, backend, missing)?;
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        // Should the kernel not have noticed yet that a connection is dead, it drops the socket meant to replace it.
        // Then that session ends, and is replaced in turn.
        self.driver.reconfigure(index, backend, &Reconfigure::Sockets(&sockets))?;
        Ok(missing)
    }

    /// Takes note of a session's end. Gives the pause after which its connection is to be replaced, if it is.
    pub(super) fn link_ended(&self, attachment: AttachmentId, end: LinkEnd) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.stopped {
            return None;
        }
        let entry = state.attachments.get_mut(&attachment)?;
        entry.live = entry.live.saturating_sub(1);
        match end {
            LinkEnd::Lost => Some(entry.pause(self.settings.retry_pause)),
            LinkEnd::Shutdown => None,
            LinkEnd::Disconnected => {
                let over = entry.live == 0 && !entry.leaving;
                drop(state);
                if over {
                    self.let_go(attachment);
                }
                None
            }
        }
    }

    /// Forgets an attachment that someone else has ended.
    fn let_go(&self, attachment: AttachmentId) {
        let Some(ended) = self.state.lock().attachments.remove(&attachment) else { return };
        let index = ended.index.map(|index| index.to_string());
        tracing::info!(index, "the kernel's device was detached from outside");
        self.serve.detached(&ended.backend.volume);
    }

    /// Replaces an attachment's lost connections. Gives the pause after which to try again, if it has to be.
    pub(super) fn replace_lost(&self, attachment: AttachmentId) -> Option<Duration> {
        let _one_at_a_time = self.operations.lock();
        let (index, backend) = {
            let state = self.state.lock();
            let entry = state.attachments.get(&attachment).filter(|_| !state.stopped)?;
            (entry.index?, entry.backend)
        };
        let replaced = match self.settings.sysfs.device(index) {
            Ok(Some(device)) if device.backend_id() == Some(backend) => {
                self.give_sockets(attachment, index, &backend)
            }
            Ok(_) => Err(KernelError::not_ours(index)),
            Err(error) => Err(KernelError::io(format!("cannot see what became of {index}"), error)),
        };
        let error = match replaced {
            Ok(0) => return None,
            Ok(count) => {
                tracing::info!(%index, count, "gave the kernel new connections for those it lost");
                return None;
            }
            Err(error) if error.kind() == KernelErrorKind::NotOurs => {
                self.let_go(attachment);
                return None;
            }
            Err(error) => error,
        };
        if let Some(held_back) = FAILED_REPLACEMENTS.due(index) {
            let cause = std::error::Error::source(&error).map_or(String::new(), |s| format!(": {s}"));
            tracing::warn!(%index, "a lost connection cannot be replaced yet: {error}{cause}{held_back}");
        }
        let state = self.state.lock();
        state.attachments.get(&attachment).map(|entry| entry.pause(self.settings.retry_pause))
    }

    /// A device, if it is attached to a volume of one of the daemon's pools.
    fn our_device(&self, index: DeviceIndex) -> Result<(Device, BackendId), KernelError> {
        let device = self.settings.sysfs.device(index);
        let device =
            device.map_err(|e| KernelError::io(format!("cannot see what {index} is attached to"), e))?;
        let Some(device) = device else {
            return Err(KernelError::new(KernelErrorKind::UnknownDevice, format!("there is no {index}")));
        };
        let backend = self.own(&device).ok_or_else(|| KernelError::not_ours(index))?;
        Ok((device, backend))
    }

    fn own(&self, device: &Device) -> Option<BackendId> {
        device.backend_id().filter(|backend| self.serve.has_pool(&backend.volume.pool))
    }

    fn devices(&self) -> Result<Vec<Device>, KernelError> {
        let devices = self.settings.sysfs.devices();
        devices.map_err(|e| KernelError::io("cannot see the kernel's block devices", e))
    }
}

/// Has the kernel send large writes in few pieces. Beyond `net.core.wmem_max` that takes a right that whoever may
/// attach devices may still lack; then the socket gets what it may have.
fn enlarge_send_buffer(socket: &UnixStream) {
    if setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER);
    }
}

#[cfg(test)]
mod tests;
