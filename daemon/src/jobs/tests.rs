use std::sync::Arc;

use cairn_api::event::EventQuery;
use cairn_api::job::{JobProgress, JobResult};
use cairn_api::pool::{CheckReport, Loss, LossKind, Scrub, ScrubState};
use cairn_cow::sim::SimDisk;
use cairn_cow::{CreateOptions, MAX_ATTRIBUTE_VALUE, Options};
use cairn_uring::{Config, Reactor};

use super::*;
use crate::access::Scope;

fn job(number: usize) -> Job {
    let begun = Timestamp::from_second(number as i64).expect("a time");
    of_check(job_id(JobKind::Check, &format!("{number:012x}")), "main", begun, JobProgress::default())
}

fn damaged() -> CheckReport {
    let loss = |offset| Loss {
        volume: "v".repeat(128),
        snapshot: Some("s".repeat(128)),
        offset,
        len: 4096,
        kind: LossKind::Data,
    };
    CheckReport {
        error_count: 1 << 40,
        errors: vec!["a sentence about a block that cannot be read".repeat(3); 100],
        losses: (0..10_000).map(loss).collect(),
        ..CheckReport::default()
    }
}

fn on_a_pool<T>(limit: u64, test: impl AsyncFnOnce(Arc<Pool<SimDisk>>) -> T) -> T {
    let mut reactor = Reactor::new(Config::default()).expect("a reactor");
    let create = CreateOptions { limit, journal_bytes: None, segment_blocks: None };
    let options =
        Options { lanes: 1, map_cache_bytes: 1 << 20, read_cache_bytes: 1 << 20, ..Options::default() };
    reactor.block_on(async {
        let pool = Pool::create(SimDisk::file(1 << 30), [7; 16], create, options).await.expect("a pool");
        test(pool).await
    })
}

#[test]
fn ids_are_of_the_kind_and_the_digits() {
    assert_eq!(job_id(JobKind::Import, "staged-00112233445566778899aabbccddeeff"), "import-001122334455");
    assert_eq!(job_id(JobKind::Restore, "restore-0011"), "restore-0011");
    assert_eq!(job_id(JobKind::Check, ""), "check-");
    assert_eq!(job_id(JobKind::Check, "äöüäöüä"), "check-äöüäöü");
}

#[test]
fn what_is_kept_is_short_and_says_as_much_as_it_can() {
    let result = |check| Some(JobResult { check: Some(check), scrub: None });
    let long = shortened(&Job { result: result(damaged()), ..job(1) });
    assert!(encode(&long).len() <= 1024, "{}", encode(&long).len());
    let check = long.result.expect("a result").check.expect("a check's");
    assert!(check.error_count == 1 << 40 && !check.errors.is_empty(), "{check:?}");
    let small = Job { result: result(CheckReport::default()), ..job(1) };
    assert_eq!(shortened(&small), small);
    let why = ApiError::new(cairn_api::error::ErrorCode::Io, "ä".repeat(5000));
    let failed = shortened(&ended(job(1), JobState::Failed, Some(why)));
    assert!(encode(&failed).len() < MAX_ATTRIBUTE_VALUE);
}

#[test]
fn scrubs_are_jobs_whatever_has_become_of_them() {
    let scrub = |state, error: Option<&str>| Scrub {
        pool: "main".into(),
        job: Some("scrub-1".into()),
        state,
        started: Some(Timestamp::UNIX_EPOCH),
        ended: None,
        rate: None,
        read: 1,
        total: 2,
        nodes: 0,
        data_blocks: 0,
        fault_count: 0,
        faults: Vec::new(),
        error: error.map(str::to_owned),
    };
    let state = |state| of_scrub(&scrub(state, None)).map(|job| (job.state, job.result.is_some()));
    assert_eq!(state(ScrubState::None), None);
    assert_eq!(state(ScrubState::Running), Some((JobState::Running, false)));
    assert_eq!(state(ScrubState::Finished), Some((JobState::Done, true)));
    assert_eq!(state(ScrubState::Stopped), Some((JobState::Cancelled, true)));
    let failed = of_scrub(&scrub(ScrubState::Failed, Some("gone"))).expect("a job");
    assert_eq!((failed.state, &*failed.error.expect("why").message), (JobState::Failed, "gone"));
    assert_eq!(
        of_scrub(&Scrub { job: None, ..scrub(ScrubState::Finished, None) }),
        None,
        "of an older daemon"
    );
}

#[test]
fn the_next_daemon_knows_what_has_ended_and_what_was_interrupted() {
    on_a_pool(1 << 30, async |pool| {
        let (jobs, events) = (Jobs::default(), Events::default());
        jobs.begin(&pool, &job(1)).await;
        assert_eq!(jobs.get(&job(1).id), None, "what is under way says so itself");
        jobs.end(&pool, ended(job(1), JobState::Done, None)).await;
        jobs.begin(&pool, &job(2)).await;
        let next = Jobs::default();
        next.load(&pool, &events).await;
        assert_eq!(next.get(&job(1).id), jobs.get(&job(1).id));
        let second = next.get(&job(2).id).expect("is kept");
        assert_eq!((second.state, second.ended), (JobState::Interrupted, None));
        let told = events
            .list(&EventQuery { kind: Some("job".into()), ..EventQuery::default() }, &Scope::All)
            .events;
        let told: Vec<_> = told.iter().map(|event| (&*event.message, event.job.as_deref())).collect();
        assert_eq!(told, [("check of pool main has ended: interrupted", Some(&*second.id))]);
        // It is kept, and not told again.
        let (third, silent) = (Jobs::default(), Events::default());
        third.load(&pool, &silent).await;
        assert_eq!(third.get(&second.id), Some(second));
        assert!(silent.list(&EventQuery::default(), &Scope::All).events.is_empty());
    });
}

#[test]
fn the_oldest_are_forgotten_and_only_the_latest_are_whole() {
    on_a_pool(1 << 30, async |pool| {
        let jobs = Jobs::default();
        for number in 0..MOST_ENDED + 5 {
            let found = JobResult { check: Some(damaged()), scrub: None };
            let result = Some(found).filter(|_| number + 2 * MOST_WHOLE > MOST_ENDED);
            let time = Timestamp::from_second(1000 + number as i64).expect("a time");
            let done = Job { result, ..ended(job(number), JobState::Done, None) };
            jobs.end(&pool, Job { ended: Some(time), ..done }).await;
        }
        let keys = |pool: &Pool<SimDisk>| {
            let kept = pool.attributes(Holder::Pool).expect("the pool's");
            kept.iter().filter(|(key, _)| key.starts_with(JOB_PREFIX)).count()
        };
        assert_eq!((jobs.ended().len(), keys(&pool)), (MOST_ENDED, MOST_ENDED));
        assert_eq!(jobs.get(&job(4).id), None);
        assert!(jobs.get(&job(5).id).is_some());
        let losses = |number: usize| {
            let job = jobs.get(&job(number).id).expect("is there");
            job.result.and_then(|result| result.check).map_or(0, |check| check.losses.len())
        };
        assert_eq!(losses(MOST_ENDED + 4), 10_000);
        assert_eq!(losses(MOST_ENDED + 4 - MOST_WHOLE + 1), 10_000);
        assert!(losses(MOST_ENDED + 4 - MOST_WHOLE) < 100);
        let next = Jobs::default();
        next.load(&pool, &Events::default()).await;
        assert_eq!(next.ended().len(), MOST_ENDED);
    });
}

#[test]
fn in_a_small_pool_jobs_leave_room_for_settings() {
    on_a_pool(64 << 20, async |pool| {
        let jobs = Jobs::default();
        for number in 0..MOST_ENDED {
            let result = JobResult { check: Some(damaged()), scrub: None };
            let time = Timestamp::from_second(1000 + number as i64).expect("a time");
            let done = Job { result: Some(result), ..ended(job(number), JobState::Done, None) };
            jobs.end(&pool, Job { ended: Some(time), ..done }).await;
        }
        assert!(jobs.get(&job(MOST_ENDED - 1).id).is_some(), "the latest is known, whatever room there is");
        let next = Jobs::default();
        next.load(&pool, &Events::default()).await;
        assert!((1..100).contains(&next.ended().len()), "{} are kept", next.ended().len());
        assert_eq!(next.ended().len(), jobs.ended().len(), "each was kept");
        let room = pool.set_attributes(Holder::Pool, &[("type/fast", Some(&"x".repeat(1000)))]).await;
        room.expect("there is room for types");
    });
}
