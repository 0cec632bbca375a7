//! The thread that tells the service manager how the daemon is.
//!
//! Every few seconds it says what has changed in the [summary](super::summary()). When the manager wants a sign of life
//! (`WatchdogSec=`), it gives one at half of that time, and only once every thread that serves has answered since the last
//! one: the manager kills and restarts a daemon of which a single one hangs.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use cairn_uring::Handle;
use sd_notify::NotifyState;

use super::Manager;

/// How often it is looked whether there is something new to say.
const PERIOD: Duration = Duration::from_secs(5);

/// The threads that serve, to be asked whether they still do.
pub(crate) struct Pulse {
    reactors: Vec<Handle>,
    control: tokio::runtime::Handle,
}

impl Pulse {
    pub(crate) fn new(reactors: Vec<Handle>, control: tokio::runtime::Handle) -> Pulse {
        Pulse { reactors, control }
    }

    /// Waits until every thread has answered, however long that takes. Those that have not when `patience` ends are named in
    /// the log.
    ///
    /// Returns whether all did: the others are gone.
    fn wait(&self, patience: Duration) -> bool {
        let (answer, answers) = mpsc::channel();
        for (number, reactor) in self.reactors.iter().enumerate() {
            let answer = answer.clone();
            // One that has stopped drops this, and with it what would answer.
            drop(reactor.spawn_with(move || async move { answer.send(Some(number)) }));
        }
        self.control.spawn(async move { answer.send(None) });
        let mut missing: Vec<Option<usize>> = (0..self.reactors.len()).map(Some).chain([None]).collect();
        let deadline = Instant::now() + patience;
        let mut said = false;
        while !missing.is_empty() {
            match next(&answers, deadline, said) {
                Ok(answered) => missing.retain(|thread| *thread != answered),
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    said = true;
                    tracing::error!(threads = names(&missing), "threads of the daemon do not answer");
                }
            }
        }
        if said {
            tracing::warn!("all threads of the daemon answer again");
        }
        true
    }
}

/// The next answer, before the deadline unless that was waited for already.
fn next(
    answers: &Receiver<Option<usize>>,
    deadline: Instant,
    passed: bool,
) -> Result<Option<usize>, RecvTimeoutError> {
    if passed {
        return answers.recv().map_err(RecvTimeoutError::from);
    }
    answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
}

fn names(threads: &[Option<usize>]) -> String {
    let names = threads.iter().map(|thread| match thread {
        Some(number) => format!("reactor-{number}"),
        None => "control".to_owned(),
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The thread. It ends when this is dropped, at the latest with the process.
pub(crate) struct Watch {
    _stop: Sender<()>,
}

impl Watch {
    /// Starts it, if anybody listens. `watchdog` is the time within which the manager wants a sign of life.
    pub(crate) fn start(
        manager: Arc<Manager>,
        watchdog: Option<Duration>,
        pulse: Pulse,
        status: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Option<Watch>> {
        if !manager.listens() {
            return Ok(None);
        }
        let (stop, stopped) = mpsc::channel();
        let beat = watchdog.filter(|limit| !limit.is_zero()).map(|limit| limit / 2);
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch(&manager, beat, &pulse, status, &stopped))?;
        Ok(Some(Watch { _stop: stop }))
    }
}

fn watch(
    manager: &Manager,
    beat: Option<Duration>,
    pulse: &Pulse,
    status: impl Fn() -> String,
    stopped: &Receiver<()>,
) {
    let mut said = String::new();
    let mut due = Instant::now();
    loop {
        let is = status();
        if is != said {
            manager.tell(&[NotifyState::Status(&is)]);
            said = is;
        }
        let mut pause = PERIOD;
        if let Some(beat) = beat {
            if Instant::now() >= due && pulse.wait(beat) {
                manager.tell(&[NotifyState::Watchdog]);
                due = Instant::now() + beat;
            }
            pause = pause.min(due.saturating_duration_since(Instant::now()).max(beat / 10));
        }
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use cairn_uring::{Config, Reactor, ReactorThread};

    use super::super::manager::tests::{next as message, pair};
    use super::*;

    /// A limit, and a time in which many signs of life must have come if any do.
    const LIMIT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_millis(500);

    struct Threads {
        reactors: Vec<ReactorThread>,
        control: tokio::runtime::Handle,
    }

    fn threads() -> (Threads, Pulse) {
        let reactors: Vec<_> =
            (0..2).map(|_| Reactor::start(Config::default()).expect("a reactor")).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let control = runtime.handle().clone();
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let handles = reactors.iter().map(|reactor| reactor.handle().clone()).collect();
        let pulse = Pulse::new(handles, control.clone());
        (Threads { reactors, control }, pulse)
    }

    fn is_quiet(end: &UnixDatagram) -> bool {
        end.set_read_timeout(Some(LONG)).expect("a limit");
        let mut buf = [0; 256];
        let quiet = end.recv(&mut buf).is_err();
        end.set_read_timeout(None).expect("no limit");
        quiet
    }

    /// Drops what was said before a thread began to hang.
    fn drain(end: &UnixDatagram) {
        end.set_nonblocking(true).expect("a flag");
        while end.recv(&mut [0; 256]).is_ok() {}
        end.set_nonblocking(false).expect("a flag");
    }

    #[test]
    fn what_changes_is_said_and_nothing_twice() {
        let (manager, end, _folder) = pair();
        let (_threads, pulse) = threads();
        let watch =
            Watch::start(Arc::new(manager), None, pulse, || "all is well".to_owned()).expect("a thread");
        assert!(watch.is_some());
        assert_eq!(message(&end), "STATUS=all is well");
        assert!(is_quiet(&end), "nothing has changed, and nobody wants a sign of life");
    }

    #[test]
    fn a_reactor_that_hangs_ends_the_signs_of_life() {
        let (manager, end, _folder) = pair();
        let (threads, pulse) = threads();
        let _watch = Watch::start(Arc::new(manager), Some(LIMIT), pulse, String::new).expect("a thread");
        for _ in 0..3 {
            assert_eq!(message(&end), "WATCHDOG=1");
        }
        let (go_on, hangs) = mpsc::channel::<()>();
        let reactor = threads.reactors[1].handle();
        let hanging = reactor.spawn_with(move || async move { hangs.recv().is_err() }).expect("runs");
        thread::sleep(LIMIT);
        drain(&end);
        assert!(is_quiet(&end), "the other reactor and the control thread still answer");
        drop(go_on);
        assert!(hanging.wait().expect("it goes on"));
        assert_eq!(message(&end), "WATCHDOG=1");
    }

    #[test]
    fn so_does_the_control_thread() {
        let (manager, end, _folder) = pair();
        let (threads, pulse) = threads();
        let _watch = Watch::start(Arc::new(manager), Some(LIMIT), pulse, String::new).expect("a thread");
        assert_eq!(message(&end), "WATCHDOG=1");
        let (go_on, hangs) = mpsc::channel::<()>();
        threads.control.spawn(async move { hangs.recv().is_err() });
        thread::sleep(LIMIT);
        drain(&end);
        assert!(is_quiet(&end), "the reactors still answer");
        drop(go_on);
        assert_eq!(message(&end), "WATCHDOG=1");
    }

    #[test]
    fn threads_that_are_gone_do_not_answer() {
        let (Threads { mut reactors, .. }, pulse) = threads();
        assert!(pulse.wait(LONG));
        let last = reactors.pop().expect("two");
        last.handle().shutdown();
        last.join().expect("ends");
        assert!(!pulse.wait(LONG));
        assert_eq!(names(&[Some(1), None]), "reactor-1, control");
    }
}
