//! Stores that misbehave as told.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairn_backup::{Answer, Failure, Object, Objects, StoreError, memory};
use futures_util::FutureExt as _;

/// What happens to the operation that a fault is due for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It fails before it is done.
    Before,
    /// It is done, but the answer is lost.
    After,
    /// An answer is cut short; writes fail.
    Truncate,
}

/// Fails the n-th operation and, if told so, all after it, as a host that dies or a network that is gone.
pub(crate) struct Faulty {
    inner: Arc<dyn Objects>,
    left: AtomicI64,
    fault: Fault,
    forever: bool,
    /// Only writes and deletions count.
    changes_only: bool,
    failure: Failure,
    pub(crate) put_names: Mutex<Vec<String>>,
    pub(crate) put_bytes: AtomicU64,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Objects>) -> Faulty {
        Faulty {
            inner,
            left: AtomicI64::new(i64::MAX),
            fault: Fault::Before,
            forever: false,
            changes_only: false,
            failure: Failure::Transient,
            put_names: Mutex::default(),
            put_bytes: AtomicU64::new(0),
        }
    }

    /// The host dies at change number `n`, counted from zero, done or not as `fault` says.
    pub(crate) fn crash_at(inner: Arc<dyn Objects>, n: u64, fault: Fault) -> Faulty {
        let new = Faulty::new(inner);
        new.left.store(n as i64, Ordering::Relaxed);
        Faulty { fault, forever: true, changes_only: true, failure: Failure::Permanent, ..new }
    }

    /// Operation number `n` fails once in a way that may pass.
    pub(crate) fn hiccup_at(inner: Arc<dyn Objects>, n: u64, fault: Fault) -> Faulty {
        let new = Faulty::new(inner);
        new.left.store(n as i64, Ordering::Relaxed);
        Faulty { fault, ..new }
    }

    /// Makes its failures of the kind that is tried again.
    pub(crate) fn fail_transiently(&mut self) {
        self.failure = Failure::Transient;
    }

    /// Whether the fault came.
    pub(crate) fn fired(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    fn due(&self, change: bool) -> Option<Fault> {
        let dead = self.forever && self.left.load(Ordering::Relaxed) < 0;
        if dead {
            return Some(Fault::Before);
        }
        if self.changes_only && !change {
            return None;
        }
        (self.left.fetch_sub(1, Ordering::Relaxed) == 0).then_some(self.fault)
    }

    fn error(&self) -> StoreError {
        StoreError::new(self.failure, "as the test asked")
    }

    async fn change<T>(&self, work: Answer<'_, T>) -> Result<T, StoreError> {
        match self.due(true) {
            None => work.await,
            Some(Fault::After) => {
                work.await?;
                Err(self.error())
            }
            Some(Fault::Before | Fault::Truncate) => Err(self.error()),
        }
    }

    async fn look<T>(&self, work: Answer<'_, T>) -> Result<T, StoreError> {
        match self.due(false) {
            None => work.await,
            Some(_) => Err(self.error()),
        }
    }
}

impl Objects for Faulty {
    fn put<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, ()> {
        self.put_names.lock().unwrap().push(name.to_owned());
        self.put_bytes.fetch_add(contents.len() as u64, Ordering::Relaxed);
        self.change(self.inner.put(name, contents)).boxed()
    }

    fn create<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, bool> {
        self.change(self.inner.create(name, contents)).boxed()
    }

    fn get<'a>(&'a self, name: &'a str, range: Option<Range<u64>>) -> Answer<'a, Bytes> {
        async move {
            match self.due(false) {
                None => self.inner.get(name, range).await,
                Some(Fault::Truncate) if range.is_some() => {
                    let contents = self.inner.get(name, range).await?;
                    Ok(contents.slice(..contents.len() / 2))
                }
                Some(_) => Err(self.error()),
            }
        }
        .boxed()
    }

    fn head<'a>(&'a self, name: &'a str) -> Answer<'a, Object> {
        self.look(self.inner.head(name)).boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.change(self.inner.delete(name)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, each: &'a mut (dyn FnMut(Object) + Send)) -> Answer<'a, ()> {
        self.look(self.inner.list(prefix, each)).boxed()
    }
}

/// In an `impl Objects`: these are as those of `self.inner`.
macro_rules! forward {
    ($($method:ident),*) => { $($crate::common::stores::forward!(@ $method);)* };
    (@ put) => {
        fn put<'a>(&'a self, name: &'a str, contents: bytes::Bytes) -> cairn_backup::Answer<'a, ()> {
            self.inner.put(name, contents)
        }
    };
    (@ create) => {
        fn create<'a>(&'a self, name: &'a str, contents: bytes::Bytes) -> cairn_backup::Answer<'a, bool> {
            self.inner.create(name, contents)
        }
    };
    (@ get) => {
        fn get<'a>(
            &'a self,
            name: &'a str,
            range: Option<std::ops::Range<u64>>,
        ) -> cairn_backup::Answer<'a, bytes::Bytes> {
            self.inner.get(name, range)
        }
    };
    (@ head) => {
        fn head<'a>(&'a self, name: &'a str) -> cairn_backup::Answer<'a, cairn_backup::Object> {
            self.inner.head(name)
        }
    };
    (@ delete) => {
        fn delete<'a>(&'a self, name: &'a str) -> cairn_backup::Answer<'a, ()> {
            self.inner.delete(name)
        }
    };
    (@ list) => {
        fn list<'a>(
            &'a self,
            prefix: &'a str,
            each: &'a mut (dyn FnMut(cairn_backup::Object) + Send),
        ) -> cairn_backup::Answer<'a, ()> {
            self.inner.list(prefix, each)
        }
    };
}
pub(crate) use forward;

/// Every object of a store.
pub(crate) async fn names(store: &dyn Objects) -> Vec<String> {
    let mut names = vec!["config".to_owned()];
    for folder in ["packs/", "index/", "backups/", "pending/", "labels/", "condemned/", "sessions/", "holds/"]
    {
        store.list(folder, &mut |object| names.push(object.name)).await.unwrap();
    }
    names.sort();
    names
}

/// A copy of a store in memory.
pub(crate) async fn copy(store: &dyn Objects) -> Arc<dyn Objects> {
    let copy = memory();
    for name in names(store).await {
        copy.put(&name, store.get(&name, None).await.unwrap()).await.unwrap();
    }
    copy
}

/// How many objects a folder has.
pub(crate) async fn count(store: &dyn Objects, folder: &str) -> usize {
    names(store).await.iter().filter(|name| name.starts_with(folder)).count()
}
