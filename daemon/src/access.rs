//! Who may do what: users of this machine, known by their sockets, and what the configuration grants them.
//!
//! Root and the daemon's own user may do everything. Without a table so may everybody whom the sockets' files let in.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_api::access::Role;
use cairn_api::error::{ApiError, ErrorCode};
use cairn_uring::net::Credentials;
use nix::unistd::{Group, Uid, User};
use parking_lot::RwLock;

/// Whom a grant is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grantee {
    /// A user, by name or id.
    User(String),
    /// Everybody in a group, by name or id.
    Group(String),
}

/// One row of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Whom it is for.
    pub to: Grantee,
    /// What it allows.
    pub role: Role,
    /// In which projects; a reader without any sees all.
    pub projects: Vec<String>,
}

/// Which projects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All, and what belongs to none.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Scope {
    /// Whether a project is among them.
    pub fn has(&self, project: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Only(projects) => projects.contains(project),
        }
    }

    /// Whether something is seen that belongs to a project, or to none.
    pub(crate) fn shows(&self, project: Option<&str>) -> bool {
        project.map_or(*self == Scope::All, |project| self.has(project))
    }
}

/// What somebody may do who may not do everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The projects whose volumes may be used and changed.
    pub change: BTreeSet<String>,
    /// What may be looked at; the former among it.
    pub see: Scope,
}

/// What somebody may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Everything.
    Administrator,
    /// Not everything.
    Limited(Arc<Limits>),
}

impl Limits {
    /// The largest role of these.
    pub fn role(&self) -> Role {
        match (&self.see, self.change.is_empty()) {
            (_, false) => Role::Member,
            (Scope::Only(none), true) if none.is_empty() => Role::None,
            (_, true) => Role::Reader,
        }
    }
}

impl Rights {
    /// The largest role of these.
    pub fn role(&self) -> Role {
        match self {
            Rights::Administrator => Role::Administrator,
            Rights::Limited(limits) => limits.role(),
        }
    }

    /// What may be looked at.
    pub fn scope(&self) -> Scope {
        match self {
            Rights::Administrator => Scope::All,
            Rights::Limited(limits) => limits.see.clone(),
        }
    }

    /// Whether what is on volumes of this project may be read and written.
    pub(crate) fn may_use(&self, project: &str) -> bool {
        match self {
            Rights::Administrator => true,
            Rights::Limited(limits) => limits.change.contains(project),
        }
    }
}

/// What is answered to somebody who may not.
pub(crate) fn forbidden(what: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, what).with_hint(
        "\"cairn whoami\" shows what you may do; an administrator can grant more in cairnd's configuration",
    )
}

/// The rows that are for somebody there is, with the ids of those.
#[derive(Debug)]
struct Table(Vec<(Id, Grant)>);

#[derive(Debug)]
enum Id {
    User(u32),
    Group(u32),
}

/// The table, as it is now. One a daemon, shared by `Arc`.
#[derive(Debug, Default)]
pub struct Access {
    /// None where whoever may connect may do everything.
    table: RwLock<Option<Table>>,
}

impl Access {
    /// Has these grants hold from now on; none for no table at all. Returns what is wrong with them, which makes them
    /// count for nobody: a sentence each.
    pub fn set(&self, grants: Option<&[Grant]>) -> Vec<String> {
        let mut wrong = Vec::new();
        let row = |grant: &Grant| match resolve(&grant.to) {
            Ok(id) => Some((id, grant.clone())),
            Err(why) => {
                wrong.push(why);
                None
            }
        };
        let table = grants.map(|grants| Table(grants.iter().filter_map(row).collect()));
        *self.table.write() = table;
        wrong
    }

    /// What the process at the other end of a Unix socket may do.
    pub fn rights(&self, of: &Credentials) -> Rights {
        let table = self.table.read();
        let Some(Table(rows)) = &*table else { return Rights::Administrator };
        if of.uid == 0 || of.uid == Uid::effective().as_raw() {
            return Rights::Administrator;
        }
        let mut limits = Limits { change: BTreeSet::new(), see: Scope::Only(BTreeSet::new()) };
        for (id, grant) in rows {
            let meant = match id {
                Id::User(uid) => *uid == of.uid,
                Id::Group(gid) => of.groups.contains(gid),
            };
            if !meant {
                continue;
            }
            match grant.role {
                Role::None => {}
                Role::Administrator => return Rights::Administrator,
                Role::Member => limits.change.extend(grant.projects.iter().cloned()),
                Role::Reader if grant.projects.is_empty() => limits.see = Scope::All,
                Role::Reader => limits.sees_too(&grant.projects),
            }
        }
        let members: Vec<_> = limits.change.iter().cloned().collect();
        limits.sees_too(&members);
        Rights::Limited(Arc::new(limits))
    }
}

impl Limits {
    fn sees_too(&mut self, projects: &[String]) {
        if let Scope::Only(seen) = &mut self.see {
            seen.extend(projects.iter().cloned());
        }
    }
}

/// The id of whom a grant is for.
///
/// # Errors
/// Why there is none.
fn resolve(to: &Grantee) -> Result<Id, String> {
    let (what, name) = match to {
        Grantee::User(name) => ("user", name),
        Grantee::Group(name) => ("group", name),
    };
    let found = match (to, name.parse()) {
        (Grantee::User(_), Ok(uid)) => return Ok(Id::User(uid)),
        (Grantee::Group(_), Ok(gid)) => return Ok(Id::Group(gid)),
        (Grantee::User(_), Err(_)) => {
            User::from_name(name).map(|user| user.map(|user| Id::User(user.uid.as_raw())))
        }
        (Grantee::Group(_), Err(_)) => {
            Group::from_name(name).map(|group| group.map(|group| Id::Group(group.gid.as_raw())))
        }
    };
    let found = found.map_err(|error| format!("cannot look up the {what} '{name}': {error}"))?;
    found.ok_or_else(|| format!("there is no {what} '{name}' on this machine: the grant counts for nobody"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(to: Grantee, role: Role, projects: &[&str]) -> Grant {
        Grant { to, role, projects: projects.iter().map(|&project| project.to_owned()).collect() }
    }

    fn user(id: &str) -> Grantee {
        Grantee::User(id.to_owned())
    }

    fn group(id: &str) -> Grantee {
        Grantee::Group(id.to_owned())
    }

    fn somebody(uid: u32, groups: &[u32]) -> Credentials {
        Credentials { pid: 1, uid, groups: groups.to_vec() }
    }

    fn only(projects: &[&str]) -> BTreeSet<String> {
        projects.iter().map(|&project| project.to_owned()).collect()
    }

    #[test]
    fn without_a_table_everybody_may_everything_and_with_an_empty_one_nobody() {
        let access = Access::default();
        assert_eq!(access.rights(&somebody(12345, &[])), Rights::Administrator);
        assert_eq!(access.set(Some(&[])), [""; 0]);
        assert_eq!(access.rights(&somebody(12345, &[0])).role(), Role::None, "root's group is not root");
        for uid in [0, Uid::effective().as_raw()] {
            assert_eq!(access.rights(&somebody(uid, &[])), Rights::Administrator);
        }
        access.set(None);
        assert_eq!(access.rights(&somebody(12345, &[])), Rights::Administrator);
    }

    #[test]
    fn grants_add_up() {
        let access = Access::default();
        let wrong = access.set(Some(&[
            grant(user("1001"), Role::Member, &["web"]),
            grant(group("70"), Role::Member, &["db", "web"]),
            grant(group("71"), Role::Reader, &["shop"]),
            grant(group("72"), Role::Reader, &[]),
            grant(group("73"), Role::Administrator, &[]),
            grant(user("nobody-has-this-name"), Role::Administrator, &[]),
        ]));
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].contains("no user 'nobody-has-this-name'"), "{wrong:?}");
        let rights = |uid, groups: &[u32]| access.rights(&somebody(uid, groups));
        let limits = |uid, groups: &[u32]| match rights(uid, groups) {
            Rights::Limited(limits) => limits,
            Rights::Administrator => panic!("not limited"),
        };

        let alice = limits(1001, &[1001]);
        assert_eq!((&alice.change, &alice.see), (&only(&["web"]), &Scope::Only(only(&["web"]))));
        assert_eq!(alice.role(), Role::Member);
        let both = limits(1001, &[70, 71]);
        assert_eq!(
            (&both.change, &both.see),
            (&only(&["db", "web"]), &Scope::Only(only(&["db", "shop", "web"])))
        );
        let reader = limits(1002, &[71]);
        assert_eq!((reader.change.len(), reader.role()), (0, Role::Reader));
        assert!(reader.see.shows(Some("shop")) && !reader.see.shows(Some("web")) && !reader.see.shows(None));
        let auditor = limits(1002, &[72, 71]);
        assert_eq!((auditor.role(), &auditor.see), (Role::Reader, &Scope::All));
        assert!(auditor.see.shows(None));
        assert_eq!(rights(1002, &[73]), Rights::Administrator);
        assert_eq!(limits(1002, &[1]).role(), Role::None);
        assert!(rights(1001, &[]).may_use("web") && !rights(1001, &[]).may_use("db"));
        assert!(!rights(1002, &[72]).may_use("web"), "who looks does not use");
    }

    #[test]
    fn names_are_looked_up() {
        let access = Access::default();
        let root = grant(group("root"), Role::Reader, &[]);
        assert_eq!(access.set(Some(&[grant(user("root"), Role::Member, &["x"]), root])), [""; 0]);
        assert_eq!(access.rights(&somebody(12345, &[0])).role(), Role::Reader);
    }
}
