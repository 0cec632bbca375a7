//! A small io_uring reactor: executor, timers, files, sockets and aligned buffers.
//!
//! One [`Reactor`] is one thread, one ring and the tasks that live there. Tasks are plain futures that need not be
//! `Send`; whatever they start on the ring in one turn of the loop is submitted by one system call:
//!
//! ```text
//!        ┌──────────────────────────────────────────────────────────────────────┐
//!        ▼                                                                      │
//!   run ready tasks ──▶ io_uring_enter: submit all they queued, and wait ──▶ reap completions,
//!   (bounded)           if nothing is ready (after polling a while, where    take messages from other
//!                       that pays); the next timer bounds the wait           threads, fire timers: wake tasks
//! ```
//!
//! # Rooms
//!
//! * [`buf`]: memory. [`AlignedBuf`] is page-aligned, recycled and can be cut into pieces; [`IoBuf`] and [`IoBufMut`]
//!   are what any owned buffer promises so that an operation may own it.
//! * [`rt`]: the reactor and its tasks; handles by which other threads wake them, send them work and shut them down.
//! * [`fs`] and [`net`]: operations on files and sockets, each a future that owns its buffers and gives them back.
//! * [`time`]: sleeping and deadlines.
//! * [`local`]: events, semaphores and channels between the tasks of one reactor; [`queue`]: a channel between threads.
//!
//! `fs` and `net` know `rt` only by its operations; `rt` knows nothing of them. `local` and `queue` need nothing but
//! wakers.
//!
//! # What holds
//!
//! * **Invariant:** memory and descriptors the kernel may use belong to the operation until its completion was reaped.
//!   Dropping an operation's future leaves them with the reactor, which asks the kernel to cancel; dropping the
//!   reactor waits for every completion.
//! * **Invariant:** wake-ups are not lost. A thread that wakes a task posts it first and then looks whether the reactor
//!   sleeps; the reactor says that it sleeps first and then looks for posts.
//! * Tasks never move between threads, and nothing here starts a thread but [`Reactor::start`].
//! * A task that panics ends alone: its [`JoinHandle`] carries the panic, other tasks go on.
//!
//! # Example
//!
//! ```
//! use cairn_uring::{AlignedBuf, Config, Reactor, fs::File, spawn};
//!
//! # fn main() -> std::io::Result<()> {
//! let mut reactor = Reactor::new(Config::default())?;
//! reactor.block_on(async {
//!     let file = File::from_std(tempfile::tempfile()?);
//!     let mut block = AlignedBuf::zeroed(4096);
//!     block[..5].copy_from_slice(b"cairn");
//!     let writing = spawn({
//!         let file = file.clone();
//!         async move { file.write_all_at(block, 8192).await }
//!     });
//!     let (written, block) = writing.await;
//!     written?;
//!     let (read, block) = file.read_exact_at(block, 8192).await;
//!     read?;
//!     assert_eq!(&block[..5], b"cairn");
//!     Ok(())
//! })
//! # }
//! ```

pub mod buf;
pub mod fs;
pub mod local;
pub mod net;
pub mod queue;
pub mod rt;
mod scatter;
mod slab;
pub mod time;

pub use buf::{AlignedBuf, IoBuf, IoBufMut, Slice};
pub use rt::{
    Closed, Config, Handle, JoinHandle, Reactor, ReactorThread, RemoteJoin, serve_block_device,
    shutdown_requested, spawn, try_current, yield_now,
};
pub use time::{Elapsed, sleep, sleep_until, timeout};
