//! The manager against a kernel that is made up: a folder as sysfs, and sockets whose ends are kept.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown as How;

use tempfile::TempDir;

use super::super::message::DeviceStatus;
use super::*;

const POOL: [u8; 16] = [0xab; 16];
const VOLUME: VolumeKey = VolumeKey { pool: POOL, version: 9 };
const SIZE: u64 = 1 << 30;
const DEV: DeviceIndex = DeviceIndex(0);
const PATIENCE: Duration = Duration::from_secs(30);

/// A driver with three devices.
#[derive(Clone)]
struct FakeKernel(Arc<FakeState>);

struct FakeState {
    sysfs: TempDir,
    dev: TempDir,
    devices: Mutex<BTreeMap<DeviceIndex, FakeDevice>>,
    /// What the driver was asked, in order.
    log: Mutex<Vec<String>>,
    /// How many connects are to be answered with EBUSY.
    busy: Mutex<u32>,
    /// Whether disconnects fail.
    stuck: Mutex<bool>,
}

struct FakeDevice {
    backend: BackendId,
    sockets: Vec<UnixStream>,
}

impl FakeKernel {
    fn new() -> FakeKernel {
        let folder = || tempfile::tempdir().expect("a folder");
        let kernel = FakeKernel(Arc::new(FakeState {
            sysfs: folder(),
            dev: folder(),
            devices: Mutex::default(),
            log: Mutex::default(),
            busy: Mutex::default(),
            stuck: Mutex::default(),
        }));
        for index in 0..3 {
            let name = DeviceIndex(index).name();
            fs::create_dir(kernel.0.sysfs.path().join(&name)).expect("a folder");
            fs::write(kernel.0.dev.path().join(&name), "").expect("a node");
            kernel.show(DeviceIndex(index), None, 0, false);
        }
        kernel
    }

    /// Writes what sysfs says of a device.
    fn show(&self, index: DeviceIndex, backend: Option<&str>, size: u64, read_only: bool) {
        let folder = self.0.sysfs.path().join(index.name());
        let put = |name: &str, text: String| fs::write(folder.join(name), text).expect("a file");
        put("size", format!("{}\n", size / 512));
        put("ro", format!("{}\n", u8::from(read_only)));
        match backend {
            Some(backend) => {
                put("backend", format!("{backend}\n"));
                put("pid", "1\n".to_owned());
            }
            None => {
                for name in ["pid", "backend"] {
                    let _ = fs::remove_file(folder.join(name));
                }
            }
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            retry_pause: Duration::from_millis(1),
            sysfs: Sysfs::at(self.0.sysfs.path()),
            dev: self.0.dev.path().to_owned(),
            ..Settings::default()
        }
    }

    fn log(&self) -> Vec<String> {
        self.0.log.lock().clone()
    }

    fn say(&self, what: String) {
        self.0.log.lock().push(what);
    }

    fn device_size(&self, index: DeviceIndex) -> u64 {
        Sysfs::at(self.0.sysfs.path()).device(index).expect("readable").expect("is there").size
    }

    /// A daemon on this kernel.
    fn daemon(&self, server: &FakeServer) -> KernelDevices {
        KernelDevices::start(Box::new(self.clone()), Box::new(server.clone()), self.settings())
            .expect("a thread")
    }

    /// Someone else detaches the device.
    fn detach_from_outside(&self, index: DeviceIndex) {
        let device = self.0.devices.lock().remove(&index).expect("is attached");
        self.show(index, None, 0, false);
        end(device);
    }
}

/// As the driver does it: the end is said on every socket.
fn end(mut device: FakeDevice) {
    for socket in &mut device.sockets {
        // One that is dead need not be told.
        let _ = socket.write_all(b"D");
    }
}

/// Whether the other end has closed it.
fn is_dead(socket: &UnixStream) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    matches!((&mut &*socket).read(&mut [0]), Ok(0))
}

fn own(sockets: &[BorrowedFd<'_>]) -> Vec<UnixStream> {
    sockets.iter().map(|fd| fd.try_clone_to_owned().expect("a descriptor").into()).collect()
}

impl Driver for FakeKernel {
    fn connect(&self, connect: &Connect<'_>) -> Result<DeviceIndex, KernelError> {
        let mut devices = self.0.devices.lock();
        let free = (0..3).map(DeviceIndex).find(|index| !devices.contains_key(index));
        let index = connect.index.or(free).expect("a free device");
        self.say(format!(
            "connect {index} {} {} {:?} {:?}",
            connect.backend,
            connect.size,
            connect.request_timeout.map(|t| t.as_secs()),
            connect.sockets.len()
        ));
        let mut busy = self.0.busy.lock();
        if *busy > 0 {
            *busy -= 1;
            return Err(KernelError::busy(index));
        }
        if devices.contains_key(&index) {
            return Err(KernelError::busy(index));
        }
        let read_only = TransmissionFlags(connect.flags).contains(TransmissionFlags::READ_ONLY);
        self.show(index, Some(&connect.backend.to_string()), connect.size, read_only);
        devices.insert(index, FakeDevice { backend: connect.backend, sockets: own(connect.sockets) });
        Ok(index)
    }

    fn reconfigure(
        &self,
        index: DeviceIndex,
        backend: &BackendId,
        change: &Reconfigure<'_>,
    ) -> Result<(), KernelError> {
        let mut devices = self.0.devices.lock();
        let device = devices.get_mut(&index).filter(|device| device.backend == *backend);
        let device = device.ok_or_else(|| KernelError::not_ours(index))?;
        match change {
            Reconfigure::Sockets(sockets) => {
                self.say(format!("sockets {index} {}", sockets.len()));
                for socket in own(sockets) {
                    if let Some(dead) = device.sockets.iter_mut().find(|socket| is_dead(socket)) {
                        *dead = socket;
                    }
                }
            }
            Reconfigure::Size(size) => {
                self.say(format!("size {index} {size}"));
                self.show(index, Some(&backend.to_string()), *size, false);
            }
        }
        Ok(())
    }

    fn disconnect(&self, index: DeviceIndex) -> Result<(), KernelError> {
        self.say(format!("disconnect {index}"));
        if *self.0.stuck.lock() {
            return Err(KernelError::new(KernelErrorKind::NotPermitted, "for this test"));
        }
        self.detach_from_outside(index);
        Ok(())
    }

    fn status(&self, _index: Option<DeviceIndex>) -> Result<Vec<DeviceStatus>, KernelError> {
        Ok(Vec::new())
    }
}

/// Sessions that do nothing until their socket ends: `D` is what the driver says when it is done.
#[derive(Clone)]
struct FakeServer(Arc<ServerState>);

struct ServerState {
    size: Mutex<Option<u64>>,
    sockets: Mutex<Vec<UnixStream>>,
    /// Sessions that are to fail from the start.
    refuse: Mutex<bool>,
    /// How many devices others have detached.
    detached: Mutex<u32>,
}

impl FakeServer {
    fn new() -> FakeServer {
        FakeServer(Arc::new(ServerState {
            size: Mutex::new(Some(SIZE)),
            sockets: Mutex::default(),
            refuse: Mutex::default(),
            detached: Mutex::default(),
        }))
    }

    /// Ends sessions from this side, all or one.
    fn lose(&self, all: bool) {
        let mut sockets = self.0.sockets.lock();
        let count = if all { sockets.len() } else { 1 };
        for socket in sockets.drain(..count) {
            socket.shutdown(How::Both).expect("a socket");
        }
    }
}

impl Serve for FakeServer {
    fn has_pool(&self, pool: &[u8; 16]) -> bool {
        *pool == POOL
    }

    fn size_of(&self, volume: &VolumeKey) -> Option<u64> {
        assert_eq!(*volume, VOLUME);
        *self.0.size.lock()
    }

    fn serve(&self, volume: &VolumeKey, mut socket: UnixStream, link: Link) -> Result<(), String> {
        assert_eq!(*volume, VOLUME);
        if *self.0.refuse.lock() {
            return Err("not in this test".to_owned());
        }
        self.0.sockets.lock().push(socket.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let mut byte = [0];
            let end = match socket.read(&mut byte) {
                Ok(1) if byte == *b"D" => LinkEnd::Disconnected,
                _ => LinkEnd::Lost,
            };
            drop(socket);
            link.ended(end);
        });
        Ok(())
    }

    fn detached(&self, volume: &VolumeKey) {
        assert_eq!(*volume, VOLUME);
        *self.0.detached.lock() += 1;
    }
}

fn request(connections: u8) -> AttachRequest {
    AttachRequest {
        volume: VOLUME,
        size: SIZE,
        flags: TransmissionFlags::HAS_FLAGS.with(TransmissionFlags::CAN_MULTI_CONN),
        connections: NonZeroU8::new(connections).expect("not zero"),
        device: None,
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How many connections the only device has.
fn live(devices: &KernelDevices) -> usize {
    match devices.list().as_slice() {
        [device] => device.live,
        other => panic!("not one device: {other:?}"),
    }
}

fn mark(connections: u8) -> String {
    format!("cairn:{}:9:{connections}", "ab".repeat(16))
}

#[test]
fn a_volume_becomes_a_device_and_leaves_it_again() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    assert_eq!(devices.attach(&request(2)).expect("free"), DEV);
    let connections = NonZeroU8::new(2).expect("not zero");
    assert_eq!(devices.list(), [Attached { index: DEV, volume: VOLUME, connections, live: 2 }]);
    devices.resize(DEV, SIZE * 2).expect("attached");
    assert_eq!(kernel.device_size(DEV), SIZE * 2);
    let shrunk = devices.resize(DEV, SIZE).expect_err("smaller");
    assert_eq!(shrunk.kind(), KernelErrorKind::Invalid);
    devices.detach(DEV, false).expect("attached");
    assert_eq!(devices.list(), []);
    let expected = [
        format!("connect {DEV} {} {SIZE} Some(90) 2", mark(2)),
        format!("size {DEV} {}", SIZE * 2),
        format!("disconnect {DEV}"),
    ];
    assert_eq!(kernel.log(), expected);
    assert_eq!(devices.attach(&request(1)).expect("free again"), DEV);
    assert_eq!(kernel.log()[3], format!("connect {DEV} {} {SIZE} None 1", mark(1)));
}

#[test]
fn a_volume_that_takes_no_connections_beside_another_gets_one() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    let alone = AttachRequest { flags: TransmissionFlags::HAS_FLAGS, ..request(8) };
    devices.attach(&alone).expect("free");
    assert_eq!(live(&devices), 1);
}

#[test]
fn writable_volumes_are_shown_by_one_device() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    devices.attach(&request(1)).expect("free");
    let again = devices.attach(&request(1)).expect_err("it is shown already");
    assert_eq!(again.kind(), KernelErrorKind::AlreadyAttached);
    devices.detach(DEV, true).expect("attached");
    let flags = TransmissionFlags::HAS_FLAGS.with(TransmissionFlags::READ_ONLY);
    let read_only = AttachRequest { flags, ..request(1) };
    devices.attach(&read_only).expect("free");
    devices.attach(&read_only).expect("readers may share");
    assert_eq!(devices.list().len(), 2);
}

#[test]
fn lost_connections_are_replaced() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    devices.attach(&request(2)).expect("free");
    for all in [false, true, false] {
        let before = kernel.log().len();
        server.lose(all);
        eventually("the connections are back", || kernel.log().len() > before && live(&devices) == 2);
        let alive = || kernel.0.devices.lock()[&DEV].sockets.iter().all(|socket| !is_dead(socket));
        eventually("the kernel has live sockets", alive);
        eventually("no more are lost", || live(&devices) == 2);
    }
    assert!(kernel.log()[1..].iter().all(|line| line.starts_with("sockets")));
}

#[test]
fn a_device_detached_from_outside_is_let_go() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    devices.attach(&request(2)).expect("free");
    kernel.detach_from_outside(DEV);
    eventually("it is forgotten", || *server.0.detached.lock() == 1);
    assert_eq!(devices.list(), []);
    assert_eq!(kernel.log().len(), 1, "nothing was asked of the driver");
    // So it is when the connections are lost before the end is heard of.
    devices.attach(&request(2)).expect("free again");
    kernel.0.devices.lock().clear();
    kernel.show(DEV, None, 0, false);
    eventually("it is forgotten", || *server.0.detached.lock() == 2);
    assert_eq!(devices.list(), []);
    assert_eq!(kernel.log().len(), 2, "nothing was asked of the driver");
    // Still mounted, it keeps its mark, and the driver refuses new connections.
    devices.attach(&request(2)).expect("free again");
    kernel.0.devices.lock().clear();
    eventually("it is forgotten", || *server.0.detached.lock() == 3);
    assert_eq!(devices.list(), []);
    assert_eq!(devices.attach(&request(2)).expect_err("still mounted").kind(), KernelErrorKind::StillOpen);
    let next = kernel.daemon(&server).reattach().expect("sysfs is there");
    let [Reattached { index: DEV, outcome: Err(error), .. }] = &next[..] else { panic!("{next:?}") };
    assert_eq!(error.kind(), KernelErrorKind::NotOurs);
    kernel.show(DEV, None, 0, false);
    // What this daemon detaches is no news.
    devices.attach(&request(2)).expect("unmounted");
    devices.detach(DEV, true).expect("attached");
    assert_eq!(*server.0.detached.lock(), 3);
}

/// Programs wait for a device that a daemon finds at its start, whatever keeps it from being served at once.
#[test]
fn a_device_that_cannot_be_served_yet_is_tried_again() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let before = kernel.daemon(&server);
    before.attach(&request(2)).expect("free");
    before.stop();
    server.lose(true);
    let server = FakeServer::new();
    *server.0.refuse.lock() = true;
    let devices = kernel.daemon(&server);
    let found = devices.reattach().expect("sysfs is there");
    let [Reattached { index: DEV, outcome: Err(error), .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(error.kind(), KernelErrorKind::NoVolume);
    assert_eq!(devices.list().len(), 1);
    *server.0.refuse.lock() = false;
    eventually("its connections are there", || live(&devices) == 2);
    eventually("and the kernel has them", || kernel.log().last().is_some_and(|l| l.starts_with("sockets")));
}

#[test]
fn a_daemon_finds_the_devices_of_the_one_before() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let before = kernel.daemon(&server);
    before.attach(&request(3)).expect("free");
    // Killed: its sockets close, and it replaces nothing.
    before.stop();
    server.lose(true);
    let other = format!("cairn:{}:9:1", "cd".repeat(16));
    kernel.show(DeviceIndex(1), Some(&other), SIZE, false);
    kernel.show(DeviceIndex(2), Some(""), SIZE, false);

    let server = FakeServer::new();
    // Resized without the kernel having been told.
    *server.0.size.lock() = Some(SIZE * 4);
    let devices = kernel.daemon(&server);
    let found = devices.reattach().expect("sysfs is there");
    let indices: Vec<_> = found.iter().map(|found| (found.index, found.outcome.is_ok())).collect();
    assert_eq!(indices, [(DEV, true)], "others' devices are left alone");
    eventually("all connections are back", || live(&devices) == 3);
    // Sockets before the size: the kernel cannot change it while requests wait for sockets.
    assert_eq!(kernel.log()[1], format!("sockets {DEV} 3"));
    assert!(kernel.log().contains(&format!("size {DEV} {}", SIZE * 4)));
    assert_eq!(kernel.device_size(DEV), SIZE * 4);
    assert!(devices.reattach().expect("sysfs is there").is_empty(), "what is served is not found again");
    for index in [1, 2] {
        let refused = devices.detach(DeviceIndex(index), true).expect_err("someone else's");
        assert_eq!(refused.kind(), KernelErrorKind::NotOurs);
    }
}

#[test]
fn the_device_of_a_volume_that_is_gone_is_left_to_wait() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let before = kernel.daemon(&server);
    before.attach(&request(1)).expect("free");
    before.stop();
    server.lose(true);
    *server.0.size.lock() = None;
    let devices = kernel.daemon(&server);
    let found = devices.reattach().expect("sysfs is there");
    let [Reattached { index: DEV, outcome: Err(error), .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(error.kind(), KernelErrorKind::NoVolume);
    assert_eq!(devices.list(), []);
    devices.detach(DEV, true).expect("by force it goes");
    assert_eq!(kernel.log().len(), 2);
}

#[test]
fn a_failed_attachment_leaves_nothing() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    *server.0.refuse.lock() = true;
    let failed = devices.attach(&request(2)).expect_err("no session begins");
    assert_eq!(failed.kind(), KernelErrorKind::NoVolume);
    *server.0.refuse.lock() = false;
    *kernel.0.busy.lock() = u32::MAX;
    kernel.show(DeviceIndex(2), Some(""), SIZE, false);
    let busy = AttachRequest { device: Some(DeviceIndex(2)), ..request(2) };
    assert_eq!(devices.attach(&busy).expect_err("attached").kind(), KernelErrorKind::Busy);
    assert_eq!(kernel.log().len(), 1, "a device that is attached is not tried twice");
    assert_eq!(devices.list(), []);
    let ended = || server.0.sockets.lock().iter().all(is_dead);
    eventually("its sessions end", ended);
}

#[test]
fn a_device_that_is_only_being_opened_is_tried_again() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    *kernel.0.busy.lock() = 2;
    let named = AttachRequest { device: Some(DEV), ..request(1) };
    assert_eq!(devices.attach(&named).expect("free in the end"), DEV);
    assert_eq!(kernel.log().len(), 3);
    assert_eq!(live(&devices), 1);
}

#[test]
fn a_device_that_cannot_be_detached_stays() {
    let (kernel, server) = (FakeKernel::new(), FakeServer::new());
    let devices = kernel.daemon(&server);
    let missing = devices.detach(DeviceIndex(7), true).expect_err("not there");
    assert_eq!(missing.kind(), KernelErrorKind::UnknownDevice);
    let free = devices.detach(DEV, true).expect_err("not attached");
    assert_eq!(free.kind(), KernelErrorKind::NotOurs);
    devices.attach(&request(1)).expect("free");
    // Without its node it cannot be claimed, and by force the driver does not let go.
    fs::remove_file(kernel.0.dev.path().join(DEV.name())).expect("a node");
    assert_eq!(devices.detach(DEV, false).expect_err("no node").kind(), KernelErrorKind::Failed);
    *kernel.0.stuck.lock() = true;
    assert_eq!(devices.detach(DEV, true).expect_err("stuck").kind(), KernelErrorKind::NotPermitted);
    assert_eq!(live(&devices), 1);
    server.lose(true);
    let replaced = || kernel.log().iter().filter(|line| line.starts_with("sockets")).count();
    eventually("it is kept alive", || replaced() == 1 && live(&devices) == 1);
    devices.forget(DEV);
    assert_eq!(devices.list(), []);
    server.lose(true);
    let ended = || kernel.0.devices.lock()[&DEV].sockets.iter().all(is_dead);
    eventually("its session ends", ended);
    assert_eq!(replaced(), 1, "and is not replaced");
}
