//! cairn's buffers, lent to tokio-uring.

use cairn_uring::AlignedBuf;
use tokio_uring::buf::{IoBuf, IoBufMut};

/// Page-aligned memory, recycled.
pub struct Block(pub AlignedBuf);

impl Block {
    /// With contents as they come.
    pub fn new(len: usize) -> Block {
        Block(AlignedBuf::new(len))
    }
}

// SAFETY: the bytes are on the heap and stay where they are when the value moves; none is uninitialised.
unsafe impl IoBuf for Block {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as above, and the value owns the bytes alone.
unsafe impl IoBufMut for Block {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _len: usize) {}
}

/// A part of what is sent: headers, or the data read, with how much of it has been sent.
pub enum Piece {
    /// Headers of replies, one behind the other.
    Heads(Vec<u8>, usize),
    /// Payload.
    Data(Block, usize),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Heads(bytes, sent) => &bytes[*sent..],
            Piece::Data(block, sent) => &block.0[*sent..],
        }
    }

    /// Bytes still to be sent.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Notes that `count` more bytes have been sent.
    pub fn advance(&mut self, count: usize) {
        let (Piece::Heads(_, sent) | Piece::Data(_, sent)) = self;
        *sent += count;
    }
}

// SAFETY: both kinds have their bytes on the heap, where they stay when the value moves; none is uninitialised.
unsafe impl IoBuf for Piece {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }
}
