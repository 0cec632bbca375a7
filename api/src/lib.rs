//! The control API: what `cairnd` and its clients say to each other over the control socket.
//!
//! The API is HTTP/1.1 with JSON bodies under `/v1`, so that `curl --unix-socket` is a complete client. This crate
//! holds what both sides must agree on and nothing else; it does no I/O.
//!
//! | room | what it holds |
//! |---|---|
//! | [`volume`], [`snapshot`], [`staging`], [`image`], [`attachment`], [`types`], [`pool`], [`recycle`], [`info`], [`event`], [`job`], [`stats`] | requests and answers, one file a subject |
//! | [`qos`] | limits to a volume's I/O, and how people write them |
//! | [`error`] | the one error shape, its stable codes and their HTTP statuses |
//! | [`path`] | the routes as a client writes them |
//! | [`text`], [`schema`] | how long texts may be, and how the OpenAPI document says it |
//! | [`list`] | what every list can be asked for |
//! | [`tags`] | what users say about things, and how a list is filtered by it |
//! | [`report`] | what a check found, as people read it |
//! | [`size`], [`name`] | how people write sizes and which names are allowed |
//!
//! Conventions that hold throughout:
//! - sizes, offsets and lengths are bytes, as JSON integers;
//! - times are RFC 3339 strings in UTC ([`jiff::Timestamp`]);
//! - a list is an object with one array in it, so that it can grow pages without breaking clients;
//! - requests refuse unknown fields, so that a misspelt option is an error and not silently ignored; answers may gain
//!   fields at any time.

pub mod access;
pub mod attachment;
pub mod error;
pub mod event;
pub mod image;
pub mod info;
pub mod job;
pub mod list;
pub mod name;
pub mod path;
pub mod pool;
pub mod qos;
pub mod recycle;
pub mod report;
pub mod schema;
pub mod size;
pub mod snapshot;
pub mod staging;
pub mod stats;
pub mod tags;
pub mod text;
pub mod types;
pub mod volume;

pub use error::{ApiError, ErrorBody, ErrorCode};
pub use size::Size;
