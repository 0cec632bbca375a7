//! The background of a restore: fetches, in order, what nobody has asked for.
//!
//! Runs on the [`worker`](super::worker)'s thread and sends what it has fetched to a reactor. It goes through the volume in
//! passes: what is damaged is left out, and looked for again by the next pass. While the repository is away it waits, for as
//! long as it takes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cairn_cow::{Disk, ErrorKind, Result};
use cairn_uring::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::fetches::{LONGEST_PAUSE, Pauses, Trouble, Urgency};
use super::volume::Restore;
use crate::seldom::Seldom;

/// Chunks under way at once.
const WIDTH: usize = 8;
/// How much of the volume is looked at for holes at a time, in chunks: a few leaves of the backup's map.
const WINDOW: u64 = 4096;
/// The same where the map is damaged: one leaf.
const SMALL_WINDOW: u64 = 256;
/// The lane of the reactor that control operations run on.
const LANE: usize = 0;
/// How long what could not be had is left alone.
const BETWEEN_PASSES: Duration = Duration::from_secs(60);
/// How long a pool that takes no writes is left alone.
const POOL_PAUSE: Duration = Duration::from_secs(10);
/// A backup may be damaged in very many places.
static DAMAGES: Seldom<()> = Seldom::new(Duration::from_secs(10));

/// Fills all of a volume by way of `reactor`, the first one. False when there is nothing left to fill because the volume is
/// gone, or the daemon stops.
pub(crate) async fn fill_all<D: Disk>(restore: &Arc<Restore<D>>, reactor: &Handle) -> bool {
    while !restore.is_over() && reactor.is_open() {
        pass(restore, reactor).await;
        if restore.filled.is_complete() {
            return true;
        }
        // Until then a reader may have had more luck, or a writer overwritten what could not be had.
        let _ = timeout(BETWEEN_PASSES, restore.ended()).await;
    }
    false
}

/// Goes through what is missing once.
async fn pass<D: Disk>(restore: &Arc<Restore<D>>, reactor: &Handle) {
    let width = Arc::new(Semaphore::new(WIDTH));
    let mut under_way = JoinSet::new();
    let mut at = 0;
    while let Some(first) = restore.filled.find(false, at..restore.chunks.count()) {
        let Some((window, data)) = look(restore, first).await else { break };
        at = first;
        for run in data {
            if at < run.start {
                holes(restore, reactor, at..run.start).await;
            }
            for chunk in run.clone() {
                if restore.filled.has(&(chunk..chunk + 1)) {
                    continue;
                }
                restore.fetches.give_way().await;
                // It is never closed.
                let Ok(place) = Arc::clone(&width).acquire_owned().await else { return };
                if restore.is_over() {
                    return;
                }
                let (restore, reactor) = (Arc::clone(restore), reactor.clone());
                under_way.spawn(async move {
                    fill(&restore, &reactor, chunk).await;
                    drop(place);
                });
                while under_way.try_join_next().is_some() {}
            }
            at = run.end;
        }
        if at < window.end {
            holes(restore, reactor, at..window.end).await;
            at = window.end;
        }
    }
    while under_way.join_next().await.is_some() {}
}

/// The chunks of the window from `first` on, and those of them that hold data. None when the restore is over.
async fn look<D: Disk>(restore: &Restore<D>, first: u64) -> Option<(Range<u64>, Vec<Range<u64>>)> {
    let mut chunks = WINDOW;
    loop {
        if restore.is_over() {
            return None;
        }
        let window = first..(first + chunks).min(restore.chunks.count());
        match restore.fetches.data(restore.chunks.bytes(&window)).await {
            Ok(data) => {
                let runs = data.iter().map(|bytes| restore.chunks.touched(bytes));
                return Some((window, runs.collect()));
            }
            Err(Trouble::Away(_)) => sleep(LONGEST_PAUSE).await,
            Err(Trouble::Damaged(_)) if chunks > SMALL_WINDOW => chunks = SMALL_WINDOW,
            // Each chunk then shows whether it can be had.
            Err(Trouble::Damaged(_)) => return Some((window.clone(), vec![window])),
        }
    }
}

/// Marks what the backup has nothing of.
async fn holes<D: Disk>(restore: &Arc<Restore<D>>, reactor: &Handle, chunks: Range<u64>) {
    let mark = move |restore: Arc<Restore<D>>| async move { restore.put_holes(LANE, chunks).await };
    in_pool(restore, reactor, mark).await;
}

/// Fetches a chunk and puts it into the pool, unless it is damaged.
async fn fill<D: Disk>(restore: &Arc<Restore<D>>, reactor: &Handle, chunk: u64) {
    let settled = || restore.is_over() || restore.filled.has(&(chunk..chunk + 1));
    let mut pauses = Pauses::default();
    while !settled() {
        match restore.fetches.fetch(chunk, Urgency::Background).await {
            Ok(Some(fetched)) => {
                let put = move |restore: Arc<Restore<D>>| async move {
                    restore.courtesy.in_turn(restore.put(LANE, chunk, &fetched.bytes)).await
                };
                return in_pool(restore, reactor, put).await;
            }
            // It was written meanwhile.
            Ok(None) if settled() => return,
            Ok(None) => sleep(pauses.next()).await,
            Err(Trouble::Away(_)) => sleep(LONGEST_PAUSE).await,
            Err(Trouble::Damaged(why)) => {
                if let Some(held_back) = DAMAGES.due(()) {
                    let volume = restore.name();
                    tracing::error!(volume, chunk, "a restore leaves a chunk out: {why}{held_back}");
                }
                return;
            }
        }
    }
}

/// Changes the pool on the reactor, in the end: one that is full, or takes no writes, is tried again.
async fn in_pool<D: Disk, F, Fut>(restore: &Arc<Restore<D>>, reactor: &Handle, change: F)
where
    F: FnOnce(Arc<Restore<D>>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    loop {
        let (change, on) = (change.clone(), Arc::clone(restore));
        let Ok(changed) = reactor.spawn_with(move || change(on)) else { return };
        let Ok(changed) = changed.await else { return };
        if restore.is_over() || changed.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            return;
        }
        restore.note_pool(&changed);
        if changed.is_ok() {
            return;
        }
        let _ = timeout(POOL_PAUSE, restore.ended()).await;
    }
}
