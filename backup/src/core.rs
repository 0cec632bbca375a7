//! What every part of an open repository works with, and how a blob is read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::blob;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BlobId, PackId};
use crate::index::{Index, Place, View};
use crate::keys::{BlobKind, Keys};
use crate::limit::Limiter;
use crate::node::{Node, Reference};
use crate::pack;
use crate::store::Store;

/// An open repository's parts.
pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) config: Config,
}

impl Core {
    /// Refuses to write where a newer version's additions would be lost.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.config.read_only {
            let context = "the repository has features that this cairn can read, but not write";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        Ok(())
    }
}

/// Reads blobs: by their hints, and where these fail by the index.
pub(crate) struct Fetcher {
    core: Arc<Core>,
    /// The index, once a hint has failed or it was given; when it was loaded.
    index: tokio::sync::Mutex<Option<(Arc<Index>, Instant)>>,
    limiter: Option<Limiter>,
    transferred: AtomicU64,
    nodes: Mutex<NodeCache>,
    /// Packs that a newer index than the one that named them does not have either.
    gone: Mutex<HashSet<PackId>>,
}

/// Where a blob was looked for in vain.
#[derive(Default)]
struct Tried {
    places: Vec<Place>,
    why: Vec<String>,
    missing: Vec<PackId>,
}

/// How long an index that did not help is taken as the newest there is.
const INDEX_FRESH: Duration = Duration::from_secs(5);

impl Fetcher {
    pub(crate) fn new(core: Arc<Core>, index: Option<Arc<Index>>, limiter: Option<Limiter>) -> Fetcher {
        Fetcher {
            core,
            index: tokio::sync::Mutex::new(index.map(|index| (index, Instant::now()))),
            limiter,
            transferred: AtomicU64::new(0),
            nodes: Mutex::new(NodeCache::default()),
            gone: Mutex::default(),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Bytes that came from the store.
    pub(crate) fn transferred(&self) -> u64 {
        self.transferred.load(Ordering::Relaxed)
    }

    /// Bytes of a pack as they lie there; nothing if the pack is gone.
    pub(crate) async fn range(&self, place: Place) -> Result<Option<Bytes>> {
        if let Some(limiter) = &self.limiter {
            limiter.admit(place.len as usize).await;
        }
        let range = u64::from(place.offset)..u64::from(place.offset) + u64::from(place.len);
        let found = self.core.store.find_range(&pack::name(place.pack), range).await?;
        self.transferred.fetch_add(found.as_ref().map_or(0, |bytes| bytes.len() as u64), Ordering::Relaxed);
        Ok(found)
    }

    /// A blob's contents, verified.
    pub(crate) async fn fetch(&self, kind: BlobKind, reference: &Reference) -> Result<Vec<u8>> {
        let mut tried = Tried::default();
        if let Some(place) = reference.hint
            && let Some(contents) = self.try_place(kind, &reference.id, place, &mut tried).await?
        {
            return Ok(contents);
        }
        for newer in [false, true] {
            if newer && !self.may_have_moved(&tried) && self.index_is_fresh().await {
                break;
            }
            let index = self.index(newer).await?;
            for place in index.places(&reference.id) {
                if let Some(contents) = self.try_place(kind, &reference.id, place, &mut tried).await? {
                    return Ok(contents);
                }
            }
        }
        let what = match kind {
            BlobKind::Chunk => "chunk",
            BlobKind::Node => "map node",
        };
        self.gone.lock().extend(tried.missing);
        let why = match tried.why.as_slice() {
            [] => "no pack holds it".to_owned(),
            why => why.join("; "),
        };
        Err(Error::new(ErrorKind::Corrupt, format!("{what} {}: {why}", reference.id)))
    }

    async fn try_place(
        &self,
        kind: BlobKind,
        id: &BlobId,
        place: Place,
        tried: &mut Tried,
    ) -> Result<Option<Vec<u8>>> {
        if tried.places.contains(&place) {
            return Ok(None);
        }
        tried.places.push(place);
        let name = pack::name(place.pack);
        let why = match self.range(place).await {
            Ok(Some(stored)) => match blob::decode(&self.core.keys, kind, id, &stored) {
                Some(contents) => return Ok(Some(contents)),
                None => format!("{name}: the bytes at {} do not match their checksum", place.offset),
            },
            Ok(None) => {
                tried.missing.push(place.pack);
                format!("{name}: the pack is missing")
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => error.to_string(),
            Err(error) => return Err(error),
        };
        tried.why.push(why);
        Ok(None)
    }

    /// Whether a pack was missing that a collection may have replaced: one not asked for in vain before.
    fn may_have_moved(&self, tried: &Tried) -> bool {
        let gone = self.gone.lock();
        tried.missing.iter().any(|pack| !gone.contains(pack))
    }

    async fn index_is_fresh(&self) -> bool {
        self.index.lock().await.as_ref().is_some_and(|(_, loaded)| loaded.elapsed() < INDEX_FRESH)
    }

    /// The index; with `newer` one loaded now.
    async fn index(&self, newer: bool) -> Result<Arc<Index>> {
        let mut held = self.index.lock().await;
        if let Some((index, _)) = &*held
            && !newer
        {
            return Ok(index.clone());
        }
        let index = View::load(&self.core).await?.index;
        *held = Some((index.clone(), Instant::now()));
        Ok(index)
    }

    /// A node of the map, verified and decoded.
    pub(crate) async fn node(&self, level: u8, reference: &Reference) -> Result<Arc<Node>> {
        if let Some(node) = self.nodes.lock().get(&reference.id) {
            return Ok(node);
        }
        let contents = self.fetch(BlobKind::Node, reference).await?;
        let blocks = self.core.config.chunk_size / crate::blocks::BLOCK;
        let node = Node::decode(&contents, level, blocks).map(Arc::new).ok_or_else(|| {
            // Its hash is right, so whoever wrote it wrote nonsense, or put it in the wrong place.
            Error::new(
                ErrorKind::Corrupt,
                format!("map node {}: it makes no sense at level {level}", reference.id),
            )
        })?;
        self.nodes.lock().put(reference.id, node.clone());
        Ok(node)
    }
}

/// Nodes kept at most: 40 KB each.
const CACHED_NODES: usize = 256;

#[derive(Default)]
struct NodeCache {
    nodes: HashMap<BlobId, (Arc<Node>, u64)>,
    clock: u64,
}

impl NodeCache {
    fn get(&mut self, id: &BlobId) -> Option<Arc<Node>> {
        self.clock += 1;
        let (node, used) = self.nodes.get_mut(id)?;
        *used = self.clock;
        Some(node.clone())
    }

    fn put(&mut self, id: BlobId, node: Arc<Node>) {
        self.clock += 1;
        if self.nodes.len() >= CACHED_NODES
            && let Some(oldest) = self.nodes.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)
        {
            self.nodes.remove(&oldest);
        }
        self.nodes.insert(id, (node, self.clock));
    }
}
