//! What a disk may hold: the history of every block, as the client that wrote it saw it.
//!
//! Each write carries a counter from one clock, and the same clock says when a request was sent and when its answer
//! came. No two requests in flight touch the same block, so the versions of one block are totally ordered, and from
//! the clock alone follow three promises:
//!
//! - **Crash.** A block holds its newest durable version (answered before a completed flush was *sent*, or FUA) or a
//!   version sent after it; never an older one, never a mixture ([`Model::recovered`]).
//! - **Calm.** With nothing in flight every block holds its newest version ([`Model::current`]).
//! - **Cut.** A snapshot is one point in the order of writes: no write it lacks was answered before a write it has was
//!   sent ([`Cut`]). For requests that are intervals in time this is not only necessary but sufficient.
//!
//! The unit is the block of 4 KiB because that is what the engine replaces at once; a version is the eight stamps of
//! its sectors, so that a write of one sector over an older block is a version of its own.

use std::collections::{BTreeSet, VecDeque};

use crate::data::{BLOCK, SECTOR, SECTORS_PER_BLOCK, stamp_of};

/// A moment on the one clock that orders sending and answering; also the counter a write carries.
pub type Tick = u64;

/// The stamps of a block's sectors: the counter of the write that left each, 0 for zeroes.
pub type Stamps = [Tick; SECTORS_PER_BLOCK];

#[derive(Debug, Clone)]
struct Version {
    stamps: Stamps,
    sent: Tick,
    answered: Option<Tick>,
}

#[derive(Debug)]
struct Block {
    versions: VecDeque<Version>,
    /// Index of the newest version that must survive a crash.
    durable: usize,
    in_flight: bool,
}

/// A write that was begun.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    /// What the write's sectors are stamped with.
    pub counter: Tick,
    /// Its first sector.
    pub sector: u64,
    /// How many sectors.
    pub sectors: u64,
}

/// The history of one disk.
#[derive(Debug)]
pub struct Model {
    blocks: Vec<Block>,
    clock: Tick,
    keep_history: bool,
    /// Blocks with versions newer than their durable one: all that a flush has to look at.
    unsettled: BTreeSet<usize>,
}

impl Model {
    /// A disk of zeroes. With `keep_history` versions stay after they became durable: what [`Cut`] needs.
    pub fn new(size: u64, keep_history: bool) -> Model {
        let zeroes = || Version { stamps: [0; SECTORS_PER_BLOCK], sent: 0, answered: Some(0) };
        let blocks = (0..size / BLOCK as u64)
            .map(|_| Block { versions: VecDeque::from([zeroes()]), durable: 0, in_flight: false })
            .collect();
        Model { blocks, clock: 0, keep_history, unsettled: BTreeSet::new() }
    }

    /// Sectors of the disk.
    pub fn sectors(&self) -> u64 {
        (self.blocks.len() * SECTORS_PER_BLOCK) as u64
    }

    /// A new moment.
    pub fn tick(&mut self) -> Tick {
        self.clock += 1;
        self.clock
    }

    /// Begins a write of stamps, or of zeroes; `None` while another request to one of its blocks is in flight.
    pub fn begin(&mut self, sector: u64, sectors: u64, zeroes: bool) -> Option<Ticket> {
        let touched = blocks_of(sector, sectors);
        if self.blocks[touched.clone()].iter().any(|block| block.in_flight) {
            return None;
        }
        let counter = self.tick();
        for index in touched {
            let block = &mut self.blocks[index];
            let mut stamps = block.newest().stamps;
            for (place, stamp) in stamps.iter_mut().enumerate() {
                let number = (index * SECTORS_PER_BLOCK + place) as u64;
                if (sector..sector + sectors).contains(&number) {
                    *stamp = if zeroes { 0 } else { counter };
                }
            }
            block.versions.push_back(Version { stamps, sent: counter, answered: None });
            block.in_flight = true;
            self.unsettled.insert(index);
        }
        Some(Ticket { counter, sector, sectors })
    }

    /// The answer to a write arrived; with `fua` it is durable.
    pub fn answered(&mut self, ticket: Ticket, fua: bool) {
        let now = self.tick();
        for index in blocks_of(ticket.sector, ticket.sectors) {
            let block = &mut self.blocks[index];
            block.in_flight = false;
            if let Some(newest) = block.versions.back_mut() {
                newest.answered = Some(now);
            }
            if fua {
                let newest = block.versions.len() - 1;
                self.settle(index, newest);
            }
        }
    }

    /// A flush that was sent at `sent` completed: every version answered before that is durable.
    pub fn flushed(&mut self, sent: Tick) {
        for index in self.unsettled.clone() {
            let block = &self.blocks[index];
            let covered = block.versions.iter().rposition(|v| v.answered.is_some_and(|at| at <= sent));
            if let Some(version) = covered.filter(|version| *version > block.durable) {
                self.settle(index, version);
            }
        }
    }

    /// The daemon died: nothing is in flight any more, and what was stays undecided until it is read.
    pub fn crashed(&mut self) {
        for block in &mut self.blocks {
            block.in_flight = false;
        }
    }

    /// Checks what a block holds after a crash. What it holds is its state from now on: recovery that showed it once
    /// must show it again.
    pub fn recovered(&mut self, index: usize, bytes: &[u8]) -> Result<(), String> {
        let found = decode(index, bytes)?;
        let block = &mut self.blocks[index];
        let allowed = block.versions.range(block.durable..);
        if let Some(version) = allowed.clone().find(|version| version.stamps == found).cloned() {
            block.versions = VecDeque::from([Version { answered: Some(version.sent), ..version }]);
            block.durable = 0;
            self.unsettled.remove(&index);
            return Ok(());
        }
        let allowed: Vec<&Stamps> = allowed.map(|version| &version.stamps).collect();
        Err(format!("block {index} after the crash holds {found:?}; durable, then sent later: {allowed:?}"))
    }

    /// Checks what a block holds while nothing is in flight.
    pub fn current(&self, index: usize, bytes: &[u8]) -> Result<(), String> {
        let found = decode(index, bytes)?;
        let expected = self.blocks[index].newest().stamps;
        if found == expected { Ok(()) } else { Err(differs(index, &found, &expected)) }
    }

    /// What the whole disk holds while nothing is in flight: what a snapshot taken now must hold for ever.
    pub fn image(&self) -> Vec<Stamps> {
        self.blocks.iter().map(|block| block.newest().stamps).collect()
    }

    /// Starts the check of a snapshot that was asked for at `asked` and answered at `answered`.
    pub fn cut(&self, asked: Tick, answered: Tick) -> Cut<'_> {
        Cut { model: self, asked, answered, newest_inside: None, oldest_outside: None }
    }

    fn settle(&mut self, index: usize, version: usize) {
        let block = &mut self.blocks[index];
        if self.keep_history {
            block.durable = version;
        } else {
            block.versions.drain(..version);
            block.durable = 0;
        }
        if block.durable + 1 == block.versions.len() {
            self.unsettled.remove(&index);
        }
    }
}

impl Block {
    fn newest(&self) -> &Version {
        self.versions.back().expect("a block always has a version")
    }
}

/// The check that a snapshot is one point in the order of writes.
#[derive(Debug)]
pub struct Cut<'a> {
    model: &'a Model,
    asked: Tick,
    answered: Tick,
    /// When the latest write that the snapshot has was sent, and its block.
    newest_inside: Option<(Tick, usize)>,
    /// When the earliest write that it lacks was answered, and its block.
    oldest_outside: Option<(Tick, usize)>,
}

impl Cut<'_> {
    /// Looks at one block of the snapshot.
    pub fn block(&mut self, index: usize, bytes: &[u8]) -> Result<(), String> {
        let found = decode(index, bytes)?;
        let versions = &self.model.blocks[index].versions;
        let inside = versions
            .iter()
            .rposition(|version| version.stamps == found)
            .ok_or_else(|| format!("block {index} holds {found:?}, which it never was"))?;
        self.newest_inside = self.newest_inside.max(Some((versions[inside].sent, index)));
        if let Some(at) = versions.get(inside + 1).and_then(|version| version.answered) {
            let candidate = (at, index);
            self.oldest_outside = Some(self.oldest_outside.map_or(candidate, |oldest| oldest.min(candidate)));
        }
        Ok(())
    }

    /// Judges the whole, once every block was looked at.
    pub fn finish(self) -> Result<(), String> {
        let Cut { asked, answered, .. } = self;
        if let Some((sent, block)) = self.newest_inside.filter(|(sent, _)| *sent > answered) {
            return Err(format!(
                "block {block} has a write sent at {sent}, after the snapshot's answer at {answered}"
            ));
        }
        let Some((missed, lacking)) = self.oldest_outside else { return Ok(()) };
        if missed < asked {
            return Err(format!(
                "block {lacking} lacks a write answered at {missed}, before the snapshot was asked for at {asked}"
            ));
        }
        match self.newest_inside {
            Some((sent, having)) if missed < sent => Err(format!(
                "no point in the order of writes: block {lacking} lacks a write answered at {missed}, yet block \
                 {having} has one sent at {sent}"
            )),
            _ => Ok(()),
        }
    }
}

/// Compares a block with the stamps it must have, for what was taken with [`Model::image`].
pub fn same(index: usize, bytes: &[u8], expected: &Stamps) -> Result<(), String> {
    let found = decode(index, bytes)?;
    if found == *expected { Ok(()) } else { Err(differs(index, &found, expected)) }
}

/// Hands every block of `bytes`, which begin at the block-aligned `offset`, to `check`.
pub fn each_block(
    offset: u64,
    bytes: &[u8],
    mut check: impl FnMut(usize, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let first = (offset / BLOCK as u64) as usize;
    bytes.chunks(BLOCK).enumerate().try_for_each(|(place, block)| check(first + place, block))
}

fn differs(index: usize, found: &Stamps, expected: &Stamps) -> String {
    format!("block {index} holds {found:?}, expected {expected:?}")
}

fn decode(index: usize, bytes: &[u8]) -> Result<Stamps, String> {
    let mut stamps = [0; SECTORS_PER_BLOCK];
    for (place, (stamp, sector)) in stamps.iter_mut().zip(bytes.chunks_exact(SECTOR)).enumerate() {
        let number = (index * SECTORS_PER_BLOCK + place) as u64;
        *stamp = stamp_of(sector, number).ok_or_else(|| {
            format!(
                "sector {number} (block {index}) holds bytes nobody wrote there: {:02x?}...",
                &sector[..32]
            )
        })?;
    }
    Ok(stamps)
}

/// The blocks that a range of sectors touches.
fn blocks_of(sector: u64, sectors: u64) -> std::ops::Range<usize> {
    let per_block = SECTORS_PER_BLOCK as u64;
    (sector / per_block) as usize..(sector + sectors).div_ceil(per_block) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::stamp;

    fn block(index: usize, counter: Tick) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        if counter != 0 {
            stamp(&mut bytes, (index * SECTORS_PER_BLOCK) as u64, counter);
        }
        bytes
    }

    fn write(model: &mut Model, index: u64) -> Ticket {
        model.begin(index * 8, 8, false).expect("nothing in flight there")
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_was_sent_and_nothing_else() {
        let mut model = Model::new(2 * BLOCK as u64, false);
        let before = write(&mut model, 0);
        model.answered(before, false);
        let sent = model.tick();
        let after = write(&mut model, 1);
        model.answered(after, false);
        model.flushed(sent);
        model.crashed();
        assert!(model.recovered(0, &block(0, 0)).is_err(), "the flushed write is lost");
        model.recovered(0, &block(0, before.counter)).expect("the flushed write");
        model.recovered(1, &block(1, 0)).expect("a write that no flush covered may be lost");
        assert!(model.recovered(1, &block(1, after.counter)).is_err(), "what was lost once came back");
    }

    #[test]
    fn a_partial_write_is_a_version_of_its_whole_block() {
        let mut model = Model::new(BLOCK as u64, false);
        let whole = write(&mut model, 0);
        model.answered(whole, true);
        let part = model.begin(2, 1, false).expect("nothing in flight");
        assert!(model.begin(7, 1, false).is_none(), "its block is busy");
        model.crashed();
        let mut bytes = block(0, whole.counter);
        stamp(&mut bytes[2 * SECTOR..3 * SECTOR], 2, part.counter);
        model.recovered(0, &bytes).expect("the partial write happened");
        assert!(model.current(0, &block(0, whole.counter)).is_err());
    }

    #[test]
    fn a_cut_must_be_one_point_in_the_order() {
        let mut model = Model::new(2 * BLOCK as u64, true);
        let first = write(&mut model, 0);
        model.answered(first, false);
        let asked = model.tick();
        let second = write(&mut model, 0);
        model.answered(second, false);
        let third = write(&mut model, 1);
        model.answered(third, false);
        let answered = model.tick();
        let judge = |zero, one| {
            let mut cut = model.cut(asked, answered);
            cut.block(0, &block(0, zero))?;
            cut.block(1, &block(1, one))?;
            cut.finish()
        };
        judge(first.counter, 0).expect("before both");
        judge(second.counter, 0).expect("between them");
        judge(second.counter, third.counter).expect("after both");
        assert!(judge(first.counter, third.counter).is_err(), "the later write without the earlier");
        assert!(judge(0, 0).is_err(), "lacks a write answered before it was asked for");
    }
}
