//! A backup's map: reading it by place, and building the next one from what changed.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::core::Fetcher;
use crate::error::{Error, Result};
use crate::keys::BlobKind;
use crate::manifest::{Geometry, span};
use crate::node::{Child, Chunk, FANOUT, Inner, Leaf, Node, Reference};
use crate::upload::Uploader;

/// The map of a backup that is there.
#[derive(Clone)]
pub(crate) struct Map {
    fetcher: Arc<Fetcher>,
    geometry: Geometry,
    root: Option<Child>,
}

/// A leaf and its index, if there is one.
type FoundLeaf = Option<(u64, Arc<Node>)>;

impl Map {
    pub(crate) fn new(fetcher: Arc<Fetcher>, geometry: Geometry, root: Option<Child>) -> Map {
        Map { fetcher, geometry, root }
    }

    /// A leaf, if it has anything but holes.
    pub(crate) async fn leaf(&self, index: u64) -> Result<Option<Arc<Node>>> {
        match self.child(0, index).await? {
            Some(child) => self.fetcher.node(0, &child.node).await.map(Some),
            None => Ok(None),
        }
    }

    /// What points to a node at most as high as the root.
    async fn child(&self, level: u8, index: u64) -> Result<Option<Child>> {
        let mut here = self.geometry.top();
        if level > here || index > 0 && index * span(level) >= span(here) {
            return Ok(None);
        }
        let mut child = self.root;
        while let Some(found) = child
            && here > level
        {
            let node = self.fetcher.node(here, &found.node).await?;
            here -= 1;
            let slot = index * span(level) / span(here) % FANOUT as u64;
            child = inner(&node)?.children[slot as usize];
        }
        Ok(child)
    }

    /// The first leaf from `index` on that has anything but holes, with its index.
    pub(crate) async fn next_leaf(&self, index: u64) -> Result<FoundLeaf> {
        let Some(root) = self.root else { return Ok(None) };
        let found = self.next_below(self.geometry.top(), 0, root, index).await?;
        Ok(found.filter(|(index, _)| index * (FANOUT as u64) < self.geometry.chunks()))
    }

    fn next_below(&self, level: u8, index: u64, child: Child, from: u64) -> BoxFuture<'_, Result<FoundLeaf>> {
        async move {
            let node = self.fetcher.node(level, &child.node).await?;
            if level == 0 {
                return Ok((index >= from).then_some((index, node)));
            }
            let leaves = span(level - 1) / FANOUT as u64;
            for (slot, child) in inner(&node)?.children.iter().enumerate() {
                let below = index * FANOUT as u64 + slot as u64;
                if let Some(child) = child
                    && (below + 1).saturating_mul(leaves) > from
                    && let Some(found) = self.next_below(level - 1, below, *child, from).await?
                {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
        .boxed()
    }

    /// The children of an inner node as this map has it; all holes where it has none.
    async fn children(&self, level: u8, index: u64) -> Result<(Option<Child>, Inner)> {
        match self.child(level, index).await? {
            Some(child) => Ok((Some(child), inner(&*self.fetcher.node(level, &child.node).await?)?.clone())),
            None => Ok((None, Inner::empty(level))),
        }
    }
}

/// A node as a leaf; a map whose nodes are mixed up is damaged.
pub(crate) fn leaf(node: &Node) -> Result<&Leaf> {
    match node {
        Node::Leaf(leaf) => Ok(leaf),
        Node::Inner(_) => Err(Error::corrupt("the map", "an inner node stands where a leaf should")),
    }
}

fn inner(node: &Node) -> Result<&Inner> {
    match node {
        Node::Inner(inner) => Ok(inner),
        Node::Leaf(_) => Err(Error::corrupt("the map", "a leaf stands where an inner node should")),
    }
}

/// An inner node that is being filled.
struct OpenInner {
    index: u64,
    node: Inner,
    /// What it was in the base, to be kept if nothing changes.
    base: Option<(Child, Inner)>,
}

struct OpenLeaf {
    index: u64,
    leaf: Leaf,
    base: Option<(Child, Arc<Node>)>,
}

/// Builds a map from chunks that come in ascending order. What is not set is as in the base: subtrees that nothing
/// touches are not even read.
pub(crate) struct MapBuilder {
    geometry: Geometry,
    base: Option<Map>,
    leaf: Option<OpenLeaf>,
    /// One for each level above the leaves; the first is level 1.
    inner: Vec<Option<OpenInner>>,
    root: Option<Child>,
    placed_root: bool,
}

impl MapBuilder {
    pub(crate) fn new(geometry: Geometry, base: Option<Map>) -> MapBuilder {
        let top = geometry.top();
        let mut inner: Vec<Option<OpenInner>> = (0..top).map(|_| None).collect();
        // A volume that grew beyond what the base's root covers: nodes above it, the lowest pointing to it.
        if let Some(base) = &base
            && base.root.is_some()
            && base.geometry.top() < top
        {
            for level in base.geometry.top() + 1..=top {
                let mut node = Inner::empty(level);
                if level == base.geometry.top() + 1 {
                    node.children[0] = base.root;
                }
                inner[usize::from(level) - 1] = Some(OpenInner { index: 0, node, base: None });
            }
        }
        MapBuilder { geometry, base, leaf: None, inner, root: None, placed_root: false }
    }

    /// Sets a chunk; it must not lie before one that was set.
    pub(crate) async fn set(&mut self, nodes: &mut Uploader, chunk: u64, entry: Chunk) -> Result<()> {
        let index = chunk / FANOUT as u64;
        self.touch(nodes, index).await?;
        if let Some(open) = &mut self.leaf {
            open.leaf.0[(chunk % FANOUT as u64) as usize] = entry;
        }
        Ok(())
    }

    /// Opens a leaf, so that it and all above it end where the volume does.
    pub(crate) async fn touch(&mut self, nodes: &mut Uploader, index: u64) -> Result<()> {
        if self.leaf.as_ref().is_some_and(|open| open.index == index) {
            return Ok(());
        }
        self.close_leaf(nodes).await?;
        let base = match &self.base {
            Some(map) => match map.child(0, index).await? {
                Some(child) => Some((child, map.fetcher.node(0, &child.node).await?)),
                None => None,
            },
            None => None,
        };
        let mut content = match &base {
            Some((_, node)) => leaf(node)?.clone(),
            None => Leaf::empty(),
        };
        let first = index * FANOUT as u64;
        for (slot, chunk) in content.0.iter_mut().enumerate() {
            if first + slot as u64 >= self.geometry.chunks() {
                *chunk = Chunk::Hole;
            }
        }
        self.leaf = Some(OpenLeaf { index, leaf: content, base });
        Ok(())
    }

    async fn close_leaf(&mut self, nodes: &mut Uploader) -> Result<()> {
        let Some(open) = self.leaf.take() else { return Ok(()) };
        let chunks = open.leaf.chunks();
        let child = match open.base {
            _ if chunks == 0 => None,
            Some((child, base)) if *leaf(&base)? == open.leaf => Some(child),
            _ => Some(Child { node: nodes.add_node(&Node::Leaf(open.leaf)).await?, chunks }),
        };
        self.put(nodes, 0, open.index, child).await
    }

    /// Puts a finished node into the one above it, after that has been moved to.
    fn put<'a>(
        &'a mut self,
        nodes: &'a mut Uploader,
        level: u8,
        index: u64,
        child: Option<Child>,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            if level == self.geometry.top() {
                (self.root, self.placed_root) = (child, true);
                return Ok(());
            }
            let above = index / FANOUT as u64;
            let place = usize::from(level);
            if self.inner[place].as_ref().is_some_and(|open| open.index != above) {
                self.close_inner(nodes, level + 1).await?;
            }
            if self.inner[place].is_none() {
                self.inner[place] = Some(self.open_inner(level + 1, above).await?);
            }
            if let Some(open) = &mut self.inner[place] {
                open.node.children[(index % FANOUT as u64) as usize] = child;
            }
            Ok(())
        }
        .boxed()
    }

    async fn open_inner(&self, level: u8, index: u64) -> Result<OpenInner> {
        let (child, mut node) = match &self.base {
            Some(map) => map.children(level, index).await?,
            None => (None, Inner::empty(level)),
        };
        let base = child.map(|child| (child, node.clone()));
        for (slot, child) in node.children.iter_mut().enumerate() {
            if (index * FANOUT as u64 + slot as u64).saturating_mul(span(level - 1)) >= self.geometry.chunks()
            {
                *child = None;
            }
        }
        Ok(OpenInner { index, node, base })
    }

    async fn close_inner(&mut self, nodes: &mut Uploader, level: u8) -> Result<()> {
        let Some(open) = self.inner[usize::from(level) - 1].take() else { return Ok(()) };
        let chunks = open.node.chunks();
        let child = match open.base {
            _ if open.node.children.iter().all(Option::is_none) => None,
            Some((child, base)) if base == open.node => Some(child),
            _ => Some(Child { node: nodes.add_node(&Node::Inner(open.node)).await?, chunks }),
        };
        self.put(nodes, level, open.index, child).await
    }

    /// The root of the whole map.
    pub(crate) async fn finish(mut self, nodes: &mut Uploader) -> Result<Option<Child>> {
        self.close_leaf(nodes).await?;
        for level in 1..=self.geometry.top() {
            self.close_inner(nodes, level).await?;
        }
        match &self.base {
            _ if self.geometry.size == 0 => Ok(None),
            Some(base) if !self.placed_root => base.child(self.geometry.top(), 0).await,
            _ => Ok(self.root),
        }
    }
}

/// Goes through everything that roots refer to, each node once.
pub(crate) struct Walk {
    fetcher: Arc<Fetcher>,
    visited: std::collections::HashSet<[u8; 16]>,
}

/// Nodes that are read at once.
const WALK_PARALLEL: usize = 16;

impl Walk {
    pub(crate) fn new(fetcher: Arc<Fetcher>) -> Walk {
        Walk { fetcher, visited: std::collections::HashSet::new() }
    }

    /// Shows every reference below a root, and the root. `each` answers a node that cannot be read.
    pub(crate) async fn root(
        &mut self,
        root: Child,
        top: u8,
        each: &mut (dyn FnMut(BlobKind, Reference) + Send),
        unreadable: &mut (dyn FnMut(Error) -> Result<()> + Send),
    ) -> Result<()> {
        use futures_util::{StreamExt as _, stream};
        let mut nodes = vec![root.node];
        let mut level = top;
        loop {
            // Depth first over groups would need less memory; level by level a 64 TiB volume has a million leaves,
            // 60 bytes each.
            nodes.retain(|node| self.visited.insert(node.id.prefix()));
            let mut below = Vec::new();
            let mut reads = stream::iter(std::mem::take(&mut nodes).into_iter().map(|reference| {
                let fetcher = self.fetcher.clone();
                async move { (reference, fetcher.node(level, &reference).await) }
            }))
            .buffer_unordered(WALK_PARALLEL);
            while let Some((reference, read)) = reads.next().await {
                each(BlobKind::Node, reference);
                match read.as_deref() {
                    Ok(Node::Leaf(leaf)) => {
                        leaf.0
                            .iter()
                            .flat_map(Chunk::references)
                            .for_each(|chunk| each(BlobKind::Chunk, chunk));
                    }
                    Ok(Node::Inner(inner)) => {
                        below.extend(inner.children.iter().flatten().map(|child| child.node));
                    }
                    Err(_) => {
                        if let Err(error) = read {
                            unreadable(error)?;
                        }
                    }
                }
            }
            drop(reads);
            if level == 0 || below.is_empty() {
                return Ok(());
            }
            (nodes, level) = (below, level - 1);
        }
    }
}
