//! What went wrong, said in one way: `error: what (code)`, then `hint: what to do`.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use cairn_api::error::ApiError;

/// Why a command did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Something to be told.
    Told {
        /// Stable, in kebab case: the API's codes and a few of the client's own.
        code: String,
        /// One sentence.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The command line makes no sense, in a way that only shows when all of it is known.
    Usage(String),
    /// The answer has been printed, and it is bad news.
    Unsound,
    /// Nobody reads the output any more (`cairn volume list | head -1`): no reason to complain.
    PipeClosed,
}

impl Failure {
    /// A failure on this side of the socket.
    pub(crate) fn local(code: &str, message: impl Into<String>) -> Failure {
        Failure::Told { code: code.to_owned(), message: message.into(), hint: None }
    }

    /// The same failure with what to do about it.
    pub(crate) fn with_hint(self, text: impl Into<String>) -> Failure {
        match self {
            Failure::Told { code, message, .. } => Failure::Told { code, message, hint: Some(text.into()) },
            other => other,
        }
    }

    /// The same failure, with what else is to be said of it.
    pub(crate) fn and(self, text: &str) -> Failure {
        match self {
            Failure::Told { code, message, hint } => {
                Failure::Told { code, message: format!("{message}; {text}"), hint }
            }
            other => other,
        }
    }

    /// Prints it and says which exit code goes with it.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        match self {
            Failure::PipeClosed => ExitCode::SUCCESS,
            Failure::Unsound => ExitCode::FAILURE,
            Failure::Told { .. } | Failure::Usage(_) => {
                // With stderr closed as well there is nobody left to tell.
                let _ = std::io::stderr().lock().write_all(self.text(json).as_bytes());
                if matches!(self, Failure::Usage(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
            }
        }
    }

    /// In the API's own shape, with the client's codes in it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let (code, hint) = match self {
            Failure::Told { code, hint, .. } => (code.as_str(), hint.as_deref()),
            Failure::Usage(_) | Failure::Unsound | Failure::PipeClosed => ("internal", None),
        };
        let mut error = serde_json::json!({ "code": code, "message": self.to_string() });
        if let Some(hint) = hint {
            error["hint"] = hint.into();
        }
        serde_json::json!({ "error": error })
    }

    fn text(&self, json: bool) -> String {
        let (code, message, hint) = match self {
            Failure::Told { code, message, hint } => (code, message, hint),
            // As clap says it.
            Failure::Usage(message) => {
                return format!("error: {message}\n\nFor more information, try '--help'.\n");
            }
            Failure::Unsound | Failure::PipeClosed => return String::new(),
        };
        if json {
            return format!("{}\n", self.json());
        }
        let mut text = format!("error: {message} ({code})\n");
        if let Some(hint) = hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Told { message, .. } | Failure::Usage(message) => f.write_str(message),
            Failure::Unsound => f.write_str("the answer is bad news"),
            Failure::PipeClosed => f.write_str("nobody reads the output"),
        }
    }
}

impl From<cairn_image::Error> for Failure {
    fn from(error: cairn_image::Error) -> Failure {
        let message = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let failure = Failure::local(error.kind().code(), message);
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<cairn_backup::Error> for Failure {
    fn from(error: cairn_backup::Error) -> Failure {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some libraries repeat their causes in their own words.
            if !message.contains(&cause_text) {
                message.push_str(&format!(": {cause_text}"));
            }
            source = cause.source();
        }
        let failure = Failure::local(error.kind().code(), message);
        match error.kind().advice() {
            "" => failure,
            advice => failure.with_hint(advice),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Told { code: error.code.to_string(), message: error.message, hint: error.hint }
    }
}

#[cfg(test)]
mod tests {
    use cairn_api::error::ErrorCode;

    use super::*;

    #[test]
    fn one_way_to_say_it() {
        let failure =
            Failure::from(ApiError::new(ErrorCode::Exists, "volume \"a\" exists").with_hint("rename"));
        assert_eq!(failure.text(false), "error: volume \"a\" exists (exists)\nhint: rename\n");
        assert_eq!(
            failure.text(true),
            "{\"error\":{\"code\":\"exists\",\"hint\":\"rename\",\"message\":\"volume \\\"a\\\" exists\"}}\n"
        );
        assert_eq!(Failure::local("unreachable", "nobody").text(false), "error: nobody (unreachable)\n");
        assert_eq!(Failure::PipeClosed.text(false), "");
        let usage = Failure::Usage("not both".to_owned());
        assert_eq!(usage.text(true), "error: not both\n\nFor more information, try '--help'.\n");
    }
}
