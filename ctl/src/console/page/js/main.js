// The console's page.
//
// | room | what it holds |
// |---|---|
// | volumes, volume, snapshots, images, jobs, pools, types, events, recycle | one view each: `load` asks the daemon, `render` shows what it said |
// | new-volume, volume-actions, snapshot-actions, image-actions | what can be done, and what that needs to know |
// | dialog, fields, limits | asking for it |
// | parts, menu, notices | what views are made of |
// | dom, route, format, rates, tree | elements, addresses, texts, figures, the version tree |
// | api, log, live, session | the daemon: requests, events, keeping up with both, who we are |

import { h, show } from './dom.js';
import { events } from './events.js';
import { images } from './images.js';
import { jobs } from './jobs.js';
import { keepFresh } from './live.js';
import { follow, log } from './log.js';
import { reason } from './notices.js';
import { pools } from './pools.js';
import { recycleBin } from './recycle.js';
import { here, to } from './route.js';
import { learn, session } from './session.js';
import { snapshots, snapshotTree } from './snapshots.js';
import { types } from './types.js';
import { volume } from './volume.js';
import { volumes } from './volumes.js';

const VIEWS = [
  { path: 'volumes', label: 'Volumes', all: volumes, one: volume },
  { path: 'snapshots', label: 'Snapshots', all: snapshots, one: snapshotTree },
  { path: 'images', label: 'Images', all: images },
  { path: 'jobs', label: 'Jobs', all: jobs },
  { path: 'pools', label: 'Pools', all: pools },
  { path: 'types', label: 'Types & QoS', all: types },
  { path: 'events', label: 'Events', all: events },
  { path: 'recycle-bin', label: 'Recycle bin', all: recycleBin },
];

const at = (id) => document.getElementById(id);
/** Until the daemon has answered, and whenever it has been away. */
let away = true;

async function refresh(signal) {
  const place = here();
  const view = VIEWS.find(({ path }) => path === place.view);
  try {
    if (away) await learn();
    const shown = view && (place.name === undefined ? view.all : view.one);
    const content = shown ? shown.render(await shown.load(place, signal), place) : nothingHere();
    if (signal.aborted) return;
    reached();
    show(at('main'), content);
  } catch (failure) {
    if (signal.aborted) return;
    if (failure.isOutage) {
      missed(failure);
    } else {
      reached();
      show(at('main'), h('div', { class: 'notice bad' }, reason(failure)));
    }
  }
  navigation(view);
}

function nothingHere() {
  return h('p', null, 'There is nothing here. ', h('a', { href: to('volumes') }, 'Volumes'));
}

function reached() {
  away = false;
  document.body.classList.remove('away');
  show(at('outage'));
}

/** What is shown stays, as it was last seen. */
function missed(failure) {
  away = true;
  document.body.classList.add('away');
  const isDaemon = !['console-gone', 'locked-out'].includes(failure.code);
  show(at('outage'), h('strong', null, isDaemon ? 'The daemon is not reachable.' : 'The console is not reachable.'), reason(failure));
}

function navigation(current) {
  const links = VIEWS.map((view) => {
    const count = view.all === events && log.unseen > 0 && h('span', { class: 'count', 'aria-label': `${log.unseen} new warnings` }, log.unseen);
    return h('a', { key: view.path, href: to(view.path), 'aria-current': view === current ? 'page' : undefined }, view.label, count);
  });
  show(at('nav'), links);
  const { caller, info } = session;
  show(at('who'), caller ? `${caller.user ?? caller.uid}, ${caller.role}` : '', info ? ` · cairnd ${info.version}` : '');
  document.title = current ? `${current.label} · cairn` : 'cairn';
}

const page = keepFresh(refresh, (signal) => follow(signal, () => page.soon()));
addEventListener('hashchange', () => page.now());
// What somebody has done here shows at once, whether or not there is an event of it.
addEventListener('changed', () => page.now());
