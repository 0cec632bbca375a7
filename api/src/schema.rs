//! What texts and maps of requests may be, as the OpenAPI document says it.
//!
//! None of these types has a value: fields name them with `value_type`, and whoever takes a request checks the same rule.

use utoipa::openapi::schema::{
    AdditionalProperties, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{RefOr, schema};
use utoipa::{PartialSchema, ToSchema};

use crate::{name, tags, text};

/// One line of text: no control characters.
macro_rules! line {
    () => {
        r"[^\u0000-\u001F\u007F-\u009F]"
    };
}

/// What names are made of.
macro_rules! name {
    () => {
        "[A-Za-z0-9][A-Za-z0-9._-]*"
    };
}

/// Several of these words with commas in between, each with or without `-` in front.
macro_rules! sort {
    ($words:literal) => {
        concat!("-?", $words, "(,-?", $words, ")*")
    };
}

macro_rules! texts {
    ($($(#[doc = $doc:literal])* $name:ident: $least:expr, $most:expr, $pattern:expr;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                text_of($least, $most, concat!("^", $pattern, "$")).description(Some(concat!($($doc),*).trim())).into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

texts! {
    /// A name: ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    Name: 1, name::MAX_CHARS, name!();
    /// A name, or an empty text for none.
    NameOrNone: 0, name::MAX_CHARS, concat!("(", name!(), ")?");
    /// `VOLUME@SNAPSHOT`.
    SnapshotName: 3, 2 * name::MAX_CHARS + 1, concat!(name!(), "@", name!());
    /// Free text on one line.
    Line: 0, text::MAX_DESCRIPTION_CHARS, concat!(line!(), "*");
    /// Why, on one line.
    Reason: 0, text::MAX_REASON_CHARS, concat!(line!(), "*");
    /// A word for a system, on one line.
    OsType: 0, text::MAX_OS_TYPE_CHARS, concat!(line!(), "*");
    /// The name of a file, or `-` for a stream.
    FileName: 1, text::MAX_FILE_NAME_CHARS, concat!(line!(), "+");
    /// What names a backup.
    BackupId: 0, text::MAX_BACKUP_CHARS, concat!(line!(), "*");
    /// Visible ASCII characters.
    ClientToken: 1, text::MAX_TOKEN_CHARS, "[!-~]+";
    /// The path of a file or device as the daemon sees it.
    AbsolutePath: 1, text::MAX_PATH_CHARS, concat!("/", line!(), "*");
    /// A device of the kernel's nbd driver.
    Device: 4, 18, "(/dev/)?nbd(0|[1-9][0-9]{0,8})";
    /// A repository: `file:///folder` or `s3://bucket/prefix`.
    Repo: 6, 1024, "(file://(/[A-Za-z0-9._~-]+)+|s3://[a-z0-9][a-z0-9-]+[a-z0-9](/[A-Za-z0-9_~-]+)*)";
    /// A tag, `KEY` or `KEY=VALUE`.
    TagFilter: 1, tags::MAX_KEY_CHARS + 1 + tags::MAX_VALUE_CHARS,
        concat!("[A-Za-z0-9._/-]{1,128}(=", line!(), "{0,256})?");
    /// What volumes are sorted by.
    VolumeSort: 1, text::MAX_SORT_CHARS, sort!("(name|size|used|created|status|type|pool|project)");
    /// What snapshots are sorted by.
    SnapshotSort: 1, text::MAX_SORT_CHARS, sort!("(volume|name|size|used|created)");
    /// What images are sorted by.
    ImageSort: 1, text::MAX_SORT_CHARS, sort!("(name|size|used|created|status|os-type|pool)");
    /// A part of a text.
    Search: 0, text::MAX_SEARCH_CHARS, concat!(line!(), "*");
}

fn text_of(least: usize, most: usize, pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(least))
        .max_length(Some(most))
        .pattern(Some(pattern))
}

/// Makes enumerations whose values are words, in JSON, in the OpenAPI document and to people.
macro_rules! word_enums {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal;)* }
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$word_doc])* #[serde(rename = $text)] $word,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$word),*];

            /// The word as JSON, tables and command lines have it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$word => $text,)*
                }
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::schema::words(concat!($($doc),*).trim(), $name::ALL.iter().map(|word| word.as_str()))
            }
        }

        impl utoipa::ToSchema for $name {}
    )*};
}

pub(crate) use word_enums;

/// A text that is one of these words.
pub(crate) fn words<'a>(what: &str, words: impl IntoIterator<Item = &'a str>) -> RefOr<Schema> {
    let words = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words));
    words.description(Some(what)).into()
}

macro_rules! maps {
    ($($(#[doc = $doc:literal])* $name:ident: $key:expr, $value:expr;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let values: RefOr<Schema> = $value;
                ObjectBuilder::new()
                    .schema_type(Type::Object)
                    .max_properties(Some(tags::MAX_TAGS))
                    .property_names(Some(Object::from($key)))
                    .additional_properties(Some(AdditionalProperties::from(values)))
                    .description(Some(concat!($($doc),*).trim()))
                    .into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

maps! {
    /// Tags by their keys.
    Tags: tag_key(), tag_value().into();
    /// Tags to set by their keys, or with `null` to take away.
    TagChanges: tag_key(), or_null(tag_value());
    /// Specs by their keys.
    Specs: spec_key(), spec_value(1).into();
    /// Specs to set by their keys, or with an empty text to take away.
    SpecChanges: spec_key(), spec_value(0).into();
}

fn tag_key() -> ObjectBuilder {
    text_of(1, tags::MAX_KEY_CHARS, "^[A-Za-z0-9._/-]+$")
}

fn tag_value() -> ObjectBuilder {
    text_of(0, tags::MAX_VALUE_CHARS, concat!("^", line!(), "*$"))
}

fn spec_key() -> ObjectBuilder {
    text_of(1, tags::MAX_KEY_CHARS, concat!("^", line!(), "+$"))
}

fn spec_value(least: usize) -> ObjectBuilder {
    text_of(least, tags::MAX_VALUE_CHARS, concat!("^", line!(), "*$"))
}

fn or_null(values: ObjectBuilder) -> RefOr<Schema> {
    let null = schema::ObjectBuilder::new().schema_type(SchemaType::new(Type::Null));
    OneOfBuilder::new().item(values).item(null).into()
}
