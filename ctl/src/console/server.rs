//! Accepts browsers, and says which request goes where.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::guard::{Guard, Verdict};
use super::{Answer, HTML, answer, files, forward, notice};
use crate::client::Client;
use crate::failure::Failure;

/// Connections served at once; more wait in the socket's backlog. A browser opens six.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to send a request's head, or to stay connected without sending one.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failed accept: out of descriptors, most likely, which passes as connections close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The page loads nothing from elsewhere, and is shown in no other one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// What every answer has.
const ALWAYS: [(HeaderName, HeaderValue); 4] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Nor is the page itself kept: the next version of this program has another one.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// The console, listening.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    desk: Desk,
}

/// What all connections share.
#[derive(Clone, Debug)]
struct Desk {
    guard: Arc<Guard>,
    client: Client,
}

impl Server {
    /// Listens, for whoever has the token that is made here.
    pub(crate) async fn listen(address: SocketAddr, client: Client) -> Result<Server, Failure> {
        let failed = |e| {
            Failure::local("io", format!("cannot listen on {address}: {e}")).with_hint(
                "another console may be running; with --listen 127.0.0.1:0 the system chooses a free port",
            )
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let guard = Arc::new(Guard::new(listener.local_addr().map_err(failed)?)?);
        Ok(Server { listener, desk: Desk { guard, client } })
    }

    /// What to open in a browser.
    pub(crate) fn url(&self) -> String {
        self.desk.guard.url()
    }

    /// Serves for ever.
    pub(crate) async fn serve(self) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let desk = self.desk.clone();
            let service = service_fn(move |request| {
                let desk = desk.clone();
                async move { Ok::<_, Infallible>(desk.serve(request).await) }
            });
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                let _place = place;
                // A browser that went away, or was too slow: its own affair.
                let _ = connection.await;
            });
        }
    }
}

impl Desk {
    async fn serve(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let mut answer = match self.guard.judge(&head) {
            Verdict::In => self.answer(Request::from_parts(head, body)).await,
            Verdict::Welcome => self.welcome(),
            Verdict::Out(why) => notice(StatusCode::FORBIDDEN, why),
        };
        answer.headers_mut().extend(ALWAYS.map(|(name, value)| (Some(name), value)));
        answer
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if path.starts_with("/v1/") {
            return forward::forward(request, &self.client).await;
        }
        let Some(file) = files::at(path) else {
            return notice(StatusCode::NOT_FOUND, "There is nothing here.");
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = notice(StatusCode::METHOD_NOT_ALLOWED, "This can only be read.");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        file
    }

    /// Gives the cookie, and takes the token out of the address, where others may look.
    fn welcome(&self) -> Answer {
        let mut answer = answer(StatusCode::SEE_OTHER, HTML, "");
        answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
        if let Ok(cookie) = HeaderValue::from_str(&self.guard.cookie()) {
            answer.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        answer
    }
}
