// Keeps the page up to date as long as somebody can see it.

const PAUSE_MS = 2000;
/** After something has happened: what belongs together happens together. */
const SOON_MS = 150;
/** A daemon with very much to tell is asked less often: it answers for a fifth of the time at most. */
const SHARE = 5;

/** Calls `refresh(signal)` again and again, and `follow(signal)` whenever that has ended. */
export function keepFresh(refresh, follow) {
  let timer;
  let under = null;
  let tookMs = 0;
  let wanted = false;
  let soon = false;

  async function turn() {
    clearTimeout(timer);
    timer = undefined;
    if (document.hidden || under) return;
    const mine = new AbortController();
    under = mine;
    const begun = performance.now();
    await refresh(mine.signal);
    under = null;
    // What was cut short took no time that says anything, and something else is wanted now.
    if (mine.signal.aborted) return turn();
    tookMs = performance.now() - begun;
    later(wanted ? pause(SOON_MS) : pause(PAUSE_MS));
    wanted = false;
  }

  const pause = (least) => Math.max(least, SHARE * tookMs);
  const later = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(turn, ms);
  };

  async function listen() {
    for (;;) {
      while (document.hidden) await once(document, 'visibilitychange');
      const until = new AbortController();
      const hidden = () => document.hidden && until.abort();
      document.addEventListener('visibilitychange', hidden);
      try {
        await follow(until.signal);
      } catch {
        // Whether the daemon can be reached is seen by whoever refreshes.
      }
      document.removeEventListener('visibilitychange', hidden);
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  document.addEventListener('visibilitychange', () => !document.hidden && turn());
  turn();
  listen();
  return {
    /** Something has happened. */
    soon() {
      if (under) wanted = true;
      if (under || soon) return;
      soon = true;
      setTimeout(() => {
        soon = false;
        turn();
      }, pause(SOON_MS));
    },
    /** Something else is wanted. */
    now() {
      if (under) under.abort();
      else turn();
    },
  };
}

function once(target, kind) {
  return new Promise((resolve) => target.addEventListener(kind, resolve, { once: true }));
}
