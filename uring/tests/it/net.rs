//! Sockets: both kinds, whole transfers, ends and errors.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use cairn_uring::net::{Listener, Peer, Stream};
use cairn_uring::{AlignedBuf, Config, IoBuf, Reactor, Slice, spawn, yield_now};

use super::{limited, pattern, run, tiny_reactor};

async fn unix_pair() -> (Stream, Stream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = Listener::unix(UnixListener::bind(&path).unwrap()).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    (Stream::from_unix(client).unwrap(), listener.accept().await.unwrap())
}

async fn tcp_pair() -> (Stream, Stream) {
    let std = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = std.local_addr().unwrap();
    let listener = Listener::tcp(std).unwrap();
    let client = TcpStream::connect(address).unwrap();
    (Stream::from_tcp(client).unwrap(), listener.accept().await.unwrap())
}

/// A header kept for reuse or a payload by reference: what a server's replies are made of.
enum Part {
    Header(Box<[u8]>),
    Payload(AlignedBuf),
}

// SAFETY: as the buffer it holds.
unsafe impl IoBuf for Part {
    fn as_ptr(&self) -> *const u8 {
        match self {
            Self::Header(header) => IoBuf::as_ptr(header),
            Self::Payload(payload) => IoBuf::as_ptr(payload),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Header(header) => header.len(),
            Self::Payload(payload) => payload.len(),
        }
    }
}

/// Sends `bytes` in pieces of all sorts.
async fn send(stream: &Stream, bytes: &[u8]) {
    let mut rest = bytes;
    let mut length = 1;
    while !rest.is_empty() {
        let (piece, next) = rest.split_at(rest.len().min(length));
        rest = next;
        length = (length * 3) % 1_500_001;
        let (head, payload) = piece.split_at(piece.len().min(16));
        let mut body = AlignedBuf::new(payload.len());
        body.copy_from_slice(payload);
        if length % 2 == 0 {
            stream.write_all(head.to_vec()).await.0.unwrap();
            stream.write_all(body).await.0.unwrap();
        } else {
            let parts = vec![Part::Header(head.into()), Part::Payload(body)];
            stream.writev_all(parts).await.0.unwrap();
        }
    }
}

/// Receives `bytes`, in pieces of other sorts.
async fn expect(stream: &Stream, bytes: &[u8]) {
    let mut done = 0;
    let mut buf = AlignedBuf::new(1 << 20);
    while done < bytes.len() {
        let left = bytes.len() - done;
        if done % 3 == 0 {
            let length = left.min(300_000);
            let (result, slice) = stream.read_exact(Slice::new(buf, 0..length)).await;
            result.unwrap();
            assert!(*slice.as_slice() == bytes[done..done + length]);
            buf = slice.into_inner();
            done += length;
        } else {
            let (result, slice) = stream.read(Slice::new(buf, 0..left.min(1 << 20))).await;
            let count = result.unwrap();
            assert!(count > 0, "the stream ended at {done}");
            buf = slice.into_inner();
            assert!(buf[..count] == bytes[done..done + count]);
            done += count;
        }
    }
}

async fn exchange((left, right): (Stream, Stream)) {
    let there = Rc::new(pattern(16 << 20, 1));
    let back = Rc::new(pattern(9_999_999, 2));
    let mut tasks = Vec::new();
    for (stream, sent, received) in [(left, &there, &back), (right, &back, &there)] {
        let stream = Rc::new(stream);
        let (writer, sent) = (Rc::clone(&stream), Rc::clone(sent));
        tasks.push(spawn(async move { send(&writer, &sent).await }));
        let received = Rc::clone(received);
        tasks.push(spawn(async move { expect(&stream, &received).await }));
    }
    for task in tasks {
        task.await;
    }
}

#[test]
fn big_transfers_both_ways_at_once_over_unix() {
    run(async { exchange(unix_pair().await).await });
}

#[test]
fn big_transfers_both_ways_at_once_over_tcp() {
    run(async { exchange(tcp_pair().await).await });
}

#[test]
fn many_connections_on_small_queues() {
    tiny_reactor().block_on(limited(async {
        let tasks: Vec<_> = (0..60)
            .map(|seed| {
                spawn(async move {
                    let (left, right) = if seed % 2 == 0 { unix_pair().await } else { tcp_pair().await };
                    let bytes = Rc::new(pattern(50_000, seed));
                    let sent = Rc::clone(&bytes);
                    let sending = spawn(async move { send(&left, &sent).await });
                    expect(&right, &bytes).await;
                    sending.await;
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
    }));
}

#[test]
fn more_buffers_than_one_message_takes() {
    run(async {
        let (left, right) = unix_pair().await;
        let bytes = pattern(3000 * 7, 3);
        let bufs: Vec<_> = bytes.chunks(7).map(<[u8]>::to_vec).collect();
        let sending = spawn(async move { left.writev_all(bufs).await });
        let (result, received) = right.read_exact(vec![0; bytes.len()]).await;
        result.unwrap();
        assert!(received == bytes);
        let (result, bufs) = sending.await;
        result.unwrap();
        assert_eq!(bufs.len(), 3000);
    });
}

#[test]
fn peers_are_known() {
    run(async {
        let (_client, server) = unix_pair().await;
        // SAFETY: asks for a number.
        let uid = unsafe { libc::geteuid() };
        assert_eq!(server.peer(), Peer::Unix { pid: std::process::id() as i32, uid });
        // SAFETY: asks for a number.
        let gid = unsafe { libc::getegid() };
        let who = server.credentials().unwrap();
        assert_eq!((who.pid, who.uid), (std::process::id() as i32, uid));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut expected: Vec<u32> = groups.split_whitespace().map(|group| group.parse().unwrap()).collect();
        expected.push(gid);
        assert_eq!(who.groups, expected);

        let (client, server) = tcp_pair().await;
        let client = TcpStream::from(client.into_fd().unwrap());
        assert_eq!(server.peer(), Peer::Tcp(client.local_addr().unwrap()));
        assert!(server.credentials().is_err(), "TCP has none");
        assert!(client.nodelay().unwrap());
        assert!(TcpStream::from(server.as_fd().try_clone_to_owned().unwrap()).nodelay().unwrap());
    });
}

#[test]
fn the_end_of_the_stream() {
    run(async {
        let (left, right) = unix_pair().await;
        left.write_all(b"abc".to_vec()).await.0.unwrap();
        left.shutdown(Shutdown::Write).unwrap();
        let (result, buf) = right.read(vec![0; 10]).await;
        assert_eq!(result.unwrap(), 3);
        assert_eq!(&buf[..3], b"abc");
        assert_eq!(right.read(buf).await.0.unwrap(), 0);

        let (left, right) = tcp_pair().await;
        left.write_all(b"abc".to_vec()).await.0.unwrap();
        drop(left);
        let (result, buf) = right.read_exact(vec![0; 4]).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(buf.len(), 4);
    });
}

#[test]
fn writing_to_nobody_is_an_error_not_a_signal() {
    run(async {
        let (left, right) = unix_pair().await;
        drop(right);
        let (result, _) = left.write_all(vec![0; 10]).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
        let (result, bufs) = left.writev_all(vec![vec![0; 10]; 2]).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(bufs.len(), 2);
    });
}

#[test]
fn shutdown_ends_a_read_that_waits() {
    run(async {
        let (left, _right) = tcp_pair().await;
        let left = Rc::new(left);
        let reading = {
            let left = Rc::clone(&left);
            spawn(async move { left.read_exact(vec![0; 10]).await.0 })
        };
        yield_now().await;
        left.shutdown(Shutdown::Both).unwrap();
        assert_eq!(reading.await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    });
}

#[test]
fn nonblocking_sockets_are_taken_over() {
    run(async {
        let (left, mut right) = UnixStream::pair().unwrap();
        left.set_nonblocking(true).unwrap();
        let left = Stream::from_unix(left).unwrap();
        let reading = spawn(async move { left.read_exact(vec![0; 3]).await });
        yield_now().await;
        yield_now().await;
        right.write_all(b"abc").unwrap();
        let (result, buf) = reading.await;
        result.unwrap();
        assert_eq!(buf, b"abc");
    });
}

#[test]
fn a_stream_goes_on_at_another_reactor() {
    let other = Reactor::start(Config::default()).unwrap();
    let handle = other.handle().clone();
    run(async move {
        let (left, right) = unix_pair().await;
        left.write_all(b"one".to_vec()).await.0.unwrap();
        let (result, buf) = right.read_exact(vec![0; 3]).await;
        result.unwrap();
        assert_eq!(buf, b"one");
        let echo = move || async move {
            let (result, buf) = right.read_exact(vec![0; 3]).await;
            result.unwrap();
            right.write_all(buf).await.0.unwrap();
        };
        let echoing = handle.spawn_with(echo).unwrap();
        left.write_all(b"two".to_vec()).await.0.unwrap();
        let (result, buf) = left.read_exact(vec![0; 3]).await;
        result.unwrap();
        assert_eq!(buf, b"two");
        echoing.await.unwrap();
    });
    other.join().unwrap();
}
