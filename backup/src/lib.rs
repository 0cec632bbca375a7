//! cairn's backup repository: backups of volumes in any object store, deduplicated, compressed, encrypted.
//!
//! The rooms and how they connect:
//!
//! ```text
//! repository                                  what users ask for
//!   backup   reader  restore   verify   gc  prune  hold
//!   pieces     │       │         │     │
//!     └──┬─────┴───────┘         │     │
//!       map ── node ── blocks     roots ┘     a backup's chunks, as a tree; what must be kept
//!        │
//!   upload   core (fetching)   commit  session
//!        │      │                             blobs on their way; making a backup count
//!   blob   pack   index   manifest  envelope  what the objects are: `docs/BACKUP-FORMAT.md`
//!        └──┬───┴────┘         keys  config
//!         store ── objects ── location ── http patience; what is asked of a store; where it is; lost connections
//!                     └─ direct               large files
//!         cpus                                threads that hash and compress
//! ```
//!
//! A volume is cut into chunks, each stored once under the hash of its contents; a backup is the root of a tree that
//! leads to its chunks. Every backup is whole: "incremental" says only how it was made. Writers on several hosts need
//! no lock, and nothing that a crash leaves behind has to be cleared by hand.
#![forbid(unsafe_code)]

mod backup;
mod blob;
mod blocks;
mod codec;
mod commit;
mod config;
mod core;
mod cpus;
mod direct;
mod envelope;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gc;
mod hold;
mod http;
mod ids;
mod index;
mod keys;
mod limit;
mod location;
mod manifest;
mod map;
mod node;
mod objects;
mod pack;
mod pieces;
mod prune;
mod reader;
mod repository;
mod restore;
mod roots;
mod session;
mod source;
mod store;
mod task;
mod upload;
mod verify;

pub use backup::BackupRequest;
pub use config::{DEFAULT_CHUNK_SIZE, FORMAT_VERSION};
pub use error::{Error, ErrorKind, Result};
pub use gc::{GcOptions, GcReport};
pub use hold::HOLD_RENEWAL;
pub use ids::{BackupId, HoldId, RepoId};
pub use keys::KeyFile;
pub use limit::{Cancel, Limiter, OnProgress, Phase, Progress};
pub use location::{Location, S3Options, memory};
pub use manifest::{Backup, BackupKind, Labels, VolumeRef};
pub use objects::{Answer, Failure, Object, Objects, Staged, StoreError};
pub use prune::{KeepRules, Verdict};
pub use reader::{MAX_READ, Reader};
pub use repository::{Listing, OpenOptions, PruneReport, Repository, Status, TreeLine};
pub use restore::RestoreOptions;
pub use source::{Extents, Sink, Source};
pub use store::Retry;
pub use verify::{Problem, VerifyOptions, VerifyReport};
