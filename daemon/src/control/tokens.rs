//! Client tokens: a request to make something that is sent again, because its answer was lost, makes it once.
//!
//! The token is kept on what was made, by the record that made it. So it is as durable, and goes when that goes.

use cairn_api::error::{ApiError, ErrorCode};
use cairn_cow::{Attributes, Disk, SnapshotInfo};
use serde::Serialize;

use cairn_api::text::MAX_TOKEN_CHARS as MOST;

use super::context::invalid;
use crate::settings::TOKEN;
use crate::staging::is_hidden;
use crate::volumes::Volumes;

/// A token and what it was sent with.
pub(super) struct Token {
    token: String,
    /// What is kept: a checksum of the request, then the token.
    pub(super) kept: String,
}

impl Token {
    /// The token of a request, if it has one.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn of<T: Serialize>(token: Option<&str>, request: &T) -> Result<Option<Token>, ApiError> {
        let Some(token) = token else { return Ok(None) };
        if !(1..=MOST).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why = format!("a client token has 1 to {MOST} visible ASCII characters");
            return Err(invalid(why).with_hint("a random UUID makes a good one"));
        }
        // Requests always serialise.
        let asked = crc32fast::hash(&serde_json::to_vec(request).unwrap_or_default());
        Ok(Some(Token { token: token.to_owned(), kept: format!("{asked:08x} {token}") }))
    }

    /// Whether something that keeps `attributes` was made by this very request.
    ///
    /// # Errors
    /// When it was made by another request with the same token.
    fn made(&self, attributes: &Attributes) -> Result<bool, ApiError> {
        match attributes.get(TOKEN) {
            Some(kept) if kept == self.kept => Ok(true),
            Some(kept) if kept.split_once(' ').is_some_and(|(_, token)| token == self.token) => {
                let why = format!("the client token '{}' was sent with another request before", self.token);
                Err(ApiError::new(ErrorCode::Exists, why).with_hint("make a new token for each request"))
            }
            _ => Ok(false),
        }
    }

    /// The volume that was made by this request before.
    pub(super) fn volume<D: Disk>(&self, volumes: &Volumes<D>) -> Result<Option<String>, ApiError> {
        for (_, pool) in volumes.pools.open() {
            for volume in pool.volumes_with(TOKEN) {
                if !is_hidden(&volume.attributes) && self.made(&volume.attributes)? {
                    return Ok(Some(volume.name));
                }
            }
        }
        Ok(None)
    }

    /// Those of `snapshots` that were made by this request before.
    pub(super) fn snapshots(&self, snapshots: Vec<SnapshotInfo>) -> Result<Vec<SnapshotInfo>, ApiError> {
        let mut made = Vec::new();
        for snapshot in snapshots {
            if self.made(&snapshot.attributes)? {
                made.push(snapshot);
            }
        }
        Ok(made)
    }
}
