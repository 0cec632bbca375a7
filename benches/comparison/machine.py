"""What the figures were measured on and with. Neither paths nor the host's name are among it."""

import os
import pathlib
import re
import subprocess

from .errors import Failure
from .servers import ROOT, TOKIO_URING

VERSIONS = {
    "fio": ["fio", "--version"],
    "nbdkit": ["nbdkit", "--version"],
    "qemu-nbd": ["qemu-nbd", "--version"],
    "nbd-server": ["nbd-server", "--version"],
}


def describe(places):
    """A dictionary of titles and texts, in the order in which they are shown."""
    memory = int(_first(r"MemTotal:\s+(\d+)", _read("/proc/meminfo")) or 0) >> 20
    system = _first(r'PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release")) or "Linux"
    facts = {
        "processor": _first(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo")) or os.uname().machine,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory} GiB",
        "system": f"{system}, kernel {os.uname().release}",
    }
    for name, folder in places.items():
        facts[f"file system of “{name}”"] = _storage(folder)
    facts["cairn"] = f"commit {_commit()}"
    for name, command in VERSIONS.items():
        found = _first(r"(\d+\.\d[\d.]*)", _output(command))
        if found:
            facts[name] = found
    lock = _read(ROOT / TOKIO_URING / "Cargo.lock")
    facts["tokio-uring"] = _first(r'name = "tokio-uring"\nversion = "([^"]+)', lock) or "unknown"
    return facts


def check_direct(folder):
    """Fails unless files there can be opened past the page cache."""
    path = folder / "direct"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600))
    except OSError as error:
        raise Failure(f"{folder} has no O_DIRECT ({error.strerror}), which most of what is compared uses. tmpfs has it "
                      "from Linux 6.6 on; --only disk leaves tmpfs out") from error
    finally:
        path.unlink(missing_ok=True)


def _storage(folder):
    best, kind = "", "unknown"
    for line in _read("/proc/self/mounts").splitlines():
        _, mount, found, *_ = line.split()
        if len(mount) >= len(best) and pathlib.Path(mount) in (folder, *folder.parents):
            best, kind = mount, found
    number = os.stat(folder).st_dev
    device = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not device.exists():
        return kind
    device = device.resolve()
    if (device / "partition").exists():
        device = device.parent
    model = _read(device / "device" / "model").strip()
    if not model and device.name.startswith("vd"):
        model = "virtio disk"
    spinning = _read(device / "queue" / "rotational").strip() == "1"
    return f"{kind} on {model or 'a block device of unknown model'}{', said to rotate' if spinning else ''}"


def _commit():
    found = _output(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]).strip()
    changed = _output(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]).strip()
    return (found or "unknown") + (" with changes" if changed else "")


def _read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def _output(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError:
        return ""
    return done.stdout + done.stderr


def _first(pattern, text):
    found = re.search(pattern, text)
    return found and found.group(1)
