//! A disk that nothing is written to: what would be is kept in memory beside it.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;

use crate::disk::{Disk, Survivor};
use crate::types::{BLOCK_BYTES, BLOCK_SIZE};

/// A view of a disk that takes writes and keeps them to itself, so that a pool can be opened, checked or repaired without
/// a change to it. What is written stays in memory: opening and checking write little.
pub struct Overlay<D> {
    below: D,
    /// What the last process to use the pool left, if that is known.
    left: Option<Vec<u8>>,
    state: Mutex<State>,
}

struct State {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl<D: Disk> Overlay<D> {
    /// A view of `below`, whose [`Disk::survivor`] holds what is in `left`.
    pub fn new(below: D, left: Option<Vec<u8>>) -> Overlay<D> {
        let state = State { len: below.len(), blocks: BTreeMap::new() };
        Overlay { below, left, state: Mutex::new(state) }
    }
}

impl<D: Disk> Disk for Overlay<D> {
    type Buf = D::Buf;

    fn alloc(&self, len: usize) -> D::Buf {
        self.below.alloc(len)
    }

    async fn read(&self, offset: u64, mut buf: D::Buf) -> (io::Result<()>, D::Buf) {
        let (end, below) = (offset + buf.len() as u64, self.below.len());
        if end > self.len() {
            return (Err(io::ErrorKind::UnexpectedEof.into()), buf);
        }
        if end <= below {
            let result;
            (result, buf) = self.below.read(offset, buf).await;
            // What lies over a block that cannot be read replaces it.
            if let Err(error) = result
                && !self.covers(offset, end)
            {
                return (Err(error), buf);
            }
        } else {
            let there = below.saturating_sub(offset) as usize / BLOCK_BYTES * BLOCK_BYTES;
            buf.fill(0);
            if there > 0 {
                let (result, part) = self.below.read(offset, self.below.alloc(there)).await;
                if result.is_err() {
                    return (result, buf);
                }
                buf[..there].copy_from_slice(&part);
            }
        }
        let state = self.state.lock();
        for (block, bytes) in state.blocks.range(offset / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE)) {
            let at = (block * BLOCK_SIZE - offset) as usize;
            buf[at..at + BLOCK_BYTES].copy_from_slice(bytes);
        }
        (Ok(()), buf)
    }

    async fn write(&self, offset: u64, bufs: Vec<D::Buf>) -> (io::Result<()>, Vec<D::Buf>) {
        let mut state = self.state.lock();
        let mut at = offset;
        for buf in &bufs {
            if !at.is_multiple_of(BLOCK_SIZE) || !buf.len().is_multiple_of(BLOCK_BYTES) {
                return (Err(io::ErrorKind::InvalidInput.into()), bufs);
            }
            for block in buf.chunks_exact(BLOCK_BYTES) {
                state.blocks.insert(at / BLOCK_SIZE, block.into());
                at += BLOCK_SIZE;
            }
        }
        state.len = state.len.max(at);
        drop(state);
        (Ok(()), bufs)
    }

    async fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    async fn grow(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.len = state.len.max(len);
        Ok(())
    }

    fn survivor(&self, len: usize) -> Option<Box<dyn Survivor>> {
        let left = self.left.clone().filter(|left| left.len() == len)?;
        Some(Box::new(Copied(left)))
    }

    fn len(&self) -> u64 {
        self.state.lock().len
    }
}

impl<D> Overlay<D> {
    /// Whether all of a range was written here.
    fn covers(&self, offset: u64, end: u64) -> bool {
        let blocks = offset / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE);
        let expected = blocks.end - blocks.start;
        self.state.lock().blocks.range(blocks).count() as u64 == expected
    }
}

/// A copy of what a process left.
struct Copied(Vec<u8>);

impl Survivor for Copied {
    fn load(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0[at..at + into.len()]);
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn discard(self: Box<Self>) {}
}
