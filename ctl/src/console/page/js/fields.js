// The fields of dialogs. Each kind knows what it looks like, and what of it is meant: `read` throws a sentence where that
// makes no sense.
//
// | kind | value |
// |---|---|
// | text | a text, trimmed; with `suggest`, some to choose from |
// | size | bytes, or undefined when it is empty |
// | time | seconds: `7d`, `off` |
// | choice | one of `options`: texts, or `[value, label]` |
// | check | true or false |
// | tags | an object, of a line `KEY=VALUE` each |
// | limits | a QoS rule |

import { h } from './dom.js';
import { duration, exact, parseDuration, parseSize } from './format.js';
import { limits } from './limits.js';

let made = 0;

/** The element of a field, its value once it is complete (`read`), and while it is not (`peek`). */
export function control(field) {
  const id = `field-${(made += 1)}`;
  const { element, read, peek } = KINDS[field.kind ?? 'text'](field, id);
  const known = peek ?? read;
  const checked = () => {
    const value = read();
    if (field.required && (value === '' || value === undefined)) throw new Error('is needed');
    return value;
  };
  return { element, read: checked, peek: known };
}

const KINDS = {
  text(field, id) {
    const list = field.suggest ? `${id}-list` : undefined;
    const input = h('input', { id, list, value: field.value ?? '', placeholder: field.placeholder, autocomplete: 'off', spellcheck: 'false' });
    const suggested = field.suggest ? h('datalist', { id: list }, field.suggest.map((value) => h('option', { value }))) : null;
    return { element: labelled(field, id, input, suggested), read: () => input.value.trim() };
  },

  size(field, id) {
    const value = field.value ? exact(field.value) : '';
    const input = h('input', { id, value, placeholder: field.placeholder ?? '10G', autocomplete: 'off', spellcheck: 'false' });
    const read = () => (input.value.trim() === '' ? undefined : parseSize(input.value));
    return { element: labelled(field, id, input), read, peek: () => input.value.trim() };
  },

  time(field, id) {
    const input = h('input', { id, value: field.value ? duration(field.value) : 'off', autocomplete: 'off' });
    return { element: labelled(field, id, input), read: () => parseDuration(input.value), peek: () => input.value };
  },

  choice(field, id) {
    const options = field.options.map((option) => {
      const [value, label] = Array.isArray(option) ? option : [option, option];
      return h('option', { value }, label);
    });
    // Without a value the first one is chosen, and not none.
    const select = h('select', { id, value: field.value }, options);
    return { element: labelled(field, id, select), read: () => select.value };
  },

  check(field, id) {
    const input = h('input', { id, type: 'checkbox', checked: field.value ?? false });
    const element = h('div', { class: 'field check' }, input, h('label', { for: id }, field.label), hint(field));
    return { element, read: () => input.checked };
  },

  tags(field, id) {
    const lines = Object.entries(field.value ?? {}).map(([key, value]) => (value === '' ? key : `${key}=${value}`));
    const area = h('textarea', { id, rows: Math.max(2, lines.length + 1), spellcheck: 'false', value: lines.join('\n') });
    const read = () => {
      const pairs = area.value.split('\n').map((line) => line.trim()).filter((line) => line !== '');
      return Object.fromEntries(pairs.map((pair) => {
        const at = pair.indexOf('=');
        return at < 0 ? [pair, ''] : [pair.slice(0, at).trim(), pair.slice(at + 1).trim()];
      }));
    };
    return { element: labelled({ hint: 'KEY=VALUE, each on a line', ...field }, id, area), read };
  },

  limits,
};

function labelled(field, id, ...controls) {
  return h('div', { class: 'field' }, h('label', { for: id }, field.label), controls, hint(field));
}

function hint(field) {
  return field.hint ? h('p', { class: 'hint' }, field.hint) : null;
}

/** What is to change of tags so that they become others: `null` takes one away. Nothing where nothing is. */
export function tagChanges(before, after) {
  const changes = Object.entries(after).filter(([key, value]) => before[key] !== value);
  const gone = Object.keys(before).filter((key) => !(key in after)).map((key) => [key, null]);
  return noneOf(Object.fromEntries([...changes, ...gone]));
}

/** Of `after`, what is not as it was before. */
export function changed(before, after) {
  return Object.fromEntries(Object.entries(after).filter(([key, value]) => value !== undefined && before[key] !== value));
}

/** Nothing in place of an empty object or text. */
export function noneOf(value) {
  return value === '' || (typeof value === 'object' && Object.keys(value).length === 0) ? undefined : value;
}
