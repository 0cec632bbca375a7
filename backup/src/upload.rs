//! Blobs on their way to the store: what is new goes into packs, packs go up some at a time, and an index object
//! says what they hold.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::blob;
use crate::core::Core;
use crate::error::Result;
use crate::ids::{BlobId, PackId};
use crate::index::{self, Index, Place};
use crate::keys::BlobKind;
use crate::limit::{Cancel, Limiter};
use crate::node::{Node, Reference};
use crate::objects::Staged;
use crate::pack::{self, PackBuilder, PackRecord};
use crate::task::task_failed;

/// Packs on their way at once; each is in memory until it is there.
const IN_FLIGHT: usize = 4;
/// After so many packs an index object is written: what a writer that is cut off leaves without one.
const PACKS_PER_INDEX: usize = 64;

/// After so long what was written is settled: what a writer that is killed loses with a store of files. What stays
/// unsettled for a day is litter to whoever collects garbage.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// What need not be stored again: the index as it was at the beginning, and what came since.
pub(crate) struct Known {
    index: Arc<Index>,
    fresh: RwLock<Fresh>,
}

#[derive(Default)]
struct Fresh {
    packs: Vec<PackId>,
    /// By the first half of the blob's id: pack, offset, size.
    blobs: HashMap<[u8; 16], (u32, u32, u32)>,
}

impl Known {
    pub(crate) fn new(index: Arc<Index>) -> Arc<Known> {
        Arc::new(Known { index, fresh: RwLock::new(Fresh::default()) })
    }

    /// Where a blob is that may be relied on.
    pub(crate) fn find(&self, id: &BlobId) -> Option<Place> {
        {
            let fresh = self.fresh.read();
            if let Some((pack, offset, len)) = fresh.blobs.get(&id.prefix()) {
                return Some(Place { pack: fresh.packs[*pack as usize], offset: *offset, len: *len });
            }
        }
        self.index.usable(id)
    }

    fn add(&self, place: Place, id: &BlobId) {
        let mut fresh = self.fresh.write();
        if fresh.packs.last() != Some(&place.pack) {
            fresh.packs.push(place.pack);
        }
        let pack = fresh.packs.len() as u32 - 1;
        fresh.blobs.insert(id.prefix(), (pack, place.offset, place.len));
    }
}

/// Fills packs and sends them.
pub(crate) struct Uploader {
    core: Arc<Core>,
    known: Arc<Known>,
    limiter: Option<Limiter>,
    cancel: Cancel,
    filling: [Option<PackBuilder>; 2],
    sending: JoinSet<Result<(PackRecord, Staged)>>,
    /// Sent, but not settled, and when the first of them was.
    staged: Vec<(PackRecord, Staged)>,
    staged_since: Instant,
    /// There for good, but in no index object yet.
    sent: Vec<PackRecord>,
    /// Every pack that what was added or found lies in.
    used: HashSet<PackId>,
    added_bytes: u64,
    sent_bytes: Arc<AtomicU64>,
}

impl Uploader {
    pub(crate) fn new(
        core: Arc<Core>,
        known: Arc<Known>,
        limiter: Option<Limiter>,
        cancel: Cancel,
    ) -> Uploader {
        Uploader {
            core,
            known,
            limiter,
            cancel,
            filling: [None, None],
            sending: JoinSet::new(),
            staged: Vec::new(),
            staged_since: Instant::now(),
            sent: Vec::new(),
            used: HashSet::new(),
            added_bytes: 0,
            sent_bytes: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Bytes that went to the store, as they go.
    pub(crate) fn sent_bytes(&self) -> Arc<AtomicU64> {
        self.sent_bytes.clone()
    }

    /// Bytes of blobs that were not there.
    pub(crate) fn added_bytes(&self) -> u64 {
        self.added_bytes
    }

    /// The packs that all that was added or found lies in.
    pub(crate) fn used(&self) -> &HashSet<PackId> {
        &self.used
    }

    /// Takes note of a blob that [`Known`] has.
    pub(crate) fn found(&mut self, id: BlobId, place: Place) -> Reference {
        self.used.insert(place.pack);
        Reference { id, hint: Some(place) }
    }

    /// Adds a blob as [`blob::encode`] made it, unless another like it came first.
    pub(crate) async fn add(&mut self, kind: BlobKind, id: BlobId, stored: &[u8]) -> Result<Reference> {
        if let Some(place) = self.known.find(&id) {
            return Ok(self.found(id, place));
        }
        let filling = &mut self.filling[kind as usize - 1];
        let builder = match filling {
            Some(builder) => builder,
            None => filling.insert(PackBuilder::new(&self.core.keys, kind)?),
        };
        let entry = builder.add(id, stored);
        let place = Place { pack: builder.id(), offset: entry.offset, len: entry.len };
        let full = builder.is_full();
        self.known.add(place, &id);
        self.added_bytes += stored.len() as u64;
        if full {
            self.send(kind).await?;
        }
        Ok(self.found(id, place))
    }

    /// Adds a node.
    pub(crate) async fn add_node(&mut self, node: &Node) -> Result<Reference> {
        let contents = node.encode();
        let id = self.core.keys.blob_id(BlobKind::Node, &contents);
        if let Some(place) = self.known.find(&id) {
            return Ok(self.found(id, place));
        }
        let stored = blob::encode(&self.core.keys, &id, &contents)?;
        self.add(BlobKind::Node, id, &stored).await
    }

    async fn send(&mut self, kind: BlobKind) -> Result<()> {
        let Some(builder) = self.filling[kind as usize - 1].take() else { return Ok(()) };
        while self.sending.len() >= IN_FLIGHT {
            self.collect_one().await?;
        }
        let (record, object) = builder.finish(&self.core.keys)?;
        let (core, limiter, sent_bytes) = (self.core.clone(), self.limiter.clone(), self.sent_bytes.clone());
        let cancel = self.cancel.clone();
        self.sending.spawn(async move {
            if let Some(limiter) = limiter {
                let admitted = async {
                    limiter.admit(object.len()).await;
                    Ok(())
                };
                cancel.or(admitted).await?;
            }
            let staged = core.store.stage(&pack::name(record.id), object).await?;
            sent_bytes.fetch_add(record.size, Ordering::Relaxed);
            Ok((record, staged))
        });
        if self.sent.len() + self.staged.len() >= PACKS_PER_INDEX {
            self.write_index().await?;
        }
        Ok(())
    }

    /// Waits for `work`, and meanwhile settles in time what was sent.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            let done = timeout(SETTLED_AFTER, &mut work).await;
            self.settle_what_is_due().await?;
            if let Ok(done) = done {
                return done;
            }
        }
    }

    async fn settle_what_is_due(&mut self) -> Result<()> {
        while let Some(sent) = self.sending.try_join_next() {
            self.stage(sent.map_err(task_failed)??);
        }
        if !self.staged.is_empty() && self.staged_since.elapsed() >= SETTLED_AFTER {
            let cancel = self.cancel.clone();
            cancel.or(self.settle()).await?;
        }
        Ok(())
    }

    async fn collect_one(&mut self) -> Result<()> {
        let cancel = self.cancel.clone();
        let done = loop {
            let next = timeout(SETTLED_AFTER, self.sending.join_next());
            match cancel.or(async { Ok(next.await) }).await? {
                Ok(done) => break done,
                Err(_) => self.settle_what_is_due().await?,
            }
        };
        if let Some(sent) = done.transpose().map_err(task_failed)?.transpose()? {
            self.stage(sent);
        }
        Ok(())
    }

    fn stage(&mut self, sent: (PackRecord, Staged)) {
        if self.staged.is_empty() {
            self.staged_since = Instant::now();
        }
        self.staged.push(sent);
    }

    async fn settle(&mut self) -> Result<()> {
        let (records, staged): (Vec<_>, Vec<_>) = self.staged.drain(..).unzip();
        self.core.store.settle(staged).await?;
        self.sent.extend(records);
        Ok(())
    }

    async fn write_index(&mut self) -> Result<()> {
        self.settle().await?;
        if !self.sent.is_empty() {
            index::write_object(&self.core, &self.sent).await?;
            self.sent.clear();
        }
        Ok(())
    }

    /// Sends what is left and writes the last index object: then all of it can be relied on.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.send(BlobKind::Chunk).await?;
        self.send(BlobKind::Node).await?;
        while !self.sending.is_empty() {
            self.collect_one().await?;
        }
        self.write_index().await
    }

    /// After a failure: lets packs that are on their way arrive, so that they need not be sent again. Without an index
    /// object they are found all the same.
    pub(crate) async fn abandon(&mut self) {
        while let Some(done) = self.sending.join_next().await {
            if let Ok(Ok(sent)) = done {
                self.stage(sent);
            }
        }
        if let Err(error) = self.write_index().await {
            tracing::debug!(%error, "no index of what was uploaded before the failure");
        }
    }
}
