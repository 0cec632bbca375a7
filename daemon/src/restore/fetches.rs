//! Fetching chunks: each by one task at a time whoever wants it, with patience, and what is wrong for people.
//!
//! What was fetched is in memory until it is in the pool. Readers' fetches take [`room`](super::room) for it, and of the
//! whole daemon's have a bounded number of chunks; the background of each volume has a number of its own and asks for
//! nothing while readers wait.
//!
//! Whatever fails in a way that may pass, a panic below too, is tried again only after a pause.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::chunks::Chunks;
use super::room::{Place, Room};
use super::worker::Access;
use crate::seldom::Seldom;

/// How long a read waits for the repository before it fails. Clients have time limits of their own, often of a minute.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The [`Pauses`] after failures that may pass.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a chunk that is damaged is not asked for again: a reader that tries on and on gets its error at once, and what
/// was mended in the repository is seen soon.
const DAMAGE_REMEMBERED: Duration = Duration::from_secs(10);
/// How long the background makes way for readers at most, each time.
const GIVE_WAY: Duration = Duration::from_millis(50);

/// A fault in what is below may show in every read. Each panic also writes its own lines, as everywhere.
static PANICS: Seldom<()> = Seldom::new(Duration::from_secs(60));

/// A future of a [`Source`].
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send + 'a>>;

/// Where a volume's contents come from.
pub(crate) trait Source: Send + Sync + 'static {
    /// The bytes of a range, verified.
    fn read(&self, offset: u64, len: usize) -> Answer<'_, Bytes>;

    /// The parts of a range that may hold anything but zeroes, in order.
    fn data(&self, range: Range<u64>) -> Answer<'_, Vec<Range<u64>>>;

    /// Keeps all of it there until [`release`](Self::release), whoever may delete it. To be done again every
    /// [`HOLD_RENEWAL`](cairn_backup::HOLD_RENEWAL).
    fn hold(&self) -> Answer<'_, ()>;

    /// It is needed no more.
    fn release(&self) -> Answer<'_, ()>;
}

/// Why something cannot be had from the repository; a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// The repository cannot be reached or opened: it may come back.
    Away(String),
    /// It is there, and what it has of this is damaged.
    Damaged(String),
}

/// The pauses between tries of something, each twice as long as the one before, up to the longest.
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses(FIRST_PAUSE)
    }
}

impl Pauses {
    pub(super) fn next(&mut self) -> Duration {
        let next = (2 * self.0).min(LONGEST_PAUSE);
        std::mem::replace(&mut self.0, next)
    }
}

/// What a [`Source`] answers, where a panic is an answer, too: what is below it is large and not all ours, and neither a
/// volume's background nor its readers may end for that. It may pass, as when the repository is away.
pub(super) async fn asked<T>(answer: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    // Nothing sees what a panic left behind of it: it is not polled again.
    AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> Trouble {
    let what = panic.downcast_ref::<&str>().copied();
    let what =
        what.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of unknown kind");
    if let Some(held_back) = PANICS.due(()) {
        tracing::error!("a panic while a repository was read: {what}{held_back}");
    }
    Trouble::Away(format!("an internal error: {what}"))
}

/// As [`asked`], until `deadline`.
async fn asked_until<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::time::timeout_at(deadline, asked(answer)).await.unwrap_or_else(|_| {
        let secs = PATIENCE.as_secs();
        Err(Trouble::Away(format!("the repository has not answered for {secs} seconds")))
    })
}

/// A chunk's contents, and the room they take.
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    _place: Option<Place>,
}

type Outcome = Result<Arc<Fetched>, Trouble>;

/// Whether any of these still waits.
fn anybody(waiting: Option<&Vec<oneshot::Sender<Outcome>>>) -> bool {
    waiting.is_some_and(|waiting| waiting.iter().any(|reader| !reader.is_closed()))
}

/// Who wants a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Urgency {
    Reader,
    Background,
}

/// The fetches of one volume.
pub(super) struct Fetches {
    /// None when the restore is over: connections may keep all this for long, and a repository keeps chunks in memory.
    source: Mutex<Option<Arc<dyn Source>>>,
    access: Access,
    room: Room,
    chunks: Chunks,
    /// Who waits for each chunk that is being fetched.
    waiting: Mutex<HashMap<u64, Vec<oneshot::Sender<Outcome>>>>,
    damaged: Mutex<BTreeMap<u64, (String, Instant)>>,
    away: Mutex<Option<String>>,
    readers: AtomicUsize,
    no_readers: Notify,
}

/// A reader that waits.
struct Waiting<'a>(&'a Fetches);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.no_readers.notify_waiters();
        }
    }
}

/// A fetch under way: when it ends in any way, nobody waits for it any more.
struct UnderWay {
    fetches: Arc<Fetches>,
    chunk: u64,
    /// Or nobody waited for an answer.
    answered: bool,
}

impl UnderWay {
    fn answer(mut self, outcome: &Outcome) {
        self.answered = true;
        let waiting = self.fetches.waiting.lock().remove(&self.chunk);
        for reader in waiting.into_iter().flatten() {
            // It may have lost its patience.
            let _ = reader.send(outcome.clone());
        }
    }

    /// Ends it if nobody waits for it, so that whoever comes next begins another. False if somebody does.
    fn give_up(&mut self) -> bool {
        let mut waiting = self.fetches.waiting.lock();
        if anybody(waiting.get(&self.chunk)) {
            return false;
        }
        waiting.remove(&self.chunk);
        self.answered = true;
        true
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.answered {
            self.fetches.waiting.lock().remove(&self.chunk);
        }
    }
}

impl Fetches {
    pub(super) fn new(source: Arc<dyn Source>, access: Access, room: Room, chunks: Chunks) -> Arc<Fetches> {
        Arc::new(Fetches {
            source: Mutex::new(Some(source)),
            access,
            room,
            chunks,
            waiting: Mutex::default(),
            damaged: Mutex::default(),
            away: Mutex::default(),
            readers: AtomicUsize::new(0),
            no_readers: Notify::new(),
        })
    }

    /// The restore is over.
    pub(super) fn close(&self) {
        self.source.lock().take();
    }

    pub(super) fn source(&self) -> Result<Arc<dyn Source>, Trouble> {
        self.source.lock().clone().ok_or_else(|| Trouble::Away("the restore is over".to_owned()))
    }

    /// Whether the daemon stops, and nothing is fetched any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.access.is_stopped()
    }

    fn is_wanted(&self, chunk: u64) -> bool {
        anybody(self.waiting.lock().get(&chunk))
    }

    /// A chunk's contents; nothing when the fetch was given up, since the chunk was written meanwhile or the daemon stops.
    /// Whoever still wants it then had a fetch that died, and pauses before the next.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        chunk: u64,
        urgency: Urgency,
    ) -> Result<Option<Arc<Fetched>>, Trouble> {
        if urgency == Urgency::Reader
            && let Some((why, since)) = self.damaged.lock().get(&chunk)
            && since.elapsed() < DAMAGE_REMEMBERED
        {
            return Err(Trouble::Damaged(why.clone()));
        }
        let _waiting = (urgency == Urgency::Reader).then(|| {
            self.readers.fetch_add(1, Ordering::AcqRel);
            Waiting(self)
        });
        match self.join(chunk, urgency)?.await {
            Ok(outcome) => outcome.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Waits for the fetch of a chunk, which is begun if it is not under way.
    fn join(self: &Arc<Self>, chunk: u64, urgency: Urgency) -> Result<oneshot::Receiver<Outcome>, Trouble> {
        if self.is_stopped() {
            return Err(Trouble::Away("the daemon is stopping".to_owned()));
        }
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let others = waiting.entry(chunk).or_default();
        others.push(answer);
        if others.len() > 1 {
            return Ok(answered);
        }
        drop(waiting);
        let mut under_way = UnderWay { fetches: Arc::clone(self), chunk, answered: false };
        self.access.spawn(async move {
            let fetches = Arc::clone(&under_way.fetches);
            let place = match urgency {
                Urgency::Reader => fetches.room.take(|| fetches.away.lock().is_some()).await,
                Urgency::Background => None,
            };
            if under_way.give_up() {
                // Room was so long in coming that nobody waits any more.
                return;
            }
            let fetched = fetches.try_hard(chunk).await;
            under_way.answer(&fetched.map(|bytes| Arc::new(Fetched { bytes, _place: place })));
        });
        Ok(answered)
    }

    /// Tries to get a chunk as long as somebody waits for it and may have patience left.
    async fn try_hard(&self, chunk: u64) -> Result<Bytes, Trouble> {
        let bytes = self.chunks.bytes(&(chunk..chunk + 1));
        let len = (bytes.end - bytes.start) as usize;
        let deadline = Instant::now() + PATIENCE;
        let mut pauses = Pauses::default();
        loop {
            let source = self.source()?;
            let read = asked_until(deadline, async { source.read(bytes.start, len).await }).await;
            self.note(chunk, &read);
            let pause = pauses.next();
            match read {
                Err(Trouble::Away(_)) if Instant::now() + pause < deadline && self.is_wanted(chunk) => {
                    tokio::time::sleep(pause).await;
                }
                read => return read,
            }
        }
    }

    fn note<T>(&self, chunk: u64, outcome: &Result<T, Trouble>) {
        match outcome {
            Ok(_) => {
                self.damaged.lock().remove(&chunk);
                *self.away.lock() = None;
            }
            Err(Trouble::Away(why)) => *self.away.lock() = Some(why.clone()),
            Err(Trouble::Damaged(why)) => {
                self.damaged.lock().insert(chunk, (why.clone(), Instant::now()));
                *self.away.lock() = None;
            }
        }
    }

    /// These chunks were written: nobody need fetch them any more.
    pub(super) fn needless(&self, chunks: &Range<u64>) {
        let mut waiting = self.waiting.lock();
        if !waiting.is_empty() {
            // Who waits finds the channel closed and looks again.
            waiting.iter_mut().filter(|(chunk, _)| chunks.contains(chunk)).for_each(|(_, w)| w.clear());
        }
        drop(waiting);
        let mut damaged = self.damaged.lock();
        if !damaged.is_empty() {
            damaged.retain(|chunk, _| !chunks.contains(chunk));
        }
    }

    /// Which parts of a range are not holes. The repository is asked once.
    pub(super) async fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Trouble> {
        let source = self.source()?;
        let data = asked_until(Instant::now() + PATIENCE, async { source.data(range).await }).await;
        // Damage is noted by the chunks that it hurts.
        *self.away.lock() = match &data {
            Err(Trouble::Away(why)) => Some(why.clone()),
            _ => None,
        };
        data
    }

    /// Waits until no reader waits, or for a moment.
    pub(super) async fn give_way(&self) {
        let calm = self.no_readers.notified();
        if self.readers.load(Ordering::Acquire) > 0 {
            // Readers that never end must not stop the restore.
            let _ = tokio::time::timeout(GIVE_WAY, calm).await;
        }
    }

    /// What is wrong, in one sentence.
    pub(super) fn problem(&self) -> Option<String> {
        // What is damaged shows again when it is back.
        if let Some(why) = &*self.away.lock() {
            return Some(format!("the repository cannot be read: {why}"));
        }
        let damaged = self.damaged.lock();
        let (chunk, (why, _)) = damaged.first_key_value()?;
        let at = chunk * self.chunks.chunk;
        let more = match damaged.len() - 1 {
            0 => String::new(),
            1 => ", and 1 more place".to_owned(),
            more => format!(", and {more} more places"),
        };
        Some(format!("the backup is damaged at byte {at}{more}: {why}"))
    }
}
