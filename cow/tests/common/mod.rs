//! What the engine's tests share: sectors that say who wrote them, the engine in sectors, and the oracle.

// Each test binary uses its part of this.
#![allow(dead_code)]

pub(crate) mod engine;
pub(crate) mod oracle;
pub(crate) mod pattern;
