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
/// Bytes read at once.
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

/// What of one chunk is read, and what comes of it.
enum Part {
    Whole(u64),
    Patch { chunk: u64, base: Reference, blocks: Blocks },
}

impl Part {
    fn chunk(&self) -> u64 {
        match self {
            Part::Whole(chunk) | Part::Patch { chunk, .. } => *chunk,
        }
    }

    fn bytes(&self, chunk_size: u32) -> u32 {
        match self {
            Part::Whole(_) => chunk_size,
            Part::Patch { blocks, .. } => blocks.count() * BLOCK,
        }
    }
}

/// Parts that become one piece of work: what each costs besides, for threads to meet and for a turn at the disk, is paid once.
#[derive(Default)]
struct Batch {
    parts: Vec<Part>,
    bytes: u32,
}

impl Batch {
    /// Adds a part; gives back what was there if there was no room.
    fn add(&mut self, part: Part, chunk_size: u32) -> Option<Batch> {
        let bytes = part.bytes(chunk_size);
        let full = (self.bytes + bytes > STRETCH).then(|| std::mem::take(self));
        self.bytes += bytes;
        self.parts.push(part);
        full
    }
}

/// Where parts lie in the volume, without what is past its end, and as few as can be.
fn ranges(parts: &[Part], Geometry { size, chunk: chunk_size }: Geometry) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut add = |start: u64, end: u64| match ranges.last_mut() {
        _ if start >= size => {}
        Some(last) if last.end == start => last.end = end.min(size),
        _ => ranges.push(start..end.min(size)),
    };
    for part in parts {
        let start = part.chunk() * u64::from(chunk_size);
        match part {
            Part::Whole(_) => add(start, start + u64::from(chunk_size)),
            Part::Patch { blocks, .. } => {
                for run in blocks.runs() {
                    add(start + u64::from(run.start), start + u64::from(run.end));
                }
            }
        }
    }
    ranges
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
        let mut batch = Batch::default();
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
            let Some((next, base)) = ahead.pop_front() else { return Ok(self.read(batch).await) };
            let base = match base {
                Some(task) => task.done().await?,
                None => None,
            };
            if !self.chunks(next, base.as_deref(), &mut batch).await? {
                return Ok(false);
            }
        }
    }

    /// Adds what is to be read of some chunks to `batch`, which goes on its way each time it is full.
    async fn chunks(&self, touched: Touched, base: Option<&Node>, batch: &mut Batch) -> Result<bool> {
        let Geometry { chunk: chunk_size, size } = self.worker.geometry;
        // A patch is read again and again as it grows, and costs a second fetch at restore: a quarter is its bound.
        let most = chunk_size / BLOCK / 4;
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
            let part = match patch.filter(|(_, blocks)| !cut && blocks.count() <= most) {
                Some((base, blocks)) => Part::Patch { chunk, base, blocks },
                None => Part::Whole(chunk),
            };
            if let Some(full) = batch.add(part, chunk_size)
                && !self.read(full).await
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn read(&self, batch: Batch) -> bool {
        batch.parts.is_empty() || self.enqueue(Task::spawn(self.worker.clone().read(batch.parts))).await
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
    /// Reads and encodes parts, which ascend.
    async fn read(self, parts: Vec<Part>) -> Result<Piece> {
        let Geometry { size, chunk } = self.geometry;
        let wanted = parts.iter().map(|part| part.bytes(chunk) as usize).sum();
        let ranges = ranges(&parts, self.geometry);
        let read: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let mut data = if ranges.is_empty() { Bytes::new() } else { self.contents(ranges, read).await? };
        if data.len() < wanted {
            // A volume's last chunk is as long as any; past the end are zeroes.
            let mut padded = BytesMut::zeroed(wanted);
            padded[..data.len()].copy_from_slice(&data);
            data = padded.freeze();
        }
        let end = parts.last().map_or(0, |part| (part.chunk() + 1) * u64::from(chunk)).min(size);
        let found = self.compute(move |worker, pace| worker.encode_parts(parts, &data, pace)).await?;
        Ok(Piece { found, read, end })
    }

    async fn contents(&self, ranges: Vec<Range<u64>>, len: u64) -> Result<Bytes> {
        let (from, to) =
            (ranges.first().map_or(0, |first| first.start), ranges.last().map_or(0, |last| last.end));
        let failed = |e: io::Error| {
            let what = match to - from == len {
                true => format!("{len} bytes of the volume at {from} cannot be read"),
                false => format!("{len} bytes of the volume between {from} and {to} cannot be read"),
            };
            Error::new(ErrorKind::Source, what).because(e)
        };
        let data = self.source.read(ranges).await.map_err(failed)?;
        if data.len() as u64 == len { Ok(data) } else { Err(failed(io::ErrorKind::UnexpectedEof.into())) }
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Worker, &mut Pace) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let worker = self.clone();
        self.cpus.compute(move |pace| work(&worker, pace)).await?
    }

    fn encode_parts(&self, parts: Vec<Part>, mut data: &[u8], pace: &mut Pace) -> Result<Vec<Found>> {
        let mut found = Vec::with_capacity(parts.len());
        for part in parts {
            let (contents, rest) = data.split_at(part.bytes(self.geometry.chunk) as usize);
            data = rest;
            found.push(match part {
                Part::Whole(chunk) if *contents == ZEROES[..contents.len()] => {
                    Found { chunk, content: Content::Hole }
                }
                Part::Whole(chunk) => Found { chunk, content: Content::Whole(self.encode(contents)?) },
                Part::Patch { chunk, base, blocks } => {
                    Found { chunk, content: Content::Patch { base, blob: self.encode(contents)?, blocks } }
                }
            });
            pace.pause();
        }
        Ok(found)
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

    #[test]
    fn parts_are_read_in_few_ranges_and_not_past_the_end() {
        let base = Reference { id: BlobId([7; 32]), hint: None };
        let patch = |chunk, bytes| {
            let mut blocks = Blocks::NONE;
            blocks.insert_bytes(bytes);
            Part::Patch { chunk, base, blocks }
        };
        let geometry = Geometry { size: 10 * 65536 - 5000, chunk: 65536 };
        let parts = [
            patch(0, 0..4096),
            patch(1, 61440..65536),
            Part::Whole(2),
            Part::Whole(3),
            patch(4, 0..1),
            patch(9, 49152..65536),
        ];
        assert_eq!(
            ranges(&parts, geometry),
            [0..4096, 2 * 65536 - 4096..4 * 65536 + 4096, 9 * 65536 + 49152..10 * 65536 - 5000]
        );
        assert_eq!(ranges(&[patch(9, 61440..65536)], geometry), []);
    }

    #[test]
    fn a_batch_goes_when_the_next_part_is_too_much() {
        let mut batch = Batch::default();
        for chunk in 0..16 {
            assert!(batch.add(Part::Whole(chunk * 3), 65536).is_none());
        }
        let full = batch.add(Part::Whole(100), 65536).expect("a MiB");
        assert_eq!((full.parts.len(), full.bytes, batch.parts.len()), (16, STRETCH, 1));
    }
}
