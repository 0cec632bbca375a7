//! The audit log: who asked for which change and what came of it, a line of JSON each, only ever appended.
//!
//! ```text
//! request ─► "asked", on the disk ─► carried out ─► "answered", written ─► the client's answer
//! ```
//!
//! So nothing is changed that the log does not have, however the daemon or the machine ends; and while the log cannot be
//! written, nothing is changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::seldom::Seldom;

/// Lines that wait to be written. One that comes when there are so many is refused.
const MOST_WAITING: usize = 4096;
/// Who may read the log: the daemon's user, and its group.
const MODE: u32 = 0o640;

static FAILURES: Seldom<()> = Seldom::new(Duration::from_secs(10));

/// A request's part of a line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// The same in both lines of a request, and another for each of a daemon.
    pub(crate) request: u64,
    pub(crate) uid: u32,
    pub(crate) pid: i32,
    pub(crate) method: String,
    pub(crate) path: String,
}

/// A line, but for its time.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Line<'a> {
    /// The daemon writes to the log from now on.
    Started { version: &'a str, pid: u32 },
    /// A change is asked for.
    Asked {
        #[serde(flatten)]
        asked: &'a Asked,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<&'a RawValue>,
    },
    /// That came of it.
    Answered {
        #[serde(flatten)]
        asked: &'a Asked,
        status: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        ms: u64,
    },
    /// An NBD client uses an export, or may not.
    Opened {
        export: &'a str,
        client: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        refused: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct Dated<'a> {
    time: Timestamp,
    #[serde(flatten)]
    line: Line<'a>,
}

enum Order {
    Write { line: Vec<u8>, durable: bool, done: Option<oneshot::Sender<Result<(), String>>> },
    Reopen,
}

/// The log. Its lines are written by a thread of its own, those that come together with one barrier.
#[derive(Debug)]
pub(crate) struct Audit {
    /// None once there will be no more.
    orders: Mutex<Option<SyncSender<Order>>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    requests: AtomicU64,
}

impl Audit {
    /// Appends to the file, which is made where there is none.
    ///
    /// # Errors
    /// When the file cannot be opened or written, for people.
    pub(crate) fn open(path: &Path) -> Result<Audit, String> {
        let file = open(path).map_err(|e| format!("cannot open the audit log {}: {e}", path.display()))?;
        let (orders, ordered) = sync_channel(MOST_WAITING);
        let mut log = Log { path: path.to_owned(), file, torn: false };
        let started = encoded(Line::Started { version: env!("CARGO_PKG_VERSION"), pid: std::process::id() });
        log.write(&started, true)
            .map_err(|e| format!("cannot write the audit log {}: {e}", path.display()))?;
        let writer = thread::Builder::new().name("audit".to_owned()).spawn(move || write_all(&ordered, log));
        let writer = writer.map_err(|e| format!("cannot start the audit log's thread: {e}"))?;
        Ok(Audit {
            orders: Mutex::new(Some(orders)),
            writer: Mutex::new(Some(writer)),
            requests: AtomicU64::new(1),
        })
    }

    /// Names a request.
    pub(crate) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes a line, to the disk itself where it is to be `durable`.
    ///
    /// # Errors
    /// When it is not written, for people.
    pub(crate) async fn write(&self, line: Line<'_>, durable: bool) -> Result<(), String> {
        let (done, written) = oneshot::channel();
        self.order(Order::Write { line: encoded(line), durable, done: Some(done) })?;
        written.await.unwrap_or_else(|_| Err("the daemon is stopping".to_owned()))
    }

    /// Has a line written that nobody waits for.
    pub(crate) fn note(&self, line: Line<'_>) {
        if let Err(why) = self.order(Order::Write { line: encoded(line), durable: false, done: None })
            && let Some(held_back) = FAILURES.due(())
        {
            tracing::error!("the audit log lacks a line: {why}{held_back}");
        }
    }

    /// Goes on in the file of the log's name: what was written may have been moved away.
    pub(crate) fn reopen(&self) {
        if let Err(why) = self.order(Order::Reopen) {
            tracing::warn!("the audit log is not opened again: {why}");
        }
    }

    /// Writes what waits, and no more.
    pub(crate) fn close(&self) {
        drop(self.orders.lock().take());
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the audit log's thread panicked");
        }
    }

    fn order(&self, order: Order) -> Result<(), String> {
        let orders = self.orders.lock();
        let Some(orders) = &*orders else { return Err("the daemon is stopping".to_owned()) };
        orders.try_send(order).map_err(|_| "its disk does not keep up".to_owned())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

fn encoded(line: Line<'_>) -> Vec<u8> {
    // Texts and numbers always serialise.
    let mut bytes = serde_json::to_vec(&Dated { time: Timestamp::now(), line }).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

struct Log {
    path: PathBuf,
    file: File,
    /// Whether a line was begun and not ended.
    torn: bool,
}

impl Log {
    fn write(&mut self, lines: &[u8], durable: bool) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        self.torn = true;
        self.file.write_all(lines)?;
        self.torn = false;
        if durable { self.file.sync_data() } else { Ok(()) }
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => (self.file, self.torn) = (file, false),
            Err(error) => {
                let path = self.path.display();
                tracing::error!(%path, %error, "the audit log cannot be opened again: it goes on in the old file");
            }
        }
    }
}

fn write_all(orders: &Receiver<Order>, mut log: Log) {
    while let Ok(first) = orders.recv() {
        let (mut lines, mut durable, mut waiting) = (Vec::new(), false, Vec::new());
        let mut next = Some(first);
        while let Some(order) = next.take() {
            match order {
                Order::Write { line, durable: this, done } => {
                    lines.extend_from_slice(&line);
                    durable |= this;
                    waiting.extend(done);
                    next = orders.try_recv().ok();
                }
                Order::Reopen => {
                    flush(&mut log, &mut lines, durable, &mut waiting);
                    durable = false;
                    log.reopen();
                    next = orders.try_recv().ok();
                }
            }
        }
        flush(&mut log, &mut lines, durable, &mut waiting);
    }
}

fn flush(
    log: &mut Log,
    lines: &mut Vec<u8>,
    durable: bool,
    waiting: &mut Vec<oneshot::Sender<Result<(), String>>>,
) {
    if lines.is_empty() {
        return;
    }
    let written = log.write(lines, durable).map_err(|e| format!("{}: {e}", log.path.display()));
    if let Err(why) = &written
        && let Some(held_back) = FAILURES.due(())
    {
        tracing::error!("the audit log cannot be written: {why}{held_back}");
    }
    lines.clear();
    for done in waiting.drain(..) {
        // Whoever waited may be gone.
        let _ = done.send(written.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(export: &str) -> Line<'_> {
        Line::Opened { export, client: "pid 1, uid 0", refused: None }
    }

    fn events(path: &Path) -> Vec<(String, Option<String>)> {
        let text = fs::read_to_string(path).expect("a log");
        let read = |line| {
            let value: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            value["time"].as_str().expect("a time").parse::<Timestamp>().expect("a time");
            let export = value.get("export").and_then(|export| export.as_str()).map(str::to_owned);
            (value["event"].as_str().expect("an event").to_owned(), export)
        };
        text.lines().map(read).collect()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn lines_are_appended_across_daemons_and_moved_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let audit = Audit::open(&path).expect("opens");
        runtime().block_on(async { audit.write(line("a"), true).await }).expect("written");
        assert_eq!(events(&path).len(), 2, "once it is answered it is there");
        audit.close();
        let audit = Audit::open(&path).expect("opens");
        audit.note(line("b"));
        let old = folder.path().join("audit.log.1");
        fs::rename(&path, &old).expect("moves");
        audit.note(line("c"));
        audit.reopen();
        audit.note(line("d"));
        audit.close();
        let exports = |path| events(path).into_iter().filter_map(|(_, export)| export).collect::<Vec<_>>();
        assert_eq!(exports(&old), ["a", "b", "c"]);
        assert_eq!(exports(&path), ["d"]);
        let after = runtime().block_on(audit.write(line("e"), false));
        assert!(after.expect_err("it is closed").contains("stopping"));
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let error = Audit::open(Path::new("/dev/full")).expect_err("it is full");
        assert!(error.contains("/dev/full"), "{error}");
        let error = Audit::open(Path::new("/no/such/folder/log")).expect_err("no folder");
        assert!(error.contains("cannot open"), "{error}");
        let file = open(Path::new("/dev/full")).expect("opens");
        let mut log = Log { path: "/dev/full".into(), file, torn: false };
        let (done, written) = oneshot::channel();
        flush(&mut log, &mut b"x\n".to_vec(), true, &mut vec![done]);
        assert!(written.blocking_recv().expect("an answer").expect_err("full").contains("/dev/full"));
        assert!(log.torn, "what comes next begins a line of its own");
    }
}
