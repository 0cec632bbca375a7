"""What is measured: each row of the tables, who takes part, and what cairn is to reach."""

from dataclasses import dataclass

from .servers import BY_NAME

CAIRN, NBDKIT, MEMORY = "cairn", "nbdkit file", "nbdkit memory"
QEMU, QCOW2, NBD_SERVER = "qemu raw", "qemu qcow2", "nbd-server"
FIO, RAW, TOKIO, NULL = "fio, no server", "raw server", "tokio-uring", "null server"

# Stands for whichever of the row's peers did best; yardsticks are not among them.
BEST = "best peer"
# Stands for cairn's own figure before the snapshot.
ITSELF = "itself before"

RATE, LATENCY, CPU = "rate", "latency", "cpu"


@dataclass(frozen=True)
class Target:
    """What cairn's figure is to be, in multiples of another's: at least that for rates, at most for the others."""

    against: str
    factor: float
    of: str = RATE

    @property
    def at_least(self):
        return self.of == RATE


@dataclass(frozen=True)
class Row:
    """One kind of work, on one kind of file system."""

    id: str
    title: str
    job: str
    file_system: str  # "ext4" for the disk, whatever it is formatted with, or "tmpfs"
    servers: tuple
    targets: tuple
    unit: str = "IOPS"  # or "MiB/s"
    # All of the disk is read once before: caches, whoever has them, are full.
    warm: bool = False
    # Without a read cache of the server's own.
    cold: bool = False
    # The disk is written in order before, where random writes disturbed that.
    in_order: bool = False
    # Measured again right after a snapshot.
    snapshot: bool = False

    @property
    def cpu_targets(self):
        """The time a server computes for an operation is to be below every peer's, where operations are small."""
        if "4k-qd32" not in self.job or self.snapshot:
            return ()
        return (Target(BEST, 1.0, CPU),)

    @property
    def peers(self):
        return [name for name in self.servers if name != CAIRN and not BY_NAME[name].yardstick]

    @property
    def yardsticks(self):
        return [name for name in self.servers if BY_NAME[name].yardstick]


def ratios(of=RATE, **factors):
    names = {"nbdkit": NBDKIT, "qemu": QEMU, "qcow2": QCOW2, "fio": FIO, "null": NULL, "best": BEST, "itself": ITSELF}
    return tuple(Target(names[name], factor, of) for name, factor in factors.items())


LATENCY_PEERS = (CAIRN, NBDKIT, MEMORY, QEMU, QCOW2, NBD_SERVER, NULL)
SMALL_ON_TMPFS = (CAIRN, NBDKIT, MEMORY, QEMU, NULL, RAW, TOKIO)
FLUSHING = (CAIRN, NBDKIT, QEMU, QCOW2, NBD_SERVER, FIO, RAW, NULL)
STREAMING = (CAIRN, FIO, QEMU, QCOW2, RAW, NULL)

# Streams first: random writes leave a disk in disorder, and snapshots behind them in more of it.
ROWS = [
    Row("disk-stream-write", "1 MiB stream of writes, depth 8", "seq-write-1m-qd8", "ext4", STREAMING,
        ratios(fio=0.95, qemu=1.5, qcow2=1.5), unit="MiB/s", in_order=True),
    Row("disk-stream-read", "1 MiB stream of reads, depth 8, nothing cached", "seq-read-1m-qd8", "ext4", STREAMING,
        ratios(fio=0.95, qemu=1.5, qcow2=1.5), unit="MiB/s", cold=True),
    Row("disk-stream-read-hot", "1 MiB stream of reads, depth 8, cached", "seq-read-1m-qd8", "ext4",
        (CAIRN, NBDKIT, NBD_SERVER), ratios(nbdkit=1.1), unit="MiB/s", warm=True),
    Row("disk-read", "4 KiB random read, depth 32, nothing cached", "rand-read-4k-qd32", "ext4",
        (CAIRN, FIO, QEMU, QCOW2, RAW, TOKIO, NULL), ratios(fio=0.9, qemu=1.1, qcow2=1.2), cold=True),
    Row("disk-read-hot", "4 KiB random read, depth 32, cached", "rand-read-4k-qd32", "ext4",
        (CAIRN, NBDKIT, NBD_SERVER, NULL), ratios(nbdkit=1.3), warm=True),
    Row("disk-write", "4 KiB random write, depth 32", "rand-write-4k-qd32", "ext4",
        (CAIRN, QCOW2, FIO, NBDKIT, QEMU, NBD_SERVER, RAW, TOKIO, NULL), ratios(qcow2=3.5, fio=2, nbdkit=1.3)),
    Row("disk-write-snapshot", "4 KiB random write, depth 32, in the 4 s after a snapshot", "rand-write-4k-qd32", "ext4",
        (CAIRN, QCOW2), ratios(itself=0.95, qcow2=20), snapshot=True),
    Row("disk-flush", "4 KiB write and flush, one at a time", "flush-write-4k-qd1", "ext4", FLUSHING, ratios(best=1)),
    Row("disk-flush-8", "4 KiB write and flush, 8 connections", "flush-write-4k-8conn", "ext4", FLUSHING, ratios(best=2)),
    Row("memory-stream-write", "1 MiB stream of writes, depth 8", "seq-write-1m-qd8", "tmpfs", STREAMING,
        ratios(fio=0.95, qemu=1.5, qcow2=1.5), unit="MiB/s", in_order=True),
    Row("memory-stream-read", "1 MiB stream of reads, depth 8, cached", "seq-read-1m-qd8", "tmpfs",
        (*STREAMING, NBDKIT), ratios(fio=0.95, qemu=1.5, qcow2=1.5, nbdkit=1.1), unit="MiB/s", warm=True),
    Row("memory-read-latency", "4 KiB random read, depth 1", "rand-read-4k-qd1", "tmpfs", LATENCY_PEERS,
        ratios(LATENCY, best=0.6), warm=True),
    Row("memory-write-latency", "4 KiB random write, depth 1", "rand-write-4k-qd1", "tmpfs", LATENCY_PEERS,
        ratios(LATENCY, best=0.6)),
    Row("memory-read", "4 KiB random read, depth 32", "rand-read-4k-qd32", "tmpfs", SMALL_ON_TMPFS,
        ratios(nbdkit=1.3, qemu=2.5, null=0.85), warm=True),
    Row("memory-write", "4 KiB random write, depth 32", "rand-write-4k-qd32", "tmpfs", SMALL_ON_TMPFS,
        ratios(nbdkit=1.1, qemu=2.5, null=0.85)),
]

# What --quick measures: the rows by id, against fewer.
QUICK = {
    "disk-read": (CAIRN, FIO, QEMU),
    "disk-write": (CAIRN, NBDKIT, QCOW2),
    "disk-flush": (CAIRN, NBDKIT),
    "memory-read": (CAIRN, NBDKIT, NULL),
    "memory-write": (CAIRN, NBDKIT, NULL),
}
BY_ID = {row.id: row for row in ROWS}
