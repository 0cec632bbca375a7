//! What operations of the API work with, and how they get it.

use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::tags::{self, TagChanges, Tags};
use cairn_api::text;
use cairn_api::volume::SetStatus;
use cairn_cow::{Disk, Pool, Result as CowResult};
use cairn_uring::Handle;

use super::convert;
use super::engine::Pending;
use crate::devices::Devices;
use crate::keeper::PoolFiles;
use crate::settings::{KeptStatus, encode};
use crate::volumes::Volumes;

/// Shared by all operations. A clone is the same.
pub(super) struct Context<D: Disk> {
    pub(super) volumes: Arc<Volumes<D>>,
    pub(super) files: Arc<dyn PoolFiles<D>>,
    /// None where the kernel is out of reach.
    pub(super) devices: Option<Arc<dyn Devices>>,
    pub(super) reactor: Handle,
    /// Held by an operation that looks at names, types or rules and then changes something on the strength of it.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl<D: Disk> Clone for Context<D> {
    fn clone(&self) -> Context<D> {
        Context {
            volumes: Arc::clone(&self.volumes),
            files: Arc::clone(&self.files),
            devices: self.devices.clone(),
            reactor: self.reactor.clone(),
            changing: Arc::clone(&self.changing),
        }
    }
}

impl<D: Disk> Context<D> {
    pub(super) fn new(
        volumes: Arc<Volumes<D>>,
        files: Arc<dyn PoolFiles<D>>,
        devices: Option<Arc<dyn Devices>>,
        reactor: Handle,
    ) -> Context<D> {
        Context { volumes, files, devices, reactor, changing: Arc::default() }
    }

    /// Runs `operation` on the reactor, from when the answer is first asked for.
    pub(super) fn run<T, F, Fut>(&self, operation: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(Context<D>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, ApiError>> + 'static,
    {
        let context = self.clone();
        Box::pin(async move {
            let reactor = context.reactor.clone();
            let Ok(answer) = reactor.spawn_with(move || operation(context)) else {
                return Err(shutting_down());
            };
            answer.await.unwrap_or_else(|_| Err(shutting_down()))
        })
    }

    /// As [`run`](Self::run), for what changes names, types or rules: one after the other.
    pub(super) fn change<T, F, Fut>(&self, operation: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(Context<D>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, ApiError>> + 'static,
    {
        self.run(async move |context| {
            let changing = Arc::clone(&context.changing);
            let _alone = changing.lock().await;
            operation(context).await
        })
    }

    /// Answers from state in memory.
    pub(super) fn look<T, F>(&self, look: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(&Volumes<D>) -> CowResult<T> + Send + 'static,
    {
        let volumes = Arc::clone(&self.volumes);
        Box::pin(async move { look(&volumes).map_err(|e| convert::error(&e)) })
    }

    /// Keeps whoever changes names, types or rules away.
    pub(super) async fn alone(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
    }

    /// The pool that holds a volume, and its name.
    pub(super) fn pool_of(&self, volume: &str) -> Result<(String, Arc<Pool<D>>), ApiError> {
        self.volumes.pools.of_volume(volume).map_err(|e| convert::error(&e))
    }
}

/// Runs what blocks on a thread where that hurts nobody.
pub(super) async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let ended = tokio::task::spawn_blocking(what).await;
    ended.unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Internal, "the operation failed unexpectedly")))
}

pub(super) fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the daemon is shutting down")
        .with_hint("try again once it is back")
}

pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, message)
}

pub(super) fn conflict(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Conflict, message)
}

pub(super) fn busy(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Busy, message)
}

/// How many volumes, in words.
pub(super) fn volumes_counted(count: u64) -> String {
    if count == 1 { "1 volume".to_owned() } else { format!("{count} volumes") }
}

/// Checks the name of a type, rule or pool.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    cairn_api::name::check(name).map_err(invalid)
}

/// Checks why something is so, in a user's words: one line that terminals can show.
pub(super) fn check_reason(reason: &str) -> Result<(), ApiError> {
    text::check_line("a reason", reason, text::MAX_REASON_CHARS).map_err(invalid)
}

/// What is kept of the status that an administrator gives a `what`, if it is not that all is well.
pub(super) fn status_to_keep(
    what: &str,
    status: SetStatus,
    reason: Option<String>,
) -> Result<Option<String>, ApiError> {
    let reason = reason.filter(|reason| !reason.is_empty());
    reason.as_deref().map_or(Ok(()), check_reason)?;
    if status != SetStatus::Available {
        return Ok(Some(encode(&KeptStatus { status, reason })));
    }
    match reason {
        Some(_) => Err(conflict(format!("a {what} that is available has no reason for it"))),
        None => Ok(None),
    }
}

/// Checks changes to the tags that something has now.
pub(super) fn check_tag_changes(now: &Tags, changes: &TagChanges) -> Result<(), ApiError> {
    tags::check_changes(changes).map_err(invalid)?;
    tags::check_room(now, changes).map_err(conflict)
}

/// Checks what a user says about something that is not the engine's.
pub(super) fn check_description(description: &str) -> Result<(), ApiError> {
    text::check_line("a description", description, text::MAX_DESCRIPTION_CHARS).map_err(invalid)
}
