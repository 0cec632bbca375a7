// Images.

import { get, withQuery } from './api.js';
import { h } from './dom.js';
import { bytes } from './format.js';
import { imageActions, origin } from './image-actions.js';
import { actions, asked, badge, chips, pages, search, table, tags, title, when } from './parts.js';

export const images = {
  load: (place, signal) => get(withQuery('/v1/images', asked(place, ['os_type', 'pool'])), signal),

  render(list, place) {
    const isNarrowed = ['search', 'tag', 'after', 'os_type', 'pool'].some((name) => place.query.has(name));
    return h('section', null,
      title('Images'),
      h('div', { class: 'tools' }, search(place, 'Name or description'), chips(place, ['os_type', 'pool', 'tag'])),
      table({
        label: 'Images',
        place,
        rows: list.images,
        key: (image) => `${image.pool} ${image.id}`,
        empty: isNarrowed ? 'No image is like that.'
          : 'There are no images yet. “Make an image” is among the actions of volumes and snapshots; files are imported with cairn image import FILE NAME.',
        columns: [
          { label: 'Name', sort: 'name', class: 'name', cell: named },
          { label: 'Status', sort: 'status', cell: ({ status }) => badge(status, status === 'available' ? 'good' : 'active') },
          { label: 'Size', numeric: true, sort: 'size', cell: (image) => bytes(image.size) },
          { label: 'Used', numeric: true, sort: 'used', cell: (image) => bytes(image.mapped) },
          { label: 'OS', sort: 'os-type', cell: (image) => image.os_type ?? '–' },
          { label: 'From', cell: (image) => `${origin(image)}${image.source.kind === 'file' ? ` (${image.format})` : ''}` },
          { label: 'Least disk', numeric: true, cell: (image) => (image.min_disk ? bytes(image.min_disk) : '–') },
          { label: 'Least memory', numeric: true, cell: (image) => (image.min_memory ? bytes(image.min_memory) : '–') },
          { label: 'Volumes', numeric: true, cell: (image) => image.volumes },
          { label: 'Created', sort: 'created', cell: (image) => when(image.created) },
          { label: 'Tags', cell: (image) => tags(image.tags, place) },
          { label: 'Actions', hidden: true, class: 'act', cell: (image) => actions(image.name, imageActions(image)) },
        ],
      }),
      pages(place, list.next));
  },
};

function named(image) {
  const mark = image.protected ? h('span', { class: 'mark', title: 'It cannot be deleted' }, 'protected') : null;
  return [image.name, mark, image.description ? h('div', { class: 'about' }, image.description) : null];
}
