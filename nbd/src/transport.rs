//! The byte stream a session runs over, and the buffer it receives into.
//!
//! [`Transport`] is what a session asks of a socket: little enough that TLS or a test can stand in for one.

use std::future::Future;
use std::io;
use std::net::Shutdown as How;

use cairn_uring::net::Stream;
use cairn_uring::{AlignedBuf, Slice};

/// A connected, bidirectional byte stream. One task reads while another writes.
///
/// Buffers are passed by value and come back with the result, as io_uring wants it. A future dropped
/// before it is ready may lose its buffer and bytes in transit; a session only does that when it is about
/// to close the stream.
pub trait Transport: 'static {
    /// Receives at most the slice's length; 0 means that the other end has finished sending.
    fn read(&self, buf: Slice<AlignedBuf>) -> impl Future<Output = (io::Result<usize>, Slice<AlignedBuf>)>;

    /// Fills the slice; an end before that is [`io::ErrorKind::UnexpectedEof`].
    fn read_exact(&self, buf: Slice<AlignedBuf>)
    -> impl Future<Output = (io::Result<()>, Slice<AlignedBuf>)>;

    /// Sends all pieces in order, in as few system calls as it can.
    fn write_all(&self, pieces: Vec<AlignedBuf>) -> impl Future<Output = (io::Result<()>, Vec<AlignedBuf>)>;

    /// Ends one or both directions; reads and writes under way return. Failures mean that it has ended already.
    fn shutdown(&self, how: How);
}

impl Transport for Stream {
    async fn read(&self, buf: Slice<AlignedBuf>) -> (io::Result<usize>, Slice<AlignedBuf>) {
        Self::read(self, buf).await
    }

    async fn read_exact(&self, buf: Slice<AlignedBuf>) -> (io::Result<()>, Slice<AlignedBuf>) {
        Self::read_exact(self, buf).await
    }

    async fn write_all(&self, pieces: Vec<AlignedBuf>) -> (io::Result<()>, Vec<AlignedBuf>) {
        self.writev_all(pieces).await
    }

    fn shutdown(&self, how: How) {
        // The only failure is ENOTCONN: the other end was faster.
        let _ = Self::shutdown(self, how);
    }
}

/// Received bytes not yet consumed. Many requests arrive in one receive and are parsed where they lie.
#[derive(Debug)]
pub(crate) struct RecvBuf {
    /// `None` while a receive owns it, and for good once such a receive was dropped.
    buf: Option<AlignedBuf>,
    start: usize,
    end: usize,
}

impl RecvBuf {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { buf: Some(AlignedBuf::new(capacity)), start: 0, end: 0 }
    }

    /// What has been received and not consumed.
    pub(crate) fn unread(&self) -> &[u8] {
        self.buf.as_ref().map_or(&[], |buf| &buf[self.start..self.end])
    }

    /// Forgets the first `len` unread bytes, or all if there are fewer.
    pub(crate) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Makes room for `capacity` unread bytes in all.
    pub(crate) fn reserve(&mut self, capacity: usize) {
        if self.buf.as_ref().is_some_and(|buf| buf.len() < capacity) {
            let unread = self.unread();
            let mut larger = AlignedBuf::new(capacity);
            let len = unread.len();
            larger[..len].copy_from_slice(unread);
            *self = Self { buf: Some(larger), start: 0, end: len };
        }
    }

    /// Receives once, at most `window` bytes; 0 means that the stream has ended.
    pub(crate) async fn fill<T: Transport>(&mut self, io: &T, window: usize) -> io::Result<usize> {
        let Some(mut buf) = self.buf.take() else {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "an earlier receive was given up"));
        };
        if self.start > 0 {
            // What is left is less than one header or one option, so this moves few bytes.
            buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let to = buf.len().min(self.end.saturating_add(window));
        let (result, slice) = io.read(Slice::new(buf, self.end..to)).await;
        self.buf = Some(slice.into_inner());
        let received = result?;
        self.end += received;
        Ok(received)
    }

    /// Receives until `len` bytes are unread, growing if need be. `false` if the stream ended first.
    pub(crate) async fn fill_to<T: Transport>(&mut self, io: &T, len: usize) -> io::Result<bool> {
        self.reserve(len);
        while self.unread().len() < len {
            if self.fill(io, usize::MAX).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Consumes `len` bytes of the stream without keeping them. `false` if the stream ended first.
    pub(crate) async fn skip<T: Transport>(&mut self, io: &T, mut len: u64) -> io::Result<bool> {
        loop {
            let here = self.unread().len().min(usize::try_from(len).unwrap_or(usize::MAX));
            self.consume(here);
            len -= here as u64;
            if len == 0 {
                return Ok(true);
            }
            if self.fill(io, usize::MAX).await? == 0 {
                return Ok(false);
            }
        }
    }

    /// Moves the next `len` bytes of the stream to `buf[at..]`: what is here is copied, the rest received in place.
    /// `None` if the stream ended first.
    pub(crate) async fn take_into<T: Transport>(
        &mut self,
        io: &T,
        mut buf: AlignedBuf,
        at: usize,
        len: usize,
    ) -> io::Result<Option<AlignedBuf>> {
        let here = self.unread().len().min(len);
        buf[at..at + here].copy_from_slice(&self.unread()[..here]);
        self.consume(here);
        if here == len {
            return Ok(Some(buf));
        }
        let (result, slice) = io.read_exact(Slice::new(buf, at + here..at + len)).await;
        match result {
            Ok(()) => Ok(Some(slice.into_inner())),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }
}
