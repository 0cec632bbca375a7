"""What the figures are to be."""

import dataclasses
import math
import statistics

from .parts import OPS

# The targets: errors as shares, times in ms, ratios.
RATE_ERROR, EXCESS, SHARE_ERROR, CHANGE_MS, FLUSH_MS, SAME = 0.02, 0.2, 0.05, 100, 20, 0.05


@dataclasses.dataclass
class Verdict:
    """A figure against its target."""

    text: str
    # In multiples of what the target allows.
    distance: float

    def holds(self, slack=1.0):
        return self.distance <= slack


def verdicts(part, found):
    return list(_OF[part](found))


def _accuracy(found):
    for key, name in (("iops", "operations"), ("bytes", "bytes")):
        rows = [row for row in found["rows"] if row["limit"] == key]
        yield _largest(f"{name}: largest error of {len(rows)} runs of {found['seconds']} s", rows, RATE_ERROR)
    # Of the rates from which 100 ms hold enough requests to judge; the first request of a run is not among them.
    rows = [row for row in found["rows"] if OPS[2] <= row["due"] <= OPS[3]]
    if rows:
        worst = max(row["most"] / row["due"] * 10 - 1 for row in rows)
        yield Verdict(f"evenness: no 100 ms has more than {worst:.0%} too much, at 1,000 to 10,000 requests a second "
                      f"(at most {EXCESS:.0%}, the 20 ms that a bucket holds)", worst / EXCESS)


def _volumes(found):
    yield _largest("two volumes at once: larger error", found["rows"], RATE_ERROR)


def _largest(name, rows, allowed):
    worst = max(abs(row["error"]) for row in rows)
    return Verdict(f"{name} {worst:.2%} (at most {allowed:.0%})", worst / allowed)


def _sharing(found):
    for case in found["cases"]:
        fair = 1 / len(case["rows"])
        worst = max(abs(row["share"] / fair - 1) for row in case["rows"])
        yield Verdict(f"connections of one volume, {_only(case['rule'])}: farthest from an equal part {worst:.1%} "
                      f"(at most {SHARE_ERROR:.0%})", worst / SHARE_ERROR)
        yield _largest(f"all of them together, {_only(case['rule'])}: error", [case], RATE_ERROR)


def _change(found):
    for case in found["cases"]:
        times = [math.inf if step["settled_ms"] is None else step["settled_ms"] for step in case["steps"]]
        yield Verdict(f"{case['key']} changed {len(times)} times: in force after {max(times):.0f} ms at the latest "
                      f"(at most {CHANGE_MS})", max(times) / CHANGE_MS)


def _neighbour(found):
    medians = {state: statistics.median(sample[2] for sample in samples) for state, samples in found["figures"].items()}
    for state in ("alone", "as much, not throttled"):
        more = medians["throttled"] / medians[state] - 1
        yield Verdict(f"p99 of a neighbour without limits beside a throttled volume, against {state}: {more:+.1%} "
                      f"(at most {SAME:+.0%})", more / SAME)


def _unlimited(found):
    base, *others = found["figures"]
    for state in others:
        for job, samples in found["figures"][state].items():
            less = 1 - statistics.median(samples) / statistics.median(found["figures"][base][job])
            yield Verdict(f"{job}, {state}: {-less:+.1%} IOPS against {base} (at least {-SAME:+.0%})", less / SAME)


def _flush(found):
    for state, times in found["ms"].items():
        yield Verdict(f"flush, {state}: {max(times):.1f} ms at most (at most {FLUSH_MS})", max(times) / FLUSH_MS)


def _burst(found):
    rate, most, length = found["rule"].values()
    for name, row in zip(("fresh", f"after {found['idle']:g} s idle"), found["rows"]):
        error = max(abs(row["max"] / most - 1), abs(row["after"] / rate - 1))
        yield Verdict(f"burst, {name}: {row['max']:,.0f} a second for {row['length']:.2f} s, then {row['after']:,.0f} "
                      f"(within {RATE_ERROR:.0%} of {most:,} and {rate:,})", error / RATE_ERROR)
        yield Verdict(f"burst, {name}: {row['length']:.2f} s long ({length} s within 5 %)", abs(row["length"] / length - 1) / 0.05)


def _only(rule):
    (key, value), = rule.items()
    return f"{key}={value}"


_OF = {"accuracy": _accuracy, "volumes": _volumes, "sharing": _sharing, "change": _change, "neighbour": _neighbour,
       "unlimited": _unlimited, "flush": _flush, "burst": _burst}
