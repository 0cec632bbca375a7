//! Clients that send garbage, lie, stop halfway or never read: each is cut off or answered, and nobody else notices.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cairn_tests::control::{assert_pool_and_data_clean, exchange};
use cairn_tests::daemon::{Daemon, Launch};
use cairn_tests::data::{BLOCK, Rng, seed};
use cairn_tests::nbd::{Client, Error, greet, option, option_bytes, push_string, raw, request_header, wire};
use cairn_tests::program::{full, run};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// What the block holds that a half-sent write is aimed at.
const BEFORE: u8 = 0x11;
/// What that write would put there.
const AFTER: u8 = 0x22;
/// Far more than what clients that misbehave may make the daemon keep, far less than what they could ask for.
const MEMORY_ALLOWANCE: u64 = 512 * MIB;

fn demo() -> (TempDir, Daemon) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let daemon = Launch::dev(dir.path()).create("demo", "256M").start();
    (dir, daemon)
}

fn go(export: &str) -> Vec<u8> {
    let mut data = Vec::new();
    push_string(&mut data, export);
    data.extend_from_slice(&0u16.to_be_bytes());
    option_bytes(wire::OPT_GO, &data)
}

/// Waits until the server closes the connection, whatever it says before that.
#[track_caller]
fn until_closed(mut stream: UnixStream, what: &str) {
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(e) => panic!("{what}: the server neither answers nor closes: {e}"),
        }
    }
}

/// A whole session as bytes - negotiation, a write, a read, a flush - sent up to every possible byte and then abandoned.
#[test]
fn clients_may_vanish_at_any_byte() {
    let (_dir, mut daemon) = demo();
    let mut script = Vec::new();
    script.extend_from_slice(&(wire::CLIENT_FIXED_NEWSTYLE | wire::CLIENT_NO_ZEROES).to_be_bytes());
    script.extend_from_slice(&option_bytes(wire::OPT_STRUCTURED_REPLY, &[]));
    script.extend_from_slice(&option_bytes(wire::OPT_LIST, &[]));
    script.extend_from_slice(&go("demo"));
    let write_begins = script.len();
    script.extend_from_slice(&request_header(0, wire::CMD_WRITE, 1, 0, BLOCK as u32));
    script.extend_from_slice(&[AFTER; BLOCK]);
    let write_ends = script.len();
    script.extend_from_slice(&request_header(0, wire::CMD_READ, 2, 0, MIB as u32));
    script.extend_from_slice(&request_header(0, wire::CMD_FLUSH, 3, 0, 0));

    let mut honest = daemon.connect("demo");
    honest.write(0, &[BEFORE; BLOCK]).expect("a write");
    let lengths = (0..=script.len())
        .filter(|len| *len <= write_begins + 40 || *len + 80 >= write_ends || full() || len % 97 == 0);
    for len in lengths {
        let mut stream = raw(&daemon.nbd_socket()).expect("the socket accepts");
        // The server may have hung up already.
        let _ = stream.write_all(&script[..len]);
        if len % 2 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        if len % 3 == 0 && len % 2 == 0 {
            until_closed(stream, &format!("after {len} bytes"));
        } else {
            drop(stream);
        }
        let block = honest.read(0, BLOCK as u32).expect("the honest client is served");
        let complete = len >= write_ends;
        let uniform = block.iter().all(|byte| *byte == block[0]);
        assert!(uniform, "after {len} bytes the block is a mixture");
        assert!(block[0] == BEFORE || (complete && block[0] == AFTER), "{len} bytes wrote {:#x}", block[0]);
        if block[0] == AFTER {
            honest.write(0, &[BEFORE; BLOCK]).expect("a write");
        }
    }
    daemon.assert_alive();
    drop(honest);
    assert_pool_and_data_clean(&daemon);
    daemon.stop();
}

/// Random bytes, other protocols, and bytes that are nearly right, at each stage of a connection.
#[test]
fn garbage_ends_its_own_connection_only() {
    let (_dir, mut daemon) = demo();
    let mut rng = Rng::new(seed("garbage"));
    let mut honest = daemon.connect("demo");
    honest.write(0, &[BEFORE; BLOCK]).expect("a write");
    honest.flush().expect("a flush");
    let resident = daemon.resident_bytes();
    for round in 0..if full() { 2000 } else { 200 } {
        let mut garbage = match round % 4 {
            0 => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            1 => vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            2 => vec![0xff; 100],
            _ => vec![0; 1 + rng.below(3000) as usize],
        };
        if round % 4 == 3 {
            rng.fill(&mut garbage);
        }
        let mut stream = raw(&daemon.nbd_socket()).expect("the socket accepts");
        match rng.below(3) {
            0 => {}
            1 => greet(&mut stream).expect("the server greets"),
            _ => {
                greet(&mut stream).expect("the server greets");
                stream.write_all(&go("demo")).expect("the server takes an option");
                // A header with the right magic and everything else wrong goes furthest. Writes excepted: one that
                // happens to be well-formed may change the disk.
                let mut head = request_header(0, 0, rng.draw(), rng.draw(), rng.draw() as u32);
                head[4..6].copy_from_slice(&(rng.draw() as u16).to_be_bytes());
                let command = [wire::CMD_READ, wire::CMD_CACHE, wire::CMD_BLOCK_STATUS, 8, 99, 0xffff];
                let command = command[rng.below(command.len() as u64) as usize];
                head[6..8].copy_from_slice(&command.to_be_bytes());
                garbage.splice(..0, head);
            }
        }
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(Shutdown::Write);
        until_closed(stream, &format!("round {round}"));
    }
    assert_eq!(honest.read(0, BLOCK as u32).expect("the honest client is served"), [BEFORE; BLOCK]);
    daemon.assert_alive();
    let grown = daemon.resident_bytes().saturating_sub(resident);
    assert!(grown < MEMORY_ALLOWANCE, "garbage made the daemon {grown} bytes larger");
    drop(honest);
    daemon.stop();
}

/// Lengths that lie: a name of 4 GiB, an option payload of 4 GiB, a count of contexts that overflows.
#[test]
fn lengths_that_lie_cost_nothing() {
    let (_dir, mut daemon) = demo();
    let resident = daemon.resident_bytes();
    let mut attacks: Vec<Vec<u8>> = Vec::new();
    for kind in [wire::OPT_EXPORT_NAME, wire::OPT_LIST, wire::OPT_INFO, wire::OPT_GO, wire::OPT_STARTTLS, 77]
    {
        let mut huge = option_bytes(kind, &[]);
        huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        huge.extend_from_slice(&[b'a'; 2000]);
        attacks.push(huge);
    }
    for kind in [wire::OPT_INFO, wire::OPT_GO, wire::OPT_SET_META_CONTEXT, wire::OPT_LIST_META_CONTEXT] {
        attacks.push(option_bytes(kind, &[0xff; 64]));
        let mut counted = Vec::new();
        push_string(&mut counted, "demo");
        counted.extend_from_slice(&u32::MAX.to_be_bytes());
        attacks.push(option_bytes(kind, &counted));
        let mut long = Vec::new();
        push_string(&mut long, &"n".repeat(4096));
        long.extend_from_slice(&0u32.to_be_bytes());
        attacks.push(option_bytes(kind, &long));
    }
    for attack in &attacks {
        for _ in 0..10 {
            let mut stream = raw(&daemon.nbd_socket()).expect("the socket accepts");
            greet(&mut stream).expect("the server greets");
            let _ = stream.write_all(attack);
            let _ = stream.shutdown(Shutdown::Write);
            until_closed(stream, "an option that lies");
        }
    }
    daemon.assert_alive();
    let grown = daemon.resident_bytes().saturating_sub(resident);
    assert!(grown < MEMORY_ALLOWANCE, "lies made the daemon {grown} bytes larger");
    daemon.stop();
}

/// Hundreds of clients that connect and say nothing: those who speak are still served.
#[test]
fn silent_connections_do_not_lock_others_out() {
    let (_dir, mut daemon) = demo();
    let mut silent: Vec<UnixStream> =
        (0..300).map(|_| raw(&daemon.nbd_socket()).expect("the socket accepts")).collect();
    let mut honest = daemon.connect("demo");
    honest.write(0, &[1; BLOCK]).expect("a write");
    // One that began to negotiate is cut off in time, or its memory could be held for ever.
    let mut slow = silent.pop().expect("there are silent ones");
    slow.write_all(&[0, 0]).expect("two of four bytes");
    until_closed(slow, "a client that never finishes negotiating");
    assert_eq!(honest.read(0, BLOCK as u32).expect("a read"), [1; BLOCK]);
    daemon.assert_alive();
    drop((honest, silent));
    daemon.stop();
}

/// A client that asks for gigabytes and never reads an answer: bounded memory, others unharmed.
#[test]
fn a_reader_that_never_reads_is_bounded() {
    let (_dir, mut daemon) = demo();
    let mut filler = daemon.connect("demo");
    for at in 0..64 {
        filler.write(at * MIB, &vec![7; MIB as usize]).expect("a write");
    }
    let resident = daemon.resident_bytes();
    let mut stream = raw(&daemon.nbd_socket()).expect("the socket accepts");
    greet(&mut stream).expect("the server greets");
    stream.write_all(&go("demo")).expect("the server takes an option");
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
    for cookie in 0..2000 {
        let head = request_header(0, wire::CMD_READ, cookie, cookie % 32 * MIB, 32 << 20);
        // The server stops reading when it has enough to do: that is the bound.
        if stream.write_all(&head).is_err() {
            break;
        }
    }
    for _ in 0..20 {
        assert_eq!(filler.read(5 * MIB, 4096).expect("others are served"), [7; 4096]);
        thread::sleep(Duration::from_millis(20));
    }
    let grown = daemon.resident_bytes().saturating_sub(resident);
    assert!(grown < MEMORY_ALLOWANCE, "a client that never reads made the daemon {grown} bytes larger");
    drop(stream);
    daemon.assert_alive();
    drop(filler);
    daemon.stop();
}

/// Requests outside of the disk, and ones that overflow: an error each, and the connection goes on.
#[test]
fn requests_past_the_end_are_refused_and_the_connection_goes_on() {
    use cairn_tests::nbd::Request;
    let (_dir, daemon) = demo();
    let mut client = daemon.connect("demo");
    let size = client.info().size;
    let data = [1; BLOCK];
    let cases: [(Request<'_>, u32); 8] = [
        (Request::Read { offset: size, len: 1 }, wire::EINVAL),
        (Request::Read { offset: size - 1, len: 2 }, wire::EINVAL),
        (Request::Read { offset: u64::MAX - 100, len: 4096 }, wire::EINVAL),
        (Request::Write { offset: size - 1, data: &data, fua: false }, wire::ENOSPC),
        (Request::Write { offset: u64::MAX - 4095, data: &data, fua: true }, wire::ENOSPC),
        (Request::WriteZeroes { offset: size - 4096, len: u32::MAX, fua: false }, wire::ENOSPC),
        (Request::Trim { offset: u64::MAX, len: u32::MAX, fua: false }, wire::EINVAL),
        (Request::BlockStatus { offset: size, len: 4096 }, wire::EINVAL),
    ];
    for (request, expected) in cases {
        match client.call(request) {
            Err(Error::Request(errno)) => assert_eq!(errno, expected, "{request:?}"),
            other => panic!("{request:?} past the end: {other:?}"),
        }
        assert_eq!(client.read(size - 4096, 4096).expect("the connection goes on"), [0; 4096]);
    }
    client.disconnect().expect("a clean end");
    daemon.stop();
}

#[test]
fn an_unknown_export_is_a_clear_error() {
    let (_dir, mut daemon) = demo();
    for name in ["nothing", "demo@nothing", "demo@", "@", "demo/../demo", "DEMO"] {
        match Client::connect(&daemon.nbd_socket(), name) {
            Err(Error::Refused(kind, _)) => assert_eq!(kind, wire::REP_ERR_UNKNOWN, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let info = run("nbdinfo", &[daemon.uri("nothing")]);
    assert!(!info.status.success(), "{info}");

    // After a refusal the same connection may ask for something else.
    let mut stream = raw(&daemon.nbd_socket()).expect("the socket accepts");
    greet(&mut stream).expect("the server greets");
    stream.write_all(&go("nothing")).expect("the server takes an option");
    let refused = cairn_tests::nbd::collect_option(&mut stream, wire::OPT_GO);
    assert!(matches!(refused, Err(Error::Refused(wire::REP_ERR_UNKNOWN, _))), "{refused:?}");
    stream.write_all(&go("demo")).expect("the server takes an option");
    cairn_tests::nbd::collect_option(&mut stream, wire::OPT_GO).expect("the export that there is");
    option(&mut stream, wire::OPT_ABORT, &[]).expect("bytes can be sent");
    drop(stream);
    daemon.assert_alive();
    daemon.stop();
}

#[test]
fn garbage_on_the_control_socket_gets_an_error_or_a_closed_connection() {
    let (_dir, mut daemon) = demo();
    let socket = daemon.control_socket();
    let close = "Connection: close\r\n";
    let json = format!("Host: c\r\n{close}Content-Type: application/json\r\n");
    let broken = [
        b"\0\0\0\0".to_vec(),
        vec![0xff; 300],
        b"GARBAGE\r\n\r\n".to_vec(),
        format!("GET /v1/nothing HTTP/1.1\r\nHost: c\r\n{close}\r\n").into_bytes(),
        format!("GET /../../etc/passwd HTTP/1.1\r\nHost: c\r\n{close}\r\n").into_bytes(),
        format!("PUT /v1/volumes HTTP/1.1\r\nHost: c\r\n{close}\r\n").into_bytes(),
        format!("POST /v1/volumes HTTP/1.1\r\n{json}Content-Length: 9\r\n\r\n{{\"name\": ").into_bytes(),
        format!("POST /v1/volumes HTTP/1.1\r\n{json}Content-Length: 14\r\n\r\n{{\"nome\": \"ab\"}}")
            .into_bytes(),
    ];
    for bytes in broken {
        let answer = closing_exchange(&socket, &bytes);
        let answer = String::from_utf8_lossy(&answer);
        let status: Option<u16> = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let shown = String::from_utf8_lossy(&bytes);
        assert!(answer.is_empty() || status.is_some_and(|s| (400..500).contains(&s)), "{shown:?}: {answer}");
    }
    let answer = exchange(&socket, format!("GET /v1/pool HTTP/1.1\r\nHost: c\r\n{close}\r\n").as_bytes());
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    daemon.assert_alive();
    daemon.stop();
}

/// Sends bytes and the end of the stream, then reads until the other side closes too.
#[track_caller]
fn closing_exchange(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = raw(socket).expect("the control socket accepts");
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("neither an answer nor an end: {e}"),
    }
    answer
}
