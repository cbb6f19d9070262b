"""Where a process's time goes, by tools that look at it from outside.

perf says which system calls the kernel works for, and what is left for the program itself; py-spy which of the
program's functions are at work; strace how often each system call is made. Only strace slows the process down, and it
only counts.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.needs import need

FREQUENCY = 5000
"""Samples that perf takes in a second of the process's time."""
LOOKS = 500
"""Times in a second that py-spy looks at the process, which it stops for that."""
OWN = "the program itself"
OTHER = "the kernel besides: interrupts, page faults"

_ENTRY = re.compile("do_syscall_64|el0_svc")
_DECORATION = re.compile("^_*(GI_*)?(libc_)?")
_NAMES = {
    "eventfd": "eventfd2",
    "fstatat64": "newfstatat",
    "preadv64v2": "preadv2",
    "pwritev64v2": "pwritev2",
    "recv": "recvfrom",
    "restore_rt": "rt_sigreturn",
    "send": "sendto",
}
"""Functions of the C library that have another name than their system call."""


class ProfileError(Exception):
    """A tool may not look at a process here, or found nothing."""


class Function(NamedTuple):
    """How much of the time a function was at work."""

    alone: float
    """A share of 1: in itself and in the system calls that it made."""
    with_others: float
    """And in what it called."""


def system_calls(pid: int, work: Callable[[], object]) -> Counter[str]:
    """How often a process makes each system call because of some work."""
    with tempfile.NamedTemporaryFile("r") as told:
        command = [str(need("strace", "strace")), "-c", "-f", "-U", "calls,name", "-o", told.name, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            attached = strace.stderr.readline()
            if "attached" not in attached:
                raise ProfileError(attached.strip())
            work()
            strace.send_signal(signal.SIGINT)
            strace.stderr.read()
        return counted(told)


def counted(lines: Iterable[str]) -> Counter[str]:
    """What strace has counted, by system call."""
    cells = (line.split() for line in lines)
    return Counter(
        {name: int(calls) for calls, name in (c for c in cells if len(c) == 2 and c[0].isdigit()) if name != "total"}
    )


def times(pid: int, seconds: float, phases: Sequence[Callable[[], object]]) -> list[dict[str, float]]:
    """For what a process had the processor while phases of some work were done in turns, over and over.

    For each phase shares of 1, by system call. Raises ProfileError where the kernel does not show what it does itself.
    """
    if not sees_kernel():
        raise ProfileError("perf shows what the kernel does to root alone; or set kernel.perf_event_paranoid to 1")
    began: list[float] = []

    def work() -> None:
        for phase in phases:
            began.append(time.monotonic())
            phase()

    with tempfile.TemporaryDirectory() as directory:
        samples = str(Path(directory) / "samples")
        perf = str(need("perf", "linux-perf"))
        what = ["-g", "-k", "mono", "-e", "cpu-clock", "-F", str(FREQUENCY), "-p", str(pid)]
        _meanwhile([perf, "record", "-q", "-o", samples, *what, "--", "sleep", str(seconds)], work)
        script = [perf, "script", "-i", samples, "-F", "time,ip,sym,dso"]
        told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    counts = [Counter[str]() for _ in phases]
    for sample in told.strip().split("\n\n"):
        at, _, stack = sample.strip().partition("\n")
        counts[(bisect(began, float(at.strip(" :"))) - 1) % len(phases)][purpose(stack)] += 1
    return list(map(shares, counts))


def sees_kernel() -> bool:
    """Whether perf may look into the kernel for us."""
    return os.geteuid() == 0 or int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) <= 1


def purpose(stack: str) -> str:
    """What the processor is at work for, as a sample's stack says, innermost first."""
    frames = [frame.split(None, 1)[1] for frame in stack.strip().splitlines()]
    outside = next((i for i, frame in enumerate(frames) if "([kernel" not in frame), len(frames))
    if not outside:
        return OWN
    if outside == len(frames) or not any(_ENTRY.match(frame) for frame in frames[:outside]):
        return OTHER
    # The C library's function that made the call.
    name = _DECORATION.sub("", frames[outside].partition(" ")[0])
    return _NAMES.get(name, name)


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Of all, the largest first."""
    total = sum(counts.values())
    return {name: n / total for name, n in sorted(counts.items(), key=lambda item: -item[1])}


def functions(pid: int, seconds: int, work: Callable[[], object]) -> dict[str, Function]:
    """Which Python functions are at work while some work is done over and over, the busiest first."""
    with tempfile.TemporaryDirectory() as directory:
        stacks = Path(directory) / "stacks"
        spy = str(Path(sys.executable).with_name("py-spy"))
        command = [spy, "record", "-p", str(pid), "-d", str(seconds), "-r", str(LOOKS), "-f", "raw", "-o", str(stacks)]
        _meanwhile(command, work)
        return by_function(stacks.read_text().splitlines())


def by_function(stacks: Iterable[str]) -> dict[str, Function]:
    """Of lines as `outermost (file:1);innermost (file:2) 17`, by `innermost (file)`."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        names = [re.sub(r":\d+\)$", ")", frame) for frame in frames.split(";")]
        alone[names[-1]] += int(count)
        within.update(dict.fromkeys(names, int(count)))
    total = alone.total()
    return {name: Function(share, within[name] / total) for name, share in shares(alone).items()}


def _meanwhile(command: Sequence[str], work: Callable[[], object]) -> None:
    """Does the work again and again until the command ends."""
    with tempfile.TemporaryFile("w+") as told, subprocess.Popen(command, stdout=told, stderr=told) as tool:
        while tool.poll() is None:
            work()
        if tool.returncode:
            told.seek(0)
            raise ProfileError(f"{Path(command[0]).name}: {told.read().strip()}")
