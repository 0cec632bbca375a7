//! Exports that let requests wait: what may pass them meanwhile, what memory they hold, and how they end.

mod common;

use std::sync::atomic::Ordering;

use cairn_nbd::{Limits, MemoryBudget, SessionEnd, SessionErrorKind};
use common::raw::*;
use common::server::{Server, eventually};

fn throttled(server: &Server) -> Raw {
    let mut client = server.connect();
    client.enter("throttled", Style::Simple, &[]);
    client
}

fn waiting(server: &Server) -> usize {
    server.knobs.waiting.load(Ordering::SeqCst)
}

#[test]
fn only_what_moves_data_or_changes_the_disk_waits() {
    let server = Server::start();
    let mut client = throttled(&server);
    client.request(0, READ, 1, 0, 512);
    client.write(0, 2, 0, &[7; 512]);
    client.request(0, TRIM, 3, 1 << 20, 4096);
    client.request(0, WRITE_ZEROES, 4, 2 << 20, 4096);
    client.request(0, FLUSH, 5, 0, 0);
    client.request(0, CACHE, 6, 0, 4096);
    assert_eq!((client.simple(), client.simple()), ((5, 0), (6, 0)));
    eventually("four requests wait", || waiting(&server) == 4);
    let mut other = server.connect();
    other.enter("demo", Style::Simple, &[]);
    assert_eq!(other.read(0, 1, 0, 512), Ok(vec![0; 512]), "the write has not begun");
    server.knobs.limit.trigger();
    for _ in 0..4 {
        let (cookie, error) = client.simple();
        assert_eq!(error, 0);
        if cookie == 1 {
            client.recv(512);
        }
    }
    assert_eq!(waiting(&server), 0);
    assert_eq!(other.read(0, 2, 0, 512), Ok(vec![7; 512]));
}

#[test]
fn throttled_exports_leave_half_of_the_memory_to_the_others() {
    let budget = MemoryBudget::new(4 << 20);
    let server = Server::with_limits(Limits { budget: budget.clone(), ..Limits::default() });
    let mut slow: Vec<Raw> = (0..3).map(|_| throttled(&server)).collect();
    for client in &mut slow {
        for cookie in 0..4 {
            client.request(0, READ, cookie, 0, 1 << 20);
        }
    }
    // Two of them have room; a connection that has nothing gets one request in any case.
    eventually("the half is taken", || budget.used() == 2 << 20 && budget.used_throttled() >= 3 << 20);
    // Behind what has room.
    slow.push(throttled(&server));
    slow[3].request(0, READ, 0, 0, 512);
    slow[3].request(0, FLUSH, 9, 0, 0);
    assert_eq!(slow[3].simple(), (9, 0));
    // The others have their half, and more than one request of it.
    let mut fast = server.connect();
    fast.enter("demo", Style::Simple, &[]);
    for cookie in 0..2 {
        fast.request(0, READ, cookie, common::disk::GATED, 1 << 20);
    }
    eventually("both are begun", || server.knobs.gated.load(Ordering::SeqCst) == 2);
    assert_eq!(budget.used(), 4 << 20);
    server.knobs.gate.trigger();
    for _ in 0..2 {
        assert_eq!(fast.simple().1, 0);
        fast.recv(1 << 20);
    }
    assert_eq!(server.knobs.reads.load(Ordering::SeqCst), 2, "none of the others has begun");
    server.knobs.limit.trigger();
    for client in &mut slow[..3] {
        for _ in 0..4 {
            assert_eq!(client.simple().1, 0);
            client.recv(1 << 20);
        }
    }
    drop(slow);
    eventually("all of it is given back", || (budget.used(), budget.used_throttled()) == (0, 0));
}

#[test]
fn a_client_that_vanishes_takes_what_waits_with_it() {
    let budget = MemoryBudget::new(1 << 20);
    let server = Server::with_limits(Limits { budget: budget.clone(), ..Limits::default() });
    let mut client = throttled(&server);
    for cookie in 0..8 {
        client.write(0, cookie, 0, &[7; 4096]);
    }
    eventually("they wait", || waiting(&server) == 8);
    drop(client);
    let ended = server.ended();
    assert!(
        matches!(&ended, Ok(s) if s.end == SessionEnd::Closed) || ended == Err(SessionErrorKind::Io),
        "{ended:?}"
    );
    assert_eq!(waiting(&server), 0);
    assert_eq!((budget.used(), budget.used_throttled()), (0, 0));
    assert_eq!(server.knobs.open.load(Ordering::SeqCst), 0);
    let mut other = server.connect();
    other.enter("demo", Style::Simple, &[]);
    assert_eq!(other.read(0, 1, 0, 4096), Ok(vec![0; 4096]), "nothing was written");
}

// What waited at a shutdown was dropped, which clients that do not connect again take for lost.
#[test]
fn a_shutdown_has_what_waits_done_at_once() {
    let server = Server::start();
    let mut client = throttled(&server);
    for cookie in 0..8 {
        client.write(0, cookie, cookie * 4096, &[7; 4096]);
    }
    eventually("they wait", || waiting(&server) == 8);
    server.knobs.sessions.trigger();
    let mut answered: Vec<_> = (0..8).map(|_| client.simple()).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..8).map(|cookie| (cookie, 0)).collect::<Vec<_>>());
    client.expect_end();
    drop(client);
    let summary = server.ended().expect("a clean end");
    assert_eq!((summary.end, summary.bytes_written), (SessionEnd::Shutdown, 8 * 4096));
    assert_eq!(waiting(&server), 0);
}

#[test]
fn a_client_that_says_it_leaves_has_its_requests_finished() {
    let server = Server::start();
    let mut client = throttled(&server);
    client.write(0, 1, 0, &[7; 4096]);
    client.request(0, DISC, 2, 0, 0);
    eventually("it waits", || waiting(&server) == 1);
    server.knobs.limit.trigger();
    assert_eq!(client.simple(), (1, 0));
    client.expect_end();
    let summary = server.ended().expect("a clean end");
    assert_eq!((summary.end, summary.bytes_written), (SessionEnd::Disconnected, 4096));
}
