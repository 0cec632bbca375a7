//! The executor: order, results, panics, aborts.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use cairn_uring::{JoinHandle, sleep, spawn, try_current, yield_now};

use super::{limited, reactor, run};

/// The message of the panic `f` ends in.
fn panic_of<T>(f: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(f)) else { panic!("did not panic") };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
    }
}

#[test]
fn many_tasks_give_their_results() {
    run(async {
        let tasks: Vec<_> = (0..100_000_u64)
            .map(|index| {
                spawn(async move {
                    for _ in 0..index % 4 {
                        yield_now().await;
                    }
                    index
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        assert_eq!(sum, 100_000 * 99_999 / 2);
    });
}

#[test]
fn yielding_goes_behind_all_that_is_ready() {
    run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..3)
            .map(|index| {
                let order = Rc::clone(&order);
                spawn(async move {
                    for round in 0..3 {
                        order.borrow_mut().push((round, index));
                        yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        let expected: Vec<_> = (0..3).flat_map(|round| (0..3).map(move |index| (round, index))).collect();
        assert_eq!(*order.borrow(), expected);
    });
}

#[test]
fn tasks_go_on_in_the_next_block_on() {
    let mut reactor = reactor();
    let mut task = None;
    reactor.block_on(async {
        task = Some(spawn(async {
            sleep(Duration::from_millis(2)).await;
            7
        }));
    });
    let task = task.unwrap();
    assert!(!task.is_finished());
    assert_eq!(reactor.block_on(limited(task)), 7);
}

#[test]
fn the_main_future_may_borrow() {
    let mut text = String::from("a");
    let mut reactor = reactor();
    reactor.block_on(async {
        yield_now().await;
        text.push('b');
    });
    assert_eq!(text, "ab");
}

#[test]
fn a_panic_stays_in_its_task() {
    run(async {
        let other = spawn(async {
            sleep(Duration::from_millis(2)).await;
            1
        });
        drop(spawn(async { panic!("detached") }));
        let task: JoinHandle<()> = spawn(async { panic!("number {}", 5) });
        while !task.is_finished() {
            yield_now().await;
        }
        let mut task = Box::pin(task);
        let text = poll_fn(|cx| Poll::Ready(panic_of(|| task.as_mut().poll(cx).is_ready()))).await;
        assert_eq!(text, "number 5");
        assert_eq!(other.await, 1);
    });
}

#[test]
fn abort_drops_the_future() {
    struct SetOnDrop(Rc<Cell<bool>>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let guard = SetOnDrop(Rc::clone(&dropped));
        let task = spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        yield_now().await;
        assert!(!dropped.get());
        task.abort();
        assert!(dropped.get() && task.is_finished());
        task.abort();
        let mut task = Box::pin(task);
        let text = poll_fn(|cx| Poll::Ready(panic_of(|| task.as_mut().poll(cx).is_ready()))).await;
        assert_eq!(text, "awaited a task that was aborted");
    });
}

#[test]
fn a_task_may_abort_itself_and_hold_its_own_handle() {
    run(async {
        let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
        let reached = Rc::new(Cell::new(0));
        let task = spawn({
            let (slot, reached) = (Rc::clone(&slot), Rc::clone(&reached));
            async move {
                reached.set(1);
                slot.borrow().as_ref().unwrap().abort();
                // Ends at the next await, not here.
                reached.set(2);
                yield_now().await;
                reached.set(3);
            }
        });
        *slot.borrow_mut() = Some(task);
        for _ in 0..5 {
            yield_now().await;
        }
        assert_eq!(reached.get(), 2);
        assert!(slot.borrow().as_ref().unwrap().is_finished());
    });
}

#[test]
fn a_finished_task_frees_its_future_and_result() {
    run(async {
        let value = Rc::new(());
        let handle = spawn({
            let value = Rc::clone(&value);
            async move { value }
        });
        drop(spawn({
            let value = Rc::clone(&value);
            async move { value }
        }));
        while !handle.is_finished() {
            yield_now().await;
        }
        // The detached task's result is gone, the other waits in its handle.
        assert_eq!(Rc::strong_count(&value), 2);
        drop(handle);
        assert_eq!(Rc::strong_count(&value), 1);
    });
}

#[test]
fn outside_a_reactor() {
    assert!(try_current().is_none());
    assert!(panic_of(|| spawn(async {})).contains("outside a reactor"));
    run(async {
        assert!(try_current().is_some());
        assert!(panic_of(|| run(async {})).contains("inside a reactor"));
        // That did no harm.
        yield_now().await;
        assert!(try_current().is_some());
    });
    assert!(try_current().is_none());
}
