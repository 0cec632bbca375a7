//! Work on several threads that ends at the first failure.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Does `works` on so many threads, until there are no more or one fails; that failure. Each thread works with what `begin`
/// gives it.
pub(crate) fn until_one_fails<W: Send, S, F: Send>(
    threads: usize,
    works: impl Iterator<Item = W> + Send,
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&S, W) -> Result<(), F> + Sync,
) -> Option<F> {
    let (works, over, failure) = (Mutex::new(works), AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let own = begin();
                while !over.load(Ordering::Relaxed) {
                    let next = works.lock().next();
                    let Some(next) = next else { return };
                    if let Err(failed) = work(&own, next) {
                        over.store(true, Ordering::Relaxed);
                        *failure.lock() = Some(failed);
                    }
                }
            });
        }
    });
    failure.into_inner()
}
