// What can be done with images.

import { patch, path, post, remove as send, withQuery } from './api.js';
import { ask } from './dialog.js';
import { changed, noneOf, tagChanges } from './fields.js';
import { bytes, plural } from './format.js';
import { create } from './new-volume.js';

/** What a menu of an image has. */
export function imageActions(image) {
  return [
    { label: 'New volume…', work: () => create({ image: image.name }) },
    { label: 'Edit…', work: () => edit(image) },
    null,
    { label: 'Delete…', bad: true, work: () => remove(image) },
  ];
}

function fields(image = {}) {
  return [
    { name: 'description', label: 'Description', value: image.description },
    { name: 'os_type', label: 'OS type', value: image.os_type ?? '', placeholder: 'linux' },
    { name: 'min_disk', label: 'Least size of volumes', kind: 'size', value: image.min_disk, placeholder: 'its own' },
    { name: 'min_memory', label: 'Least memory of machines', kind: 'size', value: image.min_memory, placeholder: '1G' },
    { name: 'protected', label: 'Protected: it cannot be deleted', kind: 'check', value: image.protected },
    { name: 'tags', label: 'Tags', kind: 'tags', value: image.tags },
  ];
}

/** Makes an image of a volume or one of its snapshots. */
export function makeImage(volume, snapshot) {
  ask({
    title: `Image of ${snapshot ? `${volume}@${snapshot}` : `volume ${volume}`}`,
    text: 'A disk that never changes, from which volumes are made. Nothing is copied.',
    submit: 'Make it',
    fields: [{ name: 'name', label: 'Name', required: true }, ...fields()],
    async work({ name, tags, os_type, ...others }) {
      const made = await post('/v1/images', { name, volume, snapshot, fields: { ...others, os_type: noneOf(os_type), tags: noneOf(tags) } });
      return `created image ${made.name} (${bytes(made.size)})`;
    },
  });
}

function edit(image) {
  ask({
    title: `Edit image ${image.name}`,
    submit: 'Save',
    fields: [{ name: 'name', label: 'Name', required: true, value: image.name }, ...fields(image)],
    async work({ tags, min_disk = 0, min_memory = 0, ...others }) {
      const before = { ...image, os_type: image.os_type ?? '' };
      const changes = changed(before, { ...others, min_disk, min_memory });
      const now = await patch(path`/v1/images/${image.name}`, { ...changes, tags: tagChanges(image.tags, tags) });
      return `changed image ${now.name}`;
    },
  });
}

function remove(image) {
  const used = image.volumes > 0;
  const importing = image.status === 'importing';
  ask({
    title: `Delete image ${image.name}`,
    text: used ? `${plural(image.volumes, 'volume')} made from it will live on.` : `${bytes(image.size)}, from ${origin(image)}.`,
    warn: 'This cannot be undone.',
    submit: 'Delete',
    bad: true,
    fields: [{ name: 'force', label: importing ? 'Although it is being imported' : 'Although there are volumes made from it', kind: 'check', when: () => used || importing }],
    async work({ force }) {
      await send(withQuery(path`/v1/images/${image.name}`, { force }));
      return `deleted image ${image.name}`;
    },
  });
}

/** Where its contents came from. */
export function origin({ source }) {
  if (source.kind === 'file') return source.name === '-' ? 'a stream' : source.name;
  return source.snapshot ? `${source.volume}@${source.snapshot}` : source.volume;
}
