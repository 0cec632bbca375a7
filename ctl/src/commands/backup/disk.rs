//! A daemon's exports as what is backed up, and what is restored to. NBD is spoken by blocking connections, each used by one thread at a time.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cairn_api::info::NbdEndpoint;
use cairn_backup::{Extents, Sink, Source};
use cairn_image::nbd::Connection;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::failure::Failure;

/// Connections to one export: reads that are under way at once.
const CONNECTIONS: usize = 2;

/// Connections to one export.
struct Connections {
    idle: Mutex<Vec<Connection>>,
    free: Semaphore,
}

impl Connections {
    /// Connects so many times.
    async fn open(
        count: usize,
        connect: impl Fn() -> cairn_image::Result<Connection> + Send + 'static,
    ) -> Result<(Arc<Connections>, u64), Failure> {
        let all = move || (0..count).map(|_| connect()).collect::<Result<Vec<_>, _>>();
        let opened = tokio::task::spawn_blocking(all).await;
        let idle = opened.map_err(|e| Failure::local("internal", e.to_string()))??;
        let size = idle.first().map_or(0, Connection::size);
        let connections = Connections { idle: Mutex::new(idle), free: Semaphore::new(count) };
        Ok((Arc::new(connections), size))
    }

    /// Does something with a connection that nobody else uses. One that failed is not used again.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> cairn_image::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let lost = || io::Error::other("the connection to the daemon is lost");
        let _permit = self.free.acquire().await.map_err(|_| lost())?;
        let mut connection = self.idle().pop().ok_or_else(lost)?;
        let all = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut connection);
            if done.is_ok() {
                all.idle().push(connection);
            }
            done
        });
        done.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot.
pub(super) struct SnapshotSource {
    connections: Arc<Connections>,
    /// To the snapshot that it is compared with: as long as somebody is connected, nobody deletes it.
    _since: Option<Arc<Connections>>,
    size: u64,
}

impl SnapshotSource {
    /// Connects to a snapshot's export, to be compared with another snapshot of its volume where one is named.
    pub(super) async fn open(
        endpoint: &NbdEndpoint,
        volume: &str,
        snapshot: &str,
        since: Option<String>,
    ) -> Result<SnapshotSource, Failure> {
        let held = match &since {
            Some(since) => {
                let (endpoint, export) = (endpoint.clone(), format!("{volume}@{since}"));
                Some(Connections::open(1, move || Connection::open(&endpoint, &export)).await?.0)
            }
            None => None,
        };
        let (endpoint, export) = (endpoint.clone(), format!("{volume}@{snapshot}"));
        let opened = Connections::open(CONNECTIONS, move || match &since {
            Some(since) => Connection::open_comparing(&endpoint, &export, since),
            None => Connection::open(&endpoint, &export),
        });
        let (connections, size) = opened.await?;
        Ok(SnapshotSource { connections, _since: held, size })
    }
}

impl Source for SnapshotSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn extents(&self, which: Extents, range: Range<u64>) -> BoxFuture<'_, io::Result<Vec<Range<u64>>>> {
        self.connections
            .with(move |connection| match which {
                Extents::Data => connection.data_in(range),
                Extents::Changed => connection.changed_in(range),
            })
            .boxed()
    }

    fn read(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, io::Result<Bytes>> {
        self.connections.with(move |connection| connection.read_ranges(&ranges).map(Bytes::from)).boxed()
    }
}

/// A volume that is being filled, all zeroes at first.
pub(super) struct StagedSink {
    connections: Arc<Connections>,
}

impl StagedSink {
    pub(super) async fn open(endpoint: NbdEndpoint, export: String) -> Result<StagedSink, Failure> {
        let opened = Connections::open(1, move || Connection::open(&endpoint, &export));
        Ok(StagedSink { connections: opened.await?.0 })
    }

    /// Makes all that was written durable.
    pub(super) async fn finish(&self) -> io::Result<()> {
        self.connections.with(Connection::finish).await
    }
}

impl Sink for StagedSink {
    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.connections.with(move |connection| connection.write_at(offset, &data)).boxed()
    }

    fn hole(&self, _: u64, _: u64) -> BoxFuture<'_, io::Result<()>> {
        async { Ok(()) }.boxed()
    }
}
