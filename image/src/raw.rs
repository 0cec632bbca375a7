//! Raw disks: the bytes and nothing else.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::PIECE_BYTES;
use crate::copy::{is_zero, nonzero};
use crate::error::{Error, Result};
use crate::source::{Output, Source};
use crate::target::Target;

/// How much of a stream is one piece. Larger than others, since a disk whose size is not known grows with every one.
const STREAM_PIECE_BYTES: usize = 16 << 20;
/// What is written or left out of a sparse file.
const STEP: usize = 4096;

fn unreadable(error: io::Error) -> Error {
    Error::io("cannot read the image", error)
}

fn unwritable(error: io::Error) -> Error {
    Error::io("cannot write the image", error)
}

/// The size of a file or block device.
pub(crate) fn size_of(file: &File) -> Result<u64> {
    let mut file = file;
    file.seek(SeekFrom::End(0)).map_err(unreadable)
}

/// The first bytes of a file as a raw disk: all of them, or all but a footer.
pub(crate) struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    pub(crate) fn new(file: File, size: u64) -> FileSource {
        FileSource { file, size }
    }

    /// The next range from `at` on that the file system says holds data; none when the rest is a hole. What cannot be asked
    /// is taken as data.
    fn data_from(&self, at: u64) -> Result<Option<(u64, u64)>> {
        let seek = |at: u64, whence| {
            let found =
                i64::try_from(at).map_err(|_| Errno::EOVERFLOW).and_then(|at| lseek(&self.file, at, whence));
            found.map(i64::cast_unsigned)
        };
        let start = match seek(at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return Ok(None),
            // A device, or a file system that does not know.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some((at, self.size))),
            Err(errno) => return Err(unreadable(errno.into())),
        };
        let end = seek(start, Whence::SeekHole).map_err(|errno| unreadable(errno.into()))?;
        Ok((start < self.size).then(|| (start, end.min(self.size))))
    }
}

impl Source for FileSource {
    fn read(self: Box<Self>, out: &mut Output) -> Result<()> {
        out.begin(Some(self.size))?;
        let mut at = 0;
        while at < self.size
            && let Some((start, end)) = self.data_from(at)?
        {
            at = start;
            while at < end {
                let mut data = out.buffer();
                data.resize(PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES)), 0);
                self.file.read_exact_at(&mut data, at).map_err(|e| match e.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        Error::damaged("the file became shorter while it was read")
                    }
                    _ => unreadable(e),
                })?;
                let offset = at;
                at += data.len() as u64;
                out.piece(offset, data)?;
            }
        }
        Ok(())
    }
}

/// A stream as a raw disk, whose end is that of the stream.
pub(crate) struct StreamSource(pub(crate) Box<dyn Read + Send>);

impl Source for StreamSource {
    fn read(mut self: Box<Self>, out: &mut Output) -> Result<()> {
        out.begin(None)?;
        let mut at = 0;
        loop {
            let mut data = out.buffer();
            data.clear();
            let read = (&mut self.0).take(STREAM_PIECE_BYTES as u64).read_to_end(&mut data);
            read.map_err(unreadable)?;
            if data.is_empty() {
                return if at > 0 { Ok(()) } else { Err(Error::damaged("the image has no bytes")) };
            }
            let offset = at;
            at += data.len() as u64;
            // Zeroes, too: they are part of the disk, however long it turns out to be.
            out.piece(offset, data)?;
        }
    }
}

/// Reads `size` bytes of `reader` as pieces of a disk, and leaves out zeroes.
pub(crate) fn read_stream(reader: &mut dyn Read, size: u64, out: &mut Output) -> Result<()> {
    let mut at = 0;
    while at < size {
        let mut data = out.buffer();
        data.resize(PIECE_BYTES.min(usize::try_from(size - at).unwrap_or(PIECE_BYTES)), 0);
        reader
            .read_exact(&mut data)
            .map_err(|e| Error::damaged("the image is cut off or damaged").because(e))?;
        let offset = at;
        at += data.len() as u64;
        if !is_zero(&data) {
            out.piece(offset, data)?;
        }
    }
    Ok(())
}

/// A raw disk as a file with holes where there are zeroes.
pub(crate) struct FileTarget {
    file: File,
}

impl FileTarget {
    pub(crate) fn new(file: File, size: u64) -> Result<FileTarget> {
        file.set_len(size).map_err(unwritable)?;
        Ok(FileTarget { file })
    }
}

impl Target for FileTarget {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        for run in nonzero(data, STEP) {
            self.file.write_all_at(&data[run.clone()], offset + run.start as u64).map_err(unwritable)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.file.sync_all().map_err(unwritable)
    }
}

/// A raw disk as a stream: every byte of it.
pub(crate) struct StreamTarget {
    stream: Box<dyn Write + Send>,
    at: u64,
    size: u64,
    zeroes: Vec<u8>,
}

impl StreamTarget {
    pub(crate) fn new(stream: Box<dyn Write + Send>, size: u64) -> StreamTarget {
        StreamTarget { stream, at: 0, size, zeroes: vec![0; PIECE_BYTES] }
    }

    fn fill(&mut self, to: u64) -> Result<()> {
        while self.at < to {
            let len = self.zeroes.len().min(usize::try_from(to - self.at).unwrap_or(PIECE_BYTES));
            self.stream.write_all(&self.zeroes[..len]).map_err(unwritable)?;
            self.at += len as u64;
        }
        Ok(())
    }
}

impl Target for StreamTarget {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.fill(offset)?;
        self.stream.write_all(data).map_err(unwritable)?;
        self.at += data.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.fill(self.size)?;
        self.stream.flush().map_err(unwritable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::read_all;

    #[test]
    fn a_file_is_read_without_its_holes() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(64 << 20).expect("sized");
        file.write_all_at(b"first", 0).expect("written");
        file.write_all_at(b"last", 40 << 20).expect("written");
        let copy = file.try_clone().expect("a second descriptor");
        let (size, pieces) = read_all(Box::new(FileSource::new(file, 64 << 20)), 1 << 40).expect("read");
        let sum: usize = pieces.iter().map(|piece| piece.data.len()).sum();
        assert_eq!(size, 64 << 20);
        assert!(sum < 4 << 20, "{sum} bytes of a file with a few KiB of data");
        let at = |offset: u64| {
            let piece = pieces.iter().find(|p| (p.offset..p.offset + p.data.len() as u64).contains(&offset));
            piece.map(|p| p.data[(offset - p.offset) as usize])
        };
        assert_eq!((at(0), at(40 << 20)), (Some(b'f'), Some(b'l')));
        let (size, pieces) = read_all(Box::new(FileSource::new(copy, 3)), 1 << 40).expect("read");
        assert_eq!((size, &*pieces[0].data), (3, &b"fir"[..]));
    }

    #[test]
    fn a_stream_is_as_long_as_it_turns_out() {
        let bytes = vec![0; STREAM_PIECE_BYTES + 1000];
        let (size, pieces) =
            read_all(Box::new(StreamSource(Box::new(io::Cursor::new(bytes)))), 1 << 40).expect("read");
        assert_eq!((size, pieces.len()), (STREAM_PIECE_BYTES as u64 + 1000, 2));
        assert!(
            read_all(Box::new(StreamSource(Box::new(io::empty()))), 1 << 40).is_err(),
            "nothing is no disk"
        );
    }

    #[test]
    fn zeroes_are_holes_in_a_file_and_bytes_in_a_stream() {
        let file = tempfile::tempfile().expect("a file");
        let mut target =
            FileTarget::new(file.try_clone().expect("a second descriptor"), 1 << 20).expect("made");
        let mut data = vec![0; 1 << 19];
        data[1 << 18] = 7;
        target.write(1 << 19, &data).expect("written");
        target.finish().expect("finished");
        let mut written = Vec::new();
        (&file).read_to_end(&mut written).expect("read");
        assert_eq!(written.len(), 1 << 20);
        assert_eq!(written.iter().position(|byte| *byte != 0), Some((1 << 19) + (1 << 18)));
        let allocated = std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("there")) * 512;
        assert!(allocated <= 64 << 10, "{allocated} bytes for one that is not zero");
    }
}
