"""A run of fio, and when each of its requests was done."""

import array
import bisect
import contextlib
import pathlib
import tempfile

from comparison import fio

# Rates are judged by how much passes in so many ms.
WINDOW = 100


class Load:
    """fio with fio-jobs/JOB.fio under way. Its log has a line for each request, in ms of the system's clock."""

    def __init__(self, stack, job, target, **options):
        """It ends with `stack` if it has not ended before."""
        self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-qos-")))
        self.run = fio.Run(job, target, self.folder, ramp_time=0, write_iops_log=self.folder / "done",
                           log_unix_epoch=1, **options)
        stack.callback(self.run.end)

    def trace(self):
        self.run.report()
        return Trace(self.folder / "done_iops.1.log")


class Trace:
    """The moments at which requests of one size were done."""

    def __init__(self, path):
        with open(path) as log:
            self.moments = array.array("q", (int(line.partition(",")[0]) for line in log))

    @property
    def first(self):
        return self.moments[0]

    def count(self, begin, end):
        """How many from `begin` on, and before `end`."""
        return bisect.bisect_left(self.moments, end) - bisect.bisect_left(self.moments, begin)

    def rate(self, begin, end):
        """Requests a second."""
        return self.count(begin, end) * 1000 / (end - begin)

    def extremes(self, begin, end):
        """The least and the most in a window, of those that follow each other."""
        counts = [self.count(at, at + WINDOW) for at in range(begin, end - WINDOW + 1, WINDOW)]
        return min(counts), max(counts)

    def curve(self, begin, end, step):
        """The rate in each step of so many ms."""
        return [round(self.rate(at, at + step), 1) for at in range(begin, end - step + 1, step)]


def traced(job, target, **options):
    """Runs fio to its end."""
    with contextlib.ExitStack() as stack:
        return Load(stack, job, target, **options).trace()
