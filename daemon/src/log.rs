//! Where the log goes and how much of it.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The log, once it is there.
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Has what passes `filter` written to the standard error output. To be called once.
    pub fn start(filter: &str) -> Log {
        let (filter, handle) = reload::Layer::new(EnvFilter::new(filter));
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry().with(filter).with(lines).init();
        Log { filter: handle }
    }

    /// Has another filter, which was checked, in force.
    pub(crate) fn set_filter(&self, filter: &str) {
        if let Err(error) = self.filter.reload(EnvFilter::new(filter)) {
            tracing::error!(%error, "the log keeps its filter");
        }
    }
}
