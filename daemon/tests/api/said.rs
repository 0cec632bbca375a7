//! What users and administrators say of volumes, snapshots and images, and what that changes.

use cairn_api::attachment::{Attach, Consumer};
use cairn_api::error::ErrorCode;
use cairn_api::event::EventQuery;
use cairn_api::image::{
    CreateImage, CreateImport, EditImage, ImageFields, ImageFormat, ImageQuery, ImageStatus,
};
use cairn_api::recycle::{Recover, SetRecycleBin};
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, EditSnapshot, GroupMember, ResetSnapshotStatus, Rollback,
    SetSnapshotStatus, SnapshotQuery, SnapshotStatus,
};
use cairn_api::staging::CreateStaging;
use cairn_api::tags::{TagChanges, Tags};
use cairn_api::types::CreateType;
use cairn_api::volume::{
    CreateVolume, DeleteVolumeQuery, EditVolume, ResetStatus, SetStatus, SnapshotRef, Volume, VolumeQuery,
    VolumeStatus,
};
use cairnd::access::Scope;
use cairnd::control::{Engine, Target};

use crate::world::{MIB, World};

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn changes(pairs: &[(&str, Option<&str>)]) -> TagChanges {
    pairs.iter().map(|(key, value)| ((*key).into(), value.map(str::to_owned))).collect()
}

fn blank(name: &str) -> CreateVolume {
    CreateVolume { name: name.into(), size: Some(MIB), ..CreateVolume::default() }
}

fn names(volumes: Vec<Volume>) -> Vec<String> {
    volumes.into_iter().map(|volume| volume.name).collect()
}

#[test]
fn what_is_said_of_a_volume_stays_with_it() {
    let w = World::new();
    let said = tags(&[("env", "prod"), ("team/name", "größer")]);
    let new =
        CreateVolume { tags: said.clone(), project: Some("shop".into()), bootable: Some(true), ..blank("a") };
    let made = w.ok(w.engine.create_volume(new));
    assert_eq!((made.tags, &*made.project, made.bootable, made.write_protected), (said, "shop", true, false));
    let edit = EditVolume {
        tags: changes(&[("env", None), ("new", Some("x"))]),
        project: Some("other".into()),
        bootable: Some(false),
        ..EditVolume::default()
    };
    let edited = w.ok(w.engine.edit_volume("a".into(), edit));
    assert_eq!(
        (edited.tags, &*edited.project, edited.bootable),
        (tags(&[("new", "x"), ("team/name", "größer")]), "other", false)
    );
    assert_eq!(w.ok(w.engine.create_volume(blank("b"))).project, "default");

    for (bad, part) in [
        (CreateVolume { tags: tags(&[("a b", "")]), ..blank("c") }, "no key of a tag"),
        (CreateVolume { tags: tags(&[("k", "a\nb")]), ..blank("c") }, "cannot hold"),
        (CreateVolume { project: Some("a/b".into()), ..blank("c") }, "contains '/'"),
    ] {
        let error = w.wait(w.engine.create_volume(bad)).expect_err(part);
        assert!(error.code == ErrorCode::InvalidArgument && error.message.contains(part), "{error}");
    }
    let bad = EditVolume { tags: changes(&[("", Some("x"))]), ..EditVolume::default() };
    assert_eq!(w.code(w.engine.edit_volume("a".into(), bad)), ErrorCode::InvalidArgument);
    assert_eq!(w.ok(w.engine.volumes(VolumeQuery::default())).volumes.len(), 2, "nothing half done");
    w.reactor.join().expect("ends in order");
}

#[test]
fn clones_take_after_their_source_where_that_makes_sense() {
    let w = World::new();
    let new = CreateVolume {
        tags: tags(&[("env", "prod")]),
        project: Some("shop".into()),
        bootable: Some(true),
        ..blank("a")
    };
    w.ok(w.engine.create_volume(new));
    w.snapshot("a", "s");
    let source = Some(SnapshotRef { volume: "a".into(), snapshot: "s".into() });
    let clone = CreateVolume { name: "b".into(), source: source.clone(), ..CreateVolume::default() };
    let made = w.ok(w.engine.create_volume(clone.clone()));
    assert_eq!((&*made.project, made.bootable, made.tags), ("shop", true, Tags::new()));
    let told = CreateVolume { name: "c".into(), bootable: Some(false), project: Some("lab".into()), ..clone };
    let made = w.ok(w.engine.create_volume(told));
    assert_eq!((&*made.project, made.bootable), ("lab", false));
    w.reactor.join().expect("ends in order");
}

#[test]
fn lists_are_filtered_sorted_and_paged() {
    let w = World::new();
    for (name, size, said) in [
        ("web-1", 3 * MIB, tags(&[("env", "prod")])),
        ("web-2", MIB, tags(&[("env", "test")])),
        ("db", 2 * MIB, tags(&[("env", "prod"), ("tier", "gold")])),
    ] {
        w.ok(w.engine.create_volume(CreateVolume { size: Some(size), tags: said, ..blank(name) }));
    }
    let list = |query: VolumeQuery| names(w.ok(w.engine.volumes(query)).volumes);
    let all = VolumeQuery::default;
    assert_eq!(list(all()), ["db", "web-1", "web-2"]);
    assert_eq!(list(VolumeQuery { sort: Some("-size".into()), ..all() }), ["web-1", "db", "web-2"]);
    assert_eq!(list(VolumeQuery { search: Some("WEB".into()), ..all() }), ["web-1", "web-2"]);
    assert_eq!(list(VolumeQuery { tag: vec!["env=prod".into()], ..all() }), ["db", "web-1"]);
    assert_eq!(list(VolumeQuery { tag: vec!["env".into(), "tier=gold".into()], ..all() }), ["db"]);
    assert_eq!(list(VolumeQuery { project: Some("none".into()), ..all() }), [""; 0]);
    let client = w.client("db", 1, 0).expect("is let in");
    assert_eq!(list(VolumeQuery { status: Some(VolumeStatus::InUse), ..all() }), ["db"]);
    World::leave(&client);
    let first = w.ok(w.engine.volumes(VolumeQuery { limit: Some(2), ..all() }));
    assert_eq!(first.next.as_deref(), Some("web-1"));
    assert_eq!(list(VolumeQuery { limit: Some(2), after: first.next, ..all() }), ["web-2"]);
    assert_eq!(
        w.code(w.engine.volumes(VolumeQuery { sort: Some("x".into()), ..all() })),
        ErrorCode::InvalidArgument
    );

    for (name, said) in [("monday", tags(&[("keep", "yes")])), ("tuesday", Tags::new())] {
        let request = CreateSnapshot {
            name: name.into(),
            description: String::new(),
            tags: said,
            ..CreateSnapshot::default()
        };
        w.ok(w.engine.create_snapshot("db".into(), request));
    }
    w.snapshot("web-1", "monday");
    let list = |query: SnapshotQuery| {
        let found = w.ok(w.engine.snapshots(query)).snapshots;
        found.into_iter().map(|s| format!("{}@{}", s.volume, s.name)).collect::<Vec<_>>()
    };
    let all = SnapshotQuery::default;
    assert_eq!(list(all()), ["db@monday", "db@tuesday", "web-1@monday"]);
    assert_eq!(
        list(SnapshotQuery { volume: Some("db".into()), sort: Some("-name".into()), ..all() }),
        ["db@tuesday", "db@monday"]
    );
    assert_eq!(list(SnapshotQuery { tag: vec!["keep".into()], ..all() }), ["db@monday"]);
    assert_eq!(list(SnapshotQuery { search: Some("tues".into()), ..all() }), ["db@tuesday"]);
    let first = w.ok(w.engine.snapshots(SnapshotQuery { limit: Some(1), ..all() }));
    assert_eq!(first.next.as_deref(), Some("db@monday"));
    assert_eq!(list(SnapshotQuery { after: first.next, ..all() }), ["db@tuesday", "web-1@monday"]);
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_is_write_protected_cannot_be_changed_by_anybody() {
    let w = World::new();
    w.create("a", MIB);
    w.snapshot("a", "s");
    let protect = |on| EditVolume { write_protected: Some(on), ..EditVolume::default() };
    let client = w.client("a", 1, usize::MAX).expect("is let in");
    assert_eq!(
        w.code(w.engine.edit_volume("a".into(), protect(true))),
        ErrorCode::Busy,
        "somebody may write"
    );
    World::leave(&client);
    assert!(w.ok(w.engine.edit_volume("a".into(), protect(true))).write_protected);
    assert_eq!(w.code(w.engine.resize_volume("a".into(), 2 * MIB)), ErrorCode::ReadOnly);
    assert_eq!(
        w.code(w.engine.rollback("a".into(), "s".into(), Rollback { force: true })),
        ErrorCode::ReadOnly
    );
    assert_eq!(w.code(w.engine.delete_volume("a".into(), World::with_snapshots())), ErrorCode::ReadOnly);
    let over = CreateStaging { volume: "a".into(), over: true, size: MIB, ..CreateStaging::default() };
    assert_eq!(w.code(w.engine.create_staging(over)), ErrorCode::ReadOnly);
    // Reading it, and snapshots of it, are nobody's harm; and clients may be there when it ends.
    w.snapshot("a", "t");
    let client = w.client("a", 1, usize::MAX).expect("is let in");
    assert!(!w.ok(w.engine.edit_volume("a".into(), protect(false))).write_protected);
    World::leave(&client);
    w.ok(w.engine.delete_volume("a".into(), World::with_snapshots()));
    w.reactor.join().expect("ends in order");
}

#[test]
fn administrators_set_a_status_and_take_it_back() {
    let w = World::new();
    w.create("a", MIB);
    let set = |status, reason: Option<&str>| ResetStatus { status, reason: reason.map(str::to_owned) };
    let reset = |status, reason| w.engine.reset_status("a".into(), set(status, reason));
    let client = w.client("a", 1, usize::MAX).expect("is let in");
    assert_eq!(w.code(reset(SetStatus::Maintenance, None)), ErrorCode::Busy);
    World::leave(&client);
    let kept = w.ok(reset(SetStatus::Maintenance, Some("being moved")));
    assert_eq!((kept.status, kept.reason.as_deref()), (VolumeStatus::Maintenance, Some("being moved")));
    let refused = w.wait(w.engine.attach("a".into(), Attach::default())).expect_err("nobody is let in");
    assert!(
        refused.code == ErrorCode::Unsupported || refused.message.contains("in maintenance"),
        "{refused}"
    );
    let failed = w.ok(reset(SetStatus::Error, None));
    assert_eq!(
        (failed.status, failed.reason.as_deref()),
        (VolumeStatus::Error, Some("an administrator says so"))
    );
    let list =
        w.ok(w.engine.volumes(VolumeQuery { status: Some(VolumeStatus::Error), ..VolumeQuery::default() }));
    assert_eq!(names(list.volumes), ["a"]);
    assert_eq!(w.code(reset(SetStatus::Error, Some("two\nlines"))), ErrorCode::InvalidArgument);
    assert_eq!(w.code(reset(SetStatus::Available, Some("why"))), ErrorCode::Conflict);
    let well = w.ok(reset(SetStatus::Available, None));
    assert_eq!((well.status, well.reason), (VolumeStatus::Available, None));

    // An error that was found is forgotten, too.
    w.write("a", 3, 0x5a);
    w.damage(0x5a);
    w.read("a", 3).expect_err("it is damaged");
    let bad = w.ok(w.engine.volume("a".into()));
    assert_eq!((bad.status, bad.checksum_errors), (VolumeStatus::Error, 1));
    assert_eq!(bad.reason.as_deref(), Some("1 of its reads failed their checksum"));
    let well = w.ok(reset(SetStatus::Available, None));
    assert_eq!((well.status, well.checksum_errors), (VolumeStatus::Available, 0));
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_volume_that_is_being_filled_is_seen_but_not_used() {
    let w = World::new();
    w.create("old", MIB);
    let new = CreateStaging { volume: "new".into(), size: MIB, ..CreateStaging::default() };
    let staging = w.ok(w.engine.create_staging(new));
    let over = CreateStaging { volume: "old".into(), over: true, size: MIB, ..CreateStaging::default() };
    w.ok(w.engine.create_staging(over));
    let seen = w.ok(w.engine.volumes(VolumeQuery::default())).volumes;
    let seen: Vec<_> = seen.iter().map(|volume| (&*volume.name, volume.status)).collect();
    assert_eq!(seen, [("new", VolumeStatus::Creating), ("old", VolumeStatus::RestoringBackup)]);
    assert_eq!(w.code(w.engine.volume("new".into())), ErrorCode::NotFound, "it is not there yet");
    assert_eq!(
        w.code(w.engine.delete_volume("new".into(), DeleteVolumeQuery::default())),
        ErrorCode::NotFound
    );
    w.ok(w.engine.complete_staging(staging.id));
    assert_eq!(w.ok(w.engine.volume("new".into())).status, VolumeStatus::Available);
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_is_being_restored_keeps_its_name_and_its_volume() {
    let w = World::new();
    w.create("old", MIB);
    w.create("other", MIB);
    w.snapshot("old", "s");
    let new = CreateStaging { volume: "new".into(), size: MIB, ..CreateStaging::default() };
    let over = CreateStaging { volume: "old".into(), over: true, size: MIB, ..CreateStaging::default() };
    let new_one = w.ok(w.engine.create_staging(new.clone()));
    let over_one = w.ok(w.engine.create_staging(over.clone()));
    // What is there at the end is what was asked for at the beginning.
    let renamed = |to: &str| EditVolume { name: Some(to.into()), ..EditVolume::default() };
    assert_eq!(w.code(w.engine.create_volume(blank("new"))), ErrorCode::Exists);
    assert_eq!(w.code(w.engine.edit_volume("other".into(), renamed("new"))), ErrorCode::Exists);
    assert_eq!(w.code(w.engine.create_staging(new)), ErrorCode::Exists);
    assert_eq!(w.code(w.engine.create_staging(over)), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.edit_volume("old".into(), renamed("older"))), ErrorCode::Busy);
    let protected = EditVolume { write_protected: Some(true), ..EditVolume::default() };
    assert_eq!(w.code(w.engine.edit_volume("old".into(), protected)), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.resize_volume("old".into(), 2 * MIB)), ErrorCode::Busy);
    assert_eq!(w.code(w.engine.delete_volume("old".into(), World::with_snapshots())), ErrorCode::Busy);
    let rolled_back = w.engine.rollback("old".into(), "s".into(), Rollback::default());
    assert_eq!(w.code(rolled_back), ErrorCode::Busy);
    w.snapshot("old", "t");
    let described = EditVolume { description: Some("d".into()), ..EditVolume::default() };
    w.ok(w.engine.edit_volume("old".into(), described));

    w.ok(w.engine.complete_staging(new_one.id));
    w.ok(w.engine.complete_staging(over_one.id));
    w.ok(w.engine.edit_volume("old".into(), renamed("older")));
    w.ok(w.engine.delete_volume("new".into(), DeleteVolumeQuery::default()));
    w.ok(w.engine.create_volume(blank("new")));
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_type_stays_as_long_as_a_volume_of_it_may_come_back() {
    let w = World::new();
    let gold = CreateType { name: "gold".into(), ..CreateType::default() };
    w.ok(w.engine.create_type(gold));
    w.ok(w.engine.create_volume(CreateVolume { volume_type: Some("gold".into()), ..blank("a") }));
    w.ok(w.engine.set_recycle_bin(SetRecycleBin { keep_seconds: 60 }));
    w.ok(w.engine.delete_volume("a".into(), DeleteVolumeQuery::default()));
    assert_eq!(w.code(w.engine.delete_type("gold".into())), ErrorCode::Busy);
    let id = w.ok(w.engine.recycle_bin()).volumes[0].id.clone();
    w.ok(w.engine.purge(id));
    w.ok(w.engine.delete_type("gold".into()));
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_snapshot_says_what_becomes_of_it() {
    let w = World::new();
    w.create("a", MIB);
    let of_backup = CreateSnapshot { name: "b".into(), for_backup: true, ..CreateSnapshot::default() };
    assert!(w.ok(w.engine.create_snapshot("a".into(), of_backup)).automatic);
    w.snapshot("a", "s");
    let status = |name: &str| w.ok(w.engine.snapshot("a".into(), name.into())).status;
    let volume = || w.ok(w.engine.volume("a".into())).status;
    assert_eq!((status("b"), status("s")), (SnapshotStatus::Available, SnapshotStatus::Available));
    let reader = w.client("a@s", 1, 0).expect("free");
    assert_eq!((status("s"), volume()), (SnapshotStatus::InUse, VolumeStatus::Available));
    World::leave(&reader);
    let reader = w.client("a@b", 1, 0).expect("free");
    assert_eq!((status("b"), volume()), (SnapshotStatus::BackingUp, VolumeStatus::BackingUp));
    World::leave(&reader);
    assert_eq!(volume(), VolumeStatus::Available);

    let reset = |status, reason: Option<&str>| {
        let request = ResetSnapshotStatus { status, reason: reason.map(str::to_owned) };
        w.engine.reset_snapshot_status("a".into(), "s".into(), request)
    };
    let bad = w.ok(reset(SetSnapshotStatus::Error, Some("half of a migration")));
    assert_eq!((bad.status, bad.reason.as_deref()), (SnapshotStatus::Error, Some("half of a migration")));
    assert!(w.ok(reset(SetSnapshotStatus::Error, None)).reason.is_some());
    let in_error = SnapshotQuery { status: Some(SnapshotStatus::Error), ..SnapshotQuery::default() };
    assert_eq!(w.ok(w.engine.snapshots(in_error)).snapshots.len(), 1);
    assert_eq!(w.code(reset(SetSnapshotStatus::Available, Some("why"))), ErrorCode::Conflict);
    let well = w.ok(reset(SetSnapshotStatus::Available, None));
    assert_eq!((well.status, well.reason), (SnapshotStatus::Available, None));
    let nobody = ResetSnapshotStatus { status: SetSnapshotStatus::Error, reason: None };
    let missing = w.engine.reset_snapshot_status("a".into(), "no".into(), nobody);
    assert_eq!(w.code(missing), ErrorCode::NotFound);
    w.reactor.join().expect("ends in order");
}

#[test]
fn use_that_is_being_ended_is_shown() {
    let w = World::new();
    w.create("a", MIB);
    let client = w.client("a", 1, usize::MAX).expect("is let in");
    let target = Target::Head { volume: "a".into() };
    let closed = w.sessions.close(target.clone()).expect("nobody holds it");
    assert_eq!(w.ok(w.engine.volume("a".into())).status, VolumeStatus::Detaching);
    drop(closed);
    assert_eq!(w.ok(w.engine.volume("a".into())).status, VolumeStatus::InUse);
    World::leave(&client);
    let unnamed = Consumer::Kernel { device: String::new() };
    w.sessions.pin(target, &unnamed, || Some(false)).expect("free");
    assert_eq!(w.ok(w.engine.volume("a".into())).status, VolumeStatus::Attaching);
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_is_held_is_not_deleted() {
    let w = World::new();
    w.create("a", MIB);
    w.create("b", MIB);
    w.snapshot("a", "s");
    let hold = |name: &str, reason: &str| CreateHold { name: name.into(), reason: reason.into() };
    let held = w.ok(w.engine.hold_snapshot("a".into(), "s".into(), hold("audit", "until May")));
    assert_eq!((&*held.holds[0].name, &*held.holds[0].reason), ("audit", "until May"));
    assert_eq!(w.code(w.engine.hold_snapshot("a".into(), "s".into(), hold("audit", ""))), ErrorCode::Exists);
    assert_eq!(
        w.code(w.engine.hold_snapshot("a".into(), "s".into(), hold("a b", ""))),
        ErrorCode::InvalidArgument
    );
    assert_eq!(w.code(w.engine.hold_snapshot("a".into(), "t".into(), hold("x", ""))), ErrorCode::NotFound);
    w.ok(w.engine.hold_snapshot("a".into(), "s".into(), hold("legal", "")));
    let refused = w.wait(w.engine.delete_snapshot("a".into(), "s".into())).expect_err("it is held");
    assert_eq!(refused.code, ErrorCode::Held);
    assert_eq!(refused.message, "the snapshot 'a@s' is held by 'audit' (until May) and 1 more");
    assert_eq!(refused.hint.as_deref(), Some("release it first: cairn snapshot release a s audit"));
    assert_eq!(w.code(w.engine.delete_volume("a".into(), World::with_snapshots())), ErrorCode::Held);
    let query = SnapshotQuery { held: Some(true), ..SnapshotQuery::default() };
    assert_eq!(w.ok(w.engine.snapshots(query)).snapshots.len(), 1);

    // What is held may be called otherwise.
    let edit = EditSnapshot { name: Some("kept".into()), ..EditSnapshot::default() };
    assert_eq!(w.ok(w.engine.edit_snapshot("a".into(), "s".into(), edit)).holds.len(), 2);
    let release = |name: &str| w.engine.release_snapshot("a".into(), "kept".into(), name.into());
    assert_eq!(w.ok(release("audit")).holds.len(), 1);
    assert_eq!(w.code(release("audit")), ErrorCode::NotFound);
    assert_eq!(w.ok(release("legal")).holds, []);
    w.ok(w.engine.delete_snapshot("a".into(), "kept".into()));
    w.reactor.join().expect("ends in order");
}

#[test]
fn snapshots_are_edited_and_tagged() {
    let w = World::new();
    w.create("a", MIB);
    w.create("b", MIB);
    let members = ["a", "b"].map(|volume| GroupMember { volume: volume.into(), name: "s".into() }).into();
    let group = CreateGroup {
        members,
        description: "both".into(),
        tags: tags(&[("env", "prod")]),
        client_token: None,
    };
    let made = w.ok(w.engine.create_group(group)).snapshots;
    assert!(made.iter().all(|snapshot| snapshot.tags == tags(&[("env", "prod")])), "{made:?}");
    let edit = EditSnapshot {
        name: Some("t".into()),
        description: Some("one".into()),
        tags: changes(&[("env", Some("test")), ("x", Some(""))]),
    };
    let edited = w.ok(w.engine.edit_snapshot("a".into(), "s".into(), edit.clone()));
    assert_eq!((&*edited.name, &*edited.description), ("t", "one"));
    assert_eq!(edited.tags, tags(&[("env", "test"), ("x", "")]));
    assert_eq!(w.ok(w.engine.snapshot("b".into(), "s".into())).tags, tags(&[("env", "prod")]));
    assert_eq!(w.code(w.engine.edit_snapshot("a".into(), "s".into(), edit.clone())), ErrorCode::NotFound);
    let client = w.client("a@t", 1, usize::MAX).expect("is let in");
    assert_eq!(w.ok(w.engine.snapshot("a".into(), "t".into())).status, SnapshotStatus::InUse);
    let renamed = EditSnapshot { name: Some("u".into()), ..edit.clone() };
    assert_eq!(w.code(w.engine.edit_snapshot("a".into(), "t".into(), renamed)), ErrorCode::Busy);
    w.ok(w.engine.edit_snapshot("a".into(), "t".into(), edit));
    World::leave(&client);
    w.reactor.join().expect("ends in order");
}

#[test]
fn images_are_tagged_and_asked_for_by_what_is_said() {
    let w = World::new();
    w.create("a", MIB);
    let image = |name: &str, os_type: Option<&str>, said: Tags| CreateImage {
        name: name.into(),
        volume: "a".into(),
        snapshot: None,
        fields: ImageFields { os_type: os_type.map(str::to_owned), tags: said, ..ImageFields::default() },
    };
    let made = w.ok(w.engine.create_image(image("debian", Some("linux"), tags(&[("release", "13")]))));
    assert_eq!(made.tags, tags(&[("release", "13")]));
    w.ok(w.engine.create_image(image("haiku", None, tags(&[("release", "r1"), ("small", "")]))));
    let bad = w.engine.create_image(image("x", None, tags(&[("a b", "")])));
    assert_eq!(w.code(bad), ErrorCode::InvalidArgument);
    let fields = ImageFields { tags: tags(&[("release", "13")]), protected: true, ..ImageFields::default() };
    let import = CreateImport {
        name: "raw".into(),
        size: MIB,
        format: ImageFormat::Raw,
        file: "disk.img".into(),
        fields,
        pool: None,
    };
    assert_eq!(w.ok(w.engine.create_import(import)).image.tags, tags(&[("release", "13")]));

    let list = |query| {
        let list = w.ok(w.engine.images(query));
        let names = list.images.into_iter().map(|image| image.name).collect::<Vec<_>>().join(" ");
        (names, list.next)
    };
    let all = ImageQuery::default;
    assert_eq!(list(all()), ("debian haiku raw".into(), None));
    let tagged = |tag: &[&str]| ImageQuery { tag: tag.iter().map(|&tag| tag.into()).collect(), ..all() };
    assert_eq!(list(tagged(&["release=13"])).0, "debian raw");
    assert_eq!(list(tagged(&["release", "small"])).0, "haiku");
    assert_eq!(list(ImageQuery { status: Some(ImageStatus::Importing), ..all() }).0, "raw");
    assert_eq!(list(ImageQuery { os_type: Some("linux".into()), ..all() }).0, "debian");
    assert_eq!(list(ImageQuery { protected: Some(true), ..all() }).0, "raw");
    assert_eq!(list(ImageQuery { pool: Some("other".into()), ..all() }).0, "");
    assert_eq!(list(ImageQuery { search: Some("IK".into()), ..all() }).0, "haiku");
    let page = |after: Option<&str>| ImageQuery {
        sort: Some("-created".into()),
        limit: Some(2),
        after: after.map(str::to_owned),
        ..all()
    };
    assert_eq!(list(page(None)), ("raw haiku".into(), Some("haiku".into())));
    assert_eq!(list(page(Some("haiku"))), ("debian".into(), None));
    assert_eq!(
        w.code(w.engine.images(ImageQuery { sort: Some("colour".into()), ..all() })),
        ErrorCode::InvalidArgument
    );

    let edit = EditImage { tags: changes(&[("release", None), ("x", Some("y"))]), ..EditImage::default() };
    let edited = w.ok(w.engine.edit_image("debian".into(), edit));
    assert_eq!((edited.tags, edited.os_type.as_deref()), (tags(&[("x", "y")]), Some("linux")));
    let renamed = EditImage { name: Some("bookworm".into()), ..EditImage::default() };
    assert_eq!(w.ok(w.engine.edit_image("debian".into(), renamed)).tags, tags(&[("x", "y")]));
    // What is said of an image is not said of what begins as it.
    let volume = CreateVolume { image: Some("bookworm".into()), ..blank("b") };
    assert_eq!(w.ok(w.engine.create_volume(volume)).tags, Tags::new());
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_request_that_is_sent_again_with_its_token_makes_nothing_new() {
    let w = World::new();
    let token = |token: &str| Some(token.to_owned());
    let new = CreateVolume { client_token: token("t-1"), tags: tags(&[("env", "prod")]), ..blank("a") };
    let made = w.ok(w.engine.create_volume(new.clone()));
    assert_eq!(w.ok(w.engine.create_volume(new.clone())).id, made.id);
    let edit = EditVolume { name: Some("b".into()), ..EditVolume::default() };
    w.ok(w.engine.edit_volume("a".into(), edit));
    let again = w.ok(w.engine.create_volume(new.clone()));
    assert_eq!((again.id, &*again.name), (made.id, "b"), "as it is by now");
    let other = CreateVolume { size: Some(2 * MIB), ..new.clone() };
    let refused = w.wait(w.engine.create_volume(other)).expect_err("another request");
    assert_eq!(refused.code, ErrorCode::Exists);
    assert_eq!(refused.message, "the client token 't-1' was sent with another request before");
    for bad in ["", "a b", "ä", &"x".repeat(65)] {
        let request = CreateVolume { client_token: token(bad), ..blank("c") };
        assert_eq!(w.code(w.engine.create_volume(request)), ErrorCode::InvalidArgument, "{bad}");
    }
    // Without one, a name is a name.
    assert_eq!(w.code(w.engine.create_volume(blank("b"))), ErrorCode::Exists);

    w.create("c", MIB);
    let snapshot =
        CreateSnapshot { name: "s".into(), client_token: token("t-2"), ..CreateSnapshot::default() };
    let taken = w.ok(w.engine.create_snapshot("b".into(), snapshot.clone()));
    assert_eq!(w.ok(w.engine.create_snapshot("b".into(), snapshot.clone())), taken);
    assert_eq!(
        w.code(w.engine.create_snapshot("c".into(), snapshot)),
        ErrorCode::Exists,
        "of another volume"
    );
    let members = ["b", "c"].map(|volume| GroupMember { volume: volume.into(), name: "g".into() }).into();
    let group =
        CreateGroup { members, description: String::new(), tags: Tags::new(), client_token: token("t-3") };
    let both = w.ok(w.engine.create_group(group.clone())).snapshots;
    assert_eq!(w.ok(w.engine.create_group(group)).snapshots, both);

    // It is kept with what was made, and goes with it.
    w.ok(w.engine.delete_volume("b".into(), World::with_snapshots()));
    let anew = w.ok(w.engine.create_volume(new));
    assert!(anew.id != made.id && anew.name == "a");
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_was_deleted_can_be_had_back_for_a_while() {
    let w = World::new();
    w.create("a", MIB);
    w.write("a", 3, 7);
    w.snapshot("a", "s");
    let bin = || w.ok(w.engine.recycle_bin());
    let keep = |keep_seconds| w.engine.set_recycle_bin(SetRecycleBin { keep_seconds });
    let delete = |name: &str| w.engine.delete_volume(name.into(), World::with_snapshots());
    let recover =
        |id: &str, name: Option<&str>| w.engine.recover(id.into(), Recover { name: name.map(str::to_owned) });
    assert_eq!(bin().keep_seconds, 0);
    assert_eq!(w.ok(keep(86_400)).keep_seconds, 86_400);
    assert_eq!(w.code(keep(u64::MAX)), ErrorCode::InvalidArgument);

    let without = w.engine.delete_volume("a".into(), DeleteVolumeQuery::default());
    assert_eq!(w.code(without), ErrorCode::HasSnapshots, "as without a bin");
    w.ok(delete("a"));
    let volumes = || names(w.ok(w.engine.volumes(VolumeQuery::default())).volumes);
    assert_eq!(volumes(), [""; 0]);
    assert_eq!(w.ok(w.engine.snapshots(SnapshotQuery::default())).snapshots, []);
    assert_eq!(w.code(w.engine.volume("a".into())), ErrorCode::NotFound);
    let held = &bin().volumes[0];
    assert_eq!((&*held.name, held.size, held.snapshots), ("a", MIB, 1));
    assert_eq!(held.expires.as_second() - held.deleted.as_second(), 86_400);
    assert_eq!(w.code(w.engine.volume(held.id.clone())), ErrorCode::NotFound, "nor by what it is called now");
    assert_eq!(w.code(keep(0)), ErrorCode::Busy);

    // Its name is free meanwhile, and then it needs another.
    w.create("a", MIB);
    assert_eq!(w.code(recover(&held.id, None)), ErrorCode::Exists);
    assert_eq!(w.code(recover("no", None)), ErrorCode::NotFound);
    let back = w.ok(recover(&held.id, Some("b")));
    assert_eq!((&*back.name, back.snapshots), ("b", 1));
    w.read("b", 3).expect("is there");
    assert_eq!(bin().volumes, []);

    w.ok(delete("a"));
    w.ok(delete("b"));
    let order: Vec<_> = bin().volumes.into_iter().map(|volume| volume.name).collect();
    assert_eq!(order, ["b", "a"], "the last first");
    w.ok(w.engine.expire());
    assert_eq!(bin().volumes.len(), 2);
    w.ok(w.engine.purge(bin().volumes[0].id.clone()));
    assert_eq!(w.code(w.engine.purge("b".into())), ErrorCode::NotFound);
    w.ok(keep(1));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    w.ok(w.engine.expire());
    assert_eq!(bin().volumes, []);
    w.create("c", MIB);
    let permanent = DeleteVolumeQuery { permanent: true, ..DeleteVolumeQuery::default() };
    w.ok(w.engine.delete_volume("c".into(), permanent));
    assert_eq!(bin().volumes, []);
    let query = EventQuery { kind: Some("volume".into()), limit: Some(2), ..EventQuery::default() };
    let told: Vec<_> =
        w.engine.events().list(&query, &Scope::All).events.into_iter().map(|event| event.message).collect();
    assert_eq!(told, ["volume c (1.0 MiB) is there", "volume c was deleted"]);
    w.reactor.join().expect("ends in order");
}
