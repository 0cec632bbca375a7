//! Reading a backup: any range at once, for a volume that serves while it is being restored, or all of it in order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::blocks::Blocks;
use crate::core::{Core, Fetcher};
use crate::error::{Error, ErrorKind, Result};
use crate::keys::BlobKind;
use crate::limit::Limiter;
use crate::manifest::{Backup, Geometry};
use crate::map::{self, Map};
use crate::node::{Chunk, FANOUT, Reference};

/// An open backup. It reads what it needs and nothing else: a manifest, the nodes on the way, the chunks. It stays
/// valid while collections move chunks from pack to pack.
pub struct Reader {
    pub(crate) backup: Backup,
    pub(crate) geometry: Geometry,
    pub(crate) map: Map,
    pub(crate) fetcher: Arc<Fetcher>,
    chunks: Mutex<ChunkCache>,
}

/// Bytes of chunks kept for the next read.
const CACHE: usize = 32 << 20;
/// The most that one read may ask for, in bytes.
pub const MAX_READ: usize = 32 << 20;

impl Reader {
    pub(crate) fn new(core: Arc<Core>, backup: Backup, limiter: Option<Limiter>) -> Result<Reader> {
        let geometry = Geometry::new(backup.size, core.config.chunk_size)?;
        let fetcher = Arc::new(Fetcher::new(core, None, limiter));
        let map = Map::new(fetcher.clone(), geometry, backup.root);
        let room = CACHE / geometry.chunk as usize;
        Ok(Reader {
            backup,
            geometry,
            map,
            fetcher,
            chunks: Mutex::new(ChunkCache { room, ..ChunkCache::default() }),
        })
    }

    /// The backup that is read.
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// Bytes of a chunk: what one read at its start gets from the store anyway.
    pub fn chunk_size(&self) -> u32 {
        self.geometry.chunk
    }

    /// Bytes that came from the store so far.
    pub fn transferred(&self) -> u64 {
        self.fetcher.transferred()
    }

    /// Reads a range of the volume, [`MAX_READ`] bytes at most, every byte verified.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.geometry.size && len <= MAX_READ);
        let end = end.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("{len} bytes at {offset} are too many or past the end"),
            )
        })?;
        let size = u64::from(self.geometry.chunk);
        let mut out = BytesMut::zeroed(len);
        let mut at = offset;
        while at < end {
            let chunk = at / size;
            let stop = end.min((chunk + 1) * size);
            if let Some(contents) = self.chunk(chunk).await.map_err(|e| self.hurt(e))? {
                let from = (at - chunk * size) as usize;
                let part = &contents[from..from + (stop - at) as usize];
                if part.len() == len {
                    return Ok(contents.slice(from..from + len));
                }
                out[(at - offset) as usize..(stop - offset) as usize].copy_from_slice(part);
            }
            at = stop;
        }
        Ok(out.freeze())
    }

    /// The parts of `range` that are not known to be zeroes, in order and whole chunks but at the range's ends.
    pub async fn data_extents(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let size = u64::from(self.geometry.chunk);
        let end = range.end.min(self.geometry.size);
        let mut extents: Vec<Range<u64>> = Vec::new();
        let mut from = range.start / size / FANOUT as u64;
        while from * FANOUT as u64 * size < end {
            let found = self.map.next_leaf(from).await.map_err(|e| self.hurt(e))?;
            let Some((index, node)) = found else { break };
            for (slot, chunk) in map::leaf(&node)?.0.iter().enumerate() {
                let start = (index * FANOUT as u64 + slot as u64) * size;
                let (start, stop) = (start.max(range.start), (start + size).min(end));
                if *chunk == Chunk::Hole || start >= stop {
                    continue;
                }
                match extents.last_mut() {
                    Some(last) if last.end == start => last.end = stop,
                    _ => extents.push(start..stop),
                }
            }
            from = index + 1;
        }
        Ok(extents)
    }

    /// Damage hurts this backup; that the store is away does not.
    pub(crate) fn hurt(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Corrupt { error.hurting(self.backup.id) } else { error }
    }

    /// A whole chunk's contents; nothing for a hole.
    async fn chunk(&self, chunk: u64) -> Result<Option<Bytes>> {
        if let Some(contents) = self.chunks.lock().get(chunk) {
            return Ok(Some(contents));
        }
        let Some(node) = self.map.leaf(chunk / FANOUT as u64).await? else { return Ok(None) };
        let entry = map::leaf(&node)?.0[(chunk % FANOUT as u64) as usize];
        let contents = fetch_chunk(&self.fetcher, self.geometry.chunk, entry).await?;
        if let Some(contents) = &contents {
            self.chunks.lock().put(chunk, contents.clone());
        }
        Ok(contents)
    }
}

/// What an entry of a leaf stands for, verified.
pub(crate) async fn fetch_chunk(fetcher: &Fetcher, size: u32, entry: Chunk) -> Result<Option<Bytes>> {
    match entry {
        Chunk::Hole => Ok(None),
        Chunk::Whole(reference) => {
            whole(fetcher, size, &reference).await.map(|contents| Some(contents.into()))
        }
        Chunk::Patched { base, patch, blocks } => {
            let mut contents = whole(fetcher, size, &base).await?;
            let changed = fetcher.fetch(BlobKind::Chunk, &patch).await?;
            apply(&mut contents, &changed, &blocks).ok_or_else(|| odd(&patch))?;
            Ok(Some(contents.into()))
        }
    }
}

async fn whole(fetcher: &Fetcher, size: u32, reference: &Reference) -> Result<Vec<u8>> {
    let contents = fetcher.fetch(BlobKind::Chunk, reference).await?;
    if contents.len() == size as usize { Ok(contents) } else { Err(odd(reference)) }
}

/// Puts a patch's blocks where they belong.
fn apply(contents: &mut [u8], changed: &[u8], blocks: &Blocks) -> Option<()> {
    let mut rest = changed;
    for run in blocks.runs() {
        let (part, after) = rest.split_at_checked((run.end - run.start) as usize)?;
        contents.get_mut(run.start as usize..run.end as usize)?.copy_from_slice(part);
        rest = after;
    }
    rest.is_empty().then_some(())
}

fn odd(reference: &Reference) -> Error {
    Error::new(ErrorKind::Corrupt, format!("chunk {}: its size is not what the map says", reference.id))
}

/// Chunks read last.
#[derive(Default)]
struct ChunkCache {
    chunks: HashMap<u64, (Bytes, u64)>,
    clock: u64,
    room: usize,
}

impl ChunkCache {
    fn get(&mut self, chunk: u64) -> Option<Bytes> {
        self.clock += 1;
        let (contents, used) = self.chunks.get_mut(&chunk)?;
        *used = self.clock;
        Some(contents.clone())
    }

    fn put(&mut self, chunk: u64, contents: Bytes) {
        self.clock += 1;
        if self.chunks.len() >= self.room
            && let Some(oldest) =
                self.chunks.iter().min_by_key(|(_, (_, used))| *used).map(|(chunk, _)| *chunk)
        {
            self.chunks.remove(&oldest);
        }
        self.chunks.insert(chunk, (contents, self.clock));
    }
}
