// Whom the daemon takes this console's user for, and where it serves disks.

import { get } from './api.js';

export const session = { caller: null, info: null };

/** Asks anew: another daemon may have come. What is not told stays as it was. */
export async function learn() {
  const [caller, info] = await Promise.allSettled([get('/v1/whoami'), get('/v1/info')]);
  if (caller.status === 'fulfilled') session.caller = caller.value;
  if (info.status === 'fulfilled') session.info = info.value;
}

/** Whether there is any sense in offering changes. What exactly is allowed the daemon decides. */
export function mayChange() {
  return session.caller === null || ['member', 'administrator'].includes(session.caller.role);
}

/** How an NBD client connects to an export, or nothing. */
export function uri(name) {
  const place = session.info?.nbd[0];
  if (place?.unix !== undefined) {
    const kept = { '%': '%25', '&': '%26', '#': '%23', '+': '%2B', ' ': '%20' };
    return `nbd+unix:///${name}?socket=${place.unix.replace(/[%&#+ ]/g, (found) => kept[found])}`;
  }
  return place?.tcp === undefined ? '' : `nbd://${place.tcp.replace(/:10809$/, '')}/${name}`;
}
