//! The API's routes as a client writes them.
//!
//! Names are percent-encoded: a name that breaks the rules must reach the daemon as one path segment, so that its
//! answer is about the name and not about some other route.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `/v1/volumes`: list (GET) and create (POST).
pub const VOLUMES: &str = "/v1/volumes";
/// `/v1/restores`: make a volume of a backup that serves at once (POST).
pub const RESTORES: &str = "/v1/restores";
/// `/v1/snapshots`: list all (GET) and create a group (POST).
pub const SNAPSHOTS: &str = "/v1/snapshots";
/// `/v1/images`: list (GET) and create from a volume (POST).
pub const IMAGES: &str = "/v1/images";
/// `/v1/imports`: begin to import an image (POST).
pub const IMPORTS: &str = "/v1/imports";
/// `/v1/stagings`: begin to fill a volume that nobody sees yet (POST).
pub const STAGINGS: &str = "/v1/stagings";
/// `/v1/pool`: the figures of the daemon's first pool (GET).
pub const POOL: &str = "/v1/pool";
/// `/v1/pool/check`: begin to check the first pool (POST); `?data=true` reads all data too.
pub const POOL_CHECK: &str = "/v1/pool/check";
/// `/v1/pool/scrub`: the scrub of the first pool: show (GET), begin (POST), end (DELETE).
pub const POOL_SCRUB: &str = "/v1/pool/scrub";
/// `/v1/pools`: list (GET) and create (POST).
pub const POOLS: &str = "/v1/pools";
/// `/v1/types`: list (GET) and create (POST).
pub const TYPES: &str = "/v1/types";
/// `/v1/qos`: list rules (GET) and create one (POST).
pub const QOS: &str = "/v1/qos";
/// `/v1/info`: what the daemon is and where it listens (GET).
pub const INFO: &str = "/v1/info";
/// `/v1/whoami`: who asks, and what it may (GET).
pub const WHOAMI: &str = "/v1/whoami";
/// `/v1/recycle-bin`: what was deleted (GET), and for how long it is kept (PATCH).
pub const RECYCLE_BIN: &str = "/v1/recycle-bin";
/// `/v1/events`: what happened lately, or with `Accept: text/event-stream` what happens, as it happens (GET).
pub const EVENTS: &str = "/v1/events";
/// `/v1/jobs`: what takes its time, under way and ended (GET).
pub const JOBS: &str = "/v1/jobs";
/// `/v1/stats`: what volumes' clients have done since the daemon started (GET).
pub const STATS: &str = "/v1/stats";
/// `/v1/openapi.json`: the API's description (GET).
pub const OPENAPI: &str = "/v1/openapi.json";

fn encode(name: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(name, RESERVED)
}

/// One volume: show (GET), edit (PATCH), delete (DELETE, `?snapshots=true` with its snapshots, `?permanent=true` past
/// the recycle bin).
pub fn volume(name: &str) -> String {
    format!("{VOLUMES}/{}", encode(name))
}

/// Something below a volume: `resize` (POST), `retype` (POST), `qos` (GET, PATCH), `attachments` (GET), `attach` (POST),
/// `detach` (POST), `reset-attachments` (POST), `reset-status` (POST), `tree` (GET), `snapshots` (GET, POST) or `passing-snapshot` (POST).
pub fn volume_sub(name: &str, sub: &str) -> String {
    format!("{}/{sub}", volume(name))
}

/// One image: show (GET), edit (PATCH), delete (DELETE, `?force=true` also when it is in use).
pub fn image(name: &str) -> String {
    format!("{IMAGES}/{}", encode(name))
}

/// An import under way: give it up (DELETE).
pub fn import(name: &str) -> String {
    format!("{IMPORTS}/{}", encode(name))
}

/// Something below an import: `grow` (POST) or `complete` (POST).
pub fn import_sub(name: &str, sub: &str) -> String {
    format!("{}/{sub}", import(name))
}

/// A staging: give it up (DELETE).
pub fn staging(id: &str) -> String {
    format!("{STAGINGS}/{}", encode(id))
}

/// Something below a staging: `complete` (POST).
pub fn staging_sub(id: &str, sub: &str) -> String {
    format!("{}/{sub}", staging(id))
}

/// One pool: show (GET), forget when it is empty (DELETE).
pub fn pool(name: &str) -> String {
    format!("{POOLS}/{}", encode(name))
}

/// Something below a pool: `grow` (POST), `check` (POST, `?data=true` reads all data too), or `scrub` (GET, POST, DELETE).
pub fn pool_sub(name: &str, sub: &str) -> String {
    format!("{}/{sub}", pool(name))
}

/// One type: show (GET), edit (PATCH), delete (DELETE).
pub fn volume_type(name: &str) -> String {
    format!("{TYPES}/{}", encode(name))
}

/// One QoS rule: show (GET), edit (PATCH), delete (DELETE).
pub fn qos(name: &str) -> String {
    format!("{QOS}/{}", encode(name))
}

/// A volume in the recycle bin: delete it for good (DELETE).
pub fn recycled(id: &str) -> String {
    format!("{RECYCLE_BIN}/{}", encode(id))
}

/// Something below a volume in the recycle bin: `recover` (POST).
pub fn recycled_sub(id: &str, sub: &str) -> String {
    format!("{}/{sub}", recycled(id))
}

/// One job: show (GET).
pub fn job(id: &str) -> String {
    format!("{JOBS}/{}", encode(id))
}

/// Something below a job: `cancel` (POST).
pub fn job_sub(id: &str, sub: &str) -> String {
    format!("{}/{sub}", job(id))
}

/// One snapshot: show (GET), edit (PATCH), delete (DELETE).
pub fn snapshot(volume_name: &str, snapshot: &str) -> String {
    format!("{}/snapshots/{}", volume(volume_name), encode(snapshot))
}

/// Something below a snapshot: `clone` (POST), `rollback` (POST), `holds` (POST) or `diff` (GET).
pub fn snapshot_sub(volume_name: &str, name: &str, sub: &str) -> String {
    format!("{}/{sub}", snapshot(volume_name, name))
}

/// One hold of a snapshot: release it (DELETE).
pub fn hold(volume_name: &str, name: &str, hold: &str) -> String {
    format!("{}/{}", snapshot_sub(volume_name, name, "holds"), encode(hold))
}

/// Appends a query to a path; pairs without a value are left out.
pub fn with_query(mut path: String, pairs: &[(&str, Option<&str>)]) -> String {
    let mut separator = '?';
    for (key, value) in pairs {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(path, "{separator}{}={}", encode(key), encode(value));
            separator = '&';
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_one_segment() {
        assert_eq!(volume("vm-1"), "/v1/volumes/vm-1");
        assert_eq!(snapshot("a/b", "c d?"), "/v1/volumes/a%2Fb/snapshots/c%20d%3F");
        assert_eq!(snapshot_sub("v", "s", "diff"), "/v1/volumes/v/snapshots/s/diff");
        assert_eq!(volume_sub("ä", "tree"), "/v1/volumes/%C3%A4/tree");
    }

    #[test]
    fn queries_leave_out_what_is_not_there() {
        assert_eq!(with_query("/p".into(), &[("to", None)]), "/p");
        assert_eq!(
            with_query("/p".into(), &[("a", Some("1")), ("b", None), ("c", Some("x&y"))]),
            "/p?a=1&c=x%26y"
        );
    }
}
