"""What a process uses, as /proc has it now."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Indexes of the fields that come after the program's name, which may contain anything; see proc(5), stat.
_USER, _SYSTEM, _STARTED = 11, 12, 19


@dataclass(frozen=True)
class ProcessView:
    """A process at one moment."""

    cpu: float
    """Seconds of processor time that it has used."""
    started: float
    """When, in seconds of the real-time clock."""
    resident: int
    """Bytes of its memory that are in RAM."""
    private: int
    """Those of them that it shares with no file: what it would free by ending."""
    descriptors: int
    """How many it has open."""
    descriptors_limit: float
    """How many it may have open, infinite without a limit."""


def look_at_process(pid: int) -> ProcessView | None:
    """What process `pid` uses; None if it is gone, or another user's."""
    try:
        stat = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
        _, resident, shared = map(int, _read(f"/proc/{pid}/statm").split()[:3])
        folder = f"/proc/{pid}/fd"
        # Since Linux 6.2 the folder's size is the number of its entries.
        descriptors = os.stat(folder).st_size or len(os.listdir(folder))
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except (OSError, ValueError, IndexError):
        # Of one that has ended and is not reaped yet some files are empty.
        return None
    return ProcessView(
        cpu=(int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS,
        started=_booted() + int(stat[_STARTED]) / _TICKS,
        resident=resident * _PAGE,
        private=(resident - shared) * _PAGE,
        descriptors=descriptors,
        descriptors_limit=float("inf") if limit == resource.RLIM_INFINITY else limit,
    )


def _read(path: str) -> bytes:
    """A file of /proc, whole; half as long as through Python's files, of which a scrape would read hundreds."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


@cache
def _booted() -> float:
    """When the system was started, in seconds of the real-time clock."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("btime "))
