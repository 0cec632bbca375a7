// One menu for all: opened by a button, below it, gone with a click elsewhere or Escape.

import { h } from './dom.js';
import { carryOut } from './notices.js';

/** Opens a menu of `{ label, work, bad }`; `null` is a line between them. */
export function openMenu(opener, items) {
  document.getElementById('menu')?.remove();
  const menu = h('div', { id: 'menu', popover: 'auto', role: 'menu', onkeydown: (event) => step(event, menu) },
    items.map((item) => (item ? entry(item, () => menu.hidePopover()) : h('hr'))));
  menu.addEventListener('toggle', (event) => {
    if (event.newState !== 'closed') return;
    const had = menu.contains(document.activeElement);
    menu.remove();
    if (had) opener.focus();
  });
  document.body.append(menu);
  menu.showPopover();
  put(menu, opener.getBoundingClientRect());
  menu.querySelector('button')?.focus();
}

function entry({ label, work, bad }, close) {
  const chosen = () => {
    close();
    carryOut(work);
  };
  return h('button', { role: 'menuitem', class: bad ? 'bad' : undefined, onclick: chosen }, label);
}

/** Below the button and along its right edge; above it where there is no room. */
function put(menu, button) {
  const { width, height } = menu.getBoundingClientRect();
  const below = button.bottom + height <= innerHeight || button.top < height;
  menu.style.top = `${below ? Math.min(button.bottom, Math.max(0, innerHeight - height)) : button.top - height}px`;
  menu.style.left = `${Math.max(4, Math.min(button.right, innerWidth - 4) - width)}px`;
}

function step(event, menu) {
  const items = [...menu.querySelectorAll('button')];
  const at = items.indexOf(document.activeElement);
  const next = {
    ArrowDown: items[(at + 1) % items.length],
    ArrowUp: items.at(at <= 0 ? -1 : at - 1),
    Home: items[0],
    End: items.at(-1),
  }[event.key];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
