//! What the daemon and the service manager that started it have to say to each other. Without one, nothing.
//!
//! | room | what it holds |
//! |---|---|
//! | [`manager`] | the manager's socket: ready, reloading, stopping, how it goes, by sd_notify(3) |
//! | [`sockets`] | sockets that it listens on already, by sd_listen_fds(3) |
//! | [`watch`] | the thread that tells it how it goes, and that every thread which serves still answers |
//! | [`summary`] | how it goes, in a line |

mod manager;
mod sockets;
mod summary;
mod watch;

pub(crate) use manager::Manager;
pub(crate) use sockets::{Passed, Purpose};
pub(crate) use summary::summary;
pub(crate) use watch::{Pulse, Watch};
