//! What is remembered, and the rules of volumes and snapshots.

use std::collections::BTreeMap;

use cairn_api::attachment::Attachment;
use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::image::Image;
use cairn_api::pool::{CheckReport, Scrub};
use cairn_api::qos::QosRule;
use cairn_api::snapshot::*;
use cairn_api::staging::CreateStaging;
use cairn_api::volume::*;
use jiff::{Timestamp, ToSpan};

use super::pools::Pool;
use super::types::{Policy, Type};
use super::{check_name, error};

pub(super) struct State {
    pub(super) clock: Timestamp,
    next_id: u32,
    nodes: Vec<Node>,
    pub(super) heads: BTreeMap<String, Head>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) types: BTreeMap<String, Type>,
    pub(super) default_type: String,
    pub(super) policies: BTreeMap<String, Policy>,
    /// The first one first.
    pub(super) pools: Vec<Pool>,
    pub(super) images: Vec<Image>,
    pub(super) stagings: BTreeMap<String, CreateStaging>,
    pub(super) fail: Option<ApiError>,
    pub(super) report: CheckReport,
    pub(super) scrubs: BTreeMap<String, Scrub>,
    pub(super) diff: Vec<DiffExtent>,
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
pub(super) struct Head {
    origin: Option<SnapshotRef>,
    image: Option<String>,
    pub(super) shared: bool,
    pub(super) volume_type: String,
    pub(super) pool: String,
    pub(super) own: QosRule,
    /// How often requests waited, for how many microseconds, and how many do now.
    pub(super) waits: (u64, u64, u64),
}

impl State {
    pub(super) fn new(clock: Timestamp) -> State {
        State {
            clock,
            next_id: 1,
            nodes: Vec::new(),
            heads: BTreeMap::new(),
            attachments: Vec::new(),
            types: Type::first(),
            default_type: cairn_api::types::DEFAULT_TYPE.to_owned(),
            policies: BTreeMap::new(),
            pools: vec![Pool::first()],
            images: Vec::new(),
            stagings: BTreeMap::new(),
            fail: None,
            report: CheckReport {
                clean: true,
                versions: 1,
                nodes: 2,
                data_blocks: 3,
                ..CheckReport::default()
            },
            scrubs: BTreeMap::new(),
            diff: Vec::new(),
        }
    }

    pub(super) fn set_image(&mut self, volume: &str, image: &str) {
        self.heads.get_mut(volume).expect("the volume").image = Some(image.to_owned());
    }

    pub(super) fn tick(&mut self) -> Timestamp {
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

    fn node(&mut self, id: u32) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.id == id).expect("the node")
    }

    fn head(&self, name: &str) -> Result<Node, ApiError> {
        let found =
            self.nodes.iter().find(|n| matches!(&n.kind, TreeKind::Head { volume } if volume == name));
        found.cloned().ok_or_else(|| error(ErrorCode::NotFound, format!("there is no volume {name:?}")))
    }

    /// What is known of a volume besides its place in the tree.
    pub(super) fn settings(&mut self, name: &str) -> Result<&mut Head, ApiError> {
        self.head(name)?;
        Ok(self.heads.get_mut(name).expect("a head has settings"))
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

    /// How many snapshots the volumes of a pool have.
    pub(super) fn snapshots_in(&self, pool: &str) -> u64 {
        let volumes = self.heads.iter().filter(|(_, head)| head.pool == pool);
        volumes.map(|(name, _)| self.snaps(Some(name)).len() as u64).sum()
    }

    pub(super) fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        let node = self.head(name)?;
        let head = &self.heads[name];
        let attachments = self.users(name);
        Ok(Volume {
            name: name.to_owned(),
            id: node.id,
            size: node.size,
            mapped: node.size / 4,
            created: node.created,
            description: node.description,
            origin: head.origin.clone(),
            image: head.image.clone(),
            backup: None,
            snapshots: self.snaps(Some(name)).len() as u64,
            status: if attachments.is_empty() { VolumeStatus::Available } else { VolumeStatus::InUse },
            connections: attachments.iter().map(|a| a.connections).sum(),
            attachments,
            shared: head.shared,
            volume_type: head.volume_type.clone(),
            restore: None,
            problems: Vec::new(),
            pool: head.pool.clone(),
            checksum_errors: 0,
        })
    }

    fn show(&self, node: &Node) -> Snapshot {
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
            connections: self.users(&format!("{volume}@{name}")).iter().map(|a| a.connections).sum(),
        }
    }

    pub(super) fn create_volume(&mut self, r: CreateVolume) -> Result<Volume, ApiError> {
        check_name(&r.name)?;
        self.is_free(&r.name)?;
        if let Some(image) = r.image.clone() {
            return self.volume_of_image(&image, r);
        }
        let parent = match &r.source {
            Some(source) => Some(self.snap(&source.volume, &source.snapshot)?),
            None => None,
        };
        let Some(size) = r.size.or(parent.as_ref().map(|p| p.size)) else {
            return Err(error(ErrorCode::InvalidArgument, "a blank volume needs a size"));
        };
        let source = r.source.as_ref().map(|source| &self.heads[&source.volume]);
        let volume_type = match (r.volume_type, source) {
            (Some(asked), _) => asked,
            (None, Some(source)) => source.volume_type.clone(),
            (None, None) => self.default_type.clone(),
        };
        let pool = self.pool_of_type(&volume_type)?;
        if source.is_some_and(|source| source.pool != pool) {
            return Err(error(ErrorCode::InvalidArgument, "a clone stays in its source's pool"));
        }
        self.add(parent.map(|p| p.id), TreeKind::Head { volume: r.name.clone() }, size, &r.description);
        let head = Head { origin: r.source, shared: r.shared, volume_type, pool, ..Head::default() };
        self.heads.insert(r.name.clone(), head);
        self.volume(&r.name)
    }

    fn is_free(&self, name: &str) -> Result<(), ApiError> {
        if self.heads.contains_key(name) {
            return Err(error(ErrorCode::Exists, format!("there is already a volume {name:?}")));
        }
        Ok(())
    }

    pub(super) fn edit_volume(&mut self, name: &str, r: EditVolume) -> Result<Volume, ApiError> {
        let head = self.head(name)?;
        if let Some(shared) = r.shared {
            if !shared && self.users(name).len() > 1 {
                return Err(error(ErrorCode::Busy, format!("volume {name:?} has several consumers")));
            }
            self.settings(name)?.shared = shared;
        }
        if let Some(description) = r.description {
            self.node(head.id).description = description;
        }
        let Some(new) = r.name.filter(|new| new != name) else { return self.volume(name) };
        check_name(&new)?;
        self.is_free(&new)?;
        self.idle(name)?;
        for node in &mut self.nodes {
            match &mut node.kind {
                TreeKind::Head { volume } | TreeKind::Snapshot { volume, .. } if volume == name => {
                    *volume = new.clone();
                }
                _ => {}
            }
        }
        let settings = self.heads.remove(name).expect("a head has settings");
        self.heads.insert(new.clone(), settings);
        self.volume(&new)
    }

    pub(super) fn resize_volume(&mut self, name: &str, size: u64) -> Result<Volume, ApiError> {
        let head = self.head(name)?;
        if size < head.size {
            return Err(error(ErrorCode::Shrink, "a volume cannot get smaller"));
        }
        self.node(head.id).size = size;
        self.volume(name)
    }

    pub(super) fn delete_volume(&mut self, name: &str, with_snapshots: bool) -> Result<(), ApiError> {
        let head = self.head(name)?;
        self.idle(name)?;
        let snaps = self.snaps(Some(name));
        if !with_snapshots && !snaps.is_empty() {
            return Err(error(ErrorCode::HasSnapshots, format!("volume {name:?} has snapshots"))
                .with_hint("delete them first"));
        }
        self.remove(head.id);
        snaps.iter().for_each(|snap| self.remove(snap.id));
        self.heads.remove(name);
        Ok(())
    }

    pub(super) fn tree(&self, volume: String) -> Result<Tree, ApiError> {
        self.head(&volume)?;
        let mut nodes = Vec::new();
        let mut level: Vec<Option<u32>> = vec![None];
        while let Some(parent) = level.pop() {
            for n in self.nodes.iter().filter(|n| n.parent == parent) {
                let Node { id, parent, kind, size, created, .. } = n.clone();
                nodes.push(TreeNode { id, parent, kind, size, created });
                level.push(Some(id));
            }
        }
        Ok(Tree { volume, nodes })
    }

    pub(super) fn snapshots(&self, of: Option<&str>) -> Result<SnapshotList, ApiError> {
        if let Some(volume) = of {
            self.head(volume)?;
        }
        Ok(SnapshotList { snapshots: self.snaps(of).iter().map(|n| self.show(n)).collect() })
    }

    pub(super) fn snapshot(&self, of: &str, name: &str) -> Result<Snapshot, ApiError> {
        Ok(self.show(&self.snap(of, name)?))
    }

    pub(super) fn create_snapshot(
        &mut self,
        of: &str,
        name: &str,
        description: &str,
    ) -> Result<Snapshot, ApiError> {
        let node = self.fork(of, name, description)?;
        Ok(self.show(&node))
    }

    pub(super) fn create_group(&mut self, r: CreateGroup) -> Result<SnapshotList, ApiError> {
        for member in &r.members {
            self.head(&member.volume)?;
        }
        let mut snapshots = Vec::new();
        for member in &r.members {
            snapshots.push(self.create_snapshot(&member.volume, &member.name, &r.description)?);
        }
        Ok(SnapshotList { snapshots })
    }

    pub(super) fn delete_snapshot(&mut self, of: &str, name: &str) -> Result<(), ApiError> {
        let snap = self.snap(of, name)?;
        self.idle(&format!("{of}@{name}"))?;
        self.remove(snap.id);
        Ok(())
    }

    pub(super) fn rollback(&mut self, of: &str, to: &str, r: Rollback) -> Result<RolledBack, ApiError> {
        let target = self.snap(of, to)?;
        if !r.force {
            self.idle(of)?;
        }
        let undo = self.fork(of, &format!("before-rollback-{}", self.next_id), "")?;
        self.node(undo.id).automatic = true;
        let head = self.head(of)?;
        self.node(head.id).parent = Some(target.id);
        let undo = self.node(undo.id).clone();
        Ok(RolledBack { volume: self.volume(of)?, undo: self.show(&undo) })
    }

    pub(super) fn diff_page(&self, volume: String, from: String, query: DiffQuery) -> Result<Diff, ApiError> {
        self.snap(&volume, &from)?;
        if let Some(to) = &query.to {
            self.snap(&volume, to)?;
        }
        // Two extents a page, so that a test sees the client join pages.
        let mut rest = self.diff.iter().filter(|e| e.offset >= query.offset);
        let extents: Vec<_> = rest.by_ref().take(2).copied().collect();
        let next = rest.next().map(|e| e.offset);
        let changed = self.diff.iter().map(|e| e.len).sum();
        Ok(Diff { volume, from, to: query.to, changed, extents, next })
    }

    /// Puts a snapshot between a head and its parent.
    fn fork(&mut self, of: &str, name: &str, description: &str) -> Result<Node, ApiError> {
        check_name(name)?;
        let head = self.head(of)?;
        if self.snap(of, name).is_ok() {
            return Err(error(ErrorCode::Exists, format!("volume {of:?} already has a snapshot {name:?}")));
        }
        let kind = TreeKind::Snapshot { volume: of.to_owned(), name: name.to_owned() };
        let node = self.add(head.parent, kind, head.size, description);
        self.node(head.id).parent = Some(node.id);
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
