"""docs/BENCHMARKS.md and its pictures."""

from . import plots
from .figures import mebibytes, micros, spread, times
from .rows import CAIRN
from .servers import ALL

HEAD = """\
# Benchmarks

`benches/compare` wrote this page: cairn and its peers, side by side on one machine, over NBD through Unix sockets, with
fio as the client. Every figure is the median of {rounds}, in each of which all servers of a row were measured one after
the other in rotating order; thin lines in the pictures and “min…max” in the tables are the spread. Each run lasts
{seconds} s after a short one that does not count, on a disk of {size} GiB filled with data, with the server started
anew. {client}

```sh
{command}
```

measures the same again. To judge a ratio look at the spread, too: on a shared machine it may be the larger of the two.

## Machine and versions

"""

TARGETS = """\
## Targets

Each in multiples of another server's figure; {met} of {all} are met. Beside one that is not is what a yardstick reached in
cairn's place: without an engine, or without data. [ARCHITECTURE.md](ARCHITECTURE.md#what-bounds-the-figures-that-are-missed)
says what bounds them.

"""

FOOT = """\
## How to read this

- **cached**: all of the disk was read once before. cairn then reads from its own cache, with the size that it has by
  default; nbdkit's file plugin and nbd-server from the kernel's page cache; the others have none.
  **nothing cached**: `O_DIRECT` for all, and cairn runs with `read_cache = 0`.
- nbdkit's file plugin and nbd-server write to the page cache: until a flush nothing is on the disk. What is in the page
  cache counts neither as their memory nor, when the kernel writes it back, as their CPU time.
- **CPU µs/op** is the user and system time of all the server's threads and child processes during the run, for one request. The
  client's is not in it, nor is fio's own where it runs without a server.
- **MiB** is the most memory that the server's process had in the row's runs (`VmHWM`): cairn's has its read cache in it.
- Latency is from sending a request to its reply, as fio sees it; with flushes, that of a write and its flush together
  (p99: the sum of both).
- Before the measurement after a snapshot come {seconds} s of the same writes. `cairn snapshot create` runs while cairn serves;
  for qcow2 qemu-nbd is stopped, `qemu-img snapshot -c` makes an internal snapshot, and it is started again.
- Flushes by 8 connections come from 8 processes of fio, each on an eighth of the disk.
"""


def _client(cpu):
    if cpu == "any":
        return "fio and the servers may run on every CPU."
    return (f"fio runs on CPU {cpu} only, the servers on every CPU: the scheduler of a virtual machine otherwise keeps "
            "both on one CPU now and then, for a whole run (`--client-cpu any` shows it).")


def write(results, folder):
    """Writes BENCHMARKS.md and benchmarks/*.svg into a folder; gives the page's path."""
    pictures = plots.draw(results, folder / "benchmarks")
    settings = results.settings
    rounds = "one round" if settings["rounds"] == 1 else f"{settings['rounds']} rounds"
    page = [HEAD.format(**{**settings, "rounds": rounds, "client": _client(settings["client_cpu"])})]
    page.append(table(["", ""], [[title, text] for title, text in results.machine.items()], right=False))
    page.append(_contestants(results))
    page.append(_targets(results))
    page.append("## Pictures\n\nOrange is cairn, blue are its peers, grey are yardsticks.\n\n"
                + "".join(f"![{title}](benchmarks/{file})\n\n" for file, title, _ in pictures))
    page.append("## All figures\n\n" + "".join(_row(results, row) for row in results.rows()))
    page.append(FOOT.format(**settings))
    path = folder / "BENCHMARKS.md"
    path.write_text("".join(page))
    return path


def _contestants(results):
    taking_part = {name for row in results.rows() for name in results.servers(row)}
    rows = []
    for kind in ALL:
        if kind.name in taking_part:
            role = "" if kind.name == CAIRN else "yardstick" if kind.yardstick else "peer"
            rows.append([kind.name, role, kind.about, mebibytes(results.memory(kind.name))])
    return "## Who takes part\n\n" + table(["", "", "", "peak memory, MiB"], rows, right=False)


def _targets(results):
    rows = []
    for row in results.rows():
        for verdict in results.verdicts(row):
            ceilings = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in verdict.yardsticks.items())
            missed = f"**not met**; {ceilings}" if ceilings else "**not met**"
            rows.append([f"{row.file_system}: {row.title}", verdict.text(), "met" if verdict.holds() else missed])
    if not rows:
        return ""
    met = sum(row[2] == "met" for row in rows)
    text = TARGETS.format(met=met, all=len(rows))
    return text + table(["work", "cairn's figure (target)", ""], rows, right=False)


def _row(results, row):
    ours = results.median(row, CAIRN) if CAIRN in results.servers(row) else None
    rows = []
    for name in results.servers(row):
        rate = results.median(row, name)
        mean, p99, cpu = (micros(results.median(row, name, figure)) for figure in ("mean_us", "p99_us", "cpu_us"))
        memory = max((m for m in results.values(row, name, "memory") if m), default=None)
        rows.append([name, f"{rate:,.0f}", spread(results.values(row, name, "rate")),
                     times(ours, rate) if ours else "–", mean, p99, cpu, mebibytes(memory)])
    header = ["", row.unit, "min…max", "cairn /", "mean µs", "p99 µs", "CPU µs/op", "MiB"]
    return f"### {row.file_system}: {row.title}\n\n" + _before(results, row) + table(header, rows, right=True)


def _before(results, row):
    if not row.snapshot:
        return ""
    before = ", ".join(f"{name} {results.median(row, name, 'before'):,.0f}" for name in results.servers(row))
    return f"Right before the snapshot: {before} {row.unit}.\n\n"


def table(header, rows, right):
    """A table of Markdown."""
    align = "---:" if right else "---"
    lines = [header, ["---", *[align] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
