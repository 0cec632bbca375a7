//! What every request goes through: who asks is put beside it, and what it changes into the audit log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use cairn_api::error::{ApiError, ErrorCode};
use cairn_uring::net::Credentials;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::value::RawValue;

use super::pace::Pace;
use super::reply::{self, Failure};
use super::routes::Asking;
use crate::access::Access;
use crate::audit::{Asked, Audit, Line};
use crate::config::Config;
use crate::courtesy::Courtesy;

/// Bodies that are longer are not in the log; what is asked for never is.
const MOST_LOGGED: usize = 64 << 10;

/// Who may come in, and where it is written down.
#[derive(Clone, Debug, Default)]
pub struct Porter {
    /// Who may do what.
    pub(crate) access: Arc<Access>,
    /// None where nothing is written down.
    pub(crate) audit: Option<Arc<Audit>>,
    pace: Arc<Pace>,
}

impl Porter {
    /// As a configuration says.
    ///
    /// # Errors
    /// When the audit log cannot be written, for people.
    pub(crate) fn new(config: &Config) -> Result<Porter, String> {
        let audit = config.audit.log.as_deref().map(Audit::open).transpose()?.map(Arc::new);
        let porter = Porter { access: Arc::default(), audit, pace: Arc::default() };
        porter.set_access(config);
        Ok(porter)
    }

    /// The same, with requests that give way to clients.
    pub(crate) fn giving_way(self, to: &Arc<Courtesy>) -> Porter {
        Porter { pace: Arc::new(Pace::new(Arc::clone(to))), ..self }
    }

    /// Has the table of a configuration hold from now on, and says what is wrong with it.
    pub(crate) fn set_access(&self, config: &Config) {
        for what in self.access.set(config.access.grants.as_deref()) {
            tracing::warn!("[access]: {what}");
        }
    }
}

/// One connection's way in.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) router: Router,
    pub(super) porter: Porter,
    pub(super) who: Arc<Credentials>,
    /// Whether nothing has come by it yet.
    pub(super) first: Arc<AtomicBool>,
}

impl Door {
    /// Answers a request.
    pub(super) async fn serve(self, request: Request<Incoming>) -> Response {
        self.porter.pace.turn(self.first.swap(false, Ordering::Relaxed)).await;
        let mut request = request.map(Body::new);
        let rights = self.porter.access.rights(&self.who);
        request.extensions_mut().insert(Asking { uid: self.who.uid, rights });
        let looks = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        match self.porter.audit.clone() {
            None => self.answer(request).await,
            Some(audit) if looks => self.look(&audit, request).await,
            Some(audit) => self.change(audit, request).await,
        }
    }

    async fn answer(self, request: Request) -> Response {
        match TowerToHyperService::new(self.router).call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn asked(&self, audit: &Audit, request: &Request) -> Asked {
        let uri = request.uri();
        Asked {
            request: audit.next_request(),
            uid: self.who.uid,
            pid: self.who.pid,
            method: request.method().to_string(),
            path: uri.path_and_query().map_or_else(String::new, ToString::to_string),
        }
    }

    /// Who looks is written down when it may not.
    async fn look(self, audit: &Audit, request: Request) -> Response {
        let asked = self.asked(audit, &request);
        let response = self.answer(request).await;
        if response.status() == StatusCode::FORBIDDEN {
            audit.note(answered(&asked, &response, Instant::now()));
        }
        response
    }

    /// To its end, also when the client goes away: what was begun is carried out, and so it has to be written down what came
    /// of it.
    async fn change(self, audit: Arc<Audit>, request: Request) -> Response {
        let carried_out = tokio::spawn(async move {
            let (parts, body) = request.into_parts();
            let bytes = match reply::body(Request::new(body)).await {
                Ok(bytes) => bytes,
                Err(failure) => return failure.into_response(),
            };
            let request = Request::from_parts(parts, Body::from(bytes.clone()));
            let asked = self.asked(&audit, &request);
            let body = Some(&bytes).filter(|bytes| bytes.len() <= MOST_LOGGED);
            let body: Option<&RawValue> = body.and_then(|bytes| serde_json::from_slice(bytes).ok());
            if let Err(why) = audit.write(Line::Asked { asked: &asked, body }, true).await {
                let unwritten =
                    "what is changed is written to the audit log first, and that cannot be written";
                let error = ApiError::new(ErrorCode::Unavailable, format!("{unwritten}: {why}"));
                return Failure(error.with_hint("make room on its disk, or mend it; nothing was changed"))
                    .into_response();
            }
            let begun = Instant::now();
            let response = self.answer(request).await;
            // That it is lacking is in the daemon's log. It is done, and the client has to hear of it.
            let _ = audit.write(answered(&asked, &response, begun), false).await;
            response
        });
        carried_out.await.unwrap_or_else(|_| {
            Failure(ApiError::new(ErrorCode::Internal, "the operation failed unexpectedly")).into_response()
        })
    }
}

fn answered<'a>(asked: &'a Asked, response: &Response, begun: Instant) -> Line<'a> {
    Line::Answered {
        asked,
        status: response.status().as_u16(),
        code: response.extensions().get::<ErrorCode>().map(|code| code.as_str()),
        ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}
