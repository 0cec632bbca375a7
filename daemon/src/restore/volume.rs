//! A volume that is being restored, as its clients and the background see it. All of it runs on reactors.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use cairn_api::volume::VolumeRestore;
use cairn_cow::{Disk, Error, ErrorKind, ExtentKind, Lsn, Pool, Result, VersionId};
use cairn_uring::{JoinHandle, sleep, spawn, timeout};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::RestoreSettings;
use super::chunks::Chunks;
use super::claims::Claims;
use super::fetches::{Fetches, PATIENCE, Pauses, Trouble, Urgency};
use super::filled::Filled;
use crate::courtesy::Courtesy;

/// How much of a trim or of zeroes is claimed and marked at a time; a multiple of every chunk size.
const PIECE: u64 = 1 << 30;

/// One volume. Its head's contents are changed through it alone until [`Restore::is_over`].
pub(crate) struct Restore<D: Disk> {
    pub(super) pool: Arc<Pool<D>>,
    pub(super) head: VersionId,
    pub(super) settings: RestoreSettings,
    pub(super) chunks: Chunks,
    pub(super) filled: Filled<D>,
    pub(super) fetches: Arc<Fetches>,
    pub(super) courtesy: Arc<Courtesy>,
    claims: Claims,
    over: AtomicBool,
    /// Whether the background sees to it.
    begun: AtomicBool,
    /// The last chunk was marked, or it is over.
    ended: Notify,
    /// Why what was fetched could not be written.
    pool_problem: Mutex<Option<String>>,
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Error {
        match trouble {
            Trouble::Away(why) => Error::new(ErrorKind::Io, format!("the repository cannot be read: {why}")),
            Trouble::Damaged(why) => Error::new(ErrorKind::Corrupt, format!("the backup is damaged: {why}")),
        }
    }
}

/// Whether a volume that reads as zeroes holds this already.
fn is_zero(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(16);
    words.remainder().iter().all(|byte| *byte == 0) && words.into_iter().all(|word| word == [0; 16])
}

impl<D: Disk> Restore<D> {
    pub(super) fn new(
        head: VersionId,
        settings: RestoreSettings,
        chunks: Chunks,
        (pool, filled): (Arc<Pool<D>>, Filled<D>),
        fetches: Arc<Fetches>,
        courtesy: Arc<Courtesy>,
    ) -> Restore<D> {
        Restore {
            pool,
            head,
            settings,
            chunks,
            filled,
            fetches,
            courtesy,
            claims: Claims::default(),
            over: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            ended: Notify::new(),
            pool_problem: Mutex::default(),
        }
    }

    /// The pool that holds it.
    pub(crate) fn pool(&self) -> &Arc<Pool<D>> {
        &self.pool
    }

    /// Its head.
    pub(crate) fn head(&self) -> VersionId {
        self.head
    }

    /// What it is called now, for people.
    pub(super) fn name(&self) -> String {
        self.pool.export_name(self.head).unwrap_or_default()
    }

    /// From where.
    pub(crate) fn settings(&self) -> &RestoreSettings {
        &self.settings
    }

    /// Whether there is nothing to be done for it any more: it is complete or deleted.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// It is complete, for good, or deleted.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.fetches.close();
        self.ended.notify_one();
    }

    /// Waits until there is nothing left to fill. For one task, the background.
    pub(super) async fn ended(&self) {
        while !self.is_over() && !self.filled.is_complete() {
            self.ended.notified().await;
        }
    }

    /// Marks chunks. Must be awaited to its end.
    async fn mark(&self, lane: usize, chunks: Range<u64>) -> Result<Option<Lsn>> {
        let marked = self.filled.mark(lane, chunks).await?;
        if self.filled.is_complete() {
            self.ended.notify_one();
        }
        Ok(marked)
    }

    /// Whether nobody has begun its background before.
    pub(crate) fn begin(&self) -> bool {
        !self.begun.swap(true, Ordering::AcqRel)
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> VolumeRestore {
        let Chunks { size, chunk } = self.chunks;
        let done = if self.filled.is_complete() { size } else { (self.filled.count() * chunk).min(size - 1) };
        VolumeRestore {
            repo: self.settings.repo.clone(),
            backup: self.settings.backup.clone(),
            job: self.settings.job(),
            bytes_done: done,
            bytes_total: size,
            problem: self.pool_problem.lock().clone().or_else(|| self.fetches.problem()),
        }
    }

    pub(super) fn note_pool(&self, outcome: &Result<()>) {
        *self.pool_problem.lock() =
            outcome.as_ref().err().map(|e| format!("what is fetched cannot be written: {e}"));
    }

    /// Whether the bytes from the start of `range` on need the repository no more, and up to where that answer holds.
    pub(crate) fn stretch(&self, range: Range<u64>) -> (bool, u64) {
        let chunks = self.chunks.touched(&range);
        if self.is_over() || chunks.is_empty() {
            return (true, range.end);
        }
        let settled = self.filled.has(&(chunks.start..chunks.start + 1));
        let until = self.filled.find(!settled, chunks);
        (settled, until.map_or(range.end, |chunk| (chunk * self.chunks.chunk).min(range.end)))
    }

    fn is_settled(&self, chunks: &Range<u64>) -> bool {
        self.is_over() || self.filled.has(chunks)
    }

    /// Has the bytes of `range` in the pool, so that they can be read there.
    pub(crate) async fn fill(self: &Arc<Self>, lane: usize, range: Range<u64>) -> Result<()> {
        let chunks = self.chunks.touched(&range);
        if self.is_settled(&chunks) {
            return Ok(());
        }
        self.fill_all(lane, chunks).await
    }

    async fn fill_all(self: &Arc<Self>, lane: usize, chunks: impl Iterator<Item = u64>) -> Result<()> {
        let missing = chunks.filter(|chunk| !self.is_settled(&(*chunk..chunk + 1)));
        let begin = |chunk| {
            let this = Arc::clone(self);
            // A task of its own: who wants it may go away at any time, and what it writes must not come late.
            spawn(async move { this.fill_one(lane, chunk).await })
        };
        let tasks: Vec<JoinHandle<Result<()>>> = missing.map(begin).collect();
        let mut filled = Ok(());
        for task in tasks {
            filled = filled.and(task.await);
        }
        if filled.is_err() && self.fetches.is_stopped() {
            // Its client is cut off and not told of an error, so that it asks the next daemon again.
            std::future::pending::<()>().await;
        }
        filled
    }

    /// Fetches a chunk for somebody who waits for it.
    async fn fill_one(&self, lane: usize, chunk: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut pauses = Pauses::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let fetched = timeout(left, self.fetches.fetch(chunk, Urgency::Reader)).await;
            match fetched {
                Ok(Ok(Some(fetched))) => return self.put(lane, chunk, &fetched.bytes).await,
                // It was written meanwhile.
                Ok(Ok(None)) if self.is_settled(&(chunk..chunk + 1)) => return Ok(()),
                Ok(Ok(None)) => sleep(pauses.next().min(left)).await,
                Ok(Err(trouble)) => return Err(trouble.into()),
                Err(_) => {
                    let why = self.fetches.problem();
                    let why = why.unwrap_or_else(|| "the repository does not answer in time".to_owned());
                    return Err(Error::new(ErrorKind::Io, why));
                }
            }
        }
    }

    /// Puts a chunk's contents in, unless somebody was faster. Must be awaited to its end.
    pub(super) async fn put(&self, lane: usize, chunk: u64, contents: &Bytes) -> Result<()> {
        let chunks = chunk..chunk + 1;
        let _claim = self.claims.claim(chunks.clone()).await;
        if self.is_settled(&chunks) {
            return Ok(());
        }
        // Where there are zeroes nobody has been told of anything else.
        if !is_zero(contents) {
            let mut buf = self.pool.buffer(contents.len().next_multiple_of(cairn_cow::BLOCK_SIZE as usize));
            buf[..contents.len()].copy_from_slice(contents);
            let at = chunk * self.chunks.chunk;
            self.pool.write(lane, self.head, at, contents.len(), buf).await?;
        }
        self.mark(lane, chunks).await.map(drop)
    }

    /// Marks chunks that are holes in the backup. Must be awaited to its end.
    pub(super) async fn put_holes(&self, lane: usize, chunks: Range<u64>) -> Result<()> {
        if self.is_settled(&chunks) {
            return Ok(());
        }
        self.mark(lane, chunks.clone()).await?;
        self.fetches.needless(&chunks);
        Ok(())
    }

    /// As [`Pool::write`].
    pub(crate) async fn write(
        self: &Arc<Self>,
        lane: usize,
        offset: u64,
        len: usize,
        buf: D::Buf,
    ) -> Result<Lsn> {
        let range = offset..offset + len as u64;
        if self.is_settled(&self.chunks.touched(&range)) {
            return self.pool.write(lane, self.head, offset, len, buf).await;
        }
        let this = Arc::clone(self);
        spawn(async move {
            let write = async || this.pool.write(lane, this.head, offset, len, buf).await;
            this.change(lane, range, write).await
        })
        .await
    }

    /// As [`Pool::trim`].
    pub(crate) async fn trim(self: &Arc<Self>, lane: usize, offset: u64, len: u64) -> Result<Lsn> {
        if self.is_settled(&self.chunks.touched(&(offset..offset + len))) {
            return self.pool.trim(self.head, offset, len).await;
        }
        let this = Arc::clone(self);
        spawn(async move {
            let trim = async |piece: Range<u64>| {
                this.pool.trim(this.head, piece.start, piece.end - piece.start).await
            };
            this.change_in_pieces(lane, offset..offset + len, trim).await
        })
        .await
    }

    /// As [`Pool::zero`].
    pub(crate) async fn zero(
        self: &Arc<Self>,
        lane: usize,
        offset: u64,
        len: u64,
        kind: ExtentKind,
    ) -> Result<Lsn> {
        if self.is_settled(&self.chunks.touched(&(offset..offset + len))) {
            return self.pool.zero(lane, self.head, offset, len, kind).await;
        }
        let this = Arc::clone(self);
        spawn(async move {
            let zero = async |piece: Range<u64>| {
                this.pool.zero(lane, this.head, piece.start, piece.end - piece.start, kind).await
            };
            this.change_in_pieces(lane, offset..offset + len, zero).await
        })
        .await
    }

    async fn change_in_pieces(
        self: &Arc<Self>,
        lane: usize,
        range: Range<u64>,
        work: impl AsyncFn(Range<u64>) -> Result<Lsn>,
    ) -> Result<Lsn> {
        let mut at = range.start;
        loop {
            let end = ((at / PIECE + 1) * PIECE).min(range.end);
            let lsn = self.change(lane, at..end, async || work(at..end).await).await?;
            if end == range.end {
                return Ok(lsn);
            }
            at = end;
        }
    }

    /// Changes `range` by `work`: what of the chunks at its ends stays is there before, and the chunks that it covers are
    /// not fetched. Must be awaited to its end.
    async fn change(
        self: &Arc<Self>,
        lane: usize,
        range: Range<u64>,
        work: impl AsyncFnOnce() -> Result<Lsn>,
    ) -> Result<Lsn> {
        let (touched, whole) = (self.chunks.touched(&range), self.chunks.within(&range));
        let ends = touched.filter(|chunk| !whole.contains(chunk));
        self.fill_all(lane, ends).await?;
        if self.is_settled(&whole) {
            return work().await;
        }
        let claim = self.claims.claim(whole.clone()).await;
        let changed = work().await?;
        let marked = self.mark(lane, whole.clone()).await?;
        drop(claim);
        self.fetches.needless(&whole);
        // Whoever waits for this to be durable waits for the mark, too.
        Ok(marked.map_or(changed, |marked| marked.max(changed)))
    }
}
