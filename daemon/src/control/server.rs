//! The control thread: accepts on the control socket and serves HTTP until told to stop.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use cairn_uring::net::Credentials;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::crowd::Crowd;
use super::door::{Door, Porter};
use super::engine::Engine;
use super::routes;
use crate::events::Events;

/// Connections served at once; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take to send a request's head, or to stay connected without sending one.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long requests under way may take to end once the daemon stops.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked what has expired.
const TIDY_PAUSE: Duration = Duration::from_secs(60);
/// Pause after a failed accept: out of descriptors, most likely, which passes as connections close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The running control side. Dropping it without [`ControlThread::stop`] stops it too, but does not wait.
#[derive(Debug)]
pub struct ControlThread {
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
    runtime: Handle,
    path: Option<PathBuf>,
}

impl ControlThread {
    /// For other threads: what is spawned there runs on the control thread, if that still runs.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Stops accepting, lets requests under way end for at most five seconds, ends the thread and removes the socket.
    pub fn stop(self) {
        // The thread may have ended by itself; then there is nobody to tell.
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
        if let Some(path) = &self.path {
            remove_socket(path);
        }
    }
}

fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the control socket");
    }
}

/// Starts the control thread on `listener` (see [`super::bind_unix`]). The socket's file is at `path`, unless it is not the
/// daemon's to remove.
///
/// # Errors
/// When the thread or its runtime cannot be created.
pub fn start(
    listener: UnixListener,
    path: Option<&Path>,
    engine: Arc<dyn Engine>,
    porter: Porter,
) -> io::Result<ControlThread> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = watch::channel(false);
    let events = engine.events();
    let router = routes::guarded(Arc::clone(&engine));
    let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
        drop(runtime.spawn(tidy(engine)));
        if let Err(error) = runtime.block_on(serve(listener, router, porter, stopped, &events)) {
            tracing::error!(%error, "the control socket cannot be served");
        }
        // Operations that outlive their clients are the engine's to finish; this only drops the waiting for them.
        runtime.shutdown_background();
    })?;
    Ok(ControlThread { stop, thread, runtime: handle, path: path.map(Path::to_owned) })
}

/// Has deleted volumes expire, until the runtime ends.
async fn tidy(engine: Arc<dyn Engine>) {
    loop {
        tokio::time::sleep(TIDY_PAUSE).await;
        if let Err(error) = engine.expire().await {
            tracing::warn!(%error, "volumes in the recycle bin that have expired are still there");
        }
    }
}

async fn serve(
    listener: UnixListener,
    router: Router,
    porter: Porter,
    mut stopped: watch::Receiver<bool>,
    events: &Events,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let crowd = Crowd::default();
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            // A dropped sender means that nobody is left to say stop: stop.
            _ = stopped.wait_for(|stop| *stop) => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let who = match Credentials::of_peer(stream.as_fd()) {
                    Ok(who) => Arc::new(who),
                    Err(error) => {
                        tracing::warn!(%error, "a control connection is closed: it is not known who it is");
                        continue;
                    }
                };
                let Some(one_of) = crowd.enter(&who, &porter.access) else {
                    tracing::debug!(uid = who.uid, "a control connection is closed: its user has too many");
                    continue;
                };
                let door = Door {
                    router: router.clone(),
                    porter: porter.clone(),
                    who,
                    first: Arc::new(true.into()),
                };
                let service = service_fn(move |request| {
                    let door = door.clone();
                    async move { Ok::<_, Infallible>(door.serve(request).await) }
                });
                let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
                tokio::spawn(async move {
                    let _places = (place, one_of);
                    if let Err(error) = connection.await {
                        // A client that went away or was cut off for its slowness: its own affair.
                        tracing::debug!(%error, "a control connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a control connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // Who listens would stay for ever.
    events.close();
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("control requests were still under way and have been cut off");
    }
    Ok(())
}
