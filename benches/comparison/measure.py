"""The rounds: every row, every server of it, in turn."""

import dataclasses
import sys
import time

from . import fio
from .results import Sample
from .servers import BY_NAME

# Before what counts, so that buffers, maps and connections are in use.
SETTLE = "500ms"
# How long writes are measured after a snapshot: what the target says.
AFTER_SNAPSHOT = 4
# What a run takes besides its seconds, for the first estimate.
OVERHEAD_S = 1.7


class Rounds:
    """Disks on each file system, and the samples taken of them."""

    def __init__(self, places, rows, rounds, seconds, results, client_cpu):
        self.places = places
        self.rows = rows
        self.rounds = rounds
        self.seconds = seconds
        self.results = results
        self.client = {} if client_cpu == "any" else {"cpus_allowed": client_cpu}
        self.servers = {}
        self.done = 0
        self.total = rounds * sum(len(row.servers) for row in rows)
        self.started = None

    def run(self):
        try:
            self._prepare()
            self.started = time.monotonic()
            for number in range(self.rounds):
                for row in self.rows:
                    # Whatever else the machine does then meets all of them alike.
                    shift = number % len(row.servers)
                    for name in row.servers[shift:] + row.servers[:shift]:
                        self._sample(number, row, self.servers[row.file_system, name])
        finally:
            for server in self.servers.values():
                server.stop()

    def _prepare(self):
        wanted = dict.fromkeys((row.file_system, name) for row in self.rows for name in row.servers)
        for file_system, name in wanted:
            say(f"filling the disk of {name} on {file_system}")
            server = self.servers[file_system, name] = BY_NAME[name](self.places[file_system])
            server.prepare()

    def _sample(self, number, row, server):
        if row.in_order and number > 0:
            server.refill()
        server.start(cache=not row.cold)
        folder = server.place.sockets
        if row.warm:
            fio.run("seq-read-1m-qd8", server.target(), folder, time_based=0, ramp_time=0)
        sample = self._measure(row, server)
        if row.snapshot:
            server.snapshot()
            after = self._measure(row, server, AFTER_SNAPSHOT, settle=False)
            sample = dataclasses.replace(after, before=sample.rate)
            server.forget_snapshot()
        server.stop()
        self.results.add(row, server.name, sample)
        self.done += 1
        took = time.monotonic() - self.started
        left = took / self.done * (self.total - self.done)
        say(f"[{self.done:3}/{self.total}, {left / 60:4.1f} min left] round {number + 1}: {row.file_system:5} "
            f"{row.title:55.55} {server.name:14} {sample.rate:10,.0f} {row.unit}")

    def _measure(self, row, server, seconds=None, settle=True):
        folder = server.place.sockets
        if settle:
            fio.run(row.job, server.target(), folder, runtime=SETTLE, ramp_time=0, **self.client)
        before = server.cpu_seconds()
        report = fio.run(row.job, server.target(), folder, runtime=seconds or self.seconds, ramp_time=0, **self.client)
        cpu = None if before is None else (server.cpu_seconds() - before) / report.ops * 1e6
        rate = report.iops if row.unit == "IOPS" else report.mib_s
        return Sample(rate, report.mean_us, report.p99_us, cpu, server.peak_memory())


def estimate(rows, rounds, seconds):
    """Minutes that measuring will take, about."""
    runs = sum(len(row.servers) * (2 if row.snapshot else 1) for row in rows)
    return rounds * runs * (seconds + OVERHEAD_S) / 60


def say(text):
    print(text, file=sys.stderr, flush=True)
