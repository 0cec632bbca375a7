// All volumes, with what they do at the moment.

import { get, withQuery } from './api.js';
import { h } from './dom.js';
import { bytes, consumer, latency, mib, rate } from './format.js';
import { create } from './new-volume.js';
import { actions, asked, badge, button, chips, choice, pages, search, table, tags, title, when } from './parts.js';
import { lately } from './rates.js';
import { narrowed, to } from './route.js';
import { volumeActions } from './volume-actions.js';

const STATUSES = [
  'available', 'creating', 'attaching', 'in-use', 'detaching', 'extending', 'restoring', 'restoring-backup',
  'backing-up', 'deleting', 'snapshots-only', 'maintenance', 'error',
];
const FILTERS = ['status', 'type', 'project', 'pool'];

export const volumes = {
  async load(place, signal) {
    const [list, stats] = await Promise.all([
      get(withQuery('/v1/volumes', asked(place, FILTERS)), signal),
      get('/v1/stats', signal),
    ]);
    return { list, rates: lately(stats) };
  },

  render({ list, rates }, place) {
    const all = list.volumes;
    const isNarrowed = ['search', 'tag', 'after', ...FILTERS].some((name) => place.query.has(name));
    const live = (volume) => rates.get(volume.name);
    const several = new Set(all.map((volume) => volume.pool)).size > 1;
    const cell = (label, show, more) => ({ label, cell: show, ...more });
    const number = (label, show, more) => ({ label, cell: show, numeric: true, ...more });
    const narrow = (name, value) => h('a', { class: 'plain', href: narrowed(place, { [name]: value }) }, value);
    return h('section', null,
      title('Volumes', button('New volume', () => create(), { class: 'primary' })),
      h('div', { class: 'tools' },
        search(place, 'Name or description'),
        choice(place, 'status', 'Any status', STATUSES),
        chips(place, ['type', 'project', 'pool', 'tag'])),
      table({
        label: 'Volumes',
        place,
        rows: all,
        key: (volume) => `${volume.pool} ${volume.id}`,
        empty: isNarrowed ? 'No volume is like that.' : 'There are no volumes yet.',
        columns: [
          cell('Name', (volume) => named(volume), { sort: 'name', class: 'name' }),
          cell('Status', (volume) => statusOf(volume), { sort: 'status' }),
          number('Size', (volume) => bytes(volume.size), { sort: 'size' }),
          number('Used', (volume) => bytes(volume.mapped), { sort: 'used' }),
          cell('Type', (volume) => narrow('type', volume.type), { sort: 'type' }),
          several && cell('Pool', (volume) => narrow('pool', volume.pool), { sort: 'pool' }),
          cell('Project', (volume) => narrow('project', volume.project), { sort: 'project' }),
          cell('Used by', (volume) => usedBy(volume)),
          number('IOPS', (volume) => (live(volume) ? rate(live(volume).iops) : '–')),
          number('Read MiB/s', (volume) => (live(volume) ? mib(live(volume).read) : '–')),
          number('Write MiB/s', (volume) => (live(volume) ? mib(live(volume).written) : '–')),
          number('Latency', (volume) => delay(live(volume))),
          cell('Tags', (volume) => tags(volume.tags, place)),
          cell('Created', (volume) => when(volume.created), { sort: 'created', class: 'spare' }),
          { label: 'Actions', hidden: true, class: 'act', cell: (volume) => actions(volume.name, volumeActions(volume)) },
        ],
      }),
      pages(place, list.next));
  },
};

function named(volume) {
  const about = volume.description ? h('div', { class: 'about' }, volume.description) : null;
  return [h('a', { href: to('volumes', volume.name) }, volume.name), marks(volume), about];
}

/** What it is beside a volume. */
export function marks(volume) {
  const marks = [
    volume.bootable && ['boot', 'A machine can boot from it'],
    volume.write_protected && ['protected', 'Write-protected: nobody can change or delete it'],
    volume.shared && ['shared', 'Several consumers may use it at once'],
  ];
  return marks.filter(Boolean).map(([text, why]) => h('span', { class: 'mark', title: why }, text));
}

/** A volume's status, and why. */
export function statusOf(volume) {
  const tone = { available: 'good', maintenance: 'warning', 'snapshots-only': 'warning', error: 'bad' }[volume.status] ?? 'active';
  const restore = volume.status === 'restoring' && volume.restore;
  const so = restore ? ` ${Math.floor((restore.bytes_done * 100) / Math.max(1, restore.bytes_total))} %` : '';
  return [badge(volume.status + so, tone), volume.reason ? h('div', { class: 'about' }, volume.reason) : null];
}

function usedBy(volume) {
  const [first, ...rest] = volume.attachments;
  if (!first) return '–';
  return rest.length > 0 ? `${consumer(first.consumer)}, ${rest.length} more` : consumer(first.consumer);
}

/** Mean latency, with what 99 of 100 took at most. */
function delay(rates) {
  if (!rates || rates.meanUs === null) return '–';
  const limited = rates.limited > 0 ? h('span', { class: 'mark', title: 'Some had to wait for a limit' }, 'limited') : null;
  return [h('span', { title: `99 of 100 took at most ${latency(rates.p99Us)}` }, latency(rates.meanUs)), limited];
}
