//! Sessions that begin in the transmission phase: a socket given to the kernel's nbd driver is used at once, with
//! nothing said before the first request. Whoever hands it over has told the driver what negotiation would have.

use std::rc::Rc;

use crate::error::SessionError;
use crate::export::{Export, ExportInfo};
use crate::handshake::{Agreement, transmission_flags};
use crate::proto::{HeaderStyle, TransmissionFlags};
use crate::session::{Limits, SessionSummary, conclude};
use crate::shutdown::Shutdown;
use crate::transmission;
use crate::transport::{RecvBuf, Transport};

/// How the clients of these sessions speak, which is how a client that negotiated nothing does: the kernel's driver
/// knows neither chunks nor metadata contexts.
const STYLE: HeaderStyle = HeaderStyle::Simple;

/// What the client of [`serve_attached`] may do with an export: what a client that asked for nothing is told in
/// negotiation, to be told by other means (`NBD_ATTR_SERVER_FLAGS` of the kernel's nbd driver).
pub fn attached_flags(info: &ExportInfo) -> TransmissionFlags {
    transmission_flags(info, STYLE, false)
}

/// Serves `export` over `io` without negotiation, with simple replies and no metadata contexts, until the session
/// ends. What is true of [`serve_on`](crate::serve_on) is true of this: requests in flight have ended when it
/// returns, and at a shutdown those not yet taken stay unanswered, for the client to send again elsewhere.
pub async fn serve_attached<E: Export, T: Transport>(
    io: T,
    export: E,
    limits: &Limits,
    shutdown: &Shutdown,
) -> Result<SessionSummary, SessionError> {
    let io = Rc::new(io);
    let info = export.info();
    let agreement = Agreement {
        flags: attached_flags(&info),
        export,
        name: info.name,
        style: STYLE,
        contexts: Vec::new(),
        recv: RecvBuf::new(0),
    };
    let result = transmission::run(Rc::clone(&io), agreement, limits, shutdown).await;
    conclude(&*io, result).await
}
