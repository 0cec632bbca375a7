// Elements, and bringing those on the page up to date without building them anew: focus, selection and what somebody
// types stay where they are.
//
// Whatever comes from the daemon becomes a text or the value of an attribute that this code names: never markup.

const HANDLERS = ['onclick', 'oninput', 'onchange', 'onsubmit', 'onkeydown'];

/** An element with properties (`onclick`), attributes and a `key`; children are elements, texts, or nothing. */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (HANDLERS.includes(name) || name === 'value' || name === 'checked') element[name] = value;
    else element.setAttribute(name === 'key' ? 'data-key' : name, value === true ? '' : value);
  }
  return element;
}

/** Makes what is on the page like `wanted`. */
export function morph(shown, wanted) {
  if (shown.nodeType !== wanted.nodeType || shown.nodeName !== wanted.nodeName) {
    shown.replaceWith(wanted);
    return;
  }
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== wanted.data) shown.data = wanted.data;
    return;
  }
  for (const { name } of [...shown.attributes]) {
    if (!wanted.hasAttribute(name)) shown.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  for (const name of HANDLERS) shown[name] = wanted[name];
  morphChildren(shown, wanted);
  keepValue(shown, wanted);
}

/** What `shown` contains becomes `wanted` alone. */
export function show(shown, ...wanted) {
  morphChildren(shown, h('div', null, ...wanted));
}

/** Rows are told apart by their keys, so that one that goes does not turn each of the next into another. */
function morphChildren(shown, wanted) {
  const keys = new Set([...wanted.childNodes].map(keyOf));
  const kept = new Map();
  for (const child of [...shown.childNodes]) {
    const key = keyOf(child);
    if (key === undefined) continue;
    if (keys.has(key) && !kept.has(key)) kept.set(key, child);
    else child.remove();
  }
  let at = shown.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = keyOf(child);
    const same = key === undefined ? (at !== null && keyOf(at) === undefined ? at : null) : kept.get(key);
    if (!same) {
      shown.insertBefore(child, at);
    } else {
      if (same === at) at = at.nextSibling;
      else shown.insertBefore(same, at);
      morph(same, child);
    }
  }
  while (at !== null) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? (node.getAttribute('data-key') ?? undefined) : undefined;
}

function keepValue(shown, wanted) {
  if (!['INPUT', 'SELECT', 'TEXTAREA'].includes(shown.nodeName) || shown === document.activeElement) return;
  if (shown.value !== wanted.value) shown.value = wanted.value;
  if (shown.checked !== wanted.checked) shown.checked = wanted.checked;
}
