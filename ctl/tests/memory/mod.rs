//! An engine that only remembers, so that the control side can be tested from outside without a pool.
//!
//! It follows the API's rules where a test can see them; times advance by one minute an operation from a fixed start.
//! Volumes and snapshots are in [`state`], images in [`images`], volumes that are being filled in [`stagings`], their users in [`attachments`], types and limits in
//! [`types`], pools in [`pools`]; [`engine`] hands the API's calls to them.

mod attachments;
mod engine;
mod images;
mod pools;
mod stagings;
mod state;
mod types;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn_api::attachment::Attachment;
use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::info::{Info, NbdEndpoint};
use cairn_api::pool::CheckReport;
use cairn_api::snapshot::DiffExtent;
use cairnd::control::{ControlThread, Pending, bind_unix, start};
use jiff::Timestamp;
use tokio::sync::watch;

use state::State;

/// Starts a control server over a fresh [`MemoryEngine`] on the socket `path`.
pub(crate) fn serve(path: &Path) -> (Arc<MemoryEngine>, ControlThread) {
    let engine = Arc::new(MemoryEngine::new(path));
    let listener = bind_unix(path).expect("the socket binds");
    let thread = start(listener, path, engine.clone()).expect("the server starts");
    (engine, thread)
}

/// See the module.
pub(crate) struct MemoryEngine {
    info: Info,
    state: Arc<Mutex<State>>,
    /// Whether consumers have I/O in flight that a detach waits for.
    in_flight: watch::Sender<bool>,
}

fn error(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError::new(code, message)
}

fn check_name(name: &str) -> Result<(), ApiError> {
    cairn_api::name::check(name).map_err(|e| error(ErrorCode::InvalidArgument, e))
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

impl MemoryEngine {
    fn new(control: &Path) -> MemoryEngine {
        let started: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let folder = control.parent().expect("a folder");
        let info = Info {
            version: "0.1.0".into(),
            pid: std::process::id(),
            started,
            pool: "/pool.cairn".into(),
            control: control.display().to_string(),
            nbd: vec![NbdEndpoint::Unix(folder.join("nbd.sock").display().to_string())],
        };
        MemoryEngine {
            info,
            state: Arc::new(Mutex::new(State::new(started))),
            in_flight: watch::Sender::new(false),
        }
    }

    /// The next operation fails like this.
    pub(crate) fn fail_next(&self, code: ErrorCode, message: &str, hint: Option<&str>) {
        let error = ApiError::new(code, message);
        self.lock().fail = Some(match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        });
    }

    /// `fio` has so many connections to a volume, instead of those it had.
    pub(crate) fn connect(&self, volume: &str, connections: u64) {
        self.lock().connect(volume, connections);
    }

    /// Somebody uses a volume or snapshot.
    pub(crate) fn consume(&self, attachment: Attachment) {
        self.lock().attachments.push(attachment);
    }

    /// From now on there is, or is no longer, I/O in flight that a detach waits for.
    pub(crate) fn set_in_flight(&self, in_flight: bool) {
        self.in_flight.send_replace(in_flight);
    }

    /// A volume's requests had to wait so often, for so many microseconds, and so many do now.
    pub(crate) fn set_waits(&self, volume: &str, waits: (u64, u64, u64)) {
        self.lock().heads.get_mut(volume).expect("the volume").waits = waits;
    }

    /// So much of a pool is in use.
    pub(crate) fn set_used(&self, pool: &str, used: u64) {
        self.lock().pool_mut(pool).expect("the pool").used = used;
    }

    /// A pool cannot be opened.
    pub(crate) fn break_pool(&self, pool: &str, why: &str) {
        self.lock().pool_mut(pool).expect("the pool").broken = Some(why.to_owned());
    }

    /// What checks find from now on.
    pub(crate) fn set_report(&self, report: CheckReport) {
        self.lock().report = report;
    }

    /// What diffs find from now on.
    pub(crate) fn set_diff(&self, extents: Vec<DiffExtent>) {
        self.lock().diff = extents;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn answer<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Pending<T> {
        let mut state = self.lock();
        let answer = match state.fail.take() {
            Some(error) => Err(error),
            None => work(&mut state),
        };
        Box::pin(async move { answer })
    }
}
