//! How fast a backup goes into memory and back, on one thread and on two, for data of three sorts; and what a chunk
//! size costs and saves on a file given as argument, read beside a second version of it if there is one.
//!
//! `cargo run --release -p cairn-backup --example throughput [-- FILE [FILE2]]`

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cairn_backup::{
    BackupRequest, Extents, KeyFile, OpenOptions, Repository, RestoreOptions, Sink, Source, VolumeRef, memory,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

struct Volume(Bytes);

impl Source for Volume {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extents(&self, _: Extents, range: Range<u64>) -> BoxFuture<'_, io::Result<Vec<Range<u64>>>> {
        async move { Ok(vec![range]) }.boxed()
    }

    fn read(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, io::Result<Bytes>> {
        let part = |range: &Range<u64>| self.0.slice(range.start as usize..range.end as usize);
        let data = match ranges.as_slice() {
            [one] => part(one),
            many => many.iter().map(part).collect::<Vec<_>>().concat().into(),
        };
        async { Ok(data) }.boxed()
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn write_at(&self, _: u64, _: Bytes) -> BoxFuture<'_, io::Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn hole(&self, _: u64, _: u64) -> BoxFuture<'_, io::Result<()>> {
        async { Ok(()) }.boxed()
    }
}

const SIZE: usize = 1 << 30;

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Half of each 4 KiB compresses to nothing.
fn half() -> Vec<u8> {
    let mut bytes = noise(SIZE);
    for block in bytes.chunks_mut(4096) {
        block[2048..].fill(b'x');
    }
    bytes
}

fn request(threads: usize, name: &str) -> BackupRequest {
    let volume = VolumeRef { name: name.to_owned(), id: name.to_owned() };
    BackupRequest { threads, ..BackupRequest::new(volume) }
}

async fn rates() -> cairn_backup::Result<()> {
    println!("| data | encrypted | threads | backup MB/s | again MB/s | restore MB/s | stored |");
    println!("|---|---|---|---|---|---|---|");
    for (name, data) in [("random", noise(SIZE)), ("half", half()), ("zeroes", vec![0; SIZE])] {
        let data = Bytes::from(data);
        for encrypted in [false, true] {
            for threads in [1, 2] {
                let key = if encrypted { Some(KeyFile::generate()?) } else { None };
                let options = OpenOptions { key, ..OpenOptions::default() };
                let repo = Repository::init_on(memory(), options, cairn_backup::DEFAULT_CHUNK_SIZE).await?;
                let rate = |began: Instant| SIZE as f64 / 1e6 / began.elapsed().as_secs_f64();
                let began = Instant::now();
                let backup = repo.backup(Arc::new(Volume(data.clone())), request(threads, "a")).await?;
                let first = rate(began);
                let began = Instant::now();
                repo.backup(Arc::new(Volume(data.clone())), request(threads, "b")).await?;
                let again = rate(began);
                let began = Instant::now();
                let options = RestoreOptions { threads, ..RestoreOptions::default() };
                repo.restore(backup.id, &Nowhere, &options).await?;
                let restore = rate(began);
                let stored = repo.status().await?.stored_bytes as f64 / SIZE as f64 * 100.0;
                println!(
                    "| {name} | {encrypted} | {threads} | {first:.0} | {again:.0} | {restore:.0} | {stored:.1} % |"
                );
            }
        }
    }
    Ok(())
}

async fn chunk_sizes(files: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    println!("| chunk KiB | first stored MB | second adds MB | index MB |");
    println!("|---|---|---|---|");
    for kib in [64, 128, 256, 512, 1024] {
        let store = memory();
        let repo = Repository::init_on(store.clone(), OpenOptions::default(), kib << 10).await?;
        let mut added = Vec::new();
        for file in files {
            let data = Bytes::from(std::fs::read(file)?);
            added.push(repo.backup(Arc::new(Volume(data)), request(2, file)).await?.added_bytes as f64 / 1e6);
        }
        let mut index = 0;
        store.list("index/", &mut |object| index += object.size).await?;
        let second = added.get(1).map_or("-".to_owned(), |added| format!("{added:.1}"));
        println!("| {kib} | {:.1} | {second} | {:.2} |", added[0], index as f64 / 1e6);
    }
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() { Ok(rates().await?) } else { chunk_sizes(&files).await }
}
