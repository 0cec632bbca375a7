//! Where a disk is written to.

use std::fs::File;
use std::io::Write;
use std::ops::Range;

use cairn_api::image::ImageFormat;

use crate::archive::ArchiveTarget;
use crate::error::{Error, Result};
use crate::qcow2::Qcow2Target;
use crate::raw::{FileTarget, StreamTarget};

/// What takes a disk.
pub trait Target {
    /// Takes bytes behind those taken before.
    ///
    /// # Errors
    /// Why they cannot be kept.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// There is no more to come: everything is where it belongs, durably if it is a file.
    ///
    /// # Errors
    /// Why it is not.
    fn finish(&mut self) -> Result<()>;
}

/// Where an image goes.
pub enum Destination {
    /// A new, empty file.
    File(File),
    /// A stream.
    Stream(Box<dyn Write + Send>),
}

/// What writes an image of a disk of `size` bytes that holds data in `ranges`: ascending, apart, and beginning at multiples
/// of 64 KiB. Exactly these ranges are to be written.
///
/// # Errors
/// When the format cannot be written or what stands at its start cannot.
pub fn create(
    format: ImageFormat,
    destination: Destination,
    size: u64,
    ranges: Vec<Range<u64>>,
) -> Result<Box<dyn Target + Send>> {
    Ok(match (format, destination) {
        (ImageFormat::Raw, Destination::File(file)) => Box::new(FileTarget::new(file, size)?),
        (ImageFormat::Raw, Destination::Stream(stream)) => Box::new(StreamTarget::new(stream, size)),
        (ImageFormat::Qcow2, to) => Box::new(Qcow2Target::new(to, size, ranges)?),
        (ImageFormat::RawTarGz, to) => Box::new(ArchiveTarget::new(to, size, ranges)?),
        (ImageFormat::Vmdk | ImageFormat::Vhd | ImageFormat::Vhdx, _) => {
            return Err(Error::unsupported(format!(
                "images of format {format} can be imported, not exported"
            ))
            .with_hint("export qcow2 and convert it: qemu-img convert -O FORMAT"));
        }
    })
}

/// A destination as a stream that is made durable at its end where it is a file.
pub(crate) struct Sink {
    writer: std::io::BufWriter<Box<dyn Write + Send>>,
    file: Option<File>,
}

impl Sink {
    pub(crate) fn new(destination: Destination) -> Result<Sink> {
        let (writer, file): (Box<dyn Write + Send>, _) = match destination {
            Destination::File(file) => {
                let second = file.try_clone().map_err(|e| Error::io("cannot write the image", e))?;
                (Box::new(file), Some(second))
            }
            Destination::Stream(stream) => (stream, None),
        };
        Ok(Sink { writer: std::io::BufWriter::with_capacity(crate::PIECE_BYTES, writer), file })
    }

    /// Ends it: nothing is left in memory.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let flushed = self.writer.flush();
        let synced = flushed.and_then(|()| self.file.as_ref().map_or(Ok(()), File::sync_all));
        synced.map_err(|e| Error::io("cannot write the image", e))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}
