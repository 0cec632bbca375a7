//! Throttles in simulated time: how exact they are, over how short a time, and for whom.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cairn_api::qos::QosRule;
use cairn_uring::{Config, Reactor};

use super::clock::Clock;
use super::sim::{Random, Sim, SimClock};
use super::{Connection, Direction, Throttle, ThrottleStats};

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLI;
const MIB: u64 = 1 << 20;

type SimThrottle = Throttle<SimClock>;
type SimConnection = Rc<Connection<SimClock>>;

fn rule(settings: &str) -> QosRule {
    QosRule::default().merge(settings.split_whitespace()).expect("a valid rule")
}

/// What was admitted: when, and how many bytes.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<(u64, u64)>>>);

impl Log {
    /// Operations and bytes admitted in a stretch of time.
    fn between(&self, start: u64, end: u64) -> (u64, u64) {
        let log = self.0.borrow();
        let index = |time| log.partition_point(|(at, _)| *at < time);
        let entries = &log[index(start)..index(end)];
        (entries.len() as u64, entries.iter().map(|(_, bytes)| bytes).sum())
    }
}

/// A load: `depth` requests in flight on one connection, each served within 100 microseconds once it is admitted.
#[derive(Clone, Copy)]
struct Load {
    depth: u64,
    direction: Direction,
    /// Bytes of a request at least and at most.
    bytes: (u64, u64),
}

const READS: Load = Load { depth: 32, direction: Direction::Read, bytes: (4096, 4096) };
const WRITES: Load = Load { direction: Direction::Write, ..READS };

fn start(sim: &mut Sim, connection: &SimConnection, load: Load) -> Log {
    let log = Log::default();
    for task in 0..load.depth {
        let (connection, clock, log) = (Rc::clone(connection), sim.clock.clone(), log.clone());
        sim.spawn(async move {
            let mut random = Random::new(task + 1);
            let (least, most) = load.bytes;
            loop {
                let bytes = least + random.below(most - least + 1);
                connection.admit(load.direction, bytes).await;
                let now = clock.now();
                log.0.borrow_mut().push((now, bytes));
                clock.exactly(now + 1 + random.below(100_000)).await;
            }
        });
    }
    log
}

fn throttle(sim: &Sim, settings: &str) -> Arc<SimThrottle> {
    Throttle::with_clock(&rule(settings), sim.clock.clone())
}

fn connect(throttle: &Arc<SimThrottle>) -> SimConnection {
    Rc::new(throttle.connection())
}

fn assert_near(actual: u64, expected: u64, percent: f64, what: &str) {
    let off = (actual as f64 / expected as f64 - 1.0) * 100.0;
    assert!(off.abs() <= percent, "{what}: {actual} instead of {expected}, off by {off:.2} %");
}

/// Ten simulated seconds of `load`: right in all and, within what a bucket holds, in each tenth of a second.
fn ten_seconds(settings: &str, rate: u64, load: Load, measure: impl Fn((u64, u64)) -> u64) {
    let mut sim = Sim::new(rate);
    let throttle = throttle(&sim, settings);
    let log = start(&mut sim, &connect(&throttle), load);
    let begin = sim.clock.now();
    sim.run(10 * SECOND);
    assert_near(measure(log.between(begin, begin + 10 * SECOND)), 10 * rate, 1.01, settings);
    let largest = measure((1, load.bytes.1));
    for tenth in 0..100 {
        let start = begin + tenth * SECOND / 10;
        let count = measure(log.between(start, start + SECOND / 10));
        let (least, most) = (rate / 10 * 97 / 100, rate / 10 * 103 / 100);
        // At the start the bucket is full.
        let most = most + largest + if tenth == 0 { rate / 50 } else { 0 };
        assert!(count + largest >= least && count <= most, "{settings}: {count} in tenth {tenth}");
    }
}

#[test]
fn operations_are_exact_at_every_rate() {
    for rate in [10, 30, 100, 300, 1000, 3000, 10_000, 20_000, 50_000, 100_000] {
        ten_seconds(&format!("total_iops_sec={rate}"), rate, READS, |(operations, _)| operations);
    }
}

#[test]
fn bytes_are_exact_at_every_rate() {
    for mib in [1, 2, 5, 10, 30, 100, 300, 700, 1024, 2048] {
        let most = if mib < 20 { 64 << 10 } else { MIB };
        let load = Load { bytes: (512, most), ..WRITES };
        ten_seconds(&format!("write_bytes_sec={mib}M"), mib * MIB, load, |(_, bytes)| bytes);
    }
}

#[test]
fn large_operations_count_by_their_size() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_iops_sec=1000 size_iops_sec=16K");
    let log = start(&mut sim, &connect(&throttle), Load { bytes: (64 << 10, 64 << 10), ..READS });
    sim.run(10 * SECOND);
    assert_near(log.between(0, u64::MAX).0, 2500, 1.0, "64 KiB is four of 16 KiB");
}

#[test]
fn a_limit_to_writes_lets_reads_pass() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "write_iops_sec=100");
    let connection = connect(&throttle);
    let (reads, writes) = (start(&mut sim, &connection, READS), start(&mut sim, &connection, WRITES));
    sim.run(SECOND);
    assert_near(writes.between(0, u64::MAX).0, 100, 3.0, "writes");
    // 32 in flight, 50 microseconds each.
    assert!(reads.between(0, u64::MAX).0 > 500_000);
}

#[test]
fn bursts_last_as_long_as_they_should() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_iops_sec=1000 total_iops_sec_max=5000 total_iops_sec_max_length=3");
    let connection = connect(&throttle);
    // Emptying takes 3 s, filling again 12.
    for (idle, burst) in [(0, 3000 * MILLI), (12 * SECOND, 3000 * MILLI), (6 * SECOND, 1500 * MILLI)] {
        sim.run(idle);
        let begin = sim.clock.now();
        let log = start(&mut sim, &connection, READS);
        sim.run(burst + 4 * SECOND);
        let end = begin + burst;
        let first_half = log.between(begin, begin + burst / 2).0;
        // The peak's own slack is 100 operations, and goes from the end of the burst.
        assert!((burst * 5 / 2 / MILLI..=burst * 5 / 2 / MILLI + 101).contains(&first_half), "{first_half}");
        assert_near(log.between(begin, end).0, burst * 5 / MILLI, 0.2, "in the burst");
        assert_near(log.between(end, end + 4 * SECOND).0, 4000, 0.5, "after it");
        sim.cancel_all();
    }
}

#[test]
fn one_request_in_flight_gets_as_much_as_thirty_two() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_iops_sec=1000");
    let (deep, single) = (connect(&throttle), connect(&throttle));
    let deep = start(&mut sim, &deep, READS);
    let single = start(&mut sim, &single, Load { depth: 1, ..WRITES });
    sim.run(10 * SECOND);
    let (deep, single) = (deep.between(0, u64::MAX).0, single.between(0, u64::MAX).0);
    assert_near(deep + single, 10_000, 1.0, "together");
    assert_near(single, deep, 10.0, "one in flight");
}

#[test]
fn small_requests_get_as_many_bytes_as_large_ones() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_bytes_sec=50M");
    let (large, small) = (connect(&throttle), connect(&throttle));
    let large = start(&mut sim, &large, Load { bytes: (MIB, MIB), ..READS });
    let small = start(&mut sim, &small, READS);
    sim.run(10 * SECOND);
    let (large, small) = (large.between(0, u64::MAX).1, small.between(0, u64::MAX).1);
    assert_near(large + small, 500 * MIB, 1.0, "together");
    assert_near(small, large, 2.0, "small ones");
}

#[test]
fn a_new_rule_is_in_force_within_a_tenth_of_a_second() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_iops_sec=1000");
    let log = start(&mut sim, &connect(&throttle), READS);
    for rate in [20_000, 100, 5000, 10, 100_000, 1000] {
        sim.run(3 * SECOND + 37 * MILLI);
        throttle.set_rule(&rule(&format!("total_iops_sec={rate}")));
        let changed = sim.clock.now();
        sim.run(2 * SECOND);
        let (early, later) = (changed + SECOND / 10, changed + 2 * SECOND);
        assert!(log.between(changed, early).0 <= rate / 10 + rate / 50 + 2, "{rate}: not before");
        assert_near(
            log.between(early, later).0,
            rate * 19 / 10,
            if rate > 10 { 1.0 } else { 6.0 },
            "after it",
        );
    }
    throttle.set_rule(&QosRule::default());
    let changed = sim.clock.now();
    sim.run(SECOND / 10);
    assert!(log.between(changed, changed + 1).0 >= 32 - 1, "all go at once");
    assert_eq!(throttle.stats().waiting, 0);
}

#[test]
fn setting_the_same_rule_again_and_again_gives_nothing() {
    let mut sim = Sim::new(1);
    let settings = "total_iops_sec=1000 total_iops_sec_max=2000 total_iops_sec_max_length=2";
    let throttle = throttle(&sim, settings);
    let log = start(&mut sim, &connect(&throttle), READS);
    sim.run(2 * SECOND);
    let begin = sim.clock.now();
    for _ in 0..5000 {
        sim.run(2 * MILLI);
        throttle.set_rule(&rule(settings));
    }
    assert_near(log.between(begin, sim.clock.now()).0, 10_000, 0.5, "ten seconds later");
}

#[test]
fn requests_that_vanish_leave_no_trace() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_iops_sec=100");
    let (stays, vanishes) = (connect(&throttle), connect(&throttle));
    let log = start(&mut sim, &stays, Load { depth: 2, ..READS });
    let mut random = Random::new(7);
    let mut tasks = Vec::new();
    for _ in 0..1000 {
        let connection = Rc::clone(&vanishes);
        // Two of these are admitted now and then, and are charged for that.
        tasks.push(sim.spawn(async move {
            connection.admit(Direction::Read, 1).await;
            std::future::pending::<()>().await;
        }));
        sim.run(10 * MILLI);
        let victim = tasks.swap_remove(random.below(tasks.len() as u64) as usize);
        sim.cancel(victim);
    }
    assert_near(log.between(0, u64::MAX).0, 1000, 3.0, "those that stay");
    sim.cancel_all();
    drop(vanishes);
    assert_eq!(throttle.stats().waiting, 0);
}

#[test]
fn a_keeper_that_vanishes_hands_its_duty_on() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_iops_sec=1");
    let connections: Vec<_> = (0..3).map(|_| connect(&throttle)).collect();
    let log = Log::default();
    let tasks: Vec<usize> = (0..6)
        .map(|index| {
            let (connection, clock, log) =
                (Rc::clone(&connections[index % 3]), sim.clock.clone(), log.clone());
            sim.spawn(async move {
                connection.admit(Direction::Write, 0).await;
                log.0.borrow_mut().push((clock.now(), index as u64));
            })
        })
        .collect();
    drop(connections);
    sim.run(SECOND / 2);
    assert_eq!((sim.running(), throttle.stats().waiting), (5, 5));
    // Whichever of them it is.
    for task in &tasks[1..5] {
        sim.cancel(*task);
        sim.run(MILLI);
    }
    sim.run(SECOND);
    assert_eq!(log.0.borrow().iter().map(|(_, index)| *index).collect::<Vec<_>>(), [0, 5]);
    assert_eq!(throttle.stats().waiting, 0);
}

#[test]
fn a_grant_that_nobody_takes_is_given_to_the_next() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_iops_sec=10");
    let connection = connect(&throttle);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut first = pin!(connection.admit(Direction::Read, 1));
    assert!(first.as_mut().poll(cx).is_ready());
    let mut dropped = Box::pin(connection.admit(Direction::Read, 1));
    let (mut second, mut third) =
        (pin!(connection.admit(Direction::Read, 1)), pin!(connection.admit(Direction::Read, 1)));
    assert!(dropped.as_mut().poll(cx).is_pending());
    assert!(second.as_mut().poll(cx).is_pending());
    assert!(third.as_mut().poll(cx).is_pending());
    sim.run(100 * MILLI);
    // This grants the one to be dropped, which does not get to know.
    assert!(third.as_mut().poll(cx).is_pending());
    assert_eq!(throttle.stats().waiting, 2);
    drop(dropped);
    assert_eq!(throttle.stats().waiting, 1);
    assert!(second.as_mut().poll(cx).is_ready());
    assert!(third.as_mut().poll(cx).is_pending());
}

#[test]
fn waiting_is_counted() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "read_bytes_sec=1M");
    let connection = connect(&throttle);
    for _ in 0..4 {
        let connection = Rc::clone(&connection);
        sim.spawn(async move { connection.admit(Direction::Read, MIB).await });
    }
    sim.run(SECOND / 2);
    let stats = throttle.stats();
    assert_eq!(stats, ThrottleStats { waits: 3, waited: Duration::ZERO, waiting: 3 });
    sim.run(10 * SECOND);
    let stats = throttle.stats();
    assert_eq!((stats.waits, stats.waiting, sim.running()), (3, 0, 0));
    // One, two and three seconds, but for the slack and the lateness.
    assert!(stats.waited.abs_diff(Duration::from_millis(6000 - 60)) < Duration::from_millis(10), "{stats:?}");
}

#[test]
fn huge_requests_over_tiny_rates_work_and_can_be_set_free() {
    let mut sim = Sim::new(1);
    let throttle = throttle(&sim, "total_bytes_sec=1K");
    let connection = connect(&throttle);
    let log = start(&mut sim, &connection, Load { depth: 3, bytes: (32 * MIB, 32 * MIB), ..READS });
    sim.run(70_000 * SECOND);
    assert_eq!(log.between(0, u64::MAX).0, 3, "one at once and one every nine hours");
    throttle.set_rule(&rule("total_bytes_sec=1G"));
    let changed = sim.clock.now();
    sim.run(SECOND);
    assert_near(log.between(changed + SECOND / 10, changed + SECOND).1, MIB * 1024 * 9 / 10, 4.0, "bytes");
}

#[test]
fn numbers_without_sense_do_no_harm() {
    let mut all = rule("total_iops_sec=1");
    all.total_iops_sec = u64::MAX;
    all.total_iops_sec_max = u64::MAX;
    all.total_iops_sec_max_length = u64::MAX;
    all.read_bytes_sec = 1;
    all.size_iops_sec = 1;
    let mut sim = Sim::new(1);
    let throttle = Throttle::with_clock(&all, sim.clock.clone());
    let connection = connect(&throttle);
    let log = start(&mut sim, &connection, Load { depth: 2, bytes: (u64::MAX - 1, u64::MAX - 1), ..READS });
    let writes = start(&mut sim, &connection, Load { depth: 1, bytes: (1, 1), ..WRITES });
    sim.run(SECOND);
    assert_eq!(log.between(0, u64::MAX).0, 1);
    assert!(writes.between(0, u64::MAX).0 > 0);
    throttle.set_rule(&QosRule::default());
    sim.run(SECOND);
    assert!(log.0.borrow().len() > 2);
}

#[test]
fn without_limits_nothing_is_kept() {
    let sim = Sim::new(1);
    let throttle = throttle(&sim, "");
    let connection = connect(&throttle);
    assert!(!throttle.is_limited());
    // Would wait for ever: nothing locked may be asked for.
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert_eq!(pin!(connection.admit(Direction::Write, u64::MAX)).poll(cx), Poll::Ready(()));
    }
    assert_eq!(throttle.stats(), ThrottleStats::default());
    throttle.set_rule(&rule("total_iops_sec=1"));
    assert!(throttle.is_limited() && connection.throttle().is_limited());
    assert_eq!(throttle.rule(), rule("total_iops_sec=1"));
}

#[test]
fn reactors_share_a_throttle() {
    let throttle = Throttle::new(&rule("total_iops_sec=2000"));
    let begin = Instant::now();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let throttle = Arc::clone(&throttle);
            std::thread::spawn(move || {
                let mut reactor = Reactor::new(Config::default()).expect("a reactor");
                reactor.block_on(async {
                    let connection = Rc::new(throttle.connection());
                    let tasks: Vec<_> = (0..8)
                        .map(|_| {
                            let connection = Rc::clone(&connection);
                            cairn_uring::spawn(async move {
                                for _ in 0..25 {
                                    connection.admit(Direction::Read, 4096).await;
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await;
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    // 600 operations, of which 41 need not wait.
    assert!(begin.elapsed() >= Duration::from_millis(279), "{:?}", begin.elapsed());
    assert_eq!(throttle.stats().waiting, 0);
}
