// Where in the console one is: `#/volumes/NAME?search=x`. So places can be bookmarked, and "back" goes back.

/** The view, the name within it, and how its list is narrowed. */
export function here() {
  const hash = location.hash.replace(/^#\/?/, '');
  const at = hash.indexOf('?');
  const [view, name] = (at < 0 ? hash : hash.slice(0, at)).split('/').map(decoded);
  return { view: view || 'volumes', name, query: new URLSearchParams(at < 0 ? '' : hash.slice(at + 1)) };
}

/** An address for a link; what of the query is undefined or empty is left out. */
export function to(view, name, query = {}) {
  const pairs = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined && value !== ''));
  const segment = name === undefined ? '' : `/${encodeURIComponent(name)}`;
  return `#/${view}${segment}${pairs.size > 0 ? `?${pairs}` : ''}`;
}

/** The address of the same list, narrowed or sorted otherwise, from its beginning. */
export function narrowed(place, changes) {
  const query = { ...Object.fromEntries(place.query), after: undefined, ...changes };
  return to(place.view, place.name, query);
}

/** Goes there; `replace` where "back" should not come by again. */
export function go(address, { replace = false } = {}) {
  if (!replace) {
    location.hash = address;
    return;
  }
  history.replaceState(null, '', address);
  dispatchEvent(new HashChangeEvent('hashchange'));
}

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
