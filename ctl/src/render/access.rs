//! Who asks, for people.

use cairn_api::access::{Caller, Role};

/// Who the daemon takes somebody for, and what that one may do.
pub(crate) fn caller(caller: &Caller) -> String {
    let Caller { uid, user, role, member_of, sees } = caller;
    let who = user.as_ref().map_or_else(|| format!("uid {uid}"), |user| format!("{user} (uid {uid})"));
    let may = match role {
        Role::Administrator => "everything".to_owned(),
        Role::None => {
            "nothing: an administrator can grant a role in cairnd's configuration, under [access]".to_owned()
        }
        Role::Member | Role::Reader => {
            let uses = (!member_of.is_empty())
                .then(|| format!("use and change the volumes of {}", member_of.join(", ")));
            let looks = match sees {
                None => Some("look at everything".to_owned()),
                Some(sees) => {
                    let only: Vec<_> =
                        sees.iter().filter(|project| !member_of.contains(project)).cloned().collect();
                    (!only.is_empty()).then(|| format!("look at those of {}", only.join(", ")))
                }
            };
            uses.into_iter().chain(looks).collect::<Vec<_>>().join(", ")
        }
    };
    format!("{who}\nrole  {role}\nmay   {may}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(role: Role, member_of: &[&str], sees: Option<&[&str]>) -> String {
        let all = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        caller(&Caller { uid: 7, user: None, role, member_of: all(member_of), sees: sees.map(all) })
    }

    #[test]
    fn everybody_reads_what_it_may() {
        assert_eq!(shown(Role::Administrator, &[], None), "uid 7\nrole  administrator\nmay   everything\n");
        assert!(shown(Role::None, &[], Some(&[])).contains("may   nothing: "));
        let member = shown(Role::Member, &["db", "web"], Some(&["db", "shop", "web"]));
        assert!(
            member.ends_with("may   use and change the volumes of db, web, look at those of shop\n"),
            "{member}"
        );
        assert!(shown(Role::Reader, &[], None).ends_with("may   look at everything\n"));
        let named =
            Caller { uid: 7, user: Some("ann".into()), role: Role::Reader, member_of: vec![], sees: None };
        assert!(caller(&named).starts_with("ann (uid 7)\n"));
    }
}
