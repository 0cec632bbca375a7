//! A client of NBD servers that keeps many requests in flight on one blocking socket: fixed newstyle with `GO`, structured
//! replies and `base:allocation` where the server has them.
//!
//! | room | what it holds |
//! |---|---|
//! | `wire` | numbers of the protocol, and messages as bytes |
//! | `connection` | negotiation; requests, and whatever replies come |
//! | `disk` | an export as a source, and as a target |
//! | `random` | reads, writes and questions at any place |
//!
//! The specification is `doc/proto.md` of NetworkBlockDevice/nbd.

mod connection;
mod disk;
mod random;
mod wire;

pub use connection::{Connection, Socket};
pub use disk::{DiskSource, DiskTarget, Grow, data_ranges};
