"""Processes that were started here: how they end, their CPU time and memory."""

import os
import pathlib
import signal
import subprocess
import threading
import time

# Clock ticks a second, the unit of CPU times in /proc.
TICKS = os.sysconf("SC_CLK_TCK")
# How long a server may take to end by itself, in seconds.
PATIENCE = 60


class Process:
    """A server, in a session of its own so that a Ctrl-C meant for the comparison does not reach it first."""

    def __init__(self, command, log):
        self.log = log
        with open(log, "wb") as out:
            self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=subprocess.STDOUT, start_new_session=True)

    def has_ended(self):
        return self.child.poll() is not None

    def said(self):
        return self.log.read_text(errors="replace").strip()

    def stop(self):
        if not self.has_ended():
            self.child.terminate()
            try:
                self.child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    @property
    def pid(self):
        return self.child.pid

    def cpu_seconds(self):
        """User and system time of all its threads and children, those that have ended included."""
        return sum(_cpu_ticks(pid) for pid in self._tree()) / TICKS

    def peak_memory(self):
        """Bytes of memory at the highest, its own and its children's."""
        return sum(_peak_memory(pid) for pid in self._tree())

    def _tree(self):
        found, unseen = [], [self.pid]
        while unseen:
            pid = unseen.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                unseen.extend(int(child) for child in _read(task).split())
        return found


class Daemon(Process):
    """A server that insists on going to the background, and leaves its number in a file."""

    def __init__(self, command, log, pid_file):
        pid_file.unlink(missing_ok=True)
        super().__init__(command, log)
        self.child.wait(PATIENCE)
        self.daemon = None
        # The file is written after the parent has ended.
        deadline = time.monotonic() + PATIENCE
        while self.child.returncode == 0 and not self.daemon and time.monotonic() < deadline:
            self.daemon = int(_read(pid_file).strip() or 0)
            time.sleep(0.01)

    @property
    def pid(self):
        return self.daemon

    def has_ended(self):
        return not self.daemon or not pathlib.Path(f"/proc/{self.daemon}").exists()

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + PATIENCE
            if not self.has_ended():
                os.kill(self.daemon, number)
            while not self.has_ended() and time.monotonic() < deadline:
                time.sleep(0.01)


class PeakMemory:
    """Watches a server that starts processes for its clients, whose memory cannot be asked for when they have ended."""

    PERIOD = 0.2

    def __init__(self, process):
        self.process = process
        self.peak = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self._look()

    def _watch(self):
        while not self.ended.wait(self.PERIOD):
            self._look()

    def _look(self):
        self.peak = max(self.peak, self.process.peak_memory())


def _read(path):
    """A file of /proc; nothing where the process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _cpu_ticks(pid):
    # The second field is the program's name and may hold anything; it ends with the last parenthesis.
    fields = _read(pathlib.Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    # utime, stime, cutime, cstime are fields 14 to 17 of all, see proc(5).
    return sum(int(field) for field in fields[11:15])


def _peak_memory(pid):
    for line in _read(pathlib.Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
