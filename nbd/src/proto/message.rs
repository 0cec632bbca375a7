//! Headers and the fields they are made of: encoding and decoding.

use std::fmt;

use super::{
    Command, CommandFlags, Cookie, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
};

/// Which headers a connection negotiated; every reply of the connection has this form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeaderStyle {
    /// 28-byte requests, 16-byte replies.
    Simple,
    /// 28-byte requests, chunks with 20-byte headers.
    Structured,
    /// 32-byte requests and chunks with 32-byte headers.
    Extended,
}

impl HeaderStyle {
    /// Bytes of a request header.
    pub const fn request_len(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => 32,
        }
    }

    /// Whether replies come in chunks.
    pub const fn chunked(self) -> bool {
        !matches!(self, Self::Simple)
    }
}

/// A request header did not begin with the magic number of the negotiated style: the stream is out of step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMagic(pub u32);

/// One request header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Modifiers.
    pub flags: CommandFlags,
    /// The command's code, which may be none of [`Command`].
    pub code: u16,
    /// The client's mark.
    pub cookie: Cookie,
    /// First byte of the range, in bytes from the start of the export.
    pub offset: u64,
    /// Bytes of the range, or of the payload: see [`Request::payload_len`].
    pub length: u64,
}

impl Request {
    /// Decodes the header at the front of `bytes`, which must hold [`HeaderStyle::request_len`] bytes.
    pub fn decode(bytes: &[u8], style: HeaderStyle) -> Result<Self, BadMagic> {
        let mut fields = Fields::new(&bytes[..style.request_len()]);
        let magic = fields.u32().unwrap_or(0);
        let expected = match style {
            HeaderStyle::Simple | HeaderStyle::Structured => REQUEST_MAGIC,
            HeaderStyle::Extended => EXTENDED_REQUEST_MAGIC,
        };
        if magic != expected {
            return Err(BadMagic(magic));
        }
        let whole = (|| {
            Some(Self {
                flags: CommandFlags(fields.u16()?),
                code: fields.u16()?,
                cookie: Cookie(fields.u64()?),
                offset: fields.u64()?,
                length: match style {
                    HeaderStyle::Extended => fields.u64()?,
                    HeaderStyle::Simple | HeaderStyle::Structured => u64::from(fields.u32()?),
                },
            })
        })();
        whole.ok_or(BadMagic(magic))
    }

    /// Encodes the header as a client sends it. A length above 32 bits is cut in the compact styles.
    pub fn encode(&self, style: HeaderStyle) -> Head {
        let mut head = Head::new();
        match style {
            HeaderStyle::Extended => head.u32(EXTENDED_REQUEST_MAGIC),
            HeaderStyle::Simple | HeaderStyle::Structured => head.u32(REQUEST_MAGIC),
        }
        head.u16(self.flags.0);
        head.u16(self.code);
        head.u64(self.cookie.0);
        head.u64(self.offset);
        match style {
            HeaderStyle::Extended => head.u64(self.length),
            HeaderStyle::Simple | HeaderStyle::Structured => head.u32(self.length as u32),
        }
        head
    }

    /// Bytes of payload that follow this header on the wire.
    ///
    /// It depends on nothing else, so a stream stays in step even when the request makes no sense. A WRITE always has
    /// its payload: with extended headers it must say so by PAYLOAD_LEN, but QEMU's client (seen in 10.0) does not
    /// and QEMU's server lets it. Other commands have one with extended headers and that flag only.
    pub fn payload_len(&self, style: HeaderStyle) -> u64 {
        let present = self.code == Command::Write as u16
            || (style == HeaderStyle::Extended && self.flags.contains(CommandFlags::PAYLOAD_LEN));
        if present { self.length } else { 0 }
    }
}

/// A header under construction, on the stack. Holds the longest fixed part of any message.
#[derive(Clone, Copy)]
pub struct Head {
    bytes: [u8; Self::CAPACITY],
    len: u8,
}

impl Head {
    /// The longest: an extended header, then an offset and a hole's size.
    const CAPACITY: usize = 48;

    /// An empty header.
    pub const fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], len: 0 }
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// A simple reply's header; `error` is 0 for success.
    pub fn simple_reply(error: u32, cookie: Cookie) -> Self {
        let mut head = Self::new();
        head.u32(SIMPLE_REPLY_MAGIC);
        head.u32(error);
        head.u64(cookie.0);
        head
    }

    /// A chunk's header in the form `style` asks for. `offset` is the request's, `payload` counts the bytes
    /// that follow this header. In the simple style, which has no chunks, this is the structured form.
    pub fn chunk(
        style: HeaderStyle,
        done: bool,
        kind: u16,
        cookie: Cookie,
        offset: u64,
        payload: u32,
    ) -> Self {
        let mut head = Self::new();
        let flags = if done { chunk::FLAG_DONE } else { 0 };
        let extended = matches!(style, HeaderStyle::Extended);
        head.u32(if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC });
        head.u16(flags);
        head.u16(kind);
        head.u64(cookie.0);
        if extended {
            head.u64(offset);
            head.u64(u64::from(payload));
        } else {
            head.u32(payload);
        }
        head
    }

    /// Appends 16 bits.
    pub fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// Appends 32 bits.
    pub fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Appends 64 bits.
    pub fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({:02x?})", self.as_bytes())
    }
}

/// Reads big-endian fields off the front of untrusted bytes; every method is `None` once they run out.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Starts at the front of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(front)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*front)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_survives_both_styles() {
        let request = Request {
            flags: CommandFlags::FUA.with(CommandFlags::NO_HOLE),
            code: Command::WriteZeroes as u16,
            cookie: Cookie(0x0102_0304_0506_0708),
            offset: 5 << 30,
            length: 0xffff_ffff,
        };
        for style in [HeaderStyle::Simple, HeaderStyle::Extended] {
            let head = request.encode(style);
            assert_eq!(head.as_bytes().len(), style.request_len());
            assert_eq!(Request::decode(head.as_bytes(), style), Ok(request));
        }
        let compact = request.encode(HeaderStyle::Simple);
        let mut padded = compact.as_bytes().to_vec();
        padded.extend_from_slice(&[0; 4]);
        assert_eq!(Request::decode(&padded, HeaderStyle::Extended), Err(BadMagic(REQUEST_MAGIC)));
    }

    #[test]
    fn payload_follows_the_style_not_the_sense() {
        let mut request =
            Request { flags: CommandFlags::PAYLOAD_LEN, code: 77, cookie: Cookie(1), offset: 0, length: 100 };
        assert_eq!(request.payload_len(HeaderStyle::Simple), 0);
        assert_eq!(request.payload_len(HeaderStyle::Extended), 100);
        request.flags = CommandFlags::empty();
        request.code = Command::Write as u16;
        assert_eq!(request.payload_len(HeaderStyle::Structured), 100);
        assert_eq!(request.payload_len(HeaderStyle::Extended), 100, "without the flag, as QEMU sends it");
    }

    #[test]
    fn longest_head_fits() {
        let mut head =
            Head::chunk(HeaderStyle::Extended, true, chunk::OFFSET_HOLE, Cookie(u64::MAX), u64::MAX, 12);
        assert_eq!(head.as_bytes().len(), 32);
        head.u64(u64::MAX);
        head.u32(u32::MAX);
        assert_eq!(head.as_bytes().len(), 44);
        assert_eq!(Head::simple_reply(0, Cookie(1)).as_bytes().len(), 16);
        let structured = Head::chunk(HeaderStyle::Structured, false, chunk::NONE, Cookie(1), 9, 0);
        assert_eq!(structured.as_bytes().len(), 20);
    }

    #[test]
    fn fields_end_where_the_bytes_do() {
        let mut fields = Fields::new(&[0, 1, 0, 0, 0, 2, 9]);
        assert_eq!(fields.u16(), Some(1));
        assert_eq!(fields.u32(), Some(2));
        assert_eq!(fields.u16(), None);
        assert_eq!(fields.bytes(usize::MAX), None);
        assert_eq!(fields.rest(), [9]);
    }
}
