//! Negotiation, byte by byte.

mod common;

use cairn_nbd::{SessionEnd, SessionErrorKind};
use common::disk::{MANY, MANY_CONTEXTS, ODD, SIZE};
use common::raw::*;
use common::server::Server;

/// HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO.
const FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
const SEND_DF: u16 = 1 << 7;
const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

fn info_export(size: u64, flags: u16) -> (u32, Vec<u8>) {
    let mut payload = vec![0, 0];
    payload.extend_from_slice(&size.to_be_bytes());
    payload.extend_from_slice(&flags.to_be_bytes());
    (REP_INFO, payload)
}

fn info(kind: u16, rest: &[u8]) -> (u32, Vec<u8>) {
    (REP_INFO, [&kind.to_be_bytes()[..], rest].concat())
}

#[test]
fn export_name_with_and_without_zeroes() {
    let server = Server::start();
    for (client_flags, zeroes) in [(1, 124), (3, 0), (0, 124)] {
        let mut client = server.connect();
        client.greet(client_flags);
        client.option(OPT_EXPORT_NAME, b"demo");
        client.expect(&SIZE.to_be_bytes());
        client.expect(&FLAGS.to_be_bytes());
        client.expect(&vec![0; zeroes]);
        client.request(0, DISC, 0, 0, 0);
        client.expect_end();
        let summary = server.ended().expect("a clean end");
        assert_eq!((summary.end, summary.export.as_deref()), (SessionEnd::Disconnected, Some("demo")));
    }
}

#[test]
fn export_name_that_cannot_be_had_closes() {
    let server = Server::start();
    for name in ["nowhere", "locked", "ill", "de\0mo", &"x".repeat(4097), &"x".repeat(70_000)] {
        let mut client = server.connect();
        client.greet(3);
        client.option(OPT_EXPORT_NAME, name.as_bytes());
        client.expect_end();
        assert_eq!(server.ended(), Err(SessionErrorKind::Refused), "{name:.20}");
    }
}

#[test]
fn info_and_go_say_the_same() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    let payload = go_payload("", &[3, 1, 2, 0, 999]);
    let (mut first, last) = client.ask(OPT_INFO, &payload);
    assert_eq!(last, REP_ACK);
    let (mut second, last) = client.ask(OPT_GO, &payload);
    assert_eq!(last, REP_ACK);
    first.sort();
    second.sort();
    assert_eq!(first, second);
    let sizes = [0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0];
    let mut expected =
        vec![info_export(SIZE, FLAGS), info(1, b"demo"), info(2, b"test disk demo"), info(3, &sizes)];
    expected.sort();
    assert_eq!(first, expected);
    client.write(0, 1, 0, b"straight on");
    assert_eq!(client.simple(), (1, 0));
}

#[test]
fn only_what_was_asked_for() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    let (replies, last) = client.ask(OPT_INFO, &go_payload("demo", &[]));
    assert_eq!((replies, last), (vec![info_export(SIZE, FLAGS)], REP_ACK));
}

#[test]
fn go_after_info_is_the_same_even_if_the_disk_grew_between() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    let grown = |n: u64| info_export(SIZE + (n << 20), FLAGS);
    assert_eq!(client.ask(OPT_INFO, &go_payload("grow", &[])), (vec![grown(1)], REP_ACK));
    let mut other = server.connect();
    other.enter("grow", Style::Simple, &[]);
    assert_eq!(client.ask(OPT_GO, &go_payload("grow", &[])), (vec![grown(1)], REP_ACK));
    // The open connection may use what has been added since.
    assert_eq!(client.read(0, 1, SIZE + (2 << 20) - 512, 512), Ok(vec![0; 512]));
    assert_eq!(client.read(0, 2, SIZE + (2 << 20) - 511, 512), Err(EINVAL));
}

#[test]
fn errors_of_go_leave_the_negotiation_open() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    for (name, error) in [
        ("nowhere", ERR_UNKNOWN),
        ("locked", ERR_POLICY),
        ("ill", ERR_UNKNOWN),
        ("closing", ERR_SHUTDOWN),
        (&"é".repeat(2048), ERR_UNKNOWN),
        (&"x".repeat(4097), ERR_INVALID),
        ("de\0mo", ERR_INVALID),
    ] {
        for option in [OPT_INFO, OPT_GO] {
            assert_eq!(client.ask(option, &go_payload(name, &[3])), (vec![], error), "{name:.20}");
        }
    }
    let mut not_utf8 = go_payload("demo", &[]);
    not_utf8[5] = 0xff;
    assert_eq!(client.ask(OPT_GO, &not_utf8).1, ERR_INVALID);
    assert_eq!(client.ask(OPT_GO, &go_payload("demo", &[])).1, REP_ACK);
}

#[test]
fn list_names_and_describes() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    let (replies, last) = client.ask(OPT_LIST, b"");
    let expected =
        vec![(REP_SERVER, b"\0\0\0\x04demotest disk demo".to_vec()), (REP_SERVER, b"\0\0\0\x02ro".to_vec())];
    assert_eq!((replies, last), (expected, REP_ACK));
}

#[test]
fn a_long_list_can_be_gone_through_on_one_connection() {
    let server = Server::start();
    let names: Vec<String> = (0..3000).map(|i| format!("{i:0>60}")).collect();
    *server.knobs.names.lock().unwrap() = names.clone();
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(OPT_LIST, b"").0.len(), 3002);
    for name in names.iter().take(200) {
        assert_eq!(client.ask(OPT_INFO, &go_payload(name, &[])).1, REP_ACK);
    }
}

#[test]
fn data_where_none_belongs() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    for option in [OPT_LIST, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OPT_EXTENDED_HEADERS] {
        assert_eq!(client.ask(option, b"data"), (vec![], ERR_INVALID), "{option}");
    }
    // Nothing was negotiated by them, so contexts are still out of place.
    assert_eq!(
        client.ask(OPT_SET_META_CONTEXT, &context_payload("demo", &["base:allocation"])).1,
        ERR_INVALID
    );
    assert_eq!(client.ask(OPT_STARTTLS, b""), (vec![], ERR_UNSUP));
}

#[test]
fn abort_is_acknowledged_whatever_it_carries() {
    let server = Server::start();
    for payload in [&b""[..], b"some data nobody asked for"] {
        let mut client = server.connect();
        client.greet(3);
        client.option(OPT_ABORT, payload);
        assert_eq!(client.reply(OPT_ABORT), (REP_ACK, vec![]));
        client.expect_end();
        assert_eq!(server.ended().map(|s| s.end), Ok(SessionEnd::Aborted));
    }
}

#[test]
fn unknown_options_are_consumed() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    for (option, len) in [(0, 0), (4, 7), (12, 65_537), (u32::MAX, 1 << 20)] {
        assert_eq!(client.ask(option, &vec![0x5a; len]), (vec![], ERR_UNSUP), "{option}");
    }
    assert_eq!(client.ask(OPT_GO, &go_payload("demo", &[])).1, REP_ACK);
}

#[test]
fn structured_replies_and_extended_headers_take_turns_in_one_direction_only() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(OPT_STRUCTURED_REPLY, b"").1, REP_ACK);
    assert_eq!(client.ask(OPT_INFO, &go_payload("demo", &[])).0, [info_export(SIZE, FLAGS | SEND_DF)]);
    assert_eq!(client.ask(OPT_EXTENDED_HEADERS, b"").1, REP_ACK);
    assert_eq!(client.ask(OPT_STRUCTURED_REPLY, b"").1, ERR_EXT_HEADER_REQD);
    assert_eq!(client.ask(OPT_GO, &go_payload("demo", &[])).0, [info_export(SIZE, FLAGS | SEND_DF)]);
    client.style = Style::Extended;
    client.request(0, FLUSH, 9, 0, 0);
    assert_eq!(client.outcome(), (9, 0));
}

#[test]
fn extended_headers_forbid_export_name() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(OPT_EXTENDED_HEADERS, b"").1, REP_ACK);
    client.option(OPT_EXPORT_NAME, b"demo");
    client.expect_end();
    assert_eq!(server.ended(), Err(SessionErrorKind::Refused));
}

#[test]
fn flags_of_other_exports() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    let read_only = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 8 | 1 << 10;
    assert_eq!(client.ask(OPT_INFO, &go_payload("ro", &[])).0, [info_export(SIZE, read_only)]);
    let bare = 1 | 1 << 4;
    assert_eq!(client.ask(OPT_INFO, &go_payload("bare", &[])).0, [info_export(SIZE, bare)]);
}

fn context(id: u32, name: &str) -> (u32, Vec<u8>) {
    (REP_META_CONTEXT, [&id.to_be_bytes()[..], name.as_bytes()].concat())
}

#[test]
fn contexts_are_listed_by_name_namespace_or_all() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    let early = client.ask(OPT_LIST_META_CONTEXT, &context_payload("demo", &[]));
    assert_eq!(early, (vec![], ERR_INVALID), "without structured replies");
    assert_eq!(client.ask(OPT_STRUCTURED_REPLY, b"").1, REP_ACK);
    let mut list = |queries: &[&str]| client.ask(OPT_LIST_META_CONTEXT, &context_payload("demo", queries));
    let all = ["base:allocation", ODD, MANY].map(|name| context(0, name));
    assert_eq!(list(&[]), (all.to_vec(), REP_ACK));
    assert_eq!(list(&["base:", ODD]), (all[..2].to_vec(), REP_ACK));
    assert_eq!(list(&["base:allocation"]), (vec![context(0, "base:allocation")], REP_ACK));
    assert_eq!(list(&["base:nothing", "qemu:dirty-bitmap:b"]), (vec![], REP_ACK));
    let (many, last) = list(&[MANY, MANY]);
    assert_eq!((many.len() as u64, last), (MANY_CONTEXTS, REP_ACK), "a list of any length arrives whole");
    assert_eq!(many[4999], context(0, "x-many:4999"));
    assert_eq!(list(&["no colon"]), (vec![], ERR_INVALID));
    let elsewhere = client.ask(OPT_LIST_META_CONTEXT, &context_payload("nowhere", &[]));
    assert_eq!(elsewhere, (vec![], ERR_UNKNOWN));
}

#[test]
fn selected_contexts_hold_until_the_next_selection_even_a_failed_one() {
    let server = Server::start();
    let set = |client: &mut Raw, name: &str, queries: &[&str]| {
        client.ask(OPT_SET_META_CONTEXT, &context_payload(name, queries))
    };
    let flags_of = |client: &mut Raw, option| client.ask(option, &go_payload("demo", &[])).0;
    let with = [info_export(SIZE, FLAGS | SEND_DF | BLOCK_STATUS_PAYLOAD)];
    let without = [info_export(SIZE, FLAGS | SEND_DF)];

    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(OPT_EXTENDED_HEADERS, b"").1, REP_ACK);
    let selected = set(&mut client, "demo", &[ODD, "base:allocation", "base:"]);
    assert_eq!(selected, (vec![context(1, ODD), context(2, "base:allocation")], REP_ACK));
    assert_eq!(flags_of(&mut client, OPT_INFO), with);
    assert_eq!(set(&mut client, "demo", &["base:", "x-test:"]), (vec![], REP_ACK));
    assert_eq!(flags_of(&mut client, OPT_INFO), without);

    for failing in [
        context_payload("nowhere", &[ODD]),
        context_payload("demo", &["no colon"]),
        vec![0xff; 12],
        vec![0; 66_000],
    ] {
        assert_eq!(set(&mut client, "demo", &[ODD]).1, REP_ACK);
        assert_eq!(flags_of(&mut client, OPT_INFO), with);
        let (replies, last) = client.ask(OPT_SET_META_CONTEXT, &failing);
        assert!(replies.is_empty() && last >> 31 == 1, "{last:#x}");
        assert_eq!(flags_of(&mut client, OPT_INFO), without);
    }

    // Another name for the same export is another name.
    assert_eq!(set(&mut client, "", &[ODD]).1, REP_ACK);
    assert_eq!(flags_of(&mut client, OPT_GO), without);
    client.style = Style::Extended;
    client.request(0, BLOCK_STATUS, 5, 0, 4096);
    assert_eq!(client.outcome(), (5, EINVAL));
    assert_eq!(
        *server.knobs.begun.lock().unwrap(),
        [0],
        "nothing was selected for the name it was opened by"
    );
}

#[test]
fn contexts_are_selected_by_name_each_once_and_only_so_many() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    assert_eq!(client.ask(OPT_STRUCTURED_REPLY, b"").1, REP_ACK);
    let names: Vec<String> = (0..33).map(|number| format!("{MANY}{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut set = |queries: &[&str]| client.ask(OPT_SET_META_CONTEXT, &context_payload("demo", queries));
    assert_eq!(set(&[]), (vec![], REP_ACK));
    assert_eq!(set(&["base:", MANY, "x-many:5000", "qemu:dirty-bitmap:b"]), (vec![], REP_ACK));
    assert_eq!(set(&names), (vec![], ERR_TOO_BIG));
    assert_eq!(set(&["x-many:7"; 129]), (vec![], ERR_TOO_BIG));
    let twice = set(&["x-many:7", "x-many:6", "x-many:7"]);
    assert_eq!(twice, (vec![context(1, "x-many:7"), context(2, "x-many:6")], REP_ACK));
    let (most, last) = set(&names[1..]);
    assert_eq!((most.len(), last), (32, REP_ACK));

    // Each is asked about by what it stands for.
    assert_eq!(client.ask(OPT_GO, &go_payload("demo", &[])).1, REP_ACK);
    client.style = Style::Structured;
    client.request(0, BLOCK_STATUS, 5, 0, 4096);
    let status = client.status().expect("a status");
    assert_eq!((status.len(), server.knobs.begun.lock().unwrap().as_slice()), (32, &[32][..]));
    for (id, extents) in status {
        assert_eq!(extents, [(4096, u64::from(id))]);
    }
}

#[test]
fn requests_sent_before_the_answer_to_go_are_not_lost() {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    let mut bytes = b"IHAVEOPT\0\0\0\x07".to_vec();
    let payload = go_payload("demo", &[]);
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(&request_bytes(Style::Simple, 0, WRITE, 1, 8192, 5));
    bytes.extend_from_slice(b"early");
    client.send(&bytes);
    assert_eq!(client.replies(OPT_GO).1, REP_ACK);
    assert_eq!(client.simple(), (1, 0));
    assert_eq!(client.read(0, 2, 8192, 6), Ok(b"early\0".to_vec()));
}
