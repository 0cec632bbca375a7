//! The config object: what a repository is, and how to read the rest.
//!
//! Two lines of text in front of which nothing may ever change, so that any version can say what it does not
//! understand: JSON, then hexadecimal digits: a plain BLAKE3 hash of the JSON (is it damaged?) and a keyed one (is it
//! the repository's own?). See `docs/BACKUP-FORMAT.md`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{RepoId, to_hex};
use crate::keys::{KeyFile, Keys, MasterKey};

/// The object's name.
pub(crate) const NAME: &str = "config";
/// The version of the format that this code writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// What new repositories cut volumes into.
pub const DEFAULT_CHUNK_SIZE: u32 = 256 << 10;

const FORMAT: &str = "cairn-backup";
const CIPHER: &str = "xchacha20-poly1305";

#[derive(Serialize, Deserialize)]
struct ConfigText {
    format: String,
    version: u32,
    /// Features without which the repository can be neither read nor written.
    #[serde(default)]
    features: Vec<String>,
    /// Features without which it can be read, but not written.
    #[serde(default)]
    write_features: Vec<String>,
    id: RepoId,
    /// Milliseconds since 1970.
    created: i64,
    chunk_size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<EncryptionText>,
    /// The master key of a repository without encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct EncryptionText {
    cipher: String,
    /// The master key, sealed under the user's.
    sealed_key: String,
}

/// Only what every version of the format has.
#[derive(Deserialize)]
struct AnyConfig {
    format: String,
    version: u32,
}

/// What the config object says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) id: RepoId,
    pub(crate) created: i64,
    pub(crate) chunk_size: u32,
    /// A newer version may still add to it; this one may only read.
    pub(crate) read_only: bool,
}

/// A new repository: the object to write.
pub(crate) fn make(chunk_size: u32, created: i64, user: Option<&KeyFile>) -> Result<Bytes> {
    check_chunk_size(chunk_size).map_err(|what| Error::new(ErrorKind::InvalidArgument, what))?;
    let (id, master) = (RepoId::random()?, MasterKey::generate()?);
    let encryption = user
        .map(|user| {
            master.wrap(user, id).map(|sealed_key| EncryptionText { cipher: CIPHER.to_owned(), sealed_key })
        })
        .transpose()?;
    let text = ConfigText {
        format: FORMAT.to_owned(),
        version: FORMAT_VERSION,
        features: Vec::new(),
        write_features: Vec::new(),
        id,
        created,
        chunk_size,
        key: encryption.is_none().then(|| master.to_hex()),
        encryption,
    };
    let json = serde_json::to_string(&text).map_err(|e| {
        Error::new(ErrorKind::InvalidArgument, "the configuration cannot be written").because(e)
    })?;
    let mac = Keys::new(id, &master, user.is_some()).config_mac(json.as_bytes());
    let line = to_hex(&[blake3::hash(json.as_bytes()).as_bytes().as_slice(), mac.as_bytes()].concat());
    Ok(format!("{json}\n{line}\n").into())
}

/// Reads a config object with the user's key.
pub(crate) fn read(object: &[u8], user: Option<&KeyFile>) -> Result<(Config, Keys)> {
    let (json, plain, mac) = lines(object).ok_or_else(|| {
        Error::new(
            ErrorKind::NotARepository,
            format!("the object {NAME:?} there is not a backup repository's, or is damaged"),
        )
    })?;
    if to_hex(blake3::hash(json.as_bytes()).as_bytes()) != plain {
        return Err(Error::corrupt(NAME, "it does not match its checksum"));
    }
    let damaged = |e: serde_json::Error| Error::corrupt(NAME, "it makes no sense").because(e);
    let any: AnyConfig = serde_json::from_str(json).map_err(damaged)?;
    if any.format != FORMAT {
        return Err(Error::new(
            ErrorKind::NotARepository,
            format!("it is a repository of the format {:?}", any.format),
        ));
    }
    if any.version > FORMAT_VERSION {
        let context = format!(
            "the repository has format version {}, and this cairn knows versions up to {FORMAT_VERSION}",
            any.version
        );
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    let text: ConfigText = serde_json::from_str(json).map_err(damaged)?;
    if let Some(feature) = text.features.first() {
        let context = format!("the repository uses the feature {feature:?}, which this cairn does not know");
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    check_chunk_size(text.chunk_size).map_err(|what| Error::corrupt(NAME, what))?;
    let (master, encrypted) = match (&text.encryption, &text.key, user) {
        (Some(encryption), None, user) => {
            if encryption.cipher != CIPHER {
                let context = format!(
                    "the repository uses the cipher {:?}, which this cairn does not know",
                    encryption.cipher
                );
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
            let user =
                user.ok_or_else(|| Error::new(ErrorKind::KeyRequired, "the repository is encrypted"))?;
            let master = MasterKey::unwrap(&encryption.sealed_key, user, text.id)
                .ok_or_else(|| Error::new(ErrorKind::WrongKey, "the key does not open the repository"))?;
            (master, true)
        }
        (None, Some(_), Some(_)) => {
            // Going on would store in the clear what the caller believes to be encrypted.
            let context = "a key was given, but the repository is not encrypted";
            return Err(Error::new(ErrorKind::InvalidArgument, context));
        }
        (None, Some(key), None) => {
            (MasterKey::from_hex(key).ok_or_else(|| Error::corrupt(NAME, "its key makes no sense"))?, false)
        }
        _ => return Err(Error::corrupt(NAME, "it has no key, or two")),
    };
    let keys = Keys::new(text.id, &master, encrypted);
    if to_hex(keys.config_mac(json.as_bytes()).as_bytes()) != mac {
        return Err(Error::corrupt(NAME, "it was changed by somebody without the key"));
    }
    let read_only = !text.write_features.is_empty();
    Ok((Config { id: text.id, created: text.created, chunk_size: text.chunk_size, read_only }, keys))
}

fn lines(object: &[u8]) -> Option<(&str, &str, &str)> {
    let (json, rest) = std::str::from_utf8(object).ok()?.split_once('\n')?;
    let (plain, mac) = rest.strip_suffix('\n')?.split_at_checked(64)?;
    Some((json, plain, mac))
}

fn check_chunk_size(size: u32) -> Result<(), String> {
    if size.is_power_of_two() && (64 << 10..=1 << 20).contains(&size) {
        Ok(())
    } else {
        Err(format!("chunks of {size} bytes are not possible: a power of two from 64 KiB to 1 MiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(object: &[u8], user: Option<&KeyFile>) -> ErrorKind {
        read(object, user).err().expect("accepted").kind()
    }

    /// A config as a later version might write it, with its checksum right.
    fn with_json(json: &str) -> Vec<u8> {
        format!("{json}\n{}{}\n", to_hex(blake3::hash(json.as_bytes()).as_bytes()), "0".repeat(64))
            .into_bytes()
    }

    #[test]
    fn keys_are_asked_for_and_told_apart() {
        let user = KeyFile::generate().unwrap();
        let sealed = make(DEFAULT_CHUNK_SIZE, 5, Some(&user)).unwrap();
        assert_eq!(read(&sealed, Some(&user)).unwrap().0.created, 5);
        assert_eq!(refused(&sealed, None), ErrorKind::KeyRequired);
        assert_eq!(refused(&sealed, Some(&KeyFile::generate().unwrap())), ErrorKind::WrongKey);
        let plain = make(DEFAULT_CHUNK_SIZE, 5, None).unwrap();
        assert!(read(&plain, None).is_ok());
        assert_eq!(refused(&plain, Some(&user)), ErrorKind::InvalidArgument);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let user = KeyFile::generate().unwrap();
        for user in [None, Some(&user)] {
            let config = make(DEFAULT_CHUNK_SIZE, 5, user).unwrap();
            for bit in 0..config.len() * 8 {
                let mut flipped = config.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    matches!(refused(&flipped, user), ErrorKind::Corrupt | ErrorKind::NotARepository),
                    "bit {bit}"
                );
            }
        }
    }

    #[test]
    fn what_is_newer_is_refused_in_words() {
        let newer = with_json(r#"{"format":"cairn-backup","version":2,"shape":"unheard of"}"#);
        let error = read(&newer, None).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("version 2"), "{error}");
        let json = std::str::from_utf8(&make(DEFAULT_CHUNK_SIZE, 5, None).unwrap())
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_owned();
        let error = read(&with_json(&json.replace(r#""features":[]"#, r#""features":["erasure"]"#)), None)
            .err()
            .unwrap();
        assert!(error.to_string().contains("erasure"), "{error}");
        assert_eq!(refused(&with_json(r#"{"format":"other","version":1}"#), None), ErrorKind::NotARepository);
        assert_eq!(refused(b"hello", None), ErrorKind::NotARepository);
    }

    #[test]
    fn chunk_sizes_are_checked() {
        for size in [0, 32 << 10, 2 << 20, (256 << 10) + 1] {
            assert!(make(size, 0, None).is_err(), "{size}");
        }
    }
}
