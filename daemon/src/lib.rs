//! cairn's daemon as a library, so that its control side can be tested and driven without a pool.
//!
//! | room | what it holds |
//! |---|---|
//! | [`config`] | the command line and the configuration file, down to one checked [`config::Config`] |
//! | [`control`] | the control socket: HTTP, its routes, and the engine behind them |
//! | [`disk`] | the pool's file or device, locked, through io_uring |
//! | [`exports`] | volumes and snapshots as NBD exports |
//! | [`serve`] | accepting NBD clients and spreading them over the reactors |
//! | [`run`] | starting, announcing, stopping |

pub mod config;
pub mod control;
pub mod disk;
pub mod exports;
pub mod run;
pub mod serve;
