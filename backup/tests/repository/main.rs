//! The repository from outside: over stores in memory, in folders, and over such that fail, lie and wait.

mod common;
mod damage;
mod faults;
mod interleave;
mod modest;
mod network;
mod races;
mod roundtrip;
