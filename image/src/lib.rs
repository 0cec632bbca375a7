//! Disk images in the formats of others.
//!
//! ```text
//! import   file, stream ─► [open]: detect, distrust ─► [Source] ─► thread, queue ─► [Reading] ─┐
//!                                                                                           [copy]
//! export   [nbd::Connection] ─► [nbd::DiskSource] ──► thread, queue ─► [Reading] ──────────────┘ │
//!                                              [nbd::DiskTarget], [create]: [Target] ◄───────────┘
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`open`], `detect` | which format a file has, and a source for it |
//! | `raw` | raw disks, sparse in both directions, from streams and to them |
//! | `archive` | a raw disk in a compressed tar archive |
//! | `qcow2` | its header, judged; reading by imago; writing in one pass |
//! | `foreign` | vmdk, vhd, vhdx: their headers, judged; reading by QEMU |
//! | [`nbd`] | a client of NBD servers: the daemon, and QEMU |
//! | `copy` | from a source to a target, with progress and cancellation |
//!
//! **Invariant:** no file is opened but those that the caller opened. What an image says about other files (backing files,
//! extents, external data) is refused before any library sees the image, and the libraries are told to follow nothing.
//!
//! **Invariant:** a source hands out ascending pieces inside the size that it has announced, which is bounded.

mod archive;
mod copy;
mod detect;
mod error;
mod foreign;
pub mod nbd;
mod open;
mod qcow2;
mod raw;
mod source;
mod target;

pub use copy::{Watch, copy};
pub use detect::format_of_name;
pub use error::{Error, ErrorKind, Result};
pub use open::{Input, Opened, Options, open};
pub use source::{Output, Piece, Reading, Source};
pub use target::{Destination, Target, create};

/// The largest disk: that of cairn's volumes.
pub const MAX_DISK_BYTES: u64 = 64 << 40;
/// How much is read, queued and written at a time.
const PIECE_BYTES: usize = 1 << 20;
/// What disks are rounded up to.
const SECTOR_BYTES: u64 = cairn_api::image::SECTOR_BYTES;
/// Ranges that hold data are told apart down to this; it is qcow2's usual cluster.
const CLUSTER_BYTES: u64 = 64 << 10;

/// A disk's size in whole sectors.
pub fn round_up(size: u64) -> u64 {
    size.next_multiple_of(SECTOR_BYTES)
}
