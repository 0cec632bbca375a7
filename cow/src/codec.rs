//! Little-endian encoding by hand, with every read checked: what a disk returns is never trusted.

use crate::error::{Error, ErrorKind, Result};

/// Appends fixed-width little-endian fields.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn u8(&mut self, v: u8) {
        self.bytes.push(v);
    }

    pub(crate) fn u16(&mut self, v: u16) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, v: u32) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// The low 40 bits.
    pub(crate) fn u40(&mut self, v: u64) {
        debug_assert!(v < 1 << 40);
        self.bytes.extend_from_slice(&v.to_le_bytes()[..5]);
    }

    pub(crate) fn u64(&mut self, v: u64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, v: i64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    pub(crate) fn raw(&mut self, v: &[u8]) {
        self.bytes.extend_from_slice(v);
    }

    /// A length in two bytes, then the text; longer text is cut by the caller's rules, never here.
    pub(crate) fn text(&mut self, v: &str) {
        let len = u16::try_from(v.len()).expect("names and descriptions are bounded when they are accepted");
        self.u16(len);
        self.raw(v.as_bytes());
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields off the front of a slice; every shortage is [`ErrorKind::Corrupt`].
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    pub(crate) fn bad(&self, why: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("{}: {why}", self.what))
    }

    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8]> {
        if len > self.rest.len() {
            return Err(self.bad("ends too early"));
        }
        let (head, tail) = self.rest.split_at(len);
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.raw(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u40(&mut self) -> Result<u64> {
        let mut out = [0; 8];
        out[..5].copy_from_slice(self.raw(5)?);
        Ok(u64::from_le_bytes(out))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        let len = self.u16()?;
        let bytes = self.raw(usize::from(len))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.bad("holds a text that is not UTF-8")),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What was not taken yet.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
