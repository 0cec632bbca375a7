//! Metadata contexts: which ones a query matches and which a client has selected.

use std::collections::HashSet;

use crate::export::{Context, ContextKey, Export};
use crate::proto::{BASE_ALLOCATION, ContextId};

/// Most contexts one connection may select: each costs a chunk in every block status reply.
pub(crate) const MAX_SELECTED: usize = 32;

/// Most queries one option may have: each makes the export look something up, and a full option could hold thousands.
pub(super) const MAX_QUERIES: usize = 128;

/// The namespace of [`BASE_ALLOCATION`], as a query for all that is in it.
const BASE: &str = "base:";

/// One context a client selected. Its number is its place in the selection, counted from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SelectedContext {
    pub(crate) id: ContextId,
    /// `None` for `base:allocation`.
    named: Option<(String, ContextKey)>,
}

impl SelectedContext {
    pub(crate) fn context(&self) -> Context<'_> {
        match &self.named {
            None => Context::Allocation,
            Some((name, key)) => Context::Named { name, key: *key },
        }
    }
}

/// What SET_META_CONTEXT left behind: void unless GO names the same export.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) export_name: String,
    pub(super) contexts: Vec<SelectedContext>,
}

/// The contexts LIST_META_CONTEXT answers with. Without queries that is all of them; a bare namespace
/// (`base:`) stands for everything in it.
pub(super) fn matching<E: Export>(export: &E, queries: &[&str]) -> Vec<String> {
    let base = queries.is_empty() || queries.iter().any(|query| [BASE, BASE_ALLOCATION].contains(query));
    let base = base.then(|| BASE_ALLOCATION.to_owned());
    base.into_iter().chain(export.contexts(queries)).collect()
}

/// The contexts SET_META_CONTEXT selects: exact names only, each once, in the order of the queries. `None` if they are
/// too many.
pub(super) fn select<E: Export>(export: &E, queries: &[&str]) -> Option<Vec<SelectedContext>> {
    let mut asked = HashSet::new();
    let named = queries.iter().filter(|query| asked.insert(**query)).filter_map(|query| {
        if *query == BASE_ALLOCATION {
            return Some(None);
        }
        let key = export.context(query)?;
        Some(Some(((*query).to_owned(), key)))
    });
    let selected: Vec<_> = named
        .zip(1..)
        .take(MAX_SELECTED + 1)
        .map(|(named, id)| SelectedContext { id: ContextId(id), named })
        .collect();
    (selected.len() <= MAX_SELECTED).then_some(selected)
}
