//! Formats that QEMU reads for us: VMware's and Hyper-V's.
//!
//! Their headers are judged here first ([`vmdk`], [`vhd`]): QEMU would open whatever other files they name. What is left
//! is read by `qemu-nbd` ([`serve`]), which gets the open file, the format, and a socket on which it serves one client,
//! read-only: nothing of the daemon's. The memory it may take is limited.

mod serve;
mod vhd;
mod vmdk;

pub(crate) use serve::ForeignSource;
pub(crate) use vhd::{Vhd, fixed_size as fixed_vhd_size, is_fixed as is_fixed_vhd, judge as judge_vhd};
pub(crate) use vmdk::check as check_vmdk;

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};

/// Exactly so many bytes at a place of an image.
fn read_at(file: &File, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = file.read_exact_at(&mut bytes, at);
    read.map_err(|e| Error::damaged("the image is cut off: what describes it is not in it").because(e))?;
    Ok(bytes)
}
