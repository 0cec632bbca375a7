//! Numbers of the protocol, and messages as bytes. All integers are big-endian.

use std::io::{self, Read};

pub(super) const MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

pub(super) const FIXED_NEWSTYLE: u16 = 1 << 0;
pub(super) const NO_ZEROES: u16 = 1 << 1;

pub(super) const OPT_GO: u32 = 7;
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPT_SET_META_CONTEXT: u32 = 10;

pub(super) const REP_ACK: u32 = 1;
pub(super) const REP_INFO: u32 = 3;
pub(super) const REP_META_CONTEXT: u32 = 4;
pub(super) const REP_ERROR: u32 = 1 << 31;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

pub(super) const CMD_READ: u16 = 0;
pub(super) const CMD_WRITE: u16 = 1;
pub(super) const CMD_DISC: u16 = 2;
pub(super) const CMD_FLUSH: u16 = 3;
pub(super) const CMD_WRITE_ZEROES: u16 = 6;
pub(super) const CMD_BLOCK_STATUS: u16 = 7;

pub(super) const CHUNK_NONE: u16 = 0;
pub(super) const CHUNK_DATA: u16 = 1;
pub(super) const CHUNK_HOLE: u16 = 2;
pub(super) const CHUNK_STATUS: u16 = 5;
pub(super) const CHUNK_IS_ERROR: u16 = 1 << 15;
pub(super) const CHUNK_DONE: u16 = 1;

/// Of an extent of `base:allocation`: it reads as zeroes.
pub(super) const STATE_ZERO: u32 = 1 << 1;
/// Of an extent of `cairn:changed:...`: it may differ.
pub(super) const STATE_CHANGED: u32 = 1;
/// Before a snapshot's name, the context of what changed since.
pub(super) const CHANGED_SINCE: &str = "cairn:changed:";
pub(super) const BASE_ALLOCATION: &str = "base:allocation";

macro_rules! reads {
    ($($name:ident: $int:ty;)*) => {
        $(pub(super) fn $name(from: &mut impl Read) -> io::Result<$int> {
            let mut bytes = [0; size_of::<$int>()];
            from.read_exact(&mut bytes)?;
            Ok(<$int>::from_be_bytes(bytes))
        })*
    };
}

reads! {
    u16: u16;
    u32: u32;
    u64: u64;
}

/// So many bytes, which the caller has bounded.
pub(super) fn bytes(from: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// An option as a client sends it.
pub(super) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    message
}

/// A text with its length before it.
pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// A request's header.
pub(super) fn request(command: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut message = [0; 28];
    message[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    message[6..8].copy_from_slice(&command.to_be_bytes());
    message[8..16].copy_from_slice(&cookie.to_be_bytes());
    message[16..24].copy_from_slice(&offset.to_be_bytes());
    message[24..].copy_from_slice(&len.to_be_bytes());
    message
}

/// What an error's number says, as the specification names them.
pub(super) fn errno(number: u32) -> String {
    match i32::try_from(number) {
        Ok(number) => match nix::errno::Errno::from_raw(number) {
            nix::errno::Errno::UnknownErrno => format!("error {number}"),
            errno => errno.desc().to_owned(),
        },
        Err(_) => format!("error {number}"),
    }
}
