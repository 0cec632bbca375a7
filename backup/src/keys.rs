//! The repository's keys: identities, encryption, and the seal on small objects.
//!
//! All derive from one random master key. In a repository without encryption it stands in the config object, so that
//! hashes are still the repository's own; in an encrypted one it is sealed there under the user's key file. A key
//! file is 32 random bytes, never a passphrase: the daemon works unattended, so a passphrase would lie in a file or a
//! credential beside it all the same, with less entropy and a slow derivation before every use.

use std::path::Path;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BlobId, RepoId, from_hex, random, to_hex};

/// Bytes of a nonce. 192 random bits never repeat in practice, so that hosts need not agree on a counter.
pub(crate) const NONCE: usize = 24;
/// Bytes of an authentication tag.
pub(crate) const TAG: usize = 16;

/// What a blob holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum BlobKind {
    /// Part of a volume: a whole chunk, or the changed blocks of one.
    Chunk = 1,
    /// A node of a backup's map.
    Node = 2,
}

impl BlobKind {
    pub(crate) fn from_byte(byte: u8) -> Option<BlobKind> {
        match byte {
            1 => Some(BlobKind::Chunk),
            2 => Some(BlobKind::Node),
            _ => None,
        }
    }
}

/// The user's key of an encrypted repository.
pub struct KeyFile(Zeroizing<[u8; 32]>);

impl KeyFile {
    /// A new random key.
    pub fn generate() -> Result<KeyFile> {
        random().map(|key| KeyFile(Zeroizing::new(key)))
    }

    /// Reads a key file: 32 bytes, or 64 hexadecimal digits with or without an end of line.
    pub fn parse(contents: &[u8]) -> Result<KeyFile> {
        if let Ok(key) = contents.try_into() {
            return Ok(KeyFile(Zeroizing::new(key)));
        }
        std::str::from_utf8(contents)
            .ok()
            .and_then(|text| from_hex(&text.trim_ascii().to_ascii_lowercase()))
            .map(|key| KeyFile(Zeroizing::new(key)))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    "a key file holds 32 random bytes or 64 hexadecimal digits: make one with `head -c 32 /dev/urandom`",
                )
            })
    }

    /// Reads the key file at `path`.
    pub fn read(path: &Path) -> Result<KeyFile> {
        let contents = std::fs::read(path).map(Zeroizing::new).map_err(|e| {
            Error::new(ErrorKind::InvalidArgument, format!("the key file {} cannot be read", path.display()))
                .because(e)
        })?;
        KeyFile::parse(&contents)
    }

    /// The key as 64 hexadecimal digits, to be kept in a file.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(to_hex(&*self.0))
    }

    fn wrapping_cipher(&self) -> XChaCha20Poly1305 {
        let key = Zeroizing::new(blake3::derive_key("cairn backup v1 2026 key wrap", &*self.0));
        XChaCha20Poly1305::new((&*key).into())
    }
}

/// The master key, from which everything else derives.
pub(crate) struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    pub(crate) fn generate() -> Result<MasterKey> {
        random().map(|key| MasterKey(Zeroizing::new(key)))
    }

    pub(crate) fn from_hex(text: &str) -> Option<MasterKey> {
        from_hex(text).map(|key| MasterKey(Zeroizing::new(key)))
    }

    pub(crate) fn to_hex(&self) -> String {
        to_hex(&*self.0)
    }

    /// The master key sealed under the user's.
    pub(crate) fn wrap(&self, user: &KeyFile, repo: RepoId) -> Result<String> {
        seal_with(&user.wrapping_cipher(), &repo.0, &*self.0).map(|sealed| to_hex(&sealed))
    }

    /// The master key out of what [`MasterKey::wrap`] made; nothing if the user's key is another.
    pub(crate) fn unwrap(sealed: &str, user: &KeyFile, repo: RepoId) -> Option<MasterKey> {
        let sealed: [u8; NONCE + 32 + TAG] = from_hex(sealed)?;
        let opened = Zeroizing::new(open_with(&user.wrapping_cipher(), &repo.0, &sealed)?);
        opened.as_slice().try_into().ok().map(|key| MasterKey(Zeroizing::new(key)))
    }

    fn derive(&self, context: &'static str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &*self.0))
    }
}

/// The keys of an open repository.
pub(crate) struct Keys {
    repo: RepoId,
    chunk_ids: Zeroizing<[u8; 32]>,
    node_ids: Zeroizing<[u8; 32]>,
    seals: Zeroizing<[u8; 32]>,
    config: Zeroizing<[u8; 32]>,
    cipher: Option<XChaCha20Poly1305>,
}

impl Keys {
    pub(crate) fn new(repo: RepoId, master: &MasterKey, encrypted: bool) -> Keys {
        let cipher = encrypted
            .then(|| XChaCha20Poly1305::new((&*master.derive("cairn backup v1 2026 encryption")).into()));
        Keys {
            repo,
            chunk_ids: master.derive("cairn backup v1 2026 chunk ids"),
            node_ids: master.derive("cairn backup v1 2026 node ids"),
            seals: master.derive("cairn backup v1 2026 seals"),
            config: master.derive("cairn backup v1 2026 config"),
            cipher,
        }
    }

    pub(crate) fn repo(&self) -> RepoId {
        self.repo
    }

    pub(crate) fn encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// The id of a blob's contents. It is keyed, so that in an encrypted repository it does not tell who can guess
    /// the contents whether they are there.
    pub(crate) fn blob_id(&self, kind: BlobKind, contents: &[u8]) -> BlobId {
        let key = match kind {
            BlobKind::Chunk => &self.chunk_ids,
            BlobKind::Node => &self.node_ids,
        };
        BlobId(*blake3::keyed_hash(key, contents).as_bytes())
    }

    pub(crate) fn config_mac(&self, config: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.config, config)
    }

    /// Seals contents that belong to `place` (an object's name and header): encrypted and authenticated, or without
    /// encryption followed by a keyed hash.
    pub(crate) fn seal(&self, place: &[u8], contents: &[u8]) -> Result<Vec<u8>> {
        match &self.cipher {
            Some(cipher) => seal_with(cipher, &self.bound(place), contents),
            None => {
                let mut sealed = Vec::with_capacity(contents.len() + TAG);
                sealed.extend_from_slice(contents);
                sealed.extend_from_slice(&self.plain_tag(place, contents));
                Ok(sealed)
            }
        }
    }

    /// The contents of what [`Keys::seal`] made for the same place; nothing if a bit of either differs.
    pub(crate) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        match &self.cipher {
            Some(cipher) => open_with(cipher, &self.bound(place), sealed),
            None => {
                let (contents, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
                (self.plain_tag(place, contents) == tag).then(|| contents.to_vec())
            }
        }
    }

    /// Encrypts `buffer[NONCE..]` in place under a nonce put before it and appends the tag. Only in encrypted
    /// repositories.
    pub(crate) fn encrypt_blob(&self, id: &BlobId, buffer: &mut Vec<u8>) -> Result<()> {
        let Some(cipher) = &self.cipher else { return Ok(()) };
        let nonce: [u8; NONCE] = random()?;
        let (head, body) = buffer.split_at_mut(NONCE);
        head.copy_from_slice(&nonce);
        let tag = cipher
            .encrypt_inout_detached(&XNonce::from(nonce), &self.bound(&id.0), body.into())
            .map_err(|_| Error::new(ErrorKind::InvalidArgument, "a blob is too large to encrypt"))?;
        buffer.extend_from_slice(&tag);
        Ok(())
    }

    /// The plaintext of an encrypted blob; the stored bytes themselves where nothing is encrypted.
    pub(crate) fn decrypt_blob(&self, id: &BlobId, stored: &[u8]) -> Option<Vec<u8>> {
        match &self.cipher {
            Some(cipher) => open_with(cipher, &self.bound(&id.0), stored),
            None => Some(stored.to_vec()),
        }
    }

    fn bound(&self, place: &[u8]) -> Vec<u8> {
        [&self.repo.0[..], place].concat()
    }

    fn plain_tag(&self, place: &[u8], contents: &[u8]) -> [u8; TAG] {
        let mut hasher = blake3::Hasher::new_keyed(&self.seals);
        hasher.update(&self.repo.0);
        hasher.update(&(place.len() as u64).to_le_bytes());
        hasher.update(place);
        hasher.update(contents);
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG]);
        tag
    }
}

fn seal_with(cipher: &XChaCha20Poly1305, bound: &[u8], contents: &[u8]) -> Result<Vec<u8>> {
    let nonce: [u8; NONCE] = random()?;
    let mut sealed = Vec::with_capacity(NONCE + contents.len() + TAG);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(contents);
    let tag = cipher
        .encrypt_inout_detached(&XNonce::from(nonce), bound, (&mut sealed[NONCE..]).into())
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, "an object is too large to encrypt"))?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

fn open_with(cipher: &XChaCha20Poly1305, bound: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE)?;
    let (body, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
    let nonce: [u8; NONCE] = nonce.try_into().ok()?;
    let tag: [u8; TAG] = tag.try_into().ok()?;
    let mut contents = body.to_vec();
    cipher
        .decrypt_inout_detached(&XNonce::from(nonce), bound, contents.as_mut_slice().into(), &Tag::from(tag))
        .ok()?;
    Some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files_are_32_bytes_or_64_digits() {
        let key = KeyFile::generate().unwrap();
        let digits = key.to_hex();
        assert_eq!(*KeyFile::parse(digits.as_bytes()).unwrap().0, *key.0);
        assert_eq!(*KeyFile::parse(format!("{}\n", digits.to_uppercase()).as_bytes()).unwrap().0, *key.0);
        assert_eq!(*KeyFile::parse(&*key.0).unwrap().0, *key.0);
        for bad in [&b""[..], b"secret", &[0; 31], &[0; 33], &[b'x'; 64]] {
            assert!(KeyFile::parse(bad).is_err());
        }
    }

    #[test]
    fn seals_hold_their_place_and_every_bit() {
        let master = MasterKey::generate().unwrap();
        for encrypted in [false, true] {
            let keys = Keys::new(RepoId([7; 16]), &master, encrypted);
            let sealed = keys.seal(b"here", b"contents").unwrap();
            assert_eq!(keys.open(b"here", &sealed).unwrap(), b"contents");
            assert!(keys.open(b"there", &sealed).is_none());
            assert!(Keys::new(RepoId([8; 16]), &master, encrypted).open(b"here", &sealed).is_none());
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(keys.open(b"here", &flipped).is_none(), "bit {bit}");
            }
            for len in 0..sealed.len() {
                assert!(keys.open(b"here", &sealed[..len]).is_none(), "{len} bytes");
            }
        }
    }

    #[test]
    fn the_master_key_comes_out_with_the_right_key_only() {
        let (master, user) = (MasterKey::generate().unwrap(), KeyFile::generate().unwrap());
        let sealed = master.wrap(&user, RepoId([1; 16])).unwrap();
        assert_eq!(MasterKey::unwrap(&sealed, &user, RepoId([1; 16])).unwrap().to_hex(), master.to_hex());
        assert!(MasterKey::unwrap(&sealed, &KeyFile::generate().unwrap(), RepoId([1; 16])).is_none());
        assert!(MasterKey::unwrap(&sealed, &user, RepoId([2; 16])).is_none());
    }
}
