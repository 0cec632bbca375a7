//! QEMU's format: its header, judged ([`header`]); reading, by imago ([`read`]); writing in one pass ([`write`]).
//!
//! The specification is `docs/interop/qcow2.rst` of QEMU.

mod header;
mod read;
mod write;

pub(crate) use header::{HEADER_BYTES, Reader, judge};
pub(crate) use read::Qcow2Source;
pub(crate) use write::Qcow2Target;
