// Jobs: what takes its time, under way and ended.

import { get, path, post, withQuery } from './api.js';
import { confirm } from './dialog.js';
import { h } from './dom.js';
import { bytes, plural, took } from './format.js';
import { badge, button, choice, progress, table, title, when } from './parts.js';
import { mayChange } from './session.js';

const TONES = { running: 'active', done: 'good', failed: 'bad', cancelled: 'faint', interrupted: 'warning' };

export const jobs = {
  load({ query }, signal) {
    return get(withQuery('/v1/jobs', { kind: query.get('kind'), state: query.get('state') }), signal);
  },

  render({ jobs }, place) {
    return h('section', null,
      title('Jobs'),
      h('div', { class: 'tools' },
        choice(place, 'state', 'Any state', Object.keys(TONES)),
        choice(place, 'kind', 'Any kind', ['check', 'scrub', 'restore', 'import'])),
      table({
        label: 'Jobs',
        rows: jobs,
        key: (job) => job.id,
        empty: place.query.size > 0 ? 'No job is like that.' : 'There were no jobs yet.',
        columns: [
          { label: 'Job', class: 'name', cell: (job) => [whatOf(job), h('div', { class: 'about' }, job.id)] },
          { label: 'State', cell: (job) => badge(job.state, TONES[job.state] ?? 'active') },
          { label: 'Progress', cell: progressOf },
          { label: 'Begun', cell: (job) => when(job.begun) },
          { label: 'Took', cell: (job) => (job.ended ? took(job.begun, job.ended) : job.state === 'running' ? took(job.begun, new Date().toISOString()) : '–') },
          { label: 'Found', cell: found },
          { label: 'Actions', hidden: true, class: 'act', cell: cancel },
        ],
      }));
  },
};

/** What a job does, and to what. */
export function whatOf(job) {
  const about = job.image ? `image ${job.image}` : job.volume ? `volume ${job.volume}` : `pool ${job.pool}`;
  return `${job.kind} of ${about}`;
}

function progressOf({ progress: { done, total }, state, kind }) {
  const percent = total ? Math.floor((done * 100) / total) : null;
  const bar = state === 'running' || percent !== null ? progress(`Progress of the ${kind}`, done, total) : null;
  const text = total ? `${bytes(done)} of ${bytes(total)} (${percent} %)` : bytes(done);
  return [state === 'running' ? bar : null, h('div', { class: 'about' }, text)];
}

function found(job) {
  const bad = (text) => h('div', { class: 'wrong' }, text);
  const { check, scrub } = job.result ?? {};
  return [
    job.problem ? bad(job.problem) : null,
    job.error ? bad(`${job.error.message} (${job.error.code})`) : null,
    job.error?.hint ? h('div', { class: 'about' }, job.error.hint) : null,
    check ? (check.clean ? 'no errors' : [bad(`${plural(check.error_count, 'error')}, ${check.leaked} leaked, ${bytes(check.lost_bytes)} lost`), more(check.errors)]) : null,
    scrub ? (scrub.fault_count === 0 ? 'no faults' : [bad(plural(scrub.fault_count, 'fault')), more(scrub.faults)]) : null,
  ];
}

/** The first sentences of what was found. */
export function more(sentences) {
  return h('ul', { class: 'about' }, sentences.slice(0, 5).map((one) => h('li', null, one)));
}

function cancel(job) {
  // A restore is not cancelled: its volume is deleted.
  if (job.state !== 'running' || job.kind === 'restore' || !mayChange()) return null;
  const work = () => confirm({
    title: `Cancel the ${whatOf(job)}`,
    text: job.kind === 'import' ? 'What was written goes away.' : 'It can be begun anew.',
    submit: 'Cancel the job',
    async work() {
      const now = await post(path`/v1/jobs/${job.id}/cancel`);
      return `the ${whatOf(now)} is ${now.state}`;
    },
  });
  return button('Cancel…', work);
}
