//! The reactor from outside, on the kernel it runs on.

mod cancel;
mod fs;
mod net;
mod shutdown;
mod tasks;
mod time;
mod wake;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cairn_uring::{Config, IoBuf, IoBufMut, Reactor, timeout};

/// Far more than anything here takes; ends a test that would hang.
const LIMIT: Duration = Duration::from_secs(60);

fn reactor() -> Reactor {
    Reactor::new(Config::default()).expect("io_uring")
}

/// A reactor whose queues overflow at once.
fn tiny_reactor() -> Reactor {
    Reactor::new(Config { entries: 4, ..Config::default() }).expect("io_uring")
}

fn run<F: Future>(future: F) -> F::Output {
    reactor().block_on(limited(future))
}

async fn limited<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("the test hangs")
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Bytes whose every position and `seed` can be told apart from others.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A buffer that tells how many of its kind are alive.
struct Counted {
    bytes: Vec<u8>,
    alive: Rc<Cell<usize>>,
}

impl Counted {
    fn new(len: usize, alive: &Rc<Cell<usize>>) -> Self {
        alive.set(alive.get() + 1);
        Self { bytes: vec![0; len], alive: Rc::clone(alive) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

// SAFETY: as the vector it holds.
unsafe impl IoBuf for Counted {
    fn as_ptr(&self) -> *const u8 {
        IoBuf::as_ptr(&self.bytes)
    }

    fn len(&self) -> usize {
        IoBuf::len(&self.bytes)
    }
}

// SAFETY: as the vector it holds.
unsafe impl IoBufMut for Counted {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        IoBufMut::as_mut_ptr(&mut self.bytes)
    }
}

const fn is_send<T: Send>() {}
const fn is_sync<T: Sync>() {}

// What may go to, or be shared with, other threads.
const _: () = {
    is_send::<cairn_uring::AlignedBuf>();
    is_send::<cairn_uring::net::Stream>();
    is_send::<cairn_uring::net::Listener>();
    is_send::<cairn_uring::RemoteJoin<u8>>();
    is_send::<cairn_uring::queue::Receiver<u8>>();
    is_send::<cairn_uring::fs::File>();
    is_sync::<cairn_uring::fs::File>();
    is_send::<cairn_uring::Handle>();
    is_sync::<cairn_uring::Handle>();
    is_send::<cairn_uring::queue::Sender<u8>>();
    is_sync::<cairn_uring::queue::Sender<u8>>();
    is_send::<cairn_uring::ReactorThread>();
};
