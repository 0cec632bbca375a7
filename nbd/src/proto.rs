//! The wire format, in network byte order: constants and newtypes here, headers in `message`.
//!
//! Source of every figure: `doc/proto.md` of the NetworkBlockDevice/nbd repository, with the
//! extended headers of its branch `extension-ext-header`. Nothing here does I/O or keeps state, so a
//! client, a proxy or a test can use this module alone.

mod message;

use std::fmt;

pub use message::{BadMagic, Fields, Head, HeaderStyle, Request};

/// First eight bytes of every server (`NBDMAGIC`).
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Announces newstyle negotiation, and begins every option a client sends (`IHAVEOPT`).
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Begins every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Begins an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest string (export name, context name, error message) the specification allows, in bytes.
pub const MAX_STRING: usize = 4096;
/// Smallest addressable length and alignment offered, in bytes.
pub const MIN_BLOCK: u32 = 1;
/// Block size clients are asked to prefer, in bytes; also the phase of the buffers given to exports.
pub const PREFERRED_BLOCK: u32 = 4096;
/// Largest payload of one READ or WRITE, in bytes: the specification's default of 2^25.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Most extents the specification lets one block status chunk carry.
pub const MAX_STATUS_EXTENTS: usize = 1 << 20;
/// Zeroes that follow the reply to EXPORT_NAME unless NO_ZEROES was negotiated, in bytes.
pub const EXPORT_NAME_PADDING: usize = 124;
/// The metadata context every server of block status has.
pub const BASE_ALLOCATION: &str = "base:allocation";

const _: () = assert!(PREFERRED_BLOCK.is_power_of_two() && MAX_PAYLOAD >= PREFERRED_BLOCK);
const _: () = assert!(MAX_PAYLOAD == 1 << 25);

/// Handshake flags, server to client (16 bits).
pub mod handshake_flag {
    /// The server speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The server can leave out the zeroes after EXPORT_NAME.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Client flags (32 bits), the answer to the handshake flags.
pub mod client_flag {
    /// The client speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The client wants no zeroes after EXPORT_NAME.
    pub const NO_ZEROES: u32 = 1 << 1;
}

/// Option codes.
pub mod option {
    /// Choose an export and enter transmission, the old way: errors close the connection.
    pub const EXPORT_NAME: u32 = 1;
    /// End the negotiation.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Upgrade to TLS.
    pub const STARTTLS: u32 = 5;
    /// Ask about an export.
    pub const INFO: u32 = 6;
    /// Ask about an export and enter transmission.
    pub const GO: u32 = 7;
    /// Use structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Use extended headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of the replies to options; errors have bit 31 set.
pub mod option_reply {
    /// Success, and the last reply to this option.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One piece of information about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is unknown.
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    /// The option is forbidden here.
    pub const ERR_POLICY: u32 = 0x8000_0002;
    /// The option is malformed or out of place.
    pub const ERR_INVALID: u32 = 0x8000_0003;
    /// The export does not exist or cannot be had.
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = 0x8000_0007;
    /// The request or its reply is too large.
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
    /// Extended headers are in force, so this option cannot be had.
    pub const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;
}

/// Types of information in an `INFO` reply.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum sizes.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Types of reply chunks; errors have bit 15 set.
pub mod chunk {
    /// Nothing more to say; always the last chunk.
    pub const NONE: u16 = 0;
    /// An offset and the bytes there.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset and a count of zeroes there.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents with 32-bit lengths and flags.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents with 64-bit lengths and flags.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The request failed.
    pub const ERROR: u16 = 0x8001;
    /// The request failed at an offset.
    pub const ERROR_OFFSET: u16 = 0x8002;
    /// Flag of the last chunk of a reply.
    pub const FLAG_DONE: u16 = 1;
}

/// Status flags of `base:allocation`.
pub mod allocation {
    /// Nothing is allocated here; a write may meet a full store.
    pub const HOLE: u64 = 1 << 0;
    /// Reads as zeroes.
    pub const ZERO: u64 = 1 << 1;
}

macro_rules! flag_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$flag_doc:meta])* $flag:ident = $bit:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
        pub struct $name(pub u16);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self(1 << $bit);)*

            /// No flag.
            pub const fn empty() -> Self {
                Self(0)
            }
            /// Whether every flag of `other` is set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
            /// The flags of both.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
            /// The flags of both if `yes`, else `self`.
            #[must_use]
            pub const fn with_if(self, yes: bool, other: Self) -> Self {
                if yes { self.with(other) } else { self }
            }
            /// The flags of `self` that `other` lacks.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#06x})"), self.0)
            }
        }
    };
}

flag_set! {
    /// Transmission flags: what an export can do, sent with its size.
    TransmissionFlags {
        /// Always set.
        HAS_FLAGS = 0;
        /// Writes are refused.
        READ_ONLY = 1;
        /// FLUSH is understood.
        SEND_FLUSH = 2;
        /// The FUA flag is understood on every command.
        SEND_FUA = 3;
        /// The medium rotates.
        ROTATIONAL = 4;
        /// TRIM is understood.
        SEND_TRIM = 5;
        /// WRITE_ZEROES and its NO_HOLE flag are understood.
        SEND_WRITE_ZEROES = 6;
        /// The DF flag is understood.
        SEND_DF = 7;
        /// Several connections see one coherent disk.
        CAN_MULTI_CONN = 8;
        /// CACHE is understood.
        SEND_CACHE = 10;
        /// The FAST_ZERO flag is understood.
        SEND_FAST_ZERO = 11;
        /// BLOCK_STATUS may carry a payload that selects contexts.
        BLOCK_STATUS_PAYLOAD = 12;
    }
}

flag_set! {
    /// Command flags: the modifiers of one request.
    CommandFlags {
        /// Reply only once what this command wrote is durable.
        FUA = 0;
        /// Zero without making a hole.
        NO_HOLE = 1;
        /// At most one content chunk in the reply.
        DF = 2;
        /// One extent per context is enough.
        REQ_ONE = 3;
        /// Fail unless zeroing is faster than writing.
        FAST_ZERO = 4;
        /// The length is that of a payload that follows (extended headers only).
        PAYLOAD_LEN = 5;
    }
}

/// The client's mark on a request, given back in the reply; opaque.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cookie(pub u64);

/// The server's number for a selected metadata context; valid within one connection, never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContextId(pub u32);

/// The commands of the transmission phase.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Command {
    /// Read bytes.
    Read = 0,
    /// Write bytes.
    Write = 1,
    /// End the session; has no reply.
    Disc = 2,
    /// Make everything already answered durable.
    Flush = 3,
    /// The bytes are not needed any more.
    Trim = 4,
    /// The bytes will be needed soon.
    Cache = 5,
    /// Write zeroes.
    WriteZeroes = 6,
    /// Ask for the state of extents.
    BlockStatus = 7,
}

impl Command {
    /// The command with this code, if there is one.
    pub const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disc,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => return None,
        })
    }
}
