//! The fault model itself: what a crash may take away, and what it never may.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use super::{Fault, Op, Rng, SECTOR_BYTES, Sim, SimDisk, block_on};
use crate::{Buf, Disk};

const PAGE: usize = 4096;

fn filled(disk: &SimDisk, byte: u8, pages: usize) -> super::SimBuf {
    let mut buf = disk.alloc(pages * PAGE);
    buf.fill(byte);
    buf
}

async fn put(disk: &SimDisk, page: u64, byte: u8) -> io::Result<()> {
    disk.write(page * PAGE as u64, vec![filled(disk, byte, 1)]).await.0
}

async fn get(disk: &SimDisk, page: u64) -> io::Result<Vec<u8>> {
    let (result, buf) = disk.read(page * PAGE as u64, disk.alloc(PAGE)).await;
    result.map(|()| buf.to_vec())
}

/// A disk of 8 pages with page 0 durably holding ones and page 1 durably holding ones, then twos unsynced.
fn half_synced() -> SimDisk {
    let disk = SimDisk::device(8 * PAGE as u64);
    let d = disk.clone();
    block_on(async move {
        put(&d, 0, 1).await.unwrap();
        put(&d, 1, 1).await.unwrap();
        d.sync().await.unwrap();
        put(&d, 1, 2).await.unwrap();
    });
    disk
}

#[test]
fn reads_see_completed_writes_and_zeroes() {
    let disk = half_synced();
    block_on(async move {
        assert_eq!(get(&disk, 0).await.unwrap(), [1; PAGE]);
        assert_eq!(get(&disk, 1).await.unwrap(), [2; PAGE]);
        assert_eq!(get(&disk, 2).await.unwrap(), [0; PAGE]);
        assert_eq!(get(&disk, 8).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(disk.counts().writes, 3);
        assert_eq!(disk.counts().bytes_read, 4 * PAGE as u64);
    });
}

#[test]
fn a_crash_may_lose_or_tear_what_was_not_synced_and_nothing_else() {
    let disk = half_synced();
    let mut outcomes = BTreeSet::new();
    for seed in 0..400 {
        let after = disk.crash(&mut Rng::new(seed));
        assert_eq!(after.peek(0, PAGE), [1; PAGE], "seed {seed} lost a synced write");
        let page = after.peek(PAGE as u64, PAGE);
        outcomes.insert(match () {
            () if page == [1; PAGE] => "old",
            () if page == [2; PAGE] => "new",
            () if page.chunks(SECTOR_BYTES).all(|s| s == [1; SECTOR_BYTES] || s == [2; SECTOR_BYTES]) => {
                "torn"
            }
            () => "garbage",
        });
    }
    assert_eq!(outcomes, BTreeSet::from(["old", "new", "torn", "garbage"]));
}

#[test]
fn after_a_sync_a_crash_loses_nothing() {
    let disk = half_synced();
    let d = disk.clone();
    block_on(async move { d.sync().await.unwrap() });
    assert_eq!(disk.unsynced_pages(), 0);
    for seed in 0..100 {
        assert_eq!(disk.crash(&mut Rng::new(seed)).peek(PAGE as u64, PAGE), [2; PAGE], "seed {seed}");
    }
}

#[test]
fn the_death_of_the_process_keeps_completed_writes_unsynced() {
    let disk = half_synced().kill(&mut Rng::new(1));
    assert_eq!(disk.peek(PAGE as u64, PAGE), [2; PAGE]);
    let lost = (0..100).any(|seed| disk.crash(&mut Rng::new(seed)).peek(PAGE as u64, PAGE) == [1; PAGE]);
    assert!(lost, "a power loss after the kill can still lose them");
}

#[test]
fn growth_is_durable_only_after_a_sync() {
    let disk = SimDisk::file(1 << 20);
    let d = disk.clone();
    block_on(async move { d.grow(64 << 10).await.unwrap() });
    let lens: BTreeSet<u64> = (0..100).map(|seed| disk.crash(&mut Rng::new(seed)).len()).collect();
    assert_eq!(lens, BTreeSet::from([0, 64 << 10]));
    let d = disk.clone();
    block_on(async move { d.sync().await.unwrap() });
    assert!((0..100).all(|seed| disk.crash(&mut Rng::new(seed)).len() == 64 << 10));
    block_on(async move {
        assert_eq!(disk.grow(2 << 20).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.set_room(2 << 20);
        disk.grow(2 << 20).await.unwrap();
    });
}

#[test]
fn a_sync_covers_only_writes_that_completed_before_it_began() {
    let mut lost = false;
    for seed in 0..300 {
        let disk = SimDisk::device(8 * PAGE as u64);
        let sim = Sim::new(seed);
        sim.attach(&disk);
        let (a, b) = (disk.clone(), disk.clone());
        let writer = sim.spawn(async move { put(&a, 3, 7).await.unwrap() });
        sim.run(async move {
            b.sync().await.unwrap();
            writer.await;
        });
        let after = disk.crash(&mut Rng::new(seed));
        lost |= after.peek(3 * PAGE as u64, PAGE) == [0; PAGE];
    }
    assert!(lost, "a sync beside a write must not be relied on");
}

#[test]
fn a_failed_sync_abandons_what_it_covered() {
    let disk = half_synced();
    disk.inject(Fault::on(Op::Sync).once());
    let d = disk.clone();
    block_on(async move {
        assert_eq!(d.sync().await.unwrap_err().raw_os_error(), Some(5));
        d.sync().await.unwrap();
    });
    assert_eq!(disk.peek(PAGE as u64, PAGE), [2; PAGE], "reads still see it");
    let lost = (0..100).any(|seed| disk.crash(&mut Rng::new(seed)).peek(PAGE as u64, PAGE) == [1; PAGE]);
    assert!(lost, "a second sync must not help");
}

#[test]
fn faults_hit_the_operations_they_name() {
    let disk = half_synced();
    block_on(async move {
        disk.inject(Fault::on(Op::Read).after(1).once());
        assert!(get(&disk, 0).await.is_ok());
        assert!(get(&disk, 0).await.is_err());
        assert!(get(&disk, 0).await.is_ok());
        disk.inject(Fault::on(Op::Write).within(4096..8192));
        assert!(put(&disk, 0, 9).await.is_ok());
        assert!(put(&disk, 1, 9).await.is_err());
        assert!(put(&disk, 1, 9).await.is_err());
        disk.clear_faults();
        disk.inject(Fault::on(Op::Write).lose().once());
        assert!(put(&disk, 0, 8).await.is_ok());
        assert_eq!(disk.peek(0, PAGE), [9; PAGE]);
        disk.inject(Fault::on(Op::Write).misdirect(5 * 4096).once());
        assert!(put(&disk, 0, 7).await.is_ok());
        assert_eq!(disk.peek(0, PAGE), [9; PAGE]);
        assert_eq!(disk.peek(5 * 4096, PAGE), [7; PAGE]);
    });
}

#[test]
fn damage_reaches_durable_and_unsynced_data() {
    let disk = half_synced();
    disk.flip_bit(PAGE as u64 + 10, 3);
    assert_eq!(disk.peek(PAGE as u64 + 9, 3), [2, 2 ^ 8, 2]);
    disk.poke(PAGE as u64 - 1, &[5, 6]);
    assert_eq!(disk.peek(PAGE as u64 - 2, 4), [1, 5, 6, 2]);
    disk.truncate(PAGE as u64);
    assert_eq!(disk.len(), PAGE as u64);
    block_on(async move { assert!(get(&disk, 1).await.is_err()) });
}

#[test]
fn memory_and_places_that_direct_io_refuses_are_refused() {
    let disk = half_synced();
    block_on(async move {
        let buf = filled(&disk, 1, 1);
        assert_eq!(disk.write(512, vec![buf]).await.0.unwrap_err().raw_os_error(), Some(22));
        let mut buf = filled(&disk, 1, 2);
        let tail = buf.split_off(512);
        assert_eq!(disk.write(0, vec![tail]).await.0.unwrap_err().raw_os_error(), Some(22));
        let mut buf = filled(&disk, 6, 2);
        let tail = buf.split_off(PAGE);
        let (result, mut bufs) = disk.write(0, vec![buf, tail]).await;
        result.unwrap();
        let tail = bufs.pop().unwrap();
        bufs[0].join(tail);
        assert_eq!(bufs[0].len(), 2 * PAGE);
        assert!(disk.write(8 * PAGE as u64, bufs).await.0.is_err(), "past the end");
    });
}

/// A write to the first page is under way when something else begins.
fn beside_a_write<T: 'static>(other: impl AsyncFnOnce(&SimDisk) -> T + 'static) -> T {
    let disk = SimDisk::device(8 * PAGE as u64);
    let sim = Sim::in_order();
    sim.attach(&disk);
    let (a, b) = (disk.clone(), disk.clone());
    drop(sim.spawn(async move { put(&a, 0, 1).await }));
    sim.run(async move { other(&b).await })
}

#[test]
fn what_is_apart_may_be_under_way_at_once() {
    beside_a_write(async |disk| put(disk, 1, 2).await.unwrap());
    beside_a_write(async |disk| get(disk, 1).await.unwrap());
    beside_a_write(async |disk| disk.sync().await.unwrap());
}

#[test]
#[should_panic(expected = "Read of bytes 0..4096 of the disk while a Write of 0..4096 is under way")]
fn a_read_beside_a_write_of_the_same_place_is_noticed() {
    beside_a_write(async |disk| get(disk, 0).await.unwrap());
}

#[test]
#[should_panic(expected = "Write of bytes 0..4096 of the disk while a Write of 0..4096 is under way")]
fn a_write_beside_another_of_the_same_place_is_noticed() {
    beside_a_write(async |disk| put(disk, 0, 2).await.unwrap());
}

#[test]
fn the_seed_decides_the_order_and_nothing_else_does() {
    let order = |seed| {
        let disk = SimDisk::device(8 * PAGE as u64);
        let sim = Sim::new(seed);
        sim.attach(&disk);
        let done = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..6)
            .map(|i| {
                let (disk, done) = (disk.clone(), Rc::clone(&done));
                sim.spawn(async move {
                    put(&disk, i, 1).await.unwrap();
                    done.borrow_mut().push(i);
                })
            })
            .collect();
        sim.run(async move {
            for task in tasks {
                task.await;
            }
        });
        (done.take(), sim.trace())
    };
    assert_eq!(order(5), order(5));
    let orders: BTreeSet<_> = (0..20).map(|seed| order(seed).0).collect();
    assert!(orders.len() > 10, "only {} different orders", orders.len());
}

#[test]
fn stopping_cuts_operations_off() {
    let disk = SimDisk::device(8 * PAGE as u64);
    let sim = Sim::new(3);
    sim.attach(&disk);
    let d = disk.clone();
    // The event polls the task, which issues the write; it never completes.
    assert_eq!(sim.run_for(1, async move { put(&d, 0, 1).await.unwrap() }), None);
    sim.stop();
    assert_eq!(disk.peek(0, PAGE), [0; PAGE]);
    let seen: BTreeSet<bool> =
        (0..100).map(|seed| disk.crash(&mut Rng::new(seed)).peek(0, PAGE) == [1; PAGE]).collect();
    assert_eq!(seen.len(), 2, "a write in flight may have been carried out, or not");
}

#[test]
fn sleepers_wake_in_time_order() {
    let sim = Sim::new(0);
    let handle = sim.handle();
    let order = Rc::new(RefCell::new(Vec::new()));
    let sleepers: Vec<_> = [30, 10, 20]
        .into_iter()
        .map(|events| {
            let (handle, order) = (handle.clone(), Rc::clone(&order));
            sim.spawn(async move {
                handle.sleep(events * 100).await;
                order.borrow_mut().push(events);
            })
        })
        .collect();
    sim.run(async move {
        for sleeper in sleepers {
            sleeper.await;
        }
    });
    assert_eq!(*order.borrow(), [10, 20, 30]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_future_that_nobody_wakes_is_a_deadlock() {
    Sim::new(0).run(std::future::pending::<()>());
}

/// The oracle of every crash test in small: a counter bumped in place under syncs never goes back behind what was
/// answered.
#[test]
fn a_counter_under_syncs_never_goes_back() {
    super::for_each_seed(200, |seed| {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::device(8 * PAGE as u64);
        let sim = Sim::new(seed);
        sim.attach(&disk);
        let answered = Rc::new(RefCell::new(0));
        let (d, a) = (disk.clone(), Rc::clone(&answered));
        sim.run_for(rng.below(60), async move {
            for value in 1..20 {
                // Alternating pages, so that a torn write never hits the last good one.
                put(&d, u64::from(value % 2), value).await.unwrap();
                d.sync().await.unwrap();
                *a.borrow_mut() = value;
            }
        });
        sim.stop();
        let after = disk.crash(&mut rng);
        let whole = |page: u64| {
            let bytes = after.peek(page * PAGE as u64, PAGE);
            bytes.iter().all(|&b| b == bytes[0]).then_some(bytes[0])
        };
        let found = [whole(0), whole(1)].into_iter().flatten().max().unwrap_or(0);
        assert!(found >= *answered.borrow(), "answered {}, found {found}", answered.borrow());
    });
}
