//! Hosts that die and networks that fail, at every operation there is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::common::stores::{self, Fault, Faulty};
use crate::common::{CHUNK, Volume, assert_same, back_up, quick, restored};
use cairn_backup::{
    BackupId, ErrorKind, GcOptions, KeepRules, Objects, Repository, Result, VerifyOptions, memory,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::tz::TimeZone;

fn read_data() -> VerifyOptions {
    VerifyOptions { read_data: true, ..VerifyOptions::default() }
}

async fn open(store: Arc<dyn Objects>) -> Repository {
    Repository::open_on(store, quick()).await.unwrap()
}

/// A store with three backups of a volume, and the backups.
async fn three_backups() -> (Arc<dyn Objects>, Vec<(BackupId, Volume)>) {
    let store = memory();
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let first = Volume::random(12 * CHUNK as usize + 100, 1);
    let second = first.changed(&[(0, 3 * CHUNK as usize, 2), (400_000, 4096, 3)]);
    let third = second.changed(&[(500_000, CHUNK as usize, 4)]);
    let mut backups: Vec<(BackupId, Volume)> = Vec::new();
    for volume in [first, second, third] {
        let backup = back_up(&repo, &volume, backups.last().map(|(id, _)| *id)).await.unwrap();
        backups.push((backup.id, volume));
    }
    (store, backups)
}

type Work = fn(Repository, Vec<(BackupId, Volume)>) -> BoxFuture<'static, Result<()>>;

/// What is done while the host dies, and how many of the three backups it deletes at most.
fn works() -> [(&'static str, Work, usize); 5] {
    [
        (
            "backup",
            |repo, backups| {
                async move {
                    let next = backups[2].1.changed(&[(1, CHUNK as usize, 9), (CHUNK as usize * 8, 10, 10)]);
                    let backup = back_up(&repo, &next, Some(backups[2].0)).await?;
                    assert_same(&restored(&repo, backup.id).await?, &next.data);
                    Ok(())
                }
                .boxed()
            },
            0,
        ),
        (
            "delete",
            |repo, backups| async move { repo.delete(&[backups[0].0, backups[1].0]).await }.boxed(),
            2,
        ),
        (
            "prune",
            |repo, _| {
                let rules = KeepRules { last: 1, ..KeepRules::default() };
                async move { repo.prune(&rules, None, &TimeZone::UTC, false).await.map(drop) }.boxed()
            },
            2,
        ),
        (
            "delete and collect",
            |repo, backups| {
                async move {
                    // What an earlier attempt deleted cannot be deleted again.
                    for (id, _) in &backups[..2] {
                        match repo.delete(&[*id]).await {
                            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                            _ => {}
                        }
                    }
                    repo.gc(&GcOptions::at_once()).await.map(drop)
                }
                .boxed()
            },
            2,
        ),
        (
            "collect what is mostly garbage",
            |repo, backups| {
                async move {
                    match repo.delete(&[backups[0].0]).await {
                        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                    let options = GcOptions { rewrite_below: 100, ..GcOptions::at_once() };
                    repo.gc(&options).await.map(drop)
                }
                .boxed()
            },
            1,
        ),
    ]
}

/// After whatever happened: nothing is damaged, what should be there comes back, and a collection changes neither.
async fn check(store: Arc<dyn Objects>, backups: &[(BackupId, Volume)], may_be_gone: usize, place: &str) {
    for round in 0..2 {
        let repo = open(store.clone()).await;
        let report = repo.verify(&read_data()).await.unwrap();
        assert!(report.is_clean(), "{place}, round {round}: {:?}", report.problems);
        let there: Vec<_> = repo.list().await.unwrap().backups.iter().map(|backup| backup.id).collect();
        for (i, (id, volume)) in backups.iter().enumerate() {
            assert!(there.contains(id) || i < may_be_gone, "{place}: backup {i} is gone");
            if there.contains(id) {
                assert_same(&restored(&repo, *id).await.unwrap(), &volume.data);
            }
        }
        repo.gc(&GcOptions::at_once()).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_may_die_at_any_change() {
    let (original, backups) = three_backups().await;
    for (what, work, may_be_gone) in works() {
        let mut points = 0;
        for fault in [Fault::Before, Fault::After] {
            for n in 0.. {
                let store = stores::copy(&*original).await;
                let dying = Arc::new(Faulty::crash_at(store.clone(), n, fault));
                let done = work(open(dying.clone()).await, backups.clone()).await;
                let place = format!("{what}, dying {fault:?} change {n}");
                if !dying.fired() {
                    done.unwrap();
                    break;
                }
                points += 1;
                check(store.clone(), &backups, may_be_gone, &place).await;
                // The same work again, by a host that lives.
                match work(open(store.clone()).await, backups.clone()).await {
                    Err(error) => {
                        assert!(error.kind() == ErrorKind::NotFound && may_be_gone > 0, "{place}: {error}");
                    }
                    Ok(()) => check(store, &backups, may_be_gone, &place).await,
                }
            }
        }
        assert!(points >= 4, "{what} was cut off at {points} points only");
    }
}

#[tokio::test]
async fn failures_that_pass_are_not_noticed() {
    let (original, backups) = three_backups().await;
    for (what, work, _) in works() {
        for fault in [Fault::Before, Fault::After, Fault::Truncate] {
            for n in 0.. {
                let store = stores::copy(&*original).await;
                let shaky = Arc::new(Faulty::hiccup_at(store.clone(), n, fault));
                let opened = Repository::open_on(shaky.clone(), quick()).await.unwrap();
                let done = work(opened.clone(), backups.clone()).await;
                done.unwrap_or_else(|error| panic!("{what}, {fault:?} operation {n}: {error}"));
                if !shaky.fired() {
                    break;
                }
                assert!(opened.retries() > 0 || n == 0, "{what}, {fault:?} operation {n}");
            }
        }
    }
}

#[tokio::test]
async fn making_a_repository_may_fail_anywhere_too() {
    for fault in [Fault::Before, Fault::After] {
        let store = memory();
        let dying = Arc::new(Faulty::crash_at(store.clone(), 0, fault));
        Repository::init_on(dying, quick(), CHUNK).await.err().unwrap();
        match Repository::init_on(store.clone(), quick(), CHUNK).await {
            Ok(_) => assert_eq!(fault, Fault::Before),
            Err(error) => assert_eq!((error.kind(), fault), (ErrorKind::Exists, Fault::After)),
        }
        open(store).await;
        // An answer that is lost is not taken for somebody else's repository.
        let shaky = Arc::new(Faulty::hiccup_at(memory(), 0, fault));
        Repository::init_on(shaky, quick(), CHUNK).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_uploaded_is_not_sent_again() {
    // Ten packs of 16 MiB, and the network goes away after six.
    let volume = Volume::random(160 << 20, 7);
    let store = memory();
    Repository::init_on(store.clone(), quick(), 1 << 20).await.unwrap();
    let dying = Arc::new(Faulty::crash_at(store.clone(), 7, Fault::Before));
    let error = back_up(&open(dying).await, &volume, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    let there = stores::count(&*store, "packs/").await;
    assert_eq!(there, 6);
    assert_eq!(stores::count(&*store, "index/").await, 0);
    // A collection in between leaves the packs alone: they are young.
    open(store.clone()).await.gc(&GcOptions::default()).await.unwrap();

    let counting = Arc::new(Faulty::new(store.clone()));
    let repo = open(counting.clone()).await;
    let backup = back_up(&repo, &volume, None).await.unwrap();
    let sent = counting.put_bytes.load(Ordering::Relaxed);
    assert!(sent < (160 - 6 * 16 + 4) << 20, "{sent} bytes were sent");
    assert_same(&restored(&repo, backup.id).await.unwrap(), &volume.data);
}

#[tokio::test]
async fn a_network_that_stays_away_is_said_to_be() {
    let (store, backups) = three_backups().await;
    let mut gone = Faulty::crash_at(store, 0, Fault::Before);
    gone.fail_transiently();
    let gone = Arc::new(gone);
    let repo = open(gone.clone()).await;
    let error = repo.delete(&[backups[0].0]).await.unwrap_err();
    assert_eq!((error.kind(), error.kind().code()), (ErrorKind::Unavailable, "unavailable"));
    assert!(repo.retries() >= 2);
    assert_eq!(restored(&repo, backups[1].0).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = back_up(&repo, &backups[0].1, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.kind().advice().is_empty());
}

#[tokio::test]
async fn writers_on_two_hosts_share_what_they_store() {
    let store = memory();
    Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let volumes = [Volume::random(60 * CHUNK as usize, 1), Volume::random(60 * CHUNK as usize, 1)];
    let hosts = [open(store.clone()).await, open(store.clone()).await];
    let collector = open(store.clone()).await;
    let collecting = tokio::spawn(async move {
        for _ in 0..10 {
            collector.gc(&GcOptions::at_once()).await.unwrap();
        }
    });
    let (a, b) = tokio::join!(back_up(&hosts[0], &volumes[0], None), back_up(&hosts[1], &volumes[1], None));
    let (a, b) = (a.unwrap(), b.unwrap());
    collecting.await.unwrap();
    let repo = open(store.clone()).await;
    repo.gc(&GcOptions::at_once()).await.unwrap();
    assert_same(&restored(&repo, a.id).await.unwrap(), &volumes[0].data);
    assert_same(&restored(&repo, b.id).await.unwrap(), &volumes[1].data);
    // What both stored at the same time, the collection has made one.
    assert!(repo.status().await.unwrap().stored_bytes < 62 * u64::from(CHUNK));
}
