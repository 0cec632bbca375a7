// Limits to I/O: how they are read and written, a row for each with its rate and its bursts.

import { h } from './dom.js';
import { bytes, exact, parseSize } from './format.js';

const ROWS = [
  ['total_iops_sec', 'All operations'],
  ['read_iops_sec', 'Reads'],
  ['write_iops_sec', 'Writes'],
  ['total_bytes_sec', 'All bytes'],
  ['read_bytes_sec', 'Bytes read'],
  ['write_bytes_sec', 'Bytes written'],
];
const SIZE = 'size_iops_sec';

/** A rule in words, a limit each. */
export function describe(rule) {
  const told = ROWS.filter(([key]) => rule[key]).map(([key, label]) => {
    const unit = (value) => (isBytes(key) ? `${bytes(value)}/s` : `${value.toLocaleString('en')}/s`);
    const burst = rule[`${key}_max`];
    const length = rule[`${key}_max_length`] ?? 1;
    return `${label.toLowerCase()} ${unit(rule[key])}${burst ? `, for ${length} s ${unit(burst)}` : ''}`;
  });
  return rule[SIZE] ? [...told, `an operation is ${bytes(rule[SIZE])}`] : told;
}

/** What is to be set so that one rule becomes another: 0 takes a limit away. */
export function settings(before, after) {
  const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
  const differ = [...keys].filter((key) => (before[key] ?? 0) !== (after[key] ?? 0));
  return Object.fromEntries(differ.map((key) => [key, after[key] ?? 0]));
}

/** The field, see fields.js. */
export function limits(field, id) {
  const inputs = [];
  const input = (key, label) => {
    const value = field.value?.[key];
    const written = !value ? '' : isSize(key) ? exact(value) : String(value);
    const element = h('input', { 'aria-label': label, value: written, autocomplete: 'off' });
    inputs.push([key, label, element]);
    return element;
  };
  const rows = ROWS.map(([key, label]) =>
    h('tr', null,
      h('th', { scope: 'row' }, label),
      h('td', null, input(key, `${label} a second`)),
      h('td', null, input(`${key}_max`, `${label} a second, in a burst`)),
      h('td', null, input(`${key}_max_length`, `Seconds of such a burst: ${label.toLowerCase()}`))));
  const size = h('tr', null,
    h('th', { scope: 'row' }, 'One operation'),
    h('td', { colspan: '3' }, input(SIZE, 'Bytes that count as one operation')));
  const headings = ['', 'a second', 'in a burst', 'seconds'].map((text) => h('th', { scope: 'col' }, text));
  const element = h('fieldset', { id, class: 'field limits' },
    h('legend', null, field.label),
    h('table', null, h('thead', null, h('tr', null, headings)), h('tbody', null, rows, size)),
    h('p', { class: 'hint' }, 'Empty is no limit. Bytes such as 100M; a limit to all excludes those to reads and writes.'));
  return { element, read: () => readAll(inputs), peek: () => null };
}

function readAll(inputs) {
  const rule = {};
  for (const [key, label, { value }] of inputs) {
    const text = value.trim();
    if (text === '') continue;
    const isWhole = /^\d+$/.test(text);
    if (!isSize(key) && !isWhole) throw new Error(`${label}: write a whole number`);
    rule[key] = isSize(key) ? parseSize(text) : Number(text);
  }
  return rule;
}

function isBytes(key) {
  return key.includes('bytes');
}

/** Whether its value is a number of bytes; the length of a burst is one of seconds. */
function isSize(key) {
  return key === SIZE || (isBytes(key) && !key.endsWith('_length'));
}
