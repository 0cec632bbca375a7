//! QoS: holding a volume to the bytes and operations a second that its rule allows.
//!
//! | room | what it holds |
//! |---|---|
//! | `bucket` | one token bucket: the arithmetic |
//! | `limits` | a rule's buckets, and which of them an operation is charged to |
//! | `queue` | who waits, and whose turn it is |
//! | `throttle` | [`Throttle`], which puts them together for the tasks of all reactors |
//! | `clock` | the time, and timers |
//!
//! The first three are plain data structures without a clock or a task. What a rule means, with the arithmetic by
//! example, is in `docs/QOS.md`.

mod bucket;
mod clock;
mod limits;
mod queue;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod throttle;

pub use clock::{Clock, ReactorClock};
pub use limits::Direction;
pub use throttle::{Connection, Throttle, ThrottleStats};
