//! Operations whose futures are dropped, forgotten or outlive their reactor.

use std::cell::Cell;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use cairn_uring::fs::File;
use cairn_uring::net::{Listener, Stream};
use cairn_uring::{IoBuf, sleep, spawn, timeout, yield_now};

use super::{Counted, LIMIT, limited, poll_once, reactor, run, tiny_reactor};

fn pair() -> (Stream, Stream) {
    let (left, right) = UnixStream::pair().unwrap();
    (Stream::from_unix(left).unwrap(), Stream::from_unix(right).unwrap())
}

async fn until_none_alive(alive: &Rc<Cell<usize>>) {
    while alive.get() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_dropped_read_keeps_its_buffer_until_the_kernel_is_done() {
    run(async {
        let (left, right) = pair();
        let alive = Rc::default();
        let result = timeout(Duration::from_millis(5), left.read(Counted::new(100, &alive))).await;
        assert!(result.is_err());
        // The cancellation is only queued as yet.
        assert_eq!(alive.get(), 1);
        until_none_alive(&alive).await;

        // It took nothing of what comes later.
        right.write_all(b"later".to_vec()).await.0.unwrap();
        let (result, buf) = left.read_exact(vec![0; 5]).await;
        result.unwrap();
        assert_eq!(buf, b"later");
    });
}

#[test]
fn a_read_dropped_after_its_completion_frees_at_once() {
    run(async {
        let (left, right) = pair();
        let alive = Rc::default();
        right.write_all(b"early".to_vec()).await.0.unwrap();
        {
            let mut reading = pin!(left.read(Counted::new(100, &alive)));
            assert!(poll_once(reading.as_mut()).is_pending());
            // Long enough for the completion to be reaped.
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(alive.get(), 0);
    });
}

#[test]
fn an_aborted_task_keeps_its_buffers_until_the_kernel_is_done() {
    run(async {
        let (left, _right) = pair();
        let alive = Rc::default();
        let buf = Counted::new(100, &alive);
        let reading = spawn(async move { left.read(buf).await.0 });
        yield_now().await;
        reading.abort();
        assert!(reading.is_finished());
        assert_eq!(alive.get(), 1);
        until_none_alive(&alive).await;
    });
}

#[test]
fn a_storm_of_dropped_operations_on_small_queues() {
    tiny_reactor().block_on(limited(async {
        let (left, right) = pair();
        let file = File::from_std(tempfile::tempfile().unwrap());
        file.write_all_at(vec![1; 1 << 16], 0).await.0.unwrap();
        let alive = Rc::default();
        for round in 0..2000 {
            let mut reading = pin!(left.read(Counted::new(64, &alive)));
            let mut from_file = pin!(file.read_at(Counted::new(4096, &alive), round % 60_000));
            assert!(poll_once(reading.as_mut()).is_pending());
            assert!(poll_once(from_file.as_mut()).is_pending());
            if round % 7 == 0 {
                yield_now().await;
            }
        }
        until_none_alive(&alive).await;
        right.write_all(b"still in order".to_vec()).await.0.unwrap();
        let (result, buf) = left.read_exact(vec![0; 14]).await;
        result.unwrap();
        assert_eq!(buf, b"still in order");
    }));
}

#[test]
fn a_connection_nobody_waits_for_any_more_is_closed() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        {
            // The connection waits already, so the accept succeeds before it could be cancelled.
            let mut accepting = pin!(listener.accept());
            assert!(poll_once(accepting.as_mut()).is_pending());
        }
        sleep(Duration::from_millis(5)).await;
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn dropping_the_reactor_ends_and_frees_everything() {
    let alive = Rc::default();
    let (left, right) = pair();
    let left = Rc::new(left);
    let mut reactor = reactor();
    reactor.block_on(async {
        let file = File::from_std(tempfile::tempfile().unwrap());
        for _ in 0..100 {
            let (left, file) = (Rc::clone(&left), file.clone());
            let bufs = [Counted::new(100, &alive), Counted::new(1 << 16, &alive), Counted::new(1, &alive)];
            drop(spawn(async move {
                let [first, second, third] = bufs;
                let (result, _) = file.write_all_at(second, 0).await;
                result.unwrap();
                let (_, first) = left.read(first).await;
                sleep(Duration::MAX).await;
                drop((first, third));
            }));
        }
        yield_now().await;
    });
    assert!(alive.get() >= 200);
    drop(reactor);
    assert_eq!(alive.get(), 0);
    assert_eq!(Rc::strong_count(&left), 1);
    drop(right);
}

#[test]
fn an_operation_may_outlive_its_reactor() {
    let alive = Rc::default();
    let (left, _right) = pair();
    let mut reading = Box::pin(left.read(Counted::new(100, &alive)));
    let mut reactor = reactor();
    reactor.block_on(async {
        assert!(poll_once(reading.as_mut()).is_pending());
        sleep(Duration::from_millis(1)).await;
    });
    drop(reactor);
    let std::task::Poll::Ready((result, buf)) = poll_once(reading.as_mut()) else { panic!("not cancelled") };
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    assert_eq!(buf.bytes, [0; 100]);
}

#[test]
fn a_forgotten_operation_leaks_but_harms_nobody() {
    let alive = Rc::default();
    let (left, right) = pair();
    let left: &'static Stream = Box::leak(Box::new(left));
    let mut reactor = reactor();
    reactor.block_on(limited(async {
        let mut reading = Box::pin(left.read(Counted::new(3, &alive)));
        assert!(poll_once(reading.as_mut()).is_pending());
        std::mem::forget(reading);
        right.write_all(b"abcdef".to_vec()).await.0.unwrap();
        let (result, buf) = left.read_exact(vec![0; 3]).await;
        result.unwrap();
        assert_eq!(buf, b"def");
    }));
    drop(reactor);
    assert_eq!(alive.get(), 1);
}

/// A reactor that booked completions one by one, running foreign code between them, lost count when that code panicked,
/// and its end then waited for completions that had long come.
#[test]
fn a_panic_on_the_way_does_not_keep_the_reactor_from_ending() {
    struct Explosive(Vec<u8>);
    impl Drop for Explosive {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    // SAFETY: as the vector it holds.
    unsafe impl IoBuf for Explosive {
        fn as_ptr(&self) -> *const u8 {
            IoBuf::as_ptr(&self.0)
        }

        fn len(&self) -> usize {
            IoBuf::len(&self.0)
        }
    }
    let alive = Rc::default();
    let file = File::from_std(tempfile::tempfile().unwrap());
    let mut reactor = reactor();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        reactor.block_on(limited(async {
            let mut writing = Box::pin(file.write_all_at(Explosive(vec![0; 10]), 0));
            assert!(poll_once(writing.as_mut()).is_pending());
            drop(writing);
            for _ in 0..100 {
                let mut reading = Box::pin(file.read_at(Counted::new(10, &alive), 0));
                assert!(poll_once(reading.as_mut()).is_pending());
            }
            until_none_alive(&alive).await;
        }));
    }));
    assert!(panicked.is_err());
    drop(reactor);
}
