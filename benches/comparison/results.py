"""Samples, their medians, and whether targets are met."""

import statistics
from dataclasses import asdict, dataclass

from .rows import BEST, BY_ID, CAIRN, CPU, ITSELF, LATENCY

VERSION = 1


@dataclass
class Sample:
    """One run of one server at one row's work."""

    rate: float  # in the row's unit
    mean_us: float
    p99_us: float
    cpu_us: float | None = None  # computing time of the server for one operation
    memory: int | None = None  # bytes at the highest
    before: float | None = None  # the rate before the snapshot, where there is one


@dataclass(frozen=True)
class Verdict:
    """How cairn stands to one target."""

    target: object
    ratio: float
    against: str  # the peer that the best one was
    yardsticks: dict  # the same ratio with each of the row's yardsticks in cairn's place

    def holds(self, slack=1.0):
        """Whether the target is met; with less than all of it asked for when `slack` is below 1."""
        if self.target.at_least:
            return self.ratio >= self.target.factor * slack
        return self.ratio <= self.target.factor / slack

    def text(self):
        sign = "≥" if self.target.at_least else "≤"
        what = {LATENCY: "latency ", CPU: "CPU "}.get(self.target.of, "")
        return f"{what}{self.ratio:.2f}x {self.against} ({sign} {self.target.factor:g}x)"


class Results:
    """All samples by row and server, with what they were measured on and how."""

    def __init__(self, machine, settings, samples=None):
        self.machine = machine
        self.settings = settings
        self.samples = samples or {}

    def add(self, row, server, sample):
        self.samples.setdefault(row.id, {}).setdefault(server, []).append(sample)

    def rows(self):
        return [BY_ID[row] for row in self.samples]

    def servers(self, row):
        """Who has figures, in the row's order."""
        return [name for name in row.servers if name in self.samples[row.id]]

    def values(self, row, server, figure):
        return [getattr(sample, figure) for sample in self.samples[row.id][server]]

    def median(self, row, server, figure="rate"):
        values = self.values(row, server, figure)
        return None if None in values else statistics.median(values)

    def memory(self, server):
        """The most that a server had in any run, in bytes."""
        found = [s.memory for row in self.samples.values() for s in row.get(server, []) if s.memory]
        return max(found, default=None)

    def verdicts(self, row):
        return [v for v in (self._verdict(row, target) for target in (*row.targets, *row.cpu_targets)) if v]

    def _verdict(self, row, target):
        figure = {LATENCY: "mean_us", CPU: "cpu_us"}.get(target.of, "rate")
        taking_part = self.servers(row)
        if CAIRN not in taking_part:
            return None
        ours = self.median(row, CAIRN, figure)
        if target.against == ITSELF:
            return Verdict(target, ours / self.median(row, CAIRN, "before"), ITSELF, {})
        if target.against == BEST:
            figures = {name: self.median(row, name, figure) for name in taking_part if name in row.peers}
            if not figures:
                return None
            against = (max if target.at_least else min)(figures, key=figures.get)
        elif target.against in taking_part:
            against = target.against
        else:
            return None
        theirs = self.median(row, against, figure)
        if not theirs:
            return None
        yardsticks = {name: self.median(row, name, figure) for name in row.yardsticks if name in taking_part}
        ratios = {name: value / theirs for name, value in yardsticks.items() if value and name != against}
        return Verdict(target, ours / theirs, against, ratios)

    def to_json(self):
        rows = {row: {server: [asdict(s) for s in samples] for server, samples in servers.items()}
                for row, servers in self.samples.items()}
        return {"version": VERSION, "machine": self.machine, "settings": self.settings, "rows": rows}

    @classmethod
    def from_json(cls, data):
        rows = {row: {server: [Sample(**s) for s in samples] for server, samples in servers.items()}
                for row, servers in data["rows"].items() if row in BY_ID}
        return cls(data["machine"], data["settings"], rows)
