//! Backups come back byte by byte: odd sizes, increments, resizes, deduplication, many at once.

use std::sync::Arc;
use std::sync::Mutex;

use crate::common::stores::{self, Faulty};
use crate::common::{CHUNK, Target, Volume, assert_same, back_up, noise, quick, request, restored};
use cairn_backup::{
    BackupKind, Cancel, ErrorKind, GcOptions, KeepRules, KeyFile, Labels, Limiter, Location, OpenOptions,
    Phase, Repository, RestoreOptions, VerifyOptions, VolumeRef, memory,
};
use jiff::tz::TimeZone;

async fn new_repo() -> Repository {
    Repository::init_on(memory(), quick(), CHUNK).await.unwrap()
}

#[tokio::test]
async fn odd_sizes_come_back() {
    let chunk = CHUNK as usize;
    for encrypted in [false, true] {
        let key = || encrypted.then(|| KeyFile::parse(&[7; 32]).unwrap());
        let store = memory();
        let options = || OpenOptions { key: key(), ..quick() };
        let repo = Repository::init_on(store.clone(), options(), CHUNK).await.unwrap();
        for size in [0, 1, 511, 4096, 4097, chunk - 1, chunk, chunk + 1, 3 * chunk + 5, 257 * chunk + 9] {
            let volume = Volume::random(size, size as u64 + 1);
            let backup = back_up(&repo, &volume, None).await.unwrap();
            assert_eq!((backup.size, backup.kind), (size as u64, BackupKind::Full));
            // From the store alone, as another host would.
            let other = Repository::open_on(store.clone(), options()).await.unwrap();
            assert_same(&restored(&other, backup.id).await.unwrap(), &volume.data);
        }
        let report =
            repo.verify(&VerifyOptions { read_data: true, ..VerifyOptions::default() }).await.unwrap();
        assert!(report.is_clean() && report.bytes_read > 0, "{report:?}");
    }
}

#[tokio::test]
async fn zeroes_are_holes_and_text_is_compressed() {
    let repo = new_repo().await;
    let mut data = vec![0; 40 * CHUNK as usize];
    data[7 * CHUNK as usize + 3] = 1;
    data[20 * CHUNK as usize..21 * CHUNK as usize].fill(b'a');
    let volume = Volume::new(data);
    let backup = back_up(&repo, &volume, None).await.unwrap();
    assert_eq!(backup.data_bytes, 2 * u64::from(CHUNK));
    assert!(backup.added_bytes < 4096, "{} bytes for two chunks of nearly nothing", backup.added_bytes);
    assert_same(&restored(&repo, backup.id).await.unwrap(), &volume.data);
    let reader = repo.reader(backup.id, None).await.unwrap();
    let chunk = u64::from(CHUNK);
    assert_eq!(
        reader.data_extents(0..volume.data.len() as u64).await.unwrap(),
        [7 * chunk..8 * chunk, 20 * chunk..21 * chunk]
    );
    assert_eq!(
        reader.data_extents(7 * chunk + 5..20 * chunk + 1).await.unwrap(),
        [7 * chunk + 5..8 * chunk, 20 * chunk..20 * chunk + 1]
    );
}

#[tokio::test]
async fn increments_read_and_store_what_changed() {
    let repo = new_repo().await;
    let chunk = CHUNK as usize;
    // Two levels of map, so that most of it is inherited unread.
    let first = Volume::random(600 * chunk, 1);
    let full = back_up(&repo, &first, None).await.unwrap();
    // A block here and there, a run over chunks, a trim, a write across a block's edge.
    let second = first.changed(&[
        (5 * chunk + 4096, 4096, 2),
        (300 * chunk + 100, 8000, 3),
        (310 * chunk, 2 * chunk + 17, 4),
        (400 * chunk, 5 * chunk, 0),
    ]);
    let increment = back_up(&repo, &second, Some(full.id)).await.unwrap();
    assert_eq!((increment.kind, increment.parent), (BackupKind::Incremental, Some(full.id)));
    // One block; two of a chunk; two chunks and the block begun of a third; five chunks of a trim.
    let read = 4096 + 2 * 4096 + (2 * chunk as u64) + 4096 + 5 * chunk as u64;
    assert_eq!((increment.read_bytes, second.bytes_read()), (read, read));
    assert!(increment.added_bytes < 5 * 4096 + 2 * chunk as u64 + 60_000, "{}", increment.added_bytes);
    assert_same(&restored(&repo, increment.id).await.unwrap(), &second.data);

    // The same blocks again and more of the same chunk: patches do not pile up, and grow into whole chunks.
    let mut last = (second, increment);
    for round in 0..6 {
        let next =
            last.0.changed(&[(5 * chunk + round * 8192, 4096, 10 + round as u64), (599 * chunk + 70, 1, 0)]);
        let backup = back_up(&repo, &next, Some(last.1.id)).await.unwrap();
        assert_same(&restored(&repo, backup.id).await.unwrap(), &next.data);
        last = (next, backup);
    }
    // Nothing changed at all.
    let same = back_up(&repo, &last.0.changed(&[]), Some(last.1.id)).await.unwrap();
    assert_eq!((same.read_bytes, same.added_bytes), (0, 0));
    assert_same(&restored(&repo, same.id).await.unwrap(), &last.0.data);

    // Each restores without the others.
    let ids: Vec<_> =
        repo.list().await.unwrap().backups.iter().map(|b| b.id).filter(|id| *id != same.id).collect();
    repo.delete(&ids).await.unwrap();
    repo.gc(&GcOptions::at_once()).await.unwrap();
    assert_same(&restored(&repo, same.id).await.unwrap(), &last.0.data);
    let line = &repo.tree().await.unwrap()[0];
    assert!(line.parent_deleted && line.depth == 0);
}

#[tokio::test]
async fn volumes_may_grow_and_shrink_between_increments() {
    let repo = new_repo().await;
    let chunk = CHUNK as usize;
    let first = Volume::random(3 * chunk + 100, 1);
    let mut base = back_up(&repo, &first, None).await.unwrap();
    let mut volume = first;
    // Over the edges of chunks, leaves and levels, both ways.
    for (round, size) in [
        3 * chunk + 5000,
        256 * chunk,
        257 * chunk + 1,
        300 * chunk,
        256 * chunk,
        10 * chunk + 7,
        1,
        0,
        5 * chunk,
    ]
    .into_iter()
    .enumerate()
    {
        let old = volume.data.len();
        volume = volume.resized(size);
        if size > old {
            volume = volume.changed(&[(size - 3, 3, 90 + round as u64), (old, 1, 70 + round as u64)]);
        }
        let backup = back_up(&repo, &volume, Some(base.id)).await.unwrap();
        assert_same(&restored(&repo, backup.id).await.unwrap(), &volume.data);
        base = backup;
    }
    assert!(
        repo.verify(&VerifyOptions { read_data: true, ..VerifyOptions::default() }).await.unwrap().is_clean()
    );
}

#[tokio::test]
async fn what_was_cut_off_does_not_come_back_when_a_volume_grows_again() {
    let repo = new_repo().await;
    let chunk = CHUNK as usize;
    let mut volume = Volume::random(11 * chunk, 1);
    let mut base = None;
    // The middle one ends in the first block of a chunk.
    for size in [11 * chunk, 10 * chunk + 4096, 11 * chunk] {
        volume = volume.resized(size);
        let backup = back_up(&repo, &volume, base).await.unwrap();
        assert_same(&restored(&repo, backup.id).await.unwrap(), &volume.data);
        base = Some(backup.id);
    }
}

#[tokio::test]
async fn equal_data_is_stored_once_over_volumes_and_hosts() {
    let store = memory();
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let volume = Volume::random(64 * CHUNK as usize, 3);
    let first = back_up(&repo, &volume, None).await.unwrap();
    assert!(first.added_bytes > 64 * u64::from(CHUNK));
    let host = Repository::open_on(store, quick()).await.unwrap();
    let mut other = request(None);
    other.volume = VolumeRef { name: "clone".into(), id: "2".into() };
    let second = host.backup(Arc::new(volume.clone()), other).await.unwrap();
    assert_eq!(second.added_bytes, 0);
    assert_same(&restored(&repo, second.id).await.unwrap(), &volume.data);
}

#[tokio::test]
async fn any_range_is_read() {
    let repo = new_repo().await;
    let chunk = CHUNK as usize;
    let first = Volume::random(20 * chunk + 77, 5);
    let full = back_up(&repo, &first, None).await.unwrap();
    let volume = first.changed(&[(3 * chunk + 4096, 4096, 6), (9 * chunk, 2 * chunk, 0)]);
    let backup = back_up(&repo, &volume, Some(full.id)).await.unwrap();
    let reader = repo.reader(backup.id, None).await.unwrap();
    let size = volume.data.len();
    for (offset, len) in [
        (0, 1),
        (0, 0),
        (size, 0),
        (size - 1, 1),
        (3 * chunk + 4000, 300),
        (8 * chunk + 9, 4 * chunk),
        (0, size),
    ] {
        assert_same(&reader.read(offset as u64, len).await.unwrap(), &volume.data[offset..offset + len]);
    }
    for (offset, len) in [(size as u64, 1), (u64::MAX, 2), (0, size + 1)] {
        assert_eq!(reader.read(offset, len).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    // A first read of a large backup needs a few small pieces, not an index.
    let fresh = repo.reader(backup.id, None).await.unwrap();
    fresh.read(5 * chunk as u64, 4096).await.unwrap();
    assert!(fresh.transferred() < 2 * chunk as u64, "{}", fresh.transferred());
}

#[tokio::test]
async fn files_and_keys_make_a_repository_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("file://{}/deep/repo", folder.path().display())).unwrap();
    let options =
        |key: Option<[u8; 32]>| OpenOptions { key: key.map(|k| KeyFile::parse(&k).unwrap()), ..quick() };
    let missing = Repository::open(&location, options(None)).await.err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotARepository);
    let repo = Repository::init(&location, options(Some([1; 32]))).await.unwrap();
    let again = Repository::init(&location, options(None)).await.err().unwrap();
    assert_eq!(again.kind(), ErrorKind::Exists);
    let volume = Volume::random(3 << 20, 8);
    let backup = back_up(&repo, &volume, None).await.unwrap();
    assert_eq!(
        Repository::open(&location, options(None)).await.err().unwrap().kind(),
        ErrorKind::KeyRequired
    );
    assert_eq!(
        Repository::open(&location, options(Some([2; 32]))).await.err().unwrap().kind(),
        ErrorKind::WrongKey
    );
    let other = Repository::open(&location, options(Some([1; 32]))).await.unwrap();
    assert_eq!(other.id(), repo.id());
    assert_same(&restored(&other, backup.id).await.unwrap(), &volume.data);
    let status = other.status().await.unwrap();
    assert!(status.encrypted && status.backups == 1 && status.writers == 0 && status.stored_bytes > 3 << 20);
    // What leaks nothing does not hold the volume's bytes, nor its name.
    let mut files = vec![folder.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let contents = std::fs::read(&path).unwrap();
        assert!(!contents.windows(16).any(|part| *part == volume.data[1000..1016]), "{path:?}");
        assert!(!contents.windows(5).any(|part| part == b"\"vol\""), "{path:?}");
    }
}

#[tokio::test]
async fn labels_chains_and_pruning() {
    let repo = new_repo().await;
    let volume = Volume::random(CHUNK as usize, 1);
    let mut ids = Vec::new();
    for day in 0..4 {
        let mut request = request(ids.last().copied().filter(|_| day % 2 == 1));
        request.created = day * 24 * 3600 * 1000;
        request.labels.name = format!("day {day}");
        let volume = volume.changed(&[(0, 4096, day as u64)]);
        ids.push(repo.backup(Arc::new(volume), request).await.unwrap().id);
    }
    let shape: Vec<_> = repo.tree().await.unwrap().iter().map(|line| (line.backup.id, line.depth)).collect();
    assert_eq!(shape, [(ids[2], 0), (ids[3], 1), (ids[0], 0), (ids[1], 1)]);

    let labels =
        Labels { name: "new".into(), tags: [("k".to_owned(), "v".to_owned())].into(), ..Labels::default() };
    repo.edit(ids[0], labels.clone()).await.unwrap();
    assert_eq!(repo.show(ids[0]).await.unwrap().labels, labels);
    assert_eq!(repo.list().await.unwrap().backups[3].labels, labels);
    let long = Labels { name: "x".repeat(256), ..Labels::default() };
    assert_eq!(repo.edit(ids[0], long).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let digits = ids[1].to_string();
    assert_eq!(repo.resolve(&digits[..12]).await.unwrap(), ids[1]);
    assert_eq!(repo.resolve("").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(repo.resolve("zz").await.unwrap_err().kind(), ErrorKind::NotFound);

    let rules = KeepRules { daily: 2, ..KeepRules::default() };
    let plan = repo.prune(&rules, None, &TimeZone::UTC, true).await.unwrap();
    assert_eq!((plan.deleted, repo.list().await.unwrap().backups.len()), (2, 4));
    assert_eq!(repo.prune(&rules, Some("2"), &TimeZone::UTC, false).await.unwrap().deleted, 0);
    assert_eq!(repo.prune(&rules, Some("1"), &TimeZone::UTC, false).await.unwrap().deleted, 2);
    let left: Vec<_> = repo.list().await.unwrap().backups.iter().map(|backup| backup.id).collect();
    assert_eq!(left, [ids[3], ids[2]]);
    for gone in [repo.show(ids[0]).await.err(), repo.delete(&[ids[0]]).await.err()] {
        assert_eq!(gone.unwrap().kind(), ErrorKind::NotFound);
    }
    assert_same(&restored(&repo, ids[3]).await.unwrap(), &volume.changed(&[(0, 4096, 3)]).data);
}

#[tokio::test]
async fn garbage_goes_and_the_rest_stays() {
    let store = memory();
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let kept = Volume::random(30 * CHUNK as usize, 1);
    let keep = back_up(&repo, &kept, None).await.unwrap();
    let gone = back_up(&repo, &Volume::random(900 * CHUNK as usize, 2), None).await.unwrap();
    // Shares a little with what goes: its packs are rewritten.
    let shared = Volume::new(noise(900 * CHUNK as usize, 2)[..5 * CHUNK as usize].to_vec());
    let share = back_up(&repo, &shared, None).await.unwrap();
    assert_eq!(repo.gc(&GcOptions::at_once()).await.unwrap().condemned, 0);
    repo.delete(&[gone.id]).await.unwrap();

    let before = repo.status().await.unwrap().stored_bytes;
    let plan = repo.gc(&GcOptions { dry_run: true, ..GcOptions::at_once() }).await.unwrap();
    assert!(plan.condemned >= 4 && plan.rewritten >= 1, "{plan:?}");
    assert_eq!(repo.status().await.unwrap().stored_bytes, before);
    // With delays, nothing goes at first: neither what is young nor what has just been condemned.
    assert_eq!(repo.gc(&GcOptions::default()).await.unwrap().condemned, 0);
    let marked = repo
        .gc(&GcOptions { keep_unreferenced: std::time::Duration::ZERO, ..GcOptions::default() })
        .await
        .unwrap();
    assert_eq!((marked.condemned, marked.deleted), (plan.condemned, 0));
    assert_eq!(repo.gc(&GcOptions::default()).await.unwrap().waiting, plan.condemned);
    let done = repo.gc(&GcOptions::at_once()).await.unwrap();
    assert_eq!((done.deleted, done.damage.len()), (plan.condemned, 0));
    let after = repo.status().await.unwrap();
    assert!(after.stored_bytes < 37 * u64::from(CHUNK), "{} of {before}", after.stored_bytes);
    assert_eq!((after.condemned_packs, stores::count(&*store, "sessions/").await), (0, 0));
    for (id, volume) in [(keep.id, &kept), (share.id, &shared)] {
        assert_same(&restored(&repo, id).await.unwrap(), &volume.data);
    }
    assert!(
        repo.verify(&VerifyOptions { read_data: true, ..VerifyOptions::default() }).await.unwrap().is_clean()
    );
}

#[tokio::test]
async fn many_small_packs_and_indexes_become_few() {
    let store = memory();
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let mut volume = Volume::random(4 * CHUNK as usize, 1);
    let mut base = None;
    let mut all = Vec::new();
    for round in 0..20 {
        volume = volume.changed(&[(0, CHUNK as usize, 100 + round)]);
        let backup = back_up(&repo, &volume, base).await.unwrap();
        base = Some(backup.id);
        all.push((backup.id, volume.clone()));
    }
    assert_eq!((stores::count(&*store, "packs/").await, stores::count(&*store, "index/").await), (40, 20));
    repo.gc(&GcOptions::at_once()).await.unwrap();
    assert_eq!(stores::count(&*store, "packs/").await, 2);
    assert!(stores::count(&*store, "index/").await <= 2);
    for (id, volume) in &all {
        assert_same(&restored(&repo, *id).await.unwrap(), &volume.data);
    }
}

#[tokio::test]
async fn progress_cancelling_and_a_limit() {
    let store = Arc::new(Faulty::new(memory()));
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let volume = Volume::random(400 * CHUNK as usize, 1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let cancel = Cancel::new();
    let mut wanted = request(None);
    wanted.cancel = cancel.clone();
    // As slow as a line that takes a minute for it: cancelling must not wait for that.
    wanted.limiter = Some(Limiter::new(400 * u64::from(CHUNK) / 60));
    wanted.progress = Some(Arc::new({
        let (seen, cancel) = (seen.clone(), cancel.clone());
        move |progress: &cairn_backup::Progress| {
            seen.lock().unwrap().push(*progress);
            if progress.phase == Phase::Copying && progress.bytes_done > 0 {
                cancel.cancel();
            }
        }
    }));
    let error = repo.backup(Arc::new(volume.clone()), wanted).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(repo.list().await.unwrap().backups.len(), 0);
    let mut again = request(None);
    again.progress = Some(Arc::new({
        let seen = seen.clone();
        move |progress: &cairn_backup::Progress| seen.lock().unwrap().push(*progress)
    }));
    let backup = repo.backup(Arc::new(volume.clone()), again).await.unwrap();
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!((last.phase, last.bytes_done, last.bytes_total), (Phase::Finishing, backup.size, backup.size));
    assert_eq!(last.bytes_copied, backup.size);

    let stop = Cancel::new();
    stop.cancel();
    let options = RestoreOptions { cancel: stop, ..RestoreOptions::default() };
    let error = repo.restore(backup.id, &Target::default(), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
