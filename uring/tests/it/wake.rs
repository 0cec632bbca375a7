//! Wake-ups and values from other threads: none is lost, whether the reactor polls, sleeps or is about to.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use cairn_uring::{Config, Reactor, queue, sleep, spawn, yield_now};

use super::{limited, run};

const POLLS: [Duration; 2] = [Duration::ZERO, Duration::from_micros(50)];

fn reactor(poll: Duration) -> Reactor {
    Reactor::new(Config { poll, ..Config::default() }).unwrap()
}

/// A number that others add to, and a task that waits for it.
#[derive(Default)]
struct Counter {
    count: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Counter {
    fn add(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn reaches(&self, target: usize) {
        poll_fn(|cx| {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            if self.count.load(Ordering::SeqCst) >= target { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[test]
fn a_storm_of_wakes_from_many_threads() {
    for poll in POLLS {
        let counters: Arc<Vec<Counter>> = Arc::new((0..8).map(|_| Counter::default()).collect());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let counters = Arc::clone(&counters);
                thread::spawn(move || {
                    for round in 0..20_000 {
                        counters[round % 8].add();
                    }
                })
            })
            .collect();
        reactor(poll).block_on(limited(async {
            let tasks: Vec<_> = (0..8)
                .map(|index| {
                    let counters = Arc::clone(&counters);
                    spawn(async move { counters[index].reaches(10_000).await })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        }));
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn one_wake_at_a_time_into_and_out_of_sleep() {
    // Each step waits for the one before, so one lost wake-up hangs it. The main future and a task in turn.
    for poll in POLLS {
        let there = Arc::new(Counter::default());
        let back = Arc::new(Counter::default());
        let other = {
            let (there, back) = (Arc::clone(&there), Arc::clone(&back));
            thread::spawn(move || {
                reactor(poll).block_on(limited(async {
                    for step in 1..=5000 {
                        there.reaches(step).await;
                        back.add();
                    }
                }));
            })
        };
        reactor(poll).block_on(limited(spawn_and_join(async move {
            for step in 1..=5000 {
                there.add();
                back.reaches(step).await;
            }
        })));
        other.join().unwrap();
    }
}

async fn spawn_and_join(future: impl Future<Output = ()> + 'static) {
    spawn(future).await;
}

#[test]
fn a_queue_between_two_reactors() {
    let (there, mut receives) = queue::channel::<u64>(16);
    let (back, mut answers) = queue::channel::<u64>(16);
    let other = Reactor::start(Config::default()).unwrap();
    let work = move || async move {
        while let Some(value) = receives.recv().await {
            let mut answer = value * 2;
            while let Err(error) = back.try_send(answer) {
                answer = error.into_inner();
                yield_now().await;
            }
        }
    };
    let working = other.handle().spawn_with(work).unwrap();
    run(async move {
        let sending = spawn(async move {
            for value in 0..20_000 {
                let mut value = value;
                while let Err(error) = there.try_send(value) {
                    value = error.into_inner();
                    yield_now().await;
                }
            }
        });
        for value in 0..20_000 {
            assert_eq!(answers.recv().await, Some(value * 2));
        }
        sending.await;
        assert_eq!(answers.recv().await, None);
    });
    working.wait().unwrap();
    other.join().unwrap();
}

#[test]
fn many_threads_send_into_one_queue() {
    let (sender, mut receiver) = queue::channel::<(usize, usize)>(64);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let sender = sender.clone();
            thread::spawn(move || {
                for number in 0..5000 {
                    while sender.try_send((thread, number)).is_err() {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    drop(sender);
    run(async move {
        let mut next = [0; 4];
        while let Some((thread, number)) = receiver.recv().await {
            assert_eq!(number, next[thread], "thread {thread} out of order");
            next[thread] += 1;
        }
        assert_eq!(next, [5000; 4]);
    });
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn work_sent_from_many_threads() {
    let reactor = Reactor::start(Config::default()).unwrap();
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let handle = reactor.handle().clone();
            thread::spawn(move || {
                (0..2000_u64)
                    .map(|number| {
                        let work = move || async move {
                            yield_now().await;
                            number * thread
                        };
                        handle.spawn_with(work).unwrap().wait().unwrap()
                    })
                    .sum::<u64>()
            })
        })
        .collect();
    for (thread, index) in threads.into_iter().zip(0..) {
        assert_eq!(thread.join().unwrap(), 1999 * 1000 * index);
    }
    reactor.join().unwrap();
}

#[test]
fn wakers_outlive_their_tasks_and_reactor() {
    let slot: Arc<Mutex<Vec<Waker>>> = Arc::default();
    let mut reactor = reactor(Duration::ZERO);
    let keep = |slot: &Arc<Mutex<Vec<Waker>>>, rounds: usize| {
        let slot = Arc::clone(slot);
        let mut polls = 0;
        poll_fn(move |cx| {
            slot.lock().unwrap().push(cx.waker().clone());
            polls += 1;
            if polls > rounds { Poll::Ready(()) } else { Poll::Pending }
        })
    };
    reactor.block_on(async {
        spawn(keep(&slot, 0)).await;
        drop(spawn(keep(&slot, 1)));
        yield_now().await;
        keep(&slot, 0).await;
    });
    let wakers: Vec<_> = slot.lock().unwrap().drain(..).collect();
    assert_eq!(wakers.len(), 3);
    let wake_all =
        |wakers: Vec<Waker>| thread::spawn(move || wakers.into_iter().for_each(Waker::wake)).join().unwrap();
    wake_all(wakers.clone());
    drop(reactor);
    wake_all(wakers);
}

#[test]
fn signals_end_no_wait_early() {
    extern "C" fn ignore(_signal: libc::c_int) {}
    // SAFETY: all zeroes is a valid `sigaction`: no flags (so system calls are interrupted), an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing, which is safe at any point.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) }, 0);

    let done = Arc::new(AtomicBool::new(false));
    // SAFETY: asks for a number.
    let target = unsafe { libc::pthread_self() };
    let signaller = {
        let done = Arc::clone(&done);
        thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the target thread joins this one before it ends.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                thread::sleep(Duration::from_micros(100));
            }
        })
    };
    reactor(Duration::ZERO).block_on(limited(async {
        let file = cairn_uring::fs::File::from_std(tempfile::tempfile().unwrap());
        for round in 0..50_u64 {
            let start = std::time::Instant::now();
            sleep(Duration::from_millis(1)).await;
            assert!(start.elapsed() >= Duration::from_millis(1));
            file.write_all_at(vec![1; 5000], round * 5000).await.0.unwrap();
        }
        file.sync_data().await.unwrap();
        assert_eq!(file.len().unwrap(), 250_000);
    }));
    done.store(true, Ordering::Relaxed);
    signaller.join().unwrap();
}
