//! Clients of the control API: requests go through the daemon's own routes to its own engine, over a pool in memory.
//!
//! An input is requests as lines: method and path, an end of line, the body, and a zero byte before the next. Whatever
//! they ask for, every answer is one that the API knows, none says that cairn itself has failed, and the pool is sound
//! afterwards.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, Uri};
use cairn_api::error::{ApiError, ErrorBody, ErrorCode};
use cairn_api::info::Info;
use cairn_api::path::RESTORES;
use cairn_cow::sim::SimDisk;
use cairn_cow::{CreateOptions, Options, Pool, Result as CowResult};
use cairn_uring::{Config, Handle, Reactor, ReactorThread};
use cairnd::control::{PoolEngine, router};
use cairnd::keeper::PoolFiles;
use cairnd::pools::PoolSlot;
use cairnd::volumes::Volumes;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use tokio::runtime::{Builder, Runtime};

/// Bytes that a pool may have.
const LIMIT: u64 = 64 << 20;
/// Requests of one input at most.
const MOST_REQUESTS: usize = 16;

/// One reactor for all pools, as in the daemon.
static REACTOR: LazyLock<ReactorThread> =
    LazyLock::new(|| Reactor::start(Config::default()).expect("this kernel has io_uring"));

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

fn options() -> Options {
    Options { lanes: 1, map_cache_bytes: 1 << 20, read_cache_bytes: 0, ..Options::default() }
}

fn on_reactor<T: Send + 'static, F: Future<Output = T> + 'static>(
    work: impl FnOnce() -> F + Send + 'static,
) -> T {
    let reactor: &Handle = REACTOR.handle();
    reactor.spawn_with(work).expect("the reactor runs").wait().expect("the task ends")
}

fn pool_on(disk: SimDisk, limit: u64, fresh: bool) -> CowResult<Arc<Pool<SimDisk>>> {
    disk.forget_all();
    on_reactor(move || async move {
        if fresh {
            let create = CreateOptions { limit, journal_bytes: Some(1 << 20), segment_blocks: None };
            Pool::create(disk, *b"a pool in a fuzz", create, options()).await
        } else {
            Pool::open(disk, options()).await
        }
    })
}

/// Disks by their paths, as a file system has them.
#[derive(Default)]
struct Files(Mutex<HashMap<String, SimDisk>>);

impl PoolFiles<SimDisk> for Files {
    fn add(
        &self,
        name: &str,
        path: &str,
        create: bool,
        limit: Option<u64>,
    ) -> Result<PoolSlot<SimDisk>, ApiError> {
        let mut disks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = create && !disks.contains_key(path);
        let disk = disks.entry(path.to_owned()).or_insert_with(|| SimDisk::file(LIMIT)).clone();
        let failed = |error: cairn_cow::Error| ApiError::new(ErrorCode::InvalidArgument, error.to_string());
        let pool = pool_on(disk, limit.unwrap_or(LIMIT), fresh).map_err(failed)?;
        Ok(PoolSlot::new(name, path, Ok(pool)))
    }

    fn remove(&self, slot: &PoolSlot<SimDisk>) -> Result<(), String> {
        let pool = slot.pool.clone()?;
        on_reactor(move || async move { pool.close().await }).map_err(|e| e.to_string())
    }

    fn device_size(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(path.starts_with("/dev/").then_some(LIMIT))
    }
}

/// The request that a part of the input is, if it is one.
fn request(part: &[u8]) -> Option<Request<Body>> {
    let (head, body) = match part.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&part[..end], &part[end + 1..]),
        None => (part, &[][..]),
    };
    let space = head.iter().position(|byte| *byte == b' ')?;
    let method = Method::from_bytes(&head[..space]).ok()?;
    let uri = Uri::from_maybe_shared(Bytes::copy_from_slice(&head[space + 1..])).ok()?;
    // Those go to files and hosts that the input names.
    if uri.path().starts_with(RESTORES) {
        return None;
    }
    Request::builder().method(method).uri(uri).body(Body::from(body.to_vec())).ok()
}

async fn ask(router: &Router, request: Request<Body>) {
    let asked = format!("{} {}", request.method(), request.uri());
    let answer =
        TowerToHyperService::new(router.clone()).call(request).await.expect("a router always answers");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("the answer is in memory").to_bytes();
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{asked}: {}", String::from_utf8_lossy(&body));
    if status.is_client_error() || status.is_server_error() {
        let told = serde_json::from_slice::<ErrorBody>(&body).map(|told| told.error.code.http_status());
        assert_eq!(told.ok(), Some(status.as_u16()), "{asked}: {}", String::from_utf8_lossy(&body));
    }
}

/// Requests, one after the other.
pub fn requests(input: &[u8]) {
    let requests: Vec<_> = input.split(|byte| *byte == 0).take(MOST_REQUESTS).filter_map(request).collect();
    if requests.is_empty() {
        return;
    }
    let pool = pool_on(SimDisk::file(LIMIT), LIMIT, true).expect("a pool");
    let volumes = Volumes::new(Arc::clone(&pool), "/the/pool".into());
    let info = Info {
        version: String::new(),
        pid: 1,
        started: Timestamp::UNIX_EPOCH,
        pool: "/the/pool".to_owned(),
        control: "/the/socket".to_owned(),
        nbd: Vec::new(),
    };
    let files = Arc::new(Files::default());
    let engine = PoolEngine::new(volumes, REACTOR.handle().clone(), files, None, info);
    let router = router(Arc::new(engine));
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            for request in requests {
                ask(&router, request).await;
            }
        });
    });
    let report = on_reactor(move || async move { pool.check(false).await });
    let errors = report.map(|report| report.errors);
    assert!(errors.as_ref().is_ok_and(Vec::is_empty), "{errors:?}");
}
