//! cairn's daemon as a library, so that its control side can be tested and driven without a pool.
//!
//! | room | what it holds |
//! |---|---|
//! | [`config`] | the command line and the configuration file, down to one checked [`config::Config`] |
//! | [`control`] | the control socket: HTTP, its routes, and the engine behind them |
//! | [`disk`] | the pool's file or device, locked, through io_uring |
//! | [`exports`] | volumes and snapshots as NBD exports |
//! | [`qos`] | holding volumes to their limits |
//! | `listeners` | the sockets, bound before the pool is touched |
//! | `descriptors` | the limit on file descriptors, and the connections it allows |
//! | [`serve`] | accepting NBD clients and spreading them over the reactors |
//! | [`kernel`] | volumes as the kernel's block devices, through its nbd driver |
//! | [`run`] | starting, announcing, stopping |
//! | `status` | what lies where in an export, and what changed there since a snapshot |
//! | `seldom` | log lines said once in a while |

pub mod config;
pub mod control;
mod descriptors;
pub mod disk;
pub mod exports;
mod habit;
pub mod kernel;
mod listeners;
pub mod qos;
pub mod run;
mod seldom;
pub mod serve;
mod status;
