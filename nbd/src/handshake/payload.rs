//! The payloads of options, parsed from untrusted bytes.

use crate::proto::{Fields, MAX_STRING};

/// Why a payload cannot be used; the text goes to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// The payload of INFO and GO.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct InfoRequest<'a> {
    pub(super) name: &'a str,
    /// Big-endian pairs; types nobody knows are ignored by never being looked for.
    types: &'a [u8],
}

impl<'a> InfoRequest<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        let name = string(&mut fields)?;
        let count = fields.u16().ok_or(Malformed("the option ends before its information requests"))?;
        let types = fields.rest();
        if types.len() != usize::from(count) * 2 {
            return Err(Malformed("the count of information requests and the option's length disagree"));
        }
        Ok(Self { name, types })
    }

    /// Whether the client asked for information of this type.
    pub(super) fn wants(&self, info: u16) -> bool {
        self.types.chunks_exact(2).any(|pair| pair == info.to_be_bytes())
    }
}

/// The payload of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct ContextRequest<'a> {
    pub(super) name: &'a str,
    pub(super) queries: Vec<&'a str>,
}

impl<'a> ContextRequest<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        let name = string(&mut fields)?;
        let count = fields.u32().ok_or(Malformed("the option ends before its queries"))?;
        // Every query has a 4-byte length, so this bounds the vector by what was really sent.
        if count as usize > fields.rest().len() / 4 {
            return Err(Malformed("the option ends inside its queries"));
        }
        let mut queries = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let query = string(&mut fields)?;
            if !query.contains(':') {
                return Err(Malformed("a context query has no namespace"));
            }
            queries.push(query);
        }
        if !fields.rest().is_empty() {
            return Err(Malformed("bytes follow the last query"));
        }
        Ok(Self { name, queries })
    }
}

/// The whole of `bytes` as an export name.
pub(super) fn export_name(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > MAX_STRING {
        return Err(Malformed("a string is longer than 4096 bytes"));
    }
    let name = std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))?;
    if name.contains('\0') {
        return Err(Malformed("a string contains NUL"));
    }
    Ok(name)
}

fn string<'a>(fields: &mut Fields<'a>) -> Result<&'a str, Malformed> {
    let len = fields.u32().ok_or(Malformed("the option ends before a string's length"))?;
    if len as usize > MAX_STRING {
        return Err(Malformed("a string is longer than 4096 bytes"));
    }
    let bytes = fields.bytes(len as usize).ok_or(Malformed("the option ends inside a string"))?;
    export_name(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(name_len: u32, name: &[u8], count: u16, types: &[u16]) -> Vec<u8> {
        let mut bytes = name_len.to_be_bytes().to_vec();
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend(types.iter().flat_map(|t| t.to_be_bytes()));
        bytes
    }

    #[test]
    fn info_request_must_add_up() {
        let bytes = go(4, b"demo", 2, &[3, 900]);
        let request = InfoRequest::parse(&bytes).expect("well formed");
        assert_eq!(request.name, "demo");
        assert!(request.wants(3) && request.wants(900) && !request.wants(0));
        for bad in [
            go(u32::MAX, b"demo", 0, &[]),
            go(5, b"demo", 0, &[]),
            go(4, b"demo", 1, &[]),
            go(4, b"demo", 0, &[1]),
            go(4, b"de\0o", 0, &[]),
            go(4, b"de\xffo", 0, &[]),
            go(4097, &[b'a'; 4097], 0, &[]),
            Vec::new(),
            vec![0; 5],
        ] {
            assert!(InfoRequest::parse(&bad).is_err(), "{bad:?}");
        }
        assert!(InfoRequest::parse(&go(4096, &[b'a'; 4096], 0, &[])).is_ok());
    }

    #[test]
    fn context_request_is_bounded_by_its_bytes() {
        let mut bytes = vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(ContextRequest::parse(&bytes).is_err());
        bytes[4..].copy_from_slice(&1_u32.to_be_bytes());
        bytes.extend_from_slice(&5_u32.to_be_bytes());
        bytes.extend_from_slice(b"base:");
        assert_eq!(ContextRequest::parse(&bytes), Ok(ContextRequest { name: "", queries: vec!["base:"] }));
        bytes.push(0);
        assert!(ContextRequest::parse(&bytes).is_err(), "trailing byte");
        bytes.truncate(bytes.len() - 3);
        assert!(ContextRequest::parse(&bytes).is_err(), "cut short");
    }
}
