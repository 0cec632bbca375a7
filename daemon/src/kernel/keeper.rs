//! The thread that replaces lost connections, and how it hears of them.
//!
//! Every session of a device has a [`Link`], which says when and how it ended. A connection that was lost, for whatever
//! reason, is replaced: after a pause that grows as long as that does not help, since a session that fails at once
//! would otherwise be started without end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use cairn_nbd::{SessionEnd, SessionError, SessionSummary};

use super::attach::Shared;

/// Which attachment of this daemon's life a link belongs to. A device's index can come back, this can't.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct AttachmentId(pub(super) u64);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Event {
    /// A session ended.
    Ended(AttachmentId, LinkEnd),
    /// No connection is to be replaced any more.
    Stop,
}

/// How a session of a device ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkEnd {
    /// The kernel said that it is done: someone detached the device.
    Disconnected,
    /// The daemon is stopping. The device waits for the next one.
    Shutdown,
    /// Anything else: the device wants a new connection.
    Lost,
}

impl From<&Result<SessionSummary, SessionError>> for LinkEnd {
    fn from(result: &Result<SessionSummary, SessionError>) -> LinkEnd {
        match result.as_ref().map(|summary| summary.end) {
            Ok(SessionEnd::Disconnected) => LinkEnd::Disconnected,
            Ok(SessionEnd::Shutdown) => LinkEnd::Shutdown,
            _ => LinkEnd::Lost,
        }
    }
}

/// One session's tie to its device. Whoever serves the session says how it ended; dropping the link says
/// [`LinkEnd::Lost`].
#[derive(Debug)]
#[must_use = "a link that is dropped is a connection lost"]
pub struct Link {
    attachment: AttachmentId,
    end: LinkEnd,
    events: Sender<Event>,
}

impl Link {
    pub(super) fn new(attachment: AttachmentId, events: Sender<Event>) -> Link {
        Link { attachment, end: LinkEnd::Lost, events }
    }

    /// The session has ended, and every request in it.
    pub fn ended(mut self, end: LinkEnd) {
        self.end = end;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // With nobody to hear it, nothing is replaced.
        let _ = self.events.send(Event::Ended(self.attachment, self.end));
    }
}

/// Runs until it is told to stop.
pub(super) fn keep(shared: &Arc<Shared>, events: &Receiver<Event>) {
    let mut due: BTreeMap<AttachmentId, Instant> = BTreeMap::new();
    loop {
        let event = match due.values().min() {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(next) => events.recv_timeout(next.saturating_duration_since(Instant::now())),
        };
        match event {
            Ok(Event::Ended(attachment, end)) => {
                if let Some(pause) = shared.link_ended(attachment, end) {
                    due.entry(attachment).or_insert_with(|| Instant::now() + pause);
                }
            }
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let now = Instant::now();
                let ready: Vec<AttachmentId> =
                    due.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
                for attachment in ready {
                    due.remove(&attachment);
                    if let Some(pause) = shared.replace_lost(attachment) {
                        due.insert(attachment, Instant::now() + pause);
                    }
                }
            }
        }
    }
}
