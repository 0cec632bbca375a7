// What views are made of: tables, badges, bars, the controls above a list.

import { h } from './dom.js';
import { ago, moment } from './format.js';
import { openMenu } from './menu.js';
import { carryOut } from './notices.js';
import { go, here, narrowed, to } from './route.js';
import { mayChange } from './session.js';

const PAUSE_AFTER_KEY_MS = 250;
/** How many a page of a list has. */
export const PAGE = 100;

/** A table. A column has a label, what its cells hold, and may be `numeric` or sorted by (`sort`). */
export function table({ label, columns, rows, key, place, empty }) {
  const shown = columns.filter(Boolean);
  if (rows.length === 0) return h('p', { class: 'empty' }, empty);
  const body = rows.map((row) =>
    h('tr', { key: key(row) }, shown.map((column) =>
      h('td', { 'data-label': column.label, class: column.numeric ? 'number' : column.class }, column.cell(row)))));
  return h('table', { 'aria-label': label, class: 'list' },
    h('thead', null, h('tr', null, shown.map((column) => heading(column, place)))),
    h('tbody', null, body));
}

function heading(column, place) {
  const side = { scope: 'col', class: column.numeric ? 'number' : column.class };
  if (!column.sort || !place) return h('th', side, h('span', { class: column.hidden ? 'unseen' : undefined }, column.label));
  const sorted = place.query.get('sort');
  const [up, down] = [column.sort, `-${column.sort}`];
  const direction = sorted === up ? 'ascending' : sorted === down ? 'descending' : undefined;
  const first = column.numeric ? down : up;
  const next = sorted === first ? (first === up ? down : up) : first;
  const mark = { ascending: ' ▲', descending: ' ▼' }[direction];
  return h('th', { ...side, 'aria-sort': direction }, h('a', { href: narrowed(place, { sort: next }) }, column.label, mark));
}

/** A word in a colour that says how good it is: `good`, `active`, `warning`, `bad` or `faint`. */
export function badge(text, tone) {
  return h('span', { class: `badge ${tone}` }, text);
}

/** How far something is. */
export function progress(label, done, total) {
  return h('progress', { 'aria-label': label, value: total ? done : undefined, max: total || undefined });
}

/** How long ago, and when exactly. */
export function when(time) {
  return time ? h('time', { datetime: time, title: moment(time) }, ago(time)) : '–';
}

/** Tags; each narrows the list that it stands in to those that have it. */
export function tags(all, place) {
  return Object.entries(all).map(([key, value]) => {
    const text = value === '' ? key : `${key}=${value}`;
    return place
      ? h('a', { class: 'tag', href: narrowed(place, { tag: text }) }, text)
      : h('span', { class: 'tag' }, text);
  });
}

/** Names with values, those that are there. */
export function facts(pairs) {
  const there = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== '');
  return h('dl', { class: 'facts' }, there.map(([name, value]) => h('div', null, h('dt', null, name), h('dd', null, value))));
}

/** The head of a view: its title, and what can be done. */
export function title(text, ...actions) {
  return h('div', { class: 'title' }, h('h1', null, text), buttons(...actions));
}

/** The head of a part of one. */
export function subtitle(text, ...actions) {
  return h('div', { class: 'title' }, h('h2', null, text), buttons(...actions));
}

/** What can be done, for whoever may. */
export function buttons(...actions) {
  return h('div', { class: 'actions' }, mayChange() ? actions : []);
}

/** A button; `work` may tell what it has done. */
export function button(label, work, properties = {}) {
  return h('button', { ...properties, onclick: () => carryOut(work) }, label);
}

/** A button that opens a menu of actions: `{ label, work, bad }`, `null` for a line between them. */
export function actions(label, items) {
  if (!mayChange()) return null;
  const open = (event) => openMenu(event.currentTarget, items);
  return h('button', { class: 'more', 'aria-label': `Actions for ${label}`, 'aria-haspopup': 'menu', onclick: open }, '⋯');
}

/** Where a list is searched. */
export function search(place, label) {
  let timer;
  const typed = (event) => {
    const wanted = event.target.value;
    clearTimeout(timer);
    timer = setTimeout(() => go(narrowed(here(), { search: wanted || undefined }), { replace: true }), PAUSE_AFTER_KEY_MS);
  };
  return h('input', { type: 'search', placeholder: label, 'aria-label': label, value: place.query.get('search') ?? '', oninput: typed });
}

/** Where a list is narrowed to one of some values. */
export function choice(place, name, label, values) {
  const chosen = (event) => go(narrowed(here(), { [name]: event.target.value || undefined }));
  const options = values.map((value) => h('option', { value }, value));
  return h('select', { 'aria-label': label, value: place.query.get(name) ?? '', onchange: chosen },
    h('option', { value: '' }, label), options);
}

/** What a list is narrowed to beside that, each with a way out of it. */
export function chips(place, names) {
  return names.filter((name) => place.query.has(name)).map((name) =>
    h('a', { class: 'chip', key: name, href: narrowed(place, { [name]: undefined }), 'aria-label': `Without ${name} ${place.query.get(name)}` },
      `${name} ${place.query.get(name)} ✕`));
}

/** The query of a list, of what the place says. */
export function asked(place, names) {
  const given = ['search', 'sort', 'after', 'tag', ...names].map((name) => [name, place.query.get(name)]);
  return { limit: PAGE, ...Object.fromEntries(given) };
}

/** The ways to the beginning and onward of a list that has several pages. */
export function pages(place, next) {
  const first = place.query.has('after') ? h('a', { href: narrowed(place, {}) }, 'First page') : null;
  const query = { ...Object.fromEntries(place.query), after: next };
  const onward = next ? h('a', { href: to(place.view, place.name, query) }, 'Next page') : null;
  return first || onward ? h('p', { class: 'pages' }, first, onward) : null;
}
