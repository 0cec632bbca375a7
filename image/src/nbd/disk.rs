//! An export as a source, and as a target.

use std::collections::VecDeque;
use std::ops::Range;

use super::connection::{Connection, Cookie};
use crate::copy::nonzero;
use crate::error::{Error, Result};
use crate::source::{Output, Source};
use crate::target::Target;
use crate::{CLUSTER_BYTES, PIECE_BYTES};

/// Reads or writes in flight: enough that the server never waits for this side.
const DEPTH: usize = 16;
/// How much of a disk is asked about at a time.
const STATUS_BYTES: u64 = 1 << 30;

/// The ranges of an export that hold more than zeroes, in whole clusters of 64 KiB but for the disk's end. Of a server that
/// does not tell, it is all.
///
/// # Errors
/// Of the server.
pub fn data_ranges(connection: &mut Connection) -> Result<Vec<Range<u64>>> {
    let size = connection.size();
    if !connection.knows_allocation() {
        return Ok(if size > 0 { std::iter::once(0..size).collect() } else { Vec::new() });
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size {
        let len = STATUS_BYTES.min(size - at);
        let extents = connection.status(at, u32::try_from(len).unwrap_or(u32::MAX))?;
        let before = at;
        for (len, zero) in extents {
            let end = at.saturating_add(u64::from(len)).min(size);
            if !zero && end > at {
                let start = at - at % CLUSTER_BYTES;
                let end = end.next_multiple_of(CLUSTER_BYTES).min(size);
                match ranges.last_mut() {
                    Some(last) if start <= last.end => last.end = last.end.max(end),
                    _ => ranges.push(start..end),
                }
            }
            at = end;
        }
        if at == before {
            return Err(Error::server("the NBD server does not tell where its data is"));
        }
    }
    Ok(ranges)
}

/// Reads an export.
pub struct DiskSource {
    connection: Connection,
    ranges: Option<Vec<Range<u64>>>,
}

impl DiskSource {
    /// Reads all that the server says is data.
    pub fn new(connection: Connection) -> DiskSource {
        DiskSource { connection, ranges: None }
    }

    /// Reads just these ranges, which are inside the disk and ascend.
    pub fn of_ranges(connection: Connection, ranges: Vec<Range<u64>>) -> DiskSource {
        DiskSource { connection, ranges: Some(ranges) }
    }

    /// As a source that has begun.
    pub(crate) fn read_into(mut self, out: &mut Output) -> Result<()> {
        let ranges = match self.ranges.take() {
            Some(ranges) => ranges,
            None => data_ranges(&mut self.connection)?,
        };
        let step = PIECE_BYTES.min(self.connection.maximum()) as u64;
        let reads = ranges.into_iter().flat_map(|Range { start, end }| {
            (start..end).step_by(step as usize).map(move |at| (at, step.min(end - at) as usize))
        });
        let mut under_way: VecDeque<Cookie> = VecDeque::new();
        for (offset, len) in reads {
            if under_way.len() >= DEPTH {
                self.take_first(&mut under_way, out)?;
            }
            let mut data = out.buffer();
            data.resize(len, 0);
            under_way.push_back(self.connection.read(offset, data)?);
        }
        while !under_way.is_empty() {
            self.take_first(&mut under_way, out)?;
        }
        self.connection.disconnect();
        Ok(())
    }

    fn take_first(&mut self, under_way: &mut VecDeque<Cookie>, out: &mut Output) -> Result<()> {
        let Some(first) = under_way.pop_front() else { return Ok(()) };
        let (offset, data) = self.connection.take_read(first)?;
        out.piece(offset, data)
    }
}

impl Source for DiskSource {
    fn read(self: Box<Self>, out: &mut Output) -> Result<()> {
        out.begin(Some(self.connection.size()))?;
        self.read_into(out)
    }
}

/// Makes an export at least so many bytes large; answers how large it is then.
pub type Grow = Box<dyn FnMut(u64) -> Result<u64> + Send>;

/// Writes to an export that reads as zeroes.
pub struct DiskTarget {
    connection: Connection,
    size: u64,
    grow: Option<Grow>,
}

impl DiskTarget {
    /// Writes to the export of a connection, and has it grown, where there is a way, when it is too small.
    pub fn new(connection: Connection, grow: Option<Grow>) -> DiskTarget {
        DiskTarget { size: connection.size(), connection, grow }
    }

    /// Gives the connection back: what waits for its end must not see it before its time.
    pub fn into_connection(self) -> Connection {
        self.connection
    }
}

impl Target for DiskTarget {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        if end > self.size
            && let Some(grow) = &mut self.grow
        {
            self.size = grow(end)?;
        }
        let step = PIECE_BYTES.min(self.connection.maximum());
        for run in nonzero(data, CLUSTER_BYTES as usize) {
            for start in run.clone().step_by(step) {
                let piece = &data[start..run.end.min(start + step)];
                self.connection.settle(DEPTH - 1)?;
                self.connection.write(offset + start as u64, piece)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.connection.flush()
    }
}
