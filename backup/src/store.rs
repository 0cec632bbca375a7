//! The store with patience: transient failures are tried again, and every error names its object.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::random;
use crate::objects::{Answer, Failure, Object, Objects, Staged, StoreError};

/// How often, and after which waits, a transient failure of the store is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts in all, at least one. As long as the store has never answered, there are at most four: a wrong address
    /// is told soon, and nothing is lost yet by giving up.
    pub attempts: u32,
    /// The wait before the second attempt; each further wait is twice as long, and all are varied by up to a half.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// How long one attempt may take beyond the time its bytes need at 64 KiB a second.
    pub attempt_time: Duration,
}

impl Default for Retry {
    /// Nine attempts over about a minute.
    fn default() -> Retry {
        Retry {
            attempts: 9,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(20),
            attempt_time: Duration::from_secs(60),
        }
    }
}

/// Attempts to reach a store that has not answered yet.
const FIRST_ATTEMPTS: u32 = 4;

/// Bytes a second below which a transfer counts as hung.
const SLOWEST: u64 = 64 << 10;

/// Who gives a machine of Amazon's its keys.
const METADATA_SERVICE: &str = "169.254.169.254";

/// A repository's store.
#[derive(Clone)]
pub(crate) struct Store {
    objects: Arc<dyn Objects>,
    retry: Retry,
    retries: Arc<AtomicU64>,
    /// Whether it has ever answered.
    answered: Arc<AtomicBool>,
}

impl Store {
    pub(crate) fn new(objects: Arc<dyn Objects>, retry: Retry) -> Store {
        Store { objects, retry, retries: Arc::default(), answered: Arc::default() }
    }

    /// How many attempts failed and were made again.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(crate) async fn put(&self, name: &str, contents: Bytes) -> Result<()> {
        let size = contents.len() as u64;
        self.patiently(name, "written", size, || self.objects.put(name, contents.clone())).await
    }

    /// Writes an object that need not be there before it is settled.
    pub(crate) async fn stage(&self, name: &str, contents: Bytes) -> Result<Staged> {
        let size = contents.len() as u64;
        self.patiently(name, "written", size, || self.objects.stage(name, contents.clone())).await
    }

    /// Has what was staged be there for good. Once only: after a sync that failed, one that works proves nothing.
    pub(crate) async fn settle(&self, staged: Vec<Staged>) -> Result<()> {
        self.objects.settle(staged).await.map_err(|e| told("what was written", "made durable", e))
    }

    /// Writes an object unless there is one; whether the contents are there now. An answer that got lost is told from
    /// somebody else's object by its contents.
    pub(crate) async fn create(&self, name: &str, contents: Bytes) -> Result<bool> {
        let size = contents.len() as u64;
        for _ in 0..self.retry.attempts.max(1) {
            if self.patiently(name, "written", size, || self.objects.create(name, contents.clone())).await? {
                return Ok(true);
            }
            // Two that write at once may both be refused, each for the other.
            if let Some(there) = self.find(name).await? {
                return Ok(there == contents);
            }
            tokio::time::sleep(varied(self.retry.first_wait)).await;
        }
        Err(Error::new(ErrorKind::Conflict, format!("{name} is there when written, and not when read")))
    }

    /// An object's contents, or nothing if there is none.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Bytes>> {
        match self.patiently_raw(64 << 20, || self.objects.get(name, None)).await {
            Ok(contents) => Ok(Some(contents)),
            Err(e) if e.failure == Failure::NotFound => Ok(None),
            Err(e) => Err(told(name, "read", e)),
        }
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Bytes> {
        self.find(name).await?.ok_or_else(|| Error::corrupt(name, "the object is missing"))
    }

    /// Exactly the bytes of a range; nothing if there is no such object. An answer cut short is asked for again;
    /// what stays short is an object that lost its end.
    pub(crate) async fn find_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let size = range.end - range.start;
        let wanted = || -> Answer<'_, Option<Bytes>> {
            let range = range.clone();
            Box::pin(async move {
                let contents = self.objects.get(name, Some(range.clone())).await?;
                if contents.len() as u64 == size {
                    return Ok(Some(contents));
                }
                // A connection that was cut can be tried again, an object that was cannot.
                if self.ends_before(name, range.end).await {
                    return Ok(None);
                }
                let what = format!("{} bytes of {size} came", contents.len());
                Err(StoreError::new(Failure::Transient, what))
            })
        };
        let cut = || Error::corrupt(name, "the object is cut short");
        match self.patiently_raw(size, wanted).await {
            Ok(contents) => contents.map(Some).ok_or_else(cut),
            Err(e) if e.failure == Failure::NotFound => Ok(None),
            // Some stores refuse a range that an object does not have.
            Err(_) if self.ends_before(name, range.end).await => Err(cut()),
            Err(e) => Err(told(name, "read", e)),
        }
    }

    async fn ends_before(&self, name: &str, end: u64) -> bool {
        self.objects.head(name).await.is_ok_and(|object| object.size < end)
    }

    pub(crate) async fn head(&self, name: &str) -> Result<Option<Object>> {
        match self.patiently_raw(0, || self.objects.head(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.failure == Failure::NotFound => Ok(None),
            Err(e) => Err(told(name, "looked at", e)),
        }
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.patiently(name, "deleted", 0, || self.objects.delete(name)).await
    }

    /// Every object below `prefix`, in order of names.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.list_as(prefix, Some).await
    }

    /// What `each` makes of every object below `prefix`, in order of names.
    pub(crate) async fn list_as<T: Ord + Send>(
        &self,
        prefix: &str,
        each: impl Fn(Object) -> Option<T> + Send + Sync,
    ) -> Result<Vec<T>> {
        let each = &each;
        // A listing has no known size: each attempt gets the time of a large one.
        let listing = || -> Answer<'_, Vec<T>> {
            Box::pin(async move {
                let mut found = Vec::new();
                self.objects.list(prefix, &mut |object| found.extend(each(object))).await?;
                Ok(found)
            })
        };
        let mut found = self.patiently(prefix, "listed", 64 << 20, listing).await?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Removes what writes that were cut off so long ago left behind; how many bytes that was.
    pub(crate) async fn remove_litter(&self, age: Duration) -> Result<u64> {
        self.objects.remove_litter(age).await.map_err(|e| told("the folder", "cleaned", e))
    }

    async fn patiently<'a, T>(
        &self,
        name: &str,
        done: &str,
        size: u64,
        attempt: impl FnMut() -> Answer<'a, T>,
    ) -> Result<T> {
        self.patiently_raw(size, attempt).await.map_err(|e| told(name, done, e))
    }

    async fn patiently_raw<'a, T>(
        &self,
        size: u64,
        mut attempt: impl FnMut() -> Answer<'a, T>,
    ) -> Result<T, StoreError> {
        let time = self.retry.attempt_time + Duration::from_secs(size / SLOWEST);
        let mut wait = self.retry.first_wait;
        let mut made = 0;
        loop {
            let error = match tokio::time::timeout(time, attempt()).await {
                Ok(Ok(done)) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(done);
                }
                Ok(Err(e)) => e,
                Err(_) => StoreError::new(Failure::Transient, format!("no answer in {} s", time.as_secs())),
            };
            made += 1;
            if error.failure != Failure::Transient {
                self.answered.store(true, Ordering::Relaxed);
                return Err(error);
            }
            let answered = self.answered.load(Ordering::Relaxed);
            let attempts =
                if answered { self.retry.attempts } else { self.retry.attempts.min(FIRST_ATTEMPTS) };
            if made >= attempts {
                return Err(error);
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, ?wait, "the store failed, trying again");
            tokio::time::sleep(varied(wait)).await;
            wait = (wait * 2).min(self.retry.longest_wait);
        }
    }
}

/// Between a half and one and a half times as long, so that hosts that failed together do not come back together.
fn varied(wait: Duration) -> Duration {
    let part = random::<2>().map_or(0.5, |bytes| f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX));
    wait.mul_f64(0.5 + part)
}

fn told(name: &str, done: &str, error: StoreError) -> Error {
    let kind = match error.failure {
        Failure::NoStore => {
            return Error::new(ErrorKind::NotARepository, "there is no such bucket").because(error.cause);
        }
        Failure::Transient => ErrorKind::Unavailable,
        Failure::NoSpace => ErrorKind::NoSpace,
        Failure::Denied => ErrorKind::Denied,
        // Whoever can do without an object has asked for it in another way.
        Failure::NotFound | Failure::Permanent => ErrorKind::Store,
    };
    // Where Amazon's machines ask for their role, and all others in vain.
    if error.cause.to_string().contains(METADATA_SERVICE) {
        let context = "no keys for the store (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), and this machine has no role that gives it some";
        return Error::new(ErrorKind::Denied, context).because(error.cause);
    }
    Error::new(kind, format!("{name} cannot be {done}")).because(error.cause)
}
