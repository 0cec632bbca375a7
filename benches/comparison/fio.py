"""Runs of fio, with the job files that users run."""

import configparser
import json
import os
import pathlib
import subprocess

from .errors import Failure

JOBS = pathlib.Path(__file__).resolve().parents[2] / "fio-jobs"


class Report:
    """What fio says of a run, in the units of the tables."""

    def __init__(self, text):
        job = json.loads(text)["jobs"][0]
        part = max((job["read"], job["write"]), key=lambda part: part["total_ios"])
        self.ops = part["total_ios"]
        self.iops = part["iops"]
        self.mib_s = part["bw_bytes"] / (1 << 20)
        latency, tail = part["clat_ns"]["mean"], part["clat_ns"]["percentile"]["99.000000"]
        sync = job["sync"]
        if sync["total_ios"]:
            # A write and its flush. The sum of the tails is a bound for the tail of the sum.
            latency += sync["lat_ns"]["mean"]
            tail += sync["lat_ns"]["percentile"]["99.000000"]
        self.mean_us, self.p99_us = latency / 1000, tail / 1000
        self.tails_us = {kind: job[kind]["clat_ns"]["percentile"]["99.000000"] / 1000
                         for kind in ("read", "write") if job[kind]["total_ios"]}


class Run:
    """fio under way with fio-jobs/JOB.fio against a target, a dictionary of fio options, with more of them on top."""

    def __init__(self, job, target, folder, **options):
        settings = {**_settings(job), **target, **options}
        if "filename" in target:
            settings.pop("uri")
        path = folder / "job.fio"
        lines = [f"[{job}]", *(f"{key}={value}" for key, value in settings.items())]
        path.write_text("\n".join(lines) + "\n")
        self.job = job
        # Its own session: a Ctrl-C reaches the benchmark, which then ends it.
        self.process = subprocess.Popen(["fio", "--output-format=json", str(path)], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, start_new_session=True)

    def report(self):
        """Waits for the end."""
        try:
            out, err = self.process.communicate()
        except BaseException:
            self.end()
            raise
        start = out.find("{")
        if self.process.returncode != 0 or start < 0:
            raise Failure(f"fio {self.job} failed:\n{out[:start] if start >= 0 else out}{err}".rstrip())
        return Report(out[start:])

    def end(self):
        """Ends it early, if it has not ended."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate()


def run(job, target, folder, **options):
    """Runs fio to its end, as `Run`; gives what it says."""
    return Run(job, target, folder, **options).report()


def _settings(job):
    """A job file with one job, its [global] section and the job's in one."""
    parser = configparser.ConfigParser(interpolation=None, default_section="global")
    # fio's option names tell upper from lower case.
    parser.optionxform = str
    path = JOBS / f"{job}.fio"
    parser.read_string(path.read_text())
    (name,) = parser.sections()
    return dict(parser[name])


def file(path):
    """A target for plain fio, without a server: O_DIRECT through io_uring."""
    return {"ioengine": "io_uring", "direct": 1, "filename": os.fspath(path)}


def nbd(uri):
    """A target that is an NBD server."""
    return {"ioengine": "nbd", "uri": uri}
