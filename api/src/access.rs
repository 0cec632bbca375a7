//! Who asks, and what it may.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Nothing.
    None,
    /// To look.
    Reader,
    /// To use and change what belongs to some projects.
    Member,
    /// Everything.
    Administrator,
}

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::None => "none",
            Role::Reader => "reader",
            Role::Member => "member",
            Role::Administrator => "administrator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who asks, as the daemon sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Caller {
    /// The user's id.
    pub uid: u32,
    /// The user's name, where the machine knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The largest role that it has.
    pub role: Role,
    /// The projects whose volumes it may change. An administrator may change all, and none are listed.
    pub member_of: Vec<String>,
    /// The projects that it sees; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<Vec<String>>,
}
