//! Tags: what users say about a thing in pairs of a key and a value.

use std::collections::BTreeMap;

/// Keys and values, by key.
pub type Tags = BTreeMap<String, String>;
/// What of the tags is to change: a value sets a key, `null` takes it away, and all others stay.
pub type TagChanges = BTreeMap<String, Option<String>>;

/// The most tags that one thing can have.
pub const MAX_TAGS: usize = 50;
/// Characters of the longest key.
pub const MAX_KEY_CHARS: usize = 128;
/// Characters of the longest value.
pub const MAX_VALUE_CHARS: usize = 256;

/// Checks a key: 1 to 128 ASCII letters, digits, `.`, `_`, `-` and `/`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_key(key: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let chars = key.chars().count();
    if !(1..=MAX_KEY_CHARS).contains(&chars) || !key.chars().all(legal) {
        let short: String = key.chars().take(40).collect();
        return Err(format!(
            "\"{}\" is no key of a tag: use 1 to {MAX_KEY_CHARS} letters, digits, '.', '_', '-' and '/'",
            short.escape_default()
        ));
    }
    Ok(())
}

/// Checks a value: one line of up to 256 characters.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_value(key: &str, value: &str) -> Result<(), String> {
    let chars = value.chars().count();
    if chars > MAX_VALUE_CHARS {
        return Err(format!("the tag \"{key}\" has {chars} characters; at most {MAX_VALUE_CHARS} are kept"));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(wrong) => Err(format!("the tag \"{key}\" is one line of text and cannot hold {wrong:?}")),
        None => Ok(()),
    }
}

/// Checks tags that something is to have from the start.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check(tags: &Tags) -> Result<(), String> {
    if tags.len() > MAX_TAGS {
        return Err(format!("{} tags are more than the {MAX_TAGS} that one thing can have", tags.len()));
    }
    tags.iter().try_for_each(|(key, value)| check_key(key).and_then(|()| check_value(key, value)))
}

/// Checks changes to tags.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_changes(changes: &TagChanges) -> Result<(), String> {
    if changes.len() > MAX_TAGS {
        return Err(format!(
            "{} changes are more than the {MAX_TAGS} tags that one thing can have",
            changes.len()
        ));
    }
    for (key, value) in changes {
        check_key(key)?;
        value.as_deref().map_or(Ok(()), |value| check_value(key, value))?;
    }
    Ok(())
}

/// Checks that what has tags now has not too many after changes.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_room(now: &Tags, changes: &TagChanges) -> Result<(), String> {
    let mut then: BTreeMap<&str, ()> = now.keys().map(|key| (key.as_str(), ())).collect();
    for (key, value) in changes {
        match value {
            Some(_) => then.insert(key, ()),
            None => then.remove(key.as_str()),
        };
    }
    if then.len() > MAX_TAGS && then.len() > now.len() {
        return Err(format!("{} tags are more than the {MAX_TAGS} that one thing can have", then.len()));
    }
    Ok(())
}

/// Checks what a list is filtered by: `KEY=VALUE`, or `KEY`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_filter(filter: &str) -> Result<(), String> {
    let (key, value) = filter.split_once('=').unwrap_or((filter, ""));
    check_key(key)?;
    check_value(key, value)
}

/// Whether `tags` has what a filter asks for: `KEY=VALUE`, or `KEY` with any value.
pub fn matches(tags: &Tags, filter: &str) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => tags.get(key).is_some_and(|kept| kept == value),
        None => tags.contains_key(filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tags_are_judged_at_their_limits() {
        assert_eq!(
            check(&tags(&[("env", "prod"), ("team/name", ""), (&"k".repeat(128), &"ä".repeat(256))])),
            Ok(())
        );
        for (key, value, part) in [
            ("", "v", "no key of a tag"),
            (&*"k".repeat(129), "v", "no key of a tag"),
            ("a b", "v", "no key of a tag"),
            ("ä", "v", "no key of a tag"),
            ("k", &*"v".repeat(257), "257 characters"),
            ("k", "a\nb", "cannot hold '\\n'"),
        ] {
            let error = check(&tags(&[(key, value)])).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
        let many = |n: usize| (0..n).map(|i| (i.to_string(), String::new())).collect::<Tags>();
        assert_eq!(check(&many(50)), Ok(()));
        assert!(check(&many(51)).is_err());
    }

    #[test]
    fn changes_count_what_there_is_then() {
        let full: Tags = (0..50).map(|i| (i.to_string(), String::new())).collect();
        let change = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        assert_eq!(check_room(&full, &TagChanges::from([change("0", Some("new"))])), Ok(()));
        assert!(check_room(&full, &TagChanges::from([change("new", Some(""))])).is_err());
        let swap = TagChanges::from([change("new", Some("")), change("0", None)]);
        assert_eq!(check_room(&full, &swap), Ok(()));
        assert!(check_changes(&TagChanges::from([change("a b", None)])).is_err());
        assert_eq!(check_changes(&(0..50).map(|i| change(&i.to_string(), None)).collect()), Ok(()));
        assert!(check_changes(&(0..51).map(|i| change(&i.to_string(), None)).collect()).is_err());
    }

    #[test]
    fn a_filter_asks_for_a_key_or_a_pair() {
        let kept = tags(&[("env", "a=b")]);
        assert!(matches(&kept, "env") && matches(&kept, "env=a=b"));
        assert!(!matches(&kept, "env=a") && !matches(&kept, "en") && !matches(&kept, ""));
    }
}
