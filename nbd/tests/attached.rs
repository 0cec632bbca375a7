//! Sessions without negotiation, as the kernel's nbd driver has them: a socket pair, and requests from the first byte.

mod common;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

use cairn_nbd::{
    ClientInfo, Export, Exports, Limits, SessionEnd, Shutdown, attached_flags, proto::TransmissionFlags,
    serve_attached,
};
use cairn_uring::net::Stream;
use cairn_uring::{Config, Reactor, ReactorThread};
use common::disk::{GATED, Knobs, RamExports, SIZE};
use common::raw::*;
use common::server::{Ended, PATIENCE, Server, eventually};

/// One export served on one end of a socket pair.
struct Attached {
    reactor: Option<ReactorThread>,
    shutdown: Shutdown,
    ended: Receiver<Ended>,
    flags: Receiver<TransmissionFlags>,
    knobs: Arc<Knobs>,
}

impl Attached {
    fn start(export: &'static str) -> (Self, Raw) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let reactor = Reactor::start(Config { name: "nbd-test".to_owned(), ..Config::default() })
            .expect("a reactor thread");
        let (knobs, shutdown) = (Arc::new(Knobs::default()), Shutdown::new());
        let ((end_sender, ended), (flag_sender, flags)) = (channel(), channel());
        let session = {
            let (knobs, shutdown) = (Arc::clone(&knobs), shutdown.clone());
            move || async move {
                let stream = Stream::from_unix(ours).expect("a stream");
                let client = ClientInfo { peer: stream.peer() };
                let export = RamExports::new(knobs).open(export, &client).await.expect("an export");
                flag_sender.send(attached_flags(&export.info())).expect("the test waits");
                let result = serve_attached(stream, export, &Limits::default(), &shutdown).await;
                // Nobody may be waiting for it.
                let _ = end_sender.send(result.map_err(|e| e.kind()));
            }
        };
        drop(reactor.handle().spawn_with(session).expect("a running reactor"));
        (Self { reactor: Some(reactor), shutdown, ended, flags, knobs }, Raw::new(theirs))
    }

    fn ended(&self) -> Ended {
        self.ended.recv_timeout(PATIENCE).expect("the session ends in time")
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.knobs.gate.trigger();
        self.shutdown.trigger();
        let joined = self.reactor.take().map(ReactorThread::join);
        if !std::thread::panicking() {
            assert!(matches!(joined, Some(Ok(()))), "the reactor failed: {joined:?}");
            assert_eq!(self.knobs.open.load(Ordering::SeqCst), 0, "exports left open");
        }
    }
}

/// The flags a client is told that negotiates as little as it can.
fn negotiated_flags(export: &str) -> u16 {
    let server = Server::start();
    let mut client = server.connect();
    client.greet(3);
    client.option(OPT_EXPORT_NAME, export.as_bytes());
    let answer = client.recv(10);
    u16::from_be_bytes([answer[8], answer[9]])
}

#[test]
fn the_first_bytes_are_a_request() {
    let (attached, mut client) = Attached::start("demo");
    let bytes: Vec<u8> = (0..12_288_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    client.write(FUA, 1, 4096 - 512, &bytes);
    assert_eq!(client.simple(), (1, 0));
    assert_eq!(attached.knobs.fua.load(Ordering::SeqCst), 1);
    client.request(0, FLUSH, 2, 0, 0);
    assert_eq!(client.simple(), (2, 0));
    assert_eq!(attached.knobs.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(client.read(0, 3, 4096 - 512, 12_288), Ok(bytes));
    client.request(0, TRIM, 4, 4096, 4096);
    assert_eq!(client.simple(), (4, 0));
    client.request(NO_HOLE, WRITE_ZEROES, 5, 8192, 4096);
    assert_eq!(client.simple(), (5, 0));
    assert_eq!(client.read(0, 6, 4096, 8192), Ok(vec![0; 8192]));
    client.request(0, DISC, 7, 0, 0);
    client.expect_end();
    let summary = attached.ended().expect("a good end");
    assert_eq!((summary.end, summary.export.as_deref()), (SessionEnd::Disconnected, Some("demo")));
    assert_eq!((summary.requests, summary.errors), (6, 0));
}

#[test]
fn what_was_not_negotiated_is_refused_and_the_stream_stays_in_step() {
    let (attached, mut client) = Attached::start("demo");
    client.request(0, BLOCK_STATUS, 1, 0, 4096);
    assert_eq!(client.simple(), (1, EINVAL));
    client.request(DF, READ, 2, 0, 4096);
    assert_eq!(client.simple(), (2, EINVAL));
    client.write(0, 3, SIZE - 512, &[1; 1024]);
    assert_eq!(client.simple(), (3, ENOSPC));
    assert_eq!(client.read(0, 4, SIZE - 512, 512), Ok(vec![0; 512]));
    drop(client);
    let summary = attached.ended().expect("a good end");
    assert_eq!((summary.end, summary.errors), (SessionEnd::Closed, 3));
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let (attached, mut client) = Attached::start("ro");
    client.write(0, 1, 0, &[1; 512]);
    assert_eq!(client.simple(), (1, EPERM));
    assert_eq!(client.read(0, 2, 0, 512), Ok(vec![0; 512]));
    drop(client);
    assert!(attached.ended().is_ok());
}

#[test]
fn the_flags_are_those_of_a_client_that_negotiates_nothing() {
    for export in ["demo", "ro", "bare"] {
        let (attached, client) = Attached::start(export);
        let flags = attached.flags.recv_timeout(PATIENCE).expect("the session begins");
        assert_eq!(flags.0, negotiated_flags(export), "{export}");
        drop(client);
    }
    let (attached, _client) = Attached::start("demo");
    let flags = attached.flags.recv_timeout(PATIENCE).expect("the session begins");
    assert!(flags.contains(TransmissionFlags::CAN_MULTI_CONN.with(TransmissionFlags::SEND_FUA)));
    assert!(!flags.contains(TransmissionFlags::SEND_DF));
}

#[test]
fn a_shutdown_answers_what_was_taken_and_nothing_else() {
    let (attached, mut client) = Attached::start("demo");
    client.request(0, READ, 1, GATED, 4096);
    eventually("the read waits", || attached.knobs.gated.load(Ordering::SeqCst) == 1);
    attached.shutdown.trigger();
    attached.knobs.gate.trigger();
    assert_eq!(client.contents(1, GATED, 4096), Ok(vec![0; 4096]));
    client.expect_end();
    drop(client);
    assert_eq!(attached.ended().map(|s| s.end), Ok(SessionEnd::Shutdown));
}
