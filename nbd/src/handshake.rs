//! Negotiation: from the first byte to the last reply before transmission.
//!
//! [`negotiate`] greets, then answers one option after another until the client chose an export or left.
//! Its rooms: `payload` parses what options carry, `contexts` knows metadata contexts, `reply` collects
//! answers. It is bounded in everything a client controls: the payload it keeps, the payload it discards,
//! the number of options, and (by its caller) time. All its memory is in [`Negotiation`] and goes with it.

mod contexts;
mod payload;
mod reply;

use crate::error::{SessionError, SessionErrorKind};
use crate::export::{ClientInfo, Context, Export, ExportInfo, Exports, OpenError};
use crate::proto::{
    BASE_ALLOCATION, EXPORT_NAME_PADDING, Fields, HeaderStyle, MAX_PAYLOAD, MIN_BLOCK, NBD_MAGIC,
    OPTION_MAGIC, PREFERRED_BLOCK, TransmissionFlags, client_flag, handshake_flag, info, option,
    option_reply,
};
use crate::session::{Limits, SessionEnd};
use crate::shutdown::{Either, Shutdown, race};
use crate::transport::{RecvBuf, Transport};

pub(crate) use contexts::SelectedContext;
use contexts::Selection;
use payload::{ContextRequest, InfoRequest};
use reply::{Replies, clip, echo};

/// The receive buffer while negotiating; it grows for an option that needs it.
const RECEIVE_BUFFER: usize = 4096;
/// Magic, code and length.
const OPTION_HEADER: usize = 16;
/// Largest option payload that is looked at: a name and some dozens of context queries.
const MAX_KEPT_PAYLOAD: u32 = 64 << 10;
/// Largest option payload that is read and thrown away; a client with more is not negotiating.
const MAX_SKIPPED_PAYLOAD: u32 = 1 << 20;
/// Options granted for each export listed. `qemu-nbd --list` spends three, INFO and two LIST_META_CONTEXT, all on
/// one connection.
const OPTIONS_PER_LISTED: usize = 4;
/// A long list of exports or of contexts is sent in pieces of about this size.
const LIST_PIECE: usize = 64 << 10;

/// What was agreed on.
pub(crate) struct Agreement<E> {
    pub(crate) export: E,
    pub(crate) name: String,
    pub(crate) style: HeaderStyle,
    pub(crate) flags: TransmissionFlags,
    pub(crate) contexts: Vec<SelectedContext>,
    /// What the client sent ahead of its time belongs to the transmission phase.
    pub(crate) recv: RecvBuf,
}

/// How a negotiation ended, if not by an error.
pub(crate) enum Outcome<E> {
    Transmission(Agreement<E>),
    Ended(SessionEnd),
}

/// What to do after an option.
enum Next<E> {
    Option,
    Enter(E, ExportInfo),
    End(SessionEnd),
}

struct Negotiation<'a, X: Exports, T> {
    io: &'a T,
    exports: &'a X,
    client: &'a ClientInfo,
    shutdown: &'a Shutdown,
    recv: RecvBuf,
    replies: Replies,
    no_zeroes: bool,
    style: HeaderStyle,
    selection: Option<Selection>,
    /// What the last option found, if that was an INFO: a GO that follows gets the very same.
    informed: Option<(String, X::Export, ExportInfo)>,
    options_left: usize,
    listed: bool,
}

/// Negotiates over `io` until the client has chosen or left.
pub(crate) async fn negotiate<X: Exports, T: Transport>(
    io: &T,
    exports: &X,
    client: &ClientInfo,
    limits: &Limits,
    shutdown: &Shutdown,
) -> Result<Outcome<X::Export>, SessionError> {
    let mut negotiation = Negotiation {
        io,
        exports,
        client,
        shutdown,
        recv: RecvBuf::new(RECEIVE_BUFFER),
        replies: Replies::default(),
        no_zeroes: false,
        style: HeaderStyle::Simple,
        selection: None,
        informed: None,
        options_left: limits.max_options,
        listed: false,
    };
    negotiation.run().await
}

impl<X: Exports, T: Transport> Negotiation<'_, X, T> {
    async fn run(&mut self) -> Result<Outcome<X::Export>, SessionError> {
        if let Some(end) = self.greet().await? {
            return Ok(Outcome::Ended(end));
        }
        loop {
            let next = self.option().await?;
            self.replies.send(self.io).await.map_err(|e| SessionError::io("answering an option", e))?;
            match next {
                Next::Option => {}
                Next::End(end) => return Ok(Outcome::Ended(end)),
                Next::Enter(export, info) => {
                    let contexts = self.selection.take().map_or_else(Vec::new, |s| s.contexts);
                    return Ok(Outcome::Transmission(Agreement {
                        flags: transmission_flags(&info, self.style, !contexts.is_empty()),
                        export,
                        name: info.name,
                        style: self.style,
                        contexts,
                        recv: std::mem::replace(&mut self.recv, RecvBuf::new(0)),
                    }));
                }
            }
        }
    }

    /// The fixed opening: magic numbers, handshake flags, client flags.
    async fn greet(&mut self) -> Result<Option<SessionEnd>, SessionError> {
        self.replies.raw(&NBD_MAGIC.to_be_bytes());
        self.replies.raw(&OPTION_MAGIC.to_be_bytes());
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        self.replies.raw(&flags.to_be_bytes());
        self.replies.send(self.io).await.map_err(|e| SessionError::io("greeting the client", e))?;
        if !self.receive(4).await? {
            return self.ended("reading the client flags", true).map(Some);
        }
        let flags = Fields::new(self.recv.unread()).u32().unwrap_or(0);
        self.recv.consume(4);
        if flags & !(client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES) != 0 {
            return Err(SessionError::protocol(format!("unknown client flags {flags:#x}")));
        }
        self.no_zeroes = flags & client_flag::NO_ZEROES != 0;
        Ok(None)
    }

    /// Reads one option and collects its replies.
    async fn option(&mut self) -> Result<Next<X::Export>, SessionError> {
        if !self.receive(OPTION_HEADER).await? {
            return self.ended("reading an option", true).map(Next::End);
        }
        let mut header = Fields::new(self.recv.unread());
        let (magic, code, len) = (header.u64(), header.u32().unwrap_or(0), header.u32().unwrap_or(0));
        self.recv.consume(OPTION_HEADER);
        if magic != Some(OPTION_MAGIC) {
            return Err(SessionError::protocol("an option does not begin with its magic number"));
        }
        let Some(left) = self.options_left.checked_sub(1) else {
            return Err(SessionError::new(
                SessionErrorKind::TooManyOptions,
                "the client sent too many options",
            ));
        };
        self.options_left = left;
        if code == option::ABORT {
            // Whatever it carries is ignored, and need not be waited for: the connection ends here.
            self.replies.ack(code);
            return Ok(Next::End(SessionEnd::Aborted));
        }
        if len > MAX_SKIPPED_PAYLOAD {
            return Err(SessionError::protocol(format!("option {code} announces {len} bytes")));
        }
        let informed = self.informed.take();
        if let Some((kind, message)) = self.refusal(code, len) {
            if code == option::SET_META_CONTEXT {
                self.selection = None;
            }
            if code == option::EXPORT_NAME {
                return Err(SessionError::new(SessionErrorKind::Refused, format!("EXPORT_NAME: {message}")));
            }
            if !self.skip(len).await? {
                return self.ended("reading an option's payload", false).map(Next::End);
            }
            self.replies.error(code, kind, message);
            return Ok(Next::Option);
        }
        if !self.receive(len as usize).await? {
            return self.ended("reading an option's payload", false).map(Next::End);
        }
        let payload = self.recv.unread()[..len as usize].to_vec();
        self.recv.consume(len as usize);
        match code {
            option::EXPORT_NAME => self.export_name(&payload).await,
            option::INFO | option::GO => self.info_or_go(code, &payload, informed).await,
            option::LIST => self.list().await,
            option::STRUCTURED_REPLY => {
                self.style = HeaderStyle::Structured;
                self.replies.ack(code);
                Ok(Next::Option)
            }
            option::EXTENDED_HEADERS => {
                self.style = HeaderStyle::Extended;
                self.replies.ack(code);
                Ok(Next::Option)
            }
            _ => self.meta_context(code, &payload).await,
        }
    }

    /// Why an option is refused on its header alone.
    fn refusal(&self, code: u32, len: u32) -> Option<(u32, &'static str)> {
        use option_reply::{ERR_EXT_HEADER_REQD, ERR_INVALID, ERR_SHUTDOWN, ERR_TOO_BIG, ERR_UNSUP};
        let empty = matches!(
            code,
            option::LIST | option::STARTTLS | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS
        );
        let known = matches!(
            code,
            option::EXPORT_NAME..=option::LIST | option::STARTTLS..=option::EXTENDED_HEADERS
        );
        let needs_chunks = matches!(code, option::SET_META_CONTEXT | option::LIST_META_CONTEXT);
        if self.shutdown.is_triggered() {
            Some((ERR_SHUTDOWN, "the server is shutting down"))
        } else if !known {
            Some((ERR_UNSUP, "unknown option"))
        } else if empty && len > 0 {
            Some((ERR_INVALID, "this option carries no data"))
        } else if code == option::STARTTLS {
            Some((ERR_UNSUP, "this server has no TLS"))
        } else if code == option::STRUCTURED_REPLY && self.style == HeaderStyle::Extended {
            Some((ERR_EXT_HEADER_REQD, "extended headers are in force already"))
        } else if code == option::EXPORT_NAME && self.style == HeaderStyle::Extended {
            Some((ERR_INVALID, "extended headers need GO"))
        } else if needs_chunks && !self.style.chunked() {
            Some((ERR_INVALID, "structured replies or extended headers come first"))
        } else if len > MAX_KEPT_PAYLOAD {
            Some((ERR_TOO_BIG, "the option is too large"))
        } else {
            None
        }
    }

    async fn export_name(&mut self, payload: &[u8]) -> Result<Next<X::Export>, SessionError> {
        let refused = |why: String| SessionError::new(SessionErrorKind::Refused, why);
        let name = payload::export_name(payload).map_err(|e| refused(format!("EXPORT_NAME: {}", e.0)))?;
        let unavailable =
            |error| refused(format!("EXPORT_NAME of '{}': {}", echo(name), describe(&error, name).1));
        let export = self.exports.open(name, self.client).await.map_err(unavailable)?;
        export.begin(&self.selected_for(name)).await.map_err(unavailable)?;
        let info = export.info();
        self.keep_selection_for(name);
        let flags = transmission_flags(&info, self.style, self.selection.is_some());
        self.replies.raw(&info.size.to_be_bytes());
        self.replies.raw(&flags.0.to_be_bytes());
        if !self.no_zeroes {
            self.replies.raw(&[0; EXPORT_NAME_PADDING]);
        }
        Ok(Next::Enter(export, info))
    }

    async fn info_or_go(
        &mut self,
        code: u32,
        payload: &[u8],
        informed: Option<(String, X::Export, ExportInfo)>,
    ) -> Result<Next<X::Export>, SessionError> {
        let request = match InfoRequest::parse(payload) {
            Ok(request) => request,
            Err(malformed) => return Ok(self.invalid(code, malformed)),
        };
        let (export, info) = match informed {
            Some((name, export, info)) if name == request.name => (export, info),
            _ => match self.exports.open(request.name, self.client).await {
                Ok(export) => {
                    let info = export.info();
                    (export, info)
                }
                Err(error) => return Ok(self.not_opened(code, request.name, &error)),
            },
        };
        if code == option::GO {
            if let Err(error) = export.begin(&self.selected_for(request.name)).await {
                return Ok(self.not_opened(code, request.name, &error));
            }
            self.keep_selection_for(request.name);
        }
        let selected =
            self.selection.as_ref().is_some_and(|s| s.export_name == request.name && !s.contexts.is_empty());
        self.describe_export(code, &request, &info, transmission_flags(&info, self.style, selected));
        self.replies.ack(code);
        if code == option::GO {
            return Ok(Next::Enter(export, info));
        }
        self.informed = Some((request.name.to_owned(), export, info));
        Ok(Next::Option)
    }

    /// The INFO replies the client asked for, and the one it always gets.
    fn describe_export(
        &mut self,
        code: u32,
        request: &InfoRequest<'_>,
        info: &ExportInfo,
        flags: TransmissionFlags,
    ) {
        let mut info_reply = |kind: u16, parts: [&[u8]; 3]| {
            let [a, b, c] = parts;
            self.replies.reply(code, option_reply::INFO, &[&kind.to_be_bytes(), a, b, c]);
        };
        info_reply(info::EXPORT, [&info.size.to_be_bytes(), &flags.0.to_be_bytes(), &[]]);
        if request.wants(info::NAME) {
            info_reply(info::NAME, [clip(&info.name).as_bytes(), &[], &[]]);
        }
        if request.wants(info::DESCRIPTION) && !info.description.is_empty() {
            info_reply(info::DESCRIPTION, [clip(&info.description).as_bytes(), &[], &[]]);
        }
        if request.wants(info::BLOCK_SIZE) {
            info_reply(
                info::BLOCK_SIZE,
                [&MIN_BLOCK.to_be_bytes(), &PREFERRED_BLOCK.to_be_bytes(), &MAX_PAYLOAD.to_be_bytes()],
            );
        }
    }

    async fn list(&mut self) -> Result<Next<X::Export>, SessionError> {
        let exports = self.exports.list(self.client).await;
        if !self.listed {
            // A client that lists goes on to ask about each: what the list bounds need not be refused.
            self.listed = true;
            let more = exports.len().saturating_mul(OPTIONS_PER_LISTED);
            self.options_left = self.options_left.saturating_add(more);
        }
        for export in &exports {
            let name = clip(&export.name).as_bytes();
            let parts = [&(name.len() as u32).to_be_bytes()[..], name, clip(&export.description).as_bytes()];
            self.replies.reply(option::LIST, option_reply::SERVER, &parts);
            self.send_piece("listing exports").await?;
        }
        self.replies.ack(option::LIST);
        Ok(Next::Option)
    }

    async fn meta_context(&mut self, code: u32, payload: &[u8]) -> Result<Next<X::Export>, SessionError> {
        let set = code == option::SET_META_CONTEXT;
        if set {
            // Whatever comes of this option, the earlier selection is void.
            self.selection = None;
        }
        let request = match ContextRequest::parse(payload) {
            Ok(request) => request,
            Err(malformed) => return Ok(self.invalid(code, malformed)),
        };
        if request.queries.len() > contexts::MAX_QUERIES {
            self.replies.error(code, option_reply::ERR_TOO_BIG, "too many queries");
            return Ok(Next::Option);
        }
        let export = match self.exports.open(request.name, self.client).await {
            Ok(export) => export,
            Err(error) => return Ok(self.not_opened(code, request.name, &error)),
        };
        if !set {
            let names = contexts::matching(&export, &request.queries);
            // However long the client takes to read them, the export need not stay open for it.
            drop(export);
            for name in names {
                self.replies.reply(code, option_reply::META_CONTEXT, &[&[0; 4], clip(&name).as_bytes()]);
                self.send_piece("listing metadata contexts").await?;
            }
            self.replies.ack(code);
            return Ok(Next::Option);
        }
        let Some(contexts) = contexts::select(&export, &request.queries) else {
            self.replies.error(code, option_reply::ERR_TOO_BIG, "too many metadata contexts");
            return Ok(Next::Option);
        };
        for selected in &contexts {
            let name = match selected.context() {
                Context::Allocation => BASE_ALLOCATION,
                Context::Named { name, .. } => name,
            };
            let parts = [&selected.id.0.to_be_bytes()[..], clip(name).as_bytes()];
            self.replies.reply(code, option_reply::META_CONTEXT, &parts);
        }
        self.replies.ack(code);
        self.selection = Some(Selection { export_name: request.name.to_owned(), contexts });
        Ok(Next::Option)
    }

    /// Sends what has collected of a long list.
    async fn send_piece(&mut self, doing: &'static str) -> Result<(), SessionError> {
        if self.replies.len() < LIST_PIECE {
            return Ok(());
        }
        self.replies.send(self.io).await.map_err(|e| SessionError::io(doing, e))
    }

    fn selected_for(&self, name: &str) -> Vec<Context<'_>> {
        let selection = self.selection.iter().filter(|selection| selection.export_name == name);
        selection.flat_map(|selection| &selection.contexts).map(SelectedContext::context).collect()
    }

    /// Contexts count only for the export they were selected for.
    fn keep_selection_for(&mut self, name: &str) {
        if self.selection.as_ref().is_some_and(|s| s.export_name != name || s.contexts.is_empty()) {
            self.selection = None;
        }
    }

    fn invalid(&mut self, code: u32, malformed: payload::Malformed) -> Next<X::Export> {
        self.replies.error(code, option_reply::ERR_INVALID, malformed.0);
        Next::Option
    }

    fn not_opened(&mut self, code: u32, name: &str, error: &OpenError) -> Next<X::Export> {
        let (kind, message) = describe(error, name);
        self.replies.error(code, kind, &message);
        Next::Option
    }

    /// Receives until `len` bytes are there. `false` if the stream ended, or the server stops while waiting.
    async fn receive(&mut self, len: usize) -> Result<bool, SessionError> {
        if self.recv.unread().len() >= len {
            return Ok(true);
        }
        match race(self.recv.fill_to(self.io, len), self.shutdown.wait()).await {
            Either::First(result) => result.map_err(|e| SessionError::io("negotiating", e)),
            Either::Second(()) => Ok(false),
        }
    }

    async fn skip(&mut self, len: u32) -> Result<bool, SessionError> {
        self.recv.skip(self.io, u64::from(len)).await.map_err(|e| SessionError::io("negotiating", e))
    }

    /// How it ended when no more bytes come: well between two messages, badly inside one. `at_start` says
    /// that what is unread is all there is of the message.
    fn ended(&self, doing: &str, at_start: bool) -> Result<SessionEnd, SessionError> {
        if self.shutdown.is_triggered() {
            Ok(SessionEnd::Shutdown)
        } else if at_start && self.recv.unread().is_empty() {
            Ok(SessionEnd::Closed)
        } else {
            Err(SessionError::cut_short(doing))
        }
    }
}

/// The reply type and message for a failed open.
fn describe(error: &OpenError, name: &str) -> (u32, String) {
    match error {
        OpenError::Unknown => (option_reply::ERR_UNKNOWN, format!("no export '{}'", echo(name))),
        OpenError::Policy(why) => (option_reply::ERR_POLICY, why.clone()),
        OpenError::Failed(why) => (option_reply::ERR_UNKNOWN, why.clone()),
        OpenError::Shutdown => (option_reply::ERR_SHUTDOWN, "the server is shutting down".to_owned()),
    }
}

/// What the client may do with the export, given what it negotiated.
pub(crate) fn transmission_flags(info: &ExportInfo, style: HeaderStyle, contexts: bool) -> TransmissionFlags {
    use TransmissionFlags as Flags;
    let features = &info.features;
    let writable = !info.read_only;
    Flags::HAS_FLAGS
        .with_if(info.read_only, Flags::READ_ONLY)
        .with_if(features.flush, Flags::SEND_FLUSH)
        .with_if(features.fua, Flags::SEND_FUA)
        .with_if(features.rotational, Flags::ROTATIONAL)
        .with_if(features.trim && writable, Flags::SEND_TRIM)
        .with_if(features.write_zeroes && writable, Flags::SEND_WRITE_ZEROES)
        .with_if(features.write_zeroes && features.fast_zero && writable, Flags::SEND_FAST_ZERO)
        .with_if(style.chunked(), Flags::SEND_DF)
        .with_if(features.multi_conn, Flags::CAN_MULTI_CONN)
        .with_if(features.cache, Flags::SEND_CACHE)
        .with_if(contexts && style == HeaderStyle::Extended, Flags::BLOCK_STATUS_PAYLOAD)
}
