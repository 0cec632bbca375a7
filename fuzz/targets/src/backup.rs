//! What a backup repository holds, as a store may give it back.

pub use cairn_backup::fuzzing::objects;
