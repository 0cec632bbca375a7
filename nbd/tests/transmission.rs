//! Transmission, byte by byte, in all three styles.

mod common;

use std::net::Shutdown as How;
use std::sync::atomic::Ordering;

use cairn_nbd::{SessionEnd, ZeroFlags};
use common::disk::{GATED, ODD, SIZE};
use common::raw::*;
use common::server::{Server, eventually};

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

fn enter(server: &Server, style: Style) -> Raw {
    let mut client = server.connect();
    client.enter("demo", style, &[]);
    client
}

/// Bytes that differ at every place where a mistake could put them.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn what_was_written_is_read_at_any_alignment_and_size() {
    let server = Server::start();
    for style in STYLES {
        let mut client = enter(&server, style);
        let sizes = [1, 511, 512, 4095, 4096, 4097, 32_767, 32_768, 65_537, 262_144, 1 << 20, 32 << 20];
        for (cookie, len) in sizes.into_iter().enumerate() {
            for phase in [0, 1, 512, 4095].into_iter().take(if len > 1 << 20 { 2 } else { 4 }) {
                let (cookie, offset) = (cookie as u64, (5 << 30) + phase);
                let bytes = pattern(phase + len as u64, len);
                client.write(0, cookie, offset, &bytes);
                assert_eq!(client.outcome(), (cookie, 0), "{style:?} {len} at {phase}");
                let back = client.read(0, cookie, offset, len as u64).expect("it was written");
                assert!(back == bytes, "{style:?} {len} at {phase}");
            }
        }
    }
}

#[test]
fn requests_torn_at_any_byte_are_put_together() {
    let server = Server::start();
    for style in STYLES {
        let mut client = enter(&server, style);
        let flags = if style == Style::Extended { PAYLOAD_LEN } else { 0 };
        let mut bytes = request_bytes(style, flags, WRITE, 1, 700, 9);
        bytes.extend_from_slice(b"piecemeal");
        bytes.extend_from_slice(&request_bytes(style, 0, READ, 2, 699, 11));
        client.request(0, FLUSH, 1, 0, 0);
        assert_eq!(client.outcome(), (1, 0));
        for byte in bytes {
            client.send(&[byte]);
        }
        if style == Style::Extended {
            // The raw client checks offsets by cookie, and these requests went past it.
            client
                .expect(b"\x6e\x8a\x27\x8c\0\x01\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x02\xbc\0\0\0\0\0\0\0\0");
            client.expect(b"\x6e\x8a\x27\x8c\0\x01\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x02\xbb");
            client.expect(b"\0\0\0\0\0\0\0\x13\0\0\0\0\0\0\x02\xbb\0piecemeal\0");
        } else {
            assert_eq!(client.outcome(), (1, 0));
            assert_eq!(client.contents(2, 699, 11), Ok(b"\0piecemeal\0".to_vec()));
        }
    }
}

#[test]
fn a_burst_of_requests_is_answered_whole() {
    let server = Server::start();
    for style in STYLES {
        let mut client = enter(&server, style);
        const COUNT: u64 = 2000;
        let mut burst = Vec::new();
        for i in 0..COUNT {
            let flags = if style == Style::Extended { PAYLOAD_LEN } else { 0 };
            burst.extend_from_slice(&request_bytes(style, flags, WRITE, i, i * 600, 600));
            burst.extend_from_slice(&pattern(i, 600));
        }
        let mut sender = client.socket.try_clone().expect("a second handle");
        let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &burst));
        let mut seen = vec![false; COUNT as usize];
        for _ in 0..COUNT {
            let cookie = if style == Style::Simple {
                client.simple().0
            } else {
                let head = client.recv(if style == Style::Extended { 32 } else { 20 });
                be64(&head[8..])
            };
            assert!(!std::mem::replace(&mut seen[cookie as usize], true), "{cookie} answered twice");
        }
        sending.join().expect("the sender").expect("everything was sent");
        for i in [0, 1, 777, COUNT - 1] {
            assert_eq!(client.read(0, i, i * 600, 600), Ok(pattern(i, 600)));
        }
    }
}

#[test]
fn holes_go_out_as_holes() {
    let server = Server::start();
    for style in [Style::Structured, Style::Extended] {
        let mut client = enter(&server, style);
        let base = if style == Style::Structured { 1 << 30 } else { 2 << 30 };
        client.write(0, 1, base + 4096, &[7; 4096]);
        assert_eq!(client.outcome(), (1, 0));

        client.request(0, READ, 2, base + 1, 12_286);
        let chunks = client.chunks();
        let shape: Vec<_> = chunks.iter().map(|c| (c.kind, c.payload.len(), c.done)).collect();
        assert_eq!(
            shape,
            [(OFFSET_HOLE, 12, false), (OFFSET_DATA, 8 + 4096, false), (OFFSET_HOLE, 12, true)]
        );
        assert_eq!((be64(&chunks[0].payload), be32(&chunks[0].payload[8..])), (base + 1, 4095));
        assert_eq!(be64(&chunks[1].payload), base + 4096);
        assert_eq!((be64(&chunks[2].payload), be32(&chunks[2].payload[8..])), (base + 8192, 4095));

        // Don't fragment: one chunk, the holes as zeroes.
        client.request(DF, READ, 3, base, 12_288);
        let chunks = client.chunks();
        assert_eq!(chunks.len(), 1);
        assert_eq!((chunks[0].kind, chunks[0].done), (OFFSET_DATA, true));
        let expected = [vec![0; 4096], vec![7; 4096], vec![0; 4096]].concat();
        assert!(chunks[0].payload[8..] == expected);

        // All hole: one hole even so, of any size a READ may have.
        for flags in [0, DF] {
            client.request(flags, READ, 4, base + (1 << 20), 32 << 20);
            let chunks = client.chunks();
            assert_eq!(chunks.len(), 1);
            assert_eq!((chunks[0].kind, be32(&chunks[0].payload[8..])), (OFFSET_HOLE, 32 << 20));
        }
    }
    let mut simple = enter(&server, Style::Simple);
    let back = simple.read(0, 5, 1 << 30, 12_288).expect("zeroes and data");
    assert!(back == [vec![0; 4096], vec![7; 4096], vec![0; 4096]].concat());
    assert!(simple.read(0, 6, 3 << 30, 1 << 20).expect("zeroes") == vec![0; 1 << 20]);
}

#[test]
fn a_read_in_thousands_of_pieces() {
    // More pieces than one system call takes.
    let server = Server::start();
    for style in [Style::Structured, Style::Extended] {
        let mut client = enter(&server, style);
        let mut expected = vec![0; 32 << 20];
        for block in (0..8192).step_by(2) {
            let at = block * 4096;
            expected[at..at + 4096].copy_from_slice(&pattern(at as u64, 4096));
            client.write(0, block as u64, at as u64, &expected[at..at + 4096]);
            assert_eq!(client.outcome(), (block as u64, 0));
        }
        assert!(client.read(0, 1, 0, 32 << 20).expect("data and holes") == expected);
        client.request(0, TRIM, 2, 0, 32 << 20);
        assert_eq!(client.outcome(), (2, 0));
    }
}

#[test]
fn fua_is_taken_on_every_command_and_handed_on_where_it_matters() {
    let server = Server::start();
    let mut client = enter(&server, Style::Extended);
    client.write(FUA, 1, 0, b"durable");
    client.request(FUA, TRIM, 2, 0, 4096);
    client.request(FUA | NO_HOLE, WRITE_ZEROES, 3, 0, 4096);
    client.request(FUA, FLUSH, 4, 0, 0);
    client.request(FUA, CACHE, 5, 0, 4096);
    let mut cookies: Vec<_> = (0..5).map(|_| client.outcome()).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
    assert!(client.read(FUA, 6, 0, 512).is_ok());
    assert_eq!(server.knobs.fua.load(Ordering::SeqCst), 3);
    assert_eq!(server.knobs.flushes.load(Ordering::SeqCst), 1);
}

#[test]
fn zeroes_and_trims_of_any_length_arrive_uncut() {
    let server = Server::start();
    let mut compact = enter(&server, Style::Simple);
    let four_gib = u64::from(u32::MAX);
    compact.request(FAST_ZERO, WRITE_ZEROES, 1, 512, four_gib);
    assert_eq!(compact.simple(), (1, 0));
    compact.request(0, TRIM, 2, 4096, four_gib);
    assert_eq!(compact.simple(), (2, 0));
    let mut extended = enter(&server, Style::Extended);
    extended.request(NO_HOLE, WRITE_ZEROES, 3, 0, SIZE);
    assert_eq!(extended.outcome(), (3, 0));
    extended.request(0, CACHE, 4, 1, SIZE - 1);
    assert_eq!(extended.outcome(), (4, 0));
    let flags = |no_hole, fast| ZeroFlags { no_hole, fua: false, fast };
    let zeroes = server.knobs.zeroes.lock().unwrap().clone();
    assert_eq!(zeroes, [(512, four_gib, flags(false, true)), (0, SIZE, flags(true, false))]);
    assert_eq!(*server.knobs.hints.lock().unwrap(), [(4096, four_gib), (1, SIZE - 1)]);
}

#[test]
fn block_status_in_all_contexts() {
    let server = Server::start();
    for style in [Style::Structured, Style::Extended] {
        let mut client = server.connect();
        let ids = client.enter("demo", style, &["base:allocation", ODD]);
        let &[base, odd] = &ids[..] else { panic!("two contexts: {ids:?}") };
        client.write(0, 1, 1 << 20, &[1; 8192]);
        assert_eq!(client.outcome(), (1, 0));

        client.request(0, BLOCK_STATUS, 2, (1 << 20) - 4096, 3 << 20);
        let allocation = vec![(4096, 3), (8192, 0), ((3 << 20) - 12_288, 3)];
        let parity = vec![(4096, 0), (1 << 20, 1), (1 << 20, 0), ((1 << 20) - 4096, 1)];
        assert_eq!(client.status(), Ok(vec![(base, allocation), (odd, parity)]));

        client.request(REQ_ONE, BLOCK_STATUS, 3, 0, 1 << 20);
        assert_eq!(client.status(), Ok(vec![(base, vec![(1 << 20, 3)]), (odd, vec![(1 << 20, 0)])]));
        // One extent, and not past the request.
        client.request(REQ_ONE | FUA, BLOCK_STATUS, 4, 512, 1);
        assert_eq!(client.status(), Ok(vec![(base, vec![(1, 3)]), (odd, vec![(1, 0)])]));

        // To the very end; and past it.
        client.request(0, BLOCK_STATUS, 5, SIZE - 4096, 4096);
        assert_eq!(client.status(), Ok(vec![(base, vec![(4096, 3)]), (odd, vec![(4096, 1)])]));
        client.request(0, BLOCK_STATUS, 6, SIZE - 4096, 4097);
        assert_eq!(client.outcome(), (6, EINVAL));
    }
}

#[test]
fn block_status_near_the_limits_of_its_integers() {
    let server = Server::start();
    let mut client = server.connect();
    client.enter("demo", Style::Structured, &["base:allocation"]);
    client.request(0, BLOCK_STATUS, 1, 0, u64::from(u32::MAX));
    assert_eq!(client.status(), Ok(vec![(1, vec![(u64::from(u32::MAX), 3)])]));
    let mut client = server.connect();
    client.enter("demo", Style::Extended, &["base:allocation"]);
    client.request(0, BLOCK_STATUS, 1, 0, SIZE);
    assert_eq!(client.status(), Ok(vec![(1, vec![(SIZE, 3)])]));
    for (offset, len) in [(0, u64::MAX), (1, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 1), (0, 0)] {
        client.request(0, BLOCK_STATUS, 2, offset, len);
        assert_eq!(client.outcome(), (2, EINVAL), "{offset} {len}");
    }
}

#[test]
fn block_status_can_be_limited_to_some_contexts() {
    let server = Server::start();
    let mut client = server.connect();
    let ids = client.enter("demo", Style::Extended, &["base:allocation", ODD]);
    let mut ask = |cookie: u64, len: u64, contexts: &[u32], extra: &[u8]| {
        let mut payload = len.to_be_bytes().to_vec();
        payload.extend(contexts.iter().flat_map(|id| id.to_be_bytes()));
        payload.extend_from_slice(extra);
        client.request(PAYLOAD_LEN, BLOCK_STATUS, cookie, 4096, payload.len() as u64);
        client.send(&payload);
        client.status()
    };
    let parity = (ids[1], vec![(8192, 0)]);
    assert_eq!(ask(1, 8192, &ids[1..], b""), Ok(vec![parity.clone()]));
    let allocation = (ids[0], vec![(8192, 3)]);
    assert_eq!(ask(2, 8192, &[ids[1], ids[0]], b""), Ok(vec![allocation, parity]));
    for (cookie, contexts, extra) in [
        (3, &[][..], &b""[..]),
        (4, &[ids[0], ids[0]], b""),
        (5, &[99], b""),
        (6, &[ids[0]], b"odd"),
        (7, &[ids[0], ids[1], 3], b""),
        (8, &[ids[0]], &[0; 70_000]),
    ] {
        assert_eq!(ask(cookie, 8192, contexts, extra), Err(EINVAL), "{cookie}");
    }
    assert_eq!(ask(9, SIZE - 4095, &ids, b""), Err(EINVAL), "past the end");
    assert_eq!(ask(10, 0, &ids, b""), Err(EINVAL), "nothing");
    assert!(ask(11, SIZE - 4096, &ids[..1], b"").is_ok(), "still in step");
}

#[test]
fn past_the_end() {
    let server = Server::start();
    for style in STYLES {
        let mut client = enter(&server, style);
        for (offset, len) in [(SIZE - 511, 512), (SIZE, 1), (u64::MAX, 1), (u64::MAX - 511, 512)] {
            assert_eq!(client.read(0, 1, offset, len), Err(EINVAL));
            client.write(0, 2, offset, &vec![1; len as usize]);
            assert_eq!(client.outcome(), (2, ENOSPC));
            for (command, errno) in [(WRITE_ZEROES, ENOSPC), (TRIM, EINVAL), (CACHE, EINVAL)] {
                client.request(0, command, 3, offset, len);
                assert_eq!(client.outcome(), (3, errno), "{style:?} command {command} at {offset}");
            }
        }
        client.write(0, 4, SIZE - 512, &[9; 512]);
        assert_eq!(client.outcome(), (4, 0));
        assert_eq!(client.read(0, 5, SIZE - 512, 512), Ok(vec![9; 512]));
    }
}

#[test]
fn read_only_exports() {
    let server = Server::start();
    let mut client = server.connect();
    client.enter("ro", Style::Structured, &[]);
    client.write(0, 1, 0, &[1; 100_000]);
    assert_eq!(client.outcome(), (1, EPERM));
    for command in [TRIM, WRITE_ZEROES] {
        client.request(0, command, 2, 0, 512);
        assert_eq!(client.outcome(), (2, EPERM));
    }
    client.request(0, FLUSH, 3, 0, 0);
    assert_eq!(client.outcome(), (3, 0));
    assert_eq!(client.read(0, 4, 0, 512), Ok(vec![0; 512]));
}

#[test]
fn unknown_commands_and_flags_leave_the_stream_in_step() {
    let server = Server::start();
    for style in STYLES {
        let mut client = enter(&server, style);
        for (cookie, command) in [8_u16, 9, 0x1234, u16::MAX].into_iter().enumerate() {
            client.request(0, command, cookie as u64, 0, 4096);
            assert_eq!(client.outcome(), (cookie as u64, EINVAL), "command {command}");
        }
        for bit in 0..16 {
            let flag = 1 << bit;
            for command in [READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] {
                let known = bit == 0
                    || matches!((flag, command), (NO_HOLE | FAST_ZERO, WRITE_ZEROES))
                    || ((flag, command) == (DF, READ) && style != Style::Simple);
                if known || (flag == PAYLOAD_LEN && style == Style::Extended) {
                    continue;
                }
                let len = if command == FLUSH { 0 } else { 1000 };
                if command == WRITE {
                    client.write(flag, 5, 0, &[1; 1000]);
                } else {
                    client.request(flag, command, 5, 0, len);
                }
                assert_eq!(client.outcome(), (5, EINVAL), "{style:?} command {command} flag {flag:#x}");
            }
        }
        // A payload where none belongs; and the one client in use that does not announce a WRITE's.
        if style == Style::Extended {
            for command in [READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, 77] {
                client.request(PAYLOAD_LEN, command, 6, 0, 100_000);
                client.send(&vec![0x25; 100_000]);
                assert_eq!(client.outcome(), (6, EINVAL), "command {command} with payload");
            }
            client.request(0, WRITE, 7, 4096, 100_000);
            client.send(&vec![0x26; 100_000]);
            assert_eq!(client.outcome(), (7, 0));
        }
        // FLUSH has no range.
        client.request(0, FLUSH, 8, 4096, 0);
        assert_eq!(client.outcome(), (8, EINVAL));
        client.request(0, BLOCK_STATUS, 9, 0, 512);
        assert_eq!(client.outcome(), (9, EINVAL), "no context was selected");
        assert_eq!(client.read(0, 10, 0, 4), Ok(vec![0; 4]));
    }
}

#[test]
fn commands_that_were_not_offered() {
    let server = Server::start();
    let mut client = server.connect();
    client.enter("bare", Style::Structured, &[]);
    for (flags, command, len) in
        [(0, FLUSH, 0), (0, TRIM, 512), (0, WRITE_ZEROES, 512), (0, CACHE, 512), (FUA, READ, 512)]
    {
        client.request(flags, command, 1, 0, len);
        assert_eq!(client.outcome(), (1, EINVAL), "command {command}");
    }
    client.write(FUA, 2, 0, b"no");
    assert_eq!(client.outcome(), (2, EINVAL));
    client.write(0, 3, 0, b"yes");
    assert_eq!(client.outcome(), (3, 0));
}

#[test]
fn empty_requests_do_nothing_and_succeed() {
    let server = Server::start();
    for style in STYLES {
        let mut client = enter(&server, style);
        for command in [TRIM, CACHE, WRITE_ZEROES, READ] {
            client.request(0, command, 1, 4096, 0);
            assert_eq!(client.outcome(), (1, 0), "{style:?} command {command}");
        }
        client.write(0, 2, SIZE, b"");
        assert_eq!(client.outcome(), (2, 0));
    }
    assert_eq!(server.knobs.reads.load(Ordering::SeqCst), 0, "the export never sees them");
}

#[test]
fn payloads_beyond_the_maximum() {
    let server = Server::start();
    const MAX: usize = 32 << 20;
    for style in STYLES {
        let mut client = enter(&server, style);
        let expected = if style == Style::Simple { EINVAL } else { EOVERFLOW };
        assert_eq!(client.read(0, 1, 0, MAX as u64 + 1), Err(expected));
        if style == Style::Extended {
            // Nothing larger than what was advertised may carry a payload: the connection ends.
            client.request(PAYLOAD_LEN, WRITE, 2, 0, MAX as u64 + 1);
            client.expect_end();
            let mut client = enter(&server, style);
            client.request(0, READ, 1, 0, SIZE);
            assert_eq!(client.outcome(), (1, EOVERFLOW));
            client.request(PAYLOAD_LEN, BLOCK_STATUS, 2, 0, u64::MAX);
            client.expect_end();
        } else {
            client.write(0, 2, 0, &vec![1; MAX + 1]);
            assert_eq!(client.outcome(), (2, EINVAL));
            assert_eq!(client.read(0, 3, 0, 4), Ok(vec![0; 4]));
            client.request(0, WRITE, 4, 0, u64::from(u32::MAX));
            client.expect_end();
        }
    }
}

#[test]
fn a_slow_request_holds_up_no_other() {
    let server = Server::start();
    for style in STYLES {
        let mut client = enter(&server, style);
        client.request(0, READ, 1, GATED, 4096);
        client.write(0, 2, 0, b"overtaking");
        assert_eq!(client.outcome(), (2, 0));
        client.request(0, FLUSH, 3, 0, 0);
        assert_eq!(client.outcome(), (3, 0));
    }
    server.knobs.gate.trigger();
}

#[test]
fn disc_waits_for_what_is_in_flight_and_is_not_answered() {
    let server = Server::start();
    let mut client = enter(&server, Style::Simple);
    client.request(0, READ, 1, GATED, 4096);
    client.request(0, FLUSH, 2, 0, 0);
    client.request(0, DISC, 3, 0, 0);
    client.request(0, FLUSH, 4, 0, 0);
    assert_eq!(client.simple(), (2, 0));
    eventually("the read waits", || server.knobs.gated.load(Ordering::SeqCst) == 1);
    server.knobs.gate.trigger();
    assert_eq!(client.contents(1, GATED, 4096), Ok(vec![0; 4096]));
    client.expect_end();
    let summary = server.ended().expect("a clean end");
    assert_eq!((summary.end, summary.requests, summary.errors), (SessionEnd::Disconnected, 2, 0));
    assert_eq!(summary.bytes_read, 4096);
}

#[test]
fn a_half_closed_connection_gets_its_replies() {
    let server = Server::start();
    let mut client = enter(&server, Style::Structured);
    client.request(0, READ, 1, GATED, 4096);
    client.write(0, 2, 0, &[1; 50_000]);
    client.socket.shutdown(How::Write).expect("half a close");
    assert_eq!(client.outcome(), (2, 0));
    server.knobs.gate.trigger();
    assert_eq!(client.contents(1, GATED, 4096), Ok(vec![0; 4096]));
    client.expect_end();
    let summary = server.ended().expect("a clean end");
    assert_eq!((summary.end, summary.bytes_written), (SessionEnd::Closed, 50_000));
}

#[test]
fn errors_of_the_backend_reach_the_client_in_the_words_of_the_protocol() {
    let server = Server::start();
    // ENOSPC, EDQUOT, EFBIG, EROFS, EIO, ENOTSUP, EOVERFLOW, ENOMEM
    for (os, wire) in [
        (28, ENOSPC),
        (122, ENOSPC),
        (27, ENOSPC),
        (30, EPERM),
        (5, EIO),
        (95, EINVAL),
        (75, EINVAL),
        (12, EIO),
    ] {
        server.knobs.fail.store(os, Ordering::SeqCst);
        for style in STYLES {
            let mut client = enter(&server, style);
            assert_eq!(client.read(0, 1, 0, 512), Err(wire));
            client.write(0, 2, 0, &[1; 512]);
            assert_eq!(client.outcome(), (2, wire));
            for (command, len) in [(FLUSH, 0), (TRIM, 512), (CACHE, 512), (WRITE_ZEROES, 512)] {
                client.request(0, command, 3, 0, len);
                assert_eq!(client.outcome(), (3, wire), "command {command}");
            }
            // Only here does ENOTSUP say something.
            client.request(FAST_ZERO, WRITE_ZEROES, 4, 0, 512);
            assert_eq!(client.outcome(), (4, if os == 95 { 95 } else { wire }));
        }
    }
    server.knobs.fail.store(0, Ordering::SeqCst);
}

#[test]
fn a_faulty_backend_costs_an_error_not_the_connection() {
    let server = Server::start();
    for style in STYLES {
        let mut client = server.connect();
        let contexts: &[&str] = if style == Style::Simple { &[] } else { &["base:allocation"] };
        client.enter("faulty", style, contexts);
        assert_eq!(client.read(0, 1, 0, 512), Err(EIO));
        if style != Style::Simple {
            client.request(0, BLOCK_STATUS, 2, 0, 512);
            assert_eq!(client.outcome(), (2, EIO));
        }
        client.request(0, FLUSH, 3, 0, 0);
        assert_eq!(client.outcome(), (3, 0));
    }
}
