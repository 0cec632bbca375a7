//! Flipped bytes and lost objects of every kind are found, named, and never restored.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::common::stores;
use crate::common::{CHUNK, Volume, assert_same, back_up, quick, restored};
use cairn_backup::{
    BackupId, ErrorKind, GcOptions, HoldId, KeyFile, Labels, Objects, OpenOptions, Repository, VerifyOptions,
    memory,
};

fn options(encrypted: bool) -> OpenOptions {
    OpenOptions { key: encrypted.then(|| KeyFile::parse(&[9; 32]).unwrap()), ..quick() }
}

fn read_data() -> VerifyOptions {
    VerifyOptions { read_data: true, ..VerifyOptions::default() }
}

/// A repository with an object of every kind: two backups that share chunks, one of them patched, one that does not;
/// labels, a hold, a condemned pack, and what a writer that died leaves behind.
async fn full_house(encrypted: bool) -> (Arc<dyn Objects>, [(BackupId, Volume); 3]) {
    let store = memory();
    let repo = Repository::init_on(store.clone(), options(encrypted), CHUNK).await.unwrap();
    let first = Volume::random(20 * CHUNK as usize, 1);
    let a = back_up(&repo, &first, None).await.unwrap();
    let second = first.changed(&[(5000, 4096, 2), (10 * CHUNK as usize, CHUNK as usize, 3)]);
    let b = back_up(&repo, &second, Some(a.id)).await.unwrap();
    let third = Volume::random(3 * CHUNK as usize, 4);
    let c = back_up(&repo, &third, None).await.unwrap();
    let gone = back_up(&repo, &Volume::random(CHUNK as usize, 5), None).await.unwrap();
    repo.delete(&[gone.id]).await.unwrap();
    let condemn = GcOptions { keep_unreferenced: std::time::Duration::ZERO, ..GcOptions::default() };
    assert!(repo.gc(&condemn).await.unwrap().condemned > 0);
    repo.hold(HoldId::random().unwrap(), a.id).await.unwrap();
    repo.edit(a.id, Labels { name: "labelled".into(), ..Labels::default() }).await.unwrap();
    // A backup dies at its commit: its session and pending manifest stay.
    let changes = Arc::new(stores::Faulty::new(stores::copy(&*store).await));
    let dying = Repository::open_on(changes.clone(), options(encrypted)).await.unwrap();
    let before = changes.put_names.lock().unwrap().len();
    back_up(&dying, &Volume::random(CHUNK as usize, 6), None).await.unwrap();
    let puts = changes.put_names.lock().unwrap()[before..].to_vec();
    let pending = puts.iter().position(|name| name.starts_with("pending/")).unwrap();
    let crash = Arc::new(stores::Faulty::crash_at(store.clone(), pending as u64 + 1, stores::Fault::Before));
    let dying = Repository::open_on(crash.clone(), options(encrypted)).await.unwrap();
    back_up(&dying, &Volume::random(CHUNK as usize, 6), None).await.unwrap_err();
    (store, [(a.id, first), (b.id, second), (c.id, third)])
}

#[tokio::test]
async fn a_flip_anywhere_is_found_and_named() {
    for encrypted in [false, true] {
        let (store, backups) = full_house(encrypted).await;
        let repo = Repository::open_on(store.clone(), options(encrypted)).await.unwrap();
        assert!(repo.verify(&read_data()).await.unwrap().is_clean());
        let names = stores::names(&*store).await;
        let folders: BTreeSet<_> = names.iter().map(|name| name.split('/').next().unwrap()).collect();
        let all =
            ["backups", "condemned", "config", "holds", "index", "labels", "packs", "pending", "sessions"];
        assert_eq!(folders.into_iter().collect::<Vec<_>>(), all);
        for name in names {
            let whole = store.get(&name, None).await.unwrap();
            let len = whole.len();
            for at in [0, 9, len / 3, len / 2, len - 30, len - 1] {
                let mut flipped = whole.to_vec();
                flipped[at] ^= 0x10;
                store.put(&name, flipped.into()).await.unwrap();
                let place = format!("{name} flipped at {at} of {len}, encrypted: {encrypted}");
                let repo = match Repository::open_on(store.clone(), options(encrypted)).await {
                    Ok(repo) => repo,
                    Err(error) => {
                        assert_eq!(name, "config", "{error}");
                        assert!(
                            matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotARepository),
                            "{place}: {error}"
                        );
                        assert!(error.to_string().contains("config"), "{error}");
                        continue;
                    }
                };
                let report = repo.verify(&read_data()).await.unwrap();
                let problem = report.problems.iter().find(|problem| problem.object == name);
                let problem = problem.unwrap_or_else(|| panic!("{place}: not found, {report:?}"));
                for (id, volume) in &backups {
                    match restored(&repo, *id).await {
                        Ok(data) => {
                            assert_same(&data, &volume.data);
                            assert!(
                                !problem.backups.contains(id),
                                "{place}: {problem:?} but {id} comes back"
                            );
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "{place}: {error}");
                            assert_eq!(error.backups(), [*id], "{place}: {error}");
                            assert!(
                                problem.backups.contains(id),
                                "{place}: {problem:?} but {id} fails: {error}"
                            );
                        }
                    }
                }
                // A collection never makes it worse: it refuses, or keeps what is damaged.
                let _ = repo.gc(&GcOptions { dry_run: true, ..GcOptions::at_once() }).await;
            }
            store.put(&name, whole).await.unwrap();
        }
        assert!(repo.verify(&read_data()).await.unwrap().is_clean());
    }
}

#[tokio::test]
async fn lost_and_short_objects_are_named() {
    let (store, backups) = full_house(true).await;
    for name in stores::names(&*store).await {
        let whole = store.get(&name, None).await.unwrap();
        for cut in [None, Some(whole.len() / 2), Some(whole.len() - 1)] {
            match cut {
                None => store.delete(&name).await.unwrap(),
                Some(len) => store.put(&name, whole.slice(..len)).await.unwrap(),
            }
            let Ok(repo) = Repository::open_on(store.clone(), options(true)).await else {
                assert_eq!(name, "config");
                continue;
            };
            let report = repo.verify(&VerifyOptions::default()).await.unwrap();
            let hurt: BTreeSet<_> =
                report.problems.iter().flat_map(|problem| problem.backups.clone()).collect();
            if cut.is_some() {
                assert!(
                    report.problems.iter().any(|problem| problem.object == name),
                    "{name} {cut:?}: {report:?}"
                );
            }
            for (id, volume) in &backups {
                match restored(&repo, *id).await {
                    Ok(data) => {
                        assert_same(&data, &volume.data);
                        assert!(!hurt.contains(id), "{name} {cut:?}: {report:?} but {id} comes back");
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        assert!(name.ends_with(&id.to_string()));
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt);
                        assert!(hurt.contains(id), "{name} {cut:?}: {report:?} but {id} fails: {error}");
                    }
                }
            }
        }
        store.put(&name, whole).await.unwrap();
    }
}

#[tokio::test]
async fn repair_lets_the_next_full_backup_heal_old_ones() {
    let store = memory();
    let repo = Repository::init_on(store.clone(), options(false), CHUNK).await.unwrap();
    let volume = Volume::random(20 * CHUNK as usize, 1);
    let old = back_up(&repo, &volume, None).await.unwrap();
    let name = stores::names(&*store).await.into_iter().filter(|name| name.starts_with("packs/"));
    let mut largest = (0, String::new());
    for name in name {
        largest = largest.max((store.get(&name, None).await.unwrap().len(), name));
    }
    let mut pack = store.get(&largest.1, None).await.unwrap().to_vec();
    pack[100_000] ^= 1;
    store.put(&largest.1, pack.into()).await.unwrap();
    restored(&repo, old.id).await.unwrap_err();

    let report = repo.verify(&VerifyOptions { repair: true, ..read_data() }).await.unwrap();
    assert_eq!((report.condemned, report.problems[0].backups.clone()), (1, vec![old.id]));
    // Until it is healed, a collection keeps the damaged pack: nobody has anything better.
    let kept = repo.gc(&GcOptions::at_once()).await.unwrap();
    assert_eq!((kept.kept_damaged, kept.deleted), (1, 0));
    back_up(&repo, &volume, None).await.unwrap();
    let fresh = Repository::open_on(store.clone(), options(false)).await.unwrap();
    assert_same(&restored(&fresh, old.id).await.unwrap(), &volume.data);
    assert_eq!(fresh.gc(&GcOptions::at_once()).await.unwrap().deleted, 1);
    assert!(fresh.verify(&read_data()).await.unwrap().is_clean());
    assert_same(&restored(&fresh, old.id).await.unwrap(), &volume.data);
}

#[tokio::test]
async fn a_collection_refuses_when_it_cannot_know_what_is_needed() {
    let (store, backups) = full_house(false).await;
    let manifest = format!("backups/{}", backups[0].0);
    let whole = store.get(&manifest, None).await.unwrap();
    store.put(&manifest, whole.slice(1..)).await.unwrap();
    let repo = Repository::open_on(store.clone(), options(false)).await.unwrap();
    let error = repo.gc(&GcOptions::at_once()).await.unwrap_err();
    assert_eq!((error.kind(), error.backups()), (ErrorKind::Corrupt, &[backups[0].0][..]));
    let listing = repo.list().await.unwrap();
    assert_eq!((listing.backups.len(), listing.damaged[0].0), (2, backups[0].0));
    // As it says: deleted, it is in nobody's way.
    repo.delete(&[backups[0].0]).await.unwrap();
    repo.gc(&GcOptions::at_once()).await.unwrap();
    assert_same(&restored(&repo, backups[1].0).await.unwrap(), &backups[1].1.data);
}
