//! HTTP over the daemon's control socket. One connection a call: a command makes a handful at most.

use std::io;
use std::time::Duration;

use cairn_api::error::ErrorBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::args::Place;
use crate::failure::Failure;

/// The most that an answer may hold: far more than a daemon sends, less than hurts.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How long to wait for a call that should be quick. Longer than the daemon's own patience, so that its answer wins.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long a call may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// As long as is decent.
    Short,
    /// As long as it takes.
    Long,
}

/// What the daemon answered: as it came, for `--json`, and as what it means.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) raw: Bytes,
    pub(crate) value: T,
}

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    place: Place,
}

impl Client {
    pub(crate) fn new(place: Place) -> Client {
        Client { place }
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        wait: Wait,
    ) -> Result<Answer<T>, Failure> {
        understand(self.call(Method::GET, path, Bytes::new(), wait).await?)
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        self.send(Method::POST, path, body, Wait::Short).await
    }

    /// A POST that takes its time.
    pub(crate) async fn post_long<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        self.send(Method::POST, path, body, Wait::Long).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        self.send(Method::PATCH, path, body, Wait::Short).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        wait: Wait,
    ) -> Result<Answer<T>, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::local("internal", e.to_string()))?;
        understand(self.call(method, path, body.into(), wait).await?)
    }

    /// A POST without a body.
    pub(crate) async fn start<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        understand(self.call(Method::POST, path, Bytes::new(), Wait::Short).await?)
    }

    /// A DELETE that is answered with what is left.
    pub(crate) async fn delete_and_tell<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Answer<T>, Failure> {
        understand(self.call(Method::DELETE, path, Bytes::new(), Wait::Short).await?)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call(Method::DELETE, path, Bytes::new(), Wait::Short).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, wait: Wait) -> Result<Bytes, Failure> {
        let exchange = self.exchange(method, path, body);
        let (status, bytes) = match wait {
            Wait::Long => exchange.await?,
            Wait::Short => tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| {
                let message = format!("the daemon did not answer within {} seconds", PATIENCE.as_secs());
                Failure::local("timeout", message)
                    .with_hint("the operation may still complete; look before trying it again")
            })??,
        };
        if status.is_success() { Ok(bytes) } else { Err(failed(status, &bytes)) }
    }

    /// Listens to server-sent events until the daemon ends them, and has each with its kind and its data told.
    pub(crate) async fn listen(
        &self,
        path: &str,
        mut tell: impl FnMut(&str, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let response = self.ask(Method::GET, path, Bytes::new(), "text/event-stream").await?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            let limited = Limited::new(body, MAX_ANSWER_BYTES);
            return Err(failed(head.status, &collected(limited).await?));
        }
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| cut_off(&e))?;
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
                if let Some(data) = field("data:") {
                    tell(field("event:").unwrap_or_default(), data)?;
                }
            }
        }
        Err(Failure::local("cut-off", "the daemon has stopped").with_hint("listen again when it is back"))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let response = self.ask(method, path, body, "application/json").await?;
        let status = response.status();
        Ok((status, collected(Limited::new(response.into_body(), MAX_ANSWER_BYTES)).await?))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| Failure::local("internal", e.to_string()))?;
        self.pass(request).await
    }

    /// Sends a request, and returns the answer's head with its body still to come.
    pub(crate) async fn pass(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.place.socket).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| not_cairnd(e.to_string()))?;
        // Drives the connection; its errors come out of the calls below.
        tokio::spawn(connection);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("cairn"));
        sender.send_request(request).await.map_err(|e| cut_off(&e))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.place.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let failure = Failure::local("unreachable", format!("no cairnd is listening on {socket}"));
                failure.with_hint(match &self.place.dev {
                    Some(folder) => format!("start it: cairnd --dev {}", folder.display()),
                    None => "start it (systemctl start cairnd), or say where it is with --dev DIR or --socket PATH"
                        .to_owned(),
                })
            }
            io::ErrorKind::PermissionDenied => {
                Failure::local("forbidden", format!("not allowed to connect to {socket}"))
                    .with_hint("only the daemon's user may: try with sudo")
            }
            _ => Failure::local("unreachable", format!("cannot connect to {socket}: {error}")),
        }
    }
}

async fn collected(body: Limited<Incoming>) -> Result<Bytes, Failure> {
    let broke_off = |error| Failure::local("broken-answer", format!("the answer broke off: {error}"));
    Ok(body.collect().await.map_err(broke_off)?.to_bytes())
}

/// What went wrong, as the daemon has said.
fn failed(status: StatusCode, answer: &[u8]) -> Failure {
    match serde_json::from_slice::<ErrorBody>(answer) {
        Ok(body) => body.error.into(),
        Err(_) => not_cairnd(format!("it answered {status} with something else than an error of cairnd")),
    }
}

fn understand<T: DeserializeOwned>(raw: Bytes) -> Result<Answer<T>, Failure> {
    match serde_json::from_slice(&raw) {
        Ok(value) => Ok(Answer { raw, value }),
        Err(error) => Err(not_cairnd(format!("its answer is not understood: {error}"))),
    }
}

fn not_cairnd(what: String) -> Failure {
    Failure::local("not-understood", format!("what listens there does not speak this API: {what}"))
        .with_hint("use the cairn of the same version as the cairnd")
}

fn cut_off(error: &hyper::Error) -> Failure {
    Failure::local("cut-off", format!("the daemon closed the connection before it answered: {error}"))
        .with_hint("it may be stopping, and the operation may have completed; look before trying it again")
}
