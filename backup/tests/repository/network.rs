//! Stores that are slow, silent, or odd in what they answer.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::stores::forward;
use crate::common::{CHUNK, quick, retry};
use bytes::Bytes;
use cairn_backup::{
    Answer, ErrorKind, Failure, Location, Object, Objects, OpenOptions, Repository, Result, S3Options,
    StoreError, memory,
};
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SILENCE: Duration = Duration::from_millis(500);
/// Far more than two attempts take, far less than what a large object would be allowed.
const BOUND: Duration = Duration::from_secs(30);

/// Opens a repository at a server that deals with its connections as told.
async fn open_at<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Result<Repository>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    let s3 = S3Options {
        endpoint: Some(format!("http://{address}")),
        region: Some("anywhere".to_owned()),
        credentials: Some(("id".to_owned(), "secret".to_owned())),
        silence: Some(SILENCE),
    };
    let options = OpenOptions { s3, retry: retry(2), ..OpenOptions::default() };
    let opened = Repository::open(&Location::parse("s3://bucket/prefix").unwrap(), options).await;
    server.abort();
    opened
}

/// Reads a request without a body.
async fn request(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await?);
    }
    Ok(())
}

fn head(len: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nETag: \"1\"\r\nLast-Modified: Sat, 21 Nov 2026 15:00:00 GMT\r\n\r\n"
    )
}

async fn config() -> Bytes {
    let store = memory();
    Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    store.get("config", None).await.unwrap()
}

#[tokio::test]
async fn a_store_that_falls_silent_is_given_up() {
    let config = config().await;
    // Before the answer, and in the middle of it.
    for said in [0, config.len() / 2] {
        let config = config.clone();
        let began = Instant::now();
        let opened = open_at(move |mut stream| {
            let config = config.clone();
            async move {
                request(&mut stream).await?;
                if said > 0 {
                    stream.write_all(head(config.len()).as_bytes()).await?;
                    stream.write_all(&config[..said]).await?;
                }
                std::future::pending().await
            }
        });
        let error = opened.await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(began.elapsed() >= 2 * SILENCE, "it was tried once more");
        assert!(began.elapsed() < BOUND, "it took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_answer_may_be_empty() {
    for (status, kind) in [
        ("503 Slow Down", ErrorKind::Unavailable),
        ("403 Forbidden", ErrorKind::Denied),
        ("404 Not Found", ErrorKind::NotARepository),
    ] {
        let opened = open_at(move |mut stream| async move {
            loop {
                request(&mut stream).await?;
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
                    .await?;
            }
        });
        let error = opened.await.err().unwrap();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

#[tokio::test]
async fn a_slow_store_is_not_a_silent_one() {
    let config = config().await;
    let began = Instant::now();
    let opened = open_at(move |mut stream| {
        let config = config.clone();
        async move {
            request(&mut stream).await?;
            stream.write_all(head(config.len()).as_bytes()).await?;
            for piece in config.chunks(config.len().div_ceil(10)) {
                tokio::time::sleep(SILENCE / 5).await;
                stream.write_all(piece).await?;
            }
            Ok(())
        }
    });
    opened.await.unwrap();
    assert!(began.elapsed() > SILENCE, "this proves nothing");
}

/// A store that fails as a network that is gone, and counts.
#[derive(Default)]
struct Gone {
    asked: AtomicU32,
}

impl Gone {
    fn fail<T: Send>(&self) -> Answer<'_, T> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        async { Err(StoreError::new(Failure::Transient, "as the test asked")) }.boxed()
    }
}

impl Objects for Gone {
    fn put<'a>(&'a self, _: &'a str, _: Bytes) -> Answer<'a, ()> {
        self.fail()
    }

    fn create<'a>(&'a self, _: &'a str, _: Bytes) -> Answer<'a, bool> {
        self.fail()
    }

    fn get<'a>(&'a self, _: &'a str, _: Option<Range<u64>>) -> Answer<'a, Bytes> {
        self.fail()
    }

    fn head<'a>(&'a self, _: &'a str) -> Answer<'a, Object> {
        self.fail()
    }

    fn delete<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        self.fail()
    }

    fn list<'a>(&'a self, _: &'a str, _: &'a mut (dyn FnMut(Object) + Send)) -> Answer<'a, ()> {
        self.fail()
    }
}

#[tokio::test]
async fn a_store_that_never_answered_is_not_waited_for_long() {
    let gone = Arc::new(Gone::default());
    let options = || OpenOptions { retry: retry(50), ..OpenOptions::default() };
    let error = Repository::open_on(gone.clone(), options()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(gone.asked.load(Ordering::Relaxed), 4);
    let error = Repository::init_on(gone.clone(), options(), CHUNK).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(gone.asked.load(Ordering::Relaxed), 8);
}

/// A store that refuses to create an object although there is none, as some do when two create it at once.
struct Hesitant {
    inner: Arc<dyn Objects>,
    refusals: AtomicU32,
}

impl Objects for Hesitant {
    forward!(put, get, head, delete, list);

    fn create<'a>(&'a self, name: &'a str, contents: Bytes) -> Answer<'a, bool> {
        let take = |left: u32| left.checked_sub(1);
        if self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return async { Ok(false) }.boxed();
        }
        self.inner.create(name, contents)
    }
}

#[tokio::test]
async fn two_that_are_refused_for_each_other_try_again() {
    let store = Arc::new(Hesitant { inner: memory(), refusals: AtomicU32::new(2) });
    Repository::init_on(store.clone(), quick(), CHUNK).await.unwrap();
    let error = Repository::init_on(store, quick(), CHUNK).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Exists);
    let never = Arc::new(Hesitant { inner: memory(), refusals: AtomicU32::new(u32::MAX) });
    let error = Repository::init_on(never, quick(), CHUNK).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}
