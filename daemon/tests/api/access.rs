//! What those see and may who may not do everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_api::error::ErrorCode;
use cairn_api::event::EventQuery;
use cairn_api::image::{CreateImage, ImageQuery};
use cairn_api::pool::StartScrub;
use cairn_api::recycle::{Recover, SetRecycleBin};
use cairn_api::snapshot::{CreateGroup, CreateSnapshot, GroupMember, SnapshotQuery, TreeKind};
use cairn_api::staging::CreateStaging;
use cairn_api::types::SetVolumeQos;
use cairn_api::volume::{CreateVolume, DeleteVolumeQuery, EditVolume, SnapshotRef, VolumeQuery};
use cairnd::access::{Limits, Scope};
use cairnd::control::{Engine, Guarded};

use crate::world::World;

fn projects(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn within(w: &World, change: &[&str], see: Scope) -> Guarded {
    Guarded::new(w.engine.clone(), Arc::new(Limits { change: projects(change), see }))
}

fn member(w: &World, of: &[&str]) -> Guarded {
    within(w, of, Scope::Only(projects(of)))
}

fn volume(name: &str, project: Option<&str>) -> CreateVolume {
    let project = project.map(str::to_owned);
    CreateVolume { name: name.into(), size: Some(1 << 20), project, ..CreateVolume::default() }
}

/// Two projects with a volume each, `web` and `db`, and a clone of one in the other.
fn world() -> World {
    let w = World::new();
    for name in ["web", "db"] {
        w.ok(w.engine.create_volume(volume(name, Some(name))));
        w.ok(w.engine.create_snapshot(name.into(), CreateSnapshot { name: "s".into(), ..<_>::default() }));
    }
    let source = Some(SnapshotRef { volume: "web".into(), snapshot: "s".into() });
    let clone = CreateVolume { name: "copy".into(), project: Some("db".into()), source, ..<_>::default() };
    w.ok(w.engine.create_volume(clone));
    w
}

#[test]
fn a_member_sees_and_changes_its_own_only() {
    let w = world();
    let web = member(&w, &["web"]);
    let names = |query| -> Vec<String> {
        w.ok(web.volumes(query)).volumes.into_iter().map(|volume| volume.name).collect()
    };
    assert_eq!(names(VolumeQuery::default()), ["web"]);
    assert_eq!(names(VolumeQuery { project: Some("db".into()), ..<_>::default() }), [""; 0]);
    assert_eq!(w.ok(web.snapshots(SnapshotQuery::default())).snapshots.len(), 1);
    assert_eq!(w.ok(web.stats()).volumes.len(), 1);

    // What others have is not there, in the same words.
    let theirs = w.wait(web.volume("db".into())).expect_err("not seen");
    assert_eq!(theirs, {
        let mut none = w.wait(w.engine.volume("dc".into())).expect_err("not there");
        none.message = none.message.replace("dc", "db");
        none
    });
    let not_found = |code| assert_eq!(code, ErrorCode::NotFound);
    not_found(w.code(web.edit_volume("db".into(), EditVolume::default())));
    not_found(w.code(web.resize_volume("db".into(), 1 << 30)));
    not_found(w.code(web.delete_volume("db".into(), DeleteVolumeQuery::default())));
    not_found(w.code(web.snapshot("db".into(), "s".into())));
    not_found(w.code(web.snapshots(SnapshotQuery { volume: Some("db".into()), ..<_>::default() })));
    not_found(
        w.code(web.create_snapshot("db".into(), CreateSnapshot { name: "t".into(), ..<_>::default() })),
    );
    not_found(w.code(web.rollback("db".into(), "s".into(), <_>::default())));
    not_found(w.code(web.passing_snapshot("db".into())));
    not_found(w.code(web.tree("db".into())));
    let source = Some(SnapshotRef { volume: "db".into(), snapshot: "s".into() });
    not_found(w.code(web.create_volume(CreateVolume { name: "stolen".into(), source, ..<_>::default() })));
    let member_of = |volume: &str| GroupMember { volume: volume.into(), name: "g".into() };
    let group = CreateGroup { members: vec![member_of("web"), member_of("db")], ..<_>::default() };
    not_found(w.code(web.create_group(group)));
    let over = CreateStaging { volume: "db".into(), over: true, size: 1 << 20, ..<_>::default() };
    not_found(w.code(web.create_staging(over)));

    // Its own.
    let made = w.ok(web.create_volume(volume("web2", None)));
    assert_eq!(made.project, "web", "the only one that it may be");
    w.ok(web.resize_volume("web".into(), 2 << 20));
    w.ok(web.create_snapshot("web".into(), CreateSnapshot { name: "t".into(), ..<_>::default() }));
    w.ok(web.delete_volume("web2".into(), DeleteVolumeQuery::default()));
    let nodes = w.ok(web.tree("web".into())).nodes;
    let own = |kind: &TreeKind| kind.volume().is_none_or(|volume| volume == "web");
    assert!(nodes.iter().all(|node| own(&node.kind)), "{nodes:?}");
    let whole = w.ok(w.engine.tree("web".into())).nodes;
    assert!(whole.iter().any(|node| node.kind.volume() == Some("copy")), "which there is: {whole:?}");
    for node in &nodes {
        assert!(node.parent.is_none_or(|parent| nodes.iter().any(|node| node.id == parent)));
    }

    // Not into others' projects.
    assert_eq!(w.code(web.create_volume(volume("x", Some("db")))), ErrorCode::Forbidden);
    let moved = EditVolume { project: Some("db".into()), ..<_>::default() };
    assert_eq!(w.code(web.edit_volume("web".into(), moved)), ErrorCode::Forbidden);
    let both = member(&w, &["web", "db"]);
    assert_eq!(w.code(both.create_volume(volume("x", None))), ErrorCode::InvalidArgument);
    let moved = EditVolume { project: Some("db".into()), ..<_>::default() };
    w.ok(both.edit_volume("web".into(), moved));
    assert_eq!(w.code(web.volume("web".into())), ErrorCode::NotFound, "it is others' now");
}

#[test]
fn pages_are_of_what_is_seen() {
    let w = World::new();
    for number in 0..6 {
        let project = if number % 2 == 0 { "even" } else { "odd" };
        w.ok(w.engine.create_volume(volume(&format!("v{number}"), Some(project))));
    }
    let odd = member(&w, &["odd"]);
    let page = |after: Option<&str>| {
        let query = VolumeQuery { limit: Some(2), after: after.map(str::to_owned), ..<_>::default() };
        let list = w.ok(odd.volumes(query));
        (list.volumes.into_iter().map(|volume| volume.name).collect::<Vec<_>>(), list.next)
    };
    assert_eq!(page(None), (vec!["v1".into(), "v3".into()], Some("v3".into())));
    assert_eq!(page(Some("v3")), (vec!["v5".into()], None));
}

#[test]
fn what_belongs_to_nobody_is_the_administrators() {
    let w = world();
    let web = member(&w, &["web", "default"]);
    let image =
        CreateImage { name: "i".into(), volume: "web".into(), snapshot: None, fields: <_>::default() };
    let codes = [
        w.code(web.set_volume_qos("web".into(), SetVolumeQos::default())),
        w.code(web.start_scrub(None, StartScrub::default())),
        w.code(web.start_check(None, false)),
        w.code(web.delete_type("default".into())),
        w.code(web.set_recycle_bin(SetRecycleBin { keep_seconds: 60 })),
        w.code(web.create_image(image)),
        w.code(web.attach("web".into(), <_>::default())),
    ];
    assert_eq!(codes, [ErrorCode::Forbidden; 7]);
    assert_eq!(w.ok(web.images(ImageQuery::default())).images, []);
    assert_eq!((w.ok(web.types()).types.len(), w.ok(web.pools()).pools.len()), (1, 1), "all see these");
}

#[test]
fn a_reader_looks_and_no_more() {
    let w = world();
    let all = within(&w, &[], Scope::All);
    assert_eq!(w.ok(all.volumes(VolumeQuery::default())).volumes.len(), 3);
    let one = within(&w, &[], Scope::Only(projects(&["web"])));
    w.ok(one.volume("web".into()));
    w.ok(one.pool(None));
    for reader in [&all, &one] {
        let changes = [
            w.code(reader.edit_volume("web".into(), EditVolume::default())),
            w.code(reader.delete_volume("web".into(), DeleteVolumeQuery::default())),
            w.code(reader.create_volume(volume("x", None))),
            w.code(reader.create_volume(volume("x", Some("web")))),
            w.code(reader.passing_snapshot("web".into())),
            w.code(reader.create_staging(CreateStaging {
                volume: "x".into(),
                size: 1 << 20,
                ..<_>::default()
            })),
            w.code(reader.complete_staging("x".into())),
        ];
        assert_eq!(changes, [ErrorCode::Forbidden; 7]);
    }
}

#[test]
fn the_recycle_bin_shows_each_its_own() {
    let w = world();
    w.ok(w.engine.set_recycle_bin(SetRecycleBin { keep_seconds: 3600 }));
    w.ok(w.engine.delete_volume("copy".into(), DeleteVolumeQuery::default()));
    let (web, db) = (member(&w, &["web"]), member(&w, &["db"]));
    assert_eq!(w.ok(web.recycle_bin()).volumes, []);
    let id = w.ok(db.recycle_bin()).volumes[0].id.clone();
    assert_eq!(w.code(web.recover(id.clone(), Recover::default())), ErrorCode::NotFound);
    assert_eq!(w.code(web.purge(id.clone())), ErrorCode::NotFound);
    w.ok(db.recover(id, Recover::default()));
    assert_eq!(w.ok(db.volume("copy".into())).project, "db");
}

#[test]
fn events_are_told_to_those_who_see_what_they_are_about() {
    let w = world();
    w.ok(w.engine.delete_volume("copy".into(), DeleteVolumeQuery::default()));
    let events = w.engine.events();
    let of = |scope| -> BTreeSet<(Option<String>, Option<String>)> {
        let list = events.list(&EventQuery::default(), &scope);
        list.events.into_iter().map(|event| (event.project, event.volume)).collect()
    };
    let pair = |project: &str, volume: &str| (Some(project.to_owned()), Some(volume.to_owned()));
    assert_eq!(of(Scope::Only(projects(&["web"]))), BTreeSet::from([pair("web", "web")]));
    let db = BTreeSet::from([pair("db", "copy"), pair("db", "db")]);
    assert_eq!(of(Scope::Only(projects(&["db"]))), db, "those of what is gone, too");
    assert_eq!(of(Scope::Only(BTreeSet::new())), BTreeSet::new());
    assert!(of(Scope::All).len() >= 3);
}
