//! The NBD protocol's server side: negotiation and transmission, as a library.
//!
//! It speaks all of fixed newstyle but TLS: structured replies and extended headers, block status with any
//! metadata contexts, FUA on every command, fast zeroes, don't-fragment, multi-conn, cache. It knows nothing of what
//! the disks are made of: implement [`Exports`] and [`Export`], accept sockets, and give each to [`serve`].
//!
//! ```no_run
//! # use std::os::unix::net::UnixListener;
//! # use cairn_nbd::{Exports, Limits, Shutdown, serve};
//! # use cairn_uring::{Config, Reactor, net::Listener, spawn};
//! # fn run<X: Exports + 'static>(my_exports: X) -> std::io::Result<()> {
//! let exports = std::rc::Rc::new(my_exports);
//! // One for all, since they share a budget of memory.
//! let limits = Limits::default();
//! let listener = Listener::unix(UnixListener::bind("nbd.sock")?)?;
//! let mut reactor = Reactor::new(Config::default())?;
//! reactor.block_on(async move {
//!     loop {
//!         let (stream, exports, limits) = (listener.accept().await?, exports.clone(), limits.clone());
//!         spawn(async move {
//!             match serve(stream, &*exports, &limits, &Shutdown::new()).await {
//!                 Ok(summary) => println!("{summary:?}"),
//!                 Err(error) => println!("{error}"),
//!             }
//!         });
//!     }
//! })
//! # }
//! ```
//!
//! `examples/ram.rs` is a complete server in about a hundred lines.
//!
//! # How the rooms connect
//!
//! ```text
//!   session ──▶ handshake ──▶ transmission ──▶ Export (yours)
//!      │            │              │
//!      └────────────┴──────┬───────┘
//!                      transport ──▶ socket
//! ```
//!
//! * `session`: one connection from greeting to close ([`serve`]), its bounds ([`Limits`]) and outcome.
//! * `attached`: the same without negotiation, for sockets handed to the kernel ([`serve_attached`]).
//! * `handshake`: options, until an export is chosen ([`Exports::open`]) or the client leaves.
//! * `transmission`: requests in, replies out, many at once; its own page shows the tasks.
//! * [`proto`]: the wire format alone, for clients and tests too.
//! * `export`: the traits a backend implements and what they exchange.
//! * `transport`: what is asked of a socket ([`Transport`]).
//! * `budget`: the memory all connections share ([`MemoryBudget`]).
//! * `shutdown`: the switch that ends sessions in good order ([`Shutdown`]).
//! * `error`: what clients see ([`Errno`]) and what a session ends with ([`SessionError`]).
//!
//! # Invariants
//!
//! * A client controls no amount of memory: see [`Limits`] for one connection and [`MemoryBudget`] for all. A client
//!   that never reads stops being read from.
//! * Requests are not ordered among each other; a FLUSH covers what was *answered* before it was received.
//! * What waits for an export's limit ([`Export::admit`]) takes at most half of the server's memory, and holds neither
//!   its connection's other requests nor its end up.
//! * The stream stays in step whatever a request says; where it cannot, the connection is closed.
//! * No bytes leave that the export did not provide: memory is recycled, so the parts of a buffer an export calls
//!   holes are zeroed or left out, and its edges are cut off.
//! * There is no `unsafe` here; buffers given to the kernel are owned by the reactor until it is done with them.

#![forbid(unsafe_code)]

mod attached;
mod budget;
mod error;
mod export;
mod handshake;
pub mod proto;
mod session;
mod shutdown;
mod transmission;
mod transport;

pub use attached::{attached_flags, serve_attached};
pub use budget::MemoryBudget;
pub use error::{Errno, SessionError, SessionErrorKind};
pub use export::{
    ClientInfo, Context, ContextKey, Demand, Export, ExportInfo, ExportName, Exports, Features, OpenError,
    ReadExtent, ReadReply, Span, StatusExtent, StatusQuery, ZeroFlags,
};
pub use session::{Limits, SessionEnd, SessionSummary, serve, serve_on};
pub use shutdown::Shutdown;
pub use transport::Transport;
