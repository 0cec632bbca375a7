// Volumes that were deleted and can be had back.

import { get, patch, path, post, remove as send } from './api.js';
import { ask, confirm } from './dialog.js';
import { h } from './dom.js';
import { bytes, duration } from './format.js';
import { actions, button, table, tags, title, when } from './parts.js';

export const recycleBin = {
  load: (_, signal) => get('/v1/recycle-bin', signal),

  render({ keep_seconds: keeps, volumes }) {
    const isOn = keeps > 0;
    return h('section', null,
      title('Recycle bin', button('Set…', () => set(keeps))),
      h('p', null, isOn ? `Deleted volumes are kept for ${duration(keeps)}, and take space until then.` : 'Deleted volumes are gone at once.'),
      table({
        label: 'Deleted volumes',
        rows: volumes,
        key: (volume) => volume.id,
        empty: 'It is empty.',
        columns: [
          { label: 'Name', class: 'name', cell: (volume) => [volume.name, h('div', { class: 'about' }, volume.id)] },
          { label: 'Size', numeric: true, cell: (volume) => bytes(volume.size) },
          { label: 'Used', numeric: true, cell: (volume) => bytes(volume.mapped) },
          { label: 'Snapshots', numeric: true, cell: (volume) => volume.snapshots },
          { label: 'Project', cell: (volume) => volume.project },
          { label: 'Pool', cell: (volume) => volume.pool },
          { label: 'Deleted', cell: (volume) => when(volume.deleted) },
          { label: 'Gone', cell: (volume) => when(volume.expires) },
          { label: 'Tags', cell: (volume) => tags(volume.tags) },
          { label: 'Actions', hidden: true, class: 'act', cell: (volume) => actions(volume.name, [
            { label: 'Recover…', work: () => recover(volume) },
            { label: 'Delete for good…', bad: true, work: () => purge(volume) },
          ]) },
        ],
      }));
  },
};

function set(keeps) {
  ask({
    title: 'Recycle bin',
    text: 'For how long deleted volumes are kept, those that are in it, too.',
    submit: 'Set',
    fields: [{ name: 'keep_seconds', label: 'Time', kind: 'time', value: keeps, hint: 'Such as 7d, 12h or 30m; or off' }],
    async work({ keep_seconds }) {
      await patch('/v1/recycle-bin', { keep_seconds });
      return keep_seconds > 0 ? `deleted volumes are kept for ${duration(keep_seconds)}` : 'deleted volumes are gone at once';
    },
  });
}

function recover(volume) {
  ask({
    title: `Recover volume ${volume.name}`,
    text: 'With all its snapshots.',
    submit: 'Recover',
    fields: [{ name: 'name', label: 'Name', required: true, value: volume.name }],
    async work({ name }) {
      await post(path`/v1/recycle-bin/${volume.id}/recover`, { name });
      return `volume ${name} is there again`;
    },
  });
}

function purge(volume) {
  confirm({
    title: `Delete volume ${volume.name} for good`,
    text: `${bytes(volume.size)}, of which ${bytes(volume.mapped)} hold data.`,
    warn: 'This cannot be undone.',
    submit: 'Delete',
    async work() {
      await send(path`/v1/recycle-bin/${volume.id}`);
      return `deleted volume ${volume.name} for good`;
    },
  });
}
