// What can be done with snapshots.

import { patch, path, post, remove as send } from './api.js';
import { ask, confirm } from './dialog.js';
import { changed, noneOf, tagChanges } from './fields.js';
import { bytes, plural } from './format.js';
import { makeImage } from './image-actions.js';
import { here } from './route.js';

/** What a menu of a snapshot has. */
export function snapshotActions(snapshot) {
  const held = (snapshot.holds ?? []).length > 0;
  return [
    { label: 'Clone…', work: () => clone(snapshot) },
    { label: 'Make an image…', work: () => makeImage(snapshot.volume, snapshot.name) },
    { label: 'Edit…', work: () => edit(snapshot) },
    { label: 'Hold…', work: () => hold(snapshot) },
    held && { label: 'Release…', work: () => release(snapshot) },
    null,
    { label: 'Roll back to it…', bad: true, work: () => rollback(snapshot) },
    { label: 'Delete…', bad: true, work: () => remove(snapshot) },
  ].filter((item) => item !== false);
}

/** Takes a snapshot of a volume, or of several at one moment. */
export function takeSnapshot(volume) {
  const place = here();
  ask({
    title: volume ? `Snapshot of volume ${volume}` : 'New snapshot',
    submit: 'Take it',
    fields: [
      { name: 'volumes', label: 'Volume', required: true, value: volume ?? place.query.get('volume') ?? '', hint: 'Several, with commas between them, are taken at one moment' },
      { name: 'name', label: 'Name', required: true },
      { name: 'description', label: 'Description' },
      { name: 'tags', label: 'Tags', kind: 'tags' },
    ],
    async work({ volumes, name, description, tags }) {
      const of = volumes.split(',').map((one) => one.trim()).filter(Boolean);
      const about = { description: noneOf(description), tags: noneOf(tags) };
      if (of.length > 1) await post('/v1/snapshots', { members: of.map((one) => ({ volume: one, name })), ...about });
      else await post(path`/v1/volumes/${of[0]}/snapshots`, { name, ...about });
      return `created ${of.map((one) => `${one}@${name}`).join(', ')}`;
    },
  });
}

function at(snapshot) {
  return path`/v1/volumes/${snapshot.volume}/snapshots/${snapshot.name}`;
}

function full(snapshot) {
  return `${snapshot.volume}@${snapshot.name}`;
}

function clone(snapshot) {
  ask({
    title: `Clone ${full(snapshot)}`,
    text: 'A volume of its own that begins as the snapshot. Nothing is copied.',
    submit: 'Clone',
    fields: [
      { name: 'name', label: 'Name', required: true },
      { name: 'size', label: 'Size', kind: 'size', placeholder: bytes(snapshot.size) },
      { name: 'description', label: 'Description' },
      { name: 'tags', label: 'Tags', kind: 'tags' },
    ],
    async work({ name, size, description, tags }) {
      const made = await post(`${at(snapshot)}/clone`, { name, size, description: noneOf(description), tags: noneOf(tags) });
      return `created volume ${made.name} (${bytes(made.size)}) from ${full(snapshot)}`;
    },
  });
}

function edit(snapshot) {
  ask({
    title: `Edit ${full(snapshot)}`,
    submit: 'Save',
    fields: [
      { name: 'name', label: 'Name', required: true, value: snapshot.name },
      { name: 'description', label: 'Description', value: snapshot.description },
      { name: 'tags', label: 'Tags', kind: 'tags', value: snapshot.tags },
    ],
    async work({ tags, ...others }) {
      const now = await patch(at(snapshot), { ...changed(snapshot, others), tags: tagChanges(snapshot.tags, tags) });
      return `changed snapshot ${full(now)}`;
    },
  });
}

function hold(snapshot) {
  ask({
    title: `Hold ${full(snapshot)}`,
    text: 'It is not deleted, its volume neither, until every hold is released.',
    submit: 'Hold',
    fields: [
      { name: 'name', label: 'Name of the hold', required: true },
      { name: 'reason', label: 'Reason' },
    ],
    async work({ name, reason }) {
      const now = await post(`${at(snapshot)}/holds`, { name, reason: noneOf(reason) });
      return `snapshot ${full(now)} cannot be deleted: ${plural(now.holds.length, 'hold')}`;
    },
  });
}

function release(snapshot) {
  const holds = snapshot.holds.map(({ name, reason }) => [name, reason ? `${name}: ${reason}` : name]);
  ask({
    title: `Release ${full(snapshot)}`,
    submit: 'Release',
    fields: [{ name: 'hold', label: 'Hold', kind: 'choice', value: holds[0][0], options: holds }],
    async work({ hold }) {
      await send(at(snapshot) + path`/holds/${hold}`);
      return `released ${hold} of ${full(snapshot)}`;
    },
  });
}

function rollback(snapshot) {
  ask({
    title: `Roll volume ${snapshot.volume} back`,
    text: `It will hold what it held in ${snapshot.name}. What it holds now is kept as a snapshot, and newer snapshots stay.`,
    warn: ({ force }) => force && 'What clients have cached or mounted no longer matches the disk then.',
    submit: 'Roll back',
    bad: true,
    fields: [{ name: 'force', label: 'Also while somebody uses it', kind: 'check' }],
    async work({ force }) {
      const { undo } = await post(`${at(snapshot)}/rollback`, { force });
      return `rolled back to ${full(snapshot)}; what it held is kept as ${full(undo)}`;
    },
  });
}

function remove(snapshot) {
  confirm({
    title: `Delete snapshot ${full(snapshot)}`,
    text: 'Volumes that were cloned from it live on.',
    warn: 'This cannot be undone.',
    submit: 'Delete',
    async work() {
      await send(at(snapshot));
      return `deleted snapshot ${full(snapshot)}`;
    },
  });
}
