//! Lists: which of all things are in an answer, and in which order.

use std::cmp::Ordering;

use cairn_api::error::ApiError;
use cairn_api::list::{Asked, most};
use cairn_api::tags::{self, Tags};
use cairn_api::text;

use super::context::{check_name, conflict, invalid};

/// The most items that can be asked for at once; without a limit there are all.
const MOST: u64 = 10_000;

/// Something that there are lists of.
pub(super) trait Listed {
    /// What it can be sorted by.
    const SORTED_BY: &'static [&'static str];

    /// What names it in its list.
    fn key(&self) -> String;

    /// Which of two comes first, by one of [`SORTED_BY`](Self::SORTED_BY).
    fn order(&self, other: &Self, by: &str) -> Ordering;

    /// Which of two comes first when nothing else is asked for.
    fn usual_order(&self, other: &Self) -> Ordering;
}

/// What an order is made of: a word that things are sorted by, and whether from the other end.
fn orders<T: Listed>(sort: &str) -> Result<Vec<(&str, bool)>, ApiError> {
    let order = |word: &str| {
        let (by, reverse) = word.strip_prefix('-').map_or((word, false), |by| (by, true));
        let known = T::SORTED_BY.iter().find(|known| **known == by);
        let unknown =
            || invalid(format!("\"{by}\" is nothing to sort by: there are {}", T::SORTED_BY.join(", ")));
        known.map(|by| (*by, reverse)).ok_or_else(unknown)
    };
    text::check_line("an order", sort, text::MAX_SORT_CHARS).map_err(invalid)?;
    sort.split(',').map(order).collect()
}

/// Checks how many are asked for at most.
pub(super) fn check_limit(limit: Option<u64>) -> Result<(), ApiError> {
    match limit {
        Some(limit) if !(1..=MOST).contains(&limit) => {
            Err(invalid(format!("a limit of {limit}: it is at least 1 and at most {MOST}")))
        }
        _ => Ok(()),
    }
}

/// Checks what a list is asked for: a part of texts, tags, and names of what its items belong to.
pub(super) fn check(asked: Asked<'_>, names: &[&Option<String>]) -> Result<(), ApiError> {
    if let Some(search) = asked.search {
        text::check_line("what is searched for", search, text::MAX_SEARCH_CHARS).map_err(invalid)?;
    }
    asked.tags.iter().try_for_each(|filter| tags::check_filter(filter)).map_err(invalid)?;
    names.iter().filter_map(|name| name.as_deref()).try_for_each(check_name)
}

/// One page of `items`, and what to ask for to have the next.
pub(super) fn select<T: Listed>(
    mut items: Vec<T>,
    page: Asked<'_>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let orders = page.sort.map_or(Ok(Vec::new()), orders::<T>)?;
    items.sort_by(|a, b| {
        let differs = |(by, reverse): &(&str, bool)| match a.order(b, by) {
            Ordering::Equal => None,
            order => Some(if *reverse { order.reverse() } else { order }),
        };
        orders.iter().find_map(differs).unwrap_or_else(|| a.usual_order(b))
    });
    cut(items, page.limit, page.after)
}

/// The `limit` items that come after that of the key `after`, and what to ask for to have the next.
pub(super) fn cut<T: Listed>(
    mut items: Vec<T>,
    limit: Option<u64>,
    after: Option<&str>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    check_limit(limit)?;
    if let Some(after) = after {
        let at = items.iter().position(|item| item.key() == after);
        let at = at.ok_or_else(|| {
            conflict(format!("there is no '{after}' in this list any more")).with_hint("begin the list anew")
        })?;
        items.drain(..=at);
    }
    let most = most(limit);
    let more = items.len() > most;
    items.truncate(most);
    let next = items.last().filter(|_| more).map(Listed::key);
    Ok((items, next))
}

/// Whether one of these texts has what is searched for in it, in capitals or not, and all tags that are asked for are there.
pub(super) fn found(asked: Asked<'_>, texts: &[&str], has: &Tags) -> bool {
    let search = asked.search.map(str::to_lowercase);
    search.is_none_or(|search| texts.iter().any(|text| text.to_lowercase().contains(&search)))
        && asked.tags.iter().all(|filter| tags::matches(has, filter))
}

/// Whether something is as asked for, if anything is.
pub(super) fn is<T: PartialEq>(asked: Option<T>, is: T) -> bool {
    asked.is_none_or(|asked| asked == is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Debug)]
    struct Thing(&'static str, u64);

    impl Listed for Thing {
        const SORTED_BY: &'static [&'static str] = &["name", "size"];

        fn key(&self) -> String {
            self.0.to_owned()
        }

        fn order(&self, other: &Thing, by: &str) -> Ordering {
            if by == "size" { self.1.cmp(&other.1) } else { self.0.cmp(other.0) }
        }

        fn usual_order(&self, other: &Thing) -> Ordering {
            self.0.cmp(other.0)
        }
    }

    fn things() -> Vec<Thing> {
        vec![Thing("b", 1), Thing("d", 2), Thing("a", 2), Thing("c", 1)]
    }

    fn names(sort: Option<&str>, limit: Option<u64>, after: Option<&str>) -> (String, Option<String>) {
        let (items, next) =
            select(things(), Asked { sort, limit, after, ..Asked::default() }).expect("a page");
        (items.iter().map(|thing| thing.0).collect(), next)
    }

    #[test]
    fn pages_in_any_order_join_without_gap_or_overlap() {
        for (sort, all) in [
            (None, "abcd"),
            (Some("name"), "abcd"),
            (Some("-name"), "dcba"),
            (Some("size"), "bcad"),
            (Some("-size"), "adbc"),
            (Some("size,-name"), "cbda"),
        ] {
            assert_eq!(names(sort, None, None), (all.to_owned(), None));
            let (first, next) = names(sort, Some(3), None);
            assert_eq!(next.as_deref(), first.get(2..));
            let (rest, end) = names(sort, Some(3), next.as_deref());
            assert_eq!((format!("{first}{rest}"), end), (all.to_owned(), None), "{sort:?}");
        }
        assert_eq!(names(None, Some(4), None).1, None, "exactly full is the last page");
        assert_eq!(names(None, Some(MOST), Some("d")), (String::new(), None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let long = "name,".repeat(60);
        let fails = |sort, limit, after| {
            select(things(), Asked { sort, limit, after, ..Asked::default() })
                .expect_err("is refused")
                .message
        };
        assert_eq!(
            fails(Some("colour"), None, None),
            "\"colour\" is nothing to sort by: there are name, size"
        );
        assert!(fails(Some(""), None, None).contains("nothing to sort by"));
        assert!(fails(None, Some(0), None).contains("at least 1"));
        assert!(fails(None, Some(MOST + 1), None).contains("at most 10000"));
        assert!(fails(Some(&long), None, None).contains("at most 256 characters"));
        assert!(fails(None, None, Some("e")).contains("no 'e' in this list"));
    }

    #[test]
    fn a_search_is_for_a_part_in_capitals_or_not_and_for_all_tags() {
        let search = |search| Asked { search, ..Asked::default() };
        assert!(found(search(None), &["a"], &Tags::new()));
        assert!(found(search(Some("WEB")), &["x", "my Web server"], &Tags::new()));
        assert!(!found(search(Some("web")), &["w", "eb"], &Tags::new()));
        assert!(is(None, 1) && is(Some(1), 1) && !is(Some(2), 1));
        let has = Tags::from([("env".to_owned(), "prod".to_owned())]);
        let tagged = |tags: &[&str]| {
            let tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
            found(Asked { tags: &tags, ..Asked::default() }, &[], &has)
        };
        assert!(tagged(&[]) && tagged(&["env", "env=prod"]) && !tagged(&["env", "team"]));
    }
}
