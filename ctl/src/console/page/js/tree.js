// The version tree, laid out in lines as `cairn snapshot tree` draws it: the newest at the top, what descends from a
// snapshot above it, and clones as branches that join the line they came from.

/** Lines of a tree from the top: what is left of the name, and the version; none where a branch joins. */
export function lines(tree) {
  const layout = new Layout(tree);
  const lines = [];
  // With an own stack: a chain of snapshots may be longer than the browser's is deep.
  const todo = layout.roots.map((node) => ({ line: node, prefix: '' }));
  while (todo.length > 0) {
    const { line, version, prefix } = todo.pop();
    if (version) lines.push({ graph: prefix + glyph(version), node: version });
    else if (!line) lines.push({ graph: `${prefix}├─╯`, node: null });
    else layout.follow(line, prefix, todo);
  }
  return lines;
}

/** What a version is called in the tree of a volume. */
export function nameOf(node, volume) {
  if (node.kind === 'head') return node.volume;
  if (node.kind === 'snapshot') return node.volume === volume ? node.name : `${node.volume}@${node.name}`;
  return node.kind === 'image' ? `image:${node.image}` : `#${node.id}`;
}

function glyph(node) {
  return { head: '●', ghost: '◌' }[node.kind] ?? '○';
}

/** Who descends from whom, and along which child each line goes on. */
class Layout {
  constructor(tree) {
    this.tree = tree;
    this.nodes = new Map(tree.nodes.map((node) => [node.id, node]));
    this.children = new Map();
    this.roots = [];
    for (const node of tree.nodes) {
      if (this.nodes.has(node.parent)) this.children.set(node.parent, [...(this.children.get(node.parent) ?? []), node]);
      else this.roots.push(node);
    }
    /** Versions on the way from some volume's head down to where that volume began. */
    this.headLine = new Set();
    /** The same for the volume asked about, down to the root. */
    this.mainLine = new Set();
    for (const node of tree.nodes) {
      if (node.kind === 'head') this.mark(node);
    }
  }

  mark(head) {
    const main = head.volume === this.tree.volume;
    const line = main ? this.mainLine : this.headLine;
    // A version that is marked already leads on to marked ones, and a broken tree ends here.
    for (let at = head; at && !line.has(at.id); at = this.nodes.get(at.parent)) {
      // Where another volume begins its line is that one's; only the line asked about goes on to the root.
      if (!main && at.volume !== undefined && at.volume !== head.volume) break;
      line.add(at.id);
    }
  }

  /** The children of a version: first the one its line goes on with, then the others, the newest first. */
  childrenOf(node) {
    const rank = (child) => {
      const same = child.volume !== undefined && child.volume === node.volume;
      return [this.mainLine.has(child.id), this.headLine.has(child.id) && same, same, child.id].map(Number);
    };
    const highestFirst = (one, other) => {
      const [a, b] = [rank(one), rank(other)];
      const at = a.findIndex((value, index) => value !== b[index]);
      return at < 0 ? 0 : b[at] - a[at];
    };
    const [onward, ...branches] = [...(this.children.get(node.id) ?? [])].sort(highestFirst);
    return { onward, branches: branches.sort((one, other) => other.id - one.id) };
  }

  /** Puts a line and its branches on the stack, which gives back the last first: so the oldest goes on first. */
  follow(from, prefix, todo) {
    for (let node = from; node; ) {
      todo.push({ version: node, prefix });
      const { onward, branches } = this.childrenOf(node);
      for (const branch of branches.reverse()) {
        todo.push({ prefix });
        todo.push({ line: branch, prefix: `${prefix}│ ` });
      }
      node = onward;
    }
  }
}
