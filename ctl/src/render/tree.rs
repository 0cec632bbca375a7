//! The version tree as `cairn snapshot tree` draws it: the newest at the top, as in a log, what descends from a
//! snapshot above it, and clones as branches that join the line they came from.
//!
//! ```text
//! ● demo       head      10.0 GiB  just now
//! ○ s3         snapshot  10.0 GiB  5 minutes ago
//! │ ● copy     head      10.0 GiB  2 hours ago
//! ├─╯
//! ○ s2         snapshot  10.0 GiB  1 day ago
//! ○ s1         snapshot  10.0 GiB  2 days ago
//! ```

use std::collections::{HashMap, HashSet};

use cairn_api::Size;
use cairn_api::image::EXPORT_PREFIX;
use cairn_api::snapshot::{Tree, TreeKind, TreeNode};

use super::{Look, Tone};

/// What the lines are made of.
struct Glyphs {
    head: &'static str,
    snapshot: &'static str,
    ghost: &'static str,
    beside: &'static str,
    join: &'static str,
}

const UNICODE: Glyphs =
    Glyphs { head: "●", snapshot: "○", ghost: "◌", beside: "│ ", join: "├─╯" };
const ASCII: Glyphs = Glyphs { head: "*", snapshot: "o", ghost: "x", beside: "| ", join: "|-'" };

/// Draws the tree.
pub(crate) fn draw(tree: &Tree, look: &Look) -> String {
    let rows = Layout::new(tree).rows(if look.unicode { &UNICODE } else { &ASCII });
    let width = rows.iter().map(|row| row.left_width()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        text.push_str(&row.text(width, look));
        text.push('\n');
    }
    text
}

/// One line: graph to the left and, except where a branch joins, a version.
struct Row<'a> {
    graph: String,
    node: Option<(&'a TreeNode, String)>,
}

impl Row<'_> {
    /// Columns up to the end of the name.
    fn left_width(&self) -> usize {
        let name = self.node.as_ref().map_or(0, |(_, name)| 1 + name.chars().count());
        self.graph.chars().count() + name
    }

    fn text(&self, width: usize, look: &Look) -> String {
        let Some((node, name)) = &self.node else { return self.graph.clone() };
        let gap = " ".repeat(width - self.left_width());
        let (kind, name) = match &node.kind {
            TreeKind::Head { .. } => ("head", look.paint(Tone::Strong, name)),
            TreeKind::Snapshot { .. } => ("snapshot", name.clone()),
            TreeKind::Image { .. } => ("image", name.clone()),
            TreeKind::Ghost => ("deleted", look.paint(Tone::Faint, name)),
        };
        let size = Size(node.size);
        let details = format!("{kind:<8}  {size:>9}  {}", look.ago(node.created));
        format!("{} {name}{gap}  {}", self.graph, look.paint(Tone::Faint, &details))
    }
}

/// Who descends from whom, and along which child each line goes on.
struct Layout<'a> {
    tree: &'a Tree,
    nodes: HashMap<u32, &'a TreeNode>,
    children: HashMap<u32, Vec<&'a TreeNode>>,
    roots: Vec<&'a TreeNode>,
    /// Versions on the way from some volume's head down to where that volume began.
    on_head_line: HashSet<u32>,
    /// The same for the volume asked about, down to the root.
    on_main_line: HashSet<u32>,
}

/// What is left to be drawn, in order.
enum Todo<'a> {
    /// A version and all that descends from it, beside the lines in the prefix.
    Line(&'a TreeNode, String),
    /// One version's own row.
    Version(&'a TreeNode, String),
    /// The row in which a branch joins its line.
    Join(String),
}

fn volume_of(node: &TreeNode) -> Option<&str> {
    match &node.kind {
        TreeKind::Head { volume } | TreeKind::Snapshot { volume, .. } => Some(volume),
        TreeKind::Image { .. } | TreeKind::Ghost => None,
    }
}

impl<'a> Layout<'a> {
    fn new(tree: &'a Tree) -> Layout<'a> {
        let nodes: HashMap<u32, &TreeNode> = tree.nodes.iter().map(|node| (node.id, node)).collect();
        let mut children: HashMap<u32, Vec<&TreeNode>> = HashMap::new();
        let mut roots = Vec::new();
        for node in &tree.nodes {
            match node.parent.filter(|parent| nodes.contains_key(parent)) {
                Some(parent) => children.entry(parent).or_default().push(node),
                None => roots.push(node),
            }
        }
        let mut layout = Layout {
            tree,
            nodes,
            children,
            roots,
            on_head_line: HashSet::new(),
            on_main_line: HashSet::new(),
        };
        layout.mark_lines();
        layout
    }

    fn mark_lines(&mut self) {
        for head in &self.tree.nodes {
            let TreeKind::Head { volume } = &head.kind else { continue };
            let main = *volume == self.tree.volume;
            let mut at = Some(head);
            while let Some(node) = at {
                // Where another volume begins its line is that one's; only the line asked about goes on to the root.
                if !main && volume_of(node).is_some_and(|other| other != volume) {
                    break;
                }
                // A version that is marked already leads on to marked ones (and a broken tree ends here).
                let line = if main { &mut self.on_main_line } else { &mut self.on_head_line };
                if !line.insert(node.id) {
                    break;
                }
                at = node.parent.and_then(|parent| self.nodes.get(&parent).copied());
            }
        }
    }

    /// The children of a version: first the one its line goes on with, then the others, the newest first.
    fn children_of(&self, node: &TreeNode) -> Vec<&'a TreeNode> {
        let mut children = self.children.get(&node.id).cloned().unwrap_or_default();
        let same_volume =
            |child: &TreeNode| volume_of(child).is_some() && volume_of(child) == volume_of(node);
        children.sort_by_key(|child| {
            let main = self.on_main_line.contains(&child.id);
            let own_head = self.on_head_line.contains(&child.id) && same_volume(child);
            std::cmp::Reverse((main, own_head, same_volume(child), child.id))
        });
        if let Some((_, branches)) = children.split_first_mut() {
            branches.sort_by_key(|child| std::cmp::Reverse(child.id));
        }
        children
    }

    /// Lays the rows out. With an own stack: a chain of snapshots may be longer than the program's stack is deep.
    fn rows(&self, glyphs: &Glyphs) -> Vec<Row<'a>> {
        let mut rows = Vec::new();
        let mut todo: Vec<Todo<'a>> =
            self.roots.iter().map(|&root| Todo::Line(root, String::new())).collect();
        while let Some(next) = todo.pop() {
            match next {
                Todo::Version(node, prefix) => rows.push(self.version(node, prefix, glyphs)),
                Todo::Join(prefix) => {
                    rows.push(Row { graph: format!("{prefix}{}", glyphs.join), node: None });
                }
                // The stack gives back the last first: so the oldest goes on first.
                Todo::Line(mut node, prefix) => loop {
                    todo.push(Todo::Version(node, prefix.clone()));
                    let mut children = self.children_of(node).into_iter();
                    let onward = children.next();
                    for branch in children.rev() {
                        todo.push(Todo::Join(prefix.clone()));
                        todo.push(Todo::Line(branch, format!("{prefix}{}", glyphs.beside)));
                    }
                    match onward {
                        Some(child) => node = child,
                        None => break,
                    }
                },
            }
        }
        rows
    }

    fn version(&self, node: &'a TreeNode, prefix: String, glyphs: &Glyphs) -> Row<'a> {
        let (glyph, name) = match &node.kind {
            TreeKind::Head { volume } => (glyphs.head, volume.clone()),
            TreeKind::Snapshot { volume, name } if *volume == self.tree.volume => {
                (glyphs.snapshot, name.clone())
            }
            TreeKind::Snapshot { volume, name } => (glyphs.snapshot, format!("{volume}@{name}")),
            TreeKind::Image { image } => (glyphs.snapshot, format!("{EXPORT_PREFIX}{image}")),
            TreeKind::Ghost => (glyphs.ghost, format!("#{}", node.id)),
        };
        Row { graph: format!("{prefix}{glyph}"), node: Some((node, name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, look};
    use super::*;

    fn node(id: u32, parent: u32, kind: TreeKind) -> TreeNode {
        let created = at("2026-01-01T22:00:00Z");
        TreeNode { id, parent: (parent > 0).then_some(parent), kind, size: 10 << 30, created }
    }

    fn head(id: u32, parent: u32, volume: &str) -> TreeNode {
        node(id, parent, TreeKind::Head { volume: volume.into() })
    }

    fn snap(id: u32, parent: u32, volume: &str, name: &str) -> TreeNode {
        node(id, parent, TreeKind::Snapshot { volume: volume.into(), name: name.into() })
    }

    fn drawn(nodes: Vec<TreeNode>, look: &Look) -> String {
        draw(&Tree { volume: "demo".into(), nodes }, look)
    }

    /// Only graph and names, to keep the shapes readable.
    fn shape(nodes: Vec<TreeNode>) -> String {
        let text = drawn(nodes, &look());
        let lines = text.lines().map(|line| {
            let end = ["  head", "  snapshot", "  deleted"].iter().filter_map(|kind| line.find(kind)).min();
            line[..end.unwrap_or(line.len())].trim_end().to_owned() + "\n"
        });
        lines.collect()
    }

    #[test]
    fn a_chain_is_a_list_with_details() {
        let nodes = vec![snap(2, 0, "demo", "s1"), snap(3, 2, "demo", "second"), head(1, 3, "demo")];
        assert_eq!(
            drawn(nodes.clone(), &look()),
            "\
● demo    head       10.0 GiB  2 hours ago
○ second  snapshot   10.0 GiB  2 hours ago
○ s1      snapshot   10.0 GiB  2 hours ago
"
        );
        assert!(drawn(nodes, &Look { unicode: false, ..look() }).starts_with("* demo    head"));
    }

    #[test]
    fn clones_are_branches_and_their_clones_branch_again() {
        let nodes = vec![
            snap(2, 0, "demo", "s1"),
            snap(3, 2, "demo", "s2"),
            head(1, 3, "demo"),
            snap(6, 2, "copy", "c1"),
            head(5, 6, "copy"),
            head(7, 6, "copy2"),
            head(8, 2, "other"),
        ];
        assert_eq!(
            shape(nodes),
            "\
● demo
○ s2
│ ● other
├─╯
│ ● copy
│ │ ● copy2
│ ├─╯
│ ○ copy@c1
├─╯
○ s1
"
        );
    }

    #[test]
    fn a_rollback_leaves_what_was_as_a_branch() {
        let nodes = vec![
            snap(2, 0, "demo", "s1"),
            snap(3, 2, "demo", "s2"),
            snap(4, 3, "demo", "undo"),
            head(1, 2, "demo"),
        ];
        assert_eq!(
            shape(nodes),
            "\
● demo
│ ○ undo
│ ○ s2
├─╯
○ s1
"
        );
    }

    #[test]
    fn a_clones_own_tree_runs_down_through_its_source() {
        let nodes =
            vec![snap(2, 0, "base", "s1"), snap(3, 2, "base", "s2"), head(1, 3, "base"), head(4, 2, "demo")];
        assert_eq!(
            shape(nodes),
            "\
● demo
│ ● base
│ ○ base@s2
├─╯
○ base@s1
"
        );
    }

    #[test]
    fn deleted_versions_are_shown_for_what_they_are() {
        let nodes = vec![node(2, 0, TreeKind::Ghost), head(1, 2, "demo"), head(3, 2, "copy")];
        assert_eq!(
            shape(nodes),
            "\
● demo
│ ● copy
├─╯
◌ #2
"
        );
    }

    #[test]
    fn odd_trees_are_drawn_as_far_as_they_go() {
        assert_eq!(shape(Vec::new()), "");
        // A parent that is not in the answer, and two that claim each other (which no root leads to).
        let nodes = vec![head(1, 99, "demo"), head(2, 0, "b"), snap(3, 4, "x", "x"), snap(4, 3, "y", "y")];
        assert_eq!(shape(nodes), "● b\n● demo\n");
    }

    #[test]
    fn a_long_chain_does_not_exhaust_the_stack() {
        let mut nodes: Vec<_> = (1..=100_000).map(|id| snap(id, id - 1, "demo", &format!("s{id}"))).collect();
        nodes.push(head(100_001, 100_000, "demo"));
        let text = drawn(nodes, &look());
        assert_eq!(text.lines().count(), 100_001);
        assert!(text.starts_with("● demo"));
    }
}
