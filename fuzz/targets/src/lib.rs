//! What cairn's fuzz targets do with their input, one function each: whatever the bytes are, it must return.
//!
//! | room | whose bytes |
//! |---|---|
//! | [`nbd`] | an NBD client's |
//! | [`control`] | a client's of the control API |
//! | [`pool`] | a disk's |
//! | [`backup`] | a backup repository's |
//! | [`image`] | an image file's |
//!
//! The programs for cargo-fuzz are in `fuzz/fuzz_targets`, each only a call of one of these; `cargo xtask fuzz` runs
//! them. The test of this crate calls the same functions with the corpus, and needs no special build.

#[cfg(feature = "backup")]
pub mod backup;
#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "nbd")]
pub mod nbd;
#[cfg(feature = "pool")]
pub mod pool;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All there are, by the names of their programs and of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    #[cfg(feature = "backup")]
    ("backup_objects", backup::objects),
    #[cfg(feature = "control")]
    ("control_requests", control::requests),
    #[cfg(feature = "image")]
    ("image_files", image::files),
    #[cfg(feature = "nbd")]
    ("nbd_negotiation", nbd::negotiation),
    #[cfg(feature = "nbd")]
    ("nbd_requests", nbd::requests),
    #[cfg(feature = "nbd")]
    ("nbd_transmission", nbd::transmission),
    #[cfg(feature = "pool")]
    ("pool_catalog", pool::catalog),
    #[cfg(feature = "pool")]
    ("pool_changed", pool::changed),
    #[cfg(feature = "pool")]
    ("pool_journal", pool::journal),
    #[cfg(feature = "pool")]
    ("pool_map_node", pool::map_node),
    #[cfg(feature = "pool")]
    ("pool_shadow", pool::shadow),
    #[cfg(feature = "pool")]
    ("pool_space_map", pool::space_map),
    #[cfg(feature = "pool")]
    ("pool_superblock", pool::superblock),
];
