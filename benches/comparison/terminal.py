"""The results for a terminal of 100 columns."""

from .figures import mebibytes, micros, spread, times
from .rows import CAIRN


def table(results, slack=1.0):
    """All rows; a target is near when `slack` of it is reached."""
    lines = []
    for row in results.rows():
        lines += [f"{row.title}, {row.file_system}", ""]
        lines.append(f"  {'':16}{row.unit:>10}{'min…max':>21}{'cairn /':>9}{'mean µs':>10}{'p99 µs':>10}"
                     f"{'CPU µs/op':>11}{'MiB':>8}")
        ours = results.median(row, CAIRN) if CAIRN in results.servers(row) else 0
        for name in results.servers(row):
            rate = results.median(row, name)
            mean, p99, cpu = (results.median(row, name, figure) for figure in ("mean_us", "p99_us", "cpu_us"))
            memory = max((m for m in results.values(row, name, "memory") if m), default=None)
            lines.append(f"  {name:16}{rate:>10,.0f}{spread(results.values(row, name, 'rate')):>21}"
                         f"{times(ours, rate):>9}{micros(mean):>10}{micros(p99):>10}{micros(cpu):>11}"
                         f"{mebibytes(memory):>8}")
        lines.append("")
        for verdict in results.verdicts(row):
            word = "met" if verdict.holds() else "near" if verdict.holds(slack) else "NOT MET"
            lines.append(f"  {word:8}{verdict.text()}")
        lines.append("")
    return "\n".join(lines)
