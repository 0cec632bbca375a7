//! Jobs: what takes its time, from its beginning to what is kept of it.

use std::time::Duration;

use cairn_api::error::ErrorCode;
use cairn_api::event::EventQuery;
use cairn_api::image::{CreateImport, ImageFields, ImageFormat};
use cairn_api::job::{Job, JobKind, JobQuery, JobState};
use cairn_api::pool::{CreatePool, ScrubState, StartScrub};
use cairn_api::staging::CreateStaging;
use cairn_cow::BLOCK_SIZE;
use cairnd::access::Scope;
use cairnd::control::Engine;

use crate::world::{MIB, World};

fn import(name: &str) -> CreateImport {
    CreateImport {
        name: name.into(),
        size: MIB,
        format: ImageFormat::Raw,
        file: "disk.img".into(),
        fields: ImageFields::default(),
        pool: None,
    }
}

fn list(w: &World, query: JobQuery) -> Vec<Job> {
    w.ok(w.engine.jobs(query)).jobs
}

fn told(w: &World) -> Vec<(&'static str, Option<String>)> {
    let events = w.engine.events().list(&EventQuery::default(), &Scope::All).events;
    let of_job = events.into_iter().filter(|event| event.job.is_some());
    of_job.map(|event| (event.kind.as_str(), event.job)).collect()
}

#[test]
fn a_check_is_a_job_with_a_report() {
    let w = World::new();
    w.create("a", MIB);
    w.write("a", 3, 0x5a);
    let begun = w.ok(w.engine.start_check(None, true));
    assert_eq!((begun.kind, begun.state, &*begun.pool), (JobKind::Check, JobState::Running, "main"));
    assert!(begun.id.starts_with("check-") && begun.ended.is_none() && begun.result.is_none(), "{begun:?}");
    let done = w.ended(&begun.id);
    assert_eq!((done.state, done.begun), (JobState::Done, begun.begun));
    assert!(done.ended >= Some(done.begun) && done.error.is_none(), "{done:?}");
    let report = done.result.clone().and_then(|result| result.check).expect("a report");
    assert_eq!((report.clean, report.data_verified), (true, 1));
    let read = (report.nodes + report.data_verified) * BLOCK_SIZE;
    assert_eq!((done.progress.done, done.progress.total), (read, Some(read)));
    assert_eq!(w.ok(w.engine.cancel_job(done.id.clone())), done, "what has ended stays as it is");
    w.damage(0x5a);
    let bad = w.ok(w.engine.start_check(Some("main".into()), true));
    let bad = w.ended(&bad.id);
    assert_eq!(bad.state, JobState::Done, "it was done, and what it found is in its result");
    assert_eq!(bad.result.and_then(|result| result.check).map(|report| report.clean), Some(false));
    assert_eq!(
        told(&w),
        [
            ("job.begun", &done.id),
            ("pool.checked", &done.id),
            ("job.begun", &bad.id),
            ("pool.checked", &bad.id)
        ]
        .map(|(kind, id)| (kind, Some(id.clone())))
    );
    assert_eq!(w.code(w.engine.job("check-0".into())), ErrorCode::NotFound);
    assert_eq!(w.code(w.engine.cancel_job("check-0".into())), ErrorCode::NotFound);
    w.reactor.join().expect("ends in order");
}

#[test]
fn a_scrub_is_a_job_that_can_be_cancelled() {
    let w = World::new();
    w.create("a", MIB);
    w.write("a", 3, 0x5a);
    let slow = StartScrub { rate: Some(1) };
    let scrub = w.ok(w.engine.start_scrub(None, slow.clone()));
    let id = scrub.job.expect("its job");
    let job = w.ok(w.engine.job(id.clone()));
    assert_eq!(
        (job.kind, job.state, job.progress.total),
        (JobKind::Scrub, JobState::Running, Some(scrub.total))
    );
    // It goes on meanwhile.
    let listed = list(&w, JobQuery::default()).into_iter().map(|job| (job.id, job.state));
    assert_eq!(listed.collect::<Vec<_>>(), [(id.clone(), JobState::Running)]);
    let cancelled = w.ok(w.engine.cancel_job(id.clone()));
    assert_eq!((cancelled.state, cancelled.begun), (JobState::Cancelled, job.begun));
    let shown = w.ok(w.engine.scrub(None));
    assert_eq!((shown.state, shown.job.as_deref()), (ScrubState::Stopped, Some(&*id)), "both say the same");
    assert_eq!(cancelled.result.and_then(|result| result.scrub), Some(shown));
    // The next one is another job, which the first one's id does not end.
    let second = w.ok(w.engine.start_scrub(None, slow)).job.expect("its job");
    assert_eq!(w.ok(w.engine.cancel_job(id)).state, JobState::Cancelled);
    assert_eq!(w.ok(w.engine.job(second)).state, JobState::Running);
    assert_eq!(w.ok(w.engine.stop_scrub(None)).state, ScrubState::Stopped);
    w.reactor.join().expect("ends in order");
}

#[test]
fn what_clients_fill_is_a_job_until_it_is_complete_or_given_up() {
    let w = World::new();
    let web = w.ok(w.engine.create_import(import("web")));
    w.write(&w.kept_as("web"), 0, 1);
    let job = w.ok(w.engine.job(web.job.clone()));
    assert_eq!(
        (job.kind, job.state, job.image.as_deref()),
        (JobKind::Import, JobState::Running, Some("web"))
    );
    assert_eq!((job.progress.done, job.progress.total), (BLOCK_SIZE, None), "zeroes are not written");
    w.ok(w.engine.complete_import("web".into()));
    let done = w.ok(w.engine.job(web.job.clone()));
    assert_eq!((done.state, done.begun, done.progress.done), (JobState::Done, job.begun, BLOCK_SIZE));

    // Whoever writes is cut off.
    let other = w.ok(w.engine.create_import(import("other")));
    let writer = w.consumer(&w.kept_as("other"), 1, usize::MAX, true).expect("a writer");
    let cancelled = w.ok(w.engine.cancel_job(other.job.clone()));
    assert_eq!((cancelled.state, cancelled.image.as_deref()), (JobState::Cancelled, Some("other")));
    assert_eq!(w.code(w.engine.image("other".into())), ErrorCode::NotFound);
    World::leave(&writer);

    w.create("old", MIB);
    let new = CreateStaging { volume: "new".into(), size: MIB, ..CreateStaging::default() };
    let over = CreateStaging { volume: "old".into(), over: true, ..new.clone() };
    let (new, over) = (w.ok(w.engine.create_staging(new)), w.ok(w.engine.create_staging(over)));
    let of = |volume: &str| JobQuery { volume: Some(volume.into()), ..JobQuery::default() };
    assert_eq!(list(&w, of("new")).iter().map(|job| &job.id).collect::<Vec<_>>(), [&new.job]);
    w.ok(w.engine.complete_staging(new.id));
    assert_eq!(w.ok(w.engine.job(new.job)).state, JobState::Done);
    let third = CreateStaging { volume: "third".into(), size: MIB, ..CreateStaging::default() };
    let third = w.ok(w.engine.create_staging(third));
    w.ok(w.engine.cancel_staging(third.id));
    assert_eq!(w.ok(w.engine.job(third.job.clone())).state, JobState::Cancelled);
    w.ok(w.engine.complete_staging(over.id));
    assert_eq!(list(&w, of("old")).iter().map(|job| job.state).collect::<Vec<_>>(), [JobState::Done]);
    let ends = told(&w).into_iter().filter(|(kind, _)| *kind == "job.ended").map(|(_, id)| id);
    assert_eq!(
        ends.collect::<Vec<_>>(),
        [Some(other.job), Some(third.job)],
        "the others' ends are told otherwise"
    );
    w.reactor.join().expect("ends in order");
}

#[test]
fn lists_show_the_latest_first_and_only_what_is_asked_for() {
    let w = World::new();
    let bulk = CreatePool { name: "bulk".into(), path: "/b".into(), limit: None };
    w.ok(w.engine.create_pool(bulk));
    let mut ids = Vec::new();
    for pool in ["main", "bulk", "main"] {
        let id = w.ok(w.engine.start_check(Some(pool.into()), false)).id;
        w.ended(&id);
        ids.push(id);
        std::thread::sleep(Duration::from_millis(2));
    }
    let import = w.ok(w.engine.create_import(import("web"))).job;
    let found = |query| list(&w, query).into_iter().map(|job| job.id).collect::<Vec<_>>();
    let all = JobQuery::default();
    assert_eq!(found(all.clone()), [&import, &ids[2], &ids[1], &ids[0]].map(Clone::clone));
    assert_eq!(found(JobQuery { limit: Some(2), ..all.clone() }), [&import, &ids[2]].map(Clone::clone));
    assert_eq!(found(JobQuery { state: Some(JobState::Running), ..all.clone() }), [&*import]);
    let of_main = JobQuery { kind: Some(JobKind::Check), pool: Some("main".into()), ..all.clone() };
    assert_eq!(found(of_main), [&ids[2], &ids[0]].map(Clone::clone));
    assert_eq!(found(JobQuery { image: Some("web".into()), ..all.clone() }), [&*import]);
    assert_eq!(w.code(w.engine.jobs(JobQuery { limit: Some(0), ..all })), ErrorCode::InvalidArgument);
    // A pool that goes takes what is done to it along, and not what was.
    w.ok(w.engine.remove_pool("bulk".into()));
    assert_eq!(w.ok(w.engine.job(ids[1].clone())).pool, "bulk");
    w.reactor.join().expect("ends in order");
}
