"""The figures in docs/QOS.md, which holds text of its own before them, and their pictures."""

import statistics

from comparison import plots
from comparison.errors import Failure
from comparison.figures import micros
from comparison.report import table

from .parts import KIB, MIB, PARTS
from .verdicts import verdicts

HEADING = "## Measured\n"
HEAD = """
[`benches/qos`](../benches/qos) wrote what follows. fio is the client, over NBD through a Unix socket; rates are counted from
its log of when each request was done. The pool is on a tmpfs and what is read is in cairn's cache, so that the limit
bounds what happens and not a disk. {client}

```sh
benches/qos --json qos.json --only accuracy
benches/qos --json qos.json --only 'volumes|sharing|change|neighbour|unlimited|flush|burst'
benches/qos --report-from qos.json --report docs
```

measures the same again. [fio-jobs/throttled-mixed.fio](../fio-jobs/throttled-mixed.fio) is a load to watch limits with.

"""


def write(found, folder):
    """Puts the figures into QOS.md of a folder and the pictures beside it; gives the page's path."""
    path = folder / "QOS.md"
    text, heading, _ = path.read_text().partition(HEADING)
    if not heading:
        raise Failure(f"{path} has no heading “{HEADING.strip()}”, below which the figures go")
    (folder / "benchmarks").mkdir(exist_ok=True)
    client = "" if found["client_cpu"] == "any" else f"fio runs on CPU {found['client_cpu']} only."
    page = [text, HEADING, HEAD.format(client=client)]
    page.append(table(["", ""], [[title, value] for title, value in found["machine"].items()], right=False))
    names = [name for name in PARTS if name in found["parts"]]
    judged = [verdict for name in names for verdict in verdicts(name, found["parts"][name])]
    page.append(f"{sum(verdict.holds() for verdict in judged)} of {len(judged)} targets are met.\n\n")
    page.append(table(["figure (target)", ""],
                      [[verdict.text, "met" if verdict.holds() else "**not met**"] for verdict in judged], right=False))
    page += [_PAGE[name](found["parts"][name], folder / "benchmarks") for name in names]
    path.write_text("".join(page).rstrip() + "\n")
    return path


def _accuracy(found, folder):
    picture, axes = _axes(1, 2.6, "Error of a limit under full pressure")
    for kind, color, marker, aside in (("read", plots.OURS, "o", -0.1), ("write", plots.PEER, "s", 0.1)):
        for at, key in enumerate(("iops", "bytes")):
            rows = [row for row in found["rows"] if (row["kind"], row["limit"]) == (kind, key)]
            axes[0].plot([at * 6 + i + aside for i in range(len(rows))], [row["error"] * 100 for row in rows], marker,
                         color=color, label=f"{kind}s" if at else None)
    rates = {key: list(dict.fromkeys(row["rate"] for row in found["rows"] if row["limit"] == key)) for key in ("iops", "bytes")}
    axes[0].set_xticks([at * 6 + i for at, key in enumerate(rates) for i in range(len(rates[key]))],
                       [_limit(key, rate) for key in rates for rate in rates[key]], fontsize=8)
    axes[0].axhspan(-2, 2, color=plots.FAINT, alpha=0.5, linewidth=0)
    axes[0].set_ylim(-4, 4)
    axes[0].set_ylabel("percent")
    axes[0].legend(frameon=False, loc="upper right", ncols=2)
    plots.save(picture, folder / "qos-accuracy.svg", "Error of a limit under full pressure")
    rows = [[_limit(row["limit"], row["rate"]), row["kind"], f"{row['size'] // KIB} KiB", f"{row['due']:,.6g}",
             f"{row['reached']:,.1f}", f"{row['error']:+.2%}", f"{row['due'] / 10:,.6g}", f"{row['least']:,}…{row['most']:,}"]
            for row in found["rows"]]
    free = ", ".join(f"{name.split()[0]}s of {int(name.split()[1]) // KIB} KiB {rate:,.0f}"
                     for name, rate in found["unlimited"].items())
    return (f"### Accuracy\n\nOne limit at a time (`total_iops_sec`, `total_bytes_sec`), 32 requests in flight, "
            f"{found['seconds']} s from the first request's end on. The first request is free, and up to 20 ms of the rate "
            "after it: that is what there is too much. Beside each rate is what 100 ms should hold, and the least and most "
            f"that any did. Without limits this machine does, requests a second: {free}.\n\n"
            "![Error of a limit under full pressure](benchmarks/qos-accuracy.svg)\n\nGrey is what the target allows.\n\n"
            + table(["limit", "", "requests of", "due/s", "done/s", "error", "due in 100 ms", "least…most"], rows, right=True))


def _volumes(found, _):
    rows = [[f"`{_rule(row['rule'])}`", f"{row['job']}, {row['size'] // KIB} KiB", f"{row['due']:,}", f"{row['reached']:,.1f}",
             f"{row['error']:+.2%}", f"{row['least']:,}…{row['most']:,}"] for row in found["rows"]]
    return "### Two volumes at once\n\n" + table(["limit", "load", "due/s", "done/s", "error", "in 100 ms"], rows, right=True)


def _sharing(found, _):
    text = "### Connections of one volume\n\nThree processes of fio read from one shared volume at the same time.\n\n"
    for case in found["cases"]:
        byte = "bytes" in _rule(case["rule"])
        rows = [[f"{row['size'] // KIB} KiB", str(row["depth"]),
                 f"{row['rate'] / MIB:,.1f} MiB" if byte else f"{row['rate']:,.1f}", f"{row['share']:.1%}"]
                for row in case["rows"]]
        text += f"`{_rule(case['rule'])}`:\n\n" + table(["requests of", "in flight", "a second", "share"], rows, right=True)
    return text


def _change(found, folder):
    title = "Rates, and the limits that were set meanwhile"
    picture, axes = _axes(len(found["cases"]), 2.2, title)
    text = ""
    for axis, case in zip(axes, found["cases"]):
        byte = "bytes" in case["key"]
        scale = case["unit"] / MIB if byte else 1
        times = [at * case["step_ms"] / 1000 for at in range(len(case["curve"]) + 1)]
        ends = [*(at / 1000 for at in case["times"]), times[-1]]
        axis.stairs([max(value, 1e-9) * scale for value in case["curve"]], times, baseline=None, color=plots.OURS, linewidth=1.2)
        for begin, end, rate in zip(ends, ends[1:], case["rates"]):
            axis.plot([begin, end], [rate / MIB if byte else rate] * 2, color=plots.INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.set_yscale("log")
        axis.set_ylim(min(case["rates"]) / (MIB if byte else 1) / 3, max(case["rates"]) / (MIB if byte else 1) * 3)
        axis.set_xlim(0, times[-1])
        axis.set_title(f"{'MiB' if byte else 'requests'} a second in each {case['step_ms']} ms", loc="left", fontsize=9.5)
        rows = [[f"{_limit(key, step['before'])} → {_limit(key, step['rate'])}", f"{step['took_ms']}",
                 *(["never", "–"] if step["settled_ms"] is None else [f"{step['settled_ms']}", f"{step['stays']:.0%}"])]
                for step in case["steps"] for key in ["bytes" if byte else "iops"]]
        text += table([f"`{case['key']}`", "command, ms", "in force after, ms", "of what follows"], rows, right=True)
    axes[-1].set_xlabel("seconds")
    plots.save(picture, folder / "qos-change.svg", title)
    return ("### A change while fio runs\n\n32 requests in flight. Times are from the start of the command `cairn qos set`, in "
            "ms: how long it took, and after how long the next 100 ms had the new rate within 10 %. “Of what follows” is the "
            "part of all 100 ms from then to the next change that did, too: what is missing are moments in which this machine "
            f"did less, and the 20 ms of the rate that may follow on them.\n\n![{title}](benchmarks/qos-change.svg)\n\n"
            "Dashed are the limits.\n\n" + text)


def _neighbour(found, _):
    rounds = len(next(iter(found["figures"].values())))
    rows = [[state, *(f"{statistics.median(sample[i] for sample in samples):,.0f}" for i in (0, 1, 2)),
             "{:,.0f}…{:,.0f}".format(*(f(sample[2] for sample in samples) for f in (min, max)))]
            for state, samples in found["figures"].items()]
    return (f"### An unlimited neighbour\n\n{found['job']} at {found['wanted']:,} a second on a volume without limits: "
            f"alone; beside a volume that is held to {found['held']} requests of 16 KiB a second and always has 128 in "
            "flight; and beside one of which fio itself asks for no more than that, so that nothing waits. Medians of "
            f"{rounds} rounds that take turns.\n\n"
            + table(["", "IOPS", "mean µs", "p99 µs", "p99 min…max"], rows, right=True))


def _unlimited(found, _):
    rows = [[f"{job}, {state}", f"{statistics.median(samples[job]):,.0f}", f"{min(samples[job]):,.0f}…{max(samples[job]):,.0f}"]
            for job in next(iter(found["figures"].values())) for state, samples in found["figures"].items()]
    return ("### What volumes without limits pay\n\nA volume that never had limits, one whose limits were cleared, and, to "
            "compare, one whose limit of 10^9 operations a second is looked at for every request. Medians of rounds that "
            "take turns.\n\n" + table(["", "IOPS", "min…max"], rows, right=True))


def _flush(found, _):
    rows = [[state, micros(statistics.median(times) * 1000), micros(max(times) * 1000)] for state, times in found["ms"].items()]
    return (f"### A flush behind waiting writes\n\n{found['waiting']} writes, of which all but the first wait for a limit of "
            f"{found['rate']} a second, then a flush; {len(next(iter(found['ms'].values())))} times.\n\n"
            + table(["the flush's connection", "median µs", "longest µs"], rows, right=True))


def _burst(found, folder):
    title = "A burst, and the rate after it"
    picture, axes = _axes(1, 2.2, title)
    for row, color, name in zip(found["rows"], (plots.PEER, plots.OURS), ("fresh", f"after {found['idle']:g} s idle")):
        times = [at * found["step_ms"] / 1000 for at in range(len(row["curve"]) + 1)]
        axes[0].stairs(row["curve"], times, baseline=None, color=color, label=name, linewidth=1.2)
    axes[0].set_ylim(0, None)
    axes[0].set_xlabel("seconds")
    axes[0].set_ylabel("requests a second")
    axes[0].legend(frameon=False)
    plots.save(picture, folder / "qos-burst.svg", title)
    rows = [[name, f"{row['max']:,.1f}", f"{row['length']:.2f}", f"{row['after']:,.1f}"]
            for name, row in zip(("a fresh rule", f"after {found['idle']:g} s idle"), found["rows"])]
    return (f"### Bursts\n\n`{_rule(found['rule'])}`, 32 in flight. {found['idle']:g} s of idleness fill the bucket again.\n\n"
            f"![{title}](benchmarks/qos-burst.svg)\n\n"
            + table(["", "in the burst/s", "length, s", "after it/s"], rows, right=True))


def _axes(panels, tall, title):
    """A picture of panels above each other, in inches."""
    height = 0.5 + panels * tall
    picture, axes = plots.pyplot().subplots(panels, figsize=(plots.WIDTH, height), facecolor=plots.CARD, squeeze=False)
    picture.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    for axis in axes[:, 0]:
        axis.set_facecolor(plots.CARD)
        axis.grid(axis="y", color=plots.FAINT, linewidth=0.6)
        axis.set_axisbelow(True)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(plots.FAINT)
    picture.subplots_adjust(left=0.1, right=0.97, top=1 - 0.7 / height, bottom=0.5 / height, hspace=0.4)
    return picture, axes[:, 0]


def _limit(key, rate):
    if key == "iops":
        return f"{rate:,}/s"
    return f"{rate // (1 << 30)} GiB/s" if rate >= 1 << 30 else f"{rate // MIB} MiB/s"


def _rule(rule):
    return " ".join(f"{key}={value // MIB}M" if "bytes" in key else f"{key}={value}" for key, value in rule.items())


_PAGE = {"accuracy": _accuracy, "volumes": _volumes, "sharing": _sharing, "change": _change, "neighbour": _neighbour,
         "unlimited": _unlimited, "flush": _flush, "burst": _burst}
