//! The shapes of known attacks on NBD servers, and endings nobody asked for. After each, another client on the same
//! reactor is served as if nothing had happened.

mod common;

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_nbd::{Limits, MemoryBudget, SessionEnd, SessionErrorKind};
use common::disk::GATED;
use common::raw::*;
use common::server::{Server, eventually};

/// Somebody else is served.
fn others_are_served(server: &Server) {
    let mut client = server.connect();
    client.enter("demo", Style::Structured, &["base:allocation"]);
    client.write(0, 1, 12_345, b"unharmed");
    assert_eq!(client.outcome(), (1, 0));
    assert_eq!(client.read(0, 2, 12_345, 8), Ok(b"unharmed".to_vec()));
    client.request(0, DISC, 3, 0, 0);
    client.expect_end();
    assert_eq!(server.ended().map(|s| s.end), Ok(SessionEnd::Disconnected));
}

#[test]
fn unknown_client_flags() {
    let server = Server::start();
    for flags in [4, 7, 0x8000_0000, u32::MAX] {
        let mut client = server.connect();
        client.greet(flags);
        client.expect_end();
        assert_eq!(server.ended(), Err(SessionErrorKind::Protocol), "{flags:#x}");
    }
    others_are_served(&server);
}

#[test]
fn garbage_instead_of_an_option_or_a_request() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    client.send(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n");
    client.expect_end();
    assert_eq!(server.ended(), Err(SessionErrorKind::Protocol));
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let mut client = server.connect();
        client.enter("demo", style, &[]);
        // The other style's magic is garbage too.
        let other = if style == Style::Extended { Style::Simple } else { Style::Extended };
        let mut garbage = request_bytes(other, 0, FLUSH, 1, 0, 0);
        garbage.resize(40, 0);
        client.send(&garbage);
        client.expect_end();
        assert_eq!(server.ended(), Err(SessionErrorKind::Protocol));
    }
    others_are_served(&server);
}

#[test]
fn names_longer_than_they_are() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(OPT_EXTENDED_HEADERS, b"").1, REP_ACK);
    for announced in [u32::MAX, u32::MAX - 1, 0x8000_0000, 100, 7] {
        let mut payload = announced.to_be_bytes().to_vec();
        payload.extend_from_slice(b"demo\0\0");
        for option in [OPT_INFO, OPT_GO, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT] {
            assert_eq!(client.ask(option, &payload), (vec![], ERR_INVALID), "{option} {announced:#x}");
        }
    }
    // The same for the lengths and counts of queries.
    for (count, len) in [(u32::MAX, 15), (2, 15), (1, u32::MAX), (1, 16), (1, 14)] {
        let mut payload = b"\0\0\0\x04demo".to_vec();
        payload.extend_from_slice(&count.to_be_bytes());
        payload.extend_from_slice(&len.to_be_bytes());
        payload.extend_from_slice(b"base:allocation");
        let reply = client.ask(OPT_SET_META_CONTEXT, &payload);
        assert_eq!(reply, (vec![], ERR_INVALID), "{count:#x} {len:#x}");
        if client.ask(OPT_INFO, &go_payload("demo", &[])).1 != REP_ACK {
            panic!("out of step");
        }
        // Start again before the number of options becomes the issue.
        client = server.connect();
        client.greet(3);
        assert_eq!(client.ask(OPT_EXTENDED_HEADERS, b"").1, REP_ACK);
    }
}

#[test]
fn payloads_of_gigabytes() {
    let server = Server::start();
    for option in [OPT_EXPORT_NAME, OPT_LIST, OPT_STARTTLS, OPT_GO, OPT_SET_META_CONTEXT, 4711] {
        for len in [u32::MAX, (1 << 20) + 1] {
            let mut client = server.connect();
            client.greet(3);
            client.option_header(option, len);
            client.expect_end();
            assert_eq!(server.ended(), Err(SessionErrorKind::Protocol), "{option} {len}");
        }
    }
    others_are_served(&server);
}

#[test]
fn payloads_too_large_to_keep_are_refused_and_consumed() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(OPT_STRUCTURED_REPLY, b"").1, REP_ACK);
    for option in [OPT_GO, OPT_INFO, OPT_SET_META_CONTEXT] {
        assert_eq!(client.ask(option, &vec![0; 1 << 20]), (vec![], ERR_TOO_BIG));
    }
    assert_eq!(client.ask(OPT_GO, &go_payload("demo", &[])).1, REP_ACK);
}

#[test]
fn long_names_are_not_echoed_whole() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    for name in ["x".repeat(4096), "\u{1}".repeat(4096), "é".repeat(2048), "%s%n\x1b[2J".repeat(400)] {
        client.option(OPT_GO, &go_payload(&name, &[]));
        let (kind, message) = client.reply(OPT_GO);
        assert_eq!(kind, ERR_UNKNOWN);
        let message = String::from_utf8(message).expect("a message is UTF-8");
        assert!(message.len() < 1024, "{} bytes", message.len());
        assert!(message.chars().all(|c| !c.is_control()), "{message:?}");
    }
}

#[test]
fn more_options_than_anybody_needs() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    for _ in 0..32 {
        assert_eq!(client.ask(99, b"").1, ERR_UNSUP);
    }
    client.option_header(OPT_STRUCTURED_REPLY, 0);
    client.expect_end();
    assert_eq!(server.ended(), Err(SessionErrorKind::TooManyOptions));
    // Listing again and again does not help.
    let mut client = server.connect();
    client.greet(3);
    for _ in 0..32 + 4 * 2 {
        assert_eq!(client.ask(OPT_LIST, b"").1, REP_ACK);
    }
    client.option_header(OPT_LIST, 0);
    client.expect_end();
    assert_eq!(server.ended(), Err(SessionErrorKind::TooManyOptions));
    others_are_served(&server);
}

#[test]
fn negotiations_that_never_end_are_ended() {
    let limits = Limits { negotiation: Duration::from_millis(300), ..Limits::default() };
    let server = Server::with_limits(limits);
    let mut idlers = Vec::new();
    for bytes in [&b""[..], b"\0\0", b"\0\0\0\x03IHAVE", b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\xff\xff"] {
        let mut client = server.connect();
        client.expect(b"NBDMAGICIHAVEOPT\x00\x03");
        client.send(bytes);
        idlers.push(client);
    }
    for mut client in idlers {
        client.expect_end();
        assert_eq!(server.ended(), Err(SessionErrorKind::NegotiationTimeout));
    }
    // The limit is on negotiation only.
    let mut patient = server.connect();
    patient.enter("demo", Style::Simple, &[]);
    std::thread::sleep(Duration::from_millis(600));
    patient.request(0, FLUSH, 1, 0, 0);
    assert_eq!(patient.simple(), (1, 0));
}

/// A whole session, from the client flags to requests of every kind.
fn script(style: Style) -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    let mut option = |code: u32, payload: &[u8]| {
        bytes.extend_from_slice(b"IHAVEOPT");
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
    };
    match style {
        Style::Simple => option(OPT_EXPORT_NAME, b"demo"),
        Style::Structured | Style::Extended => {
            let extended = style == Style::Extended;
            option(if extended { OPT_EXTENDED_HEADERS } else { OPT_STRUCTURED_REPLY }, b"");
            option(OPT_SET_META_CONTEXT, &context_payload("demo", &["base:allocation"]));
            option(OPT_INFO, &go_payload("demo", &[3]));
            option(OPT_GO, &go_payload("demo", &[3]));
        }
    }
    let write = if style == Style::Extended { PAYLOAD_LEN } else { 0 };
    bytes.extend_from_slice(&request_bytes(style, write, WRITE, 1, 100, 10));
    bytes.extend_from_slice(b"0123456789");
    bytes.extend_from_slice(&request_bytes(style, 0, READ, 2, 0, 200_000));
    bytes.extend_from_slice(&request_bytes(style, 0, BLOCK_STATUS, 3, 0, 4096));
    bytes.extend_from_slice(&request_bytes(style, 0, FLUSH, 4, 0, 0));
    bytes
}

#[test]
fn clients_that_vanish_at_any_byte() {
    let server = Server::start();
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let bytes = script(style);
        for len in 0..=bytes.len() {
            let mut client = server.connect();
            client.send(&bytes[..len]);
            // Some read before they go, so that both kinds of death occur: by reset and by end of stream.
            if len % 2 == 0 {
                client.expect(b"NBDMAGICIHAVEOPT\x00\x03");
            }
            drop(client);
            let ended = server.ended();
            assert!(
                matches!(&ended, Ok(s) if s.end == SessionEnd::Closed) || ended == Err(SessionErrorKind::Io),
                "{style:?} at byte {len}: {ended:?}"
            );
            assert_eq!(server.knobs.open.load(Ordering::SeqCst), 0, "{style:?} at byte {len}");
        }
    }
    others_are_served(&server);
}

#[test]
fn a_client_that_vanishes_in_the_middle_of_large_payloads() {
    let server = Server::start();
    for sent in [0, 1, 4096, 300_000, (8 << 20) - 1] {
        let mut client = server.connect();
        client.enter("demo", Style::Simple, &[]);
        client.request(0, WRITE, 1, 0, 8 << 20);
        client.send(&vec![0x77; sent]);
        drop(client);
        assert_eq!(server.ended(), Err(SessionErrorKind::Io), "{sent}");
    }
    let mut client = server.connect();
    client.enter("demo", Style::Simple, &[]);
    assert_eq!(client.read(0, 1, 0, 4096), Ok(vec![0; 4096]), "half a write is no write");
}

#[test]
fn a_client_that_vanishes_while_its_requests_run() {
    let server = Server::start();
    for _ in 0..10 {
        let mut client = server.connect();
        client.enter("demo", Style::Simple, &[]);
        client.request(0, READ, 1, GATED, 1 << 20);
    }
    eventually("ten reads wait", || server.knobs.gated.load(Ordering::SeqCst) == 10);
    others_are_served(&server);
    assert_eq!(server.knobs.open.load(Ordering::SeqCst), 10, "no session ends before its requests have");
    server.knobs.gate.trigger();
    for _ in 0..10 {
        let ended = server.ended();
        assert!(matches!(ended, Ok(_) | Err(SessionErrorKind::Io)), "{ended:?}");
    }
}

#[test]
fn a_reader_that_never_reads_is_bounded_in_bytes() {
    let server = Server::start();
    let mut client = server.connect();
    client.enter("demo", Style::Simple, &[]);
    let requests: Vec<u8> =
        (0..5000).flat_map(|i| request_bytes(Style::Simple, 0, READ, i, i * 4096, 1 << 20)).collect();
    client.socket.set_nonblocking(true).expect("nonblocking");
    // As much as the server takes.
    let _ = client.socket.write(&requests).expect("some of it");
    // 64 MiB at 1 MiB each: so many are begun, and no more.
    eventually("64 reads", || server.knobs.reads.load(Ordering::SeqCst) >= 64);
    for _ in 0..20 {
        others_are_served_reading_nothing(&server);
    }
    assert_eq!(server.knobs.reads.load(Ordering::SeqCst), 64);
    drop(client);
    let ended = server.ended();
    assert!(matches!(ended, Ok(_) | Err(SessionErrorKind::Io)), "{ended:?}");
}

/// A flush by somebody else: it shows that the reactor has turned.
fn others_are_served_reading_nothing(server: &Server) {
    let mut client = server.connect();
    client.enter("demo", Style::Extended, &[]);
    client.request(0, FLUSH, 1, 0, 0);
    assert_eq!(client.outcome(), (1, 0));
    client.request(0, DISC, 2, 0, 0);
    client.expect_end();
    assert_eq!(server.ended().map(|s| s.end), Ok(SessionEnd::Disconnected));
}

#[test]
fn requests_in_flight_are_bounded_in_number() {
    let server = Server::with_limits(Limits { max_requests: 8, ..Limits::default() });
    let mut client = server.connect();
    client.enter("demo", Style::Simple, &[]);
    for cookie in 0..100 {
        client.request(0, READ, cookie, GATED, 512);
    }
    eventually("eight reads wait", || server.knobs.gated.load(Ordering::SeqCst) == 8);
    for _ in 0..20 {
        others_are_served_reading_nothing(&server);
    }
    assert_eq!(server.knobs.reads.load(Ordering::SeqCst), 8);
    server.knobs.gate.trigger();
    for _ in 0..100 {
        let (cookie, error) = client.simple();
        assert!(cookie < 100 && error == 0);
        client.expect(&[0; 512]);
    }
}

#[test]
fn one_request_larger_than_the_limit_is_served_alone() {
    let server = Server::with_limits(Limits { max_bytes: 1 << 20, ..Limits::default() });
    let mut client = server.connect();
    client.enter("demo", Style::Simple, &[]);
    let bytes = vec![3; 8 << 20];
    client.write(0, 1, 0, &bytes);
    client.request(0, READ, 2, 0, 8 << 20);
    assert_eq!(client.simple(), (1, 0));
    assert!(client.contents(2, 0, 8 << 20).expect("data") == bytes);
}

#[test]
fn many_connections_share_one_budget_and_none_is_stopped_by_it() {
    let budget = MemoryBudget::new(1 << 20);
    let limits = Limits { budget: budget.clone(), ..Limits::default() };
    let server = Server::with_limits(limits);
    let mut greedy = server.connect();
    greedy.enter("demo", Style::Simple, &[]);
    for cookie in 0..4 {
        greedy.request(0, READ, cookie, GATED, 512 << 10);
    }
    eventually("the budget is spent", || budget.used() == 1 << 20);
    // Announced and not sent: it holds what it announces, having nothing else.
    let mut stalled = server.connect();
    stalled.enter("demo", Style::Simple, &[]);
    stalled.request(0, WRITE, 1, 0, 1 << 20);
    eventually("it is overdrawn", || budget.used() == 2 << 20);
    let mut modest = server.connect();
    modest.enter("demo", Style::Simple, &[]);
    for cookie in 0..2 {
        modest.request(0, READ, cookie, GATED, 4096);
    }
    eventually("one request of each", || server.knobs.gated.load(Ordering::SeqCst) == 3);
    for _ in 0..20 {
        others_are_served_reading_nothing(&server);
    }
    assert_eq!(server.knobs.gated.load(Ordering::SeqCst), 3, "no second one of anybody");
    others_are_served(&server);

    server.knobs.gate.trigger();
    for (client, count, len) in [(&mut modest, 2, 4096), (&mut greedy, 4, 512 << 10)] {
        for _ in 0..count {
            let (cookie, error) = client.simple();
            assert!(cookie < count && error == 0);
            client.recv(len);
        }
    }
    drop(stalled);
    eventually("all of it is given back", || budget.used() == 0);
}

/// A client with a read in flight that ends when the gate opens.
fn busy(server: &Server, style: Style) -> Raw {
    let mut client = server.connect();
    client.enter("demo", style, &[]);
    client.request(0, READ, 1, GATED, 4096);
    eventually("the read waits", || server.knobs.gated.load(Ordering::SeqCst) == 1);
    client
}

// A kernel client hands an ESHUTDOWN on to the file system above it, which goes read-only; what it got no answer to
// it sends again once it has reconnected. So a server that was restarted under load broke its clients.
#[test]
fn shutdown_finishes_what_is_in_flight_and_takes_no_more() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let server = Server::start();
        let mut busy = busy(&server, style);
        let mut idle = server.connect();
        idle.enter("demo", style, &[]);
        let mut negotiating = server.connect();
        negotiating.greet(3);
        assert_eq!(negotiating.ask(OPT_LIST, b"").1, REP_ACK);

        server.knobs.sessions.trigger();
        for mut client in [idle, negotiating] {
            client.expect_end();
            drop(client);
            assert_eq!(server.ended().map(|s| s.end), Ok(SessionEnd::Shutdown));
        }
        // More than sockets hold: a client that sends all before it receives is not left hanging.
        for cookie in 2..50 {
            busy.write(0, cookie, 0, &[1; 100_000]);
        }
        server.knobs.gate.trigger();
        assert_eq!(busy.contents(1, GATED, 4096), Ok(vec![0; 4096]));
        busy.expect_end();
        drop(busy);
        let summary = server.ended().expect("a clean end");
        assert_eq!((summary.end, summary.requests, summary.errors), (SessionEnd::Shutdown, 1, 0));
        assert_eq!(summary.bytes_written, 0);
    }
}

/// Sends a FLUSH and the head of a WRITE at once, and waits for the FLUSH: then the WRITE has been taken in.
fn begin_write(client: &mut Raw, len: usize) {
    let mut requests = request_bytes(Style::Simple, 0, FLUSH, 2, 0, 0);
    requests.extend_from_slice(&request_bytes(Style::Simple, 0, WRITE, 3, 0, len as u64));
    client.send(&requests);
    assert_eq!(client.simple(), (2, 0));
}

#[test]
fn a_payload_under_way_at_shutdown_is_taken_if_it_comes() {
    for len in [20_000, 200_000] {
        let server = Server::with_limits(Limits { drain: Duration::from_secs(600), ..Limits::default() });
        let mut client = busy(&server, Style::Simple);
        begin_write(&mut client, len);
        client.send(&vec![7; len / 2]);
        server.knobs.sessions.trigger();
        client.send(&vec![7; len - len / 2]);
        assert_eq!(client.simple(), (3, 0));
        server.knobs.gate.trigger();
        assert_eq!(client.contents(1, GATED, 4096), Ok(vec![0; 4096]));
        client.expect_end();
        drop(client);
        let summary = server.ended().expect("a clean end");
        assert_eq!((summary.end, summary.bytes_written), (SessionEnd::Shutdown, len as u64));
    }
}

#[test]
fn a_payload_that_does_not_come_holds_no_shutdown_up() {
    let server = Server::with_limits(Limits { drain: Duration::from_secs(4), ..Limits::default() });
    let mut client = busy(&server, Style::Simple);
    begin_write(&mut client, 200_000);
    server.knobs.sessions.trigger();
    server.knobs.gate.trigger();
    assert_eq!(client.contents(1, GATED, 4096), Ok(vec![0; 4096]));
    client.expect_end();
    drop(client);
    let summary = server.ended().expect("a clean end");
    assert_eq!((summary.end, summary.bytes_written), (SessionEnd::Shutdown, 0));
}

#[test]
fn options_received_at_shutdown_are_told_so() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    // Sent at once: by the time the second is looked at, the first has thrown the switch.
    let mut options = Vec::new();
    for (code, payload) in [(OPT_INFO, go_payload("last", &[])), (OPT_GO, go_payload("demo", &[]))] {
        options.extend_from_slice(b"IHAVEOPT");
        options.extend_from_slice(&code.to_be_bytes());
        options.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        options.extend_from_slice(&payload);
    }
    client.send(&options);
    assert_eq!(client.replies(OPT_INFO).1, REP_ACK);
    assert_eq!(client.replies(OPT_GO), (vec![], ERR_SHUTDOWN));
    client.expect_end();
    drop(client);
    assert_eq!(server.ended().map(|s| s.end), Ok(SessionEnd::Shutdown));
}

#[test]
fn a_client_that_does_not_take_its_replies_cannot_hold_a_shutdown_up() {
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with_limits(limits);
    let mut client = server.connect();
    client.enter("demo", Style::Simple, &[]);
    for cookie in 0..20 {
        client.request(0, READ, cookie, 0, 4 << 20);
    }
    eventually("reads have begun", || server.knobs.reads.load(Ordering::SeqCst) > 0);
    server.knobs.sessions.trigger();
    assert_eq!(server.ended(), Err(SessionErrorKind::DrainTimeout));
}
