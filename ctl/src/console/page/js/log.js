// What happened lately, kept as it comes: the daemon's events.

import { get, reach, withQuery } from './api.js';

const MOST = 500;

export const log = {
  /** The latest last. */
  events: [],
  /** Whether some in between are forgotten. */
  gap: false,
  /** Warnings and errors since somebody last looked. */
  unseen: 0,
};

let last;

/** Follows the events until the connection ends, or `signal` ends it; tells of each new one. */
export async function follow(signal, tell) {
  await catchUp(signal);
  tell();
  const headers = { accept: 'text/event-stream' };
  const answer = await reach(withQuery('/v1/events', { after: last }), { headers, signal });
  for await (const { kind, data } of messages(answer.body)) {
    if (kind === 'gap') log.gap = true;
    else add([JSON.parse(data)]);
    tell();
  }
}

/** Asks for what came since the last event that is known: also when nobody else may follow them. */
export async function catchUp(signal) {
  const isFirst = last === undefined;
  const list = await get(withQuery('/v1/events', { after: last, limit: MOST }), signal);
  log.gap ||= list.gap && !isFirst;
  add(list.events);
  // What was there before one has looked is not new.
  if (isFirst) log.unseen = 0;
  last = Math.max(last ?? 0, list.last);
}

/** Each only once, though it may have been both asked for and told. */
function add(events) {
  const fresh = events.filter((event) => event.id > (last ?? 0));
  if (fresh.length === 0) return;
  log.events = [...log.events, ...fresh].slice(-MOST);
  log.unseen += fresh.filter(worrying).length;
  last = fresh.at(-1).id;
}

function worrying(event) {
  return event.severity !== 'info';
}

/** Server-sent events, each with its kind and its data. */
async function* messages(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const whole = text.split('\n\n');
    text = whole.pop();
    for (const message of whole) {
      const field = (name) => message.split('\n').find((line) => line.startsWith(name))?.slice(name.length).trim();
      const data = field('data:');
      if (data !== undefined) yield { kind: field('event:') ?? '', data };
    }
  }
}
