//! The API's operations on a real engine: a pool on a simulated disk, reached through a reactor as in the daemon.

use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::info::Info;
use cairn_api::snapshot::{
    CreateGroup, CreateSnapshot, DiffExtent, DiffQuery, ExtentKind, GroupMember, Rollback, TreeKind,
};
use cairn_api::volume::{CreateVolume, SnapshotRef, VolumeStatus};
use cairn_cow::sim::SimDisk;
use cairn_cow::{BLOCK_SIZE, CreateOptions, Disk, Options, Pool};
use cairn_uring::{Config, Reactor, ReactorThread};
use cairnd::control::{Engine, Pending, PoolEngine, Sessions, Target};
use jiff::Timestamp;

const MIB: u64 = 1 << 20;

struct World {
    reactor: ReactorThread,
    pool: Arc<Pool<SimDisk>>,
    sessions: Arc<Sessions>,
    engine: PoolEngine<SimDisk>,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> World {
        let reactor = Reactor::start(Config::default()).expect("a reactor");
        let pool = reactor.handle().spawn_with(|| async {
            let create = CreateOptions { limit: 1 << 30, journal_bytes: None, segment_blocks: None };
            Pool::create(
                SimDisk::file(1 << 30),
                [7; 16],
                create,
                Options { lanes: 1, map_cache_bytes: MIB, read_cache_bytes: MIB },
            )
            .await
        });
        let pool = pool.expect("the reactor runs").wait().expect("the task ends").expect("a pool");
        let sessions = Sessions::new();
        let info = Info {
            version: "0.0.0".into(),
            pid: 1,
            started: Timestamp::UNIX_EPOCH,
            pool: "/the/pool".into(),
            control: "/the/socket".into(),
            nbd: Vec::new(),
        };
        let engine = PoolEngine::new(pool.clone(), reactor.handle().clone(), sessions.clone(), info);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        World { reactor, pool, sessions, engine, runtime }
    }

    fn wait<T>(&self, answer: Pending<T>) -> Result<T, ApiError> {
        self.runtime.block_on(answer)
    }

    #[track_caller]
    fn ok<T>(&self, answer: Pending<T>) -> T {
        self.wait(answer).expect("is done")
    }

    #[track_caller]
    fn code<T>(&self, answer: Pending<T>) -> ErrorCode {
        match self.wait(answer) {
            Ok(_) => panic!("was done, and should not have been"),
            Err(error) => error.code,
        }
    }

    fn create(&self, name: &str, size: u64) {
        let request = CreateVolume { name: name.into(), size: Some(size), ..CreateVolume::default() };
        self.ok(self.engine.create_volume(request));
    }

    fn snapshot(&self, volume: &str, name: &str) {
        let request = CreateSnapshot { name: name.into(), description: String::new() };
        self.ok(self.engine.create_snapshot(volume.into(), request));
    }

    /// Writes one block of a volume.
    fn write(&self, volume: &'static str, block: u64, byte: u8) {
        let pool = self.pool.clone();
        let written = self.reactor.handle().spawn_with(move || async move {
            let version = pool.resolve(volume)?.id;
            let mut buf = SimDisk::file(MIB).alloc(BLOCK_SIZE as usize);
            buf.fill(byte);
            pool.write(0, version, block * BLOCK_SIZE, BLOCK_SIZE as usize, buf).await
        });
        written.expect("the reactor runs").wait().expect("the task ends").expect("is written");
    }
}

#[test]
fn what_is_asked_for_is_done() {
    let w = World::new();
    w.create("b", 64 * MIB);
    w.create("a", 16 * MIB);
    let names: Vec<_> = w.ok(w.engine.volumes()).volumes.into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(w.ok(w.engine.resize_volume("a".into(), 32 * MIB)).size, 32 * MIB);

    w.write("a", 0, 1);
    w.snapshot("a", "s1");
    w.write("a", 5, 2);
    w.write("a", 6, 3);
    w.snapshot("a", "s2");
    let query = DiffQuery { to: Some("s2".into()), offset: 0 };
    let diff = w.ok(w.engine.diff("a".into(), "s1".into(), query));
    let changed = DiffExtent { offset: 5 * BLOCK_SIZE, len: 2 * BLOCK_SIZE, kind: ExtentKind::Data };
    assert_eq!((diff.extents, diff.changed, diff.next), (vec![changed], 2 * BLOCK_SIZE, None));
    assert_eq!(w.ok(w.engine.diff("a".into(), "s2".into(), DiffQuery::default())).extents, []);

    let source = SnapshotRef { volume: "a".into(), snapshot: "s1".into() };
    let clone = CreateVolume { name: "c".into(), source: Some(source.clone()), ..CreateVolume::default() };
    let clone = w.ok(w.engine.create_volume(clone));
    assert_eq!((clone.size, clone.origin, clone.mapped), (32 * MIB, Some(source), BLOCK_SIZE));
    assert_eq!(w.ok(w.engine.snapshot("a".into(), "s1".into())).children, 2);

    let done = w.ok(w.engine.rollback("a".into(), "s1".into(), Rollback::default()));
    assert_eq!((done.volume.mapped, done.undo.automatic), (BLOCK_SIZE, true));
    assert_eq!(w.ok(w.engine.diff("a".into(), "s1".into(), DiffQuery::default())).changed, 0);
    let list = w.ok(w.engine.snapshots(Some("a".into()))).snapshots;
    assert_eq!(list.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["s1", "s2", &done.undo.name]);
    let tree = w.ok(w.engine.tree("a".into()));
    assert!(tree.nodes.iter().any(|n| n.kind == TreeKind::Head { volume: "c".into() }));
    assert_eq!(tree.nodes.len(), 5);

    let status = w.ok(w.engine.pool());
    assert_eq!((&*status.path, status.volumes, status.snapshots), ("/the/pool", 3, 3));
    assert_eq!(status.id, "07".repeat(16));
    let report = w.ok(w.engine.check(true));
    assert!(report.clean, "{report:?}");
    assert_eq!((report.data_blocks, report.data_verified), (3, 3));

    w.ok(w.engine.delete_snapshot("a".into(), "s2".into()));
    w.ok(w.engine.delete_volume("a".into(), true));
    w.ok(w.engine.delete_volume("b".into(), false));
    assert_eq!(w.ok(w.engine.volumes()).volumes.len(), 1, "the clone lives on");
    w.reactor.join().expect("ends in order");
}

#[test]
fn groups_are_taken_at_once_or_not_at_all() {
    let w = World::new();
    w.create("a", MIB);
    w.create("b", MIB);
    let group = |names: &[(&str, &str)]| CreateGroup {
        members: names.iter().map(|(v, n)| GroupMember { volume: (*v).into(), name: (*n).into() }).collect(),
        description: "both".into(),
    };
    let made = w.ok(w.engine.create_group(group(&[("b", "g"), ("a", "g")]))).snapshots;
    let volumes: Vec<_> = made.iter().map(|s| (&*s.volume, &*s.description)).collect();
    assert_eq!(volumes, [("b", "both"), ("a", "both")]);
    assert_eq!(w.code(w.engine.create_group(group(&[("a", "h"), ("no", "h")]))), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.create_group(group(&[("a", "h"), ("a", "i")]))), ErrorCode::InvalidArgument);
    assert_eq!(w.code(w.engine.create_group(group(&[]))), ErrorCode::InvalidArgument);
    assert_eq!(w.ok(w.engine.snapshots(None)).snapshots.len(), 2);
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_is_wrong_is_refused_with_its_code() {
    let w = World::new();
    w.create("a", MIB);
    w.snapshot("a", "s");
    let volume = |name: &str, size| CreateVolume { name: name.into(), size, ..CreateVolume::default() };
    assert_eq!(w.code(w.engine.create_volume(volume("a", Some(MIB)))), ErrorCode::Exists);
    assert_eq!(w.code(w.engine.create_volume(volume("x", None))), ErrorCode::InvalidArgument);
    assert_eq!(w.code(w.engine.create_volume(volume("x", Some(0)))), ErrorCode::InvalidArgument);
    assert_eq!(w.code(w.engine.create_volume(volume(&"x".repeat(129), Some(1)))), ErrorCode::InvalidArgument);
    assert_eq!(w.code(w.engine.create_volume(volume("a/b", Some(1)))), ErrorCode::InvalidArgument);
    let source = Some(SnapshotRef { volume: "a".into(), snapshot: "s".into() });
    let small = CreateVolume { source: source.clone(), ..volume("x", Some(1)) };
    assert_eq!(w.code(w.engine.create_volume(small)), ErrorCode::Shrink);
    let described = CreateVolume { source, description: "lost".into(), ..volume("x", None) };
    assert_eq!(w.code(w.engine.create_volume(described)), ErrorCode::InvalidArgument);
    assert_eq!(w.code(w.engine.resize_volume("a".into(), 1)), ErrorCode::Shrink);
    assert_eq!(w.code(w.engine.delete_volume("a".into(), false)), ErrorCode::HasSnapshots);
    assert_eq!(w.code(w.engine.delete_volume("no".into(), true)), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.volume("no".into())), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.snapshots(Some("no".into()))), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.rollback("a".into(), "no".into(), Rollback::default())), ErrorCode::NotFound);
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_is_in_use_stays_and_what_is_going_is_not_connected_to() {
    let w = World::new();
    w.create("a", MIB);
    w.snapshot("a", "s");
    let head = w.sessions.attach(Target::of_export("a")).expect("free");
    let reader = w.sessions.attach(Target::of_export("a@s")).expect("free");
    let shown = w.ok(w.engine.volume("a".into()));
    assert_eq!((shown.status, shown.connections), (VolumeStatus::InUse, 1));
    assert_eq!(w.code(w.engine.delete_volume("a".into(), true)), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.delete_snapshot("a".into(), "s".into())), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.rollback("a".into(), "s".into(), Rollback::default())), ErrorCode::Busy);
    w.ok(w.engine.rollback("a".into(), "s".into(), Rollback { force: true }));
    drop(head);
    assert_eq!(w.code(w.engine.delete_volume("a".into(), true)), ErrorCode::Busy, "a snapshot is being read");
    drop(reader);
    w.ok(w.engine.delete_volume("a".into(), true));
    assert!(w.sessions.attach(Target::of_export("a")).is_ok(), "the hold ends with the operation");
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_connection_that_is_just_closing_is_waited_for() {
    let w = World::new();
    w.create("a", MIB);
    let leaving = w.sessions.attach(Target::of_export("a")).expect("free");
    let deletion = w.engine.delete_volume("a".into(), false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| w.runtime.block_on(deletion));
        drop(leaving);
        assert_eq!(thread.join().expect("ends"), Ok(()));
    });
    w.reactor.join().expect("ends in order");
}

#[test]
fn with_the_reactor_gone_the_answer_says_so() {
    let World { reactor, engine, runtime, .. } = World::new();
    reactor.join().expect("ends in order");
    let error = runtime.block_on(engine.check(false)).expect_err("nobody is left to do it");
    assert_eq!(error.code, ErrorCode::Unavailable);
}
