"""The processes that this one has started, those that these have, and how none of them outlives it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PARENT_DEATH, _SUBREAPER = 1, 36
"""PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of prctl(2)."""


def adopt_orphans() -> None:
    """From now on the workers of a famezd that was killed are ours to wait for, and not init's."""
    _prctl(_SUBREAPER, 1)


def die_with_parent() -> None:
    """From now on this process is killed when the one that forked it ends."""
    _prctl(_PARENT_DEATH, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def parent(pid: int) -> int:
    """The parent of a process, 0 if there is no such process."""
    try:
        # The name, in parentheses, may have any character in it.
        return int(Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    """A process's children, zombies included."""
    return [child for child in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(child) == pid]


def kill_descendants() -> None:
    """Kills every process that this one has started, and those that these have; all are left to be waited for."""
    parents = {pid: parent(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
    found = {os.getpid()}
    while more := {pid for pid, by in parents.items() if by in found} - found:
        found |= more
    for pid in found - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_descendants() -> None:
    """Ends every process that this one has started, and those that these have; ours alone are their orphans."""
    while found := children(os.getpid()):
        for pid in found:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
