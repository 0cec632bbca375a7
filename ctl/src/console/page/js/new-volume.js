// Making volumes: blank ones, clones, and those that begin as images.

import { get, post } from './api.js';
import { ask } from './dialog.js';
import { noneOf } from './fields.js';
import { bytes } from './format.js';

/** Makes a volume; `from` is `{ snapshot: 'VOL@SNAP' }` or `{ image }` where that is known already. */
export async function create(from = {}) {
  const [{ types }, { images }, { snapshots }] = await Promise.all([
    get('/v1/types'),
    get('/v1/images?limit=1000&status=available'),
    get('/v1/snapshots?limit=1000&sort=-created'),
  ]);
  const begins = from.snapshot ? 'snapshot' : from.image ? 'image' : 'blank';
  const isOf = (beginning) => (values) => values.begins === beginning;
  ask({
    title: 'New volume',
    submit: 'Create',
    fields: [
      { name: 'name', label: 'Name', required: true },
      { name: 'begins', label: 'Begins', kind: 'choice', value: begins, options: [['blank', 'blank'], ['snapshot', 'as a snapshot'], ['image', 'as an image']] },
      { name: 'snapshot', label: 'Snapshot', required: true, value: from.snapshot, placeholder: 'VOLUME@SNAPSHOT', suggest: snapshots.map((one) => `${one.volume}@${one.name}`), when: isOf('snapshot') },
      { name: 'image', label: 'Image', required: true, value: from.image, suggest: images.map((one) => one.name), when: isOf('image') },
      { name: 'size', label: 'Size', kind: 'size', required: true, when: isOf('blank') },
      { name: 'larger', label: 'Size', kind: 'size', placeholder: 'that of what it begins as', when: (values) => values.begins !== 'blank' },
      { name: 'type', label: 'Type', kind: 'choice', options: [['', 'as usual'], ...types.map((type) => [type.name, typeLabel(type)])] },
      { name: 'description', label: 'Description' },
      { name: 'project', label: 'Project', placeholder: 'default' },
      { name: 'bootable', label: 'Bootable', kind: 'choice', options: [['', 'as what it begins as'], ['true', 'yes'], ['false', 'no']] },
      { name: 'shared', label: 'Several consumers may use it at once', kind: 'check' },
      { name: 'tags', label: 'Tags', kind: 'tags' },
    ],
    async work(values) {
      const made = await post('/v1/volumes', {
        name: values.name,
        size: values.begins === 'blank' ? values.size : values.larger,
        source: values.begins === 'snapshot' ? reference(values.snapshot) : undefined,
        image: values.begins === 'image' ? values.image : undefined,
        type: noneOf(values.type),
        description: noneOf(values.description),
        project: noneOf(values.project),
        bootable: values.bootable === '' ? undefined : values.bootable === 'true',
        shared: values.shared,
        tags: noneOf(values.tags),
      });
      return `created volume ${made.name} (${bytes(made.size)})`;
    },
  });
}

function reference(text) {
  const at = text.indexOf('@');
  if (at < 1) throw new Error(`“${text}” is no snapshot: write VOLUME@SNAPSHOT`);
  return { volume: text.slice(0, at), snapshot: text.slice(at + 1) };
}

/** A type in a list of them. */
export function typeLabel(type) {
  return type.default ? `${type.name}, the default` : type.name;
}
