//! Bulk transfers give way to volumes' clients.
//!
//! Snapshots and images are read, and what is imported or restored is written, by whoever copies all of it: as fast as it
//! can, in large requests, many at once. A client of a volume that comes in between waits behind them, at the disk, at
//! its reactor, and for a processor. So as long as volumes have clients at work, bulk requests are carried out in small
//! pieces, one at a time in the whole daemon, with a rest after each. Otherwise they go on as they come.
//!
//! The rest matters as much as the piece. What never pauses uses up its share of a processor, and the kernel then lets it
//! wait for milliseconds where a thread that sleeps most of the time runs at once: the reactor, and with it every client;
//! and whoever is sent the pieces computes for as long as they come.
//!
//! Small reads are no transfer: a snapshot may be somebody's disk, too.

use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_uring::{sleep, yield_now};
use futures_util::future::{Either, select};
use tokio::sync::Semaphore;

/// Bytes of a bulk request that are carried out at once while clients are at work: about 60 µs of a disk with 1 GB/s.
pub(crate) const PIECE: u32 = 64 << 10;
/// Reads up to this size never wait.
const SMALL: u32 = 32 << 10;
/// Who reads so much of a snapshot or an image at once copies it.
pub(crate) const COPY: u32 = 256 << 10;
/// How many times as long as a piece took the rest after it is, and how long at least and at most.
const REST: u32 = 2;
const SHORTEST_REST: Duration = Duration::from_micros(500);
const LONGEST_REST: Duration = Duration::from_millis(20);
/// How long others wait for a piece at most.
const LONGEST_TURN: Duration = Duration::from_millis(100);
/// How long after a client's request clients are taken to be at work: several times what passes between two requests of
/// one that anybody would call busy.
const AT_WORK: Duration = Duration::from_millis(50);
/// Lanes that count apart from each other; if there are more, some share.
const LANES: usize = 64;

/// One a daemon.
#[derive(Debug)]
pub(crate) struct Courtesy {
    /// How many requests of clients began, by lane: each writes to a cache line of its own.
    began: [Count; LANES],
    start: Instant,
    /// The sum of the counts when it was last looked at, and when it last had grown, in microseconds since the start.
    seen: AtomicU64,
    grown: AtomicU64,
    turn: Semaphore,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU64);

impl Default for Courtesy {
    fn default() -> Courtesy {
        Courtesy {
            began: std::array::from_fn(|_| Count::default()),
            start: Instant::now(),
            seen: AtomicU64::new(0),
            grown: AtomicU64::new(0),
            turn: Semaphore::new(1),
        }
    }
}

impl Courtesy {
    /// A request of a volume's client begins.
    pub(crate) fn client_begins(&self, lane: usize) {
        self.began[lane % LANES].0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether volumes have clients at work.
    pub(crate) fn clients_at_work(&self) -> bool {
        let began: u64 = self.began.iter().map(|count| count.0.load(Ordering::Relaxed)).sum();
        let now = self.start.elapsed().as_micros() as u64;
        if self.seen.swap(began, Ordering::Relaxed) != began {
            self.grown.store(now, Ordering::Relaxed);
            return true;
        }
        let grown = Duration::from_micros(now.saturating_sub(self.grown.load(Ordering::Relaxed)));
        began > 0 && grown < AT_WORK
    }

    /// Whether a transfer of so many bytes is to be made in [`pieces`].
    pub(crate) fn divides(&self, len: u32) -> bool {
        len > SMALL && self.clients_at_work()
    }

    /// Carries out a piece of a bulk transfer: when it is its turn, and with a rest after it before others may begin. On a
    /// reactor only.
    pub(crate) async fn in_turn<T>(&self, piece: impl Future<Output = T>) -> T {
        if !self.clients_at_work() {
            let done = piece.await;
            // What was in memory took no waiting.
            yield_now().await;
            return done;
        }
        // It is never closed.
        let turn = self.turn.acquire().await;
        let (began, mut piece) = (Instant::now(), pin!(piece));
        match select(piece.as_mut(), pin!(sleep(LONGEST_TURN))).await {
            Either::Left((done, _)) => {
                sleep((began.elapsed() * REST).clamp(SHORTEST_REST, LONGEST_REST)).await;
                done
            }
            // What hangs keeps nobody else: that may be about another disk.
            Either::Right(_) => {
                drop(turn);
                piece.await
            }
        }
    }
}

/// The pieces of a transfer, which end at multiples of their size.
pub(crate) fn pieces(offset: u64, len: u32) -> impl Iterator<Item = Range<u64>> {
    let (mut at, end) = (offset, offset + u64::from(len));
    std::iter::from_fn(move || {
        let from = at;
        at = end.min((from + 1).next_multiple_of(u64::from(PIECE)));
        (from < at).then_some(from..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_transfer_in_order() {
        let (piece, mut at) = (u64::from(PIECE), 512);
        let all: Vec<_> = pieces(512, 3 * PIECE).collect();
        assert_eq!(all.len(), 4, "the first and the last are not whole");
        for range in all {
            assert_eq!(range.start, at);
            assert!(range.end % piece == 0 || range.end == 512 + 3 * piece);
            at = range.end;
        }
        assert_eq!(at, 512 + 3 * piece);
        assert_eq!(
            pieces(piece, PIECE).map(|range| (range.start, range.end)).collect::<Vec<_>>(),
            [(piece, 2 * piece)]
        );
        assert_eq!(pieces(7, 1).map(|range| range.end - range.start).sum::<u64>(), 1);
        assert_eq!(pieces(7, 0).count(), 0);
    }

    #[test]
    fn clients_are_at_work_for_a_while_after_a_request() {
        let courtesy = Courtesy::default();
        assert!(!courtesy.divides(u32::MAX), "there has been nobody");
        courtesy.client_begins(3);
        assert!(courtesy.divides(SMALL + 1));
        assert!(!courtesy.divides(SMALL));
        assert!(courtesy.divides(u32::MAX), "still");
        std::thread::sleep(AT_WORK);
        assert!(!courtesy.divides(u32::MAX), "not any more");
        courtesy.client_begins(LANES + 3);
        assert!(courtesy.divides(u32::MAX), "again");
    }

    /// How long after now each of some pieces ends that begin together and take so long.
    fn ends(courtesy: &Courtesy, pieces: &[Duration]) -> Vec<Duration> {
        let mut reactor = cairn_uring::Reactor::new(cairn_uring::Config::default()).expect("a reactor");
        reactor.block_on(async {
            let began = Instant::now();
            let each = |took: &Duration| {
                let took = *took;
                async move {
                    courtesy.in_turn(sleep(took)).await;
                    began.elapsed()
                }
            };
            futures_util::future::join_all(pieces.iter().map(each)).await
        })
    }

    #[test]
    fn beside_clients_pieces_come_one_at_a_time_with_rests_between_them() {
        let courtesy = Courtesy::default();
        let piece = Duration::from_millis(5);
        courtesy.client_begins(0);
        let together = ends(&courtesy, &[piece; 4]);
        for (number, end) in (1..).zip(together) {
            assert!(end >= (piece + piece * REST) * number, "piece {number} ended after {end:?}");
        }
    }

    #[test]
    fn a_piece_that_hangs_keeps_nobody_else() {
        let courtesy = Courtesy::default();
        courtesy.client_begins(0);
        let hangs = Duration::from_secs(2);
        let ended = ends(&courtesy, &[hangs, Duration::ZERO]);
        assert!(ended[0] >= hangs && ended[1] >= LONGEST_TURN, "{ended:?}");
        assert!(ended[1] < hangs, "{ended:?}");
    }
}
