//! Replies on their way out.

use cairn_uring::AlignedBuf;

use crate::budget::Taken;

/// Headers are written one after another into a buffer of this size, which is cut where a payload comes between.
const HEADER_ARENA: usize = 16 << 10;

/// What becomes free once a batch has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Settled {
    pub(super) requests: usize,
    /// Of what one connection may have in flight.
    pub(super) bytes: u64,
    /// Of the budget.
    pub(super) taken: Taken,
}

impl Settled {
    pub(super) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.taken.add(other.taken);
    }
}

/// The replies collected since the last batch was taken.
#[derive(Default, Debug)]
pub(super) struct Outbox {
    pieces: Vec<AlignedBuf>,
    /// The previous batch's list, emptied, to be filled next.
    spare: Vec<AlignedBuf>,
    /// Headers: `[..used]` is written and not yet among the pieces.
    arena: AlignedBuf,
    used: usize,
    settled: Settled,
}

/// Replies to be sent in one go.
#[derive(Debug)]
pub(super) struct Batch {
    pieces: Vec<AlignedBuf>,
    settled: Settled,
}

impl Batch {
    pub(super) fn into_parts(self) -> (Vec<AlignedBuf>, Settled) {
        (self.pieces, self.settled)
    }
}

impl Outbox {
    /// Appends a few bytes, by copying.
    pub(super) fn head(&mut self, bytes: &[u8]) {
        if self.arena.len() - self.used < bytes.len() {
            self.cut();
            self.arena = AlignedBuf::new(HEADER_ARENA.max(bytes.len()));
        }
        self.arena[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// Appends many bytes, by taking them.
    pub(super) fn payload(&mut self, piece: AlignedBuf) {
        self.cut();
        self.pieces.push(piece);
    }

    /// Notes that the replies so far are the last of `settled`.
    pub(super) fn settle(&mut self, settled: Settled) {
        self.settled.add(settled);
    }

    /// Takes everything collected; `None` if there is nothing.
    pub(super) fn take(&mut self) -> Option<Batch> {
        self.cut();
        if self.pieces.is_empty() {
            return None;
        }
        let pieces = std::mem::replace(&mut self.pieces, std::mem::take(&mut self.spare));
        Some(Batch { pieces, settled: std::mem::take(&mut self.settled) })
    }

    /// Gives back the list of a batch that has been sent.
    pub(super) fn recycle(&mut self, mut pieces: Vec<AlignedBuf>) {
        pieces.clear();
        self.spare = pieces;
    }

    /// Makes a piece of the headers written so far.
    fn cut(&mut self) {
        if self.used > 0 {
            let rest = self.arena.split_off(self.used);
            self.pieces.push(std::mem::replace(&mut self.arena, rest));
            self.used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(len: usize, byte: u8) -> AlignedBuf {
        let mut buf = AlignedBuf::new(len);
        buf.fill(byte);
        buf
    }

    fn bytes(outbox: &mut Outbox) -> (Vec<u8>, usize) {
        let (pieces, _) = outbox.take().expect("something to send").into_parts();
        (pieces.iter().flat_map(|p| p.iter().copied()).collect(), pieces.len())
    }

    #[test]
    fn headers_share_pieces_and_keep_their_place() {
        let mut outbox = Outbox::default();
        assert!(outbox.take().is_none());
        outbox.head(b"one");
        outbox.head(b"two");
        outbox.payload(filled(5, b'.'));
        outbox.payload(filled(2, b'!'));
        outbox.head(b"three");
        assert_eq!(bytes(&mut outbox), (b"onetwo.....!!three".to_vec(), 4));
        assert!(outbox.take().is_none());
        outbox.head(b"next");
        assert_eq!(bytes(&mut outbox), (b"next".to_vec(), 1));
    }

    #[test]
    fn arena_is_replaced_when_full() {
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for i in 0..2000_u32 {
            outbox.head(&[i as u8; 20]);
            expected.extend_from_slice(&[i as u8; 20]);
        }
        outbox.head(&[7; HEADER_ARENA + 1]);
        expected.extend_from_slice(&[7; HEADER_ARENA + 1]);
        assert_eq!(bytes(&mut outbox).0, expected);
    }

    fn settled(requests: usize, bytes: u64) -> Settled {
        Settled { requests, bytes, ..Settled::default() }
    }

    #[test]
    fn a_batch_settles_what_was_noted_before_it_was_taken() {
        let mut outbox = Outbox::default();
        outbox.head(b"a");
        outbox.settle(settled(1, 10));
        outbox.head(b"b");
        outbox.settle(settled(1, 5));
        let (pieces, of_both) = outbox.take().expect("two replies").into_parts();
        assert_eq!(of_both, settled(2, 15));
        outbox.recycle(pieces);
        outbox.head(b"c");
        let (_, settled) = outbox.take().expect("a part of a reply").into_parts();
        assert_eq!(settled, Settled::default());
    }
}
