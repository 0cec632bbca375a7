//! Ordered ends: what is in flight is finished, what comes later is refused.

use std::future::pending;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use cairn_uring::net::{Listener, Stream};
use cairn_uring::{Closed, Config, Reactor, shutdown_requested, sleep, spawn, try_current};

use super::{LIMIT, reactor, run};

#[test]
fn join_waits_for_tasks_and_those_they_start() {
    let reactor = Reactor::start(Config { name: "named".to_owned(), ..Config::default() }).unwrap();
    let handle = reactor.handle().clone();
    let ended = Arc::new(AtomicUsize::new(0));
    let work = {
        let ended = Arc::clone(&ended);
        move || async move {
            assert_eq!(std::thread::current().name(), Some("named"));
            shutdown_requested().await;
            let own = try_current().unwrap();
            assert!(!own.is_open());
            assert_eq!(own.spawn_with(|| async {}).unwrap_err(), Closed);
            sleep(Duration::from_millis(5)).await;
            for _ in 0..3 {
                let ended = Arc::clone(&ended);
                drop(spawn(async move {
                    sleep(Duration::from_millis(5)).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                }));
            }
            ended.fetch_add(1, Ordering::SeqCst);
            "result"
        }
    };
    let join = handle.spawn_with(work).unwrap();
    assert!(handle.is_open());
    reactor.join().unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 4);
    assert_eq!(join.wait(), Ok("result"));
    assert_eq!(handle.spawn_with(|| async {}).unwrap_err(), Closed);
    handle.shutdown();
}

#[test]
fn an_idle_reactor_ends_at_once() {
    for _ in 0..50 {
        Reactor::start(Config::default()).unwrap().join().unwrap();
    }
}

#[test]
fn a_server_stops_accepting_and_finishes_its_connections() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let reactor = Reactor::start(Config::default()).unwrap();
    let serve = move || async move {
        let listener = Listener::unix(listener).unwrap();
        let accepting = spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap();
                drop(spawn(async move {
                    for _ in 0..2 {
                        let (result, buf) = stream.read_exact(vec![0; 4]).await;
                        result.unwrap();
                        stream.write_all(buf).await.0.unwrap();
                    }
                }));
            }
        });
        drop(spawn(async move {
            shutdown_requested().await;
            accepting.abort();
        }));
    };
    reactor.handle().spawn_with(serve).unwrap().wait().unwrap();
    run(async {
        let clients: Vec<_> =
            (0..10).map(|_| Stream::from_unix(UnixStream::connect(&path).unwrap()).unwrap()).collect();
        for round in [b"seen", b"late"] {
            for client in &clients {
                client.write_all(round.to_vec()).await.0.unwrap();
                let (result, buf) = client.read_exact(vec![0; 4]).await;
                result.unwrap();
                assert_eq!(buf, round);
            }
            reactor.handle().shutdown();
        }
    });
    reactor.join().unwrap();
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_dropped_reactor_answers_those_who_wait() {
    let mut reactor = reactor();
    let handle = reactor.handle();
    let begun = handle.spawn_with(pending::<()>).unwrap();
    reactor.block_on(async { sleep(Duration::from_millis(1)).await });
    let not_begun = handle.spawn_with(|| async { 1 }).unwrap();
    drop(reactor);
    assert_eq!(begun.wait(), Err(Closed));
    assert_eq!(not_begun.wait(), Err(Closed));
    assert_eq!(handle.spawn_with(|| async {}).unwrap_err(), Closed);
}

#[test]
fn a_panic_in_sent_work_is_its_own() {
    let reactor = Reactor::start(Config::default()).unwrap();
    let in_task = reactor.handle().spawn_with(|| async { panic!("in the task") });
    let before_task = reactor.handle().spawn_with(|| {
        if reactor_name().is_some() {
            panic!("before the task");
        }
        async {}
    });
    assert_eq!(in_task.unwrap().wait(), Err::<(), _>(Closed));
    assert_eq!(before_task.unwrap().wait(), Err(Closed));
    assert_eq!(reactor.handle().spawn_with(|| async { 3 }).unwrap().wait(), Ok(3));
    reactor.join().unwrap();
}

fn reactor_name() -> Option<String> {
    std::thread::current().name().map(str::to_owned)
}

#[test]
fn dropping_the_thread_requests_its_end() {
    let reactor = Reactor::start(Config::default()).unwrap();
    let join = reactor.handle().spawn_with(|| async {
        shutdown_requested().await;
        5
    });
    drop(reactor);
    assert_eq!(join.unwrap().wait(), Ok(5));
}

#[test]
fn a_detached_remote_task_runs_on() {
    let reactor = Reactor::start(Config::default()).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let work = {
        let count = Arc::clone(&count);
        move || async move {
            sleep(Duration::from_millis(2)).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    };
    drop(reactor.handle().spawn_with(work).unwrap());
    reactor.join().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_stream_dropped_with_its_reactor_is_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let stream = Stream::from_tcp(listener.accept().unwrap().0).unwrap();
    let mut reactor = reactor();
    reactor.block_on(async move {
        drop(spawn(async move { stream.read(vec![0; 10]).await.0 }));
        sleep(Duration::from_millis(1)).await;
    });
    drop(reactor);
    assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
}

/// Panics when it is woken, and so in the reactor's loop rather than in a task.
struct Trap;

impl Wake for Trap {
    fn wake(self: Arc<Self>) {
        panic!("the loop is broken");
    }
}

fn break_the_loop(abort_on_panic: bool) -> std::io::Result<()> {
    let reactor = Reactor::start(Config { abort_on_panic, ..Config::default() }).unwrap();
    let broken = reactor.handle().spawn_with(|| async {
        let mut nap = Box::pin(sleep(Duration::from_millis(1)));
        let trap = Waker::from(Arc::new(Trap));
        assert!(nap.as_mut().poll(&mut Context::from_waker(&trap)).is_pending());
        pending::<()>().await;
    });
    assert_eq!(broken.unwrap().wait(), Err(Closed));
    reactor.join()
}

#[test]
fn a_broken_loop_is_reported_or_ends_the_process() {
    const CHILD: &str = "CAIRN_TEST_ABORT_ON_PANIC";
    if std::env::var_os(CHILD).is_some() {
        let outcome = break_the_loop(true);
        unreachable!("the process lives: {outcome:?}");
    }
    let error = break_the_loop(false).unwrap_err();
    assert!(error.to_string().contains("the loop is broken"), "{error}");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shutdown::a_broken_loop_is_reported_or_ends_the_process"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{child:?}");
}
