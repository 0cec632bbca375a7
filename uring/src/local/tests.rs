use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::queue::TrySendError;
use crate::rt::{Config, Reactor, spawn, yield_now};

fn run<F: Future>(future: F) -> F::Output {
    Reactor::new(Config::default()).unwrap().block_on(future)
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn event_lets_all_pass_for_good() {
    run(async {
        let event = Event::new();
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let event = event.clone();
                spawn(async move { event.wait().await })
            })
            .collect();
        yield_now().await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        event.set();
        for task in tasks {
            task.await;
        }
        event.wait().await;
    });
}

#[test]
fn notify_stores_one() {
    let notify = Notify::new();
    notify.notify_one();
    notify.notify_one();
    assert!(poll_once(pin!(notify.notified())).is_ready());
    assert!(poll_once(pin!(notify.notified())).is_pending());
    notify.notify_all();
    assert!(poll_once(pin!(notify.notified())).is_pending());
}

#[test]
fn notification_of_a_dropped_waiter_goes_to_the_next() {
    let notify = Notify::new();
    let mut second = pin!(notify.notified());
    {
        let mut first = pin!(notify.notified());
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());
        notify.notify_one();
    }
    assert!(poll_once(second).is_ready());
}

#[test]
fn notify_all_leaves_nothing_behind() {
    let notify = Notify::new();
    {
        let mut waiter = pin!(notify.notified());
        assert!(poll_once(waiter.as_mut()).is_pending());
        notify.notify_all();
    }
    assert!(poll_once(pin!(notify.notified())).is_pending());
}

#[test]
fn semaphore_serves_in_order() {
    run(async {
        let semaphore = Semaphore::new(3);
        let order = Rc::new(RefCell::new(Vec::new()));
        let held = semaphore.acquire(3).await;
        let tasks: Vec<_> = [3, 1, 2]
            .into_iter()
            .map(|permits| {
                let (semaphore, order) = (semaphore.clone(), Rc::clone(&order));
                spawn(async move {
                    let permit = semaphore.acquire(permits).await;
                    order.borrow_mut().push(permit.permits());
                    yield_now().await;
                })
            })
            .collect();
        yield_now().await;
        assert!(semaphore.try_acquire(1).is_none());
        drop(held);
        // The permits are already the first waiter's.
        assert!(semaphore.try_acquire(1).is_none());
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [3, 1, 2]);
        assert_eq!(semaphore.available(), 3);
    });
}

#[test]
fn dropped_acquires_give_back_and_make_way() {
    let semaphore = Semaphore::new(2);
    let held = semaphore.try_acquire(1).unwrap();
    let mut small = pin!(semaphore.acquire(1));
    {
        let mut large = pin!(semaphore.acquire(2));
        assert!(poll_once(large.as_mut()).is_pending());
        assert!(poll_once(small.as_mut()).is_pending());
        // The large request is served, but goes away without having seen it.
        drop(held);
        assert!(poll_once(small.as_mut()).is_pending());
    }
    let Poll::Ready(permit) = poll_once(small) else { panic!("the large request was in the way") };
    drop(permit);
    assert_eq!(semaphore.available(), 2);
    semaphore.try_acquire(1).unwrap().forget();
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn channel_is_bounded_and_ordered() {
    run(async {
        let (sender, mut receiver) = channel(4);
        let producer = spawn(async move {
            for value in 0..1000 {
                sender.send(value).await.unwrap();
            }
        });
        let mut received = Vec::new();
        while let Some(value) = receiver.recv().await {
            received.push(value);
            assert!(receiver.len() <= 4);
        }
        assert!(receiver.is_empty());
        assert_eq!(received, (0..1000).collect::<Vec<_>>());
        producer.await;
    });
}

#[test]
fn channel_closes_at_either_end() {
    run(async {
        let (sender, receiver) = channel(1);
        sender.try_send(1).unwrap();
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        let waiting = {
            let sender = sender.clone();
            spawn(async move { sender.send(3).await })
        };
        yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await, Err(3));
        assert_eq!(sender.try_send(4), Err(TrySendError::Closed(4)));

        let (sender, mut receiver) = channel::<()>(1);
        let receiving = spawn(async move { receiver.recv().await });
        yield_now().await;
        drop(sender);
        assert_eq!(receiving.await, None);
    });
}
