//! Names of things: random ones for what is made once, and keyed hashes for what is stored once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char])
        .collect()
}

/// Exactly `N` bytes from lower-case hexadecimal digits.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// Fills with random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(ErrorKind::Unavailable, "no random numbers from the kernel").because(e.to_string())
    })?;
    Ok(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $vis:vis $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name(pub(crate) [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<$name> {
                from_hex(text).map($name).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidArgument, format!("{text:?} is not {}: {} hexadecimal digits", $what, 2 * $bytes))
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A repository, random.
    pub RepoId, 16, "a repository's id"
);
id!(
    /// A backup, random and never used again: garbage collection relies on a name that is gone never coming back.
    pub BackupId, 8, "a backup's id"
);
id!(
    /// A hold on a backup, random.
    pub HoldId, 16, "a hold's id"
);
id!(
    /// A pack, random and never used again.
    pub(crate) PackId, 16, "a pack's id"
);
id!(
    /// A chunk or a node: the keyed BLAKE3 hash of its contents.
    pub(crate) BlobId, 32, "a blob's id"
);
id!(
    /// An object that is found by listing only: an index, a session.
    pub(crate) ObjectId, 16, "an object's id"
);

impl RepoId {
    pub(crate) fn random() -> Result<RepoId> {
        random().map(RepoId)
    }
}

impl BackupId {
    pub(crate) fn random() -> Result<BackupId> {
        random().map(BackupId)
    }
}

impl HoldId {
    /// For a new hold.
    pub fn random() -> Result<HoldId> {
        random().map(HoldId)
    }
}

impl PackId {
    pub(crate) fn random() -> Result<PackId> {
        random().map(PackId)
    }
}

impl ObjectId {
    pub(crate) fn random() -> Result<ObjectId> {
        random().map(ObjectId)
    }
}

impl BlobId {
    /// What an index in memory knows a blob by. 128 bits of a keyed hash do not meet by chance; whoever reads a
    /// blob checks all of its id.
    pub(crate) fn prefix(&self) -> [u8; 16] {
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&self.0[..16]);
        prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways_and_refuses_the_rest() {
        let id = BackupId([0, 1, 0x7f, 0x80, 0xab, 0xcd, 0xef, 0xff]);
        assert_eq!(id.to_string(), "00017f80abcdefff");
        assert_eq!("00017f80abcdefff".parse::<BackupId>().unwrap(), id);
        for bad in [
            "",
            "00017f80abcdeff",
            "00017f80abcdefff0",
            "00017F80abcdefff",
            "00017f80abcdefg0",
            "é0017f80abcdeff",
        ] {
            assert_eq!(bad.parse::<BackupId>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
