// Asks the daemon, through the server that this page came from.

/** What went wrong, as the daemon says it: a stable code, one sentence, and what to do about it. */
export class Failure extends Error {
  constructor({ code, message, hint }) {
    super(message);
    this.code = code;
    this.hint = hint;
  }

  /** Whether nothing can be asked at the moment, whatever it is. */
  get isOutage() {
    return OUTAGES.includes(this.code);
  }
}

const OUTAGES = ['unreachable', 'cut-off', 'console-gone', 'locked-out'];

const CONSOLE_GONE = {
  code: 'console-gone',
  message: 'the console does not answer: its command has ended, most likely',
  hint: 'run cairn console again, and open the URL that it prints',
};
const LOCKED_OUT = {
  code: 'locked-out',
  message: 'this page is not let in any more: it is another console that listens here now',
  hint: 'open the URL that cairn console has printed',
};

/** A path of the API: what is put in stays one segment of it, whatever it holds. */
export function path(strings, ...values) {
  return String.raw({ raw: strings }, ...values.map((value) => encodeURIComponent(value)));
}

/** The path with a query; what is undefined, null, empty or false is left out. */
export function withQuery(base, query) {
  const pairs = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const one of [value].flat()) {
      if (one !== undefined && one !== null && one !== '' && one !== false) pairs.append(key, one);
    }
  }
  const text = pairs.toString();
  return text ? `${base}?${text}` : base;
}

export const get = (path, signal) => call('GET', path, undefined, signal);
export const post = (path, body) => call('POST', path, body);
export const patch = (path, body) => call('PATCH', path, body);
export const remove = (path) => call('DELETE', path);

async function call(method, path, body, signal) {
  const headers = { accept: 'application/json' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const answer = await reach(path, { method, headers, body: sent, signal });
  if (answer.status === 204) return null;
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure({ code: 'cut-off', message: 'the answer broke off', hint: 'look before trying it again' });
  }
}

/** Sends a request. What is not a success is thrown. */
export async function reach(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure(CONSOLE_GONE);
  }
  if (answer.ok) return answer;
  // What the console itself refuses is a page.
  const isPage = (answer.headers.get('content-type') ?? '').startsWith('text/html');
  if (answer.status === 403 && isPage) throw new Failure(LOCKED_OUT);
  let told;
  try {
    told = (await answer.json()).error;
  } catch (error) {
    if (error.name === 'AbortError') throw error;
  }
  throw new Failure(told ?? { code: 'not-understood', message: `the answer was ${answer.status}, without a reason` });
}
