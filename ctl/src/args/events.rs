//! `cairn events ...`

use cairn_api::event::Severity;
use clap::Args;

use super::values::one_of;

/// Which events.
#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Wait for what happens next, and show it as it happens
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only of this kind, or of those that begin with it: volume, volume.created, pool.fenced
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Only those about this volume and its snapshots
    #[arg(long, value_name = "VOL")]
    pub(crate) volume: Option<String>,
    /// Only those about which somebody should care so much, or more: info, warning or error
    #[arg(long, value_parser = severity)]
    pub(crate) severity: Option<Severity>,
    /// Only those after the one with this id
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<u64>,
    /// At most so many, the latest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

fn severity(text: &str) -> Result<Severity, String> {
    let all = [Severity::Info, Severity::Warning, Severity::Error];
    one_of(text, &all, Severity::as_str)
}
