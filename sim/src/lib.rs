//! The simulator: the real engine over its simulated disk ([`cairn_cow::sim`]), on one thread, under a seeded scheduler.
//!
//! Writers and a controller work on several volumes, snapshots and clones, beside the engine's background duties. At any
//! moment the power fails or the process dies; what comes up again is compared with an oracle, which knows of every sector
//! what it may hold. One seed is one story: the same events, the same crash, the same failure.
//!
//! | room | what is in it |
//! |---|---|
//! | [`pattern`] | sectors that name the write they come from |
//! | [`engine`] | the engine, spoken to in sectors |
//! | [`oracle`] | what a volume may hold, given what was asked of it and when it answered |
//! | `world` | what was asked of a pool so far |
//! | `writer`, `controller` | who asks |
//! | `ballast` | what leaves little room in a pool, or makes it grow |
//! | `note` | a number in the pool's attributes |
//! | `verify` | the comparison after a death |
//! | `damage` | what is read of a pool whose disk has changed behind its back |
//! | [`life`] | a pool that lives, dies and comes back |
//! | [`faults`] | the n-th fault: every operation of a piece of a life fails |
//! | [`tally`] | counts of what was looked at |
//! | [`mod@sweep`] | many deaths at each of many moments of a life |
//! | [`sequences`] | every short sequence of operations, with every crash in it |

mod ballast;
mod controller;
mod damage;
pub mod engine;
pub mod faults;
pub mod life;
mod note;
pub mod oracle;
pub mod pattern;
pub mod sequences;
pub mod sweep;
pub mod tally;
mod verify;
mod world;
mod writer;
