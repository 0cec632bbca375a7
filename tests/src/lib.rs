//! What cairn's whole-system tests are built from.
//!
//! The tests in `tests/tests` drive the released programs, `cairnd` and `cairn`, from outside: over their sockets,
//! their command lines and their signals, with the NBD clients that users have. Nothing here links the engine, so a
//! test can't pass by sharing its mistakes.
//!
//! | room | what is in it |
//! |---|---|
//! | [`program`] | running clients with a limit; where the binaries are; what the environment asks for |
//! | [`daemon`] | a `cairnd` that is started, refused, stopped or killed |
//! | [`control`] | the control API as a script sees it |
//! | [`nbd`] | a blocking NBD client that keeps many requests in flight |
//! | [`data`] | seeded randomness and sectors that say who wrote them |
//! | [`oracle`] | what a disk may hold after a crash, in calm, and in a snapshot |
//! | [`load`] | connections that write what the oracle knows |
//! | [`fixtures`] | images, sparse copies, flipped bytes, small file systems |
//! | [`s3`] | an S3 server that all tests share |
//! | [`proxy`] | a network that fails as a seed says |
//! | [`guest`] | a Linux guest in QEMU, for what needs the kernel's NBD client |
//!
//! # Environment
//!
//! | variable | meaning |
//! |---|---|
//! | `CAIRN_BIN_DIR` | where `cairnd` and `cairn` are; else the workspace's release build |
//! | `CAIRN_TEST_FULL=1` | the sizes and counts of a release rather than those of a quick run |
//! | `CAIRN_TEST_KILLS` | how many times the daemon is killed |
//! | `CAIRN_TEST_SNAPSHOTS` | how many snapshots exist at once |
//! | `CAIRN_TEST_FLIPS` | how many bytes of a pool are flipped, one at a time |
//! | `CAIRN_TEST_IMAGE_MIB` | the size of the file system image that is copied in and out |
//! | `CAIRN_TEST_POINTS` | at how many moments each piece of backup work is cut off |
//! | `CAIRN_TEST_SEED` | repeats a randomised test; each prints its own |
//! | `CAIRN_GUEST_KERNEL` | a folder with `vmlinuz` and `modules/VERSION`, else what `tests/guest/fetch-kernel` fetched |
//! | `CAIRN_GUEST_ACCEL` | QEMU's accelerator, `tcg` if not set: slow, and the same everywhere |

pub mod control;
pub mod daemon;
pub mod data;
pub mod fixtures;
pub mod guest;
pub mod load;
pub mod nbd;
pub mod oracle;
pub mod program;
pub mod proxy;
pub mod s3;
