// One volume: what it is, who uses it, its limits and its snapshots.

import { get, path } from './api.js';
import { h } from './dom.js';
import { bytes, consumer, latency, mib, plural, rate } from './format.js';
import { describe } from './limits.js';
import { badge, button, buttons, facts, progress, subtitle, table, tags, title, when } from './parts.js';
import { lately } from './rates.js';
import { to } from './route.js';
import { uri } from './session.js';
import { loadTree, renderTree } from './snapshots.js';
import { takeSnapshot } from './snapshot-actions.js';
import { detach, volumeActions } from './volume-actions.js';
import { marks, statusOf } from './volumes.js';

export const volume = {
  async load({ name }, signal) {
    const [shown, { attachments }, qos, tree, stats] = await Promise.all([
      get(path`/v1/volumes/${name}`, signal),
      get(path`/v1/volumes/${name}/attachments`, signal),
      get(path`/v1/volumes/${name}/qos`, signal),
      loadTree(name, signal),
      get('/v1/stats', signal),
    ]);
    return { shown, attachments, qos, tree, rates: lately(stats).get(name) };
  },

  render({ shown, attachments, qos, tree, rates }) {
    const all = volumeActions(shown).filter(Boolean).map(({ label, work, bad }) =>
      button(label, work, { class: bad ? 'bad' : undefined }));
    return h('section', null,
      h('p', { class: 'up' }, h('a', { href: to('volumes') }, 'Volumes')),
      title(shown.name),
      buttons(...all),
      about(shown),
      h('h2', null, 'At the moment'),
      now(rates),
      h('h2', null, 'Used by'),
      users(shown, attachments),
      h('h2', null, 'Limits'),
      limitsOf(qos),
      subtitle('Snapshots', button('New snapshot', () => takeSnapshot(shown.name))),
      renderTree(tree));
  },
};

function about(volume) {
  const origin = volume.image ? `image:${volume.image}`
    : volume.backup ? `backup ${volume.backup.slice(0, 8)}`
    : volume.origin ? `${volume.origin.volume}@${volume.origin.snapshot}` : '';
  const restore = volume.restore;
  return facts([
    ['Status', [statusOf(volume), marks(volume)]],
    ['Size', `${bytes(volume.size)} (${volume.size.toLocaleString('en')} bytes)`],
    ['Used', bytes(volume.mapped)],
    ['Description', volume.description],
    ['Project', volume.project],
    ['Type', volume.type],
    ['Pool', volume.pool],
    ['Created', when(volume.created)],
    ['Made from', origin],
    ['Tags', Object.keys(volume.tags).length > 0 ? tags(volume.tags) : ''],
    restore && ['Restored', [progress('Restored', restore.bytes_done, restore.bytes_total), ` ${bytes(restore.bytes_done)} of ${bytes(restore.bytes_total)} from ${restore.repo}`]],
    restore?.problem && ['Problem', restore.problem],
    volume.checksum_errors > 0 && ['Checksum errors', badge(String(volume.checksum_errors), 'bad')],
    ...(volume.problems ?? []).map((problem) => ['Problem', problem]),
    ['Connect', uri(volume.name) && h('code', null, uri(volume.name))],
  ]);
}

function now(rates) {
  if (!rates) return h('p', { class: 'empty' }, 'In a moment.');
  return facts([
    ['Requests a second', rate(rates.iops)],
    ['Read', `${mib(rates.read)} MiB/s`],
    ['Written', `${mib(rates.written)} MiB/s`],
    ['Latency, mean', latency(rates.meanUs)],
    ['99 of 100 within', latency(rates.p99Us)],
    ['Under way', String(rates.queue)],
    ['Had to wait for a limit', `${Math.round(rates.limited * 100)} %`],
    rates.errors > 0 && ['Errors a second', badge(rate(rates.errors), 'bad')],
  ]);
}

function users(volume, attachments) {
  const list = table({
    label: 'Who uses it',
    rows: attachments,
    key: (one) => `${one.export} ${JSON.stringify(one.consumer)} ${one.since}`,
    empty: 'Nobody.',
    columns: [
      { label: 'Consumer', cell: (one) => consumer(one.consumer) },
      { label: 'Export', cell: (one) => one.export },
      { label: 'Since', cell: (one) => when(one.since) },
      { label: 'Connections', numeric: true, cell: (one) => one.connections },
      { label: 'Read', numeric: true, cell: (one) => bytes(one.bytes_read) },
      { label: 'Written', numeric: true, cell: (one) => bytes(one.bytes_written) },
    ],
  });
  return attachments.length > 0 ? [list, buttons(button('Detach…', () => detach(volume)))] : list;
}

function limitsOf(qos) {
  const from = { volume: 'Its own', type: `Of its type ${qos.type}, by the rule ${qos.type_rule}`, none: 'None' }[qos.source];
  const waits = qos.waits > 0 ? `${plural(qos.waits, 'request')} had to wait, ${latency(qos.waited_us / qos.waits)} on average` : '';
  return facts([
    ['From', from],
    ['In force', describe(qos.rule).map((limit) => h('div', null, limit))],
    ['Since the daemon started', waits],
  ].filter(([, value]) => !Array.isArray(value) || value.length > 0));
}
