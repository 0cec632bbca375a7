//! Reading a disk on a thread of its own: what reads may block, or use all of a core, while others write.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use crate::copy::Watch;
use crate::error::{Error, Result, check_size, too_large};

/// Pieces that wait to be written at most: bounds memory, and is enough that neither side waits for single pieces.
const QUEUE: usize = 8;
/// How often whoever waits for a piece looks whether it is cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// A disk that can be read once, from its start to its end.
pub trait Source: Send {
    /// Announces the disk's size to `out`, and then hands it all that is not known to be zeroes, in ascending order. Runs
    /// on a thread of its own.
    ///
    /// # Errors
    /// Why it cannot be read; also when the reader has gone, which is then not told to anybody.
    fn read(self: Box<Self>, out: &mut Output) -> Result<()>;
}

/// Some bytes of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where they are.
    pub offset: u64,
    /// The bytes; never empty.
    pub data: Vec<u8>,
}

enum Message {
    Begin(Option<u64>),
    Piece(Piece),
    End(Result<()>),
}

/// Where a source puts what it reads.
pub struct Output {
    queue: SyncSender<Message>,
    used: Receiver<Vec<u8>>,
    most: u64,
    /// As announced.
    size: Option<u64>,
    at: u64,
}

impl Output {
    /// Announces the disk's size; `None` when only its end will tell.
    ///
    /// # Errors
    /// When the disk is empty or too large.
    pub fn begin(&mut self, size: Option<u64>) -> Result<()> {
        size.map_or(Ok(()), |size| check_size(size, self.most))?;
        self.size = size;
        self.send(Message::Begin(size))
    }

    /// A buffer to read into, of any contents and length.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.used.try_recv().unwrap_or_default()
    }

    /// Hands a piece on; an empty one is dropped.
    ///
    /// # Errors
    /// When it is not behind the one before and inside the disk, or nobody reads any more.
    pub fn piece(&mut self, offset: u64, data: Vec<u8>) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let bound = self.size.unwrap_or(self.most);
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= bound);
        let (true, Some(end)) = (offset >= self.at, end) else {
            return Err(match self.size {
                Some(_) => Error::damaged("the image holds data outside of its disk"),
                None => too_large(bound),
            });
        };
        self.at = end;
        self.send(Message::Piece(Piece { offset, data }))
    }

    fn send(&self, message: Message) -> Result<()> {
        self.queue.send(message).map_err(|_| Error::cancelled())
    }
}

/// A source that is being read. Dropping it ends the reading at the next piece.
pub struct Reading {
    queue: Receiver<Message>,
    used: Sender<Vec<u8>>,
}

impl Reading {
    /// Begins to read `source` and waits until it has announced its size, at most `most` bytes. Blocks as long as a stream
    /// does not begin.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn start(source: Box<dyn Source>, most: u64, watch: &Watch) -> Result<(Reading, Option<u64>)> {
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let (used, buffers) = mpsc::channel();
        let mut out = Output { queue, used: buffers, most, size: None, at: 0 };
        let begun = thread::Builder::new().name("read image".to_owned()).spawn(move || {
            let ended = source.read(&mut out);
            // Whoever does not listen any more does not want to know.
            let _ = out.send(Message::End(ended));
        });
        begun.map_err(|e| Error::io("cannot start a thread", e))?;
        let reading = Reading { queue: messages, used };
        match reading.receive(watch)? {
            Message::Begin(size) => Ok((reading, size)),
            Message::End(Err(error)) => Err(error),
            Message::Piece(_) | Message::End(Ok(())) => Err(Error::damaged("the image tells no size")),
        }
    }

    /// The next piece; none at the end of the disk.
    ///
    /// # Errors
    /// Why there is none, or that it is cancelled.
    pub fn next(&mut self, watch: &Watch) -> Result<Option<Piece>> {
        match self.receive(watch)? {
            Message::Piece(piece) => Ok(Some(piece)),
            Message::End(ended) => ended.map(|()| None),
            Message::Begin(_) => Err(Error::damaged("the image tells two sizes")),
        }
    }

    /// Gives a piece's memory back to be used again.
    pub fn recycle(&self, data: Vec<u8>) {
        // Of no use once the source has ended.
        let _ = self.used.send(data);
    }

    fn receive(&self, watch: &Watch) -> Result<Message> {
        loop {
            watch.check()?;
            match self.queue.recv_timeout(LOOK) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => {}
                // The thread has panicked: in a library, on bytes that nobody expected.
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::damaged("the image cannot be read"));
                }
            }
        }
    }
}

/// As [`Reading::start`] and the pieces joined, for tests: the size and what is there.
#[cfg(test)]
pub(crate) fn read_all(source: Box<dyn Source>, most: u64) -> Result<(u64, Vec<Piece>)> {
    let watch = Watch::default();
    let (mut reading, size) = Reading::start(source, most, &watch)?;
    let mut pieces = Vec::new();
    while let Some(piece) = reading.next(&watch)? {
        pieces.push(piece);
    }
    let end = pieces.last().map_or(0, |piece: &Piece| piece.offset + piece.data.len() as u64);
    Ok((size.unwrap_or(end), pieces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Announces a size and hands out pieces of zeroes.
    struct Fixed(Option<u64>, Vec<(u64, usize)>);

    impl Source for Fixed {
        fn read(self: Box<Self>, out: &mut Output) -> Result<()> {
            out.begin(self.0)?;
            self.1.into_iter().try_for_each(|(offset, len)| out.piece(offset, vec![0; len]))
        }
    }

    fn kind(size: Option<u64>, pieces: &[(u64, usize)]) -> Option<ErrorKind> {
        read_all(Box::new(Fixed(size, pieces.to_vec())), 1000).err().map(|error| error.kind())
    }

    #[test]
    fn pieces_ascend_inside_the_disk() {
        assert_eq!(kind(Some(1000), &[(0, 10), (500, 500)]), None);
        assert_eq!(kind(Some(1000), &[(0, 10), (5, 10)]), Some(ErrorKind::Damaged));
        assert_eq!(kind(Some(999), &[(500, 500)]), Some(ErrorKind::Damaged));
        assert_eq!(kind(Some(999), &[(u64::MAX, 2)]), Some(ErrorKind::Damaged));
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(kind(Some(1001), &[]), Some(ErrorKind::TooLarge));
        assert_eq!(kind(Some(0), &[]), Some(ErrorKind::Damaged));
        assert_eq!(kind(None, &[(0, 1000)]), None);
        assert_eq!(kind(None, &[(0, 1000), (1000, 1)]), Some(ErrorKind::TooLarge));
    }

    #[test]
    fn a_cancelled_reader_does_not_wait() {
        struct Silent;
        impl Source for Silent {
            fn read(self: Box<Self>, _: &mut Output) -> Result<()> {
                thread::park();
                Ok(())
            }
        }
        let watch = Watch::default();
        watch.cancel();
        let error = Reading::start(Box::new(Silent), 1, &watch).err().expect("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
