//! From a file or stream to a source.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;

use cairn_api::image::ImageFormat;

use crate::archive::ArchiveSource;
use crate::detect::{HEAD_BYTES, detect};
use crate::error::{Error, Result};
use crate::foreign::{ForeignSource, Vhd, check_vmdk, fixed_vhd_size, judge_vhd};
use crate::qcow2::{Qcow2Source, Reader, judge};
use crate::raw::{FileSource, StreamSource, size_of};
use crate::source::Source;

/// What an image is read from.
pub enum Input {
    /// A file or block device.
    File(File),
    /// A stream.
    Stream(Box<dyn Read + Send>),
}

/// How to read an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The format, where it is known; told by the file's bytes unless given.
    pub format: Option<ImageFormat>,
    /// The largest disk that is taken.
    pub max_size: u64,
}

/// An image that was looked at and found harmless.
pub struct Opened {
    /// Its format.
    pub format: ImageFormat,
    /// What reads it.
    pub source: Box<dyn Source>,
}

/// Looks at an image: tells its format, and refuses what would have other files opened.
///
/// # Errors
/// Why the image is not taken.
pub fn open(input: Input, options: &Options) -> Result<Opened> {
    match input {
        Input::File(file) => open_file(file, options),
        Input::Stream(stream) => open_stream(stream, options),
    }
}

fn unreadable(error: io::Error) -> Error {
    Error::io("cannot read the image", error)
}

/// Up to so many bytes at a place of a file.
fn look(file: &File, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn open_file(file: File, options: &Options) -> Result<Opened> {
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Error::refused("this is a folder, not an image"));
    }
    let len = size_of(&file)?;
    let head = look(&file, 0, HEAD_BYTES)?;
    let tail = look(&file, len.saturating_sub(HEAD_BYTES as u64), HEAD_BYTES)?;
    let format = match options.format {
        Some(ImageFormat::Raw) => ImageFormat::Raw,
        asked => as_asked(asked, detect(&head, Some(&tail))?)?,
    };
    let source: Box<dyn Source> = match format {
        ImageFormat::Raw => Box::new(FileSource::new(file, len)),
        ImageFormat::RawTarGz => {
            let mut file = file;
            io::Seek::rewind(&mut file).map_err(unreadable)?;
            Box::new(ArchiveSource(Box::new(file)))
        }
        ImageFormat::Qcow2 => {
            let header = judge(&look(&file, 0, crate::qcow2::HEADER_BYTES)?, len, options.max_size)?;
            match header.reader {
                Reader::Imago => Box::new(Qcow2Source::new(file, len, header.size)),
                Reader::Qemu => Box::new(ForeignSource::new(file, "qcow2")),
            }
        }
        ImageFormat::Vmdk => {
            check_vmdk(&file, &head, len)?;
            Box::new(ForeignSource::new(file, "vmdk"))
        }
        ImageFormat::Vhd => match judge_vhd(&file, &tail, len)? {
            Vhd::Fixed => Box::new(FileSource::new(file, fixed_vhd_size(&tail))),
            Vhd::Dynamic => Box::new(ForeignSource::new(file, "vpc")),
        },
        ImageFormat::Vhdx => Box::new(ForeignSource::new(file, "vhdx")),
    };
    Ok(Opened { format, source })
}

/// The format that was asked for, if it is the one that was found.
fn as_asked(asked: Option<ImageFormat>, found: ImageFormat) -> Result<ImageFormat> {
    match asked {
        Some(asked) if asked != found => {
            Err(Error::damaged(format!("this is no image of format {asked}: it looks like {found}")))
        }
        _ => Ok(found),
    }
}

fn open_stream(mut stream: Box<dyn Read + Send>, options: &Options) -> Result<Opened> {
    let mut head = Vec::new();
    (&mut stream).take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
    let format = match options.format {
        Some(ImageFormat::Raw) => ImageFormat::Raw,
        asked => as_asked(asked, detect(&head, None)?)?,
    };
    let whole: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(stream));
    let source: Box<dyn Source> = match format {
        ImageFormat::Raw => Box::new(StreamSource(whole)),
        ImageFormat::RawTarGz => Box::new(ArchiveSource(whole)),
        other => {
            return Err(Error::refused(format!("an image of format {other} cannot be read from a stream"))
                .with_hint("save it to a file and import that"));
        }
    };
    Ok(Opened { format, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::source::read_all;

    const OPTIONS: Options = Options { format: None, max_size: 1 << 40 };

    fn stream(bytes: &[u8]) -> Input {
        Input::Stream(Box::new(Cursor::new(bytes.to_vec())))
    }

    #[test]
    fn what_was_looked_at_is_read_all_the_same() {
        let bytes: Vec<u8> = (0..2000u32).map(|n| n as u8).collect();
        let opened = open(stream(&bytes), &OPTIONS).expect("raw");
        assert_eq!(opened.format, ImageFormat::Raw);
        let (size, pieces) = read_all(opened.source, 1 << 40).expect("read");
        assert_eq!((size, &pieces[0].data), (2000, &bytes));
    }

    #[test]
    fn streams_cannot_be_what_needs_seeking_unless_called_raw() {
        let error = open(stream(b"QFI\xfb\0\0\0\x03"), &OPTIONS).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Refused);
        let raw = Options { format: Some(ImageFormat::Raw), ..OPTIONS };
        assert_eq!(open(stream(b"QFI\xfb\0\0\0\x03"), &raw).expect("raw").format, ImageFormat::Raw);
        let other = Options { format: Some(ImageFormat::Vmdk), ..OPTIONS };
        assert_eq!(open(stream(b"x"), &other).err().expect("not that").kind(), ErrorKind::Damaged);
    }
}
