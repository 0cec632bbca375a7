//! The replies to options, collected and sent together.

use std::io;

use cairn_uring::AlignedBuf;

use crate::proto::{MAX_STRING, OPTION_REPLY_MAGIC, option_reply};
use crate::transport::Transport;

/// How much of a name is repeated in an error message: enough to recognise it.
const ECHO_CHARS: usize = 80;

/// Replies not yet sent.
#[derive(Debug, Default)]
pub(super) struct Replies {
    bytes: Vec<u8>,
}

impl Replies {
    /// Appends bytes that belong to no reply: the greeting, and the answer to EXPORT_NAME.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends one reply to `option`, its payload given in parts.
    pub(super) fn reply(&mut self, option: u32, kind: u32, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.raw(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.raw(&option.to_be_bytes());
        self.raw(&kind.to_be_bytes());
        // Parts are strings of at most MAX_STRING bytes and a few fixed fields.
        self.raw(&(len as u32).to_be_bytes());
        for part in parts {
            self.raw(part);
        }
    }

    /// Appends the reply that concludes `option` with success.
    pub(super) fn ack(&mut self, option: u32) {
        self.reply(option, option_reply::ACK, &[]);
    }

    /// Appends an error reply with a message for people.
    pub(super) fn error(&mut self, option: u32, kind: u32, message: &str) {
        self.reply(option, kind, &[clip(message).as_bytes()]);
    }

    /// Bytes waiting to be sent.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Sends what has been collected.
    pub(super) async fn send<T: Transport>(&mut self, io: &T) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let mut piece = AlignedBuf::new(self.bytes.len());
        piece.copy_from_slice(&self.bytes);
        self.bytes.clear();
        io.write_all(vec![piece]).await.0
    }
}

/// The longest front of `text` that the specification lets a string have.
pub(super) fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_STRING)]
}

/// A name as an error message repeats it: short and printable, whatever the client sent.
pub(super) fn echo(name: &str) -> String {
    let mut shown: String = name.chars().take(ECHO_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(ECHO_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_is_short_and_printable() {
        assert_eq!(echo("demo"), "demo");
        assert_eq!(echo("a\n\u{7f}"), "a\\n\\u{7f}");
        assert!(echo(&"\u{1}".repeat(4096)).len() <= ECHO_CHARS * 10 + 3);
        assert!(clip(&"é".repeat(4096)).len() <= MAX_STRING);
    }
}
