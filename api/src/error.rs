//! The one error shape of the API: `{"error": {"code": "...", "message": "...", "hint": "..."}}`.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::schema::words;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal;)*) => {
        /// What went wrong, as a program tells it apart. Codes are stable; scripts may match on them.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $code)] $name,)*
            /// A code of a newer daemon that this client does not know. Daemons never send it.
            #[serde(rename = "unknown", other)]
            Unknown,
        }

        impl ErrorCode {
            /// Every code a daemon sends.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// The stable code, in kebab case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(ErrorCode::$name => $code,)*
                    ErrorCode::Unknown => "unknown",
                }
            }

            /// The HTTP status that goes with the code.
            pub fn http_status(self) -> u16 {
                match self {
                    $(ErrorCode::$name => $status,)*
                    ErrorCode::Unknown => 500,
                }
            }
        }
    };
}

codes! {
    /// No such volume or snapshot.
    NotFound = "not-found", 404;
    /// The name is taken.
    Exists = "exists", 409;
    /// A name or size breaks the rules.
    InvalidArgument = "invalid-argument", 400;
    /// The range lies outside the volume.
    OutOfRange = "out-of-range", 400;
    /// It was cancelled before it was done.
    Cancelled = "cancelled", 409;
    /// What is asked for contradicts itself, or does not go with what there is.
    Conflict = "conflict", 409;
    /// A volume, an image or a pool cannot get smaller.
    Shrink = "shrink", 409;
    /// The pool, or the file system under it, is full.
    NoSpace = "no-space", 507;
    /// The version cannot be written.
    ReadOnly = "read-only", 403;
    /// The daemon may not do that on this machine.
    NotPermitted = "not-permitted", 403;
    /// Whoever asks has no role that allows it.
    Forbidden = "forbidden", 403;
    /// A barrier failed; the pool refuses writes until it is reopened.
    Fenced = "fenced", 503;
    /// What was read does not match its checksum or makes no sense.
    Corrupt = "corrupt", 500;
    /// The disk reported an error.
    Io = "io", 500;
    /// Someone uses it, or something is under way that conflicts.
    Busy = "busy", 409;
    /// The volume has snapshots and deleting them was not asked for.
    HasSnapshots = "has-snapshots", 409;
    /// A snapshot is held, so that it cannot be deleted.
    Held = "held", 409;
    /// The file or device does not hold a pool.
    NotAPool = "not-a-pool", 500;
    /// This version of cairn, or this machine, cannot do that.
    Unsupported = "unsupported", 409;
    /// The file or device is shorter than the pool it holds.
    Truncated = "truncated", 500;
    /// The request is not HTTP as this API takes it: no JSON, a wrong type, an unknown field or query key.
    BadRequest = "bad-request", 400;
    /// There is nothing at this path.
    NoSuchRoute = "no-such-route", 404;
    /// The path exists, but not with this method.
    MethodNotAllowed = "method-not-allowed", 405;
    /// The request's body is larger than the API takes.
    TooLarge = "too-large", 413;
    /// The client took too long to send its request.
    RequestTimeout = "request-timeout", 408;
    /// The engine did not answer in time; the operation may still complete.
    Timeout = "timeout", 504;
    /// The daemon is shutting down, or has as much to do as it accepts.
    Unavailable = "unavailable", 503;
    /// Something that should not happen happened.
    Internal = "internal", 500;
}

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let what =
            "What went wrong, as a program tells it apart. Codes are stable; scripts may match on them.";
        words(what, ErrorCode::ALL.iter().map(|code| code.as_str()))
    }
}

impl ToSchema for ErrorCode {}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as the API answers it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong, for people: one sentence.
    pub message: String,
    /// What to do about it, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), hint: None }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// The body of every answer whose status is 400 or higher.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_json_and_unknown_ones_do_not_fail() {
        for &code in ErrorCode::ALL {
            let json = serde_json::to_string(&code).expect("serialises");
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).expect("parses"), code);
            assert!((400..600).contains(&code.http_status()), "{code}");
        }
        let newer: ErrorCode = serde_json::from_str("\"quota-exceeded\"").expect("parses");
        assert_eq!(newer, ErrorCode::Unknown);
    }

    #[test]
    fn the_shape_is_fixed() {
        let body = ErrorBody {
            error: ApiError::new(ErrorCode::Exists, "volume \"a\" exists").with_hint("choose another name"),
        };
        let json = serde_json::to_string(&body).expect("serialises");
        assert_eq!(
            json,
            r#"{"error":{"code":"exists","message":"volume \"a\" exists","hint":"choose another name"}}"#
        );
        let bare: ErrorBody =
            serde_json::from_str(r#"{"error":{"code":"io","message":"m"}}"#).expect("the hint is optional");
        assert_eq!(bare.error.hint, None);
    }
}
