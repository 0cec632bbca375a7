//! cairn's storage engine: a pool of copy-on-write virtual disks on one file or device.
//!
//! The rooms and how they connect, from a request down to the disk:
//!
//! ```text
//! volumes   read   write   diff   check        what users ask for
//!    └────────┴──┬───┴───────┴──────┘       (and of a bad disk: survey, scrub, repair, dump)
//!              state                           the one lock: versions, maps, space, the log in memory
//!     version ── map ── node    space ─ cache  what it guards; data blocks in memory
//!                │
//!   record ── commit   checkpoint   reap       what leaves it: batches, checkpoints, deletions in the background
//!                └─────────┴─────────┘
//!        recover  ──  format / codec           and how it is found again
//!                │
//!              disk                            io_uring in the daemon, [`sim`] in tests
//! ```
//!
//! Everything that changes a pool is a record in one ordered log; memory is what applying the log gives, and a
//! checkpoint is that state written down. The engine knows no sockets, no NBD and no particular executor.
#![forbid(unsafe_code)]

mod attributes;
#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub mod bench;
mod cache;
mod check;
mod checkpoint;
mod codec;
mod commit;
#[doc(hidden)]
pub mod defect;
mod diff;
mod disk;
mod dump;
mod error;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod maintain;
mod map;
mod node;
mod overlay;
mod pool;
mod read;
mod reap;
mod record;
mod recover;
mod repair;
mod scrub;
mod shadow;
pub mod sim;
mod space;
mod state;
mod survey;
mod sweep;
mod sync;
#[cfg(feature = "synthetic")]
mod synthetic;
mod types;
mod version;
mod volumes;
mod write;
mod zeroing;

pub use attributes::{Attributes, Holder, MAX_ATTRIBUTE_KEY, MAX_ATTRIBUTE_VALUE};
pub use disk::{Buf, Disk, Survivor};
pub use dump::{Dump, Part, dump};
pub use error::{Error, ErrorKind, Result};
pub use overlay::Overlay;
pub use pool::{CreateOptions, Options, Pool};
pub use read::ReadReply;
pub use repair::{RepairReport, repair};
pub use scrub::{Scrub, ScrubStep};
pub use types::*;
pub use volumes::{Edit, NewSnapshots, NewVolume, Resolved, check_name};
