//! The control API on a real engine: a pool on a simulated disk, reached through a reactor as in the daemon.
//!
//! | room | what it holds |
//! |---|---|
//! | [`access`] | what those see and may who may not do everything |
//! | [`engine`] | the operations, one call after the other |
//! | [`said`] | what users and administrators say of volumes and snapshots, and what that changes |
//! | [`jobs`] | what takes its time, from its beginning to what is kept of it |
//! | [`socket`] | the control socket from outside: every route, and every way in which a request can be wrong |
//! | [`document`] | the OpenAPI document |
//! | [`metrics`] | figures for Prometheus, the document about them and the dashboard that shows them |
//! | [`world`] | what all of them work with |

mod access;
mod document;
mod engine;
mod jobs;
mod metrics;
mod said;
mod socket;
mod world;
