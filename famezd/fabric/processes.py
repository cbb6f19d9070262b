"""Peers' processes, as the kernel tells of them: what they are called, and how many descriptors they can take."""

from __future__ import annotations

import os
import resource

DEFAULT_LIMIT = 1024
"""The soft limit of descriptors that is assumed where a peer's own cannot be read."""
DEFAULT_OPEN = 64
"""The open descriptors that are assumed where a peer's own cannot be counted: a QEMU has about 40."""


def soft_limit(pid: int) -> int:
    """A process's soft limit of open files; the customary one where it cannot be looked up."""
    if pid <= 0:
        # To prlimit, 0 would be this process.
        return DEFAULT_LIMIT
    try:
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except PermissionError:
        return _limit_from_proc(pid)
    except ProcessLookupError:
        return DEFAULT_LIMIT
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


def _limit_from_proc(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/limits") as limits:
            for line in limits:
                if line.startswith("Max open files"):
                    soft = line.split()[3]
                    return 1 << 30 if soft == "unlimited" else int(soft)
    except OSError:
        pass
    return DEFAULT_LIMIT


def program(pid: int) -> str:
    """The name of a process, which it can choose, "" where that cannot be read."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as name:
            return name.read().removesuffix("\n")
    except OSError:
        return ""


def open_descriptors(pid: int) -> int:
    """How many descriptors a process has open; what a QEMU has where that cannot be seen."""
    folder = f"/proc/{pid}/fd"
    try:
        # Since Linux 6.2 the folder's size is the number of its entries.
        return os.stat(folder).st_size or len(os.listdir(folder))
    except OSError:
        return DEFAULT_OPEN
