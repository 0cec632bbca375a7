//! Restoring all of a backup in order: neighbouring chunks that lie beside each other in a pack come by one request,
//! several requests are under way, and their contents are decrypted, decompressed and verified on several threads.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::blob;
use crate::core::Fetcher;
use crate::cpus::Cpus;
use crate::error::{Error, ErrorKind, Result};
use crate::index::Place;
use crate::keys::BlobKind;
use crate::limit::{Cancel, Limiter, Meter, OnProgress, Phase};
use crate::manifest::Geometry;
use crate::map;
use crate::node::{Chunk, FANOUT, Leaf, Reference};
use crate::reader::{self, Reader};
use crate::source::Sink;
use crate::task::Task;

/// How to restore.
pub struct RestoreOptions {
    /// Threads that decrypt, decompress and verify; zero is one.
    pub threads: usize,
    /// How fast data may come.
    pub limiter: Option<Limiter>,
    /// How to stop it.
    pub cancel: Cancel,
    /// Who is told how far it is.
    pub progress: Option<OnProgress>,
}

impl Default for RestoreOptions {
    fn default() -> RestoreOptions {
        RestoreOptions { threads: 2, limiter: None, cancel: Cancel::new(), progress: None }
    }
}

/// Bytes of the volume that are fetched at once.
const STRETCH: u64 = 4 << 20;
/// Stretches under way besides one for each thread.
const AHEAD: usize = 6;

/// Chunks that follow each other in the volume.
struct Stretch {
    first: u64,
    entries: Vec<Chunk>,
}

/// A stretch's offset and contents, as soon as they are there.
type Fetched = Task<(u64, Bytes)>;

/// Restores a backup to `sink`.
pub(crate) async fn run(reader: &Arc<Reader>, sink: &dyn Sink, options: &RestoreOptions) -> Result<()> {
    let geometry = reader.geometry;
    let mut meter = Meter::new(options.progress.clone());
    meter.now.bytes_total = geometry.size;
    meter.phase(Phase::Copying);
    let threads = options.threads.max(1);
    let (queue, mut stretches) = mpsc::channel::<Fetched>(threads + AHEAD);
    let cpus = Cpus::new(threads);
    let plan = Task::spawn(plan(reader.clone(), cpus, queue));
    let mut at = 0;
    while let Some(stretch) = options.cancel.or(async { Ok(stretches.recv().await) }).await? {
        let (start, data) = options.cancel.or(stretch.done()).await.map_err(|e| reader.hurt(e))?;
        hole(sink, at, start).await?;
        at = start + data.len() as u64;
        meter.now.bytes_copied += data.len() as u64;
        sink.write_at(start, data).await.map_err(|e| not_written(start, e))?;
        meter.now.bytes_done = at;
        meter.now.bytes_transferred = reader.transferred();
        meter.tick();
    }
    plan.done().await.map_err(|e| reader.hurt(e))?;
    hole(sink, at, geometry.size).await?;
    meter.now.bytes_done = geometry.size;
    meter.phase(Phase::Finishing);
    Ok(())
}

async fn hole(sink: &dyn Sink, from: u64, to: u64) -> Result<()> {
    if from == to {
        return Ok(());
    }
    sink.hole(from, to - from).await.map_err(|e| not_written(from, e))
}

fn not_written(offset: u64, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Target, format!("the restored volume cannot be written at {offset}")).because(error)
}

/// Walks the map and starts a task for each stretch.
async fn plan(reader: Arc<Reader>, cpus: Arc<Cpus>, queue: mpsc::Sender<Fetched>) -> Result<()> {
    let mut from = 0;
    while let Some((index, node)) = reader.map.next_leaf(from).await? {
        for stretch in stretches(map::leaf(&node)?, index * FANOUT as u64, reader.geometry) {
            let (fetcher, cpus, geometry) = (reader.fetcher.clone(), cpus.clone(), reader.geometry);
            if queue.send(Task::spawn(fetch(fetcher, cpus, geometry, stretch))).await.is_err() {
                return Ok(());
            }
        }
        from = index + 1;
    }
    Ok(())
}

fn stretches(leaf: &Leaf, first: u64, geometry: Geometry) -> Vec<Stretch> {
    let most = (STRETCH / u64::from(geometry.chunk)) as usize;
    let mut found: Vec<Stretch> = Vec::new();
    for (slot, entry) in leaf.0.iter().enumerate() {
        let chunk = first + slot as u64;
        if *entry == Chunk::Hole || chunk >= geometry.chunks() {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.first + last.entries.len() as u64 == chunk && last.entries.len() < most => {
                last.entries.push(*entry);
            }
            _ => found.push(Stretch { first: chunk, entries: vec![*entry] }),
        }
    }
    found
}

async fn fetch(
    fetcher: Arc<Fetcher>,
    cpus: Arc<Cpus>,
    geometry: Geometry,
    stretch: Stretch,
) -> Result<(u64, Bytes)> {
    let size = geometry.chunk as usize;
    let mut data = BytesMut::zeroed(stretch.entries.len() * size);
    let mut done = 0;
    while done < stretch.entries.len() {
        let run = run_length(&stretch.entries[done..]);
        let mut fetched = Vec::new();
        if run > 1 {
            fetched = fetch_run(&fetcher, &cpus, &stretch.entries[done..done + run], size).await?;
        }
        for i in 0..run {
            let out = &mut data[(done + i) * size..(done + i + 1) * size];
            match fetched.get(i).and_then(Option::as_ref) {
                Some(contents) => out.copy_from_slice(contents),
                // Alone, or not where it was: the slow way, which also knows what to say when it fails.
                None => {
                    if let Some(contents) =
                        reader::fetch_chunk(&fetcher, geometry.chunk, stretch.entries[done + i]).await?
                    {
                        out.copy_from_slice(&contents);
                    }
                }
            }
        }
        done += run;
    }
    let start = stretch.first * size as u64;
    data.truncate((geometry.size - start).min(data.len() as u64) as usize);
    Ok((start, data.freeze()))
}

/// How many of the first entries lie one after the other in one pack; at least one.
fn run_length(entries: &[Chunk]) -> usize {
    let place = |entry: &Chunk| match entry {
        Chunk::Whole(Reference { hint, .. }) => *hint,
        _ => None,
    };
    let mut run = 1;
    let mut last = entries.first().and_then(place);
    while let (Some(before), Some(next)) = (last, entries.get(run).and_then(place)) {
        if next.pack != before.pack || before.offset.checked_add(before.len) != Some(next.offset) {
            break;
        }
        (last, run) = (Some(next), run + 1);
    }
    run
}

/// The contents of a run by one request; nothing for what does not come out right.
async fn fetch_run(
    fetcher: &Arc<Fetcher>,
    cpus: &Arc<Cpus>,
    entries: &[Chunk],
    size: usize,
) -> Result<Vec<Option<Vec<u8>>>> {
    let references: Vec<(Reference, Place)> = entries
        .iter()
        .filter_map(|entry| match entry {
            Chunk::Whole(reference) => reference.hint.map(|place| (*reference, place)),
            _ => None,
        })
        .collect();
    let (Some((_, first)), Some((_, last))) = (references.first(), references.last()) else {
        return Ok(Vec::new());
    };
    let all = Place { pack: first.pack, offset: first.offset, len: last.offset - first.offset + last.len };
    let stored = match fetcher.range(all).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let core = fetcher.core().clone();
    cpus.compute(move |pace| {
        references
            .iter()
            .map(|(reference, place)| {
                let from = (place.offset - all.offset) as usize;
                let stored = &stored[from..from + place.len as usize];
                let contents = blob::decode(&core.keys, BlobKind::Chunk, &reference.id, stored);
                pace.pause();
                contents.filter(|contents| contents.len() == size)
            })
            .collect()
    })
    .await
}
