// Sizes, times and rates, as the command line writes and reads them.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `10.0 GiB`: binary, with one decimal. */
export function bytes(count) {
  if (count < 1024) return `${count} B`;
  // In tenths, so that 1023.97 KiB moves up to 1.0 MiB instead of "1024.0 KiB".
  for (let unit = 1, divisor = 1024; ; unit += 1, divisor *= 1024) {
    const tenths = Math.floor((count * 10 + divisor / 2) / divisor);
    if (tenths < 10240 || unit === UNITS.length - 1) {
      return `${Math.floor(tenths / 10)}.${tenths % 10} ${UNITS[unit]}`;
    }
  }
}

/** The exact size in the largest unit that needs no fraction, as `parseSize` takes it: `10G`, `1536M`, `513`. */
export function exact(count) {
  let [value, unit] = [count, 0];
  while (value !== 0 && value % 1024 === 0 && unit + 1 < UNITS.length) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? String(value) : `${value}${UNITS[unit][0]}`;
}

/** Bytes of a size that somebody has typed. Throws a sentence. */
export function parseSize(text) {
  const found = /^(\d+)\s*(?:([kmgtp]?)(?:i?b)?)$/i.exec(text.trim());
  if (!found) throw new Error(`“${text}” is not a size: write for example 10G, 512M or 1536K`);
  const count = Number(found[1]) * 1024 ** ' kmgtp'.indexOf((found[2] || ' ').toLowerCase());
  if (!Number.isSafeInteger(count)) throw new Error(`“${text}” is larger than any size here`);
  return count;
}

const SECONDS = { s: 1, m: 60, h: 3600, d: 86400 };

/** `7d`, from seconds. */
export function duration(seconds) {
  const unit = ['d', 'h', 'm'].find((unit) => seconds > 0 && seconds % SECONDS[unit] === 0) ?? 's';
  return `${seconds / SECONDS[unit]}${unit}`;
}

/** Seconds of a time such as `7d`, 0 for `off`. Throws a sentence. */
export function parseDuration(text) {
  if (text.trim().toLowerCase() === 'off') return 0;
  const found = /^(\d+)\s*([smhd])$/i.exec(text.trim());
  if (!found || Number(found[1]) === 0) throw new Error('write a time such as 7d, 12h or 30m, or off');
  return Number(found[1]) * SECONDS[found[2].toLowerCase()];
}

/** How long ago: `5 minutes ago`; a date when that is long. */
export function ago(time, now = Date.now()) {
  const seconds = Math.floor((now - Date.parse(time)) / 1000);
  if (seconds < -1) return inFuture(-seconds);
  if (seconds < 5) return 'just now';
  if (seconds < 60) return `${plural(seconds, 'second')} ago`;
  if (seconds < 3600) return `${plural(Math.floor(seconds / 60), 'minute')} ago`;
  if (seconds < 86400) return `${plural(Math.floor(seconds / 3600), 'hour')} ago`;
  if (seconds < 30 * 86400) return `${plural(Math.floor(seconds / 86400), 'day')} ago`;
  return time.slice(0, 10);
}

function inFuture(seconds) {
  if (seconds < 3600) return `in ${plural(Math.ceil(seconds / 60), 'minute')}`;
  if (seconds < 86400) return `in ${plural(Math.floor(seconds / 3600), 'hour')}`;
  return `in ${plural(Math.floor(seconds / 86400), 'day')}`;
}

/** Exactly when, by this browser's clock. */
export function moment(time) {
  return new Date(time).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
}

/** From one time to another: `3 min 20 s`. */
export function took(from, to) {
  const seconds = Math.max(0, Math.round((Date.parse(to) - Date.parse(from)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** `1 snapshot`, `2 snapshots`. */
export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** So many a second. */
export function rate(value) {
  if (value === 0) return '0';
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString('en');
}

/** Bytes a second, in MiB. */
export function mib(value) {
  return value === 0 ? '0' : (value / (1 << 20)).toFixed(1);
}

/** Microseconds, in a unit of which there are not too many. */
export function latency(us) {
  if (us === null || us === undefined) return '–';
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 1e6 ? `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms` : `${(us / 1e6).toFixed(1)} s`;
}

/** Who uses a volume, as short as can be. */
export function consumer(who) {
  if (who.kind === 'process') return who.command ? `${who.command} (${who.pid})` : `pid ${who.pid}`;
  return who.kind === 'host' ? who.address : who.device;
}
