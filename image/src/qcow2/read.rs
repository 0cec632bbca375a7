//! Reading by imago, which is told to open nothing else.

use std::fs::File;
use std::io;

use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, StorageOpenOptions};

use crate::PIECE_BYTES;
use crate::error::{Error, Result};
use crate::source::{Output, Source};

/// A qcow2 image whose header was found harmless.
pub(crate) struct Qcow2Source {
    file: File,
    len: u64,
    size: u64,
}

impl Qcow2Source {
    /// `len` are the file's bytes, `size` the disk's.
    pub(crate) fn new(file: File, len: u64, size: u64) -> Qcow2Source {
        Qcow2Source { file, len, size }
    }
}

fn damaged(error: io::Error) -> Error {
    Error::damaged("the qcow2 image is cut off or damaged").because(error)
}

fn open(file: File) -> io::Result<FormatAccess<Storage>> {
    let storage = Storage::from_open_file(file, StorageOpenOptions::new())?;
    let builder = Qcow2::<Storage>::builder(storage).backing(None).data_file(None);
    Ok(FormatAccess::new(builder.open(DenyImplicitOpenGate::default())?))
}

impl Source for Qcow2Source {
    fn read(self: Box<Self>, out: &mut Output) -> Result<()> {
        let Qcow2Source { file, len, size } = *self;
        let image = open(file).map_err(damaged)?;
        if image.size() != size {
            return Err(Error::damaged("the qcow2 image changed while it was read"));
        }
        out.begin(Some(size))?;
        let mut at = 0;
        while at < size {
            let (mapping, mapped) = image.get_mapping(at, size - at).map_err(damaged)?;
            let end = at.saturating_add(mapped).min(size);
            if end == at {
                return Err(Error::damaged("the qcow2 image ends before its disk"));
            }
            match mapping {
                Mapping::Zero { .. } => at = end,
                // What is not in the file would be read as zeroes.
                Mapping::Raw { offset, .. } if offset.checked_add(end - at).is_none_or(|end| end > len) => {
                    return Err(Error::damaged("the qcow2 image is cut off: some of its data is not in it"));
                }
                _ => {
                    while at < end {
                        let mut data = out.buffer();
                        data.resize(PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES)), 0);
                        image.read(data.as_mut_slice(), at).map_err(damaged)?;
                        let offset = at;
                        at += data.len() as u64;
                        out.piece(offset, data)?;
                    }
                }
            }
        }
        Ok(())
    }
}
