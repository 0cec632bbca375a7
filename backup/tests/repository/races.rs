//! Orders of steps that chance hardly ever makes: each actor stops before one operation until it is let go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_backup::{
    Answer, BackupKind, GcOptions, Object, Objects, Repository, StoreError, VerifyOptions, memory,
};
use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};

use crate::common::stores::forward;
use crate::common::{CHUNK, Volume, assert_same, back_up, quick, restored};

/// Stops at an operation on some name until it is let go, and does not stop any more from then on.
struct Pause {
    inner: Arc<dyn Objects>,
    at: &'static str,
    reached: Arc<Notify>,
    go: watch::Receiver<bool>,
}

impl Pause {
    async fn through<T>(&self, what: String, work: Answer<'_, T>) -> Result<T, StoreError> {
        if what.starts_with(self.at) {
            self.reached.notify_one();
            let _ = self.go.clone().wait_for(|go| *go).await;
        }
        work.await
    }
}

impl Objects for Pause {
    forward!(get, head, delete);

    fn put<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, ()> {
        self.through(format!("put {name}"), self.inner.put(name, contents)).boxed()
    }

    fn create<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, bool> {
        self.through(format!("put {name}"), self.inner.create(name, contents)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, each: &'a mut (dyn FnMut(Object) + Send)) -> Answer<'a, ()> {
        self.through(format!("list {prefix}"), self.inner.list(prefix, each)).boxed()
    }
}

type Paused = (Arc<dyn Objects>, Arc<Notify>, watch::Sender<bool>);

fn paused(store: &Arc<dyn Objects>, at: &'static str) -> Paused {
    let (go, wait) = watch::channel(false);
    let reached = Arc::new(Notify::new());
    let pause = Pause { inner: store.clone(), at, reached: reached.clone(), go: wait };
    (Arc::new(pause), reached, go)
}

#[tokio::test]
async fn a_base_may_be_deleted_while_a_backup_is_made_to_count() {
    let store = memory();
    let repo = Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let first = Volume::random(6 * CHUNK as usize, 1);
    // A collection sees that nobody needs some packs; meanwhile the base is made of them; then it condemns them.
    let gone = back_up(&repo, &first, None).await.unwrap();
    repo.delete(&[gone.id]).await.unwrap();
    let (slow, reached, go) = paused(&store, "put condemned/");
    let condemning = tokio::spawn(async move {
        let repo = Repository::open_on(slow, quick()).await.unwrap();
        let keep_unreferenced = Duration::ZERO;
        repo.gc(&GcOptions { keep_unreferenced, ..GcOptions::default() }).await.unwrap()
    });
    reached.notified().await;
    let base = back_up(&repo, &first, None).await.unwrap();
    assert_eq!(base.added_bytes, 0);
    go.send(true).unwrap();
    condemning.await.unwrap();
    assert_eq!(repo.status().await.unwrap().condemned_packs, 2);
    assert_same(&restored(&repo, base.id).await.unwrap(), &first.data);

    // Another collection is about to list backups ...
    let (slow, reached, go) = paused(&store, "list backups/");
    let collecting = tokio::spawn(async move {
        let repo = Repository::open_on(slow, quick()).await.unwrap();
        repo.gc(&GcOptions::at_once()).await.unwrap()
    });
    reached.notified().await;
    // ... a writer has seen that its base is there, and is about to put its manifest ...
    let next = first.changed(&[(0, 4096, 3)]);
    let (slow, writing, write) = paused(&store, "put backups/");
    let (volume, id) = (next.clone(), base.id);
    let writer = tokio::spawn(async move {
        let repo = Repository::open_on(slow, quick()).await.unwrap();
        back_up(&repo, &volume, Some(id)).await
    });
    writing.notified().await;
    // ... and somebody deletes the base.
    repo.delete(&[base.id]).await.unwrap();
    go.send(true).unwrap();
    let report = collecting.await.unwrap();
    assert_eq!(report.deleted, 2, "what only the base needed is gone: {report:?}");
    write.send(true).unwrap();
    let made = writer.await.unwrap().unwrap();
    assert_same(&restored(&repo, made.id).await.unwrap(), &next.data);
    assert!(repo.verify(&VerifyOptions::default()).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_base_that_was_deleted_before_makes_the_next_backup_full() {
    let repo = Repository::init_on(memory(), quick(), CHUNK).await.unwrap();
    let first = Volume::random(3 * CHUNK as usize, 1);
    let base = back_up(&repo, &first, None).await.unwrap();
    repo.delete(&[base.id]).await.unwrap();
    let next = first.changed(&[(0, 4096, 3)]);
    let made = back_up(&repo, &next, Some(base.id)).await.unwrap();
    assert_eq!((made.kind, made.parent), (BackupKind::Full, None));
    assert_same(&restored(&repo, made.id).await.unwrap(), &next.data);
}
