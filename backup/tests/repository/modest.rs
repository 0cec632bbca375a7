//! Stores that can do less than others, have no room left, or hold what is not the repository's.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cairn_backup::{
    Answer, ErrorKind, Extents, Failure, GcOptions, Location, Objects, OpenOptions, Repository, Source,
    StoreError, VerifyOptions, memory,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::common::stores::forward;
use crate::common::{CHUNK, Volume, assert_same, back_up, quick, request, restored};

/// A store that cannot put if absent, and that may be full of packs.
struct Odd {
    inner: Arc<dyn Objects>,
    full: AtomicBool,
}

impl Objects for Odd {
    forward!(get, head, delete, list);

    fn put<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, ()> {
        async move {
            if name.starts_with("packs/") && self.full.load(Ordering::Relaxed) {
                return Err(StoreError::new(Failure::NoSpace, "full"));
            }
            self.inner.put(name, contents).await
        }
        .boxed()
    }

    fn create<'a>(&'a self, _: &'a str, _: Bytes) -> Answer<'a, bool> {
        async { Err(StoreError::new(Failure::Permanent, "501 Not Implemented")) }.boxed()
    }
}

#[tokio::test]
async fn a_store_need_not_put_if_absent() {
    let store = Arc::new(Odd { inner: memory(), full: false.into() });
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let volume = Volume::random(100_000, 1);
    let made = back_up(&repo, &volume, None).await.unwrap();
    assert_same(&restored(&repo, made.id).await.unwrap(), &volume.data);
}

#[tokio::test]
async fn a_collection_frees_space_in_a_full_store() {
    let store = Arc::new(Odd { inner: memory(), full: false.into() });
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let chunk = CHUNK as usize;
    let one = Volume::random(6 * chunk, 1);
    let a = back_up(&repo, &one, None).await.unwrap();
    let part = Volume::new(one.data[..chunk].to_vec());
    let kept = back_up(&repo, &part, None).await.unwrap();
    let b = back_up(&repo, &Volume::random(6 * chunk, 2), None).await.unwrap();
    repo.delete(&[a.id, b.id]).await.unwrap();
    store.full.store(true, Ordering::Relaxed);
    let report = repo.gc(&GcOptions::at_once()).await.unwrap();
    assert!(report.deleted >= 2 && report.rewritten == 0, "{report:?}");
    store.full.store(false, Ordering::Relaxed);
    assert!(repo.gc(&GcOptions::at_once()).await.unwrap().rewritten > 0);
    assert_same(&restored(&repo, kept.id).await.unwrap(), &part.data);
}

#[tokio::test]
async fn what_lies_beside_a_repository_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("file://{}", folder.path().display())).unwrap();
    let repo = Repository::init(&location, OpenOptions::default()).await.unwrap();
    let old = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let put = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(&path).unwrap().set_modified(old).unwrap();
        path
    };
    let (theirs, below, litter) = (put("notes#1"), put("other/notes#1"), put("packs/ab/abc#1"));
    let new = folder.path().join("packs/ab/abd#1");
    fs::write(&new, [0; 7]).unwrap();
    repo.gc(&GcOptions::default()).await.unwrap();
    assert!(!litter.exists() && new.exists(), "the new one may be somebody's who goes on");
    let report = repo.gc(&GcOptions::at_once()).await.unwrap();
    assert!(theirs.exists() && below.exists() && !new.exists());
    assert_eq!(report.freed_bytes, 7);
}

/// A volume that does something before each read, which is told where the read ends.
struct Before<F> {
    volume: Volume,
    each: F,
}

impl<F: Fn(u64) -> BoxFuture<'static, io::Result<()>> + Send + Sync + 'static> Source for Before<F> {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn extents(&self, which: Extents, range: Range<u64>) -> BoxFuture<'_, io::Result<Vec<Range<u64>>>> {
        self.volume.extents(which, range)
    }

    fn read(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, io::Result<Bytes>> {
        async move {
            (self.each)(ranges.last().map_or(0, |range| range.end)).await?;
            self.volume.read(ranges).await
        }
        .boxed()
    }
}

/// As it looks when a file system is unmounted.
#[tokio::test]
async fn a_folder_that_goes_away_is_not_made_again() {
    for size in [256 << 10, 40 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("repo"), folder.path().join("away"));
        let location = Location::parse(&format!("file://{}", from.display())).unwrap();
        let repo = Repository::init(&location, quick()).await.unwrap();
        let volume = Volume::random(size, 5);
        let half = volume.size() / 2;
        let move_away = {
            let (from, to) = (from.clone(), to.clone());
            move |end| {
                if end > half && from.exists() {
                    fs::rename(&from, &to).unwrap();
                }
                async { Ok(()) }.boxed()
            }
        };
        let source = Before { volume, each: move_away };
        let error = repo.backup(Arc::new(source), request(None)).await.unwrap_err();
        assert!(!from.exists(), "{error}");
        fs::rename(&to, &from).unwrap();
        let again = Repository::open(&location, quick()).await.unwrap();
        assert!(again.verify(&VerifyOptions::default()).await.unwrap().is_clean());
        assert_eq!(again.status().await.unwrap().backups, 0);
    }
}

/// Waits until a pack is there for good.
async fn wait_for_pack(packs: PathBuf) -> io::Result<()> {
    for _ in 0..60 {
        if has_pack(&packs)? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err(io::Error::other("no pack after a minute"))
}

fn has_pack(packs: &Path) -> io::Result<bool> {
    if !packs.exists() {
        return Ok(false);
    }
    for folder in fs::read_dir(packs)? {
        for pack in fs::read_dir(folder?.path())? {
            if !pack?.file_name().to_string_lossy().contains('#') {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[tokio::test(start_paused = true)]
async fn packs_do_not_stay_unfinished_while_nothing_else_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("file://{}", folder.path().display())).unwrap();
    let repo = Repository::init(&location, OpenOptions::default()).await.unwrap();
    let volume = Volume::random(48 << 20, 3);
    let packs = folder.path().join("packs");
    // The end of the volume is read once a pack of its beginning is there.
    let hold_back = move |end| {
        if end <= 40 << 20 { async { Ok(()) }.boxed() } else { wait_for_pack(packs.clone()).boxed() }
    };
    let source = Before { volume: volume.clone(), each: hold_back };
    let backup = repo.backup(Arc::new(source), request(None)).await.unwrap();
    assert_same(&restored(&repo, backup.id).await.unwrap(), &volume.data);
}

#[tokio::test]
async fn objects_too_large_to_be_true_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("file://{}", folder.path().display())).unwrap();
    Repository::init(&location, OpenOptions::default()).await.unwrap();
    File::options().write(true).open(folder.path().join("config")).unwrap().set_len(1 << 40).unwrap();
    let error = Repository::open(&location, OpenOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Store, "{error}");
}
