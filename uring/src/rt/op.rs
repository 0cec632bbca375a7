//! [`Op`]: the future of one operation, and the owner of everything the kernel uses for it.

use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::squeue;

use super::core::Core;
use super::driver::Orphan;
use crate::slab::Key;

/// What one kind of operation owns while it is in flight, and what becomes of it.
///
/// # Safety
///
/// All memory and descriptors that the entry refers to are owned by `self`, stay where they are when `self` is moved,
/// and stay valid until `self` is dropped.
pub(crate) unsafe trait OpData: 'static {
    /// What the operation's future gives.
    type Output;

    /// Whether it is over as soon as a local disk has done its part, whatever others do.
    const WAITS_FOR_DISK: bool = false;

    /// The entry that describes the operation, but for its `user_data`.
    fn entry(&mut self) -> squeue::Entry;

    /// Makes the output of the kernel's result: a count or descriptor, or a negated error number.
    fn complete(self, result: i32) -> Self::Output;
}

/// A submitted operation. Dropping it early asks the kernel to cancel it and leaves its data with the reactor until
/// the kernel is done with it. Forgetting it (`mem::forget`) leaks the data, which is as safe.
pub(crate) struct Op<D: OpData> {
    core: Rc<Core>,
    /// `None` once completed; then `data` is moved out.
    key: Option<Key>,
    /// Kept in a `MaybeUninit` so that moving the operation asserts nothing about references or boxes inside, while
    /// the kernel writes to what they point to.
    data: MaybeUninit<D>,
}

impl<D: OpData> Op<D> {
    /// Queues the operation on the current thread's reactor; it is submitted at the end of the loop's turn.
    ///
    /// # Panics
    ///
    /// When the thread is not running a reactor.
    pub(crate) fn new(data: D) -> Self {
        let core = Core::current();
        let mut data = MaybeUninit::new(data);
        // SAFETY: initialised in the line above.
        let owned = unsafe { data.assume_init_mut() };
        let entry = owned.entry();
        // SAFETY: by `OpData`'s promise all the entry refers to lives as long as `data`, which this value keeps until
        // the completion was reaped, or hands to the driver when dropped earlier.
        let key = unsafe { core.driver().start(entry) };
        if D::WAITS_FOR_DISK {
            core.disk_waits.update(|waits| waits + 1);
        }
        Self { core, key: Some(key), data }
    }

    /// Moves the data out: the operation is over, or nobody waits for it any more.
    ///
    /// # Safety
    ///
    /// At most once, after which `key` is `None`.
    unsafe fn take_data(&mut self) -> D {
        debug_assert!(self.key.is_none());
        if D::WAITS_FOR_DISK {
            self.core.disk_waits.update(|waits| waits - 1);
        }
        // SAFETY: initialised in `new`, and moved out only here, once by the caller's promise.
        unsafe { self.data.assume_init_read() }
    }
}

// Nothing is pinned structurally: the kernel knows addresses inside what `data` owns, none inside `Op` itself.
impl<D: OpData> Unpin for Op<D> {}

impl<D: OpData> Future for Op<D> {
    type Output = D::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<D::Output> {
        let key = self.key.expect("an operation is not polled after it gave its result");
        let polled = self.core.driver().poll(key, cx.waker());
        match polled {
            Ok(result) => {
                self.key = None;
                // SAFETY: `key` was `Some` until now, so the data was not taken yet.
                let data = unsafe { self.take_data() };
                Poll::Ready(data.complete(result))
            }
            Err(_replaced_waker) => Poll::Pending,
        }
    }
}

impl<D: OpData> Drop for Op<D> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        // SAFETY: `key` was `Some` until now, so the data was not taken yet.
        let data = unsafe { self.take_data() };
        let finished = self.core.driver().abandon(key);
        match finished {
            Some(result) => drop(data.complete(result)),
            None => {
                let orphan = Box::new(MaybeUninit::new(data));
                let waker = self.core.driver().orphan(key, orphan);
                drop(waker);
            }
        }
    }
}

impl<D: OpData> Orphan for MaybeUninit<D> {
    fn finish(self: Box<Self>, result: i32) {
        // SAFETY: only `Op::drop` makes such boxes, initialised.
        let data = unsafe { self.assume_init() };
        drop(data.complete(result));
    }
}
