//! Timers: order, never early, removed when dropped.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cairn_uring::{Config, Elapsed, JoinHandle, Reactor, sleep, sleep_until, spawn, timeout, yield_now};

use super::{limited, run};

#[test]
fn timers_fire_in_order_and_never_early() {
    run(async {
        let mut lead = Duration::from_millis(5);
        while !fire_500(lead).await {
            lead *= 2;
        }
    });
}

/// Starts 500 timers, the first `lead` from now. False when starting them took so long that the first was past.
async fn fire_500(lead: Duration) -> bool {
    let start = Instant::now() + lead;
    let order = Rc::new(RefCell::new(Vec::new()));
    let tasks: Vec<_> = (0..500_u64)
        .map(|index| {
            // A permutation of 0..500, 100 µs apart.
            let place = index * 7 % 500;
            let order = Rc::clone(&order);
            spawn(async move {
                let deadline = start + Duration::from_micros(place * 100);
                sleep_until(deadline).await;
                assert!(Instant::now() >= deadline);
                order.borrow_mut().push(place);
            })
        })
        .collect();
    // Behind the first poll of each.
    yield_now().await;
    if Instant::now() >= start {
        tasks.iter().for_each(JoinHandle::abort);
        return false;
    }
    for task in tasks {
        task.await;
    }
    assert_eq!(*order.borrow(), (0..500).collect::<Vec<_>>());
    true
}

#[test]
fn without_polling_too() {
    let mut reactor =
        Reactor::new(Config { poll: Duration::ZERO, poll_disk: Duration::ZERO, ..Config::default() })
            .unwrap();
    reactor.block_on(limited(async {
        let start = Instant::now();
        for _ in 0..20 {
            sleep(Duration::from_micros(300)).await;
        }
        assert!(start.elapsed() >= Duration::from_micros(6000));
    }));
}

#[test]
fn the_past_is_now_and_for_ever_is_never() {
    run(async {
        sleep_until(Instant::now().checked_sub(Duration::from_secs(1)).unwrap()).await;
        sleep(Duration::ZERO).await;
        let for_ever = timeout(Duration::from_millis(2), sleep(Duration::MAX)).await;
        assert_eq!(for_ever, Err(Elapsed));
        assert_eq!(timeout(Duration::MAX, async { 1 }).await, Ok(1));
        // When both are ready, the future wins.
        assert_eq!(timeout(Duration::ZERO, async { 2 }).await, Ok(2));
    });
}

#[test]
fn a_timer_wakes_a_reactor_whose_tasks_never_rest() {
    run(async {
        let busy = spawn(async {
            loop {
                yield_now().await;
            }
        });
        sleep(Duration::from_millis(3)).await;
        busy.abort();
    });
}
