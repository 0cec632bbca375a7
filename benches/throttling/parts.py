"""What is measured. Each part gives a dictionary that JSON can hold."""

import contextlib
import time

from comparison import fio
from comparison.measure import say
from comparison.servers import Cairn

from .client import Client
from .trace import WINDOW, Load, traced

KIB, MIB = 1 << 10, 1 << 20
READS, WRITES, DEEP = "rand-read-4k-qd32", "rand-write-4k-qd32", "rand-mixed-4k-qd128"

# Requests of 4 KiB a second, and bytes a second in requests of so many.
OPS = (10, 100, 1000, 10_000, 100_000)
BYTES = tuple((rate * MIB, 64 * KIB) for rate in (1, 16, 128, 512, 2048))
VOLUME = 512 * MIB
# A limit that is looked at for every request and never reached.
UNREACHABLE = 10**9
# A rate is the new one when it is as near as this.
NEAR = 0.1
# Seconds of a run where states are compared side by side, at most: many short rounds, since the scheduler of a virtual
# machine now and then keeps a client and a reactor on one CPU for a whole run, which takes half of the speed.
SHORT = 1
# Where a fresh rule may still give away its full bucket, and fio its late start.
SETTLE = 300


class Bench:
    """A daemon with up to three volumes: for limits, without any ever, and for limits beside the first."""

    LIMITED, FREE, SECOND = Cairn.export, "free", "second"

    def __init__(self, place, names, seconds, rounds, client_cpu):
        """Names are those of parts."""
        self.others = [volume for volume, parts in NEEDED.items() if not parts.isdisjoint(names)]
        place.size = VOLUME
        self.server = Cairn(place)
        self.seconds, self.rounds = seconds, rounds
        self.client = {} if client_cpu == "any" else {"cpus_allowed": client_cpu}

    def __enter__(self):
        try:
            say("filling volumes")
            self.server.prepare()
            self.server.start()
            for name in self.others:
                self.server.cairn("volume", "create", name, "--size", str(self.server.place.size))
                fio.run("prefill", self.target(name), self.server.place.sockets)
            for name in (self.LIMITED, *self.others):
                # A tmpfs gets its memory from the kernel when it is touched first, which takes longer than all else:
                # write until the pool has what it will use. Then read all, so that it is in the cache.
                for job, size in ((WRITES, 64 * KIB), ("seq-read-1m-qd8", MIB)):
                    amount = 4 * VOLUME if job == WRITES else VOLUME
                    fio.run(job, self.target(name), self.server.place.sockets, bs=size, io_size=amount, time_based=0,
                            ramp_time=0)
        except BaseException:
            self.server.stop()
            raise
        return self

    def __exit__(self, *_):
        self.server.stop()

    def target(self, volume=LIMITED):
        return {**self.server.target(), "uri": f"nbd+unix:///{volume}?socket={self.server.socket}"}

    @contextlib.contextmanager
    def limits(self, volume=LIMITED, **rule):
        """Limits that a volume has for a while."""
        self.set(volume, **rule)
        try:
            yield
        finally:
            self.set(volume, **{key: 0 for key in rule if not key.endswith(("_max", "_length"))})

    def set(self, volume=LIMITED, **rule):
        """`cairn qos set`; when it began, and how many ms it took."""
        begin = now()
        self.server.cairn("qos", "set", volume, *(f"{key}={value}" for key, value in rule.items()))
        return begin, now() - begin

    def load(self, stack, job, volume=LIMITED, **options):
        return Load(stack, job, self.target(volume), **self.client, **options)

    def traced(self, job, seconds, **options):
        return traced(job, self.target(), runtime=milliseconds(seconds), **self.client, **options)

    def run(self, job, volume, seconds, **options):
        """A run without a log; what fio says."""
        return fio.run(job, self.target(volume), self.server.place.sockets, runtime=milliseconds(seconds), ramp_time=0,
                       **self.client, **options)


def accuracy(bench, ops=OPS, sizes=BYTES):
    """One limit at a time under full pressure."""
    rows, unlimited = [], {}
    for kind, job in (("read", READS), ("write", WRITES)):
        for size in dict.fromkeys([4 * KIB, *(size for _, size in sizes)]):
            reached = bench.traced(job, min(3, bench.seconds / 2), bs=size, iodepth=32)
            unlimited[f"{kind} {size}"] = reached.rate(reached.first, reached.moments[-1])
        for key, rate, size in [*(("iops", rate, 4 * KIB) for rate in ops), *(("bytes", *pair) for pair in sizes)]:
            with bench.limits(**{f"total_{key}_sec": rate}):
                trace = bench.traced(job, bench.seconds + 0.5, bs=size)
            rows.append({"limit": key, "rate": rate, "kind": kind, "size": size,
                         **judged(trace, rate if key == "iops" else rate / size, trace.first, bench.seconds)})
            say(f"{kind:5} {key:5} {rate:13,} {rows[-1]['error']:+.2%}")
    return {"seconds": bench.seconds, "rows": rows, "unlimited": unlimited}


def judged(trace, due, begin, seconds):
    """Requests a second as they were and should be, and what passed in 100 ms."""
    end = begin + round(seconds * 1000)
    reached = trace.rate(begin, end)
    least, most = trace.extremes(begin + SETTLE, end)
    return {"due": due, "reached": reached, "error": reached / due - 1, "least": least, "most": most}


def volumes(bench):
    """Two volumes with limits of their own at once, which follow each other's by nothing."""
    rules = ((bench.LIMITED, {"read_iops_sec": 2000}, 2000, READS, 4 * KIB),
             (bench.SECOND, {"write_bytes_sec": 100 * MIB}, 1600, WRITES, 64 * KIB))
    with contextlib.ExitStack() as stack:
        for volume, rule, *_ in rules:
            stack.enter_context(bench.limits(volume, **rule))
        runtime = milliseconds(bench.seconds + 1)
        loads = [bench.load(stack, job, volume, bs=size, runtime=runtime) for volume, _, _, job, size in rules]
        traces = [load.trace() for load in loads]
    begin = max(trace.first for trace in traces)
    return {"rows": [{"rule": rule, "job": job, "size": size, **judged(trace, due, begin, bench.seconds)}
                     for (_, rule, due, job, size), trace in zip(rules, traces)]}


def sharing(bench, bytes_too=True):
    """Three connections of one volume that want different amounts."""
    cases = (({"total_iops_sec": 3000}, ((4 * KIB, 2), (4 * KIB, 8), (4 * KIB, 32))),
             ({"total_bytes_sec": 192 * MIB}, ((4 * KIB, 32), (64 * KIB, 8), (256 * KIB, 4))))
    found = []
    for rule, clients in cases if bytes_too else cases[:1]:
        (key, limit), = rule.items()
        with contextlib.ExitStack() as stack:
            stack.enter_context(bench.limits(**rule))
            runtime = milliseconds(bench.seconds + 1)
            loads = [bench.load(stack, READS, bs=size, iodepth=depth, runtime=runtime) for size, depth in clients]
            traces = [load.trace() for load in loads]
        begin = max(trace.first for trace in traces) + SETTLE
        cost = [1 if "iops" in key else size for size, _ in clients]
        rates = [trace.rate(begin, begin + bench.seconds * 1000 - SETTLE) * c for trace, c in zip(traces, cost)]
        found.append({"rule": rule, "error": sum(rates) / limit - 1,
                      "rows": [{"size": size, "depth": depth, "rate": rate, "share": rate / limit}
                               for (size, depth), rate in zip(clients, rates)]})
    return {"cases": found}


def change(bench, every=1.5):
    """`cairn qos set` while fio runs, up and down, between rates that are no matter for the machine."""
    cases = (("total_iops_sec", (1000, 5000, 500, 20_000, 1000, 10_000, 2000), 1, READS, 4 * KIB),
             ("total_bytes_sec", tuple(rate * MIB for rate in (50, 400, 20, 200, 10, 100, 50)), 64 * KIB, WRITES, 64 * KIB))
    found = []
    for key, rates, unit, job, size in cases:
        with contextlib.ExitStack() as stack:
            stack.enter_context(bench.limits(**{key: rates[0]}))
            load = bench.load(stack, job, bs=size, runtime=milliseconds(every * len(rates) + 1))
            time.sleep(every + 0.5)
            changes = []
            for rate in rates[1:]:
                changes.append((*bench.set(**{key: rate}), rate))
                time.sleep(max(0, every - changes[-1][1] / 1000))
            trace = load.trace()
        ends = [begin for begin, *_ in changes[1:]] + [trace.moments[-1] - WINDOW]
        steps = [{"before": before, "rate": rate, "took_ms": took, **settled(trace, begin, end, rate / unit)}
                 for (begin, took, rate), before, end in zip(changes, rates, ends)]
        origin = changes[0][0] - 1000
        found.append({"key": key, "steps": steps, "step_ms": 20, "unit": unit,
                      "times": [0, *(begin - origin for begin, *_ in changes)], "rates": rates,
                      "curve": trace.curve(origin, ends[-1], 20)})
    return {"cases": found}


def settled(trace, begin, end, rate):
    """How many ms after `begin` the next 100 ms have what they should, if ever, and which part of all 100 ms from then
    to the next change has."""
    near = [abs(trace.rate(at, at + WINDOW) / rate - 1) <= NEAR for at in range(begin, end - WINDOW)]
    first = near.index(True) if True in near else None
    return {"settled_ms": first, "stays": None if first is None else sum(near[first:]) / len(near[first:])}


def neighbour(bench):
    """A volume without limits: alone, beside one that wants more than it may, and beside one that wants just as much."""
    held, wanted, job, figures = 100, 20_000, "rand-read-4k-qd8", {}
    # Where fio is to keep to a rate by itself it spins, on the neighbour's CPU: one request at a time, and pauses.
    beside = {"alone": None, "throttled": {}, "as much, not throttled": {"iodepth": 1, "thinktime": 1_000_000 // held}}
    for number in range(bench.rounds):
        for state in rotated(list(beside), number):
            with contextlib.ExitStack() as stack:
                if beside[state] == {}:
                    stack.enter_context(bench.limits(total_iops_sec=held))
                if beside[state] is not None:
                    bench.load(stack, DEEP, bs=16 * KIB, runtime=milliseconds(bench.seconds + 10), **beside[state])
                    time.sleep(0.5)
                report = bench.run(job, bench.FREE, min(SHORT, bench.seconds), rate_iops=wanted)
            say(f"neighbour {state:25} p99 {report.p99_us:,.0f} µs, {report.iops:,.0f} IOPS")
            figures.setdefault(state, []).append([report.iops, report.mean_us, report.p99_us])
    return {"held": held, "wanted": wanted, "job": job, "figures": figures}


def unlimited(bench):
    """What volumes without limits pay."""
    rules = {"never any limit": None, "set and cleared": 0, "never reached": UNREACHABLE}
    figures = {state: {job: [] for job in (READS, WRITES)} for state in rules}
    for number in range(bench.rounds):
        for job in (READS, WRITES):
            for state in rotated(list(rules), number):
                volume = bench.FREE if rules[state] is None else bench.LIMITED
                with contextlib.ExitStack() as stack:
                    if rules[state] is not None:
                        bench.set(total_iops_sec=1000)
                        bench.set(total_iops_sec=rules[state])
                        stack.callback(bench.set, total_iops_sec=0)
                    report = bench.run(job, volume, min(SHORT, bench.seconds))
                say(f"unlimited {state:20} {job:20} {report.iops:,.0f} IOPS")
                figures[state][job].append(report.iops)
    return {"figures": figures}


def flush(bench, times=20):
    """A flush behind 32 writes that wait at 10 a second, and on another connection; beside them, without limits."""
    data, waiting, found = bytes(4 * KIB), 32, {}
    for state, rate in (("no limits", 0), ("same connection", 10), ("another connection", 10)):
        with bench.limits(total_iops_sec=rate):
            for _ in range(times):
                path = bench.server.socket, bench.LIMITED
                with Client(*path) as writer, Client(*path) as other:
                    for cookie in range(waiting):
                        writer.write(cookie, cookie * len(data), data)
                    time.sleep(0.05)
                    client = other if state == "another connection" else writer
                    found.setdefault(state, []).append(client.flush_ms(waiting))
    return {"waiting": waiting, "rate": 10, "ms": found}


def burst(bench, rate=1000, most=5000, length=2, after=2):
    """A burst with a fresh rule, and one after the client was idle as long as the bucket needs."""
    idle = (most - rate) * length / rate
    rule = {"total_iops_sec": rate, "total_iops_sec_max": most, "total_iops_sec_max_length": length}
    rows, step = [], 50
    with bench.limits(**rule):
        for number in range(2):
            if number:
                time.sleep(idle)
            trace = bench.traced(READS, length + after + 0.2)
            begin, end = trace.first, trace.first + round((length + after) * 1000)
            curve = trace.curve(begin, end, step)
            rows.append({"max": trace.rate(begin + 100, begin + length * 1000 - 100),
                         # What was done beyond the rate, at the speed at which a burst does it.
                         "length": (trace.count(begin, end) - rate * (length + after)) / (most - rate),
                         "after": trace.rate(begin + length * 1000 + 100, end - 100), "curve": curve})
    return {"rule": rule, "idle": idle, "step_ms": step, "rows": rows}


PARTS = {"accuracy": accuracy, "volumes": volumes, "sharing": sharing, "change": change, "neighbour": neighbour,
         "unlimited": unlimited, "flush": flush, "burst": burst}
# The parts that need more volumes than one.
NEEDED = {Bench.FREE: {"neighbour", "unlimited"}, Bench.SECOND: {"volumes"}}


def rotated(names, number):
    """The same names, another first in each round, so that whatever the machine does meets all alike."""
    shift = number % len(names)
    return names[shift:] + names[:shift]


def milliseconds(seconds):
    return f"{round(seconds * 1000)}ms"


def now():
    """The system's clock in ms, as fio's logs have it."""
    return time.time_ns() // 1_000_000
