// What happens, as it happens.

import { h } from './dom.js';
import { moment } from './format.js';
import { catchUp, log } from './log.js';
import { badge, choice, table, title } from './parts.js';
import { to } from './route.js';

const SEVERITIES = ['info', 'warning', 'error'];
const TONES = { info: 'faint', warning: 'warning', error: 'bad' };
const KINDS = ['volume', 'snapshot', 'image', 'type', 'qos', 'pool', 'scrub', 'job', 'daemon'];

export const events = {
  async load(_, signal) {
    await catchUp(signal);
    log.unseen = 0;
    return log;
  },

  render({ events, gap }, place) {
    const [kind, severity] = ['kind', 'severity'].map((name) => place.query.get(name));
    const isAsked = (event) => (!kind || event.kind.startsWith(`${kind}.`))
      && SEVERITIES.indexOf(event.severity) >= SEVERITIES.indexOf(severity ?? 'info');
    return h('section', null,
      title('Events'),
      h('div', { class: 'tools' },
        choice(place, 'severity', 'All that happens', ['warning', 'error']),
        choice(place, 'kind', 'About everything', KINDS)),
      gap ? h('p', { class: 'about' }, 'Some in between are forgotten.') : null,
      table({
        label: 'Events',
        rows: events.filter(isAsked).reverse(),
        key: (event) => String(event.id),
        empty: kind || severity ? 'No event is like that.' : 'Nothing has happened since the daemon started.',
        columns: [
          { label: 'Time', cell: (event) => h('time', { datetime: event.time }, moment(event.time)) },
          { label: 'Severity', cell: (event) => badge(event.severity, TONES[event.severity] ?? 'active') },
          { label: 'Kind', cell: (event) => event.kind },
          { label: 'About', class: 'name', cell: about },
          { label: 'What', cell: (event) => event.message },
        ],
      }));
  },
};

function about(event) {
  if (event.volume && event.snapshot) return h('a', { href: to('snapshots', event.volume) }, `${event.volume}@${event.snapshot}`);
  if (event.volume) return h('a', { href: to('volumes', event.volume) }, event.volume);
  return event.name ?? event.job ?? '–';
}
