//! Which names volumes and snapshots may have.
//!
//! The engine is the judge; this is the same rule for whoever must refuse a name before there is an engine to ask:
//! the daemon's command line, or a client that is about to build an export name from it.

/// The most characters a name may have.
pub const MAX_CHARS: usize = 128;

/// Checks that `name` has 1 to 128 characters out of ASCII letters, digits, `.`, `_` and `-`, and starts with a
/// letter or digit. So a name needs no quoting in a shell, a URI or a path, and `@` is free to separate a volume
/// from its snapshot.
///
/// # Errors
/// A sentence that says which part of the rule is broken.
pub fn check(name: &str) -> Result<(), String> {
    let shown = || {
        let short: String = name.chars().take(40).collect();
        if short.len() < name.len() { format!("{short:?}...") } else { format!("{short:?}") }
    };
    if name.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    let chars = name.chars().count();
    if chars > MAX_CHARS {
        return Err(format!("the name {} has {chars} characters; at most {MAX_CHARS} are allowed", shown()));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("the name {} must start with a letter or a digit", shown()));
    }
    match name.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(c) => {
            Err(format!("the name {} contains {c:?}; letters, digits, '.', '_' and '-' are allowed", shown()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_the_rule_allows() {
        for name in ["a", "0", "vm-1", "a.b_c-d", &"x".repeat(128)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn refuses_the_rest_with_the_reason() {
        for (name, reason) in [
            ("", "empty"),
            (&*"x".repeat(129), "129 characters"),
            ("-a", "must start with"),
            ("..", "must start with"),
            ("ä", "must start with"),
            ("a b", "contains ' '"),
            ("a@b", "contains '@'"),
            ("a/b", "contains '/'"),
            ("a\n", "contains '\\n'"),
        ] {
            let error = check(name).expect_err(name);
            assert!(error.contains(reason), "{name:?} gave {error:?}");
            assert!(error.len() < 200, "an error does not echo a long name");
        }
    }
}
