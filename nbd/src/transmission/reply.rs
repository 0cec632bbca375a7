//! Replies in the form the connection negotiated.

use cairn_uring::AlignedBuf;

use super::outbox::Outbox;
use crate::error::Errno;
use crate::export::{ReadExtent, ReadReply, Span, StatusExtent};
use crate::proto::{ContextId, Cookie, Head, HeaderStyle, chunk};

/// To which request a reply goes, and in which form.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyTo {
    pub(super) style: HeaderStyle,
    pub(super) cookie: Cookie,
    pub(super) offset: u64,
}

impl ReplyTo {
    fn chunk(&self, done: bool, kind: u16, payload: usize) -> Head {
        // Payloads are bounded by MAX_PAYLOAD and MAX_STATUS_EXTENTS, both far below 4 GiB.
        Head::chunk(self.style, done, kind, self.cookie, self.offset, payload as u32)
    }

    /// Success without contents.
    pub(super) fn success(&self, out: &mut Outbox) {
        let head = match self.style {
            HeaderStyle::Simple => Head::simple_reply(0, self.cookie),
            HeaderStyle::Structured | HeaderStyle::Extended => self.chunk(true, chunk::NONE, 0),
        };
        out.head(head.as_bytes());
    }

    /// Failure. The message is for people and is lost in the simple style.
    pub(super) fn failure(&self, out: &mut Outbox, errno: Errno, message: &'static str) {
        if !self.style.chunked() {
            out.head(Head::simple_reply(errno.code(), self.cookie).as_bytes());
            return;
        }
        let mut head = self.chunk(true, chunk::ERROR, 4 + 2 + message.len());
        head.u32(errno.code());
        head.u16(message.len() as u16);
        out.head(head.as_bytes());
        out.head(message.as_bytes());
    }

    /// The contents of `len` bytes at this reply's offset. With `whole` they go out in one chunk even where
    /// there are holes. Gives the bytes of contents sent, or [`Errno::Io`] and sends nothing if the backend's reply
    /// does not fit the request.
    ///
    /// All bytes are in memory when the first header is written, so nothing can fail between the chunks and
    /// the last of them may say that it is the last.
    pub(super) fn contents(
        &self,
        out: &mut Outbox,
        len: u32,
        whole: bool,
        reply: ReadReply,
    ) -> Result<u64, Errno> {
        let span = Span::of(self.offset, len);
        let ReadReply { buf, mut extents } = reply;
        let mut data = match buf {
            Some(mut buf) if buf.len() >= span.phase + len as usize => {
                let mut data = buf.split_off(span.phase);
                data.truncate(len as usize);
                Some(data)
            }
            Some(_) => return Err(Errno::Io),
            None => None,
        };
        // The usual case, all of one kind, costs no list.
        let single = [ReadExtent { len, hole: data.is_none() }];
        let extents = if extents.is_empty() {
            &single[..]
        } else if merge(&mut extents, len) {
            &extents[..]
        } else {
            return Err(Errno::Io);
        };
        if data.is_none() && extents.iter().any(|e| !e.hole) {
            return Err(Errno::Io);
        }
        let all_hole = extents.iter().all(|e| e.hole);
        if !self.style.chunked() || (whole && !all_hole) {
            let mut data = data.take().unwrap_or_else(|| AlignedBuf::new(len as usize));
            let mut at = 0;
            for extent in extents {
                let end = at + extent.len as usize;
                if extent.hole {
                    data[at..end].fill(0);
                }
                at = end;
            }
            self.whole_contents(out, data);
            return Ok(u64::from(len));
        }
        let mut sent = 0;
        let mut at = self.offset;
        let count = extents.len();
        for (index, extent) in extents.iter().enumerate() {
            let done = index + 1 == count;
            // Cut the front off what is left, also for a hole, whose memory is thus freed at once.
            let piece = data.as_mut().map(|data| {
                let rest = data.split_off(extent.len as usize);
                std::mem::replace(data, rest)
            });
            match piece {
                Some(piece) if !extent.hole => {
                    let mut head = self.chunk(done, chunk::OFFSET_DATA, 8 + piece.len());
                    head.u64(at);
                    out.head(head.as_bytes());
                    sent += piece.len() as u64;
                    out.payload(piece);
                }
                _ => {
                    let mut head = self.chunk(done, chunk::OFFSET_HOLE, 8 + 4);
                    head.u64(at);
                    head.u32(extent.len);
                    out.head(head.as_bytes());
                }
            }
            at += u64::from(extent.len);
        }
        Ok(sent)
    }

    fn whole_contents(&self, out: &mut Outbox, data: AlignedBuf) {
        let head = match self.style {
            HeaderStyle::Simple => Head::simple_reply(0, self.cookie),
            HeaderStyle::Structured | HeaderStyle::Extended => {
                let mut head = self.chunk(true, chunk::OFFSET_DATA, 8 + data.len());
                head.u64(self.offset);
                head
            }
        };
        out.head(head.as_bytes());
        out.payload(data);
    }

    /// The state of a range in one context. `extents` must come from [`fit_status`].
    pub(super) fn status(&self, out: &mut Outbox, done: bool, context: ContextId, extents: &[StatusExtent]) {
        let extended = self.style == HeaderStyle::Extended;
        let (kind, fixed, each) =
            if extended { (chunk::BLOCK_STATUS_EXT, 8, 16) } else { (chunk::BLOCK_STATUS, 4, 8) };
        let mut head = self.chunk(done, kind, fixed + extents.len() * each);
        head.u32(context.0);
        if extended {
            head.u32(extents.len() as u32);
        }
        out.head(head.as_bytes());
        let mut payload = AlignedBuf::new(extents.len() * each);
        for (entry, extent) in payload.chunks_exact_mut(each).zip(extents) {
            let (len, flags) = entry.split_at_mut(each / 2);
            if extended {
                len.copy_from_slice(&extent.len.to_be_bytes());
                flags.copy_from_slice(&extent.flags.to_be_bytes());
            } else {
                len.copy_from_slice(&(extent.len as u32).to_be_bytes());
                flags.copy_from_slice(&(extent.flags as u32).to_be_bytes());
            }
        }
        out.payload(payload);
    }
}

/// Joins neighbours of one kind and drops empty stretches. `false` unless their sum is `len`.
fn merge(extents: &mut Vec<ReadExtent>, len: u32) -> bool {
    let sum: u64 = extents.iter().map(|e| u64::from(e.len)).sum();
    if sum != u64::from(len) {
        return false;
    }
    extents.retain(|e| e.len > 0);
    // The sum fits 32 bits, so no partial sum overflows.
    extents.dedup_by(|next, previous| {
        let same = next.hole == previous.hole;
        if same {
            previous.len += next.len;
        }
        same
    });
    true
}

/// Makes a backend's answer one that can be sent: neighbours in one state joined, at most `max` extents, not past
/// `len` bytes (so that lengths fit 32 bits wherever the request's did). [`Errno::Io`] if nothing is left or, in a
/// compact style, a flag does not fit.
pub(super) fn fit_status(
    extents: &mut Vec<StatusExtent>,
    len: u64,
    max: usize,
    style: HeaderStyle,
) -> Result<(), Errno> {
    let mut left = len;
    extents.retain_mut(|extent| {
        extent.len = extent.len.min(left);
        left -= extent.len;
        extent.len > 0
    });
    extents.dedup_by(|next, previous| {
        let same = next.flags == previous.flags;
        if same {
            previous.len += next.len;
        }
        same
    });
    extents.truncate(max);
    let wide = style != HeaderStyle::Extended && extents.iter().any(|e| e.flags > u64::from(u32::MAX));
    if extents.is_empty() || wide { Err(Errno::Io) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(len: u32) -> ReadExtent {
        ReadExtent { len, hole: false }
    }

    fn hole(len: u32) -> ReadExtent {
        ReadExtent { len, hole: true }
    }

    fn to(style: HeaderStyle, offset: u64) -> ReplyTo {
        ReplyTo { style, cookie: Cookie(7), offset }
    }

    fn sent(out: &mut Outbox) -> Vec<u8> {
        let Some(batch) = out.take() else { return Vec::new() };
        batch.into_parts().0.iter().flat_map(|p| p.iter().copied()).collect()
    }

    #[test]
    fn stale_memory_under_holes_never_leaves() {
        for (style, whole) in [(HeaderStyle::Simple, false), (HeaderStyle::Extended, true)] {
            let mut buf = Span::of(100, 300).buffer();
            buf.fill(0xaa);
            let mut out = Outbox::default();
            let reply = ReadReply { buf: Some(buf), extents: vec![data(100), hole(150), data(50)] };
            assert_eq!(to(style, 100).contents(&mut out, 300, whole, reply), Ok(300));
            let bytes = sent(&mut out);
            let contents = &bytes[bytes.len() - 300..];
            assert!(contents[100..250].iter().all(|b| *b == 0), "{style:?}");
            assert!(contents[..100].iter().chain(&contents[250..]).all(|b| *b == 0xaa), "{style:?}");
        }
    }

    #[test]
    fn replies_that_do_not_fit_are_errors_and_send_nothing() {
        let buf = |len: usize| Some(AlignedBuf::zeroed(len));
        for reply in [
            ReadReply { buf: buf(300), extents: vec![] },
            ReadReply { buf: buf(4096), extents: vec![data(299)] },
            ReadReply { buf: buf(4096), extents: vec![data(200), hole(101)] },
            ReadReply { buf: buf(4096), extents: vec![data(u32::MAX), data(301)] },
            ReadReply { buf: None, extents: vec![hole(100), data(200)] },
        ] {
            let mut out = Outbox::default();
            let result = to(HeaderStyle::Structured, 1).contents(&mut out, 300, false, reply);
            assert_eq!(result, Err(Errno::Io));
            assert!(sent(&mut out).is_empty());
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_one_chunk() {
        let mut extents = vec![data(1), data(2), hole(0), data(3), hole(4), hole(5)];
        assert!(merge(&mut extents, 15));
        assert_eq!(extents, [data(6), hole(9)]);
        assert!(!merge(&mut vec![data(8)], 9));
    }

    #[test]
    fn status_is_clipped_joined_and_bounded() {
        let extent = |len, flags| StatusExtent { len, flags };
        let fit = |mut extents: Vec<StatusExtent>, len, max, style| {
            fit_status(&mut extents, len, max, style).map(|()| extents)
        };
        let compact = HeaderStyle::Structured;
        assert_eq!(fit(vec![extent(u64::MAX, 3)], 512, 9, compact), Ok(vec![extent(512, 3)]));
        assert_eq!(
            fit(vec![extent(1, 0), extent(0, 9), extent(2, 0), extent(4, 1), extent(8, 0)], 6, 9, compact),
            Ok(vec![extent(3, 0), extent(3, 1)])
        );
        assert_eq!(fit(vec![extent(1, 0), extent(2, 1)], 9, 1, compact), Ok(vec![extent(1, 0)]));
        assert_eq!(fit(vec![extent(0, 0)], 9, 1, compact), Err(Errno::Io));
        assert_eq!(fit(vec![], 9, 1, compact), Err(Errno::Io));
        assert_eq!(fit(vec![extent(9, 1 << 32)], 9, 1, compact), Err(Errno::Io));
        assert!(fit(vec![extent(9, 1 << 32)], 9, 1, HeaderStyle::Extended).is_ok());
    }
}
