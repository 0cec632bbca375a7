//! Room in memory for what is fetched for readers.
//!
//! What was fetched is in memory until it is in the pool. So a fetch takes room for its chunk before it asks for it, and what
//! it got keeps the room until it is written. There is room for [`SHARED`] chunks, which whoever comes first takes. A
//! repository that does not answer keeps what was taken for it for as long as its readers have patience. That this may not
//! stop the other volumes, each has room for [`OWN`] chunks besides, which nobody else takes, and a volume whose repository
//! is known to be away takes nothing else.
//!
//! So readers never have more than [`SHARED`] chunks, and [`OWN`] for each volume that is being restored, in memory.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Chunks for the readers of all volumes together.
pub(super) const SHARED: usize = 32;
/// Chunks for the readers of each volume alone.
pub(super) const OWN: usize = 4;

/// What all volumes of a daemon share.
#[derive(Clone)]
pub(super) struct SharedRoom(Arc<Semaphore>);

impl Default for SharedRoom {
    fn default() -> SharedRoom {
        SharedRoom(Arc::new(Semaphore::new(SHARED)))
    }
}

/// What a volume has: its own, and that which is shared.
pub(super) struct Room {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// Room for one chunk, until it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Room {
    pub(super) fn new(shared: &SharedRoom) -> Room {
        Room { own: Arc::new(Semaphore::new(OWN)), shared: Arc::clone(&shared.0) }
    }

    /// Waits for room for a chunk of a repository that `is_away` tells of, before the wait and after it. Never None:
    /// neither semaphore is ever closed.
    pub(super) async fn take(&self, is_away: impl Fn() -> bool) -> Option<Place> {
        let mut own = pin!(Arc::clone(&self.own).acquire_owned());
        if !is_away() {
            let shared = Arc::clone(&self.shared).acquire_owned();
            tokio::select! {
                biased;
                place = &mut own => return place.ok(),
                place = shared => if !is_away() { return place.ok() },
            }
        }
        own.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn take_all(room: &Room, is_away: bool) -> Vec<Place> {
        let next = || match poll(pin!(room.take(|| is_away))) {
            Poll::Ready(place) => place,
            Poll::Pending => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_volume_has_room_of_its_own_and_while_it_is_away_no_other() {
        let shared = SharedRoom::default();
        let [a, b, c] = [(); 3].map(|()| Room::new(&shared));
        let mut of_a = take_all(&a, true);
        assert_eq!(of_a.len(), OWN);
        let mut of_b = take_all(&b, false);
        assert_eq!(of_b.len(), OWN + SHARED);
        assert_eq!(take_all(&c, false).len(), OWN, "the others leave it its own");
        of_a.pop();
        assert_eq!((take_all(&b, false).len(), take_all(&a, true).len()), (0, 1));
        of_b.pop();
        assert_eq!((take_all(&a, true).len(), take_all(&b, false).len()), (1, 1));
    }

    #[test]
    fn a_volume_that_is_away_after_it_waited_leaves_the_shared_room_to_others() {
        let shared = SharedRoom::default();
        let [a, b] = [(); 2].map(|()| Room::new(&shared));
        let (mut of_b, mut of_a) = (take_all(&b, false), take_all(&a, false));
        let is_away = Cell::new(false);
        let mut waits = pin!(a.take(|| is_away.get()));
        assert!(poll(waits.as_mut()).is_pending());
        is_away.set(true);
        of_b.pop();
        assert!(poll(waits.as_mut()).is_pending());
        assert_eq!(take_all(&b, false).len(), 1);
        of_a.pop();
        assert!(poll(waits.as_mut()).is_ready());
    }
}
