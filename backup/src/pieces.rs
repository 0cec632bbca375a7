//! Pieces of work: which parts of a volume are read, and what comes of each.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::blob;
use crate::blocks::{BLOCK, Blocks};
use crate::core::Core;
use crate::cpus::{Cpus, Pace};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::BlobId;
use crate::index::Place;
use crate::keys::BlobKind;
use crate::manifest::Geometry;
use crate::map::{self, Map};
use crate::node::{Chunk, FANOUT, Node, Reference};
use crate::source::{Extents, Source};
use crate::task::Task;
use crate::upload::Known;

/// What a source is asked for at once.
const WINDOW: u64 = 4 << 30;
/// Bytes read at once where a whole stretch is wanted.
const STRETCH: u32 = 1 << 20;
/// Leaves of the base that are read ahead.
const LEAVES_AHEAD: usize = 8;

const ZEROES: &[u8] = &[0; blob::MAX_CONTENTS];

/// One chunk as a piece of work found it.
pub(crate) struct Found {
    pub(crate) chunk: u64,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Hole,
    Whole(Blob),
    Patch { base: Reference, blob: Blob, blocks: Blocks },
}

pub(crate) enum Blob {
    Known(BlobId, Place),
    New(BlobId, Vec<u8>),
}

/// What a piece of work came to.
pub(crate) struct Piece {
    pub(crate) found: Vec<Found>,
    pub(crate) read: u64,
    /// Where in the volume it ends.
    pub(crate) end: u64,
}

/// Decides what is read.
pub(crate) struct Plan {
    pub(crate) worker: Worker,
    pub(crate) base: Option<Map>,
    /// The base's size if it was larger: the chunk at the new end has other zeroes behind it.
    pub(crate) reread: Option<u64>,
    pub(crate) queue: mpsc::Sender<Task<Piece>>,
}

/// The chunks of one leaf that may have changed.
struct Touched {
    leaf: u64,
    chunks: Vec<(u64, Blocks)>,
}

/// A leaf of the base on its way.
type LeafRead = Task<Option<Arc<Node>>>;

impl Plan {
    pub(crate) async fn run(self) -> Result<()> {
        let Geometry { size, chunk } = self.worker.geometry;
        let which = if self.base.is_some() { Extents::Changed } else { Extents::Data };
        let mut start = 0;
        while start < size {
            let end = (start + WINDOW).min(size);
            let mut extents = self.worker.source.extents(which, start..end).await.map_err(|e| {
                Error::new(ErrorKind::Source, "the volume does not say what it holds").because(e)
            })?;
            if self.reread.is_some() && end == size {
                extents.push((size - 1) / u64::from(chunk) * u64::from(chunk)..size);
            }
            let touched = touched(extents, start..end, chunk);
            if !self.leaves(touched).await? {
                return Ok(());
            }
            // Nothing to read in all of a window still is progress.
            if !self.enqueue(Task::spawn(async move { Ok(Piece { found: Vec::new(), read: 0, end }) })).await
            {
                return Ok(());
            }
            start = end;
        }
        Ok(())
    }

    /// Whether anybody still wants to know.
    async fn leaves(&self, touched: Vec<Touched>) -> Result<bool> {
        let mut ahead: VecDeque<(Touched, Option<LeafRead>)> = VecDeque::new();
        let mut touched = touched.into_iter();
        loop {
            while ahead.len() < LEAVES_AHEAD
                && let Some(next) = touched.next()
            {
                let base = self.base.clone().map(|map| {
                    let leaf = next.leaf;
                    Task::spawn(async move { map.leaf(leaf).await })
                });
                ahead.push_back((next, base));
            }
            let Some((next, base)) = ahead.pop_front() else { return Ok(true) };
            let base = match base {
                Some(task) => task.done().await?,
                None => None,
            };
            if !self.chunks(next, base.as_deref()).await? {
                return Ok(false);
            }
        }
    }

    async fn chunks(&self, touched: Touched, base: Option<&Node>) -> Result<bool> {
        let Geometry { chunk: chunk_size, size } = self.worker.geometry;
        // A patch is read again and again as it grows, and costs a second fetch at restore: a quarter is its bound.
        let most = chunk_size / BLOCK / 4;
        let mut whole: Option<Range<u64>> = None;
        for (chunk, changed) in touched.chunks {
            let old = match base {
                Some(node) => map::leaf(node)?.0[(chunk % FANOUT as u64) as usize],
                None => Chunk::Hole,
            };
            let patch = match old {
                Chunk::Hole => None,
                Chunk::Whole(base) => Some((base, changed)),
                Chunk::Patched { base, blocks, .. } => Some((base, blocks.union(changed))),
            };
            // The base has other data behind the new end, which would show when the volume grows again.
            let cut = self.reread.is_some() && (chunk + 1) * u64::from(chunk_size) > size;
            match patch.filter(|(_, blocks)| !cut && blocks.count() <= most) {
                Some((base, blocks)) => {
                    if !self.whole(whole.take()).await {
                        return Ok(false);
                    }
                    let worker = self.worker.clone();
                    if !self.enqueue(Task::spawn(worker.patch(chunk, base, blocks))).await {
                        return Ok(false);
                    }
                }
                None => match &mut whole {
                    Some(run)
                        if run.end == chunk
                            && (run.end - run.start + 1) * u64::from(chunk_size) <= u64::from(STRETCH) =>
                    {
                        run.end += 1;
                    }
                    _ => {
                        if !self.whole(whole.replace(chunk..chunk + 1)).await {
                            return Ok(false);
                        }
                    }
                },
            }
        }
        Ok(self.whole(whole).await)
    }

    async fn whole(&self, chunks: Option<Range<u64>>) -> bool {
        match chunks {
            Some(chunks) => self.enqueue(Task::spawn(self.worker.clone().whole(chunks))).await,
            None => true,
        }
    }

    async fn enqueue(&self, task: Task<Piece>) -> bool {
        self.queue.send(task).await.is_ok()
    }
}

/// Which blocks of which chunks some extents touch, by leaf, in order.
fn touched(mut extents: Vec<Range<u64>>, window: Range<u64>, chunk_size: u32) -> Vec<Touched> {
    extents.sort_unstable_by_key(|extent| extent.start);
    extents.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    let size = u64::from(chunk_size);
    let mut touched: Vec<Touched> = Vec::new();
    for extent in extents {
        let (mut start, end) = (extent.start.max(window.start), extent.end.min(window.end));
        while start < end {
            let chunk = start / size;
            let stop = end.min((chunk + 1) * size);
            let leaf = chunk / FANOUT as u64;
            if touched.last().is_none_or(|last| last.leaf != leaf) {
                touched.push(Touched { leaf, chunks: Vec::new() });
            }
            if let Some(Touched { chunks, .. }) = touched.last_mut() {
                if chunks.last().is_none_or(|(last, _)| *last != chunk) {
                    chunks.push((chunk, Blocks::NONE));
                }
                if let Some((_, blocks)) = chunks.last_mut() {
                    blocks.insert_bytes((start - chunk * size) as u32..(stop - chunk * size) as u32);
                }
            }
            start = stop;
        }
    }
    touched
}

/// Reads and encodes pieces.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) core: Arc<Core>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) known: Arc<Known>,
    pub(crate) geometry: Geometry,
    pub(crate) cpus: Arc<Cpus>,
}

impl Worker {
    async fn whole(self, chunks: Range<u64>) -> Result<Piece> {
        let size = self.geometry.chunk as usize;
        let start = chunks.start * size as u64;
        let end = (chunks.end * size as u64).min(self.geometry.size);
        let mut data = self.read(start, (end - start) as usize).await?;
        let wanted = (chunks.end - chunks.start) as usize * size;
        if data.len() < wanted {
            // A volume's last chunk is as long as any; past the end are zeroes.
            let mut padded = BytesMut::zeroed(wanted);
            padded[..data.len()].copy_from_slice(&data);
            data = padded.freeze();
        }
        let found = self
            .compute(move |worker, pace| {
                chunks
                    .zip(data.chunks_exact(size))
                    .map(|(chunk, contents)| {
                        let content = if *contents == ZEROES[..size] {
                            Content::Hole
                        } else {
                            Content::Whole(worker.encode(contents)?)
                        };
                        pace.pause();
                        Ok(Found { chunk, content })
                    })
                    .collect()
            })
            .await?;
        Ok(Piece { found, read: end - start, end })
    }

    async fn patch(self, chunk: u64, base: Reference, blocks: Blocks) -> Result<Piece> {
        let start = chunk * u64::from(self.geometry.chunk);
        let mut contents = BytesMut::zeroed((blocks.count() * BLOCK) as usize);
        let (mut filled, mut read) = (0, 0);
        for run in blocks.runs() {
            let from = start + u64::from(run.start);
            // Past the volume's end are zeroes.
            let len = self.geometry.size.saturating_sub(from).min(u64::from(run.end - run.start)) as usize;
            if len > 0 {
                contents[filled..filled + len].copy_from_slice(&self.read(from, len).await?);
            }
            filled += (run.end - run.start) as usize;
            read += len as u64;
        }
        let found = self
            .compute(move |worker, _| {
                let blob = worker.encode(&contents)?;
                Ok(vec![Found { chunk, content: Content::Patch { base, blob, blocks } }])
            })
            .await?;
        Ok(Piece { found, read, end: (start + u64::from(self.geometry.chunk)).min(self.geometry.size) })
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let failed = |e: io::Error| {
            Error::new(ErrorKind::Source, format!("{len} bytes of the volume at {offset} cannot be read"))
                .because(e)
        };
        let data = self.source.read_at(offset, len).await.map_err(failed)?;
        if data.len() == len { Ok(data) } else { Err(failed(io::ErrorKind::UnexpectedEof.into())) }
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Worker, &mut Pace) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let worker = self.clone();
        self.cpus.compute(move |pace| work(&worker, pace)).await?
    }

    fn encode(&self, contents: &[u8]) -> Result<Blob> {
        let id = self.core.keys.blob_id(BlobKind::Chunk, contents);
        match self.known.find(&id) {
            Some(place) => Ok(Blob::Known(id, place)),
            None => Ok(Blob::New(id, blob::encode(&self.core.keys, &id, contents)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_become_blocks_of_chunks_of_leaves() {
        let chunk = 64 << 10;
        let extents = vec![
            5 * 65536 - 1..5 * 65536 + 4096,
            0..1,
            10..20,
            5 * 65536..5 * 65536 + 1,
            300 * 65536..301 * 65536,
            4096..8192,
        ];
        let touched = touched(extents, 0..1 << 30, chunk);
        let shape: Vec<_> = touched
            .iter()
            .flat_map(|leaf| leaf.chunks.iter().map(|(chunk, blocks)| (leaf.leaf, *chunk, blocks.count())))
            .collect();
        assert_eq!(shape, [(0, 0, 2), (0, 4, 1), (0, 5, 1), (1, 300, 16)]);
    }
}
