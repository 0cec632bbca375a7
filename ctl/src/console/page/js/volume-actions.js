// What can be done with volumes.

import { get, patch, path, post, remove as send, withQuery } from './api.js';
import { ask } from './dialog.js';
import { changed, noneOf, tagChanges } from './fields.js';
import { bytes, plural } from './format.js';
import { makeImage } from './image-actions.js';
import { settings } from './limits.js';
import { typeLabel } from './new-volume.js';
import { go, here, to } from './route.js';
import { takeSnapshot } from './snapshot-actions.js';

/** What a menu of a volume has. */
export function volumeActions(volume) {
  const { name } = volume;
  if (volume.status === 'snapshots-only') {
    return [{ label: 'Delete with its snapshots…', bad: true, work: () => remove(volume) }];
  }
  return [
    { label: 'Edit…', work: () => edit(volume) },
    { label: 'Grow…', work: () => grow(volume) },
    { label: 'Snapshot…', work: () => takeSnapshot(name) },
    { label: 'Limits…', work: () => limit(volume) },
    { label: 'Change type…', work: () => retype(volume) },
    { label: 'Make an image…', work: () => makeImage(name) },
    null,
    { label: 'Attach to this host…', work: () => attach(volume) },
    volume.attachments.length > 0 ? { label: 'Detach…', work: () => detach(volume) } : null,
    { label: 'Set status…', work: () => resetStatus(volume) },
    { label: 'Delete…', bad: true, work: () => remove(volume) },
  ].filter((item, at, all) => item !== null || all[at - 1] !== null);
}

function edit(volume) {
  ask({
    title: `Edit volume ${volume.name}`,
    submit: 'Save',
    fields: [
      { name: 'name', label: 'Name', required: true, value: volume.name, hint: 'Nobody may use it while it gets another' },
      { name: 'description', label: 'Description', value: volume.description },
      { name: 'project', label: 'Project', required: true, value: volume.project },
      { name: 'bootable', label: 'A machine can boot from it', kind: 'check', value: volume.bootable },
      { name: 'write_protected', label: 'Write-protected: nobody can change or delete it', kind: 'check', value: volume.write_protected },
      { name: 'shared', label: 'Several consumers may use it at once', kind: 'check', value: volume.shared },
      { name: 'tags', label: 'Tags', kind: 'tags', value: volume.tags },
    ],
    async work({ tags, ...others }) {
      const changes = { ...changed(volume, others), tags: tagChanges(volume.tags, tags) };
      const now = await patch(path`/v1/volumes/${volume.name}`, changes);
      renamed(volume.name, now.name);
      return `changed volume ${now.name}`;
    },
  });
}

/** The page of a volume goes where the volume has gone. */
function renamed(before, now) {
  const place = here();
  if (before !== now && place.view === 'volumes' && place.name === before) go(to('volumes', now), { replace: true });
}

function grow(volume) {
  ask({
    title: `Grow volume ${volume.name}`,
    text: `It has ${bytes(volume.size)}.`,
    warn: 'It cannot be made smaller again.',
    submit: 'Grow',
    fields: [{ name: 'size', label: 'New size', kind: 'size', required: true, value: volume.size }],
    async work({ size }) {
      const now = await post(path`/v1/volumes/${volume.name}/resize`, { size });
      return `volume ${now.name} is now ${bytes(now.size)}`;
    },
  });
}

async function limit(volume) {
  const qos = await get(path`/v1/volumes/${volume.name}/qos`);
  ask({
    title: `Limits of volume ${volume.name}`,
    text: 'Its own stand in place of its type’s, and hold at once.',
    submit: 'Set',
    fields: [{ name: 'rule', label: 'At most', kind: 'limits', value: qos.own }],
    async work({ rule }) {
      await patch(path`/v1/volumes/${volume.name}/qos`, { set: settings(qos.own, rule) });
      return `volume ${volume.name} has these limits now`;
    },
  });
}

async function retype(volume) {
  const { types } = await get('/v1/types');
  ask({
    title: `Type of volume ${volume.name}`,
    text: 'Another one of the same pool. Its limits hold at once.',
    submit: 'Change',
    fields: [{ name: 'type', label: 'Type', kind: 'choice', value: volume.type, options: types.map((type) => [type.name, typeLabel(type)]) }],
    async work({ type }) {
      await post(path`/v1/volumes/${volume.name}/retype`, { type });
      return `volume ${volume.name} is now of type ${type}`;
    },
  });
}

function attach(volume) {
  ask({
    title: `Attach volume ${volume.name}`,
    text: 'As a block device of the machine that the daemon runs on.',
    submit: 'Attach',
    fields: [
      { name: 'device', label: 'Device', placeholder: 'a free one, such as /dev/nbd0' },
      { name: 'read_only', label: 'Read-only', kind: 'check' },
    ],
    async work({ device, read_only }) {
      const made = await post(path`/v1/volumes/${volume.name}/attach`, { device: noneOf(device), read_only });
      return `volume ${volume.name} is ${made.consumer.device} now`;
    },
  });
}

/** Ends a volume's use. */
export function detach(volume) {
  ask({
    title: `Detach volume ${volume.name}`,
    text: 'Whoever uses it is disconnected once what was asked of the disk is answered. Unmount what is on it first.',
    warn: ({ force }) => force && 'Connections are cut at once. What was written and not flushed may be lost to whoever wrote it.',
    submit: 'Detach',
    bad: true,
    fields: [{ name: 'force', label: 'By force', kind: 'check' }],
    async work({ force }) {
      await post(path`/v1/volumes/${volume.name}/detach`, { force });
      return `detached volume ${volume.name}`;
    },
  });
}

function resetStatus(volume) {
  ask({
    title: `Status of volume ${volume.name}`,
    text: `It is ${volume.status}.`,
    submit: 'Set',
    fields: [
      { name: 'status', label: 'Status', kind: 'choice', options: [
        ['available', 'available: forget errors, end maintenance'],
        ['maintenance', 'maintenance: nobody can connect'],
        ['error', 'error: something is wrong with it'],
      ] },
      { name: 'reason', label: 'Reason', when: ({ status }) => status !== 'available' },
    ],
    async work({ status, reason }) {
      const now = await post(path`/v1/volumes/${volume.name}/reset-status`, { status, reason: noneOf(reason ?? '') });
      return `the status of volume ${now.name} is ${now.status} now`;
    },
  });
}

async function remove(volume) {
  const { keep_seconds: keeps } = await get('/v1/recycle-bin');
  const only = volume.status === 'snapshots-only';
  const forGood = ({ snapshots, permanent }) => keeps === 0 || permanent || snapshots === 'keep';
  const count = plural(volume.snapshots, 'snapshot');
  ask({
    title: only ? `Delete the snapshots of ${volume.name}` : `Delete volume ${volume.name}`,
    text: `${bytes(volume.size)}, of which ${bytes(volume.mapped)} hold data.`,
    warn: (values) => (forGood(values) ? 'This cannot be undone.' : 'It goes to the recycle bin, from where it can be had back.'),
    submit: 'Delete',
    bad: true,
    fields: [
      { name: 'snapshots', label: count, kind: 'choice', required: true, value: only ? 'delete' : '', when: () => volume.snapshots > 0, options: [
        ...(only ? [] : [['', 'What becomes of them?'], ['keep', 'keep: they can be read and cloned as before']]),
        ['delete', 'delete them with it'],
      ] },
      { name: 'permanent', label: 'For good, not into the recycle bin', kind: 'check', when: ({ snapshots }) => keeps > 0 && snapshots !== 'keep' },
    ],
    async work({ snapshots, permanent }) {
      const query = { snapshots: snapshots === 'delete', keep_snapshots: snapshots === 'keep', permanent };
      await send(withQuery(path`/v1/volumes/${volume.name}`, query));
      const place = here();
      if (place.view === 'volumes' && place.name === volume.name && snapshots !== 'keep') go(to('volumes'), { replace: true });
      return `deleted volume ${volume.name}`;
    },
  });
}
