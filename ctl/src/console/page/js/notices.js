// What is told above the page: what was done, which goes away by itself, and what went wrong, which stays until somebody
// has read it.

import { h } from './dom.js';

const MOMENT_MS = 6000;

/** Tells that something was done. */
export function say(text) {
  const notice = h('div', { class: 'notice good' }, text);
  place().append(notice);
  setTimeout(() => notice.remove(), MOMENT_MS);
}

/** Tells what went wrong. */
export function complain(failure) {
  const dismiss = h('button', { class: 'quiet', 'aria-label': 'Dismiss' }, '✕');
  const notice = h('div', { class: 'notice bad', role: 'alert' }, reason(failure), dismiss);
  dismiss.onclick = () => notice.remove();
  place().append(notice);
}

/** The daemon's message, and its hint. */
export function reason(failure) {
  const code = failure.code ? ` (${failure.code})` : '';
  const hint = failure.hint ? h('p', { class: 'hint' }, failure.hint) : null;
  return h('div', { class: 'reason' }, h('p', null, failure.message + code), hint);
}

/** Carries out what was clicked. */
export async function carryOut(work) {
  try {
    const said = await work();
    if (said) say(said);
  } catch (failure) {
    complain(failure);
  }
  dispatchEvent(new Event('changed'));
}

function place() {
  return document.getElementById('notices');
}
