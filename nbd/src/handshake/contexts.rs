//! Metadata contexts: which ones a query matches and which a client has selected.

use crate::export::{Context, ExportInfo};
use crate::proto::{BASE_ALLOCATION, ContextId};

/// Most contexts one connection may select: each costs a chunk in every block status reply.
pub(crate) const MAX_SELECTED: usize = 32;

/// One context a client selected. Its number is its place in the selection, counted from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SelectedContext {
    pub(crate) id: ContextId,
    /// `None` for `base:allocation`.
    name: Option<String>,
}

impl SelectedContext {
    pub(crate) fn context(&self) -> Context<'_> {
        self.name.as_deref().map_or(Context::Allocation, Context::Named)
    }
}

/// What SET_META_CONTEXT left behind: void unless GO names the same export.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) export_name: String,
    pub(super) contexts: Vec<SelectedContext>,
}

/// The names of all contexts an export has.
fn available(info: &ExportInfo) -> impl Iterator<Item = &str> {
    std::iter::once(BASE_ALLOCATION).chain(info.contexts.iter().map(String::as_str))
}

/// The contexts LIST_META_CONTEXT answers with. Without queries that is all of them; a bare namespace
/// (`base:`) stands for everything in it.
pub(super) fn matching<'a>(info: &'a ExportInfo, queries: &[&str]) -> Vec<&'a str> {
    available(info)
        .filter(|name| {
            let wildcard = |query: &str| query.ends_with(':') && name.starts_with(query);
            queries.is_empty() || queries.iter().any(|query| query == name || wildcard(query))
        })
        .collect()
}

/// The contexts SET_META_CONTEXT selects: exact names only, each once. `None` if they are too many.
pub(super) fn select(info: &ExportInfo, queries: &[&str]) -> Option<Vec<SelectedContext>> {
    let names = available(info).filter(|name| queries.contains(name));
    let selected: Vec<_> = names
        .zip(1..)
        .take(MAX_SELECTED + 1)
        .map(|(name, id)| SelectedContext {
            id: ContextId(id),
            name: (name != BASE_ALLOCATION).then(|| name.to_owned()),
        })
        .collect();
    (selected.len() <= MAX_SELECTED).then_some(selected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::Features;

    fn info(contexts: &[&str]) -> ExportInfo {
        ExportInfo {
            name: "demo".to_owned(),
            description: String::new(),
            size: 0,
            read_only: false,
            features: Features::ALL,
            contexts: contexts.iter().map(|&c| c.to_owned()).collect(),
        }
    }

    #[test]
    fn wildcards_list_but_do_not_select() {
        let info = info(&["x-cairn:since:one", "x-cairn:since:two"]);
        assert_eq!(matching(&info, &[]).len(), 3);
        assert_eq!(matching(&info, &["base:"]), [BASE_ALLOCATION]);
        assert_eq!(matching(&info, &["x-cairn:"]).len(), 2);
        assert_eq!(matching(&info, &["x-cairn:since:one", "x-cairn:since:"]).len(), 2);
        assert!(matching(&info, &["base:dirty", "qemu:"]).is_empty());
        assert_eq!(select(&info, &["base:", "x-cairn:"]), Some(vec![]));
        assert_eq!(select(&info, &[]), Some(vec![]));
        let twice = select(&info, &["x-cairn:since:two", BASE_ALLOCATION, BASE_ALLOCATION]).expect("few");
        assert_eq!(twice.iter().map(|c| c.id.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(twice[0].context(), Context::Allocation);
        assert_eq!(twice[1].context(), Context::Named("x-cairn:since:two"));
    }

    #[test]
    fn selection_is_bounded() {
        let names: Vec<String> = (0..MAX_SELECTED).map(|i| format!("x-many:{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let info = info(&names);
        assert_eq!(select(&info, &names).map(|s| s.len()), Some(MAX_SELECTED));
        let all: Vec<&str> = available(&info).collect();
        assert_eq!(select(&info, &all), None);
    }
}
