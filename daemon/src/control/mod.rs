//! The control side: HTTP/JSON on a Unix socket, apart from the disks.
//!
//! ```text
//! client ── Unix socket ── [server]  one thread, tokio current-thread, hyper
//!                             │
//!                            [door]   who asks is put beside each request, and what it changes into the audit log;
//!                             │       beside volumes' clients at work requests come at a [pace]
//!                             │
//!                          [routes]  axum: paths, bodies, the OpenAPI document;  [reply]: one error shape
//!                             │
//!                           [gate]   bounds what runs at once, and for how long a client waits for it
//!                             │
//!                          [Engine]  the trait: API requests in, API answers out
//!                             │
//!                         [Guarded]  the same for those who may not do everything
//!                             │
//!                       [PoolEngine] sends a closure to a reactor and awaits its answer
//! ```
//!
//! **Invariant:** nothing here runs on a reactor's thread except the closures that [`PoolEngine`] sends there, and
//! those only await the engine. A slow or hostile control client cannot stall a disk.
//!
//! **Invariant:** an operation once begun is carried out whether or not its client stays for the answer.
//!
//! [`Sessions`] is where control and data meet: the NBD side enters every connection there, and a delete or rollback
//! holds it against new ones while it runs.

mod attachments;
mod context;
pub(crate) mod convert;
mod crowd;
mod door;
mod engine;
mod gate;
mod guard;
mod images;
mod jobs;
mod leases;
mod list;
mod metrics;
mod pace;
mod pool;
mod pools;
mod recycle;
mod reply;
mod restores;
mod routes;
mod server;
mod sessions;
mod snapshots;
mod socket;
mod stagings;
mod stats;
mod strict;
mod tokens;
mod types;
mod volumes;

pub use door::Porter;
pub use engine::{Engine, Pending};
pub use guard::Guarded;
pub use pool::PoolEngine;
pub use routes::{openapi, router};
pub use server::{ControlThread, start};
pub use sessions::{Attachment, Closed, Held, InUse, Line, Sessions, Target};
pub use socket::bind_unix;
