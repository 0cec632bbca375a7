//! The engine behind the API: the pool, reached through a reactor.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::info::Info;
use cairn_api::pool::{CheckReport, PoolStatus};
use cairn_api::snapshot::{
    CreateGroup, CreateSnapshot, Diff, DiffQuery, MAX_DIFF_EXTENTS, Rollback, RolledBack, Snapshot,
    SnapshotList, Tree,
};
use cairn_api::volume::{CreateVolume, Volume, VolumeList};
use cairn_cow::{DiffExtent, Disk, Pool, Result as CowResult, SnapshotInfo, VolumeInfo};
use cairn_uring::Handle;

use super::convert;
use super::engine::{Engine, Pending};
use super::sessions::{Held, InUse, Sessions, Target};

/// How often and how long a delete or rollback waits for connections to go: half a second in all.
const HOLD_ATTEMPTS: u32 = 25;
const HOLD_PAUSE: Duration = Duration::from_millis(20);

/// The API's operations on a pool.
///
/// What changes something, and what does I/O, runs on the reactor as one task that keeps every hold it needs until it
/// has ended. What only looks reads the pool's state from the control thread.
pub struct PoolEngine<D: Disk> {
    pool: Arc<Pool<D>>,
    reactor: Handle,
    sessions: Arc<Sessions>,
    info: Info,
}

impl<D: Disk> PoolEngine<D> {
    /// Works on `pool` through `reactor`, one of the reactors that the pool's disk belongs to. `info` is what
    /// `/v1/info` answers.
    pub fn new(pool: Arc<Pool<D>>, reactor: Handle, sessions: Arc<Sessions>, info: Info) -> PoolEngine<D> {
        PoolEngine { pool, reactor, sessions, info }
    }

    /// Runs `operation` on the reactor, from when the answer is first asked for.
    fn run<T, F, Fut>(&self, operation: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Pool<D>>, Arc<Sessions>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, ApiError>> + 'static,
    {
        let (pool, reactor, sessions) = (self.pool.clone(), self.reactor.clone(), self.sessions.clone());
        Box::pin(async move {
            let Ok(answer) = reactor.spawn_with(move || operation(pool, sessions)) else {
                return Err(shutting_down());
            };
            answer.await.unwrap_or_else(|_| Err(shutting_down()))
        })
    }

    /// Answers from the pool's state in memory.
    fn look<T, F>(&self, look: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce(&Pool<D>, &Sessions) -> CowResult<T> + Send + 'static,
    {
        let (pool, sessions) = (self.pool.clone(), self.sessions.clone());
        Box::pin(async move { look(&pool, &sessions).map_err(|e| convert::error(&e)) })
    }
}

fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the daemon is shutting down")
        .with_hint("try again once it is back")
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, message)
}

fn show<D: Disk>(pool: &Pool<D>, sessions: &Sessions, info: VolumeInfo) -> Volume {
    convert::volume(info, pool.status().fenced.is_some(), sessions)
}

/// Takes `target` for one operation, giving connections that are just being closed a moment to be gone: a client that
/// has disconnected does not know when the daemon has noticed.
async fn hold(sessions: &Arc<Sessions>, target: Target) -> Result<Held, ApiError> {
    for _ in 0..HOLD_ATTEMPTS {
        match sessions.hold(target.clone()) {
            Ok(held) => return Ok(held),
            Err(InUse::Connected(_)) => cairn_uring::sleep(HOLD_PAUSE).await,
            Err(InUse::Held) => break,
        }
    }
    sessions.hold(target.clone()).map_err(|why| convert::in_use(&target, &why))
}

fn snapshot_list(mut infos: Vec<SnapshotInfo>, sessions: &Sessions) -> SnapshotList {
    infos.sort_by(|a, b| (&a.volume, a.created_ms, a.id).cmp(&(&b.volume, b.created_ms, b.id)));
    SnapshotList { snapshots: infos.into_iter().map(|info| convert::snapshot(info, sessions)).collect() }
}

/// The extents from `offset` on as far as one answer takes them, and where the next one starts.
fn page(extents: &[DiffExtent], offset: u64, most: usize) -> (&[DiffExtent], Option<u64>) {
    let start = extents.partition_point(|extent| extent.offset < offset);
    let rest = &extents[start..];
    match rest.get(most) {
        Some(next) => (&rest[..most], Some(next.offset)),
        None => (rest, None),
    }
}

impl<D: Disk> Engine for PoolEngine<D> {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn volumes(&self) -> Pending<VolumeList> {
        self.look(|pool, sessions| {
            let fenced = pool.status().fenced.is_some();
            let mut infos = pool.volumes();
            infos.sort_by(|a, b| a.name.cmp(&b.name));
            let volumes = infos.into_iter().map(|info| convert::volume(info, fenced, sessions)).collect();
            Ok(VolumeList { volumes })
        })
    }

    fn volume(&self, name: String) -> Pending<Volume> {
        self.look(move |pool, sessions| Ok(show(pool, sessions, pool.volume(&name)?)))
    }

    fn create_volume(&self, request: CreateVolume) -> Pending<Volume> {
        self.run(async move |pool, sessions| {
            let CreateVolume { name, size, description, source } = request;
            let created = match (source, size) {
                (None, None) => {
                    return Err(invalid("a blank volume needs a size").with_hint("give \"size\" in bytes"));
                }
                (None, Some(size)) => pool.create_volume(&name, size, &description).await,
                (Some(_), _) if !description.is_empty() => {
                    return Err(invalid("a clone cannot be given a description").with_hint("leave it out"));
                }
                (Some(source), size) => {
                    pool.clone_volume(&source.volume, &source.snapshot, &name, size).await
                }
            };
            Ok(show(&pool, &sessions, created.map_err(|e| convert::error(&e))?))
        })
    }

    fn resize_volume(&self, name: String, size: u64) -> Pending<Volume> {
        self.run(async move |pool, sessions| {
            let resized = pool.resize_volume(&name, size).await.map_err(|e| convert::error(&e))?;
            Ok(show(&pool, &sessions, resized))
        })
    }

    fn delete_volume(&self, name: String, with_snapshots: bool) -> Pending<()> {
        self.run(async move |pool, sessions| {
            let volume = name.clone();
            let target = if with_snapshots { Target::Volume { volume } } else { Target::Head { volume } };
            let _held = hold(&sessions, target).await?;
            pool.delete_volume(&name, with_snapshots).await.map_err(|e| convert::error(&e))
        })
    }

    fn tree(&self, volume: String) -> Pending<Tree> {
        self.look(move |pool, _| {
            let nodes = pool.tree(&volume)?.into_iter().map(convert::tree_node).collect();
            Ok(Tree { volume, nodes })
        })
    }

    fn snapshots(&self, volume: Option<String>) -> Pending<SnapshotList> {
        self.look(move |pool, sessions| Ok(snapshot_list(pool.snapshots(volume.as_deref())?, sessions)))
    }

    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot> {
        self.look(move |pool, sessions| Ok(convert::snapshot(pool.snapshot(&volume, &name)?, sessions)))
    }

    fn create_snapshot(&self, volume: String, request: CreateSnapshot) -> Pending<Snapshot> {
        self.run(async move |pool, sessions| {
            let of = [(volume.as_str(), request.name.as_str())];
            let created =
                pool.create_snapshots(&of, &request.description).await.map_err(|e| convert::error(&e))?;
            match created.into_iter().next() {
                Some(info) => Ok(convert::snapshot(info, &sessions)),
                None => Err(ApiError::new(ErrorCode::Internal, "the engine made no snapshot")),
            }
        })
    }

    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList> {
        self.run(async move |pool, sessions| {
            let of: Vec<_> = request.members.iter().map(|m| (m.volume.as_str(), m.name.as_str())).collect();
            let created =
                pool.create_snapshots(&of, &request.description).await.map_err(|e| convert::error(&e))?;
            let snapshots = created.into_iter().map(|info| convert::snapshot(info, &sessions)).collect();
            Ok(SnapshotList { snapshots })
        })
    }

    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()> {
        self.run(async move |pool, sessions| {
            let _held =
                hold(&sessions, Target::Snapshot { volume: volume.clone(), name: name.clone() }).await?;
            pool.delete_snapshot(&volume, &name).await.map_err(|e| convert::error(&e))
        })
    }

    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack> {
        self.run(async move |pool, sessions| {
            let target = Target::Head { volume: volume.clone() };
            let _held = if request.force { None } else { Some(hold(&sessions, target).await?) };
            let undo = pool.rollback(&volume, &snapshot).await.map_err(|e| convert::error(&e))?;
            let info = pool.volume(&volume).map_err(|e| convert::error(&e))?;
            Ok(RolledBack { volume: show(&pool, &sessions, info), undo: convert::snapshot(undo, &sessions) })
        })
    }

    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff> {
        self.run(async move |pool, _| {
            let extents =
                pool.diff(&volume, &snapshot, query.to.as_deref()).await.map_err(|e| convert::error(&e))?;
            let (shown, next) = page(&extents, query.offset, MAX_DIFF_EXTENTS);
            Ok(Diff {
                changed: extents.iter().map(|extent| extent.len).sum(),
                extents: shown.iter().copied().map(convert::diff_extent).collect(),
                next,
                volume,
                from: snapshot,
                to: query.to,
            })
        })
    }

    fn pool(&self) -> Pending<PoolStatus> {
        let path = self.info.pool.clone();
        self.look(move |pool, _| Ok(convert::pool_status(pool.status(), path)))
    }

    fn check(&self, data: bool) -> Pending<CheckReport> {
        self.run(async move |pool, _| {
            let report = pool.check(data).await.map_err(|e| convert::error(&e))?;
            Ok(convert::check_report(report))
        })
    }
}

#[cfg(test)]
mod tests {
    use cairn_cow::ExtentKind;

    use super::*;

    #[test]
    fn pages_join_without_gap_or_overlap() {
        let extents: Vec<_> =
            (0..10).map(|n| DiffExtent { offset: n * 8192, len: 4096, kind: ExtentKind::Data }).collect();
        let mut joined = Vec::new();
        let mut offset = Some(0);
        let mut pages = 0;
        while let Some(from) = offset {
            let (shown, next) = page(&extents, from, 3);
            joined.extend_from_slice(shown);
            offset = next;
            pages += 1;
        }
        assert_eq!((pages, joined), (4, extents.clone()));
        assert_eq!(page(&extents, 9 * 8192 + 1, 3), (&[][..], None));
        assert_eq!(page(&extents, 0, 10).1, None, "exactly full is the last page");
    }
}
