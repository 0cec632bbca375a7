//! The test server.

use std::cell::RefCell;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cairn_nbd::{Limits, SessionErrorKind, SessionSummary, Shutdown, serve};
use cairn_uring::net::Listener;
use cairn_uring::{Config, Reactor, ReactorThread, spawn};

use super::disk::{Knobs, RamExports};
use super::raw::Raw;

/// How long a test waits for what must happen, before it fails rather than hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a session ended.
pub type Ended = Result<SessionSummary, SessionErrorKind>;

/// A server on a Unix socket. Dropping it ends all sessions and checks that nothing is left of them.
pub struct Server {
    dir: tempfile::TempDir,
    reactor: Option<ReactorThread>,
    stop: Shutdown,
    ended: Receiver<Ended>,
    pub knobs: Arc<Knobs>,
}

impl Server {
    pub fn start() -> Self {
        Self::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(dir.path().join("nbd.sock")).expect("a socket");
        let reactor = Reactor::start(Config { name: "nbd-test".to_owned(), ..Config::default() })
            .expect("a reactor thread");
        let (knobs, stop) = (Arc::new(Knobs::default()), Shutdown::new());
        let (ended_sender, ended) = channel();
        let root = {
            let (knobs, stop) = (Arc::clone(&knobs), stop.clone());
            move || run(listener, knobs, limits, stop, ended_sender)
        };
        drop(reactor.handle().spawn_with(root).expect("a running reactor"));
        Self { dir, reactor: Some(reactor), stop, ended, knobs }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }

    /// A connection that has sent nothing yet.
    pub fn connect(&self) -> Raw {
        Raw::new(UnixStream::connect(self.socket()).expect("the server listens"))
    }

    /// How the next session to end did.
    pub fn ended(&self) -> Ended {
        self.ended.recv_timeout(PATIENCE).expect("a session ends in time")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.knobs.gate.trigger();
        self.knobs.sessions.trigger();
        self.stop.trigger();
        let joined = self.reactor.take().map(ReactorThread::join);
        if !std::thread::panicking() {
            assert!(matches!(joined, Some(Ok(()))), "the reactor failed: {joined:?}");
            assert_eq!(self.knobs.open.load(Ordering::SeqCst), 0, "exports left open");
        }
    }
}

/// Accepts until `stop`, then waits for every session.
async fn run(
    listener: UnixListener,
    knobs: Arc<Knobs>,
    limits: Limits,
    stop: Shutdown,
    ended: Sender<Ended>,
) {
    let sessions = knobs.sessions.clone();
    let exports = Rc::new(RamExports::new(knobs));
    let running = Rc::new(RefCell::new(Vec::new()));
    let listener = Listener::unix(listener).expect("a listener");
    let accepting = {
        let running = Rc::clone(&running);
        spawn(async move {
            while let Ok(stream) = listener.accept().await {
                let (exports, limits) = (Rc::clone(&exports), limits.clone());
                let (sessions, ended) = (sessions.clone(), ended.clone());
                let session = spawn(async move {
                    let result = serve(stream, &*exports, &limits, &sessions).await;
                    // Nobody may be waiting for it.
                    let _ = ended.send(result.map_err(|e| e.kind()));
                });
                running.borrow_mut().push(session);
            }
        })
    };
    stop.wait().await;
    accepting.abort();
    for session in running.take() {
        session.await;
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
