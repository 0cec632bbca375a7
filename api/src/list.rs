//! What every list can be asked for.

/// The part of a query that is the same for every list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked<'a> {
    /// A part of names and descriptions, in capitals or not.
    pub search: Option<&'a str>,
    /// Tags, `KEY` or `KEY=VALUE`, of which all must be there.
    pub tags: &'a [String],
    /// What to sort by.
    pub sort: Option<&'a str>,
    /// How many there may be.
    pub limit: Option<u64>,
    /// What the answer before said to ask for.
    pub after: Option<&'a str>,
}

/// The most that a list has under this limit.
pub fn most(limit: Option<u64>) -> usize {
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// A query for a list.
pub trait ListQuery {
    /// What it asks for as every list can be.
    fn asked(&self) -> Asked<'_>;

    /// Where its tags go.
    fn tags(&mut self) -> &mut Vec<String>;
}

/// Makes a query of fields of its own and of those that every list has.
macro_rules! list_query {
    (
        $(#[$meta:meta])*
        $name:ident, sort: $sort:ident = $sorted:tt for example $example:tt, after: $after:ident = $next:tt {
            $($(#[$field_meta:meta])* $field:ident: $kind:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(default)] pub $field: $kind,)*
            /// A part of its name or description, in capitals or not.
            #[serde(default)]
            #[param(value_type = Option<$crate::schema::Search>, inline)]
            pub search: Option<String>,
            /// A tag that it has, `KEY` or `KEY=VALUE`; may be given several times.
            #[serde(default)]
            #[param(style = Form, explode, value_type = Vec<$crate::schema::TagFilter>, inline)]
            pub tag: Vec<String>,
            #[doc = $sorted]
            #[serde(default)]
            #[param(example = $example, value_type = Option<$crate::schema::$sort>, inline)]
            pub sort: Option<String>,
            /// At most so many.
            #[serde(default)]
            #[param(minimum = 1, maximum = 10000)]
            pub limit: Option<u64>,
            #[doc = $next]
            #[serde(default)]
            #[param(value_type = Option<$crate::schema::$after>, inline)]
            pub after: Option<String>,
        }

        impl $crate::list::ListQuery for $name {
            fn asked(&self) -> $crate::list::Asked<'_> {
                $crate::list::Asked {
                    search: self.search.as_deref(),
                    tags: &self.tag,
                    sort: self.sort.as_deref(),
                    limit: self.limit,
                    after: self.after.as_deref(),
                }
            }

            fn tags(&mut self) -> &mut Vec<String> {
                &mut self.tag
            }
        }
    };
}

pub(crate) use list_query;
