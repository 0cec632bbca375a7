//! Reads, writes and questions at any place of an export, for those who know what they want: one at a time and connection.

use std::collections::VecDeque;
use std::ops::Range;

use super::connection::Connection;
use crate::error::{Error, Result};

/// How much is asked about, or made to read as zeroes, by one request.
const RANGE_BYTES: u64 = 1 << 30;

/// The longest read and write: whoever else uses the disk does not wait long behind it.
const PIECE: usize = 256 << 10;

/// Requests of one call in flight.
const DEPTH: usize = 8;

/// Cuts a range into requests.
fn requests(range: Range<u64>, most: u64) -> impl Iterator<Item = (u64, u32)> {
    let Range { start, end } = range;
    let pieces = (start..end).step_by(most.max(1) as usize);
    pieces.map(move |at| (at, u32::try_from(most.min(end - at)).unwrap_or(u32::MAX)))
}

impl Connection {
    /// Reads some ranges, one after another.
    ///
    /// # Errors
    /// Of the server.
    pub fn read_ranges(&mut self, ranges: &[Range<u64>]) -> Result<Vec<u8>> {
        let mut all = Vec::with_capacity(ranges.iter().map(|range| (range.end - range.start) as usize).sum());
        let mut asked = VecDeque::with_capacity(DEPTH);
        let most = self.maximum().min(PIECE) as u64;
        let mut pieces = ranges.iter().flat_map(|range| requests(range.clone(), most));
        loop {
            while asked.len() < DEPTH
                && let Some((at, len)) = pieces.next()
            {
                asked.push_back(self.read(at, vec![0; len as usize])?);
            }
            let Some(cookie) = asked.pop_front() else { break };
            let (_, data) = self.take_read(cookie)?;
            all.extend_from_slice(&data);
        }
        Ok(all)
    }

    /// Writes `data` from `offset` on; it is durable after a [`finish`](Self::finish).
    ///
    /// # Errors
    /// Of the server.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let mut at = offset;
        // Several pieces on their way at once are faster than one that is long.
        for piece in data.chunks(self.maximum().clamp(1, PIECE)) {
            self.settle(DEPTH - 1)?;
            self.write(at, piece)?;
            at += piece.len() as u64;
        }
        self.settle(0)
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// Of the server.
    pub fn zero_at(&mut self, range: Range<u64>) -> Result<()> {
        for (at, len) in requests(range, RANGE_BYTES) {
            self.zero(at, len)?;
            self.settle(0)?;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// Of the server.
    pub fn finish(&mut self) -> Result<()> {
        self.flush()
    }

    /// The parts of a range that hold more than zeroes; all of it where the server does not tell.
    ///
    /// # Errors
    /// Of the server.
    pub fn data_in(&mut self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        if !self.knows_allocation() {
            return Ok(vec![range]);
        }
        self.parts(range, |connection, at, len| {
            let extents = connection.status(at, len)?;
            Ok(extents.into_iter().map(|(len, zero)| (len, !zero)).collect())
        })
    }

    /// The parts of a range that may differ from the snapshot that
    /// [`open_comparing`](Self::open_comparing) named.
    ///
    /// # Errors
    /// Of the server, and when no snapshot was named.
    pub fn changed_in(&mut self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.parts(range, Connection::changes)
    }

    fn parts(
        &mut self,
        range: Range<u64>,
        mut ask: impl FnMut(&mut Connection, u64, u32) -> Result<Vec<(u32, bool)>>,
    ) -> Result<Vec<Range<u64>>> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let len = u32::try_from(RANGE_BYTES.min(range.end - at)).unwrap_or(u32::MAX);
            let before = at;
            // A server may tell of less than was asked about, and of more.
            for (len, wanted) in ask(self, at, len)? {
                let end = at.saturating_add(u64::from(len)).min(range.end);
                match parts.last_mut() {
                    Some(last) if wanted && last.end == at => last.end = end,
                    _ if wanted && end > at => parts.push(at..end),
                    _ => {}
                }
                at = end;
            }
            if at == before {
                return Err(Error::server("the NBD server does not tell what it was asked about"));
            }
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_what_a_server_takes() {
        let cut = |range, most| requests(range, most).collect::<Vec<_>>();
        assert_eq!(cut(0..10, 4), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(cut(5..9, 4), [(5, 4)]);
        assert_eq!(cut(7..7, 4), []);
    }
}
