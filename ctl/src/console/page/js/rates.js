// What volumes did between two looks at the daemon's figures, reckoned as `cairn top` does.

const KINDS = ['read', 'write', 'flush', 'trim', 'zero'];
/** Looks that are closer together say little. */
const LEAST_US = 900_000;

let before = null;
let latest = new Map();

/** Takes the figures of /v1/stats; returns what each volume did lately, by its name. Empty at first. */
export function lately(stats) {
  const restarted = before !== null && stats.uptime_us < before.uptime_us;
  if (before !== null && !restarted && stats.uptime_us - before.uptime_us < LEAST_US) return latest;
  if (before !== null) latest = between(before, stats);
  before = stats;
  return latest;
}

/** What was done between two looks, or since the daemon began if that is another one. */
export function between(earlier, now) {
  const restarted = now.uptime_us < earlier.uptime_us;
  const seconds = Math.max(1, now.uptime_us - (restarted ? 0 : earlier.uptime_us)) / 1e6;
  const known = new Map(restarted ? [] : earlier.volumes.map((volume) => [identity(volume), volume]));
  const rates = (volume) => ratesOf(volume, known.get(identity(volume)), now.latency_bounds_us, seconds);
  return new Map(now.volumes.map((volume) => [volume.volume, rates(volume)]));
}

function identity(volume) {
  return `${volume.id} ${volume.pool}`;
}

function ratesOf(now, earlier, boundsUs, seconds) {
  // What was counted may have been forgotten in between: then it was done since.
  const since = (figure) => {
    const [after, until] = [figure(now), earlier ? figure(earlier) : 0];
    return after >= until ? after - until : after;
  };
  const all = (name) => KINDS.reduce((sum, kind) => sum + since((volume) => volume.io[kind][name]), 0);
  const buckets = Array.from({ length: boundsUs.length + 1 }, (_, at) =>
    KINDS.reduce((sum, kind) => sum + since((volume) => volume.io[kind].latency_buckets[at] ?? 0), 0));
  const [operations, waits] = [all('operations'), since((volume) => volume.qos_waits)];
  return {
    iops: operations / seconds,
    read: since((volume) => volume.io.read.bytes) / seconds,
    written: since((volume) => volume.io.write.bytes) / seconds,
    errors: all('errors') / seconds,
    meanUs: operations > 0 ? all('latency_ns') / 1e3 / operations : null,
    p99Us: quantile(buckets, boundsUs, 0.99),
    queue: now.in_flight + now.qos_waiting,
    limited: operations > 0 ? Math.min(1, waits / operations) : Number(now.qos_waiting > 0),
  };
}

/** What so much of all took at most: within a bucket as if they were spread evenly. */
export function quantile(buckets, boundsUs, share) {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  const rank = share * total;
  let below = 0;
  for (const [at, count] of buckets.entries()) {
    if (count === 0) continue;
    if (below + count >= rank) {
      if (at >= boundsUs.length) break;
      const lower = at === 0 ? 0 : boundsUs[at - 1];
      return lower + ((boundsUs[at] - lower) * (rank - below)) / count;
    }
    below += count;
  }
  return total > 0 ? (boundsUs.at(-1) ?? 0) : null;
}
