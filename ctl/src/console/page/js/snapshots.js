// Snapshots: of all volumes as a list, of one as the tree of its versions.

import { get, path, withQuery } from './api.js';
import { h } from './dom.js';
import { bytes, plural } from './format.js';
import { actions, asked, badge, button, chips, pages, search, table, tags, title, when } from './parts.js';
import { to } from './route.js';
import { snapshotActions, takeSnapshot } from './snapshot-actions.js';
import { lines, nameOf } from './tree.js';

export const snapshots = {
  load: (place, signal) => get(withQuery('/v1/snapshots', asked(place, ['volume', 'project'])), signal),

  render(list, place) {
    const isNarrowed = ['search', 'tag', 'after', 'volume', 'project'].some((name) => place.query.has(name));
    return h('section', null,
      title('Snapshots', button('New snapshot', () => takeSnapshot(), { class: 'primary' })),
      h('div', { class: 'tools' }, search(place, 'Name or description'), chips(place, ['volume', 'project', 'tag'])),
      table({
        label: 'Snapshots',
        place,
        rows: list.snapshots,
        key: (snapshot) => `${snapshot.volume}@${snapshot.name} ${snapshot.id}`,
        empty: isNarrowed ? 'No snapshot is like that.' : 'There are no snapshots yet.',
        columns: [
          { label: 'Volume', sort: 'volume', cell: ({ volume }) => h('a', { href: to('snapshots', volume), title: 'Its tree' }, volume) },
          { label: 'Name', sort: 'name', class: 'name', cell: (snapshot) => [snapshot.name, about(snapshot)] },
          { label: 'Status', cell: state },
          { label: 'Size', numeric: true, sort: 'size', cell: (snapshot) => bytes(snapshot.size) },
          { label: 'Used', numeric: true, sort: 'used', cell: (snapshot) => bytes(snapshot.mapped) },
          { label: 'Created', sort: 'created', cell: (snapshot) => when(snapshot.created) },
          { label: 'Tags', cell: (snapshot) => tags(snapshot.tags, place) },
          { label: 'Actions', hidden: true, class: 'act', cell: (snapshot) => actions(`${snapshot.volume}@${snapshot.name}`, snapshotActions(snapshot)) },
        ],
      }),
      pages(place, list.next));
  },
};

export const snapshotTree = {
  load: ({ name }, signal) => loadTree(name, signal),

  render(loaded, { name }) {
    return h('section', null,
      h('p', { class: 'up' }, h('a', { href: to('snapshots') }, 'Snapshots')),
      title(name, button('New snapshot', () => takeSnapshot(name), { class: 'primary' })),
      renderTree(loaded));
  },
};

/** All versions connected with a volume, and what is known of its snapshots. */
export async function loadTree(name, signal) {
  const [tree, list] = await Promise.all([
    get(path`/v1/volumes/${name}/tree`, signal),
    get(path`/v1/volumes/${name}/snapshots`, signal),
  ]);
  return { tree, known: new Map(list.snapshots.map((snapshot) => [snapshot.name, snapshot])) };
}

/** The tree, a version a line. */
export function renderTree({ tree, known }) {
  const rows = lines(tree).map(({ graph, node }) => {
    const mine = node?.kind === 'snapshot' && node.volume === tree.volume ? known.get(node.name) : undefined;
    return h('tr', { class: node ? undefined : 'join' },
      h('th', { scope: 'row' }, h('span', { class: 'graph', 'aria-hidden': 'true' }, graph), node && link(node, tree.volume)),
      h('td', null, node && WHAT[node.kind]),
      h('td', { class: 'number' }, node && bytes(node.size)),
      h('td', null, node && when(node.created)),
      h('td', null, mine && [state(mine), about(mine)]),
      h('td', { class: 'act' }, mine && actions(mine.name, snapshotActions(mine))));
  });
  const headings = ['Version', 'What', 'Size', 'Created', 'Status'].map((text) => h('th', { scope: 'col' }, text));
  return h('div', { class: 'wide', tabindex: '0', role: 'group', 'aria-label': `Versions of ${tree.volume}` },
    h('table', { class: 'tree' }, h('thead', null, h('tr', null, headings, h('td'))), h('tbody', null, rows)));
}

const WHAT = { head: 'volume', snapshot: 'snapshot', image: 'image', ghost: 'deleted' };

function link(node, volume) {
  const name = nameOf(node, volume);
  if (node.kind === 'head') return h('a', { href: to('volumes', node.volume) }, name);
  const isOther = node.kind === 'snapshot' && node.volume !== volume;
  return isOther ? h('a', { href: to('snapshots', node.volume) }, name) : h('span', null, name);
}

function state(snapshot) {
  const tone = { available: 'good', error: 'bad' }[snapshot.status] ?? 'active';
  const holds = (snapshot.holds ?? []).map((hold) =>
    h('span', { class: 'mark', title: hold.reason || 'It cannot be deleted' }, `held: ${hold.name}`));
  return [
    badge(snapshot.status, tone),
    snapshot.automatic ? h('span', { class: 'mark', title: 'Made by cairn itself, to undo a rollback' }, 'automatic') : null,
    snapshot.connections > 0 ? h('span', { class: 'mark' }, plural(snapshot.connections, 'connection')) : null,
    holds,
  ];
}

function about(snapshot) {
  return snapshot.description ? h('div', { class: 'about' }, snapshot.description) : null;
}
