//! What the page asks of the daemon, and what that answers, as they are.

use std::time::Duration;

use cairn_api::error::{ApiError, ErrorBody, ErrorCode};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName};
use hyper::{Request, Response, StatusCode};

use super::{Answer, JSON, answer};
use crate::client::Client;

/// The longest body that is taken: far more than any request of the API is.
const MOST_BODY_BYTES: usize = 1 << 20;
/// How long a body may take to arrive, from this machine.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// What of a request's head the daemon is told.
const PASSED_ON: [HeaderName; 3] =
    [header::ACCEPT, header::CONTENT_TYPE, HeaderName::from_static("last-event-id")];

/// Has the daemon answer a request. Its answer comes piece by piece, since one with events has no end.
pub(super) async fn forward(request: Request<Incoming>, client: &Client) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut asked = Request::builder().method(head.method).uri(path);
    for name in PASSED_ON {
        for value in head.headers.get_all(&name) {
            asked = asked.header(&name, value);
        }
    }
    let body = match collected(body).await {
        Ok(body) => body,
        Err(refused) => return error(&refused),
    };
    let asked = match asked.body(Full::new(body)) {
        Ok(asked) => asked,
        Err(e) => return error(&ApiError::new(ErrorCode::BadRequest, e.to_string())),
    };
    match client.pass(asked).await {
        Ok(answered) => passed_back(answered),
        Err(failure) => answer(StatusCode::BAD_GATEWAY, JSON, failure.json().to_string()),
    }
}

async fn collected(body: Incoming) -> Result<Bytes, ApiError> {
    let whole = Limited::new(body, MOST_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_PATIENCE, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            let most = cairn_api::Size(MOST_BODY_BYTES as u64);
            Err(ApiError::new(ErrorCode::TooLarge, format!("the request's body is larger than {most}")))
        }
        Ok(Err(e)) => Err(ApiError::new(ErrorCode::BadRequest, format!("the request broke off: {e}"))),
        Err(_) => Err(ApiError::new(ErrorCode::RequestTimeout, "the request's body did not arrive in time")),
    }
}

fn passed_back(answered: Response<Incoming>) -> Answer {
    let (head, body) = answered.into_parts();
    let mut answer = Response::new(Either::Right(body));
    *answer.status_mut() = head.status;
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    answer
}

/// An error of the console's own, in the API's shape.
fn error(why: &ApiError) -> Answer {
    let status = StatusCode::from_u16(why.code.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let body = ErrorBody { error: why.clone() };
    answer(status, JSON, serde_json::to_vec(&body).unwrap_or_default())
}
