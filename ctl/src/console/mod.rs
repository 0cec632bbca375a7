//! The web console: a page for the browser of whoever runs it, and the way from that page to the daemon.
//!
//! ```text
//! browser ── HTTP on loopback ──► server ──► guard ──┬──► files     the page
//!                                                    └──► forward ──► the control socket: /v1
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`server`] | the listening socket, connections, and which request goes where |
//! | [`guard`] | who is let in: by a token, and from this page only |
//! | [`forward`] | requests to the daemon and its answers, as they are |
//! | [`files`] | the page: `page/index.html`, and `page/js` where `main.js` says how its rooms connect |
//!
//! **Invariant:** the console has no rights of its own. The daemon sees the user who runs `cairn console` on its control
//! socket, as with any other command, and decides.

mod files;
mod forward;
mod guard;
mod server;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

pub(crate) use server::Server;

/// What a browser is answered: something from here, or what comes from the daemon as it comes.
type Answer = Response<Either<Full<Bytes>, Incoming>>;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A page that says one thing; `what` is a text of ours.
fn notice(status: StatusCode, what: &str) -> Answer {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>cairn</title>\n<p>{what}</p>\n</html>\n"
    );
    answer(status, HTML, page)
}
