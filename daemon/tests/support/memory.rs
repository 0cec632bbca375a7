//! An engine that only remembers, so that the control side can be tested from outside without a pool.
//!
//! It follows the API's rules where a test can see them; times advance by one minute an operation from a fixed start.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::info::{Info, NbdEndpoint};
use cairn_api::pool::{CheckReport, PoolStatus};
use cairn_api::snapshot::*;
use cairn_api::volume::*;
use cairnd::control::{ControlThread, Engine, Pending, bind_unix, start};
use jiff::{Timestamp, ToSpan};

/// Starts a control server over a fresh [`MemoryEngine`] on the socket `path`.
pub(crate) fn serve(path: &Path) -> (Arc<MemoryEngine>, ControlThread) {
    let engine = Arc::new(MemoryEngine::new(path));
    let listener = bind_unix(path).expect("the socket binds");
    let thread = start(listener, path, engine.clone()).expect("the server starts");
    (engine, thread)
}

/// See the module.
pub(crate) struct MemoryEngine {
    info: Info,
    state: Mutex<State>,
}

struct State {
    clock: Timestamp,
    next_id: u32,
    nodes: Vec<Node>,
    heads: BTreeMap<String, Head>,
    fail: Option<ApiError>,
    report: CheckReport,
    diff: Vec<DiffExtent>,
}

#[derive(Clone)]
struct Node {
    id: u32,
    parent: Option<u32>,
    kind: TreeKind,
    size: u64,
    created: Timestamp,
    description: String,
    automatic: bool,
}

#[derive(Default)]
struct Head {
    origin: Option<SnapshotRef>,
    connections: u64,
}

fn error(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError::new(code, message)
}

impl MemoryEngine {
    fn new(control: &Path) -> MemoryEngine {
        let started: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let folder = control.parent().expect("a folder");
        let info = Info {
            version: "0.1.0".into(),
            pid: std::process::id(),
            started,
            pool: "/pool.cairn".into(),
            control: control.display().to_string(),
            nbd: vec![NbdEndpoint::Unix(folder.join("nbd.sock").display().to_string())],
        };
        let report =
            CheckReport { clean: true, versions: 1, nodes: 2, data_blocks: 3, ..CheckReport::default() };
        let state = State {
            clock: started,
            next_id: 1,
            nodes: Vec::new(),
            heads: BTreeMap::new(),
            fail: None,
            report,
            diff: Vec::new(),
        };
        MemoryEngine { info, state: Mutex::new(state) }
    }

    /// The next operation fails like this.
    pub(crate) fn fail_next(&self, code: ErrorCode, message: &str, hint: Option<&str>) {
        let error = ApiError::new(code, message);
        self.lock().fail = Some(match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        });
    }

    /// So many clients are connected to a volume.
    pub(crate) fn connect(&self, volume: &str, connections: u64) {
        self.lock().heads.get_mut(volume).expect("the volume").connections = connections;
    }

    /// What checks find from now on.
    pub(crate) fn set_report(&self, report: CheckReport) {
        self.lock().report = report;
    }

    /// What diffs find from now on.
    pub(crate) fn set_diff(&self, extents: Vec<DiffExtent>) {
        self.lock().diff = extents;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn answer<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Pending<T> {
        let mut state = self.lock();
        let answer = match state.fail.take() {
            Some(error) => Err(error),
            None => work(&mut state),
        };
        Box::pin(async move { answer })
    }
}

impl State {
    fn tick(&mut self) -> Timestamp {
        self.clock += 1.minute();
        self.clock
    }

    fn add(&mut self, parent: Option<u32>, kind: TreeKind, size: u64, description: &str) -> Node {
        let id = self.next_id;
        self.next_id += 1;
        let created = self.tick();
        let description = description.to_owned();
        let node = Node { id, parent, kind, size, created, description, automatic: false };
        self.nodes.push(node.clone());
        node
    }

    fn head(&self, name: &str) -> Result<Node, ApiError> {
        let found =
            self.nodes.iter().find(|n| matches!(&n.kind, TreeKind::Head { volume } if volume == name));
        found.cloned().ok_or_else(|| error(ErrorCode::NotFound, format!("there is no volume {name:?}")))
    }

    fn snap(&self, of: &str, name: &str) -> Result<Node, ApiError> {
        self.head(of)?;
        let is = |n: &&Node| matches!(&n.kind, TreeKind::Snapshot { volume, name: n } if volume == of && n == name);
        let found = self.nodes.iter().find(is);
        found
            .cloned()
            .ok_or_else(|| error(ErrorCode::NotFound, format!("volume {of:?} has no snapshot {name:?}")))
    }

    fn snaps(&self, of: Option<&str>) -> Vec<Node> {
        let mut found: Vec<_> = self
            .nodes
            .iter()
            .filter(
                |n| matches!(&n.kind, TreeKind::Snapshot { volume, .. } if of.is_none() || of == Some(volume)),
            )
            .cloned()
            .collect();
        found.sort_by_key(|n| match &n.kind {
            TreeKind::Snapshot { volume, .. } => (volume.clone(), n.created),
            _ => (String::new(), n.created),
        });
        found
    }

    fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        let node = self.head(name)?;
        let head = &self.heads[name];
        Ok(Volume {
            name: name.to_owned(),
            id: node.id,
            size: node.size,
            mapped: node.size / 4,
            created: node.created,
            description: node.description,
            origin: head.origin.clone(),
            snapshots: self.snaps(Some(name)).len() as u64,
            status: if head.connections > 0 { VolumeStatus::InUse } else { VolumeStatus::Available },
            connections: head.connections,
            checksum_errors: 0,
        })
    }

    fn snapshot(&self, node: &Node) -> Snapshot {
        let TreeKind::Snapshot { volume, name } = &node.kind else { panic!("{} is no snapshot", node.id) };
        Snapshot {
            volume: volume.clone(),
            name: name.clone(),
            id: node.id,
            size: node.size,
            mapped: node.size / 4,
            created: node.created,
            description: node.description.clone(),
            automatic: node.automatic,
            children: self.nodes.iter().filter(|n| n.parent == Some(node.id)).count() as u64,
            connections: 0,
        }
    }

    /// Puts a snapshot between a head and its parent.
    fn fork(&mut self, of: &str, name: &str, description: &str) -> Result<Node, ApiError> {
        cairn_api::name::check(name).map_err(|e| error(ErrorCode::InvalidArgument, e))?;
        let head = self.head(of)?;
        if self.snap(of, name).is_ok() {
            return Err(error(ErrorCode::Exists, format!("volume {of:?} already has a snapshot {name:?}")));
        }
        let kind = TreeKind::Snapshot { volume: of.to_owned(), name: name.to_owned() };
        let node = self.add(head.parent, kind, head.size, description);
        self.nodes.iter_mut().find(|n| n.id == head.id).expect("the head").parent = Some(node.id);
        Ok(node)
    }

    fn remove(&mut self, id: u32) {
        let at = self.nodes.iter().position(|n| n.id == id).expect("the node");
        let gone = self.nodes.remove(at);
        for node in self.nodes.iter_mut().filter(|n| n.parent == Some(id)) {
            node.parent = gone.parent;
        }
    }
}

impl Engine for MemoryEngine {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn volumes(&self) -> Pending<VolumeList> {
        self.answer(|s| {
            let volumes = s.heads.keys().map(|name| s.volume(name)).collect::<Result<_, _>>()?;
            Ok(VolumeList { volumes })
        })
    }

    fn volume(&self, name: String) -> Pending<Volume> {
        self.answer(|s| s.volume(&name))
    }

    fn create_volume(&self, r: CreateVolume) -> Pending<Volume> {
        self.answer(|s| {
            cairn_api::name::check(&r.name).map_err(|e| error(ErrorCode::InvalidArgument, e))?;
            if s.heads.contains_key(&r.name) {
                return Err(error(ErrorCode::Exists, format!("there is already a volume {:?}", r.name)));
            }
            let parent = match &r.source {
                Some(source) => Some(s.snap(&source.volume, &source.snapshot)?),
                None => None,
            };
            let Some(size) = r.size.or(parent.as_ref().map(|p| p.size)) else {
                return Err(error(ErrorCode::InvalidArgument, "a blank volume needs a size"));
            };
            let kind = TreeKind::Head { volume: r.name.clone() };
            s.add(parent.map(|p| p.id), kind, size, &r.description);
            s.heads.insert(r.name.clone(), Head { origin: r.source, connections: 0 });
            s.volume(&r.name)
        })
    }

    fn resize_volume(&self, name: String, size: u64) -> Pending<Volume> {
        self.answer(|s| {
            let head = s.head(&name)?;
            if size < head.size {
                return Err(error(ErrorCode::Shrink, "a volume cannot get smaller"));
            }
            s.nodes.iter_mut().find(|n| n.id == head.id).expect("the head").size = size;
            s.volume(&name)
        })
    }

    fn delete_volume(&self, name: String, with_snapshots: bool) -> Pending<()> {
        self.answer(|s| {
            let head = s.head(&name)?;
            if s.heads[&name].connections > 0 {
                return Err(error(ErrorCode::Busy, format!("volume {name:?} is in use")));
            }
            let snaps = s.snaps(Some(&name));
            if !with_snapshots && !snaps.is_empty() {
                return Err(error(ErrorCode::HasSnapshots, format!("volume {name:?} has snapshots"))
                    .with_hint("delete them first"));
            }
            s.remove(head.id);
            snaps.iter().for_each(|snap| s.remove(snap.id));
            s.heads.remove(&name);
            Ok(())
        })
    }

    fn tree(&self, volume: String) -> Pending<Tree> {
        self.answer(|s| {
            s.head(&volume)?;
            let mut nodes = Vec::new();
            let mut level: Vec<Option<u32>> = vec![None];
            while let Some(parent) = level.pop() {
                for n in s.nodes.iter().filter(|n| n.parent == parent) {
                    let Node { id, parent, kind, size, created, .. } = n.clone();
                    nodes.push(TreeNode { id, parent, kind, size, created });
                    level.push(Some(id));
                }
            }
            Ok(Tree { volume, nodes })
        })
    }

    fn snapshots(&self, volume: Option<String>) -> Pending<SnapshotList> {
        self.answer(|s| {
            if let Some(volume) = &volume {
                s.head(volume)?;
            }
            let snapshots = s.snaps(volume.as_deref()).iter().map(|n| s.snapshot(n)).collect();
            Ok(SnapshotList { snapshots })
        })
    }

    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot> {
        self.answer(|s| Ok(s.snapshot(&s.snap(&volume, &name)?)))
    }

    fn create_snapshot(&self, volume: String, r: CreateSnapshot) -> Pending<Snapshot> {
        self.answer(|s| {
            let node = s.fork(&volume, &r.name, &r.description)?;
            Ok(s.snapshot(&node))
        })
    }

    fn create_group(&self, r: CreateGroup) -> Pending<SnapshotList> {
        self.answer(|s| {
            for member in &r.members {
                s.head(&member.volume)?;
            }
            let mut snapshots = Vec::new();
            for member in &r.members {
                let node = s.fork(&member.volume, &member.name, &r.description)?;
                snapshots.push(s.snapshot(&node));
            }
            Ok(SnapshotList { snapshots })
        })
    }

    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()> {
        self.answer(|s| {
            let snap = s.snap(&volume, &name)?;
            s.remove(snap.id);
            Ok(())
        })
    }

    fn rollback(&self, volume: String, snapshot: String, r: Rollback) -> Pending<RolledBack> {
        self.answer(|s| {
            let target = s.snap(&volume, &snapshot)?;
            if s.heads[&volume].connections > 0 && !r.force {
                return Err(error(ErrorCode::Busy, format!("volume {volume:?} is in use")));
            }
            let undo = s.fork(&volume, &format!("before-rollback-{}", s.next_id), "")?;
            s.nodes.iter_mut().find(|n| n.id == undo.id).expect("the undo").automatic = true;
            let head = s.head(&volume)?;
            s.nodes.iter_mut().find(|n| n.id == head.id).expect("the head").parent = Some(target.id);
            let undo = s.nodes.iter().find(|n| n.id == undo.id).expect("the undo").clone();
            Ok(RolledBack { volume: s.volume(&volume)?, undo: s.snapshot(&undo) })
        })
    }

    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff> {
        self.answer(|s| {
            s.snap(&volume, &snapshot)?;
            if let Some(to) = &query.to {
                s.snap(&volume, to)?;
            }
            // Two extents a page, so that a test sees the client join pages.
            let mut rest = s.diff.iter().filter(|e| e.offset >= query.offset);
            let extents: Vec<_> = rest.by_ref().take(2).copied().collect();
            let next = rest.next().map(|e| e.offset);
            let changed = s.diff.iter().map(|e| e.len).sum();
            Ok(Diff { volume, from: snapshot, to: query.to, changed, extents, next })
        })
    }

    fn pool(&self) -> Pending<PoolStatus> {
        self.answer(|s| {
            Ok(PoolStatus {
                path: "/pool.cairn".into(),
                id: "00112233445566778899aabbccddeeff".into(),
                format: 1,
                limit: 1 << 40,
                size: 4 << 30,
                used: 1 << 30,
                free: 1000 << 30,
                reserve: 64 << 20,
                volumes: s.heads.len() as u64,
                snapshots: s.snaps(None).len() as u64,
                pending_deletes: 0,
                fenced: None,
                journal_used: 4096,
                journal_size: 64 << 20,
                checkpoints: 2,
                barriers: 3,
                checksum_errors: 0,
            })
        })
    }

    fn check(&self, data: bool) -> Pending<CheckReport> {
        self.answer(|s| {
            let mut report = s.report.clone();
            report.data_verified = if data { report.data_blocks } else { 0 };
            Ok(report)
        })
    }
}
