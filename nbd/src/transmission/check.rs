//! Whether a request makes sense, and what it asks for. A pure function of its header and what was negotiated.

use crate::error::Errno;
use crate::export::ZeroFlags;
use crate::proto::{Command, CommandFlags, HeaderStyle, MAX_PAYLOAD, Request, TransmissionFlags};

/// What requests are measured against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) style: HeaderStyle,
    pub(super) flags: TransmissionFlags,
    /// Bytes of the export, now.
    pub(super) size: u64,
    /// Whether metadata contexts were selected.
    pub(super) contexts: bool,
}

/// A request worth carrying out. Ranges lie inside the export and are not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Read {
        offset: u64,
        len: u32,
        whole: bool,
    },
    Write {
        offset: u64,
        len: u32,
        fua: bool,
    },
    Flush,
    Trim {
        offset: u64,
        len: u64,
        fua: bool,
    },
    Cache {
        offset: u64,
        len: u64,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
        flags: ZeroFlags,
    },
    BlockStatus {
        offset: u64,
        len: u64,
        one: bool,
    },
    /// A BLOCK_STATUS whose length and contexts come as a payload of this many bytes.
    BlockStatusOf {
        offset: u64,
        payload: u64,
        one: bool,
    },
    /// A range of no bytes, for which there is nothing to do. The specification leaves the answer open; success
    /// is what a loop that reaches its end expects.
    Nothing,
}

/// Why a request is refused, for the client and for the person behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) message: &'static str,
}

impl Refusal {
    pub(super) const fn new(errno: Errno, message: &'static str) -> Self {
        Self { errno, message }
    }
}

/// Decides on `request`. DISC, which has no reply, is not for this function and is refused like an unknown command.
pub(super) fn check(request: &Request, rules: &Rules) -> Result<Action, Refusal> {
    use TransmissionFlags as Can;
    let invalid = |message| Err(Refusal::new(Errno::Inval, message));
    let Some(command) = Command::from_code(request.code).filter(|c| *c != Command::Disc) else {
        return invalid("unknown command");
    };
    if request.flags.without(allowed_flags(command, rules)) != CommandFlags::empty() {
        return invalid("a flag is unknown, or not for this command");
    }
    let can = |flag| rules.flags.contains(flag);
    let understood = match command {
        Command::Flush => can(Can::SEND_FLUSH),
        Command::Cache => can(Can::SEND_CACHE),
        Command::BlockStatus => rules.contexts,
        Command::Trim => can(Can::SEND_TRIM) || can(Can::READ_ONLY),
        Command::WriteZeroes => can(Can::SEND_WRITE_ZEROES) || can(Can::READ_ONLY),
        Command::Read | Command::Write | Command::Disc => true,
    };
    if !understood {
        return invalid("the command was not offered");
    }
    let writes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
    if writes && can(Can::READ_ONLY) {
        return Err(Refusal::new(Errno::Perm, "the export is read-only"));
    }

    let &Request { flags, offset, length, .. } = request;
    let payload = request.payload_len(rules.style);
    let fua = flags.contains(CommandFlags::FUA);
    match command {
        Command::Flush => {
            if offset != 0 || length != 0 {
                return invalid("FLUSH has neither offset nor length");
            }
            return Ok(Action::Flush);
        }
        Command::Write if length > u64::from(MAX_PAYLOAD) => {
            return invalid("the payload is larger than 32 MiB");
        }
        Command::BlockStatus if flags.contains(CommandFlags::PAYLOAD_LEN) => {
            return Ok(Action::BlockStatusOf { offset, payload, one: flags.contains(CommandFlags::REQ_ONE) });
        }
        _ => {}
    }
    in_bounds(command, offset, length, rules.size)?;
    if length == 0 {
        return match command {
            // Every answer has at least one extent, and an extent at least one byte.
            Command::BlockStatus => invalid("BLOCK_STATUS of no bytes"),
            _ => Ok(Action::Nothing),
        };
    }
    Ok(match command {
        Command::Read => {
            let len = u32::try_from(length).ok().filter(|len| *len <= MAX_PAYLOAD);
            let Some(len) = len else {
                // Without chunks the specification has no EOVERFLOW for READ.
                let errno = if rules.style.chunked() { Errno::Overflow } else { Errno::Inval };
                return Err(Refusal::new(errno, "the length is larger than 32 MiB"));
            };
            Action::Read { offset, len, whole: flags.contains(CommandFlags::DF) }
        }
        // Checked against MAX_PAYLOAD above.
        Command::Write => Action::Write { offset, len: length as u32, fua },
        Command::Trim => Action::Trim { offset, len: length, fua },
        Command::Cache => Action::Cache { offset, len: length },
        Command::WriteZeroes => Action::WriteZeroes {
            offset,
            len: length,
            flags: ZeroFlags {
                no_hole: flags.contains(CommandFlags::NO_HOLE),
                fua,
                fast: flags.contains(CommandFlags::FAST_ZERO),
            },
        },
        Command::BlockStatus => {
            Action::BlockStatus { offset, len: length, one: flags.contains(CommandFlags::REQ_ONE) }
        }
        Command::Flush | Command::Disc => Action::Nothing,
    })
}

/// Whether `[offset, offset + length)` lies inside the export. Also for lengths that come with a payload.
pub(super) fn in_bounds(command: Command, offset: u64, length: u64, size: u64) -> Result<(), Refusal> {
    if offset.checked_add(length).is_some_and(|end| end <= size) {
        return Ok(());
    }
    let errno = match command {
        Command::Write | Command::WriteZeroes => Errno::NoSpc,
        _ => Errno::Inval,
    };
    Err(Refusal::new(errno, "the range reaches past the end of the export"))
}

/// The flags a command may have, given what was advertised.
fn allowed_flags(command: Command, rules: &Rules) -> CommandFlags {
    use TransmissionFlags as Can;
    let extended = rules.style == HeaderStyle::Extended;
    let fua = CommandFlags::empty().with_if(rules.flags.contains(Can::SEND_FUA), CommandFlags::FUA);
    match command {
        Command::Read => fua.with_if(rules.flags.contains(Can::SEND_DF), CommandFlags::DF),
        Command::Write => fua.with_if(extended, CommandFlags::PAYLOAD_LEN),
        Command::WriteZeroes => fua
            .with(CommandFlags::NO_HOLE)
            .with_if(rules.flags.contains(Can::SEND_FAST_ZERO), CommandFlags::FAST_ZERO),
        Command::BlockStatus => fua
            .with(CommandFlags::REQ_ONE)
            .with_if(rules.flags.contains(Can::BLOCK_STATUS_PAYLOAD), CommandFlags::PAYLOAD_LEN),
        Command::Flush | Command::Trim | Command::Cache | Command::Disc => fua,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Cookie;
    use TransmissionFlags as Can;

    const SIZE: u64 = 1 << 40;

    fn rules(style: HeaderStyle) -> Rules {
        let flags = Can::HAS_FLAGS
            .with(Can::SEND_FLUSH)
            .with(Can::SEND_FUA)
            .with(Can::SEND_TRIM)
            .with(Can::SEND_WRITE_ZEROES)
            .with(Can::SEND_FAST_ZERO)
            .with(Can::SEND_CACHE)
            .with_if(style.chunked(), Can::SEND_DF)
            .with_if(style == HeaderStyle::Extended, Can::BLOCK_STATUS_PAYLOAD);
        Rules { style, flags, size: SIZE, contexts: style.chunked() }
    }

    fn request(command: Command, flags: CommandFlags, offset: u64, length: u64) -> Request {
        Request { flags, code: command as u16, cookie: Cookie(1), offset, length }
    }

    fn errno(request: &Request, rules: &Rules) -> Option<Errno> {
        check(request, rules).err().map(|refusal| refusal.errno)
    }

    const NONE: CommandFlags = CommandFlags::empty();
    const ALL: [Command; 7] = [
        Command::Read,
        Command::Write,
        Command::Flush,
        Command::Trim,
        Command::Cache,
        Command::WriteZeroes,
        Command::BlockStatus,
    ];

    #[test]
    fn each_command_knows_its_flags() {
        let ok = |command: Command, bit: u16| {
            let flags = CommandFlags(1 << bit);
            let length = if command == Command::Flush { 0 } else { 16 };
            check(&request(command, flags, 0, length), &rules(HeaderStyle::Extended)).is_ok()
        };
        for command in ALL {
            for bit in 0..16 {
                let expected = matches!(
                    (bit, command),
                    (0, _)
                        | (1 | 4, Command::WriteZeroes)
                        | (2, Command::Read)
                        | (3 | 5, Command::BlockStatus)
                        | (5, Command::Write)
                );
                assert_eq!(ok(command, bit), expected, "{command:?} with flag bit {bit}");
            }
        }
    }

    #[test]
    fn flags_not_advertised_are_refused() {
        let mut bare = rules(HeaderStyle::Simple);
        bare.flags = Can::HAS_FLAGS.with(Can::SEND_WRITE_ZEROES);
        for (command, flags) in [
            (Command::Read, CommandFlags::DF),
            (Command::Read, CommandFlags::FUA),
            (Command::WriteZeroes, CommandFlags::FAST_ZERO),
            (Command::Write, CommandFlags::PAYLOAD_LEN),
            (Command::Trim, NONE),
            (Command::Cache, NONE),
            (Command::BlockStatus, NONE),
        ] {
            assert_eq!(errno(&request(command, flags, 0, 512), &bare), Some(Errno::Inval), "{command:?}");
        }
        assert_eq!(errno(&request(Command::Flush, NONE, 0, 0), &bare), Some(Errno::Inval));
        assert_eq!(errno(&request(Command::WriteZeroes, CommandFlags::NO_HOLE, 0, 512), &bare), None);
    }

    #[test]
    fn past_the_end_and_around_the_corner() {
        for style in [HeaderStyle::Simple, HeaderStyle::Extended] {
            let rules = Rules { contexts: true, ..rules(style) };
            for (command, expected) in [
                (Command::Read, Errno::Inval),
                (Command::Write, Errno::NoSpc),
                (Command::WriteZeroes, Errno::NoSpc),
                (Command::Trim, Errno::Inval),
                (Command::Cache, Errno::Inval),
                (Command::BlockStatus, Errno::Inval),
            ] {
                assert_eq!(errno(&request(command, NONE, SIZE - 512, 512), &rules), None, "{command:?}");
                for (offset, length) in [(SIZE - 511, 512), (SIZE, 1), (u64::MAX, 1), (u64::MAX - 3, 8)] {
                    let refused = errno(&request(command, NONE, offset, length), &rules);
                    assert_eq!(refused, Some(expected), "{command:?} {offset} {length}");
                }
            }
            for command in [Command::Trim, Command::WriteZeroes, Command::Cache, Command::BlockStatus] {
                let whole = request(command, NONE, 1, u64::MAX);
                assert!(errno(&whole, &rules).is_some(), "{command:?} must not wrap around");
            }
        }
    }

    #[test]
    fn lengths_of_commands_without_payload_are_not_cut() {
        let rules = rules(HeaderStyle::Extended);
        for command in [Command::Trim, Command::WriteZeroes, Command::Cache, Command::BlockStatus] {
            let action = check(&request(command, NONE, 4096, (5 << 32) + 512), &rules);
            let (Ok(Action::Trim { len, .. })
            | Ok(Action::WriteZeroes { len, .. })
            | Ok(Action::Cache { len, .. })
            | Ok(Action::BlockStatus { len, .. })) = action
            else {
                panic!("{command:?}: {action:?}");
            };
            assert_eq!(len, (5 << 32) + 512);
        }
        let huge = request(Command::Read, NONE, 0, (1 << 32) + 16);
        assert_eq!(errno(&huge, &rules), Some(Errno::Overflow));
    }

    #[test]
    fn largest_payload_is_32_mib() {
        for (length, expected) in [(32 << 20, None), ((32 << 20) + 1, Some(Errno::Inval))] {
            let simple = rules(HeaderStyle::Simple);
            assert_eq!(errno(&request(Command::Write, NONE, 0, length), &simple), expected);
            assert_eq!(errno(&request(Command::Read, NONE, 0, length), &simple), expected);
        }
    }

    #[test]
    fn empty_ranges() {
        let rules = rules(HeaderStyle::Structured);
        for command in [Command::Read, Command::Write, Command::Trim, Command::WriteZeroes, Command::Cache] {
            assert_eq!(check(&request(command, NONE, SIZE, 0), &rules), Ok(Action::Nothing), "{command:?}");
        }
        assert_eq!(errno(&request(Command::BlockStatus, NONE, 0, 0), &rules), Some(Errno::Inval));
        assert_eq!(errno(&request(Command::Read, NONE, SIZE + 1, 0), &rules), Some(Errno::Inval));
        assert_eq!(errno(&request(Command::Flush, NONE, 0, 512), &rules), Some(Errno::Inval));
    }

    #[test]
    fn read_only_exports_refuse_writes_before_anything_else_about_them() {
        let mut rules = rules(HeaderStyle::Simple);
        rules.flags = Can::HAS_FLAGS.with(Can::READ_ONLY).with(Can::SEND_FLUSH).with(Can::SEND_FUA);
        for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
            assert_eq!(errno(&request(command, NONE, SIZE, 512), &rules), Some(Errno::Perm), "{command:?}");
        }
        assert_eq!(errno(&request(Command::Flush, CommandFlags::FUA, 0, 0), &rules), None);
    }
}
