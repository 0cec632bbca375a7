//! The HTTP client under S3: it gives up a request in which nothing moves any more.
//!
//! A limit on whole requests has to allow for the largest object over the slowest line, and takes minutes to see that a
//! connection is dead. So what is limited here is silence: the time in which the connection takes no piece of the
//! request and brings none of the answer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use object_store::{ClientConfigKey, ClientOptions};
use parking_lot::Mutex;
use reqwest::header::CONTENT_LENGTH;
use tokio::time::Instant;

/// How long making a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Pieces that objects are sent in, each of which counts as a sign of life.
pub(crate) const PIECE: usize = 64 << 10;

/// What the clients of one store are made by.
#[derive(Debug)]
pub(crate) struct Connector {
    silence: Duration,
    plain: bool,
}

impl Connector {
    /// A request fails when nothing of it moves for `silence`. Plain HTTP is used only if `plain` allows it.
    pub(crate) fn new(silence: Duration, plain: bool) -> Connector {
        Connector { silence, plain }
    }

    /// What `object_store` is told. It has no limit of its own, and is otherwise as this connector.
    pub(crate) fn options(&self) -> ClientOptions {
        ClientOptions::new()
            .with_allow_http(self.plain)
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIME)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let connect_time =
            |options: &ClientOptions| options.get_config_value(&ClientConfigKey::ConnectTimeout);
        if connect_time(options) != connect_time(&self.options()) {
            // Not for the store, but to ask this machine for its role, with limits of its own.
            return ReqwestConnector::default().connect(options);
        }
        let client = reqwest::Client::builder()
            .user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")))
            .https_only(!self.plain)
            .connect_timeout(CONNECT_TIME)
            .build()
            .map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })?;
        Ok(HttpClient::new(Client { client, silence: self.silence }))
    }
}

#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    silence: Duration,
}

/// When something moved last.
type Moved = Arc<Mutex<Instant>>;

/// Nothing moved for so long.
#[derive(Debug)]
struct Silence(Duration);

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store was silent for {:?}", self.0)
    }
}

impl std::error::Error for Silence {}

fn silent(limit: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Silence(limit))
}

fn lost(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    // The URL is in the message of whoever asked.
    HttpError::new(kind, error.without_url())
}

impl Client {
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let moved: Moved = Arc::new(Mutex::new(Instant::now()));
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let url = url.parse().map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let body = match body.as_bytes() {
            Some(whole) => reqwest::Body::from(whole.clone()),
            None => {
                // Many stores take nothing without being told how much it is, which pieces do not tell.
                request.headers_mut().insert(CONTENT_LENGTH, body.content_length().into());
                let taken = moved.clone();
                reqwest::Body::wrap(body.map_frame(move |frame| {
                    *taken.lock() = Instant::now();
                    frame
                }))
            }
        };
        *request.body_mut() = Some(body);

        let answer = tokio::select! {
            answer = self.client.execute(request) => answer.map_err(lost)?,
            () = silence(&moved, self.silence) => return Err(silent(self.silence)),
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let limit = self.silence;
        let pieces = stream::unfold(Some(reqwest::Body::from(answer)), move |body| async move {
            let mut body = body?;
            match tokio::time::timeout(limit, body.frame()).await {
                Ok(Some(Ok(frame))) => Some((Ok(frame), Some(body))),
                Ok(Some(Err(error))) => Some((Err(lost(error)), None)),
                Ok(None) => None,
                Err(_) => Some((Err(silent(limit)), None)),
            }
        });
        // An answer without a body, as to HEAD, is asked for more after its end.
        let mut answer = HttpResponse::new(HttpResponseBody::new(StreamBody::new(pieces.fuse())));
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        Ok(answer)
    }
}

/// Ends when nothing has moved for `limit`.
async fn silence(moved: &Moved, limit: Duration) {
    loop {
        let until = *moved.lock() + limit;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

impl HttpService for Client {
    // What the macro that the trait is declared with would make of an `async fn`.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.answer(request))
    }
}
