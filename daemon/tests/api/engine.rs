//! The API's operations, one call after the other.

use std::sync::{Arc, Mutex};

use cairn_api::attachment::{Attach, Consumer, Detach};
use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::image::{
    CreateImage, CreateImport, EditImage, ImageFields, ImageFormat, ImageQuery, ImageStatus,
};
use cairn_api::pool::{CreatePool, GrowPool, MAIN_POOL};
use cairn_api::snapshot::{
    CreateGroup, DiffExtent, DiffQuery, ExtentKind, GroupMember, Rollback, SnapshotQuery, TreeKind,
};
use cairn_api::tags::Tags;
use cairn_api::types::{
    BACKEND, CreateQosPolicy, CreateType, DEFAULT_TYPE, EditQosPolicy, EditType, QosSource, Retype,
    SetVolumeQos,
};
use cairn_api::volume::{
    CreateVolume, DeleteVolumeQuery, EditVolume, SnapshotRef, VolumeQuery, VolumeStatus,
};
use cairn_cow::sim::SimDisk;
use cairn_cow::{BLOCK_SIZE, Holder, Pool};
use cairn_uring::Handle;
use cairnd::control::{Engine, PoolEngine, Target};
use cairnd::devices::{self, Devices};
use cairnd::keeper::PoolFiles;
use cairnd::kernel::VolumeKey;
use cairnd::volumes::Volumes;

use crate::world::{MIB, SLOW, World};

fn of(volume: &str) -> SnapshotQuery {
    SnapshotQuery { volume: Some(volume.into()), ..SnapshotQuery::default() }
}

#[test]
fn what_is_asked_for_is_done() {
    let w = World::new();
    w.create("b", 64 * MIB);
    w.create("a", 16 * MIB);
    let names: Vec<_> =
        w.ok(w.engine.volumes(VolumeQuery::default())).volumes.into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(w.ok(w.engine.resize_volume("a".into(), 32 * MIB)).size, 32 * MIB);

    w.write("a", 0, 1);
    w.snapshot("a", "s1");
    w.write("a", 5, 2);
    w.write("a", 6, 3);
    w.snapshot("a", "s2");
    let query = DiffQuery { to: Some("s2".into()), ..DiffQuery::default() };
    let diff = w.ok(w.engine.diff("a".into(), "s1".into(), query));
    let changed = DiffExtent { offset: 5 * BLOCK_SIZE, len: 2 * BLOCK_SIZE, kind: ExtentKind::Data };
    assert_eq!((diff.extents, diff.changed, diff.next), (vec![changed], 2 * BLOCK_SIZE, None));
    assert_eq!(w.ok(w.engine.diff("a".into(), "s2".into(), DiffQuery::default())).extents, []);
    let source = SnapshotRef { volume: "a".into(), snapshot: "s1".into() };
    let clone = CreateVolume { name: "c".into(), source: Some(source.clone()), ..CreateVolume::default() };
    let clone = w.ok(w.engine.create_volume(clone));
    assert_eq!((clone.size, clone.origin, clone.mapped), (32 * MIB, Some(source), BLOCK_SIZE));
    assert_eq!(w.ok(w.engine.snapshot("a".into(), "s1".into())).children, 2);
    let with_clone = |snapshot: &str, to: Option<&str>| {
        let (to, to_volume) = (to.map(str::to_owned), Some("c".into()));
        w.engine.diff("a".into(), snapshot.into(), DiffQuery { to, to_volume, offset: 0 })
    };
    assert_eq!(w.ok(with_clone("s1", None)).extents, []);
    let back = w.ok(with_clone("s2", None));
    assert_eq!((back.changed, back.to_volume.as_deref()), (2 * BLOCK_SIZE, Some("c")));
    assert_eq!(w.code(with_clone("s1", Some("no"))), ErrorCode::NotFound);

    let done = w.ok(w.engine.rollback("a".into(), "s1".into(), Rollback::default()));
    assert_eq!((done.volume.mapped, done.undo.automatic), (BLOCK_SIZE, true));
    assert_eq!(w.ok(w.engine.diff("a".into(), "s1".into(), DiffQuery::default())).changed, 0);
    let list = w.ok(w.engine.snapshots(of("a"))).snapshots;
    assert_eq!(list.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["s1", "s2", &done.undo.name]);
    let tree = w.ok(w.engine.tree("a".into()));
    assert!(tree.nodes.iter().any(|n| n.kind == TreeKind::Head { volume: "c".into() }));
    assert_eq!(tree.nodes.len(), 5);

    let status = w.ok(w.engine.pool(None));
    assert_eq!((&*status.path, status.volumes, status.snapshots), ("/the/pool", 3, 3));
    assert_eq!(status.id, "07".repeat(16));
    let report = w.check(None, true);
    assert!(report.clean, "{report:?}");
    assert_eq!((report.data_blocks, report.data_verified), (3, 3));

    w.ok(w.engine.delete_snapshot("a".into(), "s2".into()));
    w.ok(w.engine.delete_volume("a".into(), World::with_snapshots()));
    w.ok(w.engine.delete_volume("b".into(), DeleteVolumeQuery::default()));
    assert_eq!(w.ok(w.engine.volumes(VolumeQuery::default())).volumes.len(), 1, "the clone lives on");
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
        tags: Tags::new(),
        client_token: None,
    };
    let made = w.ok(w.engine.create_group(group(&[("b", "g"), ("a", "g")]))).snapshots;
    let volumes: Vec<_> = made.iter().map(|s| (&*s.volume, &*s.description)).collect();
    assert_eq!(volumes, [("b", "both"), ("a", "both")]);
    assert_eq!(w.code(w.engine.create_group(group(&[("a", "h"), ("no", "h")]))), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.create_group(group(&[("a", "h"), ("a", "i")]))), ErrorCode::Conflict);
    assert_eq!(w.code(w.engine.create_group(group(&[]))), ErrorCode::InvalidArgument);
    assert_eq!(w.ok(w.engine.snapshots(SnapshotQuery::default())).snapshots.len(), 2);
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
    let described = CreateVolume { source, description: "kept".into(), ..volume("x", None) };
    assert_eq!(w.ok(w.engine.create_volume(described)).description, "kept");
    let typed = CreateVolume { volume_type: Some("no".into()), ..volume("y", Some(MIB)) };
    assert_eq!(w.code(w.engine.create_volume(typed)), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.resize_volume("a".into(), 1)), ErrorCode::Shrink);
    assert_eq!(
        w.code(w.engine.delete_volume("a".into(), DeleteVolumeQuery::default())),
        ErrorCode::HasSnapshots
    );
    assert_eq!(w.code(w.engine.delete_volume("no".into(), World::with_snapshots())), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.volume("no".into())), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.snapshots(of("no"))), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.rollback("a".into(), "no".into(), Rollback::default())), ErrorCode::NotFound);
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_is_in_use_stays_and_what_is_going_is_not_connected_to() {
    let w = World::new();
    w.create("a", MIB);
    w.snapshot("a", "s");
    let head = w.client("a", 1, 0).expect("free");
    let reader = w.client("a@s", 2, 0).expect("free");
    let shown = w.ok(w.engine.volume("a".into()));
    assert_eq!((shown.status, shown.connections), (VolumeStatus::InUse, 1));
    assert_eq!(w.code(w.engine.delete_volume("a".into(), World::with_snapshots())), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.delete_snapshot("a".into(), "s".into())), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.rollback("a".into(), "s".into(), Rollback::default())), ErrorCode::Busy);
    w.ok(w.engine.rollback("a".into(), "s".into(), Rollback { force: true }));
    World::leave(&head);
    assert_eq!(
        w.code(w.engine.delete_volume("a".into(), World::with_snapshots())),
        ErrorCode::Busy,
        "a snapshot is being read"
    );
    World::leave(&reader);
    w.ok(w.engine.delete_volume("a".into(), World::with_snapshots()));
    assert!(w.sessions.hold(Target::of_export("a")).is_ok(), "the hold ends with the operation");
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_connection_that_is_just_closing_is_waited_for() {
    let w = World::new();
    w.create("a", MIB);
    let leaving = w.client("a", 1, 0).expect("free");
    let deletion = w.engine.delete_volume("a".into(), DeleteVolumeQuery::default());
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| w.runtime.block_on(deletion));
        World::leave(&leaving);
        assert_eq!(thread.join().expect("ends"), Ok(()));
    });
    w.reactor.join().expect("ends in order");
}

#[test]
fn with_the_reactor_gone_the_answer_says_so() {
    let World { reactor, engine, runtime, .. } = World::new();
    reactor.join().expect("ends in order");
    let error = runtime.block_on(engine.start_check(None, false)).expect_err("nobody is left to do it");
    assert_eq!(error.code, ErrorCode::Unavailable);
}

fn limits(settings: &[(&str, u64)]) -> SetVolumeQos {
    SetVolumeQos { set: settings.iter().map(|(key, value)| ((*key).into(), *value)).collect() }
}

#[test]
fn types_carry_limits_to_their_volumes() {
    let w = World::new();
    let rule = limits(&[("total_iops_sec", 100)]).set;
    let policy = CreateQosPolicy { name: "slow".into(), ..CreateQosPolicy::default() };
    assert_eq!(
        w.code(w.engine.edit_qos_policy("slow".into(), EditQosPolicy::default())),
        ErrorCode::NotFound
    );
    w.ok(w.engine.create_qos_policy(policy.clone()));
    assert_eq!(w.code(w.engine.create_qos_policy(policy)), ErrorCode::Exists);
    let edited = EditQosPolicy { set: rule, ..EditQosPolicy::default() };
    assert_eq!(w.ok(w.engine.edit_qos_policy("slow".into(), edited)).rule.total_iops_sec, 100);

    let new = |name: &str, qos: &str| CreateType {
        name: name.into(),
        qos: Some(qos.into()),
        default: true,
        ..CreateType::default()
    };
    assert_eq!(w.code(w.engine.create_type(new("bronze", "no"))), ErrorCode::NotFound);
    w.ok(w.engine.create_type(new("bronze", "slow")));
    assert_eq!(w.code(w.engine.create_type(new("bronze", "slow"))), ErrorCode::Exists);
    w.create("a", MIB);
    let shown = w.ok(w.engine.volume("a".into()));
    assert_eq!((&*shown.volume_type, &*shown.pool, shown.shared), ("bronze", MAIN_POOL, false));

    let qos = w.ok(w.engine.volume_qos("a".into()));
    assert_eq!(
        (qos.source, qos.rule.total_iops_sec, qos.type_rule.as_deref()),
        (QosSource::Type, 100, Some("slow"))
    );
    let own =
        w.ok(w.engine.set_volume_qos("a".into(), limits(&[("read_bytes_sec", 5), ("write_iops_sec", 6)])));
    assert_eq!((own.source, own.rule.read_bytes_sec, own.rule.total_iops_sec), (QosSource::Volume, 5, 0));
    let bad = w.engine.set_volume_qos("a".into(), limits(&[("total_bytes_sec", 5)]));
    assert_eq!(w.code(bad), ErrorCode::Conflict, "total and read exclude each other");
    assert_eq!(
        w.code(w.engine.set_volume_qos("a".into(), limits(&[("iops", 5)]))),
        ErrorCode::InvalidArgument
    );
    let cleared =
        w.engine.set_volume_qos("a".into(), limits(&[("read_bytes_sec", 0), ("write_iops_sec", 0)]));
    assert_eq!(w.ok(cleared).source, QosSource::Type);

    // All of it is in the pool: an engine that comes later finds it.
    let later = Volumes::new(w.pool.clone(), "/the/pool".into());
    let engine = PoolEngine::new(later, w.reactor.handle().clone(), w.files.clone(), None, w.engine.info());
    assert_eq!(w.ok(engine.volume_qos("a".into())).rule.total_iops_sec, 100);
    assert!(w.ok(engine.volume_type("bronze".into())).default);

    assert_eq!(w.code(w.engine.delete_type("bronze".into())), ErrorCode::Busy, "a volume has it");
    assert_eq!(w.code(w.engine.delete_qos_policy("slow".into())), ErrorCode::Busy, "a type points to it");
    let retype = |name: &str| Retype { volume_type: name.into() };
    assert_eq!(w.code(w.engine.retype_volume("a".into(), retype("no"))), ErrorCode::NotFound);
    w.ok(w.engine.retype_volume("a".into(), retype(DEFAULT_TYPE)));
    assert_eq!(w.ok(w.engine.volume_qos("a".into())).source, QosSource::None);
    assert_eq!(w.code(w.engine.delete_type("bronze".into())), ErrorCode::Busy, "it is the default");
    let default = |yes| EditType { default: Some(yes), ..EditType::default() };
    assert_eq!(w.code(w.engine.edit_type("bronze".into(), default(false))), ErrorCode::Conflict);
    w.ok(w.engine.edit_type(DEFAULT_TYPE.into(), default(true)));
    w.ok(w.engine.delete_type("bronze".into()));
    w.ok(w.engine.delete_qos_policy("slow".into()));
    assert_eq!(w.code(w.engine.delete_type(DEFAULT_TYPE.into())), ErrorCode::Busy);
    let names: Vec<_> = w.ok(w.engine.types()).types.into_iter().map(|t| t.name).collect();
    assert_eq!(names, [DEFAULT_TYPE]);
    w.reactor.join().expect("ends in order");
}

#[test]
fn volumes_of_several_pools_are_as_of_one() {
    let w = World::new();
    let create = |name: &str, path: &str| CreatePool { name: name.into(), path: path.into(), limit: None };
    assert_eq!(w.code(w.engine.create_pool(create("bulk", "relative"))), ErrorCode::InvalidArgument);
    assert_eq!(w.code(w.engine.create_pool(create("bulk", "/the/pool"))), ErrorCode::Exists);
    assert_eq!(w.code(w.engine.create_pool(create(MAIN_POOL, "/bulk"))), ErrorCode::Exists);
    let made = w.ok(w.engine.create_pool(create("bulk", "/bulk")));
    assert_eq!((made.error, made.status.map(|s| s.volumes)), (None, Some(0)));
    let typed = CreateType {
        name: "bulk".into(),
        specs: [(BACKEND.to_owned(), "bulk".to_owned())].into(),
        ..CreateType::default()
    };
    w.ok(w.engine.create_type(typed.clone()));
    let elsewhere =
        CreateType { name: "x".into(), specs: [(BACKEND.to_owned(), "no".to_owned())].into(), ..typed };
    assert_eq!(w.code(w.engine.create_type(elsewhere)), ErrorCode::NotFound);

    let volume = |name: &str, volume_type: &str| CreateVolume {
        name: name.into(),
        size: Some(MIB),
        volume_type: Some(volume_type.into()),
        ..CreateVolume::default()
    };
    assert_eq!(w.ok(w.engine.create_volume(volume("b", "bulk"))).pool, "bulk");
    w.create("a", MIB);
    assert_eq!(
        w.code(w.engine.create_volume(volume("b", DEFAULT_TYPE))),
        ErrorCode::Exists,
        "in the other pool"
    );
    let renamed = EditVolume { name: Some("b".into()), ..EditVolume::default() };
    assert_eq!(w.code(w.engine.edit_volume("a".into(), renamed)), ErrorCode::Exists);
    let names: Vec<_> = w
        .ok(w.engine.volumes(VolumeQuery::default()))
        .volumes
        .into_iter()
        .map(|v| (v.name, v.pool))
        .collect();
    assert_eq!(names, [("a".into(), MAIN_POOL.into()), ("b".into(), "bulk".into())]);
    w.snapshot("b", "s");
    assert_eq!(w.ok(w.engine.snapshots(SnapshotQuery::default())).snapshots.len(), 1);
    assert_eq!(w.ok(w.engine.volume_type("bulk".into())).volumes, 1);
    let source = SnapshotRef { volume: "b".into(), snapshot: "s".into() };
    let clone = CreateVolume { name: "c".into(), source: Some(source.clone()), ..CreateVolume::default() };
    let cloned = w.ok(w.engine.create_volume(clone.clone()));
    assert_eq!((&*cloned.pool, &*cloned.volume_type), ("bulk", "bulk"), "as its source");
    let moved = CreateVolume { name: "d".into(), volume_type: Some(DEFAULT_TYPE.into()), ..clone };
    assert_eq!(w.code(w.engine.create_volume(moved)), ErrorCode::Conflict);
    let retyped = w.engine.retype_volume("b".into(), Retype { volume_type: DEFAULT_TYPE.into() });
    assert_eq!(w.code(retyped), ErrorCode::Unsupported);
    let members = ["a", "b"].map(|v| GroupMember { volume: v.into(), name: "g".into() }).into();
    let group = CreateGroup { members, description: String::new(), tags: Tags::new(), client_token: None };
    assert_eq!(w.code(w.engine.create_group(group)), ErrorCode::Conflict, "two orders of writes");

    assert_eq!(w.ok(w.engine.pool(Some("bulk".into()))).volumes, 2);
    assert!(w.check(Some("bulk"), true).clean);
    assert_eq!(w.code(w.engine.start_check(Some("no".into()), true)), ErrorCode::NotFound);
    let grow = |limit| GrowPool { limit };
    assert_eq!(w.code(w.engine.grow_pool("bulk".into(), grow(None))), ErrorCode::Conflict);
    assert_eq!(w.code(w.engine.grow_pool("bulk".into(), grow(Some(MIB)))), ErrorCode::Shrink);
    assert_eq!(w.ok(w.engine.grow_pool("bulk".into(), grow(Some(2 << 40)))).limit, 2 << 40);

    assert_eq!(w.code(w.engine.remove_pool("bulk".into())), ErrorCode::Busy, "it has volumes");
    w.ok(w.engine.delete_volume("b".into(), World::with_snapshots()));
    w.ok(w.engine.delete_volume("c".into(), World::with_snapshots()));
    assert_eq!(w.code(w.engine.remove_pool("bulk".into())), ErrorCode::Busy, "a type names it");
    w.ok(w.engine.delete_type("bulk".into()));
    w.ok(w.engine.remove_pool("bulk".into()));
    assert_eq!(w.code(w.engine.remove_pool(MAIN_POOL.into())), ErrorCode::Busy);
    assert_eq!(w.ok(w.engine.pools()).pools.len(), 1);

    // It comes back as it was left, unless a name is taken by now.
    w.ok(w.engine.create_pool(create("bulk", "/bulk")));
    assert_eq!(w.ok(w.engine.pool(Some("bulk".into()))).limit, 2 << 40);
    w.ok(w.engine.create_type(CreateType {
        name: "bulk".into(),
        specs: [(BACKEND.to_owned(), "bulk".to_owned())].into(),
        ..CreateType::default()
    }));
    w.ok(w.engine.create_volume(volume("e", "bulk")));
    let (slot, reserved) = w.volumes.pools.remove("bulk").expect("is there");
    w.files.remove(&slot).expect("closes");
    drop(reserved);
    w.create("e", MIB);
    let error = w.wait(w.engine.create_pool(create("again", "/bulk"))).expect_err("two volumes e");
    assert!(error.code == ErrorCode::Exists && error.message.contains("'e'"), "{error:?}");
    w.reactor.join().expect("ends in order");
}

// What cannot be read counted as empty, and nothing said so.
#[test]
fn what_is_kept_and_cannot_be_read_is_said() {
    let w = World::new();
    w.create("a", MIB);
    assert_eq!(w.ok(w.engine.volume("a".into())).problems, Vec::<String>::new());
    let pool = w.pool.clone();
    let kept = w.reactor.handle().spawn_with(move || async move {
        let changes = [("type", Some("gone")), ("qos", Some("{\"total_iops_sec\": \"many\"}"))];
        pool.set_attributes(Holder::Volume("a"), &changes).await
    });
    kept.expect("the reactor runs").wait().expect("the task ends").expect("is kept");
    let problems = w.ok(w.engine.volume("a".into())).problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("\"type\"") && problems[0].contains("\"gone\""), "{problems:?}");
    assert!(problems[1].contains("\"qos\"") && problems[1].contains("many"), "{problems:?}");
    assert_eq!(w.ok(w.engine.volumes(VolumeQuery::default())).volumes[0].problems, problems);
    assert_eq!(w.ok(w.engine.volume_qos("a".into())).source, QosSource::None);
    w.ok(w.engine.set_volume_qos("a".into(), limits(&[("total_iops_sec", 5)])));
    w.ok(w.engine.retype_volume("a".into(), Retype { volume_type: DEFAULT_TYPE.into() }));
    assert_eq!(w.ok(w.engine.volume("a".into())).problems, Vec::<String>::new());
    w.reactor.join().expect("ends in order");
}

// A pool on a disk that did not answer kept every other pool, type and volume from being made.
#[test]
fn a_slow_disk_holds_up_nobody_else() {
    let w = World::new();
    let create = |name: &str, path: &str| CreatePool { name: name.into(), path: path.into(), limit: None };
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| w.wait(w.engine.create_pool(create("slow", SLOW))));
        w.files.wait_until_stuck();
        assert_eq!(w.code(w.engine.create_pool(create("slow", "/other"))), ErrorCode::Busy);
        assert_eq!(w.code(w.engine.create_pool(create("other", SLOW))), ErrorCode::Busy);
        w.ok(w.engine.create_pool(create("quick", "/quick")));
        w.ok(w.engine.create_type(CreateType { name: "t".into(), ..CreateType::default() }));
        w.create("a", MIB);
        assert_eq!(w.code(w.engine.remove_pool("slow".into())), ErrorCode::NotFound, "not yet");
        w.files.answer(true);
        assert!(adding.join().expect("ends").is_ok());
    });
    w.files.answer(false);
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| w.wait(w.engine.remove_pool("slow".into())));
        w.files.wait_until_stuck();
        assert_eq!(w.code(w.engine.create_pool(create("other", SLOW))), ErrorCode::Busy);
        w.ok(w.engine.remove_pool("quick".into()));
        w.ok(w.engine.delete_type("t".into()));
        w.files.answer(true);
        assert_eq!(removing.join().expect("ends"), Ok(()));
    });
    w.ok(w.engine.create_pool(create("other", SLOW)));
    w.reactor.join().expect("ends in order");
}

#[test]
fn attachments_are_exclusive_and_can_be_ended() {
    let w = World::new();
    w.create("a", MIB);
    w.snapshot("a", "s");
    assert_eq!(
        w.code(w.engine.detach("a".into(), Detach::default())),
        ErrorCode::NotFound,
        "nobody is there"
    );
    let _first = w.client("a", 1, 0).expect("free");
    let _second = w.client("a", 1, 0).expect("the same process");
    assert!(w.client("a", 2, 0).err().expect("taken").contains("pid 1"));
    let shown = w.ok(w.engine.volume("a".into())).attachments;
    assert_eq!((shown.len(), shown[0].connections, &*shown[0].export), (1, 2, "a"));

    let shared = |yes| EditVolume { shared: Some(yes), ..EditVolume::default() };
    assert!(w.ok(w.engine.edit_volume("a".into(), shared(true))).shared);
    let _third = w.client("a", 2, 0).expect("shared now");
    assert_eq!(w.code(w.engine.edit_volume("a".into(), shared(false))), ErrorCode::Busy, "two have it");
    let _reader = w.client("a@s", 3, 0).expect("a snapshot");
    assert_eq!(w.ok(w.engine.attachments("a".into())).attachments.len(), 3);
    let renamed = EditVolume { name: Some("b".into()), ..EditVolume::default() };
    assert_eq!(w.code(w.engine.edit_volume("a".into(), renamed.clone())), ErrorCode::Busy);

    let left = w.ok(w.engine.detach("a".into(), Detach::default())).attachments;
    assert_eq!(left.iter().map(|a| &*a.export).collect::<Vec<_>>(), ["a@s"], "the snapshot's reader stays");
    let of_snapshot = |snapshot: &str| Detach { snapshot: Some(snapshot.into()), force: false };
    assert_eq!(w.code(w.engine.detach("a".into(), of_snapshot("no"))), ErrorCode::NotFound);
    assert!(w.ok(w.engine.detach("a".into(), of_snapshot("s"))).attachments.is_empty());

    // One that does not end when it is asked to.
    let _stubborn = w.client("a", 4, 1).expect("free");
    let forced = Detach { force: true, snapshot: None };
    assert!(w.ok(w.engine.detach("a".into(), forced)).attachments.is_empty());
    let _stale = w.client("a@s", 5, 1).expect("free");
    let device = Consumer::Kernel { device: "/dev/nbd0".into() };
    w.sessions.pin(Target::of_export("a"), &device, || Some(true)).expect("free");
    assert_eq!(w.code(w.engine.delete_volume("a".into(), World::with_snapshots())), ErrorCode::Busy);
    assert!(w.ok(w.engine.reset_attachments("a".into())).attachments.is_empty());

    let edited = w.ok(w.engine.edit_volume("a".into(), renamed));
    assert_eq!((&*edited.name, edited.shared, edited.snapshots), ("b", true, 1));
    assert_eq!(w.code(w.engine.volume("a".into())), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.attach("b".into(), Attach::default())), ErrorCode::Unsupported);
    w.reactor.join().expect("ends in order");
}

/// A kernel whose device's volume grows whenever it is told something, until it has `last`.
struct Growing {
    pool: Arc<Pool<SimDisk>>,
    reactor: Handle,
    last: u64,
    told: Mutex<Vec<u64>>,
}

impl Growing {
    fn grow(&self) {
        let (pool, size) = (self.pool.clone(), self.pool.volume("a").expect("is there").size + MIB);
        if size <= self.last {
            let grown = self.reactor.spawn_with(move || async move { pool.resize_volume("a", size).await });
            grown.expect("the reactor runs").wait().expect("the task ends").expect("grows");
        }
    }
}

impl Devices for Growing {
    fn attach(&self, request: &devices::Attach) -> Result<String, ApiError> {
        self.told.lock().expect("not poisoned").push(request.size);
        self.grow();
        Ok("/dev/nbd0".into())
    }

    fn resize(&self, _: VolumeKey, size: u64) -> Result<(), ApiError> {
        self.told.lock().expect("not poisoned").push(size);
        self.grow();
        Ok(())
    }

    fn detach(&self, _: VolumeKey, _: bool) -> Result<(), ApiError> {
        Ok(())
    }

    fn forget(&self, _: VolumeKey) {}
}

// A volume that grew while its device was being attached, or told of another size, was too short for the kernel.
#[test]
fn the_kernel_hears_of_the_size_that_a_volume_has_in_the_end() {
    let w = World::new();
    w.create("a", MIB);
    let (pool, reactor) = (w.pool.clone(), w.reactor.handle().clone());
    let kernel = Arc::new(Growing { pool, reactor: reactor.clone(), last: 3 * MIB, told: Mutex::default() });
    let info = w.engine.info();
    let engine = PoolEngine::new(w.volumes.clone(), reactor, w.files.clone(), Some(kernel.clone()), info);
    w.ok(engine.attach("a".into(), Attach::default()));
    let told = || std::mem::take(&mut *kernel.told.lock().expect("not poisoned"));
    assert_eq!(told(), [MIB, 2 * MIB, 3 * MIB]);
    w.ok(engine.resize_volume("a".into(), 5 * MIB));
    assert_eq!(told(), [5 * MIB], "once, where nothing else happens");
    w.reactor.join().expect("ends in order");
}

fn image_of(name: &str, volume: &str, snapshot: Option<&str>) -> CreateImage {
    let snapshot = snapshot.map(str::to_owned);
    CreateImage { name: name.into(), volume: volume.into(), snapshot, fields: ImageFields::default() }
}

fn import_of(name: &str, size: u64) -> CreateImport {
    CreateImport {
        name: name.into(),
        size,
        format: ImageFormat::Qcow2,
        file: "disk.qcow2".into(),
        fields: ImageFields { os_type: Some("linux".into()), min_disk: 8 * MIB, ..ImageFields::default() },
        pool: None,
    }
}

#[test]
fn images_are_made_of_volumes_and_are_none() {
    let w = World::new();
    w.create("a", 4 * MIB);
    w.write("a", 0, 1);
    w.snapshot("a", "s");
    w.write("a", 1, 2);
    w.ok(w.engine.create_image(image_of("then", "a", Some("s"))));
    let now = w.ok(w.engine.create_image(image_of("now", "a", None)));
    assert_eq!((now.size, now.mapped, now.status), (4 * MIB, 2 * BLOCK_SIZE, ImageStatus::Available));
    assert_eq!(w.ok(w.engine.image("then".into())).mapped, BLOCK_SIZE);
    assert_eq!(w.code(w.engine.create_image(image_of("now", "a", None))), ErrorCode::Exists);
    assert_eq!(w.code(w.engine.create_image(image_of("x", "now", None))), ErrorCode::NotFound);

    assert_eq!(w.ok(w.engine.volumes(VolumeQuery::default())).volumes.len(), 1);
    let snapshots = w.ok(w.engine.snapshots(SnapshotQuery::default())).snapshots;
    assert_eq!(
        snapshots.iter().map(|s| &*s.name).collect::<Vec<_>>(),
        ["s"],
        "nothing is left on the volume"
    );
    let status = w.ok(w.engine.pool(None));
    assert_eq!((status.volumes, status.snapshots, status.images), (1, 1, 2));
    assert_eq!(w.ok(w.engine.volume_type(DEFAULT_TYPE.into())).volumes, 1);

    let from = |image: &str, size| CreateVolume {
        name: "b".into(),
        image: Some(image.into()),
        size,
        ..CreateVolume::default()
    };
    assert_eq!(w.code(w.engine.create_volume(from("no", None))), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.create_volume(from("now", Some(MIB)))), ErrorCode::Shrink);
    let both = SnapshotRef { volume: "a".into(), snapshot: "s".into() };
    let both = CreateVolume { source: Some(both), ..from("now", None) };
    assert_eq!(w.code(w.engine.create_volume(both)), ErrorCode::Conflict);
    let made = w.ok(w.engine.create_volume(from("now", None)));
    assert_eq!((made.image.as_deref(), made.origin, made.size), (Some("now"), None, 4 * MIB));
    let tree = w.ok(w.engine.tree("b".into())).nodes;
    let images: Vec<_> = tree.iter().filter(|n| matches!(n.kind, TreeKind::Image { .. })).collect();
    assert_eq!(images.len(), 2, "{tree:?}");
    let hidden = |kind: &TreeKind| matches!(kind, TreeKind::Head { volume } if volume.starts_with("img-"));
    assert!(!tree.iter().any(|node| hidden(&node.kind)), "{tree:?}");

    assert_eq!(w.ok(w.engine.image("now".into())).volumes, 1);
    assert_eq!(w.code(w.engine.delete_image("now".into(), false)), ErrorCode::Busy);
    let protect = |protected| EditImage { protected: Some(protected), ..EditImage::default() };
    w.ok(w.engine.edit_image("now".into(), protect(true)));
    assert_eq!(w.code(w.engine.delete_image("now".into(), true)), ErrorCode::Busy);
    w.ok(w.engine.edit_image("now".into(), protect(false)));
    let reader = w.consumer(&format!("{}@contents", w.kept_as("now")), 1, 0, true).expect("a reader");
    assert_eq!(w.code(w.engine.delete_image("now".into(), true)), ErrorCode::Busy, "it is being read");
    World::leave(&reader);
    w.ok(w.engine.delete_image("now".into(), true));
    w.ok(w.engine.delete_image("then".into(), false));
    assert_eq!(w.ok(w.engine.volume("b".into())).mapped, 2 * BLOCK_SIZE, "what was made of it lives on");
    w.reactor.join().expect("ends in order");
}

#[test]
fn an_import_is_an_image_when_it_is_complete() {
    let w = World::new();
    assert_eq!(w.code(w.engine.create_import(import_of("i", 1000))), ErrorCode::InvalidArgument);
    assert_eq!(w.code(w.engine.create_import(import_of("i i", MIB))), ErrorCode::InvalidArgument);
    let import = w.ok(w.engine.create_import(import_of("i", MIB)));
    let kept_as = w.kept_as("i");
    assert_eq!((import.image.status, import.export), (ImageStatus::Importing, format!("import:{kept_as}")));
    assert_eq!(w.code(w.engine.create_import(import_of("i", MIB))), ErrorCode::Exists);
    w.write(&kept_as, 0, 1);
    assert_eq!(w.code(w.engine.grow_import("i".into(), MIB + 1)), ErrorCode::InvalidArgument);
    assert_eq!(w.ok(w.engine.grow_import("i".into(), 2 * MIB)).size, 2 * MIB);
    let volume = CreateVolume { name: "v".into(), image: Some("i".into()), ..CreateVolume::default() };
    assert_eq!(w.code(w.engine.create_volume(volume.clone())), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.delete_image("i".into(), false)), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.edit_image("i".into(), EditImage::default())), ErrorCode::Busy);

    let done = w.ok(w.engine.complete_import("i".into()));
    assert_eq!(
        (done.status, done.mapped, done.os_type.as_deref()),
        (ImageStatus::Available, BLOCK_SIZE, Some("linux"))
    );
    assert_eq!(w.ok(w.engine.complete_import("i".into())), done, "when it is asked again");
    assert_eq!(w.code(w.engine.grow_import("i".into(), 4 * MIB)), ErrorCode::ReadOnly);
    assert_eq!(w.code(w.engine.cancel_import("i".into())), ErrorCode::ReadOnly);
    w.write(&kept_as, 1, 2);
    let made = w.ok(w.engine.create_volume(volume));
    assert_eq!(
        (made.size, made.mapped),
        (8 * MIB, BLOCK_SIZE),
        "as large as asked for, with what was complete"
    );

    let renamed = EditImage { name: Some("j".into()), os_type: Some(String::new()), ..EditImage::default() };
    let renamed = w.ok(w.engine.edit_image("i".into(), renamed));
    assert_eq!((&*renamed.name, renamed.os_type, renamed.volumes), ("j", None, 1));
    w.ok(w.engine.create_import(import_of("i", MIB)));
    w.ok(w.engine.cancel_import("i".into()));
    assert_eq!(w.code(w.engine.image("i".into())), ErrorCode::NotFound);
    assert_eq!(w.ok(w.engine.images(ImageQuery::default())).images.len(), 1);
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_passing_snapshot_is_deleted_as_any_other() {
    let w = World::new();
    w.create("a", MIB);
    let taken = w.ok(w.engine.passing_snapshot("a".into()));
    let marks = || {
        w.pool
            .volume("a")
            .expect("there")
            .attributes
            .iter()
            .filter(|(k, _)| k.starts_with("passing/"))
            .count()
    };
    assert_eq!((taken.size, marks()), (MIB, 1));
    w.ok(w.engine.delete_snapshot("a".into(), taken.snapshot));
    assert_eq!(marks(), 0, "its mark went with it");
    assert_eq!(w.code(w.engine.passing_snapshot("no".into())), ErrorCode::NotFound);
    w.reactor.join().expect("ends in order");
}
