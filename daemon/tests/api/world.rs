//! A real engine for tests: a pool on a simulated disk, reached through a reactor as in the daemon.
//!
//! The tests of `cairn`, too, include this file.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use cairn_api::attachment::Consumer;
use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::info::{Info, NbdEndpoint};
use cairn_api::job::Job;
use cairn_api::pool::CheckReport;
use cairn_api::snapshot::CreateSnapshot;
use cairn_api::volume::{CreateVolume, DeleteVolumeQuery};
use cairn_cow::sim::SimDisk;
use cairn_cow::{BLOCK_SIZE, CreateOptions, Disk, Options, Pool, VolumeInfo};
use cairn_uring::{Config, Handle, Reactor, ReactorThread};
use cairnd::control::{
    Attachment, ControlThread, Engine, Line, Pending, PoolEngine, Porter, Sessions, Target, bind_unix, start,
};
use cairnd::devices::{self, Devices};
use cairnd::keeper::PoolFiles;
use cairnd::kernel::{KernelErrorKind, VolumeKey};
use cairnd::pools::PoolSlot;
use cairnd::volumes::Volumes;
use jiff::Timestamp;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn options() -> Options {
    Options { lanes: 1, map_cache_bytes: MIB, read_cache_bytes: MIB, ..Options::default() }
}

/// Disks by their paths, as a file system has them.
pub(crate) struct SimFiles {
    reactor: Handle,
    disks: Mutex<HashMap<String, SimDisk>>,
    /// Operations that wait for the disk at [`SLOW`], and whether it answers.
    slow: (Mutex<(usize, bool)>, Condvar),
}

/// The path of a disk that answers only when it is told to.
pub(crate) const SLOW: &str = "/slow";

impl SimFiles {
    pub(crate) fn wait_while_slow(&self, path: &str) {
        if path == SLOW {
            let (state, changed) = &self.slow;
            let mut state = state.lock().expect("not poisoned");
            state.0 += 1;
            changed.notify_all();
            let mut state = changed.wait_while(state, |(_, answers)| !*answers).expect("not poisoned");
            state.0 -= 1;
        }
    }

    /// Waits until an operation waits for the slow disk.
    pub(crate) fn wait_until_stuck(&self) {
        let (state, changed) = &self.slow;
        drop(changed.wait_while(state.lock().expect("not poisoned"), |(waiting, _)| *waiting == 0));
    }

    /// Whether the slow disk answers.
    pub(crate) fn answer(&self, answers: bool) {
        let (state, changed) = &self.slow;
        state.lock().expect("not poisoned").1 = answers;
        changed.notify_all();
    }

    pub(crate) fn pool(
        &self,
        path: &str,
        limit: u64,
        fresh: bool,
        id: [u8; 16],
    ) -> Result<Arc<Pool<SimDisk>>, String> {
        let mut disks = self.disks.lock().expect("not poisoned");
        let fresh = fresh && !disks.contains_key(path);
        let disk = disks.entry(path.into()).or_insert_with(|| SimDisk::file(1 << 30)).clone();
        let create = CreateOptions { limit, journal_bytes: None, segment_blocks: None };
        let pool = self.reactor.spawn_with(move || async move {
            if fresh {
                Pool::create(disk, id, create, options()).await
            } else {
                Pool::open(disk, options()).await
            }
        });
        pool.expect("the reactor runs").wait().expect("the task ends").map_err(|e| e.to_string())
    }
}

impl PoolFiles<SimDisk> for SimFiles {
    fn add(
        &self,
        name: &str,
        path: &str,
        create: bool,
        limit: Option<u64>,
    ) -> Result<PoolSlot<SimDisk>, ApiError> {
        let failed = |why: String| ApiError::new(ErrorCode::Conflict, why);
        if !create && !self.disks.lock().expect("not poisoned").contains_key(path) {
            return Err(failed("no such file".into()));
        }
        self.wait_while_slow(path);
        let mut id = [8; 16];
        path.bytes().enumerate().for_each(|(n, byte)| id[n % 16] ^= byte);
        let pool = self.pool(path, limit.unwrap_or(1 << 40), create, id).map_err(failed)?;
        Ok(PoolSlot::new(name, path, Ok(pool)))
    }

    fn remove(&self, slot: &PoolSlot<SimDisk>) -> Result<(), String> {
        self.wait_while_slow(&slot.path);
        // One that could not be opened has nothing to close.
        let Ok(pool) = slot.pool.clone() else { return Ok(()) };
        let closed = self.reactor.spawn_with(move || async move { pool.close().await });
        closed.expect("the reactor runs").wait().expect("the task ends").map_err(|e| e.to_string())
    }

    fn device_size(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(path.starts_with("/dev/").then_some(1 << 30))
    }
}

/// A connection that ends when it is told to, after a number of polite requests.
pub(crate) struct Client {
    place: Mutex<Option<Attachment>>,
    polite: AtomicUsize,
}

impl Client {
    /// Whether one that is polite without end was asked to end.
    pub(crate) fn was_asked(&self) -> bool {
        self.polite.load(Ordering::SeqCst) < usize::MAX
    }
}

impl Line for Client {
    fn end(&self, force: bool) {
        let asked = self.polite.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if force || asked.is_err() {
            World::leave(self);
        }
    }
}

fn connect(
    sessions: &Arc<Sessions>,
    export: &str,
    consumer: &Consumer,
    polite: usize,
    shared: bool,
) -> Result<Arc<Client>, String> {
    let client = Arc::new(Client { place: Mutex::default(), polite: AtomicUsize::new(polite) });
    let attached = sessions.attach(Target::of_export(export), consumer, || Some(shared), client.clone());
    let place = attached.map_err(|e| e.to_string())?;
    *client.place.lock().expect("not poisoned") = Some(place);
    Ok(client)
}

/// A kernel that has as many devices as anybody wants, and connects them at once.
struct Kernel {
    sessions: Arc<Sessions>,
    attached: Mutex<Vec<Device>>,
}

/// One of its devices that is attached.
struct Device {
    name: String,
    key: VolumeKey,
    connections: Vec<Arc<Client>>,
}

impl Devices for Kernel {
    fn attach(&self, request: &devices::Attach) -> Result<String, ApiError> {
        let mut attached = self.attached.lock().expect("not poisoned");
        let taken = |name: &str| attached.iter().any(|device| device.name == name);
        let free = || (0..).map(|n| format!("/dev/nbd{n}")).find(|name| !taken(name)).expect("one is free");
        let name = match &request.device {
            // As the real one says it.
            Some(name) if taken(name) => {
                let why = format!("{name} is attached to something else");
                return Err(ApiError::new(ErrorCode::Busy, why).with_hint(KernelErrorKind::Busy.hint()));
            }
            Some(name) => name.clone(),
            None => free(),
        };
        let consumer = Consumer::Kernel { device: name.clone() };
        let open = |_| connect(&self.sessions, &request.export, &consumer, 0, true).expect("reserved for it");
        let connections = (0..request.connections.unwrap_or(1)).map(open).collect();
        attached.push(Device { name: name.clone(), key: request.key, connections });
        Ok(name)
    }

    fn resize(&self, _: VolumeKey, _: u64) -> Result<(), ApiError> {
        Ok(())
    }

    fn detach(&self, key: VolumeKey, _: bool) -> Result<(), ApiError> {
        self.forget(key);
        Ok(())
    }

    fn forget(&self, key: VolumeKey) {
        let mut attached = self.attached.lock().expect("not poisoned");
        for device in attached.extract_if(.., |device| device.key == key) {
            device.connections.iter().for_each(|connection| World::leave(connection));
        }
    }
}

pub(crate) struct World {
    pub(crate) reactor: ReactorThread,
    pub(crate) pool: Arc<Pool<SimDisk>>,
    pub(crate) volumes: Arc<Volumes<SimDisk>>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) files: Arc<SimFiles>,
    pub(crate) engine: Arc<PoolEngine<SimDisk>>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl World {
    /// Without a kernel.
    pub(crate) fn new() -> World {
        World::with(Path::new("/the"), false)
    }

    /// With a kernel, and with its sockets in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> World {
        World::with(folder, true)
    }

    fn with(folder: &Path, has_kernel: bool) -> World {
        let reactor = Reactor::start(Config::default()).expect("a reactor");
        let files = Arc::new(SimFiles {
            reactor: reactor.handle().clone(),
            disks: Mutex::default(),
            slow: <_>::default(),
        });
        let pool = files.pool("/the/pool", 1 << 40, true, [7; 16]).expect("a pool");
        let volumes = Volumes::new(pool.clone(), "/the/pool".into());
        let sessions = volumes.sessions.clone();
        let devices = has_kernel.then(|| -> Arc<dyn Devices> {
            Arc::new(Kernel { sessions: sessions.clone(), attached: Mutex::default() })
        });
        let socket = |name: &str| folder.join(name).display().to_string();
        let info = Info {
            version: "0.0.0".into(),
            pid: 1,
            started: Timestamp::UNIX_EPOCH,
            pool: "/the/pool".into(),
            control: socket("control.sock"),
            nbd: vec![NbdEndpoint::Unix(socket("nbd.sock"))],
        };
        let handle = reactor.handle().clone();
        let engine = Arc::new(PoolEngine::new(volumes.clone(), handle, files.clone(), devices, info));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        World { reactor, pool, volumes, sessions, files, engine, runtime }
    }

    /// Serves the API on the control socket.
    pub(crate) fn serve(&self) -> ControlThread {
        let control = self.engine.info().control;
        let socket = Path::new(&control);
        let listener = bind_unix(socket).expect("the socket binds");
        start(listener, Some(socket), self.engine.clone(), Porter::default()).expect("the server starts")
    }

    /// Connects the process `pid`; the client ends at the request after `polite` others unless it is forced.
    pub(crate) fn client(&self, export: &str, pid: i32, polite: usize) -> Result<Arc<Client>, String> {
        let volume = export.split('@').next().expect("a name");
        let shared = self.wait(self.engine.volume(volume.into())).map_err(|e| e.to_string())?.shared;
        self.consumer(export, pid, polite, shared)
    }

    pub(crate) fn consumer(
        &self,
        export: &str,
        pid: i32,
        polite: usize,
        shared: bool,
    ) -> Result<Arc<Client>, String> {
        let consumer = Consumer::Process { uid: 0, pid, command: None };
        self.enter(export, &consumer, polite, shared)
    }

    /// Connects `consumer`, as [`client`](Self::client) does.
    pub(crate) fn enter(
        &self,
        export: &str,
        consumer: &Consumer,
        polite: usize,
        shared: bool,
    ) -> Result<Arc<Client>, String> {
        connect(&self.sessions, export, consumer, polite, shared)
    }

    pub(crate) fn leave(client: &Client) {
        let gone = client.place.lock().expect("not poisoned").take();
        drop(gone);
    }

    pub(crate) fn wait<T>(&self, answer: Pending<T>) -> Result<T, ApiError> {
        self.runtime.block_on(answer)
    }

    #[track_caller]
    pub(crate) fn ok<T>(&self, answer: Pending<T>) -> T {
        self.wait(answer).expect("is done")
    }

    #[track_caller]
    pub(crate) fn code<T>(&self, answer: Pending<T>) -> ErrorCode {
        match self.wait(answer) {
            Ok(_) => panic!("was done, and should not have been"),
            Err(error) => error.code,
        }
    }

    pub(crate) fn create(&self, name: &str, size: u64) {
        let request = CreateVolume { name: name.into(), size: Some(size), ..CreateVolume::default() };
        self.ok(self.engine.create_volume(request));
    }

    pub(crate) fn snapshot(&self, volume: &str, name: &str) {
        let request = CreateSnapshot { name: name.into(), ..CreateSnapshot::default() };
        self.ok(self.engine.create_snapshot(volume.into(), request));
    }

    /// What the engine calls an image.
    pub(crate) fn kept_as(&self, image: &str) -> String {
        let named = |volume: &VolumeInfo| {
            let kept = volume.attributes.get("image");
            kept.is_some_and(|kept| kept.contains(&format!("\"name\":\"{image}\"")))
        };
        self.pool.volumes().into_iter().find(named).expect("the image").name
    }

    /// Writes one block of a volume, or of what an image is kept as, in whatever pool it is.
    pub(crate) fn write(&self, volume: &str, block: u64, byte: u8) {
        let mut pools = self.volumes.pools.open().into_iter().map(|(_, pool)| pool);
        let pool = pools.find(|pool| pool.has_volume(volume)).expect("the volume");
        let volume = volume.to_owned();
        let written = self.reactor.handle().spawn_with(move || async move {
            let version = pool.resolve(&volume)?.id;
            let mut buf = SimDisk::file(MIB).alloc(BLOCK_SIZE as usize);
            buf.fill(byte);
            pool.write(0, version, block * BLOCK_SIZE, BLOCK_SIZE as usize, buf).await
        });
        written.expect("the reactor runs").wait().expect("the task ends").expect("is written");
    }

    /// Waits until a job has ended.
    pub(crate) fn ended(&self, id: &str) -> Job {
        loop {
            let job = self.ok(self.engine.job(id.into()));
            if job.is_over() {
                return job;
            }
            std::thread::yield_now();
        }
    }

    /// Checks a pool.
    pub(crate) fn check(&self, pool: Option<&str>, data: bool) -> CheckReport {
        let job = self.ok(self.engine.start_check(pool.map(str::to_owned), data));
        self.ended(&job.id).result.and_then(|result| result.check).expect("it ends with a report")
    }

    /// How a volume is deleted with its snapshots.
    pub(crate) fn with_snapshots() -> DeleteVolumeQuery {
        DeleteVolumeQuery { snapshots: true, ..DeleteVolumeQuery::default() }
    }

    /// Reads one block of a volume.
    pub(crate) fn read(&self, volume: &str, block: u64) -> cairn_cow::Result<()> {
        let (pool, volume) = (self.pool.clone(), volume.to_owned());
        let read = self.reactor.handle().spawn_with(move || async move {
            let version = pool.resolve(&volume)?.id;
            pool.read(version, block * BLOCK_SIZE, BLOCK_SIZE as usize).await.map(drop)
        });
        read.expect("the reactor runs").wait().expect("the task ends")
    }

    /// Changes a byte of every block that is filled with `byte`.
    pub(crate) fn damage(&self, byte: u8) {
        let disks = self.files.disks.lock().expect("not poisoned");
        let disk = &disks["/the/pool"];
        for page in disk.stored_pages() {
            let at = page * BLOCK_SIZE;
            if disk.peek(at, BLOCK_SIZE as usize).iter().all(|kept| *kept == byte) {
                disk.poke(at, &[!byte]);
            }
        }
    }
}
