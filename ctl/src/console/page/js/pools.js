// Pools: how full they are, and whether they are sound.

import { get, path, post, remove as send, withQuery } from './api.js';
import { ask, confirm } from './dialog.js';
import { h } from './dom.js';
import { bytes, plural } from './format.js';
import { more } from './jobs.js';
import { badge, button, buttons, facts, progress, title, when } from './parts.js';

export const pools = {
  async load(_, signal) {
    const { pools } = await get('/v1/pools', signal);
    const scrubs = pools.map((pool) => (pool.status ? get(path`/v1/pools/${pool.name}/scrub`, signal) : null));
    return { pools, scrubs: await Promise.all(scrubs) };
  },

  render({ pools, scrubs }) {
    return h('section', null,
      title('Pools', button('Add a pool…', add)),
      pools.map((pool, at) => h('article', { key: pool.name, class: 'card', 'aria-label': `Pool ${pool.name}` },
        pool.status ? sound(pool, scrubs[at], at === 0) : broken(pool))));
  },
};

function broken(pool) {
  return [h('h2', null, pool.name, ' ', badge('cannot be opened', 'bad')), h('p', null, pool.path), h('p', { class: 'wrong' }, pool.error)];
}

function sound({ name, path: place, status }, scrub, isFirst) {
  const holds = status.used + status.free;
  const percent = holds > 0 ? Math.round((status.used * 100) / holds) : 0;
  const tone = { ok: 'good', high: 'warning', critical: 'bad' }[status.fill] ?? 'active';
  const running = scrub?.state === 'running';
  return [
    buttons(
      button('Check', () => check(name, false)),
      button('Check all data', () => check(name, true)),
      running ? button('Stop the scrub', () => stop(name)) : button('Scrub…', () => startScrub(name)),
      button('Grow…', () => grow(name, status)),
      isFirst ? null : button('Remove…', () => remove(name, place), { class: 'bad' })),
    h('h2', null, name, ' ', badge(status.fenced ? 'refuses writes' : status.fill, status.fenced ? 'bad' : tone)),
    status.fenced ? h('p', { class: 'wrong' }, status.fenced) : null,
    h('div', { class: 'fill' },
      // Coloured at the watermarks of which the daemon tells.
      h('meter', { 'aria-label': `${name} is ${percent} % full`, value: status.used, min: '0', max: holds || 1, low: holds * 0.8, high: holds * 0.95, optimum: '0' }),
      h('span', null, `${bytes(status.used)} of ${bytes(holds)} (${percent} %)`)),
    facts([
      ['Where', h('code', null, place)],
      ['Limit', bytes(status.limit)],
      ['Left for writers', bytes(status.free)],
      status.available !== null && ['File system has left', bytes(status.available)],
      ['Holds', `${plural(status.volumes, 'volume')}, ${plural(status.snapshots, 'snapshot')}, ${plural(status.images, 'image')}`],
      status.pending_deletes > 0 && ['Being deleted', plural(status.pending_deletes, 'version')],
      ['Journal', `${bytes(status.journal_used)} of ${bytes(status.journal_size)}`],
      status.checksum_errors > 0 && ['Checksum errors', badge(String(status.checksum_errors), 'bad')],
      scrub && scrub.state !== 'none' && ['Scrub', scrubbed(scrub)],
    ]),
  ];
}

function scrubbed(scrub) {
  const tone = { running: 'active', finished: 'good', stopped: 'faint', failed: 'bad' }[scrub.state];
  const faults = scrub.fault_count > 0;
  return [
    badge(scrub.state, tone), ' ',
    scrub.state === 'running' ? progress('Progress of the scrub', scrub.read, scrub.total) : null,
    ` ${bytes(scrub.read)} of ${bytes(scrub.total)}, begun `, when(scrub.started), ', ',
    faults ? h('span', { class: 'wrong' }, plural(scrub.fault_count, 'fault')) : 'no faults',
    faults ? more(scrub.faults) : null,
    scrub.error ? h('div', { class: 'wrong' }, scrub.error) : null,
  ];
}

async function check(name, data) {
  const job = await post(withQuery(path`/v1/pools/${name}/check`, { data }));
  return `${job.id} has begun: see Jobs`;
}

function startScrub(name) {
  ask({
    title: `Scrub pool ${name}`,
    text: 'All that it holds is read and compared with its checksums, in the background.',
    submit: 'Begin',
    fields: [{ name: 'rate', label: 'Bytes a second at most', kind: 'size', placeholder: 'as fast as it goes beside clients' }],
    async work({ rate }) {
      await post(path`/v1/pools/${name}/scrub`, { rate });
      return `the scrub of pool ${name} has begun`;
    },
  });
}

async function stop(name) {
  await send(path`/v1/pools/${name}/scrub`);
  return `the scrub of pool ${name} has stopped`;
}

function grow(name, status) {
  ask({
    title: `Grow pool ${name}`,
    warn: 'Pools do not shrink.',
    submit: 'Grow',
    fields: [{ name: 'limit', label: 'Limit', kind: 'size', value: status.limit, hint: 'Empty takes in what a device has gained' }],
    async work({ limit }) {
      const now = await post(path`/v1/pools/${name}/grow`, { limit });
      return `pool ${name} may grow to ${bytes(now.limit)} now`;
    },
  });
}

function add() {
  ask({
    title: 'Add a pool',
    text: 'A new file, a block device, or one that holds a pool of cairn already: that is taken with its volumes.',
    submit: 'Add',
    fields: [
      { name: 'name', label: 'Name', required: true },
      { name: 'path', label: 'File or device', required: true, placeholder: '/srv/bulk/pool.cairn', hint: 'An absolute path, as the daemon sees it' },
      { name: 'limit', label: 'Limit', kind: 'size', placeholder: '1T' },
    ],
    async work(values) {
      const made = await post('/v1/pools', values);
      return `pool ${made.name} is there; types say which volumes are made in it`;
    },
  });
}

function remove(name, place) {
  confirm({
    title: `Stop using pool ${name}`,
    text: `${place} stays as it is, and can be added again.`,
    submit: 'Remove',
    async work() {
      await send(path`/v1/pools/${name}`);
      return `pool ${name} is not used any more`;
    },
  });
}
