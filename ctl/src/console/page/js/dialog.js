// Dialogs: what an action has to know, and whether it is really meant.

import { h } from './dom.js';
import { control } from './fields.js';
import { reason, say } from './notices.js';

/**
 * Asks for what `work` needs, and carries it out. What `work` returns is told; what it throws is shown, and what was typed
 * stays to be corrected.
 *
 * A field is `{ name, label, kind, value, ... }`, see fields.js; with `when(values)` it is there only if that is so.
 * `warn` is what to know beforehand, a text or one that depends on the values. `bad` is for what takes something away.
 */
export function ask({ title, text, warn, fields = [], submit, bad = false, work }) {
  const controls = fields.map((field) => ({ field, ...control(field) }));
  const trouble = h('div', { role: 'alert' });
  const warning = h('p', { class: 'warning', 'aria-live': 'polite' });
  const send = h('button', { type: 'submit', class: bad ? 'bad' : 'primary' }, submit);
  const cancel = h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel');

  /** What is known of the values while they are still typed. */
  const sofar = () => Object.fromEntries(controls.map(({ field, peek }) => [field.name, peek()]));
  const adjust = () => {
    const values = sofar();
    for (const { field, element } of controls) element.hidden = field.when ? !field.when(values) : false;
    const text = typeof warn === 'function' ? warn(values) : warn;
    warning.textContent = text ?? '';
    warning.hidden = !text;
  };

  const form = h('form', { method: 'dialog', novalidate: true, oninput: adjust, onchange: adjust },
    h('h2', null, title),
    text ? h('p', null, text) : null,
    controls.map(({ element }) => element),
    warning,
    trouble,
    h('div', { class: 'buttons' }, cancel, send));
  form.onsubmit = async (event) => {
    event.preventDefault();
    trouble.replaceChildren();
    const values = readAll(controls, trouble);
    if (!values) return;
    send.disabled = true;
    try {
      const said = await work(values);
      dialog.close();
      if (said) say(said);
    } catch (failure) {
      trouble.replaceChildren(h('div', { class: 'notice bad' }, reason(failure)));
      send.disabled = false;
    }
    dispatchEvent(new Event('changed'));
  };

  const dialog = h('dialog', { 'aria-label': title }, form);
  const opener = document.activeElement;
  dialog.addEventListener('close', () => {
    dialog.remove();
    if (opener?.isConnected) opener.focus();
  });
  document.body.append(dialog);
  adjust();
  dialog.showModal();
  const first = controls.find(({ element }) => !element.hidden);
  (bad || !first ? cancel : first.element.querySelector('input, select, textarea') ?? cancel).focus();
}

/** Asks whether something is really meant. */
export function confirm({ title, text, warn, submit, work }) {
  ask({ title, text, warn, submit, bad: true, work });
}

/** The values of all fields that are there; nothing where one is wrong, which is told. */
function readAll(controls, trouble) {
  const values = {};
  for (const { field, element, read } of controls) {
    if (element.hidden) continue;
    try {
      values[field.name] = read();
    } catch (error) {
      trouble.replaceChildren(h('div', { class: 'notice bad' }, h('p', null, `${field.label}: ${error.message}`)));
      element.querySelector('input, select, textarea')?.focus();
      return null;
    }
  }
  return values;
}
