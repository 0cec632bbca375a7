//! Requests in, answers out: every body, query and path is read here, and every failure to read one gets the API's
//! one error shape.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use cairn_api::error::{ApiError, ErrorBody, ErrorCode};
use cairn_api::list;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::strict::{self, Strict};

/// The largest request body: far above what any request needs.
const MAX_BODY_BYTES: usize = 1 << 20;
/// How long a client may take to send its body.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// An error on its way out.
#[derive(Debug)]
pub(super) struct Failure(pub(super) ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = self.0.code;
        let mut response = Json(status, ErrorBody { error: self.0 }).into_response();
        response.extensions_mut().insert(code);
        response
    }
}

/// A status and a JSON body.
pub(super) struct Json<T>(pub(super) StatusCode, pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(body) => {
                let json = HeaderValue::from_static("application/json");
                (self.0, [(header::CONTENT_TYPE, json)], body).into_response()
            }
            Err(error) => {
                // The API's types always serialise; an error body always does.
                tracing::error!(%error, "an answer could not be written as JSON");
                Failure(ApiError::new(ErrorCode::Internal, "the answer could not be written")).into_response()
            }
        }
    }
}

fn bad_request(message: impl Into<String>) -> Failure {
    Failure(
        ApiError::new(ErrorCode::BadRequest, message)
            .with_hint("see /v1/openapi.json for what the API takes"),
    )
}

/// A request's JSON body. Its content type is not looked at, so that `curl -d` works without a header.
pub(super) struct Input<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Input<T>, Failure> {
        let bytes = body(request).await?;
        if bytes.is_empty() {
            return Err(bad_request("the request needs a JSON body"));
        }
        parse(&bytes).map(Input)
    }
}

/// A request's JSON body where every field has a default: it may be left out.
pub(super) struct OptionalInput<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalInput<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<OptionalInput<T>, Failure> {
        let bytes = body(request).await?;
        let given: Option<T> = if bytes.is_empty() { None } else { parse(&bytes)? };
        Ok(OptionalInput(given.unwrap_or_default()))
    }
}

fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    let wrong = |e| bad_request(format!("the body is not what this call takes: {e}"));
    let mut value = serde_json::from_slice(bytes).map_err(wrong)?;
    if strict::make_whole(&mut value) {
        return T::deserialize(Strict(value)).map_err(wrong);
    }
    // This way first: it knows what stands twice, and where what is wrong stands.
    let parsed = serde_json::from_slice(bytes).map_err(wrong)?;
    T::deserialize(Strict(value)).map_err(wrong)?;
    Ok(parsed)
}

fn too_large() -> Failure {
    Failure(ApiError::new(ErrorCode::TooLarge, "the request's body is larger than 1 MiB"))
}

pub(super) async fn body(request: Request<Body>) -> Result<Bytes, Failure> {
    // What is announced as too large need not arrive to be refused.
    if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let limited = Limited::new(request.into_body(), MAX_BODY_BYTES);
    match tokio::time::timeout(BODY_PATIENCE, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(bad_request(format!("the request's body could not be read: {error}"))),
        Err(_) => Err(Failure(ApiError::new(
            ErrorCode::RequestTimeout,
            format!("the request's body did not arrive within {} seconds", BODY_PATIENCE.as_secs()),
        ))),
    }
}

/// A request's query.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, Failure> {
        query(&parts.uri).map(Query)
    }
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    match axum::extract::Query::try_from_uri(uri) {
        Ok(axum::extract::Query(value)) => Ok(value),
        Err(e) => Err(bad_request(format!("the query is not what this call takes: {}", e.body_text()))),
    }
}

/// The query of a list: as any other, but for tags, which may be given several times.
pub(super) struct ListQuery<T>(pub(super) T);

impl<S: Send + Sync, T: list::ListQuery + DeserializeOwned> FromRequestParts<S> for ListQuery<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<ListQuery<T>, Failure> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let (tags, rest): (Vec<_>, Vec<_>) = pairs.partition(|(key, _)| key == "tag");
        let rest = form_urlencoded::Serializer::new("/?".to_owned()).extend_pairs(rest).finish();
        let rest = rest.parse().map_err(|e| bad_request(format!("the query cannot be read: {e}")))?;
        let mut value: T = query(&rest)?;
        *value.tags() = tags.into_iter().map(|(_, tag)| tag.into_owned()).collect();
        Ok(ListQuery(value))
    }
}

/// The names in a request's path, percent-decoded.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, Failure> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(e) => Err(bad_request(format!("the path is not what this call takes: {}", e.body_text()))),
        }
    }
}

/// The answer to a path that leads nowhere.
pub(super) async fn no_such_route(request: Request) -> Failure {
    let error =
        ApiError::new(ErrorCode::NoSuchRoute, format!("there is nothing at {}", request.uri().path()));
    Failure(error.with_hint("the API is described at /v1/openapi.json"))
}

/// The answer to a path that exists with a method that does not.
pub(super) async fn method_not_allowed(request: Request) -> Failure {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    Failure(
        ApiError::new(ErrorCode::MethodNotAllowed, message)
            .with_hint("the API is described at /v1/openapi.json"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_code_message_and_hint() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for &code in ErrorCode::ALL {
            let error = ApiError::new(code, "what happened").with_hint("what to do");
            let response = Failure(error.clone()).into_response();
            assert_eq!(response.status().as_u16(), code.http_status());
            let body = runtime.block_on(response.into_body().collect()).expect("it is in memory").to_bytes();
            assert_eq!(serde_json::from_slice::<ErrorBody>(&body).expect("JSON"), ErrorBody { error });
        }
    }
}
