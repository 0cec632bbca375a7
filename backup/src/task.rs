//! Tasks that end with whoever waits for them.

use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};

/// A task that is aborted when it is dropped.
pub(crate) struct Task<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Task<T> {
    pub(crate) fn spawn(work: impl Future<Output = Result<T>> + Send + 'static) -> Task<T> {
        Task(tokio::spawn(work))
    }

    pub(crate) async fn done(mut self) -> Result<T> {
        (&mut self.0).await.map_err(task_failed)?
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Store, "a task of the operation died").because(error)
}
