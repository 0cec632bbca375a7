// Types of volumes, and the QoS rules that they point to.

import { get, patch, path, post, remove as send } from './api.js';
import { ask, confirm } from './dialog.js';
import { h } from './dom.js';
import { changed, noneOf } from './fields.js';
import { describe, settings } from './limits.js';
import { actions, button, subtitle, table, title } from './parts.js';
import { to } from './route.js';

const POOL = 'volume_backend_name';

export const types = {
  async load(_, signal) {
    const [{ types }, { rules }] = await Promise.all([get('/v1/types', signal), get('/v1/qos', signal)]);
    return { types, rules };
  },

  render({ types, rules }) {
    const names = rules.map((rule) => rule.name);
    return h('section', null,
      title('Types & QoS'),
      subtitle('Types', button('New type', () => editType(null, names))),
      table({
        label: 'Types',
        rows: types,
        key: (type) => type.name,
        empty: 'There are no types.',
        columns: [
          { label: 'Name', class: 'name', cell: (type) => [type.name, type.default && h('span', { class: 'mark', title: 'Volumes get it when none is asked for' }, 'default'), about(type)] },
          { label: 'Pool', cell: (type) => type.specs[POOL] ?? 'the first' },
          { label: 'QoS rule', cell: (type) => type.qos ?? '–' },
          { label: 'Other specs', cell: (type) => Object.entries(type.specs).filter(([key]) => key !== POOL).map(([key, value]) => h('span', { class: 'tag' }, `${key}=${value}`)) },
          { label: 'Volumes', numeric: true, cell: (type) => h('a', { href: to('volumes', undefined, { type: type.name }) }, type.volumes) },
          { label: 'Actions', hidden: true, class: 'act', cell: (type) => actions(type.name, [
            { label: 'Edit…', work: () => editType(type, names) },
            { label: 'Delete…', bad: true, work: () => remove('type', type.name, path`/v1/types/${type.name}`) },
          ]) },
        ],
      }),
      subtitle('QoS rules', button('New rule', () => editRule(null))),
      table({
        label: 'QoS rules',
        rows: rules,
        key: (rule) => rule.name,
        empty: 'There are no rules yet: limits that types point to.',
        columns: [
          { label: 'Name', class: 'name', cell: (rule) => [rule.name, about(rule)] },
          { label: 'At most', cell: (rule) => describe(rule.rule).map((limit) => h('div', null, limit)) },
          { label: 'Types', cell: (rule) => rule.types.join(', ') || '–' },
          { label: 'Actions', hidden: true, class: 'act', cell: (rule) => actions(rule.name, [
            { label: 'Edit…', work: () => editRule(rule) },
            { label: 'Delete…', bad: true, work: () => remove('rule', rule.name, path`/v1/qos/${rule.name}`) },
          ]) },
        ],
      }));
  },
};

function about(thing) {
  return thing.description ? h('div', { class: 'about' }, thing.description) : null;
}

function editType(type, rules) {
  ask({
    title: type ? `Edit type ${type.name}` : 'New type',
    text: type ? 'What changes holds at once for every volume that has it.' : undefined,
    submit: type ? 'Save' : 'Create',
    fields: [
      ...(type ? [] : [{ name: 'name', label: 'Name', required: true }]),
      { name: 'description', label: 'Description', value: type?.description },
      { name: 'qos', label: 'QoS rule', kind: 'choice', value: type?.qos ?? '', options: [['', 'none'], ...rules] },
      { name: 'specs', label: 'Specs', kind: 'tags', value: type?.specs, hint: `KEY=VALUE, each on a line; ${POOL} is the pool of its volumes` },
      { name: 'default', label: 'Volumes get it when no type is asked for', kind: 'check', value: type?.default, when: () => !type?.default },
    ],
    async work({ name, description, qos, specs, default: isDefault }) {
      if (!type) {
        await post('/v1/types', { name, description, qos: noneOf(qos), specs, default: isDefault });
        return `created type ${name}`;
      }
      const gone = Object.keys(type.specs).filter((key) => !(key in specs)).map((key) => [key, '']);
      await patch(path`/v1/types/${type.name}`, {
        ...changed({ ...type, qos: type.qos ?? '' }, { description, qos }),
        specs: { ...changed(type.specs, specs), ...Object.fromEntries(gone) },
        default: isDefault || undefined,
      });
      return `changed type ${type.name}`;
    },
  });
}

function editRule(policy) {
  const rule = policy?.rule ?? {};
  ask({
    title: policy ? `Edit rule ${policy.name}` : 'New rule',
    text: policy ? 'What changes holds at once for every volume of the types that point to it.' : undefined,
    submit: policy ? 'Save' : 'Create',
    fields: [
      ...(policy ? [] : [{ name: 'name', label: 'Name', required: true }]),
      { name: 'description', label: 'Description', value: policy?.description },
      { name: 'limits', label: 'At most', kind: 'limits', value: rule },
    ],
    async work({ name, description, limits }) {
      if (!policy) {
        await post('/v1/qos', { name, description, rule: limits });
        return `created rule ${name}`;
      }
      const set = settings(rule, limits);
      await patch(path`/v1/qos/${policy.name}`, { ...changed(policy, { description }), set });
      return `changed rule ${policy.name}`;
    },
  });
}

function remove(what, name, at) {
  confirm({
    title: `Delete ${what} ${name}`,
    warn: 'This cannot be undone.',
    submit: 'Delete',
    async work() {
      await send(at);
      return `deleted ${what} ${name}`;
    },
  });
}
