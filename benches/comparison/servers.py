"""The programs that are compared. Each has one disk, which lives on while the server is started and stopped.

A server is started for every run, on the disk as earlier runs left it. Servers of plain files share one: they never run
at the same time, and what one leaves in the page cache is written and dropped before the next one starts.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

from . import fio
from .errors import Failure
from .processes import PATIENCE, Daemon, PeakMemory, Process

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKIO_URING = pathlib.Path("benches", "tokio-uring-server")


class Place:
    """Where disks are, and how large."""

    def __init__(self, folder, sockets, size_gib):
        self.folder = folder
        # Sockets are elsewhere because their paths may not be long.
        self.sockets = sockets
        self.size = size_gib << 30

    def raw_file(self):
        """The plain file that several servers serve, made and filled when it is asked for first."""
        path = self.folder / "raw.img"
        if not path.exists():
            with open(path, "wb") as file:
                file.truncate(self.size)
            fio.run("prefill", fio.file(path), self.sockets)
        return path

    def drop_raw_file_from_cache(self):
        path = self.folder / "raw.img"
        if path.exists():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Server:
    """What all have in common: a process on a Unix socket."""

    name = None
    # What the name leaves open, for the report.
    about = None
    # Programs that have to be there.
    needs = []
    # Whether it is a yardstick rather than something that people choose instead of cairn.
    yardstick = False
    export = ""
    forks = False

    def __init__(self, place):
        self.place = place
        self.socket = place.sockets / "nbd.sock"
        self.process = None
        self.watch = None

    def command(self):
        raise NotImplementedError

    def launch(self, log):
        return Process(self.command(), log)

    def prepare(self):
        """Makes and fills the disk."""
        self.place.raw_file()

    def refill(self):
        """Puts the disk into order again, after random writes, where it has an order of its own."""

    def start(self, cache=True):
        """Starts to serve; `cache` is whether a read cache of the server's own may be used."""
        del cache
        self.socket.unlink(missing_ok=True)
        self.process = self.launch(self.place.sockets / "log")
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process.has_ended() or time.monotonic() > deadline:
                raise Failure(f"{self.name} does not serve:\n{self.process.said()}")
            time.sleep(0.01)
        if self.forks:
            self.watch = PeakMemory(self.process).__enter__()

    def _answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(os.fspath(self.socket))
                return client.recv(8) == b"NBDMAGIC"
        except OSError:
            return False

    def target(self):
        return fio.nbd(f"nbd+unix:///{self.export}?socket={self.socket}")

    def cpu_seconds(self):
        return self.process.cpu_seconds()

    def peak_memory(self):
        return max(self.process.peak_memory(), self.watch.peak if self.watch else 0)

    def stop(self):
        if self.watch:
            self.watch.__exit__()
            self.watch = None
        if self.process:
            self.process.stop()
            self.process = None
        self.place.drop_raw_file_from_cache()

    def snapshot(self):
        """Takes a snapshot of the disk that is being written."""
        raise NotImplementedError

    def forget_snapshot(self):
        """Removes it again; called while the server runs."""
        raise NotImplementedError

    def fill(self):
        """Writes all of the disk in order, over NBD."""
        self.start()
        fio.run("prefill", self.target(), self.place.sockets)
        self.stop()


class Cairn(Server):
    name = "cairn"
    about = "checksums and journal on, O_DIRECT, every setting as it comes"
    needs = ["cairnd", "cairn"]
    export = "disk"

    def __init__(self, place):
        super().__init__(place)
        self.control = place.sockets / "control.sock"
        self.config = place.sockets / "cairnd.toml"

    def command(self):
        return [binary("cairnd"), "--config", self.config]

    def start(self, cache=True):
        read_cache = "" if cache else "[runtime]\nread_cache = 0\n"
        # Strings of JSON are strings of TOML, too.
        self.config.write_text(
            f"[pool]\npath = {json.dumps(str(self.place.folder / 'pool.cairn'))}\ncreate = true\n"
            f"[nbd]\nunix = [{json.dumps(str(self.socket))}]\n"
            f"[control]\nsocket = {json.dumps(str(self.control))}\n{read_cache}")
        super().start()

    def prepare(self):
        self.start()
        # Jobs of several connections are several processes of fio, which only a shared volume takes together.
        self.cairn("volume", "create", self.export, "--size", str(self.place.size), "--shared")
        self.stop()
        self.fill()

    def refill(self):
        self.fill()

    def snapshot(self):
        self.cairn("snapshot", "create", self.export, "moment")

    def forget_snapshot(self):
        self.cairn("snapshot", "delete", self.export, "moment")
        deadline = time.monotonic() + PATIENCE
        # What the snapshot kept is given back in the background, and must not be a burden on the next run.
        while self.cairn("pool", "status")["pending_deletes"] and time.monotonic() < deadline:
            time.sleep(0.1)

    def cairn(self, *arguments):
        """Runs our command-line program; gives the daemon's answer."""
        return json.loads(output([binary("cairn"), "--socket", self.control, "--json", *arguments]) or "null")


class NbdkitFile(Server):
    name = "nbdkit file"
    about = "the page cache, no checksums"
    needs = ["nbdkit"]

    def command(self):
        return ["nbdkit", "--foreground", "--unix", self.socket, "file", self.place.raw_file()]


class NbdkitMemory(Server):
    name = "nbdkit memory"
    about = "nothing is stored; it starts with an empty disk, which is filled before each run"
    needs = ["nbdkit"]

    def command(self):
        return ["nbdkit", "--foreground", "--unix", self.socket, "memory", f"size={self.place.size}"]

    def prepare(self):
        """There is nothing to be kept."""

    def start(self, cache=True):
        super().start()
        fio.run("prefill", self.target(), self.place.sockets)


class QemuRaw(Server):
    name = "qemu raw"
    about = "qemu-nbd, cache=none, aio=io_uring"
    needs = ["qemu-nbd", "qemu-img"]
    format = "raw"

    def disk(self):
        return self.place.raw_file()

    def command(self):
        options = ["--persistent", "--shared=16", "--cache=none", "--aio=io_uring", "--discard=unmap"]
        return ["qemu-nbd", *options, f"--format={self.format}", f"--socket={self.socket}", self.disk()]


class QemuQcow2(QemuRaw):
    name = "qemu qcow2"
    format = "qcow2"

    def disk(self):
        return self.place.folder / "disk.qcow2"

    def prepare(self):
        output(["qemu-img", "create", "-q", "-f", "qcow2", self.disk(), self.place.size])
        self.fill()

    def snapshot(self):
        # While the disk is not served: qemu-nbd itself cannot.
        self.stop()
        output(["qemu-img", "snapshot", "-c", "moment", self.disk()])
        self.start()

    def forget_snapshot(self):
        self.stop()
        output(["qemu-img", "snapshot", "-d", "moment", self.disk()])
        self.start()


class NbdServer(Server):
    name = "nbd-server"
    about = "the reference implementation, on the page cache"
    needs = ["nbd-server"]
    export = "disk"
    forks = True

    def command(self):
        config = self.place.sockets / "nbd-server.conf"
        config.write_text(f"[generic]\nunixsock = {self.socket}\n[{self.export}]\n"
                          f"exportname = {self.place.raw_file()}\nflush = true\n")
        return ["nbd-server", "-C", config, "-p", self._pid_file()]

    def launch(self, log):
        # In the foreground it would serve one client and end.
        return Daemon(self.command(), log, self._pid_file())

    def _pid_file(self):
        return self.place.sockets / "nbd-server.pid"


class Yardstick(Server):
    yardstick = True


class FioFile(Yardstick):
    name = "fio, no server"
    about = "fio's io_uring engine on the plain file, O_DIRECT"

    def start(self, cache=True):
        pass

    def target(self):
        return fio.file(self.place.raw_file())

    def cpu_seconds(self):
        return None

    def peak_memory(self):
        return None


class NullServer(Yardstick):
    name = "null server"
    about = "cairn's reactor and protocol, no data: what NBD itself costs"
    needs = ["null-server"]

    def command(self):
        return [binary("null-server"), self.socket, self.place.size >> 20]

    def prepare(self):
        """It holds nothing."""


class RawServer(Yardstick):
    name = "raw server"
    about = "cairn's reactor and protocol over the plain file, O_DIRECT, no engine"
    needs = ["raw-server"]

    def command(self):
        return [binary(self.needs[0]), self.socket, self.place.raw_file()]


class TokioUringServer(RawServer):
    name = "tokio-uring"
    about = "a minimal server of the plain file on tokio-uring, O_DIRECT"
    needs = ["tokio-uring-server"]


ALL = [Cairn, NbdkitFile, NbdkitMemory, QemuRaw, QemuQcow2, NbdServer, FioFile, RawServer, TokioUringServer, NullServer]
BY_NAME = {kind.name: kind for kind in ALL}

# How what is missing is had: Debian's package, or what builds it.
PACKAGES = {"fio": "fio", "nbdkit": "nbdkit", "qemu-nbd": "qemu-utils", "qemu-img": "qemu-utils", "nbd-server": "nbd-server"}
BUILD = "cargo build --release --workspace --bins"
BUILD_TOKIO_URING = f"cargo build --release --manifest-path {TOKIO_URING}/Cargo.toml"
OURS = {"cairn": BUILD, "cairnd": BUILD, "null-server": BUILD, "raw-server": BUILD, "tokio-uring-server": BUILD_TOKIO_URING}


def binary(name):
    """One of our programs: from CAIRN_BIN_DIR, else where cargo puts release builds."""
    targets = [ROOT / os.environ["CARGO_TARGET_DIR"]] if "CARGO_TARGET_DIR" in os.environ else []
    targets += [ROOT / "target", ROOT / TOKIO_URING / "target"]
    folders = [pathlib.Path(os.environ["CAIRN_BIN_DIR"])] if "CAIRN_BIN_DIR" in os.environ else []
    folders += [target / "release" for target in targets]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise Failure(f"{name} is not built: {OURS[name]}")


def check_programs(kinds):
    """Fails with all that is missing and how to get it."""
    packages, builds = set(), set()
    for name in ["fio", *(need for kind in kinds for need in kind.needs)]:
        if name in OURS:
            try:
                binary(name)
            except Failure:
                builds.add(OURS[name])
        elif not shutil.which(name):
            packages.add(PACKAGES[name])
    advice = [f"apt-get install {' '.join(sorted(packages))}"] if packages else []
    advice += sorted(builds)
    if advice:
        raise Failure("some of what is compared is missing; run\n" + "\n".join(f"    {line}" for line in advice))


def output(command):
    """Runs a short command; what it prints."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout
