//! A server over memory in a reactor thread of its own, with knobs a test can turn, and a client that sends and
//! expects exact bytes.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own and uses a part of this")]

pub mod disk;
pub mod raw;
pub mod server;
