//! A deterministic world for the engine: a disk that loses, reorders, tears and corrupts, and a seeded scheduler.
//!
//! The engine runs over [`SimDisk`] exactly as it runs over a real disk, on one thread, driven by a [`Sim`]. Every
//! choice (which task runs next, which I/O completes next, what a crash leaves behind) comes from one seed, so a
//! failure is replayed by its seed and the commit it happened on.
//!
//! ```
//! use cairn_cow::{Buf, Disk};
//! use cairn_cow::sim::{Rng, Sim, SimDisk};
//!
//! let disk = SimDisk::file(1 << 20);
//! let sim = Sim::new(7);
//! sim.attach(&disk);
//! let other = disk.clone();
//! sim.run(async move {
//!     other.grow(4096).await.unwrap();
//!     let mut buf = other.alloc(4096);
//!     buf.fill(1);
//!     other.write(0, vec![buf]).await.0.unwrap();
//!     other.sync().await.unwrap();
//! });
//! // The power fails: what was synced is there, whatever the seed.
//! let after = disk.crash(&mut Rng::new(7));
//! assert_eq!(after.peek(0, 4096), vec![1; 4096]);
//! ```
//!
//! # The fault model
//! - A write is *in flight* until the scheduler completes it; from then on reads see it, and a crash may lose it until
//!   a sync that began after its completion has succeeded. Nothing else may read or write its place meanwhile, nor a write
//!   begin where a read is under way: that ends in a panic.
//! - A power loss ([`SimDisk::crash`]) leaves every 512-byte sector with unsynced writes as it last was durable, as
//!   any one of those writes made it, or as garbage. A write in flight counts like an unsynced one; a sync in flight
//!   counts as not done. Growth is lost, too, until a sync.
//! - The death of the process ([`SimDisk::kill`]) keeps all completed writes, still unsynced, and the memory that
//!   [`crate::Disk::survivor`] gives; a power loss takes that away.
//! - A sync that fails abandons the writes it covered, as Linux does: reads go on to see them, a later sync does not make
//!   them durable, and the power loss takes away what it likes of them. Growth is not abandoned: it is the file system's own
//!   metadata, and one that fails to write that takes no more writes.
//! - [`Fault`]s make chosen operations fail, once, in one place or for ever; a write that fails may have changed any of its
//!   sectors. Others vanish or go astray, or bring a wrong bit; [`SimDisk::flip_bit`] and [`SimDisk::truncate`]
//!   damage what is stored.
//!
//! The rooms: `rng` the generator and the seeds of a test, `store` what the disk holds and what a crash makes of it,
//! `fault` what may go wrong on purpose, `disk` the [`crate::Disk`] itself, `executor` the scheduler.

mod disk;
mod executor;
mod fault;
mod rng;
mod store;
#[cfg(test)]
mod tests;

pub use disk::{Counts, SimBuf, SimDisk};
pub use executor::{Handle, Join, Sim, block_on};
pub use fault::{Fault, Op};
pub use rng::{Rng, for_each_seed};

/// The unit in which a torn write tears.
pub const SECTOR_BYTES: usize = 512;
